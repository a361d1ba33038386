"""The reader of hidden words: what is behind a mask is not seen, the image is, and padding is not."""

from __future__ import annotations

import torch

from diptych.models.pairs.matching.fusion_reader import FusionEncoder, PostNormCrossBlock, word_table
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower

WORDS, LENGTH = 30, 6


def parts(name: str = "text_micro") -> tuple[Tower, FusionEncoder]:
    torch.manual_seed(0)
    tower = text_tower(name, vocab_size=WORDS, length=LENGTH, width=16, layers=1, heads=2)
    return tower.eval(), FusionEncoder(tower, image_width=8, layers=2, heads=2).eval()


def inputs() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    hidden = torch.zeros(3, LENGTH, dtype=torch.bool)
    hidden[:, 2] = True
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    mask[0, 4:] = False
    return {
        "masked_BL": torch.randint(1, WORDS, (3, LENGTH), generator=chance),
        "hidden_BL": hidden,
        "mask_BL": mask,
        "patch_BPD": torch.randn(3, 5, 8, generator=chance),
        "place_BM": torch.tensor([[2], [2], [2]]),
    }


def test_a_hidden_word_is_not_seen_and_every_other_part_is() -> None:
    for name in ("text_micro", "bert_tiny"):
        tower, reader = parts(name)
        given = inputs()
        logits = reader(tower, *given.values())
        assert logits.shape == (3, 1, WORDS)
        other = given["masked_BL"].clone()
        other[:, 2] = 7
        torch.testing.assert_close(reader(tower, *{**given, "masked_BL": other}.values()), logits)
        other = given["masked_BL"].clone()
        other[:, 1] = (other[:, 1] + 1) % WORDS
        assert not torch.allclose(reader(tower, *{**given, "masked_BL": other}.values()), logits)
        assert not torch.allclose(reader(tower, *{**given, "patch_BPD": -given["patch_BPD"]}.values()), logits)
        other = given["masked_BL"].clone()
        other[0, 5] = (other[0, 5] + 1) % WORDS
        torch.testing.assert_close(reader(tower, *{**given, "masked_BL": other}.values())[0], logits[0], atol=1e-5, rtol=1e-4)


def test_the_word_head_is_tied_to_the_towers_table() -> None:
    tower, reader = parts()
    before = reader(tower, *inputs().values())
    with torch.no_grad():
        word_table(tower).weight[11] += 100 * torch.randn(16)
    changed = (reader(tower, *inputs().values()) - before).abs().amax((0, 1)) > 1
    assert changed[11]
    assert not any(name.endswith("table.weight") for name, _ in reader.named_parameters())


def test_every_parameter_gets_a_gradient() -> None:
    tower, reader = parts()
    reader(tower, *inputs().values()).square().sum().backward()
    assert [name for name, p in [*reader.named_parameters(), *tower.named_parameters()] if p.grad is None] == []


def test_the_released_blocks_are_berts_with_cross_attention() -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(**sizes, is_decoder=True, add_cross_attention=True, attn_implementation="eager")
    theirs = BertLayer(config, layer_idx=0).double().eval()
    ours = PostNormCrossBlock(16, 2, image_width=16, mlp_width=64, dropout=0.1).double().eval()
    names = {"query": "self.query", "key": "self.key", "value": "self.value", "out": "output.dense", "norm": "output.LayerNorm"}
    with torch.no_grad():
        for mine, name in ((ours.attention, theirs.attention), (ours.image, theirs.crossattention)):
            for own, other in names.items():
                mine.get_submodule(own).load_state_dict(name.get_submodule(other).state_dict())
        ours.mlp_in.load_state_dict(theirs.intermediate.dense.state_dict())
        ours.mlp_out.load_state_dict(theirs.output.dense.state_dict())
        ours.norm.load_state_dict(theirs.output.LayerNorm.state_dict())
    x_BLD, patch_BPD = torch.randn(2, 5, 16).double(), torch.randn(2, 3, 16).double()
    mask_BL = torch.tensor([[True] * 5, [True, True, True, False, False]])
    shut = (~mask_BL)[:, None, None, :].double() * -1e9
    given = theirs(x_BLD, attention_mask=shut, encoder_hidden_states=patch_BPD)
    given = given[0] if isinstance(given, tuple) else given
    torch.testing.assert_close(ours(x_BLD, mask_BL, patch_BPD), given)
