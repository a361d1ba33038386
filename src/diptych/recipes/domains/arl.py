"""ARL: align, reason and learn with a graph of medical entities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import grouped
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch, view
from diptych.data.media.augment.views import hidden_patches
from diptych.data.text.reports.entity_graph import EntityGraph, graph_of_pairs, read_graph
from diptych.data.text.reports.finding_places import finding_places
from diptych.data.text.tokens.masked_words import mask_words
from diptych.data.text.tokens.whole_words import hash_starts, word_starts
from diptych.data.text.tokens.word_pieces import train_word_pieces
from diptych.models.knowledge.graph_attention import edge_counts
from diptych.models.knowledge.knowledge_fusion import EntityEncoder, FusionFeatures, KnowledgeFusion, LinkedInput
from diptych.models.knowledge.knowledge_matcher import KnowledgeMatcher, mask_token_id
from diptych.models.knowledge.linked_texts import link
from diptych.models.knowledge.transe import train_transe
from diptych.models.towers.vit import VisionTransformer
from diptych.objectives.gather import mean_over_processes
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.masked_pixels import masked_pixels
from diptych.recipes._shared.pairs import PairRecipe, strings_of
from diptych.recipes._shared.presets import SMALL


@dataclass(frozen=True, kw_only=True)
class LinkedBatch(TensorBatch):
    """Images and texts with linked entities.

    shown_BCHW, fits_B  images for matching, and int64 1 where one is the text's own
    text_BL, text_mask_BL, entity_BS, tokens_BSL  whole texts, their entities (-1 where there is none) and the tokens of each
    masked_BL, masked_entity_BS, masked_tokens_BSL  the same with hidden words, without the entities that these touch
    position_BM, word_BM  positions that are asked for and the words there, -1 where there is nothing to ask
    kept_BK, hidden_BP  patches that are visible, and True at those that are not
    image_entity_BV, text_entity_BV  float32: 1 for entities that any text of the image names, or this text
    """

    image_BCHW: Rows[Tensor]
    shown_BCHW: Rows[Tensor]
    fits_B: Rows[Tensor]
    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    entity_BS: Rows[Tensor]
    tokens_BSL: Rows[Tensor]
    masked_BL: Rows[Tensor]
    masked_entity_BS: Rows[Tensor]
    masked_tokens_BSL: Rows[Tensor]
    position_BM: Rows[Tensor]
    word_BM: Rows[Tensor]
    kept_BK: Rows[Tensor]
    hidden_BP: Rows[Tensor]
    image_entity_BV: Rows[Tensor]
    text_entity_BV: Rows[Tensor]
    truncated: int = 0


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The entity graph and its use.

    graph_file     JSON of entities and triples (`entity_graph`); "" takes findings and places of the data's own pairs
    aligns         an image, and a text, says which entities belong to it
    reasons        the text reads the entities that it names
    shuffled_graph  exchanges the entities of all triples at random: a control
    removed         what goes where a word of a mention is hidden: the "entity", with all its mentions in the text, or that "mention"
                    alone, as released
    entity_width   dimensions of an entity
    most_entities  entities of a text at most
    transe_epochs  passes of TransE over the triples before training; 0 starts from random vectors
    graph_dropout  of graph attention
    """

    graph_file: str = ""
    aligns: bool = True
    reasons: bool = True
    shuffled_graph: bool = False
    removed: Literal["entity", "mention"] = "entity"
    entity_width: int = 256
    most_entities: int = 24
    transe_epochs: int = 1000
    graph_dropout: float = 0.2


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Losses of ARL.

    weight_words, weight_patches, weight_match, weight_align  of hidden words, hidden patches, matching and alignment; patches at 0 leave
                    their decoder out (published: 1, 1, 0.1, 1; variants have 0.5 and 0.1 for the last)
    hidden          share of tokens that are hidden; all tokens of an entity's mention are one unit
    units           what is hidden as a whole beside mentions: "words", or "pieces" that "##" does not join to the one before, as
                    released: under RoBERTa's vocabulary every token
    padding_counts  the share is of a text's whole row, as released. Padding is then drawn with the words unless it is spelled "<pad>",
                    which the released collator leaves out: under RoBERTa's vocabulary a short text loses most of its words
    hidden_patches  share of patches that are hidden
    patch_layer     layers of fusion before the decoder of patches
    decoder_width, decoder_layers, decoder_heads  of that decoder
    """

    weight_words: float = 1.0
    weight_patches: float = 1.0
    weight_match: float = 0.1
    weight_align: float = 1.0
    hidden: float = 0.15
    units: Literal["words", "pieces"] = "words"
    padding_counts: bool = False
    hidden_patches: float = 0.75
    patch_layer: int = 3
    decoder_width: int = 384
    decoder_layers: int = 4
    decoder_heads: int = 6


@grouped("entity_graph", "learning")
@dataclass(frozen=True, kw_only=True)
class ARL(PairRecipe[KnowledgeFusion, LinkedBatch, FusionFeatures]):
    """ARL: Align, Reason and Learn: Enhancing Medical Vision-and-Language Pre-training with Knowledge (Chen et al., ACM MM 2022, arXiv
    2209.07118). Baseline: the same fusion without knowledge (`aligns False`, `reasons False`).

    A dictionary links entities of a graph in the texts. Vectors of entities start from TransE and go through graph attention at each step.
    Align: an image alone, and a text alone, says which entities belong to it, by the product with these vectors. Reason: in every layer in
    which text and image read each other, the text's entities read each other and the image, and each is added to the tokens that name
    it. Learn: hidden words, where a mention is hidden as a whole and its entity is taken away so that knowledge cannot say it; hidden
    patches; and matching, where half of the texts are shown with another image of the batch.

    We depart in these points: wrong images come from the batch, the release draws them from all data; 15 % of a text's own tokens are
    asked for, and beside mentions whole words are hidden (`padding_counts True` and `units pieces` are the release, which the preset
    `released` has, with `removed mention`). The release starts from METER's weights and UMLS, which cannot be passed on:
    `graph_file` takes a graph of yours. `--tokenizer FOLDER` gives RoBERTa's vocabulary.

    entity_graph   the graph and its use (`GraphConfig`), whose fields are options like these
    learning       weights and shares (`LearningConfig`), the same
    fusion_layers, fusion_heads  layers in which both sides read each other, and heads of each
    fusion_dropout  of these layers
    image_layers   blocks of the image tower (published: 11, the last of CLIP's is left out); 0 keeps its own number
    fast           factor of the learning rate of everything but both towers
    betas, eps     of AdamW
    adam           AdamW as "torch" has it, or as the "transformers" of the release does (`CorrectedAdamW`)
    decay          weight decay is on "matrices" alone, or, as released, also on the norms and the class token of the image tower, the norm
                   of the entities, and norms and mask vector of the decoder ("named")
    """

    slug = "arl"
    presets = ("tiny", "paper", "released")
    no_prefixes: ClassVar[str] = "it reads pairs together"

    entity_graph: GraphConfig = field(default_factory=GraphConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    fusion_layers: int = 6
    fusion_heads: int = 12
    fusion_dropout: float = 0.1
    image_layers: int = 11
    fast: float = 5.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    adam: Literal["torch", "transformers"] = "torch"
    decay: Literal["matrices", "named"] = "matrices"

    image_tower: str = "vit_b16"
    act: Literal["gelu", "quick_gelu", "gelu_tanh"] | None = None
    text_tower: str = "bert_b"
    width: int = 768
    image_size: int = 288
    text_length: int = 64
    tokenizer: str = "data"
    pieces: int = 30_522
    crop: tuple[float, float] = (1.0, 1.0)
    batch_size: int = 256
    steps: int = 100_000
    lr: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    graph: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        learning = self.learning
        if not 0 < learning.hidden < 1 or not 0 < learning.hidden_patches < 1 or self.entity_graph.most_entities < 1:
            raise ConfigError(
                f"hidden {learning.hidden}, hidden_patches {learning.hidden_patches}, most_entities "
                f"{self.entity_graph.most_entities} (expected shares between 0 and 1, and 1 or more)"
            )

    def prepare(self, data: Dataset) -> Self:
        """Reads or collects the graph; learns word pieces, where no tokenizer is given."""
        ready = self
        if not ready.graph:
            config = self.entity_graph
            path = Path(config.graph_file).expanduser()
            graph = (
                read_graph(path) if config.graph_file else graph_of_pairs(finding_places(data[row]) for row in range(len(data)))
            )
            if len(graph.names) < 2:
                raise ConfigError(f"'{data.name}' names {len(graph.names)} entities (expected a column pairs, or --graph-file)")
            ready = replace(ready, graph=(graph.shuffled(0) if config.shuffled_graph else graph).to_json())
        if ready.tokenizer == "data" and not ready.vocabulary:
            texts = strings_of(data, self.texts_of, language=self.spoken)
            ready = replace(ready, vocabulary=train_word_pieces(texts, self.pieces).to_json())
        return ready

    @property
    def entities(self) -> EntityGraph:
        """The graph of a prepared recipe; one entity alone before."""
        return EntityGraph.from_json(self.graph) if self.graph else EntityGraph((("entity",),))

    # ------------------------------------------------------------ model

    def image_options(self) -> dict[str, Any]:
        options = super().image_options()
        if self.image_tower == "vit_b16" and "act" not in options and "image" not in self._given:
            options["act"] = "quick_gelu"
        return {**options, "layers": self.image_layers} if self.image_layers and "image" not in self._given else options

    def model(self) -> KnowledgeFusion:
        image, text = self.towers()
        graph, config, learning = self.entities, self.entity_graph, self.learning
        encoder = None
        if config.aligns or config.reasons:
            triples = torch.tensor(graph.triples, device="cpu").reshape(-1, 3)
            count, relations = len(graph.names), len(graph.relations)
            with torch.device("cpu"):
                transe = train_transe(count, relations, triples, width=config.entity_width, epochs=config.transe_epochs)
                edges_VV = edge_counts(count, triples[:, [0, 2]])
            encoder = EntityEncoder(transe.entity.weight.detach(), edges_VV, dropout=config.graph_dropout)
        sizes = (learning.decoder_width, learning.decoder_layers, learning.decoder_heads)
        return KnowledgeFusion(
            image,
            text,
            words=self.words().vocab_size,
            width=self.width,
            heads=self.fusion_heads,
            layers=self.fusion_layers,
            entities=encoder,
            reasons=config.reasons,
            aligns=config.aligns,
            decoder=sizes if learning.weight_patches else None,
            patch_layer=learning.patch_layer,
            dropout=self.fusion_dropout,
        )

    def optimiser(self) -> Optimiser:
        """Linear to 0 behind the warm-up; all but the towers learn `fast` times as quickly."""
        rules = [Rule(r"^(?!image_tower\.|text_tower\.|kind_2D)", lr_scale=self.fast)]
        if self.decay == "named":
            decoder = r"^(entities\.norm\.weight|decoder\.mask_D|decoder\.blocks\..*norm_\d\.weight)$"
            image = r"^image_tower\.(.*norm_\w+\.weight|class_token_D)$"
            rules = [Rule(decoder, lr_scale=self.fast, decay=True), Rule(image, decay=True), *rules]
        chosen = replace(super().optimiser(), betas=self.betas, eps=self.eps, adam=self.adam)
        return replace(chosen, schedule="linear", warmup_from=0.0, rules=tuple(rules))

    # ------------------------------------------------------------ a step

    def batch(self, draws: Draws) -> LinkedBatch:
        """Text, then view, then hidden words and patches from the draw's own generator; wrong images from that of the batch."""
        words, graph, most = self.words(), self.entities, self.entity_graph.most_entities
        texts = [self.text_draw(draw, self.language).string for draw in draws]
        image_BCHW = self.preprocess([view(draw, self.image_size, self.crop, self.flip, self.crop_form) for draw in draws])
        linked = link(texts, graph, words, self.text_length)
        start = word_starts if self.learning.units == "words" else hash_starts
        masked = mask_words(
            linked.text_BL,
            linked.mask_BL,
            [draw.rng for draw in draws],
            special=sorted({words.pad_id, *words.prefix, *words.suffix}),
            vocab_size=words.vocab_size,
            share=self.learning.hidden,
            starts_BL=linked.starts(torch.from_numpy(start(words, linked.text_BL.numpy()))),
            padding_counts=self.learning.padding_counts,
            padding_drawn=words.inner.id_to_token(words.pad_id) != "<pad>",
        )
        asked_BL = torch.zeros_like(linked.mask_BL).scatter(1, masked.place_BM, masked.word_BM >= 0)
        asked_BL |= masked.hidden_BL
        whole, masked_input = linked.inputs(most), linked.inputs(most, asked_BL, removed=self.entity_graph.removed)
        hidden_BP, _ = hidden_patches(draws, patches=self.patches, share=self.learning.hidden_patches)
        shown, fits_B = self.partners(draws)
        return LinkedBatch(
            image_BCHW=image_BCHW,
            shown_BCHW=image_BCHW[shown],
            fits_B=fits_B,
            text_BL=linked.text_BL,
            text_mask_BL=linked.mask_BL,
            entity_BS=whole.entity_BS,
            tokens_BSL=whole.tokens_BSL,
            masked_BL=masked.ids_BL.masked_fill(masked.hidden_BL, self.mask_id),
            masked_entity_BS=masked_input.entity_BS,
            masked_tokens_BSL=masked_input.tokens_BSL,
            position_BM=masked.place_BM,
            word_BM=masked.word_BM,
            kept_BK=torch.nonzero(~hidden_BP)[:, 1].view(len(draws), -1),
            hidden_BP=hidden_BP,
            image_entity_BV=torch.stack([self.image_entities(draw.sample, graph) for draw in draws]),
            text_entity_BV=linked.named(len(graph.names)).float(),
            truncated=linked.truncated,
        )

    @cached_property
    def patches(self) -> int:
        """Patches of an image."""
        with torch.device("meta"):
            tower = self.towers()[0]
        return math.prod(tower.grid) if isinstance(tower, VisionTransformer) else 0

    @property
    def mask_id(self) -> int:
        """The vocabulary's token for hidden words. Raises ConfigError where it has none."""
        return mask_token_id(self.words())

    def partners(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Rows [B] of the images that are shown for matching, and int64 [B]: 1 in half of the rows, which have their own. The others
        have an image of another group; a row without such a partner keeps its own."""
        groups = [draw.sample.group or draw.sample.uid for draw in draws]
        wrong = set(draws.rng.permutation(len(groups))[len(groups) // 2 :].tolist())
        shown = []
        for row, group in enumerate(groups):
            others = [other for other, name in enumerate(groups) if name != group]
            at = int(draws.rng.integers(max(1, len(others))))
            shown.append(others[at] if row in wrong and others else row)
        rows = torch.tensor(shown)
        return rows, (rows == torch.arange(len(shown))).long()

    def image_entities(self, sample: Sample, graph: EntityGraph) -> Tensor:
        """float32 [V]: 1 for entities that any text of the image names."""
        named_V = torch.zeros(len(graph.names))
        named_V[[entity.entity for text in self.texts_of(sample) for entity in graph.linked(text)]] = 1.0
        return named_V

    def features(self, model: KnowledgeFusion, batch: LinkedBatch) -> FusionFeatures:
        whole = LinkedInput(batch.text_BL, batch.text_mask_BL, batch.entity_BS, batch.tokens_BSL)
        masked = LinkedInput(batch.masked_BL, batch.text_mask_BL, batch.masked_entity_BS, batch.masked_tokens_BSL)
        outputs: FusionFeatures = model(batch.image_BCHW, batch.shown_BCHW, whole, masked, batch.position_BM, batch.kept_BK)
        return outputs

    def losses(self, features: FusionFeatures, batch: LinkedBatch) -> dict[str, Tensor]:
        learning = self.learning
        match = F.cross_entropy(features.match_N2.float(), batch.fits_B)
        losses = {
            "words": learning.weight_words * masked_words(features.word_NMW, batch.word_BM),
            "match": learning.weight_match * mean_over_processes(match),
        }
        if features.pixel_NPC is not None:
            patch = round((features.pixel_NPC.shape[-1] / 3) ** 0.5)
            pixels = masked_pixels(features.pixel_NPC, batch.image_BCHW, batch.hidden_BP, patch=patch)
            losses["patches"] = learning.weight_patches * pixels
        if features.image_entity_NV is not None and features.text_entity_NV is not None:
            pairs = ((features.image_entity_NV, batch.image_entity_BV), (features.text_entity_NV, batch.text_entity_BV))
            terms = [F.binary_cross_entropy_with_logits(logit_NV.float(), named_BV) for logit_NV, named_BV in pairs]
            losses["align"] = learning.weight_align * mean_over_processes(terms[0] + terms[1])
        return losses

    def metrics(self, features: FusionFeatures, batch: LinkedBatch) -> dict[str, Tensor]:
        asked_BM = batch.word_BM >= 0
        right_BM = (features.word_NMW.argmax(-1) == batch.word_BM) & asked_BM
        return {"words_right": right_BM.sum() / asked_BM.sum().clamp(min=1)}

    def deploy(self, model: KnowledgeFusion) -> KnowledgeMatcher:
        return KnowledgeMatcher(
            model,
            self.deployed_preprocess,
            self.words(),
            self.text_length,
            self.entities,
            self.slug,
            most_entities=self.entity_graph.most_entities,
        )

    @classmethod
    def tiny(cls) -> Self:
        """A small vision transformer over 64 pixels, a BERT of two layers and two layers of fusion."""
        own: dict[str, Any] = {**SMALL, "text_tower": "bert_tiny", "text_length": 64, "batch_size": 64, "pieces": 2048}
        return cls(
            **own,
            entity_graph=GraphConfig(entity_width=64, most_entities=8, transe_epochs=20),
            learning=LearningConfig(decoder_width=64, decoder_layers=1, decoder_heads=4, patch_layer=1),
            fusion_layers=2,
            fusion_heads=4,
            image_layers=0,
            fast=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 without its last block over 288 pixels and RoBERTa-base, six layers of fusion, 100,000 steps of 256 pairs."""
        return cls(text_tower="roberta_b", decoding="whole", adam="transformers", decay="named")

    @classmethod
    def released(cls) -> Self:
        """As `paper`, with words hidden as the released collator hides them."""
        paper = cls.paper()
        learning = replace(paper.learning, units="pieces", padding_counts=True)
        return replace(paper, learning=learning, entity_graph=replace(paper.entity_graph, removed="mention"))
