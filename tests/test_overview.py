"""The table of all runs: what it tells, what it leaves out, and what may be deleted."""

import json
import re
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tiny import narrow, tiny, train_tiny
from torchvision.transforms import v2

from cifar_utils import overview, runs
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.cli import run as main
from cifar_utils.evaluation.metrics import wilson_interval
from cifar_utils.identity import label
from cifar_utils.models import SmallCNN


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of all runs."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    return tmp_path


def train(**options):
    """A run of two epochs in a folder that `fit` names."""
    model = narrow()
    if "lr" in options:
        options["optimizer"] = torch.optim.AdamW(model.parameters(), lr=options.pop("lr"))
    return train_tiny(None, model, **options)


@pytest.mark.parametrize(
    "transform,words",
    [
        (None, "none"),
        ([], "none"),
        (PRESETS["full"], "full"),
        (PRESETS["none"], "none"),
        (Policy(flip_p=0.5), "flip_p=0.5"),
        (PRESETS["full"].scaled(1.5), "full degrees=15 translate=0.15x0.15 scale=0.85x1.15"),
        ([PRESETS["light"], v2.RandomErasing()], "light + RandomErasing"),
        (v2.Compose([v2.RandomCrop(32, 4), v2.RandAugment()]), "RandomCrop + RandAugment"),
        (train, "train"),
    ],
)
def test_a_transform_in_a_few_words(transform, words):
    assert label(transform).startswith(words)


def test_a_run_whose_rate_was_changed_by_hand_says_so(home):
    train()
    train(seed=1, between=lambda state: setattr(state, "learning_rate_scale", 2.0))
    words = [run.words["optimizer"] for run in overview.find_runs()]
    assert sorted(words) == ["SGD 0.1", "SGD 0.1, rate changed by hand"]
    assert "rate changed by hand" in overview.table(overview.find_runs())


def test_a_run_is_named_after_what_it_trains(home):
    train()
    train(transform=PRESETS["light"], seed=3)
    train(lr=0.01, epochs=1)
    names = sorted(folder.name for folder in home.iterdir())
    for name, words in zip(
        names, ("full_AdamW-0.01_1-epochs", "full_SGD-0.1_2-epochs", "light_SGD-0.1_2-epochs_seed-3")
    ):
        assert re.fullmatch(rf"SmallCNN_{words}_[0-9a-f]{{6}}", name)


def test_the_table_has_what_differs_and_the_best_run_first(home):
    train()
    train(lr=0.01, epochs=1)
    found = overview.find_runs()
    header, *rows = overview.table(found).splitlines()
    assert re.split(r"  +", header.strip()) == [
        "optimizer", "epochs", "validation accuracy", "minutes", "folder",
    ]  # fmt: skip
    assert found[0].accuracy[0] >= found[1].accuracy[0] and len(rows) == 2
    for number, (run, row) in enumerate(zip(found, rows)):
        best = min(json.loads((run.folder / "history.json").read_text()), key=lambda row: row["validation_loss"])
        value, count = best["validation_accuracy"], len(tiny(32, "validation"))
        assert run.accuracy == (value, *wilson_interval(round(value * count), count))
        assert row.startswith(str(number)) and row.endswith(f"…{run.folder.name[-6:]}") and f"{value:.1%} (" in row
        assert f"{run.epoch} of {run.epochs}" in row


def test_a_stopped_run_says_how_far_it_got(home):
    train(stop_after=1)
    (run,) = overview.find_runs()
    assert (run.epoch, run.epochs, run.accuracy) == (0, 2, None)
    assert "0 of 2" in overview.table([run]) and "none yet" in overview.table([run])


def test_only_runs_with_the_same_validation_images_are_compared(home):
    train()
    assert len(overview.find_runs(tiny(32, "validation"))) == 1
    assert overview.find_runs(tiny(31, "validation")) == []


def test_a_folder_that_cannot_be_listed_is_left_out_and_named(home, monkeypatch, capsys):
    train()
    (folder,) = home.iterdir()
    listed = Path.iterdir

    def refuse(self):
        if self == folder:
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert overview.find_runs() == []
    assert f"Left out: {folder.name}" in capsys.readouterr().out


INFINITE = '[{"validation_loss": 1.0, "validation_accuracy": Infinity, "seconds": 1.0}]'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}}', "[" * 100_000, INFINITE])
@pytest.mark.parametrize("file", ["run.json", "history.json"])
def test_a_damaged_run_is_left_out_and_named(home, capsys, file, content):
    if (file, content) == ("history.json", "[]"):
        pytest.skip("a run before its first epoch")
    train()
    (folder,) = home.iterdir()
    (folder / file).write_text(content)
    assert overview.find_runs() == []
    assert f"Left out: {folder.name}" in capsys.readouterr().out


def test_without_runs_the_table_says_so(home, capsys):
    assert main(["runs"]) == 0
    assert "There are no runs" in capsys.readouterr().out


def test_what_is_half_deleted_can_be_deleted_again(home, monkeypatch):
    train()
    (folder,) = home.iterdir()
    real = Path.unlink

    def fails(path, *args, **options):
        if path.name == "best.safetensors":
            raise PermissionError(13, "open elsewhere")
        real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        with pytest.raises(CheckpointError, match="cannot be deleted: open elsewhere"):
            overview.delete(folder)
    overview.delete(folder)
    assert not folder.exists()


# The command line


@pytest.mark.parametrize("answer,is_there", [("yes\n", False), ("y\n", True), ("\n", True), ("", True)])
def test_deleting_asks(home, monkeypatch, capsys, answer, is_there):
    import io

    train()
    (folder,) = home.iterdir()
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["runs", "--delete", str(folder)]) == 0
    assert folder.exists() == is_there
    assert "Type yes" in capsys.readouterr().out


@pytest.mark.parametrize("which", [slice(None), slice(-6, None)])
def test_a_run_is_found_by_its_name_alone(home, monkeypatch, capsys, tmp_path_factory, which):
    """In JupyterLab's terminal, which may be in another folder; the table has the name's end."""
    import io

    train()
    (folder,) = home.iterdir()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr("sys.stdin", io.StringIO("no"))
    assert main(["runs", "--delete", folder.name[which]]) == 0
    assert f"Delete {folder}" in (out := capsys.readouterr().out) and "Nothing was deleted" in out and folder.exists()


def test_names_with_the_same_end_are_shown_as_a_whole(home):
    names = ("augmentation_strong_final", "augmentation_light_final", "augmentation_none_other")
    for seed, name in enumerate(names):
        train_tiny(home / name, seed=seed, epochs=1)
    table = overview.table(overview.find_runs())
    assert names[0] in table and names[1] in table and "…_other" in table and names[2] not in table


def test_an_end_that_two_runs_share_names_neither(home, capsys):
    for name in ("one_123456", "two_123456", "three_3456"):
        (home / name).mkdir(parents=True)
        (home / name / "run.json").write_text("{}")
    for end in ("123456", "3456"):
        assert main(["runs", "--delete", end]) == 1
        assert "not the folder of a run" in capsys.readouterr().err


def test_what_is_no_run_is_not_deleted(home, tmp_path):
    precious = tmp_path / "photos"
    precious.mkdir()
    train()
    link = tmp_path / "link"
    link.symlink_to(next(home.glob("SmallCNN*")))
    for folder in (precious, tmp_path / "missing", link):
        with pytest.raises(CheckpointError, match="not the folder of a run"):
            overview.delete(folder)
    assert precious.exists() and link.exists()


def test_a_run_that_trains_is_not_deleted(home):
    train()
    (folder,) = home.iterdir()
    with FileLock(folder / ".lock"), pytest.raises(CheckpointError, match="in use"):
        overview.delete(folder)
    assert (folder / runs.BEST).exists()


def test_runs_that_are_equal_in_a_few_words_tell_what_else_differs(home):
    """Two momenta and two widths: the optimizer's and the network's names are the same."""
    for momentum in (0.5, 0.9):
        model = narrow()
        train_tiny(None, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum))
    header, *rows = overview.table(overview.find_runs()).splitlines()
    assert "also" in header and "optimizer" not in header
    assert {re.search(r"momentum [\d.]+", row)[0] for row in rows} == {"momentum 0.5", "momentum 0.9"}
    train(lr=0.01)
    assert "weight_decay" not in overview.table(overview.find_runs())  # of another optimizer: no news


def test_two_widths_are_told_apart(home):
    train()
    train_tiny(None, torch.nn.Sequential(narrow()[0], SmallCNN(10, widths=(8, 16, 16))))
    rows = overview.table(overview.find_runs()).splitlines()[1:]
    assert len({re.search(r"parameters [\d,]+", row)[0] for row in rows}) == 2
