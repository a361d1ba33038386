"""What the command writes: a verdict only on the claim's own seeds and clean sources, and every run in the log, also a failed one."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.claims import constants, freshness, ledger, registry
from diptych.claims.cell import Cell
from diptych.claims.claim import LONG, Arm, Claim
from diptych.claims.trace import Trace, trace
from diptych.claims.tree import Tree, sources_of, tree
from diptych.claims.verdict import Margins
from diptych.cli import main
from diptych.cli.commands import claims_work

CLEAN, CHANGED = Tree("abc1234", ()), Tree("abc1234", ("src/diptych/train/optimise.py",))


@dataclass(frozen=True)
class Fixed:
    level: float

    def __call__(self, cell: Cell) -> dict[str, float]:
        return {"recall": self.level + np.random.default_rng(cell.seed).normal(0, 0.001) * self.level}


CLAIM = Claim(
    slug="clip",
    kind="paper's claim",
    sentence="more is more",
    source="nobody",
    refuted="less",
    baseline=Arm("plain", Fixed(0.2)),
    method=Arm("better", Fixed(0.4)),
    controls=(Arm("untrained", Fixed(0.1)),),
    metric="recall",
    margins=Margins(0.02, 0.02),
    equal_budget=("steps",),
    data="none",
)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(registry, "of", lambda slug: (CLAIM,))
    monkeypatch.setattr(registry, "every", lambda: [CLAIM])

    def call(*words: str, state: Tree = CLEAN) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(claims_work, "tree", lambda: state)
        more = ("--cells", str(tmp_path / "cells")) if words[0] == "run" else ()
        code = main(["claims", *words, "--ledger", str(tmp_path), *more, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("{") else {}, err

    return call


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ledger.LOG).read_text().splitlines()]


def test_a_run_writes_a_verdict_and_two_lines_of_the_log(ask: Any, tmp_path: Path) -> None:
    code, answer, _ = ask("run", "clip")
    assert code == 0
    entry = ledger.latest(tmp_path, "clip")
    assert entry is not None
    assert (entry.verdict, entry.commit, entry.seeds) == ("shown", "abc1234", CLAIM.verdict_seeds())
    assert {"trace", "closure"}.isdisjoint(json.loads((tmp_path / "clip.jsonl").read_text()))
    (line,) = freshness.read(tmp_path)["clip"]
    assert (line.commit, line.hash) == ("abc1234", CLAIM.hash())
    assert set(line.trace) == {"baseline", "method"}
    assert answer["entries"][0]["verdict"] == "shown"
    assert [(line["event"], line["writes"]) for line in logged(tmp_path)] == [("begun", True), ("ended", True)]


@pytest.mark.parametrize("words", [("--dry",), ("--seeds", "2001,2002,2003"), ("--seeds", "6")])
def test_other_seeds_and_dry_runs_are_logged_and_write_no_verdict(words: tuple[str, ...], ask: Any, tmp_path: Path) -> None:
    code, answer, _ = ask("run", "clip", *words)
    assert code == 0
    assert answer["entries"][0]["verdict"] == "shown"
    assert ledger.latest(tmp_path, "clip") is None
    assert [(line["event"], line["writes"]) for line in logged(tmp_path)] == [("begun", False), ("ended", False)]
    assert logged(tmp_path)[1]["verdict"] == "shown"


def test_changed_sources_are_refused_and_the_override_writes_no_verdict(ask: Any, tmp_path: Path) -> None:
    code, _, err = ask("run", "clip", state=CHANGED)
    assert code == 1
    assert "src/diptych/train/optimise.py" in err
    assert not (tmp_path / ledger.LOG).exists()
    code, _, _ = ask("run", "clip", "--dirty", state=CHANGED)
    assert code == 0
    assert ledger.latest(tmp_path, "clip") is None
    assert logged(tmp_path)[0]["commit"] == "abc1234+"


def test_a_run_that_fails_stands_in_the_log(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Fixed, cell: Cell) -> dict[str, float]:
        raise MemoryError("no room")

    monkeypatch.setattr(Fixed, "__call__", broken)
    with pytest.raises(MemoryError):
        ask("run", "clip")
    assert logged(tmp_path)[-1]["reason"] == "MemoryError: no room"


def test_check_and_table_speak_about_what_is_there(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("table")[1]["claims"][0]["verdict"] == "not judged"
    ask("run", "clip")
    assert ask("check")[1]["claims"] == [{"claim": "clip", "state": "fresh", "differences": []}]
    plot = tmp_path / "claims.svg"
    _, answer, _ = ask("table", "--plot", str(plot))
    assert (answer["claims"][0]["verdict"], answer["claims"][0]["state"]) == ("shown", "fresh")
    alone = answer["claims"][0]
    assert alone["p_holm"] == pytest.approx(alone["entry"]["p"], abs=1e-12), "one main claim: nothing to correct"
    waiting = [CLAIM, *(replace(CLAIM, slug=slug) for slug in ("siglip", "fiber", "keep"))]
    monkeypatch.setattr(registry, "every", lambda: waiting)
    entry = ledger.latest(tmp_path, "clip")
    assert entry is not None
    for p, counted in ((0.012, "shown"), (0.0126, "open")):
        ledger.append(tmp_path / "clip.jsonl", replace(entry, p=p))
        row = ask("table")[1]["claims"][0]
        assert (row["verdict"], row["counted"]) == ("shown", counted), "three claims that nobody judged stand in the family, too"
        assert row["p_holm"] == pytest.approx(4 * p)
    main(["claims", "table", "--ledger", str(tmp_path)])
    out = capsys.readouterr().out
    assert "over all 4 main claims, those without a verdict with p = 1: 0 shown" in out
    assert f"all verdicts together took {entry.cpu_seconds / 3600:.1f} processor hours" in out.splitlines()[-1]
    assert plot.read_text().count("<circle") == 5


def test_another_processor_is_told_from_other_code_by_the_sources_of_the_verdict(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 features differ by 1e-8 from machine to machine: what counts is whether both sources say the same on this one."""
    ask("run", "clip")
    entered: list[tuple[str, str]] = []

    def answering(then: Trace | None) -> Callable[[str, str], Trace | None]:
        def at_commit(commit: str, key: str) -> Trace | None:
            entered.append((commit, key))
            return then

        return at_commit

    def traced(loss: float) -> Trace:
        return {side: {"losses": [{"loss": loss}], "scores": {"recall": 0.2}} for side in ("baseline", "method")}

    closures = (f"edited {number}" for number in count())
    monkeypatch.setattr(freshness, "claim_closure", lambda claim: next(closures))
    monkeypatch.setattr(claims_work, "trace", lambda claim: traced(1.0 + 1e-7))
    for then, state in ((None, "stale"), (traced(1.0), "stale"), (traced(1.0 + 1e-7), "fresh")):
        monkeypatch.setattr(claims_work, "trace_at", answering(then))
        assert ask("check")[1]["claims"][0]["state"] == state
    assert entered == [("abc1234", "clip")] * 3


def test_changed_constants_make_a_verdict_stale_unless_somebody_says_why(
    ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask("run", "clip")
    monkeypatch.setattr(freshness, "claim_closure", lambda claim: "edited")
    monkeypatch.setattr(claims_work, "constants_hash", lambda claim: "edited")
    answers = {"abc1234": {"clip": {"500": 2, "3": 1}}}
    constants._constants_at.cache_clear()
    monkeypatch.setattr(constants, "run_at", lambda commit, program, file: answers.get(commit))
    monkeypatch.setattr(constants, "constants", lambda claim: Counter({"500": 1, "50": 1, "3": 1}))
    code, found, _ = ask("check")
    assert (code, found["claims"][0]["differences"]) == (1, ["constants of its cells or worlds have changed: 500 went; 50 came"])
    for came, state in (
        ({"[50]": 1}, "stale"),
        ({"50": 1}, "fresh"),
    ):  # ends of slices count, other constants that are new do not
        kept = (tmp_path / freshness.FILE).read_text()
        monkeypatch.setattr(constants, "constants", lambda claim, came=came: Counter({"500": 2, "3": 1, **came}))
        assert ask("check")[1]["claims"][0]["state"] == state
        (tmp_path / freshness.FILE).write_text(kept)
    monkeypatch.setattr(constants, "constants", lambda claim: Counter({"500": 1, "3": 1}))
    assert ask("check", "clip", "--respelled", "one 500 was never used")[1]["claims"][0]["state"] == "fresh"
    assert freshness.read(tmp_path)["clip"][0].respelled == ("one 500 was never used",)


def test_a_line_of_before_is_compared_by_its_own_form_and_gets_the_present_one(
    ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask("run", "clip")
    (line,) = freshness.read(tmp_path)["clip"]
    freshness.write(tmp_path, replace(line, closure="of then", constants="", trace=trace(CLAIM, earlier=True)))
    asked: list[bool] = []

    def traced(claim: Claim, *, earlier: bool = False) -> Trace:
        asked.append(earlier)
        return trace(claim, earlier=earlier)

    monkeypatch.setattr(claims_work, "trace", traced)
    monkeypatch.setattr(freshness, "trace", traced)
    for _ in range(2):
        assert ask("check")[1]["claims"][0]["state"] == "fresh"
    assert asked == [True, False], "once by its own form, once anew; then nothing has changed"
    assert freshness.read(tmp_path)["clip"][0].constants


def test_a_verdict_without_a_line_of_freshness_is_stale_and_old_fields_of_a_ledger_line_are_left(
    ask: Any, tmp_path: Path
) -> None:
    ask("run", "clip")
    entry = ledger.latest(tmp_path, "clip")
    assert entry is not None
    (tmp_path / "clip.jsonl").unlink()
    ledger.append(tmp_path / "clip.jsonl", {**asdict(entry), "closure": "of then", "trace": {"baseline": {}}})
    assert ledger.latest(tmp_path, "clip") == entry
    (tmp_path / freshness.FILE).unlink()
    code, answer, _ = ask("check")
    assert (code, answer["claims"][0]["state"]) == (1, "stale")
    assert "says which code was judged" in answer["claims"][0]["differences"][0]


def test_a_claim_that_cannot_be_traced_says_so_and_the_others_are_checked(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("run", "clip")
    other = replace(CLAIM, slug="siglip", method=Arm("better", Renamed(0.4)))
    monkeypatch.setattr(registry, "of", lambda slug: (other,))
    ask("run", "siglip")
    monkeypatch.setattr(registry, "every", lambda: [CLAIM, other])
    monkeypatch.setattr(freshness, "claim_closure", lambda claim: "edited")
    monkeypatch.setattr(claims_work, "trace", lambda claim: 1 / 0 if claim is CLAIM else trace(claim))
    code, answer, _ = ask("check")
    assert code == 1
    assert [row["state"] for row in answer["claims"]] == ["stale", "fresh"]
    assert answer["claims"][0]["differences"] == ["cannot be traced: ZeroDivisionError: division by zero"]


def test_declarations_that_were_run_before_are_counted(ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ask("run", "clip")[1]["entries"][0]["tries"] == 1
    edited = replace(CLAIM, method=Arm("better", Fixed(0.5)))
    monkeypatch.setattr(registry, "of", lambda slug: (edited,))
    monkeypatch.setattr(registry, "every", lambda: [edited])
    _, answer, err = ask("run", "clip", "--dry")
    assert "1 other declarations of clip were run to their end before this one" in err
    assert answer["entries"][0]["tries"] == 2
    assert ask("table")[1]["claims"][0]["tries"] == 2
    assert main(["claims", "table", "--ledger", str(tmp_path)]) == 0


def test_sources_of_a_commit_come_back_as_they_were(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True
        )

    (tmp_path / "src").mkdir()
    file = tmp_path / "src/a.py"
    file.write_text("1\n")
    git("init")
    git("add", "-A")
    git("commit", "-m", "one")
    file.write_text("2\n")
    with sources_of("HEAD", tmp_path) as folder:
        assert folder is not None
        assert (folder / "src/a.py").read_text() == "1\n"
    assert not folder.exists()
    for commit, root in (("", tmp_path), ("--help", tmp_path), ("beefbeef", tmp_path), ("HEAD", tmp_path / "src")):
        with sources_of(commit, root) as nothing:
            assert nothing is None


def test_the_tree_is_clean_when_only_the_ledger_differs(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True
        )

    assert tree(tmp_path) == Tree("", ())
    assert not tree(tmp_path).clean
    for path in ("src/a.py", "docs/claims/clip.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("1\n")
    git("init")
    git("add", "-A")
    git("commit", "-m", "one")
    assert tree(tmp_path).clean
    (tmp_path / "docs/claims/clip.jsonl").write_text("2\n")
    assert tree(tmp_path).clean
    (tmp_path / "src/new.py").write_text("")
    assert tree(tmp_path).changed == ("src/new.py",)


@dataclass(frozen=True)
class Renamed:
    """What `Fixed` does, with its field under another name."""

    value: float

    def __call__(self, cell: Cell) -> dict[str, float]:
        return Fixed(self.value)(cell)


def test_a_declaration_that_is_written_differently_keeps_its_verdict_with_a_reason(
    ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def declare(claim: Claim) -> None:
        monkeypatch.setattr(registry, "of", lambda slug: (claim,))
        monkeypatch.setattr(registry, "every", lambda: [claim])

    code, _, _ = ask("run", "clip")
    assert code == 0
    renamed = replace(CLAIM, method=Arm("better", Renamed(0.4)))
    for edited, says in (
        (replace(renamed, margins=Margins(0.01, 0.01)), "margins: (0.02, 0.02) was judged, (0.01, 0.01) is declared"),
        (replace(CLAIM, method=Arm("better", Renamed(0.41))), "method, score 'recall' was"),
    ):
        declare(edited)
        code, found, _ = ask("check", "clip", "--respelled", "level is value")
        assert (code, found["claims"][0]["state"]) == (1, "stale")
        assert says in found["claims"][0]["differences"][0]
    declare(renamed)
    code, found, _ = ask("check", "clip")
    assert (code, found["claims"][0]["state"]) == (1, "stale"), "nobody said that it is the same"
    code, found, _ = ask("check", "clip", "--respelled", "level is value")
    assert (code, found["claims"][0]["state"]) == (0, "fresh")
    code, found, _ = ask("check", "clip")
    assert (code, found["claims"][0]["state"]) == (0, "fresh"), "the reason stands beside the verdict"
    assert freshness.read(tmp_path)["clip"][0].respelled == ("level is value",)
    monkeypatch.setattr(registry, "every", lambda: [renamed, CLAIM])
    code, _, err = ask("check", "--respelled", "level is value")
    assert code != 0
    assert "--respelled is about one claim, and 2 are named" in err
    monkeypatch.setattr(registry, "every", lambda: [renamed, replace(CLAIM, name="unjudged")])
    code, found, _ = ask("check", "--respelled", "level is value")
    assert (code, [row["claim"] for row in found["claims"]]) == (0, ["clip"]), "a claim without a verdict is not meant"


def test_whoever_takes_long_for_a_verdict_says_why() -> None:
    folder = Path(__file__).parents[2] / "docs/claims"
    entries = {claim.key: ledger.latest(folder, claim.key) for claim in registry.every()}
    long = {key for key, entry in entries.items() if entry and entry.cpu_seconds > LONG}
    assert "desco" in long  # a detector, two cells of which take as long as that
    assert not [claim.key for claim in registry.every() if claim.key in long and not claim.why_long]
