"""Folders of transformers that write about images, tiny and random, in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import diptych
from diptych.api.generation import AnswerChoice
from diptych.core.contracts import Generator, LayerReader, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.generators import _decoded_picture, _ProcessorInput
from diptych.tasks.evaluate import evaluate
from diptych.tasks.generation.mir import MIR
from diptych.worlds.scenes.world import scenes

TOKENIZER = Tokenizer.train(["a red circle left of a blue square", "what colour is it ?", "yes no"] * 3, 320)
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def words(folder: Path, *more: str) -> Any:
    """The tokenizer as transformers has it, with a token for pictures."""
    TOKENIZER.save(folder)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    tokenizer.add_bos_token = True
    return tokenizer


def llava(folder: Path) -> None:
    tokenizer = words(folder, "<image>")
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = transformers.LlamaConfig(vocab_size=len(tokenizer), **LLAMA, **IDS)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=text, image_token_index=image_id
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"shortest_edge": 16}
    pictures = transformers.CLIPImageProcessor(size=size, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def blip2(folder: Path) -> None:
    tokenizer = words(folder, "<image>")
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    opt = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**VISION),
        qformer_config=transformers.Blip2QFormerConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, encoder_hidden_size=24
        ),
        text_config=transformers.OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **opt, **IDS),
        num_query_tokens=4,
        image_token_index=image_id,
    )
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.Blip2Processor(image_processor=pictures, tokenizer=tokenizer, num_query_tokens=4).save_pretrained(folder)


def instructblip(folder: Path) -> None:
    """The Q-Former reads the prompt by a tokenizer of its own, beside the language model's."""
    tokenizer = words(folder, "<image>")
    former = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.InstructBlipConfig(
        vision_config=transformers.InstructBlipVisionConfig(**VISION),
        qformer_config=transformers.InstructBlipQFormerConfig(vocab_size=len(tokenizer), encoder_hidden_size=24, **former),
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **LLAMA, **IDS),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    transformers.InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.InstructBlipProcessor(
        image_processor=pictures, tokenizer=tokenizer, qformer_tokenizer=words(folder), num_query_tokens=4
    ).save_pretrained(folder)


FAMILIES = {"llava": llava, "blip2": blip2, "instructblip": instructblip}


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: Any, tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    made: Path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](made)
    return made


def images(count: int) -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8), f"u{n}") for n in range(count)]


def test_a_folder_writes_and_ranks(folder: Path) -> None:
    model: Any = diptych.load(f"hf:{folder}")
    assert isinstance(model, Generator)
    assert isinstance(model, Ranker)
    prompts = ["what colour is it ?", "", "a red circle left of"]
    together = model.generate(images(3), prompts, max_tokens=5)
    alone = [model.generate([image], [prompt], max_tokens=5)[0] for image, prompt in zip(images(3), prompts, strict=True)]
    assert together == alone
    assert not any("what colour" in text for text in together), "the prompt is no part of the answer"


def test_its_layers_are_read(folder: Path) -> None:
    """Behind the picture's places: a line break, the text, the end mark. The last layer is behind the final norm."""
    model: Any = diptych.load(f"hf:{folder}")
    assert isinstance(model, LayerReader)
    (found,) = model.read_layers(images(1), ["a red circle"], layers=[1, 2])
    ids = model.tokenizer("\na red circle", add_special_tokens=False)["input_ids"]
    start = "blip" in model.model.config.model_type  # a start mark that stands behind the picture
    assert (model.depth, found.visual_EKD.shape, found.text_ETD.shape) == (2, (2, 4, 32), (2, start + len(ids) + 1, 32))
    given = model._inputs([_ProcessorInput([_decoded_picture(images(1)[0])], model._read("a red circle", ""))], 0)
    assert given["input_ids"][0, -1] == 2
    with torch.no_grad():
        logit_LV = model.model(**given).logits[0]
    head = model.model.get_output_embeddings()
    np.testing.assert_allclose(
        head(torch.from_numpy(found.text_ETD[1])).detach(), logit_LV[-found.text_ETD.shape[1] :], atol=1e-5
    )
    (first,) = model.read_layers(images(1), ["a red circle"], layers=[1])
    np.testing.assert_array_equal(first.visual_EKD[0], found.visual_EKD[0])
    (cut,) = model.read_layers(images(1), ["what colour is it ? " * 30], layers=[2])
    assert len(ids) + 1 < cut.text_ETD.shape[1] <= 64 - 4
    (other,) = model.read_layers(images(1), ["a red circle"], layers=[2], template="{image} yes no")
    assert other.text_ETD.shape[1] > 1
    assert np.isfinite(evaluate(MIR(samples=4, words=6), model, scenes(4, seed=0)).value)


TURNS = (
    "{% for turn in messages %}{{ turn['role'] }}: {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
)


def test_layers_are_read_by_its_chat_template(tmp_path: Path) -> None:
    """The text is what the model answers; what the template puts before the picture is no part of it, and a long answer is cut, not the
    question."""
    torch.manual_seed(0)
    llava(tmp_path)
    model: Any = diptych.load(f"hf:{tmp_path}")
    model.processor.chat_template = TURNS
    (found,) = model.read_layers(images(1), ["a red circle"], layers=[1, 2])
    said = "user: " + "<image>" * 4 + "\nassistant: a red circle\n"
    ids = model.tokenizer(said, return_tensors="pt")["input_ids"]
    picture_L = ids[0] == model.model.config.image_token_id
    behind_L = torch.arange(len(picture_L)) > picture_L.nonzero().max()
    pixels = model.processor.image_processor([_decoded_picture(images(1)[0])], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.model(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states
    for at, layer in enumerate((1, 2)):
        np.testing.assert_allclose(found.visual_EKD[at], states[layer][0][picture_L], atol=1e-5)
        np.testing.assert_allclose(found.text_ETD[at], states[layer][0][behind_L], atol=1e-5)
    (cut,) = model.read_layers(images(1), ["a red circle " * 60], layers=[2])
    assert found.text_ETD.shape[1] < cut.text_ETD.shape[1] <= 64 - 4


def test_prepared_tensors_are_answered_as_pictures_and_words_are(folder: Path) -> None:
    model = diptych.load(f"hf:{folder}")
    pictures = [ArrayImage(np.full((16, 16, 3), level, np.uint8), str(level)) for level in (20, 200)]
    prompts = ["what colour is it ?", "a red circle"]
    inputs = model._inputs(model._rows(pictures, prompts), 6)
    written_BT = model.generate_ids(inputs, max_tokens=6)
    assert written_BT.shape[0] == 2
    assert 1 <= written_BT.shape[1] <= 6
    decoded = [model.tokenizer.decode(row, skip_special_tokens=True).strip() for row in written_BT]
    assert decoded == model.generate(pictures, prompts, max_tokens=6)
    if "pixel_values" in inputs:
        other_BT = model.generate_ids({**inputs, "pixel_values": inputs["pixel_values"].flip(0)}, max_tokens=6, min_new_tokens=6)
        assert other_BT.shape == (2, 6)


def test_what_is_written_first_costs_least(folder: Path) -> None:
    """Teacher forcing and writing look at the same model with the same inputs."""
    model: Any = diptych.load(f"hf:{folder}")
    image = images(1)[0]
    given = model._inputs(model._rows([image], ["yes"]), 1)
    logit_V = model.model(**given).logits[0, -1]
    first = int(model.model.generate(**given, max_new_tokens=1, do_sample=False)[0, -1])
    assert first == int(logit_V.argmax())
    (found,) = model.answer_nll([image], ["yes"], [["red", "blue square"]])
    wanted = -logit_V.log_softmax(0)[model._answer_ids("red")[0]]
    assert found[0, 1] == len(model._answer_ids("red"))
    assert found[0, 0] > float(wanted.detach()), "the first token is a part of the whole"
    with torch.no_grad():
        target = torch.tensor([model._answer_ids("red")])
        ids = torch.cat([given["input_ids"], target], 1)
        label = torch.cat([torch.full_like(given["input_ids"], -100), target], 1)
        mask = torch.ones_like(ids)
        loss = model.model(**{**given, "input_ids": ids, "attention_mask": mask}, labels=label).loss
    assert found[0, 0] / found[0, 1] == pytest.approx(float(loss), rel=1e-5)


def test_choices_are_shares_of_the_given_ones(folder: Path) -> None:
    model = diptych.load(f"hf:{folder}")
    found = diptych.ask(model, images(1)[0], "what colour is it ?", choices=["red", "blue square", "yes"])
    assert isinstance(found, AnswerChoice)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.text == min(found.nats, key=lambda choice: found.nats[choice])
    for choices, said in ((["red", "red"], "twice"), (["red"], "two or more")):
        with pytest.raises(ConfigError, match=said):
            diptych.ask(model, images(1)[0], "what ?", choices=choices)
    with pytest.raises(ConfigError, match="question is empty"):
        diptych.ask(model, images(1)[0], " ")
    assert isinstance(diptych.caption(model, images(1)[0], max_tokens=3), str)
    assert len(diptych.caption(model, images(2), max_tokens=3)) == 2


def test_a_folder_that_lacks_something_says_what(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(DataError, match="not read"):
        diptych.load(f"hf:{broken}")
    shutil.copytree(folder, broken, dirs_exist_ok=True)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(DataError, match="processor"):
        diptych.load(f"hf:{broken}")
    shutil.copytree(folder, broken, dirs_exist_ok=True)
    plain = json.loads((broken / "config.json").read_text())
    plain["text_config"]["num_hidden_layers"] = 3
    (broken / "config.json").write_text(json.dumps(plain))
    with pytest.raises(DataError, match="is missing or of another size"):
        diptych.load(f"hf:{broken}")


def test_text_alone_is_read_by_the_language_model_or_refused(folder: Path) -> None:
    model = diptych.load(f"hf:{folder}")
    if not model._mark:  # BLIP-2 and its kind place a picture in every prompt
        with pytest.raises(DataError, match="does not read prompts without a picture"):
            model.generate([None], ["what colour is it ?"])
        return
    inputs = model.tokenizer(["what colour is it ?"], return_tensors="pt")
    id_1L = model.model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=5, do_sample=False
    )
    expected = model._decoded(id_1L[0, inputs["input_ids"].shape[1] :].tolist())
    (image,) = images(1)
    beside = model.generate([image], ["what colour is it ?"], max_tokens=5)
    both = model.generate([None, image, None], ["what colour is it ?"] * 3, max_tokens=5)
    assert both == [expected, beside[0], expected]
