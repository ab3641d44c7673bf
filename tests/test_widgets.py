"""The widgets without a browser: every action at the ends of its range, errors in words, and the static picture."""

import asyncio
import base64
import io
import json
import re
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from strategies import policies
from tables import random_predictions
from tiny import narrow, tiny, train_tiny

from cifar_utils import checkpoint, data, evaluation, gallery, preview, runs, training
from cifar_utils import settings as environment
from cifar_utils.data import CLASSES, Normalisation
from cifar_utils.policy import PRESETS, RANGES, Policy
from cifar_utils.predictions import Predictions
from cifar_utils.widgets import ConfusionExplorer, Dashboard, Explorer
from cifar_utils.widgets.base import HERE, VIEW, rgba
from cifar_utils.widgets.explorer import FIELDS


def picture(bundle: tuple[dict, dict]) -> np.ndarray:
    data_, metadata = bundle
    assert len(metadata["image/png"]["alt"]) > 40 and "\n" not in metadata["image/png"]["alt"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_["image/png"]))))


# The explorer


@pytest.fixture(scope="module")
def shared_explorer():
    split = tiny(200)
    return Explorer(split, tiny(40, "validation"), Normalisation.of(split), network=narrow().eval())


@pytest.fixture
def explorer(shared_explorer):
    shared_explorer.do("reset")
    assert shared_explorer.error == ""
    return shared_explorer


def shown(explorer: Explorer, policy: Policy, seed: int = 0) -> bool:
    images = explorer.images()
    sheet = preview.contact_sheet(images.images, preview.draws(images, policy, seed, 8))
    view = explorer.view
    return explorer.pixels == rgba(sheet) and (view["height"], view["width"]) == sheet.shape[:2]


def test_every_field_of_a_policy_has_a_control():
    fields = {key.partition(".")[0] for key in FIELDS}
    assert fields | {"interpolation"} == set(Policy.__dataclass_fields__)


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_at_both_ends_and_beyond(explorer, key):
    name, _, part = key.partition(".")
    low, high = RANGES[name]
    other = {"scale.0": ("scale.1", high), "scale.1": ("scale.0", low)}.get(key)  # make room for both ends
    if other:
        explorer.do("set", *other)
    for value in (low, high):
        explorer.do("set", key, value)
        found = getattr(explorer.policy, name)
        assert explorer.error == "" and (found[int(part)] if part else found) == value
        assert shown(explorer, explorer.policy) and explorer.view["policy"] == repr(explorer.policy)
    for value in (low - 1, high + 1, None, "much", float("nan")):
        before, pixels = explorer.policy, explorer.pixels
        explorer.do("set", key, value)
        assert re.search(rf"Policy\.{name} is .*from {low:g} to {high:g}", explorer.error)
        assert explorer.policy == before and explorer.pixels == pixels


@pytest.mark.parametrize("name", PRESETS)
def test_presets(explorer, name):
    explorer.do("preset", name)
    assert explorer.policy == PRESETS[name] and shown(explorer, PRESETS[name])
    assert PRESETS[explorer.view["preset"]] == PRESETS[name]


@pytest.mark.parametrize("value", [0, 0.5, 1, 4])
def test_strength_turns_what_was_set_last(explorer, value):
    explorer.do("set", "degrees", 20)
    explorer.do("strength", 3)
    explorer.do("strength", value)
    assert explorer.policy == Policy(**{**vars(PRESETS["full"]), "degrees": 20}).scaled(value)
    assert explorer.view["strength"] == value


@pytest.mark.parametrize(
    "action,match",
    [
        (("strength", 4.1), "from 0 to 4"),
        (("strength", -1), "from 0 to 4"),
        (("strength", None), "from 0 to 4"),
        (("preset", "wild"), "there is no preset 'wild'; there are none, "),
        (("seed", -1), "whole number from 0"),
        (("seed", 0.5), "whole number from 0"),
        (("classes", []), "choose at least one"),
        (("classes", ["lynx"]), "lynx"),
        (("sweep", "fill"), "cannot be swept"),
        (("set", "interpolation", "cubic"), "'bilinear' or 'nearest'"),
        (("set", "nothing", 1), "AttributeError"),
        (("__init__",), "there is no action '__init__'"),
        (("policy",), "there is no action 'policy'"),
        (("undo", 1), "TypeError"),
    ],
)
def test_what_is_refused_is_said_and_changes_nothing(explorer, action, match):
    before, pixels = explorer.policy, explorer.pixels
    explorer.do(*action)
    assert match in explorer.error and explorer.policy == before and explorer.pixels == pixels
    explorer.do("judge")  # which the page does by itself
    assert match in explorer.error
    explorer.do("draw_again")
    assert explorer.error == ""


def test_undo_goes_all_the_way_back_and_then_says_so(explorer):
    explorer._before.clear()
    policies_ = [explorer.policy]
    for degrees in (1, 2, 2, 3):  # the same value twice is one change
        explorer.do("set", "degrees", degrees)
        if explorer.policy != policies_[-1]:
            policies_.append(explorer.policy)
    for policy in policies_[-2::-1]:
        explorer.do("undo")
        assert explorer.policy == policy and shown(explorer, policy)
    assert not explorer.view["can_undo"]
    explorer.do("undo")
    assert explorer.error == "there is nothing to undo"


def test_reset_can_be_undone(explorer):
    explorer.do("preset", "none")
    explorer.do("reset")
    assert explorer.policy == PRESETS["full"]
    explorer.do("undo")
    assert explorer.policy == PRESETS["none"]


def test_seed_images_classes_and_sweeps(explorer):
    explorer.do("draw_again")
    assert shown(explorer, PRESETS["full"], seed=1)
    before = explorer.images().index.tolist()
    explorer.do("other_images")
    assert explorer.images().index.tolist() != before
    explorer.do("classes", ["dog", "cat"])
    assert {CLASSES[k] for k in explorer.images().labels} == {"cat", "dog"} and "cat, dog" in explorer.view["alt"]
    for field in preview.SWEEPS:
        explorer.do("sweep", field)
        sheet = preview.contact_sheet(explorer.images().images, explorer.shown())
        assert explorer.pixels == rgba(sheet) and f"{field} from end to end" in explorer.view["alt"]
    explorer.do("sweep", "")
    assert shown(explorer, PRESETS["full"], seed=1)


def test_save_and_load(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    explorer.do("load")
    assert explorer.error == "no policy has been saved in runs/policy.json yet"
    explorer.do("set", "degrees", 33)
    explorer.do("save")
    assert Policy.from_json(environment.policy_file().read_text()) == explorer.policy
    assert "notebook 3 will train with it" in explorer.view["note"]
    saved = explorer.policy
    explorer.do("preset", "none")
    assert explorer.view["note"] == ""
    explorer.do("load")
    assert explorer.policy == saved and explorer.view["note"].startswith("Loaded")
    environment.policy_file().write_text("{")
    explorer.do("load")
    assert explorer.error.startswith("runs/policy.json: ") and explorer.policy == saved


def test_the_verdict_is_of_the_policy_on_show():
    split, validation = tiny(64), tiny(150, "validation")
    explorer = Explorer(split, validation)  # the network that ships
    assert not explorer.view["destroys"] and explorer.view["verdict"].startswith("Labels survive")
    explorer.do("strength", 4)
    explorer.do("set", "degrees", 180)
    explorer.do("judge")
    assert explorer.view["destroys"] and "likely to destroy" in explorer.view["verdict"]


@settings(max_examples=25, deadline=None)
@given(policy=policies())
def test_any_policy_can_be_shown(shared_explorer, policy):
    explorer = shared_explorer
    explorer._change(policy=policy, base=policy)
    assert shown(explorer, policy, explorer.view["seed"])
    json.dumps(explorer.view)  # all of it reaches the page
    namespace = {}
    exec(explorer.view["code"], namespace)  # and the code is code
    assert repr(namespace["transform"]) == repr(policy.to_torchvision())


# The dashboard


def dashboard(run, **changes) -> Dashboard:
    split = tiny()
    usual = {"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "skip": 0.0, "bfloat16": False}
    config = training.Config(**(usual | changes))
    arguments = split, tiny(32, "validation"), PRESETS["full"], config, Normalisation.of(split), run
    return Dashboard(narrow(), *arguments)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_dashboard_shows_the_history(tmp_path, one_thread, monkeypatch):
    monkeypatch.setattr("cifar_utils.widgets.dashboard.PAUSE", 0)
    board = dashboard(tmp_path)
    assert board.view["status"] == "not started" and board.view["best"] is None
    history = asyncio.run(board.train())
    view = board.view
    assert view["history"] == history and view["done"] == 2 and view["status"] == "finished" and not view["running"]
    assert view["best"] == min(history, key=lambda row: row["validation_loss"])["epoch"]
    assert view["rate"] == history[-1]["learning_rate"] and len(view["trace"]) > 0
    assert len(board.pixels) == view["width"] * view["height"] * 4 > 0
    json.dumps(view, allow_nan=False)


def during(board: Dashboard, *actions) -> list[dict]:
    """Trains, and meanwhile, as the kernel would on the page's behalf, carries out actions one by one."""

    async def main():
        training_ = asyncio.create_task(board.train())
        for action in actions:
            seen = board._progress
            while board._progress is seen and not training_.done():
                await asyncio.sleep(0)
            action()
        return await training_

    return asyncio.run(main())


def test_stop_and_the_ends_of_the_learning_rate_while_it_trains(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)

    def turn(value, legal):
        board.do("learning_rate", value)
        assert legal == (board.error == "") and (legal or "must be a number from 0 to 10" in board.error)
        assert board.view["running"] and board.view["scale"] == (value if legal else 1)

    legal = [lambda v=v: turn(v, True) for v in (0, 10, 1)]
    refused = [lambda v=v: turn(v, False) for v in (-1, 11, None, "fast", True, float("nan"))]
    history = during(board, *legal, *refused, lambda: board.do("stop"))
    assert len(history) < 500 and board.error == "" and board.view["status"].startswith("stopped and saved")
    again = dashboard(tmp_path, epochs=500)
    assert len(during(again, lambda: again.do("stop"))) >= len(history)


def test_the_stop_button_of_jupyterlab_is_a_signal(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)
    history = during(board, lambda: None, lambda: signal.raise_signal(signal.SIGINT))
    assert len(history) < 500 and board.view["status"].startswith("stopped and saved")


def test_it_is_the_same_training(tmp_path, one_thread):
    asyncio.run(dashboard(tmp_path / "board").train())
    train_tiny(tmp_path / "plain")
    one, other = (checkpoint.load(tmp_path / name / runs.LAST).tensors for name in ("board", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_ends_training_is_shown(tmp_path, one_thread):
    board = dashboard(tmp_path, learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        asyncio.run(board.train())
    assert "training cannot go on" in board.error


# The confusion explorer


def confusion_explorer() -> tuple[ConfusionExplorer, dict[str, Predictions], data.Split]:
    split = tiny(60, "test")
    order = np.random.default_rng(0).permutation(60)
    runs = {}
    for seed, name in enumerate(("one", "two")):
        p = random_predictions(seed, 60).probabilities
        runs[name] = Predictions(split.index.numpy(), split.labels.numpy(), p).select(order)
        order = order[::-1]  # each run in an order of its own
    return ConfusionExplorer(runs, split), runs, split


def images_of(widget: ConfusionExplorer, split: data.Split) -> bytes:
    places = {index: place for place, index in enumerate(split.index.tolist())}
    rows = [places[image["index"]] for image in widget.view["found"]]
    return rgba(split.images[rows].permute(0, 2, 3, 1).numpy().reshape(-1, 32, 3))


def test_every_cell_shows_its_images():
    widget, runs, split = confusion_explorer()
    matrix = evaluation.confusion_matrix(runs["one"])
    assert widget.view["matrix"] == matrix.tolist()
    for true in range(10):
        for predicted in range(10):
            widget.do("choose", true, predicted)
            assert widget.error == "" and len(widget.view["found"]) == matrix[true, predicted]
            assert all(image["true"] == CLASSES[true] for image in widget.view["found"])
            assert all(image["said"].startswith(CLASSES[predicted]) for image in widget.view["found"])
            assert widget.pixels == images_of(widget, split)
    json.dumps(widget.view, allow_nan=False)


def test_runs_orders_and_pages(monkeypatch):
    monkeypatch.setattr("cifar_utils.widgets.confusions.SHOWN", 2)
    widget, runs, split = confusion_explorer()
    for order in gallery.ORDERS:
        widget.do("order", order)
        pages, seen = -(-widget.view["count"] // 2), []
        for _ in range(pages):
            seen += [image["index"] for image in widget.view["found"]]
            widget.do("more", 1)
        assert len(set(seen)) == widget.view["count"]  # turning beyond the last page stays there
        widget.do("more", -100)
        assert widget.view["first"] == 0
    widget.do("other", "two")
    difference = evaluation.confusion_matrix(runs["two"]) - evaluation.confusion_matrix(runs["one"])
    assert widget.view["changes"] == difference.tolist() and "McNemar" in widget.view["comparison"]
    said = {i: gallery.caption(runs["two"], r, 1) for r, i in enumerate(runs["two"].index.tolist())}
    assert all(image["other"] == said[image["index"]] for image in widget.view["found"])
    widget.do("run", "two")
    assert widget.view["matrix"] == evaluation.confusion_matrix(runs["two"]).tolist()
    widget.do("other", "")
    assert widget.view["changes"] is None


@pytest.mark.parametrize(
    "action", [("choose", 10, 0), ("choose", 0, -1), ("order", "x"), ("run", "three"), ("other", "three"), ("run", "")]
)
def test_what_is_not_there_is_refused_in_words(action):
    widget, _, _ = confusion_explorer()
    before = dict(widget.view)
    widget.do(*action)
    assert "there is no" in widget.error and widget.view == before


def test_predictions_of_other_images_are_refused():
    _, runs, split = confusion_explorer()
    with pytest.raises(ValueError, match="not of SAMPLE, 59 test images"):
        ConfusionExplorer(runs, split.select(torch.arange(59)))
    with pytest.raises(ValueError, match="same images"):
        ConfusionExplorer(runs | {"three": random_predictions(0, 61)}, split)


# Where no widget can be shown


def made(name: str, tmp_path):
    return {"explorer": lambda: Explorer(tiny(64), tiny(40, "validation")), "dashboard": lambda: dashboard(tmp_path),
            "confusions": lambda: confusion_explorer()[0]}[name]()  # fmt: skip


@pytest.mark.parametrize("name", ["explorer", "dashboard", "confusions"])
def test_the_static_picture(name, tmp_path, monkeypatch):
    widget = made(name, tmp_path)
    bundle = widget._repr_mimebundle_()
    assert VIEW not in bundle[0]  # nobody is looking: a saved notebook has the picture alone
    assert picture(bundle).shape[0] > 80 and len(np.unique(picture(bundle))) > 50
    monkeypatch.delenv("CIFAR_HEADLESS")
    live = widget._repr_mimebundle_()[0]
    assert live[VIEW]["model_id"] == widget.model_id and live["image/png"] == bundle[0]["image/png"]


def test_a_message_from_the_page_is_answered(explorer):
    number, order = 1000 * 1_800_000_000_000, []
    explorer.observe(lambda change: order.append(change["name"]), ["view", "answered"])
    explorer._on_message(explorer, {"do": "set", "arguments": ["degrees", 5], "number": number}, [])
    assert explorer.answered == number and order == ["view", "answered"]  # the page knows the view by then
    explorer._on_message(explorer, {"do": "explode", "arguments": [], "number": number + 1}, [])
    assert explorer.answered == number + 1
    assert explorer.policy.degrees == 5 and "explode" in explorer.error


def test_pages_fetch_nothing_from_elsewhere():
    for path in [*HERE.glob("*.js"), *HERE.glob("*.css")]:
        addresses = set(re.findall(r"https?://[^\s\"')]+", path.read_text())) - {"http://www.w3.org/2000/svg"}
        assert not addresses and "import " not in path.read_text() and "@import" not in path.read_text()


def test_every_action_of_the_pages_exists():
    for name, widget in (("explorer", Explorer), ("dashboard", Dashboard), ("confusions", ConfusionExplorer)):
        asked = set(re.findall(r"(?:ask|latest)\(\"(\w+)\"", (HERE / f"{name}.js").read_text()))
        assert asked == set(widget.ACTIONS)
