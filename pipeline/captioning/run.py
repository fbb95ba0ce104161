"""One captioning run, from a config to an exit code: ledger, resource plan, graph, report. Prints nothing itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.graph import Output, caption_graph, data_context
from pipeline.captioning.ledger import Ledger, Work
from pipeline.captioning.report import RunFigures, build_report, store_report, table_figures
from pipeline.captioning.stages.caption import CaptionWorkerConfig
from pipeline.captioning.stages.capture import capture_sink
from pipeline.common.checkpoints import checkpoint_identity, worker_draft, worker_path
from pipeline.common.cluster import Cluster, connected, errors_of_worker_start
from pipeline.common.ids import settings_fingerprint
from pipeline.common.memory import MemoryNeed, device_memory_bytes, memory_need, refuse_too_little_memory
from pipeline.common.resources import ResourcePlan, plan_resources
from pipeline.common.storage import Folder
from sparrow_core.decoding.target import dtype_name
from sparrow_core.targets.loading import read_frame_spec, resolve_device, resolve_dtype


class ExitCode(IntEnum):
    """How a captioning job ends."""

    DONE = 0
    USAGE = 2
    ERROR_ROWS = 3
    AUDIT_DIVERGED = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class RunCallbacks:
    """Functions that a run calls: `on_start` once, before anything is loaded; `on_part` after every stored part."""

    on_start: Callable[[CaptionConfig, ResourcePlan, MemoryNeed, Work], None]
    on_part: Callable[[RunFigures], None]


@dataclass(frozen=True)
class PreparedRun:
    """A run before Ray is started: the checked config, the settings that shape captions, the ledger, and the work left.

    `sources` are all videos of the run, those that are done included.
    """

    config: CaptionConfig
    settings: dict[str, Any]
    sources: tuple[str, ...]
    ledger: Ledger
    work: Work


def prepare(config: CaptionConfig, sources: Sequence[str], output: str) -> PreparedRun:
    """Open the output folder and find what is missing. Raises ConfigError if it was made with other settings."""
    config = replace(config, target=worker_path(config.target), draft=worker_draft(config.draft))
    settings = caption_settings(config)
    ledger = Ledger(Folder(output), settings)
    work = ledger.remaining(sources, retry_errors=config.retry_errors)
    return PreparedRun(config, settings, tuple(sources), ledger, work)


def execute(prepared: PreparedRun, callbacks: RunCallbacks) -> dict[str, Any]:
    """Caption what is missing, store the report and return it. Ctrl-C ends the run early with a report all the same."""
    with connected() as cluster:
        config, plan = decide_device(prepared.config, cluster)
        need = memory_need(config)
        callbacks.on_start(config, plan, need, prepared.work)
        refuse_too_little_memory(need, device_memory_bytes(config, cluster), config)
        with errors_of_worker_start():
            figures = _run_graph(prepared, config, plan, callbacks)
    prepared.ledger.compact()
    lost = () if figures.interrupted else prepared.ledger.remaining(prepared.sources, retry_errors=False).sources
    report = build_report(prepared.ledger, config, prepared.settings, figures, plan.threads, lost)
    store_report(prepared.ledger.folder, report)
    return report


def exit_code(report: dict[str, Any]) -> ExitCode:
    """The exit code of a run with this report."""
    return ExitCode.INTERRUPTED if report["run"]["interrupted"] else _table_code(report, report["lost_videos"])


def exit_code_of_nothing_to_do(prepared: PreparedRun) -> ExitCode:
    """The exit code if every window has a row already."""
    return _table_code(table_figures(prepared.ledger), ())


def caption_settings(config: CaptionConfig) -> dict[str, Any]:
    """The settings that shape captions, as plain JSON values. The drafter is not among them."""
    return {
        "schema_version": config.schema_version,
        "target_checkpoint": checkpoint_identity(config.target),
        "dtype": config.dtype,
        "prompt": config.prompt,
        "max_new_tokens": config.max_new_tokens,
        "segment": asdict(config.segment),
        "frames": asdict(config.frames),
        "sampling": asdict(config.sampling),
    }


def decide_device(config: CaptionConfig, cluster: Cluster) -> tuple[CaptionConfig, ResourcePlan]:
    """Plan the resources; replace the config's "auto" device (cuda if caption workers get GPUs) and "auto" dtype."""
    plan = plan_resources(config.resources, device=config.device, num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus)
    device = config.device if config.device != "auto" else ("cuda" if plan.caption_gpus else "cpu")
    dtype = dtype_name(resolve_dtype(config.dtype, resolve_device(device)))
    return replace(config, device=device, dtype=dtype), plan


def _run_graph(prepared: PreparedRun, config: CaptionConfig, plan: ResourcePlan, callbacks: RunCallbacks) -> RunFigures:
    folder = config.capture.folder or f"{prepared.ledger.folder.url}/states"
    sink = capture_sink(config, prepared.settings, folder, plan.caption_workers) if config.capture.share else None
    worker = CaptionWorkerConfig(
        config=config,
        settings_fingerprint=settings_fingerprint(prepared.settings),
        draft_fingerprint=checkpoint_identity(config.draft) if config.draft else None,
        threads=plan.threads,
        capture=sink,
    )
    output = Output(prepared.ledger.folder.url, prepared.ledger.next_run)
    began = time.monotonic()
    figures = RunFigures(number=output.run)
    try:
        with data_context(len(prepared.work.sources)):
            graph = caption_graph(
                prepared.work.sources, prepared.work.done_windows, worker, plan, read_frame_spec(config.target), output
            )
            for part in graph.iter_rows():
                figures = figures.with_part(part, time.monotonic() - began)
                callbacks.on_part(figures)
    except KeyboardInterrupt:
        figures = replace(figures, interrupted=True)
    return replace(figures, wall_s=time.monotonic() - began)


def _table_code(figures: dict[str, Any], lost_videos: Sequence[str]) -> ExitCode:
    if figures["audit"]["equal"] < figures["audit"]["checked"]:
        return ExitCode.AUDIT_DIVERGED
    return ExitCode.ERROR_ROWS if figures["windows"]["error"] or lost_videos else ExitCode.DONE
