"""Load released checkpoints of ULIP and ULIP-2 with a Point-BERT or a PointNeXt: "ulip:CHECKPOINT" or "ulip:CHECKPOINT#MODEL".

ULIP checkpoints contain SLIP's image and text towers (timm's ViT-B, CLIP's text transformer). ULIP-2 checkpoints contain
open_clip's ViT-bigG/14 or no towers: MODEL is then the address of that dual encoder, such as open_clip:ViT-bigG-14/FILE. The
layouts are those of the released code; they were not tested on the released files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import build_dual_encoder
from diptych.models.io.releases.slip_layout import count, slip_image, slip_image_name, slip_image_tensor
from diptych.models.io.tensor_files import read_content, read_tensors
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.points.point_bert import PointBERTSettings
from diptych.models.points.point_embedder import PointCloudEmbedder, towers_of
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.pointnext import PointNeXtSettings
from diptych.models.towers.towers import image_tower, text_tower

SOURCE = "a checkpoint of ULIP or ULIP-2 with a Point-BERT or a PointNeXt"
ARCHITECTURE = "ViT-bigG-14"
SKIP = 1e-3
"""Skip distance of furthest-point sampling in pointnet2_ops, with which the released models were trained."""
NAMES = (
    (r"point_encoder\.encoder\.first_conv\.(\d)\.(\w+)", r"tower.group_encoder.local.\1.\2"),
    (r"point_encoder\.encoder\.second_conv\.(\d)\.(\w+)", r"tower.group_encoder.joint.\1.\2"),
    (r"point_encoder\.reduce_dim\.(\w+)", r"tower.reduce.\1"),
    (r"point_encoder\.cls_token", "tower.class_token_11D"),
    (r"point_encoder\.cls_pos", "tower.class_position_11D"),
    (r"point_encoder\.pos_embed\.(\d)\.(\w+)", r"tower.position.\1.\2"),
    (r"point_encoder\.blocks\.blocks\.(.+)", r"tower.blocks.\1"),
    (r"point_encoder\.norm\.(\w+)", r"tower.norm.\1"),
    (r"point_encoder\.encoder\.encoder\.0\.0\.convs\.0\.0\.(\w+)", r"tower.stem.\1"),
    (r"point_encoder\.prediction\.head\.0\.(.+)", r"tower.head.0.\1"),
    (r"point_encoder\.prediction\.head\.2\.(.+)", r"tower.head.1.\1"),  # there is a dropout between them
    (r"pc_projection", "projection.weight"),
    (r"logit_scale", "log_scale"),
)
"""(pattern, replacement): the point side of the release and ours."""
NEXT_STEM = "point_encoder.encoder.encoder.0.0.convs.0.0.weight"
NEXT_LEVELS = 4
"""Levels of the released PointNeXt; the one after them takes the maximum over all points."""
NEXT_LEVEL = re.compile(
    r"point_encoder\.encoder\.encoder\.(?P<level>[1-5])\.0\.(convs\.(?P<layer>\d)\.(?P<kind>[01])|skipconv\.0)\.(?P<rest>\w+)"
)
ANCHOR = "anchors.encoder."
OPEN_CLIP = "open_clip_model."


def open_released(spec: str) -> PointCloudEmbedder:
    """Load the model at "ulip:CHECKPOINT" or "ulip:CHECKPOINT#MODEL". Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or has no tensors, and ConfigError for another architecture, with the unexpected,
    missing and mismatched tensors.
    """
    path, _, address = spec.partition(":")[2].partition("#")
    tensors = _tensors(Path(path).expanduser())
    try:
        settings = released_settings(tensors)
        given = given_anchor(address) if address else None
        with torch.random.fork_rng(devices=[]):
            anchor = given[0] if given else released_anchor(tensors)
            model = PointEncoder(anchor, settings)
        load_released(model, tensors, with_anchor=given is None)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    preprocess, words, length = given[1:] if given else _reading(anchor, slip=not _has(tensors, OPEN_CLIP))
    clouds = CloudPreprocess(points=8192 if settings.in_channels == 3 else 10_000, channels=settings.in_channels)
    return PointCloudEmbedder(model.float().eval(), clouds, preprocess, words, length, spec, towers=towers_of(anchor))


def released_settings(tensors: Mapping[str, Tensor]) -> PointBERTSettings | PointNeXtSettings:
    """Return the settings of the point tower from its tensors; the sizes of groups, which no tensor shows,
    are the published ones.
    """
    if NEXT_STEM in tensors:
        return _next_settings(tensors)
    first, reduce = "point_encoder.encoder.first_conv.0.weight", "point_encoder.reduce_dim.weight"
    if lost := [name for name in (first, reduce, "pc_projection", "logit_scale") if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    width, encoder = tensors[reduce].shape
    layers = {match[1] for name in tensors if (match := re.match(r"point_encoder\.blocks\.blocks\.(\d+)\.", name))}
    return PointBERTSettings(
        in_channels=tensors[first].shape[1],
        encoder=encoder,
        token_width=width,
        layers=len(layers),
        heads=max(1, width // 64),
        skip=SKIP,
    )


def _next_settings(tensors: Mapping[str, Tensor]) -> PointNeXtSettings:
    """Return the settings of a PointNeXt. Radii and neighbours, which no tensor shows, are those of the release."""
    head = tuple(
        len(tensors[name]) for name in sorted(tensors) if re.fullmatch(r"point_encoder\.prediction\.head\.\d\.0\.weight", name)
    )
    levels = sum(
        re.fullmatch(r"point_encoder\.encoder\.encoder\.\d\.0\.skipconv\.0\.weight", name) is not None for name in tensors
    )
    return PointNeXtSettings(width=len(tensors[NEXT_STEM]), levels=levels, head=head)


def released_anchor(tensors: Mapping[str, Tensor]) -> DualEncoder:
    """Return the dual encoder whose tensors are in the file, newly initialised: SLIP's, or open_clip's ViT-bigG/14."""
    if _has(tensors, OPEN_CLIP):
        return build_dual_encoder(open_clip_parts(_architecture(), _inside(tensors, OPEN_CLIP)))
    if "visual.cls_token" not in tensors or "token_embedding.weight" not in tensors:
        raise ConfigError(
            "contains no image and text towers (expected ulip:CHECKPOINT#MODEL, with the dual encoder it was trained towards)"
        )
    image = image_tower(**slip_image(tensors))
    words, positions = tensors["token_embedding.weight"], tensors["positional_embedding"]
    deep = count(r"transformer\.resblocks\.(\d+)\..+", tensors)
    length, inner = positions.shape
    sizes: dict[str, Any] = {"length": length, "width": inner, "layers": deep, "heads": max(1, inner // 64)}
    text = text_tower("text_slip", vocab_size=len(words), eot_id=len(words) - 1, causal=True, pooling="eot", **sizes)
    return DualEncoder(image, text, width=tensors["text_projection"].shape[1])


def from_released(tensors: Mapping[str, Tensor], *, with_anchor: bool = True) -> dict[str, Tensor]:
    """Convert a released state dict to that of a `PointEncoder`; without its anchor if another one is given.

    Raises ConfigError with the names of tensors that have no counterpart.
    """
    point, anchor = dict[str, Tensor](), dict[str, Tensor]()
    text = {}
    for name, tensor in tensors.items():
        if ours := _renamed(name):
            point[ours] = tensor.T if name == "pc_projection" else tensor.reshape(1) if name == "logit_scale" else tensor
        elif name.startswith("visual."):
            anchor[f"image_tower.{slip_image_name(name.removeprefix('visual.'))}"] = slip_image_tensor(name, tensor)
        elif name == "image_projection":
            anchor["image_projection.weight"] = tensor.T
        elif not name.startswith(OPEN_CLIP):
            text[name] = tensor
    if inside := _inside(tensors, OPEN_CLIP):
        anchor |= open_clip_parts(_architecture(), inside).tensors
    elif text:
        anchor |= from_open_clip({**text, "logit_scale": tensors["logit_scale"]})
        text = {}
    if text:
        raise ConfigError(f"not of ULIP: {first_names(list(text))} (expected {SOURCE})")
    return point | ({ANCHOR + name: tensor for name, tensor in anchor.items()} if with_anchor else {})


def load_released(model: PointEncoder, tensors: Mapping[str, Tensor], *, with_anchor: bool = True) -> None:
    """Load released weights into a model of the same architecture, all or nothing;
    without `with_anchor` its anchor is unchanged.
    """
    read = from_released(tensors, with_anchor=with_anchor)
    kept = {} if with_anchor else {name: value for name, value in model.state_dict().items() if name.startswith(ANCHOR)}
    load_strictly(model, read | kept)


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    content = read_tensors(file) if file.suffix == ".safetensors" else read_content(file)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise DataError("contains no state_dict", file=file, expected=SOURCE)
    return {str(name).removeprefix("module."): tensor for name, tensor in tensors.items()}


def given_anchor(address: str) -> tuple[DualEncoder, Preprocess, Any, int]:
    """Return the dual encoder at an address, its preprocessing, its tokenizer, and its maximal number of tokens."""
    from diptych.models.io.open_address import open_address
    from diptych.models.pairs.embedder import PairEmbedder

    opened = open_address(address)
    if not isinstance(opened, PairEmbedder):
        raise ConfigError(f"{address} is not a dual encoder (expected the one that the checkpoint was trained towards)")
    return opened.model, opened.preprocess, opened.tokenizer, opened.text_length


def _reading(anchor: DualEncoder, *, slip: bool) -> tuple[Preprocess, Tokenizer, int]:
    side, length = int(anchor.image_tower.spec["image_size"]), int(anchor.text_tower.spec["length"])
    preprocess = Preprocess(side, IMAGENET_MEAN, IMAGENET_STD) if slip else Preprocess(side)
    return preprocess, Tokenizer.from_spec("clip"), length


def _renamed(name: str) -> str | None:
    if match := NEXT_LEVEL.fullmatch(name):
        level = f"levels.{int(match['level']) - 1}." if int(match["level"]) <= NEXT_LEVELS else ""
        mlp = f"{level}mlp" if level else "whole"
        kind = "convs" if match["kind"] == "0" else "norms"
        return (
            f"tower.{mlp}.{kind}.{match['layer']}.{match['rest']}" if match["layer"] else f"tower.{level}shortcut.{match['rest']}"
        )
    return next((match.expand(ours) for pattern, ours in NAMES if (match := re.fullmatch(pattern, name))), None)


def _has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _architecture() -> dict[str, Any]:
    import open_clip

    settings: dict[str, Any] = open_clip.get_model_config(ARCHITECTURE)
    return settings
