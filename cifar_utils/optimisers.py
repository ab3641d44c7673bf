"""How the network's numbers change in a step: SGD, or Muon for the convolutions; and the learning rate's schedule."""

import torch
from torch import Tensor, nn

from cifar_utils.configuration import Config

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # K. Jordan's quintic: a few steps bring all singular values near 1


def orthogonalised(matrix: Tensor, steps: int = 3) -> Tensor:
    """[R, C] -> [R, C] with the same directions (singular vectors), all about equally strong.

    Singular values down to about an eighth of the largest end between 0.3 and 1.3 in three steps, weaker ones remain
    weak. That serves as well as exactly 1, and costs a few small matrix products instead of a decomposition.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the smaller of the two products of itself with itself
    x = x / (x.norm() + 1e-7)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum, which orthogonalises its steps in the groups that say so ("orthogonal": True).

    A filter bank's gradient [filters, inputs] is dominated by few directions, in which most filters move together.
    Muon keeps the directions and makes them equally strong, so that the rare ones are learnt as well.
    Each bank is first rescaled to a norm of the root of its number of filters: batch norm, which follows, undoes any
    scale, so that this changes nothing but how big a step is beside what it changes.

    Source: as `orthogonalised`, and its authors' CIFAR-10 speed run. torch.optim.Muon takes matrices only.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"] if group["orthogonal"] else []:
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(p.grad)
                direction = p.grad.add(momentum, alpha=group["momentum"])
                p.mul_(len(p) ** 0.5 / p.norm())
                p.add_(orthogonalised(direction.flatten(1)).view_as(p), alpha=-group["lr"])
                p.grad = None  # done: SGD below passes over it
        super().step()


KINDS = {"muon": Muon, "sgd": torch.optim.SGD}


def optimiser(network: nn.Module, config: Config) -> torch.optim.SGD:
    """The optimiser that the configuration names, with three groups: filters, linear layer, biases.

    Biases do not decay. The linear layer's and the biases' learning rates are multiples of the filters'.

    Raises:
        ValueError: there is no such optimiser.
    """
    if config.optimiser not in KINDS:
        raise ValueError(f"there is no optimiser {config.optimiser!r} here; choose {' or '.join(KINDS)}")
    trained = [p for p in network.parameters() if p.requires_grad]
    filters, matrices, biases = ([p for p in trained if p.ndim == n] for n in (4, 2, 1))
    rate, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": filters, "lr": rate, "weight_decay": decay, "orthogonal": config.optimiser == "muon"},
        {"params": matrices, "lr": rate * config.linear_rate, "weight_decay": decay, "orthogonal": False},
        {"params": biases, "lr": rate * config.bias_rate, "weight_decay": 0.0, "orthogonal": False},
    ]
    return KINDS[config.optimiser](groups, momentum=config.momentum, nesterov=True)


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """The schedule, a triangle: from near 0 up to 1 in the first `warm_up` of the steps, then down to 0."""
    rise = max(1.0, warm_up * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise), 1.0)
