"""What ``select_only`` found: the visual tokens that methods keep of one image, without an answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .chance import Overlap, overlap
from .errors import BadInput
from .names import MethodFamily
from .records import Many, ModelRecord, Record, Request, StageRecord, TokenGrid, key_of
from .short import short


class Selected(Record):
    """What one method keeps.

    Attributes:
        variant: What sets it apart from others of the same method, as in ``Run``.
        stages: Every stage with its scores, maps and groups, as in ``Run``.
        tokens_per_layer: Number of visual tokens that each LLM layer gets to process.
        error: A sentence if the method could not run, else None.
    """

    method: str
    label: str
    family: MethodFamily
    params: dict[str, Any]
    variant: str = ""
    stages: Many[StageRecord] = Field(default_factory=list)
    tokens_per_layer: Many[int] = Field(default_factory=list)
    error: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The method, and how many tokens it keeps or why it could not run."""
        found = ("kept", short(self.kept)) if self.error is None else ("error", short(self.error))
        return [("method", short(self.key)), found, ("stages", short(self.stages))]

    @property
    def key(self) -> str:
        """Its name in ``Selections``: the method id, plus the variant if there is one."""
        return key_of(self.method, self.variant)

    @property
    def kept(self) -> list[int] | None:
        """Original indices of the visual tokens left after the last stage; None if nothing was pruned."""
        return self.stages[-1].kept if self.stages else None


class Selections(Record):
    """The tokens that methods keep of one image or video for one question, in the order in which they were asked for.

    Attributes:
        request: What was asked; its methods have all their parameters.
    """

    request: Request
    model: ModelRecord
    grid: TokenGrid
    methods: Many[Selected]
    notes: Many[str] = Field(default_factory=list)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The question, and how many tokens each of the first methods keeps."""
        shown = {short(one.key): None if one.kept is None else len(one.kept) for one in self.methods[:4]}
        return [("model", short(self.model.name)), ("question", short(self.request.question)), ("kept", shown)]

    def __getitem__(self, name: str | int) -> Selected:
        """Return one by its key, by its method id if that is unique, or by its index.

        Raises:
            KeyError: If there is none; the message lists the keys that exist.
        """
        if isinstance(name, int):
            return self.methods[name]
        found = [one for one in self.methods if one.key == name] or [one for one in self.methods if one.method == name]
        if len(found) == 1:
            return found[0]
        raise KeyError(f"no method {name!r}; there are {[one.key for one in found or self.methods]}")

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self.methods)

    def __bool__(self) -> bool:
        """Return True, also without a method."""
        return True

    def overlap(self, a: str | int, b: str | int) -> Overlap:
        """Compare which tokens two methods keep: both, only ``a``, only ``b``, neither, and their IoU.

        Raises:
            KeyError: If there is no such method.
            BadInput: If one of them could not run.
        """
        one, other = self[a], self[b]
        return overlap(one.key, other.key, self._left_by(one), self._left_by(other), self.grid.n_tokens)

    def _left_by(self, one: Selected) -> list[int]:
        if one.error is not None:
            raise BadInput(f"{one.label} could not run, so it keeps nothing that could be compared: {one.error}")
        return list(range(self.grid.n_tokens)) if one.kept is None else one.kept
