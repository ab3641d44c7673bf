"""Makes the exercise notebooks, their solutions, the page docs/exercises.md and the table in docs/teaching.md.

    python tools/make_exercises.py

The source is cifar_utils/exercises/source/*.py: percent scripts, where a cell that belongs to an exercise
says which one, and whether it is the stub or the solution. Everything made from it is committed; a test makes it again
and compares.
"""

import re
from pathlib import Path

import jupytext
import nbformat

from cifar_utils.exercises.core import EXERCISES, SOURCE

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
BEGIN, END = "<!-- wrong answers: made by tools/make_exercises.py -->", "<!-- end -->"


def main() -> None:
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def made() -> dict[Path, str]:
    """Each file that is made, and its text."""
    found, page = {}, ["# Exercises and solutions", "", "Made from cifar_utils/exercises/source; do not edit.", ""]
    for source in sorted(SOURCE.glob("*.py")):
        cells = jupytext.read(source).cells
        folder = ROOT / "notebooks" / "exercises"
        found[folder / f"{source.stem}.ipynb"] = notebook(cells, leave_out="solution")
        name = source.stem.replace("exercises", "solutions")
        found[folder / "solutions" / f"{name}.ipynb"] = notebook(cells, leave_out="stub")
        page += [line for cell in cells for line in (*on_the_page(cell), "")]
    found[ROOT / "docs" / "exercises.md"] = "\n".join(page).rstrip() + "\n"
    guide = ROOT / "docs" / "teaching.md"
    before, _, rest = guide.read_text(encoding="utf-8").partition(BEGIN)
    found[guide] = "\n".join([before + BEGIN, "", *table(), "", END]) + rest.partition(END)[2]
    return found


def notebook(cells: list, leave_out: str) -> str:
    """A notebook of the cells but the stubs, or but the solutions, as text."""
    kept = [cell for cell in cells if cell.metadata.get("part") != leave_out]
    new = []
    for number, cell in enumerate(kept):
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        is_title = number == 0 and leave_out == "stub"
        text = cell.source.replace("# Exercises", "# Solutions of the exercises", 1) if is_title else cell.source
        new.append(make(text, id=f"cell-{number}"))
    return nbformat.writes(nbformat.v4.new_notebook(cells=new, metadata=KERNEL)) + "\n"


def on_the_page(cell) -> list[str]:
    """A cell as Markdown, with a solution folded."""
    if cell.cell_type == "markdown":
        return [re.sub(r"^#", "##", cell.source, flags=re.M)]
    code = ["```python", cell.source, "```"]
    if cell.metadata.get("part") != "solution":
        return code
    # In class, another notebook has prepared what the solution needs.
    title = "Solution" if "check(" in cell.source else "What the solution needs"
    return [f"<details><summary>{title}</summary>", "", *code, "", "</details>"]


def table() -> list[str]:
    """The wrong answers that people give, and what the check replies, as a Markdown table."""
    rows = ["| exercise | what you will see | what the check replies |", "|---|---|---|"]
    for key, exercise in sorted(EXERCISES.items()):
        for wrong in exercise.wrong.values():
            reply = re.sub(r"(?<!\{)\{\w+[^}]*\}", "…", wrong.reply).replace("{{", "{").replace("}}", "}")
            rows.append(f"| {key} | {wrong.what} | {reply} |")
    return rows


if __name__ == "__main__":
    main()
