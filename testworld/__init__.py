"""A second drawn world, for testing only: no training script may draw from it.

Written independently of `scenes`; only the words (what can be asked and answered) and the record of a question are
shared. Other shapes, hues, fonts, sizes, backgrounds and things that the model has no word for tell whether the model
has learnt what a red star is, or how `scenes` draws one.
"""

from testworld.types import CROWDED, SINGLE, UNIFORM, Caption, Thing, World
from testworld.world import DEFAULT_SIDE, generate_world

__all__ = ["CROWDED", "DEFAULT_SIDE", "SINGLE", "UNIFORM", "Caption", "Thing", "World", "generate_world"]
