"""Every misuse of the Python interface ends in one clear sentence, before anything has been trained or written.

HUNT, at the end, lists what was found broken when people tried to break an earlier state, and the test of each.
"""

import ast
import math
import os
import shutil
import stat
import time
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from synthetic import images, linear
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TinyTransformer, narrow, network, tiny, train_tiny
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import RandomSampler
from torchvision.transforms import v2

from cifar_utils import data, runs
from cifar_utils import train as training
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.data import Dataset
from cifar_utils.evaluation import predict, reports
from cifar_utils.models import Normalize
from cifar_utils.speedrun.muon import muon, scale_invariant
from cifar_utils.speedrun.resizing import ProgressiveResizing
from cifar_utils.speedrun.selection import DropEasiest
from cifar_utils.train import fit, sgd, steps, warm_up_and_decay

TRAIN, VAL, TEST = images(64), images(20, "validation"), images(20, "test")
USUAL = {"epochs": 2, "batch_size": 32, "device": "cpu"}


def sentence(call, words: str, error=ValueError) -> str:
    """The one line that the call ends in; it holds the words, and it is none of those from deep inside."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and 20 <= len(text) <= 700 and words in text, text
    return text


def refused(run: Path, words: str, model=None, train=TRAIN, val=VAL, error=ValueError, **options) -> None:
    """`fit` ends in one sentence with these words; the model is as before, and no folder has been made."""
    model = linear() if model is None else model
    before = {name: t.clone() for name, t in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    sentence(lambda: fit(model, train, val, **(USUAL | {"run": run} | options)), words, error)
    assert not run.exists(), "something was written"
    for name, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[name]), "something was trained"


def table(*rows):
    """Parametrizes by rows of (id, values...)."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


class Of(nn.Module):
    """A linear network with something done to it: Of(lambda net, x: net(x) * 2)."""

    def __init__(self, forward, **layers) -> None:
        super().__init__()
        self.net, self.then = linear(), forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.then(self.net, x)


# Numbers


@pytest.mark.parametrize(
    "name,value",
    [
        *(("batch_size", value) for value in (0, -5, 10**12, 32.0, True, "32")),
        *(("epochs", value) for value in (0, -1, 10**12, 2.0, True, "3", None)),
        *(("seed", value) for value in (-1, 2**64, 1.5, True, "0", None)),
        *(("save_every", value) for value in (0, -1, 1.5, True, "2")),
    ],
)
def test_a_number_out_of_range_is_refused(tmp_path, name, value):
    refused(tmp_path / "run", f"{name} is {value!r}; it must be a whole number from", **{name: value})


@pytest.mark.parametrize(
    "name,value,words",
    [
        ("scheduler_per", "batch", "must be 'step' or 'epoch'"),
        ("autocast", "bfloat16", "must be torch.bfloat16 or None"),
        ("autocast", torch.int8, "must be torch.bfloat16 or None"),
        ("autocast", True, "must be torch.bfloat16 or None"),
        ("device", "gpu", "device 'gpu' cannot be used"),
        ("device", 5.5, "device 5.5 cannot be used"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(tmp_path, name, value, words):
    refused(tmp_path / "run", words, **{name: value})


def test_a_misspelled_option_is_python_s_own_error(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        fit(linear(), TRAIN, VAL, epoch=3, run=tmp_path / "run")


# Data sets


@pytest.mark.parametrize(
    "train,val,words",
    table(
        ("swapped", VAL, TRAIN, "were given for training"),
        ("test for validation", TRAIN, TEST, "20 test images were given for validation"),
        ("test for training", TEST, VAL, "20 test images were given for training"),
        ("not divided", TRAIN, TRAIN, "64 training images were given for validation: fit takes train, then val"),
        ("overlapping", TRAIN, TRAIN.select(range(5), "validation"), "5 of 5 validation images are in training"),
        ("overlapping, counted anew", TRAIN, replace(TRAIN.select(range(60, 64), "validation"), index=None), "4 of 4"),
        ("other classes", TRAIN, images(20, "validation", classes=12), "differ in their classes or size"),
        ("other size", TRAIN, images(20, "validation", size=64), "differ in their classes or size"),
        ("a tensor", TRAIN.images, VAL, "the training images are a Tensor; a Dataset is needed"),
        ("a tuple", (TRAIN.images, TRAIN.labels), VAL, "the training images are a tuple; a Dataset is needed"),
        ("nothing", TRAIN, None, "the validation images are a NoneType; a Dataset is needed"),
    ),
)
def test_data_sets_that_do_not_belong_together_are_refused(tmp_path, train, val, words):
    refused(tmp_path / "run", words, train=train, val=val)


def test_a_few_copies_in_validation_are_a_warning(tmp_path, capsys):
    """As in a folder of photos of one's own: it is not the participant's fault."""
    val = replace(VAL, images=torch.cat([TRAIN.images[:1], VAL.images[1:]]))
    assert len(fit(linear(), TRAIN, val, run=tmp_path / "run", **USUAL)) == 2
    assert "WARNING: 1 of 20 validation images are copies of training images" in capsys.readouterr().out
    fit(linear(), TRAIN, VAL, run=tmp_path / "another", **USUAL)
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"labels": TRAIN.labels + 1}, {"split": "val"}, {"classes": ("a", "b")}])
def test_a_dataset_that_is_changed_checks_itself_again(changes):
    with pytest.raises(ValueError):
        replace(TRAIN, **changes)


@pytest.mark.parametrize("size", [16, 36, 48, 64])
def test_images_train_and_are_validated_at_their_own_size(tmp_path, size):
    seen = set()
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    model.register_forward_pre_hook(lambda module, x: seen.add(x[0].shape[-1]))
    sets = images(32, size=size), images(20, "validation", size=size)
    fit(model, *sets, transform=PRESETS["full"], run=tmp_path, epochs=1, batch_size=32, device="cpu")
    assert seen == {size}


# Models


class InAList(nn.Module):
    """Its layers are in a plain list, where PyTorch does not find them."""

    def __init__(self, head: nn.Module | None = None, kind=list) -> None:
        super().__init__()
        self.layers = kind([nn.Flatten(), nn.Linear(3072, 10)])
        self.head = head or nn.Identity()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class NewEveryTime(nn.Module):
    """Its convolution is made in forward, with other weights every time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(nn.Conv2d(3, 4, 3)(x).mean((2, 3)))


class NoModule:
    """A block that forgot to be an nn.Module."""

    def __init__(self) -> None:
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def __call__(self, x):
        return self.convolution(x)


NO_MODULE = NoModule()


class Late(nn.Module):
    """It makes its head when it first sees images, too late for the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.scale, self.head = nn.Flatten(), nn.Parameter(torch.ones(())), None

    def forward(self, x):
        if self.head is None:
            self.head = nn.Linear(3072, 10)
        return self.head(self.flat(x)) * self.scale


class Centered(nn.Module):
    """A norm of one's own that forgets to ask whether it is being trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return self.net(x - self.mean[:, None, None])


class Merging(nn.Linear):
    """In evaluation mode, a part is added to the weights, as in LoRA, and then subtracted, which rounds."""

    def __init__(self) -> None:
        super().__init__(3072, 10)
        self.part, self.merged = nn.Parameter(torch.full((10, 1), 0.3)), False

    def train(self, mode: bool = True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += -self.part if mode else self.part
            self.merged = not mode
        return self

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.weight if self.merged else self.weight + self.part, self.bias)


def frozen() -> nn.Module:
    return linear().requires_grad_(False)


def with_batch_norm_1d() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))


@pytest.mark.parametrize(
    "model,words",
    table(
        ("a name", "resnet18", "the model is a str; an nn.Module is needed"),
        ("a class", nn.Linear, "model is the class Linear; make one"),
        ("a function", lambda x: x, "an nn.Module is needed"),
        ("too few classes", linear(5), "into logits [3, 10], one per class, and it gives [3, 5]"),
        ("too many classes", linear(12), "and it gives [3, 12]"),
        ("three dimensions", Of(lambda net, x: net(x)[:, None]), "and it gives [3, 1, 10]"),
        ("a tuple", Of(lambda net, x: (net(x), x)), "and it gives a tuple"),
        ("a dict", Of(lambda net, x: {"logits": net(x)}), "and it gives a dict"),
        ("nothing", Of(lambda net, x: None), "and it gives a NoneType"),
        ("squeezed", Of(lambda net, x: net(x).squeeze()), "into logits [1, 10], one per class, and it gives [10]"),
        (
            "a fixed batch size",
            Of(lambda net, x: net(x.view(32, 3, 32, 32))),
            "the model fails on images [3, 3, 32, 32]",
        ),
        ("another image size", linear(10, 28), "the model fails on images [3, 3, 32, 32]"),
        ("a KeyError within", Of(lambda net, x: {}["key"]), "the model fails on images"),
        ("NaN", Of(lambda net, x: net(x) * math.nan), "infinite or not numbers (NaN)"),
        ("no layer", nn.Sequential(), "no trainable parameter"),
        ("all frozen", frozen(), "no trainable parameter; is all of it frozen?"),
        ("in a list", InAList(), "the layers in InAList.layers, a plain list, would not be trained"),
        ("half of it in a list", InAList(nn.Linear(10, 10)), "the layers in InAList.layers, a plain list"),
        ("in a dict", Of(lambda net, x: net(x), more={"a": nn.Linear(3, 3)}), "the layers in Of.more, a plain dict"),
        ("in pairs", Of(lambda net, x: net(x), more=[(nn.Linear(3, 3), nn.ReLU())]), "layers in Of.more, a plain list"),
        ("parameters", Of(lambda net, x: net(x), more=[nn.Parameter(torch.ones(3))]), "ModuleDict or ParameterList"),
        ("in a nested dict", Of(lambda net, x: net(x), more={"a": {"b": nn.Linear(3, 3)}}), "Of.more, a plain dict"),
        ("made anew in forward", NewEveryTime(), "the model uses a Conv2d that PyTorch does not find in it"),
        ("in a class of no kind", Of(lambda net, x: net(NO_MODULE(x))), "let every class that holds layers be an"),
        ("made when called", Late(), "makes head.weight when it is first called, too late for the optimizer"),
        ("learns when evaluated", Centered(), "the model's mean changes when the model is evaluated"),
        ("merges and rounds", Merging(), "the model's weight changes when the model is evaluated"),
        ("detached", Of(lambda net, x: net(x).detach()), "no gradient leads from the model's outputs"),
    ),
)
def test_a_model_that_cannot_be_trained_is_refused(tmp_path, model, words):
    refused(tmp_path / "run", words, model)


def test_a_network_that_was_called_before_trains_what_it_made_then(tmp_path):
    model = Late()
    model(TRAIN.images[:2] / 255)
    before = model.head.weight.clone()
    fit(model, TRAIN, VAL, run=tmp_path, **USUAL)
    assert not torch.equal(model.head.weight, before)


def test_a_frozen_teacher_may_hide_in_a_list(tmp_path):
    """A layer that is kept out of the model on purpose, for distillation say, is no mistake."""
    model = Of(lambda net, x: net(x), teacher=[frozen()])
    assert len(fit(model, TRAIN, VAL, run=tmp_path, **USUAL)) == 2


class Adapted(nn.Module):
    """A hook calls one of its layers; a copy of the model has the hook, which calls the original's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.adapter = linear(), nn.Linear(10, 10)
        self.net.register_forward_hook(lambda module, inputs, output: output + self.adapter(output))

    def forward(self, x):
        return self.net(x)


def test_a_layer_that_a_hook_calls_is_trained(tmp_path):
    model = Adapted()
    before = model.adapter.weight.clone()
    fit(model, TRAIN, VAL, run=tmp_path, **USUAL)
    assert not torch.equal(model.adapter.weight, before)


def test_a_teacher_without_gradients_may_be_anywhere(tmp_path):
    teacher = linear()

    def guided(net, x):
        with torch.no_grad():
            known = teacher(x)
        return net(x) + known

    assert len(fit(Of(guided), TRAIN, VAL, run=tmp_path, **USUAL)) == 2


@pytest.mark.parametrize("layer,warns", [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Identity(), False)])
def test_a_softmax_at_the_end_is_noticed_and_training_continues(tmp_path, capsys, layer, warns):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predict has one of its own, see test_predictions.py
        history = fit(nn.Sequential(linear(), layer), TRAIN, VAL, run=tmp_path, **USUAL)
    assert len(history) == 2
    assert ("the model's outputs are probabilities" in capsys.readouterr().out) == warns


@pytest.mark.parametrize(
    "first,last,warns",
    [
        (nn.Identity(), nn.Softmax(0), True),
        (nn.BatchNorm2d(3, track_running_stats=False), nn.Identity(), True),
        (nn.BatchNorm2d(3), nn.Tanh(), False),
    ],
)
def test_predictions_that_depend_on_the_batch_are_noticed(tmp_path, capsys, first, last, warns):
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(3072, 10), last)
    assert len(fit(model, TRAIN, VAL, run=tmp_path, **USUAL)) == 2
    assert ("depends on the others in the batch" in capsys.readouterr().out) == warns


def test_a_layer_that_is_never_used_is_named_and_training_continues(tmp_path, capsys):
    model = Of(lambda net, x: net(x), extra=nn.Linear(3, 3))
    assert len(fit(model, TRAIN, VAL, run=tmp_path, **USUAL)) == 2
    assert "WARNING: extra.weight gets no gradient: the model never uses it (2 such" in capsys.readouterr().out


def test_a_layer_that_is_never_used_does_not_disturb_muon(tmp_path, capsys):
    model = Of(lambda net, x: net(x), extra=nn.Conv2d(3, 4, 3))
    before = model.extra.weight.clone()
    assert len(fit(model, TRAIN, VAL, run=tmp_path, optimizer=muon(model), **USUAL)) == 2
    assert torch.equal(before, model.extra.weight) and "extra.weight gets no gradient" in capsys.readouterr().out


@pytest.mark.parametrize("count,batch_size", [(64, 1), (65, 2)])
def test_a_batch_of_one_image_that_batch_norm_cannot_take_is_known_before_the_first_step(tmp_path, count, batch_size):
    words = "the model fails on images [1, 3, 32, 32] (float32, 0 to 1) in training mode"
    refused(tmp_path / "run", words, with_batch_norm_1d(), images(count), batch_size=batch_size)


def test_the_last_batch_is_never_half_empty(tmp_path):
    """65 images in batches of at most 32 are 22, 22 and 21: none of a single image, and none left out."""
    sizes, options = [], USUAL | {"epochs": 1}
    for state in steps(with_batch_norm_1d(), images(65), VAL, run=tmp_path, **options):
        sizes += [len(state.batch)] if state.step else []
    assert sizes == [22, 22, 21]


OPTIMIZERS = {
    "default": lambda model: None,
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "Muon": muon,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_of_any_number_of_dimensions_are_trained(tmp_path, name):
    """A position embedding with three, a scale with none: once they were in no group, and nobody noticed."""
    torch.manual_seed(0)
    model = TinyTransformer()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    assert {p.ndim for p in before.values()} == {0, 1, 2, 3, 4}
    fit(model, TRAIN, VAL, run=tmp_path, optimizer=OPTIMIZERS[name](model), **USUAL)
    assert [key for key, p in model.named_parameters() if torch.equal(before[key], p)] == []


def test_muon_rescales_no_filters_that_no_norm_follows():
    model = network("no norm")
    assert scale_invariant(model) == set()
    before = [p.norm().item() for p in model.parameters() if p.ndim > 1]
    F.cross_entropy(model(TRAIN.images[:8]), TRAIN.labels[:8]).backward()
    muon(model, 0.001).step()
    after = [p.norm().item() for p in model.parameters() if p.ndim > 1]
    assert after == pytest.approx(before, rel=0.05)
    assert not all(group.get("rescale") for group in muon(network("SmallCNN")).param_groups)  # the control: some are
    assert any(group.get("rescale") for group in muon(network("SmallCNN")).param_groups)


# Optimizers


def broken(rate: float) -> torch.optim.Optimizer:
    """SGD itself refuses such a learning rate, but not where it is set afterwards."""
    optimizer = sgd(MODEL)
    optimizer.param_groups[0]["lr"] = rate
    return optimizer


def twice() -> torch.optim.Optimizer:
    optimizer = sgd(MODEL)
    optimizer.param_groups.append(dict(optimizer.param_groups[0]))
    return optimizer


MODEL = linear()  # its parameters are in the optimizers below


class Sharpness(torch.optim.SGD):
    """As in sharpness-aware minimization, a step computes the gradients once more."""

    def step(self, closure):
        closure()
        super().step()


@pytest.mark.parametrize(
    "optimizer,words",
    table(
        ("a name", "sgd", "the optimizer is a str"),
        ("a class", torch.optim.SGD, "optimizer is the class SGD; make one"),
        ("of another model", torch.optim.SGD(linear().parameters(), lr=0.1), "parameters of another model"),
        ("without a bias", torch.optim.SGD([MODEL[1].weight], lr=0.1), "1.bias (and 0 more) would not be trained"),
        ("one twice", twice(), "weight is twice"),
        ("NaN", broken(math.nan), "a learning rate of the optimizer is negative, infinite or NaN"),
        ("infinite", broken(math.inf), "a learning rate of the optimizer is negative, infinite or NaN"),
        ("negative", broken(-0.1), "a learning rate of the optimizer is negative, infinite or NaN"),
        ("with a closure", torch.optim.LBFGS(MODEL.parameters()), "the optimizer is a LBFGS"),
        ("with a closure of one's own", Sharpness(MODEL.parameters(), lr=0.1), "step of Sharpness needs a closure"),
    ),
)
def test_an_optimizer_that_does_not_fit_is_refused(tmp_path, optimizer, words):
    refused(tmp_path / "run", words, MODEL, optimizer=optimizer)


@pytest.mark.parametrize("momentum", [-0.1, 1, 1.5, math.nan])
def test_a_momentum_out_of_range_is_refused(momentum):
    sentence(lambda: sgd(linear(), momentum=momentum), "momentum is")


@pytest.mark.parametrize("warm_up", [-0.1, 1.5, math.nan])
def test_a_warm_up_out_of_range_is_refused(warm_up):
    sentence(lambda: warm_up_and_decay(sgd(linear()), 10, warm_up), "warm_up is")


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, math.nan])
def test_a_fraction_of_images_to_drop_out_of_range_is_refused(fraction):
    sentence(lambda: DropEasiest(64, 32, fraction=fraction), "fraction is")


@pytest.mark.parametrize(
    "options", [{"momentum": 1}, {"momentum": math.nan}, {"lr": -1.0}, {"head_lr_scale": math.inf}]
)
def test_muon_refuses_numbers_out_of_range(options):
    sentence(lambda: muon(linear(), **options), f"{next(iter(options))} is")


# Schedulers


def scheduled(make) -> dict:
    """An optimizer of MODEL and a scheduler of it."""
    optimizer = sgd(MODEL)
    return {"optimizer": optimizer, "scheduler": make(optimizer)}


OTHER = sgd(linear())


@pytest.mark.parametrize(
    "options,words",
    table(
        (
            "of another optimizer",
            scheduled(lambda _: lr_scheduler.StepLR(OTHER, 1)),
            "an LRScheduler of this optimizer",
        ),
        ("without its optimizer", {"scheduler": lr_scheduler.StepLR(OTHER, 1)}, "give fit the optimizer as well"),
        ("a class", {"scheduler": lr_scheduler.StepLR}, "scheduler is the class StepLR; make one"),
        ("a function", scheduled(lambda _: lambda step: 0.1), "an LRScheduler of this optimizer"),
        (
            "OneCycleLR of too many steps",
            scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=100)),
            "total_steps is 100, and it will step 4 times",
        ),
        (
            "OneCycleLR of too few steps",
            scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=2)),
            "total_steps is 2, and it will step 4 times",
        ),
        (
            "OneCycleLR per epoch",
            scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=4)) | {"scheduler_per": "epoch"},
            "total_steps is 4, and it will step 2 times",
        ),
        (
            "T_max in epochs, per step",
            scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=2)),
            "T_max is 2, and it will step 4 times (scheduler_per='step', 2 epochs of 2 steps)",
        ),
        (
            "T_max in steps, per epoch",
            scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4)) | {"scheduler_per": "epoch"},
            "T_max is 4, and it will step 2 times",
        ),
        (
            "ReduceLROnPlateau of an accuracy",
            scheduled(lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max")),
            "is given the validation loss, and lower is better",
        ),
    ),
)
def test_a_scheduler_that_does_not_fit_is_refused(tmp_path, options, words):
    refused(tmp_path / "run", words, MODEL, **options)


def test_soft_labels_of_a_wrong_type_are_refused(tmp_path):
    """A loss of one's own might take them; the figures that training keeps do not."""
    options = {"transform": lambda x, y: (x, F.one_hot(y, 10)), "loss": lambda z, y: F.cross_entropy(z, y.float())}
    refused(tmp_path / "run", "labels of torch.int64, not int64 [N] or float [N, classes]", **options)


def test_a_network_that_fails_with_16_bit_products_only_is_refused(tmp_path):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3072, 10)

        def forward(self, x):
            return torch.zeros(len(x), 10).index_add_(1, torch.arange(10), self.head(x.flatten(1)))

    refused(tmp_path / "run", "the model fails on images", Fails(), autocast=torch.bfloat16)


# Losses


@pytest.mark.parametrize(
    "loss,words",
    table(
        ("a name", "cross_entropy", "the loss 'cross_entropy' fails"),
        ("a class", nn.CrossEntropyLoss, "loss is the class CrossEntropyLoss; make one"),
        ("reduction none", nn.CrossEntropyLoss(reduction="none"), "one finite number per batch, not the shape [3]"),
        ("mean squared error of classes", nn.MSELoss(), "the loss MSELoss("),
        ("binary, of classes", nn.BCEWithLogitsLoss(), "fails on logits [3, 10]"),
        ("weights of 9 classes", nn.CrossEntropyLoss(weight=torch.ones(9)), "fails on logits [3, 10]"),
        ("no tensor", lambda logits, labels: 1.0, "fails on logits [3, 10]"),
        ("detached", lambda logits, labels: F.cross_entropy(logits, labels).detach(), "fails on logits [3, 10]"),
        ("NaN", lambda logits, labels: logits.sum() * math.nan, "one finite number per batch, not nan"),
        ("of other arguments", lambda logits: logits.sum(), "fails on logits [3, 10]"),
    ),
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_does_not_fit_is_refused(tmp_path, loss, words):
    refused(tmp_path / "run", words, loss=loss)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_would_broadcast_is_refused_for_any_number_of_classes(tmp_path):
    """Labels [3] and logits [3, 3] are subtracted without an error, and the result means nothing."""
    sets = {"train": images(30, classes=3), "val": images(9, "validation", classes=3)}
    refused(tmp_path / "run", "the loss MSELoss(", linear(3), loss=nn.MSELoss(), **sets)


def test_a_loss_that_is_no_number_any_more_names_several_causes(tmp_path):
    def poisoned(logits, labels):
        calls.append(1)
        return F.cross_entropy(logits, labels) * (math.nan if len(calls) == 5 else 1)  # one is a try; epoch 2, step 2

    calls = []
    text = sentence(
        lambda: fit(linear(), TRAIN, VAL, loss=poisoned, run=tmp_path, **USUAL), "epoch 2, step 2", FloatingPointError
    )
    assert "learning rate" in text and "division by zero" in text and "logarithm" in text
    for name in (runs.BEST, runs.LAST):
        assert runs.about(tmp_path, name.partition(".")[0])["epoch"] == 1


# Transforms


@pytest.mark.parametrize(
    "transform,words",
    table(
        ("the name of a preset", "full", "PRESETS['full'] is the policy"),
        ("text", "nonsense", "transform is 'nonsense', which is no Policy, torchvision transform or function"),
        ("a number", 5, "transform is 5, which is no Policy"),
        ("a class", Policy, "transform is the class Policy; make one"),
        ("a list with a name", [Policy(), "full"], "PRESETS['full'] is the policy"),
        ("returns None", lambda x: None, "returns a NoneType instead of [3, 3, S, S]"),
        ("returns NumPy", lambda x: x.numpy(), "returns a ndarray instead of [3, 3, S, S]"),
        ("loses images", lambda x: x[:2], "returns [2, 3, 32, 32] of torch.uint8 instead of [3, 3, S, S]"),
        ("loses the batch", lambda x: x[0], "returns [3, 32, 32] of torch.uint8 instead of [3, 3, S, S]"),
        ("NHWC", lambda x: x.permute(0, 2, 3, 1), "returns [3, 32, 32, 3]"),
        ("gray", v2.Grayscale(), "returns [3, 1, 32, 32]"),
        ("int32", lambda x: x.int(), "of torch.int32 instead of [3, 3, S, S] of uint8 or float"),
        ("raises", lambda x: 1 / 0, "division by zero"),
        ("of three arguments", lambda a, b, c: a, "fails on a batch"),
        ("only images of two", lambda x, y: x, "fails on a batch"),
        ("PIL images", v2.ToPILImage(), "leave it out, images are tensors already"),
        ("a crop that is too large", v2.RandomCrop(64), "is larger than input image size"),
        ("a size that the model cannot take", v2.CenterCrop(16), "the model fails on images [3, 3, 16, 16]"),
        ("0 to 255", lambda x: x.float(), "the transform returns images from"),
        ("a dtype without its scale", v2.ToDtype(torch.float32), "instead of 0 to 1"),
        ("normalized", lambda x: (x / 255 - 0.5) / 0.2, "put a Normalize layer in front of the model"),
        ("NaN", lambda x: x * math.nan, "images from nan to nan instead of 0 to 1"),
        ("MixUp of unknown classes", v2.MixUp(), "num_classes must be passed"),
        ("MixUp of 9 classes", v2.MixUp(num_classes=9), "the transform mixes 9 classes (num_classes?), not 10"),
        ("CutMix of 12 classes", v2.CutMix(num_classes=12), "the transform mixes 12 classes (num_classes?), not 10"),
    ),
)
def test_a_transform_that_does_not_fit_is_refused(tmp_path, transform, words):
    refused(tmp_path / "run", words, transform=transform)


@pytest.mark.parametrize(
    "transform,warns",
    [
        (v2.CenterCrop(24), True),
        ([PRESETS["full"], v2.Resize(48)], True),
        (ProgressiveResizing(PRESETS["full"]), False),
        (ProgressiveResizing(PRESETS["full"], ((0.5, 1.0),)), True),
        (v2.RandomCrop(32, padding=4), False),
    ],
)
def test_a_transform_that_changes_the_size_is_noticed(tmp_path, capsys, transform, warns):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    assert len(fit(model, TRAIN, VAL, transform=transform, run=tmp_path, **USUAL)) == 2
    assert ("and validation images have 32 x 32" in capsys.readouterr().out) == warns


def test_normalized_images_are_refused_by_a_normalize_layer_too(tmp_path):
    model = nn.Sequential(Normalize(), linear())
    refused(tmp_path / "run", "instead of 0 to 1", model, transform=lambda x: x / 255 * 4 - 2)


@pytest.mark.parametrize(
    "transform", [None, [], PRESETS["none"], v2.Compose([v2.RandomHorizontalFlip()]), [v2.RandomErasing(), Policy()]]
)
def test_no_transform_a_compose_and_a_list_are_welcome(tmp_path, transform):
    assert len(fit(linear(), TRAIN, VAL, transform=transform, run=tmp_path, **USUAL)) == 2


@pytest.mark.parametrize(
    "options",
    [
        *({"index": value} for value in (torch.arange(5), torch.arange(64.0), [1.5] * 64)),
        *({"epoch": value} for value in (-1, 1.5, "1")),
        *({"seed": value} for value in (-1, 1.5, "1", 2**64)),
    ],
    ids=str,
)
def test_a_policy_refuses_an_index_epoch_or_seed_that_is_none(options):
    with pytest.raises(ValueError, match="index|positions"):
        PRESETS["full"](TRAIN.images, **options)


# Samplers


class NoBatches(training.Shuffle):
    def epoch(self, epoch):
        return []


class Floats(training.Shuffle):
    def epoch(self, epoch):
        return [torch.zeros(5)]


class HalfEach(training.Shuffle):
    """Half of the images per epoch, which `total_steps` does not know."""

    def epoch(self, epoch):
        return self.batches(self.order(epoch)[: self.n // 2])


@pytest.mark.parametrize(
    "sampler,words",
    table(
        ("PyTorch's", RandomSampler(range(64)), "the sampler, a RandomSampler, lacks one of"),
        ("a class", training.Shuffle, "sampler is the class Shuffle; make one"),
        ("of more images", training.Shuffle(100, 32), "positions from 0 to 63"),
        ("without batches", NoBatches(64, 32), "the sampler must have batches"),
        ("of half as many", HalfEach(64, 32), "total_steps(1) is 2, and its first epoch has 1 batches"),
        ("of floats", Floats(64, 32), "int64 tensors [b] of positions"),
    ),
)
def test_a_sampler_that_does_not_fit_is_refused(tmp_path, sampler, words):
    refused(tmp_path / "run", words, sampler=sampler)


# Run folders: the most is in test_runs.py and test_faults.py


def test_a_run_may_be_named_by_text_and_by_a_path(tmp_path):
    history = fit(linear(), TRAIN, VAL, run=str(tmp_path), **USUAL)
    assert fit(linear(), TRAIN, VAL, run=tmp_path, **USUAL) == history
    assert not runs.load(str(tmp_path), linear()).training


def test_an_empty_name_is_no_name(tmp_path, monkeypatch):
    """Otherwise checkpoints would lie in the working directory."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    for name in (None, ""):
        fit(linear(), TRAIN, VAL, run=name, **USUAL)
    assert len(list((tmp_path / "runs").iterdir())) == 1 and list(tmp_path.iterdir()) == [tmp_path / "runs"]


def test_two_trainings_in_one_notebook_and_folder_are_refused(tmp_path):
    first = steps(linear(), TRAIN, VAL, run=tmp_path, **USUAL)
    next(first)
    sentence(lambda: fit(linear(), TRAIN, VAL, run=tmp_path, **USUAL), "is in use", CheckpointError)
    first.close()
    assert len(fit(linear(), TRAIN, VAL, run=tmp_path, **USUAL)) == 2


def test_a_folder_that_cannot_be_fsynced_is_no_reason_not_to_train(tmp_path, monkeypatch):
    def no_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refusals.append(descriptor)
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    fsync, refusals = os.fsync, []
    monkeypatch.setattr(os, "fsync", no_folders)
    assert len(fit(linear(), TRAIN, VAL, run=tmp_path, **USUAL)) == 2 and refusals


def test_a_clock_that_is_set_back_loses_no_epoch_of_the_log(tmp_path, monkeypatch):
    """TensorBoard reads a log's files in the order of their names, which are times."""
    for days, stop in ((0, 1), (1, 2), (2, None)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda days=days, now=time.time: now() - 86_400 * days)
            for state in steps(linear(), TRAIN, VAL, run=tmp_path, **(USUAL | {"epochs": 3})):
                state.stop = state.stop or state.epochs == stop
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in log.Scalars("loss/validation")] == [1, 2, 3]


# What was found by the hunt, and where each find is tested

HUNT = {  # find -> file and test
    # Wrong in silence
    "a restored network in training mode": "whole_way the_best_is_loaded_in_eval_mode",
    "float or normalized images given to predict": "predictions a_dataset_is_needed",
    "float or normalized images in a data set": "data a_faulty_data_set_is_refused_in_one_sentence",
    "float or normalized images given to a policy": "augment images_that_it_cannot_augment_are_refused",
    "images that the transform normalizes": "misuse a_transform_that_does_not_fit_is_refused",
    "36-, 48-, 64-pixel images trained at 32": "misuse images_train_and_are_validated_at_their_own_size",
    "more labels than images; a label of -100": "data a_faulty_data_set_is_refused_in_one_sentence",
    "an index all zero or repeated": "data a_faulty_data_set_is_refused_in_one_sentence",
    "splits swapped, overlapping, or test": "misuse data_sets_that_do_not_belong_together_are_refused",
    "a softmax at the network's end": "misuse a_softmax_at_the_end_is_noticed_and_training_continues",
    "0-D and 3-D parameters untrained": "misuse parameters_of_any_number_of_dimensions_are_trained",
    "layers in a plain list untrained": "misuse a_model_that_cannot_be_trained_is_refused",
    "Muon without batch norm": "misuse muon_rescales_no_filters_that_no_norm_follows",
    "dropout in two processes": "training the_same_seed_gives_the_same_bits_in_two_processes_for_every_network",
    "a temperature of another network": "calibration the_temperature_of_another_network_is_refused",
    "best of another run in this folder": "runs a_checkpoint_of_another_run_is_refused",
    "best of another network": "runs tensors_that_do_not_fit_are_refused_before_the_model_is_touched",
    "contradictory predictions": "predictions probabilities_that_contradict_the_predicted_class_are_refused",
    "forged true classes": "predictions a_table_is_checked_against_the_images",
    "an index beyond the test set": "predictions an_index_beyond_the_set_is_refused",
    "skip out of range": "misuse a_fraction_of_images_to_drop_out_of_range_is_refused",
    "momentum out of range": "misuse a_momentum_out_of_range_is_refused",
    "warm-up out of range": "misuse a_warm_up_out_of_range_is_refused",
    "a negative learning-rate factor": "training a_learning_rate_scale_that_is_no_factor_is_refused",
    "a report on training images by another title": "reports the_first_line_always_names_split_and_source",
    # A traceback where a sentence belongs
    "gray, NHWC, NumPy, float64 images": "data a_faulty_data_set_is_refused_in_one_sentence",
    "labels int32, float, off by one, a list": "data a_faulty_data_set_is_refused_in_one_sentence",
    "paths as text": "misuse a_run_may_be_named_by_text_and_by_a_path",
    "a policy by name": "misuse a_transform_that_does_not_fit_is_refused",
    "a policy None, or a Compose": "misuse no_transform_a_compose_and_a_list_are_welcome",
    "batch size 0, -5, 10^12, 32.0": "misuse a_number_out_of_range_is_refused",
    "learning rate NaN": "misuse an_optimizer_that_does_not_fit_is_refused",
    "no training image": "data a_faulty_data_set_is_refused_in_one_sentence",
    "no trainable parameter": "misuse a_model_that_cannot_be_trained_is_refused",
    "a layer never used, under Muon": "misuse a_layer_that_is_never_used_does_not_disturb_muon",
    "nested JSON": "policy from_json_refuses_deep_nesting",
    "duplicate keys": "policy from_json_refuses",
    "an .npy header of 10^9 rows": "predictions a_bad_array_is_refused_before_anything_is_allocated",
    "a signed checkpoint with a wrong epoch": "runs a_signed_state_with_a_wrong_count_is_refused",
    "a signed checkpoint with a wrong history": "runs a_signed_state_with_a_wrong_history_is_refused",
    # Bounds
    "a small file that allocates gigabytes": "checkpoint bombs_are_refused_in_bounded_memory",
    "a FIFO as a checkpoint": "runs a_pipe_in_the_folder_is_refused_at_once",
    "a link in a run's folder": "runs nothing_is_written_through_a_link",
    "a link in the place of predictions": "predictions a_table_is_never_written_through_a_link",
    "a link in the place of a report": "reports files_are_never_written_through_a_link",
    "a link in the place of a policy": "widgets a_policy_is_never_saved_through_a_link",
    "a mirror's endless stream": "download an_endless_stream_is_read_up_to_the_known_size",
    "data that vanish between two loads": "data data_that_vanish_or_are_damaged_between_two_loads",
    "Ctrl-C at start-up": "cli ctrl_c_while_it_starts",
    # Security, and rooms with several accounts
    "a batch swapped after its check": "data a_batch_swapped_after_the_check_is_not_what_is_parsed",
    "a pickle that names code": "data a_batch_that_names_code_or_holds_no_images_is_refused_even_with_a_forged_sum",
    "a second account during a download": "download accounts_wait_for_one_another",
    "what a failed download leaves": "download what_another_account_left_behind_is_no_obstacle",
    "twenty processes of one user": "download processes_that_share_a_directory_download_once",
    # Promises that did not hold to the bit, and honesty
    "augmentation in batches": "augment an_image_is_the_same_to_the_bit_in_any_batch_chunk_and_number_of_threads",
    "evaluated on another split": "cli a_run_is_evaluated_on_the_split_that_it_was_trained_on",
    "sample and full set mixed": "cli a_run_on_the_sample_is_evaluated_on_the_sample_even_when_the_full_set_is_there",
    "another split's temperature": "cli a_run_on_another_split_is_refused",
    "a second run from trained weights": "training a_new_run_from_trained_weights_is_told",
    "too large to be loaded": "checkpoint more_than_a_checkpoint_may_hold_is_refused_when_it_is_saved",
    "a.npy and a.csv in one folder": "cli a_table_and_an_array_of_one_name_keep_their_own_reports",
    "the same run twice": "cli the_same_run_twice_is_refused",
    "validation predictions, test images": "widgets predictions_of_other_images_are_refused",
    "a confusion explorer without runs": "widgets without_runs_there_is_a_sentence",
    # Runs that are stopped, deleted or damaged
    "a folder deleted while it trains": "runs a_folder_deleted_while_training_ends_it_at_the_next_save",
    "Ctrl-C during the last validation": "training a_stop_at_the_end_of_an_epoch_is_heard",
    "Ctrl-C, and the test set follows": "cli the_stop_button",
    "SIGKILL while history.json is written": "faults killed_in_every_state_of_the_files_of_every_save",
    "best damaged, called untrained": "runs a_damaged_best_without_a_backup_says_what_to_do",
    "last deleted, best overwritten": "runs without_its_last_a_run_is_neither_resumed_nor_overwritten",
    "a clock that is set back": "misuse a_clock_that_is_set_back_loses_no_epoch_of_the_log",
    "a killed download that writes on": "download a_killed_download_leaves_nothing_writing_and_nothing_locked",
    "folders that cannot be fsynced": "misuse a_folder_that_cannot_be_fsynced_is_no_reason_not_to_train",
    "final tensors of two runs": "training the_same_seed_gives_the_same_bits",
    # Wrong words
    "train | head": "cli a_reader_that_ends_is_not_the_runs_fault",
    "names like formulas, or Chinese": "cli any_name_of_a_run_works",
    "any NaN is the learning rate's fault": "misuse a_loss_that_is_no_number_any_more_names_several_causes",
    # Issue 21, items 2, 4 and 8
    "a parameter in no group, or in two": "misuse an_optimizer_that_does_not_fit_is_refused",
    "frozen parameters": "whole_way frozen_parameters_stay_frozen_bit_for_bit",
    "wrong output shapes": "misuse a_model_that_cannot_be_trained_is_refused",
    "a half-empty last batch": "misuse the_last_batch_is_never_half_empty",
    "a batch of one image": "misuse a_batch_of_one_image_that_batch_norm_cannot_take_is_known_before_the_first_step",
    "a broken file, an empty class, a single class": "folder a_folder_is_refused_in_one_sentence_that_names_the_fault",
    "more images than memory": "folder more_images_than_memory_are_refused_before_one_is_read",
    "files left out in silence": "folder what_is_left_out_is_counted_and_named",
    "options that torchrun takes": "cli no_option_is_a_prefix_of_one_of_torchruns",
}


@cache
def names_in(name: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / f"test_{name}.py").read_text())
    return {node.name.removeprefix("test_") for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("find", HUNT)
def test_what_the_hunt_found_has_its_test(find):
    file, name = HUNT[find].split()
    assert name in names_in(file)


# Found by reading


def test_a_loss_with_weights_of_its_own_is_refused(tmp_path):
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits, labels):
            return nn.functional.cross_entropy(logits * self.scale, labels)

    with pytest.raises(ValueError, match="the loss Learned has trainable parameters, and only the model's are trained"):
        train_tiny(tmp_path / "run", loss=Learned())


def test_the_sample_and_the_full_set_share_images(tmp_path):
    """Their sources have two names, and the sample's positions are those of the full set."""
    train = tiny()
    images, index = torch.cat([train.images[:1], train.images[:1] ^ 1]), torch.tensor([train.index[0], 2**40])
    val = replace(train.select([0, 1], "validation"), images=images, index=index, source="CIFAR-10")
    with pytest.raises(ValueError, match="validation images are in training as well"):
        fit(narrow(), train, val, run=tmp_path / "run")


def test_two_data_sets_made_by_hand_may_count_from_0(tmp_path):
    def made(split, seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8, generator=generator)
        return Dataset(images, torch.arange(16) % 2, ("a", "b"), split=split)

    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    fit(model, made("training", 0), made("validation", 1), epochs=1, run=tmp_path / "run")
    with pytest.raises(ValueError, match="validation images are in training as well"):
        fit(model, made("training", 0), made("validation", 0), epochs=1, run=tmp_path / "another")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_logs_and_reports_are_not_written_through_a_link(tmp_path):
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    (mine / "events.out.tfevents.1").write_text("mine")
    train_tiny(run, stop_after=1)
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").symlink_to(mine)
    with pytest.raises(CheckpointError, match="tensorboard is a link"):
        train_tiny(run)
    (run / "evaluation").symlink_to(mine)
    with pytest.raises(CheckpointError, match="evaluation is a link"):
        reports.write(run / "evaluation", predict(narrow(), tiny(20)))
    assert [(file.name, file.read_text()) for file in mine.iterdir()] == [("events.out.tfevents.1", "mine")]


def test_a_macos_archive_keeps_its_layout(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(folder / "a.png")
            extra = tmp_path / "pets" / "__MACOSX" / part / name
            extra.mkdir(parents=True)
            (extra / "._a.png").write_bytes(b"x")
    assert data.from_folder(tmp_path / "pets", size=16).classes == ("cat", "dog")
    assert len(data.from_folder(tmp_path / "pets", size=16, train=False)) == 2
