"""Origin of a drafter's training data: windows captured first, a folder of hidden states, or online capture.

Owns the choice between the three and the identity of each. `hidden_state_sources` opens the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.ids import settings_fingerprint
from pipeline.common.storage import absolute
from pipeline.drafters.capture_graph import RequestSource, numbered_window_id
from pipeline.drafters.capture_run import capture_numbered, numbered_shards
from pipeline.drafters.config import DistillRunConfig, capture_settings, run_name
from pipeline.drafters.hidden_state_sources import HiddenStateSource, online_hidden_states, stored_hidden_states
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindow


@dataclass(frozen=True)
class TrainingWindows:
    """Windows to train on: `requests` by number, and the settings that identify them, as plain JSON values.

    `of_run`, if given, replaces them by windows of a captioning run, which are captured online.
    """

    requests: RequestSource
    settings: dict[str, Any]
    of_run: Sequence[OnlineWindow] | None = None


@dataclass(frozen=True)
class Origin:
    """Where the training examples of a run come from.

    `location` is the folder or URL of the hidden states, or a name for online capture. `recipe` is a digest of config,
    target and location that does not change as more windows are captured. `online` lists the windows to capture online
    (None: hidden states are read from `location`). `num_windows` limits the windows (None: all that are there).
    """

    config: DistillRunConfig
    info: TargetInfo
    location: str
    recipe: str
    online: Sequence[OnlineWindow] | None
    num_windows: int | None

    def source(self, names: Sequence[str] | None = None) -> HiddenStateSource:
        """Hidden states of the named windows, or of all windows of the run.

        Raises CheckpointError for hidden states of another target.
        """
        if self.online is not None:
            return online_hidden_states(self.config, self.online, self.location, self.info, names)
        if names is None and self.num_windows:
            names = numbered_shards(self.num_windows)
        return stored_hidden_states(self.config, self.location, self.info, names)


def prepare_origin(config: DistillRunConfig, windows: TrainingWindows, output: Path, info: TargetInfo) -> Origin:
    """The configured origin. Captures numbered windows into `output` if they are not captured yet. Ray must be
    connected."""
    num_windows = None if config.states or windows.of_run is not None else config.num_windows
    online = windows.of_run
    if config.online:
        location = f"online-{capture_settings(config, windows.settings)}"
        if online is None:
            online = [
                OnlineWindow(numbered_window_id(number), number, partial(windows.requests, number))
                for number in range(config.num_windows)
            ]
    elif config.states:
        location = absolute(config.states)
    else:
        location = str(capture_missing(config, windows, output))
    recipe = settings_fingerprint(
        {
            "run": run_name(config, ""),
            "target": info.fingerprint,
            "states": location.removeprefix(f"{output}/"),  # so that an output folder may be moved
            "num_windows": num_windows,
        }
    )
    return Origin(config, info, location, recipe, online, num_windows)


def capture_missing(config: DistillRunConfig, windows: TrainingWindows, output: Path) -> Path:
    """Capture the numbered windows that are not captured yet -> their folder, one for each target and capture settings.

    Ray must be connected. Raises CheckpointError if a window could not be captured.
    """
    settings = capture_settings(config, windows.settings)
    folder = output / f"states-{checkpoint_identity(config.target)}-{settings}"
    capture_numbered(config, windows.requests, str(folder), settings)
    return folder
