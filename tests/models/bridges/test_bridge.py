"""What a bridge must keep: padding changes nothing, frozen parts stay, cached writing equals uncached, folders give the same back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError, ShapeError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.prompt import ImagePart, TextPart
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.layout import ImageSlots, Layout, TextPiece, lay_out
from diptych.data.text.prompts.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import GroupedConnector, LinearConnector, connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.narrow_top_p import NarrowTopP
from diptych.models.bridges.splice import norm_ratio, splice
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.adapters import LoRAConfig, add_adapters
from diptych.models.towers.towers import image_tower
from diptych.objectives.language.answers import answer_loss

TEXTS = ["a red circle left of a blue square", "what colour is it ?", "green ring", "Question: Answer:"]
TOKENIZER = Tokenizer.train(TEXTS * 3, 320)
VOCABULARY = LanguageVocabulary(TOKENIZER)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
}
SPEC: dict[str, Any] = {"kind": "linear"}


def bridge(kind: str = "llama", **options: Any) -> Bridge:
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    language = LanguageModel(config={**KINDS[kind], "vocab_size": TOKENIZER.vocab_size, **ids})
    encoder = image_tower("vit_micro")
    return Bridge(encoder, connector("linear", encoder.token_width, language.width), language, **options)


def writer(kind: str = "llama") -> BridgeGenerator:
    made = bridge(kind).eval()
    template = Template("Question: {prompt} Answer:")
    return BridgeGenerator(
        made, Preprocess(48), VOCABULARY, template, "writer", connector=SPEC, length=made.language.context_length
    )


def images(count: int) -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), f"u{n}") for n in range(count)]


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- rows


def rows(side: Any = "right") -> Layout:
    template = Template("Question: {prompt} Answer:")
    asked = (("what colour is it ?", " red"), ("green ring", " a blue square"))
    return lay_out([template.pieces(9, prompt, answer) for prompt, answer in asked], VOCABULARY, side=side)


def test_the_loss_counts_answers_and_their_end_marks_alone() -> None:
    layout = rows()
    for row, answer in enumerate((" red", " a blue square")):
        assert layout.id_BL[row, layout.answer_BL[row]].tolist() == [*VOCABULARY.pieces(answer), 2]
        assert layout.id_BL[row, 0] == 1
        assert (layout.id_BL[row, layout.mask_BL[row]] == 1).sum() == 1, "one start mark, before the picture"
        assert layout.slot_BL[row].nonzero()[:, 0].tolist() == list(range(1, 10))
    assert not (layout.answer_BL & ~layout.mask_BL).any()


def test_an_end_mark_counts_where_padding_has_its_id() -> None:
    """As with GPT-2: a model that is never asked for its end mark never learns to stop."""

    class Same(LanguageVocabulary):
        pad_id = 2  # type: ignore[assignment]

    layout = lay_out(
        [[TextPiece("what"), TextPiece(" red", answer=True)], [TextPiece("what"), TextPiece(" a blue square", answer=True)]],
        Same(TOKENIZER),
    )
    assert layout.id_BL[0, -1] == 2
    assert layout.answer_BL[0].sum() == len(VOCABULARY.pieces(" red")) + 1
    assert layout.mask_BL[0].sum() < layout.mask_BL.shape[1]


def test_a_long_answer_is_cut_and_counted_and_a_long_prompt_refused() -> None:
    row = [ImageSlots(4), TextPiece(" it"), TextPiece(" a red circle left of a blue square", answer=True)]
    layout = lay_out([row], VOCABULARY, length=8)
    assert layout.truncated == 1
    assert layout.id_BL.shape == (1, 8)
    assert 2 not in layout.id_BL[0].tolist()
    with pytest.raises(DataError, match="u7: the prompt takes 6 of 5 tokens"):
        lay_out([row], VOCABULARY, length=5, names=["u7"])
    with pytest.raises(DataError, match="nothing comes before the answer"):
        lay_out([[TextPiece("x", answer=True)]], LanguageVocabulary(TOKENIZER, start=False))


def test_marks_stand_where_a_vocabulary_says() -> None:
    """The start mark before a picture or behind it, never behind words; an encoder's end mark behind what stands before the answer."""
    picture, asked, said = ImageSlots(2), TextPiece("what colour"), TextPiece(" red", answer=True)
    question, answer = VOCABULARY.pieces("what colour"), [*VOCABULARY.pieces(" red"), 2]
    behind, closing = LanguageVocabulary(TOKENIZER, start_behind=True), LanguageVocabulary(TOKENIZER, start=False, closes=True)
    pad = [TOKENIZER.pad_id] * 2
    assert lay_out([[picture, asked, said]], VOCABULARY).id_BL.tolist() == [[1, *pad, *question, *answer]]
    assert lay_out([[picture, asked, said]], behind).id_BL.tolist() == [[*pad, 1, *question, *answer]]
    assert lay_out([[asked, picture, said]], behind).id_BL.tolist() == [[1, *question, *pad, *answer]]
    assert lay_out([[picture, asked, said]], closing).id_BL.tolist() == [[*pad, *question, 2, *answer]]
    assert lay_out([[picture, asked]], closing).id_BL.tolist() == [[*pad, *question, 2]]
    assert not lay_out([[picture, asked]], closing).answer_BL.any()


def test_the_mean_of_processes_is_theirs() -> None:
    """The mean over tokens of two rows each, then over these; a last part of one row counts as one."""
    nll, count = torch.tensor([4.0, 2.0, 9.0, 0.0, 5.0]), torch.tensor([4.0, 2.0, 1.0, 2.0, 1.0])
    assert answer_loss(nll, count, rows=2) == pytest.approx((6 / 6 + 9 / 3 + 5 / 1) / 3)
    assert answer_loss(nll, count, rows=5) == answer_loss(nll, count) == 2.0
    assert answer_loss(torch.zeros(1), torch.zeros(1), rows=2) == 0.0


def test_the_narrow_nucleus_is_the_released_one(parity: Any) -> None:
    """Against the rule token by token: one stays while those before it have at most 1 - top_p together; the first always does."""
    torch.manual_seed(0)
    some = torch.cat([torch.randn(6, 9) * 3, torch.randn(2, 9) * 0.1, torch.tensor([[0.0] + [-1e4] * 8])])
    wrong = 0
    for top_p in (0.1, 0.3, 0.9, 1.0):
        found = NarrowTopP(top_p)(None, some)
        for row, kept in zip(some, found, strict=True):
            before, wanted = torch.tensor(0.0), row.clone()
            for rank, token in enumerate(row.argsort(descending=True).tolist()):
                if rank and before > 1 - top_p:
                    wanted[token] = -torch.inf
                before = before + row.softmax(0)[token]
            wrong += not torch.equal(kept, wanted)
    assert torch.equal(NarrowTopP(0.0)(None, some), some)
    against = "top_p_filter of the released sampling.py, token by token"
    parity("limber", "tokens that the released nucleus leaves", against, [(np.array(wrong), np.array(0))], tolerance=0)


def test_splice_puts_tokens_in_order_and_counts_places() -> None:
    word_BLD, picture_BKD = torch.zeros(2, 5, 3), torch.arange(12.0).view(2, 2, 3)
    slot_BL = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 1]]).bool()
    found = splice(word_BLD, picture_BKD, slot_BL)
    for row in range(2):
        torch.testing.assert_close(found[row, slot_BL[row]], picture_BKD[row])
    assert found[~slot_BL].abs().sum() == 0
    with pytest.raises(ShapeError, match="row 1 has 1 slots for the 2 tokens"):
        splice(word_BLD, picture_BKD, torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0]]).bool())
    assert norm_ratio(torch.ones(1, 2, 4) * 3, torch.ones(1, 3, 4), torch.ones(1, 3).bool()).tolist() == [3.0]


def test_templates_refuse_two_places_for_one_thing() -> None:
    with pytest.raises(ConfigError, match="2 times"):
        Template("{image} and {image}")
    assert Template("A picture of").pieces(3) == [ImageSlots(3), TextPiece("A picture of")]
    assert Template("a {image} b").pieces(2, "c", "d") == [
        TextPiece("a "),
        ImageSlots(2),
        TextPiece(" bc"),
        TextPiece("d", answer=True),
    ]


# ---------------------------------------------------------------- the bridge


@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_and_the_rest_of_the_batch_change_no_answer(kind: str) -> None:
    made = bridge(kind).eval()
    layout, image = rows(), pixels(2)
    together = made(image, layout)
    for row in range(2):
        kept = layout.mask_BL[row].nonzero()[:, 0]
        alone = Layout(
            *(tensor[row : row + 1, kept] for tensor in (layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL))
        )
        torch.testing.assert_close(made(image[row : row + 1], alone).nll_B, together.nll_B[row : row + 1], rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_frozen_parts_which_stay() -> None:
    made = bridge().train()
    assert not made.language.training
    assert not made.encoder.training
    assert made.connector.training
    made(pixels(2), rows()).nll_B.sum().backward()
    moved = {name.split(".")[0] for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {"connector"}
    with pytest.raises(UnknownName, match="part of a bridge"):
        bridge(trained=("conector",))


def test_frozen_parts_may_stay_awake() -> None:
    """Dropout of a frozen language model acts in training and rests in use; batch norms keep what they have counted."""
    made = bridge("gpt2", awake=("language", "encoder"))
    made.encoder.add_module("norm_of_batch", torch.nn.BatchNorm1d(3))
    made = Bridge(made.encoder, made.connector, made.language, awake=("language", "encoder"))
    norm: Any = made.encoder.norm_of_batch
    norm(torch.randn(8, 3) + 5)
    assert norm.running_mean.tolist() == [0.0] * 3
    assert made.language.training
    assert not any(p.requires_grad for p in made.language.parameters())
    rows = lay_out([[TextPiece("what"), TextPiece(" red", answer=True)]], VOCABULARY)
    costs = {float(made.scored(None, rows).nll_B) for _ in range(4)}
    assert len(costs) == 4
    assert not made.eval().language.training
    assert len({float(made.scored(None, rows).nll_B) for _ in range(4)}) == 1
    assert not bridge("gpt2").train().language.training
    with pytest.raises(UnknownName):
        bridge("gpt2", awake=("langauge",))


def test_dropout_of_adapters_acts_in_a_frozen_language_model() -> None:
    made = bridge("llama")
    add_adapters(made.language.inner, LoRAConfig(2, ("q_proj",), 4.0, 0.5))
    dropouts = [module for name, module in made.named_modules() if name.endswith("lora_dropout.default")]
    made.train()
    assert dropouts
    assert all(module.training for module in dropouts)
    assert not any(block.training for block in made.language.inner.model.layers)
    made.eval()
    assert not any(module.training for module in dropouts)


def test_a_blind_bridge_sees_nothing() -> None:
    made, layout = bridge(blind=True).eval(), rows()
    torch.testing.assert_close(made(pixels(2), layout).nll_B, made(torch.zeros(2, 3, 48, 48), layout).nll_B)


def test_grouped_patches_stand_side_by_side() -> None:
    made = GroupedConnector(6, 5, group=4)
    feature_BPF = torch.randn(2, 8, 6)
    wanted = torch.stack([made.map(feature_BPF[:, 4 * k : 4 * k + 4].reshape(2, 24)) for k in range(2)], 1)
    torch.testing.assert_close(made(feature_BPF), wanted)
    with pytest.raises(ConfigError, match="9 patches cannot be taken 4 at a time"):
        made.count(9)


def test_one_vector_is_spread_over_tokens() -> None:
    made = LinearConnector(6, 5, tokens=3).eval()
    feature_B1F = torch.randn(2, 1, 6)
    torch.testing.assert_close(made(feature_B1F), made.map(feature_B1F[:, 0]).view(2, 3, 5))


# ---------------------------------------------------------------- in use


@pytest.mark.parametrize("kind", list(KINDS))
def test_three_together_are_three_alone_and_cached_is_uncached(kind: str) -> None:
    made, prompts = writer(kind), ["what colour is it ?", "", "green ring"]
    together = made.generate(images(3), prompts, max_tokens=8)
    alone = [made.generate([image], [prompt], max_tokens=8)[0] for image, prompt in zip(images(3), prompts, strict=True)]
    assert together == alone
    assert made.generate(images(3), prompts, max_tokens=8, use_cache=False) == together
    assert any(together)


@pytest.mark.parametrize("kind", list(KINDS))
def test_writing_takes_the_likeliest_token_and_ranking_agrees(kind: str) -> None:
    """The first written token costs least among all first tokens, by the function that ranks candidates and trains."""
    made = writer(kind)
    picture = made.bridge.picture(made.preprocess([image.pixels_HWC for image in images(1)]))
    layout = made._laid(picture, [1], [""], [" a"])
    logit_AV, _, _ = made.bridge.language.answers(made.bridge.embed(picture, layout)[0], layout)
    left = made._laid(picture, [1], [""], None)
    id_BT = made.bridge.language.inner.generate(
        inputs_embeds=made.bridge.embed(picture, left)[0],
        attention_mask=left.mask_BL.long(),
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=0,
    )
    assert int(id_BT[0, -1]) == int(logit_AV[0].argmax())


def test_candidates_cost_what_the_loss_says() -> None:
    made = writer()
    (found,) = made.answer_nll(images(1), ["green ring"], [["a red circle", "ring", "blue"]])
    picture = made.bridge.picture(made.preprocess([image.pixels_HWC for image in images(1)]))
    for row, answer in enumerate(("a red circle", "ring", "blue")):
        layout = made._laid(picture, [1], ["green ring"], [answer])
        written = made.bridge.scored(picture, layout)
        np.testing.assert_allclose(found[row], [float(written.nll_B.detach()), float(written.count_B)], rtol=1e-5)


def test_a_folder_gives_the_same_back(tmp_path: Path) -> None:
    made = writer()
    made.save(tmp_path / "model")
    again = BridgeGenerator.load(tmp_path / "model")
    assert again.fingerprint == made.fingerprint
    assert again.generate(images(2), ["", "green ring"], max_tokens=6) == made.generate(
        images(2), ["", "green ring"], max_tokens=6
    )


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    made = writer("gpt2")
    with pytest.raises(ConfigError, match="of the 64 tokens"):
        made.generate(images(1), ["what colour is it ? " * 2], max_tokens=60)
    with pytest.raises(DataError, match="the prompt takes"):
        made.generate(images(1), ["what colour is it ? " * 20])
    with pytest.raises(ConfigError, match="2 prompts for 1 images"):
        made.generate(images(1), ["", ""])


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_text_alone_is_answered_without_a_picture_beside_those_that_have_one(kind: str) -> None:
    made, (image,) = writer(kind), images(1)
    alone, beside = made.generate([None], ["green ring"], max_tokens=5), made.generate([image], ["green ring"], max_tokens=5)
    assert made.generate([image, None], ["green ring"] * 2, max_tokens=5) == [*beside, *alone]
    assert made.generate(None, (TextPart("green ring"),), max_tokens=5) == alone[0]
    with pytest.raises(DataError, match="refers to a picture and comes without one"):
        made.generate([None], [(ImagePart(), TextPart("green ring"))])


def test_text_alone_costs_what_the_language_model_says_of_it() -> None:
    made = writer("llama")
    ids = [1, *VOCABULARY.pieces("Question: green ring Answer:"), *VOCABULARY.pieces(" red"), 2]
    count = len(VOCABULARY.pieces(" red")) + 1
    with torch.no_grad():
        logit_LV = made.bridge.language.inner(input_ids=torch.tensor([ids])).logits[0].double()
    expected = torch.nn.functional.cross_entropy(logit_LV[-count - 1 : -1], torch.tensor(ids[-count:]), reduction="sum")
    (table,) = made.answer_nll([None], ["green ring"], [["red"]])
    assert table == pytest.approx(np.array([[float(expected), count]]), rel=1e-5)
