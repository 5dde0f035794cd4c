"""Encoders in parts of a batch: values and gradients of the whole, dropout computed again as it was, less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from test_carzero_pairs import distance, images, texts, undropped
from tiny_carzero import SETTINGS, make_carzero
from wordsight.errors import SettingsError
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.pairs import pair_logits
from wordsight.models.carzero.parts import images_in_parts, texts_in_parts


def gradients(network: CarZeroNetwork, batch: int, part: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of one batch and what a weighted sum of them does to every weight."""
    network.zero_grad(set_to_none=True)
    dtype = next(network.parameters()).dtype
    image = images_in_parts(network, images(batch, dtype), part)
    found = pair_logits(network, image, texts_in_parts(network, texts(batch), part), pairs=None)
    logits = torch.stack([found.i2t, found.t2i])
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
    (logits * weights).sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("part", [1, 3, 7, 100])
def test_parts_have_the_logits_and_gradients_of_the_whole(part: int) -> None:
    network = undropped().double()
    whole, expected = gradients(network, 7, None)
    logits, found = gradients(network, 7, part)
    torch.testing.assert_close(logits, whole, rtol=1e-12, atol=1e-12)
    assert distance(expected, found) < 1e-12


def test_dropout_is_computed_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parts, their activations kept: the gradient belongs to the network whose loss was taken."""
    network = make_carzero(dropout=0.4).double().train()
    assert SETTINGS.text.dropout > 0
    results = []
    for kept in (False, True):
        if kept:
            monkeypatch.setattr("wordsight.models.carzero.parts.checkpoint", lambda f, *x, use_reentrant: f(*x))
        torch.manual_seed(5)
        results.append(gradients(network, 6, 4))
    assert torch.equal(results[0][0], results[1][0])
    assert distance(results[0][1], results[1][1]) < 1e-13


@pytest.mark.parametrize("encode", [images_in_parts, texts_in_parts])
def test_activations_of_parts_are_forgotten(encode: Any) -> None:
    network = undropped()
    batch = images(32) if encode is images_in_parts else texts(32)

    def kept(part: int | None) -> int:
        seen: dict[int, tuple[int, Tensor]] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no address comes twice
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = encode(network, batch, part)
        assert (found if isinstance(found, Tensor) else found.words).requires_grad
        return sum(size for place, (size, _) in seen.items() if place not in weights)

    assert kept(8) < 0.15 * kept(None), "what goes in, and little else"


def test_nothing_is_done_twice_without_gradients_or_with_batch_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordsight.models.carzero.parts.checkpoint", None)
    network = make_carzero()
    with torch.no_grad():
        assert torch.equal(images_in_parts(network, images(3), 2), network.encode_images(images(3)))
        assert torch.equal(texts_in_parts(network, texts(3), 2).words, network.encode_texts(texts(3)).words)
    resnet = make_carzero(image_encoder="resnet50")
    assert images_in_parts(resnet, images(2), 1).requires_grad


def test_a_part_has_an_image() -> None:
    for encode, batch in ((images_in_parts, images(2)), (texts_in_parts, texts(2))):
        with pytest.raises(SettingsError, match="part: expected at least 1 image in a part, got 0"):
            encode(make_carzero(), batch, 0)  # type: ignore[operator]
