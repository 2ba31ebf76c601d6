"""What one scene says of each property: every measure of `training.properties` as a number or a number per block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scenes import COLORS, FAMILIES, SHAPES, SIGN_NUMBERS, SIGN_WORDS, SIZES, Scene
from scenes.types import SceneObject, SceneSign
from scenes.words import plural
from tokviz.pruners import adaptvtp, polymorphic, raters
from tokviz.pruners.schedules import carried_layers
from training.labels import patch_owners
from training.property_measures import (
    Value,
    auc,
    cosines,
    evenness,
    mean_known,
    naming_auc,
    outliers,
    pearson,
    spearman,
    top_share,
)
from training.property_signals import Heard, Picture, Prompt, Subject

KINDS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": SIZES,
    "word": SIGN_WORDS,
    "number": SIGN_NUMBERS,
    "digit": SIGN_NUMBERS,
}
"""Words that can name what a patch shows, by kind: of objects, then of signs."""
NAMING = frozenset(word for words in KINDS.values() for word in words) | {plural(shape) for shape in SHAPES}
ONE_HOT = 0.99
RATER_NAMES = ("rater_evenness", "one_hot", "on_template", "on_naming", "on_other", "rater_auc")
"""Measured on what enters each block: entropy of the softmaxes over ln M, the share of them that is one-hot, on which
words they fall, and how well the raters' log odds tell evidence from background."""
LEAST_SIDE = 96
Values = dict[str, Value]


@dataclass(frozen=True)
class Truth:
    """Where a scene shows what, patch by patch.

    Shape:
        background: (N,) bool, patches that show no thing. evidence: per question (N,) bool, patches that show a thing
        one must see to answer it; all False where the answer rests on absence. named: for each kind, pairs of patch and
        word.
    """

    background: Tensor
    evidence: list[Tensor]
    named: dict[str, list[tuple[int, str]]]

    @classmethod
    def of(cls, scene: Scene, grid: int) -> Truth:
        """Read it off the scene: a patch shows the thing that owns it (see `patch_owners`)."""
        owners = torch.from_numpy(patch_owners(scene, grid))
        things: list[SceneObject | SceneSign] = [*scene.objects, *scene.signs]
        evidence = [
            torch.isin(owners, torch.tensor([i for i, t in enumerate(things) if t.box in question.evidence] or [-2]))
            for question in scene.questions
        ]
        named: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
        for patch, owner in enumerate(owners.tolist()):
            if owner < 0:
                continue
            thing = things[owner]
            if isinstance(thing, SceneObject):
                for kind, word in (("shape", thing.shape), ("color", thing.color), ("size", thing.size)):
                    named[kind].append((patch, word))
            else:
                named[thing.kind].append((patch, thing.text))
        return cls(owners < 0, evidence, named)

    def auc(self, scores: Tensor) -> float:
        """How well scores that no question changes tell evidence from background, mean over the questions."""
        return mean_known([auc(scores, evidence, self.background) for evidence in self.evidence])


@dataclass(frozen=True)
class Asked:
    """Which patches one question is about. Shape: evidence, background (N,) bool."""

    evidence: Tensor
    background: Tensor


def scene_side(subject: Subject) -> int:
    """At how many pixels scenes are drawn, so that patches can be told apart: the model's own size where possible."""
    if subject.image_size >= LEAST_SIDE and subject.image_size % subject.grid == 0:
        return subject.image_size
    return subject.grid * math.ceil(LEAST_SIDE / subject.grid)


def length_values(subject: Subject, picture: Picture, prompts: Sequence[Prompt], truth: Truth) -> Values:
    """Property 1: do lengths tell evidence from background, and are some background tokens far longer than others?"""
    values: Values = {}
    for space, tokens in (("", picture.projected), ("tower_", picture.tower)):
        lengths = tokens.norm(dim=1)
        share, factor, longest = outliers(lengths[truth.background])
        values[f"{space}auc"] = truth.auc(lengths)
        values[f"{space}outlier_share"], values[f"{space}outlier_factor"] = share, factor
        values[f"{space}longest"] = longest
        values[f"{space}median"] = float(lengths.double().median())
    text = subject.words[[token for prompt in prompts for token in prompt.ids]].norm(dim=1)
    values["words_median"] = float(text.double().median())
    values["ratio"] = values["median"] / values["words_median"]  # type: ignore[operator]
    return values


def naming_values(subject: Subject, picture: Picture, truth: Truth) -> Values:
    """Property 2, first half: is a token nearer to the words that name what it shows than to others of their kind?"""
    values: Values = {}
    own, other = [], []
    for kind, words in KINDS.items():
        ids = {word: subject.word_id(word) for word in words}
        known = [word for word in words if ids[word] is not None]
        pairs = [(patch, known.index(word)) for patch, word in truth.named[kind] if word in known]
        values[f"naming_{kind}"] = math.nan
        if not pairs or len(known) < 2:
            continue
        patches, right = (torch.tensor(column) for column in zip(*pairs, strict=True))
        similar = cosines(picture.projected[patches], subject.words[[ids[word] for word in known]])
        values[f"naming_{kind}"] = float(naming_auc(similar, right).mean())
        mine = similar.gather(1, right[:, None])[:, 0]
        if kind != "size":
            own.append(float(mine.mean()))
            other.append(float(((similar.sum(1) - mine) / (len(known) - 1)).mean()))
    values["naming"] = mean_known([values[f"naming_{kind}"] for kind in KINDS if kind != "size"])  # type: ignore[misc]
    values["cosine_right"], values["cosine_other"] = mean_known(own), mean_known(other)
    return values


@dataclass(frozen=True)
class Rated:
    """What Polymorphic's and AdaptVTP's text scores say of one question.

    single: numbers of the decoder's input; blocks: of what enters each block. strongest: for what enters each block,
    which word of the text most of a patch's softmax falls on.
    """

    single: dict[str, float]
    blocks: dict[str, list[float]]
    strongest: list[Counter[str]]


def rater_values(subject: Subject, picture: Picture, heard: Heard, prompt: Prompt, asked: Asked) -> Rated:
    """Property 2, second half: where Polymorphic's softmaxes fall, and whether its and AdaptVTP's scores find evidence.

    Raters are chosen on what enters the decoder and score what enters a block, as Polymorphic does by default; here
    with all visual tokens still there.
    """
    scale = picture.projected.shape[1] ** -0.5
    template = torch.tensor([place not in prompt.own for place in range(len(prompt.ids))])
    words = [subject.word_of(token) for token in prompt.ids]
    naming = torch.tensor([word in NAMING for word in words]) & ~template
    mean = raters.alignment(picture.projected, heard.states[0], scale).mean(0)
    chosen = mean > (1 + raters.ROUNDING) / len(mean)
    chosen = chosen if bool(chosen.any()) else torch.ones_like(chosen)
    blocks: dict[str, list[float]] = {name: [] for name in RATER_NAMES}
    strongest = []
    for visual, text in zip(picture.states, heard.states, strict=False):  # the state that leaves the last has no text
        logits = raters.alignment_logits(visual, text, scale)
        shares = logits.softmax(1).double()
        mass = shares.mean(0)
        found = (
            float(evenness(shares).mean()),
            float((shares.max(1).values > ONE_HOT).double().mean()),
            float(mass[template].sum()),
            float(mass[naming].sum()),
            float(mass[~template & ~naming].sum()),
            auc(raters.log_odds(logits, chosen), asked.evidence, asked.background),
        )
        for name, value in zip(RATER_NAMES, found, strict=True):
            blocks[name].append(value)
        strongest.append(Counter(words[place] for place in shares.argmax(1).tolist()))
    alpha = adaptvtp.alignment(picture.projected, heard.states[0, list(prompt.own)], normalize=False)
    length = adaptvtp.correlation(alpha, -picture.projected.norm(dim=1))
    single = {
        "naming_words": float(naming.double().mean()),
        "template_words": float(template.double().mean()),
        "adaptvtp_auc": auc(alpha, asked.evidence, asked.background),
        "adaptvtp_length": math.nan if length is None else length,
    }
    return Rated(single, blocks, strongest)


def rated_values(rated: Sequence[Rated], scene: Scene, layers: Sequence[int]) -> Values:
    """Means over the questions of a scene; `*_polymorphic` over the layers before which Polymorphic looks."""
    values: Values = {name: mean_known([one.single[name] for one in rated]) for name in rated[0].single}
    values.update({name: mean_blocks([one.blocks[name] for one in rated]) for name in RATER_NAMES})
    for family in FAMILIES:
        of_family = [one for one, question in zip(rated, scene.questions, strict=True) if question.family == family]
        empty = [[math.nan] * len(rated[0].strongest)]
        values[f"rater_auc_{family}"] = mean_blocks([one.blocks["rater_auc"] for one in of_family] or empty)
    for name in ("rater_evenness", "one_hot", "on_naming", "on_template", "rater_auc", "rater_auc_existence"):
        values[f"{name}_polymorphic"] = _at(values[name], layers)
    return values


def attention_values(heard: Sequence[Heard], right: list[list[bool]]) -> tuple[Values, Values]:
    """Properties 5 and 6: how much of its attention text gives the picture, block by block, and where in it.

    `*_early` and `*_late` are means over the first and the last third of the blocks; `withdrawn_late` is what
    withdrawing the picture before the last third adds to the share of right answers.

    Args:
        right: per block from which the picture is withdrawn, and without withdrawal last, whether each answer is right.
    """
    depth = len(right) - 1
    third = depth // 3
    rows = {
        "last_row": mean_blocks([one.asking[:, -1].double().sum(-1).tolist() for one in heard]),
        "text_rows": mean_blocks([one.asking.double().sum(-1).mean(1).tolist() for one in heard]),
        "answer_rows": mean_blocks([one.answering.double().sum(-1).mean(1).tolist() for one in heard]),
    }
    migration: Values = dict(rows)
    for name, blocks in rows.items():
        migration[f"{name}_early"] = _at(blocks, range(max(1, third)))
        migration[f"{name}_late"] = _at(blocks, range(depth - max(1, third), depth))
    accuracy = [sum(verdicts) / len(verdicts) for verdicts in right]
    migration["withdrawn"] = accuracy
    migration["withdrawn_late"] = accuracy[depth - max(1, third)] - accuracy[depth]
    place = torch.arange(heard[0].asking.shape[-1])
    position: Values = {}
    for name in ("last_row", "text_rows"):
        attention = [one.asking[:, -1] if name == "last_row" else one.asking.mean(1) for one in heard]
        for label, correlation in (("pearson", pearson), ("spearman", spearman)):
            blocks = mean_blocks([[correlation(block, place) for block in one] for one in attention])
            position[f"{name}_{label}"] = blocks
            position[f"{name}_{label}_mean"] = mean_known(blocks)
    return migration, position


def mean_blocks(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean per block, of what is known."""
    return [mean_known(column) for column in zip(*rows, strict=True)]


def _at(blocks: Value, picked: Sequence[int]) -> float:
    return mean_known([blocks[block] for block in picked])  # type: ignore[index]


def variation_values(picture: Picture, truth: Truth) -> Values:
    """Property 4: does a block change the evidence more than the background?"""
    ratios = [
        mean_known([float(block[evidence].mean() / block[truth.background].mean()) for evidence in truth.evidence])
        for block in picture.changes.double()
    ]
    return {"auc": [truth.auc(block) for block in picture.changes], "ratio": ratios}


def cls_values(picture: Picture, truth: Truth, block: int) -> Values:
    """Property 3: how spread the attention of [CLS] is in each block of the tower, and whether it finds evidence.

    Args:
        block: the one that makes the features which the projector gets.
    """
    even, top = evenness(picture.cls).tolist(), top_share(picture.cls).tolist()
    early = range(max(1, len(even) // 3))
    return {
        "evenness": even,
        "top_share": top,
        "auc": [truth.auc(block) for block in picture.cls],
        "evenness_early": _at(even, early),
        "evenness_penultimate": even[block],
        "top_share_early": _at(top, early),
        "top_share_penultimate": top[block],
    }


@torch.no_grad()
def scene_values(subject: Subject, scene: Scene) -> tuple[dict[str, Values], list[Counter[str]]]:
    """Every measure of one scene, by property; and per block, how many patches prefer which word of the text."""
    truth = Truth.of(scene, subject.grid)
    picture = subject.look(scene.image)
    prompts = [subject.prompt(question.text, question.answer) for question in scene.questions]
    heard, full = subject.listen(picture, prompts)
    withdrawn = [subject.withdrawn(picture, prompts, block) for block in range(subject.depth)]
    migration, position = attention_values(heard, [*withdrawn, full])
    rated = [
        rater_values(subject, picture, text, prompt, Asked(evidence, truth.background))
        for text, prompt, evidence in zip(heard, prompts, truth.evidence, strict=True)
    ]
    naming, by_raters = naming_values(subject, picture, truth), rated_values(rated, scene, polymorphic_layers(subject))
    strongest: list[Counter[str]] = [
        sum(block, Counter()) for block in zip(*(one.strongest for one in rated), strict=True)
    ]
    return {
        "lengths": length_values(subject, picture, prompts, truth),
        "alignment": {**naming, **by_raters},
        "cls": cls_values(picture, truth, subject.feature_layer - 1),
        "variation": variation_values(picture, truth),
        "migration": migration,
        "position": position,
    }, strongest


def polymorphic_layers(subject: Subject) -> list[int]:
    """Before which decoder blocks Polymorphic looks."""
    return carried_layers(polymorphic.PUBLISHED_LAYERS, subject.depth)
