"""LLaVA-OneVision as a target: a SigLIP tower whose patches are pooled to 196 tokens per frame, plain RoPE.

Videos only: the library cuts images into tiles by their shape, which captions of videos do not need.

Shape letters: D hidden size, M visual tokens, S slots of a sequence; pixels T frames, C channels, H height, W width.
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
        pixels_TCHW = torch.from_numpy(siglip_frames(part.pixels_THWC, self.spec))
        side = self.spec.side_px // self.spec.patch_size
        num_tokens = len(pixels_TCHW) * self.spec.tokens_per_step(*pixels_TCHW.shape[2:]) + self.spec.tokens_per_video
        return VisualInput("video", pixels_TCHW, num_tokens, (len(pixels_TCHW), side, side), 1 / part.sampled_fps)

    def _features(self, visual: VisualInput) -> Iterator[torch.Tensor]:
        """A few frames at a time: the tower encodes each by itself. Every library call appends a newline feature."""
        tower = self.model.model
        for piece in visual.patches.split(VISION_FRAMES):
            pixels_1TCHW = piece.to(self.info.device, self.info.dtype)[None]
            features_MD = tower.get_video_features(pixels_1TCHW, return_dict=True).pooler_output[0]
            yield features_MD[:-1]
        yield tower.image_newline[None]

    def _positions(self, ids_S: torch.Tensor, prompt: Prompt) -> tuple[torch.Tensor, int]:
        return torch.arange(ids_S.numel(), device=ids_S.device)[None], 0
