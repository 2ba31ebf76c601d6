"""An oracle for tiny LLaVA: the stock model on prompt and answer, whose layers cannot see some visual tokens."""

import torch

from tokviz.models.prompts import model_inputs


@torch.no_grad()
def masked(vlm, image, question, ids, layer, gone):
    """Log-probability of the answer ``ids`` when the layers from ``layer`` on cannot see visual tokens ``gone``."""
    return masked_stages(vlm, image, question, ids, [(layer, gone)])


@torch.no_grad()
def masked_stages(vlm, image, question, ids, stages):
    """The same where more tokens go layer by layer. stages: pairs of a layer and all that is gone from there on."""
    inputs, _ = model_inputs(vlm, image, question)
    model = vlm.model
    where = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(ids[:-1])], dtype=torch.int64)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    n = inputs["input_ids"].shape[1]

    def see(number):
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        for layer, gone in stages:
            if number >= layer:
                mask[:, where[sorted(gone)]] = False
        mask |= torch.eye(n, dtype=torch.bool)  # a token that nobody sees may see itself
        bias = torch.zeros(1, 1, n, n, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        return lambda _module, args, kwargs: (args, {**kwargs, "attention_mask": bias})

    layers = vlm.family.layers(model)
    hooks = [one.register_forward_pre_hook(see(number), with_kwargs=True) for number, one in enumerate(layers)]
    try:
        logits = model(**inputs, use_cache=False).logits[0, -len(ids) :]
    finally:
        for hook in hooks:
            hook.remove()
    return float(logits.log_softmax(-1)[range(len(ids)), list(ids)].sum())
