"""A JupyterLab, or a Notebook 7, on loopback for the tests, and a notebook open in it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
KERNEL_IS_IDLE = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


def find_chromium() -> str | None:
    """The browser's path: CIFAR_CHROMIUM, or the first of the usual names that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CIFAR_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Lab:
    """A running JupyterLab.

    Args:
        folder: for all that it needs, such as settings.
        packages: a folder of other versions of some packages, for the server and its kernels.
        application: "jupyterlab", or "notebook" for Notebook 7, which shows one document per page.

    Attributes:
        notebooks: folder of the copies that it serves.
        runs: CIFAR_RUNS of its kernels.
    """

    def __init__(self, folder: Path, packages: Path | None = None, application: str = "jupyterlab") -> None:
        self.application, self.window = application, None
        self.notebooks, self.runs = folder / "project" / "notebooks", folder / "runs"
        shutil.copytree(ROOT / "notebooks", self.notebooks)
        shutil.copytree(ROOT / "benchmarks" / "results", folder / "project" / "benchmarks" / "results")
        self.port = unused_port()
        environment = os.environ | {"CIFAR_PROFILE": "smoke", "CIFAR_RUNS": str(self.runs)}
        environment.pop("CIFAR_HEADLESS")  # here the widgets are displayed
        if packages:
            environment["PYTHONPATH"] = str(packages)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            environment[f"JUPYTER_{name}"] = str(folder / f"JUPYTER_{name}")
        for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"):
            environment[name] = str(folder / name)
        settings = {
            "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # else cells off screen are missing
            "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
            "@jupyterlab/apputils-extension:notification": {
                "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
            },
        }  # fmt: skip
        config = folder / "JUPYTER_CONFIG_DIR" / "labconfig"
        config.mkdir(parents=True)
        (config / "default_setting_overrides.json").write_text(json.dumps(settings))
        # Else each page that is opened asks yarn for seconds whether JupyterLab should be built anew.
        (config / "page_config.json").write_text(json.dumps({"buildCheck": False}))
        self.log = folder / "log"
        command = [
            sys.executable, "-m", application, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
            f"--ServerApp.root_dir={self.notebooks.parent}", "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True", "--LabApp.news_url=None",
            "--LabApp.extension_manager=readonly",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        for _ in range(300):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-2000:])

    def open_page(self, chromium):
        """A new page of one window, whose pages share the browser's cache, as a person's do."""
        self.window = self.window or chromium.new_context(viewport={"width": 1280, "height": 720})
        return self.window.new_page()

    def close(self) -> None:
        if self.window:
            self.window.close()
        # How JupyterLab ends is not what is tested.
        with suppress(psutil.NoSuchProcess):
            for kernel in psutil.Process(self.process.pid).children(recursive=True):
                kernel.kill()
        self.process.kill()
        self.process.wait(60)

    def write(self, name: str, *cells: str) -> str:
        """Writes a notebook for a test."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        nbformat.write(notebook, self.notebooks / f"{name}.ipynb")
        return name


class Notebook:
    """A notebook open in JupyterLab beside its file browser, as people have it on a small screen.

    Errors in the page are collected in `problems`.

    Args:
        chromium: the browser.
        lab: the server.
        name: of the notebook, without .ipynb.
    """

    def __init__(self, chromium, lab: Lab, name: str) -> None:
        self.lab, self.name, self.problems = lab, name, []
        self.page = lab.open_page(chromium)
        self.page.on("console", lambda m: m.type == "error" and self.problems.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"page: {error}"))
        self.page.on("request", self._check_host)
        in_lab = lab.application == "jupyterlab"
        view = "lab/tree/notebooks" if in_lab else "notebooks/notebooks"
        self.page.goto(f"http://127.0.0.1:{lab.port}/{view}/{name}.ipynb?reset", timeout=120_000)
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=120_000)
        if in_lab:
            self.page.locator("#filebrowser").wait_for()
        self.set_dark(False)

    def _check_host(self, request) -> None:
        address = urlparse(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1":
            self.problems.append(f"request to another host: {request.url}")

    def set_dark(self, dark: bool) -> None:
        theme = f"JupyterLab {'Dark' if dark else 'Light'}"
        self.page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{theme}'}})")
        is_light = f"() => document.body.dataset.jpThemeLight === '{str(not dark).lower()}'"
        self.page.wait_for_function(is_light)

    def look(self, zoom: float = 1, dark: bool = False) -> None:
        """As in a browser at this zoom: at 1.5 the screen of 1280 x 720 pixels has room for 853 x 480 of the page's."""
        self.page.set_viewport_size({"width": int(1280 / zoom), "height": int(720 / zoom)})
        self.set_dark(dark)

    def reload(self) -> None:
        """Reloads the page, while the kernel keeps running."""
        self.page.reload(timeout=120_000)
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel", timeout=60_000
        )

    def run_all(self) -> None:
        """Runs all cells and waits for the last."""
        assert self.page.evaluate(RUN_ALL), self.outputs()[-3000:]

    def start_all(self) -> None:
        """Runs all cells, and returns at once."""
        self.page.evaluate(f"() => {{ window.finished = undefined; {RUN_ALL}.then((ok) => window.finished = ok); }}")

    def wait_for_all(self, timeout: float = 120) -> bool:
        self.page.wait_for_function("() => window.finished !== undefined", timeout=1000 * timeout)
        return self.page.evaluate("() => window.finished")

    def outputs(self) -> str:
        return "\n".join(self.page.locator(".jp-OutputArea-output").all_inner_texts())

    def counts(self) -> list:
        """Execution counts of all code cells."""
        cells = "Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)"
        return self.page.evaluate(f"() => {cells}.filter(c => c.type === 'code').map(c => c.executionCount)")

    def ran_in_order(self) -> bool:
        return self.counts() == list(range(1, len(self.counts()) + 1))

    def close_tab(self) -> None:
        """Saves the notebook and closes its tab, as a person does; its kernel keeps running.

        Training that writes into the notebook between the two makes JupyterLab ask: save again.
        """
        self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        panel = self.page.locator(".jp-NotebookPanel")
        self.page.evaluate("() => { jupyterapp.commands.execute('application:close'); }")
        save = self.page.locator(".jp-Dialog .jp-mod-accept")
        for _ in range(100):
            if not panel.count():
                return
            if save.count():
                save.first.click()
            self.page.wait_for_timeout(300)
        raise AssertionError(f"the tab of {self.name} does not close")

    def close(self) -> None:
        """Shuts the kernel down as well, so that two cores suffice for the next one."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()

    def digests(self, canvases: str) -> list[str]:
        """SHA-256 of each canvas's pixels."""
        return self.page.locator(canvases).evaluate_all(
            """all => Promise.all(all.map(async (c) => {
                const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                const sum = await crypto.subtle.digest('SHA-256', pixels);
                return Array.from(new Uint8Array(sum)).map(b => b.toString(16).padStart(2, '0')).join('');
            }))"""
        )

    def serious_accessibility_issues(self, context: str) -> list:
        """axe-core's serious and critical findings in this part of the page."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, context=context).response["violations"]
        return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]

    def is_cut_off(self, selector: str) -> bool:
        """Whether this part of the page is wider than its place."""
        inside, outside = self.page.locator(selector).evaluate("e => [e.scrollWidth, e.clientWidth]")
        return inside > outside

    def is_in_sight(self, selector: str) -> bool:
        """Whether the whole of this part of the page can be seen: within the notebook, and nothing in front of it."""
        return self.page.locator(selector).evaluate(
            """e => {
                const part = e.getBoundingClientRect();
                const box = e.closest('.jp-WindowedPanel-outer').getBoundingClientRect();
                const inside = part.top >= box.top - 1 && part.bottom <= box.bottom + 1
                    && part.left >= box.left - 1 && part.right <= box.right + 1;
                const corners = [[part.left + 3, part.top + 3], [part.right - 3, part.top + 3],
                    [part.left + 3, part.bottom - 3], [part.right - 3, part.bottom - 3]];
                return inside && corners.every(([x, y]) => e === document.elementFromPoint(x, y));
            }"""
        )

    def shoot(self, name: str, scroll: bool = True) -> None:
        """Saves a screenshot, by default with the notebook's first widget at the top."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        if scroll and self.page.locator(".cifar").count():
            self.page.locator(".cifar").first.evaluate("e => e.scrollIntoView()")
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def check(self) -> None:
        """No console error, no error of a widget, nothing on stderr, no request to another host."""
        assert self.problems == [], self.problems
        assert self.page.locator(".jupyter-widgets-error-widget").count() == 0
        stderr = self.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
        assert stderr.all_inner_texts() == []
