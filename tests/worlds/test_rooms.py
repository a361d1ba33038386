"""Rooms: pixels and points agree, boxes hold their points, relations and descriptions are true of what they mean."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.media.decode import decode
from diptych.data.points.rgbd import Camera, back_project, project, read_frame
from diptych.worlds.resolve import resolve
from diptych.worlds.rooms.language import VIEWED, matching
from diptych.worlds.rooms.layout import CLASSES, COLOURS, SECOND
from diptych.worlds.rooms.rendering import render_frame
from diptych.worlds.rooms.world import RoomWorld, rooms

DATA = rooms(6, points=4000)


def test_points_of_pixels_come_back_to_their_pixels() -> None:
    for sample in DATA:
        for index in range(2):
            frame = read_frame(sample, index)
            xyz_N3, pixel_N2 = back_project(frame.depth_HW, frame.camera)
            again_N2, depth_N = project(xyz_N3, frame.camera)
            assert len(xyz_N3) > 2000
            assert np.abs(again_N2 - pixel_N2).max() < 1e-6  # the bound of the issue is half a pixel
            np.testing.assert_allclose(depth_N, frame.depth_HW[tuple(pixel_N2.T)], rtol=1e-6)


def test_pixels_lie_on_the_surfaces_of_the_room() -> None:
    """A point of a pixel is near a point of the cloud, and of its colour but for shading."""
    world, sample = RoomWorld(), DATA[0]
    made, frame = world.room("train", 0), read_frame(sample, 1)
    xyz_N3, pixel_N2 = back_project(frame.depth_HW, frame.camera)
    picture = decode(frame.image)
    rng, agree = np.random.default_rng(0), []
    for k in rng.choice(len(xyz_N3), 60, replace=False):
        distance_N = np.linalg.norm(made.xyz_N3 - xyz_N3[k], axis=1)
        nearest = int(distance_N.argmin())
        assert distance_N[nearest] < 0.2
        own = made.colour_N3[nearest] / made.colour_N3[nearest].max()
        pixel = picture[tuple(pixel_N2[k])].astype(float)
        agree.append(np.abs(own - pixel / max(pixel.max(), 1)).max() < 0.05)
    assert np.mean(agree) > 0.85


def test_the_nearest_point_of_a_pixel_is_seen() -> None:
    camera = Camera((10.0, 10.0, 8.0, 8.0))
    xyz_N3 = np.array([[0, 0, 3.0], [0, 0, 2.0], [0, 0, -1.0], [0.2, 0, 2.0]])
    colour_N3 = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], float)
    picture, depth = render_frame(xyz_N3, np.tile([0.0, 0, 1], (4, 1)), colour_N3, camera, 17, splat=0)
    assert depth[8, 8] == 2
    assert picture[8, 8, 1] > 0 == picture[8, 8, 0]
    assert depth[8, 9] == 2
    assert (depth > 0).sum() == 2


def test_boxes_hold_their_points_and_classes_agree() -> None:
    for sample in DATA:
        cloud_P6 = sample.media["cloud"].decode()
        label_P, object_P = sample.media["point_labels"].decode()[..., 0].T
        for thing in sample.extras["objects"]:
            own_P = object_P == thing["id"]
            assert own_P.sum() > 10
            assert (label_P[own_P] == CLASSES.index(thing["label"])).all()
            centre_3, extent_3 = np.array(thing["box"]).reshape(2, 3)
            assert (np.abs(cloud_P6[own_P, :3] - centre_3) <= extent_3 / 2 + 1e-5).all()
            colours = {tuple(row) for row in cloud_P6[own_P, 3:].astype(int).tolist()}
            assert colours <= {COLOURS[thing["colour"]], SECOND}
        assert (label_P[object_P < 0] < 2).all()


def test_descriptions_mean_one_thing() -> None:
    """Against relations computed again from boxes, seen from the first camera."""
    seen = set()
    for row, sample in enumerate(DATA):
        made = RoomWorld().room("train", row)
        camera = Camera.from_json(sample.extras["cameras"][0])
        for said in sample.extras["descriptions"]:
            thing, text = made.objects[said["object_id"]], said["description"]
            for span in said["spans"]:
                for named in span["object_ids"]:
                    assert made.objects[named].label in text[span["start"] : span["end"]]
            assert said["unique"] == (len(matching(made.objects, thing, ())) == 1)
            if not said["anchors"]:
                words = [w for w in ("size", "colour") if getattr(thing, w) and getattr(thing, w) in text]
                fitting = [
                    o for o in made.objects if o.label == thing.label and all(getattr(o, w) == getattr(thing, w) for w in words)
                ]
                assert thing in fitting
                continue
            anchor = made.objects[said["anchors"][0]]
            predicate = text.split(f"the {thing.label} ", 1)[1].split(" the ", 1)[0]
            seen.add(predicate)
            assert bool(said["viewpoint"]) == (predicate in VIEWED) == ("seen from the door" in text)
            if predicate in ("left of", "right of"):
                column = [project(np.array([o.box[:3]]), camera) for o in (thing, anchor)]
                inside = [float((p[0, 1] - camera.intrinsics[2]) * z[0]) for p, z in column]
                assert (inside[0] < inside[1]) == (predicate == "left of")
            distance = {o.id: float(np.linalg.norm(np.array(o.box[:2]) - anchor.box[:2])) for o in made.objects if o != anchor}
            if predicate == "closest to":
                assert min(distance, key=lambda k: distance[k]) == thing.id
            if predicate == "farthest from":
                assert max(distance, key=lambda k: distance[k]) == thing.id
    assert len(seen) >= 5


def test_questions_are_answered_by_the_objects() -> None:
    for sample in DATA:
        things = sample.extras["objects"]
        for asked in sample.extras["questions"]:
            if asked["question"].startswith("how many"):
                assert asked["answers"] == [str(len(asked["object_ids"]))]
                assert len({things[k]["label"] for k in asked["object_ids"]}) == 1
            elif asked["question"].startswith("what color"):
                assert asked["answers"] == [things[asked["object_ids"][0]]["colour"]]


def test_samples_do_not_depend_on_what_was_read_before() -> None:
    again = resolve("world:rooms?n=3")[2]
    np.testing.assert_array_equal(rooms(3)[2].media["depths"].decode(), again.media["depths"].decode())
    assert rooms(3)[2].extras["descriptions"] == again.extras["descriptions"]
    pool = rooms(3).to_pool()
    assert pool[1].extras["objects"] == rooms(3)[1].extras["objects"]
    with pytest.raises(ConfigError, match="5 to 3 things"):
        rooms(3, most=3)
    with pytest.raises(DataError, match="no picture with depth"):
        read_frame(Sample("x"))
    with pytest.raises(DataError, match="has no camera"):
        Camera.from_json({})
