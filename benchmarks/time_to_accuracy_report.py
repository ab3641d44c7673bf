"""The table and the plot of time_to_accuracy.py, from its results."""

import math
import statistics
from pathlib import Path
from string import ascii_uppercase

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

STYLES = {"tutorial": ("#E69F00", "s", "--"), "ResNet-20": ("#009E73", "^", "-.")}
MARKERS = "oDvPX*hp<d>^s"
POLICY = "full"  # of ours that are compared: the tutorial's own, and a stronger one than ResNet-20's flips and shifts
COLORS = [
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#999999",
    "#F0E442",
    "#8B4513",
    "#332288",
    "#44AA99",
    "#882255",
    "#117733",
    "#DDCC77",
]


def standard_error(values: list[float]) -> float:
    """Of the mean of two values or more."""
    return statistics.stdev(values) / len(values) ** 0.5


def mean_and_error(values: list[float], unit: str) -> str:
    """Mean and its standard error, in words; without the latter where there is one value."""
    mean = format(statistics.mean(values), unit)
    if len(values) == 1:
        return f"{mean} (one run)"
    return f"{mean} ± {format(standard_error(values), unit)}"


def duration(values: list[float]) -> str:
    """Mean and its standard error: of a GPU's seconds and minutes, fractions matter."""
    return mean_and_error(values, ".0f" if statistics.mean(values) >= 20 else ".2f")


def rows_for(results: dict, name: str) -> list[dict]:
    return [row for row in results["rows"] if row["name"] == name]


def owner(about: dict) -> str:
    return "" if about.get("published") else "ours, "


def points(rows: list[dict], tta: bool | float) -> list[tuple[float, float]]:
    """Reference minutes and accuracy of each run, without test-time augmentation, with it, or for a quarter (0.25)."""
    if tta:
        name = "accuracy_shifted_quarter" if tta == 0.25 else "accuracy_shifted"
        return [((r["reference_seconds"] + tta * r["shifted_reference_seconds"]) / 60, r[name]) for r in rows]
    return [(r["reference_seconds"] / 60, r["accuracy"]) for r in rows]


def augmented(tta: bool | float) -> str:
    return "test-time augmentation" + " of the least confident quarter" * (tta == 0.25)


def target(about: dict, rows: list[dict]) -> str:
    """What the means of a recipe are meant to reach, and whether they do; if not, what is missing."""
    text = f"{about['accuracy']:.0%}" + (f" in {about['minutes']:g}" if "minutes" in about else "")
    text += f" (with {augmented(about['tta'])})" if about["tta"] else ""
    if "minutes" not in about:  # the published run is a yardstick, not a target
        return text
    minutes, accuracy = map(statistics.mean, zip(*points(rows, about["tta"])))
    late, short = minutes - about["minutes"], 100 * (about["accuracy"] - accuracy)
    missing = [f"{late:.2f} minutes"] * (late > 0) + [f"{short:.2f} points"] * (short > 0)
    return text + (f": no, by {' and '.join(missing)}" if missing else ": yes")


def machines(rows: list[dict]) -> dict[str, str]:
    """Each machine that trained one of them, and the letter by which the table names it."""
    return dict(zip(dict.fromkeys(row["machine"] for row in rows), ascii_uppercase))


def leads(results: dict) -> list[str]:
    """Lines of a table: by how much ours are ahead when a competitor is evaluated.

    Ours is the recipe with the competitor's augmentation or a stronger one, trained on the same machines, that was the
    last to end by then.
    """
    lines = []
    for competitor in STYLES:
        theirs = rows_for(results, competitor)
        where = machines(theirs).keys()
        same = [key for key, a in results["schedules"].items() if a["policy"] == POLICY and not a.get("sample")]
        ours = {key: rows for key in same if (rows := rows_for(results, key)) and machines(rows).keys() == where}
        minutes = {key: statistics.mean(m for m, _ in points(rows, tta=False)) for key, rows in ours.items()}
        for looks in zip(*(row["looks"] for row in theirs)):
            after = statistics.mean(look["reference_seconds"] for look in looks) / 60
            ended = {key: value for key, value in minutes.items() if value <= after}
            if not ended:
                continue
            name = max(ended, key=ended.get)
            accuracies = [[row["accuracy"] for row in rows] for rows in (ours[name], looks)]
            mean, its_mean = map(statistics.mean, accuracies)
            ahead = "too few runs"
            if min(map(len, accuracies)) > 1:
                ahead = f"{100 * (mean - its_mean):.1f} ± {100 * math.hypot(*map(standard_error, accuracies)):.1f}"
            cells = f"{competitor}, {its_mean:.2%} in {after:.2f} | {name}, {mean:.2%} in {minutes[name]:.2f}"
            lines.append(f"| {cells} | {POLICY} | {ahead} |")
    return lines


def asides(results: dict) -> list[str]:
    """Lines: the test images that ship, and what is left of the gain if only the least sure quarter is averaged."""
    lines = []
    for name in results["schedules"]:
        rows = [row for row in rows_for(results, name) if "accuracy_shifted_quarter" in row]
        if not rows:
            continue
        plain, whole, quarter = (
            statistics.mean(row[f"accuracy{key}"] for row in rows) for key in ("", "_shifted", "_shifted_quarter")
        )
        text = (
            f"{name}: test-time augmentation gains {100 * (whole - plain):.2f} points, for the least confident quarter"
        )
        lines.append(f"- {text} of the images alone {100 * (quarter - plain):.2f} ({len(rows)} seeds)")
        if "accuracy_of_shipped" in rows[0]:
            shipped = mean_and_error([row["accuracy_of_shipped"] for row in rows], ".2%")
            lines.append(f"- {name}: {shipped} of the 1,000 test images that ship")
    return ["", *lines] if lines else []


def markdown(results: dict) -> str:
    letters = machines(results["rows"])

    def where(rows: list[dict]) -> str:
        return ", ".join(letters[name] for name in machines(rows))

    lines = ["# Time to accuracy", "", *(f"- machine {letter}: {name}" for name, letter in letters.items())]
    lines += [f"- last session, {key}: {value}" for key, value in results["session"].items()]
    is_gpu = "GPU" in results["session"]
    measured = [] if is_gpu else ["GFLOP/s"]  # a GPU's is not measured
    unit = "minutes are those of a clock" if is_gpu else "minutes are reference minutes (benchmarks/clock.py)"
    lines += [f"- means and their standard errors over the seeds; {unit}", ""]
    titles = ["recipe", "policy", "epochs", "seeds", "test accuracy", "minutes", "wall-clock seconds"]
    titles += ["with test-time augmentation", "minutes with it", *measured, "machine", "version", "target"]
    columns = "|---|---|--:|--:|--:|--:|--:|--:|--:|" + "--:|" * len(measured) + "---|---|---|"
    lines += [f"| {' | '.join(titles)} |", columns]
    for name, about in results["schedules"].items():
        rows = rows_for(results, name)
        if not rows:
            continue
        minutes, accuracies = zip(*points(rows, tta=False))
        minutes_tta, accuracies_tta = zip(*points(rows, tta=True))
        cells = [
            mean_and_error(accuracies, ".2%"),
            mean_and_error(minutes, ".2f"),
            duration([r["seconds"] for r in rows]),
            mean_and_error(accuracies_tta, ".2%"),
            mean_and_error(minutes_tta, ".2f"),
            *(f"{statistics.mean(r['rate'] for r in rows) / 1e9:.0f}" for _ in measured),
            where(rows),
            ", ".join(dict.fromkeys(row["version"] for row in rows)),
            target(about, rows),
        ]
        lines.append(f"| {name} | {about['policy']} | {about['epochs']} | {len(rows)} | {' | '.join(cells)} |")
    lines += asides(results)
    competitors = list(dict.fromkeys(row["name"] for row in results["rows"] if "looks" in row))
    if competitors:
        head = "| competitor | seeds | minutes | test accuracy | wall-clock seconds | GFLOP/s | machine | version |"
        lines += ["", head, "|---|--:|--:|--:|--:|--:|---|---|"]
    for name in competitors:
        rows = rows_for(results, name)
        made = ", ".join(dict.fromkeys(row.get("version", "") for row in rows))
        for looks in zip(*(row["looks"] for row in rows)):
            minutes = mean_and_error([look["reference_seconds"] / 60 for look in looks], ".2f")
            accuracy = mean_and_error([look["accuracy"] for look in looks], ".2%")
            seconds = mean_and_error([look["seconds"] for look in looks], ".0f")
            rate = f"{statistics.mean(row['rate'] for row in rows) / 1e9:.0f}"
            lines.append(
                f"| {name} | {len(rows)} | {minutes} | {accuracy} | {seconds} | {rate} | {where(rows)} | {made} |"
            )
    if ahead := leads(results):
        lines += ["", "Ours at the end of their schedules; the competitors train on, at a constant learning rate:"]
        lines += ["", "| competitor | ours by then | policy | points ahead |", "|---|---|---|--:|", *ahead]
    lines += ["", "Every run, accuracy and reference minutes; with test-time augmentation where that is the target:"]
    lines += [""]
    for name, about in results["schedules"].items():
        rows = rows_for(results, name)
        dots = zip(rows, points(rows, about["tta"]))
        runs = [f"{accuracy:.2%} in {minutes:.2f} ({where([row])})" for row, (minutes, accuracy) in dots]
        lines += [f"- {name}: {', '.join(runs)}"] if runs else []
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Test accuracy against reference minutes: marks per run (hollow: test-time augmentation), competitors as lines."""
    figure, axis = plt.subplots(figsize=(10.5, 5), layout="constrained")
    described, where = [], list(machines(results["rows"]))
    where = where[0] if len(where) == 1 else f"{len(where)} machines"
    schedules = {name: about for name, about in results["schedules"].items() if rows_for(results, name)}
    count = len(schedules)  # strict: a recipe without a color would be missing without a word
    for color, marker, (name, about) in zip(COLORS[:count], MARKERS[:count], schedules.items(), strict=True):
        rows = rows_for(results, name)
        for tta in [False] + [about["tta"]] * bool(about["tta"]):
            title, style = f"{owner(about)}{name}", "none" if tta else "full"
            details = augmented(tta).replace(" of", "\n   of")  # two lines, or the legend takes the plot's place
            label = f"{title}, {details}" if tta else f"{title} ({about['policy']})"
            dots = points(rows, tta)
            axis.plot(*zip(*dots), marker, color=color, fillstyle=style, label=label)
            mean = statistics.mean(accuracy for _, accuracy in dots)
            described.append(f"{title}{f', {augmented(tta)}' if tta else ''}: {mean:.1%}")
    for name, (color, marker, line) in STYLES.items():
        rows = rows_for(results, name)
        if rows:
            looks = [[(k["reference_seconds"] / 60, k["accuracy"]) for k in row["looks"]] for row in rows]
            means = [[statistics.mean(values) for values in zip(*at)] for at in zip(*looks)]
            axis.plot(*zip(*means), color=color, marker=marker, linestyle=line, label=name)
            described += [f"{name}: {accuracy:.1%} after {minutes:.1f} minutes" for minutes, accuracy in means]
    axis.set(xscale="log", xlabel="reference minutes", ylabel="test accuracy", title=f"Accuracy against time\n{where}")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 2):g}%")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120, metadata={"Description": f"Accuracy against time. {'; '.join(described)}."})
    plt.close(figure)
