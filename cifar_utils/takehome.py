"""A policy to take into a project of your own: as torchvision code, or as one fast torchvision transform."""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cifar_utils.augment import Policy, Step, checked_batch, draw


def to_code(policy: Policy) -> str:
    """Python source that makes the transforms of `Policy.to_torchvision`, in lines of at most 88 columns."""

    def ready(value) -> str:
        return f"v2.InterpolationMode.{value.upper()}" if isinstance(value, str) else repr(value)

    def call(name: str, options: dict) -> str:
        arguments = [f"{key}={ready(value)}" for key, value in options.items()]
        line = f"    v2.{name}({', '.join(arguments)}),\n"
        if len(line) > 89:  # with the line's end
            line = f"    v2.{name}(\n" + "".join(f"        {argument},\n" for argument in arguments) + "    ),\n"
        return line

    steps = "".join(call(name, options) for name, options in policy.torchvision_steps())
    return f"from torchvision.transforms import v2\n\ntransform = v2.Compose([\n{steps}])\n"


class FusedTransform(v2.Transform):
    """A Policy as one torchvision transform: each image of a batch gets parameters of its own, in one warp.

    It takes tensors [C, H, W] or [N, C, H, W] with three channels, uint8 or float in 0 to 1, of any height and width,
    and returns the same shape and dtype. Random numbers come from torch's global generator, as in every torchvision
    transform, so it works in `nn.Sequential`, `v2.Compose` and a DataLoader.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def make_params(self, flat_inputs: list) -> dict:
        images = next((x for x in flat_inputs if isinstance(x, Tensor) and x.ndim in (3, 4)), None)
        if images is None:
            raise ValueError("FusedTransform takes a tensor [3, H, W] or [N, 3, H, W]; v2.PILToTensor makes one")
        index = torch.arange(len(images) if images.ndim == 4 else 1, device=images.device)
        height, width = images.shape[-2:]
        return {"parameters": draw(self.policy, int(torch.randint(2**62, ())), 0, index, (height, width))}

    def transform(self, inpt, params: dict):
        if not isinstance(inpt, Tensor) or inpt.ndim not in (3, 4):
            return inpt
        dtype = torch.uint8 if inpt.dtype == torch.uint8 else torch.float32
        batch = checked_batch(inpt if inpt.ndim == 4 else inpt[None])
        out = self.policy.apply(batch, params["parameters"], dtype=dtype).to(inpt.dtype)
        return tv_tensors.wrap(out if inpt.ndim == 4 else out[0], like=inpt)

    def at_step(self, images: Tensor, step: Step) -> Tensor:
        """In this workshop's own training it is the policy: a pure function of (seed, epoch, image)."""
        return self.policy.at_step(images, step)

    def extra_repr(self) -> str:
        return repr(self.policy)
