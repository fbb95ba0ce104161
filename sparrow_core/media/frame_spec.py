"""What a family of video LLMs asks of frames: their size, how many make one step in time, and their visual tokens."""

from typing import Protocol


class FrameSpec(Protocol):
    """A vision tower's requirements. `token_px` is the side, in px, of the square that one visual token stands for."""

    @property
    def temporal_patch_size(self) -> int:
        """Frames that become one step in time."""
        ...

    @property
    def token_px(self) -> float: ...

    @property
    def tokens_per_video(self) -> int:
        """Visual tokens of a video in addition to those of its frames."""
        ...

    def fit_size(self, height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """Size (height, width) in px at which the tower is shown frames of `height` x `width` px.

        A tower that takes several sizes keeps to `min_pixels`..`max_pixels` per frame. Raises MediaError for frames
        that it cannot be shown.
        """
        ...

    def tokens_per_step(self, height: int, width: int) -> int:
        """Visual tokens of one step in time, for a size that `fit_size` returned."""
        ...
