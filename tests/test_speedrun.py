"""The recipe: all tricks together, for the fast network and for networks of your own."""

import math
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from speedrun_networks import NETWORKS, make, narrow, synthetic
from tiny import tiny

from cifar_utils import speedrun
from cifar_utils.augment import PRESETS, Policy
from cifar_utils.runs import load
from cifar_utils.speedrun import recipes
from cifar_utils.speedrun.muon import Muon
from cifar_utils.speedrun.resizing import ProgressiveResizing
from cifar_utils.train import fit, steps


@pytest.fixture(autouse=True)
def in_32_bits(monkeypatch):
    """So that results do not depend on the CPU."""
    monkeypatch.setattr(recipes, "has_bfloat16", lambda _: False)
    monkeypatch.setattr(recipes, "tune_malloc", lambda: None)


def rates(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name,policy,epochs,batch_size,lr,fraction,smoothing,sizes", [
    ("fast", "none", 6, 500, 0.18, 0.5, 0.0, ((0.5, 0.15), (0.75, 0.65))),
    ("class", "full", 9, 500, 0.18, 0.5, 0.0, ((0.5, 0.15), (0.75, 0.65))),
    ("sample", "full", 24, 250, 0.18, 0.0, 0.1, ((0.5, 0.15), (0.75, 0.65))),
    ("short", "full", 7, 500, 0.18, 0.5, 0.0, ((0.5, 0.3), (0.75, 0.8))),
    ("wide", "flip_and_shift", 12, 2000, 0.24, 0.0, 0.2, ()),
    ("own", "full", 30, 500, 0.18, 0.5, 0.1, ((0.5, 0.3), (0.75, 0.8))),
])  # fmt: skip
def test_the_recipes_are_what_was_measured(name, policy, epochs, batch_size, lr, fraction, smoothing, sizes):
    found = speedrun.recipe(narrow(), tiny(), name, seed=7)
    transform, optimizer, sampler = found["transform"], found["optimizer"], found["sampler"]
    assert (transform.transform if sizes else transform) is PRESETS[policy] and getattr(transform, "sizes", ()) == sizes
    assert (found["epochs"], found["batch_size"], found["seed"]) == (epochs, batch_size, 7)
    assert isinstance(optimizer, Muon) and rates(optimizer) == [lr, lr * 8, lr * 100]
    assert {(group["momentum"], group["nesterov"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.6, True, 0.0)
    }
    assert (sampler.fraction, sampler.batch_size, sampler.seed) == (fraction, batch_size, 7)
    assert found["loss"].label_smoothing == smoothing and found["autocast"] is None


def test_the_recipes_networks():
    assert recipes.RECIPES["wide"].network == {"widths": (64, 256, 256), "mirror": False}
    assert not any(recipes.RECIPES[name].network for name in ("fast", "class", "sample", "short"))


def test_the_learning_rate_falls_from_its_peak_to_0():
    found = speedrun.recipe(narrow(), tiny(), "sample", epochs=4)
    optimizer, scheduler, total = found["optimizer"], found["scheduler"], found["sampler"].total_steps(4)
    seen = []
    for _ in range(total):
        seen.append(rates(optimizer))
        optimizer.step()
        scheduler.step()
    assert total == 4 and seen[0] == [0.18, 0.18 * 8, 0.18 * 100]
    assert [row[0] for row in seen] == pytest.approx([0.18 * min(1, (total - i) / (total - 1)) for i in range(total)])
    assert rates(optimizer) == [0, 0, 0]


def test_few_images_get_the_recipe_of_the_sample(monkeypatch):
    assert speedrun.recipe(narrow(), tiny())["epochs"] == 24
    monkeypatch.setattr(recipes, "FEW_IMAGES", 10)
    assert speedrun.recipe(narrow(), tiny())["epochs"] == 9
    assert speedrun.recipe(narrow(), tiny(), epochs=3)["epochs"] == 3


def test_a_network_of_your_own_gets_its_own_recipe_where_images_are_many(monkeypatch):
    assert speedrun.recipe(make("SmallCNN"), tiny())["epochs"] == recipes.RECIPES["sample"].epochs
    monkeypatch.setattr(recipes, "FEW_IMAGES", 10)
    found = speedrun.recipe(make("SmallCNN"), tiny())
    assert found["epochs"] == recipes.RECIPES["own"].epochs and found["loss"].label_smoothing == 0.1
    assert speedrun.recipe(make("SmallCNN"), tiny(), "class")["epochs"] == recipes.RECIPES["class"].epochs


def test_a_recipe_of_your_own():
    mine = recipes.Recipe("light", epochs=5, batch_size=20, lr=0.05, sizes=())
    found = speedrun.recipe(make("SmallCNN"), tiny(), mine)
    assert (found["epochs"], found["batch_size"], found["transform"]) == (5, 20, PRESETS["light"])
    assert rates(found["optimizer"])[0] == 0.05
    with pytest.raises(ValueError, match="there is no recipe 'mine'; choose one of class, fast"):
        speedrun.recipe(make("SmallCNN"), tiny(), "mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "strnog"}, "Recipe.policy is 'strnog'; it must be one of none, "),
        ({"batch_size": 0}, "Recipe.batch_size is 0; it must be a whole number of at least 1"),
        ({"network": {"width": 8}}, "Recipe.network has width; it may have widths and mirror"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(recipes.RECIPES["fast"], **changes)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_fast_network_has_finite_gradients_with_16_bit_products():
    network = speedrun.network(tiny(), mirror=False).train()
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.compile(network)(images)
    logits.float().square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(gradient.isfinite().all() for gradient in gradients) and gradients[0].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_your_own_gets_gentle_rates_and_sizes_that_it_takes(name, capsys):
    network = make(name)
    found = speedrun.recipe(network, tiny())
    assert max(rates(found["optimizer"])) <= 0.18
    fixed = name in ("linear", "perceptron", "SmallTransformer")
    assert isinstance(found["transform"], Policy if fixed else ProgressiveResizing)
    assert ("images of 32 pixels only" in capsys.readouterr().out) == fixed


@pytest.fixture
def small_batches(monkeypatch):
    """All tricks of the fast recipe, and flips and shifts, in 4 + 2 + 2 steps of 16 images."""
    recipe = replace(recipes.RECIPES["fast"], policy="flip_and_shift", epochs=3, batch_size=16)
    monkeypatch.setitem(recipes.RECIPES, "sample", recipe)


def options(network, train, **changes) -> dict:
    return speedrun.recipe(network, train, device="cpu", **changes) | {"device": "cpu"}


@pytest.mark.parametrize("name", ["SmallCNN", "SmallTransformer", "fast"])
def test_any_network_trains_and_resumes_bit_for_bit(name, small_batches, tmp_path):
    train, val = tiny(), tiny(32, "validation")
    new = narrow if name == "fast" else partial(make, name)
    network = new()
    history = fit(network, train, val, **options(network, train), run=tmp_path / "whole")
    assert len(history) == 3 and all(math.isfinite(row["validation_loss"]) for row in history)
    whole, network = network.state_dict(), new()
    for state in steps(network, train, val, **options(network, train), run=tmp_path / "parts"):
        state.stop = (state.epoch, state.step) == (1, 1)
    network = new()
    fit(network, train, val, **options(network, train), run=tmp_path / "parts")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in network.state_dict().items())


@pytest.mark.slow
def test_the_fast_network_resumes_bit_for_bit_wherever_it_stops(small_batches, tmp_path):
    train, val = tiny(), tiny(32, "validation")
    network = narrow()
    history = fit(network, train, val, **options(network, train), run=tmp_path / "whole")
    whole = network.state_dict()
    for stop in range(1, 9):
        run, network = tmp_path / str(stop), narrow()
        for done, state in enumerate(steps(network, train, val, **options(network, train), run=run)):
            state.stop = done == stop
        network = narrow()
        resumed = fit(network, train, val, **options(network, train), run=run)
        assert all(torch.equal(tensor, whole[key]) for key, tensor in network.state_dict().items()), stop
        assert [row["validation_loss"] for row in resumed] == [row["validation_loss"] for row in history], stop


def test_the_fast_network_is_loaded_from_its_run(small_batches, tmp_path):
    train, val = tiny(), tiny(32, "validation")
    network = narrow()
    fit(network, train, val, **options(network, train, epochs=1), run=tmp_path / "run")
    loaded = load(tmp_path / "run", narrow(seed=1))
    assert not loaded.training and torch.equal(loaded(val.images), network.eval()(val.images))


def test_your_own_images_train_at_fractions_of_their_own_size(small_batches, tmp_path):
    train, val = synthetic(count=48, size=64, classes=3)
    network = speedrun.network(train, widths=(8, 16, 16))
    arguments, sizes = options(network, train), []
    for state in steps(network, train, val, **arguments, run=tmp_path / "run"):
        if state.step:
            sizes.append(state.batch.shape[-1])
    total = arguments["sampler"].total_steps(3)
    assert len(sizes) == total and sizes == sorted(sizes) and set(sizes) == {32, 48, 64}
    assert state.history[-1]["validation_accuracy"] > 0.5, "colors are easy"


@pytest.mark.parametrize("wrong,words", [
    ({"name": "turbo"}, "no recipe 'turbo'.*fast"), ({"epochs": 0}, "epochs is 0"), ({"epochs": 2.5}, "epochs is 2.5"),
])  # fmt: skip
def test_what_there_is_no_recipe_for(wrong, words):
    with pytest.raises(ValueError, match=words):
        speedrun.recipe(narrow(), tiny(), **wrong)


@pytest.mark.parametrize("device,tunes", [("cpu", True), ("meta", False)])
def test_memory_is_tuned_on_a_cpu_only(device, tunes, monkeypatch):
    calls = []
    monkeypatch.setattr(recipes, "tune_malloc", lambda: calls.append(1))
    speedrun.recipe(narrow(), tiny(), device=device)
    assert bool(calls) == tunes
