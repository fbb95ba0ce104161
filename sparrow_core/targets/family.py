"""The base of all target families: transformers' own classes behind `TargetModel`.

Weights, rotary embeddings and vision towers stay the library's; the pass through the layers and the KV cache are ours.

Shape letters: A axes of a position, D hidden size, G KV heads, M visual tokens, R rows of a pass, S slots of a
sequence, V vocabulary, d head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparrow_core.decoding.fused_layers import FusedDecoder, join_linears
from sparrow_core.decoding.padding import pad_rows
from sparrow_core.decoding.pass_attention import PassAttention
from sparrow_core.decoding.target import (
    EmbeddedPrompt,
    Prompt,
    SequenceRows,
    TargetInfo,
    TargetModel,
    TargetPass,
    VisualInput,
)
from sparrow_core.errors import ConfigError
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.targets.fingerprint import tokenizer_hash, weights_fingerprint
from sparrow_core.types import Frames, Message

Spec = TypeVar("Spec", bound=FrameSpec)


class FamilyTarget(TargetModel, ABC, Generic[Spec]):
    """A loaded checkpoint of a family whose language model has Qwen2's layers.

    Raises ConfigError if it uses sliding-window attention.
    """

    model_class: ClassVar[Any]
    position_axes: ClassVar[int]

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: Spec, name: str) -> None:
        config = model.config.get_text_config()
        if config.use_sliding_window:
            raise ConfigError(f"{name}: sliding-window attention is not supported; set use_sliding_window to false")
        model.set_attn_implementation("sdpa")
        self.model: Any = model.eval()
        head_dim = config.hidden_size // config.num_attention_heads
        self._decoder = FusedDecoder(self.model.model.language_model, head_dim)
        self._lm_head_VD, _ = join_linears(self.model.lm_head)
        self.tokenizer = tokenizer
        self.spec = spec
        self._placeholder = {"image": model.config.image_token_id, "video": model.config.video_token_id}
        self.info = TargetInfo(
            name=name,
            fingerprint=weights_fingerprint(model),
            tokenizer_hash=tokenizer_hash(tokenizer),
            position_axes=self.position_axes,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_parameters["rope_theta"],
            stop_token_ids=_stop_token_ids(model),
            device=model.device,
            dtype=model.dtype,
        )

    @staticmethod
    @abstractmethod
    def read_spec(config: PreTrainedConfig, processor: Any) -> FrameSpec:
        """What the vision tower asks of frames, from the checkpoint's config and its image processor."""

    @abstractmethod
    def _visual(self, part: Frames | np.ndarray) -> VisualInput:
        """A video's frames, or an image, prepared for the vision tower. Raises ConfigError for what it cannot take."""

    @abstractmethod
    def _features(self, visual: VisualInput) -> Iterator[torch.Tensor]:
        """The vision tower's features in pieces [M, D], `visual.num_tokens` rows in all."""

    @abstractmethod
    def _positions(self, ids_S: torch.Tensor, prompt: Prompt) -> tuple[torch.Tensor, int]:
        """Positions [A, S] of a prompt, and the position offset of the slots after it (see `EmbeddedPrompt`)."""

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
        is_text = [token not in self._placeholder.values() for token in token_ids]
        return Prompt(torch.tensor(token_ids), torch.tensor(is_text), visuals)

    def _refuse_control_tokens(self, messages: tuple[Message, ...]) -> None:
        control = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        for message in messages:
            for part in message.parts:
                found = [token for token in control if isinstance(part, str) and token in part]
                if found:
                    raise ConfigError(f"a message contains the control token {found[0]!r}; remove it from the text")

    def _expand_placeholders(self, collapsed: list[int], visuals: tuple[VisualInput, ...]) -> list[int]:
        """Repeat the template's one placeholder of each visual `num_tokens` times."""
        waiting, expanded = list(visuals), []
        for token in collapsed:
            if token in self._placeholder.values():
                visual = waiting.pop(0)
                assert token == self._placeholder[visual.kind], "the chat template reordered the visuals"
                expanded += [token] * visual.num_tokens
            else:
                expanded.append(token)
        assert not waiting, "the chat template dropped a visual"
        return expanded

    @torch.inference_mode()
    def embed_by_frames(self, prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        device = self.info.device
        ids_S = prompt.token_ids_S.to(device)
        embeddings_SD = self.embed_tokens(ids_S)
        if prompt.visuals:
            features = []
            for visual in prompt.visuals:
                for piece in self._features(visual):
                    features.append(piece)
                    yield
            embeddings_SD[~prompt.is_text_S.to(device)] = torch.cat(features).to(embeddings_SD.dtype)
        positions_AS, offset = self._positions(ids_S, prompt)
        return EmbeddedPrompt(embeddings_SD, positions_AS, offset)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(token_ids)

    def forward_by_layer(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> Generator[None, None, TargetPass]:
        num_rows = len(embeddings_RD)
        hidden_RD, taps = yield from self._decoder(
            pad_rows(embeddings_RD),
            pad_rows(positions_AR.T).T,
            PassAttention(sequences, self.info.num_heads),
            tap_layers,
        )
        return TargetPass(hidden_RD[:num_rows], {layer: tap_RD[:num_rows] for layer, tap_RD in taps.items()})

    @torch.inference_mode()
    def attention(
        self, layer: int, hidden_RD: torch.Tensor, positions_AR: torch.Tensor, keys_GSd: torch.Tensor
    ) -> torch.Tensor:
        return self._decoder.attention(layer, hidden_RD, positions_AR, keys_GSd)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden_RD = hidden.reshape(-1, hidden.shape[-1])
        logits_RV = linear(pad_rows(hidden_RD), self._lm_head_VD)[: len(hidden_RD)].float()
        return logits_RV.view(*hidden.shape[:-1], -1)

    def decode_text(self, token_ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _stop_token_ids(model: Any) -> frozenset[int]:
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
