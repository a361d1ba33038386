"""Splits answers into statements, each as a yes-no question (the divide step of RLAIF-V, 2405.17220)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diptych.core.errors import RunError
from diptych.core.randomness import keyed_seed
from diptych.curate.writing.requests import TextBackend, TextRequest
from diptych.data.text.english.propositions import propositions
from diptych.data.text.english.tagger import tag

DIVIDE = (
    "You are an expert in extracting facts from the given question-answer pair for an image. Your task is to extract and rewrite the "
    "facts mentioned in the question-answer pair into self-contained sentences. Exclude opinions or subjective statements.\n\n"
    "You should present your result in the following format:\n### Facts:\n- {Extracted fact 1}\n- {Extracted fact 2}\n- ...\n\n"
    "### Question-answer pair:\nQuestion: "
)
TURN = (
    "You are an expert at modifying a given declarative sentence into a general question sentence. Your task is to modify the given "
    "declarative sentences one by one into a general question form. Do not change tenses or add extra content.\n    If the given "
    "declarative sentence contains not, no or negative meaning words, you need to check the modified general interrogative sentence to "
    "make sure that the generated general question sentence retains words with not , no or negative meaning words.\n\n"
    "You should present your result in the following format:\n### Modified sentences:\n- {Modified sentence 1}\n"
    "- {Modified sentence 2}\n- ...\n\n### Declarative sentences:"
)
"""Both as published, for which the released splitters were trained."""
VERBS = frozenset(["is", "are", "was", "were", "has", "have", "had", "can", "could", "will", "would", "does", "do", "did"])
THERE = re.compile(r"^there (is|are|was|were) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnswerStatement:
    """A statement of an answer, and the yes-no question (without question mark) whose answer is yes if it is true."""

    text: str
    question: str


class StatementSplitter(Protocol):
    """Statements of each answer, in order; none for one that states nothing."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[list[AnswerStatement]]:
        """pairs: question and answer"""
        ...


@dataclass(frozen=True)
class RuleSplitter:
    """Divides by rules: sentences, conjunctions and relative clauses (`data.text.english.propositions`). No model.

    most  maximum number of statements per answer; 0 for no limit
    """

    most: int = 0

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[list[AnswerStatement]]:
        return [[AnswerStatement(text, yes_no_question(text)) for text in split_answer(answer, self.most)] for _, answer in pairs]


@dataclass(frozen=True)
class WrittenSplitter:
    """Divides by a language model, which is asked twice: for facts, then for questions. Lists of another length than the facts are cut to
    the shorter, as in the release.

    backend          text backend
    prompt_words     maximum number of words of a request for facts, including the prompt; 0 for no limit. Released: 300, so that long
                     answers are truncated
    first_character  remove the first character of each fact, whatever it is, as released; otherwise only a dash, a star or a number
    one_to_one       use an answer only if each fact has a question of its own, as released
    seed             seed of the requests
    """

    backend: TextBackend
    prompt_words: int = 0
    first_character: bool = False
    one_to_one: bool = False
    seed: int = 0

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[list[AnswerStatement]]:
        divided = self._ask([self.fact_prompt(question, answer) for question, answer in pairs], "facts")
        facts = [listed_lines(text, first_character=self.first_character) for text in divided]
        turned = self._ask([TURN + "".join(f"\n- {fact}\n" for fact in some) for some in facts], "questions")
        questions = [listed_lines(text, first_character=self.first_character) for text in turned]
        return [self._statements(some, asked) for some, asked in zip(facts, questions, strict=True)]

    def _statements(self, facts: Sequence[str], questions: Sequence[str]) -> list[AnswerStatement]:
        pairs = list(zip(facts, questions, strict=False))
        if self.one_to_one and len({question for _, question in pairs}) != sum(map(bool, facts)):
            return []
        return [AnswerStatement(fact, question.rstrip(" ?")) for fact, question in pairs if fact and question]

    def fact_prompt(self, question: str, answer: str) -> str:
        """The request for the facts of an answer."""
        prompt = f"{DIVIDE}{question}\nAnswer: {answer}"
        return " ".join(prompt.split(" ")[: self.prompt_words]) if self.prompt_words else prompt

    def _ask(self, prompts: Sequence[str], kind: str) -> list[str]:
        requests = [
            TextRequest(f"{kind} {number}", prompt, seed=keyed_seed(kind, self.seed, prompt))
            for number, prompt in enumerate(prompts)
        ]
        size = max(1, self.backend.at_once)
        replies = [
            reply for start in range(0, len(requests), size) for reply in self.backend.write(requests[start : start + size])
        ]
        if fault := next((reply.fault for reply in replies if reply.fault), ""):
            raise RunError(f"'{self.backend.name}' wrote no {kind}: {fault}")
        return [reply.text for reply in replies]


def listed_lines(text: str, *, first_character: bool = False) -> list[str]:
    """Entries of a list that a language model wrote, without headings (###) and empty lines.

    >>> listed_lines("### Facts:\\n- The cup is red.\\n2. There is a dog.")
    ['The cup is red.', 'There is a dog.']
    >>> listed_lines("The cup is red.", first_character=True)
    ['he cup is red.']
    """
    lines = [line for line in text.strip().split("\n") if line and "###" not in line]
    if first_character:
        return [line[1:].strip() for line in lines]
    return [entry for line in lines if (entry := re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip())]


def split_answer(answer: str, most: int = 0) -> list[str]:
    """Splits an answer into statements. A statement without a verb becomes "there is ...".

    >>> split_answer("a red circle top left and a blue cross")
    ['there is a red circle top left', 'there is a blue cross']
    >>> split_answer("The cup is red. It stands on a table.")
    ['The cup is red', 'It stands on a table']
    """
    answer = " ".join(answer.split())
    if not answer:
        return []
    whole = answer if any(word.tag in {"VERB", "AUX"} for word in tag(answer)) else f"there is {answer}"
    return [text for text in propositions(whole, most) if text.strip()]


def yes_no_question(statement: str) -> str:
    """Yes-no question (without question mark) whose answer is yes if the statement is true. Negations are kept.

    >>> yes_no_question("there is a red circle"), yes_no_question("The cup is red"), yes_no_question("A dog sits")
    ('is there a red circle', 'Is the cup red', 'Is it true that a dog sits')
    """
    statement = statement.strip().rstrip(".!? ")
    upper = statement[:1].isupper()
    if there := THERE.match(statement):
        verb = there[1].lower()
        return f"{verb.capitalize() if upper else verb} there {statement[there.end() :]}"
    words = statement.split()
    lowered = [words[0][:1].lower() + words[0][1:], *words[1:]] if words and words[0].lower() in _FUNCTION else words
    verb_at = next((n for n, word in enumerate(words) if n and word.lower() in VERBS), 0)
    if verb_at and not {"who", "which", "that"} & {word.lower() for word in words[:verb_at]}:
        verb = words[verb_at].lower()
        return " ".join([verb.capitalize() if upper else verb, *lowered[:verb_at], *lowered[verb_at + 1 :]])
    return f"{'Is' if upper else 'is'} it true that {' '.join(lowered)}"


_FUNCTION = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "it", "they", "he", "she", "there", "one", "two", "three", "some", "no"]
)
