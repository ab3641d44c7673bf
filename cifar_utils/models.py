"""The plain network, the layer that normalizes its input, and nothing else: write your own beside them.

A model is any `nn.Module` from images [N, 3, S, S] to logits [N, classes]. `train.fit` and `evaluation.predict` hand
it float32 images in 0 to 1, so a `Normalize` layer comes first:

    model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(classes=len(train.classes)))
"""

import torch
from torch import Tensor, nn

from cifar_utils.data import Dataset, beyond_0_to_1


class Normalize(nn.Module):
    """Subtracts each color channel's mean and divides by its standard deviation.

    Args:
        mean, std: three numbers each, of images scaled to 0 to 1.

    Input: [N, 3, H, W] uint8, or float in 0 to 1. Output: the same shape, float32, each channel around 0.

    Raises:
        ValueError: float images far outside 0 to 1: normalized already, or never divided by 255. Looked at on a CPU
            only: elsewhere it would take time.
    """

    mean: Tensor
    std: Tensor
    trained_size: int | None = None  # side of the training images in pixels, where it is known

    def __init__(self, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise ValueError(f"Normalize needs three means and three standard deviations above 0, not {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def from_dataset(cls, train: Dataset) -> "Normalize":
        """Measures the training images; only those, for anything else would leak into training.

        Sums over uint8 values are exact integers, so every machine gets the same constants.

        Raises:
            ValueError: these are no training images.
        """
        if train.split != "training":
            raise ValueError(f"Normalize is measured on training images only, and these are {train}")
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in train.images.unbind(1)]).double()
        mean = counts @ values / counts.sum(1)
        std = (counts @ values**2 / counts.sum(1) - mean**2).clamp(min=0).sqrt()
        layer = cls(mean.tolist(), std.clamp(min=1 / 255).tolist())  # one flat color has no deviation to divide by
        layer.trained_size = train.size
        return layer

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images / 255
        elif images.device.type == "cpu" and images.numel() and not torch.compiler.is_compiling():
            beyond = beyond_0_to_1(images[0])  # one image tells, and costs nothing
            if beyond and "nan" not in beyond:  # of NaN, the loss tells
                raise ValueError(
                    f"Normalize takes images from 0 to 1, and these go from {beyond}: leave out the other "
                    "normalization, or divide by 255"
                )
        return (images.float() - self.mean[:, None, None]).div_(self.std[:, None, None])  # in place: one copy less

    def extra_repr(self) -> str:
        return ", ".join(f"{name}=({', '.join(f'{x:.4f}' for x in getattr(self, name))})" for name in ("mean", "std"))


class SmallCNN(nn.Module):
    """A plain convolutional network: blocks of convolution, pooling, batch norm and ReLU; one linear layer.

    Args:
        classes: number of logits.
        widths: channels after each block; each block halves the image's side.

    Input: [N, 3, S, S] float32, normalized; S is at least 8. Output: logits [N, classes].
    """

    def __init__(self, classes: int = 10, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block(a, b) for a, b in zip((3, *widths), widths)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(images)  # [N, widths[-1], S / 8, S / 8]
        return self.head(features.mean((2, 3)))


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """[N, channels_in, S, S] -> [N, channels_out, S // 2, S // 2]: two 3x3 convolutions, with pooling between them."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def has_lazy_layers(model: nn.Module) -> bool:
    """Whether some of its layers get their shapes from the first batch, and have none yet."""
    return any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))


def uncompiled(model: nn.Module) -> nn.Module:
    """The module within what `torch.compile` and `scale.parallel.Sharded` wrap: same parameters, plain names."""
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod  # type: ignore[assignment]
    return model
