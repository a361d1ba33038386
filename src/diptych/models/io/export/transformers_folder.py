"""A trained dual encoder as a folder of transformers.  Letters: D width, V vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import normalizers
from torch import Tensor, nn

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import ConfigError
from diptych.data.text.captions.cleaning import REMOVED
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.clip_layout import to_transformers as renamed
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.text import TextTransformer
from diptych.models.towers.vit import VisionTransformer

ROUNDING = "diptych_rounding"
"""Key of preprocessor_config.json for the rounding of margins that a model of ours was trained with."""
_RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL's numbers


def to_transformers(embedder: PairEmbedder, folder: Path) -> None:
    """Write a folder that `transformers.CLIPModel` and `CLIPProcessor` open. Only the CLIP architecture has a place there."""
    refuse_other_vectors(embedder)
    import transformers

    model = embedder.model
    if reasons := unlike_clip(model, embedder):
        raise ConfigError("this model cannot become a transformers CLIPModel: " + "; ".join(reasons))
    image, text = model.image_tower.spec, model.text_tower.spec
    act = {"gelu_tanh": "gelu_pytorch_tanh"}.get(image.get("act", "gelu"), image.get("act", "gelu"))
    tensors, tokenizer = renamed(model.state_dict()), embedder.tokenizer
    largest = isinstance(model.text_tower, TextTransformer) and model.text_tower.pooling == "largest"
    if not largest:
        tensors, tokenizer = _end_away_from_2(tensors, tokenizer)
    tokenizer = _cleaning_by_itself(tokenizer)
    config = transformers.CLIPConfig(
        projection_dim=model.width,
        vision_config={
            **_sizes(image, 768, 12, 12),
            "hidden_act": act,
            "layer_norm_eps": image.get("eps", 1e-5),
            "image_size": image["image_size"],
            "patch_size": image["patch"],
            "projection_dim": model.width,
        },
        text_config={
            **_sizes(text, 512, 12, 8),
            "hidden_act": act,
            "layer_norm_eps": text.get("eps", 1e-5),
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["length"],
            "bos_token_id": tokenizer.sot_id if tokenizer.prefix else None,
            "eos_token_id": 2 if largest else tokenizer.eot_id,  # 2 means: pool at the largest id
            "pad_token_id": tokenizer.pad_id,
            "projection_dim": model.width,
        },
    )
    with torch.random.fork_rng(devices=[]):
        theirs = transformers.CLIPModel(config)
    report = theirs.load_state_dict(tensors, strict=False)
    missing = [name for name in report.missing_keys if not name.endswith("position_ids")]
    if missing or report.unexpected_keys:
        raise ConfigError(f"transformers' CLIPModel has other tensors than expected: {(missing + report.unexpected_keys)[:3]}")
    with atomic_folder(Path(folder)) as work:
        theirs.save_pretrained(work)
        tokenizer.save(work)
        settings = json.loads((work / "tokenizer_config.json").read_text(encoding="utf-8"))
        write_json(work / "tokenizer_config.json", {**settings, "model_max_length": text["length"], "padding_side": "right"})
        write_json(work / "preprocessor_config.json", _processor(embedder))


def refuse_other_vectors(embedder: PairEmbedder) -> None:
    """Raises ConfigError for a model that compares otherwise than by one vector of an image and one of a text."""
    if embedder.kind != PairEmbedder.kind:
        raise ConfigError(
            f"'{embedder.name}' does not embed an image and a text as one vector each, which an export needs "
            f"(its kind is {embedder.kind}, expected {PairEmbedder.kind})"
        )


def unlike_clip(model: DualEncoder, embedder: PairEmbedder, *, padded: bool = False) -> list[str]:
    """Reasons why other libraries' CLIP architecture cannot hold this model, each with an option that makes it possible.

    Empty when it can hold all of it. `padded`: whether images may be padded there.
    """
    image, text, reasons = model.image_tower, model.text_tower, []
    if not isinstance(image, VisionTransformer):
        reasons.append(f"its image tower is {image.spec['name']} (expected --image-tower vit_b32 or another vit_*)")
    elif image.pool is not None or image.patches.bias is not None or not isinstance(image.norm_before, nn.LayerNorm):
        reasons.append(
            "its image tower has SigLIP's head, patch bias or no first norm (expected --image-pool class and CLIP's parts)"
        )
    if not isinstance(text, TextTransformer):
        reasons.append(f"its text tower is {text.spec['name']} (expected --text-tower text_clip or text_tiny_clip)")
    elif not text.causal or text.pooling not in ("eot", "largest"):
        reasons.append(
            "its text tower reads both ways, or pools by the mean or at the last place "
            "(expected one that reads from left to right and pools at the end: --text-tower text_clip, or text_tiny_clip)"
        )
    if image.spec.get("act", "gelu") != text.spec.get("act", "gelu"):
        reasons.append("its towers use different activations (expected one --act)")
    if not model.project_image:
        reasons.append("its image is not projected (expected CLIP's two projections)")
    if model.bias is not None:
        reasons.append("it has a bias, which CLIP has not (expected a recipe without, such as clip)")
    if model.projection_bias != "none":
        reasons.append("its projections have a bias, which CLIP's have not")
    if embedder.preprocess.resize == "pad" and not padded:
        reasons.append("it pads its images (expected --resize crop or squash)")
    return reasons


def _sizes(spec: dict[str, Any], width: int, layers: int, heads: int) -> dict[str, Any]:
    width = spec.get("width", width)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * spec.get("mlp_ratio", 4.0)),
        "num_hidden_layers": spec.get("layers", layers),
        "num_attention_heads": spec.get("heads", heads),
    }


def _cleaning_by_itself(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer; what ours does to a text before it as BLIP's authors do, its file does, since transformers reads that alone."""
    if tokenizer.clean != "blip":
        return tokenizer
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    steps = [
        normalizers.Lowercase(),
        normalizers.Replace(tokenizers.Regex(REMOVED.pattern), " "),
        normalizers.Replace(tokenizers.Regex(r"\s{2,}"), " "),
        normalizers.Strip(),
    ]
    inner.normalizer = normalizers.Sequence([*steps, *([inner.normalizer] if inner.normalizer else [])])
    same = {name: getattr(tokenizer, name) for name in ("pad_id", "prefix", "suffix", "clean", "literal")}
    return Tokenizer(inner, **same)


def _end_away_from_2(tensors: dict[str, Tensor], tokenizer: Tokenizer) -> tuple[dict[str, Tensor], Tokenizer]:
    """The same model and tokenizer, but with another end-of-text id where it was 2.

    transformers takes a `CLIPConfig` whose end is 2 for a file of before 2023 and pools at the largest id of each text instead.
    So the end changes places with the last piece, in the vocabulary and in the embedding table.
    """
    if tokenizer.eot_id != 2:
        return tensors, tokenizer
    table_VD = tensors["text_model.embeddings.token_embedding.weight"].clone()
    last = len(table_VD) - 1
    table_VD[[2, last]] = table_VD[[last, 2]]
    swap = {2: last, last: 2}
    plain = json.loads(tokenizer.to_json())
    plain["model"]["vocab"] = {piece: swap.get(number, number) for piece, number in plain["model"]["vocab"].items()}
    for token in plain["added_tokens"]:
        token["id"] = swap.get(token["id"], token["id"])
    for mark in plain["post_processor"]["special_tokens"].values():
        mark["ids"] = [swap.get(number, number) for number in mark["ids"]]
    own = plain["diptych"]
    for name in ("prefix", "suffix"):
        own[name] = [swap.get(number, number) for number in own[name]]
    moved = Tokenizer.from_spec(json.dumps(plain))
    return {**tensors, "text_model.embeddings.token_embedding.weight": table_VD}, moved


def _processor(embedder: PairEmbedder) -> dict[str, Any]:
    settings = embedder.preprocess.to_json()
    size, crop = settings["size"], settings["resize"] == "crop"
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size} if crop else square,
        "do_center_crop": crop,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(settings["mean"]),
        "image_std": list(settings["std"]),
        "resample": _RESAMPLE[settings["interpolation"]],
        ROUNDING: embedder.preprocess.rounding,  # transformers always rounds margins down: this is for reading it back
    }
