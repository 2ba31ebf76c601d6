"""The three HTML components of the page. Their templates are constants: no value is ever interpolated into markup.

Gradio runs a template through Handlebars and then evaluates the result as a JavaScript template literal, so a model
answer placed there could run code. Ours contain no placeholder; every text is written with ``textContent`` by the
scripts in ``assets/``.
"""

from __future__ import annotations

from typing import Any, Literal

import gradio as gr

from ..resources import resource

ASSETS = resource("assets")
_VIEW_SCRIPTS = (
    "patch_geometry.js",
    "patch_sheet.js",
    "patch_draw.js",
    "patch_lane.js",
    "patch_tools.js",
    "chart_draw.js",
    "why_panel.js",
    "film_bars.js",
    "film_strip.js",
    "staleness.js",
    "patch_view.js",
)


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return (ASSETS / name).read_text(encoding="utf-8")


class PatchView(gr.HTML):
    """Lanes side by side: pictures with overlays, answers, numbers. The value is the dict of ``payload.to_payload``."""

    def __init__(self, value: dict[str, Any] | None = None, **settings: Any):
        super().__init__(
            value=value,
            html_template=asset("patch_view.html"),
            css_template=asset("patch_view.css"),
            js_on_load="\n".join(asset(name) for name in _VIEW_SCRIPTS),
            apply_default_css=False,
            **settings,
        )

    def api_info(self) -> dict[str, Any]:
        """The value is an object, not a string."""
        return {"type": "object"}


class Notice(gr.HTML):
    """One sentence about what is going on or went wrong. The value is the dict of ``notice`` or None.

    Event ``lost``: the browser has heard nothing of a run for so long that it is taken for given up.
    """

    def __init__(self, value: dict[str, str] | None = None, **settings: Any):
        super().__init__(
            value=value,
            html_template='<p class="tokviz-notice" role="status" aria-live="polite"></p>',
            css_template="",
            js_on_load=asset("notice.js"),
            apply_default_css=False,
            **settings,
        )

    def api_info(self) -> dict[str, Any]:
        """The value is an object, not a string."""
        return {"type": "object"}


def notice(kind: Literal["info", "busy", "error"], text: str) -> dict[str, str]:
    """A value of ``Notice``."""
    return {"kind": kind, "text": text}


class PageHead(gr.HTML):
    """Name of the page, chips about the model that answered, switch between light and dark."""

    def __init__(self, **settings: Any):
        super().__init__(
            value=None,
            html_template=asset("page_head.html"),
            css_template="",
            js_on_load=asset("page_head.js"),
            apply_default_css=False,
            **settings,
        )
