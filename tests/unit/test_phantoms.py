"""Phantoms: repeatable by seed, exact masks, the benchmark's layout, and no shortcut through global statistics."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wordsight.data.phantoms import (
    MASKED,
    SETS,
    Phantom,
    common,
    contact_sheet,
    draw_phantom,
    scan,
    stream,
    write_phantoms,
)
from wordsight.data.phantoms.write import CLASSES, LARGEST, SPLITS, stream_index
from wordsight.errors import DataError, SettingsError

OWN = ("Brain", "Liver", "Chest")


@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("abnormal", [False, True])
def test_shapes_types_and_truth(name: str, abnormal: bool) -> None:
    phantom = draw_phantom(name, 3, 5, abnormal)
    assert isinstance(phantom, Phantom)
    assert phantom.pixels.dtype == np.uint8
    assert phantom.pixels.shape == ((240, 240, 3) if name == "Histopathology" else (240, 240))
    assert phantom.label == int(abnormal)
    assert bool(phantom.lesions) == abnormal
    assert (phantom.mask is not None) == (name in MASKED)
    if phantom.mask is not None:
        assert phantom.mask.dtype == np.bool_
        assert phantom.mask.shape == (240, 240)
        assert phantom.mask.any() == abnormal
    for lesion in phantom.lesions:
        assert {"kind", "centre", "size", "contrast"} <= set(lesion)
    assert phantom.attributes
    assert all(isinstance(value, str | int | float) for value in phantom.attributes.values())


@pytest.mark.parametrize("name", OWN)
def test_the_same_arguments_give_the_same_pixels_in_any_order(name: str) -> None:
    forward = [draw_phantom(name, 7, index, index % 2 == 1) for index in range(4)]
    backward = [draw_phantom(name, 7, index, index % 2 == 1) for index in reversed(range(4))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.attributes == other.attributes
        assert one.lesions == other.lesions
    assert not np.array_equal(forward[0].pixels, draw_phantom(name, 8, 0, False).pixels)
    assert not np.array_equal(forward[0].pixels, draw_phantom(name, 7, 2, False).pixels)


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 2**32 - 2))
@settings(deadline=None, max_examples=30)
def test_streams_differ_by_name_seed_and_index(seed: int, index: int) -> None:
    first = stream("Brain", seed, index).integers(2**62, size=3)
    np.testing.assert_array_equal(first, stream("Brain", seed, index).integers(2**62, size=3))
    for other in (stream("Liver", seed, index), stream("Brain", seed ^ 1, index), stream("Brain", seed, index + 1)):
        assert not np.array_equal(first, other.integers(2**62, size=3))


@pytest.mark.parametrize(("seed", "index", "name"), [(-1, 0, "seed"), (2**32, 0, "seed"), (0, -1, "index")])
def test_streams_refuse_numbers_out_of_range(seed: int, index: int, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: expected an integer from 0 to 2\*\*32 - 1"):
        stream("Brain", seed, index)


@pytest.mark.parametrize("name", ["Brain", "Liver"])
def test_the_mask_is_exactly_where_the_image_changed(name: str) -> None:
    """With the same anatomy and noise, all clear changes lie in or at the mask, and the mask's inside has changed."""
    for index in range(8):
        normal, abnormal = draw_phantom(name, 11, index, False), draw_phantom(name, 11, index, True)
        assert normal.mask is not None
        assert abnormal.mask is not None
        assert not normal.mask.any()
        assert normal.attributes == abnormal.attributes
        change = np.abs(normal.pixels.astype(int) - abnormal.pixels.astype(int))
        assert (change > 0)[abnormal.mask].mean() > 0.85
        assert change[~grown(abnormal.mask, 5)].max() <= 1
        assert change[abnormal.mask].mean() > 4


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Add the four neighbours `pixels` times: the soft border of a lesion and the blur of the scanner."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def test_masks_lie_inside_the_organ() -> None:
    """Brain lesions stay inside the skull, liver lesions inside the dense liver and off its gallbladder."""
    for index in range(6):
        brain = draw_phantom("Brain", 1, index, True)
        assert brain.mask is not None
        assert not brain.mask[[0, -1]].any()
        assert not brain.mask[:, [0, -1]].any()
        normal = draw_phantom("Brain", 1, index, False).pixels.astype(float)
        assert np.median(normal[brain.mask]) > np.median(normal[:20, :20]) + 10
        liver = draw_phantom("Liver", 1, index, True)
        normal = draw_phantom("Liver", 1, index, False).pixels.astype(float)
        assert liver.mask is not None
        assert normal[liver.mask].std() < 30
        assert np.median(normal[liver.mask]) > np.median(normal) + 15


@pytest.mark.parametrize("name", OWN)
def test_lesions_are_clear_against_the_local_noise(name: str) -> None:
    """The change a lesion makes, over the noise of the image, is above 2 in most images: few are hard."""
    ratios = []
    for index in range(16):
        normal, abnormal = draw_phantom(name, 2, index, False), draw_phantom(name, 2, index, True)
        change = np.abs(abnormal.pixels.astype(float) - normal.pixels)
        noise = np.median(np.abs(np.diff(normal.pixels.astype(float), axis=1))) / 0.954 + 0.5
        ratios.append(np.percentile(change[change > 3], 75) / noise)
    assert np.mean(np.array(ratios) > 2) >= 0.7


def statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean, spread, percentiles, histogram and the size that packing leaves (of a PNG file, say)."""
    grey = pixels.astype(float)
    percentiles = np.percentile(grey, [1, 5, 25, 50, 75, 95, 99])
    histogram = np.histogram(grey, 16, (0, 256))[0] / grey.size
    return np.concatenate(
        [[grey.mean(), grey.std()], percentiles, histogram, [len(zlib.compress(pixels.tobytes(), 1))]]
    )


@pytest.mark.parametrize("name", list(SETS))
def test_thumbnails_and_statistics_stay_near_chance(name: str) -> None:
    """Cross-validated AUROC of shortcuts. Its standard error is 0.041 for 200 images, so chance alone reaches 0.58."""
    count = 200
    pictures = [draw_phantom(name, 1, index, index % 2 == 1).pixels for index in range(count)]
    labels = np.arange(count) % 2
    thumbnails = np.stack(
        [
            np.asarray(PillowImage.fromarray(pixels).convert("L").resize((16, 16), PillowImage.Resampling.BOX)).ravel()
            for pixels in pictures
        ]
    ).astype(float)
    numbers = np.stack([statistics(pixels) for pixels in pictures])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    boosting = GradientBoostingClassifier(n_estimators=30, random_state=0)
    for what, features, model in (
        ("thumbnail", thumbnails, linear),
        ("statistics", numbers, linear),
        ("boosted statistics", numbers, boosting),
    ):
        scores = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")[:, 1]
        auroc = roc_auc_score(labels, scores)
        assert 0.33 <= auroc <= 0.67, f"{name}: {what} reach {auroc:.3f}"


def test_writing_makes_the_layout_of_the_benchmark(tmp_path: Path) -> None:
    counts = write_phantoms(tmp_path / "p", names=["Chest", "Brain"], valid=4, test=2, seed=5, workers=1)
    assert counts == {"Brain": 12, "Chest": 12}
    brain = tmp_path / "p" / "Brain_AD"
    assert sorted(p.name for p in brain.iterdir()) == ["test", "valid"]
    assert sorted(p.name for p in (brain / "valid" / "good" / "img").iterdir()) == [f"{n:04d}.png" for n in range(4)]
    assert not (brain / "valid" / "good" / "anomaly_mask").exists()
    assert not list((tmp_path / "p" / "Chest_AD").rglob("anomaly_mask"))
    for path in (brain / "test" / "Ungood" / "img").iterdir():
        phantom = draw_phantom("Brain", 5, stream_index("test", "Ungood", int(path.stem)), True)
        np.testing.assert_array_equal(np.asarray(PillowImage.open(path)), phantom.pixels)
        mask = np.asarray(PillowImage.open(brain / "test" / "Ungood" / "anomaly_mask" / path.name))
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask > 0, phantom.mask)
    described = json.loads((tmp_path / "p" / "phantoms.json").read_text())
    assert described["seed"] == 5
    assert described["counts"] == {"train": 0, "valid": 4, "test": 2}
    assert described["note"] == "synthetic: know nothing of patients"


def test_few_shot_lists_name_existing_files(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "p", names=["Chest"], valid=5, test=0, workers=1)
    lists = tmp_path / "p" / "fewshot_seed" / "Chest"
    assert sorted(p.name for p in lists.iterdir()) == ["2-shot.txt", "4-shot.txt"]
    lines = (lists / "4-shot.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{letter}-{draw}" for draw in range(5) for letter in "na"]
    for line in lines:
        kind = "good" if line.startswith("n") else "Ungood"
        files = line.split()[1:]
        assert len(set(files)) == 4
        assert all((tmp_path / "p" / "Chest_AD" / "valid" / kind / "img" / file).is_file() for file in files)
    assert len({line.split(": ")[1] for line in lines}) > 5


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writing_again_and_with_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    wanted = {"names": ["Brain"], "valid": 25, "test": 17, "train": 1, "seed": 2}
    write_phantoms(tmp_path / "one", workers=1, **wanted)
    first = contents(tmp_path / "one")
    write_phantoms(tmp_path / "many", workers=2, **wanted)
    assert contents(tmp_path / "many") == first
    (tmp_path / "one" / "Brain_AD" / "test" / "good" / "img" / "0000.png").unlink()
    write_phantoms(tmp_path / "one", workers=1, **wanted)
    assert contents(tmp_path / "one") == first
    images = [value for name, value in first.items() if "/img/" in name]
    assert len(images) == 86
    assert len(set(images)) == 86


def test_streams_of_splits_and_classes_never_meet() -> None:
    starts = sorted(stream_index(split, kind, 0) for split in SPLITS for kind in CLASSES)
    assert np.diff(starts).min() >= LARGEST
    assert starts[-1] + LARGEST <= 2**32


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep")
    with pytest.raises(DataError, match="expected an empty folder or earlier phantoms"):
        write_phantoms(foreign, names=["Chest"], valid=1, test=0)
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="expected a folder, got a file"):
        write_phantoms(foreign / "thesis.txt", names=["Chest"], valid=1, test=0)
    write_phantoms(tmp_path / "own", names=["Chest"], valid=1, test=0)
    with pytest.raises(DataError, match="holds other phantoms"):
        write_phantoms(tmp_path / "own", names=["Chest"], valid=1, test=0, seed=1)
    (tmp_path / "own" / "phantoms.json").write_text("{")
    with pytest.raises(DataError, match="holds other phantoms"):
        write_phantoms(tmp_path / "own", names=["Chest"], valid=1, test=0)


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "p"
    with pytest.raises(DataError, match=r"phantom sets: expected some of Brain.* got 'Knee'"):
        write_phantoms(target, names=["Knee"])
    with pytest.raises(DataError, match="got none"):
        write_phantoms(target, names=[])
    with pytest.raises(SettingsError, match="valid: expected 0 to"):
        write_phantoms(target, valid=-1)
    with pytest.raises(SettingsError, match="seed: expected"):
        write_phantoms(target, seed=-1)
    with pytest.raises(SettingsError, match="workers: expected at least 1"):
        write_phantoms(target, workers=0)
    assert not target.exists()
    with pytest.raises(DataError, match="unknown phantom set 'Knee'"):
        draw_phantom("Knee", 0, 0, False)


def test_contact_sheets_show_outlines_for_sets_with_masks() -> None:
    sheet = contact_sheet("Brain", 0, columns=2)
    assert sheet.shape == (3 * 240, 2 * 240, 3)
    assert sheet.dtype == np.uint8
    grey = (sheet == sheet[..., :1]).all(axis=2)
    assert grey[:480].all()
    assert not grey[480:, :240].all()
    assert not grey[480:, 240:].all()
    assert contact_sheet("Chest", 0, columns=2).shape == (2 * 240, 2 * 240, 3)


def test_fields_have_about_unit_variance_and_reach() -> None:
    rng = stream("field", 0, 0)
    for scale in (4, 13, 40):
        field = np.stack([common.smooth_field(rng, (240, 200), scale) for _ in range(20)])
        assert field.shape == (20, 240, 200)
        assert field.dtype == np.float32
        assert abs(field.mean()) < 0.2
        assert 0.85 < field.std() < 1.25
        near = np.corrcoef(field[:, :, 1:].ravel(), field[:, :, :-1].ravel())[0, 1]
        far = np.corrcoef(field[:, :, 4 * scale :].ravel(), field[:, :, : -4 * scale].ravel())[0, 1]
        assert near > 0.8
        assert abs(far) < 0.25


def test_enlarging_keeps_constants_and_agrees_with_pillow() -> None:
    constant = common.enlarge(np.full((5, 7), 0.25, np.float32), (40, 63))
    np.testing.assert_allclose(constant, 0.25, atol=1e-6)
    small = stream("enlarge", 0, 0).standard_normal((12, 9), dtype=np.float32)
    wanted = np.asarray(PillowImage.fromarray(small).resize((90, 120), PillowImage.Resampling.BILINEAR))
    ours = common.enlarge(small, (120, 90), bicubic=False)
    np.testing.assert_allclose(ours[10:-10, 10:-10], wanted[10:-10, 10:-10], atol=1e-5)


@given(rotation=st.floats(-40, 40), scale=st.floats(0.7, 1.3), aspect=st.floats(0.8, 1.25), shift=st.floats(-0.2, 0.2))
@settings(deadline=None, max_examples=30)
def test_frames_find_their_own_points(rotation: float, scale: float, aspect: float, shift: float) -> None:
    on = common.frame(
        stream("frame", 0, 0), 120, rotation=rotation, shift=(shift, -shift), scale=scale, aspect=aspect, warp=0
    )
    row, column = on.pixel_of(0.2, -0.3)
    assert abs(on.u[row, column] - 0.2) <= 2 * on.pixel
    assert abs(on.v[row, column] + 0.3) <= 2 * on.pixel
    large = on.enlarged((240, 240))
    row, column = large.pixel_of(0.2, -0.3)
    assert abs(large.u[row, column] - 0.2) <= 2 * large.pixel
    window, here = on.around((0.2, -0.3), 0.1)
    full = common.ellipse(on, (0.2, -0.3), (0.1, 0.06), 30)
    part = np.zeros_like(full)
    part[window] = common.ellipse(here, (0.2, -0.3), (0.1, 0.06), 30)
    np.testing.assert_array_equal(part, full)
    area = np.pi * 0.1 * 0.06 / on.pixel**2
    assert full.sum() == pytest.approx(area, rel=0.12)


@given(radius=st.floats(4, 25), wobble=st.floats(0, 0.4), row=st.floats(-5, 125), column=st.floats(-5, 125))
@settings(deadline=None, max_examples=40)
def test_blobs_stay_in_their_window(radius: float, wobble: float, row: float, column: float) -> None:
    window, coverage = common.blob(stream("blob", 0, 1), 120, (row, column), radius, wobble)
    assert np.zeros((120, 120))[window].shape == coverage.shape
    assert coverage.min() >= 0
    assert coverage.max() <= 1
    if 60 < row < 61 and 60 < column < 61:
        assert not coverage[[0, -1]].any()


def test_blob_without_wobble_is_a_disc() -> None:
    window, coverage = common.blob(stream("blob", 0, 0), 120, (60.0, 60.0), 20.0, 0.0, edge=1.0)
    assert window[0].start < 40
    assert coverage.sum() == pytest.approx(np.pi * 400, rel=0.02)


def test_profiles_step_at_their_radii() -> None:
    radius = np.linspace(0, 2.5, 200, dtype=np.float32)[None]
    values = common.profile(radius, [(0.5, 0.9), (1.0, 0.1)], 0.3, edge=0.01)
    np.testing.assert_allclose(values[radius < 0.48], 0.3, atol=1e-6)
    np.testing.assert_allclose(values[(radius > 0.52) & (radius < 0.98)], 0.9, atol=1e-6)
    np.testing.assert_allclose(values[radius > 1.02], 0.1, atol=1e-6)


def test_the_scanner_adds_the_noise_it_was_asked_for() -> None:
    image = np.full((240, 240), 0.5, np.float32)
    for noise in (0.01, 0.04):
        plain = scan.scanner(stream("scan", 0, 0), image, scan.Acquisition(noise=noise, bias=0.0))
        assert plain.std() / 255 == pytest.approx(noise, rel=0.05)
        rician = scan.scanner(stream("scan", 0, 0), image, scan.Acquisition(noise=noise, bias=0.0, rician=True))
        assert rician.std() / 255 == pytest.approx(noise, rel=0.06)
    background = scan.scanner(
        stream("scan", 0, 1), np.zeros((240, 240), np.float32), scan.Acquisition(0.04, 0.0, rician=True)
    )
    # Rayleigh noise of a magnitude image without signal: mean sqrt(pi/2) sigma.
    assert background.mean() / 255 == pytest.approx(0.04 * np.sqrt(np.pi / 2), rel=0.06)


def test_blur_keeps_the_mean_and_softens() -> None:
    picture = stream("blur", 0, 0).random((50, 40), dtype=np.float32)
    soft = scan.blur(picture, 2)
    assert soft.mean() == pytest.approx(picture.mean(), abs=0.01)
    assert soft.std() < 0.5 * picture.std()
    np.testing.assert_allclose(scan.blur(np.ones((9, 9), np.float32)), 1, atol=1e-6)
