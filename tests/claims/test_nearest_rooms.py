"""Controls of the claims on rooms: distances of clouds, the cloud of each thing, and answers for clouds that were seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.claims.cell import Cell
from diptych.claims.cells.domains.nearest_rooms import (
    By,
    NearestDescribedThing,
    NearestLabelledRoom,
    _Grounder,
    distance,
    thing_clouds,
    words,
)
from diptych.claims.cells.domains.rooms import drawn

RNG = np.random.default_rng(0)


def test_distances_of_clouds() -> None:
    """Chamfer against two loops; colours by where they lie; a shift in space changes neither."""
    one, other = (
        np.concatenate([RNG.standard_normal((n, 3)), RNG.uniform(0, 255, (n, 3))], 1).astype(np.float32) for n in (20, 30)
    )
    a, b = one[:, :3] - one[:, :3].mean(0), other[:, :3] - other[:, :3].mean(0)
    expected = np.mean([min(np.linalg.norm(x - y) for y in b) for x in a]) + np.mean(
        [min(np.linalg.norm(x - y) for x in a) for y in b]
    )
    assert distance(one, other, "chamfer") == pytest.approx(expected, rel=1e-5)
    red, blue = one.copy(), one.copy()
    red[:, 3:], blue[:, 3:] = (250, 0, 0), (0, 0, 250)
    assert distance(red, blue, "colour") == 2
    assert distance(red, blue, "chamfer") == pytest.approx(0, abs=1e-6)
    assert distance(red, red + np.array([5, 0, 0, 0, 0, 0], np.float32), "colour") == 0


@pytest.mark.parametrize("by", ["chamfer", "colour"])
def test_things_that_were_seen_are_found(by: By) -> None:
    """Each thing of a training room has its own points, and is what its own description finds there."""
    rows = drawn(3, "train", 2)
    things = [
        (words(said["description"]), thing_clouds(rows[row])[said["object_id"]])
        for row in range(2)
        for said in rows[row].extras["descriptions"]
        if said["object_id"] in thing_clouds(rows[row])
    ]
    room = rows[0]
    clouds = thing_clouds(room)
    middle = {thing["id"]: np.array(thing["box"]) for thing in room.extras["objects"]}
    for number, cloud_P6 in clouds.items():
        inside = np.abs(cloud_P6[:, :3] - middle[number][:3]) <= middle[number][3:] / 2 + 0.05
        assert inside.all(1).mean() > 0.9
    told = [said for said in room.extras["descriptions"] if said["object_id"] in clouds]
    answers = _Grounder(by, things).ground_room(room, [said["description"] for said in told])
    ids = [thing["id"] for thing in room.extras["objects"]]
    right = [
        said["object_id"] in np.array(ids)[answer.score_N == answer.score_N.max()]
        for said, answer in zip(told, answers, strict=True)
    ]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("by", ["chamfer", "colour"])
def test_cells_run_at_a_tiny_size(by: By, tmp_path: Path) -> None:
    cell = Cell("control", 1, tmp_path, size="smoke")
    assert set(NearestLabelledRoom(by)(cell)) == {"test", "accuracy"}
    assert set(NearestDescribedThing(by)(cell)) == {"test", "multiple"}
