"""Tuning with all weights and with adapters: the same start, the pictures that are shown, and what is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diptych.claims.cell import Cell, run_cell
from diptych.claims.cells.learned_pairs.fine_tuned import LEFT_OUT, dimmed
from diptych.claims.cells.learned_pairs.pairs import clean_rows
from diptych.claims.registry import find


def test_arms_start_alike_and_adapters_train_what_their_ranks_say(tmp_path: Path) -> None:
    claim = find("clip/adapters")
    done = {
        arm.name: run_cell(Cell(arm.name, 0, tmp_path / arm.name, rate=1e-2, size="smoke"), arm.run)
        for arm in (*claim.arms, *claim.bounds)
    }
    whole, adapters, untuned = (done[name] for name in ("every weight", "adapters", "untuned"))
    starts = [{name: value for name, value in one.scores.items() if name.startswith("start/")} for one in done.values()]
    assert starts[0] == starts[1] == starts[2]
    assert {f"start/{name}": value for name, value in untuned.scores.items() if "start/" not in name}.items() >= starts[0].items()
    # Rank 16 on qkv, out and both maps of the MLP of two blocks a side, on the patches, the words and both projections.
    block = 16 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64))
    assert adapters.scores["trained"] >= 4 * block
    assert adapters.scores["trained"] < 0.4 * whole.scores["trained"]
    assert whole.scores["trained"] == whole.cost["trained_parameters"]
    assert whole.scores["held_kib"] == whole.scores["trained"] * 12 / 1024
    assert (whole.cost["steps"], whole.cost["samples"]) == (adapters.cost["steps"], adapters.cost["samples"])
    assert untuned.scores["trained"] == 0


def test_the_new_pictures_are_dimmed_and_show_eight_nouns(tmp_path: Path) -> None:
    cell = Cell("x", 3, tmp_path)
    rows = dimmed(clean_rows(cell, 60, avoid=LEFT_OUT))
    words = {
        noun for row in range(60) for noun in rows[row].texts[0].string.replace(" and a ", ",").removeprefix("a ").split(",")
    }
    nouns = {" ".join(word.split()[:2]) for word in words}
    assert nouns == {f"{colour} {shape}" for colour in ("red", "green", "blue", "yellow") for shape in ("circle", "square")}
    assert max(int(np.max(rows[row].image.pixels_HWC)) for row in range(60)) <= 229
