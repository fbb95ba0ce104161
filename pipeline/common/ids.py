"""Names that stay the same on every run: videos, windows, settings, and which windows an audit looks at.

Pure functions of their arguments; they know no files and no tables.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sparrow.captions")

Span = tuple[float, float]


def video_id(source_uri: str) -> str:
    """Name of a video: depends on its URI alone, so that a row can be found again whatever the settings."""
    return str(uuid.uuid5(NAMESPACE, source_uri))


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hex digits that identify settings (plain JSON values) independently of their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys at which two ways of working differ; a key that is missing stands for None."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def prompt_hash(prompt: str) -> str:
    """16 hex digits that identify a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def window_id(source_uri: str, span: Span | None, prompt: str, settings: str) -> str:
    """Name of a window: uuid5 of its video, its span in seconds (None: the whole video), prompt and settings.

    `settings` is the fingerprint of what shapes the caption; the drafter is no part of it, since a caption does not
    depend on it. A whole video is named without its duration, so that it has a name before anybody opens it.
    """
    where = "whole" if span is None else f"{span[0]:.3f}-{span[1]:.3f}"
    return str(uuid.uuid5(NAMESPACE, json.dumps([source_uri, where, prompt, settings], ensure_ascii=False)))


def in_audit(window: str, share: float) -> bool:
    """Whether a window id falls into a sampled share: the same answer on every machine and every run."""
    return uuid.UUID(window).node < share * 2**48


def in_capture(window: str, share: float) -> bool:
    """Whether a window id falls into another sampled share, independent of the audited one."""
    return uuid.UUID(window).time_low < share * 2**32


def window_number(window: str) -> int:
    """A number that a window id stands for, to sample by."""
    return uuid.UUID(window).int >> 97
