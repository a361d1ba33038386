"""Search in two looks (adaptive retrieval of Matryoshka representations, 2205.13147): a shortlist by the first numbers of the vector,
ranked again by all of them. The graph is built over the short vectors only, and the whole ones stay on disk until they are asked for.

It finds what dense search finds as far as the prefix is an embedding in itself, which training with the modifier `mrl` makes it. The
numbers of other models come in no order; for those, the prefix is taken of the vectors turned to their principal directions, which
changes no cosine of whole vectors. Letters: N items, D width, P width of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Dataset, Unit
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.index.engine.store import Ask, Dense, Space, Vectors
from diptych.index.items import What
from diptych.index.kinds.dense import EFFORT, DenseIndex
from diptych.index.vectors import unit_rows

PREFIX, SHORTLIST = "prefix", 200
ORDERS = ("given", "principal")
FILE = "directions.npy"


class NestedIndex(DenseIndex):
    """A dense index that looks twice. Options of `build`:

    prefix     how many numbers the first look takes (16)
    shortlist  how many items the second look ranks again (200)
    order      "given": the prefix is of the vectors as they are; "principal": of their principal directions, which are those of the
               first block that is embedded
    """

    kind: ClassVar[str] = "nested"

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        prefix, shortlist, order = (options.pop(*one) for one in (("prefix", 16), ("shortlist", SHORTLIST), ("order", "given")))
        super().settings(model, pool, what, **options)
        if prefix < 1 or shortlist < 1:
            raise ConfigError(f"prefix is {prefix} and shortlist is {shortlist} (expected 1 or more of each)")
        if order not in ORDERS:
            raise UnknownName("order", str(order), ORDERS)
        return {"prefix": prefix, "shortlist": shortlist, "order": order}

    def spaces(self) -> list[Space]:
        width = self._facts.width
        return [Dense("", width(""), graph=False, cold=True), Dense(PREFIX, width(PREFIX))]

    def layers(self, rows_ND: Unit) -> Sequence[Vectors]:
        """Each prefix gets length 1 anew: cosines of prefixes are compared, not products."""
        width = self._facts.option("prefix", int)
        if width > rows_ND.shape[1]:
            raise ConfigError(
                f"prefix is {width}, and the model's vectors have {rows_ND.shape[1]} numbers (expected at most those)"
            )
        file = self.folder / FILE
        if self._facts.option("order", str) == "principal" and not self.collection.is_open and not file.is_file():
            with file.open("wb") as out:
                np.save(out, principal(rows_ND, width), allow_pickle=False)
        return [{"": row_D, PREFIX: first_P} for row_D, first_P in zip(rows_ND, self._first(rows_ND), strict=True)]

    def _first(self, rows_ND: Unit) -> Unit:
        turned_ND = rows_ND if self._facts.option("order", str) == "given" else rows_ND @ self._directions
        return prefix_of(turned_ND, self._facts.option("prefix", int))

    @cached_property
    def _directions(self) -> Unit:
        file = self.folder / FILE
        if not file.is_file():
            raise RunError(f"{self.folder} has lost its {FILE}: build the index again")
        try:
            directions: Unit = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise RunError(f"{file} is no array that can be read ({str(error)[:100]}): build the index again") from error
        dim = self._facts.dims.get("")  # None while the index is built
        if directions.ndim != 2 or dim not in (None, directions.shape[0]) or directions.dtype.kind != "f":
            raise RunError(
                f"{file} holds {directions.dtype} {list(directions.shape)} (expected floats [{dim}, ...]): build it again"
            )
        return directions

    def ask(self, query_D: Unit, limit: int, *, exact: bool = False, effort: int = 0) -> Ask:
        """exact: compare whole vectors with everything. effort: as many in the shortlist, if that is more than the index's own."""
        if exact:
            return Ask("", query_D, limit, exact=True)
        shortlist = max(self._facts.option("shortlist", int), limit, effort)
        first_P = self._first(query_D[None])[0]
        return Ask("", query_D, limit, first=Ask(PREFIX, first_P, shortlist, effort=max(EFFORT, shortlist)))


def prefix_of(rows_ND: Unit, width: int) -> Unit:
    """The first `width` numbers of each row, at length 1 again; a prefix of nothing but zeros stays zero."""
    return unit_rows(np.asarray(rows_ND[:, :width], np.float32))


def principal(rows_ND: Unit, width: int) -> Unit:
    """The `width` directions [D, P] along which the rows spread most, seen from the origin; orthonormal, the first one first."""
    _, directions_DD = np.linalg.eigh(rows_ND.T.astype(np.float64) @ rows_ND.astype(np.float64))
    return np.ascontiguousarray(directions_DD[:, ::-1][:, :width], np.float32)
