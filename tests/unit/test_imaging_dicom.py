"""DICOM: grey-level transforms, windows, compression, frames, identifiers, and what is no image."""

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as PilImage

from imaging_samples import dicom, sample
from wordsight.errors import ImageError, SettingsError
from wordsight.imaging import image_count, read_image, read_many, sniff
from wordsight.imaging.windows import CT_WINDOWS, apply_window, parse_window

EIGHT = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
HU = np.linspace(-1000, 1000, 48).round().astype(np.int16).reshape(6, 8)


def reference(name: str, **options) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.pixels.pixel_array(pydicom.dcmread(sample(name)), **options)


def test_eight_bits_without_window_are_the_stored_range():
    image = read_image(dicom(EIGHT))
    np.testing.assert_array_equal(np.rint(image.pixels * 255), EIGHT)
    assert (image.bits, image.photometric) == (8, "MONOCHROME2")
    assert image.identifiers["window"] == "stored range 0..255"
    assert image.spacing_mm is None


def test_deeper_images_without_window_are_scaled_by_minimum_and_maximum():
    values = EIGHT.astype(np.uint16) * 3 + 100
    image = read_image(dicom(values, BitsStored=12, HighBit=11))
    np.testing.assert_allclose(image.pixels, (values - values.min()) / np.ptp(values), atol=1e-6)
    assert image.bits == 12
    assert image.identifiers["window"] == f"min-max {values.min()}..{values.max()}"
    assert read_image(dicom(np.full((3, 3), 9, np.uint16))).pixels.max() == 0


def test_monochrome1_is_the_negative():
    plain, inverted = read_image(dicom(EIGHT)), read_image(dicom(EIGHT, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)
    window = {"WindowCenter": 100, "WindowWidth": 50}
    plain = read_image(dicom(EIGHT, **window))
    inverted = read_image(dicom(EIGHT, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_follow_pydicom(function):
    from pydicom.pixels import apply_modality_lut, apply_windowing

    tags = {"WindowCenter": [60, 1], "WindowWidth": [300, 2], "RescaleSlope": 2, "RescaleIntercept": -50}
    data = dicom(HU, VOILUTFunction=function, Modality="CT", **tags)
    dataset = pydicom.dcmread(io.BytesIO(data))
    expected = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = (v * 2 - 50 for v in (-(2**15), 2**15 - 1))
    image = read_image(data)
    np.testing.assert_allclose(image.pixels, (expected - low) / (high - low), atol=1e-4)
    assert image.identifiers["window"] == f"file 60/300 {function}"


def test_modality_and_voi_tables():
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.LUTData = [65535 - 257 * k for k in range(256)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    data = dicom(EIGHT, ModalityLUTSequence=[table])
    low, high = 65535 - 257 * int(EIGHT.max()), 65535 - 257 * int(EIGHT.min())
    expected = (65535 - 257.0 * EIGHT - low) / (high - low)
    np.testing.assert_allclose(read_image(data).pixels, expected, atol=1e-6)

    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table.LUTData = [(4095 * k * k) // 65025 for k in range(256)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    image = read_image(dicom(EIGHT, VOILUTSequence=[table], WindowCenter=5, WindowWidth=3))
    np.testing.assert_allclose(image.pixels, (EIGHT / 255.0) ** 2, atol=3e-4)
    assert image.identifiers["window"] == "VOI LUT"


def test_ct_without_window_uses_the_soft_tissue_window():
    image = read_image(dicom(HU, Modality="CT"))
    np.testing.assert_allclose(image.pixels, apply_window(HU, 50, 400), atol=1e-6)
    assert image.identifiers["window"] == "default soft-tissue 50/400"


@pytest.mark.parametrize("name", sorted(CT_WINDOWS))
def test_named_windows(name):
    centre, width = CT_WINDOWS[name]
    data = dicom(HU + 1024, Modality="CT", RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=1, WindowWidth=2)
    named, given = read_image(data, window=name), read_image(data, window=(centre, width))
    np.testing.assert_array_equal(named.pixels, given.pixels)
    np.testing.assert_allclose(given.pixels, np.clip((HU - centre) / width + 0.5, 0, 1), atol=1e-6)
    assert named.identifiers["window"] == f"given {name} {centre:g}/{width:g}"


def test_named_windows_are_for_ct():
    with pytest.raises(ImageError, match="named windows are in HU, for CT; this is MR"):
        read_image(dicom(HU, Modality="MR"), window="lung")
    assert read_image(dicom(HU, Modality="MR"), window=(0, 100)).shape == HU.shape


@pytest.mark.parametrize(
    "window", ["lungs", (1,), (1, 2, 3), ("a", 2), 7, (0, 0), (0, -5), (float("nan"), 5), (0, np.inf)]
)
def test_bad_windows(window):
    with pytest.raises(SettingsError, match="expected a window"):
        parse_window(window)
    with pytest.raises(SettingsError, match="expected a window"):
        read_image(EIGHT, window=window)


def test_window_functions_at_their_edges():
    x = np.array([-1e9, 9.4, 9.5, 9.6, 10.0, 1e9])
    np.testing.assert_array_equal(apply_window(x, 10, 1), [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(apply_window(x, 10, 8, "SIGMOID")[[0, 4, 5]], [0, 0.5, 1], atol=1e-12)
    for function, width in (("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("SIGMOID", -1), ("LINEAR", np.nan)):
        with pytest.raises(ImageError, match=f"expected a {function} window with width"):
            apply_window(x, 10, width, function)
    with pytest.raises(ImageError, match="expected a VOI LUT function"):
        apply_window(x, 10, 5, "CUBIC")


def test_padding_is_black_and_does_not_stretch_the_levels():
    values = EIGHT.astype(np.int16) + 100
    values[0] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        pixels = read_image(dicom(values, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)).pixels
        assert (pixels[0] == 0).all()
        assert np.ptp(pixels[1:]) == pytest.approx(1)
    values[1] = -1990
    pixels = read_image(dicom(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)).pixels
    assert (pixels[:2] == 0).all()
    assert np.ptp(pixels[2:]) == pytest.approx(1)


def test_frames():
    stack = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    data = dicom(stack, frames=3)
    assert image_count(data) == 3
    for k in range(3):
        image = read_image(data, frame=k)
        np.testing.assert_array_equal(np.rint(image.pixels * 255), stack[k])
        assert image.identifiers["frame"] == str(k)
    np.testing.assert_array_equal(read_image(data).pixels, read_image(data, frame=0).pixels)
    for bad in (3, -1):
        with pytest.raises(ImageError, match=f"expected a frame from 0 to 2, got {bad}. The file has 3"):
            read_image(data, frame=bad)
    assert "frame" not in read_image(dicom(EIGHT)).identifiers


def test_enhanced_objects_take_each_frames_own_values():
    def group(sequence, **tags):
        item, macro = pydicom.Dataset(), pydicom.Dataset()
        for keyword, value in tags.items():
            setattr(macro, keyword, value)
        setattr(item, sequence, [macro])
        return item

    per_frame = [group("FrameVOILUTSequence", WindowCenter=c, WindowWidth=100) for c in (50, 150)]
    shared = group("PixelMeasuresSequence", PixelSpacing=[0.5, 0.25])
    rescale = pydicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -10
    shared.PixelValueTransformationSequence = [rescale]
    stack = np.stack([EIGHT, EIGHT]).astype(np.int16)
    data = dicom(stack, frames=2, PerFrameFunctionalGroupsSequence=per_frame, SharedFunctionalGroupsSequence=[shared])
    for k, centre in enumerate((50, 150)):
        image = read_image(data, frame=k)
        np.testing.assert_allclose(image.pixels, apply_window(EIGHT * 2.0 - 10, centre, 100), atol=1e-6)
        assert image.spacing_mm == (0.5, 0.25)


def test_identifiers_and_spacing():
    image = read_image(dicom(EIGHT, ViewPosition="PA", ImageLaterality="L", ImagerPixelSpacing=[0.2, 0.1]))
    wanted = {"patient": "p1", "study": "1.2.3", "series": "1.2.3.9", "sop": "1.2.3.4", "modality": "OT"}
    assert {**wanted, "view": "PA", "laterality": "L"}.items() <= image.identifiers.items()
    assert image.spacing_mm == (0.2, 0.1)
    assert read_image(dicom(EIGHT, PixelSpacing=[0.3, 0.4], ImagerPixelSpacing=[1, 1])).spacing_mm == (0.3, 0.4)
    assert read_image(dicom(EIGHT, PixelSpacing=[0, 0])).spacing_mm is None


def test_colour():
    rgb = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.rint(read_image(dicom(rgb)).pixels * 255), rgb)
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    data = dicom(rgb, PlanarConfiguration=1, PixelData=planes.tobytes())
    np.testing.assert_array_equal(np.rint(read_image(data).pixels * 255), rgb)
    ybr = np.asarray(PilImage.fromarray(rgb).convert("YCbCr"))
    pixels = read_image(dicom(ybr, PhotometricInterpretation="YBR_FULL")).pixels
    assert np.abs(pixels * 255 - rgb).max() <= 3


def test_without_preamble():
    for data in (dicom(EIGHT, preamble=False), dicom(EIGHT)[132:]):
        assert sniff(data) == "dicom"
        np.testing.assert_array_equal(np.rint(read_image(data).pixels * 255), EIGHT)
        assert image_count(data) == 1


# --- files that pydicom ships ---

SAME_AS_MR_SMALL = [
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_expb.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
]


@pytest.mark.parametrize("name", SAME_AS_MR_SMALL)
def test_every_lossless_syntax_gives_the_same_image(name):
    first = read_image(sample("MR_small.dcm"))
    assert first.shape == (64, 64)
    assert np.ptp(first.pixels) > 0.5
    np.testing.assert_array_equal(read_image(sample(name)).pixels, first.pixels)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_32bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_jls_lossy_line.dcm", "SC_rgb_rle.dcm"),
        ("SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmd.dcm"),
        ("SC_jpeg_no_color_transform_2.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"),
    ],
)
def test_colour_syntaxes_show_the_same_bars(name, like):
    got, wanted = read_image(sample(name)), read_image(sample(like))
    assert got.pixels.shape == wanted.pixels.shape
    # Bars of flat colour: lossy coding only disturbs their edges.
    assert np.median(np.abs(got.pixels - wanted.pixels)) < 0.02
    assert np.abs(got.pixels - wanted.pixels).mean() < 0.02


@pytest.mark.parametrize(
    "name", ["JPEG2000.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm"]
)
def test_grey_syntaxes_against_pydicom(name):
    stored = reference(name).astype(np.float64)
    low, high = (0, 255) if stored.dtype == np.uint8 or name.endswith("_08.dcm") else (stored.min(), stored.max())
    np.testing.assert_allclose(read_image(sample(name)).pixels, (stored - low) / (high - low), atol=1e-6)


def test_palette_and_ultrasound_loops():
    image = read_image(sample("examples_palette.dcm"))
    dataset = pydicom.dcmread(sample("examples_palette.dcm"))
    expected = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset) / 65535
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert (image.photometric, image.bits, image.shape) == ("PALETTE COLOR", 16, (350, 800))
    name = "examples_ybr_color.dcm"
    assert image_count(sample(name)) == 30
    last = read_image(sample(name), frame=29)
    np.testing.assert_array_equal(np.rint(last.pixels * 255), reference(name, index=29))
    assert last.pixels.shape == (240, 320, 3)


def test_all_shipped_files_are_images_or_clear_errors(shared: Path):
    with (shared / "data" / "cxr" / "pydicom_testfiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    results = list(read_many([(Path(sample(row["name"])), None) for row in rows]))
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, ImageError):
            assert row["name"] in str(result)
            assert "expected" in str(result)
        else:
            assert result.shape == (int(float(row["rows"])), int(float(row["cols"])))
            assert result.photometric == row["photometric"]
            assert 0 <= result.pixels.min() <= result.pixels.max() <= 1
    assert sum(not isinstance(result, ImageError) for result in results) >= 55


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtstruct.dcm", "without pixel data .modality RTSTRUCT, RT Structure Set Storage"),
        ("reportsi.dcm", "without pixel data .modality SR"),
        ("waveform_ecg.dcm", "without pixel data .modality ECG"),
        ("DICOMDIR-empty.dcm", "without pixel data"),
        ("nested_priv_SQ.dcm", "expected Rows and Columns beside pixel data"),
        ("MR_truncated.dcm", "less than expected"),
        ("badVR.dcm", "damaged, truncated or of an unsupported kind"),
    ],
)
def test_what_is_no_image(name, message):
    with pytest.raises(ImageError, match=message):
        read_image(sample(name))


def test_counting_what_is_no_image():
    with pytest.raises(ImageError, match=r"without pixel data .modality SR"):
        image_count(sample("reportsi.dcm"))


def test_real_films(shared: Path):
    folder = shared / "data" / "cxr"
    film = read_image(folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    negative = read_image(folder / "Fake_MONOHR1.dcm")
    assert (film.photometric, negative.photometric) == ("MONOCHROME2", "MONOCHROME1")
    np.testing.assert_allclose(negative.pixels, 1 - film.pixels, atol=1e-6)
    assert film.shape == (1024, 1024)
    assert (film.pixels * 255).mean() == pytest.approx(160.398, abs=0.1)
    assert film.identifiers["view"] == "PA"
    dataset = pydicom.dcmread(folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    with PilImage.open(io.BytesIO(pydicom.encaps.get_frame(dataset.PixelData, 0))) as other:
        expected = np.asarray(other.convert("L")).astype(float)
    # Two JPEG decoders may round the inverse transform differently.
    assert np.abs(film.pixels * 255 - expected).max() <= 2.01
    assert np.abs(film.pixels * 255 - expected).mean() < 0.3
