"""Say which extra to install where an optional package is missing."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import BadInput


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported; it is not imported to find out."""
    return find_spec(package) is not None


def need(package: str, extra: str, purpose: str) -> None:
    """Raise BadInput, with the command that helps, unless a package of an extra is installed.

    purpose: the subject of the sentence, such as "Reading a video".
    """
    if not is_installed(package):
        raise BadInput(f"{purpose} needs the package {package}, which is not installed: pip install 'tokviz[{extra}]'.")
