"""Hold the engine against the model's own words: `python jobs/check_equality.py --output DIR`."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from demo.tokenizer import SPECIAL_TOKENS, load_tokenizer
from demo.windows import DemoWindows
from pipeline.distill_config import EvaluationConfig
from pipeline.report.machine import describe_machine
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.measure.equality import Comparison, EqualityCheck
from sparrow_core.models.drafter import DrafterConfig, SparrowDrafterModel
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.models.rivals import ConstantDrafter
from sparrow_core.models.sparrow import SparrowDrafter
from sparrow_core.types import Request

SHAPES = EvaluationConfig().drafts
LENGTH_SHARES = {64: 0.5, 512: 0.3, 1500: 0.15, 6000: 0.05}
FIRST_SEED = 60_000
MAX_NEW_TOKENS = 320


def main(
    output: Annotated[Path, typer.Option(help="Folder for comparisons.jsonl (resumed) and equality.json.")],
    target: Annotated[str, typer.Option(help="A demo checkpoint folder.")] = "demo/weights/target",
    draft: Annotated[str, typer.Option(help="Its trained drafter.")] = "demo/weights/drafter",
    windows: Annotated[int, typer.Option(help="Greedy windows, against transformers' generate.")] = 300,
    seeds: Annotated[int, typer.Option(help="Sampled captions, against our autoregressive loop.")] = 200,
    batch: Annotated[int, typer.Option(help="Windows in the engine at once.")] = 8,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Decode held-out demo windows with a trained, a random and an always-wrong drafter, as chain and as tree.

    One prefill of a window serves all of them.

    Interrupted, the same command goes on where it stopped. Exit codes: 0 all equal or excused as ties, 4 otherwise.
    """
    torch.set_num_threads(threads)
    model = load_target(target)
    output.mkdir(parents=True, exist_ok=True)
    journal = output / "comparisons.jsonl"
    done = [Comparison(**json.loads(line)) for line in journal.read_text().splitlines()] if journal.exists() else []
    config = EngineConfig(max_sequences=batch)
    check = EqualityCheck(target, model, three_drafters(target, draft, model), SHAPES, config)
    requests = {**greedy_requests(windows), **sampled_requests(seeds)}
    finished = {comparison.window for comparison in done}
    missing = [name for name in requests if name not in finished]
    groups = [missing[first : first + batch] for first in range(0, len(missing), batch)]
    with journal.open("a") as stream:
        for group in track(groups, "groups of windows", console=Console(stderr=True)):
            for fresh in check.compare([replace(requests[name](), request_id=name) for name in group]):
                done += fresh
                stream.write("".join(json.dumps(asdict(comparison)) + "\n" for comparison in fresh))
                stream.flush()
    check.close()
    raise typer.Exit(report([c for c in done if c.window in requests], model, output))


def three_drafters(source: str, draft: str, target: TargetModel) -> dict[str, Drafter]:
    """One that is good, one that knows nothing, and one that is never right: control tokens stand in no caption."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(Path(source))
    control = [int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS[-5:]]  # type: ignore[arg-type]
    return {
        "trained": load_drafter(draft, target),
        "random": SparrowDrafter(SparrowDrafterModel(DrafterConfig.for_target(target.info)), target),
        "always wrong": ConstantDrafter(control, target.info.vocab_size, target.info.device),
    }


def greedy_requests(windows: int) -> dict[str, Callable[[], Request]]:
    """Held-out windows of 64 to 6,000 visual tokens, by name."""
    return {
        f"greedy-{length}-{index}": partial(
            DemoWindows("heldout", (length,), FIRST_SEED).request, index, max_new_tokens=MAX_NEW_TOKENS
        )
        for length, share in LENGTH_SHARES.items()
        for index in range(round(windows * share))
    }


def sampled_requests(seeds: int) -> dict[str, Callable[[], Request]]:
    """One held-out window of 64 visual tokens for each seed, with top-p and top-k, under shared noise."""

    def request(seed: int) -> Request:
        greedy = DemoWindows("heldout", (64,), FIRST_SEED).request(seed, max_new_tokens=MAX_NEW_TOKENS)
        return replace(greedy, sampling=Sampling(temperature=1.0, top_p=0.95, top_k=50, seed=seed))

    return {f"sampled-64-{seed}": partial(request, seed) for seed in range(seeds)}


def report(comparisons: list[Comparison], target: TargetModel, output: Path) -> int:
    """Write equality.json, print its figures; the exit code."""
    kinds = ("greedy", "sampled")
    summary = {
        kind: {
            "windows": len({c.window for c in comparisons if c.window.startswith(kind)}),
            "comparisons": sum(c.window.startswith(kind) for c in comparisons),
            "tokens": sum(c.num_tokens for c in comparisons if c.window.startswith(kind)),
            "unequal": [asdict(c) for c in comparisons if c.window.startswith(kind) and not c.equal],
        }
        for kind in kinds
    }
    machine = describe_machine(target.info.device)
    text = json.dumps({"target": target.info.fingerprint, **summary, "machine": machine}, indent=2)
    (output / "equality.json").write_text(text + "\n")
    print(text)
    return 0 if all(c.equal or c.excused for c in comparisons) else 4


if __name__ == "__main__":
    typer.run(main)
