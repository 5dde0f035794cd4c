"""Label files of the chest x-ray benchmarks: small ones made here, the published ones where they are present."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wordsight.data.sources import (
    LabelTable,
    read_chestxdet10,
    read_chestxray14,
    read_chexpert,
    read_chexpert5x200,
    read_openi,
    read_padchest,
)
from wordsight.data.sources.chexpert import COMPETITION, FINDINGS
from wordsight.data.sources.table import tail, tail_depth
from wordsight.errors import DataError
from wordsight.metrics import long_tail

OPENI = """,uid,file_name,labels_major,labels_automatic
0,CXR1,CXR1_a.png,normal,
0,CXR1,CXR1_b.png,normal,normal
0,CXR2,CXR2_a.png,x,"calcified granuloma|pulmonary atelectases"
0,CXR3,CXR3_a.png,Cardiomegaly,"infiltrates;pleural thickening, Hernia"
"""
CHEXPERT = "Path," + ",".join(FINDINGS) + "\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def present(table: LabelTable, row: int) -> set[str]:
    return {finding for finding, label in zip(table.findings, table.labels[row], strict=True) if label}


def test_openi_rules(tmp_path: Path) -> None:
    table = read_openi(written(tmp_path, "custom.csv", OPENI))
    assert table.names == ("CXR1_a.png", "CXR1_b.png", "CXR2_a.png", "CXR3_a.png")
    assert table.groups == ("CXR1", "CXR1", "CXR2", "CXR3")
    assert (table.unit, table.labels.dtype, table.labels.shape) == ("reports", np.int8, (4, 18))
    assert present(table, 0) == present(table, 1) == set()
    assert present(table, 2) == {"Calcified Granuloma", "Granuloma", "Atelectasis"}
    # names are looked for in lower case: "Hernia" is not found, nor is labels_major read
    assert present(table, 3) == {"Infiltration", "Pleural_Thickening"}


def test_padchest(tmp_path: Path) -> None:
    labels = {
        "1_a.png": ["normal"],
        "1_b.png": ["scoliosis", "COPD signs"],
        "2-x_c_d.png": [],
        "noscore.png": ["abscess"],
    }
    table = read_padchest(written(tmp_path, "manual_image.json", json.dumps(labels)))
    assert table.findings == ("COPD signs", "abscess", "scoliosis")
    assert table.labels.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert table.groups == ("1", "1", "2-x_c", "noscore")


def test_chestxray14(tmp_path: Path) -> None:
    flags = ["0 " * 13 + "1", "1 " + "0 " * 13, "0 " * 14]
    lines = [f"images_001/000{p} {f}" for p, f in zip(("01_000.png", "01_001.png", "02_000.png"), flags, strict=True)]
    table = read_chestxray14(written(tmp_path, "test_list.txt", "\n".join(lines) + "\n\n"))
    assert [present(table, i) for i in range(3)] == [{"Hernia"}, {"Atelectasis"}, set()]
    assert table.groups == ("00001", "00001", "00002")


def chexpert_rows(*names: str, value: str = "1.0") -> str:
    return "".join(f"{name},{value}" + ",0.0" * 13 + "\n" for name in names)


def test_chexpert_by_name_and_by_view(tmp_path: Path) -> None:
    names = ("test/patient1/study1/view1_frontal.jpg", "test/patient1/study1/view2_lateral.jpg")
    path = written(tmp_path, "labels.csv", CHEXPERT + chexpert_rows(*names))
    table = read_chexpert(path)
    assert (table.names, table.groups) == (names, ("patient1", "patient1"))
    assert table.positives[0] == 2
    assert read_chexpert(path, frontal_only=True).names == names[:1]
    assert read_chexpert(path, findings=COMPETITION).findings == COMPETITION
    swapped = "Study,Edema,Atelectasis\npatient9/study1,1,0\npatient10/study1,0,1\n"
    other = read_chexpert(written(tmp_path, "study.csv", swapped), findings=("Atelectasis", "Edema"))
    assert other.labels.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(
        DataError, match=r"named \.\.\._frontal or \.\.\._lateral to choose by view, got patient9/study1"
    ):
        read_chexpert(tmp_path / "study.csv", findings=("Edema",), frontal_only=True)
    lateral = written(tmp_path, "lateral.csv", CHEXPERT + chexpert_rows(names[1]))
    with pytest.raises(DataError, match="expected frontal images, all 1 are lateral"):
        read_chexpert(lateral, frontal_only=True)


def test_chexpert5x200_has_one_finding_per_image(tmp_path: Path) -> None:
    head = "Path," + ",".join(COMPETITION) + "\n"
    path = written(tmp_path, "5x200.csv", head + "train/patient1/a.jpg,1,0,0,0,0\ntrain/patient2/a.jpg,0,0,0,0,1\n")
    assert read_chexpert5x200(path).labels.argmax(axis=1).tolist() == [0, 4]
    both = written(tmp_path, "both.csv", head + "train/patient1/a.jpg,1,1,0,0,0\n")
    with pytest.raises(DataError, match=r"exactly one of Atelectasis, .* per image, not so for train/patient1/a.jpg"):
        read_chexpert5x200(both)


def test_chestxdet10_keeps_boxes(tmp_path: Path) -> None:
    entries = [
        {"file_name": "1.png", "syms": [], "boxes": []},
        {
            "file_name": "2.png",
            "syms": ["Mass", "Nodule", "Mass"],
            "boxes": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 10, 1024]],
        },
    ]
    table = read_chestxdet10(written(tmp_path, "test.json", json.dumps(entries)))
    assert [present(table, i) for i in range(2)] == [set(), {"Mass", "Nodule"}]
    assert table.boxes is not None
    assert table.boxes[0] == {}
    assert table.boxes[1]["Mass"].tolist() == [[1, 2, 3, 4], [9, 9, 10, 1024]]
    assert table.take([1]).boxes is not None
    assert table.take([1]).names == ("2.png",)


def entry(**values: object) -> str:
    return json.dumps([{"file_name": "1.png", "syms": ["Mass"], "boxes": [[1, 2, 3, 4]], **values}])


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (
            read_openi,
            "uid,file_name\nCXR1,a.png\n",
            "expected columns file_name, uid, labels_automatic; labels_automatic",
        ),
        (read_openi, "uid,file_name,labels_automatic\n", "at least one row, got a table without rows"),
        (read_openi, OPENI + "0,CXR1,CXR1_a.png,x,x\n", r"each image once, got CXR1_a\.png more than once"),
        (read_padchest, "[1, 2", "expected JSON, got .*Check the file"),
        (read_padchest, "[" * 100_000, "expected JSON"),
        (read_padchest, "[]", "an object of image -> list of labels, got list"),
        (read_padchest, '{"a.png": "normal"}', "a list of labels .* something else for a.png"),
        (read_padchest, '{"a.png": ["x"], "a.png": ["y"]}', r"each name once, got a\.png more than once"),
        (read_padchest, '{"a.png": ["normal"]}', r"PadChest: expected images and findings, got \(1, 0\) labels"),
        (read_chestxray14, "a.png 0 1\n", "an image and 14 flags 0 or 1, got something else in line 1"),
        (read_chestxray14, "a.png " + "2 " * 14, "something else in line 1"),
        (read_chestxray14, "\n", "got no line"),
        (read_chexpert, CHEXPERT.replace("Edema", "Odema"), "expected columns Path, No Finding.*; Edema missing in"),
        (
            read_chexpert,
            CHEXPERT + chexpert_rows("patient1/a", value="-1.0"),
            "labels 0 or 1, got row 1 No Finding '-1'",
        ),
        (read_chexpert, CHEXPERT + chexpert_rows("patient1/a", value=""), "labels 0 or 1, got row 1 No Finding ''"),
        (read_chexpert, CHEXPERT + chexpert_rows("patient1/a", value="01"), "labels 0 or 1, got row 1 No Finding '01'"),
        (read_chexpert, CHEXPERT + chexpert_rows("a.jpg"), "names with a patient such as patient64741, got a.jpg"),
        (read_chestxdet10, "{}", "a list of images with findings and boxes, got dict"),
        (read_chestxdet10, entry(syms=["Lump"]), "expected findings Atelectasis, .*, got Lump"),
        (read_chestxdet10, entry(boxes=[]), "as many boxes .* not so in entry 0"),
        (read_chestxdet10, entry(boxes=[[1, 2, 3]]), "not so in entry 0"),
        (read_chestxdet10, entry(boxes=[[1, 2, 3, True]]), "not so in entry 0"),
        (read_chestxdet10, entry(boxes=[[3, 2, 1, 4]]), r"1\.png: expected a box x1 < x2, .* got \[3, 2, 1, 4\]"),
        (read_chestxdet10, entry(boxes=[[1, 2, 3, 1025]]), "within 1024 pixels"),
        (read_chestxdet10, entry(file_name=7), "not so in entry 0"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, read: Callable[[Path], LabelTable], text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, "labels", text))


def test_missing_and_binary_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such label file"):
        read_padchest(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="expected a text file"):
        read_chestxray14(tmp_path / "binary")
    monkeypatch.setattr("wordsight.data.sources.files.MAX_BYTES", 3)
    with pytest.raises(DataError, match="of at most 0 MiB, got a larger one"):
        read_chestxray14(tmp_path / "binary")


def test_a_table_checks_itself() -> None:
    labels = np.zeros((2, 1), dtype=np.int8)
    with pytest.raises(DataError, match=r"labels and groups for 2 images and 1 findings, got labels \(2, 1\) and 1"):
        LabelTable("X", ("a", "b"), ("f",), labels, ("a",), "images")
    with pytest.raises(DataError, match="each finding once, got f more than once"):
        LabelTable("X", ("a", "b"), ("f", "f"), np.zeros((2, 2), dtype=np.int8), ("a", "b"), "images")
    with pytest.raises(DataError, match="labels 0 or 1, got 0, 3"):
        LabelTable("X", ("a", "b"), ("f",), np.array([[0], [3]], dtype=np.int8), ("a", "b"), "images")


def test_ends_of_paths() -> None:
    assert tail("a/b\\c.png", 2) == "b/c.png"
    assert tail_depth(("x/1.png", "y/2.png")) == 1
    assert tail_depth(("x/s1/1.png", "y/s1/1.png")) == 3
    assert tail_depth(("p1/s1/1.png", "p1/s2/1.png")) == 2


def test_records_find_images_in_folders_and_flat(tmp_path: Path) -> None:
    lines = ["images_001/00001_000.png " + "1 " * 14, "images_002/00002_000.png " + "0 " * 14]
    table = read_chestxray14(written(tmp_path, "test_list.txt", "\n".join(lines)))
    (tmp_path / "images_001").mkdir()
    (tmp_path / "images_001" / "00001_000.png").touch()
    with pytest.raises(DataError, match=r"the 2 images of ChestXray14, 1 missing: images_002/00002_000\.png"):
        table.records(tmp_path)
    (tmp_path / "00002_000.png").touch()
    records = table.records(tmp_path)
    assert [r.path for r in records] == [tmp_path / "images_001" / "00001_000.png", tmp_path / "00002_000.png"]
    assert [r.patient for r in records] == ["00001", "00002"]
    assert records[0].labels == dict.fromkeys(table.findings, 1)
    assert (records[1].split, records[1].dataset, records[1].label) == ("test", "ChestXray14", None)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png"])
def test_records_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    table = LabelTable("X", (name,), ("f",), np.zeros((1, 1), dtype=np.int8), (name,), "images")
    with pytest.raises(DataError, match="expected the name of an image below"):
        table.records(tmp_path)


# The published files.


def test_published_openi(shared: Path) -> None:
    table = read_openi(shared / "data/labels/openi/custom.csv")
    expected = json.loads((shared / "data/predictions/openi_expected.json").read_text())
    assert len(table.names) == expected["images"]
    assert list(table.findings) == expected["findings"]
    assert table.positives.tolist() == expected["positives"]
    assert [len(tier) for tier in long_tail(table.positives).values()] == expected["groups"]["counts"]
    order = (shared / "data/labels/openi/image_order.csv").read_text().split()[1:]
    assert list(table.names) == order


def test_published_padchest(shared: Path) -> None:
    table = read_padchest(shared / "data/labels/padchest/manual_image.json")
    assert table.labels.shape == (39053, 192)
    assert len(long_tail(table.positives)["tail"]) == 20
    prompts = json.loads((shared / "data/prompts/padchest.json").read_text())
    sentences = [prompts[str(i)][0].removeprefix("There is ").casefold() for i in range(192)]
    # the prompts correct the spelling of some labels; those that are the same word by word stand in the same column
    same = [i for i, finding in enumerate(table.findings) if finding.casefold() in sentences]
    assert len(same) >= 170
    assert all(sentences.index(table.findings[i].casefold()) == i for i in same)


def test_published_chestxray14(shared: Path) -> None:
    table = read_chestxray14(shared / "data/labels/chestxray14/test_list.txt")
    assert table.labels.shape == (22433, 14)
    assert len(set(table.groups)) == 6187


def test_published_chexpert(shared: Path) -> None:
    folder = shared / "data/labels/chexpert"
    images = read_chexpert(folder / "test_labels_per_image.csv")
    frontal = read_chexpert(folder / "test_labels_per_image.csv", frontal_only=True)
    studies = read_chexpert(folder / "groundtruth.csv")
    assert (len(images.names), len(frontal.names), len(studies.names)) == (668, 518, 500)
    expected = json.loads((shared / "data/labels/expected.json").read_text())
    assert dict(zip(studies.findings, studies.positives.tolist(), strict=True)) == expected["prevalence"]
    by_study = {tail(name, 2): labels for name, labels in zip(studies.names, studies.labels, strict=True)}
    for name, labels in zip(images.names, images.labels, strict=True):
        assert (by_study["/".join(name.split("/")[1:3])] == labels).all()


@pytest.mark.parametrize(("name", "images", "bare"), [("train", 3001, 681), ("test", 542, 83)])
def test_published_chestxdet10(shared: Path, name: str, images: int, bare: int) -> None:
    table = read_chestxdet10(shared / "data/labels/ChestX-Det10" / f"{name}.json")
    assert table.boxes is not None
    assert (len(table.names), sum(not boxes for boxes in table.boxes)) == (images, bare)
    for boxes, labels in zip(table.boxes, table.labels, strict=True):
        assert set(boxes) == {f for f, label in zip(table.findings, labels, strict=True) if label}
