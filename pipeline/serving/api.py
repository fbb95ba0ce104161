"""The HTTP API, where a route is added: OpenAI's chat completions (streamed or whole), models, health. Knows no Ray."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from pipeline.serving import responses
from pipeline.serving.auth import BearerAuth
from pipeline.serving.captioner import Captioner
from pipeline.serving.errors import ApiError, as_api_error, unavailable
from pipeline.serving.protocol import ChatRequest, parse_request
from pipeline.serving.text_stream import TextStream
from sparrow_core.engine.ticket import Ticket
from sparrow_core.errors import SparrowError
from sparrow_core.types import Completion


def build_api(captioner: Captioner, digest: bytes | None, max_body_bytes: int) -> FastAPI:
    """The FastAPI application. `digest` is the bearer token's (`auth.token_digest`); None admits everybody."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        captioner.close()

    api = FastAPI(title="Sparrow", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    if digest is not None:
        api.add_middleware(BearerAuth, digest=digest)
    _answer_errors(api)

    @api.get("/health")
    async def health() -> dict[str, str]:
        captioner.check_health()
        return {"status": "ok"}

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = captioner.model
        entry = {"id": model.name, "object": "model", "created": model.created_s, "owned_by": "sparrow"}
        return {"object": "list", "data": [entry]}

    @api.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await _read_body(request, max_body_bytes)
        chat = await asyncio.to_thread(parse_request, body)
        return await (_stream(captioner, chat) if chat.stream else _answer(captioner, chat))

    return api


async def _answer(captioner: Captioner, chat: ChatRequest) -> Response:
    async with captioner.admit(chat) as ticket:
        completion = _finished(await asyncio.wrap_future(ticket.future))
        return JSONResponse(responses.whole_answer(_metadata(captioner, ticket), completion, ticket.request.sampling))


async def _stream(captioner: Captioner, chat: ChatRequest) -> Response:
    """Answer as an event stream, which starts with the first tokens: an error before them still has its HTTP status."""
    events = _events(captioner, chat)
    first = await anext(events)

    async def body() -> AsyncIterator[str]:
        async with contextlib.aclosing(events):
            yield first
            try:
                async for event in events:
                    yield event
            except SparrowError as error:
                yield responses.event(as_api_error(error).body)

    return StreamingResponse(body(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _events(captioner: Captioner, chat: ChatRequest) -> AsyncGenerator[str, None]:
    async with captioner.admit(chat) as ticket:
        metadata = _metadata(captioner, ticket)
        text = TextStream(captioner.decode_text)
        delta: dict[str, str] = {"role": "assistant"}
        async for token_ids in ticket:
            piece = text.add(token_ids)
            if piece or delta:
                yield responses.event(responses.chunk(metadata, {**delta, "content": piece}))
                delta = {}
        completion = _finished(ticket.result(timeout=0))
        if rest := text.finish():
            yield responses.event(responses.chunk(metadata, {"content": rest}))
        figures = responses.figures(completion, ticket.request.sampling)
        yield responses.event(responses.chunk(metadata, {}, completion.finish_reason, sparrow=figures))
        if chat.stream_options and chat.stream_options.include_usage:
            yield responses.event(responses.usage_chunk(metadata, completion))
        yield responses.event("[DONE]")


def _metadata(captioner: Captioner, ticket: Ticket) -> responses.ResponseMetadata:
    model = captioner.model
    return responses.ResponseMetadata(ticket.request.request_id, model.name, int(time.time()), model.fingerprint)


def _finished(completion: Completion) -> Completion:
    """The completion. Raises ApiError 503 if it was cancelled: while a client waits, only a closing engine cancels."""
    if completion.finish_reason == "cancelled":
        raise unavailable("the endpoint is shutting down; the answer is incomplete")
    return completion


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a JSON request. Raises ApiError: 415 for another media type, 413 for more than `max_bytes`.

    The media type is checked because browsers send requests of some other types from any web page, without asking us.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with Content-Type: application/json", code="invalid")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            message = f"the body is over this endpoint's limit of max_body_bytes={max_bytes}"
            raise ApiError(413, message, code="too_large")
    return bytes(body)


def _answer_errors(api: FastAPI) -> None:
    """Answer every error, including those of the framework, as OpenAI's error object."""

    @api.exception_handler(SparrowError)
    async def sparrow_error(_: Request, error: SparrowError) -> Response:
        answer = as_api_error(error)
        return JSONResponse(answer.body, answer.status, headers=answer.headers)

    @api.exception_handler(HTTPException)
    async def framework_error(_: Request, error: HTTPException) -> Response:
        answer = ApiError(error.status_code, str(error.detail), code="invalid")
        return JSONResponse(answer.body, answer.status, headers=error.headers)

    @api.exception_handler(Exception)
    async def internal_error(_: Request, error: Exception) -> Response:
        answer = ApiError(500, "internal error", kind="server_error", code="internal_error")
        return JSONResponse(answer.body, answer.status)
