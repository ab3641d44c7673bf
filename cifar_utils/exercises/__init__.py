"""Exercises that check themselves, for the notebooks in notebooks/exercises.

    from cifar_utils.exercises import check, hint, quiz, solution

core        the four calls, and what an exercise is
images      exercises of notebook 1      networks      of notebook 2
training    of notebook 3                judgment      of notebook 4
quizzes     three questions per notebook
source/     the exercise notebooks as scripts, from which tools/make_exercises.py makes stubs, solutions and a page

A check judges what an answer does, so any sound answer passes. Each typical wrong answer has a reply of its own: it is
in the exercise's list `wrong`, from which the tests and the table in docs/teaching.md are made as well.
"""

# Imported so that they register their exercises.
from cifar_utils.exercises import images, judgment, networks, training  # noqa: F401
from cifar_utils.exercises.core import EXERCISES, check, hint, quiz, solution

__all__ = ["EXERCISES", "check", "hint", "quiz", "solution"]
