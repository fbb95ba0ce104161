"""One run of the drafter pipeline: distil if due, measure beside the drafter in use, register, promote if better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.cluster import connected
from pipeline.common.registry import Registry
from pipeline.drafters.config import DrafterRunConfig
from pipeline.drafters.distillation import DistillPolicy, DistillResult, distill
from pipeline.drafters.evaluation import HeldOutWindows, evaluate_drafters
from pipeline.drafters.origin import TrainingWindows
from pipeline.drafters.publishing import is_concluded, is_judged, register_and_promote, store_evaluation
from pipeline.drafters.triggers import min_new_captions
from sparrow_core.measure.acceptance import AcceptanceRow
from sparrow_core.types import Request


@dataclass(frozen=True)
class DrafterWindows:
    """Windows to train on, to measure on, and to choose the best checkpoint with."""

    training: TrainingWindows
    heldout: HeldOutWindows
    validation: Sequence[Callable[[], Request]]


@dataclass(frozen=True)
class DrafterOutcome:
    """Outcome of a run: the drafter's folder, the rows measured in this run (empty: none), and the registry's decision
    (None: it was not asked). `waiting` says why no training began, if none did."""

    folder: Path
    measured: Sequence[AcceptanceRow] = ()
    judgement: str | None = None
    waiting: str | None = None


def make_drafter(
    config: DrafterRunConfig,
    windows: DrafterWindows,
    registry: Registry | None,
    output: Path,
    log: Callable[[str], None] = lambda line: None,
) -> DrafterOutcome:
    """Run all stages. `log` receives a line if the tau of a watched captioning run was compared (`triggers.Drift`)."""
    with connected():
        required, drift = min_new_captions(config.trigger, registry)
        if drift:
            log(str(drift))
        policy = DistillPolicy(
            required,
            registry.refuse_other_target if registry else lambda fingerprint: None,
            lambda folder: is_concluded(folder, registry),
        )
        result = distill(config, windows.training, output, policy, windows.validation)
        folder = result.folder
        if not result.is_new and (not folder.exists() or is_concluded(folder, registry)):
            return DrafterOutcome(folder, waiting=_why_no_training(result, required))
        rows = _measure(config, result, registry, windows.heldout)
    judgement = register_and_promote(folder, registry) if registry and not is_judged(folder, registry) else None
    return DrafterOutcome(folder, rows, judgement)


def _measure(
    config: DrafterRunConfig, result: DistillResult, registry: Registry | None, heldout: HeldOutWindows
) -> list[AcceptanceRow]:
    """Measure the new drafter, and on the same windows the drafter in use, whose recorded evaluation is replaced."""
    in_use = registry.in_use if registry and not registry.uses(result.folder) else None
    contenders = [str(result.folder), *([registry.files(in_use)] if registry and in_use else [])]
    rows = evaluate_drafters(config, config.evaluation, contenders, heldout)
    if registry and in_use:
        registry.update_evaluation(in_use, [row for row in rows if row.drafter == in_use])
    store_evaluation(result.folder, config, result.num_captions, rows)
    return rows


def _why_no_training(result: DistillResult, required: int) -> str:
    waiting = f"{result.num_waiting} new captions, fewer than {required}" if result.num_waiting else "nothing new"
    stays = f"{result.folder} stays" if result.folder.exists() else "no drafter yet"
    return f"{waiting} to learn from: {stays}"
