"""The request of `POST /v1/chat/completions` in OpenAI's shape; fields that the endpoint does not support are refused.

Owns syntax and ranges. Which URLs are allowed is decided in `media_guard.py`.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.serving.errors import ApiError
from sparrow_core.config import Sampling


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class VideoUrl(_Strict):
    """A `data:` URL, or a file below the media root."""

    url: str


class Part(_Strict):
    """One part of a message: text, or a video."""

    type: Literal["text", "video_url"]
    text: str | None = None
    video_url: VideoUrl | None = None

    @model_validator(mode="after")
    def _holds_what_it_names(self) -> Self:
        given = {name for name in ("text", "video_url") if getattr(self, name) is not None}
        if given != {self.type}:
            raise ValueError(f"a part of type {self.type!r} must hold {self.type!r} and nothing else")
        return self


class ChatMessage(_Strict):
    """One message of the conversation. `content` given as a plain string becomes one text part."""

    role: Literal["system", "user", "assistant"]
    content: list[Part] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _text_is_one_part(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("content"), str):
            return {**raw, "content": [{"type": "text", "text": raw["content"]}]}
        return raw

    @model_validator(mode="after")
    def _only_users_show_videos(self) -> Self:
        if self.role != "user" and any(part.video_url for part in self.content):
            raise ValueError(f"only a user message may contain a video, not one of role {self.role!r}")
        return self


class StreamOptions(_Strict):
    """With `include_usage`, a last chunk with the token counts is sent."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """A chat completion request. None means that the field was not given. `top_k` is an extension (0: off)."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, raw: Any) -> Any:
        return {name: value for name, value in raw.items() if value is not None} if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_completion_tokens or its older name max_tokens, not both")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self

    def num_new_tokens(self, default: int) -> int:
        """The limit of tokens to generate: the request's, else `default`."""
        return self.max_completion_tokens or self.max_tokens or default

    def sampling(self, default: Sampling, fresh_seed: int) -> Sampling:
        """Sampling settings: the request's fields, else those of `default`; the request's seed, else `fresh_seed`."""
        return Sampling(
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_p=default.top_p if self.top_p is None else self.top_p,
            top_k=default.top_k if self.top_k is None else self.top_k,
            seed=fresh_seed if self.seed is None else self.seed,
            rule=default.rule,
        )


def parse_request(body: bytes) -> ChatRequest:
    """Parse and check an HTTP body. Raises ApiError 400 that names the first field at fault."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
    param = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        message = f"{param!r} is not supported by this endpoint; leave it out"
        raise ApiError(400, message, param=param, code="unsupported")
    message = fault["msg"].removeprefix("Value error, ")
    raise ApiError(400, f"{param}: {message}" if param else message, param=param or None, code="invalid")
