"""Every remedy that an error proposes is one: its options belong to the command, it is spelled as a shell takes it, and it works."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import COMMANDS, main
from diptych.core.errors import MissingExtra, UnknownName

TINY = ["--steps", "1", "--batch-size", "4", "--width", "16", "--no-evaluation"]
WORLD = "world:scenes?n=16&test=8"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a newcomer has it: pictures, a table of odd column names, a finished run, an index, a folder that ends like a picture."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    lines = ["where,says,who"]
    for row in range(24):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        lines.append(f"{row}.png,thing {row},g{row}")
    (folder / "odd.csv").write_text("\n".join(lines))
    (folder / "pictures.png").mkdir()
    (folder / "pairs").mkdir()
    (folder / "pairs/alone.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "pairs/alone.txt").write_text("thing 0")
    assert main(["train", "clip", "--data", WORLD, "--out", str(folder / "run"), *TINY]) == 0
    assert main(["index", "build", str(folder / "run"), WORLD, str(folder / "index")]) == 0
    return folder


CASES: dict[str, list[str]] = {
    "a run in the way": ["train", "clip", "--data", WORLD, "--out", "run", *TINY],
    "a share": ["train", "clip", "--data", WORLD, "--out", "new", "--hold-out", "0.9", *TINY],
    "no out": ["train", "clip", "--data", WORLD, *TINY],
    "a published model": ["eval", "hf:openai/clip-vit-base-patch32", "retrieval", "--data", WORLD],
    "a published model to index": ["index", "build", "hf:openai/clip-vit-base-patch32", WORLD, "other"],
    "a published model to export": ["export", "hf:openai/clip-vit-base-patch32", "out"],
    "a tag": ["eval", "open_clip:ViT-B-32/laion2b_s34b_b79k", "retrieval", "--data", WORLD],
    "an index in the way": ["index", "build", "run", WORLD, "index"],
    "no class": ["classify", "run", "0.png"],
    "an export": ["export", "run", "out", "--to", "transformers"],
    "no detector": ["detect", "run", "0.png"],
    "a folder for a picture": ["classify", "run", "pictures.png", "--classes", "a,b"],
    "a wrong task": ["eval", "run", "retreival", "--data", WORLD],
    "a wrong split": ["eval", "run", "retrieval", "--data", WORLD, "--split", "tset"],
    "a wrong preset": ["train", "clip", "--data", WORLD, "--out", "new", "--preset", "huge"],
    "a wrong world": ["train", "clip", "--data", "world:scenes?train=4", "--out", "new"],
    "no budget": ["compare", "clip", "siglip", "--data", WORLD, "--budget", "ten"],
    "no operator's model": ["curate", "semantic_duplicates", WORLD, "out"],
    "a table of odd names": ["train", "clip", "--data", "odd.csv", "--out", "new", *TINY],
    "more steps than none": ["train", "--resume", "run", "--steps", "1"],
    "an unknown run": ["report", "nowhere"],
    "no query": ["search", "index", ""],
    "a picture that is not there": ["search", "index", "no.png"],
    "two pictures": ["search", "index", "0.png", "--image", "1.png"],
    "a column that is not there": ["search", "index", "a star", "--where", "colour=red"],
    "nothing to remove": ["index", "remove", "index"],
    "nothing to caption": ["caption", "run"],
    "captions of no length": ["caption", "run", "0.png", "--max-tokens", "0"],
    "no writer": ["caption", "run", "0.png"],
    "an empty question": ["ask", "run", "0.png", ""],
    "one choice": ["ask", "run", "0.png", "which?", "--choices", "red"],
    "no writer to ask": ["ask", "run", "0.png", "which?"],
    "one class": ["classify", "run", "0.png", "--classes", "a"],
    "phrases and names": ["detect", "run", "0.png", "--phrase", "a cat", "--objects", "cat"],
    "a sentence without a phrase": ["detect", "run", "0.png", "--text", "a cat"],
    "nothing that grounds": ["detect", "run", "0.png", "--phrase", "a cat"],
    "no picture to detect in": ["detect", "run"],
    "no picture to segment": ["segment", "run"],
    "nothing that segments": ["segment", "run", "0.png"],
    "no slide": ["slides", "embed", "run", "0.png", "new"],
    "no slide to cut": ["slides", "cut", "0.png", "new"],
    "no step": ["curate"],
    "a step that leads nowhere": ["curate", "near_duplicates", WORLD],
    "an unknown step": ["curate", "near_duplicate", WORLD, "new"],
    "an unknown claim": ["claims", "run", "clip/nothing"],
    "a claim with odd seeds": ["claims", "run", "filip", "--seeds", "some", "--dirty"],
    "a claim of no system": ["claims", "cost", "fillip"],
    "no caption to explain": ["explain", "caption"],
    "an odd picture of words": ["explain", "align", "run", "0.png", "a star", "--out", "out.jpg"],
    "no words of its own": ["explain", "words", "run", "0.png"],
    "an unknown pipeline": ["run", "groundvpl"],
    "a blend that goes nowhere": ["blend", "run", "run"],
    "a curve without data": ["blend", "run", "run", "--curve", "curve.html"],
    "a run that began with nothing": ["tune-report", "run", "--data", WORLD],
    "no seeds": ["compare", "clip", "siglip", "--data", WORLD, "--budget", "steps:1", "--seeds", "0"],
    "one model": ["leaderboard", "run"],
    "the index of no model": ["serve", "run", "--compare-index", "index"],
    "files without an agent": ["serve", "run", "--files", "."],
    "a port that cannot be": ["serve", "run", "--port", "99999"],
    "data of another index": ["serve", "run", "index", "--port", "0", "--data", "pairs"],
    "no source": ["data", "build"],
    "nothing to export": ["data", "export"],
    "odd shares": ["data", "split", "run", "--shares", "half"],
}


GROUPS = ("train", "index", "data", "curate", "explain", "slides", "claims", "run")
"""Commands whose options are those of what is named behind them."""


def said(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    try:
        code = main([*words])
    except SystemExit as end:  # an option that the command does not have
        code = int(end.code or 0)
    assert code != 0, words
    return capsys.readouterr().err


def options_of(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that a command has, by its own help."""
    capsys.readouterr()
    lead = list(words[:2]) if words[0] in GROUPS else list(words[:1])
    if words[0] == "eval":
        lead = ["eval", "run", "retrieval"]
    if "--resume" in words:
        lead = ["train", "--resume", "run"]
    with contextlib.suppress(SystemExit):  # lists of what there is end without
        main([*lead, "--help"])
    shown = capsys.readouterr()
    return set(re.findall(r"--[a-z][a-z0-9-]*", shown.out + shown.err))


@pytest.mark.parametrize("case", CASES)
def test_options_that_an_error_names_are_there(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = CASES[case]
    problem = next(line for line in said(words, capsys).splitlines() if line.startswith("error"))
    assert not re.search(r"(?<![\w:,?&])[a-z_]+=(?=[\s),.]|$|True|\[)", problem), f"Python's spelling: {problem}"
    own = set(re.findall(r"(?<![\w`])--[a-z][a-z0-9-]*", re.sub(r"`[^`]*`|diptych [a-z-]+ [^;)]*", "", problem)))
    if case != "an export":  # which names options of the training
        assert own <= options_of(words, capsys) | {"--help"}, problem
    for command in re.findall(r"`diptych ([^`]*)`", problem):
        name = command.split()[0]
        assert name in COMMANDS, problem
        flags = set(re.findall(r"--[a-z][a-z0-9-]*", command))
        lead = ["train", "clip"] if name == "train" and "--resume" not in flags else command.split()[:2]
        assert flags - {"--resume"} <= options_of(lead, capsys) or flags == {"--resume"}, problem


def test_remedies_work(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    overwrite = [*CASES["a run in the way"], "--overwrite"]
    assert "replace it with --overwrite" in said(CASES["a run in the way"], capsys)
    assert main(overwrite) == 0
    assert "--overwrite" in said(CASES["an index in the way"], capsys)
    assert main([*CASES["an index in the way"], "--overwrite"]) == 0
    assert "--steps 2" in said(CASES["more steps than none"], capsys)
    assert main(["train", "--resume", "run", "--steps", "2"]) == 0
    assert "is a folder" in said(CASES["a folder for a picture"], capsys)
    assert "--text-tower text_clip, or text_tiny_clip" in said(CASES["an export"], capsys)
    again = ["train", "clip", "--data", WORLD, "--out", "fitting", *TINY, "--text-tower", "text_tiny_clip"]
    assert main(again) == 0
    assert main(["export", "fitting", "out", "--to", "transformers"]) == 0
    assert "known: " in said(CASES["a wrong world"], capsys)


def test_what_is_to_be_installed_is_on_an_index() -> None:
    """No index holds this project under its name: an extra is spelled out by the packages that it lists."""
    text = str(MissingExtra("onnx", "onnx", needed_for="ONNX export"))
    assert "pip install 'diptych[" not in text
    wanted = [line.partition(";")[0].strip() for line in requires("diptych") or [] if "'onnx'" in line.replace('"', "'")]
    assert wanted
    assert all(f"'{name}'" in text for name in wanted), text


def test_names_that_fit_on_a_line_are_listed() -> None:
    assert "known: a0, a1" in str(UnknownName("thing", "zzz", [f"a{n}" for n in range(20)]))
    assert "500 names are known" in str(UnknownName("thing", "zzz", [f"a{n}" for n in range(500)]))
