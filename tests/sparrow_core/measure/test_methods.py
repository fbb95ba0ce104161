"""Rows of the paper's tables against hand counts, and methods side by side against the one-row loop."""

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.measure.methods import ALONE, MethodRun, ends_in_a_loop, method_rows, method_runs, run_methods
from sparrow_core.models.rivals import PromptLookupDrafter
from sparrow_core.models.specvlm import SpecVLMDrafter
from sparrow_core.types import Request, Sampling
from tests.conftest import video_messages


def run(method: str, rounds: int, tokens: int, decode_s: float, usable: bool = True, equal: bool = True) -> MethodRun:
    return MethodRun(method, 64, 0.0, "w", rounds, tokens, decode_s, 10.0, equal, usable, fact_score=0.5)


def test_rows_pool_usable_windows() -> None:
    runs = [run("a", 10, 40, 2.0), run("a", 10, 20, 3.0, equal=False), run("a", 1, 100, 0.1, usable=False)]
    (row,) = method_rows([*runs, run("b", 5, 5, 1.0, usable=False)])
    assert (row.method, row.windows, row.left_out, row.unequal) == ("a", 2, 1, 1)
    assert row.tau == 3.0 and row.tau_low <= 3.0 <= row.tau_high
    assert row.decode_speedup == 20 / 5 and row.round_cost == 3.0 / 4.0 and row.fact_score == 0.5


def test_loops_are_told_from_text() -> None:
    assert ends_in_a_loop([5, 1, 2, 3, 1, 2, 3, 1, 2, 3, 99])
    assert ends_in_a_loop([7, 7, 7, 99])
    assert not ends_in_a_loop([1, 2, 3, 1, 2, 3, 4, 99])
    assert not ends_in_a_loop([1, 2, 3, 1, 2, 3, 99]), "said twice is no loop"
    assert not ends_in_a_loop([])


def test_one_prefill_serves_all_and_all_say_the_same(tiny_target: TargetModel) -> None:
    drafters = {"lookup": PromptLookupDrafter(tiny_target.info.vocab_size), "specvlm": SpecVLMDrafter(tiny_target)}
    request = Request(video_messages(seed=2), max_new_tokens=9, request_id="w")
    plan = {0.0: drafters, 1.0: {"lookup": drafters["lookup"]}}
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=256)) as engine:
        found = run_methods(engine, request, plan, DraftConfig.chain(3), turn=4)
    assert {t: set(named) for t, named in found.items()} == {0.0: {ALONE, "lookup", "specvlm"}, 1.0: {ALONE, "lookup"}}
    prompt = tiny_target.build_prompt(request.messages)
    for temperature, completions in found.items():
        alone = generate_autoregressively(tiny_target, prompt, Sampling(temperature, seed=4), 9)
        assert {completion.token_ids for completion in completions.values()} == {alone}
        prefills = {completion.timings.vision_s for completion in completions.values()}
        assert len(prefills) == 1, "the video was looked at once"
        runs = method_runs(completions, 4, temperature, fact_score=1.0)
        assert all(run.equal and run.window == "w" for run in runs)
        assert not any(run.usable for run in runs), "cut off at nine tokens"
