"""What a command imports: help waits for nothing heavy, a search only for what answers it. Counts of modules, no times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diptych import api
from diptych.cli import COMMANDS, main

WORLD = "world:scenes?n=16&test=8"
HEAVY = {"torch", "timm", "transformers", "torchvision", "pandas", "scipy", "sklearn", "daft", "fastapi", "onnxruntime"}
SUBCOMMANDS = [
    *(["data", name] for name in ("build", "inspect", "verify", "split", "fetch", "export")),
    *(["index", name] for name in ("build", "add", "remove", "info", "compact", "move", "export")),
    *(["explain", name] for name in ("align", "caption", "words")),
    *(["slides", name] for name in ("embed", "cut")),
    *(["claims", name] for name in ("list", "cost", "run", "check", "table")),
    ["curate", "near_duplicates"],
]
LISTS = [["systems"], ["systems", "clip"], ["data"]]
COUNT = """
import contextlib, io, json, sys
from diptych.cli import main
found = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    found[" ".join(words)] = out.getvalue()[:60], packages, [name for name in sys.modules if name.startswith("diptych.")]
print(json.dumps(found))
"""


def modules(*commands: list[str], where: Path | None = None) -> dict[str, tuple[str, set[str], set[str]]]:
    """What each command line printed first, and which packages and own modules a process holds after it and those before it."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps(commands)], capture_output=True, text=True, check=False, cwd=where
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {words: (shown, set(packages), set(own)) for words, (shown, packages, own) in found.items()}


def test_help_of_every_command_imports_nothing_heavy() -> None:
    every = [["--help"], *([name, "--help"] for name in COMMANDS), *([*words, "--help"] for words in SUBCOMMANDS), *LISTS]
    after = modules(*every)
    for words, (shown, packages, _) in after.items():
        assert shown, words
        assert not packages & HEAVY, f"diptych {words}: {sorted(packages & HEAVY)}"
    _, _, own = after[" ".join(every[-1])]
    assert len(own) < 285, f"all help together imports {len(own)} modules of diptych"  # 275 with 60 commands and sub-commands


def test_the_help_of_a_recipe_imports_torch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    ((first, made, _),) = modules(["train", "clip", "--help"]).values()
    ((again, packages, _),) = modules(["train", "clip", "--help"]).values()
    assert first == again != ""
    assert "torch" in made
    assert not packages & HEAVY


def test_a_search_imports_what_answers_it(tmp_path: Path) -> None:
    tiny = ["--steps", "1", "--batch-size", "4", "--width", "16", "--no-evaluation"]
    assert main(["train", "clip", "--data", WORLD, "--out", str(tmp_path / "run"), *tiny]) == 0
    assert main(["index", "build", str(tmp_path / "run"), WORLD, str(tmp_path / "index")]) == 0
    ((shown, packages, own),) = modules(["search", "index", "a red star"], where=tmp_path).values()
    assert "scenes" in shown
    assert not packages & (HEAVY - {"torch"})
    rooms = {name.split(".")[1] for name in own}
    assert not rooms & {"train", "recipes", "tasks", "claims", "curate", "report", "serve", "pipelines"}
    assert len(own) < 260, f"a search imports {len(own)} modules of diptych"  # 251 with clouds and object storage


def test_a_step_of_training_waits_for_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    words = ["train", "clip", "--data", WORLD, "--out", "run", "--steps", "1", "--batch-size", "4", "--width", "16"]
    ((_, packages, own),) = modules([*words, "--no-evaluation"], where=tmp_path).values()
    assert not packages & (HEAVY - {"torch", "pandas"}), "torch's compiler imports pandas where it is there"
    assert not {name.split(".")[1] for name in own} & {"claims", "serve", "pipelines", "index"}


@pytest.mark.parametrize("name", api.__all__)
def test_each_public_function_is_where_it_is_said_to_be(name: str) -> None:
    assert callable(getattr(api, name))
    assert name in dir(api)


def test_a_name_that_the_api_does_not_have() -> None:
    assert set(api._WHERE) == set(api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        api.trian  # noqa: B018
