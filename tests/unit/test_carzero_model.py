"""The network against its slow twin; the fast path of the fusion module against the plain one; the loss."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from reference_carzero import Twin, local_similarity
from tiny_carzero import SETTINGS, WORDS, make_carzero, text_folder
from wordsight.errors import MetricError, PromptError, SettingsError, TrainingError
from wordsight.models.carzero.grounding import attention_maps, display_limits, enlarge, even_share
from wordsight.models.carzero.loss import contrastive_loss, pair_loss
from wordsight.models.carzero.model import PairLogits
from wordsight.models.carzero.scoring import (
    by_finding,
    character_lengths,
    fusion_logits,
    fusion_logits_and_maps,
    global_similarity,
    pair_probability,
    similarity,
    word_lengths,
)
from wordsight.models.carzero.scoring import local_similarity as our_local_similarity
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_encoder import TextFeatures, sum_words
from wordsight.models.carzero.text_input import TextInput, Tokens
from wordsight.types import peak

TEXTS = ["no pneumothorax", "there is a small pleural effusion", "", "cardiomegaly opacities nodules there " * 5]
SIZE, GRID, WIDTH = 32, 4, 32


@pytest.fixture(autouse=True)
def no_grad(request: pytest.FixtureRequest) -> Any:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.fixture(scope="module")
def text_input(tmp_path_factory: pytest.TempPathFactory) -> TextInput:
    return TextInput(text_folder(tmp_path_factory.mktemp("text")), SETTINGS)


@pytest.fixture(scope="module")
def tokens(text_input: TextInput) -> Tokens:
    return text_input.tokenize(TEXTS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pieces_of(tokens: Tokens) -> list[list[str]]:
    return [
        [WORDS[i] for i, kept in zip(*row, strict=True) if kept] for row in zip(tokens.ids, tokens.mask, strict=True)
    ]


@cache
def tiny(memory: str = "global+local", head: str = "mlp") -> Any:
    return make_carzero(memory=memory, head=head)


@pytest.mark.parametrize(("memory", "head"), [("global+local", "mlp"), ("global", "linear"), ("local", "linear")])
def test_every_pair_is_the_twins(memory: str, head: str, tokens: Tokens) -> None:
    network = tiny(memory, head)
    twin, images = Twin(network), noise(2, 3, SIZE, SIZE)
    ours = network(images, tokens)
    texts = [twin.text(pieces, WORDS) for pieces in pieces_of(tokens)]
    wanted = np.array([[twin.pair(twin.image(i.double().numpy()), *t) for t in texts] for i in images])
    np.testing.assert_allclose(ours.i2t.numpy(), wanted[..., 0], atol=2e-5)
    np.testing.assert_allclose(ours.t2i.T.numpy(), wanted[..., 1], atol=2e-5)
    np.testing.assert_allclose(ours.mean.numpy(), wanted.mean(-1), atol=2e-5)
    assert wanted.std() > 0.01  # the pairs differ


def test_words_and_sentences_are_the_twins(tokens: Tokens) -> None:
    network = tiny()
    features = network.encode_texts(tokens)
    assert features.words.shape[1] == int(features.count.max()) < SETTINGS.text_length
    for row, pieces in enumerate(pieces_of(tokens)):
        sentence, words = Twin(network).text(pieces, WORDS)
        np.testing.assert_allclose(features.sentence[row].numpy(), sentence, atol=1e-5)
        np.testing.assert_allclose(features.padded_words()[row].numpy(), words, atol=1e-4)
        assert int(features.count[row]) == sum(not piece.startswith("##") for piece in pieces)


def test_a_text_alone_is_as_in_a_batch(text_input: TextInput) -> None:
    network, together = tiny(), tiny().encode_texts(text_input.tokenize(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = network.encode_texts(text_input.tokenize([text]))
        torch.testing.assert_close(alone.sentence[0], together.sentence[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.padded_words()[0], together.padded_words()[row], atol=1e-4, rtol=0)
        image = noise(3, 1 + GRID**2, WIDTH)
        torch.testing.assert_close(
            network.compare(image, alone).mean[:, 0], network.compare(image, together).mean[:, row], atol=1e-5, rtol=0
        )


def test_words_join_pieces_by_sum_and_drop_what_belongs_to_none() -> None:
    pieces = torch.arange(8.0).reshape(1, 4, 2)
    ours = sum_words(pieces, torch.tensor([[0, 1, 1, 9]]), torch.tensor([2]))
    assert ours.tolist() == [[[0.0, 1.0], [2.0 + 4.0, 3.0 + 5.0]]]


def test_joined_batches_are_one_batch(text_input: TextInput) -> None:
    network = tiny()
    parts = [network.encode_texts(text_input.tokenize([text])) for text in TEXTS]
    joined, whole = TextFeatures.joined(parts), network.encode_texts(text_input.tokenize(TEXTS))
    torch.testing.assert_close(joined.words, whole.words, atol=1e-4, rtol=0)
    assert torch.equal(joined.count, whole.count)


# -- fusion: fast path, plain path, maps ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 40), st.integers(0, 2**31))
def test_collapsed_padding_equals_spelled_out_zero_vectors(
    memories: int, queries: int, positions: int, padding: int, seed: int
) -> None:
    fusion = tiny().fusion_module
    tokens, asked = noise(memories, positions, WIDTH, seed=seed), noise(queries, WIDTH, seed=seed + 1)
    with torch.no_grad():
        plain_logits, plain_maps = fusion.compare_with_maps(fusion.remember(F.pad(tokens, (0, 0, 0, padding))), asked)
        logits, maps = fusion.compare_with_maps(fusion.remember(tokens, padding), asked)
        torch.testing.assert_close(logits, plain_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(maps, plain_maps, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(fusion(tokens, asked, padding), plain_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5), st.integers(5, 60), st.integers(0, 2**31))
def test_padding_is_part_of_the_result(positions: int, padding: int, seed: int) -> None:
    """Trimming it, as one would, gives other numbers."""
    fusion = tiny().fusion_module
    tokens, asked = noise(2, positions, WIDTH, seed=seed), noise(2, WIDTH, seed=seed + 1)
    with torch.no_grad():
        assert float((fusion(tokens, asked) - fusion(tokens, asked, padding)).abs().max()) > 1e-3


def test_fusion_and_its_maps_are_the_twins() -> None:
    network = tiny()
    tokens, asked = noise(2, 9, WIDTH), noise(3, WIDTH, seed=1)
    logits, maps = network.fusion_module.compare_with_maps(network.fusion_module.remember(tokens), asked)
    for m in range(2):
        for q in range(3):
            logit, attention = Twin(network).fusion(tokens[m].double().numpy(), asked[q].double().numpy())
            assert float(logits[m, q]) == pytest.approx(logit, abs=2e-5)
            np.testing.assert_allclose(maps[:, m, q].numpy(), attention, atol=1e-6)


def test_one_memory_serves_any_queries_and_can_be_sliced() -> None:
    fusion = tiny().fusion_module
    tokens, asked = noise(4, 7, WIDTH), noise(5, WIDTH, seed=1)
    memory = fusion.remember(tokens, 11)
    whole = fusion.compare(memory, asked)
    torch.testing.assert_close(fusion.compare(memory, asked[3:]), whole[:, 3:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fusion.compare(memory[1:3], asked), whole[1:3], atol=1e-6, rtol=1e-5)
    assert len(memory[1:3]) == 2


def test_training_drops_padded_positions_one_by_one() -> None:
    network = make_carzero(dropout=0.5)
    fusion = network.fusion_module.train()
    assert fusion.remember(noise(1, 3, WIDTH), 9).keys[0].shape[2] == 12
    assert fusion.eval().remember(noise(1, 3, WIDTH), 9).keys[0].shape[2] == 4
    fusion.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (fusion(noise(1, 3, WIDTH), noise(1, WIDTH)) for _ in range(2))
    assert not torch.equal(first, second)


def test_gradients_reach_everything_but_the_unused_and_frozen(text_input: TextInput) -> None:
    network = make_carzero()
    pair_loss(network(noise(3, 3, SIZE, SIZE), text_input.tokenize(TEXTS[:2] + TEXTS[3:]))).backward()  # type: ignore[no-untyped-call]
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    layers = {n for n in dict(network.named_parameters()) if "self_attn" in n or (".norm1." in n and "fusion" in n)}
    pooler = {f"text_encoder.model.pooler.dense.{part}" for part in ("weight", "bias")}
    assert without == layers | pooler | {"img_encoder.model.pos_embed", "fusion_module.logit_scale"}


# -- scores -----------------------------------------------------------------------------------------------------------


def features(network: Any, text_input: TextInput) -> tuple[Tensor, TextFeatures]:
    return network.encode_images(noise(2, 3, SIZE, SIZE)), network.encode_texts(text_input.tokenize(TEXTS))


def test_chunks_of_texts_change_nothing(text_input: TextInput) -> None:
    network = tiny()
    image, text = features(network, text_input)
    whole = network.compare(image, text).mean
    torch.testing.assert_close(fusion_logits(network, image, text, chunk=2), whole, atol=1e-5, rtol=0)
    logits, maps = fusion_logits_and_maps(network, image, text, chunk=3)
    torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0)
    assert maps.shape == (2, 4, GRID, GRID)


def test_global_similarity_is_a_cosine(text_input: TextInput) -> None:
    network = tiny()
    image, text = features(network, text_input)
    a, b = image[1, 0].numpy(), text.sentence[3].numpy()
    assert float(global_similarity(image, text)[1, 3]) == pytest.approx(
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-6
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**31))
def test_local_similarity_is_the_twins(count: int, zeros: int, seed: int) -> None:
    image, words = noise(2, 1 + 6, 5, seed=seed), noise(1, 10, 5, seed=seed + 1)
    words[:, 10 - zeros :] = 0
    ours = our_local_similarity(image, words, [count])
    for b in range(2):
        wanted = local_similarity(image[b, 1:].double().numpy(), words[0].double().numpy(), count)
        assert float(ours[b, 0]) == pytest.approx(wanted, abs=1e-4)


def test_local_similarity_with_zero_vectors_is_never_negative() -> None:
    words = -noise(1, 12, 8).abs()
    words[:, 4:] = 0
    image = noise(3, 5, 8, seed=1).abs()
    assert float(our_local_similarity(image, words, [3]).max()) < 0
    assert float(our_local_similarity(image, words, [9]).min()) == 0


@pytest.mark.parametrize("count", [0, 10])
def test_local_similarity_refuses_lengths_it_has_no_positions_for(count: int) -> None:
    with pytest.raises(PromptError, match=rf"expected texts with 1 to 9 positions to compare, got {count}\. Shorten"):
        our_local_similarity(noise(1, 5, 4), noise(1, 10, 4), [count])


def test_lengths_count_characters_as_published_or_words(text_input: TextInput) -> None:
    assert character_lengths(["no [pleural", ""]) == [10, 0]
    assert word_lengths(tiny().encode_texts(text_input.tokenize(["no pneumothorax", ""]))) == [2, 1]


def test_similarity_by_name(text_input: TextInput) -> None:
    raw = ["is no heart mass", "no mass"]
    network, corrected = tiny(), make_carzero(word_lengths="words")
    image = network.encode_images(noise(2, 3, SIZE, SIZE))
    text = network.encode_texts(text_input(raw))
    padded = text.padded_words()
    for kind, wanted in {
        "fusion": fusion_logits(network, image, text),
        "global": global_similarity(image, text),
        "local": our_local_similarity(image, padded, [16, 7]),
        "both": (our_local_similarity(image, padded, [16, 7]) + global_similarity(image, text)) / 2,
    }.items():
        assert torch.equal(similarity(network, image, text, raw, kind), wanted)
    assert torch.equal(similarity(corrected, image, text, raw, "local"), our_local_similarity(image, padded, [4, 2]))
    with pytest.raises(SettingsError, match="similarity: expected 'fusion', 'global', 'local' or 'both', got 'cosine'"):
        similarity(network, image, text, raw, "cosine")  # type: ignore[arg-type]


def test_several_sentences_of_a_finding() -> None:
    scores, owner = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([0, 1, 0])
    assert by_finding(scores, owner, 2).tolist() == [[1.5, 5.0]]
    assert by_finding(scores, owner, 2, "max").tolist() == [[2.0, 5.0]]
    with pytest.raises(SettingsError, match="combine: expected 'mean' or 'max', got 'sum'"):
        by_finding(scores, owner, 2, "sum")  # type: ignore[arg-type]


def test_pair_probability_is_a_softmax() -> None:
    positive, negative = noise(4, 3), noise(4, 3, seed=1)
    wanted = torch.stack([positive, negative]).softmax(0)[0]
    torch.testing.assert_close(pair_probability(positive, negative), wanted)


# -- grounding --------------------------------------------------------------------------------------------------------


def test_maps_are_the_mean_of_the_layers_without_the_global_token() -> None:
    attention = noise(2, 3, 5, 1 + GRID**2).softmax(-1)
    maps = attention_maps(attention, SETTINGS)
    assert maps.shape == (3, 5, GRID, GRID)
    assert float(maps[2, 1, 1, 3]) == pytest.approx(float(attention[:, 2, 1, 1 + GRID + 3].mean()))
    torch.testing.assert_close(maps.sum((-1, -2)), 1 - attention[..., 0].mean(0))


def test_local_memory_has_no_global_token_and_global_memory_no_map() -> None:
    attention = noise(2, 1, 1, GRID**2).softmax(-1)
    assert float(attention_maps(attention, tiny("local", "linear").settings).sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(SettingsError, match="expected memory='local' or 'global\\+local' to ground findings"):
        attention_maps(attention[..., :1], tiny("global", "linear").settings)


def test_enlarged_maps() -> None:
    maps = noise(1, 2, GRID, GRID)
    near = enlarge(maps, SIZE, "nearest")
    assert torch.equal(near, maps.repeat_interleave(8, -1).repeat_interleave(8, -2))
    smooth = enlarge(maps, SIZE, "smooth")
    assert float(smooth[0, 0, 4, 4]) != float(smooth[0, 0, 3, 3])
    assert float(smooth.max()) <= float(maps.max())
    with pytest.raises(SettingsError, match="expected 'nearest' or 'smooth', got 'cubic'"):
        enlarge(maps, SIZE, "cubic")  # type: ignore[arg-type]


def test_the_peak_is_the_same_place_in_either_size() -> None:
    values = np.zeros((GRID, GRID), np.float32)
    values[1, 2] = 1
    big = enlarge(torch.from_numpy(values)[None, None], SIZE, "nearest")[0, 0].numpy()
    assert peak(values) == (1.5, 2.5)
    assert peak(big) == (1.5 * 8, 2.5 * 8)
    big[:3] = np.nan
    assert peak(big) == (1.5 * 8, 2.5 * 8)
    with pytest.raises(MetricError, match=r"expected a map \(h, w\) with numbers, got shape \(2, 2\)"):
        peak(np.full((2, 2), np.nan, np.float32))


def test_the_scale_of_drawing_counts_in_even_shares() -> None:
    published = CarZeroSettings()
    assert even_share(published) == pytest.approx(1 / 196)
    assert display_limits(published) == (0.0, pytest.approx(10 / 196))


# -- loss -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_loss_is_the_twins(batch: int, seed: int) -> None:
    i2t, t2i = noise(batch, batch, seed=seed), noise(batch, batch, seed=seed + 1)
    wanted = 0.0
    for logits in (i2t.double().numpy(), t2i.double().numpy()):
        rows = [np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(batch)]
        columns = [np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(batch)]
        wanted += (np.mean(rows) + np.mean(columns)) / 2
    assert float(pair_loss(PairLogits(i2t, t2i))) == pytest.approx(wanted, abs=1e-5)


def test_the_loss_at_chance_and_for_other_shapes() -> None:
    flat = torch.zeros(8, 8)
    assert float(pair_loss(PairLogits(flat, flat))) == pytest.approx(2 * np.log(8), abs=1e-6)
    with pytest.raises(TrainingError, match=r"expected logits \(B, B\), one text per image, got shape \[2, 3\]"):
        contrastive_loss(torch.zeros(2, 3))


def test_resnet_gives_tokens_of_the_texts_width() -> None:
    network = make_carzero(image_encoder="resnet50")
    tokens = network.encode_images(noise(1, 3, 64, 64))
    assert tokens.shape == (1, 1 + 4**2, WIDTH)
    net, images = network.img_encoder.model, noise(1, 3, 64, 64)
    fourth = net.forward_features(images)  # timm's own path
    wanted = network.img_encoder.global_embedder(fourth.mean((2, 3)))
    torch.testing.assert_close(tokens[:, 0], wanted, atol=1e-4, rtol=1e-4)


def test_the_seed_decides_the_weights_and_leaves_the_global_state() -> None:
    from wordsight.models.carzero.model import CarZeroNetwork

    before = torch.get_rng_state()
    first, again, other = (CarZeroNetwork(SETTINGS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_new_weights_of_the_fusion_module_are_drawn_as_published() -> None:
    from wordsight.models.carzero.model import CarZeroNetwork

    state = CarZeroNetwork(SETTINGS).fusion_module.state_dict()
    for name in ("decoder.layers.1.multihead_attn.in_proj_weight", "decoder.layers.0.linear1.weight"):
        assert float(state[name].std()) == pytest.approx(0.02, rel=0.1)
    assert float(state["logit_scale"]) == pytest.approx(np.log(1 / 0.07))


def test_folder_is_read_from_disk(tmp_path: Path) -> None:
    assert TextInput(str(text_folder(tmp_path / "text")), SETTINGS).folder == tmp_path / "text"


def test_the_vision_transformer_in_reused_memory_gives_timms_tokens_every_time() -> None:
    encoder = make_carzero().img_encoder
    images = noise(11, 3, SIZE, SIZE)  # more than it takes at a time
    with torch.enable_grad():
        wanted = encoder(images).detach()  # timm's own way
    first, kept = encoder(images), encoder(images[:3])
    with torch.inference_mode():
        later = encoder(images.flip(0))
    torch.testing.assert_close(first, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(later.flip(0), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept, wanted[:3], atol=1e-5, rtol=1e-5)


def test_threads_that_encode_at_the_same_time_do_not_share_memory() -> None:
    encoder, images = make_carzero().img_encoder, noise(32, 3, SIZE, SIZE)

    def encode(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([encoder(rows) for _ in range(20)])

    wanted = encode(images)
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(encode, [images[:16], images[16:]]))
    torch.testing.assert_close(torch.cat(halves, dim=1), wanted, atol=1e-5, rtol=1e-5)
