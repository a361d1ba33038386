"""Distillation from a teacher during fine-tuning: the initial model or any other embedder (`Tuning.distill`).

The loss is open_clip's `DistillClipLoss` (`objectives.distillation.topology.clip_distillation`): cross-entropies between the teacher's
and the student's softmax over the similarities of the batch, rows and columns, each side with its own scale.

The initial model as teacher computes the recipe's own features. Another embedder sees the same crops in the student's
resolution and the same texts, through its own preprocessing and tokenizer.

Letters: B batch, N items, C channel, H W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Batch, Embedder, Hook, Recipe, Trainer, Tuning
from diptych.core.errors import ConfigError, RunError
from diptych.core.image import ArrayImage
from diptych.models.io.open_address import open_address, require
from diptych.objectives.distillation.topology import clip_distillation
from diptych.train.engines.companions import FrozenModels, frozen_copy

START = "start"


class Teacher(Hook):
    """Gives every step a further loss, "distillation". The start is kept in the checkpoints; another embedder is opened again from its
    address and refused when it is not the same."""

    name = "teacher"

    def __init__(self, tuning: Tuning, recipe: Recipe) -> None:
        if recipe.stages() and tuning.distill == START:
            raise ConfigError(
                f"--distill start: '{recipe.slug}' has stages with models of their own (expected a recipe of one stage)"
            )
        self.tuning, self.recipe = tuning, recipe
        self.start: FrozenModels | None = None
        self.other: Any = None
        if tuning.distill != START:
            self.other = open_address(tuning.distill)
            require(self.other, Embedder, who="--distill")
            self.scale = tuning.distill_scale or own_scale(self.other)
            if not self.scale:
                raise ConfigError(
                    f"--distill {tuning.distill}: it has no temperature of its own (expected --distill-scale, such as 100)"
                )

    def begin(self, model: nn.Module) -> None:
        if self.other is None:
            self.start = FrozenModels({START: frozen_copy(model)}, model, self.recipe)

    def further(self, run: Trainer, batch: Batch) -> Callable[[Any, Batch], Mapping[str, Tensor]]:
        """Distillation loss as a function of features. The teacher runs here, with the step's random numbers left as they are."""
        with torch.random.fork_rng():
            image_ND, text_ND, scale = (
                self._initial_features(run, batch) if self.other is None else self._teacher_features(run, batch)
            )

        def loss(features: Any, _: Batch) -> Mapping[str, Tensor]:
            student = pair_of(features, self.recipe)
            if len(student[0]) != len(image_ND) or len(student[1]) != len(text_ND):
                raise ConfigError(
                    f"--distill: '{self.recipe.slug}' makes {len(student[0])} image and {len(student[1])} text vectors of a batch, "
                    f"the teacher {len(image_ND)} and {len(text_ND)} (expected --distill start)"
                )
            value = clip_distillation(student[0], student[1], image_ND, text_ND, scale=student[2], teacher_scale=scale)
            return {"distillation": self.tuning.distill_weight * value}

        return loss

    def _initial_features(self, run: Trainer, batch: Batch) -> tuple[Tensor, Tensor, Tensor | float]:
        if self.start is None:
            raise RunError("the teacher has not begun")
        like = next(run.model.parameters())
        model = self.start[START].to(like.device, like.dtype)
        image_ND, text_ND, scale = pair_of(run.features_of(model, batch), self.recipe)
        return image_ND, text_ND, self.tuning.distill_scale or scale

    def _teacher_features(self, run: Trainer, batch: Any) -> tuple[Tensor, Tensor, Tensor | float]:
        texts, image_BCHW = getattr(batch, "strings", None), getattr(batch, "image_BCHW", None)
        preprocess = getattr(self.recipe, "preprocess", None)
        if texts is None or image_BCHW is None or preprocess is None:
            raise ConfigError(
                f"--distill {self.tuning.distill}: the batches of '{self.recipe.slug}' do not carry one picture and one text a row "
                "(expected --distill start)"
            )
        mean_C, std_C = (image_BCHW.new_tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
        pixels_BHWC = (
            (image_BCHW * std_C + mean_C).mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        )
        like = next(run.model.parameters())
        image_ND = torch.from_numpy(self.other.embed_images([ArrayImage(pixels_HWC) for pixels_HWC in pixels_BHWC]))
        text_ND = torch.from_numpy(self.other.embed_texts(list(texts)))
        return image_ND.to(like.device), text_ND.to(like.device), self.scale

    def state(self) -> dict[str, Any]:
        return {"fingerprint": self.other.fingerprint} if self.start is None else self.start.state()

    def load(self, state: dict[str, Any]) -> None:
        if self.other is not None:
            if state["fingerprint"] != self.other.fingerprint:
                raise RunError(f"--distill {self.tuning.distill} is another model now than when the run began")
            return
        with torch.random.fork_rng():
            model: nn.Module = self.recipe.model()
        self.start = FrozenModels({START: model}, nn.Linear(1, 1), self.recipe)  # placed beside the model when it is asked
        self.start.load(state)


def pair_of(features: Any, recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Image and text vectors [N, D] and the scale among the features of a recipe. Raises ConfigError if they are not there."""
    values: list[Any] = [getattr(features, name, None) for name in ("image_ND", "text_ND", "scale")]
    if any(value is None for value in values):
        raise ConfigError(
            f"--distill: the features of '{recipe.slug}' are not image and text vectors with a scale "
            "(expected a recipe of a dual encoder, such as clip)"
        )
    image_ND, text_ND, scale = values
    return image_ND, text_ND, scale


def own_scale(embedder: Any) -> float:
    """The factor on similarities that a dual encoder learned; 0 if it has none."""
    model = getattr(embedder, "model", None)
    for holder in (model, getattr(model, "inner", None)):
        for name in ("log_scale", "logit_scale"):
            if isinstance(value := getattr(holder, name, None), Tensor):
                return float(value.detach().exp().reshape(()))
    return 0.0
