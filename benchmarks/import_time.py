"""Seconds that a fresh interpreter takes to import wordsight, beside one that does nothing; the goal is below 0.5 s.

    python benchmarks/import_time.py [--rounds 9]

The variants take turns, after one round that fills the caches of the disk; a median of processor seconds (user and
system) and of wall seconds is printed, since a busy machine stretches only the second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

VARIANTS = {
    "nothing": "pass",
    "import wordsight": "import wordsight",
    "wordsight --version": "from wordsight.cli.main import main; main(['--version'])",
    "wordsight predict --help": "from wordsight.cli.main import main; main(['predict', '--help'])",
}


def seconds(code: str) -> tuple[float, float]:
    """(processor, wall) seconds of a fresh interpreter that runs the code."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def main() -> None:
    """Print one line per variant, and by how much importing is more than nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name, code in VARIANTS.items():
            found = seconds(code)
            if number:
                taken[name].append(found)
    print(f"{'a fresh interpreter':26s} {'processor s':>12s} {'wall s':>8s}   median of {rounds}")
    middle = {name: tuple(median(column) for column in zip(*values, strict=True)) for name, values in taken.items()}
    for name, (processor, wall) in middle.items():
        print(f"{name:26s} {processor:12.3f} {wall:8.3f}")
    more = middle["import wordsight"][0] - middle["nothing"][0]
    print(f"importing takes {more:.3f} processor s more than nothing; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
