"""A mined run, opened for queries: DuckDB over its Parquet files, read-only and with bounded memory.

What filters, facets and sorting look at is loaded once (``facts``: a row per case; ``cells``: a row per case, method
and budget, over its seeds). Images, kept sets and whole rows stay in the files and are read for the cases of a page.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from ..errors import BadInput, need
from ..files import shown_name
from .filters import Bool, Flag, Measure, Number
from .manifest import MANIFEST, Manifest, checked_manifest, part_file

if TYPE_CHECKING:
    import duckdb
    import pyarrow

T = TypeVar("T")

OUTCOMES = ("kept", "lost", "rescued", "changed", "wrong", "same", "differs", "error")
"""What became of an answer. The last three: without an expected answer, and where the method could not run."""
GOOD = ("kept", "rescued", "same")
"""Outcomes after which the answer is right, or is what the unpruned model said where nothing is expected."""
MEASURES: tuple[str, ...] = get_args(Measure)
"""Numbers of a row that can be filtered and sorted by; over seeds, their mean."""
FLAGS: tuple[str, ...] = get_args(Flag)
"""Yes or no per row; over seeds, yes if it is so for any."""
NUMBERS: tuple[str, ...] = tuple(name for name in get_args(Number) if name != "ordinal")
"""Numbers of a case, of its unpruned answer."""
WORDS = ("family", "split", "metric", "answer", "model")
BOOLS: tuple[str, ...] = get_args(Bool)
MEMORY = "768MB"


class OpenRun:
    """One run folder, as it was when it was opened: a run that is mined on is opened again (``is_stale``).

    Any number of threads may ask at once; ``close`` frees the memory, as does forgetting it.

    Attributes:
        revision: Of the manifest that was read.
    """

    def __init__(self, folder: str | Path, *, memory: str = MEMORY, threads: int = 2):
        """Open a run. memory: most that DuckDB takes. Raises BadInput for what is no run or is damaged."""
        need("duckdb", "mine", "Browsing a mined run")
        self.folder = Path(folder).resolve()
        self.name = self.folder.name
        self._memory, self._threads = memory, threads
        self._lock = threading.Lock()
        self._spill = tempfile.TemporaryDirectory(prefix="tokviz-duckdb-")
        self.manifest: Manifest = checked_manifest(self.folder)
        self.revision = self._changed()
        self._kept: dict[str, Any] = {}
        self._places: dict[int, int] = {}
        self._db = self._load()

    def __enter__(self) -> OpenRun:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Free the memory; the folder stays as it is."""
        self._db.close()
        self._spill.cleanup()

    @property
    def methods(self) -> list[str]:
        """Keys of the methods, in the order they were mined in."""
        return [method.key for method in self.manifest.methods]

    def is_stale(self) -> bool:
        """Whether mining has gone on since the run was read."""
        return self._changed() != self.revision

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of ours; values only as parameters. Raises BadInput when the files cannot be read."""
        return list(self.cursor(sql, parameters).fetchall())

    def columns(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any]:
        """As ``query``, by column as (masked) numpy arrays."""
        return dict(self.cursor(sql, parameters).fetchnumpy())

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pyarrow.Table:
        """As ``query``, as an Arrow table."""
        with self._errors():
            return self._db.cursor().sql(sql, params=list(parameters)).to_arrow_table()

    def cursor(self, sql: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        """A connection of its own with the result of a statement, as DuckDB gives it."""
        with self._errors():
            return self._db.cursor().execute(sql, list(parameters))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What DuckDB says of files and memory becomes BadInput."""
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise BadInput("This needs more memory than the workbench may take: filter for fewer cases.") from error
        except duckdb.BinderException as error:
            named = shown_name(self.folder)
            raise BadInput(f"The run {named!r} lacks a column, as another version of tokviz mined it.") from error
        except duckdb.IOException as error:
            raise BadInput(f"A file of the run {shown_name(self.folder)!r} cannot be read.") from error

    def remembered(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, computed once."""
        with self._lock:
            if name in self._kept:
                return cast(T, self._kept[name])
        made = make()
        with self._lock:
            return cast(T, self._kept.setdefault(name, made))

    def places_of(self, ids: Sequence[str]) -> list[int]:
        """The places of cases among all of the run, from 0; ids that it does not hold are left out."""
        all_ids = "SELECT case_id FROM facts ORDER BY ordinal"
        index = self.remembered("ids", lambda: {row[0]: at for at, row in enumerate(self.query(all_ids))})
        return [index[one] for one in ids if one in index]

    def has(self, ordinal: int) -> bool:
        """Whether the run holds a case."""
        return ordinal in self._places

    def ids_of(self, ordinals: Sequence[int]) -> list[str]:
        """The ids of cases, in any order."""
        sql = "SELECT case_id FROM facts WHERE ordinal IN (SELECT unnest($1::INTEGER[]))"
        return [row[0] for row in self.query(sql, [list(map(int, ordinals))])]

    def count_rows(self, ordinals: Sequence[int]) -> int:
        """How many rows some cases have, of all methods, budgets and seeds."""
        sql = "SELECT sum(seeds) FROM cells WHERE ordinal IN (SELECT unnest($1::INTEGER[]))"
        return int(self.query(sql, [list(ordinals)])[0][0] or 0)

    def files(self, kind: str, ordinals: Sequence[int] | None = None) -> list[str]:
        """The Parquet files of ``kind`` ("rows", "cases") that hold these cases; None: all of them."""
        chosen = range(len(self.manifest.parts)) if ordinals is None else sorted({self._part_of(o) for o in ordinals})
        return [str(part_file(self.folder, kind, self.manifest.parts[number])) for number in chosen]

    def _part_of(self, ordinal: int) -> int:
        return self._places[ordinal]

    def _changed(self) -> int:
        try:
            return (self.folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            return -1

    def _load(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        options: dict[str, Any] = {"memory_limit": self._memory, "threads": self._threads}
        options["temp_directory"] = self._spill.name
        db = duckdb.connect(":memory:", config={**options, "autoinstall_known_extensions": False})
        try:
            db.execute("LOAD parquet")
            db.execute("SET parquet_metadata_cache = true")
            _load_facts(db, self.files("cases"), self._map_file())
            _load_cells(db, self.files("rows"), self.methods)
            self._places = dict(db.execute("SELECT ordinal, part FROM facts").fetchall())
        except duckdb.Error as error:
            db.close()
            raise BadInput(
                f"The run {shown_name(self.folder)!r} cannot be read: a file is damaged or lacks a column. Run the "
                "same tokviz mine command again, which makes what is broken."
            ) from error
        # From here on nothing but this run's files can be reached, whatever a statement says.
        db.execute("SET allowed_directories = $1", [[str(self.folder)]])
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
        return db

    def _map_file(self) -> str | None:
        path = self.folder / "map.parquet"
        return str(path) if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()) else None


def _load_facts(db: duckdb.DuckDBPyConnection, files: list[str], map_file: str | None) -> None:
    """``facts``: a row per case with what can be filtered by, and its place on the map."""
    if not files:
        raise BadInput("This run holds no cases yet: wait until the first part is mined.")
    columns = ", ".join(f"c.{name}" for name in (*NUMBERS, *WORDS, "right", "difficult"))
    numbered = "unnest($1::VARCHAR[]) AS file, generate_subscripts($1::VARCHAR[], 1) - 1 AS part"
    db.execute(f"CREATE TEMP TABLE files AS SELECT {numbered}", [files])
    db.execute(
        f"""CREATE TABLE facts AS SELECT c.ordinal, c.case_id, c.question,
            array_to_string(c.answers, ' | ') AS expected, {columns}, c.video IS NOT NULL AS is_video,
            f.part::INTEGER AS part, NULL::FLOAT AS x, NULL::FLOAT AS y
        FROM read_parquet($1, filename = true) c JOIN files f ON f.file = c.filename
        QUALIFY row_number() OVER (PARTITION BY c.ordinal ORDER BY f.part) = 1
        ORDER BY c.ordinal""",
        [files],
    )
    if map_file is not None:
        db.execute(
            "UPDATE facts SET x = m.x, y = m.y FROM read_parquet($1) m "
            "WHERE m.case_id = facts.case_id AND isfinite(m.x) AND isfinite(m.y)",
            [map_file],
        )


def _load_cells(db: duckdb.DuckDBPyConnection, files: list[str], methods: list[str]) -> None:
    """``cells``: a row per case, method and budget: how many seeds had which outcome, means of what was measured.

    verdict: the outcome of most seeds, the first of ``OUTCOMES`` where several have as many. Sorted by method and
    budget, so that looking at one of each reads little.
    """
    db.execute(
        "CREATE TABLE methods AS SELECT unnest($1::VARCHAR[]) AS key, generate_subscripts($1::VARCHAR[], 1) - 1 AS m",
        [methods],
    )
    known = "SELECT count(*) FROM read_parquet($1) WHERE coalesce(NOT contains($2, outcome::VARCHAR), true)"
    if db.execute(known, [files, list(OUTCOMES)]).fetchall()[0][0]:
        raise BadInput(
            "A row of this run has an outcome that tokviz does not know: it is damaged, or of another version."
        )
    counts = ", ".join(f"count(*) FILTER (r.outcome = '{name}')::UTINYINT AS n_{name}" for name in OUTCOMES)
    means = ", ".join(f"avg(r.{name})::FLOAT AS {name}" for name in MEASURES)
    flags = ", ".join(f"bool_or(r.{name}) AS {name}" for name in FLAGS)
    most = "greatest(" + ", ".join(f"n_{name}" for name in OUTCOMES) + ")"
    verdict = " ".join(f"WHEN n_{name} = {most} THEN {at}" for at, name in enumerate(OUTCOMES))
    good = " + ".join(f"n_{name}" for name in GOOD)
    db.execute(
        f"""CREATE TABLE cells AS
        SELECT *, (CASE {verdict} END)::UTINYINT AS verdict, 2 * ({good}) > seeds AS good FROM (
            SELECT r.ordinal, m.m::UTINYINT AS m, r.budget, count(*)::UTINYINT AS seeds,
                first(r.answer ORDER BY r.seed) AS answer, {counts}, {means}, {flags}
            FROM read_parquet($1) r JOIN methods m ON m.key = r.method JOIN facts f ON f.ordinal = r.ordinal
            GROUP BY r.ordinal, m.m, r.budget)
        ORDER BY m, budget, ordinal""",
        [files],
    )
