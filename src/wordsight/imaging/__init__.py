"""Files to images, images to arrays: readers, preparation and the way back."""

from __future__ import annotations

from wordsight.imaging.prepare import CARZERO_INPUT, InputSpec, Prepared, mla_input, prepare, prepare_mask, prepared
from wordsight.imaging.read import image_count, read_image, read_many, read_mask, read_record
from wordsight.imaging.source import DEFAULT_MAX_PIXELS, sniff
from wordsight.imaging.windows import CT_WINDOWS

__all__ = [
    "CARZERO_INPUT",
    "CT_WINDOWS",
    "DEFAULT_MAX_PIXELS",
    "InputSpec",
    "Prepared",
    "image_count",
    "mla_input",
    "prepare",
    "prepare_mask",
    "prepared",
    "read_image",
    "read_many",
    "read_mask",
    "read_record",
    "sniff",
]
