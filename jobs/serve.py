"""Answer caption requests over HTTP: `SPARROW_API_TOKEN=... python jobs/serve.py --media-root videos/`."""

import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.caption_corpus import DEMO
from jobs.errors import exit_on_error
from pipeline.common.cluster import connected
from pipeline.serving.app import (
    plan_replicas,
    refuse_busy_port,
    refuse_missing_checkpoints,
    resolve_config,
    start_endpoint,
    stop_endpoint,
)
from pipeline.serving.auth import TOKEN_VARIABLE, chosen_token
from pipeline.serving.config import ServeConfig, serve_config
from pipeline.serving.console import show_endpoint, show_ready


def main(
    target: Annotated[str | None, typer.Option(help="Target: checkpoint folder or hub id. [demo model]")] = None,
    draft: Annotated[str | None, typer.Option(help="Drafter: folder, hub id or none. [demo drafter]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [8000]")] = None,
    media_root: Annotated[str | None, typer.Option(help="The one folder whose files may be asked for. [none]")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token. [$SPARROW_API_TOKEN]")] = None,
    insecure_no_token: Annotated[bool, typer.Option(help="Answer everybody who can reach the port.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; a captioning job's will do.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as frames.fps=1.0.")] = None,
) -> None:
    """Serve a video LLM and its drafter behind OpenAI's chat completions, until Ctrl-C.

    With the same settings, the prompt of a captioning job and temperature 0 it gives the job's captions.

    Exit codes: 0 stopped by Ctrl-C or SIGTERM; 2 wrong usage or settings.
    """
    http_flags = {"host": host, "port": port, "media_root": media_root}
    with exit_on_error():
        chosen = serve_config(config, settings or [], {"target": target, "draft": draft}, http_flags, DEMO)
        token = chosen_token(token_file, insecure_no_token)
        credential = f"$(cat {shlex.quote(str(token_file))})" if token_file else f"${TOKEN_VARIABLE}"
        run(chosen, token, credential if token else None, Console())


def run(config: ServeConfig, token: str | None, credential: str | None, console: Console) -> None:
    """Serve until interrupted. `credential` is how a shell finds the token, for the example that is shown."""
    refuse_missing_checkpoints(config)
    refuse_busy_port(config.http)
    with connected() as cluster:
        plan = plan_replicas(config.resources, config.device, cluster)
        config = resolve_config(config, plan)
        show_endpoint(console, config, plan)
        start_endpoint(config, token, plan)
        show_ready(console, config, credential)
        wait_for_signal()
        console.print("\nstopping")
        stop_endpoint()


def wait_for_signal() -> None:
    """Block until Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


if __name__ == "__main__":
    typer.run(main)
