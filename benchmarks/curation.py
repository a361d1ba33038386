"""Curation of texts: matching compared with a plain loop, and the cost of matching, balancing and near-duplicate removal by pool size.

    python benchmarks/curation.py [--only matching|growth|templates|hashes] [--entries 100000] [--texts 100000] [--sizes 50000 100000]

The plain loop asks of every text and every entry whether one stands in the other. It would take hours, so it is timed on a few texts
and extrapolated; the matches of those texts must be the same. Texts are made up: words of random letters, drawn by Zipf's law, five to
fourteen a text; entries are all words and pairs of neighbours. Real texts repeat themselves more, which helps both sides.

`templates` finds near-duplicates among texts of which one in twelve is of one of four templates (numbers or words in a fixed frame),
and among texts that are all of a template; `hashes` among perceptual hashes with thumbnails, one in five near an earlier one. Neither
reads a file or decodes a picture. Small sizes are also compared with every kept row that shares a key, which must give the same rows.

Growth runs each size in a process of its own, on Daft's local engine, and takes the process's peak memory from the kernel. One row in
ten is a copy of an earlier one with a slip.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from machine_results import Figure, Peer, facts, keep, last

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "curation_growth.svg"
STYLE = """svg{--line:#d5d9e2;--soft:#5b6475;--s0:#2f6fde;--s1:#d9742b;background:#fff;font:12px system-ui,sans-serif;fill:#1d2330}
.title{font-weight:600;font-size:13px}"""
WORDS, PLAIN_TEXTS = 120_000, 20
SIZES = (50_000, 100_000)
LOOP_TEXTS, LOOP_HASHES = 4_000, 40_000  # rows up to which the slow loops run as well


def made_up(texts: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts, and the words they are made of."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = sorted({"".join(rng.choice(letters, size)) for size in rng.integers(3, 11, WORDS)})
    order = rng.permutation(len(words))
    weights = 1 / np.arange(1, len(words) + 1)
    lengths = rng.integers(5, 15, texts)
    drawn = order[rng.choice(len(words), int(lengths.sum()), p=weights / weights.sum())]
    ends = np.cumsum(lengths).tolist()
    return [
        " ".join(words[i] for i in drawn[end - size : end].tolist()) for end, size in zip(ends, lengths.tolist(), strict=True)
    ], words


def entries_of(texts: list[str], words: list[str], count: int) -> list[str]:
    """All words, then pairs of neighbours as they come, until there are enough."""
    found = dict.fromkeys(words)
    for text in texts:
        parts = text.split()
        found.update(dict.fromkeys(f"{a} {b}" for a, b in pairwise(parts)))
        if len(found) >= count:
            break
    return sorted(list(found)[:count])


def matching(texts: int, entries: int) -> dict:
    from diptych.curate.text.matching import EntryMatcher
    from diptych.curate.text.word_boundaries import pattern, prepared

    said, words = made_up(texts)
    names = entries_of(said, words, entries)
    start = time.process_time()
    matcher = EntryMatcher(names)
    built = time.process_time() - start
    start = time.process_time()
    text_M, entry_M = matcher.match(said)
    ours = time.process_time() - start
    looked_for = pattern(names, "tokens")
    sample = said[:: len(said) // PLAIN_TEXTS][:PLAIN_TEXTS]
    content, _ = prepared(sample, "tokens")
    lines = content.split(b"\n")[: len(sample)]
    start = time.process_time()
    plain = [[number for number, entry in enumerate(looked_for) if entry in line] for line in lines]
    loop = (time.process_time() - start) / len(sample) * len(said)
    chosen = range(0, len(said), len(said) // PLAIN_TEXTS)[:PLAIN_TEXTS]
    same = all(entry_M[text_M == row].tolist() == found for row, found in zip(chosen, plain, strict=True))
    return {
        "texts": len(said),
        "entries": len(names),
        "matches": len(text_M),
        "automaton_built_cpu_seconds": round(built, 2),
        "matching_cpu_seconds": round(ours, 2),
        "texts_a_second": round(len(said) / ours),
        "plain_loop_timed_on_texts": len(sample),
        "plain_loop_cpu_seconds_extrapolated": round(loop),
        "times_as_fast": round(loop / ours),
        "times_as_fast_with_building": round(loop / (ours + built)),
        "identical_on_the_sample": same,
    }


def pool_of(rows: int):
    """A pool without images, one row in ten a copy with a slip; and its entries."""
    import pyarrow as pa

    from diptych.data.dataset import Pool
    from diptych.data.media.images import ImageObjects
    from diptych.data.ragged import Ragged
    from diptych.data.texts import Texts

    said, words = made_up(rows)
    for row in range(10, rows, 10):
        said[row] = said[row - 9] + "."
    table = pa.table(
        [pa.array(said, pa.large_string()), pa.array(["en"] * rows), pa.array(["alt"] * rows)], ["string", "language", "origin"]
    )
    uids = pa.array([f"{row:08d}" for row in range(rows)], pa.string())
    texts = Texts(Ragged.by_row(table, np.arange(rows), rows))
    return Pool("made up", {"uid": uids}, texts, ImageObjects((None,) * rows)), said, words


def one_size(rows: int, entries: int) -> dict:
    """Run in a process of its own."""
    import tempfile

    from diptych.curate.duplicates.text import TextDuplicates
    from diptych.curate.engine.pool import curate
    from diptych.curate.operators.metaclip import MetaCLIP

    data, said, words = pool_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "entries.txt")
        names.write_text("\n".join(entries_of(said, words, entries)), encoding="utf-8")
        del said, words
        start, cpu = time.perf_counter(), time.process_time()
        done = curate(data, [MetaCLIP(entries=str(names)), TextDuplicates()], Path(folder, "out"))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    facts = {step.slug: {"before": step.before, "after": step.after, "seconds": round(step.seconds, 1)} for step in done.steps}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rows": rows, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gib": round(peak, 2), "steps": facts}


def templated(rows: int, every: int) -> list[str]:
    """Made-up texts of which one in `every` is of one of four templates."""
    rng = np.random.default_rng(0)
    texts, words = made_up(rows)
    one, two = rng.integers(0, len(words), (2, rows)).tolist()
    number = rng.integers(0, 10**9, rows).tolist()
    for row in range(0, rows, every):
        a, b, n = words[one[row]], words[two[row]], number[row]
        texts[row] = (
            f"image number {n} from the archive {number[row - 1]} of the city of {a}, all rights reserved by the owner",
            f"buy {a} {b} online at the best price, free shipping and returns on every order, shop now",
            f"a large collection of royalty free stock photographs and vector illustrations, picture {n % 10**8} {a} page",
            f"a photo of a {a} {b} in the {words[two[row - 1]]}",
        )[row // every % 4]
    return texts


def template_size(rows: int, every: int) -> dict:
    from diptych.curate.duplicates.minhash import MinHashBands, normal_text
    from diptych.curate.duplicates.text_candidates import greedy_texts

    texts = [normal_text(text) for text in templated(rows, every)]
    start = time.process_time()
    keys = MinHashBands().keys(texts)
    middle = time.process_time()
    done = greedy_texts(keys, texts, similarity=0.8, width=5, cap=64)
    end = time.process_time()
    facts = {"rows": rows, "one_in": every, "keys_cpu_seconds": round(middle - start, 2), "cpu_seconds": round(end - middle, 2)}
    facts |= {"compared": done.compared, "full_lists": done.full_lists, "dropped": len(done.original)}
    if rows <= LOOP_TEXTS:
        start = time.process_time()
        original, pairs = every_kept_row(keys, texts)
        facts |= {"loop_cpu_seconds": round(time.process_time() - start, 2), "loop_compared": pairs}
        facts["same_as_the_loop"] = original == done.original
    return facts


def every_kept_row(keys, texts: list[str]) -> tuple[dict, int]:
    """Near-duplicate texts by comparing each with all kept rows that share a key, and the number of pairs compared."""
    from diptych.curate.duplicates.minhash import shingles

    kept: dict[int, list[int]] = {}
    sets, original, pairs = {}, {}, 0
    for row, text in enumerate(texts):
        mine, own = shingles(text, 5), keys[row].tolist()
        candidates = sorted({other for key in own for other in kept.get(key, ())})
        pairs += len(candidates)
        best = max(((len(mine & sets[c]) / len(mine | sets[c]), -c) for c in candidates), default=(0.0, 0))
        if best[0] >= 0.8:
            original[row] = -best[1], best[0]
            continue
        sets[row] = mine
        for key in own:
            kept.setdefault(key, []).append(row)
    return original, pairs


def hash_size(rows: int) -> dict:
    from diptych.curate.duplicates.near import greedy_hashes

    rng = np.random.default_rng(0)
    code = rng.integers(0, 2**64, rows, np.uint64)
    thumbnail = rng.integers(0, 256, (rows, 12), np.uint8).repeat(64, 1)
    for row in range(5, rows, 5):
        other = int(rng.integers(0, row))
        code[row] = code[other] ^ np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, 4, np.uint64))
        thumbnail[row] = np.minimum(thumbnail[other], 250) + 4
    names = [f"{row:09d}" for row in range(rows)]
    start = time.process_time()
    near = greedy_hashes(code, thumbnail, names, bits=6, colour=8.0)
    facts = {"rows": rows, "cpu_seconds": round(time.process_time() - start, 2), "dropped": len(near)}
    if rows <= LOOP_HASHES:
        start = time.process_time()
        loop = seven_pieces(code, thumbnail, names)
        facts |= {"loop_cpu_seconds": round(time.process_time() - start, 2), "same_as_the_loop": loop == near}
    return facts


def seven_pieces(code, thumbnail, names: list[str]) -> dict:
    """Near-duplicate hashes one by one, by an index of seven pieces whatever the number of rows."""
    from diptych.curate.duplicates.hamming import HammingIndex

    index, original = HammingIndex(6), {}
    for row, bits in enumerate(code.tolist()):
        near = []
        for other, distance in index.within(bits):
            difference = float(np.abs(thumbnail[row].astype(np.int16) - thumbnail[other]).mean())
            if difference <= 8.0:
                near.append((difference, distance, names[other], other))
        if near:
            difference, _, _, other = min(near)
            original[row] = other, difference
        else:
            index.add(row, bits)
    return original


def growth(entries: int, sizes: list[int]) -> list[dict]:
    found = []
    for rows in sizes:
        command = [sys.executable, __file__, "--rows", str(rows), "--entries", str(entries)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1])
    return found


def draw(found: list[dict]) -> str:
    """Processor seconds and peak memory over rows, one SVG that stands alone."""
    from diptych.report.curves import HEIGHT, WIDTH, LineSeries, line_chart

    parts = []
    for number, (key, title) in enumerate((("cpu_seconds", "processor seconds"), ("peak_gib", "peak memory, GiB"))):
        points = tuple((line["rows"] / 1000, line[key]) for line in found)
        drawn = line_chart(title, [LineSeries(title, points, number)], x_label="thousand rows")
        chart = drawn[drawn.index("<svg") : drawn.index("</svg>")].replace(
            "<svg", f'<svg x="{number * WIDTH}" y="24" width="{WIDTH}"', 1
        )
        parts.append(f'<text class="title" x="{number * WIDTH + 46}" y="18">{title}</text>{chart}</svg>')
    size = f"0 0 {2 * WIDTH} {HEIGHT + 24}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'


def figures(results: dict) -> list[Figure]:
    found = []
    if one := results.get("matching"):
        peer = Peer("the plain loop, extrapolated", one["plain_loop_cpu_seconds_extrapolated"])
        case = f"matching {one['texts']:,} texts against {one['entries']:,} entries, processor time"
        found.append(Figure(case, "s", one["matching_cpu_seconds"], (peer,)))
    for size in results.get("growth", {}).get("sizes", []):
        found.append(
            Figure(f"match, balance, near-duplicates of {size['rows']:,} texts, processor time", "s", size["cpu_seconds"])
        )
    for size in results.get("templates", {}).get("sizes", []):
        share = "all" if size["one_in"] == 1 else f"one in {size['one_in']}"
        case = f"near-duplicates of {size['rows']:,} texts, {share} of a template, processor time"
        found.append(Figure(case, "s", size["cpu_seconds"] + size["keys_cpu_seconds"]))
    for size in results.get("hashes", {}).get("sizes", []):
        found.append(Figure(f"near-duplicates of {size['rows']:,} picture hashes, processor time", "s", size["cpu_seconds"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("matching", "growth", "templates", "hashes"))
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows of the growth")
    parser.add_argument("--rows", type=int, default=0, help="one size of the growth, printed as JSON")
    args = parser.parse_args()
    if args.rows:
        print(json.dumps(one_size(args.rows, args.entries)))
        return
    results: dict = {
        name: found for name, found in last("curation").items() if name in ("matching", "growth", "templates", "hashes")
    }
    if args.only in (None, "templates"):
        sizes = [template_size(rows, every) for every in (12, 1) for rows in args.sizes]
        results["templates"] = {"sizes": sizes} | facts()
        print(*sizes, sep="\n")
    if args.only in (None, "hashes"):
        results["hashes"] = {"sizes": [hash_size(rows) for rows in args.sizes]} | facts()
        print(*results["hashes"]["sizes"], sep="\n")
    if args.only in (None, "matching"):
        results["matching"] = matching(args.texts, args.entries) | facts()
        print(results["matching"])
    if args.only in (None, "growth"):
        sizes = growth(args.entries, args.sizes)
        results["growth"] = {"sizes": sizes} | facts()
        if len(sizes) > len(SIZES):
            PICTURE.write_text(draw(sizes), encoding="utf-8")  # the guide shows the long growth
    keep("curation", results, figures(results))


if __name__ == "__main__":
    main()
