"""The packaged emoji data: what a user finds after installing, without a network."""

from __future__ import annotations

from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode, decode_rgba
from diptych.data.read import read
from diptych.data.shards.build import open_built

STYLES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT", "openmoji": "CC-BY-SA-4.0"}
LANGUAGES = set(
    "bn da de en en-GB es es-MX et fi fr hi hu it ja ko lt ms nb nl pl pt ru sv th uk vi zh zh-Hant".split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def home() -> Path:
    return Path(str(resources.files("diptych.data") / "emoji"))


@pytest.fixture(scope="module")
def pool() -> Pool:
    return read("emoji")


def test_every_concept_is_drawn_by_all_four(pool: Pool) -> None:
    styles = defaultdict(list)
    for group, style in zip(pool.column("group"), pool.column("style"), strict=True):
        styles[group].append(style)
    assert len(styles) > 1_800
    assert len(pool) == 4 * len(styles)
    assert all(sorted(found) == sorted(STYLES) for found in styles.values())
    assert list(pool.uids) == [f"{s}-{g}" for s, g in zip(pool.column("style"), pool.column("group"), strict=True)]
    skin = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
    assert not any(skin & set(group.split("-")) or "FE0F" in group for group in styles)
    assert len(set(pool.column("group_name"))) == 9
    assert len(set(pool.column("subgroup"))) > 90


def test_splits_keep_concepts_and_a_style_apart(pool: Pool) -> None:
    styles, concepts = {}, {}
    for name in ("train", "unseen_style", "unseen_concept", "unseen_both"):
        part = pool.split(name)
        styles[name], concepts[name] = set(part.column("style")), set(part.groups)
    assert styles["train"] == styles["unseen_concept"] == {"noto", "twemoji", "openmoji"}
    assert styles["unseen_style"] == styles["unseen_both"] == {"fluent"}
    assert concepts["train"] == concepts["unseen_style"]
    assert concepts["unseen_concept"] == concepts["unseen_both"]
    assert len(concepts["unseen_both"]) == 300
    assert not concepts["train"] & concepts["unseen_both"]
    assert sum(map(len, map(pool.split, styles))) == len(pool)


def test_no_held_out_picture_is_seen_in_training(pool: Pool) -> None:
    seen = {digest for name in ("train", "unseen_style") for digest in pool.split(name).column("sha256")}
    for name in ("unseen_concept", "unseen_both"):
        assert not seen.intersection(pool.split(name).column("sha256")), name


def test_held_out_concepts_are_stratified(pool: Pool) -> None:
    of_all, held = Counter(pool.split("train").column("group_name")), Counter(pool.split("unseen_concept").column("group_name"))
    for name in of_all:
        share = held[name] / (held[name] + of_all[name])
        assert abs(share - 300 / (len(pool) // 4)) < 0.5 / ((held[name] + of_all[name]) / 3) + 0.005, name


def test_every_picture_decodes_to_64_pixels_with_transparency(pool: Pool) -> None:
    clear = 0
    for row in range(len(pool)):
        source = pool.image(row)
        assert source is not None
        pixels = decode_rgba(source)
        assert pixels.shape == (64, 64, 4), pool.uids[row]
        assert pixels[..., 3].max() > 127, pool.uids[row]  # something is drawn
        clear += pixels[..., 3].min() == 0
    assert clear > 0.9 * len(pool)


def test_transparent_pixels_are_white_on_white(pool: Pool) -> None:
    source = pool.image(pool.uids.index("noto-1F417"))
    assert source is not None
    rgba, rgb = decode_rgba(source), decode(source, exact=True)
    assert np.all(rgb[rgba[..., 3] == 0] == 255)


def test_texts_in_28_languages(pool: Pool) -> None:
    table = pool.texts_table()
    assert set(table["language"].to_pylist()) == LANGUAGES
    named = defaultdict(set)
    for uid, language, origin in zip(*(table[c].to_pylist() for c in ("uid", "language", "origin")), strict=True):
        assert (uid, language) not in named[origin], "one text for each language and origin"
        named[origin].add((uid, language))
    assert named.keys() == {"label", "tags", "caption"}
    assert len(named["label"]) == len(LANGUAGES) * len(pool)
    assert {language for _, language in named["caption"]} == {"en"}
    assert len(named["caption"]) > 0.95 * len(pool)
    assert not any("\\x" in text or text != text.strip() or not text for text in table["string"].unique().to_pylist())


def test_a_boar(pool: Pool) -> None:
    sample = pool[pool.uids.index("openmoji-1F417")]
    texts = {(text.language, text.origin): text.string for text in sample.texts}
    assert sample.texts[0].string == texts["en", "label"] == sample.extras["label"] == "boar"
    assert texts["en", "tags"] == "animal, pig"
    assert "wild" in texts["en", "caption"].split(", ")
    assert (texts["de", "label"], texts["fr", "label"]) == ("Wildschwein", "sanglier")
    assert (sample.group, sample.extras["group_name"]) == ("1F417", "animals-nature")


def test_english_names_tell_concepts_apart(pool: Pool) -> None:
    labels = Counter(pool.where("style", "noto").column("label"))
    assert len(labels) == len(pool) // 4


def test_further_languages_are_a_table_apart(home: Path, pool: Pool) -> None:
    names = read_table(home, "names").table
    languages = set(names["language"].to_pylist())
    assert len(languages) >= 70
    assert not languages & LANGUAGES
    wide = open_built(home, tables=("names",))
    boar = wide[wide.uids.index("noto-1F417")]
    assert {text.language for text in boar.texts} == LANGUAGES | languages
    assert boar.texts[: len(pool[0].texts)][0].string == "boar"


def test_every_licence_is_there_and_every_sample_carries_its_own(home: Path, pool: Pool) -> None:
    assert set(zip(pool.column("style"), pool.column("licence"), strict=True)) == set(STYLES.items())
    attribution = (home / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for style, licence in STYLES.items():
        assert len((home / "licences" / f"{style}-{licence}.txt").read_text(encoding="utf-8")) > 1_000
        assert style in attribution
        assert licence in attribution
    for name in ("emojibase-MIT", "emojilib-MIT", "cldr-Unicode-3.0", "emoji-datasource-MIT"):
        assert "opyright" in (home / "licences" / f"{name}.txt").read_text(encoding="utf-8")
    assert "Microsoft Corporation" in (home / "licences" / "fluent-MIT.txt").read_text(encoding="utf-8")


def test_it_fits_into_a_package(home: Path) -> None:
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) <= 15_000_000
