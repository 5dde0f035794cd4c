"""Every command end to end on small phantoms, with what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as Pil

from study_tools import QUICK
from wordsight.cli.main import main
from wordsight.errors import SettingsError


def train(data: Path, clip: Path, out: Path, *more: str) -> int:
    where = ["--data", str(data), "--target", "Brain", "--architecture", str(clip), "--out", str(out)]
    return main(["train", "mla", *where, "--shots", "2", *QUICK, *more])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def json_of(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_train_writes_a_complete_run(trained_run: Path) -> None:
    assert {p.name for p in trained_run.iterdir()} >= {
        "run.json", "detector.json", "adapters.safetensors", "bank.safetensors", "results.json", "report.html",
        "predictions.csv", "maps.npz", "heatmaps",
    }  # fmt: skip
    assert not (trained_run / "state.pt").exists()
    run = json.loads((trained_run / "run.json").read_text())
    assert run["run"]["settings"]["levels"] == [1, 2, 3, 4]
    assert run["run"]["training"]["epochs"] == 1
    assert run["run"]["training"]["protocol"] == "validation"
    assert run["run"]["support"]["origin"] == "list Brain/2-shot.txt, draw 0"
    assert run["options"]["shots"] == 2
    protocol = json.loads((trained_run / "results.json").read_text())["evaluations"][0]["protocol"]
    assert protocol["selection"] == "validation"
    assert protocol["scale"] == "validation"
    assert (protocol["shots"], protocol["draw"], protocol["seed"]) == (2, 0, 111)
    assert protocol["transductive"] is False
    assert protocol["method"] == "mla"
    assert protocol["profile"] == "default"
    assert protocol["other_than_profile"] == "image_size 56 instead of 240; epochs 1 instead of 10"
    page = (trained_run / "report.html").read_text(encoding="utf-8")
    assert "Other than profile: image_size 56 instead of 240; epochs 1 instead of 10." in page


def test_a_finished_run_is_not_trained_again(
    trained_run: Path, phantom_data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    shutil.copytree(trained_run, out)
    before = (out / "adapters.safetensors").stat().st_mtime_ns
    numbers = json.loads((out / "results.json").read_text())["evaluations"][0]["numbers"]
    assert train(phantom_data, small_clip, out) == 0
    captured = capsys.readouterr()
    assert "was finished before and was not trained again" in captured.err
    assert (out / "adapters.safetensors").stat().st_mtime_ns == before
    assert json.loads((out / "results.json").read_text())["evaluations"][0]["numbers"] == numbers


def test_another_run_in_the_folder_is_refused(
    trained_run: Path, phantom_data: Path, small_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(phantom_data, small_clip, trained_run, "--training.adapter_lr", "0.01") == 2
    assert "holds another run, with other training.adapter_lr. Choose another --out" in capsys.readouterr().err
    assert train(phantom_data, small_clip, trained_run, "--draws", "0", "1") == 2
    assert "holds a single run, got several draws or seeds" in capsys.readouterr().err


def test_several_draws_and_seeds_from_a_file(
    phantom_data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "data": str(phantom_data), "target": "Brain", "architecture": str(small_clip), "shots": 1, "draws": [0, 7],
        "seeds": [1, 2], "epochs": 1, "bootstrap": 0, "heatmaps": 0, "settings": {"image_size": 56},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "mla", "--config", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 0
    folders = sorted(p.parent.name for p in (tmp_path / "out").glob("*/detector.json"))
    assert folders == ["draw-0-seed-1", "draw-0-seed-2", "draw-7-seed-1", "draw-7-seed-2"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(e["protocol"]["draw"], e["protocol"]["seed"]) for e in results["evaluations"]] == [
        (0, 1), (0, 2), (7, 1), (7, 2),
    ]  # fmt: skip
    assert results["evaluations"][2]["protocol"]["support"].startswith("drawn with seed 7")
    out = capsys.readouterr().out
    assert "mean ± standard deviation" in out
    assert "(n = 4)" in out
    mean = next(s for s in results["summary"] if s["metric"] == "image_auroc")
    assert mean["evaluations"] == [0, 1, 2, 3]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mean ± std of 4 runs" in page
    assert "Support: draw 0, seed 1: drawn with seed 0" in page


def test_zero_shot_learns_from_the_other_set(
    phantom_data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(phantom_data), "--target", "chestxray", "--architecture", str(small_clip), "--shots", "0"]
    out = tmp_path / "zero"
    assert main(["train", "mla", *words, *QUICK, "--method", "mvfa", "--out", str(out)]) == 0
    run = json.loads((out / "run.json").read_text())["run"]
    assert run["sources"] == {"Brain": [6, 10]}
    assert run["settings"]["object_name"] == "Chest X-ray film"
    assert run["draw"] is None
    protocol = json.loads((out / "results.json").read_text())["evaluations"][0]["protocol"]
    assert protocol["trained_on"] == "Brain"
    assert protocol["method"] == "mvfa"
    assert main(["train", "mla", *words, "--sources", "Chest"]) == 2
    assert "zero-shot training on Chest for Chest itself" in capsys.readouterr().err


def test_published_protocol_is_transductive_and_says_so(
    phantom_data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(phantom_data, small_clip, tmp_path / "p", "--profile", "published") == 0
    assert "the test set, as in the papers: optimistic" in capsys.readouterr().out.replace("\n", " ")
    protocol = json.loads((tmp_path / "p" / "results.json").read_text())["evaluations"][0]["protocol"]
    assert protocol["selection"] == "published"
    assert protocol["transductive"] is True
    assert protocol["mask_rule"] == "half"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere", "--target", "Brain"], "no such data folder.*wordsight data phantoms DIR"),
        (["--data", "DATA", "--target", "Knee"], "expected the name of a data set, got 'Knee'"),
        (["--data", "DATA", "--target", "Liver"], "Liver_AD: that folder holds Brain_AD, Chest_AD"),
        (["--data", "DATA", "--target", "Brain", "--shots", "9"], "expected at least 9 normal and 9 abnormal"),
        (["--data", "DATA", "--target", "Brain", "--shots", "-1"], "shots: expected 0 .zero-shot. or more, got -1"),
        (["--data", "DATA", "--target", "Brain", "--draws", "1", "1"], "draws: expected different whole numbers"),
        (
            ["--data", "DATA", "--target", "Brain", "--architecture", "ViT-L-14-336"],
            "looked for OpenAI's weights at .*CLIP.ckpt.ViT-L-14-336px.pt, found none. Download",
        ),
        (
            ["--data", "DATA", "--target", "Brain", "--architecture", "ViT-B-16"],
            "expected its trained weights, got none. Name their file with --weights",
        ),
        (["--data", "DATA", "--target", "Brain", "--weights", "no.pt"], "no.pt: no such weights file"),
        (["--data", "DATA", "--target", "Brain", "--threads", "0"], "threads: expected 1 or more, got 0"),
        (["--data", "DATA", "--target", "Brain", "--support", "no"], "looked for .*2-shot.txt"),
    ],
)
def test_train_says_what_is_missing(
    words: list[str],
    message: str,
    phantom_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(phantom_data) if word == "DATA" else word for word in words]
    given += [] if "--shots" in given else ["--shots", "2"]
    assert main(["train", "mla", *given]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_repeats_the_numbers_of_training(
    trained_run: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval"
    words = ["--data", str(phantom_data), "--bootstrap", "20", "--heatmaps", "1", "--out", str(out), "--batch", "3"]
    assert main(["evaluate", str(trained_run), *words]) == 0
    assert "Image AUROC" in capsys.readouterr().out
    old = json.loads((trained_run / "results.json").read_text())["evaluations"][0]
    new = json.loads((out / "results.json").read_text())["evaluations"][0]
    assert new["numbers"] == old["numbers"]
    assert new["data_hash"] == old["data_hash"]
    assert new["protocol"] == old["protocol"]
    assert len(list((out / "heatmaps").rglob("*.png"))) == 1


def test_evaluate_and_predict_in_another_precision(
    trained_run: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval"
    words = ["--data", str(phantom_data), "--bootstrap", "0", "--heatmaps", "0", "--out", str(out), "--device", "cpu"]
    assert main(["evaluate", str(trained_run), *words, "--precision", "bf16"]) == 0
    assert json.loads((out / "results.json").read_text())["evaluations"][0]["protocol"]["precision"] == "bf16"
    images(tmp_path / "in", 3)
    place = ["--model", str(trained_run), "--no-heatmaps", "--out", str(tmp_path / "bf16"), "--device", "cpu"]
    assert main(["predict", str(tmp_path / "in"), *place, "--precision", "bf16"]) == 0
    assert json.loads((tmp_path / "bf16" / "predictions.json").read_text())["run"]["precision"] == "bf16"
    capsys.readouterr()
    for command in (["evaluate", str(trained_run), *words], ["predict", str(tmp_path / "in"), *place]):
        assert main([*command, "--precision", "fp16"]) == 2
        assert "precision fp16 needs a CUDA device" in capsys.readouterr().err


def test_a_runtime_that_does_not_work_here_is_refused(
    trained_run: Path,
    phantom_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from wordsight.models import runtime

    def missing(kind: str) -> None:
        raise SettingsError(f"runtime compile: no compiler for {kind}")

    monkeypatch.setattr(runtime, "_try_to_compile", missing)
    images(tmp_path / "in", 2)
    place = ["--out", str(tmp_path / "out"), "--device", "cpu", "--runtime"]
    commands = (
        ["evaluate", str(trained_run), "--data", str(phantom_data)],
        ["predict", str(tmp_path / "in"), "--model"],
    )
    commands[1].append(str(trained_run))
    for command in commands:
        assert main([*command, *place, "compile"]) == 2
        assert "runtime compile: no compiler for cpu" in capsys.readouterr().err
        assert main([*command, *place, "quick"]) == 2


def test_evaluate_leaves_out_what_was_trained_on(
    trained_run: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = json.loads((trained_run / "run.json").read_text())["run"]["support"]
    for kind, label in (("good", "normal"), ("Ungood", "abnormal")):
        shutil.copytree(phantom_data / "Brain_AD" / "test" / kind / "img", tmp_path / "own" / label)
        for name in names[label]:
            shutil.copy(
                phantom_data / "Brain_AD" / "valid" / kind / "img" / name, tmp_path / "own" / label / f"v{name}"
            )
    words = ["--data", str(tmp_path / "own"), "--bootstrap", "0", "--heatmaps", "0"]
    assert main(["evaluate", str(trained_run), *words, "--out", str(tmp_path / "v")]) == 0
    assert "left out 4 images that it was trained on" in capsys.readouterr().err
    evaluation = json.loads((tmp_path / "v" / "results.json").read_text())["evaluations"][0]
    assert evaluation["counts"]["images"] == 6
    assert evaluation["protocol"]["left_out"] == "4 images that it was trained on"


def test_evaluate_on_a_pair_of_folders(trained_run: Path, phantom_data: Path, tmp_path: Path) -> None:
    for label, kind in (("normal", "good"), ("abnormal", "Ungood")):
        shutil.copytree(phantom_data / "Chest_AD" / "test" / kind / "img", tmp_path / "own" / label)
    out = tmp_path / "out"
    words = ["--data", str(tmp_path / "own"), "--bootstrap", "0", "--out", str(out)]
    assert main(["evaluate", str(trained_run), *words]) == 0
    evaluation = json.loads((out / "results.json").read_text())["evaluations"][0]
    assert evaluation["dataset"] == "own"
    assert evaluation["counts"]["images"] == 6
    assert set(evaluation["numbers"]) == {"image_auroc", "image_ap"}


def test_evaluate_inside_regions_by_patient(
    trained_run: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organs = tmp_path / "organs"
    organs.mkdir()
    half = np.zeros((240, 240), np.uint8)
    half[:, :120] = 1
    for image in (phantom_data / "Brain_AD" / "test").glob("*/img/*.png"):
        with Pil.open(image) as opened:
            Pil.fromarray(half).resize(opened.size, Pil.Resampling.NEAREST).save(organs / image.name)
    words = ["evaluate", str(trained_run), "--bootstrap", "20", "--heatmaps", "0", "--out", str(tmp_path / "out")]
    more = ["--regions", str(organs), "--patient-pattern", r"^\d*(\d)\."]
    assert main([*words, "--data", str(phantom_data), *more]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["evaluations"][0]
    assert 0 <= found["numbers"]["region_auroc"]["value"] <= 1
    assert found["numbers"]["region_auroc"] != found["numbers"]["pixel_auroc"]
    assert "patients" in found["interval"]
    assert {row["group"] for row in table(tmp_path / "out" / "predictions.csv")} <= set("0123456789")
    capsys.readouterr()
    assert main([*words, "--data", str(phantom_data / "Brain_AD"), *more]) == 2
    assert "expected a folder of sets (<Name>_AD) with --regions and --patient-pattern" in capsys.readouterr().err


def test_evaluate_needs_a_run(phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "none"), "--data", str(phantom_data)]) == 2
    assert "no such run folder. Train one with `wordsight train mla`" in capsys.readouterr().err
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "state.pt").write_bytes(b"")
    assert main(["evaluate", str(tmp_path / "started"), "--data", str(phantom_data)]) == 2
    assert "it goes on where it stopped" in capsys.readouterr().err


def images(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Pil.fromarray(rng.integers(0, 256, (40 + i, 70), dtype=np.uint8)).save(folder / f"{i}.png")


def test_predict_goes_on_after_unreadable_files(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "in", 5)
    whole = (tmp_path / "in" / "0.png").read_bytes()
    (tmp_path / "in" / "broken.png").write_bytes(whole[:200])
    out = tmp_path / "out"
    words = ["predict", str(tmp_path / "in"), "--model", str(trained_run), "--batch", "2", "--out", str(out)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "1 images could not be read:" in captured.err
    assert "broken.png: expected a readable PNG file" in captured.err
    assert f"report: {out / 'report.html'}" in captured.out
    rows = table(out / "predictions.csv")
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(5)]
    for i, row in enumerate(rows):
        with Pil.open(out / row["heatmap"]) as drawn:
            assert drawn.size == (70, 40 + i)
    failures = json.loads((out / "predictions.json").read_text())["failures"]
    assert [Path(f["path"]).name for f in failures] == ["broken.png"]


def test_predict_gives_each_image_its_own_score(trained_run: Path, tmp_path: Path) -> None:
    images(tmp_path / "in", 3)
    run = ["--model", str(trained_run), "--no-heatmaps"]
    assert main(["predict", str(tmp_path / "in"), *run, "--out", str(tmp_path / "all")]) == 0
    assert main(["predict", str(tmp_path / "in" / "1.png"), *run, "--out", str(tmp_path / "one")]) == 0
    many = table(tmp_path / "all" / "predictions.csv")
    one = table(tmp_path / "one" / "predictions.csv")
    assert float(many[1]["abnormal"]) == pytest.approx(float(one[0]["abnormal"]), abs=1e-5)
    assert not (tmp_path / "all" / "heatmaps").exists()


def test_predict_without_any_readable_image(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "in", 1)
    file = tmp_path / "in" / "0.png"
    file.write_bytes(file.read_bytes()[:200])
    assert main(["predict", str(file), "--model", str(trained_run), "--out", str(tmp_path / "out")]) == 2
    assert "none of 1 images could be read; the first: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["predict", str(tmp_path / "no.png"), "--model", str(trained_run)]) == 2
    assert "no.png: no such file or folder" in capsys.readouterr().err


def test_predict_wants_one_detector(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("draw-0", "draw-1"):
        shutil.copytree(trained_run, tmp_path / "runs" / name)
    assert main(["predict", str(tmp_path), "--model", str(tmp_path / "runs")]) == 2
    assert "holds several detectors (draw-0, draw-1)" in capsys.readouterr().err


def test_report_is_written_again(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert page.read_text() == before
    assert "Image AUROC" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 2
    assert "results.json: no such file" in capsys.readouterr().err


def test_data_phantoms_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "p"
    words = ["--sets", "Brain", "--valid", "2", "--test", "1", "--workers", "1"]
    assert main(["data", "phantoms", str(folder), *words]) == 0
    out = capsys.readouterr().out
    assert "Brain: 6 images" in out
    assert f"wordsight train mla --data {folder} --target Brain" in out
    assert main(["data", "phantoms", str(folder), *words, "--seed", "1"]) == 2
    assert "holds other phantoms" in capsys.readouterr().err
    assert main(["data", "phantoms", str(folder), "--sets", "Knee"]) == 2
    assert "phantom sets: expected some of Brain" in capsys.readouterr().err
    assert main(["data", "inspect", str(folder), "--out", str(tmp_path / "data.json")]) == 0
    out = capsys.readouterr().out
    assert "240 x 240" in out
    assert json_of(tmp_path / "data.json")["Brain"]["records"] == 6  # type: ignore[index]
    assert main(["data", "inspect", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_inspect_prints_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "in", 2)
    shutil.copy(tmp_path / "in" / "0.png", tmp_path / "in" / "copy.png")
    assert main(["data", "inspect", str(tmp_path / "in")]) == 0
    assert "warning: 1 groups of images have equal pixels" in capsys.readouterr().out


def test_convert_to_and_fro(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, ours, again = tmp_path / "a.pth", tmp_path / "b.safetensors", tmp_path / "c.pth"
    assert main(["convert", str(trained_run), str(published)]) == 0
    captured = capsys.readouterr()
    assert "mla: 18 tensors" in captured.out
    assert "prompt_learner.ctx.normal_end: 10 x 8 x 32" in captured.out
    assert "activation=weights, causal_text=True, normalize=True" in captured.err
    assert "which a published file does not store" in captured.err
    assert main(["convert", str(published), str(ours)]) == 0
    assert main(["convert", str(ours), str(again)]) == 0
    from wordsight.models.mla.weights import read_published

    first, last = read_published(published).flat(), read_published(again).flat()
    assert list(first) == list(last)
    assert all(first[name].equal(last[name]) for name in first)
    capsys.readouterr()
    assert main(["convert", str(ours), str(again)]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert main(["convert", str(ours), str(tmp_path / "d.onnx")]) == 2
    assert "expected a name that ends in .safetensors" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "none.pth"), str(tmp_path / "d.pth")]) == 2
    assert "none.pth: no such file" in capsys.readouterr().err


def test_convert_makes_a_run_that_works(
    trained_run: Path, small_clip: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(trained_run), str(tmp_path / "a.pth")]) == 0
    out = tmp_path / "run"
    backbone = ["--architecture", str(small_clip), "--device", "cpu"]
    support = ["--data", str(phantom_data), "--target", "brain", "--shots", "2"]
    assert main(["convert", str(tmp_path / "a.pth"), str(out), *backbone, *support]) == 0
    assert "a memory bank of 2 normal images" in capsys.readouterr().out
    words = ["--data", str(phantom_data), "--bootstrap", "0", "--heatmaps", "0"]
    assert main(["evaluate", str(out), *words, "--out", str(tmp_path / "e")]) == 0
    protocol = json.loads((tmp_path / "e" / "results.json").read_text())["evaluations"][0]["protocol"]
    assert protocol["support"] == "list Brain/2-shot.txt, draw 0"
    assert protocol["scale"] == "support"
    assert main(["convert", str(tmp_path / "a.pth"), str(out), *backbone]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "x"), "--data", str(phantom_data)]) == 2
    assert "which needs --architecture too" in capsys.readouterr().err


def test_demo_writes_a_report(small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wordsight.study.showcase import demo

    study = demo(tmp_path / "d", architecture=str(small_clip), sets=("Brain",), epochs=0, counts=(5, 3), say=print)
    assert [e.dataset for e in study.evaluations] == ["Brain"]
    assert study.report == tmp_path / "d" / "report.html"
    assert study.report.is_file()
    assert "drawing 1 sets of synthetic images" in capsys.readouterr().out
