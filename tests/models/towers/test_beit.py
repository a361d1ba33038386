"""BEiT's tower against transformers, also on grids of another size, and against what LexLIP's code makes of its position biases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BeitConfig, BeitModel

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.beit import BEiT, RelativeBias, relative_position_index

SIDE, PATCH, WIDTH, LAYERS, HEADS = 24, 8, 16, 3, 2


def theirs() -> BeitModel:
    torch.manual_seed(0)
    config = BeitConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
        use_relative_position_bias=True,
        use_mean_pooling=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
    )
    model = BeitModel(config, add_pooling_layer=False).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return model


def adopt_(tower: BEiT, model: BeitModel) -> None:
    given = dict(model.named_parameters())
    with torch.no_grad():
        tower.class_D.copy_(given["embeddings.cls_token"][0, 0])
        for name in ("weight", "bias"):
            tower.patches.get_parameter(name).copy_(given[f"embeddings.patch_embeddings.projection.{name}"])
            tower.norm_after.get_parameter(name).copy_(given[f"layernorm.{name}"])
        for place in range(LAYERS):
            key = next(
                k.removesuffix("layernorm_before.weight") for k in given if k.endswith(f".{place}.layernorm_before.weight")
            )
            names = {
                "norm_1": "layernorm_before",
                "norm_2": "layernorm_after",
                "query": "attention.q_proj",
                "key": "attention.k_proj",
                "value": "attention.v_proj",
                "out": "attention.o_proj",
                "mlp_in": "mlp.fc1",
                "mlp_out": "mlp.fc2",
            }
            for mine, name in names.items():
                for kind in ("weight", "bias"):
                    if f"{key}{name}.{kind}" in given:
                        tower.blocks[place].get_parameter(f"{mine}.{kind}").copy_(given[f"{key}{name}.{kind}"])
            table = f"{key}relative_position_bias.relative_position_bias_table"
            tower.blocks[place].get_parameter("bias.table_RN").copy_(given[table])
            tower.blocks[place].get_parameter("scale_1_D").copy_(given[f"{key}lambda_1"])
            tower.blocks[place].get_parameter("scale_2_D").copy_(given[f"{key}lambda_2"])


@pytest.mark.parametrize("side", [24, 16, 40])
def test_every_vector_and_gradient_is_that_of_transformers(side: int) -> None:
    model = theirs()
    tower = BEiT(image_size=SIDE, patch=PATCH, width=WIDTH, layers=LAYERS, heads=HEADS, drop_path=0.0).double()
    adopt_(tower, model)
    image = torch.randn(2, 3, side, side, dtype=torch.float64)
    found = tower(image)
    whole = model(image, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(torch.cat([found.pooled_BD[:, None], found.tokens_BPD], 1), whole, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(whole)
    (torch.cat([found.pooled_BD[:, None], found.tokens_BPD], 1) * weight).sum().backward()
    (whole * weight).sum().backward()
    table = [p.grad for name, p in model.named_parameters() if name.endswith("bias_table")]
    for block, grad in zip(tower.blocks, table, strict=True):
        torch.testing.assert_close(block.get_parameter("bias.table_RN").grad, grad, rtol=1e-9, atol=1e-10)


def by_hand(table_RN: Tensor, count: int, entries: int) -> Tensor:
    """Place by place."""
    side, places = 2 * count - 1, count * count + 1
    bias = torch.zeros(places, places, table_RN.shape[1], dtype=table_RN.dtype)
    for a in range(places):
        for b in range(places):
            if a and b:
                (ya, xa), (yb, xb) = divmod(a - 1, count), divmod(b - 1, count)
                entry = (ya - yb + count - 1) * side + (xa - xb + count - 1)
            else:
                entry = entries - 3 + (2 if not a and not b else 0 if not a else 1)
            bias[a, b] = table_RN[entry]
    return bias.permute(2, 0, 1)


def test_each_offset_has_its_entry() -> None:
    bias = RelativeBias(3, 2, "resampled").double()
    torch.nn.init.normal_(bias.table_RN)
    torch.testing.assert_close(bias(3), by_hand(bias.table_RN, 3, 28))
    assert relative_position_index(3).unique().numel() == 28


def test_the_released_form_cuts_and_draws_out() -> None:
    bias = RelativeBias(4, 2, "released").double()
    torch.nn.init.normal_(bias.table_RN)
    torch.testing.assert_close(bias(2), by_hand(bias.table_RN, 4, 52)[:, :5, :5])
    entries, wanted = 7 * 7 + 3, 11 * 11 + 3
    line = torch.nn.functional.interpolate(bias.table_RN.T[None], scale_factor=(wanted + 0.1) / entries, mode="linear")[0].T
    assert len(line) == wanted
    torch.testing.assert_close(bias(6), by_hand(line, 6, entries))


def test_whole_branches_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    tower = BEiT(image_size=SIDE, patch=PATCH, width=WIDTH, layers=LAYERS, heads=HEADS, drop_path=0.5)
    image = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(tower.eval()(image).pooled_BD, tower(image).pooled_BD)
    assert not torch.equal(tower.train()(image).pooled_BD, tower(image).pooled_BD)
    assert [block.drop_path for block in tower.blocks] == [0.0, 0.25, 0.5]


def test_sizes_that_are_no_multiple_and_unknown_forms_are_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 8"):
        BEiT(image_size=SIDE, patch=PATCH, width=WIDTH, layers=1, heads=2)(torch.zeros(1, 3, 20, 20))
    with pytest.raises(ConfigError, match="resampled"):
        RelativeBias(3, 2, "cut")  # type: ignore[arg-type]
