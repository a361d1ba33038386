"""Token-wise max-mean against the loops of its definition, in float64; nothing that padding holds can change it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from joined_processes import on_processes
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.late_interaction import late_interaction, pad_with_first_token, select_tokens

N, P, L, D = 6, 5, 7, 4
GROUP = torch.tensor([4, 1, 4, 2, 1, 9])
LENGTHS = torch.tensor([7, 1, 3, 2, 5, 4])
PATCHES = torch.tensor([5, 5, 4, 1, 5, 2])


def made(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def batch(*, masked: bool = True) -> dict[str, Tensor]:
    masks = {
        "patch_mask_NP": torch.arange(P) < PATCHES[:, None],
        "word_mask_NL": torch.arange(L) < LENGTHS[:, None],
    }
    return {"patch_NPD": made(N, P, D, seed=1), "word_NLD": made(N, L, D, seed=2), **(masks if masked else {})}


def naive_scores(patch_NPD: Tensor, word_MLD: Tensor, patch_mask_NP: Tensor, word_mask_ML: Tensor) -> tuple[Tensor, Tensor]:
    by_image, by_text = [], []
    for v, v_real in zip(patch_NPD, patch_mask_NP, strict=True):
        row_i, row_t = [], []
        for t, t_real in zip(word_MLD, word_mask_ML, strict=True):
            v_kept = [v[p] for p in range(len(v)) if v_real[p]]
            t_kept = [t[w] for w in range(len(t)) if t_real[w]]
            row_i.append(sum(max((p @ w for w in t_kept), key=Tensor.item) for p in v_kept) / len(v_kept))
            row_t.append(sum(max((p @ w for p in v_kept), key=Tensor.item) for w in t_kept) / len(t_kept))
        by_image.append(torch.stack(row_i))
        by_text.append(torch.stack(row_t))
    return torch.stack(by_image), torch.stack(by_text)


def naive_loss(given: dict[str, Tensor], scale: Tensor, group: Tensor | None, same: str) -> Tensor:
    by_image, by_text = naive_scores(*(given[name] for name in ("patch_NPD", "word_NLD", "patch_mask_NP", "word_mask_NL")))
    total = torch.zeros((), dtype=torch.float64)
    for logit_NN in (scale * by_image, (scale * by_text).T):
        for i in range(N):
            equal = [j != i and group is not None and bool(group[i] == group[j]) for j in range(N)]
            kept = [logit_NN[i, j] for j in range(N) if not (equal[j] and same == "mask")]
            positive = [logit_NN[i, j] for j in range(N) if j == i or (equal[j] and same == "positive")]
            total = total + torch.stack(kept).logsumexp(0) - torch.stack(positive).mean()
    return total / (2 * N)


def leaves(given: dict[str, Tensor], scale: float = 9.0) -> tuple[dict[str, Tensor], list[Tensor]]:
    copies = {name: x.clone().requires_grad_() if x.is_floating_point() else x for name, x in given.items()}
    scale_1 = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    return copies, [copies["patch_NPD"], copies["word_NLD"], scale_1]


@pytest.mark.parametrize("cells", [1, 40, 1 << 21])
@pytest.mark.parametrize("same", ["mask", "positive", "negative", ""])
def test_loss_and_gradients_equal_the_naive_loops(same: Any, cells: int, parity: Any) -> None:
    group = GROUP if same else None
    ours, leaf = leaves(batch())
    loss, _ = late_interaction(**ours, scale=leaf[2], group_N=group, same=same or "mask", cells=cells)
    theirs, other = leaves(batch())
    expected = naive_loss(theirs, other[2], group, same)
    pairs = [(loss, expected), *zip(torch.autograd.grad(loss, leaf), torch.autograd.grad(expected, other), strict=True)]
    parity("filip", "token-wise loss and every gradient", "a loop over images, texts, patches and words", pairs, tolerance=1e-12)


def test_gradients_by_finite_differences() -> None:
    masks = {name: value for name, value in batch().items() if "mask" in name}

    def loss(patch: Tensor, word: Tensor, scale: Tensor) -> Tensor:
        patch, word = F.normalize(patch, dim=-1), F.normalize(word, dim=-1)
        return late_interaction(patch, word, scale=scale, **masks, group_N=GROUP, cells=60)[0]

    inputs = leaves(batch())[1]
    assert torch.autograd.gradcheck(loss, inputs)


def test_with_one_token_each_it_is_clip(parity: Any) -> None:
    image, text = made(N, 1, D, seed=3), made(N, 1, D, seed=4)
    ours, leaf = leaves({"patch_NPD": image, "word_NLD": text})
    loss, parts = late_interaction(**ours, scale=leaf[2], group_N=GROUP)
    theirs, other = leaves({"patch_NPD": image, "word_NLD": text})
    expected, same_parts = info_nce(theirs["patch_NPD"][:, 0], theirs["word_NLD"][:, 0], scale=other[2], group_N=GROUP)
    pairs = [(loss, expected), *zip(torch.autograd.grad(loss, leaf), torch.autograd.grad(expected, other), strict=True)]
    pairs += [(parts[name], same_parts[name]) for name in same_parts if name in parts]
    assert len(pairs) == 8
    parity("filip", "the loss with one token an image and text", "info_nce, CLIP's loss", pairs, tolerance=1e-12)


@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan")])
def test_what_padding_holds_and_how_much_of_it_there_is_change_nothing(filler: float) -> None:
    given, leaf = leaves(batch())
    loss, parts = late_interaction(**given, scale=leaf[2])
    grads = torch.autograd.grad(loss, leaf)
    more = batch()
    for token, mask in (("patch_NPD", "patch_mask_NP"), ("word_NLD", "word_mask_NL")):
        more[token] = F.pad(more[token].masked_fill(~more[mask][..., None], filler), (0, 0, 0, 3), value=filler)
        more[mask] = F.pad(more[mask], (0, 3))
    padded, leaf_p = leaves(more)
    again, parts_p = late_interaction(**padded, scale=leaf_p[2])
    assert torch.equal(again, loss)
    assert parts_p == parts
    for grad, padded_grad, size in zip(grads, torch.autograd.grad(again, leaf_p), (P, L, 1), strict=True):
        assert torch.equal(padded_grad[:, :size] if padded_grad.ndim > 1 else padded_grad, grad)
        assert not padded_grad[:, size:].any() if padded_grad.ndim > 1 else True
    real = batch()["word_mask_NL"]
    assert not grads[1][~real].any(), "padding has no gradient"


def test_columns_that_are_padding_in_all_rows_cost_nothing() -> None:
    token_NTD, length_N1 = made(3, 9, D, seed=3), torch.tensor([[2], [5], [1]])
    found = pad_with_first_token(token_NTD, torch.arange(9) < length_N1)
    for row, length in enumerate(length_N1.flatten().tolist()):
        wanted = [token_NTD[row, place if place < length else 0] for place in range(5)]
        assert torch.equal(found.token_NTD[row], torch.stack(wanted))
        assert found.weight_NT[row].tolist() == pytest.approx([1 / length] * length + [0.0] * (5 - length))
    assert pad_with_first_token(token_NTD, torch.ones(3, 9, dtype=torch.bool)).token_NTD.data_ptr() == token_NTD.data_ptr()


def test_left_padding_and_holes_are_padding_too() -> None:
    given = batch()
    order = torch.tensor([6, 0, 3, 1, 5, 2, 4])
    moved = given | {"word_NLD": given["word_NLD"][:, order], "word_mask_NL": given["word_mask_NL"][:, order]}
    torch.testing.assert_close(
        late_interaction(**moved, scale=9.0)[0], late_interaction(**given, scale=9.0)[0], rtol=1e-13, atol=0
    )


def test_the_order_of_the_batch_and_of_tokens_does_not_matter_and_partners_do() -> None:
    given = batch()
    loss = late_interaction(**given, scale=9.0, group_N=GROUP)[0]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {name: value[order] for name, value in given.items()}
    torch.testing.assert_close(late_interaction(**moved, scale=9.0, group_N=GROUP[order])[0], loss, rtol=1e-13, atol=0)
    apart = given | {name: given[name][order] for name in ("word_NLD", "word_mask_NL")}
    assert not torch.isclose(late_interaction(**apart, scale=9.0, group_N=GROUP)[0], loss)


def test_it_stays_finite_at_the_largest_scale_with_equal_rows() -> None:
    patch, word = made(1, P, D, seed=1).repeat(N, 1, 1), made(1, L, D, seed=1).repeat(N, 1, 1)
    given, leaf = leaves({"patch_NPD": patch, "word_NLD": word}, 100.0)
    loss, parts = late_interaction(**given, scale=leaf[2])
    assert loss.item() == pytest.approx(math.log(N), abs=1e-9)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, leaf))
    assert parts["accuracy_image_to_text"] == parts["accuracy_text_to_image"] == 0, "a tie is no hit"


def test_half_precision_is_widened() -> None:
    given = {name: x.half() if x.is_floating_point() else x for name, x in batch().items()}
    half, leaf = leaves(given)
    loss, _ = late_interaction(**half, scale=leaf[2])
    assert loss.dtype == torch.float32
    wide = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    assert loss.item() == pytest.approx(late_interaction(**wide, scale=9.0)[0].item(), abs=1e-5)
    assert {g.dtype for g in torch.autograd.grad(loss, leaf[:2])} == {torch.float16}


def test_memory_grows_with_the_batch_and_not_with_its_square() -> None:
    def kept(rows: int) -> int:
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            alive.append(x)
            return x

        patch, word = made(rows, 4, 8, seed=1).requires_grad_(), made(rows, 4, 8, seed=2).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            late_interaction(patch, word, scale=9.0)
        return sum(sizes.values())

    assert kept(64) <= 2 * kept(32)


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize("of", ["tokens", "places"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_selected_tokens_are_those_of_the_loops(share: float, of: Any) -> None:
    given = batch()
    for name in ("word_NLD", "word_mask_NL"):  # a column that is padding in all rows
        given[name] = torch.cat([given[name], torch.zeros_like(given[name][:, :1])], dim=1)
    place_NP, kept_NP, place_NL, kept_NL = select_tokens(**given, share=share, of=of, cells=50)
    patch, word, patch_real, word_real = (given[n] for n in ("patch_NPD", "word_NLD", "patch_mask_NP", "word_mask_NL"))
    for own, own_real, other, other_real, place, kept in (
        (patch, patch_real, word, word_real, place_NP, kept_NP),
        (word, word_real, patch, patch_real, place_NL, kept_NL),
    ):
        every = torch.cat([o[r] for o, r in zip(other, other_real, strict=True)])
        for i in range(N):
            count = int(own_real[i].sum())
            value = {t: max(float(own[i, t] @ o) for o in every) for t in range(count)}
            most = -(-int(count * share * 100) // 100) if of == "tokens" else max(1, int(share * own.shape[1]))
            wanted = sorted(value, key=value.__getitem__, reverse=True)[:most]
            assert place[i][kept[i]].tolist() == wanted


# ---------------------------------------------------------------- processes


def shares(rank: int, world: int) -> dict[str, list[Tensor]]:
    found = {}
    for name, options in {"plain": {}, "mask": {"group_N": GROUP}, "positive": {"group_N": GROUP, "same": "positive"}}.items():
        own = slice(rank * N // world, (rank + 1) * N // world)
        given, leaf = leaves({key: value[own] for key, value in batch().items()})
        options = {key: value[own] if isinstance(value, Tensor) else value for key, value in options.items()}
        loss, parts = late_interaction(**given, scale=leaf[2], cells=60, **options)
        found[name] = [loss.detach(), *torch.autograd.grad(loss, leaf), torch.stack(list(parts.values()))]
    return found


def test_processes_together_have_the_gradient_of_the_global_mean(tmp_path: Path) -> None:
    """The longest text is in the first process alone: the others' tokens are filled up to its length."""
    world = 2
    each = on_processes(shares, tmp_path, world=world)
    for name, (loss, patch, word, scale, parts) in shares(0, 1).items():
        for found in each:
            torch.testing.assert_close(found[name][0], loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(found[name][4], parts, rtol=1e-12, atol=1e-14)
        for place, expected in ((1, patch), (2, word)):
            torch.testing.assert_close(torch.cat([f[name][place] for f in each]) / world, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(torch.stack([f[name][3] for f in each]).mean(0), scale, rtol=1e-10, atol=1e-13)


def test_bad_input_is_named() -> None:
    given = batch()
    empty = given | {"word_mask_NL": given["word_mask_NL"].clone()}
    empty["word_mask_NL"][2] = False
    with pytest.raises(ShapeError, match="the text in row 2 has no token"):
        late_interaction(**empty, scale=9.0)
    with pytest.raises(ShapeError, match=r"words \[M, L, D\] with one D; got \[6, 5, 4\] and \[6, 7, 3\]"):
        late_interaction(given["patch_NPD"], given["word_NLD"][..., :3], scale=9.0)
    with pytest.raises(ShapeError, match="6 images and 5 texts"):
        late_interaction(given["patch_NPD"], given["word_NLD"][:5], scale=9.0)
    with pytest.raises(ShapeError, match=r"group_N must be \[6\]"):
        late_interaction(given["patch_NPD"], given["word_NLD"], scale=9.0, group_N=GROUP[:2])
    with pytest.raises(ConfigError, match="same must be"):
        late_interaction(given["patch_NPD"], given["word_NLD"], scale=9.0, group_N=GROUP, same="maks")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="share of tokens that are kept is 0"):
        select_tokens(given["patch_NPD"], given["word_NLD"], 0.0)
