"""A run's folder: what it remembers, what fits it and what is refused, in words and before anything is changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections import deque
from dataclasses import dataclass
from functools import cache, partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import run_cell
from tiny import contents, digest, narrow, network, tiny, train_tiny
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torchvision import transforms as v1
from torchvision.transforms import v2

from cifar_utils import checkpoint, identity, runs
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.evaluation.inference import predict
from cifar_utils.models import Normalize
from cifar_utils.speedrun.resizing import ProgressiveResizing
from cifar_utils.speedrun.selection import DropEasiest
from cifar_utils.train import Shuffle, fit, sgd, steps
from cifar_utils.words import words_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; tests get copies of it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped in its second epoch."""
    train_tiny(tmp_path / "stopped", stop_after=3)
    return tmp_path / "stopped"


def change(run: Path, edit, name: str = runs.LAST) -> None:
    """Edits a checkpoint and signs it anew, as no accident could; its backup goes."""
    saved = checkpoint.load(run / name)
    edit(saved)
    checkpoint.save(run / name, saved)
    checkpoint.previous(run / name).unlink(missing_ok=True)


def bits(model) -> dict:
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


def refused(run: Path, words: str, **options) -> None:
    """Neither loaded nor resumed, and the model keeps its weights."""
    for use in (lambda model: runs.load(run, model, "last"), lambda model: train_tiny(run, model, **options)):
        model = narrow(5)
        before = bits(model)
        with pytest.raises(CheckpointError, match=words) as error:
            use(model)
        assert bits(model) == before and str(error.value).endswith(".")


# Loading


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_loaded_model_is_in_eval_mode_and_predicts_the_same(run, which):
    model = narrow(5).train()
    assert runs.load(run, model, which) is model
    assert not any(module.training for module in model.modules())
    row = runs.about(run, which)["history"][-1]
    assert predict(model, tiny(32, "validation")).loss == pytest.approx(row["validation_loss"], rel=1e-5)


def test_test_images_one_by_one_are_predicted_like_all_at_once(run):
    """In training mode, batch norm would see one image at a time, and forget its statistics."""
    model = runs.load(str(run), narrow(5))
    before, images = bits(model), tiny(12, "test").images / 255
    with torch.no_grad():
        one_by_one = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(one_by_one, model(images))
    assert bits(model) == before


def test_the_best_is_loaded_by_default(run):
    def add_one(saved):
        saved["logits"] += 1
        saved["states"]["model"]["1.head.bias"] += 1

    change(run, add_one, runs.BEST)
    biases = [runs.load(run, narrow(), *which)[1].head.bias.detach() for which in ((), ("best",), ("last",))]
    assert torch.equal(biases[0], biases[1]) and not torch.equal(biases[0], biases[2])


@pytest.mark.parametrize("which", ["first", "best.safetensors", None])
def test_there_are_two_checkpoints_to_load(run, which):
    with pytest.raises(ValueError, match="'best' and a 'last'"):
        runs.load(run, narrow(), which)


def test_a_run_tells_about_itself(run):
    about = runs.about(run, "last")
    assert about["epoch"] == 2 and about["history"] == json.loads((run / "history.json").read_text())
    settings, data = about["settings"], about["settings"]["data"]
    assert (settings["model"], settings["epochs"], settings["batch_size"], settings["seed"]) == ("SmallCNN", 2, 32, 0)
    assert repr(PRESETS["full"]) in settings["transform"] and settings["optimizer"]["defaults"]["lr"] == 0.1
    assert (data["title"], data["source"], data["size"]) == ("SAMPLE, 64 training images", "SAMPLE", 32)
    assert data["validation"] == tiny(32, "validation").fingerprint() and data["seed"] == 0
    assert data["classes"][3] == "cat"
    assert about["environment"]["torch"] == torch.__version__
    assert json.loads((run / "run.json").read_text())["id"] == about["run"]


def test_a_missing_run_says_what_to_do(tmp_path):
    for use in (runs.about, lambda run: runs.load(run, narrow())):
        with pytest.raises(CheckpointError, match="There is no checkpoint .*Train first"):
            use(tmp_path / "nothing")


# A model that does not fit


@pytest.mark.parametrize(
    "edit,words",
    [
        (lambda model: model.pop("1.head.weight"), "the model's 1.head.weight is not in the file"),
        (lambda model: model.update(extra=torch.ones(1)), "extra is not a part of it"),
        (
            lambda model: model.update({"1.head.weight": torch.ones(10, 3)}),
            r"1.head.weight is \[10, 3\] float32 in the file and \[10, 16\] float32 in the model",
        ),
        (lambda model: model.update({"1.head.bias": torch.ones(10).double()}), "float64 in the file"),
        (lambda model: model["1.head.bias"].fill_(torch.nan), "NaN or infinite weights in 1.head.bias"),
        (lambda model: model["1.head.bias"].fill_(-torch.inf), "NaN or infinite weights in 1.head.bias"),
        (lambda model: model["0.mean"].fill_(torch.nan), "does not fit this model"),
        (lambda model: model["1.head.bias"].add_(1), "it computes something else"),
    ],
    ids=range(8),
)
def test_tensors_that_do_not_fit_are_refused_before_the_model_is_touched(run, edit, words):
    change(run, lambda saved: edit(saved["states"]["model"]))
    refused(run, words)


def test_without_the_check_the_model_would_be_changed_before_the_error(run):
    """The negative control: load_state_dict copies what fits, and only then complains."""
    state, model = checkpoint.load(run / runs.LAST)["states"]["model"], narrow(5)
    before = bits(model)
    with pytest.raises(RuntimeError):
        model.load_state_dict(state | {"1.head.weight": torch.ones(10, 3)})
    assert bits(model) != before


def rebuilt(seed: int = 5, activation=nn.ReLU, pool=nn.MaxPool2d):
    """The narrow network, with other layers that have no tensors."""
    model = narrow(seed)
    for block in model[1].blocks:
        block[1], block[3], block[6] = pool(2), activation(), activation()
    return model


@pytest.mark.parametrize("layers", [{"activation": nn.GELU}, {"activation": nn.SiLU}, {"pool": nn.AvgPool2d}], ids=str)
@pytest.mark.parametrize("epochs", [1, 8])
def test_a_model_that_computes_something_else_with_the_same_tensors_is_refused(tmp_path, layers, epochs):
    """Soon after the start, too, when batch norm's statistics let little through."""
    train_tiny(tmp_path, epochs=epochs, images=32)
    optimizers = []
    for use in ("load", "resume"):
        model = rebuilt(**layers)
        before, optimizer = bits(model), sgd(model)
        optimizers.append(optimizer)
        message = "computes something else" if use == "load" else "the model is built otherwise \\(an activation"
        with pytest.raises(CheckpointError, match=message):
            if use == "load":
                runs.load(tmp_path, model, "last")
            else:
                train_tiny(tmp_path, model, epochs=epochs, images=32, optimizer=optimizer)
        assert bits(model) == before and not optimizer.state


def test_the_same_model_built_anew_is_not_refused(run):
    """The negative control."""
    runs.load(run, rebuilt(), "last")


def test_a_model_that_fails_with_the_runs_images_is_refused(tmp_path):
    """It has the same tensors, and takes images of another size."""

    def model(side):
        return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(192, 10))

    train_tiny(tmp_path, model(8))
    other = model(4)
    before = bits(other)
    with pytest.raises(CheckpointError, match="computes something else"):
        runs.load(tmp_path, other)
    assert bits(other) == before


def test_dropout_may_change_after_training(tmp_path):
    """What a model computes in eval mode is compared."""
    train_tiny(tmp_path, network("dropout"))
    model = network("dropout", 5)
    model[1][3].p = 0.1
    runs.load(tmp_path, model)


# A file that does not fit


@pytest.mark.parametrize("name", ["epoch", "step", "steps_per_epoch"])
@pytest.mark.parametrize("value", ["3", -1, None, 2.0, True, [2]], ids=repr)
def test_a_signed_state_with_a_wrong_count_is_refused(run, name, value):
    change(run, lambda saved: saved["states"]["trainer"].update({name: value}))
    with pytest.raises(CheckpointError, match="not a checkpoint of a training run|does not fit this trainer"):
        train_tiny(run)


@pytest.mark.parametrize("name", ["seconds", "learning_rate", "learning_rate_scale", "sums"])
@pytest.mark.parametrize("value", ["3", -1.0, None, float("nan"), [2]], ids=repr)
def test_a_signed_state_with_a_wrong_number_is_refused(run, name, value):
    change(run, lambda saved: saved["states"]["trainer"].update({name: value}))
    with pytest.raises(CheckpointError, match="does not fit this trainer"):
        train_tiny(run)


@pytest.mark.parametrize("history", ["ab", None, 2, [], [1, 2], [{}, {}], {"a": 1, "b": 2}], ids=repr)
def test_a_signed_state_with_a_wrong_history_is_refused(run, history):
    change(run, lambda saved: saved["states"]["trainer"].update(history=history))
    with pytest.raises(CheckpointError, match="not a checkpoint of a training run|does not fit this trainer"):
        train_tiny(run)


PARTS = ["states", "settings", "environment", "run", "logits"]
WRONG = [{}, {"unknown": 1}, None, "text", 3]


@pytest.mark.parametrize(
    "part,value",  # another environment is only a warning
    [(part, value) for part in PARTS for value in WRONG if part != "environment" or not isinstance(value, dict)],
    ids=repr,
)
def test_a_whole_file_that_is_not_of_a_run_is_refused(run, part, value):
    change(run, lambda saved: saved.update({part: value}))
    refused(run, "not a checkpoint of a training run|belongs to another run")


@pytest.mark.parametrize("size", [10**6, 15, 257, -32, "32", None, True, 32.5], ids=repr)
def test_a_size_that_no_images_have_is_refused_before_any_are_made_up(run, size):
    change(run, lambda saved: saved["settings"]["data"].update(size=size))
    refused(run, "not a checkpoint of a training run")


@pytest.mark.parametrize("missing", PARTS)
def test_a_file_without_a_part_is_refused(run, missing):
    change(run, lambda saved: saved.pop(missing))
    refused(run, "not a checkpoint of a training run")


@pytest.mark.parametrize("part", ["model", "trainer", "optimizer", "scheduler", "sampler"])
def test_a_state_without_a_part_is_refused(run, part):
    change(run, lambda saved: saved["states"].pop(part))
    with pytest.raises(CheckpointError, match="not a checkpoint of a training run|does not fit this"):
        train_tiny(run)


def test_a_damaged_run_is_refused_and_the_model_is_left_alone(run):
    (run / runs.LAST).write_bytes((run / runs.LAST).read_bytes()[:-1])
    checkpoint.previous(run / runs.LAST).unlink()
    refused(run, "cut off, damaged")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [runs.LAST, runs.BEST, "run.json"])
def test_a_pipe_in_the_folder_is_refused_at_once(run, name):
    checkpoint.previous(run / name).unlink(missing_ok=True)
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(CheckpointError):
        runs.load(run, narrow(), "last" if name == runs.LAST else "best")


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"id": 3}', "[" * 100_000, "\0"], ids=range(6))
def test_a_damaged_run_json_is_refused_in_words(run, text):
    (run / "run.json").write_text(text)
    loaded = "belongs to another run than its folder|run.json is missing or damaged. Copy the whole folder of the run"
    refused(run, f"{loaded}|run.json, which ties the checkpoints to this folder")
    assert (run / "run.json").read_text() == text  # so that nothing stands in the way of a copy


# One run, one folder


@pytest.fixture
def other(tmp_path):
    """Another run, of the same settings."""
    train_tiny(tmp_path / "other", seed=0)
    return tmp_path / "other"


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_of_another_run_is_refused(run, other, which):
    name = {"best": runs.BEST, "last": runs.LAST}[which]
    shutil.copy(other / name, run / name)
    with pytest.raises(CheckpointError, match="belongs to another run than its folder"):
        runs.load(run, narrow(), which)
    if which == "last":
        refused(run, "belongs to another run")


def test_a_new_run_in_the_folder_of_a_deleted_one_has_its_own_identifier(run, tmp_path):
    """So that the old best, put back, is not taken for the new one."""
    (run / runs.BEST).rename(tmp_path / "old")
    for path in run.glob("*.safetensors"):
        path.unlink()
    train_tiny(run, seed=3)
    (tmp_path / "old").rename(run / runs.BEST)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        runs.load(run, narrow())


def test_a_whole_run_may_be_moved_and_copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    run.rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        runs.load(tmp_path / name, narrow())
        assert len(train_tiny(tmp_path / name, epochs=2)[0]) == 2


def test_without_its_last_a_run_is_neither_resumed_nor_overwritten(run):
    before = (run / runs.BEST).read_bytes()
    for path in (run / runs.LAST, checkpoint.previous(run / runs.LAST)):
        path.unlink()
    with pytest.raises(CheckpointError, match="holds best.safetensors of a run whose last.safetensors is missing"):
        train_tiny(run)
    assert (run / runs.BEST).read_bytes() == before
    runs.load(run, narrow(), "best")


def test_without_its_best_a_run_is_not_resumed(run):
    """Its best epoch may be over: training on would end without a best model, or with the wrong one."""
    for path in (run / runs.BEST, checkpoint.previous(run / runs.BEST)):
        path.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"has lost its best.safetensors\. Load its last model, or train in"):
        train_tiny(run)
    runs.load(run, narrow(), "last")


def test_a_damaged_best_falls_back_on_its_backup(tmp_path, capsys):
    train_tiny(tmp_path, network("GroupNorm"), epochs=2)
    assert checkpoint.previous(tmp_path / runs.BEST).exists(), "this run is meant to improve twice"
    (tmp_path / runs.BEST).write_bytes(b"damaged")
    runs.load(tmp_path, network("GroupNorm", 5))
    assert "WARNING" in capsys.readouterr().out and runs.about(tmp_path)["epoch"] == 1


def test_a_damaged_best_without_a_backup_says_what_to_do(run):
    checkpoint.previous(run / runs.BEST).unlink(missing_ok=True)
    (run / runs.BEST).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"best.safetensors is cut off, .* Train again in another folder\.$"):
        runs.load(run, narrow())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_deleted_while_training_ends_it_at_the_next_save(tmp_path, replaced):
    """Never two runs in one folder: the best of one beside the last of another."""
    folder = tmp_path / "run"

    def delete(state):
        if state.epochs == 1 and not state.history:
            shutil.rmtree(folder)
            if replaced:
                train_tiny(folder, seed=7)

    with pytest.raises(CheckpointError, match="was deleted or replaced while this training wrote there"):
        train_tiny(folder, between=delete)
    if replaced:
        train_tiny(tmp_path / "alone", seed=7)
        assert contents(folder) == contents(tmp_path / "alone")
    else:
        assert not list(folder.glob("*.safetensors"))


def test_the_owner_is_who_trains_now(stopped):
    path = stopped / "run.json"
    found = json.loads(path.read_text())
    assert f"process {os.getpid()}, since " in found["owner"]
    path.write_text(json.dumps(found | {"owner": "someone on a machine of yesterday"}))
    train_tiny(stopped)
    again = json.loads(path.read_text())
    assert f"process {os.getpid()}, since " in again["owner"]
    assert {k: v for k, v in again.items() if k != "owner"} == {k: v for k, v in found.items() if k != "owner"}


# Links, permissions, left-overs


NAMES = [runs.LAST, runs.BEST, "last.previous.safetensors", "last.safetensors.tmp", ".last.safetensors.x.tmp", "run.json", "history.json", ".history.json.x.tmp", ".lock"]  # fmt: skip # noqa: E501


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_written_through_a_link(tmp_path, name, exists):
    """In a folder of several accounts, a link could lead anywhere: it is replaced, or the run is refused."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    if exists:
        victim.write_text("mine")
    (run / name).symlink_to(victim)
    try:
        train_tiny(run, epochs=1)
    except CheckpointError as error:
        assert str(run) in str(error)
    assert victim.read_text() == "mine" if exists else not victim.exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_the_umask_decides_who_may_read_a_run(tmp_path):
    before = os.umask(0o027)
    try:
        train_tiny(tmp_path / "run", epochs=1)
    finally:
        os.umask(before)
    for name in (runs.LAST, runs.BEST, "run.json", "history.json"):
        assert (tmp_path / "run" / name).stat().st_mode & 0o777 == 0o640, name


@pytest.mark.parametrize("name", ["history.json", "run.json", "tensorboard/events.1", "notes/thesis.tex"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    """Training would write over it, and deleting the run would delete it."""
    file = tmp_path / "results" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(CheckpointError, match=f"holds {name.partition('/')[0]}, and no run. Name a new folder"):
        train_tiny(tmp_path / "results")
    assert file.read_text() == "{}" and not list(tmp_path.glob("results/*.safetensors"))


def test_left_overs_of_a_killed_process_are_cleaned(tmp_path):
    for name in (".last.safetensors.abc.tmp", ".history.json.abc.tmp", ".run.json.abc.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".folder.tmp").mkdir()
    train_tiny(tmp_path, epochs=1)
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".folder.tmp"]


def test_training_works_in_a_thread_where_no_signals_arrive(tmp_path):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(train_tiny(tmp_path)[0]))
    thread.start()
    thread.join()
    assert len(histories[0]) == 2


# Settings


@pytest.mark.parametrize(
    "options,words",
    [
        ({"transform": Policy(degrees=7)}, "augmentation was full and is degrees=7. Name"),
        ({"images": 32}, "data.title was SAMPLE, 64 training images and is SAMPLE, 32 training images"),
        ({"batch_size": 16}, "batch_size was 32 and is 16"),
        ({"epochs": 3}, "epochs was 2 and is 3"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "loss was .*smoothing=0.0.* and is .*smoothing=0.1"),
        ({"scheduler_per": "epoch"}, "scheduler_per was step and is epoch"),
        ({"autocast": torch.bfloat16}, "autocast was None and is torch.bfloat16"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_another_setting_is_refused_with_the_difference_named(stopped, options, words):
    before = (stopped / runs.LAST).read_bytes(), (stopped / "run.json").read_text()
    with pytest.raises(CheckpointError, match=f"holds a run with other settings: .*{words}.*folder of its own"):
        train_tiny(stopped, **options)
    assert (stopped / runs.LAST).read_bytes() == before[0]


def test_another_learning_rate_is_refused(stopped):
    model = narrow()
    with pytest.raises(CheckpointError, match="optimizer.defaults.lr was 0.1 and is 0.2"):
        train_tiny(stopped, model, optimizer=sgd(model, 0.2))


def test_another_optimizer_is_refused(stopped):
    model = narrow()
    with pytest.raises(CheckpointError, match="optimizer.name was SGD and is AdamW"):
        train_tiny(stopped, model, optimizer=torch.optim.AdamW(model.parameters()))


def test_without_the_comparison_another_setting_is_not_noticed(stopped, monkeypatch):
    """The negative control."""
    model = narrow()
    monkeypatch.setattr(identity, "differences", lambda *_: [])
    assert len(train_tiny(stopped, model, optimizer=sgd(model, 0.1))[0]) == 2


def test_differences_are_named_with_their_place():
    then = {"a": 1, "b": {"c": 2, "d": [1]}, "e": 0}
    now = {"a": 1, "b": {"c": 3, "d": [1, 2]}, "f": 0}
    found = ["b.c was 2 and is 3", "b.d was [1] and is [1, 2]", "e was 0 and is None", "f was None and is 0"]
    assert identity.differences(then, now) == found


@pytest.mark.parametrize(
    "make,per",
    [
        (lambda o: OneCycleLR(o, 1e-2, total_steps=4), "step"),
        (lambda o: MultiStepLR(o, [1, 2]), "step"),
        (lambda o: ReduceLROnPlateau(o, patience=0), "epoch"),
        (lambda o: CosineAnnealingWarmRestarts(o, 3), "step"),
    ],
    ids=["OneCycleLR", "MultiStepLR", "ReduceLROnPlateau", "WarmRestarts"],
)
def test_the_same_objects_resume_a_stopped_run(tmp_path, make, per):
    """As in a notebook, whose training cell is run again: by then, optimizer and scheduler have gone some steps."""
    made = {}
    for name in ("through", "stopped"):
        model = narrow()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        made[name] = {"model": model, "optimizer": optimizer, "scheduler": make(optimizer), "scheduler_per": per}
    train_tiny(tmp_path / "through", **made["through"])
    for _ in range(2):
        train_tiny(tmp_path / "stopped", **made["stopped"], stop_after=3)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "through")


# Folders without a name


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of all runs."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    return tmp_path


def folders(home) -> int:
    return len(list(home.iterdir()))


def test_without_a_name_the_same_call_resumes(home, capsys):
    train_tiny(None, stop_after=3)
    history, _ = train_tiny(None)
    assert folders(home) == 1 and "Resuming" in capsys.readouterr().out and len(history) == 2


def adamw(model, **options):
    return torch.optim.AdamW(model.parameters(), **options)


def scheduled(make):
    def options(model):
        optimizer = sgd(model)
        return {"optimizer": optimizer, "scheduler": make(optimizer)}

    return options


class Cutout:
    """A participant's transform, without a repr of its own."""

    def __init__(self, size):
        self.size = size

    def __call__(self, images):
        return images


def in_a_notebook(code: str, **names):
    """What a cell defines last."""
    return list(run_cell(code, **names).values())[-1]


class Private:
    """A transform that keeps its setting in a private attribute, and counts its calls."""

    def __init__(self, size):
        self._size, self.calls = size, 0

    def __call__(self, images):
        self.calls += 1
        return images.roll(self._size, 3)


class Focal(nn.Module):
    """A loss with a buffer that is a setting, and one that changes with every batch."""

    def __init__(self, alpha):
        super().__init__()
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("mean", torch.tensor(0.0))

    def forward(self, logits, labels):
        loss = F.cross_entropy(logits, labels)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return self.alpha * loss


class Rates(nn.Module):
    """A network with a list of numbers that is a setting, one that it fills, and a count."""

    def __init__(self, *rates):
        super().__init__()
        self.body, self.rates, self.seen, self.calls = narrow(), list(rates), [0.0], 0

    def forward(self, images):
        self.calls += 1
        self.seen.append(1.0)
        return F.dropout(self.body(images), self.rates[0], self.training)


class Noise:
    """A transform with a variable of its own that has the name of an attribute."""

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, images):
        noise = torch.zeros(images.shape)
        noise.add_(self.noise)
        return images / 255 * noise


class Inherited(Private):
    """Its setting is assigned by the class that it extends."""

    def __init__(self, size):
        super().__init__(size)
        self.name = "inherited"


COMMENTED = """
class Roll:
    def __init__(self, size):
# a comment in the first column
        self._size = size
    def __call__(self, images):
        return images.roll(self._size, 3)
transform = Roll({})
"""
BOX = """
BOX = [{}, 24]
def transform(images):
    images = images.clone()
    images[:, :, BOX[0] : BOX[1]] = 0
    return images
"""
SIGN = """
import torch
class Sign(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_({} * p.grad.sign())
"""


MEAN = """
import torch
class Mean(torch.nn.Sequential):
    def __init__(self, net):
        super().__init__(net)
        self.register_buffer("mean", torch.full((3, 1, 1), {}))
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x - self.mean)
net = Mean(narrow())
"""
SLOTS = """
from dataclasses import dataclass
@dataclass(slots=True)
class Shift:
    amount: int
    def __call__(self, images):
        return images.roll(self.amount, 3) // {}
transform = Shift({})
"""


class Configured(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.body, self.config = narrow(), config

    def forward(self, images):
        return F.dropout(self.body(images), self.config["dropout"][1], self.training)


ENUM = """
from enum import Enum
class Way(Enum):
    LEFT = -1
    def roll(self, images):
        return images.roll({} * self.value, 3)
way = Way.LEFT
def transform(images):
    return way.roll(images)
"""


CLIPPED = """
import torch
class Clipped(torch.optim.SGD):
    def __init__(self, params, lr, max_norm):
        super().__init__(params, lr)
        self.max_norm, self.params, self.steps = max_norm, list(params), 0
    def step(self, closure=None):
        self.steps += 1
        torch.nn.utils.clip_grad_norm_(self.params, self.max_norm)
        return super().step()
"""
MANGLED = """
class Roll:
    def __init__(self, amount):
        self.__amount = amount
    def __call__(self, images):
        return images.roll(self.__amount, 3)
transform = Roll({})
"""
BY_A_HELPER = """
class Roll:
    def __init__(self, amount):
        self.set_up(amount)
    def set_up(self, amount):
        self._amount = amount
    def __call__(self, images):
        return images.roll(self._amount, 3)
transform = Roll({})
"""
NOTED = """
def transform(images):
    return images.roll(transform.amount, 3)
transform.amount = {}
"""
WEIGHED = """
def to_the_left(images):
    return images.roll(-1, 3)
def to_the_right(images):
    return images.roll(1, 3)
weights = {{to_the_left: {}, to_the_right: 0.5}}
def transform(images):
    return sum(weight * roll(images / 255) for roll, weight in weights.items()) / sum(weights.values())
"""


COMPILED = """
import torch
@torch.compiler.disable
def roll(images):
    return images.roll({}, 3)
def transform(images):
    return roll(images)
"""
LOOKAHEAD = """
import torch
class Lookahead(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.slow = [p.clone().detach() for p in self.param_groups[0]["params"]]
        self.inner = [torch.optim.SGD(self.slow, lr)]
        self.handles = [p.register_hook(lambda gradient: gradient) for p in self.param_groups[0]["params"]]
        self.cleared = 0
    def step(self, closure=None):
        super().step()
        for slow, p in zip(self.slow, self.param_groups[0]["params"]):
            slow.lerp_(p.detach(), 0.1)
    def zero_grad(self, set_to_none=True):
        self.cleared += 1
        super().zero_grad(set_to_none)
"""


def independent(rate: float):
    return torch.distributions.Independent(torch.distributions.Bernoulli(torch.full((2,), rate)), 1)


class Recording(nn.Module):
    """A network of which a hook keeps what a layer computed last, for a class activation map say."""

    def __init__(self):
        super().__init__()
        self.body, self.store = narrow(), {}
        self.handle = self.body.register_forward_hook(self.keep)
        self.body.register_forward_hook(partial(self.keep_in, self.store))

    def keep(self, layer, inputs, output):
        self.features = output

    @staticmethod
    def keep_in(store, layer, inputs, output):
        store["features"] = output

    def forward(self, images):
        return self.body(images)


def clipped(model: nn.Module, norm: float) -> torch.optim.Optimizer:
    optimizer = sgd(model)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), norm) and None)
    return optimizer


def hooked(register, hook) -> dict:
    register(hook)
    return {}


def in_two_groups(first_count: int, momentum: float = 0.9):
    """SGD without weight decay for one group; where the border is does not show in the groups' own numbers."""

    def options(model):
        of_size = sorted(model.parameters(), key=torch.numel)
        first, second = of_size[:first_count], of_size[first_count:]
        groups = [{"params": first, "weight_decay": 0.0}, {"params": second, "momentum": momentum}]
        return {"optimizer": torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)}

    return options


CLASS = """
class Shift:
    def __call__(self, images):
        return images.roll({}, 3)
transform = Shift()
"""
ATTRIBUTE = """
class Shift:
    amount = {}
    @staticmethod
    def columns(images):
        return images.roll({}, 3)
    def __call__(self, images):
        return self.columns(images) + self.amount
transform = Shift()
"""
FUNCTION = """
AMOUNT = {}
def transform(images):
    return images.roll(AMOUNT, 3)
"""
NETWORK = """
import torch
from torch import nn
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Dropout({p}))
    def forward(self, x):
        return torch.{function}(self.body(x))
mine = Mine()
"""


class Erasing(nn.Module):
    """A transform with a part."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.erase = v2.RandomErasing(p=p)

    def forward(self, images):
        return self.erase(images)


class Smooth(nn.Module):
    """A loss with a part, and with a tensor."""

    def __init__(self, smoothing: float, alpha: float = 1.0) -> None:
        super().__init__()
        self.loss, self.alpha = nn.CrossEntropyLoss(label_smoothing=smoothing), torch.full((10,), alpha)

    def forward(self, logits, labels):
        return self.loss(logits * self.alpha, labels)


class Scaled:
    """A transform with a large tensor."""

    def __init__(self, factors):
        self.factors = factors

    def __call__(self, images):
        return images.roll(int(self.factors[0]), 3)


def helped(amount):
    """A transform that calls another function of its notebook."""
    return in_a_notebook(f"def helper(x):\n    return x.roll({amount}, 3)\ndef transform(x):\n    return helper(x)")


class Drawn:
    """A transform with a generator of its own, a set, and a method that is handed over."""

    def __init__(self, amount: int, *words: str) -> None:
        self.amount, self.words, self.generator = amount, set(words), torch.Generator()

    def apply(self, images):
        return images.roll(self.amount, 3)

    def __call__(self, images):
        return self.apply(images)


DATACLASS = """
from dataclasses import dataclass
@dataclass
class Shift:
    amount: int = 1
    def __call__(self, images):
        return images.roll({} * self.amount, 3)
transform = Shift()
"""
BLOCKS = """
from torch import nn
class Block(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p, self.layer = p, nn.Linear(10, 10)
    def forward(self, x):
        return {inner}(self.layer(x))
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Linear(3072, 10), nn.ModuleList([Block({p})])
    def forward(self, x):
        return self.blocks[0](self.first(x.flatten(1)))
mine = Mine()
"""


def with_slow_batch_norm() -> nn.Module:
    model = narrow()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.01
    return model


def using(thing):
    """A transform that uses something of its notebook."""
    return in_a_notebook("thing = THING\ndef transform(x):\n    return thing(x)", THING=thing)


def weighing(first):
    """A loss by a function of the notebook, which uses one of PyTorch with class weights."""
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([first] + [1.0] * 9))
    return in_a_notebook("loss = LOSS\ndef function(z, y):\n    return loss(z, y) + 0.0 * z.sum()", LOSS=criterion)


class Foreign:
    """As of a library such as albumentations: it tells its settings, and counts its calls."""

    def __init__(self, p):
        self.p, self.calls = p, 0

    def __repr__(self):
        return f"Foreign(p={self.p})"

    def __call__(self, x):
        self.calls += 1
        return x


Foreign.__module__ = "a_library"


def rolled(by):
    return in_a_notebook("by = BY\ndef transform(x):\n    return x.roll(int(by), 3)", BY=by)


def reading(thing):
    return in_a_notebook("thing = THING\ndef transform(x):\n    return x if thing else None", THING=thing)


def pooled(layer):
    return in_a_notebook("def transform(x):\n    return LAYER(x / 255)", LAYER=layer)


def configured(strength):
    settings = types.SimpleNamespace(strength=strength)
    return in_a_notebook("def transform(x):\n    return x if S.strength else x", S=settings)


def limited(low, high):
    return in_a_notebook("def transform(x):\n    return x.clamp(LOW, HIGH)", LOW=low, HIGH=high)


MAKER = """
class Shift:
    def __call__(self, images):
        return images.roll({}, 3)
def transform(x):
    return Shift()(x)
"""


CONFIG = """
class Config:
    strength = {}
def transform(x):
    return (x * Config.strength).to(x.dtype)
"""
SETTINGS = """
from dataclasses import dataclass
@dataclass
class Settings:
    strength: float
settings = Settings({})
def transform(x):
    return (x * settings.strength).to(x.dtype)
"""
CACHED = """
import functools
@functools.cache
def amount():
    return {}
def transform(x):
    return x.roll(amount(), 3)
"""


class Half(Shuffle):
    """A sampler of some positions."""

    def __init__(self, positions):
        super().__init__(len(positions), 32)
        self.positions, self.seen = positions, torch.zeros(64)

    def epoch(self, epoch):
        return [self.positions[batch] for batch in super().epoch(epoch)]

    def record(self, positions, logits, labels):
        self.seen[positions] += 1


def by_rates(*rates: float):
    """A schedule that reads a list."""
    listed = list(rates)
    return scheduled(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: listed[step % 2]))


def with_a_slow_part(lr: float):
    def options(model):
        first, *rest = model.parameters()
        optimizer = torch.optim.SGD([{"params": [first], "lr": lr}, {"params": rest}], lr=0.1)
        return {"optimizer": optimizer, "scheduler": ReduceLROnPlateau(optimizer)}

    return options


def one_cycle(**options):
    return scheduled(lambda o: OneCycleLR(o, 0.1, total_steps=4, **options))


def by_a_lambda(*factors: float):
    """A transform whose source, seen alone, is no whole statement."""
    listed = list(factors)
    return lambda model: dict(
        transform=lambda images: images / 255 * listed[0])  # fmt: skip


OPTIONS = {  # of one call each, from the model; no two of them are the same training
    "default": lambda model: {},
    "policy": lambda model: {"transform": PRESETS["light"]},
    "another policy": lambda model: {"transform": PRESETS["strong"]},
    "a list": lambda model: {"transform": [PRESETS["light"], v2.RandomErasing(p=0.5)]},
    "another list": lambda model: {"transform": [PRESETS["light"], v2.RandomErasing(p=0.6)]},
    "a class": lambda model: {"transform": Cutout(4)},
    "the class with another size": lambda model: {"transform": Cutout(8)},
    "a function": lambda model: {"transform": lambda images: images},
    "another function of the same name": lambda model: {"transform": lambda images: images.flip(3)},
    "a class in a notebook": lambda model: {"transform": in_a_notebook(CLASS.format(1))},
    "the class with another method": lambda model: {"transform": in_a_notebook(CLASS.format(2))},
    "a class with an attribute": lambda model: {"transform": in_a_notebook(ATTRIBUTE.format(1, 1))},
    "the class with another attribute": lambda model: {"transform": in_a_notebook(ATTRIBUTE.format(2, 1))},
    "the class with another static method": lambda model: {"transform": in_a_notebook(ATTRIBUTE.format(1, 2))},
    "torchvision's old perspective": lambda model: {"transform": v1.RandomPerspective(0.2)},
    "a stronger one, of the same repr": lambda model: {"transform": v1.RandomPerspective(0.6)},
    "a function in a notebook": lambda model: {"transform": in_a_notebook(FUNCTION.format(1))},
    "the function with another global": lambda model: {"transform": in_a_notebook(FUNCTION.format(2))},
    "seed": lambda model: {"seed": 1},
    "epochs": lambda model: {"epochs": 3},
    "AdamW": lambda model: {"optimizer": adamw(model)},
    "AdamW with another rate": lambda model: {"optimizer": adamw(model, lr=1e-4)},
    "AdamW with another beta": lambda model: {"optimizer": adamw(model, betas=(0.8, 0.999))},
    "loss": lambda model: {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "loss function": lambda model: {"loss": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)},
    "another loss function": lambda model: {"loss": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.2)},
    "schedule": scheduled(lambda o: StepLR(o, 2)),
    "another schedule": scheduled(lambda o: StepLR(o, 3)),
    "milestones": scheduled(lambda o: MultiStepLR(o, [2])),
    "other milestones": scheduled(lambda o: MultiStepLR(o, [3])),
    "lambda": scheduled(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step)),
    "another lambda": scheduled(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.8**step)),
    "a tuple": lambda model: {"transform": lambda x: x.roll((1, 1), (2, 3))},
    "another tuple": lambda model: {"transform": lambda x: x.roll((4, 4), (2, 3))},
    "a comprehension": lambda model: {"transform": lambda x: x.roll(sum([i * 2 for i in range(3)]), 3)},
    "another comprehension": lambda model: {"transform": lambda x: x.roll(sum([i * 3 for i in range(3)]), 3)},
    "a helper": lambda model: {"transform": helped(1)},
    "another helper": lambda model: {"transform": helped(2)},
    "a transform's part": lambda model: {"transform": Erasing(0.5)},
    "another part of a transform": lambda model: {"transform": Erasing(0.6)},
    "a loss's part": lambda model: {"loss": Smooth(0.1)},
    "another part of a loss": lambda model: {"loss": Smooth(0.2)},
    "a loss's tensor": lambda model: {"loss": Smooth(0.1, alpha=2.0)},
    "a transform's tensor": lambda model: {"transform": Scaled(torch.full((300,), 1.0))},
    "a method": lambda model: {"transform": Drawn(1).apply},
    "the method of another object": lambda model: {"transform": Drawn(2).apply},
    "a set": lambda model: {"transform": Drawn(1, "a", "b", "c")},
    "another set": lambda model: {"transform": Drawn(1, "a", "b", "d")},
    "a dataclass in a notebook": lambda model: {"transform": in_a_notebook(DATACLASS.format(1))},
    "the dataclass with another method": lambda model: {"transform": in_a_notebook(DATACLASS.format(2))},
    "torchvision's Lambda": lambda model: {"transform": v1.Lambda(lambda x: x.roll(1, 2))},
    "another Lambda": lambda model: {"transform": v1.Lambda(lambda x: x.roll(2, 2))},
    "an old RandomApply": lambda model: {"transform": v1.RandomApply([Cutout(4)], p=0.3)},
    "another RandomApply": lambda model: {"transform": v1.RandomApply([Cutout(4)], p=0.4)},
    "a RandomApply of something else": lambda model: {"transform": v1.RandomApply([Cutout(8)], p=0.3)},
    "another tensor": lambda model: {"transform": Scaled(torch.full((300,), 2.0))},
    "a policy that a function uses": lambda model: {"transform": using(PRESETS["light"])},
    "another policy that it uses": lambda model: {"transform": using(PRESETS["strong"])},
    "a torchvision transform that it uses": lambda model: {"transform": using(v2.RandomErasing(p=0.3))},
    "another transform that it uses": lambda model: {"transform": using(v2.RandomErasing(p=0.4))},
    "a Compose that it uses": lambda model: {"transform": using(v2.Compose([v2.RandomErasing(p=0.3)]))},
    "another Compose that it uses": lambda model: {"transform": using(v2.Compose([v2.RandomErasing(p=0.4)]))},
    "a loss that it uses": lambda model: {"loss": weighing(1.0)},
    "a loss with other class weights": lambda model: {"loss": weighing(2.0)},
    "a transform of a library": lambda model: {"transform": using(Foreign(0.1))},
    "another transform of it": lambda model: {"transform": using(Foreign(0.2))},
    "an object that it uses": lambda model: {"transform": using(Cutout(4))},
    "another object that it uses": lambda model: {"transform": using(Cutout(8))},
    "a NumPy number that it uses": lambda model: {"transform": rolled(np.int64(1))},
    "another NumPy number that it uses": lambda model: {"transform": rolled(np.int64(2))},
    "a function with its argument": lambda model: {"transform": using(partial(torch.roll, shifts=1, dims=3))},
    "a function with another argument": lambda model: {"transform": using(partial(torch.roll, shifts=2, dims=3))},
    "a configuration": lambda model: {"transform": configured(0.5)},
    "another configuration": lambda model: {"transform": configured(0.25)},
    "a layer that it uses": lambda model: {"transform": pooled(nn.AvgPool2d(3, 1, 1))},
    "another layer that it uses": lambda model: {"transform": pooled(nn.AvgPool2d(5, 1, 2))},
    "a set in a configuration": lambda model: {"transform": configured({"cat", "dog"})},
    "another set in it": lambda model: {"transform": configured({"cat", "cow"})},
    "a class as a configuration": lambda model: {"transform": in_a_notebook(CONFIG.format(0.5))},
    "another class as a configuration": lambda model: {"transform": in_a_notebook(CONFIG.format(0.25))},
    "a dataclass as a configuration": lambda model: {"transform": in_a_notebook(SETTINGS.format(0.5))},
    "another dataclass as a configuration": lambda model: {"transform": in_a_notebook(SETTINGS.format(0.25))},
    "a cached function": lambda model: {"transform": in_a_notebook(CACHED.format(1))},
    "another cached function": lambda model: {"transform": in_a_notebook(CACHED.format(2))},
    "only an upper limit": lambda model: {"transform": limited(None, 1)},
    "only a lower limit": lambda model: {"transform": limited(1, None)},
    "a class that it uses": lambda model: {"transform": in_a_notebook(MAKER.format(1))},
    "another class that it uses": lambda model: {"transform": in_a_notebook(MAKER.format(2))},
    "half of the images": lambda model: {"sampler": Half(torch.arange(0, 64, 2))},
    "the other half": lambda model: {"sampler": Half(torch.arange(1, 64, 2))},
    "a list that a schedule reads": by_rates(1.0, 0.5),
    "another list that it reads": by_rates(1.0, 0.4),
    "OneCycleLR": one_cycle(),
    "OneCycleLR with another peak": one_cycle(pct_start=0.5),
    "OneCycleLR along lines": one_cycle(anneal_strategy="linear"),
    "a slow part": with_a_slow_part(0.01),
    "a slower part": with_a_slow_part(0.001),
    "a private attribute": lambda model: {"transform": Private(4)},
    "another private attribute": lambda model: {"transform": Private(8)},
    "an attribute with a variable's name": lambda model: {"transform": Noise(0.1)},
    "another attribute with its name": lambda model: {"transform": Noise(0.2)},
    "an inherited private attribute": lambda model: {"transform": Inherited(4)},
    "another inherited one": lambda model: {"transform": Inherited(8)},
    "a private attribute below a comment": lambda model: {"transform": in_a_notebook(COMMENTED.format(4))},
    "another one below it": lambda model: {"transform": in_a_notebook(COMMENTED.format(8))},
    "a list beside a local change": lambda model: {"transform": in_a_notebook(BOX.format(8))},
    "another list beside it": lambda model: {"transform": in_a_notebook(BOX.format(12))},
    "an object inside a transform": lambda model: {"transform": ProgressiveResizing(Private(4))},
    "another object inside it": lambda model: {"transform": ProgressiveResizing(Private(8))},
    "a list that a lambda reads": by_a_lambda(0.5),
    "another list that it reads here": by_a_lambda(0.25),
    "a buffer of a loss": lambda model: {"loss": Focal(0.5)},
    "another buffer of the loss": lambda model: {"loss": Focal(0.25)},
    "two groups": in_two_groups(1),
    "two groups with another border": in_two_groups(2),
    "another momentum of a group": in_two_groups(1, momentum=0.5),
    "an optimizer in a notebook": lambda model: {
        "optimizer": in_a_notebook(SIGN.format(-0.01))(model.parameters(), 0.1)
    },
    "the optimizer with another step": lambda model: {
        "optimizer": in_a_notebook(SIGN.format(-0.02))(model.parameters(), 0.1)
    },
}
OPTIONS |= {
    "a policy of a library": lambda model: {"transform": [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)]},
    "another policy of it": lambda model: {"transform": [v2.AutoAugment(v2.AutoAugmentPolicy.SVHN)]},
    "an interpolation": lambda model: {"transform": v2.RandomAffine(9, interpolation=v2.InterpolationMode.BILINEAR)},
    "another one": lambda model: {"transform": v2.RandomAffine(9, interpolation=v2.InterpolationMode.NEAREST)},
    "a choice that it reads": lambda model: {"transform": reading(v2.InterpolationMode.BILINEAR)},
    "another choice that it reads": lambda model: {"transform": reading(v2.InterpolationMode.BICUBIC)},
    "a distribution": lambda model: {"transform": Cutout(torch.distributions.Beta(0.2, 0.2))},
    "another distribution": lambda model: {"transform": Cutout(torch.distributions.Beta(1.0, 1.0))},
    "a distribution that it reads": lambda model: {"transform": reading(torch.distributions.Beta(0.2, 0.2))},
    "another distribution that it reads": lambda model: {"transform": reading(torch.distributions.Normal(0.2, 0.2))},
    "slots": lambda model: {"transform": in_a_notebook(SLOTS.format(1, 4))},
    "other values in slots": lambda model: {"transform": in_a_notebook(SLOTS.format(1, 8))},
    "other code of a class with slots": lambda model: {"transform": in_a_notebook(SLOTS.format(2, 4))},
    "clipped gradients": lambda model: {"optimizer": clipped(model, 1.0)},
    "gradients that are clipped more": lambda model: {"optimizer": clipped(model, 0.1)},
    "a hook of a weight": lambda model: hooked(list(model.parameters())[0].register_hook, lambda g: g * 2),
    "another hook of it": lambda model: hooked(list(model.parameters())[0].register_hook, lambda g: g * 3),
    "a hook of a layer": lambda model: hooked(model.register_forward_hook, lambda m, x, y: y * 2),
    "another hook of the layer": lambda model: hooked(model.register_forward_hook, lambda m, x, y: y * 3),
    "the hook of a layer within": lambda model: hooked(model[0].register_forward_hook, lambda m, x, y: y * 2),
    "a joint distribution": lambda model: {"transform": Cutout(independent(0.2))},
    "another joint distribution": lambda model: {"transform": Cutout(independent(0.4))},
    "an optimizer's attribute": lambda model: {
        "optimizer": in_a_notebook(CLIPPED)(list(model.parameters()), 0.1, max_norm=1.0)
    },
    "another attribute of the optimizer": lambda model: {
        "optimizer": in_a_notebook(CLIPPED)(list(model.parameters()), 0.1, max_norm=0.1)
    },
    "a mangled attribute": lambda model: {"transform": in_a_notebook(MANGLED.format(1))},
    "another mangled one": lambda model: {"transform": in_a_notebook(MANGLED.format(2))},
    "an attribute that a helper sets": lambda model: {"transform": in_a_notebook(BY_A_HELPER.format(1))},
    "another one that it sets": lambda model: {"transform": in_a_notebook(BY_A_HELPER.format(2))},
    "a function's attribute": lambda model: {"transform": in_a_notebook(NOTED.format(1))},
    "another one of the function": lambda model: {"transform": in_a_notebook(NOTED.format(2))},
    "functions with their weights": lambda model: {"transform": in_a_notebook(WEIGHED.format(0.5))},
    "the functions with other weights": lambda model: {"transform": in_a_notebook(WEIGHED.format(0.25))},
    "a function with PyTorch's own notes": lambda model: {"transform": in_a_notebook(COMPILED.format(1))},
    "another function with them": lambda model: {"transform": in_a_notebook(COMPILED.format(2))},
    "a slice": lambda model: {"transform": reading(slice(4, 28))},
    "another slice": lambda model: {"transform": reading(slice(2, 28))},
    "a range": lambda model: {"transform": reading(range(-10, 11))},
    "another range": lambda model: {"transform": reading(range(-20, 21))},
    "a path": lambda model: {"transform": reading(Path("mask.png"))},
    "another path": lambda model: {"transform": reading(Path("other.png"))},
    "a deque": lambda model: {"transform": reading(deque([1, 2]))},
    "another deque": lambda model: {"transform": reading(deque([1, 3]))},
    "bytes": lambda model: {"transform": reading(b"a")},
    "other bytes": lambda model: {"transform": reading(b"b")},
    "an Enum of a notebook": lambda model: {"transform": in_a_notebook(ENUM.format(1))},
    "the Enum with another method": lambda model: {"transform": in_a_notebook(ENUM.format(2))},
}
NETWORKS = {  # of the same tensors
    "with nested options": lambda: Configured({"widths": (4, 8), "dropout": [None, 0.1]}),
    "with other nested options": lambda: Configured({"widths": (4, 8), "dropout": [None, 0.5]}),
    "with a mean": lambda: in_a_notebook(MEAN.format(0.1), narrow=narrow),
    "with another mean": lambda: in_a_notebook(MEAN.format(0.5), narrow=narrow),
    "plain": narrow,
    "with dropout": lambda: nn.Sequential(narrow(), nn.Dropout(0.2)),
    "with more dropout": lambda: nn.Sequential(narrow(), nn.Dropout(0.5)),
    "with another activation": lambda: replace_activations(narrow()),
    "of a notebook": lambda: in_a_notebook(NETWORK.format(p=0.2, function="relu")),
    "with another dropout": lambda: in_a_notebook(NETWORK.format(p=0.5, function="relu")),
    "with another momentum of batch norm": with_slow_batch_norm,
    "of blocks in a list": lambda: in_a_notebook(BLOCKS.format(p=0.1, inner="nn.functional.relu")),
    "of other blocks in a list": lambda: in_a_notebook(BLOCKS.format(p=0.5, inner="nn.functional.relu")),
    "of blocks with another forward": lambda: in_a_notebook(BLOCKS.format(p=0.1, inner="nn.functional.gelu")),
    "with another forward": lambda: in_a_notebook(NETWORK.format(p=0.2, function="tanh")),
    "with a frozen layer": lambda: frozen(narrow(), 1),
    "with more frozen layers": lambda: frozen(narrow(), 2),
    "with rates in a list": lambda: Rates(0.1, 0.3),
    "with other rates": lambda: Rates(0.1, 0.5),
    "with constants": lambda: nn.Sequential(Normalize((0.5,) * 3, (0.5,) * 3), narrow()[1]),
    "with other constants": lambda: nn.Sequential(Normalize((0.4,) * 3, (0.5,) * 3), narrow()[1]),
    "with a layer": lambda: twice(1),
    "with the layer twice": lambda: twice(2),
}


def twice(count: int) -> nn.Module:
    """A dropout layer so many times: the same object."""
    dropout = nn.Dropout(0.3)
    return nn.Sequential(*narrow(), *[dropout] * count)


def frozen(model: nn.Module, count: int) -> nn.Module:
    for parameter in list(model.parameters())[:count]:
        parameter.requires_grad_(False)
    return model


def replace_activations(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    return model


def name_of(options: str, network: str = "plain") -> str:
    """The folder that training with these options gets."""
    model, found = NETWORKS[network](), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_lock", lambda run, about: found.append((run, about)) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_tiny(None, model, **{"transform": None} | OPTIONS[options](model))
    ((run, about),) = found
    assert " at 0x" not in json.dumps(about)
    return run.name


@cache
def first_names() -> list[str]:
    return [name_of(options) for options in OPTIONS]


def test_some_different_settings_get_different_folders_and_equal_ones_the_same(home):
    """Every eighth of those of the test below, for the quick round."""
    some = list(OPTIONS)[::8]
    names = [name_of(options) for options in some]
    assert len(set(names)) == len(some) > 10 and names == [name_of(options) for options in some]


@pytest.mark.slow
def test_different_settings_get_different_folders_and_equal_ones_the_same(home):
    names = first_names()
    assert len(set(names)) == len(OPTIONS)
    assert names == [name_of(options) for options in OPTIONS]
    assert all(name.startswith("SmallCNN_") and len(name) < 120 for name in names)


def test_networks_that_differ_in_more_than_their_tensors_get_different_folders(home):
    names = [name_of("default", network) for network in NETWORKS]
    assert len(set(names)) == len(NETWORKS)
    assert names == [name_of("default", network) for network in NETWORKS]


def test_the_code_of_a_class_in_a_file_beside_the_notebook_counts(home, tmp_path, monkeypatch):
    for number, amount in enumerate((1, 2)):
        code = f"class Shift:\n    def __call__(self, images):\n        return images.roll({amount}, 3)\n"
        (tmp_path / f"shift{number}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = [words_of(__import__(f"shift{number}").Shift()) for number in range(2)]
    assert found[0] != found[1]


def test_what_a_file_beside_the_notebook_collects_is_no_setting(home, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("beside")
    monkeypatch.syspath_prepend(folder)
    (folder / "collected.py").write_text("seen = []\ncount = 0\nLIMITS = (0, 1)\n")
    code = "    collected.seen.append(x.shape)\n    collected.count += 1\n    return x"
    transform = in_a_notebook(f"import collected\ndef transform(x):\n{code}")
    first, again = (train_tiny(None, narrow(), transform=transform)[0] for _ in range(2))
    assert first == again and folders(home) == 1
    words = words_of(in_a_notebook("import collected\ndef t(x):\n    return [x * n for n in collected.LIMITS]"))
    monkeypatch.setattr(sys.modules["collected"], "LIMITS", (0, 2))
    assert words != words_of(in_a_notebook("import collected\ndef t(x):\n    return [x * n for n in collected.LIMITS]"))


def test_a_variable_that_has_no_value_yet_is_none():
    def train_later():
        def loss(logits, labels):
            return F.cross_entropy(logits, labels) if logits.requires_grad else history

        words = words_of(loss)
        history = 0
        return words, history

    assert "loss" in train_later()[0]


@pytest.mark.parametrize("use", ["from helped_{} import jitter", "import helped_{} as h\njitter = None"])
def test_the_code_of_a_function_in_a_file_beside_the_notebook_counts(tmp_path, monkeypatch, use):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number in (1, 2):
        name = f"{len(use)}_{number}"
        (tmp_path / f"helped_{name}.py").write_text(f"def jitter(images):\n    return images.roll({number}, 3)\n")
        call = "jitter(x)" if use.startswith("from") else "h.jitter(x)"
        found.append(words_of(in_a_notebook(f"{use.format(name)}\ndef transform(x):\n    return {call}")))
    assert found[0] != found[1]


def test_a_network_that_a_loss_uses_is_the_same_while_it_trains(home):
    """As for a penalty on its weights: neither these nor the statistics of batch norm are settings."""
    model = narrow()

    def loss(logits, labels):
        return F.cross_entropy(logits, labels) + 1e-4 * sum(p.square().sum() for p in model.parameters())

    before = words_of(loss)
    train_tiny(None, model, loss=loss)
    assert words_of(loss) == before
    model.append(nn.Tanh())
    assert words_of(loss) != before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a second process that has imported torch already")
def test_an_optimizers_words_do_not_depend_on_what_was_made_before():
    """torch puts a function of its own into the class whose `step` it finds first."""
    code = """
import os, torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from tiny import tiny
from cifar_utils import identity
class Mine(torch.optim.SGD):
    pass
model = nn.Linear(2, 2)
child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    torch.optim.SGD(model.parameters(), 0.1)
optimizer = Mine(model.parameters(), 0.1)
parts = {"model": model, "optimizer": optimizer, "scheduler": LambdaLR(optimizer, float), "sampler": None}
print(identity.describe_run(tiny(), tiny(32, "validation"), None, None, parts, {})["optimizer"])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, not_before = done.stdout.splitlines()
    assert before == not_before and "Mine" in before


def test_a_momentum_that_was_changed_by_hand_is_another_training(home):
    """With the same optimizer as before and a new scheduler; while the same one runs, its changes are none."""
    model = narrow()
    optimizer = sgd(model)

    def described(scheduler):
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": None}
        return identity.describe_run(tiny(), tiny(32, "validation"), None, None, parts, {})["optimizer"]

    scheduler = ReduceLROnPlateau(optimizer)
    before = described(scheduler)
    optimizer.param_groups[0]["momentum"] = 0.5
    assert described(scheduler) == before != described(ReduceLROnPlateau(optimizer))


def test_a_schedule_that_is_made_anew_finds_the_run_whose_rate_it_has_lowered(home):
    """In the cell of the training, with a model and an optimizer from the cell before."""
    model = narrow()
    optimizer = sgd(model)
    for _ in range(2):
        plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=10.0)
        train_tiny(None, model, optimizer=optimizer, scheduler=plateau, epochs=3)
    assert optimizer.param_groups[0]["lr"] < 0.1 and folders(home) == 1


def test_statistics_that_a_function_is_given_are_no_settings(home):
    """As in batch norm of one's own: the call resumes, also with the same model."""
    code = """
import torch
from torch import nn
from torch.nn import functional as F

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x):
        return F.batch_norm(x, self.mu, self.var, training=self.training)

model = nn.Sequential(Norm(), nn.Flatten(), nn.Linear(3072, 10))
"""
    model = in_a_notebook(code)
    optimizer = sgd(model, lr=0.01)
    schedule = StepLR(optimizer, 100)
    for stop in (3, None):
        train_tiny(None, model, optimizer=optimizer, scheduler=schedule, stop_after=stop)
    assert folders(home) == 1 and len(runs.about(next(home.iterdir()), "last")["history"]) == 2


def test_a_buffer_that_was_changed_by_hand_is_another_training():
    code = """
class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        return x - self.mean[:, None, None]
"""
    model = in_a_notebook(f"import torch\nfrom torch import nn\n{code}\nmodel = Shifted()")
    before = words_of(model, 20, arrays=False)
    model.mean.fill_(0.5)
    assert words_of(model, 20, arrays=False) != before


def test_another_docstring_is_no_other_training():
    code = 'def transform(images):\n    """{}"""\n    return images.flip(3)\n'
    found = [words_of(in_a_notebook(code.format(text))) for text in ("To the left.", "Mirrored.")]
    assert found[0] == found[1]


def test_trying_a_transform_leaves_the_images_alone(home):
    """One that writes into its batch, as a first version of cutout does."""
    train, val = tiny(), tiny(32, "validation")
    before = train.images.clone(), train.labels.clone()

    def cutout(images, labels):
        images[:] = 0
        labels[:] = 0
        return images, labels

    fit(narrow(), train, val, transform=cutout, epochs=1, batch_size=16)
    assert torch.equal(train.images, before[0]) and torch.equal(train.labels, before[1])


def test_a_new_run_in_the_folder_of_another_has_a_history_of_its_own(tmp_path):
    """Stopped in its first epoch, it must not seem to be as long as the one whose checkpoints were deleted."""
    train_tiny(tmp_path, narrow())
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    train_tiny(tmp_path, narrow(), seed=1, stop_after=1)
    assert not (tmp_path / "history.json").exists()
    assert train_tiny(tmp_path, narrow(), seed=1)[0]


def test_a_transform_with_a_word_called_transform_is_none_the_less_one():
    part = Cutout(4)
    part.transform = "flip"
    assert identity.label(part) == "Cutout"


def test_a_network_with_lazy_layers_is_refused_before_anything_is_saved(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(ValueError, match="lazy layers, which have no shape yet: call it on a batch"):
        train_tiny(tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


def test_a_run_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    _, model = train_tiny("~/mine", epochs=1)
    assert bits(runs.load("~/mine", narrow(), "last")) == bits(model) and (tmp_path / "mine").is_dir()


def test_checkpoints_without_their_run_json_ask_for_the_whole_folder(tmp_path):
    train_tiny(tmp_path / "run", epochs=1)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(CheckpointError, match="run.json is missing or damaged. Copy the whole folder"):
        runs.load(tmp_path / "run", narrow())


def test_a_run_that_this_process_trains_already_says_so(tmp_path):
    states = steps(narrow(), tiny(), tiny(32, "validation"), epochs=1, run=tmp_path)
    next(states)
    with pytest.raises(CheckpointError, match="That is this process: stop that training"):
        next(steps(narrow(), tiny(), tiny(32, "validation"), epochs=1, run=tmp_path))
    states.close()


def test_signals_work_after_two_trainings_that_end_in_the_order_in_which_they_began():
    seen, before = [], signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        first, second = runs.StopSignal(), runs.StopSignal()
        first.__enter__(), second.__enter__()
        first.__exit__(), second.__exit__()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert seen == [1, 1] and not first.requested and not second.requested
    finally:
        signal.signal(signal.SIGTERM, before)


class Remembering(nn.Module):
    """A network that keeps what it computed last."""

    def __init__(self):
        super().__init__()
        self.body, self.last = narrow(), None

    def forward(self, images):
        self.last = self.body(images)
        return self.last


@pytest.mark.parametrize(
    "make",
    [narrow, Remembering, Recording, partial(Rates, 0.1), lambda: in_a_notebook(MEAN.format(0.1), narrow=narrow)],
)
def test_a_network_that_was_trained_is_still_the_same_run(home, make):
    """The same cell again, without making the parts anew: weights, statistics, mode and losses are not settings."""
    model = make()
    sampler = DropEasiest(64, batch_size=32)
    first, again = (train_tiny(None, model, sampler=sampler) for _ in range(2))
    assert first[0] == again[0] and folders(home) == 1
    assert len((next(home.iterdir()) / "run.json").read_text()) < 10_000


def test_what_a_transform_collects_is_no_setting(home):
    """Debugging is not another training: the second call finds the run of the first."""
    seen, sums = [], torch.zeros(1)

    def transform(images):
        seen.append(images.shape)
        return images

    def summing(images):
        sums.add_(images.sum())
        return images

    count, rows = 0, []

    def counting(images):
        nonlocal count, rows
        count += 1
        rows = [*rows, count]
        return images

    @dataclass
    class Meter:
        total: float = 0.0

        def see(self, value):
            self.total += value

    meter = Meter()

    def measured(images):
        meter.see(images.float().mean().item())
        return images

    counts = {}

    def by_class(images, labels):
        for label in labels.tolist():
            counts[label] = counts.get(label, 0) + 1
        return images, labels

    def counted(function):
        calls = 0

        @wraps(function)
        def inner(images):
            nonlocal calls
            calls += 1
            return function(images)

        return inner

    class Helped:
        def __init__(self):
            self.number, self.last = 0, None

        def count(self):
            self.number += 1

        def __call__(self, images):
            self.count()
            return images

    timed = {"count": 0, "__name__": "__main__"}  # as in a cell with %%time, whose source is not at hand
    exec("def transform(images):\n    global count\n    count += 1\n    return images", timed)

    def counting_itself(function):
        @wraps(function)
        def inner(images):
            inner.calls += 1
            return function(images)

        inner.calls = 0
        return inner

    parts = [transform, summing, counting, by_class, measured, Private(1), counted(lambda x: x), Helped()]
    parts += [counting_itself(lambda images: images.flip(3))]
    parts += [timed["transform"]]
    for number, part in enumerate(parts, start=1):
        first, again = (train_tiny(None, narrow(), transform=part)[0] for _ in range(2))
        assert first == again and folders(home) == number


@pytest.mark.slow
def test_the_names_are_the_same_in_every_process(home):
    code = "from test_runs import OPTIONS, name_of; print(*map(name_of, OPTIONS), sep='\\n')"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-len(OPTIONS) :] == first_names()


MERGED = """
import torch
class Merged(torch.nn.Sequential):
    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)
"""


def test_what_train_and_eval_assign_is_no_setting(home):
    """As a network with low-rank updates does, which it merges with its weights to predict."""
    model = in_a_notebook(MERGED)(*narrow())
    train_tiny(None, model)
    runs.load(next(home.iterdir()), model)  # in evaluation mode
    train_tiny(None, model)
    assert folders(home) == 1


def test_what_an_optimizer_keeps_while_it_trains_is_no_setting(home):
    """The parameters themselves, a count of the steps, averaged weights, handles, which PyTorch numbers."""
    for _ in range(2):
        model = narrow()
        train_tiny(None, model, optimizer=in_a_notebook(CLIPPED)(list(model.parameters()), 0.1, 1.0))
    assert folders(home) == 1
    model = narrow()
    optimizer = in_a_notebook(LOOKAHEAD)(model.parameters(), 0.1)
    for _ in range(2):  # the same objects, as when a cell is run again
        train_tiny(None, model, optimizer=optimizer)
    assert folders(home) == 2


def test_another_policy_gets_another_folder_and_both_train(home):
    """Turn a slider, train, compare: no run stands in the way of the next."""
    histories = [train_tiny(None, transform=Policy(degrees=degrees))[0] for degrees in (5, 10)]
    assert folders(home) == 2 and histories[0][0]["training_loss"] != histories[1][0]["training_loss"]


def test_losses_that_differ_in_their_class_weights_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    for heavy in (0, 1, 1):
        weight = torch.ones(10)
        weight[heavy] = 5
        train_tiny(None, loss=torch.nn.CrossEntropyLoss(weight), epochs=1)
    assert len(list(tmp_path.iterdir())) == 2
