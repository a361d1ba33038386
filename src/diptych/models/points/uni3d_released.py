"""Load released checkpoints of Uni3D: "uni3d:CHECKPOINT#MODEL", where MODEL is the dual encoder it was aligned with.

A checkpoint contains only the point tower; it was published with EVA02-CLIP-E-14-plus of open_clip, such as
open_clip:EVA02-E-14-plus/FILE. The layout is that of the released code; it was not tested on the released files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.io.tensor_files import read_content, read_tensors
from diptych.models.points.point_embedder import PointCloudEmbedder, towers_of
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.released import ANCHOR, given_anchor
from diptych.models.points.uni3d import Uni3DSettings

SOURCE = "a checkpoint of Uni3D"
NAMES = (
    (r"point_encoder\.encoder\.first_conv\.(\d)\.(\w+)", r"tower.group_encoder.local.\1.\2"),
    (r"point_encoder\.encoder\.second_conv\.(\d)\.(\w+)", r"tower.group_encoder.joint.\1.\2"),
    (r"point_encoder\.encoder2trans\.(\w+)", r"tower.reduce.\1"),
    (r"point_encoder\.trans2embed\.(\w+)", r"projection.\1"),
    (r"point_encoder\.cls_token", "tower.class_token_11D"),
    (r"point_encoder\.cls_pos", "tower.class_position_11D"),
    (r"point_encoder\.pos_embed\.(\d)\.(\w+)", r"tower.position.\1.\2"),
    (r"point_encoder\.visual\.((?:blocks|norm|fc_norm)\..+)", r"tower.\1"),
    (r"logit_scale", "log_scale"),
)
"""(pattern, replacement): the release and ours."""
UNUSED = re.compile(r"point_encoder\.visual\.(patch_embed\..+|cls_token|pos_embed|head\..+|rope\..+)")
"""Tensors of timm's image model that the released forward pass does not use."""
MODELS = {
    (192, 12): "eva02_tiny_patch14_224",
    (384, 12): "eva02_small_patch14_224",
    (768, 12): "eva02_base_patch14_448",
    (1024, 24): "eva02_large_patch14_448",
    (1408, 40): "eva_giant_patch14_560",
}
"""Width and layers -> the timm model of the released scripts."""


def open_uni3d(spec: str) -> PointCloudEmbedder:
    """Load the model at "uni3d:CHECKPOINT#MODEL". Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or has no tensors, and ConfigError for an address without MODEL or for a file of
    another architecture, with the unexpected, missing and mismatched tensors.
    """
    path, _, address = spec.partition(":")[2].partition("#")
    if not address:
        raise ConfigError(
            f"{spec!r} does not name a dual encoder (expected uni3d:CHECKPOINT#MODEL, the one it was trained towards)"
        )
    tensors = _tensors(Path(path).expanduser())
    try:
        settings = uni3d_settings(tensors)
        anchor, preprocess, words, length = given_anchor(address)
        with torch.random.fork_rng(devices=[]):
            model = PointEncoder(anchor, settings)
        kept = {name: value for name, value in model.state_dict().items() if name.startswith(ANCHOR)}
        load_strictly(model, from_uni3d(tensors) | kept)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    clouds = CloudPreprocess(points=10_000, channels=settings.in_channels)
    return PointCloudEmbedder(model.float().eval(), clouds, preprocess, words, length, spec, towers=towers_of(anchor))


def uni3d_settings(tensors: Mapping[str, Tensor]) -> Uni3DSettings:
    """Return the settings of the tower from its tensors; the sizes of groups, which no tensor shows, are the published ones."""
    reduce = "point_encoder.encoder2trans.weight"
    if lost := [name for name in (reduce, "point_encoder.trans2embed.weight", "logit_scale") if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    width, encoder = tensors[reduce].shape
    layers = {match[1] for name in tensors if (match := re.match(r"point_encoder\.visual\.blocks\.(\d+)\.", name))}
    if (width, len(layers)) not in MODELS:
        raise ConfigError(f"{len(layers)} layers of width {width} (expected one of {', '.join(map(str, MODELS))})")
    return Uni3DSettings(model=MODELS[width, len(layers)], encoder=encoder)


def from_uni3d(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a released state dict to that of a `PointEncoder` without its anchor.

    Raises ConfigError with the names of tensors that have no counterpart.
    """
    ours, left = dict[str, Tensor](), []
    for name, tensor in tensors.items():
        renamed = next((match.expand(new) for pattern, new in NAMES if (match := re.fullmatch(pattern, name))), None)
        if renamed:
            ours[renamed] = tensor.reshape(1) if name == "logit_scale" else tensor
        elif not UNUSED.fullmatch(name):
            left.append(name)
    if left:
        raise ConfigError(f"not of Uni3D: {first_names(left)} (expected {SOURCE})")
    return ours


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    content = read_tensors(file) if file.suffix == ".safetensors" else read_content(file)
    tensors = content.get("module", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise DataError("contains no entry 'module' with tensors", file=file, expected=SOURCE)
    return {str(name).removeprefix("module."): tensor for name, tensor in tensors.items()}
