"""Shared by recipes that align on many short captions first and then train on few detailed ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Order, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.core.sample import Sample, Text
from diptych.data.load.order import SourceBlockOrder
from diptych.data.text.prompts.layout import TokenPiece
from diptych.data.text.prompts.template import Template
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.former_weights import take_blip2_
from diptych.models.bridges.language_model import LanguageVocabulary
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.bridges import BridgeBatch, BridgeRecipe
from diptych.recipes._shared.language.qformer_config import QFormerSize

REQUESTS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
"""As published (Zhu et al., 2023)."""
CHAT_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions.###"
)
"""What stands before the first turn of a chat, as published."""
MARKS = re.compile(r"([.!\"()*#:;~])")


@grouped("former")
@dataclass(frozen=True, kw_only=True)
class TwoStageCaptionRecipe(BridgeRecipe):
    """Two stages: short captions without any prompt, then detailed ones in a chat's form.

    queries      tokens that a picture becomes by a Q-Former that stays as it is; 0: `group` neighbouring patches side by side
    former_weights  "hf:FOLDER" of BLIP-2, whose Q-Former, queries and norm of features it takes, and its image encoder where there are no
                 `image_weights`; "": fresh ones, which know nothing
    norm_features   without queries patches are normalised first, as in the release, whose norm is a fresh one and stays so
    former       sizes of the Q-Former (`QFormerSize`), whose fields are options like these
    detailed     origin of the texts of the second stage, on samples that have one; the first stage draws all others
    requests     what is asked in the second stage, one drawn for all rows of a step; the first one where no prompt is given
    chat         template of the second stage
    turns        questions that lie beside a sample (`data.text.question_answering.questions`) are a conversation about its picture, all of
                 whose answers the second stage learns; samples without any are described
    chat_again   template of a conversation's later questions, which have a start mark before them
    used         template of use; "": that of the second stage. The released chats say first what will come (`CHAT_SYSTEM`)
    sign, second_sign   what ends an answer in either stage; "": the language model's end mark
    role         in use, of an answer only what stands behind the last such word; "" for all of it
    answer_length, second_answer_length   tokens of an answer at most, its sign among them; longer ones are cut
    clean        short captions in lower case, without marks, of 50 words at most, as BLIP cleans them
    second_share, second_batch_size, second_lr, second_warmup, second_final   of the second stage: its share of the steps, samples a
                 step, rate, warm-up, and share of the rate at the end; `final_lr` is that of the first
    second_warmup_lr   `warmup_lr` of the second stage
    second_rows_a_mean   `rows_a_mean` of the second stage
    sources, shares   of the first stage: sources of samples, and how often one is drawn, for `rows_a_mean` rows at once as a process of
                 the release draws one for its batch, or for each row; (): all rows alike
    group        patches side by side that become one token, where there are no queries
    """

    queries: int = 32
    group: int = 4
    former_weights: str = ""
    norm_features: bool = False
    former: QFormerSize = field(default_factory=QFormerSize)
    detailed: str = "synthetic"
    requests: tuple[str, ...] = REQUESTS
    chat: str = "###Human: <Img>{image}</Img> {prompt} ###Assistant: "
    turns: bool = False
    chat_again: str = "###Human: {prompt} ###Assistant: "
    used: str = ""
    sign: str = "\n"
    second_sign: str = "###"
    role: str = ""
    answer_length: int = 32
    second_answer_length: int = 160
    sources: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    clean: bool = True
    final_lr: float = 0.8
    second_share: float = 1 / 21
    second_batch_size: int = 12
    second_lr: float = 3e-5
    second_warmup: float = 200.0
    second_final: float = 1 / 3
    warmup_lr: float | None = 1e-6
    second_warmup_lr: float | None = 1e-6
    second_rows_a_mean: int = 0
    over: Literal["rest", "run"] = "run"

    image_tower: str = "eva_g14"
    template: str = ""
    space: str = ""
    start: bool | None = True
    text_length: int = 512
    weight_decay: float = 0.05
    warmup: float = 5000.0

    second: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 <= self.second_share < 1 or not self.requests:
            raise ConfigError(
                f"second_share is {self.second_share} with {len(self.requests)} requests (expected 0 to 1, and one request at least)"
            )

        if len(self.sources) != len(self.shares) or any(share <= 0 for share in self.shares):
            raise ConfigError(
                f"{len(self.shares)} shares of {len(self.sources)} sources (expected one above 0 for each, or none)"
            )

    def row_order(self, data: Dataset) -> Order | None:
        if self.second or not self.sources:
            return None
        sources = [data[row].source for row in range(len(data))]
        return SourceBlockOrder(sources, dict(zip(self.sources, self.shares, strict=True)), self.rows_a_mean or 1)

    @property
    def written_after(self) -> str:
        return self.used or self.chat

    def connector_spec(self) -> dict[str, Any]:
        if not self.queries:
            return {"kind": "grouped", "group": self.group, **({"norm": 1e-5} if self.norm_features else {})}
        return {"kind": "queries", "queries": self.queries, "former": self.former.settings(), "norm": 1e-5, "still": True}

    # ------------------------------------------------------------ data

    def batch(self, draws: Draws) -> BridgeBatch:
        words, template = self.words(), Template(self.chat if self.second else self.template)
        sign = self.second_sign if self.second else self.sign
        most = self.second_answer_length if self.second else self.answer_length
        request = self.requests[int(draws.rng.integers(len(self.requests)))] if self.second else ""
        rows, cut = [], 0
        for draw in draws:
            questions = questions_of(draw.sample) if self.second and self.turns else []
            if questions:
                written, first = self._turns(questions, words), questions[0].text
            else:
                text, first = self._draw_text(draw).string, request
                ids = words.pieces(self.space + (text if self.second or not self.clean else clean_caption(text)) + sign)
                written = [TokenPiece(tuple(ids if sign else [*ids, words.end_id]), answer=True)]
            pieces, longer = _first(written, most)
            cut += longer
            rows.append([*template.pieces(self.slots, first), *pieces])
        made = self.laid(draws, rows)
        return replace(made, truncated=made.truncated + cut)

    def _turns(self, asked: Sequence[Question], words: LanguageVocabulary) -> list[TokenPiece]:
        """Answers of a conversation, and its questions behind the first, which are not learned."""
        if words.close_ids:
            raise ConfigError("turns go with a decoder, which reads what it has written (expected turns False, or another model)")
        pieces = []
        for index, question in enumerate(asked):
            if index:
                text = self.chat_again.replace("{prompt}", question.text)
                pieces.append(TokenPiece((*words.start_ids, *words.pieces(text))))
            ids = words.pieces(self.space + question.answer + self.second_sign)
            pieces.append(TokenPiece(tuple(ids if self.second_sign else [*ids, words.end_id]), answer=True))
        return pieces

    def _draw_text(self, draw: Draw) -> Text:
        texts = [text for text in draw.sample.positives(self.language) if (text.origin == self.detailed) == self.second]
        if not texts:
            kind = f"of origin '{self.detailed}'" if self.second else f"of another origin than '{self.detailed}'"
            raise DataError(f"sample '{draw.sample.uid}' has no text {kind}", field="texts", expected="one or more")
        return texts[int(draw.rng.integers(len(texts)))]

    def has_short(self, sample: Sample) -> bool:
        """True if the first stage trains on the sample."""
        return any(text.origin != self.detailed for text in sample.positives(self.language))

    def has_detailed(self, sample: Sample) -> bool:
        """True if the second stage trains on the sample."""
        described = any(text.origin == self.detailed for text in sample.positives(self.language))
        return described or (self.turns and bool(questions_of(sample)))

    # ------------------------------------------------------------ model

    def _fresh_encoder(self) -> Tower:
        """Where patches stand side by side the class token, which is no neighbour of any, is left out, as published."""
        if self.image_tower == "eva_g14" and not self.queries:
            return image_tower("eva_g14", image_size=self.image_size, prefix=False)
        return super()._fresh_encoder()

    def model(self) -> Bridge:
        bridge = super().model()
        take_blip2_(bridge, self.former_weights, encoder=not self.image_weights)
        return bridge

    def optimiser(self) -> Optimiser:
        start = None if self.warmup_lr is None else self.warmup_lr / self.lr
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, final_lr=self.final_lr)
        return replace(chosen, warmup_from=start, over=self.over)

    def stages(self) -> Sequence[Stage]:
        if self.second or not self.second_share:
            return ()
        second = replace(
            self,
            second=True,
            batch_size=self.second_batch_size,
            lr=self.second_lr,
            warmup=self.second_warmup,
            warmup_lr=self.second_warmup_lr,
            final_lr=self.second_final,
            rows_a_mean=self.second_rows_a_mean,
        )
        return (
            Stage("short captions", self, 1 - self.second_share, keep=self.has_short),
            Stage("detailed captions", second, self.second_share, keep=self.has_detailed),
        )

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.request, made.sign = self.requests[0], self.second_sign if self.second_share else self.sign
        made.role = self.role
        return made

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Settings that small presets have in common: patches concatenated, before a small language model."""
        return {
            "image_weights": "small",
            "queries": 0,
            "chat": "{image} : {prompt}",
            "requests": ("describe the picture .",),
            "space": " ",
            "sign": "",
            "second_sign": "",
            "answer_length": 48,
            "second_answer_length": 64,
            "text_length": 128,
            "rows_a_mean": 0,
            "second_rows_a_mean": 0,
            "pieces": 512,
            "match_norms": True,
            "batch_size": 64,
            "steps": 800,
            "lr": 5e-4,
            "warmup_lr": None,
            "second_warmup_lr": None,
            "over": "rest",
            "warmup": 30.0,
            "final_lr": 0.0,
            "second_share": 0.25,
            "second_batch_size": 32,
            "second_lr": 3e-4,
            "second_warmup": 20.0,
            "second_final": 0.0,
            "clip_norm": 1.0,
        }


def _first(pieces: Sequence[TokenPiece], most: int) -> tuple[list[TokenPiece], bool]:
    """So many tokens of these pieces from the first on, and whether there were more."""
    head, room = [], most
    for piece in pieces:
        if room > 0:
            head.append(replace(piece, ids=piece.ids[:room]))
        room -= len(piece.ids)
    return head, room < 0


def clean_caption(caption: str, most: int = 50) -> str:
    """A short caption as BLIP reads it: lower case, no marks, single spaces, `most` words.

    >>> clean_caption("A dog (brown)  on a Sofa!")
    'a dog brown on a sofa'
    """
    caption = re.sub(r"\s{2,}", " ", MARKS.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:most])
