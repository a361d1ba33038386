"""UniPT: pre-training for person search on pseudo texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import grouped
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import pair_batch
from diptych.data.media.augment.views import hidden_patches
from diptych.data.media.transforms import Preprocess
from diptych.data.text.persons.descriptions import combine
from diptych.data.text.tokens.masked_words import mask_words
from diptych.data.text.tokens.whole_words import word_starts
from diptych.models.io.open_address import open_address
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.people.part_encoder import PartEncoder
from diptych.models.people.patch_regressor import PatchRegressor
from diptych.models.people.person_embedder import PersonEmbedder
from diptych.models.people.unified_encoder import FrozenPatches, UnifiedEncoder, UnifiedPairs
from diptych.models.towers.max_pool_tower import MaxPoolTower
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.towers.vit import VisionTransformer
from diptych.objectives.gather import mean_over_processes
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.parts_of_batch import within_parts
from diptych.objectives.pairs.ranking import semi_hard_ranking
from diptych.recipes._shared.frozen.patch_count import patches_of
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.persons import person_number
from diptych.recipes._shared.small_encoder import small_encoder
from diptych.recipes._shared.texts.pseudo_texts import pseudo_attributes
from diptych.recipes._shared.unified_batch import UnifiedBatch
from diptych.recipes._shared.unified_config import (
    GuessedPatchConfig,
    HiddenWordConfig,
    PersonRankingConfig,
    PrototypeConfig,
    PseudoTextConfig,
)


@grouped("sentences", "hidden_words", "guessed_patches", "person_losses", "prototype_parts")
@dataclass(frozen=True, kw_only=True)
class UniPT(EncoderRecipe[UnifiedEncoder, UnifiedBatch, UnifiedPairs]):
    """UniPT: Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification (Shao et al., ICCV 2023, arXiv 2309.01420).
    Baseline: the same fine-tuning without pre-training.

    Pictures of persons without captions get the curation step `pseudo_texts` first: what a frozen model sees of fourteen attributes. Of
    these a sentence is drawn anew, template and synonyms, each time that a picture is seen, since one template a picture is learned by
    heart. Pre-training is then a symmetric InfoNCE between pictures and sentences, where every token goes through a linear layer and the
    maximum over tokens is compared, plus hidden words guessed from the text alone. The released code has a third term that the paper
    does not name: half of the patches are hidden, and a decoder guesses what a frozen CLIP says of them, and of the visible ones.
    `phase="finetune"` on labelled pairs (with `--init RUN`) has a classifier of persons that images and texts share, and a ranking by
    semi-hard negatives; and both losses again on what a few prototypes read of either side's tokens, the same prototypes through the
    same layers (the prototype-based granularity unification of LGUR, 2207.07802, whose released code has a classifier a prototype, and
    ranks all parts together). Published fine-tuning: `--batch-size 64 --lr 1e-4 --text-lr 0.1 --weight-decay 0`.

    We depart in these points, by an option each where one is named: the temperature is learned (`learned_scale`; the released loss
    compares bare cosines, and so cannot fall below 5.24 at 512 pairs, or 3.17 at the 64 of a GPU); padding takes no part in the maximum
    (`read_padding`); patches know their own places (`places`) and guess what is said of themselves (`targets`); all pairs of a batch are
    compared (`compared`); an anchor without a semi-hard negative has no loss, also where no anchor of the batch has one; and places are
    learned for 24 x 8 patches, where the release learns ImageNet's 24 x 24 and lays them over the picture bilinearly at each step. Sizes
    of the prototypes' layers are LGUR's, since the paper has none; LGUR's dictionary of words is not part of the paper.

    phase          "pretrain" or "finetune"
    sentences      what a step reads (`PseudoTextConfig`)
    hidden_words, guessed_patches  of pre-training (`HiddenWordConfig`, `GuessedPatchConfig`)
    person_losses, prototype_parts  of fine-tuning (`PersonRankingConfig`, `PrototypeConfig`). The fields of all five are options like these
    learned_scale  False compares cosines without a temperature
    compared       pairs that are compared with each other: 64, those of a GPU, as released; 0: those of the batch, of all processes
    image_dropout  of the image tower's blocks and of the decoder's
    adam           AdamW as "torch" has it, or as the "transformers" of the release does (`CorrectedAdamW`)
    decay          weight decay is on all but "named": biases, norms but those of the decoder, and the temperature, as released, or on
                   "matrices" alone
    text_lr        factor of the learning rate of the text tower
    image_height   pixels; `image_size` is the width
    read_padding   whether padding takes part in the maximum over words, as released
    """

    slug = "unipt"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    no_prefixes = "its classifier reads whole vectors"

    phase: Literal["pretrain", "finetune"] = "pretrain"
    sentences: PseudoTextConfig = field(default_factory=PseudoTextConfig)
    hidden_words: HiddenWordConfig = field(default_factory=HiddenWordConfig)
    guessed_patches: GuessedPatchConfig = field(default_factory=GuessedPatchConfig)
    person_losses: PersonRankingConfig = field(default_factory=PersonRankingConfig)
    prototype_parts: PrototypeConfig = field(default_factory=PrototypeConfig)
    learned_scale: bool = True
    read_padding: bool = False
    compared: int = 0
    image_dropout: float = 0.1
    text_lr: float = 1.0
    image_height: int = 384

    image_tower: str = "vit_b16"
    text_tower: str = "bert_b"
    width: int = 768
    image_size: int = 128
    text_length: int = 100
    resize: Literal["crop", "squash", "pad"] = "squash"
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    patch_bias: bool | None = True
    batch_size: int = 512
    epochs: float = 15.0
    lr: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    decay: Literal["named", "matrices"] = "named"
    warmup_from: float | None = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    adam: Literal["torch", "transformers"] = "torch"
    persons: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    teacher_folder: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.phase not in ("pretrain", "finetune"):
            raise ConfigError(f"phase {self.phase!r} (expected pretrain | finetune)")
        if self.compared < 0 or not 0 <= self.image_dropout < 1:
            raise ConfigError(
                f"compared {self.compared}, image_dropout {self.image_dropout} (expected 0 or more, and a share below 1)"
            )
        if not self.image_tower.startswith(("vit", "peak_image")):
            raise ConfigError(f"image tower {self.image_tower!r} has no patches to hide (expected vit_...)")
        if self.crop[0] < 1:
            raise ConfigError(f"crop is {self.crop}: crops are square (expected 1,1: the whole picture, squashed)")

    # ------------------------------------------------------------ what depends on the data

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary; the persons, for fine-tuning; a small teacher, where patches are guessed and none is named."""
        ready = super().prepare(data)
        if self.phase == "finetune" and not self.persons:
            ready = replace(ready, persons=tuple(sorted({*data.groups})))
        if self.guesses_patches and not self.guessed_patches.teacher and not self.teacher_folder:
            folder = small_encoder("", data, steps=self.guessed_patches.small_steps, language=self.language)
            ready = replace(ready, teacher_folder=str(folder))
        return ready

    @property
    def guesses_patches(self) -> bool:
        return self.phase == "pretrain" and self.guessed_patches.weight_patches > 0

    def texts_of(self, sample: Sample) -> list[str]:
        """For a learned vocabulary: the captions, or some of the sentences that a step may draw."""
        attributes = self.pseudo(sample)
        if attributes is None:
            return list(super().texts_of(sample))
        rng, count = keyed_rng("sentences of a vocabulary", sample.uid), self.sentences.templates
        return [
            combine(attributes, n, rng, count=count, exchanged=self.sentences.exchanged)
            for n in rng.integers(count, size=4).tolist()
        ]

    def pseudo(self, sample: Sample) -> dict[str, str] | None:
        """Pseudo attributes of a person from the curation step; None where captions are read."""
        return pseudo_attributes(sample, self.sentences.texts)

    def _chosen(self, draw: Draw, language: str, templates: list[int]) -> Text:
        attributes = self.pseudo(draw.sample)
        templates.append(-1 if attributes is None else int(draw.rng.integers(self.sentences.templates)))
        if attributes is None:
            return self.text_draw(draw, language)
        caption = combine(attributes, templates[-1], draw.rng, count=self.sentences.templates, exchanged=self.sentences.exchanged)
        return Text(caption, "en", "synthetic")

    # ------------------------------------------------------------ model

    def started(self, model: Any) -> Self:
        """Of persons' models height comes with the weights, too."""
        made = replace(super().started(model), image_height=model.preprocess.height or model.preprocess.size)
        return replace(made, width=model.model.image_tower.width) if isinstance(model.model, PartEncoder) else made

    @property
    def deployed_preprocess(self) -> Preprocess:
        return replace(super().deployed_preprocess, height=self.image_height)

    def encoder(self) -> DualEncoder:
        if self._given:
            image, text = self.towers()
        else:
            dropout = {"dropout": self.image_dropout} if self.image_dropout else {}
            common: dict[str, Any] = {"pre_norm": False, "eps": 1e-6, **dropout}  # ViT as ImageNet's weights have it, not CLIP's
            inner = image_tower(self.image_tower, **common, **self.image_options(), image_height=self.image_height)
            image = image_tower("peak_image", inner=inner.spec, out=self.width)
            words = text_tower(self.text_tower, **self.text_options())
            peak: dict[str, Any] = {"inner": words.spec, "out": self.width, "vocab_size": self.words().vocab_size}
            text = text_tower("peak_text", **peak, read_padding=self.read_padding)
        scale = 1 / 0.07 if self.learned_scale else 1.0
        if not self.unifies:
            return DualEncoder(image, text, width=self.width, scale=scale)
        sizes = self.prototype_parts.sizes()
        return PartEncoder(image, text, width=sizes["prototypes"] * sizes["part_width"], parts=sizes, scale=scale)

    @property
    def unifies(self) -> bool:
        return self.phase == "finetune" and self.prototype_parts.weight_unified > 0

    def model(self) -> UnifiedEncoder:
        encoder = self.encoder()
        tower = encoder.image_tower
        if not isinstance(tower, MaxPoolTower) or not isinstance(tower.inner, VisionTransformer):
            raise ConfigError("weights to start from have to be of this recipe (expected a run of unipt)")
        regressor = teacher = None
        if self.guesses_patches:
            guess = self.guessed_patches
            grid, patch = tower.inner.grid, int(tower.inner.patches.kernel_size[0])
            opened = open_address(guess.teacher or self.teacher_folder)
            if not isinstance(opened, PairEmbedder):
                raise ConfigError(f"teacher {guess.teacher!r} is not a pair of towers (expected a model such as CLIP)")
            shown = self.deployed_preprocess if guess.teacher_sees == "theirs" else opened.preprocess
            teacher = FrozenPatches(opened, grid, patch, shown, shifted=guess.targets == "released")
            size: dict[str, Any] = {
                "layers": guess.regressor_layers,
                "heads": guess.regressor_heads,
            }
            rest: dict[str, Any] = {
                "order": guess.places,
                "eps": guess.regressor_eps,
                "dropout": self.image_dropout,
            }
            regressor = PatchRegressor(tower.inner.width, grid, teacher.width, **size, **rest)
        return UnifiedEncoder(
            encoder,
            guesses_words=self.phase == "pretrain" and self.hidden_words.weight_words > 0,
            mask_id=self.mask_id,
            regressor=regressor,
            teacher=teacher,
            persons=len(self.persons) if self.phase == "finetune" else 0,
            scaled=self.phase == "pretrain" and self.learned_scale,
            words_std=self.hidden_words.words_std,
        )

    @property
    def mask_id(self) -> int | None:
        """The vocabulary's own token for hidden words; None where it has none, and a learned vector stands in."""
        token_id = self.words().inner.token_to_id("[MASK]")
        return None if token_id is None else int(token_id)

    def stored(self, name: str) -> bool:
        return not name.startswith("teacher.")

    # ------------------------------------------------------------ a step

    def batch(self, draws: Draws) -> UnifiedBatch:
        """Text and flip first, then hidden words, then patches, then draws of negatives, all from the draw's own generator."""
        words, templates = self.words(), list[int]()
        pairs = pair_batch(
            draws,
            preprocess=self.preprocess,
            tokenizer=words,
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            language=self.language,
            choose=partial(self._chosen, templates=templates),
        )
        special = sorted({words.pad_id, *words.prefix, *words.suffix})
        masked = mask_words(
            pairs.text_BL,
            pairs.text_mask_BL,
            [draw.rng for draw in draws],
            special=special,
            vocab_size=words.vocab_size,
            share=self.hidden_words.share_words,
            starts_BL=torch.from_numpy(word_starts(words, pairs.text_BL.numpy())),
            padding_counts=self.hidden_words.padding_counts,
        )
        hidden_BP, lost_BJ = hidden_patches(
            draws, patches=self.patches, share=self.guessed_patches.hidden_patches if self.guesses_patches else 0.0
        )
        kept_BK = torch.nonzero(~hidden_BP)[:, 1].view(len(draws), -1)
        values = {f.name: getattr(pairs, f.name) for f in fields(pairs)}
        return UnifiedBatch(
            **values,
            masked_BL=masked.ids_BL,
            hidden_BL=masked.hidden_BL,
            place_BM=masked.place_BM,
            word_BM=masked.word_BM,
            kept_BK=kept_BK,
            lost_BJ=lost_BJ,
            person_B=torch.tensor([self.person_of(draw.sample) for draw in draws]),
            template_B=torch.tensor(templates),
            draw_B4=torch.tensor([draw.rng.random(4).tolist() for draw in draws], dtype=torch.float64),
        )

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        if self._given:
            return patches_of(json.dumps(self.image_options()["inner"]))
        return patches_of(json.dumps({"name": self.image_tower, **self.image_options(), "image_height": self.image_height}))

    def person_of(self, sample: Sample) -> int:
        return -1 if self.phase == "pretrain" else person_number(sample, self.persons)

    def features(self, model: UnifiedEncoder, batch: UnifiedBatch) -> UnifiedPairs:
        words = (batch.masked_BL, batch.hidden_BL, batch.place_BM)
        outputs: UnifiedPairs = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, *words, batch.kept_BK, batch.lost_BJ)
        return outputs

    def losses(self, features: UnifiedPairs, batch: UnifiedBatch) -> dict[str, Tensor]:
        image_ND, text_ND = features.image_ND, features.text_ND
        if self.phase == "finetune":
            assert features.image_person_NG is not None
            assert features.text_person_NG is not None
            both = (features.image_person_NG, features.text_person_NG)
            each = [F.cross_entropy(logit_NG, batch.person_B) for logit_NG in both]
            persons = mean_over_processes(torch.stack(each).sum())
            ranked = self.ranking(image_ND, text_ND, batch, batch.draw_B4[:, :2])
            terms = {
                "persons": self.person_losses.weight_persons * persons,
                "ranking": self.person_losses.weight_ranking * ranked,
            }
            return {**terms, **self.unified(features, batch)}
        terms = {"contrastive": self.compare(image_ND, text_ND, features.scale, batch.group_B)}
        if features.word_NMV is not None:
            terms["words"] = self.hidden_words.weight_words * masked_words(features.word_NMV, batch.word_BM)
        if features.hidden_NJE is not None:
            assert features.target_hidden_NJE is not None
            assert features.visible_NKE is not None
            assert features.target_visible_NKE is not None
            hidden = F.mse_loss(features.hidden_NJE, features.target_hidden_NJE)
            visible = F.mse_loss(features.visible_NKE, features.target_visible_NKE)
            terms["patches"] = self.guessed_patches.weight_patches * mean_over_processes(hidden + visible)
        return terms

    def compare(self, image_ND: Tensor, text_ND: Tensor, scale: Tensor, group_B: Tensor) -> Tensor:
        """InfoNCE over the batch, or over each of its parts by itself."""
        keep_BN = within_parts(len(group_B), self.compared, device=group_B.device) if self.compared else None
        return self.contrast(image_ND, text_ND, scale=scale, group_B=group_B, keep_NM=keep_BN)

    def ranking(self, image_ND: Tensor, text_ND: Tensor, batch: UnifiedBatch, draw_B2: Tensor) -> Tensor:
        terms = self.person_losses
        how: dict[str, Any] = {"margin": terms.margin, "reduction": terms.mined, "cells": terms.ranked}
        return semi_hard_ranking(image_ND, text_ND, batch.group_B, draw_B2, **how)

    def unified(self, features: UnifiedPairs, batch: UnifiedBatch) -> dict[str, Tensor]:
        """Both losses on the parts: the mean over prototypes of each one's classifier, and a ranking by all parts together."""
        image_NQE, text_NQE = features.image_part_NQE, features.text_part_NQE
        if image_NQE is None or text_NQE is None:
            return {}
        total = image_NQE.new_zeros(())
        for logit_NQG in (features.image_part_person_NQG, features.text_part_person_NQG):
            assert logit_NQG is not None
            of_each_NQ = batch.person_B[:, None].expand(logit_NQG.shape[:2])
            total = total + F.cross_entropy(logit_NQG.flatten(0, 1), of_each_NQ.flatten())
        ranked = self.ranking(image_NQE.flatten(1), text_NQE.flatten(1), batch, batch.draw_B4[:, 2:])
        weight = self.prototype_parts.weight_unified
        return {
            "part_persons": weight * self.person_losses.weight_persons * mean_over_processes(total),
            "part_ranking": weight * self.person_losses.weight_ranking * ranked,
        }

    def optimiser(self) -> Optimiser:
        named, rest = (False, True) if self.decay == "named" else (None, None)
        rules = [Rule(r"^regressor\..*norm\w*\.weight", decay=rest)] + [Rule(rf"{where}{spared}", lr_scale=rate, decay=decays)
                 for where, rate in ((r"text_tower\..*", self.text_lr), ("", 1.0))
                 for spared, decays in ((r"(bias|[Nn]orm\w*\.weight|^words\.2\.|log_scale)", named), ("", rest))]  # fmt: skip
        return replace(super().optimiser(), schedule="linear", adam=self.adam, warmup_from=self.warmup_from, rules=tuple(rules))

    def deploy(self, model: UnifiedEncoder) -> PersonEmbedder:
        encoder = model.encoder
        if isinstance(encoder, PartEncoder) and self.prototype_parts.searched == "whole":
            encoder = encoder.without_parts()
        return PersonEmbedder(encoder, self.deployed_preprocess, self.words(), self.text_length, name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_words=HiddenWordConfig(padding_counts=False, words_std=0.0),
            guessed_patches=GuessedPatchConfig(teacher_sees="theirs", regressor_layers=1, regressor_heads=4, regressor_eps=1e-5),
            prototype_parts=PrototypeConfig(
                prototypes=4, part_width=32, part_layers=1, part_heads=4, part_head_width=16, part_mlp=128
            ),
            image_tower="vit_micro",
            text_tower="text_micro",
            tokenizer="data",
            pieces=512,
            width=64,
            image_size=64,
            image_height=128,
            text_length=48,
            batch_size=64,
            steps=300,
            lr=1e-3,
            warmup=20.0,
            clip_norm=1.0,
            decay="matrices",
            warmup_from=None,
            image_dropout=0.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """Pre-training as released: ViT-B/16 and BERT-base, 384 x 128 pixels, cosines without a temperature, 15 epochs of 1.3 million
        pseudo texts. CLIP's vocabulary takes the place of BERT's word pieces, which are not at hand without a download."""
        patches = GuessedPatchConfig(places="released", targets="released", teacher="open_clip:ViT-B-16/openai")
        pixels: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "flip_sides": "ignore", "decoding": "whole"}
        loss: dict[str, Any] = {"learned_scale": False, "read_padding": True, "same_group": "negative", "compared": 64}
        return cls(**loss, **pixels, guessed_patches=patches, adam="transformers")
