"""Entry of the page: ``python app.py`` here, and the app file of a Hugging Face Space."""

from __future__ import annotations

import os

# Before gradio is imported: it reads these once.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from collections.abc import Iterator
from threading import Event as Flag
from typing import Any

from tokviz.ui.agents import serve_agents
from tokviz.ui.build import build_page, launch_settings
from tokviz.ui.running import RunRequest, allowed_models, model, run_request


def zero_gpu_runner() -> Any:
    """``run_request`` as one decorated generator; the stop flag stays in this process, which can be told to stop."""
    import spaces

    def seconds(request: RunRequest) -> int:
        """Declared GPU time: a base, and per lane and repeat a share that grows with the answer's length."""
        lanes = (len(request.methods) + 1) * max(1, request.repeats)
        return min(20 + lanes * (3 + request.max_new_tokens // 16), 120)

    @spaces.GPU(duration=seconds)
    def on_gpu(request: RunRequest) -> Iterator[Any]:
        yield from run_request(request, Flag())

    def run(request: RunRequest, stop: Flag) -> Iterator[Any]:
        for event in on_gpu(request):
            yield event
            if stop.is_set():
                return

    # ZeroGPU wants the weights in place before the first request: they are packed at start-up.
    model(allowed_models()[0][1])
    return run


def main() -> None:
    """Build the page and serve it until interrupted."""
    page = build_page(zero_gpu_runner() if os.environ.get("SPACES_ZERO_GPU") else run_request)
    port = os.environ.get("PORT") or os.environ.get("GRADIO_SERVER_PORT") or "7860"
    host = os.environ.get("HOST") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    page.launch(server_name=host, server_port=int(port), mcp_server=serve_agents(), **launch_settings())


if __name__ == "__main__":
    main()
