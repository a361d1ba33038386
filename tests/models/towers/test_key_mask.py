"""A ready-made mask of keys hides what transformers hides for a mask of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.models.bridges.connectors import QueryConnector
from diptych.models.towers.packaged import key_mask as key_masks
from diptych.models.towers.packaged.hf_text import TAKES_READY_MASKS, TransformersText
from diptych.models.towers.packaged.key_mask import full_key_mask, key_mask

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "embedding_size": 32,
    "max_position_embeddings": 24,
}


def padded() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    return ids, mask


@pytest.mark.parametrize("model_type", TAKES_READY_MASKS)
def test_encoders_of_transformers_take_the_mask_as_it_is(model_type: str) -> None:
    torch.manual_seed(0)
    tower = TransformersText(config={"model_type": model_type, **SMALL}).eval()
    net: Any = tower.net
    kind = net.config._attn_implementation
    assert kind == ("eager" if model_type == "align_text_model" else "sdpa")
    ids, mask = padded()
    given = net(input_ids=ids, attention_mask=full_key_mask(mask, kind)).last_hidden_state
    expected = net(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(given[mask], expected[mask])
    hidden = net(input_ids=torch.where(mask, ids, 7), attention_mask=full_key_mask(mask, kind)).last_hidden_state
    torch.testing.assert_close(hidden[mask], expected[mask])


def test_a_query_former_takes_the_mask_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    former = {**SMALL, "encoder_hidden_size": 16, "cross_attention_frequency": 2}
    connector = QueryConnector(16, 24, queries=4, former=former, reads_text=True).eval()
    ids, mask = padded()
    features = torch.randn(3, 5, 16)
    expected = connector(features, ids, mask)
    whole = connector(features, ids, torch.ones_like(mask))
    monkeypatch.setattr(
        "diptych.models.bridges.connectors.key_mask", lambda mask_BL, attention: full_key_mask(mask_BL, attention)
    )
    torch.testing.assert_close(connector(features, ids, mask), expected)
    assert (whole[1] - expected[1]).abs().max() > 1e-3, "the mask of a shorter text matters"


def test_on_the_processor_transformers_gets_the_mask_of_tokens() -> None:
    _, mask = padded()
    assert torch.equal(key_mask(mask), mask.long())
    added = key_masks.full_key_mask(mask, "eager")
    assert added.shape == (3, 1, 9, 9)
    assert added[1, 0, 0].tolist() == [0.0] * 4 + [torch.finfo(torch.float32).min] * 5
