"""What ``inside`` found: where the layers of a model look while it answers. Plain numbers; no torch, no gradio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from .errors import BadInput
from .records import Many, Record, Run, TokenMap
from .short import passed, short
from .study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

KINDS = ("system", "image", "question", "template", "output")
"""Kinds of tokens, in the order of every list of five shares. ``system``: all text before the last visual token;
``image``: visual tokens, and tokens that a stage put in the place of some; behind them ``question``, the user's own
words, and ``template``, other text; ``output``: the answer so far."""
TAU = 0.03
"""ToDRE's threshold (its section C.1)."""

Share = Annotated[float, Field(ge=0, le=1.001)]
"""A probability or a sum of some; half precision may add up to a little more than 1."""
Shares = Annotated[Many[Share], Field(min_length=len(KINDS), max_length=len(KINDS))]
"""How attention is spent on each of ``KINDS``; adds up to 1."""


class InsideLayer(Record):
    """How one LLM layer spends its attention, mean over heads and over the rows of one kind.

    Attributes:
        layer: The layer (0-based).
        visual: Visual tokens that it processes, with those that a stage added.
        text: How text behind the image spends it, at prefill. None where there is no such text.
        image: The same of the image. None where no visual token is left.
        output: The same of the answer's own tokens, while decoding; None for an answer of one token, which is predicted
            by the prompt.
    """

    layer: int
    visual: int
    text: Shares | None
    image: Shares | None
    output: Shares | None

    @property
    def text_to_image(self) -> float | None:
        """ToDRE's alpha t->v (Eq. 7): the share of attention that text behind the image spends on the image."""
        return None if self.text is None else self.text[1]

    @property
    def image_to_text(self) -> float | None:
        """ToDRE's alpha v->t: the share that the image spends on text behind it; 0 where attention is causal."""
        return None if self.image is None else self.image[2] + self.image[3]

    @property
    def image_to_system(self) -> float | None:
        """The share that the image spends on the text before it, which causal attention does see."""
        return None if self.image is None else self.image[0]

    def is_below(self, tau: float = TAU) -> bool:
        """Whether both of ToDRE's ratios are below the threshold; a ratio of no rows is."""
        return (self.text_to_image or 0.0) < tau and (self.image_to_text or 0.0) < tau


class InsideToken(Record):
    """What the model looked at when it predicted one token of the answer: the attention of the row that did.

    That row is the last token of the prompt for the first one, and the token before for any other.

    Attributes:
        text: What the token adds to the answer; empty for special tokens, such as the end.
        spent: For each LLM layer the shares of ``KINDS``; mean over heads.
        maps: Attention on each of the original N visual tokens: mean over all layers (in which a dropped token counts
            as 0), then in each of ``Inside.map_layers``. None for tokens dropped before the layer; empty where maps of
            this token were not kept (``Inside.notes`` say so).
    """

    id: int
    text: str
    spent: Many[Shares]
    maps: Many[Many[Share | None]]


class TowerLayer(Record):
    """Attention on the patches in one layer of the vision tower, mean over heads.

    Attributes:
        layer: The layer (0-based).
        attention: For each visual token the attention that [CLS] gives it, or that it receives (``Inside.tower_kind``);
            the mean of its patches where it stands for several. None for tokens that are no patch.
        entropy: In nats, of ``attention`` divided by its sum over each image, tile or frame; mean over these.
        windowed: Whether this layer attends within windows only: attention received is then spread out by design.
    """

    layer: int
    attention: Many[Share | None]
    entropy: float | None
    windowed: bool = False


class Word(NamedTuple):
    """A word of the answer and the numbers of its tokens in ``Inside.tokens``."""

    text: str
    tokens: tuple[int, ...]


class Inside(Study):
    """Where a model looks, layer by layer, for one image or video and one question.

    Attributes:
        comparison: The question, the image, the unpruned run and, where a method was asked for, its run.
        layers: Every LLM layer.
        tokens: The tokens of the answer of the last run of ``comparison``, which all of this is about.
        map_layers: The LLM layers whose maps the tokens have, after the mean over all layers.
        counts: Tokens of each of ``KINDS`` in layer 0; ``output``: of the answer.
        tower_kind: ``cls_attention``: the row of [CLS]. ``received_attention``: this tower has no [CLS]; what each
            patch receives from all patches of its image or frame, mean over them.
        tower: Every layer of the vision tower, unpruned.
        feature_layer: Of these the one whose output becomes the visual tokens; None where several do.
        uniform_entropy: The entropy that attention spread evenly over each image, tile or frame has, in nats.
        seconds: What watching took, without the comparison.
        notes: What is counted in another way than usual, or was left out, in sentences.
    """

    kind: ClassVar[str] = "inside"
    refusal: ClassVar[str] = "This file is not a look inside a model of tokviz, or it was written by another version."

    layers: Many[InsideLayer]
    tokens: Many[InsideToken]
    map_layers: Many[int]
    counts: Annotated[Many[int], Field(min_length=len(KINDS), max_length=len(KINDS))]
    tower_kind: Literal["cls_attention", "received_attention"]
    tower: Many[TowerLayer]
    feature_layer: int | None
    uniform_entropy: float
    seconds: float
    notes: Many[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n, depth, count = self.comparison.grid.n_tokens, len(self.layers), 1 + len(self.map_layers)
        if not self.comparison.runs or not depth or [entry.layer for entry in self.layers] != list(range(depth)):
            raise ValueError("there are runs, and every layer once")
        if any(not 0 <= layer < depth for layer in self.map_layers):
            raise ValueError("maps are of layers that there are")
        for token in self.tokens:
            maps = token.maps
            if len(token.spent) != depth or (maps and len(maps) != count) or any(len(one) != n for one in maps):
                raise ValueError("a token does not fit the grid")
        if [entry.layer for entry in self.tower] != list(range(len(self.tower))):
            raise ValueError("every layer of the tower once")
        if any(len(entry.attention) != n for entry in self.tower):
            raise ValueError("the tower does not fit the grid")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The method, its answer, and where ToDRE would drop the image."""
        return [
            ("method", short(self.run.key)),
            ("answer", short(self.run.answer)),
            ("layers", len(self.layers)),
            ("tokens", len(self.tokens)),
            ("withdrawn_at", self.withdrawn_at()),
        ]

    @property
    def run(self) -> Run:
        """The run that all of this is about: the pruned one, where a method was asked for."""
        return self.comparison.runs[-1]

    @property
    def words(self) -> list[Word]:
        """The words of the answer, with the blanks between them taken off; special tokens belong to none."""
        found: list[tuple[str, list[int]]] = []
        apart = True
        for number, token in enumerate(self.tokens):
            if not token.text:
                continue
            if apart or token.text[:1].isspace():
                found.append(("", []))
            text, numbers = found[-1]
            found[-1] = text + token.text, [*numbers, number]
            apart = token.text[-1:].isspace()
        return [Word(text.strip(), tuple(numbers)) for text, numbers in found if text.strip()]

    def below(self, tau: float = TAU) -> list[int]:
        """The layers in which both of ToDRE's ratios are below the threshold."""
        return [entry.layer for entry in self.layers if entry.is_below(tau)]

    def withdrawn_at(self, tau: float = TAU) -> int | None:
        """The layer before which ToDRE would drop what is left of the image; None if it would not.

        It probes L/2, 5L/8, 6L/8 and 7L/8 of the L layers, each by the ratios of the layer before.
        """
        depth = len(self.layers)
        probes = sorted({depth * eighths // 8 for eighths in (4, 5, 6, 7)} - {0})
        return next((layer for layer in probes if self.layers[layer - 1].is_below(tau)), None)

    def token_map(self, token: int, layer: int | Sequence[int] | None = None) -> TokenMap:
        """What one token of the answer looked at when it was predicted; see ``word_map``."""
        return self._map((token,), layer, short(self.tokens[token].text.strip()) if self._has(token) else "")

    def word_map(self, word: int, layer: int | Sequence[int] | None = None) -> TokenMap:
        """The attention on each visual token with which a word of the answer was predicted, mean over its tokens.

        Args:
            word: Number of the word in ``words``.
            layer: One of ``map_layers``, or several for the mean over these; None for the mean over all layers. In a
                mean over layers a dropped token counts as 0; None only if none of them had it.

        Raises:
            BadInput: If there is no such word or layer, or its maps were not kept.
        """
        words = self.words
        if isinstance(word, bool) or not isinstance(word, int) or not 0 <= word < len(words):
            raise BadInput(f"The answer has {len(words)} words, numbered from 0; there is no word {passed(word)}.")
        return self._map(words[word].tokens, layer, short(words[word].text))

    def _has(self, token: object) -> bool:
        return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < len(self.tokens)

    def _map(self, tokens: Sequence[int], layer: int | Sequence[int] | None, what: str) -> TokenMap:
        if not all(map(self._has, tokens)):
            count = len(self.tokens)
            raise BadInput(f"The answer has {count} tokens, numbered from 0; there is no token {passed(tokens[0])}.")
        layers = self._known_layers(layer)
        maps = [self.tokens[token].maps for token in tokens]
        if not all(maps):
            raise BadInput("The maps of this word were not kept: there were too many. Ask for fewer layers.")
        places = [1 + self.map_layers.index(number) for number in layers] or [0]
        columns = zip(*(one[place] for one in maps for place in places), strict=True)
        count = len(maps) * len(places)
        values = [
            sum(known) / count if (known := [value for value in column if value is not None]) else None
            for column in columns
        ]
        numbers = ", ".join(map(str, layers))
        where = f"mean over layers {numbers}" if len(layers) > 1 else f"layer {numbers}"
        where = where if layers else "mean over all layers"
        return TokenMap(
            "word_attention", f"Attention when {what!r} was said, {where}", values, "probability",
            "high: looked at most", "log",
        )  # fmt: skip

    def _known_layers(self, layer: int | Sequence[int] | None) -> list[int]:
        """Those whose maps are asked for, [] for the mean over all. Raises BadInput."""
        if layer is None:
            return []
        layers: list[Any] = [layer]
        if isinstance(layer, Sequence) and not isinstance(layer, str) and all(isinstance(one, int) for one in layer):
            layers = sorted({*layer})
        unknown = [one for one in layers if isinstance(one, bool) or one not in self.map_layers]
        if unknown or not layers:
            kept = ", ".join(map(str, self.map_layers)) or "none"
            asked = passed(unknown[0] if unknown else layer)
            raise BadInput(f"There is no map of layer {asked}; kept are {kept}, and the mean over all layers.")
        return layers

    def to_pandas(self) -> DataFrame:
        """Return a table with one row per LLM layer: ToDRE's ratios, and the output's shares of each kind.

        Raises:
            BadInput: If pandas is not installed.
        """
        from .viz.inside import data_frame

        return data_frame(self)

    def figure(
        self, path: str | Path | None = None, *, theme: Literal["light", "dark"] = "light", dpi: int = 300
    ) -> Figure:
        """Draw curves over the LLM's layers, the tower's maps and entropies, and maps of the answer's first words.

        Written to ``path`` where there is one. Of a video the first frame with evidence is drawn, else the first.

        Args:
            path: A file that ends in .png, .svg or .pdf.
            theme: Colours of the page.
            dpi: Pixels per inch of the images inside.

        Raises:
            BadInput: If the file cannot be written.
        """
        from .viz.inside import inside_figure, save_inside

        if path is not None:
            save_inside(self, path, theme=theme, dpi=dpi)
        return inside_figure(self, theme=theme, dpi=dpi)
