"""Text of a growing token sequence, piece by piece, without ever showing half a character."""

from collections.abc import Callable

# What decoders put in the place of bytes that are not valid UTF-8, such as the first half of a character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns committed token ids into pieces of text whose concatenation is the decoded whole.

    Only a window of recent tokens is decoded each time: `start` of it lies one piece before the first token that has
    not become text, since some tokenizers decode a token differently at the beginning of a text.

        ids    [........|.......|.......)
                      start   shown    end
    """

    def __init__(self, decode: Callable[[tuple[int, ...]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token_ids: list[int]) -> str:
        """The text that these tokens complete; empty while it ends within a character."""
        self._ids += token_ids
        return "" if self._text().endswith(REPLACEMENT) else self.finish()

    def finish(self) -> str:
        """What is left at the end, complete or not."""
        piece = self._text()[len(self._decode(tuple(self._ids[self._start : self._shown]))) :]
        self._start, self._shown = self._shown, len(self._ids)
        return piece

    def _text(self) -> str:
        return self._decode(tuple(self._ids[self._start :]))
