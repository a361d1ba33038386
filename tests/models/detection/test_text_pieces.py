"""Texts read piece by piece, as Grounding DINO's masks and places have them."""

from __future__ import annotations

import pytest
import torch

from diptych.models.detection.text_pieces import encode_pieces
from diptych.models.towers.towers import text_tower

transformers = pytest.importorskip("transformers")
ENDS = (101, 102, 1012, 1029)
"""BERT's marks, the full stop and the question mark."""


def test_every_piece_is_read_as_grounding_dino_reads_it() -> None:
    from transformers.models.grounding_dino.modeling_grounding_dino import (
        generate_masks_with_special_tokens_and_transfer_map as masks_and_places,
    )

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, attn_implementation="eager",
    )  # fmt: skip
    tower = text_tower("hf", config=config.to_dict(), pooling="cls", length=20).eval()
    bert = tower.net
    text_BL = torch.tensor(
        [[101, 7, 8, 1012, 9, 10, 11, 1012, 102, 0, 0, 0], [101, 5, 1012, 6, 7, 8, 9, 1029, 12, 13, 1012, 102]]
    )
    mask_BL = text_BL != 0
    own_BLL, place_BL = masks_and_places(text_BL, torch.tensor(ENDS))
    with torch.no_grad():
        wanted_BLD = bert(text_BL, attention_mask=own_BLL[:, None], position_ids=place_BL).last_hidden_state
        got_BLD = encode_pieces(tower, text_BL, mask_BL, ENDS)
    torch.testing.assert_close(got_BLD[mask_BL], wanted_BLD[mask_BL], atol=1e-5, rtol=0)
    assert (got_BLD[~mask_BL] == 0).all()


def test_a_text_without_an_end_is_one_piece_and_pieces_do_not_hear_each_other() -> None:
    torch.manual_seed(0)
    tower = text_tower("text_micro", vocab_size=20, width=16, heads=2, length=12).eval()
    text_BL = torch.randint(3, 20, (2, 8))
    mask_BL = torch.ones_like(text_BL, dtype=torch.bool)
    whole_BLD = tower(text_BL, mask_BL).tokens_BPD
    torch.testing.assert_close(encode_pieces(tower, text_BL, mask_BL, (1,)), whole_BLD)
    text_BL[:, 3] = 1
    before_BLD = encode_pieces(tower, text_BL, mask_BL, (1,))
    text_BL[:, 6] = 2
    after_BLD = encode_pieces(tower, text_BL, mask_BL, (1,))
    torch.testing.assert_close(before_BLD[:, :4], after_BLD[:, :4])
    assert (before_BLD[:, 4:] - after_BLD[:, 4:]).abs().amin(0).amax() > 1e-3
    before_BLD.square().sum().backward()
    assert tower.embed.weight.grad is not None
