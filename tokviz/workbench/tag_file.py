"""The SQLite file of ``tags``: a connection per thread, patience with other writers, words for what fails."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import resource, shown_name

FILE = "tags.sqlite"
SHIPPED_RUNS = "examples/runs"
"""Where the runs lie that come with tokviz."""
BUSY_S = 10.0
"""How long a writer waits for the others."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    case_id TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'unreviewed', note TEXT NOT NULL DEFAULT '',
    status_at INTEGER NOT NULL DEFAULT 0, note_at INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS tags (
    case_id TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (case_id, tag)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_tag ON tags (tag);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT NOT NULL, at REAL NOT NULL, what TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS steps (
    change INTEGER NOT NULL, case_id TEXT NOT NULL, field TEXT NOT NULL, before TEXT, after TEXT);
CREATE INDEX IF NOT EXISTS by_change ON steps (change);
CREATE TABLE IF NOT EXISTS slices (
    name TEXT PRIMARY KEY, filter TEXT NOT NULL, who TEXT NOT NULL, changed INTEGER NOT NULL);
"""


class TagFile:
    """The file of one run, made when something is written first. Any number of threads and processes may use it."""

    def __init__(self, folder: str | Path, *, read_only: bool = False):
        self._path = Path(folder) / FILE
        self._named = shown_name(folder)
        self._comes_with_tokviz = comes_with_tokviz(folder)
        self._read_only = read_only or self._comes_with_tokviz
        self._local = threading.local()
        self._made = False
        self._opened: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @property
    def can_write(self) -> bool:
        """Whether anything can be written."""
        folder = self._path.parent
        return not self._read_only and os.access(self._path if self._path.exists() else folder, os.W_OK)

    def close(self) -> None:
        """Close all connections; only when no thread uses them any more."""
        with self._guard:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
        self._local = threading.local()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: whole or not at all. Raises BadInput when the file cannot be written."""
        if self._comes_with_tokviz:
            raise BadInput(
                f"The run {self._named!r} comes with tokviz, and nothing is written there: copy its folder and serve "
                "that (tokviz serve --runs) to tag its cases or save slices."
            )
        if self._read_only:
            raise BadInput("On this server tags, notes and slices can be read, not changed.")
        db = None
        try:
            db = self._connection(create=True)
            if db is None:
                raise sqlite3.OperationalError("no file")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise BadInput(
                f"The tags of the run {self._named!r} cannot be written just now ({_reason(error)}); nothing was "
                "changed."
            ) from error
        finally:
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")

    def _connection(self, create: bool = False) -> sqlite3.Connection | None:
        """This thread's; None where there is no file yet and none is to be made."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            if not create and not self._path.is_file():
                return None
            if not create and not self.can_write:  # a run on a read-only disk; WAL would want to write beside the file
                db = sqlite3.connect(f"{self._path.resolve().as_uri()}?immutable=1", uri=True, check_same_thread=False)
            else:
                db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._local.db = db
            with self._guard:
                self._opened.append(db)
            if self.can_write:
                _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"))
                db.execute("PRAGMA synchronous = NORMAL")
        if create and not self._made:
            _patiently(lambda: db.executescript(_SCHEMA))
            self._made = True
        return db

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query; none where there is no file yet. Raises BadInput when it cannot be read."""
        try:
            db = self._connection()
            return [] if db is None else db.execute(sql, list(values)).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # made by another process this very moment
                return []
            raise BadInput(f"The tags of the run {self._named!r} cannot be read ({_reason(error)}).") from error
        except sqlite3.Error as error:
            raise BadInput(f"The tags of the run {self._named!r} cannot be read ({_reason(error)}).") from error

    def one(self, sql: str) -> tuple[Any, ...] | None:
        """The first row of a query, None where there is none. Raises BadInput like ``all``."""
        rows = self.all(sql)
        return rows[0] if rows else None


def comes_with_tokviz(folder: str | Path) -> bool:
    """Whether a run lies where the package keeps those that it brings."""
    return Path(folder).resolve().is_relative_to(resource(SHIPPED_RUNS).resolve())


def _patiently(act: Callable[[], Any]) -> None:
    """Do what several may begin at the same moment: SQLite does not wait for others where a file's mode is changed."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            act()
            return
        except sqlite3.OperationalError as error:
            if not getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _reason(error: sqlite3.Error) -> str:
    return {"SQLITE_FULL": "the disk is full", "SQLITE_BUSY": "somebody else is writing"}.get(
        getattr(error, "sqlite_errorname", ""), "the file is damaged or may not be written"
    )
