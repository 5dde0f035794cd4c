"""Write docs/images/demo.png, the picture of the README, from what `wordsight demo` wrote.

python scripts/make_readme_picture.py demo-output/runs/brain-4shot

Columns are chosen by rule, not by eye: the normal image of middle score, then abnormal images at even steps of the
score from the lowest to the highest. Above, the image with the true lesion outlined; below, the heatmap over it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from wordsight.evaluate import Evaluation
from wordsight.files import atomic_path
from wordsight.imaging import read_image, read_mask
from wordsight.imaging.overlay import outline, overlay, to_rgb
from wordsight.report import read_results
from wordsight.types import Geometry, Heatmap

GAP = 6


def choose(evaluation: Evaluation, abnormal: int) -> list[int]:
    """Places of the normal image of middle score and of abnormal ones at even steps of the score."""
    order = np.argsort(evaluation.scores, kind="stable")
    normal = [int(i) for i in order if evaluation.labels[i] == 0]
    lesions = [int(i) for i in order if evaluation.labels[i] == 1]
    steps = np.linspace(0, len(lesions) - 1, abnormal).round().astype(int)
    return [normal[len(normal) // 2], *(lesions[step] for step in steps)]


def column(evaluation: Evaluation, place: int, limits: tuple[float, float], side: int) -> NDArray[np.uint8]:
    """(2 side + gap, side, 3): the image above, its heatmap below."""
    assert evaluation.maps is not None
    path = Path(evaluation.paths[place])
    image = read_image(path)
    values = Geometry(image.shape, image.shape, (1.0, 1.0)).to_image(evaluation.maps[place])
    picture = to_rgb(image)
    drawn = overlay(image, Heatmap("abnormal", values, evaluation.kind), limits=limits)
    mask_file = path.parents[1] / "anomaly_mask" / path.name
    if mask_file.is_file():
        mask = read_mask(mask_file)
        picture, drawn = outline(picture, mask), outline(drawn, mask)
    panels = [np.asarray(Pillow.fromarray(p).resize((side, side))) for p in (picture, drawn)]
    return np.concatenate([panels[0], np.full((GAP, side, 3), 255, np.uint8), panels[1]])


def main() -> None:
    """Draw and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of an evaluated run with maps")
    parser.add_argument("--abnormal", type=int, default=4, help="how many abnormal images")
    parser.add_argument("--side", type=int, default=200, help="of a panel in pixels")
    default = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.png"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    evaluation = read_results(options.run)[0]
    if evaluation.maps is None:
        raise SystemExit(f"{options.run}: expected an evaluation with maps, got none. Evaluate again with maps kept.")
    places = choose(evaluation, options.abnormal)
    low, high = np.nanpercentile(evaluation.maps, [1, 99.9])
    columns = [column(evaluation, place, (float(low), float(high)), options.side) for place in places]
    gap = np.full((columns[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for drawn in columns for part in (drawn, gap)][:-1]
    with atomic_path(options.out) as temporary:
        Pillow.fromarray(np.concatenate(parts, axis=1)).save(temporary, format="PNG", optimize=True)
    print(options.out, ", ".join(f"{evaluation.names[i]} {evaluation.scores[i]:.3f}" for i in places))


if __name__ == "__main__":
    main()
