"""A room on JupyterHub: four participants log in and train at once; one is killed, one wants too much memory.

The hub runs in a mount namespace of its own, with copies of /etc and /home, so that the accounts of its participants
exist there and nowhere else.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from lab import KERNEL_IS_IDLE, ROOT, Notebook, unused_port
from safetensors.torch import load_file

from cifar_utils.workshop import copies

pytest.importorskip("jupyterhub", reason="JupyterHub is not installed: pip install -e '.[hub]'")
pytestmark = [pytest.mark.slow, pytest.mark.browser]
NAMES = [f"participant{number:02}" for number in range(1, 5)]
MEMORY_GB = 3
TRAIN = """
import torch
from cifar_utils import data, fit, models
train, val = data.split(data.cifar10(sample=True))
train = train.select(torch.arange(0, len(train), 4))
torch.manual_seed(0)
model = torch.nn.Sequential(models.Normalize.from_dataset(train), models.SmallCNN(widths=(8, 16, 16)))
history = fit(model, train, val, epochs=24, run="../runs/hub")
print(len(history), "epochs", torch.get_num_threads(), "threads")
"""
HOG = "import numpy; numpy.ones(int(5e9), dtype='uint8').sum()"
PRY = """
from pathlib import Path
from cifar_utils import settings
print("the data set of all" if settings.data_directory() == DATA else settings.data_directory())
for path in ("/home/participant01/workshop", "/home/participant01"):
    try:
        print(list(Path(path).iterdir()))
    except PermissionError:
        print("not allowed to look")
try:
    (DATA / "mine").write_text("")
except PermissionError:
    print("not allowed to write")
"""
# A Python below /root, whose home nobody else may enter, is shown at the same place within the namespace.
ENTER = """
set -e
mount --make-rprivate /
cp -a /etc etc && mount --bind etc /etc
mkdir -p home python && mount --bind home /home
if [ "${PYTHON_HOME#/root/}" != "$PYTHON_HOME" ]; then
    mount --bind "$PYTHON_HOME" python
    mount -t tmpfs -o mode=755 none /root
    mkdir -p "$PYTHON_HOME" && mount --bind python "$PYTHON_HOME"
fi
export HOME=/root
"$PYTHON" "$PROJECT/deploy/accounts.py" 4 > passwords
exec "$PYTHON" -m jupyterhub -f config.py --ip 127.0.0.1 --port "$PORT"
"""
CONFIG = """
load_subconfig("{project}/deploy/jupyterhub_config.py")
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = "{proxy}"
c.Spawner.args += ["--LabApp.expose_app_in_browser=True"]
c.Spawner.environment["CIFAR_PROFILE"] = "smoke"
"""


class Hub:
    """A running hub, its folder, and its participants' passwords."""

    def __init__(self, folder: Path, proxy: Path) -> None:
        self.folder, self.port = folder, unused_port()
        self.data = folder / "data"
        (self.data / "cifar-10-batches-py").mkdir(parents=True)
        copies.write(folder / "copies")
        cells = [TRAIN, HOG, f"DATA = __import__('pathlib').Path({str(self.data)!r})" + PRY]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        nbformat.write(notebook, folder / "copies" / "notebooks" / "hub.ipynb")
        ports = {"hub_port": unused_port(), "proxy_port": unused_port()}
        (folder / "config.py").write_text(CONFIG.format(project=ROOT, proxy=proxy, **ports))
        environment = os.environ | {
            "PYTHON": sys.executable, "PYTHON_HOME": sys.base_prefix, "PROJECT": str(ROOT), "PORT": str(self.port),
            "CIFAR10_DIR": str(self.data), "WORKSHOP_COPIES": str(folder / "copies"),
            "WORKSHOP_PARTICIPANTS": "4", "WORKSHOP_MEMORY_GB": str(MEMORY_GB),
        }  # fmt: skip
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", ENTER]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(namespace, cwd=folder, env=environment, stdout=log, stderr=log)
        for _ in range(300):  # the proxy listens before it knows the way to the hub
            assert self.process.poll() is None, self.log()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/hub/login", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        lines = (folder / "passwords").read_text().splitlines()
        self.passwords = dict(line.split("\t") for line in lines)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-5000:]

    def home(self, name: str) -> Path:
        return self.folder / "home" / name

    def kernels(self, name: str) -> list[psutil.Process]:
        uid = self.home(name).stat().st_uid
        found = [p for p in psutil.process_iter() if p.uids().real == uid]
        return [p for p in found if "ipykernel_launcher" in " ".join(p.cmdline())]

    def epochs(self, name: str) -> int:
        history = self.home(name) / "workshop" / "runs" / "hub" / "history.json"
        return len(json.loads(history.read_text())) if history.exists() else 0

    def close(self) -> None:
        self.process.kill()  # unshare ignores SIGTERM; all processes of its namespace end with it
        self.process.wait(20)


class Seat(Notebook):
    """A participant who has logged in, with the notebook open."""

    def __init__(self, chromium, hub: Hub, name: str) -> None:
        self.problems, self.name = [], name
        self.page = chromium.new_context(viewport={"width": 1280, "height": 720}).new_page()
        self.page.goto(f"http://127.0.0.1:{hub.port}/hub/login", timeout=60_000)
        self.page.locator("#username_input").fill(name)
        self.page.locator("#password_input").fill(hub.passwords[name])
        self.page.locator("#login_submit").click()
        self.page.wait_for_url(f"**/user/{name}/lab/**", timeout=180_000)
        self.first_page = self.page.url
        self.page.goto(f"http://127.0.0.1:{hub.port}/user/{name}/lab/tree/notebooks/hub.ipynb?reset", timeout=120_000)
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=120_000)

    def run(self, cell: int) -> None:
        """Starts one cell, and returns at once."""
        self.page.evaluate(
            """(index) => {
                const content = jupyterapp.shell.currentWidget.content;
                content.deselectAll();
                content.activeCellIndex = index;
                window.finished = undefined;
                jupyterapp.commands.execute('notebook:run-cell').then(() => { window.finished = true; });
            }""",
            cell,
        )

    def output(self, cell: int) -> str:
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea").inner_text()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """configurable-http-proxy, from npm."""
    if found := shutil.which("configurable-http-proxy"):
        return Path(found)
    if not shutil.which("npm"):
        (pytest.fail if os.environ.get("CIFAR_BROWSER") == "required" else pytest.skip)("npm is needed for the proxy")
    folder = ROOT / "build" / "hub"
    command = ["npm", "install", "--silent", "--no-package-lock", "--prefix", str(folder), "configurable-http-proxy"]
    subprocess.run(command, check=True, timeout=300)
    return folder / "node_modules" / ".bin" / "configurable-http-proxy"


@pytest.fixture(scope="module")
def hub(proxy):
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("making accounts, in a namespace of their own, takes root and unshare")
    # Not pytest's folder: nobody but its owner may enter that.
    with tempfile.TemporaryDirectory(prefix="hub") as name:
        Path(name).chmod(0o755)
        hub = Hub(Path(name), proxy)
        yield hub
        hub.close()


def test_four_train_at_once_and_no_one_s_trouble_is_another_s(chromium, hub):
    first, killed, greedy, curious = seats = [Seat(chromium, hub, name) for name in NAMES]
    assert all("/lab/tree/notebooks/01_data_and_augmentation.ipynb" in seat.first_page for seat in seats), hub.log()

    for seat in (first, killed, curious):
        seat.run(0)
    while not hub.epochs(killed.name):
        time.sleep(0.2)
    greedy.run(1)  # while the others train
    greedy.wait_for_all()
    assert "MemoryError" in greedy.output(1) and hub.epochs(first.name) < 24
    (kernel,) = hub.kernels(killed.name)
    kernel.send_signal(signal.SIGKILL)
    greedy.run(0)
    for seat in (first, greedy, curious):
        seat.wait_for_all(300)
        threads = max(1, os.cpu_count() // len(NAMES))
        assert f"24 epochs {threads} threads" in seat.output(0), seat.output(0)
    assert hub.epochs(killed.name) < 24

    # The killed kernel's run is there: a new kernel resumes it, and ends with the same weights as all others.
    killed.page.goto(killed.page.url + "?reset", timeout=60_000)
    killed.page.wait_for_function(KERNEL_IS_IDLE, timeout=120_000)
    killed.run(0)
    killed.wait_for_all(300)
    assert "24 epochs" in killed.output(0), killed.output(0)
    best = [load_file(hub.home(name) / "workshop/runs/hub/best.safetensors") for name in NAMES]
    histories = [json.loads((hub.home(name) / "workshop/runs/hub/history.json").read_text()) for name in NAMES]
    losses = [[row["validation_loss"] for row in history] for history in histories]
    assert losses == [losses[0]] * 4
    assert all(torch.equal(other[name], best[0][name]) for other in best[1:] for name in best[0])

    curious.run(2)
    curious.wait_for_all()
    told = ["the data set of all", "not allowed to look", "not allowed to look", "not allowed to write"]
    assert curious.output(2).split("\n")[:4] == told
    assert [path.name for path in hub.data.iterdir()] == ["cifar-10-batches-py"]  # nobody downloaded anything
    assert not any((hub.home(name) / "workshop" / "data").exists() for name in NAMES)
    for seat in seats:
        seat.page.context.close()


def test_who_is_no_participant_cannot_log_in(chromium, hub):
    page = chromium.new_context().new_page()
    for name, password in (("root", "root"), (NAMES[0], "wrong")):
        page.goto(f"http://127.0.0.1:{hub.port}/hub/login", timeout=60_000)
        page.locator("#username_input").fill(name)
        page.locator("#password_input").fill(password)
        page.locator("#login_submit").click()
        page.get_by_text("Invalid username or password").wait_for(timeout=30_000)
    page.context.close()
