"""Predictions written as they come: tables, JSON, heatmaps, a bounded page, nothing half-written."""

import csv
import json
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from wordsight.errors import DataError
from wordsight.report import predictions as module
from wordsight.report import write_predictions
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
    page = write_predictions(stream(4), tmp_path / "out", max_findings=2, failures=[("bad.dcm", "no pixels")])
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
    html = write_predictions(stream(5), tmp_path / "a", max_thumbnails=2, heatmaps=False).read_text(encoding="utf-8")
    assert "the first 2 of 5 images" in html
    assert html.count("<figure>") == 2
    assert not (tmp_path / "a" / "heatmaps").exists()
    monkeypatch.setattr(module, "THUMBNAIL_BUDGET", 6000)
    html = write_predictions(stream(5), tmp_path / "b", heatmaps=False).read_text(encoding="utf-8")
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

    write_predictions(counted(), tmp_path / "out", heatmaps=False)
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
    page = write_predictions(stream(1, kind=ScoreKind.LOGIT), tmp_path / "b", limits=(-2.0, 3.0))
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
