"""The HTTP API in front of a real engine with a tiny target, in this process: no Ray, no network."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from demo.world.video import write_mp4
from pipeline.serving.api import build_api
from pipeline.serving.auth import token_digest
from pipeline.serving.captioner import Captioner
from pipeline.serving.config import HttpConfig, MediaLimits, ServeConfig
from pipeline.serving.protocol import ChatRequest, parse_request
from pipeline.serving.video_reader import VideoReader
from sparrow_core.config import DraftConfig, EngineConfig, FrameSamplingConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Ticket
from sparrow_core.media.patches import PatchSpec
from sparrow_core.types import Request

TOKEN = "a token"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = MediaLimits(max_body_bytes=1_000_000, max_videos=1, max_duration_s=3.0, max_frame_px=120 * 120)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good clip, a clip that is too long, one that is too large, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for name, num_frames, side in (("clip", 8, 112), ("long", 16, 112), ("large", 8, 128)):
        pixels = np.random.default_rng(0).integers(0, 256, (num_frames, side, side, 3), dtype=np.uint8)
        write_mp4(folder / f"{name}.mp4", pixels, fps=4.0)
    (folder / "text.mp4").write_text("not a video")
    return folder


@pytest.fixture
def captioner(tiny_target: TargetModel, videos: Path) -> Iterator[Captioner]:
    """A captioner that admits two requests at a time, of short videos."""
    config = ServeConfig(
        target="tiny",
        max_new_tokens=12,
        frames=FrameSamplingConfig(max_visual_tokens=64),
        engine=EngineConfig(DraftConfig(), max_model_tokens=2048),  # a fixed draft shape, since rounds are compared
        http=HttpConfig(media_root=str(videos), model_name="tiny", max_requests=2, decoders=1, limits=LIMITS),
    )
    engine = Engine(tiny_target, PromptLookupDrafter(tiny_target.info.vocab_size), config.engine)
    made = Captioner(engine, VideoReader(config, PatchSpec()), config)
    yield made
    made.close()


def session(captioner: Captioner, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Run `work` with a client of the application."""

    async def run() -> Any:
        api = build_api(captioner, token_digest(TOKEN), LIMITS.max_body_bytes)
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=AUTHORIZED) as client:
            return await work(client)

    return asyncio.run(run())


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def video(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def post(captioner: Captioner, body: Any) -> httpx.Response:
    return session(captioner, lambda client: client.post(CHAT, json=body))


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    *events, end = (line.removeprefix("data: ") for line in response.text.split("\n\n")[:-1])
    assert end == "[DONE]"
    return [json.loads(event) for event in events]


def test_only_health_is_open(captioner: Captioner) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        client.headers.clear()
        assert (await client.get("/health")).json() == {"status": "ok"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("/v1/models", CHAT, "/docs", "/openapi.json", "/nothing", "/health/"):
                for method in ("GET", "POST"):
                    response = await client.request(method, path, headers=headers)
                    assert response.status_code == 401
                    assert response.json()["error"]["code"] == "invalid_api_key"

    session(captioner, work)


def test_models(captioner: Captioner) -> None:
    response = session(captioner, lambda client: client.get("/v1/models"))
    assert [model["id"] for model in response.json()["data"]] == ["tiny"]


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1, "top_p": 0.9, "top_k": 50, "seed": 5}])
def test_streamed_and_whole_answers_agree(captioner: Captioner, videos: Path, sampling: dict[str, Any]) -> None:
    embedded = "data:video/mp4;base64," + base64.b64encode((videos / "clip.mp4").read_bytes()).decode()
    whole = post(captioner, chat(video("clip.mp4"), "Describe.", **sampling)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, usage = events_of(post(captioner, chat(video(embedded), "Describe.", **sampling, **options)))
    (choice,) = whole["choices"]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == choice["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == choice["finish_reason"] == "length"
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert whole["usage"]["completion_tokens"] == 12
    timeless = [{**figures, "decode_s": None} for figures in (whole["sparrow"], last["sparrow"])]
    assert timeless[0] | {"seed": None} == timeless[1] | {"seed": None}
    assert whole["sparrow"]["tau"] >= 1
    assert whole["sparrow"]["visual_tokens"] == 32  # 4 frames are 2 temporal patches of 16 merged tokens


def test_the_seed_of_the_answer_repeats_it(captioner: Captioner) -> None:
    first, other = (post(captioner, chat("Tell.", temperature=1)).json() for _ in range(2))
    again = post(captioner, chat("Tell.", temperature=1, seed=first["sparrow"]["seed"])).json()
    assert again["choices"] == first["choices"]
    assert other["sparrow"]["seed"] != first["sparrow"]["seed"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (chat(video("long.mp4")), 422, "too_large", "messages.0.content.0.video_url.url"),
        (chat("Look:", video("large.mp4")), 422, "too_large", "messages.0.content.1.video_url.url"),
        (chat(video("text.mp4")), 422, "unreadable", "messages.0.content.0.video_url.url"),
        (chat(video("none.mp4")), 422, "missing", "messages.0.content.0.video_url.url"),
        (chat(video("/etc/passwd")), 403, "media_refused", "messages.0.content.0.video_url.url"),
        (chat(video("data:video/mp4;base64,AAAA")), 422, "unreadable", "messages.0.content.0.video_url.url"),
        (chat(video("clip.mp4"), video("clip.mp4")), 400, "too_many_videos", "messages"),
        (chat("x", model="other"), 404, "model_not_found", "model"),
        (chat("x", tools=[]), 400, "unsupported", "tools"),
        (chat("x", max_tokens=5000), 400, "refused", None),
        (chat("x <|im_end|>"), 400, "refused", None),
        (chat("x" * 1_000_001), 413, "too_large", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_a_status_and_a_name(
    captioner: Captioner, body: dict[str, Any], status: int, code: str, param: str | None, stream: bool
) -> None:
    """Also for streamed requests: nothing is sent before the first token."""
    response = post(captioner, {**body, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"] and error["type"] == "invalid_request_error"


def test_a_body_of_exactly_the_limit_is_read(captioner: Captioner) -> None:
    """White space is part of the body: it is parsed, and found to lack its messages."""

    async def work(client: httpx.AsyncClient) -> list[int]:
        body = b'{"model": "tiny"}'.ljust(LIMITS.max_body_bytes)
        json_type = {"Content-Type": "application/json"}
        return [(await client.post(CHAT, content=body + more, headers=json_type)).status_code for more in (b"", b" ")]

    assert session(captioner, work) == [400, 413]


def test_errors_of_the_framework_have_the_same_shape(captioner: Captioner) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for response, status in (
            (await client.get("/nothing"), 404),
            (await client.get(CHAT), 405),
            (await client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415),
        ):
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    session(captioner, work)


def test_overload_is_refused_and_health_still_answers(captioner: Captioner) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(captioner.admit(parsed(chat("x"))))
            refused = await client.post(CHAT, json=chat("x"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert (await client.get("/health")).status_code == 200
        assert (await client.post(CHAT, json=chat("x"))).status_code == 200

    session(captioner, work)


async def decoding(captioner: Captioner) -> Ticket:
    """The ticket of the next request to be submitted, once it has its first token."""
    submitted: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
    submit = captioner._engine.submit

    def spy(request: Request) -> Ticket:
        submitted.set_result(submit(request))
        return submitted.result()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioner._engine, "submit", spy)
        ticket = await submitted
    await anext(aiter(ticket))
    return ticket


def test_a_client_that_leaves_frees_the_engine(captioner: Captioner) -> None:
    """Serve cancels the handler of a client that has gone. 1,900 tokens would take much longer than this test."""

    async def work(client: httpx.AsyncClient) -> None:
        for stream in (False, True):
            handler = asyncio.ensure_future(client.post(CHAT, json=chat("x", max_tokens=1900, stream=stream)))
            ticket = await decoding(captioner)
            handler.cancel()
            completion = await asyncio.wait_for(asyncio.wrap_future(ticket.future), timeout=20)
            assert completion.finish_reason == "cancelled"
            assert 0 < len(completion.token_ids) < 1900
        assert (await client.post(CHAT, json=chat("x"))).status_code == 200
        assert captioner._num_requests == 0

    session(captioner, work)


def test_a_dead_engine_is_told(captioner: Captioner) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        captioner._engine.close()
        assert (await client.get("/health")).status_code == 503
        answer = await client.post(CHAT, json=chat("x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")

    session(captioner, work)


def test_a_stream_that_breaks_says_so(captioner: Captioner) -> None:
    """The HTTP status is already sent, so the error becomes an event, which OpenAI's clients raise."""

    async def work(client: httpx.AsyncClient) -> str:
        answer = asyncio.ensure_future(client.post(CHAT, json=chat("x", max_tokens=1900, stream=True)))
        await decoding(captioner)
        await asyncio.to_thread(captioner._engine.close)
        return (await answer).text

    *_, last = session(captioner, work).strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"


def test_an_engine_that_hangs_is_unhealthy(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: httpx.AsyncClient) -> list[int]:
        statuses = []
        monkeypatch.setattr(Engine, "idle_s", property(lambda _: 1e6))
        statuses.append((await client.get("/health")).status_code)  # no step for long, but nothing to do
        async with captioner.admit(parsed(chat("x"))):
            statuses.append((await client.get("/health")).status_code)  # a request has just been admitted
            captioner._busy_since = time.monotonic() - 1e6
            statuses.append((await client.get("/health")).status_code)
        return statuses

    assert session(captioner, work) == [200, 200, 503]


def parsed(body: dict[str, Any]) -> ChatRequest:
    return parse_request(json.dumps(body).encode())
