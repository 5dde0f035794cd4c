"""Where an image comes from: opening files and bytes, telling formats by their content, keeping limits and errors."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from wordsight.errors import ImageError, ImageTooLarge, SettingsError

Format = Literal["png", "jpeg", "tiff", "bmp", "dicom", "nifti"]

DEFAULT_MAX_PIXELS = 178_956_970
"""Pixels per image or frame that are read by default; Pillow refuses at the same count (512 MiB of 8-bit RGB)."""

_HEAD = 4096
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VR = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def check_limit(name: str, height: int, width: int, max_pixels: int) -> None:
    """Raise ImageTooLarge if a header announces more than `max_pixels`, ImageError if it announces none."""
    if max_pixels < 1:
        raise SettingsError(f"expected max_pixels of at least 1, got {max_pixels}.")
    if height < 1 or width < 1:
        raise ImageError(f"{name}: expected at least one pixel, got a header of {height} x {width}. Check the file.")
    if height * width > max_pixels:
        raise ImageTooLarge(
            f"{name}: expected at most {max_pixels} pixels, got a header of {height} x {width}. "
            "Raise max_pixels if the file is trusted."
        )


@contextmanager
def decoding(name: str, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged bytes into ImageError, and keep its warnings quiet.

    Decoders promise no closed set of exceptions for bad input, so `Exception` is caught here and nowhere else. Those
    written in Rust (RLE) panic, which arrives as a PanicException outside `Exception`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, SettingsError):
        raise
    except MemoryError as error:
        raise ImageTooLarge(f"{name}: this {what} needs more memory than there is. Use a smaller image.") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(
            f"{name}: expected a readable {what}, got one that is damaged, truncated or of an unsupported kind "
            f"({reason}). Export it again or leave it out."
        ) from error


def describe(source: str | os.PathLike[str] | bytes) -> str:
    """Name of a source for messages."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


@contextmanager
def opened(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    """A seekable binary stream over a file or bytes. Raises ImageError for what is missing, empty or not a file."""
    name = describe(source)
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{name}: expected an image file, got no bytes.")
        yield io.BytesIO(source)
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{name}: expected an image file, got a folder. Name a file in it.")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name}: expected an image file, got a device or pipe. Give a regular file.")
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{name}: expected a readable file, got {reason}. Check the path and its permissions."
        ) from error
    with stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise ImageError(f"{name}: expected an image file, got an empty file. Copy or download it again.")
        yield stream


def stream_size(stream: BinaryIO) -> int:
    """Bytes in a seekable stream; the position is kept."""
    here = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return size


def is_gzip(head: bytes) -> bool:
    """Whether bytes begin as a gzip member."""
    return head[:3] == b"\x1f\x8b\x08"


def _gunzipped_head(head: bytes) -> bytes:
    """At most the first 600 bytes of a gzip stream."""
    try:
        return zlib.decompressobj(31).decompress(head, 600)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    for order in "<>":
        if len(head) >= 348 and struct.unpack(order + "i", head[:4])[0] == 348:
            return head[344:348] in (b"n+1\0", b"ni1\0")
        if len(head) >= 540 and struct.unpack(order + "i", head[:4])[0] == 540:
            return head[4:8] in (b"n+2\0", b"ni2\0")
    return False


def _is_bare_dicom(head: bytes) -> bool:
    """Whether bytes look like a DICOM data set without preamble: a low group, then a VR or a believable length."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(order + "HH", head[:4])
        if group not in (0x0002, 0x0008) or element > 0x0060:
            continue
        length = struct.unpack(order + "I", head[4:8])[0]
        if head[4:6] in _VR or (length < len(head) and length % 2 == 0):
            return True
    return False


def sniff_head(head: bytes) -> Format | None:
    """The format that the first bytes of a file announce."""
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:4] in _TIFF:
        return "tiff"
    if head[:2] == b"BM" and len(head) >= 26 and struct.unpack("<I", head[14:18])[0] in _BMP_HEADERS:
        return "bmp"
    if _is_nifti(_gunzipped_head(head) if is_gzip(head) else head):
        return "nifti"
    return "dicom" if _is_bare_dicom(head) else None


def sniff_stream(stream: BinaryIO) -> Format | None:
    """As `sniff_head`; the stream is left at its start."""
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(0)
    return sniff_head(head)


def sniff(source: str | os.PathLike[str] | bytes) -> Format | None:
    """Which image format a file or bytes hold, by content and never by suffix; None if none that is read here.

    Only the first 4 kB are looked at, so the rest may still be damaged. An empty file is None.
    Raises ImageError if the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        return sniff_head(source[:_HEAD])
    if Path(source).is_file() and Path(source).stat().st_size == 0:
        return None
    with opened(source) as stream:
        return sniff_stream(stream)
