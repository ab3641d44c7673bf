"""Installs the CIFAR-10 workshop without the internet: from a stick, or from a server in the room.

    python install.py                                 from the folder (on a stick) in which this file lies
    python install.py --from http://ADDRESS:8000      from the room's server
    python install.py my_folder [--from ...]          into my_folder (default: cifar10-workshop in your home folder)

You can stop it at any time; the same command resumes. Files that you changed are never overwritten.
It needs nothing but Python, and stands alone: `python -m cifar_utils prepare-room` puts a copy where it is used.
"""

import argparse
import hashlib
import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

MANIFEST = "manifest.json"
INSTALLED = Path(".venv", "installed")  # there once all packages are
BROUGHT = ".room.json"  # in your folder: file -> SHA-256 sum, as the room brought it
CHUNK = 1 << 20  # bytes
STALL_SECONDS = 60  # without a single new byte
# The room's server is nearby: a proxy to the internet does not reach it.
SERVER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class InstallError(Exception):
    """The workshop cannot be installed; the message is one sentence: what is wrong, where, what to do."""


def main(arguments=None):
    """Installs, checks and prints how to begin; returns the exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=__doc__, formatter_class=layout)
    parser.add_argument("folder", nargs="?", type=Path, default=Path.home() / "cifar10-workshop")
    parser.add_argument("--from", dest="source", default=str(Path(__file__).resolve().parent))
    options = parser.parse_args(arguments)
    folder = options.folder.expanduser().resolve()
    try:
        source = options.source.rstrip("/")
        bring_and_install(source if is_address(source) else str(Path(source).expanduser().resolve()), folder)
        print("\nChecking this computer:", flush=True)
        doctor = [str(venv_python(folder)), "-m", "cifar_utils", "doctor"]
        code = subprocess.run(doctor, cwd=str(folder)).returncode
    except (InstallError, OSError) as error:
        what = error if isinstance(error, InstallError) else f"{error.filename or folder}: {error.strerror or error}"
        print(f"\nerror: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes.", file=sys.stderr)
        return 130
    # pushd, unlike cd, also changes the drive of a Command Prompt.
    enter, activate = ("pushd", r".venv\Scripts\activate") if os.name == "nt" else ("cd", "source .venv/bin/activate")
    where = ", in the Command Prompt (not in PowerShell)" if os.name == "nt" else ""
    print(f'\nThe workshop is installed. To begin{where}:\n\n  {enter} "{folder}"\n  {activate}')
    print("  jupyter lab\n\nThen open notebooks/01_data_and_augmentation.ipynb in JupyterLab.")
    return code


def bring_and_install(source, folder):
    """Brings the files, makes the environment and installs the packages and the workshop's own into it.

    Args:
        source: the room's folder, or its address.
        folder: of the participant: Path, made if missing.

    Raises:
        InstallError: there are no packages for this computer, too little room on its disk, or a file cannot be had.
        OSError: a file of the room is missing on a stick, or the disk cannot be written to.
    """
    manifest = read_manifest(source)
    target = this_target()
    if target not in manifest["targets"]:
        there = ", ".join(describe(name) for name in sorted(manifest["targets"]))
        message = f"this is {describe(target)}, and {source} has packages for {there} only"
        raise InstallError(f"{message}: install one of these Pythons, or ask your teacher")
    wanted = {}  # name in the room -> (path here, SHA-256, bytes)
    for name, (sha256, size) in manifest["files"].items():
        if {"", ".", ".."} & set(name.replace("\\", "/").split("/")) or ":" in name:
            raise InstallError(f"{source}/{MANIFEST} is not a workshop's list of files: it names {name!r}")
        top, _, rest = name.partition("/")
        if top == "workshop":
            wanted[name] = (folder / rest, sha256, size)
        elif top == "data":
            wanted[name] = (folder / name, sha256, size)
        elif rest.startswith(target + "/"):  # a wheel; one on a stick is used where it lies
            wanted[name] = (folder / name if is_address(source) else Path(source) / name, sha256, size)
    python = venv_python(folder)
    check_python(folder)
    check_space(folder, wanted, 0 if (folder / INSTALLED).exists() else manifest["targets"][target])
    brought = Record(folder / BROUGHT)
    try:
        bring(source, wanted, brought)
    finally:
        if brought:  # what has come is known, whatever stops the rest
            brought.save()
    wheels = [path for name, (path, _, _) in wanted.items() if name.startswith("wheels/")]
    install(folder, python, wheels)


def read_manifest(source):
    """What the room holds: targets (name -> bytes when unpacked) and files (name -> [SHA-256, bytes]).

    Raises InstallError: there is no such list, it is another program's, or the connection breaks.
    """
    try:
        with open_file(source, MANIFEST) as stream:
            manifest = json.loads(b"".join(chunks(stream, MANIFEST)).decode())
        return {"targets": manifest["targets"], "files": manifest["files"]}
    except (ValueError, KeyError, TypeError):
        problem = "is not a workshop's list of files"
    except FileNotFoundError:
        problem = "does not exist: name the room's folder, or its server as in --from http://ADDRESS:8000"
    raise InstallError(f"{source}/{MANIFEST} {problem}")


def open_file(source, name):
    """A stream of one of the room's files, from its folder or its server.

    Raises InstallError: the server cannot be reached; OSError: the folder has no such file.
    """
    if not is_address(source):
        return open(Path(source) / name, "rb")
    try:
        return SERVER.open(f"{source}/{urllib.parse.quote(name)}", timeout=STALL_SECONDS)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        hint = "Is the address right, is the teacher's server running, and are you on the room's network?"
        raise InstallError(f"{source} does not send {name} ({reason}). {hint} The same command resumes.") from None


def is_address(source):
    """Whether the source is a server."""
    return source.startswith(("http://", "https://"))


def this_target():
    """What wheels must be made for, as in linux-3.11, macos-arm-3.12."""
    return f"{this_platform()}-{sys.version_info[0]}.{sys.version_info[1]}"


def this_platform():
    """linux, windows or macos, and what differs from 64 bits of Intel or AMD, as in linux-arm."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower() if sys.maxsize > 2**32 else "32-bit"
    kind = {"x86_64": "intel" if system == "macos" else "", "amd64": "", "arm64": "arm", "aarch64": "arm"}
    return f"{system}-{kind.get(machine, machine)}".rstrip("-")


def describe(target):
    """A target in words, as in linux with Python 3.11."""
    return " with Python ".join(target.rsplit("-", 1))


def venv_python(folder):
    """The interpreter of the environment in this folder."""
    return folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def check_python(folder):
    """Raises InstallError: the environment in this folder is one of another version of Python than this."""
    file, this = folder / ".venv" / "pyvenv.cfg", "{}.{}".format(*sys.version_info)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = next((line.partition("=")[2].strip() for line in lines if line.startswith("version")), this)
    if found.split(".")[:2] != this.split("."):
        other = f"{file.parent} was made by Python {found}, and this is Python {this}"
        raise InstallError(f"{other}: run the same command with that Python, or delete {file.parent} and run it again")


def check_space(folder, wanted, unpacked):
    """Raises InstallError: the disk has no room for the files that are missing and the unpacked packages, in bytes."""
    missing = sum(size for path, _, size in wanted.values() if not path.exists() or path.stat().st_size != size)
    needed = (missing + unpacked) * 1.05
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is None:
        raise InstallError(f"{folder}: there is no such drive")
    free = shutil.disk_usage(str(there)).free
    if free < needed:
        message = f"{folder} needs {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free"
        raise InstallError(f"{message}: make room there, or name a folder on another disk")


def bring(source, wanted, brought):
    """Brings every file that is not here yet or that the room has changed since, each as a whole; yours are kept.

    Args:
        source: the room's folder, or its address.
        wanted: name in the room -> (path here, SHA-256, bytes).
        brought: the Record of what came the last time: a file that differs from it is yours.

    Raises InstallError: a file is missing, or arrives damaged.
    """
    progress, kept = Progress(sum(size for _, _, size in wanted.values())), []
    for name, (path, sha256, size) in wanted.items():
        if path.is_file():
            found = sha256_of(path)
            if found == sha256:
                brought[name] = sha256
                progress.add(size)
                continue
            if name.startswith("workshop/") and found != brought.get(name):
                kept.append(name.partition("/")[2])
                progress.add(size)
                continue
        if not is_address(source) and path == Path(source) / name:
            raise InstallError(f"{path} is damaged or missing: copy the room's folder again")
        path.parent.mkdir(parents=True, exist_ok=True)
        part, digest = path.with_name(path.name + ".part"), hashlib.sha256()
        with open_file(source, name) as stream, open(part, "wb") as file:
            for chunk in chunks(stream, name):
                file.write(chunk)
                digest.update(chunk)
                progress.add(len(chunk))
        if digest.hexdigest() != sha256:
            part.unlink()
            raise InstallError(f"{source}/{name} arrived damaged (its SHA-256 sum is wrong). The same command resumes.")
        os.replace(part, path)
        brought[name] = sha256
    progress.close()
    if kept:
        print(f"Kept your changed files: {', '.join(kept)}")


class Record(dict):
    """Name in the room -> SHA-256 sum of what came, in a file."""

    def __init__(self, path):
        self.path = path
        try:
            super().__init__(json.loads(path.read_text()))
        except (OSError, ValueError):  # none yet, or cut off
            super().__init__()

    def save(self):
        """Writes the file as a whole."""
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self))
        os.replace(part, self.path)


def chunks(stream, name):
    """The stream's content. Raises InstallError: the connection breaks."""
    while True:
        try:
            chunk = stream.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise InstallError(f"{name} stopped arriving ({error}). The same command resumes.") from None
        if not chunk and getattr(stream, "length", None):  # of what a server announced, this much is missing
            raise InstallError(f"{name} stopped arriving. The same command resumes.")
        if not chunk:
            return
        yield chunk


def sha256_of(path):
    """The file's SHA-256 sum, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


class Progress:
    """One line that counts megabytes; where it is no terminal, a line for each tenth."""

    def __init__(self, total):
        self.total, self.done, self.shown, self.next = total, 0, -1, 0.0

    def add(self, size):
        """Counts this many more bytes."""
        self.done += size
        tenth = 10 * self.done // max(self.total, 1)
        if sys.stdout.isatty() and time.monotonic() > self.next:
            print(self, end="\r", flush=True)
            self.next = time.monotonic() + 0.2
        elif not sys.stdout.isatty() and tenth > self.shown:
            print(self, flush=True)
            self.shown = tenth

    def close(self):
        """Leaves the last state on the screen."""
        if sys.stdout.isatty():
            print(self, flush=True)

    def __str__(self):
        return f"{self.done / 1e6:10,.1f} of {self.total / 1e6:,.1f} MB received"


def install(folder, python, wheels):
    """Makes the environment and installs the wheels, then the workshop's folder itself, editable.

    pip runs from its own wheel, since Python on some Linux systems makes environments only without pip; and not as the
    program that is called pip, since that refuses to install itself on Windows. Options of pip that this computer sets
    are ignored: they may name the internet.

    Raises InstallError: pip is missing, or one of its commands fails.
    """
    print(f"Installing {len(wheels)} packages into {folder / '.venv'}: some minutes, once.", flush=True)
    if not python.exists():
        command(folder, sys.executable, "-m", "venv", "--without-pip", folder / ".venv")
    pins = [path.name.split("-")[:2] for path in wheels]
    requirements = folder / ".venv" / "requirements.txt"
    requirements.write_text("".join(f"{name}=={version}\n" for name, version in pins), encoding="utf-8")
    pip = next((path for path in wheels if path.name.startswith("pip-")), None)
    if pip is None:
        raise InstallError("the room has no wheel of pip: prepare it again")
    options = ["install", "--quiet", "--no-index", "--no-deps", "--no-warn-script-location"]
    run_pip = "import runpy, sys; sys.path[0] = sys.argv.pop(1); runpy.run_module('pip', run_name='__main__')"
    needed = "--find-links", wheels[0].parent, "--requirement", requirements
    command(folder, python, "-c", run_pip, pip, *options, *needed)
    command(folder, python, "-m", "pip", *options, "--no-build-isolation", "--editable", folder)
    (folder / INSTALLED).touch()


def command(folder, *words):
    """Runs a program in the folder; raises InstallError where it fails."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    settings.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
    texts = [str(word) for word in words]
    if subprocess.run(texts, cwd=str(folder), env=settings).returncode:
        raise InstallError(f"this command failed, for the reason above: {subprocess.list2cmdline(texts)}")


if __name__ == "__main__":
    sys.exit(main())
