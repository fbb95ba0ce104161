"""Training examples that an engine writes while a drafter learns from them, and that are never stored.

For examples that are too large to store: drafters that see the video learn from all visual embeddings of long videos.
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
    """A window to learn from: its name, its number (which seeds the sampling of its captions), and how to read it."""

    name: str
    number: int
    request: Callable[[], Request]


class OnlineExamples:
    """A `trainer.ExampleSource` of `captions_per_window` captions of each window, written by an engine on demand.

    An example depends on its index alone, so that training resumes as it does on a store. It equals that of a store of
    the same windows and settings, bit for bit if the engine's passes are batch-invariant.
    """

    def __init__(self, engine: Engine, windows: Sequence[OnlineWindow], config: CaptureConfig) -> None:
        self._engine, self._windows, self._config = engine, windows, config
        self._layer = bridge_layer(engine.target.info, config)

    def __len__(self) -> int:
        return len(self._windows) * self._config.captions_per_window

    def examples(self, indices: Sequence[int]) -> list[TrainingExample]:
        """The captions of these indices, written side by side. Raises the error of a request that fails."""
        captions = [divmod(index, self._config.captions_per_window) for index in indices]
        begun = [self._begin(self._windows[window], number) for window, number in captions]
        return [finish() for finish in begun]

    def _begin(self, window: OnlineWindow, number: int) -> Callable[[], TrainingExample]:
        """Submit caption `number` of a window -> a function that waits for it."""
        sampling = capture_samplings(self._config, window.number)[number]
        recorder = CaptionRecorder(self._layer, self._config)
        mode = replace(self._engine.default_mode(sampling), recording=recorder)
        request = replace(window.request(), max_new_tokens=self._config.max_new_tokens)
        (ticket,) = self._engine.submit_modes(request, [mode])

        def finish() -> TrainingExample:
            captured = recorder.window([recorder.caption(ticket.result().token_ids)])
            return training_example(captured, 0)

        return finish
