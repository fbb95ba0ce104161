"""All tables of a benchmark, piece by piece, so that an interrupted run keeps what it has measured.

Owns what is measured for which length and with what engine. It does not know where windows come from or what becomes of
the figures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.costs import draft_seconds
from sparrow_core.measure.drafter_cost import drafter_cost
from sparrow_core.measure.floors import MachineRates
from sparrow_core.measure.joining import measure_joining
from sparrow_core.measure.passes import measure_passes
from sparrow_core.measure.speed import SpeedCheck
from sparrow_core.measure.synthetic_acceptance import SyntheticAcceptanceDrafter
from sparrow_core.targets.reference import ReferenceModel
from sparrow_core.threads import on_temporary_thread
from sparrow_core.types import Request

Tables = dict[str, list[dict[str, Any]]]
RequestsOfLength = Callable[[int], list[Request]]
"""RequestsOfLength of one visual length."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure. `joining` are the visual lengths of a window that runs and of one that joins it."""

    lengths: Sequence[int]
    shapes: Mapping[str, DraftConfig]
    repeats: int
    batches: Sequence[int]
    samplings: Sequence[Sampling]
    joining: tuple[int, int] | None

    @property
    def engine(self) -> EngineConfig:
        """Room for the largest batch of the longest windows, a quarter of each prompt beside the visual tokens."""
        widest, longest = max(self.batches), max([*self.lengths, *(self.joining or ())])
        sequences = max(widest, 2 if self.joining else 1)
        room = longest * 5 // 4 + 1024
        return EngineConfig(max_sequences=sequences, max_model_tokens=room, arena_tokens=room * sequences)


class Subject(NamedTuple):
    """What is measured: a target, its drafter, and the same checkpoint as transformers loads it."""

    target: TargetModel
    drafter: SparrowDrafter
    library: ReferenceModel


def single_costs(subject: Subject, plan: BenchmarkConfig, rates: MachineRates) -> Tables:
    """Passes by rows and context, and drafts by shape; blank caches, no windows."""
    target, drafter, _ = subject
    return {
        "passes": [asdict(row) for row in measure_passes(target, plan.lengths, rates)],
        "drafts": [
            {"draft": name, "ms": 1000 * draft_seconds(target, drafter, shape)} for name, shape in plan.shapes.items()
        ],
    }


def decoding(
    subject: Subject,
    plan: BenchmarkConfig,
    windows: RequestsOfLength,
    passes: Sequence[Mapping[str, Any]],
    peak_bytes: Callable[[], int],
) -> Iterator[Tables]:
    """Every mode on the windows of each length, then throughput by batch size, then the joining of a long prompt.

    `passes` are the rows of `single_costs`, which stand beside the modes of their length.
    """
    target, drafter, library = subject
    check = SpeedCheck(library, target, drafter, plan.shapes, plan.engine)
    largest = max(plan.shapes.values(), key=lambda shape: shape.total)
    for length in plan.lengths:
        requests = windows(length)
        beside = _beside(passes, length)
        yield {"drafter_cost": [asdict(on_temporary_thread(partial(drafter_cost, drafter, requests[0], largest)))]}
        for sampling in plan.samplings:
            rows = check.measure(length, requests, plan.repeats, sampling)
            beside |= {"rule": sampling.rule, "peak_bytes": peak_bytes()}
            yield {"rows": [asdict(row) | beside for row in rows]}
        for batch in plan.batches:
            yield {"throughput": [asdict(row) for row in check.throughput(length, requests, batch)]}
    if plan.joining:
        running, joining = (windows(length)[0] for length in plan.joining)
        with check.engine() as engine:
            yield {"joining": [asdict(measure_joining(engine, running, joining))]}


def synthetic_decoding(
    subject: Subject,
    plan: BenchmarkConfig,
    windows: RequestsOfLength,
    passes: Sequence[Mapping[str, Any]],
    peak_bytes: Callable[[], int],
    acceptance: float,
) -> Iterator[Tables]:
    """Every mode on one window of each length, greedy, with an imposed acceptance (see `imposed.py`)."""
    target, drafter, library = subject
    for length in plan.lengths:
        request = windows(length)[0]
        prompt, limit = target.build_prompt(request.messages), request.max_new_tokens
        alone = partial(generate_autoregressively, target, prompt, request.sampling, limit)
        imposed = SyntheticAcceptanceDrafter(drafter, on_temporary_thread(alone), acceptance, target.info.vocab_size)
        check = SpeedCheck(library, target, imposed, plan.shapes, plan.engine)
        rows = check.measure(length, [request], plan.repeats, request.sampling)
        beside = _beside(passes, length) | {"peak_bytes": peak_bytes(), "synthetic_acceptance": acceptance}
        yield {"rows": [asdict(row) | beside for row in rows]}


def _beside(passes: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Passes at one length, to stand beside its modes."""
    at_length = [row for row in passes if row["context"] == length]
    return {
        "verify_ms": {str(row["rows"]): row["ms"] for row in at_length},
        "floor_ms": next(row["floor_ms"] for row in at_length if row["rows"] == 1),
    }
