"""Token embeddings in place of ids, through every text tower: ours, those of open_clip, those of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.models.towers.outputs import Tower
from diptych.models.towers.text_embeddings import read_mask, token_table
from diptych.models.towers.towers import image_tower, text_tower

SIZES = {"width": 32, "heads": 4, "layers": 2}
CLIP_TEXT = {**SIZES, "context_length": 12, "vocab_size": 64}
BERT = {"model_type": "bert", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ROBERTA = {**BERT, "model_type": "roberta", "intermediate_size": 64, "max_position_embeddings": 20, "pad_token_id": 0}

TOWERS: dict[str, Any] = {
    "ours, at the end": lambda: text_tower("transformer", vocab_size=64, length=12, eot_id=63, **SIZES),
    "ours, at an end that is no largest id": lambda: text_tower("transformer", vocab_size=64, length=12, eot_id=2, **SIZES),
    "ours, at the largest": lambda: text_tower("transformer", vocab_size=64, length=12, pooling="largest", **SIZES),
    "ours, mean": lambda: text_tower("transformer", vocab_size=64, length=12, pooling="mean", causal=False, **SIZES),
    "ours, last": lambda: text_tower("transformer", vocab_size=64, length=12, pooling="last", pad_id=0, causal=False, **SIZES),
    "transformers, BERT": lambda: text_tower("hf", config={**BERT, "intermediate_size": 64}, length=12, pooling="cls"),
    "open_clip, at the largest": lambda: text_tower(
        "open_clip_text", vocab_size=64, config=CLIP_TEXT, width=16, quick_gelu=False
    ),
    "open_clip, at an id": lambda: text_tower(
        "open_clip_text", vocab_size=64, config={**CLIP_TEXT, "pool_type": "eos", "eos_id": 63}, width=16, quick_gelu=False
    ),
    "open_clip, a class token behind (CoCa)": lambda: text_tower(
        "open_clip_text", vocab_size=64, config={**CLIP_TEXT, "embed_cls": True}, width=16, quick_gelu=True
    ),
    "open_clip, transformers inside": lambda: text_tower(
        "open_clip_text",
        vocab_size=64,
        config={"context_length": 12, "hf_model_name": "roberta", "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"},
        width=16,
        quick_gelu=False,
        encoder=ROBERTA,
    ),
}


def texts(end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of different lengths: start, words, end, padding."""
    ids_KL = torch.zeros(3, 12, dtype=torch.int64)
    for row, length in enumerate((4, 9, 12)):
        words = torch.randint(5, 60, (length - 2,), generator=torch.Generator().manual_seed(row))
        ids_KL[row, :length] = torch.cat([torch.tensor([1]), words, torch.tensor([end])])
    return ids_KL, ids_KL != 0


@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_of_the_ids_are_read_as_the_ids(name: str) -> None:
    torch.manual_seed(0)
    tower: Tower = TOWERS[name]().eval()
    ids_KL, mask_KL = texts(2 if "no largest" in name else 63)
    with torch.no_grad():
        for cut in (9, 12):
            rows = slice(2 if cut == 9 else 3)
            ids, mask = ids_KL[rows, :cut], mask_KL[rows, :cut]
            by_ids = tower(ids, mask)
            found = tower(token_table(tower)(ids), read_mask(tower, ids, mask))
            torch.testing.assert_close(found.pooled_BD, by_ids.pooled_BD, atol=1e-6, rtol=0)
            other = tower(token_table(tower)(ids).roll(1, 1), read_mask(tower, ids, mask))
            assert (other.pooled_BD - by_ids.pooled_BD).abs().max() > 1e-3, "the embeddings are what is read"


def test_the_largest_id_may_stand_before_the_end() -> None:
    """The place is that of the ids, whatever is embedded there."""
    torch.manual_seed(0)
    tower = TOWERS["ours, at the largest"]().eval()
    ids_KL, mask_KL = texts(2)
    found = tower(token_table(tower)(ids_KL), read_mask(tower, ids_KL, mask_KL)).pooled_BD
    torch.testing.assert_close(found, tower(ids_KL, mask_KL).pooled_BD, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ours, at the end", "open_clip, at the largest", "open_clip, transformers inside"])
def test_gradients_reach_the_embeddings_through_frozen_weights(name: str) -> None:
    tower = TOWERS[name]().eval().requires_grad_(False)
    ids_KL, mask_KL = texts(63)
    embedded_KLD = token_table(tower)(ids_KL).clone().requires_grad_()
    tower(embedded_KLD, read_mask(tower, ids_KL, mask_KL)).pooled_BD.square().sum().backward()
    assert embedded_KLD.grad is not None
    assert (embedded_KLD.grad[1, 1:9] != 0).any(-1).all(), "every word counts"
    ids = tower(ids_KL, mask_KL).pooled_BD
    assert not ids.requires_grad, "nothing of the embeddings stays in the tower"


def test_an_image_tower_has_no_table() -> None:
    with pytest.raises(ConfigError, match="VisionTransformer has no token embeddings"):
        token_table(image_tower("vit_micro"))
