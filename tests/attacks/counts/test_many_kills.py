"""Over a hundred kills at any moment of a command: what was acknowledged is there, and the same command goes on to the same end."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..hostile import png
from .forked import Commands, commands

KILLS = {"train": 20, "index build": 15, "index add": 20, "index compact": 10, "data build": 15, "data add": 10, "curate": 10}
KILLS |= {"claims run": 10}
HERE = "tests.attacks.counts.test_many_kills"


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("forks")) as started:
        yield started


def rows(first: int, last: int, file: Path) -> Path:
    each = [{"uid": f"u{n}", "image": "a.png", "caption": f"a red bus number n{n}"} for n in range(first, last)]
    file.write_text("\n".join(map(json.dumps, each)))
    (file.parent / "a.png").write_bytes(png())
    return file


def pictures(folder: Path, count: int, *, first: int = 0) -> Path:
    folder.mkdir()
    for number in range(first, first + count):
        (folder / f"{number:04d}.png").write_bytes(png(number))
        (folder / f"{number:04d}.txt").write_text(f"picture number {number}")
    return folder


def digest(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass
class Work:
    """What is killed.

    begin    words of the command, given a fresh folder
    resume   words that go on after a kill
    result   what must be the same at the end as without a kill
    checked  what must hold right after a kill, before anything goes on
    """

    folder: Path
    forks: Commands
    shared: dict[str, Path] = field(default_factory=dict)

    def prepare(self, folder: Path) -> None: ...

    def begin(self, folder: Path) -> list[Any]:
        raise NotImplementedError

    def resume(self, folder: Path) -> list[Any]:
        return self.begin(folder)

    def checked(self, folder: Path) -> None: ...

    def result(self, folder: Path) -> Any:
        raise NotImplementedError

    call = "diptych.cli:main"


class Train(Work):
    def begin(self, folder: Path) -> list[Any]:
        words = ["train", "clip", "--data", "world:scenes?n=40", "--steps", "12", "--batch-size", "4", "--save-every", "3"]
        return [*words, "--no-evaluation", "--out", folder / "run", "--json"]

    def resume(self, folder: Path) -> list[Any]:
        begun = (folder / "run/run.json").is_file()
        return ["train", "--resume", folder / "run", "--json"] if begun else self.begin(folder)

    def checked(self, folder: Path) -> None:
        self.newest = max((int(path.name[5:]) for path in folder.glob("run/checkpoints/step-*")), default=0)

    def result(self, folder: Path) -> Any:
        steps = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        trained = [line["step"] for line in steps if line.get("kind") == "train"]
        assert max(trained) == 12
        return digest(folder, "run/model/*.safetensors")


class IndexBuild(Work):
    def begin(self, folder: Path) -> list[Any]:
        table = self.folder / "t.jsonl"
        if not table.is_file():
            rows(0, 700, table)
        return ["index", "build", "words", table, folder / "index", "--what", "texts", "--kind", "lexical", "--json"]

    def result(self, folder: Path) -> Any:
        assert self.forks.run("index", "verify", folder / "index", "--json").good().json["ok"]
        return [self.forks.run("search", folder / "index", words, "--json").good().json["hits"] for words in ("n77", "red bus")]


class IndexAdd(IndexBuild):
    base = 300

    def prepare(self, folder: Path) -> None:
        if not (self.folder / "base").is_dir():
            rows(0, self.base, self.folder / "base.jsonl")
            rows(self.base, 700, self.folder / "more.jsonl")
            words = ["index", "build", "words", self.folder / "base.jsonl", self.folder / "base", "--what", "texts"]
            self.forks.run(*words, "--kind", "lexical").good()
        shutil.copytree(self.folder / "base", folder / "index")

    def begin(self, folder: Path) -> list[Any]:
        return ["index", "add", folder / "index", self.folder / "more.jsonl", "--existing", "skip", "--json"]

    def checked(self, folder: Path) -> None:
        report = self.forks.run("index", "verify", folder / "index", "--json").good().json
        assert report["ok"]
        assert report["items"] >= self.base


class IndexCompact(IndexAdd):
    base = 700

    def begin(self, folder: Path) -> list[Any]:
        return ["index", "compact", folder / "index", "--json"]


class DataBuild(Work):
    def begin(self, folder: Path) -> list[Any]:
        if not (self.folder / "pictures").is_dir():
            pictures(self.folder / "pictures", 300)
        return ["data", "build", self.folder / "pictures", folder / "built", "--shard-samples", "30", "--json"]

    def result(self, folder: Path) -> Any:
        assert self.forks.run("data", "verify", folder / "built", "--json").good().json["ok"]
        return digest(folder, "built/shards/*.tar", "built/manifest.parquet", "built/tables/*")


class DataAdd(DataBuild):
    def prepare(self, folder: Path) -> None:
        if not (self.folder / "base").is_dir():
            self.forks.run("data", "build", pictures(self.folder / "first", 60), self.folder / "base").good()
            pictures(self.folder / "more", 240, first=60)
        shutil.copytree(self.folder / "base", folder / "built")

    def begin(self, folder: Path) -> list[Any]:
        return ["data", "add", folder / "built", self.folder / "more", "--shard-samples", "30", "--json"]

    def checked(self, folder: Path) -> None:
        assert self.forks.run("data", "inspect", folder / "built", "--json").good().json["samples"] >= 60

    def result(self, folder: Path) -> Any:
        assert self.forks.run("data", "verify", folder / "built", "--json").good().json["ok"]
        return self.forks.run("data", "inspect", folder / "built", "--json").good().json["samples"]


class Curate(Work):
    def begin(self, folder: Path) -> list[Any]:
        if not (self.folder / "built").is_dir():
            words = ["data", "build", pictures(self.folder / "pictures", 300), self.folder / "built"]
            self.forks.run(*words).good()
        return ["curate", "exact_duplicates", self.folder / "built", folder / "curated", "--json"]

    def result(self, folder: Path) -> Any:
        return self.forks.run("data", "inspect", folder / "curated", "--json").good().json["samples"]


class ClaimsRun(Work):
    call = f"{HERE}:judged"

    def begin(self, folder: Path) -> list[Any]:
        return [str(folder / "cells"), str(folder / "verdict.json")]

    def result(self, folder: Path) -> Any:
        return json.loads((folder / "verdict.json").read_text())


def judged(cells: str, out: str) -> int:
    """One claim whose arms take some milliseconds a cell."""
    import time

    from tests.claims import test_engine

    from diptych.claims.engine import run

    class Slow(test_engine.Fake):
        def __call__(self, cell: Any) -> dict[str, float]:
            time.sleep(0.01)
            return super().__call__(cell)

    test_engine.Fake = Slow  # type: ignore[misc]
    entry = run(test_engine.claim(), cells=Path(cells), commit="abc")
    Path(out).write_text(json.dumps([entry.verdict, entry.difference, entry.method.scores, list(entry.seeds)]))
    return 0


WORKS: dict[str, type[Work]] = {
    "train": Train,
    "index build": IndexBuild,
    "index add": IndexAdd,
    "index compact": IndexCompact,
    "data build": DataBuild,
    "curate": Curate,
    "claims run": ClaimsRun,
    "data add": DataAdd,
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WORKS)
def test_kills_lose_nothing(name: str, forks: Commands, tmp_path: Path, record_property: Any) -> None:
    work = WORKS[name](tmp_path, forks)
    whole = tmp_path / "whole"
    whole.mkdir()
    work.prepare(whole)
    words = work.begin(whole)
    seconds = forks.run(*words, call=work.call).check().good().seconds
    expected = work.result(whole)
    draw = random.Random(f"{name} {tmp_path}")
    killed = 0
    for number in range(KILLS[name]):
        folder = tmp_path / f"kill-{number}"
        folder.mkdir()
        work.prepare(folder)
        for _ in range(20):  # until a kill came in time
            outcome = forks.run(*work.begin(folder), seconds=draw.uniform(0.0, seconds), call=work.call)
            if outcome.killed:
                break
            shutil.rmtree(folder)
            folder.mkdir()
            work.prepare(folder)
        assert outcome.killed
        assert "Traceback" not in outcome.err, outcome.err
        killed += 1
        work.checked(folder)
        forks.run(*work.resume(folder), call=work.call).check().good()
        assert work.result(folder) == expected
        shutil.rmtree(folder)
    record_property("kills", killed)
    print(f"{name}: {killed} kills over {seconds:.2f} s, 0 lost")
