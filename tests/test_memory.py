"""Freed memory is kept; in a process of its own, for this cannot be undone."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_TEN_LARGE_BLOCKS = """
import resource, sys, torch
from cifar_utils.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):
    torch.ones(25_000_000)  # until the blocks have found their places
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(25_000_000)  # 100 MB each, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it does nothing without glibc")
def test_large_blocks_are_used_again():
    def faults(kept: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_TEN_LARGE_BLOCKS, kept]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 100
    assert faults("handed back") > 1000, "the negative control"


def test_elsewhere_it_does_nothing(monkeypatch):
    from cifar_utils import memory

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("called"))
    memory.keep_freed_memory()
