"""Find the files that come with tokviz: the embedded models, the page's assets, the examples."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
IMPORT_FOLDER = _PACKAGE.parent
"""The folder from which ``import tokviz`` works: a checkout or site-packages."""
_PACKED = _PACKAGE / "_data"
"""Where ``pyproject.toml`` puts the top-level folders ``assets``, ``examples`` and ``docs/methods`` in a wheel."""


def resource(name: str) -> Path:
    """Locate a file or folder that comes with tokviz, in a checkout and when installed.

    name: as in a checkout, with forward slashes: ``"assets/page.css"``, ``"examples"``. Existence is not checked.
    """
    return (_PACKED if _PACKED.is_dir() else IMPORT_FOLDER) / name
