"""What the page asks of the runs of a folder, as data in and data out. No web, no page: ``ui`` only carries it.

Every request is checked here; any number of threads may ask at once. All texts of a run or a person are untrusted.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..files import shown_name
from .cards import cards
from .columns import case_columns
from .compiler import Compiler
from .filters import STATUSES, Filter, Labels, parsed
from .manifest import is_run, shown_method
from .queries import PAGE, Found, points
from .requests import CaseAsked, EditAllAsked, EditAsked, PairAsked, RunAsked, SliceAsked, TableAsked, UndoAsked, View
from .run import OUTCOMES, OpenRun
from .slices import automatic_slices, compare_slice
from .tabled import result_table, slice_columns, table_json
from .tags import Edit, TagStore

MOST_OPEN = 3
"""Runs that are kept in memory at once."""
MOST_RUNS = 500
_CARDS = 1200
"""Cards that are remembered, of 5 KB each."""
_REMEMBERED = 48
"""Filters whose cases are remembered: paging and walking through them ask nothing twice."""


@dataclass
class _Opened:
    run: OpenRun
    tags: TagStore
    lock: threading.Lock
    found: OrderedDict[tuple[int, int, str], Found]
    cards: OrderedDict[tuple[Any, ...], dict[str, Any]]
    labels: tuple[int, Labels] | None = None


class Workbench:
    """The runs in a folder, or one run.

    Args:
        place: A run, or a folder whose folders are runs.
        media: Folders in which images are looked for, beside those of each run.
        read_only: Whether tags, notes and slices can only be read.

    Raises BadInput when there is no run.
    """

    def __init__(self, place: str | Path, *, media: Sequence[str | Path] = (), read_only: bool = False):
        self.place, self.media, self.read_only = Path(place), [Path(root) for root in media], read_only
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._actions: Mapping[str, Callable[[Any], dict[str, Any]]] = {
            "runs": lambda _: {"runs": self.names()},
            "run": self._about,
            "search": self._search,
            "page": self._page,
            "case": self._case,
            "points": self._points,
            "matches": self._matches,
            "slices": self._slices,
            "table": self._table,
            "edit": self._edit,
            "edit_all": self._edit_all,
            "undo": self._undo,
            "save_slice": self._save_slice,
            "delete_slice": self._delete_slice,
        }
        if not self.names():
            raise BadInput(
                f"There is no mined run in {shown_name(self.place)!r}: make one with tokviz mine, or name a folder "
                "that holds some."
            )

    def names(self) -> list[str]:
        """Names of the runs, sorted."""
        if is_run(self.place):
            return [self.place.resolve().name]
        try:
            folders = sorted(path for path in self.place.iterdir() if path.is_dir() and is_run(path))
        except OSError:
            return []
        return [path.name for path in folders[:MOST_RUNS]]

    def answer(self, action: str, asked: Any) -> dict[str, Any]:
        """What an action gives, as JSON data. Raises BadInput."""
        if action not in self._actions:
            raise BadInput("There is no such action.")
        return self._actions[action](asked)

    def opened(self, name: str) -> OpenRun:
        """A run of the folder by its name, opened. Raises BadInput."""
        return self._open(name).run

    def tags(self, name: str) -> TagStore:
        """What people say about the cases of a run. Raises BadInput."""
        return self._open(name).tags

    def view(self, asked: Any) -> tuple[OpenRun, View, Found]:
        """A request's view, and what it finds. Raises BadInput."""
        opened, view, found = self._viewed(asked)
        return opened.run, view, found

    def _viewed(self, asked: Any) -> tuple[_Opened, View, Found]:
        """All of it about one reading of the run, which another request may replace meanwhile."""
        view: View = parsed(asked, View, "The view").completed()
        opened = self._open(view.run)
        place = Compiler(opened.run.methods, opened.run.manifest.budgets).place
        for method in view.methods:
            place(method, view.budget)
        return opened, view, self._found(opened, view.filter)

    def close(self) -> None:
        """Free the memory of all runs."""
        with self._lock:
            for opened in self._opened.values():
                opened.run.close()
                opened.tags.close()
            self._opened.clear()

    # --- what is open ------------------------------------------------------------------------------------------------

    def _open(self, name: str, anew: bool = False) -> _Opened:
        """A run; ``anew``: as it is now, where mining has gone on. Who still asks the one before is answered by it."""
        if name not in self.names():
            raise BadInput(f"There is no run {name[:60]!r} here (any more).")
        with self._lock:
            before = self._opened.get(name)
            if before is not None and not (anew and before.run.is_stale()):
                self._opened.move_to_end(name)
                return before
            folder = self.place if is_run(self.place) else self.place / name
            tags = TagStore(folder, read_only=self.read_only) if before is None else before.tags
            opened = _Opened(OpenRun(folder), tags, threading.Lock(), OrderedDict(), OrderedDict())
            self._opened[name] = opened
            if len(self._opened) > MOST_OPEN:  # whoever still asks it keeps it alive until it is answered
                self._opened.popitem(last=False)
            return opened

    def _labels(self, opened: _Opened) -> tuple[int, Labels]:
        latest = opened.tags.latest()
        with opened.lock:
            if opened.labels is not None and opened.labels[0] == latest:
                return opened.labels
        labels = (latest, opened.tags.labels())
        with opened.lock:
            opened.labels = labels
        return labels

    def _found(self, opened: _Opened, asked: Filter) -> Found:
        latest, labels = self._labels(opened)
        key = (opened.run.revision, latest, asked.model_dump_json())
        with opened.lock:
            if key in opened.found:
                opened.found.move_to_end(key)
                return opened.found[key]
        found = Found(opened.run, asked, labels)
        with opened.lock:
            opened.found[key] = found
            while len(opened.found) > _REMEMBERED:
                opened.found.popitem(last=False)
        return found

    # --- looking -----------------------------------------------------------------------------------------------------

    def _about(self, asked: Any) -> dict[str, Any]:
        opened = self._open(parsed(asked, RunAsked, "The request").run, anew=True)
        run = opened.run
        manifest, columns = run.manifest, case_columns(run)
        return {
            "run": run.name,
            "methods": [{"key": m.key, "label": shown_method(m), "kind": m.kind} for m in manifest.methods],
            "budgets": sorted(manifest.budgets, reverse=True),
            "seeds": list(manifest.seeds),
            "model": manifest.model.id,
            "cases": len(columns.ordinal),
            "file": manifest.cases.name,
            "asked": manifest.cases.asked,
            "created": manifest.created,
            "command": manifest.command,
            "status": manifest.status,
            "has_map": bool(np.isfinite(columns.x).any()),
            "map": manifest.map.method if manifest.map else None,
            "judged": bool((columns.bools["right"] >= 0).any()),
            "outcomes": list(OUTCOMES),
            "statuses": list(STATUSES),
            "slice_columns": slice_columns(),
            "can_edit": opened.tags.can_edit,
            "slices": self._saved(opened),
            "latest": opened.tags.latest(),
        }

    def _search(self, asked: Any) -> dict[str, Any]:
        opened, view, found = self._viewed(asked)
        shown = self._cards(opened, view, found)
        return {**shown, "facets": asdict(found.facets(view.budget, view.methods[0]))}

    def _page(self, asked: Any) -> dict[str, Any]:
        return self._cards(*self._viewed(asked))

    def _cards(self, opened: _Opened, view: View, found: Found) -> dict[str, Any]:
        some = found.ordinals(view.sort)[view.offset : view.offset + PAGE]
        shown = self._made(opened, some.tolist(), view)
        given = opened.tags.given([card["id"] for card in shown])
        for card in shown:
            card["given"] = given[card["id"]].model_dump() if card["id"] in given else None
        return {
            "found": len(found),
            "total": len(case_columns(opened.run).ordinal),
            "cards": shown,
            "latest": opened.tags.latest(),
        }

    @staticmethod
    def _made(opened: _Opened, ordinals: Sequence[int], view: View) -> list[dict[str, Any]]:
        """Cards, copied: those that were made lately are not made again, as filters find the same cases again."""
        about = (opened.run.revision, view.methods, view.budget, view.seed)
        with opened.lock:
            known = {one: opened.cards[one, about] for one in ordinals if (one, about) in opened.cards}
        made = cards(opened.run, [one for one in ordinals if one not in known], view.methods, view.budget, view.seed)
        known |= {card["ordinal"]: card for card in made}
        with opened.lock:
            opened.cards.update({(one, about): card for one, card in known.items()})
            while len(opened.cards) > _CARDS:
                opened.cards.popitem(last=False)
        return [dict(known[one]) for one in ordinals if one in known]

    def _case(self, asked: Any) -> dict[str, Any]:
        case: CaseAsked = parsed(asked, CaseAsked, "The case").completed()
        opened = self._open(case.run)
        found = self._found(opened, case.filter)
        card = cards(
            opened.run, [case.ordinal] if opened.run.has(case.ordinal) else [], case.methods, case.budget, case.seed
        )
        if not card:
            raise BadInput(f"This run has no case number {case.ordinal}.")
        given = opened.tags.given([card[0]["id"]]).get(card[0]["id"])
        card[0]["given"] = given.model_dump() if given else None
        place = found.neighbours(case.ordinal, case.sort)
        return {"card": card[0], **place, "latest": opened.tags.latest()}

    def _points(self, asked: Any) -> dict[str, Any]:
        view: View = parsed(asked, View, "The view")
        found = points(self._open(view.run).run, view.budget, view.methods[0])
        packed = {name: _base64(found[name]) for name in ("ordinal", "x", "y", "verdict", "family")}
        return {**packed, "families": found["families"][:60], "n": len(found["ordinal"])}

    def _matches(self, asked: Any) -> dict[str, Any]:
        """Which points of the map the filter finds: a bitmap in the order of ``points``."""
        run, _, found = self.view(asked)
        columns = case_columns(run)
        there = np.isfinite(columns.x) & np.isfinite(columns.y)
        matching = np.isin(columns.ordinal[there], found.ordinals_found)
        return {"bits": _base64(np.packbits(matching, bitorder="little")), "found": len(found)}

    def _slices(self, asked: Any) -> dict[str, Any]:
        pair: PairAsked = parsed(asked, PairAsked, "The request")
        opened = self._open(pair.run)
        labels = self._labels(opened)[1]
        ranking = automatic_slices(opened.run, pair.a, pair.b, pair.budget, pair.filter, labels)
        saved = [self._compared(opened, one, pair) for one in self._saved(opened)]
        return {
            "slices": [one.to_json() for one in ranking.slices],
            "saved": saved,
            "cases": ranking.cases,
            "not_said": ranking.not_said,
        }

    def _table(self, asked: Any) -> dict[str, Any]:
        wanted: TableAsked = parsed(asked, TableAsked, "The table")
        opened = self._open(wanted.run)
        found = self._found(opened, wanted.filter)
        table = result_table(opened.run, found, wanted.table, wanted.budget, wanted.by, wanted.reference)
        return {**table_json(table), **{name: table.write(name) for name in ("markdown", "csv", "latex")}}

    def _compared(self, opened: _Opened, saved: dict[str, Any], pair: PairAsked) -> dict[str, Any]:
        """A saved slice with how two methods do on it; what it can no longer find is said."""
        try:
            asked = parsed(saved["filter"], Filter, "The slice")
            labels = self._labels(opened)[1]
            one = compare_slice(opened.run, saved["name"], asked, pair.a, pair.b, pair.budget, labels)
        except BadInput as error:
            return {**saved, "error": str(error)}
        return {**saved, **one.to_json()}

    # --- changing ----------------------------------------------------------------------------------------------------

    def _edit(self, asked: Any) -> dict[str, Any]:
        wanted: EditAsked = parsed(asked, EditAsked, "The edit")
        opened = self._open(wanted.run)
        self._check_ids(opened, wanted.edit.case_ids)
        return self._told(opened, opened.tags.edit(wanted.edit, wanted.who).model_dump(), wanted.edit.case_ids)

    def _edit_all(self, asked: Any) -> dict[str, Any]:
        wanted: EditAllAsked = parsed(asked, EditAllAsked, "The edit")
        opened = self._open(wanted.run)
        found = self._found(opened, wanted.filter)
        ids = opened.run.ids_of(found.ordinals_found)
        edit = parsed({**wanted.edit, "case_ids": ids}, Edit, "The edit")
        return self._told(opened, opened.tags.edit(edit, wanted.who).model_dump(), ())

    def _undo(self, asked: Any) -> dict[str, Any]:
        wanted: UndoAsked = parsed(asked, UndoAsked, "The request")
        opened = self._open(wanted.run)
        return self._told(opened, opened.tags.undo(wanted.change, wanted.who).model_dump(), ())

    @staticmethod
    def _told(opened: _Opened, changed: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
        """What an edit did, and what the cases have now (of the first, as many as a page has)."""
        given = opened.tags.given(list(ids[:PAGE]))
        return {**changed, "given": {one: given[one].model_dump() if one in given else None for one in ids[:PAGE]}}

    @staticmethod
    def _check_ids(opened: _Opened, ids: Sequence[str]) -> None:
        if len(opened.run.places_of(ids)) < len(ids):
            raise BadInput("This run does not hold all of these cases (any more): reload the page.")

    def _save_slice(self, asked: Any) -> dict[str, Any]:
        wanted: SliceAsked = parsed(asked, SliceAsked, "The slice")
        opened = self._open(wanted.run)
        opened.tags.save_slice(wanted.name, wanted.filter, seen=wanted.seen, who=wanted.who)
        return {"slices": self._saved(opened)}

    def _delete_slice(self, asked: Any) -> dict[str, Any]:
        wanted: SliceAsked = parsed(asked, SliceAsked, "The slice")
        opened = self._open(wanted.run)
        opened.tags.delete_slice(wanted.name, seen=wanted.seen, who=wanted.who)
        return {"slices": self._saved(opened)}

    def _saved(self, opened: _Opened) -> list[dict[str, Any]]:
        """The saved slices with their sizes; None for one whose filter no longer fits the run."""
        found = []
        for one in opened.tags.slices():
            try:
                size: int | None = len(self._found(opened, parsed(one.filter, Filter, "The slice")))
            except BadInput:
                size = None
            found.append({**one.model_dump(), "size": size})
        return found


def _base64(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
