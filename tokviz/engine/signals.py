"""The Signals of one stage and row, made of what the engine holds: the vision tower's, embeddings, the LLM's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Unsupported
from ..types import Need, Signals, Stage
from .layer_signals import LLM_LAYER_KINDS, Moment
from .sequence import Rows, State
from .vision_signals import VisionSignals, tower_layer

INSIDE_LLM_KINDS = (
    *LLM_LAYER_KINDS, "rotary_similarity", "rotary_means", "previous_features", "values", "normed_features",
)  # fmt: skip
"""Exist only for stages before an LLM layer."""

TEXT_KINDS = (
    "text_features",
    "question_features",
    "llm_input",
    "normed_features",
    "rotary_similarity",
    "sequence_index",
    "prompt_features",
    "values",
    *LLM_LAYER_KINDS,
)
"""Look at the tokens behind the last visual token, guessed ones included."""

_NO_QUESTION = (
    "{title!r} listens to the user's own words, and nobody said which tokens those are: pass question_mask (B, L) to "
    "encode() or prune()."
)
_NO_EVIDENCE = (
    "{title!r} goes by the marked evidence, and nobody said where it lies: give encode() or prune() a geometry with "
    "evidence, or make the inputs with tokviz.inputs_for(..., evidence=[(x0, y0, x1, y1)])."
)
_EMPTY_QUESTION = (
    "{title!r} listens to the user's own words, but no token of them stands behind the last image; ask there, and in "
    "words that the model's tokenizer does not leave out."
)


@dataclass(frozen=True)
class Geometry:
    """Where the N original visual tokens of one row (sequence) lie; None where it is not known.

    Shape: view ``(N,)`` int, the tile or frame of each token, None when there is one. cell ``(N, 2)`` int, row and
    column as ``Signals.cell`` counts them, -1 for tokens that are no patch. evidence ``(N,)``, how much of each token's
    patch is marked as evidence, None when nothing is marked.
    """

    view: Tensor | None = None
    cell: Tensor | None = None
    evidence: Tensor | None = None

    def of(self, alive: Tensor) -> dict[str, Tensor]:
        """``view``, ``cell`` and ``candidates`` of the tokens alive, as far as known. Shape: alive ``(n,)``."""
        found = {}
        if self.view is not None:
            found["view"] = self.view[alive.to(self.view.device)].to(alive.device)
        if self.cell is not None:
            found["cell"] = cell = self.cell[alive.to(self.cell.device)].to(alive.device)
            if bool((self.cell < 0).any()):
                found["candidates"] = (cell >= 0).all(dim=1)
        return found


@dataclass(frozen=True)
class SignalReader:
    """Builds Signals. vision: per row, None where the tower is not watched; geometry: per row, None where unknown."""

    vision: Sequence[VisionSignals] | None
    geometry: Sequence[Geometry | None] | None = None

    def signals(self, stage: Stage, state: State, row: int, moment: Moment | None = None) -> Signals:
        """What the stage asked for, of the tokens alive in ``row``; inside the LLM at this ``moment``."""
        rows, hidden = state.rows, state.hidden
        columns, alive = rows.columns(row), rows.alive[row]
        features = state.encoder[row] if stage.site == "encoder" else hidden[row, columns.to(hidden.device)]
        found: dict[str, Any] = {"sizes": rows.sizes[row]}
        if self.vision is not None and (view := self.vision[row].view) is not None:
            found["view"] = view[alive.to(view.device)]
        patches = self.patches(row, alive)
        if patches is not None:
            found["candidates"] = patches
        if self.geometry is not None and (geometry := self.geometry[row]) is not None:
            found.update(geometry.of(alive))
        for need in stage.needs:
            found.update(self._find(need, stage, state, row, moment))
        if moment is not None:
            found.update(moment.layers.find(moment, stage, row, columns))
        return Signals(features=features, **found)

    def patches(self, row: int, alive: Tensor) -> Tensor | None:
        """Which of the tokens ``alive (n,)`` the vision tower saw, None when all or nobody knows. Shape: ``(n,)``."""
        patch = None if self.vision is None else self.vision[row].patch
        return None if patch is None else patch[alive.to(patch.device)]

    def _find(self, need: Need, stage: Stage, state: State, row: int, moment: Moment | None) -> dict[str, Tensor]:
        rows, hidden = state.rows, state.hidden
        match need.kind:
            case "text_features":
                return {"text_features": hidden[row, rows.question[row].to(hidden.device)]}
            case "question_features":
                asked = _asked(rows, row, stage)
                return {
                    "question_features": hidden[row, asked.to(hidden.device)],
                    "question_index": asked[rows.question[row]].nonzero().squeeze(1).to(hidden.device),
                }
            case "encoder_features":
                return {"encoder_features": self._vision(need, stage, row).of(rows.alive[row])}
            case "llm_input":
                inside = None if moment is None else moment.llm_input
                entered, then = (hidden, rows) if inside is None else inside
                return {
                    "input_features": entered[row, then.visual[row].to(entered.device)],
                    "input_text": entered[row, then.question[row].to(entered.device)],
                }
            case "normed_features" if moment is not None:
                norm = moment.language_model.norm
                return {
                    "normed_features": norm(hidden[row, rows.columns(row).to(hidden.device)]),
                    "normed_text": norm(hidden[row, rows.question[row].to(hidden.device)]),
                }
            case "sequence_index":
                index = rows.real[row].cumsum(0) - 1
                return {"sequence_index": index[rows.columns(row)], "text_index": index[rows.question[row]]}
            case "prompt_features":
                around = rows.real[row] & ~rows.visual[row]
                around = around if rows.added is None else around & ~rows.added[row]
                index = rows.real[row].cumsum(0) - 1
                return {"prompt_features": hidden[row, around.to(hidden.device)], "prompt_index": index[around]}
            case "evidence":
                return {"evidence": self._evidence(stage, rows.alive[row], row)}
            case kind if kind in INSIDE_LLM_KINDS:
                return {}
            case kind:
                name = "keys" if kind == "encoder_keys" else kind
                return {name: self._seen(need, stage, rows.alive[row], row)}

    def _evidence(self, stage: Stage, alive: Tensor, row: int) -> Tensor:
        geometry = None if self.geometry is None else self.geometry[row]
        if geometry is None or geometry.evidence is None:
            raise Unsupported(_NO_EVIDENCE.format(title=stage.title))
        return geometry.evidence[alive.to(geometry.evidence.device)].to(alive.device)

    def _vision(self, need: Need, stage: Stage, row: int) -> VisionSignals:
        if self.vision is None:
            raise ValueError(f"{stage.title!r} needs {need.kind} of the vision tower; ask encode() for it")
        return self.vision[row]

    def _seen(self, need: Need, stage: Stage, alive: Tensor, row: int) -> Tensor:
        layer, vision = tower_layer(need), self._vision(need, stage, row)
        values = vision.seen.get(need.kind, {}).get(layer)
        if values is None:
            raise ValueError(f"{stage.title!r} needs {need.kind} of the {layer} vision layer; ask encode() for it")
        if need.kind != "cls_feature":
            return values[alive.to(values.device)]
        if vision.n_images != 1:
            raise Unsupported(
                f"{stage.title!r} reads the [CLS] of one image, and this prompt has {vision.n_images} images."
            )
        return values[0] if values.shape[0] == 1 else values


def _asked(rows: Rows, row: int, stage: Stage) -> Tensor:
    if rows.asked is None:
        raise Unsupported(_NO_QUESTION.format(title=stage.title))
    asked = rows.asked[row] & rows.question[row]
    if not bool(asked.any()):
        raise Unsupported(_EMPTY_QUESTION.format(title=stage.title))
    return asked
