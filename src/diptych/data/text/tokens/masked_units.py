"""Masking of whole units of texts: phrases, words with all their tokens, entities, for masked language modelling.

`plan_units` runs where batches are made and gives, for each token of a unit, the turn in which it is hidden and the id that replaces it.
`mask_units` hides the first units of each text, as many as a share requires; it is cheap and runs anywhere, so that a share that
grows with training (PLIP's) may be set in the step itself. `masked_unit_indices` lists the units with a hidden token: they also
have to be hidden where the same entity occurs elsewhere.

What implementations get wrong: single pieces of a phrase are hidden, which its other pieces give away; shares that are of tokens, so
that long phrases are hidden less often; a text whose only unit is never hidden because its share rounds to none.

Letters: B texts, L tokens, M tokens of units, at most, of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.text.tokens.masked_words import MaskedWords

MASK = -1
"""Value in `UnitPlan.stands_BM` that denotes the mask token, independent of the vocabulary."""

Units = Sequence[Sequence[int]]
"""Places of the tokens of each unit of a text. One without a place keeps its number and is never hidden."""


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """place_BM   places of tokens that belong to a unit; 0 if there are fewer than M
    word_BM    the ids that stand there, -1 if there is no such token
    turn_BM    the unit's number in the order in which units of its text are hidden, from 0; of several units, the first to be hidden
    stands_BM  what takes the token's place then: `MASK`, a random id, or its own
    count_B    units with a token
    """

    place_BM: Tensor
    word_BM: Tensor
    turn_BM: Tensor
    stands_BM: Tensor
    count_B: Tensor


def plan_units(
    ids_BL: Tensor,
    units: Sequence[Units],
    rngs: Sequence[np.random.Generator],
    *,
    special: Sequence[int],
    vocab_size: int,
    masked: float = 0.8,
    random: float = 0.1,
) -> UnitPlan:
    """The order in which the units of each text are hidden, from a generator a text.

    special  ids that are never hidden (marks, padding)
    masked, random  the shares of hidden tokens where the mask stands and where a random id does; the rest stay and are asked for all the
             same (BERT's 80, 10 and 10 %). 1 and 0 mask all
    """
    if not 0 <= masked <= 1 or not 0 <= random <= 1 or masked + random > 1 + 1e-9:
        raise ConfigError(f"masked is {masked} and random {random} (expected shares that add up to 1 at most)")
    if not len(ids_BL) == len(units) == len(rngs):
        raise ShapeError(f"{len(ids_BL)} texts, units of {len(units)} and {len(rngs)} generators (expected one each per text)")
    ids, never = ids_BL.numpy(), set(special)
    rows: list[tuple[dict[int, int], list[int], int]] = []
    for row, (of_text, rng) in enumerate(zip(units, rngs, strict=True)):
        real = [[position for position in unit if int(ids[row, position]) not in never] for unit in of_text]
        there = [number for number, positions in enumerate(real) if positions]
        turn: dict[int, int] = {}
        for at, number in enumerate(rng.permutation(there).tolist() if there else []):
            for position in real[number]:
                turn.setdefault(position, at)
        dice = rng.random(len(turn))
        swaps = rng.integers(vocab_size, size=len(turn))
        stands = [
            MASK if die < masked else int(swap) if die < masked + random else int(ids[row, position])
            for position, die, swap in zip(turn, dice, swaps, strict=True)
        ]
        rows.append((turn, stands, len(there)))
    most = max([1, *(len(turn) for turn, _, _ in rows)])
    place_BM, turns, stands_in = (np.zeros((len(rows), most), np.int64) for _ in range(3))
    word = np.full((len(rows), most), -1, np.int64)
    for row, (turn, stands, _) in enumerate(rows):
        positions = list(turn)
        of_row = row, slice(len(positions))
        place_BM[of_row], turns[of_row], stands_in[of_row] = positions, list(turn.values()), stands
        word[of_row] = ids[row, positions]
    counts = np.array([count for _, _, count in rows], np.int64)
    return UnitPlan(*(torch.from_numpy(part) for part in (place_BM, word, turns, stands_in, counts)))


def mask_units(ids_BL: Tensor, plan: UnitPlan, share: float | Tensor) -> MaskedWords:
    """Each text with `share` of its units hidden, rounded half up, at least one if it has any; ids_BL itself stays as it is.

    Where no mask but a random id, or the own one, stands, `hidden_BL` is False.
    """
    asked_BM = _choose_units(plan, share)
    stands_BM = plan.stands_BM.where(asked_BM, MASK)
    swapped_BM = stands_BM != MASK
    rows_B1 = torch.arange(len(ids_BL), device=ids_BL.device)[:, None].expand_as(plan.place_BM)
    changed_BL = ids_BL.clone()
    changed_BL[rows_B1[swapped_BM], plan.place_BM[swapped_BM]] = stands_BM[swapped_BM]
    hidden_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    masked_BM = asked_BM & ~swapped_BM
    hidden_BL[rows_B1[masked_BM], plan.place_BM[masked_BM]] = True
    return MaskedWords(changed_BL, hidden_BL, plan.place_BM, plan.word_BM.masked_fill(~asked_BM, -1))


def masked_unit_indices(masked: MaskedWords, units: Sequence[Units]) -> list[tuple[int, ...]]:
    """Of each text the numbers of the units that have lost a token, hidden by themselves or together with one that overlaps them."""
    gone = [set(position_M[word >= 0].tolist()) for position_M, word in zip(masked.place_BM, masked.word_BM, strict=True)]
    return [
        tuple(number for number, unit in enumerate(of_text) if not lost.isdisjoint(unit))
        for of_text, lost in zip(units, gone, strict=True)
    ]


def word_units(starts_BL: Tensor, mask_BL: Tensor) -> list[list[list[int]]]:
    """The words of each text as units, from where words begin (`whole_words.word_starts`); special tokens are words by themselves."""
    units = []
    for starts_L, mask_L in zip(starts_BL.numpy(), mask_BL.numpy(), strict=True):
        positions = np.flatnonzero(mask_L)
        cuts = np.flatnonzero(starts_L[positions])
        units.append([part.tolist() for part in np.split(positions, cuts[cuts > 0])] if len(positions) else [])
    return units


def _choose_units(plan: UnitPlan, share: float | Tensor) -> Tensor:
    share_1 = (
        share.to(plan.count_B.device, torch.float64)
        if isinstance(share, Tensor)
        else torch.full((), float(share), dtype=torch.float64, device=plan.count_B.device)
    )
    on_host = share_1.device.type == "cpu" or not isinstance(share, Tensor)
    if on_host and not bool(((torch.as_tensor(share) >= 0) & (torch.as_tensor(share) <= 1)).all()):
        raise ConfigError(f"the share of hidden units is {share_1.tolist()} (expected 0..1)")
    few_B = (share_1 * plan.count_B + 0.5).floor().clamp_min(1)
    return (plan.turn_BM < few_B[:, None]) & (plan.word_BM >= 0)
