"""The table of predictions: what it accepts, its file, and how a network fills it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import certain, random_predictions
from tiny import narrow, tiny

from cifar_utils import training
from cifar_utils.data import CLASSES, Normalisation
from cifar_utils.predictions import Predictions, network_outputs, predict


def even(count: int) -> np.ndarray:
    return np.full((count, 10), 0.1, np.float32)


# What it says


@pytest.mark.parametrize("true,predicted,accuracy", [(9, 9, 1.0), (9, 0, 0.0)])
def test_one_image(true, predicted, accuracy):
    assert certain([true], [predicted]).accuracy == accuracy


@pytest.mark.parametrize(
    "probability,loss", [(1.0, 0.0), (0.5, math.log(2)), (0.1, math.log(10)), (0.0, -math.log(1e-12))]
)
def test_the_loss(probability, loss):
    p = certain([4, 7], [4, 7], probability)
    assert p.loss == pytest.approx(loss, rel=1e-6, abs=1e-12)
    assert not str(p.loss).startswith("-")


def test_of_equal_probabilities_the_first_class_wins():
    probabilities = even(2)
    probabilities[1] = [0, 0, 0.5, 0, 0, 0, 0.5, 0, 0, 0]
    p = Predictions(np.arange(2), np.array([2, 6]), probabilities)
    assert p.predicted.tolist() == [0, 2] and not p.correct.any()


def test_confidence_is_the_probability_of_what_is_said():
    assert certain([0, 1], [1, 1], 0.75).confidence.tolist() == [0.75, 0.75]


# What it refuses


def refused(match, index=range(3), labels=(0, 1, 2), probabilities=None, predicted=None):
    with pytest.raises(ValueError, match=match):
        Predictions(np.array(index), np.array(labels), probabilities, predicted)


def test_bad_input_ends_in_one_clear_error():
    ok = even(3)
    refused("differ in length: index 3, labels 3, predicted 2, probabilities 2", probabilities=even(2))
    refused("differ in length", labels=(0, 1), probabilities=ok)
    refused(r"labels\[1\] is 10; each must be a whole number from 0 to 9", labels=(0, 10, 2), probabilities=ok)
    refused(r"labels\[0\] is -1", labels=(-1, 0, 2), probabilities=ok)
    refused(r"predicted\[2\] is 2.5", predicted=[0, 1, 2.5])
    refused(r"predicted\[0\] is nan", predicted=[math.nan, 1, 2])
    refused(r"labels has the shape \[3, 1\]", labels=[[0], [1], [2]], probabilities=ok)
    refused(r"shape \[3, 9\]", probabilities=ok[:, :9])
    refused("row 1 sum to 0.9 instead of 1", probabilities=np.where(np.eye(3, 10, k=-1) == 1, 0, ok) * [[1], [1], [1]])
    for bad in (math.nan, math.inf, -0.1, 1.5):
        wrong = ok.copy()
        wrong[2, 3] = bad
        refused(f"row 2 has a probability of {bad:g}; they go from 0 to 1", probabilities=wrong)
    refused("numbers, ten for each image", probabilities=[["a"] * 10] * 3)
    refused("image 5 appears more than once", index=(4, 5, 5), probabilities=ok)
    refused("there are neither")
    refused("the table is empty", index=[], labels=[], predicted=[])
    refused(r"predicted\[0\] is True", predicted=[True, False, True])


def test_logits_are_recognised():
    refused("are these logits", probabilities=np.random.default_rng(0).normal(0, 3, (3, 10)))


def test_sixteen_bit_probabilities_are_welcome():
    p = random_predictions(0)
    half = Predictions(p.index, p.labels, p.probabilities.astype(np.float16))
    assert abs(half.loss - p.loss) < 0.01


def test_classes_alone_have_no_loss_and_say_so():
    p = Predictions(np.arange(3), np.array([0, 1, 2]), predicted=[0, 1, 1])
    assert p.accuracy == pytest.approx(2 / 3)
    for ask in (lambda: p.loss, lambda: p.confidence):
        with pytest.raises(ValueError, match="classes only"):
            ask()


# From elsewhere


def test_predictions_of_any_model():
    split = tiny(20, "test")
    labels = split.labels.tolist()
    p = random_predictions(1, 20).probabilities
    for values in (labels, np.array(labels, np.uint8), [CLASSES[c] for c in labels], np.array(labels, float)):
        mine = Predictions.of(values, split)
        assert mine.accuracy == 1 and mine.probabilities is None and (mine.index == split.index.numpy()).all()
    assert (Predictions.of(p.tolist(), split).probabilities == p).all()
    assert Predictions.of(labels, tiny(20, "validation")).split == "validation"


@pytest.mark.parametrize(
    "values,match",
    [
        ([1] * 19, "19 predictions for SAMPLE, 20 test images: one for each image"),
        ([], "0 predictions"),
        (3, "one value for SAMPLE"),
        (["cat"] * 19 + ["lynx"], "'lynx' is not a class; the classes are airplane, "),
        ([[1, 2]] * 20, r"shape \[20, 2\]"),
        ([None] * 20, "None is not a class"),
        (np.zeros((20, 10, 1)), "predicted has the shape"),
        ([3 + 4j] * 20, "each must be a whole number"),
    ],
)
def test_what_does_not_fit_the_split(values, match):
    with pytest.raises(ValueError, match=match):
        Predictions.of(values, tiny(20, "test"))


# The file


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 30), known=st.booleans())
def test_a_saved_table_comes_back_as_it_was(tmp_path_factory, seed, count, known):
    p = random_predictions(seed, count, "validation")
    if not known:
        p = Predictions(p.index, p.labels, predicted=p.predicted, split="validation")
    path = tmp_path_factory.mktemp("table") / "new" / "predictions.csv"
    p.save(path)
    q = Predictions.load(path)
    assert q.split == "validation" and [path.name] == [f.name for f in path.parent.iterdir()]
    for name in ("index", "labels", "predicted", "probabilities"):
        a, b = getattr(p, name), getattr(q, name)
        assert (a is None and b is None) or ((a == b).all() and a.dtype == b.dtype)


def test_the_file_is_plain(tmp_path):
    certain([3], [5], 0.91).save(tmp_path / "p.csv")
    header, row = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "split,index,true,predicted," + ",".join(CLASSES)
    assert row.startswith("test,0,3,5,0.0099999")


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda t: "", "is not a table of predictions"),
        (lambda t: "a,b\n1,2\n", "its first line is not split,index,true,predicted"),
        (lambda t: t.replace("test,1,", "test,"), "line 3: 14 entries"),
        (lambda t: t.replace("test,1,", "validation,1,"), "line 3: 14 entries of one split"),
        (lambda t: t.replace("test,1,", "test,x,"), "invalid literal"),
        (lambda t: t.replace("test,1,3", "test,1,13"), r"labels\[1\] is 13"),
        (lambda t: t.replace("0.75", "0.5"), "sum to 0.75 instead of 1"),
        (lambda t: t.replace("0.75", "nan"), "probability of nan"),
        (lambda t: t.splitlines()[0], "the table is empty|shape"),
        (lambda t: "\x00\x01" + t, "is not a table"),
    ],
)
def test_a_bad_file_ends_in_one_clear_error(tmp_path, change, match):
    path = tmp_path / "p.csv"
    certain([3, 3], [3, 5], 0.75).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=match) as error:
        Predictions.load(path)
    assert str(path) in str(error.value)


def test_a_picture_is_no_table(tmp_path):
    (tmp_path / "p.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="is not a table"):
        Predictions.load(tmp_path / "p.csv")


def test_an_interrupted_save_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "p.csv"
    certain([3], [5]).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        certain([1, 2], [1, 2]).save(path)
    assert path.read_bytes() == before


# From a network


@pytest.fixture
def network():
    """A network whose batch norm has statistics of its own."""
    network = narrow()
    with torch.no_grad():
        network(Normalisation.of(tiny())(tiny().images))
    return network


def run(network, **options):
    return predict(network, tiny(20, "test"), Normalisation.of(tiny()), **options)


def test_predictions_are_those_of_the_network_without_augmentation(network):
    split, p = tiny(20, "test"), run(network)
    with torch.no_grad():
        expected = network.eval()(Normalisation.of(tiny())(split.images)).softmax(1)
    assert p.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert p.probabilities.dtype == np.float32 and p.split == "test"
    assert p.probabilities.sum(1) == pytest.approx(np.ones(20), abs=1e-6)
    assert (p.index == split.index.numpy()).all() and (p.labels == split.labels.numpy()).all()


@pytest.mark.parametrize("mirror", [True, False])
def test_averaging_is_the_mean_over_shifted_images_and_where_they_matter_their_mirror_images(mirror):
    normalisation, calls = Normalisation.of(tiny()), []
    network = training.new_network(tiny(), normalisation, widths=(8, 16, 16), mirror=mirror)
    network(normalisation(tiny().images))  # batch norm gets statistics
    x = normalisation(tiny(20, "test").images)
    left_up, right_down = (torch.roll(x, (by, by), (2, 3)) for by in (-1, 1))
    left_up[..., 31, :], right_down[..., 0, :] = left_up[..., 29, :], right_down[..., 2, :]  # reflected at the edge
    left_up[..., 31], right_down[..., 0] = left_up[..., 29], right_down[..., 2]

    def both_ways(images):
        return (network(images) + network(images.flip(3))) / 2

    with torch.no_grad():
        network.eval()
        expected = (both_ways(x) / 2 + both_ways(left_up) / 4 + both_ways(right_down) / 4).softmax(1)
    network.register_forward_hook(lambda *_: calls.append(1))
    p = run(network, averaging=True)
    assert p.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert len(calls) == (3 if mirror else 6)
    assert p.probabilities != pytest.approx(run(network).probabilities, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_the_batch_size_does_not_matter(network, batch_size):
    np.testing.assert_allclose(run(network, batch_size=batch_size).probabilities, run(network).probabilities, atol=1e-5)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_predict_leaves_the_network_as_found(network, mode, fails):
    network.train(mode)
    network.blocks[1].train(not mode)  # a participant may have frozen a part
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if fails:
        network.linear.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(network)
    else:
        run(network)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_network_that_has_diverged_is_named_as_such(network, poison):
    with torch.no_grad():
        network.linear.weight[3, 4] = poison
    with pytest.raises(FloatingPointError, match="not all finite numbers: its training has diverged"):
        run(network)
    with pytest.raises(FloatingPointError):
        network_outputs(network, [torch.zeros(2, 3, 32, 32)])
