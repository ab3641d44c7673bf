"""Identity (Dirac) initialization: new convolutions pass their input through."""

import pytest
import torch
from speedrun_networks import make
from torch import nn

from cifar_utils.models import SmallCNN
from cifar_utils.speedrun.dirac import identity_
from cifar_utils.speedrun.mirror import MirrorConv2d


@pytest.mark.parametrize("channels_in,channels_out", [(4, 4), (24, 64)])
def test_a_new_convolution_passes_its_input_through(channels_in, channels_out):
    images = torch.randn(2, channels_in, 5, 5)
    out = identity_(nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False))(images)
    assert out.shape == (2, channels_out, 5, 5)
    torch.testing.assert_close(out[:, :channels_in], images)
    out, half = identity_(MirrorConv2d(channels_in, channels_out))(images), channels_in // 2
    assert out.shape == (2, channels_out, 5, 5)
    torch.testing.assert_close(out[:, :half], images[:, :half])
    torch.testing.assert_close(out[:, channels_out // 2 :][:, :half], images[:, half:])


def test_fewer_outputs_than_inputs_copy_the_first_ones():
    images = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(identity_(nn.Conv2d(8, 3, 3, padding=1, bias=False))(images), images[:, :3])


def test_a_whole_network_of_your_own():
    network = SmallCNN(widths=(8, 16, 16))
    assert identity_(network) is network
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.blocks[0][0](images)[:, :3], images)


@pytest.mark.parametrize("options", [{"stride": 2}, {"kernel_size": 2}, {"groups": 2}])
def test_other_layers_stay_as_they_are(options):
    layer = nn.Conv2d(4, 4, **{"kernel_size": 3} | options)
    before = layer.weight.clone()
    assert torch.equal(identity_(layer).weight, before)
    frozen = nn.Conv2d(4, 4, 3).requires_grad_(False)
    before = frozen.weight.clone()
    assert torch.equal(identity_(frozen).weight, before)


def test_networks_without_convolutions():
    identity_(make("linear"))
