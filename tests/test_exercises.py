"""Exercises: the stub says "not yet", sound answers pass, each wrong answer gets its own reply, and nothing leaks."""

import difflib
import re
import shutil
from dataclasses import replace

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from cells import run_cell
from nbclient import NotebookClient
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar_utils import checkpoint, data, fit, network_file, settings
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.exercises import EXERCISES, check, core, hint, quiz, solution
from cifar_utils.exercises.core import is_stub
from cifar_utils.exercises.quizzes import QUIZZES
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.train import steps
from tools import make_exercises

SOLUTIONS = make_exercises.ROOT / "notebooks" / "exercises" / "solutions"
CELLS = [cell for source in sorted(core.SOURCE.glob("*.py")) for cell in jupytext.read(source).cells]
WRONG = [(key, name) for key, exercise in EXERCISES.items() for name in exercise.wrong]
SOUND = [(key, number) for key, exercise in EXERCISES.items() for number in range(len(exercise.sound))]


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """Right answers are saved in a folder of the test's own; hints are counted anew."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    core._hints_given.clear()


def part(key: str, name: str) -> str:
    """The code of an exercise's stub or solution."""
    (cell,) = (c for c in CELLS if (c.metadata.get("exercise"), c.metadata.get("part")) == (key, name))
    return cell.source


def tiny_run(name: str, stop: bool = False, transform=PRESETS["full"], seed: int = 0, begin: bool = True):
    """A finished run of one epoch, a stopped one, or one that never began, in the folder of all runs."""
    if not begin:
        shutil.copytree(tiny_run("stopped", stop=True), settings.runs_directory() / name)
        for path in (settings.runs_directory() / name).iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "run.json":
                path.unlink()
        return settings.runs_directory() / name
    train, val = data.split(data.cifar10(sample=True), seed=seed)
    train = train.select(torch.arange(60))
    model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(widths=(4, 4, 4)))
    options = {"transform": transform, "epochs": 1, "batch_size": 30, "run": settings.runs_directory() / name}
    if not stop:
        fit(model, train, val, **options)
    else:
        for state in steps(model, train, val, **options):
            state.stop = True
    return settings.runs_directory() / name


def table_of(correct: int) -> Predictions:
    """100 predictions of two classes, the first so many of them correct."""
    labels = np.zeros(100, dtype=np.int64)
    probabilities = np.tile([0.2, 0.8], (100, 1)).astype(np.float32)
    probabilities[:correct] = [0.8, 0.2]
    about = {"classes": ("cat", "dog"), "split": "validation", "source": "made up"}
    return Predictions(np.arange(100), labels, probabilities, **about)


def run(code: str) -> dict:
    """Runs code as a cell of a notebook with the imports and tables that answers use."""
    names = {"torch": torch, "nn": nn, "F": F, "v2": v2, "np": np, "PRESETS": PRESETS, "Policy": Policy}
    tables = {"first": table_of(50), "second": table_of(80), "first_changed": table_of(52)}
    tables |= {"memorized": replace(tables["first"], split="training")}
    tables |= {"memorized_changed": replace(tables["second"], split="training")}
    names |= {"tiny_run": tiny_run} | tables
    return run_cell(code, **names)


def preparation(key: str) -> str:
    """The cells of its notebook that the exercise's own cells need: imports, block and data, not those that train."""
    (source,) = core.SOURCE.glob(f"0{key[0]}_*.py")
    cells = [c.source for c in jupytext.read(source).cells if c.cell_type == "code" and not c.metadata.get("part")]
    return "\n\n".join(c for c in cells if "import" in c or "def block" in c)


def test_each_core_notebook_has_three_or_four_exercises_that_build_a_project():
    for notebook in "1234":
        found = [exercise for key, exercise in EXERCISES.items() if key[0] == notebook and exercise.core]
        assert 3 <= len(found) <= 4
        assert len({exercise.kind for exercise in found}) >= 3
    assert {exercise.kind for exercise in EXERCISES.values()} == set(core.KINDS)


@pytest.mark.parametrize("key", EXERCISES)
def test_the_source_has_its_section_stub_and_solution(key):
    exercise = EXERCISES[key]
    extra = "" if exercise.core else "Extra · "
    heading = f"## {key} {extra}{exercise.kind}: {exercise.title[0].lower()}{exercise.title[1:]}"
    assert any(cell.source.startswith(heading + "\n") for cell in CELLS if cell.cell_type == "markdown"), heading
    stub, solved = part(key, "stub"), part(key, "solution")
    typed = [line for line in difflib.ndiff(stub.splitlines(), solved.splitlines()) if re.match(r"\+ *\S", line)]
    assert 1 <= len(typed) <= 6
    assert core.solution_of(key) == solved
    assert f'check("{key}", ' in stub.splitlines()[-1] and f'check("{key}", ' in solved.splitlines()[-1]


@pytest.mark.parametrize("key", EXERCISES)
def test_the_stub_is_not_yet_right(key, capsys):
    before = {"4.4": "first, second = None, None\n", "4.6": 'curves = {"first": None}\n'}.get(key, "")
    run(f"{preparation(key)}\n{before}{part(key, 'stub')}")
    assert f"{key} Not yet." in capsys.readouterr().out
    assert ("..." in part(key, "stub")) == (EXERCISES[key].kind != "Repair")


@pytest.mark.parametrize("key", [key for key in EXERCISES if key not in ("3.4", "4.4", "4.6")])
def test_the_solution_is_right(key, capsys):
    run(f"{preparation(key)}\n{part(key, 'solution')}")
    assert f"{key} Right." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("notebook", "keys"), [("03", ["3.4"]), ("04", ["4.4", "4.6"])])
def test_the_solutions_that_need_their_notebook_are_right(notebook, keys, tmp_path):
    cells = nbformat.read(SOLUTIONS / f"{notebook}_solutions.ipynb", as_version=4)
    for cell in cells.cells if notebook == "04" else []:  # fewer images: the curve has nine strengths
        fewer = r"\1\nval = val.select(list(range(0, len(val), 4)))"
        cell.source = re.sub(r"^(.*, val = data.split\(.*)$", fewer, cell.source, flags=re.M)
    NotebookClient(cells, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "\n".join(output.get("text", "") for cell in cells.cells for output in cell.get("outputs", []))
    assert all(f"{key} Right." in text for key in keys) and "Not yet." not in text


@pytest.mark.parametrize(("key", "number"), SOUND)
def test_other_sound_answers_are_right(key, number):
    exercise = EXERCISES[key]
    assert len(exercise.sound) >= 2
    assert core.judge(exercise, run(exercise.sound[number])["answer"]) == ""


@pytest.mark.parametrize(("key", "name"), WRONG)
def test_each_wrong_answer_gets_its_own_reply(key, name):
    exercise = EXERCISES[key]
    answer = run(exercise.wrong[name].code)["answer"]
    found = exercise.check(answer)
    assert (found[0] if isinstance(found, tuple) else found) == name
    reply = core.judge(exercise, answer)
    assert reply and "{" not in reply.replace('{"', "")


FULL_SHIFT = 'import dataclasses\nanswer = dataclasses.replace(PRESETS["full"], degrees=0, scale=(1, 1), {})'
SHIFT_AND_FLIP = "answer = [v2.RandomAffine(0, translate=(0.125, 0.125)), v2.RandomHorizontalFlip(), {}]"
TUPLE = """class answer(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body, self.head = (nn.Conv2d(3, 24, 4, 4), nn.ReLU()), nn.Linear(1536, classes)
        self.pools = [nn.Identity()] * 3

    def forward(self, images):
        for layer in (*self.body, *self.pools):
            images = layer(images)
        return self.head(images.flatten(1))"""


CHOOSE_BY = "def answer(history):\n    return min(history, key=lambda row: "


@pytest.mark.parametrize(
    ("key", "code", "name"),
    [
        ("1.2", FULL_SHIFT.format("distortion_scale=0, translate=(0.125, 0.125)"), "color"),
        ("1.2", "answer = Policy(flip_p=0.5, translate=(0.4, 0.4))", "far"),
        ("1.2", "answer = Policy(flip_p=0.5, translate=(4 / 32, 2 / 32))", "little"),
        ("1.2", "answer = Policy(flip_p=0.5, translate=(0.1, 0.1))", "little"),
        ("1.2", SHIFT_AND_FLIP.format("v2.GaussianBlur(3)"), "shape"),
        ("1.2", SHIFT_AND_FLIP.format("v2.RandomErasing(0.5)"), "shape"),
        ("2.3", TUPLE, "list"),
        ("2.4", TUPLE, "hidden"),
        ("2.4", TUPLE.replace("(nn.Conv2d", "nn.Sequential(nn.Conv2d"), core.RIGHT),
        ("2.5", "class answer(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 10)\n"
                "    def forward(self, x):\n        return super().forward(50 * x.mean((2, 3))).relu()", "limited"),
        ("3.2", "def answer(model, optimizer, images, labels):\n    return 2.0", "step"),
        ("4.2", 'def answer(history):\n    return history[2]["epoch"]', "other"),
        ("4.2", 'def answer(history):\n    return history[-3]["epoch"]', "other"),
        ("4.2", CHOOSE_BY + 'row["validation_loss"] - row["test_accuracy"])["epoch"]', "test"),
    ],
)  # fmt: skip
def test_answers_that_were_misjudged_once(key, code, name):
    found = EXERCISES[key].check(run(code)["answer"])
    assert (found[0] if isinstance(found, tuple) else found) == name


def test_a_right_network_that_cannot_be_saved_is_right_all_the_same(capsys):
    code = TUPLE.replace("(nn.Conv2d", "nn.Sequential(nn.Conv2d").replace("1536", "SIZE[0]")
    check("2.4", run(f"SIZE = [1536]\n{code}")["answer"])
    text = " ".join(capsys.readouterr().out.split())
    assert "2.4 Right." in text and "But it cannot be saved for the next notebook: it uses SIZE, a list" in text


def test_a_right_policy_on_a_full_disk_is_right_all_the_same(capsys, monkeypatch):
    def full(*_):
        raise CheckpointError("The disk is full.")

    monkeypatch.setattr(checkpoint, "write", full)
    check("1.4", PRESETS["full"])
    text = " ".join(capsys.readouterr().out.split())
    assert "1.4 Right." in text and "The disk is full" in text


@pytest.mark.parametrize("key", EXERCISES)
def test_replies_and_hints_differ_and_do_not_hold_the_answer(key):
    exercise = EXERCISES[key]
    replies = [wrong.reply for wrong in exercise.wrong.values()]
    assert len(exercise.wrong) >= 3
    assert len(set(replies)) == len(replies) and 2 <= len(exercise.hints) <= 3
    told = "\n".join([*replies, *exercise.hints])
    new = [line for line in part(key, "solution").splitlines() if line not in part(key, "stub").splitlines()]
    for text in [line.partition("  #")[0].strip() for line in new]:
        assert len(text) < 4 or text not in told, text
    answers = {"1.1": "500", "2.1": r"4,?608", "3.1": r"4,?224", "4.1": r"0\.7\d*"}
    answers |= {"4.3": r"\ba\W+(and\W+)?c\W+(and\W+)?d"}
    assert not re.search(rf"(?<![\d,]){answers.get(key, '$^')}(?!\d)", told)


def test_answers_that_fail_are_reported_in_a_sentence(capsys):
    check("2.6", "blur")
    assert "2.6 Not yet. The filter must be a tensor" in capsys.readouterr().out
    check("3.2", lambda model, optimizer, images, labels: 1 / 0)
    assert "Your answer fails: ZeroDivisionError: division by zero" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there is no exercise '9.9'; there are 1.1, 1.2"):
        check("9.9", 1)


def test_numbers_of_any_library_are_numbers(capsys):
    for answer in (torch.tensor(500), np.int64(500), np.array(500)):
        check("1.1", answer)
        assert "1.1 Right." in capsys.readouterr().out
    check("1.5", np.float32(3.5))
    assert "1.5 Right." in capsys.readouterr().out


def test_a_number_in_quotes_is_told_as_such(capsys):
    check("1.1", "500")
    assert "1.1 Not yet. Hand in the number itself, without quotes." in capsys.readouterr().out


def test_the_end_of_a_runs_name_may_be_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    tiny_run("mine_482913")
    check("3.4", "482913")
    assert "3.4 Right." in capsys.readouterr().out


def test_an_answer_that_fails_without_a_word_is_reported(capsys):
    def silent(*_):
        raise RuntimeError(" \n ")

    check("3.2", silent)
    assert "Your answer fails: RuntimeError\n" in capsys.readouterr().out


def test_a_documented_function_that_returns_a_constant_is_no_stub():
    def typed_in(history):
        """The best epoch."""
        return 3

    def stub(history):
        """The best epoch."""
        ...

    assert not is_stub(typed_in) and is_stub(stub)


def test_pixels_from_outside_must_be_black(capsys):
    reflected = v2.RandomCrop(32, padding=4, padding_mode="reflect")
    check("1.2", [reflected, v2.RandomHorizontalFlip()])
    assert "or the pixels from outside are not black" in " ".join(capsys.readouterr().out.split())
    check("1.2", [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    assert "1.2 Right." in capsys.readouterr().out


def test_a_transform_that_works_in_place_is_right(capsys):
    def shift_and_flip(images):
        for i, image in enumerate(images.clone()):
            down, right = torch.randint(-4, 5, (2,)).tolist()
            images[i] = nn.functional.pad(image, (4, 4, 4, 4))[:, 4 + down : 36 + down, 4 + right : 36 + right]
            if torch.rand(()) < 0.5:
                images[i] = images[i].flip(2)
        return images

    check("1.2", shift_and_flip)
    assert "1.2 Right." in capsys.readouterr().out


def test_hints_come_one_by_one(capsys):
    for number in (1, 2, 3, 3):
        hint("1.1")
        assert f"1.1 Hint {number} of 3" in capsys.readouterr().out
    hint("1.1")
    assert 'solution("1.1") shows a solution' in " ".join(capsys.readouterr().out.split())
    solution("1.1")
    assert "50_000 // 10 // 10" in capsys.readouterr().out


def test_a_right_policy_and_a_right_network_are_saved(capsys):
    check("1.4", PRESETS["full"])
    assert Policy.from_json(settings.policy_file().read_text()) == PRESETS["full"]
    run(f"{preparation('2.4')}\n{part('2.4', 'solution')}")
    saved = network_file.load()
    assert saved.__name__ == "MyNetwork" and saved()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert "It is saved for notebooks 3 and 4, in runs/network.py." in " ".join(capsys.readouterr().out.split())
    check("1.4", Policy())
    assert Policy.from_json(settings.policy_file().read_text()) == PRESETS["full"]


def test_a_policy_that_is_replaced_is_kept(capsys):
    mine = replace(PRESETS["full"], degrees=7.0)
    file = network_file.save_policy(mine)
    for _ in range(2):  # the second time, the file holds the answer itself
        check("1.4", PRESETS["full"])
    assert Policy.from_json(file.read_text()) == PRESETS["full"]
    assert Policy.from_json(file.with_name("policy.previous.json").read_text()) == mine
    assert " ".join(capsys.readouterr().out.split()).count("The policy that was there") == 1


@pytest.mark.parametrize("notebook", QUIZZES)
def test_a_quiz_has_three_questions_with_one_right_option_and_a_sentence_for_each(notebook, capsys):
    assert len(QUIZZES[notebook]) == 3
    for number, (question, options) in enumerate(QUIZZES[notebook], start=1):
        quiz(notebook, number)
        shown = " ".join(capsys.readouterr().out.split())
        assert question in shown and "Right" not in shown
        assert [is_right for _, is_right, _ in options].count(True) == 1 and len(options) >= 3
        assert len({why for _, _, why in options}) == len(options)
        for letter, (option, is_right, why) in zip("abcdefgh", options):
            quiz(notebook, number, letter)
            out = " ".join(capsys.readouterr().out.split())
            assert option in shown and why in out and ("Right." in out) == is_right
            assert why not in shown


def test_the_right_option_is_not_always_at_the_same_place():
    places = [
        [right for _, right, _ in options].index(True) for questions in QUIZZES.values() for _, options in questions
    ]
    assert max(map(places.count, set(places))) <= 2 / 3 * len(places)


def test_a_quiz_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="no question 4 of notebook 1"):
        quiz(1, 4)
    with pytest.raises(ValueError, match="'z' is none of the options a, b, c"):
        quiz(1, 1, "z")


def test_making_the_exercises_again_changes_nothing():
    for path, text in make_exercises.made().items():
        assert path.read_text(encoding="utf-8") == text, f"run tools/make_exercises.py: {path.name} is not up to date"


def test_no_solution_is_in_a_stub():
    for path in sorted((make_exercises.ROOT / "notebooks" / "exercises").glob("*.ipynb")):
        stub = {line for cell in nbformat.read(path, as_version=4).cells for line in cell.source.splitlines()}
        for key in [key for key in EXERCISES if key[0] == path.stem[1]]:
            new = set(part(key, "solution").splitlines()) - set(part(key, "stub").splitlines())
            assert not {line for line in new & stub if "def " not in line and "super()" not in line}
