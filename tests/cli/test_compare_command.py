"""`diptych compare` at the terminal: one JSON object, a page, cells in processes of their own, refusals in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import main
from diptych.cli.commands.compare import CompareArgs
from diptych.comparisons import job
from diptych.worlds.address import open_data, with_held_out

WORLD = "world:scenes?n=24&val=6&test=12&size=32"
SMALL = ["--set", "batch_size=8", "warmup=0", "width=16", "image_size=32", "text_length=12", "pieces=300"]


def ask(*words: str) -> int:
    return main(["compare", *words])


def test_two_recipes_from_the_command_to_the_page(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = job.run_apart

    def one_apart(cell: job.Job, say: Any) -> Any:
        """One process of its own shows what two would."""
        return apart(cell, say) if cell.arm == "clip" else job.run_job(cell, with_held_out(open_data(cell.source)))

    monkeypatch.setattr(job, "run_apart", one_apart)
    out = tmp_path / "out"
    words = ["clip", "siglip:start_bias=-5", "--data", WORLD, "--seeds", "1", "--budget", "samples:16", "--out", str(out)]
    assert ask(*words, *SMALL, "--json") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 1
    plain = json.loads(lines[0])
    assert plain["arms"] == ["clip", "siglip:start_bias=-5"]
    assert plain["configs"]["siglip:start_bias=-5"]["start_bias"] == -5.0
    assert [cost["steps"] for cost in plain["costs"]] == [2, 2]
    assert plain["costs"][0]["peak_memory"] > 50e6  # a process of its own was measured
    assert Path(plain["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "[2/2] siglip:start_bias=-5, seed 0: 2 steps" in said.err
    # Run folders of that comparison can be compared again, now as models that are there.
    folders = [next(iter(seeds.values())) for seeds in plain["folders"].values()]
    assert ask(*folders, "--data", WORLD, "--out", str(tmp_path / "given")) == 0
    assert "scored in" in capsys.readouterr().out
    assert ask(*folders, "--data", WORLD.replace("n=24", "n=25"), "--out", str(tmp_path / "given")) == 1
    refused = capsys.readouterr().err
    assert plain["data"]["fingerprint"] in refused
    assert refused.count("fingerprint") == 1
    assert "has " in refused


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no recipes to compare"),
        (["clip", "siglib", "--data", WORLD], 2, "did you mean 'siglip'"),
        (["clip", "siglip", "--data", WORLD, "--tasks", "retreival"], 2, "did you mean 'retrieval'"),
        (["clip", "siglip", "--data", WORLD, "--budget", "200"], 2, "budget '200' (expected steps:N"),
        (["clip", "siglip", "--data", WORLD, "--seeds", "0"], 2, "seeds is 0"),
        (["clip", "siglip", "--data", WORLD, "--set", "batchsize=3"], 2, "did you mean 'batch_size'"),
        (["clip", "siglip", "--data", WORLD, "--set", "steps=3"], 2, "the number of steps is set by the budget"),
        (["clip", "--data", WORLD], 2, "two arms or more"),
        (["clip", "siglip", "--data", WORLD, "--tasks", "pope"], 2, "a Generator or Ranker; 'clip' offers Embedder"),
        (["clip", "siglip", "--data", WORLD, "--tasks", "retrieval:ks=[1,x]"], 2, "ks"),
        (["clip", "runs/nowhere", "--data", WORLD], 1, "there is no model runs/nowhere"),
        (["clip", "siglip", "--data", "world:links?n=8&val=4&test=4", "--tasks", "probe"], 1, "has no case for this task"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_training(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: Any
) -> None:
    out = ["--out", str(tmp_path / "out")] if words else []
    assert ask(*words, *out) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_without_what_a_recipe_needs_are_refused(tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("uid,text,split\na,a dog,train\nb,a cat,test\n", encoding="utf-8")
    code = ask("clip", "siglip", "--data", str(table), "--out", str(tmp_path / "out"))
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert "image" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_killed_in_the_middle_goes_on_with_the_finished_cells(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["clip", "siglip", "--data", WORLD, "--seeds", "2", "--budget", "steps:30", "--out", str(out), *SMALL]
    command = [sys.executable, "-c", "from diptych.cli import main; raise SystemExit(main())", "compare", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as first:
        while len(list(out.glob("cells/*/cell.json"))) < 2 and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        kept = {path: path.read_bytes() for path in out.glob("cells/*/cell.json")}
        assert first.stderr is not None
        said = first.stderr.read()  # ends when the orphaned cell has noticed and stopped
    assert 2 <= len(kept) < 4, said.decode()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert second.stderr.count("there already") >= 2
    assert len(list(out.glob("cells/*/cell.json"))) == 4
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_every_option_has_a_default_but_arms_and_data() -> None:
    needed = [field.name for field in fields(CompareArgs) if field.default is MISSING and field.default_factory is MISSING]
    assert needed == ["arms", "data"]
