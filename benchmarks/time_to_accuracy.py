"""Time to accuracy: the workshop's training against what a tutorial and a paper would have you do, on the same machine.

    python benchmarks/time_to_accuracy.py                    # hours; stopped, the same command resumes
    python benchmarks/time_to_accuracy.py --only class sample --seeds 2
    python benchmarks/time_to_accuracy.py --finished         # the tables of the runs that are finished so far
    python benchmarks/time_to_accuracy.py --quick            # does everything run?

*plain* is the network of notebook 2 as notebook 3 trains it: on 45,000 training images, with the full policy and SGD.
*plain_tricks* is the same network with those tricks of notebook 5 that any network can have (the recipe *own*: Muon,
progressive resizing, example selection, bfloat16; and Winograd convolution). *fast_float32* is *fast* without 16-bit
products. *few_ensemble* is the mean of three narrower networks, each trained for half as many epochs as the one of
*few*. On a GPU, *wide* is also trained for 11 epochs only, and for 14 with the policy *full*.

Each recipe (`speedrun.RECIPES`) is fixed beforehand, was chosen on validation images (but for *wide*, whose numbers are
those of a published run), and is evaluated on the test images once per run, at its end. As in the published speed runs,
the recipes train on all 50,000 training images (4,000 of the sample), none held out. *few* and *few_ensemble* are the
exception: they train on the 3,600 training images that ship, without the 400 for validation, and are evaluated on all
10,000 test images, of which the 1,000 that ship are reported as well.

The time covers everything after the data is on the disk: loading, whitening, augmentation, training, and the evaluation
of all test images; test-time augmentation (shifted and mirrored images) is reported separately, and for a quarter of
the images counts a quarter of its time. Reference minutes are explained in clock.py. The competitors, which have no
schedule of their own for minutes, are evaluated after 2 and after 5 reference minutes; these evaluations are not
counted. On a GPU, the published airbench runs as well where it is installed, and the first run of each recipe, which
warms up, is reported apart.

Written to benchmarks/results: time_to_accuracy.json (every run), time_to_accuracy.md and time_to_accuracy.png; on a GPU
with _gpu in their names. Runs add up over sessions and machines, and the table names the machine and the version of
each: a run that is in time_to_accuracy.json, trained as its recipe is now, stays until this version has trained it
again. Those of the session under way lie in build/time_to_accuracy.
"""

import inspect
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import speed_run
import time_to_accuracy_report as report
import torch
from clock import Clock
from common import cached_run, command_line, machine, save, stoppable
from torch import nn
from tutorial import resnet_20, tutorial

from cifar_utils import data, settings, speedrun
from cifar_utils.augment import PRESETS
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import predict
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.progress import bar
from cifar_utils.speedrun import RECIPES
from cifar_utils.speedrun.ensemble import Ensemble
from cifar_utils.speedrun.winograd import accelerate
from cifar_utils.train import best_device, sgd, steps

ROOT = Path(__file__).resolve().parent.parent
LOOKS = (2.0, 5.0)  # reference minutes
VERSION = version("cifar_utils")


@dataclass(frozen=True)
class Target:
    """The accuracy and the time that a recipe is meant to reach.

    Attributes:
        minutes: reference minutes.
        accuracy: of the test images.
        tta: whether with shifted and mirrored images averaged in; 0.25: for the least confident quarter of the images.
        sample: whether it trains on the sample that ships.
    """

    minutes: float
    accuracy: float
    tta: bool | float = False
    sample: bool = False


@dataclass(frozen=True)
class Variant(Target):
    """A recipe with changes.

    Attributes:
        recipe: one of RECIPES.
        changes: fields of `speedrun.recipes.Recipe`.
        float32: without 16-bit products, as on a CPU that has no instructions for them.
    """

    recipe: str = "fast"
    changes: dict = field(default_factory=dict)
    float32: bool = False


@dataclass(frozen=True)
class Several(Variant):
    """An ensemble.

    Attributes:
        members: so many networks, trained one after the other with seeds of their own.
    """

    members: int = 2


TARGETS = {
    "short": Target(2, 0.79),
    "fast": Target(1, 0.90),
    "fast_float32": Variant(1.5, 0.90, float32=True),
    "class": Target(1.6, 0.89),
    "sample": Target(3, 0.76, sample=True),
    "few": Target(3, 0.82, sample=True),
    "few_ensemble": Several(
        3,
        0.82,
        tta=0.25,
        sample=True,
        recipe="few",
        changes={"epochs": 16, "network": {"widths": (64, 160, 224)}},
        members=3,
    ),
    "wide": Target(16, 0.94, tta=True),
}
GPU_TARGETS = {  # minutes: those of airbench on an H200, and twice those
    "wide, 11 epochs": Variant(0.04, 0.94, tta=True, recipe="wide", changes={"epochs": 11}),
    "wide, 14 epochs": Variant(0.08, 0.93, tta=True, recipe="wide", changes={"policy": "full", "epochs": 14}),
}


@dataclass(frozen=True)
class Plain(Target):
    """How the plain network is trained: by the defaults of the notebooks, which are recorded here, or by a recipe."""

    policy: str = "full"
    epochs: int = settings.PROFILES["class"].epochs
    learning_rate: float = inspect.signature(sgd).parameters["lr"].default
    recipe: dict | None = None


PLAIN = {
    "plain": Plain(4, 0.83),
    "plain_tricks": Plain(3, 0.87, tta=True, epochs=RECIPES["own"].epochs, recipe=asdict(RECIPES["own"])),
}
COMPETITORS = {"tutorial": tutorial, "ResNet-20": resnet_20}
AIRBENCH = "airbench"


def everything(name: str, sample: bool, is_quick: bool) -> tuple[Dataset, Dataset]:
    """All training images, none held out for validation, and the test images; for *few* and its ensemble, their own."""
    if name.startswith("few"):
        return data.split(data.cifar10(sample=True))[0], data.cifar10(train=False, sample=is_quick)
    return data.cifar10(sample=sample), data.cifar10(train=False, sample=sample)


def train_by_the_clock(clock: Clock, model: nn.Module, train: Dataset, val: Dataset, device, **options) -> None:
    """Trains the model in place, in a folder that is thrown away.

    Raises:
        KeyboardInterrupt: it was stopped; the stop button ends training in good order, but this is no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        for state in steps(model, train, val, run=Path(folder) / "run", device=device, **options):  # noqa: B007
            clock.tick()
    if state.stop:  # set behind the last step
        raise KeyboardInterrupt


def run_recipe(name: str, target: Target, seed: int, device: torch.device, epochs: int | None = None) -> dict:
    """One run of a recipe: its figures."""
    clock = Clock(device)
    train, test = everything(name, target.sample, epochs is not None)
    unused = replace(test.select(torch.arange(10)), split="validation", source="unused")  # here nothing depends on them
    chosen, models = recipe_of(name, target), []
    members = target.members if isinstance(target, Several) else 1
    for one in range(seed * members, (seed + 1) * members):
        model = speedrun.network(train, one, **chosen.network)
        options = speedrun.recipe(model, train, chosen, seed=one, epochs=epochs, device=device)
        if isinstance(target, Variant) and target.float32:
            options["autocast"] = None
        train_by_the_clock(clock, model, train, unused, device, **options)
        models.append(model)
    model = Ensemble(models) if members > 1 else model
    return figures(clock, model, train, test, looks=3 if chosen.network.get("mirror", True) else 6)


def recipe_of(name: str, target: Target) -> speedrun.Recipe:
    return replace(RECIPES[target.recipe], **target.changes) if isinstance(target, Variant) else RECIPES[name]


def run_plain(plain: Plain, seed: int, device: torch.device) -> dict:
    """One run of the plain network: its figures. The network, split, and defaults are those of the notebooks."""
    clock = Clock(device)
    train, val = data.split(data.cifar10(sample=plain.sample))
    test = data.cifar10(train=False, sample=plain.sample)
    torch.manual_seed(seed)
    model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(len(train.classes)))
    options = {"transform": PRESETS[plain.policy], "epochs": plain.epochs, "seed": seed}
    if plain.recipe:
        accelerate(model)
        options = speedrun.recipe(model, train, "own", epochs=plain.epochs, seed=seed, device=device)
    train_by_the_clock(clock, model, train, val, device, **options)
    return figures(clock, model, train, test, looks=6)


def figures(clock: Clock, model: nn.Module, train: Dataset, test: Dataset, looks: int) -> dict:
    """Test accuracy and time, without and with test-time augmentation, which predicts each image `looks` times."""
    row = {"accuracy": predict(model, test).accuracy} | clock.times()
    row["accuracy_shifted"] = predict(model, test, tta=True).accuracy
    row |= clock.times_of_more_looks(row, looks)
    row["accuracy_shifted_quarter"] = predict(model, test, tta=0.25).accuracy
    if train.is_sample and not test.is_sample:
        shipped = data.cifar10(train=False, sample=True)
        row["accuracy_of_shipped"] = predict(model, shipped).accuracy
    return row


def run_competitor(competitor: Callable, seed: int, device: torch.device, looks: tuple[float, ...]) -> dict:
    """A competitor's accuracy at each look: it trains without end, and yields its network after every step."""
    clock, test = Clock(device), data.cifar10(train=False, sample=False)
    looks_left, found = list(looks), []
    for model in competitor(seed, device):
        clock.tick()
        if clock.reference_seconds >= 60 * looks_left[0]:
            row = {"seconds": clock.seconds, "reference_seconds": clock.reference_seconds}
            found.append(row | {"accuracy": predict(model, test).accuracy})
            looks_left.pop(0)
            if not looks_left:
                break
            clock.skip()
    return {"looks": found, "rate": statistics.mean(clock.rates)}


def settings_of(about: dict[str, dict]) -> dict[str, dict]:
    """Name -> all that decides about its results, as JSON has it: what a target asks for does not."""
    asked = ("minutes", "accuracy", "tta")
    settings = {name: {k: v for k, v in its.items() if k not in asked} for name, its in about.items()}
    return json.loads(json.dumps(settings))


def earlier_rows(file: Path, setting_of: dict[str, dict]) -> list[dict]:
    """The rows of earlier sessions, of all machines, that were made with these settings."""
    if not file.exists():
        return []
    results = json.loads(file.read_text())
    made = settings_of(results["schedules"] | results["competitors"])
    return [row for row in results["rows"] if made[row["name"]] == setting_of.get(row["name"])]


def main() -> None:
    parser = command_line(__doc__)
    device = best_device()
    targets = TARGETS | (GPU_TARGETS if device.type == "cuda" else {})
    names = [*PLAIN, *targets, *COMPETITORS, *[AIRBENCH] * speed_run.is_there(device)]
    title = "time_to_accuracy" + "_gpu" * (device.type == "cuda")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="train these and no others")
    parser.add_argument("--seeds", type=int, default=20 if device.type == "cuda" else 5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="1 epoch of the sample, 1 seed; results beside the runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "build", help="folder for a folder of finished runs")
    args = parser.parse_args()
    args.runs /= title
    torch.set_num_threads(args.threads)
    plain, looks, epochs = PLAIN, LOOKS, None
    if args.quick:
        args.seeds, looks, epochs = 1, (0.02, 0.05), 1
        args.output = args.runs = args.runs / "quick"
        targets = {name: replace(target, sample=True) for name, target in targets.items()}
        plain = {name: replace(target, sample=True, epochs=1) for name, target in PLAIN.items()}
    args.runs.mkdir(parents=True, exist_ok=True)
    facts = machine(args.threads)
    where = f"{facts.get('GPU', facts['CPU'])}, torch {facts['torch']}"
    about = {name: asdict(target) for name, target in plain.items()}
    about |= {name: asdict(recipe_of(name, target)) | asdict(target) for name, target in targets.items()}
    about |= {AIRBENCH: speed_run.ABOUT} if device.type == "cuda" else {}
    competitors = {name: {"looks": looks, "workers": "stand still while the clock measures"} for name in COMPETITORS}
    setting_of = settings_of(about | competitors)
    rows = {(row["name"], row["seed"]): row for row in earlier_rows(args.output / f"{title}.json", setting_of)}
    todo = [(name, seed) for seed in range(args.seeds) for name in args.only]  # a seed at a time
    known = {run for run, row in rows.items() if row["version"] == VERSION or run[0] in COMPETITORS}
    todo = [] if args.finished else [run for run in todo if run not in known]

    def run(name: str, seed: int) -> dict:
        if name in plain:
            row = run_plain(plain[name], seed, device)
        elif name in targets:
            row = run_recipe(name, targets[name], seed, device, epochs)
        elif name in COMPETITORS:
            row = run_competitor(COMPETITORS[name], seed, device, looks)
        else:
            row = speed_run.airbench_94(seed, device)
        return {"name": name, "seed": seed, "machine": where, "version": VERSION} | row

    if device.type == "cuda" and todo:  # the first run of its kind warms up and compiles: not counted
        first = {name: run(name, args.seeds)["seconds"] for name in args.only if name not in COMPETITORS}
        facts["first runs"] = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first.items())
    for name, seed in bar(len(todo), "Runs", "run", iterable=todo):
        cached_run(args.runs / f"{name}-{seed}.json", setting_of[name] | {"version": VERSION}, partial(run, name, seed))
    for file in args.runs.glob("*-*.json"):
        row = cached_run(file, setting_of.get(file.stem.rsplit("-", 1)[0], {}) | {"version": VERSION}, None)
        if row:
            rows[row["name"], row["seed"]] = {key: value for key, value in row.items() if key != "setting"}
    rows = [rows[key] for key in sorted(rows)]
    results = {"session": facts, "schedules": about, "competitors": competitors, "rows": rows}
    save(args.output, title, results, report.markdown(results), report.plot)


if __name__ == "__main__":
    stoppable(main)
