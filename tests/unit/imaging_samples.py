"""Small image files made in memory, for the reader tests."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image as PilImage


def encode(array: np.ndarray, kind: str, **options: Any) -> bytes:
    """An array as a file that Pillow writes."""
    stream = io.BytesIO()
    PilImage.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    height: int, width: int, depth: int, colour: int, rows: bytes, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """A PNG from packed scan lines without filters; colour 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    stride = (width * samples * depth + 7) // 8
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(k, d) for k, d in chunks)


def png16(array: np.ndarray) -> bytes:
    """(H, W) or (H, W, 2|3|4) uint16 as a 16-bit PNG."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if array.ndim == 2 else array.shape[2]]
    return png(*array.shape[:2], 16, colour, array.astype(">u2").tobytes())


def tiff(
    array: np.ndarray, photometric: int, *, order: str = "<", sample_format: int = 1, extra: int | None = None
) -> bytes:
    """An uncompressed single-strip TIFF of (H, W) or (H, W, C)."""
    height, width = array.shape[:2]
    samples = 1 if array.ndim == 2 else array.shape[2]
    bits = 8 * array.dtype.itemsize
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    short, long = "H", "I"
    tags: list[tuple[int, str, tuple[int, ...]]] = [
        (256, long, (width,)),
        (257, long, (height,)),
        (258, short, (bits,) * samples),
        (259, short, (1,)),
        (262, short, (photometric,)),
        (273, long, (8,)),
        (277, short, (samples,)),
        (278, long, (height,)),
        (279, long, (len(data),)),
    ]
    if extra is not None:
        tags.append((338, short, (extra,)))
    tags.append((339, short, (sample_format,) * samples))
    data += b"\0" * (len(data) % 2)
    start = 8 + len(data)
    spare = start + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for tag, code, values in tags:
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            place = struct.pack(order + "I", spare + len(tail))
            tail += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, 3 if code == short else 4, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + tail


def dicom(
    array: np.ndarray, *, frames: int = 1, preamble: bool = True, drop: tuple[str, ...] = (), **tags: Any
) -> bytes:
    """An uncompressed DICOM of ([F,] H, W[, 3]) uint8, uint16 or int16 pixels; `tags` by keyword."""
    import pydicom
    from pydicom.dataset import FileMetaDataset

    colour = array.ndim - (frames > 1) == 3
    height, width = array.shape[(frames > 1) :][:2]
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4", "1.2.3", "1.2.3.9"
    dataset.Modality, dataset.PatientID = "OT", "p1"
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * array.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    if frames > 1:
        dataset.NumberOfFrames = frames
    raw = array.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    for keyword in drop:
        delattr(dataset, keyword)
    stream = io.BytesIO()
    if preamble:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(stream, enforce_file_format=True)
    else:
        dataset.save_as(stream, implicit_vr=True, little_endian=True)
    return stream.getvalue()


def nifti(
    array: np.ndarray, affine: np.ndarray | None = None, *, compress: bool = False, second: bool = False, **fields: Any
) -> bytes:
    """A NIfTI file; `fields` overwrite header fields after the fact."""
    import nibabel

    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind(array, np.eye(4) if affine is None else affine)
    data = bytearray(image.to_bytes())
    size = 540 if second else 348
    header = type(image.header)(bytes(data[:size]), check=False)
    for key, value in fields.items():
        header[key] = value
    data[:size] = header.binaryblock
    return gzip.compress(bytes(data), mtime=0) if compress else bytes(data)


def sample(name: str) -> str:
    """Path of a file that ships with pydicom; nothing is downloaded."""
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    assert path is not None, name
    return str(path)
