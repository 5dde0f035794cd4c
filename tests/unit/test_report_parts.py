"""Parts of the report: figures, words, safe names, folders replaced whole, arrays read without trust."""

import io
import math
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import DataError
from wordsight.metrics import Number, auroc
from wordsight.report.archive import read_arrays, write_arrays
from wordsight.report.figures import MAX_POINTS, Curve, histogram_svg, roc_points, roc_svg
from wordsight.report.names import LONGEST, SafeNames, replacing, safe_name
from wordsight.report.pictures import colour_limits, encode_png, frame_of, pick_cases, shrunk
from wordsight.report.words import failure_words, number_words, printable, protocol_sentences
from wordsight.types import Image


def _area(points: np.ndarray) -> float:
    """By trapezoids; NumPy's own function changed its name."""
    return float((np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1])).sum() / 2)


@given(seed=st.integers(0, 9999), count=st.integers(2, 40), levels=st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_area_under_the_drawn_curve_is_the_auroc(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, count), [0, 1])
    scores = rng.integers(0, levels, count + 2).astype(np.float32)
    points = roc_points(labels, scores)
    assert points is not None
    assert _area(points) == pytest.approx(auroc(labels, scores), abs=1e-12)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    scores = (labels + rng.normal(size=5000)).astype(np.float32)
    points = roc_points(labels, scores)
    assert points is not None
    assert len(points) <= MAX_POINTS
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert _area(points) == pytest.approx(auroc(labels, scores), abs=0.005)


def test_no_curve_for_one_class_or_odd_scores() -> None:
    assert roc_points(np.array([1, 1]), np.array([0.1, 0.2])) is None
    assert roc_points(np.array([0, 1]), np.array([0.1, np.nan])) is None


def test_svg_is_well_formed_and_escaped() -> None:
    curve = Curve("<script>alert(1)</script>", np.array([[0.0, 0.0], [1.0, 1.0]]))
    figures = [
        roc_svg([curve], 'a "<b>" & c'),
        histogram_svg(np.array([0, 1, 1]), np.array([0.1, 0.4, np.nan]), '"<script>"'),
        histogram_svg(np.array([0, 0]), np.array([2.0, 2.0]), "one value, one class"),
    ]
    for figure in figures:
        assert figure is not None
        ElementTree.fromstring(f"<div>{figure}</div>")
        assert "<script" not in figure
    assert histogram_svg(np.array([0]), np.array([np.nan]), "none") is None


def test_histogram_shows_shares_of_each_class() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    scores = np.where(labels == 1, 1.0, 0.0)
    figure = histogram_svg(labels, scores, "t")
    assert figure is not None
    bars = [r for r in ElementTree.fromstring(str(figure)).iter("rect") if r.get("class") in ("normal", "abnormal")]
    assert [(r.get("class"), r.get("height")) for r in bars] == [("normal", "118.0"), ("abnormal", "118.0")]


def test_undefined_numbers_say_why() -> None:
    assert number_words(Number(math.nan, note="one class only")) == ("undefined (one class only)", "")
    assert number_words(Number(math.nan)) == ("undefined (no reason given)", "")
    assert number_words(Number(0.5, note="3 images")) == ("0.500", "no interval (3 images)")
    assert number_words(Number(0.5, 0.25, 0.75)) == ("0.500", "0.250 – 0.750")
    assert number_words(None) == ("not measured", "")


def test_protocol_in_words() -> None:
    told = " ".join(protocol_sentences({"selection": "published", "scale": "test", "shots": 0, "lr": 0.1}, "logit"))
    assert "chosen on the test set, as the papers did: optimistic" in told
    assert "whole test set" in told
    assert "Zero-shot" in told
    assert "Lr: 0.1." in told
    assert "validation images" in protocol_sentences({"selection": "validation"}, "logit")[0]
    assert "Model selection: odd." in protocol_sentences({"selection": "odd"}, "other")
    rules = " ".join(protocol_sentences({"transductive": True, "mask_rule": "half"}, "scaled"))
    assert "Transductive, as the papers did" in rules
    assert "above half the largest value" in rules
    assert "4 support images" in " ".join(protocol_sentences({"shots": 4}, "scaled"))


def test_printable_escapes_what_cannot_be_shown() -> None:
    assert printable("a\udcffb\x00\u202ec") == "a\\udcffb\\x00\\u202ec"
    assert len(printable("x" * 9999)) < 200
    assert failure_words("a.png", "a.png: expected PNG") == ("a.png", "expected PNG")


@pytest.mark.parametrize(
    "text",
    ["../../etc/passwd", "/abs/x", "C:\\dos\\x", "..", "", ".", "a/../b", "\x00", "x\n", "\udcff", "CON", "é" * 400],
)
def test_safe_names_stay_in_their_folder(tmp_path: Path, text: str) -> None:
    name = safe_name(text)
    assert name
    assert not name.startswith(".")
    assert len(name.encode()) <= LONGEST
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    (tmp_path / name).touch()
    assert name.upper() != "CON"


@given(st.lists(st.text(max_size=12), max_size=30))
@settings(deadline=None, max_examples=50)
def test_names_never_collide(texts: list[str]) -> None:
    names = SafeNames()
    made = [names.of(text) for text in texts]
    assert len({name.casefold() for name in made}) == len(made)


def test_names_of_the_two_classes_differ() -> None:
    names = SafeNames()
    assert [names.of(n) for n in ("good/x.png", "Ungood/x.png", "GOOD/X.png", "good__x.png")] == [
        "good__x.png",
        "Ungood__x.png",
        "GOOD__X.png-2",
        "good__x.png-3",
    ]


def _half(new: Path) -> None:
    (new / "results.json").write_text("half")
    raise RuntimeError("midway")


def test_replacing_keeps_other_files_and_drops_old_heatmaps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for content in ("old", "new"):
        with replacing(run) as new:
            (new / "results.json").write_text(content)
            (new / "heatmaps").mkdir()
            (new / "heatmaps" / f"{content}.png").touch()
        (run / "model.safetensors").touch()
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) == [
        "heatmaps",
        "heatmaps/new.png",
        "model.safetensors",
        "results.json",
    ]
    with pytest.raises(RuntimeError, match="midway"), replacing(run) as new:
        _half(new)
    assert (run / "results.json").read_text() == "new"
    assert not list(run.glob(".report-*"))


def test_replacing_removes_the_folder_it_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), replacing(tmp_path / "run"):
        raise RuntimeError("midway")
    assert not list(tmp_path.iterdir())


def test_replacing_does_not_touch_strangers(tmp_path: Path) -> None:
    (tmp_path / "heatmaps").mkdir()
    with pytest.raises(DataError, match="holds heatmaps/ that no report wrote"), replacing(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here"), replacing(tmp_path / "file" / "run"):
        pass


def test_arrays_round_trip_and_bytes_repeat(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(1, 2, 3), "b": np.array([1, 2], np.uint8)}
    write_arrays(tmp_path / "x.npz", arrays)
    write_arrays(tmp_path / "y.npz", arrays)
    read = read_arrays(tmp_path / "x.npz")
    assert {k: (v.dtype, v.tolist()) for k, v in read.items()} == {k: (v.dtype, v.tolist()) for k, v in arrays.items()}
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    with np.load(tmp_path / "x.npz", allow_pickle=False) as other:
        assert other["a"].tolist() == arrays["a"].tolist()


def _npy(shape: tuple[int, ...], descr: str = "|u1", body: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


@pytest.mark.parametrize(
    ("name", "content", "compression"),
    [
        ("a.npy", _npy((10**12,)), zipfile.ZIP_STORED),  # announces a terabyte
        ("a.npy", _npy((1,), "|O", b"x" * 8), zipfile.ZIP_STORED),  # would need pickle
        ("a.npy", _npy((1000,), body=bytes(1000)), zipfile.ZIP_DEFLATED),
        ("a.txt", b"hello", zipfile.ZIP_STORED),
        ("a.npy", b"hello, no header here", zipfile.ZIP_STORED),
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, name: str, content: bytes, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        archive.writestr(name, content)
    with pytest.raises(DataError, match="Write the run again"):
        read_arrays(tmp_path / "x.npz")


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"\x80\x04pickle?")
    with pytest.raises(DataError, match=r"expected arrays in an \.npz file"):
        read_arrays(tmp_path / "x.npz")


@given(seed=st.integers(0, 9999), count=st.integers(1, 30), most=st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_cases_are_the_extremes_and_shown_once(seed: int, count: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, count), rng.permutation(count).astype(np.float32)
    misses, alarms, finds, normals = pick_cases(labels, scores, most)
    flat = misses + alarms + finds + normals
    assert len(set(flat)) == len(flat)
    for group, label, sign in ((misses, 1, 1), (alarms, 0, -1), (finds, 1, -1), (normals, 0, 1)):
        best = sorted(np.flatnonzero(labels == label), key=lambda i, sign=sign: sign * scores[i])
        assert group == best[: len(group)]
    assert pick_cases(labels, np.full(count, np.nan), most) == [[], [], [], []]


def test_small_helpers() -> None:
    assert frame_of("a/scan.dcm#12", "/data/a/scan.dcm") == 12
    assert frame_of("a/scan#12", "/data/a/scan#12") is None
    assert frame_of("scan#x.png", "other.png") is None
    assert colour_limits(np.full((1, 2, 2), np.nan)) == (0.0, 0.0)
    low, high = colour_limits(np.linspace(0, 1, 10_000).reshape(1, 100, 100))
    assert (low, high) == pytest.approx((0.01, 0.995), abs=1e-3)
    pixels = np.random.default_rng(0).random((640, 960, 3), dtype=np.float32)
    small = shrunk(Image(pixels))
    assert small.shape == (213, 320)
    assert small.pixels.mean() == pytest.approx(pixels.mean(), abs=1e-3)
    assert shrunk(Image(pixels[:99, :99])).shape == (99, 99)
    assert encode_png(np.zeros((999, 500, 3), np.uint8), 320).startswith(b"\x89PNG")
