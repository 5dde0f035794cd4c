"""One training run of MLA-LP or MVFA: its batches, its loss, how it chooses, and how it survives an interruption."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wordsight.models.mla.augment import VARIANTS
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.scoring import Mode, RawScores
from wordsight.models.tensor_files import hash_tensors
from wordsight.progress import progress, track
from wordsight.train.engine import load_state, make_fabric, save_state, train
from wordsight.train.judging import judged, standard_error
from wordsight.train.samples import FrozenCache, Samples, SupportArrays
from wordsight.train.settings import MlaTraining
from wordsight.train.store import TensorStore

Batch = tuple[int, list[int]]
"""Which set, which of its images."""
_FIXED: Mapping[Mode, tuple[str, ...]] = {
    "segmentation": ("image_share", "relative"),
    "detection": ("map_share",),
    "zero-shot": ("map_share", "memory_weight", "relative"),
}
"""What is not chosen for image scores, by mode: it makes no difference, or see MlaTraining.relatives."""


@dataclass(slots=True)
class _Best:
    score: float
    epoch: int
    reading: Reading
    weights: dict[str, Tensor]


class Run:
    """One training run: what is trained on, what is judged by, and the state that survives an interruption."""

    def __init__(
        self,
        detector: MlaLp,
        sets: Sequence[Samples],
        judge: Sequence[Samples],
        training: MlaTraining,
        folder: Path | None,
        *,
        bank: SupportArrays | None = None,
        object_names: Mapping[str, str] | None = None,
    ) -> None:
        self.fabric = make_fabric(training.device, training.precision)
        self.detector, self.training = _apart(detector, self.fabric.device), training
        self.network = self.detector.network
        memory, disk = (int(gib * 2**30) for gib in (training.cache_gb, training.cache_disk_gb))
        store = TensorStore(memory, disk, None if folder is None else Path(folder))
        self.sets = [FrozenCache(self.network, s, store, self.fabric.autocast) for s in sets]
        self.judge = [FrozenCache(self.network, s, store, self.fabric.autocast) for s in judge]
        self.shots = len(bank.normal) if bank is not None else 0
        self.support = bank
        self.object_names = dict(object_names or {})
        self.state_file = None if folder is None else Path(folder) / "state.pt"
        self.best: _Best | None = None
        self.history: list[dict[str, Any]] = []
        trained = [s.masked for s in sets]
        self.network.seg_adapters.requires_grad_(any(trained))
        self.optimizer = self._make_optimizer(any(trained))
        self._stated = {} if folder is None else self._settings()

    # -- training ----------------------------------------------------------------------------------------------------

    def _make_optimizer(self, masked: bool) -> Any:
        """One Adam over the groups; a group whose gradients are None in a step is left alone, as with one Adam each."""
        t = self.training
        groups = [{"params": list(self.network.det_adapters.parameters()), "lr": t.adapter_lr}]
        if masked:
            groups.append({"params": list(self.network.seg_adapters.parameters()), "lr": t.adapter_lr})
        if self.network.prompt_learner is not None:
            groups.append({"params": list(self.network.prompt_learner.parameters()), "lr": t.context_lr})
        return self.fabric.setup_optimizers(torch.optim.Adam(groups, betas=t.betas, eps=1e-8, fused=True))

    def rounds(self, epoch: int) -> list[list[Batch]]:
        """Batches of one set each, in an order that depends on seed and epoch alone; fifths make five rounds."""
        generator = torch.Generator().manual_seed(self.training.seed * 1_000_003 + epoch)
        batches: list[Batch] = []
        for which, cache in enumerate(self.sets):
            order = torch.randperm(len(cache.samples), generator=generator).tolist()
            size = self.training.batch_size
            batches += [(which, order[i : i + size]) for i in range(0, len(order), size)]
        if len(self.sets) > 1:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        if self.training.evaluate_when != "fifths":
            return [batches]
        length = max(len(batches) // 5, 1)
        return [batches[i : i + length] for i in range(0, len(batches), length)]

    def step(self, batch: Batch) -> Tensor:
        """Loss of one batch; the seg adapters get no gradient from sets without masks, as published."""
        cache = self.sets[batch[0]]
        samples, device = cache.samples, self.fabric.device
        frozen = cache(batch[1])
        label = samples.labels[batch[1]].to(device)
        mask = None
        if samples.masked:
            mask = torch.stack([samples.mask(i) for i in batch[1]]).to(device, torch.float32)
        left_out = mask is None and any(p.requires_grad for p in self.network.seg_adapters.parameters())
        if left_out:
            self.network.seg_adapters.requires_grad_(False)
        try:
            with self.fabric.autocast():
                text = self.network.text(self._object_name(samples.name))
                tokens = self.network.adapt(frozen, seg=mask is not None)
                return self.network.loss(tokens, text, label, mask).total
        finally:
            if left_out:
                self.network.seg_adapters.requires_grad_(True)

    def _object_name(self, name: str) -> str | None:
        return self.object_names.get(name)

    def fit(self, how: str) -> MlaLp:
        """Train (or go on), choose, and bind bank and score scale; then the state is done with and removed."""
        start = self._resume()
        self.network.eval()
        for cache in self.sets:
            cache.warm("frozen blocks")
        before = self.training.evaluate_when == "before_epoch"
        train(
            self.fabric,
            self.optimizer,
            self.rounds,
            self.step,
            epochs=self.training.epochs,
            start=start,
            on_epoch_start=self._epoch_start,
            on_round_end=lambda epoch, index, loss: self._round_end(epoch, index, loss, before),
            on_epoch_end=self._save,
        )
        finished = self._finished(how)
        if self.state_file is not None:
            self.state_file.unlink(missing_ok=True)
        return finished

    def _epoch_start(self, epoch: int) -> None:
        if self.training.evaluate_when == "before_epoch":
            self.consider(epoch - 1, 0)
        elif self.training.evaluate_when == "from_start" and epoch == 0:
            self.consider(-1, 0)

    def _round_end(self, epoch: int, index: int, loss: float, before: bool) -> None:
        self.history.append({"epoch": epoch + 1, "round": index, "loss": loss})
        last = epoch + 1 == self.training.epochs
        if not before and (last or (epoch + 1) % self.training.evaluate_every == 0):
            self.consider(epoch, index)

    # -- choosing ----------------------------------------------------------------------------------------------------

    def consider(self, epoch: int, index: int) -> None:
        """Score the present weights on the judge and keep them if they are the best.

        epoch: the last one that was trained (the first is 0), -1 for none. A tie goes to the later ones in zero-shot
        runs and to the earlier ones in few-shot runs, as published; see MlaTraining.margin.
        """
        if self.training.protocol == "last" or not self.judge:
            return
        scores, maps = self.score_readings, self.map_readings
        detector = self._bound(frozenset[bool]().union(*(reading.memories for reading in (*scores, *maps))))
        if epoch < 0:  # untrained words say nothing: only the memory may speak
            most = max(reading.memory_weight for reading in scores)
            scores = tuple(reading for reading in scores if reading.memory_weight == most)
            maps = tuple(reading for reading in maps if reading.map_memory_weight == most)
        size = detector.settings.image_size
        results = [
            judged(self._raws(detector, cache), cache.samples, detector.mode, size, scores, maps)
            for cache in self.judge
        ]
        images, pixels = (np.mean(column, axis=0) for column in zip(*results, strict=True))
        reading = scores[int(images.argmax())]
        reading = reading.with_maps_of(maps[int(pixels.argmax())]) if maps else reading.alike
        score = float(images.max() + (pixels.max() if maps else 0))
        self.history.append({"epoch": epoch + 1, "round": index, "selection": score, **reading.to_json()})
        ties = self.support is None
        bar = -np.inf if self.best is None else self.best.score + (0 if maps else self._margin(self.best.score))
        if score > bar or (ties and score == bar):
            weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
            self.best = _Best(score, epoch + 1, reading, weights)

    def _margin(self, score: float) -> float:
        """By how much a later epoch must beat a score of images alone."""
        if not self.training.margin:
            return 0.0
        labels = torch.cat([cache.samples.labels for cache in self.judge])
        abnormal = int((labels > 0.5).sum())
        return self.training.margin * standard_error(score, len(labels) - abnormal, abnormal)

    @property
    def score_readings(self) -> tuple[Reading, ...]:
        """Ways of reading image scores to choose from; the first of equals wins. What is not chosen is left."""
        first, *others = self.training.score_readings()
        if self.training.protocol == "last":
            return (first,)
        same = _FIXED[self.detector.mode]
        return (first, *(r for r in others if all(getattr(r, name) == getattr(first, name) for name in same)))

    @property
    def map_readings(self) -> tuple[Reading, ...]:
        """Ways of reading maps to choose from; none where no set that judges has masks: maps are read like scores."""
        ways = self.training.map_readings()
        if not any(cache.samples.masked for cache in self.judge):
            return ()
        zero_shot = self.detector.mode == "zero-shot"
        return tuple(r for r in ways if not zero_shot or r.map_memory_weight == ways[0].map_memory_weight)

    @torch.no_grad()
    def _raws(self, detector: MlaLp, cache: FrozenCache) -> list[RawScores]:
        with self.fabric.autocast():
            text = self.network.text(self._object_name(cache.samples.name)).float()
        out: list[RawScores] = []
        with progress(f"Judging by {cache.samples.name or 'held-out images'}", len(cache.samples)) as bar:
            for part in _blocks(len(cache.samples), detector.batch_size):
                with self.fabric.autocast():
                    tokens = self.network.adapt(cache(part), seg=detector.map_branch == "seg")
                geometries = [cache.samples.geometry(i) for i in part]
                out += detector.raw_from_tokens(tokens, geometries, [str(i) for i in part], text)
                bar.advance(len(part))
        return out

    @torch.no_grad()
    def _bound(self, memories: frozenset[bool]) -> MlaLp:
        """The detector with banks of the present weights; the support's streams are the training set's own."""
        if self.support is None:
            return self.detector
        first = VARIANTS * len(self.support.abnormal)
        rows = list(range(first, first + VARIANTS * self.shots))

        def batches() -> Iterator[Any]:
            for part in track(list(_blocks(len(rows), self.detector.batch_size)), "Memory bank", unit="batches"):
                with self.fabric.autocast():
                    frozen = self.sets[0]([rows[i] for i in part])
                    yield self.network.adapt(frozen, seg=self.detector.map_branch == "seg")

        owner = torch.arange(self.shots).repeat(VARIANTS)
        return self.detector.with_banks(batches(), owner, memories)

    def _finished(self, how: str) -> MlaLp:
        chosen = self.best.epoch if self.best else self.training.epochs
        if self.best is not None:
            self.network.load_state_dict(self.best.weights)
        reading = self.best.reading if self.best else self.score_readings[0]
        detector = replace(self._bound(reading.memories), reading=reading)
        raws = [raw for cache in self.judge for raw in self._raws(detector, cache)]
        if raws:
            origin = "test" if self.training.protocol == "published" else "validation"
            detector = detector.with_scale_from(raws, origin)
        elif self.support is not None:
            raws = detector.support_raws(self.support.normal, self.support.abnormal)
            detector = detector.with_scale_from(raws, "support")
        else:
            raws = [raw for cache in self.sets for raw in self._raws(detector, cache)]
            detector = detector.with_scale_from(raws, "training")
        selected = f"last of {self.training.epochs} epochs" if self.best is None else f"best epoch on {how}"
        info = {
            "protocol": self.training.protocol,
            "selected": selected,
            "epoch": chosen,
            "selection_score": None if self.best is None else self.best.score,
            "reading": detector.reading.to_json(),
            "training": self.training.to_json(),
            "history": self.history,
        }
        return replace(detector, info={**detector.info, **info})

    # -- surviving an interruption ---------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        t = self.training.to_json()
        for elsewhere in ("device", "cache_gb", "cache_disk_gb"):  # a run may go on where there is more or less
            t.pop(elsewhere)
        caches = [*self.sets, *self.judge]
        contents = {f"images {i} {c.samples.name}": c.samples.content() for i, c in enumerate(caches)}
        network = {f"network.{k}": v for k, v in self.detector.settings.to_json().items()}
        start = {
            "initial weights": hash_tensors(self.network.state_dict()),
            "backbone": self.detector.clip.weights_hash,
        }
        return {**t, **contents, **network, **start}

    def _save(self, epoch: int) -> None:
        if self.state_file is None:
            return
        best = (
            None
            if self.best is None
            else {"reading": self.best.reading.to_json()}
            | {f: getattr(self.best, f) for f in ("score", "epoch", "weights")}
        )
        save_state(
            self.state_file,
            {
                "epoch": epoch + 1,
                "network": {k: v.cpu() for k, v in self.network.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "best": best,
                "history": self.history,
                "precision": self.fabric.strategy.precision.state_dict(),
                "settings": self._stated,
            },
        )

    def _resume(self) -> int:
        state = None if self.state_file is None else load_state(self.state_file, self._stated)
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])  # the gradient scaler of fp16
        self.history = list(state["history"])
        best = state["best"]
        self.best = None if best is None else _Best(**{**best, "reading": Reading.from_json(best["reading"])})
        return int(state["epoch"])


def _apart(detector: MlaLp, device: torch.device) -> MlaLp:
    """The detector with adapters and prompts of its own on a device, so that training leaves the given one as it is.

    The backbone never changes and is shared, unless it lies on another device.
    """
    clip = detector.clip
    shared = {id(clip): clip} if next(clip.model.parameters()).device == device else {}
    return replace(detector, network=copy.deepcopy(detector.network, shared).to_device(device))


def _blocks(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))
