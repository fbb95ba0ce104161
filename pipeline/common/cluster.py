"""Connection to Ray: the cluster that a job was submitted to or that `RAY_ADDRESS` names, else a local one."""

import contextlib
import logging
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.exceptions import ActorDiedError

from sparrow_core.errors import CheckpointError

_log = logging.getLogger(__name__)

# Set by `ray job submit` for the entry point that it starts.
_SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Cluster:
    """CPUs and GPUs of the whole cluster, and the memory in bytes of its largest node."""

    num_cpus: float
    num_gpus: float
    node_memory_bytes: int


def is_submitted_job() -> bool:
    """Whether `ray job submit` started this process, whose working directory is then a temporary copy."""
    return _SUBMITTED_JOB_VARIABLE in os.environ


@contextlib.contextmanager
def connected() -> Iterator[Cluster]:
    """Connect to Ray for the duration of the context; a local Ray that was started for it ends with it."""
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING)
    else:
        _start_own_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")  # see finite_retries
    try:
        totals = ray.cluster_resources()
        memory = max(int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"])
        yield Cluster(totals.get("CPU", 0.0), totals.get("GPU", 0.0), memory)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def errors_of_worker_start() -> Iterator[None]:
    """Re-raise a CheckpointError from a worker's constructor (a model that does not fit) without Ray's traceback.

    Ray reports the error of an actor's constructor as text only, so the message is parsed out of that text.
    """
    try:
        yield
    except ActorDiedError as error:
        refused = re.search(rf"{CheckpointError.__module__}\.\w+: (.+)", str(error))
        if refused is None:
            raise
        raise CheckpointError(refused[1]) from None


def _start_own_ray() -> None:
    """Start a local Ray, whose workers inherit the environment of this process."""
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Without a token, Ray would write a token file into the home directory; a local Ray has no use for that file.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Ray gives its node 30 s to start, which is too short on a busy machine with few cores.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    # Ray ends a worker after one idle second and starts a fresh one, about 2 s of CPU, for the next part of the table.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    try:
        _start_node()
    except Exception:
        # Ray gives its processes 30 s to start, which a busy machine may exceed once.
        _log.warning("Ray did not start; trying once more", exc_info=True)
        ray.shutdown()
        _start_node()


def _start_node() -> None:
    # Without a dashboard, a monitor inside Ray Train cannot list live nodes and logs a warning every second.
    workers_log = ray.LoggingConfig(log_level="ERROR")
    ray.init("local", include_dashboard=False, logging_level=logging.WARNING, logging_config=workers_log)
