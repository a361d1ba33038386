"""One form, many special cases: each falls out of `MutualInformation` by its fields, against code that knows nothing of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from joined_processes import on_processes
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.mutual_information import MutualInformation

N, K, D = 6, 5, 4


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(made(*shape, seed=seed), dim=-1)


def test_a_classifier_is_a_boltzmann_over_class_embeddings(parity: Any) -> None:
    x, label = made(N, D, seed=1).requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 0])
    linear = nn.Linear(D, K, bias=False).double()
    found = MutualInformation(candidates="set")(x, label, set_KD=linear.weight)
    expected = F.cross_entropy(linear(x), label)
    pairs = [(found, expected), *zip(*(torch.autograd.grad(loss, (x, linear.weight)) for loss in (found, expected)), strict=True)]
    parity(
        "m3i",
        "supervised: loss and gradients over class embeddings",
        "torch's cross_entropy behind a linear layer",
        pairs,
        tolerance=1e-12,
    )


def test_clip_is_a_symmetric_boltzmann_over_the_batch(parity: Any) -> None:
    text = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    image = {
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config={**text, "eos_token_id": 49}, vision_config=image, projection_dim=6)
    model = transformers.CLIPModel(config).eval()
    ids = torch.randint(1, 48, (N, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 49
    out = model(input_ids=ids, pixel_values=torch.randn(N, 3, 8, 8), return_loss=True)
    found = MutualInformation(symmetric=True)(out.image_embeds, out.text_embeds, scale=model.logit_scale.exp())
    parity("m3i", "image-text: loss over the batch, both ways", "CLIPModel of transformers", [(found, out.loss)], tolerance=1e-5)


def test_info_nce_is_a_boltzmann_over_the_targets_of_the_batch(parity: Any) -> None:
    view, target = unit(N, D, seed=1), unit(N, D, seed=2)
    found = MutualInformation()(view, target, scale=5.0)
    expected = F.cross_entropy(5 * view @ target.T, torch.arange(N))
    parity("m3i", "two views: loss over the targets of the batch", "torch's cross_entropy", [(found, expected)], tolerance=1e-12)


def test_simclr_is_a_boltzmann_over_all_views_but_the_inputs_own(parity: Any) -> None:
    """NT-Xent by the loop of its paper: 2N views, each against the 2N - 1 others."""
    z = unit(2 * N, D, seed=3).requires_grad_()
    partner = torch.arange(2 * N) ^ 1
    own = torch.eye(2 * N, dtype=torch.bool)
    found = MutualInformation(candidates="set")(z, partner, scale=2.0, set_KD=z, keep_NK=~own)
    total, views = 0.0, z.detach()
    for i in range(2 * N):
        others = sum(math.exp(2 * float(views[i] @ views[k])) for k in range(2 * N) if k != i)
        total -= math.log(math.exp(2 * float(views[i] @ views[i ^ 1])) / others)
    parity("m3i", "SimCLR: loss over all other views", "the loop of its paper", [(found, total / (2 * N))], tolerance=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: MutualInformation(candidates="set")(x, partner, scale=2.0, set_KD=x, keep_NK=~own), z
    )


def test_float32_at_scale_100_is_as_exact_over_a_set_as_cross_entropy() -> None:
    row, index = torch.full((9, 16), 0.25), torch.arange(9)  # equal rows whose products are exact in float32
    errors = []
    for loss in (MutualInformation(candidates="set"), lambda x, y, *, scale, set_KD: F.cross_entropy(scale * x @ set_KD.T, y)):
        wide, short = (
            torch.autograd.grad(loss(x, index, scale=100.0, set_KD=row.to(x)), x)[0].double()
            for x in (row.double().requires_grad_(), row.clone().requires_grad_())
        )
        errors.append(float((wide - short).abs().max()))
    assert errors[0] <= 10 * errors[1]


def test_a_visual_vocabulary_is_a_set_without_gradient() -> None:
    x, words = made(N, D, seed=1).requires_grad_(), made(K, D, seed=2).requires_grad_()
    index = torch.tensor([0, 1, 2, 3, 4, 0])
    MutualInformation(candidates="set")(x, index, set_KD=words.detach()).backward()
    assert words.grad is None
    assert x.grad is not None


def test_masked_pixels_are_a_gaussian(parity: Any) -> None:
    guess, pixels = made(N, 3, D, seed=1), made(N, 3, D, seed=2)
    found = MutualInformation("gaussian", variance=3 * D / 2)(guess, pixels)
    parity("m3i", "masked pixels", "torch's mse_loss", [(found, F.mse_loss(guess, pixels))], tolerance=1e-12)


def test_byol_is_a_gaussian_of_variance_one_half(parity: Any) -> None:
    student, teacher = unit(N, D, seed=1), unit(N, D, seed=2)
    found = MutualInformation("gaussian", variance=0.5)(student, teacher)
    expected = (2 - 2 * F.cosine_similarity(student, teacher)).mean()
    parity("m3i", "BYOL", "two minus twice the cosine", [(found, expected)], tolerance=1e-12)


def test_a_gaussian_is_the_negative_log_density_up_to_its_constant(parity: Any) -> None:
    guess, target = made(N, D, seed=1), made(N, D, seed=2)
    density = torch.distributions.Normal(guess, math.sqrt(0.7)).log_prob(target).sum(1)
    constant = D / 2 * math.log(2 * math.pi * 0.7)
    found = MutualInformation("gaussian", variance=0.7)(guess, target)
    parity("m3i", "Gaussian", "log density of torch.distributions", [(found, (-density - constant).mean())], tolerance=1e-12)


FORMS = {
    "set": MutualInformation(candidates="set"),
    "batch": MutualInformation(),
    "both": MutualInformation(symmetric=True),
    "gaussian": MutualInformation("gaussian"),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_does_not_count_is_as_if_it_were_not_there(name: str) -> None:
    counted = torch.tensor([True, False, True, True, False, True])
    x, y = unit(N, D, seed=1).requires_grad_(), unit(N, D, seed=2)
    options = {"set_KD": unit(K, D, seed=3)} if name == "set" else {}
    target = torch.tensor([0, -1, 4, 2, -1, 1]) if name == "set" else y
    found = FORMS[name](x, target, scale=3.0, counted_N=counted, **options)
    expected = FORMS[name](x[counted], target[counted], scale=3.0, **options)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    (grad,) = torch.autograd.grad(found, x)
    assert (grad[~counted] == 0).all()
    nothing = FORMS[name](x, target, scale=3.0, counted_N=torch.zeros(N, dtype=torch.bool), **options)
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, x)[0] == 0).all()


def test_groups_are_no_negatives_of_each_other() -> None:
    x, y, group = unit(N, D, seed=1), unit(N, D, seed=2), torch.tensor([0, 0, 1, 2, 3, 3])
    logits = 3 * x @ y.T
    same = (group[:, None] == group).fill_diagonal_(False)
    expected = F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(N))
    assert MutualInformation()(x, y, scale=3.0, group_N=group).item() == pytest.approx(expected.item(), abs=1e-12)


def results(rank: int, world: int) -> dict[str, Tensor]:
    """Losses and gradients of a process's share; labels and texts are spread unevenly over the processes."""
    counted = torch.tensor([True, True, True, False, False, True])
    own = slice(rank * N // world, (rank + 1) * N // world)
    found: dict[str, Tensor] = {}
    for name, form in FORMS.items():
        x, y = (unit(N, D, seed=s)[own].clone().requires_grad_() for s in (1, 2))
        options = {"set_KD": unit(K, D, seed=3)} if name == "set" else {}
        target = torch.tensor([0, 3, 4, -1, -1, 1])[own] if name == "set" else y
        loss = form(x, target, scale=3.0, counted_N=counted[own], **options)
        loss.backward()
        found[name], found[f"grad {name}"] = loss.detach(), x.grad
    return found


def test_two_processes_agree_with_one_where_labels_are_spread_unevenly(tmp_path: Path) -> None:
    alone = results(0, 1)
    for rank, found in enumerate(on_processes(results, tmp_path)):
        for name in FORMS:
            torch.testing.assert_close(found[name], alone[name], rtol=1e-12, atol=1e-12)
            share = alone[f"grad {name}"][rank * N // 2 : (rank + 1) * N // 2]
            torch.testing.assert_close(found[f"grad {name}"] / 2, share, rtol=1e-10, atol=1e-12, msg=name)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a boltzmann over the batch"):
        MutualInformation("gaussian", symmetric=True)
    with pytest.raises(ConfigError, match="variance is 0"):
        MutualInformation("gaussian", variance=0)
    with pytest.raises(ConfigError, match="needs set_KD"):
        MutualInformation(candidates="set")(made(N, D, seed=1), torch.zeros(N, dtype=torch.int64))
    with pytest.raises(ShapeError, match="differ in shape"):
        MutualInformation("gaussian")(made(N, D, seed=1), made(N, K, seed=1))
