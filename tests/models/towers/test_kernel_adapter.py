"""Adapters of a convolution in loralib's layout: as released, merged, stored, taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diptych.core.contracts import Tuning
from diptych.core.errors import ConfigError
from diptych.models.io.adapter_folder import merge_adapter, save_adapter
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.adapters import LoRAConfig, add_adapters, merged
from diptych.models.towers.kernel_adapter import KernelAdapter
from diptych.models.towers.towers import image_tower, text_tower

RELEASED = Path(__file__).parent / "fixtures" / "kernel_adapter_released.npz"


def encoder() -> DualEncoder:
    torch.manual_seed(0)
    towers = image_tower("vit_micro"), text_tower("text_micro", vocab_size=50, length=8)
    return DualEncoder(*towers, width=16).double()


def test_the_map_and_its_gradients_are_the_released(parity: Any) -> None:
    theirs = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    convolution = nn.Conv2d(3, 5, 4, stride=4, bias=False).double()
    adapter = KernelAdapter(convolution, rank=2, alpha=1.0)
    assert adapter.lora_A.shape == theirs["lora_A"].shape
    assert not adapter.lora_B.any()
    with torch.no_grad():
        convolution.weight.copy_(theirs["weight"])
        adapter.lora_A.copy_(theirs["lora_A"])
        adapter.lora_B.copy_(theirs["lora_B"])
    found = adapter(theirs["x"])
    found.backward(theirs["g"])
    assert adapter.lora_A.grad is not None
    assert adapter.lora_B.grad is not None
    pairs = [(found, theirs["y"]), (adapter.lora_A.grad, theirs["grad_A"]), (adapter.lora_B.grad, theirs["grad_B"])]
    for slug in ("svlc", "syvic"):
        parity(slug, "adapted patches and their gradients", "uvavision/SyViC d2356f7, loralib's Conv2d", pairs, tolerance=1e-12)
    torch.testing.assert_close(adapter.merge()(theirs["x"]), theirs["y"], atol=1e-12, rtol=0)


def test_a_starts_by_the_rule_of_linear_maps() -> None:
    """Uniform within one over the root of its own width, D * side."""
    torch.manual_seed(0)
    weight = KernelAdapter(nn.Conv2d(3, 8, 16, stride=16), rank=8, alpha=8.0).lora_A
    assert weight.shape == (128, 48)
    bound = 48**-0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.std().item() / bound - 3**-0.5) < 0.01


def test_merged_and_stored_models_answer_the_same(tmp_path: Path) -> None:
    base = encoder()
    model = encoder()
    names = add_adapters(model, LoRAConfig.parse("2:qkv,patches", alpha=1.0, kernel="patches"))
    model.double()
    patches = model.image_tower.get_submodule("patches")
    assert isinstance(patches, KernelAdapter)
    assert "image_tower.patches" in names
    side = patches.kernel_size[0]
    assert patches.lora_A.shape == (2 * side, 3 * side)
    assert patches.lora_B.shape == (64 * side, 2 * side)
    assert patches.scaling == 0.5
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    inputs = torch.randn(2, 3, 48, 48).double(), torch.randint(0, 50, (2, 8))
    expected, plain = model.eval()(*inputs), base.eval()(*inputs)
    assert (expected.image_ND - plain.image_ND).abs().max() > 0.05
    flat = merged(model)
    assert flat.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(flat(*inputs).image_ND, expected.image_ND, atol=1e-12, rtol=0)
    save_adapter(model, base, tmp_path / "adapter", rank=2, alpha=1.0)
    merge_adapter(base, tmp_path / "adapter")
    assert base.state_dict().keys() == flat.state_dict().keys()
    found = base.eval()(*inputs)
    torch.testing.assert_close(found.image_ND, expected.image_ND, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.text_ND, expected.text_ND, atol=1e-6, rtol=0)


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"--lora-kernel: no convolution with an adapter has 'qkv' .expected of patches"):
        add_adapters(encoder(), LoRAConfig.parse("4:qkv,patches", kernel="qkv"))
    bare = {name for name, _ in encoder().named_parameters() if name.startswith("text_tower")}
    with pytest.raises(ConfigError, match="leaves no adapter of another kind"):
        add_adapters(encoder(), LoRAConfig(4, ("patches",), kernel="patches"), bare=bare)
    with pytest.raises(ConfigError, match="kernels of 3 x 5, 1 groups and zeros around"):
        KernelAdapter(nn.Conv2d(3, 4, (3, 5)), 2, 2.0)
    with pytest.raises(ConfigError, match="lora_kernel and lora_full are options of adapters"):
        Tuning(lora_kernel="patches")
