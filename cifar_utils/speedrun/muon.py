"""Muon: SGD whose steps are orthogonalized for filter banks and matrices.

The gradient of a filter bank, seen as a matrix [filters, inputs], is dominated by few directions, in which most filters
move together. Muon keeps the directions and makes them equally strong, so that rare features are learned as well.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, and its authors' CIFAR-10
speed run. (torch.optim.Muon takes matrices only, no filter banks.)
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from cifar_utils.models import uncompiled
from cifar_utils.train import seeded

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # K. Jordan's quintic: a few steps bring all singular values near 1
OTHER_LR_SCALE = 0.5  # of parameters whose scale counts, since no norm undoes it; chosen on validation images


def newton_schulz(matrix: Tensor, steps: int = 3) -> Tensor:
    """[R, C] -> [R, C] with the same directions (singular vectors), all about equally strong.

    Singular values down to about an eighth of the largest end between 0.3 and 1.3 in three steps, weaker ones remain
    weak. That serves as well as exactly 1, and costs a few small matrix products instead of a decomposition.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the smaller of the two products of itself with itself
    x = x / (x.norm() + 1e-7)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram^2) x
    return x.T if tall else x


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum, and orthogonalized steps in the parameter groups with "orthogonal": True.

    Where "rescale" is True as well, each filter bank is first rescaled to a norm of the square root of its number of
    filters. The norm layer that follows undoes any scale, so this changes nothing but the size of a step relative to
    the filters. Elsewhere, weight decay shrinks the weights directly. Parameters without a gradient are skipped.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            for p in group["params"] if group.get("orthogonal") else []:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(p.grad)
                direction = p.grad.add(momentum, alpha=group["momentum"])
                p.mul_(len(p) ** 0.5 / p.norm() if group.get("rescale") else 1 - group["lr"] * group["weight_decay"])
                p.add_(newton_schulz(direction.flatten(1)).view_as(p), alpha=-group["lr"])
        self.param_groups = [group for group in groups if not group.get("orthogonal")]
        # torch has put the calls of hooks around SGD's own step once any SGD was made; here, they are around this one.
        step = torch.optim.SGD.step
        try:
            (step.__wrapped__ if hasattr(step, "hooked") else step)(self)  # type: ignore[attr-defined]
        finally:
            self.param_groups = groups
        return loss


def muon(
    model: nn.Module,
    lr: float = 0.18,
    *,
    size: int = 32,
    head_lr_scale: float = OTHER_LR_SCALE,
    bias_lr_scale: float = OTHER_LR_SCALE,
    momentum: float = 0.6,
    weight_decay: float = 0.0,
) -> Muon:
    """Muon for all trainable parameters of any network, in groups with learning rates of their own.

    filters    filter banks and matrices whose scale a norm layer undoes: lr, orthogonalized and rescaled
    matrices   other filter banks and matrices, as in a transformer, embeddings too: lr / 2, orthogonalized
    head       the last linear layer's matrix: lr * head_lr_scale
    biases     lr * bias_lr_scale, without weight decay
    others     gains, scalars, vectors: lr / 2, without weight decay

    Args:
        model: its frozen parameters are in no group. Groups without a parameter are left out.
        lr: learning rate at the peak of the schedule, at least 0.
        size: side in pixels of the images that the model takes; needed to find out which scales a norm layer undoes.
        head_lr_scale, bias_lr_scale: factors of lr, at least 0.
        momentum: 0 to below 1.
        weight_decay: from 0, per step and times the learning rate; the norm makes decay of filters meaningless.

    Raises:
        ValueError: nothing is trainable, the model fails on images of that size, or a number is out of range.
    """
    rates = {"lr": lr, "head_lr_scale": head_lr_scale, "bias_lr_scale": bias_lr_scale, "weight_decay": weight_decay}
    for name, value in rates.items():
        if not 0 <= value < math.inf:  # NaN is neither
            raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum!r}; it must be a number from 0 to below 1")
    kinds = _kinds(model, scale_invariant(model, size))
    orthogonal, decays = {"orthogonal": True, "weight_decay": weight_decay}, {"weight_decay": weight_decay}
    groups = [
        {"params": kinds["filters"], "lr": lr, "rescale": True} | orthogonal,
        {"params": kinds["matrices"], "lr": lr * OTHER_LR_SCALE} | orthogonal,
        {"params": kinds["head"], "lr": lr * head_lr_scale} | decays,
        {"params": kinds["biases"], "lr": lr * bias_lr_scale},
        {"params": kinds["others"], "lr": lr * OTHER_LR_SCALE},
    ]
    return Muon([group for group in groups if group["params"]], lr, momentum=momentum, nesterov=momentum > 0)


@torch.no_grad()
def scale_invariant(model: nn.Module, size: int = 32) -> set[str]:
    """The names of the filter banks and matrices whose scale a norm layer undoes, found by trying.

    A copy of the model predicts 8 random images in training mode. A bank is scale-invariant if doubling it changes
    the outputs by less than a hundredth of what its negative does.

    Args:
        model: left as found, as are the random generators.
        size: side of the images in pixels.

    Raises:
        ValueError: the model fails on such images.
    """
    copy = deepcopy(uncompiled(model)).train()
    for module in copy.modules():
        if isinstance(getattr(module, "eps", None), float):
            vars(module)["eps"] = 1e-30  # a norm's eps would be a scale of its own
    if next(copy.parameters(), torch.empty(0)).device.type == "mps":
        copy = copy.cpu()  # so that no generator but the CPU's has to be brought back
    parameters = dict(copy.named_parameters())
    device = next(iter(parameters.values()), torch.empty(0)).device
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def outputs() -> Tensor:
        with seeded(0):  # the same dropout every time
            return copy(images).float()

    def change(p: Tensor, factor: float) -> float:
        original = p.clone()
        p.mul_(factor)
        changed = (outputs() - before).norm().item()
        p.copy_(original)
        return changed

    try:
        before = outputs()
    except Exception as error:  # whatever the model raises
        raise ValueError(f"the model fails on 8 images of {size} x {size} pixels: {error}") from error
    banks = [name for name, p in parameters.items() if p.requires_grad and _is_bank(p)]
    return {name for name in banks if change(parameters[name], 2) < 0.01 * change(parameters[name], -1)}


def _is_bank(p: Tensor) -> bool:
    """Whether it is a matrix or a filter bank, of more than one row and column."""
    return p.ndim in (2, 4) and len(p) > 1 and p[0].numel() > 1


def _kinds(model: nn.Module, invariant: set[str]) -> dict[str, list[Tensor]]:
    """The trainable parameters by the part that they play, each once; see `muon`."""
    model = uncompiled(model)
    kinds: dict[str, list] = {kind: [] for kind in ("filters", "matrices", "head", "biases", "others")}
    head = next((m.weight for m in reversed([*model.modules()]) if isinstance(m, nn.Linear)), None)
    for name, p in model.named_parameters():
        if p is head:
            kind = "head"
        elif _is_bank(p):
            kind = "filters" if name in invariant else "matrices"
        else:
            kind = "biases" if p.ndim == 1 and name.endswith("bias") else "others"
        if p.requires_grad:
            kinds[kind].append(p)
    if not any(kinds.values()):
        raise ValueError("the model has no trainable parameters: requires_grad is False for all of them")
    return kinds
