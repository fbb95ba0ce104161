"""Room, commit and rollback of the KV cache."""

import pytest
import torch

from sparrow_core.decoding.cache import KVCache
from sparrow_core.errors import ConfigError

CPU = torch.device("cpu")


def write(cache: KVCache, values: list[float]) -> torch.Tensor:
    """One pass that writes one number per row into both layers; returns what the last layer then sees."""
    cache.extend(len(values))
    rows = torch.tensor(values)[None, None, :, None].expand(1, 2, -1, 4)
    for layer in range(2):
        keys, seen = cache.update(rows, -rows, layer)
        assert torch.equal(keys, -seen)
    return keys[0, 0, :, 0]


def new_cache() -> KVCache:
    return KVCache(2, 2, 4, 8, device=CPU, dtype=torch.float32)


def test_commit_gathers_the_accepted_rows_in_every_layer() -> None:
    cache = new_cache()
    write(cache, [1, 2])
    cache.commit([0, 1])
    assert write(cache, [3, 4, 5, 6]).tolist() == [1, 2, 3, 4, 5, 6]
    cache.commit([0, 2, 3])
    assert (cache.length, cache.pending) == (5, 0)
    assert cache.data_LKGSD[:, 0, :, :5, 0].flatten(0, 1).tolist() == [[1, 2, 3, 5, 6]] * 4
    assert cache.data_LKGSD[:, 1, :, :5, 0].flatten(0, 1).tolist() == [[-1, -2, -3, -5, -6]] * 4


def test_passes_stack_up_until_rolled_back() -> None:
    cache = new_cache()
    write(cache, [1])
    cache.commit([0])
    write(cache, [2, 3])
    assert write(cache, [4]).tolist() == [1, 2, 3, 4]
    cache.rollback()
    assert write(cache, [9]).tolist() == [1, 9]


def test_exhausted_room_names_the_setting() -> None:
    cache = new_cache()
    cache.extend(6)
    with pytest.raises(ConfigError, match=r"needs 9 cache slots but has 8; raise engine\.max_model_tokens"):
        cache.extend(3)


def test_reset_keeps_the_room() -> None:
    cache = new_cache()
    address = cache.data_LKGSD.data_ptr()
    write(cache, [1, 2, 3])
    cache.commit([0, 1, 2])
    cache.reset()
    assert (cache.length, cache.pending, cache.data_LKGSD.data_ptr()) == (0, 0, address)
