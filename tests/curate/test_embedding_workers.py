"""One embedding by several workers: processes of torchrun and actors of Ray write the files of one; a lost worker is one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joined_processes import on_processes
from PIL import Image

from diptych.core.errors import ConfigError, RunError
from diptych.curate.engine import embedding_workers
from diptych.curate.engine.embedding_workers import EmbedActor, embed_images
from diptych.index import embedding_table
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.address import open_data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained model."""
    folder = tmp_path_factory.mktemp("model")
    recipe = CLIP.tiny().prepare(open_data("world:scenes?n=4&size=32"))
    recipe.deploy(recipe.model()).save(folder / "clip")
    return str(folder / "clip")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Table of sixty pictures and two files that are none."""
    folder = tmp_path_factory.mktemp("data")
    lines = ["image,text"]
    for number in range(62):
        pixels_HWC = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        name = f"{number:02}.png"
        Image.fromarray(pixels_HWC).save(folder / name)
        if number in (5, 40):
            (folder / name).write_bytes(b"nothing %d" % number)
        lines.append(f"{name},text {number}")
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "pairs.csv")


def files(folder: Path) -> dict[str, bytes]:
    """Files of a folder, except for lineage.json, which holds times."""
    every = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lineage.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def embedded(model: str, data: str, out: Path, part_rows: int, rank: int, world: int) -> list[Any]:
    """The work of one process."""
    embedding_table.PART_ROWS = part_rows
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    report = embed_images(model, data, out)
    return [] if report is None else [report.samples, report.computed, report.rows, len(report.unreadable)]


def test_two_processes_write_the_files_of_one(model: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_table, "PART_ROWS", 16)
    alone = embed_images(model, data, tmp_path / "one")
    assert alone is not None
    assert (alone.computed, len(alone.unreadable)) == (60, 2)
    (tmp_path / "meet").mkdir()
    work = partial(embedded, model, data, tmp_path / "two", 16)
    assert on_processes(work, tmp_path / "meet") == [[62, 60, 60, 2], []]
    expected = files(tmp_path / "one")
    assert sum(name.endswith(".npy") for name in expected) == 4
    assert files(tmp_path / "two") == expected


def test_settings_that_cannot_work_are_refused(model: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="workers is 2, but engine is local"):
        embed_images(model, data, tmp_path, workers=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun started 2 processes, but engine is ray"):
        embed_images(model, data, tmp_path, engine="ray")


# ---------------------------------------------------------------- torchrun

SLOW_PARTS = """
import os, sys, time
from diptych.cli import main
from diptych.index import embedding_table
embedding_table.PART_ROWS = 4
write = embedding_table.write_part
def slow(*part):
    write(*part)
    time.sleep(float(sys.argv[1]))
embedding_table.write_part = slow
sys.exit(main(sys.argv[2:]))
"""
"""The command with small parts, after each of which it waits."""


def until(condition: Callable[[], object], tries: int = 2400) -> None:
    """Waits for a condition, asking twenty times a second."""
    for _ in range(tries):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition never held")


def torchrun(folder: Path, words: list[str], *, pause: float = 0.0) -> subprocess.Popen[str]:
    script = folder / "embed.py"
    script.write_text(SLOW_PARTS, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(pause)]
    with (folder / "log").open("w") as log:
        return subprocess.Popen([*start, "embed", *words], stdout=log, stderr=log, text=True)


def rank_of(launcher: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    for pid in subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split():
        with suppress(OSError):
            if re.search(rb"(?:^|\0)RANK=%d\0" % rank, Path(f"/proc/{pid}/environ").read_bytes()):
                return int(pid)
    raise AssertionError(f"no rank {rank}")


def errors_in(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith(("error:", "interrupted", "ended by"))]


@pytest.fixture(scope="module")
def whole(model: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that one process writes in parts of four."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_table, "PART_ROWS", 4)
        embed_images(model, data, folder)
    return files(folder)


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_process_is_one_line_and_nothing_is_lost(
    dead: int, model: str, data: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, words = tmp_path / "out", [model, data, str(tmp_path / "out"), "--json"]
    launcher = torchrun(tmp_path, words, pause=1.0)
    try:
        until(lambda: launcher.poll() is not None or len(list(out.rglob("part-*.parquet"))) >= 3)
        os.kill(rank_of(launcher, dead), signal.SIGKILL)
        assert launcher.wait(60) != 0
    finally:
        launcher.kill()
    (line,) = errors_in(tmp_path / "log")
    assert re.match(rf"error: rank {dead} \(.+\) is gone; what is finished is kept; run the same again$", line), line
    kept = files(out)
    begun = [name for name in kept if name.endswith("filling.json")]
    assert len(begun) == 1
    assert all(kept[name] == whole[name] for name in kept if name.endswith((".npy", ".parquet"))), "parts are whole"
    assert 0 < sum(name.endswith(".parquet") for name in kept) < 15
    again = torchrun(tmp_path, words)
    assert again.wait(120) == 0
    (report,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert report["rows"] == 60
    assert report["computed"] < 60
    assert files(out) == whole


@pytest.mark.slow
def test_a_fault_of_the_data_is_said_once(model: str, tmp_path: Path) -> None:
    launcher = torchrun(tmp_path, [model, str(tmp_path / "nothing"), str(tmp_path / "out")])
    assert launcher.wait(120) != 0
    (line,) = (line for line in errors_in(tmp_path / "log") if line.startswith("error:"))  # the other process ends by a signal
    assert "nothing" in line


# ---------------------------------------------------------------- Ray


@pytest.mark.slow
def test_actors_of_ray_write_the_files_of_one_process(
    model: str, data: str, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One actor dies in its second part; the call after it finds the others' parts and makes the rest."""
    ray = pytest.importorskip("ray", reason="the extra scale is not installed: embedding on Ray is not tested")
    monkeypatch.setattr(embedding_table, "PART_ROWS", 4)  # of the plan, which this process makes
    monkeypatch.setattr(embedding_workers, "EmbedActor", Mortal)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of actors, which import this file
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(RunError, match=r"^a worker of Ray is gone; what is finished is kept; run the same again$"):
            embed_images(model, data, tmp_path / "two", engine="ray", workers=2)
        kept = files(tmp_path / "two")
        assert 0 < sum(name.endswith(".parquet") for name in kept) < 15
        monkeypatch.undo()
        monkeypatch.setattr(embedding_table, "PART_ROWS", 4)
        report = embed_images(model, data, tmp_path / "two", engine="ray", workers=2)
        assert report is not None
        assert report.rows == 60
        assert files(tmp_path / "two") == whole
    finally:
        ray.shutdown()


class Mortal(EmbedActor):
    """Ends its process in the third part that it is given."""

    given = 0

    def write(self, *part: Any) -> tuple[int, dict[str, str], str]:
        self.given += 1
        if self.given == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(*part)
