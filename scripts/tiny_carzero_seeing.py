"""The tiny CARZero's image encoder learns to see before it meets sentences; see train_tiny_carzero.py.

From each report come the findings it states, by the package's rules for prompts. Linear heads, dropped afterwards, tell
them from the class token and from the patches, whose logits are pooled by log-sum-exp: multiple instances, of which one
may show the finding (Pinheiro and Collobert, CVPR 2015). So evidence stays where it is, and attention can point at it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.files import atomic_path
from wordsight.metrics import auroc
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.progress import progress
from wordsight.text.alignment import Status
from wordsight.train.carzero import normalised
from wordsight.train.carzero_data import ReportData, ReportImage

RARE = 0.02  # findings of a smaller share of the reports are left out


def findings_of(rows: Sequence[ReportImage]) -> list[str]:
    """Findings that enough reports state, in alphabetical order."""
    counts = Counter(
        name for row in rows for name in {s.finding for s in row.report.statements if s.status is Status.PRESENT}
    )
    return sorted(name for name, count in counts.items() if count >= RARE * len(rows))


def labels_of(rows: Sequence[ReportImage], findings: Sequence[str]) -> Tensor:
    """(N, F) float32: 1 stated, 0 denied or not mentioned, NaN in doubt."""
    labels = torch.zeros(len(rows), len(findings))
    column = {name: i for i, name in enumerate(findings)}
    for row, values in zip(rows, labels, strict=True):
        for status, value in ((Status.UNCERTAIN, math.nan), (Status.PRESENT, 1.0)):
            known = {s.finding for s in row.report.statements if s.status is status}
            values[[column[name] for name in known if name in column]] = value
    return labels


class Heads(nn.Module):
    """Linear readers of class token and patches."""

    def __init__(self, width: int, findings: int) -> None:
        super().__init__()
        self.first, self.patches = nn.Linear(width, findings), nn.Linear(width, findings)
        for head in (self.first, self.patches):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, -1.7)  # about one in six
        nn.init.normal_(self.patches.weight, std=0.02)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + P, D) -> logits (B, F) of the class token and of the pooled patches."""
        each = self.patches(tokens[:, 1:])
        return self.first(tokens[:, 0]), each.logsumexp(dim=1) - math.log(each.shape[1])


class Seeing:
    """Training of the image encoder, and the state that survives an interruption."""

    def __init__(self, network: CarZeroNetwork, data: ReportData, steps: int, peak: float, state: Path) -> None:
        self.encoder, self.data, self.steps, self.peak, self.state = network.img_encoder, data, steps, peak, state
        self.findings = findings_of(data.rows)
        self.labels = labels_of(data.rows, self.findings)
        with torch.random.fork_rng():
            torch.manual_seed(data.training.seed)
            self.heads = Heads(network.settings.width, len(self.findings))
        self.parameters = [p for p in (*self.encoder.parameters(), *self.heads.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=peak, betas=(0.9, 0.98))
        self.done = 0

    def run(self, say: int) -> None:
        """Train to the last step, saving the state and saying the loss every `say` steps."""
        self._resume()
        seen: list[tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        per_epoch = len(self.data.order(0))
        with progress("seeing", self.steps, "steps") as bar:
            bar.advance(self.done)
            while self.done < self.steps:
                epoch = 1000 + self.done // per_epoch  # other variations than those of the training that follows
                rows = self.data.order(epoch)[self.done % per_epoch :]
                for batch, chosen in zip(self.data.stream(epoch, rows), rows, strict=True):
                    seen.append(self.step(batch.images, self.labels[chosen]))
                    bar.advance()
                    if self.done % say == 0 or self.done == self.steps:
                        print(f"seeing {self.done}/{self.steps} {summary(seen)}", flush=True)
                        seen.clear()
                        self._save()
                    if self.done == self.steps:
                        break

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One update: loss, labels and the patches' logits."""
        rise = max(self.steps // 20, 1)
        falling = (1 + math.cos(math.pi * max(self.done - rise, 0) / max(self.steps - rise, 1))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * min((self.done + 1) / rise, 0.05 + 0.95 * falling)
        first, patches = self.heads(self.encoder(normalised(images)))
        sure = ~labels.isnan()
        known = labels.nan_to_num()
        losses = [F.binary_cross_entropy_with_logits(x, known, reduction="none")[sure] for x in (first, patches)]
        loss = losses[0].mean() + losses[1].mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.done += 1
        return float(loss.detach()), labels.numpy(), patches.detach().numpy()

    def _save(self) -> None:
        content = {
            "done": self.done,
            "steps": self.steps,
            "findings": self.findings,
            "encoder": self.encoder.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.state) as temporary:
            torch.save(content, temporary)

    def _resume(self) -> None:
        if not self.state.is_file():
            return
        content = torch.load(self.state, weights_only=True)
        if (content["steps"], content["findings"]) != (self.steps, self.findings):
            raise SystemExit(f"{self.state}: state of another training. Choose another --work, or delete this one.")
        self.encoder.load_state_dict(content["encoder"])
        self.heads.load_state_dict(content["heads"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.done = content["done"]


def summary(seen: Sequence[tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> str:
    """Mean loss, and mean AUROC of the patches' logits on the batches as they were seen, before their updates."""
    labels, logits = (np.concatenate([part[i] for part in seen]) for i in (1, 2))
    values = []
    for truth, score in zip(labels.T, logits.T, strict=True):
        sure = ~np.isnan(truth)
        values.append(auroc(truth[sure].astype(np.int64), score[sure]))
    return f"loss {np.mean([part[0] for part in seen]):.4f} AUROC {np.nanmean(values):.3f}"
