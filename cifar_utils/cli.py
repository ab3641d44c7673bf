"""Everything that the notebooks do, as commands of `python -m cifar_utils`; and those for people who run a workshop."""

import argparse
import inspect
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cifar_utils import data, download, network_file, overview, plots, runs, settings, train
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.download import DataError
from cifar_utils.evaluation import comparison, reports, robustness, saliency
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.calibration import Temperature
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.photo import classify
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.progress import bar

DESCRIPTION = """\
Train a network with data augmentation and evaluate it honestly: the plain network on CIFAR-10, or a network and images
of your own. Without a command it does both. Data and runs lie in data/ and runs/ of the project's folder (outside of
it: of the current folder), or where the environment variables CIFAR10_DIR and CIFAR_RUNS point.
"""
SMALL_FOLDER, SMALL_BATCH = 2000, 16  # in larger batches, so few images would make too few steps
FEW_STEPS = 100
PROFILES = "smoke: seconds; class: minutes on a laptop; long: a GPU, or hours (default: CIFAR_PROFILE, or class)"
POLICIES = f"augmentation: {', '.join(PRESETS)}, or a JSON file"
EPILOG = """\
examples:
  python -m cifar_utils                              train the plain network, then evaluate it on the test images
  python -m cifar_utils --profile smoke              the same in seconds, to see that everything works
  python -m cifar_utils --recipe fast                the fast network, whose tricks notebook 5 explains
  python -m cifar_utils preview --policy strong      show what a policy does to some training images
  python -m cifar_utils train --policy strong        only train, with stronger augmentation
  python -m cifar_utils train --model mine.py:Net    train a network of your own, a function or class in a file
  python -m cifar_utils train --recipe mine.py:adam  a function that returns arguments of fit: an optimizer, a loss, ...
  python -m cifar_utils --images photos --size 64    train on your own images, one sub-folder per class
  python -m cifar_utils sweep sweep.yaml             every combination of policies, seeds, networks in a file
  python -m cifar_utils runs                         all runs as a table: what differs, validation accuracy, minutes
  python -m cifar_utils evaluate runs/mine           only evaluate: report, JSON, CSV and plots in runs/mine/evaluation
  python -m cifar_utils evaluate runs/a runs/b       evaluate both and compare them, image by image
  python -m cifar_utils evaluate --tta --robustness  with test-time augmentation; also plot robustness
  python -m cifar_utils classify photo.jpg           the probability of each class; --map FILE saves what supports it
  python -m cifar_utils download                     only fetch CIFAR-10, however slow its server is today
  python -m cifar_utils doctor                       is this machine ready for the workshop, and how long will it take
  python -m cifar_utils catch-up 4                   save what notebook 4 needs from the notebooks before it
  python -m cifar_utils reset                        put runs and changed notebooks aside, for the next group
  python -m cifar_utils copies FOLDER                participants' copies of the notebooks, without outputs
  python -m cifar_utils prepare-room FOLDER          a folder that installs the workshop without the internet
  python -m cifar_utils train --help                 the options of one command

A run that was stopped, by Ctrl-C or otherwise, resumes when the same command is given again.

exit codes: 0 done; 1 trouble, in a sentence; 2 a command, option or value that cannot be read; 130 stopped by you
"""


def run(arguments: list[str]) -> int:
    """Runs one command and returns the exit code."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    options = parse(arguments)
    try:
        options.action(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be printed goes nowhere
        print("error: the program that read this output has ended; the same command resumes", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        print("error: the GPU's memory is full: take smaller images (--size) or a smaller network", file=sys.stderr)
        return 1
    except (DataError, CheckpointError, FloatingPointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "ried to allocate" not in str(error):  # PyTorch: "you tried", "Tried"
            raise
        print("error: there is too little memory: end other programs, or take a smaller network", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command; exits, with a message, where they are wrong."""
    layout = argparse.RawDescriptionHelpFormatter
    prog = "python -m cifar_utils"
    parser = argparse.ArgumentParser(
        prog=prog, usage=f"{prog} [command] [options]", description=DESCRIPTION, epilog=EPILOG, formatter_class=layout
    )
    commands = parser.add_subparsers(prog=prog, metavar="command", title="commands", required=True)

    def command(name: str, action, text: str, *groups) -> argparse.ArgumentParser:
        own = [line for line in EPILOG.splitlines() if f"{prog} {name} " in line and "--help" not in line]
        epilog = "\n".join(["examples:", *own] if own else [])
        found = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False, epilog=epilog, formatter_class=layout
        )
        found.set_defaults(action=action)
        for add in groups:
            add(found)
        return found

    found = command("run", _run, "train, then evaluate (also when no command is given)", _data_options, _train_options)
    found.set_defaults(runs=[], output=None, tta=False, robustness=False, validation=False)
    found = command("preview", _preview, "save a figure of what a policy does to some training images", _data_options)
    found.add_argument("--policy", metavar="NAME", default="full", help=POLICIES)
    found.add_argument("--output", metavar="FILE", type=_png, default=Path("preview.png"), help="default: preview.png")
    command("train", _train, "train, or resume a run that was stopped", _data_options, _train_options)
    found = command("sweep", _sweep, "train every combination that a file lists, each in a run of its own")
    found.add_argument("file", type=Path, help="YAML or Python: options of train, each with a value or a list of them")
    found.add_argument("--folder", metavar="DIR", type=Path, help="for all runs (default: runs/, named as the file)")
    found.add_argument(
        "--jobs",
        metavar="N",
        type=_whole(1, 1024),
        help="runs at once (default: one per core, as far as memory allows; OMP_NUM_THREADS limits the cores)",
    )
    text = "threads per run (default: as the runs before it in the folder, else cores / jobs; with --dask, 1)"
    found.add_argument("--threads", metavar="N", type=_whole(1, 1024), help=text)
    found.add_argument("--dask", metavar="ADDRESS", help="address of a Dask scheduler, as tcp://host:8786")
    found.add_argument("--dry-run", action="store_true", help="list the runs and estimate the hours")
    found = command("runs", _runs, "all runs as a table, the highest validation accuracy first")
    text = "delete this run's folder, after asking; the last six characters of its name are enough"
    found.add_argument("--delete", metavar="DIR", type=Path, help=text)
    found = command("evaluate", _evaluate, "report on the test images; several runs are compared", _data_options)
    found.add_argument(
        "runs",
        metavar="run",
        type=Path,
        nargs="*",
        help="a run's folder (the last six characters of its name are enough), or predictions of the test images from "
        "elsewhere: a .csv as saved here, or a .npy of classes [N] or probabilities [N, classes] (default: the run "
        "that was trained last). Several are compared",
    )
    _model_option(found, several=True)
    found.add_argument("--output", metavar="DIR", type=Path, help="for the comparison (default: runs/comparison)")
    found.add_argument("--tta", action="store_true", help="test-time augmentation: average six views of each image")
    text = "on the validation images instead: choose between runs by these, and report on test images once"
    found.add_argument("--validation", action="store_true", help=text)
    text = "also plot the accuracy on up to 1,000 corrupted images"
    found.add_argument("--robustness", action="store_true", help=text)
    found = command("classify", _classify, "the probability of each class for one photo")
    found.add_argument("photo", type=Path, help="an image file")
    text = "a run's folder, or the last six characters of its name (default: the run trained last, or the shipped one)"
    found.add_argument("--run", metavar="DIR", type=Path, help=text)
    _model_option(found, several=True)
    found.add_argument("--map", metavar="FILE", type=_png, help="save which regions of the photo support the class")
    found = command("download", _download, "fetch the full data set, however long it takes")
    found.add_argument("--data", metavar="DIR", help="data directory (default: CIFAR10_DIR, or data/)")
    command("doctor", _doctor, "check this machine for the workshop, and estimate the minutes of each notebook")
    found = command("catch-up", _catch_up, "save what a notebook needs from the ones before it, where it is missing")
    found.add_argument("notebook", type=_whole(1, 8), help="the number of the notebook that the group is at, as in 4")
    command("reset", _reset, "put runs and changed notebooks aside for a clean start; nothing is deleted")
    found = command("copies", _copies, "write participants' copies of the notebooks, without outputs and solutions")
    found.add_argument("folder", type=Path, help="new or empty; the copies work there like the whole project")
    found = command("prepare-room", _prepare_room, "make a folder that installs the workshop without the internet")
    found.usage = f"{prog} prepare-room FOLDER [options]"  # after --platform, it would be read as another platform
    found.add_argument("folder", type=Path, help="new or empty; for a stick, or for a server in the room")
    platforms = "linux, linux-arm, windows or macos-arm (default: this one; others need the package uv)"
    found.add_argument("--platform", nargs="+", default=[], help=platforms)
    found.add_argument("--python", nargs="+", default=[], help="versions, as in 3.12 (default: this one)")
    found.add_argument("--cpu", action="store_true", help="PyTorch without GPU libraries: several GB less on Linux")
    options, unknown = parser.parse_known_args(arguments)
    if options.action is _evaluate and not any(word.startswith("-") for word in unknown):
        options.runs, unknown = [*options.runs, *map(Path, unknown)], []  # runs may also follow an option
    if unknown:  # the command's own usage tells more than that of all commands
        commands.choices.get(arguments[0], parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="data directory (default: CIFAR10_DIR, or data/)")
    parser.add_argument("--sample", action="store_true", help="use the small sample that ships, not the full set")
    parser.add_argument("--images", metavar="DIR", type=Path, help="images of your own, one sub-folder per class")
    text = "their side in pixels (default: 32, or that of the run which is evaluated)"
    parser.add_argument("--size", metavar="S", type=_whole(16, 256), help=text)


def _model_option(parser: argparse.ArgumentParser, several: bool = False) -> None:
    text = "a function or class that makes the network: called with classes=... or without arguments"
    if several:
        text = "of a run's own network or recipe (default: those that were trained here or saved in notebook 2); "
        text += "may be given more than once"
    parser.add_argument("--model", metavar="FILE.py:NAME", action="append" if several else "store", help=text)


# No name is a prefix of an option of torchrun, which would take it for its own.
def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=settings.PROFILES, help=PROFILES)
    parser.add_argument("--policy", metavar="NAME", help=f"{POLICIES} (default: full, or the recipe's)")
    _model_option(parser)
    recipes = "train by a recipe: class, fast, short, sample, few, wide (notebook 5's network), own (your network); "
    recipes += "or FILE.py:NAME, a function (model, train, *, seed, epochs) that returns keyword arguments of fit"
    parser.add_argument("--recipe", metavar="NAME", help=recipes)
    text = "passes over the training images, in batches of 128; "
    text += f"of {SMALL_BATCH}, where fewer than {SMALL_FOLDER:,} of your own are trained on; a recipe may have its own"
    parser.add_argument("--epochs", metavar="N", type=_whole(1), help=text)
    parser.add_argument("--seed", metavar="N", type=_whole(0), default=0, help="same seed, same result (default: 0)")
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="of the run (default: one in runs/, named by the settings)"
    )
    shards = "compute batches in N parts, by torchrun's processes or by one (default under torchrun: one per process)"
    parser.add_argument("--shards", metavar="N", type=_whole(1, 1024), help=shards)


def _png(text: str) -> Path:
    """Reads the name of an image file to write."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png")
    return Path(text)


def _whole(low: int, high: int = 2**63 - 1):
    """Reads a whole number from low to high."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
            end = f" to {high}" if high < 2**63 - 1 else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}{end}")
        return int(text)

    return read


def _policy(name: str) -> Policy:
    if name in PRESETS:
        return PRESETS[name]
    if not Path(name).is_file():
        raise ValueError(f"--policy {name!r} is neither a file nor one of {', '.join(PRESETS)}")
    try:
        return Policy.from_json(Path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--policy {name!r}: {error}") from None


def _images(options: argparse.Namespace, train: bool, sample: bool | None, size: int | None = None) -> data.Dataset:
    """The training (undivided) or test images that the options name."""
    if options.images and options.sample:
        raise ValueError("--sample is a part of CIFAR-10: leave it out where --images names images of your own")
    if options.images:
        return data.from_folder(options.images, size=options.size or size or 32, train=train)
    if options.size:
        raise ValueError("--size is for images of your own: name their folder with --images")
    return data.cifar10(train, options.sample or sample, options.data)


def _recipe(text: str):
    """The recipe that --recipe names: a speedrun.Recipe, or a function that returns keyword arguments of `fit`."""
    from cifar_utils.speedrun import RECIPES, Recipe

    recipe = RECIPES.get(text) or (_code(text, "--recipe") if ":" in text else None)
    if recipe is None:
        raise ValueError(f"--recipe {text!r} is not one of {', '.join(RECIPES)}; one of your own is named FILE.py:NAME")
    if not isinstance(recipe, Recipe) and not inspect.isfunction(recipe):
        raise ValueError(f"--recipe {text!r} is a {type(recipe).__name__}; a function or a speedrun.Recipe is needed")
    return recipe


def _arguments(recipe, model: nn.Module, images: data.Dataset, options: argparse.Namespace, usual: dict) -> dict:
    """Keyword arguments of `fit` by a recipe; what a function leaves out is as usual."""
    chosen = {"seed": options.seed, "epochs": options.epochs}
    if not callable(recipe):
        from cifar_utils import speedrun

        found = speedrun.recipe(model, images, recipe, **chosen)
        if (total := found["sampler"].total_steps(found["epochs"])) < FEW_STEPS:
            print(f"This recipe makes only {total} steps with {images}: give more --epochs, or leave out --recipe.")
        return found
    try:
        found = recipe(model, images, **chosen)
    except Exception as error:  # a participant's code can fail in any way
        raise ValueError(f"--recipe {options.recipe!r} fails ({type(error).__name__}: {error})") from error
    known = inspect.signature(train.steps).parameters.keys() - {"model", "train", "val", "run"}
    if not isinstance(found, dict) or found.keys() - known:
        what = f"{min(found.keys() - known)!r} in a dict" if isinstance(found, dict) else f"a {type(found).__name__}"
        expected = f"a dict of {', '.join(sorted(known))} is needed"
        raise ValueError(f"--recipe {options.recipe!r} returns {what}; {expected}")
    if "sampler" in found:
        usual.pop("batch_size", None)  # the sampler makes the batches
    return usual | found


def _network(text: str | None, classes: int, normalize: Normalize) -> nn.Module:
    """The network that --model names, or the plain one; Normalize comes first unless it has one of its own."""
    if not text:
        return nn.Sequential(normalize, SmallCNN(classes))
    return network_file.with_normalize(network_file.make(_code(text), classes), normalize)


def _code(text: str, option: str = "--model"):
    """What an option names as FILE.py:NAME."""
    file, _, name = text.rpartition(":")
    try:
        if not file or not name:
            raise ValueError("a file, and a name in it, are needed")
        return network_file.load(file, name)
    except ValueError as error:
        hint = "" if file.endswith(".py") and name and Path(file).exists() else "; name it as FILE.py:NAME"
        raise ValueError(f"{option} {text!r}: {error}{hint}") from error


def _run(options: argparse.Namespace) -> None:
    if run := _train(options):
        own = options.model or options.recipe  # a recipe of your own may have another width
        options.runs, options.model = [run], [own] if own and ":" in own else None
        _evaluate(options)


def _preview(options: argparse.Namespace) -> None:
    policy = _policy(options.policy)
    images = _images(options, True, settings.profile().sample)
    images = images.select([int((images.labels == k).nonzero()[0]) for k in range(min(len(images.classes), 8))])
    draws = [plots.to_pixels(policy(images.images, images.index, epoch)) for epoch in range(8)]
    names = [images.classes[label] for label in images.labels]
    title = f"{options.policy} (of {images})"
    plots.save(plots.augmentation_preview(images.images, np.stack(draws, 1), names, title), options.output)
    print(f"{policy}\nSaved {options.output}.")


def prepare(options: argparse.Namespace) -> tuple[nn.Module, data.Dataset, data.Dataset, dict]:
    """What the options of train stand for: model, training and validation images, and keyword arguments of `fit`."""
    profile = settings.profile(options.profile)
    train_images, val = data.split(_images(options, True, profile.sample))
    recipe = _recipe(options.recipe) if options.recipe else None
    torch.manual_seed(options.seed)
    if options.model or recipe is None or callable(recipe):
        model = _network(options.model, len(train_images.classes), Normalize.from_dataset(train_images))
    else:
        from cifar_utils.speedrun import network

        model = network(train_images, options.seed, **recipe.network)
    usual = profile.epochs if len(train_images) > 10_000 else profile.sample_epochs
    arguments = {"transform": PRESETS["full"], "epochs": options.epochs or usual, "seed": options.seed}
    if options.images and len(train_images) < SMALL_FOLDER:
        arguments["batch_size"] = SMALL_BATCH
    if recipe:
        arguments = _arguments(recipe, model, train_images, options, arguments)
    if options.policy:
        usual, policy = arguments["transform"], _policy(options.policy)
        # A recipe keeps its progressive resizing.
        arguments["transform"] = type(usual)(policy, usual.sizes) if hasattr(usual, "sizes") else policy
    return model, train_images, val, arguments


def _train(options: argparse.Namespace) -> Path | None:
    """Trains; the run's folder, or None in all processes of torchrun but the first."""
    if not options.shards and "TORCHELASTIC_RUN_ID" not in os.environ:
        return _fit(options, train.steps)
    from cifar_utils.scale import parallel

    with parallel.process_group():
        return _fit(options, partial(parallel.steps, shards=options.shards or parallel.processes()))


def _fit(options: argparse.Namespace, steps: Callable) -> Path | None:
    model, train_images, val, arguments = prepare(options)
    print(f"{train_images}, {val}\n{arguments['transform']}", flush=True)
    own = _code(options.model) if options.model else None
    states = steps(model, train_images, val, run=options.folder, **arguments)
    state = next(states, None)
    if state is None:
        return None
    if own and state.run.is_relative_to(settings.runs_directory()):
        with suppress(Exception):  # so that evaluate and classify find the network; training must not end for it
            network_file.keep(own)
    deque(states, maxlen=0)  # to the end, where the state is that of the last step
    if state.stop:
        raise KeyboardInterrupt
    plots.save(plots.training_curves(state.history, f"Training on {train_images}"), state.run / "training_curves.png")
    print(f"Saved {runs.BEST}, {runs.LAST}, history.json and training_curves.png in {state.run}.\n")
    return state.run


def _sweep(options: argparse.Namespace) -> None:
    from cifar_utils.scale import sweep

    names = ("file", "folder", "jobs", "threads", "dask", "dry_run")
    if not sweep.run(**{name: getattr(options, name) for name in names}) and not options.dry_run:
        raise ValueError("not all runs are finished")


def _runs(options: argparse.Namespace) -> None:
    if not options.delete:
        print(overview.table(overview.find_runs()))
        return
    options.delete = overview.folder_of(options.delete)
    overview.check_deletable(options.delete)
    print(f"Delete {options.delete} and all checkpoints in it for good? Type yes:", end=" ", flush=True)
    if sys.stdin.readline().strip() != "yes":
        print("Nothing was deleted.")
        return
    overview.delete(options.delete)
    print("Deleted.")


def _evaluate(options: argparse.Namespace) -> None:
    paths = [overview.folder_of(path) for path in options.runs] or [_latest_run()]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("the same run is named twice: there is nothing to compare")
    if options.output and len(paths) == 1:
        raise ValueError("--output is for a comparison: the report on a single run is saved in the run's own folder")
    tables = {}
    for path in paths:
        name = path.resolve().name if len({p.resolve().name for p in paths}) == len(paths) else str(path)
        if path.is_dir():
            tables[name], about, validation, images = _predictions_of_a_run(path, options)
            title = f"{name}, epoch {about['epoch']}" + ", test-time augmentation" * options.tta
        else:
            tables[name], about, validation, images = _predictions_from_elsewhere(path, options)
            title = name
        folder = _folder_for(path, options)
        print(reports.report(tables[name], title, validation=validation))
        written = reports.write(folder, tables[name], title, about, validation, images)
        if not options.robustness:
            (folder / "robustness.png").unlink(missing_ok=True)  # of an earlier evaluation
        print(f"\nSaved in {folder}: {', '.join(written)}\n")
    first, *others = tables
    comparisons = {name: comparison.compare(tables[first], tables[name]) for name in others}
    for name, result in comparisons.items():
        print(f"{first} (the first) and {name} (the second): {result}")
    if len(others) > 1:  # Bonferroni's
        k = len(others)
        print(f"Of {k} comparisons, one may look significant by chance: only p below 0.05 / {k} is significant.")
    if others:
        folder = options.output or settings.runs_directory() / ("comparison" + "_validation" * options.validation)
        print(f"\nSaved in {folder}: {', '.join(reports.write_comparison(folder, tables, comparisons))}")


def _latest_run() -> Path:
    """The run with a best model that was trained last."""

    def trained(best: Path) -> float:
        last = best.with_name(runs.LAST)
        return (last if last.exists() else best).stat().st_mtime

    latest = max(settings.runs_directory().glob(f"*/{runs.BEST}"), key=trained, default=None)
    if latest is None:
        raise CheckpointError(f"There is no run in {settings.runs_directory()} yet. Train first, or name its folder.")
    return latest.parent


def _trained(run: Path, named: list[str] | None) -> tuple[nn.Module, dict]:
    """A run's best model on the best device, and what its checkpoint says of itself."""
    about, others = runs.about(run), [_code(text) for text in named or ()]
    if about["settings"]["model"] == "CNN":
        from cifar_utils import speedrun

        networks = {str(recipe.network): recipe for recipe in speedrun.RECIPES.values()}  # each once
        others += networks.values()
        others = [partial(speedrun.CNN, **x.network) if isinstance(x, speedrun.Recipe) else x for x in others]
    return network_file.trained(run, *others).to(train.best_device()), about


def _predictions_of_a_run(
    run: Path, options: argparse.Namespace
) -> tuple[Predictions, dict, Predictions | None, data.Dataset]:
    """Its best model's predictions of the test (or validation) images, facts, those for validation, and the images.

    The validation images must be those of the run: on another split, some of them would be training images.
    """
    model, about = _trained(run, options.model)
    its = about["settings"]["data"]
    is_cifar = its["source"] in ("CIFAR-10", "SAMPLE")
    if not is_cifar and not options.images:
        raise ValueError(
            f"{run} was trained on images of {its['source']}: name their folder with --images (or, "
            "if it was a Dataset made in a notebook, evaluate it there)"
        )
    sample = its["source"] == "SAMPLE"
    wrong = {
        "--images": options.images and is_cifar,
        "--size": options.size not in (None, its["size"]),
        "--sample": options.sample and not sample,
    }
    if name := next((name for name, is_wrong in wrong.items() if is_wrong), None):
        trained_on = f"{its['title']}, {its['size']} x {its['size']} pixels"
        raise ValueError(f"{run} was trained on {trained_on}: leave out {name}")
    whole = _images(options, True, sample, its["size"])
    _, val = data.split(whole, seed=its["seed"] or 0)
    if val.fingerprint() != its["validation"]:
        raise ValueError(
            f"{run} was trained with other validation images than these: {val}. If they were not a tenth of each "
            "class, put the images into folders train/ and val/ as they were then, or evaluate in the notebook that "
            "trained it"
        )
    facts, on_val = {"run": str(run), "epoch": about["epoch"], "tta": options.tta}, predict(model, val, tta=options.tta)
    with suppress(CheckpointError):  # of a run that ships, there is no last
        done, planned = runs.about(run, "last")["epoch"], about["settings"]["epochs"]
        if done < planned:
            print(f"{run.name} is not finished: {done} of {planned} epochs. The command that trains it resumes it.")
    has_test = not options.images or data.has_test_folder(options.images)
    if not has_test and not options.validation:
        print(f"{options.images} has no folder test/, so this is a report on the validation images.")
    if options.validation or not has_test:
        print("The epoch was chosen on these images, so expect slightly less on others. No temperature is fitted.\n")
        images, predictions, on_val = val, on_val, None
    else:
        images = _images(options, False, sample, its["size"])
        predictions = predict(model, images, tta=options.tta)
    if options.robustness:
        _plot_robustness(model, images, run, _folder_for(run, options), ", one view of each" * options.tta)
    return predictions, facts | {"data": str(images)}, on_val, images


def _folder_for(path: Path, options: argparse.Namespace) -> Path:
    return reports.folder_for(path, "validation" if options.validation else "test")


def _plot_robustness(model: nn.Module, images: data.Dataset, run: Path, folder: Path, of: str) -> None:
    file = reports.make_folder(folder) / "robustness.png"
    some = images.select(torch.linspace(0, len(images) - 1, min(len(images), 1000)).long())
    curves = {
        name: {run.name: robustness.robustness_curve(model, some, name)}
        for name in bar(len(robustness.CORRUPTIONS), "Corruptions", "", iterable=robustness.CORRUPTIONS)
    }
    units = {name: corruption.unit for name, corruption in robustness.CORRUPTIONS.items()}
    plots.save(evaluation_plots.robustness_curves(curves, units, f"On corrupted images ({some}){of}"), file)
    print(f"Saved {file}.")


def _predictions_from_elsewhere(
    path: Path, options: argparse.Namespace
) -> tuple[Predictions, dict, None, data.Dataset]:
    """A table that `Predictions.save` wrote, or a NumPy array of any model's predictions of the test images."""
    if not path.is_file():
        raise ValueError(f"there is no run and no file of predictions {path}")
    if options.tta or options.robustness or options.validation:
        raise ValueError(f"--tta, --robustness and --validation need a run's network; {path} is a file of predictions")
    images = _images(options, False, settings.profile().sample)
    return Predictions.load(path, images), {"file": str(path)}, None, images


def _classify(options: argparse.Namespace) -> None:
    if options.map and options.map.resolve() == options.photo.resolve():
        raise ValueError("--map names the photo itself, which would be lost: name another file")
    found = list(settings.runs_directory().glob(f"*/{runs.BEST}"))
    run = overview.folder_of(options.run) if options.run else _latest_run() if found else runs.SHIPPED
    model, about = _trained(run, options.model)
    its, (temperature, calibrated) = about["settings"]["data"], _calibration(run)
    classes = classify(model, options.photo, its["classes"], size=its["size"], temperature=temperature)
    print(f"{options.photo}, by {run} ({calibrated})")
    for name, probability in classes.items():
        print(f"  {name:<16} {probability:6.1%}")
    if options.map:
        _save_map(model, options.photo, list(classes)[0], its, options.map)


def _save_map(model: nn.Module, photo: Path, name: str, its: dict, file: Path) -> None:
    """The photo as the network sees it, and which of its regions support the class."""
    image = data.square(data.read_image(photo), its["size"])[None]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise ValueError("--map needs a network with convolutions")
    maps = saliency.class_activation_map(model, image, [its["classes"].index(name)], convolutions[-1])
    places = saliency.enlarge(maps, its["size"]).numpy()
    plots.save(evaluation_plots.class_activation_maps(image, places, [name], f"{photo.name}: support for {name}"), file)
    print(f"Saved {file}.")


def _calibration(run: Path) -> tuple[Temperature, str]:
    """The temperature that evaluate fitted, or 1; and in words which it is, or why there is none."""
    report = run / "evaluation" / "report.json"
    try:
        facts = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
        # One that was fitted to the mean of several views does not suit a single view.
        fitted = None if facts.get("tta") else facts.get("temperature")
        temperature = Temperature(fitted or 1.0, facts.get("model", "") if fitted else "")
        if not temperature > 0:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{report} is damaged: evaluate the run again") from None
    if fitted:
        return temperature, f"temperature {temperature:.2f}"
    if run == runs.SHIPPED:
        return temperature, "not calibrated"
    if not facts:
        return temperature, "not calibrated: run evaluate first"
    if facts.get("tta"):
        return temperature, "not calibrated: run evaluate without --tta first"
    why = "evaluate fits no temperature without test images, or where none fits best on the validation images"
    return temperature, f"not calibrated: {why}"


def _download(options: argparse.Namespace) -> None:
    directory = settings.data_directory(options.data)
    download.ensure(directory, patience=24 * 60)
    download.check(directory)
    print(f"CIFAR-10 is in {directory}, whole and checked.")


def _doctor(options: argparse.Namespace) -> None:
    from cifar_utils.workshop import doctor

    if not doctor.report():
        raise ValueError("this machine is not ready for the workshop: do what the FIX lines say, then run this again")


def _catch_up(options: argparse.Namespace) -> None:
    from cifar_utils.workshop import catch_up

    print(*catch_up.catch_up(options.notebook), sep="\n")
    print(f"Now open notebook {options.notebook} in JupyterLab.")


def _reset(options: argparse.Namespace) -> None:
    from cifar_utils.workshop import reset

    print(*reset.reset(), sep="\n")


def _copies(options: argparse.Namespace) -> None:
    from cifar_utils.workshop import copies

    dead_links = copies.write(options.folder)
    print(
        f"The copies are in {options.folder}. Participants install in it as its README says. Those who have an "
        "installation elsewhere activate it, set CIFAR10_DIR to its data/, and run jupyter lab in the copies."
    )
    if dead_links:
        print(f"Links that lead nowhere there: {', '.join(dead_links)}")


def _prepare_room(options: argparse.Namespace) -> None:
    from cifar_utils.workshop import room

    packages = room.requirements()
    print(*room.prepare(options.folder, packages, options.platform, options.python, options.cpu), sep="\n")
