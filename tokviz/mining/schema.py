"""The two tables of a mined run: a row per case, and a row per case, method, budget and seed. No torch.

docs/mining.md tells what every column means; a test keeps the two in step.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..errors import need

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
"""Version of a run folder. Folders of another version are not read."""

_CASES = """
case_id string, ordinal int32, question string, answers [string], metric text, family text, split text, image string,
video string, media_sha256 string, media_width int32, media_height int32, n_tokens int32, grid_rows int32,
grid_cols int32, grid text, frames [int32], evidence [[double]], evidence_frames [int32], evidence_tokens int32,
evidence_size double, answer string, right bool, score double, margin double, logprob double, cls_entropy double,
effective_rank double, difficult bool, thumbnail binary, features [halffloat], others string, model text,
warnings [string], error string
"""
_ROWS = """
case_id string, ordinal int32, method text, method_id text, params text, kind text, budget int32, budget_as text,
seed int64, answer string, right bool, score double, outcome text, flipped bool, margin double, logprob double,
reference_logprob double, kept binary, n_kept int32, n_final int32, average_tokens double, evidence_kept double,
evidence_absorbed double, evidence_lost double, evidence_gone_layer int32, only_failure bool, all_failed bool,
random_beats_it bool, unpruned_wrong bool, agreement double, flip_budget int32, effective_rank double, layers text,
warnings [string], error string
"""


@cache
def schema_of(table: str) -> pyarrow.Schema:
    """Return the columns of ``"cases"`` or ``"rows"``.

    Raises:
        BadInput: If pyarrow is not installed.
    """
    need("pyarrow", "mine", "A mined run")
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "text": pa.dictionary(pa.int32(), pa.string()),  # few different ones: the file holds each of them once
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
        "[string]": pa.list_(pa.string()),
        "[int32]": pa.list_(pa.int32()),
        "[halffloat]": pa.list_(pa.float16()),
        "[[double]]": pa.list_(pa.list_(pa.float64())),
    }
    pairs = [column.split() for column in {"cases": _CASES, "rows": _ROWS}[table].split(",")]
    return pa.schema([(name, types[kind]) for name, kind in pairs])
