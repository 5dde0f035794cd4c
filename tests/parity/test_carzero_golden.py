"""The full-size CARZero filled by a rule must give the numbers of the published implementation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden import load_fill
from wordsight.imaging import CARZERO_INPUT, prepare, read_image
from wordsight.models.carzero.asking import AskedTexts, ImageTokens
from wordsight.models.carzero.loss import pair_loss
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.scoring import (
    character_lengths,
    fusion_logits_and_maps,
    local_similarity,
    similarity,
    word_lengths,
)
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_input import TextInput
from wordsight.models.carzero.weights import load_network, state_of

pytestmark = pytest.mark.slow


class Case:
    """One case: `<case>.json` describes its inputs and arrays, `<case>.npz` holds the arrays."""

    def __init__(self, folder: Path, name: str) -> None:
        self.description = json.loads((folder / f"{name}.json").read_text())
        self.inputs = self.description["inputs"]
        self.arrays = np.load(folder / f"{name}.npz")

    def error(self, name: str, ours: Any) -> float:
        """norm(ours - golden) / norm(golden)."""
        golden = self.arrays[name].astype(np.float64)
        ours = np.asarray(ours, dtype=np.float64)
        assert ours.shape == golden.shape, f"{name}: {ours.shape} is not {golden.shape}"
        return float(np.linalg.norm(ours - golden) / np.linalg.norm(golden))

    def distance(self, name: str, ours: Any) -> float:
        """Largest absolute difference."""
        return float(np.abs(np.asarray(ours, dtype=np.float64) - self.arrays[name]).max())


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "goldens" / "carzero"


@pytest.fixture(scope="module")
def fill(shared: Path) -> Any:
    return load_fill(shared)


def rule(fill: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """A parameter by its key without prefix; the norm that is listed twice takes the values of its first name."""
    key = name.replace("decoder.norm.", "decoder_norm.")
    return torch.from_numpy(np.array(fill(key, shape)))


def set_by_rule(network: CarZeroNetwork, fill: Any) -> CarZeroNetwork:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(rule(fill, name, tuple(parameter.shape)))
    return network.eval()


@pytest.fixture(scope="module")
def network(folder: Path, fill: Any, tmp_path_factory: pytest.TempPathFactory) -> CarZeroNetwork:
    """The full network by rule, through a checkpoint with the published names."""
    keys = json.loads((folder / "checkpoint_keys.json").read_text())
    state = {key: rule(fill, key.removeprefix("CARZero."), tuple(shape)) for key, shape in keys.items()}
    assert len(state) == 434
    path = tmp_path_factory.mktemp("weights") / "CARZero_best_model.ckpt"
    torch.save({"state_dict": state, "epoch": 1, "hyper_parameters": {}}, path)
    del state
    network = load_network(path)
    path.unlink()
    assert network.settings == CarZeroSettings.published()
    assert len(state_of(network)) == 432
    assert set(network.state_dict()) == {key.removeprefix("CARZero.") for key in keys}
    assert sum(tensor.numel() for tensor in state_of(network).values()) == 221_942_274
    return network


@pytest.fixture(scope="module")
def text_input(folder: Path) -> TextInput:
    return TextInput(folder / "tokenizer", CarZeroSettings.published())


@pytest.fixture(autouse=True)
def no_grad_by_default(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("steps" in request.node.name):
        yield


def report(record_property: Any, **errors: float) -> None:
    """Print what was reached (shown with -rP) and keep it in the test report."""
    for name, error in errors.items():
        print(f"{name}: {error:.2e}")
        record_property(name, error)


def made(fill: Any, entry: dict[str, Any], factor: float = 1.0) -> Tensor:
    return torch.from_numpy(fill(entry["name"], tuple(entry["shape"]), "plain") * np.float32(factor))


def pictures(folder: Path, files: list[str]) -> Tensor:
    arrays = [prepare(read_image(folder / "images" / name), CARZERO_INPUT)[0] for name in files]
    return torch.from_numpy(np.stack(arrays))


def stats(values: Tensor) -> np.ndarray:
    """Rows of (mean, population standard deviation, norm)."""
    flat = values.double().flatten(1)
    return torch.stack([flat.mean(1), flat.std(1, correction=0), flat.norm(dim=1)], dim=1).numpy()


def test_preprocessing(folder: Path, record_property: Any) -> None:
    case = Case(folder, "preprocess")
    ours = pictures(folder, case.inputs["images"]["files"])
    bytes_again = ((ours[:, 0] * 0.2449 + 0.4978) * 255).round().byte().numpy()
    assert np.array_equal(bytes_again, case.arrays["crop_uint8"])
    errors = {
        "normalised": case.error("normalised_float16", ours[:, 0, 40:184:4].numpy().astype(np.float16)),
        "stats": case.error("stats", stats(ours[:, 0])),
    }
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-6


def test_texts(network: CarZeroNetwork, text_input: TextInput, folder: Path, record_property: Any) -> None:
    case = Case(folder, "text")
    sentences = case.inputs["sentences"]
    tokens = text_input(sentences)
    assert np.array_equal(tokens.ids.numpy(), case.arrays["input_ids"])
    assert np.array_equal(tokens.mask.numpy(), case.arrays["attention_mask"])
    assert np.array_equal(tokens.words.numpy(), case.arrays["num_words"])
    assert [len(t.replace("[", "")) for t in sentences] == case.arrays["cap_lens"].tolist()
    features = network.encode_texts(tokens)
    words = features.padded_words().transpose(1, 2)  # (T, D, 97)
    errors = {
        "words": case.error("word_embeddings_slice", words[:, :24]),
        "word_stats": case.error("word_embeddings_stats", stats(words)),
        "word_norms": case.error("word_embeddings_l2", words.norm(dim=1)),
        "sentences": case.error("sentence_embeddings", features.sentence),
    }
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-5


def test_images(network: CarZeroNetwork, fill: Any, folder: Path, record_property: Any) -> None:
    case = Case(folder, "vision")
    tokens = network.encode_images(made(fill, case.inputs["images"], 0.5))
    local = tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    errors = {
        "global": case.error("global", tokens[:, 0]),
        "local": case.error("local_slice", local[:, :32]),
        "local_stats": case.error("local_stats", stats(local)),
        "local_norms": case.error("local_position_l2", local.norm(dim=1)),
    }
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-5


def test_fusion(network: CarZeroNetwork, fill: Any, folder: Path, record_property: Any) -> None:
    case = Case(folder, "fusion")
    image, sentence, text, overall = (
        made(fill, case.inputs[name]) for name in ("image_tokens", "text_global", "text_tokens", "image_global")
    )
    fusion = network.fusion_module
    memory = fusion.remember(image)
    logits, attention = fusion.compare_with_maps(memory, sentence)
    asked, looked = ImageTokens(fusion, image, len(sentence)).asked(sentence, maps=True)
    assert looked is not None
    out, _ = fusion.decode(memory, sentence)
    errors = {
        "logits": case.error("logits", logits[..., None]),
        "fused": case.error("logits", fusion(image, sentence)[..., None]),
        "asked": case.error("logits", asked[..., None]),
        "decoder_out": case.error("decoder_out", out.transpose(0, 1)),
        "logits_t2i": case.error("logits_t2i", fusion(text, overall)[..., None]),
    }
    for name, maps in (("attention", attention), ("asked", looked)):
        errors |= {f"{name}_{i}": case.error(f"attention_{i}", weights) for i, weights in enumerate(maps)}
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-4


def test_zero_shot(network: CarZeroNetwork, text_input: TextInput, folder: Path, record_property: Any) -> None:
    case = Case(folder, "zeroshot")
    text = network.encode_texts(text_input(list(case.inputs["prompts"]["prompts"].values())))
    image = network.encode_images(pictures(folder, case.inputs["images"]["files"]))
    pairs = network.compare(image, text)
    _, attention = network.fusion_module.compare_with_maps(network.text_memory(text), image[:, 0])
    asked = AskedTexts(network, text).compare(image)[0]
    logits = {"similarity": pairs.mean, "i2t": pairs.i2t, "t2i": pairs.t2i.T}
    folded = {"similarity": asked.mean, "i2t": asked.i2t, "t2i": asked.t2i.T}
    errors = {name: case.error(name, ours) for name, ours in logits.items()}
    errors |= {f"{name}_folded": case.error(name, ours) for name, ours in folded.items()}
    errors |= {
        "image_global": case.error("image_global", image[:, 0]),
        "text_global": case.error("text_global", text.sentence),
        "attention": case.error("attention_t2i_last_slice", attention[-1][..., :12]),
    }
    absolute = {f"{name}_absolute": case.distance(name, ours) for name, ours in logits.items()}
    absolute |= {f"{name}_folded_absolute": case.distance(name, ours) for name, ours in folded.items()}
    report(record_property, **errors, **absolute)
    assert attention.shape[-1] == 98
    assert max(errors.values()) <= 1e-4
    assert max(absolute.values()) <= 1e-5
    sure = (np.abs(case.arrays["i2t"]) > 1e-4) & (np.abs(case.arrays["t2i"]) > 1e-4)
    assert np.array_equal((pairs.i2t * pairs.t2i.T).sign().numpy()[sure] * 10, case.arrays["cos"][sure])


def test_grounding(network: CarZeroNetwork, text_input: TextInput, folder: Path, record_property: Any) -> None:
    case = Case(folder, "grounding")
    text = network.encode_texts(text_input(list(case.inputs["prompts"]["prompts"].values())))
    image = network.encode_images(pictures(folder, case.inputs["images"]["files"]))
    _, maps = fusion_logits_and_maps(network, image, text)
    errors = {"map": case.error("map", maps), "map_sum": case.error("map_sum", maps.sum((-1, -2)))}
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-4


def test_similarities(
    network: CarZeroNetwork, text_input: TextInput, fill: Any, folder: Path, record_property: Any
) -> None:
    case = Case(folder, "similarity")
    prompts = list(case.inputs["prompts"]["prompts"].values())
    text = network.encode_texts(text_input(prompts))
    image = network.encode_images(pictures(folder, case.inputs["images"]["files"]))
    assert character_lengths(prompts) == case.inputs["prompts"]["cap_lens"]
    assert word_lengths(text) == case.inputs["prompts"]["word_counts"]
    overall, local = (similarity(network, image, text, prompts, kind) for kind in ("global", "local"))
    by_words = local_similarity(image, text.padded_words(), word_lengths(text))
    assert not case.arrays["local"].any()
    assert float(local.abs().max()) <= 1e-6
    words = made(fill, case.inputs["synthetic_words"], 0.2)
    words[:, :, 12:20] = 0
    tokens = made(fill, case.inputs["synthetic_local"], 0.2).flatten(2).transpose(1, 2)
    tokens = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)
    lengths = case.inputs["synthetic_words"]["cap_lens"]
    errors = {
        "global": case.error("global", overall),
        "both": case.error("both", similarity(network, image, text, prompts, "both")),
        "local_words": case.error("local_words", by_words),
        "both_words": case.error("both_words", (by_words + overall) / 2),
        "local_synthetic": case.error("local_synthetic", local_similarity(tokens, words.transpose(1, 2), lengths)),
    }
    report(record_property, **errors)
    assert max(errors.values()) <= 1e-4


def test_loss_gradients_and_three_adam_steps(
    network: CarZeroNetwork, text_input: TextInput, fill: Any, folder: Path, record_property: Any
) -> None:
    case = Case(folder, "train")
    images = made(fill, case.inputs["imgs"], 0.5)
    tokens = text_input.tokenize(case.inputs["captions"])
    assert np.array_equal(tokens.ids.numpy(), case.arrays["input_ids"])
    named = dict(network.named_parameters())
    trained = [p for p in named.values() if p.requires_grad]
    adam = torch.optim.Adam(trained, lr=5e-5, betas=(0.5, 0.999), eps=1e-8, weight_decay=1e-6)
    losses, totals, errors = [], [], {}
    for step in range(4):
        with torch.set_grad_enabled(step < 3):
            pairs = network(images, tokens)
            loss = pair_loss(pairs)
        losses.append(float(loss.detach()))
        if step == 3:
            break
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = {n: np.nan if p.grad is None else float(p.grad.double().norm()) for n, p in named.items()}
        totals.append(float(np.sqrt(np.nansum(np.square(list(norms.values()))))))
        if step == 0:
            errors |= {
                "i2t": case.error("i2t_cls", pairs.i2t.detach()),
                "t2i": case.error("t2i_cls", pairs.t2i.detach()),
            }
            errors |= gradient_errors(case, named, norms, tokens.ids)
        torch.nn.utils.clip_grad_norm_(trained, 0.25)
        if step == 0:
            # these two slices were stored as views, so they hold what clipping left
            errors["patch_embed"] = case.error(
                "grad_slice_patch_embed", gradient(named, "img_encoder.model.patch_embed.proj.weight")[:4, :, :2, :4]
            )
            errors["mlp0"] = case.error("grad_slice_mlp0", gradient(named, "fusion_module.mlp_head.0.weight")[:4, :16])
        adam.step()
    set_by_rule(network, fill)
    errors["losses"] = float(np.abs(np.array(losses) / case.arrays["losses"] - 1)[1:].max())
    errors["first_loss"] = abs(losses[0] / float(case.arrays["losses"][0]) - 1)
    errors["total_norms"] = float(np.abs(np.array(totals) / case.arrays["grad_total_norm"] - 1).max())
    report(record_property, **errors)
    assert errors["first_loss"] <= 1e-5
    assert errors["losses"] <= 1e-4
    assert max(value for name, value in errors.items() if name != "losses") <= 1e-3


def gradient_errors(
    case: Case, named: dict[str, torch.nn.Parameter], norms: dict[str, float], ids: Tensor
) -> dict[str, float]:
    """Norms of all gradients that are not zero up to rounding, and the stored slices."""
    names = case.description["all_parameters"]
    assert set(names) == set(named)
    noise = set(case.description["gradients_that_are_zero_up_to_rounding"])
    wanted = dict(zip(names, case.arrays["grad_norms_all"], strict=True))
    assert {n for n in named if np.isnan(norms[n])} == set(case.description["parameters_without_gradient"])
    kept = [n for n in names if n not in noise and not np.isnan(wanted[n])]
    words = gradient(named, "text_encoder.model.embeddings.word_embeddings.weight")[ids[:, 1], :16]
    return {
        "word_embedding": case.error("grad_slice_word_emb", words),
        "grad_norms": max(abs(norms[n] / wanted[n] - 1) for n in kept),
    }


def gradient(named: dict[str, torch.nn.Parameter], name: str) -> Tensor:
    found = named[name].grad
    assert found is not None
    return found
