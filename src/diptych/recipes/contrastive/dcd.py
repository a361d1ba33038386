"""DCD: a dual encoder distilled from a fusion model on hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Draws, Optimiser, Stage
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch, group_ids, view
from diptych.models.io.foreign.matchers import open_matcher, reader_inputs
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.distilled_encoder import DistilledEncoder, DistilledPairs
from diptych.models.pairs.matching.matcher import MatcherTraining, PairMatcher
from diptych.objectives.distillation.candidates import Weighting, candidate_distillation, weighting_rule
from diptych.objectives.gather import all_gather, gather_rows, mean_over_processes, world
from diptych.recipes._shared.fused_pairs import FusedRecipe
from diptych.recipes._shared.pairs import EncoderRecipe, PairRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.train.weights import copy_matching_tensors

TEACHER = "companions.teacher."


@dataclass(frozen=True, kw_only=True)
class DistilledBatch(PairBatch):
    """Pairs as the student sees them, and the same views and texts as the teacher does."""

    teacher_image_BCHW: Rows[Tensor]
    teacher_text_BL: Rows[Tensor]
    teacher_mask_BL: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class DCD(EncoderRecipe[DistilledEncoder, DistilledBatch, DistilledPairs]):
    """DCD: Dynamic Contrastive Distillation for Image-Text Retrieval (Rao et al., 2022, arXiv 2207.01426). Baseline: `clip`.

    A matcher reads every pair of image and text together: accurate, and too slow to search with. It teaches a dual encoder, whose vectors
    are computed before a query comes. Each image has a short list of texts, its own and `candidates` wrong ones that are hard, and each
    text such a list of images; the student learns from a list alone (its own text must win) and from the teacher (its scores must be
    the teacher's), and how much of either moves with how hard the pair is and how far the student has come.

    Our reading, not the paper's word: of its method only the abstract was at hand. That the teacher names the hard pairs, and that the
    share between both lessons is dynamic, is published; the lists, the formulas of the weights, every default of this recipe, and a dual
    encoder as the student are ours. The paper makes two large models, ViLT and METER, small.

    Without `teacher` a run trains one first (recipe `fused`, at this recipe's towers), for `teacher_share` of its steps. Any matcher
    teaches: a run of `fused`, or "hf:FOLDER" of a BlipForImageTextRetrieval; the run reads it again when it resumes, and does not store
    it. Lists are drawn over the batch of all processes, so batches cannot be cut into chunks.

    teacher        address of a matcher; "" trains one first
    teacher_share  share of the steps that a teacher of its own takes
    fusion_layers, fusion_heads  of that teacher: blocks that read words and patches together, and their heads
    teacher_layers of that teacher's towers; 0 takes as many as they have
    layers         of the student's towers; 0 takes as many as they have
    from_teacher   the student starts from every n-th layer of the teacher's towers, where those are ours and as wide
    candidates     wrong ones in each list
    negatives      model that ranks hard negatives: the "teacher", the "student" as it is now, "both" half and half, or none ("random")
    exact          the teacher looks for hard ones by reading all pairs of the batch, not by its vectors
    scores         what is learned of the teacher: its "match" of pairs read together, or the "contrast" of its vectors
    tau            temperature of the distillation, of teacher and student
    drop_margin    wrong ones that the teacher scores above an image's own text less this are dropped as likely matches; None keeps all
    weighting      share that is learned alone: "constant", "focal" or "gap" (`objectives/distillation/candidates.py`)
    alone          the share, where it is constant
    gamma          of "focal": (1 - student's certainty)^gamma
    steepness      of "gap"
    feature_weight weight of a linear guess of the teacher's fused vector from both of the student's; 0 leaves it out
    """

    slug = "dcd"
    cacheable = False
    no_prefixes = "its lists hold scores of whole vectors"

    teacher: str = ""
    teacher_share: float = 0.5
    fusion_layers: int = 6
    fusion_heads: int = 8
    teacher_layers: int = 0
    layers: int = 0
    from_teacher: bool = False
    candidates: int = 8
    negatives: Literal["teacher", "student", "both", "random"] = "teacher"
    exact: bool = False
    scores: Literal["match", "contrast"] = "match"
    tau: float = 2.0
    drop_margin: float | None = 0.0
    weighting: Weighting = "gap"
    alone: float = 0.5
    gamma: float = 2.0
    steepness: float = 5.0
    feature_weight: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.teacher_share < 1:
            raise ConfigError(f"teacher_share is {self.teacher_share} (expected a share between 0 and 1)")
        if self.candidates < 1 or self.tau <= 0 or min(self.layers, self.teacher_layers) < 0:
            raise ConfigError("candidates must be 1 or more, tau above 0, layers 0 or more")
        weighting_rule(self.weighting, alone=self.alone, gamma=self.gamma, steepness=self.steepness)

    # ------------------------------------------------------------ teacher

    def stages(self) -> Sequence[Stage]:
        """A teacher of its own first, where no other is named."""
        if self.teacher:
            return ()
        return [
            Stage("teacher", self.fused(), share=self.teacher_share),
            Stage("student", self, share=1 - self.teacher_share, carry=self.carry),
        ]

    def fused(self) -> TeacherRecipe:
        """The recipe of a teacher of its own: what both have in common is this recipe's."""
        shared = {f.name: getattr(self, f.name) for f in fields(PairRecipe)}
        own: dict[str, Any] = {
            "fusion_layers": self.fusion_layers,
            "fusion_heads": self.fusion_heads,
            "betas": self.betas,
            "eps": self.eps,
        }
        return TeacherRecipe(**shared, **own, layers=self.teacher_layers)

    def carry(self, before: nn.Module, after: nn.Module) -> None:
        """The matcher becomes the teacher, and where asked for the student's start."""
        assert isinstance(before, MatcherTraining)
        assert isinstance(after, DistilledEncoder)
        after.companions["teacher"].load_state_dict(before.matcher.state_dict())
        if self.from_teacher:
            start_from(after.encoder, before.matcher.encoder)

    def stored(self, name: str) -> bool:
        return not (self.teacher and name.startswith(TEACHER))

    # ------------------------------------------------------------ student

    def image_options(self) -> dict[str, Any]:
        return {**super().image_options(), **({"layers": self.layers} if self.layers else {})}

    def text_options(self) -> dict[str, Any]:
        return {**super().text_options(), **({"layers": self.layers} if self.layers else {})}

    def model(self) -> DistilledEncoder:
        image, text = self.towers()
        encoder = DualEncoder(image, text, width=self.width)
        reader: PairMatcher
        teacher_scale = 1 / 0.07
        if self.teacher:
            opened = open_matcher(self.teacher)
            reader = opened.matcher
            if self.from_teacher:
                if not isinstance(opened.model, DualEncoder):
                    raise ConfigError(
                        f"{self.teacher} has no towers that the student could start from (expected a run of recipe fused)"
                    )
                start_from(encoder, opened.model)
            if isinstance(opened.model, DualEncoder):
                teacher_scale = float(opened.model.log_scale.detach().exp())
        else:
            reader = self.fused().matcher()
        return DistilledEncoder(
            encoder,
            reader,
            candidates=self.candidates,
            negatives=self.negatives,
            scores=self.scores,
            teacher_scale=teacher_scale,
            exact=self.exact,
            guess=self.feature_weight != 0,
            apart=self.same_group != "negative",
            gather=all_gather,
            world=world,
        )

    @property
    def decode_size(self) -> int:
        return 0 if self.decoding == "whole" else self.view_size

    @property
    def view_size(self) -> int:
        """Pixels a side of what both student and teacher are shown."""
        return max(self.image_size, reader_inputs(self.teacher).preprocess.size if self.teacher else 0)

    def batch(self, draws: Draws) -> DistilledBatch:
        """One text and one crop of every draw, for both: the crop is as large as the larger of the two needs it."""
        texts, images = [], []
        for draw in draws:
            texts.append(self.text_of(draw))
            images.append(view(draw, self.view_size, self.crop, self.flip, self.crop_form))
        encoded = self.words().encode(texts, self.text_length)
        image_BCHW = self.preprocess(images)
        text_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
        pairs = DistilledBatch(
            image_BCHW=image_BCHW,
            text_BL=text_BL,
            text_mask_BL=mask_BL,
            group_B=group_ids(draws),
            truncated=encoded.truncated,
            teacher_image_BCHW=image_BCHW,
            teacher_text_BL=text_BL,
            teacher_mask_BL=mask_BL,
        )
        if not self.teacher:
            return pairs
        given = reader_inputs(self.teacher)
        read = given.tokenizer.encode(texts, given.text_length)
        preprocess = (
            given.preprocess if self.crop[0] >= 1 else replace(given.preprocess, margin=0)
        )  # crops have no margin to cut off
        return replace(
            pairs,
            teacher_image_BCHW=preprocess(images),
            teacher_text_BL=torch.from_numpy(read.ids_BL),
            teacher_mask_BL=torch.from_numpy(read.mask_BL),
        )

    def features(self, model: DistilledEncoder, batch: DistilledBatch) -> DistilledPairs:
        outputs: DistilledPairs = model(
            batch.image_BCHW,
            batch.text_BL,
            batch.text_mask_BL,
            batch.teacher_image_BCHW,
            batch.teacher_text_BL,
            batch.teacher_mask_BL,
            batch.group_B,
        )
        return outputs

    def losses(self, features: DistilledPairs, batch: DistilledBatch) -> dict[str, Tensor]:
        losses = {"distilled": torch.stack([loss for loss, _ in self.lists(features)]).mean()}
        if features.fused_ND is not None and features.guessed_ND is not None:
            gap = (features.guessed_ND - features.fused_ND).pow(2).mean()
            losses["features"] = self.feature_weight * mean_over_processes(gap)
        return losses

    def lists(self, features: DistilledPairs) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and parts of the lists of images, then of those of texts."""
        weigh = weighting_rule(self.weighting, alone=self.alone, gamma=self.gamma, steepness=self.steepness)
        sides = (
            (features.image_ND, features.text_ND, features.text_place_NK, features.by_image_NK, features.kept_image_NK),
            (features.text_ND, features.image_ND, features.image_place_NK, features.by_text_NK, features.kept_text_NK),
        )
        rankings = []
        for anchor_ND, other_ND, place_NK, teacher_NK, kept_NK in sides:
            student_NK = features.scale * torch.einsum("nd,nkd->nk", anchor_ND, gather_rows(other_ND)[place_NK])
            rankings.append(
                candidate_distillation(
                    student_NK, teacher_NK, weigh=weigh, kept_NK=kept_NK, tau=self.tau, margin=self.drop_margin
                )
            )
        return rankings

    def metrics(self, features: DistilledPairs, batch: DistilledBatch) -> dict[str, Tensor]:
        with torch.no_grad():
            parts_of_lists = [parts for _, parts in self.lists(features)]
        means = {name: torch.stack([parts[name] for parts in parts_of_lists]).mean() for name in parts_of_lists[0]}
        return {"scale": features.scale.detach(), **means}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=self.betas, eps=self.eps)

    @classmethod
    def tiny(cls) -> Self:
        """The towers and batch of `clip`'s for the student; the teacher has two blocks above its own, and half of the steps."""
        return cls(**SMALL_CLIP, fusion_layers=2, fusion_heads=3)

    @classmethod
    def paper(cls) -> Self:
        """Students of four layers from every third of a teacher of ViT-B/16's size with six blocks above, which is what could be learned of
        the paper's sizes; batch and rate are our reading."""
        return cls(
            image_tower="vit_b16", layers=4, from_teacher=True, batch_size=512, lr=1e-4, weight_decay=0.02, warmup=1000.0,
            same_group="negative", decoding="whole",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(FusedRecipe):
    """The first stage of DCD. `layers` are those of its towers; 0 takes as many as they have."""

    slug = "fused"

    layers: int = 0

    def image_options(self) -> dict[str, Any]:
        return {**super().image_options(), **({"layers": self.layers} if self.layers else {})}

    def text_options(self) -> dict[str, Any]:
        return {**super().text_options(), **({"layers": self.layers} if self.layers else {})}


@torch.no_grad()
def start_from(student: DualEncoder, teacher: DualEncoder) -> None:
    """Every tensor of equal name and shape, and of blocks the n-th, 2n-th, ... of the teacher's, the last one among them."""
    copied = 0
    tensors = dict(teacher.state_dict())
    for side in ("image_tower", "text_tower"):
        few, many = (_blocks(getattr(model, side)) for model in (student, teacher))
        for index, block in enumerate(few or ()):
            if many:
                copied += len(copy_matching_tensors(many[(index + 1) * len(many) // len(few or ()) - 1].state_dict(), block))
        for name in [name for name in tensors if name.startswith(f"{side}.transformer.blocks.")]:
            del tensors[name]
    copied += len(copy_matching_tensors(tensors, student))
    if copied < (expected := len(student.state_dict())):
        raise ConfigError(f"the student takes {copied} of its {expected} tensors from the teacher (expected all: equal widths)")


def _blocks(tower: nn.Module) -> nn.ModuleList | None:
    blocks = getattr(getattr(tower, "transformer", None), "blocks", None)
    return blocks if isinstance(blocks, nn.ModuleList) and len(blocks) else None
