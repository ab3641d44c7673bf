"""The whole way, from training to the command line, for every kind of network, transform, loss, optimizer and image.

Train, stop, resume bit for bit, load the best, predict, compare, explain, report, evaluate and classify by command.
"""

import asyncio
import json
import os
import random
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import NETWORKS, network, seeded, tiny
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torchvision.transforms import v2

from cifar_utils import __main__ as command_line
from cifar_utils import checkpoint, data, log, runs, train
from cifar_utils.augment import PRESETS
from cifar_utils.evaluation import class_activation_map, classify, compare, predict, report, reports
from cifar_utils.models import Normalize, SmallCNN, uncompiled
from cifar_utils.speedrun.muon import muon
from cifar_utils.speedrun.resizing import ProgressiveResizing
from cifar_utils.takehome import FusedTransform
from cifar_utils.train import fit, steps
from cifar_utils.widgets import ConfusionExplorer, Dashboard, Explorer

slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def no_figures_in_the_log():
    """They take longer than so small a training; test_training.py looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "log_epoch", lambda *_: None)
        yield


# Training that is stopped


def interrupted(model, stops: list[int], *datasets, **options) -> list[dict]:
    """Trains until so many states have been seen, once for each of the stops; then to the end.

    Args:
        model: makes the model: each time another one, from other random numbers, as in another process.
        options: of `steps`, or a function of the model that returns them: optimizers belong to a model.
    """
    make_options = options.pop("make_options", lambda model: {})
    for number, stop in enumerate([*stops, None]):
        torch.manual_seed(number), np.random.seed(number), random.seed(number)
        fresh = model(number)
        for seen, state in enumerate(steps(fresh, *datasets, device="cpu", **options, **make_options(fresh))):
            state.stop = state.stop or seen == stop
    return state.history


def contents(run: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    """All that must be equal in the end: every value in both checkpoints but the seconds, and every tensor."""
    texts, tensors = [], {}
    for name in (runs.BEST, runs.LAST):
        saved = checkpoint.load(run / name)
        states = saved["states"]
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in states["trainer"]["history"]]
        states["trainer"] |= {"seconds": 0.0, "history": rows}
        texts.append(json.dumps(checkpoint.pack({"settings": saved["settings"], "states": states}, tensors, name)))
    return texts, tensors


def assert_same(a: Path, b: Path) -> None:
    (texts_a, tensors_a), (texts_b, tensors_b) = contents(a), contents(b)
    assert texts_a == texts_b
    assert tensors_a.keys() == tensors_b.keys() and len(tensors_a) > 4
    assert [name for name in tensors_a if not torch.equal(tensors_a[name], tensors_b[name])] == []


def same(a: Path, b: Path) -> bool:
    try:
        assert_same(a, b)
    except AssertionError:
        return False
    return True


# Networks


def one_block(seed: int) -> nn.Module:
    return seeded(lambda: nn.Sequential(Normalize(), SmallCNN(10, widths=(8,))), seed)


MODELS = {name: lambda seed, name=name: network(name, seed) for name in NETWORKS}
MODELS["compiled, eager"] = lambda seed: torch.compile(network("SmallCNN", seed), backend="eager")
MODELS["compiled"] = lambda seed: torch.compile(one_block(seed))  # each layer more takes the compiler seconds


def each(names, quick=("SmallCNN", "flat", "transformer", "dropout", "GroupNorm", "no norm", "compiled, eager")):
    """Parametrizes by these networks; those that take long are slow tests."""
    return pytest.mark.parametrize(
        "name", [name if name in quick else pytest.param(name, marks=slow) for name in names]
    )


each_network = each(MODELS)
each_but_the_compiled = each([name for name in MODELS if name != "compiled"])  # for what trains it anew


@dataclass
class Way:
    """Two finished trainings of one network: `through` was never interrupted, `stopped` twice."""

    name: str
    through: Path
    stopped: Path
    history: list[dict]

    def load(self, which: str = "best") -> nn.Module:
        return runs.load(self.stopped, MODELS[self.name](7), which)


@cache
def compiler_problem() -> str:
    """Why torch.compile's default backend does not work here; an empty string where it does, or must, as in CI."""
    try:
        torch.compile(lambda x: (x + 1).relu())(torch.ones(3))
    except Exception as error:  # whatever its tools raise where they are missing
        if os.environ.get("CIFAR_BROWSER") == "required":
            raise
        return f"torch.compile does not work here: {str(error).splitlines()[0]}"
    return ""


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """The trainings of a network by its name, done once."""

    @cache
    def get(name: str) -> Way:
        if name == "compiled" and compiler_problem():
            pytest.skip(compiler_problem())
        folder = tmp_path_factory.mktemp("way")
        usual = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 16}
        datasets = tiny(32), tiny(20, "validation")
        paths = folder / "through", folder / "stopped"
        history = interrupted(MODELS[name], [], *datasets, run=paths[0], **usual)
        interrupted(MODELS[name], [1, 3], *datasets, run=paths[1], **usual)
        return Way(name, *paths, history)

    return get


@each_network
def test_a_stopped_training_ends_bit_for_bit_where_an_uninterrupted_one_does(way, name):
    assert_same(way(name).through, way(name).stopped)


@each_network
def test_the_best_is_loaded_in_eval_mode(way, name):
    assert not any(module.training for module in uncompiled(way(name).load()).modules())


@each_network
def test_100_images_one_by_one_are_predicted_as_in_a_batch(way, name):
    model, test = uncompiled(way(name).load()), tiny(100, "test")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        alone = torch.cat([model(image[None].float() / 255) for image in test.images]).softmax(1)
    together = torch.from_numpy(predict(model, test).probabilities)
    assert torch.allclose(alone, together, atol=1e-4)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "statistics have moved"


def test_in_training_mode_they_would_not_be(way):
    """The negative control: what a restored network that is left in training mode predicts."""
    model, test = way("SmallCNN").load().train(), tiny(100, "test")
    with torch.no_grad():
        alone = torch.cat([model(image[None].float() / 255) for image in test.images]).softmax(1)
    assert not torch.allclose(alone, torch.from_numpy(predict(model, test).probabilities), atol=1e-2)


@each_network
def test_the_checkpoint_is_the_lowest_validation_loss(way, name):
    validation = predict(way(name).load(), tiny(20, "validation"))
    assert validation.loss == pytest.approx(min(row["validation_loss"] for row in way(name).history), rel=1e-5)


@each_network
def test_two_networks_are_compared(way, name):
    test = tiny(40, "test")
    result = compare(predict(way(name).load(), test), predict(way("flat").load("last"), test))
    assert result.images == 40 and 0 <= result.p_value <= 1


@each([name for name in MODELS if name not in ("flat", "dropout")])
def test_every_convolution_is_explained_by_a_class_activation_map(way, name):
    model, images = way(name).load(), tiny(3, "test").images
    layers = [layer for layer in uncompiled(model).modules() if isinstance(layer, nn.Conv2d)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for layer in layers:
        maps = class_activation_map(model, images, [0, 3, 9], layer)
        assert len(maps) == 3 and maps.ndim == 3 and maps.isfinite().all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in layers), "the hook is gone"


@pytest.mark.parametrize("name", ["flat", "dropout"])
def test_a_network_without_a_convolution_says_that_it_has_no_map(way, name):
    model = way(name).load()
    linear = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    with pytest.raises(ValueError, match="a class activation map needs .* as a convolution returns it"):
        class_activation_map(model, tiny(3, "test").images, [0, 3, 9], linear)


@each_network
def test_the_report_has_all_classes_and_a_temperature(way, name):
    model = way(name).load()
    text = report(predict(model, tiny(40, "test")), name, validation=predict(model, tiny(20, "validation")))
    assert all(class_name in text for class_name in data.CIFAR10_CLASSES)
    assert text.startswith(f"{name}: SAMPLE, 40 test images") and "temperature" in text


@each(MODELS, quick=())
def test_the_report_is_written(way, name, tmp_path):
    model = way(name).load()
    predictions, validation = predict(model, tiny(40, "test")), predict(model, tiny(20, "validation"))
    names = reports.write(tmp_path, predictions, name, validation=validation)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    facts = json.loads((tmp_path / "report.json").read_text())
    fits_none = "no temperature fits best" in report(predictions, name, validation=validation)  # on so few images
    assert facts["accuracy"] == predictions.accuracy and ("temperature" in facts) != fits_none


@each_network
def test_the_explorer_judges_by_it(way, name):
    explorer = Explorer(tiny(32), tiny(20, "validation"), network=way(name).load(), rows=2, columns=2)
    assert explorer.error == "" and "%" in explorer.view["warning"]


@each_but_the_compiled
def test_the_dashboard_follows_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_utils.widgets.dashboard.PAUSE", 0)
    monkeypatch.setattr("cifar_utils.widgets.dashboard.display", lambda *_, **__: None)  # the figures take longer
    options = {"epochs": 1, "batch_size": 16, "run": tmp_path, "device": "cpu"}
    board = Dashboard(MODELS[name](0), tiny(32), tiny(20, "validation"), **options)
    history = asyncio.run(board.train())
    assert board.view["status"] == "finished" and len(board.view["history"]) == len(history) == 1
    assert board.view["done"] == 1 and board.error == ""


@each_but_the_compiled
@pytest.mark.parametrize("optimizer", ["default", "AdamW of all parameters"])
def test_frozen_parameters_stay_frozen_bit_for_bit(name, optimizer, tmp_path):
    model = MODELS[name](0)
    parameters = list(model.parameters())
    frozen, free = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    for p in frozen:
        p.requires_grad_(False)
    before = [p.detach().clone() for p in parameters]
    options = {} if optimizer == "default" else {"optimizer": torch.optim.AdamW(parameters, weight_decay=0.1)}
    fit(model, tiny(32), tiny(20, "validation"), epochs=1, batch_size=16, run=tmp_path, device="cpu", **options)
    assert frozen and all(torch.equal(a, p) for a, p in zip(before, frozen))
    assert any(not torch.equal(a, p) for a, p in zip(before[len(frozen) :], free))


# The command line


def image_folder(root: Path, classes: list[str], count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    """Class folders of PNG files with smooth random images, each class in a color of its own."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)
            color = Image.new("RGB", size, tuple(np.random.default_rng(number).integers(0, 256, 3).tolist()))
            Image.blend(pixels, color, 0.5).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory) -> Path:
    """A folder of train/ and test/ images in CIFAR-10's classes."""
    root = tmp_path_factory.mktemp("ten_classes")
    for part, seed in (("train", 0), ("test", 1)):
        image_folder(root / part, list(data.CIFAR10_CLASSES), 4, seed=seed)
    return root


@pytest.fixture
def command(capsys):
    """Runs a command, which must succeed, and returns what it printed."""

    def run(*arguments) -> str:
        assert command_line.main([str(a) for a in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def own_file(folder: Path, name: str) -> str:
    """FILE.py:NAME of a participant's file that makes this network."""
    made = f"tiny.NETWORKS[{name!r}]()"
    if name.startswith("compiled"):
        made = "torch.compile(tiny.NETWORKS['SmallCNN'](), backend='eager')"
    (folder / "mine.py").write_text(f"import tiny\nimport torch\n\n\ndef make():\n    return {made}\n")
    return f"{folder / 'mine.py'}:make"


@each([name for name in MODELS if name != "compiled"], quick=("transformer",))
def test_the_command_line_trains_evaluates_and_classifies_with_it(name, tmp_path, ten_classes, command):
    own, run = ["--model", own_file(tmp_path, name)], tmp_path / "run"
    images = ["--images", ten_classes, "--size", 32]
    command("train", *own, *images, "--epochs", 1, "--folder", run)
    assert len(json.loads((run / "history.json").read_text())) == 1
    out = command("evaluate", run, *own, *images)
    assert "40 test images" in out and (run / "evaluation" / "report.json").is_file()
    lines = command("classify", ten_classes / "test" / "cat" / "0.png", "--run", run, *own).splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(data.CIFAR10_CLASSES)
    assert sum(float(line.split()[1].rstrip("%")) for line in lines[1:]) == pytest.approx(100, abs=1)


# Transforms, losses, optimizers and schedulers


def with_noise(images):
    """A function of a participant's own, with random numbers of every library."""
    images = images / 255 * random.uniform(0.5, 1)
    return (images + 0.1 * torch.randn_like(images) + 0.1 * np.random.rand()).clamp(0, 1)


def with_cutout_labels(images, labels):
    """A function of images and labels: soft labels of its own."""
    share = torch.rand(len(images), 1) / 2
    return images.flip(0), (1 - share) * F.one_hot(labels.flip(0), 10) + share / 10


TRANSFORMS = {
    "none": None,
    "Policy": PRESETS["full"],
    "RandomErasing": v2.RandomErasing(p=0.8),
    "RandAugment": v2.RandAugment(),
    "ColorJitter": v2.ColorJitter(0.3, 0.3, 0.3),
    "list": [PRESETS["light"], v2.RandomErasing(p=0.5)],
    "Compose": v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4)]),
    "MixUp": v2.MixUp(num_classes=10),
    "CutMix": v2.CutMix(num_classes=10),
    "one of both": [PRESETS["light"], v2.RandomChoice([v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)])],
    "function of images": with_noise,
    "function of both": with_cutout_labels,
    "FusedTransform": FusedTransform(PRESETS["full"]),
    "ProgressiveResizing": ProgressiveResizing(PRESETS["full"]),
}


def focal_loss(logits, labels):
    """T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017."""
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-cross_entropy).exp()) ** 2 * cross_entropy).mean()


def binary_loss(logits, labels):
    """One yes-or-no question per class, as in "ResNet strikes back" (R. Wightman et al., 2021); labels may be soft."""
    return F.binary_cross_entropy_with_logits(logits, labels if labels.ndim == 2 else F.one_hot(labels, 10).float())


class LearnedScale(nn.Module):
    """A loss with a state of its own: a running mean, which resuming must bring back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(2.3))

    def forward(self, logits, labels):
        loss = F.cross_entropy(logits, labels)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss / self.mean


LOSSES = {
    "default": lambda: None,
    "label smoothing": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "class weights": lambda: nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10)),
    "focal": lambda: focal_loss,
    "binary": lambda: binary_loss,
    "with a state": LearnedScale,
}
OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.003),
    "Muon": lambda model: muon(model, 0.05),
}
SCHEDULERS = {  # name -> how often it steps, and its maker; there are 6 steps in 2 epochs
    "default": ("step", lambda optimizer: None),
    "OneCycleLR": ("step", lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=6)),
    "CosineAnnealingLR per step": ("step", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6)),
    "CosineAnnealingLR per epoch": ("epoch", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 2)),
    "MultiStepLR": ("epoch", lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)),
    "ReduceLROnPlateau": ("epoch", lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)),
    "ChainedScheduler": (
        "epoch",
        lambda optimizer: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=1), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        ),
    ),
    "SequentialLR": (
        "step",
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(optimizer, 4)],
            milestones=[2],
        ),
    ),
}
# The states are those of the start, of 3 steps and an epoch's end, and of the same once more. These three: within an
# epoch, at its end, within the next. `combinations` and tests/test_faults.py stop in every state.
STOPS = (2, 4, 6)


def every_part(seed: int = 0) -> nn.Module:
    """A network of all that resuming may forget: batch norm, dropout, filters and matrices."""
    convolution = nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
    pool = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return seeded(lambda: nn.Sequential(Normalize(), *convolution, *pool, nn.Linear(32, 10)), seed)


def trained(run: Path, stops, transform="Policy", loss="default", optimizer="SGD", scheduler="default") -> Path:
    """Trains `every_part` in two epochs of three steps, with the parts of these names."""
    scheduler_per, make_scheduler = SCHEDULERS[scheduler]

    def make_options(model):
        made = OPTIMIZERS[optimizer](model)
        return {"loss": LOSSES[loss](), "optimizer": made, "scheduler": make_scheduler(made)}

    options = {"transform": TRANSFORMS[transform], "scheduler_per": scheduler_per, "epochs": 2, "batch_size": 16}
    datasets = tiny(48), tiny(20, "validation")
    interrupted(every_part, stops, *datasets, run=run, make_options=make_options, **options)
    return run


def combinations():
    """Each transform, loss, optimizer and scheduler at least once, in as many runs as there are most of one."""
    kinds = [list(kind) for kind in (TRANSFORMS, LOSSES, OPTIMIZERS, SCHEDULERS)]
    return [tuple(kind[i % len(kind)] for kind in kinds) for i in range(len(TRANSFORMS))]


@pytest.mark.parametrize("parts", combinations(), ids=", ".join)
def test_a_run_that_is_stopped_again_and_again_ends_bit_for_bit_alike(parts, tmp_path):
    """The first training ends before the first step, each that follows does one step or one validation."""
    through = trained(tmp_path / "through", [], *parts)
    assert_same(through, trained(tmp_path / "stopped", [0, *[1] * 6], *parts))


def pairs() -> list[tuple[str, str]]:
    """OneCycleLR, which also changes momentum and betas, with each optimizer; every other scheduler with one."""
    others = [name for name in SCHEDULERS if name != "OneCycleLR"]
    names = list(OPTIMIZERS)
    return [(name, "OneCycleLR") for name in names] + [(names[i % len(names)], name) for i, name in enumerate(others)]


@slow
@pytest.mark.parametrize("optimizer, scheduler", pairs())
def test_any_optimizer_with_any_scheduler_does_so_as_well(optimizer, scheduler, tmp_path):
    parts = {"optimizer": optimizer, "scheduler": scheduler}
    through = trained(tmp_path / "through", [], **parts)
    assert_same(through, trained(tmp_path / "stopped", [0, *[1] * 6], **parts))


ONE_BY_ONE = [
    *({"transform": name} for name in TRANSFORMS),
    *({"loss": name} for name in LOSSES if name != "default"),
    *({"loss": name, "transform": "MixUp"} for name in LOSSES if name != "default"),
    *({"optimizer": name} for name in OPTIMIZERS),
    *({"scheduler": name} for name in SCHEDULERS),
]


@slow
@pytest.mark.parametrize("parts", ONE_BY_ONE, ids=lambda parts: ", ".join(parts.values()))
def test_stopped_at_any_step_it_ends_bit_for_bit_alike(parts, tmp_path):
    through = trained(tmp_path / "through", [], **parts)
    for stop in STOPS:
        assert_same(through, trained(tmp_path / str(stop), [stop], **parts))


@pytest.mark.parametrize("forgotten", ["optimizer", "scheduler", "randomness", "statistics"])
def test_a_resume_that_forgets_something_ends_elsewhere(forgotten, tmp_path, monkeypatch):
    """The negative controls."""
    parts = {"transform": "RandomErasing", "optimizer": "AdamW", "scheduler": "OneCycleLR"}
    through = trained(tmp_path / "through", [], **parts)
    if forgotten == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    elif forgotten == "scheduler":
        monkeypatch.setattr(lr_scheduler.OneCycleLR, "load_state_dict", lambda *_: None)
    elif forgotten == "randomness":
        monkeypatch.setattr(train, "seeded", lambda *_: nullcontext())
    else:
        load = runs._load_model
        monkeypatch.setattr(runs, "_load_model", lambda *a: (load(*a), a[2][2].reset_running_stats()))
    assert not same(through, trained(tmp_path / "stopped", [2], **parts))


def test_another_seed_ends_elsewhere(tmp_path):
    """The negative control of the comparison itself."""
    for seed in (0, 1):
        interrupted(every_part, [], tiny(48), tiny(20, "validation"), run=tmp_path / str(seed), epochs=1, seed=seed)
    (_, first), (_, second) = (contents(tmp_path / name) for name in "01")
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)


# Images of your own


def odd_files(root: Path) -> None:
    """Gray, alpha, palette, CMYK, 16-bit and turned files, several of each in two classes."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        (root / name).mkdir(parents=True)
        for i in range(3):
            image = Image.fromarray(rng.integers(low, low + 100, (40, 50, 3), dtype=np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6  # a photo that was taken upright
            image.save(root / name / f"turned{i}.jpg", exif=exif)
            for mode, suffix in (("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"), ("LA", "png")):
                image.convert(mode).save(root / name / f"{mode}{i}.{suffix}")
            values = np.asarray(image.convert("L")).astype(np.uint16) * 257
            Image.fromarray(values).save(root / name / f"deep{i}.png")


def parts_of(make) -> None:
    """A maker of a layout of train/ and test/, each made by `make`."""
    return lambda root: [make(root / part) for part in ("train", "test")]


def three_parts(root: Path) -> None:
    for part, count, seed in (("train", 6, 0), ("val", 3, 1), ("test", 4, 2)):
        image_folder(root / part, ["bicycle", "scooter", "tram"], count, seed=seed)


def hundred(root: Path) -> None:
    image_folder(root, [f"kind {i:03}" for i in range(100)], 3, (20, 20))


FOLDERS = {  # name -> the folder's maker, the size of the images
    "2 classes": (parts_of(lambda root: image_folder(root, ["no", "yes"], 12)), 32),
    "100 classes": (parts_of(hundred), 32),
    "64 pixels": (parts_of(lambda root: image_folder(root, ["a", "b", "c"], 8, (80, 60))), 64),
    "odd files": (parts_of(odd_files), 32),
    "train, val and test": (three_parts, 48),
}


@dataclass
class Own:
    """A network that was trained on a folder of images."""

    folder: Path
    size: int
    run: Path
    model: nn.Module
    train: data.Dataset
    val: data.Dataset
    test: data.Dataset


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A training on the folder of this name, done once."""

    @cache
    def get(name: str) -> Own:
        make, size = FOLDERS[name]
        root = tmp_path_factory.mktemp("own")
        make(root / "photos")
        train_images, val = data.split(data.from_folder(root / "photos", size))
        test = data.from_folder(root / "photos", size, train=False)

        def model(seed: int) -> nn.Module:
            pooled = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, len(test.classes))
            return seeded(lambda: nn.Sequential(Normalize.from_dataset(train_images), *pooled), seed)

        usual = {"transform": PRESETS["light"], "epochs": 2, "batch_size": 64}
        interrupted(model, [], train_images, val, run=root / "through", **usual)
        interrupted(model, [1], train_images, val, run=root / "stopped", **usual)
        best = runs.load(root / "stopped", model(3))
        return Own(root / "photos", size, root / "stopped", best, train_images, val, test)

    return get


each_folder = pytest.mark.parametrize("name", FOLDERS)


@each_folder
def test_training_on_images_of_your_own_resumes_bit_for_bit(own, name):
    assert_same(own(name).run, own(name).run.with_name("through"))


@each_folder
def test_images_of_your_own_are_predicted_at_their_own_size(own, name):
    found = own(name)
    predictions = predict(found.model, found.test)
    assert found.test.size == found.size and predictions.probabilities.shape == (
        len(found.test),
        len(found.test.classes),
    )


@each_folder
def test_the_report_names_your_own_classes(own, name):
    found = own(name)
    text = report(predict(found.model, found.test), "mine", validation=predict(found.model, found.val))
    assert f"photos: {len(found.test)} test images" in text
    named = [name for name in found.test.classes if name in text]
    assert len(named) == len(found.test.classes) or (len(found.test.classes) > 20 and named)  # best and worst of many


@each_folder
def test_the_confusion_explorer_shows_your_own_images(own, name):
    found = own(name)
    explorer = ConfusionExplorer({"mine": predict(found.model, found.test)}, found.test)
    assert explorer.error == "" and str(found.test) in str(explorer.view) + str(explorer.table)


@each(FOLDERS, quick=("train, val and test",))
def test_the_command_line_takes_images_of_your_own(own, name, tmp_path, command):
    found, run = own(name), tmp_path / "run"
    images = ["--images", found.folder, "--size", found.size]
    command("train", *images, "--epochs", 1, "--folder", run)
    about = runs.about(run)["settings"]["data"]
    assert (about["size"], tuple(about["classes"])) == (found.size, found.test.classes)
    assert f"photos: {len(found.test)} test images" in command("evaluate", run, *images)


def test_a_val_folder_is_the_validation_split(own):
    assert (len(own("train, val and test").train), len(own("train, val and test").val)) == (18, 9)


@pytest.mark.parametrize("mode", [True, False])
def test_one_photo_leaves_the_network_and_the_random_numbers_as_they_are(tmp_path, mode):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    model = every_part().train(mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = classify(model, path, data.CIFAR10_CLASSES)
    assert sum(found.values()) == pytest.approx(1) and set(found) == set(data.CIFAR10_CLASSES)
    assert all(module.training == mode for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[1] == random.getstate()
    assert generators[2] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("kind", ["turned0.jpg", "L0.png", "RGBA0.png", "P0.gif", "CMYK0.jpg", "LA0.png", "deep0.png"])
def test_a_photo_of_any_kind_is_predicted_as_in_its_folder(own, kind):
    found = own("odd files")
    row = sorted(path.name for path in (found.folder / "test" / "dark").iterdir()).index(kind)
    expected = predict(found.model, found.test).probabilities[row]
    photo = classify(found.model, found.folder / "test" / "dark" / kind, found.test.classes)
    assert [photo[name] for name in found.test.classes] == pytest.approx(expected.tolist(), abs=1e-5)
