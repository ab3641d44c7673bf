"""Is this machine ready for the workshop? One line per check, then the minutes of computation per notebook.

`report` is `python -m cifar_utils doctor`; `quick` is for a notebook's first cell. Packages are imported in the checks:
a missing one becomes a line, no traceback.
"""

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cifar_utils import settings
from cifar_utils.workshop.locks import held

DISTRIBUTION = "cifar-utils"
# For a command line: "python" where the environment is activated, since PowerShell takes no path in quotes.
_is_activated = os.path.normcase(shutil.which("python") or "") == os.path.normcase(sys.executable)
PYTHON = "python" if _is_activated else subprocess.list2cmdline([sys.executable])  # in quotes if it has spaces
LAB_EXTENSIONS = {"@jupyter-widgets/jupyterlab-manager": "jupyterlab-widgets", "anywidget": "anywidget"}  # and packages
KERNEL_GB = 2.5  # of memory, for the largest kernel of notebooks 1 to 7, see benchmarks/results/notebooks.md
DISK_GB = 1.0  # the unpacked data set takes 0.2 GB; the rest is for the runs of all notebooks


@dataclass(frozen=True)
class Line:
    """What a check found. status: OK, NOTE (fine, but worth knowing) or FIX (the text: what is wrong: what to do)."""

    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<4} {self.text}"


def report() -> bool:
    """Prints every line; True if a workshop can run here."""
    statuses = set()
    for line in check_all():
        print(line, flush=True)
        statuses.add(line.status)
    return "FIX" not in statuses


def quick() -> None:
    """Prints one line, "Ready: ...", or the FIX lines of the checks that take well under a second."""
    told: tuple[Callable[[], Line], ...] = (python_version, packages, data_present)
    others: tuple[Callable[[], Line], ...] = (kernel, widgets, folders, run_in_use)
    if "google.colab" in sys.modules:  # there, nothing is installed: what is there serves, see docs/installing.md
        told, others = (lambda: Line("OK", f"Colab, Python {platform.python_version()}"), data_present), (folders,)
    lines = {check: _line(check) for check in (*told, *others)}
    fixes = [line for line in lines.values() if line.status == "FIX"]
    ready = [line.text for check, line in lines.items() if check in told or line.status == "NOTE"]
    ready = [text.partition(" is in ")[0] for text in ready]  # a notebook is shared, and its folders are private
    print(*map(str, fixes) if fixes else [f"Ready: {'; '.join(ready)}"], sep="\n")


def check_all() -> Iterator[Line]:
    """Yields each line as soon as it is found."""
    for check in (python_version, packages, kernel, widgets, memory, cores, run_in_use):
        yield _line(check)
    yield (line := _line(torch_and_torchvision))
    if line.status != "FIX":  # the others import torch
        for check in (gpu, data_checked, folders, speed):
            yield _line(check)


def _line(check: Callable[[], Line]) -> Line:
    """The check's line, also if it fails: a broken environment raises anything, as an OSError for torch's libraries."""
    try:
        return check()
    except Exception as error:
        what = " ".join(f"{check.__name__.replace('_', ' ')}: {type(error).__name__}: {error}".split()).rstrip(".")
        cure = f"run {PYTHON} -m pip install --force-reinstall torch torchvision"
        return Line("FIX", f"{what}: {cure if check is torch_and_torchvision else 'install the workshop again'}")


def python_version() -> Line:
    """Python is one that pyproject.toml allows."""
    from packaging.specifiers import SpecifierSet

    found, needed = platform.python_version(), metadata.metadata(DISTRIBUTION)["Requires-Python"]
    if not SpecifierSet(needed).contains(found, prereleases=True):
        return Line("FIX", f"Python is {found} and must be {needed}: install the workshop with another Python")
    return Line("OK", f"Python {found}, workshop {metadata.version(DISTRIBUTION)}")


def packages() -> Line:
    """Every package that pyproject.toml requires, extras left out, at an allowed version."""
    from packaging.requirements import Requirement

    found, wrong = {}, {}
    for needed in map(Requirement, metadata.requires(DISTRIBUTION) or []):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        found[needed.name] = version = next((d.version for d in metadata.distributions(name=needed.name)), None)
        if not version or not needed.specifier.contains(version, prereleases=True):
            wrong[f'"{needed.name}{needed.specifier}"'] = f"{needed.name} is {version or 'missing'}"
    if wrong:
        return Line("FIX", f"{', '.join(wrong.values())}: run {PYTHON} -m pip install --upgrade {' '.join(wrong)}")
    return Line("OK", f"{len(found)} packages at allowed versions, such as torch {found['torch']}")


def kernel() -> Line:
    """The kernel that the notebooks name, python3, is this environment."""
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    program, version = spec.argv[0], sys.version_info
    # Jupyter runs its own Python under these names. Paths are not compared: two environments' may link to the same one.
    if program not in ("python", f"python{version[0]}", f"python{version[0]}.{version[1]}"):
        command, prefix = [program, "-c", "import sys; print(sys.prefix)"], ""
        with suppress(OSError, subprocess.SubprocessError):
            prefix = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
        if not prefix or os.path.realpath(prefix) != os.path.realpath(sys.prefix):
            cure = f"run {PYTHON} -m ipykernel install --sys-prefix, or delete {spec.resource_dir}"
            return Line("FIX", f"the notebooks' kernel runs {program}, which is not in this environment: {cure}")
    return Line("OK", f"the notebooks' kernel runs in this environment, {sys.prefix}")


def widgets() -> Line:
    """JupyterLab finds the two extensions that show widgets, and neither they nor parts of them are disabled."""
    from jupyter_core.paths import jupyter_path
    from jupyter_server.services.config.manager import ConfigManager  # as JupyterLab, whose import takes a second more

    disabled = ConfigManager(config_dir_name="labconfig").get("page_config").get("disabledExtensions", {})
    disabled = [name for name in disabled if isinstance(disabled, list) or disabled[name]]
    for name, package in LAB_EXTENSIONS.items():
        if not any(Path(folder, name, "package.json").is_file() for folder in jupyter_path("labextensions")):
            cure = f"run {PYTHON} -m pip install --force-reinstall --no-deps {package}"
            return Line("FIX", f"JupyterLab cannot show widgets, its extension {name} is missing: {cure}")
        for part in (part for part in disabled if part.partition(":")[0] == name):
            cure = f"run {PYTHON} -m jupyter labextension enable {part}"
            return Line("FIX", f"JupyterLab cannot show widgets, its extension {part} is disabled: {cure}")
    return Line("OK", "JupyterLab shows widgets")


def memory() -> Line:
    """Memory is free for the largest notebook."""
    import psutil

    free, total = settings.free_memory() / 1e9, psutil.virtual_memory().total / 1e9
    text = f"{free:.1f} of {total:.1f} GB of memory is free; a notebook needs 1 to {KERNEL_GB} GB, notebook 8 more"
    if free < KERNEL_GB:
        return Line("FIX", f"{text}: close other programs and notebooks")
    if free < 2 * KERNEL_GB:
        return Line("NOTE", f"{text}: shut down one notebook's kernel before you open the next")
    return Line("OK", text)


def cores() -> Line:
    """How many cores this process may use."""
    count = settings.cores()
    return Line("OK", f"{count} core{'s' * (count != 1)}")


def run_in_use() -> Line:
    """The runs in which another kernel or command trains at this moment, see `runs.run_lock`."""
    used = []
    for folder in held(settings.runs_directory()):
        used.append(folder.name)
        with suppress(OSError, ValueError, TypeError, KeyError):
            used[-1] += f" ({json.loads((folder / 'run.json').read_text())['owner']})"
    if used:
        return Line("NOTE", f"in use: {', '.join(used)}. Until that training stops, train in other runs")
    return Line("OK", "no run is in use")


def torch_and_torchvision() -> Line:
    """Both can be imported and work together."""
    import torch
    import torchvision  # fails beside a torch that it was not built for

    return Line("OK", f"torch {torch.__version__} and torchvision {torchvision.__version__} work together")


def gpu() -> Line:
    """Whether a GPU is found."""
    import torch

    from cifar_utils import train

    device, text = train.best_device().type, "no GPU that torch can use, and none is needed"
    if device != "cpu":
        return Line("OK", f"a GPU: {torch.cuda.get_device_name() if device == 'cuda' else 'Apple (MPS)'}")
    if torch.version.cuda:
        only = f"this torch includes CUDA {torch.version.cuda}, which only takes up disk space (see docs/installing.md)"
        return Line("NOTE", f"{text}; {only}")
    return Line("OK", text)


def data_present() -> Line:
    """The files of the full data set are there; what is in them is not read."""
    from cifar_utils import download

    folder, get = download.folder(settings.data_directory()), f"{PYTHON} -m cifar_utils download"
    if not os.path.exists(folder):
        return Line("NOTE", f"the sample that ships will be used; to fetch the full data set (170 MB), run {get}")
    if missing := [name for name in download.MD5 if not (folder / name).is_file()]:
        return Line("FIX", f"{folder / missing[0]} is missing: delete the folder {folder}, then run {get}")
    return Line("OK", f"the full data set is in {folder}")


def data_checked() -> Line:
    """The full data set, with its MD5 sums."""
    from cifar_utils import download

    line, directory = data_present(), settings.data_directory()
    if line.status != "OK":
        return line
    try:
        download.check(directory)
        return Line("OK", f"{line.text}, whole and checked")
    except download.DataError as error:
        what, folder = str(error).partition(". Delete")[0], download.folder(directory)
        return Line("FIX", f"{what}: delete the folder {folder}, then run {PYTHON} -m cifar_utils download")


def folders() -> Line:
    """Runs can be saved, and the data set where it is missing: in each folder, or the nearest existing one above."""
    needed = {"CIFAR_RUNS": settings.runs_directory(), "CIFAR10_DIR": settings.data_directory()}
    if data_present().status == "OK":
        del needed["CIFAR10_DIR"]
    free = []
    for variable, folder in needed.items():
        place = next((path for path in (folder, *folder.absolute().parents) if os.path.exists(path)), folder)
        try:
            tempfile.TemporaryFile(dir=place).close()
            free.append(shutil.disk_usage(place).free / 1e9)
            if free[-1] < DISK_GB:
                raise OSError(errno.ENOSPC, f"{free[-1]:.1f} GB are free, and {DISK_GB} is needed")
        except OSError as error:
            what = f"nothing can be saved in {folder} ({error.strerror or error})"
            return Line("FIX", f"{what}: make room there, or set {variable} to a folder that you can write to")
    return Line("OK", f"{free[0]:.0f} GB of disk space is free, and runs can be saved in {settings.runs_directory()}")


def speed() -> Line:
    """A training step's time on this machine, and a table: the minutes that each notebook computes here."""
    from cifar_utils.workshop import speed

    milliseconds = speed.step_milliseconds()
    return Line("OK", f"a training step takes {milliseconds:.0f} ms{speed.table(milliseconds)}")
