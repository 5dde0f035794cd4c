"""`wordsight train carzero`: a run from a table to `load`, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight import CarZero, load
from wordsight.cli.main import main
from wordsight.data.phantoms import write_report_phantoms
from wordsight.errors import SettingsError
from wordsight.models.carzero.storage import save_folder
from wordsight.study import CarZeroOptions

QUICK = [
    "--epochs", "1", "--workers", "0", "--device", "cpu", "--training.batch_sizes", "[[0, 8]]",
    "--training.valid_batch", "6", "--training.captions_per_image", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_report_phantoms(folder, train=16, valid=6, seed=4, size=96, workers=1)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CARZero to begin with."""
    folder = tmp_path_factory.mktemp("carzero")
    save_folder(folder / "start", make_carzero(), text_folder(folder / "text"), {"finished": True})
    return folder / "start"


def command(manifest: Path, out: Path, *more: object) -> list[str]:
    return ["train", "carzero", "--manifest", str(manifest), "--out", str(out), *QUICK, *map(str, more)]


def test_a_run_is_trained_loaded_and_not_trained_again(
    manifest: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(manifest, tmp_path / "run", "--initial", begun)) == 0
    captured = capsys.readouterr()
    assert "epoch 1/1: loss" in captured.err
    assert "16 images to learn from, 6 to judge by (split valid of the table)" in captured.err
    assert f"folder: {tmp_path / 'run'}" in captured.out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["run"]["recipe"] == "corrected"
    assert run["run"]["training"]["batch_sizes"] == [[0, 8]]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.json", "carzero.json", "weights.safetensors", "text"}
    detector = load(tmp_path / "run")
    assert isinstance(detector, CarZero)
    assert detector.weights_hash != load(begun).weights_hash
    assert main(command(manifest, tmp_path / "run", "--initial", begun)) == 0
    assert "epoch 1/1: loss" not in capsys.readouterr().err
    assert load(tmp_path / "run").weights_hash == detector.weights_hash
    assert main(command(manifest, tmp_path / "run", "--initial", begun, "--seed", "5")) == 2
    assert "holds another run, with other training.seed" in capsys.readouterr().err


def test_captions_from_a_column_of_the_table(
    manifest: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(manifest, tmp_path / "run", "--initial", begun, "--epochs", "0")
    assert main([*words, "--captions-column", "prompts"]) == 2
    assert "expected a column `prompts`, got columns path, report" in capsys.readouterr().err
    assert main([*words, "--captions-column", "report"]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["options"]["captions_column"] == "report"
    assert main(words) == 2
    assert "holds another run, with other data" in capsys.readouterr().err


def test_a_network_of_its_own_begins_with_the_weights_it_is_given(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_folder(tmp_path / "text")
    other = make_carzero(7)
    save_file({k: v.contiguous() for k, v in other.text_encoder.model.state_dict().items()}, text / "model.safetensors")
    vit = {f"vision_encoder.{k}": v.contiguous() for k, v in other.img_encoder.model.state_dict().items()}
    save_file(vit, tmp_path / "m3ae.safetensors")
    settings = tmp_path / "network.json"
    settings.write_text(json.dumps(SETTINGS.to_json()))
    chosen = ["--text", text, "--network", settings, "--image-start", tmp_path / "m3ae.safetensors"]
    out = tmp_path / "run"
    assert main(command(manifest, out, *chosen, "--recipe", "published", "--training.lr", "1e-12")) == 0
    trained = load(out).network
    assert trained.settings == SETTINGS
    for name, value in other.img_encoder.state_dict().items():
        assert (trained.img_encoder.state_dict()[name] - value).abs().max() < 1e-6
    key = "encoder.layer.0.output.dense.weight"
    difference = trained.text_encoder.model.state_dict()[key] - other.text_encoder.model.state_dict()[key]
    assert difference.abs().max() < 1e-6
    capsys.readouterr()
    (text / "model.safetensors").unlink()
    assert main(command(manifest, tmp_path / "b", *chosen)) == 2
    assert "expected the weights of a BERT" in capsys.readouterr().err
    random = ["--text", text, "--network", settings, "--no-text-start"]
    assert main(command(manifest, tmp_path / "c", *random)) == 0
    assert "image encoder and the text encoder began at random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "text: expected the folder of a BERT"),
        (["--text", "nowhere"], "expected a folder with a BERT tokenizer"),
        (["--initial", "nowhere.ckpt"], "nowhere.ckpt: expected a weights file, found none"),
        (["--initial", "nowhere.ckpt", "--image-start", "x"], "got both"),
        (["--recipe", "best"], "best"),
        (["--initial", "tiny", "--training.flip", "2"], "shares in"),
        (["--initial", "tiny", "--devices", "3"], "expected multiples of 3 devices"),
    ],
)
def test_wrong_options_are_one_line_and_exit_with_2(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(command(manifest, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("error: ")


def test_evaluate_and_weights_without_their_text_are_refused(
    manifest: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(begun), "--data", str(manifest.parent)]) == 2
    assert "expected a run of MLA-LP or MVFA, got a CARZero" in capsys.readouterr().err
    assert main(command(manifest, tmp_path / "run", "--initial", begun / "weights.safetensors")) == 2
    assert "(command line: --text), got none. A run folder brings its own" in capsys.readouterr().err


def test_a_folder_that_holds_a_network_already_is_refused(
    manifest: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(manifest, begun, "--initial", begun)) == 2
    assert "holds a CARZero that no training with these settings left there" in capsys.readouterr().err


def test_a_network_file_that_is_none_is_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_folder(tmp_path / "text")
    assert main(command(manifest, tmp_path / "run", "--text", text, "--network", "mlp_lg")) == 2
    assert "network: expected one of global, local, gl, mlp_gl or a JSON file" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[1]")
    words = ["--text", text, "--network", tmp_path / "list.json"]
    assert main(command(manifest, tmp_path / "run", *words)) == 2
    assert "or a JSON file of settings, got " in capsys.readouterr().err


def test_options_name_what_they_do_not_know() -> None:
    with pytest.raises(SettingsError, match=r"training: unknown learning_rate\. Known are batch_sizes"):
        CarZeroOptions(Path("a.csv"), Path("out"), initial=Path("x"), training={"learning_rate": 1.0})
    with pytest.raises(SettingsError, match="got both"):
        replace(CarZeroOptions(Path("a.csv"), Path("out"), initial=Path("x")), image_start=Path("y"))
