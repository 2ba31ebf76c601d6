"""Scripts that the page asks for only when somebody is there to use them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .scripts import AGAIN_SCRIPTS, COST_SCRIPTS, STUDY_SCRIPTS, WORKBENCH_SCRIPTS, asset, script, styles


def late_scripts() -> list[Route]:
    """The routes that serve them."""
    return [
        _route("study", STUDY_SCRIPTS, "study_panel.css", within="#tokviz-studies"),
        _route("cost", COST_SCRIPTS, "cost_panel.css"),
        _route("again", AGAIN_SCRIPTS, "run_again.css"),
        _route("failures", WORKBENCH_SCRIPTS, "workbench.css", "workbench.html", within="#tokviz-workbench"),
        _route("guide", ("guide.js",), "guide.css"),
        _route("about", ("about.js",), "about.css", "about.html", within="#tokviz-about"),
    ]


def _route(
    name: str, scripts: Sequence[str], style: str | None = None, markup: str | None = None, *, within: str = ""
) -> Route:
    """A module with one function, of what Gradio gives to the scripts of a component; with its own style and markup.

    within: selector of the part that the style is for: it outweighs gradio's own, as the style of other parts does.
    """
    own = f"element.insertAdjacentHTML('beforeend', {json.dumps(asset(markup))});\n" if markup else ""
    if style:
        sheet = json.dumps(f"{within} {{\n{styles(style)}}}" if within else styles(style))
        own += f"element.prepend(Object.assign(document.createElement('style'), {{ textContent: {sheet} }}));"
    body = "\n".join(map(script, scripts))
    text = f"export default (element, props, trigger, watch) => {{\n{own}\n{body}\n}};\n"

    async def module(_: Request) -> Response:
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    return Route(f"/tokviz/{name}.js", module, methods=["GET"])
