"""The tensors of a training checkpoint, whatever else was pickled into it, without running anything of the file.

CARZero's checkpoint was written by PyTorch Lightning: beside the weights it holds an OmegaConf configuration and
callback classes, which torch's own restricted reader refuses. Here every class and function that a file names becomes
an inert placeholder, except those that describe tensors; tensors are read from the archive only if they are asked for,
so optimizer states cost nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.models.tensor_files import (
    TORCH_PROBLEMS,
    listed,
    load_safetensors,
    load_torch,
    looks_like,
    require_file,
)

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
_CONTAINERS = ("state_dict", "model")
_PROBLEMS: tuple[type[Exception], ...] = (*TORCH_PROBLEMS, NotImplementedError, zipfile.LargeZipFile)
_NO_TABLE: tuple[type[Exception], ...] = (*_PROBLEMS, SafetensorError, WeightsError)


class _Inert:
    """Stands for an instance of any class of the file: takes whatever it is given and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Items of a list's subclass."""

    def extend(self, values: object) -> None:
        """Items of a list's subclass."""

    def add(self, value: object) -> None:
        """Items of a set's subclass."""


class _Table(dict[Any, Any]):
    """Stands for an ordered dictionary, whose attributes (a state dict's version numbers) are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _StorageType:
    """Stands for torch.FloatStorage and its like in persistent ids."""

    dtype: torch.dtype

    def __setstate__(self, state: object) -> None:
        pass


class _Function:
    """Stands for a function of torch that describes a tensor; it cannot be altered from the file."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor that was not read yet: where its storage lies and which part of it it is."""

    dtype: torch.dtype
    entry: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _stored(storage: tuple[torch.dtype, str], offset: Any, size: Any, stride: Any, *_: object) -> _Stored:
    return _Stored(*storage, int(offset), tuple(int(n) for n in size), tuple(int(n) for n in stride))


def _first(value: object, *_: object) -> object:
    """A parameter is its tensor."""
    return value


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _Function(_stored),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_stored),
    ("torch._utils", "_rebuild_parameter"): _Function(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_first),
    ("collections", "OrderedDict"): _Table,
}


class _Reader(pickle._Unpickler):
    """Unpickler that knows tables and tensors and takes everything else for inert.

    The one written in Python, because it keeps its memo in a dictionary: a large index in the file allocates nothing.
    """

    def __init__(self, data: bytes, root: str) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a class or function; nothing is imported."""
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        return _KNOWN.get((module, name)) or type("_Inert", (_Inert,), {})

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str]:
        """A storage: its dtype and its entry in the archive."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise pickle.UnpicklingError(f"persistent id {pid!r:.80}")
        return pid[1].dtype, f"{self._root}/data/{pid[2]}"


class _Storages:
    """Storages of an archive, each read once; all tensors together have at most as many elements as the file bytes."""

    def __init__(self, archive: zipfile.ZipFile, limit: int) -> None:
        self._archive, self._left = archive, limit
        self._flat: dict[str, Tensor] = {}

    def read(self, stored: _Stored) -> Tensor:
        """The tensor; shares memory with others of its storage only where it covers the whole of it."""
        self._left -= math.prod(stored.size)
        if self._left < 0:
            raise pickle.UnpicklingError("more tensor elements than the file has bytes")
        key = f"{stored.entry} {stored.dtype}"
        if key not in self._flat:
            info = self._archive.getinfo(stored.entry)
            if info.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"compressed entry {stored.entry}")
            data = bytearray(self._archive.read(info))
            self._flat[key] = torch.frombuffer(data, dtype=stored.dtype) if data else torch.empty(0, dtype=stored.dtype)
        flat = self._flat[key]
        view = flat.as_strided(stored.size, stored.stride, stored.offset)  # checks the bounds
        return view if view.numel() == flat.numel() and view.is_contiguous() else view.clone()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Damage of any kind as a WeightsError."""
    try:
        yield
    except _PROBLEMS as error:
        raise WeightsError(
            f"{path}: expected a checkpoint saved by torch, got {looks_like(path)} that cannot be read whole "
            f"({type(error).__name__}: {str(error)[:200]}). Nothing of it was run; get the file again."
        ) from error


def _object_tree(archive: zipfile.ZipFile) -> object:
    """What a zip archive of torch.save holds, with its tensors not read yet."""
    trees = [name for name in archive.namelist() if name.endswith("data.pkl") and name.count("/") == 1]
    if len(trees) != 1:
        raise pickle.UnpicklingError("no single object tree data.pkl in the archive")
    root = trees[0].removesuffix("/data.pkl")
    if archive.getinfo(trees[0]).file_size > _PICKLE_LIMIT:
        raise pickle.UnpicklingError(f"an object tree of more than {_PICKLE_LIMIT} bytes")
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise pickle.UnpicklingError("big-endian numbers")
    content: object = _Reader(archive.read(trees[0]), root).load()
    return content


def _read_archive(path: Path) -> dict[str, Tensor]:
    """Tensors of a zip archive of torch.save."""
    with _explained(path), zipfile.ZipFile(path) as archive:
        table = _named(_object_tree(archive), _Stored, path)
        storages = _Storages(archive, path.stat().st_size)
        return {name: storages.read(stored) for name, stored in table.items()}


def _named(content: object, kind: type[Any], path: Path) -> dict[str, Any]:
    """The table of tensors in a file's content: under "state_dict" or "model", or the content itself."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a dictionary, got a {type(content).__name__}. Check the file.")
    inner = [content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
    table = inner[0] if inner else content
    strange = [str(name) for name, value in table.items() if not isinstance(name, str) or not isinstance(value, kind)]
    if strange or not table:
        raise WeightsError(
            f"{path}: expected tensors by name, alone or under {' or '.join(map(repr, _CONTAINERS))}, got "
            f"{f'something else under {listed(strange)}' if strange else 'no tensor'}. Check the file."
        )
    return dict(table)


def tensor_names(path: str | Path) -> tuple[str, ...]:
    """Names in the table of a file, without reading its tensors; () for a file that has none or cannot be read.

    Enough to tell what a file is; whoever reads it says what is wrong with it.
    """
    path = require_file(path)
    kind = looks_like(path)
    try:
        if kind == "a safetensors file":
            with safe_open(path, framework="pt", device="cpu") as file:
                return tuple(file.keys())
        if kind != "a zip archive":
            return tuple(_named(load_torch(path), Tensor, path)) if kind == "a pickle" else ()
        with zipfile.ZipFile(path) as archive:
            return tuple(_named(_object_tree(archive), _Stored, path))
    except _NO_TABLE:
        return ()


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors by name of a training checkpoint, a plain state dict or a safetensors file, and its text metadata.

    Names are those of the file. What lies beside the weights (configuration, optimizer, callbacks) is not read.
    Raises WeightsError for files that are neither, are damaged, or hold no table of tensors.
    """
    path = require_file(path)
    kind = looks_like(path)
    if kind == "a safetensors file":
        file = load_safetensors(path)
        return file.tensors, file.metadata
    if kind == "a zip archive":
        return _read_archive(path), {}
    return _named(load_torch(path), Tensor, path), {}
