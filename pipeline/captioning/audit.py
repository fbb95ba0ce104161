"""Audit of stored captions: a run compared token by token with another run, or with the target's autoregressive loop.

Owns the comparison, and the logit margin at a difference. A window is identified by its video and span, so that runs
with different drafters, machines or settings can be compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.captioning.stored_windows import CaptionRunTable, RowRequests
from pipeline.common.ids import in_audit
from pipeline.common.rows import Row
from sparrow_core.config import DecodeConfig
from sparrow_core.decoding.autoregressive import decode_one, generate_autoregressively
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.measure.equality import first_difference
from sparrow_core.media.frame_spec import FrameSpec


@dataclass(frozen=True)
class Finding:
    """Comparison of one window's left and right token ids.

    `first_difference` is the index of the first unequal token; None if all are equal. `margin` is the target's logit of
    the left token minus that of the right token there (meaningful for greedy captions); None if it was not measured or
    one side has no token there.
    """

    source_uri: str
    start_s: float | None
    end_s: float | None
    num_tokens: int
    first_difference: int | None = None
    margin: float | None = None


class WindowReader:
    """Rebuilds prompts from stored rows, and runs the target on them."""

    def __init__(
        self, target: TargetModel, settings: Mapping[str, Any], frame_spec: FrameSpec, decode: DecodeConfig
    ) -> None:
        self._target = target
        self._source = RowRequests(settings, frame_spec, decode)

    def prompt(self, row: Row) -> Prompt:
        """The prompt that the row was captioned from. Raises ConfigError if its frames cannot be decoded."""
        return self._target.build_prompt(self._source.request(row).messages)

    def oracle(self, row: Row) -> tuple[int, ...]:
        """Token ids that the autoregressive loop generates for the row."""
        request = self._source.request(row)
        prompt = self._target.build_prompt(request.messages)
        return generate_autoregressively(self._target, prompt, request.sampling, request.max_new_tokens)

    @torch.inference_mode()
    def margin(self, row: Row, left: Sequence[int], right: Sequence[int], at: int) -> float | None:
        """Logit of `left[at]` minus that of `right[at]`, given the shared tokens before; None if either is missing."""
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
    """For every window that both runs hold: the left row, the finding, and the right token ids."""
    for key, row in left.rows.items():
        if key in right.rows:
            yield row, _finding(row, right.rows[key]["token_ids"]), right.rows[key]["token_ids"]


def compare_with_oracle(
    run: CaptionRunTable, reader: WindowReader, share: float
) -> Iterator[tuple[Row, Finding, Sequence[int]]]:
    """For a share of the windows: the row, the finding, and the token ids of the autoregressive loop."""
    for row in run.rows.values():
        if in_audit(row["window_id"], share):
            oracle = reader.oracle(row)
            yield row, _finding(row, oracle), oracle


def _finding(row: Row, other: Sequence[int]) -> Finding:
    mine = tuple(row["token_ids"])
    return Finding(row["source_uri"], row["start_s"], row["end_s"], len(mine), first_difference(mine, tuple(other)))
