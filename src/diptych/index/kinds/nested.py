"""Two-stage search (adaptive retrieval of Matryoshka representations, 2205.13147): a shortlist by the first dimensions of the vector,
ranked again by all of them. The graph is built over the short vectors only, and the full ones stay on disk until they are needed. Or
several stages, a funnel, each with more dimensions and fewer items.

It agrees with dense search as far as the prefix is an embedding in itself, as training with the modifier `mrl` makes it. The dimensions
of other models have no order; for those, the prefix is taken after a rotation to principal directions, which changes no cosine of full
vectors. Letters: N items, D dimensions, P dimensions of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Dataset, Unit
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.index.engine.store import DenseSpace, EngineQuery, Space, Vectors
from diptych.index.items import What
from diptych.index.kinds.dense import EFFORT, DenseIndex
from diptych.index.vectors import unit_rows

PREFIX, SHORTLIST = "prefix", 200
PUBLISHED = "8:200,16:100,32:50,64:25,128:10"
"""The published funnel before vectors of 2,048 numbers."""
ORDERS = ("given", "principal")
FILE = "directions.npy"


class NestedIndex(DenseIndex):
    """A dense index with coarse-to-fine search. Options of `build`:

    prefix     dimensions of the first stage (16)
    shortlist  items that the second stage ranks again (200)
    order      "given": the prefix is of the vectors as they are; "principal": of their principal directions, which are those of the
           first block that is embedded
    funnel     "8:200,16:100,32:50,64:25,128:10", as published: the 200 best by 8 dimensions are ranked again by 16, the 100 best of these
           by 32, and so on; the last shortlist by the full vectors. Replaces prefix and shortlist, which are its first stage
    """

    kind: ClassVar[str] = "nested"

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        prefix, shortlist, order = (options.pop(*one) for one in (("prefix", 16), ("shortlist", SHORTLIST), ("order", "given")))
        looks = funnel_of(text) if (text := options.pop("funnel", "")) else []
        super().settings(model, pool, what, **options)
        if looks:
            prefix, shortlist = looks[0]
        if prefix < 1 or shortlist < 1:
            raise ConfigError(f"prefix is {prefix} and shortlist is {shortlist} (expected 1 or more of each)")
        if order not in ORDERS:
            raise UnknownName("order", str(order), ORDERS)
        return {"prefix": prefix, "shortlist": shortlist, "order": order, **({"funnel": text} if looks else {})}

    @cached_property
    def _looks(self) -> list[tuple[int, int]]:
        """Dimensions and shortlist of every stage before the last."""
        if text := self._facts.options.get("funnel", ""):
            return funnel_of(str(text))
        return [(self._facts.option("prefix", int), self._facts.option("shortlist", int))]

    def spaces(self) -> list[Space]:
        width = self._facts.width
        later = [DenseSpace(_space(at), width(_space(at)), graph=False, cold=True) for at in range(1, len(self._looks))]
        return [DenseSpace("", width(""), graph=False, cold=True), DenseSpace(PREFIX, width(PREFIX)), *later]

    def layers(self, rows_ND: Unit) -> Sequence[Vectors]:
        """Stored vectors of each stage. Each prefix is normalised again: cosines of prefixes are compared, not products."""
        width = self._looks[-1][0]
        if width > rows_ND.shape[1]:
            raise ConfigError(
                f"prefix is {width}, and the model's vectors have {rows_ND.shape[1]} numbers (expected at most those)"
            )
        file = self.folder / FILE
        if self._facts.option("order", str) == "principal" and not self.collection.is_open and not file.is_file():
            with file.open("wb") as out:
                np.save(out, principal(rows_ND, width), allow_pickle=False)
        each = self._prefixes(rows_ND)
        return [{"": row_D, **{_space(at): each[at][n] for at in range(len(each))}} for n, row_D in enumerate(rows_ND)]

    def _prefixes(self, rows_ND: Unit) -> list[Unit]:
        """Prefix vectors for each search stage before the last."""
        turned_ND = rows_ND if self._facts.option("order", str) == "given" else rows_ND @ self._directions
        return [prefix_of(turned_ND, width) for width, _ in self._looks]

    @cached_property
    def _directions(self) -> Unit:
        file = self.folder / FILE
        if not file.is_file():
            raise RunError(f"{self.folder} has lost its {FILE}: build the index again")
        try:
            directions: Unit = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise RunError(f"{file} is not a readable array ({str(error)[:100]}): build the index again") from error
        dim = self._facts.dims.get("")  # None while the index is built
        if directions.ndim != 2 or dim not in (None, directions.shape[0]) or directions.dtype.kind != "f":
            raise RunError(
                f"{file} holds {directions.dtype} {list(directions.shape)} (expected floats [{dim}, ...]): build it again"
            )
        return directions

    def engine_query(self, query_D: Unit, limit: int, *, exact: bool = False, effort: int = 0) -> EngineQuery:
        """exact: compare whole vectors with everything. effort: as many in the first shortlist, if that is more than the index's own."""
        if exact:
            return EngineQuery("", query_D, limit, exact=True)
        first: EngineQuery | None = None
        for at, ((_, shortlist), first_1P) in enumerate(zip(self._looks, self._prefixes(query_D[None]), strict=True)):
            count = max(shortlist, limit, effort if at == 0 else 0)
            first = EngineQuery(_space(at), first_1P[0], count, effort=max(EFFORT, count), first=first)
        return EngineQuery("", query_D, limit, first=first)


def _space(at: int) -> str:
    """Name of the space of stage `at`, from 0."""
    return PREFIX if at == 0 else f"{PREFIX}_{at}"


def funnel_of(text: str) -> list[tuple[int, int]]:
    """Parse dimensions and shortlists of "8:200,16:100". Raises ConfigError unless dimensions grow and shortlists do not.

    >>> funnel_of("8:200,16:100")
    [(8, 200), (16, 100)]
    """
    try:
        looks = [(int(width), int(count)) for width, count in (look.split(":") for look in text.split(","))]
    except ValueError:
        looks = []
    widths, counts = [width for width, _ in looks], [count for _, count in looks]
    grows = widths == sorted(set(widths)) and counts == sorted(counts, reverse=True)
    if not looks or not grows or min(*widths, *counts) < 1:
        raise ConfigError(f"funnel is {text!r} (expected WIDTH:SHORTLIST, growing widths and falling shortlists: {PUBLISHED})")
    return looks


def prefix_of(rows_ND: Unit, width: int) -> Unit:
    """First `width` dimensions of each row, normalised to length 1; a prefix of zeros stays zero."""
    return unit_rows(np.asarray(rows_ND[:, :width], np.float32))


def principal(rows_ND: Unit, width: int) -> Unit:
    """Principal directions [D, P] of the rows without centring, `width` of them; orthonormal, in descending order of spread."""
    _, directions_DD = np.linalg.eigh(rows_ND.T.astype(np.float64) @ rows_ND.astype(np.float64))
    return np.ascontiguousarray(directions_DD[:, ::-1][:, :width], np.float32)
