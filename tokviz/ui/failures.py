"""What visitors and the log are told of errors: sentences to the ones, to the other nothing that a visitor wrote."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..errors import BadInput

log = logging.getLogger("tokviz")
UNEXPECTED = "Something went wrong in tokviz; the details are in the server's log. You can go on using the page."


def refusal(error: BadInput) -> gr.Error:
    """The sentence as an error that every client is shown."""
    return gr.Error(str(error), print_exception=False, title="Bad request")


def log_failure(what: str) -> None:
    """Log the error that is being handled: its types and the lines of code.

    Messages may quote questions, answers and names of files, and hold line breaks that forge a log; they are left out
    unless ``TOKVIZ_DEBUG`` is set.
    """
    error = sys.exc_info()[1]
    if os.environ.get("TOKVIZ_DEBUG"):
        log.exception(what)
        return
    parts = []
    while error is not None:
        where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
        parts.append(f"{type(error).__module__}.{type(error).__qualname__}\n{where}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    log.error("%s; set TOKVIZ_DEBUG=1 to log the messages as well\n%s", what, "\ncaused by ".join(parts))


def with_sentences(act: Callable[..., Any]) -> Callable[..., Any]:
    """An event of the page whose errors reach the visitor as sentences, the traceback only the log."""

    @functools.wraps(act)
    def guarded(*values: Any) -> Any:
        with _sentences():
            return act(*values)

    @functools.wraps(act)
    async def guarded_async(*values: Any) -> Any:
        with _sentences():
            return await act(*values)

    return guarded_async if inspect.iscoroutinefunction(act) else guarded


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except BadInput as error:
        raise refusal(error) from error
    except Exception as error:
        log_failure("an event of the page failed")
        raise gr.Error(UNEXPECTED, print_exception=False) from error
