"""An independent oracle: own loop over the layers, one sequence at a time, nothing is ever removed.

The sequence keeps its full length; dropped tokens are masked out as keys from their stage on (one 4D-style mask per
layer). No cache, no padding, own attention arithmetic, own positions. Signals are read off its own full attention maps.
What a stage cuts from the cache of earlier layers, new tokens do not see there: they are run again once that is known.
"""

from __future__ import annotations

import torch
from tiny_case import Case
from tiny_families import CASES
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tokviz.types import Signals


def oracle(model, inputs, stages, choose, new_tokens, case: Case = CASES["llava"]):
    """Logits that predict each of ``new_tokens``, and what every stage kept in original indices.

    Shape: new_tokens ``(B, T)`` -> logits ``(T, B, V)``; kept per row, a list of lists.
    """
    logits, kept = [], []
    images = case.seen(model, inputs)
    for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
        ids = ids[real]
        # A row of a pruned batch must not depend on its neighbours: each is computed alone.
        one = case, model, ids, images[row], stages, choose, row, new_tokens[row]
        row_logits, row_kept, cut = _one(*one)
        if cut:
            row_logits, row_kept, _ = _one(*one, cut)
        logits.append(row_logits)
        kept.append(row_kept)
    return torch.stack(logits, dim=1), kept


@torch.no_grad()
def _one(case, model, ids, seen, stages, choose, row, new_tokens, cut=()):
    """Logits, kept tokens, and what stages cut from the cache of earlier layers: pairs of layer and columns.

    cut: those pairs, of a first run.
    """
    lm, n_prompt = case.language_model(model), len(ids)
    sequence = torch.cat([ids, new_tokens[:-1]])
    hidden = lm.embed_tokens(sequence)
    where = case.is_visual(sequence[:n_prompt]).nonzero()[:, 0]
    features = None
    if seen is not None:
        features, hidden[where] = seen.features, seen.embeddings
    alive = torch.arange(len(where))
    state = {"hidden": hidden, "key": torch.ones(len(sequence), dtype=torch.bool), "maps": {}, "inputs": {}, "keys": {}}
    state["weight"] = torch.ones(len(sequence), dtype=torch.float64)
    state |= {"cut": cut, "n_prompt": n_prompt, "layer": 0}
    now_cut = []
    state["positions"] = torch.arange(len(sequence))
    if not case.here.reindexes:
        state["positions"] = state["positions"].expand(3, -1)
    if seen is not None and seen.positions is not None:
        # generate goes on from the last token; a video's time can run ahead of it.
        fresh = torch.arange(1, len(sequence) - n_prompt + 1) + seen.positions[0, -1]
        state["positions"] = torch.cat([seen.positions, fresh.expand(len(seen.positions), -1)], dim=1)
    kept_by_stage = []
    pending = list(stages) if len(where) else []

    def run(site):
        nonlocal alive, features
        while pending and pending[0].site == site:
            stage = pending.pop(0)
            if not len(alive):
                continue
            columns = where[alive]
            signals = _signals(lm, stage, state, columns, features, where, n_prompt)
            selection = choose(stage, signals, row)
            dropped = torch.ones(len(alive), dtype=torch.bool)
            dropped[selection.kept] = False
            if site == "encoder":
                features = features[selection.kept] if selection.features is None else selection.features
                if selection.features is not None:  # what the tower never saw keeps its embedding
                    patch = seen.is_patch[alive[selection.kept]]
                    projected = case.project(model, features)
                    state["hidden"][columns[selection.kept][patch]] = projected[patch]
            elif selection.features is not None:
                state["hidden"][columns[selection.kept]] = selection.features
            if stage.rectify:
                for token, carrier in enumerate(selection.assignment.tolist()):
                    if token != carrier >= 0:
                        state["weight"][columns[carrier]] += state["weight"][columns[token]]
            state["key"][columns[dropped]] = False
            if stage.positions == "reindex":
                state["positions"] = (state["key"].cumsum(0) - 1).clamp(min=0)
            alive = alive[selection.kept]
            if stage.cuts_cache:  # and with it what earlier stages dropped
                now_cut.append((site, where[~torch.isin(torch.arange(len(where)), alive)]))
            kept_by_stage.append(alive.tolist())

    run("encoder")
    run("projector")
    state["llm_input"] = state["hidden"].clone(), where[alive]
    for number in range(len(lm.layers)):
        run(number)
        state["inputs"][number], state["layer"] = state["hidden"].clone(), number
        state["hidden"], state["maps"][number], state["keys"][number] = _layer(lm, number, state)
        if seen is not None and number < len(seen.deepstack):
            state["hidden"][where] += seen.deepstack[number]  # of dropped tokens, too: nobody looks at them
    return model.lm_head(lm.norm(state["hidden"]))[n_prompt - 1 :], kept_by_stage, now_cut


def _layer(lm, number, state):
    layer, hidden = lm.layers[number], state["hidden"]
    weights, value, key = _attention(lm, layer, state)
    mixed = (weights.to(value.dtype) @ value).transpose(0, 1).flatten(1)
    hidden = hidden + layer.self_attn.o_proj(mixed)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), weights, key


def _attention(lm, layer, state):
    hidden, length = state["hidden"], len(state["key"])
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        getattr(attention, f"{name}_norm", torch.nn.Identity())(
            getattr(attention, f"{name}_proj")(normed).view(length, -1, attention.head_dim)
        ).transpose(0, 1)
        for name in "qkv"
    )
    cos, sin = lm.rotary_emb(hidden, state["positions"][..., None, :])  # with or without axes in front
    query, key = (x[0] for x in apply_rotary_pos_emb(query[None], key[None], cos, sin))
    groups, own = query.shape[0] // key.shape[0], key
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    logits = query @ key.transpose(1, 2) * attention.head_dim**-0.5
    logits = logits + state["weight"].log().to(logits.dtype)  # of a merged token: of all that it carries
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & state["key"]
    for site, columns in state.get("cut", ()):
        if state["layer"] < site:
            allowed[state["n_prompt"] :, columns] = False
    allowed |= torch.eye(length, dtype=torch.bool)  # a dropped token looks at itself; nobody looks at it
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1), value, own


def _signals(lm, stage, state, columns, features, where, n_prompt):
    found = {"features": features if stage.site == "encoder" else state["hidden"][columns]}
    question = slice(int(where[-1]) + 1, n_prompt)
    for need in stage.needs:
        if need.kind == "text_features":
            found["text_features"] = state["hidden"][question]
        elif need.kind == "sequence_index":
            index = state["key"].cumsum(0) - 1
            found.update(sequence_index=index[columns], text_index=index[question])
        elif need.kind == "prompt_features":
            around = state["key"].clone()
            around[columns] = False
            around[n_prompt:] = False
            found.update(prompt_features=state["hidden"][around], prompt_index=(state["key"].cumsum(0) - 1)[around])
        elif need.kind == "previous_features":
            found["previous_features"] = state["inputs"][stage.site - 1][columns]
        elif need.kind in ("last_row", "text_rows", "head_rows", "key_norms"):
            if need.layer == "this":
                weights, _, keys = _attention(lm, lm.layers[stage.site], state)
            else:
                weights, keys = state["maps"][stage.site - 1], state["keys"][stage.site - 1]
            if need.kind == "key_norms":
                wide = keys.transpose(0, 1).flatten(1).abs().sum(1)
                found.update(key_norms=wide[columns], text_key_norms=wide[question])
            elif need.kind == "head_rows":
                found["head_rows"] = weights[:, question][:, :, columns]
            else:
                rows = slice(n_prompt - 1, n_prompt) if need.kind == "last_row" else question
                found["attention_rows"] = weights.mean(0)[rows][:, columns]
        elif need.kind == "rotary_similarity":
            # (1, 1) turned by two angles: the product of the two is 2 cos of their difference, pair by pair.
            width = lm.config.head_dim
            speed = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            apart = state["positions"][question][:, None] - state["positions"][columns]
            found["rotary_similarity"] = 2 * (apart[..., None] * speed).cos().sum(-1) / width**0.5
        elif need.kind == "values":
            layer = lm.layers[stage.site - 1]
            wide = layer.self_attn.v_proj(layer.input_layernorm(state["inputs"][stage.site - 1]))
            values = wide.view(len(wide), -1, layer.self_attn.head_dim)
            other = [place for place in range(n_prompt) if place not in where and place <= where[-1]]
            found.update(values=values[columns], text_values=values[question], other_values=values[other])
        elif need.kind == "rotary_means":
            width = lm.layers[0].self_attn.head_dim
            base = lm.config.rope_parameters["rope_theta"]
            speed = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            turned = (state["positions"][..., columns, None] * speed).reshape(-1, len(columns), len(speed))
            found["rotary_means"] = torch.stack([turned.cos().mean((0, 2)), turned.sin().mean((0, 2))], 1)
        elif need.kind == "llm_input":
            entered, visual = state.get("llm_input", (state["hidden"], columns))
            found.update(input_features=entered[visual], input_text=entered[question])
        elif need.kind == "normed_features":
            found.update(
                normed_features=lm.norm(state["hidden"][columns]), normed_text=lm.norm(state["hidden"][question])
            )
        else:
            raise AssertionError(f"the oracle has no {need.kind}")
    return Signals(**found)
