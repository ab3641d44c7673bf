"""Copies the README's pictures out of the executed notebooks: python tools/readme_pictures.py"""

from base64 import b64decode
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {  # file in docs/ -> notebook, start of the figure's text alternative
    "augmentation.png": ("01_data_and_augmentation", "The full policy ("),
    "curves.png": ("03_training", "Training on"),
    "confusion.png": ("04_evaluation", "10,000 test images"),
}


def main() -> None:
    (ROOT / "docs").mkdir(exist_ok=True)
    for name, (notebook, start) in PICTURES.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
        figures = [
            o for cell in cells if cell.cell_type == "code" for o in cell.outputs if "image/png" in o.get("data", {})
        ]
        figure = next(f for f in figures if f.metadata["image/png"]["alt"].startswith(start))
        (ROOT / "docs" / name).write_bytes(b64decode(figure.data["image/png"]))
        print(f"docs/{name}: {figure.metadata['image/png']['alt']}")


if __name__ == "__main__":
    main()
