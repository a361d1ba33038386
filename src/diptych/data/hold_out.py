"""Splits with families held out: a vendor, a style, a hospital, crossed with concepts, and cross-validation over all families.

The group of a sample is its concept here: pictures of one thing by several vendors have one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.data.dataset import Pool
from diptych.data.split import units_of

CONCEPT, BOTH = "concept", "both"


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a cross-validation: the family that is held out, and the pool with its splits."""

    family: str
    pool: Pool


def conditions_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """Held-out values by column, from "COLUMN=VALUE" or "COLUMN=VALUE,VALUE". Raises ConfigError for any other form.

    >>> conditions_of(["vendor=phosphor,lucide", "style=flat"])
    {'vendor': ['phosphor', 'lucide'], 'style': ['flat']}
    """
    conditions: dict[str, list[str]] = {}
    for text in texts:
        name, equal, values = text.partition("=")
        listed = [value.strip() for value in values.split(",") if value.strip()]
        if not (name.strip() and equal and listed):
            raise ConfigError(f"--hold-out is {text!r} (expected COLUMN=VALUE, such as vendor=phosphor)")
        conditions.setdefault(name.strip(), []).extend(listed)
    return conditions


def hold_out(pool: Pool, families: Mapping[str, Sequence[str]], *, concepts: float = 0.15, seed: int = 0) -> Pool:
    """The same rows with a new column "split": "train" has no sample of a held-out family and none of a held-out concept.

    families  values that are held out, by column
    concepts  share of the groups that is held out as well; 0 holds none out. Groups that show the same image stay together
    With one column the other splits are "unseen_COLUMN", "unseen_concept" and "unseen_both" (of a held-out family and a held-out
    concept); with several columns "unseen_A", "unseen_B", "unseen_A_B", each with "_concept" at its end for held-out concepts.
    The result depends on the set of samples and the seed, not on the order of rows. Raises ConfigError if a value is in no row,
    or nothing would train.
    """
    if not families:
        raise ConfigError("no family is held out (expected COLUMN=VALUE, such as vendor=phosphor)")
    if not 0.0 <= concepts < 1.0:
        raise ConfigError(f"concepts is {concepts:g} (expected a share of 0 or more, below 1)")
    held: dict[str, list[bool]] = {}
    for name, values in families.items():
        column = [str(value) for value in pool.column(name)]
        if missing := [value for value in values if value not in set(column)]:
            raise ConfigError(f"no sample has {name}={missing[0]} (expected {', '.join(sorted(set(column))[:10])})")
        held[name] = [value in set(values) for value in column]
    unseen = _held_concepts(pool, concepts, seed)
    splits = []
    for row in range(len(pool)):
        names = [name for name in families if held[name][row]]
        splits.append(_name(names, unseen[row], len(families)))
    if "train" not in splits:
        raise ConfigError("nothing is left to train on: hold out fewer families or concepts")
    return pool.with_columns({"split": splits})


def folds(pool: Pool, column: str, *, concepts: float = 0.15, seed: int = 0) -> Iterator[Fold]:
    """Cross-validation by family: for each value of a column the pool with that value held out, in order of the values. The same
    concepts are held out in each."""
    values = sorted({str(value) for value in pool.column(column) if value not in (None, "")})
    if len(values) < 2:
        raise ConfigError(f"column '{column}' has {len(values)} values (expected 2 families or more)")
    for value in values:
        yield Fold(value, hold_out(pool, {column: [value]}, concepts=concepts, seed=seed))


def _held_concepts(pool: Pool, share: float, seed: int) -> list[bool]:
    """True for rows whose concept is held out: groups in the order of a hash, until the share is met."""
    unit_N = [int(unit) for unit in units_of(pool, ("group", "image"))]
    first: dict[int, str] = {}
    for uid, unit in zip(pool.uids, unit_N, strict=True):
        first[unit] = min(uid, first.get(unit, uid))
    dealt = sorted(first, key=lambda unit: keyed_seed(seed, "concept", first[unit]))
    count = round(share * len(dealt))
    if share and not count:
        raise ConfigError(
            f"a share of {share:g} of {len(dealt)} concepts is less than one concept (expected a larger share, or 0)"
        )
    chosen = set(dealt[:count])
    return [unit in chosen for unit in unit_N]


def _name(names: Sequence[str], concept: bool, columns: int) -> str:
    if not names:
        return f"unseen_{CONCEPT}" if concept else "train"
    if columns == 1:
        return f"unseen_{BOTH}" if concept else f"unseen_{names[0]}"
    return "_".join(("unseen", *names, *([CONCEPT] if concept else [])))
