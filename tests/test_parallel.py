"""One training by several processes: the same bits as by one, whoever computes, dies or is stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import NETWORKS, contents, narrow, network, tensors, tiny, train_tiny
from torch import nn

from cifar_utils import runs
from cifar_utils.__main__ import main
from cifar_utils.augment import PRESETS
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.models import Normalize
from cifar_utils.scale import parallel
from cifar_utils.speedrun.selection import DropEasiest
from cifar_utils.train import steps

ROOT = Path(__file__).resolve().parent.parent


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return nn.functional.cross_entropy(model(images), labels)


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if name not in ("SmallCNN", "resnet18", "mobilenet", "dropout")]
)
@pytest.mark.parametrize("count", [32, 30, 3])
def test_without_batch_norm_and_dropout_shards_have_the_gradients_of_the_whole_batch(name, count):
    """Also where shards differ in size, and where some are empty."""
    model = network(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) or hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.p = module.dropout = 0.0
    for layer in [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]:
        layer.dropout = 0.0
    data = tiny(count)
    found = []
    for wrapped in (model, parallel.Sharded(model, 4)):
        model.zero_grad()
        loss_of(wrapped, data.images / 255, data.labels).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for whole, sharded in zip(*found):
        assert torch.allclose(whole, sharded, rtol=1e-3, atol=1e-5 * whole.abs().max().item() + 1e-8)


def test_batch_norm_sees_each_shard_and_keeps_the_mean_of_their_statistics():
    model = narrow().train()
    images = tiny(32).images / 255
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    start = norm.running_mean.clone()
    alone = []
    for part in images.tensor_split(4):
        norm.running_mean.copy_(start)
        model(part)
        alone.append(norm.running_mean.clone())
    norm.running_mean.copy_(start)
    norm.num_batches_tracked.zero_()
    parallel.Sharded(model, 4).train()(images)
    assert torch.allclose(norm.running_mean, sum(alone) / 4, atol=1e-6) and norm.num_batches_tracked == 1


def test_one_shard_is_the_usual_training_bit_for_bit(tmp_path):
    train_tiny(tmp_path / "usual")
    model = narrow()
    train_tiny(tmp_path / "one", parallel.Sharded(model, 1))
    assert contents(tmp_path / "usual") == contents(tmp_path / "one")


def test_one_shard_draws_the_random_numbers_of_the_usual_training(tmp_path):
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Dropout(0.5), nn.Linear(16, 10))

    train_tiny(tmp_path / "usual", network())
    train_tiny(tmp_path / "one", parallel.Sharded(network(), 1))
    assert contents(tmp_path / "usual") == contents(tmp_path / "one")


def test_each_shard_has_random_numbers_of_its_own():
    """Or dropout would have the same mask in all."""
    model = parallel.Sharded(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), 2).train()
    first, second = model(torch.ones(2, 3, 8, 8))
    assert not torch.equal(first, second)


def test_shards_fit_into_the_smaller_batches_of_later_epochs(tmp_path):
    """From the second epoch on, DropEasiest keeps 12 of 24 images here, so there are two batches of 6."""
    options = {"epochs": 2, "device": "cpu", "run": tmp_path / "run"}
    sampler = DropEasiest(24, 8, 0, 0.5)
    with pytest.raises(ValueError, match=r"7 shards are more than the images in a batch \(6\)"):
        next(parallel.steps(narrow(), tiny(24), tiny(10, "validation"), shards=7, sampler=sampler, **options))


def test_empty_shards_are_refused(tmp_path):
    """Their statistics, which no image has changed, would be a part of batch norm's."""
    datasets = tiny(20), tiny(10, "validation")
    options = {"epochs": 1, "batch_size": 16, "device": "cpu", "run": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"11 shards are more than the images in a batch \(10\)"):
        next(parallel.steps(narrow(), *datasets, shards=11, **options))
    assert not (tmp_path / "run").exists()
    next(parallel.steps(narrow(), *datasets, shards=10, **options))


def test_a_stop_that_comes_while_the_processes_meet_is_not_lost(tmp_path, monkeypatch):
    """Before `_in_step` has a handler of its own, training's has taken the signal: the other processes are told."""
    told = []
    monkeypatch.setattr(parallel, "_any", lambda flag: told.append(flag) or flag)
    sharded = parallel.Sharded(narrow(), 2)
    states = steps(sharded, tiny(), tiny(32, "validation"), epochs=1, batch_size=32, run=tmp_path / "run")
    next(states)
    signal.raise_signal(signal.SIGTERM)
    found = list(parallel._in_step(sharded, states))
    assert told == [True] and found[0].step == 1


def test_signals_do_afterwards_what_they_did_before(tmp_path):
    before, sharded = signal.getsignal(signal.SIGINT), parallel.Sharded(narrow(), 1)
    states = steps(sharded, tiny(), tiny(32, "validation"), epochs=1, batch_size=32, run=tmp_path / "run")
    next(states)
    assert len(list(parallel._in_step(sharded, states))) == 3
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_other_processes_get_the_backups_too(tmp_path):
    """Process 0 resumes from a backup where the newest file is missing or damaged, so the others must be able to."""
    run, other = tmp_path / "run", tmp_path / "other"
    train_tiny(run)
    (run / runs.LAST).unlink()
    parallel._write(parallel._read(run), other)
    assert {path.name for path in other.iterdir()} >= {"run.json", runs.BEST, "last.previous.safetensors"}
    assert parallel._read(tmp_path / "nothing") == {}


def test_more_shards_are_another_training(tmp_path):
    for shards in (1, 4):
        train_tiny(tmp_path / f"{shards}", parallel.Sharded(narrow(), shards))
    assert tensors(tmp_path / "1") != tensors(tmp_path / "4")


def test_a_sharded_network_is_saved_as_the_plain_one(tmp_path):
    train_tiny(tmp_path / "run", parallel.Sharded(narrow(), 2))
    model = runs.load(tmp_path / "run", narrow())
    assert not model.training
    assert runs.about(tmp_path / "run")["settings"]["model"] == "SmallCNN"


@pytest.mark.parametrize("shards", [3, 7])
def test_a_buffer_that_is_no_statistic_stays_as_it_is(shards):
    model = nn.Sequential(Normalize((0.1, 0.7, 0.9), (0.3, 0.6, 0.7)), nn.Flatten(), nn.Linear(3 * 16, 10))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    parallel.Sharded(model, shards).train()(torch.rand(21, 3, 4, 4))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_compiled_network_is_sharded_as_the_network_within_it(tmp_path):
    compiled = torch.compile(narrow())  # lazily: nothing is compiled before it is called
    train_tiny(tmp_path / "run", parallel.Sharded(compiled, 2))
    train_tiny(tmp_path / "plain", parallel.Sharded(narrow(), 2))
    assert contents(tmp_path / "run") == contents(tmp_path / "plain")
    runs.load(tmp_path / "run", narrow())


def test_shards_that_cannot_be_divided_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    with pytest.raises(ValueError, match="4 shards cannot be divided equally among 3 processes"):
        parallel.Sharded(narrow(), 4)


def test_processes_with_other_images_are_refused(monkeypatch, tmp_path):
    """As where one machine lacks CIFAR-10, and falls back to the sample."""
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    monkeypatch.setattr(parallel, "_gathered", lambda value: [value, ["SAMPLE, 3,600 training images", value[1]]])
    with pytest.raises(ValueError, match="process 1 has SAMPLE, 3,600 training images and .*CIFAR10_DIR"):
        next(parallel.steps(narrow(), tiny(20), tiny(10, "validation"), shards=2, run=tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of two classes, and a network with batch norm and dropout that is trained on them."""
    folder, noise = tmp_path_factory.mktemp("parallel"), np.random.default_rng(0)
    for name, level in (("dark", 90), ("bright", 150)):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(150):
            pixels = noise.integers(level - 90, level + 90, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    (folder / "mine.py").write_text(
        "from torch import nn\n"
        "def Net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),\n"
        "                         nn.Flatten(), nn.Linear(392, classes))\n"
        "def three_steps(model, train, *, seed, epochs):\n"
        "    return {'batch_size': 128}\n"
    )
    return folder


STARTED: list[subprocess.Popen] = []
EPOCHS = 20  # where a run must not be over before it is stopped or killed


def arguments(folder: Path, run: Path, epochs: int = 3, shards: int = 4) -> list[str]:
    """Of the command that trains the tiny run."""
    words = ["train", "--images", folder / "images", "--size", 16, "--shards", shards, "--epochs", epochs]
    words += ["--model", f"{folder / 'mine.py'}:Net", "--recipe", f"{folder / 'mine.py'}:three_steps"]
    return list(map(str, [*words, "--folder", run]))


def start(folder: Path, run: Path, processes: int, epochs: int = 3, shards: int = 4, restarts: int = 0, **env: str):
    """The command, by so many processes, each with one thread."""
    python = [sys.executable]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        python += [f"--max-restarts={restarts}"]
    command = [*python, "-m", "cifar_utils", *arguments(folder, run, epochs, shards)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    STARTED.append(subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, cwd=ROOT, **pipes))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def end_what_is_left():
    """A process that hangs fails its own test only, and leaves the processors to the others."""
    yield
    while STARTED:
        if (process := STARTED.pop()).poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen, code: int = 0, seconds: float = 240) -> str:
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, text
    return text


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """A function of the number of epochs: the run of one process, trained once."""

    @cache
    def run(epochs: int = 3) -> Path:
        found = tmp_path_factory.mktemp("alone") / "run"
        assert main(arguments(folder, found, epochs)) == 0
        return found

    return run


@pytest.mark.slow
def test_several_processes_train_the_run_of_one_bit_for_bit(folder, alone, tmp_path):
    """Four; the tests below, of processes that are stopped or killed, have two."""
    text = finish(start(folder, tmp_path / "run", 4))
    assert contents(tmp_path / "run") == contents(alone())
    assert len(re.findall("Training in", text)) == 1, "only the first process tells"


@pytest.mark.slow
def test_the_number_of_shards_counts(folder, alone, tmp_path):
    assert main(arguments(folder, tmp_path / "run", shards=2)) == 0
    assert tensors(tmp_path / "run") != tensors(alone())


def children(process: subprocess.Popen) -> list[int]:
    import psutil

    found = [c for c in psutil.Process(process.pid).children(recursive=True) if "cifar_utils" in " ".join(c.cmdline())]
    return [child.pid for child in found]


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_of_one_process_resumes_with_two(folder, alone, tmp_path):
    process = start(folder, tmp_path / "run", 1, epochs=EPOCHS)
    wait_for(tmp_path / "run" / "history.json", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    text = finish(start(folder, tmp_path / "run", 2, epochs=EPOCHS))
    assert "Resuming" in text
    assert contents(tmp_path / "run") == contents(alone(EPOCHS))


@pytest.mark.slow
def test_a_process_without_the_images_ends_all_with_a_message(folder, tmp_path):
    """Only the second process fails; the first must not wait for it for ever."""
    code = tmp_path / "sitecustomize.py"
    code.write_text(
        "import os\nif os.environ.get('RANK') == '1':\n"
        "    import cifar_utils.data as d\n    from cifar_utils.download import DataError\n"
        "    def gone(*a, **k): raise DataError('the images are not on this machine')\n    d.from_folder = gone\n"
    )
    process = start(folder, tmp_path / "run", 2, PYTHONPATH=str(tmp_path))
    text, _ = process.communicate(timeout=200)
    assert process.returncode and text.count("error: the images are not on this machine") == 1, text


@pytest.mark.slow
def test_a_stop_of_one_process_stops_all_and_one_alone_resumes(folder, alone, tmp_path):
    process = start(folder, tmp_path / "run", 2, epochs=EPOCHS)
    wait_for(tmp_path / "run" / "best.safetensors", process)
    os.kill(children(process)[-1], signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert "Stopped in epoch" in text, text
    assert "Resuming" in finish(start(folder, tmp_path / "run", 1, epochs=EPOCHS))
    assert contents(tmp_path / "run") == contents(alone(EPOCHS))


@pytest.mark.slow
def test_killed_at_every_step_it_ends_alike(folder, alone, tmp_path):
    """Of six steps, by turns the first or the second of two processes; torchrun starts both again each time."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "start = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 6))\n"
        "if start < 6 and os.environ.get('RANK') == str(start % 2):\n"
        "    from cifar_utils import train\n"
        "    record = train.TrainerState.record\n"
        "    def dies(state, *arguments):\n"
        "        record(state, *arguments)\n"
        "        if 3 * state.epoch + state.step == start + 1:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    train.TrainerState.record = dies\n"
    )
    text = finish(start(folder, tmp_path / "run", 2, epochs=2, restarts=6, PYTHONPATH=str(tmp_path)))
    assert text.count("exitcode: -9") == 6 and "Traceback (most recent call last)" not in text, text
    assert "from epoch 2, step 0" in text and contents(tmp_path / "run") == contents(alone(2))


NODES = """
ip link set lo up
unshare -n sleep 900 & other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add left type veth peer name right
ip link set right netns $other
ip addr add 10.9.0.1/24 dev left && ip link set left up
nsenter -t $other -n sh -c 'ip link set lo up; ip addr add 10.9.0.2/24 dev right; ip link set right up'
node() {  # number, interface, what enters its network
    GLOO_SOCKET_IFNAME=$2 $3 $PYTHON -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank $1 \\
        --master-addr 10.9.0.1 --master-port 29511 --max-restarts 0 -m cifar_utils train $ARGUMENTS > $LOGS.$1 2>&1
}
both() {
    node 1 right "nsenter -t $other -n" & second=$!
    node 0 left "" & first=$!
}
both
until [ -e $RUN/best.safetensors ]; do kill -0 $first; sleep 0.02; done
ip link set left down
wait $first && exit 3
wait $second && exit 4
cp $LOGS.0 $LOGS.cut; ip link set left up
both
wait $first && wait $second
"""


@pytest.mark.slow
def test_two_nodes_whose_link_is_cut_end_and_resume(folder, alone, tmp_path):
    """Each node has a network of its own, with one link between them."""
    if subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine permits no network namespace")
    (tmp_path / "sitecustomize.py").write_text("from cifar_utils.scale import parallel\nparallel.SECONDS = 8\n")
    words = arguments(folder, tmp_path / "run", EPOCHS)[1:]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "RUN": str(tmp_path / "run")}
    environment |= {"PYTHONPATH": str(tmp_path), "ARGUMENTS": " ".join(words), "LOGS": str(tmp_path / "log")}
    command = ["unshare", "-rn", "bash", "-c", f"set -e\n{NODES}"]
    done = subprocess.run(command, env=environment, cwd=ROOT, timeout=400, capture_output=True, text=True)
    logs = {path.name: path.read_text() for path in tmp_path.glob("log.*")}
    assert done.returncode == 0, (done.returncode, done.stderr, logs)
    assert "the connection to another process is lost" in logs["log.cut"]
    assert "Resuming" in logs["log.0"] and contents(tmp_path / "run") == contents(alone(EPOCHS))


def test_the_policys_draws_do_not_depend_on_the_shards(tmp_path):
    batches = {}
    for shards in (1, 4):
        seen = batches[shards] = []
        train_tiny(
            tmp_path / f"{shards}",
            parallel.Sharded(narrow(), shards),
            transform=PRESETS["full"],
            between=lambda state, seen=seen: seen.append(None if state.batch is None else state.batch.clone()),
        )
    assert len(batches[1]) == len(batches[4]) > 4
    for one, four in zip(*batches.values()):
        assert one is four is None or torch.equal(one, four)


def test_another_number_of_shards_is_another_run(tmp_path, monkeypatch):
    """Batch norm sees smaller parts, so the result differs: never a continuation in silence."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    train_tiny(tmp_path / "run", parallel.Sharded(narrow(), 4), stop_after=1)
    for model, shards in ((parallel.Sharded(narrow(), 2), 2), (narrow(), 1)):
        with pytest.raises(CheckpointError, match=f"shards was 4 and is {shards}"):
            train_tiny(tmp_path / "run", model)
    for model in (narrow(), parallel.Sharded(narrow(), 2)):
        train_tiny(None, model, epochs=1)
    assert len(list(tmp_path.iterdir())) == 3
