"""The training loop: what it learns from, what it keeps, what it reports, and how it ends."""

import copy
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import NETWORKS, contents, digest, narrow, network, tiny, train_tiny, without_seconds
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torchvision.transforms import v2

from cifar_utils import checkpoint, overview, plots, runs, train
from cifar_utils.augment import PRESETS
from cifar_utils.evaluation.inference import predict
from cifar_utils.scale.parallel import Sharded
from cifar_utils.train import Shuffle, fit, seeded, sgd, steps, warm_up_and_decay


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five epochs that overfits: its folder, history and network."""
    folder, model = tmp_path_factory.mktemp("runs") / "five", narrow()
    return folder, *train_tiny(folder, model, transform=None, epochs=5, batch_size=16, optimizer=sgd(model, 0.1),
                               figures=True)  # fmt: skip


def digests(images):
    return {hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images}


def trainer(path):
    return checkpoint.load(path)["states"]["trainer"]


# What it learns


@pytest.mark.parametrize("views", [False, True])
def test_images_come_channels_last_unless_the_model_fails_on_that(tmp_path, views):
    layouts = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3600, 10)

        def forward(self, images):
            if self.training:
                layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            features = self.convolution(images)
            return self.head(features.view(len(images), 3600) if views else features.flatten(1))

    train_tiny(tmp_path, Watching())
    assert layouts[-1] is not views


def test_one_batch_can_be_memorized(tmp_path):
    model = network("no norm")
    history, _ = train_tiny(tmp_path, model, images=32, transform=None, epochs=40, optimizer=sgd(model, 0.1))
    assert history[0]["training_loss"] == pytest.approx(math.log(10), abs=0.1)
    assert history[-1]["training_loss"] < 0.05 and history[-1]["training_accuracy"] == 1


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_bits(tmp_path, threads):
    results = []
    for name, seed, noise in (("a", 1, 5), ("b", 1, 6), ("c", 2, 5)):
        torch.manual_seed(noise)  # what the caller has drawn before does not matter
        history, model = train_tiny(tmp_path / name, network("dropout", 1), seed=seed, threads=threads)
        results.append((without_seconds(history), [digest(tensor) for tensor in model.state_dict().values()]))
    assert results[0] == results[1]
    assert results[0][0][0] != results[2][0][0] and results[0][1] != results[2][1]


PROCESS = """
import sys
import time
from pathlib import Path
from tiny import digest, network, train_tiny, without_seconds
for name in sys.argv[2:]:
    history, model = train_tiny(Path(sys.argv[1], name.replace(" ", "_")), network(name), epochs=1)
    print(name, without_seconds(history), [digest(tensor) for tensor in model.state_dict().values()], file=sys.stderr)
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_two_processes_for_every_network(tmp_path, monkeypatch, capsys):
    """In each process, Python hashes text differently and torch's generator starts elsewhere."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "there"), *NETWORKS]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=True).stderr
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "here"), *NETWORKS])
    capsys.readouterr()
    exec(PROCESS, {})
    here = [line for line in capsys.readouterr().err.splitlines() if line.startswith(tuple(NETWORKS))]
    assert here == [line for line in there.splitlines() if line.startswith(tuple(NETWORKS))]
    assert len(here) == len(NETWORKS)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"resnet18", "mobilenet"}))  # these: test_whole_way.py
def test_every_network_trains_is_resumed_bit_for_bit_and_loaded(tmp_path, name):
    through, model = train_tiny(tmp_path / "through", network(name))
    for _ in range(2):
        history, resumed = train_tiny(tmp_path / "stopped", network(name), stop_after=3)
    assert without_seconds(history) == without_seconds(through)
    assert [digest(t) for t in resumed.state_dict().values()] == [digest(t) for t in model.state_dict().values()]
    loaded = runs.load(tmp_path / "stopped", network(name, seed=9), "last")
    predictions = predict(loaded, tiny(32, "validation"))
    assert predictions.loss == pytest.approx(history[-1]["validation_loss"], rel=1e-5) and not loaded.training


@pytest.mark.slow
def test_a_compiled_network_trains_and_its_checkpoint_is_one_of_the_plain_network(tmp_path, monkeypatch):
    compiled = torch.compile(narrow(), backend="eager")
    history, _ = train_tiny(tmp_path / "compiled", compiled)
    plain, _ = train_tiny(tmp_path / "plain")
    assert without_seconds(history) == without_seconds(plain)
    predictions = predict(runs.load(tmp_path / "compiled", narrow(5), "last"), tiny(32, "validation"))
    assert predictions.accuracy == history[-1]["validation_accuracy"]


def test_only_training_images_are_augmented_and_learned_from(tmp_path, monkeypatch):
    augmented, predicted, evaluated = [], [], []

    def spy_predict(model, dataset, *rest):
        predicted.append(dataset)
        return predict(model, dataset, *rest)

    def spy_forward(module, args):
        if not module.training and len(args[0]) > 3:  # not the two or three images of a check
            assert not torch.is_grad_enabled()
            evaluated.append(args[0])

    def spy_transform(images):
        augmented.append(images)
        return images

    monkeypatch.setattr(train, "predict", spy_predict)
    model = narrow()
    model.register_forward_pre_hook(spy_forward)
    train_tiny(tmp_path, model, transform=spy_transform)
    assert digests(torch.cat(augmented)) == digests(tiny().images)
    assert not digests(tiny().images) & digests(tiny(32, "validation").images)
    assert [dataset.split for dataset in predicted] == ["validation"] * 2
    assert [len(images) for images in evaluated] == [32, 32]
    for images in evaluated:  # each validation image as it is
        torch.testing.assert_close(images, tiny(32, "validation").images / 255, rtol=0, atol=0)


def test_training_does_not_depend_on_the_validation_images(tmp_path):
    """No gradient from them: with other validation images the trained model is the same."""
    models = [narrow(), narrow()]
    for model, count in zip(models, (8, 24)):
        fit(model, tiny(32), tiny(count, "validation"), epochs=1, batch_size=32, run=tmp_path / str(count))
    tensors, others = (model.state_dict() for model in models)
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_training_loss_and_accuracy_are_those_of_the_augmented_batches(tmp_path):
    """Checked against the same epoch computed by hand; with a learning rate of 0 the model stays as it is."""
    policy, model = PRESETS["full"], narrow()
    twin = copy.deepcopy(model).train()
    options = {"transform": policy, "epochs": 1, "batch_size": 24, "seed": 3, "optimizer": sgd(model, 0.0)}
    history, _ = train_tiny(tmp_path, model, **options)
    dataset, losses, correct = tiny(), [], []
    for batch in Shuffle(64, 24, seed=3).epoch(0):
        logits = twin(policy(dataset.images[batch], dataset.index[batch], epoch=0, seed=3)).detach().double()
        true = logits.gather(1, dataset.labels[batch][:, None])[:, 0]
        losses += (logits.exp().sum(1).log() - true).tolist()
        correct += (logits.argmax(1) == dataset.labels[batch]).tolist()
    assert len(losses) == 64
    assert history[0]["training_loss"] == pytest.approx(sum(losses) / 64, rel=1e-5)
    assert history[0]["training_accuracy"] == pytest.approx(sum(correct) / 64)
    assert history[0]["learning_rate"] == 0


@pytest.mark.parametrize("mix", [v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)], ids=["MixUp", "CutMix"])
def test_soft_labels_are_trained_with_and_reported(tmp_path, mix):
    seen = []

    def loss(logits, labels):
        seen.append(labels)
        return nn.functional.cross_entropy(logits, labels)

    history, _ = train_tiny(tmp_path, transform=[PRESETS["light"], mix], loss=loss)
    assert all(labels.shape[1] == 10 and torch.allclose(labels.sum(1), torch.ones(len(labels))) for labels in seen)
    assert all(math.isfinite(row["training_loss"]) and 0 <= row["training_accuracy"] <= 1 for row in history)


# The pieces


@pytest.mark.parametrize("n,batch_size", [(64, 32), (65, 32), (127, 32), (5, 1), (5, 100), (1, 1)])
def test_an_epochs_batches_have_every_image_once_and_nearly_equal_sizes(n, batch_size):
    shuffle = Shuffle(n, batch_size, seed=4)
    batches = shuffle.epoch(2)
    sizes = [len(batch) for batch in batches]
    assert torch.cat(batches).sort().values.tolist() == list(range(n))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert len(batches) == shuffle.total_steps(1) and shuffle.total_steps(7) == 7 * len(batches)


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = [torch.cat(Shuffle(64, size, seed).epoch(e)).tolist() for size, seed, e in ((8, 0, 0), (32, 0, 0), (8, 0, 1), (8, 1, 0))]  # fmt: skip # noqa: E501
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3


def test_the_history_has_the_learning_rate_of_each_epochs_last_step(run):
    _, history, _ = run
    optimizer = sgd(narrow(), 0.1)
    scheduler, rates = warm_up_and_decay(optimizer, 20), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [row["learning_rate"] for row in history] == pytest.approx(rates[3::4])
    assert rates[0] == pytest.approx(0.1 / 4) and max(rates) == pytest.approx(0.1) and 0 < rates[-1] < 0.01
    assert optimizer.param_groups[0]["lr"] == 0


def test_only_matrices_and_filters_decay():
    model = narrow()
    groups = sgd(model).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("per,rates", [("step", [0.1, 0.01]), ("epoch", [1, 0.1])])
def test_the_scheduler_steps_as_often_as_it_is_told(tmp_path, per, rates):
    model = narrow()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = MultiStepLR(optimizer, [1, 2] if per == "epoch" else [1, 3])
    history, _ = train_tiny(tmp_path, model, optimizer=optimizer, scheduler=scheduler, scheduler_per=per)
    assert [row["learning_rate"] for row in history] == pytest.approx(rates)


@pytest.mark.parametrize(
    "make,warns",
    [
        (lambda o: StepLR(o, step_size=3), True),
        (lambda o: ExponentialLR(o, 0.1), True),
        (lambda o: MultiStepLR(o, [1, 2]), True),
        (lambda o: PolynomialLR(o, total_iters=3), True),
        (lambda o: SequentialLR(o, [LinearLR(o, total_iters=1), StepLR(o, 1)], [1]), True),
        (lambda o: SequentialLR(o, [LinearLR(o, total_iters=50), StepLR(o, 20)], [50]), False),
        (lambda o: LambdaLR(o, lambda epoch: 0.5**epoch), True),
        (lambda o: LambdaLR(o, lambda epoch: 1 - epoch / 3), True),
        (lambda o: PolynomialLR(o, total_iters=12), False),
        (lambda o: warm_up_and_decay(o, 12), False),
        (lambda o: StepLR(o, step_size=8), False),
        (lambda o: LambdaLR(o, lambda step: 1.0), False),
        (lambda o: ReduceLROnPlateau(o), False),
        (None, False),
    ],
)
def test_a_schedule_that_counts_epochs_but_steps_with_every_batch_is_told(tmp_path, capsys, make, warns):
    model = narrow()
    optimizer = sgd(model)
    options = {"optimizer": optimizer, "scheduler": make(optimizer) if make else None, "batch_size": 16, "epochs": 3}
    state = next(steps(model, tiny(), tiny(32, "validation"), run=tmp_path, **options))
    assert ('add scheduler_per="epoch"' in capsys.readouterr().out) == warns
    assert state.learning_rate > 0, "the schedule itself has not moved"
    if make and not isinstance(options["scheduler"], (PolynomialLR, LambdaLR, SequentialLR)):
        options |= {"optimizer": optimizer, "scheduler": make(optimizer), "scheduler_per": "epoch"}
        next(steps(model, tiny(), tiny(32, "validation"), run=tmp_path / "per epoch", **options))
        assert "scheduler_per" not in capsys.readouterr().out


def test_a_learning_rate_below_0_ends_training_in_a_sentence(tmp_path):
    model = narrow()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda epoch: 1 - epoch / 2)
    with pytest.raises(ValueError, match='sets a learning rate below 0; .* add scheduler_per="epoch"'):
        train_tiny(tmp_path, model, optimizer=optimizer, scheduler=scheduler)


def test_the_last_of_several_schedules_is_checked_too(tmp_path):
    model = narrow()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for length, fits in ((2, False), (3, True)):  # of 4 steps, the first is the warm-up's
        parts = [LinearLR(optimizer, total_iters=1), CosineAnnealingLR(optimizer, T_max=length)]
        options = {"optimizer": optimizer, "scheduler": SequentialLR(optimizer, parts, milestones=[1])}
        with nullcontext() if fits else pytest.raises(ValueError, match="T_max is 2, and it will step 3 times"):
            train_tiny(tmp_path, model, **options)


@pytest.mark.parametrize("per,hint", [("step", True), ("epoch", False)])
def test_a_schedule_that_ends_too_early_is_refused_before_the_first_step(tmp_path, per, hint):
    """It reads a tuple that has no rate for the last count."""
    model = narrow()
    optimizer = sgd(model)
    scheduler = LambdaLR(optimizer, lambda count: (1.0, 0.5)[count])
    with pytest.raises(ValueError, match=f"counts {per}s from 0 to .*: tuple index out of range") as found:
        train_tiny(tmp_path / "run", model, optimizer=optimizer, scheduler=scheduler, scheduler_per=per, epochs=2)
    assert ("scheduler_per" in str(found.value)) == hint and not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [lambda: network("dropout"), narrow], ids=["dropout", "batch norm"])
def test_while_a_widget_predicts_in_another_thread_training_keeps_its_bits(tmp_path, make):
    """Predicting seeds the global generators, and changes the mode of a network that trains."""
    import threading

    def trained(name, beside):
        model, over = make(), threading.Event()
        watcher = threading.Thread(target=lambda: [predict(model, tiny(32)) for _ in iter(over.is_set, True)])
        if beside:
            watcher.start()
        history, _ = train_tiny(tmp_path / name, model, epochs=3)
        over.set()
        if beside:
            watcher.join()
        return without_seconds(history)

    assert trained("alone", False) == trained("beside", True)


def test_a_new_run_with_used_parts_is_refused_or_told(tmp_path, capsys):
    model = narrow()
    optimizer = sgd(model)
    scheduler = warm_up_and_decay(optimizer, 4)
    train_tiny(tmp_path / "first", model, optimizer=optimizer, scheduler=scheduler)
    with pytest.raises(ValueError, match="the scheduler has made 4 steps: make a new one for a new run"):
        train_tiny(tmp_path / "second", model, optimizer=optimizer, scheduler=scheduler)
    assert [run.folder.name for run in overview.find_runs(directory=tmp_path)] == ["first"]
    capsys.readouterr()
    fresh = narrow()
    adam = torch.optim.AdamW(fresh.parameters())
    fresh(torch.rand(2, 3, 32, 32)).sum().backward()
    adam.step()
    train_tiny(tmp_path / "third", fresh, optimizer=adam)
    assert "starts from an optimizer that has trained before" in capsys.readouterr().out
    fresh = narrow()
    train_tiny(tmp_path / "fourth", fresh, optimizer=torch.optim.Adagrad(fresh.parameters()))
    assert "WARNING" not in capsys.readouterr().out


class GlobalShuffle(Shuffle):
    """A sampler as one writes it who does not think of generators."""

    def order(self, epoch):
        return torch.randperm(self.n)


def test_a_sampler_that_draws_from_the_global_generator_is_seeded(tmp_path):
    for number in (0, 1):
        torch.manual_seed(number)  # the caller's generator does not matter
        train_tiny(tmp_path / str(number), narrow(), sampler=GlobalShuffle(64, 16), batch_size=16)
    torch.manual_seed(2)
    train_tiny(tmp_path / "stopped", narrow(), sampler=GlobalShuffle(64, 16), batch_size=16, stop_after=2)
    torch.manual_seed(3)
    train_tiny(tmp_path / "stopped", narrow(), sampler=GlobalShuffle(64, 16), batch_size=16)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "stopped")


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    class WithState(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    model = nn.Sequential(nn.Flatten(), WithState(3 * 32 * 32, 10))
    with pytest.raises(ValueError, match="the model's 1._extra_state is no tensor"):
        train_tiny(tmp_path, model)


def test_a_sampler_brings_its_batch_size(tmp_path):
    for number, given in enumerate((None, 16)):
        run = tmp_path / str(number)
        train_tiny(run, sampler=Shuffle(64, 16), batch_size=given, epochs=1)
        assert runs.about(run, "last")["settings"]["batch_size"] == 16
    with pytest.raises(ValueError, match="batch_size is 8, and the sampler's is 16; leave it out"):
        train_tiny(tmp_path / "other", sampler=Shuffle(64, 16), batch_size=8)


def test_a_relative_run_lies_within_the_project_in_its_notebooks_as_well(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    train_tiny(Path("runs/mine"), epochs=1)
    assert (tmp_path / "runs" / "mine" / runs.LAST).exists()
    for place, name in (("notebooks", "runs/mine"), ("notebooks", "../runs/mine"), (".", "runs/mine")):
        monkeypatch.chdir(tmp_path / place)
        runs.load(name, narrow())


def test_the_usual_schedule_fits_whatever_it_steps_by(tmp_path):
    _, model = train_tiny(tmp_path / "step")
    rates = {}
    for per in ("step", "epoch"):
        history, _ = train_tiny(tmp_path / f"per_{per}", narrow(), epochs=10, scheduler_per=per)
        rates[per] = [row["learning_rate"] for row in history]
    assert max(rates["epoch"]) == pytest.approx(0.1) and max(rates["step"]) > 0.09
    optimizer = sgd(model)
    with pytest.raises(ValueError, match="the scheduler's total_steps is 7, and it will step 4 times"):
        train_tiny(tmp_path / "other", model, optimizer=optimizer, scheduler=warm_up_and_decay(optimizer, 7))


def test_a_scheduler_that_waits_for_a_plateau_gets_the_validation_loss(tmp_path):
    model = narrow()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=0.9)
    history, _ = train_tiny(tmp_path, model, optimizer=optimizer, scheduler=scheduler, epochs=3)
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert scheduler.best == history[0]["validation_loss"]


def test_everything_random_in_a_step_depends_on_seed_epoch_and_step_alone():
    draws = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        with seeded(0, 3, 4):
            draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
    with seeded(0, 3, 5):
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1] and all(a != b for a, b in zip(draws[1], draws[2]))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    train_tiny(tmp_path, network("dropout"), transform=v2.RandomHorizontalFlip())
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_loop_may_evaluate_the_network_between_two_steps(tmp_path):
    """As participants do: the network is back in training mode for the next step."""

    def evaluate(state):
        if state.step == 1:
            for model in models:
                model.eval()

    models = [network("dropout") for _ in range(3)]
    train_tiny(tmp_path / "evaluated", models[0], between=evaluate)
    train_tiny(tmp_path / "inside", Sharded(models[1], 1), between=evaluate)
    train_tiny(tmp_path / "left", models[2])
    assert contents(tmp_path / "evaluated") == contents(tmp_path / "inside") == contents(tmp_path / "left")


# Steering


def test_a_scaled_learning_rate_leaves_the_schedule_itself_alone(tmp_path):
    """OneCycleLR keeps no state but the optimizer's rates and a count: a scale left there would be multiplied in."""
    rates, made = {}, {}
    for scale in (1.0, 0.5):
        model = narrow()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        scheduler, seen = OneCycleLR(optimizer, 1e-2, total_steps=4), []

        def change(state, scale=scale, optimizer=optimizer, seen=seen):
            state.learning_rate_scale = scale
            seen.append(optimizer.param_groups[0]["lr"])

        options = {"optimizer": optimizer, "scheduler": scheduler, "between": change}
        history, _ = train_tiny(tmp_path / str(scale), model, **options)
        rates[scale], made[scale] = seen, [row["learning_rate"] for row in history]
    assert rates[0.5] == rates[1.0]
    assert made[0.5] == pytest.approx([0.5 * rate for rate in made[1.0]])
    states = [checkpoint.load(tmp_path / str(scale) / runs.LAST)["states"] for scale in rates]
    assert not torch.equal(*(state["model"]["1.head.weight"] for state in states))


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_a_learning_rate_scale_that_is_no_factor_is_refused(tmp_path, scale):
    with pytest.raises(ValueError, match="learning_rate_scale"):
        train_tiny(tmp_path, between=lambda state: setattr(state, "learning_rate_scale", scale))


def test_a_scale_that_is_refused_is_not_saved(tmp_path):
    """Set at the first state, before anything is saved: the corrected call trains as if nothing had happened."""

    def at_first(state):
        if state.epochs == 0:
            state.learning_rate_scale = -1.0

    with pytest.raises(ValueError, match="learning_rate_scale"):
        train_tiny(tmp_path, between=at_first)
    history, _ = train_tiny(tmp_path, between=lambda state: setattr(state, "learning_rate_scale", np.float32(0.5)))
    assert len(history) == 2 and {row["learning_rate_scale"] for row in history} == {0.5}


class Counting(nn.Module):
    """A loss that counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, logits, labels):
        self.calls += 1
        return nn.functional.cross_entropy(logits, labels)


def test_the_check_leaves_the_loss_as_it_is(tmp_path):
    loss, steps = Counting(), []
    train_tiny(tmp_path, loss=loss, between=lambda state: steps.append(state.step))
    assert loss.calls == sum(step > 0 for step in steps) > 1


class Noting(Counting):
    """A loss that keeps its last value, which cannot be copied."""

    def forward(self, logits, labels):
        self.last = super().forward(logits, labels)
        return self.last * 1.0


def test_a_loss_that_cannot_be_copied_is_tried_all_the_same(tmp_path):
    loss = Noting()
    for _ in range(2):  # the second time, its last value has a graph
        history, _ = train_tiny(tmp_path, loss=loss)
    assert len(history) == 2


class Annealed(Shuffle):
    """Draws its batches at a temperature, which it changes whenever it is asked."""

    temperature = 1.0

    def epoch(self, epoch):
        self.temperature *= 0.5
        return super().epoch(epoch)[:: 1 if self.temperature > 0.3 else -1]


def test_a_sampler_whose_batches_change_when_it_is_asked_again_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the sampler's epoch\(0\) gives other batches when it is called again"):
        train_tiny(tmp_path, sampler=Annealed(64, 32))


class Drawing(Shuffle):
    """Draws a random number after each step."""

    def record(self, positions, logits, labels):
        self.drawn = [*getattr(self, "drawn", []), torch.rand(()).item()]


def test_what_a_sampler_draws_is_the_runs(tmp_path):
    drawn = []
    for name in "ab":
        sampler = Drawing(64, 32)
        torch.manual_seed(ord(name))
        train_tiny(tmp_path / name, sampler=sampler)
        drawn.append(sampler.drawn)
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == len(drawn[0]) > 1


def test_stop_ends_training_and_saves(tmp_path):
    history, _ = train_tiny(tmp_path, epochs=3, between=lambda state: setattr(state, "stop", state.epochs == 1.5))
    saved = trainer(tmp_path / runs.LAST)
    assert (saved["epoch"], saved["step"]) == (1, 1) and len(history) == 1


def test_a_new_run_from_trained_weights_is_told(tmp_path, capsys):
    _, model = train_tiny(tmp_path / "a")
    assert "trained before" not in capsys.readouterr().out
    train_tiny(tmp_path / "b", model)
    assert "WARNING: this new run starts from weights that have been trained before" in capsys.readouterr().out


def test_a_new_run_from_a_resumed_runs_weights_is_told(tmp_path, capsys):
    train_tiny(tmp_path / "a", stop_after=1)
    _, model = train_tiny(tmp_path / "a")
    assert "trained before" not in capsys.readouterr().out
    train_tiny(tmp_path / "b", model)
    assert "trained before" in capsys.readouterr().out


# What it keeps


def test_best_has_the_lowest_validation_loss_and_last_is_the_last(run):
    folder, history, model = run
    best, last = (trainer(folder / name) for name in (runs.BEST, runs.LAST))
    lowest = min(history, key=lambda row: row["validation_loss"])
    assert 1 < lowest["epoch"] < 5, "this run is meant to overfit; choose another learning rate"
    assert best["epoch"] == lowest["epoch"] and best["history"] == history[: lowest["epoch"]]
    assert last["epoch"] == 5 and last["history"] == history
    tensors = checkpoint.load(folder / runs.LAST)["states"]["model"]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    for which, row in (("best", lowest), ("last", history[-1])):
        predictions = predict(runs.load(folder, narrow(5), which), tiny(32, "validation"))
        assert predictions.loss == pytest.approx(row["validation_loss"], rel=1e-5)
        assert predictions.accuracy == row["validation_accuracy"]


def test_the_history_on_disk_is_the_one_returned(run):
    folder, history, _ = run
    assert json.loads((folder / "history.json").read_text()) == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_time_in_which_the_caller_holds_the_training_does_not_count(tmp_path, monkeypatch):
    """In a notebook, other cells run between two steps of the dashboard's training."""
    now, real = [0.0], time.perf_counter

    def watch():
        now[0] += 1e-3
        return now[0]

    def wait(state):
        now[0] += 1000

    monkeypatch.setattr(time, "perf_counter", watch)
    history, _ = train_tiny(tmp_path / "run", between=wait)
    monkeypatch.setattr(time, "perf_counter", real)
    assert now[0] > 4000 and 0 < history[0]["seconds"] < history[-1]["seconds"] < 10


def test_a_rate_that_was_changed_by_hand_is_in_the_history(tmp_path):
    def double(state):
        state.learning_rate_scale = 2.0 if state.epoch == 1 else 1.0

    history, _ = train_tiny(tmp_path / "run", epochs=3, between=double)
    assert [row["learning_rate_scale"] for row in history] == [1.0, 2.0, 1.0]


def events(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_every_epoch_and_figure(run):
    folder, history, _ = run
    board = events(folder)
    columns = {f"{what}/{split}": f"{split}_{what}" for what in ("loss", "accuracy") for split in ("training", "validation")}  # fmt: skip # noqa: E501
    columns["learning rate"] = "learning_rate"
    assert set(board.Tags()["scalars"]) == set(columns)
    for tag, column in columns.items():
        values = [point.value for point in board.Scalars(tag)]
        assert [point.step for point in board.Scalars(tag)] == [1, 2, 3, 4, 5]
        assert values == pytest.approx([row[column] for row in history], rel=1e-6)
    assert set(board.Tags()["images"]) == {"augmented batch", "confusion matrix, validation"}
    assert [image.step for image in board.Images("augmented batch")] == [0]
    losses = [row["validation_loss"] for row in history]
    records = [n + 1 for n, loss in enumerate(losses) if loss < min(losses[:n], default=math.inf)]
    assert [image.step for image in board.Images("confusion matrix, validation")] == records


def test_a_resumed_run_logs_every_epoch_once(tmp_path):
    train_tiny(tmp_path, epochs=3, stop_after=4)
    history, _ = train_tiny(tmp_path, epochs=3)
    points = events(tmp_path).Scalars("loss/validation")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([row["validation_loss"] for row in history])


def test_a_run_resumed_in_its_first_epoch_keeps_the_augmented_batch(tmp_path):
    train_tiny(tmp_path, stop_after=1)
    train_tiny(tmp_path)
    assert len(events(tmp_path).Images("augmented batch")) == 1


def test_an_old_log_without_a_run_is_not_mixed_with_a_new_one(tmp_path):
    train_tiny(tmp_path, epochs=2)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    train_tiny(tmp_path, epochs=1)
    assert [point.step for point in events(tmp_path).Scalars("loss/validation")] == [1]


# How it ends


@pytest.mark.parametrize("number,epochs,step", [(1, 0, 1), (2, 0, 2), (3, 1, 1), (4, 1, 2)])
def test_the_stop_button_ends_the_batch_and_saves(tmp_path, capsys, number, epochs, step):
    """Pressed while the images of a step are augmented."""

    class Press:
        def at_step(self, images, step):
            if round(step.progress * 6) == number - 1 and len(images) > 3:
                signal.raise_signal(signal.SIGINT)
            return images

    history, _ = train_tiny(tmp_path, transform=Press(), epochs=3)
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    state = trainer(tmp_path / runs.LAST)
    assert (state["epoch"], state["step"], state["history"]) == (epochs, step, history)
    ending = f"Stopped in epoch {epochs + 1} and saved in {tmp_path}. The same call resumes.\n"
    assert capsys.readouterr().out.endswith(ending)


WHILE = {"validating": (train, "predict"), "saving": (checkpoint, "save"), "writing": (runs, "write_json"), "logging": (plots, "grid")}  # fmt: skip # noqa: E501


@pytest.mark.parametrize("doing", WHILE)
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_stop_at_the_end_of_an_epoch_is_heard(tmp_path, monkeypatch, doing, epochs):
    """During validation, saving or logging, of the last epoch as well: nothing is swallowed."""
    (module, name), calls = WHILE[doing], []
    function = getattr(module, name)

    def press(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1 + (doing in ("saving", "writing")):  # both happen at the start as well
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, press)
    states = []
    train_tiny(tmp_path, epochs=epochs, between=states.append)
    assert states[-1].stop is True and states[-1].epoch == 1 == trainer(tmp_path / runs.LAST)["epoch"]


def test_training_that_was_not_stopped_says_so(tmp_path):
    states = []
    train_tiny(tmp_path, epochs=1, between=states.append)
    assert states[-1].stop is False


class Poison:
    """From 3 of 6 steps on, the images are no numbers."""

    def at_step(self, images, step):
        return images / 255 * (math.nan if step.progress >= 0.5 else 1)


def test_a_loss_that_is_no_number_ends_training_before_anything_is_overwritten(tmp_path):
    with pytest.raises(FloatingPointError, match=r"is nan in epoch 2, step 2, at a learning rate of 0\.0\d+"):
        train_tiny(tmp_path, network("flat"), transform=Poison(), epochs=3)
    for name in (runs.BEST, runs.LAST):
        saved = checkpoint.load(tmp_path / name)["states"]
        assert saved["trainer"]["epoch"] == 1
        assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1


def test_without_that_check_it_would_be_noticed_only_at_the_end_of_the_epoch(tmp_path, monkeypatch):
    """The negative control."""
    checked = []
    monkeypatch.setattr(train, "_check_finite", lambda *_: checked.append(1))
    with pytest.raises(FloatingPointError, match="NaN"):
        train_tiny(tmp_path, network("flat"), transform=Poison(), epochs=3)
    assert len(checked) == 4


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    model = narrow()
    with pytest.raises(FloatingPointError, match="epoch 1.*learning rate"):
        train_tiny(tmp_path, model, optimizer=sgd(model, 1e30))
    assert trainer(tmp_path / runs.LAST)["epoch"] == 0
