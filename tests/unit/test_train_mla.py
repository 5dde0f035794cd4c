"""Training: protocols, determinism, resuming, precision, what is trained and what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from tiny_clip import CONFIG, make_clip
from wordsight.data import SupportSet, benchmark_records, draw_support, held_out
from wordsight.errors import DataError, SettingsError, TrainingError
from wordsight.evaluate import evaluate
from wordsight.imaging import read_image
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.tensor_files import hash_tensors
from wordsight.train.engine import load_state, make_fabric, save_state, train
from wordsight.train.mla import MlaTraining, fit_few, fit_zero
from wordsight.train.run import Run
from wordsight.train.samples import samples_from_records, support_arrays

SIZE = 56
QUICK = MlaTraining(epochs=2, batch_size=4, adapter_lr=1e-3, device="cpu")


def draw(folder: Path, name: str, *, masks: bool, count: int = 6) -> None:
    """Grey noise; abnormal images have a bright square somewhere."""
    rng = np.random.default_rng(len(name))
    for split in ("valid", "test"):
        for kind in ("good", "Ungood"):
            place = folder / f"{name}_AD" / split / kind
            (place / "img").mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(90, 12, (64, 64))
                mask = np.zeros((64, 64), np.uint8)
                if kind == "Ungood":
                    r, c = rng.integers(5, 40, 2)
                    mask[r : r + 18, c : c + 18] = 255
                    pixels[mask > 0] += 110
                Pil.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / "img" / f"{i}.png")
                if masks and kind == "Ungood":
                    (place / "anomaly_mask").mkdir(exist_ok=True)
                    Pil.fromarray(mask).save(place / "anomaly_mask" / f"{i}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder, "Brain", masks=True)
    draw(folder, "Chest", masks=False)
    draw(folder, "Liver", masks=True)
    return folder


def detector(method: str = "mla", seed: int = 5, mix: float = 0.1) -> MlaLp:
    settings = MlaSettings(image_size=SIZE, levels=(1, 2, 3, 4), mix=mix)
    if method == "mvfa":
        settings = replace(MlaSettings.mvfa("Brain"), image_size=SIZE, levels=(1, 2, 3, 4))
    return MlaLp(MlaNetwork(make_clip(SIZE), settings, seed=seed).eval())


def support_of(data: Path, name: str, shots: int = 2) -> tuple[SupportSet, list[Any], list[Any]]:
    valid = benchmark_records(data, name, "valid")
    support = draw_support(valid, shots, seed=0)
    return support, held_out(valid, support), benchmark_records(data, name, "test")


def state(found: MlaLp) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in found.network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", ["mla", "mvfa"])
def test_few_shot_learns_to_find_bright_squares(data: Path, method: str) -> None:
    support, held, test = support_of(data, "Brain", shots=3)
    training = replace(QUICK, epochs=8, adapter_lr=3e-3)
    trained = fit_few(detector(method), support, training=training, selection=held, dataset="Brain")
    result = evaluate(trained, test, dataset="Brain", protocol={}, bootstrap_draws=20, progress=False)
    assert result.numbers["image_auroc"].value >= 0.9
    assert result.numbers["pixel_auroc"].value >= 0.9
    assert trained.mode == "segmentation"
    assert trained.scale.origin == "validation"
    losses = [entry["loss"] for entry in trained.info["history"] if "loss" in entry]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("shots", [0, 2])
def test_training_leaves_the_given_detector_as_it_is(data: Path, shots: int) -> None:
    support, held, test = support_of(data, "Brain")
    base = detector()
    images = [read_image(record.path) for record in test[:2]]
    before, said, known = state(base), base.predict(images), base.weights_hash

    def train_again() -> MlaLp:
        if not shots:
            return fit_zero(base, sources_of(data), training=QUICK)
        return fit_few(base, support, training=QUICK, selection=held)

    first = train_again()
    weights, first_said = state(first), first.predict(images)
    second = train_again()
    assert same(state(second), weights), "the second training starts where the first did"
    assert same(state(first), weights)
    assert same(state(base), before)
    for trained, old in ((base, said), (first, first_said)):
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(trained.predict(images), old, strict=True))
    assert base.weights_hash == known != first.weights_hash
    assert first.clip is base.clip


def test_few_shot_without_masks_trains_det_adapters_and_contexts_only(data: Path) -> None:
    support, held, _ = support_of(data, "Chest")
    start = detector()
    before, backbone = state(start), start.clip.weights_hash
    trained = fit_few(start, support, training=QUICK, selection=held)
    after = state(trained)
    moved = {k for k in after if not torch.equal(before[k], after[k])}
    last = "det_adapters.3.fc2.0.weight"
    assert moved == {k for k in after if not k.startswith("seg_adapters") and k != last}
    assert trained.mode == "detection"
    assert trained.map_branch == "det"
    assert hash_tensors(trained.clip.model.state_dict()) == hash_tensors(make_clip(SIZE).model.state_dict())
    assert trained.clip.weights_hash == backbone


def test_the_untrained_detector_is_a_candidate_where_that_is_asked_for(data: Path) -> None:
    support, held, _ = support_of(data, "Brain")
    training = replace(QUICK, epochs=2, adapter_lr=1e-9, context_lr=1e-9)
    for when, epochs in (("after_epoch", [1, 2]), ("from_start", [0, 1, 2])):
        trained = fit_few(detector(), support, training=replace(training, evaluate_when=when), selection=held)  # type: ignore[arg-type]
        assert [entry["epoch"] for entry in trained.info["history"] if "selection" in entry] == epochs
        assert trained.info["epoch"] == epochs[0]  # nothing is learned at this rate, and the first of equals is kept


def test_same_seed_same_weights_other_seed_others(data: Path) -> None:
    support, held, _ = support_of(data, "Brain")
    one = state(fit_few(detector(), support, training=QUICK, selection=held))
    two = state(fit_few(detector(), support, training=QUICK, selection=held))
    other = state(fit_few(detector(), support, training=replace(QUICK, seed=112), selection=held))
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("mix", [0.1, 0.0])
def test_kept_and_recomputed_blocks_give_the_same_weights(data: Path, mix: float) -> None:
    support, held, _ = support_of(data, "Brain")
    cached = state(fit_few(detector(mix=mix), support, training=QUICK, selection=held))
    nowhere = replace(QUICK, cache_gb=0.0, cache_disk_gb=0.0)
    recomputed = state(fit_few(detector(mix=mix), support, training=nowhere, selection=held))
    assert same(cached, recomputed)


def test_validation_never_opens_the_test_set(data: Path) -> None:
    support, held, test = support_of(data, "Brain")
    gone = [replace(record, path=Path("does-not-exist.png")) for record in test]
    trained = fit_few(detector(), support, training=QUICK, selection=held, test=gone)
    assert trained.info["protocol"] == "validation"
    assert "validation split" in trained.info["selected"]


def test_published_protocol_selects_and_scales_on_the_test_set(data: Path) -> None:
    support, _, test = support_of(data, "Brain")
    training = replace(QUICK, protocol="published", epochs=3)
    trained = fit_few(detector(), support, training=training, test=test)
    assert trained.scale.origin == "test"
    chosen = [h["selection"] for h in trained.info["history"] if "selection" in h]
    assert len(chosen) == 3
    assert trained.info["selection_score"] == max(chosen)
    assert trained.info["epoch"] == 1 + chosen.index(max(chosen)), "few-shot keeps the first of equal results"
    with pytest.raises(DataError, match="'published' selects on the test images, got none"):
        fit_few(detector(), support, training=training)


def test_last_keeps_the_last_weights_and_scales_without_the_test_set(data: Path) -> None:
    support, held, _ = support_of(data, "Brain")
    training = replace(QUICK, protocol="last")
    with_held = fit_few(detector(), support, training=training, selection=held)
    alone = fit_few(detector(), support, training=training)
    assert same(state(with_held), state(alone))
    assert (with_held.scale.origin, alone.scale.origin) == ("validation", "support")
    assert alone.info["selected"] == "last of 2 epochs"


def test_without_held_out_images_a_quarter_of_the_support_is_held_out(data: Path) -> None:
    valid = benchmark_records(data, "Brain", "valid")
    support = draw_support(valid, 4, seed=0)
    trained = fit_few(detector(), support, training=replace(QUICK, epochs=1))
    assert "1 + 1 support images held out" in trained.info["selected"]
    assert trained.bank is not None
    assert set(trained.bank.owner.tolist()) == {0, 1, 2}
    few = fit_few(detector(), draw_support(valid, 2, seed=0), training=replace(QUICK, epochs=1))
    assert few.info["selected"] == "last of 1 epochs"
    assert few.scale.origin == "support"


def test_a_memory_of_relative_tokens_can_be_chosen_and_only_what_is_chosen_is_kept(data: Path) -> None:
    support, held, test = support_of(data, "Chest")
    both = fit_few(detector(), support, training=replace(QUICK, relatives=(False, True)), selection=held)
    asked = both.reading.memories
    assert (both.bank is not None, both.relative_bank is not None) == (False in asked, True in asked)
    alone = fit_few(detector(), support, training=replace(QUICK, relatives=(True,)), selection=held)
    assert alone.bank is None
    assert alone.relative_bank is not None
    assert alone.relative_bank.relative
    raw = alone.raw([read_image(test[0].path)])[0]
    assert raw.distance is None
    assert raw.relative is not None


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 3), (1.0, 2), (9.0, 1)])
def test_a_later_epoch_must_be_better_beyond_the_standard_error(
    data: Path, monkeypatch: pytest.MonkeyPatch, margin: float, expected: int
) -> None:
    """0.60, 0.95, 0.96 on 2 + 2 images; the error of 0.60 is about 0.29, that of 0.95 about 0.13."""
    found = iter((0.60, 0.95, 0.96))

    def scripted(*args: Any) -> tuple[list[float], list[float]]:
        return [next(found)] * len(args[4]), []

    monkeypatch.setattr("wordsight.train.run.judged", scripted)
    support, held, _ = support_of(data, "Chest")
    held = [record for label in (0, 1) for record in [r for r in held if r.label == label][:2]]
    assert len(held) == 4
    trained = fit_few(detector(), support, training=replace(QUICK, epochs=3, margin=margin), selection=held)
    assert trained.info["epoch"] == expected


def sources_of(data: Path) -> dict[str, tuple[list[Any], list[Any]]]:
    return {n: (benchmark_records(data, n, "test"), benchmark_records(data, n, "valid")) for n in ("Liver", "Chest")}


@pytest.mark.parametrize("when", ["after_epoch", "before_epoch", "fifths"])
def test_zero_shot_trains_on_other_sets(data: Path, when: str) -> None:
    training = replace(QUICK, epochs=6, batch_size=3, adapter_lr=3e-3, evaluate_when=when)  # type: ignore[arg-type]
    trained = fit_zero(detector(), sources_of(data), training=training)
    assert trained.mode == "zero-shot"
    assert trained.bank is None
    test = benchmark_records(data, "Brain", "test")
    result = evaluate(trained, test, dataset="Brain", protocol={}, bootstrap_draws=20, progress=False)
    assert result.numbers["image_auroc"].value >= 0.8
    selections = [h for h in trained.info["history"] if "selection" in h]
    assert len(selections) >= (30 if when == "fifths" else 6)
    assert selections[0]["epoch"] == (0 if when == "before_epoch" else 1)
    if when == "before_epoch":
        assert [h["epoch"] for h in selections] == list(range(6)), "candidates are named by the epochs behind them"


def test_zero_shot_published_protocol_needs_test_images(data: Path) -> None:
    training = replace(QUICK, protocol="published", epochs=1)
    with pytest.raises(DataError, match="selects on the test images"):
        fit_zero(detector(), sources_of(data), training=training)
    with pytest.raises(DataError, match="at least one other set"):
        fit_zero(detector(), {}, training=training)
    trained = fit_zero(detector(), sources_of(data), training=training, test=benchmark_records(data, "Brain", "test"))
    assert trained.scale.origin == "test"


def test_one_adam_equals_the_three_optimizers_of_the_published_order(data: Path) -> None:
    """Batches without masks leave the seg adapters alone although the det loss reaches them through the stream."""
    ours = detector()
    spec = ours.input_spec
    sets = [samples_from_records(part[0], spec, name=n) for n, part in sources_of(data).items()]
    run = Run(replace(ours, mode="zero-shot"), sets, [], replace(QUICK, precision="fp32"), None)
    twin = detector().network
    twin.requires_grad_(True)
    rates = {"seg_adapters": 1e-3, "det_adapters": 1e-3, "prompt_learner": 1e-3}
    adams = {k: torch.optim.Adam(getattr(twin, k).parameters(), lr=r, betas=(0.5, 0.999)) for k, r in rates.items()}
    for which, index in ((0, [0, 1]), (1, [2, 7]), (0, [6, 8]), (1, [1, 9])):
        run.optimizer.zero_grad(set_to_none=True)
        run.step((which, index)).backward()
        run.optimizer.step()
        samples = sets[which]
        images = torch.stack([samples.load(i) for i in index])
        masks = torch.stack([samples.mask(i) for i in index]).float() if samples.masked else None
        for name, adam in adams.items():
            if samples.masked or name != "seg_adapters":
                adam.zero_grad()
        twin.loss(twin(images), twin.text(), samples.labels[index], masks).total.backward()
        for name, adam in adams.items():
            if samples.masked or name != "seg_adapters":
                adam.step()
    for name, value in twin.state_dict().items():
        assert torch.allclose(run.network.state_dict()[name], value, atol=1e-6), name


SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
import test_train_mla as t
from wordsight.models.tensor_files import hash_tensors
import wordsight.train.run as run
data, folder, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
support, held, _ = t.support_of(data, "Brain")
original = run.Run.step
run.Run.step = lambda self, batch: (time.sleep(slow), original(self, batch))[1]
trained = t.fit_few(t.detector(), support, training=replace(t.QUICK, epochs=4), selection=held, folder=folder)
print(hash_tensors(trained.network.state_dict()), trained.info["epoch"], trained.scale, len(trained.info["history"]))
"""


def start(data: Path, folder: Path, slow: float) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parents[1]
    code = SCRIPT.format(tests=str(tests), unit=str(tests / "unit"))
    arguments = [sys.executable, "-c", code, str(data), str(folder), str(slow)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_killed_run_resumes_to_the_same_result(data: Path, tmp_path: Path) -> None:
    whole, _ = start(data, tmp_path / "whole", 0.0).communicate()
    assert whole
    folder = tmp_path / "killed"
    for epoch in (1, 2):
        process = start(data, folder, 0.15)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = folder / "state.pt"
            if found.exists() and torch.load(found, weights_only=True)["epoch"] >= epoch:
                break
            time.sleep(0.02)
        time.sleep(0.2 * epoch)  # somewhere within the next epoch
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    resumed, _ = start(data, folder, 0.0).communicate()
    assert resumed == whole


def stop(monkeypatch: pytest.MonkeyPatch, fit: Callable[[], MlaLp], epochs: int = 1) -> None:
    """Train until the state of this many epochs is written, and no further."""
    import wordsight.train.run as module

    save, written = module.save_state, []

    def interrupt(path: Path, values: dict[str, Any]) -> None:
        save(path, values)
        written.append(path)
        if len(written) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_state", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit()


def test_a_state_of_another_run_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support, held, _ = support_of(data, "Brain")
    other = draw_support(benchmark_records(data, "Brain", "valid"), 2, seed=1)

    def fit(start: MlaLp | None = None, support: SupportSet = support, **changes: Any) -> MlaLp:
        training = replace(QUICK, **changes)
        return fit_few(start or detector(), support, training=training, selection=held, folder=tmp_path)

    stop(monkeypatch, fit)
    for changed, name in (
        ({"adapter_lr": 1e-2}, "adapter_lr"),
        ({"support": other}, "images 0 support"),
        ({"start": detector(seed=6)}, "initial weights"),
    ):
        with pytest.raises(TrainingError, match=rf"started with other settings \({name}\)"):
            fit(**changed)  # type: ignore[arg-type]
    assert same(state(fit(cache_gb=0.0)), state(fit_few(detector(), support, training=QUICK, selection=held)))
    assert list(tmp_path.iterdir()) == [], "a finished run leaves no state that another could take up"
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(TrainingError, match="cannot be read"):
        fit()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a CUDA device")
def test_fp16_resumes_with_its_gradient_scaler(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support, held, test = support_of(data, "Brain")
    training = replace(QUICK, epochs=3, device="cuda", precision="fp16")

    def fit(folder: Path) -> MlaLp:
        return fit_few(detector(), support, training=training, selection=held, folder=folder)

    whole = fit(tmp_path / "whole")
    stop(monkeypatch, lambda: fit(tmp_path / "cut"), epochs=2)
    assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["precision"]["scale"] > 0
    resumed = fit(tmp_path / "cut")
    images = [read_image(record.path) for record in test[:2]]
    for a, b in zip(whole.predict(images), resumed.predict(images), strict=True):
        assert np.allclose(a.scores, b.scores, rtol=1e-3)


def test_the_state_of_the_gradient_scaler_is_saved_and_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric.plugins.precision.precision import Precision

    support, held, _ = support_of(data, "Brain")
    known: list[dict[str, Any]] = []

    def fit() -> MlaLp:
        return fit_few(detector(), support, training=QUICK, selection=held, folder=tmp_path)

    monkeypatch.setattr(Precision, "state_dict", lambda self: {"scale": 1024.0})
    monkeypatch.setattr(Precision, "load_state_dict", lambda self, values: known.append(values))
    stop(monkeypatch, fit)
    assert known == []
    fit()
    assert known == [{"scale": 1024.0}]


def test_state_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert load_state(path, {}) is None
    save_state(path, {"epoch": 3, "settings": {"a": 1}, "x": torch.arange(3)})
    found = load_state(path, {"a": 1})
    assert found is not None
    assert found["epoch"] == 3


def test_bf16_trains_and_stays_close(data: Path) -> None:
    support, held, _ = support_of(data, "Brain")
    full = fit_few(detector(), support, training=QUICK, selection=held)
    half = fit_few(detector(), support, training=replace(QUICK, precision="bf16"), selection=held)
    assert half.precision == "bf16"
    losses = [[h["loss"] for h in d.info["history"] if "loss" in h] for d in (full, half)]
    assert np.allclose(losses[0], losses[1], rtol=0.05)
    assert all(v.dtype == torch.float32 for v in half.network.state_dict().values())


def test_losses_that_are_not_finite_stop_the_run() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    fabric = make_fabric("cpu", "fp32")
    adam = fabric.setup_optimizers(torch.optim.Adam([parameter]))
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(fabric, adam, lambda epoch: [[0]], lambda batch: parameter.sum() * float("nan"), epochs=1)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("tpu", "fp32", "expected auto, cpu, cuda"),
        ("cuda:97", "fp32", "this machine has"),
        ("cpu", "fp8", "expected fp32, bf16 or fp16"),
        ("cpu", "fp16", "fp16 needs a CUDA device"),
    ],
)
def test_device_and_precision_errors(device: str, precision: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_fabric(device, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"epochs": -1}, "epochs >= 0"), ({"adapter_lr": 0.0}, "learning rates > 0"), ({"protocol": "best"}, "protocol:")],
)
def test_training_settings_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MlaTraining(**values)


def test_published_training_settings() -> None:
    few, zero = MlaTraining.published("mla", 4), MlaTraining.published("mla", 0)
    assert (few.adapter_lr, few.context_lr, few.batch_size, few.epochs, few.seed) == (1e-4, 1e-3, 1, 50, 111)
    assert (zero.batch_size, zero.evaluate_when, zero.protocol) == (8, "before_epoch", "published")
    few, zero = MlaTraining.published("mvfa", 4), MlaTraining.published("mvfa", 0)
    assert (few.adapter_lr, zero.adapter_lr, zero.evaluate_when) == (1e-3, 1e-4, "fifths")
    assert few.mask_rule == "half"


def test_masks_of_zeros_and_ones_vanish_only_under_the_published_rule(data: Path, tmp_path: Path) -> None:
    support, _, _ = support_of(data, "Brain")
    faint = []
    for record in support.abnormal:
        assert record.mask is not None
        path = tmp_path / record.mask.name
        Pil.fromarray((np.asarray(Pil.open(record.mask)) > 0).astype(np.uint8)).save(path)
        faint.append(replace(record, mask=path))
    spec = detector().input_spec
    found = support_arrays(support.normal, faint, spec, masked=True, mask_rule="any")
    assert found.masks is not None
    assert bool(found.masks.flatten(1).any(1).all())
    with pytest.raises(DataError, match=r"is empty under rule 'half'.*need the rule 'any'"):
        support_arrays(support.normal, faint, spec, masked=True, mask_rule="half")


def test_support_errors(data: Path) -> None:
    support, _, _ = support_of(data, "Brain")
    spec = detector().input_spec
    with pytest.raises(DataError, match="at least one abnormal support image"):
        support_arrays(support.normal, (), spec, masked=True)
    bare = [replace(record, mask=None) for record in support.abnormal]
    with pytest.raises(DataError, match="a mask for every abnormal support image"):
        support_arrays(support.normal, bare, spec, masked=True)
    with pytest.raises(DataError, match="expected a label"):
        samples_from_records([replace(bare[0], label=None)], spec, name="x")


def test_selection_of_one_class_is_an_error_where_it_is_asked_for(data: Path) -> None:
    support, _, test = support_of(data, "Brain")
    normals = [record for record in test if record.label == 0]
    with pytest.raises(DataError, match="only one class"):
        fit_few(detector(), support, training=replace(QUICK, protocol="published"), test=normals)


def test_save_load_gives_the_same_scores(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "clip.json"
    config.write_text(json.dumps(CONFIG))
    support, held, test = support_of(data, "Brain")
    settings = MlaSettings(image_size=SIZE, levels=(1, 2, 3, 4))
    trained = fit_few(MlaLp.from_clip(str(config), settings=settings, seed=3), support, training=QUICK, selection=held)
    trained.save(tmp_path / "run")
    loaded = MlaLp.load(tmp_path / "run")
    images = [read_image(record.path) for record in test[:3]]
    for a, b in zip(trained.predict(images), loaded.predict(images), strict=True):
        assert np.array_equal(a.scores, b.scores)
        assert a.maps is not None
        assert b.maps is not None
        assert np.array_equal(a.maps, b.maps)
        assert a.weights == b.weights
    assert loaded.scale == trained.scale
    assert loaded.info["epoch"] == trained.info["epoch"]
