"""The packaged tiny backbone: it loads, is small, says what it is; its captions name nothing abnormal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from wordsight.data.phantoms import SETS, draw_phantom
from wordsight.models.mla.architectures import TINY
from wordsight.models.mla.backbone import load_clip
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.prompts import LearnedPrompts, ensemble_features
from wordsight.models.mla.settings import MlaSettings
from wordsight.text.states import ABNORMAL_WORDS, NORMAL_WORDS
from wordsight.types import Image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
pictures = pytest.importorskip("tiny_clip_pictures", reason="the repository's scripts are not beside the tests")
sys.path.remove(str(SCRIPTS))

OTHERS = """
tumour tumor cancer mass fluid cyst metastasis metastases opacity effusion nodule drusen oedema edema abnormality
anomaly pneumonia cardiomegaly infarct haemorrhage bleeding detachment membrane defect damage flaw sick ill finding
nest nests malignant benign haemangioma hyperdense hypodense
"""
FORBIDDEN = set(re.findall("[a-z]+", " ".join((*NORMAL_WORDS, *ABNORMAL_WORDS, OTHERS)))) - {
    "in",
    "of",
    "no",
    "good",
    "findings",
}


def small_pool() -> pictures.Pool:
    """Three phantoms of every set, drawn as the training draws them."""
    return pictures.Pool.draw(3, pictures.FIRST_SEED + 7)


def test_the_bundle_is_small_and_says_what_it_is() -> None:
    files = [path for path in TINY.iterdir() if path.is_file()]
    assert {path.name for path in files} == {
        "card.json",
        "merges.txt.gz",
        "model.safetensors",
        "open_clip_config.json",
    }
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    card = json.loads((TINY / "card.json").read_text(encoding="utf-8"))
    assert "knows nothing of patients" in card["note"]
    assert card["made_by"] == "scripts/train_tiny_clip.py"


@pytest.mark.parametrize("causal", [False, True])
def test_it_loads_and_all_prompts_fit(causal: bool) -> None:
    clip = load_clip("tiny", None, image_size=240)
    assert clip.trained
    assert clip.vision_layers % 4 == 0  # adapters at quarter depths
    features = LearnedPrompts(clip, MlaSettings().context, causal=causal)()
    assert features.shape == (clip.embed_dim, 2)
    assert not torch.allclose(features[:, 0], features[:, 1])
    assert ensemble_features(clip, "histopathological image").shape == (clip.embed_dim, 2)


def test_a_detector_on_it_sees_every_kind_of_phantom() -> None:
    detector = MlaLp.from_clip("tiny")
    images = [Image(draw_phantom(name, 3, 0, True).pixels.astype(np.float32) / 255) for name in SETS]
    maps = [prediction.maps for prediction in detector.predict(images)]
    assert all(m is not None and np.isfinite(m).all() and np.ptp(m) > 0 for m in maps)


def test_captions_never_say_whether_anything_is_abnormal() -> None:
    rng = np.random.default_rng(0)
    said: set[str] = set()
    for name in SETS:
        for index in range(24):
            attributes = draw_phantom(name, pictures.FIRST_SEED + 1, index, index % 2 == 1).attributes
            for mirrored in (False, True):
                caption = pictures.describe(name, attributes, rng, most=99, mirrored=mirrored)
                assert caption.startswith(pictures.MODALITY[name])
                said |= set(re.findall("[a-z]+", caption.lower()))
    assert len(said) > 40
    assert not said & FORBIDDEN


def test_captions_depend_on_attributes_alone() -> None:
    attributes = {"sequence": "T2", "ventricles": "wide", "noise": "strong", "rotation": 7.0}
    normal = pictures.describe("Brain", attributes, np.random.default_rng(1))
    lesion = pictures.describe("Brain", {**attributes, "lesion": "large", "label": 1}, np.random.default_rng(1))
    assert normal == lesion


def test_batches_are_the_same_each_time_and_their_captions_fit() -> None:
    pool = small_pool()
    first, again = (pictures.make_batch(pool, 5, 2, 4) for _ in range(2))
    assert first.captions == again.captions
    for name in ("images", "before", "clean", "cover", "hidden"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = pictures.make_batch(pool, 5, 3, 4)
    assert not np.array_equal(first.images, other.images)
    tokenizer = load_clip("tiny", None, image_size=240).tokenizer
    for step in range(8):
        captions = pictures.make_batch(pool, 6, step, 4).captions
        assert tokenizer(captions).shape == (8, 32)  # raises where one does not fit; half of them of other images
        words = {word for caption in captions for word in re.findall("[a-z]+", caption)}
        assert not words & FORBIDDEN


def test_nothing_but_healthy_phantoms_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = []

    def watched(*args: object, **kwargs: object) -> object:
        phantom = draw_phantom(*args, **kwargs)  # type: ignore[arg-type]
        labels.append(phantom.label)
        return phantom

    monkeypatch.setattr(pictures, "draw_phantom", watched)
    small_pool()
    assert labels == [0] * 18


def test_blur_and_noise_are_the_same_with_and_without_marks() -> None:
    """Where nothing was pasted or hidden both pictures are equal, so that the grain of a picture betrays no mark."""
    batch = pictures.make_batch(small_pool(), 5, 4, 4)
    change = np.abs(batch.images - batch.before).max(axis=1)
    assert batch.cover.max() > 0.5
    hidden = np.kron(batch.hidden, np.ones((pictures.PATCH, pictures.PATCH), dtype=bool))
    for i in range(len(change)):
        touched = ndimage.maximum_filter(batch.cover[i], 41) > 0
        assert (change[i][~touched & ~hidden[i]] == 0).mean() > 0.999
    assert not np.allclose(batch.before, batch.clean, atol=0.01)


def test_covers_say_where_the_picture_was_changed() -> None:
    rng = np.random.default_rng(3)
    plain = np.full((120, 120, 3), 0.5, dtype=np.float32)
    changed = 0
    for _ in range(60):
        picture, cover, words = pictures.mark(rng, plain.copy(), plain, False)
        difference = np.abs(picture - plain).max(axis=2)
        assert (difference[cover == 0] <= 0.03 * 25).all()
        assert cover.min() >= 0
        assert cover.max() <= 1
        if difference.max() > 0.1:
            changed += 1
            assert cover.max() > 0.5
            assert words
    assert changed > 15


def test_seeds_of_evaluations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import train_tiny_clip
    finally:
        sys.path.remove(str(SCRIPTS))
    with pytest.raises(SystemExit):
        train_tiny_clip.options_of(["--out", "somewhere", "--seed", "3"])
    assert "expected at least 1000000" in capsys.readouterr().err
