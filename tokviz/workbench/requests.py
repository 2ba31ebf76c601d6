"""What a page may ask of the workbench, checked field by field. Values come from a browser and are untrusted."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from .cards import MOST_LANES
from .filters import Filter, Sort
from .tabled import Kind
from .tags import Edit


class RunAsked(BaseModel):
    """A request about one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(max_length=300)


class View(RunAsked):
    """What the page looks at: which cases in which order, under which methods at which budget."""

    filter: Filter = Filter()
    sort: Sort = Sort()
    budget: int
    methods: tuple[str, ...] = Field(min_length=1, max_length=MOST_LANES)
    seed: int | None = None
    offset: int = Field(0, ge=0, le=10_000_000)

    def completed(self) -> Self:
        """The view with an order by losses that says whose, and at which budget."""
        if self.sort.column != "losses":
            return self
        return self.model_copy(
            update={"sort": self.sort.model_copy(update={"methods": self.methods, "budget": self.budget})}
        )


class CaseAsked(View):
    """One case, seen as a view has it."""

    ordinal: int = Field(ge=0)


class PairAsked(View):
    """Two methods side by side, A and B."""

    a: str = Field(max_length=300)
    b: str = Field(max_length=300)


class TableAsked(View):
    """A table of results; by and reference as of ``tabled.result_table``."""

    table: Kind
    by: str = Field("family", max_length=100)
    reference: str | None = Field(None, max_length=300)


class EditAsked(RunAsked):
    """An edit of the cases that it names."""

    edit: Edit
    who: str = Field("", max_length=80)


class EditAllAsked(View):
    """An edit of every case that the filter finds. edit: without ``case_ids``."""

    edit: dict[str, Any]
    who: str = Field("", max_length=80)


class UndoAsked(RunAsked):
    """Take one change back."""

    change: int
    who: str = Field("", max_length=80)


class SliceAsked(RunAsked):
    """A slice to be saved or deleted. seen: number of its last change that the page had seen."""

    name: str = Field(max_length=200)
    filter: Filter = Filter()
    seen: int = 0
    who: str = Field("", max_length=80)
