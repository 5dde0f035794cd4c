"""`wordsight score`: made-up files against scikit-learn, and real prediction files against their known numbers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from wordsight.cli.main import main
from wordsight.cli.score import ProtocolName
from wordsight.data.manifest import read_manifest
from wordsight.data.sources import read_chestxdet10, read_chexpert, read_openi
from wordsight.data.sources.chestxdet10 import FINDINGS as BOXED
from wordsight.data.sources.chexpert import COMPETITION
from wordsight.data.sources.openi import FINDINGS as OPENI
from wordsight.errors import DataError, SettingsError
from wordsight.study.score import PROTOCOLS, ScoreOptions, score_predictions

CLASSES = list(COMPETITION)


def written(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([*([header] if header else []), *rows])
    return path


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A CheXpert-like label file of 80 studies, its labels, and scores."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (80, 5))
    rows = [[f"test/patient{i}/study1", *row] for i, row in enumerate(labels.tolist())]
    path = written(tmp_path / "labels.csv", ["Study", *CLASSES], rows)
    return path, labels, np.round(rng.normal(size=(80, 5)) + labels, 1)


def test_numbers_are_scikit_learns_in_any_order_of_columns_and_rows(
    studies: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, labels, scores = studies
    columns, order = [2, 0, 4, 3, 1], np.random.default_rng(1).permutation(80)
    rows = [[f"test/patient{i}/study1", *scores[i, columns]] for i in order]
    file = written(tmp_path / "p.csv", ["Study", *(CLASSES[c] for c in columns)], rows)
    assert main(["score", str(file), str(path), "--protocol", "chexpert5", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    found = results(tmp_path / "out")
    for f, finding in enumerate(CLASSES):
        precision, recall, _ = precision_recall_curve(labels[:, f], scores[:, f])
        numbers = found["findings"][finding]
        assert numbers["positives"] == labels[:, f].sum()
        assert numbers["auroc"]["value"] == pytest.approx(roc_auc_score(labels[:, f], scores[:, f]))
        assert numbers["auprc"]["value"] == pytest.approx(auc(recall, precision))
        assert numbers["ap"]["value"] == pytest.approx(average_precision_score(labels[:, f], scores[:, f]))
        assert numbers["auroc"]["low"] < numbers["auroc"]["value"] < numbers["auroc"]["high"]
        assert numbers["auroc_delong"]["value"] == pytest.approx(numbers["auroc"]["value"])
        assert f"{numbers['auroc']['value']:.4f} [{numbers['auroc']['low']:.4f}, " in out
    assert found["means"]["macro"]["auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["pooled"]["micro_auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores, average="micro"))
    assert found["protocol"] == {
        "name": "chexpert5", "dataset": "CheXpert", "studies": 80, "frontal_only": False, "columns": "name",
        "rows": "name", "interval": "95 % bootstrap over 80 patients, 1000 draws, seed 0",
    }  # fmt: skip
    assert "CheXpert: 80 studies, 80 patients" in out
    assert "note: columns by name" in out
    table = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [row["name"] for row in table] == [*CLASSES, "macro"]
    assert float(table[0]["auroc"]) == found["findings"]["Atelectasis"]["auroc"]["value"]
    assert (table[5]["kind"], table[5]["auroc_delong"]) == ("mean", "")


def test_seed_and_draws(studies: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path, _, scores = studies
    file = written(tmp_path / "p.csv", [], scores.tolist())
    words = ["score", str(file), str(path), "--protocol", "chexpert5", "--out"]
    for name, more in (("a", ["--seed", "1"]), ("b", ["--seed", "1"]), ("c", ["--seed", "2"]), ("d", ["--draws", "0"])):
        assert main([*words, str(tmp_path / name), *more]) == 0
    found = {name: results(tmp_path / name) for name in "abcd"}
    assert found["a"] == found["b"]
    assert found["a"]["findings"] != found["c"]["findings"]
    assert found["a"]["protocol"]["columns"] == found["a"]["protocol"]["rows"] == "position"
    edema = found["d"]["findings"]["Edema"]["auroc"]
    assert (edema["low"], edema["value"]) == (None, found["a"]["findings"]["Edema"]["auroc"]["value"])
    assert found["d"]["protocol"]["interval"] == "none"


def test_against_another_file(
    studies: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, labels, scores = studies
    file = written(tmp_path / "p.csv", CLASSES, scores.tolist())
    other = written(tmp_path / "q.csv", CLASSES[::-1], (scores + 0.0)[:, ::-1].tolist())
    noise = np.random.default_rng(5).normal(size=scores.shape) * 3
    worse = written(tmp_path / "w.csv", CLASSES, (scores + noise).tolist())
    words = ["score", str(file), str(path), "--protocol", "chexpert5", "--draws", "200", "--out"]
    assert main([*words, str(tmp_path / "same"), "--against", str(other)]) == 0
    same = results(tmp_path / "same")["differences"]["Edema"]
    assert (same["auroc"]["value"], same["auroc"]["low"], same["delong"]) == (0.0, 0.0, {"z": 0.0, "p": 1.0})
    assert main([*words, str(tmp_path / "worse"), "--against", str(worse)]) == 0
    found = results(tmp_path / "worse")["differences"]
    expected = roc_auc_score(labels, scores) - roc_auc_score(labels, scores + noise)
    assert found["macro"]["auroc"]["value"] == pytest.approx(expected)
    assert 0 < found["macro"]["auroc"]["low"] < expected < found["macro"]["auroc"]["high"]
    assert found["macro"]["delong"] is None
    assert all(found[c]["delong"]["p"] < 0.2 for c in CLASSES)
    assert "difference in AUROC to the other file" in capsys.readouterr().out


def test_readings(studies: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path, labels, scores = studies
    file = written(tmp_path / "r.csv", CLASSES, (scores > 0.5).astype(int).tolist())
    words = ["score", str(file), str(path), "--protocol", "chexpert5", "--draws", "50"]
    assert main([*words, "--readings", "--out", str(tmp_path / "r")]) == 0
    found = results(tmp_path / "r")
    truth = labels[:, 0] == 1
    assert found["findings"]["Atelectasis"]["sensitivity"]["value"] == (scores[truth, 0] > 0.5).mean()
    assert (found["pooled"], "auroc" in found["findings"]["Edema"]) == ({}, False)
    assert main([*words, "--out", str(tmp_path / "s")]) == 0
    assert any("--readings" in note for note in results(tmp_path / "s")["notes"])


def test_images_of_a_patient_are_drawn_together_and_views_chosen(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = [
        f"test/patient{i}/study1/view{v}_{kind}.jpg" for i in range(40) for v, kind in ((1, "frontal"), (2, "lateral"))
    ]
    labels = np.repeat(rng.integers(0, 2, (40, 5)), 2, axis=0)
    scores = np.repeat(rng.normal(size=(40, 5)), 2, axis=0) + labels
    path = written(
        tmp_path / "labels.csv", ["Path", *CLASSES], [[n, *r] for n, r in zip(names, labels.tolist(), strict=True)]
    )
    file = written(
        tmp_path / "p.csv", ["Path", *CLASSES], [[n, *r] for n, r in zip(names, scores.tolist(), strict=True)]
    )
    both = score_predictions(ScoreOptions(file, path, "chexpert5"))
    frontal = score_predictions(ScoreOptions(file, path, "chexpert5", frontal=True))
    assert both.delong == ()
    assert len(frontal.delong) == 5
    assert (both.numbers.images, frontal.numbers.images) == (80, 40)
    # twins add nothing: value and interval are those of one image per patient
    for metric in ("auroc",):
        a, b = both.numbers.mean(metric), frontal.numbers.mean(metric)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    assert "40 rows left out" in frontal.notes[1]
    assert score_predictions(ScoreOptions(file, path, "chexpert5", against=file)).differences["Edema"].test is None


def test_five_times_two_hundred_counts_right_answers(tmp_path: Path) -> None:
    labels = np.eye(5, dtype=int)[np.arange(50) % 5]
    scores = labels + np.random.default_rng(2).normal(size=labels.shape) * 0.6
    names = [f"train/patient{i}/study1/view1_frontal.jpg" for i in range(50)]
    path = written(
        tmp_path / "5x200.csv", ["Path", *CLASSES], [[n, *r] for n, r in zip(names, labels.tolist(), strict=True)]
    )
    file = written(tmp_path / "p.csv", [], scores.tolist())
    found = score_predictions(ScoreOptions(file, path, "chexpert5x200", draws=100)).pooled["accuracy"]
    assert found.value == (scores.argmax(axis=1) == labels.argmax(axis=1)).mean()
    assert found.low < found.value < found.high


def test_openi_tiers_and_other_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    texts = [f.lower().replace("_", " ") for f in OPENI]
    counts = [5 + 2 * i for i in range(18)]
    rows: list[list[object]] = [[f"CXR{t}-{i}", f"{t}-{i}.png", texts[t]] for t in range(18) for i in range(counts[t])]
    path = written(tmp_path / "custom.csv", ["uid", "file_name", "labels_automatic"], rows)
    labels = read_openi(path).labels
    header = [{"Opacity": "Lung Opacity", "Effusion": "Pleural effusion"}.get(f, f) for f in OPENI]
    file = written(tmp_path / "p.csv", header, (rng.normal(size=labels.shape) + labels).tolist())
    assert (
        main(["score", str(file), str(path), "--protocol", "openi", "--draws", "20", "--out", str(tmp_path / "o")]) == 0
    )
    means = results(tmp_path / "o")["means"]
    assert {name: value["findings"] for name, value in means.items()} == {
        "macro": 18,
        "head": 6,
        "medium": 9,
        "tail": 3,
    }
    assert "tail (3)" in capsys.readouterr().out


def test_undefined_findings_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"file_name": f"{i}.png", "syms": ["Mass"] * (i % 2), "boxes": [[1, 2, 3, 4]] * (i % 2)} for i in range(20)
    ]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(entries))
    file = written(tmp_path / "p.csv", list(BOXED), np.random.default_rng(0).normal(size=(20, 10)).tolist())
    words = ["score", str(file), str(path), "--protocol", "chestxdet10", "--draws", "20", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    found = results(tmp_path / "o")
    assert found["findings"]["Nodule"]["auroc"] == {
        "value": None, "low": None, "high": None, "n": 20, "note": "only one class",
    }  # fmt: skip
    assert found["means"]["macro"]["auroc"]["note"].startswith("mean of 1 of 10 findings, the others: only one class")
    out = capsys.readouterr().out
    assert "undefined (only one class)" in out
    assert "note: macro AUROC: mean of 1 of 10 findings" in out


# -- the pointing game -------------------------------------------------------------------------------------------------


def boxed(folder: Path, images: int = 12) -> tuple[Path, Path, Path]:
    """A label file with boxes, scores, and peaks: of Mass every third lies 10 pixels beside its box, Nodule all do."""
    entries, predictions = [], []
    for i in range(images):
        x, y = 100 + 20 * i, 300 + 10 * i
        boxes = [[x, y, x + 50, y + 40], [x, y, x + 30, y + 40]][: 1 + i % 2]
        entries.append({"file_name": f"{i}.png", "syms": ["Mass", "Nodule"][: 1 + i % 2], "boxes": boxes})
        mass = (y + 20, x + 25) if i % 3 else (y + 20, x - 10)
        peaks = {"Mass": [place / 2 for place in mass], "nodule": [(y - 10) / 2, x / 2]}  # images of half the size
        predictions.append({"path": f"/data/{i}.png", "shape": [512, 512], "peaks": peaks})
    labels, peaks_file = folder / "test.json", folder / "predictions.json"
    labels.write_text(json.dumps(entries))
    peaks_file.write_text(json.dumps({"predictions": predictions[::-1]}))
    rows = np.random.default_rng(0).normal(size=(images, 10)).tolist()
    return labels, written(folder / "p.csv", list(BOXED), rows), peaks_file


def test_the_pointing_game_strict_and_with_a_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores, peaks = boxed(tmp_path)
    words = ["score", str(scores), str(labels), "--protocol", "chestxdet10", "--draws", "100", "--peaks", str(peaks)]
    assert main([*words, "--out", str(tmp_path / "o")]) == 0
    found = results(tmp_path / "o")
    mass, nodule = (found["findings"][name] for name in ("Mass", "Nodule"))
    assert (mass["pointing"]["value"], mass["pointing_tolerant"]["value"]) == (pytest.approx(8 / 12), 1.0)
    assert mass["pointing"]["low"] < mass["pointing"]["value"] < mass["pointing"]["high"]
    assert (nodule["pointing"]["value"], nodule["pointing"]["n"], nodule["pointing_tolerant"]["value"]) == (0.0, 6, 1.0)
    assert found["findings"]["Effusion"]["pointing"]["note"] == "nothing to count"
    assert found["means"]["macro"]["pointing"]["value"] == pytest.approx(8 / 24)
    assert found["means"]["macro"]["pointing"]["low"] < 8 / 24 < found["means"]["macro"]["pointing"]["high"]
    assert found["pointing"] == {
        "point": "centre of the map's largest cell", "tolerance_pixels": 15.0, "without_point": 0,
    }  # fmt: skip
    assert found["files"]["peaks"]["name"] == "predictions.json"
    table = list(csv.DictReader((tmp_path / "o" / "scores.csv").read_text().splitlines()))
    by_name = {row["name"]: row for row in table}
    assert float(by_name["macro"]["pointing"]) == pytest.approx(8 / 24)
    assert by_name["Effusion"]["pointing"] == ""
    out = capsys.readouterr().out
    assert "within 15 pixels" in out
    assert "note: pointing game: centre of the map's largest cell, inside any box" in out
    assert "note: peaks by name, by file name" in out
    assert main([*words, "--tolerance", "9", "--out", str(tmp_path / "n")]) == 0
    assert results(tmp_path / "n")["findings"]["Nodule"]["pointing_tolerant"]["value"] == 0.0


def test_a_map_that_points_at_nothing_is_a_miss(tmp_path: Path) -> None:
    labels, scores, peaks = boxed(tmp_path)
    value = json.loads(peaks.read_text())
    for entry in value["predictions"][:6]:  # images 11 to 6
        del entry["peaks"]["Mass"]
    peaks.write_text(json.dumps(value))
    found = score_predictions(ScoreOptions(scores, labels, "chestxdet10", draws=0, peaks=peaks)).pointing
    assert found is not None
    assert found.missing == 6
    assert found.findings[BOXED.index("Mass")]["pointing"].value == pytest.approx(4 / 12)
    assert "pointing game: 6 maps point at nothing on the image: misses" in found.notes()


def test_a_benchmark_becomes_a_table_for_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, _, _ = boxed(tmp_path)
    for i in range(13):  # one image more than the benchmark has
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{i}.png").write_bytes(b"x")
    words = ["data", "labels", str(tmp_path / "images"), str(labels), "--protocol", "chestxdet10", "--out"]
    assert main([*words, str(tmp_path / "table.csv")]) == 0
    said = capsys.readouterr().out
    assert "images: 12, findings: 10" in said
    assert f"wordsight predict {tmp_path / 'table.csv'} --model carzero --prompts chestxdet10 ..." in said
    records = read_manifest(tmp_path / "table.csv")
    assert [record.path.name for record in records] == [f"{i}.png" for i in range(12)]
    assert [record.labels["Nodule"] for record in records] == [i % 2 for i in range(12)]
    assert main([*words, str(tmp_path / "elsewhere" / "table.parquet")]) == 0
    assert "--prompts chestxdet10 --allow-outside ..." in capsys.readouterr().out
    assert read_manifest(tmp_path / "elsewhere" / "table.parquet", allow_outside=True)[3].path.name == "3.png"
    (tmp_path / "images" / "4.png").unlink()
    assert main([*words, str(tmp_path / "table.csv")]) == 2
    assert "expected the 12 images of ChestX-Det10, 1 missing: 4.png" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "table.csv"), "--frontal"]) == 2
    assert "does not tell views" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["predictions"].pop(), "expected a row for each of 12 images, 1 missing: 0.png"),
        (lambda value: value["predictions"].append(value["predictions"][0]), "expected each image once, got 11.png"),
        (lambda value: value["predictions"][0].update(shape=[512, 400]), r"1024 x 1024 pixels, .* got 512 x 400"),
        (lambda value: value["predictions"][0].update(shape=[0, 400]), "expected .*shape.*, got something else"),
        (lambda value: value["predictions"][0].update(peaks={"Mass": [1]}), "got something else. Give the predictions"),
        (
            lambda value: [e.update(peaks={}) for e in value["predictions"]],
            "expected peaks of Atelectasis, .* got none",
        ),
        (lambda value: value.clear(), "got something else"),
    ],
)
def test_peaks_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    labels, scores, peaks = boxed(tmp_path)
    value = json.loads(peaks.read_text())
    change(value)
    peaks.write_text(json.dumps(value))
    with pytest.raises(DataError, match=message):
        score_predictions(ScoreOptions(scores, labels, "chestxdet10", draws=0, peaks=peaks))


def test_the_published_boxes_are_hit_in_their_middle(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/labels/ChestX-Det10/test.json"
    table = read_chestxdet10(path)
    assert table.boxes is not None
    entries = []
    for name, boxes in zip(table.names, table.boxes, strict=True):
        middles = {f: [(b[0][1] + b[0][3]) / 2, (b[0][0] + b[0][2]) / 2] for f, b in boxes.items()}
        entries.append({"name": name, "shape": [1024, 1024], "peaks": middles})
    (tmp_path / "peaks.json").write_text(json.dumps({"predictions": entries}))
    file = written(tmp_path / "p.csv", list(BOXED), table.labels.tolist())
    found = score_predictions(ScoreOptions(file, path, "chestxdet10", draws=20, peaks=tmp_path / "peaks.json"))
    assert found.pointing is not None
    assert found.pointing.macro["pointing"].value == 1.0
    assert [n["pointing"].n for n in found.pointing.findings] == table.labels.sum(axis=0).tolist()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "mimic"], "error: .*protocol.*mimic"),
        ([], "error: .*protocol"),
        (["--protocol", "chexpert"], "error: .* expected columns Study, No Finding, .* missing in Study, Atelectasis"),
        (
            ["--protocol", "chestxray14"],
            "error: .* expected lines with an image and 14 flags 0 or 1, got something else",
        ),
        (["--protocol", "padchest"], "error: .* expected JSON"),
        (
            ["--protocol", "chestxdet10", "--frontal"],
            "error: frontal: the label file of chestxdet10 does not tell views",
        ),
        (["--protocol", "chexpert5", "--readings"], "error: expected readings 0 or 1, got"),
        (["--protocol", "chexpert5", "--readings", "--against", "x"], "error: against: expected scores to compare"),
        (["--protocol", "chexpert5", "--peaks", "x"], "error: peaks: the label file of chexpert5 has no boxes"),
        (["--protocol", "chexpert5", "--tolerance", "-1"], "error: tolerance: expected 0 pixels or more, got -1"),
        (["--protocol", "chexpert5", "--draws", "-1"], "error: draws, seed: expected 0 or more, got -1 and 0"),
        (["--protocol", "chexpert5", "--order", "none.csv"], "error: none.csv: no such table"),
        (["--protocol", "chexpert5", "--against", "none.csv"], "error: none.csv: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(
    studies: tuple[Path, np.ndarray, np.ndarray],
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    path, _, scores = studies
    file = written(tmp_path / "p.csv", CLASSES, scores.tolist())
    assert main(["score", str(file), str(path), *more, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert re.match(message, captured.err)
    assert not (tmp_path / "out").exists()


def test_the_command_knows_every_protocol() -> None:
    assert set(ProtocolName.__args__) == set(PROTOCOLS)  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match=r"protocol: expected one of openi, padchest, .*, got 'x'"):
        ScoreOptions(Path("a"), Path("b"), "x")


# Real prediction files.


def test_published_carzero_on_openi(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    words = ["score", str(data / "predictions/openi_carzero.csv"), str(data / "labels/openi/custom.csv")]
    order = ["--order", str(data / "labels/openi/image_order.csv")]
    assert main([*words, "--protocol", "openi", *order, "--draws", "200", "--out", str(tmp_path / "o")]) == 0
    found, expected = results(tmp_path / "o"), json.loads((data / "predictions/openi_expected.json").read_text())
    assert (found["protocol"]["columns"], found["protocol"]["rows"]) == ("position", "name")
    names = {"auroc": "auroc", "average_precision": "ap", "auprc_trapezoid": "auprc"}
    for key, metric in names.items():
        values = [found["findings"][finding][metric]["value"] for finding in expected["findings"]]
        assert values == pytest.approx(expected[key], abs=1e-6)
        macro = found["means"]["macro"][metric]
        assert macro["value"] == pytest.approx(expected["macro"][key], abs=1e-6)
        assert macro["low"] < macro["value"] < macro["high"]
    assert round(found["means"]["macro"]["auroc"]["value"], 4) == 0.8376
    assert found["pooled"]["micro_auprc"]["value"] == pytest.approx(
        expected["macro"]["micro_auprc_trapezoid"], abs=1e-6
    )
    for tier, count in zip(("head", "medium", "tail"), expected["groups"]["counts"], strict=True):
        assert found["means"][tier]["findings"] == count
        assert found["means"][tier]["auroc"]["value"] == pytest.approx(expected["groups"][tier], abs=1e-6)


@pytest.mark.parametrize("model", ["drnet", "ihil", "ngango3", "sensexdr", "uestc", "yww211"])
def test_published_leaderboard(shared: Path, tmp_path: Path, model: str) -> None:
    folder = shared / "data/labels/chexpert"
    known = json.loads((shared / "data/labels/expected.json").read_text())
    others = [m for m in known["models"] if m != model]
    for other in others[:2]:
        words = [folder / "predictions" / f"{model}_predictions.csv", folder / "groundtruth.csv", "--against"]
        words += [folder / "predictions" / f"{other}_predictions.csv", "--out", tmp_path / other]
        assert main(["score", *map(str, words), "--protocol", "chexpert5"]) == 0
        found = results(tmp_path / other)
        pair, sign = (
            (f"{model} vs {other}", 1)
            if f"{model} vs {other}" in known["delong_pairs"]
            else (f"{other} vs {model}", -1)
        )
        for finding in CLASSES:
            test, difference = known["delong_pairs"][pair][finding], found["differences"][finding]
            assert difference["auroc"]["value"] == pytest.approx(sign * test["diff"], abs=1e-8)
            assert difference["delong"]["z"] == pytest.approx(sign * test["z"], abs=1e-7)
            assert difference["delong"]["p"] == pytest.approx(test["p"], abs=1e-7)
    expected = known["models"][model]
    for name in (*CLASSES, "macro"):
        numbers = found["means"]["macro"] if name == "macro" else found["findings"][name]
        assert numbers["auroc"]["value"] == pytest.approx(expected[name]["auroc"], abs=1e-9)
        assert numbers["ap"]["value"] == pytest.approx(expected[name]["auprc"], abs=1e-9)
        for metric, key in (("auroc", "auroc_boot_ci"), ("ap", "auprc_boot_ci")):
            low, high = expected[name][key]
            # other draws than the reference's: bounds of 1000 draws vary by a few per cent of the interval
            near = pytest.approx((low, high), abs=0.12 * (high - low))
            assert (numbers[metric]["low"], numbers[metric]["high"]) == near
        if name != "macro":
            delong = numbers["auroc_delong"]
            assert (delong["low"], delong["high"]) == pytest.approx(expected[name]["delong_ci_clipped"], abs=1e-9)


@pytest.mark.parametrize("reader", ["bc4", "bc6", "bc8"])
def test_published_radiologists(shared: Path, reader: str) -> None:
    folder = shared / "data/labels/chexpert"
    expected = json.loads((shared / "data/labels/expected.json").read_text())["radiologists"][reader]
    file, truth = folder / "benchmark_radiologists" / f"{reader}.csv", folder / "groundtruth.csv"
    score = score_predictions(ScoreOptions(file, truth, "chexpert", readings=True, draws=0))
    assert len(score.labels.findings) == 14
    for f, finding in enumerate(score.labels.findings):
        for metric in score.numbers.metrics:
            value, known = score.numbers.number(metric, f).value, expected[finding][metric]
            assert (math.isnan(value) and known is None) or value == pytest.approx(known, abs=1e-9)
    five = score_predictions(ScoreOptions(file, truth, "chexpert5", readings=True, draws=0))
    for metric, known in expected["macro5"].items():
        assert five.numbers.mean(metric).value == pytest.approx(known, abs=1e-9)


def test_published_chexpert_images_and_studies_agree(shared: Path, tmp_path: Path) -> None:
    """Labels of the per-image file as predictions of themselves, with the paths that another machine had."""
    path = shared / "data/labels/chexpert/test_labels_per_image.csv"
    table = read_chexpert(path, findings=CLASSES)
    rows = [[f"/other/CheXpert/{name}", *row] for name, row in zip(table.names, table.labels.tolist(), strict=True)]
    file = written(tmp_path / "p.csv", ["Path", *CLASSES], rows[::-1])
    score = score_predictions(ScoreOptions(file, path, "chexpert5", frontal=True, draws=0))
    assert score.numbers.mean("auroc").value == 1.0
    assert score.numbers.images == 518
    assert "by the last 3 parts of the paths; 150 rows left out" in score.notes[1]
