"""`wordsight predict --model carzero` and `wordsight convert` on a tiny CARZero: what they write, resume and refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight.cli.main import main
from wordsight.data.sources.openi import FINDINGS as OPENI
from wordsight.imaging import read_image
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.storage import save_folder
from wordsight.models.carzero.weights import read_state, state_of, write_published, write_safetensors
from wordsight.text.prompts import prompt_set
from wordsight.types import PromptSet

ASKED = "There is a mass. There is pleural effusion. There is edema in the left lung"
FINDINGS = ["There is a mass", "There is pleural effusion", "There is edema in the left lung"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights (cz.safetensors), text encoder (text/) and five pictures (in/), the last of them broken."""
    folder = tmp_path_factory.mktemp("carzero")
    write_safetensors(folder / "cz.safetensors", make_carzero())
    text_folder(folder / "text")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (60 + 9 * i, 70), dtype=np.uint8)
        Pil.fromarray(pixels).save(folder / "in" / f"{i}.png")
    (folder / "in" / "broken.png").write_bytes((folder / "in" / "0.png").read_bytes()[:200])
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Predict = Callable[..., int]


@pytest.fixture
def predict(home: Path, tmp_path: Path) -> Predict:
    """Run the command on the pictures with what else is given."""

    def run(*more: str, prompts: str | None = ASKED, source: Path | None = None) -> int:
        weights = ["--weights", str(home / "cz.safetensors"), "--text", str(home / "text"), "--device", "cpu"]
        out = [] if "--out" in more else ["--out", str(tmp_path / "out")]
        asked = [] if prompts is None else ["--prompts", prompts]
        return main(["predict", str(source or home / "in"), "--model", "carzero", *weights, *asked, *out, *more])

    return run


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def json_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_processes_that_read_and_draw_change_nothing(predict: Predict, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    shutil.copytree(home / "in", source)
    for number in range(4, 16):
        shutil.copy(source / f"{number % 4}.png", source / f"{number}.png")
    written = []
    for workers in ("0", "2"):
        out = tmp_path / f"out{workers}"
        more = ("--workers", workers, "--batch", "3", "--out", str(out))
        assert predict(*more, source=source) == 0
        written.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert len(written[0]) == 16 * 3 + 4
    assert written[0] == written[1]


def test_an_image_that_goes_before_it_is_drawn_is_said(
    predict: Predict, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wordsight.study import predict as work

    def gone(record: Any) -> str:
        return f"{record.path}: is gone"

    monkeypatch.setattr(work, "read_or_say", gone)
    assert predict("--no-heatmaps", "--overwrite") == 2
    assert "none of 5 images could be read; the first:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def detector(home: Path, prompts: PromptSet) -> CarZero:
    return CarZero.from_published(home / "cz.safetensors", text=home / "text").with_prompts(prompts)


def test_one_row_per_image_and_one_column_per_finding(
    predict: Predict, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--batch", "2") == 0
    captured = capsys.readouterr()
    assert "1 images could not be read:" in captured.err
    assert "broken.png: expected a readable PNG file" in captured.err
    rows, raw = table(tmp_path / "out" / "predictions.csv"), json_of(tmp_path / "out" / "predictions.json")
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(4)]
    known = detector(home, prompt_set(ASKED))
    for i, row in enumerate(rows):
        wanted = known.predict([read_image(home / "in" / f"{i}.png")])[0]
        assert [float(row[f]) for f in FINDINGS] == pytest.approx(wanted.scores.tolist(), abs=2e-5)
        places = raw["predictions"][i]["heatmaps"]
        assert row["heatmap"] == places[FINDINGS[int(wanted.scores.argmax())]]
        for finding, place in places.items():
            with Pil.open(tmp_path / "out" / place) as drawn:
                assert drawn.size == (70, 60 + 9 * i)
            assert raw["predictions"][i]["peaks"][finding] == pytest.approx(wanted.peak(finding), abs=0.06)
    assert (raw["findings"], raw["kind"], raw["map_kind"]) == (FINDINGS, "logit", "attention")
    assert raw["weights"] == raw["run"]["weights"] == known.weights_hash
    assert raw["run"]["prompts"] == {"positive": {f: [f] for f in FINDINGS}, "negative": None}
    assert raw["run"]["settings"]["text_length"] == 24
    assert [Path(f["path"]).name for f in raw["failures"]] == ["broken.png"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "0 to 10 times even attention (1/16 for each cell), the same for every map" in html
    assert "Maps show where the network looked" in html
    assert "Logits of different findings are on different scales" in html


def test_pairs_maxima_published_maps_and_none(predict: Predict, home: Path, tmp_path: Path) -> None:
    negatives = tmp_path / "no.json"
    negatives.write_text(json.dumps({"edema": ["no edema", "lungs are clear"], "mass": "no mass", "rest": "no rest"}))
    positives = tmp_path / "yes.json"
    positives.write_text(json.dumps({"mass": ["there is a mass", "large mass"], "edema": "there is edema"}))
    pair = ["--scores", "pair", "--negatives", str(negatives), "--combine", "max", "--map-style", "published"]
    assert predict(*pair, prompts=str(positives), source=home / "in" / "1.png") == 0
    prompts = PromptSet(
        ("mass", "edema"),
        (("there is a mass", "large mass"), ("there is edema",)),
        (("no mass",), ("no edema", "lungs are clear")),
        "max",
    )
    bound = detector(home, prompts)
    image = read_image(home / "in" / "1.png")
    features = bound.encode([image])
    said = bound.score(features, PromptSet.of("there is a mass", "large mass", "no mass"))[0]
    row = table(tmp_path / "out" / "predictions.csv")[0]
    assert row["kind"] == "probability"
    assert float(row["mass"]) == pytest.approx(1 / (1 + np.exp(said[2] - said[:2].max())), abs=1e-5)
    assert json_of(tmp_path / "out" / "predictions.json")["run"]["prompts"]["negative"]["mass"] == ["no mass"]
    assert "Sentences that deny it" in (tmp_path / "out" / "report.html").read_text()
    assert predict("--no-maps", "--out", str(tmp_path / "bare"), source=home / "in" / "1.png") == 0
    assert not (tmp_path / "bare" / "heatmaps").exists()
    assert "Map colours" not in (tmp_path / "bare" / "report.html").read_text()


def test_interrupted_predictions_go_on(
    predict: Predict, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[str] = []
    encode = CarZero.encode

    def watched(self: CarZero, images: Any) -> Any:
        if len(looked) == 2 and "go on" not in looked:
            raise KeyboardInterrupt
        looked.extend(Path(image.source).name for image in images)
        return encode(self, images)

    monkeypatch.setattr(CarZero, "encode", watched)
    one = ["--batch", "1"]
    assert predict(*one) == 130
    assert "predictions go on where they stopped" in capsys.readouterr().err
    assert looked == ["0.png", "1.png"]
    assert not (tmp_path / "out" / "predictions.csv").exists()
    assert predict(*one, "--scores", "pair") == 2
    err = capsys.readouterr().err
    assert "out: holds unfinished predictions of other settings: prompts, scores differ" in err
    looked.append("go on")
    assert predict(*one) == 0
    assert looked[3:] == ["2.png", "3.png"]
    assert "2 of 5 images were done before" in capsys.readouterr().err
    looked.clear()
    looked.append("go on")
    assert predict(*one, "--out", str(tmp_path / "whole")) == 0
    for name in ("predictions.csv", "predictions.json", "report.html", "predict.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "heatmaps", "predict.json", "predictions.csv", "predictions.json", "report.html",
    ]  # fmt: skip


def test_a_finished_folder_is_kept_or_refused_or_overwritten(
    predict: Predict, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict() == 0
    before = (tmp_path / "out" / "predictions.csv").stat().st_mtime_ns
    assert predict() == 0
    assert "all of it was done before; nothing was predicted again" in capsys.readouterr().err
    assert (tmp_path / "out" / "predictions.csv").stat().st_mtime_ns == before
    assert predict(prompts="There is a mass") == 2
    err = capsys.readouterr().err
    assert "out: holds predictions of other settings: prompts differ. Choose another --out" in err
    assert "or drop them with --overwrite" in err
    assert (tmp_path / "out" / "predictions.csv").stat().st_mtime_ns == before
    assert predict("--overwrite", prompts="There is a mass") == 0
    assert "There is edema in the left lung" not in table(tmp_path / "out" / "predictions.csv")[0]
    # the same question of other images writes the folder anew
    assert predict(prompts="There is a mass", source=home / "in" / "1.png") == 0
    assert [row["name"] for row in table(tmp_path / "out" / "predictions.csv")] == ["1.png"]
    (tmp_path / "out" / "predict.json").unlink()
    assert predict(prompts="There is a mass") == 2
    assert "holds predictions.csv, and nothing says how it was made" in capsys.readouterr().err


def test_a_trained_folder_has_its_own_text_and_settings(
    home: Path, tmp_path: Path, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    save_folder(run, make_carzero(keep_single_words=True), home / "text", {})
    words = ["predict", str(home / "in"), "--model", str(run), "--prompts", ASKED, "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "own")]) == 0
    assert predict("--settings", "corrected") == 0
    mine, other = (table(tmp_path / name / "predictions.csv") for name in ("own", "out"))
    assert mine == other  # sentences of several words are cleaned alike
    settings = json_of(tmp_path / "own" / "predict.json")["run"]["settings"]
    assert (settings["keep_single_words"], settings["keep_numbers"]) == (True, False)
    capsys.readouterr()
    assert main([*words, "--text", str(home / "text"), "--out", str(tmp_path / "no")]) == 2
    assert "run: has its own, got --text. Leave it out" in capsys.readouterr().err
    assert main([*words[:4], "--out", str(tmp_path / "no")]) == 2
    assert "expected --prompts, got none" in capsys.readouterr().err
    assert main(["convert", str(run), str(tmp_path / "run.ckpt")]) == 0
    assert read_state(tmp_path / "run.ckpt")[0]["fusion_module.decoder_norm.weight"].shape == (32,)
    assert main([*words[:3], "carzero", "--weights", "tiny", "--prompts", ASKED, "--text", str(home / "text")]) == 2
    assert "carzero --weights tiny: has its own, got --text" in capsys.readouterr().err


def test_prompts_are_kept_on_disk(predict: Predict, home: Path, tmp_path: Path, own_cache: Path) -> None:
    assert predict(source=home / "in" / "0.png") == 0
    assert len(list((own_cache / "prompts").iterdir())) == 1
    assert predict("--cache", str(tmp_path / "other"), "--overwrite", source=home / "in" / "0.png") == 0
    assert len(list((tmp_path / "other" / "prompts").iterdir())) == 1


def test_the_score_command_takes_the_table(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eighteen findings of a shipped set, images in two folders of which the label file knows one."""
    rng = np.random.default_rng(1)
    pictures = tmp_path / "images"
    rows = []
    for i in range(12):
        folder = pictures / ("a" if i < 10 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Pil.fromarray(rng.integers(0, 256, (50, 50), dtype=np.uint8)).save(folder / f"{i}_IM-{i:04}.dcm.png")
        words = ["normal", "pulmonary atelectasis;effusion", "nodule;lung mass", "calcified granuloma"][i % 4]
        rows.append([str(i // 2), f"{i}_IM-{i:04}.dcm.png", words])
    with open(tmp_path / "custom.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["uid", "file_name", "labels_automatic"], *reversed(rows[:10])])
    assert predict("--settings", "corrected", "--no-maps", prompts="openi", source=pictures) == 0
    header = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header[5:] == list(prompt_set("openi").findings)
    assert len(header) == 5 + len(OPENI)
    score = ["score", str(tmp_path / "out" / "predictions.csv"), str(tmp_path / "custom.csv"), "--protocol", "openi"]
    assert main([*score, "--draws", "20", "--out", str(tmp_path / "scored")]) == 0
    found = json_of(tmp_path / "scored" / "results.json")
    assert (found["protocol"]["columns"], found["protocol"]["rows"]) == ("name", "name")
    assert "2 rows left out" in capsys.readouterr().out
    from sklearn.metrics import roc_auc_score

    mine = {row["name"]: float(row["Effusion"]) for row in table(tmp_path / "out" / "predictions.csv")}
    labels = ["effusion" in row[2] for row in rows[:10]]
    wanted = roc_auc_score(labels, [mine[row[1]] for row in rows[:10]])
    assert found["findings"]["Effusion"]["auroc"]["value"] == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["global", "local", "both"])
def test_similarities_for_comparison_are_named_as_such(kind: str, predict: Predict, home: Path, tmp_path: Path) -> None:
    prompts = "There is a mass"
    assert predict("--similarity", kind, "--no-heatmaps", prompts=prompts, source=home / "in" / "1.png") == 0
    row, raw = table(tmp_path / "out" / "predictions.csv")[0], json_of(tmp_path / "out" / "predictions.json")
    assert (row["kind"], raw["kind"], raw["run"]["similarity"]) == ("similarity", "similarity", kind)
    known = replace(detector(home, prompt_set(prompts)), similarity=kind)  # type: ignore[arg-type]
    wanted = known.predict([read_image(home / "in" / "1.png")])[0]
    assert float(row[prompts]) == pytest.approx(float(wanted.scores[0]), abs=2e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Scores are similarities of image and sentence" in page
    assert "Scores are logits" not in page


def test_fusion_is_not_written_into_runs_that_have_nothing_else(predict: Predict, home: Path, tmp_path: Path) -> None:
    """Folders of earlier versions go on."""
    assert predict("--no-heatmaps", "--similarity", "fusion", source=home / "in" / "1.png") == 0
    assert "similarity" not in json_of(tmp_path / "out" / "predict.json")["run"]


def test_tables_with_absolute_paths_are_taken_where_allowed(
    predict: Predict, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path,label\n{home / 'in' / '2.png'},1\n")
    assert predict("--no-maps", source=manifest) == 2
    assert "allow paths outside (--allow-outside; in Python allow_outside=True)" in capsys.readouterr().err
    assert predict("--no-maps", "--allow-outside", source=manifest) == 0
    assert [row["path"] for row in table(tmp_path / "out" / "predictions.csv")] == [str(home / "in" / "2.png")]


def test_a_manifest_names_the_images(predict: Predict, home: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\nin/2.png,1\nin/0.png,0\nin/2.png,1\n")
    shutil.copytree(home / "in", tmp_path / "in")
    assert predict(source=manifest) == 0
    rows = table(tmp_path / "out" / "predictions.csv")
    assert [(row["name"], row["label"]) for row in rows] == [("2.png", "1"), ("0.png", "0"), ("2.png", "1")]
    assert rows[0]["heatmap"] != rows[2]["heatmap"]  # listed twice: two rows of their own
    assert {**rows[0], "heatmap": ""} == {**rows[2], "heatmap": ""}


def test_another_precision_is_another_prediction(
    predict: Predict, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict() == 0
    whole = [float(row[FINDINGS[0]]) for row in table(tmp_path / "out" / "predictions.csv")]
    assert predict("--precision", "bf16") == 2
    assert "predictions of other settings: precision differ" in capsys.readouterr().err
    assert predict("--precision", "bf16", "--overwrite") == 0
    half = [float(row[FINDINGS[0]]) for row in table(tmp_path / "out" / "predictions.csv")]
    assert half != whole
    assert half == pytest.approx(whole, abs=0.1 * max(map(abs, whole)))
    assert json_of(tmp_path / "out" / "predictions.json")["run"]["precision"] == "bf16"


@pytest.mark.filterwarnings("default::wordsight.errors.PromptWarning")
def test_a_prompt_that_is_too_long_is_said_in_one_line(
    predict: Predict, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(prompts="There is " + "no " * 20 + "mass in the left lung", source=home / "in" / "0.png") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: prompt 'There is no no")
    assert "not read: 'mass in the left lung'. Say it in fewer words" in told[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "TEXT", "--prompts", "edema"], "expected --weights FILE .CARZero_best_model.ckpt.* no --weights"),
        (["--weights", "CZ", "--prompts", "edema"], "got no --text. Neither comes with this package"),
        (["--weights", "no.ckpt", "--text", "TEXT", "--prompts", "edema"], "no.ckpt: expected a weights file, found"),
        (["--weights", "CZ", "--text", "./none", "--prompts", "a mass"], "expected a folder with a BERT tokenizer"),
        (["--weights", "CZ", "--text", "TEXT"], r"expected --prompts, got none.*Name a set \(chest14, "),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", " "],
            "expected findings, a sentence, a JSON file .* got no",
        ),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "padchest19"],
            "no shipped prompt set. Did you mean padche",
        ),
        (["--weights", "CZ", "--text", "TEXT", "--prompts", "TEXT"], "text: expected a prompt file that ends in .json"),
        (["--weights", "CZ", "--text", "TEXT", "--prompts", "no.json"], "no.json: no such prompt file"),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "x.", "--settings", "corected"],
            "settings: expected one of",
        ),
        (["--weights", "CZ", "--text", "TEXT", "--prompts", "x.", "--top", "0"], "top: expected 1 finding or more"),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "a mass", "--precision", "fp16", "--device", "cpu"],
            "precision fp16 needs a CUDA device",
        ),
        (["--weights", "CZ", "--text", "TEXT", "--prompts", "x.", "--batch", "0"], "batch size: expected 1 image"),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "the heart is large", "--scores", "pair"],
            "expected a sentence that denies each finding, got none for the heart is large",
        ),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "edema", "--scores", "pair", "--negatives", "NEG"],
            "neg.json: expected a sentence for each finding, missing edema",
        ),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "edema", "--negatives", "NEG"],
            "--negatives: expected --scores pair with it",
        ),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "edema", "--scores", "pair", "--similarity", "both"],
            "--scores pair: needs the logits of --similarity fusion, got both",
        ),
        (
            ["--weights", "CZ", "--text", "TEXT", "--prompts", "edema", "--scores", "odds"],
            'key "scores": Expected a .*logit',
        ),
    ],
)
def test_predict_says_what_is_wrong(
    words: list[str], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "neg.json").write_text('{"mass": "no mass"}')
    names = {"CZ": home / "cz.safetensors", "TEXT": home / "text", "NEG": tmp_path / "neg.json"}
    given = [str(names.get(word, word)) for word in words]
    out = tmp_path / "out"
    assert main(["predict", str(home / "in"), "--model", "carzero", *given, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not out.exists()


def test_a_folder_without_images_and_unreadable_weights(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(home / "in"), "--model", "carzer0"]) == 2
    assert "carzer0: no such run folder, and no method that predicts without one (carzero)" in capsys.readouterr().err
    assert predict(source=tmp_path / "empty") == 2
    assert "looked for images" in capsys.readouterr().err
    assert predict(source=home / "in" / "broken.png") == 2
    assert "none of 1 images could be read; the first: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes((home / "cz.safetensors").read_bytes()[:5000])
    words = ["--model", "carzero", "--weights", str(bad), "--text", str(home / "text"), "--prompts", "a mass"]
    assert main(["predict", str(home / "in"), *words]) == 2
    assert "bad.safetensors: expected a safetensors file" in capsys.readouterr().err


# -- convert ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(tmp_path: Path) -> str:
    (tmp_path / "tiny.json").write_text(json.dumps(SETTINGS.to_json()))
    return str(tmp_path / "tiny.json")


def test_convert_to_and_fro(home: Path, tmp_path: Path, settings_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    published, ours, again = tmp_path / "a.ckpt", tmp_path / "b.safetensors", tmp_path / "c.pth"
    assert main(["convert", str(home / "cz.safetensors"), str(published)]) == 0
    captured = capsys.readouterr()
    count = len(state_of(make_carzero()))
    assert f"carzero: {count} tensors, " in captured.out
    assert "fusion_module: " in captured.out
    assert "image_encoder, text, text_length" in captured.err
    names = torch.load(published, weights_only=True)["state_dict"]
    assert len(names) == count + 2  # the fusion's last norm has two names
    assert all(name.startswith("CARZero.") for name in names)
    # what a published file cannot say must be given
    assert main(["convert", str(published), str(ours)]) == 2
    assert "misshapen: " in (err := capsys.readouterr().err)
    assert "Choose the settings (image encoder, memory, head, sizes)" in err
    assert main(["convert", str(published), str(ours), "--settings", settings_file]) == 0
    assert main(["convert", str(ours), str(again)]) == 0
    first, last = (read_state(path)[0] for path in (home / "cz.safetensors", again))
    assert {*first} == {*last}
    assert all(first[name].equal(last[name]) for name in first)
    assert read_state(ours)[1]["settings"] == json.loads(json.dumps(SETTINGS.to_json()))
    text = home / "text"
    loaded = CarZero.from_published(ours, text=text)
    assert loaded.weights_hash == CarZero.from_published(home / "cz.safetensors", text=text).weights_hash
    capsys.readouterr()
    assert main(["convert", str(ours), str(again)]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert main(["convert", str(ours), str(tmp_path / "d.onnx")]) == 2
    assert "expected a name that ends in .safetensors (ours) or .ckpt (published)" in capsys.readouterr().err


def test_convert_says_what_a_file_lacks_or_has_too_much(
    home: Path, tmp_path: Path, settings_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path / "a.ckpt", make_carzero())
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    removed = next(name for name in content["state_dict"] if "img_encoder" in name)
    del content["state_dict"][removed]
    content["state_dict"]["CARZero.more"] = torch.zeros(1)
    torch.save(content, tmp_path / "b.ckpt")
    words = ["convert", str(tmp_path / "b.ckpt"), str(tmp_path / "c.safetensors"), "--settings", settings_file]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"1 missing: {removed.removeprefix('CARZero.')}" in err
    assert "1 unexpected: more" in err
    assert not (tmp_path / "c.safetensors").exists()
    (tmp_path / "d.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:3000])
    assert main(["convert", str(tmp_path / "d.ckpt"), str(tmp_path / "c.safetensors")]) == 2
    assert "d.ckpt" in capsys.readouterr().err
    torch.save({"seg_adapters": {}, "det_adapters": {}}, tmp_path / "e.pth")
    assert main(["convert", str(tmp_path / "e.pth"), str(tmp_path / "c.safetensors"), "--settings", "gl"]) == 2
    assert "holds no CARZero, and settings are for one" in capsys.readouterr().err
    assert main(["convert", str(home / "cz.safetensors"), str(tmp_path / "run"), "--architecture", "tiny"]) == 2
    assert "is a CARZero, which needs no backbone and no run folder" in capsys.readouterr().err


def test_half_precision_sources_are_written_whole(
    tmp_path: Path, settings_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path / "a.ckpt", make_carzero().half())
    words = ["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "b.safetensors"), "--settings", settings_file]
    assert main(words) == 0
    assert "numbers of type float16; all are written as float32" in capsys.readouterr().err
    assert read_state(tmp_path / "b.safetensors")[0]["fusion_module.decoder_norm.weight"].dtype == torch.float32
