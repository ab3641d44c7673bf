"""Freed memory is kept; in a process of its own, for this cannot be undone."""

import platform
import subprocess
import sys

import pytest

from cifar_utils.speedrun import malloc

FAULTS_OF_TEN_LARGE_BLOCKS = """
import resource, runpy, sys, torch
if sys.argv[1] == "tuned":
    runpy.run_path(sys.argv[2])["tune_malloc"]()  # the file alone: importing the package would take seconds
for _ in range(20):
    torch.ones(25_000_000)  # until the blocks have found their places
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(25_000_000)  # 100 MB each, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it does nothing without glibc")
@pytest.mark.slow
def test_large_blocks_are_used_again():
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_TEN_LARGE_BLOCKS, mode, malloc.__file__]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("tuned") < 100
    assert faults("untouched") > 1000, "the negative control"


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda *_: pytest.fail("called"))
    malloc.tune_malloc()
