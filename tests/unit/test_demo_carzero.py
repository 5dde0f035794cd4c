"""CARZero's part of the demonstration: what it measures, writes and prints, and what it says without its network."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tiny_carzero import make_carzero, text_folder
from wordsight.cli.show import show_asked
from wordsight.data.phantoms.report_files import report_stream_index
from wordsight.data.phantoms.reports import FINDINGS, draw_report_phantom
from wordsight.models.carzero import storage
from wordsight.models.carzero.storage import save_folder
from wordsight.study import demo_carzero
from wordsight.study.phantom_findings import means
from wordsight.study.showcase import SEED


def test_it_asks_measures_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_folder(tmp_path / "run", make_carzero(), text_folder(tmp_path / "text"), {"finished": True})
    told: list[str] = []
    asked = demo_carzero(tmp_path / "out", run=tmp_path / "run", count=6, say=told.append)
    assert asked is not None
    assert told[0].startswith("drawing 6 synthetic chest x-rays with reports into ")
    phantoms = [draw_report_phantom(SEED, report_stream_index("test", number)) for number in range(6)]
    present = [sum(p.findings[name].state == "present" for p in phantoms) for name in FINDINGS]
    assert [r.present for r in asked.results] == present
    assert len(asked.heatmaps) == 3
    assert "Maps show where the network looked" in asked.report.read_text(encoding="utf-8")
    with open(tmp_path / "out" / "carzero" / "predictions.csv", encoding="utf-8") as file:
        shown = list(csv.DictReader(file))
    assert len(shown) == 3
    for row in shown:
        phantom = phantoms[int(Path(row["path"]).stem.removeprefix("test-"))]
        assert any(truth.state == "present" for truth in phantom.findings.values())
    show_asked(asked)
    out = capsys.readouterr().out
    assert "6 chest x-rays, carzero: asked in words" in out
    for name in FINDINGS:
        assert name in out
    assert f"{means(asked.results)['stated']:.3f}" in out
    assert out.count("map: ") == 3
    assert f"report: {asked.report}" in out


def test_without_the_small_network_it_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TINY", "nowhere")
    told: list[str] = []
    assert demo_carzero(tmp_path, say=told.append) is None
    assert len(told) == 1
    assert told[0].startswith("CARZero is not shown. ")
    assert "Make it with `python scripts/train_tiny_carzero.py" in told[0]
    assert list(tmp_path.iterdir()) == []
