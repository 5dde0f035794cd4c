"""Texts made ready for many images give the logits and maps of the plain network, whatever is folded into what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tiny_carzero import make_carzero
from wordsight.models.carzero import asking
from wordsight.models.carzero.asking import AskedTexts, ImageTokens, fold_layer
from wordsight.models.carzero.text_encoder import TextFeatures

WIDTH, TOKENS, LENGTH = 32, 17, 24


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts(counts: list[int], seed: int = 0) -> TextFeatures:
    """Texts of so many words, zero vectors after them."""
    words = noise(len(counts), max(counts), WIDTH, seed=seed)
    for row, count in enumerate(counts):
        words[row, count:] = 0
    return TextFeatures(words.sum(1) / LENGTH, words, torch.tensor(counts), LENGTH)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["global", "local", "global+local"]),
    st.lists(st.integers(2, LENGTH), min_size=1, max_size=14),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([3, 256]),
    st.sampled_from([1, 5, 2048]),
    st.integers(0, 2**31),
)
def test_logits_and_maps_are_those_of_the_plain_network(
    memory: Any, counts: list[int], images: int, heads: int, chunk: int, most: int, seed: int
) -> None:
    network = make_carzero(memory=memory, fusion_heads=heads)
    image, text = noise(images, TOKENS, WIDTH, seed=seed), texts(counts, seed + 1)
    with torch.no_grad():
        plain = network.compare(image, text)
        attention = network.fusion_module.compare_with_maps(network.image_memory(image), text.sentence)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "PAIRS", most)
        patch.setattr(asking, "GROUP", 4)
        asked = AskedTexts(network, text)
        pairs, weights = asked.compare(image, maps=True, chunk=chunk)
        again, none = asked.compare(image, chunk=chunk)
    assert weights is not None
    assert none is None
    for ours in (pairs, again):
        torch.testing.assert_close(ours.i2t, plain.i2t, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(ours.t2i, plain.t2i, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(weights, attention, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("sentences", "remembered"), [(1, False), (6, False), (7, True), (50, True)])
def test_images_are_asked_in_the_way_that_multiplies_less(sentences: int, remembered: bool) -> None:
    """17 tokens, width 32, 4 heads: keys and values 34,816 + 1,088 per sentence; without them 6,400 per sentence."""
    fusion = make_carzero().fusion_module
    tokens = ImageTokens(fusion, noise(1, TOKENS, WIDTH), sentences)
    assert tokens.remembered == remembered


def test_texts_are_folded_once_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return fold_layer(*arguments, **options)

    monkeypatch.setattr(asking, "fold_layer", counted)
    monkeypatch.setattr(asking, "GROUP", 2)
    network, text, image = make_carzero(), texts([3, 9, 4, 5, 3]), noise(2, TOKENS, WIDTH)
    kept = AskedTexts(network, text)
    first, second = kept.compare(image)[0].mean, kept.compare(image)[0].mean
    assert len(calls) == 3 * 2  # groups and layers
    assert torch.equal(first, second)
    none = AskedTexts(network, text, budget=0)
    assert torch.equal(none.compare(image)[0].mean, first)
    assert torch.equal(none.compare(image)[0].mean, first)
    assert len(calls) == 6 + 2 * 6


def test_the_budget_bounds_what_is_kept() -> None:
    network, text = make_carzero(), texts([3, 9, 4, 5, 3] * 20)
    whole, some = AskedTexts(network, text), AskedTexts(network, text, budget=100_000)
    for asked in (whole, some):
        asked.compare(noise(1, TOKENS, WIDTH))
    sizes = [sum(layer.size for layer in asked._kept.values()) for asked in (whole, some)]
    assert sizes[0] > 400_000
    assert 0 < sizes[1] <= 100_000


def test_reduced_precision_folds_in_full_and_keeps_apart() -> None:
    network, text, image = make_carzero(), texts([3, 9, 4]), noise(2, TOKENS, WIDTH)
    asked = AskedTexts(network, text)
    full = asked.compare(image)[0].mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = asked.compare(image)[0].mean
    assert {dtype for *_, dtype in asked._kept} == {torch.float32, torch.bfloat16}
    assert float((reduced.float() - full).abs().max()) < 0.1 * float(full.abs().max())
    assert not torch.equal(reduced.float(), full)
    assert torch.equal(asked.compare(image)[0].mean, full)


def test_asking_leaves_no_gradient_and_changes_no_input() -> None:
    network, text, image = make_carzero(), texts([3, 5]), noise(2, TOKENS, WIDTH)
    before = [tensor.clone() for tensor in (text.words, text.sentence, image)]
    logits = AskedTexts(network, text).compare(image)[0].mean
    assert not logits.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, (text.words, text.sentence, image), strict=True))


def test_what_was_asked_before_stays_as_it_was_and_inference_mode_may_come_and_go() -> None:
    network, asked = make_carzero(), AskedTexts(make_carzero(), texts([3, 9, 4, 5, 3] * 4))
    first, second = noise(3, TOKENS, WIDTH), noise(5, TOKENS, WIDTH, seed=1)
    with torch.inference_mode():
        earlier = asked.compare(first)[0].mean
    kept = earlier.clone()
    later = asked.compare(second)[0].mean
    assert torch.equal(earlier, kept)
    wanted = [AskedTexts(network, texts([3, 9, 4, 5, 3] * 4)).compare(image)[0].mean for image in (first, second)]
    torch.testing.assert_close([earlier, later], wanted)
