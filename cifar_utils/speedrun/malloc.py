"""Keeping freed memory for the next step, instead of asking the operating system for it each time."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's constants
LARGEST_INT = 2**31 - 1


def tune_malloc() -> None:
    """From now on, this process keeps large blocks of freed memory. Has an effect on Linux with glibc only.

    Otherwise glibc returns each block above 32 MB as soon as it is freed, and the kernel fills every page with zeros
    before handing it out again. The activations of a batch are such blocks, allocated and freed in each step: that
    costs up to a tenth of the training time (benchmarks/results/ablation.md). The price is that the memory stays with
    the process after training.

    Source: the manual page mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(MMAP_THRESHOLD, LARGEST_INT):  # older versions take 32 MB at most
            libc.mallopt(MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(TRIM_THRESHOLD, LARGEST_INT)
