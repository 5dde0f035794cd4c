"""The pair matrix in blocks: logits, loss and gradients of the whole, dropout computed again as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tiny_carzero import SETTINGS, WORDS, make_carzero
from wordsight.errors import SettingsError, TrainingError
from wordsight.models.carzero.loss import contrastive_loss, matching_loss, pair_loss
from wordsight.models.carzero.model import CarZeroNetwork, PairLogits
from wordsight.models.carzero.pairs import fusion_in_blocks, pair_logits
from wordsight.models.carzero.text_input import Tokens, plan_words

LENGTH = 24


def texts(count: int, seed: int = 0) -> Tokens:
    """Random sentences of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.zeros(count, LENGTH, dtype=torch.long), torch.zeros(count, LENGTH, dtype=torch.long)
    for row in range(count):
        words = int(torch.randint(1, 9, (), generator=generator))
        ids[row, 0], ids[row, words + 1] = WORDS.index("[CLS]"), WORDS.index("[SEP]")
        ids[row, 1 : words + 1] = torch.randint(5, len(WORDS), (words,), generator=generator)
        mask[row, : words + 2] = 1
    continues = torch.tensor([word.startswith("##") for word in WORDS])
    return plan_words(ids, mask, continues, WORDS.index("[SEP]"))


def images(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


def gradients(network: CarZeroNetwork, batch: int, **how: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss of one batch and what it does to every weight."""
    network.zero_grad(set_to_none=True)
    dtype = next(network.parameters()).dtype
    logits = pair_logits(
        network, network.encode_images(images(batch, dtype)), network.encode_texts(texts(batch)), **how
    )
    loss = pair_loss(logits)
    loss.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def undropped(**changes: Any) -> CarZeroNetwork:
    """In training mode, where padding is spelled out, without dropout."""
    text = replace(SETTINGS.text, dropout=0.0, attention_dropout=0.0)
    return make_carzero(dropout=0.0, text=text, **changes).train()


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of a weight's gradients, relative to the norm of all."""
    assert a.keys() == b.keys()
    norm = torch.cat([g.flatten().double() for g in a.values()]).norm()
    return max(float((a[k].double() - b[k].double()).norm() / norm) for k in a)


@pytest.mark.parametrize("memory", ["global+local", "local", "global"])
@pytest.mark.parametrize("pairs", [1, 3, 7, 14, 1000])
def test_blocks_have_the_loss_and_gradients_of_the_whole_in_double(pairs: int, memory: str) -> None:
    network = undropped(memory=memory).double()
    network.zero_grad(set_to_none=True)
    whole = pair_loss(network(images(7, torch.float64), texts(7)))
    whole.backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    loss, found = gradients(network, 7, pairs=pairs)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-12)
    assert distance(expected, found) < 1e-12


def test_blocks_have_the_loss_and_gradients_of_the_whole_in_single() -> None:
    network = undropped()
    expected, whole = gradients(network, 9, pairs=None)
    loss, found = gradients(network, 9, pairs=10)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert distance(whole, found) < 1e-6


def test_dropout_is_computed_again_as_it_was() -> None:
    """Without it, the gradient would belong to another random network than the loss."""
    network = make_carzero(dropout=0.4).double().train()
    results = []
    for recompute in (True, False):
        torch.manual_seed(5)
        results.append(gradients(network, 6, pairs=6, recompute=recompute))
    assert results[0][0] == results[1][0]
    assert distance(results[0][1], results[1][1]) < 1e-13
    torch.manual_seed(6)
    assert gradients(network, 6, pairs=6)[0] != results[0][0]


def test_blocks_forget_their_activations() -> None:
    """Bytes that autograd keeps for the fusion: a few times more for a batch twice as large, not four times."""
    network = make_carzero().train()
    fusion = network.fusion_module

    def kept(batch: int, pairs: int | None) -> int:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        tokens = torch.randn(batch, 17, 32, requires_grad=True)
        queries = torch.randn(batch, 32, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            fusion_in_blocks(fusion, tokens, queries, 0, pairs).sum()
        return sum(seen.values())

    assert kept(64, None) > 3.2 * kept(32, None)
    assert kept(64, 64) < 0.05 * kept(64, None)


def test_queries_of_other_texts_and_images_give_oblong_logits() -> None:
    network = make_carzero()
    image, text = network.encode_images(images(5)), network.encode_texts(texts(4))
    whole = network.compare(image, text)
    part = pair_logits(network, image[:2], text[:3], sentences=text.sentence, globals_=image[:, 0], pairs=4)
    torch.testing.assert_close(part.i2t, whole.i2t[:2], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(part.t2i, whole.t2i[:3], atol=2e-5, rtol=1e-4)


def test_a_block_needs_a_pair() -> None:
    network = make_carzero()
    with pytest.raises(SettingsError, match="expected at least 1 pair in a block, got 0"):
        pair_logits(network, network.encode_images(images(2)), network.encode_texts(texts(2)), pairs=0)


# -- the loss with pairs left out --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_with_all_other_pairs_wrong_it_is_the_published_loss(batch: int, seed: int) -> None:
    logits = torch.randn(batch, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * 5
    logits.requires_grad_(True)
    diagonal = torch.arange(batch)[:, None].expand(-1, 2)
    wrong = ~torch.eye(batch, dtype=torch.bool)
    ours, published = matching_loss(logits, diagonal, wrong), contrastive_loss(logits)
    torch.testing.assert_close(ours, published, rtol=1e-6, atol=1e-6)
    a, b = (torch.autograd.grad(loss, logits)[0] for loss in (ours, published))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def slow_matching_loss(logits: Tensor, right: list[tuple[int, int]], wrong: Tensor) -> float:
    """From the definition: cross-entropy of every right pair among itself and the wrong ones."""
    total = 0.0
    for image, text in right:
        own = logits[image, text]
        rivals = [logits[image, t] for t in range(logits.shape[1]) if wrong[image, t]]
        total += float(torch.stack([own, *rivals]).logsumexp(0) - own) / 2
        rivals = [logits[i, text] for i in range(logits.shape[0]) if wrong[i, text]]
        total += float(torch.stack([own, *rivals]).logsumexp(0) - own) / 2
    return total / len(right)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31 - 1))
def test_it_is_the_mean_over_right_pairs_among_the_wrong_ones(images_: int, texts_: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images_, texts_, generator=generator) * 4
    relation = torch.rand(images_, texts_, generator=generator)
    relation[0, 0] = 0.0
    right = (relation < 0.3).nonzero()
    wrong = relation > 0.6
    found = matching_loss(logits, right, wrong)
    assert float(found) == pytest.approx(slow_matching_loss(logits, right.tolist(), wrong), rel=1e-4, abs=1e-5)


def test_pairs_that_are_neither_get_no_gradient_and_lonely_pairs_no_nan() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    wrong = torch.zeros(3, 3, dtype=torch.bool)
    wrong[0, 1] = True
    (gradient,) = torch.autograd.grad(matching_loss(logits, torch.tensor([[0, 0], [2, 2]]), wrong), logits)
    assert gradient[0, 0] < 0 < gradient[0, 1]
    rest = gradient.clone()
    rest[0, :2] = 0
    assert not rest.any()


def test_it_refuses_a_batch_without_pairs() -> None:
    with pytest.raises(TrainingError, match="at least one right pair"):
        matching_loss(torch.zeros(2, 2), torch.zeros(0, 2, dtype=torch.long), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TrainingError, match="marks of shape"):
        matching_loss(torch.zeros(2, 2), torch.zeros(1, 2, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool))


def test_pair_logits_are_pair_logits() -> None:
    network = make_carzero()
    found = pair_logits(network, network.encode_images(images(3)), network.encode_texts(texts(3)))
    assert isinstance(found, PairLogits)
    assert found.mean.shape == (3, 3)
