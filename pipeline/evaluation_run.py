"""Acceptance of a drafter on held-out windows: one Ray Data map over a pool of engines, one window per task.

Owns the pool; what is measured and how it is summarised belongs to `sparrow_core.measure.acceptance`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline.capture_graph import RequestSource
from pipeline.distill_config import DistillRunConfig, EvaluationConfig
from sparrow_core.config import EngineConfig
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
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
    """Decodes one window under one draft shape per call; engines are made when a shape is first asked for."""

    def __init__(
        self,
        config: DistillRunConfig,
        evaluation: EvaluationConfig,
        drafter: str,
        requests: Mapping[int, RequestSource],
    ) -> None:
        torch.set_num_threads(config.workers.threads)
        self._evaluation, self._requests = evaluation, requests
        self._target = load_target(config.target, device=config.device, dtype=config.dtype)
        self._drafter = open_drafter(drafter, self._target)
        self._engines: dict[str, Engine] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shape = row["draft"]
        if shape not in self._engines:
            room = max(self._requests) * 2 + self._evaluation.max_new_tokens + 1024
            config = EngineConfig(draft=self._evaluation.drafts[shape], max_model_tokens=room)
            self._engines[shape] = Engine(self._target, self._drafter, config)
        request = self._requests[int(row["length"])](int(row["index"]))
        window = measure_window(self._target, self._engines[shape], request)
        return {"draft": shape, "length": row["length"], **asdict(window)}


def evaluate_drafter(
    config: DistillRunConfig, evaluation: EvaluationConfig, drafter: str, requests: Mapping[int, RequestSource]
) -> list[AcceptanceRow]:
    """Measure `drafter` (see `open_drafter`) on `evaluation.windows_per_length` windows of each visual length.

    `requests` gives, for every length, the window of each number. Rows come by draft shape, then by length.
    """
    items = [
        {"draft": shape, "length": length, "index": index}
        for length in sorted(requests, reverse=True)
        for index in range(evaluation.windows_per_length)
        for shape in evaluation.drafts
    ]
    measured = ray.data.from_items(items, override_num_blocks=len(items)).map(
        MeasureWindow,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "config": config, "evaluation": evaluation, "drafter": drafter, "requests": requests,
        },
        compute=ActorPoolStrategy(size=min(config.workers.evaluate, len(items))),
        num_cpus=config.workers.cpus,
        num_gpus=config.workers.gpus or None,
    )  # fmt: skip
    rows = measured.take_all()
    name = Path(drafter).name
    return [
        summarise(name, shape, str(length), [_window(r) for r in rows if (r["draft"], r["length"]) == (shape, length)])
        for shape in evaluation.drafts
        for length in sorted(requests)
    ]


def _window(row: dict[str, Any]) -> WindowAcceptance:
    counts = {key: value for key, value in row.items() if key not in ("draft", "length", "accepted_per_round")}
    return WindowAcceptance(accepted_per_round=tuple(int(n) for n in row["accepted_per_round"]), **counts)
