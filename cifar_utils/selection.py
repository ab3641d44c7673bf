"""Which images an epoch trains on: all of them at first, then all but those that the network finds easiest.

What is answered right and surely has little left to teach, and costs as much as the rest. So each epoch after the
first leaves out a share of the images (`Config.skip`): those with the lowest loss when training last met them. None is
left out for good: as the others' losses fall, its own is no longer among the lowest.

Source: I. Loshchilov and F. Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015; of the same
family, A. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.configuration import Config

NEVER = -1.0  # not NaN, which would mean trouble in a checkpoint


class LastMet(nn.Module):
    """How each training image was answered when training last met it, augmented as it was then.

    Attributes:
        losses: [N] float32, cross-entropy without label smoothing; NEVER (-1) until an image is met.
        hits: [N] bool, whether the answer was right.
        losses_before: [N] float32, the losses when the epoch under way began: they decide whom it leaves out. A
            training that goes on in the middle of an epoch needs them to go on with the same images.
    """

    def __init__(self, n: int) -> None:
        super().__init__()  # a module for its buffers' sake: they move to a device and are saved by their names
        self.register_buffer("losses", torch.full((n,), NEVER))
        self.register_buffer("losses_before", self.losses.clone())
        self.register_buffer("hits", torch.zeros(n, dtype=torch.bool))

    @torch.no_grad()
    def record(self, batch: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Positions [B] int64, their logits [B, 10] and labels [B]: how the batch was answered."""
        self.losses[batch] = F.cross_entropy(logits, labels, reduction="none")
        self.hits[batch] = logits.argmax(1) == labels

    def end_epoch(self) -> None:
        """The next epoch begins: the losses of now decide whom it leaves out."""
        self.losses_before.copy_(self.losses)

    def means(self) -> tuple[float, float]:
        """Loss and accuracy, means over the images that were ever met; NaN if none was."""
        met = self.losses >= 0
        return self.losses[met].mean().item(), self.hits[met].float().mean().item()


def steps_before(epoch: int, n: int, config: Config) -> int:
    """The steps of all epochs (counted from 0) before this one: before `config.epochs`, those of the whole training.

    Args:
        epoch: from 0.
        n: images in the training split.
        config: incomplete batches are left out; fewer images than a batch are one batch.
    """
    first, others = (max(1, count // config.batch_size) for count in (n, _kept(n, config)))
    return first + (epoch - 1) * others if epoch else 0


def batches(n: int, config: Config, epoch: int, losses: Tensor) -> list[Tensor]:
    """The positions of each batch of an epoch, shuffled: a pure function of the seed, the epoch and the losses.

    Args:
        n, config, epoch: as above.
        losses: [n], see `LastMet.losses_before`; images without one count as the hardest.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed((config.seed * 1_000_003 + epoch) % 2**63))
    if epoch:
        losses = losses.cpu()
        hardness = torch.where(losses == NEVER, torch.inf, losses)[order]
        hardest = hardness.argsort(descending=True, stable=True)[: _kept(n, config)]
        order = order[hardest.sort().values]  # in the shuffled order again
    return [batch for batch in order.split(config.batch_size) if len(batch) == min(config.batch_size, len(order))]


def _kept(n: int, config: Config) -> int:
    return n - round(n * config.skip)
