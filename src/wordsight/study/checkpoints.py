"""Published checkpoints, safetensors and run folders into one another, every tensor accounted for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wordsight.data import SupportSet, canonical_name
from wordsight.errors import DataError, SettingsError, WeightsError
from wordsight.models.mla.settings import OBJECT_NAMES, MlaSettings, Position
from wordsight.study.backbone import open_clip_for
from wordsight.study.folders import DETECTOR, write_run
from wordsight.study.options import TrainOptions, plain
from wordsight.study.plan import described_support, find_support

if TYPE_CHECKING:
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.weights import AdapterWeights

PUBLISHED_SUFFIXES, OUR_SUFFIX = (".pth", ".pt"), ".safetensors"


@dataclass(frozen=True, slots=True)
class Converted:
    """What was read and written: shapes by name, the method, the numbers stored beside them, and what to know."""

    target: Path
    method: str
    shapes: dict[str, tuple[int, ...]]
    info: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        total = 0
        for shape in self.shapes.values():
            count = 1
            for side in shape:
                count *= side
            total += count
        return total


def read_adapters(source: Path) -> tuple[AdapterWeights, dict[str, Any]]:
    """Adapters and contexts of a published checkpoint, a safetensors file of ours, or a run folder; and its metadata.

    What a file is is read from its content. Raises WeightsError.
    """
    from wordsight.models.mla.storage import ADAPTERS
    from wordsight.models.mla.weights import read_published, read_safetensors
    from wordsight.models.tensor_files import looks_like

    if source.is_dir():
        if not (source / DETECTOR).is_file():
            raise WeightsError(f"{source}: expected a run folder ({DETECTOR} inside) or a file, found neither.")
        return read_safetensors(source / ADAPTERS)
    if not source.is_file():
        raise WeightsError(f"{source}: no such file. Give a published .pth, a .safetensors file or a run folder.")
    if looks_like(source) == "a safetensors file":
        return read_safetensors(source)
    return read_published(source), {}


def convert(source: Path, target: Path, *, settings: str | None = None, overwrite: bool = False) -> Converted:
    """Read weights from `source`, write them to `target` (.pth or .pt: published; .safetensors: ours), compare bits.

    The source's content tells whether they are adapters of MLA-LP or MVFA, whose published forms differ in whether
    there are contexts, or a CARZero (whose published file may end in .ckpt, too). settings: of a CARZero that is not
    the published variant and does not store its own, see `carzero_settings`.
    Raises WeightsError for what cannot be read or came back different, SettingsError for a target of another kind or
    one that exists.
    """
    from wordsight.models.carzero.storage import WEIGHTS, is_carzero_folder
    from wordsight.models.carzero.weights import is_carzero
    from wordsight.models.mla.weights import write_published, write_safetensors

    source = source / WEIGHTS if is_carzero_folder(source) else source
    if source.is_file() and is_carzero(source):
        from wordsight.study.carzero_files import convert_carzero

        return convert_carzero(source, target, settings=settings, overwrite=overwrite)
    if settings is not None:
        raise SettingsError(f"{source}: holds no CARZero, and settings are for one. Leave --settings out.")
    suffix = target.suffix.lower()
    if suffix not in (*PUBLISHED_SUFFIXES, OUR_SUFFIX):
        raise SettingsError(
            f"{target}: expected a name that ends in .safetensors (ours) or .pth (published), got {target.name!r}. "
            "For a folder that predict and evaluate take, name the backbone too: --architecture ViT-L-14-336."
        )
    if target.exists() and not overwrite:
        raise SettingsError(f"{target}: exists already and is not overwritten. Choose another name or delete it.")
    weights, metadata = read_adapters(source)
    method = "mvfa" if weights.contexts is None else "mla"
    if suffix == OUR_SUFFIX:
        kept = {key: value for key, value in metadata.items() if key not in ("format", "version", "info")}
        write_safetensors(target, weights, kept)
    else:
        write_published(target, weights, "mvfa" if method == "mvfa" else "mla")
    back, _ = read_adapters(target)
    compare(weights, back, target)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.flat().items()}
    notes = () if suffix == OUR_SUFFIX else _lost_settings(metadata, method)
    return Converted(target, method, shapes, dict(weights.info), notes)


def _lost_settings(metadata: Mapping[str, Any], method: str) -> tuple[str, ...]:
    """What a published file cannot say: settings of the network that differ from the published ones."""
    stored = metadata.get("settings")
    if not isinstance(stored, Mapping):
        return ()
    known = MlaSettings.published() if method == "mla" else MlaSettings.mvfa("image")
    found = MlaSettings.from_json(stored)
    names = [f.name for f in fields(MlaSettings) if f.name not in ("object_name", "detection_loss", "dice_on_normal")]
    lost = [f"{name}={getattr(found, name)}" for name in names if getattr(found, name) != getattr(known, name)]
    if not lost:
        return ()
    return (
        f"trained with {', '.join(lost)}, which a published file does not store and the published code does not do",
    )


def compare(wanted: AdapterWeights, found: AdapterWeights, target: Path) -> None:
    """Raise WeightsError unless both hold the same tensors, bit for bit."""
    compare_tensors(wanted.flat(), found.flat(), target)


def compare_tensors(old: Mapping[str, Any], new: Mapping[str, Any], target: Path) -> None:
    """The same for tensors by name."""
    wrong = [name for name in {*old, *new} if name not in old or name not in new or not _same(old[name], new[name])]
    if wrong:
        raise WeightsError(f"{target}: {len(wrong)} tensors differ from their source: {', '.join(sorted(wrong)[:5])}.")


def _same(a: Any, b: Any) -> bool:
    """Equal type, shape and bytes, NaN included."""
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes())


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run folder made of a checkpoint needs besides.

    architecture, weights: the frozen CLIP it was trained with. data, target, shots, draw, support: where its normal
    support images lie, for the memory bank of few-shot scores (data None: text scores alone, as in zero-shot).
    object_name: what MVFA's sentences name, None for the published name of the target.
    """

    architecture: str
    weights: Path | None = None
    data: Path | None = None
    target: str | None = None
    shots: int = 4
    draw: int = 0
    support: str = "auto"
    object_name: str | None = None
    device: str = "auto"


def convert_to_run(source: Path, folder: Path, options: RunOptions) -> MlaLp:
    """A run folder that predict and evaluate take, from a checkpoint and its backbone; published settings.

    Adapters, number of levels and context length must fit the backbone. Raises WeightsError, SettingsError, DataError.
    """
    from wordsight.models.carzero.weights import is_carzero
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.model import MlaNetwork
    from wordsight.models.mla.storage import fill_network
    from wordsight.train.engine import find_device

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: exists already and is not overwritten. Choose another folder or delete it.")
    if source.is_file() and is_carzero(source):
        raise SettingsError(
            f"{source}: is a CARZero, which needs no backbone and no run folder. Leave --architecture out, or use it "
            "as it is: wordsight predict --model carzero --weights."
        )
    weights, metadata = read_adapters(source)
    clip, settings = open_clip_for(options.architecture, options.weights, *_settings(weights, metadata, options))
    network = MlaNetwork(clip, settings).eval()
    fill_network(network, weights, source)
    detector = MlaLp(
        network.to_device(find_device(options.device)),
        info={"protocol": "unknown", "selected": f"by whoever made {source.name}", "epoch": weights.info.get("epoch")},
    )
    target = None if options.target is None else canonical_name(options.target, options.data)
    run: dict[str, Any] = {"target": target, "method": detector.name, "profile": "published", "shots": 0}
    if options.data is not None:
        detector, support = _with_support(detector, options)
        run |= {"shots": options.shots, "draw": options.draw, "support": described_support(support)}
    detector.save(folder)
    info = {
        key: value if not isinstance(value, float) or math.isfinite(value) else None
        for key, value in weights.info.items()
    }
    write_run(folder, run, {"checkpoint": str(source), **plain(asdict(options))}, checkpoint=info)
    return detector


def _settings(weights: AdapterWeights, metadata: Mapping[str, Any], options: RunOptions) -> tuple[MlaSettings, bool]:
    """The settings a checkpoint was trained with: those stored with it, else the published ones; and whether its
    levels are known."""
    stored = metadata.get("settings")
    if isinstance(stored, Mapping):
        return MlaSettings.from_json(stored), True
    if weights.contexts is None:
        name = options.object_name or (None if options.target is None else object_of(options.target))
        if name is None:
            raise SettingsError(
                f"an MVFA checkpoint has no prompts of its own: name the set with --target, one of "
                f"{', '.join(OBJECT_NAMES)}, or its object with --object-name."
            )
        return MlaSettings.mvfa(name), False
    first = next(iter(weights.contexts.values()))
    names: tuple[Position, ...] = ("end", "middle", "front")
    positions = tuple(position for position in names if f"ctx.normal_{position}" in weights.contexts)
    return replace(MlaSettings.published(), context=int(first.shape[1]), positions=positions), False


def object_of(target: str) -> str:
    """What MVFA's sentences call the object of a set, given by any of its names."""
    try:
        name = canonical_name(target)
    except DataError:
        name = target
    return OBJECT_NAMES.get(name, name)


def _with_support(detector: MlaLp, options: RunOptions) -> tuple[MlaLp, SupportSet]:
    """The detector with a memory bank of the normal support images, and the support."""
    from wordsight.data import benchmark_records, has_masks
    from wordsight.imaging import read_record

    if options.data is None or options.target is None:
        raise SettingsError("a memory bank needs the data folder and the set: give both --data and --target.")
    target = canonical_name(options.target, options.data)
    wanted = TrainOptions(target, options.data, shots=options.shots, support=options.support)
    valid = benchmark_records(options.data, target, "valid")
    support = find_support(wanted, target, options.draw, valid)
    branch: Literal["seg", "det"] = "seg" if has_masks(valid) else "det"
    normal, abnormal = ([read_record(r) for r in records] for records in (support.normal, support.abnormal))
    return replace(detector, map_branch=branch).with_support(normal, abnormal), support
