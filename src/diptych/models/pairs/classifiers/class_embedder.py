"""Image tower with classifiers on prefixes of its vector, trained with labels (Matryoshka, 2205.13147).

Letters: B batch, N items, C channel (of images) or classes (of logits), H W, M prefixes, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.rows import Rows
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.models.io.card import model_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.classifiers.nested_classifier import NestedClassifier
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower


@dataclass(frozen=True, slots=True)
class NestedLogits:
    """Logits of every classifier, [N, M, C] from the shortest prefix to the longest."""

    logit_NMC: Rows[Tensor]


class NestedImageClassifier(nn.Module):
    """Image classifier: a `NestedClassifier` on the tower's pooled vector, neither projected nor normalised."""

    def __init__(self, tower: Tower, classes: int, dims: Sequence[int], *, tied: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.image_tower = tower
        self.classifier = NestedClassifier(tower.width, classes, dims, tied=tied, bias=bias)

    def forward(self, image_BCHW: Tensor) -> NestedLogits:
        return NestedLogits(self.classifier(self.image_tower(image_BCHW).pooled_BD).transpose(0, 1))


class ClassEmbedder:
    """A trained `NestedImageClassifier` with its preprocessing and the names of its classes.

    As a `Classifier` it gives the logits of the longest prefix. As an `Embedder` its image vectors are the tower's,
    truncated to the longest prefix and normalised, and the vector of a text is the weight of the class of that name;
    other texts are not supported. So classes are searched by name, and nearest neighbours are those of the paper; the bias and
    the norm of a class are used only by `classify`.

    flip  average the logits of an image and its mirror image; the published evaluation uses their sum, with the same ranking
    """

    kind: ClassVar[str] = "nested_classifier"

    def __init__(
        self,
        model: NestedImageClassifier,
        preprocess: Preprocess,
        classes: Sequence[str],
        name: str,
        *,
        flip: bool = False,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.preprocess, self.name, self.flip = model, preprocess, name, flip
        self.classes, self.card = tuple(classes), dict(card or {})
        self.dims = model.classifier.dims
        self.width = max(self.dims)

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "classes": list(self.classes), "width": self.width}
        return fingerprint(self.model, settings)

    def first(self, width: int) -> Self:
        """Return the same model on the first `width` dimensions.
        Separate classifiers exist only for `dims`; a tied one has any width.
        """
        if not 0 < width <= max(self.model.classifier.dims):
            raise ConfigError(f"a prefix has 1 to {max(self.model.classifier.dims)} dimensions, not {width}")
        short = copy.copy(self)
        short.__dict__.pop("fingerprint", None)
        short.width, short.name = width, f"{self.name}-first-{width}"
        return short

    @one_or_many
    def classify(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Logits [N, K] of the classifier of this width."""
        weight_CD, bias_C = self._head()

        def logits(image_BCHW: Tensor) -> Tensor:
            views = (image_BCHW, image_BCHW.flip(3)) if self.flip else (image_BCHW,)
            each = [self.model.image_tower(view).pooled_BD[:, : self.width] @ weight_CD.T for view in views]
            return torch.stack(each).mean(0) + (0 if bias_C is None else bias_C)

        blocks = self._in_batches(images, batch_size, logits)
        return torch.cat(blocks).float().cpu().numpy() if blocks else np.zeros((0, len(self.classes)), np.float32)

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        def unit(image_BCHW: Tensor) -> Tensor:
            return l2_normalise(self.model.image_tower(image_BCHW).pooled_BD[:, : self.width])

        blocks = self._in_batches(images, batch_size, unit)
        return torch.cat(blocks).float().cpu().numpy() if blocks else np.zeros((0, self.width), np.float32)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Return unit-norm weights of classes. Raises UnknownName for a text that is not in `classes`;
        underscores may be spaces.
        """
        index = {name.replace("_", " "): k for k, name in enumerate(self.classes)}
        rows = []
        for text in texts:
            if (spoken := text.replace("_", " ").strip()) not in index:
                raise UnknownName(
                    "class", text, self.classes, hint="a model that was trained with labels has the names of its classes only"
                )
            rows.append(index[spoken])
        with torch.no_grad():
            return l2_normalise(self._head()[0][rows]).float().cpu().numpy()

    def _head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [K, width] and bias of the classifier of this width."""
        classifier = self.model.classifier
        if classifier.shared is not None:
            return classifier.shared.weight[:, : self.width], classifier.shared.bias
        if self.width not in classifier.dims:
            raise ConfigError(
                f"'{self.name}' has classifiers for the first {', '.join(map(str, classifier.dims))} dimensions only"
            )
        linear = classifier.linears[classifier.dims.index(self.width)]
        return linear.weight, linear.bias  # type: ignore[return-value]

    def _in_batches(self, images: Sequence[ImageSource], size: int, work: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Apply `work` to batches of the images, with smaller batches if memory runs out."""
        with self._ready() as device:

            def one(part: Sequence[ImageSource]) -> Tensor:
                return work(self.preprocess([decode(image, exact=True) for image in part]).to(device))

            return batched(images, size, device, one)

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        with torch.no_grad(), evaluating(self.model):
            yield next(self.model.parameters()).device

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, replacing the whole folder. A prefix is saved as the whole model."""
        classifier = self.model.classifier
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.model.image_tower.spec,
            "dims": list(classifier.dims),
            "width": self.width,
            "tied": classifier.shared is not None,
            "bias": any(name.endswith("bias") for name, _ in classifier.named_parameters()),
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_json(),
            "flip": self.flip,
            "card": self.card,
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            tower = image_tower(**config["image_tower"])
            options = {"tied": config["tied"], "bias": config["bias"]}
            model = NestedImageClassifier(tower, len(config["classes"]), config["dims"], **options)
        load_weights(model, folder)
        preprocess = Preprocess.from_json(config["preprocess"])
        opened = cls(model.eval(), preprocess, config["classes"], config["name"], flip=config["flip"], card=config.get("card"))
        opened.width = config["width"]
        return opened
