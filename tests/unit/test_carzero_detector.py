"""CARZero as a detector: prompts, scores, pairs, maps on the image's grid, files, and every refusal."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight.errors import PromptError, PromptWarning, SettingsError, WeightsError
from wordsight.imaging import CARZERO_INPUT, prepare
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.weights import empty_network, write_published
from wordsight.types import Image, PromptSet, ScoreKind

PROMPTS = PromptSet(
    ("effusion", "mass", "edema"),
    (("there is a pleural effusion", "small pleural effusion"), ("there is a mass",), ("there is edema",)),
    (("no pleural effusion",), ("there is no mass", "no mass"), ("lungs are clear",)),
)


def picture(seed: int, shape: tuple[int, ...] = (50, 40)) -> Image:
    return Image(np.random.default_rng(seed).random(shape, dtype=np.float32), source=f"picture {seed}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def detector(folder: Path) -> CarZero:
    return CarZero.from_network(make_carzero(), folder)


@pytest.fixture(scope="module")
def bound(detector: CarZero) -> CarZero:
    return detector.with_prompts(PROMPTS)


def pairs(detector: CarZero, images: list[Image], sentences: list[str]) -> np.ndarray:
    """(B, T) by the network itself, one image at a time."""
    with torch.no_grad():
        tokens = detector.text_input(sentences)
        rows = []
        for image in images:
            array = torch.from_numpy(prepare(image, detector.input_spec)[0])[None]
            rows.append(detector.network(array, tokens).mean[0].numpy())
    return np.stack(rows)


def test_scores_are_means_over_a_findings_sentences(bound: CarZero) -> None:
    images = [picture(i) for i in range(3)]
    positive = pairs(bound, images, [s for group in PROMPTS.positive for s in group])
    wanted = np.stack([positive[:, :2].mean(1), positive[:, 2], positive[:, 3]], axis=1)
    scores = bound.score(bound.encode(images))
    np.testing.assert_allclose(scores, wanted, atol=2e-5)
    np.testing.assert_allclose([p.scores for p in bound.predict(images)], wanted, atol=2e-5)
    best = replace(bound, combine="max").score(bound.encode(images))
    np.testing.assert_allclose(best[:, 0], positive[:, :2].max(1), atol=2e-5)
    assert bound.score_kind is ScoreKind.LOGIT


def test_the_prompt_set_may_say_how_sentences_combine(bound: CarZero, detector: CarZero) -> None:
    features = bound.encode([picture(0)])
    best = detector.with_prompts(replace(PROMPTS, how="max"))
    assert np.array_equal(best.score(features), replace(bound, combine="max").score(features))
    assert np.array_equal(replace(best, combine="mean").score(features), bound.score(features))


def test_pairs_are_probabilities(bound: CarZero) -> None:
    images = [picture(i) for i in range(2)]
    positive = pairs(bound, images, [s for group in PROMPTS.positive for s in group])
    negative = pairs(bound, images, [s for group in PROMPTS.negative or () for s in group])
    logits = np.stack([positive[:, :2].mean(1), positive[:, 2], positive[:, 3]], axis=1)
    denied = np.stack([negative[:, 0], negative[:, 1:3].mean(1), negative[:, 3]], axis=1)
    paired = replace(bound, scores="pair")
    assert paired.score_kind is ScoreKind.PROBABILITY
    np.testing.assert_allclose(paired.score(bound.encode(images)), 1 / (1 + np.exp(denied - logits)), atol=1e-5)


def test_features_are_asked_again_and_again(detector: CarZero) -> None:
    features = replace(detector, batch_size=2).encode([picture(i) for i in range(5)])
    assert len(features) == 5
    first = detector.score(features, PromptSet.of("there is a mass", "no edema"))
    second = detector.score(features, detector.encode_prompts(PromptSet.of("no edema")))
    np.testing.assert_allclose(first[:, 1:], second, atol=2e-5)
    assert first.shape == (5, 2)
    assert first.dtype == np.float32
    np.testing.assert_allclose(detector.score(features[3:], PromptSet.of("no edema")), second[3:], atol=2e-5)
    assert detector.score(features[:0], PromptSet.of("no edema")).shape == (0, 1)


def test_many_sentences_are_encoded_in_parts(detector: CarZero) -> None:
    words = ("left", "right", "small", "large", "heart", "lung", "edema", "mass", "clear")
    sentences = [f"{a} {b}" for a in words for b in words]
    features = detector.encode([picture(0)])
    whole = detector.score(features, PromptSet.of(*sentences))
    assert whole.shape == (1, 81)
    np.testing.assert_allclose(whole[0, 70], detector.score(features, PromptSet.of(sentences[70]))[0, 0], atol=2e-5)


def test_maps_lie_on_the_images_grid(bound: CarZero) -> None:
    image = picture(1, (90, 40))
    heatmaps = bound.ground(bound.encode([image]))[0]
    assert [h.finding for h in heatmaps] == list(PROMPTS.findings)
    assert all(h.values.shape == (90, 40) for h in heatmaps)
    seen = ~np.isnan(heatmaps[0].values)
    assert 0 < seen.sum() < seen.size  # the published crop never looks at the border
    prediction = bound.predict([image])[0]
    np.testing.assert_allclose(prediction.heatmap("mass").values, heatmaps[1].values, atol=1e-6)
    assert prediction.maps is not None
    assert prediction.maps.shape == (3, 4, 4)  # cells; the geometry draws them smoothly
    assert {h.kind for h in heatmaps} == {prediction.heatmap().kind} == {ScoreKind.ATTENTION}
    assert prediction.kind is ScoreKind.LOGIT


def test_both_forms_of_a_map_peak_at_the_same_place(bound: CarZero) -> None:
    for seed in range(4):
        smooth, near = (replace(bound, enlarge=how).predict([picture(seed)])[0] for how in ("smooth", "nearest"))
        for finding in PROMPTS.findings:
            assert smooth.peak(finding) == pytest.approx(near.peak(finding))
            row, column = smooth.peak(finding)
            assert smooth.maps is not None
            cells = smooth.maps[PROMPTS.findings.index(finding)]
            at = (smooth.geometry.to_array_points(np.array([[row, column]]))[0] // 8).astype(int)
            assert cells[tuple(at)] == cells.max()


def test_published_maps_repeat_their_cells(bound: CarZero) -> None:
    maps = replace(bound, enlarge="nearest").predict([picture(0)])[0].maps
    assert maps is not None
    cells = maps[:, ::8, ::8]
    assert np.array_equal(maps, cells.repeat(8, 1).repeat(8, 2))
    assert (cells.sum((1, 2)) < 1).all()  # what the global token takes is missing
    assert (cells.sum((1, 2)) > 0.2).all()


def test_maps_may_be_left_out(bound: CarZero, folder: Path) -> None:
    assert replace(bound, maps=False).predict([picture(0)])[0].maps is None
    whole = CarZero.from_network(make_carzero(memory="global", head="linear"), folder).with_prompts(PROMPTS)
    assert whole.predict([picture(0)])[0].maps is None
    with pytest.raises(SettingsError, match="expected memory='local' or 'global\\+local' to ground findings"):
        whole.ground(whole.encode([picture(0)]))


def test_other_similarities_score_too(detector: CarZero) -> None:
    bound = detector.with_prompts(PromptSet.of("there is mass", "no edema"))
    features = bound.encode([picture(i) for i in range(2)])
    scores = {kind: replace(bound, similarity=kind).score(features) for kind in ("global", "local", "both")}
    np.testing.assert_allclose(scores["both"], (scores["local"] + scores["global"]) / 2, atol=1e-5)
    assert np.abs(scores["global"]).max() <= 1
    predicted = replace(bound, similarity="global").predict([picture(1)])[0]
    np.testing.assert_allclose(predicted.scores, scores["global"][1], atol=1e-5)


def test_prompts_must_be_there(detector: CarZero) -> None:
    for call in (lambda: detector.findings, lambda: detector.predict([picture(0)]), lambda: detector.predict([])):
        with pytest.raises(PromptError, match=r"expected prompts, got none: CARZero finds what it is asked for\. Bind"):
            call()


def test_sentences_that_vanish_are_refused(detector: CarZero, folder: Path) -> None:
    with pytest.raises(PromptError, match=r"prompt 'Cardiomegaly': expected a sentence, got one of which the text"):
        detector.with_prompts(PromptSet.of("Cardiomegaly"))
    corrected = CarZero.from_network(make_carzero(keep_single_words=True), folder)
    assert corrected.with_prompts(PromptSet.of("Cardiomegaly")).findings == ("Cardiomegaly",)


def test_words_beyond_the_text_length_are_named(detector: CarZero) -> None:
    """22 word pieces fit between [CLS] and [SEP]; "cardiomegaly" is two of them and is cut in its middle."""
    fitting = "There is " + "no " * 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.encode_prompts(PromptSet.of(fitting.strip()))
    long = "There is " + "no " * 19 + "cardiomegaly of the Heart"
    assert detector.text_input.cut(long) == "cardiomegaly of the heart"
    with pytest.warns(PromptWarning, match=r"longer than the 24 tokens.*not read: 'cardiomegaly of the heart'") as told:
        cut = detector.encode_prompts(PromptSet(("a", "b"), ((long,), (long, "There is edema"))))
    assert len(told) == 1
    kept = detector.encode_prompts(PromptSet.of("There is " + "no " * 19 + "cardio"))
    assert torch.equal(cut.text.sentence[0], kept.text.sentence[0])


def test_contradicting_choices_are_refused(bound: CarZero, detector: CarZero) -> None:
    with pytest.raises(SettingsError, match="scores: expected 'logit' or 'pair', got 'odds'"):
        replace(bound, scores="odds")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="scores='pair' needs the logits of similarity='fusion', got 'local'"):
        replace(bound, scores="pair", similarity="local")
    lone = PromptSet.of("there is a mass")
    with pytest.raises(PromptError, match="scores='pair': expected a sentence that denies each finding, got none"):
        replace(detector.with_prompts(lone), scores="pair")
    paired = replace(bound, scores="pair")
    with pytest.raises(PromptError, match="scores='pair': expected a sentence that denies each finding, got none"):
        paired.score(bound.encode([picture(0)]), lone)
    with pytest.raises(SettingsError, match="precision fp16 needs a CUDA device, got cpu"):
        replace(bound, precision="fp16").predict([picture(0)])


def test_half_precision_is_close(bound: CarZero) -> None:
    exact, rough = (replace(bound, precision=p).predict([picture(0)])[0] for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact.scores - rough.scores).max() < 0.2
    assert rough.scores.dtype == np.float32


def test_the_input_is_the_published_one_in_proportion(detector: CarZero) -> None:
    published = CarZero(empty_network(CarZeroSettings()), detector.text_input, "hash")
    assert published.input_spec is CARZERO_INPUT
    small = detector.input_spec
    assert (small.size, small.resize_to, small.mean) == ((32, 32), 37, CARZERO_INPUT.mean)
    assert detector.name == "carzero"


def test_published_file_with_the_text_folders_sizes(detector: CarZero, folder: Path, tmp_path: Path) -> None:
    """Sizes that a checkpoint does not name come from the text folder; what neither names must be given."""
    write_published(tmp_path / "cz.ckpt", detector.network)
    loaded = CarZero.from_published(tmp_path / "cz.ckpt", text=folder, settings=SETTINGS)
    assert loaded.weights_hash == detector.weights_hash
    with pytest.raises(SettingsError, match=r"text_length: expected 2\.\.30, the positions of the BERT, got 97"):
        CarZero.from_published(tmp_path / "cz.ckpt", text=folder)
    with pytest.raises(WeightsError, match="expected a folder with a BERT tokenizer"):
        CarZero.from_published(tmp_path / "cz.ckpt", text=tmp_path)


def test_saved_and_loaded_is_the_same(bound: CarZero, folder: Path, tmp_path: Path) -> None:
    bound.save(tmp_path / "cz.safetensors")
    loaded = CarZero.from_published(tmp_path / "cz.safetensors", text=folder).with_prompts(PROMPTS)
    one, other = (d.predict([picture(3)])[0] for d in (bound, loaded))
    assert np.array_equal(one.scores, other.scores)
    assert one.weights == other.weights
    assert len(one.weights) == 16
