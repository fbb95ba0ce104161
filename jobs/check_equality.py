"""Hold the engine against the model's own words: `python jobs/check_equality.py --output DIR`."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.option_values import demo_windows, numbers
from jobs.options import DemoDraftOption, DemoTargetOption, ThreadsOption
from pipeline.common.journal import Journal
from pipeline.common.machine import describe_machine
from pipeline.drafters.config import EvaluationConfig
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.constant import ConstantDrafter
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.measure.equality import EqualityCheck, EqualityResult
from sparrow_core.measure.names import GOVERNOR
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

SHAPES = {**EvaluationConfig().drafts, GOVERNOR: None}
DRAFTERS = ("trained", "random", "always wrong")
FIRST_SEED = 60_000
MAX_NEW_TOKENS = 320


def main(
    output: Annotated[Path, typer.Option(help="Folder for comparisons.jsonl (resumed) and equality.json.")],
    target: DemoTargetOption = DEMO["target"],
    draft: DemoDraftOption = DEMO["draft"],
    greedy: Annotated[
        str, typer.Option(help="Greedy windows by visual tokens, as 64:150,512:90.")
    ] = "64:150,512:90,1500:45,6000:15",
    against: Annotated[
        str, typer.Option(help="Judge of greedy captions: generate, or oracle (our loop).")
    ] = "generate",
    drafters: Annotated[str, typer.Option(help="Comma separated, of those three.")] = ",".join(DRAFTERS),
    seeds: Annotated[int, typer.Option(help="Sampled captions, always against our loop.")] = 200,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch: Annotated[str, typer.Option(help="Windows in the engine at once; of several numbers, each in turn.")] = "8",
    threads: ThreadsOption = 2,
) -> None:
    """Decode held-out demo windows with a trained, a random and an always-wrong drafter, as chain, as tree, and as the
    governor likes.

    One prefill of a window serves all of them. Interrupted, the same command goes on where it stopped.

    Exit codes: 0 all equal or excused as ties; 2 wrong usage; 4 otherwise.
    """
    with exit_on_error():
        requests = {**greedy_requests(demo_windows(greedy, "--greedy")), **sampled_requests(seeds)}
        sizes = numbers(batch)
        against_oracle = _is_oracle(against)
        torch.set_num_threads(threads)
        model = load_target(target, dtype=dtype)
        chosen = _chosen(drafters, three_drafters(target, draft, model))
        settings = {
            "target": model.info.fingerprint,
            "against": against,
            "drafters": list(chosen),
            "dtype": model.info.dtype_name,
            "batch": batch,
        }
        output.mkdir(parents=True, exist_ok=True)
        journal = Journal(output / "comparisons.jsonl", settings)
        done = {
            entry["window"]: [EqualityResult(**fields) for fields in entry["comparisons"]]
            for entry in journal.entries
            if entry["window"] in requests
        }
        config = EngineConfig(max_sequences=max(sizes))
        check = EqualityCheck(target, model, chosen, SHAPES, config, against_oracle=against_oracle)
        missing = [name for name in requests if name not in done]
        groups = list(in_groups(missing, sizes))
        for group in track(groups, "groups of windows", console=Console(stderr=True)):
            windows = [replace(requests[name](), request_id=name) for name in group]
            for name, results in zip(group, check.compare(windows), strict=True):
                done[name] = results
                journal.add({"window": name, "comparisons": list(map(asdict, results))})
        check.close()
        raise typer.Exit(
            report([result for results in done.values() for result in results], settings, model.info.device, output)
        )


def in_groups(names: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """Names in groups of every size in turn, as many names in those of one size as in those of another."""
    cycle = [size for size in sizes for _ in range(math.lcm(*sizes) // size)]
    waiting = iter(names)
    for size in itertools.cycle(cycle):
        if not (group := list(itertools.islice(waiting, size))):
            return
        yield group


def _is_oracle(against: str) -> bool:
    if against not in ("generate", "oracle"):
        raise typer.BadParameter(f"{against!r} is neither generate nor oracle")
    return against == "oracle"


def _chosen(names: str, drafters: dict[str, Drafter]) -> dict[str, Drafter]:
    unknown = set(names.split(",")) - set(drafters)
    if unknown:
        raise typer.BadParameter(f"no drafter {', '.join(unknown)}; there are {', '.join(drafters)}")
    return {name: drafters[name] for name in names.split(",")}


def three_drafters(source: str, draft: str, target: TargetModel) -> dict[str, Drafter]:
    """One that is good, one that knows nothing, and one that is never right: control tokens stand in no caption."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(Path(source))
    control = [int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS[-5:]]  # type: ignore[arg-type]
    drafters = (
        load_drafter(draft, target),
        SparrowDrafter.untrained(target),
        ConstantDrafter(control, target.info.vocab_size, target.info.device),
    )
    return dict(zip(DRAFTERS, drafters, strict=True))


def greedy_requests(counts: Mapping[int, int]) -> dict[str, Callable[[], Request]]:
    """So many held-out windows of each visual length, by name."""
    return {
        f"greedy-{length}-{index}": partial(
            DemoWindows("heldout", (length,), FIRST_SEED).request, index, max_new_tokens=MAX_NEW_TOKENS
        )
        for length, count in counts.items()
        for index in range(count)
    }


def sampled_requests(seeds: int) -> dict[str, Callable[[], Request]]:
    """One held-out window of 64 visual tokens for each seed, with top-p and top-k, under shared noise."""

    def request(seed: int) -> Request:
        greedy = DemoWindows("heldout", (64,), FIRST_SEED).request(seed, max_new_tokens=MAX_NEW_TOKENS)
        return replace(greedy, sampling=Sampling(temperature=1.0, top_p=0.95, top_k=50, seed=seed))

    return {f"sampled-64-{seed}": partial(request, seed) for seed in range(seeds)}


def report(results: list[EqualityResult], settings: Mapping[str, object], device: torch.device, output: Path) -> int:
    """Write equality.json, print its figures; the exit code."""
    kinds = {kind: [result for result in results if result.window.startswith(kind)] for kind in ("greedy", "sampled")}
    summary = {
        kind: {
            "windows": len({result.window for result in of_kind}),
            "comparisons": len(of_kind),
            "tokens": sum(result.num_tokens for result in of_kind),
            "unequal": [asdict(result) for result in of_kind if not result.equal],
        }
        for kind, of_kind in kinds.items()
    }
    text = json.dumps({**settings, **summary, "machine": describe_machine(device)}, indent=2)
    (output / "equality.json").write_text(text + "\n")
    print(text)
    return 0 if all(result.equal or result.excused for result in results) else 4


if __name__ == "__main__":
    typer.run(main)
