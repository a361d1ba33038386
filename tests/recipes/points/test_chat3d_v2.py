"""Chat-3D v2: identifiers in the published orders, attribute and relation tokens of the release, splicing, stages, unknown identifiers."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.points.room_chat_prompts import ChatPrompt, nearest_places
from diptych.data.points.room_language import room_descriptions, room_objects
from diptych.data.points.room_things import read_things
from diptych.data.text.object_identifiers import IdentifierAssignment, identifier, identifier_numbers
from diptych.data.text.prompts.layout import ImageSlots, TextPiece, lay_out
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.points.object_tokens import ObjectTokens, ObjectTokenSettings
from diptych.recipes.points.chat3d_v2 import Chat3Dv2
from diptych.tasks.evaluate import evaluate
from diptych.tasks.rooms.room_grounding import RoomGrounding
from diptych.train.optimise import rule_of
from diptych.worlds.rooms.world import rooms

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "chat3d_released.json").read_text())
DATA = rooms(12, points=2048, frames=1, size=16)
RECIPE = replace(Chat3Dv2.tiny(), batch_size=4, small_steps=4).prepare(DATA)
NAMES = {
    "coord_proj.0": "size",
    "color_proj.0": "colour",
    "pos_proj.0": "centre",
    "object_proj": "project",
    "relation_module.layers.0.self_attn.w_qs": "relate.query",
    "relation_module.layers.0.self_attn.w_ks": "relate.key",
    "relation_module.layers.0.self_attn.w_vs": "relate.value",
    "relation_module.layers.0.self_attn.fc": "relate.out",
    "relation_module.layers.0.norm1": "relate.norm",
}
"""Of the release and ours; what its forward pass does not read is not here."""


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    value = np.abs(value) + 1 if name.endswith("weight") and len(shape) == 1 else value
    return torch.from_numpy(np.asarray(value))


def released_tokens() -> tuple[ObjectTokens, list[torch.Tensor]]:
    """The module with the released weights, and its input."""
    tokens = ObjectTokens(ObjectTokenSettings(feature_width=12, attribute_width=5), 16).double().eval()
    own, done = tokens.state_dict(), set()
    for name, shape in RELEASED["names"]:
        if match := next((theirs for theirs in NAMES if name.startswith(f"{theirs}.")), ""):
            ours = name.replace(match, NAMES[match])
            own[ours].copy_(filled(name, tuple(shape)))
            done.add(ours)
    assert done == own.keys()
    weight = filled("gmm_w", (2, 4, 3, 1)).abs()
    colour = (weight / weight.sum(2, keepdim=True) * filled("gmm_mu", (2, 4, 3, 3)).abs()).sum(2)
    open_BM = torch.tensor([[True] * 4, [True, True, True, False]])
    return tokens, [filled("feat", (2, 4, 12)), filled("locs", (2, 4, 6)).abs() * 10, colour, open_BM]


def test_attribute_and_relation_tokens_are_the_released_ones(parity: Any) -> None:
    tokens, given = released_tokens()
    token_BMCD = tokens(*given)
    expected = [torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("attribute", "relation")]
    pairs = [(token_BMCD[:, :, number], theirs) for number, theirs in enumerate(expected)]
    parity("chat3d_v2", "attribute and relation tokens", "released code, Chat-3D-v2, branch v2.0", pairs, tolerance=1e-9)
    torch.testing.assert_close(token_BMCD.norm(dim=-1), torch.tensor([200.0, 50.0]).double().expand(2, 4, 2))


def test_chat_scenes_second_token_is_of_the_image() -> None:
    """Chat-Scene's `encode_object_feat` and `get_object_list_embed` by hand: unit features, two layers each, the image's token last."""
    torch.manual_seed(0)
    tokens = ObjectTokens(ObjectTokenSettings("projection", relation=False, feature_width=6, image_width=4), 8).double()
    feature_BMF, rest = torch.randn(2, 3, 10).double(), (torch.zeros(2, 3, 6), torch.zeros(2, 3, 3), torch.ones(2, 3).bool())
    token_BMCD = tokens(feature_BMF, *rest)
    assert token_BMCD.shape == (2, 3, tokens.settings.count, 8)
    for at, (net, part) in enumerate(((tokens.project, feature_BMF[1, 2, :6]), (tokens.project_image, feature_BMF[1, 2, 6:]))):
        hidden = torch.nn.functional.gelu(net[0].weight @ (part / part.norm()) + net[0].bias)
        torch.testing.assert_close(token_BMCD[1, 2, at], net[2].weight @ hidden + net[2].bias)


def test_a_room_with_image_features_is_read_and_deployed(tmp_path: Path) -> None:
    def given(sample: Any, width: int) -> Any:
        count = len(sample.extras["objects"])
        own = {"object_features": np.ones((count, 6)), "object_image_features": np.ones((count, width))}
        return replace(sample, extras={**sample.extras, **own})

    settings = ObjectTokenSettings("projection", relation=False, feature_width=6, image_width=4)
    recipe = replace(RECIPE, points=False, tokens=settings)
    assert recipe.load(given(DATA[0], 4), np.random.default_rng(0))["feature"].shape == (10, 10)
    with pytest.raises(DataError, match="5 features of a thing"):
        recipe.load(given(DATA[0], 5), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="an image token goes with given features"):
        replace(recipe, points=True)
    with pytest.raises(ConfigError, match="an image token with projection"):
        ObjectTokenSettings(image_width=4)
    model = recipe.deploy(recipe.model().eval())
    model.save(tmp_path / "model")
    sample = given(DATA[0], 4)
    assert load(tmp_path / "model").chat(sample, ["Describe <OBJ001>."]) == model.chat(sample, ["Describe <OBJ001>."])


def test_relation_tokens_leave_attributes_alone() -> None:
    tokens, given = released_tokens()
    tokens(*given)[:, :, 1].sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in (*tokens.project.parameters(), *tokens.size.parameters()))
    assert tokens.relate.query.weight.grad is not None
    plain = ObjectTokens(ObjectTokenSettings(kind="projection", relation=False, feature_width=12), 16).double()
    torch.testing.assert_close(plain(given[0] * 3, *given[1:]), plain(*given))  # features of norm 1


def renamed(text: str, assignment: IdentifierAssignment) -> str:
    """Ids of the data to identifiers."""
    for number in identifier_numbers(text, "tokens"):
        text = text.replace(identifier(number, "tokens"), f"@{assignment.number_of[number]:03}@")
    return "".join(part if k % 2 == 0 else f"<OBJ{part}>" for k, part in enumerate(text.split("@")))


def test_identifiers_in_both_published_orders() -> None:
    """What the releases' own functions made of [3, 0, 4, 1, 2] and one sentence."""
    text, assigned = "<OBJ000> beside <OBJ004> and <OBJ003>", [3, 0, 4, 1, 2]

    class Fixed:
        def permutation(self, count: int) -> Any:
            return np.array(assigned)

    shuffled = IdentifierAssignment.draw(5, "shuffled", Fixed())  # type: ignore[arg-type]
    ascending = IdentifierAssignment.draw(5, "ascending", Fixed())  # type: ignore[arg-type]
    assert renamed(text, shuffled) == "<OBJ003> beside <OBJ002> and <OBJ001>"
    assert renamed(text, ascending) == "<OBJ001> beside <OBJ002> and <OBJ000>"
    assert [ascending.number_of[place] for place in ascending.sequence] == [0, 1, 2, 3, 4]
    for order in ("plain", "shuffled", "ascending"):
        drawn = IdentifierAssignment.draw(7, order, np.random.default_rng(0))  # type: ignore[arg-type]
        for form in ("tokens", "words"):
            said = " ".join(identifier(drawn.number_of[place], form) for place in (4, 0, 6))  # type: ignore[arg-type]
            assert drawn.read(said, form) == ([4, 0, 6], [])  # type: ignore[arg-type]
    assert drawn.read("<OBJ099> or <OBJ002>", "tokens")[1] == [99]
    with pytest.raises(DataError, match="not a bijection"):
        IdentifierAssignment((0, 0), (0, 1))


def test_spliced_words_are_words(parity: Any) -> None:
    """With embeddings of words in the slots a row gives the logits of those words."""
    torch.manual_seed(0)
    model = RECIPE.model().double().eval()
    words = RECIPE.words()
    ids = words.pieces("chair table box lamp")[:4]
    token_1MCD = model.language.embed(torch.tensor(ids)).detach().reshape(1, 2, 2, -1)
    open_1M, sequence_1M = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1, 0]])
    row = [TextPiece("room:"), ImageSlots(2), TextPiece("and"), ImageSlots(2), TextPiece(" red", answer=True)]
    spliced = lay_out([row], words)
    embed_1LD = model.embed(token_1MCD, sequence_1M, open_1M, spliced)
    plain_id_1L = spliced.id_BL.clone()
    plain_id_1L[spliced.slot_BL] = torch.tensor([*ids[2:], *ids[:2]])
    ours, theirs = (model.language.answers(e, spliced)[0] for e in (embed_1LD, model.language.embed(plain_id_1L)))
    parity("chat3d_v2", "logits with words in the slots", "the path of token ids", [(ours, theirs)], tolerance=1e-9)


def test_things_stand_behind_their_identifiers() -> None:
    """In every order the slots behind an identifier hold the thing that it means, and answers name what was meant."""
    for order in ("plain", "shuffled", "ascending"):
        recipe = replace(RECIPE, order=order, tasks=("grounding",))
        torch.manual_seed(0)
        model = recipe.model().eval()
        (step,) = batches(DATA, recipe, seed=2, stop=1)
        batch, words = step.batch, recipe.words()
        token_BMCD = model.things(batch.feature, batch.box_BM6, batch.colour_BM3, batch.open_BM)
        embed_BLD = model.embed(token_BMCD, batch.sequence_BM, batch.open_BM, batch.layout)
        for row in range(4):
            ids = batch.id_BL[row].tolist()
            heard = [words.tokenizer.inner.decode([i], skip_special_tokens=False) for i in ids]
            places = [k for k in range(len(ids)) if heard[k].startswith("<OBJ") and batch.slot_BL[row, min(k + 1, len(ids) - 1)]]
            assert len(places) == int(batch.open_BM[row].sum())
            for number, at in enumerate(places):
                thing = int(batch.sequence_BM[row, number])
                torch.testing.assert_close(embed_BLD[row, at + 1 : at + 3], token_BMCD[row, thing])
    assert step.batch.answer_BL.any(1).all()


class Letters:
    """A vocabulary of letters with start mark 1 and end mark 2."""

    start_ids, start_behind, close_ids, end_id, pad_id = (1,), False, (), 2, 0

    def pieces(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_targets_of_version_two_are_those_of_the_release() -> None:
    """Its rows by a naive reading: start mark, prompt with a space behind, then as targets the start mark, the answer and its sign."""
    prompt = Chat3Dv2.paper().prompt
    row = prompt.pieces(IdentifierAssignment.draw(2, "plain", None), "what?", "a chair", tokens=2, start=Letters.start_ids)
    laid = lay_out([row], Letters())
    before, behind = prompt.system.split("{}")
    listed = [*map(ord, before + "obj00 "), 0, 0, *map(ord, "; obj01 "), 0, 0]
    asked = [1, *listed, *map(ord, f"{behind}\n### Human: what?\n### Assistant: ")]
    target = [1, *map(ord, "a chair\n###")]
    assert laid.id_BL[0].tolist() == asked + target
    assert laid.answer_BL[0].tolist() == [False] * len(asked) + [True] * len(target)
    open_row = prompt.pieces(IdentifierAssignment.draw(2, "plain", None), "what?", None, tokens=2)
    assert lay_out([open_row], Letters()).id_BL[0].tolist() == asked[:-1], "as the release evaluates: without the space"
    assert prompt.written("a chair\n### Human: and?") == "a chair"
    assert ChatPrompt().written("a chair\n###") == "a chair\n###"


def test_an_unknown_identifier_is_a_failure() -> None:
    model = RECIPE.deploy(RECIPE.model().eval())
    said = {"familiar": "<OBJ001>", "strange": "<OBJ077>", "words": "the red one"}

    def answers(things: Any, assignment: Any, requests: Any) -> list[str]:
        return [next(text for key, text in said.items() if key in request) for request in requests]

    model._answers = answers  # type: ignore[method-assign]
    known, unknown, none = model.ground_room(DATA[0], list(said))
    assert known.box_N6.tolist() == [read_things(DATA[0], model.reading, "cloud").box_M6[1].tolist()]
    assert len(unknown.box_N6) == len(none.box_N6) == 0
    assert model.unknown == 1
    model._answers = lambda things, assignment, requests: ["<OBJ077>"] * len(requests)  # type: ignore[method-assign]
    assert evaluate(RoomGrounding(draws=5), model, DATA.select([0, 1])).value == 0


def test_stages_train_their_parts() -> None:
    stages = RECIPE.stages()
    assert [(stage.name, stage.recipe.stage) for stage in stages] == [(n, n) for n in ("objects", "scenes", "instructions")]  # type: ignore[attr-defined]
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    torch.manual_seed(0)
    model, first = RECIPE.model(), stages[0].recipe
    (step,) = batches(DATA, first, seed=0, stop=1)  # type: ignore[type-var]
    features = model.eval()(
        step.batch.feature,
        step.batch.box_BM6,
        step.batch.colour_BM3,
        step.batch.open_BM,
        caption_BMCL=step.batch.caption_BMCL,
        caption_mask_BMCL=step.batch.caption_mask_BMCL,
    )
    (loss,) = first.losses(features, step.batch).values()
    said = room_descriptions(DATA[0])
    own = model.tokens.attributes(model.point_encoder(step.batch.feature), step.batch.box_BM6, step.batch.colour_BM3)
    total, count = 0.0, 0
    for row in range(4):
        for place in range(int(step.batch.open_BM[row].sum())):
            means = [
                model.language.embed(ids[mask]).mean(0)
                for ids, mask in zip(step.batch.caption_BMCL[row, place], step.batch.caption_mask_BMCL[row, place], strict=True)
                if mask.any()
            ]
            total += 1 - torch.cosine_similarity(own[row, place], torch.stack(means).mean(0), dim=0).item()
            count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    assert said
    frozen = replace(RECIPE, trained="tokens", prompt=ChatPrompt(), order="plain")
    still = frozen.model()
    (step,) = batches(DATA, frozen, seed=0, stop=1)
    sum(frozen.losses(frozen.features(still, step.batch), step.batch).values()).backward()  # type: ignore[union-attr]
    assert {name.split(".")[0] for name, p in still.named_parameters() if p.grad is None} == {"language"}


def test_a_token_is_aligned_with_all_captions_where_that_is_asked() -> None:
    """`forward_stage1` of branch v2.0 takes the mean over every caption of a thing, however many there are."""
    sample, (thing, *_) = DATA[0], room_objects(DATA[0])
    spoken = [{"object_id": thing.id, "description": f"a thing , number {number} of all"} for number in range(7)]
    pool = Pool.from_samples([replace(sample, extras={**sample.extras, "descriptions": spoken})], name="one")
    model, found = RECIPE.model(), {}
    for captions in (4, 0):
        first = replace(RECIPE, stage="objects", batch_size=1, captions=captions)
        (step,) = batches(pool, first, seed=0, stop=1)
        found[captions] = model.caption_means(step.batch.caption_BMCL, step.batch.caption_mask_BMCL)[0][0, 0]
    texts = [room_descriptions(pool[0])[number].text for number in range(7)]
    means = [model.language.embed(torch.tensor(RECIPE.words().pieces(text))).mean(0) for text in texts]
    torch.testing.assert_close(found[0], torch.stack(means).mean(0))
    torch.testing.assert_close(found[4], torch.stack(means[:4]).mean(0))
    assert (Chat3Dv2.paper().captions, Chat3Dv2.paper().relation_decay) == (0, True)


def test_answers_by_centres_mean_the_nearest_thing() -> None:
    box_M6 = np.array([[0, 0, 0, 1, 1, 1], [2, 1, 0.5, 1, 1, 1]], float)
    assert nearest_places("19 11 4; 1 0 0", box_M6) == [1, 0]
    assert nearest_places("none", box_M6) == []
    recipe = replace(RECIPE, prompt=ChatPrompt(form="tokens", named_by="centres"), tasks=("grounding",))
    (step,) = batches(DATA, recipe, seed=0, stop=1)
    text = recipe.words().decode(step.batch.id_BL[0][step.batch.answer_BL[0]].tolist())
    assert len(text.split()) == 3


def test_deployed_models_are_the_same_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RECIPE.deploy(RECIPE.model().eval())
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    asked = ["how many chairs are in the room?", "Describe <OBJ001>."]
    assert model.chat(DATA[1], asked) == again.chat(DATA[1], asked)
    assert again.tokenizer.inner.token_to_id("<OBJ009>") == model.tokenizer.inner.token_to_id("<OBJ009>") is not None
    assert len(model.describe_room(DATA[1]).texts) == len(DATA[1].extras["objects"])


def test_rates_are_those_of_the_release() -> None:
    """`scripts/config.py` and `utils/optimizer.py` of branch v2.0 and of Chat-Scene: the relation layer alone has a rate of its own."""
    made = replace(Chat3Dv2.paper(), object_share=0.0)
    spec = made.optimiser()
    assert (spec.lr, spec.eps, spec.final_lr, spec.floor, spec.clip_norm) == (5e-3, 1e-8, 0.01, "cut", 0)
    assert spec.warmup == pytest.approx(0.2 / 3)
    scales = {name: rule_of(name, spec.rules) for name in ("tokens.relate.query.weight", "tokens.centre.weight")}
    assert scales["tokens.relate.query.weight"].lr_scale * spec.lr == pytest.approx(1e-5)  # type: ignore[union-attr]
    assert scales["tokens.centre.weight"] is None
    decays = [rule_of(f"tokens.relate.{name}", spec.rules).decay for name in ("norm.weight", "query.bias")]  # type: ignore[union-attr]
    assert decays == [True, True], "`add_different_lr` gives all of a module its weight decay, norms and biases too"
    assert rule_of("tokens.relate.norm.weight", RECIPE.optimiser().rules).decay is None  # type: ignore[union-attr]
    first = replace(made, stage="objects").optimiser()
    assert [rule_of(name, first.rules).lr_scale for name in scales] == [0, 0]  # type: ignore[union-attr]
    scene = Chat3Dv2.chat_scene()
    assert (scene.tokens.count, scene.tokens.image_width) == (2, 1024)  # add_img_token, img_input_dim
    assert (scene.clip_norm, scene.beams, scene.repetition_penalty, scene.max_tokens) == (0.01, 5, 3.0, 64)
    row = scene.prompt.pieces(IdentifierAssignment((0,), (0,)), "Where?", "here", tokens=1)
    text = "".join(piece.text if isinstance(piece, TextPiece) else "@" for piece in row)
    assert text.endswith("an indoor scene. Object information: [<OBJ000>@]. USER: Where? ASSISTANT: here")


def test_answers_are_searched_for_as_is_asked(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[dict[str, Any]] = []

    def write(self: Any, embed_BLD: Any, layout: Any, vocabulary: Any, **options: Any) -> list[str]:
        asked.append(options)
        return ["a chair"] * len(layout)

    monkeypatch.setattr(LanguageModel, "write", write)
    model = replace(RECIPE, beams=3, repetition_penalty=2.5).deploy(RECIPE.model().eval())
    assert model.chat(DATA[1], ["Describe <OBJ001>."]) == ["a chair"]
    model.save(tmp_path / "model")
    load(tmp_path / "model").chat(DATA[1], ["Describe <OBJ001>."])
    assert asked == [{"max_tokens": 24, "num_beams": 3, "repetition_penalty": 2.5}] * 2


def test_paper_and_what_is_refused() -> None:
    paper = Chat3Dv2.paper()
    assert (paper.tokens.token_norm, paper.tokens.relation_norm, paper.tokens.feature_width) == (200, 50, 1024)
    with torch.device("meta"):
        tokens = ObjectTokens(paper.tokens, 4096)
    assert sum(p.numel() for p in tokens.project.parameters()) == 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 4096 + 4096
    with pytest.raises(DataError, match="0 features of a thing"):
        replace(RECIPE, points=False).load(DATA[0], np.random.default_rng(0))
    with pytest.raises(ConfigError, match="new to a frozen language model"):
        replace(RECIPE, trained="tokens")
    with pytest.raises(ConfigError, match=r"one \{\} in each"):
        ChatPrompt(system="no list")
