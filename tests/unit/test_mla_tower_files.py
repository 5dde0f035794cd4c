"""Which architectures of open_clip work, and what is said where files of a text tower are missing or wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clip_tools import CONFIG, TEXT, reference
from tower_tools import CONFIGS, bundle, hf_config, hf_reference, sentencepiece, text_folder, wordpiece
from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.models.mla.architectures import check_config, find_architecture
from wordsight.models.mla.backbone import load_clip, save_clip_bundle
from wordsight.models.mla.building import build_config, empty_model, grid_of
from wordsight.models.mla.prompts import LearnedPrompts
from wordsight.models.mla.streams import OpenClipVision, TimmVision
from wordsight.models.mla.text_files import TextFiles

REFUSED = {
    "a captioning model (CoCa)": 4,
    "a ResNet image tower": 10,
    "timm's image tower 'convnext": 11,
    "timm's image tower 'fastvit": 6,
    "timm's image tower 'swin": 1,
    "timm's image tower 'vit_relpos": 1,
    "timm's image tower 'vitamin": 15,
}
"""Every reason to refuse an architecture of open_clip 3.3's list, and how many it holds for."""
KINDS = {"roberta-base": "roberta", "xlm-roberta-base": "xlm-roberta", "xlm-roberta-large": "xlm-roberta",
         "google/mt5-base": "mt5", "google/mt5-xl": "mt5", "facebook/nllb-200-distilled-600M": "m2m_100",
         "facebook/nllb-200-distilled-1.3B": "m2m_100"}  # fmt: skip
ONE_OF_EACH_KIND = ["ViT-S-32-alt", "ViT-B-16-SigLIP", "MobileCLIP-B", "ViT-L-14-CLIPA", "xlm-roberta-base-ViT-B-32"]


def reason(name: str) -> str | None:
    """Why an architecture is refused; None if it is taken."""
    try:
        find_architecture(name)
    except SettingsError as error:
        found = re.search(r": (.+) cannot carry adapters here\. Vision transformers", str(error))
        return found[1] if found else f"in other words: {error}"
    return None


def build(name: str) -> None:
    """Build an architecture without memory, through the checks of `load_clip`; its text configuration is a tiny one."""
    arch = find_architecture(name)
    size = arch.config["vision_cfg"]["image_size"]
    config = build_config(arch, size, arch.activation)
    model_name = config["text_cfg"].get("hf_model_name")
    kind = KINDS.get(model_name, "")
    files = TextFiles({"model_type": kind, "vocab_size": 50, **CONFIGS[kind]}) if model_name else TextFiles()
    model: Any = empty_model(config, name, files)
    stream = TimmVision(model.visual) if arch.uses_timm else OpenClipVision(model.visual)
    patch, grid = grid_of(model, size)
    assert grid[0] == grid[1] == size // patch
    with torch.device("meta"):
        x = stream.embed(torch.zeros(1, 3, size, size))
        assert x.shape == (1, stream.prefix_tokens + grid[0] * grid[1], stream.width)
        assert stream.blocks[0](x).shape == x.shape
        assert stream.finish(x).shape == (1, config["embed_dim"])


def test_every_listed_architecture_is_taken_or_refused_for_a_known_reason() -> None:
    reasons = {name: reason(name) for name in open_clip.list_models()}
    for words in filter(None, reasons.values()):
        assert words.startswith(tuple(REFUSED))
    if open_clip.__version__.startswith("3.3"):
        counts = {known: sum(bool(r) and str(r).startswith(known) for r in reasons.values()) for known in REFUSED}
        assert counts == REFUSED
        assert (len(reasons), sum(r is None for r in reasons.values())) == (144, 96)


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH_KIND if name in open_clip.list_models()])
def test_listed_architectures_build(name: str) -> None:
    build(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in open_clip.list_models() if name not in ONE_OF_EACH_KIND])
def test_all_listed_architectures_build(name: str) -> None:
    if reason(name) is None:
        build(name)


def test_missing_files_of_the_text_tower(tmp_path: Path) -> None:
    config = hf_config()
    text_folder(tmp_path / "elsewhere", "bert")
    bundle(tmp_path / "b", config, hf_reference(config, tmp_path / "elsewhere"))
    with pytest.raises(
        WeightsError, match=r"config.json of the text tower 'org/text-tower' on this computer, found none in .*/b nor"
    ):
        load_clip(tmp_path / "b", None, image_size=56)
    (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": "clip"}))  # of something else
    with pytest.raises(WeightsError, match=r"Nothing is downloaded: put it into .*/b, or make text_cfg.hf_model_name"):
        load_clip(tmp_path / "b", None, image_size=56)
    (tmp_path / "b" / "config.json").write_text((tmp_path / "elsewhere" / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"expected the tokenizer.json and tokenizer_config.json of the text tower"):
        load_clip(tmp_path / "b", None, image_size=56)
    wordpiece(tmp_path / "b")
    assert load_clip(tmp_path / "b", None, image_size=56).trained
    with pytest.raises(WeightsError, match="put it into one folder with the weights and name that folder"):
        load_clip("roberta-ViT-B-32", None, image_size=224, seed=0)


def test_folders_may_be_named_by_path(tmp_path: Path) -> None:
    text_folder(tmp_path / "text", "bert")
    config = hf_config(hf_model_name=str(tmp_path / "text"), hf_tokenizer_name=str(tmp_path / "text"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "c.json").write_text(json.dumps(config))
    clip = load_clip(tmp_path / "c" / "c.json", None, image_size=56, seed=1)
    again = load_clip(tmp_path / "c" / "c.json", None, image_size=56, seed=1)
    assert clip.weights_hash == again.weights_hash
    assert (clip.trained, clip.text_width) == (False, 32)


def test_the_cache_of_the_hub_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--org--text-tower" / "snapshots" / "abc"
    text_folder(snapshot, "bert")
    (tmp_path / "hub" / "models--org--text-tower" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--text-tower" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "c.json").write_text(json.dumps(hf_config()))
    assert load_clip(tmp_path / "c.json", None, image_size=56, seed=1).text_width == 32


def with_tokenizer(folder: Path, size: int, **text: Any) -> Path:
    """A configuration of CLIP's text transformer whose tokenizer lies in the folder."""
    settings = {**TEXT, "vocab_size": size, "hf_tokenizer_name": "org/pieces", "pool_type": "last", **text}
    (folder / "c.json").write_text(json.dumps({**CONFIG, "text_cfg": settings}))
    return folder / "c.json"


def test_tokenizers_that_do_not_fit(tmp_path: Path) -> None:
    size = wordpiece(tmp_path)
    clip = load_clip(with_tokenizer(tmp_path, size), None, image_size=56, seed=0)
    with pytest.raises(PromptError, match="expected prompts of at most 24 tokens, got 42 for 'x x"):
        clip.tokenizer(["x " * 40])
    with pytest.raises(PromptError, match=r"expected prompts of at most 24 tokens, got .* with 20 context vectors"):
        LearnedPrompts(clip, 20)
    with pytest.raises(WeightsError, match="expected token ids below 8, the rows of the text tower's embedding"):
        load_clip(with_tokenizer(tmp_path, 8), None, image_size=56, seed=0)
    path = with_tokenizer(tmp_path, size, tokenizer_kwargs={"clean": "fizz", "trust_remote_code": True})
    with pytest.raises(SettingsError, match=r"tokenizer_kwargs: expected clean .* got trust_remote_code, clean='fizz'"):
        load_clip(path, None, image_size=56, seed=0)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Evil"}}')
    with pytest.raises(WeightsError, match="got files that transformers cannot read"):
        load_clip(with_tokenizer(tmp_path, size), None, image_size=56, seed=0)
    size = sentencepiece(tmp_path, "$A </s>", padding_side="left")
    with pytest.raises(WeightsError, match=r"expected a tokenizer that pads on the right .* got padding on the left"):
        load_clip(with_tokenizer(tmp_path, size), None, image_size=56, seed=0)
    with open(tmp_path / "tokenizer.json", "wb") as stream:
        stream.truncate(200 * 2**20)
    with pytest.raises(WeightsError, match=r"expected tokenizer files of at most 134217728 bytes, got tokenizer.json"):
        load_clip(with_tokenizer(tmp_path, size), None, image_size=56, seed=0)


def test_code_of_a_tokenizer_folder_is_never_run(tmp_path: Path) -> None:
    size = wordpiece(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass T:\n    pass\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}})
    )
    with pytest.raises(WeightsError, match="expected a tokenizer in Hugging Face's layout"):
        load_clip(with_tokenizer(tmp_path, size), None, image_size=56, seed=0)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        ({"num_hidden_layers": 10**6}, {}, "expected num_hidden_layers of at most 256, got 1000000"),
        ({"hidden_size": 10**9}, {}, "expected hidden_size of at most 2000000"),
        ({"hidden_size": 33}, {}, "open_clip cannot build it at 56 pixels"),
        ({}, {"context_length": 65}, "context_length: expected at most the 64 positions of .*config.json, got 65"),
        ({}, {"hf_proj_type": None}, "another width than embed_dim and no hf_proj_type"),
        ({}, {"hf_pooler_type": "max_pooler"}, "text pooling 'max_pooler' cannot carry adapters"),
        ({}, {"tokenizer_mode": "clips"}, "the tokenizer mode 'clips' cannot carry adapters"),
    ],
)
def test_bad_text_configurations(tmp_path: Path, change: dict[str, Any], text: dict[str, Any], message: str) -> None:
    written = text_folder(tmp_path, "bert")
    (tmp_path / "config.json").write_text(json.dumps({**written, **change}))
    (tmp_path / "c.json").write_text(json.dumps(hf_config(**text)))
    with pytest.raises(SettingsError, match=message):
        load_clip(tmp_path / "c.json", None, image_size=56, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_cfg": {**TEXT, "embed_cls": True}}, "a text tower with a class token"),
        ({"text_cfg": {**TEXT, "pool_type": "none"}}, "text pooling 'none'"),
        ({"multimodal_cfg": {}}, "a captioning model"),
    ],
)
def test_towers_that_cannot_be_used(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=rf"{words}.* cannot carry adapters here"):
        check_config({**CONFIG, **change}, "mine")


def test_bundles_hold_byte_pairs_only(tmp_path: Path) -> None:
    config = {**CONFIG, "text_cfg": {**TEXT, "hf_tokenizer_name": "org/pieces"}}
    with pytest.raises(SettingsError, match="expected a text tower with CLIP's byte pairs, got one of a tokenizer"):
        save_clip_bundle(tmp_path / "b", config, reference(CONFIG).state_dict(), None)
