"""The tower for dense features: hidden patches are not seen, sizes are free, and parity with timm's register transformer."""

from __future__ import annotations

import pytest
import timm
import torch

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.pairs.encoders.dino_head import DINOHead
from diptych.models.towers.dense_vit import DenseViT


def small(**changes: float) -> DenseViT:
    torch.manual_seed(0)
    return DenseViT(**{"image_size": 32, "patch": 8, "width": 16, "layers": 2, "heads": 2, "layer_scale": 0.5, **changes})


def test_a_hidden_patch_is_not_seen_and_a_visible_one_is() -> None:
    tower, image = small(), torch.randn(2, 3, 32, 32)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 5] = True
    other = image.clone()
    other[:, :, 8:16, 8:16] += 1  # patch 5: second row, second column
    for a, b, equal in ((image, other, True), (image, image + 1, False)):
        one, two = tower(a, hidden), tower(b, hidden)
        assert torch.equal(one.tokens_BPD, two.tokens_BPD) == equal
    assert not torch.allclose(tower(image).tokens_BPD, tower(other).tokens_BPD)
    assert not torch.allclose(tower(image).pooled_BD, tower(image).second_BD, atol=1e-3)


def test_images_of_other_sizes_fit_and_positions_are_resized() -> None:
    tower = small()
    assert tower(torch.randn(2, 3, 16, 16)).tokens_BPD.shape == (2, 4, 16)
    assert tower(torch.randn(2, 3, 64, 64)).tokens_BPD.shape == (2, 64, 16)
    assert torch.equal(tower._positions(4), tower.position_PD[1:])
    with pytest.raises(ShapeError, match="multiple of 8"):
        tower(torch.randn(1, 3, 20, 20))
    with pytest.raises(ConfigError, match="expected a divisor"):
        small(patch=7)


def test_it_is_timms_transformer_with_a_register() -> None:
    """timm has the register before the position-free patches, too: [class, register, patches], with layer scale in every block."""
    theirs = timm.create_model(
        "vit_base_patch14_reg4_dinov2",
        pretrained=False,
        num_classes=0,
        img_size=28,
        embed_dim=16,
        depth=2,
        num_heads=2,
        reg_tokens=1,
    ).eval()
    ours = DenseViT(image_size=28, patch=14, width=16, layers=2, heads=2).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.2)
        ours.patches.load_state_dict(theirs.patch_embed.proj.state_dict())
        ours.second_D.copy_(theirs.reg_token[0, 0])
        # timm adds positions to the patches alone; its class token has its own in itself
        ours.class_D.copy_(theirs.cls_token[0, 0])
        ours.position_PD[0].zero_()
        ours.position_PD[1:].copy_(theirs.pos_embed[0])
        for mine, his in zip(ours.blocks, theirs.blocks, strict=True):
            mine.scale_1_D.copy_(his.ls1.gamma)
            mine.scale_2_D.copy_(his.ls2.gamma)
            for name, module in (("norm_1", his.norm1), ("norm_2", his.norm2), ("mlp_in", his.mlp.fc1), ("mlp_out", his.mlp.fc2)):
                getattr(mine.block, name).load_state_dict(module.state_dict())
            mine.block.attention.qkv.load_state_dict(his.attn.qkv.state_dict())
            mine.block.attention.out.load_state_dict(his.attn.proj.state_dict())
            mine.block.norm_1.eps = mine.block.norm_2.eps = his.norm1.eps
        ours.norm_after.load_state_dict(theirs.norm.state_dict())
        ours.norm_after.eps = theirs.norm.eps
        image = torch.randn(3, 3, 28, 28)
        found, expected = ours(image), theirs.forward_features(image)
    torch.testing.assert_close(found.pooled_BD, expected[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.second_BD, expected[:, 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.tokens_BPD, expected[:, 2:], atol=1e-5, rtol=1e-4)


def test_the_prototypes_of_a_head_have_norm_one() -> None:
    head = DINOHead(8, 6, hidden=12, bottleneck=4)
    with torch.no_grad():
        head.prototype_KD.mul_(7)
    x = torch.randn(3, 5, 8)
    assert head(x).shape == (3, 5, 6)
    assert head(x).abs().max() <= 1 + 1e-6
    torch.testing.assert_close(
        head(x), torch.nn.functional.cosine_similarity(head.mlp(x)[..., None, :], head.prototype_KD, dim=-1)
    )
