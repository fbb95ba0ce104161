"""Speed figures on a tiny model: every mode writes the same tokens, and the figures are consistent."""

from pathlib import Path

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine import engine as engine_module
from sparrow_core.engine.governor import CANDIDATES, Costs
from sparrow_core.measure.floors import MachineRates, pass_floor
from sparrow_core.measure.names import AUTOREGRESSIVE, GOVERNOR, LIBRARY, LIBRARY_LOOKUP
from sparrow_core.measure.passes import measure_passes
from sparrow_core.measure.speed import SpeedCheck
from sparrow_core.targets.reference import load_reference
from sparrow_core.types import Request
from tests.conftest import video_messages
from tests.sparrow_core.stage_clock import CHUNK_S, LOGITS_S, PASS_S, VISION_S, TimedDrafter, stage_clock

REQUESTS = [Request(video_messages(seed=seed), max_new_tokens=10) for seed in range(3)]
RATES = MachineRates(read_bytes_per_s=1e9, flop_per_s=1e9)


@pytest.fixture(scope="module")
def check(tiny_checkpoint: Path, tiny_target: TargetModel):
    torch.manual_seed(0)
    drafter = SparrowDrafter.untrained(tiny_target)
    library = load_reference(str(tiny_checkpoint), device=tiny_target.info.device, dtype=torch.float32)
    config = EngineConfig(max_model_tokens=256, max_sequences=3, arena_tokens=768)
    return SpeedCheck(library, tiny_target, drafter, {"chain": DraftConfig.chain(2)}, config)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=3)])
def test_rows_fit_together(check: SpeedCheck, sampling: Sampling) -> None:
    rows = {row.method: row for row in check.measure(8, REQUESTS[:2], 2, sampling)}
    library = {LIBRARY, LIBRARY_LOOKUP} if sampling.temperature == 0 else set()
    assert rows.keys() == {AUTOREGRESSIVE, "chain", GOVERNOR} | library
    assert all(row.equal_tokens and row.tokens == 20 for row in rows.values())
    loop = rows[AUTOREGRESSIVE]
    assert (loop.tau, loop.round_cost, loop.decode_speedup) == (1.0, 1.0, 1.0)
    for row in rows.values():
        assert row.end_to_end_bound > 1
        if row.tau and row.round_cost:
            assert row.decode_speedup == pytest.approx(row.tau / row.round_cost)


def test_figures_of_known_stages(tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage takes a known time, of which only the drafter's opening differs from repeat to repeat: 500, 900 and
    600 s after a warm-up of 9,000 s, in the mode with a chain and in the governor's, in turn."""
    drafter = TimedDrafter(
        stage_clock(tiny_target, monkeypatch), [9000, 9000, 500, 500, 900, 900, 600, 600] * 2, [50.0]
    )
    rows = (1, 64)
    costs = Costs(dict.fromkeys(rows, 1.0), dict.fromkeys(rows, 0.0), dict.fromkeys(CANDIDATES, 0.0))
    monkeypatch.setattr(engine_module, "measure_costs", lambda *_: costs)
    config = EngineConfig(max_model_tokens=256)
    check = SpeedCheck(None, tiny_target, drafter, {"chain": DraftConfig.chain(2)}, config)  # type: ignore[arg-type]
    alone, chain, _ = check.measure(8, REQUESTS[:2], 3, Sampling(1.0, seed=3))
    step_s, before_s, windows = PASS_S + LOGITS_S, VISION_S + CHUNK_S + LOGITS_S, 2
    assert alone.tokens == chain.tokens == 20 and chain.tau is not None
    rounds = (chain.tokens - windows) / chain.tau
    alone_s, chain_s = 9 * step_s, 600 + rounds / windows * (50 + step_s)  # of a window; its first token is prefill's
    assert (alone.ar_step_ms, alone.decode_s) == pytest.approx((1000 * step_s, alone_s))
    assert (chain.vision_s, chain.prefill_s, chain.decode_s) == pytest.approx((VISION_S, CHUNK_S + LOGITS_S, chain_s))
    assert chain.draft_ms_per_round == pytest.approx(1000 * (50 + 600 * windows / rounds))
    assert chain.verify_ms_per_round == pytest.approx(1000 * step_s)
    assert chain.round_cost == pytest.approx(chain_s * windows / rounds / step_s)
    assert chain.decode_speedup == pytest.approx(alone_s / chain_s)
    assert chain.tokens_per_s == pytest.approx(9 / chain_s)
    assert chain.end_to_end_speedup == pytest.approx((before_s + alone_s) / (before_s + chain_s))
    assert chain.end_to_end_bound == pytest.approx((before_s + alone_s) / before_s)


def test_throughput_counts_all_tokens(check: SpeedCheck) -> None:
    singly, together = check.throughput(8, REQUESTS, 1), check.throughput(8, REQUESTS, 3)
    assert [(row.method, row.batch, row.tokens) for row in [*singly, *together]] == [
        (GOVERNOR, 1, 30), (LIBRARY, 1, 30), (GOVERNOR, 3, 30),
    ]  # fmt: skip


def test_floor_counts_weights_and_context(tiny_target: TargetModel) -> None:
    model = tiny_target.model  # type: ignore[attr-defined]
    matrices = [p for p in model.model.language_model.layers.parameters() if p.ndim == 2]
    weights = sum(p.numel() for p in matrices) + model.lm_head.weight.numel()
    empty, long = pass_floor(tiny_target.info, 1, 0), pass_floor(tiny_target.info, 1, 1000)
    kv_slot = 2 * 2 * tiny_target.info.num_kv_heads * tiny_target.info.head_dim * 4
    assert empty.num_bytes == weights * 4 + kv_slot
    assert long.num_bytes - empty.num_bytes == 1000 * kv_slot
    assert empty.num_flop == 2 * weights
    assert pass_floor(tiny_target.info, 8, 0).num_flop == 8 * empty.num_flop
    assert empty.seconds(RATES) == pytest.approx(max(empty.num_bytes, empty.num_flop) / 1e9)


def test_passes_are_timed_in_autoregressive_steps(tiny_target: TargetModel) -> None:
    rows = measure_passes(tiny_target, [0, 40], RATES)
    assert {row.context for row in rows} == {0, 40}
    assert all(row.ar_steps == 1 for row in rows if row.rows == 1)
    assert all(row.over_floor == pytest.approx(row.ms / row.floor_ms) for row in rows)
