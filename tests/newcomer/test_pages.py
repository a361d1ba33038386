"""Every command block of the first pages, in order, from the wheel: README, first hour, fine-tuning, searching, serving.

Trainings take two steps. What is left out stands in LEFT_OUT with its reason. Commands run in forks of one process of the fresh
environment, which has imported Diptych; a service is a process of its own, and what a page sends to it is sent.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.recipes.points.ulip import ULIP

from .conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600)]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = {
    "pip install": "scripts/check_dist.py installs the wheel",
    "make ": "needs the repository",
    "diptych demo": "minutes; scripts/check_dist.py",
    "docker compose": "tests/serve/test_compose.py",
    "openssl": "of the block with Docker",
    "cp -r": "of the block with Docker",
    "localhost:6333": "needs a Qdrant server",
    "chat+http": "needs a server of chat completions",
    "translated/": "what that server writes",
    "models/xlm-roberta-base": "published weights",
    "--mcp stdio": "tests/serve/test_agents.py",
    "import openai": "needs a trained chat model; tests/peers",
}
SHORT = ["--steps", "2", "--batch-size", "8", "--overwrite", "--no-progress"]
DRIVER = """
import json, os, sys, traceback
import diptych as dp, diptych.cli, diptych.api
assert "environment" in dp.__file__, dp.__file__
train = dp.train
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        handle = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            if "code" in order:
                dp.train = lambda *a, **k: train(*a, **{**k, "steps": 2, "batch_size": 8, "overwrite": True})
                exec(compile(order["code"], "block", "exec"), {"__name__": "__main__"})
                code = 0
            else:
                code = diptych.cli.main(order["words"])
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Reader:
    """Someone who types what a page says, in a folder of their own."""

    python: Path
    home: Path
    process: subprocess.Popen[str]
    environment: dict[str, str]
    services: ExitStack = field(default_factory=ExitStack)
    port: int = 0
    done: list[str] = field(default_factory=list)

    def order(self, what: str, **order: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log = self.home / "log.txt"
        self.process.stdin.write(json.dumps({"log": str(log), **order}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        assert code == 0, f"{what}: exit code {code}\n{log.read_text(errors='replace')[-3000:]}"
        self.done.append(what)

    def command(self, line: str) -> None:
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "serve":
            self.serve(words)
            return
        if words[0] == "train" and "--dry-run" not in words:
            words += SHORT
        if words[:2] == ["index", "build"]:
            words.append("--overwrite")
        self.order(line, words=words)

    def serve(self, words: list[str]) -> None:
        self.services.close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(self.python), "-m", "diptych", *words, "--port", str(self.port)]
        log = (self.home / "service.txt").open("w")
        process = subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=log)

        def stop() -> None:
            process.terminate()
            process.wait(60)
            log.close()

        self.services.callback(stop)
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None, (self.home / "service.txt").read_text()[-3000:]
            assert time.monotonic() < deadline, words
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        self.done.append(shlex.join(words))

    def shell(self, line: str, shown: str) -> None:
        """A line with curl or echo: what comes back has the fields that the page shows."""
        if "jq" in line and shutil.which("jq") is None:
            return
        sent = line.replace("localhost:8000", f"127.0.0.1:{self.port}")
        done = subprocess.run(["bash", "-c", sent], cwd=self.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        if "curl" in line and "jq" not in line:
            answer = json.loads(done.stdout)
            try:
                expected = json.loads(shown)
            except ValueError:
                expected = dict.fromkeys(re.findall(r'^\{"(\w+)"', shown))
            assert set(expected) <= set(answer), (line, done.stdout[:500])
            assert ("error" in expected) == ("error" in answer), (line, done.stdout[:500])
        self.done.append(line)

    def page(self, page: Path) -> None:
        for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                if not _left_out(block):
                    shutil.rmtree(self.home / "pictures.index", ignore_errors=True)  # the command made one of that name
                    self.order(f"python: {block[:60]}", code=block)
                continue
            if language not in ("", "console", "bash"):
                continue
            lines = block.replace("\\\n", " ").splitlines()
            for number, line in enumerate(lines):
                typed = line.strip().removeprefix("$ ")
                if _left_out(typed) or (language == "console" and not line.startswith("$ ")):
                    continue
                if typed.startswith("diptych "):
                    self.command(typed)
                elif language == "console":
                    self.shell(typed, "".join(lines[number + 1 : number + 2]))
        self.services.close()


def _left_out(words: str) -> bool:
    return any(sign in words for sign in LEFT_OUT)


@pytest.fixture
def reader(python: Path, tmp_path: Path) -> Iterator[Reader]:
    with typing(python, tmp_path) as reader:
        yield reader
        print(f"{len(reader.done)} steps")


@contextmanager
def typing(python: Path, home: Path) -> Iterator[Reader]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"XDG_CACHE_HOME": str(home / "cache"), "DIPTYCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    words = [str(python), "-c", DRIVER]
    with subprocess.Popen(words, cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        reader = Reader(python, home, process, environment)
        try:
            yield reader
        finally:
            reader.services.close()
            assert process.stdin is not None
            process.stdin.close()


def pairs(folder: Path, count: int, first: int = 0) -> None:
    """Pictures with a text each."""
    rng = np.random.default_rng(first)
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        colour = ("red", "green", "blue")[number % 3]
        pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 3] += 120
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        beside = {"caption": f"a {colour} bus left of tree {number}", "licence": ("MIT", "CC0-1.0")[number % 2]}
        (folder / f"p{number}.json").write_text(json.dumps(beside))


def test_readme(reader: Reader) -> None:
    reader.order("stand-in", words=["train", "clip", "--data", "emoji", "--out", "runs/demo/clip-0", "--no-evaluation", *SHORT])
    reader.page(REPOSITORY / "README.md")
    assert any(step.startswith("python") for step in reader.done)
    assert (reader.home / "out" / "config.json").is_file()


def test_first_hour(reader: Reader) -> None:
    practice = [str(reader.python), str(REPOSITORY / "examples/practice_folder.py"), "pictures"]
    subprocess.run(practice, cwd=reader.home, env=reader.environment, check=True, capture_output=True)
    reader.page(REPOSITORY / "docs/first-hour.md")
    assert len(reader.done) >= 13


def test_fine_tuning(reader: Reader) -> None:
    sys.path.insert(0, str(REPOSITORY / "tests/models/io"))
    import library_folders
    import transformers as hf

    made, ids = library_folders.words()
    config = hf.CLIPConfig(text_config={**library_folders.SIZES, **ids}, vision_config=library_folders.VISION, projection_dim=16)
    library_folders.saved(reader.home, hf.CLIPModel(config), library_folders.clip_processor(made))
    (reader.home / "models").mkdir()
    (reader.home / "library").rename(reader.home / "models/clip-vit-base-patch32")
    pairs(reader.home / "photos", 60)
    pairs(reader.home / "pairs", 60, first=200)
    pairs(reader.home / "others", 60, first=100)
    reader.order("general data", words=["data", "build", "others", "data/general"])
    reader.order("their splits", words=["data", "split", "data/general"])
    start = ["train", "clip", "--data", "photos", "--init", "hf:models/clip-vit-base-patch32", "--no-evaluation"]
    for seed in range(3):
        reader.order("stand-in", words=[*start, "--out", f"runs/seed{seed}", "--seed", str(seed), *SHORT])
    reader.page(REPOSITORY / "docs/fine-tuning.md")
    assert len(reader.done) >= 12


def clouds(home: Path) -> None:
    """An untrained model of point clouds, clouds in a folder and in a table, and a query of each form."""
    pool = dp.read("world:solids?n=6&points=300&views=2&size=16", split="train")
    recipe = replace(ULIP.tiny(), small_steps=0).prepare(pool)
    recipe.deploy(recipe.model()).save(home / "runs/points")
    (home / "shapes").mkdir()
    for row in range(4):
        np.save(home / f"shapes/solid{row}.cloud.npy", pool[row].media["cloud"].decode())
    (home / "shapes.csv").write_text("uid,points\n" + "".join(f"solid{row},shapes/solid{row}.cloud.npy\n" for row in range(4)))
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (home / "chair.ply").write_text(head + "0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    Image.new("RGB", (64, 64), "red").save(home / "chair.jpg")


def test_searching(reader: Reader) -> None:
    clouds(reader.home)
    pairs(reader.home / "pairs", 60)
    pairs(reader.home / "more", 10, first=100)
    Image.new("RGB", (64, 64), "red").save(reader.home / "photo.jpg")
    grades = [f"{colour} bus {number},p{number},1" for number, colour in enumerate(["a red", "a green", "a blue"] * 4)]
    (reader.home / "queries.csv").write_text("\n".join(["query,uid,grade", *grades, "a tree,p4,1", "left of tree 7,p7,2"]))
    (reader.home / "takedown.txt").write_text("p12\n")
    reader.order("stand-in", words=["train", "clip", "--data", "pairs/", "--out", "runs/clip", *SHORT])
    page = reader.home / "searching.md"
    page.write_text((REPOSITORY / "docs/searching.md").read_text(encoding="utf-8").replace("UID UID", "p10 p11"))
    reader.page(page)
    assert len(reader.done) >= 24


def test_serving(reader: Reader) -> None:
    Image.new("RGB", (64, 64), "red").save(reader.home / "apple.webp")
    (reader.home / "subset.txt").write_text("noto-1F34E\nnoto-1F352\n" + "".join(f"noto-1F4{n:02X}\n" for n in range(16, 80)))
    reader.order("stand-in", words=["train", "locked", "--data", "emoji", "--out", "runs/locked", "--no-evaluation", *SHORT])
    reader.order("its index", words=["index", "build", "runs/locked", "emoji", "runs/locked.index", "--split", "unseen_style"])
    reader.page(REPOSITORY / "docs/serving.md")
    assert len([step for step in reader.done if "curl" in step]) >= 4
