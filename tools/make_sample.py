"""Make the sample that ships in cifar_utils/sample from the full CIFAR-10 data set.

    python tools/make_sample.py DATA_DIR

It draws 400 training and 100 test images of every class with a fixed seed and nothing else (so no image was
picked for being easy or pretty) and packs each split into one lossless WebP sheet, class after class, 50 images
per row. `index.json` keeps each image's position in CIFAR-10, its label, and a SHA-256 of the pixels, so that
the sample can be checked against the full set.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

OUT = Path(__file__).resolve().parent.parent / "cifar_utils" / "sample"
PER_CLASS = {"train": 400, "test": 100}
COLUMNS = 50


def main(data_dir: str) -> None:
    index = {}
    for split, per_class in PER_CLASS.items():
        full = CIFAR10(data_dir, train=split == "train")
        labels = np.array(full.targets)
        rng = np.random.RandomState(0)
        chosen = np.concatenate([np.sort(rng.permutation(np.flatnonzero(labels == k))[:per_class]) for k in range(10)])
        images = full.data[chosen]  # [N, 32, 32, 3]
        rows = len(images) // COLUMNS
        sheet = images.reshape(rows, COLUMNS, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, COLUMNS * 32, 3)
        Image.fromarray(sheet).save(OUT / f"{split}.webp", lossless=True, quality=100, method=6)
        index[split] = {
            "sha256": hashlib.sha256(images.tobytes()).hexdigest(),
            "index": chosen.tolist(),
            "label": labels[chosen].tolist(),
        }
    (OUT / "index.json").write_text(json.dumps(index) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
