"""Catching up: what is missing is there afterwards, and what was there is as before."""

from dataclasses import replace

import pytest
from tiny import narrow, tiny, train_tiny

from cifar_utils import fit, network_file, overview, runs, settings, speedrun
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.cli import run as main
from cifar_utils.models import SmallCNN
from cifar_utils.workshop.catch_up import catch_up


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of all runs, which is not there yet."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.mark.parametrize("notebook,count", [(1, 0), (2, 1), (3, 2), (4, 3), (8, 3)])
def test_what_the_notebooks_before_leave_is_there(home, notebook, count, capsys):
    assert main(["catch-up", str(notebook)]) == 0
    out = capsys.readouterr().out
    assert [f"Notebook {n}:" in out for n in (1, 2, 3)] == [n <= count for n in (1, 2, 3)]
    assert settings.policy_file().exists() == (count > 0)
    assert settings.network_file().exists() == (count > 1)
    assert (home / "shipped" / runs.BEST).exists() == (count > 2)
    assert f"open notebook {notebook} " in out
    assert catch_up(notebook) == ["Nothing is missing."]


def test_the_next_notebook_can_use_it(home):
    catch_up(4)
    assert Policy.from_json(settings.policy_file().read_text()) == PRESETS["full"]
    assert network_file.load() is SmallCNN
    (run,) = overview.find_runs()
    assert run.is_complete and run.accuracy[0] > 0.85
    assert not network_file.trained(run.folder, speedrun.CNN).training


def test_nothing_of_ones_own_is_replaced(home):
    home.mkdir()
    network_file.save_policy(PRESETS["strong"])
    settings.network_file().write_text("mine = 1\n")
    train_tiny(home / "mine")
    assert catch_up(4) == ["Nothing is missing."]
    assert Policy.from_json(settings.policy_file().read_text()) == PRESETS["strong"]
    assert settings.network_file().read_text() == "mine = 1\n"
    assert [path.name for path in home.iterdir() if path.is_dir()] == ["mine"]


def test_a_run_on_other_images_is_none_of_notebook_3(home, capsys):
    home.mkdir()
    (home / "shipped").mkdir()
    (home / "shipped" / runs.BEST).write_bytes(b"mine")
    own = [replace(tiny(32, split), source="mine") for split in ("training", "validation")]
    fit(narrow(), *own, epochs=1, run=home / "shapes")
    capsys.readouterr()
    assert f"copied the shipped run to {home / 'shipped_2'}" in catch_up(8)[-1]
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["shapes", "shipped", "shipped_2"]
    assert (home / "shipped" / runs.BEST).read_bytes() == b"mine"
    assert catch_up(8) == ["Nothing is missing."]


@pytest.mark.parametrize("number", ["0", "9"])
def test_a_notebook_that_is_not_there(home, number, capsys):
    with pytest.raises(SystemExit):
        main(["catch-up", number])
    assert "from 1 to 8" in capsys.readouterr().err and not home.exists()
    with pytest.raises(ValueError, match="from 1 to 8"):
        catch_up(int(number))
