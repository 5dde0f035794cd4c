"""Train the tiny CLIP of this package: `python scripts/train_tiny_clip.py --out src/wordsight/models/mla/tiny`.

What it learns from: synthetic images without abnormalities (streams of seed 1,000,000 that evaluations do not use),
their captions about anatomy and acquisition, and generic marks that the script pastes. It never sees a lesion of the
phantoms, and no caption says whether an image is normal.

Losses: the symmetric contrastive loss of CLIP (Radford et al., ICML 2021) between class token and caption; from the
patch tokens after every block: marked patches lie far from all patches of other images (the distance of PatchCore,
Roth et al., CVPR 2022); where something was pasted (in the manner of CutPaste, Li et al., CVPR 2021, and DRAEM,
Zavrtanik et al., ICCV 2021), alone and against the same image unmarked; the unmarked picture, also of hidden patches
(as in MAE, He et al., CVPR 2022); and brightness and texture energies of a patch and its neighbourhood. Heads are
dropped.
The bundle is for trying, testing and teaching; it knows nothing of patients.
"""

from __future__ import annotations

import argparse
import gzip
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tiny_clip_network import Heads, config, losses, start
from tiny_clip_pictures import FIRST_SEED, SIZE, Batch, Pool, make_batch, vocabulary
from wordsight.files import atomic_path, write_json
from wordsight.models.mla.backbone import ClipTokenizer, load_clip, save_clip_bundle
from wordsight.models.mla.prompts import LearnedPrompts, ensemble_features
from wordsight.progress import progress
from wordsight.text import states

LIMIT = 8 * 2**20
MERGES = 900
NOTE = "Trained on phantoms alone: knows nothing of patients; for trying, testing and teaching."
WEIGHTS = {"clip": 0.1, "where": 0.1, "pairs": 1.0, "what": 0.1, "around": 0.3, "near": 4.0}
EASY = 400  # steps until marks may be faint
Merges = list[tuple[str, str]]


def learn_merges(words: Iterable[str], most: int) -> Merges:
    """Byte-pair merges (Sennrich et al., ACL 2016) of lower-case words of a-z, most frequent first."""
    known = {(*word[:-1], word[-1] + "</w>"): n for word, n in Counter(words).items() if re.fullmatch("[a-z]+", word)}
    merges: Merges = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, n in known.items():
            for pair in pairwise(parts):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        known = {_merged(parts, best): n for parts, n in known.items()}
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def words_of_package() -> list[str]:
    """State words and the English of the sentence ensemble, so that prompts are short."""
    texts = (*states.NORMAL_WORDS, *states.ABNORMAL_WORDS, *states.ENSEMBLE_NORMAL, *states.ENSEMBLE_ABNORMAL)
    return re.findall("[a-z]+", " ".join([*texts, *states.ENSEMBLE_SENTENCES]).lower())


class Batches(Dataset[Batch]):
    """Batch number `i` on demand."""

    def __init__(self, pool: Pool, seed: int, steps: int, count: int) -> None:
        self.pool, self.seed, self.steps, self.count = pool, seed, steps, count
        self.first = 0

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, i: int) -> Batch:
        if i >= len(self):
            raise IndexError(i)
        step = self.first + i
        return make_batch(self.pool, self.seed, step, self.count, max(1 - step / EASY, 0))


def rate(step: int, total: int, peak: float) -> float:
    """Learning rate: linear rise over the first 5 % (at most 200 steps), then half a cosine down to 2 %."""
    rise = min(max(total // 20, 1), 200)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1))))


class Training:
    """Network, heads and optimizer, and the state that survives an interruption."""

    def __init__(self, merges: Merges, tokenizer: ClipTokenizer, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        settings = config(len(merges))
        self.model: Any = CLIP(**settings)
        self.heads = Heads(settings["vision_cfg"]["layers"], settings["vision_cfg"]["width"])
        self.merges, self.tokenizer, self.options = merges, tokenizer, options
        groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.05}, {"params": [], "weight_decay": 0.0}]
        for parameter in (*self.model.parameters(), *self.heads.parameters()):
            groups[parameter.ndim < 2]["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), fused=True)
        self.done = 0
        self.seconds = 0.0

    def run(self, data: Batches, state: Path) -> None:
        """Train to the end, saving the state every minute or so."""
        self.resume(state)
        data.first, total = self.done, data.steps
        loader = DataLoader(data, batch_size=None, num_workers=self.options.workers, prefetch_factor=4)
        start = saved = time.monotonic()
        means: Counter[str] = Counter()
        with progress("training", total, "steps") as bar:
            bar.advance(self.done)
            for batch in loader:
                for name, value in self.step(batch, rate(self.done, total, self.options.rate)).items():
                    means[name] += value
                bar.advance()
                now = time.monotonic()
                if self.done % self.options.say == 0:
                    text = " ".join(f"{name} {value / self.options.say:.4f}" for name, value in means.items())
                    print(f"step {self.done}/{total} {now - start + self.seconds:.0f} s {text}", flush=True)
                    means.clear()
                if now - saved > 60:
                    self._save(state, now - start)
                    saved = now
        self.seconds += time.monotonic() - start

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        """One update."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        parts = losses(self.model, self.heads, batch, self.tokenizer(batch.captions), self.done % 2 == 0)
        self.optimizer.zero_grad(set_to_none=True)
        total = sum(WEIGHTS[name] * value for name, value in parts.items())
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        self.done += 1
        return {name: float(value.detach()) for name, value in parts.items()}

    def _save(self, path: Path, seconds: float) -> None:
        content = {
            "done": self.done,
            "seconds": self.seconds + seconds,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "merges": self.merges,
            "options": key_of(self.options),
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def resume(self, path: Path) -> None:
        """Go on where an interrupted training of the same options stopped."""
        if not path.exists():
            return
        content = torch.load(path, weights_only=True)
        if content["options"] != key_of(self.options):
            print(f"{path}: state of a training with other options, starting anew")
            return
        self.model.load_state_dict(content["model"])
        self.heads.load_state_dict(content["heads"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.done, self.seconds = content["done"], content["seconds"]


def key_of(options: argparse.Namespace) -> dict[str, Any]:
    """Options that decide what is learned."""
    return {name: getattr(options, name) for name in ("seed", "images", "steps", "batch", "rate")}


def write_bundle(folder: Path, training: Training) -> None:
    """Weights (fp16), configuration, merges and the card; then load it as users do."""
    options, merges = training.options, training.merges
    save_clip_bundle(folder, config(len(merges)), training.model.state_dict(), merges)
    write_json(
        folder / "card.json",
        {
            "name": "tiny",
            "note": NOTE,
            "data": f"{options.images} phantoms of each of the six sets without abnormalities, seed {options.seed}",
            "captions": "anatomy, acquisition and pasted generic marks; never whether an image is abnormal",
            "losses": "CLIP contrastive; per patch: pasted marks far from other images, marks found, picture, texture "
            "(heads dropped)",
            "steps": {"done": training.done, "planned": options.steps, "batch": options.batch},
            "parameters": sum(p.numel() for p in training.model.parameters()),
            "seconds": round(training.seconds),
            "made_by": "scripts/train_tiny_clip.py",
            "licence": "Apache-2.0",
        },
    )
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if size > LIMIT:
        raise SystemExit(f"{folder}: expected at most {LIMIT} bytes, got {size}. Make the network smaller.")
    clip = load_clip(folder, None, image_size=SIZE)
    LearnedPrompts(clip, 8)
    ensemble_features(clip, "histopathological image")
    print(f"{folder}: {size / 2**20:.2f} MiB, {training.seconds:.0f} s of training, hash {clip.weights_hash[:16]}")


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--state", type=Path, help="resumable state (default: beside --out)")
    parser.add_argument("--write-now", action="store_true", help="write the bundle of the state as it is and stop")
    parser.add_argument("--images", type=int, default=400, help="phantoms per set")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument(
        "--batch", type=int, default=6, help="images per step, all of one set, each marked and unmarked"
    )
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help=f"of everything, at least {FIRST_SEED}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    parser.add_argument("--say", type=int, default=50, help="print losses every so many steps")
    options = parser.parse_args(argv)
    if options.seed < FIRST_SEED:
        parser.error(f"--seed: expected at least {FIRST_SEED}, which evaluations do not use, got {options.seed}")
    return options


def tokenizer_of(merges: Merges) -> ClipTokenizer:
    """A tokenizer before there is a bundle."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merges.txt.gz"
        path.write_bytes(gzip.compress("\n".join(["#", *(" ".join(pair) for pair in merges)]).encode()))
        return ClipTokenizer(32, path)


def main() -> None:
    """Draw, train, write."""
    options = options_of()
    torch.set_num_threads(options.threads)
    state = options.state or options.out.with_name(options.out.name + "-state.pt")
    if options.write_now:
        merges = [(left, right) for left, right in torch.load(state, weights_only=True)["merges"]]
        training = Training(merges, tokenizer_of(merges), options)
        training.resume(state)
    else:
        pool = Pool.draw(options.images, options.seed)
        merges = learn_merges([*vocabulary(pool, options.seed), *words_of_package()], MERGES)
        training = Training(merges, tokenizer_of(merges), options)
        start(training.model, pool, options.seed)
        training.run(Batches(pool, options.seed, options.steps, options.batch), state)
    write_bundle(options.out, training)


if __name__ == "__main__":
    main()
