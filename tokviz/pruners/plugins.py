"""Methods of other packages (entry points of the group ``tokviz.pruners``) and of this process (``register``)."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points

from ..errors import BadInput
from ..short import kind_of, passed
from .pruner import Pruner

GROUP = "tokviz.pruners"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,59}")
_lock = threading.RLock()
_found: tuple[Pruner, ...] | None = None
_registered: dict[str, Pruner] = {}


def packaged(built_in: Sequence[Pruner]) -> tuple[Pruner, ...]:
    """The methods that installed packages bring along, looked for once.

    An entry point names a ``Pruner`` or several in a list. One that cannot be loaded, or takes an id that is taken, is
    left out with a warning that names it.
    """
    global _found
    with _lock:
        if _found is None:
            _found = ()  # for a package that asks for all methods while it is imported
            taken = {pruner.id for pruner in built_in}
            for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
                for pruner in _loaded(entry):
                    if pruner.id in taken:
                        _leave_out(entry, f"there is another method with the id {pruner.id!r}")
                        continue
                    taken.add(pruner.id)
                    _found = (*_found, pruner)
        return _found


def _loaded(entry: EntryPoint) -> list[Pruner]:
    try:
        made = entry.load()
        pruners = [made] if isinstance(made, Pruner) else list(made)
        for pruner in pruners:
            check_pruner(pruner)
    except Exception as error:  # whatever somebody's module does while it is imported
        _leave_out(entry, f"{type(error).__name__}: {error}")
        return []
    return pruners


def _leave_out(entry: EntryPoint, why: str) -> None:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    warnings.warn(f"The pruner {entry.name!r} of {package} is left out: {why}", RuntimeWarning, stacklevel=4)


def registered() -> tuple[Pruner, ...]:
    """The methods of this process, in the order in which they were registered."""
    return tuple(_registered.values())


def add(pruner: Pruner, taken: Iterable[Pruner]) -> Pruner:
    """See ``tokviz.register``; ``taken`` are the methods that it may not replace."""
    check_pruner(pruner)
    if any(other.id == pruner.id for other in taken):
        raise BadInput(f"There is already a method with the id {pruner.id!r}; give yours another one.")
    _registered[pruner.id] = pruner
    return pruner


def check_pruner(pruner: object) -> None:
    """Raises BadInput for anything but a pruner whose id can be written on a command line."""
    if not isinstance(pruner, Pruner):
        raise BadInput(f"A pruner is what tokviz.pruner or tokviz.Pruner makes, not {kind_of(pruner)}.")
    if not isinstance(pruner.id, str) or not _ID.fullmatch(pruner.id):
        raise BadInput(f"The id of a pruner is letters, digits, hyphens and underscores, not {passed(pruner.id)}.")
