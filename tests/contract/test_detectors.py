"""One battery for every detector: what a user may rely on whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from tiny_carzero import make_carzero, text_folder
from tiny_clip import make_clip
from wordsight.collect import PreparedDetector
from wordsight.errors import SettingsError
from wordsight.imaging import prepared
from wordsight.models.carzero.detector import CarZero
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.settings import MlaSettings
from wordsight.types import Detector, Image, PromptSet, ScoreKind

SIZE = 56
RULES = {"keep_single_words": True, "keep_numbers": True, "word_lengths": "words"}


def picture(seed: int, shape: tuple[int, ...] = (70, 50)) -> Image:
    return Image(np.random.default_rng(seed).random(shape, dtype=np.float32), source=f"picture {seed}")


@cache
def tiny_detectors() -> dict[str, MlaLp]:
    """Random weights: the contract is about behaviour, not about quality."""
    published = MlaSettings(image_size=SIZE, levels=(1, 2, 3, 4))
    mvfa = replace(MlaSettings.mvfa("Brain"), image_size=SIZE, levels=(2, 4))
    clip = make_clip(SIZE)
    zero = MlaLp(MlaNetwork(clip, published).eval())
    normals = [picture(100), picture(101)]
    return {
        "mla zero-shot": zero.with_scale_from(zero.raw(normals), "support"),
        "mla few-shot with masks": zero.with_support(normals),
        "mla few-shot without masks": replace(zero, map_branch="det").with_support(normals),
        "mla corrected": MlaLp(MlaNetwork(clip, published.corrected()).eval()).with_support(normals),
        "mvfa few-shot": MlaLp(MlaNetwork(clip, mvfa).eval()).with_support(normals),
    }


@cache
def tiny_carzeros() -> dict[str, CarZero]:
    """One finding with several sentences, one with a denial; both kinds of score."""
    prompts = PromptSet(
        ("effusion", "mass"),
        (("there is effusion", "a pleural effusion"), ("there is a mass",)),
        (("no effusion",),) * 2,
    )
    with TemporaryDirectory() as folder:
        published = CarZero.from_network(make_carzero(), text_folder(Path(folder)))
        corrected = CarZero.from_network(make_carzero(1, **RULES), text_folder(Path(folder)))
    return {
        "carzero": published.with_prompts(prompts),
        "carzero corrected, pairs": replace(corrected.with_prompts(prompts), scores="pair", combine="max"),
        "carzero, local similarity": replace(published.with_prompts(prompts), similarity="both", enlarge="nearest"),
    }


def all_detectors() -> dict[str, MlaLp | CarZero]:
    return {**tiny_detectors(), **tiny_carzeros()}


Check = Callable[[MlaLp | CarZero], None]


def says_what_it_is(detector: MlaLp | CarZero) -> None:
    assert isinstance(detector, Detector)
    assert detector.name
    assert detector.findings
    assert isinstance(detector.score_kind, ScoreKind)


def predictions_have_the_promised_form(detector: MlaLp | CarZero) -> None:
    images = [picture(0), picture(1, (33, 90, 3))]
    for image, prediction in zip(images, detector.predict(images), strict=True):
        assert prediction.findings == detector.findings
        assert prediction.scores.shape == (len(detector.findings),)
        assert prediction.scores.dtype == np.float32
        assert prediction.kind is detector.score_kind
        assert prediction.source == image.source
        assert prediction.weights


def alone_is_as_in_a_batch(detector: MlaLp | CarZero) -> None:
    images = [picture(i) for i in range(3)]
    together = detector.predict(images)
    for image, one in zip(images, together, strict=True):
        alone = detector.predict([image])[0]
        assert np.allclose(alone.scores, one.scores, atol=1e-4)
        assert alone.maps is not None
        assert one.maps is not None
        assert np.allclose(alone.maps, one.maps, atol=1e-4)


def prepared_before_is_as_prepared_here(detector: MlaLp | CarZero) -> None:
    images = [picture(0), picture(1, (33, 90, 3))]
    assert isinstance(detector, PreparedDetector)
    assert detector.takes_prepared
    here, before = detector.predict(images), detector.predict([prepared(i, detector.input_spec) for i in images])
    for one, other in zip(here, before, strict=True):
        assert np.array_equal(one.scores, other.scores)
        assert one.maps is not None
        assert other.maps is not None
        assert np.array_equal(one.maps, other.maps)
        assert (one.geometry, one.source) == (other.geometry, other.source)
    with pytest.raises(SettingsError, match="Prepare it by the detector's input_spec"):
        detector.predict([prepared(images[0], replace(detector.input_spec, eight_bit=False))])


def order_does_not_matter(detector: MlaLp | CarZero) -> None:
    images = [picture(i) for i in range(3)]
    forward = [p.scores for p in detector.predict(images)]
    backward = [p.scores for p in detector.predict(images[::-1])]
    assert np.allclose(forward, backward[::-1], atol=1e-4)


def input_is_not_changed(detector: MlaLp | CarZero) -> None:
    image = picture(2)
    before = image.pixels.copy()
    detector.predict([image])
    assert np.array_equal(image.pixels, before)


def same_again(detector: MlaLp | CarZero) -> None:
    first, second = (detector.predict([picture(3)])[0] for _ in range(2))
    assert np.array_equal(first.scores, second.scores)


def leaves_global_random_state_alone(detector: MlaLp | CarZero) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    detector.predict([picture(3)])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def constant_images_give_finite_scores(detector: MlaLp | CarZero) -> None:
    for value in (0.0, 0.5, 1.0):
        prediction = detector.predict([Image(np.full((40, 40), value, np.float32))])[0]
        assert np.isfinite(prediction.scores).all()
        assert prediction.maps is not None
        assert np.isfinite(prediction.maps).all()


def maps_lie_on_the_image_grid(detector: MlaLp | CarZero) -> None:
    for shape in ((70, 50), (1, 300), (301, 299, 3)):
        image = picture(4, shape)
        assert detector.predict([image])[0].heatmap().values.shape == image.shape


def nothing_in_nothing_out(detector: MlaLp | CarZero) -> None:
    assert detector.predict([]) == []


def grey_and_equal_colour_channels_are_the_same(detector: MlaLp | CarZero) -> None:
    grey = picture(5)
    colour = replace(grey, pixels=np.repeat(grey.pixels[..., None], 3, axis=2))
    a, b = detector.predict([grey, colour])
    assert np.allclose(a.scores, b.scores, atol=1e-4)


CHECKS: list[Check] = [
    says_what_it_is,
    predictions_have_the_promised_form,
    alone_is_as_in_a_batch,
    prepared_before_is_as_prepared_here,
    order_does_not_matter,
    input_is_not_changed,
    same_again,
    leaves_global_random_state_alone,
    constant_images_give_finite_scores,
    maps_lie_on_the_image_grid,
    nothing_in_nothing_out,
    grey_and_equal_colour_channels_are_the_same,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", list(all_detectors()))
def test_contract(name: str, check: Check) -> None:
    check(all_detectors()[name])


@pytest.mark.parametrize("name", list(tiny_detectors()))
def test_saved_and_loaded_scores_are_the_same(name: str, tmp_path: Path) -> None:
    import json

    from tiny_clip import CONFIG

    path = tmp_path / "clip.json"
    path.write_text(json.dumps(CONFIG))
    original = tiny_detectors()[name]
    detector = MlaLp.from_clip(str(path), settings=original.settings, seed=0)
    detector = replace(detector, map_branch=original.map_branch)
    if original.bank is not None:
        detector = replace(detector, reading=Reading(map_relative=True)).with_support([picture(100), picture(101)])
        assert detector.bank is not None
        assert detector.relative_bank is not None
    else:
        detector = detector.with_scale_from(detector.raw([picture(100), picture(101)]), "support")
    detector.save(tmp_path / "run")
    image = picture(7)
    ours, loaded = (one.predict([image])[0] for one in (detector, MlaLp.load(tmp_path / "run")))
    assert np.array_equal(loaded.scores, ours.scores)
    assert np.array_equal(loaded.maps, ours.maps)
