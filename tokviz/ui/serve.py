"""Serve the page: on this machine, on a server, or as a Hugging Face Space."""

from __future__ import annotations

import os

# Before gradio is imported: it reads these once.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import atexit
import signal
import sys
from collections.abc import Iterator, Sequence
from threading import Event as Flag
from typing import Any, NoReturn

from ..errors import BadInput, is_installed
from ..files import resource
from ..media.worker import warm_up
from ..serving.kept_runs import KeptRuns
from ..serving.model_cache import ModelSpec, model
from ..serving.model_menu import model_options
from ..serving.queue import all_over, stop_all
from ..serving.running import RunRequest, declared_seconds, is_zero_gpu, opened, run_request
from ..workbench.manifest import is_run
from ..workbench.service import Workbench
from ..workbench.tag_file import SHIPPED_RUNS
from . import text
from .agents import serve_agents
from .build import build_page, launch_settings


def zero_gpu_runner() -> Any:
    """``run_request`` as one decorated generator; the stop flag stays in this process, which can be told to stop."""
    import gradio as gr
    import spaces

    @spaces.GPU(duration=declared_seconds)
    def on_gpu(request: RunRequest) -> Iterator[Any]:
        yield from run_request(request, Flag())

    def run(request: RunRequest, stop: Flag) -> Iterator[Any]:
        request = opened(request, stop)  # before GPU time is counted
        try:
            for event in on_gpu(request):
                yield event
                if stop.is_set():
                    return
        except gr.Error as error:  # what ZeroGPU itself says; ours cross as they are
            if "quota" not in f"{getattr(error, 'title', '')} {error}".lower():
                raise
            raise BadInput(text.no_quota(declared_seconds(request))) from error

    # ZeroGPU wants the weights in place before the first request: they are packed at start-up.
    model(ModelSpec(model_options()[0].id))
    return run


def mined_runs(place: str | None, media: Sequence[str] = ()) -> Workbench | None:
    """The runs to browse. Strangers on a Space may look, not write; nor is anything written to what comes with tokviz.

    place: a run, or a folder of runs; None: those that come with tokviz. Raises BadInput when the place holds none.
    """
    if place is not None:
        return Workbench(place, media=media, read_only=bool(os.environ.get("SPACE_ID")))
    shipped = resource(SHIPPED_RUNS)
    if not shipped.is_dir() or not any(map(is_run, shipped.iterdir())) or not is_installed("duckdb"):
        return None
    return Workbench(shipped, media=media, read_only=True)


def _stop(*_: Any) -> None:
    """End running answers at their next token; what waits for the server then closes it and cleans up.

    That takes a few seconds at most. A second signal meanwhile (``timeout`` sends two) would break it off half done,
    and threads would hold the process up.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_all()
    raise KeyboardInterrupt


def _address() -> tuple[str, int]:
    """Host and port that the environment asks for. Raises BadInput."""
    host = os.environ.get("HOST") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    port = os.environ.get("PORT") or os.environ.get("GRADIO_SERVER_PORT") or "7860"
    if not (port.strip().isdecimal() and 1 <= int(port) <= 65535):
        raise BadInput(f"The port must be a whole number between 1 and 65535, not {port!r}.")
    return host, int(port)


def serve(runs: str | None = None, media: Sequence[str] = ()) -> NoReturn:
    """Build the page, serve it where the environment says until SIGINT or SIGTERM, and end the process.

    Args:
        runs: A mined run, or a folder of them, to be browsed. None: that which comes with tokviz, if there is one.
        media: Folders in which the images of its cases are looked for as well.

    Raises BadInput when it cannot be served there, or there is no run.
    """
    workbench = mined_runs(runs, media)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    host, port = _address()
    warm_up()  # images and videos are decoded in processes of their own
    # Kept runs lie in this process: on ZeroGPU the one in front of the forked ones, which forget everything.
    page = build_page(KeptRuns(zero_gpu_runner() if is_zero_gpu() else run_request), workbench=workbench)
    try:
        page.launch(server_name=host, server_port=port, mcp_server=serve_agents(), **launch_settings(workbench))
    except OSError as error:  # of the server's start: once it runs, gradio waits until it is told to end
        raise BadInput(
            f"The page cannot be served on port {port} of {host}: the port is taken, or this machine does not have "
            "that address. Choose others with --port and --host."
        ) from error
    all_over(10)
    # What is left cannot be stopped, such as a model that is being loaded: threads would hold the process up, and torch
    # abort it.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)
