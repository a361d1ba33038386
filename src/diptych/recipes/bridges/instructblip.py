"""InstructBLIP: a Q-Former that also reads the instruction, so that image tokens depend on the question."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Order
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text
from diptych.data.load.order import SourceBlockOrder, WeightedOrder
from diptych.data.text.question_answering.questions import questions_of
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.former_weights import take_blip2_
from diptych.models.bridges.writer import BridgeGenerator
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.instruction_rows import WHOLE, InstructionRecipe
from diptych.recipes._shared.language.qformer_config import TINY_QFORMER, QFormerConfig
from diptych.recipes._shared.pairs import VOCABULARY_ROWS, positive_texts, strings_of
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

ASKS = (
    "{question}",
    "Question: {question}",
    "{question} A short answer to the question is",
    "Q: {question} A:",
    "Question: {question} Short answer:",
    "Given the image, answer the following question with no more than three words. {question}",
    "Based on the image, respond to this question with a short answer: {question}. Answer:",
    "Use the provided image to answer the question: {question} Provide your answer as short as possible:",
    'What is the answer to the following question? "{question}"',
    'The question "{question}" can be answered using the image. A short answer is',
)
ASKS_BACK = (
    "Given the image, generate a question whose answer is: {answer}. Question:",
    "Based on the image, provide a question with the answer: {answer}. Question:",
    'Given the visual representation, create a question for which the answer is "{answer}".',
    "From the image provided, craft a question that leads to the reply: {answer}. Question:",
    "Considering the picture, come up with a question where the answer is: {answer}.",
    "Taking the image into account, generate an question that has the answer: {answer}. Question:",
)
REQUESTS = (
    "A short image caption:",
    "A short image description:",
    "A photo of",
    "An image that shows",
    "Write a short description for the image.",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
"""All three as published (Dai et al., 2023), "an question" among them."""


@dataclass(frozen=True)
class QFormerBatch(BridgeBatch):
    """question_BL  the question as the Q-Former reads it; None where it reads none"""

    question_BL: Rows[Tensor] | None = None
    question_mask_BL: Rows[Tensor] | None = None


@grouped("former")
@dataclass(frozen=True, kw_only=True)
class InstructBLIP(InstructionRecipe):
    """InstructBLIP: Towards General-purpose Vision-Language Models with Instruction Tuning (Dai et al., 2023, arXiv 2305.06500).

    The question goes to two places: to the Q-Former, where it shares self-attention with the queries that look at the image, and to the
    language model behind the queries' outputs. Image encoder and language model are frozen; Q-Former, queries and projection are trained,
    on the answers alone. A sample brings its questions in extras["questions"] (`data.text.question_answering.questions`), of which one is
    drawn at a step, in one of many wordings (`asks`, `asks_back`, `requests`); samples of several sources are drawn by the root of the
    sources' sizes, so that small ones are learned and large ones not forgotten. With `rows_a_mean` so many rows in a row are of one
    source, as where a process of LAVIS draws one for its batch.
    We leave out the adjustments of these shares that were made by hand. As in LAVIS images are cropped and mirrored, also where a question
    says left or right: `flip` False is safer there.

    queries     K, tokens that a picture becomes
    former_weights  what to begin with: "hf:FOLDER" of BLIP-2, for a Q-Former that reads questions of its first stage
                (`Blip2ForImageTextRetrieval` of transformers), or of InstructBLIP, or the run of another bridge. It takes Q-Former and
                queries, and the image encoder where there are no `image_weights`; "" begins afresh
    aware       the Q-Former reads the question; False: as BLIP-2, the same tokens whatever is asked
    balanced    draws by the root of a source's size; False: by its size
    former      sizes of the Q-Former (`QFormerConfig`), whose fields are options like these
    former_vocabulary   tokens that its table has room for; published: 30,523
    former_tokenizer  "data" (the vocabulary of the questions), or a path of a tokenizer.json: BERT's, with one more token, as published
    pictures    that a question in use may have, the frames of a clip for example: each is looked at with the question in mind, and their
                tokens stand one after the other
    ranks_end   whether the end mark counts where answers are ranked; False: a decoder's, as LAVIS has it, which ranks by the sum
    asked_length  tokens of the request that the Q-Former reads, at most: of a longer one the last
    requests    what asks for a caption of samples without questions, one drawn for each; () refuses such samples
    request     what asks for a caption in use, where a prompt is ""
    over        what the cosine of the rate falls along: the whole "run", whose beginning the warm-up takes, as LAVIS has it, or the "rest"
                behind the warm-up. LAVIS falls after each of its inner epochs, whose length is not published for this training; here each
                step falls
    """

    slug = "instructblip"
    needs = ("image", "questions")

    queries: int = 32
    former_weights: str = ""
    former: QFormerConfig = field(default_factory=QFormerConfig)
    aware: bool = True
    balanced: bool = True
    former_vocabulary: int = 30523
    former_tokenizer: str = "data"
    asked_length: int = 128
    pictures: int = 1
    ranks_end: bool = False
    requests: tuple[str, ...] = ()
    request: str = ""

    image_tower: str = "eva_g14"
    template: str = "{image}{prompt}"
    space: str = ""
    start_behind: bool = True
    prompt_length: int = 128
    answer_length: int = 256
    text_length: int = 0
    crop: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    batch_size: int = 128
    steps: int = 60_000
    lr: float = 1e-5
    warmup: float = 1000.0
    warmup_lr: float | None = 1e-8
    over: Literal["rest", "run"] = "run"
    weight_decay: float = 0.05

    asked_vocabulary: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.requests:  # samples without questions are captioned
            object.__setattr__(self, "needs", ("image",))

    @property
    def measured_by(self) -> str:
        return "vqa"

    def connector_spec(self) -> dict[str, Any]:
        return {"kind": "queries", "queries": self.queries, "former": self._former(), "reads_text": self.aware, "norm": 1e-5}

    def _former(self) -> dict[str, Any]:
        shape = self.former.settings()
        if not self.aware:
            return shape
        vocab_size = self.qformer_tokenizer().vocab_size if self.asked_vocabulary or self.former_tokenizer != "data" else 0
        return {**shape, "vocab_size": max(vocab_size, self.former_vocabulary)}

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary of the questions where there is none; language model and tokens as every bridge."""
        prepared = self
        if self.aware and self.former_tokenizer == "data" and not self.asked_vocabulary:
            texts = strings_of(data, self.texts_of, stride=max(1, len(data) // VOCABULARY_ROWS), language=self.language)
            prepared = replace(prepared, asked_vocabulary=learned_vocabulary(texts, self.pieces))
        return super(InstructBLIP, prepared).prepare(data)

    def texts_of(self, sample: Sample) -> list[str]:
        questions = [text for question in questions_of(sample) for text in (question.text, question.answer)]
        return questions + positive_texts(sample, self.language)

    def qformer_tokenizer(self) -> Tokenizer:
        """The tokenizer of what the Q-Former reads."""
        return tokenizer_of(self.former_tokenizer, self.asked_vocabulary)

    def row_order(self, data: Dataset) -> Order | None:
        sources = [data[row].source for row in range(len(data))] if self.balanced else []
        sizes = Counter(sources)
        if len(sizes) < 2:
            return None
        if self.rows_a_mean:
            return SourceBlockOrder(sources, {source: size**0.5 for source, size in sorted(sizes.items())}, self.rows_a_mean)
        return WeightedOrder(tuple(sizes[source] ** -0.5 for source in sources))

    def batch(self, draws: Draws) -> QFormerBatch:
        requests = [self._draw_request(draw) for draw in draws]
        made = self.instruction_batch(draws, requests, [self.slots] * len(requests))
        if not self.aware:
            return QFormerBatch(**vars(made))
        encoded = self.qformer_tokenizer().encode([request for request, _ in requests], self.asked_length, keep="last")
        read_BL, mask_BL = (torch.from_numpy(array) for array in (encoded.ids_BL, encoded.mask_BL))
        return QFormerBatch(**vars(made), question_BL=read_BL, question_mask_BL=mask_BL)

    def _draw_request(self, draw: Draw) -> tuple[str, str]:
        """A request and its answer. A question is asked, and with `asks_back` as often asked for; a sample without any is captioned."""
        questions = questions_of(draw.sample)
        if not questions and self.requests:
            return self.requests[int(draw.rng.integers(len(self.requests)))], choose_text(draw, self.language).string
        if not questions:
            raise DataError(f"sample '{draw.sample.uid}' has no question", field="questions", expected="one or more")
        question = questions[int(draw.rng.integers(len(questions)))]
        back = bool(self.asks_back) and question.kind != WHOLE and bool(draw.rng.integers(2))
        return self.request_and_answer(question, draw.rng, back=back)

    # ------------------------------------------------------------ model

    def model(self) -> Bridge:
        bridge = super().model()
        take_blip2_(bridge, self.former_weights, encoder=not self.image_weights)
        return bridge

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, QFormerBatch):
            raise ConfigError("instructblip needs batches made by its own method `batch`")
        written: AnswerLikelihood = model(batch.image_BCHW, batch.layout, batch.question_BL, batch.question_mask_BL)
        return written

    def optimiser(self) -> Optimiser:
        start = None if self.warmup_lr is None else self.warmup_lr / self.lr
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, warmup_from=start, over=self.over)

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.reads = (self.qformer_tokenizer(), self.asked_length) if self.aware else None
        made.pictures, made.ranks_end, made.request = self.pictures, self.ranks_end, self.request
        return made

    @classmethod
    def tiny(cls) -> Self:
        """Four queries, two layers of Q-Former before a small language model: minutes on two cores."""
        return cls(
            image_tower="convnet_tiny",
            image_size=64,
            queries=4,
            former=TINY_QFORMER,
            former_vocabulary=0,
            asked_length=16,
            ranks_end=True,
            space=" ",
            start_behind=False,
            prompt_length=0,
            answer_length=0,
            text_length=96,
            crop=(1.0, 1.0),
            flip=False,
            pieces=512,
            batch_size=64,
            steps=1200,
            lr=1e-3,
            match_norms=True,
            warmup=50.0,
            warmup_lr=None,
            over="rest",
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """EVA-g, 32 queries, a Q-Former of BERT-base size; the language model as `language_model`, BLIP-2 as `former_weights`.
        Batches of 128 are sixteen processes' eights. Requests are worded as published, questions and captions, and as often questions are
        asked for by their answers. As released Vicuna's start mark is its end mark, and the frozen FLAN-T5 has its dropout in training, and
        the exact GELU in place of its approximate one.

        It answers with five beams, a repetition penalty of 1.5 and a length penalty of 1, or where answers are short of 0 in the code and
        of -1 in the released evaluations, which ask "Question: {} Short Answer:" (`prefix` and `suffix` of `vqa`); `generate` takes the
        likeliest token by default."""
        wordings: dict[str, Any] = {
            "asks": ASKS,
            "asks_back": ASKS_BACK,
            "requests": REQUESTS,
            "request": "A short image caption.",
        }
        parts: dict[str, Any] = {"awake": ("language",), "end_starts": True, "language_act": "gelu"}
        return cls(resize="squash", rows_a_mean=8, decoding="whole", **wordings, **parts)
