"""The command line, in this process on a few images, and as a user runs it."""

import argparse
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tiny import tiny, train_tiny
from torch import nn

from cifar_utils import __main__ as main_module
from cifar_utils import cli, data, download, network_file, plots, runs, settings
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.photo import classify
from cifar_utils.evaluation.reports import report as text_of
from cifar_utils.models import Normalize, SmallCNN

main = main_module.main
RUN_FILES = {
    "best.safetensors", "last.safetensors", "last.previous.safetensors", "history.json", "training_curves.png",
    "tensorboard", "run.json", ".lock",
}  # fmt: skip
EVALUATION_FILES = {
    "report.json", "classes.csv", "predictions.csv", "confusion_matrix.png", "class_accuracy.png", "reliability.png",
    "errors.png",
}  # fmt: skip


@cache
def parts(source: str) -> tuple[data.Dataset, data.Dataset]:
    """A few images in the place of the training set and the test set; CIFAR-10's are others than the sample's."""
    train, test = (data.cifar10(train=is_train, sample=True) for is_train in (True, False))
    start = 0 if source == "SAMPLE" else 10
    train, test = train.select(torch.arange(start, 4000, 40)), test.select(torch.arange(start, 1000, 25))
    return replace(train, source=source), replace(test, source=source)


class Shelf:
    """What `data.cifar10` finds: the sample, and CIFAR-10 where it is there."""

    def __init__(self):
        self.full, self.asked = False, []

    def cifar10(self, train=True, sample=None, directory=None):
        self.asked.append((train, sample, directory))
        if sample is False and not self.full:
            raise data.DataError("CIFAR-10 is not there.")
        return parts("SAMPLE" if sample or not self.full else "CIFAR-10")[not train]


@pytest.fixture(autouse=True)
def shelf(monkeypatch, tmp_path, request):
    """A few images for CIFAR-10, a folder for runs, and, but for a few tests, empty figures."""
    parts("SAMPLE"), parts("CIFAR-10"), tiny(2), tiny(2, "validation")  # before cifar10 is another
    shelf = Shelf()
    monkeypatch.setattr(data, "cifar10", shelf.cifar10)
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    if "real_figures" not in request.fixturenames:
        for module, name in [(plots, "confusion_matrix"), (plots, "training_curves")] + [
            (evaluation_plots, n) for n in ("class_accuracy", "reliability_diagram", "model_accuracies")
        ]:
            monkeypatch.setattr(module, name, lambda *_: empty_figure())
    yield shelf


@pytest.fixture
def real_figures():
    """Draws all figures, which takes longer than to train."""


def empty_figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.alt_text = ""
    return figure


SMOKE = ["--profile", "smoke"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run on the sample; tests get copies of it."""
    folder = tmp_path_factory.mktemp("trained") / "done"
    with pytest.MonkeyPatch.context() as patch:
        parts("SAMPLE")
        patch.setattr(data, "cifar10", Shelf().cifar10)
        patch.setattr(plots, "confusion_matrix", lambda *_: empty_figure())
        assert main(["train", *SMOKE, "--folder", str(folder)]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "done"))


def one_sentence(capsys) -> str:
    """What main printed on standard error: one line, no traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) > 20
    return lines[0]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What it does


@pytest.mark.parametrize("command", [[], ["run"]])
def test_it_trains_and_evaluates(tmp_path, capsys, command, real_figures):
    run = tmp_path / "mine"
    assert main([*command, *SMOKE, "--folder", str(run), "--policy", "light", "--seed", "3"]) == 0
    assert names(run) == RUN_FILES | {"evaluation"} and names(run / "evaluation") == EVALUATION_FILES
    about = runs.about(run)["settings"]
    assert (about["model"], about["seed"], about["epochs"]) == ("SmallCNN", 3, 1)
    assert about["transform"] == repr(PRESETS["light"])
    report = json.loads((run / "evaluation" / "report.json").read_text())
    model = runs.load(run, torch.nn.Sequential(Normalize(), SmallCNN()))
    _, val = data.split(parts("SAMPLE")[0])
    predictions, validation = predict(model, parts("SAMPLE")[1]), predict(model, val)
    assert report["accuracy"] == pytest.approx(predictions.accuracy)
    assert report["loss"] == pytest.approx(predictions.loss, rel=1e-5)
    assert report["confusion_matrix"] == metrics.confusion_matrix(predictions).tolist()
    assert list(report["class_accuracy"]) == list(data.CIFAR10_CLASSES) and report["data"] == "SAMPLE, 40 test images"
    out = capsys.readouterr()
    assert text_of(predictions, "mine, epoch 1", validation=validation) in out.out and not out.err
    for figure in ("training_curves.png", "evaluation/confusion_matrix.png", "evaluation/class_accuracy.png"):
        with Image.open(run / figure) as image:
            assert "SAMPLE" in image.text["Description"]


def test_train_only_trains(tmp_path):
    assert main(["train", *SMOKE, "--epochs", "2", "--folder", str(tmp_path / "mine")]) == 0
    assert names(tmp_path / "mine") - {"best.previous.safetensors"} == RUN_FILES
    assert runs.about(tmp_path / "mine", "last")["epoch"] == 2


def test_the_same_command_resumes(tmp_path, capsys):
    command = ["train", *SMOKE, "--epochs", "3", "--folder", str(tmp_path / "mine")]
    with pytest.MonkeyPatch.context() as patch:
        predicted = cli.train.predict
        patch.setattr(cli.train, "predict", lambda *args: [signal.raise_signal(signal.SIGINT), predicted(*args)][1])
        assert main(command) == 130
    assert main(command) == 0
    assert "Resuming" in capsys.readouterr().out and runs.about(tmp_path / "mine", "last")["epoch"] == 3


def test_without_a_folder_each_setting_has_its_own(tmp_path):
    for options in ([], [], ["--seed", "1"], ["--policy", "strong"]):
        assert main(["train", *SMOKE, *options]) == 0
    assert len(names(tmp_path / "runs")) == 3


def test_evaluate_takes_the_run_that_was_trained_last(tmp_path, capsys):
    for name in ("b", "a"):
        assert main(["train", *SMOKE, "--folder", str(tmp_path / "runs" / name)]) == 0
    assert main(["evaluate"]) == 0
    assert "a, epoch 1" in capsys.readouterr().out and not (tmp_path / "runs" / "b" / "evaluation").exists()


def test_evaluate_only_evaluates(run, capsys, monkeypatch):
    before = (run / runs.BEST).read_bytes()
    monkeypatch.chdir(run)
    assert main(["evaluate", "."]) == 0  # the current folder has a name as well
    assert "done, epoch 1: SAMPLE, 40 test images" in capsys.readouterr().out
    assert names(run / "evaluation") == EVALUATION_FILES and (run / runs.BEST).read_bytes() == before


@pytest.mark.slow
def test_a_recipe_trains_the_fast_network(tmp_path, capsys):
    run = tmp_path / "fast"
    assert main(["train", *SMOKE, "--recipe", "fast", "--epochs", "2", "--folder", str(run)]) == 0
    about = runs.about(run)["settings"]
    assert about["model"] == "CNN" and about["optimizer"]["name"] == "Muon" and about["epochs"] == 2
    assert main(["evaluate", str(run)]) == 0
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.png")
    assert main(["classify", str(tmp_path / "photo.png"), "--run", str(run)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["few", "wide"])
def test_a_recipe_brings_its_own_network(tmp_path, recipe):
    """Wider than the usual one, or not mirror-symmetric; evaluate builds it anew."""
    run = tmp_path / recipe
    assert main([*SMOKE, "--recipe", recipe, "--epochs", "1", "--folder", str(run)]) == 0
    assert names(run / "evaluation") == EVALUATION_FILES


def test_an_unknown_recipe_is_refused(tmp_path, capsys):
    assert main(["train", *SMOKE, "--recipe", "slow", "--folder", str(tmp_path / "mine")]) == 1
    message = one_sentence(capsys)
    assert "'slow'" in message and "fast" in message and not (tmp_path / "mine").exists()


def test_the_policy_may_be_a_file(tmp_path):
    policy, run = Policy(degrees=7, fill=99), tmp_path / "mine"
    (tmp_path / "policy.json").write_text(policy.to_json())
    assert main(["train", *SMOKE, "--folder", str(run), "--policy", str(tmp_path / "policy.json")]) == 0
    assert runs.about(run)["settings"]["transform"] == repr(policy)


def test_a_class_without_images_is_null_in_the_report(run, monkeypatch):
    monkeypatch.setattr(cli, "predict", lambda model, dataset, **_: predict(model, without_cats(dataset)))

    def without_cats(dataset):
        return dataset if dataset.split != "test" else dataset.select((dataset.labels != 3).nonzero()[:, 0])

    assert main(["evaluate", str(run)]) == 0

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    report = json.loads((run / "evaluation" / "report.json").read_text(), parse_constant=forbidden)
    assert report["class_accuracy"]["cat"] is None and report["class_accuracy"]["dog"] is not None


def test_download_is_patient_and_checks(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(download, "ensure", lambda directory, patience: calls.append((directory, patience)))
    monkeypatch.setattr(download, "check", lambda directory: calls.append(directory))
    assert main(["download", "--data", str(tmp_path)]) == 0
    assert calls == [(tmp_path, 24 * 60), tmp_path]
    assert str(tmp_path) in capsys.readouterr().out


# A network of one's own


MODELS = """
import torch
from torch import nn
from cifar_utils.models import Normalize

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))

def normalized():
    return nn.Sequential(Normalize((0.1, 0.2, 0.3)), Net())

def fails():
    return 1 / 0

def too_many(classes, width):
    return Net(classes)

def nothing():
    return None

def few():
    return Net(3)

number = 3
"""


@pytest.fixture
def models(tmp_path) -> str:
    (tmp_path / "models.py").write_text(MODELS)
    return str(tmp_path / "models.py")


@pytest.mark.parametrize("name", ["make", "Net", "normalized"])
def test_a_network_of_ones_own_is_trained_and_evaluated(tmp_path, models, name):
    run = tmp_path / "mine"
    assert main([*SMOKE, "--model", f"{models}:{name}", "--folder", str(run)]) == 0
    assert names(run / "evaluation") == EVALUATION_FILES
    mean = runs.load(run, cli._network(f"{models}:{name}", 10, Normalize()))[0].mean
    assert torch.allclose(mean, torch.tensor([0.1, 0.2, 0.3])) == (name == "normalized")


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_by_a_recipe(tmp_path, models):
    run = tmp_path / "mine"
    options = ["--model", f"{models}:make", "--recipe", "fast", "--epochs", "1", "--folder", str(run)]
    assert main([*SMOKE, *options]) == 0
    assert runs.about(run)["settings"]["optimizer"]["name"] == "Muon"


RECIPES = """
from dataclasses import replace

import torch

from cifar_utils import speedrun


def adam(model, train, *, seed, epochs):
    return {"optimizer": torch.optim.AdamW(model.parameters()), "batch_size": len(train.classes) * (seed + 2)}

def long(model, train, *, seed, epochs):
    return {"epochs": epochs or 3, "transform": None}

narrow = replace(speedrun.RECIPES["fast"], epochs=1, network={"widths": (8, 8, 8)})

def fails(model, train, *, seed, epochs):
    return 1 / 0

def nothing(model, train, *, seed, epochs):
    pass

def misspelled(model, train, *, seed, epochs):
    return {"optimiser": None}

number = 3
"""


@pytest.fixture
def recipe_file(tmp_path) -> str:
    (tmp_path / "recipes.py").write_text(RECIPES)
    return str(tmp_path / "recipes.py")


def prepared(*words) -> tuple:
    return cli.prepare(cli.parse(["train", "--profile", "smoke", *words]))


def test_a_recipe_of_ones_own_says_what_differs_from_the_plain_training(recipe_file, models):
    model, _, _, options = prepared("--recipe", f"{recipe_file}:adam", "--seed", "1")
    assert isinstance(model[1], SmallCNN) and isinstance(options["optimizer"], torch.optim.AdamW)
    assert options["batch_size"] == 30 and options["seed"] == 1
    usual = prepared()[3]
    assert {key: options[key] for key in ("transform", "epochs")} == {
        key: usual[key] for key in ("transform", "epochs")
    }
    own = prepared("--recipe", f"{recipe_file}:adam", "--model", f"{models}:make")[0]
    assert isinstance(own[1], nn.Sequential)
    assert prepared("--recipe", f"{recipe_file}:adam", "--policy", "light")[3]["transform"] == PRESETS["light"]
    found = [prepared("--recipe", f"{recipe_file}:long", *words)[3] for words in ((), ("--epochs", "2"))]
    assert [options["epochs"] for options in found] == [3, 2] and found[0]["transform"] is None


def test_a_recipe_of_ones_own_may_be_a_changed_one(recipe_file):
    model, _, _, options = prepared("--recipe", f"{recipe_file}:narrow")
    assert model[1].blocks[0][4].weight.shape[1] == 8 and options["epochs"] == 1


def test_a_changed_recipe_is_trained_and_evaluated(tmp_path, recipe_file):
    run = tmp_path / "mine"
    assert main([*SMOKE, "--recipe", f"{recipe_file}:narrow", "--folder", str(run)]) == 0
    assert names(run / "evaluation") == EVALUATION_FILES
    assert main(["evaluate", str(run), "--sample", "--model", f"{recipe_file}:narrow"]) == 0


def test_a_training_by_a_recipe_of_ones_own_resumes_and_is_evaluated(tmp_path, recipe_file, capsys):
    run = tmp_path / "mine"
    words = [*SMOKE, "--recipe", f"{recipe_file}:adam", "--epochs", "1", "--folder", str(run)]
    assert main(words) == 0 and names(run / "evaluation") == EVALUATION_FILES
    assert runs.about(run)["settings"]["optimizer"]["name"] == "AdamW"
    before = (run / runs.LAST).read_bytes()
    assert main(words) == 0 and (run / runs.LAST).read_bytes() == before


@pytest.mark.parametrize(
    "name,words",
    [
        ("fails", ["fails", "ZeroDivisionError"]),
        ("nothing", ["NoneType", "dict", "optimizer"]),
        ("misspelled", ["'optimiser'", "optimizer"]),
        ("number", ["int", "function"]),
        ("missing", ["it defines no missing"]),
    ],
)
def test_a_broken_recipe_of_ones_own_is_refused(tmp_path, capsys, recipe_file, name, words):
    run = tmp_path / "mine"
    assert main(["train", *SMOKE, "--recipe", f"{recipe_file}:{name}", "--folder", str(run)]) == 1
    message = one_sentence(capsys)
    assert all(word in message for word in ["--recipe", *words]) and not run.exists()


@pytest.mark.parametrize(
    "name,words",
    [
        ("models.py:missing", "missing"),
        ("models.py:fails", "division by zero"),
        ("models.py:too_many", "width"),
        ("models.py:nothing", "NoneType"),
        ("models.py:number", "3 is not"),
        ("models.py:few", r"\[3, 10\]"),
        ("models.py:", "FILE.py:NAME"),
        ("models.py", "FILE.py:NAME"),
        (":Net", "FILE.py:NAME"),
        ("elsewhere.py:Net", "elsewhere.py"),
        ("broken.py:Net", "broken.py"),
        ("raises.py:Net", "raises.py"),
        ("text.txt:Net", "FILE.py:NAME"),
    ],
)
def test_a_wrong_model_is_a_sentence(tmp_path, monkeypatch, capsys, models, name, words):
    monkeypatch.chdir(tmp_path)
    for file, text in (("broken.py", "def f(:"), ("raises.py", "unknown_name"), ("text.txt", "Net")):
        Path(file).write_text(text)
    assert main(["train", *SMOKE, "--model", name, "--folder", "mine"]) == 1
    message = one_sentence(capsys)
    assert re.search(words, message) and not Path("mine").exists()


def test_a_run_of_ones_own_network_needs_it_named(tmp_path, models, capsys):
    run = str(tmp_path / "mine")
    assert main(["train", *SMOKE, "--model", f"{models}:Net", "--folder", run]) == 0
    assert main(["evaluate", run]) == 1
    words = "holds a Net whose code is neither .* or --model FILE.py:NAME on the command line"
    assert re.search(words, one_sentence(capsys))
    assert main(["evaluate", run, "--model", f"{models}:make"]) == 1
    assert "does not fit this model" in one_sentence(capsys)


def test_a_network_that_was_trained_among_the_runs_is_found_again(tmp_path, models, capsys):
    """As the README has it: without naming the run's folder, nor the network a second time."""
    assert main(["train", *SMOKE, "--model", f"{models}:Net"]) == 0
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "gray").save(photo)
    assert main(["evaluate"]) == 0 and main(["classify", str(photo)]) == 0
    assert "by" in capsys.readouterr().out
    assert names(tmp_path / "runs" / "networks") == {next((tmp_path / "runs" / "networks").glob("Net_*.py")).name}


def test_the_network_that_is_kept_is_the_one_that_was_trained(tmp_path, models, monkeypatch, capsys):
    """Not that of a file that was edited while it trained."""
    steps = cli.train.steps

    def editing(*arguments, **options):
        yield from steps(*arguments, **options)
        Path(models).write_text("class Net:\n    pass\n")

    monkeypatch.setattr(cli.train, "steps", editing)
    assert main(["train", *SMOKE, "--model", f"{models}:Net"]) == 0
    capsys.readouterr()
    assert main(["evaluate"]) == 0


def test_an_unfinished_run_is_reported_as_such(tmp_path, monkeypatch, capsys):
    steps = cli.train.steps

    def stopping(*arguments, **options):
        for state in steps(*arguments, **options):
            state.stop = state.epoch == 2
            yield state

    monkeypatch.setattr(cli.train, "steps", stopping)
    assert main(["train", *SMOKE, "--epochs", "3", "--folder", str(tmp_path / "mine")]) == 130
    assert main(["evaluate", str(tmp_path / "mine")]) == 0
    assert "mine is not finished: 2 of 3 epochs." in capsys.readouterr().out


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["classify", "photo.png", "--folder", "mine"])
    message = capsys.readouterr().err
    assert "classify" in message and "--run DIR" in message and "unrecognized arguments: --folder mine" in message


# Images of one's own


@pytest.fixture
def images(tmp_path) -> str:
    """A folder of three classes in train/ and test/."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for number, name in enumerate(("apple", "pear", "plum")):
            (tmp_path / "fruit" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (30, 40, 3), dtype=np.uint8)
                pixels[..., number] += 150
                Image.fromarray(pixels).save(tmp_path / "fruit" / part / name / f"{i}.png")
    return str(tmp_path / "fruit")


def test_images_of_ones_own_are_trained_on_evaluated_and_classified(tmp_path, images, capsys):
    run = tmp_path / "mine"
    assert main([*SMOKE, "--images", images, "--size", "24", "--folder", str(run)]) == 0
    data_ = runs.about(run)["settings"]["data"]
    assert (data_["classes"], data_["size"], data_["source"]) == (["apple", "pear", "plum"], 24, "fruit")
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert list(report["class_accuracy"]) == ["apple", "pear", "plum"] and report["images"] == 12
    assert main(["evaluate", str(run), "--images", images]) == 0  # the size is the run's
    assert main(["evaluate", str(run), "--images", images, "--size", "32"]) == 1
    assert "24 x 24 pixels: leave out --size" in capsys.readouterr().err
    assert main(["train", *SMOKE, "--images", images, "--sample"]) == 1
    assert "--sample is a part of CIFAR-10" in capsys.readouterr().err
    assert runs.about(run)["settings"]["batch_size"] == cli.SMALL_BATCH  # they are few
    assert main(["classify", f"{images}/test/pear/0.png", "--run", str(run)]) == 0
    printed = re.findall(r"^  (\w+) +\d+\.\d%$", capsys.readouterr().out, re.MULTILINE)
    assert sorted(printed[-3:]) == ["apple", "pear", "plum"]


def test_few_images_are_trained_on_in_small_batches(tmp_path, images):
    (tmp_path / "mine.py").write_text(
        "from cifar_utils.train import Shuffle\n"
        "def usual(model, train, *, seed, epochs):\n    return {}\n"
        "def other(model, train, *, seed, epochs):\n    return {'sampler': Shuffle(len(train), 5, seed)}\n"
    )
    for name, size in (("usual", cli.SMALL_BATCH), ("other", 5)):
        options = ["--recipe", f"{tmp_path}/mine.py:{name}", "--folder", str(tmp_path / name)]
        assert main(["train", *SMOKE, "--images", images, "--size", "16", *options]) == 0
        assert runs.about(tmp_path / name)["settings"]["batch_size"] == size


def test_a_folder_without_test_images_is_reported_on_its_validation_images(tmp_path, images, capsys):
    """One sub-folder per class and nothing else, as README and --help have it."""
    plain, run = Path(images) / "train", tmp_path / "mine"
    assert main([*SMOKE, "--images", str(plain), "--size", "24", "--folder", str(run)]) == 0
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert (report["images"], report["split"]) == (3, "validation") and "temperature" not in report
    assert "no folder test/, so this is a report on the validation images" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_are_compared_on_validation_images(run, tmp_path, capsys):
    """To choose between runs; what was found on the test images stays."""
    assert main(["evaluate", str(run)]) == 0
    before = (run / "evaluation" / "report.json").read_bytes()
    shutil.copytree(run, tmp_path / "other")
    words = ["evaluate", str(run), str(tmp_path / "other"), "--validation", "--robustness"]
    assert main([*words, "--output", str(tmp_path / "both")]) == 0
    facts = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert "validation images" in facts["images"]
    assert (run / "evaluation" / "report.json").read_bytes() == before
    report = json.loads((run / "evaluation_validation" / "report.json").read_text())
    assert report["split"] == "validation" and "temperature" not in report
    assert (run / "evaluation_validation" / "robustness.png").exists()
    assert not (run / "evaluation" / "robustness.png").exists()
    capsys.readouterr()
    table = str(run / "evaluation" / "predictions.csv")
    for option in ("--validation", "--tta", "--robustness"):
        assert main(["evaluate", table, "--sample", option]) == 1
        assert f"{table} is a file of predictions" in one_sentence(capsys)


@pytest.mark.skipif(os.name == "nt", reason="links take rights on Windows")
def test_an_evaluation_is_not_written_through_a_link(run, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (run / "evaluation").symlink_to(tmp_path / "elsewhere")
    assert main(["evaluate", str(run), "--robustness"]) == 1
    assert "is a link" in one_sentence(capsys)
    (run / "evaluation").unlink()
    (tmp_path / "both").symlink_to(tmp_path / "elsewhere")
    shutil.copytree(run, tmp_path / "other")
    assert main(["evaluate", str(run), str(tmp_path / "other"), "--output", str(tmp_path / "both")]) == 1
    assert "is a link" in capsys.readouterr().err
    assert names(tmp_path / "elsewhere") == set()


@pytest.mark.slow
def test_tta_robustness_map_and_preview(run, tmp_path, capsys):
    """What notebooks 1, 4, 6 and 7 draw."""
    assert main(["evaluate", str(run)]) == 0
    one = json.loads((run / "evaluation" / "report.json").read_text())
    assert main(["evaluate", str(run), "--tta", "--robustness"]) == 0
    six = json.loads((run / "evaluation" / "report.json").read_text())
    assert six["loss"] != one["loss"] and (one["tta"], six["tta"]) == (False, True)
    capsys.readouterr()
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(photo)
    assert main(["classify", str(photo), "--run", str(run), "--map", str(tmp_path / "map.png")]) == 0
    assert "run evaluate without --tta first" in capsys.readouterr().out  # the temperature is that of six views' mean
    assert main(["preview", "--sample", "--policy", "strong", "--output", str(tmp_path / "preview.png")]) == 0
    for file in (run / "evaluation" / "robustness.png", tmp_path / "map.png", tmp_path / "preview.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 200 and picture.text["Description"]
    assert main(["evaluate", str(run)]) == 0
    assert not (run / "evaluation" / "robustness.png").exists()  # it was that of the evaluation before
    assert main(["preview", "--sample", "--policy", "wild"]) == 1
    assert "--policy 'wild' is neither a file nor one of" in one_sentence(capsys)


def test_a_recipe_with_another_policy_keeps_its_resizing(tmp_path):
    run = tmp_path / "mine"
    assert main(["train", *SMOKE, "--recipe", "fast", "--policy", "light", "--folder", str(run)]) == 0
    transform = runs.about(run)["settings"]["transform"]
    assert transform.startswith("ProgressiveResizing") and repr(PRESETS["light"]) in transform


def test_a_run_on_images_of_ones_own_needs_them_named(tmp_path, images, capsys):
    run = str(tmp_path / "mine")
    assert main(["train", *SMOKE, "--images", images, "--folder", run]) == 0
    assert main(["evaluate", run]) == 1
    assert "was trained on images of fruit: name their folder with --images" in one_sentence(capsys)


def test_without_a_name_the_run_that_was_trained_last_is_meant(tmp_path, monkeypatch):
    """Also where it was resumed, and its best model is older than another run's."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    for name in ("first", "second", "third"):
        train_tiny(tmp_path / name)
    seconds = itertools.count(10)
    for name, file in (("first", runs.BEST), ("second", runs.BEST), ("second", runs.LAST), ("first", runs.LAST)):
        os.utime(tmp_path / name / file, (time.time() + next(seconds),) * 2)
    (tmp_path / "third" / runs.BEST).unlink()
    os.utime(tmp_path / "third" / runs.LAST, (time.time() + next(seconds),) * 2)
    assert cli._latest_run() == tmp_path / "first"
    (tmp_path / "first" / runs.LAST).unlink()  # of a run that ships, there is the best alone
    (tmp_path / "second" / runs.BEST).unlink()
    assert cli._latest_run() == tmp_path / "first"


def test_a_size_needs_images_of_ones_own(tmp_path, capsys):
    assert main(["train", *SMOKE, "--size", "64", "--folder", str(tmp_path / "mine")]) == 1
    assert "--images" in one_sentence(capsys) and not (tmp_path / "mine").exists()


def test_a_folder_of_images_that_is_not_there(tmp_path, capsys):
    assert main(["train", *SMOKE, "--images", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in one_sentence(capsys)


# Which images a run is evaluated on


def test_a_run_on_the_sample_is_evaluated_on_the_sample_even_when_the_full_set_is_there(run, shelf):
    """All images of the sample's training lie in the full set, some of them in its validation split."""
    shelf.full = True
    assert main(["evaluate", str(run), "--data", "somewhere"]) == 0
    assert shelf.asked == [(True, True, "somewhere"), (False, True, "somewhere")]
    assert json.loads((run / "evaluation" / "report.json").read_text())["data"] == "SAMPLE, 40 test images"


def test_a_run_on_the_full_set_is_evaluated_on_the_full_set(tmp_path, shelf, capsys):
    shelf.full = True
    run = str(tmp_path / "full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.PROFILES, "class", replace(settings.PROFILES["class"], sample_epochs=1))
        assert main(["train", "--profile", "class", "--folder", run]) == 0
    assert runs.about(run)["settings"]["data"]["source"] == "CIFAR-10"
    assert main(["evaluate", run]) == 0
    shelf.full = False
    assert main(["evaluate", run]) == 1
    assert "CIFAR-10 is not there" in one_sentence(capsys)
    assert main(["evaluate", run, "--sample"]) == 1
    assert "32 x 32 pixels: leave out --sample" in one_sentence(capsys)
    assert main(["evaluate", run, "--images", "photos"]) == 1
    assert "leave out --images" in one_sentence(capsys)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_run_is_evaluated_on_the_split_that_it_was_trained_on(tmp_path, seed):
    train, val = data.split(parts("SAMPLE")[0], seed=seed)
    model = torch.nn.Sequential(Normalize.from_dataset(train), SmallCNN())
    cli.train.fit(model, train, val, epochs=1, run=tmp_path / "run")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "predict", lambda model, dataset, **_: (seen.append(dataset), predict(model, dataset))[1])
        assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert [dataset.fingerprint() for dataset in seen if dataset.split == "validation"] == [val.fingerprint()]


def test_a_run_on_another_split_is_refused(tmp_path, capsys):
    """Some of the validation images would be training images: the temperature would come out too low."""
    model = torch.nn.Sequential(Normalize(), SmallCNN())
    train_tiny(tmp_path / "run", model, epochs=1)
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert "was trained with other validation images than these" in one_sentence(capsys)
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes"),
    ],
)
def test_too_little_memory_is_one_sentence(monkeypatch, capsys, error):
    def fails(options):
        raise error

    monkeypatch.setattr(cli, "_runs", fails)
    assert main(["runs"]) == 1
    assert "there is too little memory" in one_sentence(capsys)


# Several


@pytest.fixture
def several(tmp_path, run) -> list[str]:
    """A run, its own table of predictions, and two arrays from elsewhere."""
    assert main(["evaluate", str(run)]) == 0
    np.save(tmp_path / "labels.npy", parts("SAMPLE")[1].labels.numpy())
    np.save(tmp_path / "even.npy", np.full((40, 10), 0.1))
    arrays = (str(tmp_path / f"{name}.npy") for name in ("labels", "even"))
    return [str(run), str(run / "evaluation" / "predictions.csv"), *arrays]


def test_several_are_compared(tmp_path, several, capsys):
    assert main(["evaluate", *several, "--output", str(tmp_path / "both")]) == 0
    out = capsys.readouterr().out
    assert "done (the first) and predictions.csv (the second): " in out
    assert "even.npy (the second)" in out and out.count("(the first) and ") == 3
    assert "Of 3 comparisons, one may look significant by chance: only p below 0.05 / 3 is significant." in out
    assert names(tmp_path / "both") == {"comparison.json", "comparison.png"}
    facts = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert facts["p_value_to_be_below"] == pytest.approx(0.05 / 3)
    assert facts["accuracy"]["labels.npy"]["value"] == 1 and facts["accuracy"]["even.npy"]["value"] == 0.1
    assert facts["accuracy"]["done"] == facts["accuracy"]["predictions.csv"]
    assert names(tmp_path / "labels.npy_evaluation") == EVALUATION_FILES - {"reliability.png", "errors.png"}
    assert names(tmp_path / "even.npy_evaluation") == EVALUATION_FILES


def test_runs_may_stand_behind_an_option(tmp_path, several, capsys):
    assert main(["evaluate", several[1], "--output", str(tmp_path / "both"), several[2]]) == 0
    assert "Of " not in capsys.readouterr().out and (tmp_path / "both" / "comparison.png").is_file()
    with pytest.raises(SystemExit):
        main(["evaluate", several[1], "--outptu", "x"])


def test_a_picture_is_not_written_over_a_photo_or_under_another_type(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    before = photo.read_bytes()
    assert main(["classify", str(photo), "--map", str(photo)]) == 1
    assert "--map names the photo itself" in capsys.readouterr().err
    for words in (["classify", str(photo), "--map", "map.jpg"], ["preview", "--output", "preview"]):
        with pytest.raises(SystemExit):
            main(words)
        assert f"'{words[-1]}' must end in .png" in capsys.readouterr().err
    assert photo.read_bytes() == before and names(tmp_path) == {"photo.png"}


def test_a_table_and_an_array_of_one_name_keep_their_own_reports(tmp_path, several):
    shutil.copy(several[1], tmp_path / "even.csv")
    assert main(["evaluate", str(tmp_path / "even.npy"), str(tmp_path / "even.csv")]) == 0
    reports = [json.loads((tmp_path / f"even.{end}_evaluation" / "report.json").read_text()) for end in ("npy", "csv")]
    assert reports[0]["accuracy"] == 0.1 != reports[1]["accuracy"] or reports[0]["loss"] != reports[1]["loss"]


def test_the_comparison_goes_where_runs_are(tmp_path, several):
    assert main(["evaluate", *several[:2]]) == 0
    assert names(tmp_path / "runs" / "comparison") == {"comparison.json", "comparison.png"}


@pytest.mark.slow
def test_runs_of_one_name_are_told_apart(tmp_path, run, capsys):
    for folder in ("a", "b"):
        shutil.copytree(run, tmp_path / folder / "same")
    both = [str(tmp_path / folder / "same") for folder in "ab"]
    assert main(["evaluate", *both, "--output", str(tmp_path / "c")]) == 0
    assert set(json.loads((tmp_path / "c" / "comparison.json").read_text())["accuracy"]) == set(both)


def test_the_same_run_twice_is_refused(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert main(["evaluate", str(run), "done"]) == 1
    assert "named twice" in one_sentence(capsys)


@pytest.mark.parametrize(
    "array,match",
    [
        (np.zeros(39, int), "39 predictions for SAMPLE, 40 test images"),
        (np.full(40, 10), "from 0 to 9"),
        (np.random.default_rng(0).normal(size=(40, 10)), "logits"),
        (np.array([{}] * 40), "Object arrays|not an array"),
        (None, "bad.npy: "),
    ],
    ids=range(5),
)
def test_predictions_from_elsewhere_that_do_not_fit(tmp_path, capsys, array, match):
    (tmp_path / "bad.npy").write_bytes(b"") if array is None else np.save(tmp_path / "bad.npy", array)
    assert main(["evaluate", str(tmp_path / "bad.npy")]) == 1
    message = one_sentence(capsys)
    assert re.search(match, message) and "bad.npy" in message


# One photo


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def probabilities(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^  (\w+) +(\d+\.\d)%$", text, re.MULTILINE)}


def test_a_photo_is_classified_with_the_temperature_that_evaluate_stored(run, photo, capsys):
    model = runs.load(run, torch.nn.Sequential(Normalize(), SmallCNN()))
    assert main(["classify", str(photo), "--run", str(run)]) == 0
    plain = capsys.readouterr().out
    assert "not calibrated: run evaluate first" in plain
    assert main(["classify", str(photo), "--run", str(runs.SHIPPED)]) == 0
    assert "(not calibrated)" in capsys.readouterr().out  # there is nothing that a user could evaluate first
    assert main(["evaluate", str(run)]) == 0
    temperature = json.loads((run / "evaluation" / "report.json").read_text())["temperature"]
    assert temperature != 1
    capsys.readouterr()
    assert main(["classify", str(photo), "--run", str(run)]) == 0
    calibrated = capsys.readouterr().out
    assert f"temperature {temperature:.2f}" in calibrated
    for text, t in ((plain, 1.0), (calibrated, temperature)):
        expected = classify(model, photo, data.CIFAR10_CLASSES, temperature=t)
        assert probabilities(text) == pytest.approx({k: 100 * v for k, v in expected.items()}, abs=0.051)
        assert list(probabilities(text)) == list(expected)


def test_a_temperature_of_another_model_is_not_used(run, photo, capsys):
    assert main(["evaluate", str(run)]) == 0
    path = run / "evaluation" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": "0" * 64}))
    capsys.readouterr()
    assert main(["classify", str(photo), "--run", str(run)]) == 1
    assert "another network" in one_sentence(capsys)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": None}))  # none was fitted
    assert main(["classify", str(photo), "--run", str(run)]) == 0
    assert "not calibrated" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"temperature": "hot"}', '{"temperature": -1}', '{"temperature": [1]}', "[" * 100_000], ids=range(7))  # fmt: skip # noqa: E501
def test_a_damaged_report_is_a_sentence(run, photo, capsys, text):
    (run / "evaluation").mkdir()
    (run / "evaluation" / "report.json").write_text(text)
    assert main(["classify", str(photo), "--run", str(run)]) == 1
    assert "report.json" in one_sentence(capsys)


def test_a_photo_is_classified_by_the_run_trained_last(tmp_path, photo, capsys):
    assert main(["train", *SMOKE, "--folder", str(tmp_path / "runs" / "mine")]) == 0
    assert main(["classify", str(photo)]) == 0
    assert f"by {tmp_path / 'runs' / 'mine'}" in capsys.readouterr().out


def test_without_a_run_the_shipped_network_classifies(photo, capsys):
    assert main(["classify", str(photo)]) == 0
    out = capsys.readouterr().out
    assert str(runs.SHIPPED) in out and set(probabilities(out)) == set(data.CIFAR10_CLASSES)


@pytest.mark.parametrize("name", ["missing.png", "text.png", "folder"])
def test_a_photo_that_is_none(tmp_path, run, capsys, name):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    assert main(["classify", str(tmp_path / name), "--run", str(run)]) == 1
    assert name in one_sentence(capsys)


# What it says when something is wrong


def test_evaluating_a_run_that_is_not_there(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "nothing")]) == 1
    assert str(tmp_path / "nothing") in one_sentence(capsys)


def test_evaluating_a_folder_without_a_run(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 1
    message = one_sentence(capsys)
    assert str(tmp_path / runs.BEST) in message and "Train first" in message


def test_evaluating_without_any_run(capsys):
    assert main(["evaluate"]) == 1
    assert "Train first" in one_sentence(capsys)


def test_a_damaged_checkpoint(run, capsys):
    (run / runs.BEST).write_bytes((run / runs.BEST).read_bytes()[:1000])
    assert main(["evaluate", str(run)]) == 1
    assert "best.safetensors is cut off" in one_sentence(capsys)


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"twist": 1}', '{"degrees": 999}', "\0"])
def test_a_bad_policy(tmp_path, capsys, text):
    file = tmp_path / "policy.json"
    if text is not None:
        file.write_text(text)
    assert main(["train", *SMOKE, "--policy", str(file), "--folder", str(tmp_path / "mine")]) == 1
    message = one_sentence(capsys)
    assert "--policy" in message and str(file) in message
    assert not (tmp_path / "mine").exists()


def test_a_run_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*SMOKE, "--folder", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in one_sentence(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root cannot write")
def test_a_run_folder_that_cannot_be_written_to(capsys):
    assert main([*SMOKE, "--folder", "/proc/self/mine"]) == 1
    assert "/proc/self/mine" in one_sentence(capsys)


def test_other_settings_in_the_folder_are_refused(run, capsys):
    assert main(["train", *SMOKE, "--folder", str(run), "--seed", "1"]) == 1
    assert "seed was 0 and is 1" in one_sentence(capsys)


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_figures_are_not_written_through_a_link(tmp_path):
    run, victim = tmp_path / "mine", tmp_path / "victim"
    victim.write_text("mine")
    assert main(["train", *SMOKE, "--folder", str(run)]) == 0
    (run / "training_curves.png").unlink()
    (run / "training_curves.png").symlink_to(victim)
    assert main(["train", *SMOKE, "--folder", str(run)]) == 0
    assert victim.read_text() == "mine" and (run / "training_curves.png").stat().st_size > 100


@pytest.mark.parametrize("error", [data.DataError, OSError, FloatingPointError])
def test_trouble_is_said_in_a_sentence(tmp_path, capsys, monkeypatch, error):
    def fail(*_):
        raise error("what is wrong and what to do")

    monkeypatch.setattr(data, "cifar10", fail)
    assert main(["--folder", str(tmp_path / "mine")]) == 1
    assert one_sentence(capsys) == "error: what is wrong and what to do"


def test_a_wrong_profile_in_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "huge")
    assert main(["train"]) == 1
    assert "CIFAR_PROFILE must be one of smoke, class, long" in one_sentence(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["--profile", "huge"],
        ["--epochs", "0"],
        ["--epochs", "1.5"],
        ["--epochs", "²"],
        ["--seed", "-1"],
        ["--seed", str(2**63)],
        ["--epochs"],
        ["--fold", "mine"],  # no abbreviations: torchrun's options must not be taken for ours either
        ["--size", "15"],
        ["--size", "257"],
        ["evaluate", "--policy", "full"],
        ["evaluate", "--seed", "1"],
        ["classify"],
        ["classify", "a.png", "b.png"],
        ["download", "--sample"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m cifar_utils") and "error: " in err.splitlines()[-1]


def test_the_largest_seed_works(tmp_path):
    assert main(["train", *SMOKE, "--seed", str(2**63 - 1), "--folder", str(tmp_path / "mine")]) == 0


@pytest.mark.parametrize("at", ["the first epoch", "the last validation"])
def test_the_stop_button(tmp_path, capsys, monkeypatch, at):
    """In the last epoch's validation as well: it does not go on to the test images."""
    module, name = (cli.train, "apply_transform") if at == "the first epoch" else (cli.train, "predict")
    function = getattr(module, name)

    def stop(*arguments):
        signal.raise_signal(signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(module, name, stop)
    assert main([*SMOKE, "--folder", str(tmp_path / "mine")]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."
    assert "evaluation" not in names(tmp_path / "mine")


# What it says when asked


COMMANDS = ("run", "train", "sweep", "evaluate", "classify", "download")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids="".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, command, flag):
    with pytest.raises(SystemExit) as caught:
        main([*command, flag])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(" ".join(["usage: python -m cifar_utils", *command]))
    examples = [line for line in text.partition("examples:")[2].splitlines() if line.strip()]
    assert command == ["run"] or examples and all("python -m cifar_utils " in line for line in examples[: len(command)])
    assert not command or all(f"cifar_utils {command[0]} " in line for line in examples)  # the command's own alone
    assert command or "exit codes: 0 done; 1 " in text and "130 stopped" in text
    assert command or all(f"{word} " in text for word in COMMANDS)
    assert "train" not in command or all(name in text for name in [*PRESETS, *settings.PROFILES])


def test_the_examples_of_the_help_are_right(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^  python -m cifar_utils(.*?)(?:   *\w.*)$", cli.EPILOG, re.MULTILINE)
    assert len(examples) >= 5
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda *_: None)
    for name in (*COMMANDS, "preview", "sweep", "doctor", "reset", "copies", "prepare_room"):
        monkeypatch.setattr(cli, f"_{name}", lambda _: None)
    for example in examples:
        try:
            assert main(shlex.split(example)) == 0
        except SystemExit as ended:  # --help
            assert ended.code == 0
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("command", ["run", "train"])
def test_no_option_is_a_prefix_of_one_of_torchruns(monkeypatch, command):
    """torchrun reads the whole command line, with abbreviations: it would take --run for its own --run-path."""
    from torch.distributed.run import get_args_parser

    theirs = [option for action in get_args_parser()._actions for option in action.option_strings]
    parsers = []
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", lambda self, _: (parsers.append(self), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            cli.parse([])
    (commands,) = (a for a in parsers[0]._actions if isinstance(a, argparse._SubParsersAction))
    ours = [option for action in commands.choices[command]._actions for option in action.option_strings]
    shared = {"-h", "--help"}
    assert len(ours) > 2 and [(a, b) for a in set(ours) - shared for b in theirs if b.startswith(a)] == []


def test_torchrun_leaves_every_option_alone():
    from torch.distributed.run import get_args_parser

    ours = ["train", "--folder", "x", "--seed", "1", "--policy", "full", "--recipe", "fast", "--model", "m.py:N"]
    ours += ["--epochs", "2", "--profile", "smoke", "--data", "d", "--images", "i", "--size", "32", "--sample"]
    found = get_args_parser().parse_args(["--nproc-per-node", "1", "-m", "cifar_utils", *ours])
    assert (found.training_script, found.training_script_args) == ("cifar_utils", ours)


# As a user runs it


def environment(tmp_path: Path, **changes) -> dict[str, str]:
    """No profile but the command's, folders that must stay empty, and one thread, as others compute here as well."""
    own = {"CIFAR_RUNS": str(tmp_path / "runs"), "CIFAR10_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name != "CIFAR_PROFILE"} | own | changes


COMMAND = [sys.executable, "-m", "cifar_utils"]


@pytest.mark.slow
def test_from_nothing_to_a_report(tmp_path):
    run = tmp_path / "mine"
    command, options = [*COMMAND, *SMOKE, "--folder", str(run)], {"cwd": tmp_path, "env": environment(tmp_path)}
    done = subprocess.run(command, **options, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path) == {"mine"}  # no data directory, no runs elsewhere
    assert names(run) == RUN_FILES | {"evaluation"} and names(run / "evaluation") == EVALUATION_FILES
    history = json.loads((run / "history.json").read_text())
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert len(history) == 1 and sum(map(sum, report["confusion_matrix"])) == 1000
    assert report["accuracy"] > 0.12  # guessing: 0.1
    assert "SAMPLE, 3,600 training images" in done.stdout and "SAMPLE, 1,000 test images" in done.stdout
    assert "\r" not in done.stdout and max(map(len, done.stdout.splitlines())) < 400


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm(tmp_path, images, number):
    run = tmp_path / "mine"
    process = subprocess.Popen(
        [*COMMAND, "train", "--images", images, "--epochs", "100000", "--folder", str(run)], cwd=tmp_path,
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (run / "history.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and err.strip() == "Stopped."
    epochs = len(json.loads((run / "history.json").read_text()))
    assert f"Stopped in epoch {epochs + 1} and saved in {run}." in out
    assert runs.about(run, "last")["epoch"] == epochs


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize("module", ["argparse", "numpy", "torch", "matplotlib", "cifar_utils.train"])
def test_ctrl_c_while_it_starts(tmp_path, module):
    """Before the import of one of the modules that the command needs: these imports take seconds."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "def press(event, arguments):\n"
        f"    if event == 'import' and arguments[0] == {module!r} and 'cifar_utils' in sys.modules:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "sys.addaudithook(press)\n"
    )
    options = {"cwd": tmp_path, "env": environment(tmp_path, PYTHONPATH=str(tmp_path)), "timeout": 120}
    done = subprocess.run([*COMMAND, "train", *SMOKE], **options, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")  # no traceback


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_within_an_exec_of_an_import(tmp_path):
    """CPython would end the process by the signal afterwards, even though the exception was caught."""
    press = "import signal; signal.raise_signal(signal.SIGINT)"
    start = "import sys; from cifar_utils import __main__ as main, cli\n"
    (tmp_path / "start.py").write_text(start + f"cli.run = lambda _: exec({press!r})\nsys.exit(main.main())")
    options = {"cwd": tmp_path, "env": environment(tmp_path), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-m", "start"], **options)
    assert (done.returncode, done.stderr.strip()) == (130, "Stopped.")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_reader_that_ends_is_not_the_runs_fault(tmp_path, images):
    """As in `train | head -1`: not a word of folders that cannot be written to, and the run resumes."""
    run = tmp_path / "mine"
    command = shlex.join([*COMMAND, "train", "--images", images, "--epochs", "10", "--folder", str(run)])
    options = {"cwd": tmp_path, "env": environment(tmp_path), "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(f"({command}; echo code $? >&2) | head -1", shell=True, **options)
    assert done.stdout.count("\n") == 1
    message = "error: the program that read this output has ended; the same command resumes"
    assert done.stderr.splitlines() == [message, "code 1"]
    assert subprocess.run(shlex.split(command), **options).returncode == 0


@pytest.mark.slow
def test_any_name_of_a_run_works(tmp_path, images):
    """In figures, where $ begins a formula, and in a terminal that cannot show it."""
    name = r"$\frac$ 運行 é & #1 %d {x}"
    options = {"cwd": tmp_path, "env": environment(tmp_path, PYTHONIOENCODING="cp1252"), "timeout": 300}
    command = [*COMMAND, "--images", images, "--size", "16", "--epochs", "1", "--folder", name]
    done = subprocess.run(command, **options, capture_output=True)
    assert done.returncode == 0 and b"error" not in done.stderr.lower()
    assert names(tmp_path / name / "evaluation") == EVALUATION_FILES


@pytest.mark.slow
def test_one_s_own_network_is_compared_with_the_plain_one(tmp_path, models, capsys):
    """The option names the network of one of the two runs."""
    mine, plain = str(tmp_path / "mine"), str(tmp_path / "plain")
    assert main(["train", *SMOKE, "--model", f"{models}:Net", "--folder", mine]) == 0
    assert main(["train", *SMOKE, "--folder", plain]) == 0
    compared = ["evaluate", plain, mine, "--output", str(tmp_path / "compared")]
    assert main([*compared, "--model", f"{models}:Net"]) == 0
    assert "McNemar's exact p" in capsys.readouterr().out
    kept = settings.network_file().parent / network_file.KEPT / "Mine.py"  # as notebook 2 saves it: not to be named
    kept.parent.mkdir(parents=True)
    kept.write_text(f"{Path(models).read_text()}\nMine = Net\n")
    (kept.parent / "Broken.py").write_text("def broken(classes):\n    raise RuntimeError\n")  # and newer
    assert main(compared) == 0
