"""A folder that installs and runs the workshop with the network cut off, from a stick or from a server in the room.

FOLDER/install.py, README.txt    what a participant runs and reads
FOLDER/manifest.json             SHA-256 sum and size of every file below; written last, so a folder with it is complete
FOLDER/wheels/linux-3.11/        the packages for one platform and Python
FOLDER/data/                     CIFAR-10
FOLDER/workshop/                 participants' copies of the notebooks, and the package

The package travels as source and is installed editable, since participants open its files, and notebooks read figures
that lie beside it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cifar_utils import download, settings
from cifar_utils.download import DataError
from cifar_utils.workshop import copies, install

CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch without the GPU libraries that come with it on Linux
MANYLINUX = [*(f"manylinux_2_{minor}" for minor in range(28, 4, -1)), "manylinux2014", "manylinux2010", "manylinux1"]
# name -> the tags of wheels that run there (pip's --platform), and uv's name for it
PLATFORMS = {
    "linux": ([f"{tag}_x86_64" for tag in (*MANYLINUX, "linux")], "x86_64-manylinux_2_28"),
    "linux-arm": ([f"{tag}_aarch64" for tag in (*MANYLINUX, "linux")], "aarch64-manylinux_2_28"),
    "windows": (["win_amd64"], "x86_64-pc-windows-msvc"),
    "macos-arm": (["macosx_14_0_arm64"], "aarch64-apple-darwin"),
}
MACOS = "14.0"  # as in the tag above; uv would take an older one, for which there is no new torch
README = """\
The CIFAR-10 workshop, without the internet
===========================================

You need one of: {targets}.
Before you come, install one of exactly these versions of Python from python.org (3.12 means any 3.12.x). A Mac needs
macOS 14 or later. (Instead of python below, type py on Windows, and python3 on macOS and Linux. On Windows, a terminal
means the Command Prompt.)

From a stick or a shared drive: open a terminal and type

  python PATH_OF_THIS_FOLDER/install.py

From the room's server: open http://ADDRESS:8000/install.py in a browser and save it as install.py; your teacher tells
you the address. Open a terminal in the folder where you saved it and type

  python install.py --from http://ADDRESS:8000

Both install into the folder cifar10-workshop in your home folder; to choose another one, add its name to the command.
This takes up to {size:.1f} GB and some minutes, and ends with the commands that open the first notebook. You can stop
it at any time; the same command resumes. Files that you changed are never overwritten.

For teachers: this command serves the folder to the room. ADDRESS is your computer's address in the room's network
(Windows: ipconfig, macOS: ipconfig getifaddr en0, Linux: hostname -I).

  python -m http.server -d PATH_OF_THIS_FOLDER 8000
"""


def requirements() -> list[str]:
    """The packages to install before the project itself: its dependencies, what builds it, and pip, which installs."""
    project = tomllib.loads((copies.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return [*project["project"]["dependencies"], *project["build-system"]["requires"], "pip"]


def prepare(
    folder: Path, packages: list[str], platforms: Sequence[str] = (), pythons: Sequence[str] = (), cpu: bool = False
) -> list[str]:
    """Fills the folder. pip shows its progress, and keeps what it downloads in its cache for the next time.

    Args:
        folder: made if missing; must be empty.
        packages: see `requirements`.
        platforms: names of PLATFORMS; by default this computer's.
        pythons: versions, as in "3.12"; by default the one that runs this.
        cpu: take PyTorch without GPU libraries, from PyTorch's own index.

    Returns:
        What is there and how to use it, line by line.

    Raises:
        DataError: CIFAR-10 is not in the data directory, or damaged.
        ValueError: an unknown platform or Python, a folder that is not empty, or uv is needed and missing.
        OSError: packages cannot be had, or the disk is full.
    """
    this = install.this_target()
    platforms, pythons = platforms or [install.this_platform()], pythons or [this.rpartition("-")[2]]
    for name in platforms:
        if name not in PLATFORMS:
            raise ValueError(f"there are no wheels for platform {name!r}: choose from {', '.join(PLATFORMS)}")
    for version in pythons:
        if not re.fullmatch(r"3\.(1[1-9]|[2-9]\d)", version):
            raise ValueError(f"{version!r} is not a version of Python from 3.11 on, as in 3.12")
    targets = [f"{name}-{version}" for name in platforms for version in pythons]
    if targets != [this] and not find_spec("uv"):
        raise ValueError("uv is needed to find the packages for another platform or Python: pip install uv")
    copies.check_empty(folder)
    _check_data(settings.data_directory())
    if cpu:
        _check_cpu_index()

    dead_links = copies.write(folder / "workshop")
    data = download.folder(folder / "data")
    data.mkdir(parents=True)
    for name in download.MD5:
        shutil.copyfile(download.folder(settings.data_directory()) / name, data / name)
    for target in targets:
        _download(folder / "wheels" / target, target, packages, cpu)
    dead = [f"Links that lead nowhere in the copies: {', '.join(dead_links)}"] if dead_links else []
    return [*_finish(folder, targets), *dead]


def _check_data(directory: Path) -> None:
    if not download.folder(directory).exists():
        raise DataError(f"CIFAR-10 is not in {directory}: fetch it first with python -m cifar_utils download")
    download.check(directory)


def _check_cpu_index() -> None:
    """Raises OSError: the index cannot be reached. pip would only warn, and take the GPU libraries from elsewhere."""
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=30).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        message = f"--cpu needs {CPU_INDEX}, which cannot be reached ({reason})"
        raise OSError(f"{message}: try another network, or leave --cpu out and take several GB more") from None


def _download(folder: Path, target: str, packages: list[str], cpu: bool) -> None:
    """Downloads the wheels for one platform and Python, and all that they depend on."""
    platform, _, python = target.rpartition("-")
    options = ["--only-binary", ":all:", *(["--extra-index-url", CPU_INDEX] if cpu else [])]
    if target != install.this_target():
        packages, options = _resolve(platform, python, packages, cpu), [*options, "--no-deps"]
    for tag in PLATFORMS[platform][0]:
        options += ["--platform", tag]
    options += ["--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    print(f"Downloading the packages for {install.describe(target)}.", flush=True)
    if subprocess.run([sys.executable, "-m", "pip", "download", *options, *packages]).returncode:
        raise OSError(f"pip cannot download the packages for {install.describe(target)}, for the reason above")
    if cpu and platform.startswith("linux") and list(folder.glob("torch-*")) and not list(folder.glob("torch-*+cpu*")):
        raise OSError(f"{CPU_INDEX} has no torch that is as new as the one with GPU libraries: leave --cpu out")


def _resolve(platform: str, python: str, packages: list[str], cpu: bool) -> list[str]:
    """The packages and all that they depend on, as name==version. pip would take this computer's dependencies."""
    options = ["--python-platform", PLATFORMS[platform][1], "--python-version", python, "--only-binary", ":all:"]
    options += ["--extra-index-url", CPU_INDEX, "--index-strategy", "unsafe-best-match"] if cpu else []
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", *options]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}
    found = subprocess.run(command, input="\n".join(packages), stdout=subprocess.PIPE, text=True, env=environment)
    if found.returncode:
        raise OSError(f"uv finds no packages for {platform} with Python {python}, for the reason above")
    return [line for line in found.stdout.splitlines() if "==" in line]


def _finish(folder: Path, targets: list[str]) -> list[str]:
    """Writes README.txt, install.py and, at last, the manifest; returns what is there and how to use it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {p.relative_to(folder).as_posix(): [install.sha256_of(p), p.stat().st_size] for p in paths}
    wheels = {target: [path for path in paths if path.parent.name == target] for target in targets}
    unpacked = {target: sum(map(_unpacked, wheels[target])) for target in targets}
    size = sum(size for _, size in files.values())
    packed = {target: sum(path.stat().st_size for path in wheels[target]) for target in targets}
    needed = size - sum(packed.values()) + max(packed[target] + unpacked[target] for target in targets)
    names = ", ".join(map(install.describe, targets))
    (folder / "README.txt").write_text(README.format(targets=names, size=needed / 1e9), encoding="utf-8")
    shutil.copyfile(install.__file__, folder / "install.py")
    manifest = {"targets": unpacked, "files": files}
    (folder / install.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return [
        f"{folder} holds the workshop for {names}: {size / 1e9:.1f} GB in {len(files)} files.",
        f"From a stick: copy the folder there. Participants run: python STICK/{folder.name}/install.py",
        f"From this computer: python -m http.server -d {folder} 8000",
        "Participants save http://ADDRESS:8000/install.py and run: python install.py --from http://ADDRESS:8000",
        f"{folder / 'README.txt'} explains both. Try it once with the network cut off.",
    ]


def _unpacked(wheel: Path) -> int:
    """Bytes of a wheel's files when installed."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(member.file_size for member in archive.infolist())
