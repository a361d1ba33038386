"""Named detector from a class-agnostic one and pictures with labelled boxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.api.data import read
from diptych.api.models import load
from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, RunError
from diptych.worlds.address import training_rows

if TYPE_CHECKING:
    from diptych.models.detection.named_after import NearestCropDetector

ENCODER = "efficientnet-lite0"


def named_after(
    detector: Any, data: Any, out: str | Path | None = None, *, encoder: str = ENCODER, image_size: int = 0, called: str = ""
) -> NearestCropDetector:
    """The detector with what it finds called like the crops of `data` that it looks most like. Written to `out` where that is given.

    detector    a model that detects, or where to load one from: trained on "nameless:DATA", or one that has a word for everything
    data        pictures with boxes and labels; of splits, "train" alone. A picture that cannot be read costs its own crops
    encoder     what crops are compared by: "efficientnet-lite0" (extra "weights"), "thumbnails" (pixels, no model), or the address of any
                model that embeds images
    image_size  pixels per side that the encoder sees of a crop; 0: 64, and 16 for thumbnails
    called      what the detector calls everything; "" is the one name that it was trained with
    """
    from diptych.models.detection.named_after import LabelledCrops, NearestCropDetector, crop_encoder

    made = load(detector) if isinstance(detector, str | Path) else detector
    name = getattr(made, "name", detector)
    if not isinstance(made, Detector):
        raise ConfigError(f"{name} does not detect (expected a model trained with a recipe such as rlipv2)")
    words = tuple(getattr(made, "objects", ()))
    if not called and len(words) != 1:
        few = ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")
        knows = f"was trained with {len(words)} names ({few})" if words else "has no names of its own"
        raise ConfigError(f"{name} {knows} (expected a detector trained on data=nameless:..., or called='thing')")
    if out is not None and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise RunError(f"{out} is not empty: choose another folder")
    compared = crop_encoder(encoder, image_size=image_size)
    rows = training_rows(read(data))
    named = NearestCropDetector(made, LabelledCrops.of(rows, compared), compared, called or words[0])
    if out is not None:
        summary = f"Boxes by {name}; names by crops of '{rows.name}' ({len(rows):,} pictures), compared by {encoder}."
        named.card.update({"recipe": summary})
        named.save(Path(out))
    return named
