"""The speed benchmark of MLA-LP runs on a small network, and its variants agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    import mla_speed

    yield mla_speed
    torch.set_num_threads(threads)


def test_all_variants_run_and_agree(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "speed.json"
    quick = ["--quick", "--threads", "1", "--steps", "3", "--images", "2", "--repeats", "1", "--no-memory"]
    monkeypatch.setattr(sys, "argv", ["mla_speed.py", *quick, "--json", str(out)])
    script.main()
    training, evaluation = json.loads(out.read_text())["results"]
    assert set(training["variants"]) == {"published order", "library", "recipe default", "recipe fast"}
    assert 0 < training["variants"]["library"]["error"] <= 1e-5
    assert 0 < evaluation["variants"]["library"]["error"] <= 1e-3
    assert evaluation["baseline"] == "bare forward and bank product"


def test_another_network_does_not_agree(script: ModuleType) -> None:
    """The limits can be missed: with another share of the adapters in the stream, losses and maps are others."""
    from suite import difference

    work = script.Work(
        replace(script.MlaSettings(), image_size=84, levels=(2, 4, 6, 8)), 2, 407, 1, torch.device("cpu"), True
    )
    other = replace(work, settings=replace(work.settings, mix=0.2))
    for case, limit in ((script.training_case, 1e-5), (script.evaluation_case, 1e-3)):
        published, library = case(work).variants[0].build(), case(other).variants[1].build()
        with torch.inference_mode():
            assert difference(library(), published()) > limit
