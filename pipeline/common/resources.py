"""Plans how a run divides the cluster's CPUs and GPUs among its stages. Pure arithmetic on what the cluster reports.

Decode workers and caption workers hold their grants for the whole run, and the light tasks must always find free CPUs
beside them. Plans satisfy that from one CPU upwards: on a small machine, every grant is a fraction of a CPU.
"""

import math
from dataclasses import dataclass

from sparrow_core.errors import ConfigError

# On a machine of one CPU: probe 1/8, segment and write 1/8 each, decode 1/8, caption 1/2.
_SMALLEST_SHARE = 0.125


@dataclass(frozen=True)
class ResourcesConfig:
    """What the job may take from the cluster. Null means that `plan_resources` chooses the value.

    `num_gpus` and `caption_cpus` are per caption worker. A caption worker accepts `windows_in_flight` windows at a
    time, so that its engine always has the next one ready.
    """

    num_gpus: float | None = None
    caption_workers: int | None = None
    caption_cpus: float | None = None
    decode_workers: int | None = None
    windows_in_flight: int = 4

    def __post_init__(self) -> None:
        if self.windows_in_flight < 1:
            raise ConfigError(f"resources.windows_in_flight={self.windows_in_flight} must be at least 1")
        for name in ("caption_workers", "caption_cpus", "decode_workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"resources.{name}={value} must be positive, or null to choose it automatically")


@dataclass(frozen=True)
class ResourcePlan:
    """Workers and grants of one run. `threads` is torch's thread count in a caption worker: its CPUs, rounded up."""

    caption_workers: int
    caption_cpus: float
    caption_gpus: float
    threads: int
    decode_workers: int
    decode_cpus: float
    task_cpus: float = _SMALLEST_SHARE


def plan_resources(config: ResourcesConfig, *, device: str, num_cpus: float, num_gpus: float) -> ResourcePlan:
    """Choose what the config leaves null, for a cluster of `num_cpus` and `num_gpus`.

    With GPUs, there is one caption worker per GPU grant, each with one CPU, and the other CPUs decode. Without GPUs,
    one caption worker gets all CPUs except the few that decode. Raises ConfigError for grants that exceed the cluster.
    """
    gpus = config.num_gpus if config.num_gpus is not None else float(num_gpus > 0 and device != "cpu")
    if gpus > num_gpus:
        raise ConfigError(f"resources.num_gpus={gpus} per caption worker, but the cluster has {num_gpus:g} GPUs")
    if device.startswith("cuda") and not gpus:
        raise ConfigError(f"device={device}, but no GPU: the cluster has {num_gpus:g}, resources.num_gpus is {gpus:g}")
    workers = config.caption_workers or (max(1, int(num_gpus / gpus)) if gpus else 1)
    light = 3 * _SMALLEST_SHARE  # the probe worker, one segment task, one write task
    decode_cpus = min(1.0, num_cpus / 8)
    if gpus:
        caption_cpus = config.caption_cpus or min(1.0, (num_cpus - light - decode_cpus) / workers)
        decoders = config.decode_workers or max(1, int(num_cpus - light - workers * caption_cpus))
    else:
        decoders = config.decode_workers or max(1, int(num_cpus / 8))
        caption_cpus = config.caption_cpus or (num_cpus - light - decoders * decode_cpus) / workers
    held = light + workers * caption_cpus + decoders * decode_cpus
    if caption_cpus <= 0 or held > num_cpus:
        raise ConfigError(
            f"{workers} caption workers of {caption_cpus:g} CPUs and {decoders} decode workers of {decode_cpus:g} need "
            f"{held:g} CPUs with the light tasks, but the cluster has {num_cpus:g}; lower resources.caption_workers, "
            f"resources.caption_cpus or resources.decode_workers"
        )
    return ResourcePlan(workers, caption_cpus, gpus, max(1, math.ceil(caption_cpus)), decoders, decode_cpus)
