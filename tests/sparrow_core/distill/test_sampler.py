"""Batches depend on (seed, step) alone, and every epoch reads each example once."""

from sparrow_core.distill.sampler import ExampleSampler, shows_bridge


def test_each_epoch_reads_every_example_once_across_batch_borders() -> None:
    sampler = ExampleSampler(num_examples=10, batch_size=4, seed=3)
    read = [example for step in range(5) for example in sampler.batch(step)]
    assert sorted(read[:10]) == list(range(10)) and sorted(read[10:]) == list(range(10))
    assert read[:10] != read[10:]


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    fresh = [ExampleSampler(7, 3, seed=1).batch(step) for step in (9, 2, 5)]
    used = ExampleSampler(7, 3, seed=1)
    for step in range(12):
        used.batch(step)
    assert [used.batch(step) for step in (9, 2, 5)] == fresh
    assert ExampleSampler(7, 3, seed=2).batch(9) != fresh[0]


def test_a_batch_may_be_larger_than_the_set() -> None:
    batch = ExampleSampler(num_examples=2, batch_size=5, seed=0).batch(0)
    assert sorted(batch[:2]) == [0, 1] and sorted(batch[2:4]) == [0, 1]


def test_bridge_share() -> None:
    shown = [flag for step in range(200) for flag in shows_bridge(0, step, 8, 0.25)]
    # 1,600 draws at 0.25: five standard deviations are 0.054.
    assert abs(sum(shown) / len(shown) - 0.25) < 0.054
    assert shows_bridge(0, 7, 8, 0.25) == shows_bridge(0, 7, 8, 0.25)
    assert not any(shows_bridge(0, 1, 8, 0.0)) and all(shows_bridge(0, 1, 8, 1.0))
