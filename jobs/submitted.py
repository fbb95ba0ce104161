"""Checks for commands that run under `ray job submit`."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.common.cluster import is_submitted_job
from pipeline.common.storage import is_url
from sparrow_core.errors import ConfigError


def refuse_relative(paths: Mapping[str, str | Path | None]) -> None:
    """Raise ConfigError if one of `paths` (flag -> path) is relative and this is a submitted job.

    Its working directory is a temporary copy, where an input would not be found and an output would be lost. Outside
    a submitted job, every path is accepted.
    """
    if not is_submitted_job():
        return
    for flag, path in paths.items():
        if path is not None and not is_url(str(path)) and not Path(path).is_absolute():
            raise ConfigError(
                f"{flag} {path} is relative, and a submitted job runs in Ray's temporary working directory; "
                f'give the absolute path, as in {flag} "$PWD/{path}"'
            )
