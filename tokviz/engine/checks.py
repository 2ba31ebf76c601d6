"""What cannot be pruned, said in a sentence before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..names import Site, VisionLayer
from ..types import Need, Stage
from .cache import PrunedCache
from .capture import is_hub_kernel
from .layer_signals import LLM_LAYER_KINDS, MEAN_ROW_KINDS
from .signals import INSIDE_LLM_KINDS, TEXT_KINDS
from .vision_signals import VISION_KINDS, tower_layer

_VISION, _ENCODER, _PROJECTOR, _LLM = range(4)


def _order(site: Site) -> tuple[int, int]:
    """Sites in the order in which a prompt passes them."""
    if isinstance(site, VisionLayer):
        return _VISION, site.vision_layer
    if isinstance(site, int):
        return _LLM, site
    return (_ENCODER if site == "encoder" else _PROJECTOR), 0


def check_model(model: Any, family: ModelFamily) -> None:
    """Raises Unsupported for attention kernels, layer types and generation settings that pruning cannot serve."""
    if hasattr(model, "_orig_mod"):
        raise Unsupported("Compiled models cannot be pruned; pass the model as it was before torch.compile.")
    # model.compile() changes a module in place, and a part may have been wrapped or compiled for itself.
    if any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules()):
        raise Unsupported(
            "The model, or a part of it, was compiled in place, and compiled models cannot be pruned; load it again "
            "and leave out compile()."
        )
    text = family.language_model(model).config
    kernel = str(text._attn_implementation)
    if kernel not in ("eager", "sdpa") and not kernel.startswith("flash_attention") and not is_hub_kernel(kernel):
        raise Unsupported(f"Attention kernel {kernel!r} cannot be pruned; load the model with sdpa or flash attention.")
    kinds = getattr(text, "layer_types", None)
    sliding = any(kind != "full_attention" for kind in kinds) if kinds else getattr(text, "sliding_window", None)
    if sliding:
        raise Unsupported("Models with sliding-window or linear attention layers cannot be pruned.")
    settings = getattr(model, "generation_config", None)
    cache = getattr(settings, "cache_implementation", None)
    if cache not in (None, "dynamic"):
        raise Unsupported(f"Cache implementation {cache!r} cannot be pruned; use the default dynamic cache.")
    if getattr(settings, "prefill_chunk_size", None):
        raise Unsupported("Chunked prefill cannot be pruned; set prefill_chunk_size to None.")


def check_kernel(model: Any, family: ModelFamily) -> None:
    """Raises Unsupported for attention kernels that have no place for what is added to their logits."""
    kernel = str(family.language_model(model).config._attn_implementation)
    if kernel not in ("eager", "sdpa"):
        raise Unsupported(
            f"To weigh merged tokens (rectify), ln(group size) is added to attention logits, which kernel {kernel!r} "
            "cannot do; load the model with sdpa or eager attention, or switch rectify off."
        )


def check_stages(model: Any, family: ModelFamily, stages: Sequence[Stage], needs: Sequence[Need]) -> None:
    """Raises Unsupported when a stage's site or a signal it needs does not exist in this model."""
    n_layers = len(family.layers(model))
    order = [_order(stage.site) for stage in stages]
    if order != sorted(order):
        raise Unsupported(
            "Stages must come in the order vision layers, encoder, projector, then LLM layers from first to last."
        )
    for stage in stages:
        if isinstance(stage.site, int) and not 0 <= stage.site < n_layers:
            raise Unsupported(
                f"This model has layers 0..{n_layers - 1}; there is no layer {stage.site} to prune before."
            )
        if stage.positions == "reindex" and not family.reindexes:
            raise Unsupported(
                f"Stage {stage.title!r} renumbers positions, and those of this model have several axes; tokens keep "
                "theirs here (positions='keep')."
            )
        if stage.site == "encoder" and not family.has_encoder_site(model):
            raise Unsupported(
                f"Stage {stage.title!r} lies before the projector, where this model has patches, several of which "
                "become one token; put it behind the projector."
            )
        _check_needs(stage)
    if any(stage.rectify for stage in stages):
        check_kernel(model, family)
    _check_merging(stages)
    for need in (*needs, *(need for stage in stages for need in stage.needs)):
        if need.kind.startswith("cls_") and not family.has_cls(model):
            raise Unsupported("This model's vision tower has no [CLS] token; choose a method that does not look at it.")
        if need.kind == "received_attention" and family.has_cls(model):
            raise Unsupported("This model's vision tower has a [CLS] token; look at its attention instead.")
        if need.kind == "clip_relevance":
            raise Unsupported(
                "This method compares patches with the question by CLIP's text tower, which is not loaded with this "
                "model; choose a method that does without."
            )
        if need.kind in VISION_KINDS and need.kind != "encoder_features":
            family.vision_attention(model, tower_layer(need))


def _check_merging(stages: Sequence[Stage]) -> None:
    """What stages inside vision layers, and those behind them, cannot look at."""
    merging = [stage for stage in stages if isinstance(stage.site, VisionLayer)]
    for stage in merging:
        if stage.needs:
            raise Unsupported(
                f"Stage {stage.title!r} lies inside the vision tower, where there is nothing to look at but the "
                "features and keys of its layer, which it gets without asking."
            )
    for stage in stages[len(merging) :] if merging else ():
        if any(need.kind in VISION_KINDS for need in stage.needs):
            raise Unsupported(
                f"Stage {stage.title!r} looks into the vision tower as it ran with all tokens; behind merging inside "
                "the tower there is no such run of these tokens."
            )


def check_hooks(stages: Sequence[Stage]) -> None:
    """Raises Unsupported for stages that hooks in a running model cannot carry out."""
    if any(isinstance(stage.site, VisionLayer) for stage in stages):
        raise Unsupported(
            "Stages inside the vision tower run it a second time, from the pixels: give prune() the inputs, or a "
            "prompt from encode(), and call generate with its pruned.inputs."
        )


def _check_needs(stage: Stage) -> None:
    inside = [need for need in stage.needs if need.kind in INSIDE_LLM_KINDS]
    single = {
        "attention maps": MEAN_ROW_KINDS,
        "attention maps of all heads": ("head_rows",),
        "layers' keys": ("key_norms",),
    }
    for what, kinds in single.items():
        count = len({need for need in stage.needs if need.kind in kinds})
        if count > 1:
            raise Unsupported(f"Stage {stage.title!r} asks for {count} {what}; a stage can look at one.")
    if not isinstance(stage.site, int):
        if inside:
            raise Unsupported(f"Stage {stage.title!r} lies before the LLM, where there is no LLM attention to look at.")
        if stage.site != "projector" and any(need.kind == "llm_input" for need in stage.needs):
            raise Unsupported(
                f"Stage {stage.title!r} lies before the projector and asks for what enters the LLM, which does not "
                "exist there yet."
            )
    elif stage.site == 0 and any(
        n.kind in ("previous_features", "values") or (n.kind in LLM_LAYER_KINDS and n.layer != "this") for n in inside
    ):
        raise Unsupported(f"Stage {stage.title!r} looks at the layer before it; there is none before layer 0.")


def check_call(kwargs: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    """Raises Unsupported for arguments of the model's own forward that make no sense on a shortened sequence."""
    if kwargs.get("labels") is not None:
        raise Unsupported("Labels do not fit a shortened sequence; pruning serves inference only.")
    # Assisted generation and prompt lookup append guessed tokens to the prompt and ask for so many more logits.
    guesses = kwargs.get("logits_to_keep")
    if isinstance(guesses, int) and guesses > 1 and any(n.kind in TEXT_KINDS for s in stages for n in s.needs):
        raise Unsupported(
            "Assisted generation puts guessed tokens behind the question, which this method reads; generate without it."
        )


def check_cache(cache: Any) -> None:
    """Raises Unsupported for every cache that is not a plain DynamicCache."""
    if cache is None:
        return
    if type(cache) not in (DynamicCache, PrunedCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise Unsupported(
            f"A {type(cache).__name__} with these layers cannot be pruned (static, quantised, sliding and offloaded "
            "caches keep their own shape); use the default dynamic cache."
        )
    if getattr(cache, "offloading", False):
        raise Unsupported("Offloaded caches cannot be pruned; use the default dynamic cache.")


def copied_mask(mask: Tensor, like: Tensor, what: str, other: str) -> Tensor:
    """A caller's mask ``(b, L)`` as bool, repeated for copies of its rows (beams), on the device of ``like (B, L)``.

    Raises Unsupported, with the names of the two, where it is not the mask of this very prompt.
    """
    copies, rest = divmod(like.shape[0], mask.shape[0])
    if rest or mask.shape[1] != like.shape[1]:
        shapes = f"{tuple(mask.shape)} but the {other} {tuple(like.shape[:2])}"
        raise Unsupported(f"The {what} mask is {shapes}; give the mask of this very prompt.")
    return mask.to(like.device, torch.bool).repeat_interleave(copies, dim=0)


def check_modalities(input_ids: Tensor, visual_token_ids: Sequence[int]) -> None:
    """Raises Unsupported for prompts that hold images and videos: they are encoded apart, whatever their order."""
    present = [token for token in visual_token_ids if bool((input_ids == token).any())]
    if len(present) > 1:
        raise Unsupported("A prompt with both images and videos cannot be pruned; ask about one of the two.")


def check_axes(family: ModelFamily, positions: Tensor | None, visual: Tensor) -> None:
    """Raises Unsupported when a model with several position axes was not told which tokens are visual.

    Without ``mm_token_type_ids``, transformers counts images like text, silently, and the model answers badly: then
    all axes rise by one from a visual token to its neighbour, which no image's rows and columns do.
    Shape: positions ``(B|1, L)`` or ``(axes, B|1, L)``, visual ``(B, L)`` bool.
    """
    if family.reindexes or not bool(visual.any()):
        return
    if positions is None or positions.dim() == 2:
        as_text = True
    else:
        beside = visual[:, 1:] & visual[:, :-1]
        as_text = bool(((positions.diff(dim=-1) == 1).all(dim=0) & beside.to(positions.device)).any())
    if as_text:
        raise Unsupported(
            "The images of this prompt have the positions of text: pass mm_token_type_ids and image_grid_thw as the "
            "processor made them."
        )


def check_prompt(real: Tensor, visual: Tensor) -> None:
    """Raises Unsupported for prompts whose shape pruning cannot keep right. Shape: real, visual ``(B, L)`` bool."""
    if not bool(real[:, -1].all()):
        raise Unsupported("Pad the batch on the left: a pruned sequence must end in its last real token.")
    if bool(visual[:, -1].any()):
        raise Unsupported(
            "The prompt ends in an image, or arrives in chunks; put the question behind it, in one piece."
        )
