"""The pretended CUDA device of the tests: it refuses what CUDA refuses, and computes what the CPU computes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretend_cuda import Card, Pretended, pretended_cuda

VALUES = torch.arange(12.0).view(3, 4)


@pytest.fixture
def card() -> Iterator[Card]:
    with pretended_cuda() as found:
        yield found


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3), nn.GELU())


def test_tensors_go_there_and_come_back(card: Card) -> None:
    there = VALUES.to("cuda")
    assert isinstance(there, Pretended)
    assert there.is_cuda
    for other in (there, VALUES.cuda(), torch.zeros(3, device="cuda"), there.new_ones(2), VALUES.to(there)):
        assert other.device == torch.device("cuda", 0)
    assert torch.zeros(3).device.type == "cpu"
    assert there.to("cuda") is there
    assert card.copies == 0
    back = there.to("cpu", torch.float64)
    assert not isinstance(back, Pretended)
    assert torch.equal(back, VALUES.double())
    assert there[1, 2].item() == 6.0
    assert there.tolist() == VALUES.tolist()
    assert there[there > 9].shape == (2,)
    assert (card.copies, card.reads) == (1, ["_local_scalar_dense", "tolist", "mask"])
    assert card.waits == 4


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: F.linear(x, y),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.mm(x, x.T, out=torch.empty(3, 3)),
        lambda x, y: x.add_(y),
        lambda x, y: torch.zeros(()).add_(x[0, 0]),
        lambda x, y: F.embedding(torch.tensor([1]), x),
        lambda x, y: torch.where(y > 3, x, 0.0),
        lambda x, y: x.index_put((torch.tensor([0]),), y[0]),
    ],
)
def test_devices_do_not_mix(card: Card, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix(VALUES.cuda(), VALUES)


def test_what_may_mix(card: Card) -> None:
    there = VALUES.cuda()
    assert torch.equal((there * torch.tensor(2.0)).cpu(), 2 * VALUES)
    assert torch.equal(there[torch.tensor([2, 0])].cpu(), VALUES[[2, 0]])
    there.copy_(VALUES + 1)
    assert torch.equal(torch.zeros(3, 4).copy_(there), VALUES + 1)


def test_numpy_and_generators_are_refused(card: Card) -> None:
    there = VALUES.cuda()
    for refused in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu\(\)"):
            refused()
    for drawn in (lambda g: torch.randn(3, device="cuda", generator=g), lambda g: there.normal_(generator=g)):
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
            drawn(torch.Generator())
    assert torch.randn(3, device="cuda").device.type == "cuda"


@pytest.mark.parametrize("autocast", ["cpu", "cuda"])
def test_views_share_memory(autocast: str) -> None:
    with pretended_cuda(autocast) as _:  # type: ignore[arg-type]
        there, here = VALUES.cuda(), VALUES.clone()
        for x in (there, here):
            row = x[1]
            row += 1
            x.view(-1)[0] = 5
            x.T[3].mul_(2)
            x.unbind(1)[2].zero_()
            x[:, 1] = x[0, 3]
            x[x > 9] = float(x[0, 0])
        assert torch.equal(there.cpu(), here)
    assert torch.equal(VALUES, torch.arange(12.0).view(3, 4))


def test_training_is_that_of_the_cpu(card: Card) -> None:
    for fused in (False, True):
        ours, plain = network(), network()
        first = ours[0].weight
        ours.to("cuda")
        assert ours[0].weight is first
        assert isinstance(first, Pretended)
        for net, images in ((ours, VALUES.cuda()[None]), (plain, VALUES[None])):
            adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=fused)
            for step in range(3):
                adam.zero_grad()
                out = checkpoint(net, images, use_reentrant=False) if step else net(images)
                (out[:, 0] - out.chunk(2, dim=2)[0][:, 1, :1]).square().mean().backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                adam.step()
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.cpu(), b)
        assert not torch.equal(plain[0].weight, network()[0].weight)


def test_what_is_computed_again_may_make_tensors_there(card: Card) -> None:
    there = VALUES.cuda().requires_grad_()
    checkpoint(lambda x: x * torch.full((4,), 3.0, device="cuda"), there, use_reentrant=False).square().sum().backward()
    assert torch.equal(there.grad.cpu(), 18 * VALUES)


def test_copies_and_files(card: Card, tmp_path: Path) -> None:
    net = network().to("cuda")
    twin = copy.deepcopy(net)
    assert isinstance(twin[0].weight, nn.Parameter)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert net[0].weight.any()
    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    stream.seek(0)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    for read in (torch.load(stream, map_location="cpu", weights_only=True), load_file(tmp_path / "net.safetensors")):
        assert torch.equal(read["0.weight"], network()[0].weight)
        twin.load_state_dict(read)
        assert torch.equal(twin[0].weight.cpu(), net[0].weight.cpu())


def test_autocast_with_the_list_of_either_device() -> None:
    formats = {}
    for device in ("cpu", "cuda"):
        with pretended_cuda(device) as _, torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):  # type: ignore[arg-type]
            net = network().to("cuda")
            product = net[0](VALUES.cuda())
            formats[device] = (product.dtype, net[1](product).dtype, torch.is_autocast_enabled("cuda"))
    assert formats == {"cpu": (torch.bfloat16, torch.bfloat16, True), "cuda": (torch.bfloat16, torch.float32, True)}


def test_nothing_is_left_behind() -> None:
    before = torch.autocast, torch.cuda.synchronize, torch.__future__.get_swap_module_params_on_conversion()
    with pretended_cuda(capability=(7, 5)) as card:
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_capability() == (7, 5)
        torch.cuda.synchronize()
        torch.manual_seed(3)
    assert (card.synchronised, card.seeds) == (1, [3])
    assert before == (torch.autocast, torch.cuda.synchronize, torch.__future__.get_swap_module_params_on_conversion())
