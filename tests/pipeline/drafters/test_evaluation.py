"""The rows that a measuring worker returns for its windows, without Ray."""

import json
from functools import partial
from pathlib import Path

from demo.windows import DemoWindows
from pipeline.drafters.config import DistillRunConfig, EvaluationConfig
from pipeline.drafters.evaluation import MeasureWindow
from sparrow_core.config import DraftConfig
from sparrow_core.errors import MediaError
from sparrow_core.types import Request


def gone() -> Request:
    raise MediaError("clip.mp4 is not there any more", reason="missing")


def test_only_the_window_that_cannot_be_read_is_left_out(tiny_checkpoint: Path) -> None:
    run = DistillRunConfig(str(tiny_checkpoint), device="cpu")
    evaluation = EvaluationConfig((64,), 2, (0.0, 1.0), max_new_tokens=4, drafts={"chain": DraftConfig.chain(2)})
    request = partial(DemoWindows("heldout", (64,), 0).request, 0, 4)
    measure = MeasureWindow(run, evaluation, ["none", "prompt_lookup"], {64: [gone, request]})
    missing, found = (measure({"length": 64, "index": index}) for index in range(2))
    assert missing == {"length": 64, "index": 0, "error": "clip.mp4 is not there any more", "measured": "[]"}
    modes = [(row["drafter"], row["temperature"]) for row in json.loads(found["measured"])]
    assert found["error"] is None and modes == [(d, t) for d in ("none", "prompt_lookup") for t in (0.0, 1.0)]
