"""SGL: predicts a symbolic goal from a picture and an instruction; a planner finds the actions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.media.transforms import Preprocess
from diptych.data.planning.goals import UNKNOWN, Goal, goal_of, named_goal_of
from diptych.data.text.tokenize import Tokenizer
from diptych.models.reasoning.goal_network import (
    Fusion,
    GoalBatch,
    GoalFeatures,
    GoalForm,
    GoalNetwork,
    GoalTraining,
    Inputs,
    Phase,
    SceneGraphHeads,
)
from diptych.models.reasoning.goal_predictor import GoalPredictorModel, sentence_tokens
from diptych.models.towers.towers import image_tower, pools_last, text_tower
from diptych.objectives.symbolic_goals import box_losses, goal_cross_entropy, graded_similarity_loss, similarity_grades
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

MEAN, STD = (0.249, 0.249, 0.249), (0.432, 0.433, 0.432)
BLANK = "<unk>"
CATEGORIES = (
    *("apple", "book", "bottle", "bowl", "bread", "cellphone", "cup", "egg", "fork", "kettle", "knife", "ladle", "lettuce"),
    *("microwave", "mug", "pan", "pen", "pencil", "pepper", "plate", "pot", "potato", "salt", "sink", "soap", "spatula"),
    *("sponge", "spoon", "tissue", "toaster", "tomato", "wine"),
)
"""The 32 categories of the published data."""


@dataclass(frozen=True, kw_only=True)
class SGL(Recipe[GoalTraining, GoalBatch, GoalFeatures]):
    """Symbolic goal learning (Xu, Chen, Lin & Vela, 2022, arXiv 2202.12912).

    A residual network reads the picture, BERT the sentence; both vectors are concatenated, and three classifiers give predicate, subject
    and object of the goal, "unknown" for what is not to be seen. `plan_for` and `diptych run instructions` turn it into actions. The
    baselines are one input alone (`inputs` "language", "picture").

    Two phases come first (`pretrain`): the image encoder learns to name boxes, what they can do and how they go together (scene graphs);
    the text encoder learns by how much sentences mean the same: 5.0 for the same subject and object, 3.3 for one of them, 1.7 for the
    same task, as cosines.

    We depart: scene graphs are learned by linear heads over pooled boxes where the authors train a detector and a transformer over boxes
    (RTNet) on top; graded pairs are those of a batch, where they list 90,000; padding is not read like words (`read_padding` is the
    released form). Encoders begin with the weights that `text_tower` names, or fresh; the authors' begin with ImageNet's and BERT's.
    Of the compared fusions, co-attention, top-down attention and region features are not here.

    image_tower, text_tower   encoders by name (published: ResNet-34 and BERT-base; hf:FOLDER has weights)
    image_size   pixels of a side; pictures are squashed to it
    text_pooling of the text encoder; published: BERT's pooling layer
    text_length  tokens, the others are cut
    tokenizer    "clip", "data" (byte pairs learned from the sentences), or a path to a tokenizer.json
    pieces       vocabulary size when it is learned
    fusion       "concat", "add" or "multiply"; the last two take the sentence to the width of the picture first
    inputs       "both", "language" or "picture"
    hidden, layers, dropout   of the classifiers
    pretrain     phases that come first: "both", "scene graphs", "sentences" or "none"
    graph_share, sentence_share   of the run's steps, for these phases
    graph_lr, sentence_lr     learning rates of these phases
    warmup_from  share of the learning rate at the first step; None is one over the steps of the warm-up
    read_padding sentences are padded to their full length and padding is read, as released
    phase        of a stage's own recipe: what it learns
    predicates, objects   classes of the goal; the published ones where they hold all names of the data
    categories, abilities, interactions   names of boxes, of affordances with attributes, and of relations, of the data
    vocabulary   learned pieces
    """

    slug = "sgl"
    needs = ("image", "texts", "goal")
    cacheable = False  # batch norm, and pairs of the batch's sentences

    image_tower: str = "timm:resnet34"
    image_size: int = 512
    text_tower: str = "bert_b"
    text_pooling: Literal["pooler", "mean", "cls"] = "pooler"
    text_length: int = 30
    tokenizer: str = "clip"
    pieces: int = 512
    fusion: Fusion = "concat"
    inputs: Inputs = "both"
    hidden: int = 256
    layers: int = 2
    dropout: float = 0.5
    pretrain: Literal["both", "scene graphs", "sentences", "none"] = "both"
    graph_share: float = 0.2431
    sentence_share: float = 0.1125
    graph_lr: float = 1e-3
    sentence_lr: float = 2e-5
    read_padding: bool = False
    phase: Phase = "goals"

    batch_size: int = 4
    steps: int = 200_000
    lr: float = 5e-5
    warmup: float = 0.05
    warmup_from: float | None = 0.0
    weight_decay: float = 0.0

    predicates: tuple[str, ...] = field(default=(BLANK, "clean", "contain", "cook", "cut"), metadata={"prepared": True})
    objects: tuple[str, ...] = field(default=(BLANK, *CATEGORIES, "hand", UNKNOWN), metadata={"prepared": True})
    categories: tuple[str, ...] = field(default=CATEGORIES, metadata={"prepared": True})
    abilities: tuple[str, ...] = field(
        default=("clean", "contain", "cook", "cut", "cooking", "cutting", "edible", "graspable"), metadata={"prepared": True}
    )
    interactions: tuple[str, ...] = field(default=("clean", "contain", "cook", "cut"), metadata={"prepared": True})
    vocabulary: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        shares = {"graph_share": self.graph_share, "sentence_share": self.sentence_share}
        if any(value < 0 for value in shares.values()) or sum(shares.values()) >= 1:
            raise ConfigError(
                f"graph_share is {self.graph_share}, sentence_share {self.sentence_share} (expected 0 or more, below 1 in all)"
            )
        for name, allowed in (("fusion", ("concat", "add", "multiply")), ("inputs", ("both", "language", "picture"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r} (expected {' | '.join(allowed)})")

    @property
    def measured_by(self) -> str:
        return "goals"

    @property
    def decode_size(self) -> int | None:
        return 0 if self._learns_graphs else self.image_size

    @property
    def _learns_graphs(self) -> bool:
        return self.pretrain in ("both", "scene graphs") and self.inputs != "language" and self.graph_share > 0

    @property
    def _learns_sentences(self) -> bool:
        return self.pretrain in ("both", "sentences") and self.inputs != "picture" and self.sentence_share > 0

    def prepare(self, data: Dataset) -> Self:
        """Names of the data beside the published ones, and the vocabulary of its sentences. Raises DataError where scene graphs are to be
        learned and no sample has boxes."""
        samples = [data[row] for row in range(len(data))]
        goals = [goal for sample in samples for goal in (goal_of(sample), named_goal_of(sample))]
        regions = [region for sample in samples for region in sample.regions]
        if self._learns_graphs and not regions:
            raise DataError(f"'{data.name}' has no boxes", field="regions", expected="labelled boxes, or --pretrain sentences")
        made = replace(
            self,
            predicates=_with(self.predicates, (goal.predicate for goal in goals)),
            objects=_with(self.objects, (name for goal in goals for name in (goal.subject, goal.object) if name)),
            categories=_with(self.categories, (region.label for region in regions)),
            abilities=_with(self.abilities, (word for region in regions for word in region.attributes)),
            interactions=_with(self.interactions, (relation.predicate for sample in samples for relation in sample.relations)),
        )
        if made.tokenizer == "data" and not made.vocabulary:
            made = replace(made, vocabulary=learned_vocabulary([_sentence(sample) for sample in samples], made.pieces))
        return made

    def words(self) -> Tokenizer:
        return tokenizer_of(self.tokenizer, self.vocabulary)

    def preprocess(self) -> Preprocess:
        return Preprocess(self.image_size, MEAN, STD, resize="squash", interpolation="bilinear")

    def stages(self) -> Sequence[Stage]:
        """Scene graphs, sentences, goals; one after the other."""
        stages, left = [], 1.0
        if self._learns_graphs:
            stages.append(
                Stage(
                    "scene graphs", replace(self, phase="scene graphs", lr=self.graph_lr), share=self.graph_share, keep=_has_boxes
                )
            )
            left -= self.graph_share
        if self._learns_sentences:
            stages.append(Stage("sentences", replace(self, phase="sentences", lr=self.sentence_lr), share=self.sentence_share))
            left -= self.sentence_share
        return [*stages, Stage("goals", self, share=left)] if stages else ()

    def model(self) -> GoalTraining:
        image = None if self.inputs == "language" else image_tower(self.image_tower, image_size=self.image_size)
        form = GoalForm(
            predicates=self.predicates,
            objects=self.objects,
            fusion=self.fusion,
            inputs=self.inputs,
            hidden=self.hidden,
            layers=self.layers,
            dropout=self.dropout,
        )
        graphs = None
        if self.phase == "scene graphs" and image is not None:
            sizes = {"categories": len(self.categories), "abilities": len(self.abilities), "relations": len(self.interactions)}
            graphs = SceneGraphHeads(image.token_width, self.image_size, **sizes)
        return GoalTraining(GoalNetwork(image, self._text_tower(), form), graphs, self.phase)

    def _text_tower(self) -> Any:
        if self.inputs == "picture":
            return None
        if self.text_tower.startswith("hf:"):
            return text_tower(self.text_tower, length=self.text_length)
        words = self.words()
        options: dict[str, Any] = {"vocab_size": words.vocab_size, "length": self.text_length}
        if self.text_tower.startswith("bert"):
            options["pooling"] = self.text_pooling
        else:
            options["eot_id"] = words.eot_id
        if pools_last(self.text_tower):
            options["pad_id"] = words.pad_id
        return text_tower(self.text_tower, **options)

    def batch(self, draws: Draws) -> GoalBatch:
        samples = [draw.sample for draw in draws]
        pictures = [draw.image_HWC for draw in draws if draw.image_HWC is not None]
        if len(pictures) < len(samples):
            raise DataError("a sample has no picture", field="image", expected="one in every sample")
        text_BL, mask_BL, truncated = sentence_tokens(
            self.words(), [_sentence(sample) for sample in samples], self.text_length, padded=self.read_padding
        )
        scales = [(self.image_size / picture.shape[1], self.image_size / picture.shape[0]) for picture in pictures]
        return GoalBatch(
            image_BCHW=self.preprocess()(pictures),
            text_BL=text_BL,
            text_mask_BL=mask_BL,
            target_B3=torch.tensor([self._classes(goal_of(sample)) for sample in samples]),
            named_B3=torch.tensor([self._classes(named_goal_of(sample)) for sample in samples]),
            truncated=truncated,
            **(self._boxes(samples, scales) if self.phase == "scene graphs" else {}),
        )

    def _classes(self, goal: Goal) -> list[int]:
        names = ((goal.predicate, self.predicates), (goal.subject, self.objects), (goal.object, self.objects))
        return [_number(name, vocabulary) if name else -1 for name, vocabulary in names]

    def _boxes(self, samples: Sequence[Sample], scales: Sequence[tuple[float, float]]) -> dict[str, Tensor]:
        """Boxes in pixels of the input, and their classes, padded to the most boxes of a sample."""
        count, rows = len(samples), max(1, *(len(sample.regions) for sample in samples))
        box_BR4, able_BRA = torch.zeros(count, rows, 4), torch.zeros(count, rows, len(self.abilities), dtype=torch.bool)
        category_BR = torch.full((count, rows), -1)
        relation_BRR = torch.full((count, rows, rows), -1)
        for row, (sample, (across, down)) in enumerate(zip(samples, scales, strict=True)):
            here = len(sample.regions)
            relation_BRR[row, :here, :here] = 0
            relation_BRR[row].fill_diagonal_(-1)
            for number, region in enumerate(sample.regions):
                x0, y0, x1, y1 = region.box
                box_BR4[row, number] = torch.tensor([x0 * across, y0 * down, x1 * across, y1 * down])
                category_BR[row, number] = _number(region.label, self.categories)
                able_BRA[row, number, [_number(word, self.abilities) for word in region.attributes]] = True
            for relation in sample.relations:
                if relation.subject != relation.object:
                    relation_BRR[row, relation.subject, relation.object] = 1 + _number(relation.predicate, self.interactions)
        return {"box_BR4": box_BR4, "category_BR": category_BR, "able_BRA": able_BRA, "relation_BRR": relation_BRR}

    def features(self, model: GoalTraining, batch: GoalBatch) -> GoalFeatures:
        features: GoalFeatures = model(batch)
        return features

    def losses(self, features: GoalFeatures, batch: GoalBatch) -> dict[str, Tensor]:
        if features.sentence_BD is not None and batch.named_B3 is not None:
            return {"sentences": graded_similarity_loss(features.sentence_BD, similarity_grades(batch.named_B3))}
        if features.category_BRK is not None:
            logits = (features.category_BRK, features.ability_BRA, features.relation_BRRP)
            targets = (batch.category_BR, batch.able_BRA, batch.relation_BRR)
            return box_losses(*logits, *targets)  # type: ignore[arg-type]
        return {"goal": goal_cross_entropy(*_parts(features), batch.target_B3)}

    def metrics(self, features: GoalFeatures, batch: GoalBatch) -> dict[str, Tensor]:
        """Share of goals that are right in all three parts."""
        if features.predicate_BK is None:
            return {}
        right_B3 = torch.stack([part_BK.argmax(1) for part_BK in _parts(features)], 1) == batch.target_B3
        return {"exact": right_B3.all(1).float().mean()}

    def optimiser(self) -> Optimiser:
        """AdamW; cosine decay behind a linear rise. Each phase leaves the other phases' parts as they are."""
        frozen = {
            "scene graphs": (r"^goals\.(?!image\.)",),
            "sentences": (r"^goals\.(?!text\.)", r"\.pooler\."),
            "goals": (),
        }[self.phase]
        rules = tuple(Rule(pattern, lr_scale=0.0) for pattern in frozen)
        return replace(super().optimiser(), betas=(0.9, 0.98), eps=1e-9, warmup_from=self.warmup_from, rules=rules)

    def deploy(self, model: GoalTraining) -> GoalPredictorModel:
        return GoalPredictorModel(
            model.goals, self.preprocess(), self.words(), self.text_length, self.slug, padded=self.read_padding
        )

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """Pictures of 48 pixels through a small convolutional network: a minute on two cores."""
        return cls(
            image_tower="convnet_micro",
            image_size=48,
            text_tower="text_micro",
            text_length=20,
            tokenizer="data",
            hidden=128,
            dropout=0.1,
            batch_size=64,
            steps=900,
            graph_share=0.3,
            sentence_share=0.1,
            lr=2e-3,
            graph_lr=2e-3,
            sentence_lr=1e-3,
            warmup_from=None,
        )

    @classmethod
    def paper(cls) -> Self:
        """128,880 steps of goals and 22,500 of sentences, as published; the steps of scene graphs (50 epochs) are ours."""
        return cls()


def _parts(features: GoalFeatures) -> tuple[Tensor, Tensor, Tensor]:
    assert features.predicate_BK is not None
    assert features.subject_BK is not None
    assert features.object_BK is not None
    return features.predicate_BK, features.subject_BK, features.object_BK


def _with(vocabulary: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
    """Known names, then further ones in order."""
    return (*vocabulary, *sorted(set(names) - set(vocabulary)))


def _number(name: str, vocabulary: tuple[str, ...]) -> int:
    if name not in vocabulary:
        raise DataError(f"'{name}' is not one of the names of training", field="goal", expected=", ".join(vocabulary))
    return vocabulary.index(name)


def _sentence(sample: Sample) -> str:
    texts = sample.positives()
    if not texts:
        raise DataError(f"sample '{sample.uid}' has no sentence", field="texts", expected="an instruction or an intent")
    return texts[0].string


def _has_boxes(sample: Sample) -> bool:
    return bool(sample.regions)
