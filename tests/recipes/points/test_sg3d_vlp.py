"""3D scene graph pre-training: contrast at three levels against loops, masks that hide, phrases and proposals, and heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.points.proposals import ProposalReading
from diptych.data.points.room_language import boxes_of_objects, room_objects
from diptych.models.points.scene_graph import EdgeConvolution, RoomGraphNet, RoomGraphSettings, nearest_proposals
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.target_contrast import target_contrast
from diptych.objectives.rooms.matched_regions import matched_contrast, shared_nll
from diptych.recipes._shared.texts.room_texts import tokens_of
from diptych.recipes.points.sg3d_vlp import SceneGraph3D, within_rooms
from diptych.tasks.evaluate import evaluate
from diptych.tasks.rooms.room_captions import RoomCaptions
from diptych.tasks.rooms.room_detection import RoomDetection
from diptych.tasks.rooms.room_grounding import RoomGrounding
from diptych.tasks.rooms.room_questions import RoomQuestions
from diptych.worlds.rooms.world import rooms

DATA = rooms(12, points=2048, frames=1, size=16)
RECIPE = replace(SceneGraph3D.tiny(), batch_size=4).prepare(DATA)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape).double(), dim=-1)


def test_contrast_with_one_positive_is_infonce(parity: Any) -> None:
    row_ND, column_ND = unit(5, 8).requires_grad_(), unit(5, 8)
    ours = matched_contrast(row_ND, column_ND, torch.eye(5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool), scale=9.0)
    expected, _ = info_nce(row_ND, column_ND, scale=9.0)
    grads = [torch.autograd.grad(loss, row_ND, retain_graph=True)[0] for loss in (ours, expected)]
    parity("sg3d_vlp", "contrast with one positive, and gradient", "InfoNCE", [(ours, expected), tuple(grads)], tolerance=1e-6)


def test_contrast_with_several_positives_shares_the_target(parity: Any) -> None:
    torch.manual_seed(1)
    row_ND, column_CD = unit(6, 8), unit(7, 8)
    positive_NC, open_NC = torch.rand(6, 7) < 0.3, torch.rand(6, 7) < 0.8
    positive_NC[2] = False
    ours = matched_contrast(row_ND, column_CD, positive_NC, open_NC, scale=5.0)
    expected, _ = target_contrast(row_ND, column_CD, (positive_NC & open_NC).double(), scale=5.0, ignore_NC=~open_NC)
    parity("sg3d_vlp", "contrast with several positives", "the contrast with target matrices", [(ours, expected)], tolerance=1e-6)
    assert matched_contrast(row_ND, column_CD, torch.zeros(6, 7, dtype=torch.bool), open_NC, scale=5.0) == 0


def test_rooms_are_contrasted_by_themselves() -> None:
    torch.manual_seed(2)
    row_BND, object_BMD, positive_BNM = unit(2, 3, 8), unit(2, 4, 8), torch.rand(2, 3, 4) < 0.5
    open_BM = torch.tensor([[True] * 4, [True, True, True, False]])
    ours = within_rooms(row_BND, object_BMD, positive_BNM, open_BM, torch.tensor(7.0))
    rows, columns = [], []
    for room in range(2):
        logit = (7 * row_BND[room] @ object_BMD[room, open_BM[room]].T).tolist()
        hits = positive_BNM[room][:, open_BM[room]].tolist()
        for table, marks, out in ((logit, hits, rows), (list(zip(*logit, strict=True)), list(zip(*hits, strict=True)), columns)):
            for values, good in zip(table, marks, strict=True):
                if any(good):
                    total = torch.tensor(values).double().logsumexp(0)
                    out.append(float(total - np.mean([v for v, g in zip(values, good, strict=True) if g])))
    assert float(ours) == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_edges_lead_to_the_nearest_and_carry_their_features(parity: Any) -> None:
    torch.manual_seed(0)
    box_BM6, open_BM = torch.randn(1, 6, 6).double(), torch.tensor([[True, True, True, True, False, True]])
    near_BMK, there_BMK = nearest_proposals(box_BM6, open_BM, 3)
    layer, node_BMD = EdgeConvolution(8).double(), torch.randn(1, 6, 8).double()
    ours, expected = layer(node_BMD, box_BM6, near_BMK, there_BMK), []
    for i in range(6):
        distance = [(float((box_BM6[0, i, :3] - box_BM6[0, j, :3]).norm()), j) for j in range(6) if j != i and open_BM[0, j]]
        near = [j for _, j in sorted(distance)[:3]]
        assert set(near_BMK[0, i].tolist()) == set(near)
        edges = [torch.cat([node_BMD[0, i], node_BMD[0, j] - node_BMD[0, i], box_BM6[0, j] - box_BM6[0, i]]) for j in near]
        read = torch.stack([layer.mlp(edge) for edge in edges]).amax(0)
        expected.append(layer.norm(node_BMD[0, i] + read))
    parity(
        "sg3d_vlp",
        "graph convolution with features of edges",
        "a loop over edges",
        [(ours[0], torch.stack(expected))],
        tolerance=1e-9,
    )
    alone = layer(node_BMD[:, :1], box_BM6[:, :1], *nearest_proposals(box_BM6[:, :1], open_BM[:, :1], 3))
    torch.testing.assert_close(alone, layer.norm(node_BMD[:, :1]))


def test_what_is_masked_cannot_be_seen() -> None:
    """No gradient from any prediction of the masked pass to the points of a masked thing, nor to the embedding of a masked word; in
    training, where batch norms mix rooms."""
    torch.manual_seed(0)
    model = RECIPE.model().train()
    (step,) = batches(DATA, RECIPE, seed=0, stop=1)
    batch = step.batch
    assert batch.hidden_BM.any()
    assert not (batch.hidden_BM & ~batch.open_BM).any()
    point_BMKF = batch.point_BMKF.clone().requires_grad_()
    features = RECIPE.features(model, replace(batch, point_BMKF=point_BMKF))
    (grad,) = torch.autograd.grad(features.masked_class_BMC.square().sum(), point_BMKF, retain_graph=True)
    assert (grad[batch.hidden_BM] == 0).all()
    assert grad[~batch.hidden_BM & batch.open_BM].abs().max() > 0
    changed = torch.where(batch.hidden_BSL, (batch.id_BSL + 7) % model.words, batch.id_BSL)
    with torch.no_grad():
        word, sentence = model.eval().read_words(batch.id_BSL[0], batch.mask_BSL[0], batch.hidden_BSL[0])
        other, last = model.read_words(changed[0], batch.mask_BSL[0], batch.hidden_BSL[0])
    assert torch.equal(word, other)
    assert torch.equal(sentence, last)


def test_phrases_are_the_tokens_of_their_spans() -> None:
    words = RECIPE.words()
    text = "the chair left of the blue table, seen from the door"
    start = text.index("the blue")
    inside_L = tokens_of(words, text, start, start + len("the blue table"), 24)
    ids = words.encode([text], 24).ids_BL[0]
    assert words.decode(ids[inside_L]) == "the blue table"
    (step,) = batches(DATA, RECIPE, seed=1, stop=1)
    batch = step.batch
    spoken_BSP = batch.phrase_BSPL.any(-1)
    assert spoken_BSP[..., 0][batch.mask_BSL.any(-1)].all()
    assert (batch.phrase_BSPM.any(-1) <= spoken_BSP).all()
    assert (batch.meant_BSM == (batch.target_BSM > 0))[batch.mask_BSL.any(-1)].all()  # jitter of a tenth stays above .25


def test_a_proposal_shares_the_target_by_its_iou() -> None:
    logit = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.1, 0.2]])
    target = torch.tensor([[0.6, 0.2, 0.0], [0.0, 0.0, 0.0]])
    expected = -(0.75 * logit[0, :2].log_softmax(0)[0] + 0.25 * logit[0, :2].log_softmax(0)[1])
    torch.testing.assert_close(shared_nll(logit, target), expected)
    assert shared_nll(logit[1:], target[1:]) == 0


def test_proposals_are_given_or_jittered() -> None:
    sample, reading = DATA[0], ProposalReading(most=20, inside=8)
    true_N6 = boxes_of_objects(room_objects(sample))
    np.testing.assert_array_equal(reading.boxes(sample), true_N6)
    moved_N6 = reading.boxes(sample, np.random.default_rng(0))
    assert 0 < np.abs(moved_N6[:, :3] - true_N6[:, :3]).max() <= 0.1 * true_N6[:, 3:].max()
    assert (reading.matches(moved_N6, room_objects(sample)) == np.arange(len(true_N6))).mean() > 0.8
    given = replace(sample, extras={**sample.extras, "proposals": [[0.0, 0, 0, 1, 1, 1]]})
    assert reading.boxes(given).shape == (1, 6)
    assert (reading.points(np.full((5, 6), 9.0), reading.boxes(given)) == 0).all()
    with pytest.raises(DataError, match="expected finite boxes"):
        reading.boxes(Sample("x", extras={"proposals": [[1.0, 2.0]]}))


def test_proposals_on_nothing_are_in_no_contrast() -> None:
    """A box in the air, far from every thing, takes no part unless it is to be a negative."""
    sample = DATA[0]
    true_N6 = boxes_of_objects(room_objects(sample))
    given = [*true_N6.tolist(), [50.0, 50.0, 50.0, 1.0, 1.0, 1.0]]
    rows = [replace(sample, uid=str(k), extras={**sample.extras, "proposals": given}) for k in range(2)]
    recipe = replace(RECIPE, masking=False, batch_size=2, reading=replace(RECIPE.reading, most=20))
    torch.manual_seed(0)
    model = recipe.model().eval()
    (step,) = batches(Pool.from_samples(rows), recipe, seed=0, stop=1)
    batch = step.batch
    assert batch.matched_BM.sum(1).tolist() == [len(true_N6)] * 2
    assert batch.open_BM.sum(1).tolist() == [len(true_N6) + 1] * 2
    with torch.no_grad():
        f = recipe.features(model, batch)
        ignored = recipe.contrasts(f, batch)
        negatives = replace(recipe, unmatched="negatives").contrasts(f, batch)
        without = within_rooms(f.sentence_BSD, f.node_BMD, batch.meant_BSM, batch.matched_BM, f.scale)
        beside = within_rooms(f.sentence_BSD, f.node_BMD, batch.meant_BSM, batch.open_BM, f.scale)
    assert (ignored["sentence"], negatives["sentence"]) == (without, beside)
    assert without < beside
    assert ignored["word"] < negatives["word"]
    assert ignored["scene"] == negatives["scene"]
    with pytest.raises(ConfigError, match="unmatched is 'kept'"):
        replace(RECIPE, unmatched="kept")  # type: ignore[arg-type]


def test_every_term_moves_its_parts() -> None:
    torch.manual_seed(0)
    model = RECIPE.model()
    (step,) = batches(DATA, RECIPE, seed=0, stop=1)
    losses = RECIPE.losses(RECIPE.features(model, step.batch), step.batch)
    expected = {
        "classes",
        "named",
        "word",
        "sentence",
        "scene",
        "masked_words",
        "masked_objects",
        "grounding",
        "captions",
        "questions",
    }
    assert losses.keys() == expected
    assert all(torch.isfinite(loss) for loss in losses.values())
    tuned = replace(RECIPE, pretraining=False, heads=("grounding",))
    small = tuned.model()
    (step,) = batches(DATA, tuned, seed=0, stop=1)
    assert tuned.losses(tuned.features(small, step.batch), step.batch).keys() == {"classes", "named", "grounding"}
    assert small.state_dict().keys() < model.state_dict().keys()
    with pytest.raises(ConfigError, match="levels"):
        replace(RECIPE, levels=("page",))


def test_deployed_models_answer_every_task(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RECIPE.deploy(RECIPE.model().eval())
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert model.describe_room(DATA[1]).texts == again.describe_room(DATA[1]).texts
    for task in (RoomGrounding(draws=5), RoomCaptions(draws=5), RoomDetection(), RoomQuestions(draws=5)):
        assert evaluate(task, model, DATA.select(range(3))).value >= 0
    zero = replace(RECIPE, heads=())
    plain = zero.deploy(zero.model().eval())
    answer = plain.ground_room(DATA[0], ["the red chair"])[0]
    assert answer.score_N.sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match="expected captions"):
        plain.describe_room(DATA[0])
    empty = replace(DATA[0], extras={**DATA[0].extras, "objects": [], "proposals": np.zeros((0, 6))})
    assert len(model.ground_room(empty, ["a chair"])[0].box_N6) == 0


def test_embeddings_start_from_word_vectors(tmp_path: Path) -> None:
    width, words = RECIPE.graph.word_width, RECIPE.words()
    lines = [" ".join([word, *[str(value)] * width]) for word, value in (("chair", 0.5), ("table", -1.0), ("zebra", 3.0))]
    (tmp_path / "vectors.txt").write_text("\n".join(lines))
    recipe = replace(RECIPE, word_vectors=str(tmp_path / "vectors.txt"))
    torch.manual_seed(0)
    plain = RECIPE.model()
    torch.manual_seed(0)
    weight = recipe.model().embed.weight
    rows = [words.encode(["the " + name], 8).ids_BL[0, 2] for name in ("chair", "table")]
    assert [weight[row].tolist() for row in rows] == [[0.5] * width, [-1.0] * width]
    moved = (weight != plain.embed.weight).any(1)
    assert {str(words.inner.id_to_token(row)).strip("Ġ") for row in moved.nonzero()[:, 0].tolist()} == {"chair", "table"}
    (tmp_path / "vectors.txt").write_text("zebra " + " ".join(["1"] * width))
    with pytest.raises(DataError, match="has no word of the data"):
        recipe.model()


def test_paper_builds_on_the_meta_device() -> None:
    paper = replace(SceneGraph3D.paper(), vocabulary=RECIPE.vocabulary, classes=RECIPE.classes, answers=RECIPE.answers)
    with torch.device("meta"):
        model = paper.model()
    assert model.gru.input_size == 300
    with pytest.raises(ConfigError, match="divide the width"):
        RoomGraphSettings(graph_width=10)
    with pytest.raises(ConfigError, match="heads are"):
        RoomGraphNet(RoomGraphSettings(), words=5, classes=2, answers=2, heads=("dance",))
