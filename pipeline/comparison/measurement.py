"""Measures the paper's comparison: all methods decode the same held-out windows, by engines side by side. Resumable.

Owns the workers and which window each of them decodes next. Windows, and the score of a caption, come from outside.

OUTPUT/runs.jsonl    one line for each measured window
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.journal import Journal
from pipeline.comparison.measured_runs import MeasuredRuns
from pipeline.comparison.plan import ComparisonPlan, ScoredWindows
from sparrow_core.config import EngineConfig
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.drafters.specvlm import SpecVLMDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.measure.methods import Method, MethodKey, MethodRun, method_runs, run_methods
from sparrow_core.measure.names import AUTOREGRESSIVE
from sparrow_core.targets.loading import load_target

JOURNAL = "runs.jsonl"


def measure(
    plan: ComparisonPlan, windows: ScoredWindows, output: Path, machine: str, on_window: Callable[[str], None]
) -> list[MethodRun]:
    """Decode the windows of every length by every method -> all runs. Ray must be connected.

    Calls `on_window` with the name of every window that was measured. Runs of the same drafters that the journal holds
    are not measured again. Raises ConfigError if the journal was written with other settings or on another `machine`.
    """
    runs = MeasuredRuns(Journal(output / JOURNAL, _settings(plan, machine)), _drafter_identities(plan))
    workers = _Workers(plan, windows)
    for length in plan.measure.lengths:
        queue = _WindowQueue(plan, length, runs, workers)
        while queue.start_windows():
            on_window(queue.finish_window())
    return runs.all


def _settings(plan: ComparisonPlan, machine: str) -> dict[str, Any]:
    return {
        "machine": machine,
        "engines": plan.measure.workers,
        "threads": plan.config.workers.threads,
        "target": checkpoint_identity(plan.config.target),
        "dtype": plan.config.dtype,
        "draft": asdict(plan.measure.draft),
        "max_new_tokens": plan.measure.max_new_tokens,
    }


def _drafter_identities(plan: ComparisonPlan) -> dict[str, str]:
    """By name, what tells a drafter from another one of that name; of `plan.squeezed` too."""
    identities = {name: checkpoint_identity(folder) for name, folder in plan.folders.items()}
    squeezed = {label: f"{identities[name]}-{plan.measure.squeezed_span}" for label, name in plan.squeezed.items()}
    return identities | squeezed


class _Workers:
    """Up to `measure.workers` measuring workers, each started when it is first needed."""

    def __init__(self, plan: ComparisonPlan, windows: ScoredWindows) -> None:
        self._plan, self._windows = plan, windows
        self._idle: list[Any] = []
        self._num_to_start = plan.measure.workers

    def take(self) -> Any:
        """An idle worker; None where all are at work."""
        if not self._idle and self._num_to_start:
            self._num_to_start -= 1
            options = {"num_cpus": 1, "num_gpus": self._plan.config.workers.gpus}
            started = _MeasuringWorker.options(**options).remote(self._plan, self._windows)  # type: ignore[attr-defined]
            self._idle.append(started)
        return self._idle.pop() if self._idle else None

    def give_back(self, worker: Any) -> None:
        self._idle.append(worker)


class _WindowQueue:
    """The windows of one length, in order, until enough of them are usable."""

    def __init__(self, plan: ComparisonPlan, length: int, runs: MeasuredRuns, workers: _Workers) -> None:
        self._plan, self._length, self._runs, self._workers = plan, length, runs, workers
        self._running: dict[ray.ObjectRef[Any], tuple[str, Any]] = {}
        self._next_number = self._num_usable = 0

    def start_windows(self) -> bool:
        """Give windows to idle workers, skipping those that are measured already -> whether any window is running."""
        wanted = self._plan.measure
        while self._next_number < wanted.most_windows and self._num_usable + len(self._running) < wanted.windows:
            number, name = self._next_number, f"{self._length}-{self._next_number}"
            done = {run.key for run in self._runs.of(name)}
            missing = [key for key in self._plan.keys(self._length, number) if key not in done]
            if not missing:
                self._num_usable += self._runs.is_usable(name)
            elif worker := self._workers.take():
                self._running[worker.runs.remote(self._length, number, name, missing)] = name, worker
            else:
                break
            self._next_number += 1
        return bool(self._running)

    def finish_window(self) -> str:
        """Wait for the first running window to finish and add its runs -> its name."""
        (finished,), _ = ray.wait(list(self._running))
        name, worker = self._running.pop(finished)
        self._workers.give_back(worker)
        self._runs.add(name, ray.get(finished))
        self._num_usable += self._runs.is_usable(name)
        return name


@ray.remote
class _MeasuringWorker:
    """An engine and all drafters."""

    def __init__(self, plan: ComparisonPlan, windows: ScoredWindows) -> None:
        torch.set_num_threads(plan.config.workers.threads)
        target = load_target(plan.config.target, device=plan.config.device, dtype=plan.config.dtype)
        trained = {name: load_drafter(folder, target) for name, folder in plan.folders.items()}
        self._drafters: dict[str, Drafter[Any]] = {
            **trained,
            **{
                label: trained[name].with_interpolation(plan.measure.squeezed_span)
                for label, name in plan.squeezed.items()
            },
            SpecVLMDrafter.name: SpecVLMDrafter(target),
            PromptLookupDrafter.name: PromptLookupDrafter(target.info.vocab_size),
        }
        self._shape, self._loops, self._windows = plan.measure.draft, plan.measure.loops, windows
        room = max(plan.measure.lengths) * 5 // 4 + 2048
        self._engine = Engine(target, None, EngineConfig(max_model_tokens=room, max_sequences=1))

    def runs(self, length: int, number: int, name: str, keys: Sequence[MethodKey]) -> list[MethodRun]:
        """Decode one window by these methods and by the autoregressive loop."""
        temperatures = sorted({key.temperature for key in keys})
        loops = [Method(AUTOREGRESSIVE, None, temperature) for temperature in temperatures] * self._loops
        drafting = [Method(key.method, self._drafters[key.method], key.temperature, self._shape) for key in keys]
        methods = [*loops, *drafting]
        request = replace(self._windows.request(length, number), request_id=name)
        completions = run_methods(self._engine, request, methods, seed=number)
        return method_runs(methods, completions, length, partial(self._windows.score, length, number))
