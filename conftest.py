"""The environment of all tests, the notebooks' kernels included: small, offline, and away from the user's folders."""

import os
import tempfile

os.environ["CIFAR_PROFILE"] = "smoke"
os.environ["CIFAR_HEADLESS"] = "1"
os.environ["CIFAR_RUNS"] = tempfile.mkdtemp(prefix="cifar-runs-")
