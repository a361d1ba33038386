"""Tensors of the released FIBER (microsoft/FIBER, coarse-grained) under our names.

What is folded or left out: RoBERTa adds one and the same segment vector to every word, which goes into the words; its first two positions
belong to padding; queues, the unused gates of lower text layers and numbers that are computed (masks of windows) are not weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.models.detection.checkpoint import required_tensor

PADDED = 2
"""Positions of RoBERTa before that of the first token."""
SOURCE = "the weights of a released FIBER, coarse-grained"
BIAS_TABLE = "relative_position_bias_table"

_WHOLE = {
    "cross_modal_text_transform_itc": "text_projection",
    "cross_modal_image_transform_itc": "image_projection",
    "cross_modal_text_transform": "text_transform",
    "cross_modal_image_transform": "image_transform",
    "cross_modal_text_pooler_itc": "text_head",
    "cross_modal_image_pooler_itc": "image_head",
    "cross_modal_text_pooler": "text_pooler",
    "cross_modal_image_pooler": "image_pooler",
    "itm_score.fc": "fits",
    "vqa_classifier": "answer",
    "nlvr2_classifier": "statement",
    "mlm_score.transform.dense": "guess.dense",
    "mlm_score.transform.LayerNorm": "guess.norm",
    "mlm_score.decoder": "guess.words",
    "text_transformer.embeddings.LayerNorm": "text.norm",
}
LAYER = {
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm_1",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
    "output.LayerNorm": "norm_2",
    "crossattention_t2i.self.query": "gate.query",
    "crossattention_t2i.self.key": "gate.key",
    "crossattention_t2i.self.value": "gate.value",
    "crossattention_t2i.output.dense": "gate.out",
}
_GATE = {"qkv_i2t": "query", "proj_i2t": "out", "norm_i2t_i": "norm"}
_TEXT = re.compile(r"text_transformer\.encoder\.layer\.(\d+)\.(.+)")
_IMAGE = re.compile(r"vit_model\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(.+)")
_MERGE = re.compile(r"vit_model\.layers\.(\d+)\.downsample\.(.+)")


def is_released(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors have the names of the coarse-grained release."""
    return any(name.startswith("vit_model.") for name in tensors)


def from_released(tensors: Mapping[str, Tensor], *, depths: Sequence[int], text_layers: int, fused: int) -> dict[str, Tensor]:
    """The tensors of a `FiberTraining` ("fiber...." and "temperature_1").

    depths, text_layers, fused  of the model, as the release numbers blocks by stage
    Raises DataError for a file without a tensor that is put together from several.
    """
    out: dict[str, Tensor] = {}
    before = [sum(depths[:stage]) for stage in range(len(depths))]
    first_image, first_text = sum(depths) - fused, text_layers - fused
    for name, tensor in tensors.items():
        if name.startswith("vit_model."):
            _image(out, name, tensor, before, first_image)
        elif match := _TEXT.fullmatch(name):
            _text(out, int(match[1]), name, tensors, first_text)
        elif name.startswith("cross_modal_att_layers."):
            _, number, kind = name.split(".")
            if int(number) >= first_text:
                out[f"narrow.{int(number) - first_text}.{kind}"] = tensor
        else:
            part, _, kind = name.rpartition(".")
            for theirs, here in _WHOLE.items():
                if part == theirs or part.startswith(f"{theirs}."):
                    out[f"{here}{part.removeprefix(theirs)}.{kind}"] = tensor
                    break
    if "mlm_score.bias" in tensors:
        out["guess.words.bias"] = tensors["mlm_score.bias"]
    table = "text_transformer.embeddings."
    words_VD = required_tensor(tensors, f"{table}word_embeddings.weight", SOURCE)
    out["text.words.weight"] = words_VD + required_tensor(tensors, f"{table}token_type_embeddings.weight", SOURCE)[0]
    out["text.position_LD"] = required_tensor(tensors, f"{table}position_embeddings.weight", SOURCE)[PADDED:]
    ours = {f"fiber.{name}": tensor for name, tensor in out.items()}
    if "temp" in tensors:
        ours["temperature_1"] = tensors["temp"].reshape(1)
    return ours


def _image(out: dict[str, Tensor], name: str, tensor: Tensor, before: Sequence[int], first: int) -> None:
    """Adds one tensor of the picture's tower. before: blocks before each stage; first: the first block that reads the text."""
    if match := _IMAGE.fullmatch(name):
        stage, block, rest = int(match[1]), int(match[2]), match[3]
        if "i2t" in rest:
            gate_part(out, f"image_tower.gates.{before[stage] + block - first}.", rest, tensor)
        elif rest != "relative_position_index":
            out[f"image_tower.net.layers.{stage}.blocks.{block}.attn.{rest}"] = tensor
    elif match := _MERGE.fullmatch(name):
        out[f"image_tower.net.layers.{int(match[1]) + 1}.downsample.{match[2]}"] = tensor
    elif not name.endswith("attn_mask"):
        out[f"image_tower.net.{name.removeprefix('vit_model.')}"] = tensor


def _text(out: dict[str, Tensor], layer: int, name: str, tensors: Mapping[str, Tensor], first: int) -> None:
    """Adds one tensor of a layer of the text's tower: query, key and value become one. first: the first layer that reads the picture."""
    part, _, kind = name.partition(f".layer.{layer}.")[2].rpartition(".")
    if part in LAYER:
        out[f"text.blocks.{layer}.{LAYER[part]}.{kind}"] = tensors[name]
    elif part == "attention.self.query":
        names = [name.replace(".query.", f".{other}.") for other in ("query", "key", "value")]
        out[f"text.blocks.{layer}.attention.qkv.{kind}"] = torch.cat([required_tensor(tensors, each, SOURCE) for each in names])
    elif kind == "alpha_t2i" and layer >= first:
        out[f"text.blocks.{layer}.gate.alpha_1"] = tensors[name]


def gate_part(out: dict[str, Tensor], gate: str, rest: str, tensor: Tensor) -> None:
    """Adds one tensor of the attention through which a picture's block reads the text; `gate` is its place here, `rest` its name there.
    Key and value are one tensor there."""
    if rest == "alpha_i2t":
        out[f"{gate}alpha_1"] = tensor
        return
    part, _, kind = rest.rpartition(".")
    if part == "qkv_text_i2t":
        out[f"{gate}key.{kind}"], out[f"{gate}value.{kind}"] = tensor.chunk(2)
    elif part in _GATE:
        out[f"{gate}{_GATE[part]}.{kind}"] = tensor


def resized_tables(tensors: Mapping[str, Tensor], window: int, *, every: bool = False) -> dict[str, Tensor]:
    """Tables of relative positions for windows of another side: bicubic, as published for 576 pixels.

    every  all tables; else those of the largest windows alone, since the last stages of a picture of fixed size may have smaller ones
    """
    resized = dict(tensors)
    largest = max((len(t) for name, t in tensors.items() if name.endswith(BIAS_TABLE)), default=0)
    for name, tensor in tensors.items():
        side, target = round(len(tensor) ** 0.5) if tensor.ndim else 0, 2 * window - 1
        if not name.endswith(BIAS_TABLE) or side == target or (len(tensor) != largest and not every):
            continue
        plane_1HSS = tensor.T.reshape(1, -1, side, side).float()
        resized_1HSS = F.interpolate(plane_1HSS, size=(target, target), mode="bicubic")
        resized[name] = resized_1HSS[0].flatten(1).T.to(tensor)
    return resized
