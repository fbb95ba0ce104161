"""Make a drafter for a target: `python jobs/distill_draft.py --config jobs/configs/distill_demo.yaml`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.console import Console

from demo.windows import DemoWindows, Split
from jobs.errors import exit_on_error
from jobs.submitted import refuse_relative
from pipeline.captioning.stored_windows import (
    CaptionRunTable,
    StoredWindow,
    by_length,
    one_of_each_video,
    stored_windows,
)
from pipeline.common.acceptance_rows import store_acceptance
from pipeline.common.checkpoints import worker_draft, worker_path
from pipeline.common.cluster import connected
from pipeline.common.ids import window_number
from pipeline.common.registry import EVALUATION, JUDGED, NotBetterError, Registry, add_measured
from pipeline.common.settings import build_config, read_settings
from pipeline.common.storage import Folder, absolute
from pipeline.drafters.config import DistillRunConfig, EvaluationConfig
from pipeline.drafters.distillation import Distilled, distill
from pipeline.drafters.evaluation import HeldOut, evaluate_drafters
from pipeline.drafters.report import drafter_card, show_acceptance
from pipeline.drafters.state_sources import captured_videos
from pipeline.drafters.triggers import TriggerConfig, least_new_captions
from sparrow_core.config import DecodeConfig
from sparrow_core.distill.online import OnlineWindow
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import read_frame_spec
from sparrow_core.types import Request

HELD_OUT_SEED, VALIDATION_SEED = 50_000, 30_000
WindowsByLength = dict[int, list[StoredWindow]]


@dataclass(frozen=True)
class DistillJobConfig(DistillRunConfig):
    """A distillation run, on captured states or on windows of the demo world, and how the drafter is measured
    afterwards. Windows of a captioning run are decoded again within the limits `decode`."""

    windows: DemoWindows = field(default_factory=lambda: DemoWindows("train", (64, 64, 144, 512), 10**9, True))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows.split == "heldout":
            raise ConfigError("windows.split=heldout: drafters are measured on those; learn from train or validation")


def main(
    config: Annotated[Path, typer.Option(help="YAML file of settings.")],
    output: Annotated[Path, typer.Option(help="Folder for states, training runs and the drafter.")] = Path(
        "out/distill"
    ),
    states: Annotated[
        str | None, typer.Option(help="Learn from these captured states, as of jobs/capture_states.py. [demo windows]")
    ] = None,
    online: Annotated[
        str | None,
        typer.Option(help="Learn from the windows of this captioning run while the target captions them; store none."),
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(help="Measure on the windows of this captioning run. [demo windows]")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Put the drafter on record there; bring it into use if it is better.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as train.recursions=1.")] = None,
) -> None:
    """Capture states of the target, train a drafter on them, measure it by real decoding, write its folder.

    The same command again continues an interrupted run, and does nothing where there is nothing new to learn from.
    Another config in the same output folder starts a run of its own and shares the captured states if it can; the
    drafter folder then holds the latest result. While one copy runs, another leaves at once.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    console = Console()
    with exit_on_error():
        refuse_relative({"--output": output, "--online": online, "--heldout": heldout, "--registry": registry})
        given = ({"states": states} if states else {}) | ({"online": True} if online else {})
        checked = build_config(DistillJobConfig, read_settings(config, settings or []) | given)
        refuse_relative({"--states": checked.states, "trigger.watch": checked.trigger.watch})
        if checked.trigger.watch and not registry:
            raise ConfigError("trigger.watch compares with the drafter in use: name a --registry")
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / "lease", timeout=0):
                drafters = Registry(registry) if registry else None
                made = run(checked, online, heldout, drafters, output, console)
                if drafters and made.folder.exists() and not is_judged(made.folder, drafters):
                    put_on_record(made.folder, drafters, console)
        except Timeout:
            console.print(f"another run holds {output / 'lease'}: nothing done", highlight=False, soft_wrap=True)


def windows_of(config: DistillJobConfig, run: str) -> list[StoredWindow]:
    """All windows of a captioning run."""
    return stored_windows(CaptionRunTable(run), read_frame_spec(config.target), config.decode)


def read_heldout(config: DistillJobConfig, run: str | None) -> WindowsByLength | None:
    """A window of each video of a captioning run, by their nearest length of the evaluation; None without a run."""
    if run is None:
        return None
    return by_length(one_of_each_video(windows_of(config, run)), config.evaluation.lengths)


def held_out(config: DistillJobConfig, heldout: WindowsByLength | None) -> HeldOut:
    """Windows to measure on: of a captioning run, or of the demo world."""
    evaluation = config.evaluation
    if heldout is not None:
        return {length: windows[: evaluation.windows_per_length] for length, windows in heldout.items()}
    return {
        length: _demo("heldout", length, HELD_OUT_SEED, evaluation.windows_per_length, evaluation)
        for length in evaluation.lengths
    }


def validation_windows(
    config: DistillJobConfig, run: str | None, heldout: WindowsByLength | None
) -> Sequence[Callable[[], Request]]:
    """Other windows of the same origin, the longest first, to choose a checkpoint by. Raises ConfigError where a run
    has too few."""
    validation, evaluation = config.validation, config.evaluation
    if heldout is None or not validation.windows:
        return _demo("validation", validation.length, VALIDATION_SEED, validation.windows, evaluation)
    longest_first = reversed(heldout.values())
    others = [window for windows in longest_first for window in windows[evaluation.windows_per_length :]]
    if len(others) < validation.windows:
        raise ConfigError(
            f"{run} leaves {len(others)} windows to choose a checkpoint by, but validation.windows is "
            f"{validation.windows}; lower that or evaluation.windows_per_length, or caption more videos"
        )
    return others[: validation.windows]


def _demo(
    split: Split, length: int, first_seed: int, count: int, evaluation: EvaluationConfig
) -> list[Callable[[], Request]]:
    request = DemoWindows(split, (length,), first_seed).request
    return [partial(request, number, evaluation.max_new_tokens) for number in range(count)]


def online_window(window: StoredWindow) -> OnlineWindow:
    """The same window, to learn from."""
    name = window.row["window_id"]
    return OnlineWindow(name, window_number(name), window)


def refuse_shared(states: str | None, online: Sequence[StoredWindow], heldout: WindowsByLength | None) -> None:
    """Raise ConfigError where a drafter would be measured on a video that it learns from, be it another window."""
    measured = [window.row["source_uri"] for windows in (heldout or {}).values() for window in windows]
    learnt = {window.row["source_uri"] for window in online}
    if states and measured:
        learnt |= captured_videos(states)
    if shared := [video for video in measured if video in learnt]:
        raise ConfigError(
            f"{len(shared)} of the {len(measured)} held-out windows are of videos that are also learnt from, such as "
            f"{shared[0]}: hold out videos that are in neither --states nor --online"
        )


def run(
    config: DistillJobConfig,
    online: str | None,
    heldout: str | None,
    registry: Registry | None,
    output: Path,
    console: Console,
) -> Distilled:
    """All stages; prints what they find."""
    stored = read_heldout(config, heldout)
    measured_on, validation = held_out(config, stored), validation_windows(config, heldout, stored)
    config = replace(config, target=worker_path(config.target), draft=worker_draft(config.draft))
    requests = partial(config.windows.request, max_new_tokens=config.capture.max_new_tokens)
    windows = {"run": absolute(online)} if online else asdict(config.windows)
    learnt = windows_of(config, online) if online else []
    refuse_shared(config.states, learnt, stored)
    with connected():
        least_new, drift = least_new_captions(config.trigger, registry)
        if drift:
            console.print(str(drift), highlight=False)
        made = distill(
            config,
            requests,
            windows,
            output,
            online=[online_window(window) for window in learnt] if online else None,
            least_new=least_new,
            validation=validation,
            refuse_target=registry.refuse_other_target if registry else lambda fingerprint: None,
            is_concluded=partial(is_concluded, registry=registry),
        )
        if not made.is_new and (not made.folder.exists() or is_concluded(made.folder, registry)):
            waiting = f"{made.num_waiting} new captions, fewer than {least_new}" if made.num_waiting else "nothing new"
            stays = f"{made.folder} stays" if made.folder.exists() else "no drafter yet"
            console.print(f"{waiting} to learn from: {stays}", highlight=False, soft_wrap=True)
            return made
        in_use = registry.in_use if registry and not registry.uses(made.folder) else None
        contenders = [str(made.folder), *([registry.files(in_use)] if registry and in_use else [])]
        rows = evaluate_drafters(config, config.evaluation, contenders, measured_on)
    if registry and in_use:  # on the same windows, whatever it was measured on before
        registry.measured_again(in_use, [row for row in rows if row.drafter == in_use])
    own = [row for row in rows if row.drafter == made.folder.name]
    store_acceptance(made.folder / EVALUATION, own)
    (made.folder / "README.md").write_text(drafter_card(config, made.num_captions, own))
    show_acceptance(console, rows)
    console.print(f"drafter in {made.folder}", highlight=False, soft_wrap=True)
    return made


def put_on_record(folder: Path, drafters: Registry, console: Console) -> None:
    """Add the drafter to a registry and promote it if it has earned that; prints which, and notes it in the folder."""
    added = add_measured(drafters, folder)
    try:
        drafters.promote(added.id)
        outcome = f"drafter {added.id} is in use in {drafters.url}"
    except NotBetterError as error:
        outcome = str(error)
    judged = json.dumps({"registry": drafters.url, "id": added.id, "outcome": outcome}) + "\n"
    Folder(str(folder)).write(JUDGED, judged.encode())
    console.print(outcome, highlight=False, markup=False, soft_wrap=True)


def is_concluded(folder: Path, registry: Registry | None) -> bool:
    """Whether the drafter of a folder was measured, and judged by the registry, if there is one."""
    return (folder / EVALUATION).exists() and (registry is None or is_judged(folder, registry))


def is_judged(folder: Path, drafters: Registry) -> bool:
    """Whether `put_on_record` came to its end for this drafter and registry. What became of it there since, a rollback
    perhaps, is not undone."""
    note = folder / JUDGED
    return note.exists() and json.loads(note.read_text())["registry"] == drafters.url


if __name__ == "__main__":
    typer.run(main)
