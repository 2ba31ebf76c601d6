"""tokviz: see which visual tokens each pruning method keeps, why, and what that does to the answer.

Example:
    >>> import tokviz
    >>> vlm = tokviz.load()
    >>> comparison = tokviz.compare(vlm, "scene.png", "what color is the star?", methods=["apet", "random"], budget=64)
    >>> print(comparison.run("apet").answer)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .models.loading import VisionLanguageModel, load
    from .pruners import methods
    from .records import Comparison
    from .runs.compare import compare, compare_events

# Resolved on first use, so that `import tokviz` and the first screen of the page cost no torch.
_WHERE = {
    "compare": "comparing",
    "compare_events": "comparing",
    "load": "models.loading",
    "VisionLanguageModel": "models.loading",
    "methods": "pruners",
    "Comparison": "records",
}
__all__ = ["Comparison", "VisionLanguageModel", "compare", "compare_events", "load", "methods"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tokviz' has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
