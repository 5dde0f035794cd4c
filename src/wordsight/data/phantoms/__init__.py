"""Synthetic medical images with known truth: six sets in the benchmark's layout, drawn by seed, no files shipped.

They are for trying, testing and teaching; they know nothing of patients.
"""

from wordsight.data.phantoms.common import Phantom, stream
from wordsight.data.phantoms.sets import MASKED, SETS, draw_phantom
from wordsight.data.phantoms.sheet import contact_sheet
from wordsight.data.phantoms.write import write_phantoms

__all__ = ["MASKED", "SETS", "Phantom", "contact_sheet", "draw_phantom", "stream", "write_phantoms"]
