"""BERT's layer against transformers."""

from __future__ import annotations

import torch
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
