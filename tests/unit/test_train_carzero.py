"""CARZero's training: recipes, processes, resuming, selection, refusals."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_carzero import SETTINGS, make_carzero, text_folder
from wordsight.data.phantoms import write_report_phantoms
from wordsight.errors import DataError, ImageError, SettingsError, TrainingError, WeightsError
from wordsight.models.carzero.loss import pair_loss
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.storage import load_folder
from wordsight.models.tensor_files import hash_tensors
from wordsight.train import carzero_data
from wordsight.train.carzero import Job, Run, fit, normalised
from wordsight.train.carzero_data import ReportData, ReportSets, report_sets
from wordsight.train.carzero_settings import CarZeroTraining, is_stuck, rate
from wordsight.train.engine import make_fabric

QUICK = replace(
    CarZeroTraining.corrected(), epochs=3, batch_sizes=((0, 8),), valid_batch=6, lr=1e-3, device="cpu", save_every=2
)
PLAIN = CarZeroSettings.corrected(SETTINGS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_report_phantoms(folder, train=40, valid=12, test=2, seed=5, size=96, workers=1)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text"))


def sets_of(manifest: Path, training: CarZeroTraining = QUICK) -> ReportSets:
    return report_sets(manifest, training, PLAIN)


def network(seed: int = 3, **changes: Any) -> Any:
    return make_carzero(seed, keep_single_words=True, keep_numbers=True, keep_accents=True, **changes)


def undropped() -> Any:
    return network(dropout=0.0, text=replace(SETTINGS.text, dropout=0.0, attention_dropout=0.0))


def test_training_lowers_the_losses_and_keeps_the_best_epoch(manifest: Path, text: Path, tmp_path: Path) -> None:
    sets = sets_of(manifest)
    start = Run(make_fabric("cpu", "fp32"), job_in(tmp_path / "before", text, sets, replace(QUICK, epochs=0)))
    start.fit()
    trained = fit(network(), text, sets, replace(QUICK, epochs=4), tmp_path / "run")
    card = json.loads((tmp_path / "run" / "carzero.json").read_text())
    assert card["valid_loss"] < start.valid_losses[0]
    losses = [e["valid_loss"] for e in card["history"] if "valid_loss" in e]
    assert card["valid_loss"] == min(losses)
    assert card["epoch"] == 1 + losses.index(min(losses))
    assert not (tmp_path / "run" / "state.pt").exists()
    again = load_folder(tmp_path / "run")
    assert again.weights_hash == trained.weights_hash
    assert fit(network(9), text, sets, replace(QUICK, epochs=4), tmp_path / "run").weights_hash == trained.weights_hash


def job_in(folder: Path, text: Path, sets: ReportSets, training: CarZeroTraining, start: Any = None) -> Job:
    """A run that is about to start."""
    from wordsight.models.carzero.storage import copy_text_files, write_card
    from wordsight.models.carzero.weights import write_safetensors

    begun = start or network()
    copy_text_files(text, folder)
    write_safetensors(folder / "start.safetensors", begun)
    write_card(folder, {"finished": False, "settings": begun.settings.to_json()})
    return Job(folder, sets, training)


def test_the_published_recipe_has_the_published_loss_and_update(manifest: Path, text: Path, tmp_path: Path) -> None:
    """One step against torch's own Adam and clipping on the published loss."""
    training = replace(CarZeroTraining.published(), batch_sizes=((0, 8),), device="cpu", pairs=20)
    sets = report_sets(manifest, training, SETTINGS)
    run = Run(make_fabric("cpu", "fp32"), job_in(tmp_path, text, sets, training, undropped()))
    twin = undropped().train()
    adam = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], 5e-5, (0.5, 0.999), 1e-8, 1e-6)
    run.network.train()
    for batch in list(run.rounds(0)[0])[:2]:
        run.optimizer.zero_grad()
        loss = run.step(batch)
        loss.backward()
        run.before_update()
        run.optimizer.step()
        adam.zero_grad()
        assert len(batch.captions.texts) == 8
        expected = pair_loss(twin(normalised(batch.images), run.text_input.tokenize(batch.captions.texts)))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.25)
        adam.step()
    moved = run.network.state_dict()
    start = undropped().state_dict()
    noise = ("key.bias", "mlp_head.9.bias", "mlp_head.6.bias", "in_proj_bias")  # no gradient but rounding
    for name, value in twin.state_dict().items():
        if not name.endswith(noise) and "qkv.bias" not in name:
            torch.testing.assert_close(moved[name], value, atol=3e-6, rtol=0, msg=name)
    assert any(not torch.equal(moved[name], start[name]) for name in moved)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_image_encoder_has_a_rate_of_its_own(share: float, manifest: Path, text: Path, tmp_path: Path) -> None:
    """Adam's first step is as long as its rate, whatever the gradient: an encoder of a tenth moves a tenth as far."""
    training = replace(QUICK, image_rate=share, lr=1e-3, schedule="constant", warmup=0.0, clip=1e9, weight_decay=0.0)
    run = Run(make_fabric("cpu", "fp32"), job_in(tmp_path, text, sets_of(manifest, training), training, undropped()))
    batch = next(iter(run.rounds(0)[0]))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.step(batch).backward()
    run.before_update()
    run.optimizer.step()
    after = run.network.state_dict()
    moved = {
        part: max(float((after[n] - v).abs().max()) for n, v in before.items() if n.startswith(part) and v.ndim > 1)
        for part in ("img_encoder", "text_encoder", "fusion_module")
    }
    assert moved == pytest.approx({"img_encoder": share * 1e-3, "text_encoder": 1e-3, "fusion_module": 1e-3}, rel=0.01)
    if share == 0:
        assert all(torch.equal(after[n], v) for n, v in before.items() if n.startswith("img_encoder"))


# -- processes --------------------------------------------------------------------------------------------------------


def work(fabric: Any, *, manifest: Path, folder: Path, training: CarZeroTraining, steps: int = 2) -> None:
    """Some steps' losses and gradients and a validation loss, as one process of several sees them."""
    torch.set_num_threads(1)
    run = Run(fabric, Job(folder, sets_of(manifest, training), training))
    run.network.train()
    found = []
    for batch in itertools.islice(itertools.chain.from_iterable(run.rounds(0)), steps):
        run.optimizer.zero_grad()
        loss = run.step(batch)
        fabric.backward(loss)
        run.before_update()
        gradients = {n: p.grad.clone() for n, p in run.network.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
    run._validate(0)
    if fabric.is_global_zero:
        torch.save((found, run.valid_losses), folder / f"found-{fabric.world_size}.pt")


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradients_of_one(manifest: Path, text: Path, tmp_path: Path) -> None:
    """8 + 8 images are one batch of 16: every image meets all captions, whichever process encoded them."""
    job_in(tmp_path, text, sets_of(manifest), QUICK, undropped())
    for devices in (1, 2):
        training = replace(QUICK, batch_sizes=((0, 16),), devices=devices, clip=1e9)
        task = partial(work, manifest=manifest, folder=tmp_path, training=training)
        fabric = make_fabric("cpu", "fp32", devices)
        if devices == 1:
            task(fabric)
        else:
            fabric.launch(task)
    (one, valid_one), (two, valid_two) = (torch.load(tmp_path / f"found-{n}.pt") for n in (1, 2))
    assert valid_two == pytest.approx(valid_one, rel=1e-5)
    for (loss, gradients), (other, others) in zip(one, two, strict=True):
        assert other == pytest.approx(loss, rel=1e-6)
        assert gradients.keys() == others.keys()
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
        assert norm > 0
        assert max(float((gradients[k] - others[k]).norm() / norm) for k in gradients) < 1e-6


def few_texts(folder: Path) -> tuple[Path, CarZeroTraining]:
    """Batches of 3 images and 2 texts, one image unreadable: with 3 processes some have no text or no image."""
    path = table(folder, rows(24))
    (folder / "3.png").write_bytes(b"not an image")
    training = replace(QUICK, batch_sizes=((0, 3),), captions="aligned", drop_place=0.0, valid_share=0.2, clip=1e9)
    training = replace(training, unreadable=0.5)
    found = report_sets(path, training, PLAIN)
    return path, training if any(r.path.stem == "3" for r in found.train) else replace(training, seed=24)


@pytest.mark.slow
def test_processes_without_a_text_or_an_image_take_part(text: Path, tmp_path: Path) -> None:
    path, training = few_texts(tmp_path / "data")
    sets = report_sets(path, training, PLAIN)
    assert any(row.path.stem == "3" for row in sets.train)
    job_in(tmp_path, text, sets, training, undropped())
    whole = partial(work, manifest=path, folder=tmp_path, steps=len(sets.train) // 3)
    whole(make_fabric("cpu", "fp32"), training=training)
    make_fabric("cpu", "fp32", 3).launch(partial(whole, training=replace(training, devices=3)))
    (one, valid_one), (three, valid_three) = (torch.load(tmp_path / f"found-{n}.pt") for n in (1, 3))
    assert valid_three == pytest.approx(valid_one, rel=1e-5)
    for (loss, gradients), (other, others) in zip(one, three, strict=True):
        assert other == pytest.approx(loss, rel=1e-6)
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
        assert max(float((gradients[k] - others[k]).norm() / norm) for k in gradients) < 1e-6


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_comes_out_as_it_was_raised(text: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "data", rows(24))
    for name in ("2.png", "3.png"):
        (tmp_path / "data" / name).write_bytes(b"not an image")
    training = replace(QUICK, devices=2, valid_share=0.3)
    with pytest.raises(ImageError, match=r"[23]\.png: expected PNG"):
        fit(network(), text, report_sets(path, training, PLAIN), training, tmp_path / "run")


def script(tmp_path: Path, name: str, code: str) -> Path:
    tests = Path(__file__).resolve().parents[1]
    path = tmp_path / name
    path.write_text(code.format(tests=str(tests), unit=str(tests / "unit")), encoding="utf-8")
    return path


# -- interruptions ----------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
import test_train_carzero as t
import wordsight.train.carzero as module
manifest, text, folder, slow = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
training = replace(t.QUICK, devices=int(sys.argv[5]))
original = module.Run.step
module.Run.step = lambda self, batch: (time.sleep(slow), original(self, batch))[1]
if __name__ == "__main__":
    found = t.fit(t.network(dropout=0.3), text, t.sets_of(manifest), training, folder)
    print(found.weights_hash, (folder / "carzero.json").read_text())
"""


def start(path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(path), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "kills"), [(1, ((0, 1), (1, 1))), (2, ((1, 1),))])
def test_a_killed_run_resumes_to_the_same_result(
    devices: int, kills: tuple[tuple[int, int], ...], manifest: Path, text: Path, tmp_path: Path
) -> None:
    """Killed within the first epoch and within a later one, all processes at once, between two states each time."""
    path = script(tmp_path, "killed.py", KILLED)
    whole, _ = start(path, manifest, text, tmp_path / "whole", 0.0, devices).communicate()
    assert whole
    folder = tmp_path / "killed"
    for wanted in kills:
        process = start(path, manifest, text, folder, 0.2, devices)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            found = folder / "state.pt"
            if found.exists():
                state = torch.load(found, weights_only=True)
                if (state["epoch"], state["round"]) >= wanted:
                    break
            time.sleep(0.02)
        time.sleep(0.25)  # within a step after it
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        with pytest.raises(WeightsError, match="has not finished an epoch") if wanted == (0, 1) else nothing():
            load_folder(folder)
    resumed, _ = start(path, manifest, text, folder, 0.0, devices).communicate()
    assert resumed == whole


class nothing:  # a context that expects no error
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_run_with_other_settings_or_data_is_refused(manifest: Path, text: Path, tmp_path: Path) -> None:
    sets = sets_of(manifest)
    run = Run(make_fabric("cpu", "fp32"), job_in(tmp_path, text, sets, QUICK))
    run._save(0, 1)
    with pytest.raises(TrainingError, match=r"started with other settings \(lr\)"):
        fit(network(), text, sets, replace(QUICK, lr=1e-2), tmp_path)
    with pytest.raises(TrainingError, match=r"started with other settings \(data\)"):
        fit(network(), text, replace(sets, train=sets.train[:-1]), QUICK, tmp_path)


def test_what_the_hardware_is_does_not_decide(manifest: Path, text: Path, tmp_path: Path) -> None:
    """Blocks, parts and workers change nothing: the same seed gives the same weights but for their rounding."""
    sets, one_epoch = sets_of(manifest), replace(QUICK, epochs=1)
    whole = fit(undropped(), text, sets, replace(one_epoch, pairs=None), tmp_path / "a")
    blocks = fit(undropped(), text, sets, replace(one_epoch, pairs=30, part=3, workers=1), tmp_path / "b")
    losses = [json.loads((tmp_path / n / "carzero.json").read_text())["history"] for n in "ab"]
    assert losses[0][0]["loss"] == pytest.approx(losses[1][0]["loss"], rel=1e-4)
    assert whole.settings == blocks.settings
    other = fit(undropped(), text, sets, replace(one_epoch, seed=24), tmp_path / "c")
    assert hash_tensors(other.network.state_dict()) != hash_tensors(whole.network.state_dict())


def test_a_gpu_that_is_too_small_is_said_and_the_run_goes_on_with_less(
    manifest: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, one_epoch = sets_of(manifest), replace(QUICK, epochs=1)

    def greedy(self: Run, batch: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore words")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "loss", greedy)
        with pytest.raises(TrainingError, match=r"too small for this batch \(CUDA out of memory\. Tried to"):
            fit(network(), text, sets, one_epoch, tmp_path)
    fit(network(), text, sets, replace(one_epoch, pairs=8), tmp_path)
    assert json.loads((tmp_path / "carzero.json").read_text())["finished"]


# -- selection --------------------------------------------------------------------------------------------------------


def test_training_ends_when_the_validation_loss_no_longer_falls(manifest: Path, text: Path, tmp_path: Path) -> None:
    sets, training = sets_of(manifest), replace(QUICK, epochs=9, patience=2)
    run = Run(make_fabric("cpu", "fp32"), job_in(tmp_path, text, sets, training))
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0, 0.5])
    judged = []

    def validate(epoch: int) -> None:
        run.history.append({"epoch": epoch + 1, "valid_loss": next(losses)})
        judged.append(epoch)

    run._validate = validate  # type: ignore[method-assign]
    run.fit()
    assert judged == [0, 1, 2, 3]
    assert json.loads((tmp_path / "carzero.json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    ("losses", "patience", "stuck"),
    [([], 1, False), ([1.0], 1, False), ([1.0, 2.0], 1, True), ([1.0, 2.0, 0.5], 2, False), ([1.0, 1.0, 1.0], 2, True)],
)
def test_is_stuck(losses: list[float], patience: int, stuck: bool) -> None:
    assert is_stuck(losses, patience) is stuck


def test_the_test_split_is_never_opened(manifest: Path, text: Path) -> None:
    sets = sets_of(manifest)
    assert len(sets.train) == 40
    assert len(sets.valid) == 12
    assert not any("test" in row.path.name for row in (*sets.train, *sets.valid))


# -- rates ------------------------------------------------------------------------------------------------------------


def test_rates() -> None:
    published = CarZeroTraining.published()
    assert {rate(published, step, 100, [1.0] * 50) for step in (0, 1, 50, 99)} == {5e-5}
    cosine = replace(published, schedule="cosine", warmup=0.1, lr=1.0)
    values = [rate(cosine, step, 100, []) for step in range(100)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert np.all(np.diff(values[10:]) < 0)
    assert values[-1] < 0.01
    assert values[55] == pytest.approx(0.5)
    plateau = replace(published, schedule="plateau", plateau_patience=2, lr=1.0)
    assert [rate(plateau, 0, 1, [1.0, *([2.0] * n)]) for n in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_recipes() -> None:
    published, corrected = CarZeroTraining.of("published"), CarZeroTraining.of("corrected")
    assert [published.batch_size(epoch) for epoch in (0, 1, 2, 5, 6, 14)] == [64, 64, 128, 128, 256, 256]
    assert (published.flip, published.negatives, published.schedule, published.clip) == (0.3, "all", "constant", 0.25)
    assert (corrected.flip, corrected.negatives, corrected.schedule) == (0.0, "stated", "cosine")
    assert json.loads(json.dumps(corrected.to_json())) == corrected.to_json()
    with pytest.raises(SettingsError, match="expected published or corrected, got 'best'"):
        CarZeroTraining.of("best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": ((1, 64),)}, "pairs from epoch 0 in order"),
        ({"batch_sizes": ((0, 1),)}, "2 images or more"),
        ({"batch_sizes": ()}, "pairs from epoch 0"),
        ({"devices": 3}, "expected multiples of 3 devices, got 64"),
        ({"flip": 1.5}, r"shares in \[0, 1\], got flip=1.5"),
        ({"image_rate": -0.1}, r"shares in \[0, 1\], got image_rate=-0.1"),
        ({"lr": 0.0}, "expected positive numbers"),
        ({"patience": 0}, "patience=0"),
        ({"part": 0}, "part=0"),
        ({"schedule": "step"}, "schedule: expected one of constant, plateau, cosine, got 'step'"),
        ({"captions": "aligned"}, "style 'published' has words without sense for alignment"),
        ({"scale": (1.1, 0.9)}, "expected two factors in order"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(CarZeroTraining.published(), **changes)


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(SettingsError, match="devices: expected 1 to"):
        make_fabric("cpu", "fp32", 0)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    from PIL import Image as Pil

    for row in rows:
        Pil.fromarray(np.full((40, 30), 90, np.uint8)).save(folder / row["path"])
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"


def rows(count: int, **more: str) -> list[dict[str, str]]:
    return [
        {"path": f"{i}.png", "report": "There is no effusion.", "patient": f"p{i // 2}", **more} for i in range(count)
    ]


def test_without_a_split_patients_are_held_out_whole(tmp_path: Path) -> None:
    path = table(tmp_path, rows(40))
    training = replace(QUICK, valid_share=0.1)
    sets = report_sets(path, training, PLAIN)
    number = {row.path.name: int(row.path.stem) // 2 for row in (*sets.train, *sets.valid)}
    train, valid = ({number[row.path.name] for row in part} for part in (sets.train, sets.valid))
    assert len(sets.valid) == 4
    assert not train & valid
    assert "held out from training" in sets.how
    assert report_sets(path, training, PLAIN).fingerprint() == sets.fingerprint()
    assert report_sets(path, replace(training, seed=1), PLAIN).fingerprint() != sets.fingerprint()


def test_tables_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a", [{**row, "report": ""} for row in rows(20)])
    with pytest.raises(DataError, match="expected a column `report` with text, got none"):
        report_sets(path, QUICK, PLAIN)
    path = table(tmp_path / "b", rows(6))
    with pytest.raises(DataError, match="expected at least 8 images with sentences to learn from, got 4"):
        report_sets(path, QUICK, PLAIN)
    silent = [{**row, "report": "..." if i % 2 else row["report"]} for i, row in enumerate(rows(40))]
    sets = report_sets(table(tmp_path / "c", silent), replace(QUICK, valid_share=0.2), PLAIN)
    assert sets.without == 20


def test_prompts_of_a_column_are_captions(tmp_path: Path) -> None:
    told = ["There is edema | There is no mass", '["There is a nodule"]', ""]
    path = table(tmp_path, [{**row, "report": "", "told": told[i % 3]} for i, row in enumerate(rows(40))])
    training = replace(QUICK, valid_share=0.1)
    sets = report_sets(path, training, PLAIN, captions_column="told")
    assert sets.without == 13
    texts = {row.path.stem: [c.text for c in row.report.captions] for row in (*sets.train, *sets.valid)}
    assert texts["0"] == ["there is edema", "there is no mass"]
    assert texts["1"] == ["there is a nodule"]
    assert "2" not in texts
    with pytest.raises(DataError, match="expected a column `tell`, got columns path, report, patient, told"):
        report_sets(path, training, PLAIN, captions_column="tell")
    with pytest.raises(DataError, match="expected prompts in column report, got empty cells alone"):
        report_sets(path, training, PLAIN, captions_column="report")
    with pytest.raises(
        SettingsError, match=r"expected aligned or both with a column of prompts \(told\), got sentences"
    ):
        report_sets(path, replace(training, captions="sentences"), PLAIN, captions_column="told")
    path = table(
        tmp_path, [{**row, "told": '["There' if i == 4 else "There is edema"} for i, row in enumerate(rows(9))]
    )
    with pytest.raises(DataError, match=r"column told: row 5: expected a JSON list of sentences, got '\[\"There'"):
        report_sets(path, training, PLAIN, captions_column="told")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, text: Path, workers: int) -> None:
    path = table(tmp_path / "data", rows(20))
    (tmp_path / "data" / "3.png").write_bytes(b"not an image")
    (tmp_path / "data" / "2.png").write_bytes(b"not an image")
    training = replace(QUICK, workers=workers, valid_share=0.2)
    with pytest.raises(ImageError, match=r"[23]\.png: expected PNG"):
        fit(network(), text, report_sets(path, training, PLAIN), training, tmp_path / "run")


def test_a_few_images_that_cannot_be_read_are_left_out(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file, and one that the disk refuses; the rest is learned from, the same way each time."""
    path = table(tmp_path / "data", rows(24))
    training = replace(QUICK, epochs=1, valid_share=0.25, unreadable=0.1)
    sets = report_sets(path, training, PLAIN)
    damaged, refused = sets.train[3].path, sets.valid[0].path
    damaged.write_bytes(b"not an image")
    original = carzero_data.read_image

    def read(file: Path, **more: Any) -> Any:
        if file == refused:
            raise OSError(5, "Input/output error")
        return original(file, **more)

    monkeypatch.setattr(carzero_data, "read_image", read)
    found = [fit(undropped(), text, sets, training, tmp_path / name).weights_hash for name in "ab"]
    assert found[0] == found[1]
    card = json.loads((tmp_path / "a" / "carzero.json").read_text())
    assert card["unreadable"] == sorted([str(damaged), str(refused)])
    with pytest.raises(ImageError, match=r"Input/output error.* So 2 images cannot be read, and 1 may be left out"):
        fit(undropped(), text, sets, replace(training, unreadable=0.05), tmp_path / "c")
    with pytest.raises(ImageError, match=r"expected PNG.* So 1 images cannot be read, and 0 may be left out"):
        fit(undropped(), text, sets, replace(training, unreadable=0.0), tmp_path / "d")
    assert fit(undropped(), text, sets, training, tmp_path / "d").weights_hash == found[0]


def test_a_batch_is_smaller_by_what_cannot_be_read(tmp_path: Path) -> None:
    training = replace(QUICK, valid_share=0.25)
    sets = report_sets(table(tmp_path, rows(24)), training, PLAIN)
    for row in (2, 3):
        sets.train[row].path.write_bytes(b"not an image")
    data = ReportData(sets.train, PLAIN, training, augmented=True)
    kept, told = [0, 1, 4, 5], []
    for rank, size in ((0, 2), (1, 0), (2, 2)):
        (batch,) = data.stream(0, [range(6)], rank, 3, agree=lambda failed: told.append(set(failed)) or {2, 3})
        assert (len(batch.images), batch.sizes) == (size, (2, 0, 2))
        assert batch.captions.wrong.shape[0] == 4
        assert batch.captions.texts == data.captions(0, kept).texts
    assert told == [set(), {2, 3}, set()]
    with pytest.raises(ImageError, match="got a whole batch of others"):
        list(data.stream(0, [[2, 3]], agree=set))


def test_batch_normalisation_is_for_one_process(tmp_path: Path, text: Path) -> None:
    sets = report_sets(table(tmp_path / "data", rows(24)), QUICK, PLAIN)
    with torch.device("meta"):
        normalising = CarZeroNetwork(replace(PLAIN, image_encoder="resnet50"))
    with pytest.raises(SettingsError, match="devices: expected 1 for a ResNet-50, got 2"):
        fit(normalising, text, sets, replace(QUICK, devices=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_encoder_that_is_left_as_it_is_keeps_its_statistics(tmp_path: Path, text: Path) -> None:
    training = replace(QUICK, image_rate=0.0)
    sets = report_sets(table(tmp_path / "data", rows(24)), training, PLAIN)
    run = Run(make_fabric("cpu", "fp32"), job_in(tmp_path / "run", text, sets, training))
    run._learn()
    assert run.network.training
    assert not any(part.training for part in run.network.img_encoder.modules())
