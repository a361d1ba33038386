"""Search with every kind of index, compared with exact search over all items.

    python benchmarks/search.py [--items 20000] [--only dense nested words tokens both]

One query at a time, as a service gets them; the ways take turns within each round; shown are medians of the rounds. Recall is the share
of the 10 hits whose exact score is at least that of the tenth best, so that ties cost nothing.

    dense    128 numbers: clustered, as encoders of real images make them, and uniformly random, the hardest case for any graph
    nested   512 numbers whose spread falls with their place (as of principal components, or of training on prefixes), clustered
    words    texts of 4 to 24 words out of 30,000, as frequent as words are (Zipf); exact: a product of sparse matrices (scipy)
    tokens   4 to 8 tokens an item, 32 numbers each; queries are 5 tokens of an item with noise; exact: all tokens of all items (numpy)
    both     such vectors, 128 numbers, and the texts, fused by reciprocal ranks; exact: both rankings in full, fused
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from machine_results import Figure, Peer, keep, last

from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.base import Index
from diptych.index.exact import nearest
from diptych.index.fusion import fuse
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.late import LateIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.kinds.nested import NestedIndex
from diptych.index.lexicon import BM25Encoder, words_of

QUERIES, ROUNDS, K = 100, 5, 10
DIM, WIDE = 128, 512
Way = Callable[[int], list[int]]  # number of the query -> rows found


class Rows:
    """A model that looks its vectors up: images by the number that is their name, texts among the queries."""

    name, fingerprint = "rows", "0"

    def __init__(self, vectors_ND: np.ndarray, queries: dict[str, np.ndarray] | None = None) -> None:
        self.vectors_ND, self.queries = vectors_ND, queries or {}

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> np.ndarray:
        return self.vectors_ND[[int(image.name) for image in images]]

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        return np.stack([self.queries[text] for text in texts])


class Tokens:
    """The same for tokens."""

    name, fingerprint = "tokens", "0"

    def __init__(self, items: Sequence[np.ndarray], queries: Sequence[np.ndarray]) -> None:
        self.items, self.queries = items, queries

    def embed_patches(self, images: Sequence[ImageSource]) -> list[np.ndarray]:
        return [self.items[int(image.name)] for image in images]

    def embed_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.queries[int(text)] for text in texts]


# ---------------------------------------------------------------- what is searched


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def vectors(kind: str, count: int, rng: np.random.Generator, dim: int = DIM) -> np.ndarray:
    """[count + QUERIES, dim] in random order; the last ones are the queries."""
    total = count + QUERIES
    if kind == "random":
        return unit(rng.standard_normal((total, dim)))
    centres = rng.standard_normal((2000, dim)) + (0.5 * rng.standard_normal(dim) if kind == "clustered" else 0)
    rows = centres[(2000 * rng.random(total) ** 1.5).astype(int)] + 0.7 * rng.standard_normal((total, dim))
    if kind == "nested":
        rows *= np.arange(1, dim + 1) ** -0.75
    rng.shuffle(rows)
    return unit(rows)


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    frequency = 1 / np.arange(1, 30_001)
    lengths = rng.integers(4, 25, count)
    drawn = rng.choice(30_000, size=int(lengths.sum()), p=frequency / frequency.sum())
    ends = np.cumsum(lengths)
    return [" ".join(f"w{word}" for word in drawn[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def pool(count: int, texts: Sequence[str] = ()) -> Pool:
    image = np.zeros((1, 1, 3), np.uint8)
    said = [(Text(text),) for text in texts] or [()] * count
    return Pool.from_samples((Sample(str(i), ArrayImage(image, str(i)), said[i]) for i in range(count)), name="rows")


# ---------------------------------------------------------------- measuring


def measure(
    data: str, ways: dict[str, Way], exact: Callable[[int], np.ndarray], built: dict[str, tuple[float, float]]
) -> list[dict]:
    """exact: scores of all items for a query. built: seconds and megabytes of the index behind a way."""
    enough = []
    for number in range(QUERIES):
        scores = exact(number)
        tenth = np.partition(scores, -K)[-K]
        # where fewer than K items have any of the words, there are only those to find
        enough.append((scores, tenth - 1e-5 * abs(scores).max() if tenth > 0 else 1e-9, K if tenth > 0 else (scores > 0).sum()))
    took: dict[str, list[float]] = {name: [] for name in ways}
    recall: dict[str, float] = {}
    for way in ways.values():
        way(0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            found = [way(number) for number in range(QUERIES)]
            took[name].append((time.perf_counter() - start) / QUERIES * 1000)
            shares = [(scores[rows] >= least).sum() / n for rows, (scores, least, n) in zip(found, enough, strict=True)]
            recall[name] = float(np.mean(shares))
    base = statistics.median(took[next(name for name in ways if name.startswith("exact"))])
    return [
        {
            "data": data,
            "way": name,
            "ms_per_query": round(ms := statistics.median(took[name]), 3),
            "recall_at_10": round(recall[name], 4),
            "times_exact": round(base / ms, 2),
            "build_seconds": round(built[name][0], 1) if name in built else None,
            "megabytes": round(built[name][1], 1) if name in built else None,
        }
        for name in ways
    ]


def build(kind: type[Index], model: Any, data: Pool, folder: str, **options: Any) -> tuple[Any, tuple[float, float]]:
    start = time.perf_counter()
    index = kind.build(model, data, Path(folder, f"index{len(list(Path(folder).iterdir()))}"), progress=False, **options)
    return index, (time.perf_counter() - start, index.info.bytes / 1e6)


def rows_of(hits: Sequence[Any]) -> list[int]:
    return [int(hit.uid) for hit in hits]


def best(scores: np.ndarray) -> list[int]:
    top = np.argpartition(-scores, K)[:K]
    return top[np.argsort(-scores[top], kind="stable")].tolist()


# ---------------------------------------------------------------- the tables


def dense(count: int) -> list[dict]:
    return [row for kind in ("clustered", "random") for row in dense_over(kind, count)]


def dense_over(kind: str, count: int) -> list[dict]:
    rows = vectors(kind, count, np.random.default_rng(0))
    gallery, queries = rows[:count].copy(), rows[count:]
    with tempfile.TemporaryDirectory() as folder:
        index, cost = build(DenseIndex, Rows(gallery), pool(count), folder)
        with index:
            ways: dict[str, Way] = {
                "dense": lambda q: rows_of(index.search_vectors(queries[q][None], K)[0]),
                "dense, effort 512": lambda q: rows_of(index.search_vectors(queries[q][None], K, effort=512)[0]),
                "dense, exact=True": lambda q: rows_of(index.search_vectors(queries[q][None], K, exact=True)[0]),
                "exact, numpy": lambda q: best(gallery @ queries[q]),
                "torch (diptych nearest)": lambda q: nearest(gallery, queries[q][None], K)[0][0].tolist(),
            }
            return measure(kind, ways, lambda q: gallery @ queries[q], {"dense": cost})


def nested(count: int) -> list[dict]:
    rows = vectors("nested", count, np.random.default_rng(0), WIDE)
    gallery, queries = rows[:count].copy(), rows[count:]
    data, model = pool(count), Rows(gallery)
    with tempfile.TemporaryDirectory() as folder:
        whole, cost = build(DenseIndex, model, data, folder)
        short, short_cost = build(NestedIndex, model, data, folder, prefix=16)
        middle, middle_cost = build(NestedIndex, model, data, folder, prefix=32)
        ways: dict[str, Way] = {
            "dense": lambda q: rows_of(whole.search_vectors(queries[q][None], K)[0]),
            "nested, prefix 16, shortlist 200": lambda q: rows_of(short.search_vectors(queries[q][None], K)[0]),
            "nested, prefix 16, shortlist 800": lambda q: rows_of(short.search_vectors(queries[q][None], K, effort=800)[0]),
            "nested, prefix 32, shortlist 200": lambda q: rows_of(middle.search_vectors(queries[q][None], K)[0]),
            "exact, numpy": lambda q: best(gallery @ queries[q]),
        }
        built = {"dense": cost, "nested, prefix 16, shortlist 200": short_cost, "nested, prefix 32, shortlist 200": middle_cost}
        found = measure("nested", ways, lambda q: gallery @ queries[q], built)
        for index in (whole, short, middle):
            index.close()
    for row in found:  # what a search must keep in memory besides the graph: the vectors of the first look
        width = next((n for n in (16, 32) if f"prefix {n}" in row["way"]), WIDE)
        row["first_look_megabytes"] = round(count * width * 4 / 1e6, 1)
    return found


class Bm25:
    """BM25 of all texts for a query, as a product of a sparse matrix and a vector."""

    def __init__(self, texts: Sequence[str]) -> None:
        weights = BM25Encoder().documents(texts, float(np.mean([len(words_of(text)) for text in texts])))
        self.column: dict[str, int] = {}
        triples = [(row, self.column.setdefault(w, len(self.column)), x) for row, ws in enumerate(weights) for w, x in ws.items()]
        row, column, value = (np.array(part) for part in zip(*triples, strict=True))
        n = np.bincount(column)
        idf = np.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        self.matrix = sp.csc_array((value * idf[column], (row, column)), shape=(len(texts), len(self.column)))

    def __call__(self, text: str) -> np.ndarray:
        counts = Counter(word for word in words_of(text) if word in self.column)
        columns = [self.column[word] for word in counts]
        return self.matrix[:, columns] @ np.array(list(counts.values()), float)


def asked_words(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Four words of a text."""
    chosen = rng.choice(len(texts), QUERIES, replace=False)
    return [" ".join(rng.permutation(texts[i].split())[:4]) for i in chosen]


def words(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    texts = sentences(count, rng)
    queries, exact = asked_words(texts, rng), Bm25(texts)
    with tempfile.TemporaryDirectory() as folder:
        index, cost = build(LexicalIndex, BM25Encoder(), pool(count, texts), folder)
        with index:
            ways: dict[str, Way] = {
                "lexical": lambda q: rows_of(index.search_text(queries[q], K)),
                "exact, scipy": lambda q: best(exact(queries[q])),
            }
            return measure("words", ways, lambda q: exact(queries[q]), {"lexical": cost})


def tokens(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    themes = rng.standard_normal((2000, 32))
    lengths = rng.integers(4, 9, count)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    own = themes[rng.integers(0, 2000, (count, 3))]  # three themes an item
    picked = own[np.repeat(np.arange(count), lengths), rng.integers(0, 3, int(lengths.sum()))]
    flat = unit(picked + 0.5 * rng.standard_normal(picked.shape))
    items = np.split(flat, starts[1:])
    chosen = rng.choice(count, QUERIES, replace=False)
    queries = [unit(items[i][rng.integers(0, len(items[i]), 5)] + 0.1 * rng.standard_normal((5, 32))) for i in chosen]

    def exact(number: int) -> np.ndarray:
        return np.maximum.reduceat(flat @ queries[number].T, starts, axis=0).mean(axis=1)

    with tempfile.TemporaryDirectory() as folder:
        index, cost = build(LateIndex, Tokens(items, queries), pool(count), folder)
        with index:
            ways: dict[str, Way] = {
                "late, shortlist 200": lambda q: rows_of(index.search_text(str(q), K)),
                "late, shortlist 1000": lambda q: rows_of(index.search_text(str(q), K, effort=1000)),
                "late, exact=True": lambda q: rows_of(index.search_text(str(q), K, exact=True)),
                "exact, numpy": lambda q: best(exact(q)),
            }
            return measure("tokens", ways, exact, {"late, shortlist 200": cost})


def both(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    rows, texts = vectors("nested", count, rng), sentences(count, rng)
    gallery, bm25 = rows[:count].copy(), Bm25(texts)
    queries = [f"{text} q{number}" for number, text in enumerate(asked_words(texts, rng))]
    embedded = dict(zip(queries, rows[count:], strict=True))

    def exact(number: int) -> np.ndarray:
        rankings = []
        for scores in (gallery @ embedded[queries[number]], bm25(queries[number])):
            top = np.argsort(-scores, kind="stable")[:100]
            rankings.append([(int(i), float(scores[i])) for i in top if scores[i] > 0])
        total = np.zeros(count)
        fused = fuse("rrf", rankings, (0.5, 0.5))
        total[list(fused)] = list(fused.values())
        return total

    with tempfile.TemporaryDirectory() as folder:
        index, cost = build(HybridIndex, Rows(gallery, embedded), pool(count, texts), folder)
        with index:
            ways: dict[str, Way] = {
                "hybrid, rrf": lambda q: rows_of(index.search_text(queries[q], K)),
                "exact, numpy and scipy": lambda q: best(exact(q)),
            }
            return measure("both", ways, exact, {"hybrid, rrf": cost})


TABLES = {"dense": dense, "nested": nested, "words": words, "tokens": tokens, "both": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="the others keep their last result")
    options = parser.parse_args()
    print(f"{options.items:,} items, {QUERIES} queries one at a time, median of {ROUNDS} rounds")
    print(f"{'data':10} {'way':33} {'ms/query':>9} {'recall@10':>10} {'x exact':>8} {'build s':>8} {'MB':>8}")
    for name in options.only:
        rows = TABLES[name](options.items)
        for row in rows:
            built, size = ("" if row[key] is None else f"{row[key]:.1f}" for key in ("build_seconds", "megabytes"))
            print(
                f"{row['data']:10} {row['way']:33} {row['ms_per_query']:9.3f} {row['recall_at_10']:10.3f} "
                f"{row['times_exact']:8.2f} {built:>8} {size:>8}",
                flush=True,
            )
        before = last("search")
        tables = (before.get("tables", {}) if before.get("items") == options.items else {}) | {name: rows}
        keep("search", {"items": options.items, "tables": tables}, figures(tables, options.items))


def figures(tables: dict[str, list[dict[str, Any]]], items: int) -> list[Figure]:
    found = []
    for name, rows in tables.items():
        exact = {row["data"]: row["ms_per_query"] for row in rows if row["way"].startswith("exact, ")}
        for row in rows:
            if not row["way"].startswith(("exact, ", "torch")):
                case = f"{name}, {row['data']}: {row['way']} (recall {row['recall_at_10']:.3f}), {items:,} items"
                found.append(Figure(case, "ms", row["ms_per_query"], (Peer("exact, NumPy or SciPy", exact[row["data"]]),)))
    return found


if __name__ == "__main__":
    main()
