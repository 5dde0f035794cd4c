"""Run folders and the report page: escaping, self-containedness, undefined numbers, draws, odd sizes, atomicity."""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from wordsight.errors import DataError, ImageError
from wordsight.evaluate import Evaluation
from wordsight.imaging.overlay import write_png
from wordsight.metrics import Number, auroc
from wordsight.report import read_results, rebuild_report, render_report, store, write_evaluation
from wordsight.report.html import group_evaluations
from wordsight.report.pictures import whole_image
from wordsight.types import Geometry, Image, ScoreKind

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, images and text, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]


def make(
    folder: Path, count: int = 8, *, seed: int = 0, maps: bool = True, masks: bool = True, **changes: Any
) -> Evaluation:
    """An evaluation of noise images that exist as files in good/ and Ungood/ under the same names."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    names = tuple(f"{'Ungood' if label else 'good'}/x{i // 2}.png" for i, label in enumerate(labels))
    for name in names:
        if not (folder / name).exists():
            write_png(folder / name, rng.integers(0, 256, (48, 64), dtype=np.uint8))
    scores = (labels + rng.normal(size=count)).astype(np.float32)
    value = auroc(labels, scores)
    truth = np.zeros((count, 24, 24), dtype=bool)
    truth[labels == 1, 6:12, 8:16] = True
    base = Evaluation(
        dataset="Brain",
        method="mla-lp",
        kind=ScoreKind.SCALED,
        protocol={"selection": "validation", "scale": "validation", "shots": 4, "draw": seed, "seed": 0},
        names=names,
        paths=tuple(str(folder / name) for name in names),
        labels=labels.astype(np.int64),
        scores=scores,
        groups=names,
        numbers={
            "image_auroc": Number(value, value - 0.1, value + 0.1, count),
            "pro": Number(math.nan, note="no mask has a region"),
        },
        maps=rng.random((count, 24, 24), dtype=np.float32) if maps else None,
        masks=truth if masks else None,
        failures=(),
        weights="sha256:1234",
        data_hash="sha256:5678",
        version="0.1.0",
        interval="95 % bootstrap over 8 images, 1000 draws, seed 0",
    )
    return dataclasses.replace(base, **changes)


def same(first: Evaluation, second: Evaluation) -> None:
    """Equal in every field; maps as float16 keeps them."""
    for field in dataclasses.fields(Evaluation):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "maps" and a is not None:
            a = a.astype(np.float16).astype(np.float32)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        elif field.name == "numbers":
            assert {k: v.to_json() for k, v in a.items()} == {k: v.to_json() for k, v in b.items()}
        else:
            assert a == b, field.name


def test_written_files_read_back_and_rebuild_the_same_page(tmp_path: Path) -> None:
    evaluations = [make(tmp_path, seed=s) for s in range(2)] + [make(tmp_path, 6, dataset="Liver", maps=False)]
    page = write_evaluation(evaluations, tmp_path / "run")
    before = page.read_bytes()
    for path in tmp_path.glob("*ood/*.png"):
        path.unlink()  # the images themselves are not needed any more
    page.write_text("")
    assert rebuild_report(tmp_path / "run") == page
    assert page.read_bytes() == before
    read = read_results(tmp_path / "run")
    assert len(read) == 3
    for one, other in zip(evaluations, read, strict=True):
        same(one, other)


def test_page_is_self_contained_and_says_what_it_must(tmp_path: Path) -> None:
    html = write_evaluation(make(tmp_path), tmp_path / "run").read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe", re.sub(r"base64,[^\"]*", "", html))
    assert page.images
    assert all((i["src"] or "").startswith("data:image/png;base64,") and i["alt"] for i in page.images)
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a == "href"]
    for needed in (
        "Research software, not a medical device",
        "95 % bootstrap over 8 images",
        "chosen on the validation images",
        "4-shot",
        "undefined (no mask has a region)",
        "sha256:1234",
        "sha256:5678",
        "0.1.0",
        "AUROC",
        "chance",
        "with true outline",
    ):
        assert needed in page.text, needed
    assert "optimistic" not in page.text
    assert "nan" not in page.text.lower()


def test_every_name_is_escaped(tmp_path: Path) -> None:
    evil = make(
        tmp_path,
        dataset=EVIL,
        method=EVIL,
        weights=EVIL,
        interval=EVIL,
        data_hash=EVIL,
        version=EVIL,
        names=tuple(f'{EVIL}"onerror=alert({i})' for i in range(8)),
        failures=((EVIL, EVIL),),
        protocol={"selection": EVIL, "draw": EVIL, EVIL: EVIL},
        numbers={"image_auroc": Number(math.nan, note=EVIL), EVIL: Number(0.5, note=EVIL)},
    )
    html = write_evaluation([evil, dataclasses.replace(evil, protocol={**evil.protocol, "draw": 1})], tmp_path / "run")
    page = Page(html.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert EVIL in page.text
    assert not list(tmp_path.rglob("*<*"))
    same(evil, read_results(tmp_path / "run")[0])


def test_same_names_in_good_and_ungood_do_not_collide(tmp_path: Path) -> None:
    write_evaluation(make(tmp_path), tmp_path / "run")
    with open(tmp_path / "run" / "predictions.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    places = {row["heatmap"] for row in rows}
    assert len(places) == 8
    assert all((tmp_path / "run" / place).is_file() for place in places)
    assert {"heatmaps/Brain/good__x0.png", "heatmaps/Brain/Ungood__x0.png"} <= places
    with Pillow.open(tmp_path / "run" / rows[0]["heatmap"]) as picture:
        assert picture.size == (64, 48)  # the original grid, not the prepared one


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    names = ("../../../out.png", "/out.png", "..\\out.png", "a/../../out.png", "..", "\udcff.png", "n\nl", "x" * 999)
    write_evaluation(make(tmp_path, names=names, dataset="../../Brain"), tmp_path / "run")
    outside = [p for p in tmp_path.rglob("*") if "out" in p.name and tmp_path / "run" not in p.parents]
    assert outside == []
    assert len(list((tmp_path / "run" / "heatmaps").rglob("*.png"))) == 8
    assert read_results(tmp_path / "run")[0].names == names


def test_max_heatmaps_keeps_the_highest_scores(tmp_path: Path) -> None:
    evaluation = make(tmp_path)
    write_evaluation(evaluation, tmp_path / "run", max_heatmaps=2)
    top = {evaluation.names[i].replace("/", "__") for i in np.argsort(-evaluation.scores)[:2]}
    assert {p.name for p in (tmp_path / "run" / "heatmaps" / "Brain").iterdir()} == top
    write_evaluation(evaluation, tmp_path / "run", heatmaps=False)
    assert not (tmp_path / "run" / "heatmaps").exists()


def test_processes_that_draw_change_nothing(tmp_path: Path) -> None:
    evaluations = [make(tmp_path / "in", 40, seed=seed, dataset=f"set {seed}") for seed in (0, 1)]
    (tmp_path / "in" / evaluations[0].names[7]).unlink()
    written = []
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        write_evaluation(evaluations, out, workers=workers)
        written.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert len(written[0]) == 2 * 40 + 4
    assert written[0] == written[1]


def test_results_json_has_null_for_nan_and_spread_over_draws(tmp_path: Path) -> None:
    evaluations = [make(tmp_path, seed=s) for s in range(3)]
    page = Page(write_evaluation(evaluations, tmp_path / "run").read_text(encoding="utf-8"))
    raw = json.loads((tmp_path / "run" / "results.json").read_text(), parse_constant=pytest.fail)
    assert raw["schema"] == 1
    assert raw["evaluations"][0]["numbers"]["pro"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "note": "no mask has a region",
    }
    values = [e.numbers["image_auroc"].value for e in evaluations]
    spread = next(s for s in raw["summary"] if s["metric"] == "image_auroc")
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["std"] == pytest.approx(np.std(values, ddof=1))
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in page.text
    assert "undefined in 3 of 3 runs" in page.text
    assert "mean ± std of 3 runs" in page.text
    assert page.text.count("draw 2, seed 0:") == 1  # its curve


def test_published_protocol_is_flagged_and_never_averaged_with_honest_runs(tmp_path: Path) -> None:
    honest = make(tmp_path)
    published = dataclasses.replace(honest, protocol={**honest.protocol, "selection": "published", "draw": 1})
    page = Page(write_evaluation([honest, published], tmp_path / "run").read_text(encoding="utf-8"))
    assert page.text.count("chosen on the test set, as the papers did: optimistic") == 3  # table, warning, protocol
    assert "mean ± std" not in page.text
    assert not json.loads((tmp_path / "run" / "results.json").read_text())["summary"]


def test_what_follows_from_a_draw_does_not_keep_it_from_the_mean(tmp_path: Path) -> None:
    def drawn(draw: int, **more: object) -> Evaluation:
        one = make(tmp_path)
        chosen = {"draw": draw, "support": f"list Brain/4-shot.txt, draw {draw}", "epoch": 3 + draw}
        return dataclasses.replace(one, protocol={**one.protocol, **chosen, "smoothing": 1 + 2 * (draw % 2), **more})

    study = [drawn(0), drawn(1), drawn(2)]
    assert group_evaluations(study) == [[0, 1, 2]]
    page = Page(write_evaluation(study, tmp_path / "run").read_text(encoding="utf-8"))
    assert "mean ± std of 3 runs" in page.text
    assert "Epoch: draw 0, seed 0: 3; draw 1, seed 0: 4; draw 2, seed 0: 5." in page.text
    assert group_evaluations([*study, drawn(3, selection="published")]) == [[0, 1, 2], [3]]
    assert group_evaluations([*study, drawn(3, selected="last of 5 epochs")]) == [[0, 1, 2], [3]]
    assert group_evaluations([*study, *study]) == [[0, 1, 2], [3, 4, 5]], "two trainings of the same draws"
    plain = [dataclasses.replace(e, protocol={"epoch": n}) for e, n in zip(study, (1, 1, 2), strict=True)]
    assert group_evaluations(plain) == [[0, 1], [2]]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("maps", "masks"), [(True, True), (True, False), (False, False)])
def test_tiny_sets_without_masks_or_maps(tmp_path: Path, count: int, maps: bool, masks: bool) -> None:
    evaluation = make(tmp_path, count, maps=maps, masks=masks)
    page = Page(write_evaluation(evaluation, tmp_path / "run").read_text(encoding="utf-8"))
    assert len(page.images) == (1 + maps) * count + (masks and count == 2)
    assert ("No ROC curve" in page.text) == (count == 1)
    assert (tmp_path / "run" / "heatmaps").exists() == maps
    same(evaluation, read_results(tmp_path / "run")[0])


def test_no_images_at_all_and_only_failures(tmp_path: Path) -> None:
    empty: Mapping[str, Any] = {k: () for k in ("names", "paths", "groups")}
    failures = tuple((f"file{i}.png", "cannot be read") for i in range(70))
    evaluation = make(
        tmp_path,
        2,
        **empty,
        labels=np.zeros(0, np.int64),
        scores=np.zeros(0, np.float32),
        maps=None,
        masks=None,
        failures=failures,
    )
    evaluation = dataclasses.replace(evaluation, maps=None, masks=None)
    page = Page(write_evaluation(evaluation, tmp_path / "run").read_text(encoding="utf-8"))
    assert "Files that could not be used: 70" in page.text
    assert "The first 50 are listed" in page.text
    assert "file49.png" in page.text
    assert "file50.png" not in page.text
    same(evaluation, read_results(tmp_path / "run")[0])


def test_unreadable_images_show_their_map_and_say_so(tmp_path: Path) -> None:
    def read(path: str, frame: int | None) -> Image:
        raise ImageError(f"{path}: gone")

    page = Page(write_evaluation(make(tmp_path), tmp_path / "run", read=read).read_text(encoding="utf-8"))
    assert page.text.count("(the image file could not be read)") == 8
    assert len(page.images) == 8
    assert len(list((tmp_path / "run" / "heatmaps").rglob("*.png"))) == 8


def test_parts_never_seen_are_shown_by_the_geometry(tmp_path: Path) -> None:
    def cropped(image: Image) -> Geometry:
        return Geometry(image.shape, (24, 24), (0.5, 0.5), (0.0, -4.0))  # eight columns at either side are cut off

    write_evaluation(make(tmp_path, 2, masks=False), tmp_path / "a", geometry=cropped)
    write_evaluation(make(tmp_path, 2, masks=False), tmp_path / "b")
    with Pillow.open(tmp_path / "a" / "heatmaps" / "Brain" / "good__x0.png") as picture:
        drawn = np.asarray(picture).astype(int)
    grey = (drawn.max(axis=2) - drawn.min(axis=2)) == 0
    assert grey[:, :8].all()
    assert grey[:, 56:].all()
    assert not grey[:, 8:56].all()
    with Pillow.open(tmp_path / "b" / "heatmaps" / "Brain" / "good__x0.png") as picture:
        assert np.asarray(picture)[:, :8].astype(int).std(axis=2).max() > 0
    assert whole_image((48, 64), (24, 24)).scale == (0.5, 0.375)


def test_frames_are_read_by_number(tmp_path: Path) -> None:
    asked: list[int | None] = []

    def read(path: str, frame: int | None) -> Image:
        asked.append(frame)
        return Image(np.zeros((8, 8), dtype=np.float32))

    write_evaluation(make(tmp_path, 2, names=("a.dcm#0", "a.dcm#7")), tmp_path / "run", heatmaps=False, read=read)
    assert sorted(f for f in asked if f is not None) == [0, 7]


def test_page_size_is_bounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.random((320, 320), dtype=np.float32) for _ in range(2)]
    evaluations = [
        make(
            tmp_path,
            16,
            dataset=f"Set{i}",
            data_hash="h" * 9000,
            method="m" * 9000,
            failures=(("f" * 5000, "m" * 5000),) * 9,
        )
        for i in range(4)
    ]
    page = write_evaluation(
        evaluations,
        tmp_path / "run",
        heatmaps=False,
        keep_maps=False,
        read=lambda path, frame: Image(noise["Un" in path]),
    )
    assert page.stat().st_size < 5_000_000
    assert len(Page(page.read_text(encoding="utf-8")).images) > 100


@pytest.mark.parametrize("breaking", ["render_report", "_write_predictions", "write_arrays", "_write_heatmaps"])
def test_an_exception_midway_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaking: str
) -> None:
    def files() -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    def fail(*args: object) -> None:
        raise RuntimeError("disk full")

    new = make(tmp_path, seed=5)
    write_evaluation(make(tmp_path), tmp_path / "old")
    before = files()
    monkeypatch.setattr(store, breaking, fail)
    for run in ("old", "new"):
        with pytest.raises(RuntimeError, match="disk full"):
            write_evaluation(new, tmp_path / run)
        assert files() == before
    assert not (tmp_path / "new").exists()


def test_maps_can_be_left_out_and_large_values_survive(tmp_path: Path) -> None:
    evaluation = make(tmp_path)
    write_evaluation(evaluation, tmp_path / "run", keep_maps=False)
    assert read_results(tmp_path / "run")[0].maps is None
    assert evaluation.maps is not None
    large = dataclasses.replace(evaluation, maps=evaluation.maps * np.float32(1e6))
    write_evaluation(large, tmp_path / "run")
    read = read_results(tmp_path / "run")[0].maps
    assert read is not None
    assert np.array_equal(read, large.maps)


def test_bare_page_lists_cases_by_name(tmp_path: Path) -> None:
    evaluation = make(tmp_path)
    page = Page(render_report([evaluation]))
    assert not page.images
    assert evaluation.names[0] in page.text
    assert "could not be read" not in page.text
    assert "There is no evaluation to report." in Page(render_report([])).text


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one evaluation"):
        write_evaluation([], tmp_path / "run")
    with pytest.raises(DataError, match=r"results\.json: no such file"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("results.json", '"schema": 1', '"schema": 2', "schema 1, got 2"),
        ("results.json", "{", "", "expected JSON"),
        ("results.json", '"score_kind": "scaled"', '"score_kind": "odd"', "expected what write_evaluation writes"),
        ("results.json", '"counts"', '"count"', "KeyError"),
        ("predictions.csv", "score", "skore", "expected what write_evaluation writes"),
        ("predictions.csv", "evaluation", "number", "expected columns name"),
        ("predictions.csv", "good/x0.png,0", "x,0,1,g,d,0,p,0,\r\ngood/x0.png,0", "predictions for 8 images"),
    ],
)
def test_changed_files_are_refused(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    write_evaluation(make(tmp_path), tmp_path / "run", heatmaps=False)
    path = tmp_path / "run" / file
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(DataError, match=message):
        rebuild_report(tmp_path / "run")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    write_evaluation(make(tmp_path), tmp_path / "run", heatmaps=False)
    (tmp_path / "run" / "predictions.csv").unlink()
    with pytest.raises(DataError, match=r"predictions\.csv: no such file"):
        read_results(tmp_path / "run")
