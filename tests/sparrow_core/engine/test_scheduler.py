"""Which request joins and whose prompt is prefilled next."""

from sparrow_core.engine.scheduler import Prefilling, can_join, next_to_prefill


def test_joining_needs_a_free_sequence_and_one_gap_that_is_wide_enough() -> None:
    assert can_join(10, gaps=[4, 10], num_active=1, max_sequences=2)
    assert not can_join(11, gaps=[10, 10], num_active=1, max_sequences=2)
    assert not can_join(1, gaps=[10], num_active=2, max_sequences=2)


def test_prompts_are_prefilled_in_turn() -> None:
    left, served, order = [3, 1, 2], [0, 0, 0], []
    for step in range(1, 7):
        unfinished = [index for index in range(3) if left[index]]
        chosen = unfinished[next_to_prefill([Prefilling(served[i], left[i]) for i in unfinished])]
        left[chosen] -= 1
        served[chosen] = step
        order.append(chosen)
    assert order == [1, 2, 0, 2, 0, 0]
