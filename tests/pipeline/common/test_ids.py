"""Ids of videos and windows: the same in every process, and different as soon as anything differs that they cover."""

import uuid
from dataclasses import asdict

import pytest

from pipeline.common.ids import in_audit, in_capture, settings_fingerprint, video_id, window_id
from sparrow_core.config import FrameSamplingConfig

SETTINGS = settings_fingerprint({"frames": asdict(FrameSamplingConfig()), "prompt": "p"})


def test_ids_do_not_change_between_versions() -> None:
    """Literal values, so that rows written by earlier versions are found again."""
    assert video_id("/videos/a.mp4") == "244cf4e0-d610-52df-b95b-3c5fc8130ddf"
    assert window_id("/videos/a.mp4", (0.0, 2.5), "p", "s") == "1b8705c8-3856-5042-810a-efb360b8f092"


@pytest.mark.parametrize(
    "other",
    [
        ("/videos/b.mp4", (0.0, 2.5), "p", "s"),
        ("/videos/a.mp4", (0.0, 2.501), "p", "s"),
        ("/videos/a.mp4", None, "p", "s"),
        ("/videos/a.mp4", (0.0, 2.5), "q", "s"),
        ("/videos/a.mp4", (0.0, 2.5), "p", "t"),
    ],
)
def test_every_part_of_the_work_makes_another_window(other: tuple) -> None:
    assert window_id(*other) != window_id("/videos/a.mp4", (0.0, 2.5), "p", "s")


def test_parts_of_an_id_cannot_run_into_each_other() -> None:
    assert window_id("a", None, "b c", "d") != window_id("a", None, "b", "c d")


def test_settings_are_identified_by_content_not_order() -> None:
    assert settings_fingerprint({"a": 1, "b": {"c": 2.0, "d": None}}) == settings_fingerprint(
        {"b": {"d": None, "c": 2.0}, "a": 1}
    )
    assert settings_fingerprint({"a": 1}) != settings_fingerprint({"a": 2})


def test_audit_share_is_met_and_nested() -> None:
    windows = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(index))) for index in range(4000)]
    tenth = {window for window in windows if in_audit(window, 0.1)}
    # 4,000 draws of p = 0.1: standard deviation 0.0047; five of them.
    assert abs(len(tenth) / 4000 - 0.1) < 0.024
    assert tenth <= {window for window in windows if in_audit(window, 0.3)}
    assert not any(in_audit(window, 0.0) for window in windows)
    assert all(in_audit(window, 1.0) for window in windows)


def test_capture_share_is_met_and_independent_of_the_audits() -> None:
    windows = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(index))) for index in range(4000)]
    half = {window for window in windows if in_capture(window, 0.5)}
    audited = {window for window in windows if in_audit(window, 0.5)}
    # 4,000 draws of p = 0.5 and of p = 0.25: standard deviations 0.0079 and 0.0068; five of them.
    assert abs(len(half) / 4000 - 0.5) < 0.04 and abs(len(half & audited) / 4000 - 0.25) < 0.035
    assert half <= {window for window in windows if in_capture(window, 0.7)}
    assert not any(in_capture(window, 0.0) for window in windows)
    assert all(in_capture(window, 1.0) for window in windows)
