"""A whitening layer: fixed 2x2 filters, computed from training images, whose outputs are uncorrelated.

Neighboring pixels and the three colors are strongly correlated, so that a first layer must learn to look at
differences. The eigenvectors of the patches' covariance do that from the start, without training.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, after D. Page, "How to Train Your ResNet",
2018-19.
"""

import torch
from torch import Tensor, nn

FILTERS = 24  # a 2x2 patch has 12 values, so 12 directions, and the negative of each


def whitening(images: Tensor | None = None, mirror: bool = False, eps: float = 5e-4) -> nn.Conv2d:
    """A frozen layer: [N, 3, H, W] -> [N, 24, H - 1, W - 1].

    Args:
        images: see `whitening_filters`; None leaves random filters, to be loaded from a checkpoint, for example.
        mirror: see `whitening_filters`.
        eps: variance that is added, see `whitening_filters`.
    """
    layer = nn.Conv2d(3, FILTERS, kernel_size=2, bias=False)
    layer.weight.requires_grad_(False)
    if images is not None:
        layer.weight.copy_(whitening_filters(images, mirror, eps))
    return layer


def whitening_filters(images: Tensor, mirror: bool = False, eps: float = 5e-4) -> Tensor:
    """Filters [24, 3, 2, 2] whose outputs on such images are uncorrelated and of equal variance.

    These are the eigenvectors of the patches' covariance, each divided by the square root of its eigenvalue: twelve,
    and their negatives, since the activation that follows passes only one sign.

    With mirror symmetry, half of them must be mirror images of the others. A 2x2 patch and its mirror image have a sum
    (symmetric) and a difference (antisymmetric), which are uncorrelated: six filters of each. The twelve filters are
    then the sums of a symmetric and an antisymmetric one, and the differences, which are the sums' mirror images.

    Args:
        images: [N, 3, H, W] float32, normalized; a few thousand training images are enough.
        mirror: whether filters 12 to 23 are the mirror images of filters 0 to 11.
        eps: above 0, added to the eigenvalues (variances), so that directions that hardly ever occur are not amplified.
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 2, 2)
    if not mirror:
        filters = _whiten(patches, eps)
        return torch.cat([filters, -filters]).float()
    left, right = patches.unbind(3)  # [patches, 3, 2] each
    symmetric, antisymmetric = (_whiten(x, eps) for x in ((left + right) / 2**0.5, (left - right) / 2**0.5))
    filters = torch.stack([symmetric + antisymmetric, symmetric - antisymmetric], 3) / 2  # [6, 3, 2, 2]
    filters = torch.cat([filters, -filters])
    return torch.cat([filters, filters.flip(3)]).float()


def _whiten(patches: Tensor, eps: float) -> Tensor:
    """[n, ...] -> float64 filters [m, ...], m the values in a patch; their outputs: uncorrelated, of variance 1."""
    columns = patches.flatten(1).T.double()  # sums of millions: in single precision, some CPUs get them wrong by 1e-3
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(columns))
    return (eigenvectors / (eigenvalues + eps).sqrt()).T.unflatten(1, patches.shape[1:])
