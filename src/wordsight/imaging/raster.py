"""PNG, JPEG, TIFF and BMP through Pillow, with all 16 bits, alpha on black and EXIF orientation applied."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from wordsight.errors import ImageError
from wordsight.imaging.source import Format, check_limit, decoding

# The format classes are used instead of PIL.Image.open: the limit is ours to set per call, not Pillow's global one.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR = 0x0112, 258, 262, 284


@dataclass(frozen=True, slots=True)
class Raster:
    """Stored values before scaling to [0, 1].

    values: (H, W) or (H, W, 3). full: the value that is white; None where the file does not say (signed or
    floating-point values outside [0, 1]). bits, photometric: as in wordsight.types.Image.
    """

    values: NDArray[Any]
    full: float | None
    bits: int
    photometric: str


def _open(stream: BinaryIO, kind: Format, name: str, frame: int | None, max_pixels: int) -> ImageFile.ImageFile:
    image = _READERS[kind](stream)
    count = _frames(image, kind)
    if frame is not None and not 0 <= frame < count:
        raise ImageError(f"{name}: expected a frame from 0 to {count - 1}, got {frame}. The file has {count}.")
    if frame and kind == "tiff":
        image.seek(frame)
    check_limit(name, image.height, image.width, max_pixels)
    return image


def _frames(image: ImageFile.ImageFile, kind: Format) -> int:
    """Pages of a TIFF; the other formats count as one image (of an animation, the default image)."""
    return int(getattr(image, "n_frames", 1)) if kind == "tiff" else 1


def count_raster(stream: BinaryIO, kind: Format, name: str) -> int:
    """Number of pages. Raises ImageError for a damaged header."""
    with decoding(name, kind.upper() + " file"):
        return _frames(_READERS[kind](stream), kind)


def _swapped(rawmode: str) -> str:
    """The raw mode that unpacks the other byte of each 16-bit sample."""
    if rawmode.endswith("N"):
        rawmode = rawmode[:-1] + ("L" if sys.byteorder == "little" else "B")
    return rawmode[:-1] + ("B" if rawmode.endswith("L") else "L")


def _decode_as(image: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """Decode with another raw mode of the same sample size."""
    image.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tuple(tile.args or ())[1:]))
        for tile in image.tile
    ]
    return np.asarray(image)


def _deep_colour(
    stream: BinaryIO, kind: Format, name: str, frame: int | None, max_pixels: int, rawmode: str
) -> NDArray[np.uint16]:
    """All 16 bits of a colour image; Pillow unpacks one byte of each sample, so it is decoded once for each byte."""
    halves = []
    if rawmode == "LA;16B":
        stream.seek(0)
        four = _decode_as(_open(stream, kind, name, frame, max_pixels), "RGBA").astype(np.uint16)
        return np.asarray(four[..., 0::2] << 8 | four[..., 1::2], dtype=np.uint16)
    for mode in (rawmode, _swapped(rawmode)):
        stream.seek(0)
        halves.append(_decode_as(_open(stream, kind, name, frame, max_pixels), mode).astype(np.uint16))
    return np.asarray(halves[0] << 8 | halves[1], dtype=np.uint16)


def _rawmode(image: ImageFile.ImageFile) -> str:
    args: Any = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str(args[0]) if args else ""


def on_black(values: NDArray[Any]) -> NDArray[Any]:
    """Colour or grey with alpha last, (H, W, 2) or (H, W, 4) unsigned -> without alpha, composited on black.

    Fully transparent pixels become 0 whatever colour they hold; opaque pixels are unchanged. Rounds half up.
    """
    top = np.iinfo(values.dtype).max
    wide = values.astype(np.uint64)
    shown = ((wide[..., :-1] * wide[..., -1:] + top // 2) // top).astype(values.dtype)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation (1..8); other values count as upright."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(values, flips) if flips else values


def _numeric(image: ImageFile.ImageFile, name: str) -> Raster:
    """Grey images of more than 8 bits."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        top = 2**bits - 1
        values = values.astype(np.uint16)
        if tags.get(_PHOTOMETRIC) == 0:
            return Raster((top - values).astype(np.uint16), top, bits, "WhiteIsZero")
        return Raster(values, top, bits, image.mode)
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: expected finite pixel values, got NaN or infinity. Replace them before reading.")
    if image.mode == "F" and values.size and values.min() >= 0 and values.max() <= 1:
        return Raster(values, 1.0, 32, "F")
    return Raster(values, None, 32, f"{image.mode} (min-max)")


def _eight_bit(image: ImageFile.ImageFile, name: str) -> tuple[NDArray[Any], int]:
    """Values of a mode with at most 8 bits a sample, alpha composited; and the bits."""
    if image.mode == "1":
        return np.asarray(image, dtype=np.uint8) * np.uint8(255), 1
    if image.has_transparency_data:
        target = "LA" if image.mode in ("L", "LA", "La") else "RGBA"
        return on_black(np.asarray(image.convert(target))), 8
    if image.mode == "L":
        return np.asarray(image), 8
    if image.mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        return np.asarray(image.convert("RGB")), 8
    raise ImageError(f"{name}: expected a grey, palette or RGB image, got mode {image.mode}. Convert it to RGB first.")


def _values(stream: BinaryIO, kind: Format, name: str, frame: int | None, max_pixels: int) -> tuple[Raster, int]:
    """Stored values as they lie in the file, and the EXIF orientation."""
    stream.seek(0)
    image = _open(stream, kind, name, frame, max_pixels)
    rawmode = _rawmode(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR) == 2 and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
        raise ImageError(
            f"{name}: expected interleaved samples, got 16-bit colour planes. Save it interleaved (chunky)."
        )
    if ";16" in rawmode and image.mode in ("RGB", "RGBA", "LA"):
        orientation = image.getexif().get(_ORIENTATION, 1)
        # Premultiplied samples ("RGBa") already are what compositing on black gives.
        deep = _deep_colour(stream, kind, name, frame, max_pixels, rawmode.replace("a", "A"))
        values = deep[..., :3] if rawmode.startswith("RGBa") or image.mode == "RGB" else on_black(deep)
        return Raster(values, 65535.0, 16, f"{rawmode.split(';')[0]};16"), orientation
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _numeric(image, name), orientation
    values, bits = _eight_bit(image, name)
    return Raster(values, 255.0, bits, image.mode), orientation


def read_raster(stream: BinaryIO, kind: Format, name: str, frame: int | None, max_pixels: int) -> Raster:
    """Stored values of one image or TIFF page, upright.

    Integer PNG and TIFF keep their 16 bits (white is 65535, or 2^bits - 1). TIFF with signed 16-bit, 32-bit or
    floating-point values outside [0, 1] has no white: `full` is None and the caller scales by minimum and maximum.
    Raises ImageTooLarge from the header, ImageError for anything damaged or truncated.
    """
    with decoding(name, kind.upper() + " file"):
        raster, orientation = _values(stream, kind, name, frame, max_pixels)
        values = np.ascontiguousarray(_upright(raster.values, orientation))
    return Raster(values, raster.full, raster.bits, raster.photometric)
