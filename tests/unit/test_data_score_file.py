"""Anybody's score files, with and without names, in other orders, damaged: each score must land where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.data.score_file import read_order, read_scores
from wordsight.data.sources import LabelTable
from wordsight.errors import DataError

FINDINGS = ("Edema", "Pleural_Thickening", "Lung Lesion")
NAMES = ("set/p1/a.png", "set/p1/b.png", "set/p2/a.png", "set/p3/c.png")
VALUES = np.arange(12, dtype=np.float64).reshape(4, 3) / 7 - 0.5
LABELS = LabelTable("Made up", NAMES, FINDINGS, np.eye(4, 3, dtype=np.int8), ("p1", "p1", "p2", "p3"), "patients")


def csv_text(rows: list[list[object]]) -> str:
    return "".join(",".join(str(cell) for cell in row) + "\n" for row in rows)


def written(folder: Path, text: str, name: str = "scores.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(order: list[int], columns: list[int], names: list[str] | None) -> list[list[object]]:
    return [[*([names[i]] if names is not None else []), *(VALUES[i, c] for c in columns)] for i in order]


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(4)), st.permutations(range(3)), st.sampled_from(["Path", "image_id", "Study", "whatever"]))
def test_rows_and_columns_by_name_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], columns: list[int], header: str
) -> None:
    text = csv_text([[header, *(FINDINGS[c] for c in columns)], *rows_of(order, columns, list(NAMES))])
    found = read_scores(written(tmp_path_factory.mktemp("s"), text), LABELS)
    assert (found.scores == VALUES).all()
    assert (found.columns, found.rows) == ("name", "name")
    assert found.notes == ("columns by name", f"rows by name, from column {header!r}")


@pytest.mark.parametrize(
    ("head", "names", "note"),
    [
        ([["0", "1", "2"]], None, "rows by position"),
        ([], None, "rows by position"),
        ([["", "0", "1", "2"]], ["0", "1", "2", "3"], "rows by position"),
        ([["Path", "0", "1", "2"]], list(NAMES), "rows by name, from column 'Path'"),
        ([], list(NAMES), "rows by name, from column 1"),
    ],
    ids=["numbered", "bare", "numbered with index", "numbered with names", "bare with names"],
)
def test_columns_without_names_are_read_by_position_and_that_is_said(
    tmp_path: Path, head: list[list[object]], names: list[str] | None, note: str
) -> None:
    found = read_scores(written(tmp_path, csv_text([*head, *rows_of([0, 1, 2, 3], [0, 1, 2], names)])), LABELS)
    assert (found.scores == VALUES).all()
    assert found.columns == "position"
    assert found.notes[0].startswith("columns by position, in the order of the protocol")
    assert found.notes[1].startswith(note)


def test_headers_in_other_spellings(tmp_path: Path) -> None:
    text = csv_text([["edema ", "PLEURAL THICKENING", "Lesion"], *rows_of([0, 1, 2, 3], [0, 1, 2], None)])
    path = written(tmp_path, "\ufeff\n" + text)
    assert (read_scores(path, LABELS, aliases={"lesion": "Lung Lesion"}).scores == VALUES).all()
    both = csv_text([["Edema", "Lesion", "Pleural_Thickening", "Lung Lesion"]] + [[1, 9, 2, 3]] * 4)
    found = read_scores(written(tmp_path, both), LABELS, aliases={"Lesion": "Lung Lesion"})
    assert (found.scores == [1, 2, 3]).all()  # the finding's own name wins


def test_further_columns_do_not_disturb(tmp_path: Path) -> None:
    head = ["", "report", "name", "Edema", "Pneumonia", "Lung Lesion", "Pleural-Thickening", "path"]
    rows = [[i, "no edema", "case", *VALUES[i, [0, 1, 2, 1]], NAMES[i]] for i in (3, 1, 0, 2)]
    found = read_scores(written(tmp_path, csv_text([head, *rows])), LABELS)
    assert (found.scores == VALUES).all()
    assert found.notes[1] == "rows by name, from column 'path'"
    bare = written(tmp_path, csv_text([head[:-1], *(row[:-1] for row in sorted(rows, key=lambda row: row[0]))]))
    with pytest.raises(DataError, match=r"4 images, 4 missing: p1/a.png.* Names in the file are like case, case"):
        read_scores(bare, LABELS)
    split = csv_text([["split", *FINDINGS], *rows_of([0, 1, 2, 3], [0, 1, 2], ["test"] * 4)])
    assert read_scores(written(tmp_path, split), LABELS).rows == "position"


def test_names_match_by_the_ends_that_tell_images_apart(tmp_path: Path) -> None:
    names = [f"/data/other/{name.removeprefix('set/')}" for name in NAMES]
    text = csv_text([["Path", *FINDINGS], *rows_of([2, 0, 1, 3], [0, 1, 2], names), ["/data/other/p9/z.png", 9, 9, 9]])
    found = read_scores(written(tmp_path, text), LABELS)
    assert (found.scores == VALUES).all()
    assert found.notes[1] == (
        "rows by name, from column 'Path', by the last 2 parts of the paths; 1 rows left out, of images without labels"
    )


def test_an_order_file_names_the_rows(tmp_path: Path) -> None:
    order = written(tmp_path, "file_name,x\n" + "".join(f"{NAMES[i]},0\n" for i in (3, 2, 1, 0)), "order.csv")
    text = csv_text([["0", "1", "2"], *rows_of([3, 2, 1, 0], [0, 1, 2], None)])
    names = read_order(order)
    found = read_scores(written(tmp_path, text), LABELS, order=names)
    assert (found.scores == VALUES).all()
    assert (found.columns, found.rows) == ("position", "name")
    with pytest.raises(DataError, match="expected 3 rows, one for each of the order file, got 4 without image names"):
        read_scores(tmp_path / "scores.csv", LABELS, order=names[:3])
    named = written(tmp_path, csv_text([["Path", *FINDINGS], *rows_of([1, 0, 2, 3], [0, 1, 2], list(NAMES))]))
    found = read_scores(named, LABELS, order=names)
    assert (found.scores == VALUES).all()
    assert "the order file was not needed: the predictions name their images" in found.notes


def test_order_files(tmp_path: Path) -> None:
    assert read_order(written(tmp_path, "anything\na\nb\n")) == ["a", "b"]
    with pytest.raises(DataError, match="expected one column of image names such as file_name, got columns x, y"):
        read_order(written(tmp_path, "x,y\n1,2\n"))
    with pytest.raises(DataError, match="got columns path, study"):
        read_order(written(tmp_path, "path,study\n1,2\n"))


HEAD = "Path,Edema,Pleural Thickening,Lung Lesion\n"
GOOD = "".join(f"{name},1,2,3\n" for name in NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a CSV file of scores, got an empty file"),
        (HEAD, "at least one row of scores, got none"),
        ("1,2,3\n4,5,6\n", "expected 4 rows, one for each of the labels of Made up, got 2 without image names"),
        ("1,2\n" * 4, "expected 3 columns of scores, got 2 without names"),
        ("Path,1,2\n" * 4, "expected 3 columns of scores, got 2 without names"),
        (HEAD.replace("Edema", "Odema") + GOOD, "named like the findings, missing Edema; got Path, Odema, Pleural"),
        ("There is Edema,b,c\n1,2,3\n", "missing Edema, Pleural_Thickening, Lung Lesion; got There is Edema, b, c"),
        ("Path,Edema,edema,Pleural Thickening,Lung Lesion\n", "one column per finding, got several for Edema"),
        (
            HEAD + GOOD.replace("p3", "p4"),
            "a row for each of 4 images, 1 missing: p3/c.png. Names in the file are like",
        ),
        (HEAD.replace("Path", "x") + GOOD.replace("set", "new").replace("png", "jpg"), "4 missing: p1/a.png"),
        ("".join(f"{i}x,1,2,3\n" for i in range(4)), "4 missing: p1/a.png"),
        (HEAD + GOOD + GOOD[:19], "expected each image once, got set/p1/a.png more than once"),
        (HEAD + GOOD.replace("b.png,1,2", "b.png,1,"), "got row 2 'Pleural_Thickening' ''. Row 1 is"),
        (
            HEAD + GOOD.replace("b.png,1", "b.png,nan"),
            "finite number for every image and finding, got row 2 'Edema' 'nan'",
        ),
        (HEAD + GOOD.replace("b.png,1", "b.png,inf"), "row 2 'Edema' 'inf'"),
        (HEAD + GOOD.replace("b.png,1", "b.png,1e999"), "row 2 'Edema' '1e999'"),
        (HEAD + GOOD.replace("b.png,1", "b.png,abc"), "row 2 'Edema' 'abc'"),
        (HEAD + GOOD.replace("b.png,1", "b.png,1_0"), "row 2 'Edema' '1_0'"),
        (HEAD + "".join(f"{name},x,y,z\n" for name in NAMES), "row 1 'Edema' 'x', row 1 .*in all"),
        (HEAD + GOOD.replace("c.png,1,2,3", "c.png,1,2,3,4"), "expected 4 cells in every row, got 5 in row 4"),
        (HEAD + GOOD.replace("c.png,1,2,3", "c.png,1,2"), "expected 4 cells in every row, got 3 in row 4"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_scores(written(tmp_path, text), LABELS)


def test_files_that_are_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_scores(tmp_path / "none.csv", LABELS)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="expected a CSV file of scores"):
        read_scores(tmp_path / "binary.csv", LABELS)
    with pytest.raises(DataError, match="expected a CSV file of scores"):
        read_scores(tmp_path, LABELS)
    monkeypatch.setattr("wordsight.data.score_file.MAX_CSV_BYTES", 3)
    with pytest.raises(DataError, match="more than 0 GiB is refused"):
        read_scores(written(tmp_path, HEAD + GOOD), LABELS)


def test_numbers_are_read_to_the_last_digit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3)) * 10.0 ** np.random.default_rng(1).integers(-12, 12, (4, 3))
    rows = [[repr(float(x)) for x in row] for row in values]
    found = read_scores(written(tmp_path, csv_text([list(FINDINGS), *rows])), LABELS)
    assert (found.scores == values).all()
