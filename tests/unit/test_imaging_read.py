"""Sources of every sort, arrays, masks, batches, telling formats by content, and damage at random."""

import gzip
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as PilImage
from pydicom.data import get_testdata_file

from imaging_samples import dicom, encode, nifti, png16, tiff
from wordsight.errors import ImageError, ImageTooLarge, SettingsError
from wordsight.imaging import image_count, read_image, read_many, read_mask, sniff
from wordsight.types import Image

GREY = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
FILES = {
    "png": encode(GREY, "png"),
    "png16": png16(RGB.astype(np.uint16) * 257),
    "jpeg": encode(RGB, "jpeg"),
    "tiff": encode(RGB, "tiff"),
    "tiff-lzw": encode(GREY, "tiff", compression="tiff_lzw"),
    "tiff16": tiff(GREY.astype(np.uint16) * 257, 1),
    "bmp": encode(GREY, "bmp"),
    "dicom": dicom(GREY),
    "dicom16": dicom(GREY.astype(np.int16), Modality="CT", WindowCenter=100, WindowWidth=200),
    "dicom-bare": dicom(GREY, preamble=False),
    "nifti": nifti(GREY[..., None]),
    "nifti-gz": nifti(np.stack([GREY] * 3, -1), compress=True),
    "nifti2": nifti(GREY[..., None], second=True),
}

COMPRESSED = ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm")
FILES |= {f"dicom {n}": Path(str(get_testdata_file(n, download=False))).read_bytes() for n in COMPRESSED}


@pytest.mark.parametrize("name", FILES)
def test_content_decides_and_not_the_suffix(name, tmp_path):
    path = tmp_path / "misnamed.txt"
    path.write_bytes(FILES[name])
    kind = sniff(path)
    assert kind == sniff(FILES[name])
    assert name.startswith(str(kind))
    image = read_image(path)
    assert image.source == str(path)
    np.testing.assert_array_equal(image.pixels, read_image(str(path)).pixels)
    np.testing.assert_array_equal(image.pixels, read_image(FILES[name]).pixels)
    assert read_image(FILES[name]).source == f"<{len(FILES[name])} bytes>"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is a text file that is long enough to look into" * 20,
        b"BM begins many a sentence, but this one is no bitmap at all, as one can read",
        b"\x08\x00\x05\x00",
        b"%PDF-1.7\n",
        b"GIF89a" + b"\0" * 300,
        b"\x1f\x8b\x08 not gzip",
        gzip.compress(b"a text" * 300, mtime=0),
        b"{" + b" " * 400,
        bytes(600),
    ],
)
def test_what_is_no_image(data, tmp_path):
    assert sniff(data) is None
    path = tmp_path / "image.png"
    path.write_bytes(data)
    assert sniff(path) is None
    for call in (read_image, read_mask, image_count):
        with pytest.raises(ImageError, match=r"empty file|expected PNG, JPEG, TIFF, BMP, DICOM or NIfTI content"):
            call(path)
        with pytest.raises(ImageError, match=r"got no bytes|expected PNG, JPEG, TIFF, BMP, DICOM or NIfTI content"):
            call(data)


def test_paths_that_are_no_files(tmp_path):
    for call in (read_image, read_mask, image_count, sniff):
        with pytest.raises(ImageError, match="got a folder"):
            call(tmp_path)
        with pytest.raises(ImageError, match="no such file"):
            call(tmp_path / "absent.png")
        with pytest.raises(ImageError, match=r"expected a readable file|no such file"):
            call("nul\0byte.png")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match="got a device or pipe"):
        read_image(pipe)


def test_sources_of_another_type():
    for call in (read_image, read_mask, image_count):
        for source in (None, 3, [[1, 2]], io.BytesIO(FILES["png"])):
            with pytest.raises(ImageError, match="expected a path, bytes or a NumPy array"):
                call(source)


def test_unreadable_files(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(FILES["png"])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="expected a readable file, got Permission denied"):
        read_image(path)


# --- arrays ---


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32, np.bool_, ">u2", "<f8", np.float16]),
        st.one_of(
            arrays.array_shapes(min_dims=2, max_dims=2),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4])),
        ),
        elements=st.one_of(st.integers(0, 1)),
    )
)
@settings(deadline=None, max_examples=50)
def test_arrays_are_copied_and_scaled(array):
    before = array.copy()
    image = read_image(array)
    assert image.pixels.dtype == np.float32
    assert not np.shares_memory(image.pixels, array)
    top = {"u": 255 if array.dtype.itemsize == 1 else 65535, "f": 1, "b": 1}[array.dtype.kind]
    expected = before.astype(np.float64) / top
    if array.ndim == 3 and array.shape[2] == 1:
        expected = expected[..., 0]
    elif array.ndim == 3 and array.shape[2] == 4:
        scale = top if array.dtype.kind == "u" else 1
        alpha = before[..., 3:].astype(np.float64) / top
        expected = np.floor(before[..., :3] * alpha + 0.5) / scale if scale > 1 else expected[..., :3] * alpha
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    image.pixels[:] = 0.25
    np.testing.assert_array_equal(array, before)


def test_bits_of_arrays():
    for dtype, bits in ((np.uint8, 8), (np.uint16, 16), (np.bool_, 1), (np.float32, 32), (np.float64, 64)):
        assert read_image(np.zeros((2, 2), dtype)).bits == bits
    np.testing.assert_allclose(read_image(np.array([[65535, 0]], ">u2")).pixels, [[1, 0]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "expected shape"),
        (np.zeros((2, 2, 2)), "expected shape"),
        (np.zeros((1, 2, 2, 3)), "expected shape"),
        (np.zeros((0, 4), np.uint8), "expected at least one pixel"),
        (np.zeros((4, 0, 3), np.uint8), "expected at least one pixel"),
        (np.zeros((2, 2), np.int32), "expected bool, uint8, uint16 or float pixels, got int32"),
        (np.zeros((2, 2), complex), "expected bool, uint8"),
        (np.array([["a"]]), "expected bool, uint8"),
        (np.array([[None]]), "expected bool, uint8"),
        (np.array([[0.5, np.nan]]), "expected finite pixel values"),
        (np.array([[0.5, np.inf]]), "expected finite pixel values"),
        (np.array([[0.0, 255.0]]), r"expected float pixels in \[0, 1\], got 0 to 255"),
        (np.array([[-0.1, 0.2]]), r"expected float pixels in \[0, 1\]"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_options_for_arrays():
    assert read_image(GREY, frame=0).shape == GREY.shape
    with pytest.raises(ImageError, match="expected frame 0 or none for an array, got 2"):
        read_image(GREY, frame=2)
    with pytest.raises(ImageTooLarge, match="at most 62 pixels"):
        read_image(GREY, max_pixels=62)
    with pytest.raises(SettingsError, match="expected max_pixels of at least 1"):
        read_image(GREY, max_pixels=0)


# --- masks ---


LEVELS = np.array([[0, 1, 62], [127, 128, 255]], np.uint8)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
@pytest.mark.parametrize("colour", [False, True])
def test_mask_rules(kind, colour, tmp_path):
    path = tmp_path / "mask"
    path.write_bytes(encode(np.dstack([LEVELS] * 3) if colour else LEVELS, kind))
    for rule, expected in (("any", LEVELS > 0), ("half", LEVELS / 255 > 0.5)):
        mask = read_mask(path, rule=rule)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(read_mask(path), read_mask(path, rule="any"))


def test_a_zero_one_mask_vanishes_under_half():
    data = encode((LEVELS > 100).astype(np.uint8), "png")
    assert read_mask(data).sum() == 3
    assert read_mask(data, rule="half").sum() == 0


def test_half_of_a_colour_mask_is_pillow_mode_l():
    with PilImage.open(io.BytesIO(encode(RGB, "png"))) as picture:
        expected = np.asarray(picture.convert("L")) / 255 > 0.5
    np.testing.assert_array_equal(read_mask(encode(RGB, "png"), rule="half"), expected)
    faint = np.zeros((1, 2, 3), np.uint8)
    faint[0, :, 2] = 1, 6
    np.testing.assert_array_equal(read_mask(encode(faint, "png")), [[False, True]])


def test_masks_of_other_depths_and_formats():
    expected = LEVELS > 0
    deep = LEVELS.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_mask(png16(deep)), expected)
    np.testing.assert_array_equal(read_mask(png16(deep), rule="half"), LEVELS >= 128)
    # A label image that is the same everywhere must not vanish by min-max scaling.
    assert read_mask(tiff(np.full((2, 2), 3, np.int16), 1, sample_format=2)).all()
    np.testing.assert_array_equal(read_mask(encode(LEVELS > 0, "png"), rule="half"), expected)
    np.testing.assert_array_equal(read_mask(dicom(LEVELS)), expected)
    np.testing.assert_array_equal(read_mask(dicom(LEVELS), rule="half"), LEVELS >= 128)
    np.testing.assert_array_equal(read_mask(dicom(LEVELS, PhotometricInterpretation="MONOCHROME1")), expected)
    stack = np.stack([LEVELS * 0, LEVELS], axis=-1)
    np.testing.assert_array_equal(read_mask(nifti(stack), frame=1), expected[::-1, ::-1].T)
    assert not read_mask(nifti(stack), frame=0).any()
    np.testing.assert_array_equal(read_mask(nifti(stack.astype(np.int16)), frame=1), expected[::-1, ::-1].T)


def test_masks_are_turned_as_their_images_are():
    exif = PilImage.Exif()
    exif[0x0112] = 6
    data = encode(LEVELS, "png", exif=exif)
    np.testing.assert_array_equal(read_mask(data), read_image(data).pixels > 0)
    assert read_mask(data).shape == (3, 2)


def test_unknown_mask_rule():
    with pytest.raises(SettingsError, match="expected the mask rule 'any' or 'half', got 'most'"):
        read_mask(FILES["png"], rule="most")


def test_levels_of_the_benchmarks_masks(shared: Path):
    path = next((shared / "data" / "extra" / "bmad_samples").glob("Brain_*_gt.jpg"))
    with PilImage.open(path) as picture:
        grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(read_mask(path), grey > 0)
    np.testing.assert_array_equal(read_mask(path, rule="half"), grey / 255 > 0.5)


# --- batches ---


def test_a_batch_goes_on_after_what_cannot_be_read(tmp_path):
    for name in ("png", "dicom16", "nifti-gz"):
        (tmp_path / name).write_bytes(FILES[name])
    (tmp_path / "broken").write_bytes(FILES["png"][:40])
    items = [(tmp_path / n, None) for n in ("png", "broken", "absent", "dicom16")]
    items += [(tmp_path / "nifti-gz", 2), (tmp_path / "nifti-gz", 3), (tmp_path / "png", 0)]
    results = list(read_many(items, window=(100, 200)))
    assert [isinstance(r, Image) for r in results] == [True, False, False, True, True, False, True]
    assert all(str(path) in str(r) for (path, _), r in zip(items, results, strict=True) if isinstance(r, ImageError))
    assert results[3].identifiers["window"] == "given 100/200"
    assert results[4].identifiers["frame"] == "2"


def test_a_batch_is_lazy_and_refuses_a_bad_window():
    opened = []

    def items():
        for k in range(3):
            opened.append(k)
            yield Path(f"absent-{k}"), None

    stream = read_many(items())
    next(stream)
    assert opened == [0]
    with pytest.raises(SettingsError, match=r"expected a window .*or one named"):
        next(read_many([(Path("absent"), None)], window="lungs"))


# --- damage at random ---


@pytest.mark.parametrize("name", FILES)
@given(st.data())
@settings(deadline=None, max_examples=30)
def test_damaged_files_give_an_image_or_an_image_error(name, data):
    damaged = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        # Headers matter most, so half of the places lie in the first 400 bytes.
        last = data.draw(st.sampled_from([min(len(damaged), 400), len(damaged)])) - 1
        damaged[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    frame = data.draw(st.sampled_from([None, None, 0, 1]))
    check(bytes(damaged[:cut]), frame)


@given(st.binary(max_size=700), st.sampled_from(sorted(FILES)), st.integers(0, 400))
@settings(deadline=None, max_examples=30)
@example(b"", "png", 4)
def test_right_beginnings_with_wrong_ends(tail, name, keep):
    check(FILES[name][:keep] + tail, None)


def check(content: bytes, frame: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda: read_image(content, frame=frame, max_pixels=1 << 20),
            lambda: read_mask(content, max_pixels=1 << 20),
            lambda: image_count(content),
        ):
            try:
                result = call()
            except ImageError:
                continue
            if isinstance(result, Image):
                assert result.pixels.dtype == np.float32
                assert np.isfinite(result.pixels).all()
                assert 0 <= result.pixels.min() <= result.pixels.max() <= 1
            elif isinstance(result, int):
                assert result >= 1
