"""The room's folder and its install.py: files are checked, the internet is not used, and trouble is told in a sentence.

The slow tests install for real, in a network namespace that has no route to anywhere.
"""

import ast
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from cifar_utils import cli, download
from cifar_utils.workshop import install, room

THIS = install.this_target()
TINY = ["six", "pip", "setuptools>=77"]  # a small package, what installs, and what builds the project


# A room of a few bytes, whose files stand for packages, data and copies

ROOM = {
    f"wheels/{THIS}/pip-1.0-py3-none-any.whl": b"a wheel " * 100_000,
    "wheels/other-3.99/torch-2.0+cpu-cp399-cp399-other.whl": b"for another computer",
    "data/cifar-10-batches-py/test_batch": b"images",
    "workshop/notebooks/01_a b.ipynb": b"a notebook",
    "workshop/.pristine/notebooks/01_a b.ipynb": b"a notebook",
}


@pytest.fixture
def stick(tmp_path) -> Path:
    """The room's folder."""
    files = {}
    for name, content in ROOM.items():
        write(tmp_path / "stick" / name, content)
        files[name] = [hashlib.sha256(content).hexdigest(), len(content)]
    manifest = {"targets": {THIS: 1000, "other-3.99": 1000}, "files": files}
    write(tmp_path / "stick" / install.MANIFEST, json.dumps(manifest).encode())
    return tmp_path / "stick"


class Handler(SimpleHTTPRequestHandler):
    """Python's own server, as `python -m http.server` runs it. It can be made to break off in the middle of a file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.breaks:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"a wheel ")
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(stick):
    """Serves the room; `asked` lists the paths that were requested."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(stick)))
    server.asked, server.breaks, server.url = [], False, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def installed(monkeypatch) -> list:
    """install.py brings the files, but installs nothing; the wheels that it would install."""
    calls = []
    monkeypatch.setattr(install, "install", lambda folder, python, wheels: calls.append([p.name for p in wheels]))
    return calls


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    """All but install.py's record of what it brought."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != install.BROUGHT]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


WHEEL, DATA, NOTEBOOK = f"wheels/{THIS}/pip-1.0-py3-none-any.whl", "data/cifar-10-batches-py/test_batch", "01_a b.ipynb"
BROUGHT = {
    DATA: b"images",
    f"notebooks/{NOTEBOOK}": b"a notebook",
    f".pristine/notebooks/{NOTEBOOK}": b"a notebook",
}


# install.py: from a stick and from a server


@pytest.mark.parametrize("name", ["workshop//x", "workshop/../../x", "data/../../x", "workshop\\..\\x", "C:/x", "/x"])
def test_a_list_that_names_files_outside_the_folder_is_refused(stick, installed, tmp_path, name):
    manifest = json.loads((stick / install.MANIFEST).read_text())
    manifest["files"][name] = ["0" * 64, 1]
    (stick / install.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(install.InstallError, match="is not a workshop's list of files: it names"):
        install.bring_and_install(str(stick), tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and not installed


def test_an_environment_of_another_python_is_told_before_anything_is_brought(stick, installed, tmp_path):
    write(tmp_path / "mine" / ".venv" / "pyvenv.cfg", b"home = /usr/bin\nversion = 3.2.1\n")
    with pytest.raises(install.InstallError, match=r"was made by Python 3\.2\.1, and this is Python 3\.\d+: run"):
        install.bring_and_install(str(stick), tmp_path / "mine")
    assert len(files(tmp_path / "mine")) == 1 and not installed
    this = f"version = {sys.version_info[0]}.{sys.version_info[1]}.0\n"
    write(tmp_path / "mine" / ".venv" / "pyvenv.cfg", this.encode())
    install.bring_and_install(str(stick), tmp_path / "mine")
    assert len(installed) == 1


def test_from_a_stick_wheels_are_used_where_they_lie(stick, tmp_path, installed):
    before = files(stick)
    install.bring_and_install(str(stick), tmp_path / "mine")
    assert files(tmp_path / "mine") == BROUGHT and files(stick) == before
    assert installed == [["pip-1.0-py3-none-any.whl"]]


def test_from_a_server_come_the_files_for_this_computer(server, tmp_path, installed):
    install.bring_and_install(server.url, tmp_path / "mine")
    assert files(tmp_path / "mine") == BROUGHT | {WHEEL: ROOM[WHEEL]}
    assert installed == [["pip-1.0-py3-none-any.whl"]] and len(server.asked) == 1 + 4


def test_what_is_here_is_not_brought_again(server, tmp_path, installed):
    install.bring_and_install(server.url, tmp_path / "mine")
    write(tmp_path / "mine" / DATA, b"imagee")
    (tmp_path / "mine" / "notebooks" / NOTEBOOK).unlink()
    server.asked.clear()
    install.bring_and_install(server.url, tmp_path / "mine")
    assert files(tmp_path / "mine") == BROUGHT | {WHEEL: ROOM[WHEEL]}
    assert sorted(server.asked) == [f"/{DATA}", f"/{install.MANIFEST}", "/workshop/notebooks/01_a%20b.ipynb"]


def test_a_notebook_that_you_changed_is_kept(server, tmp_path, installed, capsys):
    write(tmp_path / "mine" / "notebooks" / NOTEBOOK, b"my answers")
    install.bring_and_install(server.url, tmp_path / "mine")
    assert (tmp_path / "mine" / "notebooks" / NOTEBOOK).read_bytes() == b"my answers"
    assert f"notebooks/{NOTEBOOK}" in capsys.readouterr().out.splitlines()[-1]


def test_a_file_that_the_room_changed_is_brought_again_unless_you_changed_it(stick, tmp_path, installed, capsys):
    mine = tmp_path / "mine"
    install.bring_and_install(str(stick), mine)
    pristine = f".pristine/notebooks/{NOTEBOOK}"
    write(mine / "notebooks" / NOTEBOOK, b"my answers")
    manifest = json.loads((stick / install.MANIFEST).read_text())
    for name in (f"notebooks/{NOTEBOOK}", pristine):
        write(stick / "workshop" / name, b"a mended notebook")
        manifest["files"][f"workshop/{name}"] = [hashlib.sha256(b"a mended notebook").hexdigest(), 17]
    (stick / install.MANIFEST).write_text(json.dumps(manifest))
    capsys.readouterr()
    for _ in range(2):  # and once more: yours stays yours
        install.bring_and_install(str(stick), mine)
        changed = {f"notebooks/{NOTEBOOK}": b"my answers", pristine: b"a mended notebook"}
        assert files(mine) == BROUGHT | changed
        assert capsys.readouterr().out.splitlines()[-1] == f"Kept your changed files: notebooks/{NOTEBOOK}"


def test_what_came_before_an_interruption_is_on_record(stick, tmp_path, installed):
    *before, last = [name for name in ROOM if not name.startswith("wheels/")]
    (stick / last).unlink()
    with pytest.raises(OSError):
        install.bring_and_install(str(stick), tmp_path / "mine")
    assert {*before} <= set(json.loads((tmp_path / "mine" / install.BROUGHT).read_text())) and not installed


def test_a_record_that_was_cut_off_is_none(stick, tmp_path, installed):
    install.bring_and_install(str(stick), tmp_path / "mine")
    record = tmp_path / "mine" / install.BROUGHT
    whole = record.read_bytes()
    record.write_bytes(whole[:10])
    install.bring_and_install(str(stick), tmp_path / "mine")
    assert record.read_bytes() == whole


def test_progress_ends_with_all_megabytes(server, tmp_path, installed, capsys):
    install.bring_and_install(server.url, tmp_path / "mine")
    assert capsys.readouterr().out.splitlines()[-1].split() == "0.8 of 0.8 MB received".split()


def sentence(capsys, source, folder: Path) -> str:
    """What install.py's main prints on standard error: one line; nothing was installed."""
    assert install.main([str(folder), "--from", str(source)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and not (folder / ".venv").exists()
    return error


def test_a_broken_connection_and_then_a_better_one(server, tmp_path, installed, capsys, monkeypatch):
    read = install.read_manifest
    monkeypatch.setattr(install, "read_manifest", lambda source: [read(source), setattr(server, "breaks", True)][0])
    assert "same command resumes" in sentence(capsys, server.url, tmp_path / "mine")
    assert not files(tmp_path / "mine").keys() & {WHEEL, *BROUGHT} and not installed
    monkeypatch.undo()
    monkeypatch.setattr(install, "install", lambda *_: None)
    server.breaks = False
    install.bring_and_install(server.url, tmp_path / "mine")
    assert files(tmp_path / "mine") == BROUGHT | {WHEEL: ROOM[WHEEL]}


def test_a_file_that_arrives_damaged_is_not_used(server, stick, tmp_path, installed, capsys):
    write(stick / DATA, b"imagee")
    error = sentence(capsys, server.url, tmp_path / "mine")
    assert "test_batch" in error and "SHA-256" in error
    assert not (tmp_path / "mine" / DATA).exists() and not installed


def test_a_damaged_stick(stick, tmp_path, installed, capsys):
    write(stick / WHEEL, b"damaged")
    error = sentence(capsys, stick, tmp_path / "mine")
    assert "pip-1.0" in error and "copy the room's folder again" in error and not installed


def test_a_file_that_the_server_lost(server, stick, tmp_path, installed, capsys):
    (stick / DATA).unlink()
    assert "test_batch" in sentence(capsys, server.url, tmp_path / "mine") and not installed


def test_a_full_disk(stick, tmp_path, installed, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=900))
    assert "make room" in sentence(capsys, stick, tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and not installed


def test_packages_for_other_computers_only(stick, tmp_path, installed, capsys, monkeypatch):
    monkeypatch.setattr(install, "this_target", lambda: "windows-3.12")
    error = sentence(capsys, stick, tmp_path / "mine")
    assert "this is windows with Python 3.12" in error and "other with Python 3.99" in error
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("content", [None, b"<html>", b"[]", b"{}", b"\xff"])
def test_no_room_here(stick, server, tmp_path, capsys, content):
    (stick / install.MANIFEST).unlink()
    if content is not None:
        write(stick / install.MANIFEST, content)
    for source in (stick, server.url):
        assert install.MANIFEST in sentence(capsys, source, tmp_path / "mine")


def test_a_connection_that_breaks_at_the_list_of_files(stick, server, tmp_path, capsys):
    server.breaks = True
    assert "stopped arriving. The same command resumes" in sentence(capsys, server.url, tmp_path / "mine")


def test_no_server_there(tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert "server running" in sentence(capsys, url, tmp_path / "mine")


def test_stopped_by_you(stick, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "install", interrupted)
    assert install.main([str(tmp_path / "mine"), "--from", str(stick)]) == 130
    assert "resumes" in capsys.readouterr().err


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(install.InstallError, match="exit"):
        install.command(tmp_path, sys.executable, "-c", "exit(3)")


def test_install_py_stands_alone_and_an_old_python_understands_it():
    """So that it can tell its user which Python is needed."""
    tree = ast.parse(Path(install.__file__).read_text(), feature_version=(3, 7))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.name for node in imports for alias in node.names if isinstance(node, ast.Import)}
    modules |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux"),
        ("Linux", "aarch64", "linux-arm"),
        ("Windows", "AMD64", "windows"),
        ("Windows", "ARM64", "windows-arm"),
        ("Darwin", "arm64", "macos-arm"),
        ("Darwin", "x86_64", "macos-intel"),
        ("Linux", "riscv64", "linux-riscv64"),
    ],
)
def test_platforms_have_names(monkeypatch, system, machine, name):
    monkeypatch.setattr(install, "platform", SimpleNamespace(system=lambda: system, machine=lambda: machine))
    assert install.this_platform() == name


# prepare-room: what it refuses before it downloads


@pytest.fixture
def refusing(monkeypatch, tmp_path, imitation):
    """Data is there, and to download anything would fail the test."""
    imitation.write(tmp_path / "data")
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "data"))

    def forbidden(*_):
        raise AssertionError("this should have been refused first")

    monkeypatch.setattr(room, "_download", forbidden)
    return tmp_path / "room"


def refused(capsys, *arguments) -> str:
    assert cli.run(["prepare-room", *map(str, arguments)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    return error


def test_unknown_platforms_and_pythons(refusing, capsys):
    assert "'amiga'" in refused(capsys, refusing, "--platform", "linux", "amiga")
    for version in ("3.10", "2.7", "3", "3.12.1", "new"):
        assert f"'{version}'" in refused(capsys, refusing, "--python", version)
    assert not refusing.exists()


def test_another_platform_needs_uv(refusing, capsys, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda _: None)
    assert "pip install uv" in refused(capsys, refusing, "--python", "3.99") and not refusing.exists()


def test_a_folder_that_is_not_empty(refusing, capsys):
    write(refusing / "mine", b"mine")
    assert "not an empty folder" in refused(capsys, refusing) and files(refusing) == {"mine": b"mine"}


def test_data_that_is_missing_or_damaged(refusing, capsys, tmp_path):
    write(download.folder(tmp_path / "data") / "test_batch", b"damaged")
    assert "test_batch" in refused(capsys, refusing)
    shutil.rmtree(tmp_path / "data")
    assert "python -m cifar_utils download" in refused(capsys, refusing) and not refusing.exists()


def test_the_cpu_index_cannot_be_reached(refusing, capsys, monkeypatch):
    monkeypatch.setattr(room, "CPU_INDEX", "http://127.0.0.1:9/cpu")
    assert "http://127.0.0.1:9/cpu" in refused(capsys, refusing, "--cpu") and not refusing.exists()


def test_what_pip_cannot_download(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match=f"packages for {install.describe(THIS)}"):
        room._download(tmp_path / "wheels", THIS, ["no-such-package"], cpu=False)


def test_the_packages_are_the_projects():
    packages = room.requirements()
    assert {"torch", "jupyterlab", "setuptools", "pip"} <= {name.split(">")[0] for name in packages}


def test_the_help_names_every_platform(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["prepare-room", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in room.PLATFORMS) and install.this_platform() in room.PLATFORMS


# For real: small packages, and the project itself


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> SimpleNamespace:
    """A room with tiny packages and two bytes for the data set, and what the command printed."""
    folder, data = tmp_path_factory.mktemp("prepared"), b"of a data set"
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "probe"), "six"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no package can be downloaded here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "MD5", {"test_batch": hashlib.md5(data).hexdigest()})
        patch.setenv("CIFAR10_DIR", str(folder / "data"))
        write(download.folder(folder / "data") / "test_batch", data)
        lines = room.prepare(folder / "the room", TINY)
    return SimpleNamespace(folder=folder / "the room", lines=lines)


def cut_off(script: str, tmp_path: Path) -> str:
    """What a shell script prints in a network namespace with a loopback and nothing else, as another user would run it.

    This computer's options of pip and its proxy are replaced by some that would fail.
    """
    if subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine permits no network namespace")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}
    environment |= {"PIP_FIND_LINKS": "http://127.0.0.1:9", "PIP_CONSTRAINT": "no-such-file"}
    command = ["unshare", "-rn", "sh", "-ec", f"ip link set lo up\n{script}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_installed(folder: Path, printed: str) -> None:
    """The package of this folder is used from anywhere, six is there, and the doctor has run: it misses torch."""
    code = "import six, cifar_utils; print(six.__version__, cifar_utils.__file__)"
    done = subprocess.run([folder / ".venv/bin/python", "-Ic", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.rstrip().partition(" ")[2] == str(folder / "cifar_utils" / "__init__.py"), done.stderr
    assert (folder / DATA).read_bytes() == b"of a data set"
    assert (folder / "notebooks" / "01_data_and_augmentation.ipynb").exists()
    assert "torch" in printed and "\n  jupyter lab\n" in printed and f'cd "{folder}"' in printed


@pytest.mark.slow
def test_the_room_is_complete_and_says_how_to_use_it(prepared):
    manifest = json.loads((prepared.folder / install.MANIFEST).read_text())
    found = {name: content for name, content in files(prepared.folder).items() if "/" in name}
    assert manifest["files"] == {n: [hashlib.sha256(c).hexdigest(), len(c)] for n, c in found.items()}
    assert list(manifest["targets"]) == [THIS] and manifest["targets"][THIS] > 1e6
    wheels = [name.split("/")[2] for name in found if name.startswith(f"wheels/{THIS}/")]
    assert sorted(name.split("-")[0] for name in wheels) == ["pip", "setuptools", "six"]
    assert (prepared.folder / "install.py").read_bytes() == Path(install.__file__).read_bytes()
    readme = (prepared.folder / "README.txt").read_text()
    for words in ("python install.py --from http://ADDRESS:8000", "python -m http.server -d"):
        assert words in readme and any(words in line for line in prepared.lines)
    assert install.describe(THIS) in readme and max(map(len, readme.splitlines())) <= 120


@pytest.mark.slow
def test_it_installs_from_a_stick_without_a_network(prepared, tmp_path):
    folder = tmp_path / "my workshop"
    control = f"! {sys.executable} -c 'import socket; socket.create_connection((\"192.0.2.1\", 80), 5)' 2>&1"
    line = f'{sys.executable} "{prepared.folder}/install.py" "{folder}" || test $? = 1'  # the doctor misses torch
    printed = cut_off(f"{control}\n{line}\necho AGAIN\n{line}", tmp_path)
    assert "Network is unreachable" in printed
    check_installed(folder, printed.partition("AGAIN")[0])
    check_installed(folder, printed.partition("AGAIN")[2])


@pytest.mark.slow
def test_it_installs_from_the_rooms_server_without_another_network(prepared, tmp_path):
    """Served by the one command, with install.py fetched from there as a browser would."""
    script = f"""
        {sys.executable} -m http.server --bind 127.0.0.1 -d "{prepared.folder}" 8000 >server 2>&1 & trap "kill $!" EXIT
        {sys.executable} - <<'END'
import time, urllib.request
for _ in range(300):
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler(dict()))
        content = direct.open("http://127.0.0.1:8000/install.py").read()
        break
    except OSError:
        time.sleep(0.1)
open("install.py", "wb").write(content)
END
        {sys.executable} install.py mine --from http://127.0.0.1:8000 || test $? = 1
    """
    printed = cut_off(script, tmp_path)
    check_installed(tmp_path / "mine", printed)
    assert len(list((tmp_path / "mine" / "wheels" / THIS).iterdir())) == len(TINY)


def wheel(folder: Path, name: str, tag: str, *requires: str) -> None:
    """A wheel without content, for one kind of computer."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.mark.slow
def test_other_platforms_get_their_own_dependencies(tmp_path, monkeypatch):
    """pip alone would download what this computer needs: dependencies depend on the system, and on Python's version."""
    pytest.importorskip("uv")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    systems = {"Linux": "manylinux_2_28_x86_64", "Windows": "win_amd64", "Darwin": "macosx_11_0_arm64"}
    requires = [f"for_{system.lower()}; platform_system == '{system}'" for system in systems]
    wheel(shelf, "everywhere", "py3-none-any", *requires, "before_313; python_version < '3.13'")
    wheel(shelf, "before_313", "py3-none-any")
    for system, tag in systems.items():
        wheel(shelf, f"for_{system.lower()}", f"cp312-cp312-{tag}")
        wheel(shelf, f"for_{system.lower()}", f"cp313-cp313-{tag}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    (tmp_path / "uv.toml").write_text(f"no-index = true\nfind-links = ['{shelf}']\n")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    cases = [("linux", "Linux", "3.12"), ("windows", "Windows", "3.13"), ("macos-arm", "Darwin", "3.12")]
    for platform, system, python in cases:
        target, tag = f"{platform}-{python}", f"cp{python.replace('.', '')}"
        room._download(tmp_path / target, target, ["everywhere"], cpu=False)
        found = {path.name for path in (tmp_path / target).iterdir()}
        own = f"for_{system.lower()}-1.0-{tag}-{tag}-{systems[system]}.whl"
        more = {"before_313-1.0-py3-none-any.whl"} if python == "3.12" else set()
        assert found == {"everywhere-1.0-py3-none-any.whl", own} | more
