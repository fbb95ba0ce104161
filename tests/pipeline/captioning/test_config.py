"""Settings from YAML, `--set` and flags: how they are merged, and the messages of refusals."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.captioning.config import CaptionConfig, caption_config
from pipeline.common.settings import build_config, read_settings
from sparrow_core.errors import ConfigError

NO_FLAGS: dict[str, str | None] = {"target": None, "draft": None, "prompt": None}
DEMO = {"target": "demo/target", "draft": "demo/drafter"}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_set_wins_over_the_file_and_flags_win_over_both(tmp_path: Path) -> None:
    file = write(tmp_path, "target: a\nprompt: from file\nframes: {fps: 1.0, max_frames: 8}\n")
    flags = NO_FLAGS | {"prompt": "from flag: [1] ${x}"}
    config = caption_config(file, ["frames.fps=3", "prompt=from set"], flags, DEMO)
    assert config.target == "a"
    assert config.prompt == "from flag: [1] ${x}"  # a flag is text, never YAML or an interpolation
    assert (config.frames.fps, config.frames.max_frames) == (3.0, 8)


def test_demo_models_are_used_only_where_no_target_is_named() -> None:
    assert caption_config(None, [], NO_FLAGS, DEMO).draft == "demo/drafter"
    assert caption_config(None, [], NO_FLAGS | {"target": "mine"}, DEMO).draft is None
    assert caption_config(None, ["target=mine"], NO_FLAGS, DEMO).draft is None
    assert caption_config(None, [], NO_FLAGS | {"draft": "none"}, DEMO).draft is None
    assert caption_config(None, [], NO_FLAGS | {"draft": "none"}, DEMO).target == "demo/target"


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("frames.fsp=1.0", "unknown setting 'frames.fsp'; the nearest valid one is 'frames.fps'"),
        ("promt=Hello", "unknown setting 'promt'; the nearest valid one is 'prompt'"),
        ("engine.draft.dept=3", "the nearest valid one is 'engine.draft.depth'"),
        ("frames.fps=fast", "frames.fps: .*valid number, got 'fast'"),
        ("max_new_tokens=1.5", "max_new_tokens: .*valid integer, got 1.5"),
        ("retry_errors=1", "retry_errors: .*valid boolean, got 1"),
        ("sampling.rule=guess", "sampling.rule: .*'shared_noise' or 'rejection', got 'guess'"),
        ("schema_version=2", "schema_version: .*1, got 2"),
        ("segment.window_s=0", "segment.window_s=0.0 must be positive"),
        ("audit.share=1.5", "audit.share=1.5 is a share of windows"),
        ("engine.draft.total=2", "draft.total=2 cannot hold a path of depth 4"),
        ("resources.windows_in_flight=0", "resources.windows_in_flight=0 must be at least 1"),
        ("windows_per_part=0", "windows_per_part=0 must be at least 1"),
        ("frames=5", "frames: .*object, got 5"),
        ("frames.fps", "not of the form key.path=value"),
        ("=5", "not of the form key.path=value"),
    ],
)
def test_refusals_name_the_setting_and_the_way_out(assignment: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        caption_config(None, [assignment], NO_FLAGS, DEMO)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens: .*frames\.fsp"):
        caption_config(None, ["frames.fsp=1", "max_new_tokens=many"], NO_FLAGS, DEMO)


def test_a_target_is_required() -> None:
    with pytest.raises(ConfigError, match="setting 'target' is required"):
        build_config(CaptionConfig, {})


@pytest.mark.parametrize("text", ["- a list\n", "prompt: [unclosed\n", "prompt: ${nowhere}\n"])
def test_unusable_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read_settings(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        read_settings(tmp_path / "nowhere.yaml")


def test_config_is_importable_without_torch_or_ray() -> None:
    check = "import sys, pipeline.captioning.config; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]"
