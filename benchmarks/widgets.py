"""The time from a key press on a slider to the new images on the screen, in a real JupyterLab; and a dashboard's cost.

    pip install --editable '.[test,browser]'     # and Chromium, see CONTRIBUTING.md
    python benchmarks/widgets.py                 # use the machine for nothing else meanwhile

Compared are the augmentation explorer and the baseline: an ipywidgets slider whose callback draws the same 40 images
with matplotlib into an Output widget after clear_output. Both show 5 originals with 8 draws each of the same policy.
A move ends when the browser has painted the images of the new value: the explorer's canvas, or the baseline's new
<img>. The two take turns, one block of moves each. Then: seconds per training step while the dashboard in the browser
follows the training and while it does not, in turns of a few seconds within one training. (The pause between two
steps, in which messages of the page are handled, is in both: 10 turns of an empty event loop.)

Written to benchmarks/results: widgets.json and widgets.md.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from common import command_line, machine
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]

OURS = """
from cifar_utils import data
from cifar_utils.widgets import Explorer
train, validation = data.split(data.cifar10(sample=True))
Explorer(train, validation)
"""
BASELINE = """
import ipywidgets, numpy as np
from dataclasses import replace
from IPython.display import clear_output, display
from matplotlib import pyplot as plt
from cifar_utils import data
from cifar_utils.augment import PRESETS
from cifar_utils.widgets import preview
train, _ = data.split(data.cifar10(sample=True))
images = preview.choose(train, train.classes, 5)
slider, out = ipywidgets.IntSlider(value=10, max=180), ipywidgets.Output()

def show(change):
    shown = preview.draws(images, replace(PRESETS["full"], degrees=slider.value), 0, 8)
    with out:
        clear_output(wait=True)
        figure, axes = plt.subplots(1, 1, figsize=(7, 4))
        axes.imshow(preview.contact_sheet(images.images, shown))
        axes.set_axis_off()
        figure.canvas.draw()
        plt.show()

slider.observe(show, "value")
slider.add_class("baseline")
out.add_class("baseline-image")
show(None)
display(slider, out)
"""
COST = """
import asyncio, json, os, time
from pathlib import Path
from torch import nn
from cifar_utils import data, settings
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.widgets import Dashboard
train, validation = data.split(data.cifar10(sample=True))
model = nn.Sequential(Normalize.from_dataset(train), SmallCNN())
run = settings.runs_directory() / "cost"
dashboard = Dashboard(model, train, validation, transform=PRESETS["full"], epochs=1000, batch_size=128, run=run)
show, began, blocks, updates = dashboard._show, [], [], []
model.register_forward_pre_hook(lambda module, _: began.append(time.perf_counter()) if module.training else None)

def timed_show():
    start = time.perf_counter()
    show()
    updates.append(time.perf_counter() - start)

def others():  # processor seconds that the browser and the server have used so far
    seconds = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
            numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if "chrom" in command or "jupyterlab" in command:
            seconds += (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
    return seconds

async def turn_on_and_off():
    await asyncio.sleep(SECONDS)  # warm
    for block in range(2 * BLOCKS):
        dashboard._show = timed_show if block % 2 else (lambda: None)
        start, used = time.perf_counter(), others()
        await asyncio.sleep(SECONDS)
        blocks.append((start, time.perf_counter(), others() - used))
    dashboard._show = show
    dashboard.do("stop")

await asyncio.gather(dashboard.train(), turn_on_and_off())
print("BLOCKS", json.dumps({"blocks": blocks, "began": began, "updates": updates}))
"""

# Notes the time at which the frame with the new images has been painted.
WATCH = {
    "ours": """() => {
        const canvas = document.querySelector('.cifar.explorer canvas.sheet');
        const context = canvas.getContext('2d'), put = context.putImageData.bind(context);
        context.putImageData = (...args) => { put(...args); requestAnimationFrame(() => setTimeout(() => {
            window.painted = performance.now(); }, 0)); };
    }""",
    "baseline": """() => {
        const output = document.querySelector('.baseline-image');
        new MutationObserver(() => {
            const image = output.querySelector('img');
            if (!image || image.src === window.last) return;
            window.last = image.src;
            image.decode().then(() => requestAnimationFrame(() => setTimeout(() => {
                window.painted = performance.now(); }, 0)));
        }).observe(output, { subtree: true, childList: true, attributes: true });
    }""",
}
SLIDER = {"ours": ".cifar.explorer .slider-degrees", "baseline": ".baseline .noUi-handle"}


def moves(page, kind: str, count: int) -> list[float]:
    """Milliseconds of `count` moves, each begun when the last one is on the screen."""
    page.locator(SLIDER[kind]).focus()
    found = []
    for i in range(count):
        page.evaluate(
            """(selector) => {
                window.painted = 0;
                const now = () => { window.pressed = performance.now(); };
                document.querySelector(selector).addEventListener('keydown', now, { once: true, capture: true });
            }""",
            SLIDER[kind],
        )
        page.keyboard.press("ArrowRight" if i % 20 < 10 else "ArrowLeft")
        page.wait_for_function("() => window.painted > 0", polling=5)
        found.append(page.evaluate("() => window.painted - window.pressed"))
    return found


def cost(output: str) -> dict:
    """The dashboard's cost, by the clock and by processor time.

    Returns:
        slowdown: by what fraction a training step is longer while it follows, for each pair of neighboring turns.
        kernel: the kernel's own work for it, as a fraction of the time in which it follows.
        others: processor time of browser and server, as a fraction of one core, while it follows and while not.
    """
    line = next(line for line in output.splitlines() if line.startswith("BLOCKS"))
    measured = json.loads(line.removeprefix("BLOCKS"))
    steps = list(zip(measured["began"], measured["began"][1:]))
    usual = statistics.median(end - start for start, end in steps)

    def mean(block: list[float]) -> float:
        inside = [b - a for a, b in steps if block[0] <= a and b <= block[1] and b - a < 3 * usual]  # no validation
        return statistics.mean(inside)

    off, on = measured["blocks"][::2], measured["blocks"][1::2]
    seconds = [sum(end - start for start, end, _ in blocks) for blocks in (on, off)]
    return {
        "slowdown": [mean(b) / mean(a) - 1 for a, b in zip(off, on)],
        "kernel": sum(measured["updates"]) / seconds[0],
        "others": [sum(used for *_, used in blocks) / s for blocks, s in zip((on, off), seconds)],
    }


def summary(values: list[float]) -> dict:
    cuts = statistics.quantiles(values, n=20)
    return {"median": statistics.median(values), "p95": cuts[18], "moves": len(values), "all": values}


def markdown(results: dict) -> str:
    lines = ["# Widgets", "", *(f"- {name}: {value}" for name, value in results["machine"].items()), ""]
    lines += ["## From a key press on a slider to 40 new images on the screen", ""]
    lines += ["| | median, ms | 95th percentile, ms | moves |", "|---|--:|--:|--:|"]
    names = {"ours": "augmentation explorer", "baseline": "matplotlib in an Output widget, clear_output"}
    for kind, row in results["latency"].items():
        lines.append(f"| {names[kind]} | {row['median']:.0f} | {row['p95']:.0f} | {row['moves']} |")
    ratio = results["latency"]["baseline"]["median"] / results["latency"]["ours"]["median"]
    slowdown = results["dashboard"]["slowdown"]
    error = statistics.stdev(slowdown) / len(slowdown) ** 0.5
    lines += ["", f"Median against median, the explorer is {ratio:.1f} times as fast.", ""]
    lines += ["## Cost of the dashboard", ""]
    lines += [
        f"While it followed the training in the browser, a step took {statistics.mean(slowdown):+.1%} longer (standard"
    ]
    lines += [f"error {error:.1%}, {len(slowdown)} pairs of turns; median {statistics.median(slowdown):+.1%})."]
    on, off = results["dashboard"]["others"]
    lines += [
        "",
        f"In processor time: the kernel spent {results['dashboard']['kernel']:.2%} of that time on it; browser",
    ]
    lines += [f"and server together used {on:.1%} of one core while it followed, and {off:.1%} while it did not."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--moves", type=int, default=200, help="of each slider (default: 200)")
    parser.add_argument("--turns", type=int, default=20, help="of 6 seconds, with and without updates (default: 20)")
    args = parser.parse_args()
    os.environ["CIFAR_HEADLESS"] = "1"  # as in the tests, whose JupyterLab this is; it removes the variable
    from lab import FLAGS, Lab, Notebook, find_chromium
    from playwright.sync_api import sync_playwright

    results = {"machine": machine(os.cpu_count())}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS.split())
        lab = Lab(Path(folder))
        try:
            notebooks = {}
            for kind, cell in (("ours", OURS), ("baseline", BASELINE)):
                notebooks[kind] = Notebook(browser, lab, lab.write(kind, cell))
                notebooks[kind].run_all()
                notebooks[kind].page.locator(SLIDER[kind]).wait_for()
                notebooks[kind].page.wait_for_timeout(2000)
                notebooks[kind].page.evaluate(WATCH[kind])
                moves(notebooks[kind].page, kind, 10)  # warm
            times = {"ours": [], "baseline": []}
            for _ in tqdm(range(args.moves // 20), desc="blocks of moves"):
                for kind, notebook in notebooks.items():
                    notebook.page.bring_to_front()
                    times[kind] += moves(notebook.page, kind, 20)
            results["latency"] = {kind: summary(values) for kind, values in times.items()}
            for notebook in notebooks.values():
                notebook.close()
            cell = COST.replace("SECONDS", "6").replace("BLOCKS", str(args.turns), 1)
            notebook = Notebook(browser, lab, lab.write("cost", cell))
            notebook.start_all()
            notebook.wait_for_all(3600)
            results["dashboard"] = cost(notebook.outputs())
        finally:
            lab.process.terminate()
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "widgets.json").write_text(json.dumps(results) + "\n")
    (args.output / "widgets.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
