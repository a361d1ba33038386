"""Models of other libraries as embedders: hf:FOLDER_OR_NAME, open_clip:ARCH/WEIGHTS, timm:NAME/WEIGHTS.

Each brings its own preprocessing and tokenizer. Nothing is fetched unless `download` is set.
Letters: B batch, C channel, H W, L tokens.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Encoded
from diptych.models.io.foreign_preprocess import from_open_clip, from_processor, from_timm
from diptych.models.layers.transformer import normalised
from diptych.models.pairs.embedder import Embedding

KINDS = ("hf", "open_clip", "timm")


def load_foreign(spec: str, *, download: bool = False) -> Embedding:
    """Open a model of another library.

    hf:FOLDER_OR_NAME        a transformers CLIP or SigLIP: a folder, or a name in the local cache
    open_clip:ARCH/WEIGHTS   WEIGHTS is a file, a tag (needs `download`), or the word random
    timm:NAME/WEIGHTS        the same; embeds images only. With `download`, timm:NAME takes timm's own weights
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise UnknownName("model prefix", kind, KINDS)
    if not rest:
        raise ConfigError(f"{spec!r} names no model (expected {kind}:NAME)")
    if kind == "hf":
        return _transformers(spec, rest, download)
    name, _, wanted = rest.partition("/")
    return (_open_clip if kind == "open_clip" else _timm)(spec, name, wanted, download)


# ---------------------------------------------------------------- transformers


class TransformersPair(nn.Module):
    """A `CLIPModel` or `SiglipModel` behind our two calls."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.reads_padding = inner.config.model_type == "siglip"
        text = inner.config.text_config
        self.width = int(getattr(inner.config, "projection_dim", None) or getattr(text, "projection_size", text.hidden_size))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return normalised(_embedding(self.inner.get_image_features(pixel_values=image_BCHW)))

    def encode_text(self, text_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        # SigLIP is trained with its padding in view and pools at the last position, padding or not.
        mask = None if self.reads_padding or mask_BL is None else mask_BL.long()
        return normalised(_embedding(self.inner.get_text_features(input_ids=text_BL, attention_mask=mask)))


def _embedding(answer: Any) -> Tensor:
    """The projected embedding: older versions return it as it is, newer ones as `pooler_output`."""
    embedding: Tensor = answer if isinstance(answer, Tensor) else answer.pooler_output
    return embedding


def _transformers(spec: str, name: str, download: bool) -> Embedding:
    import transformers

    from diptych.models.towers.hf_text import quiet
    from diptych.models.towers.hf_tokenizer import TransformersTokenizer

    folder = _folder(spec, name, download)
    kind = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True).model_type
    families = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}
    if kind not in families:
        raise ConfigError(f"{spec}: model_type is {kind!r} (expected {' | '.join(families)})")
    with quiet():
        inner = families[kind].from_pretrained(str(folder), local_files_only=True).float()
    preprocess = from_processor(folder)
    tokenizer = TransformersTokenizer(folder, padding="length" if kind == "siglip" else "longest")
    length = int(inner.config.text_config.max_position_embeddings)
    return Embedding(TransformersPair(inner).eval(), preprocess, tokenizer, length, spec)


def _folder(spec: str, name: str, download: bool) -> Path:
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
        raise ConfigError(f"{spec}: no such folder (expected a folder of transformers or OWNER/NAME)") from error
    except LocalEntryNotFoundError as error:
        way = "the hub could not be reached" if download else "pass --download to fetch it"
        raise ConfigError(f"{spec} is neither a folder nor in the local cache; {way}, or pass hf:FOLDER") from error
    except HfHubHTTPError as error:
        raise ConfigError(f"{spec} could not be fetched: {str(error).splitlines()[0]}") from error


# ---------------------------------------------------------------- open_clip


class OpenClipPair(nn.Module):
    """An open_clip model behind our two calls."""

    def __init__(self, inner: Any, width: int) -> None:
        super().__init__()
        self.inner, self.width = inner, width

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return normalised(self.inner.encode_image(image_BCHW))

    def encode_text(self, text_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        return normalised(self.inner.encode_text(text_BL))


class OpenClipTokenizer:
    """open_clip's tokenizer, which cuts long texts; here they are counted."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def encode(self, texts: Sequence[str], length: int, /) -> Encoded:
        ids_BL = self.inner(list(texts), context_length=length)
        # One more place shows which texts did not fit: only theirs is used.
        longer_BL = self.inner(list(texts), context_length=length + 1)
        truncated = int((longer_BL[:, -1] != self._padding()).sum())
        return Encoded(ids_BL.numpy(), (ids_BL != self._padding()).numpy(), truncated)

    def _padding(self) -> int:
        inner = getattr(self.inner, "tokenizer", None)
        return int(getattr(inner, "pad_token_id", None) or 0)


def _open_clip(spec: str, arch: str, wanted: str, download: bool) -> Embedding:
    import open_clip

    if arch not in open_clip.list_models():
        raise UnknownName("open_clip architecture", arch, open_clip.list_models(), hint="open_clip.list_models() lists them")
    settings = open_clip.get_model_config(arch)
    if "hf_tokenizer_name" in settings["text_cfg"] and not download:
        raise ConfigError(f"{spec} needs a tokenizer from the hub; pass --download to fetch it")
    path, tag = _weights(spec, wanted, download, tags=open_clip.list_pretrained_tags_by_model(arch))
    weights = str(path) if path else tag
    try:
        with torch.random.fork_rng(devices=[], enabled=wanted != "random"):
            inner = open_clip.create_model(arch, pretrained=weights, weights_only=True, pretrained_text=False)
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        if path is None:
            raise
        raise DataError("not a file of tensors that fit", file=path, expected=f"a state dict of {arch}") from error
    model = OpenClipPair(inner.float(), int(settings["embed_dim"])).eval()
    tokenizer = OpenClipTokenizer(open_clip.get_tokenizer(arch))
    return Embedding(model, from_open_clip(inner.visual.preprocess_cfg), tokenizer, int(inner.context_length), spec)


# ---------------------------------------------------------------- timm


class TimmImages(nn.Module):
    """A timm model without its classifier, behind `encode_image`."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.width = int(getattr(inner, "head_hidden_size", inner.num_features))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return normalised(self.inner(image_BCHW))


class ImageEmbedding(Embedding):
    """Images only; asked for texts, it says so."""

    def __init__(self, model: TimmImages, preprocess: Preprocess, name: str) -> None:
        super().__init__(model, preprocess, self, 0, name)

    def encode(self, texts: Sequence[str], length: int, /) -> Encoded:
        raise ConfigError(f"{self.name} embeds images only (expected a model with a text side, such as hf: or open_clip:)")

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return super().embed_texts(texts or [""], batch_size=batch_size)


def _timm(spec: str, name: str, wanted: str, download: bool) -> Embedding:
    import timm

    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), hint="timm.list_models() lists them")
    own = download and not wanted
    path, _ = (None, None) if own else _weights(spec, wanted, download=False, tags=())
    with torch.random.fork_rng(devices=[], enabled=wanted != "random"):
        inner = timm.create_model(name, pretrained=own, num_classes=0)
    if path:
        _fill(inner, path)
    return ImageEmbedding(TimmImages(inner).eval(), from_timm(inner), spec)


def _fill(inner: Any, path: Path) -> None:
    """Load a state dict; only the classifier, which we left out, may be too much."""
    found = inner.load_state_dict(read_tensors(path), strict=False)
    classifier = inner.pretrained_cfg.get("classifier") or "classifier"
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    strange = [name for name in found.unexpected_keys if not name.startswith(heads)]
    if found.missing_keys or strange:
        wrong = f"tensor {found.missing_keys[0]} is missing" if found.missing_keys else f"tensor {strange[0]} is unknown"
        raise DataError(wrong, file=path, expected=f"the weights of {type(inner).__name__}")


# ---------------------------------------------------------------- weights files


def _weights(spec: str, wanted: str, download: bool, tags: Sequence[str]) -> tuple[Path | None, str | None]:
    """(file, tag); both None for random weights, which must be asked for by name."""
    if wanted == "random":
        return None, None
    if not wanted:
        raise ConfigError(f"{spec} names no weights; pass {spec.rstrip('/')}/FILE, or {spec.rstrip('/')}/random for fresh ones")
    path = Path(wanted).expanduser()
    if path.is_file():
        return path, None
    if wanted not in tags:
        raise ConfigError(f"{spec}: no such weights file" + (f", and no tag (known: {', '.join(tags)})" if tags else ""))
    if not download:
        raise ConfigError(f"{spec}: '{wanted}' is a tag on the hub; pass --download to fetch it, or a weights file in its place")
    return None, wanted


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a PyTorch file that holds tensors only."""
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise DataError("not a file of tensors", file=path, expected=".safetensors, or .pth with a state dict") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors: dict[str, Tensor] = content
    return tensors
