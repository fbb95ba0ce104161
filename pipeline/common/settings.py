"""Settings of the jobs: a YAML file, overridden by `--set a.b=c`, overridden by flags, checked into frozen configs.

Owns merging and strict validation for any config dataclass. Importable without torch or Ray.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, ValidationError, create_model
from yaml import YAMLError

from sparrow_core.errors import ConfigError

Schema = TypeVar("Schema")


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Nested settings of a YAML file, overridden by `key.path=value` assignments (values in YAML)."""
    for assignment in assignments:
        if not assignment.partition("=")[0].strip() or "=" not in assignment:
            raise ConfigError(f"--set {assignment!r} is not of the form key.path=value, such as frames.fps=1.0")
    try:
        from_file = OmegaConf.load(file) if file else OmegaConf.create()
        merged = OmegaConf.merge(from_file, OmegaConf.from_dotlist(list(assignments)))
        settings = OmegaConf.to_container(merged, resolve=True)
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error.strerror}") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"the settings cannot be read ({file or '--set'}): {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"config file {file} must hold a mapping of settings, not a {type(settings).__name__}")
    return {str(key): value for key, value in settings.items()}


def build_config(schema: type[Schema], settings: Mapping[str, Any]) -> Schema:
    """A frozen config of dataclass `schema` from nested settings, without coercion: "1" is no number, 1 is not true.

    Raises a ConfigError that lists all faults: unknown keys with the nearest valid one, wrong types, bad values.
    """
    checked = create_model("Checked", __config__=ConfigDict(extra="forbid", strict=True), config=(schema, ...))
    try:
        # JSON mode is strict about scalars and still builds nested dataclasses from mappings.
        return checked.model_validate_json(json.dumps({"config": settings})).config  # type: ignore[attr-defined,no-any-return]
    except TypeError as error:
        raise ConfigError(f"the settings hold a value that is not plain YAML: {error}") from error
    except ValidationError as error:
        keys = list(_keys(schema))
        raise ConfigError("; ".join(_explain(fault, keys) for fault in error.errors())) from error


def job_settings(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | None], demo: Mapping[str, Any]
) -> dict[str, Any]:
    """Merged settings of a job that runs a target. If they name no target, `demo` supplies the models.

    A flag that is None was not given. The draft "none" means no drafter.
    """
    settings = read_settings(file, assignments) | {key: value for key, value in flags.items() if value is not None}
    if "target" not in settings:
        settings = {**demo, **settings}
    if settings.get("draft") == "none":
        settings["draft"] = None
    return settings


def _keys(schema: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        for part in (field.type, *get_args(field.type)):  # a config, or `config | None`
            if dataclasses.is_dataclass(part):
                yield from _keys(part, f"{prefix}{field.name}.")


def _explain(fault: Any, keys: Sequence[str]) -> str:
    name = ".".join(str(part) for part in fault["loc"][1:]) or "the config"
    if fault["type"] == "unexpected_keyword_argument":
        nearest = difflib.get_close_matches(name, keys, n=1, cutoff=0.0)
        return f"unknown setting {name!r}; the nearest valid one is {nearest[0]!r}"
    if fault["type"] == "missing":
        return f"setting {name!r} is required"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    return f"{name}: {message}{given}"
