"""A small CLIP as transformers saves it, and one of open_clip, for tests of what opens or starts from published weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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


ARCH = "diptych-test"


@contextmanager
def open_clip_model(folder: Path) -> Iterator[str]:
    """The address of a small architecture beside those that open_clip knows, with weights of a fixed seed."""
    import open_clip

    path = folder / f"{ARCH}.json"
    image = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": image, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(path)
    torch.manual_seed(4)
    weights = folder / "weights.pt"
    torch.save(open_clip.create_model(ARCH).state_dict(), weights)
    yield f"open_clip:{ARCH}/{weights}"
    open_clip.factory._MODEL_CONFIGS.pop(ARCH)
