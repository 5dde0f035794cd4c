"""The tiny CARZero's image encoder learns to see before it meets sentences; see train_tiny_carzero.py.

It learns from phantoms of its own, with their masks: linear readers after every block tell how much of a patch each
finding covers, and a reader of the class token which findings the image has. The readers are dropped afterwards. So the
encoder begins CARZero's training knowing what to look at, as the published one begins with the weights of M3AE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.data.phantoms import draw_report_phantom
from wordsight.data.phantoms.reports import CODES, FINDINGS
from wordsight.files import atomic_path
from wordsight.imaging import prepare, prepare_mask
from wordsight.metrics import auroc
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.progress import progress, track
from wordsight.train.carzero import normalised
from wordsight.train.carzero_data import square_spec
from wordsight.types import Image

EARLIER = 0.3  # weight of the readers after blocks before the last
BITS = np.uint16(1) << np.arange(len(FINDINGS), dtype=np.uint16)
Seen = tuple[float, NDArray[Any], NDArray[Any], NDArray[Any]]  # loss; labels, logits of class token and best patch


@dataclass(frozen=True, eq=False)
class Lesson:
    """Phantoms with what is known of them: squares (N, R, R) uint8, of which steps crop a part; masks (N, R, R) uint16,
    one bit per finding; labels (N, F) int8: 1 present, 0 absent, -1 uncertain."""

    squares: NDArray[np.uint8]
    masks: NDArray[np.uint16]
    labels: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.squares)


def draw_lesson(seed: int, count: int, size: int, settings: CarZeroSettings) -> Lesson:
    """Phantoms 0 to count of a seed, drawn at `size` pixels and prepared as the network wants them."""
    spec = square_spec(settings)
    side = spec.size[0]
    squares, masks = np.zeros((count, side, side), np.uint8), np.zeros((count, side, side), np.uint16)
    labels = np.zeros((count, len(FINDINGS)), np.int8)
    for i in track(range(count), "drawing for seeing"):
        phantom = draw_report_phantom(seed, i, size)
        squares[i] = np.rint(prepare(Image(phantom.pixels.astype(np.float32) / 255), spec)[0][0] * 255)
        for k, name in enumerate(FINDINGS):
            truth = phantom.findings[name]
            labels[i, k] = CODES[truth.state]
            if truth.mask is not None:
                masks[i] |= prepare_mask(truth.mask, spec) * BITS[k]
    return Lesson(squares, masks, labels)


class Readers(nn.Module):
    """Linear readers of the patches after every block and of the class token after the last."""

    def __init__(self, layers: int, width: int, findings: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers - 1))
        self.patches = nn.ModuleList(nn.Linear(width, findings) for _ in range(layers))
        self.first = nn.Linear(width, findings)
        for reader, bias in ((self.first, -1.7), *((reader, -3.0) for reader in self.patches)):
            nn.init.normal_(reader.weight, std=0.02)
            nn.init.constant_(reader.bias, bias)  # what share of images and patches has a finding, about

    def forward(self, streams: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, 1 + P, D) after every block, the last ones normed -> logits (B, F) and per block (B, P, F)."""
        normed = [*(norm(x) for norm, x in zip(self.norms, streams, strict=False)), streams[-1]]
        patches = [reader(x[:, 1:]) for reader, x in zip(self.patches, normed, strict=True)]
        return self.first(streams[-1][:, 0]), patches


def streams_of(model: Any, images: Tensor) -> list[Tensor]:
    """Tokens after every block, the last ones normed."""
    x = model._pos_embed(model.patch_embed(images))
    streams = []
    for block in model.blocks:
        x = block(x)
        streams.append(x)
    streams[-1] = model.norm(streams[-1])
    return streams


class Seeing:
    """Training of the image encoder, and the state that survives an interruption."""

    def __init__(
        self, network: CarZeroNetwork, lesson: Lesson, steps: int, batch: int, peak: float, seed: int, state: Path
    ) -> None:
        self.encoder, self.settings, self.lesson = network.img_encoder, network.settings, lesson
        self.steps, self.batch, self.peak, self.seed, self.state = steps, batch, peak, seed, state
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = len(network.img_encoder.model.blocks)
            self.readers = Readers(layers, network.settings.width, len(FINDINGS))
        self.parameters = [p for p in (*self.encoder.parameters(), *self.readers.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
        self.done = 0

    def run(self, say: int) -> None:
        """Train to the last step, saving the state and saying the loss every `say` steps."""
        self._resume()
        seen: list[Seen] = []
        with progress("seeing", self.steps, "steps") as bar:
            bar.advance(self.done)
            while self.done < self.steps:
                seen.append(self.step(*self.draw(self.done)))
                bar.advance()
                if self.done % say == 0 or self.done == self.steps:
                    print(f"seeing {self.done}/{self.steps} {summary(seen)}", flush=True)
                    seen.clear()
                    self._save()

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch of a step: normalised images (B, 3, S, S), cover (B, P, F) in [0, 1], labels (B, F)."""
        epoch, place = divmod(step, max(len(self.lesson) // self.batch, 1))
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.lesson))
        rows = order[place * self.batch : (place + 1) * self.batch]
        rng = np.random.default_rng([self.seed, epoch, 1, place])
        size, patch, grid = self.settings.image_size, self.settings.image_size // self.settings.grid, self.settings.grid
        corners = rng.integers(0, self.lesson.squares.shape[1] - size + 1, (len(rows), 2))
        windows = [(i, slice(r, r + size), slice(c, c + size)) for i, (r, c) in zip(rows, corners, strict=True)]
        masks = np.stack([self.lesson.masks[window] for window in windows])
        cells = masks.reshape(-1, grid, patch, grid, patch)
        cover = [((cells & bit) != 0).mean(axis=(2, 4), dtype=np.float32) for bit in BITS]
        images = torch.from_numpy(np.stack([self.lesson.squares[window] for window in windows]))
        light, contrast = torch.from_numpy(rng.uniform(0.9, 1.1, (2, len(rows), 1, 1)).astype(np.float32))
        lit = (images * light).clamp(max=255)
        middle = lit.mean(dim=(1, 2), keepdim=True)
        varied = (middle + (lit - middle) * contrast).clamp(0, 255)
        labels = torch.from_numpy(self.lesson.labels[rows].astype(np.float32))
        return normalised(varied), torch.from_numpy(np.stack(cover, axis=-1)).flatten(1, 2), labels

    def step(self, images: Tensor, cover: Tensor, labels: Tensor) -> Seen:
        """One update: loss, labels and logits. A patch is full when a third of it is covered; doubts do not count."""
        rise = max(self.steps // 20, 1)
        falling = (1 + math.cos(math.pi * self.done / self.steps)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * min((self.done + 1) / rise, 0.03 + 0.97 * falling)
        first, patches = self.readers(streams_of(self.encoder.model, images))
        sure = (labels >= 0).float()
        wanted = (3 * cover).clamp(max=1)
        weight = (1 + 4 * wanted) * sure[:, None]
        losses = [(_entropy(logits, wanted) * weight).mean() * 5 for logits in patches]
        loss = losses[-1] + EARLIER * sum(losses[:-1]) + (_entropy(first, labels.clamp(min=0)) * sure).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.done += 1
        best = patches[-1].detach().amax(dim=1)
        return float(loss.detach()), labels.numpy(), first.detach().numpy(), best.numpy()

    def _save(self) -> None:
        content = {
            "done": self.done,
            "asked": [self.steps, self.batch, self.seed, len(self.lesson)],
            "encoder": self.encoder.state_dict(),
            "readers": self.readers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.state) as temporary:
            torch.save(content, temporary)

    def _resume(self) -> None:
        if not self.state.is_file():
            return
        content = torch.load(self.state, weights_only=True)
        if content["asked"] != [self.steps, self.batch, self.seed, len(self.lesson)]:
            raise SystemExit(f"{self.state}: state of another training. Choose another --work, or delete this one.")
        self.encoder.load_state_dict(content["encoder"])
        self.readers.load_state_dict(content["readers"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.done = content["done"]


def _entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def summary(seen: Sequence[Seen]) -> str:
    """Mean loss, and mean AUROC of class token and best patch on the batches as they were seen, before updates."""
    labels, *logits = (np.concatenate([part[i] for part in seen]) for i in (1, 2, 3))
    found = []
    for scores in logits:
        values = []
        for truth, score in zip(labels.T, scores.T, strict=True):
            sure = truth >= 0
            values.append(auroc(truth[sure].astype(np.int64), score[sure]))
        found.append(np.nanmean(values))
    return (
        f"loss {np.mean([part[0] for part in seen]):.3f} AUROC of class token {found[0]:.3f} best patch {found[1]:.3f}"
    )
