"""The golden windows, and how their captions are written: `python -m tests.golden.captions` makes the file anew.

That is only right after a change that is meant to change captions: another target, another template, another sampling.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from demo.windows import DemoWindows
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

FILE = Path(__file__).with_name("captions.json")
ROOT = Path(__file__).parents[2]
TARGET, DRAFTER = str(ROOT / "demo/weights/target"), str(ROOT / "demo/weights/drafter")
NUM_WINDOWS = {64: 26, 512: 9, 1500: 4, 6000: 1}
FIRST_SEED, MAX_NEW_TOKENS = 70_000, 96
ENGINE = EngineConfig(max_model_tokens=8192, max_sequences=8, arena_tokens=16_384)


@dataclass(frozen=True)
class GoldenWindow:
    """A held-out window of the demo world; every other one is sampled."""

    length: int
    index: int

    @property
    def name(self) -> str:
        return f"{self.length}-{self.index}"

    def request(self) -> Request:
        greedy = DemoWindows("heldout", (self.length,), FIRST_SEED).request(self.index, MAX_NEW_TOKENS)
        sampled = Sampling(temperature=0.9, top_p=0.95, top_k=50, seed=self.index)
        return replace(greedy, request_id=self.name, sampling=sampled if self.index % 2 else Sampling())


def golden_windows() -> Iterator[GoldenWindow]:
    """All windows, the short ones first."""
    for length, count in NUM_WINDOWS.items():
        yield from (GoldenWindow(length, index) for index in range(count))


def golden_captions() -> dict[str, tuple[int, ...]]:
    """Token ids by the window's name, as the file has them."""
    return {name: tuple(ids) for name, ids in json.loads(FILE.read_text()).items()}


def main() -> None:
    """Write the file with what the one-row loop says in float32."""
    torch.set_num_threads(2)
    target = load_target(TARGET, device="cpu", dtype="float32")
    captions = {}
    for window in golden_windows():
        request = window.request()
        prompt = target.build_prompt(request.messages)
        captions[window.name] = generate_autoregressively(
            target, prompt, request.sampling, request.max_new_tokens, ENGINE.prefill
        )
    lines = [f"{json.dumps(name)}: {json.dumps(list(ids))}" for name, ids in captions.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
