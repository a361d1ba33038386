"""The package of docs/add-a-system.md, installed from the page: its recipe, world, operator, task and index do their work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from warm_programs import run

PAGE = Path(__file__).parents[1] / "docs/add-a-system.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = """
import json, shlex, sys
from diptych.comparisons import job
from diptych.cli import main
import diptych.core.registry
job.run_apart = lambda cell, say: job.run_job(cell, job.with_held_out(job.open_data(cell.source)))  # cells need no process of their own
*commands, refused = json.loads(sys.argv[1])
for words in commands:
    print("$", shlex.join(words), flush=True)
    if code := main(words):
        sys.exit(code)
print("refused with", main(refused))
"""
SHORTER = (("--steps 20", "--steps 2"), ("steps:5", "steps:1 --set batch_size=8"))
"""Nothing has to be learned here."""
REFUSED = ["compare", "sitta", "codebook_captioner", "--data", "world:stripes?n=64", "--tasks", "two_captions", "--out", "none"]


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == language]


def install(site: Path) -> None:
    """Modules of the page as a package, and its entry points as pip leaves them."""
    package = site / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    for text in blocks("python"):
        if path := re.match(r"# my_package/(\w+\.py)\n", text):
            (package / path[1]).write_text(text, encoding="utf-8")
    (package / "recipes.py").write_text(blocks("python")[0], encoding="utf-8")
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n", encoding="utf-8")
    points = blocks("toml")[0].replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    return folder


@pytest.fixture(scope="module")
def commands() -> list[list[str]]:
    """Those of the page."""
    (text,) = (text for text in blocks("console") if "world:stripes" in text)
    for long, short in SHORTER:
        assert long in text
        text = text.replace(long, short)
    return [shlex.split(line.removeprefix("$ diptych ")) for line in text.splitlines()]


@pytest.fixture(scope="module")
def done(site: Path, commands: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """One process for all of them, and for one that is refused."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return run("-c", RUN, json.dumps([*commands, REFUSED]), environment={**os.environ, "PYTHONPATH": path}, folder=site)


def test_every_command_under_the_package_does_its_work(
    site: Path, commands: list[list[str]], done: subprocess.CompletedProcess[str]
) -> None:
    assert [words[0] for words in commands] == ["train", "eval", "curate", "index", "search", "compare"]
    assert done.returncode == 0, done.stderr[-2000:]
    kept = json.loads((site / "stripes.index/index.json").read_text(encoding="utf-8"))
    assert (kept["kind"], kept["options"]["floor"]) == ("ternary", 0.02)
    assert json.loads((site / "runs/compare/comparison.json").read_text(encoding="utf-8"))["tasks"] == [
        "two_captions:colours=[red,blue]"
    ]
    page = (site / "runs/compare/report.html").read_text(encoding="utf-8")
    assert "two_captions" in page
    assert "columns are missing" not in page


def test_a_model_that_cannot_do_the_task_is_refused_before_training(site: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout.splitlines()[-1] == "refused with 2"
    assert "task 'two_captions' needs a model that is an Embedder; 'sitta' offers" in done.stderr
    assert not (site / "none").exists()
