"""The environment of all tests, the notebooks' kernels included: small, offline, and away from the user's folders."""

import os
import tempfile

os.environ["CIFAR_PROFILE"] = "smoke"
os.environ["CIFAR_HEADLESS"] = "1"
os.environ["CIFAR_RUNS"] = tempfile.mkdtemp(prefix="cifar-runs-")


def pytest_collection_modifyitems(items) -> None:
    """The browser's tests come last: Playwright's event loop stays in this process, and other tests have their own."""
    items.sort(key=lambda item: "browser" in item.path.parts)
