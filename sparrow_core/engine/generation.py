"""Generation: one prompt and its completions, as steps that the engine drives.

Owns the bookkeeping of a caption under way: tokens, stop rules, counts and times. Knows no thread, no queue and no
other request. The engine calls

    `prefill` until `is_prefilled`, then for each decode mode
    `begin`, then `running` and `record_round` for each round until `finish_reason` is set, then `completion`

Shape letters: S slots of a sequence.
"""

import time
from collections.abc import Generator
from dataclasses import replace

import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafter import DraftContext, PromptContext, VisualNeeds
from sparrow_core.decoding.no_drafter import NoDrafter
from sparrow_core.decoding.prefill import first_token, prefill_by_layer
from sparrow_core.decoding.rounds import RoundResult, RunningSequence
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.engine.governor import MAX_TOTAL, NO_DRAFT
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import ConfigError
from sparrow_core.types import Completion, FinishReason, Request, SpecStats, Timings

_NO_DRAFTER = NoDrafter()


def num_slots(prompt: Prompt, request: Request, config: EngineConfig) -> int:
    """Cache slots that a request needs from beginning to end. Raises ConfigError if `max_model_tokens` is fewer."""
    prompt_tokens = prompt.token_ids_S.numel()
    draft_tokens = config.draft.total if config.draft else MAX_TOTAL
    needed = prompt_tokens + request.max_new_tokens + draft_tokens
    if needed > config.max_model_tokens:
        raise ConfigError(
            f"a prompt of {prompt_tokens} tokens ({prompt.num_visual_tokens} visual) with up to "
            f"{request.max_new_tokens} new ones and a draft of {draft_tokens} needs {needed} "
            f"tokens, but engine.max_model_tokens is {config.max_model_tokens}; "
            "raise it, or lower frames.max_visual_tokens or max_new_tokens"
        )
    return needed


class Generation:
    """A request in its room of the arena. Its prompt is prefilled once, however many decode modes follow."""

    def __init__(
        self,
        target: TargetModel,
        config: EngineConfig,
        request: Request,
        prompt: Prompt,
        cache: KVCache,
        needs: VisualNeeds | None = None,
    ) -> None:
        self._target, self._config, self._prompt, self._needs = target, config, prompt, needs
        self.request, self.cache = request, cache
        self._context: PromptContext | None = None
        self._prefilling = self._prefill_prompt()
        self._is_embedded = False
        self._vision_s = self._prefill_s = 0.0
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None

    @property
    def tokens_left(self) -> int:
        """Prompt tokens that are not in the cache yet."""
        return 0 if self.is_prefilled else self._prompt.token_ids_S.numel() - self.cache.length

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self._context is not None

    @torch.inference_mode()
    def prefill(self) -> None:
        """Do one step of prefill: a few frames through the vision tower, or one layer over one chunk."""
        began = time.perf_counter()
        next(self._prefilling, None)
        took = time.perf_counter() - began
        if self._is_embedded:
            self._prefill_s += took
        else:
            self._vision_s += took

    def _prefill_prompt(self) -> Generator[None, None, None]:
        """Vision and prefill, with pauses."""
        embedded = yield from self._target.embed_by_frames(self._prompt)
        self._offset = embedded.position_offset
        self._prompt = replace(self._prompt, visuals=())  # hundreds of megabytes of patches for a long video
        self._is_embedded = True
        prefill = self._config.prefill
        self._context = yield from prefill_by_layer(
            self._target, self._prompt, embedded, self.cache, prefill, self._needs
        )

    @torch.inference_mode()
    def begin(self, mode: DecodeMode) -> list[int]:
        """Drop the tokens after the prompt and start to decode in this mode; return the first token."""
        assert self._context is not None, "the prompt must be prefilled first"
        self.cache.forget_generated()
        self.mode = mode
        self.token_ids, self.finish_reason = [], None
        self._accepted: list[int] = []
        self._drafted = self._tokens_from_rounds = self._in_doubt = 0
        began = time.perf_counter()
        first = first_token(self._target, self._context, mode.sampling)
        self._decode_began = time.perf_counter()
        self._session = (mode.drafter or _NO_DRAFTER).open(self._context, self.request.max_new_tokens)
        if mode.recording:
            mode.recording.begin(self._context)
        opened = time.perf_counter()
        self._seconds = dict.fromkeys(Timings.__dataclass_fields__, 0.0) | {
            "vision_s": self._vision_s,
            "prefill_s": self._prefill_s + self._decode_began - began,
            "drafter_prefill_s": opened - self._decode_began,
        }
        return self._keep([first])

    def running(self, shape: DraftConfig | None) -> RunningSequence:
        """This sequence's part in the next round, with a draft of this shape; None: without a draft."""
        draft_context = DraftContext(self.token_ids[-1], len(self.token_ids), len(self._accepted), self.mode.sampling)
        drafter = (self.mode.drafter if shape else None) or _NO_DRAFTER
        return RunningSequence(
            self.cache, self._offset, drafter, self._session, draft_context, shape or NO_DRAFT, self.mode.recording
        )

    def record_round(self, result: RoundResult) -> list[int]:
        """Record a round; return the tokens kept, which end at the first stop token and at `max_new_tokens`."""
        kept = self._keep(result.token_ids)
        self._accepted.append(len(result.token_ids) - 1)
        self._drafted += result.num_drafted
        self._in_doubt += result.was_in_doubt
        self._tokens_from_rounds += len(kept)
        self._seconds["draft_s"] += result.draft_s
        self._seconds["verify_s"] += result.verify_s
        self._seconds["decode_s"] = time.perf_counter() - self._decode_began
        return kept

    def cancel(self) -> None:
        """Stop here and keep the committed tokens."""
        self.finish_reason = "cancelled"
        self._prefilling.close()  # it refers to the patches and to this object: else both wait for the collector

    def completion(self) -> Completion:
        """The completion of the current mode. `finish_reason` must be set."""
        assert self.finish_reason is not None
        if not self.token_ids:  # cancelled during prefill
            stats, timings = SpecStats(), Timings(vision_s=self._vision_s, prefill_s=self._prefill_s)
        else:
            accepted = tuple(self._accepted)
            stats = SpecStats(len(accepted), self._tokens_from_rounds, self._drafted, accepted, self._in_doubt)
            timings = Timings(**self._seconds)
        return Completion(
            request_id=self.request.request_id,
            token_ids=tuple(self.token_ids),
            text=self._target.decode_text(tuple(self.token_ids)),
            finish_reason=self.finish_reason,
            prompt_tokens=self._prompt.token_ids_S.numel(),
            visual_tokens=self._prompt.num_visual_tokens,
            stats=stats,
            timings=timings,
        )

    def _keep(self, token_ids: list[int]) -> list[int]:
        """Append tokens up to the first stop token and `max_new_tokens`; return those appended."""
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
