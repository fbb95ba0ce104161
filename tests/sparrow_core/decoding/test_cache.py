"""Rooms, commits, rollbacks and the self-check of the KV cache.

Shape letters: G KV heads, K 2: keys and values, L layers, R rows of a pass, S slots of a sequence, d head size.
"""

import random

import pytest
import torch

from sparrow_core.decoding.cache import CacheShape, KVArena, KVCache, _Lease
from sparrow_core.errors import ConfigError

SHAPE = CacheShape(2, 2, 4, torch.device("cpu"), torch.float32)


def write(cache: KVCache, values: list[float]) -> torch.Tensor:
    """One pass that writes one number per row into all layers; returns the numbers that its rows then see."""
    new_LKGRd, so_far_LKGSd = cache.extend(len(values))
    new_LKGRd[:, 0] = torch.tensor(values)[:, None]
    new_LKGRd[:, 1] = -torch.tensor(values)[:, None]
    assert torch.equal(so_far_LKGSd[:, 0], -so_far_LKGSd[:, 1])
    return so_far_LKGSd[-1, 0, 0, :, 0]


def new_cache() -> KVCache:
    return SHAPE.cache(8)


def test_commit_gathers_the_accepted_rows_in_every_layer() -> None:
    cache = new_cache()
    write(cache, [1, 2])
    cache.commit([0, 1])
    assert write(cache, [3, 4, 5, 6]).tolist() == [1, 2, 3, 4, 5, 6]
    cache.commit([0, 2, 3])
    assert (cache.length, cache.pending) == (5, 0)
    assert cache.data_LKGSd[:, 0, :, :5, 0].flatten(0, 1).tolist() == [[1, 2, 3, 5, 6]] * 4
    assert cache.data_LKGSd[:, 1, :, :5, 0].flatten(0, 1).tolist() == [[-1, -2, -3, -5, -6]] * 4


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
    assert [cache.data_LKGSd.unique().tolist() for cache in (first, second, third)] == [[0], [-1, 1], [-2, 2]]
    first.release()
    third.release()
    assert arena.gaps == [6, 6]
    with pytest.raises(ConfigError, match="no room of 7 slots; its widest is 6"):
        arena.lease(7)
    second.release()
    assert arena.gaps == [20]
    assert arena.lease(20).capacity == 20


def test_check_passes_in_every_state_of_an_arena() -> None:
    arena = KVArena(SHAPE, 20)
    caches: list[KVCache] = []
    rng = random.Random(0)
    for _ in range(300):
        size = rng.randint(1, 8)
        if max(arena.gaps, default=0) >= size:
            caches.append(arena.lease(size))
            write(caches[-1], [1.0] * size)
        elif caches:
            caches.pop(rng.randrange(len(caches))).release()
        arena.check()
        assert arena.num_leases == len(caches)


def test_a_room_given_back_twice_is_found() -> None:
    arena = KVArena(SHAPE, 20)
    first = arena.lease(6)
    first.release()
    arena.lease(6)  # the same slots, which the second release must not free
    with pytest.raises(AssertionError, match="given back twice"):
        first.release()
    arena.check()
    assert arena.gaps == [14]


def test_a_leak_and_an_overlap_are_found() -> None:
    arena = KVArena(SHAPE, 20)
    cache, _ = arena.lease(6), arena.lease(14)
    del arena._leases[0]
    with pytest.raises(AssertionError, match=r"slots \[0, 6\) are neither leased nor free"):
        arena.check()
    arena._leases[0] = _Lease(0, cache)
    arena._gaps = [(4, 2)]
    with pytest.raises(AssertionError, match=r"slots \[4, 6\) belong to two"):
        arena.check()
    arena._gaps = []
    del arena._leases[1]
    with pytest.raises(AssertionError, match="end at slot 6 of an arena of 20"):
        arena.check()


def test_gaps_that_were_not_merged_or_sorted_are_found() -> None:
    arena = KVArena(SHAPE, 20)
    arena._gaps = [(0, 8), (8, 12)]
    with pytest.raises(AssertionError, match="two gaps of the arena meet at slot 8"):
        arena.check()
    arena._gaps = [(8, 12), (0, 8)]
    with pytest.raises(AssertionError, match="out of order"):
        arena.check()


@pytest.mark.parametrize(
    ("length", "pending", "prompt_length", "message"),
    [
        (9, 0, None, "9 committed and 0 pending slots, more than the 8 of its room"),
        (5, 4, None, "5 committed and 4 pending slots, more than the 8 of its room"),
        (3, -1, None, "3 committed and -1 pending slots"),
        (3, 0, 4, "a prompt of 4 slots, but 3 committed"),
    ],
)
def test_lengths_that_cannot_be_are_found(length: int, pending: int, prompt_length: int | None, message: str) -> None:
    """Also in a cache that an arena has leased."""
    arena = KVArena(SHAPE, 20)
    cache = arena.lease(8)
    cache.length, cache.pending, cache.prompt_length = length, pending, prompt_length
    for check in (cache.check, arena.check):
        with pytest.raises(AssertionError, match=message):
            check()


def test_what_was_generated_is_forgotten_with_what_is_pending() -> None:
    cache = new_cache()
    write(cache, [1, 2])
    cache.commit([0, 1])
    cache.seal_prompt()
    write(cache, [3])
    cache.commit([0])
    write(cache, [4, 5])
    cache.forget_generated()
    assert (cache.length, cache.pending) == (2, 0)
    assert write(cache, [6]).tolist() == [1, 2, 6]


def test_a_room_is_leased_in_the_first_gap_that_holds_it() -> None:
    arena = KVArena(SHAPE, 30)
    rooms = [arena.lease(size) for size in (4, 2, 8, 2, 8)]
    for index in (0, 2, 4):
        rooms[index].release()
    assert arena.gaps == [4, 8, 14]
    arena.lease(5)
    assert arena.gaps == [4, 3, 14]
    arena.lease(4)
    assert arena.gaps == [3, 14]
