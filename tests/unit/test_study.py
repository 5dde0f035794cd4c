"""The library behind the commands: plans, folders, resuming, what is refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from study_tools import QUICK
from wordsight.cli.main import main
from wordsight.data import benchmark_records, write_support_file
from wordsight.errors import DataError, SettingsError, WeightsError
from wordsight.models.mla.settings import MlaSettings
from wordsight.study import EvaluateOptions, TrainOptions, convert, evaluate_study, train_study
from wordsight.study.backbone import find_weights
from wordsight.study.checkpoints import RunOptions, compare, convert_to_run, read_adapters
from wordsight.study.folders import check_folder, check_parent, detector_folders, differences, read_run, write_run
from wordsight.study.plan import find_support, place, plan_runs
from wordsight.study.target import check_files
from wordsight.train.recipes import recipe
from wordsight.train.settings import MlaTraining
from wordsight.types import Record


def quick(data: Path, clip: Path, out: Path, **more: Any) -> TrainOptions:
    given: dict[str, Any] = {
        "shots": 2, "architecture": str(clip), "settings": {"image_size": 56}, "bootstrap": 0, "heatmaps": 0,
        "training": {"epochs": 1, "device": "cpu"},
    }  # fmt: skip
    return TrainOptions("Brain", data, out, **{**given, **more})


# -- recipes and options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mla", "mvfa"])
@pytest.mark.parametrize("shots", [0, 4])
def test_recipes(method: Any, shots: int) -> None:
    settings, training = recipe("published", method, shots, "ViT-L-14-336", target="Chest")
    wanted = MlaSettings.published() if method == "mla" else MlaSettings.mvfa("Chest X-ray film")
    assert settings == wanted
    assert training == MlaTraining.published(method, shots)
    for profile in ("corrected", "default", "fast"):
        settings, training = recipe(profile, method, shots, "tiny", target="Knee")  # type: ignore[arg-type]
        assert training.protocol == "validation"
        assert training.mask_rule == "any"
        assert settings.normalize
        assert settings.object_name == ("" if method == "mla" else "Knee")
        assert (settings.mix == 0) == (profile == "fast")


def test_recipe_refuses_unknown_names() -> None:
    with pytest.raises(SettingsError, match="expected a profile of default, fast, published, corrected"):
        recipe("best", "mla", 4, "tiny")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="shots: expected 0"):
        recipe("default", "mla", -1, "tiny")


def test_options_are_checked() -> None:
    with pytest.raises(SettingsError, match="seeds: expected different whole numbers from 0, got"):
        TrainOptions("Brain", seeds=(1, 1))
    with pytest.raises(SettingsError, match=r"settings: unknown size\. Known are "):
        TrainOptions("Brain", settings={"size": 3})
    with pytest.raises(SettingsError, match="training: unknown lr"):
        TrainOptions("Brain", training={"lr": 3})
    with pytest.raises(SettingsError, match="training seed: expected it among `seeds`"):
        TrainOptions("Brain", training={"seed": 3})


def test_default_folder() -> None:
    assert TrainOptions("x").folder("Retina_RESC") == Path("runs/retina_resc-4shot")
    assert TrainOptions("x", method="mvfa", shots=0).folder("Brain") == Path("runs/brain-0shot-mvfa")
    assert TrainOptions("x", out=Path("o")).folder("Brain") == Path("o")


# -- plans -----------------------------------------------------------------------------------------------------------


def test_places_of_runs() -> None:
    root = Path("r")
    assert place(root, [(0, 1)], 0, 1) == root
    assert place(root, [(0, 1), (2, 1)], 2, 1) == root / "draw-2"
    assert place(root, [(0, 1), (0, 2)], 0, 2) == root / "draw-0-seed-2"
    assert place(root, [(None, 1), (None, 2)], None, 2) == root / "seed-2"


def test_support_comes_from_lists_where_they_have_the_draw(phantom_data: Path, tmp_path: Path) -> None:
    valid = benchmark_records(phantom_data, "Brain", "valid")
    auto = TrainOptions("Brain", phantom_data, shots=2)
    assert find_support(auto, "Brain", 4, valid).origin == "list Brain/2-shot.txt, draw 4"
    assert find_support(auto, "Brain", 5, valid).origin.startswith("drawn with seed 5")
    random = TrainOptions("Brain", phantom_data, shots=2, support="random")
    assert find_support(random, "Brain", 4, valid).origin.startswith("drawn with seed 4")
    write_support_file(tmp_path / "lists" / "Brain" / "2-shot.txt", {0: (["0000.png", "0001.png"],) * 2})
    named = TrainOptions("Brain", phantom_data, shots=2, support=str(tmp_path / "lists"))
    assert [r.name for r in find_support(named, "Brain", 0, valid).normal] == ["0000.png", "0001.png"]
    with pytest.raises(DataError, match="no draw 1"):
        find_support(named, "Brain", 1, valid)


def test_lists_beside_the_working_directory_are_found(
    phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantom_data / "Brain_AD", tmp_path / "data" / "Brain_AD")
    shutil.copytree(phantom_data / "fewshot_seed", tmp_path / "dataset" / "fewshot_seed")
    monkeypatch.chdir(tmp_path)
    valid = benchmark_records(Path("data"), "Brain", "valid")
    found = find_support(TrainOptions("Brain", Path("data"), shots=2), "Brain", 0, valid)
    assert found.origin == "list Brain/2-shot.txt, draw 0"


def test_selection_never_holds_support_or_test_images(phantom_data: Path) -> None:
    options = TrainOptions("Brain", phantom_data, shots=2)
    (run,) = plan_runs(options, "Brain", MlaTraining())
    assert run.support is not None
    support = {record.path for record in run.support.records}
    chosen = {record.path for record in run.selection}
    assert chosen
    assert not chosen & support
    assert all("valid" in path.parts for path in chosen)
    assert run.test == ()
    (run,) = plan_runs(options, "Brain", MlaTraining(protocol="published"))
    assert run.selection == ()
    assert all("test" in record.path.parts for record in run.test)
    assert len(run.test) == 6


def test_what_describes_a_run_follows_the_data(phantom_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_data, data)

    def described() -> dict[str, Any]:
        (run,) = plan_runs(TrainOptions("Brain", data, shots=2), "Brain", MlaTraining())
        return run.describe(MlaSettings(), MlaTraining())

    first = described()
    assert first == described()
    named = first["support"]["normal"][0]
    shutil.copy(data / "Brain_AD/test/good/img/0000.png", data / "Brain_AD/valid/good/img" / named)
    assert differences(first, described()) == ["support.hashes", "training_data_hash"]


def test_zero_shot_without_other_sets(phantom_data: Path, tmp_path: Path) -> None:
    shutil.copytree(phantom_data / "Brain_AD", tmp_path / "Brain_AD")
    with pytest.raises(DataError, match="zero-shot training of Brain needs at least one other set"):
        plan_runs(TrainOptions("Brain", tmp_path, shots=0), "Brain", MlaTraining())


# -- folders ---------------------------------------------------------------------------------------------------------


def test_folders_of_other_runs_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": 1, "b": {"c": (1, 2)}}, {})
    check_folder(tmp_path, {"a": 1, "b": {"c": (1, 2)}})
    with pytest.raises(SettingsError, match=r"holds another run, with other a, b\.c"):
        check_folder(tmp_path, {"a": 2, "b": {"c": [1]}})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="expected the description of a run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 9, "run": {}}')
    with pytest.raises(DataError, match="expected schema 1, got 9"):
        read_run(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "detector.json").write_text("{}")
    with pytest.raises(SettingsError, match="holds a detector that no training with these settings left there"):
        check_folder(tmp_path, {})


def test_a_carzero_is_sent_to_predict_and_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wordsight.models.carzero.storage import CARD

    (tmp_path / CARD).write_text("{}")
    write_run(tmp_path, {}, {})
    assert main(["evaluate", str(tmp_path), "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "got a CARZero (carzero.json inside), which is measured by its predictions: `wordsight predict" in err
    assert "train mla" not in err


def test_single_runs_and_several_do_not_share_a_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "study" / "draw-10", {}, {})
    write_run(tmp_path / "study" / "draw-2", {}, {})
    check_parent(tmp_path / "study", several=True)
    with pytest.raises(SettingsError, match="holds several draws or seeds, got a single run"):
        check_parent(tmp_path / "study", several=False)
    with pytest.raises(WeightsError, match="expected a trained detector"):
        detector_folders(tmp_path / "study")
    for name in ("draw-10", "draw-2"):
        (tmp_path / "study" / name / "detector.json").write_text("{}")
    assert [p.name for p in detector_folders(tmp_path / "study")] == ["draw-2", "draw-10"]


# -- training --------------------------------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on(
    phantom_data: Path, small_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordsight.models.mla.weights import read_safetensors
    from wordsight.train import run as training

    where = ["--data", str(phantom_data), "--target", "Chest", "--architecture", str(small_clip), "--shots", "2"]
    words = ["train", "mla", *where, *QUICK, "--epochs", "3", "--draws", "0", "1", "--no-evaluate"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    save, calls = training.save_state, []

    def interrupt(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        calls.append(path.parent.name)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", interrupt)
        assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert calls == ["draw-0"] * 3 + ["draw-1"] * 2
    cut = tmp_path / "cut"
    assert (cut / "draw-0" / "detector.json").is_file()
    assert (cut / "draw-1" / "state.pt").is_file()
    assert not (cut / "draw-1" / "detector.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", lambda path, state: calls.append((path.parent.name, state["epoch"])))
        assert main([*words, "--out", str(cut)]) == 0
    assert calls[5:] == [("draw-1", 3)]
    assert not (cut / "draw-1" / "state.pt").exists()
    for draw in ("draw-0", "draw-1"):
        ends = [
            read_safetensors(tmp_path / name / draw / "adapters.safetensors")[0].flat() for name in ("whole", "cut")
        ]
        assert all(ends[0][key].equal(ends[1][key]) for key in ends[0])


def test_nothing_is_written_when_a_later_run_would_fail(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out / "draw-1", {"other": 1}, {})
    with pytest.raises(SettingsError, match="draw-1: holds another run"):
        train_study(quick(phantom_data, small_clip, out, draws=(0, 1)))
    assert not (out / "draw-0").exists()


def test_without_evaluation_there_is_no_report(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    study = train_study(quick(phantom_data, small_clip, tmp_path / "out", evaluate=False))
    assert study.evaluations == ()
    assert study.report is None
    assert (study.folder / "detector.json").is_file()
    assert not (study.folder / "results.json").exists()


def test_levels_are_quarters_unless_given(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    options = quick(phantom_data, small_clip, tmp_path / "o", settings={"image_size": 56, "levels": (2, 3)})
    train_study(options)
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert run["run"]["settings"]["levels"] == [2, 3]
    assert run["options"]["settings"] == {"image_size": 56, "levels": [2, 3]}


def test_training_can_start_from_a_checkpoint(
    phantom_data: Path, small_clip: Path, trained_run: Path, tmp_path: Path
) -> None:
    options = quick(
        phantom_data, small_clip, tmp_path / "o", initial=trained_run, evaluate=False,
        training={"epochs": 0, "device": "cpu", "protocol": "last"},
    )  # fmt: skip
    train_study(options)
    compare(read_adapters(trained_run)[0], read_adapters(tmp_path / "o")[0], tmp_path)
    assert read_run(tmp_path / "o")["run"]["initial"] == str(trained_run)  # type: ignore[index]
    with pytest.raises(WeightsError, match="expected a run folder"):
        train_study(quick(phantom_data, small_clip, tmp_path / "p", initial=tmp_path))


# -- evaluation and conversion ---------------------------------------------------------------------------------------


def test_evaluation_folders_and_errors(phantom_data: Path, trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    run = tmp_path / "run"
    quickly: dict[str, Any] = {"bootstrap": 0, "heatmaps": 0, "device": "cpu"}
    study = evaluate_study(EvaluateOptions((run,), phantom_data, **quickly))
    assert study.folder == run
    study = evaluate_study(EvaluateOptions((run,), phantom_data, "ChestXray", **quickly))
    assert study.folder == run / "evaluation-chest-test"
    assert study.evaluations[0].dataset == "Chest"
    study = evaluate_study(
        EvaluateOptions((run, run), phantom_data, out=tmp_path / "two", transductive=True, **quickly)
    )
    assert [e.protocol["transductive"] for e in study.evaluations] == [True, True]
    (tmp_path / "list").mkdir()
    images = sorted((phantom_data / "Brain_AD" / "test").glob("*/img/*.png"))
    rows = [f"{image},{int('Ungood' in image.parts)}" for image in images]
    (tmp_path / "list" / "table.csv").write_text("\n".join(["path,label", *rows]))
    listed = EvaluateOptions((run,), tmp_path / "list" / "table.csv", out=tmp_path / "listed", **quickly)
    with pytest.raises(DataError, match="--allow-outside"):
        evaluate_study(listed)
    assert evaluate_study(replace(listed, allow_outside=True)).evaluations[0].dataset == "table"
    with pytest.raises(SettingsError, match="expected at least one run folder"):
        evaluate_study(EvaluateOptions((), phantom_data))
    (run / "run.json").unlink()
    with pytest.raises(
        DataError, match=r"expected the name of the set \(--target\), got none\. Sets there: Brain, Chest"
    ):
        evaluate_study(EvaluateOptions((run,), phantom_data))


def test_nothing_but_training_images_to_evaluate(phantom_data: Path, trained_run: Path, tmp_path: Path) -> None:
    run = read_run(trained_run)
    assert run is not None
    for kind, key in (("normal", "normal"), ("abnormal", "abnormal")):
        source = phantom_data / "Brain_AD" / "valid" / ("good" if kind == "normal" else "Ungood") / "img"
        (tmp_path / "own" / kind).mkdir(parents=True)
        for name in run["run"]["support"][key]:
            shutil.copy(source / name, tmp_path / "own" / kind / f"copy-{name}")
    options = EvaluateOptions(
        (trained_run,), tmp_path / "own", out=tmp_path / "o", device="cpu", heatmaps=0, bootstrap=0
    )
    with pytest.raises(DataError, match="nothing is left of 4 images without 4 images that it was trained on"):
        evaluate_study(options)
    for kind in ("good", "Ungood"):
        source = phantom_data / "Brain_AD" / "test" / kind / "img" / "0000.png"
        shutil.copy(source, tmp_path / "own" / ("normal" if kind == "good" else "abnormal") / "new.png")
    study = evaluate_study(options)
    assert sorted(study.evaluations[0].names) == ["abnormal/new.png", "normal/new.png"]
    assert study.evaluations[0].protocol["left_out"] == "4 images that it was trained on"
    valid = EvaluateOptions((trained_run,), phantom_data, split="valid", out=tmp_path / "v", device="cpu", heatmaps=0)
    (evaluation,) = evaluate_study(replace(valid, bootstrap=0)).evaluations
    assert evaluation.protocol["left_out"] == "4 images that it was trained on and 2 images that it was chosen by"
    assert len(evaluation.names) == 4, "twins by name, which neither training nor selection looked at"


def test_zero_shot_runs_are_not_measured_on_their_sources(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_study(quick(phantom_data, small_clip, run, shots=0, evaluate=False))
    seen = json.loads((run / "run.json").read_text())["seen"]
    assert [len(seen["trained"]), len(seen["chosen"])] == [6, 10]
    asked: dict[str, Any] = {"bootstrap": 0, "heatmaps": 0, "device": "cpu", "out": tmp_path / "o"}
    with pytest.raises(DataError, match="nothing is left of 6 images without 6 images that it was trained on"):
        evaluate_study(EvaluateOptions((run,), phantom_data, "Chest", **asked))
    with pytest.raises(DataError, match="nothing is left of 10 images without 10 images that it was chosen by"):
        evaluate_study(EvaluateOptions((run,), phantom_data, "Chest", split="valid", **asked))
    assert len(evaluate_study(EvaluateOptions((run,), phantom_data, "Brain", **asked)).evaluations[0].names) == 6
    stored = json.loads((run / "run.json").read_text())
    del stored["seen"]
    (run / "run.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="was trained on images of Chest, and does not say on which"):
        evaluate_study(EvaluateOptions((run,), phantom_data, "Chest", **asked))


def test_draws_leave_out_the_same_images_and_have_a_mean(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    options = quick(phantom_data, small_clip, tmp_path / "runs", shots=1, draws=(0, 1, 2), evaluate=False)
    train_study(replace(options, training={**options.training, "protocol": "last"}))
    asked = EvaluateOptions((tmp_path / "runs",), phantom_data, split="valid", bootstrap=0, heatmaps=0, device="cpu")
    study = evaluate_study(replace(asked, out=tmp_path / "o"))
    supports = [read_run(tmp_path / "runs" / f"draw-{n}")["run"]["support"]["hashes"] for n in range(3)]  # type: ignore[index]
    union = {content for hashes in supports for content in hashes}
    assert len(union) > 2
    assert [len(e.names) for e in study.evaluations] == [10 - len(union)] * 3
    assert study.notes == (f"left out {len(union)} images that one of the 3 runs was trained on",)
    summary = json.loads((tmp_path / "o" / "results.json").read_text())["summary"]
    assert [s["evaluations"] for s in summary if s["metric"] == "image_auroc"] == [[0, 1, 2]]


def test_weights_are_looked_for_where_the_published_code_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CLIP" / "ckpt").mkdir(parents=True)
    (tmp_path / "CLIP" / "ckpt" / "ViT-L-14-336px.pt").write_bytes(b"x")
    for name in ("ViT-L-14-336", "ViT-L/14@336px"):
        assert find_weights(name, None) == Path("CLIP/ckpt/ViT-L-14-336px.pt")
    assert find_weights("tiny", None) is None


def test_mvfa_checkpoints_need_their_object(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    options = quick(phantom_data, small_clip, tmp_path / "run", method="mvfa", profile="published", evaluate=False)
    train_study(options)
    made = convert(tmp_path / "run", tmp_path / "a.pth")
    assert made.method == "mvfa"
    assert made.parameters == 4 * 4 * 24 * 32
    with pytest.raises(SettingsError, match="an MVFA checkpoint has no prompts of its own"):
        convert_to_run(tmp_path / "a.pth", tmp_path / "b", RunOptions(str(small_clip)))
    with pytest.raises(SettingsError, match="give both --data and --target"):
        convert_to_run(
            tmp_path / "a.pth", tmp_path / "b", RunOptions(str(small_clip), data=phantom_data, object_name="Brain")
        )


def test_files_are_checked_by_processes_as_by_one(tmp_path: Path) -> None:
    records = []
    for number in range(36):
        path, mask = tmp_path / f"{number:02d}.png", tmp_path / f"{number:02d}-mask.png"
        for file in (path, mask):
            Pillow.new("L", (12, 10), number).save(file)
        records.append(Record(path, 1, mask))
    check_files(records, workers=2)
    for file in (records[3].path, records[9].mask, records[30].path):
        assert file is not None
        file.write_bytes(file.read_bytes()[:40])
    said = []
    for workers in (0, 2):
        with pytest.raises(DataError, match="expected images and masks that can be read, got 3 that cannot:") as error:
            check_files(records, workers)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert [line.split("/")[-1].split(":")[0] for line in said[0].splitlines()[1:]] == [
        "03.png",
        "09-mask.png",
        "30.png",
    ]
