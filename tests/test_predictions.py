"""The table of predictions: what it accepts, its file, and how a network fills it."""

import math
import os
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import Transformer, certain, names, random_images, random_predictions, small_network
from torch import nn
from torch.nn import functional as F

from cifar_utils.data import CIFAR10_CLASSES
from cifar_utils.evaluation.inference import fingerprint, outputs, predict
from cifar_utils.evaluation.predictions import Predictions


def even(count: int, classes: int = 10) -> np.ndarray:
    return np.full((count, classes), 1 / classes, np.float32)


# What is in it


@pytest.mark.parametrize("true,predicted,accuracy", [(9, 9, 1.0), (9, 0, 0.0)])
def test_one_image(true, predicted, accuracy):
    p = certain([true], [predicted])
    assert p.accuracy == accuracy and str(p) == "1 test image"


@pytest.mark.parametrize(
    "probability,loss", [(1.0, 0.0), (0.5, math.log(2)), (0.1, math.log(10)), (0.0, -math.log(1e-12))]
)
def test_the_loss(probability, loss):
    p = certain([4, 7], [4, 7], probability) if probability >= 0.1 else certain([4, 7], [5, 8])
    assert p.loss == pytest.approx(loss, rel=1e-6, abs=1e-12)
    assert not str(p.loss).startswith("-")


@pytest.mark.parametrize("classes", [2, 100])
def test_the_loss_of_guessing(classes):
    p = Predictions(range(3), [0, 1, 1], even(3, classes), classes=names(classes))
    assert p.loss == pytest.approx(math.log(classes)) and p.predicted.tolist() == [0, 0, 0]


def test_of_equal_probabilities_the_first_class_wins():
    probabilities = even(2)
    probabilities[1] = [0, 0, 0.5, 0, 0, 0, 0.5, 0, 0, 0]
    p = Predictions(np.arange(2), np.array([2, 6]), probabilities, classes=names(10))
    assert p.predicted.tolist() == [0, 2] and not p.correct.any()


def test_confidence_is_the_probability_of_the_predicted_class():
    assert certain([0, 1], [1, 1], 0.75).confidence.tolist() == [0.75, 0.75]


def test_a_title_names_split_and_source():
    p = certain([1] * 1200, [1] * 1200)
    assert str(p) == "1,200 test images"
    for source, words in (("SAMPLE", "SAMPLE, "), ("CIFAR-10", "CIFAR-10: "), ("birds", "birds: ")):
        assert str(replace(p, source=source, split="validation")) == f"{words}1,200 validation images"
    assert "accuracy 100.00%" in repr(p)


def test_select_keeps_everything_else():
    p = random_predictions(0, 20, "validation", 4, source="birds", model="abc")
    q = p.select(p.labels == 1)
    assert (q.split, q.source, q.model, q.classes) == ("validation", "birds", "abc", names(4))
    assert (q.labels == 1).all() and len(q) == (p.labels == 1).sum() > 0


# What it refuses


def refused(
    match, index=range(3), labels=(0, 1, 2), probabilities=None, predicted=None, classes=CIFAR10_CLASSES, **about
):
    with pytest.raises(ValueError, match=match):
        Predictions(np.array(index), np.array(labels), probabilities, predicted, classes=classes, **about)


def test_bad_input_ends_in_one_clear_error():
    ok = even(3)
    refused("differ in length: index 3, labels 3, predicted 2, probabilities 2", probabilities=even(2))
    refused("differ in length", labels=(0, 1), probabilities=ok)
    refused(r"labels\[1\] is 10; each must be a whole number from 0 to 9", labels=(0, 10, 2), probabilities=ok)
    refused(r"labels\[2\] is 2; .* from 0 to 1", predicted=[0, 1, 1], classes=("cat", "dog"))
    refused(r"labels\[0\] is -1", labels=(-1, 0, 2), probabilities=ok)
    refused(r"predicted\[2\] is 2.5", predicted=[0, 1, 2.5])
    refused(r"predicted\[0\] is nan", predicted=[math.nan, 1, 2])
    refused(r"predicted\[1\] is 1000000000000000000000", predicted=[0, 10**21, 2])
    refused(r"predicted\[0\] is 'cat'", predicted=["cat", "dog", "cat"])
    refused(r"labels has the shape \[3, 1\]", labels=[[0], [1], [2]], probabilities=ok)
    refused(r"shape \[3, 9\]; \[number of images, 10\]", probabilities=ok[:, :9])
    refused("row 1 sum to 0.9 instead of 1", probabilities=np.where(np.eye(3, 10, k=-1) == 1, 0, ok) * [[1], [1], [1]])
    for bad in (math.nan, math.inf, -0.1, 1.5):
        wrong = ok.copy()
        wrong[2, 3] = bad
        refused(f"row 2 has a probability of {bad:g}; they go from 0 to 1", probabilities=wrong)
    refused("numbers, one per image and class", probabilities=[["a"] * 10] * 3)
    refused("image 5 appears more than once", index=(4, 5, 5), probabilities=ok)
    refused("both are missing")
    refused("the table is empty", index=[], labels=[], predicted=[])
    refused(r"predicted\[0\] is True", predicted=[True, False, True])
    refused("no split 'Test'", predicted=[0, 1, 2], split="Test")
    for classes in ((), ("cat",), ("cat", "cat"), "cats", (0, 1)):
        refused("two or more different names", predicted=[0, 1, 2], classes=classes)


def test_logits_are_recognized():
    refused("are these logits", probabilities=np.random.default_rng(0).normal(0, 3, (3, 10)))


def test_probabilities_that_contradict_the_predicted_class_are_refused():
    p = random_predictions(0, 30)
    for forged in ((p.predicted + 1) % 10, p.labels):
        with pytest.raises(ValueError, match="contradicts itself: predicted .*, but .* is the most probable"):
            replace(p, predicted=forged)
    ties = even(3)
    assert Predictions(range(3), [0, 1, 2], ties, [7, 8, 9], classes=names(10)).predicted.tolist() == [7, 8, 9]


@pytest.mark.parametrize("source", ["CIFAR-10", "SAMPLE"])
def test_an_index_beyond_the_set_is_refused(source):
    p = certain([1, 2], [1, 2])
    for split, size in (("test", 10_000), ("training", 50_000), ("validation", 50_000)):
        replace(p, index=[0, size - 1], source=source, split=split)
        with pytest.raises(ValueError, match=f"no {split} image {size:,}: CIFAR-10 has {size:,}"):
            replace(p, index=[0, size], source=source, split=split)
    assert replace(p, index=[0, 60_000], source="birds").source == "birds"


def test_sixteen_bit_probabilities_are_welcome():
    for classes in (10, 1000):
        p = random_predictions(0, classes=classes)
        half = Predictions(p.index, p.labels, p.probabilities.astype(np.float16), p.predicted, classes=p.classes)
        assert abs(half.loss - p.loss) < 0.02


def test_classes_alone_have_no_loss():
    p = Predictions(np.arange(3), np.array([0, 1, 2]), predicted=[0, 1, 1], classes=names(10))
    assert p.accuracy == pytest.approx(2 / 3)
    for needs in (lambda: p.loss, lambda: p.confidence):
        with pytest.raises(ValueError, match="classes only"):
            needs()


# From elsewhere


def test_predictions_of_any_model():
    dataset = random_images(20)
    labels = dataset.labels.tolist()
    p = random_predictions(1, 20).probabilities
    for values in (
        labels,
        np.array(labels, np.uint8),
        [CIFAR10_CLASSES[c] for c in labels],
        np.array(labels, float),
        dataset.labels,
        dataset.labels.int(),
    ):
        mine = Predictions.from_array(values, dataset)
        assert mine.accuracy == 1 and mine.probabilities is None and (mine.index == dataset.index.numpy()).all()
        assert (mine.source, mine.split, mine.classes) == ("made up", "test", CIFAR10_CLASSES)
    for values in (p.tolist(), p, torch.from_numpy(p).requires_grad_()):
        assert (Predictions.from_array(values, dataset).probabilities == p).all()
    one_hot = F.one_hot(dataset.labels, 10).bfloat16()
    assert Predictions.from_array(one_hot, dataset).accuracy == 1
    assert Predictions.from_array(labels, random_images(20, split="validation")).split == "validation"


@pytest.mark.parametrize(
    "values,match",
    [
        ([1] * 19, "19 predictions for made up: 20 test images: one per image"),
        ([], "0 predictions"),
        (3, "one value for made up"),
        (["cat"] * 19 + ["lynx"], "'lynx' is not a class; the classes are airplane, "),
        ([[1, 2]] * 20, r"shape \[20, 2\]"),
        ([None] * 20, "None is not a class"),
        (np.zeros((20, 10, 1)), "predicted has the shape"),
        ([3 + 4j] * 20, "each must be a whole number"),
    ],
)
def test_what_does_not_fit_the_data_set(values, match):
    with pytest.raises(ValueError, match=match):
        Predictions.from_array(values, random_images(20))
    with pytest.raises(ValueError, match="a data.Dataset is needed, .* not a list"):
        Predictions.from_array(values, [1, 2])


# The file


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 30),
    classes=st.sampled_from([2, 10, 37]),
    known=st.booleans(),
    as_text=st.booleans(),
)
def test_a_saved_table_comes_back_as_it_was(tmp_path_factory, seed, count, classes, known, as_text):
    p = random_predictions(seed, count, "validation", classes)
    if not known:
        p = replace(p, probabilities=None)
    path = tmp_path_factory.mktemp("table") / "new" / "predictions.csv"
    p.save(str(path) if as_text else path)
    q = Predictions.load(str(path) if as_text else path)
    assert q.split == "validation" and [path.name] == [f.name for f in path.parent.iterdir()]
    assert q.classes == p.classes
    for name in ("index", "labels", "predicted", "probabilities"):
        a, b = getattr(p, name), getattr(q, name)
        assert (a is None and b is None) or ((a == b).all() and a.dtype == b.dtype)


def test_the_file_is_plain(tmp_path):
    certain([3], [5], 0.91).save(tmp_path / "p.csv")
    header, row = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "split,index,true,predicted," + ",".join(CIFAR10_CLASSES)
    assert row.startswith("test,0,3,5,0.0099999")
    Predictions([7], [3], predicted=[5], classes=("a", "b", "c", "d", "e", "f")).save(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "test,7,3,5,,,,,,"


STRANGE = ("猫, wild", 'the "dog"', "été $\\frac$", "=1+1", "split")


def test_the_file_is_utf8_in_every_locale(tmp_path):
    """Written and read in a process whose own encoding is ASCII."""
    code = f"""
from pathlib import Path
from cifar_utils.evaluation.predictions import Predictions
p = Predictions([0, 1], [0, 1], predicted=[1, 1], classes={STRANGE!r})
p.save(Path("p.csv"))
assert Predictions.load("p.csv").classes == p.classes
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    root = Path(__file__).parent.parent
    environment["PYTHONPATH"] = str(root)
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True)
    assert Predictions.load(tmp_path / "p.csv").classes == STRANGE
    assert "猫" in (tmp_path / "p.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda t: "", "is not a table of predictions"),
        (lambda t: "a,b\n1,2\n", "its first line is not split,index,true,predicted"),
        (lambda t: t.replace("test,1,", "test,"), "line 3: 14 entries"),
        (lambda t: t.replace("test,1,", "validation,1,"), "line 3: 14 entries of one split"),
        (lambda t: t.replace("test,", "tests,"), "no split 'tests'"),
        (lambda t: t.replace("test,1,", "test,x,"), "invalid literal"),
        (lambda t: t.replace("test,1,3", "test,1,13"), r"labels\[1\] is 13"),
        (lambda t: t.replace("test,1,3,5", "test,1,3,6"), "row 1 contradicts itself: predicted frog, but dog"),
        (lambda t: t.replace("test,1,", "test,99999999999999999999,"), r"index\[1\] is 99999999999999999999"),
        (lambda t: t.replace("0.75", "0.5"), "sum to 0.75 instead of 1"),
        (lambda t: t.replace("0.75", "nan"), "probability of nan"),
        (lambda t: t.replace("0.75", ""), "could not convert"),
        (lambda t: t.splitlines()[0], "the table is empty|shape"),
        (lambda t: t.replace("airplane", "cat"), "different names"),
        (lambda t: "\x00\x01" + t, "is not a table"),
        (lambda t: t.replace("0.75", "9" * 200_000), "is not a table"),
    ],
)
def test_a_bad_file_ends_in_one_clear_error(tmp_path, change, match):
    path = tmp_path / "p.csv"
    certain([3, 3], [3, 5], 0.75).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=match) as error:
        Predictions.load(path)
    assert str(path) in str(error.value)


def test_a_byte_order_mark_is_no_harm(tmp_path):
    path = tmp_path / "p.csv"
    certain([3, 3], [3, 5], 0.75).save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Predictions.load(path).labels.tolist() == [3, 3]


@settings(max_examples=200)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=5), array=st.booleans()
)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path_factory, places, array):
    path = tmp_path_factory.getbasetemp() / ("damaged.npy" if array else "damaged.csv")
    dataset = random_images(4)
    probabilities = random_predictions(1, 4).probabilities
    Predictions.from_array(probabilities, dataset).save(path)
    if array:
        np.save(path, probabilities)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        assert len(Predictions.load(path, dataset)) == 4
    except ValueError as error:
        assert str(path) in str(error)


def test_what_is_no_table(tmp_path):
    (tmp_path / "p.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="is not a table"):
        Predictions.load(tmp_path / "p.csv")
    with pytest.raises(ValueError, match="there is no file .*absent.csv"):
        Predictions.load(tmp_path / "absent.csv")
    paths = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
        paths.append(tmp_path / "pipe")
    for path in paths:
        with pytest.raises(ValueError, match="is not a file"):
            Predictions.load(path)


def test_a_table_is_checked_against_the_images(tmp_path):
    dataset = random_images(20)
    p = Predictions.from_array(dataset.labels, dataset)
    path = tmp_path / "p.csv"
    p.select(np.random.default_rng(0).permutation(20)).save(path)
    loaded = Predictions.load(path, dataset)
    assert loaded.source == "made up" and sorted(loaded.index) == sorted(p.index)

    def refused_file(match, forged: Predictions, images=dataset):
        forged.save(path)
        with pytest.raises(ValueError, match=match) as error:
            Predictions.load(path, images)
        assert str(path) in str(error.value)

    refused_file("true classes are not those of made up: 20 test images", replace(p, labels=(p.labels + 1) % 10))
    refused_file("not for exactly the images of", replace(p, index=p.index + 1))
    refused_file("not for exactly the images of", p.select(np.arange(19)))
    refused_file("not for exactly the images of", replace(p, split="validation"))
    refused_file("classes are not those of", replace(p, classes=names(10)[::-1]))
    with pytest.raises(ValueError, match="a data.Dataset is needed"):
        Predictions.load(path, dataset.images)


def test_an_array_in_a_file(tmp_path):
    dataset, path = random_images(20), tmp_path / "p.npy"
    probabilities = random_predictions(1, 20).probabilities
    np.save(path, probabilities)
    assert (Predictions.load(path, dataset).probabilities == probabilities).all()
    np.save(path, dataset.labels.numpy())
    assert Predictions.load(path, dataset).accuracy == 1
    with pytest.raises(ValueError, match="which images it is of"):
        Predictions.load(path)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 10), }"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HUGE.ljust(117).encode() + b"\n",
        b"\x93NUMPY\x01\x00"
        + (118).to_bytes(2, "little")
        + HUGE.replace("1000000000", "9" * 30).ljust(117).encode()
        + b"\n",
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HUGE.replace("<f4", "|O").ljust(117).encode() + b"\n" * 99,
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HUGE.replace("<f4", "x").ljust(117).encode() + b"\n",
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HUGE.replace("1000000000", "-1").ljust(117).encode(),
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + b"os.system('true')".ljust(118),
        b"cat,dog\n",
        b"PK\x03\x04 no archive",
    ],
)
def test_a_bad_array_is_refused_before_anything_is_allocated(tmp_path, content):
    path = tmp_path / "p.npy"
    path.write_bytes(content)
    images = random_images()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not an array|is an archive|predictions for") as error:
            Predictions.load(path, images)
        assert tracemalloc.get_traced_memory()[1] < 1e6  # the peak, in bytes
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)


def test_an_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "p.npz", a=np.zeros(3))
    (tmp_path / "p.npz").rename(tmp_path / "p.npy")
    with pytest.raises(ValueError, match="archive of arrays"):
        Predictions.load(tmp_path / "p.npy", random_images())


def test_an_interrupted_save_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "p.csv"
    certain([3], [5]).save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            certain([1, 2], [1, 2]).save(path)
    assert path.read_bytes() == before
    certain([1, 2], [1, 2]).save(path)  # what the interrupted one left behind is in nobody's way
    assert len(Predictions.load(path)) == 2


def test_a_table_is_never_written_through_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "p.csv").symlink_to(target)
    certain([3], [5]).save(tmp_path / "p.csv")
    assert target.read_text() == "mine" and not (tmp_path / "p.csv").is_symlink()


# From a network


def networks() -> dict:
    def sequential():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    def group_norm():
        first = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveMaxPool2d(1)
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(8, 10))

    return {
        "small": small_network,
        "flatten and linear": sequential,
        "group norm": group_norm,
        "transformer": Transformer,
        "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
        "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        "compiled": lambda: torch.compile(small_network(), backend="eager"),
        "no parameters": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), Pad()),
    }


class Pad(nn.Module):
    def forward(self, x):
        return F.pad(x, (0, 10 - x.shape[1]))[:, :10]


@pytest.fixture(params=networks(), scope="module")
def any_network(request):
    torch.manual_seed(0)
    return networks()[request.param]()


def test_predictions_are_those_of_the_network_without_augmentation(any_network):
    dataset = random_images()
    any_network.train()
    p = predict(any_network, dataset)
    inner = getattr(any_network, "_orig_mod", any_network).eval()
    with torch.no_grad():
        expected = inner(dataset.images / 255).softmax(1)
    assert p.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert p.probabilities.dtype == np.float32 and p.split == "test" and p.source == "made up"
    assert p.probabilities.sum(1) == pytest.approx(np.ones(20), abs=1e-6)
    assert (p.index == dataset.index.numpy()).all() and (p.labels == dataset.labels.numpy()).all()
    assert p.model == fingerprint(any_network) and len(p.model) == 64


@pytest.mark.parametrize("mode", [True, False])
def test_predict_leaves_every_network_as_found(any_network, mode):
    any_network.train(mode)
    next(iter(any_network.children()), any_network).train(not mode)  # a participant may have frozen a part
    modes = [module.training for module in any_network.modules()]
    before = {name: tensor.clone() for name, tensor in any_network.state_dict().items()}
    predict(any_network, random_images(), tta=True)
    assert [module.training for module in any_network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in any_network.state_dict().items())
    assert all(p.grad is None for p in any_network.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("classes,size", [(2, 16), (100, 64), (12, 33)])
def test_any_classes_and_any_size(classes, size):
    dataset = random_images(12, classes, size)
    for tta in (False, True):
        p = predict(small_network(classes), dataset, tta=tta)
        assert p.probabilities.shape == (12, classes) and p.classes == dataset.classes


def test_the_network_is_handed_floats_from_0_to_1():
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3)) @ torch.ones(3, 10)

    dataset = random_images()
    dataset.images[0, 0, 0, 0], dataset.images[0, 0, 0, 1] = 0, 255
    predict(Look(), dataset, batch_size=8)
    assert [len(x) for x in seen] == [8, 8, 4] and all(x.dtype == torch.float32 for x in seen)
    assert seen[0].min() == 0 and seen[0].max() == 1 and not any(x.requires_grad for x in seen)


def test_averaging_is_the_mean_over_shifted_images_and_mirror_images():
    network, dataset, calls = small_network(), random_images(), []
    x = dataset.images / 255
    left_up, right_down = (torch.roll(x, (by, by), (2, 3)) for by in (-1, 1))
    left_up[..., 31, :], right_down[..., 0, :] = left_up[..., 29, :], right_down[..., 2, :]  # reflected at the edge
    left_up[..., 31], right_down[..., 0] = left_up[..., 29], right_down[..., 2]

    def both_ways(images):
        return (network(images) + network(images.flip(3))) / 2

    with torch.no_grad():
        network.eval()
        expected = (both_ways(x) / 2 + both_ways(left_up) / 4 + both_ways(right_down) / 4).softmax(1)
    network.register_forward_hook(lambda *_: calls.append(1))
    p = predict(network, dataset, tta=True)
    assert p.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert len(calls) == 2 + 6  # the first two find out whether mirror images make a difference
    assert p.probabilities != pytest.approx(predict(network, dataset).probabilities, abs=1e-3)


def test_averaging_only_the_least_sure_leaves_the_others_as_they_are():
    network, dataset = small_network(), random_images()
    plain, all_averaged = predict(network, dataset), predict(network, dataset, tta=True)
    some = predict(network, dataset, tta=0.25).probabilities
    order = plain.confidence.argsort(kind="stable")
    unsure, sure = order[:5], order[5:]  # of 20 images
    np.testing.assert_array_equal(some[sure], plain.probabilities[sure])
    np.testing.assert_allclose(some[unsure], all_averaged.probabilities[unsure], atol=1e-6)
    assert (some[unsure] != plain.probabilities[unsure]).any(1).all()


@pytest.mark.parametrize("tta", [-0.1, 1.5, float("nan"), "all"])
def test_a_fraction_beyond_0_to_1_is_refused(tta):
    with pytest.raises(ValueError, match="from 0 to 1"):
        predict(small_network(), random_images(), tta=tta)


class Symmetric(torch.nn.Module):
    """Predicts the same for an image and its mirror image."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, images):
        return self.network(images) + self.network(images.flip(3))


def test_mirror_images_are_left_out_where_they_make_no_difference():
    network, dataset, calls = Symmetric(), random_images(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    found = predict(network, dataset, tta=True).probabilities
    assert len(calls) == 2 + 3

    class Hidden(torch.nn.Module):  # all six views are computed, since the difference is not found in the first images
        def __init__(self):
            super().__init__()
            self.inner = Symmetric()

        def forward(self, images):
            return self.inner(images) + (len(images) == 8) * images[:, 0, 0, :1]

    calls.clear()
    hidden = Hidden()
    hidden.register_forward_hook(lambda *_: calls.append(1))
    np.testing.assert_allclose(found, predict(hidden, dataset, tta=True, batch_size=7).probabilities, atol=1e-5)
    assert len(calls) > 2 + 3


class Viewing(torch.nn.Module):
    """Calls `view` where the features' layout in memory decides whether that is possible."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.convolution(images).view(len(images), 10, -1).mean(2)


def test_a_network_that_calls_view_predicts_as_well():
    network, images = Viewing(), random_images()
    with torch.no_grad():
        expected = network(images.images / 255).softmax(1)
        with pytest.raises(RuntimeError, match="view"):  # the negative control
            network((images.images / 255).contiguous(memory_format=torch.channels_last))
    np.testing.assert_allclose(predict(network, images).probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 10**12])
def test_the_batch_size_does_not_matter(batch_size):
    found = predict(small_network(), random_images(), batch_size=batch_size).probabilities
    np.testing.assert_allclose(found, predict(small_network(), random_images()).probabilities, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -5, 32.0, "8"])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size is .*; it must be a whole number from 1"):
        predict(small_network(), random_images(), batch_size=batch_size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    network, dataset = small_network(), random_images()
    expected = predict(network, dataset).probabilities
    state = torch.cuda.get_rng_state()
    assert predict(network.cuda(), dataset).probabilities == pytest.approx(expected, abs=1e-2)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_a_layer_that_does_more_than_change_its_mode_is_left_as_found():
    """As layers do that merge their weights for evaluation."""

    class Merging(nn.Linear):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    network = nn.Sequential(nn.Flatten(), Merging(3072, 10).requires_grad_(False), nn.Dropout())
    network[2].eval()
    predict(network, random_images())
    assert network[1].training and not network[1].merged and not network[2].training
    network.eval()
    predict(network, random_images())
    assert not network[1].training and network[1].merged


@pytest.mark.parametrize("mode", [True, False])
def test_a_network_that_fails_is_left_as_found(mode):
    network = small_network().train(mode)
    network.norm.train(not mode)
    modes = [module.training for module in network.modules()]
    network.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="division by zero"):
        predict(network, random_images())
    assert [module.training for module in network.modules()] == modes


class Draws(nn.Module):
    """Draws random numbers from every generator, in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, x):
        noise = random.random() + np.random.rand() + torch.rand(len(x), 10)
        return self.network(F.dropout(x, 0.5)) + noise


def test_random_states_are_left_as_found_and_predictions_repeat():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    first = predict(Draws(), random_images())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    torch.manual_seed(6)
    assert (predict(Draws(), random_images()).probabilities == first.probabilities).all()


def test_a_dataset_is_needed():
    dataset = random_images()
    for wrong in (dataset.images, dataset.images.float(), (dataset.images, dataset.labels), None, "photo.jpg"):
        with pytest.raises(ValueError, match=f"a data.Dataset is needed, .* not a {type(wrong).__name__}"):
            predict(small_network(), wrong)
    with pytest.raises(ValueError, match="the model is a Dataset; a torch.nn.Module is needed"):
        predict(dataset, small_network())


class Returns(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.network, self.change = small_network(), change

    def forward(self, x):
        return self.change(self.network(x))


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda x: (x, x), r"returns a tuple; a tensor of logits \[20, 10\] is needed"),
        (lambda x: {"logits": x}, "returns a dict"),
        (lambda x: None, "returns a NoneType"),
        (lambda x: x[:, :7], r"returns the shape \[20, 7\]; logits \[20, 10\] are needed"),
        (lambda x: x[:, 0], r"returns the shape \[20\]"),
        (lambda x: x[:1], r"returns the shape \[1, 10\]"),
        (lambda x: x.T, r"returns the shape \[10, 20\]"),
        (lambda x: x[..., None, None], r"returns the shape \[20, 10, 1, 1\]"),
        (lambda x: x.argmax(1, keepdim=True).expand(-1, 10), "numbers of the type torch.int64"),
        (lambda x: x @ torch.ones(3, 3), r"fails on images of the shape \[20, 3, 32, 32\]: mat1 and mat2"),
        (lambda x: x.missing(), r"fails on images of the shape \[20, 3, 32, 32\]: 'Tensor' object has no attribute"),
    ],
)
def test_outputs_that_are_no_logits_end_in_one_clear_error(change, match):
    with pytest.raises(ValueError, match=match):
        predict(Returns(change), random_images())


def test_images_of_another_size_than_the_network_takes():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(ValueError, match=r"fails on images of the shape \[20, 3, 64, 64\]: mat1 and mat2"):
        predict(network, random_images(size=64))


def test_memory_that_runs_out_is_not_called_a_wrong_network():
    def fail(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        predict(Returns(fail), random_images())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_outputs_that_are_not_finite_name_possible_causes(poison):
    network = small_network()
    with torch.no_grad():
        network.head.weight[3, 4] = poison
    with pytest.raises(FloatingPointError, match="for 20 of 20 images are infinite or .*diverged.*overflows"):
        predict(network, random_images())
    with pytest.raises(FloatingPointError):
        outputs(network, [torch.rand(2, 3, 32, 32)])


def test_a_softmax_at_the_end_is_noticed():
    network = nn.Sequential(small_network(), nn.Softmax(1))
    with pytest.warns(UserWarning, match="outputs are probabilities; leave out the softmax"):
        predict(network, random_images())


def test_half_precision_outputs_are_welcome():
    p = predict(Returns(lambda x: x.bfloat16()), random_images())
    assert p.probabilities == pytest.approx(predict(small_network(), random_images()).probabilities, abs=0.1)


def test_a_compiled_network_is_evaluated_uncompiled():
    calls = []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    network = small_network()
    compiled = torch.compile(network, backend=backend)
    p, q = predict(network, random_images()), predict(compiled, random_images())
    assert (p.probabilities == q.probabilities).all() and p.model == q.model and not calls


def test_the_fingerprint_is_of_the_values():
    network = small_network()
    first = fingerprint(network)
    assert fingerprint(small_network()) == first == fingerprint(network.eval())
    assert fingerprint(small_network(seed=1)) != first
    with torch.no_grad():
        network.norm.running_mean[0] += 1e-6
    assert fingerprint(network) != first
    mixed = nn.Module()
    mixed.a, mixed.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(2, 2).bfloat16()[:, 1])
    assert len(fingerprint(mixed)) == 64
    assert fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
