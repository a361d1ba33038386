"""MiniGPT-4: what is trained, the rows of both stages, a Q-Former out of BLIP-2, and where answers end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import ImageSlots, TextPiece
from diptych.data.text.prompts.template import Template
from diptych.models.bridges.connectors import QueryConnector, connector
from diptych.models.bridges.former_weights import take_encoder_, take_former_
from diptych.models.io.streaming import TextPieceStreamer
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.two_stage_captions import REQUESTS, clean_caption
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.recipes.bridges.minigpt4 import MiniGPT4
from diptych.worlds.scenes.descriptions import REQUEST, careless, descriptions

DATA = descriptions(24, seed=0, detailed=8).remembering()
FROZEN = 105_165_056
"""Parameters of BERT-base with cross-attention in every second layer and without words, 32 queries, a norm of 1,408 numbers."""
SMALL = replace(MiniGPT4.tiny(), small_steps=2, small_image_steps=2, batch_size=8, second_batch_size=4, steps=4)
FORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "cross_attention_frequency": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
BLIP2 = "Blip2ForConditionalGeneration of transformers, its folder read"


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small BLIP-2 and its folder."""
    torch.manual_seed(0)
    llama = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**VISION, layer_norm_eps=1e-5),
        qformer_config=transformers.Blip2QFormerConfig(**FORMER, encoder_hidden_size=24),
        text_config=transformers.LlamaConfig(**llama),
        num_query_tokens=4,
        image_token_index=59,
    )
    model = transformers.Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        model.vision_model.post_layernorm.weight.normal_()
    folder = tmp_path_factory.mktemp("blip2")
    model.save_pretrained(folder)
    return model, folder


def test_tokens_of_a_picture_are_those_of_blip2(blip2: Any, parity: Any) -> None:
    theirs, folder = blip2
    ours = QueryConnector(24, 32, queries=4, former=FORMER, still=True)
    take_former_(ours, folder)
    ours.map.load_state_dict(theirs.language_projection.state_dict())
    ours.train()  # dropout of a Q-Former that stays as it is must stay off
    image = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        raw = theirs.vision_model.encoder(inputs_embeds=theirs.vision_model.embeddings(image)).last_hidden_state
        found, answer = ours(raw), theirs.get_image_features(image, return_dict=True)
        wanted = answer.pooler_output
    parity("minigpt4", "tokens of a picture, the Q-Former in training mode", BLIP2, [(found, wanted)], tolerance=1e-6)
    trained = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert trained == {"map.weight", "map.bias"}
    with pytest.raises(DataError, match="the same sizes"):
        take_former_(QueryConnector(24, 32, queries=5, former=FORMER), folder)


class Seeing(torch.nn.Module):
    """BLIP-2's image encoder under its name."""

    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.vision_model = vision


def test_the_image_encoder_of_blip2_comes_with_its_former(blip2: Any, tmp_path: Path, parity: Any) -> None:
    """Two blocks of EVA-g. The bias of the keys, which timm does not have, changes nothing."""
    torch.manual_seed(0)
    shape = {"hidden_size": 1408, "intermediate_size": 6144, "num_attention_heads": 16, "initializer_range": 0.02}
    config = transformers.Blip2VisionConfig(**shape, num_hidden_layers=2, image_size=28, patch_size=14)
    theirs = transformers.Blip2VisionModel(config).eval()
    with torch.no_grad():
        theirs.embeddings.position_embedding.normal_(std=0.02)
        for layer in theirs.encoder.layers:
            layer.self_attn.qkv.bias.normal_()
    save_file({name: tensor.contiguous() for name, tensor in Seeing(theirs).state_dict().items()}, tmp_path / "model.safetensors")
    ours = image_tower("eva_g14", image_size=28, blocks=2).eval()
    take_encoder_(ours, tmp_path)
    image = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        wanted = theirs.encoder(inputs_embeds=theirs.embeddings(image)).last_hidden_state
        found = ours(image).tokens_BPD
    parity("minigpt4", "patches and class token of EVA", BLIP2, [(found, wanted)], tolerance=1e-5)
    with pytest.raises(DataError, match="an image encoder"):
        take_encoder_(image_tower("vit_micro"), blip2[1])
    with pytest.raises(DataError, match="the same sizes"):
        take_encoder_(image_tower("eva_g14", image_size=28, blocks=2), blip2[1])


def test_patches_side_by_side_are_normalised_as_in_the_release() -> None:
    """Without Q-Former `ln_vision` is a fresh norm that stays so, and the class token is left out."""
    patch_BPF = 3 + 2 * torch.randn(2, 9, 6)
    spec = replace(MiniGPT4.paper(), queries=0).connector_spec()
    ours = connector(spec.pop("kind"), 6, 5, **spec)
    norm = torch.nn.LayerNorm(6)
    wanted = ours.map(norm(patch_BPF)[:, 1:].reshape(2, 2, 24))  # type: ignore[operator]
    torch.testing.assert_close(ours(patch_BPF[:, 1:]), wanted)
    assert {name for name, p in ours.named_parameters()} == {"map.weight", "map.bias"}
    assert "norm" not in SMALL.connector_spec()


def rows(recipe: MiniGPT4, data: Any = DATA) -> Any:
    (step,) = batches(data, recipe, seed=0, stop=1)
    return step.batch.layout


def test_the_first_stage_asks_nothing_and_ends_in_a_line_break() -> None:
    made = replace(SMALL, sign="left", answer_length=99).prepare(DATA)
    layout, words = rows(made), made.words()
    for ids, slots, mask, answer in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, strict=True):
        count = int(mask.sum())
        assert slots[:count].tolist() == [False] + [True] * made.slots + [False] * (count - made.slots - 1)
        assert answer[:count].tolist() == [False] * (made.slots + 1) + [True] * (count - made.slots - 1)
        assert ids[0] == words.start_ids[0]
        written = words.decode(ids[answer].tolist())
        assert written.endswith("left")
        assert int(ids[count - 1]) != words.end_id
    cut = rows(replace(made, answer_length=3))
    assert (cut.answer_BL.sum(1) == 3).all()
    assert cut.truncated == len(cut)


def test_the_second_stage_is_a_chat_about_pictures_with_a_description() -> None:
    made = replace(SMALL, chat="question {image} : {prompt} answer", requests=("one thing", "two things")).prepare(DATA)
    short, detailed = made.stages()
    kept = [row for row in range(24) if detailed.keep(DATA[row])]  # type: ignore[misc]
    assert kept == list(range(8))
    assert all(short.keep(DATA[row]) for row in range(24))  # type: ignore[misc]
    assert (detailed.recipe.batch_size, detailed.recipe.lr, detailed.share) == (4, 3e-4, 0.25)
    layout, words = rows(detailed.recipe, DATA.select(kept)), made.words()  # type: ignore[arg-type]
    asked = set()
    for ids, slots, mask, answer in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, strict=True):
        first = int(slots.nonzero()[0])
        assert words.decode(ids[1:first].tolist()) == "question"
        between = words.decode(ids[mask & ~slots & ~answer][first:].tolist())
        asked.add(between)
        text = words.decode(ids[answer].tolist())
        assert text.endswith(".")
        assert text in {t.string.lower() for row in kept for t in DATA[row].texts}
    assert asked <= {": one thing answer", ": two things answer"}


def test_both_stages_run_and_the_model_is_asked_in_the_chat(tmp_path: Path) -> None:
    run = diptych.train(SMALL, data=DATA, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    assert (model.request, model.template.text) == (REQUEST, SMALL.chat)
    image = DATA[0].image
    assert model.generate([image], [""], max_tokens=5) == model.generate([image], [REQUEST], max_tokens=5)
    (scores,) = model.answer_nll([image], [""], [["a red circle", "a blue square"]])
    assert np.isfinite(scores).all()
    model.sign = "red"
    assert len(model._ends) == 1
    heard: list[str] = []
    written = model.stream(image, "", on_text=lambda piece: heard.append(piece) is None, max_tokens=5)
    assert "".join(heard) == written.text == model.generate([image], [""], max_tokens=5)[0]


def released_cut(text: str) -> str:
    """What the released chat keeps of an answer."""
    return text.split("###")[0].split("Assistant:")[-1].strip()


def test_answers_are_cut_as_in_the_released_chat(tmp_path: Path) -> None:
    """The sign, and who answers, also where a model writes the next turns, several of them, half a sign, or nothing else."""
    made = replace(SMALL, second_sign="###", role="Assistant:", steps=2, second_batch_size=2)
    model: Any = diptych.load(diptych.train(made, data=DATA, out=tmp_path / "run", seed=0).path)
    assert (model.sign, model.role) == ("###", "Assistant:")
    texts = [
        "a dog",
        " a dog ### Human: and?###Assistant: no",
        "Assistant: a dog",
        "Assistant: a Assistant:dog ###",
        "C#",
        "a ##",
        "###",
        "",
    ]
    texts += ["Assistant:", "assistant: a", "Human: a### Assistant: b"]
    assert [model._answer(text) for text in texts] == [released_cut(text) for text in texts]


@pytest.mark.parametrize("tokens", [["a", " C", "#"], ["a", " dog", " #", "#", "#", " Human"], ["a", " #", "1", "##"], ["###"]])
def test_a_stream_holds_back_what_may_be_the_sign(tokens: list[str]) -> None:
    """Pieces together are the text before the sign; none of its letters is given away before it is known not to begin it."""
    heard: list[str] = []

    def decode(ids: list[int]) -> str:
        return "".join(tokens[i] for i in ids).split("###")[0].strip()

    pieces = TextPieceStreamer(decode, {99}, lambda piece: heard.append(piece) is None, sign="###")
    pieces.put(torch.tensor([0]))
    for number in range(len(tokens)):
        pieces.put(torch.tensor([number]))
        whole = "".join(tokens[: number + 1])
        assert "".join(heard) == whole.split("###")[0].strip() or "".join(heard) == whole.rstrip("#").strip()
    pieces.end()
    assert "".join(heard) == "".join(tokens).split("###")[0].strip()


def test_a_step_of_the_second_stage_asks_one_thing() -> None:
    """As released: one of the requests for all rows of a batch, another one at another step."""
    made = replace(SMALL, chat="{image} : {prompt}", requests=("red", "blue", "circle"), second_batch_size=8).prepare(DATA)
    second, words, seen = made.stages()[1].recipe, made.words(), set()
    for step in batches(DATA.select(list(range(8))), second, seed=0, stop=6):
        layout = step.batch.layout
        asked = {
            words.decode(ids[mask & ~slots & ~answer].tolist())
            for ids, slots, mask, answer in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, strict=True)
        }
        assert len(asked) == 1
        seen |= asked
    assert len(seen) > 1


def test_a_process_draws_its_source_for_a_batch() -> None:
    """In the first stage, of so many rows as have a mean of their own; the second has one source."""
    samples = [replace(DATA[row], source="laion" if row < 4 else "cc_sbu") for row in range(24)]
    data = Pool.from_samples(samples, name="mixed")
    made = replace(MiniGPT4.paper(), sources=("laion", "cc_sbu"), shares=(115.0, 14.0), rows_a_mean=3)
    order = made.row_order(data)
    assert order is not None
    drawn = [samples[row].source for epoch in range(30) for row in order(0, epoch, 24).tolist()]
    assert all(len(set(drawn[start : start + 3])) == 1 for start in range(0, len(drawn), 3))
    assert 0.8 < drawn.count("laion") / len(drawn) < 0.98
    assert made.stages()[1].recipe.row_order(data) is None
    assert (MiniGPT4.paper().rows_a_mean, ArtGPT4.paper().stages()[1].recipe.rows_a_mean) == (64, 12)
    with pytest.raises(ConfigError, match="1 shares of 2 sources"):
        replace(made, shares=(1.0,))


def test_only_artgpt4_crops_and_clips() -> None:
    """MiniGPT-4's released image processor is given the shares of a crop and makes none; ArtGPT-4's makes it. ArtGPT-4's loop clips."""
    assert (MiniGPT4.paper().crop, ArtGPT4.paper().crop) == ((1.0, 1.0), (0.5, 1.0))
    assert (MiniGPT4.paper().optimiser().clip_norm, ArtGPT4.paper().optimiser().clip_norm) == (0.0, 1.0)


def test_it_is_used_in_the_released_chat() -> None:
    """The released conversation by hand: system and turns, each with ### behind it, then the role that answers. Training has a form of its
    own, with a space before ###Assistant."""
    system = "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    said = ["Human: <Img>{image}</Img> What is it?"]
    for recipe, role in ((MiniGPT4.paper(), "Assistant: "), (ArtGPT4.paper(), "Assistant:")):
        expected = "###".join([f"{system}Please answer my questions.", *said, role])
        before, slots, behind = Template(recipe.written_after).pieces(3, "What is it?")
        assert isinstance(before, TextPiece)
        assert isinstance(behind, TextPiece)
        assert slots == ImageSlots(3)
        assert before.text + "{image}" + behind.text == expected
        assert recipe.chat == "###Human: <Img>{image}</Img> {prompt} ###Assistant: "
    assert MiniGPT4.tiny().written_after == MiniGPT4.tiny().chat


def test_captions_are_cleaned_as_blip_cleans_them() -> None:
    assert clean_caption('A "Dog" (brown); on a\n sofa.  ') == "a dog brown on a sofa"
    assert len(clean_caption("word " * 80).split()) == 50


def test_the_published_sizes() -> None:
    """One linear map from 768 to Vicuna-13B's 5,120 is trained; the Q-Former stays as it is."""
    made = MiniGPT4.paper()
    assert (made.image_tower, made.resize) == ("eva_g14", "squash")
    spec = made.connector_spec()
    with torch.device("meta"):
        built = connector(spec.pop("kind"), 1408, 5120, **spec)
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == 3_937_280
    assert sum(p.numel() for p in built.parameters() if not p.requires_grad) == FROZEN
    assert made.image_tower == "eva_g14"
    with torch.device("meta"):
        assert replace(made, queries=0)._fresh_encoder().prefix is False  # four neighbours side by side: no class token
        assert made._fresh_encoder().prefix is True
    first, second = made.stages()
    assert [round(21_000 * stage.share) for stage in (first, second)] == [20_000, 1_000]
    assert (first.recipe.batch_size, second.recipe.batch_size, len(REQUESTS)) == (256, 12, 4)
    spec_first, spec_second = first.recipe.optimiser(), second.recipe.optimiser()
    assert (spec_first.lr, spec_first.lr * spec_first.final_lr) == pytest.approx((1e-4, 8e-5))
    assert (spec_second.lr, spec_second.lr * spec_second.final_lr) == pytest.approx((3e-5, 1e-5))


def test_careless_captions_lack_words_and_repeat_some() -> None:
    caption = "a red circle left of a blue square"
    made = [careless(caption, np.random.default_rng(seed), repeats=0.3).split() for seed in range(400)]
    again = [words for words in made if len({tuple(words[n : n + 3]) for n in range(len(words) - 2)}) < len(words) - 2]
    assert 0.2 < len(again) / len(made) < 0.4
    assert min(map(len, made)) >= 3
    assert np.mean([len(words) for words in made if words not in again]) < 8


def test_bad_settings_say_what_would_work() -> None:
    with pytest.raises(ConfigError, match="second_share is 1 with 1 requests"):
        replace(SMALL, second_share=1)
    bare = replace(SMALL, detailed="alt", second_share=0.0).prepare(DATA)
    with pytest.raises(DataError, match="has no text of another origin than 'alt'"):
        rows(bare, DATA.select([20]))
