"""Qwen2.5-VL as a target. The module's own mutable `rope_deltas` is never read: each prompt has a position offset.

Shape letters: S slots of a sequence; pixels T frames, H height, W width, C channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, Qwen2_5_VLForConditionalGeneration

from sparrow_core.decoding.target import Prompt, VisualInput
from sparrow_core.media.patches import PatchSpec, patchify
from sparrow_core.targets.family import FamilyTarget
from sparrow_core.types import Frames

VISION_PATCHES = 2048  # at most this many, in whole frames, go through the vision tower at a time
_TYPE_OF_KIND = {"text": 0, "image": 1, "video": 2}


class Qwen25VLTarget(FamilyTarget[PatchSpec]):
    """A loaded Qwen2.5-VL checkpoint."""

    model_class = Qwen2_5_VLForConditionalGeneration
    position_axes = 3

    @staticmethod
    def read_spec(config: PreTrainedConfig, processor: Any) -> PatchSpec:
        return PatchSpec(
            patch_size=processor.patch_size,
            temporal_patch_size=processor.temporal_patch_size,
            merge_size=processor.merge_size,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        )

    def _visual(self, part: Frames | np.ndarray) -> VisualInput:
        if isinstance(part, Frames):
            kind, pixels_THWC, step_s = "video", part.pixels_THWC, self.spec.temporal_patch_size / part.sampled_fps
        else:
            kind, pixels_THWC, step_s = "image", part[None], 1.0
        patches, grid_thw = patchify(pixels_THWC, self.spec)
        num_tokens = len(patches) // self.spec.merge_size**2
        return VisualInput(kind, torch.from_numpy(patches), num_tokens, grid_thw, step_s)

    def _features(self, visual: VisualInput) -> Iterator[torch.Tensor]:
        """A few whole frames at a time: the tower attends within a frame only, and small pieces take less time and
        memory.
        """
        tower = self.model.model
        encode = tower.get_image_features if visual.kind == "image" else tower.get_video_features
        _, height, width = visual.grid_thw
        at_once = max(1, VISION_PATCHES // (height * width))
        for piece in visual.patches.split(at_once * height * width):
            grid_13 = torch.tensor([[len(piece) // (height * width), height, width]], device=self.info.device)
            patches = piece.to(self.info.device, self.info.dtype)
            yield encode(patches, grid_13, return_dict=True).pooler_output[0]

    def _positions(self, ids_S: torch.Tensor, prompt: Prompt) -> tuple[torch.Tensor, int]:
        positions_31S, _ = self.model.model.get_rope_index(
            ids_S[None], self._token_types(ids_S)[None], **self._grids(prompt)
        )
        # `generate` continues from the position of the prompt's last token. The library's own delta continues from the
        # largest position, which after a long video is a temporal position far beyond the text's.
        return positions_31S[:, 0], int(positions_31S[0, 0, -1]) + 1 - ids_S.numel()

    def _grids(self, prompt: Prompt) -> dict[str, Any]:
        """Grids and seconds per grid step, as keyword arguments of the library's methods."""
        device = self.info.device
        of_kind = {kind: [v for v in prompt.visuals if v.kind == kind] for kind in ("image", "video")}
        kwargs: dict[str, Any] = {
            f"{kind}_grid_thw": torch.tensor([v.grid_thw for v in visuals], device=device)
            for kind, visuals in of_kind.items()
            if visuals
        }
        if of_kind["video"]:
            kwargs["second_per_grid_ts"] = torch.tensor([v.second_per_grid_s for v in of_kind["video"]], device=device)
        return kwargs

    def _token_types(self, ids_S: torch.Tensor) -> torch.Tensor:
        types_S = torch.zeros_like(ids_S, dtype=torch.int32)
        for kind, placeholder in self._placeholder.items():
            types_S[ids_S == placeholder] = _TYPE_OF_KIND[kind]
        return types_S
