"""The frame of the speed benchmarks: variants of one work timed in turns, their memory, whether they agree, one table.

A script describes cases, each a few variants of the same work, and hands them to `run_suite`:

    options = suite_parser(__doc__).parse_args()
    bare = Variant("bare", build_bare, items=32)            # build_bare() prepares and returns the call that is timed
    ours = Variant("library", build_ours, items=32, same_as="bare", limit=1e-4)
    run_suite([Case("scores of 32 images", [bare, ours], baseline="bare")], options, __file__)

Rounds go A B C A B C ..., after one warm-up of each, so that whatever else the machine does falls on all alike; a ratio
is taken within each round, and what is printed is the median and the range. Memory is the highest resident one of a
fresh process that runs one variant alone (the script calls itself with --only), on CUDA the most that torch allocated
there in such a process. On CUDA times are taken between two events, after which all work is waited for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from wordsight.files import write_json

Call = Callable[[], Tensor | None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to do the work of a case.

    build: prepares it and returns the call that is timed; the call returns what is compared, or None. items: how many
    things (images, prompts) a call does; times are per item. same_as: the variant whose first values it must equal, up
    to norm(difference) / norm <= limit. note: said in the table, such as "8 of 32 images".
    """

    name: str
    build: Callable[[], Call]
    items: int = 1
    same_as: str | None = None
    limit: float = 1e-4
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """Variants that are timed against each other; baseline: the one that ratios refer to. unit: of an item."""

    title: str
    variants: Sequence[Variant]
    baseline: str
    unit: str = "image"

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        wanted = {self.baseline, *(variant.same_as for variant in self.variants if variant.same_as)}
        if len(set(names)) < len(names) or not wanted <= set(names):
            raise ValueError(f"{self.title}: expected {sorted(wanted)} among different variants, got {names}")


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of a variant: seconds per item of each round, in order; memory in MiB; error of the values."""

    name: str
    seconds: tuple[float, ...]
    memory: float | None = None
    error: float | None = None
    limit: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """Timings of a case."""

    title: str
    baseline: str
    unit: str
    timings: tuple[Timing, ...]

    def timing(self, name: str) -> Timing:
        """Of the variant with this name."""
        return next(timing for timing in self.timings if timing.name == name)

    def ratio(self, name: str, to: str | None = None) -> tuple[float, float, float]:
        """(median, smallest, largest) over the rounds of the time per item in that of `to` (None: the baseline)."""
        base = self.timing(to or self.baseline).seconds
        found = [own / other for own, other in zip(self.timing(name).seconds, base, strict=True)]
        return median(found), min(found), max(found)

    def wrong(self) -> list[str]:
        """Variants whose values differ by more than their limit."""
        return [t.name for t in self.timings if t.error is not None and t.limit is not None and not t.error <= t.limit]

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds per item of every round."""
        rows = {
            t.name: {
                "seconds": list(t.seconds),
                "median": median(t.seconds),
                "ratio": list(self.ratio(t.name)),
                "memory_mib": t.memory,
                "error": t.error,
                "note": t.note,
            }
            for t in self.timings
        }
        return {"title": self.title, "baseline": self.baseline, "unit": self.unit, "variants": rows}


def suite_parser(description: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that all speed benchmarks share; scripts add their own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of linear algebra on the CPU")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds after the warm-up")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--quick", action="store_true", help="small networks and few items: whether it runs")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes that measure memory")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    return parser


def run_suite(cases: Sequence[Case], options: argparse.Namespace, script: str | Path) -> list[Result]:
    """Measure all cases, print a Markdown table of each and write --json; script: `__file__` of the caller.

    In a process that measures memory (--only) it runs that variant, prints its peak and returns nothing. Exits with
    status 1 after the tables if values of variants differ by more than their limits.
    """
    device = chosen_device(options)
    with torch.inference_mode():
        if options.only:
            print(json.dumps(_alone(cases, options.only, device)))
            return []
        results = []
        for case in cases:
            results.append(_measure(case, options, device, Path(script)))
            print(table(results[-1]), flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(device), "results": [result.to_json() for result in results]})
    print(f"\n{', '.join(f'{name} {value}' for name, value in machine(device).items())}", flush=True)
    wrong = [f"{result.title}: {name}" for result in results for name in result.wrong()]
    if wrong:
        sys.exit(f"values differ by more than the limit: {'; '.join(wrong)}")
    return results


def chosen_device(options: argparse.Namespace) -> torch.device:
    """The device of the command line, ready to be measured; on CUDA fp32 is fp32.

    PyTorch lets convolutions round their factors to 10 bits there, which is no format of this package, and by more than
    what variants may differ.
    """
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # where events are recorded
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def _measure(case: Case, options: argparse.Namespace, device: torch.device, script: Path) -> Result:
    """Warm-up, agreement, rounds, memory."""
    calls = {variant.name: variant.build() for variant in case.variants}
    values = {name: call() for name, call in calls.items()}
    errors = {v.name: difference(values[v.name], values[v.same_as]) for v in case.variants if v.same_as}
    del values
    rounds = interleaved(calls, options.repeats, device)
    del calls
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # room for the fresh processes
    timings = []
    for variant in case.variants:
        memory = None if options.no_memory else _memory_of(case.title, variant.name, script)
        seconds = tuple(value / variant.items for value in rounds[variant.name])
        limit = variant.limit if variant.same_as else None
        timings.append(Timing(variant.name, seconds, memory, errors.get(variant.name), limit, variant.note))
    return Result(case.title, case.baseline, case.unit, tuple(timings))


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round runs all of them in order."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(repeats, 1)):
        for name, call in calls.items():
            seconds[name].append(timed(call, device))
    return seconds


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call; on CUDA between two events, with all work done."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1000


def difference(ours: Tensor | None, theirs: Tensor | None) -> float | None:
    """norm(ours - theirs) / norm(theirs) over the rows that both have; None if one has no values.

    A variant that does fewer items is compared on those. Infinite for other shapes.
    """
    if ours is None or theirs is None:
        return None
    rows = min(len(ours), len(theirs))
    ours, theirs = ours[:rows].double().cpu(), theirs[:rows].double().cpu()
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def _alone(cases: Sequence[Case], only: Sequence[str], device: torch.device) -> dict[str, float]:
    """Run one variant of one case in this process; its highest memory, in MiB."""
    title, name = only
    variant = next(v for case in cases if case.title == title for v in case.variants if v.name == name)
    variant.build()()
    return {"memory": peak_memory(device)}


def peak_memory(device: torch.device) -> float:
    """MiB: on CUDA the most that torch allocated since the process began, else `resident_peak`."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else resident_peak()


def resident_peak() -> float:
    """The most memory that this process had resident so far, in MiB.

    Linux counts what a process was before it became this program into ru_maxrss, but not into VmHWM.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_of(title: str, name: str, script: Path) -> float:
    """`_alone` in a new process, with the same options."""
    command = [sys.executable, str(script), *sys.argv[1:], "--only", title, name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["memory"])


def table(result: Result) -> str:
    """A Markdown table: milliseconds per item, items per second, ratio to the baseline, memory, error."""
    unit = result.unit
    head = f"| {result.title} | ms per {unit} | {unit}s/s | time in {result.baseline} | range | peak MiB | error |"
    lines = ["", head, "|---|---|---|---|---|---|---|"]
    for t in result.timings:
        middle, (ratio, low, high) = median(t.seconds), result.ratio(t.name)
        memory = "" if t.memory is None else f"{t.memory:.0f}"
        error = "" if t.error is None else f"{t.error:.1e}"
        name = f"{t.name} ({t.note})" if t.note else t.name
        row = [name, f"{1000 * middle:.2f}", f"{1 / middle:.2f}", f"{ratio:.3f}", f"{low:.3f} to {high:.3f}"]
        lines.append(f"| {' | '.join([*row, memory, error])} |")
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, str]:
    """What the numbers depend on; no names of hosts or paths."""
    found = {
        "processor": processor_name(),
        "cores": str(usable_cores()),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    return found


def processor_name() -> str:
    """The processor's name as the operating system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
