"""torch.compile, and what happens where nothing can compile."""

import pytest
import torch
from tiny import narrow, train_tiny

from cifar_utils import checkpoint, compiling, runs

CPU = torch.device("cpu")


def tensors(run):
    return {
        name: tensor
        for name, tensor in checkpoint.load(run / runs.LAST).tensors.items()
        if name.startswith(("model.", "momentum."))
    }


@pytest.mark.parametrize("error", [RuntimeError("no C++ compiler\nmore"), RuntimeError("")])
def test_without_a_compiler_training_goes_on_and_says_so(tmp_path, monkeypatch, capsys, error):
    train_tiny(tmp_path / "plain")

    def fails(_):
        def compiled(*_):
            raise error

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    train_tiny(tmp_path / "asked", compile=True)
    reason = "no C++ compiler" if str(error) else "RuntimeError"
    assert f"Nothing can compile the network here ({reason})" in capsys.readouterr().out
    one, other = tensors(tmp_path / "plain"), tensors(tmp_path / "asked")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_compiled_network_is_what_trains(tmp_path, monkeypatch):
    calls = []

    def counted(function, **_):
        def call(*inputs):
            calls.append(function)
            return function(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", counted)
    network = narrow()
    train_tiny(tmp_path, network=network, compile=True)  # two epochs of two steps
    assert calls == [torch.sin] + 4 * [network]


@pytest.mark.slow
def test_compiled_it_says_the_same(tmp_path):
    """Where there is no compiler this compares the network with itself."""
    network, images = narrow(), torch.randn(8, 3, 32, 32)
    forward = compiling.compiled(network, CPU)
    torch.testing.assert_close(forward(images), network(images), rtol=1e-3, atol=1e-4)
