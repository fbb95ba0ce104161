"""The endpoint on Ray Serve: each replica holds one Engine behind the HTTP API of `pipeline.serving.api`.

Owns the deployment (replicas, resources, limits), and nothing of the protocol.
"""

import logging
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from pipeline.common.checkpoints import checkpoint_identity, checkpoint_name, worker_draft, worker_path
from pipeline.common.cluster import Cluster
from pipeline.common.resources import ResourcesConfig
from pipeline.serving.api import build_api
from pipeline.serving.auth import token_digest
from pipeline.serving.captioner import Captioner
from pipeline.serving.config import HttpConfig, ServeConfig
from sparrow_core.errors import CheckpointError, ConfigError

APP_NAME = "sparrow"
# Requests beyond those that a replica admits, so that it can answer health checks and refuse requests itself.
_SPARE_REQUESTS = 32


@dataclass(frozen=True)
class ReplicaPlan:
    """Number of replicas, and the CPUs and GPUs of each."""

    replicas: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Torch threads in a replica."""
        return max(1, int(self.cpus))


def plan_replicas(config: ResourcesConfig, device: str, cluster: Cluster) -> ReplicaPlan:
    """Choose what the config leaves null: one replica, with one GPU and one CPU, or with all CPUs if there is no GPU.

    Raises ConfigError for grants that exceed the cluster.
    """
    gpus = config.num_gpus if config.num_gpus is not None else float(cluster.num_gpus > 0 and device != "cpu")
    replicas = config.caption_workers or 1
    cpus = config.caption_cpus or (min(1.0, cluster.num_cpus / replicas) if gpus else cluster.num_cpus / replicas)
    if replicas * gpus > cluster.num_gpus or replicas * cpus > cluster.num_cpus:
        raise ConfigError(
            f"{replicas} replicas of {cpus:g} CPUs and {gpus:g} GPUs do not fit on {cluster.num_cpus:g} CPUs and "
            f"{cluster.num_gpus:g} GPUs; lower resources.caption_workers, resources.caption_cpus or resources.num_gpus"
        )
    return ReplicaPlan(replicas, cpus, gpus)


def resolve_config(config: ServeConfig, plan: ReplicaPlan) -> ServeConfig:
    """The config with the device, absolute paths and model name, which replicas on other nodes cannot resolve."""
    http = config.http
    target = worker_path(config.target)
    return replace(
        config,
        target=target,
        draft=worker_draft(config.draft),
        device=config.device if config.device != "auto" else ("cuda" if plan.gpus else "cpu"),
        http=replace(
            http,
            media_root=str(Path(http.media_root).resolve()) if http.media_root else None,
            model_name=http.model_name or checkpoint_name(target),
        ),
    )


def refuse_missing_checkpoints(config: ServeConfig) -> None:
    """Raise CheckpointError if the target or the drafter does not exist. Called before anything is started."""
    for source in (config.target, worker_draft(config.draft)):
        if source is not None:
            checkpoint_identity(source)


def refuse_busy_port(http: HttpConfig) -> None:
    """Raise ConfigError if the address cannot be listened on. Called before anything is started."""
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {http.host}:{http.port}: {error.strerror}; choose another --host or --port"
            ) from error


@serve.ingress()
class CaptionReplica:
    """One replica: an engine and the HTTP application in front of it."""

    def __init__(self, config: ServeConfig, digest: bytes | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self._captioner = Captioner.load(config)
        self._digest = digest
        self._max_body_bytes = config.http.limits.max_body_bytes

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._captioner, self._digest, self._max_body_bytes)

    def check_health(self) -> None:
        """Called by Serve every few seconds; if it raises, Serve replaces the replica."""
        self._captioner.check_health()


def start_endpoint(config: ServeConfig, token: str | None, plan: ReplicaPlan) -> None:
    """Serve `config` on the connected Ray cluster; return once it answers requests. Without a `token`, admit everybody.

    Replicas admit requests themselves (and refuse with 429 in OpenAI's shape), so that `/health` answers under load.
    Serve's own limits are a second line of defence, which also counts requests without a token. Raises CheckpointError
    if a replica cannot load its checkpoints.
    """
    http = config.http
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options=HTTPOptions(host=http.host, port=http.port), logging_config=quiet)
    deployment = serve.deployment(
        name="captions",
        num_replicas=plan.replicas,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        max_ongoing_requests=http.max_requests + _SPARE_REQUESTS,
        max_queued_requests=_SPARE_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=http.retry_after_s),
    )(CaptionReplica)
    digest = token_digest(token) if token is not None else None
    application = deployment.bind(config, digest, plan.threads)
    try:
        serve.run(application, name=APP_NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:  # Serve raises this whenever a replica fails to start
        raise CheckpointError(f"the endpoint did not start, for the reason given above: {error}") from error


def stop_endpoint() -> None:
    """Stop the endpoint. Requests in progress have a few seconds to finish."""
    serve.delete(APP_NAME)
