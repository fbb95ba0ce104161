"""The benchmark's tables on a tiny model: every part is measured, and the parts are consistent."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.tokenizer import load_tokenizer
from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.measure.benchmark import (
    BenchmarkConfig,
    BenchmarkModels,
    measure_decoding,
    measure_single_costs,
    measure_synthetic_decoding,
)
from sparrow_core.measure.floors import MachineRates
from sparrow_core.targets.qwen2_5_vl import Qwen25VLTarget
from sparrow_core.targets.reference import load_reference
from sparrow_core.targets.synthetic import Geometry, random_target
from sparrow_core.types import Request
from tests.conftest import video_messages

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
GEOMETRY = Geometry(2, 128, 192, 4, 2, 800)
RATES = MachineRates(read_bytes_per_s=1e9, flop_per_s=1e9)
CONFIG = BenchmarkConfig((8, 32), {"chain": DraftConfig.chain(2)}, 1, (1, 2), (Sampling(), Sampling(1.0)), (8, 32))


def requests_of_length(length: int) -> list[Request]:
    return [Request(video_messages(seed, num_frames=length // 2), max_new_tokens=6) for seed in range(2)]


def test_every_table_is_filled_for_every_length(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    torch.manual_seed(0)
    drafter = SparrowDrafter.untrained(tiny_target)
    library = load_reference(str(tiny_checkpoint), device=tiny_target.info.device, dtype=torch.float32)
    models = BenchmarkModels(tiny_target, drafter, library)
    costs = measure_single_costs(models, CONFIG, RATES)
    tables = defaultdict(list)
    for part in measure_decoding(models, CONFIG, requests_of_length, costs["passes"], lambda: 7):
        for name, rows in part.items():
            tables[name] += rows
    assert {row["visual_tokens"] for row in tables["rows"]} == {8, 32}
    assert {row["temperature"] for row in tables["rows"]} == {0.0, 1.0}
    first, step = tables["rows"][0], costs["passes"][0]
    assert (first["floor_ms"], first["verify_ms"]["1"], first["peak_bytes"]) == (step["floor_ms"], step["ms"], 7)
    assert {(row["visual_tokens"], row["batch"]) for row in tables["throughput"]} == {(8, 1), (8, 2), (32, 1), (32, 2)}
    assert len(tables["drafter_cost"]) == 2
    (joining,) = tables["joining"]
    assert (joining["running"], joining["joining"]) == (8, 32)
    assert joining["p95_during_ms"] <= joining["longest_during_ms"]


@pytest.fixture(scope="module")
def random() -> Qwen25VLTarget:
    return random_target(GEOMETRY, load_tokenizer(Path("demo/weights/target")), device=CPU, dtype=torch.float32)


def test_a_synthetic_target_has_the_geometry_asked_for(random: Qwen25VLTarget) -> None:
    info = random.info
    found = Geometry(
        info.num_layers, info.hidden_size, info.intermediate_size, info.num_heads, info.num_kv_heads, info.vocab_size
    )
    assert found == GEOMETRY


@pytest.mark.parametrize(("acceptance", "chain_tau"), [(0.0, 1.0), (0.7, 2.2)])
def test_synthetic_acceptance_is_what_is_accepted(random: Qwen25VLTarget, acceptance: float, chain_tau: float) -> None:
    """A chain of 2 whose tokens are right with probability 0.7 gives 1 + 0.7 + 0.49 tokens a round."""
    config = BenchmarkConfig(
        (8, 32), {"chain": DraftConfig.chain(2), "tree": DraftConfig(2, 3, 6)}, 1, (1,), (Sampling(),), None
    )
    models = BenchmarkModels(random, SparrowDrafter.untrained(random), random.model)
    costs = measure_single_costs(models, config, RATES)
    assert {row["context"] for row in costs["passes"]} == {8, 32} and costs["drafts"][0]["ms"] > 0

    def long_requests(length: int) -> list[Request]:
        return [replace(requests_of_length(length)[0], max_new_tokens=100)]

    parts = measure_synthetic_decoding(models, config, long_requests, costs["passes"], lambda: 7, acceptance=acceptance)
    rows = [row for part in parts for row in part["rows"]]
    assert {(row["visual_tokens"], row["synthetic_acceptance"]) for row in rows} == {(8, acceptance), (32, acceptance)}
    assert all(row["equal_tokens"] for row in rows if not row["method"].startswith("transformers"))
    for row in rows:
        if row["method"] in ("chain", "tree"):
            assert row["tau"] == pytest.approx(chain_tau, abs=0.3)
