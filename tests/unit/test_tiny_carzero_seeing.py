"""How the tiny CARZero's image encoder learns to see: labels from reports, pooled evidence, resuming."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wordsight.data.phantoms import write_report_phantoms
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.train.carzero_captions import report_captions
from wordsight.train.carzero_data import ReportData, ReportImage, report_sets
from wordsight.train.carzero_settings import CarZeroTraining

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
seeing = pytest.importorskip("tiny_carzero_seeing", reason="the repository's scripts are not beside the tests")
tiny = pytest.importorskip("tiny_carzero_network", reason="the repository's scripts are not beside the tests")
sys.path.remove(str(SCRIPTS))

SETTINGS = tiny.sizes(50)
TRAINING = replace(CarZeroTraining.corrected(), batch_sizes=((0, 4),))


def row(report: str) -> ReportImage:
    return ReportImage(Path("x.png"), None, report_captions(report, TRAINING, SETTINGS))


def test_labels_are_what_reports_state() -> None:
    rows = [
        row("There is a mass in the left lung. No pneumothorax."),
        row("Possible mass. There is a pneumothorax."),
        row("Possible nodule. There is a nodule in the right lung."),
    ]
    assert seeing.findings_of(rows) == ["mass", "nodule", "pneumothorax"]
    labels = seeing.labels_of(rows, ["mass", "nodule", "pneumothorax"])
    expected = [[1, 0, 0], [math.nan, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(labels.numpy(), expected)


def test_pooled_evidence_of_equal_patches_is_that_of_one() -> None:
    heads = seeing.Heads(8, 3)
    tokens = torch.randn(2, 1, 8).expand(-1, 6, -1)
    first, patches = heads(tokens)
    torch.testing.assert_close(patches, heads.patches(tokens[:, 0]))
    torch.testing.assert_close(first, torch.full_like(first, -1.7))


def test_an_interrupted_training_goes_on_to_the_same_encoder(tmp_path: Path) -> None:
    write_report_phantoms(tmp_path / "data", train=12, valid=2, seed=3, size=137, workers=1)
    sets = report_sets(tmp_path / "data" / "manifest.csv", TRAINING, SETTINGS)
    data = ReportData(sets.train, SETTINGS, TRAINING, augmented=True)

    def run(state: str, stop: int | None = None) -> torch.Tensor:
        network = CarZeroNetwork(SETTINGS, seed=1)
        tiny.start(network, torch.randn(3, 120, 120, generator=torch.Generator().manual_seed(0)), 1)
        learner = seeing.Seeing(network, data, 5, 1e-3, tmp_path / state)
        if stop is not None:
            original, learner.step = learner.step, None
            learner.step = lambda *given: original(*given) if learner.done < stop else pytest.fail("killed")
        try:
            learner.run(2)
        except pytest.fail.Exception:
            assert stop is not None
        return network.img_encoder.model.blocks[0].mlp.fc1.weight.detach().clone()

    whole = run("whole.pt")
    run("parts.pt", stop=3)
    assert torch.equal(run("parts.pt"), whole)


def test_the_network_starts_with_patches_as_whitened_cosines() -> None:
    filters = tiny.cosine_filters().flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(len(filters)), atol=1e-5, rtol=0)
    network = CarZeroNetwork(SETTINGS, seed=1)
    pictures = torch.randn(20, 120, 120, generator=torch.Generator().manual_seed(0)) + 0.7
    tiny.start(network, pictures, 1)
    embed = network.img_encoder.model.patch_embed
    patches = embed(pictures[:, None].expand(-1, 3, -1, -1))[..., : tiny.CONTENT].detach()
    assert patches.flatten(0, 1).mean(0).abs().max() < 1e-3
    assert 0.8 < float(patches.flatten(0, 1).std(0).mean()) < 1.6
    assert not network.img_encoder.model.pos_embed.requires_grad
