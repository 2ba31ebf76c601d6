"""A run folder: what was mined is on the disk at once, in parts that are written whole, and survives being killed.

A finished case is appended to ``pending/part-N.log`` with a checksum. When all cases of part N are there, they become
``rows/part-N.parquet`` and ``cases/part-N.parquet``, sorted by their place in the case file, and the manifest names
them with their digests. So the same cases give the same bytes, however often and wherever it was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import BadInput
from ..files import UNFINISHED, write_whole
from .manifest import MANIFEST, Manifest, MapRecord, Part, differences, read_manifest
from .schema import schema_of

if TYPE_CHECKING:
    import pyarrow

TABLES = ("rows", "cases")
_GROUP_CASES = 64
"""Cases of a row group: who asks for some of a part's cases reads no more than theirs."""
_LOG = re.compile(r"part-(\d{5,9})\.log")
_HEADER = struct.Struct("<4sIII")
_MAGIC = b"case"
_LOCK = ".lock"
_BUSY = "This folder is being mined by another process: wait until it is done, or mine into another folder."


def payload_of(case: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bytes:
    """Pack a case with all its rows, as ``RunStore.add`` takes them."""
    import pyarrow as pa

    sink = io.BytesIO()
    for name, records in (("rows", rows), ("cases", [case])):
        table = pa.Table.from_pylist(list(records), schema=schema_of(name))
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _unpacked(payload: bytes) -> tuple[pyarrow.Table, pyarrow.Table]:
    import pyarrow as pa

    source = pa.BufferReader(payload)
    rows = pa.ipc.open_stream(source).read_all()
    return rows, pa.ipc.open_stream(source).read_all()


class RunStore:
    """The folder of one run, locked for this process until it is closed. Use it as a context.

    Attributes:
        manifest: As it is on the disk.
        notes: What was found damaged and will be mined again, as sentences.
    """

    def __init__(self, folder: str | Path, asked: Manifest) -> None:
        """Create the folder, or go on with it.

        Raises:
            BadInput: If another process mines into it, it belongs to another command (which says what differs), holds
                something else, or cannot be written.
        """
        self.folder, self.manifest = Path(folder), asked
        self.notes: list[str] = []
        self._logs: dict[int, BinaryIO] = {}
        self._places: dict[int, dict[int, tuple[int, int, float]]] = {}
        self._done: set[str] = set()
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        self._release = _locked(self.folder)
        try:
            self._open(asked)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and let other processes in."""
        for log in self._logs.values():
            with contextlib.suppress(OSError):
                log.close()
        self._logs.clear()
        self._release()

    @property
    def payloads(self) -> Path:
        """Where worker processes put cases on their way into the store."""
        return self.folder / "pending" / "payloads"

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self, asked: Manifest) -> None:
        if (self.folder / MANIFEST).exists():
            there = read_manifest(self.folder)
            changed = differences(there, asked)
            if changed:
                raise BadInput(
                    f"This folder was begun by another command: {'; '.join(changed)}. Repeat that command to go on, or "
                    "mine into another folder."
                )
            self.manifest = there
        elif any(name.name not in (_LOCK, "pending", "rows", "cases", "media") for name in self.folder.iterdir()):
            raise BadInput("The folder for a new run must be empty or absent; this one holds something else.")
        with self._writing():
            for name in (*TABLES, "pending"):
                (self.folder / name).mkdir(exist_ok=True)
            self._drop_damaged()
            self._remove_leftovers()
            self._write(self.manifest)
            self._read_pending()

    def _drop_damaged(self) -> None:
        """Forget parts that are not what they were when they were written."""
        good = []
        for part in self.manifest.parts:
            found = [_digest(self._file(table, part.name)) for table in TABLES]
            if found == [part.sha256, part.cases_sha256]:
                good.append(part)
                continue
            what = "is missing" if None in found else "is damaged"
            self.notes.append(f"{part.name} {what}: its {part.cases} cases are mined again.")
        if len(good) < len(self.manifest.parts):
            self.manifest = self.manifest.model_copy(update={"parts": good, "status": "running", "map": None})

    def _remove_leftovers(self) -> None:
        """Remove what a killed writer left: readers take every file of a table's folder for a part."""
        known = {f"{part.name}.parquet" for part in self.manifest.parts}
        for table in TABLES:
            for path in (self.folder / table).iterdir():
                if path.name not in known and path.suffix in (".parquet", UNFINISHED):
                    path.unlink()
        for path in self.folder.glob(f".*{UNFINISHED}"):
            path.unlink()
        shutil.rmtree(self.payloads, ignore_errors=True)

    def _read_pending(self) -> None:
        for path in sorted((self.folder / "pending").glob("part-*.log")):
            if path.stem in self._done:
                path.unlink()
                continue
            matched = _LOG.fullmatch(path.name)
            number = int(matched[1]) if matched else None
            if number is None or not self._positions(number):  # none of ours
                continue
            with path.open("rb") as file:
                places, end = _scanned(file, self._positions(number))
            if end < path.stat().st_size:
                self.notes.append(f"The end of {path.name} is damaged or half-written: what it held is mined again.")
                os.truncate(path, end)
            self._places[number] = places
        for number in list(self._places):
            self._finish_if_whole(number)

    # -- what there is -------------------------------------------------------------------------------------------------

    def _positions(self, number: int) -> range:
        """Those of a part; none of a part that there is not."""
        size = self.manifest.part_cases
        return range(number * size, min((number + 1) * size, self.manifest.cases.asked))

    def has(self, position: int) -> bool:
        """Whether the case at this position among those asked for is on the disk."""
        number = position // self.manifest.part_cases
        return self._name(number) in self._done or position in self._places.get(number, ())

    @property
    def n_done(self) -> int:
        """How many cases are on the disk."""
        return sum(part.cases for part in self.manifest.parts) + sum(map(len, self._places.values()))

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(self, position: int, payload: bytes, seconds: float) -> None:
        """Write a finished case; one that is there already is left as it is.

        payload: see ``payload_of``. seconds: what mining it took.

        Raises:
            BadInput: If it cannot be written. What was written before stays.
        """
        if self.has(position):
            return
        number = position // self.manifest.part_cases
        places = self._places.setdefault(number, {})
        with self._writing():
            log = self._logs.get(number)
            if log is None:
                log = self._logs[number] = self._log(number).open("ab")
            start = log.tell()
            body = struct.pack("<d", seconds) + payload
            try:
                log.write(_HEADER.pack(_MAGIC, position, len(body), zlib.crc32(body)) + body)
                log.flush()
                os.fsync(log.fileno())
            except OSError:  # the disk is full: no half of a case stays
                self._logs.pop(number).close()
                os.truncate(self._log(number), start)
                raise
            places[position] = (start + _HEADER.size + 8, len(payload), seconds)
            self._finish_if_whole(number)

    def _finish_if_whole(self, number: int) -> None:
        positions, places = self._positions(number), self._places[number]
        if len(places) < len(positions):
            return
        log = self._logs.pop(number, None)
        if log is not None:
            log.close()
        import pyarrow as pa

        with self._log(number).open("rb") as file:
            tables = [_unpacked(_read(file, *places[position][:2])) for position in positions]
        name, digests, counts = self._name(number), {}, {}
        for at, table in enumerate(TABLES):
            some = [pair[at] for pair in tables]
            whole = pa.concat_tables(some)
            groups = [some[first : first + _GROUP_CASES] for first in range(0, len(some), _GROUP_CASES)]
            content = as_parquet(whole, [sum(one.num_rows for one in group) for group in groups])
            write_whole(self._file(table, name), content)
            digests[table], counts[table] = hashlib.sha256(content).hexdigest(), whole.num_rows
        part = Part(
            name=name,
            cases=counts["cases"],
            rows=counts["rows"],
            sha256=digests["rows"],
            cases_sha256=digests["cases"],
            seconds=round(sum(place[2] for place in places.values()), 3),
        )
        parts = sorted([*self.manifest.parts, part], key=lambda each: each.name)
        self._write(self.manifest.model_copy(update={"parts": parts}))
        del self._places[number]
        self._log(number).unlink()

    def finish(self, problems: int, chart: MapRecord | None) -> None:
        """Note that all cases are there. problems: of the case file."""
        with self._writing():
            self._write(self.manifest.model_copy(update={"status": "done", "problems": problems, "map": chart}))

    def write(self, name: str, content: bytes) -> None:
        """Write a further file of the run, whole or not at all."""
        with self._writing():
            write_whole(self.folder / name, content)

    def copy_media(self, path: str, digest: str) -> None:
        """Copy an image or video to ``media/DIGEST.suffix``, once. digest: SHA-256 of the file."""
        target = self.folder / "media" / f"{digest}{Path(path).suffix.lower()}"
        with self._writing():
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                write_whole(target, Path(path).read_bytes())

    def _write(self, manifest: Manifest) -> None:
        content = manifest.to_bytes()
        path = self.folder / MANIFEST
        if not path.exists() or path.read_bytes() != content:
            write_whole(path, content)
        self.manifest, self._done = manifest, {part.name for part in manifest.parts}

    def _name(self, number: int) -> str:
        return f"part-{number:05d}"

    def _file(self, table: str, name: str) -> Path:
        return self.folder / table / f"{name}.parquet"

    def _log(self, number: int) -> Path:
        return self.folder / "pending" / f"{self._name(number)}.log"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_be_written(error) from error


def cannot_be_written(error: OSError) -> BadInput:
    """What to say when a run's folder refuses a file."""
    reason = (error.strerror or "unknown reason").lower()
    return BadInput(
        f"The run folder cannot be written: {reason}. What was mined before is kept: repeat the command when that is "
        "solved."
    )


def _locked(folder: Path) -> Any:
    """Hold the folder for this process, and return what lets it go. The system does when the process is killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(_BUSY) from error
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise BadInput(f"The run folder cannot be locked: {reason}.") from error
    return lock.release


def _scanned(file: BinaryIO, positions: range) -> tuple[dict[int, tuple[int, int, float]], int]:
    """Where the payload of each case of a log lies, with its seconds; and where the intact part of the log ends."""
    places: dict[int, tuple[int, int, float]] = {}
    end, size = 0, os.fstat(file.fileno()).st_size
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        magic, position, length, checksum = _HEADER.unpack(header)
        if magic != _MAGIC or position not in positions or not 8 <= length <= size - end:
            break
        body = file.read(length)
        if len(body) < length or zlib.crc32(body) != checksum:
            break
        places.setdefault(position, (end + _HEADER.size + 8, length - 8, struct.unpack_from("<d", body)[0]))
        end += _HEADER.size + length
    return places, end


def scanned_log(path: Path) -> list[int]:
    """The positions of the cases that a log in ``pending`` holds whole."""
    with path.open("rb") as file:
        return list(_scanned(file, range(2**31))[0])


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none, or it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def as_parquet(table: pyarrow.Table, groups: Sequence[int] = ()) -> bytes:
    """A table as the content of a Parquet file, the same for the same table.

    groups: how many rows each of its row groups has, one after the other; none: as the library likes it.
    """
    import pyarrow.parquet as pq

    sink, whole, first = io.BytesIO(), table.unify_dictionaries().combine_chunks(), 0
    with pq.ParquetWriter(sink, whole.schema, compression="zstd", store_schema=True) as writer:
        for count in groups or [whole.num_rows]:
            writer.write_table(whole.slice(first, count), row_group_size=max(1, count))
            first += count
    return sink.getvalue()
