"""Chest phantoms with reports: words, boxes and masks agree with what is drawn, files are the same on every call."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wordsight.cli.main import main
from wordsight.data import read_manifest
from wordsight.data.phantoms import draw_report_phantom, report_sheet, write_report_phantoms
from wordsight.data.phantoms.phrases import PHRASES
from wordsight.data.phantoms.report_files import LARGEST, SPLITS, report_stream_index
from wordsight.data.phantoms.reports import CODES, FINDINGS, ReportPhantom, State
from wordsight.errors import DataError, SettingsError

KEYWORDS = {
    "Atelectasis": r"atelectasis",
    "Cardiomegaly": r"cardiomegaly|heart (is|may|size)|cardiac silhouette|of the heart",
    "Consolidation": r"consolidation",
    "Edema": r"edema",
    "Effusion": r"effusion|costophrenic",
    "Hernia": r"hernia|air-fluid",
    "Mass": r"\bmass\b",
    "Nodule": r"nodule",
    "Pacemaker": r"pacemaker|pacing device|implanted device",
    "Pneumothorax": r"pneumothorax|pleural line",
}
DENIAL = re.compile(
    r"^(No |There is no |The heart is not|Heart size is normal|Normal card|The costophrenic angles are)"
)
DOUBT = re.compile(r"[Pp]ossible|may be|cannot be excluded|[Qq]uestion|borderline")


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def sentences(report: str) -> tuple[list[str], list[str]]:
    """Sentences (and the parts of joined ones) under FINDINGS and IMPRESSION."""
    match = re.fullmatch(r"FINDINGS: (.*)\nIMPRESSION: (.*)", report)
    assert match is not None
    return tuple(re.split(r"(?<=[a-z])\.(?: |$)", part)[:-1] for part in match.groups())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def phantoms() -> list[ReportPhantom]:
    return [draw_report_phantom(4, index, 96) for index in range(400)]


def test_the_same_arguments_give_the_same_phantom_in_any_order() -> None:
    forward = [draw_report_phantom(7, index, 128) for index in range(4)]
    backward = [draw_report_phantom(7, index, 128) for index in reversed(range(4))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.report, one.attributes) == (other.report, other.attributes)
        assert [t.boxes for t in one.findings.values()] == [t.boxes for t in other.findings.values()]
    assert forward[0].pixels.shape == (128, 128)
    assert forward[0].pixels.dtype == np.uint8
    assert not np.array_equal(forward[0].pixels, draw_report_phantom(8, 0, 128).pixels)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_image_clearly_and_where_its_mask_is(finding: str) -> None:
    """Chest, exposure and noise stay the same; only soft borders of a few pixels reach beyond the mask."""
    clear = []
    for index in range(6):
        without = draw_report_phantom(3, index, states={})
        found = draw_report_phantom(3, index, states={finding: State.PRESENT})
        mask = found.findings[finding].mask
        assert mask is not None
        assert mask.any()
        change = np.abs(found.pixels.astype(float) - without.pixels)
        if finding not in ("Edema", "Cardiomegaly", "Pneumothorax"):  # these have wide soft borders
            assert change[~grown(mask, 12)].max() <= 1
        noise = np.median(np.abs(np.diff(without.pixels.astype(float), axis=1))) / 0.954 + 0.5
        clear.append(np.percentile(change[grown(mask, 3)], 75) / noise)
        assert without.attributes == found.attributes
    assert np.median(clear) > 3


def test_boxes_enclose_masks_and_words_name_their_side(phantoms: list[ReportPhantom]) -> None:
    seen = dict.fromkeys(FINDINGS, 0)
    for phantom in phantoms:
        size = phantom.pixels.shape[0]
        for name, truth in phantom.findings.items():
            assert (truth.mask is None) == (truth.boxes == ())
            if truth.state is State.ABSENT:
                assert (truth.mask, truth.place) == (None, "")
            if truth.mask is None:
                continue
            seen[name] += 1
            inside = np.zeros_like(truth.mask)
            for x1, y1, x2, y2 in truth.boxes:
                assert 0 <= x1 < x2 <= size
                assert 0 <= y1 < y2 <= size
                part = truth.mask[y1:y2, x1:x2]
                assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # noqa: PT018
                inside[y1:y2, x1:x2] = True
            assert not truth.mask[~inside].any()
            if name in ("Edema", "Pacemaker") or not truth.place:
                continue
            middle = np.nonzero(truth.mask)[1].mean() / size
            assert (middle < 0.62) if "right" in truth.place else (middle > 0.38)
    assert min(seen.values()) > 30
    edema = [p.findings["Edema"] for p in phantoms if p.findings["Edema"].mask is not None]
    assert all(len(t.boxes) == 2 and t.place == "bilateral" for t in edema)


def test_zones_go_from_top_to_bottom(phantoms: list[ReportPhantom]) -> None:
    heights: dict[str, list[float]] = {"upper": [], "mid": [], "lower": []}
    for phantom in phantoms:
        truth = phantom.findings["Nodule"]
        if truth.mask is not None:
            heights[truth.place.split()[1]].append(float(np.nonzero(truth.mask)[0].mean()))
    assert np.mean(heights["upper"]) + 10 < np.mean(heights["mid"]) < np.mean(heights["lower"]) - 10


def test_reports_say_what_is_true(phantoms: list[ReportPhantom]) -> None:
    """Read with patterns of its own: what is present is stated, what is uncertain is doubted, the rest is denied."""
    for phantom in phantoms:
        findings, impression = sentences(phantom.report)
        assert 2 <= len(findings) + len(impression) <= 6
        assert all(len(re.findall(r"\w+", s)) >= 2 for s in findings + impression)
        assert "  " not in phantom.report
        assert "{" not in phantom.report
        parts = [part for sentence in findings for part in sentence.split("; ")]
        for name, truth in phantom.findings.items():
            about = [p for p in parts if re.search(KEYWORDS[name], p, re.IGNORECASE)]
            stated = [p for p in about if not DENIAL.search(p) and not DOUBT.search(p)]
            doubted = [p for p in about if DOUBT.search(p)]
            concluded = re.search(KEYWORDS[name], impression[0], re.IGNORECASE)
            if truth.state is State.PRESENT:
                assert stated, (name, phantom.report)
                assert not doubted, phantom.report
                sides = {w for w in ("left", "right") if w in truth.place}
                assert all(any(re.search(side, p, re.IGNORECASE) for p in stated) for side in sides)
            elif truth.state is State.UNCERTAIN:
                assert doubted
                assert not stated, (name, phantom.report)
            else:
                assert not stated, (name, phantom.report)
                assert concluded is None
        if any(t.state is not State.ABSENT for t in phantom.findings.values()):
            assert impression[0] + "." not in ("No acute disease.", "Normal chest radiograph.")
        lungs = ("Consolidation", "Edema", "Mass", "Nodule", "Atelectasis")
        if "The lungs are clear" in phantom.report:
            assert all(phantom.findings[name].state is State.ABSENT for name in lungs)


def test_findings_are_independent_and_half_of_the_uncertain_ones_are_drawn(phantoms: list[ReportPhantom]) -> None:
    codes = np.array([[CODES[p.findings[name].state] for name in FINDINGS] for p in phantoms])
    present = codes == 1
    assert np.all(np.abs(present.mean(axis=0) - 0.16) < 0.08)
    correlation = np.corrcoef(present.T)
    assert np.abs(correlation - np.eye(len(FINDINGS))).max() < 0.2
    doubtful = [t for p in phantoms for t in p.findings.values() if t.state is State.UNCERTAIN]
    assert 60 < len(doubtful) < 260
    assert 0.35 < np.mean([t.mask is not None for t in doubtful]) < 0.65
    assert len({p.report for p in phantoms}) > 380


def test_thumbnails_do_not_tell_small_findings(phantoms: list[ReportPhantom]) -> None:
    """Cross-validated AUROC of 16 x 16 thumbnails; findings of large areas change them by their nature."""
    most = dict.fromkeys(("Atelectasis", "Nodule", "Hernia"), 0.68)
    most |= dict.fromkeys(("Mass", "Pacemaker", "Pneumothorax"), 0.80)
    features = np.stack(
        [
            np.asarray(PillowImage.fromarray(p.pixels).resize((16, 16), PillowImage.Resampling.BOX)).ravel()
            for p in phantoms
        ]
    ).astype(float)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=1000))
    for name, limit in most.items():
        labels = np.array([p.findings[name].mask is not None for p in phantoms])
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_predict(model, features, labels, cv=folds, method="decision_function")
        assert roc_auc_score(labels, scores) <= limit, name


@given(states=st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from([State.PRESENT, State.ABSENT]), max_size=10))
@settings(deadline=None, max_examples=25)
def test_any_combination_can_be_asked_for(states: dict[str, State]) -> None:
    phantom = draw_report_phantom(0, 5, 96, states)
    assert {name for name, t in phantom.findings.items() if t.state is State.PRESENT} == {
        name for name, state in states.items() if state is State.PRESENT
    }
    for truth in phantom.findings.values():
        assert (truth.mask is not None) == (truth.state is State.PRESENT)


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected findings among Atelectasis, .*got 'Gout'"):
        draw_report_phantom(0, 0, states={"Gout": State.PRESENT})
    with pytest.raises(DataError, match="a pacemaker is present or absent"):
        draw_report_phantom(0, 0, states={"Pacemaker": State.UNCERTAIN})
    with pytest.raises(SettingsError, match="size: expected at least 96 pixels, got 64"):
        draw_report_phantom(0, 0, 64)
    with pytest.raises(SettingsError, match="seed: expected an integer"):
        draw_report_phantom(-1, 0)
    for words, message in (
        ({"train": -1}, "train: expected 0 to"),
        ({"valid": 0, "test": 0}, "expected at least one image"),
        ({"size": 10}, "size: expected 96 to 4096 pixels, got 10"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"seed": 2**32}, "seed: expected"),
    ):
        with pytest.raises(SettingsError, match=message):
            write_report_phantoms(tmp_path / "none", **words)
    assert not (tmp_path / "none").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_hold_what_was_drawn(tmp_path: Path) -> None:
    made = write_report_phantoms(tmp_path / "r", train=5, valid=2, test=3, seed=2, size=96, workers=1)
    assert made == {"train": 5, "valid": 2, "test": 3}
    records = read_manifest(tmp_path / "r" / "manifest.csv")
    assert [r.split for r in records] == ["train"] * 5 + ["valid"] * 2 + ["test"] * 3
    assert len({r.patient for r in records}) == 10
    boxes = {entry["file_name"]: entry for entry in json.loads((tmp_path / "r" / "boxes.json").read_text())}
    for record in records:
        split, number = record.path.stem.split("-")
        phantom = draw_report_phantom(2, report_stream_index(split, int(number)), 96)
        np.testing.assert_array_equal(np.asarray(PillowImage.open(record.path)), phantom.pixels)
        assert record.report == phantom.report
        assert dict(record.labels) == {name: CODES[truth.state] for name, truth in phantom.findings.items()}
        entry = boxes[record.path.name]
        wanted = [(n, list(b)) for n, t in phantom.findings.items() if t.state is State.PRESENT for b in t.boxes]
        assert list(zip(entry["syms"], entry["boxes"], strict=True)) == wanted
    with pytest.raises(DataError, match="holds other phantoms"):
        write_report_phantoms(tmp_path / "r", train=5, valid=2, test=3, seed=3, size=96)


def test_writing_again_and_with_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    wanted = {"train": 70, "valid": 10, "test": 5, "seed": 1, "size": 96}
    write_report_phantoms(tmp_path / "one", workers=1, **wanted)
    first = contents(tmp_path / "one")
    write_report_phantoms(tmp_path / "many", workers=2, **wanted)
    assert contents(tmp_path / "many") == first
    (tmp_path / "one" / "images" / "test-00000.png").unlink()
    (tmp_path / "one" / "manifest.csv").unlink()
    write_report_phantoms(tmp_path / "one", workers=1, **wanted)
    assert contents(tmp_path / "one") == first
    assert len({value for name, value in first.items() if name.endswith(".png")}) == 85


def test_streams_of_the_splits_never_meet() -> None:
    starts = [report_stream_index(split, 0) for split in SPLITS]
    assert np.diff(starts).min() >= LARGEST
    assert starts[-1] + LARGEST <= 2**32


def test_every_finding_has_words_for_every_state() -> None:
    assert set(PHRASES) == set(FINDINGS) == set(KEYWORDS)
    for name, phrases in PHRASES.items():
        assert len(phrases.present) >= 4
        assert len(phrases.absent) >= 3
        assert len(phrases.uncertain) >= 2 or name == "Pacemaker"
        for sentence in (*phrases.present, *phrases.absent, *phrases.uncertain):
            assert re.search(KEYWORDS[name], sentence, re.IGNORECASE), sentence


def test_sheets_show_a_row_per_finding() -> None:
    sheet = report_sheet(0, columns=2, size=96)
    assert sheet.shape == (len(FINDINGS) * 96, 2 * 96, 3)
    grey = (sheet == sheet[..., :1]).all(axis=2)
    assert grey[:, :96].all()
    assert not any(grey[row * 96 : (row + 1) * 96, 96:].all() for row in range(len(FINDINGS)))


def test_the_command_draws_reports_beside_other_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--valid", "2", "--test", "1", "--workers", "1", "--size", "96"]
    assert main(["data", "phantoms", str(tmp_path / "p"), "--sets", "ChestReports", "Brain", *words]) == 0
    out = capsys.readouterr().out
    assert "Brain: 6 images" in out
    assert "ChestReports: 3 images with reports" in out
    assert len(read_manifest(tmp_path / "p" / "ChestReports" / "manifest.csv")) == 3
    assert (tmp_path / "p" / "Brain_AD").is_dir()
    assert main(["data", "phantoms", str(tmp_path / "q"), "--sets", "ChestReports", *words]) == 0
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["ChestReports"]
    assert main(["data", "phantoms", str(tmp_path / "q"), "--sets", "ChestReport"]) == 2
    assert "got 'ChestReport'" in capsys.readouterr().err
