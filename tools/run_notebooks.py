"""Runs the notebooks without a screen and leaves them, executed, with an HTML page each, in build/.

    python tools/run_notebooks.py                 all notebooks, results in build/
    python tools/run_notebooks.py --in-place      all notebooks, outputs written into notebooks/ (to commit them)
    python tools/run_notebooks.py notebooks/02_model.ipynb

CIFAR_PROFILE (smoke, class or long) decides how long that takes. The exit code is 1 if a cell failed.
"""

import argparse
import copy
import hashlib
import html
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from tqdm import tqdm

from cifar_utils.workshop.speed import step_milliseconds

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Runs the notebooks named on the command line, or all, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="default: build/")
    parser.add_argument("--in-place", action="store_true", help="write the outputs into the notebooks themselves")
    options = parser.parse_args()
    os.environ["CIFAR_HEADLESS"] = "1"
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    options.output.mkdir(parents=True, exist_ok=True)
    failed, step = [], round(step_milliseconds(), 1)
    for path in paths:
        found = run(path, path if options.in_place else options.output / path.name, options.output, step)
        problem = found["problem"]
        print(f"{path.name}: {problem or 'done'} ({found['seconds']:.0f} s)", flush=True)
        failed += [path.name] if problem else []
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran through; pages are in {options.output}")
    return 1 if failed else 0


def run(path: Path, target: Path, pages: Path, step: float, observe=lambda client, cell: None) -> dict:
    """Executes one notebook, and writes the result and its HTML page.

    The notebook's metadata get its duration, and step: this machine's milliseconds per training step. `observe` is
    called with the client before each cell, and with None for the cell at the end.

    Returns:
        problem (what went wrong, or "") and seconds.
    """
    notebook = nbformat.read(path, as_version=4)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    bar = tqdm(total=code_cells, desc=path.stem, unit="cell", file=sys.stdout, mininterval=5)
    client: NotebookClient = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,  # a progress bar leaves its last state, not its history
        record_timing=False,
        store_widget_state=False,  # what code hosts refuse to show; the static figures say the same
        on_cell_start=lambda cell, **_: observe(client, cell),
        on_notebook_complete=lambda **_: observe(client, None),
        on_cell_executed=lambda cell, **_: bar.update(cell.cell_type == "code"),
    )
    problem, start = "", time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        problem = f"a cell failed: {error.ename}: {error.evalue}"
    except DeadKernelError:
        problem = "the kernel died (out of memory?)"
    bar.close()
    seconds = time.perf_counter() - start
    notebook.metadata["seconds"] = round(seconds)  # a test compares it with the minutes in the text
    notebook.metadata["code"] = code_hash(notebook)  # a test compares it with the code that is committed
    notebook.metadata["step_milliseconds"] = step  # `python -m cifar_utils doctor` scales the seconds by it
    nbformat.write(notebook, target)
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(with_text_alternatives(notebook))
    (pages / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return {"problem": problem, "seconds": seconds}


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Of all code cells: tells whether the outputs are those of the code beside them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def with_text_alternatives(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose figures are <img> tags with alt texts, since nbconvert's page leaves out those in the metadata."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                source = "data:image/png;base64," + output.data["image/png"].replace("\n", "")
                image, text = f'<img src="{source}" alt="{html.escape(alt)}">', output.data.get("text/plain", "")
                if "interactive in JupyterLab" in text:  # a widget's image
                    image = f"<figure>{image}<figcaption>{html.escape(text)}</figcaption></figure>"
                output.data = {"text/html": image}
    return notebook


if __name__ == "__main__":
    sys.exit(main())
