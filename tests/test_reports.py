"""The report: text worked out by hand, and files with the same content."""

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tables import certain, names, random_predictions

from cifar_utils.data import CIFAR10_CLASSES
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation.calibration import fit_temperature
from cifar_utils.evaluation.comparison import compare
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.evaluation.reports import folder_for, report, write, write_comparison


def test_the_report():
    p = certain([0] * 4 + [1] * 2, [0, 0, 0, 8, 1, 1])
    lines = report(p, "Mine").splitlines()
    assert lines[:6] == [
        "Mine: 6 test images",
        f"accuracy 83.33% (95% interval 43.65% to 96.99%), loss {-math.log(1e-12) / 6:.4f}",
        "top-3    100.00% (95% interval 60.97% to 100.00%)",  # of equals, airplane and automobile come first
        "expected calibration error 16.67% (15 equally wide bins; by chance alone about 0.00%)",
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
    assert lines[-1] == "airplane is predicted as ship 25.0% of the time (1 of 4)."
    assert "loss 0.0000" in report(certain([3], [3]))


@pytest.mark.parametrize("split", ["training", "validation", "test"])
@pytest.mark.parametrize("title", ["", "Test accuracy", "$\\frac$ 猫"])
def test_the_first_line_always_names_split_and_source(split, title):
    p = random_predictions(0, split=split, source="SAMPLE")
    assert report(p, title).splitlines()[0] == f"{title}: SAMPLE, 200 {split} images".removeprefix(": ")


def test_the_report_with_validation_and_of_classes_alone():
    p, validation = random_predictions(0), random_predictions(1, split="validation")
    temperature = fit_temperature(validation)
    assert f"at the temperature {temperature:.2f}, fitted on {len(validation):,} validation images" in report(
        p, "t", validation=validation
    )
    bare = report(replace(p, probabilities=None))
    assert "loss" not in bare and "top-3" not in bare and "calibration" not in bare and "accuracy" in bare


def test_where_all_validation_images_are_right_no_temperature_is_claimed(tmp_path):
    p, validation = random_predictions(0), certain([1, 2], [1, 2], 0.9, "validation")
    words = "no temperature fits best, since all 2 validation images are predicted correctly"
    assert words in report(p, "t", validation=validation)
    write(tmp_path, p, validation=validation)
    assert "temperature" not in json.loads((tmp_path / "report.json").read_text())


def test_validation_predictions_that_do_not_belong_are_refused(tmp_path):
    p, validation = random_predictions(0, model="a"), random_predictions(1, split="validation", model="a")
    report(p, validation=validation)
    with pytest.raises(ValueError, match="the title is a Predictions; to fit a temperature, write validation="):
        report(p, validation)
    for match, predictions, wrong in (
        ("another network", p, replace(validation, model="b")),
        ("classes of the validation predictions are others", p, replace(validation, classes=names(10)[::-1])),
        ("on the validation split only, not on 200 test images", p, replace(p, model="a")),
        ("cannot be judged on the validation images", validation, validation),
    ):
        with pytest.raises(ValueError, match=match):
            report(predictions, validation=wrong)
        with pytest.raises(ValueError, match=match):
            write(tmp_path / "x", predictions, validation=wrong)
    assert not (tmp_path / "x").exists()  # nothing is half written


def test_the_report_names_the_label_errors_that_are_there():
    p = certain([1, 2, 3], [1, 2, 4], source="CIFAR-10")
    doubted = replace(p, index=[7, 8, 2405])
    assert "accuracy without the 1 known label errors 100.00% (" in report(doubted)
    for other in (p, replace(doubted, source="birds"), replace(doubted, split="validation"), doubted.select([2])):
        assert "label errors" not in report(other)


def test_few_and_many_classes():
    assert "top-" not in report(random_predictions(0, classes=2)) + report(random_predictions(0, classes=3))
    assert "top-3 " in report(random_predictions(0, classes=4))
    assert len(re.findall(r"^  class \d+ ", report(random_predictions(0, classes=20)), re.M)) == 20
    p = random_predictions(0, 5000, classes=100)
    text = report(p)
    assert (
        "top-5 " in text and "By recall, the 10 best and the 10 worst of 100 classes (on other images, expect" in text
    )
    listed = [int(i) for i in re.findall(r"^  class (\d+) ", text, re.M)]
    recall = metrics.per_class(metrics.confusion_matrix(p))["recall"][:, 0]
    assert len(listed) == 20 and recall[listed[:10]].min() >= np.sort(recall)[-10]
    assert recall[listed[10:]].max() <= np.sort(recall)[9]


def test_long_names_do_not_break_the_table():
    p = replace(random_predictions(0, classes=3), classes=("a" * 40, "猫", "c"))
    rows = [line for line in report(p).splitlines() if re.match("  [a猫c]", line)]
    assert len({line.index("%") for line in rows}) == 1


def test_the_files_hold_what_the_report_states(tmp_path):
    p, validation = random_predictions(0, model="a"), random_predictions(1, split="validation", model="a")
    p = p.select(p.labels != 3)  # no cats
    found = write(tmp_path / "new", p, "title", {"run": "mine"}, validation)
    assert set(found) == {path.name for path in (tmp_path / "new").iterdir()}

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    facts = json.loads((tmp_path / "new" / "report.json").read_text(), parse_constant=forbidden)
    matrix = metrics.confusion_matrix(p)
    assert facts["run"] == "mine" and facts["images"] == len(p) and facts["title"] == f"title: {len(p)} test images"
    assert facts["accuracy"] == p.accuracy and facts["confusion_matrix"] == matrix.tolist()
    assert facts["class_accuracy"]["cat"] is None and facts["confusion_matrix_normalized"][3] == [None] * 10
    assert facts["temperature"] == pytest.approx(fit_temperature(validation)) and facts["model"] == "a"
    assert facts["top3_accuracy"] == metrics.top_k(p, 3).mean() and facts["classes"] == list(CIFAR10_CLASSES)
    with (tmp_path / "new" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CIFAR10_CLASSES) and rows[3]["recall"] == "n/a"
    values = metrics.per_class(matrix)
    assert float(rows[5]["precision_low"]) == pytest.approx(values["precision"][5, 1], abs=1e-6)
    assert (Predictions.load(tmp_path / "new" / "predictions.csv").probabilities == p.probabilities).all()
    for name in ("confusion_matrix.png", "class_accuracy.png", "reliability.png"):
        with Image.open(tmp_path / "new" / name) as image:
            assert len(image.text["Description"]) > 40
            assert image.text["Description"].startswith(f"title: {len(p)} test images")


def test_the_most_confident_errors_become_a_figure_without_rejected_labels(tmp_path, monkeypatch):
    from cifar_utils import data, plots

    test = data.cifar10(train=False, sample=True).select(torch.arange(40))
    rng = np.random.default_rng(0)
    p = Predictions.from_array(rng.dirichlet(np.ones(10), len(test)), test)
    rejected = int(p.index[metrics.most_confident_errors(p)[0]])
    monkeypatch.setattr(metrics, "label_errors", lambda: {rejected})
    shown, draw = [], plots.image_grid
    monkeypatch.setattr(plots, "image_grid", lambda *args, **options: shown.append(args) or draw(*args, **options))
    assert "errors.png" in write(tmp_path, p, images=test)
    images, captions, title = shown[0]
    kept = metrics.without_label_errors(p)
    rows = metrics.most_confident_errors(kept)
    assert len(images) == len(rows) == 16 and rejected not in kept.index[rows]
    for image, caption, row in zip(images, captions, rows):
        assert torch.equal(image, test.images[test.index == int(kept.index[row])][0])
        assert caption == (
            f"{test.classes[kept.predicted[row]]} {kept.confidence[row]:.1%}\nlabel: {test.classes[kept.labels[row]]}"
        )
    assert "errors.png" not in write(tmp_path / "right", p.select(np.flatnonzero(p.correct)), images=test)


def test_classes_alone_give_the_files_that_they_can(tmp_path):
    p = random_predictions(0)
    found = write(str(tmp_path), replace(p, probabilities=None))
    assert "reliability.png" not in found and "class_accuracy.png" in found
    assert "loss" not in json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize("classes", [2, 100])
def test_any_number_of_classes(tmp_path, classes):
    write(tmp_path, random_predictions(0, classes=classes))
    with (tmp_path / "classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == classes
    assert len(json.loads((tmp_path / "report.json").read_text())["confusion_matrix"]) == classes
    assert Predictions.load(tmp_path / "predictions.csv").classes == names(classes)


def test_names_that_matplotlib_would_take_for_formulas(tmp_path):
    p = replace(random_predictions(0, classes=3), classes=("$\\frac$", "a $5 bill $x", "猫"), source="$\\bad$")
    found = write(tmp_path, p, "$\\frac$", validation=replace(p, split="validation"))
    assert "reliability.png" in found
    write_comparison(tmp_path, {"$\\frac$": p, "$x$": p}, {"$x$": compare(p, p)})
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        assert image.text["Description"].startswith("$\\frac$: $\\bad$: 200 test images.")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["classes"][2] == "猫"


def test_two_inputs_have_two_folders(tmp_path):
    for name in ("a.npy", "a.csv"):
        (tmp_path / name).touch()
    run = tmp_path / "a"
    run.mkdir()
    folders = [folder_for(path) for path in (tmp_path / "a.npy", str(tmp_path / "a.csv"), run)]
    assert folders == [tmp_path / "a.npy_evaluation", tmp_path / "a.csv_evaluation", run / "evaluation"]


def test_files_are_never_written_through_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "evaluation"
    folder.mkdir()
    found = write(folder, random_predictions(0))
    for name in (*found, "comparison.json", "comparison.png"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    write(folder, random_predictions(0))
    write_comparison(folder, {"a": random_predictions(0)}, {})
    assert target.read_text() == "mine"


def test_the_comparison_of_several(tmp_path):
    p = random_predictions(0)
    q = replace(p, probabilities=np.roll(p.probabilities, 1, 1), predicted=None)
    tables = {"a": p, "b": q}
    result = compare(p, q)
    assert write_comparison(tmp_path, tables, {"b": result}) == ["comparison.json", "comparison.png"]
    with Image.open(tmp_path / "comparison.png") as picture:
        assert f"({100 * result.difference:+.2f} points, {result.p_in_words})" in picture.text["Description"]
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert facts["accuracy"]["b"]["value"] == q.accuracy and facts["compared_with"] == "a"
    assert facts["comparisons"]["b"]["p_value_mcnemar_exact"] == compare(p, q).p_value
    assert len(facts["comparisons"]["b"]["images_only_the_first_gets_right"]) == len(compare(p, q).only_first)
    assert facts["comparisons"]["b"]["identical"] is False and facts["images"] == "200 test images"
