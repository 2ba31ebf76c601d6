"""Builds the Signals of one stage and row from what the engine holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Unsupported
from ..types import Need, Selection, Signals, Stage
from .geometry import Geometry
from .needs import VISION_KINDS
from .rows import Rows
from .vision import VisionSignals

BlockFind = Callable[[Stage, int, Tensor], "dict[str, Tensor]"]
"""``(stage, row, columns (n,)) -> Signals fields`` that concern the LLM's blocks."""

_VISION_FIELDS = {"encoder_keys": "keys"}
_NO_QUESTION = (
    "{title!r} listens to the user's own words, and nobody said which tokens those are: pass question_mask (B, L) to "
    "encode() or pruning()."
)
_EMPTY_QUESTION = (
    "{title!r} listens to the user's own words, but no token of them stands behind the last picture; ask there, and in "
    "words that the model's tokenizer does not leave out."
)


@dataclass
class Looker:
    """What the signals of a stage are made of.

    ``encoder`` are the rows' features before the projector, changing with encoder stages. ``entered_llm`` is what
    entered block 0, None before that. ``block`` answers for the LLM's blocks, ``norm`` is the LLM's final norm.
    """

    vision: Sequence[VisionSignals] | None
    encoder: list[Tensor] | None = None
    geometry: Sequence[Geometry | None] | None = None
    entered_llm: tuple[Tensor, Rows] | None = None
    block: BlockFind | None = None
    norm: Any = None

    def signals(self, stage: Stage, rows: Rows, hidden: Tensor, row: int) -> Signals:
        """What the stage asked for, of the tokens alive in ``row``."""
        columns, alive = rows.columns(row), rows.alive[row]
        if stage.site == "encoder":
            assert self.encoder is not None
            features = self.encoder[row]
        else:
            features = hidden[row, columns.to(hidden.device)]
        found: dict[str, Any] = {"sizes": rows.sizes[row]}
        if self.vision is not None and self.vision[row].view is not None:
            found["view"] = _rows_of(self.vision[row].view, alive)
        patches = self.patches(row, alive)
        if patches is not None:
            found["candidates"] = patches
        if self.geometry is not None and (geometry := self.geometry[row]) is not None:
            found.update(geometry.of(alive))
        for need in stage.needs:
            found.update(self._find(need, stage, rows, hidden, row, columns))
        if self.block is not None:
            found.update(self.block(stage, row, columns))
        return Signals(features=features, **found)

    def patches(self, row: int, alive: Tensor) -> Tensor | None:
        """Which of the tokens ``alive (n,)`` the vision tower saw, None when all or nobody knows. Shape: ``(n,)``."""
        patch = None if self.vision is None else self.vision[row].patch
        return None if patch is None else _rows_of(patch, alive)

    def merge_encoder(
        self, row: int, selection: Selection, order: Tensor, alive: Tensor, project: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Follow an encoder stage: merged and added features as embeddings, None where there are none.

        What the tower never saw (a newline) keeps its embedding, whatever a method made of its features.
        Shape: order ``(K,)``, the kept tokens' positions in ``kept`` in the order in which the LLM gets them; alive
        ``(N,)`` before the stage -> merged ``(P, D)``, extra ``(E, D)``, and which of the kept tokens the merged ones
        are, ``(K,)`` bool, None for all.
        """
        assert self.encoder is not None
        before = self.encoder[row]
        kept = before[selection.kept.to(before.device)]
        merged, extra = (
            None if made is None or not made.shape[0] else made.to(before.device, before.dtype)
            for made in (selection.features, selection.extra)
        )
        self.encoder[row] = (kept if merged is None else merged)[order.to(before.device)]
        patches = self.patches(row, alive[selection.kept.to(alive.device)])
        seen = merged if merged is None or patches is None else merged[patches.to(merged.device)]
        return (
            None if seen is None or not seen.shape[0] else project(seen),
            None if extra is None else project(extra),
            patches,
        )

    def _find(
        self, need: Need, stage: Stage, rows: Rows, hidden: Tensor, row: int, columns: Tensor
    ) -> dict[str, Tensor]:
        if need.kind in VISION_KINDS:
            return {_VISION_FIELDS.get(need.kind, need.kind): self._seen(need, stage, rows, row)}
        text = rows.question[row].to(hidden.device)
        if need.kind == "text_features":
            return {"text_features": hidden[row, text]}
        if need.kind == "question_features":
            return {"question_features": hidden[row, _asked(rows, row, stage).to(hidden.device)]}
        if need.kind == "llm_input":
            entered, then = (hidden, rows) if self.entered_llm is None else self.entered_llm
            return {
                "input_features": entered[row, then.visual[row].to(entered.device)],
                "input_text": entered[row, then.question[row].to(entered.device)],
            }
        if need.kind == "normed_features":
            return {
                "normed_features": self.norm(hidden[row, columns.to(hidden.device)]),
                "normed_text": self.norm(hidden[row, text]),
            }
        return {}

    def _seen(self, need: Need, stage: Stage, rows: Rows, row: int) -> Tensor:
        assert self.vision is not None
        vision, block = self.vision[row], "last" if need.block == "last" else "feature"
        values = vision.seen.get(need.kind, {}).get(block)
        if values is None:
            raise ValueError(f"{stage.title!r} needs {need.kind} of the {block} vision block; ask encode() for it")
        if need.kind != "cls_feature":
            return _rows_of(values, rows.alive[row])
        if vision.n_pictures != 1:
            raise Unsupported(
                f"{stage.title!r} reads the [CLS] of one picture, and this prompt has {vision.n_pictures} pictures."
            )
        return values[0] if values.shape[0] == 1 else values


def _rows_of(values: Tensor | None, alive: Tensor) -> Tensor:
    assert values is not None
    return values[alive.to(values.device)]


def _asked(rows: Rows, row: int, stage: Stage) -> Tensor:
    if rows.asked is None:
        raise Unsupported(_NO_QUESTION.format(title=stage.title))
    asked = rows.asked[row] & rows.question[row]
    if not bool(asked.any()):
        raise Unsupported(_EMPTY_QUESTION.format(title=stage.title))
    return asked
