"""Measures drafters' acceptance on held-out windows: a Ray Data map over a pool of engines, one window per task.

Owns the pool. `sparrow_core.measure.acceptance` owns what is measured and how it is summarised.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline.captioning.graph import finite_retries
from pipeline.common.checkpoints import checkpoint_name
from pipeline.common.cluster import errors_of_worker_start
from pipeline.common.storage import local_folder
from pipeline.drafters.config import DistillRunConfig, EvaluationConfig
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.decoding.no_drafter import NoDrafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import ConfigError, SparrowError
from sparrow_core.measure.acceptance import AcceptanceRow, WindowAcceptance, measure_window, summarise
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

_log = logging.getLogger(__name__)

HeldOutWindows = Mapping[int, Sequence[Callable[[], Request]]]
"""Windows by visual length. A worker process calls a window to get its request."""


def open_drafter(name: str, target: TargetModel) -> Drafter:
    """A drafter by folder, URL or hub id, or by name one of the two without weights: "none" and "prompt_lookup"."""
    if name == NoDrafter.name:
        return NoDrafter()
    if name == PromptLookupDrafter.name:
        return PromptLookupDrafter(target.info.vocab_size)
    return load_drafter(local_folder(name), target)


class MeasureWindow:
    """Decodes one window per call with every drafter in every draft shape and at every temperature, after one prefill.

    For a window that cannot be read, the returned row holds the `error` and no measurement.
    """

    def __init__(
        self,
        config: DistillRunConfig,
        evaluation: EvaluationConfig,
        drafters: Sequence[str],
        windows: HeldOutWindows,
    ) -> None:
        torch.set_num_threads(config.workers.threads)
        self._windows, self._max_new_tokens = windows, evaluation.max_new_tokens
        self._target = load_target(config.target, device=config.device, dtype=config.dtype)
        self._modes = {
            (name, shape, temperature): DecodeMode(drafter, draft, Sampling(temperature))
            for name, drafter in {checkpoint_name(name): open_drafter(name, self._target) for name in drafters}.items()
            for shape, draft in evaluation.drafts.items()
            for temperature in evaluation.temperatures
        }
        room = max(EngineConfig().max_model_tokens, max(windows) * 2 + evaluation.max_new_tokens + 1024)
        self._engine = Engine(self._target, None, EngineConfig(max_model_tokens=room))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            request = replace(self._windows[row["length"]][row["index"]](), max_new_tokens=self._max_new_tokens)
            counts = measure_window(self._engine, request, list(self._modes.values()))
        except SparrowError as error:
            return {**row, "error": str(error), "measured": "[]"}
        measured = [
            {"drafter": drafter, "draft": shape, "temperature": temperature, **asdict(window)}
            for (drafter, shape, temperature), window in zip(self._modes, counts, strict=True)
        ]
        return {**row, "error": None, "measured": json.dumps(measured)}


def evaluate_drafters(
    config: DistillRunConfig,
    evaluation: EvaluationConfig,
    drafters: Sequence[str],
    windows: HeldOutWindows,
) -> list[AcceptanceRow]:
    """Measure `drafters` (see `open_drafter`) on held-out windows.

    Rows are ordered by drafter, draft shape, temperature and length. Their `drafter` is the `checkpoint_name`. A window
    that cannot be read is left out for all drafters, with a warning. Raises ConfigError for two drafters with the same
    name, and if no window of a length can be read.
    """
    names = [checkpoint_name(drafter) for drafter in drafters]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"drafters {', '.join(drafters)} share a name; rename a folder: rows are named by its last part"
        )
    by_row: dict[tuple[str, str, float, int], list[WindowAcceptance]] = defaultdict(list)
    for window in sorted(_measure_windows(config, evaluation, drafters, windows), key=itemgetter("index")):
        if window["error"]:
            _log.warning("one window of %s visual tokens is left out: %s", window["length"], window["error"])
        for row in json.loads(window["measured"]):
            by_row[row["drafter"], row["draft"], row["temperature"], window["length"]].append(_window(row))
    return [
        summarise(name, shape, str(length), by_row[name, shape, temperature, length], temperature)
        for name in names
        for shape in evaluation.drafts
        for temperature in evaluation.temperatures
        for length in sorted(windows)
    ]


def _measure_windows(
    config: DistillRunConfig, evaluation: EvaluationConfig, drafters: Sequence[str], windows: HeldOutWindows
) -> list[dict[str, Any]]:
    """The rows of `MeasureWindow` for all windows, unordered. Long windows start first, which balances the workers."""
    items = [
        {"length": length, "index": index}
        for length in sorted(windows, reverse=True)
        for index in range(len(windows[length]))
    ]
    measured = ray.data.from_items(items, override_num_blocks=len(items)).map(
        MeasureWindow,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "config": config, "evaluation": evaluation, "drafters": drafters, "windows": windows,
        },
        compute=ActorPoolStrategy(size=min(config.workers.evaluate, len(items))),
        num_cpus=config.workers.cpus,
        num_gpus=config.workers.gpus or None,
        **finite_retries(),
    )  # fmt: skip
    with errors_of_worker_start():
        return measured.take_all()


def _window(row: dict[str, Any]) -> WindowAcceptance:
    counts = {field: row[field] for field in WindowAcceptance.__dataclass_fields__}
    return WindowAcceptance(**counts | {"accepted_per_round": tuple(map(int, row["accepted_per_round"]))})
