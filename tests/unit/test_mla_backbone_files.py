"""Frozen CLIP backbones: bundles, architectures, and files that must not get in."""

from __future__ import annotations

import gzip
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_tools import (
    CONFIG,
    TEXT,
    VISION,
    assert_same,
    openai_archive,
    reference,
)
from wordsight.errors import SettingsError, WeightsError
from wordsight.models.mla.architectures import check_config, find_architecture
from wordsight.models.mla.backbone import load_clip, save_clip_bundle
from wordsight.models.tensor_files import account_for, looks_like, read_tensor_file


@pytest.mark.parametrize("half", [True, False])
def test_bundle_round_trip(tmp_path: Path, half: bool) -> None:
    merges = [("l", "i"), ("li", "ver</w>"), ("n", "o</w>")]
    config = {**CONFIG, "text_cfg": {**TEXT, "vocab_size": 517}}
    model = reference(config)
    save_clip_bundle(tmp_path / "b", config, model.state_dict(), merges, half=half)
    clip = load_clip(tmp_path / "b", None, image_size=56)
    assert clip.tokenizer.vocab_size == 517
    ids = clip.tokenizer(["no liver"])
    assert ids[0, :8].tolist()[0] == 515
    assert ids.max() == 516
    assert_same(clip, model)
    stored = load_file(tmp_path / "b" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16 if half else torch.float32}
    assert clip.trained
    before = (tmp_path / "b" / "merges.txt.gz").read_bytes()
    save_clip_bundle(tmp_path / "b", config, model.state_dict(), merges, half=half)
    assert (tmp_path / "b" / "merges.txt.gz").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "merges.txt.gz", "model.safetensors", "open_clip_config.json",
    ]  # fmt: skip


def test_bundle_errors(tmp_path: Path) -> None:
    state = reference(CONFIG).state_dict()
    with pytest.raises(SettingsError, match=r"text_cfg.vocab_size: expected 515 for these merges, got 49408"):
        save_clip_bundle(tmp_path / "b", CONFIG, state, [("a", "b")])
    with pytest.raises(WeightsError, match=r"1 missing: visual.proj"):
        save_clip_bundle(tmp_path / "b", CONFIG, {k: v for k, v in state.items() if k != "visual.proj"}, None)
    assert not (tmp_path / "b").exists()
    save_clip_bundle(tmp_path / "b", CONFIG, state, None)
    (tmp_path / "b" / "merges.txt.gz").write_bytes(gzip.compress(b"#version\na b"))
    with pytest.raises(SettingsError, match="expected a vocabulary of 49408 ids, got 515"):
        load_clip(tmp_path / "b", None, image_size=56)
    (tmp_path / "b" / "merges.txt.gz").write_bytes(gzip.compress(b" " * (17 * 2**20)))
    with pytest.raises(WeightsError, match="expected at most 16777216 bytes of merges"):
        load_clip(tmp_path / "b", None, image_size=56)
    (tmp_path / "b" / "merges.txt.gz").write_bytes(b"plain text")
    with pytest.raises(WeightsError, match="expected gzip-packed text of merges"):
        load_clip(tmp_path / "b", None, image_size=56)


def test_account_lists_at_most_ten() -> None:
    expected = {f"k{i}": (2,) for i in range(12)} | {"shape": (2, 3)}
    with pytest.raises(WeightsError) as caught:
        account_for(expected, {"shape": (3, 2), "new": (1,)}, "file", "Hint.")
    message = str(caught.value)
    assert "12 missing: k0, k1" in message
    assert "k9 and 2 more" in message
    assert "k10" not in message
    assert "1 unexpected: new" in message
    assert "shape [3, 2] instead of [2, 3]" in message


def test_wrong_weights_are_named(clip_folder: Path, tmp_path: Path) -> None:
    state = reference(CONFIG).state_dict()
    state["visual.proj"] = torch.zeros(32, 8)
    state["extra.weight"] = torch.zeros(1)
    del state["ln_final.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        WeightsError,
        match=r"1 missing: ln_final.bias; 1 unexpected: extra.weight; 1 misshapen: visual.proj \[32, 8\] instead of",
    ):
        load_clip(clip_folder / "tiny.json", tmp_path / "w.pt", image_size=56)


class Evil:
    """A pickle that would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_malicious_pickle_does_nothing(clip_folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "pwned")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="holds objects other than tensors and plain values"):
        load_clip(clip_folder / "tiny.json", tmp_path / "evil.pt", image_size=56)
    assert not (tmp_path / "pwned").exists()


def rewrite(source: Path, target: Path, entry: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Copy an archive with one entry replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith(entry) else old.read(name))


def test_malicious_archives_do_nothing(tmp_path: Path) -> None:
    openai_archive(tmp_path / "a.pt", {"visual.proj": torch.zeros(4, 4)})
    rewrite(tmp_path / "a.pt", tmp_path / "evil.pt", "/data.pkl", pickle.dumps(Evil(tmp_path / "pwned"), protocol=2))
    with pytest.raises(WeightsError, match=r"UnpicklingError: global "):
        read_tensor_file(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        tree = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    marker = b"(K\x04K\x04t"  # the shape (4, 4)
    assert marker in tree
    rewrite(tmp_path / "a.pt", tmp_path / "big.pt", "/data.pkl", tree.replace(marker, b"(J\xff\xff\xff\x7fK\x04t"))
    with pytest.raises(WeightsError, match="more tensor elements than the archive has bytes"):
        read_tensor_file(tmp_path / "big.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "long.pt", "/data.pkl", tree.replace(marker, b"(K\x05K\x04t"))
    with pytest.raises(WeightsError, match="expected a whole TorchScript archive"):
        read_tensor_file(tmp_path / "long.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "packed.pt", "/none", b"", zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed entry"):
        read_tensor_file(tmp_path / "packed.pt")


def test_files_that_are_something_else(clip_folder: Path, tmp_path: Path) -> None:
    arch = clip_folder / "tiny.json"
    with pytest.raises(WeightsError, match=r"expected a weights file, found none.*nothing is downloaded"):
        load_clip(arch, tmp_path / "absent.pt", image_size=56)
    with pytest.raises(WeightsError, match=r"expected open_clip_config.json or a transformers config.json"):
        load_clip(arch, tmp_path, image_size=56)
    for content, words in (
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"", "an empty file"),
        ((clip_folder / "tiny.pt").read_bytes()[:50_000], "a zip archive that cannot be read whole"),
    ):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=f"got {words}"):
            load_clip(arch, tmp_path / "w.pt", image_size=56)
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-9])
    with pytest.raises(WeightsError, match=r"expected a safetensors file, got a safetensors file .*"):
        read_tensor_file(tmp_path / "w.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="expected tensors by name, got a list"):
        read_tensor_file(tmp_path / "list.pt")
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "mixed.pt")
    with pytest.raises(WeightsError, match="got something else under epoch"):
        read_tensor_file(tmp_path / "mixed.pt")
    (tmp_path / "x").write_bytes(b"\0" * 128 + b"DICM")
    assert looks_like(tmp_path / "x") == "a DICOM file"


def test_architecture_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_architecture("ViT-L/14@336px").name == "ViT-L-14-336"
    with pytest.raises(SettingsError, match=r"'ViT-L-41'.*Did you mean .*ViT-L-14"):
        find_architecture("ViT-L-41")
    with pytest.raises(SettingsError, match="must be downloaded first"):
        find_architecture("hf-hub:org/model")
    monkeypatch.setattr("wordsight.models.mla.architectures.TINY", tmp_path)
    with pytest.raises(SettingsError, match="expected the packaged backbone"):
        find_architecture("tiny")
    save_clip_bundle(tmp_path, CONFIG, reference(CONFIG).state_dict(), None)
    assert load_clip("tiny", None, image_size=28).architecture == "tiny"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "a ResNet image tower"),
        ("coca_ViT-B-32", "a captioning model"),
        ("convnext_base", "timm's image tower 'convnext_base'"),
        ("ViTamin-B", "timm's image tower 'vitamin_base_224'"),
    ],
)
def test_refused_architectures(name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_clip(name, None, image_size=224, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {**VISION, "layers": 10**9}}, "expected vision_cfg.layers in 1..256, got 1000000000"),
        ({"vision_cfg": {**VISION, "head_width": 5}}, "head_width to divide the width 32, got 5"),
        ({"text_cfg": {**TEXT, "heads": 5}}, "text_cfg.heads to divide the width 32, got 5"),
        ({"vision_cfg": {**VISION, "pathc_size": 5}}, "unknown vision_cfg.pathc_size"),
        ({"text_cfg": 3}, "expected vision_cfg and text_cfg to be objects"),
        ({"embed_dim": 0}, "expected embed_dim in 1..16384, got 0"),
    ],
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_config({**CONFIG, **change}, "mine")


def test_bad_files_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(WeightsError, match="expected a JSON object, got a list"):
        find_architecture(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(WeightsError, match="expected JSON, got"):
        find_architecture(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SettingsError, match="expected a configuration with embed_dim, vision_cfg and text_cfg"):
        find_architecture(tmp_path / "a.json")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(SettingsError, match="expected model_type 'clip', got 'siglip'"):
        find_architecture(tmp_path)


@pytest.mark.parametrize("size", [13, 5000, 56.0, True])
def test_image_size(clip_folder: Path, size: Any) -> None:
    with pytest.raises(SettingsError, match="image_size: expected 14 to 4096 pixels"):
        load_clip(clip_folder / "tiny.json", clip_folder / "tiny.pt", image_size=size)


def test_safetensors_are_known_whatever_the_length_of_their_header(tmp_path: Path) -> None:
    """The first byte is that of the header's length: 0x80 would be a pickle's, 0x50 a zip archive's."""
    first_bytes = set()
    for length in range(0, 256, 8):
        path = tmp_path / f"{length}.safetensors"
        save_file({"x": torch.zeros(2)}, path, metadata={"note": "n" * length})
        first_bytes.add(path.read_bytes()[0])
        assert looks_like(path) == "a safetensors file"
    assert {0x80, 0x50} <= first_bytes
