"""The way from the browser to the workbench: JSON in, JSON out, beside gradio's own routes and behind the same doors.

Not gradio events: those go through a queue, and a filter must be answered before an event would have been let in.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import BadInput
from ..workbench.service import Workbench
from .failures import UNEXPECTED, log_failure

PREFIX = "/tokviz/workbench"
_AT_ONCE = 6
"""Requests that are computed at the same time; the others wait."""
_LONGEST_VIEW = 100_000


def workbench_routes(bench: Workbench) -> list[Route]:
    """Routes that answer for a workbench."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def act(request: Request) -> Response:
        # Only scripts of this page can send JSON: a form of another site cannot.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _sentence(415, "The request must be JSON.")
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _sentence(400, "The request is no JSON.")
        async with turns:
            return await asyncio.to_thread(_answered, bench, request.path_params["action"], asked)

    async def export(request: Request) -> Response:
        view = request.query_params.get("view", "")
        if len(view) > _LONGEST_VIEW:
            return _sentence(413, "The view is too long.")
        async with turns:
            return await asyncio.to_thread(_exported, bench, request.path_params["kind"], view)

    return [
        Route(f"{PREFIX}/export/{{kind}}", export, methods=["GET"]),
        Route(f"{PREFIX}/{{action}}", act, methods=["POST"]),
    ]


def _answered(bench: Workbench, action: str, asked: Any) -> Response:
    try:
        return _json(200, bench.answer(action, asked))
    except BadInput as error:
        return _sentence(400, str(error))
    except Exception:  # the boundary to the visitor: the log gets the traceback, the page a sentence
        log_failure("a request of the workbench failed")
        return _sentence(500, UNEXPECTED)


def _exported(bench: Workbench, kind: str, view: str) -> Response:
    from ..workbench.exports import exported

    try:
        name, mime, content = exported(bench, kind, json.loads(view))
    except BadInput as error:
        return _sentence(400, str(error))
    except ValueError:
        return _sentence(400, "The view is no JSON.")
    except Exception:
        log_failure("an export of the workbench failed")
        return _sentence(500, UNEXPECTED)
    # Never shown by the browser as a page of this server: what it holds comes from a data set.
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}", "cache-control": "no-store"}
    return Response(content, media_type=mime, headers=headers)


def _json(status: int, data: dict[str, Any]) -> Response:
    content = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, status, {"cache-control": "no-store"}, "application/json")


def _sentence(status: int, sentence: str) -> Response:
    return _json(status, {"error": sentence})
