"""Sets of images with reports in their published forms: what is kept, what is dropped and why, what is refused."""

import csv
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.cli.main import main
from wordsight.data import read_manifest
from wordsight.data.reports import prepared
from wordsight.data.reports.mimic import prepare_mimic
from wordsight.data.reports.openi import image_key, labelled_text, prepare_openi, read_openi_reports
from wordsight.data.reports.padchest import label_list, prepare_padchest
from wordsight.data.reports.prepared import Wanted
from wordsight.data.reports.table import prepare_table
from wordsight.errors import DataError

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
REPORT = (
    "                                 FINAL REPORT\n FINDINGS:  There is no pneumothorax.\n \n IMPRESSION:  Normal."
)
IMAGES = [  # dicom_id, subject, study, ViewPosition, view code, split, suffix of the file
    ("02aa804e-bde0afdd", "10000032", "50414267", "PA", "postero-anterior", "train", ".jpg"),
    ("174413ec-4ec4c1f7", "10000032", "50414267", "LATERAL", "lateral", "train", ".jpg"),
    ("2a2277a9-b0ded155", "10000032", "53189527", "AP", "antero-posterior", "validate", ".dcm"),
    ("e084de3b-be89b11e", "10000764", "57375967", "", "postero-anterior", "test", ".jpg"),
    ("68b5c4b1-227d0485", "10000764", "57375967", "", "", "test", ".jpg"),
    ("ea030e7a-2e3b1346", "10000898", "50771383", "AP", "antero-posterior", "train", ""),
    ("d0b71acc-b5a62046", "10000898", "50771384", "AP", "antero-posterior", "train", ".jpg"),
]


def packed(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """A tree of seven images: one without a file, one without a report, views of all kinds."""
    root = tmp_path / "mimic"
    lines, splits = [METADATA], ["dicom_id,study_id,subject_id,split"]
    for image, subject, study, view, code, split, suffix in IMAGES:
        home = root / "files" / f"p{subject[:2]}" / f"p{subject}"
        (home / f"s{study}").mkdir(parents=True, exist_ok=True)
        if suffix:
            (home / f"s{study}" / f"{image}{suffix}").write_bytes(b"x")
        if study != "50771384":
            (home / f"s{study}.txt").write_text(f"{REPORT} {study}\n")
        lines.append(f"{image},{subject},{study},CHEST (PA AND LAT),{view},3056,2544,21800506,213014.5,,{code},Erect")
        splits.append(f"{image},{study},{subject},{split}")
    packed(root / "mimic-cxr-2.0.0-metadata.csv.gz", "\n".join(lines) + "\n")
    packed(root / "mimic-cxr-2.0.0-split.csv.gz", "\n".join(splits) + "\n")
    packed(
        root / "mimic-cxr-2.0.0-chexpert.csv.gz",
        "subject_id,study_id,Atelectasis,Edema\n10000032,50414267,1.0,\n10000032,53189527,-1.0,0.0\n",
    )
    return root


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_mimic_keeps_frontal_images_with_text(mimic: Path, suffix: str) -> None:
    done = prepare_mimic(mimic, mimic / f"m{suffix}", labels=mimic / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert (done.images, done.studies, done.patients) == (3, 3, 2)
    assert done.splits == {"train": 1, "valid": 1, "test": 1}
    assert done.dropped == {
        "view not frontal": 1,
        "view unknown": 1,
        "image file missing": 1,
        "no report text": 1,
    }
    assert done.notes == {"view from its code, ViewPosition empty": 1}
    assert done.without_report == ("s50771384",)
    table = pd.read_parquet(done.path) if suffix == ".parquet" else pd.read_csv(done.path)
    assert list(table.columns) == ["path", "report", "split", "patient", "study", "view", "Atelectasis", "Edema"]
    assert table["path"].tolist() == [
        "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg",
        "files/p10/p10000032/s53189527/2a2277a9-b0ded155.dcm",
        "files/p10/p10000764/s57375967/e084de3b-be89b11e.jpg",
    ]
    assert table["view"].tolist() == ["PA", "AP", "PA"]
    records = read_manifest(done.path)
    assert [dict(r.labels) for r in records] == [{"Atelectasis": 1}, {"Atelectasis": -1, "Edema": 0}, {}]
    assert records[0].report == f"{REPORT} 50414267".strip()
    assert [(r.patient, r.split) for r in records][1:] == [("p10000032", "valid"), ("p10000764", "test")]


def test_mimic_reports_come_from_a_zip_file_or_another_folder(mimic: Path) -> None:
    wanted = prepare_mimic(mimic, mimic / "here.csv").path.read_bytes()
    with zipfile.ZipFile(mimic / "mimic-cxr-reports.zip", "w") as archive:
        for text in sorted((mimic / "files").rglob("*.txt")):
            archive.write(text, text.relative_to(mimic).as_posix())
    elsewhere = mimic.parent / "texts"
    for text in (mimic / "files").rglob("*.txt"):
        place = elsewhere / text.relative_to(mimic / "files")
        place.parent.mkdir(parents=True, exist_ok=True)
        text.rename(place)
    assert prepare_mimic(mimic, mimic / "zip.csv").path.read_bytes() == wanted
    assert prepare_mimic(mimic, mimic / "folder.csv", reports=elsewhere).path.read_bytes() == wanted
    (mimic / "mimic-cxr-reports.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="expected a folder or zip file of reports"):
        prepare_mimic(mimic, mimic / "bad.csv")
    with pytest.raises(DataError, match="no such folder or zip file"):
        prepare_mimic(mimic, mimic / "bad.csv", reports=mimic / "nowhere")


def test_mimic_views_and_paths_by_choice(mimic: Path, tmp_path: Path) -> None:
    assert prepare_mimic(mimic, mimic / "a.csv", wanted=Wanted("all")).images == 5
    assert prepare_mimic(mimic, mimic / "l.csv", wanted=Wanted("lateral")).images == 1
    kept = prepare_mimic(mimic, mimic / "u.csv", wanted=Wanted(unknown_views=True))
    assert (kept.images, kept.notes["view unknown, kept"]) == (4, 1)
    out = tmp_path / "elsewhere" / "m.parquet"
    with pytest.raises(DataError, match=r"lies outside the folder of .*m.parquet. .*--absolute"):
        prepare_mimic(mimic, out)
    assert list(out.parent.iterdir()) == []
    done = prepare_mimic(mimic, out, wanted=Wanted(absolute=True))
    assert all(r.path.is_absolute() and r.path.is_file() for r in read_manifest(done.path, allow_outside=True))
    above = prepare_mimic(mimic, tmp_path / "up.csv")
    assert read_manifest(above.path)[0].path == mimic / "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"


def test_mimic_without_splits_takes_the_given_name(mimic: Path) -> None:
    (mimic / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    done = prepare_mimic(mimic, mimic / "m.csv")
    assert (done.splits, done.notes["split unknown"]) == ({"": 3}, 3)
    assert prepare_mimic(mimic, mimic / "m.csv", wanted=Wanted(split="train")).splits == {"train": 3}


def test_mimic_tables_are_checked(mimic: Path) -> None:
    out, name = mimic / "m.csv", "mimic-cxr-2.0.0-metadata.csv.gz"
    good = gzip.decompress((mimic / name).read_bytes()).decode()
    for bad, message in (
        (good.replace("02aa804e-bde0afdd", "../../../secret"), r"expected ids, got '../../../secret'"),
        (good.replace("10000032,50414267", "10000032,../50414267"), r"expected ids, got .*'../50414267'"),
        (good.replace("ViewPosition", "View"), "missing ViewPosition"),
    ):
        packed(mimic / name, bad)
        with pytest.raises(DataError, match=message):
            prepare_mimic(mimic, out)
    (mimic / name).write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DataError, match="expected a CSV or Parquet table"):
        prepare_mimic(mimic, out)
    packed(mimic / name, good)
    packed(mimic / "mimic-cxr-2.1.0-metadata.csv.gz", good)
    with pytest.raises(DataError, match="expected one metadata table"):
        prepare_mimic(mimic, out)
    (mimic / "mimic-cxr-2.1.0-metadata.csv.gz").rename(mimic / "mimic-cxr-2.0.0-metadata.csv")
    (mimic / "mimic-cxr-2.0.0-metadata.csv").write_text(good)  # an unpacked copy is no second table
    assert prepare_mimic(mimic, out).images == 3
    packed(mimic / "mimic-cxr-2.0.0-split.csv.gz", "study_id,split\n50414267,train\n50414267,test\n")
    with pytest.raises(DataError, match="study 50414267 lies in two splits, train and test"):
        prepare_mimic(mimic, out)
    packed(mimic / "labels.csv.gz", "study_id,Edema\n50414267,2.0\n")
    with pytest.raises(DataError, match=r"expected labels 1, 0, -1 or empty, got 2.0"):
        prepare_mimic(mimic, out, labels=mimic / "labels.csv.gz")
    assert not out.exists() or pd.read_csv(out).shape[0] == 3
    with pytest.raises(DataError, match=r"expected the table mimic-cxr-<version>-metadata.csv.gz"):
        prepare_mimic(mimic.parent, out)


def test_nothing_left_leaves_the_old_table(mimic: Path) -> None:
    (mimic / "m.csv").write_text("old")
    for image in (mimic / "files").rglob("*.*"):
        if image.suffix != ".txt":
            image.unlink()
    with pytest.raises(DataError, match=r"no image is left \(.*4 dropped: image file missing"):
        prepare_mimic(mimic, mimic / "m.csv")
    assert (mimic / "m.csv").read_text() == "old"
    with pytest.raises(DataError, match=r"ends in .csv or .parquet, got '.json'"):
        prepare_mimic(mimic, mimic / "m.json")


def test_rows_are_written_in_batches(mimic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.read_parquet(prepare_mimic(mimic, mimic / "whole.parquet").path)
    monkeypatch.setattr(prepared, "ROWS", 2)
    pd.testing.assert_frame_equal(pd.read_parquet(prepare_mimic(mimic, mimic / "parts.parquet").path), whole)


def openi_xml(uid: str, sections: dict[str, str], images: list[str], head: str = "") -> str:
    body = "".join(f'<AbstractText Label="{label}">{text}</AbstractText>\n' for label, text in sections.items())
    parts = "".join(f'<parentImage id="{image}"><figureId>F1</figureId></parentImage>' for image in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{head}<eCitation><uId id="CXR{uid}"/><Abstract>{body}</Abstract>'
        f"<MeSH><major>Cardiomegaly/mild</major><automatic>Heart &amp; Lung</automatic></MeSH>{parts}</eCitation>"
    )


@pytest.fixture
def openi(tmp_path: Path) -> Path:
    root = tmp_path / "openi"
    (root / "ecgen-radiology").mkdir(parents=True)
    (root / "images").mkdir()
    said = {"COMPARISON": "None.", "FINDINGS": "Clear  lungs.\n No effusion.", "IMPRESSION": "Normal &lt;chest&gt;."}
    for uid, sections, images in (
        ("1", said, ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
        ("2", {"INDICATION": "Cough.", "FINDINGS": "", "IMPRESSION": ""}, ["CXR2_IM-0652-1001"]),
        ("3", said, []),
        ("10", {"IMPRESSION": "Big heart."}, ["CXR10_IM-0002-1001", "CXR10_IM-0002-2001"]),
    ):
        (root / "ecgen-radiology" / f"{uid}.xml").write_text(openi_xml(uid, sections, images))
    for name in (
        "1_IM-0001-3001.dcm.png",
        "1_IM-0001-4001.dcm.png",
        "2_IM-0652-1001.dcm.png",
        "10_IM-0002-1001.dcm.png",
    ):
        (root / "images" / name).write_bytes(b"x")
    (root / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "2,2_IM-0652-1001.dcm.png,Frontal\n10,10_IM-0002-1001.dcm.png,Frontal\n10,10_IM-0002-2001.dcm.png,Frontal\n"
    )
    return root


def test_openi_joins_reports_images_and_projections(openi: Path) -> None:
    done = prepare_openi(openi, openi / "o.parquet", wanted=Wanted(split="test"))
    assert (done.images, done.studies, done.splits) == (2, 2, {"test": 2})
    assert done.dropped == {"view not frontal": 1, "no report text": 1, "image file missing": 1}
    assert done.notes == {"reports without an image": 1}
    assert done.without_report == ("CXR2",)
    first, second = read_manifest(done.path)
    assert first.path == openi / "images" / "1_IM-0001-4001.dcm.png"
    assert first.report == "COMPARISON: None.\nFINDINGS: Clear lungs. No effusion.\nIMPRESSION: Normal <chest>."
    assert (second.patient, second.report) == ("CXR10", "IMPRESSION: Big heart.")
    assert not first.labels


def test_openi_views_are_unknown_without_projections(openi: Path) -> None:
    (openi / "indiana_projections.csv").unlink()
    with pytest.raises(DataError, match="5 dropped: view unknown"):
        prepare_openi(openi, openi / "o.csv")
    assert prepare_openi(openi, openi / "o.csv", wanted=Wanted(unknown_views=True)).images == 3


def test_openi_reads_archives_without_unpacking(openi: Path, tmp_path: Path) -> None:
    with tarfile.open(openi / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(openi / "ecgen-radiology", "ecgen-radiology")
        member = tarfile.TarInfo("../../escaped.xml")
        content = openi_xml("9", {"IMPRESSION": "Normal."}, []).encode()
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*"))
    found = {report.id: report for report in read_openi_reports(openi / "NLMCXR_reports.tgz")}
    assert sorted(found) == ["CXR1", "CXR10", "CXR2", "CXR3", "CXR9"]
    assert sorted(tmp_path.rglob("*")) == before
    assert found["CXR1"].majors == ("Cardiomegaly/mild",)
    assert found["CXR1"].automatic == ("Heart & Lung",)
    (openi / "NLMCXR_reports.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="expected a tar archive"):
        list(read_openi_reports(openi / "NLMCXR_reports.tgz"))


def test_openi_names_the_file_of_a_broken_report(openi: Path) -> None:
    (openi / "ecgen-radiology" / "2.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"2\.xml: expected an Open-I report"):
        prepare_openi(openi, openi / "o.csv")


@pytest.mark.parametrize(
    "name",
    ["CXR1_1_IM-0001-3001.png", "CXR1_IM-0001-3001", "1_IM-0001-3001.dcm.png", "cxr1_1_im-0001-3001.jpg"],
)
def test_openi_spellings_of_an_image_agree(name: str) -> None:
    assert image_key(name) == ("1", "IM-0001-3001")
    assert image_key("holiday.png") is None


def test_openi_reads_the_published_reports(shared: Path) -> None:
    """Counts that a table made by another program states: 2500 reports, 28 without findings and impression."""
    archive = shared / "data" / "reports" / "openi_reports.tgz"
    if not archive.is_file():
        pytest.skip("no Open-I reports in the reference folder")
    found = list(read_openi_reports(archive))
    assert len(found) == 2500
    assert sum(labelled_text(report) == "" for report in found) == 28
    assert sum("normal" in report.majors for report in found) == 918
    with open(shared / "data" / "reports" / "index.csv", newline="") as file:
        majors = {f"CXR{row['id']}": row["mesh_major"].replace(" ;", ";").strip() for row in csv.DictReader(file)}
    assert {report.id: ";".join(report.majors) for report in found} == majors
    assert all(image_key(image) is not None for report in found for image in report.images)


@pytest.fixture
def padchest(tmp_path: Path) -> Path:
    root = tmp_path / "padchest"
    (root / "0").mkdir(parents=True)
    (root / "images" / "1").mkdir(parents=True)
    columns = ["", "ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Report", "Labels"]
    rows = [
        ["0", "a.png", "0", "205366866401", "8398", "PA", "derram pleural .", "['pleural effusion', ' nodule']"],
        ["1", "b.png", "1", "205366866402", "8399", "AP_horizontal", "torax sin alter .", "['normal', 'normal', '']"],
        ["2", "c.png", "0", "205366866403", "8400", "L", "lateral .", "['normal']"],
        ["3", "d.png", "0", "205366866404", "8401", "PA", "nan", "nan"],
        ["4", "e.png", "0", "205366866405", "8402", "PA", "hern hiat .", "[\"hiatal hernia\"]"],
        ["5", "f.png", "0", "205366866406", "8403", "UNK", "torax .", "[]"],
    ]  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    packed(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", text.getvalue())
    for name in ("0/a.png", "images/1/b.png", "0/c.png", "0/d.png", "0/f.png"):
        (root / name).write_bytes(b"x")
    return root


def test_padchest_with_its_quirks(padchest: Path) -> None:
    done = prepare_padchest(padchest, padchest / "p.csv.parquet")
    assert done.images == 2
    assert done.dropped == {"view not frontal": 1, "no report text": 1, "image file missing": 1, "view unknown": 1}
    assert done.without_report == ("205366866404",)
    first, second = read_manifest(done.path)
    assert (first.report, first.patient) == ("derram pleural .", "8398")
    assert second.path == padchest / "images" / "1" / "b.png"
    assert not first.labels  # the study's number is no finding
    labelled = prepare_padchest(padchest, padchest / "l.parquet", text="labels")
    assert [r.report for r in read_manifest(labelled.path)] == ["Pleural effusion. Nodule.", "Normal."]


def test_padchest_is_checked(padchest: Path) -> None:
    table = padchest / "other.csv"
    with pytest.raises(DataError, match="expected text from 'report' or 'labels'"):
        prepare_padchest(padchest, padchest / "p.parquet", text="mesh")  # type: ignore[arg-type]
    for row, message in (
        ("../a.png,0,1,PA,x ray", r"expected a plain file name, got '../a.png'"),
        ("a.png,..,1,PA,x ray", r"expected a plain file name, got '..'"),
    ):
        table.write_text(f"ImageID,ImageDir,PatientID,Projection,Report\n{row}\n")
        with pytest.raises(DataError, match=message):
            prepare_padchest(padchest, padchest / "p.parquet", table=table)
    with pytest.raises(DataError, match=r"expected one table .*got .*Name the table \(--table\)"):
        prepare_padchest(padchest, padchest / "p.parquet")
    table.write_text("ImageID,PatientID\na.png,1\n")
    with pytest.raises(DataError, match="missing Projection, Report"):
        prepare_padchest(padchest, padchest / "p.parquet", table=table)


@given(names=st.lists(st.text(alphabet="abc xyz-", min_size=1).map(str.strip).filter(bool), unique=True))
@settings(deadline=None, max_examples=30)
def test_lists_of_labels_survive_pythons_quotes(names: list[str]) -> None:
    assert label_list(repr([f" {name} " for name in names])) == tuple(names)


def test_any_table_with_other_names(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = {
        "file": ["a.png", "sub/../sub/b.png", "c.png", "a.png"],
        "text": ["Clear.", "Line one.\nLine two.", "No file.", None],
        "fold": ["training", "validate", "test", "test"],
        "study": [1, 2, 3, 4],
    }
    names = {"path": "file", "report": "text", "split": "fold"}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    done = prepare_table(tmp_path, tmp_path / "out.csv", table=tmp_path / "t.parquet", columns=names)
    assert (done.images, done.dropped) == (2, {"image file missing": 1, "no report text": 1})
    assert done.without_report == ("4",)
    first, second = read_manifest(done.path)
    assert (second.path, second.report) == (tmp_path / "sub" / "b.png", "Line one.\nLine two.")
    assert (first.split, second.split) == ("train", "valid")
    assert not first.labels  # study is no finding
    pd.DataFrame({"path": [str(tmp_path / "a.png")], "report": ["x"]}).to_csv(tmp_path / "whole.csv", index=False)
    done = prepare_table(tmp_path, tmp_path / "out.csv", table=tmp_path / "whole.csv")
    assert [record.path for record in read_manifest(done.path)] == [tmp_path / "a.png"]
    for bad in ("../a.png", "/etc/passwd", f"{tmp_path}x/a.png", "sub/../../a.png", ""):
        pd.DataFrame({"path": [bad], "report": ["x"]}).to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(DataError, match=f"expected paths inside .*, got '{bad}'"):
            prepare_table(tmp_path, tmp_path / "o.csv", table=tmp_path / "bad.csv")
    with pytest.raises(DataError, match="expected columns file, text, fold, got path, report"):
        prepare_table(tmp_path, tmp_path / "o.csv", table=tmp_path / "bad.csv", columns=names)
    with pytest.raises(DataError, match=r"expected columns among path, .*got image"):
        prepare_table(tmp_path, tmp_path / "o.csv", table=tmp_path / "bad.csv", columns={"image": "file"})


def test_the_command_prints_what_was_kept_and_dropped(mimic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, listing = mimic / "m.parquet", mimic / "silent.txt"
    words = ["data", "prepare", "mimic", str(mimic), "--out", str(out)]
    assert main([*words, "--without-report", str(listing)]) == 0
    text = capsys.readouterr().out
    assert "images: 3 (test 1, train 1, valid 1)\nstudies: 3, patients: 2\n" in text
    assert "dropped: 1 images, no report text" in text
    assert "studies without report text: s50771384" in text
    assert listing.read_text() == "s50771384\n"
    assert main([*words, "--views", "all", "--absolute"]) == 0
    assert "images: 5" in capsys.readouterr().out
    assert main([*words, "--columns", "a=b"]) == 2
    assert "--columns: is for table, got source mimic" in capsys.readouterr().err
    assert main([*words, "--text", "labels"]) == 2
    assert "--text: is for padchest" in capsys.readouterr().err
    assert main(["data", "prepare", "nih", str(mimic), "--out", str(out)]) == 2
    assert "nih" in capsys.readouterr().err


def test_the_command_knows_every_source(
    openi: Path, padchest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "t.csv")]
    assert main(["data", "prepare", "openi", str(openi), *out]) == 0
    assert main(["data", "prepare", "padchest", str(padchest), *out, "--text", "labels"]) == 0
    (tmp_path / "own.csv").write_text("file,report\npadchest/0/a.png,Clear lungs.\n")
    table = ["data", "prepare", "table", str(tmp_path), *out]
    assert main([*table, "--table", str(tmp_path / "own.csv"), "--columns", "path=file"]) == 0
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "padchest/0/a.png,Clear lungs.,,,,"
    capsys.readouterr()
    assert main(table) == 2
    assert "expected --table FILE, got none" in capsys.readouterr().err
    assert main([*table, "--table", str(tmp_path / "own.csv"), "--columns", "file"]) == 2
    assert "expected pairs such as path=filename, got 'file'" in capsys.readouterr().err
