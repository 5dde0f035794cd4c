"""How networks are run: as they are written, or compiled by torch.compile, one residual block at a time.

Blocks of a tower are alike, so that one of them is compiled and all run by it: seconds instead of minutes for a whole
network. Values of both agree up to rounding. Text towers run as written, since they run once for a set of images.
Convolutional networks are not compiled; "compile" gives them images with the channels last in memory, which their
library convolves faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

from wordsight.errors import SettingsError

P = ParamSpec("P")
T = TypeVar("T")
Runtime = Literal["eager", "compile"]
_RUNTIME: ContextVar[Runtime] = ContextVar("runtime", default="eager")


def resolve_runtime(wanted: Runtime, device: torch.device | str) -> Runtime:
    """The runtime, known to work on the device. Raises SettingsError for another name, and where compiling fails.

    On the CPU torch.compile needs a C++ compiler, on CUDA Triton and a C compiler; whether it works is tried.
    """
    if wanted not in get_args(Runtime):
        raise SettingsError(f"runtime: expected {' or '.join(get_args(Runtime))}, got {wanted!r}. Check the name.")
    if wanted == "compile":
        _try_to_compile(torch.device(device).type)
    return wanted


@cache
def _try_to_compile(kind: str) -> None:
    try:
        found = torch.compile(_probe, fullgraph=True)(torch.ones(8, device=kind))
    except Exception as error:  # whatever a compiler, a missing one or an unsupported Python raise
        reason = next(iter(str(error).strip().splitlines()), "")
        needed = "a C++ compiler (such as g++)" if kind == "cpu" else "Triton and a C compiler"
        raise SettingsError(
            f"runtime compile: torch.compile does not work here ({type(error).__name__}: {reason}). It needs {needed}. "
            "Install what is missing, or use runtime eager."
        ) from error
    assert torch.equal(found, torch.full_like(found, 3.0))


def _probe(x: Tensor) -> Tensor:
    return x * 2 + 1


@contextmanager
def running(runtime: Runtime) -> Iterator[None]:
    """Within it functions that are `compilable` run as the runtime says."""
    token = _RUNTIME.set(runtime)
    try:
        yield
    finally:
        _RUNTIME.reset(token)


def compilable(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which runs compiled within `running("compile")`; with gradients it always runs as written."""

    @cache
    def compiled() -> Any:
        return torch.compile(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not compiling():
            return function(*args, **kwargs)
        result: T = compiled()(*args, **kwargs)
        return result

    return call


def compiling() -> bool:
    """Whether functions that are `compilable` run compiled here."""
    return _RUNTIME.get() == "compile" and not torch.is_grad_enabled()


def laid_out(images: Tensor) -> Tensor:
    """(B, C, H, W) for a convolutional network, the same values in the memory layout that the runtime asks for."""
    return images.contiguous(memory_format=torch.channels_last) if compiling() else images


@compilable
def run_module(module: Any, x: Tensor, **options: Any) -> Tensor:
    """A block that its library wrote, called."""
    out: Tensor = module(x, **options)
    return out
