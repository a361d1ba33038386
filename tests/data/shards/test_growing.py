"""Built folders that grow: samples added in shards, items changed through the log, and both through kills and a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.killed import KillAt

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError, RunError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy
from diptych.data.dataset import Pool
from diptych.data.media.decode import encode_webp, probe
from diptych.data.shards.append import add
from diptych.data.shards.build import build, open_built
from diptych.data.shards.changes import NewPicture, PutItem, RemoveItem, append_changes, changing, read_changes
from diptych.data.shards.mark import read_mark
from diptych.data.shards.revise import revise
from diptych.data.shards.takedown import sha256_of, takedown
from diptych.data.shards.verify import verify
from diptych.data.split import save_split, split


def samples(numbers: Iterable[int], **extras: object) -> list[Sample]:
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (200, 9, 7, 3), np.uint8)
    return [
        Sample(f"u{n:03}", ArrayImage(pixels[n]), (Text(f"text {n}"),), group=f"g{n % 5}", extras={"side": n, **extras})
        for n in numbers
    ]


def content(folder: Path) -> dict[str, tuple[bytes, tuple[Text, ...], str, dict[str, object]]]:
    return {s.uid: (s.image.read(), s.texts, s.group, s.extras) for s in open_built(folder)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(Pool.from_samples(samples(range(20)), name="data"), tmp_path / "data", shard_samples=7)
    return tmp_path / "data"


def picture(seed: int) -> NewPicture:
    data = encode_webp(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))
    facts = probe(data, name="new")
    return NewPicture(data, facts.format.lower(), facts.width, facts.height, sha256_of(data))


def put(uid: str, seed: int, *texts: str, **columns: object) -> PutItem:
    return PutItem({"uid": uid, **columns}, tuple(map(Text, texts)), picture(seed))


def change(folder: Path, *changes: PutItem | RemoveItem) -> None:
    with changing(folder):
        append_changes(folder, changes, revision=read_mark(folder)["revision"])


def test_added_samples_equal_a_build_of_all(folder: Path, tmp_path: Path) -> None:
    report = add(folder, Pool.from_samples(samples(range(20, 33), vendor="noto"), name="more"), shard_samples=7)
    assert (report.samples, report.count) == (13, 33)
    assert verify(folder, update=False).ok
    build(Pool.from_samples(samples(range(20)) + samples(range(20, 33), vendor="noto"), name="data"), tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")
    assert open_built(folder).fingerprint == open_built(tmp_path / "whole").fingerprint
    again = add(folder, Pool.from_samples(samples(range(15, 33)), name="more"))
    assert (again.samples, again.same) == (0, 18)


def test_duplicates_and_other_contents(folder: Path) -> None:
    copies = [replace(sample, uid=f"copy{n}") for n, sample in enumerate(samples([3, 4, 40, 40]))]
    report = add(folder, Pool.from_samples(copies))
    assert (report.samples, report.duplicates) == (1, 3)
    assert "copy0: shows the same picture as u003" in "\n".join(report.lines())
    assert add(folder, Pool.from_samples(copies), duplicates="keep").samples == 3
    before = content(folder)
    for wrong, what in (
        (replace(samples([3])[0], texts=(Text("other"),)), "with another texts"),
        (replace(samples([4])[0], uid="u003"), "with another picture"),
        (replace(samples([50])[0], extras={"side": "left"}), "side"),
    ):
        with pytest.raises(DataError, match=what):
            add(folder, Pool.from_samples([*samples([60]), wrong]))
    assert content(folder) == before


def test_an_addition_that_is_killed_goes_on(folder: Path, tmp_path: Path, kill: KillAt) -> None:
    before, more = content(folder), Pool.from_samples(samples(range(20, 30)), name="more")
    for at in count(step=2):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy{at}"))
        with kill(at) as killed:
            add(copy, more, shard_samples=4)
        assert content(copy).keys() in (before.keys(), {f"u{n:03}" for n in range(30)})
        add(copy, more, shard_samples=4)
        assert len(content(copy)) == 30
        assert verify(copy, update=False).ok
        if not killed:
            break
    assert at > 20


def test_a_group_keeps_its_split(folder: Path) -> None:
    save_split(folder, split(open_built(folder), {"train": 0.6, "test": 0.4}), MadeBy("split"))
    split_of = dict(zip(open_built(folder).groups, open_built(folder).column("split"), strict=True))
    alone = replace(samples([31])[0], group="nobody")
    report = add(folder, Pool.from_samples([*samples(range(20, 25)), alone]))
    added = open_built(folder).where("uid", [f"u{n:03}" for n in range(20, 25)])
    assert added.column("split") == [split_of[group] for group in added.groups]
    assert report.no_split == 1


def test_the_log_is_read_at_once_and_written_into_shards_later(folder: Path) -> None:
    before = content(folder)
    old = open_built(folder)
    corrected = {**old.stored(old.uids.index("u004")), "side": 99}
    change(folder, put("new1", 1, "a new one", side=5, tags=["a", "b"]), put("new2", 2, "another"))
    change(folder, PutItem(corrected, (Text("right", "en"),)), RemoveItem("u005"), RemoveItem("new2"))
    now = content(folder)
    assert now.keys() == before.keys() - {"u005"} | {"new1"}
    assert now["new1"] == (picture(1).data, (Text("a new one"),), "", {"side": 5, "tags": ["a", "b"]})
    assert now["u004"] == (before["u004"][0], (Text("right", "en"),), "g4", {"side": 99})
    assert {bad.uid for bad in open_built(folder).quarantine} == {"u005", "new2"}
    assert verify(folder, update=False).ok
    fingerprint = open_built(folder).fingerprint
    with changing(folder):
        revise(folder)
    assert not read_changes(folder)
    assert content(folder) == now
    assert open_built(folder).fingerprint == fingerprint
    assert verify(folder, update=False).ok
    stored = b"".join(path.read_bytes() for path in (folder / "shards").iterdir())
    assert before["u005"][0] not in stored
    assert picture(2).data not in stored
    assert b'text 4"' not in stored
    change(folder, put("u005", 5, "back again"))
    assert content(folder)["u005"][1] == (Text("back again"),)


def test_a_kill_while_the_log_is_written_into_shards(folder: Path, tmp_path: Path, kill: KillAt) -> None:
    change(folder, put("new1", 1, "one"), put("new2", 2, "two"), RemoveItem("u005"), RemoveItem("u006"))
    now = content(folder)
    for at in count(step=2):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy{at}"))
        with kill(at) as killed, changing(copy):
            revise(copy)
        assert content(copy) == now
        takedown(copy, ["new2"])
        assert content(copy).keys() == now.keys() - {"new2"}
        assert verify(copy, update=False).ok
        if not killed:
            break
    assert at > 10


def test_half_a_line_is_no_change_and_a_damaged_one_is_named(folder: Path) -> None:
    change(folder, put("new1", 1, "one"))
    whole = (folder / "changes.jsonl").read_bytes()
    (folder / "changes.jsonl").write_bytes(whole + whole[:40])
    assert "new1" in content(folder)
    change(folder, put("new2", 2, "two"))
    assert {"new1", "new2"} <= content(folder).keys()
    for bad in (b"[]\n", b'{"put": {"uid": 3}, "texts": []}\n', b'{"put": {"uid": "a"}, "texts": [["b"]]}\n', b"\xff\n"):
        (folder / "changes.jsonl").write_bytes(whole + bad)
        with pytest.raises(DataError, match="row 2: is not a change"):
            open_built(folder)
    line = json.loads(whole)
    line["put"]["shard"] = "../../secret"
    (folder / "changes.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match="names the shard"):
        open_built(folder)
    line["put"] |= {"shard": "added-00000.bin", "image_size": 10**9}
    (folder / "changes.jsonl").write_text(json.dumps(line) + "\n")
    assert "new1" not in content(folder)


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_nothing_half_stored(folder: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    change(folder, put("new1", 1, "one"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    calls, real = [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="nothing of the change was stored"):
            change(folder, put("new2", 2, "two"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_several_data_sets_are_one(folder: Path, tmp_path: Path) -> None:
    build(Pool.from_samples(samples(range(20, 30), vendor="noto"), name="more"), tmp_path / "more")
    both = dp.read([folder, str(tmp_path / "more")])
    assert len(both) == 30
    whole = {**content(folder), **content(tmp_path / "more")}
    assert {s.uid: (s.image.read(), s.texts, s.group, s.extras) for s in both} == whole
    one, other = dp.read(folder), dp.read(tmp_path / "more")
    assert (one + other).uids == both.uids
    assert (one + other).fingerprint == both.fingerprint
    assert both.select([25, 3])[0].image.read() == whole[both.uids[25]][0]
    assert both.where("vendor", "noto").uids == other.uids
    with pytest.raises(DataError, match="uid 'u002' is in 'data' and in 'data'"):
        one + one
    build(both, tmp_path / "whole")
    assert content(tmp_path / "whole") == whole
    pairs = dp.read([(tmp_path / "none.png", "a text"), (tmp_path / "other.png", "a text")], captions=False)
    assert len(pairs) == 2, "a list of pairs is still rows"


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "more").mkdir()
    for n in (1, 2):
        (tmp_path / "more" / f"p{n}.webp").write_bytes(picture(n).data)
        (tmp_path / "more" / f"p{n}.txt").write_text(f"a picture {n}")
    assert main(["data", "add", str(folder), str(tmp_path / "more"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["count"]) == (2, 22)
    assert open_built(folder)[open_built(folder).uids.index("p1")].texts == (Text("a picture 1"),)
    change(folder, RemoveItem("p1"))
    assert main(["data", "compact", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 21
    assert main(["data", "takedown", str(folder), "--where", "group=g1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 4
    assert "g1" not in open_built(folder).groups
