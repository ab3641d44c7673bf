"""The training loop: what it learns from, what it keeps, what it reports, and how it ends."""

import copy
import hashlib
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import narrow, tiny, train_tiny

from cifar_utils import checkpoint, optimisers, runs, training
from cifar_utils.augment import augment, draw
from cifar_utils.data import Normalisation
from cifar_utils.policy import PRESETS, Policy
from cifar_utils.predictions import predict
from cifar_utils.selection import batches
from cifar_utils.settings import PROFILES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five epochs that overfits: its folder, history and network."""
    folder = tmp_path_factory.mktemp("runs") / "five"
    sgd = training.PLAIN_SGD | {"learning_rate": 0.4}
    return folder, *train_tiny(folder, Policy(), epochs=5, batch_size=16, skip=0.0, small_sides=(), **sgd)


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """The confusion matrix takes longer to draw than a tiny epoch to train; `run` above has the real one."""
    monkeypatch.setattr(training.evaluation_plots, "confusion_matrix", lambda *_: Figure(figsize=(1, 1)))


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def digests(images):
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in images.contiguous()}


# What it learns


def test_one_batch_can_be_learnt_by_heart(tmp_path):
    network = training.new_network(tiny(32), Normalisation.of(tiny(32)))
    options = {"epochs": 40, "learning_rate": 0.1, "label_smoothing": 0, "small_sides": ()}
    history, _ = train_tiny(tmp_path, Policy(), network, 32, **options)
    assert history[0]["training_loss"] == pytest.approx(math.log(10), abs=0.1)
    assert history[-1]["training_loss"] < 0.05 and history[-1]["training_accuracy"] == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_numbers(tmp_path, threads):
    results = []
    for name, seed, noise in (("a", 1, 5), ("b", 1, 6), ("c", 2, 5)):
        torch.manual_seed(noise)  # whatever the caller has drawn before does not matter
        history, _ = train_tiny(tmp_path / name, network=narrow(1), seed=seed, threads=threads)
        results.append((without_seconds(history), checkpoint.load(tmp_path / name / runs.LAST).tensors))
    for _, tensors in results:
        del tensors["generator"]  # the caller's
    (history, tensors), (again, tensors_again), (other, tensors_other) = results
    assert history == again
    assert all(torch.equal(tensors[name], tensors_again[name]) for name in tensors)
    assert history[0]["training_loss"] != other[0]["training_loss"]
    assert not torch.equal(tensors["model.linear.weight"], tensors_other["model.linear.weight"])


def test_only_training_images_are_augmented_and_learnt_from(tmp_path, monkeypatch):
    training_images, validation = digests(tiny().images), tiny(32, "validation")
    augmented, predicted, evaluated = [], [], []

    def spy_augment(images, *rest):
        augmented.append(images)
        return augment(images, *rest)

    def spy_predict(network, split, *rest):
        predicted.append(split)
        return predict(network, split, *rest)

    def spy_forward(module, args):
        if not module.training:
            assert not torch.is_grad_enabled()
            evaluated.append(args[0])

    monkeypatch.setattr(training, "augment", spy_augment)
    monkeypatch.setattr(training, "predict", spy_predict)
    network = narrow()
    network.register_forward_pre_hook(spy_forward)
    train_tiny(tmp_path, network=network)
    assert digests(torch.cat(augmented)) == training_images
    assert not training_images & digests(validation.images)
    assert [split.name for split in predicted] == ["validation"] * 2
    for seen in evaluated:  # the network sees each validation image as it is, only normalised
        torch.testing.assert_close(seen, Normalisation.of(tiny())(validation.images), rtol=0, atol=0)
    assert len(evaluated) == 2


def test_training_does_not_depend_on_the_validation_images(tmp_path):
    """No gradient from them: with other validation images the network that comes out is the same."""
    networks = [narrow(), narrow()]
    for network, count in zip(networks, (8, 24)):
        config, validation = training.Config(epochs=1, batch_size=32), tiny(count, "validation")
        training.train(network, tiny(), validation, Policy(), config, Normalisation.of(tiny()), tmp_path / str(count))
    tensors, others = (network.state_dict() for network in networks)
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_training_loss_and_accuracy_are_those_of_the_augmented_batches(tmp_path):
    policy, network = PRESETS["full"], narrow()
    twin = copy.deepcopy(network).train()
    history, _ = train_tiny(
        tmp_path, policy, network, epochs=1, batch_size=24, learning_rate=0.0, seed=3, small_sides=((24, 0.5),)
    )
    split, losses, hits = tiny(), [], []
    mean, std = Normalisation.of(split).tensors()
    for batch, side in zip(batches(64, training.Config(batch_size=24, seed=3), 0, torch.zeros(64)), (24, 32)):
        out = torch.empty(24, 3, side, side)  # small pictures in the first half of the steps
        x = augment(split.images[batch], draw(policy, 3, 0, split.index[batch]), policy, mean, std, out)
        logits = twin(x).detach().double()
        true = logits.gather(1, split.labels[batch][:, None])[:, 0]
        losses += (logits.exp().sum(1).log() - true).tolist()
        hits += (logits.argmax(1) == split.labels[batch]).tolist()
    assert len(losses) == 48  # two whole batches of 24; the other 16 images are left out
    assert history[0]["training_loss"] == pytest.approx(sum(losses) / 48, rel=1e-5)
    assert history[0]["training_accuracy"] == pytest.approx(sum(hits) / 48)
    assert history[0]["learning_rate"] == 0


# The pieces


def test_the_pictures_are_small_at_first():
    config = training.Config(small_sides=((16, 0.2), (20, 0.5)))
    assert [training.side_at(step, 10, config) for step in range(10)] == 2 * [16] + 3 * [20] + 5 * [32]
    assert {training.side_at(step, 9, training.Config(small_sides=())) for step in range(9)} == {32}


def test_the_history_has_the_learning_rate_of_the_schedule(run):
    _, history, _ = run
    expected = [0.4 * optimisers.learning_rate_factor(4 * epoch - 1, 20, 0.2) for epoch in range(1, 6)]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected)


def test_a_new_network_leaves_the_global_random_numbers_alone(monkeypatch):
    def forbidden(*_):
        raise AssertionError("the GPUs' generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbidden)
    split = tiny()
    torch.default_generator.manual_seed(9)
    before = torch.get_rng_state()
    one, two, other = (training.new_network(split, Normalisation.of(split), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.linear.weight, two.linear.weight)
    assert not torch.equal(one.linear.weight, other.linear.weight)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_its_own_configuration_for_the_sample(name):
    config = training.Config.of(PROFILES[name], tiny(), seed=5)
    assert (config.epochs, config.batch_size, config.seed) == (PROFILES[name].sample_epochs, 250, 5)
    assert config.skip == 0


@pytest.mark.parametrize("name", PROFILES)
def test_on_the_full_set_only_the_full_profile_meets_every_whole_image_in_every_epoch(name):
    config = training.Config.of(PROFILES[name], replace(tiny(), is_sample=False), seed=5)
    assert (config.epochs, config.batch_size, config.seed) == (
        PROFILES[name].epochs,
        2000 if name == "full" else 500,
        5,
    )
    assert (config.skip, config.label_smoothing) == ((0, 0.2) if name == "full" else (0.5, 0))
    assert (training.side_at(0, 100, config) == 32) == (name == "full")


# What it keeps


def test_best_has_the_lowest_validation_loss_and_last_is_the_last(run):
    folder, history, network = run
    best, last = (checkpoint.load(folder / name).meta["state"] for name in (runs.BEST, runs.LAST))
    lowest = min(history, key=lambda row: row["validation_loss"])
    assert 1 < lowest["epoch"] < 5, "this run is meant to overfit; choose another learning rate"
    assert best["epoch"] == lowest["epoch"] and best["history"] == history[: lowest["epoch"]]
    assert last["epoch"] == 5 and last["history"] == history
    tensors = checkpoint.load(folder / runs.LAST).tensors
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in network.state_dict().items())
    for name, row in ((runs.BEST, lowest), (runs.LAST, history[-1])):
        restored, normalisation, _ = training.restore(folder / name)
        predictions = predict(restored, tiny(32, "validation"), normalisation)
        assert predictions.loss == pytest.approx(row["validation_loss"], rel=1e-5)
        assert predictions.accuracy == row["validation_accuracy"]


def test_the_history_on_disk_is_the_one_returned(run):
    folder, history, _ = run
    assert json.loads((folder / "history.json").read_text()) == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[0] > 0


def events(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_every_epoch_and_picture(run):
    folder, history, _ = run
    board = events(folder)
    columns = {
        f"{what}/{split}": f"{split}_{what}" for what in ("loss", "accuracy") for split in ("training", "validation")
    }
    columns["learning rate"] = "learning_rate"
    assert set(board.Tags()["scalars"]) == set(columns)
    for tag, column in columns.items():
        assert [point.step for point in board.Scalars(tag)] == [1, 2, 3, 4, 5]
        assert [point.value for point in board.Scalars(tag)] == pytest.approx(
            [row[column] for row in history], rel=1e-6
        )
    assert set(board.Tags()["images"]) == {"augmented batch", "confusion matrix, validation"}
    assert [image.step for image in board.Images("augmented batch")] == [0]
    losses = [row["validation_loss"] for row in history]
    records = [
        row["epoch"] for i, row in enumerate(history) if row["validation_loss"] < min(losses[:i], default=math.inf)
    ]
    assert [image.step for image in board.Images("confusion matrix, validation")] == records


def test_a_resumed_run_logs_every_epoch_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, (training, "augment"), 4)
        train_tiny(tmp_path, epochs=3)
    history, _ = train_tiny(tmp_path, epochs=3)
    points = events(tmp_path).Scalars("loss/validation")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([row["validation_loss"] for row in history])


def test_a_run_resumed_in_its_first_epoch_keeps_the_augmented_batch(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, (training, "augment"), 1)
        train_tiny(tmp_path)
    train_tiny(tmp_path)
    assert len(events(tmp_path).Images("augmented batch")) == 1


def test_an_old_log_without_a_run_is_not_mixed_with_a_new_one(tmp_path):
    train_tiny(tmp_path, epochs=2)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    train_tiny(tmp_path, epochs=1)
    assert [point.step for point in events(tmp_path).Scalars("loss/validation")] == [1]


# How it ends


def interrupt(monkeypatch, where, call):
    """Presses the stop button in the so-manieth call of a function that training calls."""
    module, name = where
    original, calls = getattr(module, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapper)


@pytest.mark.parametrize(
    "where,call,epochs,step",
    [
        ((training, "augment"), 1, 0, 1),
        ((training, "augment"), 2, 0, 2),
        ((training, "augment"), 3, 1, 1),
        ((training, "augment"), 4, 1, 2),
        ((training, "predict"), 1, 1, 1),
        ((training.evaluation_plots, "confusion_matrix"), 1, 1, 1),
        ((training.checkpoint, "save"), 3, 1, 1),
    ],
)
def test_the_stop_button_ends_the_batch_and_saves(tmp_path, monkeypatch, capsys, where, call, epochs, step):
    interrupt(monkeypatch, where, call)
    history, _ = train_tiny(tmp_path, Policy(), epochs=3, learning_rate=0.1)
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    state = checkpoint.load(tmp_path / runs.LAST).meta["state"]
    assert (state["epoch"], state["step"], state["history"]) == (epochs, step, history)
    ending = f"Stopped in epoch {epochs + 1} and saved in {tmp_path}. Run this again to go on.\n"
    assert capsys.readouterr().out.endswith(ending)


def test_a_loss_that_is_no_number_ends_training_before_anything_is_overwritten(tmp_path, monkeypatch):
    calls = []

    def poisoned(*args):
        calls.append(1)
        return augment(*args) * (math.nan if len(calls) == 4 else 1)  # the last batch of epoch 2

    monkeypatch.setattr(training, "augment", poisoned)
    with pytest.raises(FloatingPointError, match=r"is nan in epoch 2, step 2, at a learning rate of 0\.0\d+"):
        train_tiny(tmp_path, epochs=3)
    for name in (runs.BEST, runs.LAST):
        saved = checkpoint.load(tmp_path / name)
        assert saved.meta["state"]["epoch"] == 1
        assert all(tensor.isfinite().all() for tensor in saved.tensors.values())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1


def test_without_that_check_it_would_be_noticed_only_at_the_end_of_the_epoch(tmp_path, monkeypatch):
    """The negative control."""
    steps = []
    monkeypatch.setattr(training, "_check_finite", lambda *_: steps.append(1))
    monkeypatch.setattr(training, "augment", lambda *arguments: augment(*arguments) * math.nan)
    with pytest.raises(FloatingPointError, match="outputs are not all finite numbers"):
        train_tiny(tmp_path)
    assert len(steps) == 2


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 1.*learning rate"):
        train_tiny(tmp_path, learning_rate=1e30)
    assert checkpoint.load(tmp_path / runs.LAST).meta["state"]["epoch"] == 0
