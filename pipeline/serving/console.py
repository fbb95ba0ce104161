"""Console output of the endpoint: models and resources before the start, then its address and an example request."""

import json
import shlex

from rich.console import Console

from pipeline.common.memory import memory_need
from pipeline.serving.app import ReplicaPlan
from pipeline.serving.config import ServeConfig


def show_endpoint(console: Console, config: ServeConfig, plan: ReplicaPlan) -> None:
    """Print models, replicas, memory need and media root, before anything is loaded."""
    need = memory_need(config)
    _say(console, f"target    {config.target} ({config.device}, dtype {config.dtype}; {need})")
    _say(console, f"drafter   {config.draft or 'none: the target decodes alone, one token per call'}")
    _say(console, f"replicas  {plan.replicas} ({plan.threads} threads, {plan.gpus:g} GPU each)")
    _say(console, f"files     {config.http.media_root or 'none may be named; give --media-root to allow one folder'}")


def show_ready(console: Console, config: ServeConfig, credential: str | None) -> None:
    """Print the endpoint's address and a curl command to copy."""
    _say(console, f"\nanswering at {base_url(config)} (Ctrl-C stops it); for example:\n")
    _say(console, curl_example(config, credential))
    if credential is None:
        console.print("\nno token is asked for: everybody who can reach this port is answered", style="yellow")


def base_url(config: ServeConfig) -> str:
    """The URL that OpenAI's clients call `base_url`."""
    host = f"[{config.http.host}]" if ":" in config.http.host else config.http.host
    return f"http://{host}:{config.http.port}/v1"


def curl_example(config: ServeConfig, credential: str | None) -> str:
    """A curl command that asks for the caption of a video; `credential` is a shell expression of the token."""
    video = "clip.mp4" if config.http.media_root else "data:video/mp4;base64,..."
    content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": config.prompt}]
    body = {"model": config.http.model_name, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    token = f' -H "Authorization: Bearer {credential}"' if credential else ""
    return (
        f"curl {base_url(config)}/chat/completions{token} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
