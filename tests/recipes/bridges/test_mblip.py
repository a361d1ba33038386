"""mBLIP: one language an image, a Q-Former of another run, adapters on the language model; three languages and the emoji's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.core.media import MediaItem
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.read import read
from diptych.data.text.languages import MC4_SHARES
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.towers.adapters import LoRAConfig, add_adapters, merged
from diptych.recipes._shared.language.multilingual_config import REQUESTS
from diptych.recipes.bridges.mblip import ASKS, ASKS_BACK, MBLIP, inner_maps
from diptych.train.optimise import build_optimiser
from diptych.worlds.scenes.captions import Mention, Statement
from diptych.worlds.scenes.languages import NAMES, REQUEST, TAGS, _words, languages, sentence

DATA = languages(24, seed=0).remembering()
SMALL = replace(MBLIP.tiny(), small_steps=2, small_image_steps=2, batch_size=8, steps=4)


def rows(recipe: MBLIP, data: Any = DATA, count: int = 8) -> Any:
    (step,) = batches(data, replace(recipe, batch_size=count), seed=0, stop=1)
    return step.batch.layout


def test_the_three_languages_say_the_same_in_their_own_order() -> None:
    stated = Statement(Mention("circle", "red"), "left of", Mention("square", "blue"))
    for tag, order in (("qaa", "circle red square blue |"), ("qab", "| blue square red circle")):
        words = {english: made for english, made in _words(tag).items() if english in ("circle", "red", "square", "blue")}
        wanted = [_words(tag)["left of"] if word == "|" else words[word] for word in order.split()]
        assert sentence(stated, tag).split() == wanted
        assert len(set(_words(tag).values())) == len(_words(tag))
    assert sentence(stated, "en") == "a red circle left of a blue square"
    assert [text.language for text in DATA[0].texts] == list(TAGS)


def test_an_image_is_shown_in_one_language_which_the_request_names() -> None:
    made = SMALL.prepare(DATA)
    layout, words = rows(made, count=24), made.words()
    known = {text.string: text.language for row in range(24) for text in DATA[row].texts}
    tags = Counter()
    for ids, slots, mask, answer in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, strict=True):
        tag = known[words.decode(ids[answer].tolist())]
        asked = words.decode(ids[mask & ~slots & ~answer].tolist())
        assert asked == f": {REQUEST.format(language=NAMES[tag])}"
        tags[tag] += 1
    assert set(tags) == set(TAGS)
    one, other = rows(made), rows(replace(made, steps=5))
    assert torch.equal(one.id_BL, other.id_BL)
    drawn = {epoch: rows(made, DATA.select([3])).id_BL for epoch in range(2)}
    assert torch.equal(drawn[0], drawn[1])


def test_languages_come_by_their_weights() -> None:
    made = replace(SMALL, spoken=replace(SMALL.spoken, languages=("en", "qaa"), weights=(3.0, 1.0)))
    many = languages(400, seed=3)
    draw = [type("Draw", (), {"sample": many[row], "rng": np.random.default_rng(0)}) for row in range(400)]
    tags = Counter(made.caption_of_language(one).language for one in draw)  # type: ignore[arg-type]
    assert tags.keys() == {"en", "qaa"}
    assert 0.68 < tags["en"] / 400 < 0.82


def test_names_of_emoji_in_their_languages() -> None:
    """Real names: Thai and Japanese come back as they went in."""
    emoji = read("emoji").select(range(12))
    made = replace(
        SMALL, spoken=replace(SMALL.spoken, languages=("th", "ja", "de"), requests=(), request="Caption in {language}:")
    ).prepare(emoji)
    layout, words = rows(made, emoji), made.words()
    known = {text.string.lower() for row in range(12) for text in emoji[row].texts if text.language in made.spoken.languages}
    for ids, answer in zip(layout.id_BL, layout.answer_BL, strict=True):
        assert words.decode(ids[answer].tolist()) in known
    assert {made.caption_request(tag) for tag in made.spoken.languages} == {
        "Caption in Thai:",
        "Caption in Japanese:",
        "Caption in German:",
    }


def test_adapters_begin_as_nothing_and_are_merged_at_the_end() -> None:
    prepared = SMALL.prepare(DATA)
    warm, whole = (stage.recipe for stage in prepared.stages())
    torch.manual_seed(0)
    first: Any = warm.model()
    torch.manual_seed(0)
    second: Any = whole.model()
    trained = {name for name, p in first.named_parameters() if p.requires_grad}
    assert trained == {"connector.map.weight", "connector.map.bias"}
    layout, image = rows(prepared), torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        picture = second.picture(image)
        assert torch.equal(second.scored(picture, layout).nll_B, first.scored(picture, layout).nll_B)
    trained = {name for name, p in second.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"connector", "language"}
    assert all("lora_" in name for name in trained if name.startswith("language"))
    assert not any("lm_head" in name or name.startswith("connector.norm") for name in trained)
    assert sum("lora_A" in name for name in trained) == 3 * 7  # every matrix of three layers
    for name, p in second.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    with torch.no_grad():
        found, alone = second.scored(picture, layout).nll_B, first.scored(picture, layout).nll_B
        joined = merged(second).scored(picture, layout).nll_B
    assert (found - alone).abs().min() > 1e-3
    torch.testing.assert_close(joined, found, rtol=1e-5, atol=1e-5)
    rule = whole.optimiser().rules[0]
    assert whole.optimiser().lr * rule.lr_scale == pytest.approx(whole.alignment.visual_lr)  # type: ignore[attr-defined]


def test_a_former_of_another_run_is_taken_and_what_was_learned_is_kept(tmp_path: Path) -> None:
    english = replace(
        SMALL,
        steps=2,
        lr=0.01,
        spoken=replace(SMALL.spoken, languages=("en",)),
        adapters=replace(SMALL.adapters, adapter_rank=0),
        alignment=replace(SMALL.alignment, warm_share=0.0, visual_lr=0.01),
    )
    before = diptych.train(english, data=DATA, out=tmp_path / "english", seed=0)
    taught: Any = diptych.load(before.path)
    moved = replace(SMALL, former_weights=str(before.path)).prepare(DATA)
    bridge = moved.model()
    for name, tensor in taught.bridge.connector.state_dict().items():
        same = torch.equal(tensor, bridge.connector.state_dict()[name])
        assert same != name.startswith("map."), name
    run = diptych.train(replace(SMALL, former_weights=str(before.path), lr=0.05), data=DATA, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    model.save(tmp_path / "again")
    again: Any = diptych.load(tmp_path / "again")
    texts = ["a red circle", DATA[0].texts[1].string]
    np.testing.assert_allclose(again.text_nll(texts), model.text_nll(texts), rtol=1e-6)
    language = LanguageModel.from_folder(moved.language_path)
    changed = [not torch.equal(a, b) for a, b in zip(language.parameters(), model.bridge.language.parameters(), strict=True)]
    assert any(changed)
    assert model.request == REQUEST.format(language="English")


def pair_of(row: int, other: int, uid: str) -> Sample:
    """Two pictures with the captions of the first."""
    media = {"images": MediaItem("images", tuple(DATA[place].image for place in (row, other)))}
    return Sample(uid, texts=DATA[row].texts, media=media)


def test_tokens_of_several_pictures_stand_one_after_the_other(tmp_path: Path) -> None:
    """Rows of one picture and of two in one batch; a row costs what it costs alone, and its order of pictures counts."""
    single, pair, turned = DATA[0], pair_of(0, 1, "pair"), pair_of(1, 0, "turned")
    turned = replace(turned, texts=pair.texts)
    mixed = Pool.from_samples([single, pair, turned], name="mixed")
    recipe = replace(SMALL, pictures=2, spoken=replace(SMALL.spoken, languages=("en",))).prepare(DATA)
    torch.manual_seed(0)
    bridge = recipe.model().eval()
    with torch.no_grad():
        for p in bridge.connector.former.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    (step,) = batches(mixed, replace(recipe, batch_size=3), seed=0, stop=1)
    batch = step.batch
    slots_B, tokens = batch.layout.slot_BL.sum(1), recipe.queries
    assert sorted(slots_B.tolist()) == [tokens, 2 * tokens, 2 * tokens]
    first = int((slots_B == tokens).nonzero()[0])
    assert batch.there_BM.sum(1).tolist() == [int(row != first) for row in range(3)]
    with torch.no_grad():
        together = recipe.features(bridge, batch)
        plain = {sample.uid: sample for sample in mixed}
        for row in range(3):
            images = torch.cat([batch.image_BCHW[row : row + 1], batch.more_BMCHW[row, batch.there_BM[row]]])
            word_LD = bridge.language.embed(batch.layout.id_BL[row : row + 1])[0].clone()
            z_KD = torch.cat([bridge.picture(image[None])[0] for image in images])  # each on its own, then in a row
            word_LD[batch.layout.slot_BL[row]] = z_KD
            alone = batch.layout
            one = type(alone)(*(getattr(alone, name)[row : row + 1] for name in ("id_BL", "slot_BL", "mask_BL", "answer_BL")))
            logit_AV, target_A, _ = bridge.language.answers(word_LD[None], one)
            wanted = torch.nn.functional.cross_entropy(logit_AV, target_A, reduction="sum")
            torch.testing.assert_close(together.nll_B[row], wanted, rtol=1e-4, atol=1e-4)
    both = [row for row in range(3) if row != first]
    assert abs(float(together.nll_B[both[0]] - together.nll_B[both[1]])) > 1e-6
    made = recipe.deploy(bridge)
    made.save(tmp_path / "model")
    again: Any = diptych.load(tmp_path / "model")
    asked = (ImagePart(), ImagePart(source=DATA[1].image), TextPart("the same ?"))
    images = [plain["pair"].image, single.image]
    found = again.answer_nll(images, [asked, "the same ?"], [["yes", "no"]] * 2)
    (alone,) = again.answer_nll(images[1:], ["the same ?"], [["yes", "no"]])
    np.testing.assert_allclose(found[1], alone, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-6
    assert (
        again.generate(images, [asked, "the same ?"], max_tokens=4)[1]
        == again.generate(images[1:], ["the same ?"], max_tokens=4)[0]
    )
    with pytest.raises(DataError, match="cannot read 3 pictures"):
        again.generate(images[:1], [(ImagePart(), *[ImagePart(source=single.image)] * 2, TextPart("?"))])
    with pytest.raises(DataError, match="cannot read pictures behind words"):
        again.generate(images[:1], [(ImagePart(), TextPart("?"), ImagePart(source=single.image))])
    with pytest.raises(DataError, match="gets one picture beside a prompt"):
        again.generate(images[:1], [(ImagePart(), ImagePart(1), TextPart("?"))])


def test_a_sample_with_more_pictures_than_rows_have_is_refused() -> None:
    three = {"images": MediaItem("images", tuple(DATA[place].image for place in range(3)))}
    sample = Sample("three", texts=DATA[0].texts, media=three)
    with pytest.raises(DataError, match=r"sample 'three' has 3 pictures .*2 at most, or more --pictures"):
        replace(SMALL, pictures=2, image_size=64).load(sample, np.random.default_rng(0))
    first = replace(SMALL, image_size=64).load(sample, np.random.default_rng(0))
    assert set(first) == {"image"}
    with pytest.raises(ConfigError, match="pictures is 0"):
        replace(SMALL, pictures=0)


def test_the_published_sizes() -> None:
    """Before mT0-XL the projection alone is 1.6 million numbers; then the Q-Former, and adapters of rank 8 on every matrix."""
    made = MBLIP.paper()
    assert (made.image_tower, made.resize) == ("eva_g14", "squash")
    shape = {"d_model": 2048, "d_ff": 5120, "d_kv": 64, "num_heads": 32, "num_layers": 24, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        language = LanguageModel(config={"model_type": "mt5", "vocab_size": 250112, **shape})
        spec = made.connector_spec()
        built = connector(spec.pop("kind"), 1408, 2048, **spec)
        bridge = type("Bridge", (), {"language": language})
        frozen = sum(p.numel() for p in language.parameters())
        add_adapters(language.inner, LoRAConfig(made.adapters.adapter_rank, inner_maps(bridge), made.adapters.adapter_alpha))  # type: ignore[arg-type]
    attention, forward = 72 * 4 * 8 * 4096, 48 * 3 * 8 * (2048 + 5120)
    assert sum(p.numel() for p in language.parameters() if p.requires_grad) == attention + forward == 17_694_720
    assert frozen == 3_742_619_648 - 250_112 * 2048  # transformers counts table and head once
    assert sum(p.numel() for name, p in built.named_parameters() if name.startswith("map.")) == 1_574_912
    assert sum(p.numel() for name, p in built.named_parameters() if not name.startswith(("map.", "norm."))) == 105_162_240


def test_weight_decay_is_where_the_names_of_the_release_put_it() -> None:
    """It spares "bias" and "LayerNorm.weight" by name, of which the Q-Former's first norm, `layernorm`, is none."""
    made = replace(MBLIP.paper(), alignment=replace(MBLIP.paper().alignment, warm_share=0.0))
    spec = made.connector_spec()
    with torch.device("meta"):
        model = torch.nn.ModuleDict({"connector": connector(spec.pop("kind"), 1408, 2048, **spec)})
    model["connector"].norm.requires_grad_(False)
    groups = build_optimiser(model, made.optimiser()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert (id(p) in decayed) == (not any(part in name for part in ("bias", "LayerNorm.weight"))), name
    assert all(group["scale"] == pytest.approx(1e-5 / 2e-4) for group in groups)


def test_requests_of_training_are_the_published_ones() -> None:
    """One of six for a sample, always the same, all of them in use; the language by the name that the release calls it."""
    made = replace(MBLIP(), spoken=replace(MBLIP().spoken, languages=("iw", "bn")))
    asked = {uid: made.caption_request("bn", uid) for uid in map(str, range(60))}
    assert set(asked.values()) == {text.replace("{language}", "Bangla") for text in REQUESTS}
    assert all(made.caption_request("bn", uid) == text for uid, text in asked.items())
    assert made.caption_request("iw") == "Caption in former Hebrew:"
    assert sum(MC4_SHARES[tag] for tag in MC4_SHARES if tag not in ("he", "nb", "tl")) == pytest.approx(100)
    assert len(MBLIP.paper().spoken.languages) == len(MBLIP.paper().spoken.weights) == 99
    assert max(MC4_SHARES, key=lambda tag: MC4_SHARES[tag]) == "en"


def test_a_still_former_drops_out_where_it_does_not_rest() -> None:
    """The release freezes by gradients alone: in the first stage the Q-Former's dropout acts."""
    warm = replace(SMALL, warm=True, former=replace(SMALL.former, former_dropout=0.5))
    spec = warm.connector_spec()
    torch.manual_seed(0)
    made = connector(spec.pop("kind"), 24, 16, **spec).train()
    assert {name for name, p in made.named_parameters() if p.requires_grad} == {"map.weight", "map.bias"}
    feature = torch.randn(2, 5, 24)
    assert not torch.equal(made(feature), made(feature))
    assert torch.equal(made.eval()(feature), made(feature))
    still = connector("queries", 24, 16, **{**spec, "rests": True}).train()
    assert torch.equal(still(feature), still(feature))


def test_bad_settings_say_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 weights for 2 languages"):
        replace(SMALL, spoken=replace(SMALL.spoken, languages=("en", "qaa"), weights=(1.0,)))
    with pytest.raises(DataError, match="has no text in de"):
        rows(replace(SMALL.prepare(DATA), spoken=replace(SMALL.prepare(DATA).spoken, languages=("de",))))
    bare = Pool.from_samples([Sample("bare", texts=DATA[0].texts)], name="bare")
    with pytest.raises(DataError, match="recipe 'mblip' needs 'image', which 'bare' does not have"):
        diptych.train(SMALL, data=bare, out=tmp_path / "run")
    assert isinstance(SMALL.prepare(DATA).model(), Bridge)


def test_questions_are_asked_and_asked_for_in_every_published_wording() -> None:
    """Six wordings for a question of VQAv2, five for one by its answer, in the language that it is answered in; captions beside them."""
    made = MBLIP.paper()
    asked, turned, captions = set(), set(), 0
    for number in range(400):
        question = {"question": "what is it ?", "answer": "ein Hund", "hints": {"language": "de"}}
        sample = Sample(f"s{number}", texts=(Text("ein Hund", "de"),), extras={"questions": [question]})
        draw: Any = type("Draw", (), {"sample": sample, "rng": np.random.default_rng(number)})
        request, answer = made._draw_request(draw)
        if answer == "what is it ?":
            turned.add(request)
        elif "what is it ?" in request:
            asked.add(request)
        else:
            captions += 1
        assert "German" in request
        assert made._draw_request(type("Draw", (), {"sample": sample, "rng": np.random.default_rng(number)})) == (request, answer)  # type: ignore[arg-type]
        assert replace(made, warm=True)._draw_request(draw)[0] in {one.format(language="German") for one in REQUESTS}
    assert asked == {one.format(question="what is it ?", language="German") for one in ASKS}
    assert turned == {one.format(answer="ein Hund", language="German") for one in ASKS_BACK}
    assert 100 < captions < 170


def test_what_says_itself_how_to_answer_is_asked_as_it_stands_and_captions_alone_warm_up() -> None:
    made = MBLIP.paper()
    told = {"question": 'Is "a dog" a good image description?', "answer": "Yes, it is.", "kind": "instruction"}
    sample = Sample("s", extras={"questions": [told]})
    draws: list[Any] = [type("Draw", (), {"sample": sample, "rng": np.random.default_rng(number)}) for number in range(20)]
    assert {made._draw_request(draw) for draw in draws} == {(told["question"], told["answer"])}
    first, second = made.stages()
    assert first.keep is not None
    assert (first.keep(sample), first.keep(replace(sample, texts=(Text("a dog", "en"),)))) == (False, True)
    assert second.keep is None
    assert (SMALL.stages()[0].keep, made.needs, SMALL.needs) == (None, ("image",), ("image", "texts"))


def test_the_small_encoder_sees_pictures_of_the_recipes_size() -> None:
    """Nine patches of 48 pixels, sixteen of 64: another encoder, and the bridge reads pictures as it does."""
    for size, patches in ((48, 9), (64, 16)):
        made = replace(SMALL, small_image_size=size).prepare(DATA)
        assert made.trained_images().preprocess.size == size
        batch = next(iter(batches(DATA, made, seed=0, stop=1))).batch
        assert batch.image_BCHW.shape[-2:] == (size, size)
        assert made.model().encoder(batch.image_BCHW).tokens_BPD.shape[1] == patches
