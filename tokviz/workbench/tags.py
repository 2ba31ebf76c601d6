"""What people say about cases: tags, a status, a note, saved slices. A SQLite file beside the run, for several at once.

Every change has a number. Who changes something says which number was the last seen; if somebody else has changed the
same field of the same case since, that case is left as it is and reported. Adding or removing a tag never clashes.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import BadInput
from .filters import STATUSES, Filter, Labels, Status
from .tag_file import TagFile

MOST_AT_ONCE = 100_000
MOST_TAGS = 500
"""Different tags of a run."""
MOST_SLICES = 500

Step = tuple[str, str, str | None, str | None]
"""Of a change: case, field (``status``, ``note`` or ``tag:`` and the tag), what it was before and after."""


class Edit(BaseModel):
    """What is to be changed, of all the cases that are named.

    Attributes:
        seen: Number of the last change that the editor had seen.
        status, note: The new ones; None leaves them.
        add, remove: Tags.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_ids: tuple[str, ...] = Field(min_length=1, max_length=MOST_AT_ONCE)
    seen: int = Field(ge=0)
    status: Status | None = None
    note: str | None = Field(None, max_length=10_000)
    add: tuple[str, ...] = Field((), max_length=20)
    remove: tuple[str, ...] = Field((), max_length=20)


class Given(BaseModel):
    """What people gave one case."""

    tags: list[str] = []
    status: str = "unreviewed"
    note: str = ""


class Changed(BaseModel):
    """What an edit or an undo did.

    Attributes:
        change: Its number, by which it can be undone; None where nothing had to be changed.
        cases: Cases that were changed.
        clashes: Cases left as they are, because somebody else changed the same field since.
        latest: Number of the last change, to be sent with the next edit.
    """

    change: int | None
    cases: int
    clashes: list[str]
    latest: int


class SavedSlice(BaseModel):
    """A filter with a name. changed: number of its last change."""

    name: str
    filter: dict[str, Any]
    who: str
    changed: int


class TagStore:
    """The tags of one run. Any number of threads and processes may use the file at once.

    A run that may not be written can be read: nobody has tagged anything then, and an edit says why it cannot be.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False):
        self._file = TagFile(folder, read_only=read_only)

    @property
    def can_edit(self) -> bool:
        """Whether tags can be written."""
        return self._file.can_write

    def close(self) -> None:
        """Close all connections; only when no thread uses them any more."""
        self._file.close()

    # --- reading -----------------------------------------------------------------------------------------------------

    def latest(self) -> int:
        """Number of the last change; 0 before the first."""
        row = self._file.one("SELECT max(number) FROM changes")
        return int(row[0] or 0) if row else 0

    def labels(self) -> Labels:
        """Which cases have which tag, status, or a note, as filters need it."""
        found = Labels()
        for tag, case_id in self._file.all("SELECT tag, case_id FROM tags ORDER BY tag, case_id"):
            found.tags.setdefault(tag, []).append(case_id)
        for status, case_id in self._file.all("SELECT status, case_id FROM cases WHERE status != 'unreviewed'"):
            found.statuses.setdefault(status, []).append(case_id)
        found.noted.extend(row[0] for row in self._file.all("SELECT case_id FROM cases WHERE note != ''"))
        return found

    def given(self, case_ids: Sequence[str]) -> dict[str, Given]:
        """What people gave these cases; those without anything are left out."""
        found: dict[str, Given] = {}
        for some in _chunks(case_ids):
            marks = ",".join("?" * len(some))
            rows = self._file.all(f"SELECT case_id, status, note FROM cases WHERE case_id IN ({marks})", some)
            for case_id, status, note in rows:
                found[case_id] = Given(status=status, note=note)
            tags = self._file.all(f"SELECT case_id, tag FROM tags WHERE case_id IN ({marks}) ORDER BY tag", some)
            for case_id, tag in tags:
                found.setdefault(case_id, Given()).tags.append(tag)
        return {case_id: one for case_id, one in found.items() if one != Given()}

    def slices(self) -> list[SavedSlice]:
        """The saved slices by name."""
        rows = self._file.all("SELECT name, filter, who, changed FROM slices ORDER BY name")
        return [SavedSlice(name=n, filter=json.loads(f), who=w, changed=c) for n, f, w, c in rows]

    # --- writing -----------------------------------------------------------------------------------------------------

    def edit(self, edit: Edit, who: str = "") -> Changed:
        """Change cases; all that do not clash, in one transaction. Raises BadInput for what cannot be stored."""
        added, removed = ([checked_tag(tag) for tag in tags] for tags in (edit.add, edit.remove))
        with self._file.writing() as db:
            number = self._begin(db, who, "edit")
            clashes: list[str] = []
            steps: list[Step] = []
            for case_id in dict.fromkeys(edit.case_ids):
                steps += self._field_steps(db, edit, case_id, clashes)
                steps += _tag_steps(db, case_id, added, removed)
            self._carry_out(db, number, steps)
            self._check_number_of_tags(db)
            return self._done(db, number, steps, clashes)

    def undo(self, change: int, who: str = "") -> Changed:
        """Take a change back, where nobody has changed the same since. Raises BadInput for one that there is not."""
        with self._file.writing() as db:
            row = db.execute("SELECT what, undone FROM changes WHERE number = ?", [change]).fetchone()
            if row is None or row[0] not in ("edit", "undo") or row[1]:
                raise BadInput("There is nothing to undo: this change was undone already, or there is no such change.")
            number = self._begin(db, who, "undo")
            clashes: list[str] = []
            steps: list[Step] = []
            for case_id, field, before, after in db.execute(
                "SELECT case_id, field, before, after FROM steps WHERE change = ?", [change]
            ).fetchall():
                now, at = _now(db, case_id, field)
                if now == before:
                    continue
                if now != after or at > change:
                    clashes.append(case_id)
                    continue
                steps.append((case_id, field, now, before))
            self._carry_out(db, number, steps)
            db.execute("UPDATE changes SET undone = 1 WHERE number = ?", [change])
            return self._done(db, number, steps, clashes)

    def save_slice(self, name: str, asked: Filter, *, seen: int = 0, who: str = "") -> SavedSlice:
        """Save a filter under a name. Raises BadInput for one that somebody saved under that name since ``seen``."""
        name = _checked_name(name, "slice")
        with self._file.writing() as db:
            row = db.execute("SELECT changed, filter FROM slices WHERE name = ?", [name]).fetchone()
            if row is not None and row[0] > seen:
                raise BadInput(
                    f"There is a slice {name!r} already, saved by somebody else or by you: choose another name."
                )
            if row is None and db.execute("SELECT count(*) FROM slices").fetchone()[0] >= MOST_SLICES:
                raise BadInput(f"A run holds at most {MOST_SLICES} slices: delete some first.")
            number = self._begin(db, who, "slice")
            text = asked.model_dump_json()
            db.execute("INSERT OR REPLACE INTO slices VALUES (?, ?, ?, ?)", [name, text, who, number])
            return SavedSlice(name=name, filter=json.loads(text), who=who, changed=number)

    def delete_slice(self, name: str, *, seen: int, who: str = "") -> None:
        """Delete a slice. Raises BadInput if somebody saved it again since ``seen``, or there is none."""
        with self._file.writing() as db:
            row = db.execute("SELECT changed FROM slices WHERE name = ?", [name]).fetchone()
            if row is None:
                raise BadInput(f"There is no slice {name[:60]!r}.")
            if row[0] > seen:
                raise BadInput(f"The slice {name[:60]!r} was saved again since you saw it; look at it first.")
            self._begin(db, who, "slice")
            db.execute("DELETE FROM slices WHERE name = ?", [name])

    # --- steps -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _field_steps(db: sqlite3.Connection, edit: Edit, case_id: str, clashes: list[str]) -> list[Step]:
        steps: list[Step] = []
        wanted: list[tuple[Literal["status", "note"], str | None]] = [("status", edit.status), ("note", edit.note)]
        for field, after in wanted:
            if after is None:
                continue
            before, at = _now(db, case_id, field)
            if before == after:
                continue
            if at > edit.seen:
                clashes.append(case_id)
            else:
                steps.append((case_id, field, before, after))
        return steps

    @staticmethod
    def _carry_out(db: sqlite3.Connection, number: int, steps: Sequence[Step]) -> None:
        for case_id, field, _, after in steps:
            if field.startswith("tag:"):
                sql = "DELETE FROM tags WHERE case_id = ? AND tag = ?"
                if after is not None:
                    sql = "INSERT OR IGNORE INTO tags VALUES (?, ?)"
                db.execute(sql, [case_id, field[4:]])
                continue
            db.execute("INSERT OR IGNORE INTO cases (case_id) VALUES (?)", [case_id])
            name = {"status": "status", "note": "note"}[field]
            db.execute(f"UPDATE cases SET {name} = ?, {name}_at = ? WHERE case_id = ?", [after, number, case_id])
        db.executemany("INSERT INTO steps VALUES (?, ?, ?, ?, ?)", [(number, *step) for step in steps])

    @staticmethod
    def _check_number_of_tags(db: sqlite3.Connection) -> None:
        if db.execute("SELECT count(DISTINCT tag) FROM tags").fetchone()[0] > MOST_TAGS:
            raise BadInput(f"A run holds at most {MOST_TAGS} different tags: remove some first.")

    @staticmethod
    def _begin(db: sqlite3.Connection, who: str, what: str) -> int:
        cursor = db.execute("INSERT INTO changes (who, at, what) VALUES (?, ?, ?)", [who[:80], time.time(), what])
        return int(cursor.lastrowid or 0)

    @staticmethod
    def _done(db: sqlite3.Connection, number: int, steps: Sequence[Any], clashes: list[str]) -> Changed:
        if not steps:
            db.execute("DELETE FROM changes WHERE number = ?", [number])
        latest = int(db.execute("SELECT max(number) FROM changes").fetchone()[0] or 0)
        cases = len({step[0] for step in steps})
        return Changed(
            change=number if steps else None, cases=cases, clashes=list(dict.fromkeys(clashes)), latest=latest
        )


def checked_tag(tag: str) -> str:
    """A tag as it is stored. Raises BadInput for an empty or endless one."""
    return _checked_name(tag, "tag")


def _checked_name(name: str, what: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if not plain or len(plain) > 60:
        raise BadInput(f"The name of a {what} has 1 to 60 characters.")
    return plain


def _tag_steps(db: sqlite3.Connection, case_id: str, added: Sequence[str], removed: Sequence[str]) -> list[Step]:
    has = {row[0] for row in db.execute("SELECT tag FROM tags WHERE case_id = ?", [case_id])}
    new = [(case_id, f"tag:{tag}", None, tag) for tag in dict.fromkeys(added) if tag not in has]
    gone = [(case_id, f"tag:{tag}", tag, None) for tag in dict.fromkeys(removed) if tag in has and tag not in added]
    return [*new, *gone]


def _now(db: sqlite3.Connection, case_id: str, field: str) -> tuple[str | None, int]:
    """A field of a case, and the number of its last change (0 for a tag, which cannot clash)."""
    if field.startswith("tag:"):
        row = db.execute("SELECT tag FROM tags WHERE case_id = ? AND tag = ?", [case_id, field[4:]]).fetchone()
        return (None if row is None else row[0]), 0
    name = {"status": "status", "note": "note"}[field]
    row = db.execute(f"SELECT {name}, {name}_at FROM cases WHERE case_id = ?", [case_id]).fetchone()
    empty = STATUSES[0] if field == "status" else ""
    return (empty, 0) if row is None else (row[0], row[1])


def _chunks(values: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
