"""Fusion of findings into a caption: by rules, or as a prompt for a language model; and checks of the fused caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.contracts import Reply
from diptych.curate.experts.findings import Finding
from diptych.curate.text.ngram import words_of
from diptych.curate.text.plurals import mention
from diptych.curate.writing.backends.grammar import listed, with_articles
from diptych.curate.writing.requests import TextRequest

PLAIN_WORDS = frozenset(
    {
        "a",
        "an",
        "the",
        "and",
        "or",
        "with",
        "of",
        "in",
        "on",
        "at",
        "to",
        "by",
        "for",
        "from",
        "as",
        "is",
        "are",
        "there",
        "this",
        "that",
    }
    | {
        "it",
        "its",
        "which",
        "who",
        "while",
        "also",
        "next",
        "beside",
        "near",
        "into",
        "over",
        "under",
        "his",
        "her",
        "their",
        "some",
    }
    | {
        "text",
        "word",
        "words",
        "reads",
        "reading",
        "says",
        "saying",
        "written",
        "shown",
        "seen",
        "including",
        "has",
        "have",
        "be",
    }
)
"""Words that a fused caption may have although neither caption nor findings do."""


def fuse_by_rules(caption: str, findings: Sequence[Finding]) -> str:
    """Caption with every finding in it. A thing that the caption names gets its attributes there; the others follow.

    >>> fuse_by_rules("a dog on a road.", [Finding("dog", ("brown",)), Finding("bus", ("red",)), Finding("road")])
    'a brown dog on a road, with a red bus.'
    """
    text = " ".join(caption.split())
    ends = text[-1] if text[-1:] in (".", "!") else ""
    text = text.removesuffix(ends) if ends else text
    rest: list[str] = []
    taken: set[int] = set()
    for finding in findings:
        start = -1 if finding.text else _start_of_mention(text, finding.label, taken)
        if start < 0:
            rest.append(f"a {finding.phrase}" if finding.label and not looks_plural(finding.label) else finding.phrase)
            continue
        new = [name for name in finding.attributes if mention(words_of(text), name) < 0]
        added = "".join(f"{name} " for name in new)
        taken = {position + len(added) if position >= start else position for position in taken} | {start + len(added)}
        text = text[:start] + added + text[start:]
    if rest:
        text = f"{text}, with {listed(rest)}" if text else listed(rest)
    return with_articles(text) + ends


def fusion_prompt(caption: str, findings: Sequence[Finding]) -> str:
    """Prompt for an instruction-following language model: merge a caption with findings."""
    things = "".join(f"- {finding.phrase}\n" for finding in findings)
    return (
        "Merge an image caption and a list of what was found in the image into one fluent caption. Mention everything on the list in "
        f"its own words, add nothing else, and answer with the caption alone, on one line.\n\nCaption: {' '.join(caption.split())}\n"
        f"Found:\n{things}Merged caption:"
    )


def merge_prompt(caption: str, sentence: str) -> str:
    """Prompt to merge a caption and a sentence from elsewhere, nothing else (RealSyn, 2502.12513)."""
    return (
        "Merge an image caption and a related sentence into one fluent caption of the image. Keep what can be seen, and answer with the "
        f"caption alone, on one line.\n\nCaption: {' '.join(caption.split())}\nSentence: {' '.join(sentence.split())}\nMerged caption:"
    )


@dataclass(frozen=True)
class RuleFuser:
    """Rule-based fuser as a text backend: its text is in the request already."""

    name = "rules of fusion"
    identity = "fused-1"
    terms = ""
    at_once = 4096
    calls = 1
    kept = False

    def tokens(self, text: str) -> int:
        return len(text.split())

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
        return [Reply(one.caption, 0, self.tokens(one.caption)) for one in requests]


def missing_or_new(caption: str, findings: Sequence[Finding], text: str) -> str:
    """Fault of a fused text: a finding that it leaves out, or a word that neither caption nor findings have; "" for none.

    >>> missing_or_new("a dog", [Finding("bus", ("red",))], "a dog and a red bus in Rome")
    'new: the word rome'
    """
    words = words_of(text)
    for finding in findings:
        for name in filter(None, (finding.label, *finding.attributes)):
            if mention(words, name) < 0:
                return f"missing: {name}"
        if finding.text and finding.text.lower() not in text.lower():
            return f"missing: the text {finding.text!r}"
    vocabulary = {*words_of(caption), *(word for finding in findings for word in words_of(finding.phrase))}
    for word in words:
        if (
            word.isalnum()
            and word not in vocabulary
            and word not in PLAIN_WORDS
            and not any(mention([word], one) == 0 for one in vocabulary)
        ):
            return f"new: the word {word}"
    return ""


def finding_span(text: str, finding: Finding) -> tuple[int, int]:
    """Half-open character span of a finding in a text: its whole phrase, else its label, else its text; (-1, -1) nowhere."""
    for phrase in (finding.phrase, finding.label, finding.text):
        if phrase and (match := re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE)):
            return match.span()
    start = _start_of_mention(text, finding.label, set()) if finding.label else -1
    return (start, start + len(finding.label)) if start >= 0 else (-1, -1)


def looks_plural(label: str) -> bool:
    """True where a label looks like a plural, so that it takes no article.

    >>> looks_plural("scissors"), looks_plural("glass"), looks_plural("sheep")
    (True, False, False)
    """
    return label.endswith("s") and not label.endswith(("ss", "us", "is"))


def _start_of_mention(text: str, label: str, taken: set[int]) -> int:
    """Start of a label in a text as a word of its own, in either number, at an index that no other finding has; -1 nowhere."""
    if not label:
        return -1
    starts = [(match.start(), match[0]) for match in re.finditer(r"[^\W_]+(?:['’-][^\W_]+)*", text)]
    words = [word.lower() for _, word in starts]
    start = 0
    while (index := mention(words[start:], label)) >= 0:
        at = starts[start + index][0]
        if at not in taken:
            return at
        start += index + 1
    return -1
