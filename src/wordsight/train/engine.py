"""The training loop, on one page, on Lightning Fabric: epochs of rounds of batches; runs resume after a kill."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor

from wordsight.errors import SettingsError, TrainingError
from wordsight.files import atomic_path
from wordsight.models.precision import Precision
from wordsight.progress import progress
from wordsight.train.launch import launched

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)
_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Batches(Protocol[B_co]):
    """A known number of batches, made when they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[B_co]: ...


def find_device(device: str, precision: Precision = "fp32") -> torch.device:
    """The device of a name: "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:1".

    Raises SettingsError for devices that are not there and for fp16 on the CPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise SettingsError(f"device: expected auto, cpu, cuda or cuda:<number>, got {device!r}.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {device}: this machine has {torch.cuda.device_count()} CUDA devices. Use cpu.")
    if precision not in _FABRIC_PRECISION:
        raise SettingsError(f"precision: expected fp32, bf16 or fp16, got {precision!r}.")
    if kind == "cpu" and precision == "fp16":
        raise SettingsError("precision fp16 needs a CUDA device. Use bf16 or fp32 on the CPU.")
    return torch.device("cpu") if kind == "cpu" else torch.device("cuda", int(index or 0))


def make_fabric(device: str, precision: Precision, devices: int = 1) -> Fabric:
    """Fabric for one device (see `find_device`), or for several processes.

    devices: more than one are all processes that torchrun started, on one machine or several; without torchrun as many
    processes on this machine, on the first CUDA devices or on the CPU, which `Fabric.launch` spawns. fp16 trains with a
    gradient scaler.
    Raises SettingsError for devices that are not there, for another number than torchrun started, and for fp16 on the
    CPU.
    """
    found, others = find_device(device, precision), launched()
    if others is not None and others.world != devices:
        raise SettingsError(f"devices: torchrun started {others.world} processes, got {devices}. Give the same number.")
    here = devices if others is None else others.here
    there = 1 if ":" in device else torch.cuda.device_count() if found.type == "cuda" else math.inf
    if not 1 <= here <= there:
        raise SettingsError(f"devices: expected 1 to {there} of {device}, got {here}. Change one of them.")
    return Fabric(
        accelerator=found.type,
        strategy="auto" if devices == 1 else "ddp_spawn" if others is None else "ddp",
        devices=[found.index] if ":" in device else here,
        num_nodes=1 if others is None else others.machines,
        precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
        plugins=None if others is None else TorchElasticEnvironment(),
    )


def train(
    fabric: Fabric,
    optimizer: Any,
    rounds: Callable[[int], Sequence[Batches[B]]],
    step: Callable[[B], Tensor],
    *,
    epochs: int,
    start: int = 0,
    first_round: int = 0,
    before_update: Callable[[], None] | None = None,
    on_epoch_start: Callable[[int], None] | None = None,
    on_round_end: Callable[[int, int, float], None] | None = None,
    on_epoch_end: Callable[[int], bool | None] | None = None,
) -> None:
    """Train from epoch `start` to `epochs`: one optimizer step per batch.

    rounds(epoch): the epoch's batches in one or more rounds; on_round_end gets epoch, round and its mean loss.
    first_round: rounds of epoch `start` before it are done already. before_update: between gradients and update.
    on_epoch_end: True ends the training. Raises TrainingError when a loss is not finite.
    """
    left = sum(len(r) for epoch in range(start, epochs) for r in rounds(epoch)[first_round * (epoch == start) :])
    with progress("training", left, "steps", show=fabric.is_global_zero) as bar:
        for epoch in range(start, epochs):
            if on_epoch_start:
                on_epoch_start(epoch)
            for index, batches in enumerate(rounds(epoch)):
                if epoch == start and index < first_round:
                    continue
                losses = []
                for batch in batches:
                    optimizer.zero_grad(set_to_none=True)
                    loss = step(batch)
                    losses.append(_finite(loss.item(), epoch))
                    fabric.backward(loss)
                    if before_update:
                        before_update()
                    optimizer.step()
                    bar.advance()
                mean = sum(losses) / max(len(losses), 1)
                bar.note(f"epoch {epoch + 1}/{epochs} loss {mean:.4f}")
                if on_round_end:
                    on_round_end(epoch, index, mean)
            if on_epoch_end and on_epoch_end(epoch):
                return


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"epoch {epoch + 1}: the loss is {loss}. Use precision fp32 or a smaller learning rate, and check the "
            "images."
        )
    return loss


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable state (tensors and plain values) atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, settings: Any) -> dict[str, Any] | None:
    """Read the state of an interrupted run; None when there is none.

    Raises TrainingError when the file is damaged or was made with other settings.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = state["settings"]
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path}: expected the state of an interrupted run, got a file that cannot be read "
            f"({type(error).__name__}). Delete it to start again."
        ) from error
    if known != settings:
        changed = sorted(k for k in {*known, *settings} if known.get(k) != settings.get(k))
        raise TrainingError(
            f"{path}: this run was started with other settings ({', '.join(changed)}). "
            "Choose another output folder, or delete this one to start again."
        )
    return dict(state)
