"""Memory that a caption worker needs, and whether the cluster has it, estimated before anything is loaded."""

from dataclasses import dataclass

import torch

from pipeline.common.cluster import Cluster
from pipeline.common.worker_engine import Models
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import estimate_memory

_GB = 1e9


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one caption worker in bytes: the target's weights, and the KV-cache arena that its requests share."""

    weights_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes

    def __str__(self) -> str:
        return f"{self.weights_bytes / _GB:.2f} GB of weights and {self.kv_bytes / _GB:.2f} GB of keys and values"


def memory_need(models: Models) -> MemoryNeed:
    """The memory that a worker allocates on its device. `models.device` must be resolved, not "auto"."""
    estimate = estimate_memory(
        models.target, dtype=models.dtype, device=models.device, max_tokens=models.engine.num_slots
    )
    return MemoryNeed(estimate.weights_bytes, estimate.kv_bytes)


def device_memory_bytes(models: Models, cluster: Cluster) -> int:
    """Memory of the device that a caption worker runs on: the largest node's, or the GPU's.

    A GPU that this process cannot see (the driver node may have none) is assumed to be large enough.
    """
    if not models.device.startswith("cuda"):
        return cluster.node_memory_bytes
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 2**63


def refuse_too_little_memory(need: MemoryNeed, available_bytes: int, models: Models) -> None:
    """Raise ConfigError if a worker needs more memory than the largest node or the device has."""
    if need.total_bytes > available_bytes:
        raise ConfigError(
            f"target {models.target} needs {need} in each caption worker ({models.device}, dtype {models.dtype}), but "
            f"there are {available_bytes / _GB:.2f} GB; use dtype=bfloat16, fewer slots (engine.arena_tokens="
            f"{models.engine.arena_tokens}, engine.max_model_tokens={models.engine.max_model_tokens}), a smaller "
            "target or a larger machine"
        )
