"""Predictions written as they come: tables, JSON, heatmaps, a bounded page, nothing half-written."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from wordsight.errors import DataError
from wordsight.report import prediction_folder, write_predictions
from wordsight.report import predictions as module
from wordsight.report.drawing import Drawing
from wordsight.report.journal import Journal
from wordsight.types import Geometry, Image, Prediction, Record, ScoreKind

FINDINGS = ("edema", "label", "<b>effusion</b>")
Item = tuple[Record | str, Image, Prediction]


def prediction_of(seed: int, *, maps: bool = True, kind: ScoreKind = ScoreKind.PROBABILITY) -> Prediction:
    rng = np.random.default_rng(seed)
    values = rng.random((3, 6, 6), dtype=np.float32) if maps else None
    geometry = Geometry((40, 60), (24, 24), (24 / 40, 24 / 60))
    return Prediction(FINDINGS, rng.random(3, dtype=np.float32), kind, values, geometry, "sha256:abc", f"image {seed}")


def stream(count: int, **options: object) -> Iterator[Item]:
    for i in range(count):
        image = Image(np.random.default_rng(i).random((40, 60), dtype=np.float32))
        record = Record(Path(f"study{i}/scan.dcm"), label=i % 2, frame=i if i % 3 == 0 else None)
        yield (record if i % 2 else f"study{i}/scan.png"), image, prediction_of(i, **options)  # type: ignore[arg-type]


def test_tables_json_and_heatmaps_agree(tmp_path: Path) -> None:
    drawing, failures = Drawing(max_findings=2), [("bad.dcm", "no pixels")]
    page = write_predictions(stream(4), tmp_path / "out", drawing=drawing, failures=failures)
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    raw = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert list(rows[0]) == [*module.COLUMNS, "edema", "finding: label", "<b>effusion</b>"]
    assert raw["findings"] == list(FINDINGS)
    assert (raw["images"], raw["kind"], raw["weights"]) == (4, "probability", "sha256:abc")
    assert raw["failures"] == [{"path": "bad.dcm", "message": "no pixels"}]
    for i, (row, entry) in enumerate(zip(rows, raw["predictions"], strict=True)):
        scores = prediction_of(i).scores
        assert np.float32(row["edema"]) == scores[0]
        assert list(entry["scores"].values()) == [float(s) for s in scores]
        top = FINDINGS[int(scores.argmax())]
        assert set(entry["heatmaps"]) == {FINDINGS[j] for j in np.argsort(-scores)[:2]}
        assert row["heatmap"] == entry["heatmaps"][top]
        for place in entry["heatmaps"].values():
            with Pillow.open(tmp_path / "out" / place) as picture:
                assert picture.size == (60, 40)
    assert rows[3]["name"] == "scan.dcm#3"
    assert rows[3]["label"] == "1"
    assert rows[0]["label"] == ""
    assert len(list((tmp_path / "out" / "heatmaps").rglob("*.png"))) == 8  # same names, no collisions
    html = page.read_text(encoding="utf-8")
    assert "bad.dcm" in html
    assert "no pixels" in html
    assert "Research software, not a medical device" in html


def test_page_escapes_and_is_self_contained(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    items = [(evil, image, prediction) for _, image, prediction in stream(2)]
    html = write_predictions(items, tmp_path / "out", failures=[(evil, evil)]).read_text(encoding="utf-8")
    text = re.sub(r'base64,[^"]*', "", html)
    assert not re.search(r"<script|https?:|<link|<b>effusion", text)
    assert "&lt;b&gt;effusion" in text
    assert text.count('src="data:image/png;') == text.count("<img ") == text.count('alt="')


def test_page_shows_a_bounded_number_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html = write_predictions(stream(5), tmp_path / "a", drawing=Drawing(False, max_thumbnails=2)).read_text(
        encoding="utf-8"
    )
    assert "the first 2 of 5 images" in html
    assert html.count("<figure>") == 2
    assert not (tmp_path / "a" / "heatmaps").exists()
    monkeypatch.setattr(module, "THUMBNAIL_BUDGET", 6000)
    html = write_predictions(stream(5), tmp_path / "b", drawing=Drawing(False)).read_text(encoding="utf-8")
    assert 1 <= html.count("<figure>") < 5
    assert "of 5 images" in html


def test_failures_are_read_after_the_stream(tmp_path: Path) -> None:
    failures: list[tuple[str, str]] = []

    def failing() -> Iterator[Item]:
        yield from stream(1)
        failures.extend((f"f{i}", "broken") for i in range(60))

    html = write_predictions(failing(), tmp_path / "out", failures=failures).read_text(encoding="utf-8")
    assert "Files that could not be used: 60" in html
    assert "The first 50 are listed" in html
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["failures"]) == 60


def test_images_are_not_kept(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def counted() -> Iterator[Item]:
        nonlocal most
        for item in stream(12):
            alive.append(weakref.ref(item[1].pixels))
            yield item
            del item
            most = max(most, sum(ref() is not None for ref in alive))

    write_predictions(counted(), tmp_path / "out", drawing=Drawing(False))
    assert most <= 2


def test_without_maps_and_without_images(tmp_path: Path) -> None:
    page = write_predictions(stream(2, maps=False, kind=ScoreKind.LOGIT), tmp_path / "a")
    assert "logits" in page.read_text(encoding="utf-8")
    assert "Map colours" not in page.read_text(encoding="utf-8")
    page = write_predictions([], tmp_path / "b")
    assert "There is no image to show" in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "b" / "predictions.json").read_text())["predictions"] == []
    assert (tmp_path / "b" / "predictions.csv").read_text().strip() == ",".join(module.COLUMNS)


def test_own_range_is_said_for_logits_and_limits_override(tmp_path: Path) -> None:
    html = write_predictions(stream(1, kind=ScoreKind.LOGIT), tmp_path / "a").read_text(encoding="utf-8")
    assert "each map over its own range" in html
    page = write_predictions(stream(1, kind=ScoreKind.LOGIT), tmp_path / "b", drawing=Drawing(limits=(-2.0, 3.0)))
    assert "-2 to 3, the same for every map" in page.read_text(encoding="utf-8")


def test_mixed_detectors_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    items = [*stream(1), *stream(1, kind=ScoreKind.LOGIT)]
    with pytest.raises(DataError, match=r"expected scores \(probability\).*got \(logit\).*folder of their own"):
        write_predictions(items, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_exception_in_the_stream_keeps_the_older_run(tmp_path: Path) -> None:
    def breaking() -> Iterator[Item]:
        yield from stream(2)
        raise RuntimeError("lost the disk")

    write_predictions(stream(1), tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(RuntimeError, match="lost the disk"):
        write_predictions(breaking(), tmp_path / "out")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_peaks_are_places_on_the_image(tmp_path: Path) -> None:
    write_predictions(stream(2), tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))["predictions"]
    for seed, entry in enumerate(entries):
        maps = prediction_of(seed).maps
        assert maps is not None
        row, column = np.unravel_index(int(maps[0].argmax()), (6, 6))
        # cells of 40 / 6 by 60 / 6 pixels
        assert entry["peaks"]["edema"] == [pytest.approx((row + 0.5) * 40 / 6, abs=0.06), (column + 0.5) * 10]


def test_a_peak_on_padding_is_left_out(tmp_path: Path) -> None:
    """The lower half of the array is padding: a map that peaks there points at nothing."""
    geometry = Geometry((20, 40), (40, 40), (1.0, 1.0))
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 3, 1] = maps[1, 1, 2] = 1
    scores = np.zeros(2, np.float32)
    kinds = {"kind": ScoreKind.LOGIT, "map_kind": ScoreKind.ATTENTION}
    prediction = Prediction(("a", "b"), scores, maps=maps, geometry=geometry, weights="w", **kinds)
    assert prediction.peak("a") == (35.0, 15.0)
    assert prediction.heatmap().kind is ScoreKind.ATTENTION
    write_predictions([("x", Image(np.zeros((20, 40), np.float32)), prediction)], tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert raw["predictions"][0]["peaks"] == {"b": [15.0, 25.0]}
    assert (raw["kind"], raw["map_kind"]) == ("logit", "attention")


def test_the_page_names_the_highest_images_of_each_finding(tmp_path: Path) -> None:
    html = write_predictions(stream(5), tmp_path / "out").read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row">edema</th><td>(.*?)</td></tr>', html.partition("Highest scores")[2])
    scores = sorted((float(prediction_of(i).scores[0]) for i in range(5)), reverse=True)
    assert re.findall(r"<b>(.*?)</b>", rows[0]) == [f"{s:.3g}" for s in scores[:3]]


def cut_off(folder: Path, keys: str, run: dict[str, object]) -> None:
    """A work that is interrupted after these keys."""
    with prediction_folder(folder, run=run) as writer:
        for key, item in zip(keys, stream(len(keys)), strict=True):
            writer.add(key, item)
        raise KeyboardInterrupt


def test_interrupted_work_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Whatever of five images was done before, the files are those of an uninterrupted work."""
    run = {"settings": {"a": 1}}
    with prediction_folder(tmp_path / "whole", run=run) as writer:
        for key, item in zip("abcde", stream(5), strict=True):
            writer.add(key, item)
        writer.finish(list("abcde"))
    for done in range(1, 6):
        out = tmp_path / f"cut after {done}"
        with pytest.raises(KeyboardInterrupt):
            cut_off(out, "abcde"[:done], run)
        assert not (out / "predictions.csv").exists()
        with prediction_folder(out, run=run) as writer:
            assert [key for key in "abcde" if writer.has(key)] == list("abcde"[:done])
            for key, item in zip("abcde", stream(5), strict=True):
                if not writer.has(key):
                    writer.add(key, item)
            writer.finish(list("abcde"))
        assert written(out) == written(tmp_path / "whole")


def test_rows_of_images_that_are_gone_leave_with_their_heatmaps(tmp_path: Path) -> None:
    items = list(stream(4))
    with pytest.raises(KeyboardInterrupt):
        cut_off(tmp_path / "out", "abc", {"a": 1})
    with prediction_folder(tmp_path / "out", run={"a": 1}) as writer:
        writer.add("d", items[3])
        writer.finish(["d", "b"])
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == ["study3/scan.dcm", "study1/scan.dcm"]
    assert len(list((tmp_path / "out" / "heatmaps").rglob("*.png"))) == 2 * 3


def test_a_row_without_its_heatmap_counts_as_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cut_off(tmp_path / "out", "a", {"a": 1})
    next((tmp_path / "out").rglob("*.png")).unlink()
    with prediction_folder(tmp_path / "out", run={"a": 1}) as writer:
        assert not writer.has("a")
        writer.add("a", next(stream(1)))
        writer.finish(["a"])
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3


def test_another_run_does_not_take_up_what_waits(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cut_off(tmp_path / "out", "a", {"a": 1})
    with prediction_folder(tmp_path / "out", run={"a": 2}) as writer:
        assert not writer.has("a")
        writer.add("a", next(stream(1)))
        writer.finish()


def test_two_at_a_time_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with prediction_folder(tmp_path / "out", run={"a": 1}) as writer:
        writer.add("a", next(stream(1)))
        with pytest.raises(DataError, match=r"another process writes predictions here\. Wait for it"):
            prediction_folder(tmp_path / "out", run={"a": 1}).__enter__()
        writer.finish()
    assert (tmp_path / "out" / "predictions.csv").is_file()


def test_nothing_is_left_when_nothing_was_predicted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cut_off(tmp_path / "out", "", {"a": 1})
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from wordsight.report import prediction_folder
from wordsight.types import Geometry, Image, Prediction, ScoreKind
geometry = Geometry((8, 8), (8, 8), (1.0, 1.0))
with prediction_folder(Path(sys.argv[1]), run={"a": 1}) as writer:
    for i in range(3):
        scores = np.array([i], np.float32)
        writer.add(str(i), (f"{i}", Image(np.zeros((8, 8), np.float32)),
                   Prediction(("x",), scores, ScoreKind.LOGIT, None, geometry, "w")))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_survive_a_kill(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    with open(tmp_path / "out" / ".predictions" / "rows.jsonl", "ab") as stream_:
        stream_.write(b'{"key": "3", "scores": [0.')  # a row that the kill cut
    with prediction_folder(tmp_path / "out", run={"a": 1}) as writer:
        assert [writer.has(str(i)) for i in range(4)] == [True, True, True, False]
        writer.finish(["0", "1", "2"])
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert [row["x"] for row in rows] == ["0.0", "1.0", "2.0"]
    assert not (tmp_path / "out" / ".predictions").exists()


@given(rows=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers()), max_size=12), cut=st.integers(0, 400))
@settings(deadline=None, max_examples=40)
def test_a_journal_cut_anywhere_gives_the_whole_lines_before(rows: list[tuple[str, int]], cut: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with Journal(path) as journal:
            for key, value in rows:
                journal.append(key, {"value": value})
        whole = path.read_bytes()[:cut]
        path.write_bytes(whole)
        kept = rows[: whole.count(b"\n")]
        with Journal(path) as journal:
            assert {row["key"]: row["value"] for row in journal.rows()} == dict(kept)
            journal.append("z", {"value": 1})
        with Journal(path) as journal:
            assert {row["key"]: row["value"] for row in journal.rows()} == {**dict(kept), "z": 1}
