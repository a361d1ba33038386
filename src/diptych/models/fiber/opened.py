"""Checkpoints of FIBER's released second stage as detectors: "fiber:CHECKPOINT#ROBERTA-FOLDER".

Sizes are read off the tensors. The folder brings the tokenizer and the number of heads of the text encoder; its weights are not used, since
the checkpoint has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.detection.checkpoint import checkpoint_and_encoder, load_strictly, released_tensors
from diptych.models.detection.dense.dense_grounding import DenseHeadConfig
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.phrase_detector import PhrasePrompt
from diptych.models.fiber.dense import DenseFiberDetector, DenseFiberPhraseDetector
from diptych.models.fiber.fine_released import from_fine, is_fine
from diptych.models.fiber.grounding import FiberConfig
from diptych.models.fiber.released import PADDED
from diptych.models.io.foreign.tokenizer import from_transformers

TEXT_LENGTH, TOGETHER = 256, 80
"""Tokens of a text, and names in one, at most: all of COCO's stand in one text in the release."""
PRETRAIN_SIDE = 384
BODY, WORDS = "fusion_backbone.backbone.body.", "fusion_backbone.language_backbone.body.model."


def open_released(spec: str) -> DenseFiberPhraseDetector:
    """The detector of "fiber:CHECKPOINT#ROBERTA-FOLDER"; the checkpoint is the released .pth, or its tensors as .safetensors.

    Raises DataError for a file or folder that is missing or not what it should be, and ConfigError for an address without both.
    """
    file, folder = checkpoint_and_encoder(spec, "roberta-base")
    tensors = released_tensors(file, "a released checkpoint of FIBER, fine-grained")
    if not is_fine(tensors):
        raise DataError(
            "contains no FIBER of the second stage",
            file=file,
            expected="names such as fusion_backbone.backbone.body.patch_embed.proj.weight",
        )
    heads = int(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_attention_heads", 12))
    fiber, dense = infer_sizes(tensors, heads)
    tokenizer = from_transformers(folder)
    rows = len(tensors[f"{WORDS}embeddings.word_embeddings.weight"])
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"{spec}: the tokenizer has ids up to {tokenizer.vocab_size - 1} and the checkpoint {rows} words (expected the folder of the "
            "encoder that it was trained with)"
        )
    with torch.random.fork_rng(devices=[]):
        sides = fiber.sides(image_size=PRETRAIN_SIDE, drop_path=0.0, vocab_size=rows, mask_id=rows - 1)
        model = DenseFiberDetector(*sides, dense, fiber.swin_strides)
    load_strictly(model, from_fine(tensors, depths=fiber.swin_depths, text_layers=fiber.text_layers, fused=fiber.fused_layers))
    prompt = PhrasePrompt(before="", separator=". ", behind="", together=TOGETHER)
    length = min(TEXT_LENGTH, fiber.text_places)
    return DenseFiberPhraseDetector(model.eval(), tokenizer, length, DetectionPreprocess(), spec, prompt=prompt)


def infer_sizes(tensors: Mapping[str, Tensor], text_heads: int) -> tuple[FiberConfig, DenseHeadConfig]:
    """Sizes of the model, inferred from its tensors."""

    def count(pattern: str) -> int:
        return max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1) + 1

    stages = count(rf"{re.escape(BODY)}layers\.(\d+)\.")
    depths = tuple(count(rf"{re.escape(BODY)}layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
    tables = [tensors[f"{BODY}layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in range(stages)]
    patch = tensors[f"{BODY}patch_embed.proj.weight"]
    positions, text_width = tensors[f"{WORDS}embeddings.position_embeddings.weight"].shape
    strides = tuple(patch.shape[2] * 2**stage for stage in range(1, stages))
    fiber = FiberConfig(
        swin_patch=patch.shape[2],
        swin_width=patch.shape[0],
        swin_depths=depths,
        swin_heads=tuple(table.shape[1] for table in tables),
        swin_window=(round(len(tables[0]) ** 0.5) + 1) // 2,
        swin_strides=strides,
        fused_layers=sum(name.startswith(BODY) and name.endswith("alpha_i2t") for name in tensors),
        gate_norm=False,
        text_width=text_width,
        text_layers=count(rf"{re.escape(WORDS)}encoder\.layer\.(\d+)\."),
        text_heads=text_heads,
        text_places=positions - PADDED,
    )
    dense = DenseHeadConfig(
        head_width=tensors["rpn.head.bbox_pred.weight"].shape[1], rounds=count(r"rpn\.head\.dyhead_tower\.(\d+)\.")
    )
    return fiber, dense
