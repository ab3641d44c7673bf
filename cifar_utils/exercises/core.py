"""What an exercise is, and the four calls: check an answer, get a hint, see a solution, take a quiz.

All of it is plain text, which a screen reader, any notebook program and nbval can take.
"""

import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifar_utils.checkpoint import CheckpointError
from cifar_utils.checks import first_line
from cifar_utils.exercises.quizzes import QUIZZES

SOURCE = Path(__file__).parent / "source"
KINDS = ("Predict", "Code", "Repair", "Explore")
RIGHT = ""  # what a check returns for a sound answer
EXERCISES: dict[str, "Exercise"] = {}
_hints_given: Counter = Counter()


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that people give.

    Attributes:
        what: the mistake, for the teacher's table.
        code: statements that define `answer`, run by the tests.
        reply: what to look at, never the answer; {names} are filled in by the check.
    """

    what: str
    code: str
    reply: str


@dataclass(frozen=True)
class Exercise:
    """An exercise that checks itself.

    Attributes:
        key: notebook and number, as in "2.4".
        kind: one of KINDS.
        title: of its section.
        check: answer -> RIGHT, a key of `wrong`, or (key, values for its reply).
        wrong: key -> a wrong answer.
        hints: from vague to plain, up to three.
        meaning: what a right answer shows.
        sound: other right answers than the solution's: statements that define `answer`, for the tests.
        core: False for an extra exercise.
        takes_text: whether the answer is a text, which may consist of digits.
        then: what to do with a right answer, such as saving it for the next notebook; returns a sentence.
    """

    key: str
    kind: str
    title: str
    check: Callable
    wrong: dict[str, Wrong]
    hints: tuple[str, ...]
    meaning: str
    sound: tuple[str, ...]
    core: bool = True
    takes_text: bool = False
    then: Callable[..., str] | None = None


def exercise(key: str, kind: str, title: str, **parts) -> Callable:
    """Registers the decorated check as an exercise."""

    def register(check: Callable) -> Callable:
        EXERCISES[key] = Exercise(key, kind, title, check, **parts)
        return check

    return register


def check(key: str, answer) -> None:
    """Prints whether the answer is right and, where it is not, what to look at. It never prints the answer.

    Args:
        key: of the exercise, as in "2.4".
        answer: what you made: a number, a function, a class, ...

    Raises:
        ValueError: there is no such exercise.
    """
    found = _exercise(key)
    if reply := judge(found, answer):
        _say(f"{key} Not yet. {reply}")
    else:
        try:
            after = found.then(answer) if found.then else ""
        except (ValueError, OSError, CheckpointError) as error:
            after = f"But it cannot be saved for the next notebook: {error}."
        _say(f"{key} Right. {found.meaning} {after}")


def judge(found: Exercise, answer) -> str:
    """What is wrong with an answer, in a sentence or two; "" where it is right."""
    if is_stub(answer):
        return "Replace the ... with your answer, and run the cell again."
    if getattr(answer, "ndim", None) == 0:
        answer = answer.item()  # a number, computed by torch or NumPy
    is_quoted = isinstance(answer, str) and re.fullmatch(r"[\d.,]+", answer.strip())
    if is_quoted and not found.takes_text:
        return "Hand in the number itself, without quotes."
    try:
        result = found.check(answer)
    except Exception as error:  # a participant's code can fail in any way
        said = f": {first_line(error)}" if str(error).strip() else ""
        return f"Your answer fails: {type(error).__name__}{said}"
    name, values = result if isinstance(result, tuple) else (result, {})
    return found.wrong[name].reply.format(**values) if name else RIGHT


def is_stub(answer) -> bool:
    """Whether this is still `...`, or holds one, or is a function or class with nothing but `...` in it."""
    if inspect.isclass(answer):
        methods = [f for name, f in vars(answer).items() if inspect.isfunction(f) and name != "__init__"]
        return bool(methods) and all(map(is_stub, methods))
    if inspect.isfunction(answer):
        code, empty = answer.__code__, _documented.__code__ if answer.__doc__ else _empty.__code__
        return code.co_code == empty.co_code and code.co_consts[-1] is None and not code.co_names
    return answer is ... or (isinstance(answer, (tuple, list, set)) and any(part is ... for part in answer))


def _empty(): ...


def _documented():
    """Compiled as a function with a docstring is."""
    ...


def hint(key: str) -> None:
    """Prints the next hint for an exercise: the first is vague, the last is plain."""
    hints = _exercise(key).hints
    number = _hints_given[key] = min(_hints_given[key] + 1, len(hints))
    after = "" if number < len(hints) else f' That was the last; solution("{key}") shows a solution.'
    _say(f"{key} Hint {number} of {len(hints)}: {hints[number - 1]}{after}")


def solution(key: str) -> None:
    """Prints a solution. Others are as good: the check judges what an answer does."""
    _exercise(key)
    print(solution_of(key))


def solution_of(key: str) -> str:
    """A solution's code, from the source of the exercise notebooks."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in sorted(SOURCE.glob("*.py")))
    cell = rf'^# %% exercise="{re.escape(key)}" part="solution"\n(.*?)\n*(?=^# %%|\Z)'
    return re.search(cell, source, re.M | re.S)[1]


def quiz(notebook: int, number: int, choice: str | None = None) -> None:
    """Prints a question with its options or, given the letter of one, whether it is right and why.

    Args:
        notebook: 1 to 8.
        number: of the question, 1 to 3.
        choice: the option's letter, as in "b".

    Raises:
        ValueError: there is no such question.
    """
    if notebook not in QUIZZES or number not in range(1, len(QUIZZES[notebook]) + 1):
        raise ValueError(f"there is no question {number} of notebook {notebook}; notebooks 1 to 8 have 3 each")
    question, options = QUIZZES[notebook][number - 1]
    letters = "abcdefgh"[: len(options)]
    if choice is None or choice is ...:
        _say(question)
        for letter, (option, _, _) in zip(letters, options):
            _say(f"  {letter}  {option}", "     ")
        _say(f'To answer: quiz({notebook}, {number}, "a")')
        return
    letter = str(choice).strip().lower()
    if letter not in letters or len(letter) != 1:
        raise ValueError(f"{choice!r} is none of the options {', '.join(letters)}")
    _, is_right, why = options[letters.index(letter)]
    _say(f"{letter}: {'Right.' if is_right else 'Not quite.'} {why}")


def _exercise(key: str) -> Exercise:
    if key not in EXERCISES:
        raise ValueError(f"there is no exercise {key!r}; there are {', '.join(sorted(EXERCISES))}")
    return EXERCISES[key]


def _say(text: str, indent: str = "") -> None:
    print(textwrap.fill(text, 88, subsequent_indent=indent, break_long_words=False))
