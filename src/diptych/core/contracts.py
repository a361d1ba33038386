"""What the rooms promise each other. `train` meets recipes and tasks, and `curate` meets models, only through this file.

torch is imported for type checking only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.errors import UnknownName
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor, nn

# ---------------------------------------------------------------- data


class Dataset(Protocol):
    """Samples by row. Rows never change while a `Dataset` object lives; a subset or a split is another object."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when any uid, text, image hash or group does. Stored with runs, records and claims."""

    @property
    def uids(self) -> Sequence[str]: ...

    @property
    def groups(self) -> Sequence[str]:
        """One group a row; a row without one is its own group (its uid)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Sample: ...

    def select(self, rows: Sequence[int]) -> Dataset: ...

    def split(self, name: str) -> Dataset: ...


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as one epoch sees it: decoded, with random numbers of its own.

    rng        keyed by (seed, epoch, uid): augmentation and the choice of a text come from here and nowhere else
    image_HWC  uint8 RGB, decoded at `Recipe.decode_size` or larger; None when the sample has no image or the recipe wants none
    media      what else `Recipe.load` decoded, by name
    """

    sample: Sample
    rng: np.random.Generator
    image_HWC: npt.NDArray[np.uint8] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draws(Sequence[Draw]):
    """The draws of one process in one step.

    rng   keyed by (seed, step) alone, so equal on all ranks: label lists, batch-wide negatives
    step  counts optimiser steps from 0
    """

    items: tuple[Draw, ...]
    rng: np.random.Generator
    step: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.items)


class Batch(Protocol):
    """A dataclass of tensors (and of tuples, where rows are ragged). Names end in their shape, and the first letter of the shape
    tells what chunking does: B or N is the batch axis and is cut; anything else is shared by all chunks."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Self: ...

    def rows(self, start: int, stop: int) -> Self:
        """The same batch, only these rows; views where possible."""


# ---------------------------------------------------------------- capabilities: what a trained model can do

Unit = npt.NDArray[np.float32]  # [N, D], rows of norm 1


@runtime_checkable
class Embedder(Protocol):
    """Images and texts in one space. Rows are unit-norm float32 in the order given."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes with the weights or the preprocessing; an index refuses to mix two of them."""

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit: ...

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit: ...


@runtime_checkable
class TokenEmbedder(Protocol):
    """Per patch and per word: lists of [P, D] and [L, D] arrays, rows unit-norm, padding left out."""

    def embed_patches(self, images: Sequence[ImageSource]) -> list[Unit]: ...

    def embed_words(self, texts: Sequence[str]) -> list[Unit]: ...


@runtime_checkable
class DenseEmbedder(Protocol):
    """What an image tower says of each place, before any projection: float32 [N, rows, columns, D], for probes."""

    def embed_dense(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class LexicalEmbedder(Protocol):
    """Sparse weights over a vocabulary: a dict term -> weight > 0 for each input."""

    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]: ...

    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]: ...


@runtime_checkable
class Detector(Protocol):
    """Regions and relations for the given names, as one `SceneGraph` an image."""

    def detect(self, images: Sequence[ImageSource], *, objects: Sequence[str], relations: Sequence[str] = ()) -> list[Any]: ...


@runtime_checkable
class Relater(Protocol):
    """Relations between regions that are given: the same regions in the same order, one `SceneGraph` an image.

    With `labels_known` the labels of the regions are true and stay; without, they are "" and the model fills in names of
    `objects` and scores.
    """

    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        labels_known: bool,
    ) -> list[SceneGraph]: ...


@runtime_checkable
class Segmenter(Protocol):
    """Label maps int32 [H, W] at each image's own size; index into `labels`."""

    def segment(self, images: Sequence[ImageSource], labels: Sequence[str]) -> list[npt.NDArray[np.int32]]: ...


@runtime_checkable
class Generator(Protocol):
    """Text from images and a prompt."""

    def generate(self, images: Sequence[ImageSource], prompts: Sequence[str], *, max_tokens: int = 64) -> list[str]: ...


@runtime_checkable
class PointEmbedder(Protocol):
    """Point clouds [P, 3 + F] into the space of the texts."""

    def embed_points(self, clouds: Sequence[npt.NDArray[np.float32]]) -> Unit: ...


@runtime_checkable
class ClipEmbedder(Protocol):
    """Videos, each a sequence of frames, into the space of the texts."""

    def embed_clips(self, clips: Sequence[Sequence[ImageSource]]) -> Unit: ...


class Deployable(Protocol):
    """What stays of a run when training is over: answers capabilities and lives in one folder (`model/`).

    `save` writes config.json (with "kind" and "format"), model.safetensors, tokenizer files and README.md.
    """

    kind: ClassVar[str]

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...


# ---------------------------------------------------------------- recipes


@dataclass(frozen=True, slots=True)
class Rule:
    """How parameters whose name matches `pattern` (a regular expression, `re.search`) differ from the rest.

    lr_scale multiplies the learning rate; 0 freezes (no gradient is computed). decay None keeps the default.
    The first rule that matches wins.
    """

    pattern: str
    lr_scale: float = 1.0
    decay: bool | None = None


@dataclass(frozen=True, slots=True)
class Optimiser:
    """The optimiser as data; `train/optimise.py` builds it. Weight decay is decoupled and spares every parameter with
    fewer than two dimensions (biases, norms, scale) unless a rule says otherwise."""

    kind: Literal["adamw", "sgd", "lamb"] = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    schedule: Literal["cosine", "linear", "constant", "step"] = "cosine"
    warmup: float = 0.0  # steps when >= 1, else a share of the run
    final_lr: float = 0.0  # share of lr at the end
    drop_at: float = 0.75  # "step": share of the run from which the rate is a tenth
    clip_norm: float = 0.0  # global gradient norm; 0 leaves gradients alone
    rules: tuple[Rule, ...] = ()


class Run(Protocol):
    """What a hook sees of a run in progress."""

    @property
    def step(self) -> int:
        """Optimiser steps taken."""

    @property
    def steps(self) -> int: ...

    @property
    def model(self) -> nn.Module:
        """The bare module, not its data-parallel wrapper."""

    @property
    def data(self) -> Dataset: ...

    @property
    def recipe(self) -> Recipe: ...

    def log(self, kind: str, **values: Any) -> None: ...

    def batches(self, count: int, *, seed: int) -> Iterator[Any]:
        """Extra batches in an order of their own, for re-clustering or short trials; the run's own order is untouched."""

    @property
    def snapshots(self) -> Path:
        """Where `snapshot` writes; models only, and small files that say what they are."""

    def snapshot(self, name: str) -> None:
        """Writes what inference would need now into `snapshots/NAME`, as it will stand in `model/`; replaces one of that name."""

    def ahead(self, count: int) -> Iterator[Any]:
        """The batches of the next `count` steps, that of the step in hand first, as this process gets them; fewer at the end of a
        stage. The run's own stream is untouched. For what has to be known of an episode before it is trained on."""

    def replace_model(self, model: nn.Module, grown: Mapping[nn.Parameter, nn.Parameter] = ...) -> None:
        """Train another module from the next step on (growth, surgery): wraps it and rebuilds the optimiser, keeping the
        state of every parameter object that is in both. `grown` maps a new parameter to the one that it extends at the end of its
        axes: it takes over that one's state, with zeros where it is new."""


class Hook:
    """Something that happens beside the steps. Every method does nothing by default; override what you need.

    What a hook must remember goes through `state` (plain JSON values and tensors, nested dicts); it is saved with every
    checkpoint. `reshape` is called on resume, after `load`, with the freshly built model and before weights are loaded: a hook
    that changed the model's structure repeats that here.
    """

    name: ClassVar[str] = ""

    def on_start(self, run: Run) -> None:
        """Once a process, also when a run goes on after a stop."""

    def before_step(self, run: Run, batch: Any) -> None: ...

    def after_step(self, run: Run, losses: Mapping[str, float]) -> None: ...

    def on_epoch(self, run: Run, epoch: int) -> None: ...

    def on_stage(self, run: Run, stage: Stage) -> None: ...

    def on_stage_end(self, run: Run, stage: Stage) -> None: ...

    def on_end(self, run: Run) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None: ...

    def reshape(self, model: nn.Module) -> nn.Module:
        return model


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase of a run: a recipe of its own for a share of the steps, on some of the rows. Its schedule starts afresh.

    keep_optimiser  the optimiser goes on with what it remembers of parameters of equal name and shape; else it starts afresh, too
    keep   which samples it trains on (tasks of a continual stream, a warm-up set); None keeps all
    make   new samples from the model so far (candidates, rewrites); called once, stored under `stages/` in the run folder
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
class Recipe(ABC):
    """A trainable system. A subclass is a frozen dataclass: its fields are the configuration, with published defaults.

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
    engine: ClassVar[Literal["supervised", "preference", "policy"]] = "supervised"
    needs: ClassVar[tuple[str, ...]] = ("image", "texts")
    """Fields of `Sample` that must be there; a name that is not a field is looked up in `media`, then in `extras`."""
    cacheable: ClassVar[bool] = True
    """False when features of a chunk depend on the other chunks (say why in the docstring)."""
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

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh module from the current torch random state. Its `forward` returns a dataclass of tensors; learnable scalars
        have shape [1] and are among what it returns, so that data-parallel and sharded wrappers see them."""

    @property
    def measured_by(self) -> str:
        """The task (`diptych.tasks`) that answers how good a run is when nobody names one; options behind a colon, "vg150:ks=[5]"."""
        return "retrieval"

    @property
    def decode_size(self) -> int | None:
        """Short side in pixels below which a decoded image must not fall; 0 asks for full size, None for no decoding at all."""
        return 0

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """What a draw of this sample holds: decoded media by name, "image" as `Draw.image_HWC`. The default decodes the picture.

        Runs in loader workers with the draw's own generator, before `batch`. A `DecodeError` costs that sample alone. A recipe
        of clips returns ``{"clip": sample.media["clip"].decode(frames=8, rng=rng)}`` and says ``needs = ("clip", "texts")``.
        """
        if sample.image is None or self.decode_size is None:
            return {}
        return {"image": MediaItem("image", (sample.image,)).decode(min_side=self.decode_size)}

    @abstractmethod
    def batch(self, draws: Draws) -> Any:
        """Runs in loader workers: augment, choose texts, tokenise, stack. Pure: all randomness from the draws."""

    @abstractmethod
    def features(self, model: nn.Module, batch: Any) -> Any:
        """Calls `model` exactly once. May be run in chunks of the batch; fields whose shape starts with N or B are rows."""

    @abstractmethod
    def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised, each the mean over the global batch. Sees the whole batch of this process; terms
        that look across processes do so themselves (`objectives`), so that the average of the processes' gradients is exact."""

    def metrics(self, features: Any, batch: Any) -> dict[str, Tensor]:
        """Numbers for the log that are not minimised (accuracy in the batch, temperature). No gradient."""
        return {}

    def optimiser(self) -> Optimiser:
        return Optimiser(lr=self.lr, warmup=self.warmup, weight_decay=self.weight_decay, clip_norm=self.clip_norm)

    def after_update(self, model: nn.Module, features: Any, batch: Any, progress: float) -> None:
        """What the training module remembers, right after an optimiser step: a queue, running gates, a teacher's average, a
        clamped temperature. `features` are detached and cover this process's batch; `progress` runs from 0 to 1 over the
        stage. Runs without gradient."""

    def stored(self, name: str) -> bool:
        """Whether the tensor of that name belongs in checkpoints; False for frozen weights that `model` loads again."""
        return True

    def hooks(self) -> Sequence[Hook]:
        return ()

    def stages(self) -> Sequence[Stage]:
        """Phases in order; empty means one phase of this recipe."""
        return ()

    @abstractmethod
    def deploy(self, model: nn.Module) -> Any:
        """What inference needs, as a `Deployable` that answers capabilities. Shares the module, copies nothing."""

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


# ---------------------------------------------------------------- tasks, claims, curation


@runtime_checkable
class Task(Protocol):
    """An evaluation protocol in two phases: `predict` asks the model and writes rows, `score` reads rows and nothing else."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[type]
    main: ClassVar[str]

    def predict(self, model: Any, data: Dataset) -> pa.Table: ...

    def score(self, records: pa.Table) -> Result: ...


@runtime_checkable
class TaskByItem(Task, Protocol):
    """A task with metrics that are means over items, so that two models can be compared item by item."""

    def item_values(self, records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, M]: what each item adds to that metric, NaN where a column does not apply. None when it is no mean over items.

        The metric is the mean over columns of the mean over items.
        """
        ...


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row left the pool."""

    uid: str
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Curated:
    """What a curation step did: the rows that stay, why the others left, new columns keyed by uid, what it cost.

    columns  by name: a mapping uid -> value, or an Arrow table of "uid" and the column where rows are many
    files    what else it found out, to lie beside the tables: file name -> content
    """

    kept: tuple[str, ...]
    dropped: tuple[Drop, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    files: dict[str, bytes] = field(default_factory=dict)


class Operator(Protocol):
    """A curation step: a frozen dataclass (its configuration), pool in, `Curated` out. Independent of the order of rows."""

    slug: ClassVar[str]

    def plan(self, data: Dataset) -> dict[str, Any]:
        """Items, unit cost, expected seconds, without doing it."""

    def __call__(self, data: Dataset) -> Curated: ...
