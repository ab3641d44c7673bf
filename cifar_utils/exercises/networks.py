"""Exercises of notebook 2: parameters, broken networks, and a network of your own."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from cifar_utils import checks, network_file
from cifar_utils.checks import first_line
from cifar_utils.exercises.core import RIGHT, Wrong, exercise
from cifar_utils.exercises.images import images
from cifar_utils.models import Normalize, count_parameters

BUDGET = 250_000  # parameters of exercise 2.4: SmallCNN has more, so a copy of it does not do


@exercise(
    "2.1",
    "Predict",
    "The parameters of a layer",
    hints=(
        "How many filters does the layer have, and how many weights does one filter have?",
        "A filter looks at all 16 input channels, through a window of 3 x 3.",
        "Multiply: filters, input channels, rows and columns of the window. bias=False adds nothing.",
    ),
    wrong={
        "inputs": Wrong(
            "input channels left out",
            "answer = 32 * 9",
            "That is one 3 x 3 window per filter. How many channels does a filter look at?",
        ),
        "window": Wrong(
            "the window left out", "answer = 16 * 32", "Each filter looks at more than one pixel of a channel."
        ),
        "bias": Wrong(
            "a bias per filter added",
            "answer = 16 * 32 * 9 + 32",
            "This counts one bias per filter. The layer has bias=False.",
        ),
        "filters": Wrong("a single filter", "answer = 16 * 9", "That is one filter. The layer has several."),
        "pixels": Wrong(
            "one filter per pixel of the image",
            "answer = 16 * 32 * 9 * 32 * 32",
            "A filter is the same for all pixels, so the image's size does not matter.",
        ),
        "other": Wrong(
            "a slip in the product", "answer = 4600", "How many filters are there, and how many weights does each have?"
        ),
    },
    meaning="The number does not depend on the image's size. So the same layer takes images of any size.",
    sound=("answer = 4608", "answer = sum(p.numel() for p in nn.Conv2d(16, 32, 3, bias=False).parameters())"),
)
def layer_parameters(answer) -> str:
    replies = {4608: RIGHT, 288: "inputs", 512: "window", 4640: "bias", 144: "filters", 4608 * 1024: "pixels"}
    return replies.get(answer, "other")


HEAD = "class answer(nn.Module):\n    def __init__(self, classes=10):\n"
FORWARD = "\n    def forward(self, images):\n        return self.head(self.blocks(images).mean((2, 3)))"


def instance(code: str) -> Wrong:
    """The mistake that exercises of classes share. code: of a right answer."""
    reply = "Hand in the class, without parentheses: the check makes networks of its own."
    return Wrong("a network instead of its class", f"{code}\nanswer = answer()", reply)


@exercise(
    "2.2",
    "Repair",
    "A network that cannot be made",
    hints=(
        "Run TinyNetwork() in a new cell and read the last line of the error.",
        "The error names a call that has to come before the first layer is assigned.",
        "nn.Module sets itself up in its own __init__, which your class replaces. Call it first.",
    ),
    wrong={
        "made": Wrong(
            "the call is still missing",
            HEAD + "        self.blocks = nn.Conv2d(3, 8, 3)\n        self.head = nn.Linear(8, classes)" + FORWARD,
            "The network cannot be made: {error}. Where in your `__init__` is the call that this message names?",
        ),
        "late": Wrong(
            "a network that can be made but not used",
            HEAD + "        self.blocks = []\n        super().__init__()\n        self.head = nn.Linear(8, classes)\n"
            "    def forward(self, images):\n        return self.head(images.mean((2, 3)))",
            "The network can be made but fails on images: {error}.",
        ),
        "instance": instance(
            HEAD + "        super().__init__()\n        self.blocks = nn.Conv2d(3, 8, 3)\n"
            "        self.head = nn.Linear(8, classes)" + FORWARD
        ),
        "layers": Wrong(
            "layers removed to silence the error",
            "class answer(nn.Module):\n    def __init__(self, classes=10):\n"
            "        super().__init__()\n    def forward(self, images):\n        return torch.zeros(len(images), 10)",
            "The repaired network must keep all layers: the convolution and the head.",
        ),
    },
    meaning="The check that finds this mistake: make the network once, and read the error's last line.",
    sound=(
        HEAD + "        super().__init__()\n        self.blocks = nn.Conv2d(3, 8, 3)\n"
        "        self.head = nn.Linear(8, classes)" + FORWARD,
        HEAD + "        super(answer, self).__init__()\n        self.blocks = nn.Conv2d(3, 16, 3)\n"
        "        self.head = nn.Linear(16, classes)" + FORWARD,
    ),
)
def can_be_made(answer) -> str | tuple[str, dict]:
    if isinstance(answer, nn.Module):
        return "instance"
    try:
        model = answer()
    except Exception as error:
        return "made", {"error": _said(error)}
    try:
        outputs = model(torch.zeros(2, 3, 32, 32))
    except Exception as error:
        return "late", {"error": _said(error)}
    return RIGHT if _is_whole(model, outputs, convolutions=1) else "layers"


def _is_whole(model: nn.Module, outputs, convolutions: int) -> bool:
    """Whether the model has at least this many convolutions and a head, and returns ten numbers per image."""
    found = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    has_head = any(isinstance(layer, nn.Linear) for layer in model.modules())
    return found >= convolutions and has_head and list(outputs.shape[1:]) == [10]


SUPER = HEAD + "        super().__init__()\n"
BLOCKS = "nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)"


@exercise(
    "2.3",
    "Repair",
    "Layers that are not trained",
    hints=(
        "Compare count_parameters(...) with the sum that you expect.",
        "PyTorch finds layers that are attributes of a module. It does not find layers in a plain list.",
        "nn.Sequential and nn.ModuleList are lists that PyTorch looks into.",
    ),
    wrong={
        "made": Wrong(
            "nn.Sequential with a list in it",
            SUPER
            + f"        self.blocks = nn.Sequential([{BLOCKS}])\n        self.head = nn.Linear(16, classes)"
            + FORWARD,
            "The network cannot be made: {error}. How did notebook 2 hand layers to nn.Sequential?",
        ),
        "half": Wrong(
            "one layer registered, the rest still in a list",
            SUPER + f"        self.first, self.rest = nn.Conv2d(3, 3, 3), [{BLOCKS}]\n"
            "        self.head = nn.Linear(16, classes)\n    def forward(self, images):\n"
            "        images = self.first(images)\n        for block in self.rest:\n            images = block(images)\n"
            "        return self.head(images.mean((2, 3)))",
            "Some convolutions can be trained, but forward uses others that PyTorch does not find.",
        ),
        "list": Wrong(
            "the list is still there",
            SUPER + f"        self.blocks = [{BLOCKS}]\n        self.head = nn.Linear(16, classes)\n"
            "    def forward(self, images):\n        for block in self.blocks:\n            images = block(images)\n"
            "        return self.head(images.mean((2, 3)))",
            "Only {count:,} parameters can be trained: those of the head. Count what the convolutions should have.",
        ),
        "tuple": Wrong(
            "a dictionary instead of the list",
            SUPER + "        self.blocks = {1: nn.Conv2d(3, 16, 3)}\n        self.head = nn.Linear(16, classes)\n"
            "        self.norm = nn.BatchNorm2d(16)\n"
            "    def forward(self, images):\n        return self.head(self.norm(self.blocks[1](images)).mean((2, 3)))",
            "Now {count:,} parameters can be trained, and forward still uses a layer that is not among them.",
        ),
        "unused": Wrong(
            "registered, but forward goes past them",
            SUPER + f"        self.blocks = nn.Sequential({BLOCKS})\n        self.head = nn.Linear(3, classes)\n"
            "    def forward(self, images):\n        return self.head(images.mean((2, 3)))",
            "{name} gets no gradient: forward does not use it.",
        ),
        "instance": instance(
            SUPER
            + f"        self.blocks = nn.Sequential({BLOCKS})\n        self.head = nn.Linear(16, classes)"
            + FORWARD
        ),
        "fails": Wrong(
            "a ModuleList that is called like a layer",
            SUPER
            + f"        self.blocks = nn.ModuleList([{BLOCKS}])\n        self.head = nn.Linear(16, classes)"
            + FORWARD,
            "The network fails on images: {error}. If it is a ModuleList: that is a list, so loop over it.",
        ),
        "layers": Wrong(
            "convolutions removed",
            SUPER + "        self.head = nn.Linear(3, classes)\n"
            "    def forward(self, images):\n        return self.head(images.mean((2, 3)))",
            "Every remaining layer is trained, but the repaired network must keep both convolutions and the head.",
        ),
    },
    meaning="The check that finds this mistake: count the parameters. fit refuses such a network, and names the list.",
    sound=(
        SUPER + f"        self.blocks = nn.Sequential({BLOCKS})\n        self.head = nn.Linear(16, classes)" + FORWARD,
        SUPER + f"        self.blocks = nn.ModuleList([{BLOCKS}])\n        self.head = nn.Linear(16, classes)\n"
        "    def forward(self, images):\n        for block in self.blocks:\n            images = block(images)\n"
        "        return self.head(images.mean((2, 3)))",
    ),
)
def all_layers_are_registered(answer) -> str | tuple[str, dict]:
    if isinstance(answer, nn.Module):
        return "instance"
    try:
        model = answer()
    except Exception as error:
        return "made", {"error": _said(error)}
    try:
        outputs = model(torch.rand(4, 3, 32, 32))
        outputs.sum().backward()
    except Exception as error:
        return "fails", {"error": _said(error)}
    if untracked(model, torch.rand(4, 3, 32, 32)):
        if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
            return "half"
        is_head_only = all(isinstance(layer, (nn.Linear, type(model))) for layer in model.modules())
        return "list" if is_head_only else "tuple", {"count": count_parameters(model)}
    if unused := [name for name, p in model.named_parameters() if p.grad is None]:
        return "unused", {"name": unused[0]}
    return RIGHT if _is_whole(model, outputs, convolutions=2) else "layers"


def untracked(model: nn.Module, images: torch.Tensor) -> list[nn.Module]:
    """Layers that forward uses and PyTorch does not find: in a list, tuple or dictionary, or made in forward."""
    with checks.called_layers() as called:
        model(images)
    return checks.unknown(called, model)


NETWORK = SUPER + "        self.body = nn.Sequential(*[{}])\n        self.head = nn.Linear(32, classes)\n"
SIMPLE = "nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()"
MEAN = "    def forward(self, images):\n        return self.head(self.body(images).mean((2, 3)))"


@exercise(
    "2.4",
    "Code",
    "Your network",
    hints=(
        "Start from SmallCNN in notebook 2, and change its widths or the number of its blocks.",
        "In __init__: self.blocks = nn.Sequential(...) of blocks, and self.head = nn.Linear(channels, classes).",
        "In forward: the blocks, then .mean((2, 3)), then the head. Nothing after the head.",
    ),
    wrong={
        "module": Wrong(
            "a function that computes, not an nn.Module",
            "def answer(classes=10):\n    return lambda images: images",
            "No network can be made from it: {error}.",
        ),
        "shape": Wrong(
            "the mean over rows and columns forgotten",
            NETWORK.format(SIMPLE) + "    def forward(self, images):\n        return self.head(self.body(images))",
            "Images [8, 3, 32, 32] do not become logits [8, 10]: {error}.",
        ),
        "batch": Wrong(
            "a batch size written into forward",
            NETWORK.format(SIMPLE) + "    def forward(self, images):\n"
            "        return self.head(self.body(images).reshape(8, 32, -1).mean(2))",
            "It takes 8 images but not 3: {error}. Is a batch size written into forward?",
        ),
        "instance": instance(NETWORK.format(SIMPLE) + MEAN),
        "linear": Wrong(
            "no activation",
            SUPER + "        self.head = nn.Linear(3072, classes)\n    def forward(self, images):\n"
            "        return self.head(images.flatten(1))",
            "The logits of the mean of two images are the mean of their logits, so all its layers could be replaced by "
            "a single one. What is missing between them?",
        ),
        "hidden": Wrong(
            "layers in a plain list",
            NETWORK.format(SIMPLE).replace("nn.Sequential(*", "list(")
            + "    def forward(self, images):\n        for layer in self.body:\n            images = layer(images)\n"
            "        return self.head(images.mean((2, 3)))",
            "forward uses a layer that PyTorch does not find, so it is not trained: exercise 2.3.",
        ),
        "unused": Wrong(
            "a layer that forward forgets",
            NETWORK.format(SIMPLE) + "        self.extra = nn.Linear(5, 5)\n" + MEAN,
            "{name} gets no gradient: forward does not use it.",
        ),
        "softmax": Wrong(
            "a softmax at the end",
            NETWORK.format(SIMPLE) + MEAN + ".softmax(1)",
            "Its outputs are probabilities: they are at least 0 and sum to 1. Cross-entropy takes logits.",
        ),
        "relu": Wrong(
            "a ReLU at the end",
            NETWORK.format(SIMPLE) + MEAN + ".relu()",
            "No logit is below 0: is there a ReLU or a sigmoid after the last layer?",
        ),
        "nan": Wrong(
            "the logarithm of a negative number",
            NETWORK.format(SIMPLE) + MEAN + ".log()",
            "Some outputs are infinite or not numbers (NaN): a division by zero, the logarithm of a number that is "
            "not above zero, or the root of one below it?",
        ),
        "first": Wrong(
            "large first weights",
            NETWORK.format(SIMPLE) + "        nn.init.normal_(self.head.weight, std=40)\n" + MEAN,
            "The first loss is {loss:.2f}, and log 10 = 2.30. A new network gives all classes about the same chance.",
        ),
        "budget": Wrong(
            "wider instead of smarter",
            SUPER + "        self.body = nn.Conv2d(3, 1000, 11)\n        self.head = nn.Linear(1000, classes)\n" + MEAN,
            "It has {count:,} parameters, and the budget is {budget:,}.",
        ),
        "memorize": Wrong(
            "a linear layer on three mean colors",
            SUPER + "        self.head = nn.Linear(3, classes)\n"
            "    def forward(self, images):\n        return self.head(images.mean((2, 3)))",
            "Its loss on 64 images is still {loss:.2f} after {steps} steps. Is there something after the head "
            "that limits the logits, or are layers or batch norm missing?",
        ),
    },
    meaning="A module with the right shapes for any batch, every parameter trained, logits as outputs, a first loss "
    "near log 10, 64 images memorized, within the budget.",
    sound=(
        NETWORK.format(SIMPLE) + MEAN,
        SUPER
        + "        self.body = nn.Sequential(nn.Conv2d(3, 24, 4, 4), nn.GroupNorm(4, 24), nn.GELU(), nn.Flatten())\n"
        "        self.head = nn.Linear(24 * 64, classes)\n    def forward(self, images):\n"
        "        return self.head(self.body(images))",
        "class Net(nn.Sequential):\n    def __init__(self, n_classes):\n        super().__init__("
        "nn.Conv2d(3, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), "
        "nn.Linear(512, n_classes))\nanswer = Net",
        SUPER + "        self.body = nn.Sequential(nn.Conv2d(3, 32, 5, 2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())\n"
        "        self.head = nn.Linear(32 * 196, classes)\n    def forward(self, images):\n"
        "        return self.head(self.body(images))",
    ),
    then=lambda network: f"It is saved for notebooks 3 and 4, in {_save(network)}.",
)
def network(answer) -> str | tuple[str, dict]:
    """The checks of notebook 2, in the order in which they tell most."""
    if isinstance(answer, nn.Module):
        return "instance"
    torch.manual_seed(0)
    try:
        model = network_file.make(answer)
    except ValueError as error:
        return "module", {"error": _said(error)}
    train, val = images()
    model = nn.Sequential(Normalize.from_dataset(train), model)
    for count, name in ((8, "shape"), (3, "batch")):
        try:
            found = list(model(val.images[:count]).shape)
            problem = f"it returns {found}" if found != [count, 10] else ""
        except Exception as error:
            problem = _said(error)
        if problem:
            return name, {"error": problem}
    F.cross_entropy(model(train.images[:8]), train.labels[:8]).backward()
    if untracked(model, train.images[:8]):
        return "hidden"
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        return "unused", {"name": unused[0].partition(".")[2]}
    with torch.no_grad():
        logits = model.eval()(val.images[:100])
    if not logits.isfinite().all():
        return "nan"
    if logits.min() >= 0 and logits.max() > 0:
        return "softmax" if torch.allclose(logits.sum(1), torch.ones(100), atol=1e-3) else "relu"
    loss = F.cross_entropy(logits, val.labels[:100]).item()
    if abs(loss - math.log(10)) > 0.5:
        return "first", {"loss": loss}
    if count_parameters(model) > BUDGET:
        return "budget", {"count": count_parameters(model), "budget": BUDGET}
    loss, steps = memorize(model, train.images[:64], train.labels[:64])
    if not loss < 0.1:
        return "memorize", {"loss": loss, "steps": steps}
    first, second = val.images[:20] / 255, val.images[20:40] / 255
    model.eval()
    with torch.no_grad():
        bend = model((first + second) / 2) - (model(first) + model(second)) / 2
    return RIGHT if bend.abs().max() > 1e-3 else "linear"


def memorize(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """The lowest loss on one batch, and the steps until it was below 0.1, at most 300."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()  # what it drops cannot be learned by heart
    losses: list[float] = []
    while len(losses) < 300 and not min(losses, default=1) < 0.1:  # "not", for a loss that is no number (NaN)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return min(losses), len(losses)


def _save(network) -> str:
    file = network_file.save(network)
    return f"{file.parent.name}/{file.name}"


def _said(error: Exception) -> str:
    """For a reply, which ends the sentence itself."""
    return first_line(error).rstrip(".")


@exercise(
    "2.5",
    "Repair",
    "A network that hardly learns",
    hints=(
        "Look at the outputs: what is their smallest value, and what does a row sum to?",
        "F.cross_entropy applies a softmax itself.",
        "The network returns logits, as the head computes them.",
    ),
    wrong={
        "softmax": Wrong(
            "the softmax is still there",
            SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
            "        return self.head(images.mean((2, 3))).softmax(1)",
            "Every row of its outputs sums to 1: they are probabilities.",
        ),
        "sigmoid": Wrong(
            "a sigmoid instead",
            SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
            "        return self.head(images.mean((2, 3))).sigmoid()",
            "All outputs are between 0 and 1. Logits have no such limits.",
        ),
        "instance": instance(
            SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
            "        return self.head(images.mean((2, 3)))"
        ),
        "limited": Wrong(
            "a tanh or a ReLU instead",
            SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
            "        return self.head(images.mean((2, 3))).tanh()",
            "The outputs do not grow with the head's weights, or are never negative: something after the head limits "
            "them.",
        ),
    },
    meaning="Two checks find this mistake: no logit is below 0, and the network cannot memorize a batch.",
    sound=(
        SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
        "        return self.head(images.mean((2, 3)))",
        SUPER + "        self.head = nn.Linear(3072, classes)\n    def forward(self, images):\n"
        "        return 2 * self.head(images.flatten(1))",
        SUPER + "        self.head = nn.Linear(3, classes)\n    def forward(self, images):\n"
        "        return self.head(images.mean((2, 3))).log_softmax(1)",
    ),
    core=False,
)
def returns_logits(answer) -> str:
    if isinstance(answer, nn.Module):
        return "instance"
    torch.manual_seed(0)
    model, x = answer(), 5 * torch.randn(50, 3, 32, 32)
    with torch.no_grad():
        outputs = model(x)
        *_, head = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        for p in head.parameters():
            p.mul_(100)
        grown = model(x)
    ones = torch.ones(len(outputs))
    if torch.allclose(outputs.sum(1), ones, atol=1e-3) and outputs.min() >= 0:
        return "softmax"
    if torch.allclose(outputs.exp().sum(1), ones, atol=1e-3):
        return RIGHT  # log_softmax: cross-entropy applies it once more, which changes nothing
    if 0 <= outputs.min() and outputs.max() <= 1:
        return "sigmoid"
    is_limited = outputs.min() >= 0 or not torch.allclose(grown, 100 * outputs, rtol=0.01, atol=0.01)
    return "limited" if is_limited else RIGHT


@exercise(
    "2.6",
    "Code",
    "A filter that blurs",
    hints=(
        "Blurring replaces each pixel by the mean of its neighborhood.",
        "An image of one color must stay as it is. What must the filter's nine weights sum to?",
    ),
    wrong={
        "shape": Wrong(
            "a row of nine numbers", "answer = torch.ones(9) / 9", "The filter must be a tensor of shape [3, 3]."
        ),
        "bright": Wrong(
            "nine ones",
            "answer = torch.ones(3, 3)",
            "A gray image becomes {factor:.1f} times as bright. It should stay as it is.",
        ),
        "edges": Wrong(
            "a filter for edges",
            "answer = torch.tensor([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])",
            "A gray image becomes black: this filter finds edges.",
        ),
        "sharp": Wrong(
            "the filter that changes nothing",
            "answer = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])",
            "After the filter, noise is {ratio:.2f} times as strong. Blur more: it must fall below 0.9 times.",
        ),
    },
    meaning="A gray image stays as it is, and noise gets weaker.",
    sound=("answer = torch.ones(3, 3) / 9", "answer = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16"),
    core=False,
)
def blur(answer) -> str | tuple[str, dict]:
    if not isinstance(answer, torch.Tensor) or answer.shape != (3, 3):
        return "shape"
    factor = answer.sum().item()
    if abs(factor - 1) > 0.01:
        return "edges" if abs(factor) < 0.01 else ("bright", {"factor": factor})
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ratio = (F.conv2d(noise, answer[None, None].float()).std() / noise.std()).item()
    return RIGHT if ratio < 0.9 else ("sharp", {"ratio": ratio})
