"""What a drafter learns from: windows that are captured first, hidden states that lie in a folder, or a target that
writes captions beside the training.

Owns the choice between the three and the identity of each. How hidden states are opened is `hidden_state_sources`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.ids import settings_fingerprint
from pipeline.common.storage import absolute
from pipeline.drafters.capture_graph import RequestSource, numbered_window
from pipeline.drafters.capture_run import capture_numbered, numbered_shards
from pipeline.drafters.config import DistillRunConfig, capture_settings, run_name
from pipeline.drafters.hidden_state_sources import HiddenStateSource, online_hidden_states, stored_hidden_states
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindow


@dataclass(frozen=True)
class LearningWindows:
    """Windows to learn from: `requests` by number, and the settings that tell them apart from others, as plain JSON
    values. `of_run` are the windows of a captioning run instead, which are captioned while the drafter is trained."""

    requests: RequestSource
    settings: dict[str, Any]
    of_run: Sequence[OnlineWindow] | None = None


@dataclass(frozen=True)
class Origin:
    """Where the examples of a run come from. `recipe` identifies the run whatever number of windows there are by now:
    its config, its target and where its windows are from."""

    config: DistillRunConfig
    info: TargetInfo
    place: str
    recipe: str
    online: Sequence[OnlineWindow] | None
    num_windows: int | None

    def source(self, names: Sequence[str] | None = None) -> HiddenStateSource:
        """Hidden states of the windows of these names, or of all windows of the run. Raises CheckpointError for hidden
        states of another target."""
        if self.online is not None:
            return online_hidden_states(self.config, self.online, self.place, self.info, names)
        if names is None and self.num_windows:
            names = numbered_shards(self.num_windows)
        return stored_hidden_states(self.config, self.place, self.info, names)


def prepare_origin(config: DistillRunConfig, windows: LearningWindows, output: Path, info: TargetInfo) -> Origin:
    """The origin that a config asks for; windows by number are captured here where that is missing. Ray must be
    connected."""
    num_windows = None if config.states or windows.of_run is not None else config.num_windows
    online = windows.of_run
    if config.online:
        place = f"online-{capture_settings(config, windows.settings)}"
        if online is None:
            online = [
                OnlineWindow(numbered_window(number), number, partial(windows.requests, number))
                for number in range(config.num_windows)
            ]
    elif config.states:
        place = absolute(config.states)
    else:
        place = str(capture_missing(config, windows, output))
    recipe = settings_fingerprint(
        {
            "run": run_name(config, ""),
            "target": info.fingerprint,
            "states": place.removeprefix(f"{output}/"),  # so that an output folder may be moved
            "num_windows": num_windows,
        }
    )
    return Origin(config, info, place, recipe, online, num_windows)


def capture_missing(config: DistillRunConfig, windows: LearningWindows, output: Path) -> Path:
    """Capture the windows by number that are not captured yet -> their folder: one for each target and each way of
    capturing. Ray must be connected. Raises CheckpointError where a window could not be captured."""
    settings = capture_settings(config, windows.settings)
    folder = output / f"states-{checkpoint_identity(config.target)}-{settings}"
    capture_numbered(config, windows.requests, str(folder), settings)
    return folder
