"""The full-size network end to end through the command line: ViT-L/14@336 at 240 px on the CPU, a handful of images.

`python benchmarks/full_size.py` writes OpenAI-sized weights filled by rule (real ones cannot be shipped), draws a few
phantoms, trains one epoch, evaluates and predicts with the `wordsight` command, and prints what each step took.
The weights are noise: the scores mean nothing, but the same commands take the real file.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP
from safetensors.torch import save_file

from wordsight.data.phantoms import write_phantoms


def rule_weights(path: Path, architecture: str = "ViT-L-14-336") -> int:
    """Every tensor from a generator seeded by its name, scaled like an initialisation; returns how many weights."""
    config = get_model_config(architecture)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in CLIP(**config).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) < 2:
            values = 1 + 0.1 * values if name.endswith("weight") else 0.02 * values
        else:
            values *= 0.02 if "embedding" in name else float(np.prod(shape[1:])) ** -0.5
        tensors[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    save_file(tensors, path)
    return sum(t.numel() for t in tensors.values())


def timed(*arguments: str) -> None:
    """Run one command; say what it took, in seconds and at its peak in memory."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "wordsight.cli.main", *arguments], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"== wordsight {arguments[0]}: {time.monotonic() - start:.0f} s, {peak:.1f} GiB peak", flush=True)


def main() -> None:
    """All steps in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["default", "published", "corrected"], default="published")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--images", type=int, default=2, help="test images per class")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = rule_weights(folder / "vit-l.safetensors")
        print(f"== {count:,} weights filled by rule")
        write_phantoms(folder / "data", names=["Brain"], valid=3, test=options.images, seed=0, workers=1)
        run = str(folder / "run")
        timed(
            *("train", "mla", "--data", str(folder / "data"), "--target", "Brain", "--shots", str(options.shots)),
            *("--architecture", "ViT-L-14-336", "--weights", str(folder / "vit-l.safetensors")),
            *("--profile", options.profile, "--epochs", "1", "--out", run, "--no-evaluate"),
        )
        timed("evaluate", run, "--data", str(folder / "data"))
        picture = sorted((folder / "data" / "Brain_AD" / "test" / "Ungood" / "img").iterdir())[0]
        timed("predict", str(picture), "--model", run, "--out", str(folder / "predictions"))


if __name__ == "__main__":
    main()
