"""Gets CIFAR-10's files onto the disk: once, whole and checked, or not at all.

torchvision downloads, checks the MD5 sum and unpacks. It does so in a process of its own and in a temporary folder
beside the target: a process can be stopped when the server stalls, and a rename puts the finished folder in place,
so that nobody ever reads a half-written file.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from cifar_utils.progress import bar

ARCHIVE_BYTES = 170_498_071
UNPACKED_BYTES = 186_000_000
STALL_SECONDS = 30  # without a single new byte
PATIENCE_MINUTES = 10.0  # a download that would take longer is given up
TRIAL_SECONDS = 15  # of download before its speed is judged

_CHILD = """
import sys
from torchvision.datasets import CIFAR10
CIFAR10.url = sys.argv[2]
print("connecting", flush=True)
CIFAR10(sys.argv[1], download=True)
"""


class DataError(Exception):
    """The data set cannot be had; the message says why and what to do, in a sentence or two."""


def folder(data_dir: Path) -> Path:
    """Where the unpacked files lie within the data directory."""
    return data_dir / CIFAR10.base_folder


def check(data_dir: Path) -> None:
    """Checks that every file is there and has its MD5 sum, before anything unpickles it.

    Raises:
        DataError: naming the file that is missing or damaged.
    """
    md5 = dict(CIFAR10.train_list + CIFAR10.test_list) | {CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}
    for name in md5:
        path = folder(data_dir) / name
        try:
            what = "is missing" if not path.is_file() else "" if check_integrity(path, md5[name]) else "is damaged"
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
        if what:
            raise DataError(f"{path} {what}. Delete the folder {path.parent} and run this again to download it anew.")


def ensure(data_dir: Path, patience: float = PATIENCE_MINUTES) -> None:
    """Downloads CIFAR-10 into the data directory unless it is there; `check` is up to the caller.

    Processes that share the directory download once: the others wait for the first.

    Args:
        data_dir: made if missing. The environment variable CIFAR10_MIRROR names another address of the archive
            cifar-10-python.tar.gz; its MD5 sum is checked whatever the address.
        patience: minutes that the download may take.

    Raises:
        DataError: the directory cannot be written to, the server does not answer, is too slow, stalls, or sends
            something else than the archive.
    """
    try:
        if folder(data_dir).exists():
            return
        data_dir.mkdir(parents=True, exist_ok=True)
        with _lock(data_dir, patience):
            if not folder(data_dir).exists():
                _download(data_dir, os.environ.get("CIFAR10_MIRROR") or CIFAR10.url, patience)
    except OSError as error:
        raise DataError(
            f"Cannot write to the data directory {data_dir} ({error.strerror or error}). "
            "Set CIFAR10_DIR to a folder that you can write to."
        ) from None


def _lock(data_dir: Path, patience: float) -> AcquireReturnProxy:
    """Takes the data directory's lock, waiting for another process that downloads into it."""
    lock = FileLock(data_dir / ".cifar10.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is downloading CIFAR-10 into {data_dir}; waiting for it.", flush=True)
    try:
        return lock.acquire(timeout=60 * patience)
    except Timeout:
        raise DataError(
            f"Another process has been downloading into {data_dir} for {patience:g} minutes. "
            "Wait for it, or set CIFAR10_DIR to a folder of your own."
        ) from None


def _download(data_dir: Path, url: str, patience: float) -> None:
    for left_over in data_dir.glob(".cifar10-*/"):  # of a process that was killed; we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    if shutil.disk_usage(data_dir).free < ARCHIVE_BYTES + UNPACKED_BYTES:
        raise DataError(f"{data_dir} has less than 360 MB free. Make room, or set CIFAR10_DIR to a folder elsewhere.")
    part = Path(tempfile.mkdtemp(prefix=".cifar10-", dir=data_dir))
    log = part / "log"
    try:
        with open(log, "w") as output:
            child = subprocess.Popen([sys.executable, "-c", _CHILD, part, url], stdout=output, stderr=output)
        try:
            _watch(child, part, url, patience)
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            raise DataError(_why(part / CIFAR10.filename, log, url))
        os.replace(folder(part), folder(data_dir))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _watch(child: subprocess.Popen, part: Path, url: str, patience: float) -> None:
    """Shows the download's progress until the child ends; raises DataError if it stalls or is too slow."""
    archive = part / CIFAR10.filename
    seen, last_growth, first_byte = 0, time.monotonic(), None
    with bar(ARCHIVE_BYTES, "Downloading CIFAR-10", "B", unit_scale=True) as progress:
        while child.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            done = archive.stat().st_size if archive.exists() else 0
            progress.update(done - progress.n)
            size = sum(f.stat().st_size for f in part.rglob("*") if f.is_file())
            if size != seen:
                seen, last_growth = size, now
            elif seen and now - last_growth > STALL_SECONDS:  # seen: torch is imported by now
                raise DataError(
                    f"No data from {url} for {STALL_SECONDS} seconds. Check the network, try later, or set "
                    "CIFAR10_MIRROR to another address of cifar-10-python.tar.gz."
                )
            if done and first_byte is None:
                first_byte = now
            if done and done < ARCHIVE_BYTES and now - first_byte > TRIAL_SECONDS:
                minutes = (now - first_byte) * ARCHIVE_BYTES / done / 60
                if minutes > patience:
                    raise DataError(
                        f"{url} is so slow that the download would take {minutes:.0f} minutes. To wait for it run "
                        "'python -m cifar_utils download', or set CIFAR10_MIRROR to another address."
                    )
        done = archive.stat().st_size if archive.exists() else progress.n
        progress.update(done - progress.n)


def _why(archive: Path, log: Path, url: str) -> str:
    """One sentence for a failed download, from what arrived and from the last line that torchvision printed."""
    last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    mirror = "try later, or set CIFAR10_MIRROR to another address of cifar-10-python.tar.gz."
    if "No space left" in last:
        return f"The disk is full: {archive.parent.parent} has no room for CIFAR-10. Make room or set CIFAR10_DIR."
    if "corrupted" not in last:
        reason = re.sub(r"^[\w.]+: (<urlopen error )?|>$", "", last)  # without the names of Python's exceptions
        return f"CIFAR-10 could not be downloaded from {url} ({reason}). Check the network, {mirror}"
    with open(archive, "rb") as f:
        start = f.read(512)
    if start.lstrip()[:1] == b"<":
        return f"{url} answered with a web page instead of the archive (a log-in page?). Open it in a browser, {mirror}"
    size = archive.stat().st_size
    if size < ARCHIVE_BYTES:
        return (
            f"The download from {url} was cut off after {size:,} of {ARCHIVE_BYTES:,} bytes. Run this again, {mirror}"
        )
    return f"What {url} sent is not CIFAR-10 (its MD5 sum is wrong) and was deleted. Run this again, {mirror}"
