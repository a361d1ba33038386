"""LifelongMemory (Wang et al., 2023, 2312.05269): questions about hours of video, answered by a language model that reads captions.

A captioner describes frames at intervals, repeated captions are merged (the digest), a language model reads the digest and
returns an interval or an option with its confidence, and an interval may be refined. The language model never sees the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from diptych.core.contracts import Embedder, Generator, Role
from diptych.core.disk.line_log import LineLog
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import Dialogue, PromptLike, TextPart, Turn
from diptych.pipelines._memory import requests
from diptych.pipelines._memory.caption_log import Memory, TimedCaption, caption_frames, read_captions, table_of
from diptych.pipelines._memory.digest import digest
from diptych.pipelines._memory.questions import MemoryQuestion, read_questions
from diptych.pipelines._memory.refine import refined, strongest_run
from diptych.pipelines._memory.replies import OptionReply, Window, WindowReply, parse_option, parse_windows
from diptych.pipelines._settings import identity_of, settings_of
from diptych.tasks._scoring.ranking.moments import recalls

"""Placeholder image for a model that gets a text-only prompt."""


@dataclass(frozen=True)
class MemoryQuery:
    """A question, or a file of them, about captions or frames.

    question     in words
    options      answers to choose from, with | between them; without, an interval is asked for
    captions     a table of timestamp and caption
    frames       a folder of frames instead, named by their second (12.5.jpg) or with a table times.csv
    caption_log  where captions of frames are kept; a file that is there goes on
    annotations  a file of questions instead: JSON of Ego4D NLQ or EgoSchema
    answers      where their answers go, a line each; a file that is there goes on
    """

    question: str = ""
    options: str = ""
    captions: Path | None = None
    frames: Path | None = None
    caption_log: Path | None = None
    annotations: Path | None = None
    answers: Path | None = None


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """Answer to a question. windows in seconds, best first; option and its words where there were some. `outcome` is "read", "unknown"
    or "unread"."""

    windows: tuple[Window, ...] = ()
    option: int | None = None
    text: str = ""
    outcome: str = "read"
    explanation: str = ""
    confidence: int | None = None
    captions: int = 0
    digested: int = 0

    def lines(self) -> list[str]:
        sure = "without a confidence" if self.confidence is None else f"confidence {self.confidence} of 3"
        if self.option is not None:
            lines = [f"{self.option}: {self.text}, {sure}"]
        elif self.windows:
            lines = [f"{start:.1f} to {end:.1f} s" for start, end in self.windows]
            lines[0] += f", {sure}"
        else:
            lines = [
                f"no answer: {'it is not in the captions' if self.outcome == 'unknown' else 'the reply cannot be read'}, {sure}"
            ]
        read = f"  {self.digested} captions were read of {self.captions}"
        return [*lines, *([f"  {self.explanation}"] if self.explanation else []), read]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MemoryAnswers:
    """Answers to a file of questions. scores: where truths are known; new: how many questions were answered in this run."""

    rows: tuple[dict[str, Any], ...]
    scores: Mapping[str, float]
    new: int

    def lines(self) -> list[str]:
        unread = sum(row["outcome"] == "unread" for row in self.rows)
        unknown = sum(row["outcome"] == "unknown" for row in self.rows)
        first = f"{len(self.rows)} answers, {self.new} of them new; {unread} cannot be read, {unknown} say that they do not know"
        return [first, *(f"  {name:<14} {value:.3f}" for name, value in self.scores.items())]

    def to_json(self) -> dict[str, Any]:
        return {"answers": list(self.rows), "scores": dict(self.scores), "new": self.new}


@dataclass(frozen=True)
class LifelongMemory:
    """Finds when something happened in a long video, or answers questions about it, from captions that a language model reads (2312.05269).

    reader      the language model; it is asked in words alone
    captioner   writes captions of frames
    embedder    says how alike two captions are, for the digest and for refinement
    second      another language model: of both answers the one with the higher confidence counts, of equals the reader's
    digest      merge captions that repeat the one before; False hands the log over as it is
    alike       cosine above which two captions in a row are merged
    merges      what stands for merged captions: one that the reader has "written" of them, or the "first" of them, to which the released
                code always comes, since it cannot read the reader's reply
    keep_from   similarity to the question below which a caption is dropped; 0, as published, keeps all
    margin      frames before and behind a merged caption: half the interval of captions, published for one every 60 frames
    refine      search windows again, by the similarity of captions to the question
    pad         frames by which windows are widened before that
    sure        confidence from which refinement stays within the model's windows
    fps         frames per second of the video
    wording     a JSON file with other texts around questions and memory
    system      instructions as a turn of their own; False puts them in front, for a model that takes no dialogue
    compat      "released" asks and reads as the published code: of a clip's annotations the last alone, no line break behind the header
                of questions, any number is an option. All of a file's entries are read, of which its loader takes the first three
    prompt      for captions of frames
    caption_tokens, max_tokens  of a caption, and of an answer
    """

    slug: ClassVar[str] = "lifelong_memory"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("reader", Generator, "the language model that reads captions"),
        Role("captioner", Generator, "what describes frames, for --frames", optional=True),
        Role("embedder", Embedder, "what compares texts, for the digest and for --refine", optional=True),
        Role("second", Generator, "a second language model; the higher confidence counts", optional=True),
    )
    request: ClassVar[type] = MemoryQuery

    reader: Generator
    captioner: Generator | None = None
    embedder: Embedder | None = None
    second: Generator | None = None
    digest: bool = True
    alike: float = 0.8
    merges: Literal["written", "first"] = "written"
    keep_from: float = 0.0
    margin: int = 30
    refine: bool = False
    pad: int = 60
    sure: int = 2
    fps: float = 30.0
    wording: Path | None = None
    system: bool = True
    compat: str = ""
    prompt: str = "A picture of"
    caption_tokens: int = 32
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.compat not in ("", "released"):
            raise ConfigError(f"compat is {self.compat!r} (expected nothing, or 'released')")
        if self.merges not in ("written", "first"):
            raise ConfigError(f"merges is {self.merges!r} (expected written | first)")
        if self.fps <= 0 or self.margin < 0 or self.pad < 0:
            raise ConfigError(f"fps {self.fps}, margin {self.margin}, pad {self.pad} (expected above 0; 0 or more; 0 or more)")
        if self.embedder is None and (self.digest or self.refine or self.keep_from > 0):
            raise ConfigError(
                "digest, refine and keep_from compare texts (expected --embedder MODEL, or --no-digest and neither of the others)"
            )

    @cached_property
    def words(self) -> requests.Wording:
        return requests.read_wording(self.wording)

    # ------------------------------------------------------------ use

    def run(self, request: MemoryQuery) -> MemoryAnswer | MemoryAnswers:
        if request.annotations is not None:
            return self._all(request)
        if not request.question.strip():
            raise ConfigError("no question is given (expected --question WORDS, or --annotations FILE)")
        memory = self._memory(request)
        options = tuple(option.strip() for option in request.options.split("|")) if request.options else ()
        if len(options) == 1 or not all(options) or len(set(options)) < len(options):
            raise ConfigError(f"options are {request.options!r} (expected two or more different texts with | between them)")
        return self.answers([MemoryQuestion("1", (), request.question, options)], memory)[0]

    def answers(self, questions: Sequence[MemoryQuestion], memory: Memory) -> list[MemoryAnswer]:
        """Answers questions about one video: questions for intervals share a prompt, questions with options get one each."""
        if not memory:
            raise DataError("there are no captions to store", field="captions", expected="one or more")
        shared = self.digested(memory) if self.keep_from <= 0 else None
        asked_when = [question for question in questions if not question.options]
        answer_of: dict[str, MemoryAnswer] = {}
        parts = [asked_when] if shared is not None else [[question] for question in asked_when]
        for some in (part for part in parts if part):
            read = shared if shared is not None else self.digested(memory, some[0].text)
            answer_of |= self._windows(some, memory, read)
        for question in questions:
            if question.options:
                read = shared if shared is not None else self.digested(memory, question.text)
                answer_of[question.id] = self._option(question, memory, read)
        return [answer_of[question.id] for question in questions]

    def digested(self, memory: Memory, question: str = "") -> Memory:
        """Memory for the language model: similar captions merged where `digest` is on."""
        if not self.digest:
            return memory
        self._embed({caption.text for caption in memory})
        return digest(
            memory,
            self.similarity,
            self._merge,
            threshold=self.alike,
            margin=self.margin,
            question=question,
            keep_from=self.keep_from,
        )

    def similarity(self, first: str, second: str) -> float:
        """Cosine of two texts."""
        self._embed({first, second})
        return float(self._vectors[first] @ self._vectors[second])

    @cached_property
    def _vectors(self) -> dict[str, Any]:
        return {}

    def _embed(self, texts: set[str]) -> None:
        if self.embedder is None:
            raise ConfigError("there is no model to compare texts (expected an embedder)")
        if missing := sorted(texts - set(self._vectors)):
            self._vectors.update(zip(missing, self.embedder.embed_texts(missing), strict=True))

    # ------------------------------------------------------------ the language model

    def _reply(self, model: Generator, system: str, user: str) -> str:
        prompt: PromptLike = (TextPart(f"{system}\n\n{user}" if system else user),)
        if self.system and system:
            prompt = Dialogue((Turn("system", (TextPart(system),)), Turn("user", (TextPart(user),))))
        return model.generate([None], [prompt], max_tokens=self.max_tokens)[0]

    def _merge(self, texts: list[str]) -> str:
        """Merged caption; the first one if the model's reply is empty."""
        if self.merges == "first":
            return texts[0]
        reply = self._reply(self.reader, self.words.merge_system, "\n".join(texts)).strip().strip('"').strip("'")
        return reply or texts[0]

    @property
    def _readers(self) -> list[Generator]:
        return [self.reader] if self.second is None else [self.reader, self.second]

    def _windows(self, questions: Sequence[MemoryQuestion], memory: Memory, read: Memory) -> dict[str, MemoryAnswer]:
        whole = all(question.id.isdigit() for question in questions)
        numbers = {int(question.id) if whole else position: question for position, question in enumerate(questions, 1)}
        table = requests.queries(
            [(number, question.text) for number, question in numbers.items()], released=self.compat == "released"
        )
        prompt = requests.recall(self.words, table, table_of(read))
        replies = [parse_windows(self._reply(model, self.words.recall_system, prompt), list(numbers)) for model in self._readers]
        made = {}
        for number, question in numbers.items():
            best: WindowReply = max((one[number] for one in replies), key=_answer_rank)
            windows = best.windows
            if self.refine:
                windows = refined(best, question.text, memory, self._localise, pad=self.pad, sure=self.sure)
            seconds = tuple((start / self.fps, end / self.fps) for start, end in windows)
            made[question.id] = MemoryAnswer(
                seconds,
                outcome=best.outcome,
                explanation=best.explanation,
                confidence=best.confidence,
                captions=len(memory),
                digested=len(read),
            )
        return made

    def _option(self, question: MemoryQuestion, memory: Memory, read: Memory) -> MemoryAnswer:
        prompt = requests.choose(self.words, requests.options(question.text, question.options), table_of(read))
        released = self.compat == "released"
        replies = [
            parse_option(self._reply(model, self.words.choose_system, prompt), len(question.options), released=released)
            for model in self._readers
        ]
        best: OptionReply = max(replies, key=_answer_rank)
        text = "" if best.option is None else question.options[best.option]
        outcome = "unread" if best.option is None else "read"
        return MemoryAnswer((), best.option, text, outcome, best.explanation, best.confidence, len(memory), len(read))

    def _localise(self, question: str, memory: Sequence[TimedCaption]) -> Window:
        score_N = np.array([self.similarity(question, caption.text) for caption in memory])
        first, last = strongest_run(score_N - score_N.mean())
        return memory[first].start - self.margin, memory[last].end + self.margin

    # ------------------------------------------------------------ files

    def _memory(self, request: MemoryQuery) -> Memory:
        if request.captions is not None and request.frames is None:
            logs = read_captions(request.captions)
            if len(logs) > 1:
                raise DataError(
                    f"holds {len(logs)} videos", file=request.captions, expected="one, or --annotations for questions about each"
                )
            return next(iter(logs.values()))
        if request.frames is None or request.captions is not None:
            raise ConfigError("the memory is empty (expected either --captions FILE or --frames FOLDER)")
        if self.captioner is None:
            raise ConfigError("there is no model to caption the frames (expected --captioner MODEL)")
        memory, _ = caption_frames(
            self.captioner,
            request.frames,
            prompt=self.prompt,
            fps=self.fps,
            max_tokens=self.caption_tokens,
            log=request.caption_log,
        )
        return memory

    def _all(self, request: MemoryQuery) -> MemoryAnswers:
        if request.annotations is None or request.captions is None:
            raise ConfigError(
                "questions of a file are about a table of captions (expected --annotations FILE and --captions FILE)"
            )
        questions = read_questions(request.annotations, last=self.compat == "released")
        logs = read_captions(request.captions)
        about = {
            "pipeline": self.slug,
            **{role.name: identity_of(getattr(self, role.name)) for role in self.roles},
            **settings_of(self),
        }
        videos = dict.fromkeys(question.key for question in questions)
        new = 0
        with LineLog(request.answers, about) as log:
            for key in videos:
                missing = [question for question in questions if question.key == key and question.id not in log]
                if not missing:
                    continue
                if key not in logs:
                    raise DataError(
                        f"has no captions of {' '.join(key)}", file=request.captions, expected="rows of every video asked about"
                    )
                for question, answer in zip(missing, self.answers(missing, logs[key]), strict=True):
                    log.write({"id": question.id, **answer.to_json()})
                    new += 1
            rows = tuple(log.rows[question.id] for question in questions)
        return MemoryAnswers(rows, scores(questions, rows), new)


def scores(questions: Sequence[MemoryQuestion], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Recall of windows and accuracy of options where the truth is known; accuracy by confidence, unread answers counted as wrong."""
    metrics: dict[str, float] = {}
    timed = [(row, question.truth) for question, row in zip(questions, rows, strict=True) if question.truth is not None]
    if timed:
        metrics |= recalls([[(a, b) for a, b in row["windows"]] for row, _ in timed], [truth for _, truth in timed])
    chosen = [
        (row["confidence"], row["option"] == question.answer)
        for question, row in zip(questions, rows, strict=True)
        if question.answer is not None
    ]
    if chosen:
        metrics["accuracy"] = float(np.mean([right for _, right in chosen]))
        for level in (1, 2, 3):
            if at := [right for confidence, right in chosen if confidence == level]:
                metrics[f"accuracy/{level}"] = float(np.mean(at))
                metrics[f"share/{level}"] = len(at) / len(chosen)
    return metrics


def _answer_rank(answer: WindowReply | OptionReply) -> tuple[bool, int]:
    """Sort key of an answer: read before unread, then confidence; `max` keeps the first of equals."""
    read = bool(answer.windows) if isinstance(answer, WindowReply) else answer.option is not None
    return read, answer.confidence or 0
