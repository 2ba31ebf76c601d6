"""The other side of ``worker.py``: the process that decodes one hostile file under limits, and the one it is
copied from.

On Linux ``python -m tokviz.media.process NUMBER`` imports the decoders once and then copies itself for every call;
the copy does the work and ends. It has one thread and no model, so that copying it is safe, which copying the server is
not. Without a number one call is answered, from the standard input to the standard output.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import BadInput

ENDING = struct.Struct("<idd")
"""What is told of a process that ended: its status as of ``os.waitpid``, CPU seconds, megabytes above the start."""
_PR_SET_PDEATHSIG = 1
"""Of Linux' prctl: the signal that a process gets when its parent dies."""
_LIBC: Any = None
_MAX_REPLY_BYTES = 1_000_000_000


def answer(request: BinaryIO, reply: BinaryIO) -> None:
    """Do one call, ``(function, arguments, cpu_s, memory_mb)``, and write what comes of it.

    ``("value", v)`` for every value (a generator gives several, so that not all of them are in memory at once), then
    ``("end",)``; or ``("refused", sentence)``, ``("memory",)`` or ``("failed", traceback)``.
    """
    function, arguments, cpu_s, memory_mb = pickle.load(request)
    _limit(cpu_s, memory_mb)
    try:
        value = function(*arguments)
        if isinstance(value, Iterator):
            for part in value:
                _write(reply, "value", part)
                del part
        else:
            _write(reply, "value", value)
        _write(reply, "end")
    except BadInput as error:
        _write(reply, "refused", str(error))
    except MemoryError:
        _write(reply, "memory")
    except Exception:
        _write(reply, "failed", traceback.format_exc())


def _write(reply: BinaryIO, *item: Any) -> None:
    pickle.dump(item, reply, protocol=5)
    reply.flush()


def _limit(cpu_s: float, memory_mb: float) -> None:
    """Limits of this process, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    # The system counts whole seconds: rather one less than asked for than one more.
    seconds = math.floor(_cpu_s(resource.getrusage(resource.RUSAGE_SELF)) + cpu_s)
    _set(resource, resource.RLIMIT_CPU, seconds, seconds + 1)
    _set(resource, resource.RLIMIT_CORE, 0, 0)
    _set(resource, resource.RLIMIT_FSIZE, _MAX_REPLY_BYTES, _MAX_REPLY_BYTES)
    held = _held_bytes()
    if held is not None:
        # Memory that can be written to. RLIMIT_AS would also count what allocators only set aside.
        limit = int(held + memory_mb * 1e6)
        _set(resource, resource.RLIMIT_DATA, limit, limit)


def _set(resource: Any, which: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def _held_bytes() -> int | None:
    """What counts for RLIMIT_DATA now; None where the system does not tell (it does not count it either then)."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None


def _cpu_s(usage: Any) -> float:
    return float(usage.ru_utime + usage.ru_stime)


def preload() -> None:
    """Import and set up the decoders, so that a copy of this process need not."""
    global _LIBC
    import ctypes

    from PIL import Image

    from . import video  # noqa: F401

    Image.init()
    _LIBC = ctypes.CDLL(None)


def serve(control: socket.socket) -> None:
    """Copy this process for every call that comes in, until the other end of ``control`` is closed.

    A call is one byte and three files: its request, its reply, and a socket that tells its ending. When the caller
    closes that one, the call is not wanted any more and its process is killed: only its parent can do that without ever
    meeting another process that was given the same number.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    calls: dict[int, socket.socket] = {}
    held_mb: dict[int, float] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        for number, _ in poll.poll():
            if number == control.fileno():
                byte, files, _, _ = socket.recv_fds(control, 1, 3)
                if not byte:
                    for pid in calls:
                        os.kill(pid, signal.SIGKILL)
                    return
                request, reply, told = files
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (control, *calls.values()):
                        other.close()
                    _answer_and_leave(request, reply)
                os.close(request)
                os.close(reply)
                calls[pid], held_mb[pid] = socket.socket(fileno=told), _resident_mb(pid)
                poll.register(calls[pid], 0)
            elif number == woken:
                os.read(woken, 4096)
                for pid, status, usage in _ended():
                    call = calls.pop(pid)
                    poll.unregister(call)
                    with call:
                        peak_mb = max(0.0, usage.ru_maxrss * 1024 / 1e6 - held_mb.pop(pid))
                        _tell(call, ENDING.pack(status, _cpu_s(usage), peak_mb))
            else:
                for pid, call in calls.items():
                    if call.fileno() == number:
                        os.kill(pid, signal.SIGKILL)
                        poll.modify(call, 0)
                        break
                # The socket stays hung up until its process has ended, which is a matter of milliseconds.
                select.select([woken], [], [], 0.01)


def _resident_mb(pid: int) -> float:
    """Memory that a process holds now."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def _answer_and_leave(request: int, reply: int) -> None:
    """In the copy: never returns."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    status = 1
    try:
        with os.fdopen(request, "rb") as asked, os.fdopen(reply, "wb") as answered:
            answer(asked, answered)
        status = 0
    finally:
        os._exit(status)


def _ended() -> Iterator[tuple[int, int, Any]]:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage


def _tell(call: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody waits for it any more
        call.sendall(words)


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2:
        answer(sys.stdin.buffer, sys.stdout.buffer)
        return
    # Ctrl+C in a terminal reaches every process; the server decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        preload()
        gc.collect()
        gc.freeze()
        serve(control)


if __name__ == "__main__":
    main()
