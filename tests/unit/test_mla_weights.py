"""Adapter checkpoints: published files and ours hold the same numbers, and nothing else gets in."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from wordsight.errors import SettingsError, WeightsError
from wordsight.models.mla.weights import (
    AdapterWeights,
    expected_shapes,
    read_published,
    read_safetensors,
    write_published,
    write_safetensors,
)

SHAPES = expected_shapes(4, 6, 5, (10, 11), 8, 7)


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def group(flat: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in flat.items() if name.startswith(prefix)}


def published(path: Path, **change: Any) -> dict[str, Any]:
    """Write a checkpoint as the published training script does."""
    flat = tensors()
    nested = {name: group(flat, name) for name in ("seg_adapters", "det_adapters", "prompt_learner")}
    content = {"state_dict": nested, "AUC": np.float64(0.987), "pAUC": np.float32(0.5), "best": 1.25, "epoch": 7}
    torch.save({**content, **change}, path)
    return content


def same(one: AdapterWeights, two: AdapterWeights) -> None:
    assert list(one.flat()) == list(two.flat())
    for name, tensor in one.flat().items():
        other = two.flat()[name]
        assert tensor.dtype == other.dtype
        assert tensor.numpy().tobytes() == other.numpy().tobytes()
    assert (one.contexts is None) == (two.contexts is None)
    assert repr(dict(one.info)) == repr(dict(two.info))


def test_expected_shapes_are_the_published_ones(shared: Path) -> None:
    import json

    keys = json.loads((shared / "goldens" / "mla" / "checkpoint_keys.json").read_text())
    for format, contexts in (("mla_lp_checkpoint", (10, 11)), ("mvfa_checkpoint", None)):
        theirs = {
            k.removeprefix("state_dict/").replace("/", ".", 1): tuple(v)
            for k, v in keys[format].items()
            if isinstance(v, list)
        }
        assert expected_shapes(4, 1024, 768, contexts, 8, 768) == theirs


def test_read_published(tmp_path: Path) -> None:
    content = published(tmp_path / "Brain.pth")
    weights = read_published(tmp_path / "Brain.pth", expect=SHAPES)
    for name in ("seg_adapters", "det_adapters"):
        read = weights.seg if name == "seg_adapters" else weights.det
        assert all(torch.equal(read[key], t) for key, t in content["state_dict"][name].items())
    assert weights.contexts is not None
    assert set(weights.contexts) == {"ctx.normal_end", "ctx.abnormal_end"}
    assert weights.info == {"AUC": 0.987, "pAUC": 0.5, "best": 1.25, "epoch": 7}
    assert [type(v) for v in weights.info.values()] == [float, float, float, int]
    same(read_published(tmp_path / "Brain.pth"), weights)


@pytest.mark.parametrize("half", [False, True])
def test_published_to_ours_and_back(tmp_path: Path, half: bool) -> None:
    flat = {name: t.half() if half else t for name, t in tensors(1).items()}
    nested = {name: group(flat, name) for name in ("seg_adapters", "det_adapters", "prompt_learner")}
    torch.save({"state_dict": nested, "AUC": 0.5, "pAUC": None, "best": 0.5, "epoch": 0}, tmp_path / "a.pth")
    first = read_published(tmp_path / "a.pth")
    write_safetensors(tmp_path / "a.safetensors", first, {"settings": {"shots": 4}, "backbone": "abc"})
    second, metadata = read_safetensors(tmp_path / "a.safetensors", expect=SHAPES)
    same(first, second)
    assert metadata["settings"] == {"shots": 4}
    assert (metadata["format"], metadata["version"], metadata["backbone"]) == ("wordsight-mla", 1, "abc")
    write_published(tmp_path / "b.pth", second)
    same(read_published(tmp_path / "b.pth"), first)
    one, two = (torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in "ab")
    assert list(one) == list(two)
    assert {k: list(v) for k, v in one["state_dict"].items()} == {k: list(v) for k, v in two["state_dict"].items()}


def test_many_levels_keep_their_order(tmp_path: Path) -> None:
    flat = {name: torch.zeros(shape) for name, shape in expected_shapes(12, 3, 2, None, 0, 0).items()}
    weights = AdapterWeights(group(flat, "seg_adapters"), group(flat, "det_adapters"), None)
    write_safetensors(tmp_path / "w.safetensors", weights)
    same(read_safetensors(tmp_path / "w.safetensors")[0], weights)


def test_mvfa(tmp_path: Path) -> None:
    flat = tensors()
    content = {name: group(flat, name) for name in ("seg_adapters", "det_adapters")}
    torch.save(content, tmp_path / "a.pth")
    weights = read_published(tmp_path / "a.pth", expect=expected_shapes(4, 6, 5, None, 0, 0))
    assert weights.contexts is None
    assert weights.info == {}
    write_published(tmp_path / "b.pth", weights, format="mvfa")
    assert list(torch.load(tmp_path / "b.pth", weights_only=True)) == ["seg_adapters", "det_adapters"]
    same(read_published(tmp_path / "b.pth"), weights)
    with pytest.raises(SettingsError, match="expected weights with learned contexts, got them without"):
        write_published(tmp_path / "c.pth", weights)
    published(tmp_path / "mla.pth")
    with pytest.raises(SettingsError, match="expected weights without learned contexts, got them with"):
        write_published(tmp_path / "c.pth", read_published(tmp_path / "mla.pth"), format="mvfa")
    with pytest.raises(SettingsError, match="expected 'mla' or 'mvfa', got 'x'"):
        write_published(tmp_path / "c.pth", weights, format="x")  # type: ignore[arg-type]
    assert not (tmp_path / "c.pth").exists()


@settings(max_examples=40, deadline=None)
@given(value=st.floats(width=64), wide=st.booleans())
def test_numpy_scalars_keep_their_value(tmp_path_factory: pytest.TempPathFactory, value: float, wide: bool) -> None:
    with np.errstate(over="ignore"):
        scalar = np.float64(value) if wide else np.float32(value)
    path = tmp_path_factory.mktemp("s")
    flat = {name: torch.zeros(shape) for name, shape in expected_shapes(1, 2, 2, None, 0, 0).items()}
    nested = {name: group(flat, name) for name in ("seg_adapters", "det_adapters")}
    torch.save({"state_dict": nested, "AUC": scalar}, path / "a.pth")
    weights = read_published(path / "a.pth")
    write_safetensors(path / "a.safetensors", weights)
    for read in (weights, read_safetensors(path / "a.safetensors")[0]):
        got = read.info["AUC"]
        assert isinstance(got, float)
        assert got == float(scalar) or (math.isnan(got) and math.isnan(scalar))


def test_names_and_shapes_are_accounted_for(tmp_path: Path) -> None:
    flat = tensors()
    seg, det, ctx = (group(flat, name) for name in ("seg_adapters", "det_adapters", "prompt_learner"))
    path = tmp_path / "w.pth"

    def save(seg: Any = seg, det: Any = det, ctx: Any = ctx) -> None:
        torch.save({"state_dict": {"seg_adapters": seg, "det_adapters": det, "prompt_learner": ctx}}, path)

    save(det={**det, "0.fc1.0.weight": torch.zeros(6, 5), "4.fc1.0.weight": torch.zeros(5, 6)})
    with pytest.raises(
        WeightsError, match=r"1 unexpected: det_adapters.4.fc1.0.weight; 1 misshapen: det_adapters.0.*\[6, 5\] instead"
    ):
        read_published(path, expect=SHAPES)
    with pytest.raises(WeightsError, match=r"4 missing|missing: seg_adapters.4.fc1.0.weight"):
        read_published(path)
    save(ctx={"ctx.normal_end": ctx["ctx.normal_end"]})
    with pytest.raises(WeightsError, match=r"1 missing: prompt_learner.ctx.abnormal_end"):
        read_published(path, expect=SHAPES)
    with pytest.raises(WeightsError, match=r"normal and abnormal contexts in pairs, got only ctx.normal_end"):
        read_published(path)
    save(seg={**seg, "0.fc3.0.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"expected names like 0.fc1.0.weight .* got seg_adapters.0.fc3.0.weight"):
        read_published(path)
    save(seg={"0.fc2.0.weight": torch.zeros(6, 5)})
    with pytest.raises(WeightsError, match=r"expected seg_adapters.0.fc1.0.weight \(middle, width\), got shape \[\]"):
        read_published(path)
    save(seg={**seg, "0.fc1.0.weight": torch.zeros(5, 6, dtype=torch.int64)})
    with pytest.raises(WeightsError, match=r"floating-point tensors in seg_adapters, got others: 0.fc1.0.weight"):
        read_published(path)
    save(seg=[1])
    with pytest.raises(WeightsError, match="expected tensors by name in seg_adapters, got a list"):
        read_published(path)
    published(path, AUC={"a": 1})
    with pytest.raises(WeightsError, match="expected a number or text under 'AUC', got a dict"):
        read_published(path)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"got visual.proj. This is no adapter checkpoint .* loaded by load_clip"):
        read_published(tmp_path / "clip.pt")
    torch.save({"state_dict": [1]}, tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="This is no adapter checkpoint"):
        read_published(tmp_path / "list.pt")
    torch.save(3, tmp_path / "three.pt")
    with pytest.raises(WeightsError, match="expected a dictionary, got a int"):
        read_published(tmp_path / "three.pt")


class Evil:
    """A pickle that would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_malicious_pickles_do_nothing(tmp_path: Path) -> None:
    published(tmp_path / "zip.pth", AUC=Evil(tmp_path / "pwned"))
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"seg_adapters": Evil(tmp_path / "pwned")}, protocol=2))
    for name in ("zip", "raw"):
        with pytest.raises(WeightsError, match=r"Nothing of it was run"):
            read_published(tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError) as caught:
            read_published(tmp_path / f"{name}.pth")
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_pickle_protocols_that_torch_cannot_read(tmp_path: Path) -> None:
    torch.save({"seg_adapters": {}}, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(WeightsError, match=r"cannot be read whole \(UnpicklingError: .*Unsupported operand"):
        read_published(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "value", [np.array([1.0]), np.datetime64("2020-01-01"), np.int64(3), np.array(["a"], dtype=object)]
)
def test_other_numpy_objects_are_refused(tmp_path: Path, value: Any) -> None:
    published(tmp_path / "w.pth", AUC=value)
    with pytest.raises(WeightsError, match="Nothing of it was run"):
        read_published(tmp_path / "w.pth")


def test_safe_globals_are_gone_afterwards(tmp_path: Path) -> None:
    published(tmp_path / "w.pth")
    before = set(torch.serialization.get_safe_globals())
    read_published(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_files_that_are_something_else(tmp_path: Path) -> None:
    published(tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    with pytest.raises(WeightsError, match="expected a weights file, got a folder"):
        read_published(tmp_path)
    with pytest.raises(WeightsError, match="expected a weights file, found none"):
        read_published(tmp_path / "absent.pth")
    for content, words in (
        (whole[: len(whole) // 2], "a zip archive that cannot be read whole"),
        (b"<html>quota exceeded", "a web page"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"{ }", "JSON text"),
        (b"", "an empty file"),
        (b"hello there", "unknown content starting with b'hello th'"),
    ):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=f"got {words}"):
            read_published(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"got a zip archive. Use read_published"):
        read_safetensors(tmp_path / "w.pth")
    write_safetensors(tmp_path / "w.safetensors", read_published(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match=r"got a safetensors file. Use read_safetensors"):
        read_published(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-5])
    with pytest.raises(WeightsError, match="expected a safetensors file, got"):
        read_safetensors(tmp_path / "w.safetensors")


def test_our_format_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="expected metadata of format 'wordsight-mla'"):
        read_safetensors(path)
    save_file({"a": torch.zeros(1)}, path, {"wordsight": "{"})
    with pytest.raises(WeightsError, match="expected JSON metadata"):
        read_safetensors(path)
    save_file({"a": torch.zeros(1)}, path, {"wordsight": '{"format": "wordsight-mla", "version": 2, "info": {}}'})
    with pytest.raises(WeightsError, match=r"expected version 1 of wordsight-mla, got 2. Update"):
        read_safetensors(path)
    save_file({"a": torch.zeros(1)}, path, {"wordsight": '{"format": "wordsight-mla", "version": 1, "info": {}}'})
    with pytest.raises(WeightsError, match="expected seg_adapters, det_adapters and perhaps prompt_learner, got a"):
        read_safetensors(path)
    weights = read_published_from(tmp_path)
    with pytest.raises(SettingsError, match="expected other names than info, version"):
        write_safetensors(path, weights, {"version": 2, "info": {}})
    with pytest.raises(SettingsError, match="expected plain JSON values"):
        write_safetensors(path, weights, {"settings": object()})
    write_safetensors(path, weights)
    with pytest.raises(WeightsError, match=r"2 missing: prompt_learner.ctx.normal_middle"):
        read_safetensors(path, expect=expected_shapes(4, 6, 5, (10, 11), 8, 7, "middle"))


def read_published_from(folder: Path) -> AdapterWeights:
    published(folder / "source.pth")
    return read_published(folder / "source.pth")
