"""Chat-3D v2: a language model refers to the objects of a room by identifiers before their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor

from diptych.core.contracts import Draws, Optimiser, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.points.proposals import ProposalReading, padded
from diptych.data.points.room_chat_prompts import CHAT_TASKS, SCENE_SYSTEM, V2_SYSTEM, ChatPrompt, ChatTask, draw_request
from diptych.data.points.room_language import room_descriptions, room_objects, room_questions
from diptych.data.points.room_things import read_things
from diptych.data.text.object_identifiers import IdentifierAssignment, IdentifierOrder, identifier
from diptych.data.text.prompts.layout import AnswerPlaces, Layout, lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.points.object_tokens import ObjectTokenSettings
from diptych.models.points.room_chat import RoomChat, RoomChatFeatures, Trained
from diptych.models.points.room_chat_model import RoomChatModel
from diptych.recipes._shared.language.language_model_recipe import LanguageModelRecipe

READING, TOKENS, PROMPT = ProposalReading(most=100, jitter=0.0), ObjectTokenSettings(), ChatPrompt()


@dataclass(frozen=True)
class RoomChatBatch(TensorBatch):
    """Things of rooms, the order in which they are read, and rows of words; or captions of things."""

    feature: Rows[Tensor]
    box_BM6: Rows[Tensor]
    colour_BM3: Rows[Tensor]
    open_BM: Rows[Tensor]
    sequence_BM: Rows[Tensor]
    id_BL: Rows[Tensor] | None = None
    slot_BL: Rows[Tensor] | None = None
    mask_BL: Rows[Tensor] | None = None
    answer_BL: Rows[Tensor] | None = None
    caption_BMCL: Rows[Tensor] | None = None
    caption_mask_BMCL: Rows[Tensor] | None = None
    places: AnswerPlaces | None = None

    def rows(self, start: int, stop: int) -> Self:
        """Only these rows; the places of answers are those of all, and are searched for anew."""
        whole = start == 0 and stop >= len(self)
        return self if whole else replace(super().rows(start, stop), places=None)

    @property
    def layout(self) -> Layout | None:
        """The rows; None where captions are aligned."""
        if self.id_BL is None or self.slot_BL is None or self.mask_BL is None or self.answer_BL is None:
            return None
        return Layout(self.id_BL, self.slot_BL, self.mask_BL, self.answer_BL, places=self.places)


@dataclass(frozen=True, kw_only=True)
class Chat3Dv2(LanguageModelRecipe[RoomChat, RoomChatBatch, RoomChatFeatures]):
    """Chat-3D v2: Bridging 3D Scene and Large Language Models with Object Identifiers (Huang et al., 2023, arXiv 2312.08168).

    Every thing of a room is an identifier, an attribute token of its features, size and colour, and a relation token of what a layer of
    attention over the room adds. The language model reads them before a request and answers with words and identifiers, so that one
    answer may mean none, one or several things. Three stages: attribute tokens are aligned with the mean embedding of a thing's captions;
    the model names things and describes them; tasks are tuned on. The language model is frozen, as in the paper.

    The releases differ: v2.0 writes "obj01" in order; v2.1 has tokens "<OBJ001>" in a drawn order (`order` "shuffled"), Chat-Scene the
    identifiers in order and things drawn behind them ("ascending"), both with plain projections of features of norm 1 (`kind`) and tuned
    language models (`trained`; adapters by `--lora`). v2.0 trains answers with a start mark before them and "\\n###" in place of the end
    mark (`answer_start`, `answer_end`). An identifier that nothing has is a failure here, and no thing at random.

    Features are the extra `object_features` of a sample (published: Uni3D's, 1,024 dimensions), or learned from points (`points`).
    Chat-Scene's second token of a thing is made of the extra `object_image_features` (published: DINOv2's, the mean over views). Colours
    are means over the points of a thing, where the release takes the mean of a mixture. Requests are in words of ours, texts around the
    things in `paper` and `chat_scene` the published ones. Not verified: how long each stage is (`object_share`, `scene_share`).

    stage        "objects", "scenes" or "instructions"; a run goes through all three, unless their shares are 0
    object_share, scene_share  of the steps that the first two stages take
    tasks        of the last stage, of "grounding", "captions", "questions" and "objects" (its class)
    order        of identifiers, see `IdentifierOrder`
    trained      "tokens": the language model is frozen; "all": it is tuned
    points       features are learned from the points of a thing
    captions     captions of a thing whose mean embedding its token is aligned with, at most; 0: all, as released
    relation_rate  learning rate of the relation layer as a share of `lr`
    relation_decay  weight decay is also on the relation layer's norm and biases, as released
    final_lr     share of the rate that it does not fall below, not even in the warm-up
    beams, repetition_penalty  of answers; tokens of an answer that come again are made less likely by the second
    text_length  tokens of a row
    max_tokens   of an answer
    medium       name of the cloud among a sample's media
    reading      of things: `ProposalReading`, whose fields are options of their own
    tokens       of a thing: `ObjectTokenSettings`, whose fields are options of their own
    prompt       words around things and request: `ChatPrompt`, whose fields are options of their own
    """

    slug = "chat3d_v2"
    needs: ClassVar[tuple[str, ...]] = ("cloud", "objects", "descriptions")
    cacheable: ClassVar[bool] = False  # batch norms, where features are learned

    stage: Literal["objects", "scenes", "instructions"] = "instructions"
    object_share: float = 0.2
    scene_share: float = 0.3
    tasks: tuple[ChatTask, ...] = CHAT_TASKS
    order: IdentifierOrder = "plain"
    trained: Trained = "tokens"
    points: bool = False
    captions: int = 4
    relation_rate: float = 2e-3
    relation_decay: bool = False
    final_lr: float = 0.01
    beams: int = 1
    repetition_penalty: float = 1.0
    text_length: int = 1024
    max_tokens: int = 64
    medium: str = "cloud"
    reading: ProposalReading = READING
    tokens: ObjectTokenSettings = TOKENS
    prompt: ChatPrompt = PROMPT

    batch_size: int = 32
    epochs: float = 3.0
    lr: float = 5e-3
    warmup: float = 0.2 / 3
    weight_decay: float = 0.02
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.stage not in ("objects", "scenes", "instructions") or not set(self.tasks) <= set(CHAT_TASKS) or not self.tasks:
            raise ConfigError(
                f"stage {self.stage!r}, tasks {list(self.tasks)} (expected objects | scenes | instructions, and some of "
                f"{', '.join(CHAT_TASKS)})"
            )
        if min(self.object_share, self.scene_share) < 0 or self.object_share + self.scene_share >= 1:
            raise ConfigError(
                f"object_share {self.object_share}, scene_share {self.scene_share} (expected shares that leave some for the last stage)"
            )
        if self.points and self.tokens.image_width:
            raise ConfigError("an image token goes with given features (expected points False, or image_width 0)")
        if self.prompt.form == "tokens" and self.trained == "tokens" and self.tokens.kind == "attributes":
            raise ConfigError(
                "tokens of identifiers are new to a frozen language model (expected form 'words', or trained 'all')"
            )

    @property
    def measured_by(self) -> str:
        return "room_grounding"

    @property
    def decode_size(self) -> int | None:
        """No picture is read."""
        return None

    def tokenizer(self) -> Tokenizer:
        """The language model's, with the identifiers as tokens where they are such."""
        own = super().words().tokenizer
        if self.prompt.form == "words":
            return own
        changed = Tokenizer.from_spec(own.to_json())
        new = (identifier(number, "tokens") for number in range(self.reading.most))
        changed.inner.add_tokens([AddedToken(word, normalized=False) for word in new])
        return changed

    def words(self) -> LanguageVocabulary:
        return LanguageVocabulary(self.tokenizer(), start=self.start)

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        things, most = read_things(sample, self.reading, self.medium, rng), self.reading.most
        count = len(things.box_M6)
        if not count:
            raise DataError(f"sample '{sample.uid}' has no things", field="objects", expected="one or more")
        expected = {} if self.points else {"object_features": (things.feature_MF, self.tokens.feature_width)}
        if self.tokens.image_width:
            expected["object_image_features"] = (things.image_MF, self.tokens.image_width)
        for name, (feature_MF, width) in expected.items():
            if feature_MF.shape[1] != width:
                raise DataError(
                    f"sample '{sample.uid}' has {feature_MF.shape[1]} features of a thing",
                    field=name,
                    expected=f"{width} of each, or points",
                )
        given = things.point_MKF if self.points else things.features(images=self.tokens.image_width > 0)
        assignment = IdentifierAssignment.draw(count, self.order, rng)
        sequence = np.concatenate([assignment.sequence, np.arange(count, most)]).astype(np.int64)
        return {
            "feature": padded(given, most),
            "box": padded(things.placed_M6, most),
            "colour": padded(things.colour_M3, most),
            "open": np.arange(most) < count,
            "sequence": sequence,
            "assignment": assignment,
        }

    def batch(self, draws: Draws) -> RoomChatBatch:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([draw.media[name] for draw in draws]))

        things = RoomChatBatch(
            feature=stacked("feature"),
            box_BM6=stacked("box"),
            colour_BM3=stacked("colour"),
            open_BM=stacked("open"),
            sequence_BM=stacked("sequence"),
        )
        if self.stage == "objects":
            caption_BMCL, mask_BMCL = self._captions(draws)
            return replace(things, caption_BMCL=caption_BMCL, caption_mask_BMCL=mask_BMCL)
        tasks: Sequence[ChatTask] = self.tasks if self.stage == "instructions" else ("objects", "captions")
        rows, words = [], self.words()
        for draw in draws:
            sample, assignment = draw.sample, draw.media["assignment"]
            objects = room_objects(sample)[: len(assignment.number_of)]
            ids = {thing.id for thing in objects}
            described = [one for one in room_descriptions(sample) if set(one.object_ids) <= ids]
            asked, answer = draw_request(tasks, objects, described, self._questions(sample), assignment, self.prompt, draw.rng)
            rows.append(self.prompt.pieces(assignment, asked, answer, tokens=self.tokens.count, start=words.start_ids))
        laid = lay_out(rows, words, length=self.text_length, names=[draw.sample.uid for draw in draws])
        made = {name: getattr(laid, name) for name in ("id_BL", "slot_BL", "mask_BL", "answer_BL", "places")}
        return replace(things, **made)

    def _questions(self, sample: Sample) -> list[tuple[str, tuple[str, ...]]]:
        return room_questions(sample) if "questions" in self.tasks and "questions" in sample.extras else []

    def _captions(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Captions of each thing, else its class, as token rows without marks."""
        words, most = self.words(), self.reading.most
        length = min(32, self.text_length)
        texts: list[list[list[str]]] = []
        for draw in draws:
            described = room_descriptions(draw.sample)
            things = room_objects(draw.sample)[:most]
            own = [[one.text for one in described if one.object_ids == (thing.id,)] or [thing.label] for thing in things]
            texts.append([one[: self.captions or len(one)] for one in own])
        count = self.captions or max((len(one) for room in texts for one in room), default=1)
        id_BMCL = np.zeros((len(draws), most, count, length), np.int64)
        mask_BMCL = np.zeros(id_BMCL.shape, bool)
        for row, room in enumerate(texts):
            for index, own_texts in enumerate(room):
                for number, text in enumerate(own_texts):
                    ids = words.pieces(text)[:length]
                    id_BMCL[row, index, number, : len(ids)], mask_BMCL[row, index, number, : len(ids)] = ids, True
        return torch.from_numpy(id_BMCL), torch.from_numpy(mask_BMCL)

    def model(self) -> RoomChat:
        language = LanguageModel.from_folder(self.language_path)
        if self.prompt.form == "tokens":
            language.inner.resize_token_embeddings(self.tokenizer().vocab_size, mean_resizing=False)
            language = LanguageModel.adopted(language.inner)
        return RoomChat(language, self.tokens, trained=self.trained, points=self.points)

    def features(self, model: RoomChat, batch: RoomChatBatch) -> RoomChatFeatures:
        features: RoomChatFeatures = model(
            batch.feature,
            batch.box_BM6,
            batch.colour_BM3,
            batch.open_BM,
            batch.sequence_BM,
            batch.layout,
            batch.caption_BMCL,
            batch.caption_mask_BMCL,
        )
        return features

    def losses(self, features: RoomChatFeatures, batch: RoomChatBatch) -> dict[str, Tensor]:
        if features.cosine_BM is not None and features.there_BM is not None:
            there_BM = features.there_BM & batch.open_BM
            distance_BM = (1 - features.cosine_BM).masked_fill(~there_BM, 0)
            return {"objects": distance_BM.sum() / there_BM.sum().clamp_min(1)}
        assert features.nll_B is not None
        assert features.count_B is not None
        return {"answer": features.nll_B.sum() / features.count_B.sum().clamp_min(1)}

    def metrics(self, features: RoomChatFeatures, batch: RoomChatBatch) -> dict[str, Tensor]:
        if features.hit_B is None or features.count_B is None:
            return {}
        return {"token_accuracy": (features.hit_B.sum() / features.count_B.sum().clamp_min(1)).detach()}

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if self.stage == "objects":
            own = Rule(r"^tokens\.(relate|centre)\.", lr_scale=0.0)
        else:
            own = Rule(r"^tokens\.relate\.", lr_scale=self.relation_rate, decay=True if self.relation_decay else None)
        schedule = replace(chosen, warmup_from=0.0, final_lr=self.final_lr, floor="cut")
        return replace(schedule, betas=(0.9, 0.999), eps=1e-8, rules=(own, *chosen.rules))

    def stages(self) -> Sequence[Stage]:
        """Alignment of tokens with captions, naming and describing, instructions."""
        shares = (("objects", self.object_share), ("scenes", self.scene_share))
        early: list[tuple[Literal["objects", "scenes"], float]] = [(name, share) for name, share in shares if share]  # type: ignore[misc]
        if self.stage != "instructions" or not early:
            return ()
        last = 1 - sum(share for _, share in early)
        made = [Stage(name, replace(self, stage=name), share) for name, share in early]
        return (*made, Stage("instructions", replace(self, object_share=0.0, scene_share=0.0), last))

    def deploy(self, model: RoomChat) -> RoomChatModel:
        reading = replace(self.reading, jitter=0.0)
        return RoomChatModel(
            model,
            self.prompt,
            reading,
            self.tokenizer(),
            self.text_length,
            self.slug,
            medium=self.medium,
            max_tokens=self.max_tokens,
            beams=self.beams,
            repetition_penalty=self.repetition_penalty,
        )

    @classmethod
    def tiny(cls) -> Self:
        """A small language model that is tuned, tokens of identifiers in a drawn order, and features learned from points: minutes."""
        return cls(
            language_model="small",
            small_steps=300,
            pieces=400,
            order="ascending",
            trained="all",
            points=True,
            relation_rate=1.0,
            text_length=160,
            max_tokens=24,
            reading=ProposalReading(most=10, inside=32, jitter=0.05),
            tokens=ObjectTokenSettings(
                feature_width=48, attribute_width=24, token_norm=0.0, relation_norm=0.0, token_dropout=0.0
            ),
            prompt=ChatPrompt(form="tokens"),
            batch_size=16,
            steps=400,
            lr=2e-3,
            warmup=20.0,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """v2.0: a frozen language model, "obj01" in order, tokens of norms 200 and 50, the stages one after another, a room a step. The
        command of the release sets a rate of 2e-4 over the 5e-3 of its configuration, beside which the relation layer keeps 1e-5
        (`relation_rate` .05)."""
        prompt = ChatPrompt(system=V2_SYSTEM, answer_start=True, answer_end="\n###")
        return cls(prompt=prompt, batch_size=1, captions=0, relation_decay=True)

    @classmethod
    def chat_scene(cls) -> Self:
        """Chat-Scene: tokens of identifiers, plain projections of given features and of DINOv2's, a tuned language model, one stage. v2.1
        has no image token (`--image-width 0`), a drawn order (`--order shuffled`), and the norm of gradients is cut at 1, here at .01."""
        return cls(
            order="ascending",
            trained="all",
            object_share=0.0,
            scene_share=0.0,
            tokens=ObjectTokenSettings(kind="projection", relation=False, image_width=1024),
            prompt=ChatPrompt(SCENE_SYSTEM, " USER: {} ASSISTANT:", form="tokens"),
            lr=5e-6,
            warmup=0.1 / 3,
            clip_norm=0.01,
            beams=5,
            repetition_penalty=3.0,
        )

    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper", "chat_scene")
