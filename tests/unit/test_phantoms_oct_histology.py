"""Retinal OCT and histology phantoms: deterministic, exactly masked, and not separable by trivial means."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wordsight.data.phantoms import histology, oct, oct_layers
from wordsight.data.phantoms.common import Phantom, stream
from wordsight.data.phantoms.grain import grain
from wordsight.data.phantoms.png import encode_png
from wordsight.errors import ImageError

DRAWS: dict[str, Callable[..., Phantom]] = {
    "resc": oct.draw_resc,
    "oct2017": oct.draw_oct2017,
    "histology": histology.draw,
}
every_set = pytest.mark.parametrize("name", sorted(DRAWS))


def phantom(name: str, index: int, abnormal: bool, size: int = 240, seed: int = 0) -> Phantom:
    return DRAWS[name](stream(name, seed, index), abnormal, size)


@every_set
def test_same_stream_same_phantom(name: str) -> None:
    for abnormal in (False, True):
        one, two = phantom(name, 5, abnormal), phantom(name, 5, abnormal)
        assert np.array_equal(one.pixels, two.pixels)
        assert one.attributes == two.attributes
        assert one.lesions == two.lesions
        assert not np.array_equal(one.pixels, phantom(name, 6, abnormal).pixels)
        assert not np.array_equal(one.pixels, phantom(name, 5, abnormal, seed=1).pixels)


@every_set
@given(index=st.integers(0, 10_000), abnormal=st.booleans(), size=st.sampled_from([64, 97, 240]))
@settings(deadline=None, max_examples=16)
def test_shapes_types_and_lesions(name: str, index: int, abnormal: bool, size: int) -> None:
    made = phantom(name, index, abnormal, size)
    assert made.pixels.shape == ((size, size, 3) if name == "histology" else (size, size))
    assert made.pixels.dtype == np.uint8
    assert made.pixels.std() > 4
    assert made.label == int(abnormal)
    assert bool(made.lesions) == abnormal
    for lesion in made.lesions:
        assert set(lesion) == {"kind", "centre", "size", "contrast"}
        assert all(0 <= place < size for place in lesion["centre"])
        assert 0 < lesion["size"] < size
        assert 0 < lesion["contrast"] <= 1
    if name != "resc":
        assert made.mask is None
    else:
        assert made.mask is not None
        assert made.mask.dtype == np.bool_
        assert made.mask.shape == (size, size)
        assert made.mask.any() == abnormal


@every_set
def test_attributes_are_the_same_with_and_without_a_lesion(name: str) -> None:
    for index in range(20):
        assert phantom(name, index, False).attributes == phantom(name, index, True).attributes


@every_set
def test_every_kind_appears_and_a_minority_is_hard(name: str) -> None:
    lesions = [phantom(name, index, True, 96).lesions for index in range(90)]
    kinds = {lesion["kind"] for group in lesions for lesion in group}
    expected = {
        "resc": set(oct_layers.RESC.kinds),
        "oct2017": set(oct_layers.OCT2017.kinds),
        "histology": {"metastasis"},
    }
    assert kinds == expected[name]
    hard = np.mean([max(lesion["contrast"] for lesion in group) < 0.65 for group in lesions])
    assert 0.05 < hard < 0.3


@pytest.mark.parametrize("style", [oct_layers.RESC, oct_layers.OCT2017], ids=["resc", "oct2017"])
def test_layers_keep_their_order(style: oct_layers.Style) -> None:
    for index in range(60):
        retina = oct_layers.build(stream("layers", 0, index), bool(index % 2), style, 240)[0].retina
        assert (retina.ilm > 0).all()
        assert (retina.ilm < retina.opl).all()
        assert (retina.opl < retina.tips).all()
        assert (retina.tips < retina.rpe).all()
        assert (retina.rpe < retina.bruch).all()
        assert (retina.bruch < 240).all()


def test_mask_lies_inside_the_retina() -> None:
    rows = np.arange(240)[:, None]
    for index in range(100):
        scene, _ = oct_layers.build(stream("mask", 0, index), True, oct_layers.RESC, 240)
        inside = (rows >= scene.retina.ilm) & (rows < scene.retina.bruch)
        assert scene.mask.any()
        assert not (scene.mask & ~inside).any()
        assert 0.0005 < scene.mask.mean() < 0.12


def test_mask_is_exactly_where_fluid_is_drawn() -> None:
    rows = np.arange(240)[:, None]
    for index in range(60):
        rng = stream("exact", 0, index)
        scene, _ = oct_layers.build(rng, True, oct_layers.RESC, 240)
        picture = oct.reflectivity(rng, scene)
        retina = scene.retina
        # Healthy gaps hold one grey value each; whatever else stands there is fluid.
        levels = {float(v) for v in np.unique(retina.gap)} | {float(v) for v in np.unique(retina.pod)}
        levels -= {float(np.float32(0.5)), float(np.float32(0.75))}
        fluid = np.zeros((240, 240), dtype=bool)
        for level in levels:
            fluid |= np.abs(picture - np.float32(level)) < 1e-6
        if scene.cavity is not None:
            assert np.abs(picture[scene.cavity == 1] - scene.cavity_level).max() < 1e-5
            fluid |= scene.cavity >= 0.5
        eye = (rows >= retina.ilm + 1) & (rows < retina.bruch)
        assert np.array_equal(fluid & eye, scene.mask & eye)


def test_masked_pixels_are_darker_than_the_rest_of_the_retina_in_most_images() -> None:
    rows, darker = np.arange(240)[:, None], []
    for index in range(60):
        scene, _ = oct_layers.build(stream("resc", 0, index), True, oct_layers.RESC, 240)
        made = phantom("resc", index, True)
        retina = (rows >= scene.retina.ilm) & (rows < scene.retina.bruch) & ~scene.mask
        assert made.mask is not None
        assert np.array_equal(made.mask, scene.mask)
        darker.append(made.pixels[made.mask].mean() < made.pixels[retina].mean() - 0.5 * made.pixels[retina].std())
    assert np.mean(darker) > 0.75


def test_white_borders_are_named() -> None:
    words = []
    for index in range(60):
        made = phantom("oct2017", index, bool(index % 2))
        words.append(made.attributes["border"])
        if made.attributes["border"] == "none":
            assert (made.pixels[[0, -1]] == 255).mean() < 0.5
    assert 0.2 < np.mean([word == "white" for word in words]) < 0.6
    assert "border" not in phantom("resc", 0, False).attributes


def test_sections_look_stained() -> None:
    colours = np.stack([phantom("histology", index, bool(index % 2)).pixels.mean(axis=(0, 1)) for index in range(40)])
    green = colours[:, 1]
    assert (green < colours[:, 0] + 5).mean() > 0.9  # eosin and haematoxylin both absorb green most
    assert (green < colours[:, 2]).mean() > 0.9
    assert green.std() > 8  # the stain varies from section to section


def _statistics(pixels: np.ndarray) -> list[float]:
    found: list[float] = []
    every_other = pixels[::2, ::2]
    for channel in every_other.reshape(every_other.shape[0] * every_other.shape[1], -1).T.astype(float):
        found += [channel.mean(), channel.std(), *np.percentile(channel, [1, 5, 10, 25, 50, 75, 90, 95, 99])]
        found += (np.histogram(channel, 16, (0, 256))[0] / channel.size).tolist()
    return found


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    small = PillowImage.fromarray(pixels).resize((16, 16), PillowImage.Resampling.BOX)
    return np.asarray(small, dtype=float).ravel()


def _auroc(features: np.ndarray, labels: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(
        roc_auc_score(labels, cross_val_predict(model, features, labels, cv=folds, method="decision_function"))
    )


@every_set
def test_trivial_features_stay_near_chance(name: str) -> None:
    labels = np.arange(200) % 2
    pixels = [phantom(name, index, bool(label), seed=7).pixels for index, label in enumerate(labels)]
    assert _auroc(np.array([_thumbnail(p) for p in pixels]), labels) <= 0.65
    assert _auroc(np.array([_statistics(p) for p in pixels]), labels) <= 0.65


def test_the_triviality_measure_finds_a_brighter_class() -> None:
    labels = np.arange(80) % 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 120, (80, 32, 32), dtype=np.uint8) + (20 * labels[:, None, None]).astype(np.uint8)
    assert _auroc(np.array([_statistics(p) for p in pixels]), labels) > 0.95
    assert _auroc(np.array([_thumbnail(p) for p in pixels]), labels) > 0.95


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.sampled_from(["grey", "rgb", "mask"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_png_read_by_pillow_is_what_was_written(height: int, width: int, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3) if kind == "rgb" else (height, width), dtype=np.uint8)
    if kind == "mask":
        pixels = np.where(pixels > 220, 255, 0).astype(np.uint8)
    with PillowImage.open(io.BytesIO(encode_png(pixels))) as read:
        assert read.mode == ("RGB" if kind == "rgb" else "L")
        assert np.array_equal(np.asarray(read), pixels)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_png_refuses_other_arrays(bad: np.ndarray) -> None:
    with pytest.raises(
        ImageError, match=r"expected uint8 pixels of shape \(H, W\) or \(H, W, 3\), got .* Convert them"
    ):
        encode_png(bad)


def test_grain_is_white_normal_noise() -> None:
    noise = grain(np.random.default_rng(0), (400, 400))
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((np.abs(noise) < 1).mean()) - 0.683) < 0.01
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.01
