"""A recipe over pairs that starts from weights: what of its fields the weights decide."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from diptych.core.config import prepared_fields
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import out_of_groups
from diptych.data.text.tokenize import Tokenizer
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import Embedding, PairEmbedder
from diptych.models.towers.outputs import Tower

R = TypeVar("R")
IMAGE = ("image_tower", "image_size", "resize", "mean", "std", "interpolation", "edge", "image_pool", "patch_bias")
TEXT = ("text_tower", "text_length", "tokenizer", "text_pooling", "width", "act")
"""Fields that weights decide, of either side."""


def from_weights(recipe: R, model: Any) -> R:
    """The recipe with architecture, tokenizer, lengths and image settings of the weights.

    model  a `PairEmbedder` (a run or model folder, hf:, open_clip:), or the embedder of an image tower alone (timm:), beside which text
           tower, tokenizer and width stay the recipe's
    """
    if isinstance(model, PairEmbedder):
        return replace(recipe, **_both(recipe, model))  # type: ignore[type-var]
    if isinstance(model, Embedding) and isinstance(getattr(model.model, "image_tower", None), Tower):
        side = {"image": _side(model.model.image_tower, "")}
        return replace(recipe, **_image(model), towers_from=json.dumps(side))  # type: ignore[type-var]
    raise ConfigError(
        f"{getattr(model, 'name', model)} has no towers that a recipe of pairs could start from (expected two, or timm:)"
    )


def _both(recipe: Any, model: PairEmbedder) -> dict[str, Any]:
    inner: DualEncoder = model.model
    biases = {"none": (), "text": ("text",), "image": ("image",), "both": ("image", "text")}[inner.projection_bias]
    image = "none" if not inner.project_image else "bias" if "image" in biases else "plain"
    text = "none" if not inner.project_text else "bias" if "text" in biases else "plain"
    sides = {"image": _side(inner.image_tower, image), "text": _side(inner.text_tower, text)}
    words = "clip" if model.tokenizer.to_json() == Tokenizer.from_spec("clip").to_json() else "weights"
    return {
        **_image(model),
        "text_tower": inner.text_tower.spec["name"],
        "text_length": model.text_length,
        "tokenizer": words,
        "vocabulary": "" if words == "clip" else model.tokenizer.to_json(),
        "text_pooling": None,
        "width": inner.width,
        "act": None,
        "max_scale": recipe.max_scale and max(recipe.max_scale, math.exp(float(inner.log_scale.detach()))),
        "towers_from": json.dumps(sides),
    }


def _image(model: Embedding) -> dict[str, Any]:
    preprocess = model.preprocess
    return {
        "image_tower": model.model.image_tower.spec["name"],
        "image_size": preprocess.size,
        "resize": preprocess.resize,
        "mean": tuple(preprocess.mean),
        "std": tuple(preprocess.std),
        "interpolation": preprocess.interpolation,
        "edge": preprocess.margin,
        "image_pool": None,
        "patch_bias": None,
        **({"act": None} if not isinstance(model, PairEmbedder) else {}),
    }


def _side(tower: Tower, projection: str) -> dict[str, Any]:
    options = {key: value for key, value in tower.spec.items() if key != "name"}
    return {"options": options, "projection": projection}


VIT = {"patch", "width", "layers", "heads", "mlp_ratio", "act", "eps", "image_size"}
"""Options of a vision transformer that a dense one has, too."""


def with_dense_tower(recipe: Any, source: str) -> Any:
    """The recipe with a dense image tower in place of the vision transformer of its weights: it starts with the same weights, every branch
    at its full size. Weights of another tower are refused."""
    given = json.loads(recipe.towers_from)
    options: dict[str, Any] = given["image"]["options"]
    if recipe.image_tower.startswith("dense"):
        return recipe
    if not recipe.image_tower.startswith("vit") or options.get("pool", "class") != "class":
        raise ConfigError(
            f"'{recipe.slug}' needs an image tower with a class token and patches, and {source} has {recipe.image_tower} "
            "(expected a vision transformer such as CLIP's)"
        )
    vit_options = {name: value for name, value in options.items() if name in VIT}
    forms = {"patch_bias": options.get("patch_bias", False), "pre_norm": options.get("pre_norm", True), "layer_scale": 1.0}
    given["image"]["options"] = {**vit_options, **forms}
    return replace(recipe, image_tower="dense", towers_from=json.dumps(given))


def dense_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a vision transformer under the names of a dense one."""
    out = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^image_tower\.transformer\.blocks\.(\d+)\.", r"image_tower.blocks.\1.block.", name)
        out[name.replace("image_tower.class_token_D", "image_tower.class_D")] = tensor
    return out


def changed_fields(recipe: Any) -> set[str]:
    """Fields in which a recipe differs from all of its presets: the user set them."""
    kind = type(recipe)
    presets = [out_of_groups(kind.preset(name)) for name in kind.presets]
    prepared = prepared_fields(kind)
    own = {name: value for name, value in out_of_groups(recipe).items() if name not in prepared}
    return {name for name, value in own.items() if all(value != preset[name] for preset in presets)}


def refuse_conflicts(before: Any, after: Any, asked: Collection[str], address: str) -> None:
    """Refuses what was asked for and is otherwise in the weights, in one line."""
    for name in (*IMAGE, *TEXT):
        requested, loaded = getattr(before, name, None), getattr(after, name, None)
        if name not in asked or requested in (loaded, None):
            continue
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"{option} {requested} does not fit the weights of {address} (expected {loaded}, theirs: leave {option} out)"
        )


def with_tuning_rate(recipe: Any, asked: Collection[str]) -> Any:
    """The recipe with learning rate and warm-up of a start from published weights, where none was asked for."""
    changes: Mapping[str, float] = {"lr": recipe.tuned_lr, "warmup": recipe.tuned_warmup}
    return replace(recipe, **{name: value for name, value in changes.items() if name not in asked})
