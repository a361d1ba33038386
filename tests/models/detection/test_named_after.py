"""Regions that are named after known crops: by colour here, so that every answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.special import softmax

import diptych as dp
from diptych.core.contracts import Deployable, Detector
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.media.decode import decode
from diptych.models.detection import named_after
from diptych.models.detection.named_after import LabelledCrops, NearestCropDetector, ThumbnailEncoder, crop_encoder
from diptych.models.io.saved_model import open_model

RED, BLUE = (0, 0, 8, 8), (8, 0, 16, 8)


def picture() -> ArrayImage:
    """Red left, blue right."""
    pixels_HWC = np.zeros((8, 16, 3), np.uint8)
    pixels_HWC[:, :8, 0] = 255
    pixels_HWC[:, 8:, 2] = 255
    return ArrayImage(pixels_HWC, "picture")


@dataclass(frozen=True)
class Colours:
    """[N, 3]: how much of each colour."""

    spec: ClassVar[dict[str, Any]] = {"name": "thumbnails", "image_size": 2}
    fingerprint: str = "thumbnails-2"

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> np.ndarray[Any, Any]:
        return np.stack([decode(image).reshape(-1, 3).mean(0) for image in images])


SAMPLE = Sample("s", picture(), regions=(Region(RED, "cherry"), Region(BLUE, "plum")))


@dataclass
class Finds:
    """Two things of one name, the second more surely, and what is asked."""

    name: ClassVar[str] = "finds"
    fingerprint: ClassVar[str] = "f"
    objects: ClassVar[tuple[str, ...]] = ("thing",)
    edges: tuple[Relation, ...] = (Relation(0, "left of", 1, 0.5), Relation(1, "right of", 0, 0.9))

    def detect(self, images: Sequence[ImageSource], *, objects: Sequence[str], **options: Any) -> list[SceneGraph]:
        assert tuple(objects) == ("thing",)
        regions = (Region(RED, "thing", score=0.6), Region(BLUE, "thing", score=0.8))
        return [SceneGraph(regions, self.edges if options["relations"] else ()) for _ in images]


def named(compared: Any = Colours(), **changes: Any) -> NearestCropDetector:
    return NearestCropDetector(Finds(), LabelledCrops.of([SAMPLE], compared), compared, **changes)


def test_a_region_is_called_like_the_crop_that_it_looks_like() -> None:
    assert isinstance(named(), Detector)
    (graph,) = named().detect([picture()], objects=["plum", "cherry"])
    assert [(region.label, region.box) for region in graph.regions] == [("plum", BLUE), ("cherry", RED)]
    (graph,) = named(ThumbnailEncoder()).detect([picture()], objects=["plum", "cherry"])
    assert [region.label for region in graph.regions] == ["plum", "cherry"]


def test_how_sure_a_name_is_counts_in_every_score() -> None:
    """Crops with a margin show a little of the neighbour: cosines by hand, then the softmax over them."""
    (graph,) = named(sharpness=3.0).detect([picture()], objects=["plum", "cherry"], relations=["left of", "right of"])
    red_D, blue_D = (np.array(parts) / np.linalg.norm(parts) for parts in ((8.0, 0.0, 1.0), (1.0, 0.0, 8.0)))
    sure = float(softmax([3.0, 3.0 * float(red_D @ blue_D)])[0])
    assert [region.score for region in graph.regions] == pytest.approx([0.6 * sure, 0.8 * sure])
    assert graph.triplets() == [("plum", "right of", "cherry"), ("cherry", "left of", "plum")]
    assert [relation.confidence for relation in graph.relations] == pytest.approx([0.9 * sure**2, 0.5 * sure**2])


def test_what_lies_below_the_threshold_is_left_out_after_naming() -> None:
    finder = named(sharpness=3.0)
    (graph,) = finder.detect([picture()], objects=["plum", "cherry"], relations=["left of"], threshold=0.45)
    assert graph.triplets() == [("plum", "right of", "cherry")]
    (graph,) = finder.detect([picture()], objects=["plum", "cherry"], threshold=0.6)
    assert [region.label for region in graph.regions] == ["plum"]
    (graph,) = finder.detect([picture()], objects=["plum", "cherry"], relations=["left of"], threshold=0.99)
    assert graph == SceneGraph()


def test_names_without_a_crop_are_never_given() -> None:
    (graph,) = named().detect([picture()], objects=["pear", "cherry"])
    assert {region.label for region in graph.regions} == {"cherry"}
    with pytest.raises(DataError, match=r"no crop of pear is known \(expected names of crops: cherry, plum"):
        named().detect([picture()], objects=["pear"])
    with pytest.raises(DataError, match="no sample has a region"):
        LabelledCrops.of([Sample("s", picture())], Colours())


def test_it_is_asked_like_any_detector() -> None:
    graph = dp.detect(named(), picture(), relations="right of")
    assert graph.triplets()[0] == ("plum", "right of", "cherry")


def test_crops_are_embedded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LabelledCrops.of([SAMPLE] * 5, Colours())
    monkeypatch.setattr(named_after, "AT_ONCE", 3)
    parts = LabelledCrops.of([SAMPLE] * 5, Colours())
    assert parts.names == whole.names == ("cherry", "plum") * 5
    np.testing.assert_array_equal(parts.vector_ND, whole.vector_ND)
    np.testing.assert_allclose(np.linalg.norm(whole.vector_ND, axis=1), 1, rtol=1e-6)


def test_a_picture_that_cannot_be_read_costs_its_own_crops() -> None:
    broken = Sample("broken", BytesImage(b"no picture"), regions=SAMPLE.regions)
    known = LabelledCrops.of([broken, SAMPLE], Colours())
    assert (known.names, known.unreadable) == (("cherry", "plum"), ("broken",))
    with pytest.raises(DataError, match="none of 1 pictures with regions can be read"):
        LabelledCrops.of([broken], Colours())


class Kept(Finds):
    """The same, in a folder."""

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text('{"kind": "kept"}')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a saved one, whose detector opens."""
    real = named_after.open_model
    monkeypatch.setattr(named_after, "open_model", lambda place: Kept() if place.name == "detector" else real(place))
    compared = ThumbnailEncoder(4)
    made = NearestCropDetector(
        Kept(), LabelledCrops.of([SAMPLE, SAMPLE], compared), compared, sharpness=3.0, card={"licence": "CC0"}
    )
    made.save(tmp_path / "named")
    return tmp_path / "named"


def test_a_folder_answers_as_what_was_saved(folder: Path) -> None:
    kind: type[Deployable] = NearestCropDetector
    assert kind.kind == "named_after"
    compared = ThumbnailEncoder(4)
    made = NearestCropDetector(Kept(), LabelledCrops.of([SAMPLE, SAMPLE], compared), compared, sharpness=3.0)
    again = open_model(folder)
    asked = {"objects": ["plum", "cherry"], "relations": ["left of", "right of"]}
    assert again.detect([picture()], **asked) == made.detect([picture()], **asked)
    assert (again.fingerprint, again.crops.names, again.card) == (made.fingerprint, made.crops.names, {"licence": "CC0"})
    assert again.fingerprint != named(compared, sharpness=3.0).fingerprint  # half of the crops
    assert "4 crops of 2 names" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"names": ["cherry"]}, "crops of names that config.json does not list"),
        ({"look": {"name": "thumbnails", "image_size": 5}}, "not the encoder that embedded the crops"),
        ({"look": {"name": "efficientnet"}}, "does not open: unknown image encoder 'efficientnet'"),
    ],
)
def test_a_folder_that_was_tampered_with_is_refused(folder: Path, edit: dict[str, Any], said: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | edit))
    with pytest.raises(RunError, match=said):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        open_model(folder)


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finds cannot be saved"):
        named().save(tmp_path / "named")


def test_crops_are_compared_by_pixels_or_by_an_encoder() -> None:
    assert crop_encoder("thumbnails") == ThumbnailEncoder(16) == crop_encoder(**ThumbnailEncoder(16).spec)
    assert crop_encoder("thumbnails", image_size=8).encode_images([picture()]).shape == (1, 192)
    with pytest.raises(UnknownName, match="did you mean 'thumbnails'"):
        crop_encoder("thumbnail")
