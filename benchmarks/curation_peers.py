"""Near-duplicate texts compared with datasketch and datatrove, and downloads with img2dataset: time, memory and agreement.

    pip install datasketch datatrove img2dataset
    python benchmarks/curation_peers.py [--texts 5000] [--pictures 300]

Texts: the templated ones of `curation.py`, one in ten a copy with a slip. Both look for pairs that share 0.8 of their shingles of five
characters, row after row, and drop a row that is near to a kept one; datasketch with MinHashLSH of 128 permutations, whose candidates are
confirmed by the shingles themselves, as ours are; datatrove with its 14 bands of eight hashes and one worker, on the same shingles instead
of its own of five words. It confirms nothing, and drops all but one of the rows that are linked by bands, so it may drop what is not near.
`exact` compares all pairs and says what the others missed. Each runs in a process of its own.

Downloads: JPEG files of 512 x 384 pixels from a server in a process of its own on this machine, to 256 x 256 with a border, by eight
threads; theirs size pictures in a process, ours in the threads themselves. Ours asks for robots.txt and TDM reservations as well, as by
default. Peers are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from curation import templated
from machine_results import Figure, Peer, keep

SIMILARITY, WIDTH = 0.8, 5
CONNECTIONS = 8


def texts_of(rows: int) -> list[str]:
    texts = templated(rows, 12)
    for row in range(10, rows, 10):
        texts[row] = texts[row - 9] + "."
    return texts


def text_duplicates_ours(rows: int, _: str) -> list[int]:
    from diptych.curate.duplicates.minhash import MinHashBands, normal_text
    from diptych.curate.duplicates.text_candidates import greedy_texts

    texts = [normal_text(text) for text in texts_of(rows)]
    keys = MinHashBands().keys(texts)
    return sorted(greedy_texts(keys, texts, similarity=SIMILARITY, width=WIDTH, cap=64).original)


def text_duplicates_datasketch(rows: int, _: str) -> list[int]:
    from datasketch import MinHash, MinHashLSH

    from diptych.curate.duplicates.minhash import normal_text, shingles

    index, sets, dropped = MinHashLSH(threshold=SIMILARITY, num_perm=128), {}, []
    for row, text in enumerate(texts_of(rows)):
        mine = shingles(normal_text(text), WIDTH)
        hashed = MinHash(num_perm=128)
        hashed.update_batch([one.encode() for one in mine])
        if any(len(mine & sets[other]) >= SIMILARITY * len(mine | sets[other]) for other in index.query(hashed)):
            dropped.append(row)
            continue
        index.insert(row, hashed)
        sets[row] = mine
    return dropped


def text_duplicates_datatrove(rows: int, _: str) -> list[int]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer

    from diptych.curate.duplicates.minhash import normal_text, shingles

    class Signatures(MinhashDedupSignature):
        def get_shingles(self, text: str) -> Any:
            hashes = [self._hash_func(one.encode()) for one in sorted(shingles(normal_text(text), WIDTH))]
            return np.array(hashes, np.uint64).reshape(-1, 1)

    documents = [Document(text, str(row)) for row, text in enumerate(texts_of(rows))]
    with tempfile.TemporaryDirectory(prefix="datatrove-") as folder:
        signatures, pairs, removed = (f"{folder}/{name}" for name in ("signatures", "pairs", "removed"))
        step = Signatures(signatures, language=WhitespaceTokenizer())
        step.run(documents)
        for bucket in range(step.config.num_buckets):
            MinhashDedupBuckets(signatures, pairs).run(None, bucket, step.config.num_buckets)
        MinhashDedupCluster(pairs, removed).run(None)
        kept = {int(document.id) for document in MinhashDedupFilter(removed).run(documents)}
    return sorted(set(range(rows)) - kept)


def text_duplicates_exact(rows: int, _: str) -> list[int]:
    """All pairs, by counting shared shingles through an inverted list."""
    from diptych.curate.duplicates.minhash import normal_text, shingles

    lists: dict[str, list[int]] = {}
    sizes: dict[int, int] = {}
    dropped = []
    for row, text in enumerate(texts_of(rows)):
        mine = shingles(normal_text(text), WIDTH)
        shared: dict[int, int] = {}
        for one in mine:
            for other in lists.get(one, ()):
                shared[other] = shared.get(other, 0) + 1
        if any(count >= SIMILARITY * (len(mine) + sizes[other] - count) for other, count in shared.items()):
            dropped.append(row)
            continue
        sizes[row] = len(mine)
        for one in mine:
            lists.setdefault(one, []).append(row)
    return dropped


def download_ours(pictures: int, folder: str) -> list[int]:
    import pyarrow.parquet as pq

    from diptych.data.web.download import Download, download
    from diptych.data.web.polite_http import FetchPolicy

    policy = FetchPolicy(per_host=CONNECTIONS, allow_private=True)
    options = Download(threads=CONNECTIONS, policy=policy)
    return [download(pq.read_table(f"{folder}/links.parquet"), Path(folder, "ours"), options).succeeded]


def download_img2dataset(pictures: int, folder: str) -> list[int]:
    from img2dataset import download

    download(
        url_list=f"{folder}/links.parquet",
        input_format="parquet",
        url_col="url",
        caption_col="text",
        output_folder=f"{folder}/img2dataset",
        output_format="webdataset",
        image_size=256,
        resize_mode="border",
        processes_count=1,
        thread_count=CONNECTIONS,
        enable_wandb=False,
    )
    tars = sorted(Path(folder, "img2dataset").glob("*.tar"))
    return [sum(name.endswith(".jpg") for tar in tars for name in tarfile.open(tar).getnames())]


WORK: dict[str, Callable[[int, str], list[int]]] = {
    "texts ours": text_duplicates_ours,
    "texts datasketch": text_duplicates_datasketch,
    "texts datatrove": text_duplicates_datatrove,
    "texts exact": text_duplicates_exact,
    "pictures ours": download_ours,
    "pictures img2dataset": download_img2dataset,
}


def measured(name: str, count: int, folder: str) -> dict[str, Any]:
    """Result, seconds and peak memory of one piece of work, in this process and those that it starts."""
    start = time.perf_counter()
    result = WORK[name](count, folder)
    seconds = time.perf_counter() - start
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    return {"seconds": seconds, "cpu_seconds": cpu, "gib": max(own.ru_maxrss, children.ru_maxrss) / 2**20, "result": result}


def child(name: str, count: int, folder: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--child", name, str(count), folder]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-1500:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, {key: round(value, 2) for key, value in row.items() if key != "result"}, len(row["result"]), flush=True)
    return row


def write_pictures(folder: Path, count: int, port: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    for row in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        small.resize((512, 384), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=90)
    uids = [f"{row:06d}" for row in range(count)]
    urls = [f"http://127.0.0.1:{port}/{row}.jpg" for row in range(count)]
    pq.write_table(pa.table({"uid": uids, "url": urls, "text": uids}), folder / "links.parquet")


def downloads(count: int, names: list[str]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(" port ")[1].split()[0])
            try:
                write_pictures(Path(folder), count, port)
                return {name: child(name, count, folder) for name in names}
            finally:
                server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.child[0], int(args.child[1]), args.child[2])))
        return
    wanted = [name for name in WORK if name.split()[1] in ("ours", "exact") or importlib.util.find_spec(name.split()[1])]
    rows = {name: child(name, args.texts, "-") for name in wanted if name.startswith("texts")}
    exact = set(rows["texts exact"]["result"])
    for row in rows.values():
        dropped = set(row.pop("result"))
        row |= {"dropped": len(dropped), "missed": len(exact - dropped), "wrongly_dropped": len(dropped - exact)}
    for name, row in downloads(args.pictures, [name for name in wanted if name.startswith("pictures")]).items():
        rows[name] = row | {"result": row["result"][0]}
    cases = []
    for kind, count in (("texts", args.texts), ("pictures", args.pictures)):
        peers = tuple(
            Peer(name.split()[1], row["cpu_seconds"], best=True)
            for name, row in rows.items()
            if name.startswith(kind) and name.split()[1] not in ("ours", "exact")
        )
        what = f"near-duplicates of {count:,} texts" if kind == "texts" else f"download of {count:,} pictures"
        cases.append(Figure(f"{what}, processor time with imports", "s", rows[f"{kind} ours"]["cpu_seconds"], peers))
    keep("curation_peers", {"texts": args.texts, "pictures": args.pictures, "rows": rows}, cases)


if __name__ == "__main__":
    main()
