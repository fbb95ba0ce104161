"""One request from prompt to completion, as a sequence of steps that the engine drives.

Owns the bookkeeping of a caption under way: tokens, stop rules, counts and times. Knows no thread and no queue.
"""

import time
from dataclasses import replace

import torch

from sparrow_core.config import EngineConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import Drafter, Turn
from sparrow_core.decoding.rounds import decode_round, first_token, prefill
from sparrow_core.decoding.target import TargetModel
from sparrow_core.errors import ConfigError
from sparrow_core.types import Completion, FinishReason, Request, SpecStats, Timings


class Generation:
    """State of one request between rounds. `start` once, `step` until `finish_reason` is set, then `completion`."""

    def __init__(self, target: TargetModel, drafter: Drafter, cache: KVCache, config: EngineConfig, request: Request):
        self._target, self._drafter, self._cache, self._config = target, drafter, cache, config
        self.request = request
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._accepted: list[int] = []
        self._drafted = self._tokens_from_rounds = 0
        self._timings = Timings()

    @torch.inference_mode()
    def start(self) -> list[int]:
        """Vision, prefill, drafter prefill; returns the first token. Raises ConfigError for a prompt too long."""
        target, request = self._target, self.request
        self._prompt = target.build_prompt(request.messages)
        self._check_length()
        self._cache.reset()
        began = time.perf_counter()
        embedded = target.embed(self._prompt)
        seen = time.perf_counter()
        self._offset = embedded.position_offset
        context = prefill(target, self._prompt, embedded, self._cache, self._config.prefill_chunk)
        first = first_token(target, context, request.sampling)
        self._decode_began = time.perf_counter()
        self._session = self._drafter.open(context, request.max_new_tokens)
        opened = time.perf_counter()
        self._timings = Timings(
            vision_s=seen - began,
            prefill_s=self._decode_began - seen,
            drafter_prefill_s=opened - self._decode_began,
        )
        return self._keep([first])

    def step(self) -> list[int]:
        """One round; returns the tokens that it added, cut at the first stop token and at `max_new_tokens`."""
        turn = Turn(self.token_ids[-1], len(self.token_ids), len(self._accepted), self.request.sampling)
        result = decode_round(self._target, self._cache, self._session, self._offset, turn, self._config.draft)
        kept = self._keep(result.token_ids)
        self._accepted.append(len(result.token_ids) - 1)
        self._drafted += result.num_drafted
        self._tokens_from_rounds += len(kept)
        self._timings = replace(
            self._timings,
            draft_s=self._timings.draft_s + result.draft_s,
            verify_s=self._timings.verify_s + result.verify_s,
            decode_s=time.perf_counter() - self._decode_began,
        )
        return kept

    def cancel(self) -> None:
        """Stop here; what was committed stays."""
        self.finish_reason = "cancelled"

    def completion(self) -> Completion:
        """The result. Only after `finish_reason` is set."""
        assert self.finish_reason is not None
        return Completion(
            request_id=self.request.request_id,
            token_ids=tuple(self.token_ids),
            text=self._target.decode_text(tuple(self.token_ids)),
            finish_reason=self.finish_reason,
            prompt_tokens=self._prompt.token_ids_S.numel(),
            visual_tokens=self._prompt.num_visual_tokens,
            stats=SpecStats(len(self._accepted), self._tokens_from_rounds, self._drafted, tuple(self._accepted)),
            timings=self._timings,
        )

    def _keep(self, token_ids: list[int]) -> list[int]:
        kept: list[int] = []
        for token in token_ids:
            kept.append(token)
            if token in self._target.info.stop_token_ids:
                self.finish_reason = "stop"
                break
            if len(self.token_ids) + len(kept) == self.request.max_new_tokens:
                self.finish_reason = "length"
                break
        self.token_ids += kept
        return kept

    def _check_length(self) -> None:
        prompt_tokens = self._prompt.token_ids_S.numel()
        needed = prompt_tokens + self.request.max_new_tokens + self._config.draft.total
        if needed > self._config.max_model_tokens:
            raise ConfigError(
                f"a prompt of {prompt_tokens} tokens ({self._prompt.num_visual_tokens} visual) with up to "
                f"{self.request.max_new_tokens} new ones and a draft of {self._config.draft.total} needs {needed} "
                f"tokens, but engine.max_model_tokens is {self._config.max_model_tokens}; "
                "raise it, or lower frames.max_visual_tokens or max_new_tokens"
            )
