"""Rows of the paper's tables against hand counts, and methods side by side against the autoregressive loop."""

import json
from dataclasses import asdict, replace
from typing import Any

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.drafters.specvlm import SpecVLMDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.measure.method_rows import method_rows
from sparrow_core.measure.methods import Method, MethodRun, ends_in_a_loop, method_runs, read_run, run_methods
from sparrow_core.measure.names import AUTOREGRESSIVE
from sparrow_core.types import Request, Sampling, SpecStats, Timings
from tests.conftest import video_messages


def run(method: str, window: str, rounds: int, tokens: int, decode_s: float, **changes: Any) -> MethodRun:
    stats = SpecStats(rounds, tokens, accepted_per_round=(2,) * rounds)
    timings = Timings(vision_s=1.0, prefill_s=4.0, drafter_prefill_s=0.5, decode_s=decode_s)
    usual = {"equal": True, "usable": True, "fact_score": 0.5}
    return MethodRun(
        method, visual_tokens=64, temperature=0.0, window=window, stats=stats, timings=timings, autoregressive_s=10.0,
        **usual | changes,
    )  # fmt: skip


def test_rows_pool_usable_windows() -> None:
    runs = [
        run("a", "v", 10, 40, 2.0),
        run("a", "w", 10, 20, 3.0, equal=False),
        run("a", "x", 1, 100, 0.1, usable=False),
        run("base", "v", 20, 40, 2.0),
        run("base", "w", 10, 20, 2.0),
        run("b", "x", 5, 5, 1.0, usable=False),
        run(AUTOREGRESSIVE, "v", 40, 40, 10.0),
    ]
    row, base = method_rows(runs, "base")
    assert (row.method, row.windows, row.left_out, row.unequal) == ("a", 2, 1, 1)
    assert row.tau == 3.0 and row.tau_low == 2.0 and row.tau_high == 4.0 and row.fact_score == 0.5
    assert row.tau_ratio == 30 / 20 and (row.tau_ratio_low, row.tau_ratio_high) == (1.0, 2.0)
    assert row.decode_speedup == 20 / 5 and (row.decode_speedup_low, row.decode_speedup_high) == (10 / 3, 10 / 2)
    assert row.speedup_ratio == 4 / 5 and (row.speedup_ratio_low, row.speedup_ratio_high) == (2 / 3, 1.0)
    assert row.round_cost == 3.0 / 4.0 and row.depth_acceptance == (1.0, 1.0)
    assert row.speedup_after_drafter_prefill == 20 / 4 and row.end_to_end_speedup == 30 / 15
    assert (base.method, base.tau, base.tau_ratio, base.speedup_ratio) == ("base", 2, 1, 1)
    slower_machine = [
        replace(run, autoregressive_s=30.0, timings=replace(run.timings, decode_s=6.0)) for run in runs[3:5]
    ]
    elsewhere, _ = method_rows([*runs[:2], *slower_machine], "base")
    assert elsewhere.speedup_ratio == 4 / 5, "the baseline is compared with the loop of its own run"
    (unpaired,) = method_rows([runs[0]], "base")
    assert unpaired.tau_ratio is None and unpaired.speedup_ratio_low is None


def test_the_order_of_measuring_does_not_matter() -> None:
    runs = [run("base", f"w{index}", 10 + index, 40 + 7 * index % 30, 2.0 + index) for index in range(12)]
    assert method_rows(runs, "base") == method_rows(runs[::-1], "base")


def test_runs_survive_json() -> None:
    before = run("a", "v", 10, 40, 2.0)
    assert read_run(json.loads(json.dumps(asdict(before)))) == before


def test_loops_are_told_from_text() -> None:
    assert ends_in_a_loop([5, 1, 2, 3, 1, 2, 3, 1, 2, 3, 99])
    assert ends_in_a_loop([7, 7, 7, 99])
    assert not ends_in_a_loop([1, 2, 3, 1, 2, 3, 4, 99])
    assert not ends_in_a_loop([1, 2, 3, 1, 2, 3, 99]), "two repeats are no loop"
    assert not ends_in_a_loop([])


def test_one_prefill_serves_all_methods_and_captions_are_equal(tiny_target: TargetModel) -> None:
    drafters = {"lookup": PromptLookupDrafter(tiny_target.info.vocab_size), "specvlm": SpecVLMDrafter(tiny_target)}
    request = Request(video_messages(seed=2), max_new_tokens=9, request_id="w")
    methods = [
        Method(AUTOREGRESSIVE, None, 0.0),
        Method(AUTOREGRESSIVE, None, 1.0),
        *[Method(AUTOREGRESSIVE, None, 0.0)] * 2,
        *(Method(name, drafter, 0.0, DraftConfig.chain(3)) for name, drafter in drafters.items()),
        Method("lookup", drafters["lookup"], 1.0, DraftConfig.chain(3)),
    ]
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=256)) as engine:
        found = run_methods(engine, request, methods, seed=4)
    prompt = tiny_target.build_prompt(request.messages)
    for temperature in (0.0, 1.0):
        expected = generate_autoregressively(tiny_target, prompt, Sampling(temperature, seed=4), 9)
        assert {c.token_ids for method, c in zip(methods, found, strict=True) if method.temperature == temperature} == {
            expected
        }
    assert len({completion.timings.vision_s for completion in found}) == 1, "the video was embedded once"
    assert found[0].stats.drafted == found[1].stats.drafted == 0 < found[4].stats.drafted
    runs = method_runs(methods, found, 4, lambda caption: 1.0)
    assert [run.key for run in runs] == [(method.method, method.temperature) for method in methods]
    assert all(run.equal and run.window == "w" for run in runs)
    assert not any(run.usable for run in runs), "cut off at nine tokens"
    loops = [found[number].timings.decode_s for number in (0, 2, 3)]
    assert [run.autoregressive_s for run in runs[4:6]] == [sorted(loops)[1]] * 2
    assert runs[6].autoregressive_s == found[1].timings.decode_s
