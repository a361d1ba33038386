"""SimVLG: the merging connector against the released one, rows, what is trained, clips, BERT's weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.merging_connector import MergingConnector, take_released_
from diptych.recipes.bridges.simvlg import SimVLG, take_bert_
from diptych.worlds.clips import clips
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "simvlg_connector.json").read_text(encoding="utf-8"))
"""Output of EVLGen's `BertModel` at 2e8c44d, two layers that merge 3 of 11 tokens each, with the weights and input of `filled`."""
BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}
DATA = scenes(24, seed=0, lengths=("short",), negatives=False)
SMALL: dict[str, Any] = {
    "image_weights": "",
    "image_tower": "vit_micro",
    "image_size": 48,
    "small_steps": 2,
    "batch_size": 4,
    "steps": 2,
}


@torch.no_grad()
def filled(module: nn.Module) -> None:
    """Weights that are the same on every machine."""
    for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
        place = torch.arange(parameter.numel(), dtype=torch.float64)
        wave = (place * (0.37 + 0.011 * number) + number).sin().mul(0.4).view(parameter.shape)
        parameter.copy_(wave + (1.0 if "LayerNorm.weight" in name else 0.0))


def test_the_connector_gives_what_the_released_one_gives(parity: Any) -> None:
    made: Any = connector("merging", 8, 8, merged=3, bert=BERT, norm=0.0).eval()
    filled(made.bert)
    with torch.no_grad():
        for layer in (made.inward, made.map):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
        feature = (torch.arange(2 * 11 * 8, dtype=torch.float64) * 0.731).sin().view(2, 11, 8).float()
        found = made.reduce(feature)
    against = "BertModel of EVLGen at 2e8c44d, the same weights"
    parity(
        "simvlg",
        "connector with two merging layers",
        against,
        [(found.token_BKD, np.array(RELEASED["output_BKE"]))],
        tolerance=2e-6,
    )
    assert made.count(11) == found.token_BKD.shape[1] == 5
    torch.testing.assert_close(found.source_BKP.sum(2), torch.ones(2, 5))
    assert (found.source_BKP > 0).sum(1).eq(1).all(), "every patch is part of one token"
    with pytest.raises(ConfigError, match="13 patches for 12 positions"):
        made.count(13)


def test_the_published_sizes() -> None:
    made = SimVLG.paper()
    with torch.device("meta"):
        spec = made.connector_spec()
        built: Any = connector(spec.pop("kind"), 1408, 2560, **spec)
    assert built.count(257) == 29
    layers = 12 * (4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768)
    assert sum(p.numel() for p in built.parameters()) == (
        2 * 1408 + (1408 + 1) * 768 + (512 + 2 + 2) * 768 + layers + (768 + 1) * 2560
    )
    spec_ = made.optimiser()
    assert (spec_.lr, spec_.warmup, spec_.weight_decay, spec_.betas) == (1e-4, 5000.0, 0.05, (0.9, 0.999))
    assert spec_.warmup_from == pytest.approx(0.01)


def test_rows_are_image_start_mark_caption_and_line_break() -> None:
    made = replace(SimVLG.tiny(), **SMALL, clean=True, caption_end="\n", caption_length=7, start=True, start_behind=True).prepare(
        DATA
    )
    (step,) = batches(DATA, made, seed=0, stop=1)
    layout, words = step.batch.layout, made.words()
    assert layout.slot_BL[:, : made.slots].all()
    assert torch.equal(layout.id_BL[:, made.slots], torch.full((4,), words.start_ids[0]))
    assert not layout.answer_BL[:, made.slots].any()
    assert layout.answer_BL.sum(1).max() == 6
    (again,) = batches(DATA, replace(made, learns_start=True), seed=0, stop=1)
    assert torch.equal(again.batch.layout.answer_BL.sum(1), layout.answer_BL.sum(1) + 1)
    assert SimVLG.paper().learns_start
    assert not SimVLG().learns_start


def test_the_connector_alone_is_trained_and_comes_back(tmp_path: Path) -> None:
    tiny = replace(SimVLG.tiny(), **SMALL)
    run = diptych.train(tiny, data=DATA, out=tmp_path / "run", seed=0)
    made = tiny.prepare(DATA)
    bridge = made.model()
    assert {name.partition(".")[0] for name, p in bridge.named_parameters() if p.requires_grad} == {"connector"}
    model: Any = diptych.load(run.path)
    assert isinstance(model.bridge.connector, MergingConnector)
    assert model.generate([DATA[0].image], [""], max_tokens=4) == model.generate([DATA[0].image], [""], max_tokens=4)


def test_clips_train_the_merging_of_frames_and_an_untrained_one_is_the_mean(tmp_path: Path) -> None:
    world = clips(8, seed=0, length=6)
    tiny = replace(SimVLG.tiny(), **SMALL, frames=3)
    made = tiny.prepare(world)
    bridge: Any = made.model()
    trained = {name.split(".")[1] for name, p in bridge.named_parameters() if p.requires_grad and name.startswith("encoder")}
    assert trained == {"merges"}
    (step,) = batches(world, made, seed=0, stop=1)
    features = made.features(bridge, step.batch)
    made.losses(features, step.batch)["answer"].backward()
    alphas = [p.grad for name, p in bridge.named_parameters() if name.endswith("alpha")]
    assert all(grad is not None and grad.abs() > 0 for grad in alphas)
    assert not [name for name, p in bridge.named_parameters() if p.requires_grad and p.grad is None]
    frames = step.batch.image_BCHW
    image = replace(made, frames=1)
    plain = bridge.encoder.inner(frames.flatten(0, 1)).tokens_BPD.unflatten(0, (-1, 3)).mean(1)
    torch.testing.assert_close(bridge.encoder(frames).tokens_BPD, plain)
    assert image.trained == ("connector",)
    run = diptych.train(tiny, data=world, out=tmp_path / "run", seed=0)
    model: Any = diptych.load(run.path)
    assert model.frames == 3
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    one = model.generate([ArrayImage(pixels, "a")], [""], max_tokens=4)
    assert len(one) == 1


def test_a_clip_shorter_than_its_frames_is_refused_or_repeated() -> None:
    world = clips(4, seed=0, length=2)
    made = replace(SimVLG.tiny(), **SMALL, frames=3).prepare(world)
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"has 2 frames.*3 or more"):
        made.load(world[0], rng)
    shown = replace(made, short_clips="repeat").load(world[0], rng)["clip"]
    assert len(shown) == 3
    image = DATA[0]
    assert len({frame.tobytes() for frame in made.load(image, rng)["clip"]}) == 1
    nothing = replace(image, image=None)
    with pytest.raises(DataError, match="no clip and no image"):
        made.load(nothing, rng)
    assert Pool.from_samples([image], name="one")


def test_bert_gives_its_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    deeper = transformers.BertModel(transformers.BertConfig(**{**BERT, "num_hidden_layers": 3}, vocab_size=9))
    deeper.save_pretrained(tmp_path)
    made: Any = connector("merging", 6, 8, merged=3, bert=BERT)
    take_bert_(made, f"hf:{tmp_path}")
    theirs = deeper.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.bert.state_dict().items())
    wider: Any = connector("merging", 6, 8, bert={**BERT, "intermediate_size": 32})
    with pytest.raises(DataError, match=r"intermediate\.dense\.weight is \[16, 8\]"):
        take_bert_(wider, f"hf:{tmp_path}")
    with pytest.raises(DataError, match="not a folder of transformers"):
        take_bert_(made, "hf:nowhere")


def test_a_released_checkpoint_gives_the_whole_connector(tmp_path: Path) -> None:
    """Names that LAVIS keeps of `LIPTomeOPT` at 2e8c44d: what learns, and BERT's pooler, which nothing reads."""
    torch.manual_seed(0)
    source, made = (connector("merging", 6, 10, merged=3, bert=BERT) for _ in range(2))
    layers = transformers.BertModel(transformers.BertConfig(**BERT, vocab_size=9)).state_dict()
    theirs = {f"VLconnector.{name}": tensor for name, tensor in layers.items() if "word_embeddings" not in name}
    theirs |= {f"VLconnector.{name}": tensor for name, tensor in source.bert.state_dict().items()}  # type: ignore[union-attr, operator]
    for own, released in (("norm", "ln_vision"), ("inward", "VL_proj"), ("map", "opt_proj")):
        theirs |= {f"{released}.{name}": tensor for name, tensor in getattr(source, own).state_dict().items()}
    assert "VLconnector.pooler.dense.weight" in theirs
    file = tmp_path / "checkpoint_best.pth"
    torch.save({"model": theirs, "optimizer": {}, "config": {"run": {"seed": 42}}, "epoch": 3}, file)
    assert isinstance(made, MergingConnector)
    take_released_(made, file)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in made.state_dict().items())
    torch.save({"model": {**theirs, "visual_encoder.blocks.0.attn.proj.bias": torch.zeros(6)}}, file)
    with pytest.raises(DataError, match=r"visual_encoder.* does not belong"):
        take_released_(made, file)
    torch.save({"model": {name: tensor for name, tensor in theirs.items() if name != "VL_proj.bias"}}, file)
    with pytest.raises(DataError, match=r"tensor inward\.bias is missing"):
        take_released_(made, file)
    recipe = replace(SimVLG.tiny(), **SMALL, connector_weights=str(file)).prepare(DATA)
    with pytest.raises(DataError, match=r"is \[|is missing|does not belong"):
        recipe.model()


def test_the_published_batches_are_of_eight_processes() -> None:
    """`batch_size_train` of LAVIS is a process's, and the released command starts eight."""
    for preset, of_each in ((SimVLG.paper(), 200), (SimVLG.video(), 4)):
        assert (preset.batch_size, preset.rows_a_mean) == (8 * of_each, of_each)
