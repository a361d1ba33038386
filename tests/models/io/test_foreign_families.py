"""More families of transformers that write about images, tiny and random: single calls, caches, streams and likelihoods agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

import diptych
from diptych.core.errors import ConfigError

from .test_foreign_generators import IDS, LLAMA, VISION, images, words

SIZE = {"height": 16, "width": 16}
GRIDS = [[16, 32], [32, 16], [32, 32]]
FORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "encoder_hidden_size": 24}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "eos_token_id": 2,
      "pad_token_id": 0}  # fmt: skip
LONG = {**LLAMA, "max_position_embeddings": 256, "num_key_value_heads": 2}
CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
)


def blip(folder: Path) -> None:
    tokenizer = words(folder)
    text = {
        "hidden_size": 24,
        "encoder_hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    config = hf.BlipConfig(
        text_config={"vocab_size": len(tokenizer), **text, **ids}, vision_config=dict(VISION), projection_dim=16
    )
    hf.BlipForConditionalGeneration(config).save_pretrained(folder)
    hf.BlipProcessor(image_processor=hf.BlipImageProcessor(size=SIZE), tokenizer=tokenizer).save_pretrained(folder)


def blip2_t5(folder: Path) -> None:
    tokenizer = words(folder, "<image>")
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**VISION),
        qformer_config=hf.Blip2QFormerConfig(**FORMER),
        text_config=hf.T5Config(vocab_size=len(tokenizer), **T5),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    hf.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    pictures = hf.BlipImageProcessor(size=SIZE)
    hf.Blip2Processor(image_processor=pictures, tokenizer=tokenizer, num_query_tokens=4).save_pretrained(folder)


def instructblip_t5(folder: Path) -> None:
    tokenizer = words(folder, "<image>")
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**VISION),
        qformer_config=hf.InstructBlipQFormerConfig(vocab_size=len(tokenizer), **FORMER),
        text_config=hf.T5Config(vocab_size=len(tokenizer), **T5),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    hf.InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    hf.InstructBlipProcessor(
        image_processor=hf.BlipImageProcessor(size=SIZE), tokenizer=tokenizer, qformer_tokenizer=words(folder), num_query_tokens=4
    ).save_pretrained(folder)


def llava_next(folder: Path) -> None:
    """Pictures become tiles, as many as their shape asks for."""
    tokenizer = words(folder, "<image>")
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **LONG, **IDS),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS,
    )
    hf.LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    pictures = hf.LlavaNextImageProcessor(size={"shortest_edge": 16}, crop_size=SIZE, image_grid_pinpoints=GRIDS)
    given = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    hf.LlavaNextProcessor(image_processor=pictures, tokenizer=tokenizer, **given).save_pretrained(folder)


def paligemma(folder: Path) -> None:
    """Reads picture and prompt both ways, writes one way."""
    tokenizer = words(folder, "<image>")
    gemma = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    }
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, projection_dim=32).to_dict(),
        text_config=hf.GemmaConfig(
            vocab_size=len(tokenizer) + 4, head_dim=8, max_position_embeddings=256, **gemma, **IDS
        ).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    hf.PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    pictures = hf.SiglipImageProcessor(size=SIZE)
    pictures.image_seq_length = 4
    hf.PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    """As many tokens as a picture has pixels, positions in three directions, a chat template."""
    tokenizer = words(folder, "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    of = tokenizer.convert_tokens_to_ids
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8, "in_channels": 3}
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}
    config = hf.Qwen2VLConfig(
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        text_config={**LONG, "vocab_size": len(tokenizer), "rope_scaling": rope, **IDS},
        image_token_id=of("<|image_pad|>"),
        video_token_id=of("<|video_pad|>"),
        vision_start_token_id=of("<|vision_start|>"),
        vision_end_token_id=of("<|vision_end|>"),
    )
    hf.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    pictures = hf.Qwen2VLImageProcessor(patch_size=8, temporal_patch_size=2, merge_size=2, min_pixels=256, max_pixels=1024)
    clips = hf.Qwen2VLVideoProcessor(patch_size=8)
    processor = hf.Qwen2VLProcessor(image_processor=pictures, tokenizer=tokenizer, video_processor=clips, chat_template=CHAT)
    processor.save_pretrained(folder)


def llava_onevision(folder: Path) -> None:
    tokenizer = words(folder, "<image>", "<video>")
    grids = [[16, 16], *GRIDS]
    config = hf.LlavaOnevisionConfig(
        vision_config={**hf.SiglipVisionConfig(**VISION).to_dict(), "model_type": "siglip_vision_model"},
        text_config=hf.Qwen2Config(vocab_size=len(tokenizer), **LONG, **IDS).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )
    hf.LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(size=SIZE, image_grid_pinpoints=grids),
        tokenizer=tokenizer,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
    ).save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (blip, blip2_t5, instructblip_t5, llava_next, llava_onevision, paligemma, qwen2_vl)
}
PROMPTS = ["what colour is it ?", "yes no", "a red circle left of"]


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: Any, tmp_path_factory: Any) -> Any:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return diptych.load(f"hf:{folder}")


def test_batches_caches_and_streams_give_the_same(model: Any) -> None:
    together = model.generate(images(3), PROMPTS, max_tokens=6)
    assert any(together)
    alone = [model.generate([image], [prompt], max_tokens=6)[0] for image, prompt in zip(images(3), PROMPTS, strict=True)]
    assert together == alone
    assert together == model.generate(images(3), PROMPTS, max_tokens=6, use_cache=False)
    heard: list[str] = []
    model.stream(images(1)[0], PROMPTS[0], max_tokens=6, on_text=lambda piece: heard.append(piece) or True)
    assert "".join(heard) == together[0]
    assert not any(prompt[:9] in text for prompt, text in zip(PROMPTS, together, strict=True)), (
        "the prompt is not a part of the answer"
    )
    beams = model.generate(images(1), PROMPTS[:1], max_tokens=6, num_beams=2)
    assert not beams[0].startswith(PROMPTS[0][:9])


def test_it_captions_and_chooses(model: Any) -> None:
    assert isinstance(diptych.caption(model, images(1)[0], max_tokens=4), str)
    found: Any = diptych.ask(model, images(1)[0], "what colour is it ?", choices=["red", "blue square", "yes"])
    assert sum(found.shares.values()) == pytest.approx(1)
    if model.context_length:  # an encoder-decoder sets no limit
        with pytest.raises(ConfigError, match="tokens more do not fit"):
            diptych.ask(model, images(1)[0], "what colour is it ? " * 80)


def test_likelihoods_are_those_of_one_forward_pass(model: Any) -> None:
    """What is forced token by token through the cache, against teacher forcing of the whole."""
    (found,) = model.answer_nll(images(1), PROMPTS[:1], [["blue square"]])
    row = model._rows(images(1), PROMPTS[:1])
    given = model._inputs(row, 8)
    target_1A = torch.tensor([model._answer_ids("blue square")])
    count = target_1A.shape[1]
    with torch.no_grad():
        if model.reads_and_writes:
            logit_AV = model.model(**given, labels=target_1A).logits[0, :count]
        else:
            cut = (
                1 if model.model.config.model_type == "blip" else 0
            )  # `generate` drops the mark behind the prompt, and sets that before
            ids_1L = given["input_ids"][:, : given["input_ids"].shape[1] - cut].clone()
            if cut:
                ids_1L[:, 0] = model.model.config.text_config.bos_token_id
            given["input_ids"] = torch.cat([ids_1L, target_1A], 1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in given:
                    given[name] = F.pad(given[name], (0, count), value=1 if model.model.config.model_type == "paligemma" else 0)
            logit_AV = model.model(**given).logits[0, -count - 1 : -1]
    wanted = F.cross_entropy(logit_AV.float(), target_1A[0], reduction="sum")
    assert found[0].tolist() == pytest.approx([float(wanted), count], rel=1e-5)
