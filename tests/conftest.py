"""What several test files share: the full data set where it is at hand, and a tiny imitation of it."""

import hashlib
import io
import os
import pickle
import signal
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from cifar_utils import data, download

# On a busy machine any call may take a second.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The data directory of the full CIFAR-10; skips the test where CIFAR10_DIR does not name one."""
    directory = Path(os.environ.get("CIFAR10_DIR") or pytest.skip("CIFAR10_DIR is not set")).expanduser()
    try:
        download.check(directory)
    except download.DataError as error:
        pytest.skip(f"CIFAR10_DIR has no full CIFAR-10: {error}")
    return directory


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """On a busy machine two threads would wait for each other a thousand times longer than such small tensors take."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """No test cuts the power, which is all that flushing to the disk protects against."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def stop_button():
    """SIGINT interrupts, as in a terminal: tests that a shell runs in the background would start with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Imitation:
    """A data set of 20 images per file that this package takes for CIFAR-10.

    Attributes:
        files: name -> content, in CIFAR-10's own format.
        archive: the .tar.gz of them.
        patch: Python source that makes another process expect the MD5 sums of this data set.
    """

    files: dict[str, bytes]
    archive: bytes
    patch: str

    def write(self, data_dir: Path) -> None:
        folder = download.folder(data_dir)
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def imitation(monkeypatch) -> Imitation:
    """An imitation of CIFAR-10, which this process takes for the real one."""
    rng = np.random.default_rng(0)
    files = {"batches.meta": pickle.dumps({"label_names": data.CIFAR10_CLASSES})}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2}
        files[name] = pickle.dumps(batch, protocol=4)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, value in {"readme.html": b"not needed", **files}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    sums = {
        "MD5": {name: hashlib.md5(value).hexdigest() for name, value in files.items()},
        "ARCHIVE_MD5": hashlib.md5(buffer.getvalue()).hexdigest(),
    }
    for name, value in sums.items():
        monkeypatch.setattr(download, name, value)
    patch = "".join(f"download.{name} = {value!r}\n" for name, value in sums.items())
    return Imitation(files, buffer.getvalue(), f"from cifar_utils import download\n{patch}")
