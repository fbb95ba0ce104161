"""From names of checkpoints to a running engine."""

from sparrow_core.config import EngineConfig
from sparrow_core.engine.engine import Engine
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.threads import on_passing_thread


def load_engine(target: str, draft: str | None, config: EngineConfig, *, device: str, dtype: str) -> Engine:
    """Load a target, and a drafter if one is named. Raises CheckpointError as `load_target` and `load_drafter` do."""

    def load() -> Engine:
        loaded = load_target(target, device=device, dtype=dtype)
        return Engine(loaded, load_drafter(draft, loaded) if draft else None, config)

    return on_passing_thread(load)
