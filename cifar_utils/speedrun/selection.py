"""Skipping easy examples: after the first epoch, each epoch leaves out the images with the lowest losses.

An image that is predicted correctly and confidently has little left to teach, and costs as much as any other. No image
is dropped for good: as the losses of the trained images fall, skipped images become relatively hard and return.

Source: I. Loshchilov and F. Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015; of the same
family, A. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_utils.train import Shuffle

UNKNOWN = -1.0  # not NaN, which would mean trouble in a checkpoint


class DropEasiest(Shuffle):
    """A sampler for `fit`: all images in the first epoch, then all but the easiest, shuffled.

        sampler = DropEasiest(len(train), batch_size=500, fraction=0.5)

    Args:
        n: training images.
        batch_size: images per step, at most.
        seed: same seed, same order.
        fraction: of the images that each epoch after the first leaves out, from 0 to below 1.

    Attributes:
        losses: [n] float32: each image's cross-entropy when it was last trained on, augmented as it was then;
            UNKNOWN (-1) before that, which counts as the hardest.
    """

    def __init__(self, n: int, batch_size: int, seed: int = 0, fraction: float = 0.5) -> None:
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction is {fraction!r}; the fraction of images to drop is from 0 to below 1")
        super().__init__(n, batch_size, seed)
        self.fraction = fraction
        self.losses = torch.full((n,), UNKNOWN)
        self._losses_at_start, self._epoch = self.losses.clone(), 0  # they decide which images the epoch drops

    @property
    def kept(self) -> int:
        """The number of images in each epoch after the first."""
        return max(1, self.n - round(self.n * self.fraction))

    def epoch(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch (from 0). An epoch that is resumed drops the same images as before."""
        if epoch != self._epoch:
            self._losses_at_start, self._epoch = self.losses.clone(), epoch
        order = self.order(epoch)
        if epoch:
            losses = self._losses_at_start.cpu()
            hardness = torch.where(losses == UNKNOWN, torch.inf, losses)[order]
            hardest = hardness.argsort(descending=True, stable=True)[: self.kept]
            order = order[hardest.sort().values]  # in the shuffled order again
        return self.batches(order)

    def total_steps(self, epochs: int) -> int:
        """The number of steps in the first `epochs` epochs."""
        first, others = (math.ceil(count / self.batch_size) for count in (self.n, self.kept))
        return first + (epochs - 1) * others if epochs else 0

    @torch.no_grad()
    def record(self, positions: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Positions [b], their logits [b, classes] and labels [b]: keeps their losses, without label smoothing."""
        self.losses = self.losses.to(logits.device)
        self.losses[positions.to(logits.device)] = F.cross_entropy(logits.float(), labels, reduction="none")

    def state_dict(self) -> dict:
        return {"losses": self.losses, "losses_at_start": self._losses_at_start, "epoch": self._epoch}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError: these are not the losses of as many images."""
        losses, at_start = state["losses"], state["losses_at_start"]
        if losses.shape != (self.n,) or at_start.shape != (self.n,) or type(state["epoch"]) is not int:
            raise ValueError(f"its losses are those of {losses.numel():,} images, and there are {self.n:,}")
        self.losses, self._losses_at_start, self._epoch = losses.clone(), at_start.clone(), state["epoch"]
