"""Pretrain CARZero on a table of images with reports: settings, starting weights, folder, training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.errors import SettingsError
from wordsight.models.carzero.settings import VARIANTS, CarZeroSettings, variant
from wordsight.study.folders import check_folder, read_run, write_run
from wordsight.study.options import check_fields, plain
from wordsight.train.carzero_settings import CarZeroTraining, Recipe
from wordsight.train.launch import is_first, launched

if TYPE_CHECKING:
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.model import CarZeroNetwork
    from wordsight.train.carzero import Run
    from wordsight.train.carzero_data import ReportSets

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CarZeroOptions:
    """What to pretrain on what.

    manifest: CSV or Parquet with path and report (see `report_sets`). out: the run folder. recipe: settings to start
    from; training: fields of CarZeroTraining that differ. text: folder of a BERT: tokenizer, config.json, weights.
    network: a published variant ("mlp_gl", "gl", "local", "global") or a JSON file as `CarZeroSettings.to_json` writes
    it. image_start: M3AE, MAE or ResNet-50 weights; None: random. text_start: begin with the weights in `text`.
    initial: a whole CARZero to begin with instead (checkpoint, safetensors, run folder or "tiny"), with its settings.
    allow_outside: the table may name files outside its folder. captions_column: its column of prompts made beforehand.
    Under torchrun `training` has as many devices as there are processes, unless it names them.
    Raises SettingsError for options that contradict each other.
    """

    manifest: Path
    out: Path
    recipe: Recipe = "corrected"
    text: Path | None = None
    network: str = "mlp_gl"
    image_start: Path | None = None
    text_start: bool = True
    initial: Path | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    allow_outside: bool = False
    captions_column: str | None = None

    def __post_init__(self) -> None:
        check_fields("training", self.training, CarZeroTraining)
        if self.initial is not None and self.image_start is not None:
            raise SettingsError("expected initial or image_start, got both: a whole CARZero has an image encoder.")
        if self.initial is None and self.text is None:
            raise SettingsError(
                "text: expected the folder of a BERT (vocab.txt or tokenizer.json, config.json, model.safetensors), "
                "got none. Name it, or a whole CARZero with initial."
            )

    @property
    def resolved(self) -> CarZeroTraining:
        """The recipe with what differs."""
        processes = launched()
        spread = {} if processes is None else {"devices": processes.world}
        return replace(CarZeroTraining.of(self.recipe), **{**spread, **self.training})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with the run."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, eq=False)
class CarZeroStudy:
    """The trained detector, its folder, what the run says of itself, and what to know about it."""

    detector: CarZero
    folder: Path
    card: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def train_carzero(options: CarZeroOptions, *, say: Say | None = None) -> CarZeroStudy:
    """Pretrain, or go on, and return the weights of the epoch with the smallest validation loss.

    Everything is checked before the training starts. say: told of the losses after every epoch. Under torchrun every
    process calls this; the first alone checks and writes the folder.
    Raises the errors of data, weights, settings and training.
    """
    from wordsight.models.carzero.storage import read_card
    from wordsight.train.carzero import fit
    from wordsight.train.carzero_data import report_sets

    training = options.resolved
    settings, text = _settings(options)
    sets = report_sets(
        options.manifest,
        training,
        settings,
        allow_outside=options.allow_outside,
        captions_column=options.captions_column,
    )
    described = _describe(options, settings, training, sets)
    if is_first():
        _check(options.out, described)
    network = _network(options, settings, text, training.seed)
    if is_first():
        write_run(options.out, described, options.to_json())
    watch = None if say is None else partial(_say_epoch, say=say)
    detector = fit(network, text, sets, training, options.out, after_epoch=watch)
    return CarZeroStudy(detector, options.out, read_card(options.out), _notes(options, sets))


def _settings(options: CarZeroOptions) -> tuple[CarZeroSettings, Path]:
    """Settings of the network, and the folder of its tokenizer."""
    from wordsight.models.carzero.text_input import find_text_folder
    from wordsight.models.carzero.weights import read_state, settings_for, text_shape
    from wordsight.models.tensor_files import require_file

    if options.initial is not None:
        weights, own = _initial_files(options.initial)
        require_file(weights)
        if options.text is None and own is None:
            raise SettingsError(
                f"text: expected the folder of the text encoder of {weights} (command line: --text), got none. A run "
                "folder brings its own; a file of weights does not."
            )
        text = find_text_folder(options.text or own or "")
        return settings_for(*read_state(weights), bert=text_shape(text)), text
    text = find_text_folder(options.text or "")
    if options.network in VARIANTS:
        settings = variant(options.network)
        settings = replace(settings, text=text_shape(text) or settings.text)
    else:
        settings = _read_settings(Path(options.network))
    return (settings.corrected() if options.recipe == "corrected" else settings), text


def _read_settings(path: Path) -> CarZeroSettings:
    try:
        return CarZeroSettings.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"network: expected one of {', '.join(VARIANTS)} or a JSON file of settings, got {str(path)!r} ({error})."
        ) from error


def _initial_files(initial: Path) -> tuple[Path, Path | None]:
    """Weights of a CARZero to begin with, and the tokenizer's folder where they have one."""
    from wordsight.models.carzero.storage import TEXT, WEIGHTS, is_carzero_folder, tiny_folder

    folder = tiny_folder() if str(initial) == "tiny" else initial
    return (folder / WEIGHTS, folder / TEXT) if is_carzero_folder(folder) else (folder, None)


def _network(options: CarZeroOptions, settings: CarZeroSettings, text: Path, seed: int) -> CarZeroNetwork:
    """The network as the training finds it."""
    from wordsight.models.carzero.model import CarZeroNetwork
    from wordsight.models.carzero.weights import load_network, read_image_start, read_text_start

    if options.initial is not None:
        return load_network(_initial_files(options.initial)[0], settings)
    network = CarZeroNetwork(settings, seed=seed)
    if options.image_start is not None:
        read_image_start(options.image_start, network)
    if options.text_start:
        read_text_start(text, network)
    return network


def _describe(
    options: CarZeroOptions, settings: CarZeroSettings, training: CarZeroTraining, sets: ReportSets
) -> dict[str, Any]:
    started = {name: plain(getattr(options, name)) for name in ("image_start", "text_start", "initial")}
    return {
        "method": "carzero",
        "recipe": options.recipe,
        "settings": settings.to_json(),
        "training": training.deciding(),
        "data": sets.fingerprint(),
        **started,
    }


def _check(folder: Path, described: Mapping[str, Any]) -> None:
    """Raise SettingsError if the folder belongs to another run."""
    from wordsight.models.carzero.storage import is_carzero_folder

    if read_run(folder) is None and is_carzero_folder(folder):
        raise SettingsError(
            f"{folder}: holds a CARZero that no training with these settings left there. Choose another."
        )
    check_folder(folder, described)


def _notes(options: CarZeroOptions, sets: ReportSets) -> tuple[str, ...]:
    notes = [f"{len(sets.train)} images to learn from, {len(sets.valid)} to judge by ({sets.how})"]
    if sets.without:
        notes.append(f"{sets.without} images without a sentence in their report were left out")
    if options.initial is None:
        random = [] if options.image_start else ["image encoder"]
        random += [] if options.text_start else ["text encoder"]
        notes += [f"the {' and the '.join(random)} began at random"] if random else []
    return tuple(notes)


def _say_epoch(run: Run, say: Say) -> None:
    entry = run.history[-1]
    losses = [e["loss"] for e in run.history if e.get("epoch") == entry["epoch"] and "loss" in e]
    mean = sum(losses) / max(len(losses), 1)
    best = ", smallest so far" if entry["best"] else ""
    say(f"epoch {entry['epoch']}/{run.training.epochs}: loss {mean:.4f}, validation {entry['valid_loss']:.4f}{best}")
