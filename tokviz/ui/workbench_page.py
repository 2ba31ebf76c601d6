"""Opens a mined case in the lanes of the page: at once as it was stored, with the form filled to run it live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BadInput
from ..workbench.cards import MOST_LANES
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
        """Show a case. wanted: what the browser sent; ``model``: the one that is chosen. Raises BadInput."""
        run = self._bench.opened(_text(wanted.get("run")))
        ordinal, budget, seed = (_whole(wanted.get(name)) for name in ("ordinal", "budget", "seed"))
        methods = wanted.get("methods")
        if ordinal is None or budget is None or not isinstance(methods, list) or not 0 < len(methods) <= MOST_LANES:
            raise BadInput(_UNREADABLE)
        try:
            comparison = stored_comparison(
                run,
                ordinal,
                [_text(one) for one in methods],
                budget,
                seed=seed,
                roots=self._bench.media,
                thumbnail=True,
            )
        except BadInput as error:
            return self._not_stored(case_row(run, ordinal), str(error))
        self._act.know(comparison)
        origin = f"Mined case · stored result of {comparison.model.name}, not computed now"
        return self._act.reopened(self._form, comparison, origin, None, model, is_known=True)

    def _not_stored(self, case: Mapping[str, Any], why: str) -> list[Any]:
        """Nothing can be shown: the sentence says why, and the question is in the form."""
        kept = self._act.kept(self._form)
        return [None, notice("info", why), *kept]


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
