"""Qwen2.5-VL as a `TargetModel`, over transformers' own classes.

Weights, rotary embeddings and vision tower stay the library's; the pass through the layers and the KV cache are ours.
The module's own mutable `rope_deltas` is never read: each prompt carries its position offset.
Shape letters as in `decoding/target.py`.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from sparrow_core.decoding.target import (
    EmbeddedPrompt,
    Prompt,
    SequenceRows,
    TargetInfo,
    TargetPass,
    VisualInput,
    finish,
)
from sparrow_core.errors import ConfigError
from sparrow_core.media.patches import PatchSpec, patchify
from sparrow_core.models.fingerprint import tokenizer_hash, weights_fingerprint
from sparrow_core.models.fused_layers import FusedDecoder, join_linears
from sparrow_core.models.padding import pad_rows
from sparrow_core.models.pass_attention import PassAttention
from sparrow_core.types import Frames, Message

VISION_PATCHES = 2048
_TYPE_OF_KIND = {"text": 0, "image": 1, "video": 2}


class Qwen25VLTarget:
    """A loaded Qwen2.5-VL checkpoint."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        patch_spec: PatchSpec,
        name: str,
    ) -> None:
        config = model.config.get_text_config()
        if config.use_sliding_window:
            raise ConfigError(f"{name}: sliding-window attention is not supported; set use_sliding_window to false")
        model.set_attn_implementation("sdpa")
        self.model = model.eval()
        self._decoder = FusedDecoder(model.model.language_model, config.hidden_size // config.num_attention_heads)
        self._lm_head_VD, _ = join_linears(model.lm_head)
        self.tokenizer = tokenizer
        self.patch_spec = patch_spec
        self._placeholder = {"image": model.config.image_token_id, "video": model.config.video_token_id}
        self.info = TargetInfo(
            name=name,
            fingerprint=weights_fingerprint(model),
            tokenizer_hash=tokenizer_hash(tokenizer),
            position_axes=3,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_parameters["rope_theta"],
            stop_token_ids=_stop_token_ids(model),
            device=model.device,
            dtype=model.dtype,
        )

    def build_prompt(self, messages: tuple[Message, ...]) -> Prompt:
        visuals = tuple(
            self._visual(part) for message in messages for part in message.parts if not isinstance(part, str)
        )
        self._refuse_control_tokens(messages)
        text = self.tokenizer.apply_chat_template(
            [_to_template(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
        collapsed = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        token_ids = self._expand_placeholders(collapsed, visuals)
        token_ids_S = torch.tensor(token_ids)
        is_text_S = ~torch.isin(token_ids_S, torch.tensor(list(self._placeholder.values())))
        return Prompt(token_ids_S, is_text_S, visuals)

    def _visual(self, part: Frames | np.ndarray) -> VisualInput:
        if isinstance(part, Frames):
            patches, grid_thw = patchify(part.pixels_THWC, self.patch_spec)
            return VisualInput("video", patches, grid_thw, self.patch_spec.temporal_patch_size / part.sampled_fps)
        patches, grid_thw = patchify(part[None], self.patch_spec)
        return VisualInput("image", patches, grid_thw, 1.0)

    def _refuse_control_tokens(self, messages: tuple[Message, ...]) -> None:
        control = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        for message in messages:
            for part in message.parts:
                found = [token for token in control if isinstance(part, str) and token in part]
                if found:
                    raise ConfigError(f"a message contains the control token {found[0]!r}; remove it from the text")

    def _expand_placeholders(self, collapsed: list[int], visuals: tuple[VisualInput, ...]) -> list[int]:
        merge = self.patch_spec.merge_size**2
        waiting, expanded = list(visuals), []
        for token in collapsed:
            if token in self._placeholder.values():
                visual = waiting.pop(0)
                assert token == self._placeholder[visual.kind], "the chat template reordered the visuals"
                expanded += [token] * (visual.patches.shape[0] // merge)
            else:
                expanded.append(token)
        assert not waiting, "the chat template dropped a visual"
        return expanded

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        return finish(self.embed_by_frames(prompt))

    @torch.inference_mode()
    def embed_by_frames(self, prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        device = self.info.device
        ids_S = prompt.token_ids_S.to(device)
        embeddings_SD = self.embed_tokens(ids_S)
        if prompt.visuals:
            features = []
            for frames in [piece for visual in prompt.visuals for piece in _by_frames(visual)]:
                features.append(self._features(frames))
                yield
            embeddings_SD[~prompt.is_text_S.to(device)] = torch.cat(features).to(embeddings_SD.dtype)
        positions_31S, _ = self.model.model.get_rope_index(
            ids_S[None], self._token_types(ids_S)[None], **self.visual_kwargs(prompt)
        )
        # `generate` goes on from the prompt's last position; the library's own delta goes on from the largest,
        # which in a long video is a temporal position far beyond the text.
        offset = int(positions_31S[0, 0, -1]) + 1 - ids_S.numel()
        return EmbeddedPrompt(embeddings_SD, positions_31S[:, 0], offset)

    def visual_kwargs(self, prompt: Prompt) -> dict[str, Any]:
        """Grids and times as the library's own methods take them."""
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

    def _features(self, visual: VisualInput) -> torch.Tensor:
        patches = visual.patches.to(self.info.device, self.info.dtype)
        grid_13 = torch.tensor([visual.grid_thw], device=self.info.device)
        encode = self.model.model.get_image_features if visual.kind == "image" else self.model.model.get_video_features
        return encode(patches, grid_13, return_dict=True).pooler_output[0]

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(token_ids)

    def forward(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> TargetPass:
        return finish(self.forward_by_layer(embeddings_RD, positions_AR, sequences, tap_layers))

    def forward_by_layer(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> Generator[None, None, TargetPass]:
        num_rows = len(embeddings_RD)
        states_RD, taps = yield from self._decoder(
            pad_rows(embeddings_RD),
            pad_rows(positions_AR.T).T,
            PassAttention(sequences, self.info.num_heads),
            tap_layers,
        )
        return TargetPass(states_RD[:num_rows], {layer: tap_RD[:num_rows] for layer, tap_RD in taps.items()})

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        rows_RD = states.reshape(-1, states.shape[-1])
        logits_RV = linear(pad_rows(rows_RD), self._lm_head_VD)[: len(rows_RD)].float()
        return logits_RV.view(*states.shape[:-1], -1)

    def decode_text(self, token_ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _by_frames(visual: VisualInput) -> Iterator[VisualInput]:
    """A video in pieces of whole frames: the vision tower's attention never leaves a frame, and its time and memory
    are better in small pieces."""
    _, height, width = visual.grid_thw
    at_once = max(1, VISION_PATCHES // (height * width))
    for patches in visual.patches.split(at_once * height * width):
        yield replace(visual, patches=patches, grid_thw=(len(patches) // (height * width), height, width))


def _stop_token_ids(model: Qwen2_5_VLForConditionalGeneration) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = model.config.get_text_config().eos_token_id
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def _to_template(message: Message) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            content.append({"type": "video" if isinstance(part, Frames) else "image"})
    return {"role": message.role, "content": content}
