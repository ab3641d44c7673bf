"""What hypothesis draws from."""

from hypothesis import strategies as st

from cifar_utils.policy import RANGES, Policy


def numbers(name: str) -> st.SearchStrategy:
    """A legal number of this field of a Policy, its two ends more often than chance would have it."""
    low, high = RANGES[name]
    inner = st.integers(low, high) if name == "fill" else st.floats(low, high)
    return st.sampled_from([low, high]) | inner


def policies() -> st.SearchStrategy[Policy]:
    """Every legal policy."""
    plain = {name: numbers(name) for name in RANGES if name not in ("translate", "scale")}
    pair = {name: st.tuples(numbers(name), numbers(name)) for name in ("translate", "scale")}
    return st.builds(
        Policy,
        **plain,
        translate=pair["translate"],
        scale=pair["scale"].map(lambda s: (min(s), max(s))),
        interpolation=st.sampled_from(["bilinear", "nearest"]),
    )
