"""Puts images and figures into README.md and benchmarks/RESULTS.md: from the executed notebooks and benchmarks/results.

    python tools/make_readme.py    # after the notebooks or a benchmark ran; a test holds both pages to it

Between `<!-- made: NAME -->` and `<!-- end -->` stands what this script made; the rest is written by hand.
"""

import csv
import json
import re
import statistics
from base64 import b64decode
from importlib import metadata
from operator import itemgetter
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
VERSION = metadata.version("cifar_utils")
PICTURES = {  # file in docs/ -> notebook, start of the figure's text alternative
    "augmentation.png": ("01_data_and_augmentation", "The full policy ("),
    "curves.png": ("03_training", "Training on"),
    "confusion.png": ("04_evaluation", "10,000 test images"),
}
TRAININGS = {  # name in time_to_accuracy.json -> what a reader should know
    "tutorial": "the usual tutorial's pipeline: DataLoader, torchvision, three convolutions, SGD, full policy, float32",
    "plain": "**the plain network** of notebook 2, SGD, full policy, float32; 45,000 images, validated every epoch",
    "plain_tricks": "the plain network with the tricks of notebook 5, bfloat16, test-time augmentation; same images",
    "class": "**the fast network**, full policy, bfloat16; 50,000 images, as all below",
    "fast": "the fast network, six epochs without augmentation, bfloat16",
    "fast_float32": "the same in float32, as on a CPU without bfloat16",
    "wide": "the fast network, wider, bfloat16, test-time augmentation",
}
AUGMENTATIONS = ("ours", "kornia", "fastai", "albumentations, 2 workers", "torchvision PIL, 2 workers")


def main() -> None:
    for name, png in pictures().items():
        (ROOT / "docs" / name).write_bytes(png)
    for name in MADE:
        path = ROOT / name
        path.write_text(filled(name, path.read_text(encoding="utf-8")), encoding="utf-8")


def pictures() -> dict[str, bytes]:
    """File in docs/ -> the notebook's own figure as PNG."""
    found = {}
    for name, (notebook, start) in PICTURES.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
        outputs = [
            output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        figure = next(o for o in outputs if o.metadata["image/png"]["alt"].startswith(start))
        found[name] = b64decode(figure.data["image/png"])
    return found


def filled(page: str, text: str) -> str:
    """The page's text with everything between its markers made anew."""
    for name, make in MADE[page].items():
        places = list(re.finditer(rf"(?<=<!-- made: {name} -->\n).*?(?=<!-- end -->)", text, re.DOTALL))
        assert len(places) == 1, f"{page} must have one place for {name}"
        text = text[: places[0].start()] + make() + text[places[0].end() :]
    return text


def plain() -> str:
    """What notebooks 3 and 4 reached, from their outputs."""
    cells = nbformat.read(ROOT / "notebooks" / "04_evaluation.ipynb", as_version=4).cells
    printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    seconds = re.search(r"^best epoch \d+, after (\d+) seconds", printed, re.M)[1]
    accuracy = re.search(r"^accuracy ([\d.]+)% of 10,000 test images", printed, re.M)[1]
    return (
        f"The network trained in notebook 3 predicts {accuracy}% of the 10,000 test images correctly after "
        f"{seconds} seconds\nof training on two CPU cores, "
        "with fresh random augmentation every time an image is used.\n"
    )


def training() -> str:
    rows = json.loads((RESULTS / "time_to_accuracy.json").read_text(encoding="utf-8"))["rows"]
    lines = ["| two CPU cores, full CIFAR-10 | test accuracy | reference minutes | seeds |", "|---|--:|--:|--:|"]
    for name, words in TRAININGS.items():
        mine = [row["looks"][-1] if "looks" in row else row for row in rows if row["name"] == name]
        tta = name in ("wide", "plain_tricks")
        accuracy = [row["accuracy_shifted" if tta else "accuracy"] for row in mine]
        seconds = [row["reference_seconds"] + (row["shifted_reference_seconds"] if tta else 0) for row in mine]
        minutes = [s / 60 for s in seconds]
        earlier = sorted({row["version"] for row in rows if row["name"] == name} - {VERSION})
        words += f" (version {', '.join(earlier)})" if earlier else ""
        lines.append(f"| {words} | {spread(accuracy, 100)}% | {spread(minutes)} | {len(mine)} |")
    return "\n".join(lines) + "\n"


def augmentation() -> str:
    results = json.loads((RESULTS / "augmentation.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in results["rows"] if (row["size"], row["batch"]) == (32, 256)}
    lines = ["| flip, affine, perspective, color jitter | images per second | ours is faster by a factor of |"]
    lines.append("|---|--:|--:|")
    for name in AUGMENTATIONS:
        low, high = rows[name]["ours_is_faster_by"]["quartiles"]
        factor = f"{rows[name]['ours_is_faster_by']['median']:.1f} ({low:.1f} to {high:.1f})"
        lines.append(f"| {name} | {rows[name]['images_a_second']['median']:,.0f} | {factor} |")
    return "\n".join(lines) + "\n"


def versions() -> str:
    """Two versions of the same recipes, run in turn."""
    rows = json.loads((RESULTS / "versions.json").read_text(encoding="utf-8"))
    lines = ["| machine | recipe | version | seeds | test accuracy | reference minutes | with test-time augmentation |"]
    lines.append("|---|---|---|--:|--:|--:|--:|")
    of = itemgetter("machine", "name", "version")
    for machine, name, version in sorted({of(row) for row in rows}):
        mine = [row for row in rows if of(row) == (machine, name, version)]
        accuracy = spread([row["accuracy"] for row in mine], 100)
        averaged = spread([row["accuracy_shifted"] for row in mine], 100)
        minutes = spread([row["reference_seconds"] / 60 for row in mine])
        lines.append(f"| {machine} | {name} | {version} | {len(mine)} | {accuracy}% | {minutes} | {averaged}% |")
    return "\n".join([*lines, "", *pairs(rows)]) + "\n"


def pairs(rows: list[dict]) -> list[str]:
    """Two versions on the same machine with the same seed: differences of accuracy, and ratios of time."""
    first, second = "0.1.0", "0.2.0"
    found = {(row["version"], row["machine"], row["name"], row["seed"]): row for row in rows}
    lines = [f"| {second} against {first}, seed by seed | pairs | test accuracy, points | time, ratio |"]
    lines.append("|---|--:|--:|--:|")
    for name in sorted({row["name"] for row in rows}):
        both = [
            (row, found[second, *key[1:]])
            for key, row in found.items()
            if key[0] == first and key[2] == name and (second, *key[1:]) in found
        ]
        if len(both) > 1:
            points = spread([b["accuracy"] - a["accuracy"] for a, b in both], 100)
            ratio = spread([b["reference_seconds"] / a["reference_seconds"] for a, b in both])
            lines.append(f"| {name} | {len(both)} | {points} | {ratio} |")
    return lines


def shards() -> str:
    """Validation accuracy of the plain network by the number of shards; see benchmarks/shards.yaml."""
    lines = ["| shards per batch | seeds | validation accuracy | 95% interval of the mean |", "|--:|--:|--:|--:|"]
    with (RESULTS / "shards.csv").open() as file:
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["shards"])):
            mean, low, high = (f"{float(row[name]):.1%}" for name in ("validation_accuracy", "low", "high"))
            lines.append(f"| {row['shards']} | {row['seeds']} | {mean} | {low} to {high} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], scale: float = 1) -> str:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{scale * statistics.mean(values):.2f} ± {scale * error:.2f}"


MADE = {  # page -> name of a marker -> what makes the text there
    "README.md": {"plain": plain, "training": training, "augmentation": augmentation},
    "benchmarks/RESULTS.md": {"versions": versions, "shards": shards},
}

if __name__ == "__main__":
    main()
