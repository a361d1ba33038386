"""Tiny random models in the folders that transformers saves, one a family, with the tokenizer and the image processor that belong to it."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = ["a", "photo", "of", "red", "bus", "green", "tree", "the"]
LETTERS = list(string.ascii_lowercase)
SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VIT = {**SIZES, "image_size": 32, "patch_size": 16}
CLASSES = (
    "CLIPModel",
    "SiglipModel",
    "Siglip2Model",
    "AlignModel",
    "BlipForImageTextRetrieval",
    "BlipModel",
    "ChineseCLIPModel",
    "AltCLIPModel",
)


def bert_words() -> Any:
    pieces = dict.fromkeys(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    )
    return transformers.BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def clip_words() -> Any:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def xlm_words() -> Any:
    marks = [(mark, 0.0) for mark in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [*(("▁" + word, -1.0) for word in WORDS), *((letter, -5.0) for letter in LETTERS), ("▁", -4.0)]
    return transformers.XLMRobertaTokenizer(vocab=[*marks, *pieces, ("<mask>", 0.0)])


def gemma_words(kind: str = "GemmaTokenizer") -> Any:
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {piece: number for number, piece in enumerate([*marks, "▁", *LETTERS])}
    options = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    return getattr(transformers, kind)(vocab=vocab, merges=[], **options)


def write_siglip_words(folder: Path) -> int:
    """As the published SigLIP has it: a unigram in tokenizer.json under the name of a class that reads spiece.model."""
    import tokenizers

    marks: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*marks, *(("▁" + word, -1.0) for word in WORDS), *((letter, -5.0) for letter in LETTERS), ("▁", -4.0)]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    inner.add_special_tokens(["<pad>", "</s>", "<unk>"])
    (folder / "tokenizer.json").write_text(inner.to_str())
    settings = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 64}))
    return len(pieces)


def write(folder: Path, name: str) -> Any:
    """The folder of a tiny model of that class; gives the model. All its numbers are drawn anew, so that none is where it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, words = getattr(transformers, name), _words(folder, name)
    torch.manual_seed(0)
    model = kind(_settings(name, words)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
            if "norm" in key.lower() and key.endswith("weight"):
                parameter.add_(1.0)
            if key == "temperature":
                parameter.fill_(0.07)
            if key == "logit_scale":
                parameter.fill_(2.5)
    model.save_pretrained(folder)
    _processor(name).save_pretrained(folder)
    return model


def _words(folder: Path, name: str) -> tuple[int, int, int, int]:
    """(size, pad, start, end) of the tokenizer that is written."""
    if name == "SiglipModel":
        return write_siglip_words(folder), 1, 0, 1
    made = {"CLIPModel": clip_words, "Siglip2Model": gemma_words, "AltCLIPModel": xlm_words}.get(name, bert_words)()
    made.save_pretrained(folder)
    ids = made("a")["input_ids"]
    return len(made), int(made.pad_token_id), ids[0], ids[-1]


def _settings(name: str, words: tuple[int, int, int, int]) -> Any:
    size, pad, start, end = words
    known = {"vocab_size": size, "pad_token_id": pad, "bos_token_id": start, "eos_token_id": end}
    bert = {**SIZES, **STILL, **known, "max_position_embeddings": 20}
    kind = getattr(transformers, name).config_class
    if name == "CLIPModel":
        text = {**SIZES, **known, "max_position_embeddings": 12}
        return kind(projection_dim=16, vision_config=VIT, text_config=text)
    if name in ("SiglipModel", "Siglip2Model"):
        text = {**SIZES, **known, "max_position_embeddings": 12, "projection_size": 32}
        vision = VIT if name == "SiglipModel" else {**SIZES, "patch_size": 16, "num_patches": 4}
        return kind(vision_config=vision, text_config=text)
    if name == "AlignModel":
        blocks = {
            "kernel_sizes": [3, 5],
            "in_channels": [32, 16],
            "out_channels": [16, 24],
            "strides": [1, 2],
            "expand_ratios": [1, 2],
        }
        more = {"depthwise_padding": [], "num_block_repeats": [1, 2], "width_coefficient": 1.0, "depth_coefficient": 1.0}
        vision = {**blocks, **more, "image_size": 64, "hidden_dim": 64, "drop_connect_rate": 0.0, "depth_divisor": 8}
        return kind(projection_dim=24, vision_config=vision, text_config=bert)
    if name.startswith("Blip"):
        text = {**bert, "encoder_hidden_size": 32, "projection_dim": 16}
        return kind(projection_dim=16, image_text_hidden_size=24, vision_config=VIT, text_config=text)
    if name == "AltCLIPModel":
        return kind(projection_dim=16, vision_config=VIT, text_config={**bert, "project_dim": 24})
    return kind(projection_dim=16, vision_config=VIT, text_config=bert)


def _processor(name: str) -> Any:
    square = {"height": 32, "width": 32}
    if name == "SiglipModel":
        return transformers.SiglipImageProcessor(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    if name == "Siglip2Model":
        return transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=4)
    if name == "AlignModel":  # as released: scaled to -1..1, and nothing else
        options = {
            "rescale_factor": 1 / 127.5,
            "rescale_offset": True,
            "do_normalize": False,
            "include_top": False,
            "resample": 2,
        }
        return transformers.EfficientNetImageProcessor(
            size={"height": 40, "width": 40}, crop_size=square, do_center_crop=True, **options
        )
    if name.startswith("Blip"):
        return transformers.BlipImageProcessor(size=square)
    kind = transformers.ChineseCLIPImageProcessor if name == "ChineseCLIPModel" else transformers.CLIPImageProcessor
    return kind(size={"shortest_edge": 32}, crop_size=square)
