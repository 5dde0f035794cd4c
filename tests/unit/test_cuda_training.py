"""Training on a CUDA device (a pretended one): the losses and weights of the CPU, resuming, number formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretend_cuda import pretended_cuda
from test_train_carzero import QUICK as REPORTS
from test_train_carzero import manifest, network, sets_of, text  # noqa: F401
from test_train_mla import QUICK, data, detector, sources_of, stop, support_of  # noqa: F401
from wordsight.models.mla.detector import MlaLp
from wordsight.train import carzero
from wordsight.train.engine import find_device, make_fabric, save_state
from wordsight.train.mla import MlaTraining, fit_few, fit_zero
from wordsight.train.recipes import Profile, recipe

CUDA = torch.device("cuda", 0)
SHORT = replace(REPORTS, epochs=1, captions_per_image=1)


def alike(found: MlaLp, wanted: MlaLp, atol: float = 1e-5) -> None:
    """The same history and weights."""
    assert found.device == CUDA
    ours, theirs = (dict(trained.network.state_dict()) for trained in (found, wanted))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].cpu(), value.cpu(), atol=atol, rtol=0)
    losses = [[entry["loss"] for entry in d.info["history"] if "loss" in entry] for d in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (found.info["epoch"], found.reading) == (wanted.info["epoch"], wanted.reading)
    np.testing.assert_allclose(found.scale.map_text, wanted.scale.map_text, atol=1e-3)


@pytest.mark.parametrize("profile", ["default", "fast", "corrected", "published"])
def test_few_shot_training_is_that_of_the_cpu(data: Path, profile: Profile) -> None:  # noqa: F811
    """Frozen blocks are kept in memory, in a file, or computed again."""
    training = replace(recipe(profile, "mla", 2, "tiny")[1], epochs=1, cache_gb=5e-5, cache_disk_gb=1e-4)
    support, held, test = support_of(data, "Chest" if profile == "default" else "Brain", shots=1)
    mix = 0.0 if profile == "fast" else 0.1
    options: dict[str, Any] = {"selection": held[:4] + held[-4:], "test": test if profile == "published" else ()}

    def fit(device: str) -> MlaLp:
        return fit_few(detector(mix=mix), support, training=replace(training, device=device), **options)

    wanted = fit("cpu")
    with pretended_cuda():
        alike(fit("cuda"), wanted)


def test_zero_shot_training_is_that_of_the_cpu(data: Path) -> None:  # noqa: F811
    training = replace(recipe("published", "mvfa", 0, "tiny")[1], protocol="validation", epochs=1, batch_size=8)

    def fit(device: str) -> MlaLp:
        return fit_zero(detector("mvfa"), sources_of(data), training=replace(training, device=device))

    wanted = fit("cpu")
    with pretended_cuda():
        alike(fit("auto"), wanted)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_interrupted_run_goes_on(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    """With fp16 its gradient scaler is part of the state; a state goes on where there is no GPU, too."""
    support, held, _ = support_of(data, "Brain")
    training: MlaTraining = replace(QUICK, batch_size=11, precision=precision)  # type: ignore[arg-type]

    def fit(folder: Path, device: str = "cuda") -> MlaLp:
        chosen = replace(training, device=device)
        return fit_few(detector(), support, training=chosen, selection=held, folder=folder)

    with pretended_cuda():
        whole = fit(tmp_path / "whole")
        stop(monkeypatch, lambda: fit(tmp_path / "cut"))
        state = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)
        assert (state["precision"].get("scale", 0) > 0) == (precision == "fp16")
        resumed = fit(tmp_path / "cut")
        alike(resumed, whole)
        if precision == "fp32":
            stop(monkeypatch, lambda: fit(tmp_path / "moved"))
    if precision == "fp32":
        moved = fit(tmp_path / "moved", "cpu")
        assert moved.device.type == "cpu"
        assert [e["loss"] for e in moved.info["history"] if "loss" in e] == pytest.approx(
            [e["loss"] for e in whole.info["history"] if "loss" in e], rel=1e-5
        )


def test_carzero_trains_as_on_the_cpu_and_goes_on(
    manifest: Path,  # noqa: F811
    text: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of pairs and parts of the batch are computed again, with dropout: with the same random numbers."""
    sets = sets_of(manifest, SHORT)

    def fit(name: str, device: str) -> Any:
        chosen = replace(SHORT, device=device, workers=1, pairs=64, part=5)
        return carzero.fit(network(dropout=0.2), text, sets, chosen, tmp_path / name)

    def cut(path: Path, state: dict[str, Any]) -> None:
        save_state(path, state)
        raise KeyboardInterrupt

    fit("cpu", "cpu")
    with pretended_cuda() as card:
        assert fit("cuda", "cuda").device == CUDA
        assert card.seeds, "dropout on the device draws from the step's seed"
        with monkeypatch.context() as patch:
            patch.setattr(carzero, "save_state", cut)
            with pytest.raises(KeyboardInterrupt):
                fit("cut", "cuda")
        assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["round"] == 1
        fit("cut", "cuda")
    cards = [json.loads((tmp_path / name / "carzero.json").read_text()) for name in ("cpu", "cuda", "cut")]
    for found in cards[1:]:
        assert [set(entry) for entry in found["history"]] == [set(entry) for entry in cards[0]["history"]]
        for kind in ("loss", "valid_loss"):
            ours, theirs = ([e[kind] for e in c["history"] if kind in e] for c in (found, cards[0]))
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert cards[1]["history"] == cards[2]["history"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_carzero_trains_in_mixed_precision(precision: str, manifest: Path, text: Path, tmp_path: Path) -> None:  # noqa: F811
    training = replace(SHORT, precision=precision, device="cuda")  # type: ignore[arg-type]
    with pretended_cuda():
        trained = carzero.fit(network(), text, sets_of(manifest, training), training, tmp_path / "run")
        assert (trained.device, trained.precision) == (CUDA, precision)
    found = json.loads((tmp_path / "run" / "carzero.json").read_text())
    assert np.isfinite(found["valid_loss"])


def test_devices_by_name() -> None:
    with pretended_cuda():
        assert find_device("auto") == find_device("cuda") == find_device("cuda:0") == CUDA
        assert make_fabric("auto", "bf16").device == CUDA
        with pytest.raises(Exception, match="device cuda:1: this machine has 1 CUDA devices"):
            find_device("cuda:1")
        with pytest.raises(Exception, match="devices: expected 1 to 1 of cuda, got 2"):
            make_fabric("cuda", "fp32", 2)
