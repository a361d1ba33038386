"""3D scene-graph-guided pre-training: objects of a room are matched with words, phrases and descriptions; masked ones are predicted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.points.boxes_3d import box_iou_3d
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.points.proposals import ProposalReading, padded, placed_boxes
from diptych.data.points.room_language import room_descriptions, room_objects, room_questions
from diptych.data.text.tokenize import Tokenizer
from diptych.models.layers.transformer import l2_normalise
from diptych.models.points.room_graph_model import RoomGraphModel
from diptych.models.points.scene_graph import HEADS, RoomGraphFeatures, RoomGraphNet, RoomGraphSettings
from diptych.models.towers.name_vectors import read_glove
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.rooms.matched_regions import matched_contrast, shared_nll
from diptych.recipes._shared.texts.room_texts import RoomTexts, described_words
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

LEVELS = ("word", "sentence", "scene")
READING, GRAPH = ProposalReading(), RoomGraphSettings()


@dataclass(frozen=True)
class RoomLanguageBatch(TensorBatch):
    """Proposals of rooms, which of them lie on a thing, sentences with what they mean, what is masked, captions and questions; see
    `RoomTexts`."""

    point_BMKF: Rows[Tensor]
    box_BM6: Rows[Tensor]
    open_BM: Rows[Tensor]
    class_BM: Rows[Tensor]
    matched_BM: Rows[Tensor]
    id_BSL: Rows[Tensor]
    mask_BSL: Rows[Tensor]
    target_BSM: Rows[Tensor]
    meant_BSM: Rows[Tensor]
    named_BS: Rows[Tensor]
    phrase_BSPL: Rows[Tensor]
    phrase_BSPM: Rows[Tensor]
    hidden_BM: Rows[Tensor] | None = None
    hidden_BSL: Rows[Tensor] | None = None
    caption_BML: Rows[Tensor] | None = None
    ask_BSL: Rows[Tensor] | None = None
    ask_mask_BSL: Rows[Tensor] | None = None
    answer_BS: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class SceneGraph3D(Recipe[RoomGraphNet, RoomLanguageBatch, RoomGraphFeatures]):
    """3D Scene Graph Guided Vision-Language Pre-training (Liu et al., 2024, arXiv 2411.18666).

    Things of a room (proposals) are nodes with edges to their nearest neighbours; a graph convolution with features of edges, and
    cross-attention with words, mix them. Contrast at three levels: a thing with the words that name it, a thing behind the graph with the
    sentences that mean it, a room with all that is said of it. Several sentences mean one thing and several proposals lie on it: positives
    share the target. Masked words, and the classes of masked things from their positions, are predicted from the other side.

    No code was published. From the paper: VoteNet's proposals, GloVe and a GRU, graph and cross-attention, three levels, both kinds of
    masking, language-to-object classification, heads for grounding, captions and answers. Here proposals are given boxes, jittered in
    training, and no detector (`ProposalReading`); word embeddings are learned. Not verified, and options: weights of the terms, which
    are 1, `temperature`, `mask_words`, `mask_objects`, sizes (`RoomGraphSettings`), that words and sentences are contrasted within a room
    and whole descriptions across rooms, optimiser and schedule.

    pretraining  contrast and masking; False fine-tunes the heads from a pre-trained run (`--init`)
    heads        that are trained: of "grounding", "captions" and "questions"
    levels       of the contrast, of "word", "sentence" and "scene"
    unmatched    proposals that lie on no thing (`reading.matched`) are "ignored" in the contrasts with words and sentences, or "negatives"
    masking      masked words and things are predicted
    mask_words, mask_objects  share of each that is masked
    sentences    of a room and step; asked: questions of a room and step
    soft         IoU from which a proposal shares the target of the grounding head
    temperature  of the contrasts
    answers_most accepted answers that the answer head knows, the most frequent first
    text_length  words of a sentence, marks included
    tokenizer    "data": byte pairs of the data's own texts; pieces: how many
    word_vectors file of GloVe's form (published: 300 dimensions); embeddings of words that it holds whole start from its vectors
    medium       name of the cloud among a sample's media
    reading      of proposals: `ProposalReading`, whose fields are options of their own
    graph        sizes: `RoomGraphSettings`, whose fields are options of their own
    """

    slug = "sg3d_vlp"
    needs: ClassVar[tuple[str, ...]] = ("cloud", "objects", "descriptions")
    cacheable: ClassVar[bool] = False  # batch norms

    pretraining: bool = True
    heads: tuple[str, ...] = HEADS
    levels: tuple[str, ...] = LEVELS
    unmatched: Literal["ignored", "negatives"] = "ignored"
    masking: bool = True
    mask_words: float = 0.15
    mask_objects: float = 0.15
    sentences: int = 8
    asked: int = 4
    soft: float = 0.25
    temperature: float = 0.07
    answers_most: int = 1000
    text_length: int = 32
    tokenizer: Literal["data"] = "data"
    pieces: int = 4096
    word_vectors: str = ""
    medium: str = "cloud"
    reading: ProposalReading = READING
    graph: RoomGraphSettings = GRAPH
    vocabulary: str = field(default="", metadata={"prepared": True})
    classes: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    answers: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    batch_size: int = 8
    epochs: float = 100.0
    lr: float = 1e-3
    warmup: float = 0.02
    weight_decay: float = 1e-5
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.unmatched not in ("ignored", "negatives"):
            raise ConfigError(f"unmatched is {self.unmatched!r} (expected ignored | negatives)")
        if not set(self.levels) <= set(LEVELS) or not set(self.heads) <= set(HEADS) or not (self.heads or self.pretraining):
            raise ConfigError(
                f"levels {list(self.levels)}, heads {list(self.heads)} (expected some of {', '.join(LEVELS)}, and of "
                f"{', '.join(HEADS)}, or pre-training)"
            )
        if (
            not 0 <= self.mask_words < 1
            or not 0 <= self.mask_objects < 1
            or min(self.sentences, self.asked, self.answers_most) < 1
        ):
            raise ConfigError(
                f"mask_words {self.mask_words}, mask_objects {self.mask_objects}, sentences {self.sentences}, asked {self.asked} "
                "(expected shares below 1, and 1 or more)"
            )

    @property
    def measured_by(self) -> str:
        return "room_grounding" if "grounding" in self.heads or not self.heads else f"room_{self.heads[0]}"

    @property
    def decode_size(self) -> int | None:
        """No picture is read."""
        return None

    def prepare(self, data: Dataset) -> Self:
        """Learns vocabulary, classes and accepted answers of the data, where they are not there yet."""
        if self.vocabulary:
            return self
        samples = [data[row] for row in range(len(data))]
        texts = [described.text for sample in samples for described in room_descriptions(sample)]
        pairs = [pair for sample in samples for pair in room_questions(sample)] if "questions" in self.heads else []
        counts = Counter(answer for _, accepted in pairs for answer in accepted)
        answers = tuple(answer for answer, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: self.answers_most])
        return replace(
            self,
            vocabulary=learned_vocabulary([*texts, *(question for question, _ in pairs)], self.pieces),
            classes=tuple(sorted({thing.label for sample in samples for thing in room_objects(sample)})),
            answers=answers or ("yes", "no"),
        )

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        return tokenizer_of(self.tokenizer, self.vocabulary)

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.medium not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no cloud", field=self.medium, expected="KEY.ply, KEY.cloud.npy, ...")
        cloud_P6, objects = sample.media[self.medium].decode(), room_objects(sample)
        box_M6 = self.reading.boxes(sample, rng)
        match_M = self.reading.matches(box_M6, objects)
        number_of = {name: number for number, name in enumerate(self.classes)}
        class_M = np.array([number_of.get(objects[k].label, -100) if k >= 0 else -100 for k in match_M], np.int64)
        iou_MN = box_iou_3d(box_M6, [thing.box for thing in objects])
        most = self.reading.most
        return {
            "points": padded(self.reading.points(cloud_P6, box_M6, rng), most),
            "boxes": padded(placed_boxes(box_M6, cloud_P6), most),
            "open": np.arange(most) < len(box_M6),
            "classes": padded(class_M, most, -100),
            "matched": padded(match_M >= 0, most),
            "ids": np.array([objects[k].id if k >= 0 else -1 for k in match_M], np.int64),
            "soft": {thing.id: np.where(iou_MN[:, n] >= self.soft, iou_MN[:, n], 0) for n, thing in enumerate(objects)},
            "labels": {thing.id: number_of.get(thing.label, -100) for thing in objects},
        }

    def batch(self, draws: Draws) -> RoomLanguageBatch:
        words = self.words()
        rooms = [
            described_words(draw, words, self.text_length, sentences=self.sentences, most=self.reading.most) for draw in draws
        ]

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([draw.media[name] for draw in draws]))

        def joined(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(room, name) for room in rooms]))

        parts = {f.name: joined(f.name) for f in RoomTexts.fields()}
        more: dict[str, Tensor] = {}
        if self.pretraining and self.masking:
            rng = [draw.rng for draw in draws]
            chance_BM = np.stack([r.random(self.reading.most) for r in rng])
            more["hidden_BM"] = torch.from_numpy(chance_BM < self.mask_objects) & stacked("open")
            chance_BSL = np.stack([r.random((self.sentences, self.text_length)) for r in rng])
            inner = torch.from_numpy(~np.isin(parts["id_SL"].numpy(), [*words.prefix, *words.suffix]))
            more["hidden_BSL"] = torch.from_numpy(chance_BSL < self.mask_words) & parts["mask_SL"] & inner
        if "captions" in self.heads:
            more["caption_BML"] = parts["caption_ML"]
        if "questions" in self.heads:
            more |= self._questions(draws, words)
        return RoomLanguageBatch(
            stacked("points"),
            stacked("boxes"),
            stacked("open"),
            stacked("classes"),
            stacked("matched"),
            parts["id_SL"],
            parts["mask_SL"],
            parts["target_SM"],
            parts["meant_SM"],
            parts["named_S"],
            parts["phrase_SPL"],
            parts["phrase_SPM"],
            **more,
        )

    def _questions(self, draws: Draws, words: Tokenizer) -> dict[str, Tensor]:
        """Questions of each room with the number of an accepted answer; -100 where it has none that is known."""
        number_of = {answer: number for number, answer in enumerate(self.answers)}
        texts, numbers = [], []
        for draw in draws:
            pairs = room_questions(draw.sample)
            chosen: list[int] = draw.rng.permutation(len(pairs))[: self.asked].tolist() if pairs else []
            rows = [pairs[k] for k in chosen] + [("", ())] * (self.asked - len(chosen))
            texts += [question for question, _ in rows]
            numbers.append([next((number_of[a] for a in accepted if a in number_of), -100) for _, accepted in rows])
        encoded = words.encode(texts, self.text_length)
        shape = (len(draws), self.asked)
        mask_BSL = torch.from_numpy(encoded.mask_BL).unflatten(0, shape)
        answer_BS = torch.tensor(numbers)
        return {"ask_BSL": torch.from_numpy(encoded.ids_BL).unflatten(0, shape), "ask_mask_BSL": mask_BSL, "answer_BS": answer_BS}

    def model(self) -> RoomGraphNet:
        if not self.classes:
            raise ConfigError("classes and words are learned from the data: call prepare(data) first")
        words = self.words()
        model = RoomGraphNet(
            self.graph,
            words=words.vocab_size,
            classes=len(self.classes),
            answers=len(self.answers),
            heads=self.heads,
            pretraining=self.pretraining,
            temperature=self.temperature,
        )
        if self.word_vectors:
            start_embeddings(model.embed, words, self.word_vectors)
        return model

    def features(self, model: RoomGraphNet, batch: RoomLanguageBatch) -> RoomGraphFeatures:
        features: RoomGraphFeatures = model(
            batch.point_BMKF,
            batch.box_BM6,
            batch.open_BM,
            batch.id_BSL,
            batch.mask_BSL,
            batch.hidden_BM,
            batch.hidden_BSL,
            None if batch.caption_BML is None else batch.caption_BML[..., :-1],
            batch.ask_BSL,
            batch.ask_mask_BSL,
        )
        return features

    def losses(self, features: RoomGraphFeatures, batch: RoomLanguageBatch) -> dict[str, Tensor]:
        f = features
        losses = {"classes": labelled_nll(f.class_BMC, batch.class_BM), "named": labelled_nll(f.named_BSC, batch.named_BS)}
        if self.pretraining:
            losses |= self.contrasts(f, batch)
        if f.word_logit_BSLV is not None and f.masked_class_BMC is not None:
            assert batch.hidden_BM is not None
            assert batch.hidden_BSL is not None
            word_BSL = batch.id_BSL.masked_fill(~batch.hidden_BSL, -1)
            losses["masked_words"] = masked_words(f.word_logit_BSLV.flatten(0, 1), word_BSL.flatten(0, 1))
            losses["masked_objects"] = labelled_nll(f.masked_class_BMC, batch.class_BM.masked_fill(~batch.hidden_BM, -100))
        if f.choice_BSM is not None:
            losses["grounding"] = shared_nll(f.choice_BSM.flatten(0, 1), batch.target_BSM.flatten(0, 1))
        if f.caption_BMLV is not None:
            assert batch.caption_BML is not None
            losses["captions"] = labelled_nll(
                f.caption_BMLV, batch.caption_BML[..., 1:].masked_fill(batch.caption_BML[..., 1:] < 0, -100)
            )
        if f.answer_BSA is not None:
            assert batch.answer_BS is not None
            losses["questions"] = labelled_nll(f.answer_BSA, batch.answer_BS)
        return losses

    def contrasts(self, features: RoomGraphFeatures, batch: RoomLanguageBatch) -> dict[str, Tensor]:
        """Terms of the levels: "word", "sentence" and "scene"."""
        f, losses = features, dict[str, Tensor]()
        assert f.object_BMD is not None
        assert f.node_BMD is not None
        assert f.word_BSLD is not None
        assert f.sentence_BSD is not None
        open_BM = batch.open_BM & batch.matched_BM if self.unmatched == "ignored" else batch.open_BM
        if "word" in self.levels:
            weight_BSPL = batch.phrase_BSPL.to(f.word_BSLD)
            phrase_BSPD = weight_BSPL @ f.word_BSLD / weight_BSPL.sum(-1, keepdim=True).clamp_min(1)
            phrase_BND = l2_normalise(phrase_BSPD.flatten(1, 2))
            losses["word"] = within_rooms(phrase_BND, f.object_BMD, batch.phrase_BSPM.flatten(1, 2), open_BM, f.scale)
        if "sentence" in self.levels:
            losses["sentence"] = within_rooms(f.sentence_BSD, f.node_BMD, batch.meant_BSM, open_BM, f.scale)
        if "scene" in self.levels:
            assert f.room_BD is not None
            assert f.text_BD is not None
            losses["scene"], _ = info_nce(f.room_BD, f.text_BD, scale=f.scale)
        return losses

    def deploy(self, model: RoomGraphNet) -> RoomGraphModel:
        reading = replace(self.reading, jitter=0.0)
        return RoomGraphModel(
            model, self.classes, self.answers, reading, self.words(), self.text_length, self.slug, medium=self.medium
        )

    @classmethod
    def tiny(cls) -> Self:
        """A small network with all heads on rendered rooms: minutes on two cores."""
        return cls(
            sentences=6,
            text_length=24,
            pieces=400,
            reading=ProposalReading(most=10, inside=32),
            graph=RoomGraphSettings(
                graph_width=64, word_width=48, near=4, graph_layers=1, cross_layers=1, cross_heads=4, joint_width=48
            ),
            batch_size=8,
            steps=300,
            lr=2e-3,
            warmup=20.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """256 dimensions and 300 of words; everything that the paper does not say is as in the fields."""
        return cls()


def start_embeddings(embed: nn.Embedding, words: Tokenizer, file: str) -> None:
    """Set the embeddings of tokens that are words in a file of GloVe's form to their vectors. Raises DataError if it has none of them."""
    tokens: dict[str, list[int]] = defaultdict(list)
    for row in range(embed.num_embeddings):
        tokens[str(words.inner.id_to_token(row)).strip("Ġ")].append(row)
    vectors = read_glove(file, tokens, embed.embedding_dim)
    if not vectors:
        raise DataError("has no word of the data", file=file, expected='lines "word number number ..."')
    with torch.no_grad():
        for word, vector_E in vectors.items():
            embed.weight[tokens[word]] = torch.from_numpy(vector_E).to(embed.weight)


def within_rooms(row_BND: Tensor, object_BMD: Tensor, positive_BNM: Tensor, open_BM: Tensor, scale: Tensor) -> Tensor:
    """Multi-positive contrast of phrases or sentences with the proposals of their own rooms."""
    rooms, rows, proposals = positive_BNM.shape
    same_BB = torch.eye(rooms, dtype=torch.bool, device=row_BND.device)
    open_BNBM = (same_BB[:, None, :, None] & open_BM[None, None]).expand(-1, rows, -1, -1)
    positive_BNBM = positive_BNM[:, :, None] & open_BNBM
    cells = (rooms * rows, rooms * proposals)
    return matched_contrast(
        row_BND.flatten(0, 1), object_BMD.flatten(0, 1), positive_BNBM.reshape(cells), open_BNBM.reshape(cells), scale=scale
    )


def labelled_nll(logit: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over labels that are not -100; 0 without any."""
    flat = torch.nn.functional.cross_entropy(logit.flatten(0, -2), label.flatten(), ignore_index=-100, reduction="sum")
    return flat / (label != -100).sum().clamp_min(1)
