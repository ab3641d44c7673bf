"""The report: text worked out by hand, and files that say the same."""

import csv
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from tables import certain, random_predictions

from cifar_utils import evaluation, report
from cifar_utils.calibration import fit_temperature
from cifar_utils.comparison import compare
from cifar_utils.data import CLASSES
from cifar_utils.predictions import Predictions


def test_the_report():
    p = certain([0] * 4 + [1] * 2, [0, 0, 0, 8, 1, 1])
    lines = report.report(p, "Six images").splitlines()
    assert lines[:6] == [
        "Six images",
        f"accuracy 83.33% (95 % interval 43.65% to 96.99%), loss {-math.log(1e-12) / 6:.4f}",
        "top-3    100.00% (95 % interval 60.97% to 100.00%)",  # of equals, airplane and automobile come first
        "expected calibration error 16.67% (15 equally wide bins)",
        "",
        "              recall (accuracy)         precision                 F1",
    ]
    assert lines[6].split("  ")[1].strip() == "airplane"
    assert (
        re.sub(" +", " ", lines[6])
        == " airplane 75.0% (30.1% to 95.4%) 100.0% (43.9% to 100.0%) 85.7% (46.2% to 97.7%)"
    )
    assert lines[8].split() == ["bird", "n/a", "n/a", "n/a"] and lines[14].split()[:2] == ["ship", "n/a"]
    assert lines[14].split()[2] == "0.0%"
    assert lines[-1] == "airplane is called ship 25.0% of the time."
    assert "loss 0.0000" in report.report(certain([3], [3]), "perfect")


def test_the_report_with_validation_and_of_classes_alone():
    p, validation = random_predictions(0), random_predictions(1, split="validation")
    temperature = fit_temperature(validation)
    assert f"at the temperature {temperature:.2f}, fitted on validation" in report.report(p, "t", validation)
    bare = report.report(Predictions(p.index, p.labels, predicted=p.predicted), "t")
    assert "loss" not in bare and "top-3" not in bare and "calibration" not in bare and "accuracy" in bare


def test_the_report_names_the_label_errors_that_are_there():
    p = certain([1, 2, 3], [1, 2, 4])
    doubted = Predictions(np.array([7, 8, 2405]), p.labels, p.probabilities)
    assert "accuracy without the 1 known label errors: 100.00%" in report.report(doubted, "t")
    assert "label errors" not in report.report(p, "t")


def test_the_files_say_what_the_report_says(tmp_path):
    p, validation = random_predictions(0), random_predictions(1, split="validation")
    p = p.select(p.labels != 3)  # no cats
    names = report.write(tmp_path / "new", p, "title", {"run": "mine"}, validation)
    assert set(names) == {path.name for path in (tmp_path / "new").iterdir()}

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    facts = json.loads((tmp_path / "new" / "report.json").read_text(), parse_constant=forbidden)
    matrix = evaluation.confusion_matrix(p)
    assert facts["run"] == "mine" and facts["images"] == len(p)
    assert facts["accuracy"] == p.accuracy and facts["confusion_matrix"] == matrix.tolist()
    assert facts["classwise_accuracy"]["cat"] is None and facts["confusion_matrix_normalised"][3] == [None] * 10
    assert facts["temperature"] == pytest.approx(fit_temperature(validation))
    with (tmp_path / "new" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES) and rows[3]["recall"] == "n/a"
    found = evaluation.classwise(matrix)
    assert float(rows[5]["precision_low"]) == pytest.approx(found["precision"][5, 1], abs=1e-6)
    assert (Predictions.load(tmp_path / "new" / "predictions.csv").probabilities == p.probabilities).all()
    for name in ("confusion_matrix.png", "class_accuracy.png", "reliability.png"):
        with Image.open(tmp_path / "new" / name) as image:
            assert len(image.text["Description"]) > 40


def test_classes_alone_give_the_files_that_they_can(tmp_path):
    p = random_predictions(0)
    names = report.write(tmp_path, Predictions(p.index, p.labels, predicted=p.predicted), "t", {})
    assert "reliability.png" not in names and "class_accuracy.png" in names
    assert "loss" not in json.loads((tmp_path / "report.json").read_text())


def test_the_comparison_of_several(tmp_path):
    p = random_predictions(0)
    q = Predictions(p.index, p.labels, np.roll(p.probabilities, 1, 1))
    runs = {"a": p, "b": q}
    assert report.write_comparison(tmp_path, runs, {"b": compare(p, q)}) == ["comparison.json", "comparison.png"]
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert facts["accuracy"]["b"]["value"] == q.accuracy and facts["compared_with"] == "a"
    assert facts["comparisons"]["b"]["p_value_mcnemar_exact"] == compare(p, q).p_value
    assert len(facts["comparisons"]["b"]["images_only_the_first_gets_right"]) == len(compare(p, q).only_first)
