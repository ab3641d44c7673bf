"""Data-parallel training: each batch is divided into shards, and torchrun's processes compute some of them each.

    torchrun --standalone --nproc-per-node 2 -m cifar_utils train --shards 4
    OMP_NUM_THREADS=1 python -m cifar_utils train --shards 4     # one process: the same run, to the last bit

Every process draws and augments the whole batch, which costs 1 or 2% of a step, so all of them see the batch that a
single process would see. A shard is a part of the batch with batch norm statistics and random numbers (dropout) of its
own. Gradients are exchanged shard by shard and added in the shards' order. So neither the number of processes nor which
of them computes a shard changes anything, on one kind of machine and at one number of threads.

`DistributedDataParallel` promises less: it adds in an order that depends on the number of processes, and batch norm
sees parts whose size does. Its overlap of communication and computation gains nothing where gradients take a megabyte.
"""

import math
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from cifar_utils import checkpoint, runs, train
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import fingerprint
from cifar_utils.models import uncompiled

SECONDS = 300  # after which a process that waits for another one gives up: more than saving a checkpoint takes


class Sharded(nn.Module):
    """A network whose training batches are computed in shards, by all processes together.

    Like a compiled network, it is saved, loaded and evaluated as the network within it.

    Args:
        model: any network, from [N, 3, S, S] to [N, classes]. Its running statistics become the mean over the shards.
            A compiled one is computed without its compilation, which does not know shards.
        shards: parts of a batch, as `Tensor.tensor_split` makes them; a multiple of the number of processes.

    Raises:
        ValueError: the shards cannot be divided equally among the processes.
    """

    def __init__(self, model: nn.Module, shards: int) -> None:
        super().__init__()
        self._orig_mod, self.shards = uncompiled(model), shards
        if shards % processes():
            raise ValueError(f"{shards} shards cannot be divided equally among {processes()} processes")

    def forward(self, images: Tensor) -> Tensor:
        if self.shards == 1 or not (self.training and torch.is_grad_enabled()):
            return self._orig_mod(images)
        trained = [p for p in self._orig_mod.parameters() if p.requires_grad]
        return _Shards.apply(self, images, *trained)

    def compute(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, slice]]]:
        """The logits of the whole batch; and this process's part of them with their graph, and their rows."""
        model, parts = self._orig_mod, images.tensor_split(self.shards)
        buffers = dict(model.named_buffers())
        seed = int(torch.randint(2**62, ()))  # the same in every process, whose generators are seeded for every step
        first = rank() * self.shards // processes()
        own, logits, statistics, longest = [], [], [], len(parts[0])
        for number in range(first, first + self.shards // processes()):
            row = sum(len(part) for part in parts[:number])
            state = {name: buffer.clone() for name, buffer in buffers.items()}
            with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []), torch.enable_grad():
                torch.manual_seed(seed + number)
                found = functional_call(model, state, (parts[number],))
            own.append((found, slice(row, row + len(found))))
            rows = found.detach().float()
            logits.append(torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]))
            statistics.append(_flat(state.values(), wide=True))
        logits, statistics = _of_all_shards(logits), _of_all_shards(statistics)
        mean = statistics[0]
        for others in statistics[1:]:
            mean = mean + others
        for buffer, new in zip(buffers.values(), _unflat(mean / self.shards, buffers.values())):
            buffer.copy_(new)
        return torch.cat([rows[: len(part)] for rows, part in zip(logits, parts)]), own


class _Shards(torch.autograd.Function):
    """All shards as one step of autograd: the loop's own `backward` then exchanges the gradients."""

    @staticmethod
    def forward(context, sharded: Sharded, images: Tensor, *parameters: Tensor) -> Tensor:
        logits, context.own = sharded.compute(images)
        context.save_for_backward(*parameters)
        return logits

    @staticmethod
    def backward(context, gradient: Tensor):
        parameters, found = context.saved_tensors, []
        for logits, rows in context.own:
            part = gradient[rows].to(logits.dtype)
            grads = torch.autograd.grad(logits, parameters, part, allow_unused=True)
            found.append(_flat(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads)))
        total, *others = _of_all_shards(found)
        for other in others:  # in the order of the shards
            total = total + other
        return None, None, *_unflat(total, parameters)


def steps(
    model: nn.Module, images: Dataset, val: Dataset, *, shards: int, run: str | Path | None = None, **options
) -> Iterator["train.TrainerState"]:
    """`train.steps`, by all processes that torchrun started, or by this one.

    Process 0 holds the run's folder, saves and shows progress. The others work in temporary folders, and resume from
    a copy of process 0's checkpoints. A stop that reaches one of them stops all after the same step.

    Args:
        model, images, val, run, options: see `train.steps`; the initial weights must be the same in every process.
            Where gloo connects the processes, the device is the CPU.
        shards: number of parts of each batch, see `Sharded`.

    Yields:
        See `train.steps`; in the other processes, nothing.

    Raises:
        ValueError: see `train.steps` and `Sharded`; or a shard would be empty, or the processes do not have the
            same images, or do not start from the same weights.
    """
    sharded = Sharded(model, shards)
    if processes() > 1:
        _check_same(images, val)
    sampler, size = options.get("sampler"), options.get("batch_size")
    size = size or getattr(sampler, "batch_size", 128)
    counts = len(images), getattr(sampler, "kept", len(images))
    # In a batch; a size that is none is refused later.
    fewest = min(count // math.ceil(count / size) for count in counts) if type(size) is int and size > 0 else shards
    if shards > fewest:  # batch norm's statistics would be means over empty shards, too
        raise ValueError(f"{shards} shards are more than the images in a batch ({fewest}): take fewer shards")
    if dist.is_initialized() and dist.get_backend() == "gloo":  # which exchanges tensors of the CPU only
        options["device"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        if rank():
            run = Path(folder) / "run"
            _write(_from_first(None), run)
        states = train.steps(sharded, images, val, run=run, **options)
        state = next(states)
        if not rank():
            if processes() > 1:
                _from_first(_read(state.run))
            yield state
        yield from states if processes() == 1 else _in_step(sharded, states)


def _check_same(*datasets: Dataset) -> None:
    """Raises ValueError: another process has other images, as where one machine lacks CIFAR-10 and takes the sample."""
    about = [f"{data}, {data.size} x {data.size} pixels ({data.fingerprint()[:6]})" for data in datasets]
    for number, other in enumerate(_gathered(about)):
        if other != about:
            mine, its = (" and ".join(each) for each in (about, other))
            raise ValueError(
                f"process {rank()} has {mine}, and process {number} has {its}: give all the same (CIFAR10_DIR)"
            )


def _in_step(sharded: Sharded, states: Iterator["train.TrainerState"]) -> Iterator["train.TrainerState"]:
    """The rest of a training that has started, with one decision of all processes about every stop."""
    start = fingerprint(sharded)
    if any(other != start for other in _gathered(start)):
        raise ValueError("the processes start from different weights: seed torch before the model is made")
    requested = []

    def request(*_) -> None:
        requested.append(1)

    usual = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    if not isinstance(getattr(usual[signal.SIGTERM], "__self__", None), runs.StopSignal):
        requested.append(1)  # a signal has arrived since training began, and training's handler is already gone
    try:
        for state in states:
            if not rank():
                yield state
            state.stop = _any(state.stop or bool(requested))
    finally:
        for number, handler in usual.items():
            if signal.getsignal(number) is request:  # back to training, which passes signals on once it has ended
                signal.signal(number, handler)


@contextmanager
def process_group() -> Iterator[None]:
    """Connects torchrun's processes, and silences all but the first; alone, it does nothing.

    Raises:
        ValueError: the connection to another process is lost.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    name, number, count = (os.environ[key] for key in ("TORCHELASTIC_RESTART_COUNT", "RANK", "WORLD_SIZE"))
    waits = timedelta(seconds=SECONDS)
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    everyones = dist.TCPStore(*address, is_master=number == "0" and not is_agents, timeout=waits)
    # torchrun's store outlives its processes: those that it starts anew must not find the addresses of the dead ones.
    store, backend = dist.PrefixStore(f"start {name}", everyones), "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=int(number), world_size=int(count), timeout=waits)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if rank() else nullcontext():
            yield
    except RuntimeError as error:
        if not any(name in str(error).lower() for name in ("gloo", "nccl", "closed by peer", "timed out")):
            raise
        lost = "the connection to another process is lost; its own message says why. The same command resumes"
        raise ValueError(lost) from error
    finally:
        dist.destroy_process_group()


def processes() -> int:
    """How many compute together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def _of_all_shards(own: list[Tensor]) -> list[Tensor]:
    """This process's tensors of one shape and those of all others, in the shards' order."""
    if processes() == 1:
        return own
    mine = torch.stack(own)
    found = [torch.empty_like(mine) for _ in range(processes())]
    dist.all_gather(found, mine)
    return list(torch.cat(found))


def _any(flag: bool) -> bool:
    """Whether it is true in any process."""
    if processes() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(int(flag), device=device)
    dist.all_reduce(total)
    return bool(total)


def _gathered(value) -> list:
    found = [value] * processes()
    if processes() > 1:
        dist.all_gather_object(found, value)
    return found


def _from_first(value):
    """Process 0's value, in every process."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _read(run: Path) -> dict[str, bytes]:
    """What a run resumes from: name of a file -> its content."""
    checkpoints = [path for name in (runs.LAST, runs.BEST) for path in (run / name, checkpoint.previous(run / name))]
    paths = [run / "run.json", *checkpoints] if checkpoint.exists(run / runs.LAST) else []
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def _write(files: dict[str, bytes], run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for name, content in files.items():
        (run / name).write_bytes(content)


def _flat(tensors, wide: bool = False) -> Tensor:
    """All values in one vector; `wide`: in float64, which holds counts, and in which equal values have that mean."""
    flat = [tensor.detach().flatten() for tensor in tensors]
    if wide and flat and flat[0].device.type == "mps":
        flat = [tensor.cpu() for tensor in flat]  # Apple's GPUs have no float64
    return torch.cat([tensor.double() if wide else tensor.float() for tensor in flat]) if flat else torch.zeros(0)


def _unflat(vector: Tensor, like) -> list[Tensor]:
    like = list(like)
    parts = vector.split([tensor.numel() for tensor in like]) if like else []
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, like)]
