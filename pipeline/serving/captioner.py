"""The captioner, where a request is admitted to the engine: limits, conversion, cancellation. Knows no HTTP, no Ray."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from pipeline.common.worker_engine import worker_engine
from pipeline.serving.config import ServeConfig
from pipeline.serving.errors import ApiError, overloaded
from pipeline.serving.protocol import ChatMessage, ChatRequest, Part
from pipeline.serving.video_reader import VideoReader
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Ticket
from sparrow_core.errors import EngineClosedError
from sparrow_core.targets.loading import read_frame_spec
from sparrow_core.types import Frames, Message, Request


@dataclass(frozen=True)
class ServedModel:
    """The model as clients see it: its name, the fingerprint of the target's weights, the load time (Unix seconds)."""

    name: str
    fingerprint: str
    created_s: int


class Captioner:
    """Answers requests with one Engine. Must be used from a single event loop."""

    def __init__(self, engine: Engine, reader: VideoReader, config: ServeConfig) -> None:
        info = engine.target.info
        self.model = ServedModel(config.http.model_name or info.name, info.fingerprint, int(time.time()))
        self._engine, self._reader, self._config = engine, reader, config
        self._num_requests = 0
        self._busy_since = 0.0

    @classmethod
    def load(cls, config: ServeConfig) -> "Captioner":
        """Load the checkpoints that `config` names, in the same way as the captioning job."""
        return cls(worker_engine(config), VideoReader(config, read_frame_spec(config.target)), config)

    @property
    def decode_text(self) -> Callable[[tuple[int, ...]], str]:
        """The target's function from token ids to text."""
        return self._engine.target.decode_text

    @contextlib.asynccontextmanager
    async def admit(self, chat: ChatRequest) -> AsyncIterator[Ticket]:
        """Submit a request to the engine and give its ticket. Leaving the context cancels an unfinished request.

        Raises ApiError: 404 for another model, 429 if `max_requests` are admitted already, and the errors of videos.
        """
        if chat.model != self.model.name:
            message = f"there is no model {chat.model!r} here; ask for {self.model.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        http = self._config.http
        if self._num_requests >= http.max_requests:
            raise overloaded(http.max_requests, http.retry_after_s)
        self._busy_since = self._busy_since if self._num_requests else time.monotonic()
        self._num_requests += 1
        try:
            ticket = self._engine.submit(await self._request(chat))
            try:
                yield ticket
            finally:
                ticket.cancel()
        finally:
            self._num_requests -= 1

    def check_health(self) -> None:
        """Raise EngineClosedError if the engine's thread is dead, or has work but finished no step for too long."""
        if not self._engine.alive:
            raise EngineClosedError("the engine's thread is dead")
        stalled_s = min(self._engine.idle_s, time.monotonic() - self._busy_since) if self._num_requests else 0.0
        if stalled_s > self._config.http.stall_limit_s:
            raise EngineClosedError(f"the engine has had work for {stalled_s:.0f} s without finishing a step")

    def close(self) -> None:
        """End the engine and the decoding processes."""
        self._engine.close()
        self._reader.close()

    async def _request(self, chat: ChatRequest) -> Request:
        limit = self._config.http.limits.max_videos
        if sum(part.video_url is not None for message in chat.messages for part in message.content) > limit:
            raise ApiError(400, f"a request may hold at most {limit} videos", param="messages", code="too_many_videos")
        return Request(
            messages=tuple([await self._message(message, f"messages.{i}") for i, message in enumerate(chat.messages)]),
            sampling=chat.sampling(self._config.sampling, fresh_seed=secrets.randbits(32)),
            max_new_tokens=chat.num_new_tokens(self._config.max_new_tokens),
            request_id=f"chatcmpl-{secrets.token_hex(16)}",
        )

    async def _message(self, message: ChatMessage, param: str) -> Message:
        parts = [await self._part(part, f"{param}.content.{i}") for i, part in enumerate(message.content)]
        return Message(message.role, tuple(parts))

    async def _part(self, part: Part, param: str) -> str | Frames:
        if part.video_url is not None:
            return await self._reader.read(part.video_url.url, f"{param}.video_url.url")
        return part.text or ""
