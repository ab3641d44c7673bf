"""An evaluation, or several compared, as text and as files: JSON, CSV and PNG."""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cifar_utils import checkpoint, plots
from cifar_utils.data import Dataset
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.calibration import (
    NoTemperature,
    Temperature,
    fit_temperature,
    reliability,
    with_temperature,
)
from cifar_utils.evaluation.comparison import Comparison
from cifar_utils.evaluation.predictions import Predictions


def report(predictions: Predictions, title: str = "", validation: Predictions | None = None) -> str:
    """Accuracy with its interval, calibration, each class, and the largest confusions, as text.

    Args:
        predictions: of any split; the first line names it and the source of the images, whatever the title.
        title: of the report, for example the name of a run.
        validation: the same network's predictions for the validation split; with it, the temperature is fitted.

    Raises:
        ValueError: `validation` is of another split, of other classes or of another network; or the title is no text.
    """
    if not isinstance(title, str):
        raise ValueError(f"the title is a {type(title).__name__}; to fit a temperature, write validation=...")
    matrix = metrics.confusion_matrix(predictions)
    lines = [heading(predictions, title), f"accuracy {_percent(metrics.proportion(predictions.correct))}"]
    if predictions.probabilities is not None:
        lines[-1] += f", loss {predictions.loss:.4f}"
        if k := _k(predictions):
            lines.append(f"top-{k}    {_percent(metrics.proportion(metrics.top_k(predictions, k)))}")
        bins = reliability(predictions)
        error, chance = bins.expected_calibration_error, bins.chance_error
        lines.append(
            f"expected calibration error {error:.2%} (15 equally wide bins; by chance alone about {chance:.2%})"
        )
        if validation is not None:
            lines[-1] += f"; {_at_the_temperature(predictions, validation)}"
    wrong = _known_label_errors(predictions)
    if 0 < wrong.sum() < len(wrong):
        interval = _percent(metrics.proportion(metrics.without_label_errors(predictions).correct))
        lines.append(f"accuracy without the {wrong.sum()} known label errors {interval}")
    lines += ["", per_class_table(matrix, predictions.classes), "", metrics.top_confusions(matrix, predictions.classes)]
    return "\n".join(lines)


def _known_label_errors(predictions: Predictions) -> np.ndarray:
    """[N] bool: which labels were rejected, see `metrics.label_errors`; none of images other than CIFAR-10's."""
    is_known = predictions.split == "test" and predictions.source in ("CIFAR-10", "SAMPLE")
    return np.isin(predictions.index, list(metrics.label_errors())) & is_known


def heading(predictions: Predictions, title: str = "") -> str:
    """The title, then always how many images of which split and source: no title can contradict these."""
    return f"{title}: {predictions}" if title else str(predictions)


def per_class_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Recall, precision and F1 of each class with their intervals, as text; of many, the ten best and the ten worst.

    Args:
        matrix: [classes, classes] int64, see `metrics.confusion_matrix`.
        classes: their names.
    """
    found = metrics.per_class(matrix)
    names = {"recall": "recall (accuracy)"}
    rows = range(len(classes))
    lines = []
    if len(classes) > metrics.MOST_LISTED:
        rows = metrics.best_and_worst(found["recall"][:, 0]).tolist()
        are_ends = len(rows) < np.isfinite(found["recall"][:, 0]).sum()
        caution = " (on other images, expect these closer together)" if are_ends else ""
        lines = [f"  By recall, {metrics.which_listed(found['recall'][:, 0])}{caution}:"]
    width = max(12, *(len(classes[i]) + 2 for i in rows))
    lines.append(f"  {'':<{width}}" + "".join(f"{names.get(name, name):<26}" for name in found).rstrip())
    for i in rows:
        cells = (
            "   n/a" if np.isnan(value) else f"{value:6.1%}  ({low:.1%} to {high:.1%})"
            for value, low, high in (metric[i] for metric in found.values())
        )
        lines.append(f"  {classes[i]:<{width}}" + "".join(f"{cell:<26}" for cell in cells).rstrip())
    return "\n".join(lines)


def folder_for(path: str | Path, split: str = "test") -> Path:
    """Where the evaluation of a run's folder, or of a file of predictions, is written; another one for every path.

    That of another split than "test" has a folder of its own.
    """
    path, name = Path(path), "evaluation" if split == "test" else f"evaluation_{split}"
    return path.with_name(f"{path.name}_{name}") if path.is_file() else path / name


def make_folder(folder: str | Path) -> Path:
    """The folder, made if missing. Raises CheckpointError: it is a link."""
    folder = Path(folder)
    if folder.is_symlink():
        raise checkpoint.CheckpointError(f"{folder} is a link, and what it points to could be another's. Remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(
    folder: str | Path,
    predictions: Predictions,
    title: str = "",
    about: dict | None = None,
    validation: Predictions | None = None,
    images: Dataset | None = None,
) -> list[str]:
    """Writes report.json, classes.csv, predictions.csv and the figures into a folder; returns their names.

    Args:
        folder: see `folder_for`; files of an earlier evaluation are replaced.
        predictions, title, validation: see `report`.
        about: JSON-like facts that go into report.json first: which run, which epoch.
        images: those of the predictions; with them, the most confident errors become a figure as well.

    Raises:
        CheckpointError: the folder is a link, or a file cannot be written.
    """
    title = heading(predictions, title)
    matrix, classes = metrics.confusion_matrix(predictions), predictions.classes
    found = metrics.per_class(matrix)
    facts = (about or {}) | {
        "title": title,
        "source": predictions.source,
        "split": predictions.split,
        "model": predictions.model,
        "images": len(predictions),
        "accuracy": predictions.accuracy,
        "accuracy_interval": metrics.proportion(predictions.correct)[1:],
        "classes": classes,
        "class_accuracy": dict(zip(classes, found["recall"][:, 0])),
        "class_accuracy_intervals": dict(zip(classes, found["recall"][:, 1:])),
        "confusion_matrix": matrix,
        "confusion_matrix_normalized": metrics.normalized(matrix),
    }
    figures = {
        "confusion_matrix.png": plots.confusion_matrix(matrix, classes, title, metrics.top_confusions(matrix, classes)),
        "class_accuracy.png": evaluation_plots.class_accuracy(found["recall"], classes, title),
    }
    if predictions.probabilities is not None:
        bins = reliability(predictions)
        facts |= {"loss": predictions.loss, "expected_calibration_error": bins.expected_calibration_error}
        facts |= {"expected_calibration_error_by_chance": bins.chance_error}
        if k := _k(predictions):
            value, *interval = metrics.proportion(metrics.top_k(predictions, k))
            facts |= {f"top{k}_accuracy": value, f"top{k}_interval": interval}
        curves = {"as trained": bins}
        if validation is not None:
            with suppress(NoTemperature):
                temperature = facts["temperature"] = _temperature(predictions, validation)
                after = reliability(with_temperature(predictions, temperature))
                facts["expected_calibration_error_at_that_temperature"] = after.expected_calibration_error
                curves[f"at temperature {temperature:.2f}"] = after
        figures["reliability.png"] = evaluation_plots.reliability_diagram(curves, title)
        if images is not None and (figure := _most_confident_errors(predictions, images)):
            figures["errors.png"] = figure
    folder = make_folder(folder)  # only now: where something does not fit, nothing is half written
    for name, figure in figures.items():
        plots.save(figure, folder / name)
    for name in {"reliability.png", "errors.png"} - set(figures):
        (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
    predictions.save(folder / "predictions.csv")
    checkpoint.write(folder / "classes.csv", _classes_csv(found, classes).encode())
    checkpoint.write(folder / "report.json", _json(facts))
    return ["report.json", "classes.csv", "predictions.csv", *figures]


def _most_confident_errors(predictions: Predictions, images: Dataset) -> Figure | None:
    """Those on images whose label was not rejected; None without errors."""
    rows = metrics.most_confident_errors(predictions, len(predictions))
    is_known = _known_label_errors(predictions)[rows]
    rows = rows[~is_known][:16]
    if not len(rows):
        return None
    found = [int((images.index == i).nonzero()[0, 0]) for i in predictions.index[rows].tolist()]
    names = np.array(predictions.classes)
    said = zip(names[predictions.predicted[rows]], predictions.confidence[rows], names[predictions.labels[rows]])
    captions = [f"{predicted} {p:.1%}\nlabel: {label}" for predicted, p, label in said]
    without = f", without {is_known.sum()} on known label errors" if is_known.any() else ""
    return plots.image_grid(images.images[found], captions, f"The most confident errors ({images}){without}", columns=8)


def write_comparison(
    folder: str | Path, tables: dict[str, Predictions], comparisons: dict[str, Comparison]
) -> list[str]:
    """Writes comparison.json and comparison.png; returns their names.

    Args:
        folder: files of an earlier comparison are replaced.
        tables: name -> predictions, the first being the one that the others are compared with.
        comparisons: name -> the first compared with it, for each but the first.

    Raises:
        CheckpointError: the folder is a link, or a file cannot be written.
    """
    folder, first = make_folder(folder), next(iter(tables))
    accuracies = {name: metrics.proportion(p.correct) for name, p in tables.items()}
    facts = {
        "images": str(tables[first]),
        "accuracy": {name: {"value": a[0], "interval": a[1:]} for name, a in accuracies.items()},
        "compared_with": first,
        "p_value_to_be_below": 0.05 / max(1, len(comparisons)),  # Bonferroni's
        "comparisons": {
            name: {
                "identical": c.identical,
                "difference": c.difference,
                "interval": c.interval,
                "p_value_mcnemar_exact": c.p_value,
                "images_only_the_first_gets_right": c.only_first,
                "images_only_the_second_gets_right": c.only_second,
            }
            for name, c in comparisons.items()
        },
    }
    checkpoint.write(folder / "comparison.json", _json(facts))
    words = {name: f"({100 * c.difference:+.2f} points, {c.p_in_words})" for name, c in comparisons.items()}
    title = f"{heading(tables[first], 'Comparison')}; differences from the first, image by image"
    figure = evaluation_plots.model_accuracies(accuracies, title, words)
    plots.save(figure, folder / "comparison.png")
    return ["comparison.json", "comparison.png"]


def _at_the_temperature(predictions: Predictions, validation: Predictions) -> str:
    try:
        temperature = _temperature(predictions, validation)
    except NoTemperature as error:
        return str(error)
    after = reliability(with_temperature(predictions, temperature)).expected_calibration_error
    return f"{after:.2%} at the temperature {temperature:.2f}, fitted on {len(validation):,} validation images"


def _temperature(predictions: Predictions, validation: Predictions) -> Temperature:
    """The fitted temperature. Raises NoTemperature."""
    if predictions.split == "validation":
        raise ValueError("a temperature cannot be judged on the validation images, on which it was fitted")
    if predictions.classes != validation.classes:
        raise ValueError("the classes of the validation predictions are others; the temperature needs the same network")
    return fit_temperature(validation)


def _k(predictions: Predictions) -> int:
    """Of the top-k accuracy: 3, or 5 of many classes; 0 where it would be 100% for any network."""
    k = 3 if len(predictions.classes) <= metrics.MOST_LISTED else 5
    return k if k < len(predictions.classes) else 0


def _classes_csv(found: dict[str, np.ndarray], classes: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["class", *(f"{name}{end}" for name in found for end in ("", "_low", "_high"))])
    for i, name in enumerate(classes):
        values = np.concatenate([metric[i] for metric in found.values()])
        writer.writerow([name, *("n/a" if np.isnan(value) else f"{value:.6f}" for value in values)])
    return text.getvalue()


def _percent(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.2%} (95% interval {values[1]:.2%} to {values[2]:.2%})"


def _json(facts: dict) -> bytes:
    return (json.dumps(_plain(facts), indent=1, ensure_ascii=False) + "\n").encode()


def _plain(value):
    """As JSON knows it: arrays become lists, NaN becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
