"""Positions of another resolution or length."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed

from diptych.core.errors import ConfigError
from diptych.train.tuning.positions import fitted, resized_grid, resized_line


def test_a_grid_is_resized_as_open_clip_does_and_class_tokens_stay() -> None:
    position_PD = torch.randn(1 + 7 * 7, 6)
    state: dict[str, Any] = {"visual.positional_embedding": position_PD}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(12, 12))))
    found = resized_grid(position_PD, 145)
    assert torch.allclose(found, state["visual.positional_embedding"], atol=1e-6)
    assert torch.equal(found[0], position_PD[0])
    assert resized_grid(position_PD[1:], 16).shape == (16, 6)  # SigLIP's: no class token
    with pytest.raises(ConfigError, match="form a square"):
        resized_grid(torch.randn(50, 6), 53)


def test_a_longer_text_is_stretched_as_open_clip_does() -> None:
    position_LD = torch.randn(16, 6)
    state: dict[str, Any] = {"positional_embedding": position_LD}
    resize_text_pos_embed(state, SimpleNamespace(positional_embedding=torch.zeros(40, 6)))
    assert torch.allclose(resized_line(position_LD, 40), state["positional_embedding"], atol=1e-6)
    assert torch.equal(resized_line(position_LD, 9), position_LD[:9])


def test_kept_places_stay_and_the_rest_is_long_clips() -> None:
    """77 places become 248: 20 stay, each of the others becomes four, and the last step goes on beyond the end."""
    old, keep = torch.randn(77, 5, dtype=torch.float64), 20
    expected = torch.zeros(248, 5, dtype=torch.float64)
    expected[:keep] = old[:keep]
    for i in range(76 - keep):
        for part in range(4):
            expected[keep + 4 * i + part] = (4 - part) / 4 * old[keep + i] + part / 4 * old[keep + i + 1]
    for part in range(4):
        expected[244 + part] = old[76] + part / 4 * (old[76] - old[75])
    assert torch.allclose(resized_line(old, 248, keep=keep), expected, atol=1e-12)
    with pytest.raises(ConfigError, match="at most 14"):
        resized_line(torch.randn(16, 3), 20, keep=15)


def test_only_positions_of_another_count_are_resized_and_it_is_said() -> None:
    given = {"image_tower.position_PD": torch.randn(10, 4), "text_tower.position_LD": torch.randn(8, 4), "other": torch.ones(2)}
    own = {
        "encoder.image_tower.position_PD": torch.zeros(17, 4),
        "text_tower.position_LD": torch.zeros(8, 4),
        "other": torch.zeros(3),
    }
    said: list[str] = []
    out = fitted(given, own, say=said.append)
    assert out["image_tower.position_PD"].shape == (17, 4)
    assert out["text_tower.position_LD"] is given["text_tower.position_LD"]
    assert said == ["encoder.image_tower.position_PD: 10 positions become 17"]
