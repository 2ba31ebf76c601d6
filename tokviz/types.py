"""The vocabulary of tokviz while a model runs: each term has one meaning everywhere. Imports no torch and no gradio.

Letters used throughout the project: ``N`` visual tokens before a stage, ``K`` kept, ``E`` added, ``D`` width, ``M``
text tokens after the last visual token, ``L`` LLM layers (``layer i`` is 0-based), ``(R, C)`` grid rows and columns. A
higher score always means "keep".

Pruners and engine exchange these dataclasses, which hold tensors. What is stored afterwards (plain numbers and text,
written to JSON) is in ``records.py``; views, exports and stored sessions use only that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import BadInput, Unsupported, nearest
from .names import Params, PositionPolicy, Site, site_label
from .planning import Budget as Budget
from .planning import PlanningInfo as PlanningInfo
from .planning import PublishedModel as PublishedModel
from .planning import budget_meanings, tokens_per_layer
from .records import BudgetMeanings, Chart, Reading, TextScores, TokenMap

if TYPE_CHECKING:
    from torch import Generator, Tensor


SignalKind = Literal[
    "cls_attention", "cls_logits", "cls_full_width", "cls_feature", "received_attention", "object_attention",
    "deep_attention", "shallow_attention", "encoder_keys", "full_keys", "encoder_features", "text_features",
    "question_features", "llm_input", "clip_relevance", "last_row", "text_rows", "head_rows", "rotary_similarity",
    "previous_features", "key_norms", "normed_features", "sequence_index", "prompt_features", "evidence", "values",
    "rotary_means", "pixels",
]  # fmt: skip


@dataclass(frozen=True)
class Need:
    """One signal that a stage wants beside its features. The engine captures just what is asked for.

    kind: ``last_row``, ``text_rows`` -> ``Signals.attention_rows``; ``encoder_keys`` -> ``keys``; ``llm_input`` ->
        ``input_features`` and ``input_text``; ``key_norms``, ``normed_features``, ``sequence_index``,
        ``prompt_features`` and ``question_features`` also fill ``text_key_norms``, ``normed_text``, ``text_index``,
        ``prompt_index`` and ``question_index``, ``values`` also ``text_values`` and ``other_values``. All others are
        named as the field of ``Signals`` that they fill, where what they are is told.
    layer: for vision signals ``"feature"`` (the layer whose output becomes the visual features; CLIP layer 22 of 24 in
        LLaVA-1.5), ``"last"`` or ``"object"`` (a middle one, whose attention follows objects: the 9th of CLIP's 24, the
        16th of 32 of Qwen, as HiPrune has it) or ``"shallow"`` (a quarter of the way, as VScan has it); for attention
        rows and key norms ``"previous"`` (the layer before the stage, which has already run on the unpruned sequence)
        or ``"this"`` (the one it stands before, recomputed from its input).

    Raises BadInput for a kind that does not exist.
    """

    kind: SignalKind
    layer: Literal["feature", "last", "object", "shallow", "previous", "this"] | None = None

    def __post_init__(self) -> None:
        known = get_args(SignalKind)
        if self.kind not in known:
            near = nearest(self.kind, known)
            raise BadInput(f"There is no signal {self.kind!r}{f'; did you mean {near!r}?' if near else '.'}")


CLS_ATTENTION = Need("cls_attention", "feature")
CLS_ATTENTION_LAST_LAYER = Need("cls_attention", "last")
CLS_LOGITS_LAST_LAYER = Need("cls_logits", "last")
CLS_FULL_WIDTH_LAST_LAYER = Need("cls_full_width", "last")
CLS_FEATURE = Need("cls_feature", "feature")
ENCODER_KEYS = Need("encoder_keys", "feature")
FULL_KEYS_LAST_LAYER = Need("full_keys", "last")
RECEIVED_ATTENTION = Need("received_attention", "last")
OBJECT_ATTENTION = Need("object_attention", "object")
DEEP_ATTENTION = Need("deep_attention", "feature")
SHALLOW_ATTENTION = Need("shallow_attention", "shallow")
ENCODER_FEATURES = Need("encoder_features")
TEXT_FEATURES = Need("text_features")
QUESTION_FEATURES = Need("question_features")
LLM_INPUT = Need("llm_input")
CLIP_RELEVANCE = Need("clip_relevance")
LAST_ROW = Need("last_row", "previous")
LAST_ROW_OF_NEXT_LAYER = Need("last_row", "this")
TEXT_ROWS = Need("text_rows", "previous")
HEAD_ROWS = Need("head_rows", "previous")
ROTARY_SIMILARITY = Need("rotary_similarity")
PREVIOUS_FEATURES = Need("previous_features")
KEY_NORMS = Need("key_norms", "previous")
NORMED_FEATURES = Need("normed_features")
SEQUENCE_INDEX = Need("sequence_index")
PROMPT_FEATURES = Need("prompt_features")
EVIDENCE = Need("evidence")
VALUES = Need("values", "previous")
ROTARY_MEANS = Need("rotary_means")
PIXELS = Need("pixels")


@dataclass(frozen=True)
class Signals:
    """What one stage may look at, for one sequence; rows are the visual tokens still alive, in sequence order.

    Where several patches become one token (Qwen), keys and attention of a token are the mean of its patches.
    "Text" is all tokens behind the last visual one.

    Attributes:
        features: ``(N, D)`` at the stage's site.
        cls_attention: ``(N,)``, [CLS] row of the vision tower, mean over heads, patches only.
        cls_logits: ``(N,)``, the same row before the softmax, scaled, mean over heads.
        cls_full_width: ``(N,)``, [CLS] row of the heads' queries and keys laid side by side as one head of the full
            width, scale width^-1/2 (PruMerge).
        cls_feature: ``(D,)``, the [CLS] token's own encoder feature; ``(tiles, D)`` of an image cut into tiles.
        received_attention: ``(N,)``, of a tower without [CLS]: what a patch receives from all patches of its image or
            frame in the last layer that attends over whole ones, mean over heads and queries.
        object_attention: ``(N,)``, of any tower: what a patch receives, from [CLS] too, in the tower's object layer,
            mean over heads and queries.
        deep_attention: ``(N,)``, the same in the layer that makes the features (of Qwen as ``received_attention``).
        shallow_attention: ``(N,)``, in the tower's shallow layer, [CLS] row or, of a tower without one, what a patch
            receives, mean over heads.
        keys: ``(N, d_k)``, keys of the vision tower, mean over heads; inside the tower those of the stage's layer.
        full_keys: ``(N, H d_k)``, the heads' keys laid side by side.
        encoder_features: ``(N, D_v)``, vision features before the projector (behind it where it merges patches).
        text_features: ``(M, D)``, embeddings of the text, at the stage's site.
        question_features: ``(Q, D)``, of those, only what the user wrote (no template, no roles).
        question_index: ``(Q,)`` int64, which of the text's rows these are.
        input_features: ``(N_0, D)``, what entered LLM layer 0, whatever the stage's site: visual embeddings.
        input_text: ``(M, D)``, and text embeddings.
        clip_relevance: ``(N,)``, similarity of each patch to the question in the space of the CLIP model that the
            vision tower was taken from.
        attention_rows: ``(rows, N)`` float32, attention of the last prompt token (one row) or of all text on the visual
            tokens: probabilities (softmax over the whole causal row), mean over heads.
        head_rows: ``(H, M, N)``, those of all text head by head.
        rotary_similarity: ``(M, N)``, dot product of the all-ones vector rotated to the position of each text token
            with the one rotated to that of each visual token, scaled by d^-1/2 like attention logits.
        previous_features: ``(N, D)``, hidden states that entered the layer before the stage.
        key_norms: ``(N,)``, L1 norm of the keys as attention sees them, heads laid side by side.
        text_key_norms: ``(M,)``, of the text's keys.
        normed_features: ``(N, D)``, hidden states at the stage through the LLM's final norm.
        normed_text: ``(M, D)``, of the text.
        sequence_index: ``(N,)`` int64, where each row stands in the prompt at this stage, padding not counted.
        text_index: ``(M,)`` int64, of the text.
        prompt_features: ``(T, D)``, embeddings at the stage's site of every token of the prompt that is not visual, in
            front of the image, between images and behind it, template and all.
        prompt_index: ``(T,)`` int64, where each of them stands, counted as ``sequence_index``.
        evidence: ``(N,)``, share of each patch that the boxes around the evidence for the right answer cover, 0 to 1,
            0 for rows that are no patch. No property of the image: for controls that know the answer.
        values: ``(N, H, d)``, value vectors of the layer before the stage, as many heads as it has of keys.
        text_values: ``(M, H, d)``, of the text.
        other_values: ``(P, H, d)``, of all other tokens of the prompt, in any order: what stands before the last image.
        rotary_means: ``(N, 2)``, of the table of rotary cosines at each row's position the mean over its width, and of
            that of the sines; where positions have several axes the mean over those, each with the whole table.
        pixels: ``(N, P)``, the pixels that each patch (or group of merged patches) shows, scaled so that the lightest
            and the darkest one are 1 apart; 0 for rows that are no patch.
        candidates: ``(N,)`` bool, False for rows that are no image patch (newline, video [CLS]), of which the vision
            tower knows nothing: their encoder features and keys are 0, their [CLS] scores NaN; None when all are.
        view: ``(N,)`` int, the tile or frame of each row (a newline's is that of the patch before it); None for one.
        cell: ``(N, 2)`` int, row and column of each patch in its image: of the thumbnail for tile 0, of the stitched
            and unpadded grid of crops for the others; -1 for rows that are no patch; None when not known.
        sizes: ``(N,)``, how many patches each row already stands for; None when each is one.
        origin: ``(N,)`` int64, inside the vision tower the original index of each row (the smallest of a merged one),
            where rows may be in any order; None elsewhere and when rows are 0..N-1.
    """

    features: Tensor
    cls_attention: Tensor | None = None
    cls_logits: Tensor | None = None
    cls_full_width: Tensor | None = None
    cls_feature: Tensor | None = None
    received_attention: Tensor | None = None
    object_attention: Tensor | None = None
    deep_attention: Tensor | None = None
    shallow_attention: Tensor | None = None
    keys: Tensor | None = None
    full_keys: Tensor | None = None
    encoder_features: Tensor | None = None
    text_features: Tensor | None = None
    question_features: Tensor | None = None
    question_index: Tensor | None = None
    input_features: Tensor | None = None
    input_text: Tensor | None = None
    clip_relevance: Tensor | None = None
    attention_rows: Tensor | None = None
    head_rows: Tensor | None = None
    rotary_similarity: Tensor | None = None
    previous_features: Tensor | None = None
    key_norms: Tensor | None = None
    text_key_norms: Tensor | None = None
    normed_features: Tensor | None = None
    normed_text: Tensor | None = None
    sequence_index: Tensor | None = None
    text_index: Tensor | None = None
    prompt_features: Tensor | None = None
    prompt_index: Tensor | None = None
    evidence: Tensor | None = None
    values: Tensor | None = None
    text_values: Tensor | None = None
    other_values: Tensor | None = None
    rotary_means: Tensor | None = None
    pixels: Tensor | None = None
    candidates: Tensor | None = None
    view: Tensor | None = None
    cell: Tensor | None = None
    sizes: Tensor | None = None
    origin: Tensor | None = None


@dataclass(frozen=True)
class Diagnostics:
    """The reasons for a stage's decision, for the views. Rows of maps and charts are the rows that the stage was given.

    Attributes:
        score: The map that ranked the tokens; None if nothing did (random, withdrawal).
        order_is_basis: Whether the tokens picked step by step are a basis from which the others are reconstructed.
        extra_name: What the tokens in ``Selection.extra`` are, in words.
        covered_by: ``(N,)`` int64, for every token the row of the kept token that stands for it although nothing was
            merged, itself for kept ones; -1 for none. Drawn as merge groups are. None if the method has no such groups.
        facts: Plain numbers and texts worth recording.
        warnings: Sentences for the user.
    """

    score: TokenMap | None = None
    maps: Sequence[TokenMap] = ()
    charts: Sequence[Chart] = ()
    readings: Sequence[Reading] = ()
    text: TextScores | None = None
    order_is_basis: bool = False
    extra_name: str = ""
    covered_by: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Selection:
    """The decision of one stage, in indices of the rows it was given.

    Attributes:
        kept: ``(K,)`` int64, ascending, unique.
        order: ``(N,)`` int64, the 0-based step at which a greedy method picked each token; -1 if it did not.
        assignment: ``(N,)`` int64, for every token, the row of the kept token that carries it: itself for kept tokens,
            the absorber for merged ones, -1 for tokens dropped without merging. None if the method never merges.
        features: ``(K, D)``, the rows of ``kept`` after merging; None if unchanged.
        extra: ``(E, D)``, additional tokens for the LLM that are not patches ([CLS], a summary token), with K + E <= N.
        sequence: ``(K + E,)`` int64, the order in which the LLM gets the tokens, as positions in ``[*kept, *extra]``;
            None for kept ascending, then extra.
        sizes: ``(K,)``, the number of patches that each kept row now stands for, if a later stage or attention needs
            it.
        diagnose: Builds the ``Diagnostics``. Called only when they are requested, so they cost nothing otherwise.
    """

    kept: Tensor
    order: Tensor | None = None
    assignment: Tensor | None = None
    features: Tensor | None = None
    extra: Tensor | None = None
    sequence: Tensor | None = None
    sizes: Tensor | None = None
    diagnose: Callable[[], Diagnostics] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """The diagnostics of this selection, computed on first access."""
        return Diagnostics() if self.diagnose is None else self.diagnose()

    def with_diagnostics(self, change: Callable[[Diagnostics], Diagnostics]) -> Selection:
        """Return the same selection with ``change`` applied to its diagnostics when they are requested."""
        return replace(self, diagnose=lambda: change(self.diagnostics))


SelectFunction = Callable[[Signals, "int | None", Params, "Generator"], Selection]


@dataclass(frozen=True)
class Stage:
    """A place where visual tokens are dropped.

    Attributes:
        site: ``VisionLayer(i)`` (inside vision layer ``i``, between its attention and its MLP; features and ``keys``
            are that layer's, without [CLS]), ``"encoder"`` (vision features before the projector), ``"projector"``
            (embeddings that enter the LLM), or an int ``i``: before LLM layer ``i`` (0-based), which is the first layer
            that sees fewer tokens.
        keep: Number of visual tokens to keep; None if the method decides at run time (ToDRE's withdrawal).
        select: ``(signals, keep, params, generator) -> Selection``; pure.
        positions: What happens to the position ids of later tokens: ``reindex`` closes the gap, ``keep`` leaves it.
            Models whose positions have several axes support only ``keep``.
        proportional_attention: For a ``VisionLayer`` site: attention in the following layers adds
            ln(``Selection.sizes``) to every key's logit, so that a merged token weighs as much as its patches.
        rectify: Attention in every later layer of the LLM adds ln(group size) to the logits of the tokens that this
            stage merged, as keys; a group's size is how many original visual tokens a kept one carries.
        cuts_cache: For a site inside the LLM: whatever was dropped so far also leaves the key-value cache of the layers
            before, so that no new token sees it anywhere.
    """

    site: Site
    keep: int | None
    select: SelectFunction
    needs: tuple[Need, ...] = ()
    positions: PositionPolicy = "reindex"
    title: str = ""
    proportional_attention: bool = False
    rectify: bool = False
    cuts_cache: bool = False

    @property
    def site_label(self) -> str:
        """The site in words, e.g. ``"before layer 4"``."""
        return site_label(self.site)


@dataclass(frozen=True)
class Schedule:
    """The stages of one run, in execution order.

    Attributes:
        smaller: If the image itself is to be given to the model smaller, instead of any stage: in at most how many
            visual tokens. Only ``compare`` can do that; see ``of_stages``.
    """

    stages: tuple[Stage, ...]
    smaller: int | None = None

    @property
    def of_stages(self) -> Schedule:
        """This schedule, for who can carry out stages and nothing else. Raises Unsupported for another encoding."""
        if self.smaller is not None:
            raise Unsupported(
                "This method gives the model a smaller image instead of dropping tokens, which tokviz.compare does: "
                "run it there, or give the model a smaller image yourself."
            )
        return self

    def counts_per_layer(self, n_visual: int, n_layers: int) -> list[int]:
        """Return the planned number of visual tokens that each LLM layer processes.

        A stage whose count is decided at run time is assumed to keep everything.

        Returns:
            A list of ``L`` ints.
        """
        encoded = n_visual if self.smaller is None else min(n_visual, self.smaller)
        return tokens_per_layer(encoded, n_layers, [(s.site, s.keep) for s in self.stages])

    def final_count(self, n_visual: int) -> int:
        """Return the planned number of visual tokens after the last stage."""
        n_visual = n_visual if self.smaller is None else min(n_visual, self.smaller)
        for stage in self.stages:
            n_visual = n_visual if stage.keep is None else min(n_visual, stage.keep)
        return n_visual

    def meanings(self, n_visual: int, n_layers: int) -> BudgetMeanings:
        """Return this schedule's budget in all three meanings (``methods.md`` 0.2)."""
        return budget_meanings(self.counts_per_layer(n_visual, n_layers), self.final_count(n_visual))
