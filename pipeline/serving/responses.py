"""The answers of `POST /v1/chat/completions` in OpenAI's shape, with decoding figures in the extra field `sparrow`."""

import json
from dataclasses import dataclass
from typing import Any

from sparrow_core.config import Sampling
from sparrow_core.types import Completion


@dataclass(frozen=True)
class ResponseMetadata:
    """Fields that all chunks of one answer share. `fingerprint` identifies the target's weights."""

    id: str
    model: str
    created_s: int
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        """The shared fields as JSON; `kind` is the `object` field."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def whole_answer(metadata: ResponseMetadata, completion: Completion, sampling: Sampling) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": completion.text, "refusal": None},
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return {
        **metadata.fields("chat.completion"),
        "choices": [choice],
        "usage": usage(completion),
        "sparrow": figures(completion, sampling),
    }


def chunk(
    metadata: ResponseMetadata, delta: dict[str, Any], finish_reason: str | None = None, **extra: Any
) -> dict[str, Any]:
    """One chunk of a streamed answer."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**metadata.fields("chat.completion.chunk"), "choices": [choice], **extra}


def usage_chunk(metadata: ResponseMetadata, completion: Completion) -> dict[str, Any]:
    """The additional last chunk with token counts, for clients that asked for it."""
    return {**metadata.fields("chat.completion.chunk"), "choices": [], "usage": usage(completion)}


def usage(completion: Completion) -> dict[str, int]:
    """Token counts. Visual tokens count as prompt tokens, a stop token as a completion token."""
    prompt, new = completion.prompt_tokens, len(completion.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def figures(completion: Completion, sampling: Sampling) -> dict[str, Any]:
    """Decoding figures. `tau` (tokens per target call) is null if there was no round, that is, only one token.

    `seed` is the seed that was used: the same request with this seed gives the same text.
    """
    stats = completion.stats
    return {
        "tau": stats.tau if stats.rounds else None,
        "rounds": stats.rounds,
        "drafted_tokens": stats.drafted,
        "visual_tokens": completion.visual_tokens,
        "decode_s": completion.timings.decode_s,
        "seed": sampling.seed,
    }


def event(body: dict[str, Any] | str) -> str:
    """The text of one server-sent event."""
    return f"data: {body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)}\n\n"
