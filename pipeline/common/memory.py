"""Whether a target fits, told before anything is loaded."""

from dataclasses import dataclass

from pipeline.common.worker_engine import Models
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import estimate_memory

_GB = 1e9


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one caption worker: the target's weights, and the arena of keys and values that its requests share."""

    weights_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes

    def __str__(self) -> str:
        return f"{self.weights_bytes / _GB:.2f} GB of weights and {self.kv_bytes / _GB:.2f} GB of keys and values"


def memory_need(models: Models) -> MemoryNeed:
    """What a worker of these models will allocate on its device, which must be decided (not "auto")."""
    estimate = estimate_memory(
        models.target, dtype=models.dtype, device=models.device, max_tokens=models.engine.num_slots
    )
    return MemoryNeed(estimate.weights_bytes, estimate.kv_bytes)


def refuse_too_little_memory(need: MemoryNeed, available_bytes: int, models: Models) -> None:
    """Raise ConfigError where a worker needs more than there is on the largest node or device."""
    if need.total_bytes > available_bytes:
        raise ConfigError(
            f"target {models.target} needs {need} in each caption worker ({models.device}, dtype {models.dtype}), but "
            f"there are {available_bytes / _GB:.2f} GB; use dtype=bfloat16, fewer slots (engine.arena_tokens="
            f"{models.engine.arena_tokens}, engine.max_model_tokens={models.engine.max_model_tokens}), a smaller "
            "target or a larger machine"
        )
