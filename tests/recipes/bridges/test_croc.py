"""Croc: masks, the pool and its use, the head, the three stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.length_order import LengthGroupedOrder
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.attention_masks import attention_mask
from diptych.models.bridges.comprehension import ComprehensionBridge
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.llava_weights import take_llava_, targets
from diptych.models.bridges.token_replacement import Assign, ReconstructionHead, TokenPool, choose_tokens, reconstruction_loss
from diptych.recipes.bridges.croc import Croc
from diptych.train.optimise import build_optimiser
from diptych.worlds.resolve import resolve

DATA = resolve("world:questions?n=24").split("train")
SMALL: dict[str, Any] = {"image_weights": "", "image_tower": "vit_micro", "image_size": 48, "small_steps": 2, "steps": 10}
SMALL |= {"batch_size": 4, "instruct_batch_size": 4, "comprehension_batch_size": 4}


def rows(*, left: bool = False) -> Layout:
    """Two rows: word, two places of an image, word, answer, word, answer; the second is two places shorter."""
    id_BL = torch.arange(16).view(2, 8)
    slot_BL, mask_BL, answer_BL = (torch.zeros(2, 8, dtype=torch.bool) for _ in range(3))
    for row, start in enumerate((0, 2 if left else 0)):
        end = 8 if row == 0 or left else 6
        mask_BL[row, start:end] = True
        slot_BL[row, start + 1 : start + 3] = True
        answer_BL[row, start + 4] = True
        answer_BL[row, end - 1] = True
    return Layout(id_BL, slot_BL, mask_BL, answer_BL)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("open", ["none", "image", "prefix"])
def test_masks_are_those_of_a_loop(open: Any, left: bool, parity: Any) -> None:
    layout = rows(left=left)
    found = attention_mask(layout, open)
    assert found.dtype == torch.bool
    expected = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    for row in range(2):
        first = int(layout.answer_BL[row].nonzero()[0])
        for query in range(8):
            for key in range(8):
                if not (layout.mask_BL[row, query] and layout.mask_BL[row, key]):
                    expected[row, 0, query, key] = query == key and not layout.mask_BL[row, query]
                    continue
                both = bool(layout.slot_BL[row, query] and layout.slot_BL[row, key])
                opened = (open == "image" and both) or (open == "prefix" and key < first)
                expected[row, 0, query, key] = key <= query or opened
    parity("croc", "attention masks", "a loop over places", [(found.float(), expected.float())], tolerance=0)


def test_the_prefix_mask_is_the_released_one_and_transformers_reads_it(parity: Any) -> None:
    """Croc's mask at e758f86, written down again: columns before the first label are open, padding behind is not."""
    layout = rows()
    label_BL = layout.id_BL.masked_fill(~layout.answer_BL, -100)
    closed = torch.triu(torch.ones(8, 8), 1)[None, None].repeat(2, 1, 1, 1)
    closed = closed.masked_fill(closed + layout.mask_BL[:, None, None].float() == 0, 1.0)
    for row in range(2):
        closed[row, :, :, : int((label_BL[row] != -100).nonzero()[0])] = 0
    mask = attention_mask(layout, "prefix")
    real = layout.mask_BL[:, None, :, None].expand_as(mask)
    parity(
        "croc", "prefix mask", "CrocLlamaForCausalLM.forward at e758f86", [(mask.float()[real], (1 - closed)[real])], tolerance=0
    )
    torch.manual_seed(0)
    model = LanguageModel(config={**LLAMA}).eval()
    embed = model.embed(layout.id_BL)
    with torch.no_grad():
        given = {"inputs_embeds": embed, "position_ids": layout.positions()}
        additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        by_bool = model.inner(attention_mask=mask, **given).logits
        torch.testing.assert_close(by_bool[layout.mask_BL], model.inner(attention_mask=additive, **given).logits[layout.mask_BL])
        as_number = model.inner(attention_mask=1 - closed, **given).logits
    assert not torch.allclose(by_bool[layout.mask_BL], as_number[layout.mask_BL], atol=1e-4), "0 and 1 are added to scores"
    with pytest.raises(ConfigError, match="open is 'all'"):
        attention_mask(layout, "all")  # type: ignore[arg-type]


LLAMA = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def test_the_nearest_rule_collapses_and_the_hungarian_does_not() -> None:
    torch.manual_seed(0)
    token = torch.nn.functional.normalize(torch.randn(1, 64, 256), dim=2)
    chosen = choose_tokens(1, 64, 0.75, torch.Generator().manual_seed(0))
    assert chosen.sum() == 48
    used = {}
    rules: tuple[Assign, ...] = ("nearest", "hungarian")
    for assign in rules:
        for unit in (False, True):
            torch.manual_seed(1)
            pool = TokenPool(128, 256, assign=assign, unit=unit)
            shown, index = pool(token, chosen)
            used[assign, unit] = pool.usage(index)
            assert torch.equal(shown[~chosen], token[~chosen])
            torch.testing.assert_close(shown[chosen], pool.rows()[index[chosen]])
    assert float(used["nearest", False].perplexity) < 3
    assert float(used["nearest", True].perplexity) > 20
    for unit in (False, True):
        assert float(used["hungarian", unit].perplexity) == pytest.approx(48, rel=1e-3)
        assert float(used["hungarian", unit].most) == 1


def test_rows_get_the_least_total_distance_and_the_gradient() -> None:
    torch.manual_seed(0)
    pool = TokenPool(3, 2, assign="hungarian")
    with torch.no_grad():
        pool.row_MD.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]))
    token = torch.tensor([[[0.1, 0.0], [0.2, 0.0]]], requires_grad=True)
    chosen = torch.ones(1, 2, dtype=torch.bool)
    shown, index = pool(token, chosen)
    assert index.tolist() == [[0, 1]], "both are nearest to row 0"
    shown.sum().backward()
    assert token.grad is None or not token.grad.any()
    assert pool.row_MD.grad is not None
    assert pool.row_MD.grad.abs().sum(1).tolist() == [2.0, 2.0, 0.0]
    with pytest.raises(ConfigError, match="a pool of 1 rows for 2 replaced tokens"):
        TokenPool(1, 2)(token, chosen)
    assert TokenPool(1, 2, assign="nearest")(token, chosen)[1].tolist() == [[0, 0]]


def test_head_and_loss_are_those_of_the_release(parity: Any) -> None:
    """`CustomTransformer` at e758f86, written down again: positions, a `BertLayer`, a linear map; SmoothL1Loss of beta .01 times 10."""
    torch.manual_seed(0)
    made = ReconstructionHead(64, 9).eval()
    config = BertConfig(hidden_size=64, intermediate_size=256, num_attention_heads=1, attn_implementation="eager")
    layer = BertLayer(config).eval()
    layer.load_state_dict(made.layers[0].state_dict())
    state, target = torch.randn(2, 9, 64), torch.randn(2, 9, 64)
    with torch.no_grad():
        given = layer(state + made.position.weight)
        expected = made.map(given if isinstance(given, torch.Tensor) else given[0])
        found = made(state)
    loss = 10 * torch.nn.SmoothL1Loss(beta=0.01)(target, expected)
    pairs = [(found, expected), (10 * reconstruction_loss(found, target).mean(), loss)]
    parity("croc", "head and reconstruction loss", "CustomTransformer of Croc at e758f86, SmoothL1Loss", pairs, tolerance=2e-6)


def test_the_head_begins_as_the_release_initialises_it() -> None:
    """What Vicuna's folder lacks is initialised by LlamaPreTrainedModel: linear maps and positions of .02, biases 0."""
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "hidden_size": 64}))
    made = ReconstructionHead(64, 40)
    expected = ReconstructionHead(64, 40, std=1.0)
    expected.apply(theirs._init_weights)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value.std(), expected.state_dict()[name].std(), atol=2e-3, rtol=0.0)
        torch.testing.assert_close(value.mean(), expected.state_dict()[name].mean(), atol=1e-3, rtol=0.0)


def test_every_tensor_of_a_released_folder_has_a_place(tmp_path: Path) -> None:
    """Names of `CrocLlamaForCausalLM` at e758f86: pool, head and a cross-attention that is never called stand beside a LLaVA's."""
    torch.manual_seed(0)
    made = replace(Croc.tiny(), **SMALL).prepare(DATA)
    stages = [stage.recipe for stage in made.stages()]
    bridge: Any = stages[1].model()
    width = bridge.language.width
    ours = {name: tensor.clone() for name, tensor in targets(bridge).items() if not name.startswith("encoder.")}
    released = {
        name.replace("pool.row_MD", "model.mask_token")
        .replace("head.position", "transform_block.position_embeddings")
        .replace("head.layers", "transform_block.layers")
        .replace("head.map", "transform_block.resize")
        .replace("connector.linear_1", "model.mm_projector.0")
        .replace("connector.linear_2", "model.mm_projector.2")
        .replace("language.inner.", ""): tensor
        for name, tensor in ours.items()
    }
    for part in ("query", "key", "value", "out"):
        released |= {f"model.cross_attention.{part}.weight": torch.zeros(width, width)}
        released |= {f"model.cross_attention.{part}.bias": torch.zeros(width)}
    torch.save(released, tmp_path / "pytorch_model.bin")
    for stage in stages:
        fresh: Any = stage.fresh_bridge()
        take_llava_(fresh, f"hf:{tmp_path}")
        taken = {name: tensor for name, tensor in targets(fresh).items() if not name.startswith("encoder.")}
        assert all(torch.equal(tensor, ours[name]) for name, tensor in taken.items())
        assert isinstance(fresh, ComprehensionBridge) == ("pool.row_MD" in taken)
    fresh = stages[1].fresh_bridge()
    fresh.connector.unit = False
    with pytest.raises(DataError, match=r"mask_token is of a Croc"):
        take_llava_(fresh, f"hf:{tmp_path}")
    del released["transform_block.resize.bias"]
    torch.save(released, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"tensor head\.map\.bias is missing"):
        take_llava_(stages[1].fresh_bridge(), f"hf:{tmp_path}")


def test_a_step_of_comprehension_is_that_of_a_loop(parity: Any) -> None:
    """Loss of `CrocLlamaForCausalLM.forward` at e758f86 for a batch of one micro batch, row by row without padding."""
    made: Any = (
        replace(Croc.tiny(), **SMALL, unit_pool=False, assign="nearest", reconstruction_beta=0.3).prepare(DATA).stages()[1].recipe
    )
    torch.manual_seed(0)
    bridge: Any = made.model().eval()
    (step,) = batches(DATA, made, seed=0, stop=1)
    batch, chosen_BK = step.batch, step.batch.chosen_BK
    losses = made.losses(made.features(bridge, batch), batch)
    feature = bridge.encoder(batch.image_BCHW).tokens_BPD
    inner = torch.nn.functional.gelu(bridge.connector.linear_1(feature))
    token = torch.nn.functional.normalize(bridge.connector.linear_2(inner), p=2, dim=-1)
    nll, apart = [], []
    for row in range(len(batch)):
        real = batch.mask_BL[row]
        ids, slot, answer = batch.id_BL[row][real], batch.slot_BL[row][real], batch.answer_BL[row][real]
        shown = token[row].clone()
        for place in chosen_BK[row].nonzero()[:, 0].tolist():
            distances = [(token[row, place] - one).pow(2).sum() for one in bridge.pool.row_MD]
            shown[place] = bridge.pool.row_MD[int(torch.stack(distances).argmin())]
        embed = bridge.language.inner.get_input_embeddings()(ids).clone()
        embed[slot] = shown
        length, first = len(ids), int(answer.nonzero()[0])
        closed = torch.triu(torch.ones(length, length), 1)
        closed[:, :first] = 0
        additive = (closed * torch.finfo(torch.float32).min)[None, None]
        state = bridge.language.inner.base_model(inputs_embeds=embed[None], attention_mask=additive).last_hidden_state[0]
        logit = bridge.language.inner.lm_head(state)
        label = ids.masked_fill(~answer, -100)
        nll.append(torch.nn.functional.cross_entropy(logit[:-1], label[1:], reduction="none")[label[1:] != -100])
        apart.append((bridge.head(state[slot][None])[0] - token[row]).abs())
    quadratic = torch.stack([torch.where(one < 0.3, one**2 / 0.6, one - 0.15).mean() for one in apart]).mean()
    pairs = [(losses["answer"], torch.cat(nll).mean()), (losses["reconstruction"], 10 * quadratic)]
    parity("croc", "both losses of a comprehension step", "a loop of the released forward pass", pairs, tolerance=5e-6)


def test_the_released_projector_learns_at_its_own_rate_in_every_stage() -> None:
    """`CrocTrainer.create_optimizer` at e758f86: 1.5e-4 for `mm_projector` where no rate is asked for."""
    made = replace(Croc.released(), image_tower="vit_micro", image_size=48)
    assert (made.assign, made.projector_lr) == ("nearest", 1.5e-4)
    for stage, rate in zip(made.stages(), (1e-3, 2e-5, 2e-5), strict=True):
        module = torch.nn.ModuleDict({"connector": torch.nn.Linear(2, 2), "language": torch.nn.Linear(2, 2)})
        groups = build_optimiser(module, stage.recipe.optimiser()).param_groups
        rates = {id(p): group["lr"] * group["scale"] for group in groups for p in group["params"]}
        for name, parameter in module.named_parameters():
            assert rates[id(parameter)] == pytest.approx(1.5e-4 if name.startswith("connector.") else rate)
    with pytest.raises(ConfigError, match="projector_lr is -1"):
        replace(made, projector_lr=-1.0)


def test_long_captions_and_dialogues_are_grouped_by_length_and_captions_are_not() -> None:
    made = replace(Croc.paper(), language="en")
    first, middle, last = (stage.recipe for stage in made.stages())
    assert first.row_order(DATA) is None
    for recipe, members in ((middle, 4), (last, 8)):
        order = recipe.row_order(DATA)
        assert isinstance(order, LengthGroupedOrder)
        assert (order.members, order.parts) == (members, 128 // members)
    words = len(["Describe", "the", "image", "in", "detail."]) + len(DATA[0].texts[0].string.split()) + 1
    order = middle.row_order(DATA)
    assert isinstance(order, LengthGroupedOrder)
    assert int(order.lengths[0]) == words


def test_three_stages_hand_on_one_language_model(tmp_path: Path) -> None:
    tiny = replace(Croc.tiny(), **SMALL)
    made = tiny.prepare(DATA)
    stages = made.stages()
    assert [(stage.name, round(stage.share, 6)) for stage in stages] == [
        ("captions", 0.2),
        ("comprehension", 0.4),
        ("dialogues", 0.4),
    ]
    torch.manual_seed(0)
    middle = stages[1].recipe
    bridge: Any = middle.model()
    assert isinstance(bridge, ComprehensionBridge)
    trained = {name.partition(".")[0] for name, p in bridge.named_parameters() if p.requires_grad}
    assert trained == {"connector", "language", "pool", "head"}
    (step,) = batches(DATA, middle, seed=0, stop=1)
    assert step.batch.chosen_BK.sum(1).tolist() == [7] * 4, "of nine tokens two stay"
    features = middle.features(bridge, step.batch)
    losses = middle.losses(features, step.batch)
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in bridge.named_parameters() if p.requires_grad and p.grad is None]
    metrics = middle.metrics(features, step.batch)
    assert float(metrics["pool_most"]) == 1
    norms = bridge.picture(step.batch.image_BCHW).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    run = diptych.train(tiny, data=DATA, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    assert not isinstance(model.bridge, ComprehensionBridge)
    assert model.bridge.connector.unit
    assert len(model.generate([DATA[0].image], ["what is it ?"], max_tokens=3)) == 1
    assert isinstance(middle, Croc)
    captions = replace(middle, replaced=0.0)
    (step,) = batches(DATA, captions, seed=0, stop=1)
    assert not step.batch.chosen_BK.any()


def test_nothing_behind_the_first_answer_is_seen_before() -> None:
    """States at an image's places know the question behind them and no answer."""
    made = replace(Croc.tiny(), **SMALL).prepare(DATA).stages()[1].recipe
    torch.manual_seed(0)
    bridge: Any = made.model().eval()
    (step,) = batches(DATA, made, seed=0, stop=1)
    layout = step.batch.layout
    picture = bridge.picture(step.batch.image_BCHW)

    def made_of(layout: Layout) -> torch.Tensor:
        embed, _ = bridge.embed(picture, layout)
        mask = attention_mask(layout, "prefix")
        states = bridge.language.inner.base_model(inputs_embeds=embed, attention_mask=mask, position_ids=layout.positions())
        return states.last_hidden_state[layout.slot_BL]  # type: ignore[no-any-return]

    with torch.no_grad():
        before = made_of(layout)
        answered = replace(layout, id_BL=layout.id_BL.masked_fill(layout.answer_BL, 7))
        asked_BL = layout.mask_BL & ~layout.slot_BL & ~layout.answer_BL
        asked = replace(layout, id_BL=layout.id_BL.masked_fill(asked_BL, 7))
        torch.testing.assert_close(made_of(answered), before)
        assert not torch.allclose(made_of(asked), before, atol=1e-4)


def test_the_published_sizes_and_bad_settings() -> None:
    made = Croc.paper()
    assert (made.pool_rows, made.replaced, made.reconstruction_weight, made.assign, made.open) == (
        2048,
        0.75,
        10.0,
        "hungarian",
        "prefix",
    )
    stages = [stage.recipe for stage in made.stages()]
    assert [(recipe.rows_a_mean, recipe.text_length) for recipe in stages] == [(8, 2048), (4, 8192), (8, 4096)]
    with torch.device("meta"):
        assert sum(p.numel() for p in TokenPool(2048, 4096).parameters()) == 8_388_608
        head = ReconstructionHead(4096, 576)
    assert sum(p.numel() for p in head.parameters()) == 576 * 4096 + 12 * 4096**2 + 13 * 4096 + 4096**2 + 4096
    with pytest.raises(ConfigError, match="pool_rows is 4 for 12 replaced tokens"):
        replace(Croc.tiny(), slots=16, pool_rows=4)
    with pytest.raises(ConfigError, match=r"shares 0\.5 and 0\.6"):
        replace(Croc.tiny(), projector_share=0.5, comprehension_share=0.6)
    middle = replace(Croc.tiny(), comprehends=True, instruct=True)
    with pytest.raises(DataError, match="has no image with a text"):
        middle.load(replace(DATA[0], image=None), np.random.default_rng(0))
