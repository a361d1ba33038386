"""Tiny random folders of transformers' two-sided models that open as the library's own: `MADE[row](folder)` writes one and gives its
address."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

sys.path.insert(0, str(Path(__file__).parent))
import published

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}
SQUARE = {"height": 32, "width": 32}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}


def saved(folder: Path, model: Any, processor: Any) -> str:
    """A folder with these, its weights drawn anew, and its address."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
            )
    out = folder / "library"
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)
    return f"hf:{out}"


def words() -> tuple[Any, dict[str, Any]]:
    made = published.clip_words()
    ids = {"vocab_size": len(made), "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53, "max_position_embeddings": 12}
    return made, ids


def clip_processor(made: Any) -> Any:
    return hf.CLIPProcessor(image_processor=hf.CLIPImageProcessor(**CROPPED), tokenizer=made)


def metaclip_2(folder: Path) -> str:
    made, ids = words()
    config = hf.MetaClip2Config(text_config={**SIZES, **ids}, vision_config=VISION, projection_dim=16)
    return saved(folder, hf.MetaClip2Model(config), clip_processor(made))


def aimv2(folder: Path) -> str:
    made, ids = words()
    config = hf.Aimv2Config(text_config={**SIZES, **ids}, vision_config={**VISION, "is_native": False}, projection_dim=16)
    return saved(folder, hf.Aimv2Model(config), clip_processor(made))


def clipseg(folder: Path) -> str:
    """The whole segmenter, as it is published; its decoder has no place in an embedder."""
    made, ids = words()
    config = hf.CLIPSegConfig(text_config={**SIZES, **ids}, vision_config=VISION, projection_dim=16, extract_layers=[0, 1], reduce_dim=8,
                              decoder_num_attention_heads=2, decoder_intermediate_size=16)  # fmt: skip
    images = hf.ViTImageProcessor(size=SQUARE)
    return saved(folder, hf.CLIPSegForImageSegmentation(config), hf.CLIPSegProcessor(image_processor=images, tokenizer=made))


def groupvit(folder: Path) -> str:
    made, ids = words()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "depths": [1, 1],
              "num_group_tokens": [4, 0], "num_output_groups": [4, 2], "num_hidden_layers": 2}  # fmt: skip
    config = hf.GroupViTConfig(
        text_config={**SIZES, **ids}, vision_config=vision, projection_dim=16, projection_intermediate_dim=24
    )
    return saved(folder, hf.GroupViTModel(config), clip_processor(made))


def flava(folder: Path) -> str:
    made = published.bert_words()
    text = {**SIZES, "vocab_size": len(made), "max_position_embeddings": 20}
    config = hf.FlavaConfig(text_config=text, image_config=VISION, multimodal_config=SIZES, hidden_size=32, projection_dim=16)
    images = hf.FlavaImageProcessor(size=SQUARE, crop_size=SQUARE)
    return saved(folder, hf.FlavaModel(config), hf.FlavaProcessor(image_processor=images, tokenizer=made))


def dual(folder: Path) -> str:
    made = published.bert_words()
    text = hf.BertConfig(**SIZES, vocab_size=len(made), max_position_embeddings=20)
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(hf.ViTConfig(**VISION), text, projection_dim=16)
    processor = hf.VisionTextDualEncoderProcessor(image_processor=hf.ViTImageProcessor(size=SQUARE), tokenizer=made)
    return saved(folder, hf.VisionTextDualEncoderModel(config), processor)


def tipsv2(folder: Path) -> str:
    made = published.gemma_words()
    text = {**SIZES, "vocab_size": len(made), "max_position_embeddings": 12}
    config = hf.Tipsv2Config(text_config=text, vision_config={**VISION, "mlp_ratio": 2})
    return saved(
        folder, hf.Tipsv2Model(config), hf.Tipsv2Processor(image_processor=hf.Tipsv2ImageProcessor(size=SQUARE), tokenizer=made)
    )


def naflex(folder: Path) -> str:
    published.write(folder / "naflex", "Siglip2Model")
    return f"hf:{folder / 'naflex'}#naflex"


def colpali(folder: Path) -> str:
    made = published.gemma_words()
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    gemma = {**SIZES, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(made) + 4, "max_position_embeddings": 64}
    image = made.convert_tokens_to_ids("<image>")
    vlm = hf.PaliGemmaConfig(vision_config=hf.SiglipVisionConfig(**VISION, projection_dim=32).to_dict(),
                             text_config=hf.GemmaConfig(**gemma).to_dict(), image_token_index=image, projection_dim=32)  # fmt: skip
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 4
    model = hf.ColPaliForRetrieval(hf.ColPaliConfig(vlm_config=vlm.to_dict(), embedding_dim=16))
    return saved(folder, model, hf.ColPaliProcessor(image_processor=images, tokenizer=made))


def colqwen2(folder: Path) -> str:
    marks = (
        "<|image_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|video_pad|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    made = published.bert_words()
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    of = made.convert_tokens_to_ids
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8, "in_channels": 3}
    text = {**SIZES, "num_key_value_heads": 2, "vocab_size": len(made), "max_position_embeddings": 256}
    vlm = hf.Qwen2VLConfig(
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        text_config={**text, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}},
        image_token_id=of(marks[0]), vision_start_token_id=of(marks[1]), vision_end_token_id=of(marks[2]), video_token_id=of(marks[3]),
    )  # fmt: skip
    images = hf.Qwen2VLImageProcessor(patch_size=8, temporal_patch_size=2, merge_size=2, min_pixels=256, max_pixels=1024)
    model = hf.ColQwen2ForRetrieval(hf.ColQwen2Config(vlm_config=vlm.to_dict(), embedding_dim=16))
    return saved(folder, model, hf.ColQwen2Processor(image_processor=images, tokenizer=made))


def colmodernvbert(folder: Path) -> str:
    marks = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")
    made = published.bert_words()
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    text = {**SIZES, "vocab_size": len(made), "max_position_embeddings": 128, "model_type": "modernbert", "pad_token_id": 0,
            "global_attn_every_n_layers": 1}  # fmt: skip
    vision = {**VISION, "model_type": "siglip_vision_model"}
    vlm = hf.ModernVBertConfig(
        text_config=text, vision_config=vision, image_token_id=made.convert_tokens_to_ids("<image>"), pixel_shuffle_factor=2
    )
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False)
    processor = hf.ColModernVBertProcessor(image_processor=images, tokenizer=made, image_seq_len=1)
    return saved(folder, hf.ColModernVBertForRetrieval(hf.ColModernVBertConfig(vlm_config=vlm, embedding_dim=16)), processor)


MADE: dict[str, Callable[[Path], str]] = {
    "hf_metaclip_2": metaclip_2, "hf_aimv2": aimv2, "hf_clipseg": clipseg, "hf_groupvit": groupvit, "hf_flava": flava,
    "hf_vision_text_dual_encoder": dual, "hf_tipsv2": tipsv2, "hf_siglip2_naflex": naflex, "hf_colpali": colpali,
    "hf_colqwen2": colqwen2, "hf_colmodernvbert": colmodernvbert,
}  # fmt: skip
