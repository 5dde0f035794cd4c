"""PNG, JPEG, TIFF and BMP: depths, palettes, alpha, orientation, limits and damage."""

import csv
import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from imaging_samples import encode, png, png16, tiff
from wordsight.errors import ImageError, ImageTooLarge
from wordsight.imaging import image_count, read_image, sniff

GREY = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (5, 7, 4), dtype=np.uint16)


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_eight_bit_values_come_back(kind, array):
    data = encode(array, kind)
    image = read_image(data)
    assert sniff(data) == kind
    assert image.bits == 8
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, array.astype(np.float32) / np.float32(255))


def test_jpeg_equals_pillow():
    data = encode(RGB, "jpeg", quality=95)
    with PilImage.open(io.BytesIO(data)) as reference:
        expected = np.asarray(reference)
    np.testing.assert_array_equal(np.rint(read_image(data).pixels * 255), expected)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}])
def test_sixteen_bit_grey_keeps_all_bits(options):
    grey = DEEP[..., 0]
    image = read_image(encode(grey, "tiff", **options))
    assert image.bits == 16
    np.testing.assert_array_equal(np.rint(image.pixels * 65535), grey)
    np.testing.assert_array_equal(np.rint(read_image(png16(grey)).pixels * 65535), grey)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_keeps_all_bits(order):
    rgb = DEEP[..., :3].copy()
    for data in (png16(rgb), tiff(rgb, 2, order=order)):
        image = read_image(data)
        assert image.bits == 16
        np.testing.assert_array_equal(np.rint(image.pixels * 65535), rgb)


def on_black(array, top):
    return np.floor(array[..., :-1].astype(np.float64) * array[..., -1:] / top + 0.5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_alpha_is_composited(order):
    expected = on_black(DEEP, 65535)
    for data in (png16(DEEP), tiff(DEEP, 2, order=order, extra=2)):
        np.testing.assert_allclose(read_image(data).pixels * 65535, expected, atol=0.51)
    grey = read_image(png16(DEEP[..., [0, 3]]))
    np.testing.assert_allclose(grey.pixels * 65535, expected[..., 0], atol=0.51)


def test_premultiplied_sixteen_bit_is_already_composited():
    deep = DEEP.copy()
    deep[..., :3] = on_black(DEEP, 65535).astype(np.uint16)
    np.testing.assert_array_equal(np.rint(read_image(tiff(deep, 2, extra=1)).pixels * 65535), deep[..., :3])


def test_transparent_pixels_are_black_and_opaque_ones_unchanged():
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    rgba[0, :, 3] = 0
    pixels = read_image(encode(rgba, "png")).pixels
    assert pixels.shape == RGB.shape
    assert (pixels[0] == 0).all()
    np.testing.assert_array_equal(np.rint(pixels[1:] * 255), RGB[1:])
    grey_alpha = np.dstack([GREY, rgba[..., 3]])
    pixels = read_image(encode(grey_alpha, "png")).pixels
    assert pixels.shape == GREY.shape
    assert (pixels[0] == 0).all()
    np.testing.assert_array_equal(np.rint(pixels[1:] * 255), GREY[1:])


def test_palette_gives_its_colours_and_its_transparency():
    picture = PilImage.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for options, first in (({}, (1.0, 0, 0)), ({"transparency": 0}, (0, 0, 0))):
        stream = io.BytesIO()
        picture.save(stream, "png", **options)
        pixels = read_image(stream.getvalue()).pixels
        np.testing.assert_array_equal(pixels[0, 0], first)
        np.testing.assert_array_equal(pixels[0, 1], (0, 1, 0))
        np.testing.assert_array_equal(pixels[1, 0], (0, 0, 1))


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp"])
def test_one_bit(kind):
    bits = GREY > 100
    image = read_image(encode(bits, kind))
    assert image.bits == 1
    np.testing.assert_array_equal(image.grey() > 0.5, bits)
    assert set(np.unique(image.pixels)) == {0.0, 1.0}


def test_two_and_four_bit_grey_png_span_the_range():
    np.testing.assert_allclose(
        read_image(png(1, 4, 2, 0, bytes([0b00011011]))).pixels, [[0, 1 / 3, 2 / 3, 1]], atol=1e-6
    )
    np.testing.assert_allclose(read_image(png(1, 2, 4, 0, bytes([0x0F]))).pixels, [[0, 1]])


def test_white_is_zero_tiff_is_inverted():
    grey = DEEP[..., 0].copy()
    image = read_image(tiff(grey, 0))
    assert image.photometric == "WhiteIsZero"
    np.testing.assert_array_equal(np.rint(image.pixels * 65535), 65535 - grey)
    np.testing.assert_array_equal(np.rint(read_image(tiff(GREY, 0)).pixels * 255), 255 - GREY)


def test_float_tiff_in_range_is_kept_and_others_are_scaled_openly():
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    image = read_image(tiff(values, 1, sample_format=3))
    assert (image.photometric, image.bits) == ("F", 32)
    np.testing.assert_array_equal(image.pixels, values)
    image = read_image(tiff(values * 300 - 100, 1, sample_format=3))
    assert image.photometric == "F (min-max)"
    assert image.identifiers["scale"] == "min-max -100..200"
    np.testing.assert_allclose(image.pixels, values, atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_tiff_is_scaled_by_minimum_and_maximum(order):
    values = np.array([[-1000, 0], [500, 1000]], np.int16)
    image = read_image(tiff(values, 1, order=order, sample_format=2))
    np.testing.assert_allclose(image.pixels, [[0, 0.5], [0.75, 1]])
    assert read_image(tiff(np.full((2, 2), -3, np.int16), 1, sample_format=2)).pixels.max() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_tiff_with_nan_is_refused(bad):
    with pytest.raises(ImageError, match="expected finite pixel values, got NaN or infinity"):
        read_image(tiff(np.array([[0.5, bad]], np.float32), 1, sample_format=3))


def test_sixteen_bit_planes_are_refused_not_garbled():
    data = bytearray(tiff(DEEP[..., :3].copy(), 2))
    # PlanarConfiguration in place of RowsPerStrip: one strip still holds everything.
    place = data.index(struct.pack("<HHI", 278, 4, 1))
    data[place : place + 12] = struct.pack("<HHIHH", 284, 3, 1, 2, 0)
    with pytest.raises(ImageError, match="expected interleaved samples"):
        read_image(bytes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_exif_orientation_as_pillow_undoes_it(orientation, kind):
    from PIL import ImageOps

    exif = PilImage.Exif()
    exif[0x0112] = orientation
    data = encode(GREY, kind, exif=exif)
    with PilImage.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(np.rint(read_image(data).pixels * 255), expected)


def test_pages_of_a_tiff():
    stream = io.BytesIO()
    pages = [PilImage.fromarray(GREY + k) for k in range(3)]
    pages[0].save(stream, "tiff", save_all=True, append_images=pages[1:])
    data = stream.getvalue()
    assert image_count(data) == 3
    for k in range(3):
        np.testing.assert_array_equal(np.rint(read_image(data, frame=k).pixels * 255), GREY + k)
    np.testing.assert_array_equal(read_image(data).pixels, read_image(data, frame=0).pixels)
    for bad in (3, -1):
        with pytest.raises(ImageError, match=f"expected a frame from 0 to 2, got {bad}. The file has 3"):
            read_image(data, frame=bad)


def test_single_images_have_one_frame():
    data = encode(GREY, "png")
    assert image_count(data) == 1
    assert read_image(data, frame=0).shape == GREY.shape
    with pytest.raises(ImageError, match="from 0 to 0, got 1"):
        read_image(data, frame=1)


def test_cmyk_becomes_rgb():
    stream = io.BytesIO()
    PilImage.fromarray(RGB).convert("CMYK").save(stream, "tiff")
    assert np.abs(read_image(stream.getvalue()).pixels * 255 - RGB).max() <= 1


def test_lab_is_refused():
    stream = io.BytesIO()
    PilImage.new("LAB", (3, 3)).save(stream, "tiff")
    with pytest.raises(ImageError, match="expected a grey, palette or RGB image, got mode LAB"):
        read_image(stream.getvalue())


def test_limit_is_read_from_the_header():
    bomb = png(1, 1, 8, 0, b"\0")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    import zlib

    bomb = bomb[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + bomb[33:]
    with pytest.raises(ImageTooLarge, match="expected at most 178956970 pixels, got a header of 60000 x 60000"):
        read_image(bomb)
    for kind in ("png", "jpeg", "tiff", "bmp"):
        with pytest.raises(ImageTooLarge, match=r"at most 34 pixels, got a header of 5 x 7"):
            read_image(encode(GREY, kind), max_pixels=34)
        assert read_image(encode(GREY, kind), max_pixels=35).shape == (5, 7)


def test_limit_above_the_decoders_own_default(monkeypatch):
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 4)
    assert read_image(encode(GREY, "png")).shape == (5, 7)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp"])
def test_truncated_files_are_errors(kind):
    big = np.random.default_rng(2).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encode(big, kind)
    for keep in (0.9, 0.5, 0.1):
        with pytest.raises(ImageError, match=r"damaged, truncated|expected PNG, JPEG"):
            read_image(data[: int(len(data) * keep)])


def test_zero_size():
    with pytest.raises(ImageError, match="<"):
        read_image(png(0, 0, 8, 0, b""))


def test_real_films(shared: Path):
    folder = shared / "data" / "cxr"
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["syntax"] in ("PNG", "JPEG")]
    assert len(rows) >= 6
    for row in rows:
        path = folder / row["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        image = read_image(path)
        values = np.rint(image.pixels * 255)
        assert image.shape == (int(row["h"]), int(row["w"]))
        assert (image.photometric, image.bits) == (row["mode"], int(row["bits"]))
        assert (values.min(), values.max()) == (float(row["min"]), float(row["max"]))
        assert values.mean() == pytest.approx(float(row["mean"]), abs=1e-3)


def test_real_tiffs(shared: Path):
    paths = sorted((shared / "data" / "extra" / "lgg_tiff").glob("*.tif"))
    assert len(paths) == 5
    for path in paths:
        with PilImage.open(path) as reference:
            expected = np.asarray(reference)
        image = read_image(path)
        assert sniff(path) == "tiff"
        np.testing.assert_array_equal(np.rint(image.pixels * 255), expected)
