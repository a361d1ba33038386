"""A small CLIP as transformers saves it, for tests of what starts from published weights."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from diptych.data.text.tokenize import Tokenizer


def clip_folder(folder: Path, texts: list[str], *, length: int = 32) -> Path:
    """Random weights; the vocabulary is learned from `texts`."""
    words = Tokenizer.train(texts, 300)
    words.save(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    settings = transformers.CLIPConfig(
        projection_dim=16,
        vision_config={**sizes, "image_size": 48, "patch_size": 16},
        text_config={
            **sizes,
            "vocab_size": words.vocab_size,
            "max_position_embeddings": length,
            "eos_token_id": 2,
            "bos_token_id": 1,
        },
    )
    transformers.CLIPModel(settings).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder
