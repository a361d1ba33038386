"""Evaluates a model that was not trained here: any CLIP or SigLIP folder of `transformers`.

    python examples/foreign_model.py                     # makes a small random CLIP folder, whose scores are chance
    python examples/foreign_model.py path/to/clip-folder

The folder holds what `save_pretrained` writes: config.json, model.safetensors, tokenizer and preprocessor files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import diptych as dp
from diptych.core.result import Result
from diptych.data.text.tokenize import Tokenizer

DATA = "world:scenes?n=40"


def main(folder: Path) -> Result:
    """Retrieval of the model in `folder` on the split "test" of a small rendered world."""
    model = dp.load(f"hf:{folder}")
    result = dp.evaluate(model, "retrieval", DATA, split="test")
    for name in ("t2i_r@1", "i2t_r@1"):
        print(f"{name} {result.metrics[name]}, chance {result.metrics[name].chance:.3f}")
    return result


def random_clip(folder: Path) -> Path:
    """A CLIP of two narrow layers with random weights, as `transformers` writes it."""
    import torch
    import transformers

    torch.manual_seed(0)
    words = Tokenizer.train((text.string for sample in dp.read(DATA) for text in sample.texts), 400)
    words.save(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": words.vocab_size,
        "max_position_embeddings": 48,
        "eos_token_id": words.eot_id,
        "bos_token_id": words.sot_id,
    }
    image = {**sizes, "image_size": 64, "patch_size": 16}
    config = transformers.CLIPConfig(projection_dim=16, text_config=text, vision_config=image)
    transformers.CLIPModel(config).save_pretrained(folder)
    square = {"height": 64, "width": 64}
    transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=square).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(random_clip(Path(made) / "clip"))
