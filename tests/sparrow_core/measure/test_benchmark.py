"""The benchmark's tables on a tiny model: all parts come, and they belong together."""

from collections import defaultdict
from pathlib import Path

import torch

from demo.tokenizer import load_tokenizer
from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.target import TargetModel
from sparrow_core.measure.benchmark import Plan, decoding, single_costs
from sparrow_core.measure.floors import MachineRates
from sparrow_core.models.sparrow import SparrowDrafter
from sparrow_core.models.synthetic import Geometry, random_target
from sparrow_core.types import Request
from tests.conftest import video_messages

RATES = MachineRates(read_bytes_per_s=1e9, copied_bytes_per_s=1e9, flop_per_s=1e9)
PLAN = Plan((8, 32), {"chain": DraftConfig.chain(2)}, 1, (1, 2), (Sampling(), Sampling(1.0)), (8, 32))


def windows(length: int) -> list[Request]:
    return [Request(video_messages(seed, num_frames=length // 2), max_new_tokens=6) for seed in range(2)]


def test_every_table_is_filled_for_every_length(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    torch.manual_seed(0)
    drafter = SparrowDrafter.untrained(tiny_target)
    costs = single_costs(tiny_target, drafter, PLAN, RATES)
    tables = defaultdict(list)
    for part in decoding(str(tiny_checkpoint), tiny_target, drafter, PLAN, windows, costs["passes"], lambda: 7):
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


def test_a_synthetic_target_has_the_geometry_asked_for() -> None:
    geometry = Geometry(2, 128, 192, 4, 2, 300)
    tokenizer = load_tokenizer(Path("demo/weights/target"))
    target = random_target(geometry, tokenizer, device=torch.device("cpu"), dtype=torch.float32)
    info = target.info
    found = Geometry(
        info.num_layers, info.hidden_size, info.intermediate_size, info.num_heads, info.num_kv_heads, info.vocab_size
    )
    assert found == geometry
    drafter = SparrowDrafter.untrained(target)
    costs = single_costs(target, drafter, PLAN, RATES)
    assert {row["context"] for row in costs["passes"]} == {8, 32} and costs["drafts"][0]["ms"] > 0
