"""LLaVA-OneVision: a SigLIP tower whose patches are pooled to 196 tokens a frame, plain RoPE over all slots.

Videos only: how the library cuts images into tiles depends on their shape, and is not needed for captions of videos.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedConfig

from sparrow_core.decoding.target import Prompt, VisualInput
from sparrow_core.errors import ConfigError
from sparrow_core.media.siglip_frames import SiglipSpec, siglip_frames
from sparrow_core.targets.family import FamilyTarget
from sparrow_core.types import Frames

VISION_FRAMES = 4


class LlavaOnevisionTarget(FamilyTarget[SiglipSpec]):
    """A loaded LLaVA-OneVision checkpoint."""

    model_class = LlavaOnevisionForConditionalGeneration
    position_axes = 1

    @staticmethod
    def read_spec(config: PreTrainedConfig, processor: Any) -> SiglipSpec:
        vision = config.vision_config
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        return SiglipSpec(vision.image_size, vision.patch_size, mean, std)

    def _visual(self, part: Frames | np.ndarray) -> VisualInput:
        if not isinstance(part, Frames):
            raise ConfigError(f"{self.info.name} takes videos here, not images; send a video of one frame instead")
        squares = siglip_frames(part.pixels_THWC, self.spec)
        side = self.spec.side_px // self.spec.patch_size
        num_tokens = len(squares) * self.spec.tokens_per_step(*squares.shape[2:]) + self.spec.tokens_per_video
        return VisualInput("video", squares, num_tokens, (len(squares), side, side), 1 / part.sampled_fps)

    def _features(self, visual: VisualInput) -> Iterator[torch.Tensor]:
        """A few frames at a time; the tower sees each by itself. The library ends every call with the new line."""
        tower = self.model.model
        for piece in visual.patches.split(VISION_FRAMES):
            frames_1TCSS = piece.to(self.info.device, self.info.dtype)[None]
            features_ND = tower.get_video_features(frames_1TCSS, return_dict=True).pooler_output[0]
            yield features_ND[:-1]
        yield tower.image_newline[None]

    def _positions(self, ids_S: torch.Tensor, prompt: Prompt) -> tuple[torch.Tensor, int]:
        return torch.arange(ids_S.numel(), device=ids_S.device)[None], 0
