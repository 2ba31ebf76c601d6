"""Building blocks that methods share.

Everything is computed in float32 whatever comes in, ties go to the lowest index, and no building block holds more than
``scratch_limit`` beside its inputs. How tokens are picked one after the other lives in ``sampling.py``.
"""

from .merging import Merge as Merge
from .merging import group_sums as group_sums
from .merging import merge_into_nearest as merge_into_nearest
from .merging import nearest_by_cosine as nearest_by_cosine
from .merging import reconstruction_error as reconstruction_error
from .ranking import evenly_spaced as evenly_spaced
from .ranking import fill_up as fill_up
from .ranking import highest as highest
from .ranking import sanitised as sanitised
from .ranking import ties_at_threshold as ties_at_threshold
from .ranking import top_k as top_k
from .rows import BLOCK_BYTES as BLOCK_BYTES
from .rows import SCRATCH_BYTES as SCRATCH_BYTES
from .rows import candidate_rows as candidate_rows
from .rows import complement as complement
from .rows import kept_rows as kept_rows
from .rows import required as required
from .rows import row_blocks as row_blocks
from .rows import row_lengths as row_lengths
from .rows import scratch_limit as scratch_limit
from .rows import spread as spread
from .rows import take_rows as take_rows
from .rows import unit_rows as unit_rows
from .rows import usable_rows as usable_rows
from .rows import whole_groups as whole_groups
from .rows import without as without
