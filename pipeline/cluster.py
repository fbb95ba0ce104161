"""Which Ray a job runs on: the cluster that it was submitted to or pointed at, else one of its own in this process."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import ray

# Set by `ray job submit` for the entry point that it starts.
_SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Cluster:
    """What the cluster has in all, and the memory of its largest node in bytes."""

    num_cpus: float
    num_gpus: float
    node_memory_bytes: int


def is_submitted_job() -> bool:
    """Whether this process is the entry point of `ray job submit`: its working directory is a temporary copy."""
    return _SUBMITTED_JOB_VARIABLE in os.environ


@contextlib.contextmanager
def connected() -> Iterator[Cluster]:
    """Be connected to Ray for as long as the context lasts; a Ray of our own ends with it."""
    options: dict[str, object] = {"logging_level": logging.WARNING}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"address": "local", "include_dashboard": False}
        _prepare_own_ray()
    ray.init(**options)  # type: ignore[arg-type]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        totals = ray.cluster_resources()
        memory = max(int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"])
        yield Cluster(totals.get("CPU", 0.0), totals.get("GPU", 0.0), memory)
    finally:
        ray.shutdown()


def _prepare_own_ray() -> None:
    """Environment of the workers of a Ray in this process, which they inherit."""
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Ray would write a token file into the home directory; a Ray that nobody else joins needs none.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Ray gives its node 30 seconds to start, too little for a busy machine of few cores.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
