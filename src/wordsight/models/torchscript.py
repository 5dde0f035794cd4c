"""Tensors of a TorchScript archive, read without running any of its code.

`torch.jit.load` compiles the archive's code and may run its `__setstate__` methods, and TorchScript has operators that
write files. An archive's object tree is a pickle whose classes are all named `__torch__...`; here every such class
becomes a plain bag of attributes, tensors are read from the archive's raw storages, and any other global is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordsight.errors import WeightsError

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PICKLE_LIMIT = 64 * 2**20
_NOT_STATE = ("attn_mask",)
"""Attributes that scripting keeps as tensors although no state dict holds them."""


class _Bag:
    """An object of the archive: its attributes, and nothing that could run."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = dict(state) if isinstance(state, Mapping) else {}


class _StorageType:
    """Stands for torch.FloatStorage and its like in persistent ids."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _same(value: object, *_: object) -> object:
    """Typed lists, parameters and the like: the value itself."""
    return value


class _Reader(pickle.Unpickler):
    """Unpickler that knows bags, lists and tensors only; total tensor elements are bounded by the archive's bytes."""

    def __init__(self, archive: zipfile.ZipFile, root: str, limit: int) -> None:
        self._archive, self._root, self._left = archive, root, limit
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global; raises UnpicklingError for all but the known ones."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Bag
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module == "torch.jit._pickle" and name.startswith(("build_", "restore_type_tag"))) or (
            (module, name) == ("torch._utils", "_rebuild_parameter")
        ):
            return _same
        raise pickle.UnpicklingError(f"global {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str, int]:
        """A storage: its dtype, its entry in the archive and its number of elements."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise pickle.UnpicklingError(f"persistent id {pid!r:.80}")
        return pid[1].dtype, f"{self._root}/data/{pid[2]}", int(pid[4])

    def _tensor(self, storage: tuple[torch.dtype, str, int], offset: int, size: Any, stride: Any, *_: object) -> Tensor:
        dtype, entry, _numel = storage
        numel = 1
        for n in size:
            numel *= int(n)
        self._left -= numel
        if self._left < 0 or numel < 0:
            raise pickle.UnpicklingError("more tensor elements than the archive has bytes")
        info = self._archive.getinfo(entry)
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"compressed entry {entry}")
        data = bytearray(self._archive.read(info))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        # as_strided checks the bounds; clone drops what the view does not cover
        return flat.as_strided(tuple(size), tuple(stride), int(offset)).clone()


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive: a zip with constants beside its object tree."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of a TorchScript archive by their dotted attribute names, in the archive's dtypes.

    Works for archives of torch 1.4 and later, the published OpenAI CLIP archives among them. Raises WeightsError if the
    archive is damaged or its object tree holds anything but modules, lists and tensors.
    """
    problems: tuple[type[Exception], ...] = (
        pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ValueError, TypeError, RuntimeError, EOFError, IndexError,
        AttributeError, OSError, NotImplementedError,
    )  # fmt: skip
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/constants.pkl"))
            root = entry.removesuffix("/constants.pkl")
            if archive.getinfo(f"{root}/data.pkl").file_size > _PICKLE_LIMIT:
                raise pickle.UnpicklingError(f"an object tree of more than {_PICKLE_LIMIT} bytes")
            tree = _Reader(archive, root, path.stat().st_size).load()
    except problems as error:
        raise WeightsError(
            f"{path}: expected a whole TorchScript archive of modules and tensors, got {type(error).__name__}: "
            f"{error}. Nothing of it was run; download the file again from its publisher."
        ) from error
    tensors: dict[str, Tensor] = {}
    _collect(tree, "", tensors.__setitem__, set())
    if not tensors:
        raise WeightsError(f"{path}: expected tensors in the TorchScript archive, got none. Check the file.")
    return tensors


def _collect(node: object, prefix: str, put: Callable[[str, Tensor], None], above: set[int]) -> None:
    """Walk the tree of bags; a bag inside itself is left alone."""
    if not isinstance(node, _Bag) or id(node) in above:
        return
    for name, value in node.attributes.items():
        if isinstance(value, Tensor) and name not in _NOT_STATE:
            put(f"{prefix}{name}", value)
        elif isinstance(value, _Bag):
            _collect(value, f"{prefix}{name}.", put, above | {id(node)})
