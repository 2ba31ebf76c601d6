"""Opens a mined case in the lanes of the page: at once as it was stored, with the form filled to run it live."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..serving.model_menu import model_options
from ..serving.storage import temporary_file
from ..workbench.cards import MOST_LANES
from ..workbench.media import media_file
from ..workbench.run import OpenRun
from ..workbench.service import Workbench
from ..workbench.stored import case_row, stored_comparison
from .components import notice
from .files import shown_file
from .form import INPUTS, RequestForm
from .handlers import Handlers

_NO_FRAMES = "The frames of a video are not stored with a run: press Compare to run this case again."
_UNREADABLE = "The page sent a case that cannot be read; please reload it."


class CaseHandlers:
    """What is called when a case is opened. Outputs are those of ``Handlers.show_example``."""

    def __init__(self, act: Handlers, bench: Workbench, form: RequestForm):
        self._act, self._bench, self._form = act, bench, form

    def open(self, wanted: Mapping[str, Any], model: str) -> list[Any]:
        """Show a case. wanted: what the browser sent; ``model``: the one that is chosen.

        What cannot be shown leaves no lanes of another case behind, and a sentence.
        """
        try:
            return self._opened(wanted, model)
        except BadInput as error:
            return [None, notice("error", str(error)), *self._act.kept(self._form)]

    def _opened(self, wanted: Mapping[str, Any], model: str) -> list[Any]:
        run = self._bench.opened(_text(wanted.get("run")))
        ordinal, budget, seed = (_whole(wanted.get(name)) for name in ("ordinal", "budget", "seed"))
        methods = wanted.get("methods")
        if ordinal is None or budget is None or not isinstance(methods, list) or not 0 < len(methods) <= MOST_LANES:
            raise BadInput(_UNREADABLE)
        keys = [_text(one) for one in methods]
        case = case_row(run, ordinal)
        if case["video"] is not None and case["error"] is None:
            return self._video(run, case, keys, budget, seed, model)
        comparison = stored_comparison(run, ordinal, keys, budget, seed=seed, roots=self._bench.media, thumbnail=True)
        self._act.known.learn(comparison)
        origin = f"Mined case · stored result of {comparison.model.name}, not computed now"
        return self._act.reopened(self._form, comparison, origin, None, model, is_known=True)

    def _video(
        self, run: OpenRun, case: Mapping[str, Any], keys: list[str], budget: int, seed: int | None, model: str
    ) -> list[Any]:
        """The form filled for a live run: of a video the frames are not stored, so that nothing could be drawn on."""
        manifest, path = run.manifest, media_file(run, case, self._bench.media)
        copy = temporary_file(f"{case['media_sha256']}/{Path(case['video']).name}", lambda to: shutil.copy(path, to))
        chosen = {method.key: [method.id, method.params] for method in manifest.methods}
        menu = [option.shown for option in model_options()]
        updates = {
            "image": shown_file(copy),
            "question": case["question"],
            "model": case["model"] if case["model"] in menu else model,
            "budget": budget,
            "budget_as": manifest.budget_as,
            "seed": manifest.seed if seed is None else seed,
            "frames": manifest.frames,
            "menu": {"chosen": [chosen[key] for key in keys if key in chosen]},
        }
        filled = [*(updates.get(name, gr.skip()) for name in INPUTS), case["n_tokens"]]
        return [None, notice("info", _NO_FRAMES), "", *filled]


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 300:
        raise BadInput(_UNREADABLE)
    return value


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise BadInput(_UNREADABLE)
    return value
