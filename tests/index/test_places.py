"""Where an index may be built, and which of its folders belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.core.errors import RunError
from diptych.index.facts import FILE, Facts
from diptych.index.places import new_collection, next_shard, refuse_target, remove_stale_shards


def facts(**changes: str) -> Facts:
    return Facts("dense", "texts", {}, {}, **changes)  # type: ignore[arg-type]


def test_an_index_replaces_only_an_index_and_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for overwrite in (False, True):
        refuse_target(folder, overwrite)  # nothing is there
    folder.mkdir()
    refuse_target(folder, True)
    with pytest.raises(RunError, match="exists: overwrite it"):
        refuse_target(folder, False)
    (folder / "photo.png").touch()
    with pytest.raises(RunError, match="is not an index"):
        refuse_target(folder, True)
    (folder / FILE).touch()
    refuse_target(folder, True)
    with pytest.raises(RunError, match="exists: overwrite it"):
        refuse_target(folder, False)


def test_shards_have_new_names_and_stale_ones_go(tmp_path: Path) -> None:
    assert [next_shard(facts(shard=name)) for name in ("shard", "shard-2", "shard-19")] == ["shard-2", "shard-3", "shard-20"]
    assert new_collection(tmp_path) != new_collection(tmp_path)
    names = ("shard", "shard-2", "shard-3", "tables")
    for name in names:
        (tmp_path / name).mkdir()
    remove_stale_shards(tmp_path, facts(shard="shard-2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-2", "tables"]
    remove_stale_shards(tmp_path, facts(shard="shard-2", url="http://localhost:6333"))
    assert [path.name for path in tmp_path.iterdir()] == ["tables"], "the vectors are on a server"
