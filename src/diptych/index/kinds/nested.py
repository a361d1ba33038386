"""Search in two looks (adaptive retrieval of Matryoshka representations, 2205.13147): a shortlist by the first numbers of the vector,
ranked again by all of them. The graph is built over the short vectors only, and the whole ones stay on disk until they are asked for.
Or in several looks, a funnel, each at more numbers of fewer items.

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
PUBLISHED = "8:200,16:100,32:50,64:25,128:10"
"""The published funnel before vectors of 2,048 numbers."""
ORDERS = ("given", "principal")
FILE = "directions.npy"


class NestedIndex(DenseIndex):
    """A dense index that looks twice. Options of `build`:

    prefix     how many numbers the first look takes (16)
    shortlist  how many items the second look ranks again (200)
    order      "given": the prefix is of the vectors as they are; "principal": of their principal directions, which are those of the
               first block that is embedded
    funnel     "8:200,16:100,32:50,64:25,128:10", as published: the 200 best by 8 numbers are ranked again by 16, the 100 best of these by
               32, and so on; the last shortlist by the whole vectors. In place of prefix and shortlist, which are its first look
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
        """Width and shortlist of every look before the last."""
        if text := self._facts.options.get("funnel", ""):
            return funnel_of(str(text))
        return [(self._facts.option("prefix", int), self._facts.option("shortlist", int))]

    def spaces(self) -> list[Space]:
        width = self._facts.width
        later = [Dense(_space(at), width(_space(at)), graph=False, cold=True) for at in range(1, len(self._looks))]
        return [Dense("", width(""), graph=False, cold=True), Dense(PREFIX, width(PREFIX)), *later]

    def layers(self, rows_ND: Unit) -> Sequence[Vectors]:
        """Each prefix gets length 1 anew: cosines of prefixes are compared, not products."""
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
        """What each look before the last compares."""
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
            raise RunError(f"{file} is no array that can be read ({str(error)[:100]}): build the index again") from error
        dim = self._facts.dims.get("")  # None while the index is built
        if directions.ndim != 2 or dim not in (None, directions.shape[0]) or directions.dtype.kind != "f":
            raise RunError(
                f"{file} holds {directions.dtype} {list(directions.shape)} (expected floats [{dim}, ...]): build it again"
            )
        return directions

    def ask(self, query_D: Unit, limit: int, *, exact: bool = False, effort: int = 0) -> Ask:
        """exact: compare whole vectors with everything. effort: as many in the first shortlist, if that is more than the index's own."""
        if exact:
            return Ask("", query_D, limit, exact=True)
        first: Ask | None = None
        for at, ((_, shortlist), first_1P) in enumerate(zip(self._looks, self._prefixes(query_D[None]), strict=True)):
            count = max(shortlist, limit, effort if at == 0 else 0)
            first = Ask(_space(at), first_1P[0], count, effort=max(EFFORT, count), first=first)
        return Ask("", query_D, limit, first=first)


def _space(at: int) -> str:
    """Of the look `at`, from 0."""
    return PREFIX if at == 0 else f"{PREFIX}_{at}"


def funnel_of(text: str) -> list[tuple[int, int]]:
    """Widths and shortlists of "8:200,16:100". Raises ConfigError unless widths grow and shortlists do not.

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
    """The first `width` numbers of each row, at length 1 again; a prefix of nothing but zeros stays zero."""
    return unit_rows(np.asarray(rows_ND[:, :width], np.float32))


def principal(rows_ND: Unit, width: int) -> Unit:
    """The `width` directions [D, P] along which the rows spread most, seen from the origin; orthonormal, the first one first."""
    _, directions_DD = np.linalg.eigh(rows_ND.T.astype(np.float64) @ rows_ND.astype(np.float64))
    return np.ascontiguousarray(directions_DD[:, ::-1][:, :width], np.float32)
