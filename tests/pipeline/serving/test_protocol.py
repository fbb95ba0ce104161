"""Requests are parsed as OpenAI's clients write them, and unsupported fields are refused by name."""

import json
from typing import Any

import pytest

from pipeline.serving.errors import ApiError
from pipeline.serving.protocol import parse_request
from sparrow_core.config import Sampling

TEXT = {"type": "text", "text": "Describe the video."}
VIDEO = {"type": "video_url", "video_url": {"url": "clip.mp4"}}


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": [VIDEO, TEXT]}], **fields}).encode()


def test_plain_text_is_one_part() -> None:
    (message,) = parse_request(request(messages=[{"role": "user", "content": "hello"}])).messages
    assert [(part.type, part.text) for part in message.content] == [("text", "hello")]


def test_sampling_of_the_request_overrides_the_defaults() -> None:
    default = Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=3, rule="rejection")
    chat = parse_request(request(temperature=1, seed=11))
    assert chat.sampling(default, fresh_seed=99) == Sampling(1.0, 0.9, 7, 11, "rejection")
    chat = parse_request(request(top_p=0.5, top_k=0))
    assert chat.sampling(default, fresh_seed=99) == Sampling(0.5, 0.5, 0, 99, "rejection")


def test_zero_is_a_value_and_not_a_gap() -> None:
    default = Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=3)
    chat = parse_request(request(temperature=0, seed=0, top_k=0))
    assert chat.sampling(default, fresh_seed=99) == Sampling(0.0, 0.9, 0, 0)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_token_limit(name: str) -> None:
    assert parse_request(request(**{name: 5})).num_new_tokens(default=100) == 5
    assert parse_request(request()).num_new_tokens(default=100) == 100


def test_null_is_absent() -> None:
    assert parse_request(request(tools=None, seed=None, n=None)) == parse_request(request())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"stop": "x"}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{**TEXT, "video_url": {"url": "x"}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "content": [VIDEO]}]}, "messages.0"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, None),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_names_the_field_at_fault(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_request(request(**fields))
    assert refusal.value.status == 400
    assert refusal.value.body["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"'])
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_request(body)
    assert refusal.value.status == 400
