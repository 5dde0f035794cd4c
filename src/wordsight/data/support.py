"""Support sets: the few labelled images a few-shot method sees, published or drawn, and what may be tested then."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wordsight.data.benchmark import canonical_name, other_names
from wordsight.data.listing import child, few
from wordsight.errors import DataError, SettingsError
from wordsight.files import write_text
from wordsight.types import Record

Draw = tuple[list[str], list[str]]
"""File names of one published draw: (normal, abnormal)."""
_KINDS = {"n": 0, "a": 1}
_LINE = re.compile(r"([na])-([0-9]{1,4}):((?:\s+\S+)+)")


@dataclass(frozen=True, slots=True)
class SupportSet:
    """Labelled images to learn from. origin: where they come from, for the protocol of a result."""

    normal: tuple[Record, ...]
    abnormal: tuple[Record, ...]
    origin: str

    def __post_init__(self) -> None:
        for records, label in ((self.normal, 0), (self.abnormal, 1)):
            wrong = [record.name for record in records if record.label != label]
            if wrong:
                raise DataError(f"support set {self.origin}: expected label {label} for {few(wrong)}. Check the draw.")

    @property
    def records(self) -> tuple[Record, ...]:
        """Normal images, then abnormal ones."""
        return self.normal + self.abnormal


def read_support_file(path: Path, shots: int | None = None) -> dict[int, Draw]:
    """Draws of a published text file: lines `n-0: file1.png file2.png` and `a-0: ...` in any order, blanks between.

    shots: how many names each line must have; None takes it from the file's name (`4-shot.txt`), else any number.
    Returns {draw: (normal names, abnormal names)}. Raises DataError with the line number of what is malformed.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read this support file ({error}). Give a text file of draws.") from error
    named = re.fullmatch(r"([0-9]+)-shot", path.stem)
    wanted = int(named[1]) if shots is None and named else shots
    found: dict[tuple[int, int], list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        kind, draw, names = _support_line(line.strip(), f"{path}, line {number}", wanted)
        if (draw, kind) in found:
            raise DataError(
                f"{path}, line {number}: {line.split(':')[0]} was given before. Remove one of the two lines."
            )
        found[draw, kind] = names
    draws = sorted({draw for draw, _ in found})
    if not draws:
        raise DataError(f"{path}: expected lines such as `n-0: a.png b.png`, found none.")
    halves = [f"{kind}-{draw}" for draw in draws for kind, i in _KINDS.items() if (draw, i) not in found]
    if halves:
        raise DataError(f"{path}: expected an n- and an a- line for every draw, missing {few(halves)}. Add the lines.")
    return {draw: (found[draw, 0], found[draw, 1]) for draw in draws}


def _support_line(line: str, where: str, wanted: int | None) -> tuple[int, int, list[str]]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(f"{where}: expected `n-0: a.png b.png` or `a-0: ...`, got {line[:60]!r}. Correct the line.")
    names = match[3].split()
    if wanted is not None and len(names) != wanted:
        raise DataError(f"{where}: expected {wanted} names, got {len(names)}. Correct the line.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{where}: expected each name once, got {few(repeated)} more than once.")
    unsafe = [name for name in names if "/" in name or "\\" in name or name in (".", "..")]
    if unsafe:
        raise DataError(f"{where}: expected file names without folders, got {few(unsafe)}.")
    return _KINDS[match[1]], int(match[2]), names


def write_support_file(path: Path, draws: Mapping[int, tuple[Sequence[str], Sequence[str]]]) -> None:
    """Write draws {number: (normal names, abnormal names)} in the published form, n before a, in order of number.

    Raises DataError for names that the form cannot hold: with blanks or folders, empty or repeated.
    """
    lines = []
    for draw in sorted(draws):
        for kind, names in zip("na", draws[draw], strict=True):
            split_by_blank = [name for name in names if not name or name.split() != [name]]
            if split_by_blank:
                raise DataError(
                    f"{path}: a support file cannot hold names with blanks: {few(map(repr, split_by_blank))}."
                )
            line = f"{kind}-{draw}: {' '.join(names)}"
            _support_line(line.strip(), f"{path}, {kind}-{draw}", None)
            lines.append(line)
    write_text(path, "\n".join(lines) + "\n")


def published_support(root: Path, name: str, shots: int, draw: int, records: Iterable[Record]) -> SupportSet:
    """The published draw of `<k>-shot.txt` for a set, as records of its valid split.

    root: a folder of `<Name>/<k>-shot.txt`, or one that holds it as `fewshot_seed` or `dataset/fewshot_seed`.
    Raises DataError if the file, the draw, or an image is missing, saying which.
    """
    path = _support_path(Path(root), name, shots)
    draws = read_support_file(path, shots)
    if draw not in draws:
        raise DataError(f"{path}: no draw {draw}. Draws in this file: {few(draws, 20)}.")
    candidates: list[dict[str, Record]] = [{}, {}]
    for record in records:
        if record.label in (0, 1) and record.split in (None, "valid"):
            by_name = candidates[record.label]
            if record.path.name in by_name:
                raise DataError(f"{path}: {record.path.name} is the name of several images of one label. Rename them.")
            by_name[record.path.name] = record
    missing = [
        f"{kind}-{draw} {file}" for kind, i in _KINDS.items() for file in draws[draw][i] if file not in candidates[i]
    ]
    if missing:
        raise DataError(
            f"{path}: expected every named image in the valid split, missing {few(missing)} among "
            f"{len(candidates[0])} normal and {len(candidates[1])} abnormal. Check the data, or draw by seed."
        )
    normal, abnormal = (tuple(candidates[i][file] for file in draws[draw][i]) for i in (0, 1))
    return SupportSet(normal, abnormal, f"list {path.parent.name}/{path.name}, draw {draw}")


def _support_path(root: Path, name: str, shots: int) -> Path:
    roots = [folder for folder in (root, root / "fewshot_seed", root / "dataset" / "fewshot_seed") if folder.is_dir()]
    wanted = [name]
    try:
        wanted += other_names(canonical_name(name))
    except DataError:
        wanted.append(name.strip()[:-3] if name.strip().casefold().endswith("_ad") else name.strip())
    for folder in roots:
        for spelling in wanted:
            found = child(folder, spelling)
            if found is not None and (found / f"{shots}-shot.txt").is_file():
                return found / f"{shots}-shot.txt"
    here = sorted(f"{p.parent.name}/{p.name}" for folder in roots for p in folder.glob("*/*-shot.txt"))
    raise DataError(
        f"looked for {root / wanted[-1] / f'{shots}-shot.txt'} (also below fewshot_seed and dataset/fewshot_seed): "
        f"not found. There: {few(here, 12) or 'no support files'}. Choose one of these, or draw by seed."
    )


def draw_support(records: Iterable[Record], shots: int, seed: int, *, by_patient: bool = True) -> SupportSet:
    """Draw `shots` normal and `shots` abnormal images at random by seed; the order of `records` has no influence.

    by_patient: prefer patients not drawn yet (for abnormal images also those without a normal one drawn), so that
    patients repeat only when there are fewer of them than shots; an image without a patient counts as its own.
    Raises SettingsError for shots or seed out of range, DataError with the counts if there are too few images.
    """
    import numpy as np

    if shots < 1 or seed < 0:
        raise SettingsError(f"expected shots >= 1 and seed >= 0, got shots {shots}, seed {seed}.")
    known = list(records)
    pools = [sorted((r for r in known if r.label == label), key=_order) for label in (0, 1)]
    if min(map(len, pools)) < shots:
        raise DataError(
            f"expected at least {shots} normal and {shots} abnormal images to draw from, got {len(pools[0])} normal "
            f"and {len(pools[1])} abnormal. Ask for fewer shots or give more labelled images."
        )
    used: Counter[str] = Counter()
    chosen: list[tuple[Record, ...]] = []
    for label, pool in enumerate(pools):
        shuffled = [pool[i] for i in np.random.default_rng([seed, label]).permutation(len(pool))]
        if by_patient:
            shuffled = _spread(shuffled, used)
        chosen.append(tuple(shuffled[:shots]))
        used.update(r.patient for r in chosen[-1] if r.patient is not None)
    return SupportSet(chosen[0], chosen[1], f"drawn with seed {seed}, {shots} of {len(pools[0])} + {len(pools[1])}")


def _order(record: Record) -> tuple[str, int, str]:
    """Sort key by name first, so that the folder's place on disk does not matter where names differ."""
    return record.path.name, -1 if record.frame is None else record.frame, record.path.as_posix()


def _spread(records: list[Record], used: Mapping[str, int]) -> list[Record]:
    """Reorder so that the images of patients seen least often come first; otherwise the order is kept."""
    seen = Counter(used)
    ranks = []
    for record in records:
        ranks.append(0 if record.patient is None else seen[record.patient])
        if record.patient is not None:
            seen[record.patient] += 1
    order = sorted(range(len(records)), key=ranks.__getitem__)
    return [records[i] for i in order]


def held_out(records: Iterable[Record], support: SupportSet, *, strict: bool = True) -> list[Record]:
    """Records that may be tested after learning from `support`, in their order.

    Never the support images themselves, nor a twin: an image of the same file name (and frame) that is not known to be
    of another patient, such as the same slice with and without a lesion. strict also leaves out every other image of
    a support patient and every other frame of a support file; the result can then be empty.
    """
    taken = support.records
    own = {(r.path, r.frame) for r in taken}
    files = {r.path for r in taken}
    patients = {r.patient for r in taken if r.patient is not None}
    owners: dict[str, set[str | None]] = {}
    for record in taken:
        owners.setdefault(record.name, set()).add(record.patient)
    rest = []
    for record in records:
        of_name = owners.get(record.name, set())
        twin = bool(of_name) and (record.patient is None or None in of_name or record.patient in of_name)
        related = strict and (record.patient in patients or record.path in files)
        if not (twin or related or (record.path, record.frame) in own):
            rest.append(record)
    return rest
