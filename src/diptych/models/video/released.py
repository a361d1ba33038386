"""X-CLIP's released models: "xclip:FILE" of Microsoft's files, and "hf:FOLDER" of an `XCLIPModel` of transformers.

Sizes are those of the tensors. transformers' names become Microsoft's first, so that both are read by one map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.io.foreign.hub_folder import hub_folder
from diptych.models.io.foreign.preprocess import from_processor
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import mlp_ratio
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.video.video_embedder import VideoEmbedder
from diptych.models.video.video_encoder import VideoEncoder, VideoSettings

SOURCE = "a released model of X-CLIP"
_MESSAGE = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.message_(fc|ln|attn)\.(.+)")
_MIXER = re.compile(r"mit\.resblocks\.(\d+)\.(.+)")
_REFINER = re.compile(r"prompts_generator\.decoder\.(\d+)\.(.+)\.(weight|bias)")
_ATTENTION = {
    "in_proj_weight": "qkv.weight",
    "in_proj_bias": "qkv.bias",
    "out_proj.weight": "out.weight",
    "out_proj.bias": "out.bias",
}
_BLOCK = {"ln_1": "norm_1", "ln_2": "norm_2", "mlp.c_fc": "mlp_in", "mlp.c_proj": "mlp_out"}
_READING = {
    "cross_attn.q_proj": "read.q", "cross_attn.k_proj": "read.k", "cross_attn.v_proj": "read.v", "cross_attn.proj": "read.out",
    "norm1": "norm_read", "norm3": "norm_mlp", "mlp.0": "mlp_in", "mlp.3": "mlp_out",
}  # fmt: skip
PLAIN = {
    "mit.positional_embedding": "mixer.position_TJ", "prompts_generator.alpha": "refiner.gate_D",
    "prompts_generator.norm.weight": "refiner.places.weight", "prompts_generator.norm.bias": "refiner.places.bias",
    "prompts_visual_ln.weight": "patch_norm.weight", "prompts_visual_ln.bias": "patch_norm.bias",
    "prompts_visual_proj": "patch_projection_DJ",
}  # fmt: skip
TOWERS = {"image_tower": "tower.tower", "image_projection": "tower.projection"}
_TRANSFORMERS = (
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layernorm\.(\w+)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(\w+)", r"visual.ln_post.\1"),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(\w+)", r"ln_final.\1"),
    (r"text_projection\.weight", "text_projection"),
    (r"mit\.position_embedding", "mit.positional_embedding"),
    (r"prompts_visual_layernorm\.(\w+)", r"prompts_visual_ln.\1"),
    (r"prompts_visual_projection", "prompts_visual_proj"),
    (r"prompts_generator\.layernorm\.(\w+)", r"prompts_generator.norm.\1"),
    (r"(prompts_generator\.(?:alpha|decoder\..+)|logit_scale)", r"\1"),
    *(
        (rf"{theirs}\.encoder\.layers\.(\d+)\.{inner}\.(?P<kind>\w+)", rf"{ours}.resblocks.\1.{outer}.\g<kind>")
        for theirs, ours in (("vision_model", "visual.transformer"), ("text_model", "transformer"), ("mit", "mit"))
        for inner, outer in (
            *((rf"self_attn\.({part}_proj)", r"attn.\2") for part in "qkv"),
            (r"self_attn\.out_proj", "attn.out_proj"),
            (r"layer_norm1", "ln_1"),
            (r"layer_norm2", "ln_2"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
            *((rf"message_attn\.({part}_proj)", r"message_attn.\2") for part in "qkv"),
            (r"message_attn\.out_proj", "message_attn.out_proj"),
            (r"message_fc", "message_fc"),
            (r"message_ln", "message_ln"),
        )
    ),
)
"""transformers' names -> Microsoft's; queries, keys and values are joined afterwards."""


def open_released(spec: str) -> VideoEmbedder:
    """The model of "xclip:FILE". Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or not one of tensors, ConfigError for tensors that are left over, missing or of another
    size.
    """
    file = Path(spec.partition(":")[2]).expanduser()
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(file).items()}
    try:
        model, towers = opened(tensors)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    words, side = Tokenizer.from_spec("clip"), int(towers["image"]["image_size"])
    check_fits(words, towers["text"], spec)
    preprocess = Preprocess(side, IMAGENET_MEAN, IMAGENET_STD)
    return VideoEmbedder(model, preprocess, words, int(towers["text"]["length"]), spec, towers=towers)


def open_hub(spec: str, *, download: bool = False) -> VideoEmbedder | None:
    """The model of "hf:FOLDER_OR_NAME" of an X-CLIP; None for any other address."""
    kind, _, name = spec.partition(":")
    if kind != "hf" or not name:
        return None
    folder = hub_folder(spec, name, download=download)
    return open_folder(folder, spec) if read_object(folder / "config.json").get("model_type") == "xclip" else None


def open_folder(folder: Path, spec: str) -> VideoEmbedder:
    """The model, image settings and tokenizer of a folder of an `XCLIPModel`. Raises DataError or ConfigError."""
    config = read_object(folder / "config.json")
    named = next(iter(config.get("architectures") or ()), "XCLIPModel")
    if named != "XCLIPModel":
        raise ConfigError(f"{spec}: architecture {named} scores no clips (expected XCLIPModel)")
    try:
        model, towers = opened(from_transformers_names(read_tensors(weights_file(str(folder)))), config)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    words = from_transformers(folder)
    check_fits(words, towers["text"], spec)
    preprocess = from_processor(folder, "xclip")
    return VideoEmbedder(model, preprocess, words, int(towers["text"]["length"]), spec, towers=towers)


def opened(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> tuple[VideoEncoder, dict[str, Any]]:
    """The module of tensors in Microsoft's names, in evaluation mode, and the configuration of its towers. Raises ConfigError."""
    with torch.random.fork_rng(devices=[]):
        model, towers = empty_encoder(tensors, config)
    load_strictly(model, from_released(tensors))
    return model.float().eval(), towers


def empty_encoder(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> tuple[VideoEncoder, dict[str, Any]]:
    """A module of the sizes of those tensors with fresh weights, and the configuration of its towers.

    config  of transformers, for heads that are not of 64 dimensions
    """
    needed = (
        *("visual.conv1.weight", "visual.positional_embedding", "visual.transformer.resblocks.0.mlp.c_fc.weight", "visual.proj"),
        *(
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.0.mlp.c_fc.weight",
            "mit.positional_embedding",
        ),
    )
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    vision, words = ((config or {}).get(f"{side}_config") or {} for side in ("vision", "text"))
    width, patch = tensors[needed[0]].shape[0], tensors[needed[0]].shape[-1]
    image = {
        "image_size": patch * round((len(tensors[needed[1]]) - 1) ** 0.5),
        "patch": patch,
        "width": width,
        "layers": _count(r"visual\.transformer\.resblocks\.(\d+)\..+", tensors),
        "heads": vision.get("num_attention_heads") or max(1, width // 64),
        "mlp_ratio": mlp_ratio(width, len(tensors[needed[2]])),
        "act": "quick_gelu",
    }
    joint = tensors[needed[3]].shape[1]
    for name in ("mit_num_attention_heads", "prompt_num_attention_heads"):
        held = {**(config or {}), **vision}.get(name, joint // 64)
        if held != joint // 64:
            raise ConfigError(
                f"{name} is {held} (expected {joint // 64}, a head for 64 dimensions, as in every published X-CLIP)"
            )
    rows, (length, inner) = len(tensors[needed[4]]), tensors[needed[5]].shape
    text: dict[str, Any] = {
        "vocab_size": rows,
        "length": length,
        "width": inner,
        "layers": _count(r"transformer\.resblocks\.(\d+)\..+", tensors),
        "heads": words.get("num_attention_heads") or max(1, inner // 64),
        "mlp_ratio": mlp_ratio(inner, len(tensors[needed[6]])),
        "act": "quick_gelu",
        "eot_id": rows - 1,
    }
    encoder = DualEncoder(image_tower("vit", **image), text_tower("transformer", **text), width=joint)
    settings = VideoSettings(
        frames=tensors["mit.positional_embedding"].shape[-2],
        messages=any(_MESSAGE.fullmatch(name) for name in tensors),
        mixer=_count(r"mit\.resblocks\.(\d+)\..+", tensors),
        prompts=_count(r"prompts_generator\.decoder\.(\d+)\..+", tensors),
    )
    towers = {"image": encoder.image_tower.spec, "text": encoder.text_tower.spec, "bias": False, "project_image": True}
    towers |= {"projection_bias": "none", "max_scale": encoder.max_scale}
    return VideoEncoder(encoder, settings), towers


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `VideoEncoder` from Microsoft's. Raises ConfigError with names that have no counterpart."""
    own, clip = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name in PLAIN:
            own[PLAIN[name]] = tensor[0] if tensor.ndim == 3 else tensor
        elif match := _MESSAGE.fullmatch(name):
            part, rest = match[2], match[3]
            inside = (
                f"attention.{_ATTENTION.get(rest, rest)}" if part == "attn" else f"{'write' if part == 'fc' else 'norm'}.{rest}"
            )
            own[f"tower.messages.{match[1]}.{inside}"] = tensor
        elif match := _MIXER.fullmatch(name):
            own[f"mixer.transformer.blocks.{match[1]}.{_block_name(match[2])}"] = tensor
        elif (match := _REFINER.fullmatch(name)) and match[2] in _READING:
            own[f"refiner.layers.{match[1]}.{_READING[match[2]]}.{match[3]}"] = tensor
        else:
            clip[name] = tensor
    for name, tensor in from_open_clip(clip).items():
        part, dot, rest = name.partition(".")
        own[f"{TOWERS.get(part, part)}{dot}{rest}"] = tensor
    return own


def from_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an `XCLIPModel` under Microsoft's names. Raises ConfigError with names that have no counterpart."""
    out, strange = dict[str, Tensor](), list[str]()
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        renamed = next((match.expand(ours) for theirs, ours in _TRANSFORMERS if (match := re.fullmatch(theirs, name))), None)
        if renamed is None:
            strange.append(name)
        else:  # projections are linear layers there
            out[renamed] = tensor.T if renamed in ("visual.proj", "text_projection") else tensor
    if strange:
        raise ConfigError(f"not of X-CLIP: {first_names(strange)} (expected the weights of an XCLIPModel)")
    return _joined(out)


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of attention in one matrix, as Microsoft's are."""
    out = dict[str, Tensor]()
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+attn)\.([qkv])_proj\.(weight|bias)", name)
        if not match or ".cross_attn." in name:
            out[name] = tensor
        elif match[2] == "q":
            parts = [tensors.get(f"{match[1]}.{part}_proj.{match[3]}") for part in "qkv"]
            if any(part is None for part in parts):
                raise ConfigError(f"{name} has no keys or values beside it (expected the weights of an XCLIPModel)")
            out[f"{match[1]}.in_proj_{match[3]}"] = torch.cat([part for part in parts if part is not None])
    return out


def _block_name(rest: str) -> str:
    """Of a tensor within a block of CLIP's."""
    if rest.startswith("attn."):
        return f"attention.{_ATTENTION.get(rest.removeprefix('attn.'), rest)}"
    part, _, kind = rest.rpartition(".")
    return f"{_BLOCK.get(part, part)}.{kind}"


def _count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in tensors if (match := re.fullmatch(pattern, name))})
