"""Class activation maps: exact after the last block, and where they point."""

import pytest
import torch
from tiny import narrow, tiny

from cifar_utils.data import Normalisation
from cifar_utils.saliency import class_activation_map, enlarged


@pytest.fixture
def case():
    network, images = narrow(), Normalisation.of(tiny())(tiny(12).images)
    with torch.no_grad():
        for p in network.blocks.parameters():  # a new network copies a pixel into all windows that see it: ties
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
        network(images)
    return network, images, torch.arange(12) % 10


@pytest.mark.parametrize("block,size", [(1, 15), (2, 7), (3, 3)])
def test_the_shape(case, block, size):
    maps = class_activation_map(*case, block)
    assert maps.shape == (12, size, size) and maps.dtype == torch.float32 and not maps.requires_grad
    assert enlarged(maps).shape == (12, 32, 32) and maps.abs().max() > 0


def test_after_the_last_block_the_places_add_up_to_the_logit(case):
    network, images, classes = case
    with torch.no_grad():
        logits = network.eval()(images).gather(1, classes[:, None])[:, 0]
    assert class_activation_map(network, images, classes, 3).sum((1, 2)).numpy() == pytest.approx(
        logits.numpy(), abs=1e-5
    )


def test_each_image_is_explained_alone(case):
    network, images, classes = case
    together = class_activation_map(network, images, classes)
    alone = torch.cat([class_activation_map(network, images[i : i + 1], classes[i : i + 1]) for i in range(12)])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


def test_it_points_at_what_decides():
    """Only the top left corner is not grey: what speaks for or against a class can only come from there."""
    network = narrow()
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, :8, :8] = Normalisation.of(tiny())(tiny(1).images)[:, :, 12:20, 12:20]
    with torch.no_grad():
        network(torch.cat([images, torch.zeros_like(images)]))
    map_ = class_activation_map(network, images, torch.tensor([3]), block=1)[0].abs()
    blank = class_activation_map(network, torch.zeros_like(images), torch.tensor([3]), block=1)[0]
    difference = (class_activation_map(network, images, torch.tensor([3]), block=1)[0] - blank).abs()
    assert map_.isfinite().all()
    assert difference[:6, :6].sum() > 0.5 * difference.sum()


@pytest.mark.parametrize("mode", [True, False])
def test_the_network_is_left_as_found(case, mode):
    network, images, classes = case
    network.train(mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        class_activation_map(network, images, classes)
    assert all(module.training == mode for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("block", [0, 4, "2"])
def test_there_are_three_blocks(case, block):
    with pytest.raises(ValueError, match="has blocks 1, 2 and 3"):
        class_activation_map(*case, block)
