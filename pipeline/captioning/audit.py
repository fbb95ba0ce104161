"""Are two caption tables, or a table and the model alone, the same to the last token? And where not, how near was it?

Owns the comparison of stored captions. A window is known by its video and span, so that runs with different drafters,
machines or prompts' settings can be held against each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.captioning.stored_windows import CaptionRunTable, RowRequests
from pipeline.common.ids import in_audit
from pipeline.common.rows import Row
from sparrow_core.config import DecodeConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.rounds import decode_one
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.measure.equality import first_difference
from sparrow_core.media.frame_spec import FrameSpec


@dataclass(frozen=True)
class Finding:
    """One window under comparison. `first_difference` indexes generated tokens; None where all are equal.

    `margin` is, for a greedy caption, by how much the target's logit of the left token exceeds that of the right one
    there; None where it was not asked for or there is no such token.
    """

    source_uri: str
    start_s: float | None
    end_s: float | None
    num_tokens: int
    first_difference: int | None = None
    margin: float | None = None


class WindowReader:
    """From a stored row back to its prompt and logits."""

    def __init__(
        self, target: TargetModel, settings: Mapping[str, Any], patches: FrameSpec, decode: DecodeConfig
    ) -> None:
        self._target = target
        self._source = RowRequests(settings, patches, decode)

    def prompt(self, row: Row) -> Prompt:
        """The window as it was asked about. Raises ConfigError where its frames cannot be had."""
        return self._target.build_prompt(self._source.request(row).messages)

    def oracle(self, row: Row) -> tuple[int, ...]:
        """What the one-row loop writes."""
        request = self._source.request(row)
        prompt = self._target.build_prompt(request.messages)
        return generate_autoregressively(self._target, prompt, request.sampling, request.max_new_tokens)

    @torch.inference_mode()
    def margin(self, row: Row, left: Sequence[int], right: Sequence[int], at: int) -> float | None:
        """Logit of `left[at]` minus that of `right[at]`, after the tokens that both share."""
        if at >= min(len(left), len(right)):
            return None
        prompt = self.prompt(row)
        embedded = self._target.embed(prompt)
        cache = self._target.info.cache_shape.cache(prompt.token_ids_S.numel() + at + 1)
        hidden_1D = prefill(self._target, prompt, embedded, cache).hidden_TD[-1:]
        for token in left[:at]:
            hidden_1D = decode_one(self._target, cache, embedded.position_offset, token)
        logits_V = self._target.logits(hidden_1D)[0]
        return float(logits_V[left[at]] - logits_V[right[at]])


def compare_runs(left: CaptionRunTable, right: CaptionRunTable) -> Iterator[tuple[Row, Finding, Sequence[int]]]:
    """Every window that both tables hold: the left row, what was found, and the right tokens."""
    for key, row in left.rows.items():
        if key in right.rows:
            yield row, _finding(row, right.rows[key]["token_ids"]), right.rows[key]["token_ids"]


def compare_with_oracle(
    run: CaptionRunTable, reader: WindowReader, share: float
) -> Iterator[tuple[Row, Finding, Sequence[int]]]:
    """A share of the windows, decoded again by the one-row loop."""
    for row in run.rows.values():
        if in_audit(row["window_id"], share):
            oracle = reader.oracle(row)
            yield row, _finding(row, oracle), oracle


def _finding(row: Row, other: Sequence[int]) -> Finding:
    mine = tuple(row["token_ids"])
    return Finding(row["source_uri"], row["start_s"], row["end_s"], len(mine), first_difference(mine, tuple(other)))
