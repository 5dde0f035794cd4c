"""Preparation: byte-exact against Pillow and stored OpenCV results, and geometry that leads back."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from wordsight.errors import MetricError, SettingsError
from wordsight.imaging import CARZERO_INPUT, InputSpec, mla_input, prepare, prepare_mask, prepared, read_image
from wordsight.imaging.resample import area

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 400))
LETTERBOX = InputSpec((224, 224), "letterbox", 256, "area", colour=False, channels=1)
SPECS = [mla_input(), CARZERO_INPUT, LETTERBOX, InputSpec((20, 50)), InputSpec((31, 40), "letterbox", 47, "bicubic")]


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@given(SIDES, SIDES, st.booleans(), st.integers(1, 300))
@settings(deadline=None, max_examples=40)
def test_mla_input_is_pillow_bicubic_then_division_by_255(height, width, colour, size):
    array = noise(height, width, 3) if colour else noise(height, width)
    expected = PilImage.fromarray(array).convert("RGB").resize((size, size), PilImage.Resampling.BICUBIC)
    got, _ = prepare(read_image(array), mla_input(size))
    assert (got.dtype, got.shape) == (np.float32, (3, size, size))
    np.testing.assert_array_equal(got, np.moveaxis(np.asarray(expected), -1, 0).astype(np.float32) / np.float32(255))


def test_normalize_is_clips_mean_and_std():
    image = read_image(noise(30, 40, 3))
    plain, _ = prepare(image, mla_input(24))
    scaled, _ = prepare(image, mla_input(24, normalize=True))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for c in range(3):
        np.testing.assert_allclose(scaled[c], (plain[c] - mean[c]) / std[c], rtol=1e-5, atol=1e-6)


def test_sixteen_bit_images_are_not_cut_to_eight():
    ramp = np.tile(np.linspace(0, 65535, 640).astype(np.uint16), (8, 1))
    deep, _ = prepare(read_image(ramp), mla_input(240))
    assert len(np.unique(deep[0])) > 200
    eight, _ = prepare(read_image((ramp >> 8).astype(np.uint8)), mla_input(240))
    assert np.abs(deep - eight).max() < 2 / 255
    assert 0 <= deep.min() <= deep.max() <= 1
    off_grid = np.abs(deep * 255 - np.rint(deep * 255)).max()
    assert off_grid > 0.1


def test_eight_bit_off_resamples_in_float():
    image = read_image(noise(50, 60))
    exact, _ = prepare(image, replace(mla_input(24), eight_bit=False))
    rounded, _ = prepare(image, mla_input(24))
    assert 0 < np.abs(exact - rounded).max() < 2 / 255


def test_grey_of_colour_is_pillow_mode_l():
    array = noise(40, 40, 3)
    spec = InputSpec((40, 40), colour=False, channels=1)
    expected = np.asarray(PilImage.fromarray(array).convert("L"))
    got, _ = prepare(read_image(array), spec)
    np.testing.assert_array_equal(np.rint(got[0] * 255), expected)
    deep, _ = prepare(read_image(array.astype(np.float32) / 255), spec)
    np.testing.assert_allclose(deep[0] * 255, expected, atol=0.51)


def test_the_image_is_not_changed_and_not_aliased():
    image = read_image(np.full((8, 8), 0.5, np.float32))
    before = image.pixels.copy()
    out, _ = prepare(image, InputSpec((8, 8), colour=False, channels=1))
    out[:] = 7
    np.testing.assert_array_equal(image.pixels, before)
    out, _ = prepare(image, InputSpec((8, 8), "letterbox", 8, "area", colour=False, channels=3))
    out[0] = 7
    assert (out[1] != 7).all()
    np.testing.assert_array_equal(image.pixels, before)


# --- area ---


def area_by_definition(values, size):
    """Mean over the covered part of the source, one axis, in double precision."""
    cells = len(values)
    edges = np.linspace(0, cells, size + 1)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.diff(np.interp(edges, np.arange(cells + 1), total)) / np.diff(edges)


@given(st.integers(1, 90), st.integers(1, 90), st.data())
@settings(deadline=None, max_examples=40)
def test_area_shrinking_is_the_mean_of_what_is_covered(height, width, data):
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    pixels = np.random.default_rng(height * 97 + width).random((height, width)).astype(np.float32)
    rows = np.apply_along_axis(area_by_definition, 0, pixels, h)
    expected = np.apply_along_axis(area_by_definition, 1, rows, w)
    # Overlaps below a thousandth of a pixel are dropped on purpose.
    np.testing.assert_allclose(area(pixels, h, w), expected, atol=2.5e-3)
    eight = area(np.rint(pixels * 255).astype(np.uint8), h, w)
    assert eight.dtype == np.uint8
    assert np.abs(eight - expected * 255).max() <= 1.2


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90))
@settings(deadline=None, max_examples=40)
def test_area_keeps_constants_and_range_and_its_eight_bit_twin(height, width, h, w):
    flat = np.full((height, width), 201, np.uint8)
    assert (area(flat, h, w) == 201).all()
    values = noise(height, width, 3, seed=h)
    out = area(values, h, w)
    assert out.shape == (h, w, 3)
    assert values.min() <= out.min() <= out.max() <= values.max()
    exact = area(values.astype(np.float32), h, w)
    assert np.abs(out - exact).max() <= 1.01
    for c in range(3):
        np.testing.assert_array_equal(out[..., c], area(np.ascontiguousarray(values[..., c]), h, w))


def test_area_doubling_repeats_pixels_and_halving_rounds_half_up():
    values = noise(4, 5)
    np.testing.assert_array_equal(area(values, 8, 10), np.kron(values, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(area(np.array([[0, 1], [0, 1]], np.uint8), 1, 1), [[1]])
    np.testing.assert_array_equal(area(np.array([[0, 1, 0, 1]] * 4, np.uint8), 1, 1), [[0]])


# --- stored results of the published preprocessing ---


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "goldens" / "carzero"
    meta = json.loads((folder / "preprocess.json").read_text())
    with np.load(folder / "preprocess.npz") as arrays:
        return folder, meta, dict(arrays)


def test_carzero_input_is_byte_exact_on_films(golden):
    folder, meta, arrays = golden
    for k, file in enumerate(meta["inputs"]["images"]["files"]):
        out, _ = prepare(read_image(folder / meta["inputs"]["images"]["folder"] / file), CARZERO_INPUT)
        assert out.shape == (3, 224, 224)
        crop = arrays["crop_uint8"][k].astype(np.float32) / np.float32(255)
        expected = (crop - np.float32(0.4978)) / np.float32(0.2449)
        for plane in out:
            np.testing.assert_array_equal(plane, expected)
        np.testing.assert_array_equal(out[0, 40:184:4].astype(np.float16), arrays["normalised_float16"][k])
        numbers = (out[0].mean(), out[0].std(), np.linalg.norm(out[0]))
        np.testing.assert_allclose(numbers, arrays["stats"][k], rtol=1e-4)


@pytest.mark.parametrize("case", ["synthetic0", "synthetic1"])
def test_area_is_byte_exact_shrinking_and_enlarging(golden, case, monkeypatch):
    folder, meta, arrays = golden
    monkeypatch.syspath_prepend(str(folder.parent))
    from fill import fill

    sys.modules.pop("fill")
    how = meta["inputs"][case]
    array = np.clip(np.rint(128 + 40 * fill(how["name"], how["shape"], "plain", salt=0)), 0, 255).astype(np.uint8)
    out, _ = prepare(read_image(array), replace(LETTERBOX, size=(256, 256)))
    np.testing.assert_array_equal(np.rint(out[0] * 255), arrays[f"{case}_resized_uint8"])


# --- geometry ---


def expected_plan(height, width, spec):
    """Resized size and corner, written a second time from the description."""
    if spec.fit == "stretch":
        return spec.size, (0, 0)
    side = spec.resize_to
    if height >= width:
        h, w = side, max(1, int(width * (side / height)))
    else:
        h, w = max(1, int(height * (side / width))), side
    crop = [round((side - s) / 2) for s in spec.size]
    return (h, w), ((side - h) // 2 - crop[0], (side - w) // 2 - crop[1])


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
@example(1, 392, 0)  # a pixel centre on the very border of the crop
@settings(deadline=None, max_examples=30)
def test_points_and_maps_come_back(spec, height, width, seed):
    image = read_image(np.zeros((height, width), np.uint8))
    out, geometry = prepare(image, spec)
    assert out.shape == (spec.channels, *spec.size)
    points = np.random.default_rng(seed).random((20, 2)) * (height, width)
    back = geometry.to_image_points(geometry.to_array_points(points))
    np.testing.assert_allclose(back, points, atol=1e-6 * max(height, width))

    size, corner = expected_plan(height, width, spec)
    np.testing.assert_allclose(geometry.to_array_points(np.zeros((1, 2)))[0], corner)
    np.testing.assert_allclose(geometry.to_array_points(np.array([[height, width]]))[0], np.add(corner, size))

    shown = geometry.to_image(np.ones((14, 14), np.float32))
    assert shown.shape == (height, width)
    hidden = np.zeros((height, width), bool)
    for axis, cells in enumerate((height, width)):
        place = (np.arange(cells) + 0.5) * size[axis] / cells + corner[axis]
        outside = (place < -1e-9) | (place > spec.size[axis] + 1e-9)
        hidden |= outside[:, None] if axis == 0 else outside[None, :]
    np.testing.assert_array_equal(np.isnan(shown), hidden)


@pytest.mark.parametrize("spec", SPECS[:4], ids=range(4))
@given(st.integers(1, 500), st.integers(1, 500), st.data())
@settings(deadline=None, max_examples=30)
def test_a_bright_square_is_found_where_it_was(spec, height, width, data):
    # A square of at least 6 array pixels, away from what the crop hides.
    size, corner = expected_plan(height, width, spec)
    per_pixel = (size[0] / height, size[1] / width)
    least = [min(n, int(np.ceil(6 / s))) for n, s in zip((height, width), per_pixel, strict=True)]
    sides = [data.draw(st.integers(a, max(a, n // 2))) for a, n in zip(least, (height, width), strict=True)]
    top = [data.draw(st.integers(0, n - s)) for n, s in zip((height, width), sides, strict=True)]
    centre = np.array([t + s / 2 for t, s in zip(top, sides, strict=True)])
    ends = [(c + t * p, c + (t + s) * p) for c, t, s, p in zip(corner, top, sides, per_pixel, strict=True)]
    assume(all(a >= 0 and b <= n for (a, b), n in zip(ends, spec.size, strict=True)))
    array = np.zeros((height, width), np.uint8)
    array[top[0] : top[0] + sides[0], top[1] : top[1] + sides[1]] = 255
    out, geometry = prepare(read_image(array), spec)
    found = geometry.to_image(out[0])
    weight = np.nan_to_num(found - np.nanmin(found))
    assume(weight.sum() > 0)
    place = np.array(
        [(weight.sum(axis=1 - a) * (np.arange(n) + 0.5)).sum() / weight.sum() for a, n in enumerate(weight.shape)]
    )
    tolerance = np.array([max(0.75, 1.5 / p) for p in per_pixel])
    assert (np.abs(place - centre) <= tolerance).all(), (place, centre)


# --- masks ---


@given(SIDES, SIDES, st.integers(1, 300), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_stretched_masks_are_pillow_nearest(height, width, size, seed):
    mask = noise(height, width, seed=seed) > 127
    picture = PilImage.fromarray(mask.astype(np.uint8) * 255).resize((size, size), PilImage.Resampling.NEAREST)
    np.testing.assert_array_equal(prepare_mask(mask, mla_input(size)), np.asarray(picture) > 127)


@given(SIDES, SIDES)
@settings(deadline=None, max_examples=30)
def test_letterboxed_masks_lie_on_the_image(height, width):
    mask = np.ones((height, width), bool)
    got = prepare_mask(mask, LETTERBOX)
    image, _ = prepare(read_image(mask), LETTERBOX)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, image[0] == 1)


@pytest.mark.parametrize("mask", [np.zeros((3, 3), np.uint8), np.zeros((3, 3, 1), bool), np.zeros((0, 3), bool)])
def test_bad_masks(mask):
    with pytest.raises(MetricError, match=r"expected a mask \(H, W\) of bool"):
        prepare_mask(mask, mla_input())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, "expected size"),
        ({"size": (4,)}, "expected size"),
        ({"fit": "crop"}, "expected fit 'stretch' or 'letterbox', got 'crop'"),
        ({"filter": "lanczos"}, "expected filter 'bicubic' or 'area', got 'lanczos'"),
        ({"fit": "letterbox"}, "expected resize_to with 'letterbox'"),
        ({"resize_to": 9}, "expected resize_to with 'letterbox' and only there"),
        ({"fit": "letterbox", "resize_to": 3}, "expected resize_to of at least 4"),
        ({"channels": 1}, "expected 3 channels for colour"),
        ({"channels": 2, "colour": False}, "1 or 3 for grey, got 2"),
        ({"mean": (0.5,)}, "expected mean and std together"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "expected mean with 1 or 3 finite values"),
        ({"mean": (0.5,), "std": (float("nan"),)}, "expected std with 1 or 3 finite"),
        ({"mean": (0.5,), "std": (0.0,)}, "expected std > 0"),
    ],
)
def test_bad_specifications(settings, message):
    with pytest.raises(SettingsError, match=message):
        InputSpec(**{"size": (4, 4), **settings})


def test_what_is_prepared_stays_and_fits_one_network_alone():
    image = read_image(np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8))
    array, geometry = prepare(image, LETTERBOX)
    once = prepared(image, LETTERBOX)
    np.testing.assert_array_equal(once.array, array)
    assert (once.geometry, once.source, once.spec) == (geometry, image.source, LETTERBOX)
    assert prepared(once, LETTERBOX) is once
    with pytest.raises(SettingsError, match=r"expected an image prepared by InputSpec.*, got one prepared by"):
        prepared(once, mla_input())
