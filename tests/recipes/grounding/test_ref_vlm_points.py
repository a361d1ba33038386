"""REF-VLM's decoder of key points and its losses against the release, and a run with key points."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.square_frame import SquareFrame
from diptych.data.points.body_points import body_points
from diptych.models.referring.point_decoder import TargetPointDecoder
from diptych.models.referring.referring_bridge import ReferringBridge, ReferringFeatures
from diptych.models.referring.released import own_name
from diptych.models.referring.target_decoders import DecoderSize
from diptych.objectives.boxes.key_points import COCO_SIGMAS, key_point_losses, object_key_point_similarity
from diptych.recipes.grounding.ref_vlm import ReferringBatch, RefVLM
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "ref_vlm_pose_released.json").read_text())
RELEASE = "released code, REF-VLM at cdfecce"
SIZE = DecoderSize(point_queries=5, width=16, heads=2, mlp_width=12, layers=2, dropout=0.0, mask_width=32)
OPEN = torch.tensor([[True] * 4, [True] * 3 + [False]])
GROUP = torch.tensor([[0, 0, 0, 1], [0, 1, 1, -1]])


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    value = np.abs(value) + 1 if name.endswith("weight") and len(shape) == 1 else value
    return torch.from_numpy(np.asarray(value))


def padded(rows: list[Any]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float64) for row in rows], True)


def released_decoder() -> TargetPointDecoder:
    decoder = TargetPointDecoder((4, 8, 6), 6, SIZE, 17).double().eval()
    needed, done = decoder.state_dict(), set()
    for name, shape in RELEASED["names"]:
        ours = own_name(f"visual_decoder.pose.{name}").removeprefix("points.")
        needed[ours].copy_(filled(name, tuple(shape)))
        done.add(ours)
    assert done == needed.keys()
    return decoder


def test_points_and_their_losses_are_the_released_ones(parity: Any) -> None:
    maps = [filled("m0", (2, 4, 8, 8)), filled("m1", (2, 8, 4, 4)), filled("m2", (2, 9, 6)).mT.unflatten(2, (3, 3))]
    made = released_decoder()(maps, filled("s", (2, 4, 6)) * 5, OPEN)
    pairs = [
        (made.point_BRK2[OPEN], padded(RELEASED["points"])[OPEN]),
        (made.visible()[OPEN].double(), padded(RELEASED["visible"])[OPEN]),
        (made.box_BR4[OPEN], padded(RELEASED["boxes"])[OPEN]),
        (made.first_box_BR4[OPEN], padded(RELEASED["first_boxes"])[OPEN]),
    ]
    parity("ref_vlm", "key points, their visibility and both boxes", RELEASE, pairs, tolerance=1e-6)
    given = (
        made.point_BRK2,
        made.visible_BRK2,
        made.box_BR4,
        padded(RELEASED["target_points"]),
        padded(RELEASED["target_boxes"]),
    )
    terms = key_point_losses(*given, GROUP, nearness="distance")
    names = {
        "l1": ("loss_bbox", 5),
        "giou": ("loss_giou", 2),
        "points": ("loss_keypoints", 2),
        "oks": ("loss_oks", 2),
        "seen": ("loss_ce", 1),
    }
    losses = [(terms[ours] / weight, torch.tensor(RELEASED["terms"][theirs])) for ours, (theirs, weight) in names.items()]
    losses.append((torch.stack(list(terms.values())).sum(), torch.tensor(RELEASED["loss"])))
    losses.append((key_point_losses(*given, GROUP)["oks"] / 2, torch.tensor(RELEASED["oks"])))
    parity("ref_vlm", "losses of key points", RELEASE, [(a.detach(), b.double()) for a, b in losses], tolerance=2e-6)


def test_similarity_of_key_points_by_hand() -> None:
    true_NK2 = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(0)).double()
    point_NK2 = true_NK2 + 0.02
    visible_NK, area_N = torch.arange(17).expand(2, 17) % 3 > 0, torch.tensor([0.1, 0.4]).double()
    for row, area in enumerate(area_N.tolist()):
        alike = [np.exp(-0.0008 / (2 * COCO_SIGMAS[k] ** 2 * (area + 1e-6))) for k in range(17) if k % 3]
        got = object_key_point_similarity(point_NK2, true_NK2, visible_NK, area_N)[row]
        assert float(got) == pytest.approx(np.mean(alike), rel=1e-6)
    with pytest.raises(ConfigError, match="5 key points"):
        object_key_point_similarity(true_NK2[:, :5], true_NK2[:, :5], visible_NK[:, :5], area_N)


def bodies(sample: Any) -> Any:
    """The sample with 17 points along the diagonal of each region's box, but of the first."""
    share = np.linspace(0.1, 0.9, 17)
    points = [None]
    for region in sample.regions[1:]:
        x0, y0, x1, y1 = region.box
        points.append([[x0 + at * (x1 - x0), y0 + at * (y1 - y0), number % 3] for number, at in enumerate(share)])
    return replace(sample, extras={**sample.extras, "key_points": points})


def test_points_go_to_the_square() -> None:
    sample = bodies(scenes(1, seed=3, max_objects=5)[0])
    frame = SquareFrame(60, 100, "square")
    made = body_points(sample, 1, 17, frame)
    assert made is not None
    x, y, visible = sample.extras["key_points"][1][5]
    assert made[5] == pytest.approx([x / 100, (y + 20) / 100, visible], rel=1e-5)
    assert body_points(sample, 0, 17, frame) is None
    for wrong in ([None], [[[0, 0, 1]] * 3] * len(sample.regions)):
        with pytest.raises(DataError, match="17 rows of x, y and visibility"):
            body_points(replace(sample, extras={"key_points": wrong}), 0, 17, frame)
    with pytest.raises(ConfigError, match="key_points is 5"):
        replace(RefVLM.tiny(), key_points=5)


def test_a_model_learns_and_answers_with_key_points(tmp_path: Path) -> None:
    data = [bodies(sample) for sample in scenes(6, seed=3, max_objects=5)]
    pool = Pool.from_samples(data)
    recipe = replace(
        RefVLM.tiny(), image_weights="", image_tower="vit_micro", image_size=64, small_steps=2, steps=8, batch_size=4,
        instruct_batch_size=4, text_length=400, max_tokens=12, key_points=17, units=("box",), tasks=("detection",),
    ).prepare(pool).stages()[1].recipe  # fmt: skip
    assert isinstance(recipe, RefVLM)
    (step,) = batches(pool, recipe, seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    assert 0 < int(batch.bodied_BR.sum()) < int((batch.group_BR >= 0).sum())
    torch.manual_seed(0)
    model = recipe.model()
    features = recipe.features(model, batch)
    assert isinstance(features, ReferringFeatures)
    losses = recipe.losses(features, batch)
    assert {name for name in losses if name.startswith("pose")} == {
        f"pose_{name}" for name in ("l1", "giou", "points", "oks", "seen")
    }
    torch.stack(list(losses.values())).sum().backward()
    assert isinstance(model, ReferringBridge)
    assert model.points is not None
    assert all(parameter.grad is not None for parameter in model.points.point.parameters())
    without = replace(batch, bodied_BR=torch.zeros_like(batch.bodied_BR))
    assert all(float(term.detach()) == 0 for name, term in recipe.losses(features, without).items() if name.startswith("pose"))
    used = recipe.deploy(model.eval())
    used.save(tmp_path / "model")
    again = load(tmp_path / "model")
    text = "a <Phrase>x</Phrase>(<Unit>box</Unit>[0]<REF>)"
    for one in (used, again):
        one.bridge.language.write = lambda embed, layout, words, **options: [text] * len(layout)  # type: ignore[method-assign]
    answers = [one.refer([data[0].image], [("", "Where is x?")])[0] for one in (used, again)]
    assert answers[0].point_RK3 is not None
    assert answers[0].point_RK3.shape == (1, 17, 3)
    np.testing.assert_allclose(answers[0].point_RK3, answers[1].point_RK3, atol=1e-4)
