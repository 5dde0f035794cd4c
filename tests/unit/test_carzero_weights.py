"""Weights files: round trips, the published oddities, hostile content, and the files that start training."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight.errors import SettingsError, WeightsError
from wordsight.models.carzero.checkpoint import read_checkpoint
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import BertShape
from wordsight.models.carzero.weights import (
    NORM,
    PREFIX,
    SECOND_NORM,
    empty_network,
    fill,
    load_network,
    read_image_start,
    read_state,
    read_text_start,
    settings_for,
    state_of,
    text_shape,
    write_published,
    write_safetensors,
)

Equal = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def network() -> CarZeroNetwork:
    return make_carzero()


def published(network: CarZeroNetwork) -> dict[str, torch.Tensor]:
    return {f"{PREFIX}{name}": tensor.clone() for name, tensor in network.state_dict().items()}


def same(a: CarZeroNetwork, b: CarZeroNetwork) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


class Unpicklable:
    """Runs something when it is unpickled, and notes that it did."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> None:
    Unpicklable.ran = True


class ConfigOfATrainer(dict):  # type: ignore[type-arg]
    """Stands for omegaconf.DictConfig: a class that torch's own reader refuses."""


class Callback(list):  # type: ignore[type-arg]
    """Stands for a callback's state."""


# -- round trips ------------------------------------------------------------------------------------------------------


def test_published_layout_and_back(network: CarZeroNetwork, tmp_path: Path) -> None:
    write_published(tmp_path / "cz.ckpt", network)
    content = torch.load(tmp_path / "cz.ckpt", weights_only=True)
    assert list(content["state_dict"]) == [PREFIX + name for name in network.state_dict()]
    loaded = load_network(tmp_path / "cz.ckpt", network.settings)
    assert same(loaded, network)
    assert not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in network.parameters()]
    write_published(tmp_path / "again.ckpt", loaded)
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "cz.ckpt").read_bytes()


def test_safetensors_and_back(network: CarZeroNetwork, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "cz.safetensors", network, {"trained_on": "phantoms"})
    assert set(load_file(tmp_path / "cz.safetensors")) == set(state_of(network))
    loaded = load_network(tmp_path / "cz.safetensors")
    assert loaded.settings == network.settings
    assert same(loaded, network)
    assert read_state(tmp_path / "cz.safetensors")[1]["trained_on"] == "phantoms"


def test_the_norm_with_two_names_is_one_tensor_and_the_second_name_wins(
    network: CarZeroNetwork, tmp_path: Path
) -> None:
    state = published(network)
    assert len(state) == len(state_of(network)) + 2
    state[f"{PREFIX}{SECOND_NORM}bias"] += 1
    torch.save({"state_dict": state}, tmp_path / "cz.ckpt")
    loaded = load_network(tmp_path / "cz.ckpt", network.settings)
    assert torch.equal(loaded.fusion_module.decoder_norm.bias, state[f"{PREFIX}{SECOND_NORM}bias"])
    assert loaded.fusion_module.decoder.norm is loaded.fusion_module.decoder_norm
    loaded.float().to("cpu")
    assert loaded.fusion_module.decoder.norm.weight is loaded.fusion_module.decoder_norm.weight
    assert NORM + "bias" in state_of(loaded)


def test_a_checkpoint_of_a_trainer_with_foreign_classes(network: CarZeroNetwork, tmp_path: Path) -> None:
    """What Lightning 1.1 writes: a configuration object, callbacks by class, optimizer states, numbers."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(5), "step": 3}}, "param_groups": [{"lr": 5e-5}]}
    content = {
        "epoch": 4,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {Callback: {"best": torch.tensor(0.5)}},
        "optimizer_states": [optimizer],
        "state_dict": OrderedDict(published(network)),
        "hparams_type": ConfigOfATrainer,
        "hyper_parameters": ConfigOfATrainer(model={"fusion": Callback([1, 2])}),
        "trap": Unpicklable(),
    }
    content["state_dict"]._metadata = {"": {"version": 1}}
    torch.save(content, tmp_path / "cz.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "cz.ckpt", weights_only=True)
    loaded = load_network(tmp_path / "cz.ckpt", network.settings)
    assert same(loaded, network)
    assert not Unpicklable.ran


def test_names_after_the_last_prefix_count_and_position_ids_are_dropped(
    network: CarZeroNetwork, tmp_path: Path
) -> None:
    state = {f"module.{PREFIX}{name}": tensor for name, tensor in published(network).items()}
    state[f"{PREFIX}text_encoder.model.embeddings.position_ids"] = torch.arange(30)[None]
    torch.save(state, tmp_path / "flat.pt")
    assert same(load_network(tmp_path / "flat.pt", network.settings), network)
    state["text_encoder.model.pooler.dense.bias"] = torch.zeros(32)
    torch.save(state, tmp_path / "twice.pt")
    with pytest.raises(
        WeightsError, match=r"expected every tensor once, got text_encoder.model.pooler.dense.bias twice"
    ):
        read_state(tmp_path / "twice.pt")


def test_half_precision_and_views_are_read(network: CarZeroNetwork, tmp_path: Path) -> None:
    base = torch.arange(12.0)
    torch.save(
        {"a": base[2:8].half(), "b": base.reshape(3, 4).T, "c": base[::5], "d": torch.tensor(2)}, tmp_path / "t.pt"
    )
    tensors, _ = read_checkpoint(tmp_path / "t.pt")
    assert tensors["a"].tolist() == list(range(2, 8))
    assert torch.equal(tensors["b"], base.reshape(3, 4).T)
    assert tensors["c"].tolist() == [0, 5, 10]
    assert int(tensors["d"]) == 2
    torch.save({"state_dict": {k: v.half() for k, v in published(network).items()}}, tmp_path / "half.ckpt")
    loaded = load_network(tmp_path / "half.ckpt", network.settings)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_parameters_are_read_as_tensors(tmp_path: Path) -> None:
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "p.pt")
    assert read_checkpoint(tmp_path / "p.pt")[0]["w"].tolist() == [1, 1]


def test_an_old_pickle_without_archive_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pt")[0]["w"].tolist() == [1, 1]


# -- settings of a file -----------------------------------------------------------------------------------------------


def test_the_vocabulary_is_the_files(network: CarZeroNetwork, tmp_path: Path) -> None:
    write_published(tmp_path / "cz.ckpt", network)
    wrong = replace(SETTINGS, text=replace(SETTINGS.text, vocabulary=99))
    assert load_network(tmp_path / "cz.ckpt", wrong).settings == SETTINGS


def test_encoder_and_head_are_read_off_the_names() -> None:
    words = {"text_encoder.model.embeddings.word_embeddings.weight": torch.zeros(28996, 768)}
    linear = {"fusion_module.mlp_head.0.weight": torch.zeros(1, 768)}
    deep = {**linear, "fusion_module.mlp_head.3.weight": torch.zeros(1, 1)}
    conv = {"img_encoder.model.conv1.weight": torch.zeros(1)}
    assert settings_for(words | deep, {}).text == BertShape(vocabulary=28996)
    assert settings_for(linear, {}).head == "linear"
    assert settings_for(deep | conv, {}).image_encoder == "resnet50"
    assert settings_for(deep, {}, bert=BertShape(heads=6)).text.heads == 6
    assert settings_for(deep, {"settings": SETTINGS.to_json()}) == SETTINGS


# -- what is refused --------------------------------------------------------------------------------------------------


def test_every_key_is_accounted_for(network: CarZeroNetwork, tmp_path: Path) -> None:
    state = published(network)
    del state[f"{PREFIX}img_encoder.model.cls_token"]
    state[f"{PREFIX}extra"] = torch.zeros(1)
    state[f"{PREFIX}fusion_module.mlp_head.0.bias"] = torch.zeros(7)
    torch.save({"state_dict": state}, tmp_path / "cz.ckpt")
    with pytest.raises(
        WeightsError,
        match=r"1 missing: img_encoder.model.cls_token; 1 unexpected: extra; "
        r"1 misshapen: fusion_module.mlp_head.0.bias \[7\] instead of \[24\]\. Choose the settings",
    ):
        load_network(tmp_path / "cz.ckpt", network.settings)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a weights file, found none"):
        read_checkpoint(tmp_path / "nothing.ckpt")
    (tmp_path / "page.ckpt").write_text("<html>sign in</html>")
    with pytest.raises(WeightsError, match="got a web page"):
        read_checkpoint(tmp_path / "page.ckpt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="expected a dictionary, got a list"):
        read_checkpoint(tmp_path / "list.pt")
    torch.save({"state_dict": {"a": torch.ones(1), "b": 3}}, tmp_path / "mixed.pt")
    with pytest.raises(WeightsError, match=r"expected tensors by name, .*, got something else under b"):
        read_checkpoint(tmp_path / "mixed.pt")
    torch.save({"state_dict": {}}, tmp_path / "empty.pt")
    with pytest.raises(WeightsError, match=r"expected tensors by name, .*, got no tensor"):
        read_checkpoint(tmp_path / "empty.pt")


def archive(path: Path, tree: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", tree)
        for name, data in entries.items():
            file.writestr(f"archive/{name}" if name == "byteorder" else f"archive/data/{name.strip('_')}", data)
    return path


def tensor_pickle(numel: int, size: int, offset: int = 0) -> bytes:
    """The object tree of {"a": a float tensor of storage 0}."""

    class Tree(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if obj is Tree else None

    class Rebuild:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments = (Tree, offset, (size,), (1,), False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    import io

    buffer = io.BytesIO()
    Tree(buffer, 2).dump({"a": Rebuild()})
    return buffer.getvalue()


def test_made_up_archives(tmp_path: Path) -> None:
    good = archive(tmp_path / "good.pt", tensor_pickle(2, 2), _0=b"\0\0\x80?\0\0\0@")
    assert read_checkpoint(good)[0]["a"].tolist() == [1.0, 2.0]
    for name, tree, entries, message in (
        ("huge", tensor_pickle(2, 10**9), {"_0": b"\0" * 8}, "more tensor elements than the file has bytes"),
        ("outside", tensor_pickle(2, 2, offset=1), {"_0": b"\0" * 8}, "RuntimeError"),
        ("missing", tensor_pickle(2, 2), {}, "KeyError"),
        ("odd", tensor_pickle(2, 2), {"_0": b"\0" * 7}, "cannot be read whole"),
        ("big-endian", tensor_pickle(2, 2), {"byteorder": b"big", "_0": b"\0" * 8}, "big-endian numbers"),
        ("cut", tensor_pickle(2, 2)[:-4], {"_0": b"\0" * 8}, "cannot be read whole"),
        ("persistent", b"\x80\x02X\x01\x00\x00\x00aQ.", {}, "persistent id 'a'"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(archive(tmp_path / f"{name}.pt", tree, **entries))
    with zipfile.ZipFile(tmp_path / "none.pt", "w") as file:
        file.writestr("other.txt", "x")
    with pytest.raises(WeightsError, match=r"no single object tree data\.pkl"):
        read_checkpoint(tmp_path / "none.pt")


def test_hostile_trees_run_and_change_nothing(tmp_path: Path) -> None:
    """Calls of any function, attributes of our stand-ins, very large memo indices."""
    system = b"cos\nsystem\nX\x04\x00\x00\x00exit\x85R0"
    memo = b"Nr\xff\xff\xff\x7f0"
    for name, attack in (("system", system), ("memo", memo)):
        tree = tensor_pickle(1, 1)
        path = archive(tmp_path / f"{name}.pt", tree[:2] + attack + tree[2:], _0=b"\0\0\x80?")
        assert read_checkpoint(path)[0]["a"].tolist() == [1.0]
    table = b"ccollections\nOrderedDict\n(N}X\x03\x00\x00\x00getX\x01\x00\x00\x00x\x73\x86b0"
    with pytest.raises(WeightsError, match="cannot be read whole"):
        read_checkpoint(archive(tmp_path / "table.pt", b"\x80\x02" + table + b"N."))
    assert OrderedDict(a=1).get("a") == 1


def test_metadata_of_safetensors(network: CarZeroNetwork, tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1)}
    for name, text, message in (
        ("damaged", "{", "expected JSON metadata"),
        ("foreign", '{"format": "wordsight-mla"}', "expected metadata of format 'wordsight-carzero'"),
        ("newer", '{"format": "wordsight-carzero", "version": 9}', "expected version 1 of wordsight-carzero, got 9"),
    ):
        save_file(tensors, tmp_path / name, {"wordsight": text})
        with pytest.raises(WeightsError, match=message):
            read_state(tmp_path / name)
    save_file(tensors, tmp_path / "plain")
    assert read_state(tmp_path / "plain")[1] == {}
    with pytest.raises(SettingsError, match="metadata: expected other names than settings"):
        write_safetensors(tmp_path / "x", network, {"settings": 1})
    with pytest.raises(SettingsError, match="metadata: expected plain JSON values"):
        write_safetensors(tmp_path / "x", network, {"loss": float("nan")})
    assert not (tmp_path / "x").exists()


def test_an_empty_network_computes_once_filled(network: CarZeroNetwork) -> None:
    empty = empty_network(network.settings)
    assert next(empty.parameters()).is_meta
    fill(empty, state_of(network), "test")
    assert same(empty, network)
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(empty.eval().encode_images(images), network.encode_images(images))


# -- files that start training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["m3ae", "mae"])
def test_image_encoders_start_from_m3ae_or_mae(kind: str, network: CarZeroNetwork, tmp_path: Path) -> None:
    encoder = network.img_encoder.model.state_dict()
    if kind == "m3ae":
        content: dict[str, Any] = {f"vision_encoder.{name}": tensor for name, tensor in encoder.items()}
        extra = "language_encoder.x"
        file = {"state_dict": {**content, extra: torch.zeros(1)}, "hyper_parameters": ConfigOfATrainer(a=1)}
    else:
        extra = "decoder_embed.weight"
        file = {"model": {**encoder, extra: torch.zeros(2, 2)}, "args": ConfigOfATrainer()}
    torch.save(file, tmp_path / "start.ckpt")
    fresh = make_carzero(seed=5)
    before = fresh.fusion_module.mlp_head[0].weight.clone()
    assert read_image_start(tmp_path / "start.ckpt", fresh) == (extra,)
    assert all(torch.equal(encoder[name], tensor) for name, tensor in fresh.img_encoder.model.state_dict().items())
    assert torch.equal(before, fresh.fusion_module.mlp_head[0].weight)


def test_an_image_start_without_the_encoder_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"vision_encoder.norm.weight": torch.zeros(32)}}, tmp_path / "start.ckpt")
    with pytest.raises(
        WeightsError, match=r"missing: cls_token, pos_embed.*Name a file of this encoder and image size"
    ):
        read_image_start(tmp_path / "start.ckpt", make_carzero())


def test_a_resnet_starts_from_a_file_of_torchvision_old_or_new(tmp_path: Path) -> None:
    """The encoder then gives torchvision's own features; the first files lack the counters of the norms."""
    torchvision = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.resnet50(weights=None)
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
        images = torch.randn(1, 3, 64, 64)
    state = theirs.state_dict()
    old = {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}
    torch.save(old, tmp_path / "old.pth")
    fresh = make_carzero(seed=5, image_encoder="resnet50")
    assert read_image_start(tmp_path / "old.pth", fresh) == ("fc.weight", "fc.bias")
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        wanted = fresh.img_encoder.global_embedder(theirs.eval()(images))
        torch.testing.assert_close(fresh.encode_images(images)[:, 0], wanted, atol=1e-4, rtol=1e-4)
    save_file({**old, "layer1.0.bn1.num_batches_tracked": torch.tensor(7)}, tmp_path / "new.safetensors")
    read_image_start(tmp_path / "new.safetensors", fresh)
    assert fresh.img_encoder.model.layer1[0].bn1.num_batches_tracked == 7
    torch.save({name: tensor for name, tensor in old.items() if "layer4" not in name}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"missing: layer4.*or a ResNet-50"):
        read_image_start(tmp_path / "part.pth", fresh)


@pytest.mark.parametrize("old", [False, True])
def test_text_encoders_start_from_any_bert_folder(old: bool, network: CarZeroNetwork, tmp_path: Path) -> None:
    folder = text_folder(tmp_path)
    encoder = network.text_encoder.model.state_dict()
    fresh = make_carzero(seed=5)
    if old:  # a masked language model of the first kind: prefix, gamma and beta, a head, no pooler
        renamed = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in encoder.items()}
        renamed = {name.replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in renamed.items()}
        content = {f"bert.{name}": t for name, t in renamed.items() if "pooler" not in name}
        torch.save({**content, "cls.predictions.bias": torch.zeros(3)}, folder / "pytorch_model.bin")
    else:
        save_file(encoder, folder / "model.safetensors")
    left = read_text_start(folder, fresh)
    assert left == (("cls.predictions.bias",) if old else ())
    for name, tensor in fresh.text_encoder.model.state_dict().items():
        assert torch.equal(encoder[name], tensor) is not (old and "pooler" in name)


def test_a_text_start_that_does_not_fit_is_refused(network: CarZeroNetwork, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected the weights of a BERT, model.safetensors or pytorch_model.bin"):
        read_text_start(tmp_path, network)
    encoder = dict(network.text_encoder.model.state_dict())
    encoder["embeddings.word_embeddings.weight"] = torch.zeros(9, 32)
    save_file(encoder, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"embeddings.word_embeddings.weight \[9, 32\] instead of .* Set the text sizes"
    ):
        read_text_start(tmp_path, network)


def test_sizes_of_a_text_folder(tmp_path: Path) -> None:
    assert text_shape(text_folder(tmp_path / "text")) == SETTINGS.text
    assert text_shape(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(SettingsError, match="expected a BERT configuration"):
        text_shape(tmp_path)
