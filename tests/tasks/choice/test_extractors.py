"""Which option a reply means: ours, and released ones on a table of replies that their code has read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.core.registry import EXTRACTORS
from diptych.tasks.choice.extractors import strict

OPTIONS = ["red", "dark red", "a ring", "two"]
TABLE = json.loads(Path(__file__).with_name("released_replies.json").read_text(encoding="utf-8"))
"""79 replies to two lists of options, and the place that the code of II-Bench (1cf741d), VLMEvalKit (e8e78f0, without judge) and
lmms-eval's MUIRBench (75571cf) reads; null where it reads none."""


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("B", 1), (" b ", 1), ("(C)", 2), ("C. a ring", 2), ("D) two", 3), ("B: dark red", 1), ("The answer is (B).", 1),
        ("Answer: C", 2), ("I think the answer is D", 3), ("It is dark red.", 1), ("red", 0), ("There are two of them", 3),
        ("E", None), ("A man", None), ("a ring or two", None), ("", None), ("The answer is A or the answer is B", None),
        ("answer is A's friend", None), ("tworing", None), ("Red", 0), ("**B**", 1), ("\\boxed{C}", 2), ("$\\boxed{\\text{D}}$",
        3),
        ("(A) is wrong, (B) is wrong, so (C)", 2), ("The answer is (B) because (A) and (A) fail", 1),
        ("A picture of a man. The answer is B", 1), ("I would not choose A", None), ("The answer is not B", None),
        ("Not (A), but (D)", None), ("(A) or (B)", None), ("B\n\nExplanation: of A and C", 1), ("A: B", None), ("A. B", None),
        ("Option C", 2), ("I choose B", 1), ("so the final answer is: D", 3), ("answer is a", 0), ("answer is a ring", 2),
        ("the correct answer would be **C**, since A is red", 2), ("B. a ring", 1), ("Thus, C.", 2), ("(b)", 1), ("C!", 2),
        ("A, B, C, D", None), ("It is (C), clearly.", 2), ("no idea", None), ("a. red", 0), ("the darkest red of all", 0),
    ],
)  # fmt: skip
def test_which_option_a_reply_means(reply: str, place: int | None) -> None:
    assert strict(reply, OPTIONS) == place


@pytest.mark.parametrize(
    ("name", "slug", "source"),
    [
        ("ii_bench", "ii_bench", "extract_option_labels of II-Bench 1cf741d"),
        ("vlmevalkit", "visual_reasoning", "can_infer of VLMEvalKit e8e78f0"),
        ("muirbench", "visual_reasoning", "MUIRBench's filter and match of lmms-eval 75571cf"),
    ],
)
def test_released_extractors_read_as_they_were_released(name: str, slug: str, source: str, parity: Any) -> None:
    extract, options = EXTRACTORS.load(name), TABLE["options"]
    rows = [(row["reply"], options[row["options"]], row[name]) for row in TABLE["rows"]]
    assert len(rows) >= 2 * 40
    pairs = [
        (-1 if (ours := extract(reply, known)) is None else ours, -1 if theirs is None else theirs)
        for reply, known, theirs in rows
    ]
    parity(slug, f"which option {len(rows)} replies mean", source, pairs, tolerance=0)
