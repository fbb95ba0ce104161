"""Windows that are captured while a drafter learns from them, and kept nowhere.

For states that are too large to store: visual embeddings of long videos, which drafters that see the video learn from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparrow_core.config import CaptureConfig
from sparrow_core.distill.hidden_states import TrainingExample, training_example
from sparrow_core.distill.recorder import CaptionRecorder, bridge_layer, capture_samplings
from sparrow_core.engine.engine import Engine
from sparrow_core.types import Request


@dataclass(frozen=True)
class OnlineWindow:
    """A window to learn from: its name, its number (which its captions are sampled by), and how to read it."""

    name: str
    number: int
    request: Callable[[], Request]


class OnlineExamples:
    """A `trainer.ExampleSource` of `captions_per_window` captions of each window, written by an engine on demand.

    What it gives is what a store of the same windows and settings gives, bit for bit where the engine's batching
    changes no bit, and follows from the index alone, so that training resumes as it does on a store.
    """

    def __init__(self, engine: Engine, windows: Sequence[OnlineWindow], config: CaptureConfig) -> None:
        self._engine, self._windows, self._config = engine, windows, config
        self._layer = bridge_layer(engine.target.info, config)

    def __len__(self) -> int:
        return len(self._windows) * self._config.captions_per_window

    def windows(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Captions of these indices, written side by side. Raises what a request fails with."""
        places = [divmod(index, self._config.captions_per_window) for index in indices]
        written = [self._begin(self._windows[place], caption) for place, caption in places]
        return [finish() for finish in written]

    def _begin(self, window: OnlineWindow, caption: int) -> Callable[[], TrainingExample]:
        """Submit one caption of a window -> waits for it."""
        sampling = capture_samplings(self._config, window.number)[caption]
        recorder = CaptionRecorder(self._layer, self._config)
        mode = replace(self._engine.default_mode(sampling), recording=recorder)
        request = replace(window.request(), max_new_tokens=self._config.max_new_tokens)
        (ticket,) = self._engine.submit_modes(request, [mode])

        def finish() -> TrainingExample:
            captured = recorder.window([recorder.caption(ticket.result().token_ids)])
            return training_example(captured, 0)

        return finish
