"""LexLIP against its released code: both phases, every loss and every gradient, on weights and inputs that are computed from names.

The fixture holds what that code printed (ChiYeungLaw/LexLIP-ICCV23, Phase1 and Phase2, under transformers 4.26 in float64): losses, and of
each gradient its product with a fixed tensor.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.data.load.batch import PairBatch
from diptych.data.load.restored_batch import RestoredBatch
from diptych.models.lexlip.bottleneck import BottleneckEncoder
from diptych.models.lexlip.lexical_encoder import LexicalEncoder
from diptych.models.lexlip.momentum import MomentumEncoder
from diptych.models.towers.beit import BEiT
from diptych.models.towers.packaged.hf_text import TransformersText
from diptych.recipes.contrastive.lexlip import LexLIP, MomentumPhase

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "lexlip_released.json").read_text())
WORDS, WIDTH, SIDE, PATCH, QUEUE = 50, 16, 64, 16, 7
MASK = 3
IDS = torch.tensor(
    [
        [1, 5, 6, 7, 8, 9, 10, 11, 12, 2],
        [1, 20, 21, 22, 23, 2, 0, 0, 0, 0],
        [1, 30, 31, 32, 33, 34, 35, 2, 0, 0],
        [1, 40, 41, 2, 0, 0, 0, 0, 0, 0],
    ]
)
OWN = {(0, 2): MASK, (0, 5): MASK, (1, 1): MASK, (2, 3): 45, (3, 2): 41}
OTHER = {(0, 1): MASK, (0, 4): MASK, (0, 7): 17, (1, 2): MASK, (1, 4): MASK, (2, 1): MASK, (2, 6): 35, (3, 1): MASK}


def made(name: str, shape: Any, factor: float = 0.3) -> Tensor:
    """A tensor that only its name decides."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return factor * torch.sin(0.7 * numbers + zlib.crc32(name.encode()) % 1000).reshape(shape)


def probe(name: str, tensor: Tensor) -> Tensor:
    return (tensor.detach() * made(f"probe {name}", tensor.shape, 1.0)).sum()


LAYER = {
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm_1",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
    "output.LayerNorm": "norm_2",
}
BLOCK = {
    "layernorm_before": "norm_1",
    "layernorm_after": "norm_2",
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "out",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
}
HEAD = {"transform.dense": "dense", "transform.LayerNorm": "norm", "decoder": "words"}


def named(model: nn.Module, gradients: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Their name -> the tensor of ours, or its gradient; parts of fused tensors by themselves, as views."""
    own = {
        name: (p.grad if gradients else p.detach()) for name, p in model.named_parameters() if p.requires_grad or not gradients
    }

    def both(theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in own:
                yield f"{theirs}.{kind}", own[f"{ours}.{kind}"]

    for prefix, root in (("", "encoder"), ("moco_", "companions.momentum")):
        for name, tensor in own.items():
            if name.startswith(f"{root}.text_tower.net."):
                yield f"{prefix}text_transformer.bert.{name.removeprefix(f'{root}.text_tower.net.')}", tensor
        for theirs, ours in (("text_transformer.cls", "text_head"), ("mlm_head_for_image", "image_head")):
            if f"{root}.{ours}.words.bias" in own:
                yield f"{prefix}{theirs}.predictions.bias", own[f"{root}.{ours}.words.bias"]
                yield f"{prefix}{theirs}.predictions.decoder.weight", own[f"{root}.{ours}.words.weight"]
                for their, our in list(HEAD.items())[:2]:
                    yield from both(f"{prefix}{theirs}.predictions.{their}", f"{root}.{ours}.{our}")
        image = f"{root}.image_tower"
        if f"{image}.class_D" not in own:
            continue
        beit = f"{prefix}image_transformer.beit"
        yield f"{beit}.embeddings.cls_token", own[f"{image}.class_D"][None, None]
        yield from both(f"{beit}.embeddings.patch_embeddings.projection", f"{image}.patches")
        yield from both(f"{prefix}image_transformer.layernorm", f"{image}.norm_after")
        for place in range(2):
            layer, block = f"{beit}.encoder.layer.{place}", f"{image}.blocks.{place}"
            for their, our in BLOCK.items():
                yield from both(f"{layer}.{their}", f"{block}.{our}")
            table = "attention.attention.relative_position_bias.relative_position_bias_table"
            yield f"{layer}.{table}", own[f"{block}.bias.table_RN"]
            yield f"{layer}.lambda_1", own[f"{block}.scale_1_D"]
            yield f"{layer}.lambda_2", own[f"{block}.scale_2_D"]
    for place in range(2):
        if f"decoder.{place}.mlp_in.weight" in own:
            layer, block = f"text_transformer.decoder_heads.{place}", f"decoder.{place}"
            for their, our in LAYER.items():
                yield from both(f"{layer}.{their}", f"{block}.{our}")
            for kind in ("weight", "bias"):
                parts = own[f"{block}.attention.qkv.{kind}"].chunk(3)
                for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                    yield f"{layer}.attention.self.{part}.{kind}", tensor


def filled(model: nn.Module) -> nn.Module:
    for name, tensor in named(model):
        scale = "LayerNorm.weight" in name or ("layernorm" in name and name.endswith("weight"))
        tensor.copy_(made(name, tensor.shape) + (1.0 if scale else 0.0))
    return model


def encoder() -> LexicalEncoder:
    text = TransformersText(
        config={
            "model_type": "bert",
            "vocab_size": WORDS,
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 16,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        pooling="cls",
    )
    image = BEiT(image_size=SIDE, patch=PATCH, width=WIDTH, layers=2, heads=2, drop_path=0.0, other_sizes="released")
    return LexicalEncoder(image, text).double()


def asked(hidden: dict[tuple[int, int], int]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, places and words of one hiding."""
    ids, rows = IDS.clone(), [[place for row, place in hidden if row == n] for n in range(4)]
    most = max(map(len, rows))
    place, word = torch.zeros(4, most, dtype=torch.int64), torch.full((4, most), -1)
    for row, places in enumerate(rows):
        for at, where in enumerate(places):
            place[row, at], word[row, at] = where, IDS[row, where]
            ids[row, where] = hidden[row, where]
    return ids, place, word


def pairs(image_BCHW: Tensor) -> PairBatch:
    return PairBatch(image_BCHW=image_BCHW, text_BL=IDS, text_mask_BL=IDS != 0, group_B=torch.arange(4))


SETTINGS: dict[str, Any] = {"same_group": "negative", "sparsity_over": "process", "batch_size": 4, "queue": QUEUE}


def test_the_bottleneck_phase_is_that_of_the_released_code(parity: Any) -> None:
    recipe = LexLIP(**SETTINGS)
    model = filled(BottleneckEncoder(encoder(), layers=2, heads=2, dropout=0.0, mask_token=True).double())
    own_ids, own_place, own_word = asked(OWN)
    other_ids, other_place, other_word = asked(OTHER)
    given = pairs(made("image", (4, 3, SIDE, SIDE), 1.0))
    nothing = torch.zeros_like(IDS, dtype=torch.bool)
    batch = RestoredBatch(
        **{name: getattr(given, name) for name in ("image_BCHW", "text_BL", "text_mask_BL", "group_B")},
        own_BL=own_ids,
        own_hidden_BL=nothing,
        own_place_BM=own_place,
        own_word_BM=own_word,
        other_BL=other_ids,
        other_hidden_BL=nothing,
        other_place_BM=other_place,
        other_word_BM=other_word,
    )
    losses = recipe.losses(recipe.features(model, batch), batch)
    theirs = RELEASED["bottleneck"]["losses"]
    ours = {
        "contrastive_loss": losses["contrastive"] + losses["sparsity"],
        "self_t_mlm_loss": losses["own_words"],
        "i2t_mlm_loss": losses["words_from_image"],
        "t2t_mlm_loss": losses["words_from_text"],
    }
    torch.stack(list(losses.values())).sum().backward()
    gradients = dict(named(model, gradients=True))
    assert set(gradients) == set(RELEASED["bottleneck"]["gradients"])
    assert sum(p.numel() for p in model.parameters()) == RELEASED["bottleneck"]["parameters"]
    checks = [(ours[name].detach(), torch.tensor(theirs[name], dtype=torch.float64)) for name in theirs]
    grads = [
        (probe(name, gradients[name]), torch.tensor(value, dtype=torch.float64))
        for name, value in RELEASED["bottleneck"]["gradients"].items()
    ]
    parity("lexlip", "the four losses of the first phase", "released code, Phase1", checks, tolerance=1e-10)
    parity("lexlip", "every gradient of the first phase", "released code, Phase1", grads, tolerance=1e-9)


@pytest.mark.parametrize(("name", "side"), [("whole", 64), ("small", 32)])
def test_the_momentum_phase_is_that_of_the_released_code(name: str, side: int, parity: Any) -> None:
    """Also on small images, whose position biases the released code cuts out of the large ones' ("released")."""
    recipe = MomentumPhase(**SETTINGS)
    model = filled(MomentumEncoder(encoder(), queue=QUEUE).double())
    assert isinstance(model, MomentumEncoder)
    for queue, key in ((model.queue_image, "image_queue"), (model.queue_text, "text_queue")):
        rows = nn.functional.normalize(made(key, (WORDS, QUEUE), 1.0).relu(), dim=0).T
        queue.push_(torch.cat([rows[2:], rows[:2]]), torch.arange(QUEUE))  # their pointer stands at 2: the oldest
    batch = pairs(made("image" if name == "whole" else "small", (4, 3, side, side), 1.0))
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    theirs = RELEASED["momentum"][name]
    gradients = dict(named(model, gradients=True))
    checks = [(total.detach(), torch.tensor(theirs["loss"], dtype=torch.float64))]
    decoder = "text_transformer.decoder_heads"
    grads = [
        (probe(key, gradients[key]), torch.tensor(value, dtype=torch.float64))
        for key, value in theirs["gradients"].items()
        if not key.startswith(decoder)
    ]
    assert {key for key in theirs["gradients"] if not key.startswith(decoder)} == set(gradients)
    parity("lexlip", f"loss of the second phase, {name} images", "released code, Phase2", checks, tolerance=1e-10)
    parity("lexlip", f"every gradient of the second phase, {name} images", "released code, Phase2", grads, tolerance=1e-9)
    if name == "small":
        return
    with torch.no_grad():
        recipe.after_update(model, features, batch, 0.5)
    moved = {key: tensor for key, tensor in named(model) if key.startswith("moco_")}
    followed = [
        (probe(key, moved[key]), torch.tensor(value, dtype=torch.float64))
        for key, value in theirs["momentum"].items()
        if not key.startswith(f"moco_{decoder}")
    ]
    parity("lexlip", "the momentum model after a step", "released code, Phase2", followed, tolerance=1e-10)
    # 4 new rows at place 2 of 7 stand at 2..5 there; here they are the last four, behind the rows of places 6, 0 and 1.
    rings = [queue.dense().roll(-1, 0) for queue in (model.queue_image, model.queue_text)]
    held = [
        (probe(key, rows.T), torch.tensor(theirs[name], dtype=torch.float64))
        for key, name, rows in zip(("iq", "tq"), ("image_queue", "text_queue"), rings, strict=True)
    ]
    parity("lexlip", "both queues after a step", "released code, Phase2", held, tolerance=1e-10)


def test_large_images_see_the_released_biases(parity: Any) -> None:
    """384 pixels, for which the released code draws the table of biases out as a line."""
    model = filled(MomentumEncoder(encoder(), queue=QUEUE).double())
    assert isinstance(model, MomentumEncoder)
    with torch.no_grad():
        weights = model.encoder.image_weights(made("big", (2, 3, 384, 384), 1.0))
    theirs = torch.tensor(RELEASED["momentum"]["big"], dtype=torch.float64)
    parity(
        "lexlip",
        "weights of words of an image of 384 pixels",
        "released code, Phase2",
        [(probe("big", weights), theirs)],
        tolerance=1e-9,
    )


def test_small_images_would_differ_with_resampled_biases() -> None:
    """A fixture that did not depend on them would prove nothing."""
    model = filled(MomentumEncoder(encoder(), queue=QUEUE).double())
    assert isinstance(model, MomentumEncoder)
    small = made("small", (4, 3, 32, 32), 1.0)
    before = model.encoder.encode_image(small)
    for block in model.encoder.image_tower.get_submodule("blocks"):
        block.bias.other = "resampled"
    assert (model.encoder.encode_image(small) - before).abs().max() > 1e-6
