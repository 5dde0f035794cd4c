"""MLA-LP on phantoms with the packaged tiny backbone: few-shot and zero-shot tables in one command.

`python benchmarks/phantoms_mla.py --json phantoms.json` draws the six sets, trains one detector per set and support
draw, and one per set on the five others (zero-shot), evaluates each on the test split and prints mean and standard
deviation. Rows are written as they are done; a second call goes on where the first stopped. Trainings are the
profile's own, but for what the command line says, `--zero-epochs` and an honest selection for "published".
Phantoms know nothing of patients: these numbers say that the method works, not how well it works on real images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from wordsight.data import benchmark_records, hash_records, held_out, published_support
from wordsight.data.phantoms import SETS, write_phantoms
from wordsight.evaluate import evaluate
from wordsight.files import write_json
from wordsight.models.mla.detector import MlaLp, quarter_levels
from wordsight.train.mla import MlaTraining, fit_few, fit_zero
from wordsight.train.recipes import Profile, recipe

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to run: the phantoms, the detector and its training."""

    data: Path
    backbone: str
    profile: Profile
    shots: int
    changes: Row
    zero_epochs: int

    def detector(self) -> MlaLp:
        """An untrained detector on the backbone, with the profile's settings."""
        settings, _ = recipe(self.profile, "mla", self.shots, self.backbone)
        levels = quarter_levels(MlaLp.from_clip(self.backbone).clip.vision_layers)
        return MlaLp.from_clip(self.backbone, settings=replace(settings, levels=levels))

    def training(self, shots: int) -> MlaTraining:
        """The profile's training with an honest selection, and what the command line changes."""
        _, training = recipe(self.profile, "mla", shots, self.backbone)
        if self.profile == "published":
            training = replace(training, protocol="validation", mask_rule="any", evaluate_when="after_epoch")
        epochs = {} if shots else {"epochs": self.zero_epochs, "evaluate_every": 1}
        return replace(training, **{**self.changes, **epochs})

    def protocol(self) -> Row:
        """Everything that a row's numbers depend on, as plain values."""
        clip = self.detector().clip
        described = json.loads((self.data / "phantoms.json").read_text(encoding="utf-8"))
        values = {
            "phantoms": {k: described[k] for k in ("seed", "counts", "version")},
            "backbone": clip.weights_hash[:16],
            "profile": self.profile,
            "settings": self.detector().settings.to_json(),
            "shots": self.shots,
            "training": self.training(self.shots).to_json(),
            "zero_training": self.training(0).to_json(),
        }
        return dict(json.loads(json.dumps(values)))  # tuples become lists, as in the file

    def few(self, name: str, draw: int) -> MlaLp:
        """Few-shot: the k + k images of a draw; the rest of the valid split selects the epoch."""
        valid = benchmark_records(self.data, name, "valid")
        support = published_support(self.data, name, self.shots, draw, valid)
        rest = held_out(valid, support)
        return fit_few(self.detector(), support, training=self.training(self.shots), selection=rest, dataset=name)

    def zero(self, name: str) -> MlaLp:
        """Zero-shot: trained on the other sets' test splits, the epoch selected on their valid splits."""
        sources = {
            other: (benchmark_records(self.data, other, "test"), benchmark_records(self.data, other, "valid"))
            for other in SETS
            if other != name
        }
        return fit_zero(self.detector(), sources, training=self.training(0), dataset=name)

    def row(self, kind: str, name: str, draw: int) -> Row:
        """Train, evaluate on the test split, and say how it went."""
        start = time.monotonic()
        detector = self.few(name, draw) if kind == "few" else self.zero(name)
        trained = time.monotonic()
        records = benchmark_records(self.data, name, "test")
        result = evaluate(
            detector, records, dataset=name, protocol=detector_protocol(detector), bootstrap_draws=0, progress=False
        )
        numbers = {k: (None if np.isnan(n.value) else round(float(n.value), 5)) for k, n in result.numbers.items()}
        return {
            "kind": kind,
            "set": name,
            "draw": draw,
            "numbers": numbers,
            "epoch": detector.info.get("epoch"),
            "train_seconds": round(trained - start, 1),
            "test_seconds": round(time.monotonic() - trained, 1),
            "data": hash_records(records),
        }


def detector_protocol(detector: MlaLp) -> dict[str, str]:
    """How the epoch was chosen and what set the score scale."""
    return {"selection": str(detector.info.get("selected")), "scale": detector.scale.origin}


def read_rows(path: Path, protocol: Row) -> list[Row]:
    """Rows that an earlier call wrote under the same protocol."""
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["protocol"] != protocol:
        changed = [key for key in protocol if content["protocol"].get(key) != protocol[key]]
        raise SystemExit(f"{path}: holds rows of another protocol ({', '.join(changed)}). Name another --json file.")
    return list(content["rows"])


def spread(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation in per cent, or a dash."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "      -     "
    deviation = f" ± {np.std(known, ddof=1):4.1f}" if len(known) > 1 else "       "
    return f"{np.mean(known):5.1f}{deviation}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of Markdown: image AUROC, pixel AUROC and PRO per set, and their means over sets."""
    yield "| protocol | set | runs | image AUROC | pixel AUROC | PRO | seconds per run |"
    yield "|---|---|---|---|---|---|---|"
    for kind in ("few", "zero"):
        means: dict[str, list[float]] = {"image_auroc": [], "pixel_auroc": [], "pro": []}
        seconds: list[float] = []
        for name in SETS:
            own = [row for row in rows if row["kind"] == kind and row["set"] == name]
            if not own:
                continue
            cells = []
            for number, collected in means.items():
                values = [row["numbers"].get(number) for row in own]
                cells.append(spread(values))
                collected += [float(np.mean([v for v in values if v is not None]))] if any(values) else []
            time_taken = [row["train_seconds"] + row["test_seconds"] for row in own]
            seconds += time_taken
            yield f"| {kind} | {name} | {len(own)} | {' | '.join(cells)} | {np.mean(time_taken):.0f} |"
        if seconds:
            cells = [f"{100 * np.mean(values):5.1f}" if values else "-" for values in means.values()]
            yield f"| {kind} | **mean** | {len(seconds)} | {' | '.join(cells)} | {np.mean(seconds):.0f} |"


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("phantoms_mla.json"), help="rows, written as they are done")
    parser.add_argument("--data", type=Path, help="folder of phantoms (default: a temporary one)")
    parser.add_argument("--backbone", default="tiny", help='"tiny" or a bundle folder')
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--kinds", nargs="+", choices=["few", "zero"], default=["few", "zero"])
    parser.add_argument("--shots", type=int, choices=[2, 4, 8, 16], default=4)
    parser.add_argument("--draws", type=int, choices=range(1, 6), default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--valid", type=int, default=20, help="images per class in the valid split")
    parser.add_argument("--test", type=int, default=50, help="images per class in the test split")
    parser.add_argument("--profile", choices=list(get_args(Profile)), default="default")
    parser.add_argument("--epochs", type=int, help="few-shot, instead of the profile's")
    parser.add_argument("--zero-epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, help="images per update, instead of the profile's")
    parser.add_argument("--adapter-lr", type=float, help="instead of the profile's")
    parser.add_argument("--threads", type=int, help="of the processor (default: torch's own choice)")
    parser.add_argument("--quick", action="store_true", help="one draw, 8 epochs, 20 test images per class")
    options = parser.parse_args(argv)
    if options.quick:
        options.draws, options.epochs, options.zero_epochs, options.test = 1, 6, 2, 20
    return options


def run(options: argparse.Namespace, data: Path) -> list[Row]:
    """All rows that are not there yet."""
    write_phantoms(data, valid=options.valid, test=options.test, seed=options.seed)
    asked = {"epochs": options.epochs, "batch_size": options.batch, "adapter_lr": options.adapter_lr}
    changes = {name: value for name, value in asked.items() if value is not None}
    plan = Plan(data, options.backbone, options.profile, options.shots, changes, options.zero_epochs)
    protocol = plan.protocol()
    rows = read_rows(options.json, protocol)
    done = {(row["kind"], row["set"], row["draw"]) for row in rows}
    wanted = [("few", name, draw) for draw in range(options.draws) for name in options.sets]
    wanted += [("zero", name, 0) for name in options.sets]
    wanted = [job for job in wanted if job[0] in options.kinds and job not in done]
    for count, job in enumerate(wanted, 1):
        row = plan.row(*job)
        rows.append(row)
        write_json(options.json, {"protocol": protocol, "rows": rows})
        numbers = " ".join(f"{k} {v:.3f}" for k, v in row["numbers"].items() if v is not None)
        print(f"[{count}/{len(wanted)}] {job[0]} {job[1]} draw {job[2]}: {numbers}, epoch {row['epoch']}, "
              f"{row['train_seconds']:.0f} + {row['test_seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return rows


def main() -> None:
    """Run what is missing and print the table."""
    options = options_of()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.data is not None:
        rows = run(options, options.data)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = run(options, Path(folder))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
