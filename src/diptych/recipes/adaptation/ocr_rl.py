"""Object-centric representations, pre-trained on pictures, as input of a reinforcement-learning agent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Rule
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.transforms import Preprocess
from diptych.models.slots.object_encoder import ObjectEncoder
from diptych.models.slots.object_network import (
    TERMS,
    EncoderKind,
    IodineShape,
    ObjectNetwork,
    ObjectShape,
    ObjectTerms,
    SlateShape,
    SlotShape,
    VectorShape,
)
from diptych.models.slots.slate import cosine_temperature


@dataclass(frozen=True)
class PictureBatch(TensorBatch):
    """Pictures, 0 to 1."""

    image_BCHW: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class ObjectRates:
    """Rates of SLATE and slot attention beside `lr`, which is that of the token decoder.

    encoder_lr  learning rate of slots and their projection
    half_life  steps in which these two halve; the autoencoder's rate stays at `lr`
    temperature_start, temperature_end  of the autoencoder's draws, along half a cosine
    temperature_steps  steps of that half cosine
    """

    encoder_lr: float = 1e-4
    half_life: float = 250_000.0
    temperature_start: float = 1.0
    temperature_end: float = 0.1
    temperature_steps: int = 30_000

    def __post_init__(self) -> None:
        if self.encoder_lr < 0 or not self.half_life > 0 or not min(self.temperature_start, self.temperature_end) > 0:
            raise ConfigError(
                f"encoder_lr is {self.encoder_lr}, half_life {self.half_life}, temperatures {self.temperature_start} and "
                f"{self.temperature_end} (expected 0 or more, and above 0)"
            )


@dataclass(frozen=True, kw_only=True)
class ObjectCentricRL(Recipe[ObjectNetwork, PictureBatch, ObjectTerms]):
    """An Investigation into Pre-Training Object-Centric Representations for Reinforcement Learning (Yoon et al., 2023, arXiv 2302.04419).

    A policy reads frozen slots that were learned from random pictures without labels, and is compared with one that reads a single
    vector, patches, or what its own convolutions learn. This trains the encoder: slot attention with a spatial broadcast decoder
    (2006.15055), SLATE (2110.11405), IODINE (1903.00450), a VAE, or a masked autoencoder. Errors are summed over the pixels, cross-
    entropies over the tokens; both are the mean over the batch. What a policy reads of it is `represent`; poolings are in
    `diptych.models.slots.pooling`, the tasks in `diptych.worlds.sprites.environments`, and `examples/ppo_sprites.py` puts them together.

    Warm-up matters, and some runs never bind a slot to a thing: the task `foreground_ari` measures it.

    encoder     slot_attention, slate, iodine, vae or mae
    image_size  side in pixels; pictures of another shape are squashed
    slot_sizes  number and sizes of the slots
    slate       sizes of SLATE's decoder
    iodine      IODINE
    vector      sizes of VAE and masked autoencoder
    rates       of SLATE and slot attention
    masked      pictures of the data have masks of their objects, by which the slots are measured; set from the first one
    """

    slug = "ocr_rl"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    presets = ("tiny", "paper", "slot_attention", "slot_attention_large", "iodine_large", "vae", "mae")

    encoder: EncoderKind = "slate"
    image_size: int = 64
    slot_sizes: SlotShape = field(default_factory=SlotShape)
    slate: SlateShape = field(default_factory=SlateShape)
    iodine: IodineShape = field(default_factory=IodineShape)
    vector: VectorShape = field(default_factory=VectorShape)
    rates: ObjectRates = field(default_factory=ObjectRates)
    batch_size: int = 24
    epochs: float = 10.0
    lr: float = 3e-4
    warmup: float = 30_000.0
    weight_decay: float = 0.0
    clip_norm: float = 0.05

    masked: bool = field(default=True, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.encoder not in TERMS:
            raise ConfigError(f"encoder is {self.encoder!r} (expected {' | '.join(TERMS)})")
        if self.image_size % 4 or self.image_size < 16:
            raise ConfigError(f"image_size is {self.image_size} (expected a multiple of 4, 16 or more)")

    @property
    def measured_by(self) -> str:
        return "foreground_ari" if self.encoder not in ("vae", "mae") and self.masked else ""

    def prepare(self, data: Dataset) -> Self:
        return replace(self, masked=len(data) > 0 and any(region.mask is not None for region in data[0].regions))

    @property
    def preprocess(self) -> Preprocess:
        """Pixels from 0 to 1, squashed to the encoder's size."""
        return Preprocess(self.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize="squash")

    def model(self) -> ObjectNetwork:
        shape = ObjectShape(self.encoder, self.image_size, self.slot_sizes, self.slate, self.iodine, self.vector)
        made = ObjectNetwork(shape)
        made.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        if self.encoder == "slate":
            made.slate.temperature.fill_(self.rates.temperature_start)
        return made

    def batch(self, draws: Draws) -> PictureBatch:
        return PictureBatch(self.preprocess([pixels(draw) for draw in draws]))

    def features(self, model: ObjectNetwork, batch: PictureBatch) -> ObjectTerms:
        terms: ObjectTerms = model(batch.image_BCHW)
        return terms

    def losses(self, features: ObjectTerms, batch: PictureBatch) -> dict[str, Tensor]:
        return dict(zip(TERMS[self.encoder], features.term_BT.mean(0).unbind(), strict=True))

    def after_update(self, model: ObjectNetwork, features: ObjectTerms, batch: PictureBatch, progress: float) -> None:
        updates = model.get_buffer("updates")
        updates += 1
        if self.encoder == "slate":
            rates = self.rates
            value = cosine_temperature(int(updates), rates.temperature_start, rates.temperature_end, rates.temperature_steps)
            model.slate.temperature.fill_(value)

    def optimiser(self) -> Optimiser:
        plain = Optimiser(
            lr=self.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=self.weight_decay, schedule="constant", warmup=self.warmup,
            clip_norm=self.clip_norm, clip_by="largest",
        )  # fmt: skip
        if self.encoder == "slate":
            slower = Rule(r"^slate\.(encoder\.|decoder\.slots\.)", lr_scale=self.rates.encoder_lr / self.lr)
            rules = (Rule(r"^slate\.autoencoder\.", constant=True), slower)
            return replace(plain, schedule="half_life", half_life=self.rates.half_life, rules=rules)
        if self.encoder == "slot_attention":
            return replace(plain, schedule="half_life", half_life=self.rates.half_life)
        if self.encoder == "mae":
            return replace(plain, clip_by="norm", betas=(0.9, 0.95), rules=(Rule("", decay=True),))
        return replace(plain, clip_by="norm")

    def deploy(self, model: ObjectNetwork) -> ObjectEncoder:
        kept = ObjectNetwork(model.shape).to(next(model.parameters()).device)
        kept.load_state_dict({name: value for name, value in model.state_dict().items() if name != "updates"})
        return ObjectEncoder(kept, self.preprocess, self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """Slot attention on pictures of 32 pixels."""
        return cls(
            encoder="slot_attention", image_size=32, slot_sizes=SlotShape(slots=5, width=32, hidden=64, features=16),
            batch_size=16, steps=400, lr=1e-3, warmup=60.0, rates=ObjectRates(half_life=2000.0), clip_norm=1.0,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """SLATE as released: 6 slots, 64 pixels."""
        return cls()

    @classmethod
    def slot_attention(cls) -> Self:
        """Slot attention with a broadcast decoder: 7 rounds, slots of 64."""
        return cls(encoder="slot_attention", slot_sizes=SlotShape(width=64, hidden=64, rounds=7), lr=1e-4)

    @classmethod
    def slot_attention_large(cls) -> Self:
        """The same with slots of 192."""
        return cls(encoder="slot_attention", slot_sizes=SlotShape(rounds=7), lr=1e-4)

    @classmethod
    def iodine_large(cls) -> Self:
        """IODINE as released: 5 rounds, slots of 64; updates are read from the LSTM's cell."""
        return cls(
            encoder="iodine",
            slot_sizes=SlotShape(width=64, rounds=5),
            iodine=IodineShape(reads_cell=True),
            warmup=0.0,
            clip_norm=5.0,
        )

    @classmethod
    def vae(cls) -> Self:
        """The VAE that the published agents read: a vector of 256, whose KL weighs 5."""
        return cls(encoder="vae", vector=VectorShape(kl_weight=5.0), lr=1e-4, warmup=0.0, clip_norm=0.0)

    @classmethod
    def mae(cls) -> Self:
        """The masked autoencoder as released: ViT-B with patches of 8, a rate of 1e-3 for 256 pictures, and torch's weight decay on every
        parameter: that of its configuration, 0.05, is never handed on."""
        return cls(encoder="mae", lr=1e-3 * 24 / 256, warmup=0.0, weight_decay=0.01, clip_norm=0.0)
