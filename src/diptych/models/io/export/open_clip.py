"""A dual encoder of ours as a folder that open_clip opens: ``open_clip.create_model("local-dir:FOLDER")``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import ConfigError
from diptych.models.io.export.source_layout import OPEN_CLIP_FILE, in_their_layout
from diptych.models.io.export.transformers_folder import unlike_clip
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.pairs.embedder import PairEmbedder

_RESIZE = {"crop": "shortest", "squash": "squash", "pad": "longest"}


def to_open_clip(embedder: PairEmbedder, folder: Path) -> None:
    """Writes open_clip_config.json, the weights, and our tokenizer.json. Only the CLIP architecture has a place there.

    open_clip's own tokenizer is CLIP's, which models with that vocabulary use. Any other lies in the folder, and
    `open_clip.get_tokenizer("local-dir:FOLDER")` opens it with transformers. Before any tokenizer open_clip repairs mojibake, curly quotes
    and HTML entities (`&amp;`), so a text that holds some gets other ids there unless our tokenizer does the same.
    """
    from open_clip.model import CLIP

    model = embedder.model
    if reasons := unlike_clip(model, embedder, padded=True):
        raise ConfigError("this model cannot become an open_clip CLIP: " + "; ".join(reasons))
    config = model_config(embedder)
    with torch.random.fork_rng(devices=[]):
        theirs = CLIP(**config, output_dict=False)
    tensors = in_their_layout(theirs.state_dict(), model.state_dict(), from_open_clip)
    image_settings = embedder.preprocess
    preprocess = {
        "mean": list(image_settings.mean),
        "std": list(image_settings.std),
        "interpolation": image_settings.interpolation,
        "resize_mode": _RESIZE[image_settings.resize],
    }
    with atomic_folder(Path(folder)) as work:
        write_json(work / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})
        save_file(tensors, work / OPEN_CLIP_FILE)
        embedder.tokenizer.save(work)
        settings = json.loads((work / "tokenizer_config.json").read_text(encoding="utf-8"))
        length = config["text_cfg"]["context_length"]
        write_json(work / "tokenizer_config.json", {**settings, "model_max_length": length, "padding_side": "right"})


def model_config(embedder: PairEmbedder) -> dict[str, Any]:
    """open_clip's model configuration of the same architecture."""
    image: Any = embedder.model.image_tower
    text: Any = embedder.model.text_tower
    act = image.spec.get("act", "gelu")
    shared: dict[str, Any] = {"norm_kwargs": {"eps": float(image.norm_after.eps)}}
    if act == "gelu_tanh":
        shared["act_kwargs"] = {"approximate": "tanh"}
    blocks, words = image.transformer.blocks, text.transformer.blocks
    return {
        "embed_dim": embedder.model.width,
        "quick_gelu": act == "quick_gelu",
        "vision_cfg": {
            "layers": len(blocks),
            "width": image.width,
            "head_width": image.width // blocks[0].attention.heads,
            "mlp_ratio": blocks[0].mlp_in.out_features / image.width,
            "patch_size": image.patches.kernel_size[0],
            "image_size": image.image_size,
            **shared,
        },
        "text_cfg": {
            "context_length": text.length,
            "vocab_size": text.embed.num_embeddings,
            "width": text.width,
            "heads": words[0].attention.heads,
            "layers": len(words),
            "mlp_ratio": words[0].mlp_in.out_features / text.width,
            **({} if embedder.tokenizer.clean == "clip" else {"hf_tokenizer_name": "tokenizer.json"}),
            **({"pool_type": "argmax"} if text.pooling == "largest" else {"pool_type": "eos", "eos_id": text.eot_id}),
            **shared,
        },
    }
