"""One run that makes a drafter: distil it when that is due, measure it beside the one in use, promote it if better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.cluster import connected
from pipeline.common.registry import Registry
from pipeline.drafters.config import DrafterRunConfig
from pipeline.drafters.distillation import Distilled, DistillPolicy, distill
from pipeline.drafters.evaluation import HeldOut, evaluate_drafters
from pipeline.drafters.origin import LearningWindows
from pipeline.drafters.publishing import is_concluded, is_judged, put_on_record, store_evaluation
from pipeline.drafters.triggers import least_new_captions
from sparrow_core.measure.acceptance import AcceptanceRow
from sparrow_core.types import Request


@dataclass(frozen=True)
class DrafterWindows:
    """Windows to learn from, to measure on, and to choose a checkpoint by."""

    learn: LearningWindows
    measure: HeldOut
    validate: Sequence[Callable[[], Request]]


@dataclass(frozen=True)
class DrafterOutcome:
    """What came of a run: the drafter's folder, rows of what was measured (none: nothing was), and what the registry
    made of it (None: it was not asked). `waiting` says why no training began."""

    folder: Path
    measured: Sequence[AcceptanceRow] = ()
    judgement: str | None = None
    waiting: str | None = None


def make_drafter(
    config: DrafterRunConfig,
    windows: DrafterWindows,
    registry: Registry | None,
    output: Path,
    say: Callable[[str], None] = lambda line: None,
) -> DrafterOutcome:
    """All stages; `say` is told what they find on the way."""
    with connected():
        least_new, drift = least_new_captions(config.trigger, registry)
        if drift:
            say(str(drift))
        policy = DistillPolicy(
            least_new,
            registry.refuse_other_target if registry else lambda fingerprint: None,
            lambda folder: is_concluded(folder, registry),
        )
        made = distill(config, windows.learn, output, policy, windows.validate)
        if not made.is_new and (not made.folder.exists() or is_concluded(made.folder, registry)):
            return DrafterOutcome(made.folder, waiting=_why_nothing_began(made, least_new))
        rows = _measure(config, made, registry, windows.measure)
    judgement = put_on_record(made.folder, registry) if registry and not is_judged(made.folder, registry) else None
    return DrafterOutcome(made.folder, rows, judgement)


def _measure(
    config: DrafterRunConfig, made: Distilled, registry: Registry | None, heldout: HeldOut
) -> list[AcceptanceRow]:
    """Measure the new drafter, and the one in use on the same windows, whatever that was measured on before."""
    in_use = registry.in_use if registry and not registry.uses(made.folder) else None
    contenders = [str(made.folder), *([registry.files(in_use)] if registry and in_use else [])]
    rows = evaluate_drafters(config, config.evaluation, contenders, heldout)
    if registry and in_use:
        registry.measured_again(in_use, [row for row in rows if row.drafter == in_use])
    store_evaluation(made.folder, config, made.num_captions, rows)
    return rows


def _why_nothing_began(made: Distilled, least_new: int) -> str:
    waiting = f"{made.num_waiting} new captions, fewer than {least_new}" if made.num_waiting else "nothing new"
    stays = f"{made.folder} stays" if made.folder.exists() else "no drafter yet"
    return f"{waiting} to learn from: {stays}"
