"""Makes cifar_utils/shipped from a finished run: its best network, without what only resuming needs.

python -m cifar_utils train --recipe class --folder runs/shipped
python tools/make_shipped.py runs/shipped
"""

import json
import sys
from pathlib import Path

from cifar_utils import checkpoint, runs


def main(run: Path) -> None:
    best = checkpoint.load(run / runs.BEST)
    best["states"] = {name: best["states"][name] for name in ("model", "trainer")}
    about = json.loads((run / "run.json").read_text())
    for old in runs.SHIPPED.glob("*.safetensors"):
        old.unlink()
    checkpoint.save(runs.SHIPPED / runs.BEST, best)
    runs.write_json(runs.SHIPPED / "run.json", {key: value for key, value in about.items() if key != "owner"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
