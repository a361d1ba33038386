"""LLaVA: rows and labels of the released code, penultimate features, the two stages, and published folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from llama_words import TEXTS, llama_tokenizer, vocabulary
from PIL import Image

import diptych
from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.length_order import LengthGroupedOrder
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import lay_out
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import MlpConnector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.llava_weights import LlavaConfig, bridge_name, take_llava_, targets, unread_block
from diptych.models.towers.hidden_layer import hidden_layer
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.visual_instruction import signed_words
from diptych.recipes.bridges.llava import LLaVA
from diptych.tasks.generation.mir import MIR
from diptych.train.optimise import build_optimiser
from diptych.worlds.resolve import resolve

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "llava_rows.json").read_text(encoding="utf-8"))
"""Ids, -200 for an image, and labels, of `preprocess_v1` and `preprocess_plain` of LLaVA at c121f04, for two ways of writing spaces."""
TURNS = [
    [("What is it?", "a cat"), ("Is it red?", "A dog (brown) on a sofa! It looks at us."), ("And small?", "no")],
    [("Is it red?", "no")],
    [("And small?", "yes, small"), ("What is it?", "a cat")],
]
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LINEAR = {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
DATA = resolve("world:questions?n=24").split("train")
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["legacy", "first"])
def test_rows_and_labels_are_those_of_the_release(kind: str, monkeypatch: Any, parity: Any) -> None:
    words = vocabulary(kind)
    monkeypatch.setattr(LLaVA, "words", lambda self: words)
    made = replace(LLaVA.paper(), slots=1)
    wrong = 0
    for captions in (False, True):
        recipe = replace(made, instruct=not captions)
        rows = []
        for number, turns in enumerate(TURNS):
            asked = [{"question": question, "answer": answer} for question, answer in turns]
            texts = (Text(("a cat", TEXTS[3])[number % 2], "en"),)
            draw = Draw(Sample(str(number), texts=texts, extras={"questions": asked}), np.random.default_rng(0), PIXELS)
            draw = draw if captions or number < 2 else replace(draw, image_HWC=None)
            rows.append(recipe.caption_row(draw) if captions else recipe.dialogue_row(draw)[0])
        released = RELEASED[kind]["captions" if captions else "dialogues"]
        layout = lay_out(rows[: len(released)], words)
        columns = (layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, released)
        for ids, slot, mask, answer, (their_ids, labels) in zip(*columns, strict=True):
            wrong += ids.masked_fill(slot, -200)[mask].tolist() != their_ids
            wrong += ids.masked_fill(~answer, -100)[mask].tolist() != labels
    against = "preprocess_v1 and preprocess_plain of LLaVA at c121f04"
    parity("llava", "rows and labels of both stages", against, [(np.array(wrong), np.array(0))], tolerance=0)


def test_dialogues_are_grouped_by_signed_words() -> None:
    """`modality_lengths` of the release, which counts the mark of an image as a word."""
    asked = {"questions": [{"question": "What is it?", "answer": "a cat"}, {"question": "And small?", "answer": "no"}]}
    shown = Sample("0", ArrayImage(PIXELS, "0"), extras=asked)
    alone = Sample("1", extras=asked)
    assert [signed_words(sample) for sample in (shown, alone)] == [9, -8]
    recipe = replace(LLaVA.paper(), instruct=True, batch_size=128, rows_a_mean=16)
    order = recipe.row_order(Pool.from_samples([shown, alone], name="two"))
    assert isinstance(order, LengthGroupedOrder)
    assert (order.members, order.parts, order.lengths.tolist()) == (16, 8, [9, -8])
    assert replace(recipe, instruct=False).row_order(DATA) is None
    assert replace(LLaVA.tiny(), instruct=True).row_order(DATA) is None


def test_a_long_dialogue_is_cut_behind_an_answer() -> None:
    made = replace(
        LLaVA.tiny(), small_steps=2, image_weights="", image_tower="vit_micro", image_size=48, instruct=True, text_length=37
    ).prepare(DATA)
    (step,) = batches(DATA, made, seed=0, stop=1)
    layout = step.batch.layout
    assert layout.truncated > 0
    assert layout.id_BL.shape[1] <= 37
    last_B = layout.mask_BL.sum(1) - 1
    assert layout.answer_BL[torch.arange(len(layout)), last_B].all()


def test_images_are_padded_to_a_square_as_the_release_pads_them(parity: Any) -> None:
    size = {"shortest_edge": 14}
    theirs = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 14, "width": 14})
    side, (height, width) = 20, PIXELS.shape[:2]
    whole = Image.new("RGB", (side, side), tuple(int(value * 255) for value in theirs.image_mean))
    whole.paste(Image.fromarray(PIXELS), ((side - width) // 2, (side - height) // 2))
    expected = theirs(whole, return_tensors="pt")["pixel_values"]
    made = replace(LLaVA.paper(), image_size=14, instruct=True).preprocess([PIXELS])
    parity("llava", "pixels of a padded image", "expand2square of LLaVA, CLIPImageProcessor", [(made, expected)], tolerance=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A LLaVA 1.5 of transformers with made-up weights."""
    made: Path = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    inner = llama_tokenizer("legacy")
    inner.add_special_tokens(["<image>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        image_token="<image>",
        extra_special_tokens={"image_token": "<image>"},
    )
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=400, bos_token_id=1, eos_token_id=2, pad_token_id=0, **TEXT
    )
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=text, image_token_index=image_id
    )
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    model.save_pretrained(made)
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(made)
    return made


def from_folder(folder: Path, **changes: Any) -> LLaVA:
    base = replace(LLaVA.paper(), weights_from=f"hf:{folder}", image_size=16, resize="crop", instruct=True)
    return replace(base, **changes).prepare(DATA)


def test_a_published_folder_writes_what_transformers_writes(folder: Path, parity: Any) -> None:
    made = from_folder(folder)
    ours = made.deploy(made.model().eval())
    theirs: Any = diptych.load(f"hf:{folder}")
    images = [
        ArrayImage(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8), str(seed)) for seed in range(3)
    ]
    before, _, behind = made.template.partition("{image}")
    theirs.processor.chat_template = None
    theirs._text = lambda prompt: f"{before}<image>{behind.replace('{prompt}', prompt)}"
    asked = ["What is it?", "Is it red?", "And small?"]
    assert ours.generate(images, asked, max_tokens=12) == theirs.generate(images, asked, max_tokens=12)
    pixels = ours.preprocess([image.pixels_HWC for image in images])
    given = theirs._inputs(theirs._rows(images, asked), 0)
    with torch.no_grad():
        logit_BLV = theirs.model(**given).logits
        embed_BLD, layout = ours._read(ours._asked(images, asked), 0)
        mine_BLV = ours.bridge.language.inner(
            inputs_embeds=embed_BLD, attention_mask=layout.mask_BL.long(), position_ids=layout.positions()
        ).logits
        features = theirs.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    mask_BL = layout.mask_BL
    assert torch.equal(given["attention_mask"].bool(), mask_BL)
    against = "LlavaForConditionalGeneration of transformers, its folder opened"
    pairs = [(mine_BLV[mask_BL], logit_BLV[mask_BL]), (ours.bridge.encoder(pixels).tokens_BPD, features)]
    parity("llava", "features of the last layer but one, and every logit", against, pairs, tolerance=1e-5)


def test_the_authors_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    """LLaVA's own names, its weights in two files, an image encoder beside it."""
    config = json.loads((folder / "config.json").read_text())
    own = {**config["text_config"], "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}
    own |= {
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "image_aspect_ratio": "pad",
    }
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    made = from_folder(folder)
    wanted = made.model().eval()
    names = {"connector.linear_1.": "model.mm_projector.0.", "connector.linear_2.": "model.mm_projector.2."}
    names |= {
        "language.inner.model.": "model.",
        "language.inner.lm_head.": "lm_head.",
        "encoder.": "model.vision_tower.vision_tower.vision_model.",
    }
    tensors = {}
    for name, tensor in targets(wanted).items():
        start = next(start for start in names if name.startswith(start))
        tensors[names[start] + name.removeprefix(start)] = tensor.detach().clone()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    vision = LlavaConfig.read(folder).vision
    bridge = Bridge(
        hidden_layer(image_tower("hf_image", config=vision), -2),
        MlpConnector(24, 32),
        LanguageModel(config=LlavaConfig.read(tmp_path).text),
    )
    take_llava_(bridge, f"hf:{tmp_path}")
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in bridge.state_dict().items())
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}, vision_config=VISION
        )
    )
    clip.save_pretrained(tmp_path / "clip")
    torch.save({name: value for name, value in tensors.items() if "vision" not in name}, tmp_path / "pytorch_model.bin")
    opened: Any = diptych.load(f"llava:{tmp_path}#{tmp_path / 'clip'}")
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        features = clip.vision_model(image, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(opened.bridge.encoder(image).tokens_BPD, features)
    ours = opened.bridge.language.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in wanted.language.state_dict().items())
    assert opened.preprocess.resize == "square"
    with pytest.raises(DataError, match="contains no image encoder"):
        diptych.load(f"llava:{tmp_path}")
    whole: Any = diptych.load(f"llava:{folder}")
    asked = [ArrayImage(PIXELS[:12], "a")], ["What is it?"]
    assert whole.generate(*asked, max_tokens=8) == made.deploy(wanted).generate(*asked, max_tokens=8)
    blind = {name: value for name, value in tensors.items() if "vision" not in name}
    croc = {**blind, "model.mask_token": torch.randn(5, 32), "transform_block.resize.bias": torch.zeros(32)}
    torch.save(croc, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="is of a Croc"):
        diptych.load(f"llava:{tmp_path}#{tmp_path / 'clip'}")
    (tmp_path / "config.json").write_text(json.dumps({**own, "model_type": "croc_llama"}))
    unit: Any = diptych.load(f"llava:{tmp_path}#{tmp_path / 'clip'}")
    with torch.no_grad():
        longer, token = opened.bridge.picture(image), unit.bridge.picture(image)
    torch.testing.assert_close(token, longer / longer.norm(dim=2, keepdim=True))
    unit.save(tmp_path / "kept")
    assert diptych.load(tmp_path / "kept").bridge.connector.unit  # type: ignore[attr-defined]
    (tmp_path / "config.json").write_text(json.dumps(own))
    tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"layers\.9.* does not belong"):
        take_llava_(bridge, f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({**own, "mm_projector_type": "linear"}))
    with pytest.raises(DataError, match="mlp2x_gelu of patch"):
        LlavaConfig.read(tmp_path)


def test_every_tensor_of_the_published_sizes_has_a_place() -> None:
    """LLaVA 1.5 7B on the meta device, under the names of each published form: nothing left over, nothing missing."""
    with torch.device("meta"):
        vision = transformers.CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14
        )
        text = transformers.LlamaConfig(vocab_size=32064, rms_norm_eps=1e-5)
        theirs = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))
        tower = hidden_layer(image_tower("hf_image", config=vision.to_dict()), -2)
        bridge = Bridge(tower, MlpConnector(1024, 4096), LanguageModel(config=text.to_dict()))
    assert sum(parameter.numel() for parameter in bridge.connector.parameters()) == 20_979_712
    needed = {name: tensor.shape for name, tensor in targets(bridge).items()}
    published = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    older = {
        name.replace("model.vision_tower.", "vision_tower.vision_model.")
        .replace("model.multi_modal", "multi_modal")
        .replace("model.language_model.", "language_model.model.")
        .replace("lm_head.", "language_model.lm_head."): shape
        for name, shape in published.items()
    }
    authors = {
        name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        .replace("multi_modal_projector.linear_1", "mm_projector.0")
        .replace("multi_modal_projector.linear_2", "mm_projector.2")
        .replace("model.language_model.", "model."): shape
        for name, shape in published.items()
    }
    for names in (published, older, {**authors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.Size([64])}):
        ours = {ours: shape for name, shape in names.items() if (ours := bridge_name(name))}
        assert {name: shape for name, shape in ours.items() if name in needed} == needed
        assert all(unread_block(bridge, name) for name in ours if name not in needed)


def test_dialogues_train_the_language_model_too(tmp_path: Path) -> None:
    tiny = replace(
        LLaVA.tiny(),
        small_steps=2,
        image_weights="",
        image_tower="vit_micro",
        image_size=48,
        batch_size=8,
        instruct_batch_size=4,
        steps=4,
        projector_share=0.5,
    )
    made = tiny.prepare(DATA)
    first, second = (stage.recipe for stage in made.stages())
    assert {name.partition(".")[0] for name, p in first.model().named_parameters() if p.requires_grad} == {"connector"}
    assert {name.partition(".")[0] for name, p in second.model().named_parameters() if p.requires_grad} == {
        "connector",
        "language",
    }
    run = diptych.train(replace(tiny, moca=True), data=DATA, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    before = LanguageModel.from_folder(made.language_folder).state_dict()
    after = model.bridge.language.inner.state_dict()
    assert any(not torch.equal(value, after[name.removeprefix("inner.")]) for name, value in before.items())
    result = MIR(samples=4, words=0).score(MIR(samples=4, words=0).predict(model, DATA))
    assert np.isfinite(result.value)
    opened: Any = diptych.load(run.path)
    again = opened.generate([DATA[0].image], ["what is it ?"], max_tokens=4)
    assert again == model.generate([DATA[0].image], ["what is it ?"], max_tokens=4)


def test_a_dialogue_without_an_image_is_read_as_text_alone() -> None:
    samples = [DATA[0], replace(DATA[1], image=None)]
    pool = Pool.from_samples(samples, name="mixed")
    made = replace(
        LLaVA.tiny(), small_steps=2, image_weights="", image_tower="vit_micro", image_size=48, instruct=True, batch_size=2
    ).prepare(DATA)
    (step,) = batches(pool, made, seed=0, stop=1)
    batch: Any = step.batch
    row = int((batch.pictures_B == 0).nonzero()[0, 0])
    torch.manual_seed(0)
    bridge = made.model().eval()
    written = made.features(bridge, batch)
    alone = bridge.scored(None, batch.layout.rows(row, row + 1))
    assert not batch.slot_BL[row].any()
    torch.testing.assert_close(written.nll_B[row : row + 1], alone.nll_B, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="has no image with a text"):
        replace(made, instruct=False).load(samples[1], np.random.default_rng(0))


def test_bad_settings_say_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="projector_share is 1"):
        replace(LLaVA.tiny(), projector_share=1.0)
    with pytest.raises(ConfigError, match="layer is -9 of an image encoder of 2 blocks"):
        hidden_layer(image_tower("vit_micro"), -9)
    with pytest.raises(ConfigError, match="no inner layers"):
        hidden_layer(image_tower("convnet_tiny"), -2)
    with pytest.raises(DataError, match=r"no config\.json"):
        replace(LLaVA.paper(), weights_from=f"hf:{tmp_path}").prepare(DATA)


def test_adapters_and_projector_learn_at_rates_of_their_own(tmp_path: Path) -> None:
    """`--lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --learning_rate 2e-4` of LLaVA at c121f04: adapters of every linear map but
    the head, and the projector, which is made after peft froze the rest, and so learns."""
    published = LLaVA.lora()
    assert published.tuned == AdapterConfig(128, 256.0, 0.05)
    assert (published.instruct_lr, published.projector_lr, published.projector_share) == (
        2e-4,
        2e-5,
        LLaVA.paper().projector_share,
    )
    small: dict[str, Any] = {"small_steps": 2, "image_weights": "", "image_tower": "vit_micro", "image_size": 48}
    tiny = replace(LLaVA.tiny(), **small, tuned=published.tuned, instruct_lr=2e-4, projector_lr=2e-5)
    captions, dialogues = (stage.recipe for stage in tiny.prepare(DATA).stages())
    assert not any("lora_" in name for name, _ in captions.model().named_parameters())
    model = dialogues.model()
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    linear = {name for name, module in model.language.inner.named_modules() if hasattr(module, "lora_A")}
    assert {name.rpartition(".")[2] for name in linear} == LINEAR
    assert {name for name in learned if "lora_" not in name} == {
        f"connector.linear_{n}.{k}" for n in (1, 2) for k in ("weight", "bias")
    }
    groups = build_optimiser(model, dialogues.optimiser()).param_groups
    rates = {id(p): group["lr"] * group["scale"] for group in groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert all(rate == pytest.approx(2e-5 if name.startswith("connector.") else 2e-4) for name, rate in found.items())
    with pytest.raises(ConfigError, match="projector_lr is -1"):
        replace(tiny, projector_lr=-1.0)
    run = diptych.train(
        replace(tiny, batch_size=8, instruct_batch_size=4, steps=4, projector_share=0.5), data=DATA, out=tmp_path / "run"
    )
    opened: Any = diptych.load(run.path)
    assert not any("lora_" in name for name, _ in opened.bridge.named_parameters()), "merged where it is used"
    assert opened.generate([DATA[0].image], ["what is it ?"], max_tokens=2)
