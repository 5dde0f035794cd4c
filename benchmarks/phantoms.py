"""Images per second of every phantom set, written as PNG: all processes against a plain loop in one process.

    python benchmarks/phantoms.py [--count 100] [--workers 2]

The plain loop draws the same images and saves them with Pillow's default settings, in the same run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from PIL import Image

from wordsight.data.phantoms import SETS, draw_phantom, write_phantoms


def plain_loop(name: str, count: int, folder: Path) -> float:
    """Images per second of drawing and saving one after the other, after one warm-up image."""
    draw_phantom(name, 0, 0, True)
    start = time.perf_counter()
    for index in range(count):
        phantom = draw_phantom(name, 1, index, index % 2 == 1)
        Image.fromarray(phantom.pixels).save(folder / f"{index}.png")
        if phantom.mask is not None and phantom.label:
            Image.fromarray(phantom.mask).save(folder / f"{index}-mask.png")
    return count / (time.perf_counter() - start)


def main() -> None:
    """Print one line per set and the total."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="images per class and set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'set':16s} {'plain loop':>12s}   images/s, {2 * options.count} images of 240 x 240")
        speeds = {}
        for chosen in SETS:
            (folder / chosen).mkdir()
            speeds[chosen] = plain_loop(chosen, options.count, folder / chosen)
            print(f"{chosen:16s} {speeds[chosen]:12.1f}")
        start = time.perf_counter()
        written = write_phantoms(folder / "all", valid=0, test=options.count, workers=options.workers)
        seconds = time.perf_counter() - start
        total = sum(written.values())
        loop = len(speeds) / sum(1 / speed for speed in speeds.values())
        print(f"{'all, plain loop':16s} {loop:12.1f}")
        print(f"write_phantoms, {options.workers} processes, start-up included: {total / seconds:.1f} images/s")
        print(f"ratio {total / seconds / loop:.2f}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
