"""DesCo: a grounding detector trained on descriptions, so that it uses the whole query and not only the class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Hook, Optimiser, Recipe, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.graphs.grounded import DenseRegions, GroundedBatch, GroundedPicture, TokenRegions, grounded_batch
from diptych.data.graphs.transforms import SIDED
from diptych.data.load.batch import pixels
from diptych.data.text.captions.phrases import Sentence, sentences_of
from diptych.data.text.descriptions import knowledge as knowledge_files
from diptych.data.text.descriptions.caption_queries import CaptionQueries
from diptych.data.text.descriptions.description_queries import TOKENS, ClassQueries, NounQueries
from diptych.data.text.descriptions.knowledge import Knowledge
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.spans import Entity, SpanText
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.dense.dense_detector import DenseDetector, DensePhraseDetector
from diptych.models.detection.dense.dense_grounding import DenseHeadConfig
from diptych.models.detection.frozen_stages import freeze_stages
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.phrase_detector import PhraseDetector, PhrasePrompt
from diptych.models.detection.text_pieces import piece_end_ids
from diptych.models.fiber.dense import DenseFiberDetector, DenseFiberPhraseDetector
from diptych.models.fiber.grounding import FiberConfig, FiberDetector, FiberPhraseDetector
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower
from diptych.objectives.boxes.dense_tokens import DenseTokenLoss
from diptych.objectives.boxes.token_set import TokenSetLoss
from diptych.recipes._shared.detector_start import detector_weights
from diptych.recipes._shared.grounding_config import CaptionMix, DetectorRates, GroundingViews
from diptych.recipes._shared.texts.query_texts import ReiterableSamples, every_text, knowledge_from
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of
from diptych.train.hooks import WeightAverage

FIBER_SIDE = 384
"""Pixels of FIBER's first stage; windows are as large as there, pictures of any size."""
BERT: dict[str, Any] = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12}
"""bert-base-uncased, without its weights."""
GLIP_HEAD = DenseHeadConfig(meeting_width=2048)
"""Six meetings of maps and text, each before a round of the dynamic head."""


NAMES_ALONE = ClassQueries(form="name", classes=85, before="", missing="name")
"""Queries of GLIP and FIBER: names as they are, at most 85 of a query."""


@grouped("class_queries", "captions", "views", "rates")
@dataclass(frozen=True, kw_only=True)
class DesCo(Recipe[GroundingDetector | DenseDetector | DenseFiberDetector, GroundedBatch, TokenRegions | DenseRegions]):
    """DesCo: Learning Object Recognition with Rich Language Descriptions (Li et al., 2023, arXiv 2306.14060), on GLIP (2112.03857).

    A detector that grounds words is asked by descriptions. A class becomes "cup, a kind of vessel, round, has a handle. ", half of the
    time without its name, and only the head of it, name and kind, is what a region has to answer: the rest has to act through the text
    that is read around it. With things in the query that share the name or the kind and differ in the description, there is no way past
    reading it. Captions with marked phrases (`extras["grounding"]`) become the descriptions of their nouns, or are shuffled with what a
    language model wrote about them; how many texts of a query are right says nothing. Its baseline is the same detector with `form`
    "name": names alone.

    Descriptions come from a knowledge file, or lie beside the samples (`extras["nouns"]`); see `diptych.data.text.descriptions.knowledge`.

    We depart from the release in these: the control of right and wrong texts draws and does not count, since a sample must not depend on
    those before it (`positive_rate.PositiveRate` has both); the faults that `description_queries` and `caption_queries` name; stop words
    are spaCy's; a mirrored picture never keeps a text that says left or right; a loss above 10 counts after 10,000 steps, too, where the
    release drops that batch; weights are fresh unless `--init` brings released ones.
    Where things are is found in one of two ways. `boxes_by` "places" has DyHead with its anchors, centres and ATSS as released, on GLIP's
    backbone with its fusion in each round (presets paper, glip_tiny), or on FIBER's towers (fiber_boxes, fiber_descriptions). "queries"
    has the encoder, queries and set matching of DAB-Deformable-DETR, with GLIP's fusion at each layer and GLIP's token head: no centres,
    and boxes are learned by L1 and GIoU.

    knowledge     path of a knowledge file; "" takes what lies beside the samples
    class_queries, captions  of queries: of classes (`ClassQueries`), and of captions (`CaptionMix`)
    query_tokens  of a query, at most (published 254, beside two marks)
    backbone      conv_tiny, timm:NAME, or "fiber": the towers of FIBER (2206.07643), whose sizes are `fiber` and which meet inside, so that
                  `shape` has no fusion; --init takes a run of `fiber`, and form "name" is its second stage
    boxes_by      "queries" learn where things are; "places": one anchor a place of DyHead's maps, as GLIP, DesCo and FIBER's second stage
                  are released
    drop_path     highest rate of stochastic depth in it
    frozen        of a Swin, what stays as it is: its patch embedding (1), its first stage with the merging behind it, too (2), and so on;
                  such a run starts from weights (--init); 0: all learns
    text_encoder  text_micro and the like, hf (bert-base, fresh weights), hf:FOLDER
    tokenizer     "data" (pieces learned from the training texts), "clip", or a path; "" takes that of hf:FOLDER, else "data"
    pieces        vocabulary size when it is learned
    text_length   tokens of a query with its marks, at most
    reads         "whole": every word of a query reads every other (published); "pieces": the text encoder reads each description alone, as
                  Grounding DINO does (2303.05499)
    image_size    short side in pixels when evaluated, or both sides when `square`
    views, rates  sizes of pictures (`GroundingViews`); rates of the parts, and when they fall (`DetectorRates`)
    loss          of matching and regions (`TokenSetLoss`); shape: of the detector (`GroundingConfig`). The fields of all configurations
                  are options like these
    fiber         shape of the towers of `fiber`, whose fields are options of their own
    dense, dense_loss  of `boxes_by` "places"; likewise
    """

    slug = "desco"
    needs = ("image", "regions")
    presets = ("tiny", "paper", "fiber_boxes", "fiber_descriptions", "glip_tiny")

    knowledge: str = ""
    class_queries: ClassQueries = field(default_factory=ClassQueries)
    captions: CaptionMix = field(default_factory=CaptionMix)
    views: GroundingViews = field(default_factory=GroundingViews)
    rates: DetectorRates = field(default_factory=DetectorRates)
    query_tokens: int = TOKENS

    backbone: str = "timm:swin_tiny_patch4_window7_224"
    boxes_by: Literal["queries", "places"] = "queries"
    drop_path: float = 0.2
    frozen: int = 0
    text_encoder: str = "hf"
    tokenizer: str = ""
    pieces: int = 30_522
    text_length: int = 256
    reads: Literal["whole", "pieces"] = "whole"
    image_size: int = 800

    batch_size: int = 16
    steps: int = 300_000
    lr: float = 5e-5
    warmup_from: float | None = 0.001
    warmup: float = 2000.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    loss: TokenSetLoss = field(default_factory=TokenSetLoss)
    shape: GroundingConfig = field(default_factory=GroundingConfig)
    fiber: FiberConfig = field(default_factory=FiberConfig)
    dense: DenseHeadConfig = field(default_factory=DenseHeadConfig)
    dense_loss: DenseTokenLoss = field(default_factory=DenseTokenLoss)
    known: str = field(default="", metadata={"prepared": True})
    names: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    learned_words: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.boxes_by not in ("queries", "places"):
            raise ConfigError(f"boxes_by is {self.boxes_by!r} (expected queries | places)")
        whole = self.backbone == "fiber" or self.boxes_by == "places"
        if self.reads not in ("whole", "pieces") or (self.reads == "pieces" and whole):
            raise ConfigError(
                f"reads is {self.reads!r} on {self.backbone}, boxes by {self.boxes_by} (expected whole | pieces; FIBER's towers read texts "
                "whole, and so does what finds boxes by places)"
            )

    @property
    def measured_by(self) -> str:
        """Boxes of the classes, asked for as in training."""
        described = self.class_queries.form == "description" and self.class_queries.missing == "refuse"
        return "open_detection:queries=descriptions" if described else "open_detection"

    # ------------------------------------------------------------ what depends on the data

    def prepare(self, data: Dataset) -> Self:
        """Class names, what is known about them, and a tokeniser learned from all of it."""
        samples, made = ReiterableSamples(data), self
        if not made.names:
            made = replace(made, names=tuple(sorted({region.label for sample in samples for region in sample.regions})))
        if not made.known:
            knowledge = (
                knowledge_files.read_knowledge(Path(made.knowledge))
                if made.knowledge
                else knowledge_files.knowledge_of(samples) or Knowledge({})
            )
            made = replace(made, known=knowledge.to_json())
        unknown = [name for name in made.names if name not in made.class_knowledge]
        needs_known = made.class_queries.form == "description" and made.class_queries.missing == "refuse"
        # Queries of sentences name no class.
        if needs_known and unknown and not all(sentences_of(sample) for sample in samples):
            raise DataError(
                f"{len(unknown)} of {len(made.names)} classes of '{data.name}' are not described, {unknown[0]!r} among them",
                field="knowledge",
                expected="a knowledge file with an entry for each, or missing='name'",
            )
        if made.tokenizer_source == "data" and not made.learned_words:
            made = replace(
                made,
                learned_words=learned_vocabulary(
                    every_text(made.class_queries.before, made.names, made.class_knowledge, samples), made.pieces
                ),
            )
        return made

    @property
    def class_knowledge(self) -> Knowledge:
        return knowledge_from(self.known)

    @property
    def tokenizer_source(self) -> str:
        if self.tokenizer:
            return self.tokenizer
        return self.text_encoder.removeprefix("hf:") if self.text_encoder.startswith("hf:") else "data"

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        return tokenizer_of(self.tokenizer_source, self.learned_words)

    # ------------------------------------------------------------ model

    def model(self) -> GroundingDetector | DenseDetector | DenseFiberDetector:
        made = self.detector()
        freeze_stages(made.backbone, self.frozen)
        return made

    def detector(self) -> GroundingDetector | DenseDetector | DenseFiberDetector:
        """The model with fresh weights, all of which learn."""
        if self.backbone == "fiber":
            words = self.words()
            mask = words.inner.token_to_id("<mask>")
            image, text = self.fiber.sides(
                image_size=FIBER_SIDE, drop_path=self.drop_path, vocab_size=words.vocab_size, mask_id=mask
            )
            if self.boxes_by == "places":
                return DenseFiberDetector(image, text, self.dense, self.fiber.swin_strides)
            return FiberDetector(image, text, self.shape, self.fiber.swin_strides)
        options = {"drop_path": self.drop_path} if self.backbone.startswith("timm:") else {}
        backbone, encoder = detection_backbone(self.backbone, **options), self.text_part()
        if self.boxes_by == "places":
            return DenseDetector(backbone, encoder, self.dense)
        shape = replace(self.shape, text_ends=piece_end_ids(self.words())) if self.reads == "pieces" else self.shape
        return GroundingDetector(backbone, encoder, shape)

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of FIBER's first stage, or of its released second stage, or of a released GLIP or of a Swin, under our names."""
        return detector_weights(tensors, self.fiber if self.backbone == "fiber" else None)

    def text_part(self) -> Tower:
        if self.text_encoder.startswith("hf:"):
            return text_tower(self.text_encoder, length=self.text_length)
        if self.text_encoder == "hf":
            return text_tower("hf", config=BERT, pooling="cls", length=self.text_length)
        return text_tower(self.text_encoder, vocab_size=self.words().vocab_size, length=self.text_length)

    # ------------------------------------------------------------ queries

    def query(self, draw: Draw) -> tuple[SpanText, tuple[tuple[Entity, ...], ...]]:
        """The text that a picture is shown with, and for each of its regions the entities of the text that mean it."""
        sample = draw.sample
        if not (sentences := sentences_of(sample)):
            text = self.class_queries.draw(
                [region.label for region in sample.regions],
                self.names,
                self.class_knowledge,
                draw.rng,
                tokens=self.tokens_left,
                count=self.words().count,
            )
            return text, tuple((region.label,) for region in sample.regions)
        sentence = sentences[int(draw.rng.integers(len(sentences)))]
        meant: list[list[Entity]] = [[] for _ in sample.regions]
        for index, phrase in enumerate(sentence.phrases):
            for region in phrase.regions:
                meant[region].append(index)
        return self.caption_query(sentence, draw), tuple(map(tuple, meant))

    def caption_query(self, sentence: Sentence, draw: Draw) -> SpanText:
        """One of three: shuffled with what was written about it, descriptions of its nouns, the caption as it is."""
        kind = draw.rng.random()
        if kind < self.captions.written:
            queries = CaptionQueries(describe=self.captions.describe)
            return queries.draw(sentence, draw.rng, tokens=self.tokens_left, count=self.words().count)
        if kind < self.captions.written + self.captions.nouns:
            nouns = NounQueries(self.class_queries.drop_name, self.captions.noun_words, self.captions.every_piece)
            return nouns.draw(sentence, self.class_knowledge, draw.rng) or sentence.marked
        return sentence.marked

    @property
    def tokens_left(self) -> int:
        """Tokens for what stands behind `before`: of the model's length, the marks and that counted off, and `query_tokens` at most."""
        words = self.words()
        return min(
            self.query_tokens,
            self.text_length - len(words.prefix) - len(words.suffix) - words.count(self.class_queries.before) + 1,
        )

    # ------------------------------------------------------------ a step

    @property
    def decode_size(self) -> int:
        """Full size: boxes are in pixels of it."""
        return 0

    @property
    def images(self) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        return self.views.deployed(self.image_size)

    def batch(self, draws: Draws) -> GroundedBatch:
        shown = [self.query_and_view(draw) for draw in draws]
        return grounded_batch(shown, self.words(), self.text_length, multiple=1 if self.views.square else self.images.stride)

    def query_and_view(self, draw: Draw) -> GroundedPicture:
        """The query and the picture of a draw, drawn in this order."""
        text, meant = self.query(draw)
        mirror = 0.0 if SIDED.search(text.text) else self.views.mirror
        # The views move boxes and drop none; a label is the place of its region.
        regions = tuple(Region(region.box, str(index)) for index, region in enumerate(draw.sample.regions))
        image_HWC, graph = self.views.training(self.image_size, mirror=mirror).draw((pixels(draw), SceneGraph(regions)), draw.rng)
        return GroundedPicture(image_HWC, text, tuple((region, meant[int(region.label)]) for region in graph.regions))

    def features(
        self, model: GroundingDetector | DenseDetector | DenseFiberDetector, batch: GroundedBatch
    ) -> TokenRegions | DenseRegions:
        outputs: TokenRegions | DenseRegions = model(
            batch.image_BCHW, batch.text_BL, batch.mask_BL, pixel_BHW=None if self.views.square else batch.pixel_BHW
        )
        return outputs

    def losses(self, features: TokenRegions | DenseRegions, batch: GroundedBatch) -> dict[str, Tensor]:
        return self._judged(features, batch)[0]

    def metrics(self, features: TokenRegions | DenseRegions, batch: GroundedBatch) -> dict[str, Tensor]:
        return self._judged(features, batch)[1]

    def _judged(self, features: TokenRegions | DenseRegions, batch: GroundedBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if isinstance(features, DenseRegions):
            return self.dense_loss(features, batch.targets)
        return self.loss(features, batch.targets)

    def optimiser(self) -> Optimiser:
        rest = True if self.rates.decay == "all" else None
        biases = None if self.rates.bias_lr == 1 and rest is None else False
        rules = (
            Rule(r"^text\..*bias", lr_scale=self.rates.text_lr * self.rates.bias_lr, decay=biases),
            Rule(r"^text\.", lr_scale=self.rates.text_lr, decay=rest),
            Rule("bias", lr_scale=self.rates.bias_lr, decay=biases),
            Rule("", decay=rest),
        )
        return replace(
            super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="step", warmup_from=self.warmup_from,
            drop_at=self.rates.lr_drops, decay_drops=self.rates.decay_drops, rules=rules,
        )  # fmt: skip

    def hooks(self) -> Sequence[Hook]:
        return (WeightAverage(self.rates.average, early=False),) if self.rates.average else ()

    def deploy(self, model: GroundingDetector | DenseDetector | DenseFiberDetector) -> PhraseDetector:
        prompt = PhrasePrompt(before=self.class_queries.before, together=self.class_queries.classes)
        kinds: dict[type, type[PhraseDetector]] = {DenseDetector: DensePhraseDetector, FiberDetector: FiberPhraseDetector}
        kinds[DenseFiberDetector] = DenseFiberPhraseDetector
        kind = kinds.get(type(model), PhraseDetector)
        return kind(model, self.words(), self.text_length, self.images, self.slug, prompt=prompt, objects=self.names)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """0.6 million parameters at 64 pixels: minutes on two cores. Classes without a description are queried by name."""
        return cls(
            class_queries=ClassQueries(missing="name"),
            views=GroundingViews(square=True, mirror=0.0),
            rates=DetectorRates(text_lr=1.0, bias_lr=1.0, decay="matrices", lr_drops=(0.8,), average=0.0),
            backbone="conv_tiny", drop_path=0.0, text_encoder="text_micro", pieces=1024, text_length=128, image_size=64, batch_size=16,
            steps=2000, lr=1e-3, warmup=100.0, warmup_from=None,
            shape=GroundingConfig(
                queries=12, width=64, heads=4, mlp_width=128, encoder_layers=3, decoder_layers=2, levels=2, fusion_before=(0, 1, 2),
                fusion_width=128, fusion_dropout=0.0, language_heads=4, language_mlp=128, text_scale=4.0,
            ),
            dense=DenseHeadConfig(
                head_width=64, rounds=2, head_groups=8, meeting_width=128, meeting_heads=4, word_heads=4, word_mlp=128, meeting_dropout=0.0,
                drop_block=0.0, anchor=3.0, least=0.0,
            ),
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """DesCo-GLIP-T: Swin-T and BERT-base, 300,000 steps of 16. The shipped configuration says nothing of frozen stages, so that the
        first one stays as ImageNet left it."""
        return cls(boxes_by="places", frozen=2, dense=GLIP_HEAD)

    @classmethod
    def glip_tiny(cls) -> Self:
        """GLIP-T: names and captions as they are, at most 85 names of a query, 330,000 steps of 64 (30 epochs of its data). Right and wrong
        names are drawn as for DesCo."""
        return cls(
            class_queries=NAMES_ALONE, captions=CaptionMix(written=0.0, nouns=0.0), rates=DetectorRates(text_lr=0.1), boxes_by="places",
            dense=GLIP_HEAD, batch_size=64, steps=330_000, lr=1e-4,
        )  # fmt: skip

    @classmethod
    def fiber_boxes(cls) -> Self:
        """FIBER's second stage as released: names and captions as they are, at most 85 names of a query; CLIP's vocabulary, unless
        `--tokenizer FOLDER` gives RoBERTa's. Right and wrong names are drawn as for DesCo. Its configuration says nothing of frozen stages:
        the first one stays."""
        return cls(
            class_queries=NAMES_ALONE, captions=CaptionMix(written=0.0, nouns=0.0),
            rates=DetectorRates(text_lr=0.1, decay_drops=(0.67 * 0.667, 0.89 * 0.667)), tokenizer="clip", backbone="fiber",
            boxes_by="places", fiber=FiberConfig(gate_norm=False), drop_path=0.4, batch_size=64, steps=800_000, lr=1e-4,
            weight_decay=1e-2, frozen=2,
        )  # fmt: skip

    @classmethod
    def fiber_descriptions(cls) -> Self:
        """DesCo-FIBER: what `fiber_boxes` learned (--init), asked by descriptions for 200,000 steps of 16."""
        boxes = cls.fiber_boxes()
        return replace(
            boxes, class_queries=ClassQueries(), captions=replace(boxes.captions, written=0.8), rates=replace(boxes.rates, text_lr=0.5),
            batch_size=16, steps=200_000, lr=2e-5,
        )  # fmt: skip
