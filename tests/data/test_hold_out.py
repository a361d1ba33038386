"""Held-out families: who is in which split, crossed with concepts, in any order of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.hold_out import folds, hold_out
from diptych.data.shards.build import build, open_built

VENDORS, STYLES = ("noto", "phosphor", "lucide"), ("flat", "line")


def icons() -> Pool:
    return Pool.from_samples(
        Sample(f"{vendor}-{style}-{n}", None, (Text(f"thing {n}"),), group=f"c{n}", extras={"vendor": vendor, "style": style})
        for vendor in VENDORS
        for style in STYLES
        for n in range(20)
    )


def test_one_column_crossed_with_concepts() -> None:
    pool = icons()
    made = hold_out(pool, {"vendor": ["phosphor"]}, concepts=0.2)
    where = dict(zip(made.uids, made.column("split"), strict=True))
    unseen = {uid.rpartition("-")[2] for uid, split in where.items() if split in ("unseen_concept", "unseen_both")}
    assert len(unseen) == 4
    for uid, split in where.items():
        held, concept = uid.startswith("phosphor"), uid.rpartition("-")[2] in unseen
        assert split == {(0, 0): "train", (1, 0): "unseen_vendor", (0, 1): "unseen_concept", (1, 1): "unseen_both"}[held, concept]
    again = hold_out(pool.select(range(len(pool))[::-1]), {"vendor": ["phosphor"]}, concepts=0.2)
    assert dict(zip(again.uids, again.column("split"), strict=True)) == where
    other = hold_out(pool, {"vendor": ["phosphor"]}, concepts=0.2, seed=1)
    assert other.column("split") != made.column("split")


def test_two_columns_have_a_split_for_each_combination() -> None:
    made = hold_out(icons(), {"vendor": ["phosphor", "lucide"], "style": ["line"]}, concepts=0.1)
    for uid, split in zip(made.uids, made.column("split"), strict=True):
        vendor, style, _ = uid.split("-")
        parts = ["vendor"] * (vendor != "noto") + ["style"] * (style == "line")
        assert split.removesuffix("_concept") == (
            "_".join(("unseen", *parts)) if parts else "unseen" if "unseen" in split else "train"
        )
    assert len(made.split_names) == 8


def test_cross_validation_by_family() -> None:
    made = list(folds(icons(), "vendor", concepts=0.2))
    assert [fold.family for fold in made] == sorted(VENDORS)
    concepts = [{uid.rpartition("-")[2] for uid in fold.pool.split("unseen_concept").uids} for fold in made]
    assert concepts[0] == concepts[1] == concepts[2]
    assert all({uid.split("-")[0] for uid in fold.pool.split("unseen_vendor").uids} == {fold.family} for fold in made)
    emoji = next(folds(dp.read("emoji"), "style"))
    assert set(emoji.pool.split_names) == {"train", "unseen_style", "unseen_concept", "unseen_both"}


def test_what_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match="no sample has vendor=apple"):
        hold_out(icons(), {"vendor": ["apple"]})
    with pytest.raises(ConfigError, match="nothing is left"):
        hold_out(icons(), {"vendor": list(VENDORS)})
    with pytest.raises(UnknownName):
        hold_out(icons(), {"maker": ["noto"]})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(icons(), tmp_path / "built")
    assert main(["data", "split", str(tmp_path / "built"), "--hold-out", "vendor=phosphor", "--concepts", "0.2", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["splits"]
    assert counts == {"train": 64, "unseen_vendor": 32, "unseen_concept": 16, "unseen_both": 8}
    assert len(open_built(tmp_path / "built").split("unseen_both")) == 8
    assert main(["data", "split", str(tmp_path / "built"), "--hold-out", "vendor"]) != 0
    assert "expected COLUMN=VALUE" in capsys.readouterr().err
