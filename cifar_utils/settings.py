"""What the environment decides: how big everything is and where things lie.

CIFAR_PROFILE    smoke (seconds, for tests), class (the default: minutes on a laptop) or long (a GPU, or patience)
CIFAR10_DIR      the data directory; default: data/ in the project's folder
CIFAR10_MIRROR   another address of cifar-10-python.tar.gz (read by download.py)
CIFAR_RUNS       where runs are saved; default: runs/ in the project's folder
CIFAR_HEADLESS   set where notebooks run unattended: no server is started to be looked at
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells what a container may use


@dataclass(frozen=True)
class Profile:
    """How big everything is.

    Attributes:
        name: smoke, class or long.
        sample: True uses the shipped sample, None the full data set where it can be had (see data.cifar10).
        epochs: of the plain training on the full set.
        sample_epochs: of the plain training on the sample, which has a twelfth of the images.
    """

    name: str
    sample: bool | None
    epochs: int
    sample_epochs: int


PROFILES = {
    "smoke": Profile("smoke", sample=True, epochs=1, sample_epochs=1),
    "class": Profile("class", sample=None, epochs=10, sample_epochs=20),
    "long": Profile("long", sample=None, epochs=60, sample_epochs=120),
}


def profile(name: str | None = None) -> Profile:
    """The profile of this name, or the one that CIFAR_PROFILE names, or class.

    Raises:
        ValueError: there is no such profile.
    """
    name = name or os.environ.get("CIFAR_PROFILE") or "class"
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}; CIFAR_PROFILE must be one of {', '.join(PROFILES)}")
    return PROFILES[name]


def data_directory(given: str | Path | None = None) -> Path:
    """The data directory: the one given (see `in_project`), or CIFAR10_DIR, or data/ in the project's folder."""
    return in_project(given or os.environ.get("CIFAR10_DIR") or "data")


def runs_directory() -> Path:
    """The folder of all runs, each a folder of its own: CIFAR_RUNS, or runs/ in the project's folder."""
    return in_project(os.environ.get("CIFAR_RUNS") or "runs")


def in_project(path: str | Path) -> Path:
    """An absolute path as it is, with ~ for your home; a relative one within the project's folder.

    So `runs/mine` is the same folder in a notebook, whose own folder is notebooks/, and in a terminal. A path that
    begins with `..` counts from the current folder.
    """
    path = Path(path).expanduser()
    return (Path.cwd() if path.parts[:1] == ("..",) else project_directory()) / path


def policy_file() -> Path:
    """Where notebook 01 leaves the augmentation policy that notebook 03 trains with."""
    return runs_directory() / "policy.json"


def network_file() -> Path:
    """Where the network that you wrote in notebook 02 is saved, for notebooks 03 and 04; see `network_file.save`."""
    return runs_directory() / "network.py"


def cores() -> int:
    """How many cores this process may use: on a shared server or in a container, fewer than there are.

    At most OMP_NUM_THREADS, where that is set: so a room's server divides its processors.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or one without a limit
        quota, period = (CONTAINER / "cpu.max").read_text().split()
        found = min(found, max(1, round(int(quota) / int(period))))
    with suppress(KeyError, ValueError):
        found = min(found, max(1, int(os.environ["OMP_NUM_THREADS"])))
    return found


def free_memory() -> int:
    """Bytes of memory that this process may still take: the machine's, or what a container or a server leaves."""
    import psutil  # here: the doctor reads the settings where packages may be missing

    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        # What the files that were read take is given back on demand.
        cached = re.search(r"^inactive_file (\d+)", (CONTAINER / "memory.stat").read_text(), re.M)
        free = min(free, limit - used + int(cached[1] if cached else 0))
    process = psutil.Process()
    if hasattr(process, "rlimit") and (limit := process.rlimit(psutil.RLIMIT_DATA)[0]) >= 0:  # of a room's server
        free = min(free, limit - process.memory_info().data)
    return free


def headless() -> bool:
    """Whether the notebook runs unattended, as in tests and in tools/run_notebooks.py."""
    return bool(os.environ.get("CIFAR_HEADLESS"))


def project_directory() -> Path:
    """Within the project, or within its notebooks alone, its folder; elsewhere the current folder."""
    here = Path.cwd()
    for inside in ("notebooks", "notebooks/exercises", "notebooks/exercises/solutions"):
        if here.as_posix().endswith(f"/{inside}"):
            return here.parents[inside.count("/")]
    # os.path: where a folder may not be read, it is False, and Path.exists an error
    return next((path for path in (here, *here.parents) if os.path.exists(path / "cifar_utils/__init__.py")), here)
