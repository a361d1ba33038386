"""GrowCLIP: a dual encoder that grows when data are added: layers, shared layers or MLP width, starting from its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Hook, Run, Stage
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.data.load.batch import PairBatch
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.growing_encoder import GrowingEncoder, transformer_of
from diptych.models.towers.growth import GrowthInit, TowerSizes
from diptych.models.towers.outputs import PairFeatures, Tower
from diptych.models.towers.towers import image_tower, text_tower
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.train.halving import successive_halving


@dataclass(frozen=True, kw_only=True)
class GrowCLIP(DualEncoderRecipe):
    """GrowCLIP: Data-aware Automatic Model Growing for Large-scale Contrastive Language-Image Pre-training (Deng et al., 2023,
    arXiv 2308.11331). Baseline: `clip`.

    The data come in growing parts, each holding the one before. When a larger part begins, candidates from a growth space (layers of
    either tower, layers that both towers share, width of the MLPs) inherit the weights, are trained for a few steps and halved by
    their loss until one is left. The model then grows to that shape. New weights are a mixture of copied and fresh ones (parameter
    inheriting with momentum); with `identity` the model's outputs do not change at that moment. The optimiser keeps its
    memory of what stays, with zeros for what is new, and the learning rate is warmed up again.

    No code was released and we could read the abstract only: growth space, search and the place of beta are our reading of it. The
    search is paid for: its steps are in the log (kind "growth"), beside the losses of all candidates.

    Shared layers need towers of equal width. Growth with `--shard fsdp` is refused.

    layers     of image tower, text tower and shared encoder at the start
    parts      share of the samples in each part, growing; one growth between any two
    shares     of the steps for each part; empty: equal
    more       so many layers can be added at a growth, to each of image tower, text tower and shared encoder; all 0, and wider 0, for a
               model that never grows
    wider      by so many tower widths the MLPs of either tower can grow
    budget     a growth multiplies the parameters of towers and shared blocks by this at most
    candidates so many shapes are tried, those nearest to the budget; 1 takes the largest without a search
    trial      steps of each candidate in each round of the search
    beta       share of the copied weights in new ones
    identity   new blocks change nothing at first
    """

    slug = "growclip"
    no_prefixes = "its model grows between stages, by losses of its own"

    layers: tuple[int, int, int] = (8, 8, 0)
    parts: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    shares: tuple[float, ...] = ()
    more: tuple[int, int, int] = (2, 2, 2)
    wider: int = 0
    budget: float = 1.5
    candidates: int = 8
    trial: int = 500
    beta: float = 0.9
    identity: bool = True

    batch_size: int = 32_768

    part: int = field(default=0, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not self.parts or list(self.parts) != sorted(self.parts) or not 0 < self.parts[0] <= self.parts[-1] <= 1:
            raise ConfigError(f"parts is {self.parts} (expected growing shares above 0, at most 1)")
        if self.shares and len(self.shares) != len(self.parts):
            raise ConfigError(f"shares has {len(self.shares)} numbers for {len(self.parts)} parts (expected as many)")
        if self.layers[0] < 1 or self.layers[1] < 1 or min(*self.layers, *self.more, self.wider) < 0:
            raise ConfigError(
                f"layers is {self.layers}, more {self.more}, wider {self.wider} (expected towers of 1 or more, else 0 or more)"
            )
        if self.budget <= 1 or self.candidates < 1 or self.trial < 1:
            raise ConfigError("budget must be above 1, candidates and trial 1 or more")

    @property
    def grows(self) -> bool:
        return max(*self.more, self.wider) > 0

    @property
    def inherit(self) -> GrowthInit:
        return GrowthInit(self.beta, self.identity)

    def stages(self) -> Sequence[Stage]:
        """One a part of the data; each holds the samples of the one before."""
        shares = self.shares or (1.0,) * len(self.parts)
        return [
            Stage(
                f"part{n}",
                replace(self, part=n),
                share=share,
                keep=partial(_is_in, part),
                carry=_carry,
                keep_optimiser=True,
            )
            for n, (part, share) in enumerate(zip(self.parts, shares, strict=True))
        ]

    def hooks(self) -> Sequence[Hook]:
        return [Growth()]

    def started(self, model: Any) -> Self:
        """Starts with the layers of the weights, shared ones included."""
        adapted = super().started(model)
        if not isinstance(model, PairEmbedder):
            return adapted
        inner = model.model
        depths = [len(transformer_of(tower).blocks) for tower in (inner.image_tower, inner.text_tower)]
        return replace(adapted, layers=(depths[0], depths[1], len(getattr(inner, "shared", ()))))

    def towers(self) -> tuple[Tower, Tower]:
        image = image_tower(self.image_tower, **{**self.image_options(), "layers": self.layers[0]})
        text = text_tower(self.text_tower, **{**self.text_options(), "layers": self.layers[1]})
        return self.projected(image, "image"), self.projected(text, "text")

    def model(self) -> GrowingEncoder:
        image, text = self.towers()
        return GrowingEncoder(image, text, width=self.width, shared_layers=self.layers[2])

    def growth_space(self, model: GrowingEncoder) -> list[TowerSizes]:
        """The shapes that are tried next: larger than now, within the budget, the largest first."""
        now = model.shape
        steps = [range(most + 1) for most in self.more] + [range(self.wider + 1)] * 2
        shapes = [now.plus(**dict(zip(TowerSizes.__slots__, more, strict=True))) for more in product(*steps) if any(more)]
        if model.image_tower.width != model.text_tower.width:
            shapes = [shape for shape in shapes if not shape.shared_layers]
        limit = self.budget * size_of(model, now)
        fitting = sorted((s for s in shapes if size_of(model, s) <= limit), key=lambda s: (-size_of(model, s), s))
        if not fitting:
            raise ConfigError(f"nothing larger than {now} is within a budget of {self.budget:g} (expected a larger one)")
        return fitting[: self.candidates]

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    @classmethod
    def tiny(cls) -> Self:
        """`clip`'s small towers at half their depth, grown once in the middle."""
        own: dict[str, Any] = {
            "layers": (2, 1, 0),
            "parts": (0.5, 1.0),
            "more": (2, 1, 1),
            "candidates": 3,
            "trial": 6,
            "budget": 2.5,
        }
        return cls(**{**SMALL_CLIP, "warmup": 10.0}, **own)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 and a text tower of its width that begin with eight layers each, on four growing parts of 12 million pairs; batch and
        learning rate are CLIP's. The growth space has all of the published dimensions: layers of either tower, shared layers, and the
        width of the MLPs (`wider`). How far each goes could not be read: two layers, and one tower width, are ours."""
        return cls(text_tower="text_clip_l", same_group="negative", wider=1, decoding="whole")


def size_of(model: GrowingEncoder, shape: TowerSizes) -> int:
    """Parameters of the blocks of towers and shared encoder, for a model of that shape."""
    image, text = model.image_tower.width, model.text_tower.width
    blocks = [(image, shape.image_mlp, shape.image_layers), (text, shape.text_mlp, shape.text_layers)]
    blocks.append((image, shape.image_mlp, shape.shared_layers))
    return sum(layers * (4 * w * w + 4 * w + 2 * ratio * w * w + ratio * w + w + 4 * w) for w, ratio, layers in blocks)


class Growth(Hook):
    """At the start of every part but the first: search, then grow. Remembers the shape, so that a resumed run has the same parameters."""

    name = "growth"

    def __init__(self) -> None:
        self.shape: TowerSizes | None = None

    def on_stage(self, run: Run, stage: Stage) -> None:
        recipe, model = run.recipe, run.model
        assert isinstance(recipe, GrowCLIP)
        assert isinstance(model, GrowingEncoder)
        if recipe.part == 0 or not recipe.grows:
            return
        shapes = recipe.growth_space(model)
        base = int(torch.randint(2**31, ()))  # the run's random state is that of the stage's start, whether killed before or not
        best, facts = 0, {}
        if len(shapes) > 1:
            trials = [_grow(deepcopy(model), shape, recipe.inherit, base) for shape in shapes]
            search = successive_halving(run, trials, steps=recipe.trial, seed=keyed_seed("growth", recipe.part))
            best, facts = search.best, {"losses": list(search.losses), "search_steps": search.steps}
        torch.manual_seed(base)
        grown = model.grow_(shapes[best], recipe.inherit)
        run.replace_model(model, grown)
        self.shape = shapes[best]
        run.log("growth", part=recipe.part, shapes=[asdict(s) for s in shapes], chosen=asdict(self.shape), **facts)

    def state(self) -> dict[str, Any]:
        return {"shape": None if self.shape is None else asdict(self.shape)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.shape = None if state["shape"] is None else TowerSizes(**state["shape"])

    def reshape(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, GrowingEncoder)
        if self.shape is not None:
            model.grow_(self.shape, GrowthInit())
        return model


def _grow(model: GrowingEncoder, shape: TowerSizes, inherit: GrowthInit, seed: int) -> GrowingEncoder:
    torch.manual_seed(seed)
    model.grow_(shape, inherit)
    return model


def _is_in(part: float, sample: Sample) -> bool:
    """The same samples in every run: groups are kept together, and a larger part holds every smaller one."""
    return keyed_seed("part", sample.group or sample.uid) < part * 2**63


@torch.no_grad()
def _carry(before: nn.Module, after: nn.Module) -> None:
    assert isinstance(before, GrowingEncoder)
    assert isinstance(after, GrowingEncoder)
    after.grow_(before.shape, GrowthInit())
    after.load_state_dict(before.state_dict())
