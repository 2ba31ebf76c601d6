"""A second oracle, for stages that add tokens and change their order: the sequence is rebuilt token by token.

One sequence at a time, a Python list of tokens, own loop over the layers, no cache, no padding, own positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from engine_models import IMAGE, PATCHES, ragged
from engine_oracle import _attention, _layer

from tokviz.types import Selection, Signals


@dataclass
class Token:
    """One token: its state, its position id, its original visual index (None: text, -1: added), encoder features."""

    hidden: torch.Tensor
    position: int
    index: int | None = None
    vision: torch.Tensor | None = None
    weight: int = 1


def rebuilt(model, inputs, stages, choose, new_tokens):
    """Logits that predict each of ``new_tokens (B, T)`` and per row the order after each stage (-1: added)."""
    logits, orders, image = [], [], 0
    for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
        ids = ids[real]
        n_images = int((ids == IMAGE).sum()) // PATCHES
        pixels = inputs["pixel_values"][image : image + n_images] if n_images else None
        image += n_images
        found = _one(model, ids, pixels, stages, choose, row, new_tokens[row])
        logits.append(found[0])
        orders.append(found[1])
    return torch.stack(logits, dim=1), orders


@torch.no_grad()
def _one(model, ids, pixels, stages, choose, row, new_tokens):
    lm = model.model.language_model
    ids = torch.cat([ids, new_tokens[:-1]])
    tokens = [Token(hidden, place) for place, hidden in enumerate(lm.embed_tokens(ids))]
    if pixels is not None:
        tower = model.model.vision_tower(pixels, output_hidden_states=True, return_dict=True)
        features = tower.hidden_states[model.config.vision_feature_layer][:, 1:].flatten(0, 1)
        visual = [
            token for token, id in zip(tokens, ids[: len(ids) - len(new_tokens) + 1], strict=False) if id == IMAGE
        ]
        for index, (token, feature) in enumerate(zip(visual, features, strict=True)):
            token.index, token.vision = index, feature
            token.hidden = model.model.multi_modal_projector(feature[None])[0]
    pending, orders = list(stages) if pixels is not None else [], []
    told = {"model": model, "question": _question(tokens, len(ids) - len(new_tokens) + 1)}
    for site in ("encoder", "projector", *range(len(lm.layers))):
        while pending and pending[0].site == site:
            stage = pending.pop(0)
            if all(token.index is None or token.index < 0 for token in tokens):
                continue
            tokens = _after(model, tokens, stage, choose, row, told)
            orders.append([token.index for token in tokens if token.index is not None])
        if site == 0:
            visual = [token for token in tokens if token.index is not None and token.index >= 0]
            told["llm_input"] = [[token.hidden for token in part] for part in (visual, told["question"])]
        if isinstance(site, int):
            out, weights, _ = _layer(lm, site, _state(tokens))
            told["map"], told["columns"] = weights, {id(token): place for place, token in enumerate(tokens)}
            told["inputs"] = {id(token): token.hidden for token in tokens}
            for token, hidden in zip(tokens, out, strict=True):
                token.hidden = hidden
    hidden = torch.stack([token.hidden for token in tokens[-len(new_tokens) :]])
    return model.lm_head(lm.norm(hidden)), orders


def _question(tokens, n_prompt):
    last = max((place for place, token in enumerate(tokens) if token.index is not None), default=0)
    return tokens[last + 1 : n_prompt]


def _state(tokens):
    return {
        "hidden": torch.stack([token.hidden for token in tokens]),
        "positions": torch.tensor([token.position for token in tokens]),
        "key": torch.ones(len(tokens), dtype=torch.bool),
        "weight": torch.tensor([token.weight for token in tokens], dtype=torch.float64),
    }


def _looked(stage, tokens, visual, told):
    """The stage's signals inside the LLM, from the whole attention map of the layer before (or of the next)."""
    found, question, lm = {}, told["question"], told["model"].model.language_model
    for need in stage.needs:
        if need.kind == "llm_input":
            now = [[token.hidden for token in part] for part in (visual, question)]
            features, text = told.get("llm_input", now)
            found.update(input_features=torch.stack(features), input_text=torch.stack(text))
        elif need.kind == "text_features":
            found["text_features"] = torch.stack([token.hidden for token in question])
        elif need.kind == "sequence_index":
            places = {id(token): place for place, token in enumerate(tokens)}
            found["sequence_index"] = torch.tensor([places[id(token)] for token in visual])
            found["text_index"] = torch.tensor([places[id(token)] for token in question])
        elif need.kind == "prompt_features":
            around = [(place, token) for place, token in enumerate(tokens) if token.index is None]
            found["prompt_features"] = torch.stack([token.hidden for _, token in around])
            found["prompt_index"] = torch.tensor([place for place, _ in around])
        elif need.kind == "previous_features":
            found["previous_features"] = torch.stack([told["inputs"][id(token)] for token in visual])
        elif need.kind == "rotary_similarity":
            width = lm.config.head_dim
            speed = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            apart = torch.tensor([[t.position - v.position for v in visual] for t in question])
            found["rotary_similarity"] = 2 * (apart[..., None] * speed).cos().sum(-1) / width**0.5
        else:
            weights, columns = told["map"], told["columns"]
            if need.layer == "this":
                weights = _attention(lm, lm.layers[stage.site], _state(tokens))[0]
                columns = {id(token): place for place, token in enumerate(tokens)}
            rows = [columns[id(token)] for token in (question[-1:] if need.kind == "last_row" else question)]
            heads = weights[:, rows][:, :, [columns[id(token)] for token in visual]]
            found["head_rows" if need.kind == "head_rows" else "attention_rows"] = (
                heads if need.kind == "head_rows" else heads.mean(0)
            )
    return found


def _after(model, tokens, stage, choose, row, told):
    places = [place for place, token in enumerate(tokens) if token.index is not None and token.index >= 0]
    features = torch.stack([tokens[p].vision if stage.site == "encoder" else tokens[p].hidden for p in places])
    looked = _looked(stage, tokens, [tokens[p] for p in places], told)
    selection = choose(stage, Signals(features=features, **looked), row)
    kept = selection.kept.tolist()
    dropped = [number for number in range(len(places)) if number not in kept]
    extra = [] if selection.extra is None else list(selection.extra)
    changed = [] if selection.features is None else list(selection.features)
    kept_tokens = [tokens[places[number]] for number in kept]
    if stage.rectify:
        for number, carrier in enumerate(selection.assignment.tolist()):
            if number != carrier >= 0:
                tokens[places[carrier]].weight += tokens[places[number]].weight
    for token, feature in zip(kept_tokens, changed, strict=False):
        token.vision, token.hidden = _made(model, stage, feature, token)
    taken = dropped[len(dropped) - len(extra) :]
    added = []
    for number, feature in zip(taken, extra, strict=True):
        vision, hidden = _made(model, stage, feature, tokens[places[number]])
        added.append(Token(hidden, tokens[places[number]].position, -1, vision))
    homes = [places[number] for number in (*kept, *taken)]
    order = range(len(homes)) if selection.sequence is None else selection.sequence.tolist()
    # Nobody jumps over text: stretch by stretch of visual tokens, within each as the selection says.
    text_before = [sum(token.index is None for token in tokens[:home]) for home in homes]
    out = [[*kept_tokens, *added][number] for number in sorted(order, key=lambda number: text_before[number])]
    slots = sorted(homes)
    filled = dict(zip(slots, out, strict=True))
    after = [filled.get(place, token) for place, token in enumerate(tokens) if place in filled or place not in places]
    if stage.positions == "reindex":
        for place, token in enumerate(after):
            token.position = place
    return after


def _made(model, stage, feature, token):
    if stage.site == "encoder":
        return feature, model.model.multi_modal_projector(feature[None])[0]
    return token.vision, feature


def adding(stage, signals, row):
    """Keep as ``ragged`` does and add up to two tokens: the scaled mean of all, and the first minus the last."""
    kept, n = ragged(stage, signals, row).kept, signals.features.shape[0]
    extra = torch.stack([signals.features.mean(0) * 1.5, signals.features[0] - signals.features[-1]])
    return Selection(kept=kept, extra=extra[: n - len(kept)])


def merging_and_adding(stage, signals, row):
    """Like ``adding``, and every kept token is turned around."""
    selection = adding(stage, signals, row)
    return Selection(kept=selection.kept, extra=selection.extra, features=signals.features[selection.kept].flip(1))


def shuffling(stage, signals, row):
    """Like ``adding``, in an order of its own."""
    selection = adding(stage, signals, row)
    generator = torch.Generator().manual_seed(3 + sum(map(ord, str(stage.site))) + row)
    count = len(selection.kept) + len(selection.extra)
    return Selection(kept=selection.kept, extra=selection.extra, sequence=torch.randperm(count, generator=generator))


def only_shuffling(stage, signals, row):
    """Keep everything, the last five first."""
    n = signals.features.shape[0]
    return Selection(kept=torch.arange(n), sequence=torch.arange(n).roll(5))


def exchanging(stage, signals, row):
    """As many tokens as before: the last two are replaced by added ones."""
    kept = torch.arange(signals.features.shape[0] - 2)
    return Selection(kept=kept, extra=signals.features[:2] * 0.5)
