"""Names detected regions by their nearest labelled crops (a nearest-neighbour classifier).

A detector has to learn two hundred classes from boxes in whole pictures, and it localises small objects long before it can
classify them. Crops of the training regions give the classes at once; the cost is that a class without crops cannot be predicted.

Letters: N crops, D dimensions of a vector, B regions, K names, U different names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import safe_open
from scipy.special import softmax
from torch import nn

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import ConfigError, DataError, DecodeError, DiptychError, RunError, UnknownName
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.registry import IMAGE_WEIGHTS
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph
from diptych.core.terminal.progress import with_bar
from diptych.data.media.cropped import crop_of
from diptych.data.media.decode import decode
from diptych.models.io import weights
from diptych.models.io.card import detector_card
from diptych.models.io.folder import fingerprint, load_weights, read_config, write_model
from diptych.models.io.open_address import is_address
from diptych.models.io.saved_model import open_model

MARGIN = 0.1
"""Of a box's sides, that a crop shows around it."""
AT_ONCE = 1024
"""Crops that are held and embedded together."""
DETECTOR = "detector"
"""The folder of the detector within that of the model."""
Floats = npt.NDArray[np.float32]


class CropEncoder(Protocol):
    """Encoder of image crops to vectors [N, D]: a frozen encoder of `models.io.weights.image`, or `ThumbnailEncoder`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `crop_encoder` that rebuild it."""

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class ThumbnailEncoder:
    """Pixels of every picture at `side` by `side`, [N, 3 side side], less their mean: features without a model."""

    NAME: ClassVar[str] = "thumbnails"
    side: int = 16

    @property
    def fingerprint(self) -> str:
        return f"{self.NAME}-{self.side}"

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.NAME, "image_size": self.side}

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Floats:
        """All at once: `batch_size` changes nothing."""
        shown = [Image.fromarray(decode(image)).resize((self.side, self.side), Image.Resampling.BILINEAR) for image in images]
        flat_ND: Floats = np.stack([np.asarray(picture, np.float32).ravel() for picture in shown])
        flat_ND -= flat_ND.mean(axis=1, keepdims=True)
        return flat_ND


def crop_encoder(name: str, *, image_size: int = 0, **options: Any) -> CropEncoder:
    """Encoder by which crops are compared: "thumbnails", or an image encoder as `models.io.weights.image` takes it.

    image_size  pixels per side; 0: 16 for thumbnails, 64 for an encoder in a package, since crops are small
    """
    if name == ThumbnailEncoder.NAME:
        return ThumbnailEncoder(image_size or ThumbnailEncoder.side)
    if name not in IMAGE_WEIGHTS and not is_address(name):
        raise UnknownName("image encoder", name, (*IMAGE_WEIGHTS, ThumbnailEncoder.NAME))
    return weights.image(name, **{"image_size": image_size or 64, "resize": "squash", **options})


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """Crops by their vectors of norm 1, vector_ND, and what each shows.

    unreadable  uids of the samples whose pictures could not be read
    """

    vector_ND: Floats
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Dataset | Sequence[Sample], encoder: CropEncoder) -> LabelledCrops:
        """The regions of a data set; a picture that cannot be read costs its own. Raises DataError if there is none."""
        vectors: list[Floats] = []
        names: list[str] = []
        unreadable: list[str] = []
        waiting: list[ImageSource] = []
        for row in with_bar(range(len(rows)), len(rows), "crops", least=AT_ONCE // 4):
            sample = rows[row]
            if sample.image is not None and sample.regions:
                try:
                    waiting += _crops(sample.image, sample.regions)
                except (DecodeError, OSError):
                    unreadable.append(sample.uid)
                    continue
                names += [region.label for region in sample.regions]
            if len(waiting) >= AT_ONCE:
                vectors.append(_unit(encoder.encode_images(waiting)))
                waiting = []
        if waiting:
            vectors.append(_unit(encoder.encode_images(waiting)))
        if not vectors:
            raise DataError(
                "no sample has a region" if not unreadable else f"none of {len(unreadable)} pictures with regions can be read",
                field="regions",
                expected="pictures with boxes and labels, to name others after",
            )
        return cls(np.concatenate(vectors), tuple(names), tuple(unreadable))

    def nearest(self, vector_BD: Floats, names: Sequence[str]) -> Floats:
        """cosine_BK of each region to the most similar crop of each name; -1 for names of which no crop is known."""
        index = {name: k for k, name in enumerate(names)}
        row_N = np.array([index.get(name, -1) for name in self.names])
        asked_N = np.flatnonzero(row_N >= 0)
        cosine_BK = np.full((len(vector_BD), len(names)), -1.0, np.float32)
        if len(vector_BD):
            cosine_NB = self.vector_ND[asked_N] @ vector_BD.T
            np.maximum.at(cosine_BK.T, row_N[asked_N], cosine_NB)
        return cosine_BK


class _CropTensors(nn.Module):
    """Crops as the tensors of a file: vector_ND, and name_N, the place of each one's name among the different ones."""

    vector_ND: torch.Tensor
    name_N: torch.Tensor

    def __init__(self, vector_ND: torch.Tensor, name_N: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("vector_ND", vector_ND)
        self.register_buffer("name_N", name_N)


@dataclass(frozen=True, eq=False)
class NearestCropDetector:
    """Detector whose boxes get the name of the most similar labelled crop.

    detector   finds things called `called` and for the relations
    crops      crops with their names; only names among them are given
    encoder       what their vectors were made by
    called     what the detector calls everything
    sharpness  scale of the softmax over cosines that gives a name's confidence: CLIP's 100
    card       as for other detectors

    A region's score is the detector's times how sure its name is, a relation's confidence its own times that of both its regions.
    """

    kind: ClassVar[str] = "named_after"

    detector: Detector
    crops: LabelledCrops
    encoder: CropEncoder
    called: str = "thing"
    sharpness: float = 100.0
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{getattr(self.detector, 'name', 'a detector')}, named after crops"

    @cached_property
    def fingerprint(self) -> str:
        """Of the detector, the crops and what they are compared by."""
        settings = {"called": self.called, "sharpness": self.sharpness, "look": self.encoder.fingerprint}
        return fingerprint(
            self._kept(), {**settings, "names": self.objects, "detector": getattr(self.detector, "fingerprint", "")}
        )

    @property
    def detect_rule(self) -> dict[str, str]:
        """Rule of the detector, and the source of the names."""
        own = {"names": "of the most similar known crop", "sure": "softmax over names, times the score of region and relation"}
        return {**getattr(self.detector, "detect_rule", {}), **own}

    @property
    def objects(self) -> tuple[str, ...]:
        """Class names that it can assign."""
        return tuple(dict.fromkeys(self.crops.names))

    @property
    def relations(self) -> tuple[str, ...]:
        """Default relation names of the detector."""
        return tuple(getattr(self.detector, "relations", ()))

    @one_or_many
    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """As `core.contracts.Detector`. Raises DataError if no crop of any of the names is known."""
        crop_names = frozenset(self.crops.names)
        names = [name for name in dict.fromkeys(objects) if name in crop_names]
        if not names:
            some = ", ".join(sorted(crop_names)[:5])
            raise DataError(f"no crop of {', '.join(list(objects)[:5])} is known", expected=f"names of crops: {some}, ...")
        graphs = self.detector.detect(images, objects=(self.called,), relations=relations, top=top, batch_size=batch_size)
        named = (self._named(image, graph, names, bool(relations)) for image, graph in zip(images, graphs, strict=True))
        return [graph.strongest(top=top, min_score=threshold) for graph in named]

    def _named(self, image: ImageSource, graph: SceneGraph, names: Sequence[str], related: bool) -> SceneGraph:
        if not graph.regions:
            return graph
        cosine_BK = self.crops.nearest(_unit(self.encoder.encode_images(_crops(image, graph.regions))), names)
        chance_BK = softmax(self.sharpness * cosine_BK.astype(np.float64), axis=1)
        best_B = chance_BK.argmax(1)
        sure_B = chance_BK[np.arange(len(best_B)), best_B]
        regions = [
            replace(region, label=names[best], score=region.score * float(sure))
            for region, best, sure in zip(graph.regions, best_B, sure_B, strict=True)
        ]
        if not related:
            regions.sort(key=lambda region: -region.score)
        relations = [replace(r, confidence=r.confidence * float(sure_B[r.subject] * sure_B[r.object])) for r in graph.relations]
        return replace(graph, regions=tuple(regions), relations=tuple(relations))

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors (the crops' vectors), README.md and the detector's own folder, replacing the whole folder.
        What the crops are compared by comes from its package, or from the address that was given. Raises ConfigError for a detector that
        cannot be saved."""
        detector: Any = self.detector
        if not hasattr(detector, "save"):
            raise ConfigError(
                f"{getattr(detector, 'name', detector)} cannot be saved (expected a run's or a model folder's detector)"
            )
        config = {
            "kind": self.kind,
            "called": self.called,
            "sharpness": self.sharpness,
            "names": list(self.objects),
            "look": self.encoder.spec,
            "look_fingerprint": self.encoder.fingerprint,
            "card": dict(self.card),
        }
        write_model(folder, self._kept(), config, self._readme(), lambda work: detector.save(work / DETECTOR))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the detector from a folder that `save` wrote; refused when what its crops are compared by is no longer what it was."""
        config = read_config(folder, cls.kind)
        shape = _shape(folder)
        stored = _CropTensors(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))
        load_weights(stored, folder)
        names, name_N = config["names"], stored.name_N.numpy()
        if len(name_N) and not 0 <= name_N.min() <= name_N.max() < len(names):
            raise RunError(f"{folder}: crops of names that config.json does not list (expected 0 to {len(names) - 1})")
        try:
            compared = crop_encoder(**config["look"])
        except DiptychError as error:
            raise RunError(f"{folder}: what its crops are compared by does not open: {error}") from error
        if compared.fingerprint != config["look_fingerprint"]:
            raise RunError(
                f"{folder}: {config['look']['name']} is not the encoder that embedded the crops (run `diptych named-after` again)"
            )
        crops = LabelledCrops(stored.vector_ND.numpy(), tuple(names[index] for index in name_N.tolist()))
        detector = open_model(Path(folder, DETECTOR))
        return cls(detector, crops, compared, config["called"], float(config["sharpness"]), config.get("card") or {})

    def _kept(self) -> _CropTensors:
        index = {name: u for u, name in enumerate(self.objects)}
        name_N = torch.tensor([index[name] for name in self.crops.names], dtype=torch.int64)
        return _CropTensors(torch.from_numpy(self.crops.vector_ND), name_N)

    def _readme(self) -> str:
        crops, names = len(self.crops.names), len(self.objects)
        return detector_card(
            self.name,
            self.card,
            tags=("scene-graphs",),
            about="Finds things and the relations between them; each is called like the known crops that it looks most like.",
            facts=f"{crops:,} crops of {names:,} names, compared by {self.encoder.spec['name']}; the detector calls everything "
            f"'{self.called}'.",
            use="graphs = model.detect([image], objects=model.objects, relations=model.relations)",
        )


def _shape(folder: Path) -> tuple[int, int]:
    """Number of crops and their dimensions, from the header of their file."""
    path = Path(folder, "model.safetensors")
    if not path.is_file():
        raise RunError(f"{folder}: model.safetensors is missing (expected a folder that save wrote)")
    with safe_open(path, "pt") as file:
        crops, numbers = file.get_slice("vector_ND").get_shape()
    return crops, numbers


def _crops(image: ImageSource, regions: Sequence[Region]) -> list[ImageSource]:
    pixels_HWC = decode(image, exact=True)
    return [ArrayImage(crop_of(pixels_HWC, region.box, margin=MARGIN)) for region in regions]


def _unit(vector_ND: npt.NDArray[Any]) -> Floats:
    """Rows of norm 1; a row of zeros stays."""
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return (vector_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)
