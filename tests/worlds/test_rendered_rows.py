"""Rows of a world that are kept once they were drawn: the same samples, drawn once, within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.worlds.address import cached_for_training
from diptych.worlds.links.world import LinkWorld, links
from diptych.worlds.resolve import resolve


def test_remembered_rows_are_the_same_and_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    render = LinkWorld.sample

    def counted(self: LinkWorld, split: str, index: int) -> Any:
        drawn.append(index)
        return render(self, split, index)

    monkeypatch.setattr(LinkWorld, "sample", counted)
    plain, kept = links(5), links(5).remembering()
    drawn.clear()
    for _ in range(3):
        for row in range(5):
            assert kept[row].uid == plain.uids[row]
    assert sorted(drawn) == list(range(5))
    again = plain[3]
    assert (kept[3].image.pixels_HWC == again.image.pixels_HWC).all()  # type: ignore[union-attr]
    assert (kept.fingerprint, kept.uids, kept.groups) == (plain.fingerprint, plain.uids, plain.groups)


def test_what_has_no_room_is_drawn_anew() -> None:
    kept = links(5).remembering(limit=2 * 64 * 64 * 3)
    first = [kept[row] for row in range(5)]
    assert [kept[row] is first[row] for row in range(5)] == [True, True, False, False, False]
    assert [kept[row].uid for row in range(5)] == [sample.uid for sample in first]


def test_training_draws_from_remembered_rows() -> None:
    rows = cached_for_training(links(4), recipe=None)  # type: ignore[arg-type]
    assert rows[2] is rows[2]
    assert rows.fingerprint == links(4).fingerprint


def test_rows_are_sliced_asked_and_shown_as_those_of_a_pool() -> None:
    rows = resolve("world:scenes?n=8").split("train")
    some = rows[2:5]
    assert list(some.uids) == list(rows.uids[2:5])
    np.testing.assert_array_equal(some[0].image.pixels_HWC, rows[2].image.pixels_HWC)
    assert rows[:-1].uids == rows.uids[:-1]
    assert rows.uids[3] in rows
    assert rows.uids[3] not in rows[:2]
    page = some._repr_html_()
    assert all(uid in page for uid in some.uids)
    assert page.count("<img") == 3
