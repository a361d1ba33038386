"""Shared by recipes over scene graphs: label lists, label texts, views of pictures with their boxes, the deployed detector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Self

from diptych.core.contracts import Dataset, Draws, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.graphs.batch import GraphBatch, graph_batch
from diptych.data.graphs.label_lists import NO_OBJECTS, CorpusNames, LabelLists, ListSampler, Negatives
from diptych.data.graphs.region_noise import RegionNoise
from diptych.data.graphs.transforms import DetectionTransform, DetrTransform, RandomHorizontalFlip, Sides, SquareResize
from diptych.data.text.tokenize import Tokenizer
from diptych.data.vocabularies import vocabulary
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.io import weights
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector
from diptych.models.towers.label_texts import IndexTexts, LabelTexts, TokenTexts, VectorTexts
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

Triplet = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(Recipe[RelationDetector, GraphBatch, PairSet]):
    """A detector of relations that is asked by name. Subclasses choose module and loss.

    lists           names that a step asks for: its own and others of the corpus ("sampled"), or all of a closed set ("closed")
    vocabulary      published closed set: hico-det, v-coco, vg150, open-images, coco; "" takes the names of the data
    list_length     sampled object and relation names together (published 500)
    object_share    of which objects (published 2/3)
    negatives       how further names are drawn: by frequency (published), random, or hard (by the frozen text encoder)
    triplet_share   share of a batch's kinds of triplets that are asked for; below 1, what is not asked for is no target
    label_encoder   text_tiny, text_micro, ... (towers), hf (roberta-base, fresh weights), hf:FOLDER, vectors (frozen encoder), table
                    (one free vector a name)
    text_encoder    the frozen sentence encoder of "vectors" and of hard negatives
    table_names     names that a table keeps a vector for although training does not have them
    tokenizer       "data" (pieces of the training names), "clip", or a path; "" takes that of hf:FOLDER, else "data"
    pieces          vocabulary size when it is learned
    text_length     tokens of a name, at most
    image_size      short side in pixels when evaluated, or both sides when `square`
    longest         the long side is at most so many pixels
    square          both sides to image_size whatever the shape (for small models)
    short_sides     short sides in training; `square` ignores them
    jitter          change of brightness, contrast and saturation; `square` ignores it
    mirror          share of pictures that are mirrored
    sides           what mirroring does with names that say left or right: skip such pictures, swap the words, keep (as released)
    outside         a name outside a closed set: refuse, or drop its region or relation
    min_confidence  relations below it are left out, and their names do not count (pseudo-labels; published 0.2)
    """

    # A picture without relations is a picture whose pairs are all negatives, so relations are asked of the data and not of each
    # sample: see `prepare`.
    needs = ("image", "regions")

    lists: Literal["sampled", "closed"] = "sampled"
    vocabulary: str = ""
    list_length: int = 500
    object_share: float = 2 / 3
    negatives: Negatives = "frequency"
    triplet_share: float = 1.0
    label_encoder: str = "hf"
    text_encoder: str = "minilm-l6"
    table_names: tuple[str, ...] = ()
    tokenizer: str = ""
    pieces: int = 4096
    text_length: int = 16
    image_size: int = 800
    longest: int = 1333
    square: bool = False
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    jitter: float = 0.4
    mirror: float = 0.5
    sides: Sides = "skip"
    outside: Literal["refuse", "drop"] = "refuse"
    min_confidence: float = 0.2
    corpus: CorpusNames | None = field(default=None, metadata={"prepared": True, "json": CorpusNames})
    learned_words: str = field(default="", metadata={"prepared": True})

    # ------------------------------------------------------------ names

    def prepare(self, data: Dataset) -> Self:
        """The names of the data and how often each occurs; a tokeniser learned from them."""
        made = self
        if made.corpus is None:
            names = CorpusNames.of(data, min_confidence=made.min_confidence)
            if not names.relations:
                raise DataError(f"no image of '{data.name}' has a relation", field="relations", expected="scene graphs")
            made = replace(made, corpus=names)
        if made._token_source() == "data" and not made.learned_words:
            made = replace(made, learned_words=learned_vocabulary(made.all_names(), made.pieces))
        return made

    @property
    def names(self) -> CorpusNames:
        """Every name of the training data, the most frequent first."""
        if self.corpus is None:
            raise ConfigError("the names are those of the data: call prepare(data) first")
        return self.corpus

    def closed_lists(self) -> LabelLists:
        """All names of the closed set: the published one, and the data's where that leaves something open."""
        vocab = vocabulary(self.vocabulary) if self.vocabulary else None
        objects = vocab.object_texts if vocab and vocab.objects else tuple(sorted(self.names.objects))
        return LabelLists(objects, vocab.predicate_texts if vocab and vocab.predicates else tuple(sorted(self.names.relations)))

    def relation_texts(self) -> dict[str, str]:
        """Relation of the data -> the text that a closed set asks for it by, where they differ: V-COCO's "sit instr" is "sit on/at"."""
        vocab = vocabulary(self.vocabulary) if self.vocabulary and self.lists == "closed" else None
        return dict(zip(vocab.predicates, vocab.texts, strict=True)) if vocab and vocab.texts else {}

    def list_source(self) -> LabelLists | ListSampler:
        """Source of the label lists of a step: the closed set, or a sampler."""
        if self.lists == "closed":
            return self.closed_lists()
        features = None
        if self.negatives == "hard":
            encoder = self.frozen_texts()
            features = (encoder.encode_texts(list(self.names.objects)), encoder.encode_texts(list(self.names.relations)))
        return ListSampler(
            names=self.names,
            length=self.list_length,
            object_share=self.object_share,
            negatives=self.negatives,
            triplet_share=self.triplet_share,
            features=features,
        )

    def default_lists(self) -> LabelLists:
        """Label lists of the deployed model when none are given: the closed set, or the most frequent names."""
        if self.lists == "closed":
            return self.closed_lists()
        objects = int(self.list_length * self.object_share)
        things = [name for name in self.names.objects if name != NO_OBJECTS]
        return LabelLists(tuple(things[:objects]), self.names.relations[: self.list_length - objects])

    def all_names(self) -> list[str]:
        """Every name that training can ask for, each once, and the background."""
        every = [*self.names.objects, *self.names.relations, NO_OBJECTS, *self.table_names]
        if self.vocabulary:
            every += [*self.closed_lists().objects, *self.closed_lists().relations]
        return list(dict.fromkeys(every))

    # ------------------------------------------------------------ texts

    def label_texts(self) -> LabelTexts:
        """Names to what the label encoder takes."""
        if self.label_encoder == "vectors":
            return VectorTexts(self.frozen_texts())
        if self.label_encoder == "table":
            return IndexTexts([name for name in self.all_names() if name != NO_OBJECTS])
        return TokenTexts(self.words(), self.text_length)

    def frozen_texts(self) -> weights.FrozenTextEncoder:
        """The sentence encoder that is not trained."""
        return _frozen(self.text_encoder, self.text_length)

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        return tokenizer_of(self._token_source(), self.learned_words)

    def _token_source(self) -> str:
        """Tokeniser for `Tokenizer.from_spec`, "data" among them; "" where labels are not tokenised."""
        if self.label_encoder in ("vectors", "table"):
            return ""
        if self.tokenizer:
            return self.tokenizer
        return self.label_encoder.removeprefix("hf:") if self.label_encoder.startswith("hf:") else "data"

    # ------------------------------------------------------------ pictures

    @property
    def decode_size(self) -> int:
        """Full size: boxes are in pixels of it."""
        return 0

    @property
    def views(self) -> DetectionTransform:
        mirror = RandomHorizontalFlip(share=self.mirror, sides=self.sides)
        if self.square:
            return SquareResize(size=self.image_size, mirror=mirror)
        return DetrTransform(shorts=self.short_sides, longest=self.longest, jitter=self.jitter, mirror=mirror)

    @property
    def images(self) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        if self.square:
            return DetectionPreprocess(self.image_size, longest=0, square=True)
        return DetectionPreprocess(self.image_size, longest=self.longest)

    def graph_batch(
        self,
        draws: Draws,
        *,
        max_pairs: int,
        fill_pairs: int = 0,
        noise: RegionNoise | None = None,
        hidden: Collection[Triplet] = (),
    ) -> GraphBatch:
        """The batch of these draws; relations of the classes `hidden` are taken out first, the others put into the words of the lists."""
        words = self.relation_texts()
        if hidden or words:
            samples = (rename_relations(drop_relations(draw.sample, hidden), words) for draw in draws)
            items = (replace(draw, sample=sample) for draw, sample in zip(draws, samples, strict=True))
            draws = replace(draws, items=tuple(items))
        return graph_batch(
            draws,
            views=self.views,
            labels=_list_source(self),
            outside=self.outside,
            max_pairs=max_pairs,
            fill_pairs=fill_pairs,
            min_confidence=self.min_confidence,
            noise=noise,
            texts=_label_texts(self),
            multiple=1 if self.square else self.images.stride,
        )

    def deploy(self, model: RelationDetector) -> GraphDetector:
        return GraphDetector(model, self.label_texts(), self.images, name=self.slug, lists=self.default_lists())


def drop_relations(sample: Sample, hidden: Collection[Triplet]) -> Sample:
    """The sample without relations of these (subject, predicate, object) classes; regions stay."""
    named = zip(sample.relations, sample.graph.triplets(), strict=True)
    return replace(sample, relations=tuple(relation for relation, triplet in named if triplet not in hidden))


def rename_relations(sample: Sample, words: Mapping[str, str]) -> Sample:
    """The sample with its relations called by other words; one without an entry keeps its name."""
    relations = (replace(relation, predicate=words.get(relation.predicate, relation.predicate)) for relation in sample.relations)
    return replace(sample, relations=tuple(relations))


@lru_cache(maxsize=2)
def _frozen(name: str, length: int) -> weights.FrozenTextEncoder:
    return weights.text(name, length=length)


@lru_cache(maxsize=8)
def _list_source(recipe: GraphRecipe) -> LabelLists | ListSampler:
    return recipe.list_source()


@lru_cache(maxsize=8)
def _label_texts(recipe: GraphRecipe) -> LabelTexts:
    return recipe.label_texts()
