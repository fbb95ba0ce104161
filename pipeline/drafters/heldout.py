"""Held-out windows of a captioning run: those that measure drafters, those that choose a checkpoint, and the guard
against leakage: no held-out window may come from a video that is trained on."""

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
from pipeline.drafters.evaluation import HeldOutWindows
from pipeline.drafters.hidden_state_sources import captured_videos
from sparrow_core.distill.online import OnlineWindow
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import read_frame_spec
from sparrow_core.types import Request

WindowsByLength = dict[int, list[StoredWindow]]


def windows_of_run(config: DrafterRunConfig, run: str) -> list[StoredWindow]:
    """All windows of the captioning run in folder `run`."""
    return stored_windows(CaptionRunTable(run), read_frame_spec(config.target), config.decode)


def heldout_of_run(config: DrafterRunConfig, run: str) -> WindowsByLength:
    """One window of each video of a captioning run, grouped by the nearest of the evaluation's visual lengths."""
    return by_length(one_of_each_video(windows_of_run(config, run)), config.evaluation.lengths)


def measured_windows(config: DrafterRunConfig, heldout: WindowsByLength) -> HeldOutWindows:
    """The windows that measure drafters: the first `evaluation.windows_per_length` of each length."""
    return {length: windows[: config.evaluation.windows_per_length] for length, windows in heldout.items()}


def validation_windows(config: DrafterRunConfig, heldout: WindowsByLength) -> Sequence[Callable[[], Request]]:
    """The windows that choose a checkpoint: the longest ones that do not measure drafters.

    Raises ConfigError if there are fewer than `validation.windows`.
    """
    wanted, measured = config.validation.windows, config.evaluation.windows_per_length
    others = [window for windows in reversed(heldout.values()) for window in windows[measured:]]
    if len(others) < wanted:
        raise ConfigError(
            f"the held-out run leaves {len(others)} windows to choose a checkpoint by, but validation.windows is "
            f"{wanted}; lower that or evaluation.windows_per_length, or caption more videos"
        )
    return others[:wanted]


def refuse_leakage(states: str | None, online: Sequence[StoredWindow], heldout: WindowsByLength) -> None:
    """Raise ConfigError if a held-out window comes from a video of which any window is trained on.

    `states` is a folder of captured hidden states, `online` are the windows of a run that are captured online.
    """
    measured = [window.row["source_uri"] for windows in heldout.values() for window in windows]
    trained_on = {window.row["source_uri"] for window in online}
    if states and measured:
        trained_on |= captured_videos(states)
    if shared := [video for video in measured if video in trained_on]:
        raise ConfigError(
            f"{len(shared)} of the {len(measured)} held-out windows are of videos that are also trained on, such as "
            f"{shared[0]}: hold out videos that are in neither --states nor --online"
        )


def online_window(window: StoredWindow) -> OnlineWindow:
    """A window of a captioning run in the form that online capture takes."""
    name = window.row["window_id"]
    return OnlineWindow(name, window_number(name), window)
