"""Towers by name.

image  vit_micro, vit_tiny, vit_b32, vit_b16, vit_l14 (CLIP's), vit_bigg14 (open_clip's), resnet_clip_tiny, resnet_clip_50 (CLIP's
       residual network), siglip_b16 (SigLIP's), slip_b16 (SLIP's), dense_micro, dense_tiny, dense_b16, dense_b14 (for patch
       features), beit_micro, beit_tiny, beit_b16 (BEiT's, positions as biases, any size), convnet_micro, convnet_tiny,
       efficientnet_b7, efficientnet_l2 (ALIGN's, without head convolution), eva_g14 (BLIP-2's: EVA without its last block, the class
       token among its tokens), timm:NAME (any model of timm)
text   text_micro, text_tiny, text_clip, text_clip_l (CLIP's for B and L), text_clip_bigg, text_slip (SLIP's), text_siglip
       (SigLIP's for B), text_tips (TIPS'), bert_micro, bert_tiny, bert_b6 (lower half), bert_b, bert_l, roberta_tiny, roberta_b, bart_b
       (BART's encoder; fresh weights, pooled at the first token unless pooling says "mean" or "pooler"), hf:FOLDER (any encoder of
       transformers, with its weights)

vit, dense and transformer are these with every size given; headed_image and headed_text add a head to another tower,
peak_image and peak_text the maximum over projected tokens, adapted_image and adapted_text adapters in its blocks;
hidden_layer is an inner layer of another, projected_map a projection of each position of its map (BioViL's; temporal_image is
BioViL-T's network, which compares with an earlier image), frame_average the mean over the frames of a clip,
frame_sequence all of them, patches only a convolution, learned_tokens_image a few tokens of all patches (FILIP's); hf_image,
open_clip_image and open_clip_text are used to load models of other libraries (`models/io/foreign/`).

Everything after the name can be changed by keyword: image_tower("vit_tiny", image_size=64, patch=8, layers=6).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import IMAGE_WEIGHTS, TEXT_WEIGHTS
from diptych.models.towers.beit import BEiT
from diptych.models.towers.clip_resnet import CLIPResNet
from diptych.models.towers.convnet import ConvNet
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.outputs import Tower
from diptych.models.towers.patch_embedding import PatchEmbeddingTower
from diptych.models.towers.text import TextTransformer
from diptych.models.towers.vit import VisionTransformer

Preset = tuple[Callable[..., Tower], dict[str, Any]]


def _efficientnet(*, model: str, image_size: int) -> Tower:
    from diptych.models.towers.packaged.timm_tower import TimmTower

    return TimmTower(model=model, image_size=image_size, head_conv=False)


def _eva(*, model: str, image_size: int, blocks: int, prefix: bool) -> Tower:
    from diptych.models.towers.packaged.timm_tower import TimmTower

    return TimmTower(model=model, image_size=image_size, blocks=blocks, prefix=prefix)


ROBERTA = {
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def _bert(*, vocab_size: int, length: int, width: int, layers: int, heads: int, pooling: str = "cls") -> Tower:
    from diptych.models.towers.packaged.hf_text import Pooled, TransformersText

    config = _encoder_config("bert", vocab_size, width, layers, heads)
    poolings: dict[str, Pooled] = {"cls": "cls", "pooler": "pooler"}
    return TransformersText(config=config, pooling=poolings.get(pooling, "mean"), length=length)


def _bart(*, vocab_size: int, length: int, width: int, layers: int, heads: int, pad_id: int = 1, pooling: Any = "cls") -> Tower:
    from diptych.models.towers.packaged.hf_text import bart_encoder

    sizes = {"length": length, "width": width, "layers": layers, "heads": heads}
    return bart_encoder(vocab_size=vocab_size, pad_id=pad_id, pooling=pooling, **sizes)


def _roberta(
    *, vocab_size: int, length: int, width: int, layers: int, heads: int, pad_id: int = 1, pooling: str = "cls"
) -> Tower:
    """RoBERTa (1907.11692): real tokens are counted from position `pad_id` + 1 on, padding has position `pad_id`."""
    from diptych.models.towers.packaged.hf_text import TransformersText

    config = _encoder_config("roberta", vocab_size, width, layers, heads) | ROBERTA | {"pad_token_id": pad_id}
    return TransformersText(config=config, pooling="cls" if pooling == "cls" else "mean", length=length)


def _encoder_config(kind: str, vocab_size: int, width: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return {"model_type": kind, "vocab_size": vocab_size, **sizes}


def _hf_image(*, config: dict[str, Any], image_size: int | None = None, drop_path: float = 0.0) -> Tower:
    from diptych.models.towers.packaged.hf_image import TransformersImage

    return TransformersImage(config=config, image_size=image_size, drop_path=drop_path)


def _open_clip_image(*, config: dict[str, Any], width: int, quick_gelu: bool, image_size: int | None = None) -> Tower:
    from diptych.models.towers.packaged.open_clip_towers import OpenClipImage

    return OpenClipImage(config=config, width=width, quick_gelu=quick_gelu, image_size=image_size)


def _open_clip_text(
    *,
    vocab_size: int | None = None,
    config: dict[str, Any],
    width: int,
    quick_gelu: bool,
    encoder: dict[str, Any] | None = None,
    length: int | None = None,
) -> Tower:
    from diptych.models.towers.packaged.open_clip_towers import OpenClipText

    return OpenClipText(config=config, width=width, quick_gelu=quick_gelu, encoder=encoder, length=length)


def _xlm_roberta(
    *, vocab_size: int, length: int, width: int, layers: int, heads: int, out: int, pad_id: int = 1, eot_id: int | None = None
) -> Tower:
    """As in open_clip: the mean of the tokens, then an MLP into the joint space."""
    encoder = _encoder_config("xlm-roberta", vocab_size, width, layers, heads) | ROBERTA | {"pad_token_id": pad_id}
    config = {
        "hf_model_name": "xlm-roberta-base",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": length,
    }
    return _open_clip_text(config=config, width=out, quick_gelu=False, encoder=encoder, length=length)


def _headed_image(*, inner: dict[str, Any], hidden: int, image_size: int | None = None, **head: Any) -> Tower:
    from diptych.models.towers.headed import HeadedTower

    return HeadedTower(image_tower(**inner), hidden, **head)


def _headed_text(
    *,
    inner: dict[str, Any],
    hidden: int,
    vocab_size: int | None = None,
    length: int | None = None,
    **head: Any,
) -> Tower:
    from diptych.models.towers.headed import HeadedTower

    return HeadedTower(text_tower(**inner), hidden, **head)


def _adapted_image(*, inner: dict[str, Any], adapters: dict[str, Any], image_size: int | None = None) -> Tower:
    from diptych.models.towers.block_adapters import BlockAdapterConfig, with_adapters

    return with_adapters(image_tower(**inner), BlockAdapterConfig(**adapters), "image")


def _adapted_text(
    *, inner: dict[str, Any], adapters: dict[str, Any], vocab_size: int | None = None, length: int | None = None
) -> Tower:
    from diptych.models.towers.block_adapters import BlockAdapterConfig, with_adapters

    return with_adapters(text_tower(**inner), BlockAdapterConfig(**adapters), "text")


def _projected_map(*, inner: dict[str, Any], out: int, order: Any = "map", image_size: int | None = None) -> Tower:
    from diptych.models.towers.projected_map import ProjectedMapTower

    sized = inner | ({"image_size": image_size} if image_size else {})
    return ProjectedMapTower(image_tower(**sized), out, order=order)


def _temporal(*, model: str = "resnet50", image_size: int = 448, half: int = 256, heads: int = 8, blocks: int = 3) -> Tower:
    from diptych.models.towers.projected_map import TemporalImageTower

    return TemporalImageTower(model=model, image_size=image_size, half=half, heads=heads, blocks=blocks)


def _hidden_layer(*, inner: dict[str, Any], layer: int = -2, image_size: int | None = None) -> Tower:
    from diptych.models.towers.hidden_layer import HiddenLayerTower

    return HiddenLayerTower(image_tower(**inner | ({"image_size": image_size} if image_size else {})), layer)


def _frame_average(
    *, inner: dict[str, Any], merging: bool = True, hidden: int = 256, heads: int = 8, image_size: int | None = None
) -> Tower:
    from diptych.models.towers.video.temporal_merge import FrameAverageTower

    sized = inner | ({"image_size": image_size} if image_size else {})
    return FrameAverageTower(image_tower(**sized), merging=merging, hidden=hidden, heads=heads)


def _frame_sequence(*, inner: dict[str, Any], frames: int, mixed: bool = False, image_size: int | None = None) -> Tower:
    from diptych.models.towers.video.frame_sequence import FrameSequenceTower

    sized = inner | ({"image_size": image_size} if image_size else {})
    return FrameSequenceTower(image_tower(**sized), frames, mixed=mixed)


def _peak_image(*, inner: dict[str, Any], out: int, image_size: int | None = None) -> Tower:
    from diptych.models.towers.max_pool_tower import MaxPoolTower

    tower = image_tower(**inner)
    return MaxPoolTower(tower, out, with_pooled=isinstance(tower, VisionTransformer) and tower.class_token_D is not None)


def _learned_tokens(*, inner: dict[str, Any], out: int, tokens: int, groups: int, image_size: int | None = None) -> Tower:
    from diptych.models.towers.token_learner import TokenLearnerTower

    return TokenLearnerTower(image_tower(**inner), out, tokens=tokens, groups=groups)


def _peak_text(
    *, inner: dict[str, Any], out: int, read_padding: bool = False, vocab_size: int | None = None, length: int | None = None
) -> Tower:
    from diptych.models.towers.max_pool_tower import MaxPoolTower

    return MaxPoolTower(text_tower(**inner), out, read_padding=read_padding)


IMAGE: dict[str, Preset] = {
    "vit": (VisionTransformer, {}),
    "dense": (DenseViT, {}),
    "vit_micro": (VisionTransformer, {"image_size": 48, "patch": 16, "width": 64, "layers": 2, "heads": 4}),
    "vit_tiny": (VisionTransformer, {"image_size": 64, "patch": 16, "width": 192, "layers": 4, "heads": 3}),
    "vit_b32": (VisionTransformer, {"image_size": 224, "patch": 32, "width": 768, "layers": 12, "heads": 12, "start": "torch"}),
    "vit_b16": (VisionTransformer, {"image_size": 224, "patch": 16, "width": 768, "layers": 12, "heads": 12, "start": "torch"}),
    "vit_l14": (VisionTransformer, {"image_size": 224, "patch": 14, "width": 1024, "layers": 24, "heads": 16, "start": "torch"}),
    "vit_bigg14": (
        VisionTransformer,
        {"image_size": 224, "patch": 14, "width": 1664, "layers": 48, "heads": 16, "mlp_ratio": 4.9231, "start": "torch"},
    ),
    "dense_micro": (
        DenseViT,
        {"image_size": 48, "patch": 8, "width": 64, "layers": 2, "heads": 4, "layer_scale": 0.1},
    ),
    "dense_tiny": (
        DenseViT,
        {"image_size": 64, "patch": 8, "width": 192, "layers": 4, "heads": 3, "layer_scale": 0.1},
    ),
    "dense_b16": (DenseViT, {"image_size": 224, "patch": 16, "width": 768, "layers": 12, "heads": 12}),
    "dense_b14": (
        DenseViT,
        {"image_size": 224, "patch": 14, "width": 768, "layers": 12, "heads": 12, "eps": 1e-6, "resized": "bilinear"}
        | {"start": "narrow"},
    ),
    "beit_micro": (
        BEiT,
        {"image_size": 48, "patch": 16, "width": 64, "layers": 2, "heads": 4, "drop_path": 0.0},
    ),
    "beit_tiny": (
        BEiT,
        {"image_size": 64, "patch": 16, "width": 192, "layers": 4, "heads": 3, "drop_path": 0.0},
    ),
    "beit_b16": (BEiT, {"image_size": 224, "patch": 16, "width": 768, "layers": 12, "heads": 12}),
    "resnet_clip_tiny": (CLIPResNet, {"image_size": 64, "depths": (1, 1, 1, 1), "width": 16, "heads": 8, "out": 192}),
    "resnet_clip_50": (CLIPResNet, {"image_size": 224, "depths": (3, 4, 6, 3), "width": 64, "heads": 32, "out": 1024}),
    "siglip_b16": (
        VisionTransformer,
        {"image_size": 224, "patch": 16, "width": 768, "layers": 12, "heads": 12, "act": "gelu_tanh", "pool": "attention"}
        | {"patch_bias": True, "pre_norm": False, "eps": 1e-6, "start": "xavier"},
    ),
    "slip_b16": (
        VisionTransformer,
        {"image_size": 224, "patch": 16, "width": 768, "layers": 12, "heads": 12, "patch_bias": True, "pre_norm": False}
        | {"eps": 1e-6, "start": "narrow"},
    ),
    "convnet_micro": (ConvNet, {"image_size": 48, "widths": (32, 64), "depths": (1, 2)}),
    "convnet_tiny": (ConvNet, {"image_size": 64, "widths": (64, 128, 256), "depths": (2, 2, 2)}),
    "efficientnet_b7": (_efficientnet, {"image_size": 289, "model": "tf_efficientnet_b7"}),
    "efficientnet_l2": (_efficientnet, {"image_size": 289, "model": "tf_efficientnet_l2"}),
    "eva_g14": (_eva, {"image_size": 224, "model": "eva_giant_patch14_224", "blocks": 39, "prefix": True}),
    "hf_image": (_hf_image, {}),
    "peak_image": (_peak_image, {}),
    "hidden_layer": (_hidden_layer, {}),
    "frame_average": (_frame_average, {}),
    "patches": (PatchEmbeddingTower, {}),
    "frame_sequence": (_frame_sequence, {}),
    "headed_image": (_headed_image, {}),
    "adapted_image": (_adapted_image, {}),
    "projected_map": (_projected_map, {}),
    "temporal_image": (_temporal, {}),
    "learned_tokens_image": (_learned_tokens, {}),
    "open_clip_image": (_open_clip_image, {}),
}
TEXT: dict[str, Preset] = {
    "transformer": (TextTransformer, {}),
    "text_micro": (
        TextTransformer,
        {"length": 24, "width": 64, "layers": 2, "heads": 4, "causal": False, "pooling": "mean"},
    ),
    "text_tiny": (
        TextTransformer,
        {"length": 24, "width": 192, "layers": 2, "heads": 3, "causal": False, "pooling": "mean"},
    ),
    "text_tiny_clip": (TextTransformer, {"length": 24, "width": 192, "layers": 2, "heads": 3}),
    "text_clip": (TextTransformer, {"length": 77, "width": 512, "layers": 12, "heads": 8, "start": "spread"}),
    "text_clip_l": (TextTransformer, {"length": 77, "width": 768, "layers": 12, "heads": 12, "start": "spread"}),
    "text_clip_bigg": (
        TextTransformer,
        {"length": 77, "width": 1280, "layers": 32, "heads": 20, "start": "spread"},
    ),
    "text_slip": (
        TextTransformer,
        {"length": 77, "width": 512, "layers": 12, "heads": 8, "act": "quick_gelu", "start": "spread"},
    ),
    "text_siglip": (
        TextTransformer,
        {
            "length": 64,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "act": "gelu_tanh",
            "causal": False,
            "pooling": "last",
            "eps": 1e-6,
            "start": "xavier",
        },
    ),
    "text_tips": (
        TextTransformer,
        {"length": 64, "width": 768, "layers": 12, "heads": 12, "act": "relu", "causal": False, "pooling": "mean"}
        | {"positions": "sine", "scaled": True, "start": "xavier", "dropout": 0.1},
    ),
    "bert_micro": (_bert, {"length": 64, "width": 64, "layers": 1, "heads": 2}),
    "bert_tiny": (_bert, {"length": 64, "width": 128, "layers": 2, "heads": 2}),
    "bert_b6": (_bert, {"length": 64, "width": 768, "layers": 6, "heads": 12}),
    "bert_b": (_bert, {"length": 64, "width": 768, "layers": 12, "heads": 12}),
    "bert_l": (_bert, {"length": 64, "width": 1024, "layers": 24, "heads": 16}),
    "roberta_tiny": (_roberta, {"length": 64, "width": 128, "layers": 2, "heads": 2}),
    "roberta_b": (_roberta, {"length": 64, "width": 768, "layers": 12, "heads": 12}),
    "bart_b": (_bart, {"length": 64, "width": 768, "layers": 6, "heads": 12}),
    "xlm_roberta_tiny": (_xlm_roberta, {"length": 64, "width": 64, "layers": 2, "heads": 4, "out": 64}),
    "xlm_roberta_b": (_xlm_roberta, {"length": 77, "width": 768, "layers": 12, "heads": 12, "out": 512}),
    "open_clip_text": (_open_clip_text, {}),
    "headed_text": (_headed_text, {}),
    "adapted_text": (_adapted_text, {}),
    "peak_text": (_peak_text, {}),
}


def image_tower(name: str, *, image_size: int | None = None, **options: Any) -> Tower:
    """Return an image tower, initialised from the current torch random state. `image_size` in pixels;
    None: the default of the name.
    """
    if image_size is not None:
        options["image_size"] = image_size
    if name.startswith("timm:"):
        from diptych.models.towers.packaged.timm_tower import TimmTower

        return _built(name, TimmTower, {"model": name.removeprefix("timm:")}, options)
    refuse_unknown_tower("image_tower", name)
    return _built(name, *IMAGE[name], options)


def is_tower(side: str, name: str) -> bool:
    """Return True if a tower of that name exists. side: "image_tower" or "text_tower"."""
    table, prefix = (IMAGE, "timm:") if side == "image_tower" else (TEXT, "hf:")
    return name in table or name.startswith(prefix)


def refuse_unknown_tower(side: str, name: str) -> None:
    """Raise UnknownName, with the near names, for a tower that does not exist."""
    if not is_tower(side, name):
        names = [*IMAGE, "timm:NAME"] if side == "image_tower" else [*TEXT, "hf:FOLDER"]
        if name in (IMAGE_WEIGHTS if side == "image_tower" else TEXT_WEIGHTS):  # no similar name to suggest
            raise UnknownName(side.replace("_", " "), name, (), hint="--init packaged trains from the packaged encoders")
        raise UnknownName(side.replace("_", " "), name, names)


@lru_cache(maxsize=8)
def patches_a_side(name: str, image_size: int, patch: int | None = None) -> int:
    """Return the number of patches per side of a dense tower, with `patch` or its own patch size; other towers are refused."""
    with torch.device("meta"):
        tower = image_tower(name, image_size=image_size, **({"patch": patch} if patch else {}))
    if not isinstance(tower, DenseViT):
        raise ConfigError(f"image tower {name!r} has no second class token and no patches to hide (expected dense_...)")
    return tower.count


def text_tower(name: str, *, vocab_size: int | None = None, length: int | None = None, **options: Any) -> Tower:
    """Return a text tower: newly initialised, or with the folder's weights for "hf:FOLDER".
    `length` is the maximal number of tokens.

    Ours need `vocab_size`, and `eot_id` if they pool at the end of the text, or `pad_id` if at the last position.
    A transformers folder has its own. "hf" with config=... (a transformers configuration as a dict) builds that encoder,
    newly initialised.
    """
    if length is not None:
        options["length"] = length
    if name == "hf" or name.startswith("hf:"):
        from diptych.models.towers.packaged.hf_text import TransformersText

        if name == "hf":
            return _built("hf", TransformersText, {}, options)
        tower = TransformersText.from_folder(name.removeprefix("hf:"), **options)
        tower.spec = {"name": "hf", "config": tower.config, "length": tower.length, "pooling": tower.pooling}
        return tower
    refuse_unknown_tower("text_tower", name)
    if vocab_size is None:
        raise ConfigError(f"text tower {name!r} needs vocab_size (a tokenizer's .vocab_size)")
    return _built(name, *TEXT[name], {"vocab_size": vocab_size, **options})


def encoder_blocks(name: str) -> int:
    """Return the number of transformer blocks of a text tower bert_* or hf:FOLDER. Raises ConfigError for others."""
    if name in TEXT and name.startswith("bert_"):
        return int(TEXT[name][1]["layers"])
    path = Path(name.removeprefix("hf:"), "config.json")
    if (
        name.startswith("hf:")
        and path.is_file()
        and "num_hidden_layers" in (config := json.loads(path.read_text(encoding="utf-8")))
    ):
        return int(config["num_hidden_layers"])
    raise ConfigError(f"text tower {name!r} has no blocks that could be frozen by number (expected bert_... or hf:FOLDER)")


def pools_last(name: str, pooling: str | None = None) -> bool:
    """Return True if that text tower, with `pooling` or its own,
    attends to padding and pools the last position: it then needs `pad_id`.
    """
    return (pooling or TEXT.get(name, (None, {}))[1].get("pooling")) == "last"


def _built(name: str, build: Callable[..., Tower], preset: dict[str, Any], options: dict[str, Any]) -> Tower:
    resolved = {**preset, **options}
    try:
        tower = build(**resolved)
    except TypeError as error:
        arguments = _arguments(build)
        wrong = sorted(set(resolved) - set(arguments))
        if not wrong:
            raise
        raise UnknownName(f"option of {name}", wrong[0], arguments) from error
    tower.spec = {"name": name, **{key: value for key, value in resolved.items() if key != "model"}}
    return tower


def _arguments(build: Callable[..., Tower]) -> list[str]:
    import inspect

    return list(inspect.signature(build).parameters)
