"""Named sets of settings: what the papers did, the same with its faults mended, what we recommend, what is fastest."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from wordsight.errors import SettingsError
from wordsight.models.mla.settings import OBJECT_NAMES, MlaSettings
from wordsight.train.settings import MlaTraining

Profile = Literal["default", "fast", "published", "corrected"]
Method = Literal["mla", "mvfa"]

EPOCHS = 10
BATCH_SIZE = 8
ADAPTER_LR = 1e-3
CONTEXT_LR = 1e-3
IMAGE_SHARES = (0.1, 1.0)
MAP_SHARES = (0.0, 0.01, 0.05)
SMOOTHINGS = (3, 1)
RELATIVES = (False, True)
MEMORY_WEIGHTS = (0.5, 0.25, 0.75, 0.0, 1.0)


def recipe(
    profile: Profile, method: Method, shots: int, architecture: str, *, target: str = ""
) -> tuple[MlaSettings, MlaTraining]:
    """Settings of network and training for a profile, a method and a number of shots (0: zero-shot).

    "published": the papers' own, selection on the test set included. "corrected": the published training of the
    corrected network, with an honest selection. "default": corrected, with larger batches and learning rates, so that
    it is several times faster, an image-level loss on the most abnormal tenth of the patches, and the way scores are
    read (weight of the memory and what it compares, share of the image, smoothing) chosen with the epoch, which must
    be better beyond its standard error. "fast": default with adapters that write nothing into the stream (mix 0), so
    that every frozen block runs once per image and none in an update.
    target: the set, for the object that MVFA's sentences name. The levels are those of a tower of 24 blocks; who knows
    the tower puts them at its quarters. `architecture` has no influence so far.
    Raises SettingsError for unknown names and negative shots.
    """
    if profile not in get_args(Profile) or method not in get_args(Method):
        raise SettingsError(
            f"expected a profile of {', '.join(get_args(Profile))} and a method of {', '.join(get_args(Method))}, "
            f"got {profile!r} and {method!r}. Correct the name."
        )
    if shots < 0:
        raise SettingsError(f"shots: expected 0 (zero-shot) or more, got {shots}.")
    settings = MlaSettings.published()
    if method == "mvfa":
        settings = MlaSettings.mvfa(OBJECT_NAMES.get(target, target) or "image")
    training = MlaTraining.published(method, shots)
    if profile == "published":
        return settings, training
    honest = replace(training, protocol="validation", evaluate_when="after_epoch", mask_rule="any")
    if profile == "corrected":
        return settings.corrected(), honest
    faster = replace(
        honest,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        adapter_lr=ADAPTER_LR,
        context_lr=CONTEXT_LR,
        evaluate_when="from_start" if shots else "after_epoch",
        evaluate_every=2,
        memory_weights=MEMORY_WEIGHTS if shots else MEMORY_WEIGHTS[:1],
        image_shares=IMAGE_SHARES,
        map_shares=MAP_SHARES if shots else MAP_SHARES[:1],
        smoothings=SMOOTHINGS,
        relatives=RELATIVES if shots else RELATIVES[:1],
        margin=1.0 if shots else 0.0,
    )
    mended = replace(settings.corrected(), image_share=IMAGE_SHARES[0])
    return (replace(mended, mix=0.0) if profile == "fast" else mended), faster
