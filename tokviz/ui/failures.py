"""What the server's log says about an unexpected error: where it happened, but nothing that a visitor wrote."""

from __future__ import annotations

import logging
import os
import sys
import traceback

log = logging.getLogger("tokviz")


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
