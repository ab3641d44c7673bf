"""Checkpoints: what goes in comes out, nothing half-written, nothing executed, errors that help."""

import io
import os
from pathlib import Path

import pytest
import torch
from tiny import narrow, tiny, train_tiny

from cifar_utils import checkpoint, evaluation, training
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.policy import PRESETS, Policy


def content(value: float = 1.0) -> dict:
    """The smallest content that counts as a checkpoint."""
    return {key: {} for key in checkpoint.KEYS - {"format"}} | {"model": {"w": torch.full((3, 2), value)}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a short training: its path, the history and the network."""
    folder = tmp_path_factory.mktemp("run")
    return folder / "last.pt", *train_tiny(folder, epochs=1)


def test_what_goes_in_comes_out(tmp_path):
    wanted = content() | {"epoch": 3, "history": [{"loss": 0.5}], "classes": ["cat", "dog"], "policy": "{}"}
    wanted["model"] = {"w": torch.randn(4, 3), "steps": torch.tensor(7), "half": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / "new" / "folder" / "x.pt"
    checkpoint.save(path, wanted)
    loaded = checkpoint.load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    model = loaded.pop("model")
    assert loaded == {key: value for key, value in wanted.items() if key != "model"}
    assert model.keys() == wanted["model"].keys()
    for name, tensor in wanted["model"].items():
        torch.testing.assert_close(model[name], tensor, rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == ["x.pt"]


def test_a_restored_network_predicts_the_same(trained):
    path, history, network = trained
    restored, normalisation, content = training.restore(path)
    was, now = (evaluation.predict(n, tiny(16, "test"), normalisation) for n in (network, restored))
    assert (was.probabilities == now.probabilities).all()
    assert not restored.whiten.weight.requires_grad
    assert content["history"] == history and content["epoch"] == 1
    assert Policy.from_json(content["policy"]) == PRESETS["full"]
    assert training.Config(**content["config"]) == training.Config(epochs=1, batch_size=32, learning_rate=0.05)
    assert content["data"] == {"title": "SAMPLE, 64 training images", "is_sample": True}
    assert content["classes"][3] == "cat" and set(content["versions"]) == {"python", "torch"}


# Nothing half-written


def half_then_fail(content, target, **_):
    whole = io.BytesIO()
    torch_save(content, whole)
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    Path(target).write_bytes(half) if isinstance(target, (str, Path)) else target.write(half)
    raise RuntimeError("a bug in torch")


torch_save = torch.save


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "where,replacement", [("torch.save", half_then_fail), ("os.fsync", fail), ("os.replace", fail)]
)
def test_an_existing_file_survives_a_save_that_fails(tmp_path, monkeypatch, where, replacement):
    path = tmp_path / "x.pt"
    checkpoint.save(path, content(1))
    with monkeypatch.context() as patch:
        patch.setattr(where, replacement)
        with pytest.raises((OSError, RuntimeError)):
            checkpoint.save(path, content(2))
    assert (checkpoint.load(path)["model"]["w"] == 1).all()
    assert os.listdir(tmp_path) == ["x.pt"]
    checkpoint.save(path, content(2))
    assert (checkpoint.load(path)["model"]["w"] == 2).all()


@pytest.mark.skipif(os.name == "nt", reason="needs a limit that only POSIX systems have")
def test_a_full_disk_is_an_error_of_the_operating_system(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.save(tmp_path / "x.pt", content())
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path / "x.pt", content() | {"model": {"w": torch.zeros(10_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (checkpoint.load(tmp_path / "x.pt")["model"]["w"] == 1).all()


# Errors that help


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        training.restore(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert caught.value.__suppress_context__ or not caught.value.__context__  # no traceback of torch's
    assert "rain" in message  # every message ends with what to do
    return message


def test_a_missing_file(tmp_path):
    assert "python -m cifar_utils train" in refused(tmp_path / "best.pt")


def test_a_folder_in_its_place(tmp_path):
    assert "directory" in refused(tmp_path) or "ermission" in refused(tmp_path)  # Windows' word for it


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(tmp_path, trained, share):
    whole = trained[0].read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(share * len(whole))])
    assert "cut off" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_single_damaged_byte(tmp_path, trained, place):
    damaged = bytearray(trained[0].read_bytes())
    damaged[int(place * len(damaged))] ^= 1
    (tmp_path / "x.pt").write_bytes(damaged)
    assert "damaged" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize("text", [b"hello world\n", b"<html>404</html>", b"\x80\x02garbage", bytes(100)])
def test_something_else_than_a_checkpoint(tmp_path, text):
    (tmp_path / "x.pt").write_bytes(text)
    assert "no checkpoint" in refused(tmp_path / "x.pt")


class Attack:
    """What pickle would execute on loading."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(tmp_path, zipped):
    harmful = content() | {"format": 1, "history": [Attack(tmp_path / "attacked")]}
    torch.save(harmful, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "x.pt")
    assert "nothing of it was run" in message and "weights_only" not in message
    assert not (tmp_path / "attacked").exists()
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "attacked").exists()  # the attack itself works


@pytest.mark.parametrize("foreign", [[1, 2], {"state_dict": {}}, {"format": 1, "model": {}}])
def test_a_file_of_another_program(tmp_path, foreign):
    torch.save(foreign, tmp_path / "x.pt")
    assert "not a checkpoint of this workshop" in refused(tmp_path / "x.pt")


def test_a_format_of_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(tmp_path / "x.pt", content())
    monkeypatch.undo()
    assert "format 99; this version reads 1" in refused(tmp_path / "x.pt")


def without_linear(saved):
    del saved["model"]["linear.weight"]


@pytest.mark.parametrize(
    "change",
    [
        without_linear,
        lambda saved: saved["model"].update(extra=torch.zeros(1)),
        lambda saved: saved.update(widths=[8, 16, 32]),
        lambda saved: saved.update(widths=[8]),
        lambda saved: saved.update(widths="wide"),
        lambda saved: saved.update(model=None),
        lambda saved: saved.update(model=torch.nn.Linear(2, 2).state_dict()),
        lambda saved: saved.update(normalisation=[[0.5] * 3]),
    ],
)
def test_the_tensors_of_another_network(tmp_path, trained, change):
    saved = checkpoint.load(trained[0])
    change(saved)
    checkpoint.save(tmp_path / "x.pt", saved)
    assert "another network" in refused(tmp_path / "x.pt")


def test_widths_are_restored(tmp_path, trained):
    assert [block[0].out_channels for block in training.restore(trained[0])[0].blocks] == [8, 16, 16]
    assert narrow().state_dict().keys() == checkpoint.load(trained[0])["model"].keys()
