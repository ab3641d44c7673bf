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
from torchvision.datasets import CIFAR10

from cifar_utils import data, download


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The data directory of the full CIFAR-10; skips the test where CIFAR10_DIR does not name one."""
    directory = Path(os.environ.get("CIFAR10_DIR") or pytest.skip("CIFAR10_DIR is not set")).expanduser()
    try:
        download.check(directory)
    except download.DataError as error:
        pytest.skip(f"CIFAR10_DIR has no full CIFAR-10: {error}")
    return directory


@pytest.fixture(autouse=True)
def forget_problems():
    """Every test tries anew whether the data can be had."""
    data._problem.cache_clear()


@pytest.fixture(autouse=True)
def stop_button():
    """SIGINT interrupts, as in a terminal: tests that a shell runs in the background would start with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Imitation:
    """A data set of 20 images a file that torchvision takes for CIFAR-10.

    Attributes:
        files: name -> content, in CIFAR-10's own format.
        archive: the .tar.gz of them.
        patch: Python source that gives torchvision's CIFAR10 the MD5 sums of this one, for other processes.
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
    """An imitation of CIFAR-10, which this process and the download's child take for the real one."""
    rng = np.random.default_rng(0)
    batches = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    content = {
        name: {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2} for name in batches
    }
    files = {
        name: pickle.dumps(value) for name, value in (content | {"batches.meta": {"label_names": data.CLASSES}}).items()
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, value in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    md5 = {name: hashlib.md5(value).hexdigest() for name, value in files.items()}
    changes = {
        "train_list": [[name, md5[name]] for name in batches[:-1]],
        "test_list": [["test_batch", md5["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
        "tgz_md5": hashlib.md5(buffer.getvalue()).hexdigest(),
    }
    patch = "from torchvision.datasets import CIFAR10\n"
    for name, value in changes.items():
        monkeypatch.setattr(CIFAR10, name, value)
        patch += f"CIFAR10.{name} = {value!r}\n"
    monkeypatch.setattr(download, "_CHILD", patch + download._CHILD)
    return Imitation(files, buffer.getvalue(), patch)
