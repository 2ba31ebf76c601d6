"""Which signals come from where: the kinds of ``Need`` grouped by who can answer them."""

from __future__ import annotations

VISION_KINDS = (
    "cls_attention", "cls_logits", "cls_full_width", "cls_feature", "encoder_keys", "full_keys", "received_attention",
)  # fmt: skip
"""Read off the vision tower, in the block that ``Need.block`` names."""

MEAN_ROW_KINDS = ("last_row", "text_rows")
"""Fill ``Signals.attention_rows``; a stage can have one of them."""

ATTENTION_KINDS = (*MEAN_ROW_KINDS, "head_rows")
"""Rows of one LLM block's attention."""

LLM_BLOCK_KINDS = (*ATTENTION_KINDS, "key_norms")
"""Made of the queries and keys of the LLM block that ``Need.block`` names."""

INSIDE_LLM_KINDS = (*LLM_BLOCK_KINDS, "rotary_similarity", "previous_features", "normed_features")
"""Exist only for stages before an LLM block."""

TEXT_KINDS = (
    "text_features", "question_features", "llm_input", "normed_features", "rotary_similarity", *LLM_BLOCK_KINDS,
)  # fmt: skip
"""Look at the tokens behind the last visual token, guessed ones included."""
