"""The score scale that nothing but the support sets: a single image, and both parts of the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from test_train_mla import QUICK, data, detector, support_of  # noqa: F401
from wordsight.imaging import read_image
from wordsight.models.mla.memory import distance_within
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.scoring import RawScores, ScoreScale, combine, raw_maps
from wordsight.report.html import READING
from wordsight.study.detectors import _looker_of_mla
from wordsight.train import judging
from wordsight.train.mla import fit_few
from wordsight.train.samples import Samples
from wordsight.types import Geometry

IDENTITY = Geometry((56, 56), (56, 56), (1.0, 1.0))


def test_distance_within_an_image_is_that_to_the_nearest_patch_further_away() -> None:
    patches = [torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(level)) for level in range(2)]
    for reach in (0, 1):
        found = distance_within(patches, (3, 4), reach)
        for image in range(2):
            for p in range(12):
                total = 0.0
                for level in patches:
                    unit = level[image] / level[image].norm(dim=1, keepdim=True)
                    far = [q for q in range(12) if max(abs(p // 4 - q // 4), abs(p % 4 - q % 4)) > reach]
                    total += 1 - max(float(unit[p] @ unit[q]) for q in far)
                assert float(found[image, p]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("branch", ["seg", "det"])
def test_a_single_support_image_sets_a_usable_scale(data: Path, branch: str) -> None:  # noqa: F811
    support, _, test = support_of(data, "Brain")
    images = [read_image(record.path) for record in support.normal]
    base = replace(detector(), map_branch=branch)  # type: ignore[arg-type]
    one, two = base.with_support(images[:1]), base.with_support(images)
    assert one.scale.map_memory is not None
    assert two.scale.map_memory is not None
    extents = [scale.map_memory[1] - scale.map_memory[0] for scale in (one.scale, two.scale)]  # type: ignore[index]
    assert extents[0] > 0.1 * extents[1], "not the rounding noise of an image that is compared with itself"
    for prediction in one.predict([read_image(record.path) for record in test]):
        assert np.abs(prediction.scores).max() < 20
        assert prediction.maps is not None
        assert np.abs(prediction.maps).max() < 20


def test_words_and_memory_both_matter_after_training_without_held_out_images(data: Path) -> None:  # noqa: F811
    support, _, test = support_of(data, "Brain")
    trained = fit_few(detector(), support, training=replace(QUICK, epochs=8, adapter_lr=3e-3, protocol="last"))
    assert trained.scale.origin == "support"
    maps = raw_maps(trained.raw([read_image(record.path) for record in test]), 56)
    assert maps.few is not None
    words, memory = (values.max(axis=(1, 2)) for values in (maps.zero, maps.few))

    def ratio(scale: ScoreScale) -> float:
        """Spread of the words' peaks over that of the memory's, each on its scale."""
        assert scale.peak_memory is not None
        spreads = [
            np.std(v) / (high - low) for v, (low, high) in ((words, scale.peak_text), (memory, scale.peak_memory))
        ]
        return float(spreads[0] / spreads[1])

    assert 0.2 < ratio(trained.scale) < 5
    normal, abnormal = ([read_image(r.path) for r in part] for part in (support.normal, support.abnormal))
    assert ratio(trained.with_support(normal).scale) > 5, "of what it has learned to call normal, words say nothing"
    assert ratio(trained.with_support(normal, abnormal).scale) == pytest.approx(ratio(trained.scale), rel=1e-3)


def test_readings_follow_from_the_draw_in_reports() -> None:
    assert set(READING) == set(Reading().to_json())


def noise(count: int, memory: bool) -> list[RawScores]:
    rng = np.random.default_rng(count)

    def grid(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return [
        RawScores(
            grid(4, 4, 4),
            grid(4, 4, 4),
            np.abs(grid(4, 4)) if memory else None,
            IDENTITY,
            str(i),
            np.abs(grid(4, 4)) if memory else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("mode", "memory"), [("segmentation", True), ("detection", True), ("zero-shot", False)])
def test_selection_in_blocks_gives_the_numbers_of_all_at_once(
    mode: str, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raws = noise(11, memory)
    masks = torch.rand(11, 56, 56, generator=torch.Generator().manual_seed(1)) > 0.7
    labels = torch.tensor([0.0, 1.0] * 5 + [1.0])
    samples = Samples("x", labels, True, lambda i: masks[i], lambda i: masks[i], lambda i: IDENTITY, lambda: "")
    ways = (
        Reading(),
        Reading(memory_weight=0.75, image_share=0.1, smoothing=3),
        Reading(memory_weight=0.75, relative=True),
        Reading(map_share=0.05),
    )
    maps = (Reading(), Reading(map_memory_weight=0.25, map_smoothing=3), Reading(map_relative=True))
    found = {}
    for block in (1, 4, 32):
        monkeypatch.setattr(judging, "BLOCK", block)
        found[block] = judging.judged(raws, samples, mode, 56, ways, maps)  # type: ignore[arg-type]
    assert found[1] == found[4] == found[32]
    enlarged: list[int] = []
    original = judging.raw_maps
    monkeypatch.setattr(judging, "BLOCK", 4)
    monkeypatch.setattr(judging, "raw_maps", lambda r, *rest: (enlarged.append(len(r)), original(r, *rest))[1])
    judging.judged(raws, samples, mode, 56, ways, maps)  # type: ignore[arg-type]
    assert max(enlarged) == 4
    from wordsight.metrics import auroc, pixel_auroc

    for number, way in enumerate(ways[:3]):
        scores, _ = combine(raws, ScoreScale.fit(raws, 56, "judge", way), mode, 56, way)  # type: ignore[arg-type]
        assert found[4][0][number] == auroc(labels.numpy().astype(np.int64), scores)
    for number, way in enumerate(maps):
        _, fused = combine(raws, ScoreScale.fit(raws, 56, "judge", way), mode, 56, way)  # type: ignore[arg-type]
        assert found[4][1][number] == pixel_auroc(fused, masks.numpy())
    if memory:
        assert len(set(found[4][1])) == len(maps), "ways that differ give different results"


def test_standard_error_of_an_auroc_is_that_of_many_draws() -> None:
    from wordsight.metrics import auroc

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20, 12])
    for shift in (0.0, 0.7, 1.6):
        values = [auroc(labels, rng.exponential(1, 32) * np.exp(shift * labels)) for _ in range(3000)]
        assert judging.standard_error(float(np.mean(values)), 20, 12) == pytest.approx(np.std(values), rel=0.06)
    assert judging.standard_error(1.0, 20, 12) == 0


def test_bank_and_reading_decide_predictions(data: Path) -> None:  # noqa: F811
    support, _, _ = support_of(data, "Brain")
    images = [read_image(record.path) for record in support.normal]
    first, second = (detector().with_support_arrays(detector().prepared([image])[0], scale=False) for image in images)
    assert first.weights_hash == second.weights_hash
    decides = [
        _looker_of_mla(one).decides for one in (first, second, replace(first, reading=Reading(smoothing=3)), first)
    ]
    assert decides[0] == decides[3]
    assert decides[0]["bank"] != decides[1]["bank"]
    assert decides[0]["reading"] != decides[2]["reading"]
    assert _looker_of_mla(detector()).decides["bank"] is None
