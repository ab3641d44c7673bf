"""What a room costs a shared server: participants who log in to a running JupyterHub and step through a notebook.

    sudo .venv/bin/python benchmarks/hub.py /srv/hub/passwords     # beside a hub, see deploy/README.md
    sudo .venv/bin/python benchmarks/hub.py /srv/hub/passwords --participants 4 --cells 6 --output build
    python benchmarks/hub.py --finished                            # the page again, after notebooks.py has run

Start the hub with WORKSHOP_PROFILE=smoke, with accounts made for this (deploy/README.md): the figures are of that
profile.

Each participant logs in as a browser does, starts a server and a kernel, and runs the notebook's code cells one after
the other, with a pause for reading between two of them. All begin within --minutes. Memory is the proportional set
size of all processes of a participant: memory that processes share is divided among them. It is sampled while the
participants work, and their kernels are ended afterwards.

Written to benchmarks/results: hub.json and hub.md, with a table for rooms of 10, 30 and 100.
"""

import json
import statistics
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pwd import getpwnam

import nbformat
import psutil
import requests
import websocket
from common import command_line, machine, spread

from cifar_utils.progress import bar

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = Path(__file__).resolve().parent / "results" / "notebooks.json"
ROOMS = (10, 30, 100)
LONGEST = 600.0  # seconds to wait for a server, or for a cell
WORKERS = 200  # participants who can be simulated at once


class Participant:
    """A browser without a screen: one login, one server, one kernel.

    Args:
        address: of the hub, such as http://127.0.0.1:8000.
        name, password: of an account.
    """

    def __init__(self, address: str, name: str, password: str) -> None:
        self.address, self.name, self.browser = address, name, requests.Session()
        page = self._checked(self.browser.get(f"{address}/hub/login", timeout=60))
        form = {"username": name, "password": password, "_xsrf": self.browser.cookies.get("_xsrf", path="/hub/")}
        page = self._checked(self.browser.post(page.url, data=form, timeout=60))
        if "/hub/login" in page.url:
            raise ValueError(f"{name} cannot log in to {address}: the password is wrong, or it is no participant")

    def start(self) -> None:
        """Starts the server and a kernel, and returns when both are there."""
        xsrf = {"X-XSRFToken": self.browser.cookies.get("_xsrf", path="/hub/"), "Referer": f"{self.address}/hub/home"}
        tokens = f"{self.address}/hub/api/users/{self.name}/tokens"
        made = self._checked(self.browser.post(tokens, json={"expires_in": 7200}, headers=xsrf, timeout=60))
        self.header = {"Authorization": f"token {made.json()['token']}"}
        server = f"{self.address}/hub/api/users/{self.name}/server"
        self._checked(requests.post(server, headers=self.header, timeout=LONGEST))
        start = time.monotonic()
        while not self._checked(requests.get(server[: -len("/server")], headers=self.header, timeout=60)).json()[
            "server"
        ]:
            if time.monotonic() - start > LONGEST:
                raise TimeoutError(f"the server of {self.name} did not start in {LONGEST:.0f} seconds")
            time.sleep(0.5)
        self.kernels = f"{self.address}/user/{self.name}/api/kernels"
        body = {"name": "python3", "path": "notebooks/01_data_and_augmentation.ipynb"}
        kernel = self._checked(requests.post(self.kernels, json=body, headers=self.header, timeout=LONGEST))
        self.kernel = kernel.json()["id"]
        channels = f"{self.kernels.replace('http', 'ws', 1)}/{self.kernel}/channels"
        headers = [f"{key}: {value}" for key, value in self.header.items()]
        self.socket = websocket.create_connection(channels, header=headers, timeout=LONGEST)

    def run(self, code: str) -> float:
        """Runs one cell: seconds until the kernel is idle again. A RuntimeError where the cell raises one."""
        identity, start = uuid.uuid4().hex, time.monotonic()
        header = {"msg_id": identity, "msg_type": "execute_request", "username": self.name, "session": identity}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        message = {"header": header | {"version": "5.3", "date": ""}, "parent_header": {}, "metadata": {}}
        self.socket.send(json.dumps(message | {"content": content, "channel": "shell"}))
        while True:
            reply = self.socket.recv()
            answer = json.loads(reply) if isinstance(reply, str) else {}  # bytes are a widget's pixels
            if answer.get("parent_header", {}).get("msg_id") != identity:
                continue
            if answer["msg_type"] == "error":
                raise RuntimeError(f"{self.name}: {answer['content']['ename']}: {answer['content']['evalue']}")
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return time.monotonic() - start

    def stop(self) -> None:
        """Ends the kernel; the server stays, as after a participant's last click."""
        self.socket.close()
        requests.delete(f"{self.kernels}/{self.kernel}", headers=self.header, timeout=60)

    def _checked(self, answer: requests.Response) -> requests.Response:
        if not answer.ok:
            raise ConnectionError(f"{self.name}: {answer.url} answers {answer.status_code}: {answer.text[:300]}")
        return answer


def usage(*names: str) -> dict[str, float]:
    """Bytes and processor seconds of all processes of these participants; bytes of their kernels alone as well."""
    uids, found = {getpwnam(name).pw_uid for name in names}, {"memory": 0.0, "kernel": 0.0, "processor": 0.0}
    for process in psutil.process_iter():
        try:
            if process.uids().real not in uids:
                continue
            memory, times = process.memory_full_info().pss, process.cpu_times()
            found["memory"] += memory
            found["kernel"] += memory if "ipykernel_launcher" in " ".join(process.cmdline()) else 0
            found["processor"] += times.user + times.system
        except psutil.Error:  # it has ended since
            continue
    return found


def take_part(args, name: str, password: str, wait: float, cells: list[str], done) -> dict:
    """One participant, from the login to the last cell: seconds of each part."""
    time.sleep(wait)
    start = time.monotonic()
    participant = Participant(args.address, name, password)
    participant.start()
    started, seconds = time.monotonic() - start, []
    try:
        for cell in cells:
            seconds.append(participant.run(cell))
            done()
            time.sleep(args.pause)
        return {"name": name, "start": started, "cells": seconds} | usage(name)
    finally:
        participant.stop()


def markdown(results: dict) -> str:
    people = results["participants"]
    mean = {key: statistics.mean(row[key] for row in people) for key in ("memory", "kernel", "processor")}
    waits = {"until the kernel is there": [row["start"] for row in people]}
    waits["for the slowest cell"] = [max(row["cells"]) for row in people]
    lines = ["# A room on one server", "", *(f"- {key}: {value}" for key, value in results["machine"].items())]
    lines += [f"- {len(people)} participants at once, {results['cells']} cells of {results['notebook']}"]
    lines += [f"- memory of all of them at most: {results['peak'] / 1e9:.1f} GB", ""]
    lines += ["| per participant | mean |", "|---|--:|"]
    lines += [f"| memory | {mean['memory'] / 1e9:.2f} GB |", f"| of it the kernel | {mean['kernel'] / 1e9:.2f} GB |"]
    lines += [f"| processor seconds | {mean['processor']:.0f} |", "", "| seconds of waiting | median | quartiles |"]
    lines += ["|---|--:|--:|"]
    for what, values in waits.items():
        found = spread(values)
        lines.append(f"| {what} | {found['median']:.1f} | {found['quartiles'][0]:.1f} to {found['quartiles'][1]:.1f} |")
    return "\n".join([*lines, "", *sizing(mean["memory"] - mean["kernel"])]) + "\n"


def sizing(server: float, notebooks: Path = NOTEBOOKS) -> list[str]:
    """What rooms of 10, 30 and 100 need, from the memory and processor seconds of each notebook (notebooks.py)."""
    rows = json.loads(notebooks.read_text())["rows"]
    lines = ["Memory if everybody has the notebook open, at its peak; and the minutes for which a server with one"]
    lines += ["processor per three participants is busy with it.", ""]
    lines += ["| notebook | " + " | ".join(f"{room} participants" for room in ROOMS) + " | minutes |"]
    lines += ["|---|" + "--:|" * (len(ROOMS) + 1)]
    for name, row in rows.items():
        cells = [f"{room * (row['peak'] + server) / 1e9:.0f} GB" for room in ROOMS]
        lines.append(f"| {name} | {' | '.join(cells)} | {3 * row['cpu_seconds'] / 60:.0f} |")
    return lines


def measure(args) -> dict:
    """The whole room, from the first login to the last cell."""
    accounts = [line.split("\t") for line in args.passwords.read_text().splitlines()][: args.participants]
    notebook = nbformat.read(ROOT / "notebooks" / f"{args.notebook}.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"][: args.cells]
    peak, is_over = [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(2):
            peak[0] = max(peak[0], usage(*(name for name, _ in accounts))["memory"])

    threading.Thread(target=watch, daemon=True).start()
    with ThreadPoolExecutor(WORKERS) as pool, bar(len(accounts) * len(cells), "Room", "cell") as progress:
        waits = [60 * args.minutes * i / len(accounts) for i in range(len(accounts))]
        futures = [
            pool.submit(take_part, args, *account, wait, cells, progress.update)
            for account, wait in zip(accounts, waits)
        ]
        try:
            people = [future.result() for future in futures]
        except (ValueError, OSError, RuntimeError, websocket.WebSocketException) as error:
            sys.exit(f"The room failed: {error}")
    is_over.set()
    return {
        "machine": machine(psutil.cpu_count(), "jupyterhub", "jupyterlab"), "notebook": args.notebook,
        "cells": len(cells), "peak": max(peak[0], *(row["memory"] for row in people)), "participants": people,
    }  # fmt: skip


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("passwords", type=Path, nargs="?", help="what deploy/accounts.py printed")
    parser.add_argument("--address", default="http://127.0.0.1:8000", help="of the hub")
    parser.add_argument("--participants", type=int, help="by default all in the file")
    parser.add_argument("--notebook", default="01_data_and_augmentation")
    parser.add_argument("--cells", type=int, help="how many of its code cells; by default all")
    parser.add_argument("--minutes", type=float, default=1.0, help="within which all begin")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two cells")
    parser.add_argument("--finished", action="store_true", help="measure nothing: write hub.md from hub.json again")
    args = parser.parse_args()
    if not (args.passwords or args.finished):
        parser.error("the file of passwords is missing")
    file = args.output / "hub.json"
    results = json.loads(file.read_text()) if args.finished else measure(args)
    args.output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    (args.output / "hub.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
