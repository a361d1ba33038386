"""Prompts and references for text generation, from samples of any data set.

extra     the prompt stands in the sample's extra "prompt"; its texts are the references
concepts  the phrases of the first text without small words, in the order of the alphabet; its texts are the references (CommonGen's kind)
opening   the first half of the words of the first text; the rest is the reference (IMDB's kind)
nothing   no prompt; the texts are references
"""

from __future__ import annotations

from typing import Literal, get_args

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.text.captions.stop_words import STOP_WORDS

PromptForm = Literal["extra", "concepts", "opening", "nothing"]


def concept_phrases(text: str) -> str:
    """Phrases between small words, in the order of the alphabet.

    >>> concept_phrases("A red circle is to the left of a blue square.")
    'blue square left red circle'
    """
    phrases: list[list[str]] = [[]]
    for word in text.replace(",", " ").split():
        plain = word.strip(".!?;:").lower()
        if plain in STOP_WORDS or not plain:
            phrases.append([])
        else:
            phrases[-1].append(plain)
    return " ".join(sorted({" ".join(phrase) for phrase in phrases if phrase}))


def opening_and_rest(text: str) -> tuple[str, str]:
    """The first half of the words, rounded down, and the others.

    >>> opening_and_rest("one two three")
    ('one', 'two three')
    """
    words = text.split(" ")
    half = len(words) // 2
    return " ".join(words[:half]), " ".join(words[half:])


def prompt_and_references(sample: Sample, form: PromptForm, *, language: str = "en") -> tuple[str, tuple[str, ...]]:
    """Prompt and references of a sample. Raises DataError for one that has no text, or no prompt where one is asked for."""
    if form not in get_args(PromptForm):
        raise ConfigError(f"prompts is {form!r} (expected {' | '.join(get_args(PromptForm))})")
    texts = tuple(text.string for text in sample.positives(language) if text.string.strip())
    if form == "extra":
        prompt = sample.extras.get("prompt")
        if not isinstance(prompt, str):
            raise DataError(f"sample '{sample.uid}' has no prompt", field="prompt", expected="a text, or prompts='concepts'")
        return prompt, texts
    if form == "nothing":
        return "", texts
    if not texts:
        raise DataError(f"sample '{sample.uid}' has no text", field="texts", expected="a text to take a prompt from")
    if form == "concepts":
        return concept_phrases(texts[0]), texts
    opening, rest = opening_and_rest(texts[0])
    return opening, (rest,)
