"""The drafter that is shipped with the demo target proposes well: what it is worth, as a number that must not fall."""

from pathlib import Path

from demo.windows import DemoWindows
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.targets.loading import load_target

WEIGHTS = Path(__file__).parents[2] / "demo/weights"
FIRST_SEED = 80_500  # of held-out windows that nothing else uses
LEAST_TAU = 7.0  # measured on these four: 8.2; its model card has 7.76 over 40 windows of this length


def test_tau_of_a_tree_of_25_stays_where_it_is() -> None:
    target = load_target(str(WEIGHTS / "target"), device="cpu", dtype="float32")
    drafter = load_drafter(str(WEIGHTS / "drafter"), target)
    windows = DemoWindows("heldout", (64,), FIRST_SEED)
    config = EngineConfig(DraftConfig(8, 4, 25), max_model_tokens=1024, max_sequences=4, arena_tokens=4096)
    with Engine(target, drafter, config) as engine:
        tickets = [engine.submit(windows.request(index, max_new_tokens=256)) for index in range(4)]
        stats = [ticket.result(60).stats for ticket in tickets]
    tau = sum(found.tokens_from_rounds for found in stats) / sum(found.rounds for found in stats)
    assert tau >= LEAST_TAU
