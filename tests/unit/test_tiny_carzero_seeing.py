"""How the tiny CARZero's image encoder learns to see: lessons with masks, steps, readers, resuming."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wordsight.data.phantoms import draw_report_phantom
from wordsight.data.phantoms.reports import FINDINGS
from wordsight.models.carzero.model import CarZeroNetwork

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
seeing = pytest.importorskip("tiny_carzero_seeing", reason="the repository's scripts are not beside the tests")
tiny = pytest.importorskip("tiny_carzero_network", reason="the repository's scripts are not beside the tests")
sys.path.remove(str(SCRIPTS))

SETTINGS = tiny.sizes(50)
GRID, PATCH, SIZE = tiny.GRID, tiny.PATCH, tiny.IMAGE


@pytest.fixture(scope="module")
def lesson() -> seeing.Lesson:
    return seeing.draw_lesson(5, 24, 160, SETTINGS)


def learner(lesson: seeing.Lesson, state: Path, *, steps: int = 5, batch: int = 4, rate: float = 1e-3) -> seeing.Seeing:
    network = CarZeroNetwork(SETTINGS, seed=1)
    pictures = torch.from_numpy(lesson.squares[:, :SIZE, :SIZE].astype(np.float32)) / 255
    tiny.start(network, (pictures - 0.5) / 0.25, 1)
    return seeing.Seeing(network, lesson, steps, batch, rate, 1, state)


def test_a_lesson_holds_what_is_drawn(lesson: seeing.Lesson) -> None:
    phantoms = [draw_report_phantom(5, i, 160) for i in range(24)]
    codes = {"present": 1, "absent": 0, "uncertain": -1}
    expected = [[codes[p.findings[name].state] for name in FINDINGS] for p in phantoms]
    np.testing.assert_array_equal(lesson.labels, expected)
    side = lesson.squares.shape[1]
    assert side == round(SIZE * 256 / 224)
    shares = np.array([[(masks & bit).astype(bool).mean() for bit in seeing.BITS] for masks in lesson.masks])
    drawn = [[0 if (m := p.findings[name].mask) is None else m.mean() for name in FINDINGS] for p in phantoms]
    np.testing.assert_allclose(shares, drawn, atol=0.004)
    assert shares.max() > 0.05


def test_a_batch_covers_the_patches_that_its_pictures_show(lesson: seeing.Lesson, tmp_path: Path) -> None:
    """Cover against the masks, cut where the picture was cut: found by comparing pictures, light undone."""
    images, cover, labels = learner(lesson, tmp_path / "s.pt").draw(0)
    assert images.shape == (4, 3, SIZE, SIZE)
    assert cover.shape == (4, GRID**2, len(FINDINGS))
    room = lesson.squares.shape[1] - SIZE + 1
    for image, covered, truth in zip(images[:, 0].numpy(), cover.numpy(), labels.numpy(), strict=True):
        best = (-1.0, 0, 0, 0)
        for i in (k for k, row in enumerate(lesson.labels) if np.array_equal(row, truth)):
            for r in range(room):
                for c in range(room):
                    cut = lesson.squares[i, r : r + SIZE : 4, c : c + SIZE : 4].astype(np.float64)
                    best = max(best, (float(np.corrcoef(cut.ravel(), image[::4, ::4].ravel())[0, 1]), i, r, c))
        likeness, i, r, c = best
        assert likeness > 0.99
        mask = lesson.masks[i, r : r + SIZE, c : c + SIZE]
        for k, bit in enumerate(seeing.BITS):
            pixels = torch.from_numpy(((mask & bit) != 0).astype(np.float32))
            expected = F.avg_pool2d(pixels[None], PATCH).flatten()
            np.testing.assert_allclose(covered[:, k], expected.numpy(), atol=1e-6)


def test_streams_end_on_the_tokens_of_the_encoder(lesson: seeing.Lesson, tmp_path: Path) -> None:
    here = learner(lesson, tmp_path / "s.pt")
    images = here.draw(0)[0]
    streams = seeing.streams_of(here.encoder.model, images)
    assert len(streams) == len(tiny.LOOKS)
    torch.testing.assert_close(streams[-1], here.encoder(images))


def test_steps_lower_the_loss(lesson: seeing.Lesson, tmp_path: Path) -> None:
    here = learner(lesson, tmp_path / "s.pt", steps=100, batch=4, rate=4e-3)
    losses = [here.step(*here.draw(1))[0] for _ in range(40)]
    assert losses[-1] < 0.25 * losses[0]


def test_uncertain_findings_do_not_count(lesson: seeing.Lesson, tmp_path: Path) -> None:
    losses = []
    for cover in (0.0, 1.0):
        here = learner(lesson, tmp_path / "s.pt")
        images, _, labels = here.draw(0)
        labels[:, 2] = -1
        covered = torch.zeros(4, GRID**2, len(FINDINGS))
        covered[:, :, 2] = cover
        losses.append(here.step(images, covered, labels)[0])
    assert losses[0] == losses[1]


def test_an_interrupted_training_goes_on_to_the_same_encoder(lesson: seeing.Lesson, tmp_path: Path) -> None:
    def run(state: str, stop: int | None = None) -> torch.Tensor:
        here = learner(lesson, tmp_path / state)
        if stop is not None:
            original = here.step
            here.step = lambda *given: original(*given) if here.done < stop else pytest.fail("killed")
        try:
            here.run(2)
        except pytest.fail.Exception:
            assert stop is not None
        return here.encoder.model.blocks[0].mlp.fc1.weight.detach().clone()

    whole = run("whole.pt")
    run("parts.pt", stop=3)
    assert torch.equal(run("parts.pt"), whole)
    with pytest.raises(SystemExit, match="state of another training"):
        learner(lesson, tmp_path / "whole.pt", steps=6).run(2)


def test_the_network_starts_with_patches_as_whitened_cosines() -> None:
    filters = tiny.cosine_filters().flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(len(filters)), atol=1e-5, rtol=0)
    network = CarZeroNetwork(SETTINGS, seed=1)
    pictures = torch.randn(20, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) + 0.7
    tiny.start(network, pictures, 1)
    embed = network.img_encoder.model.patch_embed
    patches = embed(pictures[:, None].expand(-1, 3, -1, -1))[..., : tiny.CONTENT].detach()
    assert patches.flatten(0, 1).mean(0).abs().max() < 1e-3
    assert 0.8 < float(patches.flatten(0, 1).std(0).mean()) < 1.6
    assert not network.img_encoder.model.pos_embed.requires_grad


def test_the_first_block_starts_by_rectifying_waves() -> None:
    """A wave and its negative come out alike: the answer to a cosine is even in its sign, but for GELU's bend."""
    network = CarZeroNetwork(SETTINGS, seed=1)
    tiny.start(network, torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), 1)
    mlp = network.img_encoder.model.blocks[0].mlp
    tokens = torch.zeros(1, 2, tiny.WIDTH)
    wave = 5
    tokens[0, 0, wave], tokens[0, 1, wave] = 3.0, -3.0
    with torch.no_grad():
        quiet = mlp.fc1.weight[2 * wave - 2 : 2 * wave, wave].clone()
        mlp.fc1.weight[:, wave] = 0
        mlp.fc1.weight[2 * wave - 2 : 2 * wave, wave] = quiet
        rise, fall = mlp(tokens)[0]
    torch.testing.assert_close(rise, fall, atol=1e-5, rtol=0)
    assert rise.abs().max() > 0.5
