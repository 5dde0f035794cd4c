"""Label files of the chest x-ray benchmarks, read as the published evaluation of CARZero reads them."""

from wordsight.data.sources.chestxdet10 import read_chestxdet10
from wordsight.data.sources.chestxray14 import read_chestxray14
from wordsight.data.sources.chexpert import read_chexpert, read_chexpert5x200
from wordsight.data.sources.openi import read_openi
from wordsight.data.sources.padchest import read_padchest
from wordsight.data.sources.table import LabelTable

__all__ = [
    "LabelTable",
    "read_chestxdet10",
    "read_chestxray14",
    "read_chexpert",
    "read_chexpert5x200",
    "read_openi",
    "read_padchest",
]
