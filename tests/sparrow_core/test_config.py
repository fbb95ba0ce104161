"""Values that settings refuse."""

import pytest

from sparrow_core.config import PrefillConfig, Sampling
from sparrow_core.errors import ConfigError


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [("chunk_tokens", 0, r"prefill\.chunk_tokens=0"), ("slice_ms", -1, r"prefill\.slice_ms=-1")],
)
def test_values_out_of_range_are_named(knob: str, value: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrefillConfig(**{knob: value})


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [("temperature", -1, "temperature=-1"), ("top_p", 0.0, r"top_p=0\.0"), ("top_k", -2, "top_k=-2")],
)
def test_sampling_out_of_range_is_named(knob: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**{knob: value})
