"""Training in processes that torchrun started: what their environment says, and that the losses are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight.data.phantoms import write_report_phantoms
from wordsight.errors import SettingsError
from wordsight.models.carzero.storage import save_folder
from wordsight.study import CarZeroOptions
from wordsight.train.engine import make_fabric
from wordsight.train.launch import Launched, is_first, launched

TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)


def test_the_environment_of_torchrun() -> None:
    assert launched({}) is None
    assert launched({name: value for name, value in TWO.items() if name != "MASTER_ADDR"}) is None
    assert launched(TWO) == Launched(rank=1, world=2, here=2)
    several = {**TWO, "RANK": "11", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "4"}
    found = launched(several)
    assert found is not None
    assert (found, found.machines) == (Launched(11, 16, 4), 4)
    without = {name: value for name, value in TWO.items() if name != "LOCAL_WORLD_SIZE"}
    assert launched(without) == Launched(1, 2, 2)


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}, {"LOCAL_WORLD_SIZE": "0"}])
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"expected RANK below WORLD_SIZE, .* Use torchrun\."):
        launched({**TWO, **wrong})


@pytest.mark.usefixtures("second_of_two")
def test_devices_are_the_processes_that_were_started() -> None:
    assert not is_first()
    options = CarZeroOptions(Path("a.csv"), Path("out"), initial=Path("x"))
    assert options.resolved.devices == 2
    assert replace(options, training={"devices": 1}).resolved.devices == 1
    fabric = make_fabric("cpu", "fp32", 2)
    assert (fabric.world_size, fabric.global_rank) == (2, 1)
    for devices in (1, 4):
        with pytest.raises(SettingsError, match=f"torchrun started 2 processes, got {devices}"):
            make_fabric("cpu", "fp32", devices)


def history(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "carzero.json").read_text())["history"]
    return found


@pytest.mark.slow
def test_two_processes_of_torchrun_have_the_losses_of_one(tmp_path: Path) -> None:
    """Without dropout nothing depends on how a batch of 8 is spread."""
    write_report_phantoms(tmp_path / "data", train=24, valid=6, seed=4, size=96, workers=1)
    still = {"dropout": 0.0, "text": replace(SETTINGS.text, dropout=0.0, attention_dropout=0.0)}
    save_folder(tmp_path / "start", make_carzero(**still), text_folder(tmp_path / "text"), {"finished": True})
    words = [
        "wordsight.cli.main", "train", "carzero", "--manifest", tmp_path / "data" / "manifest.csv", "--initial",
        tmp_path / "start", "--epochs", "2", "--workers", "0", "--device", "cpu", "--training.batch_sizes", "[[0, 8]]",
        "--training.valid_batch", "3", "--training.lr", "1e-3", "--training.save_every", "1", "--out",
    ]  # fmt: skip
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = {}
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, "-m", *launcher, *map(str, words), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        told[name] = done
    assert told["two"].stdout.count("folder: ") == 1
    assert told["two"].stderr.count("epoch 1/2: loss") == 1
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(one) == 2 * (3 + 1)
    for a, b in zip(one, two, strict=True):
        assert {**a, "loss": 0, "valid_loss": 0} == {**b, "loss": 0, "valid_loss": 0}
        assert b.get("loss", 0) == pytest.approx(a.get("loss", 0), rel=1e-4)
        assert b.get("valid_loss", 0) == pytest.approx(a.get("valid_loss", 0), rel=1e-4)
    assert one[0]["loss"] != one[-2]["loss"]
