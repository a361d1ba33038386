"""Regions that are named after known crops: by colour here, so that every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import diptych as dp
from diptych.core.contracts import Detector
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.media.decode import decode
from diptych.models.detection import named_after
from diptych.models.detection.named_after import KnownCrops, NamedAfter, thumbnails

RED, BLUE = (0, 0, 8, 8), (8, 0, 16, 8)


def picture() -> ArrayImage:
    """Red left, blue right."""
    pixels_HWC = np.zeros((8, 16, 3), np.uint8)
    pixels_HWC[:, :8, 0] = 255
    pixels_HWC[:, 8:, 2] = 255
    return ArrayImage(pixels_HWC, "picture")


def colours(images: Sequence[ImageSource]) -> np.ndarray[Any, Any]:
    """[N, 3]: how much of each colour."""
    return np.stack([decode(image).reshape(-1, 3).mean(0) for image in images])


SAMPLE = Sample("s", picture(), regions=(Region(RED, "cherry"), Region(BLUE, "plum")))


@dataclass
class Finds:
    """Two things of one name, the second more surely, and what is asked."""

    relations: tuple[Relation, ...] = (Relation(0, "left of", 1, 0.5), Relation(1, "right of", 0, 0.9))

    def detect(self, images: Sequence[ImageSource], *, objects: Sequence[str], **options: Any) -> list[SceneGraph]:
        assert tuple(objects) == ("thing",)
        regions = (Region(RED, "thing", score=0.6), Region(BLUE, "thing", score=0.8))
        return [SceneGraph(regions, self.relations if options["relations"] else ()) for _ in images]


def named(look: Any = colours, **changes: Any) -> NamedAfter:
    return NamedAfter(Finds(), KnownCrops.of([SAMPLE], look), look, **changes)


def test_a_region_is_called_like_the_crop_that_it_looks_like() -> None:
    assert isinstance(named(), Detector)
    (graph,) = named().detect([picture()], objects=["plum", "cherry"])
    assert [(region.label, region.box) for region in graph.regions] == [("plum", BLUE), ("cherry", RED)]
    (graph,) = named(thumbnails).detect([picture()], objects=["plum", "cherry"])
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
        KnownCrops.of([Sample("s", picture())], colours)


def test_it_is_asked_like_any_detector() -> None:
    graph = dp.detect(named(), picture(), relations="right of")
    assert graph.triplets()[0] == ("plum", "right of", "cherry")


def test_crops_are_embedded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = KnownCrops.of([SAMPLE] * 5, colours)
    monkeypatch.setattr(named_after, "AT_ONCE", 3)
    parts = KnownCrops.of([SAMPLE] * 5, colours)
    assert parts.names == whole.names == ("cherry", "plum") * 5
    np.testing.assert_array_equal(parts.vector_ND, whole.vector_ND)
    np.testing.assert_allclose(np.linalg.norm(whole.vector_ND, axis=1), 1, rtol=1e-6)
