"""Deterministic ids of videos, windows and settings, and which windows are sampled for audit or capture.

Pure functions of their arguments, without access to files or tables.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sparrow.captions")

Span = tuple[float, float]


def video_id(source_uri: str) -> str:
    """Id of a video. It depends on the URI alone, so that the video's rows are found under any settings."""
    return str(uuid.uuid5(NAMESPACE, source_uri))


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hex digits that identify settings (plain JSON values), whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Sorted keys whose values differ between two settings; a missing key counts as None."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def prompt_hash(prompt: str) -> str:
    """16 hex digits that identify a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def window_id(source_uri: str, span: Span | None, prompt: str, settings: str) -> str:
    """Id of a window: uuid5 of its video, its span in seconds (None: the whole video), prompt and settings.

    `settings` is the fingerprint of the settings that shape captions. The drafter is not among them, since captions do
    not depend on it. The id of a whole video leaves its duration out, so that it is known before the file is opened.
    """
    where = "whole" if span is None else f"{span[0]:.3f}-{span[1]:.3f}"
    return str(uuid.uuid5(NAMESPACE, json.dumps([source_uri, where, prompt, settings], ensure_ascii=False)))


def in_audit(window: str, share: float) -> bool:
    """Whether a window is in the audited share: the same answer on every machine and in every run."""
    return uuid.UUID(window).node < share * 2**48


def in_capture(window: str, share: float) -> bool:
    """Whether a window is in the captured share, which is sampled independently of the audited one."""
    return uuid.UUID(window).time_low < share * 2**32


def window_number(window: str) -> int:
    """A 31-bit number derived from a window id, used to seed sampling."""
    return uuid.UUID(window).int >> 97
