"""PLIP: pre-training for persons by identity, colour and attributes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Order, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import PairBatch
from diptych.data.load.order import GroupedOrder, Small
from diptych.data.media.transforms import Preprocess
from diptych.data.text.english.person_phrases import attribute_phrases
from diptych.data.text.tokens.masked_units import UnitPlan, plan_units
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.people.attribute_reader import AttributePredictor
from diptych.models.people.colour_decoder import ColourDecoder
from diptych.models.people.person_embedder import PersonEmbedder
from diptych.models.people.person_encoder import PersonEncoder, PersonPairs
from diptych.models.towers.clip_resnet import CLIPResNet
from diptych.models.towers.towers import encoder_blocks
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.painting import Distance, painting_distance
from diptych.objectives.pairs.parts_of_batch import within_parts
from diptych.objectives.pairs.projection_classes import projection_classes, projection_precision
from diptych.objectives.pairs.target_contrast import TargetNorm, same_id_targets, target_contrast
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.persons import person_number
from diptych.recipes._shared.text_epochs import Counted, steps_of


@dataclass(frozen=True, kw_only=True)
class PersonBatch(PairBatch):
    """Pictures of persons with a text each; which words may be hidden, and in which turn (`data/text/tokens/masked_units.py`).

    person_B  the number of each person among those of the training rows, -1 where no classes are trained
    """

    place_BM: Rows[Tensor]
    word_BM: Rows[Tensor]
    turn_BM: Rows[Tensor]
    stands_BM: Rows[Tensor]
    count_B: Rows[Tensor]
    person_B: Rows[Tensor]

    @property
    def plan(self) -> UnitPlan:
        return UnitPlan(self.place_BM, self.word_BM, self.turn_BM, self.stands_BM, self.count_B)


@dataclass(frozen=True, kw_only=True)
class PLIPPerson(EncoderRecipe[PersonEncoder, PersonBatch, PersonPairs]):
    """PLIP: Language-Image Pre-training for Person Representation Learning (Zuo et al., NeurIPS 2024, arXiv 2305.08386). Baseline: `clip`
    on the same batches (`pairing="instance"`). An unrelated model of pathology has the same name.

    Three terms. Identity contrast (IVLC, which is CMPM): all pictures and texts of one person belong together; a batch holds
    `members` pictures of each, and the softmax over projections on the other side's unit vectors is drawn to the even distribution over
    one's own identity by the reverse Kullback-Leibler divergence. Text-guided colourisation (TIC): the same image tower sees the grey
    picture, and a decoder, whose channels the text gates, paints it. Attribute prediction (IAP): whole phrases about clothes,
    hair and belongings are hidden, first few, then most of them, and guessed from the other words and the picture's vector.

    Data: `group` is the identity. Only its features are deployed; the model card says that they are biometric. The preset `finetune` is the
    released fine-tuning on labelled pairs (CMPM/C), from `--init RUN`.

    No code for pre-training was released. We depart in these points, or have chosen where nothing is published: the positions of the
    text tower and the vocabulary are ours; phrases come from our tagger of noun phrases with keyword sets, not from nltk; the
    four maps come to 1024 channels by 1x1 convolutions; the distance of pictures is over the whole picture (`colour_distance`);
    the batch's identities are `members` pictures each, which the paper leaves open. The captioner SPAC that wrote SYNTH-PEDES's texts is
    not part of this recipe; its filter of noisy identities is the curation step `identity_seed`.

    pairing        "identity", or "instance": InfoNCE over pairs with a learned temperature, which falls behind as training goes on
    target_norm    what divides the row of one's own identity: its "sum", or "l2" as the released code has it, which may turn negative
    members        pictures of an identity in a batch; 1 is plain sampling
    lone           identities of one picture, where `members` is above 1: "refuse" names the first, "repeat" takes it `members` times,
                   "leave" leaves them out
    weight_colour, weight_attributes   of the second and third term (lambda 1 and 2); 0 leaves a term and its part out
    compared       pairs that identity contrast compares with each other: those of a GPU (32 in the released fine-tuning, which gathers
                   none); 0: those of the batch, of all processes
    weight_classes of a classifier of the training persons by projection (CMPC), which fine-tuning adds in the released code with
                   weight 1; `image_precision` and `text_precision` of the log are the shares of either side whose person it tells
    class_lr       factor of the classifier's learning rate, 10 as released
    colour_text    False: the decoder does not hear the text, a control
    colour_channels   of the decoder's four maps together
    colour_distance   "image", "pixel" or "l1" (`objectives/painting.py`)
    hidden_phrases   the share of phrases that is hidden at the start and at the end, between them by the square root of the progress
    masked, replaced   of the hidden words, the shares where the mask and a random word stand, as in BERT
    reader_layers, reader_heads   blocks that guess attributes
    trained_layers   so many last blocks of a bert_* text tower are trained, all else of it is frozen; 0 trains all. (The released model of
                     pre-training trains 4, and pools differently: attention for the picture, BERT's pooler for the text.)
    text_lr        factor of the learning rate of the text tower
    pool_heads     of an attention pool of the picture's map (8 in the released code)
    drops          shares of the run after each of which the learning rate is a tenth of what it was
    rises          warm-up with each "period", an epoch, as in the released fine-tuning, or with each "step"
    decay          weight decay is on "all" parameters, as in the released fine-tuning, or on "matrices" alone
    image_height   pixels; `image_size` is the width
    counted        rows of an epoch: "pictures", or their "texts", as in the released fine-tuning
    """

    slug = "plip_person"
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper", "finetune")
    cacheable: ClassVar[bool] = False
    """Batch norms count the whole batch."""
    no_prefixes = "its contrast reads the length of vectors"

    pairing: Literal["identity", "instance"] = "identity"
    target_norm: TargetNorm = "sum"
    members: int = 4
    lone: Small = "refuse"
    weight_colour: float = 0.02
    weight_attributes: float = 0.1
    compared: int = 0
    weight_classes: float = 0.0
    class_lr: float = 10.0
    colour_text: bool = True
    colour_channels: int = 1024
    colour_distance: Distance = "image"
    hidden_phrases: tuple[float, float] = (0.2, 0.8)
    masked: float = 0.8
    replaced: float = 0.1
    reader_layers: int = 1
    reader_heads: int = 12
    trained_layers: int = 5
    pool_heads: int = 32
    text_lr: float = 0.1
    drops: tuple[float, ...] = (30 / 70, 50 / 70)
    rises: Literal["step", "period"] = "period"
    decay: Literal["all", "matrices"] = "all"
    image_height: int = 256
    counted: Counted = "pictures"

    image_tower: str = "resnet_clip_50"
    text_tower: str = "bert_b"
    text_pooling: Literal["eot", "mean", "last", "cls", "pooler"] | None = "mean"
    image_pool: Literal["class", "mean", "attention", "max"] | None = "max"
    width: int = 768
    image_size: int = 128
    text_length: int = 64
    resize: Literal["crop", "squash", "pad"] = "squash"
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    mean: tuple[float, float, float] = (0.357, 0.323, 0.328)
    std: tuple[float, float, float] = (0.252, 0.242, 0.239)
    batch_size: int = 512
    epochs: float = 70.0
    lr: float = 2e-3
    warmup: float = 10 / 70
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.98, 0.92)
    eps: float = 1e-8
    persons: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        low, high = self.hidden_phrases
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"hidden_phrases is {self.hidden_phrases} (expected two shares, the second not below the first)")
        if self.pairing not in ("identity", "instance"):
            raise ConfigError(f"pairing is {self.pairing!r} (expected identity | instance)")
        if self.members < 1 or self.batch_size % self.members:
            raise ConfigError(
                f"a batch of {self.batch_size} is not a multiple of groups of {self.members} members (expected a multiple, 1 or more)"
            )
        if not self.image_tower.startswith("resnet_clip"):
            raise ConfigError(f"image tower {self.image_tower!r} has no four maps (expected resnet_clip_...)")
        if self.crop[0] < 1:
            raise ConfigError(f"crop is {self.crop}: crops are square (expected 1,1: the whole picture, squashed)")

    def started(self, model: Any) -> Self:
        """Of persons' models height comes with the weights, too."""
        return replace(super().started(model), image_height=model.preprocess.height or model.preprocess.size)

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, and the persons where they are classes; counts the texts where these are the rows of an epoch."""
        ready = super().prepare(data)
        if self.weight_classes and not self.persons:
            ready = replace(ready, persons=tuple(sorted({*data.groups})))
        if ready.steps:
            return ready

        def texts(sample: Sample) -> int:
            return len(sample.positives(self.language))

        return replace(ready, steps=steps_of(self.counted, data, texts, epochs=self.epochs, batch_size=self.batch_size))

    def row_order(self, data: Dataset) -> Order | None:
        """Whole identities in a batch."""
        if self.members == 1:
            return None
        distinct, held = len({*data.groups}), self.batch_size // self.members
        apart = held if distinct >= 3 * held else 0  # with fewer persons a batch may hold one twice
        try:
            return GroupedOrder(data.groups, self.members, small=self.lone, least=2, apart=apart)
        except DataError as error:
            remedy = "two pictures of every person at least, --lone repeat or leave, or --members 1"
            raise DataError(error.problem, field="group", expected=remedy) from error

    @property
    def deployed_preprocess(self) -> Preprocess:
        return replace(super().deployed_preprocess, height=self.image_height)

    def image_options(self) -> dict[str, Any]:
        options = super().image_options()
        if "image" in self._given:
            return options
        heads = {"heads": self.pool_heads} if self.image_pool == "attention" else {}
        return {**options, **heads, "image_height": self.image_height, "out": self.width}

    def model(self) -> PersonEncoder:
        image, text = self.towers()
        assert isinstance(image, CLIPResNet)
        if text.width != self.width:
            raise ConfigError(
                f"width is {self.width} and the text tower's {text.width}: the text is not projected (expected equal widths)"
            )
        encoder = DualEncoder(image, text, width=self.width, project_text=False)
        colour = None
        if self.weight_colour:
            colour = ColourDecoder(image.channels, self.width, channels=self.colour_channels, text=self.colour_text)
        reader = None
        if self.weight_attributes:
            reader = AttributePredictor(text, layers=self.reader_layers, heads=self.reader_heads, mask_id=self.mask_id)
        persons = len(self.persons) if self.weight_classes else 0
        return PersonEncoder(
            encoder, colour, reader, persons=persons, bounds=self.hidden_phrases, scaled=self.pairing == "instance"
        )

    @property
    def mask_id(self) -> int | None:
        """The vocabulary's own token for hidden words; None where it has none, and a learned vector stands in."""
        token_id = self.words().inner.token_to_id("[MASK]")
        return None if token_id is None else int(token_id)

    def batch(self, draws: Draws) -> PersonBatch:
        """Text and flip first, then what may be hidden, from the draw's own generator."""
        pairs, words = self.pair_batch(draws), self.words()
        assert pairs.strings is not None
        units = [
            words.span_places(string, attribute_phrases(words.cleaned(string)), self.text_length) for string in pairs.strings
        ]
        plan = plan_units(
            pairs.text_BL,
            units,
            [draw.rng for draw in draws],
            special=sorted({words.pad_id, *words.prefix, *words.suffix}),
            vocab_size=words.vocab_size,
            masked=self.masked,
            random=self.replaced,
        )
        values = {f.name: getattr(pairs, f.name) for f in fields(pairs)}
        planned = {f.name: getattr(plan, f.name) for f in fields(plan)}
        return PersonBatch(**values, **planned, person_B=torch.tensor([self.person_of(draw.sample) for draw in draws]))

    def person_of(self, sample: Sample) -> int:
        return person_number(sample, self.persons) if self.weight_classes else -1

    def features(self, model: PersonEncoder, batch: PersonBatch) -> PersonPairs:
        grey_BCHW = self.preprocess.greyed(batch.image_BCHW) if self.weight_colour else None
        plan = batch.plan if self.weight_attributes else None
        outputs: PersonPairs = model(batch.image_BCHW, grey_BCHW, batch.text_BL, batch.text_mask_BL, plan)
        return outputs

    def losses(self, features: PersonPairs, batch: PersonBatch) -> dict[str, Tensor]:
        image_ND, text_ND = features.image_ND, features.text_ND
        if self.pairing == "instance":
            image_ND, text_ND = l2_normalise(image_ND), l2_normalise(text_ND)
            terms = {"contrastive": self.contrast(image_ND, text_ND, scale=features.scale, group_B=batch.group_B)}
        else:
            count = len(batch.group_B)
            apart = ~within_parts(count, self.compared, device=batch.group_B.device) if self.compared else None
            identity, _ = target_contrast(
                image_ND,
                text_ND,
                same_id_targets(batch.group_B),
                divergence="reverse_kl",
                normalise="other",
                target_norm=self.target_norm,
                ignore_NC=apart,
                reduction="sum",
            )
            terms = {"identity": identity}
        if features.class_GD is not None:
            classes = projection_classes(features.image_ND, features.text_ND, batch.person_B, features.class_GD)
            terms["classes"] = self.weight_classes * classes
        if features.painted_NCHW is not None:
            gap = painting_distance(features.painted_NCHW, batch.image_BCHW, distance=self.colour_distance)
            terms["colour"] = self.weight_colour * gap
        if features.word_NMV is not None:
            assert features.asked_NM is not None
            terms["attributes"] = self.weight_attributes * masked_words(features.word_NMV, features.asked_NM)
        return terms

    def after_update(self, model: PersonEncoder, features: PersonPairs, batch: PersonBatch, progress: float) -> None:
        super().after_update(model, features, batch, progress)
        with torch.no_grad():
            model.progress_1.fill_(progress)

    def metrics(self, features: PersonPairs, batch: PersonBatch) -> dict[str, Tensor]:
        lengths = {"image": features.image_ND, "text": features.text_ND}
        shares = {f"length_of_{name}": side_ND.detach().norm(dim=1).mean() for name, side_ND in lengths.items()}
        if features.class_GD is not None:
            right = projection_precision(features.image_ND, features.text_ND, batch.person_B, features.class_GD)
            shares |= dict(zip(("image_precision", "text_precision"), right, strict=True))
        return shares

    def optimiser(self) -> Optimiser:
        frozen = self.frozen_layers()
        every = True if self.decay == "all" else None
        classes = Rule(r"^class_GD$", lr_scale=self.class_lr, decay=every)
        others = (Rule(r"text_tower\.", lr_scale=self.text_lr, decay=every), classes, Rule("", decay=every))
        return replace(
            super().optimiser(),
            kind="adan",
            schedule="step",
            drop_at=self.drops,
            rises=self.rises,
            periods=self.epochs,
            third_beta=0.99,
            rules=(*frozen, *others),
        )

    def frozen_layers(self) -> tuple[Rule, ...]:
        """Rules that freeze all but the last blocks of a BERT-like text tower."""
        if not self.trained_layers:
            return ()
        blocks = encoder_blocks(self.text_tower)
        early = "|".join(str(block) for block in range(blocks - self.trained_layers))
        return (Rule(rf"text_tower\.net\.(embeddings\.|encoder\.layer\.({early})\.)", lr_scale=0.0),)

    def deploy(self, model: PersonEncoder) -> PersonEmbedder:
        return PersonEmbedder(model.encoder, self.deployed_preprocess, self.words(), self.text_length, name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """64 x 32 pixels through a residual network of one block a stage; all of a small text transformer is trained. Made for
        `world:pedestrians`."""
        pixels: dict[str, Any] = {"image_tower": "resnet_clip_tiny", "image_size": 32, "image_height": 64}
        words: dict[str, Any] = {
            "text_tower": "text_micro",
            "tokenizer": "data",
            "pieces": 512,
            "text_length": 48,
            "text_lr": 1.0,
        }
        parts: dict[str, Any] = {"width": 64, "colour_channels": 64, "reader_heads": 4, "trained_layers": 0}
        plain: dict[str, Any] = {"rises": "step", "decay": "matrices"}
        return cls(**pixels, **words, **parts, batch_size=64, steps=300, lr=2e-3, warmup=20.0, clip_norm=1.0, **plain)

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 with CLIP's stem and BERT-base, 256 x 128 pixels, 70 epochs of SYNTH-PEDES. CLIP's vocabulary takes the place of BERT's
        word pieces, which are not at hand without a download; `--text-tower hf:FOLDER --tokenizer FOLDER` take both."""
        return cls(flip_sides="ignore", decoding="whole")

    @classmethod
    def finetune(cls) -> Self:
        """Fine-tuning by CMPM and CMPC as released: identity contrast and a classifier of the persons on plain batches of four GPUs, 30
        epochs of the captions; the picture is pooled by attention, the text by BERT's pooler, and all of both towers is trained."""
        parts: dict[str, Any] = {"image_pool": "attention", "pool_heads": 8, "text_pooling": "pooler", "trained_layers": 0}
        losses: dict[str, Any] = {"weight_colour": 0.0, "weight_attributes": 0.0, "weight_classes": 1.0, "target_norm": "l2"}
        steps: dict[str, Any] = {
            "batch_size": 128,
            "epochs": 30.0,
            "counted": "texts",
            "lr": 1e-4,
            "text_lr": 1.0,
            "warmup": 5 / 30,
            "drops": (20 / 30,),
        }
        return cls(**parts, **losses, **steps, members=1, compared=32, flip_sides="ignore", decoding="whole")
