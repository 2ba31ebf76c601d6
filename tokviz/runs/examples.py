"""The examples of the page: stored sessions with a title and the reason why they are hard. No torch, no model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..comparison import Comparison
from ..errors import BadInput
from ..files import resource

EXAMPLES = resource("examples")

_DIGEST = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')


class Case(BaseModel):
    """``case.json``: what is known of a case. Further keys are kept out of the page but allowed.

    answers: of all methods that were asked, by id. opening: it is the one that the page opens on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    title: str
    question: str
    answer: str
    why: str
    source: str = ""
    licence: str = ""
    answers: dict[str, str] = {}
    opening: bool = False


@dataclass(frozen=True)
class Example:
    """One stored case.

    Args:
        id: The name of its folder.
        case: Title, question, right answer, and why it is hard.
        comparison: The stored session.
        clip: The video file, where the question is about one.
        image: The file that the question is about, as ``compare`` takes it; None where there is only the session.
    """

    id: str
    case: Case
    comparison: Comparison
    clip: Path | None = None
    image: Path | None = None

    @property
    def title(self) -> str:
        """The headline."""
        return self.case.title

    @property
    def why(self) -> str:
        """Why the case is hard, in a sentence or two."""
        return self.case.why


@cache
def stored_digests(folder: Path = EXAMPLES) -> frozenset[str]:
    """SHA-256 of every image, frame and clip of the examples; read once, and without understanding the sessions."""
    sessions = (path.read_bytes() for path in folder.glob("*/session.json")) if folder.is_dir() else ()
    return frozenset(found.decode() for session in sessions for found in _DIGEST.findall(session))


@cache
def example_of_digest(folder: Path = EXAMPLES) -> dict[str, str]:
    """The id of the example that each image or clip belongs to, by its SHA-256; as quick as ``stored_digests``."""
    sessions = sorted(folder.glob("*/session.json")) if folder.is_dir() else []
    return {found.decode(): path.parent.name for path in sessions for found in _DIGEST.findall(path.read_bytes())}


def load_examples(folder: Path = EXAMPLES) -> list[Example]:
    """Load the stored cases that come with tokviz, or those of a folder: the opening one first, then by id.

    A case is a folder with ``case.json`` and ``session.json``, and the image or clip that the question is about. There
    may be none.

    Raises BadInput that names the file when one of them is damaged: a broken example is a bug, not a missing one.
    """
    if not folder.is_dir():
        return []
    cases = sorted(path.parent for path in folder.glob("*/case.json") if (path.parent / "session.json").is_file())
    return sorted(map(_load, cases), key=lambda example: not example.case.opening)


def _load(folder: Path) -> Example:
    try:
        case = Case.model_validate_json((folder / "case.json").read_bytes())
        comparison = Comparison.from_json((folder / "session.json").read_bytes())
    except (ValidationError, BadInput) as error:
        raise BadInput(f"The example {folder.name!r} cannot be read: {error}") from error
    clips = sorted(folder.glob("clip.*")) if comparison.video is not None else []
    files = clips or sorted(folder.glob("image.*"))
    return Example(folder.name, case, comparison, clips[0] if clips else None, files[0] if files else None)
