"""Load models of other libraries: hf:FOLDER_OR_NAME, open_clip:ARCH/WEIGHTS, timm:NAME/WEIGHTS.

Each has its own preprocessing and tokenizer. Nothing is downloaded unless `download` is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, UnknownName
from diptych.models.io.foreign.hub_folder import hub_folder
from diptych.models.pairs.embedder import Embedding

if TYPE_CHECKING:
    from diptych.models.io.foreign.detectors import TransformersPhraseDetector
    from diptych.models.io.foreign.generators import TransformersGenerator
    from diptych.models.io.foreign.transformers_library import LibraryEmbedder

KINDS = ("hf", "open_clip", "timm")


def load_foreign(
    spec: str, *, download: bool = False
) -> Embedding | LibraryEmbedder | TransformersGenerator | TransformersPhraseDetector:
    """Open a model of another library.

    hf:FOLDER_OR_NAME        a two-sided model of transformers (`transformers_layout.FAMILIES`, `transformers_library.LIBRARY_FAMILIES`),
                             one that writes about images, or one that finds phrases (`detectors.FAMILIES`): a folder, or a name in
                             the local cache; with #naflex after it a SigLIP 2 whose images keep their shape
    open_clip:ARCH/WEIGHTS   WEIGHTS is a file, a tag (needs `download`), or the word random; FILE#FOLDER where the architecture has text
                             encoder or tokenizer of transformers
    open_clip:FOLDER         a folder with open_clip_config.json, weights and tokenizer, as BiomedCLIP is published; FOLDER#FOLDER
    as above timm:NAME/WEIGHTS        the same; embeds images only. With `download`, timm:NAME takes timm's own weights
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise UnknownName("model prefix", kind, KINDS)
    if not rest:
        raise ConfigError(f"{spec!r} does not name a model (expected {kind}:NAME)")
    if kind == "hf":
        from diptych.models.io.foreign.detectors import is_phrase_detector, open_detector
        from diptych.models.io.foreign.generators import is_generator, open_generator
        from diptych.models.io.foreign.transformers_folder import open_folder
        from diptych.models.io.foreign.transformers_layout import FAMILIES
        from diptych.models.io.foreign.transformers_library import BY_TYPE, NAFLEX, open_library

        hub = hub_folder(spec, rest.removesuffix(NAFLEX), download=download)
        kind_of_model = read_object(hub / "config.json").get("model_type")
        if rest.endswith(NAFLEX) or (kind_of_model in BY_TYPE and kind_of_model not in FAMILIES):
            return open_library(hub, spec)
        if is_phrase_detector(hub):
            return open_detector(hub, spec)
        return open_generator(hub, spec) if is_generator(hub) else open_folder(hub, spec)
    name, _, weights = rest.partition("/")
    if kind == "open_clip":
        from diptych.models.io.foreign.open_clip import open_architecture, open_model_folder
        from diptych.models.io.foreign.open_clip_folder import is_open_clip_folder

        folder, _, encoder = rest.partition("#")
        if is_open_clip_folder(folder):
            return open_model_folder(spec, Path(folder).expanduser(), encoder)
        return open_architecture(spec, name, weights, download=download)
    from diptych.models.io.foreign.timm_embedder import open_timm

    return open_timm(spec, name, weights, download)
