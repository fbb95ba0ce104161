"""Decisions before Serve starts: number of replicas, their config, the port, and the example command."""

import json
import shlex
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.common.cluster import Cluster
from pipeline.common.resources import ResourcesConfig
from pipeline.serving.app import ReplicaPlan, plan_replicas, refuse_busy_port, resolve_config
from pipeline.serving.config import HttpConfig, ServeConfig
from pipeline.serving.console import curl_example
from pipeline.serving.protocol import parse_request
from sparrow_core.errors import ConfigError


def cluster(num_cpus: float, num_gpus: float) -> Cluster:
    return Cluster(num_cpus, num_gpus, node_memory_bytes=2**34)


def test_replicas_take_what_there_is() -> None:
    assert plan_replicas(ResourcesConfig(), "auto", cluster(2, 0)) == ReplicaPlan(1, 2.0, 0.0)
    assert plan_replicas(ResourcesConfig(), "auto", cluster(16, 2)) == ReplicaPlan(1, 1.0, 1.0)
    assert plan_replicas(ResourcesConfig(), "cpu", cluster(16, 2)) == ReplicaPlan(1, 16.0, 0.0)
    assert plan_replicas(ResourcesConfig(caption_workers=2), "auto", cluster(16, 2)) == ReplicaPlan(2, 1.0, 1.0)
    assert plan_replicas(ResourcesConfig(caption_workers=4), "auto", cluster(2, 0)).threads == 1


@pytest.mark.parametrize(
    "config", [ResourcesConfig(num_gpus=1.0), ResourcesConfig(caption_workers=2, caption_cpus=2.0)]
)
def test_grants_that_do_not_fit_are_refused(config: ResourcesConfig) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        plan_replicas(config, "auto", cluster(2, 0))


def test_replicas_are_told_absolute_paths_a_device_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "videos").symlink_to("tiny")
    monkeypatch.chdir(tmp_path)
    config = resolve_config(ServeConfig(target="tiny", http=HttpConfig(media_root="videos")), ReplicaPlan(1, 1.0, 0.0))
    assert (config.target, config.device, config.http.model_name) == (str(tmp_path / "tiny"), "cpu", "tiny")
    assert config.http.media_root == str(tmp_path / "tiny")
    assert resolve_config(ServeConfig(target="org/name"), ReplicaPlan(1, 1.0, 1.0)).http.model_name == "org/name"


def test_a_busy_port_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="choose another"):
            refuse_busy_port(HttpConfig(port=other.getsockname()[1]))


@pytest.mark.parametrize("credential", ["$SPARROW_API_TOKEN", None])
def test_the_example_command_is_a_valid_request(tmp_path: Path, credential: str | None) -> None:
    http = HttpConfig(host="::1", model_name="tiny", media_root=str(tmp_path))
    config = replace(ServeConfig(target="tiny", prompt="What's shown?"), http=http)
    words = shlex.split(curl_example(config, credential).replace("\\\n", " "))
    assert words[1] == "http://[::1]:8000/v1/chat/completions"
    assert ("Authorization: Bearer $SPARROW_API_TOKEN" in words) == (credential is not None)
    request = parse_request(words[-1].encode())
    assert json.loads(words[-1])["temperature"] == 0
    assert [part.type for part in request.messages[0].content] == ["video_url", "text"]
