"""What is kept: tensors in memory, in a file without a name, or not at all; first blocks and masks of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imaging_samples import nifti
from test_train_mla import QUICK, data, detector, same, sources_of, state, support_of  # noqa: F401
from wordsight.errors import SettingsError
from wordsight.imaging import mla_input, prepare_mask, read_mask
from wordsight.models.mla.model import MlaNetwork, Tokens
from wordsight.train.mla import MlaTraining, fit_few, fit_zero
from wordsight.train.run import Run
from wordsight.train.samples import samples_from_records, support_arrays
from wordsight.train.store import TensorStore
from wordsight.types import Record


def numbers(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_memory_first_then_the_file_then_nothing(tmp_path: Path) -> None:
    store = TensorStore(2 * 140, 2 * 192, tmp_path)  # 140 bytes a tensor, 192 with its padding
    kept = [store.put(i, numbers(i)) for i in range(5)]
    assert kept == [True, True, True, True, False]
    for i in range(4):
        found = store.get(i)
        assert found is not None
        assert torch.equal(found, numbers(i))
    assert store.get(4) is None
    assert os.listdir(tmp_path) == [], "the file has no name that could be left behind"
    store.close()
    assert store.get(0) is None
    assert store.get(2) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_format_comes_back_from_the_file_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    store = TensorStore(0, 1 << 20, tmp_path / "made when needed")
    for i in range(3):
        assert store.put(("a", i), numbers(i, dtype).transpose(1, 2))
    for i in (2, 0, 1):
        found = store.get(("a", i))
        assert found is not None
        assert found.dtype == dtype
        assert torch.equal(found, numbers(i, dtype).transpose(1, 2))
        found.zero_()  # a mapping of its own: nobody else's numbers change
        assert torch.equal(store.get(("a", i)), numbers(i, dtype).transpose(1, 2))  # type: ignore[arg-type]


def test_at_most_half_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2 * 192 + 10}))
    store = TensorStore(0, 1 << 30, tmp_path)
    assert [store.put(i, numbers(i)) for i in range(3)] == [True, False, False]


def test_a_full_disk_ends_the_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TensorStore(0, 1 << 20, tmp_path)
    assert store.put(0, numbers(0))

    class Full:
        def __getattr__(self, name: str) -> Any:
            raise OSError(28, "No space left on device")

    file, store._file = store._file, Full()  # type: ignore[assignment]
    assert not store.put(1, numbers(1))
    store._file = file
    assert not store.put(1, numbers(1))
    assert torch.equal(store.get(0), numbers(0))  # type: ignore[arg-type]
    unwritable = tmp_path / "file"
    unwritable.write_text("not a folder")
    assert not TensorStore(0, 1 << 20, unwritable).put(0, numbers(0))


def count_calls(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Numbers of images that went up to the first level, and from one level to the next."""
    first: list[int] = []
    later: list[int] = []
    stem, advanced = MlaNetwork.stem, MlaNetwork._advanced

    def to_first(self: MlaNetwork, x: torch.Tensor) -> torch.Tensor:
        first.append(len(x))
        return stem(self, x)

    def to_next(self: MlaNetwork, x: torch.Tensor, level: int) -> torch.Tensor:
        later.append(len(x))
        return advanced(self, x, level)

    monkeypatch.setattr(MlaNetwork, "stem", to_first)
    monkeypatch.setattr(MlaNetwork, "_advanced", to_next)
    return first, later


@pytest.mark.parametrize(("memory", "disk", "once"), [(1, 0, True), (0, 1, True), (5e-5, 1, True), (0, 0, False)])
@pytest.mark.parametrize("mix", [0.1, 0.0])
def test_frozen_blocks_run_once_per_image_wherever_they_are_kept(
    memory: float,
    disk: float,
    once: bool,
    mix: float,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    support, held, _ = support_of(data, "Brain")
    expected = state(fit_few(detector(mix=mix), support, training=replace(QUICK, epochs=1), selection=held))
    first, later = count_calls(monkeypatch)
    training = replace(QUICK, epochs=1, cache_gb=memory, cache_disk_gb=disk)
    trained = fit_few(detector(mix=mix), support, training=training, selection=held, folder=tmp_path)
    assert same(state(trained), expected)
    assert (sum(first) == 44 + len(held)) is once
    if mix:
        assert sum(later) > 3 * (44 + len(held)), "adapters write into the stream, which changes"
    else:
        assert sum(later) == 3 * sum(first), "three more levels of every image, and none in a step"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mix", [0.1, 0.0])
def test_training_equals_a_slow_twin_that_keeps_nothing(data: Path, mix: float) -> None:  # noqa: F811
    """The twin runs the whole tower for every image of every update, and writes the adapters' share even if it is 0."""
    support, _, _ = support_of(data, "Brain")
    training = replace(QUICK, protocol="last")
    ours = fit_few(detector(mix=mix), support, training=training)
    theirs = detector(mix=mix).network
    samples = support_arrays(support.normal, support.abnormal, ours.input_spec, masked=True).samples
    groups = [{"params": list(part.parameters()), "lr": 1e-3} for part in (theirs.det_adapters, theirs.seg_adapters)]
    groups.append({"params": list(theirs.prompt_learner.parameters()), "lr": 1e-3})  # type: ignore[union-attr]
    adam = torch.optim.Adam(groups, betas=(0.5, 0.999))
    plan = Run(detector(mix=mix), [samples], [], training, None)
    for epoch in range(training.epochs):
        for _, rows in plan.rounds(epoch)[0]:
            tokens = whole_tower(theirs, torch.stack([samples.load(i) for i in rows]))
            mask = torch.stack([samples.mask(i) for i in rows]).float()
            loss = theirs.loss(tokens, theirs.text(), samples.labels[rows], mask).total
            adam.zero_grad()
            loss.backward()
            adam.step()
    for name, value in theirs.state_dict().items():
        assert float((state(ours)[name] - value).norm() / value.norm()) < 1e-6, name


def whole_tower(network: MlaNetwork, images: torch.Tensor) -> Tokens:
    """Adapter features of (B, 3, S, S), by every block in turn."""
    settings, x = network.settings, network.clip.vision.embed(images)
    seg: list[torch.Tensor] = []
    det: list[torch.Tensor] = []
    for number, block in enumerate(network.clip.vision.blocks, start=1):
        x = block(x)
        if number in settings.levels:
            written = torch.zeros_like(x)
            for adapters, kept in ((network.seg_adapters, seg), (network.det_adapters, det)):
                adapter: Any = adapters[len(kept)]
                kept.append(adapter.features(x))
                written = written + settings.mix * adapter.output(kept[-1])
            x = (1 - 2 * settings.mix) * x + written
    return Tokens(tuple(seg), tuple(det))


def test_masks_are_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import wordsight.train.samples as module

    read, paths = module.read_mask, []

    def counted(path: Path, **options: Any) -> Any:
        paths.append(path)
        return read(path, **options)

    monkeypatch.setattr(module, "read_mask", counted)
    fit_zero(detector(), sources_of(data), training=replace(QUICK, epochs=2))
    assert len(paths) == 12, "six abnormal images to train on and six to select by, whatever the number of epochs"
    assert len(set(paths)) == 12


def test_masks_of_volumes_are_read_at_the_frame_of_their_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    marked = np.zeros((40, 40, 3), np.uint8)
    marked[:20, :, 0], marked[:, :20, 2] = 1, 1
    for name, voxels in (
        ("image", rng.random((40, 40, 3)).astype(np.float32)),
        ("mask", marked),
        ("flat", marked[..., 0]),
    ):
        (tmp_path / f"{name}.nii").write_bytes(nifti(voxels))
    spec = mla_input(56)
    image, mask = tmp_path / "image.nii", tmp_path / "mask.nii"
    samples = samples_from_records([Record(image, 1, mask, frame=frame) for frame in range(3)], spec, name="x")
    for frame in range(3):
        expected = prepare_mask(read_mask(mask, frame=frame), spec)
        assert np.array_equal(samples.mask(frame).numpy(), expected)
        assert expected.any() == (frame != 1)
    assert not torch.equal(samples.mask(0), samples.mask(2))
    shared = samples_from_records([Record(image, 1, tmp_path / "flat.nii", frame=2)], spec, name="x")
    assert torch.equal(shared.mask(0), samples.mask(0)), "one mask holds for every frame"


@pytest.mark.parametrize("values", [{"cache_gb": -1.0}, {"cache_disk_gb": -0.5}])
def test_budgets_below_zero(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected cache_gb and cache_disk_gb of 0 GiB or more"):
        MlaTraining(**values)
