"""A trainable system and its phases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self

import numpy as np
from typing_extensions import TypeVar

from diptych.core.contracts.capabilities import Deployable
from diptych.core.contracts.data import Batch, Dataset, Draws, Order
from diptych.core.contracts.optimiser import Optimiser
from diptych.core.contracts.run import Hook, Run
from diptych.core.contracts.tuning import Tuning
from diptych.core.errors import UnknownName
from diptych.core.media import MediaItem
from diptych.core.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

M = TypeVar("M", bound="nn.Module", default=Any)
"""The module that is trained."""
B = TypeVar("B", bound=Batch, default=Any)
"""What `Recipe.batch` makes."""
F = TypeVar("F", default=Any)
"""Output of the module for a batch: a dataclass of tensors."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase of a run: a recipe of its own for a share of the steps, on some of the rows. Its schedule starts afresh.

    keep_optimiser  the optimiser goes on with what it remembers of parameters of equal name and shape; else it starts afresh, too
    keep   which samples it trains on (tasks of a continual stream, a warm-up set); None keeps all
    make   new samples from the model so far (candidates, rewrites, answers to prefer); called once, stored under `stages/` in the run
           folder. `run.data` is what the stage before trained on, in the first stage what the run was given; torch's random numbers
           are the stage's own, so that a run that was stopped makes the same
    carry  moves weights from the module of the stage before into this one's; None loads tensors of equal name and shape
    """

    name: str
    recipe: Recipe
    share: float = 1.0
    keep: Callable[[Sample], bool] | None = None
    make: Callable[[Run], Iterable[Sample]] | None = None
    carry: Callable[[nn.Module, nn.Module], None] | None = None
    keep_optimiser: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC, Generic[M, B, F]):
    """A trainable system. A subclass is a frozen dataclass: its fields are the configuration, with published defaults.

    `Recipe[DualEncoder, PairBatch, Pairs]` says what its module, its batches and its features are; a bare `Recipe` is one of any kind.

    Reads top to bottom like a method section: fields, `prepare`, `model`, `batch`, `features`, `losses`, `optimiser`, `hooks`,
    `stages`, `deploy`, `tiny`, `paper`.

    batch_size    samples an optimiser step, over all processes
    steps         optimiser steps; 0 counts epochs instead
    epochs        passes over the data, where steps is 0
    lr            learning rate at its highest
    warmup        steps until then; below 1, a share of the run
    weight_decay  on weight matrices; biases, norms and temperatures are spared
    clip_norm     gradients are scaled down to this norm; 0 leaves them
    """

    slug: ClassVar[str] = ""
    engine: ClassVar[str] = "supervised"
    """What brings it to its weights: "supervised", "solve", "preference", "policy" (`contracts/engine.py`), or "module:Class"."""
    needs: ClassVar[tuple[str, ...]] = ("image", "texts")
    """Fields of `Sample` that must be there; a name that is not a field is looked up in `media`, then in `extras`."""
    cacheable: ClassVar[bool] = True
    """False when features of a chunk depend on the other chunks (say why in the docstring)."""
    keeps_adapters: ClassVar[bool] = False
    """True where low-rank adapters of its own stay apart from the weights in what is deployed."""
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper")
    """Class methods without arguments that make a configuration."""

    batch_size: int = 256
    steps: int = 0
    epochs: float = 32.0
    lr: float = 5e-4
    warmup: float = 2000.0
    weight_decay: float = 0.2
    clip_norm: float = 0.0

    def prepare(self, data: Dataset) -> Self:
        """Fill in what depends on the data: a tokeniser, class names, a label vocabulary. Deterministic."""
        return self

    def row_order(self, data: Dataset) -> Order | None:
        """Order of rows in an epoch, where a random permutation will not do: whole groups in a batch, rare concepts more often
        (`data.load.order`). Called once a stage with its data; deterministic.
        """
        return None

    @abstractmethod
    def model(self) -> M:
        """A fresh module from the current torch random state. Its `forward` returns a dataclass of tensors; learnable scalars
        have shape [1] and are among what it returns, so that data-parallel and sharded wrappers see them."""

    @property
    def measured_by(self) -> str:
        """Task (`diptych.tasks`) that evaluates a run when none is given; options after a colon, "vg150:ks=[5]". "" if there is none."""
        return "retrieval"

    @property
    def decode_size(self) -> int | None:
        """Minimum short side in pixels of a decoded image; 0 for full size, None for no decoding at all."""
        return 0

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """Decoded media of one sample by name, "image" as `Draw.image_HWC`. The default decodes the picture.

        Runs in loader workers with the draw's own generator, before `batch`. A `DecodeError` costs that sample alone. A recipe
        of clips returns ``{"clip": sample.media["clip"].decode(frames=8, rng=rng)}`` and says ``needs = ("clip", "texts")``.
        """
        if sample.image is None or self.decode_size is None:
            return {}
        return {"image": MediaItem("image", (sample.image,)).decode(min_side=self.decode_size)}

    @abstractmethod
    def batch(self, draws: Draws) -> B:
        """Runs in loader workers: augment, choose texts, tokenise, stack. Pure: all randomness from the draws."""

    @abstractmethod
    def features(self, model: M, batch: B) -> F:
        """Calls `model` exactly once. May be run in chunks of the batch; fields that are declared `Rows` are joined."""

    @abstractmethod
    def losses(self, features: F, batch: B) -> dict[str, Tensor]:
        """Named terms whose sum is minimised, each the mean over the global batch. Sees the whole batch of this process; terms
        that look across processes do so themselves (`objectives`), so that the average of the processes' gradients is exact."""

    def metrics(self, features: F, batch: B) -> dict[str, Tensor]:
        """Metrics for the log that are not minimised (accuracy in the batch, temperature). No gradient."""
        return {}

    def optimiser(self) -> Optimiser:
        return Optimiser(lr=self.lr, warmup=self.warmup, weight_decay=self.weight_decay, clip_norm=self.clip_norm)

    def tuning(self) -> Tuning:
        """Fine-tuning settings of the paper, where it does not train every weight alike; options of a run overrule them field by
        field.
        """
        return Tuning()

    def after_update(self, model: M, features: F, batch: B, progress: float) -> None:
        """Update state of the training module after an optimiser step: a queue, running gates, a teacher's moving average, a clamped
        temperature.

        `features` are detached and cover this process's batch; `progress` runs from 0 to 1 over the stage. Runs without gradient.
        """

    def stored(self, name: str) -> bool:
        """True if the tensor of that name belongs in checkpoints; False for frozen weights that `model` loads again."""
        return True

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of weights that a run starts from, under the names and in the shapes that this recipe's module has; those that it
        has no place for may stay."""
        return tensors

    def hooks(self) -> Sequence[Hook]:
        return ()

    def stages(self) -> Sequence[Stage]:
        """Phases in order; empty means one phase of this recipe."""
        return ()

    @abstractmethod
    def deploy(self, model: M) -> Deployable:
        """The model for inference, with its capabilities. Shares the module, copies nothing."""

    @classmethod
    def preset(cls, name: str) -> Self:
        """The configuration of that name."""
        if name not in cls.presets:
            raise UnknownName(f"preset of '{cls.slug}'", name, cls.presets)
        made: Self = getattr(cls, name)()
        return made

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """The mechanism at a size that trains in minutes on two cores."""

    @classmethod
    @abstractmethod
    def paper(cls) -> Self:
        """The published configuration."""
