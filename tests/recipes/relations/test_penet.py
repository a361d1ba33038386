"""PE-Net as a recipe: published sizes, what a step asks for, phases, what it answers in each setting, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.detection.faster_rcnn import nms_labels
from diptych.models.detection.roi_pooler import RoIPooler
from diptych.models.penet.batch_targets import scene_graph_targets
from diptych.models.penet.graph_relater import GraphRelater
from diptych.models.penet.pair_regions import rectangles
from diptych.models.penet.pair_sampling import PairSampling, SceneGraphTargets
from diptych.models.penet.predicate_head import box_code
from diptych.models.towers.name_vectors import name_vectors, random_vector
from diptych.recipes._shared.scene_graph_config import PrototypeLosses
from diptych.recipes.relations.penet import PENet
from diptych.train.optimise import build_optimiser, freeze, learning_rate
from diptych.worlds.links.world import links

ROWS = links(24)
SMALL = {"width": 32, "word_width": 16, "naming_width": 32, "region_width": 32, "channels": 16}


def small(**changes: Any) -> PENet:
    return with_changes(PENet.tiny(), {**SMALL, "batch_size": 4, **changes}).prepare(ROWS)


def first_batch(recipe: PENet, rows: Any = ROWS) -> Any:
    (step,) = batches(rows, recipe, seed=0, stop=1)
    return step.batch


def test_published_sizes_build_without_memory() -> None:
    """The head has the parameters of the released class, less one layer that nothing reads; the detector those of its configuration."""
    with torch.device("meta"):
        model = PENet.paper().prepare(ROWS).model()

    def count(part: Any) -> int:
        return sum(p.numel() for p in part.parameters())

    assert count(model.head) == 110_437_444 - 2048 * 2049
    layers = 256 * 49 * 4096 + 4096 + 4096 * 4097
    rectangle_net = (2 * 49 * 128 + 128) + 2 * 128 + (128 * 9 * 256 + 256) + 2 * 256
    assert count(model.regions) == layers
    assert count(model.pairs) == layers + (4 * 256 * 9 * 256 + 256) + rectangle_net
    assert count(model.detector.heads) == layers + 4097 * 151 * 5
    assert count(model.detector.proposer) == (256 * 9 * 256 + 256) + 257 * 4 * 5
    assert model.head.log_scale.shape == (1,)


def test_published_schedule_and_what_decays() -> None:
    recipe = PENet.paper().prepare(ROWS)
    spec = recipe.optimiser()
    rates = [learning_rate(spec, step, 60_000) for step in (500, 27_999, 28_000, 47_999, 48_000, 59_999)]
    assert rates == pytest.approx([8e-3, 8e-3, 8e-4, 8e-4, 8e-5, 8e-5])
    rising = [learning_rate(spec, step, 60_000) for step in (0, 250, 499)]
    assert rising == pytest.approx([8e-4, 8e-3 * 0.55, 8e-3 * (0.1 * (1 - 499 / 500) + 499 / 500)]), (
        "WarmupMultiStepLR from a tenth"
    )
    model = small(setting="sgdet", trains="relations", momentum=0.9).model()
    recipe = small(setting="sgdet", trains="relations", momentum=0.9)
    freeze(model, recipe.optimiser())
    assert not any(p.requires_grad for p in model.detector.parameters())
    groups = build_optimiser(model, recipe.optimiser()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert {"head.log_scale", "head.pair_residual.norm.weight"} <= names
    assert not any(name.endswith("bias") for name in names)
    phase = small(setting="sgdet", trains="detector", momentum=0.9, bias_lr=PENet.detection().rates.bias_lr)
    groups = build_optimiser(phase.model(), phase.optimiser()).param_groups
    factors = {(bool(group["weight_decay"]), group["scale"]) for group in groups if group["scale"]}
    assert factors == {(True, 1.0), (False, 2.0)}, (
        "biases of the detector learn at twice the rate, as its configuration leaves them"
    )
    shape = PENet.detection().detector
    assert (shape.learns_considered, shape.considered, shape.proposals, shape.detections) == (12_000, 6000, 2000, 256)
    shape = PENet.paper().detector
    assert (shape.considered, shape.proposals, shape.detections) == (6000, 1000, 80)


def test_half_of_the_pictures_are_turned_as_released_and_none_to_whoever_evaluates() -> None:
    """`build_transforms` of the release has .5 in place of the configuration's option."""
    views = PENet.paper().prepare(ROWS).views
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    shown = (pixels, SceneGraph((Region((0.0, 0.0, 30.0, 40.0), "left thing"),)))
    turned = 0
    for seed in range(60):
        image_HWC, graph = views.draw(shown, np.random.default_rng(seed))
        assert image_HWC.shape == (600, 900, 3)
        assert graph.regions[0].label == "left thing"
        first = image_HWC[300, 100, 0] < 128
        assert graph.regions[0].box == ((450, 0, 900, 600) if first else (0, 0, 450, 600))
        turned += int(first)
    assert 18 <= turned <= 42
    assert views.whole(shown)[0][300, 100, 0] > 128
    assert PENet.paper().max_scale == 0


@pytest.mark.parametrize("trains", ["relations", "both", "detector"])
@pytest.mark.parametrize("setting", ["predcls", "sgcls", "sgdet"])
def test_every_phase_moves_what_it_trains_and_nothing_else(setting: str, trains: str) -> None:
    recipe = small(setting=setting, trains=trains)
    torch.manual_seed(0)
    model = recipe.model()
    freeze(model, recipe.optimiser())
    batch = first_batch(recipe)
    losses = recipe.losses(recipe.features(model, batch), batch)
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if setting == "sgdet" and trains == "relations":  # an untrained detector keeps no true box, so no pair is drawn
        silent = [name for name in silent if not name.startswith(("head", "pairs", "regions"))]
    assert not silent
    assert any(p.requires_grad for p in model.detector.parameters()) == (trains != "relations")
    assert any(p.requires_grad for p in model.head.parameters()) == (trains != "detector")


def test_losses_are_the_published_terms_and_weights_of_zero_leave_them_out() -> None:
    recipe = small(setting="predcls")
    model, batch = recipe.model().eval(), first_batch(recipe)
    features = recipe.features(model, batch)
    assert set(recipe.losses(features, batch)) == {"relations", "distance", "similarity", "spread"}
    bare = replace(recipe, prototype_losses=PrototypeLosses(distance=0.0, similarity=0.0, spread=0.0))
    assert set(bare.losses(features, batch)) == {"relations"}
    linear = small(setting="predcls", classifier="linear")
    features = linear.features(linear.model(), batch)
    assert set(linear.losses(features, batch)) == {"relations"}
    assert features.scale is None


def test_logit_adjustment_adds_the_log_of_shares_in_training_alone() -> None:
    recipe = small(setting="predcls", classifier="linear", adjust=1.0)
    model, batch = recipe.model().eval(), first_batch(recipe)
    features = recipe.features(model, batch)
    shares = dict(zip(recipe.names.relations, recipe.names.relation_counts, strict=True))
    total = sum(shares.values())
    added = torch.tensor([0.0, *(math.log(shares[name] / total) for name in recipe.lists.relations)])
    logit_PK = features.scored.logit_PK + added
    want = torch.nn.functional.cross_entropy(logit_PK, features.relation_P)
    torch.testing.assert_close(recipe.losses(features, batch)["relations"], want)
    plain = replace(recipe, adjust=0.0).deploy(model)
    image, regions = ROWS[0].image, [ROWS[0].regions]
    asked: Any = {"objects": [], "relations": list(recipe.lists.relations)}
    assert recipe.deploy(model).relate([image], regions, **asked) == plain.relate([image], regions, **asked)


def scene(*relations: Relation, side: int = 64) -> Sample:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    regions = (Region((4, 8, 20, 24), "cat"), Region((30, 30, 60, 50), "cup"), Region((2, 40, 20, 60), "cat"))
    return Sample(uid="a", image=ArrayImage(noise_HWC, "a"), regions=regions, relations=relations)


def test_a_pair_learns_one_of_its_predicates_and_boxes_are_in_pixels() -> None:
    rows = Pool.from_samples([scene(Relation(0, "on", 1), Relation(0, "near", 1), Relation(2, "on", 0))], name="a")
    recipe = with_changes(PENet.tiny(), {**SMALL, "batch_size": 1}).prepare(rows)
    seen = set()
    for step in batches(rows, recipe, seed=0, stop=20):
        (true,) = scene_graph_targets(step.batch)
        related = {
            tuple(pair): recipe.lists.relations[k - 1]
            for pair, k in zip(true.pair_G2.tolist(), true.relation_G, strict=True)
            if k
        }
        assert set(related) == {(0, 1), (2, 0)}
        assert len(true.pair_G2) == 6  # every ordered pair of three, related or not
        seen.add(related[0, 1])
    assert seen == {"on", "near"}
    torch.testing.assert_close(true.box_K4[1], torch.tensor([30.0, 30, 60, 50]))
    assert true.label_K.tolist() == [1, 2, 1]


# ---------------------------------------------------------------- parts


def test_boxes_are_coded_with_their_last_pixel() -> None:
    (code_9,) = box_code(torch.tensor([[10.0, 20.0, 29.0, 69.0]]), (100, 200))
    torch.testing.assert_close(code_9, torch.tensor([0.1, 0.5, 0.1, 0.45, 0.05, 0.2, 0.145, 0.69, 0.05]))


def test_rectangles_are_drawn_outwards_on_the_squeezed_image() -> None:
    (drawn_SS,) = rectangles(torch.tensor([[21.0, 10.0, 40.0, 19.0]]), (50, 100), 10)
    want = torch.zeros(10, 10)
    want[2:5, 2:5] = 1  # x from 2.1 to 4, y from 2 to 3.8: down to 2, up to 4, the last one in
    torch.testing.assert_close(drawn_SS, want)


def test_large_boxes_are_read_from_coarse_maps() -> None:
    pool = RoIPooler(1, (4, 8, 16, 32))
    sides = torch.tensor([10.0, 55, 111, 112, 223, 224, 447, 448, 900])
    box_N4 = torch.stack([torch.zeros(9), torch.zeros(9), sides - 1, sides - 1], 1)
    assert pool.levels(box_N4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    maps = [torch.full((1, 1, 64 // 2**n, 64 // 2**n), float(n)) for n in range(4)]
    assert pool(maps, [box_N4[:, :].clamp(max=230)])[:, 0, 3, 3].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_near_boxes_take_different_names() -> None:
    logit_NC = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 0.5]])
    box_NC4 = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [50.0, 50, 60, 60]])[:, None].repeat(1, 3, 1)
    assert nms_labels(logit_NC, box_NC4, 0.5).tolist() == [1, 2, 1]
    only_two = torch.tensor([False, False, True])
    assert nms_labels(logit_NC[1:], box_NC4[1:], 0.5, only_two).tolist() == [2, 2]


def test_pairs_of_found_boxes_stand_for_true_relations() -> None:
    """Boxes on both ends are positive, at most so many a relation; negatives are only among boxes that stand for something."""
    true = SceneGraphTargets(
        torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]]),
        torch.tensor([1, 2]),
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([5, 0]),
    )
    box_N4 = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [70, 70, 90, 90]])
    torch.manual_seed(0)
    drawn_pairs = PairSampling(pairs=12, positive=0.5, each=4)(box_N4, box_N4, true)
    assert drawn_pairs.label_N.tolist() == [1, 1, 2, 0]
    related = {tuple(p) for p, k in zip(drawn_pairs.pair_P2.tolist(), drawn_pairs.relation_P.tolist(), strict=True) if k}
    others = {tuple(p) for p, k in zip(drawn_pairs.pair_P2.tolist(), drawn_pairs.relation_P.tolist(), strict=True) if not k}
    assert related == {(0, 2), (1, 2)}
    assert set(drawn_pairs.relation_P.tolist()) == {0, 5}
    assert others == {(0, 1), (1, 0), (2, 0), (2, 1)}
    few = PairSampling(pairs=4, positive=0.25, each=1)(box_N4, box_N4, true)
    assert int((few.relation_P > 0).sum()) == 1
    assert len(few.pair_P2) == 4


def test_names_get_the_vectors_of_their_words(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("near 1 0\nof 0 4\nparking 2 2\nmeter 9 9\nleft 5 -4\n")
    mean_NE = name_vectors(["left of", "near", "beside it"], str(file), rule="mean", width=2)
    assert mean_NE[:2].tolist() == [[2.5, 0.0], [1.0, 0.0]]
    assert mean_NE[2].tolist() == random_vector("beside it", 2).tolist()
    assert name_vectors(["parking meter"], str(file), rule="longest", width=2).tolist() == [[2.0, 2.0]]
    shared = name_vectors(["near above", "far above", "above"], "random", rule="mean", width=8)
    torch.testing.assert_close(shared[0] - shared[1], torch.from_numpy(random_vector("near", 8) - random_vector("far", 8)) / 2)
    file.write_text("near 1 0 3\n")
    with pytest.raises(DataError, match=r"row 0.*3 numbers"):
        name_vectors(["near"], str(file), rule="mean", width=2)
    with pytest.raises(DataError, match="minilm"):
        name_vectors(["near"], str(tmp_path / "none.txt"), rule="mean", width=2)


def test_a_fresh_model_knows_its_names_by_their_words() -> None:
    """Both tables of things, "no relation" left out of the predicates; two words make the mean of theirs."""
    recipe = small()
    head = recipe.model().head
    names = recipe.lists.relations
    assert any(" " in name for name in names)
    wanted = [np.mean([random_vector(word, 16) for word in name.split()], axis=0) for name in names]
    np.testing.assert_allclose(head.predicate_word_KE.weight[1:].detach().numpy(), wanted, rtol=1e-6)
    things = [random_vector(max(name.split(), key=len), 16) for name in recipe.lists.objects]
    for table in (head.object_word_CE, head.naming.word_CE):
        np.testing.assert_allclose(table.weight[1:].detach().numpy(), things, rtol=1e-6)


# ---------------------------------------------------------------- answers


def deployed(setting: str) -> GraphRelater:
    recipe = small(setting=setting)
    torch.manual_seed(0)
    return recipe.deploy(recipe.model().eval())


def test_given_regions_come_back_and_every_pair_is_scored() -> None:
    model = deployed("predcls")
    sample = ROWS[0]
    (graph,) = model.relate([sample.image], [sample.regions], objects=[], relations=model.relations, top=0)
    assert graph.regions == sample.regions
    count = len(sample.regions)
    assert len(graph.relations) == count * (count - 1) * len(model.relations)
    total: dict[tuple[int, int], float] = {}
    for edge in graph.relations:
        total[edge.subject, edge.object] = total.get((edge.subject, edge.object), 0.0) + edge.confidence
    assert max(total.values()) < 1  # the rest is "no relation"
    scores = [edge.confidence for edge in graph.relations]
    assert scores == sorted(scores, reverse=True)
    (few,) = model.relate([sample.image], [sample.regions], objects=[], relations=model.relations, top=2)
    best = {(e.subject, e.object): e for e in reversed(graph.relations)}
    assert set(graph.relations[:2]) <= set(few.relations)
    assert {best[e.subject, e.object] for e in few.relations} <= set(few.relations)


def test_labels_made_anew_are_among_the_asked_ones() -> None:
    model = deployed("sgcls")
    sample = ROWS[1]
    (graph,) = model.relate(
        [sample.image], [sample.regions], objects=["star", "ring"], relations=model.relations, labels_known=False
    )
    assert {region.label for region in graph.regions} <= {"star", "ring"}
    assert [region.box for region in graph.regions] == [region.box for region in sample.regions]
    assert all(0 < region.score < 1 for region in graph.regions)


def test_found_boxes_lie_in_the_image_and_only_asked_names_are_found() -> None:
    model = deployed("sgdet")
    wide = np.random.default_rng(0).integers(0, 256, (40, 120, 3)).astype(np.uint8)
    (graph,) = model.detect([ArrayImage(wide, "wide")], objects=["ring"], relations=["near below", "no such"])
    assert graph.regions
    assert graph.relations
    assert {region.label for region in graph.regions} == {"ring"}
    assert {edge.predicate for edge in graph.relations} == {"near below"}
    corners = torch.tensor([region.box for region in graph.regions])
    assert float(corners.min()) >= 0
    assert float(corners[:, 2].max()) <= 120.001
    assert float(corners[:, 3].max()) <= 40.001
    assert float(corners[:, 2].max()) > 64  # in pixels of the image, not of what the network saw


def test_questions_it_cannot_answer_get_one_line() -> None:
    model, sample = deployed("predcls"), ROWS[0]
    with pytest.raises(ConfigError, match="sgdet"):
        model.detect([sample.image], objects=["ring"], relations=["near below"])
    with pytest.raises(ConfigError, match="sgcls or sgdet"):
        model.relate([sample.image], [sample.regions], objects=["ring"], relations=["near below"], labels_known=False)
    with pytest.raises(DataError, match=r"was trained on none of.*'riding'.*far"):
        model.relate([sample.image], [sample.regions], objects=[], relations=["riding"])
    with pytest.raises(DataError, match="label 'horse'"):
        model.relate([sample.image], [[Region((0, 0, 9, 9), "horse")]], objects=[], relations=["near below"])
    with pytest.raises(ConfigError, match="expected relations"):
        PENet(trains="all")  # type: ignore[arg-type]


# ---------------------------------------------------------------- phases


def test_relations_start_from_the_layers_of_the_detector() -> None:
    """Deployed after its phase, a detector's layers are those of regions and pairs; a bare detector's weights are read so too."""
    recipe = small(setting="sgdet", trains="detector")
    model = recipe.model()
    layers = {n.removeprefix("detector.heads.box_head."): t for n, t in model.state_dict().items() if ".box_head." in n}
    found = recipe.fitted({n: t for n, t in model.state_dict().items() if n.startswith("detector.")})
    relater = recipe.deploy(model)
    for name, tensor in layers.items():
        for part in ("regions.", "pairs.layers."):
            torch.testing.assert_close(found[part + name], tensor)
            torch.testing.assert_close(relater.model.state_dict()[part + name], tensor)
    started = small(setting="predcls", width=64).started(relater)
    assert (started.setting, started.relation_head) == ("predcls", recipe.relation_head)
    assert started.prepare(ROWS) == started
    elsewhere = Pool.from_samples([scene(Relation(0, "on", 1))], name="elsewhere")
    with pytest.raises(ConfigError, match="other names than 'elsewhere'"):
        PENet.tiny().started(relater).prepare(elsewhere)
    with pytest.raises(ConfigError, match="detection"):
        recipe.started(object())


def test_it_learns_one_batch_of_pairs() -> None:
    recipe = small(setting="predcls", dropout=0.0, lr=3e-3)
    torch.manual_seed(0)
    model, batch = recipe.model(), first_batch(recipe)
    freeze(model, recipe.optimiser())
    optimiser = build_optimiser(model, recipe.optimiser())
    first: dict[str, Tensor] = {}
    for _ in range(25):
        losses = recipe.losses(recipe.features(model, batch), batch)
        first = first or {name: value.detach() for name, value in losses.items()}
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert float(losses["relations"].detach()) < 0.5 * float(first["relations"])
    assert float(losses["spread"].detach()) < float(first["spread"])
