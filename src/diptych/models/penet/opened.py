"""Checkpoints of the PE-Net release as models: "penet:CHECKPOINT#SETTING".

The release is a network of maskrcnn-benchmark: images as BGR from 0 to 255 less a mean, BatchNorm fixed and without an epsilon. Both are
folded into the weights (the first convolution takes RGB of deviation 1 / 255, running variances are less by timm's epsilon), so that the
numbers stay those of the release.

What it holds and ours does not, because it computes nothing: the corners of the anchors, which are rebuilt, and `linear_pred`, which
nothing reads. A PE-Net of SGG-Benchmark opens likewise: its parts of things lie in `context_layer`, with a map of visual features
of their own beside that of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.media.transforms import Triple
from diptych.data.vocabularies import vocabulary
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.checkpoint import ReleasedCheckpoint, first_names, load_strictly, read_checkpoint
from diptych.models.detection.faster_rcnn import FasterRCNNConfig
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.penet.graph_relater import GraphRelater
from diptych.models.penet.predicate_head import PENetHeadConfig
from diptych.models.penet.scene_graph_network import SceneGraphConfig, SceneGraphNetwork, Setting

MEAN: Triple = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
"""Caffe's, as RGB."""
STD: Triple = (1 / 255, 1 / 255, 1 / 255)
EPS = 1e-5
"""Of timm's fixed BatchNorm; the released one has none."""
VOCABULARIES = ("vg150", "open-images")
BACKBONE = {"name": "timm:resnext101_32x8d", "strides": (4, 8, 16, 32), "frozen_norm": True}
RELEASED = SceneGraphConfig(head=PENetHeadConfig(place_momentum=0.001999), detector=FasterRCNNConfig(counting="inclusive"))
"""Boxes end on their last pixel, and where they lie is read twice a step."""
UNREAD = r"rpn\.anchor_generator\.cell_anchors\.\d+|roi_heads\.relation\.predictor\.(context_layer\.)?linear_pred\.(weight|bias)"
PREDICTOR = "roi_heads.relation.predictor."
CONTEXT = "context_layer."
UNION = "roi_heads.relation.union_feature_extractor."
NAMES = (
    (r"backbone\.body\.stem\.", "detector.backbone.net."),
    (r"backbone\.body\.", "detector.backbone.net."),
    (r"backbone\.fpn\.fpn_inner(\d)\.", "detector.pyramid.inner_blocks.{level}.0."),
    (r"backbone\.fpn\.fpn_layer(\d)\.", "detector.pyramid.layer_blocks.{level}.0."),
    (r"rpn\.head\.conv\.", "detector.proposer.head.conv.0.0."),
    (r"rpn\.head\.", "detector.proposer.head."),
    (r"roi_heads\.box\.feature_extractor\.", "detector.heads.box_head."),
    (r"roi_heads\.box\.predictor\.", "detector.heads.box_predictor."),
    (r"roi_heads\.relation\.box_feature_extractor\.", "regions."),
    (re.escape(UNION) + r"feature_extractor\.pooler\.reduce_channel\.0\.", "pairs.pool.reduce."),
    (re.escape(UNION) + r"feature_extractor\.", "pairs.layers."),
    (re.escape(UNION) + r"rect_conv\.", "pairs.rectangles."),
)
"""How names of the release begin, and ours. `level` counts from 0."""
PARTS = {
    "logit_scale": "log_scale",
    "post_emb": "ends",
    "obj_embed": "object_word_CE",
    "rel_embed": "predicate_word_KE",
    "W_sub": "subject_semantics",
    "W_obj": "object_semantics",
    "W_pred": "predicate_semantics",
    "gate_sub": "subject_gate",
    "gate_obj": "object_gate",
    "gate_pred": "pair_gate",
    "vis2sem": "visual",
    "pair_vis2sem": "pair_visual",
    "project_head": "projection",
    "linear_sub": "subject_residual.linear",
    "linear_obj": "object_residual.linear",
    "linear_rel_rep": "pair_residual.linear",
    "norm_sub": "subject_residual.norm",
    "norm_obj": "object_residual.norm",
    "norm_rel_rep": "pair_residual.norm",
    "down_samp": "pair_features",
    "pos_embed": "naming.place",
    "obj_embed1": "naming.word_CE",
    "out_obj": "naming.out",
    "lin_obj_cyx": "naming.hidden",
}
"""Parts of the released predictor -> of our head."""
LAYERS = {"W_sub", "W_obj", "W_pred", "project_head", "down_samp"}
"""Released as `layers.0` and `layers.1`; ours are 0 and 2, with the activation between."""


def open_released(spec: str) -> GraphRelater:
    """The model of "penet:CHECKPOINT#SETTING", which knows the names of VG150 or of Open Images. Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or not one of tensors, and ConfigError for a setting that there is not, or a network of
    another architecture, with the tensors that are left over, missing or of another size.
    """
    path, _, setting = spec.removeprefix("penet:").partition("#")
    if not path or not setting:
        raise ConfigError(
            f"{spec!r} does not name a checkpoint and a setting (expected penet:CHECKPOINT#predcls, #sgcls or #sgdet)"
        )
    if setting not in get_args(Setting):
        raise UnknownName("setting of PE-Net", setting, get_args(Setting))
    released = read_checkpoint(Path(path).expanduser())
    tensors = {name.removeprefix("module."): tensor for name, tensor in released.tensors.items()}
    nested = is_nested(tensors)
    tensors = flattened(tensors)
    lists = _lists(tensors, released)
    head = replace(RELEASED.head, pair_map="own") if nested else RELEASED.head
    shape = replace(RELEASED, setting=setting, head=head)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        model = SceneGraphNetwork(
            detection_backbone(**BACKBONE),  # type: ignore[arg-type]
            shape,
            len(lists.objects),
            len(lists.relations),
        )
    try:
        load_released(model, tensors)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return GraphRelater(model.eval(), DetectionPreprocess(600, longest=1000, mean=MEAN, std=STD), lists, spec)


def is_nested(tensors: Mapping[str, Tensor]) -> bool:
    """True for a PE-Net in SGG-Benchmark's names: parts of things lie in a module of their own."""
    return any(name.startswith(PREDICTOR + CONTEXT) for name in tensors)


def flattened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of SGG-Benchmark's PE-Net under the release's names, the map of pairs as `pair_vis2sem`; others as they are."""
    if not is_nested(tensors):
        return dict(tensors)
    out = {}
    for name, tensor in tensors.items():
        part = name.removeprefix(PREDICTOR)
        if part.startswith("vis2sem."):
            name = f"{PREDICTOR}pair_{part}"
        out[name.replace(PREDICTOR + CONTEXT, PREDICTOR)] = tensor
    return out


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `SceneGraphNetwork`, from that of the released model. Raises ConfigError with the names that have no place."""
    out, strange = {}, []
    for name, tensor in tensors.items():
        if re.fullmatch(UNREAD, name):
            continue
        ours = _renamed(name)
        if ours is None:
            strange.append(name)
        elif ours == "detector.backbone.net.conv1.weight":
            out[ours] = tensor.flip(1)  # BGR to RGB
        elif ours.startswith("detector.backbone.net.") and ours.endswith("running_var"):
            out[ours] = tensor - EPS
        elif ours == "head.log_scale":
            out[ours] = tensor.reshape(1)
        else:
            out[ours] = tensor
    if strange:
        raise ConfigError(f"not of PE-Net: {first_names(strange)} (expected a checkpoint of its release)")
    return out


def load_released(model: SceneGraphNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Puts released weights into a model of the same architecture, all or nothing."""
    load_strictly(model, from_released(tensors))


def _renamed(name: str) -> str | None:
    if name.startswith(PREDICTOR):
        part, dot, rest = name.removeprefix(PREDICTOR).partition(".")
        if part not in PARTS:
            return None
        if part in LAYERS:
            rest = re.sub(r"^layers\.(\d)\.", lambda match: f"{2 * int(match[1])}.", rest)
        return f"head.{PARTS[part]}{dot}{rest}"
    for pattern, ours in NAMES:
        if match := re.match(pattern, name):
            level = int(match[1]) - 1 if match.groups() else 0
            return ours.format(level=level) + name[match.end() :]
    return None


def _lists(tensors: Mapping[str, Tensor], released: ReleasedCheckpoint) -> LabelLists:
    """The names that as many classes belong to."""
    counts = tuple(
        len(tensors[PREDICTOR + name]) - 1 if PREDICTOR + name in tensors else 0
        for name in ("obj_embed.weight", "rel_embed.weight")
    )
    for name in VOCABULARIES:
        names = vocabulary(name)
        if counts == (len(names.object_texts), len(names.predicate_texts)):
            return LabelLists(names.object_texts, names.predicate_texts)
    raise ConfigError(
        f"{released.file}: {counts[0]} objects and {counts[1]} predicates are not a known vocabulary (expected a checkpoint of PE-Net's "
        f"release for {' or '.join(VOCABULARIES)})"
    )
