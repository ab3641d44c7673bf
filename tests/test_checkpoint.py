"""Checkpoint files: what goes in comes out; what is damaged, foreign or harmful is refused in words."""

import json
import os
import pickle
import resource
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import narrow, tiny, train_tiny

from cifar_utils import checkpoint, runs, training
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.policy import PRESETS, Policy
from cifar_utils.predictions import predict

TENSORS = {
    "w": torch.arange(6.0).view(2, 3),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "mask": torch.tensor([True, False]),
    "half": torch.ones(2, dtype=torch.bfloat16),
}
META = {"epoch": 3, "history": [{"loss": 0.1 + 0.2}], "name": "Käse"}


@pytest.fixture
def path(tmp_path):
    """A small whole checkpoint."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, TENSORS, META)
    return path


def refused(path) -> str:
    """The message, which must name the file and be a sentence or two for people."""
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert str(path) in message and "Traceback" not in message and message.endswith(".")
    return message


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


# What goes in comes out


def test_what_goes_in_comes_out(path):
    saved = checkpoint.load(path)
    assert_equal(saved.tensors, TENSORS)
    assert saved.meta == META
    assert os.listdir(path.parent) == [path.name]


def test_any_program_can_read_it(path):
    assert_equal(safetensors.torch.load_file(path), TENSORS)


def test_tensors_of_any_layout(tmp_path):
    x = torch.randn(2, 3, 4, 5)
    odd = {"channels_last": x.contiguous(memory_format=torch.channels_last), "view": x[:, 1], "twice": x[:, 1]}
    checkpoint.save(tmp_path / "x", odd, {})
    assert_equal(checkpoint.load(tmp_path / "x").tensors, odd)


def test_the_former_generation_is_the_save_before(path):
    for epoch in (4, 5):
        checkpoint.save(path, TENSORS, {"epoch": epoch})
    assert checkpoint.load(path).meta == {"epoch": 5}
    assert checkpoint.load(checkpoint.former(path)).meta == {"epoch": 4}


def test_a_damaged_file_does_not_push_out_the_former_generation(path):
    checkpoint.save(path, TENSORS, {"epoch": 4})
    path.write_bytes(b"damaged")
    checkpoint.save(path, TENSORS, {"epoch": 5})
    assert checkpoint.load(path).meta == {"epoch": 5}
    assert checkpoint.load(checkpoint.former(path)).meta == META


def test_without_the_check_it_would(path, monkeypatch):
    """The negative control."""
    checkpoint.save(path, TENSORS, {"epoch": 4})
    path.write_bytes(b"damaged")
    monkeypatch.setattr(checkpoint, "_is_whole", lambda path: path.exists())
    checkpoint.save(path, TENSORS, {"epoch": 5})
    assert checkpoint.former(path).read_bytes() == b"damaged"


def test_a_restored_network_predicts_the_same(tmp_path):
    history, network = train_tiny(tmp_path, epochs=1)
    restored, normalisation, about = training.restore(tmp_path / runs.LAST)
    was, now = (predict(n, tiny(16, "test"), normalisation) for n in (network, restored))
    assert (was.probabilities == now.probabilities).all()
    assert not restored.whiten.weight.requires_grad
    assert about["state"]["history"] == history and about["state"]["epoch"] == 1
    setting = about["setting"]
    assert Policy.from_json(json.dumps(setting["policy"])) == PRESETS["full"]
    assert training.Config(**setting["config"]) == training.Config(
        epochs=1, batch_size=32, learning_rate=0.05, skip=0.0, bfloat16=False
    )
    assert setting["data"]["title"] == "SAMPLE, 64 training images" and setting["classes"][3] == "cat"
    assert about["circumstances"]["torch"] == torch.__version__


# Damage


@pytest.mark.parametrize("kind", ["former", "alone"])
def test_a_damaged_file_falls_back_on_the_former_generation_with_a_loud_word(path, capsys, kind):
    if kind == "former":
        checkpoint.save(path, TENSORS, {"epoch": 4})
    path.write_bytes(path.read_bytes()[:-1])
    if kind == "former":
        assert checkpoint.load_newest(path).meta == META
        out = capsys.readouterr().out
        assert out.startswith("WARNING: ") and str(path) in out and "last.former.safetensors" in out
    else:
        with pytest.raises(CheckpointError, match="cut off, damaged"):
            checkpoint.load_newest(path)


def test_every_bit_counts(path):
    """Every single bit of the file flipped is noticed. The negative control: without the check-sum, most are not."""
    whole = path.read_bytes()
    unnoticed = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert checkpoint._decode(bytes(damaged)) is None, bit
        try:
            safetensors.torch.load(bytes(damaged))
            unnoticed += 1
        except Exception:  # noqa: S110  (whatever safetensors alone notices)
            pass
    assert unnoticed > 100, "safetensors alone notices everything: then this test proves nothing"


def test_every_truncation_and_tail_is_noticed(path):
    whole = path.read_bytes()
    assert checkpoint._decode(whole) is not None
    assert all(checkpoint._decode(whole[:length]) is None for length in range(len(whole)))
    assert all(checkpoint._decode(whole + tail) is None for tail in (b"\0", b" ", whole))


@pytest.mark.parametrize("damage", ["bit", "page", "cut", "tail", "empty", "zeros"])
def test_a_damaged_run_is_refused_and_the_network_is_left_alone(tmp_path, damage):
    train_tiny(tmp_path, epochs=1)
    path = tmp_path / runs.LAST
    checkpoint.former(path).unlink()
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    if damage == "bit":
        whole[middle] ^= 1
    elif damage == "page":
        whole[middle : middle + 4096] = bytes(4096)
    path.write_bytes(
        {"cut": whole[:-1], "tail": whole + b"x", "empty": b"", "zeros": bytes(len(whole))}.get(damage, whole)
    )
    assert "cut off, damaged" in refused(path)
    network = narrow(5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError):
        train_tiny(tmp_path, network=network, epochs=1)
    assert_equal(dict(network.state_dict()), before)


# Harm


class Harmful:
    """Unpickled, it creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_code_in_a_file_is_not_run(tmp_path, write):
    path, target = tmp_path / "x", tmp_path / "created"
    with open(path, "wb") as f:
        write({"model": Harmful(target)}, f)
    assert "nothing of it was used" in refused(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert target.exists(), "the payload is harmless: then this test proves nothing"


def test_bombs_are_refused_in_bounded_memory(tmp_path):
    """A header that promises 10^12 numbers, a torch file with strides of 0 or a sparse tensor, a file of 2 GiB."""
    paths = [tmp_path / name for name in ("promise", "strides", "sparse", "huge")]
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    paths[0].write_bytes(struct.pack("<Q", len(header)) + header)
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, paths[1])
    torch.save({"w": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**9,))}, paths[2])
    with open(paths[3], "wb") as f:
        f.truncate(2 * 2**30)  # sparse on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, number):
    checkpoint.save(tmp_path / "x", {"a": torch.ones(2), "b": torch.tensor([1.0, number])}, {})
    assert "NaN or infinite numbers in b" in refused(tmp_path / "x")


@pytest.mark.parametrize("text", [b"", b"{}", b"hello", "x" * 10_000, np.zeros(9).tobytes()], ids=range(5))
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "no checkpoint" in refused(tmp_path / "x")


def test_a_foreign_safetensors_file_and_another_format_are_refused(tmp_path, monkeypatch):
    safetensors.torch.save_file(TENSORS, tmp_path / "foreign")
    assert "no checkpoint of this version" in refused(tmp_path / "foreign")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "cifar_utils 99")
        checkpoint.save(tmp_path / "future", TENSORS, META)
        checkpoint.load(tmp_path / "future")
    assert "no checkpoint of this version" in refused(tmp_path / "future")


def test_a_missing_file_says_what_to_do(tmp_path):
    assert "python -m cifar_utils train" in refused(tmp_path / "best.safetensors")


def test_a_folder_instead_of_a_file(tmp_path):
    assert "cannot be read (Is a directory)" in refused(tmp_path)


def test_without_the_check_numbers_that_are_not_finite_would_pass(tmp_path):
    """The negative control: the check-sum alone does not notice them."""
    checkpoint.save(tmp_path / "x", {"a": torch.tensor([float("nan")])}, {})
    assert checkpoint._decode((tmp_path / "x").read_bytes()).tensors["a"].isnan().all()


def test_a_disk_that_returns_other_bytes_is_noticed_before_anything_is_replaced(path, monkeypatch):
    whole = path.read_bytes()
    read = type(path).read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_bytes", lambda self: read(self)[:-1])
        with pytest.raises(CheckpointError, match="the disk does not return what was written"):
            checkpoint.save(path, TENSORS, {"epoch": 4})
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]


# Another network's tensors


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda t: t.pop("model.linear.weight"), "model.linear.weight is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "extra is not a part of it"),
        (
            lambda t: t.update({"model.linear.weight": torch.ones(10, 3)}),
            r"\(10, 3\) torch.float32 instead of \(10, 8\)",
        ),
        (lambda t: t.update({"model.linear.weight": torch.ones(10, 8).double()}), "torch.float64 instead of"),
        (lambda t: t.pop("momentum.linear.weight"), "momentum.linear.weight is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_the_network_is_touched(tmp_path, change, words):
    train_tiny(tmp_path, epochs=1)
    path = tmp_path / runs.LAST
    saved = checkpoint.load(path)
    change(saved.tensors)
    checkpoint.save(path, saved.tensors, saved.meta)
    network = narrow(5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        train_tiny(tmp_path, network=network, epochs=1)
    assert_equal(dict(network.state_dict()), before)


def test_without_the_check_the_network_would_be_changed_before_the_error(tmp_path, monkeypatch):
    """The negative control: load_state_dict copies what fits, and only then complains."""
    train_tiny(tmp_path, epochs=1)
    saved = checkpoint.load(tmp_path / runs.LAST)
    saved.tensors["model.linear.weight"] = torch.ones(10, 3)
    checkpoint.save(tmp_path / runs.LAST, saved.tensors, saved.meta)
    monkeypatch.setattr(checkpoint, "check_fit", lambda *_: None)
    network = narrow(5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError):
        train_tiny(tmp_path, network=network, epochs=1)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("part", ["state", "setting", "circumstances"])
def test_a_whole_file_that_is_not_of_a_run_is_refused(tmp_path, part):
    train_tiny(tmp_path, epochs=1)
    path = tmp_path / runs.LAST
    saved = checkpoint.load(path)
    for broken in ({}, {"unknown": 1}, None):
        checkpoint.save(path, saved.tensors, saved.meta | {part: broken})
        with pytest.raises(CheckpointError, match="not a checkpoint of a training run"):
            training.restore(path)
        with pytest.raises(CheckpointError, match="not a checkpoint of a training run"):
            train_tiny(tmp_path, epochs=1)


@pytest.mark.parametrize("change", [{"network": "CNN()"}, {"mirror": False}])
def test_restore_refuses_a_network_that_is_built_otherwise(tmp_path, change):
    train_tiny(tmp_path, epochs=1)
    saved = checkpoint.load(tmp_path / runs.BEST)
    checkpoint.save(tmp_path / runs.BEST, saved.tensors, saved.meta | {"setting": saved.meta["setting"] | change})
    with pytest.raises(CheckpointError, match="built otherwise than"):
        training.restore(tmp_path / runs.BEST)


def test_restore_refuses_them_too(tmp_path):
    train_tiny(tmp_path, epochs=1)
    saved = checkpoint.load(tmp_path / runs.BEST)
    saved.tensors["model.linear.weight"] = torch.ones(3)
    checkpoint.save(tmp_path / runs.BEST, saved.tensors, saved.meta)
    with pytest.raises(CheckpointError, match="linear.weight is"):
        training.restore(tmp_path / runs.BEST)
