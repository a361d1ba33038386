"""LLaVA 1.6's sequence of tiles against transformers, and the part of the image that each token shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from diptych.core.errors import ShapeError
from diptych.data.media.tiles import fitting_size
from diptych.models.bridges.tile_packing import pack_tiles

SIZES = [(32, 64), (64, 32), (64, 64), (96, 32), (32, 96)]
"""Widths and heights in tiles of 32 pixels and patches of 8."""


@pytest.fixture(scope="module")
def theirs() -> Any:
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_grid_pinpoints=[[height, width] for width, height in SIZES],
        image_token_index=9,
    )
    return transformers.LlavaNextModel(config)


def test_tokens_stand_as_in_transformers(theirs: Any, parity: Any) -> None:
    torch.manual_seed(0)
    pairs = []
    for width, height in ((64, 32), (100, 30), (50, 61), (31, 90), (64, 64), (200, 90)):
        across, down = (side // 32 for side in fitting_size(width, height, SIZES))
        token = torch.randn(1 + across * down, 16, 8)
        newline = torch.randn(8)
        expected, _ = theirs.pack_image_features([token], torch.tensor([[height, width]]), "default", newline)
        found = pack_tiles(token, width=width, height=height, columns=across, rows=down, newline_D=newline, exact=True)
        pairs.append((found.token_KD, expected[0]))
        assert len(found.part_K4) == len(found.token_KD)
    parity("llava", "tokens of LLaVA 1.6's tiles", "LlavaNextModel.pack_image_features of transformers", pairs, tolerance=0)


def test_each_token_knows_its_part_of_the_image() -> None:
    """A wide image in 2 x 1 tiles, without padding: tokens hold their own coordinates."""
    side = 4
    step = torch.arange(2 * side) / (2 * side)
    place = torch.stack([step.expand(side, -1), (torch.arange(side) / side)[:, None].expand(-1, 2 * side)], 2)
    tiles = torch.stack([place[:, :side], place[:, side:]]).flatten(1, 2)
    whole = torch.zeros(1, 16, 2)
    found = pack_tiles(torch.cat([whole, tiles]), width=64, height=32, columns=2, rows=1, newline_D=torch.full((2,), 9.0))
    rows = found.part_K4[16:].unflatten(0, (side, 2 * side + 1))
    torch.testing.assert_close(
        rows[:, :-1, :2].flatten(0, 1), found.token_KD[16:].unflatten(0, (side, 2 * side + 1))[:, :-1].flatten(0, 1)
    )
    assert rows[:, -1].eq(-1).all()
    assert found.part_K4[0].tolist() == [0.0, 0.0, 0.25, 0.25]
    padded = pack_tiles(torch.zeros(3, 16, 1), width=64, height=16, columns=2, rows=1)
    outside = padded.part_K4[16:].unflatten(0, (4, 8))
    assert outside[0, 0].tolist() == pytest.approx([0.0, -0.5, 0.125, 0.0])
    with pytest.raises(ShapeError, match="expected 3 squares"):
        pack_tiles(torch.zeros(2, 16, 1), width=64, height=16, columns=2, rows=1)


@pytest.mark.parametrize(
    ("width", "height", "columns", "rows", "lines", "line"),
    [(176, 55, 2, 2, 14, 48), (205, 328, 2, 1, 24, 14), (88, 55, 1, 2, 14, 24)],
)
def test_padding_is_cut_as_by_the_authors(width: int, height: int, columns: int, rows: int, lines: int, line: int) -> None:
    """`unpad_image` of LLaVA at c121f04 left these sides of 24 x 24 tokens a tile, fewer than the exact quotients 16, 16, 16."""
    token = torch.zeros(1 + columns * rows, 576, 1)
    found = pack_tiles(token, width=width, height=height, columns=columns, rows=rows, newline_D=torch.ones(1))
    assert len(found.token_KD) == 576 + lines * (line + 1)
    exact = pack_tiles(token, width=width, height=height, columns=columns, rows=rows, newline_D=torch.ones(1), exact=True)
    assert len(exact.token_KD) > len(found.token_KD)


def test_an_image_without_tiles_ends_its_line() -> None:
    token = torch.randn(1, 16, 3)
    found = pack_tiles(token, width=9, height=9, columns=0, rows=0, newline_D=torch.ones(3))
    torch.testing.assert_close(found.token_KD, torch.cat([token[0], torch.ones(1, 3)]))
    assert found.part_K4[-1].tolist() == [-1.0] * 4
    assert pack_tiles(token, width=9, height=9, columns=0, rows=0).token_KD.shape == (16, 3)
