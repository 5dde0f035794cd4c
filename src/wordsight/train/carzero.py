"""Pretraining of CARZero on images with reports: one process or many, in-batch negatives over all of them.

Everything random in a step (dropout, captions, augmentation) follows from seed, epoch and the step's number, so a run
that was killed at any moment goes on to the result it would have had.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from wordsight import errors
from wordsight.errors import SettingsError, TrainingError, WordsightError
from wordsight.imaging import CARZERO_INPUT
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.loss import matching_loss
from wordsight.models.carzero.model import CarZeroNetwork, PairLogits
from wordsight.models.carzero.pairs import pair_logits
from wordsight.models.carzero.parts import images_in_parts, texts_in_parts
from wordsight.models.carzero.storage import (
    TEXT,
    WEIGHTS,
    copy_text_files,
    is_carzero_folder,
    load_folder,
    read_card,
    write_card,
)
from wordsight.models.carzero.text_input import TextInput
from wordsight.models.carzero.weights import load_network, write_safetensors
from wordsight.progress import progress
from wordsight.train.carzero_data import Batch, ReportData, ReportSets, Round, rounds, share
from wordsight.train.carzero_settings import CarZeroTraining, is_stuck, rate
from wordsight.train.engine import load_state, make_fabric, save_state, train
from wordsight.train.gather import average_gradients, gather
from wordsight.train.launch import launched
from wordsight.train.unreadable import Unreadable

STATE, START = "state.pt", "start.safetensors"
_RAISED = re.compile(r"^wordsight\.errors\.(\w+): (.*)", re.MULTILINE | re.DOTALL)


def fit(
    network: CarZeroNetwork,
    text: str | Path,
    sets: ReportSets,
    training: CarZeroTraining,
    folder: Path,
    *,
    after_epoch: Callable[[Run], None] | None = None,
) -> CarZero:
    """Train a network (or go on) and return the weights of the epoch with the smallest validation loss.

    text: folder of the tokenizer. folder: of the run; what it holds of a finished training is loaded, of an interrupted
    one it goes on with, whatever `network` is then. after_epoch: told the run after each validation, in the first
    process; its history then ends with {"epoch", "valid_loss", "best"}. With several devices a script calls this under
    `if __name__ == "__main__":`, since processes are spawned, and after_epoch is a function of a module. Under torchrun
    every process calls it, training.devices is the number of all, and the first alone writes.
    Raises TrainingError for the state of a run with other settings or data, for losses that are not finite and for too
    little memory of a GPU;
    SettingsError for several devices with batch normalisation; ImageError for more unreadable images than allowed.
    """
    folder = Path(folder)
    _check_devices(network, training)
    fabric = make_fabric(training.device, training.precision, training.devices)
    spawns = training.devices > 1 and launched() is None
    if not spawns:
        fabric.launch()
    if fabric.is_global_zero and not is_carzero_folder(folder):
        copy_text_files(text, folder)
        write_safetensors(folder / START, network)
        write_card(folder, {"finished": False, "settings": network.settings.to_json(), "training": training.to_json()})
    if not spawns:
        fabric.barrier()  # the others read what the first has written
    job = Job(folder, sets, training, after_epoch)
    if not read_card(folder).get("finished"):
        _spawn(fabric, job) if spawns else _work(fabric, job)
    elif fabric.is_global_zero:
        _clear(folder)
    return load_folder(folder, device=str(fabric.device), precision=training.precision)


def _check_devices(network: CarZeroNetwork, training: CarZeroTraining) -> None:
    if network.settings.vit is None and training.devices > 1 and training.image_rate:
        raise SettingsError(
            f"devices: expected 1 for a ResNet-50, got {training.devices}: its batch normalisation takes the images of "
            "one process for the whole batch. Use one device, a vision transformer, or image_rate=0."
        )


def _clear(folder: Path) -> None:
    """Drop what only an interrupted run needs."""
    for name in (STATE, START):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """What every process of a training needs to know."""

    folder: Path
    sets: ReportSets
    training: CarZeroTraining
    after_epoch: Callable[[Run], None] | None = None


def _spawn(fabric: Fabric, job: Job) -> None:
    """Run in several processes; an error of this package comes out as it was raised."""
    from torch.multiprocessing.spawn import ProcessRaisedException

    try:
        fabric.launch(partial(_work, job=job))  # Fabric would look into arguments and refuse frozen ones
    except ProcessRaisedException as error:
        found = _RAISED.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found is None or not (isinstance(kind, type) and issubclass(kind, WordsightError)):
            raise
        raise kind(found[2].strip()) from error


def _work(fabric: Fabric, job: Job) -> None:
    try:
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
            Run(fabric, job).fit()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory is too small for this batch ({str(error).splitlines()[0]}). Let the encoders take "
            "part after part of it (--training.part 32), give smaller blocks of pairs (--training.pairs 256), more "
            "--devices or smaller batches; with the first two the run goes on from where it stopped."
        ) from error


class Run:
    """One process of a training."""

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.job, self.training = fabric, job, job.training
        self.rank, self.world = fabric.global_rank, fabric.world_size
        allowed = int(self.training.unreadable * (len(job.sets.train) + len(job.sets.valid)))
        self.unreadable = Unreadable(allowed, self.world, fabric.device)
        self.history: list[dict[str, Any]] = []
        self.identity = self._identity()
        self.state = load_state(job.folder / STATE, self.identity)
        self.network = load_network(job.folder / START).to(fabric.device)
        settings = self.network.settings
        self.text_input = TextInput(job.folder / TEXT, settings)
        self.train_data = ReportData(job.sets.train, settings, self.training, augmented=True)
        self.valid_data = ReportData(job.sets.valid, settings, self.training, augmented=False)
        if self.training.image_rate == 0:
            self.network.img_encoder.requires_grad_(False)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer: Any = fabric.setup_optimizers(
            torch.optim.Adam(
                self._groups(),
                lr=self.training.lr,
                betas=self.training.betas,
                eps=1e-8,
                weight_decay=self.training.weight_decay,
            )
        )
        self._before = self._steps_before()

    def _groups(self) -> list[dict[str, Any]]:
        """What is trained, with the share of the learning rate that each part gets."""
        image = {id(p) for p in self.network.img_encoder.parameters()}
        parts = (
            ([p for p in self.parameters if (id(p) in image) is own], share)
            for own, share in ((True, self.training.image_rate), (False, 1.0))
        )
        return [{"params": params, "share": share} for params, share in parts if params]

    # -- one step ------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        """The loss of the whole batch, of which this process encodes its images and its share of the texts.

        A process without any encodes a blank image or the first text, which has no part in the loss: the gradients of
        all processes are then of the same parameters.
        """
        captions, training, device = batch.captions, self.training, self.fabric.device
        texts = range(len(captions.texts))
        tokens = self.text_input.tokenize(captions.texts)
        own = share(texts, self.rank, self.world)
        images = batch.images if len(batch.images) else batch.images.new_zeros(1, *batch.images.shape[1:])
        count, sizes = len(batch.images), list(batch.sizes)
        text_sizes = [len(share(texts, r, self.world)) for r in range(self.world)]
        with self.fabric.autocast():
            image = images_in_parts(self.network, normalised(images.to(device)), training.part)
            text = texts_in_parts(self.network, tokens[torch.tensor(list(own) or [0])].to(device), training.part)
            sentences = gather(text.sentence[: len(own)], text_sizes, self.rank)
            globals_ = gather(image[:count, 0], sizes, self.rank)
            part = pair_logits(self.network, image, text, sentences=sentences, globals_=globals_, pairs=training.pairs)
        logits = PairLogits(
            gather(part.i2t[:count].float(), sizes, self.rank),
            gather(part.t2i[: len(own)].float(), text_sizes, self.rank),
        )
        right, wrong = captions.right.to(device), captions.wrong.to(device)
        return matching_loss(logits.i2t, right, wrong) + matching_loss(logits.t2i.T, right, wrong)

    def step(self, batch: Batch) -> Tensor:
        """Loss of one training batch, at its learning rate and with its own random numbers."""
        done = self._before[batch.epoch] + batch.number
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * rate(self.training, done, self._before[-1], self.valid_losses)
        torch.manual_seed((self.training.seed * 1_000_003 + done) * 1_009 + self.rank)
        return self.loss(batch)

    def before_update(self) -> None:
        """Gradients of all processes, clipped."""
        average_gradients(self.parameters, self.world)
        # with fp16 a step of infinite gradients is skipped by the scaler
        finite = self.training.precision != "fp16"
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.training.clip, error_if_nonfinite=finite)

    def rounds(self, epoch: int) -> list[Round]:
        """The epoch's batches, as this process sees them."""
        agree = partial(self.unreadable.agree, self.train_data.rows)
        return rounds(self.train_data, epoch, self.rank, self.world, agree)

    def _steps_before(self) -> list[int]:
        """Steps before each epoch, and of all epochs."""
        before, count = [0], len(self.train_data)
        for epoch in range(self.training.epochs):
            before.append(before[-1] + count // self.training.batch_size(epoch))
        return before

    # -- all steps -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train, or go on, to the last epoch or until the validation loss no longer falls."""
        start, first_round = self._resume()
        self._learn()
        if self._stuck():
            start = self.training.epochs
        if self.training.epochs == 0:
            self._validate(-1)
        train(
            self.fabric,
            self.optimizer,
            self.rounds,
            self.step,
            epochs=self.training.epochs,
            start=start,
            first_round=first_round,
            before_update=self.before_update,
            on_round_end=self._round_end,
            on_epoch_end=self._epoch_end,
        )
        self._finish()

    @property
    def valid_losses(self) -> list[float]:
        """Validation losses of the epochs so far."""
        return [entry["valid_loss"] for entry in self.history if "valid_loss" in entry]

    def _learn(self) -> None:
        """Training mode; an image encoder that is left as it is keeps its statistics too."""
        self.network.train()
        if self.training.image_rate == 0:
            self.network.img_encoder.eval()

    def _stuck(self) -> bool:
        """Whether the validation loss has stopped to fall."""
        return is_stuck(self.valid_losses, self.training.patience)

    def _round_end(self, epoch: int, index: int, loss: float) -> None:
        self.history.append({"epoch": epoch + 1, "round": index, "loss": loss})
        if index + 1 < len(self.rounds(epoch)):
            self._save(epoch, index + 1)

    def _epoch_end(self, epoch: int) -> bool:
        self._validate(epoch)
        if self.job.after_epoch and self.fabric.is_global_zero:
            self.job.after_epoch(self)
        self._save(epoch + 1, 0)
        return self._stuck()

    @torch.no_grad()
    def _validate(self, epoch: int) -> None:
        """Mean loss of the validation batches, each computed by one process; keep the weights if it is the smallest."""
        self.network.eval()
        data, alone = self.valid_data, (self.rank, self.world)
        batches = data.fixed()
        total = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        agree = partial(self.unreadable.agree, data.rows, alone=True)
        self.rank, self.world = 0, 1  # a validation batch is not spread
        try:
            with progress("validating", len(batches), "batches", show=self.fabric.is_global_zero) as bar:
                for batch in data.stream(0, batches[alone[0] :: alone[1]], agree=agree):
                    total += torch.tensor([self.loss(batch).item(), 1.0], device=total.device)
                    bar.advance(alone[1])
        finally:
            self.rank, self.world = alone
        if self.world > 1:
            distributed.all_reduce(total)
        self.unreadable.merge()
        loss = float(total[0] / total[1])
        best = loss < min(self.valid_losses, default=float("inf"))
        self.history.append({"epoch": epoch + 1, "valid_loss": loss, "best": best})
        if best and self.fabric.is_global_zero:
            write_safetensors(self.job.folder / WEIGHTS, self.network)
        self._learn()

    def _finish(self) -> None:
        """Say how it went in the card, and with it that the run is finished."""
        if self.fabric.is_global_zero:
            losses = self.valid_losses
            if not losses:
                raise TrainingError("expected a validation loss that is a number, got none. Check the images.")
            chosen = [entry["epoch"] for entry in self.history if "valid_loss" in entry][losses.index(min(losses))]
            write_card(
                self.job.folder,
                {
                    "finished": True,
                    "settings": self.network.settings.to_json(),
                    "training": self.training.to_json(),
                    "epoch": chosen,
                    "valid_loss": min(losses),
                    "selected": f"smallest validation loss of {len(losses)} epochs; {self.job.sets.how}",
                    "images": {"train": len(self.job.sets.train), "valid": len(self.job.sets.valid)},
                    "unreadable": self.unreadable.names(),
                    "history": self.history,
                },
            )
            _clear(self.job.folder)
        self.fabric.barrier()

    # -- surviving an interruption -------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        card = read_card(self.job.folder)
        network = {f"network.{name}": value for name, value in card["settings"].items()}
        return {**self.training.deciding(), **network, "data": self.job.sets.fingerprint()}

    def _save(self, epoch: int, first_round: int) -> None:
        if not self.fabric.is_global_zero:
            return
        save_state(
            self.job.folder / STATE,
            {
                "epoch": epoch,
                "round": first_round,
                "network": {k: v.cpu() for k, v in self.network.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "history": self.history,
                "unreadable": self.unreadable.found,
                "settings": self.identity,
            },
        )

    def _resume(self) -> tuple[int, int]:
        """Epoch and round to go on with; every process has read the state before one writes the next."""
        self.fabric.barrier()
        state, self.state = self.state, None
        if state is None:
            return 0, 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.history = list(state["history"])
        self.unreadable.found = dict(state["unreadable"])
        return int(state["epoch"]), int(state["round"])


def normalised(images: Tensor) -> Tensor:
    """(B, S, S) uint8 -> (B, 3, S, S) as CARZero wants it."""
    assert CARZERO_INPUT.mean is not None
    assert CARZERO_INPUT.std is not None
    grey = (images.float() / 255 - CARZERO_INPUT.mean[0]) / CARZERO_INPUT.std[0]
    return grey[:, None].expand(-1, 3, -1, -1)
