"""Plain arrays in an .npz file, read without trusting it: no pickle, no compression, no size that the file lacks."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wordsight.errors import DataError

DTYPES = ("float16", "float32", "uint8")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write float16, float32 or uint8 arrays uncompressed, one `.npy` member per name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            # A fixed date keeps the file's bytes a function of its content.
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as stream:
                npy.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _check(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Raise DataError unless the member holds exactly the array that its header announces."""
    if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
        raise DataError(f"{path}: expected uncompressed .npy members, got {member.filename!r}. Write the run again.")
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
        start = stream.tell()
    if dtype.name not in DTYPES or start + math.prod(shape) * dtype.itemsize != member.file_size:
        raise DataError(
            f"{path}: expected {', '.join(DTYPES)} arrays that fill their member, got {dtype} {shape} "
            f"in {member.file_size} bytes of {member.filename!r}. Write the run again."
        )


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read what write_arrays wrote. Raises DataError for anything else, before memory is taken for it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(m.file_size for m in members) > path.stat().st_size:
                raise DataError(f"{path}: members announce more bytes than the file has. Write the run again.")
            arrays: dict[str, NDArray[np.generic]] = {}
            for member in members:
                _check(archive, member, path)
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = npy.read_array(stream, allow_pickle=False)
            return arrays
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: expected arrays in an .npz file, got {error}. Write the run again.") from error
