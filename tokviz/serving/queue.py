"""Whose turn it is on the one model: a bounded line in which callers take turns, however many runs each asks for.

The page has other queues for what is cheap; this one is for runs alone.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from ..errors import BadInput

PLACES = 24
"""Runs that may wait, with the one that has its turn."""
PLACES_OF_ONE = 12
"""Of these, places that one caller may hold."""
PLACES_OF_ADDRESS = 18
"""Places that the callers of one address (its pages and its programs) may hold together."""
_REMEMBERED = 1000


@dataclass(eq=False)
class Ticket:
    """A place in the line. Give it back with ``leave`` (twice does no harm), whatever happened."""

    caller: str
    address: str
    number: int
    _queue: RunQueue = field(repr=False)

    @property
    def before(self) -> int:
        """Runs that come first, the one that has its turn included; 0: it is this one's turn."""
        return self._queue.before(self)

    def leave(self) -> None:
        """The run is over, or nobody waits for it."""
        self._queue.leave(self)


class RunQueue:
    """The line. The caller that was served longest ago is next; one caller's runs stay in their order. Thread-safe."""

    def __init__(
        self, places: int = PLACES, places_of_one: int = PLACES_OF_ONE, places_of_address: int = PLACES_OF_ADDRESS
    ) -> None:
        self.places = places
        self.places_of_one = places_of_one
        self.places_of_address = places_of_address
        self._waiting: list[Ticket] = []
        self._turn: Ticket | None = None
        self._numbers = itertools.count(1)
        self._served: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, caller: str, address: str | None = None) -> Ticket:
        """A place at the end of the caller's line; ``address``: where the caller is, by default the caller itself.

        Raises BadInput when there is none.
        """
        address = caller if address is None else address
        with self._lock:
            here = [*self._waiting, *filter(None, [self._turn])]
            mine = sum(ticket.caller == caller for ticket in here)
            if mine >= self.places_of_one or sum(t.address == address for t in here) >= self.places_of_address:
                raise BadInput(f"{mine} runs of yours are waiting already; please ask again when one is answered.")
            if len(here) >= self.places:
                raise BadInput(
                    f"The server is busy: {self.places} runs are waiting. Please try again in a minute; the examples "
                    "stay open meanwhile."
                )
            ticket = Ticket(caller, address, next(self._numbers), self)
            self._waiting.append(ticket)
            self._advance()
            return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        with self._lock:
            if ticket is self._turn:
                self._turn = None
                self._advance()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)

    def before(self, ticket: Ticket) -> int:
        """See ``Ticket.before``."""
        with self._lock:
            if ticket is self._turn or ticket not in self._waiting:
                return 0
            return self._order().index(ticket) + 1

    def _advance(self) -> None:
        if self._turn is None and self._waiting:
            self._turn = self._order()[0]
            self._waiting.remove(self._turn)
            self._served.pop(self._turn.caller, None)
            self._served[self._turn.caller] = self._turn.number
            while len(self._served) > _REMEMBERED:
                self._served.popitem(last=False)

    def _order(self) -> list[Ticket]:
        """Everybody's first run before anybody's second; within a round who was served longest ago."""
        seen: Counter[str] = Counter()
        rounds = []
        places = {caller: place for place, caller in enumerate(self._served, 1)}
        holds_turn = None if self._turn is None else self._turn.caller
        for ticket in sorted(self._waiting, key=lambda ticket: ticket.number):
            behind = seen[ticket.caller] + (ticket.caller == holds_turn)
            rounds.append((behind, places.get(ticket.caller, 0), ticket.number, ticket))
            seen[ticket.caller] += 1
        return [entry[-1] for entry in sorted(rounds, key=lambda entry: entry[:3])]
