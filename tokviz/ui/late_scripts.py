"""Scripts that the page asks for only when somebody is there to use them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .components import STUDY_SCRIPTS, script


def late_scripts() -> list[Route]:
    """The routes that serve them."""
    # A module with one function, of what Gradio gives to the scripts of a component.
    body = "\n".join(map(script, STUDY_SCRIPTS))
    text = f"export default (element, props, trigger, watch) => {{\n{body}\n}};\n"

    async def studies(_: Request) -> Response:
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    return [Route("/tokviz/study.js", studies, methods=["GET"])]
