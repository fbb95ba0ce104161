"""The notation of the commands for numbers of windows by visual length."""

import pytest

from demo.windows import window_counts


def test_lengths_with_and_without_a_number() -> None:
    assert window_counts("64,25000:1", default=4) == {64: 4, 25000: 1}


@pytest.mark.parametrize("text", ["64", "64:0", "65:1", "many:1", ""])
def test_what_is_no_such_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        window_counts(text)
