"""Incremental detokenization: a growing token sequence as pieces of text, never with half a character."""

from collections.abc import Callable

# Tokenizers decode bytes that are not valid UTF-8, such as the first half of a character, to this character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns committed token ids into pieces of text, whose concatenation is the text of the whole sequence.

    Each call decodes only the recent tokens, from `start` on. Those from `start` to `shown` are the previous piece, and
    are decoded again because some tokenizers decode a token differently at the beginning of a text.

        ids    [........|.......|.......)
                      start   shown    end
    """

    def __init__(self, decode: Callable[[tuple[int, ...]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token_ids: list[int]) -> str:
        """Append tokens. Returns the text that they complete; empty while the last character is incomplete."""
        self._ids += token_ids
        return "" if self._text().endswith(REPLACEMENT) else self.finish()

    def finish(self) -> str:
        """The text not returned yet, even if its last character is incomplete."""
        piece = self._text()[len(self._decode(tuple(self._ids[self._start : self._shown]))) :]
        self._start, self._shown = self._shown, len(self._ids)
        return piece

    def _text(self) -> str:
        return self._decode(tuple(self._ids[self._start :]))
