"""Load published weights into a `ReferringBridge`: REF-VLM's (2503.07413; announced, not yet public),
and those of its backbone.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.io.tensor_files import read_tensors
from diptych.models.referring.referring_bridge import ReferringBridge

PARTS = {
    "llm.": "language.inner.",
    "projector.model.0.": "connector.linear_1.",
    "projector.model.2.": "connector.linear_2.",
    "vpt_encoder.model.": "regions.",
    "visual_decoder.box.in_proj_visual_feats.": "boxes.visual.",
    "visual_decoder.box.in_proj_queries.": "boxes.queries.map.",
    "visual_decoder.box.query_position_embeddings.": "boxes.queries.position.",
    "visual_decoder.box.decoder.": "boxes.queries.decoder.",
    "visual_decoder.box.predictor.layers.0.": "boxes.predictor.0.",
    "visual_decoder.box.predictor.layers.1.": "boxes.predictor.2.",
    "visual_decoder.box.predictor.layers.2.": "boxes.predictor.4.",
    "visual_decoder.mask.pixel_decoder.": "masks.pixels.",
    "visual_decoder.mask.in_proj_visual_feats.": "masks.visual.",
    "visual_decoder.mask.in_proj_queries.": "masks.queries.map.",
    "visual_decoder.mask.query_position_embeddings.": "masks.queries.position.",
    "visual_decoder.mask.query_decoder.": "masks.queries.decoder.",
    "visual_decoder.mask.mask_embedder.0.0.": "masks.embedder.0.",
    "visual_decoder.mask.mask_embedder.1.0.": "masks.embedder.2.",
    "visual_decoder.mask.mask_embedder.2.0.": "masks.embedder.4.",
}
"""Prefixes of names in the release and here; the rest of the name is the same."""
POSE = {
    "in_proj_visual_feats.": "visual.",
    "in_proj_queries.": "map.",
    "kpt_embedding.": "kind.",
    "query_position_embeddings.": "position.",
    "decoder.": "decoder.",
    "kpt_classifier.": "visible.",
    **{
        f"{theirs}_predictor.layers.{n}.": f"{ours}.{2 * n}."
        for theirs, ours in (("box", "box"), ("kpt", "point"))
        for n in range(3)
    },
}
PARTS |= {f"visual_decoder.pose.kpt_decoder.{theirs}": f"points.{ours}" for theirs, ours in POSE.items()}
PARTS |= {
    theirs.replace(".box.", ".pose.box_decoder."): ours.replace("boxes.", "points.first.")
    for theirs, ours in PARTS.items()
    if theirs.startswith("visual_decoder.box.")
}
UNREAD = ("visual_decoder.mask.queries_embedder.", "visual_encoder.")
"""Ignored tensors: an unused embedding, and the image encoder, which is CLIP's as published."""
KEPT = ("encoder.", "backbone.")
"""Parts that the released files do not contain."""


def own_name(name: str) -> str:
    """Return the name in a `ReferringBridge` of a released tensor; "" for an unused one. Raises DataError for an unknown name."""
    if name.startswith(UNREAD) or name.endswith(".rotary_emb.inv_freq"):
        return ""
    for theirs, ours in PARTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise DataError(f"tensor {name} is unknown", expected="the weights of REF-VLM's decoders, projector and Vicuna")


@torch.no_grad()
def take_ref_vlm_(bridge: ReferringBridge, address: str) -> None:
    """Copy weights of REF-VLM into a bridge of the same sizes, except for image encoder and backbone.

    address  "hf:FILE", a state dict as safetensors or as PyTorch's file of tensors
    Raises DataError for a tensor that is missing, unexpected or of another shape.
    """
    file = Path(address.removeprefix("hf:")).expanduser()
    needed = {name: tensor for name, tensor in bridge.state_dict(keep_vars=True).items() if not name.startswith(KEPT)}
    filled = set[str]()
    for name, tensor in read_tensors(file).items():
        ours = own_name(name)
        if not ours:
            continue
        if ours not in needed:
            raise DataError(
                f"tensor {name} does not belong to the recipe's model", file=file, expected="the same decoders and layers"
            )
        _copy(needed[ours], tensor, name, file)
        filled.add(ours)
    if missing := sorted(set(needed) - filled):
        raise DataError(f"tensor {missing[0]} is missing", file=file, expected="the weights of REF-VLM")


@torch.no_grad()
def take_backbone_(backbone: DetectionBackbone, address: str) -> None:
    """Copy weights of a whole network into the pyramid of its stages; further stages and the head are ignored.

    address  a file of tensors with the names of timm, or of open_clip with the prefix "visual.trunk."
    Raises DataError for a tensor that is missing or of another shape.
    """
    file, filled = Path(address).expanduser(), set[str]()
    needed = {name.removeprefix("net."): tensor for name, tensor in backbone.state_dict(keep_vars=True).items()}
    for name, tensor in read_tensors(file).items():
        plain = name.removeprefix("visual.trunk.")
        flat = re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", plain)  # timm's name of a stage in a pyramid
        if ours := next((own for own in (plain, flat) if own in needed), ""):
            _copy(needed[ours], tensor, name, file)
            filled.add(ours)
    if missing := sorted(set(needed) - filled):
        raise DataError(
            f"tensor {missing[0]} is missing", file=file, expected="weights of the recipe's backbone, by timm or open_clip"
        )


def _copy(own: Tensor, tensor: Tensor, name: str, file: Path) -> None:
    if own.shape != tensor.shape:
        raise DataError(f"{name} is {list(tensor.shape)}, the recipe's {list(own.shape)}", file=file, expected="the same sizes")
    own.copy_(tensor)
