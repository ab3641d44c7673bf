"""Fixed changes of the test images: against torchvision, and what must not matter."""

import pytest
import torch
from tiny import narrow, tiny
from torchvision.transforms.v2 import functional as tv

from cifar_utils.data import Normalisation
from cifar_utils.evaluation import proportion
from cifar_utils.predictions import predict
from cifar_utils.preview import PLAIN
from cifar_utils.robustness import CHANGES, changed_images, predict_changed, robustness_curve


@pytest.fixture(scope="module")
def network():
    network = narrow()
    with torch.no_grad():
        for _ in range(3):
            network(Normalisation.of(tiny())(tiny().images))
    return network


@pytest.mark.parametrize("change", CHANGES)
def test_the_neutral_amount_changes_nothing(network, change):
    split, normalisation = tiny(20, "test"), Normalisation.of(tiny())
    assert CHANGES[change].neutral in CHANGES[change].amounts
    assert list(CHANGES[change].amounts) == sorted(set(CHANGES[change].amounts))
    p = predict_changed(network, split, normalisation, change, CHANGES[change].neutral)
    assert p.probabilities == pytest.approx(predict(network, split, normalisation).probabilities, abs=1e-4)


@pytest.mark.parametrize(
    "change,amount,reference",
    [
        (
            "rotation",
            30,
            lambda x: tv.rotate(x, -30, tv.InterpolationMode.BILINEAR),
        ),  # torchvision's rotate: anticlockwise
        ("translation", 8, lambda x: tv.affine(x, 0, [8, 0], 1, [0])),
        ("translation", -4, lambda x: tv.affine(x, 0, [-4, 0], 1, [0])),
        ("scale", 1.5, lambda x: tv.affine(x, 0, [0, 0], 1.5, [0], tv.InterpolationMode.BILINEAR)),
        ("brightness", 1.5, lambda x: tv.adjust_brightness(x, 1.5)),
        ("contrast", 0.3, lambda x: tv.adjust_contrast(x, 0.3)),
        ("saturation", 0, lambda x: tv.adjust_saturation(x, 0)),
    ],
)
def test_torchvision_agrees(change, amount, reference):
    split = tiny(20, "test")
    images = changed_images(split, PLAIN, change, amount)
    assert images.numpy() == pytest.approx(reference(split.images / 255).numpy(), abs=2e-3)


def test_perspective_distorts_more_and_more_and_each_image_always_alike():
    split, distances = tiny(20, "test"), []
    for amount in CHANGES["perspective"].amounts:
        together = changed_images(split, PLAIN, "perspective", amount)
        alone = changed_images(split.select(torch.tensor([7])), PLAIN, "perspective", amount)
        assert torch.allclose(together[7], alone[0], atol=1e-5)
        distances.append((together - split.images / 255).abs().mean().item())
    assert distances[0] < 1e-6 and distances == sorted(distances)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(network, batch_size):
    arguments = network, tiny(20, "test"), Normalisation.of(tiny()), "perspective", 0.6
    assert predict_changed(*arguments, batch_size).probabilities == pytest.approx(
        predict_changed(*arguments).probabilities, abs=1e-5
    )


def test_the_curve_is_the_accuracy_at_each_amount(network):
    split, normalisation = tiny(30, "test"), Normalisation.of(tiny())
    curve = robustness_curve(network, split, normalisation, "rotation", batch_size=8)
    assert curve[:, 0].tolist() == list(CHANGES["rotation"].amounts)
    for amount, *values in curve:
        assert values == [*proportion(predict_changed(network, split, normalisation, "rotation", amount).correct)]


def test_the_images_stay_as_they_are(network):
    split = tiny(20, "test")
    before = split.images.clone()
    predict_changed(network, split, Normalisation.of(tiny()), "contrast", 3)
    assert torch.equal(split.images, before)
