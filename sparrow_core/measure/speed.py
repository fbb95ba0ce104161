"""Wall time of decoding, measured: transformers' `generate`, our one-row loop and our drafts on the same windows.

Owns the arms and their ratios. The arms of a window run in turn, several times over, in one process, so that a drift
of the machine's speed meets them all; figures are medians over repeats. It does not know where windows come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.models import reference
from sparrow_core.types import Completion, Request

LIBRARY, ALONE = "transformers generate", "autoregressive"


@dataclass(frozen=True)
class Run:
    """One arm on one window once. `first_token_s` is vision plus prefill; times are wall seconds."""

    num_tokens: int
    first_token_s: float
    decode_s: float
    rounds: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0


@dataclass(frozen=True)
class SpeedRow:
    """One arm at one visual length. `decode_s` runs from the end of prefill to the last token, drafter prefill in it.

    Speedups are ratios of measured times on the same windows: decoding against our own one-row loop and against
    `generate`, and the whole request (vision and prefill too) against our own loop. `tau` counts the bonus token;
    it and the times of a round are None for `generate`, which has no rounds.
    """

    method: str
    visual_tokens: int
    windows: int
    tokens: int
    tau: float | None
    first_token_s: float
    decode_s: float
    draft_ms: float | None
    verify_ms: float | None
    tokens_per_s: float
    decode_speedup: float
    speedup_over_generate: float
    end_to_end_speedup: float
    equal_tokens: bool


class SpeedCheck:
    """One engine per draft shape beside the library's model."""

    def __init__(
        self,
        source: str,
        target: TargetModel,
        drafter: Drafter,
        shapes: Mapping[str, DraftConfig],
        max_model_tokens: int = 32_768,
    ) -> None:
        self._target = target
        self._library = reference.load_reference(source, device=target.info.device, dtype=target.info.dtype)
        self._engines = {
            name: Engine(target, drafter, EngineConfig(draft=draft, max_model_tokens=max_model_tokens))
            for name, draft in shapes.items()
        }

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def measure(self, visual_tokens: int, requests: Sequence[Request], repeats: int) -> list[SpeedRow]:
        """All arms on windows of one nominal length -> one row per arm; a first repeat warms up, uncounted."""
        runs: dict[str, list[list[Run]]] = {}
        equal = dict.fromkeys((LIBRARY, ALONE, *self._engines), True)
        for request in requests:
            by_arm: dict[str, list[Run]] = {}
            for repeat in range(repeats + 1):
                results = self._once(request)
                for arm, (run, token_ids) in results.items():
                    equal[arm] &= token_ids == results[ALONE][1]
                    if repeat:
                        by_arm.setdefault(arm, []).append(run)
            for arm, repeated in by_arm.items():
                runs.setdefault(arm, []).append(repeated)
        totals = {arm: _total([_median_run(repeated) for repeated in windows]) for arm, windows in runs.items()}
        return [
            _row(arm, visual_tokens, len(requests), total, totals[ALONE], totals[LIBRARY], equal[arm])
            for arm, total in totals.items()
        ]

    def _once(self, request: Request) -> dict[str, tuple[Run, tuple[int, ...]]]:
        prompt = self._target.build_prompt(request.messages)
        library = reference.generate(self._library, prompt, request.max_new_tokens)
        results = {
            LIBRARY: (
                Run(len(library.token_ids), library.first_token_s, library.decode_s),
                library.token_ids,
            )
        }
        alone = next(iter(self._engines.values()))
        for arm, engine, draft in [(ALONE, alone, False), *((name, e, True) for name, e in self._engines.items())]:
            completion = engine.submit(request, draft=draft).result()
            results[arm] = (_run(completion), completion.token_ids)
        return results


def _run(completion: Completion) -> Run:
    timings = completion.timings
    return Run(
        num_tokens=len(completion.token_ids),
        first_token_s=timings.vision_s + timings.prefill_s,
        decode_s=timings.decode_s,
        rounds=completion.stats.rounds,
        draft_s=timings.draft_s + timings.drafter_prefill_s,
        verify_s=timings.verify_s,
    )


def _median_run(runs: Sequence[Run]) -> Run:
    return Run(
        runs[0].num_tokens,
        median(run.first_token_s for run in runs),
        median(run.decode_s for run in runs),
        runs[0].rounds,
        median(run.draft_s for run in runs),
        median(run.verify_s for run in runs),
    )


def _total(runs: Sequence[Run]) -> Run:
    return Run(
        sum(run.num_tokens for run in runs),
        sum(run.first_token_s for run in runs),
        sum(run.decode_s for run in runs),
        sum(run.rounds for run in runs),
        sum(run.draft_s for run in runs),
        sum(run.verify_s for run in runs),
    )


def _row(
    method: str, visual_tokens: int, windows: int, total: Run, alone: Run, library: Run, equal_tokens: bool
) -> SpeedRow:
    return SpeedRow(
        method=method,
        visual_tokens=visual_tokens,
        windows=windows,
        tokens=total.num_tokens,
        tau=(total.num_tokens - windows) / total.rounds if total.rounds else None,
        first_token_s=total.first_token_s / windows,
        decode_s=total.decode_s / windows,
        draft_ms=1000 * total.draft_s / total.rounds if total.rounds else None,
        verify_ms=1000 * total.verify_s / total.rounds if total.rounds else None,
        tokens_per_s=(total.num_tokens - windows) / total.decode_s,
        decode_speedup=alone.decode_s / total.decode_s,
        speedup_over_generate=library.decode_s / total.decode_s,
        end_to_end_speedup=(alone.first_token_s + alone.decode_s) / (total.first_token_s + total.decode_s),
        equal_tokens=equal_tokens,
    )
