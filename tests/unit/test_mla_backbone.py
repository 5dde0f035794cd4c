"""Frozen CLIP backbones: every file format gives the same network."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from safetensors.torch import save_file

from clip_tools import (
    CONFIG,
    TEXT,
    VISION,
    assert_same,
    features,
    images,
    openai_archive,
    reference,
    transformers_folder,
)
from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.models.mla.backbone import load_clip
from wordsight.models.mla.clip_keys import resize_positions
from wordsight.models.torchscript import read_torchscript


def test_frozen_and_described(clip_folder: Path) -> None:
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=56)
    assert_same(clip, reference(CONFIG))
    assert (clip.grid, clip.patch_size, clip.image_size) == ((4, 4), 14, 56)
    assert (clip.vision_width, clip.vision_layers, clip.text_width, clip.embed_dim) == (32, 3, 32, 16)
    assert (clip.context_length, clip.activation, clip.trained, clip.architecture) == (
        24,
        "gelu",
        True,
        str(clip_folder / "tiny.json"),
    )
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert all(p.dtype == torch.float32 and not p.is_meta for p in clip.model.parameters())
    assert clip.to("cpu") is clip
    assert load_clip(clip.architecture, clip.weights, image_size=56).weights_hash == clip.weights_hash


@pytest.mark.parametrize("route", ["wrapped", "safetensors", "script", "trace", "custom_names", "half"])
def test_every_format_gives_the_same_network(clip_folder: Path, tmp_path: Path, route: str) -> None:
    state = reference(CONFIG).state_dict()
    path = tmp_path / "weights.pt"
    if route == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif route == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif route in ("script", "trace"):
        openai_archive(path, state, traced=route == "trace")
    elif route == "custom_names":
        top = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
        torch.save({f"text.{k}" if k.startswith(top) else k: v for k, v in state.items()}, path)
    else:
        torch.save({k: v.half() for k, v in state.items()}, path)
    plain = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=56)
    clip = load_clip(clip_folder / "tiny.json", path, image_size=56)
    for ours, theirs in zip(features(clip), features(plain), strict=True):
        assert torch.equal(ours, theirs)
    assert clip.weights_hash == plain.weights_hash
    assert clip.trained_activation == ("quick_gelu" if route in ("script", "trace") else "gelu")
    assert clip.activation == "gelu"


def test_torchscript_agrees_with_torch(tmp_path: Path) -> None:
    """The reader that runs nothing gives what torch.jit.load gives, names, dtypes and values."""
    openai_archive(tmp_path / "a.pt", reference(CONFIG).state_dict())
    ours = read_torchscript(tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.jit.load(str(tmp_path / "a.pt"), map_location="cpu").state_dict()
    assert set(ours) == set(theirs)
    assert len(ours) == len(reference(CONFIG).state_dict()) + 3
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)


def test_custom_text_network_takes_plain_names(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "custom.json").write_text(json.dumps({**CONFIG, "custom_text": True}))
    clip = load_clip(tmp_path / "custom.json", clip_folder / "tiny.pt", image_size=56)
    assert isinstance(clip.model, CustomTextCLIP)
    assert_same(clip, clip.model)
    assert_same(clip, reference(CONFIG))


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_transformers_folder(tmp_path: Path, act: str) -> None:
    """transformers' CLIPModel as a second opinion on key conversion, activation, heads and pooling."""
    model = transformers_folder(tmp_path, act)
    clip = load_clip(tmp_path, None, image_size=56, activation="weights")
    assert clip.activation == clip.trained_activation == act
    image, text = features(clip)
    ids = clip.tokenizer(["no finding", "a lesion in the liver"])
    with torch.no_grad():
        vision = model.visual_projection(model.vision_model(pixel_values=images()).pooler_output)
        hidden = model.text_model(input_ids=ids).last_hidden_state[torch.arange(2), ids.argmax(-1)]
        torch.testing.assert_close(image, vision, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(text, model.text_projection(hidden), rtol=1e-4, atol=1e-4)


def test_transformers_folder_as_weights_checks_heads(clip_folder: Path, tmp_path: Path) -> None:
    transformers_folder(tmp_path)
    with pytest.raises(WeightsError, match=r"expected weights of .*tiny.json with \(2, 2\) .* heads, got .* \(2, 4\)"):
        load_clip(clip_folder / "tiny.json", tmp_path, image_size=56)


def test_open_clip_folder_prefers_its_own_weights(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    state = reference(CONFIG).state_dict()
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert_same(load_clip(tmp_path, None, image_size=56), reference(CONFIG))
    assert_same(load_clip(clip_folder / "tiny.json", tmp_path, image_size=56), reference(CONFIG))
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="1 unexpected: other"):
        load_clip(tmp_path, None, image_size=56)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="expected a weights file in the folder, found none"):
        load_clip(clip_folder / "tiny.json", tmp_path, image_size=56)


def test_activation_choices(clip_folder: Path, tmp_path: Path) -> None:
    quick = {**CONFIG, "quick_gelu": True}
    openai_archive(tmp_path / "openai.pt", reference(CONFIG).state_dict())
    for activation, config in (("gelu", CONFIG), ("quick_gelu", quick), ("weights", quick)):
        clip = load_clip(clip_folder / "tiny.json", tmp_path / "openai.pt", image_size=56, activation=activation)
        model = reference(config)
        model.load_state_dict(reference(CONFIG).state_dict())
        assert_same(clip, model)
    assert (
        load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=56, activation="weights").activation
        == "gelu"
    )
    with pytest.raises(SettingsError, match="expected 'gelu', 'quick_gelu' or 'weights', got 'relu'"):
        load_clip(clip_folder / "tiny.json", None, image_size=56, activation="relu", seed=0)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="ViT-B-16-quickgelu means QuickGELU"):
        load_clip("ViT-B-16-quickgelu", None, image_size=32, seed=0)


def test_random_weights_by_seed(clip_folder: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (load_clip(clip_folder / "tiny.json", None, image_size=28, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights_hash == again.weights_hash != other.weights_hash
    assert (first.trained, first.seed, first.weights) == (False, 1, None)
    assert torch.equal(features(first)[0], features(again)[0])
    assert_same(first, first.model)
    with pytest.raises(SettingsError, match=r"expected a weights file for .*tiny.json, got none"):
        load_clip(clip_folder / "tiny.json", None, image_size=28)


@pytest.mark.parametrize("size", [28, 45, 70, 112])
def test_positions_are_resized_as_the_library_does(clip_folder: Path, size: int) -> None:
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=size)
    state = dict(reference(CONFIG).state_dict())
    model = CLIP(16, {**VISION, "image_size": size}, dict(TEXT)).eval()
    resize_pos_embed(state, model)
    model.load_state_dict(state)
    assert torch.equal(clip.vision.positional_embedding, state["visual.positional_embedding"])
    assert clip.grid == (size // 14, size // 14)
    assert_same(clip, model)


def test_trailing_pixels_are_never_read(clip_folder: Path) -> None:
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=45)
    seen, changed = images(45), images(45)
    changed[:, :, 42:], changed[:, :, :, 42:] = 9.0, 9.0
    assert torch.equal(clip.vision.embed(seen), clip.vision.embed(changed))


def test_stored_grid_of_that_size_is_used_as_is(clip_folder: Path, tmp_path: Path) -> None:
    resized = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=28)
    torch.save(resized.model.state_dict(), tmp_path / "resized.pt")
    again = load_clip(clip_folder / "tiny.json", tmp_path / "resized.pt", image_size=28)
    assert torch.equal(again.vision.positional_embedding, resized.vision.positional_embedding)


@settings(max_examples=30, deadline=None)
@given(side=st.integers(1, 9), rows=st.integers(1, 9), columns=st.integers(1, 9), constant=st.floats(-2, 2))
def test_resizing_keeps_class_row_and_constants(side: int, rows: int, columns: int, constant: float) -> None:
    positions = torch.full((1 + side * side, 4), constant)
    positions[0] = 7.0
    resized = resize_positions(positions, (rows, columns), "test")
    assert resized.shape == (1 + rows * columns, 4)
    assert torch.equal(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], torch.full((rows * columns, 4), constant))


def test_positions_that_are_no_square() -> None:
    with pytest.raises(WeightsError, match="expected position embeddings of a square patch grid, got 7 rows"):
        resize_positions(torch.zeros(8, 4), (3, 3), "file")


def test_text_causality_and_length(clip_folder: Path) -> None:
    """With the mask, what follows the end of text is not seen; without it, padding is attended."""
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=28)
    ids = clip.tokenizer(["a lesion"])
    end = int(ids[0].argmax())
    x = clip.text.token_embedding(ids) + clip.text.positional_embedding
    changed = x.clone()
    changed[:, end + 1 :] = 1.0
    for causal, same in ((True, True), (False, False)):
        one, two = (clip.text.project(clip.text.run(v, causal)[:, end]) for v in (x, changed))
        assert torch.allclose(one, two, atol=1e-6) is same
    short = clip.text.run(x[:, : end + 1], causal=True)[:, end]
    torch.testing.assert_close(clip.text.project(short), clip.text.encode(ids), rtol=1e-5, atol=1e-5)
    with pytest.raises(PromptError, match="expected at most 24 token embeddings, got 25"):
        clip.text.run(torch.zeros(1, 25, 32), causal=False)
    with pytest.raises(PromptError, match="expected prompts of at most 24 tokens, got 42"):
        clip.tokenizer(["x " * 40])


def test_gradients_pass_through_to_contexts(clip_folder: Path) -> None:
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=28)
    x = torch.randn(1, 24, 32, requires_grad=True)
    clip.text.project(clip.text.run(x, causal=False)[:, 3]).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in clip.model.parameters())


def test_tokenizer_is_the_librarys(clip_folder: Path) -> None:
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=28)
    texts = ["X X X X X X X X no evidence of disease.", "Ödem, 3mm", ""]
    assert torch.equal(clip.tokenizer(texts), open_clip.SimpleTokenizer(context_length=24)(texts))


def test_average_pooling_and_late_norm(tmp_path: Path) -> None:
    for extra in (
        {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True, "ls_init_value": 0.1},
    ):
        (tmp_path / "a.json").write_text(json.dumps({**CONFIG, "vision_cfg": {**VISION, **extra}}))
        clip = load_clip(tmp_path / "a.json", None, image_size=56, seed=0)
        assert_same(clip, clip.model)


def test_timm_tower(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
    (tmp_path / "timm.json").write_text(json.dumps(config))
    random = load_clip(tmp_path / "timm.json", None, image_size=224, seed=0)
    torch.save(random.model.state_dict(), tmp_path / "timm.pt")
    full = load_clip(tmp_path / "timm.json", tmp_path / "timm.pt", image_size=224)
    assert full.weights_hash == random.weights_hash
    clip = load_clip(tmp_path / "timm.json", tmp_path / "timm.pt", image_size=80)
    assert (clip.grid, clip.patch_size, clip.vision_layers, clip.vision_width) == ((5, 5), 16, 12, 192)
    assert clip.vision.embed(images(80)).shape == (2, 26, 192)
    expected = resize_positions(full.vision.positional_embedding, (5, 5), "test")
    torch.testing.assert_close(clip.vision.positional_embedding, expected)
    assert_same(clip, clip.model)
    with pytest.raises(SettingsError, match="has GELU only"):
        load_clip(tmp_path / "timm.json", None, image_size=80, activation="quick_gelu", seed=0)


def test_fused_attention_alone_equals_batch(clip_folder: Path) -> None:
    """An image's stream does not depend on what lies beside it, with and without gradients recorded."""
    clip = load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=56)
    together, _ = features(clip)
    x = clip.vision.embed(images()[1:]).requires_grad_()
    for block in clip.vision.blocks:
        x = block(x)
    np.testing.assert_allclose(clip.vision.finish(x).detach().numpy(), together[1:].detach().numpy(), atol=1e-5)
