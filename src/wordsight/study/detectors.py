"""From options to something that predicts: a trained run, or CARZero with its prompts; and what decides its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.imaging import InputSpec, Prepared
from wordsight.study.folders import detector_folders
from wordsight.study.options import AskOptions, EvaluateOptions, PredictOptions
from wordsight.text.prompts import SHIPPED, prompt_set
from wordsight.types import Prediction, PromptSet

if TYPE_CHECKING:
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.settings import CarZeroSettings
    from wordsight.models.mla.detector import MlaLp

CARZERO, TINY = "carzero", "tiny"
D = TypeVar("D", "MlaLp", "CarZero")


@dataclass(frozen=True, eq=False)
class Looker:
    """Something that predicts.

    look: images, prepared by `spec` -> predictions. batch: images that it takes at a time. decides: plain values that
    decide its numbers.
    limits, limits_words: ends of the colour map, None for those of the kind of score.
    """

    look: Callable[[Sequence[Prepared]], list[Prediction]]
    spec: InputSpec
    batch: int
    decides: Mapping[str, Any]
    limits: tuple[float, float] | None = None
    limits_words: str = ""


def open_looker(options: PredictOptions) -> Looker:
    """What `options.model` names, ready to predict. Raises SettingsError, PromptError and the errors of weights."""
    if options.model == CARZERO:
        return _looker_of_carzero(_load_carzero(options), options)
    return _looker_of_run(options)


def device_of(options: PredictOptions | EvaluateOptions) -> str:
    """The device asked for. Raises SettingsError where it is not there or cannot compute in the precision."""
    from wordsight.train.engine import find_device

    wanted = options.precision
    return str(find_device(options.device, "fp32" if wanted is None or wanted == "auto" else wanted))


def computing(detector: D, options: PredictOptions | EvaluateOptions) -> D:
    """The detector, computing on its device in the precision and runtime asked for; precision None leaves its own."""
    from wordsight.models.precision import resolve_precision
    from wordsight.models.runtime import resolve_runtime

    device, wanted = detector.device, options.precision
    precision = detector.precision if wanted is None else resolve_precision(wanted, device)
    return replace(detector, precision=precision, runtime=resolve_runtime(options.runtime, device))


# -- runs ----------------------------------------------------------------------------------------------------------


def _looker_of_run(options: PredictOptions) -> Looker:
    """A trained run folder, of either method."""
    from wordsight.loading import load
    from wordsight.models.carzero.storage import is_carzero_folder

    folder = Path(options.model).expanduser()
    if not folder.exists():
        raise WeightsError(
            f"{folder}: no such run folder, and no method that predicts without one ({CARZERO}). Train one with "
            "`wordsight train mla` or `wordsight train carzero`."
        )
    device = device_of(options)
    if is_carzero_folder(folder):
        _refuse_own(options)
        return _looker_of_carzero(load(folder, weights=options.weights, device=device), options)
    folders = detector_folders(folder)
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise SettingsError(f"{options.model}: holds several detectors ({names}). Name the folder of one of them.")
    _refuse_questions(options)
    detector: MlaLp = load(folders[0], weights=options.weights, device=device)
    return _looker_of_mla(replace(computing(detector, options), batch_size=options.eval_batch))


def _refuse_own(options: PredictOptions) -> None:
    """A CARZero that was trained here has its text encoder and settings in its folder; prompts it needs."""
    own = {
        "--text": options.ask.text,
        "--text-download": options.ask.text_download or None,
        "--settings": options.ask.settings,
    }
    given = [flag for flag, value in own.items() if value is not None]
    if given:
        name = f"{options.model} --weights tiny" if options.model == CARZERO else options.model
        raise SettingsError(f"{name}: has its own, got {' and '.join(given)}. Leave it out.")
    _wanted_prompts(options.ask)  # before minutes of loading


def _refuse_questions(options: PredictOptions) -> None:
    given = options.ask.given()
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(
            f"{options.model}: a run of MLA-LP or MVFA has words of its own, got {flags}. Leave it out, or give "
            "--model carzero."
        )


def _looker_of_mla(detector: MlaLp) -> Looker:
    """The detector's own predictions."""
    decides = {
        "method": detector.name,
        "weights": detector.weights_hash,
        "mode": detector.mode,
        "map_branch": detector.map_branch,
        "precision": detector.precision,
        **({} if detector.runtime == "eager" else {"runtime": detector.runtime}),
        "bank": None if detector.bank is None else detector.bank.content,
        "relative bank": None if detector.relative_bank is None else detector.relative_bank.content,
        "scale": detector.scale.to_json(),
        "reading": detector.reading.to_json(),
        "settings": detector.settings.to_json(),
    }
    return Looker(detector.predict, detector.input_spec, detector.batch_size, decides)


# -- CARZero -------------------------------------------------------------------------------------------------------


def _load_carzero(options: PredictOptions) -> CarZero:
    """CARZero from its two files, or the small one of this package. Raises WeightsError that says which is missing."""
    from wordsight.loading import load

    if options.weights == Path(TINY):
        _refuse_own(options)
        return load("carzero", weights=TINY, device=device_of(options))
    files = (("--weights", options.weights), ("--text", options.ask.text))
    missing = [name for name, value in files if value is None]
    if missing or options.weights is None or options.ask.text is None:
        raise WeightsError(
            "carzero: expected --weights FILE (CARZero_best_model.ckpt, or a .safetensors made of it) and --text "
            f"FOLDER (tokenizer and config.json of its BERT), got no {' and no '.join(missing)}. "
            "Neither comes with this package; docs/carzero.md says where they are from. A small network for trying "
            "things out: --weights tiny."
        )
    _wanted_prompts(options.ask)  # before minutes of loading
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.text_input import find_text_folder
    from wordsight.models.carzero.weights import load_network, text_shape

    corrected = options.ask.settings == "corrected"
    settings = None if options.ask.settings is None or corrected else carzero_settings(options.ask.settings)
    text = Path(options.ask.text).expanduser() if "~" in options.ask.text else options.ask.text
    folder = find_text_folder(text, download=options.ask.text_download)
    network = load_network(options.weights, settings, bert=text_shape(folder))
    if corrected:
        network.settings = network.settings.corrected()
    return CarZero.from_network(network, folder, device=device_of(options))


def carzero_settings(source: str) -> CarZeroSettings:
    """Settings by name ("published", "corrected", or a variant such as "gl") or from a JSON file.

    Raises SettingsError for another name and for files that hold no settings.
    """
    from wordsight.models.carzero.settings import VARIANTS, CarZeroSettings, variant
    from wordsight.models.tensor_files import read_json_file

    named = {"published": CarZeroSettings.published(), "corrected": CarZeroSettings.published().corrected()}
    if source in named:
        return named[source]
    if source in VARIANTS:
        return variant(source)
    path = Path(source).expanduser()
    if not path.is_file():
        names = ", ".join([*named, *VARIANTS])
        raise SettingsError(f"settings: expected one of {names}, or a JSON file, got {source!r}. Check the name.")
    return CarZeroSettings.from_json(read_json_file(path))


def _looker_of_carzero(detector: CarZero, options: PredictOptions) -> Looker:
    """Prompts are bound once; encoded ones are kept on disk."""
    from wordsight.models.carzero.grounding import TOP_TIMES_EVEN, display_limits
    from wordsight.models.carzero.prompt_cache import PromptCache, cache_folder

    ask = options.ask
    prompts = _wanted_prompts(ask)
    cache = PromptCache((ask.cache or cache_folder()) / "prompts")
    bound = replace(
        computing(detector, options).with_prompts(prompts, cache=cache),
        scores=ask.scores,
        similarity=ask.similarity,
        combine=ask.combine,
        maps=options.maps,
        enlarge="smooth" if ask.map_style == "smooth" else "nearest",
        batch_size=options.eval_batch,
    )
    decides = {
        "method": bound.name,
        "weights": bound.weights_hash,
        "scores": ask.scores,
        **({} if ask.similarity == "fusion" else {"similarity": ask.similarity}),
        "combine": ask.combine,
        "map_style": ask.map_style,
        "precision": bound.precision,
        **({} if bound.runtime == "eager" else {"runtime": bound.runtime}),
        "prompts": {
            "positive": dict(zip(prompts.findings, prompts.positive, strict=True)),
            "negative": None
            if prompts.negative is None
            else dict(zip(prompts.findings, prompts.negative, strict=True)),
        },
        "settings": bound.settings.to_json(),
    }
    limits = display_limits(bound.settings)
    text = f"0 to {TOP_TIMES_EVEN:g} times even attention (1/{bound.settings.grid**2} for each cell)"
    return Looker(bound.predict, bound.input_spec, options.eval_batch, decides, limits, text)


def _wanted_prompts(ask: AskOptions) -> PromptSet:
    """The prompts asked for, with sentences that deny the findings only where scores need them."""
    if ask.prompts is None:
        raise PromptError(
            f"carzero: expected --prompts, got none: it finds what it is asked for. Name a set ({', '.join(SHIPPED)}), "
            "a JSON file, findings ('edema, pleural effusion') or a sentence ('There is a mass in the left lung')."
        )
    prompts = prompt_set(ask.prompts)
    if ask.scores == "pair" and ask.similarity != "fusion":
        raise SettingsError(
            f"--scores pair: needs the logits of --similarity fusion, got {ask.similarity}. Leave one of them out."
        )
    if ask.scores != "pair":
        if ask.negatives is not None:
            raise SettingsError("--negatives: expected --scores pair with it, since logits do not use them. Add it.")
        return replace(prompts, negative=None)
    if ask.negatives is not None:
        prompts = _denied(prompts, ask.negatives)
    if prompts.negative is None:
        raise PromptError(
            "--scores pair: expected a sentence that denies each finding, got none for "
            f"{', '.join(prompts.findings[:5])}. Ask with sentences that begin with 'There is', or name a "
            "JSON file of finding -> sentence with --negatives."
        )
    return prompts


def _denied(prompts: PromptSet, path: Path) -> PromptSet:
    """The prompts with the negative sentences of a file. Raises PromptError for findings that it lacks."""
    stated = PromptSet.read(path)
    known = dict(zip(stated.findings, stated.positive, strict=True))
    missing = [finding for finding in prompts.findings if finding not in known]
    if missing:
        raise PromptError(f"{path}: expected a sentence for each finding, missing {', '.join(missing[:8])}. Add them.")
    return replace(prompts, negative=tuple(known[finding] for finding in prompts.findings))
