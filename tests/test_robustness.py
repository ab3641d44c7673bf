"""Corruptions of fixed severity: against torchvision, and what must not matter."""

import numpy as np
import pytest
import torch
from tables import random_images, small_network
from torchvision.transforms.v2 import functional as tv

from cifar_utils.evaluation import robustness
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.metrics import proportion
from cifar_utils.evaluation.robustness import CORRUPTIONS, corrupt, predict_corrupted, robustness_curve


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size,classes", [(32, 10), (20, 3), (65, 100)])
def test_the_neutral_severity_changes_nothing(name, size, classes):
    dataset, network, how = random_images(12, classes, size), small_network(classes), CORRUPTIONS[name]
    assert how.neutral in how.severities
    assert list(how.severities) == sorted(set(how.severities))
    p = predict_corrupted(network, dataset, name, how.neutral)
    assert p.probabilities == pytest.approx(predict(network, dataset).probabilities, abs=1e-3)
    assert (p.classes, p.source, p.split) == (dataset.classes, "made up", "test")
    assert p.model == predict(network, dataset).model


@pytest.mark.parametrize(
    "name,severity,reference",
    [
        ("rotation", 30, lambda x: tv.rotate(x, -30, tv.InterpolationMode.BILINEAR)),  # torchvision's: anticlockwise
        ("translation", 8, lambda x: tv.affine(x, 0, [8 * x.shape[-1] // 32, 0], 1, [0])),
        ("translation", -4, lambda x: tv.affine(x, 0, [-4 * x.shape[-1] // 32, 0], 1, [0])),
        ("scale", 1.5, lambda x: tv.affine(x, 0, [0, 0], 1.5, [0], tv.InterpolationMode.BILINEAR)),
        ("brightness", 1.5, lambda x: tv.adjust_brightness(x, 1.5)),
        ("contrast", 0.3, lambda x: tv.adjust_contrast(x, 0.3)),
        ("saturation", 0, lambda x: tv.adjust_saturation(x, 0)),
    ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_torchvision_agrees(name, severity, reference, size):
    dataset = random_images(size=size)
    images = corrupt(dataset, name, severity)
    assert images.dtype == torch.float32 and images.shape == dataset.images.shape
    np.testing.assert_allclose(images.numpy(), reference(dataset.images / 255).numpy(), atol=3e-3)


def test_perspective_distorts_more_and_more_and_each_image_always_alike():
    dataset, distances = random_images(), []
    for severity in CORRUPTIONS["perspective"].severities:
        together = corrupt(dataset, "perspective", severity)
        alone = corrupt(dataset.select([7]), "perspective", severity)
        assert torch.equal(together[7], alone[0])
        distances.append((together - dataset.images / 255).abs().mean().item())
    assert distances[0] < 1e-6 and distances == sorted(distances)


@pytest.mark.parametrize("batch_size", [1, 7, 10**12])
def test_the_batch_size_does_not_matter(batch_size, monkeypatch):
    arguments = small_network(), random_images(), "perspective", 0.6
    expected = predict_corrupted(*arguments).probabilities
    monkeypatch.setattr(robustness, "checked_batch_size", lambda *_: batch_size)
    assert predict_corrupted(*arguments).probabilities == pytest.approx(expected, abs=1e-5)


def test_the_curve_is_the_accuracy_at_each_severity():
    network, dataset = small_network(), random_images(30)
    curve = robustness_curve(network, dataset, "rotation")
    assert curve.dtype == np.float64 and curve[:, 0].tolist() == list(CORRUPTIONS["rotation"].severities)
    for severity, *values in curve:
        assert values == [*proportion(predict_corrupted(network, dataset, "rotation", severity).correct)]


def test_everything_is_left_as_found():
    dataset, network = random_images(), small_network()
    before, random_state = dataset.images.clone(), torch.get_rng_state()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict_corrupted(network, dataset, "contrast", 3)
    assert torch.equal(dataset.images, before) and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    "name,severity,match",
    [
        ("blur", 1, "no corruption 'blur'; one of rotation, translation"),
        ("rotation", 61, r"severity of rotation is 61; it must be from -60 to 60 \(degrees, clockwise\)"),
        ("scale", 0, "must be from 0.5 to 2"),
        ("brightness", -1, "must be from 0.1 to 3"),
        ("contrast", float("nan"), "severity of contrast is nan"),
        ("saturation", "strong", "severity of saturation is 'strong'"),
        ("perspective", None, "severity of perspective is None"),
    ],
)
def test_unknown_corruptions_and_severities_are_refused(name, severity, match):
    with pytest.raises(ValueError, match=match):
        corrupt(random_images(), name, severity)
    with pytest.raises(ValueError, match=match):
        predict_corrupted(small_network(), random_images(), name, severity)


def test_a_dataset_and_a_network_are_needed():
    with pytest.raises(ValueError, match="a data.Dataset is needed"):
        corrupt(random_images().images, "rotation", 15)
    with pytest.raises(ValueError, match="a data.Dataset is needed"):
        robustness_curve(small_network(), random_images().images, "rotation")
    with pytest.raises(ValueError, match="a torch.nn.Module is needed"):
        predict_corrupted("runs/mine", random_images(), "rotation", 15)
    with pytest.raises(ValueError, match="no corruption 'blur'"):
        robustness_curve(small_network(), random_images(), "blur")
