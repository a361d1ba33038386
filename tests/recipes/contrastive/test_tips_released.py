"""The towers of TIPS against the released ones (google-deepmind/tips 4db271d, pytorch/), float64.

Every weight of the release is 0.3 sin(0.37 i + length of its name), so that its answers alone are stored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.models.io.releases.tips import from_text, from_vision
from diptych.models.towers.towers import image_tower, text_tower

STORED = json.loads((Path(__file__).parent / "fixtures" / "tips_released.json").read_text(encoding="utf-8"))
RELEASE = "google-deepmind/tips 4db271d"


def filled(name: str, shape: Any) -> Tensor:
    """The release's parameter of that name."""
    count = torch.Size(shape).numel()
    return (0.3 * torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + len(name))).reshape(shape)


def adopted(module: Any, names: dict[str, str], opened: Any) -> None:
    """Each of our parameters becomes the release's of the name beside it, where `opened`, the map of released files, puts it as well."""
    own = dict(module.named_parameters())
    assert set(own) == set(names)
    with torch.no_grad():
        for mine, theirs in names.items():
            own[mine].copy_(filled(theirs, own[mine].shape))
    extra = {"cls_token": 2, "register_tokens": 2, "mask_token": 1, "pos_embed": 1}  # dimensions of one that the release has more
    given = {theirs: filled(theirs, (1,) * extra.get(theirs, 0) + tuple(own[mine].shape)) for mine, theirs in names.items()}
    placed = opened(given)
    assert placed.keys() == own.keys()
    assert all(torch.equal(placed[name], tensor) for name, tensor in own.items())


def test_the_text_tower_is_the_released_one(parity: Any) -> None:
    tower: Any = text_tower("text_tips", vocab_size=20, length=64, width=8, layers=2, heads=2).double().eval()
    names = {"embed.weight": "token_embedding.weight"}
    parts = {"attention.qkv": "attn.in_proj_", "attention.out": "attn.out_proj.", "mlp_in": "mlp.c_fc.", "mlp_out": "mlp.c_proj."}
    parts |= {"norm_1": "ln_1.", "norm_2": "ln_2."}
    for kind in ("weight", "bias"):
        names[f"norm_after.{kind}"] = f"ln_final.{kind}"
        for layer in range(2):
            for mine, theirs in parts.items():
                names[f"transformer.blocks.{layer}.{mine}.{kind}"] = f"transformer.resblocks.{layer}.{theirs}{kind}"
    adopted(tower, names, from_text)
    ids_BL = torch.tensor([[3, 7, 19, 4, 0, 0], [5, 1, 2, 8, 11, 6]])
    mask_BL = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    with torch.no_grad():
        found = tower(ids_BL, mask_BL).pooled_BD
    parity("tips", "the text tower", RELEASE, [(found, torch.tensor(STORED["text"], dtype=torch.float64))], tolerance=1e-6)


def test_the_image_tower_is_the_released_one(parity: Any) -> None:
    """Both class tokens and the patches, some of them hidden."""
    tower: Any = image_tower("dense_b14", image_size=28, width=8, layers=2, heads=2).double().eval()
    names = {"class_D": "cls_token", "second_D": "register_tokens", "mask_D": "mask_token", "position_PD": "pos_embed"}
    parts = {"block.attention.qkv": "attn.qkv", "block.attention.out": "attn.proj", "block.mlp_in": "mlp.fc1"}
    parts |= {"block.mlp_out": "mlp.fc2", "block.norm_1": "norm1", "block.norm_2": "norm2"}
    for kind in ("weight", "bias"):
        names |= {f"patches.{kind}": f"patch_embed.proj.{kind}", f"norm_after.{kind}": f"norm.{kind}"}
        for layer in range(2):
            names |= {f"blocks.{layer}.{mine}.{kind}": f"blocks.{layer}.{theirs}.{kind}" for mine, theirs in parts.items()}
    for layer in range(2):
        names |= {
            f"blocks.{layer}.scale_1_D": f"blocks.{layer}.ls1.gamma",
            f"blocks.{layer}.scale_2_D": f"blocks.{layer}.ls2.gamma",
        }
    adopted(tower, names, from_vision)
    image_BCHW = torch.sin(torch.arange(2 * 3 * 28 * 28).double() * 0.011).reshape(2, 3, 28, 28) * 0.5 + 0.5
    masked_BP = torch.tensor([[True, False, False, True], [False, True, False, False]])
    with torch.no_grad():
        found = tower(image_BCHW, masked_BP)
    pairs = [(found.pooled_BD, "first"), (found.second_BD, "second"), (found.tokens_BPD, "patches")]
    stored = [(ours, torch.tensor(STORED[name], dtype=torch.float64)) for ours, name in pairs]
    parity("tips", "both class tokens and patches of the image tower, some hidden", RELEASE, stored, tolerance=1e-9)


def test_the_text_tower_begins_and_drops_as_the_released_flax_modules(parity: Any) -> None:
    """scenic/models/text.py: words normal with variance 1 / width, maps Xavier-uniform of each part, MLP biases 1e-6, dropout 0.1 in the
    blocks and of their attention."""
    torch.manual_seed(0)
    tower: Any = text_tower("text_tips", vocab_size=2000, width=96, heads=4, layers=1)
    block = tower.transformer.blocks[0]
    reach = {"attention.qkv": 96 + 96, "attention.out": 96 + 96, "mlp_in": 96 + 384, "mlp_out": 96 + 384}
    pairs = [
        (block.get_submodule(name).weight.detach().abs().max(), torch.tensor((6 / sides) ** 0.5)) for name, sides in reach.items()
    ]
    pairs.append((tower.embed.weight.detach().std(), torch.tensor(96**-0.5)))
    parity("tips", "where the text tower's weights begin", f"{RELEASE}, scenic/models/text.py", pairs, tolerance=1e-3)
    assert not block.attention.qkv.bias.any()
    assert 0 < block.mlp_in.bias.abs().max() < 1e-5
    assert (block.dropout, block.attention.dropout) == (0.1, 0.1)
    ids_BL, mask_BL = torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.bool)
    assert not torch.equal(tower(ids_BL, mask_BL).pooled_BD, tower(ids_BL, mask_BL).pooled_BD)
    tower.eval()
    assert torch.equal(tower(ids_BL, mask_BL).pooled_BD, tower(ids_BL, mask_BL).pooled_BD)
