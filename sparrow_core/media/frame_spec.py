"""What a family of video LLMs asks of frames: their size, how many make one step in time, and what they cost."""

from typing import Protocol


class FrameSpec(Protocol):
    """Frames as a vision tower wants them. `token_px` is the side in px of the square behind one visual token."""

    @property
    def temporal_patch_size(self) -> int:
        """Frames that become one step in time."""
        ...

    @property
    def token_px(self) -> float: ...

    @property
    def tokens_per_video(self) -> int:
        """Visual tokens of a video beside those of its frames."""
        ...

    def fit_size(self, height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """Size in px at which frames of `height` x `width` px are shown, in a range of pixels if it has a choice.

        Raises MediaError for frames that cannot be shown.
        """
        ...

    def tokens_per_step(self, height: int, width: int) -> int:
        """Visual tokens of one step in time, at a size of `fit_size`."""
        ...
