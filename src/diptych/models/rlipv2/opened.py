"""Load checkpoints of the RLIPv2 release as detectors: "rlipv2:CHECKPOINT#ROBERTA-FOLDER".

The model is inferred from the tensors of the file and the options that `main.py` saved with them.
The folder provides the tokenizer and the sizes of the text encoder; its weights are not used, since the checkpoint has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.vocabularies import vocabulary
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.checkpoint import ReleasedCheckpoint, checkpoint_and_encoder, read_checkpoint
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.language_fusion import GateKind
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.pair_decoder import RelationStart
from diptych.models.rlipv2.published import BACKBONES, PUBLISHED, ROBERTA, load_released
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder
from diptych.models.towers.label_texts import TokenTexts

GATES: dict[str, GateKind] = {
    "GLIP": "vector",
    "Vtanh": "scalar_tanh",
    "Etanh": "vector_tanh",
    "Stanh": "self_tanh",
    "SDFtanh": "delta_tanh",
    "SFtanh": "feature_tanh",
    "SOtanh": "self_one_tanh",
    "SXAc": "self",
    "SDFXAc": "delta",
    "VXAc": "scalar",
    "SXAcLN": "self_norm",
    "SDFXAcLN": "delta_norm",
    "SDFOXAcLN": "delta_one_norm",
    "XGating": "none",
    "MBF": "multi_branch",
}
"""`--gating_mechanism` of the release -> ours."""
STARTS: dict[str, RelationStart] = {"vanilla": "slots", "MBF": "fused", "vanilla_MBF": "both"}
"""`--verb_query_tgt_type` of the release -> `relation_start`."""
VOCABULARIES = {"hico": "hico-det", "vcoco": "v-coco", "v-coco": "v-coco", "oi_sgg": "open-images"}
"""`--dataset_file` of fine-tuned models -> their closed set of labels; pre-trained ones have none."""
TEXT_LENGTH = 32
"""Maximal tokens per label; the release truncates none, and its longest label has fewer."""


def open_released(spec: str) -> GraphDetector:
    """Load the detector at "rlipv2:CHECKPOINT#ROBERTA-FOLDER". Leaves the torch random state unchanged.

    Raises DataError for a missing or invalid file or folder, and ConfigError for another architecture, with every unexpected,
    missing or mismatched tensor.
    """
    file, folder = checkpoint_and_encoder(spec, "roberta-base")
    released = read_checkpoint(file)
    encoder = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {key: encoder.get(key, value) for key, value in ROBERTA.items()}
    backbone, shape = architecture(released)
    tokenizer = from_transformers(folder)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise ConfigError(
            f"{spec}: the tokenizer has ids up to {tokenizer.vocab_size - 1} and the text encoder {config['vocab_size']} words "
            "(expected the folder of the encoder that the checkpoint was trained with)"
        )
    with torch.random.fork_rng(devices=[]):
        model = RelationDetector(detection_backbone(**backbone), label_encoder("hf", config=config), shape)
    try:
        load_released(model, released.tensors)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    name = VOCABULARIES.get(str(released.options.get("dataset_file", "")), "")
    names = vocabulary(name) if name else None
    lists = LabelLists(names.object_texts, names.predicate_texts) if names else None
    length = min(TEXT_LENGTH, int(config["max_position_embeddings"]) - 2)
    return GraphDetector(model.eval(), TokenTexts(tokenizer, length), DetectionPreprocess(), spec, lists=lists)


def architecture(released: ReleasedCheckpoint) -> tuple[dict[str, Any], RelationDetectorConfig]:
    """Infer the arguments of `detection_backbone` and the detector's configuration from a file's tensors and options."""
    tensors, options = released.tensors, released.options
    parseda, tagger = "refpoint_embed.weight" in tensors, "transformer.coord_proj.weight" in tensors
    if not parseda and not any(name.startswith("transformer.ho_encoder.") for name in tensors):
        raise ConfigError(
            f"{released.file}: no RLIPv2-ParSeDA, RLIPv2-ParSeD or R-Tagger (it has neither refpoint_embed nor transformer.ho_encoder; "
            "RLIP-ParSe, and weights of plain detectors, are not opened)"
        )
    fused = any(".VLFuse_layers." in name for name in tensors)
    late = any(name.startswith("transformer.obj_fusion.") for name in tensors)
    encoder = "transformer.encoder" if parseda else "transformer.ho_encoder"
    layers = _count(tensors, rf"{re.escape(encoder)}\.layers\.(\d+)\..+")
    decoders = _count(tensors, r"transformer\.ho_decoder\.layers\.(\d+)\..+")
    meetings = _count(tensors, rf"{re.escape(encoder)}\.VLFuse_layers\.(\d+)\..+")
    start_type = str(options.get("verb_query_tgt_type", ""))
    start: RelationStart = STARTS.get(start_type) or (
        "both" if any("verb_tgt_generator" in name for name in tensors) else "slots"
    )
    shape = replace(
        PUBLISHED,
        variant="parseda" if parseda else "parsed",
        pairs=_rows(tensors, "tgt_embed.weight" if parseda else "query_embed.weight", released) // 2,
        mlp_width=_rows(tensors, f"{encoder}.layers.0.linear1.weight", released),
        encoder_layers=layers,
        decoder_layers=decoders,
        fusion="alif" if fused else "late" if late else "none",
        fusion_before=_meetings(options, meetings, layers),
        coarsest_only=bool(options.get("fusion_last_vis", True)),
        layer_texts=bool(options.get("lang_aux_loss", True)),
        gate=_gate(released, encoder) if fused else PUBLISHED.gate,
        centred=_swin(tensors) is not None,
        dropout=float(options.get("dropout", 0.0)),
        relation_start=start if start != "both" or tagger else None,
        given=tagger,
        given_point=tagger,
        hide_twins="training" if tagger else PUBLISHED.hide_twins,
    )
    return _backbone(released), shape


def _backbone(released: ReleasedCheckpoint) -> dict[str, Any]:
    name = _swin(released.tensors) or "resnet50"
    made: dict[str, Any] = dict(BACKBONES[name])
    if "drop_path" in made and "drop_path_rate" in released.options:
        made["drop_path"] = float(released.options["drop_path_rate"])
    return made


def _swin(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the Swin backbone; None for a ResNet."""
    patch_weight = tensors.get("backbone.0.body.patch_embed.proj.weight")
    return None if patch_weight is None else "swin_tiny" if patch_weight.shape[0] == 96 else "swin_large"


def _gate(released: ReleasedCheckpoint, encoder: str) -> GateKind:
    """Return the kind of gate from the options, else from the tensors: values that differ over channels are per-channel gates."""
    mechanism = str(released.options.get("gating_mechanism", ""))
    if mechanism in GATES:
        return GATES[mechanism]
    block = [name for name in released.tensors if name.startswith(f"{encoder}.VLFuse_layers.")]
    if any("gamma_v_down" in name or "gamma_v_up" in name or ".MBF_v." in name for name in block):
        raise ConfigError(
            f"{released.file}: its gates have layers, and no option names the layers (expected gating_mechanism in args)"
        )
    vectors = [released.tensors[name] for name in block if name.endswith((".gamma_v", ".gamma_l"))]
    return "vector" if any(not vector.is_meta and bool((vector != vector[:1]).any()) for vector in vectors) else "scalar"


def _meetings(options: Mapping[str, Any], count: int, layers: int) -> tuple[int, ...]:
    """Return the encoder layers before which image and labels are fused."""
    if not count:
        return PUBLISHED.fusion_before
    interval = int(options.get("fusion_interval", max(1, layers // count)))
    return tuple(range(0, layers, interval))[:count]


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))), default=-1)


def _rows(tensors: Mapping[str, Tensor], name: str, released: ReleasedCheckpoint) -> int:
    if name not in tensors:
        raise ConfigError(f"{released.file}: tensor {name} is missing (expected a whole checkpoint of main.py)")
    return int(tensors[name].shape[0])
