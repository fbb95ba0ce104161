"""Acceptance of drafters on held-out windows: one Ray Data map over a pool of engines, one window per task.

Owns the pool; what is measured and how it is summarised belongs to `sparrow_core.measure.acceptance`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline.capture_graph import RequestSource
from pipeline.checkpoints import checkpoint_name
from pipeline.distill_config import DistillRunConfig, EvaluationConfig
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Arm
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow, WindowAcceptance, measure_window, summarise
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.models.rivals import NoDrafter, PromptLookupDrafter


def open_drafter(name: str, target: TargetModel) -> Drafter:
    """A drafter by folder or hub id, or one of the two without weights: "none" and "prompt_lookup"."""
    if name == NoDrafter.name:
        return NoDrafter()
    if name == PromptLookupDrafter.name:
        return PromptLookupDrafter(target.info.vocab_size)
    return load_drafter(name, target)


class MeasureWindow:
    """Decodes one window per call with every drafter under every draft shape, after one prefill."""

    def __init__(
        self,
        config: DistillRunConfig,
        evaluation: EvaluationConfig,
        drafters: Sequence[str],
        requests: Mapping[int, RequestSource],
    ) -> None:
        torch.set_num_threads(config.workers.threads)
        self._requests = requests
        self._target = load_target(config.target, device=config.device, dtype=config.dtype)
        self._arms = {
            (checkpoint_name(drafter), shape): Arm(open_drafter(drafter, self._target), draft, Sampling())
            for drafter in drafters
            for shape, draft in evaluation.drafts.items()
        }
        room = max(requests) * 2 + evaluation.max_new_tokens + 1024
        self._engine = Engine(self._target, None, EngineConfig(max_model_tokens=room))

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        request = self._requests[int(row["length"])](int(row["index"]))
        windows = measure_window(self._target, self._engine, request, list(self._arms.values()))
        return [
            {"drafter": drafter, "draft": shape, **row, **asdict(window)}
            for (drafter, shape), window in zip(self._arms, windows, strict=True)
        ]


def evaluate_drafters(
    config: DistillRunConfig,
    evaluation: EvaluationConfig,
    drafters: Sequence[str],
    requests: Mapping[int, RequestSource],
) -> list[AcceptanceRow]:
    """Measure `drafters` (see `open_drafter`) on `evaluation.windows_per_length` windows of each visual length.

    `requests` gives, for every length, the window of each number. Rows come by drafter, by draft shape, by length. A
    drafter is named as `checkpoint_name` has it. Raises ConfigError for two drafters of one name.
    """
    names = [checkpoint_name(drafter) for drafter in drafters]
    if len(set(names)) < len(names):
        raise ConfigError(f"drafters {', '.join(drafters)} share a name; rename a folder: rows go by its last part")
    items = [
        {"length": length, "index": index}
        for length in sorted(requests, reverse=True)
        for index in range(evaluation.windows_per_length)
    ]
    measured = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(
        MeasureWindow,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "config": config, "evaluation": evaluation, "drafters": drafters, "requests": requests,
        },
        compute=ActorPoolStrategy(size=min(config.workers.evaluate, len(items))),
        num_cpus=config.workers.cpus,
        num_gpus=config.workers.gpus or None,
    )  # fmt: skip
    by_row: dict[tuple[str, str, int], list[WindowAcceptance]] = defaultdict(list)
    for row in sorted(measured.take_all(), key=itemgetter("index")):
        by_row[row["drafter"], row["draft"], row["length"]].append(_window(row))
    return [
        summarise(name, shape, str(length), by_row[name, shape, length])
        for name in names
        for shape in evaluation.drafts
        for length in sorted(requests)
    ]


def _window(row: dict[str, Any]) -> WindowAcceptance:
    counts = {field: row[field] for field in WindowAcceptance.__dataclass_fields__}
    return WindowAcceptance(**counts | {"accepted_per_round": tuple(map(int, row["accepted_per_round"]))})
