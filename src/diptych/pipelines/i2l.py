"""In-Image Learning (Wang et al., 2024, 2402.17971): solved examples, cues and the question in a single image, the model's only
input.

The question is written under its image, the demonstration's canvas is placed above, and the prompt is empty. The paper's
baselines are included: captions instead of images (text), interleaved images and text (interleaved), and the hybrid, which first
asks the model how hard the image is to describe in words. Without a demonstration all of them are zero-shot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from diptych.core.contracts import Generator, Role
from diptych.core.disk.line_log import LineLog
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.prompt import ImagePart, Part, PromptLike, TextPart, require_images, text_of_single_image_prompt
from diptych.data.canvas.compose import Canvas, Lettering, Place, Side, Wrap, resized, stacked, with_text
from diptych.data.canvas.demonstrations import Demonstration, read_demonstrations
from diptych.data.media.decode import Pixels, decode
from diptych.pipelines._items import read_items, score_reply
from diptych.pipelines._settings import identity_of, settings_of
from diptych.tasks._scoring.answers.blind import grey_images

How = Literal["i2l", "interleaved", "text", "hybrid"]
CAPTION = "Generate detailed caption for the image.\nCaption: "
DESCRIBED = "Answer the question according to the description.\nDescription: {description}\n{question}\nAnswer: "
"""Prompts of the published code: for the caption, and for the question about it."""
RATING = (
    "How hard is it to describe this image in words, with all that a question about it may need? "
    "Answer with one number: 1 very easy, 2 easy, 3 hard, 4 very hard."
)


@dataclass(frozen=True)
class ImageQuestion:
    """One question, or a file of them.

    image     the picture
    question  words about it
    demo      a finished canvas of a solved example; beside it those of `demos` are not used
    category  whose demonstrations are taken
    items     a file of JSON lines instead: id, image, question, and if known choices, answer, category
    answers   where answers to items go, a line each; a file that is there goes on
    """

    image: ImageSource | None = None
    question: str = ""
    demo: ImageSource | None = None
    category: str = ""
    items: Path | None = None
    answers: Path | None = None


@dataclass(frozen=True, slots=True)
class I2LReply:
    """Reply of the model, and the prompting method used.

    how     "i2l", "interleaved" or "text"
    rating  1 to 4, or 0 where it gave none; None if it was not asked
    caption of the picture, where one was written
    size    width and height of the canvas in pixels; None if there was none
    tries   number of calls until the reply was not empty
    canvas  the picture that the model got, uint8 [H, W, 3]; no part of comparisons and JSON
    """

    text: str
    how: How
    rating: int | None = None
    caption: str = ""
    size: tuple[int, int] | None = None
    tries: int = 1
    canvas: Pixels | None = field(default=None, compare=False, repr=False)

    def lines(self) -> list[str]:
        canvas = f", a canvas of {self.size[0]} x {self.size[1]}" if self.size else ""
        rated = "" if self.rating is None else f", rated {self.rating or 'without a number'}"
        return [self.text or "(no answer)", f"  by {self.how}{canvas}{rated}, {self.tries} tries"]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(replace(self, canvas=None)).items() if name != "canvas"}

    def picture(self) -> Pixels:
        """Canvas that the model got."""
        if self.canvas is None:
            raise ConfigError(f"how={self.how} does not draw a canvas (expected how=i2l)")
        return self.canvas


@dataclass(frozen=True, slots=True)
class I2LReplies:
    """Answers to a file of questions.

    rows  one an item, as they lie in the file of answers
    new   how many were asked now; the others were there
    """

    rows: tuple[dict[str, Any], ...]
    new: int
    out: Path | None = None

    def lines(self) -> list[str]:
        verdicts = [row["right"] for row in self.rows if row.get("right") is not None]
        unread = sum(row.get("read") == "" for row in self.rows)
        right = [f"{sum(verdicts)} of {len(verdicts)} right, {unread} without an answer that can be read"] if verdicts else []
        where = f" in {self.out}" if self.out else ""
        return [f"{len(self.rows)} answers{where}, {self.new} of them new", *right]

    def to_json(self) -> dict[str, Any]:
        return {"answers": list(self.rows), "new": self.new}


@dataclass(frozen=True)
class InImageLearning:
    """Answers a question about a picture from one picture that holds a solved example and the question (2402.17971).

    model       reads canvases and writes; for how=text it reads words beside a grey picture, which openai:...?pictures=off leaves out
    captioner   writes captions for how=text; None is the model itself, as published
    how         "i2l"; "interleaved": pictures and text in turn; "text": captions in place of pictures; "hybrid": by the model's rating
    demos       a folder or file of demonstrations; None is zero-shot
    count       how many of them at most, in their order; the paper finds one enough
    place       of the canvases in the stack; the published code has "centre" for VQA, whose canvases it stores as JPEG, else "left"
    as_wide     the question's canvas is as wide as the demonstrations, as the published function allows and its experiments do not
    area        the whole picture is resized to so many times its area; below 1 text soon cannot be read
    beside      words beside the picture; published: none
    indent      of how=text: spaces before all lines but the first of what is asked; published: 0 for MathVista, 4 for the others, whose
                indentation in the program is part of the words
    hard_from   of how=hybrid: rated so hard or harder, or without a number, goes by i2l. The paper's threshold is not published
    easy        of how=hybrid: how the others go
    tries       while the answer is empty
    max_tokens  of an answer
    caption_tokens  of a caption or rating
    text_size   of the letters in pixels
    bold        bold letters
    text_side   of the picture
    wrap        "measured": lines as wide as they are drawn; "released": as the published code estimates them
    font        a font file; "" takes the packaged DejaVu Sans
    """

    slug: ClassVar[str] = "i2l"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("model", Generator, "the model that answers"),
        Role("captioner", Generator, "what writes captions for how=text, where that is not the model", optional=True),
    )
    request: ClassVar[type] = ImageQuestion

    model: Generator
    captioner: Generator | None = None
    how: How = "i2l"
    demos: Path | None = None
    count: int = 1
    place: Place = "left"
    as_wide: bool = False
    area: float = 1.0
    beside: str = ""
    indent: int = 0
    hard_from: int = 3
    easy: Literal["interleaved", "text"] = "interleaved"
    tries: int = 3
    max_tokens: int = 1024
    caption_tokens: int = 1024
    text_size: int = 20
    bold: bool = False
    text_side: Side = "below"
    wrap: Wrap = "measured"
    font: str = ""

    def __post_init__(self) -> None:
        if self.how not in get_args(How) or self.easy not in ("interleaved", "text"):
            raise ConfigError(
                f"how is {self.how!r}, easy {self.easy!r} (expected {' | '.join(get_args(How))}; interleaved | text)"
            )
        if self.tries < 1 or min(self.count, self.indent) < 0 or self.area <= 0 or not 1 <= self.hard_from <= 5:
            raise ConfigError(
                f"tries {self.tries}, count {self.count}, indent {self.indent}, area {self.area}, hard_from {self.hard_from} "
                "(expected 1 or more, 0 or more for count and indent, above 0, 1 to 5)"
            )

    @property
    def name(self) -> str:
        return f"{self.how} with {getattr(self.model, 'name', type(self.model).__name__)}"

    @cached_property
    def lettering(self) -> Lettering:
        return Lettering(self.text_size, self.bold, self.text_side, self.wrap, self.font)

    @cached_property
    def demonstrations(self) -> tuple[Demonstration, ...]:
        return () if self.demos is None else tuple(read_demonstrations(self.demos))

    def chosen(self, category: str = "") -> tuple[Demonstration, ...]:
        """Demonstrations of a category, or the general ones if it has none of its own."""
        own = [demo for demo in self.demonstrations if category and demo.category == category]
        return tuple((own or [demo for demo in self.demonstrations if not demo.category or not category])[: self.count])

    # ------------------------------------------------------------ use

    def run(self, request: ImageQuestion) -> I2LReply | I2LReplies:
        if request.items is not None:
            return self._all(request)
        if request.image is None or not request.question.strip():
            raise ConfigError("no question is given (expected --image FILE and --question WORDS, or --items FILE)")
        demos = (Demonstration(canvas=request.demo),) if request.demo is not None else self.chosen(request.category)
        return self.answer(request.image, request.question, demos)

    def answer(self, image: ImageSource, question: str, demos: Sequence[Demonstration] = ()) -> I2LReply:
        """Reply to one question about one picture."""
        if self.how != "hybrid":
            return self._by(self.how, image, question, demos)
        rating = parse_rating(self.model.generate([image], [RATING], max_tokens=self.caption_tokens)[0])
        hard = rating is None or rating >= self.hard_from
        reply = self._by("i2l" if hard else self.easy, image, question, demos)
        return replace(reply, rating=rating or 0)

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        """Replies as a `Generator`, so that every task of generative models can use the pipeline."""
        words = [text_of_single_image_prompt(prompt, model=self.name) for prompt in prompts]
        short, pictures = replace(self, max_tokens=max_tokens), require_images(images, model=self.name)
        return [short.answer(image, text, self.chosen()).text for image, text in zip(pictures, words, strict=True)]

    def canvas(self, image: ImageSource, question: str, demos: Sequence[Demonstration] = ()) -> Pixels:
        """Canvas for the model: the demonstrations from the top, then picture and question."""
        solved = [demo.draw(self.lettering) for demo in demos]
        width = max((canvas_HWC.shape[1] for canvas_HWC in solved), default=0) if self.as_wide else 0
        question_HWC = self.question_canvas(image, question, width=width).pixels_HWC
        return resized(stacked([*solved, question_HWC], self.place), self.area)

    def question_canvas(self, image: ImageSource, question: str, *, width: int = 0) -> Canvas:
        """Canvas with only the image and the question, at least `width` pixels wide."""
        return with_text(decode(image, exact=True), question, self.lettering, width=width)

    # ------------------------------------------------------------ methods

    def _by(self, how: How, image: ImageSource, question: str, demos: Sequence[Demonstration]) -> I2LReply:
        if how == "i2l":
            canvas_HWC = self.canvas(image, question, demos)
            text, tries = self._reply(ArrayImage(canvas_HWC, f"canvas of {image.name}"), self.beside)
            return I2LReply(text, how, size=(canvas_HWC.shape[1], canvas_HWC.shape[0]), tries=tries, canvas=canvas_HWC)
        if how == "interleaved":
            text, tries = self._reply(image, interleaved(question, demos))
            return I2LReply(text, how, tries=tries)
        captioner = self.captioner or self.model
        caption = captioner.generate([image], [caption_prompt(demos)], max_tokens=self.caption_tokens)[0]
        prompt = description_prompt(caption, question, demos, indent=self.indent)
        text, tries = self._reply(grey_images([image])[0], (TextPart(prompt),))
        return I2LReply(text, how, caption=caption, tries=tries)

    def _reply(self, image: ImageSource, prompt: PromptLike) -> tuple[str, int]:
        for number in range(1, self.tries + 1):
            text = self.model.generate([image], [prompt], max_tokens=self.max_tokens)[0]
            if text:
                return text, number
        return "", self.tries

    def _all(self, request: ImageQuestion) -> I2LReplies:
        if request.items is None:
            raise ConfigError("no file of items (expected --items FILE)")
        items = read_items(request.items)
        about = {
            "pipeline": self.slug,
            "model": identity_of(self.model),
            "captioner": identity_of(self.captioner),
            **settings_of(self),
        }
        new = 0
        with LineLog(request.answers, about) as log:
            for item in items:
                if item.id in log:
                    continue
                demos = (Demonstration(canvas=request.demo),) if request.demo is not None else self.chosen(item.category)
                reply = self.answer(item.image, item.asked, demos)
                log.write({"id": item.id, **score_reply(item, reply.text), **reply.to_json()})
                new += 1
            return I2LReplies(tuple(log.rows[item.id] for item in items), new, request.answers)


def parse_rating(reply: str) -> int | None:
    """Rating in a reply, 1 to 4: its first number in that range; None if there is no such number.

    >>> tuple(parse_rating(reply) for reply in ("3", "I rate it 4 of 4.", "easy", "10"))
    (3, 4, None, None)
    """
    match = re.search(r"(?<![\d.])[1-4](?!\d|\.\d)", reply)
    return int(match[0]) if match else None


def interleaved(question: str, demos: Sequence[Demonstration]) -> tuple[Part, ...]:
    """Interleaved prompt: picture, question and solution of each demonstration, then the picture and its question."""
    parts: list[Part] = []
    for demo in demos:
        if demo.image is None:
            raise DataError(
                f"demonstration '{demo.name}' is a canvas alone", field="image", expected="a picture, for how=interleaved"
            )
        parts += [ImagePart(source=demo.image), TextPart(f"{demo.question}\n{demo.solution}")]
    return (*parts, ImagePart(), TextPart(question))


def caption_prompt(demos: Sequence[Demonstration]) -> tuple[Part, ...]:
    """Prompt for a caption: each demonstration's picture with its own caption, then the picture."""
    parts: list[Part] = []
    for demo in demos:
        if demo.image is None or not demo.caption:
            raise DataError(
                f"demonstration '{demo.name}' has no picture with a caption", field="caption", expected="both, for how=text"
            )
        parts += [ImagePart(source=demo.image), TextPart(f"{CAPTION}{demo.caption}")]
    return (*parts, ImagePart(), TextPart(CAPTION))


def description_prompt(caption: str, question: str, demos: Sequence[Demonstration], *, indent: int = 0) -> str:
    """Prompt with the demonstrations, then the question about a caption. Lines of the request after its first are indented."""
    template = DESCRIBED.replace("\n", "\n" + " " * indent)
    solved = [template.format(description=demo.caption, question=demo.question) + demo.solution for demo in demos]
    return "\n\n".join([*solved, template.format(description=caption, question=question)])
