"""Room, commit and rollback of the KV cache."""

import pytest
import torch

from sparrow_core.decoding.cache import CacheShape, KVArena, KVCache
from sparrow_core.errors import ConfigError

SHAPE = CacheShape(2, 2, 4, torch.device("cpu"), torch.float32)


def write(cache: KVCache, values: list[float]) -> torch.Tensor:
    """One pass that writes one number per row into all layers; returns what they then see."""
    new_LKGRD, so_far_LKGSD = cache.extend(len(values))
    new_LKGRD[:, 0] = torch.tensor(values)[:, None]
    new_LKGRD[:, 1] = -torch.tensor(values)[:, None]
    assert torch.equal(so_far_LKGSD[:, 0], -so_far_LKGSD[:, 1])
    return so_far_LKGSD[-1, 0, 0, :, 0]


def new_cache() -> KVCache:
    return SHAPE.cache(8)


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


def test_arena_rooms_do_not_touch_and_come_back() -> None:
    arena = KVArena(SHAPE, 20)
    first, second, third = (arena.lease(size) for size in (6, 8, 6))
    assert arena.gaps == []
    for number, cache in enumerate((first, second, third)):
        write(cache, [float(number)] * cache.capacity)
    assert [cache.data_LKGSD.unique().tolist() for cache in (first, second, third)] == [[0], [-1, 1], [-2, 2]]
    first.release()
    third.release()
    assert arena.gaps == [6, 6]
    with pytest.raises(ConfigError, match="no room of 7 slots; its widest is 6"):
        arena.lease(7)
    second.release()
    assert arena.gaps == [20]
    assert arena.lease(20).capacity == 20
