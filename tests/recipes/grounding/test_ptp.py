"""PTP: the prompt says the block of the picture as it is shown; BLIP under it is BLIP; a stop and a second process change nothing."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import on_two_processes, stopped_and_resumed

from diptych.api import load
from diptych.core.contracts import Draw, Embedder, Generator, PairScorer, Ranker
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.prompts.position_prompts import block_of
from diptych.models.blip.text import BlipText
from diptych.models.pairs.matching.matcher import MatcherOutput
from diptych.objectives.pairs.momentum_targets import momentum_contrast
from diptych.recipes._shared.fused_pairs import matching
from diptych.recipes.grounding.ptp import PTP
from diptych.train.fit import fit
from diptych.train.optimise import learning_rate
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import small_pairs

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "ptp" / "ptp_losses.npz"
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "image_size": 48, "width": 16, "text_width": 32, "text_layers": 1, "pieces": 320, "batch_size": 8,
    "queue": 20, "steps": 4, "warmup": 0.0,
}  # fmt: skip


def small(**changes: Any) -> PTP:
    return replace(PTP.tiny(), **{**SMALL, **changes})


def rows(count: int = 24) -> Pool:
    return small_pairs(count, regions=True).to_pool()


def test_two_captions_stand_side_by_side_or_run_into_each_other() -> None:
    """The released loader of COCO joins the last one and another without a blank."""
    sample = replace(rows(1)[0], texts=tuple(Text(text, "en") for text in ("a mat", "a dog.", "one cat")), regions=())
    image_HWC = np.zeros((48, 48, 3), np.uint8)
    found = {}
    for form in ("two", "glued"):
        draws = [Draw(sample, keyed_rng(seed), image_HWC) for seed in range(20)]
        found[form] = {small(captions=form).view_with_prompt(draw)[1] for draw in draws}
    assert found == {"two": {"one cat a mat", "one cat a dog"}, "glued": {"one cata mat", "one cata dog"}}
    with pytest.raises(ConfigError, match="captions is 'three'"):
        small(captions="three")


def made(recipe: PTP, data: Pool) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    """BERT-base with cross-attention and the writer's own self-attention, as transformers' BLIP counts them; DeiT-B/16."""
    import transformers

    with torch.device("meta"):
        blip = PTP.paper().model().blip
        vision = transformers.BlipVisionModel(transformers.BlipVisionConfig(image_size=224))
        settings = transformers.BlipTextConfig(vocab_size=49_408 + 2, num_attention_heads=12)
        reader = transformers.BlipTextModel(settings, add_pooling_layer=False)
        writer = transformers.models.blip.modeling_blip_text.BlipTextLMHeadModel(settings)
    count = sum(p.numel() for p in vision.parameters()) + sum(p.numel() for p in reader.parameters())
    own = [p.numel() for name, p in writer.bert.named_parameters() if ".attention." in name]
    head = [p.numel() for name, p in writer.cls.named_parameters() if "decoder" not in name]
    assert sum(p.numel() for p in blip.parameters()) == count + sum(own) + sum(head) + 2 * (768 + 1) * 256 + (768 + 1) * 2
    paper = PTP.paper()
    assert (paper.resize, paper.interpolation, paper.queue_start) == ("squash", "bilinear", "random")
    assert (paper.queue, paper.alpha, paper.momentum, paper.batch_size, paper.lr) == (57_600, 0.4, 0.995, 600, 3e-4)
    rates = [learning_rate(paper.optimiser(), epoch * 4000 + step, 80_000) for epoch in range(20) for step in (0, 3999)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[1:5] == pytest.approx([3e-4, 2.7e-4, 2.7e-4, 2.43e-4])
    assert rates[-1] == pytest.approx(3e-4 * 0.9**19)


def adopted(text: BlipText, reader: Any, writer: Any) -> None:
    """Weights of transformers' BLIP; the writer's shared layers are the reader's."""
    theirs = dict(reader.named_parameters())
    tensors: dict[str, Any] = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "position_LD": theirs["embeddings.position_embeddings.weight"],
        "norm.weight": theirs["embeddings.LayerNorm.weight"],
        "norm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    parts = {"query": "self.query", "key": "self.key", "value": "self.value", "out": "output.dense", "norm": "output.LayerNorm"}
    for layer in range(len(text.blocks)):
        for kind in ("weight", "bias"):
            for mine, (source, name) in {
                "reading": (theirs, "attention"),
                "cross": (theirs, "crossattention"),
                "writing": ({k.removeprefix("bert."): v for k, v in writer.named_parameters()}, "attention"),
            }.items():
                for ours, theirs_name in parts.items():
                    tensors[f"blocks.{layer}.{mine}.{ours}.{kind}"] = source[f"encoder.layer.{layer}.{name}.{theirs_name}.{kind}"]
            tensors[f"blocks.{layer}.mlp_in.{kind}"] = theirs[f"encoder.layer.{layer}.intermediate.dense.{kind}"]
            tensors[f"blocks.{layer}.mlp_out.{kind}"] = theirs[f"encoder.layer.{layer}.output.dense.{kind}"]
            tensors[f"blocks.{layer}.norm.{kind}"] = theirs[f"encoder.layer.{layer}.output.LayerNorm.{kind}"]
    head = writer.cls.predictions
    tensors |= {"head.weight": head.transform.dense.weight, "head.bias": head.transform.dense.bias, "bias_V": head.decoder.bias}
    tensors |= {"head_norm.weight": head.transform.LayerNorm.weight, "head_norm.bias": head.transform.LayerNorm.bias}
    text.load_state_dict(tensors)


def test_the_text_transformer_is_blips(parity: Any) -> None:
    """Reading alone, reading with a picture, and writing; what reading and writing share is one set of weights."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.BlipTextConfig(
        vocab_size=42, hidden_size=32, encoder_hidden_size=24, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    reader = transformers.BlipTextModel(settings, add_pooling_layer=False).double().eval()
    writer = transformers.models.blip.modeling_blip_text.BlipTextLMHeadModel(settings).double().eval()
    for name, parameter in writer.bert.named_parameters():
        if ".attention." not in name:
            parameter.data.copy_(reader.get_parameter(name).data)
    writer.cls.predictions.decoder.weight = writer.bert.embeddings.word_embeddings.weight
    text = BlipText(vocab_size=40, image_width=24, length=16, width=32, layers=2, heads=4, dropout=0.0).double().eval()
    adopted(text, reader, writer)
    ids_BL = torch.tensor([[1, 5, 6, 2, 0], [1, 7, 8, 9, 2]])
    mask_BL = ids_BL.ne(0)
    image_BPD = torch.randn(2, 3, 24, dtype=torch.float64)
    marked, begun = ids_BL.clone(), ids_BL.clone()
    marked[:, 0], begun[:, 0] = 41, 40
    with torch.no_grad():
        alone = reader(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        beside = reader(input_ids=marked, attention_mask=mask_BL.long(), encoder_hidden_states=image_BPD).last_hidden_state
        logit = writer(input_ids=begun, attention_mask=mask_BL.long(), encoder_hidden_states=image_BPD, is_decoder=True).logits
        pairs = [
            (text.read(ids_BL, mask_BL)[mask_BL], alone[mask_BL]),
            (text.read(ids_BL, mask_BL, image_BPD)[mask_BL], beside[mask_BL]),
            (text.write(ids_BL, mask_BL, image_BPD)[mask_BL], logit[mask_BL]),
        ]
    parity("ptp", "text read alone, read with a picture, and written", "transformers' BLIP", pairs, tolerance=1e-9)


def test_contrast_and_matching_are_the_released_ones(parity: Any) -> None:
    t = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    pairs = []
    for alpha in (0.0, 0.3):
        weight, temperature = (
            t["weight"].clone().requires_grad_(),
            torch.full((1,), 0.07, dtype=torch.float64, requires_grad=True),
        )
        image = F.normalize(F.linear(t["image_cls"], weight, t["bias"]), dim=-1)
        shared: dict[str, Any] = {"temperature": temperature, "alpha": alpha}
        loss = (
            momentum_contrast(image, t["image_m"], t["text_m"], t["text_queue"], **shared)
            + momentum_contrast(t["text"], t["text_m"], t["image_m"], t["image_queue"], **shared)
        ) / 2
        grad = torch.autograd.grad(loss, [temperature, weight])
        pairs += [
            (loss, t[f"ita_{alpha}"]), (grad[0][0], t[f"temp_grad_{alpha}"]), (grad[1], t[f"weight_grad_{alpha}"])
        ]  # fmt: skip
    parity(
        "ptp", "contrast with momentum targets and its gradients", "sail-sg/ptp 298b60a, blip_pretrain.py", pairs, tolerance=1e-9
    )
    there, empty = torch.ones(2, dtype=torch.bool), torch.zeros(2, 0)
    found = MatcherOutput(empty, empty, empty, t["own"], t["wrong_text"], t["wrong_image"], there)
    parity("ptp", "matching", "sail-sg/ptp 298b60a, blip_pretrain.py", [(matching(found), t["itm"])], tolerance=1e-6)


def test_momentum_contrast_equals_a_loop_with_groups(parity: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    anchor, teacher, key, queue = (
        F.normalize(torch.randn(n, 4, generator=rng, dtype=torch.float64), dim=-1) for n in (5, 5, 5, 3)
    )
    group, group_K = torch.tensor([1, 2, 1, 3, 4]), torch.tensor([2, 9, 4])
    every, groups = torch.cat([key, queue]), torch.cat([group, group_K])
    total = 0.0
    for n in range(5):
        columns = [c for c in range(8) if c == n or groups[c] != group[n]]
        z = torch.stack([anchor[n] @ every[c] / 0.2 for c in columns]).log_softmax(0)
        y = 0.3 * torch.stack([teacher[n] @ every[c] / 0.2 for c in columns]).softmax(0)
        y[columns.index(n)] += 0.7
        total = total - (y * z).sum()
    shared: dict[str, Any] = {"temperature": 0.2, "alpha": 0.3, "group_N": group, "group_K": group_K, "same": "mask"}
    parity(
        "ptp",
        "contrast with groups",
        "a loop",
        [(momentum_contrast(anchor, teacher, key, queue, **shared), total / 5)],
        tolerance=1e-12,
    )


def test_each_side_is_compared_with_what_the_copy_says_of_the_other() -> None:
    """By hand: anchors are the model's, targets and keys the copy's, and either queue holds the other modality."""
    data = rows(16)
    recipe = small(same_group="negative").prepare(data)
    model, batch = made(recipe, data)
    with torch.no_grad():
        for parameter in model.momentum.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.alpha_1.fill_(0.3)
    for seed in (0, 1):
        keys = F.normalize(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)
        model.remember_(keys[0], keys[1], torch.arange(8) + 8 * seed + 100, momentum=1.0)
    f = recipe.features(model, batch)
    total = 0.0
    for anchor, teacher, key, queue in (
        (f.image_ND, f.key_image_ND, f.key_text_ND, model.text_queue.row_QD[:16]),
        (f.text_ND, f.key_text_ND, f.key_image_ND, model.image_queue.row_QD[:16]),
    ):
        every = torch.cat([key, queue])
        target = 0.3 * (teacher @ every.T / f.temperature_1).softmax(1)
        target[torch.arange(8), torch.arange(8)] += 0.7
        total = total - (target * (anchor @ every.T / f.temperature_1).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(recipe.losses(f, batch)["contrastive"], total)


def test_the_prompt_says_the_block_that_is_shown() -> None:
    """Read back from the shown pixels: the thing's colour lies in the block that the text names."""
    from diptych.worlds.small_pairs import COLOURS

    data = rows(60)
    recipe = small(crop=(0.8, 1.0), flip=True, flip_sides="ignore", prompts="moved").prepare(data)
    right = {name: [0, 0] for name in ("moved", "original")}
    for name in right:
        each = replace(recipe, prompts=name)
        for step in batches(data, replace(each, batch_size=12), seed=2, stop=5):
            for image_CHW, text in zip(step.batch.image_BCHW, step.batch.strings or (), strict=True):
                words = text.split(" block ")[1].split()
                block, colour = words[0], words[3]
                pixels = image_CHW * torch.tensor(recipe.std)[:, None, None] + torch.tensor(recipe.mean)[:, None, None]
                near = (pixels * 255 - torch.tensor(COLOURS[colour])[:, None, None]).abs().sum(0) < 60
                if not near.any() or block == "x":
                    continue
                where = near.nonzero().float()
                blocks = {block_of((float(x), float(y), float(x), float(y)), 48, 48) for y, x in where.tolist()}
                right[name][0] += int(block) in blocks
                right[name][1] += 1
    shares = {name: good / total for name, (good, total) in right.items()}
    assert shares["moved"] > 0.97
    assert shares["original"] < 0.8


def test_flips_look_at_left_and_right() -> None:
    """Kept as it is, or with the words exchanged; the block that is named is right either way."""
    from dataclasses import replace as changed

    from diptych.core.contracts import Draw
    from diptych.core.sample import Text
    from diptych.data.media.decode import decode

    sample = rows(4)[0]
    sample = changed(sample, texts=(Text("a thing on the left", "en"),))
    image = decode(sample.image)
    for sides in ("keep", "swap", "ignore"):
        recipe = small(flip=True, flip_sides=sides, crop=(1.0, 1.0), prompts="none")
        shown = [recipe.view_with_prompt(Draw(sample, np.random.default_rng(seed), image)) for seed in range(12)]
        turned = [not np.array_equal(picture, image) for picture, _ in shown]
        assert any(turned) == (sides != "keep")
        assert all(("right" in text) == (sides == "swap" and flipped) for (_, text), flipped in zip(shown, turned, strict=True))


def test_texts_follow_the_sheet() -> None:
    data = rows(8)
    strings = {
        name: next(iter(batches(data, small(prompts=name).prepare(data), seed=1, stop=1))).batch.strings
        for name in ("moved", "original", "none")
    }
    assert all(". the block " in text and " has a " in text for text in strings["moved"])
    assert all(" the block " in text and "." not in text for text in strings["original"])
    assert not any("block" in text for text in strings["none"])
    bare = small_pairs(8).to_pool()
    assert not any("block" in text for text in next(iter(batches(bare, small().prepare(bare), seed=1, stop=1))).batch.strings)
    with pytest.raises(ConfigError, match="prompts is 'late'"):
        PTP(prompts="late")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected a vit_\* image tower and BLIP's text transformer"):
        small(text_tower="text_clip")


def test_the_copy_follows_and_the_queue_holds_no_gradient() -> None:
    data = rows(8)
    recipe = small().prepare(data)
    model, batch = made(recipe, data)
    features = recipe.features(model, batch)
    sum(recipe.losses(features, batch).values()).backward()
    assert all(p.grad is None for p in model.momentum.parameters())
    before = model.momentum["copy"].text.head.weight.clone()
    with torch.no_grad():
        model.blip.text.head.weight.add_(1.0)
    recipe.after_update(model, features, batch, 0.05)
    assert torch.allclose(model.momentum["copy"].text.head.weight, before + 0.005, atol=1e-6)
    assert model.alpha_1.item() == pytest.approx(0.2)
    assert len(model.image_queue) == 8
    assert not model.image_queue.row_QD.requires_grad
    assert torch.equal(model.text_queue.row_QD[:8], features.key_text_ND.detach())


def test_small_models_leave_the_plateau() -> None:
    """At BERT's spread a narrow transformer reads all texts alike; and the temperature learns at a rate of its own."""
    data = rows(8)

    def apart(spread: float) -> float:
        model, batch = made(small(text_spread=spread).prepare(data), data)
        text_ND = model.eval().blip.encode_text(batch.text_BL, batch.text_mask_BL).detach()
        return 1 - float((text_ND @ text_ND.T).mean())

    assert apart(0.1) > 20 * apart(0.02)
    rule = PTP.tiny().optimiser().rules[0]
    names = [name for name, _ in small().prepare(data).model().named_parameters() if re.search(rule.pattern, name)]
    assert (names, rule.lr_scale) == (["temperature_1"], 0.05)
    assert all(rule.lr_scale == 1 for rule in PTP.paper().optimiser().rules)
    assert (PTP.paper().text_spread, PTP.paper().temperature_lr) == (0.02, 1.0)


def test_it_answers_every_capability_and_comes_back(tmp_path: Path) -> None:
    data = rows(8)
    recipe = small().prepare(data)
    model, _ = made(recipe, data)
    deployed = recipe.deploy(model.eval())
    assert isinstance(deployed, Embedder)
    assert isinstance(deployed, PairScorer)
    assert isinstance(deployed, Generator)
    assert isinstance(deployed, Ranker)
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    images, candidates = [data[0].image, data[1].image], [["red circle", "blue cross"], ["white square"]]
    for one, two in zip(
        deployed.answer_nll(images, ["the block 1 has a"] * 2, candidates),
        again.answer_nll(images, ["the block 1 has a"] * 2, candidates), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(one, two, rtol=1e-6)
        assert (one[:, 1] >= 2).all()
    np.testing.assert_allclose(
        deployed.score_pairs(images, ["a red circle"], query="image"),
        again.score_pairs(images, ["a red circle"], query="image"),
        atol=1e-6,
    )
    whole = deployed.answer_nll(images[:1], [""], [["red circle"]])[0]
    ids = deployed._ids("red circle")
    tokens = deployed._image_tokens(images[:1], torch.device("cpu"))
    log = deployed._logits(tokens, ids[:-1]).log_softmax(-1)
    assert whole[0, 0] == pytest.approx(-float(sum(log[place, token].item() for place, token in enumerate(ids[1:]))), rel=1e-5)


def test_a_run_that_was_stopped_ends_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    data = rows(24)
    recipe = small()
    straight = fit(recipe, data, tmp_path / "straight", OPTIONS)
    stopped = stopped_and_resumed(recipe, data, tmp_path, OPTIONS, step=2)
    one, two = (load_file(folder.model / "model.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def _contrast(rank: int, world: int, *, keys: Any = "all", part_of: int = 0) -> Any:
    """part_of  processes whose rows alone are seen by the one that there is"""
    rng = torch.Generator().manual_seed(5)
    anchor, teacher, key, queue = (
        F.normalize(torch.randn(n, 4, generator=rng, dtype=torch.float64), dim=-1) for n in (6, 6, 6, 3)
    )
    group, group_K = torch.tensor([1, 2, 1, 3, 4, 3]), torch.tensor([2, 9, 4])
    parts = part_of or world
    own = slice(rank * 6 // parts, (rank + 1) * 6 // parts)
    part = anchor[own].clone().requires_grad_()
    groups: dict[str, Any] = {"group_N": group[own], "group_K": group_K, "same": "mask", "keys": keys}
    loss = momentum_contrast(part, teacher[own], key[own], queue, temperature=0.2, alpha=0.3, **groups)
    (grad,) = torch.autograd.grad(loss, [part])
    return {"loss": loss.detach(), "grad": grad / world}


@pytest.mark.slow
def test_two_processes_contrast_as_one(tmp_path: Path) -> None:
    whole = _contrast(0, 1)
    parts = on_two_processes(_contrast, tmp_path)
    assert all(torch.allclose(part["loss"], whole["loss"], atol=1e-12) for part in parts)
    assert torch.allclose(torch.cat([part["grad"] for part in parts]), whole["grad"], atol=1e-12)


@pytest.mark.slow
def test_as_released_each_process_contrasts_with_its_own_keys_and_the_queue(tmp_path: Path) -> None:
    alone = [_contrast(rank, 1, part_of=2) for rank in (0, 1)]
    parts = on_two_processes(partial(_contrast, keys="own"), tmp_path)
    mean = (alone[0]["loss"] + alone[1]["loss"]) / 2
    assert all(torch.allclose(part["loss"], mean, atol=1e-12) for part in parts)
    expected = torch.cat([one["grad"] for one in alone]) / 2
    assert torch.allclose(torch.cat([part["grad"] for part in parts]), expected, atol=1e-12)
    assert not torch.allclose(mean, _contrast(0, 1)["loss"], atol=1e-3)


def test_the_guide_trains_by_the_first_loader() -> None:
    """Its transform has no flip, and its text names the block of the stored picture behind captions without a blank between them."""
    guide, paper = PTP.preset("guide"), PTP.paper()
    changed = {f.name for f in fields(PTP) if getattr(guide, f.name) != getattr(paper, f.name)}
    assert changed == {"prompts", "flip", "captions"}
    assert (guide.prompts, guide.flip, guide.captions, guide.crop, guide.words_alone) == (
        "original",
        False,
        "glued",
        (0.2, 1.0),
        30,
    )
