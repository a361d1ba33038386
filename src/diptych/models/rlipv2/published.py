"""Released RLIPv2 models: build them, and convert state dicts from and to released checkpoints.

`build("resnet50")` returns the architecture; `load_released` loads its weights,
`from_released` and `to_released` convert its state dict. The release contains some tensors that ours does not, because they have
no effect: a second name for every box head (the heads of both decoders appear at the top level again; a file that stores shared
tensors once may have either name), the numbering buffers of RoBERTa and Swin, one bias per branch of the multi-branch fusion
(only their sum matters), gate vectors where a gate uses only their first value or none, and the learned queries of the R-Tagger.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.checkpoint import load_strictly
from diptych.models.rlipv2.names import NUMBERING, QUERY_PARTS, example_gate, name_table, rename
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.rlipv2.tensors import join_released, split_for_release
from diptych.models.towers.label_encoder import label_encoder

BACKBONES = {
    "resnet50": {"name": "timm:resnet50", "frozen_norm": True},
    "swin_tiny": {"name": "timm:swin_tiny_patch4_window7_224", "drop_path": 0.2},
    "swin_large": {"name": "timm:swin_large_patch4_window7_224", "drop_path": 0.5},
}
"""Arguments of `detection_backbone`."""
FROZEN = {
    "resnet50": r"^backbone\.net\.(conv1|layer1)\.",
    "swin_tiny": r"^backbone\..*(norm|relative_position_bias_table)",
    "swin_large": r"^backbone\..*(norm|relative_position_bias_table)",
}
"""Parameters that the release never trains, as a regular expression over their names: stem and first stage of ResNet;
norms and position tables of Swin, also the norms after its stages. Nothing outside the backbone.
"""
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
"""roberta-base."""


PUBLISHED = RelationDetectorConfig(released_masks=True)
"""RLIPv2-ParSeDA with ALIF exactly as released, including its attention masks: see `released_masks` before further training."""


def build(backbone: str, **changes: Any) -> RelationDetector:
    """Build a released architecture, newly initialised: RLIPv2-ParSeDA with `changes` (fields of `RelationDetectorConfig`).

    pairs    100 for pre-training, V-COCO and Open Images, 64 for HICO-DET
    variant  "parsed" is RLIPv2-ParSeD (`mlp_width=1024` with ResNet-50), and with `given=True, given_point=True,
             hide_twins="training"` the R-Tagger (`relation_start` "slots" with ResNet-50, "both" with Swin)
    fusion   "late": MDETR's fusion after the decoders, the baseline of ALIF; "none"
    gate     "vector" for checkpoints trained with GLIP's gate, the R-Tagger with ResNet-50 among them
    """
    if backbone not in BACKBONES:
        raise UnknownName("published backbone", backbone, BACKBONES)
    if changes.get("variant") == "parse":
        raise ConfigError("variant 'parse' is not among the released RLIPv2 models (expected parseda | parsed)")
    return RelationDetector(
        detection_backbone(**BACKBONES[backbone]),  # type: ignore[arg-type]
        label_encoder("hf", config=ROBERTA),
        replace(PUBLISHED, **{"centred": backbone != "resnet50", **changes}),
    )


def from_released(tensors: Mapping[str, Tensor], shape: RelationDetectorConfig = PUBLISHED) -> dict[str, Tensor]:
    """Convert a released state dict (the entry "model" of its checkpoint) to that of a detector of this shape.

    Raises ConfigError with all unexpected tensors. A warning names those that the release contains but never uses in a model of
    this shape, and gate vectors of which a scalar gate uses only the first value although the others differ.
    """
    table, gate = name_table(shape), getattr(example_gate(shape), "gate", None)
    out: dict[str, Tensor] = {}
    strange, idle = [], []
    for name, tensor in join_released(tensors, shape).items():
        if re.fullmatch(NUMBERING, name):
            continue
        ours = rename(name, table, released=True)
        if name in _unread(shape):
            idle.append(name)
        elif ours is None or (_of_relation_boxes(name) and not shape.relation_boxes and not _silent(name, tensor)):
            strange.append(name)
        elif (_of_relation_boxes(name) and not shape.relation_boxes) or (ours.endswith("_gate.gate") and gate is None):
            idle.append(name)
        elif ours.endswith("_gate.gate") and gate is not None and gate.numel() == 1:
            out[ours] = tensor[:1]
        else:
            out[ours] = tensor
    if strange:
        raise ConfigError(f"{_listed(strange)} no place in {_title(shape)} (expected weights of that released architecture)")
    if idle:
        warnings.warn(f"not read, since {_title(shape)} computes nothing with them: {', '.join(idle)}", stacklevel=2)
    if cut := _cut_gates(tensors, shape):
        warnings.warn(cut, stacklevel=2)
    return out


def to_released(tensors: Mapping[str, Tensor], shape: RelationDetectorConfig = PUBLISHED) -> dict[str, Tensor]:
    """Convert the state dict of a detector of this shape to that of a released model.

    The result includes tensors without effect: see `tensors.split_for_release`.
    """
    table = name_table(shape)
    renamed = {name: rename(name, table, released=False) for name in tensors}
    if strange := [name for name, theirs in renamed.items() if theirs is None]:
        raise ConfigError(f"{_listed(strange)} no place in the released {_title(shape)}")
    return split_for_release({str(theirs): tensors[name] for name, theirs in renamed.items()}, shape)


def load_released(model: RelationDetector, tensors: Mapping[str, Tensor]) -> None:
    """Load released weights into a model of the same architecture, all or nothing.

    Raises ConfigError with every unexpected, missing or mismatched tensor, and gate vectors that the model would truncate.
    """
    if cut := _cut_gates(tensors, model.shape):
        raise ConfigError(cut)
    read = from_released(tensors, model.shape)
    load_strictly(model, read, title=_title(model.shape), shown=len(read) + len(model.state_dict()))


def _title(shape: RelationDetectorConfig) -> str:
    kind = {"parse": "ParSe", "parsed": "ParSeD", "parseda": "ParSeDA"}[shape.variant]
    return f"RLIPv2-{kind}" + (" of given regions" if shape.given else "") + f" with fusion={shape.fusion!r}"


def _listed(names_: list[str]) -> str:
    return f"tensor {names_[0]!r} has" if len(names_) == 1 else f"{len(names_)} tensors ({', '.join(names_)}) have"


def _unread(shape: RelationDetectorConfig) -> tuple[str, ...]:
    """Return the names of learned queries and of the fusion of subject and object that the release contains but does not use in
    this shape.
    """
    start = shape.relation_start
    if shape.variant == "parseda":
        fusion = tuple(f"transformer.verb_tgt_generator.fc_{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias"))
        return {"slots": fusion, "fused": ("verb_tgt_embed.weight",)}.get(start or "both", ())
    if shape.given:
        return ("query_embed.weight", *(("transformer.verb_tgt.weight",) if start == "fused" else ()))
    return (QUERY_PARTS[2],) if start == "fused" else ()


def _cut_gates(tensors: Mapping[str, Tensor], shape: RelationDetectorConfig) -> str:
    """Return a warning about per-channel gate vectors of which a scalar gate uses only the first value; "" if nothing is lost.

    (In a gate that the release trained as a scalar, all other values are equal.)
    """
    if not shape.gate.startswith("scalar"):
        return ""
    gates = [name for name in sorted(tensors) if re.fullmatch(r".+\.VLFuse_layers\.\d+\.b_attn\.gamma_[vl]", name)]
    cut = [name for name in gates if _differs(tensors[name][1:])]
    if not cut:
        return ""
    return (
        f"only the first number is read, since gate={shape.gate!r} has one for all channels, though the others differ "
        f"(a checkpoint of per-channel gates needs gate='vector' or 'vector_tanh'): {', '.join(cut)}"
    )


def _of_relation_boxes(name: str) -> bool:
    return re.match(r"transformer\.verb_decoder\.(sub|obj)_bbox_embed\.", name) is not None


def _silent(name: str, tensor: Tensor) -> bool:
    """Return True for a part of a box head that moves no box, since its last layer is zero."""
    return ".layers.2." not in name or tensor.is_meta or not bool(tensor.any())


def _differs(tensor: Tensor) -> bool:
    return not tensor.is_meta and bool((tensor != tensor[:1]).any())
