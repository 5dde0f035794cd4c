"""MLA-LP with the packaged tiny backbone on real images in the benchmark's layout, beside baselines that see little.

`python benchmarks/real_data.py --data DATA --json real.json` trains one detector per set, number of shots and published
support draw, evaluates each on the test split and prints a table. In the same table, from the same images:
shortcuts (a logistic regression on 16 x 16 thumbnails, or on stored size, mean and standard deviation, trained on the
whole valid split), the distance to the nearest normal 32 x 32 thumbnail, and for sets with masks two maps that ignore
the image (where lesions lay in the valid split; the organ mask). What does not beat them has found nothing.
The tiny backbone knows nothing of patients: read the differences, not the heights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pil

from wordsight.data import SupportSet, benchmark_records, hash_records, held_out, published_support
from wordsight.evaluate import evaluate
from wordsight.files import write_json
from wordsight.imaging import mla_input, prepare_mask, read_image, read_mask
from wordsight.metrics import auroc, pixel_auroc, pixel_average_precision, pro
from wordsight.models.mla.detector import MlaLp, quarter_levels
from wordsight.train.mla import fit_few
from wordsight.train.recipes import recipe
from wordsight.types import Record

Row = dict[str, Any]
NUMBERS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "region_auroc", "region_ap")


def regions_of(data: Path, name: str) -> Path | None:
    """Organ masks beside the liver sets."""
    folder = data / "LiverCT_organ_mask"
    return folder if name.startswith("Liver") and folder.is_dir() else None


def thumbnails(records: Sequence[Record], side: int) -> NDArray[np.float64]:
    """(n, side * side) grey values in [0, 1]."""
    out = []
    for record in records:
        grey = Pil.fromarray((read_image(record.path).grey() * 255).astype(np.uint8))
        out.append(np.asarray(grey.resize((side, side), Pil.Resampling.BOX), dtype=np.float64).ravel() / 255)
    return np.stack(out)


def statistics(records: Sequence[Record]) -> NDArray[np.float64]:
    """(n, 4) height, width, mean and standard deviation of the stored image."""
    out = []
    for record in records:
        grey = read_image(record.path).grey()
        out.append([*grey.shape, grey.mean(), grey.std()])
    return np.array(out, dtype=np.float64)


def labels_of(records: Sequence[Record]) -> NDArray[np.int64]:
    return np.array([record.label for record in records], dtype=np.int64)


def learned_shortcut(
    train: NDArray[np.float64], y: NDArray[np.int64], test: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Decision values of a logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train, y)
    return np.asarray(model.decision_function(test))


def image_baselines(valid: Sequence[Record], test: Sequence[Record]) -> list[Row]:
    """Shortcuts and the nearest-thumbnail distance: image AUROC only."""
    y, truth = labels_of(valid), labels_of(test)
    small, stats = thumbnails(valid, 16), statistics(valid)
    normal = thumbnails([r for r in valid if r.label == 0], 32)
    queries = thumbnails(test, 32)
    distance = np.sqrt(((queries[:, None] - normal[None]) ** 2).sum(-1)).min(1)
    scores = {
        "shortcut: 16 x 16 thumbnail": learned_shortcut(small, y, thumbnails(test, 16)),
        "shortcut: size, mean, std": learned_shortcut(stats, y, statistics(test)),
        "nearest normal thumbnail": distance,
    }
    return [{"method": name, "numbers": {"image_auroc": auroc(truth, s)}} for name, s in scores.items()]


def map_baselines(valid: Sequence[Record], test: Sequence[Record], side: int = 240) -> list[Row]:
    """Maps that do not look at the image: the blurred mean of the valid masks, and the organ mask."""
    from scipy.ndimage import gaussian_filter

    spec = mla_input(side)
    blank = np.zeros((side, side), dtype=bool)

    def mask(path: Path | None) -> NDArray[np.bool_]:
        return blank if path is None else prepare_mask(read_mask(path), spec)

    truth = np.stack([mask(record.mask) for record in test])
    prior = gaussian_filter(np.mean([mask(record.mask) for record in valid], axis=0, dtype=np.float64), 8)
    maps = {"location prior": np.broadcast_to(prior.astype(np.float32), truth.shape)}
    regions = None
    if all(record.region is not None for record in test):
        regions = np.stack([mask(record.region) for record in test])
        maps["organ mask"] = regions.astype(np.float32)
    rows = []
    for name, values in maps.items():
        values = np.ascontiguousarray(values)
        numbers = {
            "pixel_auroc": pixel_auroc(values, truth),
            "pixel_ap": pixel_average_precision(values, truth),
            "pro": pro(values, truth),
        }
        if regions is not None:
            numbers["region_auroc"] = pixel_auroc(values, truth, regions)
            numbers["region_ap"] = pixel_average_precision(values, truth, regions)
        rows.append({"method": name, "numbers": numbers})
    return rows


def few_shot(
    name: str, support: SupportSet, valid: Sequence[Record], test: Sequence[Record], options: argparse.Namespace
) -> Row:
    """One trained detector, measured on the test split."""
    start = time.monotonic()
    shots = len(support.normal)
    settings, training = recipe(options.profile, "mla", shots, options.backbone, target=name)
    training = replace(training, **({"epochs": options.epochs} if options.epochs else {}))
    if options.profile == "published":
        training = replace(training, protocol="validation", mask_rule="any")
    first = MlaLp.from_clip(options.backbone, settings=None)
    settings = replace(settings, levels=quarter_levels(first.clip.vision_layers))
    detector = MlaLp.from_clip(options.backbone, settings=settings)
    trained = fit_few(detector, support, training=training, selection=held_out(list(valid), support), dataset=name)
    protocol = {"selection": trained.info["selected"], "scale": trained.scale.origin, "shots": shots}
    result = evaluate(trained, test, dataset=name, protocol=protocol, bootstrap_draws=200, progress=False)
    return {
        "method": f"MLA-LP {options.profile}",
        "selected": trained.info["selected"],
        "epoch": trained.info["epoch"],
        "numbers": {k: v.value for k, v in result.numbers.items()},
        "intervals": {k: [v.low, v.high] for k, v in result.numbers.items()},
        "seconds": round(time.monotonic() - start, 1),
    }


def clean(row: Row) -> Row:
    """NaN is no JSON number."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, float | np.floating):
            return None if np.isnan(value) else round(float(value), 4)
        return value

    return {k: plain(v) for k, v in row.items()}


def run(options: argparse.Namespace) -> list[Row]:
    """All rows that an earlier call has not written."""
    rows: list[Row] = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
    done = {(r["set"], r["method"], r.get("shots"), r.get("draw")) for r in rows}

    def keep(found: Row, **keys: Any) -> None:
        rows.append(clean({**keys, **found}))
        write_json(options.json, {"profile": options.profile, "backbone": options.backbone, "rows": rows})
        shown = " ".join(f"{k} {v:.3f}" for k, v in rows[-1]["numbers"].items() if v is not None)
        print(f"{keys} {found['method']}: {shown} {found.get('seconds', '')}", file=sys.stderr, flush=True)

    for name in options.sets:
        regions = regions_of(options.data, name)
        valid = benchmark_records(options.data, name, "valid", regions=regions)
        test = benchmark_records(options.data, name, "test", regions=regions)
        data = hash_records(test)[:16]
        if (name, "nearest normal thumbnail", None, None) not in done:
            masked = any(record.mask is not None for record in test)
            for row in image_baselines(valid, test) + (map_baselines(valid, test) if masked else []):
                keep(row, set=name, data=data)
        for shots in options.shots:
            for draw in options.draws:
                if (name, f"MLA-LP {options.profile}", shots, draw) in done:
                    continue
                if min(int(n) for n in np.bincount(labels_of(valid), minlength=2)) < shots:
                    continue  # too few images in the valid split
                support = published_support(options.data, name, shots, draw, valid)
                keep(few_shot(name, support, valid, test, options), set=name, data=data, shots=shots, draw=draw)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over draws, with the sample standard deviation where there are several."""
    lines = ["| set | method | shots | runs | " + " | ".join(NUMBERS) + " |", "|---" * (4 + len(NUMBERS)) + "|"]
    keys = list(dict.fromkeys((r["set"], r["method"], r.get("shots")) for r in rows))
    for key in sorted(keys, key=lambda k: k[0]):
        own = [r for r in rows if (r["set"], r["method"], r.get("shots")) == key]
        cells = []
        for number in NUMBERS:
            values = [r["numbers"][number] for r in own if r["numbers"].get(number) is not None]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "-")
        lines.append(f"| {key[0]} | {key[1]} | {key[2] or '-'} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with <Name>_AD sets and fewshot_seed lists")
    parser.add_argument("--sets", nargs="+", default=["Brain", "Chest", "LiverCT", "LiverROI"])
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--profile", choices=["default", "published", "corrected"], default="default")
    parser.add_argument("--epochs", type=int, help="instead of the profile's")
    parser.add_argument("--threads", type=int, help="of the processor (default: torch's own choice)")
    parser.add_argument("--json", type=Path, default=Path("real_data.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(table(run(options)))


if __name__ == "__main__":
    main()
