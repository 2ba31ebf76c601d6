"""Opens a mined case in the lanes of the page: at once as it was stored, with the form filled to run it live."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..serving.storage import temporary_file
from ..workbench.cards import MOST_LANES
from ..workbench.media import media_file
from ..workbench.run import OpenRun
from ..workbench.service import Workbench
from ..workbench.stored import case_row, stored_comparison
from .components import notice
from .form import RequestForm
from .handlers import Handlers

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
        is_video = case["video"] is not None
        comparison = stored_comparison(
            run, ordinal, keys, budget, seed=seed, roots=self._bench.media, thumbnail=True, frames=True
        )
        self._act.known.learn(comparison)
        origin = f"Mined case · stored result of {comparison.model.name}, not computed now"
        clip = self._clip(run, case) if is_video else None
        return self._act.reopened(self._form, comparison, origin, None, model, is_known=True, clip=clip)

    def _clip(self, run: OpenRun, case: Mapping[str, Any]) -> Path:
        """The video, copied to where the form takes files from."""
        path = media_file(run, case, self._bench.media)
        return temporary_file(f"{case['media_sha256']}/{Path(case['video']).name}", lambda to: shutil.copy(path, to))


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
