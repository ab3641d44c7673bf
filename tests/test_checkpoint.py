"""Checkpoint files: what goes in comes out; what is damaged, foreign or harmful is refused in words."""

import json
import os
import pickle
import struct
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import digest, fast, tiny
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from cifar_utils import checkpoint
from cifar_utils.checkpoint import CheckpointError, pack, unpack

STATE = {
    "w": torch.arange(6.0).view(2, 3),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "mask": torch.tensor([True, False]),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "epoch": 3,
    "history": [{"loss": 0.1 + 0.2}],
    "name": "Käse",
}
TENSORS = {f"state.{name}": value for name, value in STATE.items() if isinstance(value, torch.Tensor)}


@pytest.fixture
def path(tmp_path):
    """A small whole checkpoint."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, STATE)
    return path


def refused(path) -> str:
    """The message, which must name the file and be a sentence or two for people."""
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert str(path) in message and "Traceback" not in message and message.endswith(".")
    return message


def same(a, b) -> bool:
    """Equal to the bit, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return digest(a) == digest(b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # of floats, this tells -0.0 from 0.0 and finds NaN equal to itself


# What goes in comes out


def test_what_goes_in_comes_out(path):
    assert same(checkpoint.load(path), STATE)
    assert os.listdir(path.parent) == [path.name]


def test_any_program_can_read_its_tensors(path):
    found = safetensors.torch.load_file(path)
    assert found.keys() == TENSORS.keys() and all(same(found[name], TENSORS[name]) for name in TENSORS)


def test_tensors_of_any_layout(tmp_path):
    x = torch.randn(2, 3, 4, 5)
    odd = {"channels_last": x.contiguous(memory_format=torch.channels_last), "view": x[:, 1], "twice": x[:, 1]}
    odd |= {"transposed": x.mT, "expanded": torch.zeros(1).expand(9), "parameter": nn.Parameter(x)}
    checkpoint.save(tmp_path / "x", odd)
    found = checkpoint.load(tmp_path / "x")
    assert all(digest(found[name]) == digest(odd[name]) for name in odd) and not found["parameter"].requires_grad


def through_a_file(state: dict) -> dict:
    return checkpoint._decode(checkpoint.encode("x", state))


tensors = st.builds(
    lambda shape, dtype, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    st.integers(0, 99),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | tensors
keys = st.sampled_from(["a", "b", "a.b", "a.0", "0", "'", 0, 1, -1, True, None, 0.5, ("a", 0)])
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, st.integers(0, 9), max_size=3).map(Counter)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.dictionaries(keys, values, max_size=4))
def test_any_nested_state_comes_back_bit_for_bit(state):
    found = {}
    assert same(unpack(json.loads(json.dumps(pack(state, found))), found), state)
    assert same(through_a_file(state), state)


def test_two_places_of_one_name_keep_their_own_tensors():
    """Without names of their own, the second would replace the first."""
    state = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), 0: torch.zeros(2), "0": torch.ones(2)}
    assert same(through_a_file(state), state)


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)


SCHEDULERS = {
    "MultiStepLR": lambda o: MultiStepLR(o, [1, 2, 2]),  # a Counter
    "ReduceLROnPlateau": ReduceLROnPlateau,  # infinity
    "OneCycleLR": lambda o: OneCycleLR(o, 1.0, total_steps=9),
    "SequentialLR": lambda o: SequentialLR(o, [LinearLR(o), MultiStepLR(o, [1]), CosineAnnealingLR(o, 3)], [1, 2]),
    "ChainedScheduler": lambda o: ChainedScheduler([ConstantLR(o), MultiStepLR(o, [1])]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_schedulers_state_comes_back(name, steps):
    optimizer = sgd()
    scheduler = SCHEDULERS[name](optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))
    state = scheduler.state_dict()
    found = through_a_file(state)
    assert same(found, {k: v for k, v in state.items()})
    other_optimizer = sgd()
    other = SCHEDULERS[name](other_optimizer)
    other.load_state_dict(found)
    other_optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    for _ in range(3):
        for o, s in ((optimizer, scheduler), (other_optimizer, other)):
            o.step()
            s.step(*[1.0] * (name == "ReduceLROnPlateau"))
    assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def muon_parameters():
    options = fast()
    return options["model"], options["optimizer"]


def adam_parameters():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    return model, torch.optim.AdamW(model.parameters(), amsgrad=True)


@pytest.mark.parametrize("make", [muon_parameters, adam_parameters], ids=["Muon", "AdamW"])
def test_an_optimizers_state_comes_back(make):
    model, optimizer = make()
    for _ in range(2):
        optimizer.zero_grad()
        model(tiny(4).images / 255).square().sum().backward()
        optimizer.step()
    state = optimizer.state_dict()
    assert state["state"] and same(through_a_file(state), state)


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: None, torch.float32, 1j], ids=lambda v: type(v).__name__)
def test_what_a_checkpoint_cannot_hold_is_refused_with_its_place(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"x cannot be saved: state\.parts\.1 is a \w+, which a checkpoint"):
        checkpoint.save(tmp_path / "x", {"parts": [0, value]})
    assert os.listdir(tmp_path) == []


def test_more_than_a_checkpoint_may_hold_is_refused_when_it_is_saved(tmp_path, monkeypatch):
    """And not when it is loaded, after hours of training."""
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2000)
    with pytest.raises(CheckpointError, match="cannot be saved: it would take"):
        checkpoint.save(tmp_path / "x", {"w": torch.zeros(1000)})


# Two of each


def test_the_backup_is_the_save_before(path):
    for epoch in (4, 5):
        checkpoint.save(path, {"epoch": epoch})
    assert checkpoint.load(path) == {"epoch": 5}
    assert checkpoint.previous(path).name == "last.previous.safetensors"
    assert checkpoint.load(checkpoint.previous(path)) == {"epoch": 4}


def test_a_damaged_file_does_not_push_out_the_backup(path):
    checkpoint.save(path, {"epoch": 4})
    path.write_bytes(b"damaged")
    checkpoint.save(path, {"epoch": 5})
    assert checkpoint.load(path) == {"epoch": 5}
    assert same(checkpoint.load(checkpoint.previous(path)), STATE)


def test_without_the_check_it_would(path, monkeypatch):
    """The negative control."""
    checkpoint.save(path, {"epoch": 4})
    path.write_bytes(b"damaged")
    monkeypatch.setattr(checkpoint, "_is_whole", lambda path: path.exists())
    checkpoint.save(path, {"epoch": 5})
    assert checkpoint.previous(path).read_bytes() == b"damaged"


def test_a_damaged_file_falls_back_on_the_backup_with_a_warning(path, capsys):
    checkpoint.save(path, {"epoch": 4})
    path.write_bytes(path.read_bytes()[:-1])
    assert same(checkpoint.load_newest(path), STATE)
    out = capsys.readouterr().out
    assert out.startswith("WARNING: ") and str(path) in out and "last.previous.safetensors" in out
    path.unlink()  # as between the two renames of a save
    checkpoint.load_newest(path)
    assert (
        capsys.readouterr().out == f"WARNING: {path} is missing. Using the save before it, last.previous.safetensors.\n"
    )
    checkpoint.previous(path).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last\.previous\.safetensors is cut off, damaged"):
        checkpoint.load_newest(path)


def test_a_damaged_file_without_a_backup_is_refused(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off, damaged"):
        checkpoint.load_newest(path)


# Damage


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
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "x"
    checkpoint.save(path, {"w": torch.rand(10_000)})
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    if damage == "bit":
        whole[middle] ^= 1
    elif damage == "page":
        whole[middle : middle + 4096] = bytes(4096)
    changed = {"cut": whole[:-1], "tail": whole + b"x", "empty": b"", "zeros": bytes(len(whole))}
    path.write_bytes(changed.get(damage, whole))
    assert "cut off, damaged" in refused(path)


def test_a_disk_that_returns_other_bytes_is_noticed_before_anything_is_replaced(path, monkeypatch):
    whole = path.read_bytes()
    read = type(path).read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_bytes", lambda self: read(self)[:-1])
        with pytest.raises(CheckpointError, match="the disk does not return what was written"):
            checkpoint.save(path, {"epoch": 4})
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]


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


def with_header(header: str, tail: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + tail


def signed(text: str, content: dict | None = None) -> bytes:
    """A file whose check-sum is right, with any text as its state."""
    content = content or {}
    about = {"format": checkpoint.FORMAT, "state": text, "sha256": checkpoint._checksum(content, text)}
    return safetensors.torch.save(content, about)


PROMISE = json.dumps({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}})
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
BOMBS = {
    "a header of 10^12 numbers": with_header(PROMISE),
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "a header of 2^63 bytes": b"\xff" * 8 + b"{}",
    "more numbers than the file holds": with_header(PROMISE.replace("4" + "0" * 12, "400"), bytes(400)),
    "a header nested deeply": with_header(DEEP),
    "a header of brackets": with_header("[" * 10**6),
    "a state nested deeply": signed("[" * 100_000 + "]" * 100_000),
    "a state of tuples nested deeply": signed('{"tuple": [' * 50_000 + "]}" * 50_000),
    "a tensor that is not there": signed('{"dict": [["a", {"tensor": "b"}]]}'),
    "an unknown kind": signed('{"dict": [["a", {"module": "os"}]]}'),
    "a state that is a list": signed("[1, 2]"),
    "a state that is no pairs": signed('{"dict": [[1, 2, 3]]}'),
    "a dict as a key": signed('{"dict": [[{"dict": []}, 1]]}'),
    "no number": signed('{"dict": [["a", {"float": "abc"}]]}'),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_malicious_files_are_refused(tmp_path, bomb):
    (tmp_path / "x").write_bytes(BOMBS[bomb])
    assert "cut off, damaged" in refused(tmp_path / "x")


def test_those_signatures_are_right(tmp_path):
    """The negative control: the same way of signing makes files that load."""
    (tmp_path / "x").write_bytes(signed('{"dict": [["a", {"tensor": "b"}]]}', {"b": torch.ones(1)}))
    assert checkpoint.load(tmp_path / "x") == {"a": torch.ones(1)}


def test_bombs_are_refused_in_bounded_memory(tmp_path):
    """Torch's files of a tensor with strides of 0 or a sparse one, and large files of other programs."""
    resource = pytest.importorskip("resource", reason="needs a system that measures a process's peak memory")
    paths = [tmp_path / name for name in ("strides", "sparse", "zeros", "text", "huge")]
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, paths[0])
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**9,), check_invariants=True)
    torch.save({"w": sparse}, paths[1])
    for path, content, length in zip(paths[2:], (b"", b"x" * 20, b""), (2 * 2**30, 2 * 2**30, 5 * 2**30)):
        with open(path, "wb") as f:
            f.write(content)
            f.truncate(length)  # sparse on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert "larger than any checkpoint" in refused(paths[-1])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(60)
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x")
    assert "no ordinary file" in refused(tmp_path / "x")


@pytest.mark.parametrize("text", [b"", b"{}", b"hello", b"x" * 10_000, np.zeros(9).tobytes()], ids=range(5))
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x").write_bytes(text)
    assert "no checkpoint" in refused(tmp_path / "x")


def test_a_foreign_safetensors_file_and_another_format_are_refused(tmp_path, monkeypatch):
    safetensors.torch.save_file(TENSORS, tmp_path / "foreign")
    assert "no checkpoint of this version" in refused(tmp_path / "foreign")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "cifar_utils 99")
        checkpoint.save(tmp_path / "future", STATE)
        checkpoint.load(tmp_path / "future")
    assert "no checkpoint of this version" in refused(tmp_path / "future")


def test_a_missing_file_says_what_to_do(tmp_path):
    assert "python -m cifar_utils train" in refused(tmp_path / "best.safetensors")


def test_a_folder_instead_of_a_file(tmp_path):
    assert "no ordinary file" in refused(tmp_path)


# Where it is written


@pytest.fixture
def victim(tmp_path):
    """A file of someone else's, outside the run's folder."""
    path = tmp_path / "victim"
    path.write_text("mine")
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["last.safetensors", "last.previous.safetensors"])
def test_a_link_is_replaced_and_not_followed(folder, victim, name):
    (folder / name).symlink_to(victim)
    for epoch in (1, 2, 3):
        checkpoint.save(folder / "last.safetensors", {"epoch": epoch})
    assert victim.read_text() == "mine" and not (folder / "last.safetensors").is_symlink()
    assert checkpoint.load(folder / "last.safetensors") == {"epoch": 3}


def test_a_link_at_the_name_of_the_new_file_is_an_error(folder, victim, monkeypatch):
    """Somebody who may write into the folder could put it there, if the name could be guessed."""
    monkeypatch.setattr(checkpoint.secrets, "token_hex", lambda _: "x")
    (folder / ".last.safetensors.x.tmp").symlink_to(victim)
    with pytest.raises(CheckpointError):
        checkpoint.save(folder / "last.safetensors", {"epoch": 1})
    assert victim.read_text() == "mine"


def test_without_that_the_links_target_would_be_overwritten(folder, victim):
    """The negative control."""
    (folder / "x").symlink_to(victim)
    (folder / "x").write_bytes(b"new")
    assert victim.read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
@pytest.mark.parametrize("mask,mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_it(folder, mask, mode):
    before = os.umask(mask)
    try:
        checkpoint.save(folder / "x", STATE)
        checkpoint.write(folder / "y", b"text")
    finally:
        assert os.umask(before) == mask
    assert [(folder / name).stat().st_mode & 0o777 for name in "xy"] == [mode, mode]


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be saved .No such file or directory.. Free some space"):
        checkpoint.write(tmp_path / "nowhere" / "x", b"text")


@pytest.mark.parametrize("refusals,is_replaced", [(0, True), (2, True), (3, False)])
def test_a_file_that_another_program_reads_is_replaced_a_little_later(tmp_path, monkeypatch, refusals, is_replaced):
    """As on Windows."""
    replace, left = checkpoint.os.replace, [PermissionError()] * refusals
    (tmp_path / "new").write_text("new")

    def refuse(old, new):
        if left:
            raise left.pop()
        replace(old, new)

    monkeypatch.setattr(checkpoint.os, "replace", refuse)
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    with nullcontext() if is_replaced else pytest.raises(PermissionError):
        checkpoint._replace(tmp_path / "new", tmp_path / "old", tries=3)
    assert (tmp_path / "old").exists() == is_replaced
