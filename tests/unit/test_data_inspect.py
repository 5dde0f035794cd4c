"""What an inspection counts and warns of, on files drawn for the purpose and on real sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PilImage

from wordsight.data import Inspection, benchmark_records, inspect_records
from wordsight.data.shortcuts import FEATURES, is_shortcut, shortcut_aurocs
from wordsight.errors import DataError
from wordsight.types import Record


def noise(seed: int, shape: tuple[int, ...] = (8, 6), dtype: type = np.uint8) -> NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def save(path: Path, pixels: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(pixels).save(path)
    return path


def warned(inspection: Inspection, text: str) -> bool:
    return any(text in warning for warning in inspection.warnings)


def test_counts_sizes_and_kinds(tmp_path: Path) -> None:
    records = [
        Record(save(tmp_path / "v" / "a.png", noise(0)), 0, split="valid", labels={"Edema": 1}),
        Record(save(tmp_path / "t" / "b.png", noise(1, (4, 5, 3))), 1, split="test", labels={"Edema": 0, "Mass": -1}),
        Record(
            save(tmp_path / "t" / "c.png", noise(2, dtype=np.uint16)), 0, split="test", labels={"Edema": 0, "Mass": 7}
        ),
        Record(save(tmp_path / "t" / "d.png", noise(3)), None, split="test"),
    ]
    found = inspect_records(records)
    assert found.counts == {"test": {"normal": 1, "abnormal": 1, "unknown": 1}, "valid": {"normal": 1}}
    assert found.sizes == {"8 x 6": 3, "4 x 5": 1}
    assert found.bits == {8: 3, 16: 1}
    assert sum(found.photometric.values()) == 4
    assert found.photometric["RGB"] == 1
    assert found.spacings == {"unknown": 4}
    assert found.findings["Edema"] == {
        "present": 1, "absent": 2, "uncertain": 0, "other": 0, "missing": 1, "prevalence": pytest.approx(1 / 3),
    }  # fmt: skip
    assert found.findings["Mass"]["prevalence"] is None
    assert (found.findings["Mass"]["uncertain"], found.findings["Mass"]["other"]) == (1, 1)
    assert found.masks is None
    assert set(found.shortcuts.values()) == {None}
    assert found.warnings == ("split valid holds only normal images: no AUROC can be computed there",)


def test_it_becomes_json_and_a_table(tmp_path: Path) -> None:
    mask = save(tmp_path / "m.png", np.eye(8, 6, dtype=np.uint8) * 255)
    record = Record(save(tmp_path / "a.png", noise(0)), 1, mask, patient="p", labels={"Mass": 1})
    found = inspect_records([record], progress=False)
    back = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert back["sizes"] == {"8 x 6": 1}
    assert back["masks"]["levels"] == {"0": 1, "255": 1}
    rows = dict(found.table())
    assert rows["images"] == "1 (0 unreadable)"
    assert rows["Mass"] == "1 present (100.0%)"
    assert rows["masks"] == "1, levels 0, 255"
    assert rows["AUROC from stored size"] == "too few images"


def test_equal_pixels_are_found_whatever_the_file(tmp_path: Path) -> None:
    grey = noise(0)
    a = Record(save(tmp_path / "a.png", grey), 0, split="valid")
    b = Record(save(tmp_path / "b.bmp", grey), 0, split="test")
    c = Record(save(tmp_path / "c.tif", np.repeat(grey[..., None], 3, axis=2)), 1, split="test")
    other = Record(save(tmp_path / "d.png", np.ascontiguousarray(grey.reshape(6, 8))), 1, split="valid")
    found = inspect_records([a, b, c, other])
    assert found.duplicates == (("a.png", "b.bmp", "c.tif"),)
    assert warned(found, "1 groups of images have equal pixels, such as a.png, b.bmp, c.tif")
    assert warned(found, "1 groups of equal images lie in more than one split")
    assert warned(found, "1 groups of equal images lie in more than one label")


def test_shared_patients(tmp_path: Path) -> None:
    patients = {
        "a": ("p1", "valid"),
        "b": ("p1", "test"),
        "c": ("p2", "test"),
        "d": ("p2", "test"),
        "e": (None, "test"),
    }
    records = [
        Record(save(tmp_path / f"{name}.png", noise(ord(name))), ord(name) % 2, patient=patient, split=split)
        for name, (patient, split) in patients.items()
    ]
    found = inspect_records(records)
    assert found.shared_patients == {"p1": ("test", "valid")}
    assert found.patients == 2
    assert warned(found, "1 patients occur in more than one split: p1")


def test_unreadable_files_are_listed(tmp_path: Path) -> None:
    good = save(tmp_path / "a.png", noise(0))
    broken = tmp_path / "b.png"
    broken.write_bytes(good.read_bytes()[:60])
    text = tmp_path / "m.png"
    text.write_text("no mask")
    found = inspect_records([Record(good, 1, text), Record(broken, 0), Record(tmp_path / "gone.png", 0)])
    assert [name for name, _ in found.unreadable] == ["a.png (mask)", "b.png", "gone.png"]
    assert "no such file" in found.unreadable[2][1]
    assert warned(found, "3 of 3 images or masks cannot be read: a.png (mask), b.png, gone.png")
    with pytest.raises(DataError, match="at least one record to inspect"):
        inspect_records([])


def mask_of(*levels: int, shape: tuple[int, int] = (8, 6)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask.flat[: len(levels)] = levels
    return mask


def test_masks_that_are_not_what_they_seem(tmp_path: Path) -> None:
    def record(name: str, mask: NDArray[np.generic] | None) -> Record:
        file = None if mask is None else save(tmp_path / "m" / f"{name}.png", mask)
        return Record(save(tmp_path / f"{name}.png", noise(sum(map(ord, name)))), 1, file)

    found = inspect_records(
        [
            record("binary", mask_of(255)),
            record("bits", mask_of(1).astype(bool)),
            record("zero_one", mask_of(1)),
            record("brats", mask_of(62, 128, 255)),
            record("empty", mask_of()),
            record("small", mask_of(255, shape=(4, 4))),
            record("none", None),
        ]
    )
    assert found.masks is not None
    assert found.masks.files == 6
    assert found.masks.levels == {0: 6, 1: 2, 62: 1, 128: 1, 255: 3}
    assert found.masks.not_binary == ("brats.png (mask)",)
    assert found.masks.faint == ("zero_one.png (mask)", "brats.png (mask)")
    assert found.masks.empty == ("empty.png (mask)",)
    assert found.masks.other_size == ("small.png (mask)",)
    assert found.masks.without == ("none.png",)
    assert warned(found, "1 masks are not binary (levels found: 0, 1, 62, 128, 255)")
    assert warned(found, "as 0/1 masks do; the published threshold drops these pixels: zero_one.png (mask)")
    assert warned(found, "1 masks of abnormal images mark no pixel: empty.png")
    assert warned(found, "1 masks or regions differ in size from their image: small.png (mask)")
    assert warned(found, "1 abnormal images have no mask although others have one: none.png")


def test_regions_must_fit_too(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", noise(0))
    region = save(tmp_path / "r.png", mask_of(1, shape=(3, 3)))
    mask = save(tmp_path / "m.png", mask_of(255))
    found = inspect_records([Record(image, 1, mask, region)])
    assert found.masks is not None
    assert found.masks.other_size == ("a.png (region)",)
    assert found.masks.faint == ()
    assert found.masks.levels == {0: 1, 255: 1}


def test_nifti_masks_follow_their_slice(tmp_path: Path) -> None:
    import nibabel

    volume = np.zeros((6, 8, 3), np.uint8)
    marks = volume.copy()
    marks[0, 0, 1] = 255
    for name, values in (("v.nii", volume), ("m.nii", marks)):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / name)
    records = [Record(tmp_path / "v.nii", 1, tmp_path / "m.nii", frame=frame) for frame in range(3)]
    found = inspect_records(records)
    assert found.masks is not None
    assert found.masks.empty == ("v.nii#0 (mask)", "v.nii#2 (mask)")
    assert list(found.spacings) == ["3 x 2 mm"]


def features_of(size: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed).normal(size=(len(size), len(FEATURES)))
    random[:, 0] = size
    return random


def test_shortcuts_see_size_and_nothing_else() -> None:
    labels = np.arange(200) % 2
    aurocs = shortcut_aurocs(features_of(300.0 + 50 * labels, 0), labels, [str(i) for i in range(200)])
    assert aurocs["stored size"] == 1.0
    assert aurocs["mean and std"] is not None
    assert abs(aurocs["mean and std"] - 0.5) < 0.15
    assert is_shortcut(aurocs["stored size"], 100, 100)
    assert not is_shortcut(aurocs["mean and std"], 100, 100)
    assert not is_shortcut(None, 100, 100)
    assert not is_shortcut(0.68, 12, 39)  # within three standard errors of chance


def test_shortcuts_keep_patients_together() -> None:
    # Ten patients with features of their own: a line through four features can learn them by heart.
    labels = np.repeat(np.arange(10) % 2, 10)
    features = np.repeat(np.random.default_rng(4).normal(size=(10, 4)), 10, axis=0)
    by_patient = shortcut_aurocs(features, labels, [f"p{i // 10}" for i in range(100)])["size, mean and std"]
    by_image = shortcut_aurocs(features, labels, [f"p{i}" for i in range(100)])["size, mean and std"]
    assert by_patient is not None
    assert by_image is not None
    assert by_patient < 0.65 < 0.85 < by_image


def test_shortcuts_need_enough_images_and_groups() -> None:
    labels = np.arange(18) % 2
    names = [str(i) for i in range(18)]
    assert set(shortcut_aurocs(np.ones((18, 4)), labels, names).values()) == {None}
    labels = np.arange(60) % 2
    assert set(shortcut_aurocs(np.ones((60, 4)), labels, [str(i % 8) for i in range(60)]).values()) == {None}
    assert set(shortcut_aurocs(np.ones((0, 4)), np.zeros(0, np.int64), []).values()) == {None}


def test_real_brain_set_has_its_known_shortcut(shared: Path) -> None:
    records = [r for split in ("valid", "test") for r in benchmark_records(shared / "data", "Brain", split)]  # type: ignore[arg-type]
    found = inspect_records(records)
    assert found.shortcuts["stored size"] == pytest.approx(0.857, abs=0.02)
    assert found.shortcuts["mean and std"] == pytest.approx(0.750, abs=0.02)
    assert found.shortcuts["size, mean and std"] == pytest.approx(0.889, abs=0.02)
    assert warned(found, "label can be predicted from the stored size alone: AUROC 0.8")
    assert found.duplicates == ()


def test_real_liver_set_has_none(shared: Path) -> None:
    root = shared / "data"
    records = benchmark_records(root, "LiverROI", "valid", regions=root / "LiverCT_organ_mask")
    found = inspect_records(records)
    assert found.masks is not None
    assert (found.masks.files, dict(found.masks.levels)) == (40, {0: 40, 255: 40})
    assert found.patients == 10
    assert found.warnings == ()


def test_real_benchmark_masks_have_several_levels(shared: Path) -> None:
    samples = shared / "data" / "extra" / "bmad_samples"
    records = [Record(p, 1, p.with_name(p.name.replace("_img", "_gt"))) for p in sorted(samples.glob("*_img.jpg"))]
    found = inspect_records(records)
    assert found.masks is not None
    assert any("Brain" in name for name in found.masks.faint)
    assert warned(found, "masks are not binary")
