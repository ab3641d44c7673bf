"""The command line, in this process on a few images, and once as a user runs it."""

import argparse
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
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny, train_tiny

from cifar_utils import __main__ as cli
from cifar_utils import checkpoint, data, download, evaluation, runs, settings, training
from cifar_utils.augment import augment
from cifar_utils.policy import PRESETS, Policy
from cifar_utils.predictions import predict
from cifar_utils.report import report as text_of

RUN_FILES = {
    "best.safetensors", "last.safetensors", "last.former.safetensors", "history.json", "training_curves.png",
    "tensorboard", "owner.json", ".lock",
}  # fmt: skip
EVALUATION_FILES = {
    "report.json", "classes.csv", "predictions.csv", "confusion_matrix.png", "class_accuracy.png", "reliability.png",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    """Three small splits instead of CIFAR-10, and one thread, as in `train_tiny`."""
    training_split, validation, test = tiny(64), tiny(32, "validation"), tiny(40, "test")
    monkeypatch.setattr(data, "load_training", lambda *_: (training_split, validation))
    monkeypatch.setattr(data, "load_test", lambda *_: test)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a finished run."""
    train_tiny(tmp_path / "done", epochs=1)
    return tmp_path / "done"


def one_sentence(capsys) -> str:
    """What main said on standard error: one line, no traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) > 20
    return lines[0]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What it does


@pytest.mark.parametrize("command", [[], ["run"]])
def test_it_trains_and_evaluates(tmp_path, capsys, command):
    run = tmp_path / "mine"
    assert cli.main([*command, "--profile", "smoke", "--run", str(run), "--policy", "light", "--seed", "3"]) == 0
    assert names(run) == RUN_FILES | {"evaluation"} and names(run / "evaluation") == EVALUATION_FILES
    setting = checkpoint.load(run / runs.BEST).meta["setting"]
    expected = training.Config.of(settings.PROFILES["smoke"], tiny(), seed=3)
    assert (expected.epochs, expected.batch_size, expected.skip) == (1, 250, 0)  # few images: none is left out
    assert setting["config"] == json.loads(json.dumps(vars(expected)))
    assert Policy.from_json(json.dumps(setting["policy"])) == PRESETS["light"]
    report = json.loads((run / "evaluation" / "report.json").read_text())
    network, normalisation, _ = training.restore(run / runs.BEST)
    predictions, validation = (
        predict(network, tiny(n, s), normalisation) for n, s in ((40, "test"), (32, "validation"))
    )
    assert report["accuracy"] == pytest.approx(predictions.accuracy)
    assert report["loss"] == pytest.approx(predictions.loss, rel=1e-5)
    assert report["confusion_matrix"] == evaluation.confusion_matrix(predictions).tolist()
    assert list(report["classwise_accuracy"]) == list(data.CLASSES) and report["data"] == "SAMPLE, 40 test images"
    out = capsys.readouterr()
    assert text_of(predictions, "mine, epoch 1: SAMPLE, 40 test images", validation) in out.out and not out.err
    for picture in ("training_curves.png", "evaluation/confusion_matrix.png", "evaluation/class_accuracy.png"):
        with Image.open(run / picture) as image:
            assert "SAMPLE" in image.text["Description"]


def test_train_only_trains(tmp_path):
    assert cli.main(["train", "--profile", "smoke", "--epochs", "2", "--run", str(tmp_path / "mine")]) == 0
    assert names(tmp_path / "mine") - {"best.former.safetensors"} == RUN_FILES
    assert checkpoint.load(tmp_path / "mine" / runs.LAST).meta["state"]["epoch"] == 2


def test_the_profile_says_how_wide_the_network_is(tmp_path, monkeypatch, capsys):
    profile = replace(settings.PROFILES["smoke"], widths=(8, 16, 16))
    monkeypatch.setitem(settings.PROFILES, "smoke", profile)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # test_compiling.py has the real one
    assert cli.main(["train", "--profile", "smoke", "--compile", "--run", str(tmp_path / "mine")]) == 0
    network, _, about = training.restore(tmp_path / "mine" / runs.BEST)
    assert network.widths == (8, 16, 16) and about["setting"]["config"]["compile"]


def test_evaluate_only_evaluates(run, capsys, monkeypatch):
    before = (run / runs.BEST).read_bytes()
    monkeypatch.chdir(run)
    assert cli.main(["evaluate", "."]) == 0  # where one is, has a name as well
    assert "done, epoch 1: SAMPLE, 40 test images" in capsys.readouterr().out
    assert names(run / "evaluation") == EVALUATION_FILES and (run / runs.BEST).read_bytes() == before


def test_the_default_run_is_named_after_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    assert cli.main(["--profile", "smoke", "--epochs", "1"]) == 0
    assert names(tmp_path) == {"smoke"}
    monkeypatch.setenv("CIFAR_PROFILE", "smoke")
    assert cli.main(["evaluate"]) == 0


def test_the_policy_may_be_a_file(tmp_path):
    policy = Policy(degrees=7, fill=99)
    (tmp_path / "policy.json").write_text(policy.to_json())
    run = tmp_path / "mine"
    assert cli.main(["train", "--profile", "smoke", "--run", str(run), "--policy", str(tmp_path / "policy.json")]) == 0
    saved = checkpoint.load(run / runs.LAST).meta["setting"]["policy"]
    assert Policy.from_json(json.dumps(saved)) == policy


def test_a_class_without_images_is_null_in_the_report(run, monkeypatch):
    test = tiny(40, "test")
    monkeypatch.setattr(data, "load_test", lambda *_: test.select((test.labels != 3).nonzero()[:, 0]))
    assert cli.main(["evaluate", str(run)]) == 0

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    report = json.loads((run / "evaluation" / "report.json").read_text(), parse_constant=forbidden)
    assert report["classwise_accuracy"]["cat"] is None and report["classwise_accuracy"]["dog"] is not None


@pytest.mark.parametrize("sample_flag", [[], ["--sample"]])
@pytest.mark.parametrize("trained_on_sample", [True, False])
def test_the_test_images_are_of_the_same_kind_as_the_training_images(run, monkeypatch, sample_flag, trained_on_sample):
    saved, asked = checkpoint.load(run / runs.BEST), []
    saved.meta["setting"]["data"]["is_sample"] = trained_on_sample
    checkpoint.save(run / runs.BEST, saved.tensors, saved.meta)
    monkeypatch.setattr(data, "load_test", lambda *arguments: (asked.append(arguments), tiny(40, "test"))[1])
    assert cli.main(["evaluate", str(run), "--data", "somewhere", *sample_flag]) == 0
    assert asked == [("somewhere", True if sample_flag or trained_on_sample else None)]


@pytest.fixture
def several(tmp_path, run) -> list[str]:
    """A run, its own table of predictions, and two arrays of somebody else's."""
    assert cli.main(["evaluate", str(run)]) == 0
    test = tiny(40, "test")
    np.save(tmp_path / "labels.npy", test.labels.numpy())
    np.save(tmp_path / "even.npy", np.full((40, 10), 0.1))
    return [
        str(run),
        str(run / "evaluation" / "predictions.csv"),
        *(str(tmp_path / f"{n}.npy") for n in ("labels", "even")),
    ]


def test_several_are_compared(tmp_path, several, capsys):
    assert cli.main(["evaluate", *several, "--output", str(tmp_path / "both")]) == 0
    out = capsys.readouterr().out
    assert "done (the first) and predictions.csv (the second): 40 images: the first alone is right on 0" in out
    assert "even.npy (the second)" in out and out.count("McNemar") == 3
    assert names(tmp_path / "both") == {"comparison.json", "comparison.png"}
    facts = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert facts["accuracy"]["labels.npy"]["value"] == 1 and facts["accuracy"]["even.npy"]["value"] == 0.1
    assert facts["accuracy"]["done"] == facts["accuracy"]["predictions.csv"]
    assert names(tmp_path / "labels_evaluation") == EVALUATION_FILES - {"reliability.png"}
    assert names(tmp_path / "even_evaluation") == EVALUATION_FILES


def test_the_comparison_goes_where_runs_are(tmp_path, several, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    assert cli.main(["evaluate", *several[:2]]) == 0
    assert names(tmp_path / "runs" / "comparison") == {"comparison.json", "comparison.png"}


def test_runs_of_one_name_are_told_apart(tmp_path, run, capsys):
    for folder in ("a", "b"):
        shutil.copytree(run, tmp_path / folder / "same")
    assert cli.main(["evaluate", *(str(tmp_path / f / "same") for f in "ab"), "--output", str(tmp_path / "c")]) == 0
    assert set(json.loads((tmp_path / "c" / "comparison.json").read_text())["accuracy"]) == {
        str(tmp_path / f / "same") for f in "ab"
    }


@pytest.mark.parametrize(
    "array,match",
    [
        (np.zeros(39, int), "39 predictions for SAMPLE, 40 test images"),
        (np.full(40, 10), "each must be a whole number from 0 to 9"),
        (np.random.default_rng(0).normal(size=(40, 10)), "are these logits"),
        (np.array([{}] * 40), "bad.npy: Object arrays cannot be loaded"),
        (None, "bad.npy: "),
    ],
)
def test_predictions_from_elsewhere_that_do_not_fit(tmp_path, capsys, array, match):
    (tmp_path / "bad.npy").write_bytes(b"") if array is None else np.save(tmp_path / "bad.npy", array)
    assert cli.main(["evaluate", str(tmp_path / "bad.npy")]) == 1
    assert match in one_sentence(capsys)


def test_download_is_patient_and_checks(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(download, "ensure", lambda directory, patience: calls.append((directory, patience)))
    monkeypatch.setattr(download, "check", lambda directory: calls.append(directory))
    assert cli.main(["download", "--data", str(tmp_path)]) == 0
    assert calls == [(tmp_path, 24 * 60), tmp_path]
    assert str(tmp_path) in capsys.readouterr().out


# What it says when something is wrong


def test_evaluating_a_run_that_is_not_there(tmp_path, capsys):
    assert cli.main(["evaluate", str(tmp_path / "nothing")]) == 1
    message = one_sentence(capsys)
    assert str(tmp_path / "nothing" / runs.BEST) in message and "Train first" in message


def test_a_damaged_checkpoint(run, capsys):
    (run / runs.BEST).write_bytes((run / runs.BEST).read_bytes()[:1000])
    assert cli.main(["evaluate", str(run)]) == 1
    assert "best.safetensors is cut off" in one_sentence(capsys)


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"twist": 1}', '{"degrees": 999}', "\0"])
def test_a_bad_policy(tmp_path, capsys, text):
    file = tmp_path / "policy.json"
    if text is not None:
        file.write_text(text)
    assert cli.main(["train", "--policy", str(file), "--run", str(tmp_path / "mine")]) == 1
    message = one_sentence(capsys)
    assert "--policy" in message and str(file) in message
    assert not (tmp_path / "mine").exists()


def test_a_run_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["--profile", "smoke", "--run", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in one_sentence(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root cannot write")
def test_a_run_folder_that_cannot_be_written_to(capsys):
    assert cli.main(["--profile", "smoke", "--run", "/proc/self/mine"]) == 1
    assert "/proc/self/mine" in one_sentence(capsys)


@pytest.mark.parametrize("error", [download.DataError, OSError, FloatingPointError])
def test_trouble_is_said_in_a_sentence(tmp_path, capsys, monkeypatch, error):
    def fail(*_):
        raise error("what is wrong and what to do")

    monkeypatch.setattr(data, "load_training", fail)
    assert cli.main(["--run", str(tmp_path / "mine")]) == 1
    assert one_sentence(capsys) == "error: what is wrong and what to do"


def test_a_wrong_profile_in_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "huge")
    assert cli.main(["train"]) == 1
    assert "CIFAR_PROFILE must be one of smoke, class, full" in one_sentence(capsys)


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
        ["evaluate", "--policy", "full"],
        ["evaluate", "--seed", "1"],
        ["download", "--sample"],
    ],
)
def test_wrong_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m cifar_utils") and "error: " in err.splitlines()[-1]


def test_the_largest_seed_works(tmp_path):
    assert cli.main(["train", "--profile", "smoke", "--seed", str(2**63 - 1), "--run", str(tmp_path / "mine")]) == 0


def test_the_stop_button(tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        signal.raise_signal(signal.SIGINT)
        return augment(*arguments)

    monkeypatch.setattr(training, "augment", stop)
    assert cli.main(["--profile", "smoke", "--run", str(tmp_path / "mine")]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."
    assert "evaluation" not in names(tmp_path / "mine")


# What it says when asked


@pytest.mark.parametrize("command", [[], ["run"], ["train"], ["evaluate"], ["download"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, command, flag):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, flag])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(" ".join(["usage: python -m cifar_utils", *command]))
    assert "examples:" in text and "exit codes: 0 done; 1 " in text and "130 stopped" in text
    assert command or all(word in text for word in ("run ", "train ", "evaluate ", "download "))
    assert "train" not in command or all(name in text for name in [*PRESETS, *settings.PROFILES])


def test_the_examples_of_the_help_are_right(monkeypatch):
    examples = re.findall(r"^  python -m cifar_utils(.*?)(?:   *\w.*)$", cli.EPILOG, re.MULTILINE)
    assert len(examples) >= 5
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda *_: None)
    for action in ("_run", "_train", "_evaluate", "_download"):
        monkeypatch.setattr(cli, action, lambda _: None)
    for example in examples:
        try:
            assert cli.main(shlex.split(example)) == 0
        except SystemExit as ended:  # --help
            assert ended.code == 0


# As a user runs it


def environment(tmp_path: Path) -> dict[str, str]:
    """No profile but the command's, folders that must stay empty, and one thread, as others compute here as well."""
    own = {"CIFAR_RUNS": str(tmp_path / "runs"), "CIFAR10_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name != "CIFAR_PROFILE"} | own


COMMAND = [sys.executable, "-m", "cifar_utils"]


@pytest.mark.slow
def test_from_nothing_to_a_report(tmp_path):
    run = tmp_path / "mine"
    done = subprocess.run(
        [*COMMAND, "--profile", "smoke", "--run", str(run)], cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path) == {"mine"}  # no data directory, no runs elsewhere
    assert names(run) == RUN_FILES | {"evaluation"} and names(run / "evaluation") == EVALUATION_FILES
    history = json.loads((run / "history.json").read_text())
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert len(history) == 1 and sum(map(sum, report["confusion_matrix"])) == 1000
    assert report["accuracy"] > 0.2  # guessing: 0.1
    assert "SAMPLE, 3,600 training images" in done.stdout and "SAMPLE, 1,000 test images" in done.stdout
    assert "\r" not in done.stdout and max(map(len, done.stdout.splitlines())) < 400


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm(tmp_path, number):
    run = tmp_path / "mine"
    process = subprocess.Popen(
        [*COMMAND, "train", "--sample", "--epochs", "500", "--run", str(run)], cwd=tmp_path,
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
    assert checkpoint.load(run / runs.LAST).meta["state"]["epoch"] == epochs
