"""BERT's layer against transformers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from diptych.models.layers.post_norm import PostNormBlock, adopt_bert_layer_


def test_it_is_berts_layer() -> None:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_attention_heads=4, intermediate_size=40, attn_implementation="eager")
    layer = BertLayer(config).double().eval()
    block = PostNormBlock(16, 4, mlp_width=40, dropout=0.1).double().eval()
    adopt_bert_layer_(block, layer)
    x = torch.randn(3, 6, 16, dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
    extended = (~mask)[:, None, None].double() * torch.finfo(torch.float64).min
    theirs = layer(x, extended)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    torch.testing.assert_close(block(x, mask), theirs, rtol=1e-10, atol=1e-12)


def test_dropout_is_of_training_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block, x = PostNormBlock(16, 4, mlp_width=40, dropout=0.1), torch.randn(2, 5, 16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert not torch.equal(block.train()(x, mask), block(x, mask))
    torch.testing.assert_close(block.eval()(x, mask), block(x, mask))
    many = torch.stack([block.train()._dropped(x) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(many, x, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("limit", [None, 50_000.0])
def test_dropout_falls_on_the_shares_and_on_what_both_branches_add(limit: float | None) -> None:
    """The same random numbers, drawn in the same order, in a block that is written out."""
    torch.manual_seed(0)
    block = PostNormBlock(16, 4, mlp_width=40, dropout=0.4, limit=limit).double().train()
    x, mask = torch.randn(2, 5, 16, dtype=torch.float64), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    torch.manual_seed(1)
    ours = block(x, mask)
    torch.manual_seed(1)
    q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in block.attention.qkv(x).chunk(3, -1))
    share = (q @ k.mT / 2).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    read = (F.dropout(share, 0.4) @ v).transpose(1, 2).flatten(2)
    x = block.norm_1(x + F.dropout(block.attention.out(read), 0.4))
    x = block.norm_2(x + F.dropout(block.mlp_out(F.gelu(block.mlp_in(x))), 0.4))
    torch.testing.assert_close(ours, x, rtol=1e-10, atol=1e-12)


def test_a_limit_holds_scores_inner_values_and_results() -> None:
    """Values far beyond it stay finite in the form that has a limit, and are what clamping by hand gives."""
    torch.manual_seed(0)
    block = PostNormBlock(8, 2, mlp_width=12, limit=3.0).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(40)
    x, mask = torch.randn(1, 4, 8, dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in block.attention.qkv(x).chunk(3, -1))
    score = q @ k.mT / 2
    assert score.abs().max() > 3
    read = (score.clamp(-3, 3).softmax(-1) @ v).transpose(1, 2).flatten(2)
    middle = block.norm_1(x + block.attention.out(read))
    inner = F.gelu(block.mlp_in(middle).clamp(-3, 3)).clamp(-3, 3)
    added = block.mlp_out(inner).clamp(-3, 3)
    assert block.mlp_out(inner).abs().max() > 3
    torch.testing.assert_close(block(x, mask), block.norm_2(middle + added).clamp(-3, 3), rtol=1e-10, atol=1e-12)
