"""Serve captions over HTTP: `SPARROW_API_TOKEN=... python jobs/serve.py --media-root videos/`."""

import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.options import ConfigOption, DraftOption, SettingsOption, TargetOption
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
    target: TargetOption = None,
    draft: DraftOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [8000]")] = None,
    media_root: Annotated[
        str | None, typer.Option(help="The only folder whose files requests may name. Default: none.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token. [$SPARROW_API_TOKEN]")] = None,
    insecure_no_token: Annotated[
        bool, typer.Option(help="Answer anybody who can reach the port, without a token.")
    ] = False,
    config: ConfigOption = None,
    settings: SettingsOption = None,
) -> None:
    """Serve a video LLM and its drafter behind OpenAI's chat completions API, until Ctrl-C.

    Takes the settings of a captioning job. A request with that job's prompt and temperature 0 gets the same captions.

    Exit codes: 0 stopped by Ctrl-C or SIGTERM; 2 wrong usage or settings.
    """
    http_flags = {"host": host, "port": port, "media_root": media_root}
    with exit_on_error():
        chosen = serve_config(config, settings or [], {"target": target, "draft": draft}, http_flags, DEMO)
        token = chosen_token(token_file, insecure_no_token)
        credential = f"$(cat {shlex.quote(str(token_file))})" if token_file else f"${TOKEN_VARIABLE}"
        run(chosen, token, credential if token else None, Console())


def run(config: ServeConfig, token: str | None, credential: str | None, console: Console) -> None:
    """Serve until interrupted. `credential` is a shell expression for the token, shown in the example command."""
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
