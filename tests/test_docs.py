"""The documentation holds: commands that it quotes exist and take those options, links lead somewhere, pages stand on their own."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diptych import cli
from diptych.cli import commands as one_a_file

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "examples").glob("*.py")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`(diptych [^`]+)`")
OPEN = re.compile(r"\b[A-Z]{2,}\b|\.\.\.|\bN\b|\bD\b|\bR\b")  # a placeholder: the line describes commands, it is none
ON_SITE = {"systems/index.md", "claims/index.md", "api/index.md", "decisions/index.md"}  # written while the site is built


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- commands


def commands(page: Path) -> list[str]:
    """Every `diptych ...` of a page: lines of code blocks, with or without a prompt, and quoted phrases."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("$ ") for language, block in FENCED.findall(text) if language in ("", "console", "bash")
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    lines = [line[line.index("diptych ") :] if line.startswith("torchrun") and "diptych " in line else line for line in lines]
    return [line for line in [*lines, *QUOTED.findall(FENCED.sub("", text))] if line.startswith("diptych ")]


QUOTES: dict[str, list[str]] = {}
"""Line -> the pages that quote it."""
for _page in PAGES:
    for _line in dict.fromkeys(commands(_page)):
        QUOTES.setdefault(_line, []).append(name(_page))


class Parsed(Exception):
    """Raised in place of the work, once the words have been understood."""


@cache
def parsing_modules() -> list[ModuleType]:
    """Those of the commands that took `parse` for their own."""
    found = [importlib.import_module(f"diptych.cli.commands.{each.name}") for each in pkgutil.iter_modules(one_a_file.__path__)]
    return [module for module in found if hasattr(module, "parse")]


def understand(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command line up to the point where all words are parsed; what does not exist fails before."""
    from diptych.cli.options import output

    real = output.parse

    def stop(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise Parsed

    for module in parsing_modules():
        monkeypatch.setattr(module, "parse", stop)
    try:
        code = cli.main(words)
    except Parsed:
        return
    assert code == 0, f"diptych {' '.join(words)}: exit code {code}"  # --help and lists of sub-commands


@pytest.mark.parametrize("command", sorted({line.split()[1] for line in QUOTES}))
def test_quoted_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All that pages quote of one command; a line of several pages is parsed once."""
    wrong = []
    for line, pages in QUOTES.items():
        words = shlex.split(line, comments=True)[1:]
        if line.split()[1] == command and (problem := problem_of(words, pages, capsys)):
            wrong.append(f"{', '.join(pages)}: {line}\n{problem}")
    assert not wrong, "\n".join(wrong)


def problem_of(words: list[str], pages: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Faults of a quoted command, in words; empty where there are none."""
    if words[0].lstrip("-") not in {*cli.COMMANDS, "help", "version", "COMMAND"}:
        return f"no command '{words[0]}'"
    if any(OPEN.search(word) for word in words) or len(words) == 1 or is_list(words):
        return ""
    if words[:2] == ["train", "fillip"]:
        return ""  # shown with the error that it gives
    if pages == ["docs/add-a-system.md"] and any("stripes" in word for word in words):
        return ""  # of a package that this page writes: test_add_a_system_page.py installs it and runs them
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        try:
            understand(words, patch)
        except SystemExit as stop:
            return capsys.readouterr().err if stop.code else ""
        except AssertionError as error:
            return f"{error}\n{capsys.readouterr().err}"
    return ""


def is_list(words: list[str]) -> bool:
    """`diptych data build` as the name of a command, without its arguments."""
    return len(words) == 2 and not words[1].startswith("-")


def test_there_is_something_to_check() -> None:
    assert len(QUOTES) > 30
    assert {line.split()[1] for line in QUOTES} >= {"data", "train", "eval", "index", "search", "serve", "compare"}


def test_a_wrong_option_would_be_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        understand(["train", "clip", "--data", "emoji", "--out", "x", "--stpes", "3"], monkeypatch)
    assert stop.value.code == 2
    wrong = problem_of(["train", "clip", "--data", "emoji", "--out", "x", "--stpes", "3"], ["README.md"], capsys)
    assert "--stpes" in wrong
    assert problem_of(["trian", "clip"], ["README.md"], capsys) == "no command 'trian'"


# ---------------------------------------------------------------- links


def links(page: Path) -> list[str]:
    """Targets that lie in the repository, with their part of a page."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8")))
    return [target for target in found if not re.match(r"[a-z]+:|#", target)]


def test_relative_links_exist() -> None:
    wrong = []
    for page, target in [(one, link) for one in PAGES for link in links(one)]:
        path = (page.parent / target.partition("#")[0]).resolve()
        made = path.is_relative_to(ROOT / "docs") and str(path.relative_to(ROOT / "docs")) in ON_SITE
        if not (path.exists() or made):
            wrong.append(f"{name(page)} links to {target}, which is not there")
        if not path.is_relative_to(ROOT):
            wrong.append(f"{name(page)} links out of the repository: {target}")
    assert wrong == []


def test_pages_of_the_site_link_within_the_site() -> None:
    site = sorted((ROOT / "docs").rglob("*.md"))
    found = [(page, target) for page in site for target in links(page)]
    outside = [(name(page), to) for page, to in found if not (page.parent / to).resolve().is_relative_to(ROOT / "docs")]
    assert outside == []


def test_each_page_ends_with_where_to_go() -> None:
    wrong = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if page.parent.name in ("decisions", "claims"):
            continue
        text = page.read_text(encoding="utf-8")
        end = text.rstrip().split("\n\n")[-1]
        if not (end.startswith("Next: ") or "## And now" in text):
            wrong.append(f"{name(page)} ends without 'Next: '")
        if not re.search(r"\]\([\w/.-]+\.md", end):
            wrong.append(f"{name(page)}: what comes next is no link")
    assert wrong == []


def test_what_lies_in_the_cache_folder_is_on_the_first_page() -> None:
    """Each name below the cache folder that the sources use; `cached_model` takes the name of its folder."""
    page = (
        (ROOT / "docs/first-hour.md").read_text(encoding="utf-8").partition("## Where things lie")[2].partition("## And now")[0]
    )
    told = set(re.findall(r"`([\w.-]+)/?`", " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))))
    found = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"""cache_folder\(\)(?: /|,) "([\w.-]+)\"""", text)) | set(
            re.findall(r"""cached_model\("(\w+)\"""", text)
        )
    assert found | {"answers.sqlite"} == told


def test_lists_of_what_exists_are_those_of_the_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(ROOT / "scripts/docs_lists.py")
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    assert runpy.run_path(script)["main"]() == 0, capsys.readouterr().out


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    missing = [
        name(p)
        for p in (ROOT / "docs").rglob("*.md")
        if p.parent.name not in ("decisions", "claims") and p.relative_to(ROOT / "docs").as_posix() not in nav
    ]
    assert not missing


def test_install_lines_name_a_clone_or_a_wheel() -> None:
    """`pip install 'diptych[serve]'` would look for a distribution on PyPI."""
    wrong = [name(page) for page in PAGES if re.search(r"pip install +['\"]?diptych\b", page.read_text(encoding="utf-8"))]
    assert wrong == []


OUTSIDE = re.compile(
    r"(?<![\w/-])shared/|\bspec sheet|\bSYSTEMS\.md|\bDESIGN\.md|\bSTYLE\.md|/work/|\bissue #?\d|github\.com/[^/\s]+/[^/\s]+/issues"
)


PARTS = ("shared/", "spec sheet", "SYSTEMS.md", "DESIGN.md", "STYLE.md", "/work/", "issue")
"""One of these is in whatever matches: most files have none, and are searched for no pattern."""


def leads_outside(text: str) -> str:
    found = OUTSIDE.search(text) if any(part in text for part in PARTS) else None
    return found[0] if found else ""


def test_nothing_leads_to_files_outside_the_repository() -> None:
    wrong = [(name(path), found) for path in (*PAGES, *SOURCES) if (found := leads_outside(path.read_text(encoding="utf-8")))]
    assert wrong == []
    for text in ("see shared/a", "the spec sheet", "SYSTEMS.md", "DESIGN.md", "in STYLE.md", "/work/x", "issue #12", "issue 3"):
        assert leads_outside(text), text
    assert leads_outside("github.com/a/b/issues")
    assert not leads_outside("_shared/ reissued tissue 3")


# ---------------------------------------------------------------- code and site


PYTHON = [page for page in PAGES if any(language == "python" for language, _ in FENCED.findall(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("page", PYTHON, ids=name)
def test_python_blocks_parse_and_import_what_exists(page: Path) -> None:
    import ast
    import importlib

    for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych"):
                module = importlib.import_module(str(node.module))
                for item in node.names:
                    there = hasattr(module, item.name) or importlib.util.find_spec(f"{node.module}.{item.name}")
                    assert there, f"{name(page)}: {node.module} has no {item.name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dp":
                import diptych

                assert node.attr in diptych.__all__, f"{name(page)}: dp.{node.attr} does not exist"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    tool = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    assert tool is not None
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [tool, "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (
        "index",
        "first-hour/index",
        "systems/clip/index",
        "decisions/0001-recipe-contract/index",
        "api/index",
        "api/diptych.index/index",
    ):
        assert (tmp_path / "site" / f"{page}.html").is_file()
