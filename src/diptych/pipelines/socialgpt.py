"""SocialGPT (Li et al., 2024, arXiv 2410.21411): social relation of two people in an image, from a story and a language model.

A captioner describes the image, each person and each detected object; a storyteller turns these records into a paragraph; a
reasoner reads it after rules, role, definitions and an example, and names a relation. Nothing is trained. The four segments of
the reasoning prompt can be optimised (`tune_segments`): over several wordings of each, for the combination that answers labelled
stories best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from diptych.core.contracts import Detector, Generator, Role
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import Dialogue, PromptLike, TextPart, Turn
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Box, Region
from diptych.pipelines._social.perception import Repeated, SceneRecords, describe_scene
from diptych.pipelines._social.prompts import (
    STORY,
    STORYTELLER,
    VICUNA,
    Segments,
    question_about,
    reasoning_parts,
    relation_in,
    relations_of,
    training_question,
)
from diptych.pipelines._social.segment_objective import SegmentObjective, Slot
from diptych.pipelines._social.segment_search import SearchResult, SegmentSearch

"""Placeholder image for a model that gets a text-only prompt."""
PERSON = "person"
Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class PairRequest:
    """image   the picture
    first, second  boxes of the two people, x0 y0 x1 y1 in pixels; without them the detector's two surest people
    """

    image: ImageSource
    first: Four | None = None
    second: Four | None = None


@dataclass(frozen=True, slots=True)
class SocialAnswer:
    """relation  one of the relations, "" if the reply names none or several
    named     all relations that the reply names
    reply     as the reasoner wrote it
    story     the paragraph that it read, "" if it was asked directly
    records   what the storyteller read
    unnamed   symbols of people that the story does not mention
    """

    relation: str
    named: tuple[str, ...]
    reply: str
    story: str = ""
    records: str = ""
    unnamed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        first = f"relation: {self.relation or 'none that can be read'}"
        rest = [f"story: {self.story}"] if self.story else []
        rest += [f"the story does not mention {', '.join(self.unnamed)}"] if self.unnamed else []
        return [first, *rest, f"reply: {self.reply}"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SocialGPT:
    """Names the social relation of two people in a picture, from a story about it that a language model reads (2410.21411).

    reasoner     reads the story and answers; directly asked it sees the picture instead
    captioner    describes picture, people and things; without one the reasoner does
    storyteller  writes the story; without one the reasoner does
    detector     finds things and people; without one only the two people are described
    relations    pipa (16), pisc (6), or a .json file of definitions by relation
    how          "story", or "direct": the reasoner sees the picture with the people's boxes in words, and no story
    objects      names that the detector is asked for
    least        overlap of a detection with a person's box above which it is that person
    repeated     further detections of a person: "drop", or "keep" them as things, as released
    sentences    of the story, at most
    side         pixels of the longer side, in which coordinates of the records are given
    segments     a .json file of segments of the reasoning prompt that replace ours: system, prelude, relationship, example
    reading      "strict": one relation, as the answer states it; "released": all that stand in its first sentence
    caption_tokens, story_tokens, max_tokens  of a description, of the story, of the answer
    """

    slug: ClassVar[str] = "socialgpt"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("reasoner", Generator, "the language model that reads the story and answers"),
        Role("captioner", Generator, "what describes the picture and crops of it", optional=True),
        Role("storyteller", Generator, "what writes the story", optional=True),
        Role("detector", Detector, "what finds people and things", optional=True),
    )
    request: ClassVar[type] = PairRequest

    reasoner: Generator
    captioner: Generator | None = None
    storyteller: Generator | None = None
    detector: Detector | None = None
    relations: str = "pipa"
    how: Literal["story", "direct"] = "story"
    objects: tuple[str, ...] = (PERSON, "chair", "table", "book", "ball", "cup", "computer", "instrument")
    least: float = 0.42
    repeated: Repeated = "drop"
    sentences: int = 15
    side: int = 384
    segments: Path | None = None
    reading: Literal["strict", "released"] = "strict"
    caption_tokens: int = 32
    story_tokens: int = 2048
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.how not in ("story", "direct") or self.reading not in ("strict", "released"):
            raise ConfigError(f"how is {self.how!r}, reading {self.reading!r} (expected story | direct, strict | released)")
        if self.repeated not in ("drop", "keep"):
            raise ConfigError(f"repeated is {self.repeated!r} (expected drop | keep)")
        if not 0 <= self.least <= 1 or self.sentences < 1 or self.side < 1:
            raise ConfigError(f"least {self.least}, sentences {self.sentences}, side {self.side} (expected 0..1, 1 or more each)")

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Relations and their definitions."""
        return relations_of(self.relations)

    @cached_property
    def prompt(self) -> Segments:
        """Segments of the reasoning prompt."""
        return Segments.usual(self.labels) if self.segments is None else Segments.read(self.segments, self.labels)

    # ------------------------------------------------------------ use

    def run(self, request: PairRequest) -> SocialAnswer:
        """Names the relation of the two people. Raises DataError if their boxes are neither given nor detected."""
        people, regions = self._people(request)
        if self.how == "direct":
            return self._direct(request.image, people)
        records = self.perceive(request.image, people, regions)
        story = self.story(records)
        reply = self.reasoner.generate([None], [self.reasoning_prompt(story)], max_tokens=self.max_tokens)[0]
        unnamed = tuple(symbol for symbol in ("P1", "P2") if symbol not in story)
        return self._answer(reply, story=story, records=records.text, unnamed=unnamed)

    def perceive(self, image: ImageSource, people: Sequence[Box], regions: Sequence[Region] = ()) -> SceneRecords:
        """Descriptions of the picture, the people and the regions."""
        captioner = self.captioner or self.reasoner
        return describe_scene(
            image,
            people,
            regions,
            captioner,
            least=self.least,
            side=self.side,
            tokens=self.caption_tokens,
            repeated=self.repeated,
        )

    def story(self, records: SceneRecords) -> str:
        """Writes the story: a paragraph about the records."""
        asked = STORY.format(
            sentences=self.sentences,
            width=records.width,
            height=records.height,
            caption=records.caption,
            scene=records.scene,
            records=records.text,
        )
        storyteller = self.storyteller or self.reasoner
        return storyteller.generate([None], [_dialogue(STORYTELLER, asked)], max_tokens=self.story_tokens)[0].strip()

    def reasoning_prompt(self, story: str, first: str = "P1", second: str = "P2") -> PromptLike:
        """Prompt of the reasoner: the system segment as a turn of its own, then the rest."""
        parts = reasoning_parts(story, first, second, self.labels)
        words = "".join(getattr(self.prompt, part.name) if isinstance(part, Slot) else part for part in parts)
        return _dialogue(self.prompt.system, words)

    def _direct(self, image: ImageSource, people: Sequence[Box]) -> SocialAnswer:
        where = " and ".join(f"P{row} in the box {[round(value) for value in box]}" for row, box in enumerate(people, start=1))
        asked = f"{self.prompt.relationship}\n\n{question_about('P1', 'P2', self.labels)} The picture shows {where}."
        return self._answer(self.reasoner.generate([image], [asked], max_tokens=self.max_tokens)[0])

    def _answer(self, reply: str, **facts: Any) -> SocialAnswer:
        named = relation_in(reply, list(self.labels), how=self.reading)
        return SocialAnswer(named[0] if len(named) == 1 else "", named, reply.strip(), **facts)

    def _people(self, request: PairRequest) -> tuple[list[Box], tuple[Region, ...]]:
        given = [box for box in (request.first, request.second) if box is not None]
        if len(given) == 1:
            raise ConfigError("one person is given (expected --first and --second, or neither with a detector)")
        regions: tuple[Region, ...] = ()
        if self.detector is not None:
            regions = self.detector.detect([request.image], objects=self.objects)[0].regions
        if given:
            return list(given), regions
        surest = sorted((region for region in regions if region.label == PERSON), key=lambda region: -region.score)[:2]
        if len(surest) < 2:
            raise DataError(
                f"{len(surest)} people were found",
                field="first, second",
                expected="boxes of two people, or a detector that finds them",
            )
        return [region.box for region in surest], regions


def tune_segments(
    model: Any,
    encode: Callable[[str], Sequence[int]],
    candidates: Mapping[str, Sequence[str]],
    stories: Sequence[tuple[str, tuple[str, str], str]],
    relations: Mapping[str, str],
    *,
    search: SegmentSearch | None = None,
    start: Mapping[str, int] | None = None,
    turns: tuple[str, str] = VICUNA,
    start_ids: tuple[int, ...] = (),
    longest: int = 2320,
    seed: int = 0,
) -> tuple[Segments, SearchResult]:
    """Finds the best combination of prompt segments for labelled stories by GSPO; returns it with the search history.

    model       a causal language model of transformers; `encode` gives a text's tokens
    candidates  wordings of system, prelude, relationship and example
    stories     (story, symbols of the two people, relation) each
    start       candidates to begin with; the first of each by default
    turns       text before the user's turn and before the answer, by default those of Vicuna
    start_ids   tokens in front of every prompt, such as that of the beginning
    longest     tokens beyond which a gradient counts as nothing, as published; 0 has no such bound
    """
    questions = [training_question(story, pair, label, relations, turns) for story, pair, label in stories]
    objective = SegmentObjective(model, encode, candidates, start_ids=start_ids, longest=longest)
    first = dict(start) if start else dict.fromkeys(candidates, 0)
    result = (search or SegmentSearch()).run(objective, questions, first, keyed_rng("segments", seed))
    return Segments(**{slot: candidates[slot][row] for slot, row in result.choice.items()}), result


def _dialogue(system: str, asked: str) -> PromptLike:
    return Dialogue((Turn("system", (TextPart(system),)), Turn("user", (TextPart(asked),))))
