"""Prepared images and masks of a set, and the frozen part of their computation, kept within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wordsight.data import hash_records
from wordsight.errors import DataError
from wordsight.imaging import InputSpec, image_count, prepare, prepare_mask, read_mask, read_record
from wordsight.models.mla.augment import VARIANTS, augment
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.tensor_files import hash_tensors
from wordsight.progress import track
from wordsight.train.store import TensorStore
from wordsight.types import Geometry, Record


@dataclass(frozen=True, slots=True)
class Samples:
    """Images of one set, loaded when asked for.

    load(i): (3, S, S) float32. mask(i): (S, S) bool. labels: (n,) float32. masked: whether the set has masks.
    content(): a hash of the images, masks and labels.
    """

    name: str
    labels: Tensor
    masked: bool
    load: Callable[[int], Tensor]
    mask: Callable[[int], Tensor]
    geometry: Callable[[int], Geometry]
    content: Callable[[], str]

    def __len__(self) -> int:
        return len(self.labels)


def _label(record: Record) -> int:
    if record.label is None:
        raise DataError(f"{record.path}: expected a label (0 normal, 1 abnormal), got none. Add it to the manifest.")
    return record.label


def samples_from_records(
    records: Sequence[Record], spec: InputSpec, *, name: str, mask_rule: str = "any", masked: bool | None = None
) -> Samples:
    """Records read from disk on demand; what is expensive of an image is kept by `FrozenCache`, masks are kept as bits.

    masked: None = whether any record has a mask. Raises DataError for unlabelled records or an empty set.
    """
    if not records:
        raise DataError(f"{name}: expected at least one image, got none.")
    labels = torch.tensor([_label(record) for record in records], dtype=torch.float32)
    geometries: dict[int, Geometry] = {}
    bits: dict[int, NDArray[np.uint8]] = {}

    def load(i: int) -> Tensor:
        record = records[i]
        array, geometries[i] = prepare(read_record(record), spec)
        return torch.from_numpy(np.ascontiguousarray(array))

    def mask(i: int) -> Tensor:
        path = records[i].mask
        if path is None:
            return torch.zeros(spec.size, dtype=torch.bool)
        if i not in bits:
            rule: Literal["any", "half"] = "half" if mask_rule == "half" else "any"
            frame = records[i].frame
            if frame is not None and image_count(path) == 1:  # one mask for all frames
                frame = None
            bits[i] = np.packbits(prepare_mask(read_mask(path, rule=rule, frame=frame), spec))
        height, width = spec.size
        unpacked = np.unpackbits(bits[i], count=height * width).reshape(height, width)
        return torch.from_numpy(unpacked.astype(np.bool_))

    def geometry(i: int) -> Geometry:
        if i not in geometries:
            load(i)
        return geometries[i]

    has = any(record.mask is not None for record in records) if masked is None else masked
    return Samples(name, labels, has, load, mask, geometry, lambda: hash_records(records))


@dataclass(frozen=True, slots=True)
class SupportArrays:
    """Prepared support: normal and abnormal (k, 3, S, S) float32, masks (k, S, S) bool of the abnormal, or None."""

    normal: Tensor
    abnormal: Tensor
    masks: Tensor | None

    @property
    def samples(self) -> Samples:
        """The 11 k + 11 k training images of a few-shot run, augmented, abnormal first as published.

        Masks go through the same bilinear sampler and are thresholded at 0.5.
        """
        images = torch.cat([augment(self.abnormal), augment(self.normal)])
        blank = torch.zeros(len(self.normal) * VARIANTS, *images.shape[-2:], dtype=torch.bool)
        masks = None
        if self.masks is not None:
            masks = torch.cat([augment(self.masks[:, None].float())[:, 0] > 0.5, blank])
        labels = torch.cat([torch.ones(len(self.abnormal) * VARIANTS), torch.zeros(len(blank))])
        size = (int(images.shape[-2]), int(images.shape[-1]))
        identity = Geometry(size, size, (1.0, 1.0))

        def mask(i: int) -> Tensor:
            return blank[0] if masks is None else masks[i]

        def content() -> str:
            parts = {"normal": self.normal, "abnormal": self.abnormal, "masks": self.masks}
            return hash_tensors({name: part for name, part in parts.items() if part is not None})

        return Samples("support", labels, masks is not None, lambda i: images[i], mask, lambda i: identity, content)


def support_arrays(
    normal: Sequence[Record], abnormal: Sequence[Record], spec: InputSpec, *, masked: bool, mask_rule: str = "any"
) -> SupportArrays:
    """Read and prepare a support set. Raises DataError when a class is empty or an abnormal image lacks its mask."""
    for word, group in (("normal", normal), ("abnormal", abnormal)):
        if not group:
            raise DataError(f"expected at least one {word} support image, got none.")
    lacking = [record.name for record in abnormal if record.mask is None]
    if masked and lacking:
        raise DataError(f"expected a mask for every abnormal support image, got none for {', '.join(lacking[:5])}.")
    good = samples_from_records(normal, spec, name="support", masked=masked)
    bad = samples_from_records(abnormal, spec, name="support", masked=masked, mask_rule=mask_rule)
    masks = torch.stack([bad.mask(i) for i in range(len(bad))]) if masked else None
    if masks is not None and not masks.flatten(1).any(1).all():
        empty = [r.name for r, filled in zip(abnormal, masks.flatten(1).any(1).tolist(), strict=True) if not filled]
        raise DataError(
            f"the mask of {', '.join(empty[:5])} is empty under rule {mask_rule!r}. Masks stored as 0/1 or with low "
            "grey levels need the rule 'any'."
        )
    return SupportArrays(
        torch.stack([good.load(i) for i in range(len(good))]),
        torch.stack([bad.load(i) for i in range(len(bad))]),
        masks,
    )


class FrozenCache:
    """Residual streams that depend on nothing trained (`MlaNetwork.frozen`), once per image while the store has room.

    Images pass one at a time, so that a value never depends on which others were asked for with it. Several sets may
    share a store.
    """

    def __init__(
        self, network: MlaNetwork, samples: Samples, store: TensorStore, autocast: Callable[[], object]
    ) -> None:
        self._network, self.samples, self._store = network, samples, store
        self._autocast = autocast
        self._full = False
        self._device = next(network.parameters()).device

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """(B, F, N + P, W) on the network's device: the first level, without mixing adapters every level."""
        return torch.cat([self._one(i) for i in indices])

    def _one(self, i: int) -> Tensor:
        kept = self._store.get((id(self), i))
        if kept is not None:
            return kept.to(self._device)
        with self._autocast():  # type: ignore[attr-defined]
            streams = self._network.frozen(self.samples.load(i)[None].to(self._device))
        self._full = self._full or not self._store.put((id(self), i), streams)
        return streams

    def warm(self, description: str) -> None:
        """Fill the store with a progress bar, as far as it has room."""
        for i in track(range(len(self.samples)), description):
            self._one(i)
            if self._full:
                return
