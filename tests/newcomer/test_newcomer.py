"""A newcomer's first day, from the wheel: an environment of its own, an empty folder, no repository beside it. Each step with its time.

The libraries that the wheel depends on are those of the environment that runs the tests; Diptych itself is the wheel's.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
Say = Callable[..., subprocess.CompletedProcess[str]]
TINY = ["--steps", "2", "--batch-size", "8", "--width", "16"]
TIMES: dict[str, float] = {}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # on a busy machine each command takes a while


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with a newcomer's data: pictures in folders, and a table with names of its own."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    lines = ["where;says;who"]
    for row in range(60):
        kind = ("cat", "dog")[row % 2]
        (folder / "pets" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / "pets" / kind / f"{row}.png")
        lines.append(f"pets/{kind}/{row}.png;a {kind}, number {row};g{row // 2}")
    (folder / "mine.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(python: Path, home: Path) -> Iterator[Say]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {"DIPTYCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "2"}

    def carry_out(*words: object, code: int = 0, module: bool = True, step: str = "") -> subprocess.CompletedProcess[str]:
        begun = time.perf_counter()
        command = [str(python), *(["-m", "diptych"] if module else []), *map(str, words)]
        done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
        TIMES[step or " ".join(map(str, words[:3]))] = time.perf_counter() - begun
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done

    yield carry_out
    print("\n".join(f"{seconds:7.1f} s  {step}" for step, seconds in TIMES.items()))


def test_the_wheel_is_what_runs(run: Say, python: Path, home: Path) -> None:
    where = run("-c", "import diptych; print(diptych.__file__)", module=False).stdout
    assert str(python.parents[1]) in where
    assert str(REPOSITORY / "src") not in where
    assert run("--version").stdout.startswith("diptych ")
    assert "Start with: diptych demo" in run("--help").stdout
    launched = run(
        "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "diptych", "--version", module=False, step="launcher -m"
    )
    assert "diptych " in launched.stdout


def test_a_table_with_names_of_its_own_becomes_a_model(run: Say, home: Path) -> None:
    assert "expected --image COLUMN" in run("train", "clip", "--data", "mine.csv", "--out", "runs/a", code=1).stderr
    assert not (home / "runs" / "a").exists()
    columns = ["--image", "where", "--text", "says", "--group", "who"]
    done = run("train", "clip", "--data", "mine.csv", "--out", "runs/a", *columns, *TINY, "--json")
    assert "are held out" in done.stderr
    assert list(json.loads(done.stdout)["results"]) == ["test"]
    assert (
        "replace it with --overwrite"
        in run("train", "clip", "--data", "mine.csv", "--out", "runs/a", *columns, *TINY, code=1).stderr
    )
    assert "finished after 4 steps" in run("train", "--resume", "runs/a", "--steps", 4).stdout
    assert "r@1" in run("eval", "runs/a", "retrieval", "--data", "mine.csv").stdout
    assert "minutes" in run("compare", "clip", "siglip", "--data", "emoji", "--budget", "steps:10", "--dry-run").stdout


def test_folders_are_classes_and_what_was_trained_is_searched_and_taken_elsewhere(run: Say, home: Path) -> None:
    run("train", "clip", "--data", "pets", "--text", "folder", "--out", "runs/pets", "--early-stop", *TINY)
    run("index", "build", "runs/pets", "pets", "pets.index")
    assert len(json.loads(run("search", "pets.index", "a cat", "--json").stdout)["hits"]) == 5
    run("export", "runs/pets", "out/onnx")
    run("data", "export", "pets", "out/csv", "--format", "csv")
    assert (home / "out" / "csv" / "data.csv").is_file()


SCRIPT = """
import diptych as dp, numpy as np
from PIL import Image
model = dp.load("runs/pets")
assert model.embed_texts("a cat").ndim == 1
picture = Image.open("pets/cat/0.png")
assert np.allclose(model.embed_images(picture), model.embed_images(["pets/cat/0.png"])[0])
pool = dp.read([("pets/cat/0.png", "a cat"), (picture, "the same")])
assert pool[:1].uids[0] in pool and pool[0].image.pil().size == (20, 20)
with dp.open_index("pets.index") as index:
    print(index.search(picture, 3)[0].uid)
"""


def test_a_notebook_hands_over_what_it_has(run: Say, home: Path) -> None:
    assert run("-c", SCRIPT, module=False, step="python script").stdout.strip() == "cat_0"


def test_the_demo_leaves_out_seeds_that_do_not_fit_and_says_so(run: Say, home: Path) -> None:
    done: Any = json.loads(run("demo", "--seconds", 10, "--steps", 20, "--json").stdout)
    assert Path(home / done["report"]).is_file()
    assert done["cut"].startswith("1 of 3 seeds fit into 10 seconds on this machine")
