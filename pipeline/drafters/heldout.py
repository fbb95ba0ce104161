"""Held-out windows of a captioning run: which ones drafters are measured on, which ones choose a checkpoint, and the
guard that none is of a video that is also learnt from."""

from collections.abc import Callable, Sequence

from pipeline.captioning.stored_windows import (
    CaptionRunTable,
    StoredWindow,
    by_length,
    one_of_each_video,
    stored_windows,
)
from pipeline.common.ids import window_number
from pipeline.drafters.config import DrafterRunConfig
from pipeline.drafters.evaluation import HeldOut
from pipeline.drafters.hidden_state_sources import captured_videos
from sparrow_core.distill.online import OnlineWindow
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import read_frame_spec
from sparrow_core.types import Request

WindowsByLength = dict[int, list[StoredWindow]]


def windows_of_run(config: DrafterRunConfig, run: str) -> list[StoredWindow]:
    """All windows of the captioning run in a folder."""
    return stored_windows(CaptionRunTable(run), read_frame_spec(config.target), config.decode)


def heldout_of_run(config: DrafterRunConfig, run: str) -> WindowsByLength:
    """One window of each video of a captioning run, by the nearest visual length of the evaluation."""
    return by_length(one_of_each_video(windows_of_run(config, run)), config.evaluation.lengths)


def measured_windows(config: DrafterRunConfig, heldout: WindowsByLength) -> HeldOut:
    """The first windows of each length, as many as the evaluation asks for."""
    return {length: windows[: config.evaluation.windows_per_length] for length, windows in heldout.items()}


def validation_windows(config: DrafterRunConfig, heldout: WindowsByLength) -> Sequence[Callable[[], Request]]:
    """Windows to choose a checkpoint by: the longest of those that are not measured on. Raises ConfigError where there
    are too few."""
    wanted, measured = config.validation.windows, config.evaluation.windows_per_length
    others = [window for windows in reversed(heldout.values()) for window in windows[measured:]]
    if len(others) < wanted:
        raise ConfigError(
            f"the held-out run leaves {len(others)} windows to choose a checkpoint by, but validation.windows is "
            f"{wanted}; lower that or evaluation.windows_per_length, or caption more videos"
        )
    return others[:wanted]


def refuse_leakage(states: str | None, online: Sequence[StoredWindow], heldout: WindowsByLength) -> None:
    """Raise ConfigError where a held-out window is of a video that is also learnt from, be it another window of it.

    `states` is a folder of captured hidden states, `online` the windows of a run that is learnt from online.
    """
    measured = [window.row["source_uri"] for windows in heldout.values() for window in windows]
    learnt = {window.row["source_uri"] for window in online}
    if states and measured:
        learnt |= captured_videos(states)
    if shared := [video for video in measured if video in learnt]:
        raise ConfigError(
            f"{len(shared)} of the {len(measured)} held-out windows are of videos that are also learnt from, such as "
            f"{shared[0]}: hold out videos that are in neither --states nor --online"
        )


def online_window(window: StoredWindow) -> OnlineWindow:
    """A window of a captioning run, to learn from."""
    name = window.row["window_id"]
    return OnlineWindow(name, window_number(name), window)
