"""Folders of transformers that hold a ViLT, as a `ViltModel` that can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import HALF
from diptych.data.media.whole_pictures import WholePictures
from diptych.models.io.foreign.hub_folder import hub_folder
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.vilt.released import from_released
from diptych.models.vilt.vilt import Vilt
from diptych.models.vilt.vilt_model import ViltModel, ViltQuestionAnswerer

PREFIX = "hf:"
FILTERS: dict[int, Literal["bicubic", "bilinear", "lanczos"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers."""


def open_vilt(address: str, *, download: bool = False) -> ViltModel | None:
    """The model of "hf:FOLDER_OR_NAME"; None if that is another address, or holds another model.

    Norms have the folder's own `layer_norm_eps`: transformers takes 1e-12 everywhere, where the authors have 1e-6 in the blocks.
    Raises ConfigError for a configuration that ours cannot be, DataError for a folder that lacks a file or a tensor.
    """
    if not address.startswith(PREFIX):
        return None
    folder = hub_folder(address, address.removeprefix(PREFIX), download=download)
    if read_object(folder / "config.json").get("model_type") != "vilt":
        return None
    import transformers

    config = transformers.ViltConfig.from_pretrained(str(folder), local_files_only=True).to_dict()
    for name, value in (("hidden_act", "gelu"), ("num_channels", 3), ("qkv_bias", True), ("attention_probs_dropout_prob", 0.0)):
        if config[name] != value:
            raise ConfigError(f"{address}: {name} is {config[name]!r} (expected {value!r})")
    answering = "ViltForQuestionAnswering" in (config.get("architectures") or ())
    tensors, left = from_released(read_tensors(weights_file(str(folder))), answers=answering)
    answers = [config["id2label"][number] for number in sorted(config["id2label"])] if answering else []
    if "head.0.weight" in tensors and "head.3.weight" not in tensors:
        tensors["head.3.weight"] = tensors["words.weight"]  # transformers writes what it ties once
    tokenizer = from_transformers(folder)
    model = Vilt(
        vocab_size=config["vocab_size"],
        image_size=config["image_size"],
        patch=config["patch_size"],
        length=config["max_position_embeddings"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        dropout=config["hidden_dropout_prob"],
        eps=config["layer_norm_eps"],
        text_eps=config["layer_norm_eps"],
        types=config["type_vocab_size"],
        kinds=config["modality_type_vocab_size"],
        mask_id=tokenizer.inner.token_to_id("[MASK]"),
        heads_of=[name for name, mark in (("words", "head.3.weight"), ("fits", "fits.weight"), ("rank", "rank.weight")) if mark in tensors],
        answers=len(answers),
    )  # fmt: skip
    if tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{address}: its tokenizer has {tokenizer.vocab_size:,} pieces and its table {model.vocab_size:,} rows "
            "(expected the tokenizer that belongs to the weights)"
        )
    _fill(model, tensors, folder)
    images = picture_settings(folder, model.patch)
    if answers:
        return ViltQuestionAnswerer(model.eval(), images, tokenizer, model.length, address, left=left, answers=answers)
    return ViltModel(model.eval(), images, tokenizer, model.length, address, left=left)


def _fill(model: Vilt, tensors: Mapping[str, Tensor], folder: Path) -> None:
    own = model.state_dict()
    for name, tensor in own.items():
        if name == "mask_D" and name not in tensors:
            continue  # fresh: the vocabulary has no token of its own
        came = list(tensors[name].shape) if name in tensors else "missing"
        if came != list(tensor.shape):
            raise DataError(f"tensor {name} is {came}", file=folder, expected=f"{list(tensor.shape)}, as in config.json")
        tensor.copy_(tensors[name])


def picture_settings(folder: Path, patch: int) -> WholePictures:
    """The image settings of a folder: preprocessor_config.json, or the image part of processor_config.json."""
    path = folder / "preprocessor_config.json"
    settings: Any = read_object(path) if path.is_file() else None
    if settings is None and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        settings = read_object(path).get("image_processor")
    if not isinstance(settings, dict):
        raise DataError("image settings are missing", file=folder, expected="preprocessor_config.json")
    size = settings.get("size", 384)
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    required = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": True, "size_divisor": patch}
    for name, value in required.items():
        if settings.get(name, value) != value:
            raise ConfigError(f"{path}: {name} is {settings[name]!r} (expected {value!r})")
    number = settings.get("resample", 3)
    if not isinstance(side, int) or number not in FILTERS or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ConfigError(
            f"{path}: size {size!r}, resample {number!r}, rescale_factor {settings.get('rescale_factor')!r} "
            "(expected a shortest_edge, one of PIL's filters 1 | 2 | 3, and 1/255)"
        )
    mean, std = (tuple(settings.get(name, half)) for name, half in (("image_mean", HALF[0]), ("image_std", HALF[1])))
    return WholePictures(side, stride=patch, mean=mean, std=std, interpolation=FILTERS[number])
