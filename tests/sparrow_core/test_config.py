"""Arithmetic that belongs to the knobs themselves."""

import pytest

from sparrow_core.config import PrefillConfig
from sparrow_core.errors import ConfigError


def test_chunks_cover_a_prompt_and_shrink_as_it_grows() -> None:
    config = PrefillConfig(chunk_tokens=256, chunk_pairs=2**20)
    assert config.bounds(300) == [(0, 256), (256, 300)]
    bounds = config.bounds(25_300)
    assert [start for start, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, 25_300)
    sizes = [end - start for start, end in bounds[:-1]]
    assert sizes == sorted(sizes, reverse=True) and set(sizes) == {256, 128, 64, 32}
    assert all((end - start) * end <= 2**20 for start, end in bounds)


def test_chunks_do_not_depend_on_what_follows() -> None:
    config = PrefillConfig()
    assert config.bounds(9000)[:-1] == config.bounds(20_000)[: len(config.bounds(9000)) - 1]


def test_the_smallest_chunk_is_kept_however_long_the_prompt() -> None:
    assert {end - start for start, end in PrefillConfig(64, 1).bounds(64)} == {16}
    with pytest.raises(ConfigError, match=r"prefill\.chunk_tokens=0"):
        PrefillConfig(chunk_tokens=0)
