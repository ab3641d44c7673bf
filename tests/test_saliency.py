"""Class activation maps: exact before the last pooling, for any network, and where they point."""

import numpy as np
import pytest
import torch
import torchvision
from tables import Transformer, random_images, small_network
from torch import nn
from torch.nn import functional as F

from cifar_utils.evaluation.saliency import class_activation_map, enlarge


@pytest.fixture
def case():
    return small_network(), random_images(12).images, torch.arange(12) % 10


@pytest.mark.parametrize("layer,size", [("conv1", 32), ("norm", 32), ("relu", 32), ("pool", 16), ("conv2", 16)])
def test_the_shape(case, layer, size):
    network, images, classes = case
    maps = class_activation_map(network, images, classes, network.get_submodule(layer))
    assert maps.shape == (12, size, size) and maps.dtype == torch.float32 and not maps.requires_grad
    assert enlarge(maps).shape == (12, 32, 32) and enlarge(maps, (50, 40)).shape == (12, 50, 40)
    assert maps.abs().max() > 0


@pytest.mark.parametrize("size", [16, 32, 65])
@pytest.mark.parametrize("layer", ["conv2", "average"])
def test_before_pooling_and_a_linear_layer_the_places_add_up_to_the_logit(layer, size):
    network, images, classes = small_network(7), random_images(9, 7, size).images, torch.arange(9) % 7
    with torch.no_grad():
        logits = network.eval()(images / 255) - network.head.bias
    maps = class_activation_map(network, images, classes, network.get_submodule(layer))
    assert maps.sum((1, 2)).numpy() == pytest.approx(logits.gather(1, classes[:, None])[:, 0].numpy(), abs=1e-4)


def test_by_hand():
    """One channel, weights of 2 for class 0 and -1 for class 1: the map is the image times the weight / 4."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 0, 0])[None, :, None, None])
        network[3].weight.copy_(torch.tensor([[2.0], [-1.0]]))
    images = torch.zeros(2, 3, 2, 2)
    images[:, 0] = torch.tensor([[0.0, 0.2], [0.4, 1.0]])
    images[:, 1] = 0.7
    maps = class_activation_map(network, images, [0, 1], network[0])
    assert maps[0] == pytest.approx(images[0, 0] * 2 / 4) and maps[1] == pytest.approx(images[1, 0] * -1 / 4)


def test_each_image_is_explained_alone(case):
    network, images, classes = case
    layer = network.pool
    together = class_activation_map(network, images, classes, layer)
    alone = [class_activation_map(network, images[i : i + 1], classes[i : i + 1], layer) for i in range(12)]
    assert together.numpy() == pytest.approx(torch.cat(alone).numpy(), abs=1e-5)


def test_uint8_and_floats_and_every_kind_of_classes(case):
    network, images, classes = case
    expected = class_activation_map(network, images, classes, network.conv2)
    for same in (images / 255, (images / 255).double(), (images / 255).requires_grad_()):
        assert class_activation_map(network, same, classes, network.conv2).numpy() == pytest.approx(expected.numpy())
    for same in (classes.tolist(), classes.numpy(), classes.int(), tuple(classes.tolist())):
        assert torch.equal(class_activation_map(network, images, same, network.conv2), expected)


def test_it_points_at_what_decides():
    """Only the top left corner is not black: what supports a class or speaks against it can only come from there."""
    network = small_network()
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, :8, :8] = random_images(1).images[:, :, 12:20, 12:20] / 255
    maps, blank = (class_activation_map(network, x, [3], network.pool)[0] for x in (images, torch.zeros_like(images)))
    difference = (maps - blank).abs()
    assert difference[:6, :6].sum() > 0.9 * difference.sum() > 0


class TokensAt(nn.Module):
    """A layer whose output is replaced by something that is no image."""

    def __init__(self, change):
        super().__init__()
        self.network, self.layer, self.change = small_network(), nn.Identity(), change

    def forward(self, x):
        self.layer(x) if self.change is None else self.layer(self.change(x))
        return self.network(x)


def resnet18():
    resnet = torchvision.models.resnet18(num_classes=10)
    return resnet, [resnet.layer1, resnet.layer1[0].relu, resnet.layer2[0].bn2, resnet.conv1]


def mobilenet():
    mobile = torchvision.models.mobilenet_v3_small(num_classes=10)
    return mobile, [mobile.features[3], mobile.features[0][0]]


def transformer():
    model = Transformer()
    return model, [model.patches]


def compiled():
    network = small_network()
    compiled = torch.compile(network, backend="eager")
    return compiled, [compiled.conv2, network.pool]


NETWORKS = {make.__name__: make for make in (resnet18, mobilenet, transformer, compiled)}  # with layers to explain


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_any_network_is_explained_and_left_as_found(name, mode, frozen):
    torch.manual_seed(0)
    network, layers = NETWORKS[name]()
    network.train(mode)
    parameters = list(network.parameters())
    for p in parameters:
        p.requires_grad_(not frozen)
    parameters[0].grad = torch.ones_like(parameters[0])
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    images = random_images(4).images
    for layer in layers:
        with torch.no_grad():
            maps = class_activation_map(network, images, [0, 1, 2, 3], layer)
        with torch.inference_mode():
            again = class_activation_map(network, images, [0, 1, 2, 3], layer)
        assert torch.equal(maps, again) and maps.ndim == 3 and maps.isfinite().all() and maps.abs().max() > 0
        assert not layer._forward_hooks
    assert all(module.training == mode for module in network.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(p.grad is None for p in parameters[1:])
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(p.requires_grad is not frozen for p in parameters) and torch.equal(torch.get_rng_state(), state)


def test_of_a_layer_used_twice_the_last_use_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 10)

        def forward(self, x):
            return self.head(F.max_pool2d(self.convolution(self.convolution(x)), 32).flatten(1))

    network = Twice()
    maps = class_activation_map(network, random_images(2).images, [3, 4], network.convolution)
    assert ((maps != 0).sum((1, 2)) <= 3).all()  # only the places that max pooling takes


@pytest.mark.parametrize(
    "layer,match",
    [
        (lambda n: n.head, r"returns the shape \[12, 10\]; a class activation map needs"),
        (lambda n: n, r"returns the shape \[12, 10\]"),
        (lambda n: n.flatten, r"returns the shape \[12, 16\]"),
        (lambda n: nn.Conv2d(3, 8, 3), "this Conv2d is not a layer of the model"),
        (lambda n: "conv2", "this str is not a layer of the model"),
        (lambda n: None, "this NoneType is not a layer"),
        (lambda n: 2, "this int is not a layer"),
    ],
)
def test_layers_that_cannot_be_explained(case, layer, match):
    network, images, classes = case
    modes = [module.training for module in network.modules()]
    with pytest.raises(ValueError, match=match):
        class_activation_map(network, images, classes, layer(network))
    assert not any(module._forward_hooks for module in network.modules())
    assert [module.training for module in network.modules()] == modes


def test_the_tokens_of_a_transformer_are_named_by_their_shape():
    network = Transformer()
    with pytest.raises(
        ValueError, match=r"returns the shape \[4, 16, 16\].*in a transformer: the one that makes the p"
    ):
        class_activation_map(network, random_images(4).images, [0] * 4, network.block)


def test_layers_off_the_way_to_the_logits():
    images = random_images(4).images
    for change, match in (
        (None, "do not depend on this layer's output"),
        (lambda x: (x, x), "returns a tuple"),
        (lambda x: x[0], r"returns the shape \[3, 32, 32\]"),
    ):
        network = TokensAt(change)
        with pytest.raises(ValueError, match=match):
            class_activation_map(network, images, [0] * 4, network.layer)
        assert not network.layer._forward_hooks
    network = TokensAt(None)
    network.unused = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match="the model does not use this layer"):
        class_activation_map(network, images, [0] * 4, network.unused)


def test_a_network_that_computes_without_gradients():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small_network()

        def forward(self, x):
            with torch.no_grad():
                return self.network(x)

    network = Frozen()
    with pytest.raises(ValueError, match="or not by way of a gradient"):
        class_activation_map(network, random_images(4).images, [0] * 4, network.network.conv2)


def test_a_network_that_fails_loses_its_hook(case):
    network, images, classes = case
    network.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        class_activation_map(network, images, classes, network.conv2)
    assert not network.conv2._forward_hooks and all(module.training for module in network.modules())


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda x: x.float(), "go from 0 to 255 instead of 0 to 1"),
        (lambda x: x / 255 * 4 - 2, "give them before normalization"),
        (lambda x: torch.full(x.shape, torch.nan), "go from nan to nan"),
        (lambda x: x.long(), "have the type torch.int64"),
        (lambda x: x[0], r"images have the shape \[3, 32, 32\]"),
        (lambda x: x[:, :1], r"images have the shape \[12, 1, 32, 32\]"),
        (lambda x: x.permute(0, 2, 3, 1), r"images have the shape \[12, 32, 32, 3\]"),
        (lambda x: x[:0], r"images have the shape \[0, 3, 32, 32\]"),
        (lambda x: x.numpy(), r"images have .*; a tensor \[N, 3, height, width\] is needed"),
        (lambda x: None, "images have a NoneType"),
    ],
)
def test_images_that_are_refused(case, change, match):
    network, images, classes = case
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    with pytest.raises(ValueError, match=match):
        class_activation_map(network, change(images), classes, network.conv2)


@pytest.mark.parametrize(
    "classes",
    [[10] * 12, [-1] * 12, [0] * 11, 3, ["cat"] * 12, [0.5] * 12, None, [[0]] * 12, np.zeros(12), [True] * 12],
)
def test_classes_that_are_refused(case, classes):
    network, images, _ = case
    with pytest.raises(ValueError, match="classes must be 12 whole numbers from 0 to 9, one per image"):
        class_activation_map(network, images, classes, network.conv2)
