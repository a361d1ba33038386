"""Capabilities of models of indoor scenes, as protocols; re-exported by `capabilities`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.points.boxes_3d import SceneBoxes
from diptych.core.sample import Sample


@runtime_checkable
class PointSegmenter(Protocol):
    """The class of every point of clouds [P, 3 + F], an index into `labels`; without labels into those of training."""

    @property
    def classes(self) -> Sequence[str]: ...

    def segment_points(
        self, clouds: Sequence[npt.NDArray[np.float32]], labels: Sequence[str] = ()
    ) -> list[npt.NDArray[np.int32]]: ...


@runtime_checkable
class RoomGrounder(Protocol):
    """Boxes of the things in a room that each text means: scores of all that it considers, and which it chooses, none or several."""

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]: ...


@runtime_checkable
class RoomDetector(Protocol):
    """Boxes of the things in a room with their classes and scores."""

    def detect_room(self, sample: Sample) -> SceneBoxes: ...


@runtime_checkable
class RoomDescriber(Protocol):
    """Boxes of the things in a room with a caption of each."""

    def describe_room(self, sample: Sample) -> SceneBoxes: ...


@runtime_checkable
class RoomAnswerer(Protocol):
    """Answers to questions about a room, one each."""

    def answer_room(self, sample: Sample, questions: Sequence[str]) -> list[str]: ...
