"""Colour map, overlays, outlines and PNG files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from wordsight.errors import ImageError, MetricError
from wordsight.imaging.overlay import colour_map, outline, overlay, scaled, to_rgb, write_png
from wordsight.types import Geometry, Heatmap, Image, ScoreKind

RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None]


def image_of(shape: tuple[int, ...], seed: int = 0) -> Image:
    return Image(np.random.default_rng(seed).random(shape, dtype=np.float32))


def heatmap_of(values: np.ndarray) -> Heatmap:
    return Heatmap("lesion", values.astype(np.float32), ScoreKind.SCALED)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB by Pillow's colour management, a second opinion on the map's own conversion."""
    from PIL import ImageCms

    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    raw = np.asarray(ImageCms.applyTransform(Pillow.fromarray(rgb), to_lab)).astype(np.int16)
    a, b = (np.where(raw[..., i] > 127, raw[..., i] - 256, raw[..., i]) for i in (1, 2))
    return np.stack([raw[..., 0] * 100 / 255, a, b], axis=-1).astype(np.float64)


def test_colour_map_is_perceptually_uniform() -> None:
    colours = lab(colour_map(RAMP))[0][::16]
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.35  # 8-bit rounding is a tenth of a step


def test_lightness_only_rises_also_for_colour_blind_viewers() -> None:
    rgb = colour_map(RAMP)[0] / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert (np.diff(lab(colour_map(RAMP))[0][::4, 0]) > 0).all()
    # Machado, Oliveira & Fernandes 2009, severity 1: protanopia, deuteranopia.
    for matrix in (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ):
        luminance = np.clip(linear @ np.array(matrix).T, 0, 1) @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance[::4]) > 0).all()


def test_colour_map_ends_and_nan() -> None:
    ends = colour_map(np.array([[-1.0, 0.0, 1.0, 7.0, np.nan, np.inf]]))[0]
    assert (ends[0] == ends[1]).all()
    assert (ends[2] == ends[3]).all()
    assert ends[4].tolist() == [128, 128, 128]
    assert (ends[5] == ends[2]).all()


@given(seed=st.integers(0, 999), height=st.integers(1, 40), width=st.integers(1, 40), colour=st.booleans())
@settings(deadline=None, max_examples=40)
def test_overlay_shape_range_and_inputs_untouched(seed: int, height: int, width: int, colour: bool) -> None:
    image = image_of((height, width, 3) if colour else (height, width), seed)
    values = np.random.default_rng(seed).normal(0, 5, (height, width)).astype(np.float32)
    before = image.pixels.copy(), values.copy()
    drawn = overlay(image, heatmap_of(values))
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.uint8
    assert (image.pixels == before[0]).all()
    assert (values == before[1]).all()


def test_strength_zero_is_the_image_and_one_is_the_map_at_its_top() -> None:
    image = image_of((8, 9))
    values = np.zeros((8, 9))
    values[2, 3] = 4.0
    assert (overlay(image, heatmap_of(values), strength=0.0) == to_rgb(image)).all()
    assert (overlay(image, heatmap_of(values), strength=1.0)[2, 3] == colour_map(np.ones((1, 1)))[0, 0]).all()


def test_common_limits_make_maps_comparable() -> None:
    image = Image(np.full((4, 4), 0.5, dtype=np.float32))
    weak, strong = np.full((4, 4), 0.2), np.full((4, 4), 0.9)
    first, second = (overlay(image, heatmap_of(v), limits=(0.0, 1.0)) for v in (weak, strong))
    assert (first != second).any()
    assert (overlay(image, heatmap_of(weak)) == overlay(image, heatmap_of(strong))).all()  # no spread: nothing to show


def test_unseen_parts_are_dimmed_and_hatched() -> None:
    image = Image(np.full((64, 128), 0.6, dtype=np.float32))
    values = Geometry((64, 128), (64, 64), (1.0, 1.0), (0.0, -32.0)).to_image(np.random.default_rng(1).random((8, 8)))
    unseen = np.isnan(values)
    drawn = overlay(image, heatmap_of(values)).astype(int)
    assert unseen.mean() == 0.5
    assert len(np.unique(drawn[unseen], axis=0)) == 2  # dim ground and stripes, nothing else
    assert drawn[unseen].max() < 0.6 * 255
    assert (drawn[unseen].std(axis=1) == 0).all()  # grey: no colour that could be read as a value
    entirely = overlay(image, heatmap_of(np.full((64, 128), np.nan)))
    assert len(np.unique(entirely.reshape(-1, 3), axis=0)) == 2


def test_scaled_without_spread_and_bad_limits() -> None:
    assert (scaled(np.full((2, 2), 3.0)) == 0).all()
    assert scaled(np.array([1.0, 2.0, 3.0])).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(MetricError, match="low <= high"):
        scaled(np.zeros((2, 2)), (1.0, 0.0))
    with pytest.raises(MetricError, match="low <= high"):
        scaled(np.zeros((2, 2)), (0.0, np.nan))


def test_overlay_refuses_wrong_shape_and_strength() -> None:
    with pytest.raises(MetricError, match=r"expected a heatmap of shape \(4, 5\).*Geometry.to_image"):
        overlay(image_of((4, 5)), heatmap_of(np.zeros((5, 4))))
    with pytest.raises(MetricError, match=r"strength in \[0, 1\], got 2"):
        overlay(image_of((4, 5)), heatmap_of(np.zeros((4, 5))), strength=2)


def test_outline_surrounds_the_mask_and_leaves_it_alone() -> None:
    rgb = to_rgb(image_of((40, 50)))
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:20, 10:30] = True
    drawn = outline(rgb, mask, (255, 0, 0))
    changed = (drawn != rgb).any(axis=2)
    assert not changed[mask].any()
    line = (drawn == [255, 0, 0]).all(axis=2)
    assert line.sum() == 2 * 10 + 2 * 20  # one pixel wide, four-connected, no corners
    assert line[9, 10:30].all()
    assert line[10:20, 30].all()
    assert (drawn[8, 10:30] == 0).all()  # dark edge: visible on bright ground too
    assert (outline(rgb, np.zeros_like(mask)) == rgb).all()
    assert (outline(rgb, np.ones_like(mask)) == rgb).all()
    with pytest.raises(MetricError, match=r"expected a mask of shape \(40, 50\)"):
        outline(rgb, mask.T)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    write_png(tmp_path / "new" / "a.png", array)
    with Pillow.open(tmp_path / "new" / "a.png") as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == array).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("array", [np.zeros((3, 3)), np.zeros((3, 3, 4), np.uint8), np.zeros((0, 3), np.uint8)])
def test_png_refuses_other_arrays(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8 array to write"):
        write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


def test_overlay_on_a_real_slice(shared: Path) -> None:
    folder = shared / "data" / "LiverROI_AD" / "test" / "Ungood"
    file = sorted((folder / "img").iterdir())[0]
    with Pillow.open(file) as opened, Pillow.open(folder / "anomaly_mask" / file.name) as opened_mask:
        pixels = np.asarray(opened.convert("L"), dtype=np.float32) / 255
        mask = np.asarray(opened_mask.convert("L")) > 0
    drawn = overlay(Image(pixels), heatmap_of(mask.astype(np.float32)))
    warmth = drawn.astype(int)[..., 0] - drawn.astype(int)[..., 2]
    assert warmth[mask].mean() > warmth[~mask].mean() + 20


@pytest.mark.parametrize("shape", [(150, 40), (150, 40, 3), (5, 7)])
@pytest.mark.parametrize("limits", [None, (0.2, 0.7)])
def test_overlay_is_the_picture_mixed_with_the_colours(
    shape: tuple[int, ...], limits: tuple[float, float] | None
) -> None:
    image, random = image_of(shape), np.random.default_rng(1)
    values = random.random(shape[:2], dtype=np.float32)
    values[:3], values[-2:, 1] = np.nan, np.nan
    value, picture = scaled(values, limits), to_rgb(image).astype(np.float64)
    opacity = 0.8 * (0.25 + 0.75 * np.nan_to_num(value))[:, :, None]
    mixed = picture * (1 - opacity) + colour_map(value) * opacity
    drawn = overlay(image, heatmap_of(values), limits=limits, strength=0.8).astype(int)
    seen = ~np.isnan(value)
    assert np.abs(drawn - mixed)[seen].max() <= 1.0  # the opacity has 256 levels
    dimmed, stripe = (np.abs(drawn - np.minimum(picture * 0.35 + light, 255)).max(axis=2) <= 0.51 for light in (0, 60))
    assert (dimmed | stripe)[~seen].all()
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    period = max(4, round(min(shape[:2]) / 16))
    assert (stripe == ((rows + columns) % period < max(1, period // 4)))[~seen].all()
