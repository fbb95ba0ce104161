"""The paper's comparison: drafters of every method trained alike, and measured on the same windows. Resumable.

Owns the order of the work and its journal. Windows, and how a caption is scored, come from outside.

    OUTPUT/states-<target>-<settings>/   captured windows, shared by all cells that learn from them
    OUTPUT/cells/<run>/                  a trained drafter each, with its loss curve and tau on validation windows
    OUTPUT/runs.jsonl                    one line for each measured window
    OUTPUT/layers.jsonl                  one line for each window of the layer study
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.capture_graph import RequestSource
from pipeline.capture_run import Listener, capture_windows
from pipeline.checkpoints import checkpoint_identity
from pipeline.distill_config import DistillRunConfig, capture_settings
from pipeline.distill_run import states_folder
from pipeline.storage import Folder
from pipeline.training_cells import Cell, CellResult
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.errors import ConfigError
from sparrow_core.measure.layers import LayerFinding, study_window
from sparrow_core.measure.methods import ALONE, MethodRun, method_runs, run_methods
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.models.reference import load_reference
from sparrow_core.models.rivals import PromptLookupDrafter
from sparrow_core.models.specvlm import SpecVLMDrafter
from sparrow_core.types import Request

JOURNAL, LAYERS = "runs.jsonl", "layers.jsonl"
SPARROW = "sparrow"


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured: `windows` usable windows of every length, of which up to `most_windows` are tried.

    Ablations are measured greedily, at `ablation_lengths` alone. The layer study takes `layer_windows` windows of
    `layer_length`."""

    lengths: tuple[int, ...] = (512, 1500, 6000, 17000, 25000)
    windows: int = 40
    most_windows: int = 60
    temperatures: tuple[float, ...] = (0.0, 1.0)
    ablation_lengths: tuple[int, ...] = (512, 25000)
    max_new_tokens: int = 320
    draft: DraftConfig = field(default_factory=lambda: DraftConfig.chain(7))
    layer_length: int = 512
    layer_windows: int = 16


@dataclass(frozen=True)
class Variant:
    """A way of making a drafter, and the windows that it learns from (`windows` tells captures apart)."""

    name: str
    config: DistillRunConfig
    requests: RequestSource
    windows: dict[str, Any]


class Windows(NamedTuple):
    """Held-out windows: request by length and number, and the share of facts that a caption of it has right."""

    request: Callable[[int, int], Request]
    score: Callable[[int, int, str], float]


def capture_all(variants: Sequence[Variant], output: Path, listener: Listener) -> dict[str, Path]:
    """Where each variant's windows are; captures what is missing. Ray must be connected."""
    folders: dict[str, Path] = {}
    for variant in variants:
        folder = states_folder(variant.config, variant.windows, output)
        if folder not in folders.values():
            settings = capture_settings(variant.config, variant.windows)
            capture_windows(variant.config, variant.requests, str(folder), settings, listener)
        folders[variant.name] = folder
    return folders


TrainCells = Callable[[Sequence[Cell]], Mapping[str, CellResult]]
"""Trains cells, all side by side: results by name."""


def train_variants(
    variants: Sequence[Variant], rates: Sequence[float], folders: Mapping[str, Path], train: TrainCells
) -> dict[str, dict[float, CellResult]]:
    """Every variant with every learning rate: results by name and rate."""
    return _train_pairs([(variant, rate) for variant in variants for rate in rates], folders, train)


def tune_variants(
    variants: Sequence[Variant],
    rates: Sequence[float],
    most_rates: int,
    folders: Mapping[str, Path],
    train: TrainCells,
) -> dict[str, dict[float, CellResult]]:
    """Every variant with these learning rates, and, while a variant's best one is its lowest or its highest, with half
    or twice that, up to `most_rates` in all: results by name and rate."""
    results: dict[str, dict[float, CellResult]] = {variant.name: {} for variant in variants}
    missing = [(variant, rate) for variant in variants for rate in rates]
    while missing:
        for name, found in _train_pairs(missing, folders, train).items():
            results[name] |= found
        missing = [
            (variant, rate)
            for variant in variants
            if len(results[variant.name]) < most_rates and (rate := _beyond_edge(results[variant.name]))
        ]
    return results


def _train_pairs(
    pairs: Sequence[tuple[Variant, float]], folders: Mapping[str, Path], train: TrainCells
) -> dict[str, dict[float, CellResult]]:
    named = {f"{variant.name} at {rate:g}": (variant, rate) for variant, rate in pairs}
    results = train([Cell(n, _at_rate(v.config, rate), folders[v.name]) for n, (v, rate) in named.items()])
    found: dict[str, dict[float, CellResult]] = defaultdict(dict)
    for name, (variant, rate) in named.items():
        found[variant.name][rate] = results[name]
    return found


def _beyond_edge(results: Mapping[float, CellResult]) -> float | None:
    """The rate to try next where the best one is an outermost one."""
    best = best_rate(results)
    return best / 2 if best == min(results) else best * 2 if best == max(results) else None


def best_rate(results: Mapping[float, CellResult]) -> float:
    """The learning rate whose drafter has the highest tau on the validation windows."""
    return max(results, key=lambda rate: results[rate].tau)


def _at_rate(config: DistillRunConfig, rate: float) -> DistillRunConfig:
    return replace(config, train=replace(config.train, learning_rate=rate))


def measure(
    config: DistillRunConfig,
    plan: MeasureConfig,
    methods: Mapping[str, Path],
    ablations: Mapping[str, Path],
    windows: Windows,
    output: Path,
    listener: Callable[[list[MethodRun]], None],
) -> list[MethodRun]:
    """Decode the windows of every length by every method, one window after the other, in this process.

    `listener` is told of all that was measured so far, after every window. Windows that the journal holds are not
    decoded again. Raises ConfigError where it is of other drafters.
    """
    settings = {
        "target": checkpoint_identity(config.target),
        "draft": asdict(plan.draft),
        "drafters": {name: folder.name for name, folder in {**methods, **ablations}.items()},
        "temperatures": list(plan.temperatures),
        "ablation_lengths": list(plan.ablation_lengths),
        "max_new_tokens": plan.max_new_tokens,
    }
    journal = _Journal(output / JOURNAL, settings)
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    main: dict[str, Drafter[Any]] = {name: load_drafter(str(folder), target) for name, folder in methods.items()}
    main |= {"specvlm": SpecVLMDrafter(target), "prompt_lookup": PromptLookupDrafter(target.info.vocab_size)}
    varied: dict[str, Drafter[Any]] = {name: load_drafter(str(folder), target) for name, folder in ablations.items()}
    engine_config = EngineConfig(max_model_tokens=max(plan.lengths) * 5 // 4 + 2048, max_sequences=1)
    with Engine(target, None, engine_config) as engine:
        for length in plan.lengths:
            for number in range(plan.most_windows):
                if journal.num_usable(length, plan.temperatures) >= plan.windows:
                    break
                name = f"{length}-{number}"
                if name in journal.runs:
                    continue
                request = replace(windows.request(length, number), request_id=name)
                drafters = {
                    t: main | (varied if t == 0 and length in plan.ablation_lengths else {}) for t in plan.temperatures
                }
                found = run_methods(engine, request, drafters, plan.draft, turn=number)
                journal.add(
                    name,
                    [
                        run
                        for temperature, completions in found.items()
                        for run in method_runs(
                            completions, length, temperature, windows.score(length, number, completions[ALONE].text)
                        )
                    ],
                )
                listener(journal.all)
    return journal.all


def study_layers(
    config: DistillRunConfig,
    plan: MeasureConfig,
    windows: Windows,
    output: Path,
    listener: Callable[[list[LayerFinding]], None],
) -> list[LayerFinding]:
    """The layer study on the first windows of its length; those that its journal holds are not done again."""
    journal = output / LAYERS
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    found = [LayerFinding(**fields) for line in whole for fields in line]
    missing = [n for n in range(plan.layer_windows) if n not in {finding.window for finding in found}]
    if not missing:
        return found
    journal.write_text("".join(json.dumps(line) + "\n" for line in whole))
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    info = target.info
    reference = load_reference(config.target, device=info.device, dtype=info.dtype, attention="eager")
    for number in missing:
        prompt = target.build_prompt(windows.request(plan.layer_length, number).messages)
        score = partial(windows.score, plan.layer_length, number)
        fresh = list(study_window(reference, target, prompt, number, plan.max_new_tokens, score))
        with journal.open("a") as stream:
            stream.write(json.dumps([asdict(finding) for finding in fresh]) + "\n")
        found += fresh
        listener(found)
    return found


class _Journal:
    """What was measured, window by window; a last line that a kill cut off is dropped."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self.runs: dict[str, list[MethodRun]] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings) + "\n")
            return
        if not lines[0].endswith("\n") or json.loads(lines[0]) != settings:
            raise ConfigError(f"{path} was measured with other drafters or settings; name another --output")
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            Folder(str(path.parent)).write(path.name, "".join(whole).encode())
        for line in whole[1:]:
            runs = [MethodRun(**fields) for fields in json.loads(line)]
            self.runs[runs[0].window] = runs

    @property
    def all(self) -> list[MethodRun]:
        """Everything measured."""
        return [run for runs in self.runs.values() for run in runs]

    def add(self, name: str, runs: list[MethodRun]) -> None:
        self.runs[name] = runs
        with self._path.open("a") as stream:
            stream.write(json.dumps([asdict(run) for run in runs]) + "\n")

    def num_usable(self, length: int, temperatures: Sequence[float]) -> int:
        """Windows of a length that count at every temperature."""
        of_length = [runs for runs in self.runs.values() if runs[0].visual_tokens == length]
        return min(
            sum(any(run.usable and run.temperature == t for run in runs) for runs in of_length) for t in temperatures
        )
