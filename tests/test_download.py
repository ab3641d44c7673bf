"""The download against servers on this machine that fail in every way a server can, and against one that works."""

import codecs
import errno
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from cifar_utils import data, download
from cifar_utils.download import ARCHIVE_BYTES, DataError

GZIP = b"\x1f\x8b\x08\x00" + bytes(996)
NAMES = ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such accounts, permissions or signals")


class Mirror(ThreadingHTTPServer):
    """A server on this machine that treats every GET as `answer` does.

    Attributes:
        url: to be given as CIFAR10_MIRROR.
        gets: how many requests there were.
        sent: the bytes written so far by those answers that count them.
        hung_up: set when the other side has closed a connection that was left open.
    """

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.gets, self.sent, self.hung_up = answer, 0, 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"

    def handle_error(self, *_):
        """Says nothing of broken connections: they are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.gets += 1
        self.server.answer(self)

    def send(self, content, length=None, headers=()):
        self.send_response(200)
        for name, value in headers or [("Content-Length", str(length or len(content)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def keep_sending(self, content, pause=0.0):
        try:
            while True:
                self.wfile.write(content)
                self.server.sent += len(content)
                time.sleep(pause)
        except ConnectionError:
            self.server.hung_up.set()

    def log_message(self, *_):
        pass


def not_found(handler):
    handler.send_error(404)


def web_page(handler):
    handler.send(b"\n<!DOCTYPE html><title>Log in</title>")


def cut(handler):
    handler.send(GZIP, length=ARCHIVE_BYTES)


def cut_chunk(handler):
    handler.protocol_version = "HTTP/1.1"
    handler.send(b"400\r\n" + GZIP, headers=[("Transfer-Encoding", "chunked")])
    handler.close_connection = True


def something_else(handler):
    handler.send(GZIP)


def reset(handler):
    handler.send(GZIP, length=ARCHIVE_BYTES)
    handler.wfile.flush()
    handler.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0 seconds: close with a reset
    handler.connection.close()


def silence(handler):
    try:
        handler.connection.recv(1)  # returns when the client hangs up
    except ConnectionError:
        pass
    handler.server.hung_up.set()


def stall(handler):
    handler.send(GZIP * 100, length=ARCHIVE_BYTES)
    silence(handler)


def drip(handler):
    handler.send(GZIP, length=ARCHIVE_BYTES)
    handler.keep_sending(bytes(32_768), pause=0.1)


def endless(handler):
    handler.send(GZIP, headers=[("Connection", "close")])
    handler.keep_sending(bytes(65_536))


def redirect_to_itself(handler):
    handler.send_response(302)
    handler.send_header("Location", handler.server.url)
    handler.end_headers()


def nonsense(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


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
    """The message is a sentence and its cure, has these parts and nothing of Python's inner life."""
    message = str(error.value)
    assert len(re.findall(r"[.?)] (?=[A-Z])", message)) == 1 and message.endswith("."), message
    for word in ("Traceback", "urllib", "urlopen", "File ", "\n", "Error:"):
        assert word not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "answer, small, said",
    [
        pytest.param(not_found, {}, "failed (404 Not Found). Check the network", id="404"),
        pytest.param(None, {}, "refused", id="refused"),
        pytest.param(web_page, {}, "a web page instead of the archive", id="page"),
        pytest.param(cut, {}, "sent 1,000 of 170,498,071 bytes. Check", id="cut"),
        pytest.param(cut_chunk, {}, "IncompleteRead", id="cut chunk"),
        pytest.param(reset, {}, "reset", id="reset"),
        pytest.param(something_else, {"ARCHIVE_BYTES": 1000}, "sent something other than CIFAR-10", id="wrong"),
        pytest.param(silence, {"STALL_SECONDS": 1}, "sent nothing for 1 seconds", id="silence"),
        pytest.param(stall, {"STALL_SECONDS": 1}, "sent nothing for 1 seconds", id="stall"),
        pytest.param(drip, {"TRIAL_SECONDS": 0.5}, "minutes (to wait for it, run", id="slow"),
        pytest.param(endless, {"ARCHIVE_BYTES": 1_000_000}, "sent something other than CIFAR-10", id="endless"),
        pytest.param(redirect_to_itself, {}, "failed (302", id="redirect"),
        pytest.param(nonsense, {}, "SSH-2.0-OpenSSH_9.2", id="nonsense"),
    ],
)
def test_a_failure_is_a_sentence_and_leaves_nothing(answer, small, said, serve, tmp_path, monkeypatch):
    mirror = serve(answer)
    for name, value in small.items():
        monkeypatch.setattr(download, name, value)
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path, patience=0.5)
    check_message(error, mirror.url, said, "CIFAR10_MIRROR")
    assert left_in(tmp_path) == set()
    if answer in (silence, stall, drip, endless):
        assert mirror.hung_up.wait(5), "the download was given up, but something still holds the connection"


def test_an_endless_stream_is_read_up_to_the_known_size(serve, tmp_path, monkeypatch):
    """What the server could push into the buffers of two sockets may come on top, nothing else."""
    mirror = serve(endless)
    monkeypatch.setattr(download, "ARCHIVE_BYTES", 5_000_000)
    received, really_md5 = [], download.hashlib.md5
    monkeypatch.setattr(download.hashlib, "md5", lambda value, **_: received.append(len(value)) or really_md5(value))
    with pytest.raises(DataError, match="sent something other"):
        download.ensure(tmp_path)
    assert mirror.hung_up.wait(5) and received == [5_000_000] and mirror.sent < 50_000_000


@pytest.mark.parametrize("url", ["cifar.tar.gz", "http://", "gopher://x/y", "http://[::1", "http://a b/"])
def test_an_address_that_is_none_is_a_sentence(url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_MIRROR", url)
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, url, "CIFAR10_MIRROR")


def test_a_certificate_that_cannot_be_verified_is_not_accepted(serve, imitation, tmp_path, monkeypatch):
    """The server does not speak TLS here; what counts is that it is refused and the context verifies."""
    contexts, really = [], ssl.SSLContext.wrap_socket
    monkeypatch.setattr(
        ssl.SSLContext, "wrap_socket", lambda self, *a, **k: contexts.append(self) or really(self, *a, **k)
    )
    mirror = serve(lambda handler: handler.send(imitation.archive))
    monkeypatch.setenv("CIFAR10_MIRROR", mirror.url.replace("http://", "https://"))
    with pytest.raises(DataError, match="SSL"):
        download.ensure(tmp_path)
    assert contexts and all(c.verify_mode == ssl.CERT_REQUIRED and c.check_hostname for c in contexts)
    assert mirror.gets == 0 and left_in(tmp_path) == set()


def test_an_interrupted_download_leaves_nothing(serve, tmp_path):
    mirror = serve(silence)
    main = threading.get_ident()

    def ctrl_c():
        wait_for(lambda: mirror.gets)
        signal.pthread_kill(main, signal.SIGINT) if os.name != "nt" else signal.raise_signal(signal.SIGINT)

    threading.Thread(target=ctrl_c).start()
    with pytest.raises(KeyboardInterrupt):
        download.ensure(tmp_path)
    assert left_in(tmp_path) == set() and mirror.hung_up.wait(5)
    FileLock(tmp_path / ".cifar10.lock", mode=0o666).acquire(timeout=0).lock.release()


def test_a_download_that_works_and_is_not_repeated(serve, imitation, tmp_path):
    mirror = serve(lambda handler: handler.send(imitation.archive))
    for name, age in ((".cifar10-abc", 7200), (".cifar10-xyz", 0)):  # of a killed process, and of one at work
        (tmp_path / name / "cifar-10-batches-py").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    download.ensure(tmp_path)
    download.check(tmp_path)
    assert content(tmp_path) == imitation.files  # without readme.html
    assert left_in(tmp_path) == {"cifar-10-batches-py", ".cifar10-xyz"}
    assert mirror.gets == 1
    download.ensure(tmp_path)
    assert mirror.gets == 1


def test_an_archive_on_this_disk(imitation, tmp_path, monkeypatch):
    (tmp_path / "archive.tar.gz").write_bytes(imitation.archive)
    monkeypatch.setenv("CIFAR10_MIRROR", (tmp_path / "archive.tar.gz").as_uri())
    download.ensure(tmp_path / "data")
    assert content(tmp_path / "data") == imitation.files


def test_the_loser_of_a_race_discards_its_copy(serve, imitation, tmp_path):
    def meanwhile(handler):
        imitation.write(tmp_path)
        (download.folder(tmp_path) / "first").touch()
        handler.send(imitation.archive)

    serve(meanwhile)
    download.ensure(tmp_path)
    assert left_in(tmp_path) == {"cifar-10-batches-py"} and (download.folder(tmp_path) / "first").exists()


def program(imitation, data_dir: Path, ready: Path) -> list[str]:
    """The command line of another process that wants the data; it leaves a file in the folder ready as it begins."""
    source = f"""{imitation.patch}
import os, pathlib, tarfile, time
extract = tarfile.TarFile.extractfile  # unpacking takes its time
tarfile.TarFile.extractfile = lambda *arguments: (time.sleep(0.05), extract(*arguments))[1]
data_dir = pathlib.Path({str(data_dir)!r})
pathlib.Path({str(ready)!r}, str(os.getpid())).touch()
download.ensure(data_dir)
download.check(data_dir)
"""
    return [sys.executable, "-c", source]


@pytest.mark.slow
def test_processes_that_share_a_directory_download_once(serve, imitation, tmp_path):
    ready, data_dir = tmp_path / "ready", tmp_path / "data"
    ready.mkdir()

    def when_all_are_there(handler):
        wait_for(lambda: len(list(ready.iterdir())) == 3)
        time.sleep(0.5)  # so that the others find the lock taken
        handler.send(imitation.archive)

    mirror = serve(when_all_are_there)
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
    assert mirror.gets == 1
    assert reads and left_in(data_dir) == {"cifar-10-batches-py"}


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize("number", [getattr(signal, "SIGKILL", None), signal.SIGTERM])
def test_a_killed_download_leaves_nothing_writing_and_nothing_locked(number, serve, imitation, tmp_path):
    ready, data_dir = tmp_path / "ready", tmp_path / "data"
    ready.mkdir()
    mirror = serve(stall)
    process = subprocess.Popen(program(imitation, data_dir, ready))
    wait_for(lambda: mirror.gets or process.poll() is not None)
    process.send_signal(number)  # to this process alone, not to its group
    assert process.wait() == -number
    assert mirror.hung_up.wait(5) and left_in(data_dir) == set()
    mirror.answer = lambda handler: handler.send(imitation.archive)
    download.ensure(data_dir)
    assert left_in(data_dir) == {"cifar-10-batches-py"} and content(data_dir) == imitation.files


def test_the_wait_for_another_process_ends(serve, imitation, tmp_path, capsys):
    """A process that holds the lock for longer than the patience lasts is no obstacle."""
    serve(lambda handler: handler.send(imitation.archive))
    with FileLock(tmp_path / ".cifar10.lock", mode=0o666):
        download.ensure(tmp_path, patience=0.002)
    assert "Another process is downloading CIFAR-10" in capsys.readouterr().out
    assert content(tmp_path) == imitation.files


# Directories that are shared, shut or full


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


def as_account(number: int, task, umask: int = 0o077) -> str:
    """Runs the task in a process of this account; what went wrong there, or an empty string."""
    [codecs.lookup(name) for name in ("ascii", "idna", "latin1")]  # the account may not read Python's own files
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with open(reader) as lines:
            message = lines.read()
        os.waitpid(child, 0)
        return message
    try:
        os.close(reader)
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        os.umask(umask)
        torch.set_num_threads(1)  # the parent's other threads did not come along, and OpenMP would wait for them
        task()
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(0)


@pytest.fixture
def shared():
    """A data directory for all accounts, like /tmp: every account may write, none may remove what others wrote."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can act as other accounts")
    directory = Path(tempfile.mkdtemp())  # pytest's own folders are shut to other accounts
    directory.chmod(0o1777)
    yield directory
    shutil.rmtree(directory)


FIRST, SECOND = 20_001, 20_002


def test_a_second_account_uses_what_the_first_one_downloaded(serve, imitation, shared):
    mirror = serve(lambda handler: handler.send(imitation.archive))
    assert as_account(FIRST, lambda: download.ensure(shared)) == ""
    assert as_account(SECOND, lambda: (download.ensure(shared), download.check(shared))) == ""
    assert as_account(SECOND, lambda: data.cifar10(sample=False, directory=shared)) == ""
    assert mirror.gets == 1
    assert stat.S_IMODE(download.folder(shared).stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in download.folder(shared).iterdir()} == {0o644}
    assert download.folder(shared).stat().st_uid == FIRST


@pytest.mark.parametrize("lock_mode", [0o666, 0o644, 0o600])
def test_what_another_account_left_behind_is_no_obstacle(lock_mode, serve, imitation, shared):
    def leave():
        Path(shared, ".cifar10.lock").touch()
        Path(shared, ".cifar10.lock").chmod(lock_mode)
        part = tempfile.mkdtemp(prefix=".cifar10-", dir=shared)
        Path(part, "archive").write_bytes(GZIP)
        os.utime(part, (0, 0))

    serve(lambda handler: handler.send(imitation.archive))
    assert as_account(FIRST, leave) == ""
    assert as_account(SECOND, lambda: (download.ensure(shared), download.check(shared))) == ""
    assert content(shared) == imitation.files
    assert download.folder(shared).stat().st_uid == SECOND


@pytest.mark.parametrize("lock_mode", [0o666, 0o600])
def test_a_lock_that_another_account_never_gives_back_is_no_obstacle(lock_mode, serve, imitation, shared):
    serve(lambda handler: handler.send(imitation.archive))
    with FileLock(shared / ".cifar10.lock", mode=lock_mode):
        assert as_account(SECOND, lambda: download.ensure(shared, patience=0.002)) == ""
    assert content(shared) == imitation.files


def test_accounts_wait_for_one_another(serve, imitation, shared):
    started = threading.Event()

    def slowly(handler):
        started.set()
        time.sleep(1)
        handler.send(imitation.archive)

    mirror, messages = serve(slowly), []
    first = threading.Thread(target=lambda: messages.append(as_account(FIRST, lambda: download.ensure(shared))))
    first.start()
    assert started.wait(60)
    messages.append(as_account(SECOND, lambda: (download.ensure(shared), download.check(shared))))
    first.join()
    assert messages == ["", ""] and mirror.gets == 1


@pytest.mark.parametrize("data_dir, mode", [("shut", 0o555), ("shut/data", 0o555), ("shut/data", 0)])
def test_a_directory_without_permission(data_dir, mode, serve, tmp_path, request):
    mirror = serve(not_found)
    (tmp_path / "shut").mkdir(mode=mode)
    request.getfixturevalue("ordinary_user")
    with pytest.raises(DataError) as error:
        download.ensure(Path(data_dir))
    check_message(error, "Cannot write to the data directory shut", os.strerror(errno.EACCES), "set CIFAR10_DIR")
    assert mirror.gets == 0  # no download for nothing


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
    check_message(error, f"Cannot write to the data directory {tmp_path}", "set CIFAR10_DIR")


def test_a_directory_beyond_the_quota(serve, imitation, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    serve(lambda handler: handler.send(imitation.archive))
    for function in ("TemporaryFile", "mkdtemp"):  # before and after the download
        with monkeypatch.context() as patch, pytest.raises(DataError) as error:
            patch.setattr(download.tempfile, function, refuse)
            download.ensure(tmp_path)
        check_message(error, str(tmp_path), "(Disk quota exceeded). Make room there, or set CIFAR10_DIR")


def test_a_full_disk_before_the_download(serve, tmp_path, monkeypatch):
    mirror = serve(not_found)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=180_000_000))
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, str(tmp_path), "less than 190 MB are free", "CIFAR10_DIR")
    assert left_in(tmp_path) == set() and mirror.gets == 0


def test_a_full_disk_while_unpacking(serve, imitation, tmp_path, monkeypatch):
    serve(lambda handler: handler.send(imitation.archive))
    really_write = Path.write_bytes

    def full(path, content):
        if path.name == "data_batch_3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really_write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError) as error:
        download.ensure(tmp_path)
    check_message(error, os.strerror(errno.ENOSPC), str(tmp_path), "CIFAR10_DIR")
    assert left_in(tmp_path) == set()


def test_a_file_system_without_locks(serve, imitation, tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    serve(lambda handler: handler.send(imitation.archive))
    monkeypatch.setattr(download.FileLock, "acquire", no_locks)
    download.ensure(tmp_path)
    assert content(tmp_path) == imitation.files


# The files on the disk


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


@needs_posix
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "sparse", "loop"])
def test_what_is_no_file_is_refused_and_neither_hangs_nor_fills_the_memory(kind, imitation, tmp_path):
    imitation.write(tmp_path)
    path = download.folder(tmp_path) / "data_batch_1"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to(path)
    for load in (lambda: download.check(tmp_path), lambda: data.cifar10(sample=False, directory=tmp_path)):
        with pytest.raises(DataError) as error:
            load()
        check_message(error, "data_batch_1", "Delete the folder")
