"""KEEP: a disease ontology pre-trains the text encoder, groups pairs, writes captions and excludes false negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Order, Rule, Run, Stage
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import PairBatch, pair_batch
from diptych.data.load.order import GroupedOrder
from diptych.data.media.native_crop import native_crop
from diptych.data.ontologies.captions import DISEASE_ONTOLOGY_TOPS, HypernymCaptions
from diptych.data.ontologies.ontology import Ontology
from diptych.data.text.captions.variants import UNIFORM
from diptych.data.text.prompts.prompt_bank import PATHOLOGY
from diptych.data.text.tokens.word_dropout import drop_words
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.text_encoder import copy_text_weights_
from diptych.models.towers.headed import headed
from diptych.models.towers.outputs import PairFeatures
from diptych.objectives.gather import gather_rows
from diptych.objectives.pairs.block_metric import Negative, Positive, block_metric_pairs
from diptych.recipes._shared.pairs import EncoderRecipe, PairRecipe, strings_of
from diptych.recipes._shared.presets import SMALL
from diptych.recipes._shared.texts.knowledge_texts import Drawn, KnowledgeTexts, headed_text
from diptych.recipes._shared.texts.ontologies import attributes, ontology_at, ontology_from_json, ontology_to_json
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ConceptBatch(PairBatch):
    """Pairs in groups.

    concept_B   int64: the place of the group's concept in the ontology, -1 for a label that is no concept
    template_B  int64: which of the bank's templates the ontology's text was written by, -1 for a caption
    """

    concept_B: Rows[Tensor] = field(kw_only=True)
    template_B: Rows[Tensor] = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class KEEP(EncoderRecipe[DualEncoder, ConceptBatch, PairFeatures]):
    """KEEP: A Knowledge-enhanced Vision-language Foundation Model for Pathology (Zhou et al., 2024, arXiv 2412.13126). Baseline: `clip`.

    First the text encoder learns the names, definitions and chains of an ontology's concepts by a metric loss (AdaSP, as in the
    authors' earlier KEP). Then images and texts are aligned in groups of near duplicates: `members` pairs a group, each an image and a
    text of it, by the block metric loss between images and texts, whose positive is the least hard and whose negatives are all pairs of
    other groups, save those whose concept lies above or below. A text loses words half of the time; where the group has a concept, half of
    the texts are written by the ontology instead.

    Data have a group a row, and in the extra `concept` an id of the ontology or several, or a label that is no concept ("unknown"; "normal"
    has names of its own). A .json file of the published form is read as it is.

    A group's concept for the mask is drawn anew at each step among its concepts; the release takes the first instance's. The published
    code has a hidden layer behind BERT's pooler while it trains and none in the released model: `text_head` is that layer.

    knowledge     the ontology: an .obo or .json file, or "world:tissue"
    concept       the extra that holds a sample's concepts
    members       pairs a group in a batch
    images        "anew": each pair's image is drawn among those of its group, with repeats, as released; "in turn": a group goes through
                  its images before one comes again
    knowledge_share  of the steps, for the first phase; 0 leaves it out. With `steps` 0 it follows from `knowledge_epochs`, passes over all
                  that the ontology says, and from `epochs`, passes over the groups
    knowledge_...   batch, instances a concept, rate, warm-up, temperature, betas and epsilon of the first phase, and whether its concepts
                  are drawn by "text", as released, or by "concept" (`KnowledgeTexts`)
    frozen        share of the second phase in which both towers stay as they are and only what lies behind them is trained (published:
                  the first of ten epochs); the schedule goes on over both. A text's hidden layer stays, too, where the first phase
                  taught it
    positive, negative  the forms of `block_metric`; published: "least_hard" and "hard"
    related       pairs of a concept with one above or below it: "floor" counts them as of cosine -1 (published), "drop" leaves them out,
                  "negative" takes them for negatives like any other
    written       probability that the ontology writes the text of a pair whose group has a concept
    chains        probability that it writes the whole chain of names; else the name alone
    wordings      templates that the ontology's texts are drawn from: "all" 22, as published, which evaluation takes, too; or "training",
                  which leaves a quarter to the slide tasks' `templates pathology/held_out`
    stop          concepts at which chains end; published: eight general classes of the Disease Ontology
    dropped       share of the words that a text loses, and `dropping` how often; `dropping_again` draws words with replacement, as
                  released, so that fewer go
    cut           "native": a crop that is not resized, as released; "resized": a random crop of `crop` of the area
    scale         start of the learned factor, 1 / 0.04
    image_head    the hidden layer behind the image tower; False projects it as `clip` does
    text_head     the same behind the text tower
    layer_scale   of a timm: image tower, None for one without
    """

    slug = "keep"
    no_prefixes: ClassVar[str] = "its loss compares whole vectors of groups"

    knowledge: str = ""
    concept: str = "concept"
    members: int = 4
    images: Literal["anew", "in turn"] = "anew"
    knowledge_share: float = 0.0
    knowledge_epochs: float = 500.0
    knowledge_batch: int = 256
    knowledge_members: int = 8
    knowledge_drawn: Drawn = "text"
    knowledge_lr: float = 3e-5
    knowledge_warmup: float = 1000.0
    knowledge_temperature: float = 0.04
    knowledge_betas: tuple[float, float] = (0.9, 0.999)
    knowledge_eps: float = 1e-8
    frozen: float = 0.1
    positive: Positive = "least_hard"
    negative: Negative = "hard"
    related: Literal["floor", "drop", "negative"] = "floor"
    written: float = 0.5
    chains: float = 0.5
    wordings: Literal["all", "training"] = "all"
    stop: tuple[str, ...] = ()
    dropped: float = 0.4
    dropping: float = 0.5
    dropping_again: bool = True
    cut: Literal["native", "resized"] = "native"
    scale: float = 25.0
    image_head: bool = True
    text_head: bool = False
    layer_scale: float | None = None
    ontology: str = field(default="", metadata={"prepared": True})
    towers_still: bool = field(default=False, metadata={"prepared": True})
    schedule_part: tuple[float, float] = field(default=(0.0, 1.0), metadata={"prepared": True})

    image_tower: str = "timm:vit_large_patch16_224"
    text_tower: str = "bert_b"
    text_pooling: Literal["eot", "mean", "last", "cls", "pooler"] | None = "pooler"
    width: int = 768
    text_length: int = 256
    batch_size: int = 128
    epochs: float = 10.0
    lr: float = 1e-5
    warmup: float = 0.1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("frozen", "written", "chains", "dropped", "dropping", "knowledge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected a share between 0 and 1)")
        if self.related not in ("floor", "drop", "negative") or self.cut not in ("native", "resized"):
            raise ConfigError(
                f"related is {self.related!r}, cut {self.cut!r} (expected floor | drop | negative, and native | resized)"
            )
        if self.images not in ("anew", "in turn") or self.knowledge_drawn not in ("text", "concept"):
            raise ConfigError(
                f"images is {self.images!r}, knowledge_drawn {self.knowledge_drawn!r} (expected anew | in turn, text | concept)"
            )
        if self.members < 1 or self.batch_size % self.members or self.knowledge_batch % self.knowledge_members:
            raise ConfigError(
                f"{self.members} members in a batch of {self.batch_size}, {self.knowledge_members} in {self.knowledge_batch} "
                "(expected whole groups in a batch)"
            )
        if self.knowledge_share == 1:
            raise ConfigError("knowledge_share is 1 (expected less: no step is left for the pairs)")

    def prepare(self, data: Dataset) -> Self:
        """Reads the ontology, of which it keeps the concepts that the data name and all above them; counts the epochs in groups; learns the
        vocabulary from captions and names, where it is the data's own."""
        prepared = self
        if not prepared.ontology:
            whole = ontology_at(self.knowledge)
            if not (self.knowledge_share if self.steps else self.knowledge_epochs):  # else the first phase learns all of it
                whole = whole.closed(
                    sorted({label for row in range(len(data)) for label in self.labels(data[row]) if label in whole})
                )
            prepared = replace(prepared, ontology=ontology_to_json(whole))
        if not prepared.steps:
            attribute_count = sum(1 for _ in attributes(prepared.tree, self.stop))
            first = math.ceil(self.knowledge_epochs * attribute_count / self.knowledge_batch)
            total = first + max(1, math.ceil(self.epochs * len({*data.groups}) * self.members / self.batch_size))
            prepared = replace(prepared, steps=total, knowledge_share=first / total)
        if prepared.tokenizer == "data" and not prepared.vocabulary:
            captions = [*strings_of(data, self.texts_of, language=self.language)]
            names = [text.string for sample in attributes(prepared.tree) for text in sample.texts]
            prepared = replace(
                prepared, vocabulary=learned_vocabulary([*captions, *names, *prepared.captions.bank.templates], self.pieces)
            )
        return prepared

    @property
    def tree(self) -> Ontology:
        """The ontology of a prepared recipe."""
        if not self.ontology:
            raise ConfigError("the ontology is read when the recipe is prepared: call prepare(data) first")
        return ontology_from_json(self.ontology)

    @property
    def captions(self) -> HypernymCaptions:
        return HypernymCaptions(self.tree, bank=PATHOLOGY.part(self.wordings), stop=self.stop, chains=self.chains)

    def labels(self, sample: Sample) -> tuple[str, ...]:
        """The concepts of a sample; "unknown" where it says none."""
        value = sample.extras.get(self.concept)
        labels = (value,) if isinstance(value, str) else tuple(value or ())
        return tuple(str(label) for label in labels if label) or (UNKNOWN,)

    def row_order(self, data: Dataset) -> Order:
        return GroupedOrder(data.groups, self.members, again=self.images == "anew")

    # ------------------------------------------------------------ the two phases

    def stages(self) -> Sequence[Stage]:
        if not self.steps:
            return ()
        stages, pairs, carry = [], 1 - self.knowledge_share, None
        if self.knowledge_share:
            made = partial(_attributes, self)
            stages.append(Stage("knowledge", self.knowledge_texts(), self.knowledge_share, make=made))
            carry = copy_text_weights_
        if 0 < self.frozen < 1:
            still = replace(self, towers_still=True, schedule_part=(0.0, self.frozen))
            stages.append(Stage("heads", still, pairs * self.frozen, carry=carry))
            rest = replace(self, schedule_part=(self.frozen, 1.0))
            return [*stages, Stage("pairs", rest, pairs * (1 - self.frozen), keep_optimiser=True)]
        return [*stages, Stage("pairs", replace(self, towers_still=self.frozen == 1), pairs, carry=carry)]

    def knowledge_texts(self) -> KnowledgeTexts:
        """The first phase, which trains the text side that this recipe has."""
        own = {f.name: getattr(self, f.name) for f in fields(PairRecipe)}
        first = {f"knowledge_{name}": name for name in ("lr", "warmup", "members", "drawn", "temperature", "betas", "eps")}
        changed = {name: getattr(self, theirs) for theirs, name in first.items()}
        return KnowledgeTexts(
            **{**own, **changed, "batch_size": self.knowledge_batch, "language": "", "text_draw": UNIFORM},
            text_head=self.text_head,
        )

    def optimiser(self) -> Optimiser:
        text = r"text_tower\." if self.knowledge_share else r"text_tower(?!\.head\.)"
        towers = (Rule(rf"^(image_tower(?!\.head\.)|{text})", lr_scale=0.0),) if self.towers_still else ()
        return replace(super().optimiser(), rules=towers, part=self.schedule_part)

    # ------------------------------------------------------------ model and batches

    def model(self) -> DualEncoder:
        image, text = self.towers()
        if self.image_head and not image.projection:
            image = headed(image, self.width, "image", kind="gelu")
        text, project = headed_text(text, self.width, head=self.text_head)
        return DualEncoder(image, text, width=self.width, scale=self.scale, project_text=project)

    def image_options(self) -> dict[str, Any]:
        options = super().image_options()
        return options if self.layer_scale is None or "image" in self._given else {**options, "layer_scale": self.layer_scale}

    @property
    def decode_size(self) -> int:
        return 0 if self.cut == "native" else self.image_size

    def batch(self, draws: Draws) -> ConceptBatch:
        native, templates = self.cut == "native", list[int]()

        def choose(draw: Draw, language: str) -> Text:
            text, template = self.written_text(draw, language)
            templates.append(PATHOLOGY.ids.index(template) if template else -1)
            return text

        pairs = pair_batch(
            draws,
            preprocess=replace(self.deployed_preprocess, margin=0),
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=(1.0, 1.0) if native else self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            language=self.language,
            augment=partial(_native, size=self.image_size) if native else None,
            choose=choose,
        )
        step = int(draws.rng.integers(1 << 62))
        concept_index = {key: number for number, key in enumerate(self.tree)}
        concepts = [concept_index.get(self.group_label(draw.sample, step), -1) for draw in draws]
        shared = {f.name: getattr(pairs, f.name) for f in fields(pairs)}
        return ConceptBatch(**shared, concept_B=torch.tensor(concepts), template_B=torch.tensor(templates))

    def group_label(self, sample: Sample, step: int) -> str:
        """One of the concepts of a sample's group, the same for all of the group at that step."""
        labels = self.labels(sample)
        return labels[int(keyed_rng(step, sample.group or sample.uid).integers(len(labels)))]

    def written_text(self, draw: Draw, language: str) -> tuple[Text, str]:
        """A caption, of which words may be left out, or what the ontology writes about one of the sample's concepts; and the id of the
        template that it is written by, "" for a caption."""
        text = self.text_draw(draw, language)
        string = drop_words(
            text.string,
            draw.rng,
            share=self.dropped,
            probability=self.dropping,
            replacement=self.dropping_again,
        )
        labels = self.labels(draw.sample)
        label = labels[int(draw.rng.integers(len(labels)))]
        writes = draw.rng.random() < self.written
        if writes and self.captions.covers(label):
            caption = self.captions(label, draw.rng)
            return Text(caption.text, text.language, "synthetic"), caption.template
        return replace(text, string=string), ""

    def features(self, model: DualEncoder, batch: ConceptBatch) -> PairFeatures:
        pairs: PairFeatures = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL)
        return pairs

    def losses(self, features: PairFeatures, batch: ConceptBatch) -> dict[str, Tensor]:
        related_RR = None if self.related == "negative" else self.related_pairs(gather_rows(batch.concept_B))
        loss = block_metric_pairs(
            features.image_ND,
            features.text_ND,
            batch.group_B,
            scale=features.scale,
            positive=self.positive,
            negative=self.negative,
            ignore_RC=related_RR,
            ignored="floor" if self.related == "negative" else self.related,
        )
        return {"metric": loss}

    def related_pairs(self, concept_R: Tensor) -> Tensor:
        """bool [R, R]: the concept of one lies above or below that of the other, or is the same."""
        ids_C, place_R = concept_R.unique(return_inverse=True)
        keys, tree = list(self.tree), self.tree
        names = [keys[number] if number >= 0 else "" for number in ids_C.tolist()]
        related_CC = torch.tensor([[tree.related(a, b) for b in names] for a in names], device=concept_R.device)
        return related_CC[place_R][:, place_R]

    def metrics(self, features: PairFeatures, batch: ConceptBatch) -> dict[str, Tensor]:
        apart_BB = batch.group_B[:, None] != batch.group_B
        related_BB = self.related_pairs(batch.concept_B) & apart_BB
        drawn = batch.template_B[batch.template_B >= 0].unique()
        templates = {"templated": (batch.template_B >= 0).float().mean(), "templates": torch.tensor(float(len(drawn)))}
        own = {"related": related_BB.sum() / apart_BB.sum().clamp(min=1), **templates}
        return {**super().metrics(features, batch), **own}

    @classmethod
    def tiny(cls) -> Self:
        """Convolutions over 48 pixels and a small text tower, 16 groups of four; the ontology of the rendered tissue. Images are projected
        without a hidden layer, and no tower stays still at first: so few steps are too few to train a new head alone."""
        small = {name: value for name, value in SMALL.items() if name in {f.name for f in fields(cls)}}
        return cls(
            **{
                **small,
                "image_tower": "convnet_tiny",
                "image_size": 48,
                "text_pooling": None,
                "width": 192,
                "knowledge": "world:tissue",
                "batch_size": 64,
                "steps": 400,
                "knowledge_share": 0.25,
                "knowledge_batch": 64,
                "knowledge_members": 4,
                "knowledge_drawn": "concept",
                "knowledge_lr": 8e-4,
                "knowledge_warmup": 20.0,
                "knowledge_betas": (0.9, 0.98),
                "knowledge_eps": 1e-6,
                "cut": "resized",
                "image_head": False,
                "frozen": 0.0,
            }
        )

    @classmethod
    def paper(cls) -> Self:
        """UNI's ViT-L/16 with a head and BERT-B, 32 groups of four, ten epochs of groups; before that 500 epochs of the knowledge graph.
        The vocabulary is CLIP's, since PubMedBERT's is not at hand without a download; `--tokenizer FOLDER` takes it."""
        return cls(stop=DISEASE_ONTOLOGY_TOPS, layer_scale=1e-5)


def _attributes(recipe: KEEP, run: Run) -> Iterator[Sample]:
    return attributes(recipe.tree, recipe.stop)


def _native(image_HWC: npt.NDArray[np.uint8], rng: np.random.Generator, *, size: int) -> npt.NDArray[np.uint8]:
    return native_crop(image_HWC, size, rng)
