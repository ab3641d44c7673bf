"""The whole pipeline without a notebook: python -m cifar_utils [run | train | evaluate | download]."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifar_utils import comparison, data, download, plots, report, runs, settings, training
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.download import DataError
from cifar_utils.policy import PRESETS, Policy
from cifar_utils.predictions import Predictions, predict

DESCRIPTION = """\
Train a small network on CIFAR-10 with data augmentation and evaluate it honestly.
Without a command it does both. Data and runs lie in data/ and runs/ of the current folder, or where the environment
variables CIFAR10_DIR and CIFAR_RUNS say.
"""
PROFILES = "smoke takes seconds, class minutes on a laptop, full wants a GPU (default: CIFAR_PROFILE, or class)"
EPILOG = """\
examples:
  python -m cifar_utils                        train, then evaluate on the test set, all in runs/class
  python -m cifar_utils --profile smoke        the same in seconds, to see that everything works
  python -m cifar_utils train --policy strong  only train, with stronger augmentation
  python -m cifar_utils evaluate runs/class    only evaluate: report, JSON, CSV and plots in runs/class/evaluation
  python -m cifar_utils evaluate runs/a runs/b evaluate both and compare them, image by image
  python -m cifar_utils download               only fetch CIFAR-10, however slow its server is today
  python -m cifar_utils train --help           the options of one command

A run that was stopped, by Ctrl-C or otherwise, goes on when the same command is given again.

exit codes: 0 done; 1 data, checkpoint or file trouble, said in a sentence; 2 wrong arguments; 130 stopped by you
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    options = _parse(arguments)
    try:
        options.action(options)
    except (DataError, CheckpointError, FloatingPointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    style = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    prog = "python -m cifar_utils"
    parser = argparse.ArgumentParser(prog=prog, usage=f"{prog} [command] [options]", description=DESCRIPTION, **style)
    commands = parser.add_subparsers(prog=prog, metavar="command", title="commands", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", metavar="DIR", help="data directory (default: CIFAR10_DIR, or data/)")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--sample", action="store_true", help="use the small sample that ships, not the full set")
    trains = argparse.ArgumentParser(add_help=False)
    trains.add_argument("--profile", choices=settings.PROFILES, help=PROFILES)
    trains.add_argument(
        "--policy",
        metavar="NAME",
        default="full",
        help=f"augmentation: {', '.join(PRESETS)}, or a JSON file (default: full)",
    )
    trains.add_argument(
        "--epochs", metavar="N", type=_whole(1), help="passes over the training images, instead of the profile's"
    )
    trains.add_argument("--compile", action="store_true", help="compile the network first, meant for GPUs")
    trains.add_argument("--seed", metavar="N", type=_whole(0), default=0, help="same seed, same numbers (default: 0)")
    trains.add_argument(
        "--allow-changes", action="store_true", help="go on with a stopped run although its options were others"
    )
    trains.add_argument(
        "--run", metavar="DIR", type=Path, help="for checkpoints and logs (default: runs/ and the profile's name)"
    )
    for name, parents, action, text in (
        ("run", [shared, source, trains], _run, "train, then evaluate (also when no command is given)"),
        (
            "train",
            [shared, source, trains],
            _train,
            "train, or go on with a run that was stopped; checkpoints in its folder",
        ),
        (
            "evaluate",
            [shared, source],
            _evaluate,
            "report on the test set: text, JSON, CSV, plots; compares several runs",
        ),
        ("download", [shared], _download, "fetch the full data set, however long it takes"),
    ):
        command = commands.add_parser(name, parents=parents, help=text, description=text, **style)
        command.set_defaults(action=action)
        if name == "evaluate":
            command.add_argument(
                "runs",
                metavar="run",
                type=Path,
                nargs="*",
                help="a run's folder, or predictions of the test images from elsewhere: a .csv as saved here, or "
                "a .npy of classes [N] or probabilities [N, 10] (default: runs/ and the profile's name). "
                "Several are compared",
            )
            command.add_argument(
                "--output", metavar="DIR", type=Path, help="for the comparison of several (default: runs/comparison)"
            )
    return parser.parse_args(arguments)


def _whole(low: int, high: int = 2**63 - 1):
    """Reads a whole number from low to high."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return read


def _policy(name: str) -> Policy:
    if name in PRESETS:
        return PRESETS[name]
    if not Path(name).is_file():
        raise ValueError(f"--policy {name!r} is neither a file nor one of {', '.join(PRESETS)}")
    try:
        return Policy.from_json(Path(name).read_text())
    except ValueError as error:
        raise ValueError(f"--policy {name!r}: {error}") from None


def _run(options: argparse.Namespace) -> None:
    options.runs = [_train(options)]
    _evaluate(options)


def _train(options: argparse.Namespace) -> Path:
    profile = settings.profile(options.profile)
    policy = _policy(options.policy)
    train_split, validation = data.load_training(options.data, options.sample or profile.sample)
    config = training.Config.of(profile, train_split, options.seed)
    config = replace(config, compile=options.compile)
    if options.epochs:
        config = replace(config, epochs=options.epochs)
    run = options.run or settings.runs_directory() / profile.name
    normalisation = data.Normalisation.of(train_split)
    network = training.new_network(train_split, normalisation, config.seed, **profile.network)
    print(f"{train_split}, {validation}\n{policy}\n{config}")
    history = training.train(
        network,
        train_split,
        validation,
        policy,
        config,
        normalisation,
        run,
        training.best_device(),
        allow_changes=options.allow_changes,
    )
    if len(history) < config.epochs:
        raise KeyboardInterrupt
    plots.save(plots.training_curves(history, f"Training on {train_split}"), run / "training_curves.png")
    print(f"Saved {runs.BEST}, {runs.LAST}, history.json and training_curves.png in {run}.\n")
    return run


def _evaluate(options: argparse.Namespace) -> None:
    paths = options.runs or [settings.runs_directory() / settings.profile().name]
    tables = {}
    for path in paths:
        name = path.resolve().name if len({p.resolve().name for p in paths}) == len(paths) else str(path)
        if path.is_file():
            tables[name], about, validation = _predictions_from_elsewhere(path, options)
            title = f"{name}: {len(tables[name]):,} {tables[name].split} images"
            folder = path.with_name(f"{path.stem}_evaluation")
        else:
            tables[name], about, validation = _predictions_of_a_run(path, options)
            title, folder = f"{name}, epoch {about['epoch']}: {about['data']}", path / "evaluation"
        print(report.report(tables[name], title, validation))
        written = report.write(folder, tables[name], title, about, validation)
        print(f"\nSaved in {folder}: {', '.join(written)}\n")
    first, *others = tables
    comparisons = {name: comparison.compare(tables[first], tables[name]) for name in others}
    for name, result in comparisons.items():
        print(f"{first} (the first) and {name} (the second): {result}")
    if others:
        folder = options.output or settings.runs_directory() / "comparison"
        print(f"\nSaved in {folder}: {', '.join(report.write_comparison(folder, tables, comparisons))}")


def _predictions_of_a_run(run: Path, options: argparse.Namespace) -> tuple[Predictions, dict, Predictions]:
    """Its best network's predictions of the test split, facts for the report, and its predictions for validation."""
    network, normalisation, about = training.restore(run / runs.BEST)
    network.to(training.best_device())
    sample = options.sample or about["setting"]["data"]["is_sample"] or None
    test, (_, validation) = data.load_test(options.data, sample), data.load_training(options.data, sample)
    facts = {"run": str(run), "epoch": about["state"]["epoch"], "data": str(test)}
    return predict(network, test, normalisation), facts, predict(network, validation, normalisation)


def _predictions_from_elsewhere(path: Path, options: argparse.Namespace) -> tuple[Predictions, dict, None]:
    """A table that `Predictions.save` wrote, or a NumPy array of anybody's predictions of the test split."""
    if path.suffix != ".npy":
        return Predictions.load(path), {"file": str(path)}, None
    test = data.load_test(options.data, options.sample or None)
    try:
        values = np.load(path, allow_pickle=False)
        return Predictions.of(values, test), {"file": str(path), "data": str(test)}, None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from None


def _download(options: argparse.Namespace) -> None:
    directory = Path(options.data).expanduser() if options.data else settings.data_directory()
    download.ensure(directory, patience=24 * 60)
    download.check(directory)
    print(f"CIFAR-10 is in {directory}, whole and checked.")


if __name__ == "__main__":
    sys.exit(main())
