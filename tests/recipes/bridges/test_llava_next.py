"""LLaVA 1.6: tiles of the released code, its folder opened, logits of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from llama_words import llama_tokenizer

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.data.media.tiles import PaddedTiles
from diptych.models.bridges.llava_weights import LlavaConfig
from diptych.models.bridges.writer import BridgeGenerator

SIZES = [(16, 32), (32, 16), (32, 32), (48, 16), (16, 48)]
"""Widths and heights of grids of tiles of 16 pixels."""
VISION = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 16}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
WORDS = llama_tokenizer("legacy").get_vocab_size()
IMAGES = [
    ArrayImage(np.random.default_rng(row).integers(0, 256, (*sides, 3), dtype=np.uint8), f"image {row}")
    for row, sides in enumerate([(20, 40), (40, 13), (30, 31), (16, 50)])
]


def test_tiles_are_those_of_the_release(parity: Any) -> None:
    processor = transformers.LlavaNextImageProcessorPil(
        image_grid_pinpoints=[[high, wide] for wide, high in SIZES],
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        do_normalize=False,
        do_rescale=False,
    )
    rule, pairs = PaddedTiles(16, tuple(SIZES)), []
    for image in IMAGES:
        theirs = processor(image.pixels_HWC, return_tensors="np")["pixel_values"][0]
        ours = rule(image.pixels_HWC)
        pairs.append((np.stack([tile.pixels_HWC for tile in ours]), theirs.transpose(0, 2, 3, 1)))
    parity("llava", "tiles of LLaVA 1.6", "LlavaNextImageProcessor of transformers", pairs, tolerance=0)
    whole, left, right = rule(IMAGES[0].pixels_HWC)
    assert [tile.part for tile in (whole, left, right)] == [(0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)]
    lower = rule(np.zeros((40, 26, 3), np.uint8))[-1]  # 21 x 32 pixels in the middle of 32 x 32
    assert lower.part == (11 / 21, 0.5, 27 / 21, 1.0)
    with pytest.raises(ConfigError, match="that they fill"):
        PaddedTiles(16, ((16, 20),))


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=8),
        text_config=transformers.LlamaConfig(vocab_size=WORDS + 1, max_position_embeddings=400, pad_token_id=0, **TEXT),
        image_grid_pinpoints=[[high, wide] for wide, high in SIZES],
        image_token_index=WORDS,
    )
    model = transformers.LlavaNextForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def authors_folder(model: Any, folder: Path, **changes: Any) -> str:
    """The weights as LLaVA's authors save them, and the CLIP that they are opened with."""
    own = {**model.config.text_config.to_dict(), "model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu"}
    own |= {"mm_vision_select_layer": -2, "mm_vision_tower": "clip", "mm_patch_merge_type": "spatial_unpad"}
    own |= {"image_aspect_ratio": "anyres", "image_grid_pinpoints": SIZES, **changes}
    (folder / "config.json").write_text(json.dumps(own))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=llama_tokenizer("legacy"), bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    renamed = {
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "model.language_model.": "model.",
        "model.vision_tower.": "model.vision_tower.vision_tower.",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        old = next((old for old in renamed if name.startswith(old)), "")
        tensors[renamed.get(old, "") + name.removeprefix(old)] = tensor.clone()
    torch.save(tensors, folder / "pytorch_model.bin")
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config={**VISION, "patch_size": 8})).save_pretrained(
        folder / "clip"
    )
    return f"llava:{folder}#{folder / 'clip'}"


def test_the_authors_folder_gives_the_logits_of_transformers(theirs: Any, tmp_path: Path, parity: Any) -> None:
    opened: Any = diptych.load(authors_folder(theirs, tmp_path))
    assert isinstance(opened, BridgeGenerator)
    pairs = []
    for image in IMAGES:
        embed_BLD, layout = opened._read(opened._asked([image], ["What is it?"]), 0)
        ours_BLV = opened.bridge.language.inner(inputs_embeds=embed_BLD, attention_mask=layout.mask_BL.long()).logits
        tiles = [tile.pixels_HWC for tile in opened.tiles(image.pixels_HWC)]
        ids = torch.where(layout.slot_BL, WORDS, layout.id_BL)
        with torch.no_grad():
            given = {"pixel_values": opened.preprocess(tiles)[None], "image_sizes": torch.tensor([image.pixels_HWC.shape[:2]])}
            theirs_BLV = theirs(input_ids=ids, attention_mask=layout.mask_BL.long(), **given).logits
        pairs.append((ours_BLV, theirs_BLV))
    parity("llava", "logits about tiles", "LlavaNextForConditionalGeneration of transformers", pairs, tolerance=1e-5)
    written = opened.generate(IMAGES[:2], ["What is it?", "And small?"], max_tokens=6)
    opened.save(tmp_path / "saved")
    again = BridgeGenerator.load(tmp_path / "saved")
    assert again.tiles == opened.tiles
    assert again.generate(IMAGES[:2], ["What is it?", "And small?"], max_tokens=6) == written
    (costs,) = opened.answer_nll(IMAGES[:1], ["What is it?"], [["a cat", "no"]])
    assert np.isfinite(costs).all()


def test_how_images_are_shown_is_read_from_the_folder(theirs: Any, tmp_path: Path) -> None:
    mistral: Any = diptych.load(authors_folder(theirs, tmp_path, model_type="llava_mistral", image_grid_pinpoints=str(SIZES)))
    assert mistral.template.text == "[INST] {image}\n{prompt} [/INST]"
    assert mistral.tiles == PaddedTiles(16, tuple(SIZES))
    plain: Any = diptych.load(authors_folder(theirs, tmp_path, image_aspect_ratio="square"))
    assert (plain.tiles, plain.preprocess.resize) == (None, "crop")
    padded: Any = diptych.load(authors_folder(theirs, tmp_path, image_aspect_ratio="pad"))
    assert (padded.tiles, padded.preprocess.resize) == (None, "square")
    authors_folder(theirs, tmp_path, mm_patch_merge_type="flat")
    with pytest.raises(DataError, match="spatial or spatial_unpad"):
        LlavaConfig.read(tmp_path)


CHATML_IDS = (
    [90, 58, 43, 38, 39, 25, 32, 3, 12, 33, 38, 42, 52, 70, 54, 44, 36, 40, 53, 39, 63, 33, 38, 9, 91, 90, 76, 3],
    [44, 3, 20, 62, 48, 38, 72, 11, 91, 90, 78, 3],
)
"""Before and after the image: `tokenizer_image_token` of LLaVA at c121f04, of the prompt of its `chatml_direct` for "What is it?"."""


@pytest.mark.parametrize("starts", [False, True])
def test_the_34b_is_asked_in_chatml(theirs: Any, starts: bool, tmp_path: Path, parity: Any) -> None:
    """As in the published folder its vocabulary has the marks of ChatML; here another end mark stands in its configuration, too."""
    address = authors_folder(theirs, tmp_path)
    inner = llama_tokenizer("legacy")
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    if not starts:
        inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    opened: Any = diptych.load(address)
    layout = opened._laid(torch.zeros(1, 1, TEXT["hidden_size"]), [1], ["What is it?"], None)
    written = layout.id_BL.masked_fill(layout.slot_BL, -200)[0]
    expected = [*([1] if starts else []), *CHATML_IDS[0], -200, *CHATML_IDS[1]]
    against = "chatml_direct and tokenizer_image_token of LLaVA at c121f04"
    parity("llava", "ids of a question in ChatML", against, [(written.numpy(), np.array(expected))], tolerance=0)
    assert (opened.vocabulary.end_id, opened.space, opened.sign) == (91, "", "")
    opened.save(tmp_path / "saved")
    again = BridgeGenerator.load(tmp_path / "saved")
    assert (again.vocabulary.end_id, again.template) == (91, opened.template)
