"""Records from files, folders, DICOM trees, benchmark folders and pairs; the data hash."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image as PilImage
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from wordsight.data import benchmark_records, hash_records, listing, records_from, records_from_pair
from wordsight.data.listing import image_files, walk_files
from wordsight.errors import DataError
from wordsight.imaging import read_image
from wordsight.types import Record

SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def picture(path: Path, value: int = 0, form: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(np.full((4, 6), value, np.uint8)).save(path, format=form)
    return path


def dicom(path: Path, patient: str = "", frames: int = 1, image: bool = True, sop_class: str = SECONDARY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    if sop_class == SECONDARY:  # a directory has no class in its data set
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientID = patient
    if image:
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 6, 1
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        if frames > 1:
            dataset.NumberOfFrames = frames
        dataset.PixelData = bytes(range(24)) * frames
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_one_file_of_any_format_told_by_content(tmp_path: Path) -> None:
    path = picture(tmp_path / "scan.weird", form="JPEG")
    assert records_from(path, split="test", dataset="Mine") == [Record(path, split="test", dataset="Mine")]
    text = tmp_path / "fake.png"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"fake\.png: expected an image .* or a manifest"):
        records_from(text)
    with pytest.raises(DataError, match="no such file or folder"):
        records_from(tmp_path / "none.png")


def test_folders_are_walked_sorted_without_hidden_files_and_masks(tmp_path: Path) -> None:
    for name in (
        "b/10.png",
        "b/9.png",
        "a.jpg",
        "b/.hidden.png",
        ".cache/x.png",
        "c/img/1.png",
        "c/anomaly_mask/1.png",
    ):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.png").write_bytes(b"")
    found = [r.path.relative_to(tmp_path).as_posix() for r in records_from(tmp_path)]
    assert found == ["a.jpg", "b/10.png", "b/9.png", "c/img/1.png"]


def test_links_to_folders_end(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert [r.path.name for r in records_from(tmp_path)] == ["1.png"]


def test_folders_that_cannot_be_listed_are_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: cannot list this folder \(No such file"):
        list(walk_files(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone: cannot list this folder"):
        image_files(tmp_path / "gone")


def test_empty_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"PNG, JPEG, TIFF, BMP, DICOM or NIfTI.*good/ and Ungood/.*found none"):
        records_from(tmp_path)


def test_dicom_trees(tmp_path: Path) -> None:
    dicom(tmp_path / "PAT1" / "IM0001", "007")
    dicom(tmp_path / "PAT1" / "IM0002", "007", frames=3)
    dicom(tmp_path / "PAT2" / "1.2.3.4", " ")
    dicom(tmp_path / "PAT2" / "report", "008", image=False)
    dicom(tmp_path / "DICOMDIR", image=False, sop_class="1.2.840.10008.1.3.10")
    first = records_from(tmp_path)
    assert [(r.name, r.patient) for r in first] == [("IM0001", "007"), ("IM0002", "007"), ("1.2.3.4", None)]
    every = records_from(tmp_path, frames="all")
    assert [r.name for r in every] == ["IM0001", "IM0002#0", "IM0002#1", "IM0002#2", "1.2.3.4"]
    assert all(r.patient == "007" for r in every[:4])
    assert read_image(every[3].path, frame=every[3].frame).shape == (4, 6)
    with pytest.raises(DataError, match="expected an image"):
        records_from(tmp_path / "PAT2" / "report")


def test_a_file_that_cannot_be_opened_stays_for_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    closed = picture(tmp_path / "closed.png")
    known = listing.content_of

    def refuse(path: Path) -> str | None:
        return listing.UNREADABLE if path == closed else known(path)

    assert listing.content_of(tmp_path / "gone.png") == listing.UNREADABLE
    monkeypatch.setattr(listing, "content_of", refuse)
    for frames in ("first", "all"):
        closed.write_bytes(b"\x89PNG\r\n\x1a\n")
        assert [r.name for r in records_from(tmp_path, frames=frames)] == ["a.png", "closed.png"]


def test_a_damaged_dicom_file_stays_for_its_reader(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", "1")
    path.write_bytes(path.read_bytes()[:200])
    dicom(tmp_path / "b.dcm", "2")
    for frames in ("first", "all"):
        names = [r.name for r in records_from(tmp_path, frames=frames)]  # type: ignore[arg-type]
        assert names == ["a.dcm", "b.dcm"]


def test_pages_and_slices(tmp_path: Path) -> None:
    pages = [PilImage.new("L", (6, 4), i) for i in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    volume = nibabel.Nifti1Image(np.zeros((4, 6, 5), np.int16), np.eye(4))
    nibabel.save(volume, tmp_path / "volume.nii.gz")
    assert [r.frame for r in records_from(tmp_path / "pages.tif", frames="all")] == [0, 1, 2]
    assert [r.frame for r in records_from(tmp_path / "volume.nii.gz", frames="all")] == [0, 1, 2, 3, 4]
    assert [r.frame for r in records_from(tmp_path)] == [None, None]


@pytest.mark.parametrize("names", [("good", "Ungood"), ("normal", "abnormal"), ("Normal", "ABNORMAL")])
def test_pairs_of_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    picture(tmp_path / names[0] / "sub" / "a.png")
    picture(tmp_path / names[1] / "b.png")
    records = records_from(tmp_path, split="test")
    assert [(r.name, r.label, r.mask, r.split) for r in records] == [
        ("a.png", 0, None, "test"),
        ("b.png", 1, None, "test"),
    ]
    assert records == records_from_pair(tmp_path / names[0], tmp_path / names[1], split="test")


def test_pairs_with_masks(tmp_path: Path) -> None:
    picture(tmp_path / "good" / "img" / "a.png")
    for name in ("b.png", "c.png"):
        picture(tmp_path / "Ungood" / "img" / name)
    mask = picture(tmp_path / "Ungood" / "anomaly_mask" / "b.png", 255)
    with pytest.raises(DataError, match=r"missing for c\.png"):
        records_from(tmp_path)
    picture(tmp_path / "Ungood" / "anomaly_mask" / "c.png", 255)
    assert [r.mask for r in records_from(tmp_path)] == [None, mask, mask.with_name("c.png")]
    with pytest.raises(DataError, match=r"no such folder\. Give one folder of normal"):
        records_from_pair(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void: looked for images"):
        records_from_pair(tmp_path / "void", tmp_path / "Ungood")


def test_a_benchmark_folder_gives_its_splits(tmp_path: Path) -> None:
    root = tmp_path / "Mine_AD"
    picture(root / "train" / "good" / "img" / "t.png")
    for split in ("valid", "test"):
        picture(root / split / "good" / "img" / "a.png")
        picture(root / split / "Ungood" / "img" / "b.png")
    assert [(r.split, r.name) for r in records_from(root)] == [
        ("train", "t.png"), ("valid", "a.png"), ("valid", "b.png"), ("test", "a.png"), ("test", "b.png"),
    ]  # fmt: skip
    test = records_from(root, split="test")
    assert test == benchmark_records(tmp_path, "mine", "test")
    assert {r.dataset for r in test} == {"Mine"}
    assert {r.dataset for r in records_from(root, dataset="Other")} == {"Other"}
    with pytest.raises(DataError, match="one of the splits train, valid, test, got 'val'"):
        records_from(root, split="val")


def test_manifests_pass_through(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "list.CSV").write_text("path,label\na.png,ungood\n")
    (tmp_path / "set" / "up.csv").write_text("path\n../set/a.png\n../out.png\n")
    picture(tmp_path / "out.png")
    assert records_from(tmp_path / "set" / "list.CSV", dataset="D") == [
        Record(tmp_path / "set" / "a.png", 1, dataset="D")
    ]
    with pytest.raises(DataError, match="allow_outside"):
        records_from(tmp_path / "set" / "up.csv")
    assert len(records_from(tmp_path / "set" / "up.csv", allow_outside=True)) == 2


def test_real_chest_films(shared: Path) -> None:
    records = records_from(shared / "data" / "cxr")
    assert len(records) == 8
    assert {r.path.suffix for r in records} == {".png", ".jpg", ".dcm"}
    header = pydicom.dcmread(next(r.path for r in records if r.path.suffix == ".dcm"), stop_before_pixels=True)
    assert [r.patient for r in records if r.path.suffix == ".dcm"] == [str(header.PatientID)] * 2


def hashed(folder: Path, values: dict[str, int], labels: dict[str, int] | None = None, mask: int = 255) -> str:
    records = []
    for name, value in values.items():
        image = picture(folder / "img" / name, value)
        marks = picture(folder / "mask" / name, mask)
        records.append(Record(image, (labels or {}).get(name, 0), marks))
    return hash_records(records)


def test_the_hash_names_content_not_place_or_order(tmp_path: Path) -> None:
    base = hashed(tmp_path / "one", {"a.png": 1, "b.png": 2})
    assert len(base) == 64
    assert hashed(tmp_path / "two" / "deep", {"b.png": 2, "a.png": 1}) == base
    changed = [
        hashed(tmp_path / "3", {"a.png": 1, "b.png": 3}),
        hashed(tmp_path / "4", {"a.png": 2, "b.png": 1}),
        hashed(tmp_path / "5", {"a.png": 1, "c.png": 2}),
        hashed(tmp_path / "6", {"a.png": 1, "b.png": 2}, {"a.png": 1}),
        hashed(tmp_path / "7", {"a.png": 1, "b.png": 2}, mask=128),
        hashed(tmp_path / "8", {"a.png": 1}),
    ]
    assert len({base, *changed}) == 7
    image, region = picture(tmp_path / "9" / "a.png", 1), picture(tmp_path / "9" / "region" / "a.png", 255)
    regions = [hash_records([Record(image, 0, region=r)]) for r in (None, region, picture(tmp_path / "b.png", 128))]
    assert len(set(regions)) == 3
    with pytest.raises(DataError, match="at least one record to hash"):
        hash_records([])
    with pytest.raises(DataError, match=r"none\.png: cannot read"):
        hash_records([Record(tmp_path / "none.png")])
