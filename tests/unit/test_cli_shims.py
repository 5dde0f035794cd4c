"""The published commands as users of the published code type them, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shim(script: str, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the project's root from another working directory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / script), *words]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("script", ["train_few.py", "train_zero.py"])
def test_without_weights_it_says_where_to_put_them(script: str, phantom_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(phantom_data)
    few = ["--shot", "2"] if script == "train_few.py" else []
    done = shim(script, tmp_path, "--obj", "BrainMRI", *few)
    assert done.returncode == 2
    assert "model chosen by validation images (honest; the papers chose the best epoch on the test set" in done.stderr
    assert f"looked for OpenAI's weights at {tmp_path / 'CLIP/ckpt/ViT-L-14-336px.pt'}, found none" in done.stderr
    assert "Traceback" not in done.stderr


def test_few_shot_with_every_published_flag(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    words = "--obj ChestXray --shot 2 --iterate -1 --batch_size 4 --epoch 1 --learning_rate 1e-3 --seed 5 --img_size 56"
    more = ["--model_name", str(small_clip), "--data_path", str(phantom_data), "--save_path", "ckpt/few-shot"]
    published = ["--protocol", "published", "--features_list", "1", "2", "4", "--device", "cpu"]
    done = shim("train_few.py", tmp_path, *words.split(), *more, *published)
    assert done.returncode == 0, done.stderr
    assert "scores scaled over the test set, as in the papers: optimistic" in done.stderr
    out = tmp_path / "runs" / "chest-2shot-published-published"
    run = json.loads((out / "run.json").read_text())["run"]
    assert run["settings"]["levels"] == [1, 2, 4]
    assert run["settings"]["activation"] == "gelu"
    assert run["training"]["batch_size"] == 4
    assert run["training"]["adapter_lr"] == 1e-3
    assert run["seed"] == run["draw"] == 5
    assert run["support"]["origin"].startswith("drawn with seed 5")
    from wordsight.models.mla.weights import read_published

    assert len(read_published(tmp_path / "ckpt" / "few-shot" / "Chest.pth").flat()) == 14


def test_zero_shot_goes_on_from_a_checkpoint(
    phantom_data: Path, small_clip: Path, trained_run: Path, tmp_path: Path
) -> None:
    from wordsight.study import convert

    start = convert(trained_run, tmp_path / "start.pth").target
    words = ["--obj", "Chest", "--epoch", "0", "--img_size", "56", "--protocol", "last", "--device", "cpu"]
    more = ["--model_name", str(small_clip), "--data_path", str(phantom_data), "--continue_path", str(start)]
    done = shim("train_zero.py", tmp_path, *words, *more, "--ckpt_path", "ckpt")
    assert done.returncode == 0, done.stderr
    assert "the last epoch" in done.stderr
    from wordsight.models.mla.weights import read_published

    first, last = read_published(start).flat(), read_published(tmp_path / "ckpt" / "Chest.pth").flat()
    assert all(first[name].equal(last[name]) for name in first)


def test_wrong_flags_and_names(phantom_data: Path, tmp_path: Path) -> None:
    done = shim("train_zero.py", tmp_path, "--obj", "Liver", "--shot", "4")
    assert done.returncode == 2
    assert "unrecognized arguments: --shot 4" in done.stderr
    done = shim("train_few.py", tmp_path, "--obj", "Knee", "--data_path", str(phantom_data))
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected the name of a data set, got 'Knee'")
