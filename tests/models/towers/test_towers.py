"""Every tower: its shape contract, its masks, and that its spec builds it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core.errors import ConfigError, DataError, ShapeError, UnknownName
from diptych.models.layers.pooling import first_position, last_real, mean_pool
from diptych.models.towers.outputs import Tower
from diptych.models.towers.text import TextTransformer
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.towers.vit import VisionTransformer

IMAGE: list[tuple[str, dict[str, Any], int]] = [
    ("vit_tiny", {}, 16),
    ("vit_tiny", {"image_size": 32, "patch": 8, "width": 24, "heads": 2, "layers": 1}, 16),
    ("convnet_tiny", {"widths": [8, 16], "depths": [1, 1]}, 64),
    ("timm:resnet10t", {"image_size": 64}, 4),
    ("timm:vit_tiny_patch16_224", {"image_size": 64}, 16),
    ("timm:test_vit3", {"image_size": 160}, 100),
]


def bert(folder: Path, **changes: Any) -> Path:
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    settings = transformers.BertConfig(**small, max_position_embeddings=20, **changes)
    transformers.BertModel(settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("name", "options", "places"), IMAGE)
def test_image_towers_return_tokens_and_one_vector(name: str, options: dict[str, Any], places: int) -> None:
    torch.manual_seed(0)
    tower = image_tower(name, **options).eval()
    side = int(tower.image_size)
    image_BCHW = torch.randn(2, 3, side, side)
    tokens = tower(image_BCHW)
    assert tokens.tokens_BPD.shape[:2] == (2, places)
    assert tokens.mask_BP.dtype == torch.bool
    assert tokens.mask_BP.shape == (2, places)
    assert tokens.mask_BP.all()
    assert tokens.pooled_BD.shape == (2, tower.width)
    alone = tower(image_BCHW[:1]).pooled_BD
    torch.testing.assert_close(alone, tokens.pooled_BD[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "options", "places"), IMAGE)
def test_a_spec_survives_json_and_builds_the_same_architecture(name: str, options: dict[str, Any], places: int) -> None:
    tower = image_tower(name, **options)
    again = image_tower(**json.loads(json.dumps(tower.spec)))
    again.load_state_dict(tower.state_dict())
    assert json.loads(json.dumps(again.spec)) == json.loads(json.dumps(tower.spec))


def test_convnet_pools_the_mean_of_its_tokens_and_takes_other_sizes() -> None:
    tower = image_tower("convnet_tiny", widths=(8, 16), depths=(1, 1))
    tokens = tower(torch.randn(1, 3, 32, 48))
    assert tokens.tokens_BPD.shape == (1, 4 * 6, 16)
    torch.testing.assert_close(tokens.pooled_BD, tokens.tokens_BPD.mean(1))


def test_timm_tower_pools_as_the_model_does() -> None:
    tower = image_tower("timm:vit_tiny_patch16_224", image_size=32).eval()
    image_BCHW = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(image_BCHW).pooled_BD, tower.net(image_BCHW))


def small_text(**changes: Any) -> TextTransformer:
    settings: dict[str, Any] = {"vocab_size": 40, "length": 9, "width": 16, "layers": 2, "heads": 2, "eot_id": 3}
    return TextTransformer(**{**settings, **changes})


IDS = torch.tensor([[1, 30, 31, 3, 0, 0], [1, 39, 3, 3, 0, 0]])


def test_eot_pooling_finds_the_given_id_and_not_the_largest() -> None:
    torch.manual_seed(0)
    tower = small_text()
    tokens = tower(IDS)
    torch.testing.assert_close(tokens.pooled_BD, torch.stack([tokens.tokens_BPD[0, 3], tokens.tokens_BPD[1, 2]]))
    assert tokens.mask_BP.tolist() == [[True] * 4 + [False] * 2, [True] * 3 + [False] * 3]


@pytest.mark.parametrize("options", [{}, {"causal": False, "pooling": "mean"}, {"causal": True, "pooling": "mean"}])
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    tower = small_text(**options)
    mask_BL = torch.tensor([[True] * 4 + [False] * 2])
    longer = tower(IDS[:1], mask_BL).pooled_BD
    noisy = IDS[:1].clone()
    noisy[:, 4:] = 17
    torch.testing.assert_close(tower(noisy, mask_BL).pooled_BD, longer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(tower(IDS[:1, :4], mask_BL[:, :4]).pooled_BD, longer, atol=1e-6, rtol=1e-5)


def test_embeddings_give_what_ids_give() -> None:
    torch.manual_seed(2)
    for options in ({}, {"causal": False, "pooling": "mean"}):
        tower = small_text(**options)
        ids_BL, mask_BL = IDS[:1], torch.tensor([[True] * 4 + [False] * 2])
        torch.testing.assert_close(tower(tower.embed(ids_BL), mask_BL).pooled_BD, tower(ids_BL, mask_BL).pooled_BD)


def test_a_causal_tower_does_not_look_ahead_and_the_other_does() -> None:
    torch.manual_seed(3)
    changed = IDS.clone()
    changed[:, 3] = 20
    mask_BL = torch.ones_like(IDS, dtype=torch.bool)
    causal, both = small_text(pooling="mean"), small_text(causal=False, pooling="mean")
    torch.testing.assert_close(causal(changed, mask_BL).tokens_BPD[:, :3], causal(IDS, mask_BL).tokens_BPD[:, :3])
    assert not torch.allclose(both(changed, mask_BL).tokens_BPD[:, 0], both(IDS, mask_BL).tokens_BPD[:, 0], atol=1e-4)


def test_published_initialisation() -> None:
    torch.manual_seed(4)
    tower = text_tower("text_clip", vocab_size=3000, eot_id=2, layers=2)
    assert isinstance(tower, TextTransformer)
    block = tower.transformer.blocks[1]
    expected = {
        tower.embed.weight: 0.02,
        tower.position_LD: 0.01,
        block.attention.qkv.weight: 512**-0.5,
        block.attention.out.weight: 512**-0.5 * 4**-0.5,
        block.mlp_in.weight: 1024**-0.5,
        block.mlp_out.weight: 512**-0.5 * 4**-0.5,
    }
    for weight, std in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert 0 < float(block.mlp_in.bias.detach().abs().max()) <= 512**-0.5  # as PyTorch begins them


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_transformers_encoder_from_a_folder(tmp_path: Path, pooling: str) -> None:
    import transformers

    tower = text_tower(f"hf:{bert(tmp_path)}", pooling=pooling).eval()
    ids_BL, mask_BL = (
        torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]]),
        torch.tensor([[True, True, True, False], [True, True, False, False]]),
    )
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    hidden_BLD = theirs(ids_BL, attention_mask=mask_BL.long()).last_hidden_state
    expected = hidden_BLD[:, 0] if pooling == "cls" else torch.stack([hidden_BLD[0, :3].mean(0), hidden_BLD[1, :2].mean(0)])
    torch.testing.assert_close(tower(ids_BL, mask_BL).pooled_BD, expected, atol=1e-6, rtol=1e-5)
    embedded = tower.net.get_input_embeddings()(ids_BL)
    torch.testing.assert_close(tower(embedded, mask_BL).pooled_BD, expected, atol=1e-6, rtol=1e-5)

    again = text_tower(**json.loads(json.dumps(tower.spec))).eval()
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again(ids_BL, mask_BL).pooled_BD, expected, atol=1e-6, rtol=1e-5)


def test_every_parameter_of_a_transformers_encoder_gets_a_gradient(tmp_path: Path) -> None:
    tower: Tower = text_tower(f"hf:{bert(tmp_path)}")
    tower(torch.tensor([[5, 6, 7]])).pooled_BD.square().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_pooling_by_hand() -> None:
    tokens_BLD = torch.tensor([[[1.0], [3.0], [9.0]], [[5.0], [7.0], [9.0]]])
    mask_BL = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_pool(tokens_BLD, mask_BL).tolist() == [[2.0], [0.0]]
    assert first_position(torch.tensor([[9, 3, 3], [3, 9, 9]]), 3).tolist() == [1, 0]
    assert last_real(torch.tensor([[True, True, False], [True, False, False]])).tolist() == [1, 0]


def test_errors_say_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'vit_tiny'"):
        image_tower("vit_tinny")
    with pytest.raises(UnknownName, match="unknown timm model"):
        image_tower("timm:resnet_five_thousand")
    with pytest.raises(UnknownName, match="unknown option of vit_tiny 'patches'; did you mean 'patch'"):
        image_tower("vit_tiny", patches=8)
    with pytest.raises(ConfigError, match="cannot be cut into patches of 10"):
        image_tower("vit_tiny", patch=10)
    with pytest.raises(ConfigError, match="needs vocab_size"):
        text_tower("text_tiny")
    with pytest.raises(ConfigError, match="pass eot_id"):
        text_tower("text_clip", vocab_size=10)
    with pytest.raises(DataError, match=r"config\.json"):
        text_tower(f"hf:{tmp_path}")
    with pytest.raises(ShapeError, match=r"\['B', 3, 64, 64\], got \[1, 3, 32, 32\]"):
        VisionTransformer(image_size=64, patch=16, width=8, layers=1, heads=1)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ShapeError, match="L up to 9"):
        small_text()(torch.zeros(1, 10, dtype=torch.long))


def test_what_fills_no_patch_is_left_out_where_weights_were_made_so() -> None:
    """As a convolution without padding does it: SigLIP's 384 pixels in patches of 14 are 27 x 27."""
    torch.manual_seed(0)
    tower = image_tower("vit_micro", image_size=50, patch=16, cut=True).eval()
    image = torch.randn(2, 3, 50, 50)
    tokens = tower(image).tokens_BPD
    assert tokens.shape[1] == 9
    assert isinstance(tower, VisionTransformer)
    torch.testing.assert_close(tower._embedded(image), tower.patches(image).flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    image[..., 48:, :] = 9.0
    torch.testing.assert_close(tower(image).tokens_BPD, tokens)


def test_roberta_counts_real_tokens_from_behind_the_id_of_padding() -> None:
    tower = text_tower("roberta_tiny", vocab_size=20, length=8, pad_id=3).eval()
    ids = torch.tensor([[5, 6, 7, 3, 3], [3, 3, 5, 6, 7]])
    table = tower.net.embeddings  # type: ignore[union-attr]
    rows = []
    for row, positions in zip(ids.tolist(), ([4, 5, 6, 3, 3], [3, 3, 4, 5, 6]), strict=True):
        summed = [
            table.word_embeddings.weight[token]
            + table.position_embeddings.weight[position]
            + table.token_type_embeddings.weight[0]
            for token, position in zip(row, positions, strict=True)
        ]
        rows.append(torch.nn.functional.layer_norm(torch.stack(summed), (128,), eps=1e-5))
    torch.testing.assert_close(table(ids), torch.stack(rows))
    behind, before = tower(ids, ids != 3).tokens_BPD
    torch.testing.assert_close(behind[:3], before[2:])
