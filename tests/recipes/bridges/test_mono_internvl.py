"""Mono-InternVL: routing, what text forgets, caches with images in later turns, the steps of training, published weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import diptych
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.image import ArrayImage
from diptych.data.dataset import Pool
from diptych.data.load.length_order import LengthGroupedOrder
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.mono_internvl_weights import converted, take_mono_internvl_
from diptych.models.bridges.visual_experts import RoutedFeedForward, expert_parameters
from diptych.models.towers.towers import image_tower
from diptych.recipes.bridges.mono_internvl import MonoInternVL
from diptych.worlds.resolve import resolve

DATA = resolve("world:questions?n=24").split("train")
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL: dict[str, Any] = {"small_steps": 2, "steps": 10, "batch_size": 4, "instruct_batch_size": 4}


def rows(slots: list[list[int]], length: int) -> Layout:
    slot_BL = torch.zeros(len(slots), length, dtype=torch.bool)
    for row, places in enumerate(slots):
        slot_BL[row, places] = True
    whole = torch.ones(len(slots), length, dtype=torch.bool)
    return Layout(torch.randint(3, 40, (len(slots), length)), slot_BL, whole, ~slot_BL & (torch.arange(length) > length - 3))


def model(start: Any = "copy", seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    made = LanguageModel(config=dict(LLAMA)).eval()
    made.add_visual_experts(start=start)
    return made


def read(made: LanguageModel, embed: Tensor, layout: Layout) -> Tensor:
    with torch.no_grad():
        return made.extend(embed, layout)[0]


def test_copies_change_nothing_and_fresh_ones_change_images_alone() -> None:
    torch.manual_seed(0)
    plain = LanguageModel(config=dict(LLAMA)).eval()
    layout = rows([[1, 2], [4, 5]], 8)
    embed = plain.embed(layout.id_BL)
    before = read(plain, embed, layout)
    torch.testing.assert_close(read(model(), embed, layout), before, rtol=0, atol=2e-6)
    fresh = model("fresh")
    after = read(fresh, embed, layout)
    assert torch.equal(after[0, :1], before[0, :1]) or torch.allclose(after[0, 0], before[0, 0], atol=1e-6)
    assert not torch.allclose(after[0, 1], before[0, 1], atol=1e-3)
    words = rows([[], []], 8)
    assert torch.equal(read(fresh, embed, words), before), "texts go the way that they went, bit for bit"


def test_routing_is_the_released_blend(parity: Any) -> None:
    """`InternLM2DecoderLayer` at 5b17ab4 computes both maps for every token and blends them by the mask."""
    made = model("fresh")
    layer = made.inner.model.layers[0].mlp
    assert isinstance(layer, RoutedFeedForward)
    x = torch.randn(2, 6, 32)
    slot = torch.zeros(2, 6, dtype=torch.bool)
    slot[0, 1:4], slot[1, 5] = True, True
    made.router.set(slot)
    with torch.no_grad():
        share = slot[..., None].float()
        blend = layer.words(x) * (1.0 - share) + layer.visual(x) * share
        parity(
            "mono_internvl", "routed feed-forward maps", "InternLM2DecoderLayer at 5b17ab4", [(layer(x), blend)], tolerance=1e-6
        )
        beams = layer(x.repeat_interleave(3, 0))
        torch.testing.assert_close(beams, blend.repeat_interleave(3, 0))
        torch.testing.assert_close(layer(x[:, :1]), layer.words(x[:, :1]))
        with pytest.raises(ShapeError, match="rows of 3 places are read"):
            layer(x[:, :3])
    made.router.set(None)


def test_texts_forget_nothing_and_give_experts_no_gradient() -> None:
    made = model()
    made.requires_grad_(False)
    for parameter in expert_parameters(made.inner):
        parameter.requires_grad_(True)
    text, image = rows([[], []], 8), rows([[1, 2, 3], [0, 1, 2]], 8)
    before = read(made, made.embed(text.id_BL), text)
    optimiser = torch.optim.AdamW(expert_parameters(made.inner), lr=0.01)
    for _ in range(3):
        logit, target, _ = made.answers(made.embed(image.id_BL), image)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logit, target).backward()
        optimiser.step()
    assert torch.equal(read(made, made.embed(text.id_BL), text), before), "the drift of texts is exactly 0"
    assert not torch.allclose(
        read(made, made.embed(image.id_BL), image), read(model(), made.embed(image.id_BL), image), atol=1e-3
    )
    mixed = made.answers(made.embed(text.id_BL), text)[0]
    assert not mixed.requires_grad


def test_an_image_in_the_second_turn_is_seen_by_the_experts_behind_a_cache(parity: Any) -> None:
    made = model("fresh")
    whole = rows([[1, 2, 7, 8, 9], [2, 3, 6, 7, 8]], 12)
    embed = made.embed(whole.id_BL)
    expected = read(made, embed, whole)
    found, cache, start = [], None, 0
    for stop in (5, 11, 12):
        segment = Layout(*(getattr(whole, name)[:, start:stop] for name in ("id_BL", "slot_BL", "mask_BL", "answer_BL")))
        with torch.no_grad():
            logits, cache = made.extend(embed[:, start:stop], segment, cache)
        found.append(logits)
        start = stop
    against = "one forward of all turns, without a cache"
    parity("mono_internvl", "logits with an image in the second turn", against, [(torch.cat(found, 1), expected)], tolerance=1e-5)
    words = replace(whole, slot_BL=whole.slot_BL & (torch.arange(12) < 5))
    assert not torch.allclose(read(made, embed, words), expected, atol=1e-3), (
        "as released, the second image would be read as words"
    )
    with pytest.raises(ShapeError, match="differ in length"):
        made.extend(embed, replace(whole, mask_BL=whole.slot_BL))


def test_instructions_alone_are_grouped_by_tokens() -> None:
    """`LengthGroupedSampler` of the release, 4 rows of 8 GPUs four times over, with images and without in one step."""
    made = replace(MonoInternVL.tiny(), **SMALL, group_by_length=True).prepare(DATA)
    stages = [stage.recipe for stage in made.stages()]
    pool = Pool.from_samples([DATA[0], replace(DATA[1], image=None)], name="mixed")
    assert [recipe.row_order(pool) is None for recipe in stages] == [True, True, True, False]
    order = replace(stages[3], batch_size=128, rows_a_mean=4).row_order(pool)
    assert isinstance(order, LengthGroupedOrder)
    assert (order.members, order.parts) == (4, 32)
    texts = ["\n".join(f"{one['question']}\n{one['answer']}" for one in pool[row].extras["questions"]) for row in range(2)]
    assert order.lengths.tolist() == [len(made.words().pieces(text)) for text in texts]
    assert (MonoInternVL.paper().group_by_length, MonoInternVL.tiny().group_by_length) == (True, False)


def test_each_step_trains_its_parts() -> None:
    tiny = replace(MonoInternVL.tiny(), **SMALL).prepare(DATA)
    expected = {
        "concepts": {"encoder", "connector", "visual"},
        "semantics": {"encoder", "connector", "visual"},
        "alignment": {"encoder", "connector", "visual", "self_attn"},
        "instructions": {"encoder", "connector", "visual", "self_attn", "words", "rest"},
    }
    for stage in tiny.stages():
        bridge = stage.recipe.model()
        trained = set()
        for name, parameter in bridge.named_parameters():
            if parameter.requires_grad:
                part = next((part for part in ("self_attn", "visual", "words") if f".{part}." in name), "rest")
                trained.add(name.partition(".")[0] if not name.startswith("language") else part)
        assert trained == expected[stage.name], stage.name
    assert replace(tiny, full=True).trained == ("encoder", "connector", "language")


def test_a_run_keeps_texts_until_alignment_and_comes_back(tmp_path: Path) -> None:
    tiny = replace(MonoInternVL.tiny(), **SMALL, concept_share=0.5, semantic_share=0.5, alignment_share=0.0)
    run = diptych.train(tiny, data=DATA, out=tmp_path / "run", seed=0)
    made: Any = diptych.load(run.path)
    plain = LanguageModel.from_folder(tiny.prepare(DATA).language_folder).eval()
    words = rows([[], []], 6)
    assert torch.equal(read(made.bridge.language, plain.embed(words.id_BL), words), read(plain, plain.embed(words.id_BL), words))
    state = made.bridge.language.state_dict()
    moved = [
        name
        for name, value in state.items()
        if ".visual." in name and not torch.equal(value, state[name.replace("visual", "words")])
    ]
    assert moved
    assert len(made.generate([DATA[0].image], ["what is it ?"], max_tokens=3)) == 1


def test_large_images_are_tiles_one_after_the_other(tmp_path: Path) -> None:
    made = replace(MonoInternVL.tiny(), **SMALL, most_tiles=4, step="instruction", instruct=True).prepare(DATA)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    rows_ = [replace(DATA[0], image=ArrayImage(pixels, "wide")), replace(DATA[1], image=None), DATA[2]]
    from diptych.data.dataset import Pool

    (step,) = batches(Pool.from_samples(rows_, name="sizes"), replace(made, batch_size=3), seed=0, stop=1)
    batch: Any = step.batch
    assert sorted(batch.there_BM.sum(1).tolist()) == [0, 1, 3], "two tiles and the whole"
    assert torch.equal(batch.slot_BL.sum(1), 16 * batch.there_BM.sum(1))
    bridge = made.model().eval()
    written = made.features(bridge, batch)
    row = int((batch.there_BM.sum(1) == 3).nonzero()[0, 0])
    tiles = torch.cat((batch.image_BCHW[row][None], batch.more_BMCHW[row]))
    alone = bridge(tiles, batch.layout.rows(row, row + 1), count_B=torch.tensor([3]))
    torch.testing.assert_close(written.nll_B[row : row + 1], alone.nll_B, rtol=1e-4, atol=1e-4)
    deployed = made.deploy(bridge)
    _, layout = deployed._read(deployed._asked([ArrayImage(pixels, "wide")], ["what is it ?"]), 4)
    assert int(layout.slot_BL.sum()) == 48


def published(bridge: Bridge) -> dict[str, Tensor]:
    """The bridge's tensors under InternLM2's names, attention packed by a loop."""
    state, made = bridge.state_dict(), {}
    heads, groups = LLAMA["num_attention_heads"], LLAMA["num_key_value_heads"]
    of_layer = {"self_attn.o_proj": "attention.wo", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    of_layer |= {
        f"mlp.{ours}.{a}_proj": f"feed_forward{b}.{c}" for ours, b in (("words", ""), ("visual", "_ve")) for a, c in GATES
    }
    for layer in range(LLAMA["num_hidden_layers"]):
        start, out = f"language.inner.model.layers.{layer}.", f"language_model.model.layers.{layer}."
        query, key, value = (state[f"{start}self_attn.{name}_proj.weight"].split(8) for name in "qkv")
        packed = []
        for group in range(groups):
            packed += [*query[group * heads // groups : (group + 1) * heads // groups], key[group], value[group]]
        made[f"{out}attention.wqkv.weight"] = torch.cat(packed)
        for ours, theirs in of_layer.items():
            made[f"{out}{theirs}.weight"] = state[f"{start}{ours}.weight"]
    names = {"embed_tokens": "tok_embeddings", "norm": "norm"}
    made |= {
        f"language_model.model.{theirs}.weight": state[f"language.inner.model.{ours}.weight"] for ours, theirs in names.items()
    }
    made["language_model.output.weight"] = state["language.inner.lm_head.weight"]
    for kind in ("weight", "bias"):
        made[f"vision_model.embeddings.patch_embedding.{kind}"] = state[f"encoder.convolution.{kind}"]
        for ours, number in (("norm", 0), ("linear_1", 1), ("linear_2", 3)):
            made[f"mlp1.{number}.{kind}"] = state[f"connector.{ours}.{kind}"]
    position = state["encoder.position_PD"]
    made["vision_model.embeddings.position_embedding"] = torch.cat([torch.zeros_like(position[:1]), position])[None]
    made["vision_model.embeddings.class_embedding"] = torch.zeros(1, 1, position.shape[1])
    return {name: value.clone().contiguous() for name, value in made.items()}


GATES = (("gate", "w1"), ("up", "w3"), ("down", "w2"))


def monolith(seed: int) -> Bridge:
    language = model("fresh", seed)
    tower = image_tower("patches", image_size=32, patch=8, width=8)
    return Bridge(tower, connector("shuffled", 8, 32), language, trained=("encoder", "connector", "language")).eval()


def test_published_weights_find_their_places(tmp_path: Path, parity: Any) -> None:
    source, taken = monolith(0), monolith(1)
    tensors = published(source)
    save_file(tensors, tmp_path / "model.safetensors")
    take_mono_internvl_(taken, f"hf:{tmp_path}")
    pairs = [(value, source.state_dict()[name]) for name, value in taken.state_dict().items()]
    parity("mono_internvl", "published names and packed attention", "packing by a loop", pairs, tolerance=0)
    save_file({**tensors, "language_model.model.layers.7.ffn_norm.weight": torch.ones(32)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"layers\.7\.ffn_norm\.weight does not belong"):
        take_mono_internvl_(taken, f"hf:{tmp_path}")
    save_file({name: value for name, value in tensors.items() if "mlp1.3" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"connector\.linear_2\.bias is missing"):
        take_mono_internvl_(taken, f"hf:{tmp_path}")
    with pytest.raises(DataError, match="tensor lm_head is unknown"):
        converted("lm_head", torch.zeros(1), heads=4, groups=2)


def test_every_tensor_of_the_published_sizes_has_a_place() -> None:
    """Mono-InternVL-2B on the meta device: 24 layers of 2,048, experts of 8,192, tiles of 448 pixels."""
    made = MonoInternVL.paper()
    config = transformers.LlamaConfig(
        vocab_size=92553,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        language = LanguageModel(config=config.to_dict())
        text = sum(p.numel() for p in language.parameters())
        language.add_visual_experts()
        bridge = Bridge(made._fresh_encoder(), connector("shuffled", 1024, 2048), language)
    experts = sum(p.numel() for p in expert_parameters(language.inner))
    assert experts == 24 * 3 * 2048 * 8192
    assert round(text / 1e9, 1) == 1.9
    assert round(sum(p.numel() for p in bridge.parameters()) / 1e9, 1) == 3.1
    names = [f"language_model.model.layers.{n}.attention.wqkv.weight" for n in range(24)]
    made_of = {ours for name in names for ours in converted(name, torch.zeros(4096, 1, device="meta"), heads=16, groups=8)}
    assert len(made_of) == 72
    assert made_of <= set(bridge.state_dict())


def test_bad_settings_say_what_would_work() -> None:
    with pytest.raises(ConfigError, match="an even number of patches per side"):
        replace(MonoInternVL.tiny(), image_size=72)
    with pytest.raises(ConfigError, match="of three steps"):
        replace(MonoInternVL.tiny(), concept_share=0.9)
    made = model()
    with pytest.raises(ConfigError, match="visual experts do not fit"):
        made.add_visual_experts()
    tower = image_tower("patches", image_size=32, patch=8, width=8)
    image = torch.randn(1, 3, 64, 64)
    assert tower(image).tokens_BPD.shape == (1, 64, 8)
    assert copy.deepcopy(tower).spec == tower.spec
    with pytest.raises(ConfigError, match="not a square that 2 divides"):
        connector("shuffled", 8, 16).count(9)  # type: ignore[operator]
