"""A CUDA device that is not there: its tensors say cuda:0, refuse what CUDA refuses, and are computed on the CPU.

    with pretended_cuda() as card:
        network.to("cuda")(images.to("cuda")).sum().backward()
    assert card.copies == 0

What is like a real device: tensors of both devices do not mix (but for single numbers in elementwise operators, and
index tensors on the CPU), `.numpy()` of a tensor of the device is an error, a generator of the CPU draws nothing there,
values come back by `.cpu()`, `.item()` and their like alone, which are counted. What is not: speed, memory, kernels.

Inference mode is no_grad here: it would hand operators over whole, past autocast.

autocast="cpu" (the default) has gradients; autocast("cuda") then follows the CPU's list of operators. With "cuda" it
follows CUDA's own list, but nothing can have gradients: PyTorch would ask the driver for a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
NAME = "Pretended GPU"
_MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({})"
_INDEXED = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_")
_NUMBERS = ("fill_", "fill", "masked_fill", "masked_fill_", "where", "lerp", "pow")
_READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "_unique2", "is_nonzero")


@dataclass
class Card:
    """What the program did with the device.

    reads: operators that made the program wait for a value of the device, in order. copies: of whole tensors to the
    CPU. seeds: those its generator was given. synchronised: how often the program waited for all work.
    """

    autocast: Literal["cpu", "cuda"]
    reads: list[str] = field(default_factory=list)
    copies: int = 0
    seeds: list[int] = field(default_factory=list)
    synchronised: int = 0

    @property
    def waits(self) -> int:
        """How often the program waited for values."""
        return len(self.reads) + self.copies


_CARDS: list[Card] = []


class Pretended(Tensor):
    """A tensor of the device; `held` is where its values are, of which views share the memory."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        own = _CARDS[-1].autocast == "cuda"
        options: dict[str, Any] = {"dispatch_device": True, "device_for_backend_keys": DEVICE} if own else {}
        made: Pretended = Tensor._make_subclass(cls, held, False, **options)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on what is held."""
        if func is torch.ops.prim.device.default:
            return DEVICE
        return _run(func, args, kwargs or {})

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        """Number of the device."""
        return 0

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refused, as by CUDA."""
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    __array__ = numpy

    def tolist(self) -> Any:
        """Values, which the program waits for."""
        _CARDS[-1].reads.append("tolist")
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = made = Pretended(self.held.detach().clone()).requires_grad_(self.requires_grad)
            made._is_param = getattr(self, "_is_param", False)  # type: ignore[attr-defined]
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _on_device(value: Any) -> Any:
    return Pretended(value) if isinstance(value, Tensor) and not isinstance(value, Pretended) else value


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator with at least one tensor of the device."""
    name = func.overloadpacket.__name__
    if name == "_has_compatible_shallow_copy_type":
        return False
    _check(func, name, args, kwargs)
    if name in _READS:
        _CARDS[-1].reads.append(name)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name in ("_softmax", "_log_softmax") and args[2]:  # to float32 at once, which the CPU does in two steps
        args = (args[0].float(), args[1], False)
    ours = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Pretended)]
    known: dict[int, Tensor] = {id(leaf.held): leaf for leaf in ours}
    if name == "copy_":
        known[id(_held(args[0]))] = args[0]
    out = func(*tree_map(_held, list(args)), **tree_map(_held, dict(kwargs)))
    for leaf in ours:
        if leaf.shape != leaf.held.shape:
            raise NotImplementedError(f"{name}: a pretended tensor cannot change its own shape")
    return tree_map(lambda value: known[id(value)] if id(value) in known else _on_device(value), out)


def _read_masks(indices: Sequence[Any]) -> None:
    """How many values a mask chooses is known to the device alone."""
    for index in indices:
        if isinstance(index, Pretended) and index.dtype in (torch.bool, torch.uint8):
            _CARDS[-1].reads.append("mask")


def _check(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise what CUDA raises for tensors of both devices, and for generators of the CPU."""
    leaves = tree_leaves((args, kwargs))
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name == "copy_":
        return
    if name in _INDEXED:
        _read_masks(args[1])
        leaves = [args[0], *tree_leaves(args[2:])]
    plain = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Pretended)]
    elementwise = torch.Tag.pointwise in func.tags or name in _NUMBERS
    written = isinstance(args[0], Tensor) and not isinstance(args[0], Pretended) and name.endswith("_")
    if elementwise and not written and all(leaf.dim() == 0 for leaf in plain):
        return
    if torch._C._current_autograd_node() is not None and not any(leaf.any() for leaf in plain):
        return  # zeros that autograd makes where nothing came back; it takes the device for the CPU
    if plain:
        raise RuntimeError(_MIXED.format(func))


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Pretended(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].held


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Pretended) -> Tensor:
        _CARDS[-1].copies += 1
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return Pretended(gradients[0])


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == tensor.device.type:
        return tensor
    if device.type == "meta":
        return torch.empty_like(_held(tensor), device="meta")
    found: Tensor = _Up.apply(tensor) if device.type == "cuda" else _Down.apply(tensor)
    return found


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` in all its forms."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    copied = kwargs.pop("copy", False)
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    moved = tensor if device is None else _moved(tensor, torch.device(device))
    if copied and moved is tensor:
        moved = tensor.clone()
    if dtype is None and layout is None:
        return moved
    options = {} if layout is None else {"memory_format": layout}
    return Tensor.to(moved, moved.dtype if dtype is None else dtype, **options)


_GUARDED = (
    Tensor.__getitem__, Tensor.__setitem__, Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__,
    Tensor.copy_,
)  # fmt: skip
"""Methods that ask the driver for the tensor's device where that is said to be CUDA all the way down."""


def _guarded(func: Any, args: Sequence[Any]) -> Any:
    if func is Tensor.copy_:
        args[0].held.copy_(_held(args[1]))
        return args[0]
    if func not in _GUARDED[:2]:
        _CARDS[-1].reads.append(func.__name__)
    _read_masks(tree_leaves(args[1]) if func in _GUARDED[:2] else ())
    return _on_device(func(*tree_map(_held, list(args))))


def _attend(*args: Any, **kwargs: Any) -> Any:
    """Attention, whose parts would make masks on the device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not all(isinstance(leaf, Pretended) for leaf in tensors) and any(isinstance(x, Pretended) for x in tensors):
        raise RuntimeError(_MIXED.format("scaled_dot_product_attention"))
    half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None

    def cast(value: Any) -> Any:
        held = _held(value)
        return held.to(half) if half and isinstance(held, Tensor) and held.is_floating_point() else held

    found = F.scaled_dot_product_attention(*tree_map(cast, list(args)), **tree_map(cast, kwargs))
    return _on_device(found) if isinstance(tensors[0], Pretended) else found


class _Functions(TorchFunctionMode):
    """Sees every call of PyTorch's functions, to catch those that name a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of PyTorch."""
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func is Tensor.cpu:
            return _moved(args[0], torch.device("cpu"))
        if func is Tensor.cuda:
            return _moved(args[0], DEVICE)
        if func is F.scaled_dot_product_attention and _CARDS[-1].autocast == "cuda":
            return _attend(*args, **kwargs)
        if func in _GUARDED and _CARDS[-1].autocast == "cuda" and isinstance(args[0], Pretended):
            return _guarded(func, args)
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        wanted = torch.device(kwargs["device"])
        if wanted.type == "cuda":
            if kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            kwargs["device"] = torch.device("cpu")
            return tree_map(_on_device, func(*args, **kwargs))
        if any(isinstance(leaf, Pretended) for leaf in tree_leaves((args, kwargs))):
            _CARDS[-1].copies += 1
            args, kwargs = tree_map(_held, list(args)), tree_map(_held, kwargs)
        return func(*args, **kwargs)


class Event:
    """Times as the CPU's clock has them."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._timing, self._at = enable_timing, 0.0

    def record(self, stream: Any = None) -> None:
        """Now."""
        self._at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds; refused, as by CUDA, where either event takes no time."""
        if not (self._timing and end._timing and self._at and end._at):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True' and recorded")
        return 1000 * (end._at - self._at)


class _CpuAutocast(torch.amp.autocast_mode.autocast):
    """autocast("cuda") in the place of which the CPU's runs."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


class _UncachedAutocast(torch.amp.autocast_mode.autocast):
    """Autocast that keeps no casts of weights: those would have gradients even where none are wanted."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(device_type, *args, **{**kwargs, "cache_enabled": False})


def _grouped(lists: Any, with_indices: bool = False) -> Any:
    """Tensors of an optimizer by device and type."""
    found = _group_tensors_by_device_and_dtype(lists, with_indices)
    ours = {key: any(isinstance(t, Pretended) for t in tree_leaves(group[0])) for key, group in found.items()}
    return {(DEVICE if ours[key] else key[0], key[1]): group for key, group in found.items()}


def _without_gradients(mode: bool = True) -> Any:
    """In the place of inference_mode."""
    return torch.no_grad() if mode else torch.enable_grad()


def _run_backward(*args: Any, **kwargs: Any) -> Any:
    """Autograd's engine: what is computed again within makes tensors of the device too."""
    with _Functions():
        return _engine_run_backward(*args, **kwargs)


def _of_cpu(function: Any) -> Any:
    return lambda device_type="cpu": function("cpu" if device_type == "cuda" else device_type)


def _replacements(card: Card, capability: tuple[int, int]) -> dict[str, Any]:
    """Functions of torch.cuda."""
    numbers = torch.Generator()

    def synchronised(device: Any = None) -> None:
        card.synchronised += 1

    def seeded(seed: int) -> None:
        card.seeds.append(seed)

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_initialized": True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "synchronize": synchronised,
        "Event": Event,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda *_, **__: capability >= (8, 0),
        "max_memory_allocated": lambda device=None: 3 * 2**20,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "manual_seed": seeded,
        "manual_seed_all": seeded,
        "get_rng_state": lambda device="cuda": numbers.get_state(),
        "set_rng_state": lambda state, device="cuda": numbers.set_state(state) and None,
    }


@contextmanager
def pretended_cuda(autocast: Literal["cpu", "cuda"] = "cpu", *, capability: tuple[int, int] = (9, 0)) -> Iterator[Card]:
    """One CUDA device for what runs within; its tensors are of no use outside."""
    card = Card(autocast)
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in _replacements(card, capability).items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stream = SimpleNamespace(is_capturing=lambda: False)
        stack.enter_context(patch.object(torch.accelerator, "current_stream", lambda device=None: stream))
        stack.enter_context(
            patch.object(import_module("torch.optim.optimizer"), "_group_tensors_by_device_and_dtype", _grouped)
        )
        own = _CpuAutocast if autocast == "cpu" else _UncachedAutocast
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", _run_backward))
        stack.enter_context(patch.object(torch, "inference_mode", _without_gradients))
        stack.enter_context(patch.object(torch, "autocast", own))
        stack.enter_context(patch.object(torch.amp, "autocast", own))
        if autocast == "cpu":
            for name in ("is_autocast_enabled", "get_autocast_dtype"):
                stack.enter_context(patch.object(torch, name, _of_cpu(getattr(torch, name))))
        # a module's parameters stay the objects they are, as on a real device
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        _CARDS.append(card)
        stack.callback(_CARDS.pop)
        stack.enter_context(_Functions())
        yield card
