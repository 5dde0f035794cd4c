"""Tensors that are computed once and kept: in memory up to a budget, then in a temporary file, then not at all."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes; every tensor of the file starts at a multiple."""


class _Place(NamedTuple):
    start: int
    dtype: torch.dtype
    shape: torch.Size


class TensorStore:
    """Tensors by key, on the CPU.

    memory_bytes, disk_bytes: budgets; of the disk never more than half of what is free. folder: where the file lies
    (None: the system's place for temporary files). The file has no name: it is gone with the process, however that
    ends.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int = 0, folder: Path | None = None) -> None:
        self._memory_left, self._disk_left, self._folder = memory_bytes, disk_bytes, folder
        self._kept: dict[Hashable, Tensor] = {}
        self._places: dict[Hashable, _Place] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    def get(self, key: Hashable) -> Tensor | None:
        """What was put there, or None; a tensor of the file is a mapping of it, read when it is used."""
        if key in self._kept:
            return self._kept[key]
        if key not in self._places or self._file is None:
            return None
        place = self._places[key]
        size = place.shape.numel() * place.dtype.itemsize
        mapped = np.memmap(self._file, dtype=np.uint8, mode="c", offset=place.start, shape=(size,))
        return torch.from_numpy(mapped).view(place.dtype).reshape(place.shape)

    def put(self, key: Hashable, tensor: Tensor) -> bool:
        """Keep a tensor; False where neither budget has room for it."""
        size = tensor.numel() * tensor.element_size()
        if size <= self._memory_left:
            self._memory_left -= size
            self._kept[key] = tensor.detach().cpu()
            return True
        return self._write(key, tensor.detach().cpu().contiguous(), size)

    def _write(self, key: Hashable, tensor: Tensor, size: int) -> bool:
        """Append to the file. A disk that is full, whoever filled it, ends the budget and nothing else."""
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        if padded > self._disk_left:
            return False
        try:
            file = self._open()
            if padded > self._disk_left:
                return False
            file.seek(self._end)
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            file.write(bytes(padded - size))
            file.flush()
        except OSError:
            self._disk_left = 0
            return False
        self._places[key] = _Place(self._end, tensor.dtype, tensor.shape)
        self._end += padded
        self._disk_left -= padded
        return True

    def _open(self) -> IO[bytes]:
        if self._file is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (open as long as the store)
            weakref.finalize(self, self._file.close)
            free = shutil.disk_usage(self._folder or tempfile.gettempdir()).free
            self._disk_left = min(self._disk_left, free // 2)
        return self._file

    def close(self) -> None:
        """Forget everything and give memory and disk back."""
        self._kept.clear()
        self._places.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
