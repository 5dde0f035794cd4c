"""The benchmark's layout: names, pairing of masks, patients, regions."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from imaging_samples import nifti
from wordsight.data import benchmark_records, canonical_name, has_masks, records_from
from wordsight.data.benchmark import set_names
from wordsight.errors import DataError, DataWarning, SettingsError


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(np.full((4, 4), value, np.uint8)).save(path, format="PNG")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Below a folder whose name holds "img": Liver_AD with masks, OCT without."""
    root = tmp_path / "my img data"
    for split in ("valid", "test"):
        for name in ("10.png", "9.png", "img_2.PNG"):
            picture(root / "Liver_AD" / split / "good" / "img" / name)
            picture(root / "Liver_AD" / split / "Ungood" / "img" / name)
            picture(root / "Liver_AD" / split / "Ungood" / "anomaly_mask" / name, 255)
        picture(root / "Retina_OCT2017_AD" / split / "good" / "img" / "a.jpeg")
        picture(root / "Retina_OCT2017_AD" / split / "Ungood" / "img" / "b.jpeg")
    picture(root / "Liver_AD" / "train" / "good" / "img" / "t.png")
    picture(root / "Bone_v3_AD" / "test" / "good" / "img" / "1.2.840.10008")
    return root


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Brain", "Brain"), ("brainmri", "Brain"), ("BRAIN_AD", "Brain"), ("LiverCT", "Liver"), ("liver", "Liver"),
        ("RESC", "Retina_RESC"), ("retina_resc", "Retina_RESC"), ("OCT17", "Retina_OCT2017"),
        ("oct2017", "Retina_OCT2017"), ("Retina_OCT2017_AD", "Retina_OCT2017"), ("ChestXray", "Chest"),
        ("chest", "Chest"), ("HIS", "Histopathology"), ("histopathology", "Histopathology"),
    ],
)  # fmt: skip
def test_names_of_the_six_sets(given: str, name: str) -> None:
    assert canonical_name(given) == name


def test_folder_names_are_names(data: Path) -> None:
    assert set_names(data) == ["Bone_v3", "Liver", "Retina_OCT2017"]
    assert canonical_name("bone_V3_ad", data) == "Bone_v3"
    assert canonical_name("LiverCT", data) == "Liver"
    picture(data / "LiverCT_AD" / "test" / "good" / "img" / "a.png")
    assert canonical_name("liverct", data) == "LiverCT"
    assert canonical_name("liver", data) == "Liver"


def test_unknown_names_list_the_known_ones(data: Path) -> None:
    with pytest.raises(
        DataError, match=r"got 'Knee'.*Brain\|BrainMRI.*Retina_RESC\|RESC.*Folders in .*: Bone_v3, Liver"
    ):
        canonical_name("Knee", data)
    with pytest.raises(DataError, match=r"got '\.\./Liver'"):
        canonical_name("../Liver", data)


def test_sorted_good_then_sorted_ungood_with_masks_of_the_same_name(data: Path) -> None:
    records = benchmark_records(data, "liverct", "test")
    assert [(r.label, r.name) for r in records] == [(k, n) for k in (0, 1) for n in ("10.png", "9.png", "img_2.PNG")]
    assert [r.mask for r in records[:3]] == [None] * 3
    assert all(r.mask == r.path.parents[1] / "anomaly_mask" / r.path.name for r in records[3:])
    assert {(r.dataset, r.split, r.patient) for r in records} == {("Liver", "test", None)}
    assert has_masks(records)
    assert not has_masks(benchmark_records(data, "Liver", "train"))
    assert not has_masks(benchmark_records(data, "OCT17", "test"))


def test_missing_masks_are_listed(data: Path) -> None:
    for name in ("9.png", "img_2.PNG"):
        (data / "Liver_AD/test/Ungood/anomaly_mask" / name).unlink()
    with pytest.raises(DataError, match=r"missing for 9\.png, img_2\.PNG"):
        benchmark_records(data, "Liver", "test")
    with pytest.raises(DataError, match=r"missing for 9\.png, img_2\.PNG"):
        records_from(data / "Liver_AD")


def test_a_split_without_its_mask_folder_is_an_error_where_others_have_one(data: Path) -> None:
    for mask in (data / "Liver_AD/valid/Ungood/anomaly_mask").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"missing for 10\.png, 9\.png"):
        benchmark_records(data, "Liver", "valid")


def test_files_that_are_not_images_are_left_out(data: Path) -> None:
    folder = data / "Bone_v3_AD/test/good/img"
    for name in ("Thumbs.db", ".hidden.png", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.png").mkdir()
    (folder / "README").write_text("no image")
    for name in ("b.JPG", "c.tif", "d.bmp", "e.DCM", "plain"):
        picture(folder / name)
    (folder / "damaged.png").write_bytes(b"")
    volume = nifti(np.zeros((4, 4, 3), np.uint8))
    (folder / "f.nii").write_bytes(volume)
    (folder / "g.nii.gz").write_bytes(gzip.compress(volume))
    with pytest.warns(DataWarning, match="img: left out README, Thumbs.db, notes.txt, by content no image"):
        names = [r.name for r in benchmark_records(data, "Bone_v3", "test")]
    assert names == [
        "1.2.840.10008", "b.JPG", "c.tif", "d.bmp", "damaged.png", "e.DCM", "f.nii", "g.nii.gz", "plain",
    ]  # fmt: skip


def test_what_is_missing_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"looked for .*Brain_AD: that folder holds Bone_v3_AD.*wordsight data phantoms DIR"
    ):
        benchmark_records(data, "Brain", "test")
    with pytest.raises(DataError, match=r"there is no such data folder.*<Name>_AD/"):
        benchmark_records(tmp_path / "none", "Brain", "test")
    with pytest.raises(DataError, match=r"looked for .*Bone_v3_AD/valid: no such folder"):
        benchmark_records(data, "Bone_v3", "valid")
    with pytest.raises(DataError, match="expected split train, valid or test, got 'val'"):
        benchmark_records(data, "Liver", "val")  # type: ignore[arg-type]
    (data / "Bone_v3_AD/test/good/img/1.2.840.10008").unlink()
    with pytest.raises(DataError, match="found none"):
        benchmark_records(data, "Bone_v3", "test")


def test_patients_by_pattern(data: Path) -> None:
    records = benchmark_records(data, "Liver", "test", patient_pattern=r"(\d+)\.")
    assert [r.patient for r in records] == ["10", "9", "2"] * 2
    with pytest.raises(DataError, match=r"no patient found in '9\.png'"):
        benchmark_records(data, "Liver", "test", patient_pattern=r"(\d\d|img)")
    for bad in ("(", "no group", "(a)(b)"):
        with pytest.raises(SettingsError, match="patient pattern"):
            benchmark_records(data, "Liver", "test", patient_pattern=bad)


def test_patients_by_manifest_with_and_without_kind(data: Path) -> None:
    (data / "manifests").mkdir()
    table = data / "manifests" / "Liver_AD.csv"
    table.write_text("split,kind,file,patient\ntest,good,9.png,A\ntest,Ungood,9.png,B\nvalid,good,10.png,C\n")
    found = {(r.label, r.name): r.patient for r in benchmark_records(data, "Liver", "test")}
    assert found[0, "9.png"] == "A"
    assert found[1, "9.png"] == "B"
    assert found[0, "10.png"] is None
    table.write_text("split,file,volume\ntest,9.png,007\n")
    assert {r.patient for r in benchmark_records(data, "Liver", "test") if r.name == "9.png"} == {"007"}
    table.write_text("file,what\n9.png,x\n")
    assert {r.patient for r in benchmark_records(data, "Liver", "test")} == {None}


def test_regions_by_file_name(data: Path, tmp_path: Path) -> None:
    for name in ("10.png", "9.png"):
        picture(tmp_path / "organs" / name, 255)
    with pytest.raises(DataError, match=r"expected a region mask.*missing for img_2\.PNG"):
        benchmark_records(data, "Liver", "test", regions=tmp_path / "organs")
    picture(tmp_path / "organs" / "img_2.PNG", 255)
    records = benchmark_records(data, "Liver", "test", regions=tmp_path / "organs")
    assert [r.region for r in records] == [tmp_path / "organs" / r.name for r in records]


@pytest.mark.parametrize(
    ("name", "valid", "test", "masks"),
    [
        ("Brain", (42, 40), (78, 150), False),
        ("LiverROI", (40, 40), (150, 150), True),
        ("LiverCT", (40, 40), (150, 150), True),
        ("ChestXray", (4, 12), (8, 27), False),
    ],
)
def test_real_sets(shared: Path, name: str, valid: tuple[int, int], test: tuple[int, int], masks: bool) -> None:
    root = shared / "data"
    for split, counts in (("valid", valid), ("test", test)):
        records = benchmark_records(root, name, split)  # type: ignore[arg-type]
        assert tuple(sum(r.label == label for r in records) for label in (0, 1)) == counts
        assert has_masks(records) == masks
        assert sum(r.mask is not None for r in records) == (counts[1] if masks else 0)


@pytest.mark.parametrize("name", ["Chest", "LiverROI"])
def test_real_patients(shared: Path, name: str) -> None:
    with (shared / "data" / "manifests" / f"{name}_AD.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for split in ("valid", "test"):
        owner = {(row.get("kind", "good"), row["file"]): row["patient"] for row in rows if row["split"] == split}
        for record in benchmark_records(shared / "data", name, split):  # type: ignore[arg-type]
            kind = "good" if name == "LiverROI" else record.path.parents[1].name
            assert record.patient == owner[kind, record.path.name]


def test_real_organ_masks(shared: Path) -> None:
    root = shared / "data"
    records = benchmark_records(root, "LiverROI", "test", regions=root / "LiverCT_organ_mask")
    assert all(r.region is not None and r.region.name == r.path.name for r in records)
