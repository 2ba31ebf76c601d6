"""Decoding in a process of its own: a deadline that ends the work, whatever the decoder is doing.

Threads cannot be ended and decoders cannot be asked to hurry, so hostile files are decoded in a process with limits of
CPU time, memory and time on the wall, which is killed when it passes one or the user presses Stop. Each call has its
own process, and a few run at once; the others wait in order.

On Linux the processes are copies of one that was started with a fresh interpreter and has the decoders loaded
(``process.py``): some ten milliseconds a call. Elsewhere a fresh interpreter is started for each call, which
takes about half a second, and limits hold as far as the system has them; the time on the wall always does. Scripts need
no ``if __name__ == "__main__"``: the script is not imported again. Nothing outlives this process, be it killed.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..errors import BadInput, Stopped
from ..files import IMPORT_FOLDER
from .process import ENDING

AT_ONCE = 4
"""Files that are decoded at the same time: with the default limit they take at most 1.6 GB."""
MAX_WAITING_S = 60.0
"""How long a call waits for its turn."""
_POLL_S = 0.05
_WALL_PER_CPU = 3.0
_GRACE_S = 2.0
Kind = Literal["image", "video"]
Why = Literal["done", "died", "cpu", "wall"]

_RESULTS = {
    ("PIL.Image", "Image"),
    ("tokviz.media.images", "InputImage"),
    ("tokviz.names", "VideoFacts"),
    ("tokviz.image_records", "FrameRecord"),
    ("tokviz.image_records", "ImageRecord"),
    ("tokviz.media.video", "Reading"),
    ("tokviz.media.video", "SampledFrame"),
}
"""What may come back. Nothing else is unpickled, should a file have got the better of its decoder."""


@dataclass(frozen=True)
class Limits:
    """What decoding one file may take. memory_mb: megabytes beyond what the process holds before it begins."""

    cpu_s: float = 5.0
    memory_mb: float = 400.0

    @property
    def wall_s(self) -> float:
        """Time on the wall, in seconds: longer, since others compute, too."""
        return _WALL_PER_CPU * self.cpu_s

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, or what the operator says in TOKVIZ_DECODE_SECONDS and TOKVIZ_DECODE_MB. Raises BadInput."""
        return cls(
            _number("TOKVIZ_DECODE_SECONDS", cls.cpu_s, 1, "seconds"),
            _number("TOKVIZ_DECODE_MB", cls.memory_mb, 100, "megabytes"),
        )


def _number(name: str, default: float, least: float, unit: str) -> float:
    text = os.environ.get(name, "").strip()
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not least <= number < 1e6:
        raise BadInput(f"{name} must be a number of {unit}, {least:g} or more, not {text!r}.")
    return number


@dataclass(frozen=True)
class Usage:
    """What a call took: CPU seconds, and megabytes at its peak beyond the start."""

    cpu_s: float
    peak_mb: float


OnUsage = Callable[[Usage], None] | None


@dataclass(frozen=True)
class _Ending:
    why: Why
    usage: Usage | None = None


def in_worker(
    function: Callable[..., Any],
    *arguments: Any,
    kind: Kind = "image",
    stop: threading.Event | None = None,
    limits: Limits | None = None,
    on_usage: OnUsage = None,
) -> list[Any]:
    """The values that ``function(*arguments)`` gives in a process of its own: one, or those of a generator.

    ``function`` is found by its module and name. ``kind`` is the file it reads, for the sentences. Raises BadInput as
    the function, or when it passes a limit or its process dies, Stopped soon after ``stop`` is set, and RuntimeError
    with the other side's traceback when the function has a defect.
    """
    limits = limits or Limits.from_environment()
    with _TURNS.taken(stop), _temporary_file() as request, _temporary_file() as reply:
        pickle.dump((function, arguments, limits.cpu_s, limits.memory_mb), request)
        request.flush()
        request.seek(0)
        ending = _runner().call(request, reply, limits.wall_s, stop)
        if on_usage is not None and ending.usage is not None:
            on_usage(ending.usage)
        reply.seek(0)
        return _values(reply, ending.why, kind, limits)


def absolute(path: str | Path | bytes) -> str | bytes:
    """A path that means the same in a process that was started in another folder; bytes as they are."""
    if isinstance(path, bytes):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except OSError:  # this folder was deleted
        return str(path)


def warm_up() -> None:
    """Start what later calls are copied from, so that the first one is as fast. Raises BadInput for bad settings."""
    in_worker(_nothing)


def _nothing() -> None:
    """The shortest call there is."""


def _values(reply: BinaryIO, why: Why, kind: Kind, limits: Limits) -> list[Any]:
    values: list[Any] = []
    if why in ("done", "died"):
        try:
            while True:
                told, *rest = _Reader(reply).load()
                if told == "end":
                    return values
                if told == "refused":
                    raise BadInput(str(rest[0]))
                if told == "failed":
                    raise RuntimeError(f"Decoding failed in its process:\n{rest[0]}")
                if told == "memory":
                    raise BadInput(
                        f"Reading the {kind} takes more than {limits.memory_mb:g} MB; please use a smaller one."
                    )
                values.append(rest[0])
        except (EOFError, pickle.UnpicklingError) as error:
            raise BadInput(
                f"The {kind} file cannot be read: its decoder gave up. It may be damaged, or need more than "
                f"{limits.memory_mb:g} MB; please save it again with another program."
            ) from error
    if why == "cpu":
        spent = f"takes more than {limits.cpu_s:g} seconds of computing"
    else:
        spent = f"took longer than {limits.wall_s:g} seconds and was ended"
    advice = "use a shorter or smaller one" if kind == "video" else "use a smaller one, or save it with another program"
    raise BadInput(f"Reading the {kind} {spent}; please {advice}.")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _RESULTS:
            raise pickle.UnpicklingError(f"{module}.{name} is no result of decoding")
        return super().find_class(module, name)


class Turns:
    """A few at once, the others in the order in which they came."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._line: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, stop: threading.Event | None = None) -> Iterator[None]:
        """Wait for a turn and hold it. Raises Stopped when ``stop`` is set, BadInput when it takes too long."""
        turn, end = threading.Event(), time.monotonic() + MAX_WAITING_S
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set()
            else:
                self._line.append(turn)
        try:
            while not turn.wait(_POLL_S):
                _check_stop(stop)
                if time.monotonic() > end:
                    raise BadInput("Too many files are being read at the moment; please try again in a minute.")
            _check_stop(stop)
            yield
        finally:
            with self._lock:
                if not turn.is_set():
                    self._line.remove(turn)
                elif self._line:
                    self._line.popleft().set()
                else:
                    self._free += 1


def _check_stop(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


@contextmanager
def _temporary_file() -> Iterator[BinaryIO]:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("tokviz"), "w+b") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            yield file  # type: ignore[misc]


class _Copies:
    """Calls as copies of a process that has the decoders loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._original: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def call(self, request: BinaryIO, reply: BinaryIO, wall_s: float, stop: threading.Event | None) -> _Ending:
        """Wait for a call's end, or end it."""
        for _ in range(2):
            ending = self._once(request, reply, wall_s, stop)
            if ending is not None:
                return ending
            request.seek(0)
            reply.seek(0)
            reply.truncate()
        return _Ending("died")

    def _once(self, request: BinaryIO, reply: BinaryIO, wall_s: float, stop: threading.Event | None) -> _Ending | None:
        """None when what the process was copied from was killed, and it with that one."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over([request.fileno(), reply.fileno(), theirs.fileno()])
            # From here on closing ``ours`` ends the process, however this function is left.
            end, told = time.monotonic() + wall_s, b""
            while len(told) < ENDING.size:
                _check_stop(stop)
                if time.monotonic() > end:
                    return _Ending("wall")
                if _readable(ours, _POLL_S):
                    more = ours.recv(ENDING.size - len(told))
                    if not more:
                        return None
                    told += more
        status, cpu_s, peak_mb = ENDING.unpack(told)
        return _Ending(_why(os.waitstatus_to_exitcode(status)), Usage(cpu_s, peak_mb))

    def _hand_over(self, files: list[int]) -> None:
        with self._lock:
            for attempt in (1, 2):
                control = self._control()
                try:
                    socket.send_fds(control, [b"c"], files)
                    return
                except OSError:
                    self._end()
                    if attempt == 2:
                        raise

    def _control(self) -> socket.socket:
        """What calls are handed over by; starts the process that is copied where it is not there, or not any more."""
        if self._original is not None and self._original[0].poll() is None:
            return self._original[1]
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*_INTERPRETER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._original = process, ours
        return ours

    def _end(self) -> None:
        original, self._original = self._original, None
        if original is not None:
            process, control = original
            control.close()  # it kills its copies and leaves
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """End all calls."""
        with self._lock:
            self._end()


class _Fresh:
    """Calls as processes with a fresh interpreter each, for systems other than Linux."""

    def call(self, request: BinaryIO, reply: BinaryIO, wall_s: float, stop: threading.Event | None) -> _Ending:
        """Wait for a call's end, or end it."""
        end = time.monotonic() + wall_s
        with subprocess.Popen([*_INTERPRETER], stdin=request, stdout=reply, env=_environment()) as process:
            try:
                while True:
                    try:
                        return _Ending(_why(process.wait(_POLL_S)))
                    except subprocess.TimeoutExpired:
                        _check_stop(stop)
                    if time.monotonic() > end:
                        return _Ending("wall")
            finally:
                process.kill()

    def close(self) -> None:
        """Nothing is kept between calls."""


_INTERPRETER = (sys.executable, "-m", "tokviz.media.process")


def _environment() -> dict[str, str]:
    """This process's, so that the same packages are found; threads of numpy would be in the way of copying."""
    paths = [str(IMPORT_FOLDER), *(path for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _why(exit_code: int) -> Why:
    if exit_code == 0:
        return "done"
    return "cpu" if exit_code == -getattr(signal, "SIGXCPU", 0) else "died"


def _readable(end: socket.socket, seconds: float) -> bool:
    """Whether there is something to read within the time. Not ``select``, which takes no file numbers above 1,023."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


_TURNS = Turns(AT_ONCE)
_running: _Copies | _Fresh | None = None
_lock = threading.Lock()


def _runner() -> _Copies | _Fresh:
    global _running
    with _lock:
        if _running is None:
            _running = _Copies() if sys.platform == "linux" else _Fresh()
            atexit.register(shut_down)
        return _running


def shut_down() -> None:
    """End all calls and what they are copied from; a later call starts it anew."""
    global _running
    with _lock:
        running, _running = _running, None
    if running is not None:
        running.close()


def _forget() -> None:
    """In a copy of this process: what the original started is not ours."""
    global _running, _lock, _TURNS
    _running, _lock, _TURNS = None, threading.Lock(), Turns(AT_ONCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
