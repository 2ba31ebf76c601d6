"""Questions about a whole clip that have exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scenes.questions import QuestionMaker
from scenes.types import Box, ClipQuestion, MovingObject, MovingSign, SceneObject, SceneSign

PICTURE_FAMILIES: tuple[str, ...] = ("existence", "attribute", "counting", "reading")
"""Asked in the words of pictures; in a clip they mean "at any time", and what they ask may show for a moment only."""
CLIP_FAMILIES: tuple[str, ...] = (*PICTURE_FAMILIES, "motion", "order")
CLIP_WORDS: tuple[str, ...] = ("move", "before")
"""What clips say beyond the vocabulary of pictures."""
DIRECTIONS: tuple[str, ...] = ("left", "right", "top", "bottom")
_CLEAR = 0.06
"""A thing moves left or right (or up or down) by at least this share of the square before a question asks about it."""


class ClipQuestionMaker:
    """Draws random questions about one clip; all randomness comes from `rng`.

    Questions name a pair of UNSEEN_PAIRS only where `unseen` allows it.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        objects: Sequence[MovingObject],
        signs: Sequence[MovingSign],
        square: Box,
        *,
        unseen: bool = False,
    ) -> None:
        self.rng = rng
        self.objects = objects
        self.signs = signs
        self.side = square[2] - square[0]
        # What is asked of pictures does not depend on places. Each thing stands at a place that is its number, so that
        # the evidence of a question says which things it is about.
        still = [
            SceneObject(o.shape, o.color, o.size, (0.0, 0.0), o.radius, o.angle, _numbered(i))
            for i, o in enumerate(objects)
        ]
        plates = [SceneSign(s.text, s.kind, _numbered(j), s.font) for j, s in enumerate(signs, len(objects))]
        self.pictures = QuestionMaker(rng, still, plates, square, unseen=unseen)

    def make(self, family: str) -> ClipQuestion | None:
        """One question of the family, or None when this clip allows none."""
        if family in PICTURE_FAMILIES:
            return self._as_of_a_picture(family)
        makers: dict[str, Callable[[], ClipQuestion | None]] = {"motion": self.motion, "order": self.order}
        if family not in makers:
            raise ValueError(f"expected one of {CLIP_FAMILIES}, but got {family!r}")
        return makers[family]()

    def _as_of_a_picture(self, family: str) -> ClipQuestion | None:
        """ "is there a red star?", "what word is on the sign?": about all that is shown at any time."""
        asked = self.pictures.make(family)
        if asked is None:
            return None
        things = [round(box[0]) for box in asked.evidence]
        return ClipQuestion(asked.text, asked.answer, family, self._evidence(things))

    def motion(self) -> ClipQuestion | None:
        """ "does the red star move?" or "does the red star move to the left?": yes or no by a fair coin."""
        named = self._unique()
        moving = [i for i in named if self.objects[i].path != "still"]
        resting = [i for i in named if self.objects[i].path == "still"]
        wanted = bool(self.rng.random() < 0.5)
        # Only where both kinds exist, so that the coin stays fair.
        if moving and resting and self.rng.random() < 0.4:
            thing = self._pick(moving if wanted else resting)
            return self._yes_or_no(f"does the {self.objects[thing].name} move?", wanted, "motion", [thing])
        ways = [(i, axis) for i in named for axis in (0, 1) if abs(self._way(i)[axis]) >= _CLEAR]
        if not ways:
            return None
        thing, axis = ways[int(self.rng.integers(len(ways)))]
        forward = self._way(thing)[axis] > 0
        word = DIRECTIONS[2 * axis + int(forward is wanted)]
        text = f"does the {self.objects[thing].name} move to the {word}?"
        return self._yes_or_no(text, wanted, "motion", [thing])

    def order(self) -> ClipQuestion | None:
        """ "is the red star there before the blue circle?": which one shows first; yes or no by a fair coin."""
        named = self._unique()
        starts = {i: self.objects[i].shown[0] for i in named}
        pairs = [(a, b) for a in named for b in named if starts[a] < starts[b]]
        if not pairs:
            return None
        early, late = pairs[int(self.rng.integers(len(pairs)))]
        wanted = bool(self.rng.random() < 0.5)
        names = [self.objects[i].name for i in ((early, late) if wanted else (late, early))]
        return self._yes_or_no(f"is the {names[0]} there before the {names[1]}?", wanted, "order", [early, late])

    def _way(self, thing: int) -> tuple[float, float]:
        """How far a thing gets on a straight path, in shares of the square, (x, y); nothing for all other paths."""
        item = self.objects[thing]
        if item.path != "linear":
            return 0.0, 0.0
        centers = [center for center in item.centers if center is not None]
        (x0, y0), (x1, y1) = centers[0], centers[-1]
        return (x1 - x0) / self.side, (y1 - y0) / self.side

    def _unique(self) -> list[int]:
        """Numbers of the objects that colour and shape name without doubt."""
        names = [item.name for item in self.objects]
        return [i for i, name in enumerate(names) if names.count(name) == 1]

    def _pick(self, options: Sequence[int]) -> int:
        return options[int(self.rng.integers(len(options)))]

    def _yes_or_no(self, text: str, answer: bool, family: str, things: Sequence[int]) -> ClipQuestion:
        return ClipQuestion(text, "yes" if answer else "no", family, self._evidence(things))

    def _evidence(self, things: Sequence[int]) -> tuple[tuple[Box, ...], ...]:
        """Per frame, the boxes of those of the things that it shows."""
        every: list[MovingObject | MovingSign] = [*self.objects, *self.signs]
        rows = [every[thing].boxes for thing in things]
        frames = len(self.objects[0].boxes)
        return tuple(tuple(box for row in rows if (box := row[t]) is not None) for t in range(frames))


def _numbered(thing: int) -> Box:
    return (float(thing), 0.0, float(thing + 1), 1.0)
