"""The paper's comparison of methods: all drafters on the same held-out windows, by engines side by side. Resumable.

Owns which windows and methods are measured, and the journal. Windows, and how a caption is scored, come from outside.

    OUTPUT/runs.jsonl    one line for each measured window
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.journal import Journal
from pipeline.comparison.trained_drafters import TrainedDrafter
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.drafters.specvlm import SpecVLMDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.errors import ConfigError
from sparrow_core.measure.methods import ALONE, Method, MethodKey, MethodRun, method_runs, read_run, run_methods
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

JOURNAL = "runs.jsonl"
SPARROW = "sparrow"
UNTRAINED = ("specvlm", "prompt_lookup")


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured: `windows` usable windows of every length, of which up to `most_windows` are tried, by `workers`
    engines side by side.

    All draft in the shape `draft`; our one-row loop runs `loops` times on each window. Ablations are measured greedily
    alone, on those windows that are among the first `ablation_windows` of `ablation_lengths`. Wherever one of the
    drafters `squeezed` is measured, it is once more, greedily, a longer video taking `squeezed_span` places. The layer
    study takes `layer_windows` windows of `layer_length`."""

    lengths: tuple[int, ...] = (512, 1500, 6000, 17000, 25000)
    windows: int = 40
    most_windows: int = 60
    workers: int = 1
    loops: int = 3
    temperatures: tuple[float, ...] = (0.0, 1.0)
    ablation_lengths: tuple[int, ...] = (512, 25000)
    ablation_windows: int = 20
    squeezed: tuple[str, ...] = ()
    squeezed_span: int = 512
    max_new_tokens: int = 320
    draft: DraftConfig = field(default_factory=lambda: DraftConfig.chain(7))
    layer_length: int = 512
    layer_windows: int = 16

    def __post_init__(self) -> None:
        for name in ("windows", "workers", "loops", "squeezed_span", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"measure.{name}={getattr(self, name)} must be at least 1")
        if not self.lengths or not self.temperatures:
            raise ConfigError("measure.lengths and measure.temperatures must each name one at least")


class ScoredWindows(NamedTuple):
    """Held-out windows: request by length and number, and the share of facts that a caption of it has right."""

    request: Callable[[int, int], Request]
    score: Callable[[int, int, str], float]


class ComparisonPlan(NamedTuple):
    """The drafters, by name, and how they are measured."""

    config: DistillRunConfig
    measure: MeasureConfig
    methods: Mapping[str, TrainedDrafter]
    ablations: Mapping[str, TrainedDrafter]

    @property
    def folders(self) -> dict[str, str]:
        """Of all trained drafters."""
        return {name: str(drafter.folder) for name, drafter in {**self.methods, **self.ablations}.items()}

    @property
    def squeezed(self) -> dict[str, str]:
        """Names under which drafters are measured squeezed, with whose they are."""
        return {f"{name}, squeezed": name for name in self.measure.squeezed}

    def keys(self, length: int, number: int) -> list[MethodKey]:
        """All methods in which a window is decoded, beside the loop."""
        in_full = (*self.methods, *UNTRAINED)
        with_ablations = length in self.measure.ablation_lengths and number < self.measure.ablation_windows
        ablations = tuple(self.ablations) if with_ablations else ()
        squeezed = [label for label, name in self.squeezed.items() if name in (*self.methods, *ablations)]
        return [
            *(MethodKey(method, temperature) for temperature in self.measure.temperatures for method in in_full),
            *(MethodKey(method, 0.0) for method in (*squeezed, *ablations)),
        ]


def measure(
    plan: ComparisonPlan, windows: ScoredWindows, output: Path, machine: str, on_window: Callable[[str], None]
) -> list[MethodRun]:
    """Decode the windows of every length by every method. Ray must be connected.

    `on_window` is told of every window that was measured. What the journal holds of these drafters is not measured
    again. Raises ConfigError where it was written with other settings, or on another `machine`.
    """
    settings = {
        "machine": machine,
        "engines": plan.measure.workers,
        "threads": plan.config.workers.threads,
        "target": checkpoint_identity(plan.config.target),
        "dtype": plan.config.dtype,
        "draft": asdict(plan.measure.draft),
        "max_new_tokens": plan.measure.max_new_tokens,
    }
    identities = {name: checkpoint_identity(folder) for name, folder in plan.folders.items()}
    identities |= {label: f"{identities[name]}-{plan.measure.squeezed_span}" for label, name in plan.squeezed.items()}
    runs = _Runs(Journal(output / JOURNAL, settings), identities)
    options = {"num_cpus": 1, "num_gpus": plan.config.workers.gpus}
    idle: list[Any] = [
        _MeasuringWorker.options(**options).remote(plan, windows)  # type: ignore[attr-defined]
        for _ in range(plan.measure.workers)
    ]
    for length in plan.measure.lengths:
        under_way: dict[ray.ObjectRef[Any], tuple[str, Any]] = {}
        num_usable = number = 0
        while True:
            while number < plan.measure.most_windows and num_usable + len(under_way) < plan.measure.windows:
                name = f"{length}-{number}"
                done = {run.key for run in runs.of(name)}
                missing = [key for key in plan.keys(length, number) if key not in done]
                if not missing:
                    num_usable += runs.is_usable(name)
                elif idle:
                    worker = idle.pop()
                    under_way[worker.runs.remote(length, number, name, missing)] = name, worker
                else:
                    break
                number += 1
            if not under_way:
                break
            (finished,), _ = ray.wait(list(under_way))
            name, worker = under_way.pop(finished)
            idle.append(worker)
            runs.add(name, ray.get(finished))
            num_usable += runs.is_usable(name)
            on_window(name)
    return runs.all


@ray.remote
class _MeasuringWorker:
    """An engine, and all drafters beside it."""

    def __init__(self, plan: ComparisonPlan, windows: ScoredWindows) -> None:
        torch.set_num_threads(plan.config.workers.threads)
        target = load_target(plan.config.target, device=plan.config.device, dtype=plan.config.dtype)
        trained = {name: load_drafter(folder, target) for name, folder in plan.folders.items()}
        self._drafters: dict[str, Drafter[Any]] = {
            **trained,
            **{label: trained[name].squeezing(plan.measure.squeezed_span) for label, name in plan.squeezed.items()},
            "specvlm": SpecVLMDrafter(target),
            "prompt_lookup": PromptLookupDrafter(target.info.vocab_size),
        }
        self._shape, self._loops, self._windows = plan.measure.draft, plan.measure.loops, windows
        room = max(plan.measure.lengths) * 5 // 4 + 2048
        self._engine = Engine(target, None, EngineConfig(max_model_tokens=room, max_sequences=1))

    def runs(self, length: int, number: int, name: str, keys: Sequence[MethodKey]) -> list[MethodRun]:
        """One window, in these methods and by the loop."""
        temperatures = sorted({key.temperature for key in keys})
        loops = [Method(ALONE, None, temperature) for temperature in temperatures] * self._loops
        methods = [Method(key.method, self._drafters[key.method], key.temperature, self._shape) for key in keys]
        request = replace(self._windows.request(length, number), request_id=name)
        found = run_methods(self._engine, request, [*loops, *methods], seed=number)
        return method_runs([*loops, *methods], found, length, partial(self._windows.score, length, number))


class _Runs:
    """What was measured, window by window. Runs of a drafter that is not the one of that name any more are left out."""

    def __init__(self, journal: Journal, drafters: Mapping[str, str]) -> None:
        self._journal, self._drafters = journal, drafters
        self._of_window: dict[str, list[MethodRun]] = defaultdict(list)
        for entry in journal.entries:
            of = entry["drafters"]
            current = [run for run in entry["runs"] if of.get(run["method"]) == drafters.get(run["method"])]
            self._of_window[entry["window"]] += map(read_run, current)

    @property
    def all(self) -> list[MethodRun]:
        """Everything measured."""
        return [run for runs in self._of_window.values() for run in runs]

    def of(self, window: str) -> list[MethodRun]:
        """What was measured of a window."""
        return self._of_window[window]

    def is_usable(self, window: str) -> bool:
        """Whether a measured window counts."""
        return all(run.usable for run in self._of_window[window])

    def add(self, window: str, runs: list[MethodRun]) -> None:
        self._of_window[window] += runs
        used = {run.method for run in runs} & self._drafters.keys()
        of = {name: self._drafters[name] for name in sorted(used)}
        self._journal.add({"window": window, "drafters": of, "runs": [asdict(run) for run in runs]})
