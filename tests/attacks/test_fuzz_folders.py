"""Every folder format of ours, damaged: a run, an index, shards with their manifest, a column table, a model, the ledger of claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from diptych.claims import freshness, ledger
from diptych.claims.ledger import Entry, Side
from diptych.core.config import from_plain
from diptych.core.image import ArrayImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.engine.pool import curate
from diptych.data.columns import MadeBy, read_table, table_names, write_table
from diptych.data.curated import open_curated
from diptych.data.dataset import Pool
from diptych.data.media.transforms import Preprocess
from diptych.data.quarantine import read_quarantine
from diptych.data.read import read
from diptych.data.shards.build import build, open_built
from diptych.data.shards.verify import verify
from diptych.data.text.tokenize import Tokenizer
from diptych.index.kinds import open_index
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder
from diptych.index.verify import verify_index
from diptych.models.io.open_address import open_model
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.train import checkpoint
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

from .fuzzing import BOTH, SLOW, files_of, fuzz_files
from .test_fuzz_readers import use


def pool(count: int = 6) -> Pool:
    rng = np.random.default_rng(0)
    rows = [
        Sample(
            f"u{n}",
            ArrayImage(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), f"u{n}"),
            (Text(f"picture {n}"),),
            extras={"n": n},
        )
        for n in range(count)
    ]
    return Pool.from_samples(rows, name="six")


def shards(folder: Path) -> Path:
    build(pool(), folder / "built", shard_samples=3)
    built = open_built(folder / "built")
    write_table(
        folder / "built",
        "score",
        pa.table({"uid": list(built.uids), "score": [0.5] * len(built)}),
        MadeBy("test", "0" * 16),
    )
    return folder / "built"


def use_shards(path: Path) -> None:
    use(open_built(path))
    read_quarantine(path)


def use_tables(path: Path) -> None:
    for name in table_names(path):
        read_table(path, name)
    use(open_built(path, tables=("score",)))


class Still:
    """A model without weights, so that an index of it is quick to make."""

    name, fingerprint, normalised = "still", "f00d", True

    def embed_images(self, images: list[object], *, batch_size: int = 64) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[np.arange(len(images)) % 4]

    def embed_texts(self, texts: list[str], *, batch_size: int = 64) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[np.arange(len(texts)) % 4]


def dense(folder: Path) -> Path:
    DenseIndex.build(Still(), pool(), folder / "index", progress=False).close()
    return folder / "index"


def lexical(folder: Path) -> Path:
    LexicalIndex.build(BM25Encoder(), pool(), folder / "index", progress=False).close()
    return folder / "index"


def use_index(path: Path, model: object) -> None:
    with open_index(path, model=model) as index:
        assert index.info
        index.search_text("picture", 3)


def use_checksums(path: Path) -> None:
    with open_index(path) as index:
        assert verify_index(index).lines()


def model(folder: Path) -> Path:
    torch.manual_seed(0)
    words = Tokenizer.train(["a red circle left of a green square"] * 3, 300)
    text = text_tower("text_tiny", vocab_size=words.vocab_size, eot_id=words.eot_id, length=16)
    PairEmbedder(DualEncoder(image_tower("convnet_tiny"), text, width=16), Preprocess(64), words, 16, "m").save(folder / "model")
    return folder / "model"


def run(folder: Path) -> Path:
    from ..train.toy import Toy, toy_pool

    return fit(Toy(steps=3), toy_pool(16), folder / "run", TrainOptions(progress=False, save_every=1)).path


def use_run(path: Path) -> None:
    from ..train.toy import Toy, toy_pool

    found = RunFolder.open(path)
    assert isinstance(found.state, dict)
    list(found.metrics())
    found.training_seconds()
    from_plain(Toy, found.config["recipe"])
    from_plain(TrainOptions, found.config["run"])
    checkpoint.newest(found.checkpoints)
    if found.state.get("status") == "running":
        resume(path, toy_pool(16), kind=Toy)


def claims(folder: Path) -> Path:
    path = folder / "clip.jsonl"
    side = Side("clip", {"recall@1": [0.5, 0.25]}, 1.0, {"steps": 100.0, "seconds": None})
    zero = dict.fromkeys(("difference", "p", "p_equal", "cpu_seconds", "matters", "equivalence"), 0.5)
    words = {name: name for name in ("claim", "kind", "date", "commit", "hash", "data", "metric", "verdict", "why")}
    entry = Entry(
        **words, **zero, machine={"cores": 2}, seeds=(101, 102), higher_is_better=True, baseline=side, method=side, controls=(side,),
        equal_budget=("steps",), sweep={"clip": {"rates": {"1.0": [0.5]}}}, interval=(0.0, 1.0), reached={"a": ["b"]}, seeds_needed=3,
    )  # fmt: skip
    for line in (entry, {"claim": "clip/main", "superseded": "older rules"}):
        ledger.append(path, line)
    freshness.write(folder, freshness.Freshness("claim", "date", "commit", "hash", "closure", trace={"losses": [0.5]}))
    return path


def use_claims(path: Path) -> None:
    list(ledger.lines(path))
    ledger.latest(path.parent, "clip/main")
    freshness.read(path.parent)


def curated(folder: Path) -> Path:
    curate(open_built(shards(folder)), [ExactDuplicates()], folder / "curated", source=str(folder / "built"))
    return folder / "curated"


def use_curated(path: Path) -> None:
    use(open_curated(path, read))


OURS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], Callable[[Path], bool]]] = {
    "shards": (shards, use_shards, lambda file: "score" not in file.name),
    "column table": (shards, use_tables, lambda file: file.parent.name == "tables"),
    "verified": (shards, verify, lambda file: file.suffix == ".tar" or file.name in ("diptych.json", "manifest.parquet")),
    # The engine's own files under shard/ are left alone: it maps them into memory and trusts them.
    "dense index": (dense, lambda path: use_index(path, Still()), lambda file: "shard" not in file.parts),
    "lexical index": (lexical, lambda path: use_index(path, BM25Encoder()), lambda file: "shard" not in file.parts),
    "model": (model, open_model, lambda file: True),
    "run": (run, use_run, lambda file: "model" not in file.parts),
    "claims": (claims, use_claims, lambda file: True),
    "curation": (curated, use_curated, lambda file: "curated" in file.parts),
    "checksums": (lexical, use_checksums, lambda file: file.suffix in (".bin", ".txt", ".json") and "shard" not in file.parts),
}


@BOTH
@pytest.mark.parametrize("name", OURS)
def test_a_folder_of_ours_that_was_damaged(name: str, cases: int, tmp_path: Path) -> None:
    make, open_, ours = OURS[name]
    path = make(tmp_path)
    open_(path)  # as it is, it is sound
    fuzz_files(files_of(tmp_path), lambda: open_(path), cases if cases == SLOW else cases // 3, ours)
