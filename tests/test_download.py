"""The download against servers on this machine that fail in every way a server can, and against one that works."""

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from cifar_utils import data, download
from cifar_utils.download import ARCHIVE_BYTES, DataError

GZIP = b"\x1f\x8b\x08\x00" + bytes(996)
NAMES = ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


class Mirror(ThreadingHTTPServer):
    """A server on this machine that treats every GET as `answer` does.

    Attributes:
        url: to be given as CIFAR10_MIRROR.
        gets: of each GET so far, whether it was for the archive ("archive") or one of those by which torchvision
            looks where an address leads ("look").
        hung_up: set when the other side has closed a connection that was left open.
    """

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.gets, self.hung_up = answer, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"

    def handle_error(self, *_):
        """Says nothing of broken connections: they are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.gets.append("look" if self.headers["Method"] == "HEAD" else "archive")
        self.server.answer(self)

    def send(self, content, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def not_found(handler):
    handler.send_error(404)


def web_page(handler):
    handler.send(b"\n<!DOCTYPE html><title>Log in</title>")


def cut(handler):
    handler.send(GZIP, length=ARCHIVE_BYTES)


def something_else(handler):
    handler.send(GZIP)


def silence(handler):
    try:
        handler.connection.recv(1)  # returns when the client hangs up
    except ConnectionError:
        pass
    handler.server.hung_up.set()


def stall(handler):
    handler.send(GZIP * 100, length=ARCHIVE_BYTES)
    if handler.server.gets[-1] == "archive":
        silence(handler)


def drip(handler):
    handler.send(GZIP, length=ARCHIVE_BYTES)
    try:
        while handler.server.gets[-1] == "archive":
            handler.wfile.write(bytes(32_768))
            time.sleep(0.1)
    except ConnectionError:
        handler.server.hung_up.set()


@pytest.fixture
def serve(monkeypatch):
    """Starts a Mirror that answers so, or one that has closed already, and makes it CIFAR10_MIRROR."""
    mirrors = []

    def start(answer) -> Mirror:
        mirror = Mirror(answer)
        if answer:
            mirrors.append(mirror)
            threading.Thread(target=mirror.serve_forever, args=[0.05], daemon=True).start()
        else:
            mirror.server_close()
        monkeypatch.setenv("CIFAR10_MIRROR", mirror.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        return mirror

    yield start
    for mirror in mirrors:
        mirror.shutdown()
        mirror.server_close()


@pytest.fixture
def children(monkeypatch):
    """The download's child processes."""
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    return started


def left_in(directory: Path) -> set[str]:
    """What is in the directory but for the lock file, which may stay."""
    return {path.name for path in directory.iterdir()} - {".cifar10.lock"}


def content(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in download.folder(data_dir).iterdir()}


def wait_for(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_message(error, *parts: str):
    """The message is a sentence or two for a reader, has these parts and nothing of Python's inner life."""
    message = str(error.value)
    assert len(re.findall(r"[.?] (?=[A-Z])", message)) == 1 and message.endswith("."), message
    for word in ("Traceback", "urllib", "urlopen", "File ", "\n", "Error:"):
        assert word not in message
    for part in parts:
        assert part in message


slow = pytest.mark.slow  # a child that imports torchvision takes seconds
KILLED = 1 if os.name == "nt" else -signal.SIGKILL


@pytest.mark.parametrize(
    "answer, small, exit_code, said",
    [
        pytest.param(not_found, {}, 1, "(HTTP Error 404: Not Found). Check the network", id="404"),
        pytest.param(None, {}, 1, "refused", id="refused", marks=slow),
        pytest.param(web_page, {}, 1, "a web page instead of the archive", id="page", marks=slow),
        pytest.param(cut, {}, 1, "cut off after 1,000 of 170,498,071 bytes. Run this again", id="cut", marks=slow),
        pytest.param(something_else, {"ARCHIVE_BYTES": 1000}, 1, "is not CIFAR-10", id="wrong", marks=slow),
        pytest.param(silence, {"STALL_SECONDS": 1}, KILLED, "No data from", id="silence", marks=slow),
        pytest.param(stall, {"STALL_SECONDS": 1}, KILLED, "for 1 seconds. Check the network", id="stall", marks=slow),
        pytest.param(drip, {"TRIAL_SECONDS": 0.5}, KILLED, "so slow that the download would", id="slow", marks=slow),
    ],
)
def test_a_failure_is_a_sentence_and_leaves_nothing(
    answer, small, exit_code, said, serve, children, tmp_path, monkeypatch
):
    mirror = serve(answer)
    for name, value in small.items():
        monkeypatch.setattr(download, name, value)
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path, patience=0.5)
    check_message(error, mirror.url, said, "CIFAR10_MIRROR")
    assert left_in(tmp_path) == set()
    assert [child.returncode for child in children] == [exit_code]  # None if nobody had waited for its end
    if exit_code == KILLED:
        assert mirror.hung_up.wait(5), "the download was given up, but something still holds the connection"


def test_an_interrupted_download_leaves_nothing(serve, children, tmp_path, monkeypatch):
    def ctrl_c(_):
        raise KeyboardInterrupt

    serve(silence)
    monkeypatch.setattr(time, "sleep", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        download.ensure(tmp_path)
    assert left_in(tmp_path) == set()
    assert [child.returncode for child in children] == [KILLED]
    FileLock(tmp_path / ".cifar10.lock").acquire(timeout=0).lock.release()


def test_a_download_that_works_and_is_not_repeated(serve, imitation, tmp_path):
    mirror = serve(lambda handler: handler.send(imitation.archive))
    for name in (".cifar10-abc", ".cifar10-xyz"):  # as of processes that were killed
        (tmp_path / name / "cifar-10-batches-py").mkdir(parents=True)
        (tmp_path / name / "cifar-10-python.tar.gz").write_bytes(GZIP)
    download.ensure(tmp_path)
    download.check(tmp_path)
    assert content(tmp_path) == imitation.files
    assert left_in(tmp_path) == {"cifar-10-batches-py"}
    assert mirror.gets == ["look", "archive"]
    download.ensure(tmp_path)
    assert mirror.gets == ["look", "archive"]


def program(imitation, data_dir: Path, ready: Path) -> list[str]:
    """The command line of another process that wants the data; it leaves a file in the folder ready as it begins."""
    source = f"""{imitation.patch}
import os, pathlib
from cifar_utils import download
download._CHILD = {download._CHILD!r}
data_dir = pathlib.Path({str(data_dir)!r})
pathlib.Path({str(ready)!r}, str(os.getpid())).touch()
download.ensure(data_dir)
download.check(data_dir)
"""
    return [sys.executable, "-c", source]


SLOW_UNPACKING = """
import tarfile, time
makefile = tarfile.TarFile.makefile
tarfile.TarFile.makefile = lambda *arguments: (time.sleep(0.05), makefile(*arguments))
"""


@slow
def test_processes_that_share_a_directory_download_once(serve, imitation, tmp_path, monkeypatch):
    ready, data_dir = tmp_path / "ready", tmp_path / "data"
    ready.mkdir()

    def when_all_are_there(handler):
        wait_for(lambda: len(list(ready.iterdir())) == 3)
        handler.send(imitation.archive)

    mirror = serve(when_all_are_there)
    monkeypatch.setattr(download, "_CHILD", SLOW_UNPACKING + download._CHILD)
    command = program(imitation, data_dir, ready)
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
    reads = 0
    while any(process.poll() is None for process in processes):
        if download.folder(data_dir).exists():
            assert content(data_dir) == imitation.files  # whole from the first moment
            reads += 1
        time.sleep(0.001)
    output = [process.communicate()[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert sum("Another process is downloading" in text for text in output) == 2, output
    assert mirror.gets == ["look", "archive"]
    assert reads and left_in(data_dir) == {"cifar-10-batches-py"}


@slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to kill")
def test_a_killed_download_is_cleared_away_by_the_next(serve, imitation, tmp_path):
    ready, data_dir = tmp_path / "ready", tmp_path / "data"
    ready.mkdir()
    mirror = serve(stall)
    process = subprocess.Popen(program(imitation, data_dir, ready), start_new_session=True)
    wait_for(lambda: "archive" in mirror.gets or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [name[:9] for name in left_in(data_dir)] == [".cifar10-"]
    mirror.answer = lambda handler: handler.send(imitation.archive)
    download.ensure(data_dir)
    assert left_in(data_dir) == {"cifar-10-batches-py"} and content(data_dir) == imitation.files


def test_the_wait_for_another_process_ends(tmp_path, capsys):
    with FileLock(tmp_path / ".cifar10.lock"), pytest.raises(DataError) as error:
        download.ensure(tmp_path, patience=0.002)
    check_message(error, str(tmp_path), "Another process has been downloading", "CIFAR10_DIR")
    assert "waiting for it" in capsys.readouterr().out


@pytest.fixture
def ordinary_user(tmp_path, monkeypatch):
    """Makes permissions bind even where the tests run as root; the working directory is tmp_path."""
    if os.name == "nt":
        pytest.skip("Windows has no permission bits")
    monkeypatch.chdir(tmp_path)
    me = os.geteuid()
    if me == 0:
        tmp_path.chmod(0o755)
        os.seteuid(65534)  # nobody
    yield
    os.seteuid(me)


@pytest.mark.parametrize("data_dir, mode", [("shut", 0o555), ("shut/data", 0o555), ("shut/data", 0)])
def test_a_directory_without_permission(data_dir, mode, tmp_path, request):
    (tmp_path / "shut").mkdir(mode=mode)
    request.getfixturevalue("ordinary_user")
    with pytest.raises(DataError) as error:
        download.ensure(Path(data_dir))
    check_message(error, "Cannot write to the data directory shut", os.strerror(errno.EACCES), "Set CIFAR10_DIR")


def test_data_that_are_there_need_no_permission_to_write(imitation, tmp_path, request):
    imitation.write(tmp_path / "shut")
    (tmp_path / "shut").chmod(0o555)
    request.getfixturevalue("ordinary_user")
    download.ensure(Path("shut"))
    download.check(Path("shut"))
    assert left_in(Path("shut")) == {"cifar-10-batches-py"}


def test_a_directory_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path / "file" / "data")
    check_message(error, f"Cannot write to the data directory {tmp_path}", "Set CIFAR10_DIR")


def test_a_directory_beyond_the_quota(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(download.tempfile, "mkdtemp", refuse)
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, str(tmp_path), "(Disk quota exceeded). Set CIFAR10_DIR")


def test_a_full_disk_before_the_download(tmp_path, monkeypatch, children):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000_000))
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, str(tmp_path), "less than 360 MB free", "CIFAR10_DIR")
    assert left_in(tmp_path) == set() and not children


def test_a_full_disk_during_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_CHILD", "raise OSError(28, 'No space left on device')")
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, "The disk is full", str(tmp_path), "CIFAR10_DIR")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("name", NAMES)
def test_check_names_the_file_that_is_missing_or_damaged(name, imitation, tmp_path):
    imitation.write(tmp_path)
    download.check(tmp_path)
    path = download.folder(tmp_path) / name
    path.write_bytes(imitation.files[name][:-1] + b"!")
    with pytest.raises(DataError) as error:
        download.check(tmp_path)
    check_message(error, f"{path} is damaged", "Delete the folder")
    path.unlink()
    with pytest.raises(DataError) as error:
        download.check(tmp_path)
    check_message(error, f"{path} is missing", "Delete the folder")


def test_check_names_the_file_that_may_not_be_read(imitation, tmp_path, request):
    imitation.write(tmp_path)
    (download.folder(tmp_path) / "data_batch_3").chmod(0)
    request.getfixturevalue("ordinary_user")
    with pytest.raises(DataError) as error:
        download.check(Path())
    check_message(error, "data_batch_3 cannot be read")


class Bomb:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_never_unpickled(name, imitation, tmp_path):
    crater, path = tmp_path / "crater", download.folder(tmp_path) / name
    imitation.write(tmp_path)
    path.write_bytes(pickle.dumps(Bomb(crater)))
    for load in (data.load_training, data.load_test):
        with pytest.raises(DataError, match=f"{name} is damaged"):
            load(tmp_path, sample=False)
    assert not crater.exists()
    pickle.loads(path.read_bytes())
    assert crater.exists()  # so the test could have failed
