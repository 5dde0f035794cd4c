"""PNG encoding for pictures full of noise: no row filters, and no search for repetitions that are not there."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError


def _chunk(name: bytes, content: bytes) -> bytes:
    """Length, name, content and checksum (PNG specification, third edition, 5.3)."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of an 8-bit PNG file.

    pixels: (H, W) grey or (H, W, 3) RGB uint8. Raises ImageError for any other shape or type.
    """
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or pixels.size == 0 or not (colour or pixels.ndim == 2):
        raise ImageError(
            f"expected uint8 pixels of shape (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}. "
            "Convert them first."
        )
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + pixels.size // height), dtype=np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = pixels.reshape(height, -1)
    # A mask is nearly constant: run lengths make it tiny. Noise is stored as it is: packing it saves a third of the
    # bytes of grey pictures, and takes a tenth to a third of the time that drawing them takes.
    flat = not colour and bool((rows[:, 1:].min() == rows[:, 1:]).mean() > 0.5)
    packer = zlib.compressobj(1 if flat else 0, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if colour else 0, 0, 0, 0)
    data = packer.compress(rows.tobytes()) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
