"""The paper's comparison: drafters of every method trained alike, and measured on the same windows. Resumable.

Owns the order of the work and its journal. Windows, and how a caption is scored, come from outside.

    OUTPUT/states-<target>-<settings>/   captured windows, shared by all cells that learn from them
    OUTPUT/cells/<run>/                  a trained drafter each, with its loss curve and tau on validation windows
    OUTPUT/drafters/<name>/              the best one of every name
    OUTPUT/runs.jsonl                    one line for each measured window
    OUTPUT/layers.jsonl                  one line for each window of the layer study
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.capture_graph import RequestSource
from pipeline.capture_run import capture_numbered
from pipeline.checkpoints import checkpoint_identity
from pipeline.distill_config import DistillRunConfig, capture_settings
from pipeline.distill_run import states_folder
from pipeline.journal import Journal
from pipeline.trained_drafters import TrainedDrafter, best_rate
from pipeline.training_cells import Cell, CellResult
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.measure.layers import LayerFinding, study_window
from sparrow_core.measure.methods import ALONE, MethodRun, Way, method_runs, read_run, run_methods
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.models.reference import load_reference
from sparrow_core.models.rivals import PromptLookupDrafter
from sparrow_core.models.specvlm import SpecVLMDrafter
from sparrow_core.types import Request

JOURNAL, LAYERS = "runs.jsonl", "layers.jsonl"
SPARROW = "sparrow"
UNTRAINED = ("specvlm", "prompt_lookup")


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured: `windows` usable windows of every length, of which up to `most_windows` are tried.

    Methods draft in the shape `draft` and as the governor chooses. Greedily and in that shape, the drafters `squeezed`
    are measured once more, a longer video taking `squeezed_span` places; and ablations, on the first `ablation_windows`
    of `ablation_lengths` alone. The layer study takes `layer_windows` windows of `layer_length`."""

    lengths: tuple[int, ...] = (512, 1500, 6000, 17000, 25000)
    windows: int = 40
    most_windows: int = 60
    temperatures: tuple[float, ...] = (0.0, 1.0)
    ablation_lengths: tuple[int, ...] = (512, 25000)
    ablation_windows: int = 20
    squeezed: tuple[str, ...] = ()
    squeezed_span: int = 512
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


def capture_all(variants: Sequence[Variant], output: Path) -> dict[str, Path]:
    """Where each variant's windows are; captures what is missing. Ray must be connected. Raises CheckpointError where
    some could not be captured."""
    folders: dict[str, Path] = {}
    for variant in variants:
        folder = states_folder(variant.config, variant.windows, output)
        if folder not in folders.values():
            settings = capture_settings(variant.config, variant.windows)
            capture_numbered(variant.config, variant.requests, str(folder), settings)
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


def _at_rate(config: DistillRunConfig, rate: float) -> DistillRunConfig:
    return replace(config, train=replace(config.train, learning_rate=rate))


def measure(
    config: DistillRunConfig,
    plan: MeasureConfig,
    methods: Mapping[str, TrainedDrafter],
    ablations: Mapping[str, TrainedDrafter],
    windows: Windows,
    output: Path,
    listener: Callable[[list[MethodRun]], None],
) -> list[MethodRun]:
    """Decode the windows of every length by every method, one window after the other, in this process.

    `listener` is told of all that was measured so far, after every window. What the journal holds of these drafters is
    not measured again. Raises ConfigError where it was written with other settings.
    """
    settings = {
        "target": checkpoint_identity(config.target),
        "draft": asdict(plan.draft),
        "max_new_tokens": plan.max_new_tokens,
    }
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    folders = {name: str(drafter.folder) for name, drafter in {**methods, **ablations}.items()}
    trained = {name: load_drafter(folder, target) for name, folder in folders.items()}
    squeezed = {name: f"{name}, squeezed" for name in plan.squeezed}
    drafters: dict[str, Drafter[Any]] = {
        **trained,
        **{label: trained[name].squeezing(plan.squeezed_span) for name, label in squeezed.items()},
        "specvlm": SpecVLMDrafter(target),
        "prompt_lookup": PromptLookupDrafter(target.info.vocab_size),
    }
    identities = {name: checkpoint_identity(folder) for name, folder in folders.items()}
    identities |= {label: f"{identities[name]}-{plan.squeezed_span}" for name, label in squeezed.items()}
    measured = _Runs(Journal(output / JOURNAL, settings), identities)
    in_full = [
        Way(method, drafters[method], temperature, shape)
        for temperature in plan.temperatures
        for method in (*methods, *UNTRAINED)
        for shape in (plan.draft, None)
    ]
    greedily = [Way(method, drafters[method], 0.0, plan.draft) for method in (*squeezed.values(), *ablations)]
    engine_config = EngineConfig(max_model_tokens=max(plan.lengths) * 5 // 4 + 2048, max_sequences=1)
    with Engine(target, None, engine_config) as engine:
        for length in plan.lengths:
            num_usable = 0
            for number in range(plan.most_windows):
                if num_usable == plan.windows:
                    break
                name = f"{length}-{number}"
                with_ablations = length in plan.ablation_lengths and num_usable < plan.ablation_windows
                wanted = in_full + [way for way in greedily if with_ablations or way.method not in ablations]
                done = {(run.method, run.temperature, run.governed) for run in measured.of(name)}
                if missing := [way for way in wanted if way.key not in done]:
                    loops = [Way(ALONE, None, temperature) for temperature in {way.temperature for way in missing}]
                    ways = [*loops, *missing]
                    request = replace(windows.request(length, number), request_id=name)
                    found = run_methods(engine, request, ways, turn=number)
                    measured.add(name, method_runs(ways, found, length, partial(windows.score, length, number)))
                    listener(measured.all)
                num_usable += all(run.usable for run in measured.of(name))
    return measured.all


def study_layers(
    config: DistillRunConfig,
    plan: MeasureConfig,
    windows: Windows,
    output: Path,
    listener: Callable[[list[LayerFinding]], None],
) -> list[LayerFinding]:
    """The layer study on the first windows of its length; those that its journal holds are not done again. Raises
    ConfigError where that was written with other settings."""
    settings = {
        "target": checkpoint_identity(config.target),
        "length": plan.layer_length,
        "max_new_tokens": plan.max_new_tokens,
    }
    journal = Journal(output / LAYERS, settings)
    done = {entry["window"]: [LayerFinding(**fields) for fields in entry["findings"]] for entry in journal.entries}
    if missing := [number for number in range(plan.layer_windows) if number not in done]:
        target = load_target(config.target, device=config.device, dtype=config.dtype)
        info = target.info
        reference = load_reference(config.target, device=info.device, dtype=info.dtype, attention="eager")
        for number in missing:
            prompt = target.build_prompt(windows.request(plan.layer_length, number).messages)
            score = partial(windows.score, plan.layer_length, number)
            done[number] = list(study_window(reference, target, prompt, number, plan.max_new_tokens, score))
            journal.add({"window": number, "findings": [asdict(finding) for finding in done[number]]})
            listener(done[number])
    return [finding for number in range(plan.layer_windows) for finding in done[number]]


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

    def add(self, window: str, runs: list[MethodRun]) -> None:
        self._of_window[window] += runs
        used = {run.method for run in runs} & self._drafters.keys()
        of = {name: self._drafters[name] for name in sorted(used)}
        self._journal.add({"window": window, "drafters": of, "runs": [asdict(run) for run in runs]})
