"""Answers that refer to things by triplets of phrase, unit and targets (REF-VLM, 2503.07413).

    <Task>
    Unit decode (True). Class name, target unit and number:
    - Name: dog Unit: box Num: 2
    </Task>
    I see <Phrase>dog</Phrase>(<Unit>box</Unit>[0]<REF>[1]<REF>) on the grass.

Each `<REF>` stands for one target of the phrase before it; a decoder turns the language model's state there into a box or a mask. The
block in front names what will be decoded. Both are text, so that an answer can be cut off anywhere: `read_answer` returns what is whole
and says what is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import DataError

TASK, TASK_END = "<Task>", "</Task>"
UNIT, UNIT_END = "<Unit>", "</Unit>"
PHRASE, PHRASE_END = "<Phrase>", "</Phrase>"
REFERENCE = "<REF>"
SPECIAL_TOKENS = (TASK, TASK_END, UNIT, UNIT_END, "<v>", "</v>", PHRASE, PHRASE_END, "<VRT>", REFERENCE)
"""Tokens that the release adds to a vocabulary; three of them occur in no answer."""
REGION = "[VPT]"
"""Stands in a request for a region that is given with it."""

Unit = Literal["box", "mask"]
Form = Literal["triplets", "flat"]
PARTS = re.compile("|".join(re.escape(token) for token in (UNIT, UNIT_END, PHRASE, PHRASE_END, REFERENCE)))
COUNT = re.compile(r"- *name *:.*?num *: *(\d+)", re.IGNORECASE | re.DOTALL)
INDEX = re.compile(r"\[(\d+)\]\s*$")


@dataclass(frozen=True, slots=True)
class PhraseTargets:
    """A phrase of an answer, by its half-open character span, and how many targets it has."""

    start: int
    stop: int
    count: int


@dataclass(frozen=True, slots=True)
class ReferenceGroup:
    """References that belong together, and the pairs of marks right before them.

    phrase, unit  places of the opening and the closing mark; None if they are missing
    references    places of the references
    """

    phrase: tuple[int, int] | None
    unit: tuple[int, int] | None
    references: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PhraseTriplet:
    """Phrase and unit of a group of references, "" if they are missing; `references` are numbers among all of the answer."""

    phrase: str
    unit: str
    references: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TripletAnswer:
    """An answer that was read.

    text      its words, without marks and without the block in front
    triplets  in order
    problems  what is not whole, one sentence each
    """

    text: str
    triplets: tuple[PhraseTriplet, ...]
    problems: tuple[str, ...]


def task_command(name: str, elements: Sequence[str], unit: str = "") -> str:
    """Part of a prompt that names the task, the elements of its answer and the unit, as the release writes it."""
    listed = ", ".join([*elements, *(["unit"] if unit else [])])
    last = f"- unit: {UNIT}{unit}{UNIT_END}\n" if unit else "- unit: None"
    return f"Task Command:\n- task name: {name}\n- answer element: {listed}\n{last}"


def reasoning_block(phrases: Sequence[tuple[str, int]], unit: str) -> str:
    """Block in front of an answer: phrases, unit and number of targets; with no phrase it says that nothing is decoded."""
    if not phrases:
        return f"{TASK}\nUnit decode (False).\n{TASK_END}\n"
    lines = "".join(f"- Name: {phrase} Unit: {unit} Num: {count}\n" for phrase, count in phrases)
    return f"{TASK}\nUnit decode (True). Class name, target unit and number:\n{lines}{TASK_END}\n"


def write_answer(
    text: str, phrases: Sequence[PhraseTargets], unit: Unit, *, form: Form = "triplets", reasoning: bool = True
) -> str:
    """`text` with a triplet at each phrase.

    form       "flat" writes references after each phrase without any marks: what triplets are compared with
    reasoning  the block stands in front; only with triplets
    Raises DataError for phrases that overlap, lie outside the text or have no target.
    """
    written, last = "", 0
    for phrase in phrases:
        if not last <= phrase.start < phrase.stop <= len(text) or phrase.count < 1:
            raise DataError(
                f"phrase {phrase.start}..{phrase.stop} with {phrase.count} targets in a text of {len(text)} characters",
                field="phrases",
                expected="spans in order that do not overlap, with one target or more",
            )
        words = text[phrase.start : phrase.stop]
        if form == "flat":
            marked = words + REFERENCE * phrase.count
        else:
            targets = "".join(f"[{number}]{REFERENCE}" for number in range(phrase.count))
            marked = f"{PHRASE}{words}{PHRASE_END}({UNIT}{unit}{UNIT_END}{targets})"
        written += text[last : phrase.start] + marked
        last = phrase.stop
    written += text[last:]
    if form == "flat" or not reasoning:
        return written
    return reasoning_block([(text[one.start : one.stop], one.count) for one in phrases], unit) + written


def reference_groups(tokens: Sequence[str]) -> list[ReferenceGroup]:
    """Groups of references in a sequence of tokens, of which all but `PARTS` are skipped.

    A run of references belongs to the pair of unit marks right before it and to the pair of phrase marks before that, or to a
    phrase alone. What is missing is None. Marks without a partner are skipped; of nested ones the inner pair counts first.
    """
    items: list[tuple[int, int, str]] = []  # end, start, kind
    open_marks: dict[str, list[int]] = {PHRASE: [], UNIT: []}
    partner = {PHRASE_END: PHRASE, UNIT_END: UNIT}
    for index, token in enumerate(tokens):
        if token in open_marks:
            open_marks[token].append(index)
        elif token in partner and open_marks[partner[token]]:
            items.append((index, open_marks[partner[token]].pop(), partner[token]))
        elif token == REFERENCE:
            items.append((index, index, REFERENCE))
    groups: list[ReferenceGroup] = []
    for number, (_, _, kind) in enumerate(items):
        if kind != REFERENCE or (number and items[number - 1][2] == REFERENCE):
            continue
        behind = next((n for n in range(number, len(items)) if items[n][2] != REFERENCE), len(items))
        before = [items[n] if n >= 0 else (0, 0, "") for n in (number - 1, number - 2)]
        unit = (before[0][1], before[0][0]) if before[0][2] == UNIT else None
        named = before[1] if unit else before[0]
        phrase = (named[1], named[0]) if named[2] == PHRASE else None
        groups.append(ReferenceGroup(phrase, unit, tuple(end for end, _, _ in items[number:behind])))
    return groups


def read_answer(text: str, *, strict: bool = False) -> TripletAnswer:
    """Triplets of a written answer. With `strict` an answer that is not whole raises DataError; else its problems are listed."""
    before, marked, answer = text.rpartition(TASK_END)
    problems = []
    if not marked and TASK in text:
        problems.append(f"{TASK} is not closed: the answer is cut off in the block in front of it")
        answer = text.partition(TASK)[0]
    spans = [(match.group(), match.start(), match.end()) for match in PARTS.finditer(answer)]
    names = [name for name, _, _ in spans]
    triplets, number = [], 0
    for group in reference_groups(names):
        numbers = tuple(range(number, number + len(group.references)))
        number += len(numbers)
        pairs = (group.phrase, group.unit)
        inner = [answer[spans[pair[0]][2] : spans[pair[1]][1]].strip() if pair else "" for pair in pairs]
        triplets.append(PhraseTriplet(inner[0], inner[1], numbers))
        for index, position in enumerate(group.references):
            written = INDEX.search(answer[: spans[position][1]])
            if group.unit and (not written or int(written[1]) != index):
                problems.append(f"reference {index} of '{inner[0]}' is not numbered [{index}]")
    for opening, closing in ((PHRASE, PHRASE_END), (UNIT, UNIT_END)):
        if names.count(opening) != names.count(closing):
            problems.append(f"{names.count(opening)} of {opening} and {names.count(closing)} of {closing}")
    problems += [f"'{one.phrase}' has references without a unit" for one in triplets if one.phrase and not one.unit]
    if UNIT_END in names and (end := answer.rfind(UNIT_END)) >= 0 and REFERENCE not in answer[end:]:
        problems.append("the last unit has no reference: the answer is cut off")
    promised = [int(count) for count in COUNT.findall(before)]
    counted = [len(one.references) for one in triplets]
    if promised and promised != counted:
        problems.append(f"the block in front announces {promised} targets, the answer has {counted}")
    if strict and problems:
        raise DataError(f"the answer is not whole: {problems[0]}", field="answer", expected="phrase, unit and references")
    words = re.sub(rf"\(\s*{re.escape(UNIT)}.*?(\)|$)|\[\d+\](?=\s*{re.escape(REFERENCE)})", "", answer, flags=re.DOTALL)
    plain = re.sub(r"\s+", " ", PARTS.sub("", words)).strip()
    return TripletAnswer(plain, tuple(triplets), tuple(problems))
