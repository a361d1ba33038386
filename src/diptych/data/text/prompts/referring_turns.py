"""Requests and answers about the regions of a sample, in the form of REF-VLM's tasks.

detection   where things of some names are; one phrase for each name, all things of a name are its targets
referring   where the one thing is that a phrase means (`extras["grounding"]`)
caption     a sentence with the targets of its phrases (`extras["grounding"]`)
region      what lies in a region that is given with the request; nothing is decoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from diptych.core.sample import Sample
from diptych.data.text.captions.phrases import Sentence, sentences_of
from diptych.data.text.prompts.layout import ImageSlots, Piece, TextPiece
from diptych.data.text.prompts.template import Template
from diptych.data.text.prompts.triplets import REGION, Form, PhraseTargets, Unit, reasoning_block, task_command, write_answer

ReferringTask = Literal["detection", "referring", "caption", "region"]
TASKS: tuple[ReferringTask, ...] = ("detection", "referring", "caption", "region")
NAMES = {
    "detection": {"box": "detection", "mask": "segmentation"},
    "referring": {"box": "grounding_detection", "mask": "grounding_segmentation"},
    "caption": {"box": "gcg_detection", "mask": "gcg_segmentation"},
}
"""Names of tasks in the command, as the release writes them; a region is asked about as "vqa"."""
ELEMENTS = {"detection": ("phrase",), "referring": ("phrase",), "caption": ("phrase", "sentence")}


@dataclass(frozen=True, slots=True)
class ReferringTurn:
    """A request and its answer.

    command  of the prompt (`task_command`)
    request  with "[VPT]" for each region that is given
    answer   with its triplets
    unit     "box" or "mask"; "" if nothing is decoded
    targets  regions of the sample behind each phrase, a tuple for each group
    given    regions of the sample that go with the request
    """

    command: str
    request: str
    answer: str
    unit: Unit | Literal[""]
    targets: tuple[tuple[int, ...], ...] = ()
    given: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Form of answers.

    form       "triplets", or "flat" references without phrase and unit: what triplets are compared with
    reasoning  a block in front of the answer names phrases, unit and numbers
    commanded  a prompt names its task and unit
    """

    form: Form = "triplets"
    reasoning: bool = True
    commanded: bool = True

    def command(self, task: str, unit: str = "") -> str:
        """Command of a prompt; "" if none is written."""
        return "" if not self.commanded else task_command(task, ELEMENTS.get(task_of(task), ("sentence",)), unit)

    def answer(self, text: str, phrases: Sequence[PhraseTargets], unit: Unit) -> str:
        """A text with the targets of its phrases."""
        return write_answer(text, phrases, unit, form=self.form, reasoning=self.reasoning)

    def detection(self, names: Sequence[str], unit: Unit) -> tuple[str, str]:
        """Command and request for things of these names."""
        return self.command(NAMES["detection"][unit], unit), f"Locate each {', each '.join(names)}."

    def referring(self, phrase: str, unit: Unit) -> tuple[str, str]:
        """Command and request for the thing that a phrase means."""
        return self.command(NAMES["referring"][unit], unit), f"Where is {phrase}?"

    def region(self) -> tuple[str, str]:
        """Command and request about a region."""
        return self.command("vqa"), f"What is in the region {REGION}?"


def referring_row(template: str, command: str, request: str, image_tokens: int, region_tokens: int) -> list[Piece]:
    """A prompt row: the words of a template with its command, slots of the image and, at each "[VPT]" of the request, of a region.

    template  with "{command}", "{image}" and "{prompt}"
    """
    row: list[Piece] = []
    for piece in Template(template.replace("{command}", command)).pieces(image_tokens, request):
        if not isinstance(piece, TextPiece):
            row.append(piece)
            continue
        for number, words in enumerate(piece.text.split(REGION)):
            row += [ImageSlots(region_tokens)] if number else []
            row += [TextPiece(words)] if words else []
    return row


def task_of(name: str) -> str:
    """Kind of task of a command's name; "" for one in which nothing is decoded."""
    return next((task for task, names in NAMES.items() if name in names.values()), "")


def has_unit(sample: Sample, regions: Sequence[int], unit: Unit) -> bool:
    """True if all of these regions have a box, or a mask."""
    return unit == "box" or all(sample.regions[number].mask is not None for number in regions)


def draw_turn(
    sample: Sample, tasks: Sequence[ReferringTask], most: Mapping[Unit, int], form: AnswerForm, rng: np.random.Generator
) -> ReferringTurn | None:
    """One of the turns that a sample allows, drawn by task and unit; None if none fits.

    most  units that may be decoded, and targets of an answer at most
    """
    pairs = [(task, unit) for task in tasks for unit in (most if task != "region" else ("box",))]
    for number in rng.permutation(len(pairs)):
        task, unit = pairs[number]
        if task == "detection":
            made = _detection(sample, unit, form, most[unit], rng)
        elif task == "region":
            made = _region(sample, form, rng)
        else:
            made = _sentence(sample, task, unit, form, most[unit], rng)
        if made is not None:
            return made
    return None


def _detection(sample: Sample, unit: Unit, form: AnswerForm, most: int, rng: np.random.Generator) -> ReferringTurn | None:
    by_name: dict[str, list[int]] = {}
    for number, region in enumerate(sample.regions):
        by_name.setdefault(region.label, []).append(number)
    names, targets = list[str](), list[tuple[int, ...]]()
    for index in rng.permutation(len(by_name)):
        name, own = list(by_name.items())[index]
        if sum(map(len, targets)) + len(own) <= most and has_unit(sample, own, unit):
            names.append(name)
            targets.append(tuple(own))
    if not names:
        return None
    text, phrases = "", []
    for name, own in zip(names, targets, strict=True):
        text += ", " if text else ""
        phrases.append(PhraseTargets(len(text), len(text) + len(name), len(own)))
        text += name
    command, request = form.detection(names, unit)
    return ReferringTurn(command, request, form.answer(text, phrases, unit), unit, tuple(targets))


def _sentence(
    sample: Sample, task: ReferringTask, unit: Unit, form: AnswerForm, most: int, rng: np.random.Generator
) -> ReferringTurn | None:
    able = [one for one in sentences_of(sample) if _fits(sample, one, task, unit, most)]
    if not able:
        return None
    chosen = able[int(rng.integers(len(able)))]
    phrases = sorted((one for one in chosen.phrases if one.regions), key=lambda one: one.spans[0])
    targets = tuple(one.regions for one in phrases)
    if task == "caption":
        spans = [PhraseTargets(*one.spans[0], len(one.regions)) for one in phrases]
        command, request = form.command(NAMES[task][unit], unit), "Describe the picture, and point at what you name."
        return ReferringTurn(command, request, form.answer(chosen.text, spans, unit), unit, targets)
    words = " ".join(chosen.text[start:stop] for start, stop in phrases[0].spans)
    command, request = form.referring(words, unit)
    whole = PhraseTargets(0, len(words), len(phrases[0].regions))
    return ReferringTurn(command, request, form.answer(words, [whole], unit), unit, targets)


def _fits(sample: Sample, sentence: Sentence, task: ReferringTask, unit: Unit, most: int) -> bool:
    shown = [phrase for phrase in sentence.phrases if phrase.regions]
    regions = [number for phrase in shown for number in phrase.regions]
    if not 1 <= len(regions) <= most or not has_unit(sample, regions, unit):
        return False
    if task == "referring":
        return len(sentence.phrases) == 1
    spans = sorted(phrase.spans[0] for phrase in shown)
    return all(len(phrase.spans) == 1 for phrase in shown) and all(one[1] <= other[0] for one, other in pairwise(spans))


def _region(sample: Sample, form: AnswerForm, rng: np.random.Generator) -> ReferringTurn | None:
    if not sample.regions:
        return None
    number = int(rng.integers(len(sample.regions)))
    command, request = form.region()
    front = reasoning_block([], "") if form.reasoning and form.form == "triplets" else ""
    region = sample.regions[number]
    words = " ".join([*region.attributes, region.label])
    return ReferringTurn(command, request, front + words, "", given=(number,))
