"""The endpoint on a real Ray Serve, asked by the unmodified `openai` client, against the captioning job's stages."""

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pyarrow as pa
import pytest
import torch

from demo.world.video import write_mp4
from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.stages.caption import CaptionWindows, CaptionWorkerConfig
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.common.cluster import connected
from pipeline.common.rows import VIDEO, to_table
from pipeline.serving.app import ReplicaPlan, refuse_busy_port, resolve_config, start_endpoint, stop_endpoint
from pipeline.serving.config import HttpConfig, ServeConfig
from pipeline.serving.console import base_url
from sparrow_core.config import DraftConfig, EngineConfig, FrameSamplingConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import read_frame_spec

TOKEN = "integration-token"
# So many tokens take even the tiny model (1.6 ms each, since its drafter knows nothing) far longer than this.
MANY_TOKENS, FREE_AGAIN_S = 15_000, 10.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The media root, with one clip, beside a file that is out of bounds."""
    folder = tmp_path_factory.mktemp("served") / "videos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 120, 3), dtype=np.uint8)
    for path in (folder / "clip.mp4", folder.parent / "secret.mp4"):
        write_mp4(path, pixels, fps=10.0)
    return folder


@pytest.fixture(scope="module")
def config(
    tiny_checkpoint: Path, tiny_target: TargetModel, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServeConfig:
    """A tiny target and an untrained drafter, on a free port."""
    torch.manual_seed(0)
    drafter = tmp_path_factory.mktemp("drafter")
    save_drafter(drafter, SparrowDrafterModel(DrafterConfig.for_target(tiny_target.info)), "# A drafter\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ServeConfig(
        target=str(tiny_checkpoint),
        draft=str(drafter),
        prompt="Describe the video.",
        max_new_tokens=40,
        frames=FrameSamplingConfig(fps=3.0, max_visual_tokens=96),
        engine=EngineConfig(draft=DraftConfig(depth=3, width=2, total=7), max_model_tokens=16_384),
        http=HttpConfig(port=port, media_root=str(folder), model_name="tiny"),
    )


@pytest.fixture(scope="module")
def endpoint(config: ServeConfig) -> Iterator[str]:
    """The base URL of the running endpoint."""
    plan = ReplicaPlan(replicas=1, cpus=0.5, gpus=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected():
            start_endpoint(resolve_config(config, plan), TOKEN, plan)
            yield base_url(config)
            stop_endpoint()


@pytest.fixture
def client(endpoint: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint, api_key=TOKEN, max_retries=0, timeout=120) as client:
        yield client


def messages(url: str, prompt: str = "Describe the video.") -> list:
    video = {"type": "video_url", "video_url": {"url": url}}
    return [{"role": "user", "content": [video, {"type": "text", "text": prompt}]}]


def batch_row(config: ServeConfig, path: Path) -> dict:
    """The row of the captioning job's stages for a file, without a drafter."""
    settings = replace(
        CaptionConfig(target=config.target),
        prompt=config.prompt,
        max_new_tokens=config.max_new_tokens,
        frames=config.frames,
        engine=config.engine,
        device="cpu",
    )
    rows: pa.Table = to_table([{"source_uri": str(path)}], VIDEO)
    rows = ProbeVideos(settings.decode)(rows)
    rows = make_segmenter(settings.segment, lambda uri, span: uri, frozenset())(rows)
    rows = DecodeWindows(settings.decode, settings.frames, read_frame_spec(settings.target))(rows)
    worker = CaptionWorkerConfig(settings, settings_fingerprint="", draft_fingerprint=None, threads=1)
    (row,) = asyncio.run(CaptionWindows(worker)(rows)).to_pylist()
    return row


def test_captions_are_those_of_the_job(client: openai.OpenAI, config: ServeConfig, folder: Path) -> None:
    row = batch_row(config, folder / "clip.mp4")
    assert row["status"] == "success"
    whole = client.chat.completions.create(model="tiny", temperature=0, messages=messages("clip.mp4"))
    stream = client.chat.completions.create(
        model="tiny",
        temperature=0,
        messages=messages((folder / "clip.mp4").as_uri()),
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == whole.choices[0].message.content == row["caption"]
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == row["finish_reason"]
    assert last.usage == whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (row["prompt_tokens"], row["output_tokens"])
    assert whole.system_fingerprint == row["target_fingerprint"]
    assert whole.model_extra["sparrow"]["rounds"] == chunks[-1].model_extra["sparrow"]["rounds"]
    assert whole.model_extra["sparrow"]["drafted_tokens"] > 0


def test_only_health_needs_no_token(endpoint: str) -> None:
    assert httpx.get(endpoint.removesuffix("/v1") + "/health").json() == {"status": "ok"}
    with openai.OpenAI(base_url=endpoint, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="tiny", messages=messages("clip.mp4"))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("url", ["../secret.mp4", "file://{root}/%2e%2e/secret.mp4", "{root}/../secret.mp4"])
def test_files_outside_of_the_root_are_refused(client: openai.OpenAI, folder: Path, url: str) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refusal:
        client.chat.completions.create(model="tiny", messages=messages(url.format(root=folder)))
    assert refusal.value.code == "media_refused"


def test_bad_requests_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="tiny", messages=messages("clip.mp4"), n=2)
    assert refusal.value.param == "n"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(client: openai.OpenAI, stream: bool) -> None:
    request: dict = {"model": "tiny", "temperature": 0, "messages": messages("clip.mp4"), "max_tokens": MANY_TOKENS}
    if stream:
        with client.chat.completions.create(**request, stream=True) as events:
            next(iter(events))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1.0).chat.completions.create(**request)
    left = time.monotonic()
    client.chat.completions.create(**{**request, "max_tokens": 1})
    assert time.monotonic() - left < FREE_AGAIN_S


def test_a_busy_port_is_told_before_anything_starts(endpoint: str, config: ServeConfig) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{config.http.port}"):
        refuse_busy_port(config.http)
