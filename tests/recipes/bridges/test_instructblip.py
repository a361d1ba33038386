"""InstructBLIP: rows as LAVIS lays them, lengths of requests and answers, frames of a clip, how answers are ranked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers.processors import TemplateProcessing

import diptych
from diptych.core.config import with_changes
from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.sample import Sample, Text
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.connectors import QueryConnector
from diptych.models.bridges.former_weights import take_former_
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.recipes._shared.language.instruction_rows import InstructionRecipe
from diptych.recipes.bridges.instructblip import ASKS, ASKS_BACK, REQUESTS, InstructBLIP
from diptych.recipes.bridges.mblip import MBLIP
from diptych.worlds.scenes.questions import questions

TEXTS = ["what colour is the circle left of the square ?", "a red circle", "short answer :", "yes", ""]
LAVIS = json.loads((Path(__file__).parent / "fixtures" / "lavis_rows.json").read_text(encoding="utf-8"))
SLOTS = 3
RELEASED = "the released tokenisation, by transformers"
PAIRS = [
    (TEXTS[0], TEXTS[1]),
    (TEXTS[2], TEXTS[3]),
    (TEXTS[0] * 4, TEXTS[1] * 5),
    (TEXTS[3], TEXTS[0] * 2),
    (TEXTS[2] * 3, TEXTS[4]),
]
LENGTHS = [(128, 256), (9, 6), (4, 4), (12, 3)]


def marked(single: str) -> tuple[Tokenizer, Any]:
    """A tokenizer whose file puts these marks around a text, and the same as transformers opens it."""
    made = Tokenizer.train(TEXTS * 3, 300)
    made.inner.post_processor = TemplateProcessing(single=single, special_tokens=[("<sot>", 1), ("<eot>", 2)])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(made.inner.to_str()),
        bos_token="<sot>",
        eos_token="<eot>",
        pad_token="<pad>",
    )
    return made, theirs


def laid(
    recipe: type[InstructionRecipe], tokenizer: Tokenizer, lengths: tuple[int, int], *, reads: bool, monkeypatch: Any
) -> list[Any]:
    """For each pair the ids of its row, with None for the picture, and which of them are learned."""
    made = replace(recipe(), prompt_length=lengths[0], answer_length=lengths[1])
    vocabulary = LanguageVocabulary(tokenizer, start_behind=made.start_behind, closes=reads)
    monkeypatch.setattr(recipe, "words", lambda self: vocabulary)
    found: list[Any] = []
    monkeypatch.setattr(recipe, "laid", lambda self, draws, rows: found.extend(rows))
    with pytest.raises(AttributeError, match="truncated"):  # no batch comes back
        made.instruction_batch([], PAIRS, [SLOTS] * len(PAIRS))  # type: ignore[arg-type]
    layout, rows = lay_out(found, vocabulary), []
    for ids, slots, mask, answer in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, strict=True):
        count = int(mask.sum())
        rows.append(([None if s else int(i) for i, s in zip(ids[:count], slots, strict=False)], answer[:count].tolist()))
    return rows


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_before_a_decoder_are_those_of_lavis(lengths: tuple[int, int], monkeypatch: Any, parity: Any) -> None:
    """`blip2_vicuna_instruct`: its two calls of the tokenizer, the start mark of the answer dropped, the answer behind the request."""
    ours, theirs = marked("<sot> $A")
    found = laid(InstructBLIP, ours, lengths, reads=False, monkeypatch=monkeypatch)
    wrong = 0
    for (prompt, answer), (ids, learned) in zip(PAIRS, found, strict=True):
        theirs.truncation_side = "left"
        asked = theirs(prompt, truncation=True, max_length=lengths[0]).input_ids
        theirs.truncation_side = "right"
        said = theirs(answer + "<eot>", truncation=True, max_length=lengths[1]).input_ids[1:]
        wrong += ids != [None] * SLOTS + asked + said
        wrong += learned != [False] * (SLOTS + len(asked)) + [True] * len(said)
    parity(
        "instructblip",
        "rows of a decoder, requests and answers cut",
        "LAVIS' tokenisation, by transformers",
        [(np.array(wrong), np.array(0))],
        tolerance=0,
    )


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_of_an_encoder_decoder_are_those_of_lavis_and_mblip(lengths: tuple[int, int], monkeypatch: Any, parity: Any) -> None:
    """An end mark stands behind what the encoder reads, and behind an answer however it is cut. LAVIS keeps the end of a long request,
    mBLIP its beginning."""
    ours, theirs = marked("$A <eot>")
    for recipe, side in ((InstructBLIP, "left"), (MBLIP, "right")):
        found, wrong = laid(recipe, ours, lengths, reads=True, monkeypatch=monkeypatch), 0
        for (prompt, answer), (ids, learned) in zip(PAIRS, found, strict=True):
            theirs.truncation_side = side
            asked = theirs(prompt, truncation=True, max_length=lengths[0]).input_ids
            theirs.truncation_side = "right"
            said = theirs(answer, truncation=True, max_length=lengths[1]).input_ids
            wrong += ids != [None] * SLOTS + asked + said
            wrong += [i for i, one in zip(ids, learned, strict=True) if one] != said
        what = "rows of an encoder-decoder, requests and answers cut"
        parity(recipe.slug, what, RELEASED, [(np.array(wrong), np.array(0))], tolerance=0)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_before_a_decoder_are_those_of_mblip(lengths: tuple[int, int], monkeypatch: Any, parity: Any) -> None:
    """`TokenizeCLM`: an end mark behind every answer, also a cut one."""
    ours, theirs = marked("$A")
    found, wrong = laid(MBLIP, ours, lengths, reads=False, monkeypatch=monkeypatch), 0
    for (prompt, answer), (ids, learned) in zip(PAIRS, found, strict=True):
        asked = theirs(prompt, truncation=True, max_length=lengths[0]).input_ids
        said = [*theirs(answer, truncation=True, max_length=lengths[1]).input_ids, theirs.eos_token_id]
        wrong += ids != [None] * SLOTS + asked + said
        wrong += learned != [False] * (SLOTS + len(asked)) + [True] * len(said)
    parity(
        "mblip",
        "rows of a decoder, requests and answers cut",
        "the release's tokenisation, by transformers",
        [(np.array(wrong), np.array(0))],
        tolerance=0,
    )


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_rows_are_those_of_the_released_models(kind: str, monkeypatch: Any, parity: Any) -> None:
    """Ids, with -1, -2, -3 for a picture's three tokens, and labels, of the forward of `Blip2VicunaInstruct` and `Blip2T5Instruct` at
    506965b9, whose embeddings were ids; batches of five and of one."""
    reads, wrong, seen = kind == "encoder-decoder", 0, 0
    tokenizer, _ = marked("$A <eot>" if reads else "<sot> $A")
    for name, released in LAVIS.items():
        said, most, longest, count = name.split()
        if said != kind:
            continue
        found = laid(InstructBLIP, tokenizer, (int(most), int(longest)), reads=reads, monkeypatch=monkeypatch)
        for (ids, learned), (theirs, labels) in zip(found[2:3] if count == "1" else found, released, strict=True):
            places = iter(range(-1, -SLOTS - 1, -1))
            shown = [next(places) if one is None else one for one in ids]
            answer = [one for one, learns in zip(shown, learned, strict=True) if learns]
            if reads:
                wrong += [one for one, learns in zip(shown, learned, strict=True) if not learns] != theirs
                wrong += answer != labels
            else:
                wrong += shown != theirs
                wrong += [one if learns else -100 for one, learns in zip(shown, learned, strict=True)] != labels
            seen += 1
    assert seen == 24
    before = "an encoder-decoder" if reads else "a decoder"
    parity(
        "instructblip",
        f"rows and labels before {before}",
        "LAVIS' models at 506965b9",
        [(np.array(wrong), np.array(0))],
        tolerance=0,
    )


SMALL = replace(InstructBLIP.tiny(), small_steps=2, batch_size=8, steps=2)


def test_frames_are_read_with_the_question_and_answers_ranked_as_lavis_ranks(tmp_path: Path) -> None:
    data = questions(16, seed=0).remembering()
    recipe = replace(SMALL, pictures=3, ranks_end=False)
    model: Any = diptych.load(diptych.train(recipe, data=data, out=tmp_path / "run", seed=0).path)
    assert (model.pictures, model.ranks_end) == (3, False)
    images, asked = [data[row].image for row in range(3)], "what colour is it ?"
    prompt = (ImagePart(), *(ImagePart(source=image) for image in images[1:]), TextPart(asked))
    with torch.no_grad():
        together, _ = model._pictures([((images[0], *images[1:]), asked)])
        alone = torch.cat([model._pictures([((image,), asked)])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    (found,) = model.answer_nll([images[0]], [prompt], [["red", "a red circle"]])
    pieces = [len(model.vocabulary.pieces(model.space + text)) for text in ("red", "a red circle")]
    assert found[:, 1].tolist() == pieces
    model.ranks_end = True
    (ended,) = model.answer_nll([images[0]], [prompt], [["red", "a red circle"]])
    assert ended[:, 1].tolist() == [count + 1 for count in pieces]
    assert (ended[:, 0] > found[:, 0]).all()


def test_the_published_settings() -> None:
    made = InstructBLIP.paper()
    assert (made.crop, made.flip, made.space, made.prompt_length, made.answer_length) == ((0.5, 1.0), True, "", 128, 256)
    assert (made.rows_a_mean, made.batch_size, made.start_behind, made.ranks_end) == (8, 128, True, False)
    assert (made.awake, made.end_starts, made.language_act) == (("language",), True, "gelu")
    assert (len(made.asks), len(made.asks_back), len(made.requests)) == (10, 6, 13)


def drawn(made: InstructBLIP, sample: Sample, times: int = 600) -> set[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return {made._draw_request(Draw(sample, rng)) for _ in range(times)}


def test_questions_and_captions_are_asked_for_in_every_published_wording() -> None:
    """Thirteen wordings for captions, ten for questions, six for a question by its answer."""
    made = InstructBLIP.paper()
    asked = Sample("a", extras={"questions": [{"question": "what is it ?", "answer": "a dog"}]})
    wanted = {(one.replace("{question}", "what is it ?"), "a dog") for one in ASKS}
    turned = {(one.replace("{answer}", "a dog"), "what is it ?") for one in ASKS_BACK}
    assert drawn(made, asked) == wanted | turned
    assert ('What is the answer to the following question? "what is it ?"', "a dog") in wanted
    rng = np.random.default_rng(1)
    back = sum(made._draw_request(Draw(asked, rng))[1] == "what is it ?" for _ in range(400))
    assert 160 < back < 240
    shown = Sample("b", texts=(Text("a dog on a sofa"),))
    assert drawn(made, shown) == {(one, "a dog on a sofa") for one in REQUESTS}
    whole = Sample("c", extras={"questions": [{"question": "Tell a story.", "answer": "Once.", "kind": "instruction"}]})
    assert drawn(made, whole) == {("Tell a story.", "Once.")}
    assert (made.needs, SMALL.needs) == (("image",), ("image", "questions"))
    assert drawn(SMALL, asked) == {("what is it ?", "a dog")}
    with pytest.raises(DataError, match="no question"):
        drawn(SMALL, shown, 1)


def test_the_former_reads_the_whole_request() -> None:
    data = questions(16, seed=0).remembering()
    made = replace(SMALL, asks=("Q: {question} A:",), asked_length=64).prepare(data)
    (step,) = batches(data, made, seed=0, stop=1)
    batch: Any = step.batch
    read = [
        made.qformer_tokenizer().inner.decode(row[mask].tolist())
        for row, mask in zip(batch.question_BL, batch.question_mask_BL, strict=True)
    ]
    assert all(text.strip().lower().startswith("q: ") and text.strip().lower().endswith(" a:") for text in read)


def test_the_end_mark_is_the_start_mark_of_a_decoder_as_lavis_has_it(monkeypatch: Any, tmp_path: Path) -> None:
    """`blip2_vicuna_instruct` names </s> the start mark, too; an encoder-decoder has none."""
    ours, theirs = marked("<sot> $A")
    theirs.bos_token = "<eot>"
    words = LanguageVocabulary(ours, start_behind=True, end_starts=True)
    assert list(words.start_ids) == [theirs.bos_token_id] == [ours.eot_id]
    closing, _ = marked("$A <eot>")
    assert LanguageVocabulary(closing, end_starts=True, closes=True).start_ids == ()
    recipe = replace(SMALL, start=True, end_starts=True, start_behind=True)
    data = questions(16, seed=0).remembering()
    model: Any = diptych.load(diptych.train(recipe, data=data, out=tmp_path / "run", seed=0).path)
    assert model.vocabulary.start_ids == (model.vocabulary.end_id,)


def test_a_t5_gets_the_exact_gelu_and_keeps_it(tmp_path: Path) -> None:
    """`blip2_t5_instruct` sets it, where FLAN-T5 has its approximation."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    settings = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    theirs = transformers.T5ForConditionalGeneration(settings).eval()
    theirs.save_pretrained(tmp_path / "t5")
    Tokenizer.train(TEXTS * 3, 300).save(tmp_path / "t5")
    given = {"inputs_embeds": torch.randn(1, 5, 16), "decoder_input_ids": torch.tensor([[0, 3, 4]])}
    own = LanguageModel.from_folder(tmp_path / "t5").eval().inner(**given).logits
    torch.testing.assert_close(own, theirs(**given).logits)
    for block in (*theirs.encoder.block, *theirs.decoder.block):
        block.layer[-1].DenseReluDense.act = torch.nn.GELU()
    exact = theirs(**given).logits
    found = LanguageModel.from_folder(tmp_path / "t5", act="gelu").eval().inner(**given).logits
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-6)
    assert (own - exact).abs().max() > 2e-5
    recipe = replace(SMALL, language_model=f"hf:{tmp_path / 't5'}", language_act="gelu")
    data = questions(16, seed=0).remembering()
    model: Any = diptych.load(diptych.train(recipe, data=data, out=tmp_path / "run", seed=0).path)
    torch.testing.assert_close(model.bridge.language.eval().inner(**given).logits, exact, rtol=0, atol=2e-6)


VISION = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}


@pytest.mark.parametrize("kind", ["first stage of BLIP-2", "InstructBLIP"])
def test_a_former_that_reads_questions_begins_as_blip2_or_instructblip(kind: str, tmp_path: Path, parity: Any) -> None:
    """What transformers' own Q-Former makes of the same features and words, its weights out of the folder."""
    torch.manual_seed(0)
    first = kind.startswith("first")
    llama = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 60}
    former = {**FORMER, "encoder_hidden_size": 64, **({"use_qformer_text_input": True} if first else {})}
    names: Any = transformers.Blip2Config if first else transformers.InstructBlipConfig
    config = names(vision_config=VISION, qformer_config=former, text_config={"model_type": "llama", **llama}, num_query_tokens=4)
    made: Any = transformers.Blip2ForImageTextRetrieval if first else transformers.InstructBlipForConditionalGeneration
    theirs = made(config).eval()
    with torch.no_grad():
        theirs.query_tokens.normal_()
        theirs.vision_model.post_layernorm.weight.normal_()
    theirs.save_pretrained(tmp_path)
    ours = QueryConnector(64, 32, queries=4, former=FORMER, reads_text=True).eval()
    take_former_(ours, tmp_path)
    feature, words = torch.randn(2, 5, 64), torch.randint(0, 60, (2, 3))
    seen = torch.nn.functional.layer_norm(feature, (64,), theirs.vision_model.post_layernorm.weight, eps=1e-5)
    queries = theirs.query_tokens.expand(2, -1, -1)
    with torch.no_grad():
        if first:
            embedded = theirs.embeddings(input_ids=words, query_embeds=queries)
            read = {"query_embeds": embedded, "query_length": 4}
        else:
            read = {"input_ids": words, "query_embeds": queries}
        wanted = theirs.qformer(**read, attention_mask=torch.ones(2, 7), encoder_hidden_states=seen).last_hidden_state[:, :4]
        parity(
            "instructblip",
            f"tokens of a picture, weights of {kind}",
            "transformers",
            [(ours(feature, words), ours.map(wanted))],
            tolerance=1e-5,
        )
    with pytest.raises(DataError, match="of a Q-Former"):
        take_former_(QueryConnector(64, 32, queries=4, former={**FORMER, "num_hidden_layers": 3}, reads_text=True), tmp_path)


def test_what_was_trained_before_is_where_a_run_begins(tmp_path: Path) -> None:
    data = questions(16, seed=0).remembering()
    before: Any = diptych.load(diptych.train(replace(SMALL, lr=0.01), data=data, out=tmp_path / "run", seed=0).path)
    bridge = replace(SMALL, former_weights=str(tmp_path / "run")).prepare(data).model()
    for part in ("encoder", "connector"):
        for name, tensor in getattr(before.bridge, part).state_dict().items():
            assert torch.equal(tensor, getattr(bridge, part).state_dict()[name]) != name.startswith("map."), name


@pytest.mark.parametrize("recipe", [replace(InstructBLIP.tiny(), former_vocabulary=50), MBLIP.tiny()])
def test_where_queries_look_and_how_wide_weights_are_drawn_is_the_recipes(recipe: Any) -> None:
    for made, layers, spread in (
        (replace(recipe, former=replace(recipe.former, former_every=2, former_init=0.02)), [0], 0.02),
        (recipe, [0, 1], 0.07),
    ):
        spec = {key: value for key, value in made.connector_spec().items() if key != "kind"}
        connector = QueryConnector(24, 16, **spec)
        blocks = connector.former.encoder.layer
        assert [place for place, block in enumerate(blocks) if hasattr(block, "crossattention")] == layers
        assert blocks[0].attention.attention.query.weight.std().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("recipe", [InstructBLIP, MBLIP])
def test_published_q_formers_look_in_every_second_layer(recipe: Any) -> None:
    former = recipe.paper().connector_spec()["former"]
    assert (former["cross_attention_frequency"], former["initializer_range"]) == (2, 0.02)


@pytest.mark.parametrize("recipe", [InstructBLIP, MBLIP])
@pytest.mark.parametrize("change", [{"former_every": 0}, {"former_init": 0.0}])
def test_queries_that_never_look_and_weights_of_zero_are_refused(recipe: Any, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        with_changes(recipe.tiny(), change)
