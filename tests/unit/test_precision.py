"""Which number format "auto" means on which device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from wordsight.errors import SettingsError
from wordsight.models import precision
from wordsight.models.precision import choose_precision, has_amx_bf16, resolve_precision


@pytest.mark.parametrize(("amx", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_a_processor_needs_tiles_for_bf16(amx: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_bf16": True}, raising=False)
    assert choose_precision("cpu") == wanted
    assert resolve_precision("auto", torch.device("cpu")) == wanted


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_card_takes_bf16_since_ampere(
    capability: tuple[int, int], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("cuda") == wanted


def test_other_devices_compute_in_full() -> None:
    assert choose_precision("meta") == "fp32"


def test_flags_are_read_where_torch_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx512f amx_bf16\nprocessor : 1\nflags : fpu\n", encoding="utf-8")
    flags: Any = precision._processor_flags
    assert flags(path) == {"fpu", "avx512f", "amx_bf16"}
    assert flags(tmp_path / "none") == frozenset()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "_processor_flags", lambda: frozenset({"amx_bf16"}))
    assert has_amx_bf16()


def test_what_is_asked_for_is_given_or_refused() -> None:
    assert resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(SettingsError, match="precision fp16 needs a CUDA device, got cpu"):
        resolve_precision("fp16", "cpu")
    wrong: Any = "fp8"
    with pytest.raises(SettingsError, match="precision: expected fp32, bf16, fp16 or auto, got 'fp8'"):
        resolve_precision(wrong, "cpu")


def test_fp32_is_not_rounded_on_a_card_and_its_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    card, cudnn = torch.device("cuda"), torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with precision.autocast(card, "fp32"):
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32
    with precision.autocast(torch.device("cpu"), "fp32"):
        assert cudnn.allow_tf32


@pytest.mark.parametrize(
    ("device", "wanted", "rounded"), [("cuda", "bf16", True), ("cuda", "fp32", False), ("cpu", "bf16", False)]
)
def test_products_are_rounded_on_a_card_of_reduced_precision_alone(device: str, wanted: Any, rounded: bool) -> None:
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    with precision.rounded_products(torch.device(device), wanted):
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    assert torch.get_float32_matmul_precision() == before
