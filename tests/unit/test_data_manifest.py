"""Tables of images: what is read, what is refused and with which words."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from wordsight.data.manifest import read_manifest, write_manifest
from wordsight.errors import DataError
from wordsight.types import Record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `set` with images/a.png .. images/h.png, and outside.png beside the folder."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for name in "abcdefgh":
        PilImage.fromarray(np.full((4, 5), ord(name), np.uint8)).save(tmp_path / "set" / "images" / f"{name}.png")
    PilImage.new("L", (4, 4)).save(tmp_path / "outside.png")
    return tmp_path / "set"


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_columns_and_findings(folder: Path) -> None:
    path = table(
        folder,
        "path,label,mask,region,patient,split,dataset,report,frame,Edema,Mass,Age,View\n"
        'images/a.png,Ungood,images/b.png,images/c.png,007,test,Mine,"No edema, ""clear"".",3,1,,61,PA\n'
        "images/d.png,NORMAL,,,,,,,,0,-1,7.5,AP\n"
        "images/e.png,,,,NA,,,,,0,1.0,8,AP\n",
    )
    first, second, third = read_manifest(path, dataset="Other")
    assert first == Record(
        folder / "images/a.png", 1, folder / "images/b.png", folder / "images/c.png", "007", "test", "Mine",
        'No edema, "clear".', 3, {"Edema": 1},
    )  # fmt: skip
    assert (second.label, second.patient, second.dataset, dict(second.labels)) == (
        0,
        None,
        "Other",
        {"Edema": 0, "Mass": -1},
    )
    assert (third.label, third.patient, dict(third.labels)) == (None, "NA", {"Edema": 0, "Mass": 1})


@pytest.mark.parametrize(
    ("word", "label"), [("0", 0), ("1", 1), ("normal", 0), ("Abnormal", 1), ("GOOD", 0), ("ungood", 1), ("1.0", 1)]
)
def test_label_words(folder: Path, word: str, label: int) -> None:
    assert read_manifest(table(folder, f"path,label\nimages/a.png, {word} \n"))[0].label == label


def test_parquet_keeps_types_apart(folder: Path) -> None:
    rows = {
        "path": ["images/a.png", "images/b.png", "images/c.png"],
        "label": [0.0, 1.0, np.nan],
        "Edema": [True, False, True],
        "Mass": [1.0, np.nan, 0.0],
        "Weight": [70.5, 80.0, 90.0],
        "patient": ["1", None, "3"],
    }
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    records = read_manifest(folder / "table.parquet")
    assert [r.label for r in records] == [0, 1, None]
    assert [r.patient for r in records] == ["1", None, "3"]
    assert [dict(r.labels) for r in records] == [{"Edema": 1, "Mass": 1}, {"Edema": 0}, {"Edema": 1, "Mass": 0}]


def test_split_chooses_rows_or_names_them(folder: Path) -> None:
    path = table(folder, "path,split\nimages/a.png,valid\nimages/b.png,test\nimages/c.png,test\n")
    assert [r.path.name for r in read_manifest(path, split="test")] == ["b.png", "c.png"]
    with pytest.raises(DataError, match=r"no row of split 'train'.*test \(2\), valid \(1\)"):
        read_manifest(path, split="train")
    plain = table(folder, "path\nimages/a.png\n", "plain.csv")
    assert read_manifest(plain, split="test")[0].split == "test"


def test_row_numbers_stay_those_of_the_file_when_a_split_is_chosen(folder: Path) -> None:
    path = table(folder, "path,split,label\nimages/a.png,valid,0\nimages/b.png,test,2\n")
    with pytest.raises(DataError, match="got row 2 '2'"):
        read_manifest(path, split="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nimages/a.png,0\nimages/b.png,so\nimages/c.png,2\n", "expected label 0, 1.*row 2 'so', row 3 '2'"),
        ("path,frame\nimages/a.png,-1\nimages/b.png,x\n", "expected frame 0, 1, 2.*row 1 '-1', row 2 'x'"),
        ("path,window\nimages/a.png,40\nimages/b.png,knee\n", "expected a window such as 40/400.*'40', row 2 'knee'"),
        ("image,label\nimages/a.png,0\n", "expected a column `path`, got columns image, label"),
        ("path,label\n", "at least one row"),
        ("", "expected a CSV or Parquet table, got No columns"),
        ("path,path\nimages/a.png,x\n", "each column once, got path"),
        ("path,label\n,0\nimages/a.png,0\n", "empty in row 1"),
        ("path\nimages/a.png,1,2\n", "expected a CSV or Parquet table"),
        ("path,mask\nimages/a.png,images/none.png\n", r"1 missing: images/none\.png"),
        ("path\nimages\n", "1 missing: images"),
        ("path\n../outside.png\n", r"inside the manifest's folder, got row 1 '\.\./outside\.png'.*allow_outside"),
        ("path\nimages/../../outside.png\n", "inside the manifest's folder"),
        ("path,mask\nimages/a.png,/etc/hostname\n", "inside the manifest's folder, got row 1 '/etc/hostname'"),
        ("path,region\nimages/a.png,../outside.png\n", "inside the manifest's folder"),
    ],
)  # fmt: skip
def test_refusals(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(table(folder, text))


def test_missing_files_are_counted_and_the_first_five_listed(folder: Path) -> None:
    path = table(folder, "path\n" + "".join(f"no{i}.png\n" for i in range(9)))
    with pytest.raises(DataError, match=r"9 missing: no0\.png, .*no4\.png, \.\.\. \(9 in all\)"):
        read_manifest(path)


def test_damaged_parquet_is_a_data_error(folder: Path) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(DataError, match="expected a CSV or Parquet table"):
        read_manifest(folder / "t.parquet")
    with pytest.raises(DataError, match="no such table"):
        read_manifest(folder / "none.csv")


def test_paths_outside_on_request(folder: Path) -> None:
    absolute = folder.parent / "outside.png"
    path = table(folder, f"path\n../outside.png\n{absolute}\n")
    assert [r.path.resolve() for r in read_manifest(path, allow_outside=True)] == [absolute.resolve()] * 2


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_links_do_not_lead_outside(folder: Path, linked: str) -> None:
    if linked == "file":
        (folder / "link.png").symlink_to(folder.parent / "outside.png")
        cell = "link.png"
    else:
        (folder / "up").symlink_to(folder.parent, target_is_directory=True)
        cell = "up/outside.png"
    path = table(folder, f"path\n{cell}\n")
    with pytest.raises(DataError, match="inside the manifest's folder"):
        read_manifest(path)
    assert read_manifest(path, allow_outside=True)[0].path == folder / cell


def test_reading_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(folder, "path\nimages/a.png\n")
    monkeypatch.chdir(folder)
    assert read_manifest(Path("table.csv"))[0].path == Path("images/a.png")


words = st.text("abcXYZ0159 ,;'\"äß-", max_size=12).map(str.strip)
optional = words.map(lambda text: text or None)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, object]]:
    findings = draw(st.lists(st.sampled_from(["Edema", "Lung Lesion", "x"]), unique=True))
    row = st.fixed_dictionaries(
        {
            "file": st.sampled_from("abcdefgh"),
            "mask": st.sampled_from(["abcdefgh"[0], None]),
            "label": st.sampled_from([0, 1, None]),
            "patient": optional,
            "split": optional,
            "dataset": optional,
            "report": optional,
            "frame": st.none() | st.integers(0, 500),
            "window": st.sampled_from([None, "liver", "40/400", "-600/1500.5"]),
            "labels": st.dictionaries(st.sampled_from(findings), st.integers(-1, 5)) if findings else st.just({}),
        }
    )
    return draw(st.lists(row, min_size=1, max_size=6))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=tables())
def test_written_tables_read_back_the_same(folder: Path, suffix: str, rows: list[dict[str, object]]) -> None:
    records = [
        Record(
            path=folder / "images" / f"{row.pop('file')}.png",
            mask=None if row.pop("mask") is None else folder / "images" / "h.png",
            **row,  # type: ignore[arg-type]
        )
        for row in [dict(r) for r in rows]
    ]
    write_manifest(records, folder / f"back.{suffix}")
    assert read_manifest(folder / f"back.{suffix}") == records


def test_write_refuses_what_cannot_be_read_back(folder: Path) -> None:
    record = Record(folder / "images/a.png", labels={"mask": 1})
    with pytest.raises(DataError, match="named like a column: mask"):
        write_manifest([record], folder / "t.csv")
    with pytest.raises(DataError, match=r"ends in \.csv or \.parquet"):
        write_manifest([], folder / "t.xlsx")
    assert os.listdir(folder) == ["images"]
