"""Models of other libraries as embedders: hf:FOLDER_OR_NAME, open_clip:ARCH/WEIGHTS, timm:NAME/WEIGHTS.

Each brings its own preprocessing and tokenizer. Nothing is fetched unless `download` is set.
Letters: B batch, C channel, H W, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import near_sibling
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.inputs import one_or_many
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import BatchEncoding
from diptych.models.io.foreign.preprocess import from_timm
from diptych.models.io.tensor_files import chosen_weights, read_tensors
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.embedder import Embedding
from diptych.models.towers.packaged.timm_tower import TimmTower
from diptych.models.towers.towers import image_tower

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
                             the local cache; with #naflex behind it a SigLIP 2 whose images keep their shape
    open_clip:ARCH/WEIGHTS   WEIGHTS is a file, a tag (needs `download`), or the word random; FILE#FOLDER where the architecture has text
                             encoder or tokenizer of transformers
    open_clip:FOLDER         a folder with open_clip_config.json, weights and tokenizer, as BiomedCLIP is published; FOLDER#FOLDER as above
    timm:NAME/WEIGHTS        the same; embeds images only. With `download`, timm:NAME takes timm's own weights
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise UnknownName("model prefix", kind, KINDS)
    if not rest:
        raise ConfigError(f"{spec!r} names no model (expected {kind}:NAME)")
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
    return _timm(spec, name, weights, download)


# ---------------------------------------------------------------- transformers


def hub_folder(spec: str, name: str, *, download: bool, fetching: str = "pass --download to fetch it") -> Path:
    """A folder of transformers: itself, or a name in the local cache, fetched with `download`. `fetching` is the remedy without."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise DataError("the folder has no config.json", file=folder, expected="a folder that transformers saved")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        files = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, local_files_only=not download, allow_patterns=files))
    except HFValidationError as error:
        near = near_sibling(folder)
        raise ConfigError(f"{spec}: no such folder (expected a folder of transformers or OWNER/NAME){near}") from error
    except LocalEntryNotFoundError as error:
        way = "the hub could not be reached" if download else fetching
        near = near_sibling(folder)
        raise ConfigError(f"{spec} is neither a folder nor in the local cache; {way}, or pass hf:FOLDER{near}") from error
    except HfHubHTTPError as error:
        raise ConfigError(f"{spec} could not be fetched: {str(error).splitlines()[0]}") from error


# ---------------------------------------------------------------- timm


class TimmImages(nn.Module):
    """A timm model without its classifier, as a tower behind `encode_image`."""

    def __init__(self, image_tower: TimmTower) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.width = image_tower.width

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return l2_normalise(self.image_tower(image_BCHW).pooled_BD)


class ImageEmbedding(Embedding):
    """Image-only embedder; raises ConfigError for texts."""

    def __init__(self, model: TimmImages, preprocess: Preprocess, name: str) -> None:
        super().__init__(model, preprocess, self, 0, name)

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding:
        raise ConfigError(f"{self.name} embeds images only (expected a model with a text side, such as hf: or open_clip:)")

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return super().embed_texts(texts or [""], batch_size=batch_size)


def _timm(spec: str, name: str, weights: str, download: bool) -> Embedding:
    import timm

    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), hint="timm.list_models() lists them")
    own = download and not weights
    path, _ = (None, None) if own else chosen_weights(spec, weights, download=False, tags=())
    with torch.random.fork_rng(devices=[], enabled=weights != "random"):
        tower: Any = image_tower(f"timm:{name}")
    if own:
        tower.net.load_state_dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    elif path:
        _fill(tower.net, path)
    return ImageEmbedding(TimmImages(tower).eval(), from_timm(tower.net), spec)


def _fill(inner: Any, path: Path) -> None:
    """Load a state dict; only the classifier, which we left out, may be too much."""
    report = inner.load_state_dict(read_tensors(path), strict=False)
    classifier = inner.pretrained_cfg.get("classifier") or "classifier"
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    strange = [name for name in report.unexpected_keys if not name.startswith(heads)]
    if report.missing_keys or strange:
        wrong = f"tensor {report.missing_keys[0]} is missing" if report.missing_keys else f"tensor {strange[0]} is unknown"
        raise DataError(wrong, file=path, expected=f"the weights of {type(inner).__name__}")
