"""Target states for distillation: shard numbers in, state shards out, one Ray Data map over a pool of targets.

    shard numbers that are missing -> CaptureShard (a pool; one target each; one shard is one task) -> index

A shard is a pure function of its number and the settings, so an interrupted capture continues with what is missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline.distill_config import DistillRunConfig
from sparrow_core.distill.capture import capture_window, store_header, target_tables
from sparrow_core.distill.store import StoreHeader, has_shard, save_shard, save_tables, seal
from sparrow_core.models.loading import load_target
from sparrow_core.types import Request

RequestSource = Callable[[int], Request]
"""Window number -> request; the same number always gives the same window."""


class CaptureShard:
    """Captures one shard per call."""

    def __init__(self, config: DistillRunConfig, requests: RequestSource, folder: Path, header: StoreHeader) -> None:
        torch.set_num_threads(config.workers.threads)
        self._capture = config.capture
        self._requests, self._folder, self._header = requests, folder, header
        self._target = load_target(config.target, device=config.device, dtype=config.dtype)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, size = int(row["shard"]), self._capture.windows_per_shard
        indices = range(shard * size, min((shard + 1) * size, self._capture.num_windows))
        windows = [
            window
            for index in indices
            for window in capture_window(
                self._target, self._target.build_prompt(self._requests(index).messages), index, self._capture
            )
        ]
        save_shard(self._folder, shard, windows, self._header)
        return {"shard": shard, "captions": len(windows)}


def capture_states(config: DistillRunConfig, requests: RequestSource, output: Path, settings: str) -> Path:
    """Capture what is missing of `config.capture.num_windows` windows -> the folder of the complete store.

    `settings` is `distill_config.capture_settings`. The folder's name carries it and the target's fingerprint, so
    windows of different origin never meet in one store.
    """
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    header = store_header(target, config.capture, settings)
    folder = output / f"states-{header.fingerprint}-{settings}"
    save_tables(folder, target_tables(target), header)
    del target
    missing = [{"shard": i} for i in range(config.capture.num_shards) if not has_shard(folder, i, header)]
    if missing:
        captured = ray.data.from_items(missing, override_num_blocks=len(missing)).map(
            CaptureShard,  # type: ignore[arg-type]
            fn_constructor_kwargs={"config": config, "requests": requests, "folder": folder, "header": header},
            compute=ActorPoolStrategy(size=min(config.workers.capture, len(missing))),
            num_cpus=config.workers.cpus,
            num_gpus=config.workers.gpus or None,
        )
        captured.materialize()
    seal(folder, config.capture.num_shards, header)
    return folder
