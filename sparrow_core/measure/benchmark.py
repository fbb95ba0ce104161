"""Measures the tables of a benchmark part by part, so that an interrupted run keeps the parts it has.

Owns what is measured at which visual length and with which engine. Does not know where windows come from or where the
figures go.
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
from sparrow_core.measure.drafter_cost import measure_drafter_cost
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
"""The windows of one visual length, as requests."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure. `joining` holds the visual lengths of a running window and of one that joins it."""

    lengths: Sequence[int]
    shapes: Mapping[str, DraftConfig]
    repeats: int
    batches: Sequence[int]
    samplings: Sequence[Sampling]
    joining: tuple[int, int] | None

    @property
    def engine(self) -> EngineConfig:
        """Room for the largest batch of the longest windows; text takes up to a quarter of the visual tokens, and 1,024
        slots."""
        widest, longest = max(self.batches), max([*self.lengths, *(self.joining or ())])
        sequences = max(widest, 2 if self.joining else 1)
        room = longest * 5 // 4 + 1024
        return EngineConfig(max_sequences=sequences, max_model_tokens=room, arena_tokens=room * sequences)


class BenchmarkModels(NamedTuple):
    """What is measured: a target, its drafter, and the same checkpoint as transformers loads it."""

    target: TargetModel
    drafter: SparrowDrafter
    library: ReferenceModel


def measure_single_costs(models: BenchmarkModels, config: BenchmarkConfig, rates: MachineRates) -> Tables:
    """Time passes by rows and context, and drafts by shape, over blank KV caches; no window is decoded."""
    target, drafter, _ = models
    return {
        "passes": [asdict(row) for row in measure_passes(target, config.lengths, rates)],
        "drafts": [
            {"draft": name, "ms": 1000 * draft_seconds(target, drafter, shape)} for name, shape in config.shapes.items()
        ],
    }


def measure_decoding(
    models: BenchmarkModels,
    config: BenchmarkConfig,
    requests_of_length: RequestsOfLength,
    passes: Sequence[Mapping[str, Any]],
    peak_bytes: Callable[[], int],
) -> Iterator[Tables]:
    """Time every mode on the windows of each length, then throughput by batch size, then a long prompt that joins.

    `passes` are rows of `measure_single_costs`; each row of a mode repeats those of its length.
    """
    target, drafter, library = models
    check = SpeedCheck(library, target, drafter, config.shapes, config.engine)
    largest = max(config.shapes.values(), key=lambda shape: shape.total)
    for length in config.lengths:
        requests = requests_of_length(length)
        cost = on_temporary_thread(partial(measure_drafter_cost, drafter, requests[0], largest))
        yield {"drafter_cost": [asdict(cost)]}
        for sampling in config.samplings:
            rows = check.measure(length, requests, config.repeats, sampling)
            columns = _pass_columns(passes, length) | {"rule": sampling.rule, "peak_bytes": peak_bytes()}
            yield {"rows": [asdict(row) | columns for row in rows]}
        for batch in config.batches:
            yield {"throughput": [asdict(row) for row in check.throughput(length, requests, batch)]}
    if config.joining:
        running, joining = (requests_of_length(length)[0] for length in config.joining)
        with check.engine() as engine:
            yield {"joining": [asdict(measure_joining(engine, running, joining))]}


def measure_synthetic_decoding(
    models: BenchmarkModels,
    config: BenchmarkConfig,
    requests_of_length: RequestsOfLength,
    passes: Sequence[Mapping[str, Any]],
    peak_bytes: Callable[[], int],
    acceptance: float,
) -> Iterator[Tables]:
    """Time every mode, greedy, on one window of each length with a `SyntheticAcceptanceDrafter`."""
    target, drafter, library = models
    for length in config.lengths:
        request = requests_of_length(length)[0]
        prompt, limit = target.build_prompt(request.messages), request.max_new_tokens
        decode = partial(generate_autoregressively, target, prompt, request.sampling, limit)
        answer = on_temporary_thread(decode)
        synthetic = SyntheticAcceptanceDrafter(drafter, answer, acceptance, target.info.vocab_size)
        check = SpeedCheck(library, target, synthetic, config.shapes, config.engine)
        rows = check.measure(length, [request], config.repeats, request.sampling)
        columns = _pass_columns(passes, length) | {"peak_bytes": peak_bytes(), "synthetic_acceptance": acceptance}
        yield {"rows": [asdict(row) | columns for row in rows]}


def _pass_columns(passes: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Columns for the rows of one length: milliseconds of a pass by its rows, and the floor of a pass of one row."""
    at_length = [row for row in passes if row["context"] == length]
    return {
        "verify_ms": {str(row["rows"]): row["ms"] for row in at_length},
        "floor_ms": next(row["floor_ms"] for row in at_length if row["rows"] == 1),
    }
