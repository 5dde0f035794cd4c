"""The commands with --device cuda and auto (a pretended device): the files they write are those of the CPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from pretend_cuda import Card, pretended_cuda
from study_tools import QUICK
from test_cli_train_carzero import QUICK as REPORTS
from test_cli_train_carzero import begun, manifest  # noqa: F401
from wordsight.cli.main import main

DEVICES = ("cuda", "auto")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))


def run(*command: object, device: str) -> Card:
    """A command on the pretended device, which it must use; on the CPU, where that is what is asked for."""
    words = [str(word) for word in command if word not in ("--device", "cpu")]
    with pretended_cuda() as card:
        assert main([*words, "--device", device]) == 0
    assert (card.waits > 0) == (device != "cpu")
    return card


def numbers(path: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Names and scores of a table of predictions."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    kept = [key for key in rows[0] if all(_is_number(row[key]) for row in rows)]
    return [row["name"] for row in rows], np.array([[float(row[key]) for key in kept] for row in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def same_table(ours: Path, theirs: Path) -> None:
    (names, found), (others, wanted) = numbers(ours / "predictions.csv"), numbers(theirs / "predictions.csv")
    assert names == others
    assert wanted.size
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_predict_with_carzero(device: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        (tmp_path / "in").mkdir(exist_ok=True)
        Pil.fromarray(rng.integers(0, 256, (90, 70 + i), dtype=np.uint8)).save(tmp_path / "in" / f"{i}.png")
    asked = ["--model", "carzero", "--weights", "tiny", "--prompts", "There is a mass. There is edema"]
    for name in ("cpu", device):
        run("predict", tmp_path / "in", *asked, "--out", tmp_path / name, device=name)
    same_table(tmp_path / device, tmp_path / "cpu")


def test_train_predict_and_evaluate_mla(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    where = ["--data", phantom_data, "--target", "Brain", "--architecture", small_clip, "--shots", "2"]
    for device in ("cpu", "auto"):
        run("train", "mla", *where, "--out", tmp_path / device, *QUICK, device=device)
    same_table(tmp_path / "auto", tmp_path / "cpu")
    results = [json.loads((tmp_path / d / "results.json").read_text()) for d in ("cpu", "auto")]
    values = [{k: v["value"] for k, v in r["evaluations"][0]["numbers"].items()} for r in results]
    assert values[1] == pytest.approx(values[0], abs=1e-3)
    for device in ("cpu", "cuda"):
        run(
            "evaluate", tmp_path / "auto", "--data", phantom_data, "--out", tmp_path / f"judged {device}", device=device
        )
        source = phantom_data / "Brain_AD" / "test" / "Ungood" / "img"
        run("predict", source, "--model", tmp_path / "auto", "--out", tmp_path / f"said {device}", device=device)
    same_table(tmp_path / "said cuda", tmp_path / "said cpu")
    same_table(tmp_path / "judged cuda", tmp_path / "judged cpu")


def test_train_zero_shot(phantom_data: Path, small_clip: Path, tmp_path: Path) -> None:
    where = ["--data", phantom_data, "--target", "Brain", "--architecture", small_clip, "--shots", "0"]
    for device in ("cpu", "cuda"):
        run("train", "mla", *where, "--out", tmp_path / device, *QUICK, device=device)
    same_table(tmp_path / "cuda", tmp_path / "cpu")


def test_train_carzero(manifest: Path, begun: Path, tmp_path: Path) -> None:  # noqa: F811
    where = ["--manifest", manifest, "--initial", begun]
    for device in ("cpu", "cuda"):
        run("train", "carzero", *where, "--out", tmp_path / device, *REPORTS, device=device)
    losses = [json.loads((tmp_path / d / "carzero.json").read_text())["valid_loss"] for d in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
