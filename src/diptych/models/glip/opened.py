"""Checkpoints of released GLIPs as detectors: "glip:CHECKPOINT#BERT-FOLDER".

Sizes are read off the tensors. The folder brings the tokenizer and the number of heads of the text encoder; its weights are not used, since
the checkpoint has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.checkpoint import checkpoint_and_encoder, load_strictly, released_tensors, required_tensor
from diptych.models.detection.dense.dense_detector import DenseDetector, DensePhraseDetector
from diptych.models.detection.dense.dense_grounding import DenseHeadConfig
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.phrase_detector import PhrasePrompt
from diptych.models.detection.released_head import count_rounds, has_fusion
from diptych.models.glip.released import BODY, SOURCE, WORDS, from_glip, is_glip
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.towers.towers import text_tower

TEXT_LENGTH, TOGETHER = 256, 80
"""Tokens of a text, and names in one, at most: all of COCO's stand in one text in the release."""
MODEL = "timm:swin_tiny_patch4_window7_224"
"""What the sizes are changes of."""


def open_released(spec: str) -> DensePhraseDetector:
    """The detector of "glip:CHECKPOINT#BERT-FOLDER"; the checkpoint is the released .pth, or its tensors as .safetensors.

    Raises DataError for a file or folder that is missing or not what it should be, and ConfigError for an address without both.
    """
    file, folder = checkpoint_and_encoder(spec, "bert-base-uncased")
    tensors = released_tensors(file, "a released checkpoint of GLIP")
    if not is_glip(tensors):
        raise DataError(
            "contains no GLIP",
            file=file,
            expected="names such as language_backbone.body.model.embeddings.word_embeddings.weight, and rpn.head.bias_lang",
        )
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if settings.get("model_type") != "bert":
        raise DataError(
            f"config.json is of a {settings.get('model_type')}",
            file=folder,
            expected="bert-base-uncased as transformers saves it",
        )
    tokenizer = from_transformers(folder)
    config = text_config(tensors, settings)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise ConfigError(
            f"{spec}: the tokenizer has ids up to {tokenizer.vocab_size - 1} and the checkpoint {config['vocab_size']} words (expected the "
            "folder of the encoder that it was trained with)"
        )
    length = min(TEXT_LENGTH, config["max_position_embeddings"])
    with torch.random.fork_rng(devices=[]):
        backbone = detection_backbone(MODEL, sizes=swin_sizes(tensors))
        text = text_tower("hf", config=config, pooling="cls", length=length)
        model = DenseDetector(backbone, text, head_shape(tensors, config["num_attention_heads"]))
    load_strictly(model, from_glip(tensors))
    prompt = PhrasePrompt(before="", separator=". ", behind="", together=TOGETHER)
    return DensePhraseDetector(model.eval(), tokenizer, length, DetectionPreprocess(), spec, prompt=prompt)


def swin_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of the backbone, by timm's names."""
    blocks = [
        tuple(map(int, match.groups()))
        for name in tensors
        if (match := re.match(rf"{re.escape(BODY)}layers\.(\d+)\.blocks\.(\d+)\.", name))
    ]
    stages = max((stage for stage, _ in blocks), default=-1) + 1
    tables = [
        required_tensor(tensors, f"{BODY}layers.{stage}.blocks.0.attn.relative_position_bias_table", SOURCE)
        for stage in range(stages)
    ]
    return {
        "embed_dim": len(required_tensor(tensors, f"{BODY}patch_embed.proj.weight", SOURCE)),
        "depths": [max(block for at, block in blocks if at == stage) + 1 for stage in range(stages)],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (round(len(tables[0]) ** 0.5) + 1) // 2,
    }


def text_config(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the text encoder: the folder's settings, with the sizes of the tensors."""
    table = f"{WORDS}embeddings."
    rows, width = required_tensor(tensors, f"{table}word_embeddings.weight", SOURCE).shape
    layers = [int(match[1]) for name in tensors if (match := re.match(rf"{re.escape(WORDS)}encoder\.layer\.(\d+)\.", name))]
    return {
        "model_type": "bert",
        **{name: settings[name] for name in ("hidden_act", "layer_norm_eps") if name in settings},
        "num_attention_heads": int(settings.get("num_attention_heads", 12)),
        "vocab_size": rows,
        "hidden_size": width,
        "num_hidden_layers": max(layers, default=-1) + 1,
        "intermediate_size": len(required_tensor(tensors, f"{WORDS}encoder.layer.0.intermediate.dense.weight", SOURCE)),
        "max_position_embeddings": len(required_tensor(tensors, f"{table}position_embeddings.weight", SOURCE)),
        "type_vocab_size": len(required_tensor(tensors, f"{table}token_type_embeddings.weight", SOURCE)),
    }


def head_shape(tensors: Mapping[str, Tensor], word_heads: int) -> DenseHeadConfig:
    """Of the head; the layers among tokens have as many heads as the text encoder."""
    width, rounds = required_tensor(tensors, "rpn.head.bbox_pred.weight", SOURCE).shape[1], count_rounds(tensors)
    if not has_fusion(tensors):
        return DenseHeadConfig(head_width=width, rounds=rounds)
    first = "rpn.head.dyhead_tower."
    return DenseHeadConfig(
        head_width=width,
        rounds=rounds,
        meeting_width=len(required_tensor(tensors, f"{first}0.b_attn.attn.v_proj.weight", SOURCE)),
        word_heads=word_heads,
        word_mlp=len(required_tensor(tensors, f"{first}1.intermediate.dense.weight", SOURCE)),
    )
