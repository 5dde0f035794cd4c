"""Every kind of tower that adapters and learned prompts work in, against open_clip's own forward."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from timm.models import _registry, vision_transformer
from torch import nn

from clip_tools import CONFIG, TEXT, VISION, assert_same, images, reference
from tower_tools import bundle, hf_config, hf_reference, sentencepiece, text_folder, wordpiece
from wordsight.models.mla.backbone import Clip, load_clip
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.prompts import LearnedPrompts, ensemble_features
from wordsight.models.mla.settings import MlaSettings
from wordsight.types import Geometry

TEXTS = ["no finding", "a lesion in the liver"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another computer fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("this test reached for the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def _tiny_siglip(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's image tower of SigLIP with 3 blocks of width 64: no class token, patches pooled by attention."""

    def test_vit_siglip(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        shape = {"patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 2, "class_token": False}
        arguments = {**shape, "global_pool": "map", **kwargs}
        tower: nn.Module = vision_transformer._create_vision_transformer("test_vit", pretrained=pretrained, **arguments)
        return tower

    test_vit_siglip.__module__ = vision_transformer.__name__
    monkeypatch.setitem(_registry._model_entrypoints, "test_vit_siglip", test_vit_siglip)


def step(clip: Clip) -> None:
    """One training step changes every context and adapter that a loss reaches and no weight of the backbone."""
    levels = (1, clip.vision_layers)
    size = clip.image_size
    network = MlaNetwork(clip, MlaSettings(image_size=size, levels=levels, context=4), seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = [value.clone() for value in clip.model.state_dict().values()]
    mask = torch.zeros(2, size, size)
    mask[1, : size // 2] = 1
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    tokens = network(images(size))
    assert tokens.seg[0].shape == (2, clip.prefix_tokens + clip.grid[0] * clip.grid[1], clip.embed_dim)
    network.loss(tokens, network.text(), torch.tensor([0.0, 1.0]), mask).total.backward()
    optimizer.step()
    unread = {"seg_adapters.1.fc2.0.weight", "det_adapters.1.fc2.0.weight"}
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert same == unread
    assert all(map(torch.equal, frozen, clip.model.state_dict().values()))


def check_prompts(clip: Clip, model: nn.Module) -> None:
    """Contexts that are the embedding of X give what the tower gives for sentences of X."""
    words = ("normal", "no lesion")
    prompts = LearnedPrompts(clip, 4, ("end", "middle"), causal=clip.text.causal, words=(words, ["lesion"]))
    x = clip.tokenizer(["X"])[0, clip.tokenizer.prefix]
    row = clip.text.token_embedding(x).detach()
    for contexts in prompts.ctx.values():
        contexts.data[:] = row
    sentences = [f"X X X X {word}." for word in words] + [f"X X {word} X X." for word in words]
    with torch.no_grad():
        expected = model.encode_text(clip.tokenizer(sentences))  # type: ignore[operator]
        torch.testing.assert_close(prompts.features("normal"), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(prompts().norm(dim=0), torch.ones(2))


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("bert", {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}),
        ("bert", {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
        ("roberta", {"hf_pooler_type": "mean_pooler"}),
        ("xlm-roberta", {"hf_pooler_type": "mean_pooler"}),
        ("mt5", {"hf_pooler_type": "mean_pooler"}),
        ("m2m_100", {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
    ],
)
def test_text_towers_of_transformers(tmp_path: Path, kind: str, extra: dict[str, str]) -> None:
    config = hf_config(**extra)
    text_folder(tmp_path, kind)
    model = hf_reference(config, tmp_path)
    bundle(tmp_path, config, model)
    clip = load_clip(tmp_path, None, image_size=56)
    assert torch.equal(clip.tokenizer(TEXTS), HFTokenizer(str(tmp_path), context_length=64)(TEXTS))
    assert_same(clip, model)
    check_prompts(clip, model)
    step(clip)
    assert (clip.text_width, clip.context_length, clip.trained) == (32, 64, True)
    assert not any(buffer.is_meta for buffer in clip.model.buffers())


def test_layout_of_biomedclip(tmp_path: Path) -> None:
    """timm image tower, BERT, transformers' old index tensor in the checkpoint, config.json in a folder of its own."""
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
              "image_size": 160}  # fmt: skip
    text = {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}
    config = {**hf_config(**text), "vision_cfg": vision}
    written = text_folder(tmp_path / "text-tower", "bert")
    model = hf_reference(config, tmp_path / "text-tower")
    bundle(tmp_path, config, model)
    wordpiece(tmp_path)
    state = {**model.state_dict(), "text.transformer.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    # a configuration that would run code of the folder, load in half precision or fetch an attention kernel
    (tmp_path / "text-tower" / "config.json").write_text(
        json.dumps({**written, "auto_map": {"AutoModel": "evil.Model"}, "torch_dtype": "float16",
                    "_attn_implementation": "org/kernel"})
    )  # fmt: skip
    clip = load_clip(tmp_path, None, image_size=160)
    assert_same(clip, model)
    step(clip)
    assert load_clip(clip.architecture, clip.weights, image_size=80).weights_hash == clip.weights_hash
    assert ensemble_features(clip, "liver").shape == (16, 2)


def test_padding_does_not_count(tmp_path: Path) -> None:
    """The text tower gives the same in a batch with longer texts, and `causal` changes nothing."""
    config = hf_config(hf_pooler_type="mean_pooler")
    text_folder(tmp_path, "bert")
    bundle(tmp_path, config, hf_reference(config, tmp_path))
    clip = load_clip(tmp_path, None, image_size=56)
    ids = clip.tokenizer(["no finding", "a lesion in the liver, the lesion in a liver"])
    with torch.no_grad():
        together = clip.text.encode(ids)
        torch.testing.assert_close(clip.text.encode(ids[:1]), together[:1], rtol=1e-5, atol=1e-5)
        assert torch.equal(clip.text.encode(ids, causal=True), together)


@pytest.mark.parametrize(
    ("name", "pool", "size", "prefix", "positions"),
    [
        ("test_vit", "token", 80, 1, 26),
        ("test_vit3", "map", 80, 1, 26),  # a register instead of a class token
        ("test_vit_siglip", "map", 80, 0, 25),
        ("vit_small_patch14_reg4_dinov2", "avg", 70, 5, 25),  # positions for patches alone
        ("vit_pe_core_tiny_patch16_384", "map", 80, 1, 26),  # rotary
        ("eva02_tiny_patch14_224", "avg", 70, 1, 26),  # rotary, SwiGLU
    ],
)
def test_image_towers_of_timm(tmp_path: Path, name: str, pool: str, size: int, prefix: int, positions: int) -> None:
    vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": "linear", "image_size": size}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
    (tmp_path / "c.json").write_text(json.dumps(config))
    random = load_clip(tmp_path / "c.json", None, image_size=size, seed=0)
    with torch.no_grad():
        for parameter in random.model.parameters():
            nn.init.normal_(parameter, std=0.05)
    torch.save(random.model.state_dict(), tmp_path / "c.pt")
    clip = load_clip(tmp_path / "c.json", tmp_path / "c.pt", image_size=size)
    assert (clip.prefix_tokens, len(clip.vision.positional_embedding), clip.grid) == (prefix, positions, (5, 5))
    assert_same(clip, random.model)
    step(clip)


def siglip(folder: Path) -> nn.Module:
    """A tiny SigLIP: patches pooled by attention, no class token; text of T5 pieces pooled at the last position."""
    size = sentencepiece(folder, "$A </s>")
    text = {**TEXT, "context_length": 32, "vocab_size": size, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
            "pool_type": "last"}  # fmt: skip
    vision = {"timm_model_name": "test_vit_siglip", "timm_pool": "map", "timm_proj": "none", "image_size": 80}
    config = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    model = reference(config)
    model.visual.set_input_size(80)  # type: ignore[union-attr, operator]
    bundle(folder, config, model)
    return model


def test_siglip(tmp_path: Path) -> None:
    model = siglip(tmp_path)
    clip = load_clip(tmp_path, None, image_size=80)
    theirs = HFTokenizer(str(tmp_path), context_length=32, clean="canonicalize")
    assert torch.equal(clip.tokenizer(["A Lesion."]), theirs(["A Lesion."]))
    assert (clip.tokenizer.prefix, clip.tokenizer.special, clip.text.causal) == (0, 1, False)
    assert_same(clip, model)
    ids = clip.tokenizer(TEXTS)
    with torch.no_grad():
        assert torch.equal(clip.text.encode(ids, causal=True), clip.text.encode(ids, causal=False))
    step(clip)


def test_maps_follow_the_patches_whatever_stands_before_them(tmp_path: Path) -> None:
    """Detector and memory bank with a class token and four registers, which are rows of the bank or are not."""
    vision = {"timm_model_name": "vit_small_patch14_reg4_dinov2", "timm_pool": "avg", "image_size": 70}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
    (tmp_path / "c.json").write_text(json.dumps(config))
    clip = load_clip(tmp_path / "c.json", None, image_size=70, seed=0)
    x = images(70)
    for in_bank in (True, False):
        settings = MlaSettings(image_size=70, levels=(1, 2), class_token_in_bank=in_bank)
        detector = MlaLp(MlaNetwork(clip, settings)).with_support_arrays(x[:1], scale=False)
        assert detector.bank is not None
        assert len(detector.bank.rows[0]) == 11 * (25 + in_bank * 5)
        whole = [Geometry((70, 70), (70, 70), (1.0, 1.0))] * 2
        first, second = detector.raw_from_arrays(x, whole, ["a", "b"], detector.text())
        assert first.margins.shape == (2, 5, 5)
        assert first.distance is not None
        assert second.distance is not None
        assert abs(first.distance).max() < 1e-4 < second.distance.min()


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True, "pool_type": "last"},
        {"pool_type": "first", "no_causal_mask": True, "proj_type": "none", "width": 16},
        {"pool_type": "argmax", "ls_init_value": 0.1, "mlp_ratio": 3.0},
        {"pool_type": "eos", "eos_id": 49407, "qk_norm": True},
        {"tokenizer_kwargs": {"clean": "canonicalize"}, "proj_bias": True},
    ],
)
@pytest.mark.parametrize("custom", [True, False])
def test_variants_of_the_text_transformer(tmp_path: Path, text: dict[str, Any], custom: bool) -> None:
    config = {**CONFIG, "text_cfg": {**TEXT, **text}, "custom_text": custom}
    model = reference(config)
    (tmp_path / "c.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "c.pt")
    clip = load_clip(tmp_path / "c.json", tmp_path / "c.pt", image_size=56)
    assert_same(clip, model)
    check_prompts(clip, model)


@pytest.mark.parametrize(("pool", "strip"), [("last", True), ("eos", False)])
def test_text_transformer_with_a_tokenizer_folder(tmp_path: Path, pool: str, strip: bool) -> None:
    """CLIPA (BERT's pieces, separator stripped, last position) and worldwide CLIP (XLM-R's pieces, end of text)."""
    size = wordpiece(tmp_path) if strip else sentencepiece(tmp_path, "<s> $A </s>")
    options = {"strip_sep_token": True} if strip else {}
    text = {**TEXT, "context_length": 32, "vocab_size": size, "hf_tokenizer_name": "org/pieces",
            "tokenizer_kwargs": options, "pool_type": pool, "eos_id": 2, "no_causal_mask": strip}  # fmt: skip
    config = {**CONFIG, "text_cfg": text}
    model = reference(config)
    torch.save(model.state_dict(), tmp_path / "c.pt")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "c.json").write_text(json.dumps(config))
    clip = load_clip(tmp_path / "config" / "c.json", tmp_path / "c.pt", image_size=56)  # found beside the weights
    theirs = HFTokenizer(str(tmp_path), context_length=32, **options)
    assert torch.equal(clip.tokenizer(TEXTS), theirs(TEXTS))
    assert_same(clip, model)
    check_prompts(clip, model)
    step(clip)


def test_attention_pooled_image_tower(tmp_path: Path) -> None:
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}
    config = {**CONFIG, "vision_cfg": vision}
    model = reference(config)
    (tmp_path / "c.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "c.pt")
    clip = load_clip(tmp_path / "c.json", tmp_path / "c.pt", image_size=56)
    assert_same(clip, model)
    step(clip)


def test_listed_names_find_the_files_of_their_text_tower_beside_the_weights(tmp_path: Path) -> None:
    assert open_clip.get_model_config("roberta-ViT-B-32")["text_cfg"]["hf_model_name"] == "roberta-base"
    from wordsight.models.mla.text_files import find_text_files

    text = open_clip.get_model_config("roberta-ViT-B-32")["text_cfg"]
    written = text_folder(tmp_path / "roberta-base", "roberta")
    files = find_text_files({**text, "context_length": 32}, [tmp_path], "roberta-ViT-B-32")
    assert files.tokenizer == tmp_path / "roberta-base"
    assert files.config == written
