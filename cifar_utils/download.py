"""Gets CIFAR-10 onto the disk, once, whole and checked."""

import contextlib
import errno
import hashlib
import http.client
import io
import os
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_utils.files import DataError, read_checked
from cifar_utils.progress import bar

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_BYTES, ARCHIVE_MD5 = 170_498_071, "c58f30108f718f92721af3b95e74349a"
MD5 = {
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
STALL_SECONDS = 30  # without a single new byte
TRIAL_SECONDS = 15  # of download before its speed is judged
PATIENCE_MINUTES = 10.0  # a download that would take longer is given up


def folder(data_dir: Path) -> Path:
    """Where the unpacked files lie within the data directory."""
    return data_dir / "cifar-10-batches-py"


def check(data_dir: Path) -> None:
    """Checks that every file is there and has its MD5 sum; raises a DataError that names the file."""
    for name, md5 in MD5.items():
        read_checked(folder(data_dir) / name, md5)


def ensure(data_dir: Path, patience: float = PATIENCE_MINUTES) -> None:
    """Downloads CIFAR-10 into the data directory unless it is there; processes wait for one another.

    Args:
        data_dir: made if missing. CIFAR10_MIRROR may name another address of the archive; its MD5 sum is checked.
        patience: minutes that the download may take.

    Raises:
        DataError: the directory cannot be written to, or the archive does not arrive whole and in time.
    """
    lock = FileLock(data_dir / ".cifar10.lock", mode=0o666)  # for all accounts
    try:
        if folder(data_dir).exists():
            return
        data_dir.mkdir(parents=True, exist_ok=True)
        # Waiting is a courtesy: where a lock cannot be had, as that of another account, or in time, it goes without.
        with contextlib.suppress(OSError, NotImplementedError):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"Another process is downloading CIFAR-10 into {data_dir}; waiting for it.", flush=True)
                lock.acquire(timeout=60 * patience)
        if not folder(data_dir).exists():
            if shutil.disk_usage(data_dir).free < 190e6:
                raise OSError(errno.ENOSPC, "less than 190 MB are free")
            tempfile.TemporaryFile(dir=data_dir).close()  # fails before the download instead of after it
            _unpack(_receive(os.environ.get("CIFAR10_MIRROR") or URL, patience), data_dir)
    except OSError as error:
        cure = "Make room there, or set CIFAR10_DIR to a folder that you can write to."
        raise DataError(f"Cannot write to the data directory {data_dir} ({error.strerror or error}). {cure}") from None
    finally:
        lock.release()


def _receive(url: str, patience: float) -> io.BytesIO:
    """The archive, checked. At most its known size is read, and TLS certificates are always verified."""
    archive, problem = io.BytesIO(), ""
    progress = bar(ARCHIVE_BYTES, "Downloading CIFAR-10", "B", unit_scale=True)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "cifar-utils"})
        with progress, urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
            start = time.monotonic()
            while not problem and (chunk := response.read1(min(65_536, ARCHIVE_BYTES - archive.tell()))):
                archive.write(chunk)
                progress.update(len(chunk))
                seconds = time.monotonic() - start
                minutes = seconds / 60 * ARCHIVE_BYTES / archive.tell()
                if seconds > TRIAL_SECONDS and minutes > patience and archive.tell() < ARCHIVE_BYTES:
                    problem = f"needs {minutes:.0f} minutes (to wait for it, run 'python -m cifar_utils download')"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        code, what = getattr(error, "code", ""), str(reason).partition("\n")[0].rstrip(".")
        problem = f"failed ({code} {what})".replace("( ", "(")
        if isinstance(reason, ssl.SSLCertVerificationError):
            problem += " (on a Mac with Python from python.org, run Install Certificates.command in its folder first)"
        if isinstance(reason, TimeoutError):
            problem = f"sent nothing for {STALL_SECONDS} seconds"
    if not problem and hashlib.md5(archive.getbuffer(), usedforsecurity=False).hexdigest() != ARCHIVE_MD5:
        problem = "sent something other than CIFAR-10 (its MD5 sum is wrong)"
        if archive.tell() < ARCHIVE_BYTES:
            problem = f"sent {archive.tell():,} of {ARCHIVE_BYTES:,} bytes"
        if archive.getvalue()[:512].lstrip().startswith(b"<"):
            problem = "answered with a web page instead of the archive (a log-in page?)"
    if problem:
        cure = "Check the network, try later, or set CIFAR10_MIRROR to another address of cifar-10-python.tar.gz."
        raise DataError(f"CIFAR-10 could not be downloaded: {url} {problem}. {cure}")
    return archive


def _unpack(archive: io.BytesIO, data_dir: Path) -> None:
    """Unpacks the known files in a private folder and renames that, so that no process ever sees half of them."""
    for left_over in data_dir.glob(".cifar10-*/"):
        with contextlib.suppress(OSError):
            if time.time() - left_over.stat().st_mtime > 3600:  # unpacking takes seconds: its process was killed
                shutil.rmtree(left_over)
    part = Path(tempfile.mkdtemp(prefix=".cifar10-", dir=data_dir))
    try:
        folder(part).mkdir()
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for name in MD5:
                path = folder(part) / name
                path.write_bytes(tar.extractfile(f"{folder(part).name}/{name}").read())
                path.chmod(0o644)  # for all accounts, whatever the umask
        folder(part).chmod(0o755)
        check(part)
        os.rename(folder(part), folder(data_dir))
    except OSError:
        if not folder(data_dir).exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
