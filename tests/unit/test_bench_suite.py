"""The frame of the speed benchmarks: turns, ratios, agreement, memory of fresh processes, tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]
suite: Any = pytest.importorskip("suite", reason="the repository's benchmarks are not beside the tests")

CPU = torch.device("cpu")
SCRIPT = """
from suite import Case, Variant, run_suite, suite_parser
import torch

def small():
    return lambda: torch.ones(3)

def large():
    kept = torch.ones(30_000_000)
    return lambda: kept[:3]

options = suite_parser(__doc__).parse_args()
variants = [Variant("small", small), Variant("large", large, items=2, same_as="small", limit=1e-3, note="two")]
run_suite([Case("work", variants, baseline="small", unit="thing")], options, __file__)
"""


def fixed(value: Tensor | None) -> Any:
    return lambda: lambda: value


def timing(name: str, *seconds: float, error: float | None = None) -> Any:
    return suite.Timing(name, seconds, None, error, 1e-4)


def test_rounds_run_all_variants_in_turn() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ABC"}
    seconds = suite.interleaved(calls, 3, CPU)
    assert order == list("ABCABCABC")
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3, "C": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_ratios_are_taken_within_rounds() -> None:
    result = suite.Result("t", "A", "image", (timing("A", 1.0, 10.0, 2.0), timing("B", 2.0, 30.0, 3.0)))
    assert result.ratio("B") == (2.0, 1.5, 3.0)
    assert result.ratio("A", to="B") == pytest.approx((0.5, 1 / 3, 2 / 3))
    assert result.to_json()["variants"]["B"]["median"] == 3.0


def test_difference_is_relative_and_over_common_rows() -> None:
    ours, theirs = torch.tensor([3.0, 4.0, 7.0]), torch.tensor([3.0, 4.5])
    assert suite.difference(ours, theirs) == pytest.approx(0.5 / theirs.norm().item())
    assert suite.difference(ours, None) is None
    assert suite.difference(ours[:, None], theirs) == float("inf")


def test_values_beyond_the_limit_are_wrong_and_so_is_nan() -> None:
    timings = (timing("A", 1.0), timing("B", 1.0, error=1e-3), timing("C", 1.0, error=float("nan")))
    assert suite.Result("t", "A", "image", timings).wrong() == ["B", "C"]


def test_a_case_knows_its_variants() -> None:
    with pytest.raises(ValueError, match="expected \\['other'\\] among different variants, got \\['A'\\]"):
        suite.Case("t", [suite.Variant("A", fixed(None))], baseline="other")
    with pytest.raises(ValueError, match="different variants"):
        suite.Case("t", [suite.Variant("A", fixed(None))] * 2, baseline="A")


def test_a_script_prints_tables_writes_json_and_measures_each_variant_alone(tmp_path: Path) -> None:
    script, numbers = tmp_path / "script.py", tmp_path / "numbers.json"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT / 'src'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "--threads", "1", "--repeats", "2", "--json", str(numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0].startswith("| work | ms per thing | things/s | time in small |")
    assert rows[3].startswith("| large (two) | ")
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert set(found["machine"]) == {"processor", "cores", "threads", "torch", "python"}
    small, large = (found["results"][0]["variants"][name] for name in ("small", "large"))
    assert len(small["seconds"]) == 2
    assert small["ratio"] == [1.0, 1.0, 1.0]
    assert large["error"] == 0.0
    assert 80 < large["memory_mib"] - small["memory_mib"] < 200  # 30 million float32 are 114 MiB


def test_variants_that_disagree_end_the_script_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    ones = torch.ones(2)
    variants = [suite.Variant("A", fixed(ones)), suite.Variant("B", fixed(1.01 * ones), same_as="A", limit=1e-3)]
    options = suite.suite_parser(None).parse_args(["--no-memory", "--repeats", "1"])
    options.threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match="values differ by more than the limit: work: B"):
        suite.run_suite([suite.Case("work", variants, baseline="A")], options, __file__)
    assert "| B | " in capsys.readouterr().out
