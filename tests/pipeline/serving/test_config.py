"""The endpoint takes a captioning job's settings and its own under `http`, checked equally strictly."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.config import caption_config
from pipeline.serving.config import ServeConfig, serve_config
from sparrow_core.errors import ConfigError

DEMO = {"target": "demo-target", "draft": "demo-drafter"}


def made(file: Path | None = None, *assignments: str, http: dict[str, Any] | None = None) -> ServeConfig:
    return serve_config(file, assignments, {"target": None, "draft": None}, http or {}, DEMO)


def test_a_captioning_jobs_file_gives_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "captions.yaml"
    file.write_text("target: model\nprompt: What happens?\nframes: {fps: 1.0}\nsampling: {temperature: 0.7}\n")
    job = caption_config(file, (), {}, DEMO)
    served = made(file)
    assert {name: getattr(served, name) for name in vars(job)} == vars(job)


def test_flags_override_the_file_and_absent_ones_do_not(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("http: {port: 9000, max_requests: 3}\n")
    config = made(file, "http.limits.max_videos=5", http={"port": 9001, "host": None})
    assert (config.http.port, config.http.max_requests, config.http.limits.max_videos) == (9001, 3, 5)
    assert (config.http.host, config.target, config.draft) == ("127.0.0.1", "demo-target", "demo-drafter")


@pytest.mark.parametrize(
    "assignment",
    [
        "http.prot=1",
        "http=8000",
        "http.port=0",
        "http.port=x",
        "http.max_requests=0",
        "http.limits.max_videos=0",
        "http.media_root=/does/not/exist",
    ],
)
def test_faults_are_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="http"):
        made(None, assignment)
