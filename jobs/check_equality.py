"""Check that the engine's captions equal the target's own: `python jobs/check_equality.py --output DIR`."""

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
    output: Annotated[
        Path, typer.Option(help="Folder for comparisons.jsonl, from which a run resumes, and equality.json.")
    ],
    target: DemoTargetOption = DEMO["target"],
    draft: DemoDraftOption = DEMO["draft"],
    greedy: Annotated[
        str, typer.Option(help="Numbers of greedy windows by visual tokens: 64:150,512:90.")
    ] = "64:150,512:90,1500:45,6000:15",
    against: Annotated[
        str, typer.Option(help="Reference for greedy captions: generate, or oracle (our autoregressive loop).")
    ] = "generate",
    drafters: Annotated[str, typer.Option(help="Drafters to check, comma separated.")] = ",".join(DRAFTERS),
    seeds: Annotated[
        int, typer.Option(help="Number of sampled captions; their reference is always our autoregressive loop.")
    ] = 200,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch: Annotated[
        str, typer.Option(help="Windows in the engine at once. Several numbers, comma separated, take turns.")
    ] = "8",
    threads: ThreadsOption = 2,
) -> None:
    """Compare captions of held-out demo windows with a reference, drafted by a trained, a random and an always-wrong
    drafter, in chains, in trees, and in the shapes that the governor chooses.

    All drafts of a window share one prefill. Run again, an interrupted check continues where it stopped.

    Exit codes: 0 all equal or excused as ties; 2 wrong usage; 4 otherwise.
    """
    with exit_on_error():
        requests = {**greedy_requests(demo_windows(greedy, "--greedy")), **sampled_requests(seeds)}
        sizes = numbers(batch)
        against_oracle = _is_oracle(against)
        torch.set_num_threads(threads)
        model = load_target(target, dtype=dtype)
        chosen = _chosen(drafters, _load_drafters(target, draft, model))
        settings = {
            "target": model.info.fingerprint,
            "against": against,
            "drafters": list(chosen),
            "dtype": model.info.dtype_name,
            "batch": batch,
        }
        output.mkdir(parents=True, exist_ok=True)
        journal = Journal(output / "comparisons.jsonl", settings)
        config = EngineConfig(max_sequences=max(sizes))
        check = EqualityCheck(target, model, chosen, SHAPES, config, against_oracle=against_oracle)
        _compare_missing(check, requests, sizes, journal)
        check.close()
        compared = [
            EqualityResult(**fields)
            for entry in journal.entries
            if entry["window"] in requests
            for fields in entry["comparisons"]
        ]
        raise typer.Exit(report(compared, settings, model.info.device, output))


def _compare_missing(
    check: EqualityCheck, requests: Mapping[str, Callable[[], Request]], sizes: Sequence[int], journal: Journal
) -> None:
    """Compare the windows that the journal lacks, in groups of these sizes, and add their results to it."""
    done = {entry["window"] for entry in journal.entries}
    groups = list(in_groups([name for name in requests if name not in done], sizes))
    for group in track(groups, "groups of windows", console=Console(stderr=True)):
        windows = [replace(requests[name](), request_id=name) for name in group]
        for name, results in zip(group, check.compare(windows), strict=True):
            journal.add({"window": name, "comparisons": list(map(asdict, results))})


def in_groups(names: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """Split names into groups whose sizes take turns, so that all sizes get equally many names."""
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


def _load_drafters(source: str, draft: str, target: TargetModel) -> dict[str, Drafter]:
    """A trained drafter, an untrained one, and one that is always wrong: it drafts tokens that no caption contains."""
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
    """`counts[length]` held-out windows of each visual length, by name."""
    return {
        f"greedy-{length}-{index}": partial(
            DemoWindows("heldout", (length,), FIRST_SEED).request, index, max_new_tokens=MAX_NEW_TOKENS
        )
        for length, count in counts.items()
        for index in range(count)
    }


def sampled_requests(seeds: int) -> dict[str, Callable[[], Request]]:
    """One held-out window of 64 visual tokens for each seed, sampled with top-p, top-k and shared noise, by name."""

    def request(seed: int) -> Request:
        greedy = DemoWindows("heldout", (64,), FIRST_SEED).request(seed, max_new_tokens=MAX_NEW_TOKENS)
        return replace(greedy, sampling=Sampling(temperature=1.0, top_p=0.95, top_k=50, seed=seed))

    return {f"sampled-64-{seed}": partial(request, seed) for seed in range(seeds)}


def report(results: list[EqualityResult], settings: Mapping[str, object], device: torch.device, output: Path) -> int:
    """Write and print equality.json. Returns the exit code."""
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
