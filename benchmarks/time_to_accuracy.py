"""Time to accuracy: the workshop's training against what a tutorial and a paper would have you do, on the same machine.

    python benchmarks/time_to_accuracy.py                    # hours; stopped, it goes on with the next run
    python benchmarks/time_to_accuracy.py --only class sample --seeds 2
    python benchmarks/time_to_accuracy.py --finished         # the tables of the runs that are finished so far
    python benchmarks/time_to_accuracy.py --quick            # does everything run?

Each schedule is fixed beforehand, was chosen on validation images, and meets the test images once a run, at its end.
As the published speed runs do, the schedules train on all 50,000 training images (4,000 of the sample), none held out.
The time covers everything after the data is on the disk: loading, whitening, augmentation, training, and the
evaluation of all test images; the looks at shifted images (test-time augmentation) are told separately. (Mirror images
are looked at by the network of *full* only: the others give them the same answer.) Reference minutes are explained in
clock.py. The competitors, which have no schedule of their own for minutes, are looked at after 2 and
after 5 reference minutes; their looks are not counted. On a GPU, the published airbench runs as well where it is
installed, and a first run of each schedule, which warms up and compiles, is told apart.

Written to benchmarks/results: time_to_accuracy.json (every run), time_to_accuracy.md and time_to_accuracy.png; on a GPU
with _gpu in their names, compiled with _compiled. Runs add up over sittings and machines: a run that is in
time_to_accuracy.json, trained as its schedule is now, is not trained again, and the table says which machine each was
trained on. Those of the sitting under way lie in build/time_to_accuracy.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import speed_run
import time_to_accuracy_report as report
import torch
from clock import Clock
from common import command_line, kept, machine, save, stoppable
from tutorial import resnet_20, tutorial

from cifar_utils import data, training
from cifar_utils.configuration import FEW_IMAGES, WITH_PATIENCE
from cifar_utils.data import Normalisation, Split
from cifar_utils.model import CNN
from cifar_utils.policy import PRESETS
from cifar_utils.predictions import predict
from cifar_utils.progress import bar
from cifar_utils.settings import PROFILES

ROOT = Path(__file__).resolve().parent.parent
LOOKS = (2.0, 5.0)  # reference minutes
CLASS, FULL = PROFILES["class"], PROFILES["full"]


@dataclass(frozen=True)
class Schedule:
    """What is trained, and how.

    Attributes:
        policy: of the augmentation, one of PRESETS.
        config: hyper-parameters.
        minutes, accuracy: what it is meant to reach, in reference minutes.
        averaging: whether it is meant to reach that with shifted images averaged in.
        sample: whether it trains on the sample that ships.
        widths, mirror: of the network.
    """

    policy: str
    config: training.Config
    minutes: float
    accuracy: float
    averaging: bool = False
    sample: bool = False
    widths: tuple[int, int, int] = CLASS.widths
    mirror: bool = CLASS.mirror


IN_CLASS = training.Config(CLASS.epochs, CLASS.batch_size)
WITH_THE_SAMPLE = training.Config(CLASS.sample_epochs, CLASS.sample_batch_size, **FEW_IMAGES)
IN_FULL = training.Config(FULL.epochs, FULL.batch_size, **WITH_PATIENCE)
SCHEDULES = {
    "short": Schedule("full", replace(IN_CLASS, epochs=7, small_sides=((16, 0.3), (24, 0.8))), 2, 0.79),
    "fast": Schedule("flip_and_shift", replace(IN_CLASS, epochs=6), 3, 0.90),
    "class": Schedule("full", IN_CLASS, 5, 0.89),
    "five": Schedule("flip_and_shift", replace(IN_CLASS, epochs=12), 5, 0.92, averaging=True, widths=(64, 128, 256)),
    "sample": Schedule("full", WITH_THE_SAMPLE, 3, 0.76, sample=True),
    "full": Schedule("flip_and_shift", IN_FULL, 25, 0.94, averaging=True, **FULL.network),
}
COMPETITORS = {"tutorial": tutorial, "ResNet-20": resnet_20}
AIRBENCH = "airbench"


def everything(sample: bool) -> tuple[Split, Split]:
    """All training images as one split, and the test split."""
    training_split, validation = data.load_training(sample=sample)
    parts = zip(*((s.images, s.labels, s.index) for s in (training_split, validation)))
    return Split("training", *map(torch.cat, parts), sample), data.load_test(sample=sample)


def train_by_the_clock(clock, network, split, others, policy, config, normalisation, device) -> None:
    """Trains the network in place, in a folder that is thrown away.

    Raises:
        KeyboardInterrupt: it was stopped; the stop button ends training in good order, but this is no result.
    """
    unused = others.select(torch.arange(10))  # training looks at validation images; here nothing depends on them
    with tempfile.TemporaryDirectory() as folder:
        setting = split, unused, PRESETS[policy], config, normalisation, Path(folder) / "run", device
        for progress in training.training_steps(network, *setting):
            epochs = progress.epochs
            clock.tick()
    if epochs < config.epochs:
        raise KeyboardInterrupt


def ours(schedule: Schedule, seed: int, device: torch.device) -> dict:
    """One run of a schedule: its figures."""
    clock = Clock(device)
    split, test = everything(schedule.sample)
    normalisation = Normalisation.of(split)
    config = replace(schedule.config, seed=seed)
    network = training.new_network(split, normalisation, seed, widths=schedule.widths, mirror=schedule.mirror)
    train_by_the_clock(clock, network, split, test, schedule.policy, config, normalisation, device)
    row = {"accuracy": predict(network, test, normalisation).accuracy} | clock.times()
    row["accuracy_shifted"] = predict(network, test, normalisation, averaging=True).accuracy
    return row | clock.times_of_more_looks(row, looks=3 if schedule.mirror else 6)


def theirs(competitor: Callable, seed: int, device: torch.device, looks: tuple[float, ...]) -> dict:
    """A competitor's accuracy at each look: it trains without end, and yields its network after every step."""
    clock, test = Clock(device), data.load_test(sample=False)
    normalisation, looks_left, found = Normalisation((0.5,) * 3, (0.5,) * 3), list(looks), []
    for network in competitor(seed, device):
        clock.tick()
        if clock.reference_seconds >= 60 * looks_left[0]:
            row = {"seconds": clock.seconds, "reference_seconds": clock.reference_seconds}
            found.append(row | {"accuracy": predict(network, test, normalisation).accuracy})
            looks_left.pop(0)
            if not looks_left:
                break
            clock.skip()
    return {"looks": found, "rate": statistics.mean(clock.rates)}


def former(file: Path, settings: dict) -> list[dict]:
    """The rows of former sittings, of all machines, that were made with these settings."""
    if not file.exists():
        return []
    results, wanted = json.loads(file.read_text()), json.loads(json.dumps(settings))  # tuples become lists, as in there
    made = results["schedules"] | results["competitors"]
    return [row for row in results["rows"] if made[row["name"]] == wanted.get(row["name"])]


def main() -> None:
    parser = command_line(__doc__)
    device = training.best_device()
    names = [*SCHEDULES, *COMPETITORS, *[AIRBENCH] * speed_run.is_there(device)]
    title = "time_to_accuracy" + "_gpu" * (device.type == "cuda")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="train these and no others")
    parser.add_argument("--seeds", type=int, default=20 if device.type == "cuda" else 5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile our network first, meant for GPUs")
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="1 epoch of the sample, 1 seed; results beside the runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "build", help="folder for a folder of finished runs")
    args = parser.parse_args()
    title += "_compiled" * args.compile  # a setting of its own: its rows would take the place of the others
    args.runs /= title
    torch.set_num_threads(args.threads)
    schedules, looks = SCHEDULES, LOOKS
    if args.quick:
        args.seeds, looks = 1, (0.02, 0.05)
        args.output = args.runs = args.runs / "quick"
        short = {"sample": True, "config": replace(WITH_THE_SAMPLE, epochs=1)}
        schedules = {name: replace(schedule, **short) for name, schedule in SCHEDULES.items()}
    if args.compile:
        schedules = {name: replace(s, config=replace(s.config, compile=True)) for name, s in schedules.items()}
    args.runs.mkdir(parents=True, exist_ok=True)
    facts = machine(args.threads)
    where = f"{facts.get('GPU', facts['CPU'])}, torch {facts['torch']}"
    about = {name: asdict(s) | {"network": str(CNN(s.widths, s.mirror))} for name, s in schedules.items()}
    about |= {AIRBENCH: speed_run.ABOUT} if AIRBENCH in names else {}
    competitors = {name: {"looks": looks, "workers": "stand still while the clock measures"} for name in COMPETITORS}
    settings = about | competitors
    rows = {(row["name"], row["seed"]): row for row in former(args.output / f"{title}.json", settings)}
    todo = [(name, seed) for seed in range(args.seeds) for name in args.only]  # a seed at a time
    todo = [] if args.finished else [run for run in todo if run not in rows]

    def run(name: str, seed: int) -> dict:
        if name in schedules:
            row = ours(schedules[name], seed, device)
        elif name in COMPETITORS:
            row = theirs(COMPETITORS[name], seed, device, looks)
        else:
            row = speed_run.airbench_94(seed, device)
        return {"name": name, "seed": seed, "machine": where} | row

    if device.type == "cuda" and todo:  # the first run of its kind warms up and compiles: not counted
        first = {name: run(name, -1)["seconds"] for name in args.only if name not in COMPETITORS}
        facts["first runs"] = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first.items())
    for name, seed in bar(len(todo), "Runs", "run", iterable=todo):
        kept(args.runs / f"{name}-{seed}.json", settings[name], partial(run, name, seed))
    for file in args.runs.glob("*-*.json"):
        row = kept(file, settings.get(file.stem.rsplit("-", 1)[0]), None)
        if row:
            rows[row["name"], row["seed"]] = {key: value for key, value in row.items() if key != "setting"}
    rows = [rows[key] for key in sorted(rows)]
    results = {"sitting": facts, "schedules": about, "competitors": competitors, "rows": rows}
    save(args.output, title, results, report.markdown(results), report.plot)


if __name__ == "__main__":
    stoppable(main)
