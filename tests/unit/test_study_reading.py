"""One's own volumes from a table: windows and frames from the command line to training, measurement and prediction."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imaging_samples import nifti
from study_tools import QUICK
from wordsight.cli.main import main
from wordsight.data import read_as, read_manifest
from wordsight.errors import SettingsError
from wordsight.imaging import read_record
from wordsight.study.options import PredictOptions
from wordsight.types import Record

SIZE = 40


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of CT volumes of three slices, 4 + 4 valid and 2 + 2 test; the abnormal ones have a bright square."""
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.default_rng(0)
    rows = ["path,label,split"]
    for split, count in (("valid", 4), ("test", 2)):
        for label in (0, 1):
            for number in range(count):
                values = random.normal(40, 10, (SIZE, SIZE, 3))
                values[:4] = -1000
                values[15:25, 15:25, 1] += 150 * label
                name = f"{split}-{label}-{number}.nii"
                (folder / name).write_bytes(nifti(values.astype(np.int16)))
                rows.append(f"{name},{label},{split}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(volumes: Path, small_clip: Path) -> list[str]:
    return ["train", "mla", "--data", str(volumes / "table.csv"), "--architecture", str(small_clip), "--shots", "2"]


@pytest.fixture(scope="module")
def run(volumes: Path, small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the middle window of a table."""
    out = tmp_path_factory.mktemp("run") / "ct"
    words = [*arguments(volumes, small_clip), "--window", "40", "400", "--frame", "1", "--out", str(out)]
    assert main([*words, *QUICK]) == 0
    return out


def test_a_run_from_a_table_keeps_window_and_frame(run: Path, volumes: Path) -> None:
    stored = json.loads((run / "run.json").read_text())["run"]
    assert (stored["window"], stored["frame"], stored["target"]) == ("40/400", 1, "table")
    assert all(name.startswith("valid-") for name in stored["support"]["normal"] + stored["support"]["abnormal"])
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [f"test-{label}-{n}.nii#1" for label in (0, 1) for n in (0, 1)]
    assert {row["window"] for row in rows} == {"40/400"}
    assert len(list((run / "heatmaps").rglob("*.png"))) == 4
    assert "data:image/png" in (run / "report.html").read_text(encoding="utf-8")


def test_evaluate_and_predict_see_what_training_saw(
    run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(volumes / "table.csv")
    assert main(["evaluate", str(run), "--data", table, "--bootstrap", "0", "--out", str(tmp_path / "again")]) == 0
    scores = [
        [row["score"] for row in csv.DictReader((folder / "predictions.csv").read_text().splitlines())]
        for folder in (run, tmp_path / "again")
    ]
    assert scores[0] == scores[1]
    image = str(volumes / "test-1-0.nii")
    said = {}
    for name, more in (
        ("own", []),
        ("same", ["--window", "40", "400", "--frame", "1"]),
        ("other", ["--window", "bone"]),
    ):
        out = tmp_path / name
        assert main(["predict", image, "--model", str(run), "--out", str(out), "--no-heatmaps", *more]) == 0
        said[name] = next(csv.DictReader((out / "predictions.csv").read_text().splitlines()))["abnormal"]
    assert said["own"] == said["same"] != said["other"]
    capsys.readouterr()
    words = ["predict", image, "--model", str(run), "--out", str(tmp_path / "own"), "--no-heatmaps"]
    assert main([*words, "--window", "lung"]) == 2
    assert "holds predictions of other settings: window differ" in capsys.readouterr().err


def test_inspect_follows_the_advice_of_the_reader(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(volumes / "table.csv")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 (12 unreadable)" in printed
    assert "needs a window. Give one with window= (or --window), as centre and width or by name: lung" in printed
    assert main(["data", "inspect", str(volumes / "table.csv"), "--window", "-600", "1500"]) == 0
    assert "12 (0 unreadable)" in capsys.readouterr().out
    assert main(["data", "inspect", str(volumes / "table.csv"), "--window", "40"]) == 2
    assert "expected a window (centre, width), such as 40/400, or one named lung" in capsys.readouterr().err


def test_tables_say_what_they_lack(
    volumes: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(volumes, small_clip)
    text = (volumes / "table.csv").read_text()
    for changed, message in (
        (
            text.replace(",test", ",train"),
            "got train, valid. Correct the column split, or leave the",
        ),
        (text.replace("valid\n", "train\n"), "(the measurement), got test, train. Correct the column split."),
        (
            "\n".join(line.rpartition(",")[0] for line in text.splitlines()),
            "expected a column `split`, got columns path",
        ),
    ):
        other = volumes / "changed.csv"
        other.write_text(changed)
        words[3] = str(other)
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    words[3] = str(volumes / "table.csv")
    words[-1] = "0"
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "zero-shot training learns from other sets, got a table" in capsys.readouterr().err
    words[3] = str(volumes)
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "expected the name of a set in" in capsys.readouterr().err


def test_all_damaged_files_are_listed_before_training(
    volumes: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(volumes, data)
    for name in ("valid-0-1.nii", "valid-1-2.nii", "test-0-0.nii"):
        (data / name).write_bytes((data / name).read_bytes()[:-900])
    words = [*arguments(data, small_clip), "--window", "liver", "--draws", "0", "1", "--out", str(tmp_path / "out")]
    assert main([*words, *QUICK]) == 2
    message = capsys.readouterr().err
    assert "expected images and masks that can be read, got 2 that cannot:" in message
    assert "valid-0-1.nii" in message
    assert "valid-1-2.nii" in message
    assert not (tmp_path / "out").exists()


def test_a_row_has_its_own_window_and_frame(volumes: Path) -> None:
    table = volumes / "windows.csv"
    table.write_text("path,window,frame\ntest-1-0.nii,lung,0\ntest-1-0.nii,,\n")
    own, general = read_as(read_manifest(table), window="40/400", frame=1)
    assert (own.window, own.frame, general.window, general.frame) == ("lung", 0, "40/400", 1)
    assert "lung" in read_record(own).identifiers["window"]
    assert read_record(general).identifiers == {"frame": "1", "window": "given 40/400"}
    single, gone = volumes / "single.nii", volumes / "gone.nii"
    single.write_bytes(nifti(np.zeros((4, 4, 1), np.int16)))
    assert [r.frame for r in read_as([Record(single), Record(gone)], frame=2)] == [None, 2]
    with pytest.raises(SettingsError, match="expected a frame from 0, got -1"):
        read_as([Record(table)], frame=-1)


def test_all_frames_or_one() -> None:
    with pytest.raises(SettingsError, match="--all-frames: expected no --frame with it"):
        PredictOptions("run", Path("source"), all_frames=True, frame=2)
