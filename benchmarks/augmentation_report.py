"""The tables and the plot of augmentation.py, from its results."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.patches import Patch

COLORS = {256: "#0072B2", 1024: "#E69F00", 50_000: "#009E73"}  # one per batch size, Okabe-Ito
NOTES = """
One by one, fewer images per round suffice, and no batch is larger than that. albumentations' perspective is the nearest
that it has: normally distributed corners, and it zooms in.
"""


def markdown(results: dict) -> str:
    lines = ["# Augmentation: images per second", "", *(f"- {k}: {v}" for k, v in results["machine"].items())]
    lines += [f"- {results['rounds']} rounds: medians and quartiles", *NOTES.splitlines()]
    for device, batch in dict.fromkeys((row["device"], row["batch"]) for row in results["rows"]):
        lines += ["", f"## {device}, batch {batch:,}", ""]
        lines += ["| | images per second | ours is faster by a factor of | images per round |", "|---|--:|--:|--:|"]
        for row in results["rows"]:
            if (row["device"], row["batch"]) == (device, batch):
                cells = [row["name"], row.get("problem", ""), "", f"{row['images_a_round']:,}"]
                if "problem" not in row:
                    factor, (low, high) = row["ours_is_faster_by"]["median"], row["ours_is_faster_by"]["quartiles"]
                    cells[1:3] = f"{row['images_a_second']['median']:,.0f}", f"{factor:.1f} ({low:.1f} to {high:.1f})"
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Share of a training step (batch 256, the class profile's network)", ""]
    for row in results["steps"]:
        share = f"{row['share']['median']:.1%} ({' to '.join(f'{q:.1%}' for q in row['share']['quartiles'])})"
        times = f"augmentation {row['augmentation']:.2f} ms; forward, backward and SGD {row['step']:.2f} ms"
        lines.append(f"- {row['device']}: {times}; augmentation's share {share}")
    c = results["clamping"]
    lines += ["", "## Clamping colors once instead of after every adjustment", ""]
    lines.append(f"{c['images']:,} images of the shipped sample, absolute differences in gray levels of 255:")
    lines.append(f"mean {c['mean']:.3f}, largest {c['max']:.1f}; {c['above 1']:.1%} of the values exceed 1.")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Bars of images per second on a log scale, one color per batch size, whiskers from slowest to fastest."""
    rows = [row for row in results["rows"] if "problem" not in row]
    names = list(dict.fromkeys(f"{row['name']} ({row['device']})" for row in rows))[::-1]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.6 * len(names)), layout="constrained")
    for row in rows:
        k, name, rates = batches.index(row["batch"]), f"{row['name']} ({row['device']})", row["images_a_second"]
        y, x = names.index(name) + 0.27 * ((len(batches) - 1) / 2 - k), rates["median"]
        axis.barh(y, x, 0.25, color=COLORS[row["batch"]])
        axis.plot([min(rates["rounds"]), max(rates["rounds"])], [y, y], color="#444444", linewidth=1)
        axis.text(max(rates["rounds"]) * 1.1, y, f"{x:,.0f}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.set_xscale("log")
    axis.set_xlim(10, 2 * axis.get_xlim()[1])
    axis.set_xlabel("images per second (log scale): median, slowest and fastest round")
    axis.set_title("Flip, affine, perspective and color jitter of 32x32 images", fontsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        [Patch(color=COLORS[b]) for b in batches],
        [f"batch {b:,}" for b in batches],
        frameon=False,
        loc="outside lower center",
        ncols=3,
    )
    values = (f"{r['name']} ({r['device']}, batch {r['batch']:,}) {r['images_a_second']['median']:,.0f}" for r in rows)
    figure.savefig(path, dpi=120, metadata={"Description": f"Bars of images per second: {'; '.join(values)}."})
