"""The engine of a worker, from the checkpoints that its config names."""

from pipeline.config import CaptionConfig
from pipeline.storage import local_folder
from sparrow_core.engine.engine import Engine
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target
from sparrow_core.threads import on_passing_thread


def worker_engine(config: CaptionConfig) -> Engine:
    """Load the target and, if one is named, the drafter. Raises CheckpointError as `load_target` and `load_drafter`."""

    def load() -> Engine:
        target = load_target(config.target, device=config.device, dtype=config.dtype)
        return Engine(target, load_drafter(local_folder(config.draft), target) if config.draft else None, config.engine)

    return on_passing_thread(load)
