"""Token reduction: each way against an independent one, and the source map against the tokens it explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.token_reduction import (
    ReducedTokens,
    TokenResampler,
    concatenate_tokens,
    merge_tokens,
    merged_count,
    pool_tokens,
    shuffle_tokens,
    source_heat,
)
from diptych.models.towers.towers import image_tower
from diptych.models.towers.video.temporal_merge import FrameAverageTower, TemporalMerge


def naive_merge(
    token: np.ndarray[Any, Any], metric: np.ndarray[Any, Any], merged: int
) -> tuple[np.ndarray[Any, Any], list[list[int]]]:
    """One row by loops: the patches of each token, and their means."""
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    even, odd = list(range(0, len(token), 2)), list(range(1, len(token), 2))
    best = {place: max(odd, key=lambda other: unit[place] @ unit[other]) for place in even[1:]}
    going = sorted(best, key=lambda place: -float(unit[place] @ unit[best[place]]))[
        : len(token) - merged_count(len(token), merged)
    ]
    groups = [[place] for place in even if place not in going]
    groups += [[place, *[one for one in going if best[one] == place]] for place in odd]
    return np.stack([token[group].mean(0) for group in groups]), groups


@pytest.mark.parametrize(("tokens", "merged"), [(9, 2), (9, 4), (9, 9), (16, 3), (3, 1), (5, 0)])
def test_merging_is_that_of_a_loop(tokens: int, merged: int) -> None:
    torch.manual_seed(tokens + merged)
    token, metric = torch.randn(2, tokens, 4).double(), torch.randn(2, tokens, 3).double()
    found = merge_tokens(token, metric, merged)
    for row in range(2):
        expected, groups = naive_merge(token[row].numpy(), metric[row].numpy(), merged)
        np.testing.assert_allclose(found.token_BKD[row], expected, atol=1e-6)
        sources = [sorted(patch.nonzero()[:, 0].tolist()) for patch in found.source_BKP[row]]
        assert sources == [sorted(group) for group in groups]
    assert torch.equal(found.token_BKD[:, 0], token[:, 0]), "the class token stays"
    if not merged:
        assert found.token_BKD.shape == token.shape


def test_twins_merge_to_themselves_and_maps_follow_several_steps() -> None:
    torch.manual_seed(0)
    half = torch.randn(1, 6, 5)
    twins = half.repeat_interleave(2, 1)  # places 2n and 2n + 1 are alike
    first = merge_tokens(twins, twins, 5)
    assert torch.equal(first.token_BKD[:, 2:], half[:, 1:])
    second = merge_tokens(first.token_BKD, first.token_BKD, 2, first.source_BKP)
    torch.testing.assert_close(second.source_BKP.sum(2), torch.ones(1, second.source_BKP.shape[1]))
    torch.testing.assert_close(second.source_BKP @ twins, second.token_BKD)


def test_the_published_counts() -> None:
    count = 257
    for _ in range(12):
        count = merged_count(count, 19)
    assert count == 29
    made: Any = connector(
        "merging", 8, 16, bert={"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 8}
    )
    assert made.count(257) == 29


def explained(found: ReducedTokens, token_BPD: torch.Tensor) -> None:
    """Each token is the mean of its patches by their shares."""
    torch.testing.assert_close(found.source_BKP @ token_BPD, found.token_BKD)
    torch.testing.assert_close(found.source_BKP.sum(2), torch.ones(found.source_BKP.shape[:2]))


def test_pooling_is_a_mean_over_windows(parity: Any) -> None:
    torch.manual_seed(0)
    token = torch.randn(2, 4 * 6 * 6, 5)
    found = pool_tokens(token, (4, 6, 6), (2, 3, 2))
    expected = token.view(2, 2, 2, 3, 2, 2, 3, 5).mean((2, 4, 6)).flatten(1, 3)
    parity("pllava", "pooling where sides divide", "a mean over a reshape", [(found.token_BKD, expected)], tolerance=1e-6)
    explained(found, token)
    overlapping = pool_tokens(torch.randn(1, 24 * 24, 3), (1, 24, 24), (1, 16, 16))
    windows = [columns.nonzero()[:, 0].tolist() for columns in source_heat(overlapping.source_BKP, (1, 24, 24))[0, :3, 0, 0]]
    assert windows == [[0, 1], [1, 2], [3, 4]]
    explained(pool_tokens(token, (4, 6, 6), (3, 4, 5)), token)
    with pytest.raises(ConfigError, match=r"pooling to \[5, 6, 6\]"):
        pool_tokens(token, (4, 6, 6), (5, 6, 6))
    with pytest.raises(ShapeError, match="tokens must be"):
        pool_tokens(token, (4, 6, 5), (1, 1, 1))


@pytest.mark.parametrize("order", ["v1", "v2"])
def test_pixel_shuffle_is_internvls(order: Any, parity: Any) -> None:
    torch.manual_seed(0)
    token = torch.randn(2, 16, 6)
    image = token.view(2, 4, 4, 6)
    half = image.view(2, 4, 2, 12).permute(0, 2, 1, 3).contiguous().view(2, 2, 2, 24)  # as InternVL writes it down, [B, W, H, C]
    expected = (half if order == "v1" else half.permute(0, 2, 1, 3)).reshape(2, 4, 24)
    found = shuffle_tokens(token, (1, 4, 4), order=order)
    parity(
        "mono_internvl", f"pixel shuffle {order}", "InternVL's pixel_shuffle by hand", [(found.token_BKD, expected)], tolerance=0
    )
    if order == "v2":
        square = [0, 1, 4, 5]
        assert found.source_BKP[0, 0].nonzero()[:, 0].tolist() == square
        assert torch.equal(found.token_BKD[0, 0], token[0, square].flatten())
        theirs = transformers.InternVLModel.pixel_shuffle(None, image, 0.5).reshape(2, 4, 24)
        assert torch.equal(found.token_BKD, theirs)
    with pytest.raises(ConfigError, match="cannot be shuffled by 3"):
        shuffle_tokens(token, (1, 4, 4), 3)


def test_neighbours_stand_side_by_side() -> None:
    token = torch.randn(2, 8, 3)
    found = concatenate_tokens(token, 4)
    assert torch.equal(found.token_BKD[1, 1], token[1, 4:].flatten())
    assert found.source_BKP[0].tolist() == [[0.25] * 4 + [0.0] * 4, [0.0] * 4 + [0.25] * 4]
    with pytest.raises(ConfigError, match="8 patches cannot be taken 3"):
        concatenate_tokens(token, 3)


def test_a_resampler_says_what_its_queries_read() -> None:
    torch.manual_seed(0)
    made = TokenResampler(8, queries=3, heads=2)
    token = torch.randn(2, 5, 8)
    found = made(token)
    assert found.token_BKD.shape == (2, 3, 8)
    torch.testing.assert_close(found.source_BKP.sum(2), torch.ones(2, 3))
    shifted = made(token.flip(1))
    torch.testing.assert_close(shifted.source_BKP, found.source_BKP.flip(2))
    torch.testing.assert_close(shifted.token_BKD, found.token_BKD)


def test_frames_are_merged_softly_place_by_place(parity: Any) -> None:
    torch.manual_seed(0)
    merge = TemporalMerge(16, hidden=8, heads=4)
    x = torch.randn(6, 5, 16)
    assert torch.equal(merge(x, 3), x), "alpha starts at 0"
    torch.nn.init.constant_(merge.alpha, 0.7)
    expected = x.clone()
    with torch.no_grad():
        for clip in range(2):
            for place in range(5):
                tokens = x[3 * clip : 3 * clip + 3, place]
                query, key = merge.query(tokens), merge.key(tokens)
                for head in range(4):
                    logit = query[:, 2 * head : 2 * head + 2] @ key[:, 2 * head : 2 * head + 2].T * 8**-0.5
                    mixed = logit.softmax(1) @ tokens[:, 4 * head : 4 * head + 4]
                    expected[3 * clip : 3 * clip + 3, place, 4 * head : 4 * head + 4] += 0.7 * mixed
        found = merge(x, 3)
    parity(
        "simvlg",
        "soft merging of frames",
        "TemporalTokenMerge of EVLGen at 2e8c44d, by loops",
        [(found, expected)],
        tolerance=1e-6,
    )
    tower, plain = FrameAverageTower(image_tower("vit_micro")), None
    image = torch.randn(2, 3, 3, 48, 48)
    plain = tower.inner(image.flatten(0, 1)).tokens_BPD.unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(tower(image).tokens_BPD, plain)
    for module in tower.merges:
        torch.nn.init.constant_(module.alpha, 1.0)  # type: ignore[arg-type]
    assert not torch.allclose(tower(image).tokens_BPD, plain)
    with pytest.raises(ConfigError, match="no blocks to merge frames in"):
        FrameAverageTower(image_tower("convnet_tiny"))
