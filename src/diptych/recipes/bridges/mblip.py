"""mBLIP: a Q-Former trained with an English language model, re-aligned to a multilingual one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Draw, Draws, Optimiser, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.core.randomness import keyed_rng
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import view
from diptych.data.text.languages import MC4_SHARES, NAMES
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.connectors import QueryConnector
from diptych.models.bridges.former_weights import take_blip2_
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.adapters import MARK, LoRAConfig, add_adapters, merged
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.instruction_rows import WHOLE, InstructionRecipe
from diptych.recipes._shared.language.multilingual_config import AdapterConfig, AlignmentRates, CaptionLanguages
from diptych.recipes._shared.language.qformer_config import TINY_QFORMER, QFormerConfig

SEVERAL = "images"
"""The medium of a sample with several pictures."""
ASKS = (
    "{question} Short {language} answer:",
    "Question: {question} Brief answer (in {language}):",
    "Give a short answer in {language} to the following question. {question}",
    "Answer the provided question in {language} with three words or less. {question}",
    "What is the {language} answer to this question? {question}",
    "Briefly answer in {language}. {question}",
)
ASKS_BACK = (
    "Given the image, generate a question in {language} whose answer is: {answer}. Question:",
    'Based on the image, create a question (in {language}) for which the answer is "{answer}".',
    "From the image provided, come up with a {language} question that leads to the reply: {answer}. Question:",
    'What is a {language} question for the image with the answer "{answer}"?',
    'Given the image, what would be a {language} question that has as answer "{answer}"?',
)
"""Both as published, for VQAv2; the rest of its mix (explanations, conversations, matching, classes) are questions that say themselves how
they are to be answered, for the data to bring."""
MADE_UP = {"qaa": "qaan", "qab": "qaban"}
"""Names of the rendered worlds' languages."""


@dataclass(frozen=True)
class PicturesBatch(BridgeBatch):
    """With the pictures of each row behind its first, [B, M, C, H, W], and which of them there are."""

    more_BMCHW: Rows[Tensor] = field(default_factory=lambda: torch.zeros(0))
    there_BM: Rows[Tensor] = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


@grouped("former", "spoken", "adapters", "alignment")
@dataclass(frozen=True, kw_only=True)
class MBLIP(InstructionRecipe):
    """mBLIP: Efficient Bootstrapping of Multilingual Vision-LLMs (Geigle et al., 2023, arXiv 2307.06930).

    The Q-Former of BLIP-2 meets another language model, one of many languages. First a new projection alone is trained, at a high rate;
    then Q-Former, queries and projection at a low one, with low-rank adapters on every matrix of the language model. An image is shown in
    one of its languages only, drawn once by the languages' weights, so that many languages take no more steps than one; the request names
    the language. Before a decoder, picture and request stand before the answer; an encoder-decoder (mT0) reads them in its encoder.

    Frozen parts are frozen by their gradients alone, as released: the dropout of mT0, and in the first stage that of the Q-Former, acts
    (`awake`). We depart in the language model's precision, which the release holds in 8 bits, and keep what was trained as one model:
    adapters are merged where it is deployed. As published images are mirrored, also where captions say left and right: `flip` False is
    safer there.

    queries         tokens that a picture becomes
    pictures        of a row at most: above 1, all of a sample with several (`media["images"]`) are read, their tokens one after the other,
                    and a sample with more is refused; 1 reads the first alone
    former_weights  the Q-Former to begin with, and where there are no `image_weights` the image encoder: "hf:FOLDER" of BLIP-2, or the run
                    of another bridge; "" begins afresh
    former, adapters, alignment  sizes of the Q-Former (`QFormerConfig`), low-rank adapters (`AdapterConfig`), the stage of the projection
                    alone and its rates (`AlignmentRates`)
    spoken          languages of the captions, and how they are asked for (`CaptionLanguages`). Fields of all four are options like these
    questions       whether questions of a sample are drawn too, each as likely as the caption, and with `asks_back` each as often asked
                    for. The hint "language" of a question says in which it is answered, else English. Not while the projection learns
                    alone: it sees captions
    decay           weight decay by the names of the release ("released"), which has it on the first norm's gain of the Q-Former, too, or on
                    "matrices" alone
    adam            AdamW as the "transformers" of the release has it (`CorrectedAdamW`), or as "torch" does
    """

    slug = "mblip"

    queries: int = 32
    pictures: int = 1
    former_weights: str = ""
    former: QFormerConfig = field(default_factory=QFormerConfig)
    spoken: CaptionLanguages = field(default_factory=CaptionLanguages)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    alignment: AlignmentRates = field(default_factory=AlignmentRates)
    questions: bool = False
    decay: Literal["released", "matrices"] = "released"
    adam: Literal["torch", "transformers"] = "transformers"

    language: str = ""
    image_tower: str = "eva_g14"
    template: str = "{image}{prompt}"
    space: str = ""
    start_behind: bool = True
    prompt_length: int = 128
    prompt_keeps: Literal["first", "last"] = "first"
    answer_length: int = 128
    answer_end: Literal["counted", "added"] = "added"
    text_length: int = 0
    rows_a_mean: int = 8
    awake: tuple[str, ...] = ("language",)
    crop: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    batch_size: int = 128
    steps: int = 80_000
    lr: float = 2e-4
    warmup: float = 1000.0
    warmup_from: float | None = 0.0
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    warm: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ConfigError(f"pictures is {self.pictures} (expected 1 or more)")
        if self.questions:  # samples without texts are asked
            object.__setattr__(self, "needs", ("image",))

    def connector_spec(self) -> dict[str, Any]:
        return {
            "kind": "queries",
            "queries": self.queries,
            "former": self.former.settings(),
            "norm": 1e-5,
            "still": self.warm,
            "rests": False,
        }

    # ------------------------------------------------------------ data

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """The picture; where a row may have several, all of the sample, the first as its picture. A sample without a text in one of the
        languages, and without questions where these are asked, is left out, as one that cannot be read."""
        if not self.captioned(sample) and (self.warm or not self.questions or not questions_of(sample)):
            languages = f" in {', '.join(self.spoken.languages)}" if self.spoken.languages else ""
            raise DataError(f"sample '{sample.uid}' has no text{languages}", field="texts", expected="one or more")
        if self.pictures == 1 or SEVERAL not in sample.media:
            return super().load(sample, rng)
        count = len(sample.media[SEVERAL].parts)
        if count > self.pictures:
            raise DataError(
                f"sample '{sample.uid}' has {count} pictures",
                field=SEVERAL,
                expected=f"{self.pictures} at most, or more --pictures",
            )
        first, *more = sample.media[SEVERAL].decode(min_side=self.decode_size)
        return {"image": first, SEVERAL: tuple(more)}

    def batch(self, draws: Draws) -> BridgeBatch:
        requests = [self._draw_request(draw) for draw in draws]
        laid = self.instruction_batch(draws, requests, [self.slots * (1 + len(draw.media.get(SEVERAL, ()))) for draw in draws])
        return laid if self.pictures == 1 else self._with_more(laid, draws)

    def _with_more(self, laid: BridgeBatch, draws: Draws) -> PicturesBatch:
        """The pictures behind the first, as many as the fullest row has, and which of them there are."""
        shown = [draw.media.get(SEVERAL, ()) for draw in draws]
        most = max(map(len, shown))
        more_BMCHW = torch.zeros(len(shown), most, 3, self.preprocess.size, self.preprocess.size)
        for row, (draw, images) in enumerate(zip(draws, shown, strict=True)):
            views = [view(replace(draw, image_HWC=one), self.image_size, self.crop, self.flip) for one in images]
            if views:
                more_BMCHW[row, : len(views)] = self.preprocess(views)
        there_BM = torch.arange(most)[None] < torch.tensor([len(images) for images in shown])[:, None]
        fields = {field.name: getattr(laid, field.name) for field in dataclasses.fields(laid)}
        return PicturesBatch(**fields, more_BMCHW=more_BMCHW, there_BM=there_BM)

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, PicturesBatch):
            return super().features(model, batch)
        image_BMCHW = torch.cat((batch.image_BCHW[:, None], batch.more_BMCHW), 1)
        there_BM = torch.cat((batch.there_BM.new_ones(len(image_BMCHW), 1), batch.there_BM), 1)
        written: AnswerLikelihood = model(image_BMCHW[there_BM], batch.layout, count_B=there_BM.sum(1))
        return written

    def _draw_request(self, draw: Draw) -> tuple[str, str]:
        """A request and its answer."""
        questions = questions_of(draw.sample) if self.questions and not self.warm else []
        rows = [(question, back) for question in questions for back in (False, True)[: 1 + self._turned(question)]]
        index = int(draw.rng.integers(len(rows) + self.captioned(draw.sample))) if rows else 0
        if index < len(rows):
            question, back = rows[index]
            name = _language_name(question.hints.get("language", ("en",))[0])
            return self.request_and_answer(
                question, keyed_rng("mblip question", draw.sample.uid, index), back=back, language=name
            )
        text = self.caption_of_language(draw)
        return self.caption_request(text.language, draw.sample.uid), text.string

    def _turned(self, question: Question) -> bool:
        """True if a question is also posed backwards, as a request for the question that its answer belongs to."""
        return bool(self.asks_back) and question.kind != WHOLE

    def _texts(self, sample: Sample) -> list[Text]:
        """Those in one of the languages."""
        return [
            text
            for text in sample.positives(self.language)
            if not self.spoken.languages or text.language in self.spoken.languages
        ]

    def captioned(self, sample: Sample) -> bool:
        """True if the sample has a text in one of the languages."""
        return bool(self._texts(sample))

    def caption_of_language(self, draw: Draw) -> Text:
        """A text of the sample in the language in which it is shown: always the same for a sample."""
        by_language: dict[str, list[Text]] = {}
        for text in self._texts(draw.sample):
            by_language.setdefault(text.language, []).append(text)
        tags = sorted(by_language)
        weights = (
            dict(zip(self.spoken.languages, self.spoken.weights, strict=True))
            if self.spoken.weights
            else dict.fromkeys(tags, 1.0)
        )
        share = [weights[tag] for tag in tags]
        tag = str(keyed_rng("mblip", draw.sample.uid).choice(tags, p=[one / sum(share) for one in share]))
        texts = by_language[tag]
        return texts[int(draw.rng.integers(len(texts)))]

    def caption_request(self, tag: str, uid: str = "") -> str:
        """The request for a caption in a language, `{language}` in it replaced by the language's name: that of use, or of the sample."""
        request = self.spoken.request
        if uid and self.spoken.requests:
            request = self.spoken.requests[int(keyed_rng("mblip request", uid).integers(len(self.spoken.requests)))]
        return request.replace("{language}", _language_name(tag))

    # ------------------------------------------------------------ model

    def model(self) -> Bridge:
        bridge = super().model()
        take_blip2_(bridge, self.former_weights, encoder=not self.image_weights)
        if isinstance(bridge.connector, QueryConnector):
            bridge.connector.norm.requires_grad_(False)  # part of the frozen image encoder in the release
        if self.adapters.adapter_rank and not self.warm:
            lora = LoRAConfig(
                self.adapters.adapter_rank,
                self.adapters.adapter_targets or inner_maps(bridge),
                self.adapters.adapter_alpha,
                self.adapters.adapter_dropout,
            )
            add_adapters(bridge.language.inner, lora)
        return bridge

    def optimiser(self) -> Optimiser:
        rules: tuple[Rule, ...] = ()
        if not self.warm:
            visual = Rule("^connector", lr_scale=self.alignment.visual_lr / self.lr)
            gain = replace(visual, pattern=r"^connector\.former\.layernorm\.weight$", decay=True)
            rules = (gain, visual) if self.decay == "released" else (visual,)
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, warmup_from=self.warmup_from)
        return replace(chosen, adam=self.adam, rules=rules)

    def stages(self) -> Sequence[Stage]:
        if self.warm or not self.alignment.warm_share:
            return ()
        keep = self.captioned if self.questions else None
        return (
            Stage("projection", replace(self, warm=True, lr=self.alignment.warm_lr), self.alignment.warm_share, keep=keep),
            Stage(
                "all",
                replace(self, alignment=replace(self.alignment, warm_share=0.0)),
                1 - self.alignment.warm_share,
                carry=_carry,
            ),
        )

    def stored(self, name: str) -> bool:
        """Adapters are in checkpoints, the language model beneath them is loaded again."""
        return super().stored(name) or MARK in name

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(merged(model))
        made.connector_spec = {**made.connector_spec, "still": False, "rests": True}
        made.pictures = self.pictures
        made.request = self.caption_request(self.spoken.languages[0] if self.spoken.languages else "en")
        if self.adapters.adapter_rank:
            made.folder = ""  # a language model with merged adapters is kept with the rest
        return made

    @classmethod
    def tiny(cls) -> Self:
        """Four queries, two layers of Q-Former, small models that are made first: two minutes on two cores."""
        return cls(
            image_weights="small",
            queries=4,
            former=TINY_QFORMER,
            spoken=CaptionLanguages(requests=(), request="caption in {language} :"),
            adapters=AdapterConfig(adapter_rank=4, adapter_alpha=8.0, adapter_dropout=0.0),
            alignment=AlignmentRates(warm_share=0.25, warm_lr=3e-3, visual_lr=1e-3),
            template="{image} : {prompt}",
            space=" ",
            start_behind=False,
            prompt_length=0,
            answer_length=0,
            rows_a_mean=0,
            awake=(),
            crop=(1.0, 1.0),
            flip=False,
            text_length=96,
            pieces=512,
            match_norms=True,
            batch_size=64,
            steps=800,
            lr=2e-3,
            warmup=30.0,
            warmup_from=None,
            weight_decay=0.0,
            decay="matrices",
            adam="torch",
        )

    @classmethod
    def paper(cls) -> Self:
        """EVA-g and BLIP-2's Q-Former (`former_weights`) before mT0-XL or BLOOMZ-7B (`language_model`): 8,000 steps for the projection on
        captions, then 72,000; published are two epochs of its mix of tasks, so choose `steps` by your data. Questions are asked, and
        asked for by their answers. Languages are those of mC4 by their shares. Batches of 128 are four processes' fours of 8: BLOOMZ has
        4 (`rows_a_mean`) and no first stage (`warm_share` 0)."""
        spoken = CaptionLanguages(languages=tuple(MC4_SHARES), weights=tuple(MC4_SHARES.values()))
        return cls(decoding="whole", resize="squash", questions=True, asks=ASKS, asks_back=ASKS_BACK, spoken=spoken)


def _language_name(tag: str) -> str:
    """The name of a language in English."""
    return (MADE_UP | NAMES).get(tag, tag)


def inner_maps(bridge: Bridge) -> tuple[str, ...]:
    """Patterns of the linear maps of a language model, but the one that gives words."""
    inner = bridge.language.inner
    head = inner.get_output_embeddings()
    linear = type(head)
    names = [name for name, module in inner.named_modules() if type(module) is linear and module is not head]
    return tuple(f"^{name}$" for name in names)


def _carry(before: nn.Module, after: nn.Module) -> None:
    """The connector goes on; the language model has adapters now, and is the same beneath."""
    assert isinstance(before, Bridge)
    assert isinstance(after, Bridge)
    after.connector.load_state_dict(before.connector.state_dict())
