"""Frozen encoders of a model that is given by its address, for `locked` and `linear_map`, beside the encoders from Python packages.

A dual encoder gives its vectors of the joint space, unit-norm, for either side; timm: gives images; hf: also a folder of
transformers with one side alone. Each brings its own image size, preprocessing and tokenizer. Addresses: `open_address`.

Letters: B batch, C channel, H W, L tokens, N items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file, is_folder
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.data.media.transforms import Preprocess
from diptych.models.io.foreign.generators import is_generator
from diptych.models.io.foreign.hub_folder import hub_folder
from diptych.models.io.foreign.open_clip_folder import is_open_clip_folder
from diptych.models.io.foreign.preprocess import from_processor
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.open_address import FOREIGN, open_address, weights_mtime
from diptych.models.io.saved_model import one_line_errors
from diptych.models.io.weights import ImageFeatureExtractor, PackagedEncoder, TextFeatureExtractor
from diptych.models.pairs.embedder import Embedding
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.hf_text import TransformersText, silence_transformers
from diptych.models.towers.packaged.hf_tokenizer import TransformersTokenizer

Side = Literal["image", "text"]
EXPECTED = "a run of a dual encoder such as clip, hf:FOLDER, open_clip:ARCH/FILE, or for images timm:NAME/FILE"
AT_CLASS_TOKEN = ("beit", "deit", "dinov2", "dinov2_with_registers", "vit")
AS_POOLED = ("convnext", "convnextv2", "regnet", "resnet", "swin", "swinv2")
"""`model_type` of the image encoders of transformers that open alone: read at the class token of the last layer (DINOv2: after its norm),
or as their own pooling says, which has no weights but those of a norm."""


class AddressedEncoder:
    """One side of a dual encoder as frozen features: `encode_images` and `encode_texts` give float32 [N, width], rows of norm 1.

    `truncated` counts the texts that were longer than `length` tokens, since this object was made. Raises ConfigError for a model that
    lacks the side.
    """

    licence = "as published there"

    def __init__(self, address: str, model: Embedding, side: Side) -> None:
        self.name, self.model = address, model
        self.preprocess: Preprocess = model.preprocess
        self.tokenizer: Any = model.tokenizer
        self.length = model.text_length
        grey = ArrayImage(np.full((8, 8, 3), 128, np.uint8))
        tried = self.encode_images([grey]) if side == "image" else self.encode_texts(["a"])
        self.width = int(tried.shape[1])
        self._sided: nn.Module = _ImageSide(model.model) if side == "image" else _TextSide(model.model)
        self._before = model.truncated

    @property
    def truncated(self) -> int:
        return self.model.truncated - self._before

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `weights.image` or `weights.text` that open this encoder again, independent of the working directory."""
        return {"name": absolute_address(self.name)}

    @property
    def tower(self) -> nn.Module:
        """The image or text tower as a module whose output has `pooled_BD`, for export."""
        return self._sided

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return self.model.embed_images(images, batch_size=batch_size)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return self.model.embed_texts(texts, batch_size=batch_size)


def image(address: str, *, bf16: bool = False) -> AddressedEncoder | ImageFeatureExtractor:
    """The image side of the model at an address, frozen, with its own preprocessing."""
    if (folder := _one_sided(address)) is None:
        return _side(address, "image", bf16)
    net, kind = _image_encoder(folder, address)
    preprocess = from_processor(folder, kind)
    tower = _TransformersImageTower(net, at_class_token=kind in AT_CLASS_TOKEN)
    return ImageFeatureExtractor(
        PackagedEncoder(absolute_address(address), "", "", AddressedEncoder.licence, tower.width, kind),
        tower,
        preprocess,
        bf16=bf16,
    )


def text(address: str, *, length: int, bf16: bool = False) -> AddressedEncoder | TextFeatureExtractor:
    """The text side of the model at an address, frozen. A text encoder alone reads up to `length` tokens; a dual encoder as many
    as it was made for."""
    if (folder := _one_sided(address)) is None:
        return _side(address, "text", bf16)
    if (kind := _model_type(folder)) in AT_CLASS_TOKEN + AS_POOLED:
        raise ConfigError(
            f"{address} as a text encoder: model_type is {kind!r}, which reads images (expected BERT, MPNet and the like)"
        )
    with one_line_errors(folder):
        tower = TransformersText.from_folder(folder, pooling=_pooling(folder), length=length)
        tokenizer = TransformersTokenizer(folder)
    entry = PackagedEncoder(absolute_address(address), "", "", AddressedEncoder.licence, tower.width, kind)
    return TextFeatureExtractor(entry, tower, tokenizer, length=tower.length, bf16=bf16)


def absolute_address(address: str) -> str:
    """The address with an absolute path, independent of the working directory."""
    prefix = next((kind for kind in FOREIGN if address.startswith(kind)), "")
    path = Path(address.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.resolve()}" if is_folder(path) else address


# ---------------------------------------------------------------- of two sides


@dataclass(frozen=True)
class _PooledFeatures:
    pooled_BD: Tensor


class _ImageSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BCHW: Tensor) -> _PooledFeatures:
        return _PooledFeatures(self.model.encode_image(image_BCHW))


class _TextSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, text_BL: Tensor, mask_BL: Tensor) -> _PooledFeatures:
        return _PooledFeatures(self.model.encode_text(text_BL, mask_BL))


def _side(address: str, side: Side, bf16: bool) -> AddressedEncoder:
    if bf16:
        raise ConfigError(
            f"{address}: bf16 is for encoders of one side (expected none for a dual encoder, which runs as it was saved)"
        )
    return AddressedEncoder(address, _opened(address, weights_mtime(address)), side)


@lru_cache(maxsize=2)
def _opened(address: str, when: tuple[int, ...]) -> Embedding:
    kind, _, rest = address.partition(":")
    weights = rest.partition("/")[2].partition("#")[0]
    folder = is_open_clip_folder(rest.partition("#")[0])
    if kind == "open_clip" and not folder and weights != "random" and not is_file(Path(weights).expanduser()):
        raise ConfigError(
            f"{address}: no such file of weights (expected open_clip:ARCH/FILE; tags of the hub are not fetched here)"
        )
    opened = open_address(address)
    if not isinstance(opened, Embedding):
        raise ConfigError(f"an encoder is {address}, a model of kind {_kind(opened)} (expected {EXPECTED})")
    opened.model.float().requires_grad_(False)  # whatever torch makes by default just now
    return opened


def _kind(opened: Any) -> str:
    return str(getattr(opened, "kind", type(opened).__name__))


# ---------------------------------------------------------------- of one side, by transformers


class _TransformersImageTower(Tower):
    """An image encoder of transformers as a tower. Letters: P positions."""

    def __init__(self, net: Any, *, at_class_token: bool) -> None:
        super().__init__()
        self.net, self.at_class_token = net, at_class_token
        self.width = int(getattr(net.config, "hidden_size", None) or net.config.hidden_sizes[-1])

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        answer = self.net(pixel_values=image_BCHW)
        last = answer.last_hidden_state
        token_BPD = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last[:, 1:] if self.at_class_token else last
        mask_BP = token_BPD.new_ones(token_BPD.shape[:2]).bool()
        return TowerOutput(token_BPD, mask_BP, last[:, 0] if self.at_class_token else answer.pooler_output.flatten(1))


def _one_sided(address: str) -> Path | None:
    """The folder of an encoder of transformers that reads images or texts alone; None for any other address."""
    if not address.startswith("hf:"):
        return None
    name = address.removeprefix("hf:")
    folder = hub_folder(address, name, download=False, fetching=f"`hf download {name}` fetches it")
    with one_line_errors(folder):
        return None if _model_type(folder) in FAMILIES or is_generator(folder) else folder


def _model_type(folder: Path) -> str:
    return str(read_object(folder / "config.json").get("model_type", ""))


def _image_encoder(folder: Path, address: str) -> tuple[Any, str]:
    import transformers

    supported = AT_CLASS_TOKEN + AS_POOLED
    kind = _model_type(folder)
    if kind not in supported:
        raise ConfigError(
            f"{address} as an image encoder: model_type is {kind!r} (expected {' | '.join((*supported, *FAMILIES))})"
        )
    with one_line_errors(folder), silence_transformers():
        options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        net, report = transformers.AutoModel.from_pretrained(str(folder), **options)
    unread = ("pooler.",) if kind in AT_CLASS_TOKEN else ()
    if missing := [key for key in report["missing_keys"] if not key.startswith(unread)]:
        raise DataError(f"tensor {min(missing)} is missing", file=folder, expected=f"the weights of a {type(net).__name__}")
    if kind in AT_CLASS_TOKEN and getattr(net, "pooler", None) is not None:
        net.pooler = None  # it is not read, and fresh where the folder has none
    return net.float(), kind


def _pooling(folder: Path) -> Literal["mean", "cls"]:
    """Token pooling that a sentence-transformers folder configures; "mean" if it has no setting."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    modes = [name for name, on in read_object(path).items() if name.startswith("pooling_mode_") and on]
    poolings: dict[str, Literal["mean", "cls"]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in poolings:
        raise ConfigError(f"{path}: pools by {' and '.join(modes) or 'nothing'} (expected {' or '.join(poolings)} alone)")
    return poolings[modes[0]]
