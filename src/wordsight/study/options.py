"""What a piece of work needs to know, as plain values; nothing here loads a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wordsight.errors import SettingsError
from wordsight.models.mla.settings import MlaSettings
from wordsight.train.recipes import Method, Profile, recipe
from wordsight.train.settings import MlaTraining

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation
    from wordsight.models.precision import PrecisionChoice
    from wordsight.models.runtime import Runtime

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, eq=False)
class Study:
    """What came out: the evaluations, where everything was written, the page to look at, and what to know about it."""

    evaluations: tuple[Evaluation, ...]
    folder: Path
    report: Path | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Train MLA-LP or MVFA on one set, once per support draw and training seed.

    target: the set, by any of its names. data: the folder that holds the sets, or a manifest of one's own images with
    splits, then target is a name to give, None for the table's. out: the output folder, None for
    runs/<target>-<shots>shot[-mvfa]. shots: support images per class; 0 trains on the other sets (zero-shot).
    draws: which support sets; seeds: of training. method: "mla" or "mvfa". architecture, weights: the frozen CLIP, see
    `load_clip`. profile: settings to start from, see `recipe`; settings, training: fields that differ from it.
    support: "auto" takes the published lists where they have the draw and else draws by seed, "random" always draws,
    anything else is a folder of lists. sources: sets to train on zero-shot, None for all others in the data folder.
    initial: a checkpoint of adapters to start from. evaluate: measure on the target's test split.
    bootstrap: draws of the intervals. heatmaps: files per evaluation, None for all. eval_batch: images at a time.
    workers: processes that check files before, read while it measures and draw after, None for as many as suit the
    device, 0 for none; see `Helpers`.
    window, frame: how files are read, see `read_as`; the run keeps them. allow_outside: see `read_manifest`.
    Raises SettingsError for values out of range.
    """

    target: str | None
    data: Path = Path("data")
    out: Path | None = None
    shots: int = 4
    draws: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (111,)
    method: Method = "mla"
    architecture: str = "tiny"
    weights: Path | None = None
    profile: Profile = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    support: str = "auto"
    sources: tuple[str, ...] | None = None
    initial: Path | None = None
    evaluate: bool = True
    bootstrap: int = 1000
    heatmaps: int | None = None
    eval_batch: int = 8
    workers: int | None = 0
    window: str | None = None
    frame: int | None = None
    allow_outside: bool = False

    def __post_init__(self) -> None:
        for name, values in (("draws", self.draws), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values) or min(values) < 0:
                raise SettingsError(f"{name}: expected different whole numbers from 0, got {list(values)}.")
        if self.shots < 0:
            raise SettingsError(f"shots: expected 0 (zero-shot) or more, got {self.shots}.")
        check_fields("settings", self.settings, MlaSettings)
        check_fields("training", self.training, MlaTraining)
        if "seed" in self.training:
            raise SettingsError("training seed: expected it among `seeds`, got it in `training`. Move it there.")

    def resolved(self, target: str) -> tuple[MlaSettings, MlaTraining]:
        """Settings of the profile for a set's canonical name, with what differs; levels as in a tower of 24 blocks."""
        settings, training = recipe(self.profile, self.method, self.shots, self.architecture, target=target)
        return replace(settings, **self.settings), replace(training, **self.training)

    def folder(self, target: str) -> Path:
        """The output folder for a set's canonical name."""
        method = "" if self.method == "mla" else f"-{self.method}"
        return self.out or Path("runs") / f"{target}-{self.shots}shot{method}".lower()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with every run."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Measure trained runs on labelled images.

    runs: run folders, or folders of several draws. data: a folder of sets, or labelled images or a manifest as
    `records_from` takes them. target: the set in that folder, None for the one trained for. split: which part of it.
    allow_outside: a manifest may name files outside its folder.
    out: None for the run's own folder, or for other data a folder inside it. weights: the backbone's file where it is
    not where training found it. device: auto, cpu, cuda or cuda:<number>. precision: None as the run was trained.
    runtime: eager, or compile where torch.compile works, see `models.runtime`.
    transductive: scale scores over the test images, the papers' protocol; None: as the run's protocol says.
    regions, patient_pattern: organ masks and patients of a set in the benchmark's layout, see `benchmark_records`.
    bootstrap, heatmaps, eval_batch: as in TrainOptions. window, frame: None as the run was trained.
    workers: processes that read and draw meanwhile, None for as many as suit the device, 0 for none; see `Helpers`.
    """

    runs: tuple[Path, ...]
    data: Path = Path("data")
    target: str | None = None
    split: Split = "test"
    out: Path | None = None
    weights: Path | None = None
    device: str = "auto"
    precision: PrecisionChoice | None = None
    runtime: Runtime = "eager"
    transductive: bool | None = None
    regions: Path | None = None
    patient_pattern: str | None = None
    bootstrap: int = 1000
    heatmaps: int | None = None
    eval_batch: int = 8
    workers: int | None = 0
    allow_outside: bool = False
    window: str | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Scores and heatmaps for images without labels.

    model: a run folder, or "carzero". source: an image, a folder, a DICOM tree, or a manifest. out: None for
    predictions/<source's name>. weights: CARZero's weights, or the backbone's file of a run where it is not where
    training found it. ask: what CARZero is asked; a run of MLA-LP or MVFA takes nothing. maps: whether there are maps
    at all; heatmaps: write them on each image's own grid, for `top` highest-scored findings per image, None for all.
    all_frames: every frame of multi-frame files, not the first. overwrite: drop what lies in the output folder.
    allow_outside: a manifest may name files outside its folder.
    device, runtime, eval_batch, workers: as in EvaluateOptions. precision: None as the run was trained, for CARZero
    fp32.
    window, frame: how files are read, see `read_as`; None as the run was trained.
    Raises SettingsError for values out of range.
    """

    model: str
    source: Path
    out: Path | None = None
    weights: Path | None = None
    ask: AskOptions = field(default_factory=lambda: AskOptions())
    device: str = "auto"
    precision: PrecisionChoice | None = None
    runtime: Runtime = "eager"
    maps: bool = True
    heatmaps: bool = True
    top: int | None = 3
    all_frames: bool = False
    eval_batch: int = 8
    workers: int | None = 0
    overwrite: bool = False
    allow_outside: bool = False
    window: str | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        if self.eval_batch < 1:
            raise SettingsError(f"batch size: expected 1 image or more, got {self.eval_batch}.")
        if self.all_frames and self.frame is not None:
            raise SettingsError("--all-frames: expected no --frame with it, got one. Leave one of them out.")
        if self.top is not None and self.top < 1:
            raise SettingsError(f"top: expected 1 finding or more, got {self.top}. Use --no-heatmaps for none.")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.out or Path("predictions") / (self.source.resolve().stem or "images")


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What CARZero is asked and how.

    text: folder of the text encoder's tokenizer, or its name in the Hugging Face cache;
    text_download: fetch it there. prompts: a shipped set's name,
    a JSON file, findings or sentences, see `prompt_set`. negatives: JSON file with sentences that deny the findings.
    scores: "logit", or "pair" for the probability of a finding's sentences against those that deny it. similarity:
    "fusion", or for comparison "global", "local" or "both" of the features alone. combine: "mean" or "max" of a
    finding's sentences. map_style: "smooth" or "published" (repeated cells). settings: "published",
    "corrected", a variant's name or a JSON file, see `carzero_settings`. cache: folder of encoded prompts.
    """

    text: str | None = None
    prompts: str | None = None
    negatives: Path | None = None
    scores: Literal["logit", "pair"] = "logit"
    similarity: Literal["fusion", "global", "local", "both"] = "fusion"
    combine: Literal["mean", "max"] = "mean"
    map_style: Literal["smooth", "published"] = "smooth"
    settings: str | None = None
    cache: Path | None = None
    text_download: bool = False

    def given(self) -> list[str]:
        """Names of the values that are not the default; the cache does not count."""
        return [f.name for f in fields(self) if f.name != "cache" and getattr(self, f.name) != f.default]


def plain(value: Any) -> Any:
    """A JSON value: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value


def check_fields(what: str, values: Mapping[str, Any], owner: Any) -> None:
    """Raise SettingsError for names that are no fields of a dataclass."""
    names = {f.name for f in fields(owner)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise SettingsError(f"{what}: unknown {', '.join(unknown)}. Known are {', '.join(sorted(names))}.")
