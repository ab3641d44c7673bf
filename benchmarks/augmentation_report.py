"""The tables and the plot of augmentation.py, from its results."""

from pathlib import Path

from matplotlib import pyplot as plt

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")  # Okabe-Ito
MARKERS = "osD^vPX*"
NOTES = """
One by one, fewer images per round suffice, and no batch is larger than that. albumentations' perspective is the nearest
that it has: normally distributed corners, and it zooms in. fastai's shifts with its zoom, and warps in one direction.
"""


def markdown(results: dict) -> str:
    lines = ["# Augmentation: images per second", "", *(f"- {k}: {v}" for k, v in results["machine"].items())]
    lines += [f"- {results['rounds']} rounds: medians and quartiles", *NOTES.splitlines()]
    for key in dict.fromkeys(map(_setting, results["rows"])):
        device, size, batch = key
        lines += ["", f"## {device}, {size}x{size} pixels, batch {batch:,}", ""]
        lines += ["| | images per second | ours is faster by a factor of | images per round |", "|---|--:|--:|--:|"]
        for row in results["rows"]:
            if _setting(row) == key:
                cells = [row["name"], row.get("problem", ""), "", f"{row['images_a_round']:,}"]
                if "problem" not in row:
                    factor, (low, high) = row["ours_is_faster_by"]["median"], row["ours_is_faster_by"]["quartiles"]
                    cells[1:3] = f"{row['images_a_second']['median']:,.0f}", f"{factor:.1f} ({low:.1f} to {high:.1f})"
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Share of a training step (batch 256, the fast network and its optimizer, float32)", ""]
    for row in results["steps"]:
        share = f"{row['share']['median']:.1%} ({' to '.join(f'{q:.1%}' for q in row['share']['quartiles'])})"
        times = f"augmentation {row['augmentation']:.2f} ms; forward, backward, optimizer {row['step']:.2f} ms"
        lines.append(f"- {row['device']}: {times}; augmentation's share {share}")
    c = results["clamping"]
    lines += ["", "## Clamping colors once instead of after every adjustment", ""]
    lines.append(f"{c['images']:,} images of the shipped sample, absolute differences in gray levels of 255:")
    lines.append(f"mean {c['mean']:.3f}, largest {c['max']:.1f}; {c['above 1']:.1%} of the values exceed 1.")
    return "\n".join(lines) + "\n"


def _setting(row: dict) -> tuple[str, int, int]:
    return row["device"], row["size"], row["batch"]


def plot(results: dict, path: Path) -> None:
    """How many times as fast ours is, against the side of the images, one panel per batch size; with quartiles."""
    rows = [row for row in results["rows"] if "problem" not in row and row["name"] != "ours"]
    names, batches = (list(dict.fromkeys(row[key] for row in rows)) for key in ("name", "batch"))
    sizes = sorted({row["size"] for row in rows})
    size = (5 * len(batches), 5.6)
    figure, axes = plt.subplots(1, len(batches), sharey=True, squeeze=False, figsize=size, layout="constrained")
    for axis, batch in zip(axes[0], batches):
        axis.axhline(1, color="#444444", linewidth=1)
        for k, name in enumerate(names):
            found = [row for row in rows if (row["name"], row["batch"]) == (name, batch)]
            factors = [row["ours_is_faster_by"] for row in found]
            y = [f["median"] for f in factors]
            errors = [
                [v - f["quartiles"][0] for v, f in zip(y, factors)],
                [f["quartiles"][1] - v for v, f in zip(y, factors)],
            ]
            x = [row["size"] * 1.012 ** (k - len(names) / 2) for row in found]  # side by side
            style = {"color": COLORS[k % len(COLORS)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5}
            axis.errorbar(x, y, errors, linewidth=1.2, label=name, linestyle="-" if k < len(COLORS) else ":", **style)
        axis.set(
            xscale="log", yscale="log", xlabel="side of the images in pixels (log scale)", title=f"batch {batch:,}"
        )
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
        axis.set_xlim(0.8 * sizes[0], 1.25 * sizes[-1])
        low, high = axis.get_ylim()
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128) if low <= tick <= high]
        axis.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("ours is faster by a factor of (log scale)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle("Flip, affine, perspective and color jitter: the same images in the same round")
    values = (
        f"{r['name']} ({r['size']} pixels, batch {r['batch']:,}) {r['ours_is_faster_by']['median']:.1f}" for r in rows
    )
    description = f"Lines of the factor by which ours is faster, against the images' side: {'; '.join(values)}."
    figure.savefig(path, dpi=120, metadata={"Description": description})
