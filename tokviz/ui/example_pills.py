"""The row of examples: a press opens one, and the pill of the example that is shown is lit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .patch_view import asset


class ExamplePills(gr.HTML):
    """Buttons with the names of the examples. Raises the event ``select``; the value in Python is the chosen index.

    Not ``gr.Dataset``: its pills come after the lanes and push them down, and the one that was pressed last stays lit
    whatever is shown since.
    """

    def __init__(self, value: Sequence[str] | dict[str, Any] = (), **settings: Any):
        super().__init__(
            value=value if isinstance(value, dict) else {"names": list(value), "chosen": None},
            html_template=asset("example_pills.html"),
            css_template=asset("example_pills.css"),
            js_on_load=asset("example_pills.js"),
            apply_default_css=False,
            **settings,
        )

    def preprocess(self, payload: Any) -> int:  # type: ignore[override]
        """The index that a browser chose. Raises gr.Error when it is none of ours."""
        chosen = payload.get("chosen") if isinstance(payload, dict) else None
        if type(chosen) is not int or not 0 <= chosen < len(self.value["names"]):
            raise gr.Error("There is no such example.", print_exception=False)
        return chosen

    def api_info(self) -> dict[str, Any]:
        """The value is an object, not a string."""
        return {"type": "object"}
