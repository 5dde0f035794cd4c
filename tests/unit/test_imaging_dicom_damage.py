"""Broken, truncated and hostile DICOM files: each a clear error, none an allocation."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from imaging_samples import dicom, encode, sample
from wordsight.errors import ImageError, ImageTooLarge
from wordsight.imaging import read_image
from wordsight.imaging.dicom import codestream_shape
from wordsight.imaging.source import decoding

EIGHT = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Rows": 0}, "expected at least one pixel"),
        ({"drop": ("Rows",)}, "expected Rows and Columns"),
        ({"drop": ("PixelData",)}, "object without pixel data"),
        ({"drop": ("PixelRepresentation",)}, "damaged"),
        ({"SamplesPerPixel": 4}, "expected 1 or 3 samples per pixel, got 4"),
        ({"NumberOfFrames": -2}, "expected NumberOfFrames of at least 1, got -2"),
        ({"PhotometricInterpretation": "HSV"}, "damaged|photometric"),
        ({"drop": ("PhotometricInterpretation",)}, "damaged|photometric"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "finite rescale slope other than 0"),
        ({"WindowCenter": 10, "WindowWidth": 0}, "expected a LINEAR window with width >= 1"),
        ({"WindowCenter": 10, "WindowWidth": 5, "VOILUTFunction": "ODD"}, "expected a VOI LUT function"),
        ({"PixelData": b"\0\0"}, "damaged, truncated"),
        ({"BitsAllocated": 12}, "damaged"),
    ],
)
def test_broken_headers(tags, message):
    with pytest.raises(ImageError, match=message):
        read_image(dicom(EIGHT, **tags))


def test_float_pixels_with_nan():
    data = dicom(
        EIGHT, drop=("PixelData",), FloatPixelData=np.full((6, 8), np.nan, np.float32).tobytes(), BitsAllocated=32
    )
    with pytest.raises(ImageError, match=r"NaN or infinity|damaged"):
        read_image(data)


def test_limit_is_read_from_the_header():
    data = dicom(EIGHT, Rows=50000, Columns=50000)
    with pytest.raises(ImageTooLarge, match="expected at most 178956970 pixels, got a header of 50000 x 50000"):
        read_image(data)
    with pytest.raises(ImageTooLarge, match="at most 47 pixels"):
        read_image(dicom(EIGHT), max_pixels=47)
    assert read_image(dicom(EIGHT), max_pixels=48).shape == (6, 8)


def compressed(frame: bytes, syntax: str, **tags) -> bytes:
    from pydicom.encaps import encapsulate

    dataset = pydicom.dcmread(io.BytesIO(dicom(EIGHT, **tags)))
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


JPEG, JPEG2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"


def test_a_compressed_frame_cannot_be_larger_than_the_header_says():
    frame = encode(EIGHT, "jpeg")
    assert codestream_shape(frame) == EIGHT.shape
    assert read_image(compressed(frame, JPEG)).shape == EIGHT.shape
    place = frame.index(b"\xff\xc0") + 5
    forged = frame[:place] + struct.pack(">HH", 65000, 65000) + frame[place + 4 :]
    with pytest.raises(ImageError, match="expected a compressed frame of 6 x 8 as the header says, got 65000 x 65000"):
        read_image(compressed(forged, JPEG))

    frame = encode(EIGHT, "jpeg2000", no_jp2=True)
    assert codestream_shape(frame) == EIGHT.shape
    np.testing.assert_array_equal(np.rint(read_image(compressed(frame, JPEG2000)).pixels * 255), EIGHT)
    forged = frame[:8] + struct.pack(">II", 200000, 200000) + frame[16:]
    with pytest.raises(ImageError, match="got 200000 x 200000"):
        read_image(compressed(forged, JPEG2000))


def test_codestreams_without_a_header():
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x04ab", b"\xff\x4f\xff\x51\x00", b"RLE"):
        assert codestream_shape(data) is None


def test_a_deflated_bomb_is_stopped_while_it_inflates():
    data = dicom(EIGHT)
    meta_end = 132 + 12 + struct.unpack("<I", data[140:144])[0]
    head = data[:meta_end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    grown = len(head) - meta_end
    assert grown == 2
    place = head.index(b"1.2.840.10008.1.2.1.99")
    head = head[: place - 2] + struct.pack("<H", 22) + head[place:]
    head = head[:140] + struct.pack("<I", meta_end - 144 + grown) + head[144:]

    def deflated(body: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return head + packer.compress(body) + packer.flush()

    assert read_image(deflated(data[meta_end:])).shape == EIGHT.shape
    bomb = deflated(data[meta_end:] + b"\0" * (40 << 20))
    assert len(bomb) < 100_000
    start = time.monotonic()
    with pytest.raises(ImageTooLarge, match="inflated bytes, got more"):
        read_image(bomb, max_pixels=1 << 20)
    assert time.monotonic() - start < 5


def test_a_decoder_that_panics_is_an_image_error():
    damaged = bytearray(Path(sample("MR_small_RLE.dcm")).read_bytes())
    for place, value in ((1251, 255), (2934, 155), (4190, 255), (6634, 128)):
        damaged[place] = value
    with pytest.raises(ImageError, match="damaged, truncated or of an unsupported kind"):
        read_image(bytes(damaged))


def test_interrupts_are_not_taken_for_damage():
    with pytest.raises(KeyboardInterrupt), decoding("x", "file"):
        raise KeyboardInterrupt
    with pytest.raises(ImageTooLarge, match="x: this file needs more memory than there is"), decoding("x", "file"):
        raise MemoryError
