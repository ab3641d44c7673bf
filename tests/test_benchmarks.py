"""How the benchmarks measure, and the competitors that they train."""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tiny import tiny
from torch import nn

from cifar_utils import speedrun
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize
from cifar_utils.speedrun import recipes
from cifar_utils.speedrun import winograd as convolutions
from cifar_utils.speedrun.mirror import MirrorConv2d
from cifar_utils.speedrun.selection import DropEasiest

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_a_slow_hour_counts_as_little_as_it_gives(monkeypatch):
    import clock

    rates, now = iter([1.0, 230e9, 230e9, 115e9, 115e9]), count(step=10.0)

    def rate(self):
        self.rates.append(next(rates))
        for _ in range(50):  # measuring takes time, which does not count
            next(now)

    monkeypatch.setattr(clock.Clock, "_rate", rate)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    watch = clock.Clock(CPU)
    for _ in range(3):
        watch.tick()
    assert watch.rates == [230e9, 230e9, 115e9, 115e9], "the first one was cold"
    assert watch.seconds == 30 and watch.reference_seconds == pytest.approx(10 * (1 + 0.75 + 0.5))


def test_the_clock_measures_seldom_and_leaves_that_out(monkeypatch):
    import clock

    monkeypatch.setattr(clock, "SIDE", 8)
    watch = clock.Clock(CPU)
    for _ in range(100):
        watch.tick()
    assert len(watch.rates) == 1 and watch.seconds == 0
    watch.skip()
    watch.tick(now=True)
    assert len(watch.rates) == 2 and watch.seconds < 1 and all(rate > 0 for rate in watch.rates)


def test_a_runs_own_processes_stand_still_while_the_clock_measures(tmp_path):
    from clock import without_helpers

    def written() -> int:
        return (tmp_path / "written").stat().st_size

    def goes_on(before: int) -> None:
        while written() == before:
            time.sleep(0.01)

    writes = "import time\nwhile True: print(1, flush=True); time.sleep(0.001)"
    with (tmp_path / "written").open("w") as file:
        helper = subprocess.Popen([sys.executable, "-c", writes], stdout=file)
    try:
        goes_on(0)
        with without_helpers():
            while psutil.Process(helper.pid).status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)  # the signal needs a moment to reach it
            still = written()
            time.sleep(0.1)
            assert written() == still
        goes_on(still)
        with pytest.raises(ZeroDivisionError), without_helpers():
            raise ZeroDivisionError
        goes_on(written())
    finally:
        helper.kill()
        helper.wait()


@pytest.mark.slow
def test_a_stopped_training_is_no_result(monkeypatch):
    import time_to_accuracy

    steps = []

    def tick(self) -> None:
        steps.append(1)
        if len(steps) == 3:  # the first is the start
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(time_to_accuracy.Clock, "tick", tick)
    with pytest.raises(KeyboardInterrupt):
        time_to_accuracy.run_recipe("sample", time_to_accuracy.TARGETS["sample"], 0, CPU)
    assert len(steps) == 3


def test_a_cached_row_stands_in_only_for_a_run_with_the_same_settings(tmp_path):
    from common import cached_run

    file = tmp_path / "runs" / "a-0.json"
    assert cached_run(file, {"epochs": (1, 2)}, None) is None
    row = cached_run(file, {"epochs": (1, 2)}, lambda: {"accuracy": 0.5})
    assert row["accuracy"] == 0.5 and cached_run(file, {"epochs": (1, 2)}, pytest.fail) == row
    assert cached_run(file, {"epochs": (1, 3)}, None) is None
    assert cached_run(file, {"epochs": (1, 3)}, lambda: {"accuracy": 0.6})["accuracy"] == 0.6


def test_mean_and_standard_error_by_hand():
    from time_to_accuracy_report import mean_and_error

    assert mean_and_error([0.90, 0.92], ".2%") == "91.00% ± 1.00%"
    assert mean_and_error([3.0], ".1f") == "3.0 (one run)"


def test_the_table_and_the_plot_have_what_was_measured_and_no_more(tmp_path):
    import time_to_accuracy_report as report

    about = {"policy": "full", "epochs": 4, "minutes": 5, "accuracy": 0.89, "tta": False}
    row = {"name": "class", "machine": "one", "accuracy": 0.87, "seconds": 200.0, "reference_seconds": 240.0}
    row |= {
        "version": "1.2.0",
        "rate": 2e11,
        "accuracy_shifted": 0.88,
        "shifted_seconds": 5.0,
        "shifted_reference_seconds": 6.0,
    }
    look = {"seconds": 100.0, "reference_seconds": 120.0, "accuracy": 0.5}
    rows = [row, row | {"accuracy": 0.86}, {"name": "tutorial", "machine": "one", "looks": [look], "rate": 2e11}]
    results = {"session": {"CPU": "one"}, "schedules": {"class": about, "fast": about}, "rows": rows}
    results = json.loads(json.dumps(results))
    text = report.markdown(results)
    accuracies = "86.50% ± 0.50% | 4.00 ± 0.00 | 200 ± 0 | 88.00% ± 0.00% | 4.10 ± 0.00"
    assert f"| class | full | 4 | 2 | {accuracies} | 200 | A | 1.2.0 |" in text
    assert "| 89% in 5: no, by 2.50 points |" in text
    reached = results | {"schedules": {"class": about | {"accuracy": 0.865}}}
    assert "| 86% in 5: yes |" in report.markdown(reached)
    late = results | {"schedules": {"class": about | {"accuracy": 0.88, "tta": True, "minutes": 4.05}}}
    assert "| 88% in 4.05 (with test-time augmentation): no, by 0.05 minutes |" in report.markdown(late)
    assert "| tutorial | 1 | 2.00 (one run) | 50.00% (one run) |" in text
    assert "- class: 87.00% in 4.00 (A), 86.00% in 4.00 (A)" in text and "fast" not in text
    report.plot(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert "ours, class: 86.5%; tutorial: 50.0% after 2.0 minutes" in picture.text["Description"]


def test_leads_are_those_of_the_last_schedule_that_ended_by_then_on_the_same_machine():
    import time_to_accuracy_report as report

    def runs(name: str, minutes: float, accuracies: list[float], machine: str = "one") -> list[dict]:
        row = {"name": name, "machine": machine, "reference_seconds": 60 * minutes}
        return [row | {"accuracy": accuracy} for accuracy in accuracies]

    looks = [[{"reference_seconds": 60.0 * m, "accuracy": a + m / 100} for m in (1, 2, 5)] for a in (0.50, 0.52)]
    rows = [{"name": "tutorial", "machine": "one", "looks": look} for look in looks]
    rows += runs("short", 1.5, [0.80, 0.84]) + runs("class", 4, [0.87, 0.86]) + runs("late", 5.1, [0.9, 0.9])
    for name, machine in (("elsewhere", "two"), ("sample", "one"), ("other", "one")):
        rows += runs(name, 4.5, [0.9, 0.9], machine)
    full = dict.fromkeys(["short", "class", "elsewhere", "late"], {"policy": "full", "sample": False})
    others = {"sample": {"policy": "full", "sample": True}, "other": {"policy": "none"}}
    assert report.leads({"schedules": full | others, "rows": rows}) == [
        "| tutorial, 53.00% in 2.00 | short, 82.00% in 1.50 | full | 29.0 ± 2.2 |",
        "| tutorial, 56.00% in 5.00 | class, 86.50% in 4.00 | full | 30.5 ± 1.1 |",
    ]
    few = [row for row in rows if row["name"] != "tutorial"] + rows[:1]
    assert report.leads({"schedules": full | others, "rows": few})[1].endswith("| too few runs |")


def test_the_published_speed_run_is_timed_like_ours(tmp_path, monkeypatch):
    """With an imitation of the package: no GPU is needed to see what is asked of it, and where its data lies."""
    import speed_run
    import time_to_accuracy_report as report

    asked = []
    split = SimpleNamespace(data=[[[[1, 2, 3]]]], targets=[4], classes=["a"])
    monkeypatch.setattr(speed_run, "CIFAR10", lambda folder, train: asked.append((folder, train)) or split)
    loader = SimpleNamespace(
        train94=lambda run, verbose: torch.load("cifar10/train.pt")["images"],
        CifarLoader=lambda path, train, batch_size: torch.load(f"{path}/test.pt")["labels"],
        evaluate=lambda network, test, tta_level: 0.5 + tta_level / 10,
    )
    monkeypatch.setitem(sys.modules, "airbench", loader)
    assert not speed_run.is_there(CPU)
    before = Path.cwd()
    rows = [speed_run.airbench_94(seed, CPU) for seed in (2, 3)]  # the data set is laid out once
    speed_run.its_folder.cache_clear()
    row = rows[1]
    assert Path.cwd() == before and [is_training for _, is_training in asked] == [True, False]
    assert row["accuracy"] == 0.5 and row["accuracy_shifted"] == 0.7
    assert row["seconds"] > 0 and row["shifted_seconds"] >= 0
    row |= {"name": "airbench", "machine": "a GPU", "version": "1.2.0"}
    row |= {"seconds": 2.6, "shifted_seconds": 0.0, "shifted_reference_seconds": 0.0}
    results = {"session": {"CPU": "one", "GPU": "two"}, "schedules": {"airbench": speed_run.ABOUT}, "rows": [row]}
    line = next(line for line in report.markdown(results).splitlines() if line.startswith("| airbench"))
    assert "| 2.60 (one run) | 70.00% (one run) |" in line
    assert line.endswith("| A | 1.2.0 | 94% (with test-time augmentation) |")
    report.plot(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert "time. airbench: 50.0%; airbench, test-time augmentation: 70.0%." in picture.text["Description"]


@pytest.mark.slow
def test_each_variant_leaves_out_what_it_says(monkeypatch):
    from ablation_variants import FAST, VARIANTS

    train = tiny()

    @functools.cache
    def made(name):
        torch.manual_seed(0)
        model = nn.Sequential(Normalize.from_dataset(train), VARIANTS[name].network(10))
        return model, VARIANTS[name].recipe(model, train, seed=0, epochs=None)

    def first_layers(name):
        model, _ = made(name)
        return model[1].whiten.weight, model[1].blocks[1][4]

    whiten, _ = first_layers("everything")
    assert not whiten.requires_grad
    state = made("everything")[0].state_dict()
    for name, weight in speedrun.network(train, seed=0).state_dict().items():
        assert torch.equal(state[name], weight)
    trained, _ = first_layers("first layer trained, not computed")
    assert trained.requires_grad and not torch.allclose(trained, whiten)
    groups = made("first layer trained, not computed")[1]["optimizer"].param_groups
    assert trained.shape in [p.shape for group in groups for p in group["params"]]
    assert not isinstance(first_layers("no mirror symmetry")[1], MirrorConv2d)
    assert type(made("SGD instead of Muon")[1]["optimizer"]) is torch.optim.SGD
    rates = {group["initial_lr"] for group in made("biases learn as slowly as filters")[1]["optimizer"].param_groups}
    assert rates == {FAST.lr, 8 * FAST.lr}
    assert made("no progressive resizing")[1]["transform"] == PRESETS["flip_and_shift"]
    assert made("no flips and shifts")[1]["transform"].transform == PRESETS["none"]
    selections = {name: made(name)[1] for name in ("everything", "no example dropped, as many steps")}
    fractions = {name: found["sampler"].fraction for name, found in selections.items()}
    assert list(fractions.values()) == [FAST.drop_easiest, 0]
    steps = {DropEasiest(45_000, 500, 0, fractions[n]).total_steps(f["epochs"]) for n, f in selections.items()}
    assert steps == {270}
    assert made("float32")[1]["autocast"] is None
    assert "_conv_forward" not in vars(made("float32, no Winograd")[0][1].blocks[1][0])
    assert "_conv_forward" in vars(made("float32")[0][1].blocks[1][0])
    monkeypatch.setattr(recipes, "tune_malloc", lambda: pytest.fail("memory is kept"))
    made("freed memory handed back")


@pytest.mark.slow
def test_the_ablation_trains_by_a_sweep_and_takes_times(tmp_path, monkeypatch, capsys):
    import ablation

    words = ["--quick", "--only", "SGD instead of Muon", "freed memory handed back"]
    folders = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *words, *folders])
    ablation.main()
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["variant"] for row in found["rows"]] == ["SGD instead of Muon", "everything"]
    assert len(found["summary"]["SGD instead of Muon"]["points"]) == 1
    assert found["summary"]["everything"]["times"] == [1]
    assert not found["summary"]["freed memory handed back"]["points"]
    assert found["summary"]["freed memory handed back"]["times"][0] > 0
    assert "2 runs, 0 of them finished" in capsys.readouterr().out
    ablation.main()
    assert "of them finished" not in capsys.readouterr().out  # nothing is left to train
    assert json.loads((tmp_path / "ablation.json").read_text())["rows"] == found["rows"]


def ablation_row(accuracy, seed, machine="one", variant="everything"):
    return {"accuracy": accuracy, "machine": machine, "seed": seed, "variant": variant}


def test_the_ablation_pairs_runs_of_one_seed_and_machine(tmp_path):
    import ablation

    other = "no mirror symmetry"
    rows = [ablation_row(0.90, 0), ablation_row(0.80, 1), ablation_row(0.5, 0, "two")]
    less = [(0.89, 0, "one"), (0.78, 1, "one"), (0.6, 2, "one"), (0.4, 0, "two")]
    rows += [ablation_row(*values, other) for values in less]
    rounds = [{"everything": 100.0, other: 50.0}, {"everything": 80.0, other: 60.0}]
    found = ablation.summary(rows, rounds)
    np.testing.assert_allclose(found[other]["points"], [-1, -2, -10])  # seed 2 has no partner
    assert found[other]["times"] == [0.5, 0.75] and list(found) == ["everything", other]
    mean, half = ablation.mean_and_interval([-1.0, -2.0])
    assert mean == -1.5 and half == pytest.approx(12.706 * 0.5, rel=1e-4)  # Student's for 1 degree of freedom
    two = [row for row in rows if row["machine"] == "one" and row["seed"] < 2]
    results = {"machine": {"CPU": "one"}, "machines": {"one": 4}, "setting": "1 epoch", "rows": two}
    text = ablation.markdown({**results, "rounds": [], "summary": ablation.summary(two, [])})
    assert "| everything | 2 | 0 (85.00%) | not measured |" in text
    assert f"| {other} | 2 | -1.50 ± 6.35 | not measured |" in text
    text = ablation.markdown({**results, "rounds": rounds, "summary": ablation.summary(two, rounds)})
    assert "2 rounds" in text and "| -1.50 ± 6.35 | 0.62 (0.56 to 0.69) |" in text
    ablation.plot({**results, "summary": found}, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert f"everything: {other} -4.33" in picture.text["Description"]


def test_the_ablation_collects_runs_of_earlier_sessions_of_this_version(tmp_path):
    import ablation

    old = {"version": ablation.version("cifar_utils"), "rows": [ablation_row(0.9, 0), ablation_row(0.1, 2)]}
    old |= {"rounds": [{"everything": 9.0}]}
    (tmp_path / "ablation.json").write_text(json.dumps(old))
    (tmp_path / "runs").mkdir()
    found = ablation.collect(tmp_path / "runs", tmp_path, [ablation_row(0.8, 2)])
    assert [row["accuracy"] for row in found["rows"]] == [0.9, 0.8]
    assert found["machines"] == {"one": 2} and found["rounds"] == old["rounds"]
    for number, (seconds, version) in enumerate(((5.0, old["version"]), (9.0, "0.0.1"))):
        measured = {"everything": seconds, "date": "today", "setting": {"version": version}}
        (tmp_path / "runs" / f"round-{number}.json").write_text(json.dumps(measured))
    assert ablation.collect(tmp_path / "runs", tmp_path, [])["rounds"] == [{"everything": 5.0}]
    (tmp_path / "ablation.json").write_text(json.dumps({**old, "version": "0.0.1"}))
    assert not ablation.collect(tmp_path / "runs", tmp_path, [])["rows"]


def test_winograds_convolution_is_compared_with_pytorchs(tmp_path, monkeypatch):
    import winograd

    monkeypatch.setattr(winograd, "LAYERS", [(4, 8, 3)])
    monkeypatch.setattr(winograd, "NETWORKS", [((4, 4, 8), 16)])
    monkeypatch.setattr(sys, "argv", ["winograd.py", "--quick", "--threads", "1", "--output", str(tmp_path)])
    taken, convolution = [], convolutions.convolution
    monkeypatch.setattr(convolutions, "convolution", lambda *x: taken.append(x) or convolution(*x))
    winograd.main()
    assert len(taken) == 3, "the layer's fast turns: warming up, and two rounds; the network is not wide"
    rows = json.loads((tmp_path / "winograd.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["4 to 8 channels, 3x3", "network 4/4/8, 16x16"]
    ratios = [plain / fast for plain, fast in zip(rows[0]["plain"]["rounds"], rows[0]["fast"]["rounds"])]
    assert rows[0]["ratio"]["rounds"] == pytest.approx(ratios) and len(ratios) == 2
    assert f"| {rows[1]['ratio']['median']:.2f} (" in (tmp_path / "winograd.md").read_text()
    with Image.open(tmp_path / "winograd.png") as picture:
        assert f"3x3 {rows[0]['ratio']['median']:.2f}" in picture.text["Description"]


def test_16_bit_precision_is_compared_with_32(tmp_path, monkeypatch):
    import bfloat16

    monkeypatch.setattr(bfloat16, "LAYERS", [(4, 8, 3)])
    monkeypatch.setattr(bfloat16, "NETWORKS", [((4, 4, 8), 16)])
    monkeypatch.setattr(sys, "argv", ["bfloat16.py", "--quick", "--threads", "1", "--output", str(tmp_path)])
    formats, convolve = [], torch.nn.functional.conv2d

    def noted(*args, **options):
        formats.append((out := convolve(*args, **options)).dtype)
        return out

    monkeypatch.setattr(torch.nn.functional, "conv2d", noted)
    bfloat16.main()
    assert formats[:2] == [torch.float32, torch.bfloat16], "the layer's turns"
    assert formats.count(torch.float32) == formats.count(torch.bfloat16)
    rows = json.loads((tmp_path / "bfloat16.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["4 to 8 channels, 3x3", "network 4/4/8, 16x16"]
    assert "made for 16-bit products" in (tmp_path / "bfloat16.md").read_text()
    assert (tmp_path / "bfloat16.png").exists()


def test_runs_add_up_over_sessions_while_their_settings_stay(tmp_path, monkeypatch):
    import time_to_accuracy as benchmark

    def session(*arguments):
        monkeypatch.setattr(sys, "argv", ["time_to_accuracy.py", "--output", str(tmp_path), *arguments])
        benchmark.main()
        return json.loads((tmp_path / "time_to_accuracy.json").read_text())["rows"]

    trained = []
    figures = {"accuracy": 0.9, "seconds": 9.0, "reference_seconds": 9.0, "rate": 2e11}
    figures |= {"accuracy_shifted": 0.9, "shifted_seconds": 1.0, "shifted_reference_seconds": 1.0}
    look = {"looks": [{"seconds": 1.0, "reference_seconds": 1.0, "accuracy": 0.5}], "rate": 2e11}
    monkeypatch.setattr(benchmark, "best_device", lambda: CPU)
    monkeypatch.setattr(benchmark, "run_recipe", lambda name, _, seed, *__: trained.append((name, seed)) or figures)
    monkeypatch.setattr(benchmark, "run_competitor", lambda *_: trained.append("tutorial") or look)
    monkeypatch.setattr(benchmark, "machine", lambda _: {"CPU": "one", "torch": "2", "date": "today"})
    session("--only", "fast", "tutorial", "--seeds", "2", "--runs", str(tmp_path / "here"))
    assert trained == [("fast", 0), "tutorial", ("fast", 1), "tutorial"]
    monkeypatch.setattr(benchmark, "machine", lambda _: {"CPU": "another", "torch": "2", "date": "tomorrow"})
    rows = session("--only", "fast", "tutorial", "--seeds", "3", "--runs", str(tmp_path / "there"))
    assert trained[4:] == [("fast", 2), "tutorial"] and len(rows) == 6
    assert [row["machine"] for row in rows] == ["one, torch 2", "one, torch 2", "another, torch 2"] * 2
    text = (tmp_path / "time_to_accuracy.md").read_text()
    assert "- machine B: another, torch 2" in text and f"| 200 | A, B | {benchmark.VERSION} | 90% in 1: yes |" in text
    assert "- fast: 90.00% in 0.15 (A), 90.00% in 0.15 (A), 90.00% in 0.15 (B)" in text
    another = benchmark.TARGETS | {"fast": benchmark.Target(0.1, 0.9)}
    monkeypatch.setattr(benchmark, "TARGETS", another)  # to ask for more changes no result
    assert len(session("--finished", "--runs", str(tmp_path / "there"))) == 6
    assert "| 90% in 0.1: no, by 0.05 minutes |" in (tmp_path / "time_to_accuracy.md").read_text()
    monkeypatch.setattr(benchmark, "VERSION", "99.0.0")
    rows = session("--only", "fast", "--seeds", "1", "--runs", str(tmp_path / "newer"))
    assert trained[6:] == [("fast", 0)] and [row["version"] for row in rows[:2]] != ["99.0.0"] * 2
    assert {row["version"] for row in rows if (row["name"], row["seed"]) == ("fast", 0)} == {"99.0.0"}
    changed = replace(benchmark.RECIPES["fast"], policy="light")
    monkeypatch.setattr(benchmark, "RECIPES", benchmark.RECIPES | {"fast": changed})
    assert {row["name"] for row in session("--finished", "--runs", str(tmp_path / "empty"))} == {"tutorial"}


def test_the_report_tells_what_a_quarter_of_the_averaging_keeps():
    import time_to_accuracy_report as report

    rows = [
        {"name": "few", "accuracy": 0.80, "accuracy_shifted": 0.82, "accuracy_shifted_quarter": 0.815},
        {"name": "few", "accuracy": 0.82, "accuracy_shifted": 0.84, "accuracy_shifted_quarter": 0.839},
        {"name": "fast", "accuracy": 0.9, "accuracy_shifted": 0.91},
    ]
    rows[0]["accuracy_of_shipped"] = rows[1]["accuracy_of_shipped"] = 0.775
    lines = report.asides({"schedules": {"few": {}, "fast": {}}, "rows": rows})
    assert lines[1].startswith("- few: test-time augmentation gains 2.00 points") and "1.70 (2 seeds)" in lines[1]
    assert lines[2] == "- few: 77.50% ± 0.00% of the 1,000 test images that ship" and len(lines) == 3


def test_resnet_20_is_the_papers():
    """Its table 6 says 0.27 million parameters; the shortcuts have none."""
    from tutorial import Residual

    block = Residual(16, 32)
    x = torch.zeros(1, 16, 8, 8)
    x[0, :, 2, 4] = torch.arange(16.0) + 1
    torch.nn.init.zeros_(block.layers[-1].weight)
    out = block.eval()(x)
    assert out.shape == (1, 32, 4, 4) and out[0, :, 1, 2].tolist() == [*range(1, 17), *[0] * 16] and out.sum() == 136
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = sum(p.numel() for a, b in zip(widths, widths[1:]) for p in Residual(a, b).parameters())
    assert blocks + 16 * 27 + 2 * 16 + 64 * 10 + 10 == 269_722


@pytest.mark.full_data
@pytest.mark.slow
def test_the_competitors_learn(full_data):
    from tutorial import resnet_20, tutorial

    for competitor in (tutorial, resnet_20):
        networks = competitor(0, CPU)
        before = {name: p.clone() for name, p in next(networks).named_parameters()}
        network = next(networks)
        assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())
        networks.close()


def test_a_notebooks_meter_sees_memory_and_processor_time(tmp_path):
    """A notebook that holds 300 MB in one section and computes in another."""
    import notebooks

    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title"),
            nbformat.v4.new_code_cell("x = bytearray(300_000_000)\nimport time; time.sleep(0.5); del x"),
            nbformat.v4.new_markdown_cell("## Second part"),
            nbformat.v4.new_code_cell("sum(i * i for i in range(3_000_000))"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
    )
    nbformat.write(nb, tmp_path / "a.ipynb")
    row = notebooks.measure(tmp_path / "a.ipynb", tmp_path / "b.ipynb", tmp_path, 1.0)
    assert row["peak"] - row["open"] > 250e6 and row["open"] > 10e6
    assert set(row["sections"]) == {"", "Second part"} and 0 < row["cpu_seconds"]
    assert sum(row["sections"].values()) <= row["seconds"] + 0.5


def test_the_tables_of_notebooks_and_of_processes_have_every_row(tmp_path):
    import scale

    import notebooks

    row = {"seconds": 60.0, "cpu_seconds": 90.0, "peak": 2e9, "open": 1e9, "sections": {}}
    results = {"machine": {"CPU": "c"}, "images": "i", "profile": "class", "rows": {"01_a": row, "02_b": row}}
    text = notebooks.markdown(results)
    assert "| 01_a | 1.0 | 1.5 | 2.00 | 1.00 |" in text and "| all, left open | 2.0 | 3.0 | | 2.00 |" in text
    notebooks.plot(results, tmp_path / "a.png")
    rate = {"median": 2.0, "quartiles": [1.0, 3.0]}
    ways = {name: {"rate": rate, "ratio": rate} for name in scale.WAYS}
    results = {"machine": {}, "rounds": 3, "trainings": ways, "sweeps": {name: rate for name in scale.SWEEPS}}
    results["participants"] = {str(count): rate for count in scale.PARTICIPANTS}
    text = scale.markdown(results)
    assert "| 2 | 2 | 1 |" in text and all(f"| {name} | 2.0 |" in text for name in scale.SWEEPS)
    assert all(f"| {name} | 2 | 2.00 (1.00 to 3.00) |" in text for name in scale.WAYS)
    scale.plot(results, tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("a.png", "b.png"))


def test_the_cost_of_a_setting_is_measured_and_compared_with_the_usual(tmp_path):
    pytest.importorskip("resource", reason="Windows measures no peak of memory in this way")
    import cost

    found = cost.measure(cost.Setting(images=300, size=16, width=0.5, batch_size=30), count=3, threads=1)
    assert found["seconds"] > 0 and found["memory"] > 1e8
    ratio = {"median": 2.0, "quartiles": [1.0, 3.0]}
    row = {"value": 4_000, "seconds": ratio, "ratio": ratio, "memory": 1.5e9}
    results = {"machine": {"CPU": "c"}, "rounds": 3, "rows": {what: [row, row] for what in cost.VALUES}}
    text = cost.markdown(results)
    assert text.count("| 4,000 | 2.0 | 2.00 (1.00 to 3.00) | 1.50 |") == 2 * len(cost.VALUES)
    cost.plot(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert "training images 4,000 to 4,000: 2.00 to 2.00 times" in picture.text["Description"]


def test_a_rooms_table_says_what_a_server_needs(tmp_path):
    hub = pytest.importorskip("hub", reason="benchmarks/hub.py needs the extra [hub]")
    row = {"name": "a", "start": 2.0, "cells": [0.5, 3.0], "memory": 1.2e9, "kernel": 1.0e9, "processor": 30.0}
    results = {"machine": {"CPU": "c"}, "notebook": "01", "cells": 2, "peak": 5e9, "participants": [row, row]}
    text = hub.markdown(results)
    assert "- memory of all of them at most: 5.0 GB" in text and "| memory | 1.20 GB |" in text
    assert "| for the slowest cell | 3.0 | 3.0 to 3.0 |" in text
    notebooks = tmp_path / "notebooks.json"
    notebooks.write_text(json.dumps({"rows": {"01_a": {"peak": 1.8e9, "cpu_seconds": 60.0}}}))
    assert hub.sizing(0.2e9, notebooks)[-1] == "| 01_a | 20 GB | 60 GB | 200 GB | 3 |"


def test_the_page_of_a_room_is_made_from_its_figures():
    """Those of notebooks.json, too: when they are measured anew, `hub.py --finished` writes the page again."""
    hub = pytest.importorskip("hub", reason="benchmarks/hub.py needs the extra [hub]")
    folder = ROOT / "benchmarks" / "results"
    assert hub.markdown(json.loads((folder / "hub.json").read_text())) == (folder / "hub.md").read_text()


def test_a_run_of_a_version_replaces_its_own_row_only():
    import versions

    def row(**changes):
        return {"version": "1", "machine": "a", "name": "fast", "seed": 0, "accuracy": 0.9} | changes

    old = [row(), row(seed=1), row(version="2"), row(machine="b")]
    found = versions.merged(old, [row(accuracy=0.8), row(name="class")])
    assert len(found) == 5 and [r["accuracy"] for r in found if r == row(accuracy=0.8)] == [0.8]
    assert versions.version_of(ROOT).startswith("0.")


@pytest.mark.slow
def test_the_robustness_benchmark_is_a_sweep_of_the_plain_network(tmp_path, monkeypatch):
    import robustness

    from cifar_utils.scale import sweep

    command = ["robustness.py", "--quick", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    robustness.main()
    rows = json.loads((tmp_path / "robustness.json").read_text())["rows"]
    assert {(row["policy"], row["epochs"]) for row in rows} == {("none", 1), ("full", 1)}
    assert all(row["test_images"] == 50 and row["test_hits"] > 5 for row in rows)
    assert "| full | 1 |" in (tmp_path / "robustness.md").read_text()
    monkeypatch.setattr(sweep, "run", None)
    monkeypatch.setattr(robustness, "figures", None)  # nothing is trained or predicted again
    monkeypatch.setattr(sys, "argv", [*command, "--finished"])
    robustness.main()
    assert json.loads((tmp_path / "robustness.json").read_text())["rows"] == rows


PAGES = {page: page for page in ("ablation", "cost", "hub", "notebooks", "robustness", "scale", "widgets", "winograd")}
PAGES |= {"bfloat16": "winograd", "augmentation": "augmentation_report", "augmentation_gpu": "augmentation_report"}
PAGES |= {name: "time_to_accuracy_report" for name in ("time_to_accuracy", "time_to_accuracy_gpu")}


@pytest.mark.parametrize("page", PAGES)
def test_each_page_of_results_is_made_from_its_figures(page):
    """No number is typed, and none is left over from an earlier measurement."""
    if page == "cost":
        pytest.importorskip("resource", reason="Windows measures no peak of memory in this way")
    if page == "hub":
        pytest.importorskip("pwd", reason="the hub's server runs Linux")
        pytest.importorskip("websocket", reason="the hub's load test needs websocket-client")
    results = json.loads((ROOT / "benchmarks" / "results" / f"{page}.json").read_text(encoding="utf-8"))
    text = importlib.import_module(PAGES[page]).markdown(results)
    assert text == (ROOT / "benchmarks" / "results" / f"{page}.md").read_text(encoding="utf-8")


def test_every_page_of_results_has_its_test():
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md")} == PAGES.keys()
