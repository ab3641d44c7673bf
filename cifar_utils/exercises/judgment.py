"""Exercises of notebook 4: reading a matrix, choosing fairly, finding a leak, and defending a result."""

import numpy as np

from cifar_utils.evaluation.comparison import Comparison, compare
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.exercises.core import RIGHT, Wrong, exercise

MATRIX = np.array([[70, 20, 10], [15, 80, 5], [5, 0, 95]])  # cat, dog, frog: true classes in rows


@exercise(
    "4.1",
    "Predict",
    "Recall and precision",
    hints=(
        "Rows are true classes, columns are predicted ones.",
        "Recall: of the true cats, how many are predicted as cats? So look at one row.",
        "Precision: of the images predicted as cat, how many are cats? So look at one column.",
    ),
    wrong={
        "swapped": Wrong(
            "recall and precision swapped", "answer = (70 / 90, 0.7)", "You have both, in the wrong order."
        ),
        "accuracy": Wrong(
            "the accuracy of all classes",
            "answer = (245 / 300, 245 / 300)",
            "This is the accuracy of all classes. Look at the cats.",
        ),
        "recall": Wrong(
            "the column's sum for both",
            "answer = (70 / 90, 70 / 90)",
            "The recall is not right: which cells are true cats?",
        ),
        "precision": Wrong(
            "the row's sum for both",
            "answer = (0.7, 0.7)",
            "The precision is not right: which cells are predicted as cat?",
        ),
        "percent": Wrong("percent instead of fractions", "answer = (70, 78)", "Hand in fractions from 0 to 1."),
        "pair": Wrong("one number", "answer = 0.7", "Hand in two numbers: (recall, precision)."),
        "other": Wrong(
            "other cells", "answer = (0.8, 0.5)", "Neither is right. First find the 70 cats that are predicted as cats."
        ),
    },
    meaning="The network finds 70% of the cats, and 78% of its predictions of a cat are right.",
    sound=("answer = (0.7, 0.778)", "answer = [70 / 100, 70 / (70 + 15 + 5)]"),
)
def recall_and_precision(answer) -> str:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "pair"
    if max(answer) > 1:
        return "percent"
    wanted = MATRIX[0, 0] / MATRIX[0].sum(), MATRIX[0, 0] / MATRIX[:, 0].sum()
    if np.allclose(answer, wanted[::-1], atol=0.006):
        return "swapped"
    if np.allclose(answer, MATRIX.trace() / MATRIX.sum(), atol=0.006):
        return "accuracy"
    recall, precision = (not np.isclose(a, b, atol=0.006) for a, b in zip(answer, wanted))  # is it wrong?
    return "other" if recall and precision else "recall" if recall else "precision" if precision else RIGHT


HISTORY = [
    {"epoch": 1, "training_loss": 1.20, "validation_loss": 1.10, "validation_accuracy": 0.61, "test_accuracy": 0.60},
    {"epoch": 2, "training_loss": 0.80, "validation_loss": 0.85, "validation_accuracy": 0.71, "test_accuracy": 0.70},
    {"epoch": 3, "training_loss": 0.60, "validation_loss": 0.80, "validation_accuracy": 0.73, "test_accuracy": 0.71},
    {"epoch": 4, "training_loss": 0.45, "validation_loss": 0.84, "validation_accuracy": 0.72, "test_accuracy": 0.74},
    {"epoch": 5, "training_loss": 0.30, "validation_loss": 0.95, "validation_accuracy": 0.71, "test_accuracy": 0.71},
]
CHOOSE = "def answer(history):\n    return "


@exercise(
    "4.2",
    "Repair",
    "The best epoch",
    hints=(
        "On which images may a choice depend?",
        "The accuracy of the chosen epoch is reported on the test images afterwards. So they must not choose.",
        "Use a column whose name starts with validation.",
    ),
    wrong={
        "test": Wrong(
            "chosen on the test set",
            CHOOSE + 'max(history, key=lambda row: row["test_accuracy"])["epoch"]',
            "The function still chooses by test images. Part of the accuracy that it reports would be luck.",
        ),
        "training": Wrong(
            "chosen by training loss",
            CHOOSE + 'min(history, key=lambda row: row["training_loss"])["epoch"]',
            "The training loss falls as long as you train: it cannot tell when the network starts to memorize.",
        ),
        "last": Wrong(
            "always the last epoch",
            CHOOSE + 'history[-1]["epoch"]',
            "This is the last epoch, whatever happened before.",
        ),
        "direction": Wrong(
            "the largest loss",
            CHOOSE + 'max(history, key=lambda row: row["validation_loss"])["epoch"]',
            "This is the epoch with the largest validation loss. Which direction is better?",
        ),
        "row": Wrong(
            "the whole row",
            CHOOSE + 'min(history, key=lambda row: row["validation_loss"])',
            "Return the number of the epoch, not the whole row.",
        ),
        "other": Wrong(
            "an epoch typed in", CHOOSE + "2", "With another history, this returns an epoch that is not the best one."
        ),
    },
    meaning="The test images stay unused until the epoch is chosen.",
    sound=(
        CHOOSE + 'min(history, key=lambda row: row["validation_loss"])["epoch"]',
        CHOOSE + 'max(history, key=lambda row: row["validation_accuracy"])["epoch"]',
    ),
)
def best_epoch(answer) -> str:
    shifted = [row | {"epoch": row["epoch"] + 10} for row in HISTORY]
    found = [answer([dict(row) for row in history]) for history in (HISTORY, shifted)]
    if any(isinstance(x, dict) for x in found):
        return "row"
    if found[1] - found[0] != 10:
        return "other"
    lucky = [row | {"test_accuracy": 0.99 if row["epoch"] == 1 else 0.0} for row in HISTORY]
    for reply, history in (("test", lucky), ("other", HISTORY[1:]), ("other", HISTORY[:-1])):  # other: a fixed place
        if found[0] == 3 and answer([dict(row) for row in history]) != 3:
            return reply
    return {3: RIGHT, 4: "test", 5: _last_or_training(answer), 1: "direction"}.get(found[0], "other")


def _last_or_training(answer) -> str:
    turned = [dict(row) for row in HISTORY[::-1]]
    return "training" if answer(turned) == 5 else "last"


# Exercise 4.3: the letters of those with a leak, and why the others are in order.
LEAKS = {"a", "c", "d"}
FAIR = {
    "b": "In b: the choice depends on validation images only, and the report on test images.",
    "e": "In e: averaging over views was decided on validation images.",
}


@exercise(
    "4.3",
    "Explore",
    "Find the leak",
    hints=(
        "For each of the five: on which images is the accuracy reported, and what else depended on these images?",
        "Three of the five report an accuracy that cannot be trusted.",
        "What was measured, divided or chosen before the report, and did a reported image take part in it?",
    ),
    wrong={
        "missed": Wrong(
            "a leak that is overlooked",
            'answer = {"a", "c"}',
            "What you have is right, and at least one is missing. For each of the others: did the images behind "
            "the reported accuracy, or copies of them, take part in training, in a measurement or in a choice?",
        ),
        "extra": Wrong(
            "a fair set-up suspected",
            'answer = {"a", "b", "c", "d"}',
            "At least one of the letters you gave has no leak. {which}",
        ),
        "both": Wrong(
            "a leak overlooked and a fair set-up suspected",
            'answer = {"b", "c"}',
            "At least one of the letters you gave has no leak, and at least one leak is missing. {which}",
        ),
        "all": Wrong(
            "all suspected",
            'answer = set("abcde")',
            "Not all of them: in some, nothing depends on the images behind the reported accuracy.",
        ),
        "letters": Wrong("something other than letters", "answer = [1, 3]", 'Hand in letters, as in {{"a", "b"}}.'),
    },
    meaning="In each of the three, the images behind the reported accuracy, or copies of them, took part in "
    "training (a), in a choice (c) or in a measurement (d).",
    sound=('answer = {"a", "c", "d"}', 'answer = ["d", "C", "a"]', 'answer = "acd"'),
)
def leaks(answer) -> str | tuple[str, dict]:
    letters = {str(letter).lower() for letter in answer}
    if not letters or not letters <= set("abcde"):
        return "letters"
    missed, extra = LEAKS - letters, sorted(letters - LEAKS)
    if letters == set("abcde"):
        return "all"
    if missed and extra:
        return "both", {"which": FAIR[extra[0]]}
    if missed:
        return "missed"
    return ("extra", {"which": FAIR[extra[0]]}) if extra else RIGHT


CLAIMS = ("the first is better", "the second is better", "cannot tell")


@exercise(
    "4.4",
    "Code",
    "Defend your result",
    hints=(
        "compare(first, second) prints the difference, its interval and p.",
        "If p is 0.05 or more, these images cannot tell which one is better.",
        "The sign tells the direction: the difference is the second's accuracy minus the first's.",
    ),
    wrong={
        "parts": Wrong(
            "two accuracies instead of predictions",
            'answer = (0.84, 0.82, "the first is better")',
            "Hand in (first, second, claim): two tables from predict, and one of the claims.",
        ),
        "claim": Wrong(
            "a claim in other words", 'answer = (first, second, "mine is best")', "The claim must be one of: {claims}."
        ),
        "direction": Wrong(
            "the sign of the difference misread",
            'answer = (first, second, "the first is better")',
            "The difference is {points:+.1f} points: second minus first.",
        ),
        "chance": Wrong(
            "a difference within chance",
            'answer = (first, first_changed, "the second is better")',
            "p is {p:.2g}: if both were equally good, a count this uneven would not be unusual.",
        ),
        "sure": Wrong(
            "doubt where there is none",
            'answer = (first, second, "cannot tell")',
            "p is {p:.2g}: if both were equally good, a count this uneven would be rare.",
        ),
        "training": Wrong(
            "compared on training images",
            'answer = (memorized, memorized_changed, "the second is better")',
            "These are training images: a network may know them by heart. Compare on validation images.",
        ),
        "same": Wrong(
            "the same run twice",
            'answer = (first, first, "cannot tell")',
            "Both tables hold the same predictions. Compare two runs.",
        ),
    },
    meaning="Your claim follows from the paired comparison. Report the interval of the difference with it. It is about "
    "these two networks: for the policies or optimizers behind them, train several seeds of each.",
    sound=(
        'answer = (first, second, "the second is better")',
        'answer = (second, first, "the first is better")',
        'answer = (first, first_changed, "cannot tell")',
    ),
)
def defended(answer) -> str | tuple[str, dict]:
    if (
        not isinstance(answer, (tuple, list))
        or len(answer) != 3
        or not all(isinstance(p, Predictions) for p in answer[:2])
    ):
        return "parts"
    first, second, claim = answer
    if claim not in CLAIMS:
        return "claim", {"claims": "; ".join(CLAIMS)}
    if "training" in (first.split, second.split):
        return "training"
    result = compare(first, second)
    if result.identical:
        return "same"
    truth = verdict(result)
    if claim == truth:
        return RIGHT
    if truth == "cannot tell":
        return "chance", {"p": result.p_value}
    return (
        ("sure", {"p": result.p_value})
        if claim == "cannot tell"
        else ("direction", {"points": 100 * result.difference})
    )


def verdict(result: Comparison) -> str:
    """What a paired comparison supports, one of CLAIMS."""
    if result.p_value >= 0.05:
        return CLAIMS[2]
    return CLAIMS[1] if result.difference > 0 else CLAIMS[0]


@exercise(
    "4.5",
    "Code",
    "Paired counts",
    hints=(
        "For each image there are two truth values. Which two combinations tell the networks apart?",
        "With NumPy: & is and, ~ is not, and .sum() counts.",
    ),
    wrong={
        "totals": Wrong(
            "how many each has correct",
            "def answer(a, b):\n    return a.sum(), b.sum()",
            "These are all correct images of each. Count those on which exactly one is correct.",
        ),
        "swapped": Wrong(
            "the two in the other order",
            "def answer(a, b):\n    return (~a & b).sum(), (a & ~b).sum()",
            "You have both counts, in the wrong order: first those that only a predicts correctly.",
        ),
        "agree": Wrong(
            "the images on which both agree",
            "def answer(a, b):\n    return (a & b).sum(), (~a & ~b).sum()",
            "On these images both are right, or both are wrong: they cannot show which network is better.",
        ),
        "other": Wrong(
            "the difference of the sums",
            "def answer(a, b):\n    return a.sum() - b.sum(), 0",
            "Return two counts: only a correct, only b correct.",
        ),
    },
    meaning="McNemar's test needs only these two counts.",
    sound=(
        "def answer(a, b):\n    return (a & ~b).sum(), (~a & b).sum()",
        "def answer(a, b):\n    return sum(x and not y for x, y in zip(a, b)), sum(y and not x for x, y in zip(a, b))",
    ),
    core=False,
)
def paired_counts(answer) -> str:
    a, b = (np.array([c == "1" for c in text]) for text in ("1111110010", "1111000001"))
    replies: dict[tuple, str] = {(3, 1): RIGHT, (1, 3): "swapped", (7, 5): "totals", (4, 2): "agree"}
    return replies.get(tuple(int(x) for x in answer(a, b)), "other")


CURVE = "curve = np.array([[-30, 0.55], [-15, 0.72], [0, 0.8], [15, 0.75], [30, 0.66], [45, 0.5], [60, 0.4]])\n"


@exercise(
    "4.6",
    "Explore",
    "Where robustness ends",
    hints=(
        "Each row of a curve is severity, accuracy, and the ends of its interval. Severity 0 is the image as it is.",
        "Subtract 0.1 from the accuracy at 0. Which positive angles are below that?",
        "NumPy chooses rows by a condition: curve[curve[:, 0] > 0] has the positive angles only.",
    ),
    wrong={
        "parts": Wrong("the angle alone", "answer = 30", "Hand in (curve, angle), with the curve of robustness_curve."),
        "unknown": Wrong(
            "an angle between two points",
            CURVE + "answer = (curve, 25)",
            "The curve has no positive angle {angle}. It has {angles}.",
        ),
        "early": Wrong(
            "the first angle at which anything is lost",
            CURVE + "answer = (curve, 15)",
            "At {angle} degrees it has fallen by {points:.1f} points only.",
        ),
        "late": Wrong(
            "the lowest accuracy",
            CURVE + "answer = (curve, 60)",
            "At a smaller angle it has already fallen by more than 10 points.",
        ),
        "never": Wrong(
            "the end of the curve overlooked",
            CURVE + "answer = (curve, None)",
            "Somewhere on the curve it has fallen by {points:.1f} points.",
        ),
    },
    meaning="At every smaller angle that was measured, the accuracy stays within 10 points of that on upright images: "
    "say so in your report.",
    sound=(
        CURVE + "answer = (curve, 30)",
        CURVE + "answer = (curve[:4], None)",
    ),
    core=False,
)
def robust_until(answer) -> str | tuple[str, dict]:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or np.ndim(answer[0]) != 2:
        return "parts"
    curve, angle = np.asarray(answer[0], float), answer[1]
    whole = curve[curve[:, 0] == 0, 1][0]
    # Rounded: a fall by 10 points exactly is not more than 10, whatever the last bits say.
    lost = {severity: round(100 * (whole - value), 6) for severity, value in curve[:, :2].tolist() if severity > 0}
    if angle is None:
        most = max(lost.values(), default=0.0)  # not where, which may be the answer
        return ("never", {"points": most}) if most > 10 else RIGHT
    if angle not in lost:
        return "unknown", {"angle": angle, "angles": ", ".join(f"{severity:g}" for severity in lost)}
    if lost[angle] <= 10:
        return "early", {"angle": f"{angle:g}", "points": lost[angle]}
    return "late" if any(lost[severity] > 10 for severity in lost if severity < angle) else RIGHT
