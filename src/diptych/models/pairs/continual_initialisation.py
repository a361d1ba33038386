"""Initialise a `ContinualEncoder` from published weights: CTP starts from DeiT and BERT.

The lower layers of BERT are the text tower, the upper ones also attend to the image (as in ALBEF, 2107.07651).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.io.foreign.timm_bert import ATTENTION, THINKING, bert_parts, copy_tensors_, from_timm
from diptych.models.pairs.encoders.continual_encoder import ContinualEncoder
from diptych.models.pairs.matching.fusion_reader import PostNormCrossBlock
from diptych.models.towers.packaged.hf_text import TransformersText
from diptych.models.towers.vit import VisionTransformer

READER_HEAD = {"head.weight": "dense.weight", "head.bias": "dense.bias", "head_norm.weight": "norm.weight"}
READER_HEAD |= {"head_norm.bias": "norm.bias", "bias_V": "bias_V"}


def init_from_pretrained_(
    model: ContinualEncoder, *, image: Mapping[str, Tensor] | None, text: Mapping[str, Tensor] | None
) -> None:
    """Initialise the image tower from a timm vision transformer, and text tower and reader from a BERT with its word head.

    Parameters without a tensor in the weights are unchanged: projections, attention to the image.
    Without a reader the upper layers and the word head are not used. Raises DataError if a tensor is missing, unexpected or of
    another shape, ConfigError for other towers. Momentum model and reference are copies of the model.
    """
    if image is not None:
        tower = model.encoder.image_tower
        if not isinstance(tower, VisionTransformer):
            raise ConfigError(
                f"image_weights are for a vision transformer, and the tower is a {type(tower).__name__} (expected vit_*)"
            )
        copy_tensors_(tower.state_dict(), from_timm(image), "the image tower")
    if text is not None:
        _begin_words_(model, text)
    if image is not None or text is not None:
        model.begin_task_()


def _begin_words_(model: ContinualEncoder, text: Mapping[str, Tensor]) -> None:
    words, reader = model.encoder.text_tower, model.reader
    if not isinstance(words, TransformersText):
        raise ConfigError(f"text_weights are for a BERT, and the tower is a {type(words).__name__} (expected bert_*)")
    if reader is not None and not all(isinstance(block, PostNormCrossBlock) for block in reader.blocks):
        raise ConfigError("text_weights are for blocks as BERT's (expected albef True)")
    body, head = bert_parts(text)
    layers = int(words.net.config.num_hidden_layers)
    upper = {name: tensor for name, tensor in body.items() if _layer(name) >= layers}
    lower = {f"net.{name}": tensor for name, tensor in body.items() if name not in upper}
    copy_tensors_(words.state_dict(), lower, "the text tower", without=("pooler.",))
    if reader is None:
        return
    read = {READER_HEAD[name]: tensor for name, tensor in head.items()}
    for name, tensor in upper.items():
        part, kind = name.split(".", 3)[3].rsplit(".", 1)
        within = part.removeprefix("attention.")
        ours = THINKING[part] if part == within else f"attention.{ATTENTION[within]}"
        read[f"blocks.{_layer(name) - layers}.{ours}.{kind}"] = tensor
    copy_tensors_(reader.state_dict(), read, "the reader of hidden words", without=(".image.", "mask_D"))


def _layer(name: str) -> int:
    """Return the encoder layer of a tensor; -1 for those before the layers."""
    return int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1
