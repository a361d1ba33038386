"""Text4Point: pairs of pixels and points, both contrasts against the shared one, text querying written out, and labels of points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diptych.api import load
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample
from diptych.data.load.stream import batches
from diptych.data.media.decode import decode
from diptych.data.points.rgbd import back_project, read_frame
from diptych.data.points.room_clouds import point_labels
from diptych.models.points.text4point import TextQuerying, TextQueryingSettings, at_pixels
from diptych.objectives.rooms.point_pixel import point_pixel_contrast
from diptych.recipes.points.text4point import Text4Point, labelled_cross_entropy
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.point_segmentation import PointSegmentation
from diptych.worlds.rooms.world import rooms

DATA = rooms(6, points=900)
FRESH = replace(Text4Point.tiny(), small_steps=0, batch_size=2).prepare(DATA)
TUNED = replace(FRESH, phase="finetune")


def test_points_stand_beside_the_pixels_that_show_them() -> None:
    """Colour of a point and of the picture at its place; the same point again from its pixel's number."""
    recipe = replace(FRESH, clouds=replace(FRESH.clouds, turn=False))
    loaded = recipe.load(DATA[1], np.random.default_rng(3))
    frames = [read_frame(DATA[1], number) for number in range(2)]
    for frame in frames:
        if (at := decode(frame.image).reshape(-1, 3)[loaded["pixel_id"]] / 255).shape and np.allclose(
            at, loaded["points"][:, 3:], atol=1e-6
        ):
            break
    else:
        pytest.fail("no frame has these colours at these pixels")
    picture_1CHW = torch.from_numpy(decode(frame.image)).permute(2, 0, 1)[None].double() / 255
    pixel_1M2 = torch.from_numpy(loaded["pixel"])[None].double()
    np.testing.assert_allclose(at_pixels(picture_1CHW, pixel_1M2)[0].numpy(), loaded["points"][:, 3:], atol=1e-5)
    xyz_N3, pixel_N2 = back_project(frame.depth_HW, frame.camera)
    row_of = {int(row * 64 + column): k for k, (row, column) in enumerate(pixel_N2)}
    own_P3 = xyz_N3[[row_of[int(number)] for number in loaded["pixel_id"]]]
    shift_3 = own_P3[0] - loaded["points"][0, :3]
    np.testing.assert_allclose(own_P3 - loaded["points"][:, :3], np.tile(shift_3, (len(own_P3), 1)), atol=1e-5)
    assert len(set(loaded["pair"].tolist())) == 128


def test_contrast_is_infonce_without_pairs_of_one_pixel(parity: Any) -> None:
    point_BMD = F.normalize(torch.randn(2, 4, 8).double(), dim=-1).requires_grad_()
    pixel_BMD = F.normalize(torch.randn(2, 4, 8).double(), dim=-1)
    id_BM = torch.tensor([[3, 5, 3, 9], [3, 7, 8, 9]])
    ours = point_pixel_contrast(point_BMD, pixel_BMD, id_BM, scale=10.0)
    logit_NN = 10 * point_BMD.flatten(0, 1) @ pixel_BMD.flatten(0, 1).T
    keep_NN = torch.ones(8, 8, dtype=torch.bool)
    keep_NN[0, 2] = keep_NN[2, 0] = False  # of one pixel of one frame; 3 and 9 of the other frame stay
    logit_NN = logit_NN.masked_fill(~keep_NN, -torch.inf)
    target_N = torch.arange(8)
    expected = (F.cross_entropy(logit_NN, target_N) + F.cross_entropy(logit_NN.T, target_N)) / 2
    grads = [torch.autograd.grad(loss, point_BMD, retain_graph=True)[0] for loss in (ours, expected)]
    parity(
        "text4point",
        "point-pixel contrast and gradient",
        "the formula written out",
        [(ours, expected), tuple(grads)],
        tolerance=1e-9,
    )
    one = point_pixel_contrast(point_BMD, pixel_BMD, scale=10.0, directions="image_to_text")
    torch.testing.assert_close(one, F.cross_entropy(10 * point_BMD.flatten(0, 1) @ pixel_BMD.flatten(0, 1).T, target_N))


def test_text_querying_is_its_formula(parity: Any) -> None:
    torch.manual_seed(0)
    asking = TextQuerying(16, 6, TextQueryingSettings(query_heads=2, query_hidden=2.0, keep_start=0.7, add_start=0.3)).double()
    own_BGC, lifted_BGD, text_KD = torch.randn(2, 5, 6).double(), torch.randn(2, 5, 16).double(), torch.randn(3, 16).double()
    weight, bias = asking.attention.in_proj_weight, asking.attention.in_proj_bias
    query, text = F.layer_norm(lifted_BGD, (16,)), F.layer_norm(text_KD, (16,))
    q, k, v = (x @ weight[s].T + bias[s] for x, s in ((query, slice(16)), (text, slice(16, 32)), (text, slice(32, 48))))
    read = torch.cat([(q[..., s] @ k[:, s].T / 8**0.5).softmax(-1) @ v[:, s] for s in (slice(8), slice(8, 16))], -1)
    read = F.layer_norm(read @ asking.attention.out_proj.weight.T + asking.attention.out_proj.bias, (16,))
    hidden = F.gelu(read @ asking.mlp[0].weight.T + asking.mlp[0].bias)
    out = (hidden @ asking.mlp[2].weight.T + asking.mlp[2].bias) @ asking.out.weight.T + asking.out.bias
    pairs = [(asking(own_BGC, lifted_BGD, text_KD), 0.7 * own_BGC + 0.3 * out)]
    parity("text4point", "text querying", "the formula written out", pairs, tolerance=1e-6)


def test_pretraining_moves_everything_but_the_anchor() -> None:
    torch.manual_seed(0)
    model = FRESH.model()
    (step,) = batches(DATA, FRESH, seed=0, stop=1)
    features = FRESH.features(model, step.batch)
    losses = FRESH.losses(features, step.batch)
    assert list(losses) == ["encoder", "decoder"]
    assert features.seen_BGD.requires_grad is False
    sum(losses.values()).backward()  # type: ignore[union-attr]
    silent = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert silent == {"anchors"}
    half = replace(FRESH, decoder_weight=0.5).losses(features, step.batch)
    torch.testing.assert_close(half["decoder"], losses["decoder"] / 2)


def test_fine_tuning_reads_labels_and_learns_the_prompt() -> None:
    torch.manual_seed(0)
    model = TUNED.model()
    (step,) = batches(DATA, TUNED, seed=0, stop=1)
    assert step.batch.image_BCHW is None
    features = TUNED.features(model, step.batch)
    losses = TUNED.losses(features, step.batch)
    logit = (features.score_BGK / 0.07).flatten(0, 1).log_softmax(-1)
    expected = -logit[torch.arange(len(logit)), features.label_BG.flatten()].mean()
    torch.testing.assert_close(losses["auxiliary"], expected)
    (grad,) = torch.autograd.grad(losses["auxiliary"], model.context.context, retain_graph=True)
    assert grad.abs().max() > 0
    label_BP = step.batch.label_BP.clone()
    label_BP[:, ::2] = 255
    kept = features.logit_BPK[:, 1::2].flatten(0, 1)
    torch.testing.assert_close(
        labelled_cross_entropy(features.logit_BPK, label_BP), F.cross_entropy(kept, label_BP[:, 1::2].flatten())
    )
    assert labelled_cross_entropy(features.logit_BPK, torch.full_like(label_BP, 255)) == 0


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_a_voxel_u_net_learns_reads_names_and_is_opened_again(phase: Any, tmp_path: Path) -> None:
    recipe = replace(FRESH, backbone="voxel_unet", phase=phase)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(DATA, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    assert features.seed_BGD.shape[:2] == (2, recipe.voxels.voxel_seeds)
    sum(recipe.losses(features, step.batch).values()).backward()  # type: ignore[union-attr]
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None} <= {"anchors"}
    model.eval()
    texts = model.texts().detach()
    _, index_BG, feature_BPC, xyz_BG3 = model.read_points(step.batch.point_BPF, texts)
    torch.testing.assert_close(xyz_BG3[1], step.batch.point_BPF[1, index_BG[1], :3])
    other = model.read_points(step.batch.point_BPF, texts.flip(1))[2]
    assert (feature_BPC - other).abs().amax(2).min() > 0, "every point hears of the names"
    deployed = recipe.deploy(model)
    deployed.save(tmp_path)
    cloud_PF = DATA[0].media["cloud"].decode()
    (ours,), (again,) = deployed.segment_points([cloud_PF]), load(tmp_path).segment_points([cloud_PF])
    np.testing.assert_array_equal(ours, again)


def test_a_pretrained_run_starts_fine_tuning() -> None:
    """All tensors but those of the phase itself."""
    first, second = (recipe.model().state_dict() for recipe in (FRESH, TUNED))
    assert {name.split(".")[0] for name in first.keys() - second.keys()} == {"project", "decode_image"}
    assert {name.split(".")[0] for name in second.keys() - first.keys()} == {"head", "context"}


def test_deployed_models_name_points(tmp_path: Path) -> None:
    cloud_PF = DATA[0].media["cloud"].decode()
    for recipe in (FRESH, TUNED):
        torch.manual_seed(0)
        model = recipe.deploy(recipe.model().eval())
        model.save(tmp_path / recipe.phase)
        (ours,), (again,) = model.segment_points([cloud_PF]), load(tmp_path / recipe.phase).segment_points([cloud_PF])
        assert ours.shape == (900,)
        np.testing.assert_array_equal(ours, again)
    (few,) = model.segment_points([cloud_PF], ["chair", "floor"])
    assert set(few.tolist()) <= {0, 1}
    with pytest.raises(UnknownName, match="piano"):
        model.segment_points([cloud_PF], ["piano", "floor"])


def test_miou_of_points() -> None:
    class Oracle:
        name, fingerprint, classes = "oracle", "o", FRESH.classes

        def segment_points(self, clouds: Any, labels: Any = ()) -> Any:
            rows = [DATA[row] for row in range(6) for c in clouds if np.array_equal(c, DATA[row].media["cloud"].decode())]
            return [point_labels(sample, 900, 10).astype(np.int32) for sample in rows]

    assert evaluate(PointSegmentation(draws=20), Oracle(), DATA).value == 1
    with pytest.raises(DataError, match="no class per point"):
        point_labels(Sample("x"), 3, 2)
    with pytest.raises(DataError, match="900 classes for 3 points"):
        point_labels(DATA[0], 3, 10)
    with pytest.raises(ConfigError, match="two names or more"):
        Text4Point()


def test_paper_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = replace(Text4Point.paper(), tokenizer="clip").model()
    assert model.lift.weight.shape == (512, 256)
    assert model.net.settings.out_width == 128
    assert len(model.ids_KL) == 20
