"""Seeds and examples as a loop inside one test: an item of pytest costs more than most of what it would check."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def each(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like ``parametrize``, but all values in one item; a failure says which value it was.

    Fixtures are made once for all values: for tests that leave nothing behind.
    """
    values = list(values)

    def looped(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**others: Any) -> None:
            for value in values:
                try:
                    test(**{name: value}, **others)
                except Exception as error:
                    error.add_note(f"with {name} = {value!r}")
                    raise

        asked = inspect.signature(test)
        left = [parameter for parameter in asked.parameters.values() if parameter.name != name]
        run.__signature__ = asked.replace(parameters=left)  # what pytest is to give
        return run

    return looped
