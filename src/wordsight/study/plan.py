"""What a study trains on and is measured on: records of the target, its support draws, and the other sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordsight.data import (
    SupportSet,
    canonical_name,
    draw_support,
    hash_records,
    held_out,
    published_support,
    read_support_file,
)
from wordsight.data.benchmark import other_names, set_folder, set_names
from wordsight.data.listing import child
from wordsight.errors import DataError
from wordsight.files import file_hash
from wordsight.models.mla.settings import MlaSettings
from wordsight.progress import progress
from wordsight.study.options import TrainOptions
from wordsight.study.target import check_target, target_records
from wordsight.train.settings import MlaTraining
from wordsight.types import Record


@dataclass(frozen=True, slots=True)
class Run:
    """One training: which draw and seed, where it lies, what it learns from and is chosen by.

    draw: None for zero-shot. support: None for zero-shot. sources: set -> (training records, selection records).
    """

    draw: int | None
    seed: int
    folder: Path
    support: SupportSet | None
    selection: tuple[Record, ...]
    sources: dict[str, tuple[tuple[Record, ...], tuple[Record, ...]]]
    test: tuple[Record, ...]

    @property
    def records(self) -> list[Record]:
        """Every image that training reads."""
        used = [*self.selection, *self.test]
        if self.support is not None:
            used += self.support.records
        for part in self.sources.values():
            used += [*part[0], *part[1]]
        return used

    def describe(self, settings: MlaSettings, training: MlaTraining) -> dict[str, Any]:
        """Everything that decides what training gives, as plain values: two runs with the same are the same run."""
        values = training.to_json()
        del values["device"], values["cache_gb"], values["cache_disk_gb"]
        return {
            "draw": self.draw,
            "seed": self.seed,
            "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.to_json().items()},
            "training": values,
            "support": described_support(self.support),
            "sources": {name: [len(part[0]), len(part[1])] for name, part in self.sources.items()},
            "selection_images": len(self.selection),
            "training_data_hash": hash_records(self.records),
        }

    def seen(self) -> dict[str, list[str]]:
        """Contents (SHA-256) of the files that weights were trained on, and of those that epoch and scale came from.

        Not the test images of protocol "published": what is measured there is said by its name.
        """
        trained = [] if self.support is None else [*self.support.records]
        chosen = [*self.selection]
        for training, selection in self.sources.values():
            trained += training
            chosen += () if self.test else selection
        files = [list(dict.fromkeys(record.path for record in records)) for records in (trained, chosen)]
        with progress("hashing training images", sum(map(len, files)), "files") as bar:
            found: list[list[str]] = []
            for paths in files:
                found.append([])
                for path in paths:
                    found[-1].append(file_hash(path))
                    bar.advance()
        return {"trained": found[0], "chosen": found[1]}


def described_support(support: SupportSet | None) -> dict[str, Any] | None:
    """Where a support set comes from, its file names, and their hashes; None for none."""
    if support is None:
        return None
    return {
        "origin": support.origin,
        "normal": [record.name for record in support.normal],
        "abnormal": [record.name for record in support.abnormal],
        "hashes": [file_hash(record.path) for record in support.records],
    }


def plan_runs(options: TrainOptions, target: str, training: MlaTraining) -> list[Run]:
    """The runs of a study, every record found and every folder named, before anything is trained.

    Raises DataError for sets, splits, lists or images that are missing.
    """
    check_target(options, target)
    folder = options.folder(target)
    pairs = [(draw, seed) for draw in (options.draws if options.shots else (None,)) for seed in options.seeds]
    published = training.protocol == "published"
    test = tuple(target_records(options, target, "test")) if published or options.evaluate else ()
    if not options.shots:
        sources = source_records(options, target)
        return [
            Run(None, seed, place(folder, pairs, None, seed), None, (), sources, test if published else ())
            for _, seed in pairs
        ]
    valid = target_records(options, target, "valid")
    runs = []
    for draw, seed in pairs:
        assert draw is not None
        support = find_support(options, target, draw, valid)
        selection = tuple(held_out(valid, support)) if training.protocol == "validation" else ()
        runs.append(
            Run(draw, seed, place(folder, pairs, draw, seed), support, selection, {}, test if published else ())
        )
    return runs


def place(folder: Path, pairs: Sequence[tuple[int | None, int]], draw: int | None, seed: int) -> Path:
    """A run's folder: the study's own for a single run, else draw-0, seed-1 or draw-0-seed-1 in it."""
    if len(pairs) == 1:
        return folder
    parts = [] if draw is None else [f"draw-{draw}"]
    if draw is None or len({s for _, s in pairs}) > 1:
        parts.append(f"seed-{seed}")
    return folder / "-".join(parts)


def find_support(options: TrainOptions, target: str, draw: int, valid: Sequence[Record]) -> SupportSet:
    """The published draw where a list has it, else a random one by seed `draw` (see TrainOptions.support)."""
    if options.support not in ("auto", "random"):
        return published_support(Path(options.support), target, options.shots, draw, valid)
    if options.support == "auto" and not options.data.is_file():
        for root in (options.data, options.data / "dataset", options.data.parent / "dataset", Path("dataset")):
            listed = _list_file(root / "fewshot_seed", target, options.shots)
            if listed is not None and draw in read_support_file(listed, options.shots):
                return published_support(root / "fewshot_seed", target, options.shots, draw, valid)
    return draw_support(valid, options.shots, draw)


def _list_file(root: Path, target: str, shots: int) -> Path | None:
    """`<root>/<Name>/<k>-shot.txt` by any name of the set."""
    folders = (child(root, name) for name in other_names(target))
    files = (folder / f"{shots}-shot.txt" for folder in folders if folder is not None)
    return next((file for file in files if file.is_file()), None)


def source_records(options: TrainOptions, target: str) -> dict[str, tuple[tuple[Record, ...], tuple[Record, ...]]]:
    """The other sets: trained on their test splits as published, chosen by their valid splits.

    Raises DataError if there is no other set or the target is among the named ones.
    """
    if options.sources is not None:
        names = [canonical_name(name, options.data) for name in options.sources]
    else:
        names = [name for name in set_names(options.data) if name != target]
    if target in names:
        raise DataError(f"zero-shot training on {target} for {target} itself: leave it out of the sources.")
    if not names:
        raise DataError(
            f"zero-shot training of {target} needs at least one other set in {options.data}, found none. Put "
            "<Name>_AD folders of other sets beside it, or make synthetic ones with `wordsight data phantoms DIR`."
        )
    found = {}
    for name in names:
        splits = set_folder(options.data, name)
        held = target_records(options, name, "valid") if child(splits, "valid") else []
        both = {record.label for record in held} == {0, 1}
        found[name] = (tuple(target_records(options, name, "test")), tuple(held) if both else ())
    return found
