"""The widgets without a browser: every action at the ends of its range, errors in words, and the static image."""

import asyncio
import base64
import html
import io
import json
import re
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from strategies import policies
from synthetic import Brightness, dark_and_bright, images, linear
from torch import nn
from torchvision.transforms import v2

from cifar_utils import checkpoint, data, runs
from cifar_utils import settings as environment
from cifar_utils.augment import PRESETS, RANGES, Policy
from cifar_utils.data import CIFAR10_CLASSES, Dataset
from cifar_utils.evaluation import gallery, metrics
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.train import fit
from cifar_utils.widgets import ConfusionExplorer, Dashboard, Explorer, preview
from cifar_utils.widgets.base import HERE, VIEW, rgba
from cifar_utils.widgets.explorer import FIELDS, NO_NETWORK


def static_image(bundle: tuple[dict, dict]) -> np.ndarray:
    data_, metadata = bundle
    assert len(metadata["image/png"]["alt"]) > 40 and "\n" not in metadata["image/png"]["alt"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_["image/png"]))))


# The explorer


@pytest.fixture(scope="module")
def shared_explorer():
    return Explorer(images(200), images(40, "validation"), network=linear())


@pytest.fixture
def explorer(shared_explorer):
    shared_explorer.do("reset")
    assert shared_explorer.error == ""
    return shared_explorer


def shown(explorer: Explorer, policy: Policy, seed: int = 0) -> bool:
    images_ = explorer.images()
    sheet = preview.contact_sheet(images_.images, preview.draws(images_, policy, seed, 8))
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
        assert shown(explorer, explorer.policy)
        assert " ".join(explorer.view["policy"].split()) == repr(explorer.policy)
    for value in (low - 1, high + 1, None, "much", float("nan"), [1], {}):
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
def test_strength_multiplies_the_policy_that_was_set_last(explorer, value):
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
        (("strength", True), "from 0 to 4"),
        (("strength", float("nan")), "from 0 to 4"),
        (("preset", "wild"), "there is no preset 'wild'; the presets are none, "),
        (("preset", []), "TypeError"),
        (("seed", -1), "whole number from 0"),
        (("seed", 2**32), "whole number from 0"),
        (("seed", 0.5), "whole number from 0"),
        (("seed", True), "whole number from 0"),
        (("classes", []), "choose at least one"),
        (("classes", ["lynx"]), "lynx"),
        (("classes", None), "TypeError"),
        (("sweep", "fill"), "cannot be swept"),
        (("set", "interpolation", "cubic"), "'bilinear' or 'nearest'"),
        (("set", "nothing", 1), "no field 'nothing'"),
        (("set", "translate", 1), "no field 'translate'"),
        (("set", "translate.2", 1), "no field 'translate.2'"),
        (("set", "to_json", 1), "no field 'to_json'"),
        (("__init__",), "there is no action '__init__'"),
        (("policy",), "there is no action 'policy'"),
        (([],), "there is no action []"),
        (("undo", 1), "TypeError"),
    ],
)
def test_a_refused_action_is_an_error_in_words_and_changes_nothing(explorer, action, match):
    before, pixels = explorer.policy, explorer.pixels
    explorer.do(*action)
    assert match in explorer.error and explorer.policy == before and explorer.pixels == pixels
    explorer.do("judge")  # which the page calls without a click
    assert match in explorer.error
    explorer.do("draw_again")
    assert explorer.error == ""


def test_undo_goes_all_the_way_back(explorer):
    explorer._previous.clear()
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


def test_after_undo_the_widget_no_longer_says_that_the_policy_is_saved(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    explorer.do("set", "degrees", 33)
    explorer.do("save")
    assert explorer.view["note"].startswith("Saved")
    explorer.do("undo")
    assert explorer.view["note"] == ""


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
    assert {CIFAR10_CLASSES[k] for k in explorer.images().labels} == {"cat", "dog"}
    assert "cat, dog" in explorer.view["alt"]
    for field in preview.SWEEPS:
        explorer.do("sweep", field)
        sheet = preview.contact_sheet(explorer.images().images, explorer.shown())
        assert explorer.pixels == rgba(sheet) and f"{field} from end to end" in explorer.view["alt"]
        assert len(explorer.view["captions"]) == len(explorer.view["columns"]) == 9
        assert explorer.view["captions"][-1] in explorer.view["alt"]
    explorer.do("sweep", "")
    assert shown(explorer, PRESETS["full"], seed=1)


@pytest.mark.parametrize(
    "field,values",
    [
        ("flip_p", ["no flip", "no flip", "flip"]),
        ("degrees", ["−12°", "0°", "12°"]),
        ("translate", ["−16, −8 px", "0 px", "16, 8 px"]),
        ("scale", ["0.80×", "1.00×", "1.20×"]),
        ("shear", ["−5.5°", "0°", "5.5°"]),
        ("distortion_scale", ["bottom 8 px", "bottom 0 px", "top 8 px"]),
        ("brightness", ["0.00×", "1.50×", "3.00×"]),
        ("contrast", ["0.90×", "1.00×", "1.10×"]),
        ("saturation", ["1.00×", "1.00×", "1.00×"]),
    ],
)
def test_the_values_of_a_sweep(field, values):
    policy = Policy(
        flip_p=0.5, degrees=12, translate=(0.5, 0.25), scale=(0.8, 1.2), shear=5.5, distortion_scale=0.5,
        perspective_p=1, brightness=2, contrast=0.1,
    )  # fmt: skip
    assert preview.sweep_values(images(5), policy, field, 3) == values


def test_a_perspective_that_never_happens_is_told():
    explorer = Explorer(images(200), images(40, "validation"), Policy(), network=linear())
    explorer.do("set", "distortion_scale", 0.3)
    assert "The probability of the perspective is 0" in explorer.view["note"]
    explorer.do("set", "perspective_p", 0.5)
    assert explorer.view["note"] == ""
    explorer.do("set", "distortion_scale", 0.4)
    assert explorer.view["note"] == ""


def test_save_and_load(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "runs"))
    explorer.do("load")
    assert explorer.error == "no policy has been saved in runs/policy.json yet"
    explorer.do("set", "degrees", 33)
    explorer.do("save")
    assert Policy.from_json(environment.policy_file().read_text()) == explorer.policy
    assert "Saved to runs/policy.json" in explorer.view["note"]
    saved = explorer.policy
    explorer.do("preset", "none")
    assert explorer.view["note"] == ""
    explorer.do("load")
    assert explorer.policy == saved and explorer.view["note"].startswith("Loaded")
    environment.policy_file().write_text("{")
    explorer.do("load")
    assert explorer.error.startswith("runs/policy.json: ") and explorer.policy == saved


def test_a_policy_is_never_saved_through_a_link(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "policy.json").symlink_to(victim)
    explorer.do("save")
    assert victim.read_text() == "precious" and explorer.error == ""
    assert Policy.from_json(environment.policy_file().read_text()) == explorer.policy


def test_a_policy_that_cannot_be_saved(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    (tmp_path / "policy.json").mkdir()
    explorer.do("save")
    assert "policy.json cannot be saved" in explorer.error and explorer.view["note"] == ""


@pytest.mark.slow
def test_the_warning_is_of_the_policy_that_is_shown():
    train, validation = data.split(data.cifar10(sample=True))
    explorer = Explorer(train, validation)  # judged by the network that ships
    assert not explorer.view["destroys"] and explorer.view["warning"].startswith("Labels survive")
    accuracy = re.search(r"and (\d+)% on the original", explorer.view["warning"])[1]
    assert int(accuracy) > 70
    explorer.do("strength", 4)
    explorer.do("set", "degrees", 180)
    assert explorer.view["warning"].startswith("Measuring") and not explorer.view["destroys"]  # not of the old policy
    explorer.do("judge")
    assert explorer.error == ""
    assert explorer.view["destroys"] and "likely to destroy" in explorer.view["warning"]


@settings(max_examples=25)
@given(policy=policies())
def test_any_policy_can_be_shown(shared_explorer, policy):
    explorer = shared_explorer
    explorer._change(policy=policy, base=policy)
    assert shown(explorer, policy, explorer.view["seed"])
    json.dumps(explorer.view)  # all of it reaches the page
    namespace = {}
    exec(explorer.view["code"], namespace)  # and the code is code
    assert repr(namespace["transform"]) == repr(policy.to_torchvision())
    assert eval(explorer.view["policy"], {"Policy": Policy}) == policy
    for text in (explorer.view["code"], explorer.view["policy"]):
        assert max(map(len, text.splitlines())) <= 88  # it can be pasted anywhere


@pytest.mark.parametrize("classes,size", [(100, 32), (2, 64), (7, 16), (3, 200)])
def test_an_explorer_of_any_images(classes, size):
    train, validation = (images(2 * classes, split, classes, size) for split in ("training", "validation"))
    explorer = Explorer(train, validation, network=linear(classes, size), rows=4, columns=3)
    side = min(size, 64) + 2
    assert (explorer.view["height"], explorer.view["width"]) == (4 * side + 2, 4 * side + 4)
    assert len(explorer.pixels) == 4 * explorer.view["height"] * explorer.view["width"]
    assert len(explorer.view["classes"]) == classes and explorer.error == ""
    assert explorer.view["warning"].startswith("This network cannot judge a policy")  # it is untrained
    explorer.do("classes", [train.classes[-1]])
    assert explorer.error == "" and set(explorer.images().labels.tolist()) == {classes - 1}


@pytest.mark.parametrize("classes,size", [(3, 32), (10, 64)])
def test_the_shipped_network_does_not_judge_other_images(classes, size):
    arguments = images(60, classes=classes, size=size), images(40, "validation", classes, size)
    explorer = Explorer(*arguments)
    assert explorer.view["warning"] == NO_NETWORK and not explorer.view["destroys"] and explorer.error == ""
    explorer.do("draw_again")
    explorer.do("judge")
    assert explorer.view["warning"] == NO_NETWORK


def test_a_network_that_does_not_fit_is_an_error_in_the_widget():
    arguments = images(60, classes=3), images(40, "validation", classes=3)
    explorer = Explorer(*arguments, network=linear(10))
    assert "logits [40, 3] are needed" in explorer.error and explorer.view["warning"] == "" and explorer.pixels
    diverged = linear(3)
    nn.init.constant_(diverged[1].bias, float("nan"))
    assert "finite" in Explorer(*arguments, network=diverged).error


def test_a_network_of_your_own_is_left_in_its_mode():
    network = nn.Sequential(Brightness(), nn.Dropout(0.5))
    explorer = Explorer(dark_and_bright(split="training"), dark_and_bright(), network=network.train())
    assert network[1].training and explorer.view["warning"].startswith("Labels survive")
    explorer.do("set", "brightness", 2)
    explorer.do("set", "contrast", 2)
    explorer.do("judge")
    assert "100% on the original images" in explorer.view["warning"]


def test_a_class_without_images_is_not_offered():
    train = images(60)
    train = train.select(train.labels != 4)
    explorer = Explorer(train, images(40, "validation"), network=linear())
    assert [name for name, _ in explorer.view["classes"]] == [name for name in CIFAR10_CLASSES if name != "deer"]


def test_splits_that_must_not_choose_a_policy():
    train, validation = images(60), images(40, "validation")
    for wrong in ((validation, train), (train, images(40, "test")), (images(60, "test"), validation), (train, train)):
        with pytest.raises(ValueError, match="training images and validation images"):
            Explorer(*wrong)
    for other in (images(40, "validation", classes=3), images(40, "validation", size=64)):
        with pytest.raises(ValueError, match="differ in their classes or in their size"):
            Explorer(train, other)
    for size in (0, -1, 2.5, "5"):
        with pytest.raises(ValueError, match="rows is"):
            Explorer(train, validation, rows=size)


# The dashboard


def dashboard(run, **changes) -> Dashboard:
    usual = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 32, "device": "cpu", "run": run}
    return Dashboard(linear(), images(64), images(20, "validation"), **(usual | changes))


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("cifar_utils.widgets.dashboard.PAUSE", 0)
    monkeypatch.setattr("cifar_utils.widgets.dashboard.BATCH_PAUSE", 0)


def test_a_dashboard_shows_the_history(tmp_path, one_thread, no_pause):
    board = dashboard(tmp_path)
    assert board.view["status"] == "not started" and board.view["best"] is None and board.view["epochs"] is None
    history = asyncio.run(board.train())
    view = board.view
    assert view["history"] == history and view["done"] == 2 and view["status"] == "finished" and not view["running"]
    assert view["epochs"] == 2 and view["best"] == min(history, key=lambda row: row["validation_loss"])["epoch"]
    assert view["rate"] == history[-1]["learning_rate"] and len(view["trace"]) > 0
    assert (view["height"], view["width"]) == (4 * 34 + 2, 8 * 34 + 2)
    assert len(board.pixels) == view["width"] * view["height"] * 4
    json.dumps(view, allow_nan=False)


def test_the_sheet_is_the_batch(tmp_path, one_thread, no_pause):
    board = dashboard(tmp_path, transform=None, epochs=1)
    asyncio.run(board.train())
    found = board._sheet[36:68, 70:102].tolist()  # the second row's third image
    assert found in images(64).images.permute(0, 2, 3, 1).tolist()


@pytest.mark.parametrize(
    "transform,size,side",
    [
        (None, 16, 16), (None, 200, 64), (v2.RandomErasing(p=1), 32, 32), (lambda x: x[..., :24, :24], 40, 24),
        (v2.MixUp(num_classes=3), 32, 32), ([PRESETS["light"], v2.RandomHorizontalFlip()], 64, 64),
    ],
)  # fmt: skip
def test_a_dashboard_of_any_network_images_and_transform(tmp_path, one_thread, no_pause, transform, size, side):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 3))
    train, val = images(40, classes=3, size=size), images(12, "validation", classes=3, size=size)
    options = {"transform": transform, "epochs": 1, "batch_size": 20, "run": tmp_path, "device": "cpu"}
    board = Dashboard(model, train, val, **options)
    history = asyncio.run(board.train())
    assert len(history) == 1 and board.error == "" and board.view["width"] == 8 * (side + 2) + 2
    assert board.view["height"] == 3 * (side + 2) + 2  # 20 images
    json.dumps(board.view, allow_nan=False)


def test_a_misspelled_argument_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="epoch"):
        dashboard(tmp_path, epoch=3)


def during(board: Dashboard, *actions) -> list[dict]:
    """Trains, and meanwhile, as the kernel would on the page's behalf, carries out actions one step apart."""

    async def main():
        training_ = asyncio.create_task(board.train())
        for action in actions:
            seen = board._state and board._state.epochs
            while not training_.done() and (board._state is None or board._state.epochs == seen):
                await asyncio.sleep(0)
            action()
        return await training_

    return asyncio.run(main())


def test_stop_and_the_ends_of_the_learning_rate_while_it_trains(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)

    def change(value, legal):
        board.do("learning_rate", value)
        assert legal == (board.error == "") and (legal or "must be a number from 0 to 10" in board.error)
        assert board.view["running"] and board.view["scale"] == (value if legal else 1)

    legal = [lambda v=v: change(v, True) for v in (0, 10, 1)]
    refused = [lambda v=v: change(v, False) for v in (-1, 11, None, "fast", True, float("nan"))]
    history = during(board, *legal, *refused, lambda: board.do("stop"))
    assert len(history) < 500 and board.error == "" and board.view["status"].startswith("stopped and saved")
    again = dashboard(tmp_path, epochs=500)
    assert len(during(again, lambda: again.do("stop"))) >= len(history)


def test_a_learning_rate_that_is_set_before_training_starts(tmp_path, one_thread):
    board = dashboard(tmp_path)
    board.do("learning_rate", 0.5)
    assert board.error == "" and board.view["scale"] == 0.5
    board.do("stop")
    assert board.error == "nothing is training"
    history = asyncio.run(board.train())
    plain = asyncio.run(dashboard(tmp_path.parent / "plain").train())
    assert [a["learning_rate"] / b["learning_rate"] for a, b in zip(history, plain)] == pytest.approx([0.5, 0.5])


def test_the_stop_button_of_jupyterlab_is_a_signal(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)
    history = during(board, lambda: None, lambda: signal.raise_signal(signal.SIGINT))
    assert len(history) < 500 and board.view["status"].startswith("stopped and saved")


def test_the_same_cell_resumes(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=4)
    during(board, lambda: None, lambda: board.do("stop"))
    assert board.view["done"] < 4
    assert len(asyncio.run(board.train())) == 4 and board.view["status"] == "finished"
    assert len(asyncio.run(board.train())) == 4  # a complete run: nothing is trained


def resumed(board: Dashboard, *actions) -> None:
    """Continues as the kernel would on the page's behalf, carries out actions one step apart, and waits for the end."""

    async def main():
        board.do("resume")
        assert board.error == "" and board.view["running"] and board.view["status"].startswith("training")
        for action in actions:
            seen = board._state
            while not board._task.done() and board._state is seen:
                await asyncio.sleep(0)
            action()
        await asyncio.wait([board._task])

    asyncio.run(main())


def test_continue_resumes_the_stopped_run(tmp_path, one_thread):
    board = dashboard(tmp_path / "board", epochs=4)
    board.do("resume")
    assert board.error == "there is no stopped training to continue"  # it never started
    history = during(board, lambda: board.do("resume"), lambda: board.do("stop"))
    assert len(history) < 4 and board.view["stopped"] and "Continue" in board.view["status"]
    resumed(board, lambda: board.do("stop"))
    assert board.view["stopped"] and len(history) < 4
    trace = list(board.view["trace"])
    resumed(board)
    assert board.view["status"] == "finished" and not board.view["stopped"] and not board.view["running"]
    assert len(history) == 4 and history is board.history  # the notebook's variable has the whole history
    assert board.view["trace"][: len(trace)] == trace
    board.do("resume")
    assert board.error == "there is no stopped training to continue"
    asyncio.run(dashboard(tmp_path / "plain", epochs=4).train())
    one, other = (checkpoint.load(tmp_path / name / runs.LAST)["states"]["model"] for name in ("board", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_trainings_of_one_dashboard_are_refused(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)
    during(board, lambda: board.do("stop"))

    async def main():
        before = board._state
        board.do("resume")
        board.do("resume")  # a double click
        assert board.error == "there is no stopped training to continue" and board.view["running"]
        with pytest.raises(ValueError, match="is training already"):
            await board.train()
        while board._state is before:
            await asyncio.sleep(0)
        board.do("stop")
        assert board.error == ""
        await board._task

    asyncio.run(main())
    assert board.view["stopped"]


def test_an_error_after_continue_is_shown(tmp_path, one_thread):
    board = dashboard(tmp_path / "run", epochs=500)
    during(board, lambda: board.do("stop"))
    (tmp_path / "run" / runs.LAST).write_bytes(b"")
    (tmp_path / "run" / "last.previous.safetensors").unlink(missing_ok=True)
    resumed(board)
    assert "safetensors" in board.error and board.view["status"] == "ended by an error"
    assert not board.view["running"] and not board.view["stopped"]
    assert "training was ended by an error" in board._caption() and "safetensors" in board._caption()


def test_the_curve_of_a_resumed_run_begins_at_its_beginning(tmp_path, one_thread, no_pause):
    asyncio.run(dashboard(tmp_path, epochs=3).train())
    board = dashboard(tmp_path, epochs=3)  # as after a restart of the kernel
    history = asyncio.run(board.train())
    for point, row in zip(board.view["trace"], history):
        assert point == [row[name] for name in ("epoch", "seconds", "training_loss", "training_accuracy")]
    assert len(history) == 3 <= len(board.view["trace"])


def test_the_picture_for_a_saved_notebook(tmp_path, one_thread, monkeypatch):
    displayed = []

    class Handle:
        def update(self, data, **options):
            displayed.append((data, options))

    def display(data, **options):
        displayed.append((data, options))
        return Handle()

    monkeypatch.delenv("CIFAR_HEADLESS")
    monkeypatch.setattr("cifar_utils.widgets.dashboard.display", display)
    monkeypatch.setattr("cifar_utils.widgets.dashboard.PICTURE_PAUSE", 0)
    board = dashboard(tmp_path, epochs=3)
    during(board, *[lambda: None] * 4, lambda: board.do("stop"))
    resumed(board)
    (widget, _), (before, _), *later = displayed
    assert VIEW in widget and "image/png" not in widget  # the picture is beside it
    assert "Before the first epoch" in before["text/html"] and "no longer runs here" in before["text/html"]
    stopped = [data["text/html"] for data, _ in later if "training has ended here" in data["text/html"]]
    assert len(stopped) == 1 and "running the cell again resumes" in stopped[0]
    assert "Training is finished." in later[-1][0]["text/html"]
    assert "running the cell" not in later[-1][0]["text/html"]
    for bundle, options in displayed[1:]:
        assert static_image((bundle, options["metadata"])).shape[0] > 80
        assert f'alt="{html.escape(options["metadata"]["image/png"]["alt"])}"' in bundle["text/html"]


def test_a_cancelled_cell_lets_go_of_the_run(tmp_path, one_thread):
    board = dashboard(tmp_path, epochs=500)

    async def main():
        training_ = asyncio.create_task(board.train())
        while board._state is None:
            await asyncio.sleep(0)
        training_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training_

    asyncio.run(main())
    assert not board.view["running"]
    again = dashboard(tmp_path, epochs=500)
    during(again, lambda: again.do("stop"))
    assert again.error == ""


def test_it_is_the_same_training(tmp_path, one_thread):
    asyncio.run(dashboard(tmp_path / "board").train())
    options = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 32, "device": "cpu", "run": tmp_path / "plain"}
    fit(linear(), images(64), images(20, "validation"), **options)
    one, other = (checkpoint.load(tmp_path / name / runs.LAST)["states"]["model"] for name in ("board", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_error_that_ends_training_is_shown(tmp_path, one_thread):
    model = linear()
    board = dashboard(tmp_path)
    board._model, board._arguments["optimizer"] = model, torch.optim.SGD(model.parameters(), lr=1e38)
    with pytest.raises(FloatingPointError):
        asyncio.run(board.train())
    assert "training cannot continue" in board.error and not board.view["running"]
    json.dumps(board.view, allow_nan=False)
    with pytest.raises(ValueError):
        asyncio.run(dashboard(tmp_path / "other", epochs=0).train())


# The confusion explorer


def random_probabilities(seed: int, count: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), count).astype(np.float32)


def confusion_explorer(classes: int = 10, size: int = 32, count: int = 60):
    dataset = images(count, "test", classes, size)
    order = np.random.default_rng(0).permutation(count)
    runs_ = {}
    for seed, name in enumerate(("one", "two")):
        predictions = Predictions.from_array(random_probabilities(seed, count, classes), dataset)
        runs_[name] = predictions.select(order)
        order = order[::-1]  # each run in an order of its own
    return ConfusionExplorer(runs_, dataset), runs_, dataset


def pixels_of_the_shown(widget: ConfusionExplorer, dataset: Dataset) -> bytes:
    places = {index: place for place, index in enumerate(dataset.index.tolist())}
    rows = [places[image["index"]] for image in widget.view["found"]]
    return rgba(dataset.images[rows].permute(0, 2, 3, 1).numpy().reshape(-1, dataset.size, 3))


@pytest.mark.parametrize("classes,size", [(10, 32), (2, 16), (7, 64)])
def test_every_cell_shows_its_images(classes, size):
    widget, runs_, dataset = confusion_explorer(classes, size)
    matrix = metrics.confusion_matrix(runs_["one"])
    assert widget.table["matrix"] == matrix.tolist() and widget.view["size"] == size
    for true in range(classes):
        for predicted in range(classes):
            widget.do("choose", true, predicted)
            found = widget.view["found"]
            assert widget.error == "" and len(found) == min(matrix[true, predicted], 24)
            assert all(image["true"] == dataset.classes[true] for image in found)
            assert all(image["caption"].startswith(dataset.classes[predicted]) for image in found)
            assert widget.pixels == pixels_of_the_shown(widget, dataset)
    json.dumps([widget.view, widget.table], allow_nan=False)


def test_a_matrix_of_100_classes_is_sent_once():
    widget, runs_, dataset = confusion_explorer(classes=100, count=300)
    assert np.shape(widget.table["matrix"]) == (100, 100) and widget.table["classes"] == list(dataset.classes)
    sent = []
    widget.observe(lambda change: sent.append(change["name"]), ["view", "table"])
    widget.do("choose", 99, 99)
    assert widget.error == "" and sent == ["view"] and len(json.dumps(widget.view)) < 20_000
    widget.do("other", "two")
    assert sorted(sent[1:]) == ["table", "view"]
    assert max(max(row) for row in widget.table["fractions"]) <= 1 and len(widget.table["colors"]) == 101
    with pytest.raises(ValueError, match="up to 100 classes, and these are 101"):
        confusion_explorer(classes=101, count=202)


def test_runs_orders_and_pages(monkeypatch):
    monkeypatch.setattr("cifar_utils.widgets.confusions.PAGE", 2)
    widget, runs_, dataset = confusion_explorer()
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
    difference = metrics.confusion_matrix(runs_["two"]) - metrics.confusion_matrix(runs_["one"])
    assert widget.table["changes"] == difference.tolist() and "McNemar" in widget.view["comparison"]
    captions = {i: gallery.caption(runs_["two"], r, 1) for r, i in enumerate(runs_["two"].index.tolist())}
    assert all(image["other"] == captions[image["index"]] for image in widget.view["found"])
    widget.do("run", "two")
    assert widget.table["matrix"] == metrics.confusion_matrix(runs_["two"]).tolist()
    widget.do("other", "")
    assert widget.table["changes"] is None


@pytest.mark.parametrize(
    "action,match",
    [
        (("choose", 10, 0), "whole number from 0 to 9"),
        (("choose", 0, -1), "whole number from 0 to 9"),
        (("choose", 0.5, 1), "whole number from 0 to 9"),
        (("choose", True, 1), "whole number from 0 to 9"),
        (("choose", None, None), "whole number from 0 to 9"),
        (("order", "x"), "no order 'x'"),
        (("run", "three"), "no run 'three'"),
        (("other", "three"), "no run 'three'"),
        (("run", ""), "no run ''"),
        (("more", 0.5), "whole number"),
        (("more", None), "whole number"),
    ],
)
def test_an_unknown_cell_order_or_run_is_refused_in_words(action, match):
    widget, _, _ = confusion_explorer()
    before = dict(widget.view)
    widget.do(*action)
    assert match in widget.error and widget.view == before


def test_predictions_of_classes_alone():
    dataset = images(60, "test")
    widget = ConfusionExplorer({"labels": Predictions.from_array((dataset.labels.numpy() + 1) % 10, dataset)}, dataset)
    widget.do("choose", 3, 4)
    assert len(widget.view["found"]) == 6 and widget.view["found"][0]["caption"] == "deer"


def predictions_of(dataset: Dataset, seed: int = 0) -> Predictions:
    return Predictions.from_array(random_probabilities(seed, len(dataset), len(dataset.classes)), dataset)


def test_predictions_of_other_images_are_refused():
    test = images(60, "test")
    good = predictions_of(test)
    ConfusionExplorer({"good": good}, images(70, "test").select(torch.arange(60)).select(torch.arange(60)))
    refused = {
        "are of test images, the images are": (good, images(60, "validation")),
        "have different classes": (good, images(60, "test", classes=7)),
        "are of images, the images of SAMPLE": (good, images(60, "test", source="SAMPLE")),
        "an image is missing or its class differs": (good, test.select(torch.arange(59))),
    }
    refused["are of validation images, the images are"] = (predictions_of(images(60, "validation")), test)
    for match, (predictions, dataset) in refused.items():
        with pytest.raises(ValueError, match=match):
            ConfusionExplorer({"bad": predictions}, dataset)
    shuffled = Dataset(test.images, test.labels.flip(0), test.classes, index=test.index, split="test")
    with pytest.raises(ValueError, match="its class differs"):
        ConfusionExplorer({"bad": good}, shuffled)
    with pytest.raises(ValueError, match="same images"):
        ConfusionExplorer({"all": good, "some": good.select(np.arange(30))}, test)


@pytest.mark.parametrize("runs_", [{}, None, [], {"one": None}, "runs/mine"])
def test_without_runs_there_is_a_sentence(runs_):
    with pytest.raises(ValueError, match="needs one run at least"):
        ConfusionExplorer(runs_, images(60, "test"))


def test_a_network_of_your_own_and_a_folder_of_images(tmp_path):
    """The whole way: a folder of two classes at 64 pixels, trained, predicted and explored."""
    for name, level in (("dark", 60), ("bright", 190)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(20):
            noise = np.random.default_rng(i).integers(0, 40, (80, 70, 3), np.uint8)
            Image.fromarray(noise + np.uint8(level)).save(tmp_path / "mine" / name / f"{i}.png")
    train, val = data.split(data.from_folder(tmp_path / "mine", size=64), fraction=0.25)
    model = linear(2, 64)
    board = Dashboard(model, train, val, epochs=1, batch_size=10, device="cpu", run=tmp_path / "run")
    assert len(asyncio.run(board.train())) == 1
    explorer = Explorer(train, val, network=model)
    assert explorer.error == "" and "original images" in explorer.view["warning"]
    widget = ConfusionExplorer({"mine": predict(model, val)}, val)
    assert widget.view["size"] == 64 and widget.table["classes"] == ["bright", "dark"]
    assert "of mine: 10 validation images" in widget.view["heading"]


# Where no widget can be shown


def made(name: str, tmp_path):
    return {
        "explorer": lambda: Explorer(images(64), images(40, "validation"), network=linear()),
        "dashboard": lambda: dashboard(tmp_path),
        "confusions": lambda: confusion_explorer()[0],
        "confusions_of_100": lambda: confusion_explorer(100, 64, 300)[0],
    }[name]()


@pytest.mark.parametrize("name", ["explorer", "dashboard", "confusions", "confusions_of_100"])
def test_the_static_image(name, tmp_path, monkeypatch):
    widget = made(name, tmp_path)
    bundle = widget._repr_mimebundle_()
    assert VIEW not in bundle[0]  # headless: a saved notebook has the image alone
    assert static_image(bundle).shape[0] > 80 and len(np.unique(static_image(bundle))) > 50
    monkeypatch.delenv("CIFAR_HEADLESS")
    live = widget._repr_mimebundle_()[0]
    assert live[VIEW]["model_id"] == widget.model_id and live["image/png"] == bundle[0]["image/png"]


def test_names_are_shown_as_they_are():
    """A dollar would begin a formula in a figure, and a tag would be HTML if the pages were built from text."""
    names, splits = ("a$b$", "<b>bold</b>", r"$\frac$", 'ä, "quoted"'), ("training", "validation")
    train, val = (
        Dataset(images(40, split).images, torch.arange(40) % 4, names, split=split, source=r"my $\frac$ images")
        for split in splits
    )
    predictions = Predictions.from_array(random_probabilities(0, 40, 4), val)
    explorer, confusions = Explorer(train, val, network=linear(4)), ConfusionExplorer({r"$\frac$": predictions}, val)
    for widget in (explorer, confusions, Dashboard(linear(4), train, val)):
        _, metadata = widget._repr_mimebundle_()
        assert r"my $\frac$ images" in metadata["image/png"]["alt"]
    for path in HERE.glob("*.js"):
        assert "innerHTML" not in path.read_text() and "insertAdjacentHTML" not in path.read_text()


def test_a_message_from_the_page_is_handled(explorer, monkeypatch):
    number, sent = 1000 * 1_800_000_000_000, []

    def send_state(key):
        sent.append({key} if isinstance(key, str) else set(key))

    monkeypatch.setattr(explorer, "send_state", send_state)
    explorer._on_message(explorer, {"do": "set", "arguments": ["degrees", 5], "number": number}, [])
    assert explorer.handled == number
    assert sent == [{"view", "pixels", "handled"}]  # at once: no page shows new images beside controls of before
    explorer._on_message(explorer, {"do": "explode", "arguments": [], "number": number + 1}, [])
    assert explorer.handled == number + 1
    assert explorer.policy.degrees == 5 and "explode" in explorer.error


def test_a_click_that_arrives_in_another_thread_is_handled_where_training_runs(tmp_path, monkeypatch):
    """JupyterLab may send it to a subshell's: there, Continue would train beside cells, out of reach of signals."""
    board, threads = dashboard(tmp_path / "run"), []
    monkeypatch.setattr(board, "do", lambda *_: threads.append(threading.current_thread()))

    async def clicked() -> None:
        board._loop = asyncio.get_running_loop()
        board._on_message(board, {"do": "resume"}, [])
        await asyncio.to_thread(board._on_message, board, {"do": "resume"}, [])
        await asyncio.sleep(0)

    asyncio.run(clicked())
    assert threads == [threading.main_thread()] * 2


@pytest.mark.parametrize(
    "message", [{}, None, [], "set", {"do": None}, {"do": ["set"], "arguments": {}}, {"do": "set", "number": "x"}]
)
def test_a_malformed_message_is_harmless(explorer, message):
    before = explorer.policy
    explorer._on_message(explorer, message, [])
    assert explorer.error and explorer.policy == before


def test_pages_load_nothing_from_other_hosts():
    for path in [*HERE.glob("*.js"), *HERE.glob("*.css")]:
        addresses = set(re.findall(r"https?://[^\s\"')]+", path.read_text())) - {"http://www.w3.org/2000/svg"}
        assert not addresses and "import " not in path.read_text() and "@import" not in path.read_text()


def test_every_action_of_the_pages_exists():
    for name, widget in (("explorer", Explorer), ("dashboard", Dashboard), ("confusions", ConfusionExplorer)):
        called = set(re.findall(r"(?:send|sendLatest|sendUnasked)\(\"(\w+)\"", (HERE / f"{name}.js").read_text()))
        assert called == set(widget.ACTIONS)
