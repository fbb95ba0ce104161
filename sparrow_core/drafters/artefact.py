"""A drafter as a folder in the format of the Hugging Face hub: config.json, model.safetensors, README.md (model card).

The config names the target that the drafter was trained for. Loading it for another target is an error, before any
weight is read.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.errors import CheckpointError

_MODEL_TYPE = "sparrow_drafter"


def save_drafter(folder: str | Path, model: SparrowDrafterModel, card: str) -> None:
    """Write the drafter and its card. Weights are stored as bfloat16."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "model.safetensors").chmod(0o644)  # the library writes it for its owner only
    config = {"model_type": _MODEL_TYPE, "architectures": ["SparrowDrafterModel"], **asdict(model.config)}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path / "README.md").write_text(card)


def is_drafter(folder: Path) -> bool:
    """Whether the folder's config.json is that of a drafter."""
    try:
        return bool(json.loads((folder / "config.json").read_text())["model_type"] == _MODEL_TYPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_drafter(source: str, target: TargetModel) -> SparrowDrafter:
    """Load a drafter for `target`. Raises CheckpointError if it is missing, malformed or made for another target."""
    folder = _local_folder(source)
    config = _read_config(folder)
    for what, have, want in (
        ("target", config.target_fingerprint, target.info.fingerprint),
        ("tokenizer", config.tokenizer_hash, target.info.tokenizer_hash),
    ):
        if have != want:
            raise CheckpointError(
                f"the drafter at {source!r} was trained for the {what} with fingerprint {have}, but "
                f"{target.info.name!r} has {want}; train one for it with jobs/distill_draft.py, or use --draft none"
            )
    model = SparrowDrafterModel(config)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the drafter's weights at {source!r} do not fit its config: {error}") from error
    return SparrowDrafter(model, target)


def _local_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"there is no drafter folder or hub id {source!r}: {error}") from error


def _read_config(folder: Path) -> DrafterConfig:
    try:
        raw = json.loads((folder / "config.json").read_text())
        if raw.get("model_type") != _MODEL_TYPE:
            raise CheckpointError(f"{folder} holds a {raw.get('model_type')!r}, not a {_MODEL_TYPE!r}")
        known = {field.name for field in fields(DrafterConfig)}
        return DrafterConfig(**{name: value for name, value in raw.items() if name in known})
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not a drafter's config: {error!r}") from error
