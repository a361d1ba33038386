"""Both forms of attention against a naive loop and against PyTorch's own module."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers import attention
from diptych.models.layers.attention import Attention, attention_mask, explicit_attention, uses_explicit_attention


def naive(module: Attention, x_BLD: Tensor, mask_BL: Tensor | None, causal: bool) -> Tensor:
    batch, length, width = x_BLD.shape
    each = width // module.heads
    out = torch.zeros_like(x_BLD)
    for b in range(batch):
        q, k, v = (module.qkv(x_BLD[b])[:, i * width : (i + 1) * width] for i in range(3))
        for h in range(module.heads):
            part = slice(h * each, (h + 1) * each)
            for i in range(length):
                may = [j for j in range(length) if (mask_BL is None or mask_BL[b, j]) and (not causal or j <= i)]
                logits = torch.stack([q[i, part] @ k[j, part] / math.sqrt(each) for j in may])
                weight = logits.softmax(0)
                out[b, i, part] = sum(w * v[j, part] for w, j in zip(weight, may, strict=True))
    result: Tensor = module.out(out)
    return result


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_equal_the_naive_loop(monkeypatch: pytest.MonkeyPatch, written_out: bool, causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    module, x_BLD = Attention(12, 3).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    mask_BL = torch.tensor([[True] * 5, [True, True, True, False, False]]) if masked else None
    monkeypatch.setattr(attention, "uses_explicit_attention", lambda x, length: written_out)
    torch.testing.assert_close(module(x_BLD, mask_BL, causal=causal), naive(module, x_BLD, mask_BL, causal), atol=1e-12, rtol=0)


def test_equals_pytorchs_module_with_copied_weights() -> None:
    torch.manual_seed(1)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        ours.qkv.weight.copy_(theirs.in_proj_weight)
        ours.qkv.bias.copy_(theirs.in_proj_bias.normal_())
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    x_BLD = torch.randn(3, 7, 16)
    mask_BL = torch.arange(7).expand(3, 7) < torch.tensor([[7], [3], [1]])
    expected, _ = theirs(x_BLD, x_BLD, x_BLD, key_padding_mask=~mask_BL, need_weights=False)
    torch.testing.assert_close(ours(x_BLD, mask_BL), expected, atol=1e-5, rtol=0)


def test_forms_have_equal_gradients() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(3))
    may = attention_mask(torch.rand(2, 6) > 0.2, 6, causal=True, device=q.device)
    assert may is not None
    may = may | torch.eye(6, dtype=torch.bool)
    grads = []
    for form in (explicit_attention, lambda *a: nn.functional.scaled_dot_product_attention(*a[:3], attn_mask=a[3])):
        grads.append(torch.autograd.grad(form(q, k, v, may).square().sum(), (q, k, v)))
    for ours, fused in zip(*grads, strict=True):
        torch.testing.assert_close(ours, fused, atol=1e-5, rtol=1e-5)


def test_padding_is_never_read() -> None:
    torch.manual_seed(3)
    module, x_BLD = Attention(8, 2), torch.randn(1, 6, 8)
    mask_BL = torch.tensor([[True] * 4 + [False] * 2])
    changed = x_BLD.clone()
    changed[:, 4:] += 100
    torch.testing.assert_close(module(x_BLD, mask_BL)[:, :4], module(changed, mask_BL)[:, :4])


def test_the_rule_asks_for_cpu_autocast_and_few_tokens() -> None:
    x = torch.zeros(1)
    assert not uses_explicit_attention(x, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert uses_explicit_attention(x, 200)
        assert not uses_explicit_attention(x, 201)
        assert not uses_explicit_attention(torch.zeros(1, device="meta"), 20)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 10 cannot be cut into 3 heads"):
        Attention(10, 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_shares_are_dropped_while_training_alone(causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    attention, x_BLD = Attention(8, 2, dropout=0.5), torch.randn(2, 5, 8)
    mask_BL = torch.tensor([[True, True, True, False, False], [True] * 5])
    torch.manual_seed(1)
    found = attention(x_BLD, mask_BL if masked else None, causal=causal)
    q, k, v = attention.qkv(x_BLD).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    may = mask_BL[:, None, None] if masked else torch.ones(2, 1, 1, 5, dtype=torch.bool)
    may = may & torch.ones(5, 5, dtype=torch.bool).tril() if causal else may
    share = (q @ k.transpose(-1, -2) / 2).masked_fill(~may, -torch.inf).softmax(-1)
    torch.manual_seed(1)
    read = torch.nn.functional.dropout(share, 0.5) @ v
    torch.testing.assert_close(found, attention.out(read.transpose(1, 2).flatten(2)))
    attention.eval()
    whole = Attention(8, 2)
    whole.load_state_dict(attention.state_dict())
    torch.testing.assert_close(attention(x_BLD, mask_BL, causal=causal), whole(x_BLD, mask_BL, causal=causal))
