"""The policy: what it accepts, what it refuses and how, and what it turns into."""

import json
import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import policies
from torchvision.transforms import v2

from cifar_utils.augment import PRESETS, RANGES, Policy

FULL = PRESETS["full"]
PAIRS = ("translate", "scale")
NO_NUMBERS = {
    "nan": math.nan,
    "inf": math.inf,
    "huge int": 10**400,
    "text": "1",
    "None": None,
    "bool": True,
    "list": [],
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_every_range_are_legal(name):
    for end in RANGES[name]:
        value = (end, end) if name in PAIRS else end
        assert getattr(Policy(**{name: value}), name) == value


def test_numpys_numbers_are_numbers():
    policy = Policy(degrees=np.int64(10), scale=(np.float32(0.5), np.float64(1)), fill=np.uint8(3))
    assert policy == Policy(degrees=10, scale=(0.5, 1), fill=3)
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize("wrong", ["below", "above", *NO_NUMBERS])
@pytest.mark.parametrize("name", RANGES)
def test_illegal_numbers_are_refused_by_name_value_and_range(name, wrong):
    low, high = RANGES[name]
    number = {"below": low - 0.01, "above": high + 0.01, **NO_NUMBERS}[wrong]
    for value in [(number, high), (low, number), [number, number]] if name in PAIRS else [number]:
        with pytest.raises(ValueError) as error:
            Policy(**{name: value})
        for part in (f"Policy.{name} ", repr(value), f"from {low:g} to {high:g}"):
            assert part in str(error.value)


@pytest.mark.parametrize("value", [1.0, (), (1.0,), (1.0, 1.0, 1.0), "11", None, {1.0: 1.0}])
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_has_two_numbers(name, value):
    with pytest.raises(ValueError, match=f"Policy.{name} is .* must be two numbers"):
        Policy(**{name: value})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"scale": (1.1, 0.9)}, r"Policy.scale is \(1.1, 0.9\); the first number must not exceed the second"),
        ({"fill": 0.5}, "Policy.fill is 0.5; it must be a whole number from 0 to 255"),
        ({"interpolation": "cubic"}, "Policy.interpolation is 'cubic'; it must be 'bilinear' or 'nearest'"),
        ({"interpolation": None}, "Policy.interpolation is None; it must be 'bilinear' or 'nearest'"),
    ],
)
def test_other_refusals(values, message):
    with pytest.raises(ValueError, match=message):
        Policy(**values)


def test_a_policy_cannot_be_changed():
    with pytest.raises(AttributeError):
        FULL.degrees = 20


@given(policies())
def test_json_and_repr_lead_back(policy):
    assert Policy.from_json(policy.to_json()) == policy
    assert eval(repr(policy), {"Policy": Policy}) == policy


def test_json_names_every_field():
    assert set(json.loads(Policy().to_json())) == {f.name for f in fields(Policy)}
    assert Policy.from_json("{}") == Policy(), "what is left out is the default"


def test_equal_numbers_make_equal_policies():
    assert Policy(degrees=10, fill=7.0, scale=[1, 2]) == Policy(degrees=10.0, fill=7, scale=(1.0, 2.0))
    assert Policy(degrees=10, fill=7.0, scale=[1, 2]).to_json() == Policy(degrees=10.0, fill=7, scale=(1, 2)).to_json()
    assert Policy(degrees=-0.0).to_json() == Policy().to_json()
    assert len({Policy(degrees=10), Policy(degrees=10.0)}) == 1
    assert Policy(degrees=10) != Policy(degrees=11)


def test_repr_shows_what_differs_from_the_default():
    assert repr(Policy()) == "Policy()"
    assert repr(Policy(degrees=10, translate=(0, 0.1))) == "Policy(degrees=10.0, translate=(0.0, 0.1))"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Expecting value"),
        ("{degrees: 10}", "Expecting property name"),
        ("[1, 2]", "a JSON object is expected"),
        ("[]", "a JSON object is expected"),
        ('[["degrees", 10]]', "a JSON object is expected"),
        ('[{"degrees": 10}]', "a JSON object is expected"),
        ('"degrees"', "a JSON object is expected"),
        ("10", "a JSON object is expected"),
        ("null", "a JSON object is expected"),
        ('{"degree": 10, "angle": 1}', "unknown field angle, degree; the fields are flip_p, degrees, translate"),
        ('{"degrees": 200}', "Policy.degrees is 200"),
        ('{"degrees": NaN}', "Policy.degrees is nan"),
        ('{"translate": 0.1}', "Policy.translate is 0.1"),
        ('{"scale": [[1], 2]}', "Policy.scale is"),
        ('{"degrees": 10, "degrees": 20}', "a field appears twice"),
        ('{"degrees": 10, "fill": 0, "degrees": 10}', "a field appears twice"),
        ('{"degrees": {"degrees": 10}}', "Policy.degrees is"),
        ('{"translate": {}}', "Policy.translate is"),
        ('{"translate": {"x": 0.1, "y": 0.1}}', "Policy.translate is"),
        ('{"fill": 1' + "0" * 5000 + "}", "integer string conversion"),
        ('{"degrees": 1e999}', "Policy.degrees is inf"),
    ],
    ids=lambda value: value[:40],
)
def test_from_json_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        Policy.from_json(text)


@pytest.mark.parametrize("depth", [10, 100, 300, 600, 900, 1000, 100_000])
@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("around", ["%s", '{"degrees": %s}', '{"scale": [1, %s]}'])
def test_from_json_refuses_deep_nesting(around, opening, closing, depth):
    with pytest.raises(ValueError, match="not a policy|Policy.degrees|Policy.scale"):
        Policy.from_json(around % (opening * depth + "1" + closing * depth))


@given(st.text() | st.binary())
def test_from_json_gives_a_policy_or_a_value_error(text):
    try:
        assert isinstance(Policy.from_json(text), Policy)
    except ValueError:
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([f.name for f in fields(Policy)]), VALUES) | VALUES)
def test_from_json_of_any_json_gives_a_policy_or_a_value_error(value):
    try:
        assert isinstance(Policy.from_json(json.dumps(value)), Policy)
    except ValueError:
        pass


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    preset = PRESETS[name]
    assert Policy(**asdict(preset)) == preset, "legal"
    assert (preset.is_geometric or preset.changes_color) == (name != "none")


def test_presets_by_strength():
    assert list(PRESETS) == ["none", "flip_and_shift", "light", "full", "strong"], "the weakest first"
    assert PRESETS["full"] == FULL
    assert PRESETS["light"].degrees < FULL.degrees < PRESETS["strong"].degrees


@pytest.mark.parametrize(
    "changes, is_geometric, changes_color",
    [
        ({}, False, False),
        ({"fill": 128, "interpolation": "nearest"}, False, False),
        ({"flip_p": 0.1}, True, False),
        ({"degrees": 1}, True, False),
        ({"translate": (0, 0.1)}, True, False),
        ({"scale": (1, 1.1)}, True, False),
        ({"scale": (0.9, 0.9)}, True, False),
        ({"shear": 1}, True, False),
        ({"distortion_scale": 0.5}, False, False),
        ({"perspective_p": 0.5}, False, False),
        ({"distortion_scale": 0.5, "perspective_p": 0.5}, True, False),
        ({"brightness": 0.1}, False, True),
        ({"contrast": 0.1}, False, True),
        ({"saturation": 0.1}, False, True),
    ],
)
def test_whether_pixels_move_and_colors_change(changes, is_geometric, changes_color):
    policy = Policy(**changes)
    assert (policy.is_geometric, policy.changes_color) == (is_geometric, changes_color)


@given(policies(), st.floats(0, allow_infinity=False))
def test_scaled_is_always_legal_and_keeps_the_probabilities(policy, strength):
    scaled = policy.scaled(strength)
    for name in ("flip_p", "perspective_p", "fill", "interpolation"):
        assert getattr(scaled, name) == getattr(policy, name)
    assert scaled.scale == (1, 1) or policy.scale != (1, 1)


@given(policies())
def test_scaled_by_0_and_1(policy):
    assert policy.scaled(1) == policy
    nothing = policy.scaled(0)
    assert not replace(nothing, flip_p=0.0).is_geometric and not nothing.changes_color
    assert nothing.flip_p == policy.flip_p


def test_scaled_by_half_and_double():
    assert FULL.scaled(0.5) == replace(
        FULL,
        degrees=5,
        translate=(0.05, 0.05),
        scale=(0.95, 1.05),
        distortion_scale=0.1,
        brightness=0.1,
        contrast=0.1,
        saturation=0.1,
    )
    assert FULL.scaled(2).scale == (pytest.approx(0.8), pytest.approx(1.2))
    assert FULL.scaled(1000).degrees == 180


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf, "1", None, True])
def test_scaled_refuses(strength):
    with pytest.raises(ValueError, match="strength is .* at least 0"):
        FULL.scaled(strength)


@pytest.mark.parametrize(
    "changes, transforms",
    [
        ({}, ["Identity"]),
        ({"flip_p": 0.5}, ["RandomHorizontalFlip"]),
        ({"degrees": 5}, ["RandomAffine"]),
        ({"translate": (0, 0.1)}, ["RandomAffine"]),
        ({"scale": (0.9, 0.9)}, ["RandomAffine"]),
        ({"shear": 5}, ["RandomAffine"]),
        ({"distortion_scale": 0.5}, ["Identity"]),
        ({"distortion_scale": 0.5, "perspective_p": 1}, ["RandomPerspective"]),
        ({"saturation": 0.1}, ["ColorJitter"]),
        (asdict(FULL), ["RandomHorizontalFlip", "RandomAffine", "RandomPerspective", "ColorJitter"]),
    ],
)
def test_to_torchvision_has_the_needed_transforms_and_no_other(changes, transforms):
    assert [type(t).__name__ for t in Policy(**changes).to_torchvision().transforms] == transforms


def test_to_torchvision_hands_every_number_over():
    policy = replace(
        FULL, flip_p=0.3, translate=(0.1, 0.2), shear=7, fill=9, interpolation="nearest", contrast=0.3, saturation=2
    )
    flip, affine, perspective, jitter = policy.to_torchvision().transforms
    nearest = v2.InterpolationMode.NEAREST
    assert flip.p == 0.3
    assert (affine.degrees, affine.translate, affine.scale) == ([-10, 10], (0.1, 0.2), (0.9, 1.1))
    assert (affine.shear, affine.interpolation, affine.fill) == ([-7, 7], nearest, 9)
    assert (perspective.distortion_scale, perspective.p) == (0.2, 0.5)
    assert (perspective.interpolation, perspective.fill) == (nearest, 9)
    assert (jitter.brightness, jitter.contrast, jitter.saturation) == ((0.8, 1.2), (0.7, 1.3), (0, 3))
    assert jitter.hue is None


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill", [0, 255])
def test_to_torchvision_takes_pil_images_and_tensors(interpolation, fill):
    transform = replace(PRESETS["strong"], shear=10, interpolation=interpolation, fill=fill).to_torchvision()
    torch.manual_seed(0)
    for _ in range(5):
        assert transform(Image.new("RGB", (32, 32), "teal")).size == (32, 32)
        tensor = transform(torch.full((3, 32, 32), 99, dtype=torch.uint8))
        assert (tensor.shape, tensor.dtype) == ((3, 32, 32), torch.uint8)
