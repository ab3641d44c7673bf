"""One run's evaluation, or several runs side by side, as text and as files: JSON, CSV and PNG."""

import csv
import json
from pathlib import Path

import numpy as np

from cifar_utils import evaluation, evaluation_plots, plots
from cifar_utils.calibration import fit_temperature, reliability, with_temperature
from cifar_utils.comparison import Comparison
from cifar_utils.data import CLASSES
from cifar_utils.predictions import Predictions


def report(predictions: Predictions, title: str, validation: Predictions | None = None) -> str:
    """Accuracy with its interval, calibration, class by class, and the largest confusions, as text.

    Args:
        validation: the same network's predictions of the validation split; with it, the temperature is fitted.
    """
    matrix = evaluation.confusion_matrix(predictions)
    lines = [title, f"accuracy {_share(evaluation.proportion(predictions.correct))}"]
    if predictions.probabilities is not None:
        lines[-1] += f", loss {predictions.loss:.4f}"
        lines.append(f"top-3    {_share(evaluation.proportion(evaluation.top_k(predictions, 3)))}")
        error = reliability(predictions).expected_calibration_error
        lines.append(f"expected calibration error {error:.2%} (15 equally wide bins)")
        if validation is not None:
            temperature = fit_temperature(validation)
            after = reliability(with_temperature(predictions, temperature)).expected_calibration_error
            lines[-1] += f"; {after:.2%} at the temperature {temperature:.2f}, fitted on validation"
    if predictions.split == "test":
        rest = evaluation.without_label_errors(predictions)
        doubted = len(predictions) - len(rest)
        if doubted and len(rest):
            lines.append(f"accuracy without the {doubted} known label errors: {rest.accuracy:.2%}")
    return "\n".join([*lines, "", classwise_table(matrix), "", evaluation.confusions(matrix)])


def classwise_table(matrix: np.ndarray) -> str:
    """Recall, precision and F1 of each class with their intervals, as text."""
    metrics = evaluation.classwise(matrix)
    names = {"recall": "recall (accuracy)"}
    lines = [f"  {'':<12}" + "".join(f"{names.get(name, name):<26}" for name in metrics).rstrip()]
    for i, name in enumerate(CLASSES):
        cells = (
            "   n/a" if np.isnan(value) else f"{value:6.1%}  ({low:.1%} to {high:.1%})"
            for value, low, high in (metric[i] for metric in metrics.values())
        )
        lines.append(f"  {name:<12}" + "".join(f"{cell:<26}" for cell in cells).rstrip())
    return "\n".join(lines)


def write(
    folder: Path, predictions: Predictions, title: str, about: dict, validation: Predictions | None = None
) -> list[str]:
    """Writes report.json, classes.csv, predictions.csv and the figures into a folder; returns their names.

    Args:
        about: JSON-like facts that go into report.json first: which run, which data.
        validation: see `report`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix = evaluation.confusion_matrix(predictions)
    metrics = evaluation.classwise(matrix)
    facts = about | {
        "split": predictions.split,
        "images": len(predictions),
        "accuracy": predictions.accuracy,
        "accuracy_interval": evaluation.proportion(predictions.correct)[1:],
        "classwise_accuracy": dict(zip(CLASSES, metrics["recall"][:, 0])),
        "confusion_matrix": matrix,
        "confusion_matrix_normalised": evaluation.normalised(matrix),
    }
    summary, recall = evaluation.confusions(matrix), metrics["recall"]
    figures = {
        "confusion_matrix.png": evaluation_plots.confusion_matrix(matrix, CLASSES, title, summary),
        "class_accuracy.png": evaluation_plots.class_accuracy(recall[:, 0], recall[:, 1:], CLASSES, title),
    }
    if predictions.probabilities is not None:
        bins = reliability(predictions)
        top3 = evaluation.proportion(evaluation.top_k(predictions, 3))
        facts |= {"loss": predictions.loss, "top3_accuracy": top3[0], "top3_interval": top3[1:]}
        facts["expected_calibration_error"] = bins.expected_calibration_error
        curves = {"as trained": bins}
        if validation is not None:
            facts["temperature"] = fit_temperature(validation)
            after = reliability(with_temperature(predictions, facts["temperature"]))
            facts["expected_calibration_error_at_that_temperature"] = after.expected_calibration_error
            curves[f"at temperature {facts['temperature']:.2f}"] = after
        figures["reliability.png"] = evaluation_plots.reliability_diagram(curves, title)
    for name, figure in figures.items():
        plots.save(figure, folder / name)
    predictions.save(folder / "predictions.csv")
    _write_classes(folder / "classes.csv", metrics)
    (folder / "report.json").write_text(json.dumps(_plain(facts), indent=1) + "\n")
    return ["report.json", "classes.csv", "predictions.csv", *figures]


def write_comparison(folder: Path, runs: dict[str, Predictions], comparisons: dict[str, Comparison]) -> list[str]:
    """Writes comparison.json and comparison.png; returns their names.

    Args:
        runs: name -> predictions, the first being the one that the others are compared with.
        comparisons: name -> the first run compared with it, for each but the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shares = {name: evaluation.proportion(p.correct) for name, p in runs.items()}
    facts = {
        "accuracy": {name: {"value": s[0], "interval": s[1:]} for name, s in shares.items()},
        "compared_with": next(iter(runs)),
        "comparisons": {
            name: {
                "difference": c.difference,
                "interval": c.interval,
                "p_value_mcnemar_exact": c.p_value,
                "images_only_the_first_gets_right": c.only_first,
                "images_only_the_second_gets_right": c.only_second,
            }
            for name, c in comparisons.items()
        },
    }
    (folder / "comparison.json").write_text(json.dumps(_plain(facts), indent=1) + "\n")
    plots.save(evaluation_plots.run_accuracies(shares, "Runs compared"), folder / "comparison.png")
    return ["comparison.json", "comparison.png"]


def _write_classes(path: Path, metrics: dict[str, np.ndarray]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"{name}{end}" for name in metrics for end in ("", "_low", "_high"))])
        for i, name in enumerate(CLASSES):
            values = np.concatenate([metric[i] for metric in metrics.values()])
            writer.writerow([name, *("n/a" if np.isnan(value) else f"{value:.6f}" for value in values)])


def _share(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.2%} (95 % interval {values[1]:.2%} to {values[2]:.2%})"


def _plain(value):
    """As JSON knows it: arrays become lists, NaN becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
