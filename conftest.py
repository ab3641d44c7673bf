"""The environment of all tests, the notebooks' kernels included: small, offline, and away from the user's folders."""

import os
import sys
import tempfile

import pytest

# Where Python is told to keep no compiled code, each of the hundred processes that tests start would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["CIFAR_PROFILE"] = "smoke"
os.environ["CIFAR_HEADLESS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # several test files run at a time: more threads would wait for each other
RUNS = tempfile.TemporaryDirectory(prefix="cifar-runs-", ignore_cleanup_errors=True)  # there until the process ends
os.environ["CIFAR_RUNS"] = RUNS.name
IPYTHON = tempfile.TemporaryDirectory(prefix="cifar-ipython-", ignore_cleanup_errors=True)  # history of the kernels
os.environ["IPYTHONDIR"] = IPYTHON.name
LONGEST = ("test_path", "test_hub", "test_dashboard", "test_web", "test_explorer")


# test_exercises.py executes these behind their notebook, and checks what they print.
collect_ignore_glob = ["notebooks/exercises/solutions/0[34]*"]


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is heeded
def pytest_collection_modifyitems(items) -> None:
    """The quick round runs the core notebooks; exercises, solutions and optional notebooks are slow.

    The browser's tests come last: Playwright's event loop stays in this process, and other tests have their own. The
    longest come first, and notebooks before tests, so that no process has minutes to do when the others are ready.
    """
    for item in items:
        if item.path.suffix == ".ipynb" and ("exercises" in item.path.parts or item.path.name > "05"):
            item.add_marker("slow")
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(
        key=lambda item: (
            "browser" in item.path.parts,
            item.path.suffix != ".ipynb",
            order.get(item.path.stem, len(order)),
        )
    )
