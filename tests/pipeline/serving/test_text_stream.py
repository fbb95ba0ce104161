"""Streamed pieces add up to the decoded whole and never contain half a character."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.serving.text_stream import REPLACEMENT, TextStream


def decode_bytes(token_ids: tuple[int, ...]) -> str:
    """A tokenizer whose tokens are bytes: every character beyond ASCII takes several."""
    return bytes(token_ids).decode(errors="replace")


def pieces_of(
    token_ids: list[int], sizes: list[int], decode: Callable[[tuple[int, ...]], str] = decode_bytes
) -> list[str]:
    stream, pieces, taken = TextStream(decode), [], 0
    for size in sizes:
        pieces.append(stream.add(token_ids[taken : taken + size]))
        taken += size
    return [*pieces, stream.finish()]


def test_characters_appear_when_they_are_complete() -> None:
    assert pieces_of(list("aé€".encode()), [1] * 6) == ["a", "", "é", "", "", "€", ""]


def test_what_is_broken_at_the_end_is_shown_at_the_end() -> None:
    assert pieces_of([ord("a"), 0xE2, 0x82], [1, 1, 1]) == ["a", "", "", REPLACEMENT]


@pytest.mark.parametrize("seed", range(20))
def test_any_split_of_any_text_adds_up(seed: int) -> None:
    generator = random.Random(seed)
    token_ids = list("a red square é 红色 🟥 naïve".encode() * 3)
    for _ in range(generator.randrange(4)):  # bytes that are invalid UTF-8
        token_ids.insert(generator.randrange(len(token_ids)), generator.choice((0xFF, 0x80, 0xE2)))
    sizes = [generator.randint(0, 5) for _ in token_ids]
    assert "".join(pieces_of(token_ids, sizes)) == decode_bytes(tuple(token_ids))


def test_valid_text_never_shows_the_replacement_character(tiny_checkpoint: Path) -> None:
    """A byte-level tokenizer, on characters that it has no token for."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    text = "two blue circles, 二つの青い円 🔵🔵 appear é then vanish"
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(ids: tuple[int, ...]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    pieces = pieces_of([*token_ids, tokenizer.eos_token_id], [1] * (len(token_ids) + 1), decode)
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)
