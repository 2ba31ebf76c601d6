"""A run that was mined, opened to be read: its receipt, its tables, and a database on them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import BadInput, need
from ..files import shown_name
from ..short import short_repr
from .manifest import MANIFEST, Manifest, read_manifest

if TYPE_CHECKING:
    import duckdb
    import pandas
    import pyarrow

Table = Literal["rows", "cases"]


class MinedRun:
    """A folder that ``tokviz.mine`` filled, or is filling: the parts that were whole when it was opened.

    Attributes:
        path: The folder.
        manifest: What was asked, of which model, by which code; and the parts.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def __repr__(self) -> str:
        manifest = self.manifest
        done = f"{self.n_cases} of {manifest.cases.asked}"
        methods = [method.key for method in manifest.methods]
        return short_repr(
            self, path=str(self.path), cases=done, rows=self.n_rows, methods=methods, budgets=manifest.budgets
        )

    @property
    def n_cases(self) -> int:
        """Number of cases in whole parts."""
        return sum(part.cases for part in self.manifest.parts)

    @property
    def n_rows(self) -> int:
        """Number of rows in whole parts."""
        return sum(part.rows for part in self.manifest.parts)

    def files(self, table: Table) -> list[str]:
        """Return the Parquet files of a table."""
        return [str(self.path / table / f"{part.name}.parquet") for part in self.manifest.parts]

    def table(self, table: Table, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """Return a table, or some of its columns, in the order of the case file.

        Raises:
            BadInput: If pyarrow is not installed, or a file is missing or damaged.
        """
        from .schema import schema_of

        schema = schema_of(table)
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = list(schema.names if columns is None else columns)
        empty = pa.schema([schema.field(name) for name in names]).empty_table()
        try:
            parts = [pq.read_table(file, columns=names, schema=schema) for file in self.files(table)]
        except (OSError, pa.ArrowException) as error:
            raise BadInput(
                f"A part of this run is missing or damaged: {shown_name(str(self.path))!r}. Repeat the command that "
                "mined it, which finds the part and mines it again."
            ) from error
        return pa.concat_tables([empty, *parts]).unify_dictionaries()

    def rows(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Return one row per case, method, budget and seed.

        Raises:
            BadInput: If pandas or pyarrow is not installed, or a file is missing or damaged.
        """
        need("pandas", "ui", "A table")
        return self.table("rows", columns).to_pandas()

    def cases(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Return one row per case, with the unpruned answer.

        Raises:
            BadInput: If pandas or pyarrow is not installed, or a file is missing or damaged.
        """
        need("pandas", "ui", "A table")
        return self.table("cases", columns).to_pandas()

    def connection(self) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB database in memory with the views ``rows`` and ``cases``, and ``map`` where there is one.

        Raises:
            BadInput: If DuckDB is not installed, or there is no whole part yet.
        """
        need("duckdb", "mine", "A database on a mined run")
        if not self.manifest.parts:
            raise BadInput("This run holds no whole part yet: mine more of it, or wait.")
        import duckdb

        connection = duckdb.connect()
        for table in ("rows", "cases"):
            connection.read_parquet(self.files(table)).create_view(table)  # type: ignore[arg-type]
        if self.manifest.map is not None and (self.path / "map.parquet").is_file():
            connection.read_parquet(str(self.path / "map.parquet")).create_view("map")
        return connection


def open_run(path: str | Path) -> MinedRun:
    """Open a folder that ``tokviz.mine`` filled, or is filling.

    Raises:
        BadInput: If it is no such folder.

    Example:
        >>> run = tokviz.open_run("runs/pope")
        >>> run.connection().sql("select method, count(*) from rows where outcome = 'lost' group by method")
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise BadInput(f"{shown_name(folder)!r} is no mined run: it has no {MANIFEST}. tokviz mine makes one.")
    return MinedRun(folder, read_manifest(folder))
