"""Support sets: published files, draws by seed, and what may be tested after."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordsight.data import (
    SupportSet,
    benchmark_records,
    draw_support,
    held_out,
    published_support,
    read_support_file,
    write_support_file,
)
from wordsight.errors import DataError, SettingsError
from wordsight.types import Record


def record(name: str, label: int | None, patient: str | None = None, folder: str = "x", **more: object) -> Record:
    return Record(Path(folder) / str(label) / name, label, patient=patient, **more)  # type: ignore[arg-type]


def support_file(folder: Path, text: str, name: str = "2-shot.txt") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_reads_both_orders_and_any_blanks(tmp_path: Path) -> None:
    path = support_file(tmp_path, "\ufeffa-0:  c.png\td.png \r\nn-0: a.png b.png\n\nn-4: b.v1.png e\na-4: f.jpeg g.JPG")
    assert read_support_file(path) == {
        0: (["a.png", "b.png"], ["c.png", "d.png"]),
        4: (["b.v1.png", "e"], ["f.jpeg", "g.JPG"]),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n-0: a b\nx-0: c d\n", "line 2: expected `n-0: a.png b.png`.*got 'x-0: c d'"),
        ("n-0: a b\n\na-0 c d\n", "line 3: expected `n-0"),
        ("n-0:\na-0: c d\n", "line 1: expected `n-0"),
        ("n--1: a b\n", "line 1: expected `n-0"),
        ("n-0: a b\na-0: c\n", "line 2: expected 2 names, got 1"),
        ("n-0: a b\nn-0: c d\n", "line 2: n-0 was given before"),
        ("n-0: a a\n", "line 1: expected each name once, got a more than once"),
        ("n-0: a ../b\n", r"line 1: expected file names without folders, got \.\./b"),
        ("n-0: a b\na-0: c d\nn-1: a b\n", "missing a-1"),
        ("\n \n", "found none"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_support_file(support_file(tmp_path, text))


def test_shots_come_from_the_name_unless_given(tmp_path: Path) -> None:
    path = support_file(tmp_path, "n-0: a b c\na-0: d e f\n", "mine.txt")
    assert read_support_file(path)[0] == (["a", "b", "c"], ["d", "e", "f"])
    with pytest.raises(DataError, match="expected 2 names, got 3"):
        read_support_file(path, shots=2)
    with pytest.raises(DataError, match="cannot read this support file"):
        read_support_file(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"n-0: \xff\xfe\n")
    with pytest.raises(DataError, match="cannot read this support file"):
        read_support_file(tmp_path / "bytes.txt")


one_name = st.text("abz019._-äß", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))
names = st.lists(one_name, min_size=1, max_size=5, unique=True)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 9), st.tuples(names, names), min_size=1, max_size=4))
def test_written_files_read_back(tmp_path: Path, draws: dict[int, tuple[list[str], list[str]]]) -> None:
    write_support_file(tmp_path / "mine.txt", draws)
    assert read_support_file(tmp_path / "mine.txt") == draws


@pytest.mark.parametrize("name", ["a b.png", "", "a\n", "x/y.png"])
def test_names_that_the_form_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"blanks|without folders"):
        write_support_file(tmp_path / "mine.txt", {0: (["ok.png"], [name])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("under", [".", "fewshot_seed", "dataset/fewshot_seed"])
@pytest.mark.parametrize("folder", ["Retina_OCT2017", "OCT17"])
def test_published_support_finds_folders_and_images(tmp_path: Path, under: str, folder: str) -> None:
    home = tmp_path / under / folder
    home.mkdir(parents=True)
    support_file(home, "a-0: 2.png 1.png\nn-0: 1.png 3.png\n")
    valid = [record(f"{i}.png", label, split="valid") for i in range(4) for label in (0, 1)]
    test = [record(f"{i}.png", label, folder="y", split="test") for i in range(4) for label in (0, 1)]
    support = published_support(tmp_path, "oct17_AD", 2, 0, [*test, *valid])
    assert [str(r.path) for r in support.normal] == ["x/0/1.png", "x/0/3.png"]
    assert [str(r.path) for r in support.abnormal] == ["x/1/2.png", "x/1/1.png"]
    assert support.origin == f"list {folder}/2-shot.txt, draw 0"
    with pytest.raises(DataError, match=r"no draw 1\. Draws in this file: 0"):
        published_support(tmp_path, "OCT2017", 2, 1, valid)
    with pytest.raises(DataError, match=rf"looked for .*4-shot\.txt.*There: {folder}/2-shot\.txt"):
        published_support(tmp_path, "OCT2017", 4, 0, valid)
    with pytest.raises(DataError, match=r"missing n-0 3\.png, a-0 2\.png, a-0 1\.png among 2 normal and 0 abnormal"):
        published_support(tmp_path, "OCT2017", 2, 0, [valid[0], valid[2]])
    with pytest.raises(DataError, match=r"1\.png is the name of several images"):
        published_support(tmp_path, "OCT2017", 2, 0, [*valid, record("1.png", 0, folder="z", split="valid")])


@pytest.mark.parametrize("name", ["Brain", "LiverCT", "LiverROI", "Chest"])
def test_every_published_draw_resolves(shared: Path, name: str) -> None:
    valid = benchmark_records(shared / "data", name, "valid")
    for shots in (2, 4) if name == "Chest" else (2, 4, 8, 16):
        for draw in range(5):
            support = published_support(shared / "data", name, shots, draw, valid)
            assert (len(support.normal), len(support.abnormal)) == (shots, shots)
            assert {r.label for r in support.normal} == {0}
            assert {r.label for r in support.abnormal} == {1}


def test_a_support_set_knows_its_labels() -> None:
    with pytest.raises(DataError, match=r"expected label 0 for a\.png"):
        SupportSet((record("a.png", 1),), (), "mine")


@st.composite
def listings(draw: st.DrawFn) -> list[Record]:
    count = draw(st.integers(4, 24))
    patients = draw(st.lists(st.sampled_from(["p1", "p2", "p3", "p4", None]), min_size=2 * count, max_size=2 * count))
    pairs = [(f"{i:02d}.png", label) for i in range(count) for label in (0, 1)]
    return [record(name, label, patient) for (name, label), patient in zip(pairs, patients, strict=True)]


@settings(deadline=None, max_examples=50)
@given(
    records=listings(), shots=st.integers(1, 4), seed=st.integers(0, 9), by_patient=st.booleans(), order=st.randoms()
)
def test_draws_do_not_depend_on_the_listing(
    records: list[Record], shots: int, seed: int, by_patient: bool, order: random.Random
) -> None:
    support = draw_support(records, shots, seed, by_patient=by_patient)
    shuffled = order.sample(records, len(records))
    assert draw_support(shuffled, shots, seed, by_patient=by_patient) == support
    assert len(set(r.path for r in support.records)) == 2 * shots
    assert [r.label for r in support.records] == [0] * shots + [1] * shots


@settings(deadline=None, max_examples=50)
@given(records=listings(), shots=st.integers(1, 4), seed=st.integers(0, 9))
def test_patients_repeat_only_when_there_are_too_few(records: list[Record], shots: int, seed: int) -> None:
    drawn = draw_support(records, shots, seed).normal
    known = [r.patient for r in drawn if r.patient is not None]
    pool = [r.patient for r in records if r.label == 0]
    distinct = len(set(pool) - {None}) + pool.count(None)
    assert len(set(known)) + drawn_without(drawn) == min(shots, distinct)


def drawn_without(drawn: tuple[Record, ...]) -> int:
    return sum(r.patient is None for r in drawn)


@settings(deadline=None, max_examples=50)
@given(records=listings(), shots=st.integers(1, 4), seed=st.integers(0, 9), strict=st.booleans())
def test_held_out_is_disjoint(records: list[Record], shots: int, seed: int, strict: bool) -> None:
    support = draw_support(records, shots, seed)
    rest = held_out(records, support, strict=strict)
    assert not {r.path for r in rest} & {r.path for r in support.records}
    assert rest == [r for r in records if r in rest]
    for r in rest:
        for s in support.records:
            assert r.name != s.name or (r.patient is not None and s.patient is not None and r.patient != s.patient)
            assert not strict or r.patient is None or r.patient != s.patient
    assert {r.path for r in rest if strict} <= {r.path for r in held_out(records, support, strict=False)}


def test_seeds_differ_and_every_image_can_be_drawn() -> None:
    records = [record(f"{i}.png", label) for i in range(6) for label in (0, 1)]
    draws = [draw_support(records, 2, seed) for seed in range(60)]
    assert {r.path for d in draws for r in d.records} == {r.path for r in records}
    assert len({tuple(r.name for r in d.normal) for d in draws}) > 10
    # One seed must not choose the same positions of both lists, or paired sets would give the same slice twice.
    assert any({r.name for r in d.normal} != {r.name for r in d.abnormal} for d in draws)


def test_normal_and_abnormal_come_from_different_patients_where_possible() -> None:
    records = [record(f"{i}.png", label, patient=f"p{i}") for i in range(6) for label in (0, 1)]
    for seed in range(20):
        patients = [r.patient for r in draw_support(records, 3, seed).records]
        assert len(set(patients)) == 6


def test_too_few_images_and_bad_numbers() -> None:
    records = [record(f"{i}.png", 0) for i in range(5)] + [record("a.png", 1), record("b.png", None)]
    with pytest.raises(DataError, match=r"at least 2 normal and 2 abnormal.*got 5 normal and 1 abnormal"):
        draw_support(records, 2, 0)
    with pytest.raises(SettingsError, match="shots >= 1 and seed >= 0, got shots 0, seed 0"):
        draw_support(records, 0, 0)
    with pytest.raises(SettingsError, match="got shots 1, seed -1"):
        draw_support(records, 1, -1)


def test_twins_frames_and_patients() -> None:
    taken = record("s.png", 0, patient="A")
    scan = Record(Path("v.nii"), 1, frame=3)
    support = SupportSet((taken,), (scan,), "mine")
    twin = record("s.png", 1)
    other = record("s.png", 1, patient="B")
    same_patient = record("t.png", 0, patient="A")
    next_slice = Record(Path("v.nii"), 1, frame=4)
    unknown = record("u.png", 0)
    everything = [taken, scan, twin, other, same_patient, next_slice, unknown]
    assert held_out(everything, support) == [other, unknown]
    assert held_out(everything, support, strict=False) == [other, same_patient, next_slice, unknown]


def test_real_paired_slices_never_stay(shared: Path) -> None:
    valid = benchmark_records(shared / "data", "LiverROI", "valid")
    support = published_support(shared / "data", "LiverROI", 4, 0, valid)
    rest = held_out(valid, support, strict=False)
    assert not {r.name for r in rest} & {r.name for r in support.records}
    assert len(rest) == 80 - 2 * len({r.name for r in support.records})
