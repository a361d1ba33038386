"""KEEP: its loss and its captions are the released ones, concepts above and below are no negatives, and its phases hand over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from few_words import FEW_WORDS, WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from torch import Tensor, nn

from diptych.api import evaluate, load
from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.decode import encode_png
from diptych.data.media.native_crop import native_crop
from diptych.data.ontologies.files import save_ontology
from diptych.data.read import read
from diptych.data.text.prompts.prompt_bank import PATHOLOGY
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.texts.knowledge_texts import KnowledgeTexts
from diptych.recipes._shared.texts.ontologies import attributes
from diptych.recipes.domains.keep import KEEP, ConceptBatch
from diptych.tasks.domains.slide_detection import SlideDetection
from diptych.train.fit import fit
from diptych.train.optimise import freeze, learning_rate
from diptych.train.options import TrainOptions
from diptych.worlds.tissue.tree import tissue_ontology
from diptych.worlds.tissue.world import tissue

RELEASED = json.loads((Path(__file__).parents[2] / "parity" / "released" / "keep_released.json").read_text())
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "width": 64, "text_length": 12, "pieces": 300, "batch_size": 8, "members": 2,
    "knowledge_batch": 8, "steps": 8, "knowledge_share": 0.25, "frozen": 0.5, "warmup": 2.0, "image_head": True,
}  # fmt: skip


def small(**changes: Any) -> KEEP:
    return replace(KEEP.tiny(), **{**SMALL, **changes})


def made(recipe: KEEP, data: Any) -> tuple[Any, ConceptBatch]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = replace(KEEP.paper(), steps=400_000, knowledge_share=0.8)
    assert paper.warmup == 0.1, "the first of its ten epochs, as its training script has it"
    with torch.device("meta"):
        model = paper.model()
        vision = timm.create_model("vit_large_patch16_224", init_values=1e-5, num_classes=0)
        text = transformers.BertModel(transformers.BertConfig(vocab_size=49_408))
        head = nn.Sequential(nn.Linear(1024, 768), nn.GELU(), nn.Linear(768, 768))
    ours = sum(p.numel() for p in model.parameters())
    assert ours == sum(p.numel() for part in (vision, text, head) for p in part.parameters()) + 1
    released = 303_350_784 + 1_377_792 + 109_482_240 + 1
    assert ours == released + (49_408 - 30_522) * 768, "BERT's vocabulary has 30,522 pieces"
    assert (paper.batch_size, paper.members, paper.lr, paper.weight_decay, paper.epochs) == (128, 4, 1e-5, 0.2, 10)
    assert (paper.optimiser().betas, paper.optimiser().eps) == ((0.9, 0.98), 1e-6)
    first = paper.knowledge_texts().optimiser()
    assert (first.lr, first.betas, first.eps, first.weight_decay) == (3e-5, (0.9, 0.999), 1e-8, 0.2), (
        "of KEP's bert_training/params.py"
    )
    tiny = KEEP.tiny().knowledge_texts().optimiser()
    assert (tiny.betas, tiny.eps) == ((0.9, 0.98), 1e-6)
    assert [(stage.name, stage.recipe.batch_size) for stage in paper.stages()] == [
        ("knowledge", 256),
        ("heads", 128),
        ("pairs", 128),
    ]


def test_features_are_those_of_the_released_model(parity: Any) -> None:
    """Its two towers are timm's ViT and transformers' BERT with their own layers behind them; here smaller ones of the same classes."""
    recipe = KEEP(
        image_tower="timm:vit_tiny_patch16_224", layer_scale=1e-5, text_tower="bert_tiny", width=128, text_length=16, tokenizer="clip"
    )  # fmt: skip
    torch.manual_seed(0)
    model = recipe.model().eval()
    vision = timm.create_model("vit_tiny_patch16_224", init_values=1e-5, num_classes=0).eval()
    vision.load_state_dict(model.image_tower.inner.net.state_dict())
    words = transformers.BertModel(transformers.AutoConfig.for_model(**model.text_tower.config)).eval()
    words.load_state_dict(model.text_tower.net.state_dict())
    image_BCHW, text_BL = torch.randn(3, 3, 224, 224), torch.randint(1, 40_000, (3, 9))
    mask_BL = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    with torch.no_grad():
        found = model(image_BCHW, text_BL, mask_BL)
        first, _, second = model.image_tower.head
        seen = second(nn.functional.gelu(first(vision(image_BCHW))))
        read = words(input_ids=text_BL, attention_mask=mask_BL.long()).pooler_output
    pairs = [
        (ours, theirs / theirs.norm(dim=1, keepdim=True)) for ours, theirs in ((found.image_ND, seen), (found.text_ND, read))
    ]
    parity("keep", "features of images and texts", "timm's ViT and transformers' BertModel, heads by hand", pairs, tolerance=1e-5)
    assert float(found.scale) == pytest.approx(25)


def test_the_loss_of_a_batch_with_related_concepts_is_the_released_one(parity: Any) -> None:
    tree, labels, members = tissue_ontology(), RELEASED["labels"], RELEASED["members"]
    recipe = replace(KEEP.tiny(), knowledge_share=0.0).prepare(tissue(8))
    recipe = replace(recipe, ontology=small().prepare(tissue(8)).ontology)
    place = {key: number for number, key in enumerate(tree)}
    concept_B = torch.tensor([place.get(label, -1) for label in labels for _ in range(members)])
    image, text = (
        torch.tensor(RELEASED[name], dtype=torch.float64).view(len(concept_B), -1).requires_grad_() for name in ("image", "text")
    )
    scale = torch.tensor([25.0], dtype=torch.float64, requires_grad=True)
    group_B = torch.arange(len(labels)).repeat_interleave(members)
    empty = torch.zeros(len(concept_B), 1)
    batch = ConceptBatch(empty, empty, empty, group_B, concept_B=concept_B, template_B=torch.full_like(concept_B, -1))
    loss = recipe.losses(PairFeatures(image, text, scale), batch)["metric"]
    loss.backward()
    found = [(loss, RELEASED["loss"]), (scale.grad, [RELEASED["scale_grad"]])]
    found += [(x.grad.flatten(), RELEASED[name]) for x, name in ((image, "image_grad"), (text, "text_grad"))]
    parity("keep", "loss and every gradient of a batch with a tree", "HyMetricLoss of KEEP (a346a70)", found, tolerance=1e-8)
    apart = replace(recipe, related="negative").losses(PairFeatures(image, text, scale), batch)["metric"]
    assert apart > loss, "pairs of related concepts are negatives again"


def test_chains_of_names_are_the_released_ones(parity: Any) -> None:
    rng = np.random.default_rng(0)
    tree = tissue_ontology()
    found = []
    for name, concept, stop in (("chains", "TIS:12", ("TIS:0",)), ("whole", "TIS:2", ())):
        ours = {tuple(tree.chain(concept, rng, synonyms=True, stop=stop)) for _ in range(500)}
        theirs = {tuple(chain) for chain in RELEASED[name]}
        found.append((len(ours ^ theirs), 0))
    captions = replace(small().prepare(tissue(8)), stop=("TIS:0",)).captions
    found.append((len({captions("TIS:12", rng).text for _ in range(6000)}), RELEASED["captions"]))
    parity("keep", "every chain and caption of a concept", "data_proc_group.py of KEEP (a346a70)", found, tolerance=0)


def draw_of(sample: Sample, seed: int) -> Draw:
    return Draw(sample, keyed_rng(seed))


def test_half_of_the_texts_of_a_concept_are_written_by_the_ontology() -> None:
    recipe = small().prepare(tissue(8))
    caption = "one two three four five six seven eight nine ten"
    named = Sample("a", None, (Text(caption, "en"),), extras={"concept": ["TIS:12", "TIS:21"]})
    texts = [recipe.written_text(draw_of(named, seed), "en")[0] for seed in range(600)]
    written = [text.string for text in texts if text.origin == "synthetic"]
    assert abs(len(written) / 600 - 0.5) < 0.06
    gland = sum("mucin" in text for text in written)
    assert abs(gland / len(written) - 0.5) < 0.1, "either concept is as likely"
    kept = [text.string.split() for text in texts if text.origin != "synthetic"]
    assert abs(np.mean([len(words) == 10 for words in kept]) - 0.5) < 0.1
    assert all(set(words) <= set(caption.split()) for words in kept)
    unknown = Sample("b", None, (Text(caption, "en"),))
    assert recipe.labels(unknown) == ("unknown",)
    assert all(recipe.written_text(draw_of(unknown, seed), "en")[0].origin == "caption" for seed in range(50))
    never = replace(recipe, written=0.0, dropping=0.0)
    assert never.written_text(draw_of(named, 1), "en")[0].string == caption


def test_a_batch_holds_whole_groups_of_one_concept() -> None:
    data = tissue(64)
    recipe = small(batch_size=16, members=4).prepare(data)
    keys = list(recipe.tree)
    for step in batches(data, recipe, seed=0, stop=3, order=recipe.row_order(data)):
        group, concept = step.batch.group_B.view(4, 4), step.batch.concept_B.view(4, 4)
        assert (group == group[:, :1]).all()
        assert (concept == concept[:, :1]).all()
    concepts = {data.world.concept("train", row) for row in range(64)}  # type: ignore[attr-defined]
    assert {keys[number] for number in concept.flatten().tolist() if number >= 0} <= concepts
    two = Sample("a", None, (), group="g", extras={"concept": ["TIS:1", "TIS:2"]})
    drawn = [{recipe.group_label(replace(two, uid=str(n)), step) for n in range(5)} for step in range(40)]
    assert all(len(labels) == 1 for labels in drawn)
    assert len({*map(tuple, drawn)}) == 2


def test_a_native_crop_is_not_resized_and_lies_where_torchvision_could_put_it() -> None:
    pixels = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    seen = set()
    for seed in range(200):
        crop = native_crop(pixels, 4, np.random.default_rng(seed))
        y, x = np.argwhere((pixels == crop[0, 0]).all(2))[0]
        assert np.array_equal(crop, pixels[y : y + 4, x : x + 4])
        seen.add((int(y), int(x)))
    assert len(seen) == 3 * 6
    wide = native_crop(pixels, 8, np.random.default_rng(0))
    assert wide.shape == (8, 8, 3)
    assert (wide.any((1, 2))).sum() == 6


def test_the_first_phase_learns_the_ontology_and_hands_its_text_side_over(tmp_path: Path) -> None:
    data = tissue(24)
    recipe = small(frozen=0.0, steps=20, knowledge_share=0.95).prepare(data)
    texts = [sample.texts[0].string for sample in attributes(recipe.tree)]
    assert "mucinoma" in texts
    assert "tumour glandular tumour mucinoma" in texts
    run = fit(recipe, data, tmp_path / "run", OPTIONS)
    assert run.state["status"] == "finished"
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["knowledge"] for line in logged if "knowledge" in line]
    assert len(losses) == 19
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:2])
    knowledge = recipe.knowledge_texts()
    assert isinstance(knowledge, KnowledgeTexts)
    said = Pool.from_samples(attributes(recipe.tree))
    order = knowledge.row_order(said)(0, 0, len(said))[: len(said) // knowledge.members * knowledge.members]
    assert all(any(said[row].extras["main"] for row in block) for block in order.reshape(-1, knowledge.members).tolist())
    carry = recipe.stages()[1].carry
    assert carry is not None
    before, after = knowledge.model(), recipe.model()
    carry(before, after)
    theirs = after.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in before.state_dict().items())
    with pytest.raises(ConfigError, match="cannot be deployed"):
        knowledge.deploy(before)


def test_towers_stay_still_at_first_and_one_schedule_runs_over_both_phases() -> None:
    recipe = small(knowledge_share=0.0).prepare(tissue(24))
    heads, pairs = (stage.recipe for stage in recipe.stages())
    assert [(s.name, s.share, s.keep_optimiser) for s in recipe.stages()] == [("heads", 0.5, False), ("pairs", 0.5, True)]
    model = recipe.model()
    freeze(model, heads.optimiser())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"log_scale", *(f"image_tower.head.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias"))}
    whole = recipe.optimiser()
    rates = [learning_rate(heads.optimiser(), n, 4) for n in range(4)] + [
        learning_rate(pairs.optimiser(), n, 4) for n in range(4)
    ]
    assert rates == pytest.approx([learning_rate(whole, n, 8) for n in range(8)])


def test_a_stop_changes_nothing(tmp_path: Path) -> None:
    data = tissue(24)
    recipe = small().prepare(data)
    (tmp_path / "a").mkdir()
    for step in (1, 4):
        folder = tmp_path / str(step)
        folder.mkdir()
        stopped = stopped_and_resumed(recipe, data, folder, OPTIONS, step=step)
        whole = fit(recipe, data, folder / "whole", OPTIONS)
        assert (stopped.path / "model" / "model.safetensors").read_bytes() == (
            whole.path / "model" / "model.safetensors"
        ).read_bytes()


def test_a_batch_says_which_template_wrote_each_text_and_training_can_leave_some_out() -> None:
    data = tissue(64)
    used = set[int]()
    for wordings in ("all", "training"):
        recipe = small(written=1.0, wordings=wordings, batch_size=64).prepare(data)
        steps = [step.batch for step in batches(data, recipe, seed=0, stop=6)]
        again = [step.batch for step in batches(data, recipe, seed=0, stop=6)]
        assert all(torch.equal(one.template_B, other.template_B) for one, other in zip(steps, again, strict=True))
        for batch in steps:
            for text, number in zip(batch.strings or (), batch.template_B.tolist(), strict=True):
                if number >= 0:
                    front, back = PATHOLOGY.templates[number].split("{}")
                    assert text.startswith(front)
                    assert text.endswith(back)
        used = {number for batch in steps for number in batch.template_B.tolist() if number >= 0}
        if wordings == "all":
            assert len(used) > 18
            assert len({number for batch in steps[:1] for number in batch.template_B.tolist()}) > 3
    held = PATHOLOGY.part("held_out")
    assert not {PATHOLOGY.ids[number] for number in used} & {*held.ids}
    assert set(SlideDetection(templates="pathology/held_out").sentences()) == {*held.templates}
    with pytest.raises(ConfigError, match=r"pathology \| pathology/held_out"):
        SlideDetection(templates="histology")


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    recipe = small(**FEW_WORDS).prepare(tissue(24))
    torch.manual_seed(1)
    chance = torch.Generator().manual_seed(3)
    group_B = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3])  # group 0 lies on both processes
    batch = ConceptBatch(
        torch.randn(8, 3, 48, 48, generator=chance, dtype=torch.float64),
        torch.randint(3, WORDS, (8, 12), generator=chance),
        torch.arange(12) < torch.tensor([12, 3, 5, 9, 2, 7, 12, 4])[:, None],
        group_B,
        concept_B=torch.tensor([1, 1, 2, 2, -1, -1, 1, 0]),
        template_B=torch.full((8,), -1),
    )
    group_B[7] = 3
    return updated(recipe, recipe.model().double(), [batch], rank, world)


def test_chunks_and_processes_change_nothing(tmp_path: Path) -> None:
    data = tissue(24)
    recipe = small().prepare(data)
    model, batch = made(recipe, data)
    whole, chunked = (
        gradients(recipe, model.double(), replace(batch, image_BCHW=batch.image_BCHW.double()), micro_batch=n) for n in (0, 3)
    )
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, atol=1e-12, rtol=1e-9)
    alone = stepped(0, 1)
    for found in on_two_processes(stepped, tmp_path):
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, alone[name], atol=1e-10, rtol=1e-8)


def test_what_is_deployed_comes_back_and_is_evaluated(tmp_path: Path) -> None:
    data = tissue(24)
    for number, changes in enumerate(({}, {"text_head": True}, {"image_head": False, "width": 32})):
        recipe = small(**changes).prepare(data)
        model, _ = made(recipe, data)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        deployed = recipe.deploy(model.eval())
        deployed.save(tmp_path / str(number))
        again = load(tmp_path / str(number))
        texts = ["tissue of mucinoma", "normal tissue"]
        np.testing.assert_allclose(again.embed_texts(texts), deployed.embed_texts(texts), atol=1e-6)
        images = [data[0].image, data[9].image]
        np.testing.assert_allclose(again.embed_images(images), deployed.embed_images(images), atol=1e-6)
    result = evaluate(again, "zero_shot", data=tissue(17, split="test"))
    assert 0 <= result.value <= 1


def test_ontologies_come_from_files_and_bad_ones_cost_a_line(tmp_path: Path) -> None:
    save_ontology(tissue_ontology(), tmp_path / "tree.json")
    data = tissue(24)
    recipe = small(knowledge=str(tmp_path / "tree.json"), knowledge_share=0.0).prepare(data)
    named = {data[row].extras["concept"] for row in range(24)} - {"normal", "unknown"}
    assert named <= set(recipe.tree)
    assert set(recipe.tree) == set(tissue_ontology().closed(named)), "only what the data name, and what lies above"
    with pytest.raises(ConfigError, match="world:tissue"):
        small(knowledge="").prepare(data)
    with pytest.raises(DataError, match="no such file"):
        small(knowledge=str(tmp_path / "none.obo")).prepare(data)
    with pytest.raises(ConfigError, match="whole groups"):
        small(members=3)
    with pytest.raises(ConfigError, match="no step is left"):
        small(knowledge_share=1.0)
    counted = small(steps=0, epochs=3.0, knowledge_epochs=2.0).prepare(data)
    first = -(-2 * len([*attributes(tissue_ontology())]) // 8)
    assert counted.steps == first + -(-3 * 6 * 2 // 8), "six groups of two, three times"
    assert counted.stages()[0].share * counted.steps == pytest.approx(first)


def test_published_groups_are_read_and_trained_on(tmp_path: Path) -> None:
    """The form of KEEP's released example, with the tree of the rendered tissue."""
    data = tissue(12, members=3)
    groups: dict[str, Any] = {}
    for row in range(12):
        sample = data[row]
        name = f"{sample.uid}.png"
        (tmp_path / name).write_bytes(encode_png(sample.image.pixels_HWC))  # type: ignore[union-attr]
        found = groups.setdefault(
            sample.group, {"images": [], "merged_caption": [t.string for t in sample.texts], "anatomy": "colon"}
        )
        found["images"].append(name)
        found["labels"] = {sample.extras["concept"]: {"disease_type": "tumor"}, "TIS:0": {}}
    groups["broken"] = {"images": "one.jpg", "captions": ["a"]}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    pool = read(tmp_path / "groups.json")
    assert len(pool) == 12
    assert [bad.reason for bad in pool.quarantine] == ["its images are a str and not a list of strings"]
    recipe = small(members=2, knowledge_share=0.0).prepare(pool)
    assert recipe.labels(pool[0]) == (data[0].extras["concept"], "TIS:0")
    assert {*pool.groups} == {*data.groups}
    assert [text.string for text in pool[5].texts] == [text.string for text in data[5].texts]
    (step,) = batches(pool, recipe, seed=0, stop=1, order=recipe.row_order(pool))
    assert (step.batch.group_B.view(4, 2)[:, 0] == step.batch.group_B.view(4, 2)[:, 1]).all()


def test_the_hidden_layer_of_texts_starts_and_stays_as_released() -> None:
    """knowledge_bert.py: weights of deviation width^-1/2; freeze_scheduler.py holds it with the tower where the first phase taught it."""
    data = tissue(24)
    for share in (0.25, 0.0):
        recipe = replace(small(text_head=True, image_head=True, knowledge_share=share).prepare(data), towers_still=True)
        torch.manual_seed(0)
        model = recipe.model()
        width = recipe.width
        for layer in (model.text_tower.head[0], model.text_tower.head[2]):
            assert abs(float(layer.weight.detach().std()) * width**0.5 - 1) < 0.05
        assert abs(float(model.image_tower.head[2].weight.detach().std()) / 0.01 - 1) < 0.05
        freeze(model, recipe.optimiser())
        trained = {name.split(".head.")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert trained == ({"image_tower", "log_scale"} if share else {"image_tower", "text_tower", "log_scale"})
