"""Every kind of index over outputs of trained models for the same 100,000 pictures: rendered pairs of shapes and emoji.

    python benchmarks/trained_search.py [--items 100000] [--steps 2000] [--models runs/for-search]

Four small recipes learn from the same pictures and texts for as many steps each, none of which is searched later: `clip` (dense),
`mrl` (nested), `lexlip` (lexical), `filip` (late); hybrid is clip's vectors and lexlip's words, fused by reciprocal ranks. Towers have
two blocks and read 48 pixels, as in the claims on these pairs; the vocabulary is learned from the data, and the published one, of 30,522
words, is thirty times as large. Trained models stay in --models and are not trained again.

Queries are texts of pictures that are there, encoded beforehand, one at a time; the ways take turns, shown are medians of the rounds.
recall@10 is the share of queries with a picture of the same text among the ten hits; same@10 the share of the ten hits that the exact
search over the same vectors has, too. Bytes are on disk, build seconds without the model's own time, which stands beside. Below the
table: how lexlip's ratios to a dense exact search compare with the published ones.
The plot goes to docs/images/trained_search.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import Figure, Peer, keep

from diptych import api
from diptych.claims.cells.learned_pairs.pairs import WIDTH, sized_for
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.base import Index
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.late import LateIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.kinds.nested import NestedIndex
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.filip import FILIP
from diptych.recipes.contrastive.lexlip import LexLIP
from diptych.recipes.contrastive.mrl import MRL
from diptych.report.escape import escape
from diptych.worlds.small_pairs import SmallPairs

QUERIES, ROUNDS, K, BLOCK = 200, 5, 10, 512
BATCH, PIECES = 128, 1024
PUBLISHED = {
    "arXiv 2302.02908": {"faster": (5.5, 221.3), "smaller": (13.2, 48.8)},
    "ICCV 2023": {"faster": (5.8, 5.8), "smaller": (19.1, 19.1)},
}
"""LexLIP against CLIP's dense search, from the abstracts."""
SEARCHED_SEED = 1
NAME_WIDTH, LINE = 110, 14
"""Pixels that the name of a way takes in the plot."""
PLOT = Path(__file__).resolve().parents[1] / "docs/images/trained_search.svg"


# ---------------------------------------------------------------- pictures and texts


def learned_from(count: int) -> Pool:
    """Rendered pairs of one seed and the emoji of training."""
    pairs, emoji = SmallPairs(count).pool("train", 0), api.read("emoji").split("train")
    return Pool.from_samples([*_all(pairs), *_all(emoji)], name="pairs and emoji")


def searched(count: int) -> list[Sample]:
    """Emoji that no model has seen, and rendered pairs of another seed up to `count`."""
    emoji = api.read("emoji")
    held = [s for name in emoji.split_names if name != "train" for s in _all(emoji.split(name)) if s.positives("en")][
        : count // 10
    ]
    return [*held, *_all(SmallPairs(count - len(held)).pool("test", SEARCHED_SEED))]


def _all(rows: Any) -> Iterator[Sample]:
    return (rows[row] for row in range(len(rows)))


def asked(samples: Sequence[Sample]) -> tuple[list[str], list[set[int]]]:
    """Texts, evenly from all pictures, and which pictures have each."""
    first = [sample.positives("en")[0].string for sample in samples]
    rows_of: dict[str, set[int]] = {}
    for row, text in enumerate(first):
        rows_of.setdefault(text, set()).add(row)
    chosen = np.linspace(0, len(samples) - 1, min(QUERIES, len(samples))).astype(int)
    return [first[row] for row in chosen], [rows_of[first[row]] for row in chosen]


# ---------------------------------------------------------------- models, asked once


def recipes(steps: int) -> tuple[PairRecipe, ...]:
    """As in the claims on rendered pairs, with a vocabulary that has room for the names of emoji."""
    same: dict[str, Any] = {"batch_size": BATCH, "steps": steps, "pieces": PIECES}
    lexlip = replace(LexLIP.tiny(), decoder_heads=4, small_images=False)
    return (
        sized_for(CLIP.tiny(), **same),
        sized_for(replace(MRL.tiny(), width=WIDTH, dims=(8, 16, 32, WIDTH)), **same),
        sized_for(lexlip, **same),
        sized_for(FILIP.tiny(), **same),
    )


def trained(folder: Path, steps: int, rows: int) -> dict[str, Any]:
    found = {}
    for recipe in recipes(steps):
        out = folder / recipe.slug
        if not (out / "model" / "config.json").is_file():
            print(f"training {recipe.slug}, {steps} steps", flush=True)
            api.train(recipe, learned_from(rows), out, progress=False, seed=0)
        found[recipe.slug] = api.load(out)
    return found


@dataclass
class Said:
    """What a model said of every picture and query, in the model's place: pictures are looked up by the number that is their name."""

    name: str
    seconds: float
    image: Sequence[Any]
    text: Mapping[str, Any]
    fingerprint: str = "0"

    def _images(self, images: Sequence[ImageSource]) -> list[Any]:
        return [self.image[int(image.name)] for image in images]


class Vectors(Said):
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> np.ndarray:
        return np.stack(self._images(images))

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        return np.stack([self.text[text] for text in texts])


class Tokens(Said):
    def embed_patches(self, images: Sequence[ImageSource]) -> list[np.ndarray]:
        return self._images(images)

    def embed_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.text[text] for text in texts]


@dataclass
class Lexicon(Said):
    """names: the word of each number; pictures are kept as numbers and weights."""

    names: Sequence[str] = ()

    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]:
        return [{self.names[n]: float(w) for n, w in zip(*row, strict=True)} for row in self._images(images)]

    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [self.text[text] for text in texts]


class Both:
    """clip's vectors and lexlip's words."""

    name, fingerprint = "clip and lexlip", "0"

    def __init__(self, vectors: Vectors, words: Lexicon) -> None:
        self.embed_images, self.embed_texts = vectors.embed_images, vectors.embed_texts
        self.lexicalise_images, self.lexicalise_texts = words.lexicalise_images, words.lexicalise_texts


def told(ask: Callable[[list[ImageSource]], Sequence[Any]], samples: Sequence[Sample]) -> tuple[list[Any], float]:
    """What `ask` says of every picture, and the seconds that took."""
    begun, found = time.perf_counter(), []
    for start in range(0, len(samples), BLOCK):
        found += list(ask([sample.own_image for sample in samples[start : start + BLOCK]]))
    return found, time.perf_counter() - begun


def numbered(model: Any, samples: Sequence[Sample]) -> tuple[list[Any], float]:
    """lexlip's pictures as (numbers, weights)."""
    place = {name: number for number, name in enumerate(model.names)}

    def ask(images: list[ImageSource]) -> list[Any]:
        return [
            (np.array([place[word] for word in row], np.int32), np.array(list(row.values()), np.float32))
            for row in model.lexicalise_images(images)
        ]

    return told(ask, samples)


# ---------------------------------------------------------------- measuring


@dataclass
class Way:
    """A way to search. exact: the way whose hits it should have; none where it is that itself."""

    name: str
    search: Callable[[str], list[int]]
    model_seconds: float
    build_seconds: float
    bytes: int
    exact: str = ""


def built(kind: type[Index], model: Any, pool: Pool, folder: str, **options: Any) -> tuple[Any, float, int]:
    begun = time.perf_counter()
    index = kind.build(model, pool, Path(folder, f"index{len(list(Path(folder).iterdir()))}"), progress=False, **options)
    return index, time.perf_counter() - begun, index.info.bytes


def found_by(index: Any, **options: Any) -> Callable[[str], list[int]]:
    return lambda text: [int(hit.uid) for hit in index.search_text(text, K, **options)]


def ways_of(models: Mapping[str, Any], samples: Sequence[Sample], queries: Sequence[str], folder: str) -> list[Way]:
    blank = np.zeros((1, 1, 3), np.uint8)
    pool = Pool.from_samples((Sample(str(n), ArrayImage(blank, str(n)), (Text("x"),)) for n in range(len(samples))), name="rows")
    texts = list(dict.fromkeys(queries))
    said: dict[str, Any] = {}
    for slug in ("clip", "mrl"):
        rows, seconds = told(models[slug].embed_images, samples)
        said[slug] = Vectors(slug, seconds, rows, dict(zip(texts, models[slug].embed_texts(texts), strict=True)))
    rows, seconds = numbered(models["lexlip"], samples)
    words = dict(zip(texts, models["lexlip"].lexicalise_texts(texts), strict=True))
    said["lexlip"] = Lexicon("lexlip", seconds, rows, words, names=models["lexlip"].names)
    rows, seconds = told(models["filip"].embed_patches, samples)
    said["filip"] = Tokens("filip", seconds, rows, dict(zip(texts, models["filip"].embed_words(texts), strict=True)))

    ways: list[Way] = []

    def add(name: str, index: tuple[Any, float, int], seconds: float, like: str = "", **options: Any) -> None:
        ways.append(Way(name, found_by(index[0], **options), seconds, index[1], index[2], like))

    clip = built(DenseIndex, said["clip"], pool, folder)
    add("dense exact", clip, said["clip"].seconds, exact=True)
    add("dense approximate", clip, said["clip"].seconds, like="dense exact")
    nested = built(NestedIndex, said["mrl"], pool, folder)
    add("nested exact", nested, said["mrl"].seconds, exact=True)
    add("nested", nested, said["mrl"].seconds, like="nested exact")
    lexical, seconds = "lexical", said["lexlip"].seconds
    add(lexical, built(LexicalIndex, said["lexlip"], pool, folder), seconds)
    for terms in (64, 32):
        cut = built(LexicalIndex, said["lexlip"], pool, folder, item_terms=terms, query_terms=terms)
        add(f"lexical, {terms} words", cut, seconds, like=lexical)
    late = built(LateIndex, said["filip"], pool, folder)
    add("late exact", late, said["filip"].seconds, exact=True)
    add("late", late, said["filip"].seconds, like="late exact")
    hybrid = built(HybridIndex, Both(said["clip"], said["lexlip"]), pool, folder)
    add("hybrid", hybrid, said["clip"].seconds + seconds)
    return ways


def measured(ways: Sequence[Way], queries: Sequence[str], right: Sequence[set[int]]) -> list[dict[str, Any]]:
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    hits: dict[str, list[list[int]]] = {}
    for way in ways:
        hits[way.name] = [way.search(text) for text in queries]
    for _ in range(ROUNDS):
        for way in ways:
            begun = time.perf_counter()
            for text in queries:
                way.search(text)
            took[way.name].append((time.perf_counter() - begun) / len(queries) * 1000)
    rows = []
    for way in ways:
        found = [bool(set(rows) & wanted) for rows, wanted in zip(hits[way.name], right, strict=True)]
        same = [len(set(a) & set(b)) / max(len(b), 1) for a, b in zip(hits[way.name], hits[way.exact or way.name], strict=True)]
        rows.append(
            {
                "way": way.name,
                "recall_at_10": round(float(np.mean(found)), 4),
                "same_at_10": round(float(np.mean(same)), 4),
                "ms_per_query": round(statistics.median(took[way.name]), 3),
                "megabytes": round(way.bytes / 1e6, 2),
                "build_seconds": round(way.build_seconds, 2),
                "model_seconds": round(way.model_seconds, 2),
            }
        )
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How much faster and smaller than the dense exact search each lexical way is."""
    dense = next(row for row in rows if row["way"] == "dense exact")
    return {
        row["way"]: {
            "faster": round(dense["ms_per_query"] / row["ms_per_query"], 2),
            "smaller": round(dense["megabytes"] / row["megabytes"], 2),
        }
        for row in rows
        if row["way"].startswith("lexical")
    }


# ---------------------------------------------------------------- shown


def figures(rows: Sequence[Mapping[str, Any]], items: int) -> list[Figure]:
    """Every way against the exact search over clip's vectors: time with its recall, and bytes."""
    dense = next(row for row in rows if row["way"] == "dense exact")
    found = []
    for key, unit in (("ms_per_query", "ms"), ("megabytes", "MB")):
        for row in rows:
            if row is not dense:
                case = f"{row['way']}, {items:,} pictures (recall {row['recall_at_10']:.3f}, dense exact {dense['recall_at_10']:.3f})"
                found.append(Figure(case, unit, row[key], (Peer("dense exact", dense[key]),)))
    return found


def lines(rows: Sequence[Mapping[str, Any]], ours: Mapping[str, Mapping[str, float]]) -> list[str]:
    said = [f"{'way':20} {'recall@10':>9} {'same@10':>8} {'ms/query':>9} {'MB':>9} {'build s':>8} {'model s':>8}"]
    keys = (("recall_at_10", "9.3f"), ("same_at_10", "8.3f"), ("ms_per_query", "9.3f"), ("megabytes", "9.1f"))
    keys += (("build_seconds", "8.1f"), ("model_seconds", "8.1f"))
    said += [" ".join([f"{row['way']:20}", *(f"{row[key]:{form}}" for key, form in keys)]) for row in rows]
    said += ["", "against dense exact      times faster   times smaller"]
    said += [f"{name:20} {ratio['faster']:14.2f} {ratio['smaller']:15.2f}   here" for name, ratio in ours.items()]
    said += [
        f"{name:20} {_span(ratio['faster']):>14} {_span(ratio['smaller']):>15}   published" for name, ratio in PUBLISHED.items()
    ]
    return said


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g}-{ends[1]:g}"


def plot(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Recall over milliseconds (logarithmic); the area of a disc is its bytes."""
    width, height, left, bottom, top, right = 760, 440, 60, 48, 40, 150
    x = np.log10([row["ms_per_query"] for row in rows])
    y = np.array([row["recall_at_10"] for row in rows])
    size = np.sqrt([row["megabytes"] for row in rows])
    low, high = np.floor(x.min() * 2) / 2, np.ceil(x.max() * 2 + 1e-9) / 2

    def across(value: float) -> float:
        return left + (value - low) / max(high - low, 1e-9) * (width - left - right)

    def up(value: float) -> float:
        return height - bottom - value * (height - bottom - top)

    parts = [f'<text x="{left}" y="22" font-size="15">{escape(title)}</text>']
    for tick in np.arange(0, 1.01, 0.2):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
    for tick in np.arange(low, high + 0.01, 0.5):
        parts.append(f'<text x="{across(tick):.1f}" y="{height - 26}" text-anchor="middle">{10**tick:.2g}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">ms a query</text>')
    parts.append(f'<text x="8" y="{top - 6}">recall@10; area: bytes</text>')
    names: list[tuple[float, float]] = []
    for place in np.argsort(-size):
        radius = 4 + 22 * size[place] / size.max()
        cx, cy = across(x[place]), up(y[place])
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}" fill="#3366cc" fill-opacity=".35" stroke="#3366cc"/>')
        name_x, name_y = cx + radius + 4, cy + 4
        while any(abs(name_x - other_x) < NAME_WIDTH and abs(name_y - other_y) < LINE for other_x, other_y in names):
            name_y += LINE
        names.append((name_x, name_y))
        parts.append(f'<text x="{name_x:.1f}" y="{name_y:.1f}">{escape(rows[place]["way"])}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=2000, help="of each model that is not there yet")
    parser.add_argument("--rows", type=int, default=12_000, help="pairs that models learn from, beside the emoji")
    parser.add_argument("--models", type=Path, default=Path("runs/for-search"))
    options = parser.parse_args()

    models = trained(options.models, options.steps, options.rows)
    samples = searched(options.items)
    queries, right = asked(samples)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(ways_of(models, samples, queries, folder), queries, right)
    ours = ratios(rows)
    print(
        f"{len(samples):,} pictures, {len(queries)} queries one at a time, median of {ROUNDS} rounds",
        *lines(rows, ours),
        sep="\n",
    )
    found = {"items": len(samples), "steps": options.steps, "rows": rows}
    lexlip = {"here": ours, "published": json.loads(json.dumps(PUBLISHED))}
    keep("trained_search", {**found, "lexlip": lexlip}, figures(rows, len(samples)))
    PLOT.write_text(plot(rows, f"{len(samples):,} trained embeddings"), encoding="utf-8")


if __name__ == "__main__":
    main()
