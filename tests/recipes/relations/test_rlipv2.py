"""RLIPv2 as a recipe: presets and their sizes, what a step asks for, that it learns, that unseen classes stay unseen."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diptych.api import recipe
from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.vocabularies import vocabulary
from diptych.models.rlipv2.published import build
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.objectives.boxes.pair_set import PairSetLoss
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.tasks.relations.hico_det_splits import unseen
from diptych.tasks.relations.vg150 import VG150
from diptych.train.gradient_cache import backward
from diptych.train.optimise import build_optimiser, freeze, learning_rate, set_learning_rate
from diptych.worlds.links.world import HELD_OUT, links

ROWS = links(24)


def picture(uid: str, *, regions: tuple[Region, ...] = (), relations: tuple[Relation, ...] = (), side: int = 40) -> Sample:
    noise_HWC = np.random.default_rng(len(uid)).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Sample(uid=uid, image=ArrayImage(noise_HWC, uid), regions=regions, relations=relations)


def first_batch(recipe: RLIPv2, rows: Any) -> Any:
    (step,) = batches(rows, recipe, seed=0, stop=1)
    return step.batch


def named(*triplets: tuple[str, str, str]) -> Sample:
    """One picture with these relations, each between two regions of its own."""
    regions: list[Region] = []
    for n, (subject, _, thing) in enumerate(triplets):
        regions += [Region((0, n, 10, n + 9), subject), Region((12, n, 30, n + 9), thing)]
    relations = tuple(Relation(2 * n, predicate, 2 * n + 1) for n, (_, predicate, _) in enumerate(triplets))
    return picture("named", regions=tuple(regions), relations=relations)


# ---------------------------------------------------------------- presets

ARCHITECTURES: dict[Any, tuple[RelationDetector, list[bool]]] = {}


def without_memory(recipe: RLIPv2) -> RelationDetector:
    """The recipe's model on the meta device, as frozen as it is made. Presets that differ in nothing that a model is made of share one."""
    made_of = (recipe.backbone, recipe.frozen_norm, recipe.drop_path, recipe.label_encoder, recipe.text_length, recipe.shape)
    if made_of not in ARCHITECTURES:
        with torch.device("meta"):
            built = recipe.model()
        ARCHITECTURES[made_of] = built, [p.requires_grad for p in built.parameters()]
    model, trained = ARCHITECTURES[made_of]
    for parameter, wanted in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(wanted)
    return model


R_TAGGER: dict[str, Any] = {
    "variant": "parsed",
    "given": True,
    "given_point": True,
    "relation_start": "slots",
    "gate": "vector",
    "mlp_width": 1024,
}


@pytest.mark.parametrize(
    ("preset", "backbone", "changes"),
    [
        ("paper", "resnet50", {}),
        ("swin_tiny", "swin_tiny", {}),
        pytest.param(
            "swin_large", "swin_large", {}, marks=pytest.mark.slow
        ),  # its backbone is counted below, its shape is Swin-T's
        ("hico_det", "resnet50", {"pairs": 64}),
        ("tagger_released", "resnet50", R_TAGGER),
    ],
)
def test_published_sizes_build_without_memory(preset: str, backbone: str, changes: dict[str, Any]) -> None:
    """As many parameters as the released models, tensor by tensor."""
    ours = without_memory(RLIPv2.preset(preset).prepare(ROWS))
    with torch.device("meta"):
        theirs = build(backbone, **changes)
    sizes, published = ({name: p.shape for name, p in model.named_parameters()} for model in (ours, theirs))
    assert sizes == published


RELEASED = {
    "resnet50": (11, 222_400, 23_232_512),
    "swin_tiny": (74, 49_242, 27_471_264),
    "swin_large": (134, 184_020, 194_813_760),
}
"""Of the released backbones: frozen tensors, numbers in them, numbers that are trained. Counted by running the released code."""


@pytest.mark.parametrize("preset", RLIPv2.presets)
def test_presets_freeze_what_the_release_freezes(preset: str) -> None:
    recipe = RLIPv2.preset(preset).prepare(ROWS)
    model = without_memory(recipe)
    freeze(model, recipe.optimiser())
    boxes = r"relation_decoder\.(subject|object)_box\."  # trained by name in the release, but no loss reaches them
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad and not re.match(boxes, name)}
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert all(name.startswith("backbone.") for name in frozen)
    if "tiny" in preset and not preset.startswith("swin"):
        assert not frozen
    else:
        published = RELEASED[preset if preset.startswith("swin") else "resnet50"]
        assert (len(frozen), sum(frozen.values()), trained) == published


def test_rates_go_by_part_and_fall_to_a_tenth_once() -> None:
    recipe = replace(RLIPv2.tiny(), backbone_lr=0.1, text_lr=0.2, lr=2e-4, warmup=0.0, lr_drop=0.75).prepare(ROWS)
    model, spec = recipe.model(), recipe.optimiser()
    optimiser = build_optimiser(model, spec)
    set_learning_rate(optimiser, learning_rate(spec, 0, 100))
    found = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        share = 0.1 if name.startswith("backbone.") else 0.2 if name.startswith("labels.") else 1.0
        assert found[id(p)] == pytest.approx(share * 2e-4), name
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} > {"backbone", "labels"}
    rates = [learning_rate(spec, step, 100) for step in (0, 74, 75, 99)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5])
    assert optimiser.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("preset", RLIPv2.presets)
def test_every_preset_makes_a_configuration(preset: str) -> None:
    made = RLIPv2.preset(preset)
    assert made.slug == "rlipv2"
    assert made.shape.given == preset.startswith("tagger")
    assert made.measured_by.startswith("v_coco_triplets" if preset == "v_coco" else "vg150")


def test_unknown_presets_get_a_near_match() -> None:
    with pytest.raises(UnknownName, match="did you mean 'swin_tiny'"):
        RLIPv2.preset("swin_tny")


def test_published_values_are_the_fields() -> None:
    made = RLIPv2.paper()
    loss = made.loss
    assert (loss.label, loss.relation, loss.box, loss.giou, loss.background) == (1, 1, 2.5, 1, 0.1)
    shape = made.shape
    assert (shape.pairs, shape.encoder_layers, shape.decoder_layers, shape.fusion_before) == (100, 6, 3, (0, 2, 4))
    assert (shape.in_padded, shape.relation_boxes, RelationDetectorConfig()) == (True, True, shape), (
        "one default, the published one"
    )
    assert (made.list_length, int(made.list_length * made.object_share), loss.pseudo, shape.branches) == (500, 333, 0.3, 16)
    assert (shape.dropout, RLIPv2.tagger().shape.dropout, RLIPv2.tagger_released().shape.dropout) == (0.0, 0.1, 0.1)
    rules = {rule.pattern: rule.decay for rule in made.optimiser().rules}
    assert [rules[name] for name in (r"^backbone\.", r"^labels\.", "")] == [True] * 3, "AdamW's decay is on every parameter"
    assert [rule.decay for rule in RLIPv2.tiny().optimiser().rules] == [None, None]
    assert RLIPv2.v_coco().loss.quality is False  # some pairs have no object
    in_scripts = [RLIPv2.preset(name).epochs for name in ("hico_det_few", "hico_det_uc_nf", "hico_det_uc_rf")]
    assert in_scripts == [10, 10, 20]
    assert RLIPv2.hico_det_uc_rf().lr_drop == 0.75
    closed = [name for name in RLIPv2.presets if RLIPv2.preset(name).lists == "closed"]
    assert len(closed) == 6
    assert all(RLIPv2.preset(name).loss.pseudo is None for name in closed), "no tuning script asks for pseudo-labels"
    rare, frequent = (unseen(made.hide) for made in (RLIPv2.hico_det_uc_rf(), RLIPv2.hico_det_uc_nf()))
    assert (len(rare), len(frequent)) == (120, 120)
    assert set(rare) != set(frequent)


# ---------------------------------------------------------------- what a step asks for


def test_a_closed_set_asks_for_all_its_names_and_the_background() -> None:
    known = vocabulary("hico-det")
    recipe = replace(RLIPv2.tiny(), lists="closed", vocabulary="hico-det", image_size=32)
    rows = Pool.from_samples([named(("person", "ride", "bicycle"))], name="one")
    batch = first_batch(replace(recipe, batch_size=1).prepare(rows), rows)
    assert batch.lists.objects == known.objects
    assert batch.lists.relations == known.predicates
    assert batch.lists.texts[len(known.objects)] == "no objects"
    assert batch.relation_BGR.shape[-1] == 117


def test_v_coco_is_trained_in_published_words_with_a_class_for_what_is_missing() -> None:
    rows = Pool.from_samples([named(("person", "sit instr", "chair"), ("person", "ride instr", "horse"))], name="one")
    alone = rows[0]
    relations = (*alone.relations, Relation(0, "hit instr", 0))  # the racket is not in the picture
    rows = Pool.from_samples([replace(alone, relations=relations)], name="one")
    recipe = replace(RLIPv2.tiny(), lists="closed", vocabulary="v-coco", image_size=32, batch_size=1).prepare(rows)
    batch = first_batch(recipe, rows)
    assert (batch.lists.objects[80], batch.lists.background, len(batch.lists.relations)) == ("missing objects", 81, 29)
    true = batch.true_pairs()
    place = true.relation_BGR[0].argmax(1)
    assert [batch.lists.relations[n] for n in place.tolist()] == ["sit on/at", "ride on", "hit with"]
    assert [batch.lists.objects[n] for n in true.object_label_BG[0].tolist()] == ["chair", "horse", "missing objects"]


@pytest.mark.parametrize("hide", ["uc_rf", "uc_nf", "uo"])
def test_hidden_classes_lose_their_relations_and_keep_their_boxes(hide: Any) -> None:
    classes, hidden = vocabulary("hico-det").triplets, unseen(hide)
    kept = next(triplet for number, triplet in enumerate(classes) if number not in hidden)
    rows = Pool.from_samples([named(classes[hidden[0]], kept)], name="two")
    recipe = replace(RLIPv2.tiny(), lists="closed", vocabulary="hico-det", image_size=32, batch_size=1, hide=hide).prepare(rows)
    batch = first_batch(recipe, rows)
    assert int(batch.region_mask_BK.sum()) == 4
    assert int(batch.pair_mask_BG.sum()) == 1
    relations = batch.lists.relations
    assert relations[int(batch.relation_BGR[0, 0].argmax())] == kept[1]
    plain = first_batch(replace(recipe, hide=""), rows)
    assert int(plain.pair_mask_BG.sum()) == 2


def test_a_closed_set_refuses_other_names_or_drops_them() -> None:
    rows = Pool.from_samples([named(("person", "ride", "bicycle"), ("person", "frobs", "bicycle"))], name="odd")
    recipe = replace(RLIPv2.tiny(), lists="closed", vocabulary="hico-det", image_size=32, batch_size=1).prepare(rows)
    with pytest.raises(DataError, match="frobs"):
        first_batch(recipe, rows)
    assert int(first_batch(replace(recipe, outside="drop"), rows).pair_mask_BG.sum()) == 1


def test_other_pairs_are_targets_without_relations_where_labels_miss_many() -> None:
    """Four regions have twelve ordered pairs; the tagged one is said to be the only one with a relation, or the only one that is known."""
    sample = named(("man", "riding", "horse"), ("dog", "near", "car"))
    rows = Pool.from_samples([replace(sample, relations=sample.relations[:1])], name="tagged")
    recipe = replace(RLIPv2.tiny(), image_size=32, batch_size=1).prepare(rows)
    assert first_batch(recipe, rows).relation_BGR.sum(-1).tolist() == [[1]]
    left_out = first_batch(with_changes(recipe, {"unlabelled": "left_out"}), rows)
    assert left_out.relation_BGR.sum(-1).tolist() == [[1, *[0] * (recipe.shape.pairs - 1)]]
    assert left_out.true_pairs().valid_BG.all()
    released = replace(RLIPv2.tagger_tiny(), image_size=32, batch_size=1).prepare(rows)
    assert first_batch(released, rows).relation_BGR.shape[1] == 12


def test_names_of_unsure_relations_are_not_asked_for() -> None:
    """Released pre-training cuts pseudo-labels before it counts and lists names."""
    sample = named(("man", "riding", "horse"), ("man", "near", "horse"))
    sure, unsure = sample.relations
    rows = Pool.from_samples([replace(sample, relations=(sure, replace(unsure, confidence=0.19)))], name="tagged")
    recipe = replace(RLIPv2.tiny(), image_size=32, batch_size=1, list_length=0).prepare(rows)
    assert recipe.names.relations == ("riding",)
    assert first_batch(recipe, rows).lists.relations == ("riding",)
    every = replace(RLIPv2.tiny(), image_size=32, batch_size=1, list_length=0, min_confidence=0.0).prepare(rows)
    assert first_batch(every, rows).lists.relations == ("riding", "near")


def test_subjects_may_be_called_by_another_name_as_released() -> None:
    rows = Pool.from_samples([named(("person", "ride", "horse"), ("person", "feed", "dog"))], name="two")
    recipe = replace(RLIPv2.tiny(), lists="closed", vocabulary="hico-det", image_size=32, batch_size=1).prepare(rows)
    batch = first_batch(recipe, rows)
    torch.manual_seed(0)
    features = recipe.features(recipe.model(), batch)
    bicycle = batch.lists.objects.index("bicycle")
    assert bicycle == 1
    true = batch.true_pairs()
    renamed = replace(true, subject_label_BG=torch.full_like(true.subject_label_BG, bicycle))
    want = recipe.loss(features, renamed)[0]
    got = replace(recipe, subject_name="bicycle").losses(features, batch)
    plain = recipe.losses(features, batch)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0)
    assert abs((got["labels"] - plain["labels"]).item()) > 1e-3
    with pytest.raises(ConfigError, match="expected a name of the closed set"):
        replace(recipe, subject_name="unicycle").losses(features, batch)
    with pytest.raises(ConfigError, match="lists closed"):
        replace(RLIPv2.tiny(), subject_name="bicycle")


def test_the_few_shot_preset_names_no_subjects_and_the_others_do() -> None:
    for preset in ("hico_det", "hico_det_uc_rf", "hico_det_uc_nf", "v_coco", "open_images"):
        assert getattr(RLIPv2, preset)().loss.subjects
    assert not RLIPv2.hico_det_few().loss.subjects


def test_data_without_relations_are_refused_before_the_first_step() -> None:
    rows = Pool.from_samples([picture("a", regions=(Region((0, 0, 9, 9), "cup"),))], name="silent")
    with pytest.raises(DataError, match="no image of 'silent' has a relation"):
        RLIPv2.tiny().prepare(rows)


def test_training_names_do_not_hold_what_the_world_holds_out() -> None:
    assert not set(HELD_OUT) & set(RLIPv2.tiny().prepare(links(200)).names.relations)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gate": "sigmoid"}, "RelationDetectorConfig.gate is 'sigmoid'"),
        ({"fusion": "early"}, r"RelationDetectorConfig.fusion is 'early' \(expected alif"),
        ({"variant": "detr"}, "RelationDetectorConfig.variant is 'detr'"),
        ({"fusion_before": (0,)}, "meetings for 2 decoder layers"),
        ({"pseudo": 2.0}, "pseudo is 2.0"),
        ({"matching": "given"}, "matching is 'given', but no regions are"),
    ],
)
def test_what_cannot_be_built_is_refused_when_it_is_said(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_changes(RLIPv2.tiny(), change)


def test_fields_of_shape_and_loss_are_changed_by_their_own_names() -> None:
    made = recipe("rlipv2", fusion="late", pairs=5, steps=7, giou=2.0, pseudo=0.4)
    assert (made.shape.fusion, made.shape.pairs, made.steps) == ("late", 5, 7)
    assert made.loss == PairSetLoss(giou=2.0, pseudo=0.4)
    assert replace(made.shape, fusion="alif", pairs=8) == RLIPv2.tiny().shape, "the others are the preset's"
    with pytest.raises(UnknownName, match="did you mean 'fusion'"):
        recipe("rlipv2", fusio="late")


# ---------------------------------------------------------------- gradients


def test_pictures_without_anything_give_finite_gradients() -> None:
    """No region, a region without relation, one pixel, and one full picture in one batch."""
    full = ROWS[0]
    samples = [picture("empty"), picture("lonely", regions=(Region((1, 1, 9, 9), "circle"),)), picture("dot", side=1), full]
    rows = Pool.from_samples(samples, name="mixed")
    recipe = with_changes(RLIPv2.tiny(), {"batch_size": 4, "pseudo": 0.3}).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    batch = first_batch(recipe, rows)
    features = recipe.features(model, batch)
    assert isinstance(features, PairSet)
    losses = recipe.losses(features, batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.classifier.relation_shift_D.grad.abs().sum() > 0


def off_the_grid(model: torch.nn.Module) -> None:
    """Offsets start on centres of pixels, where the interpolation has a kink and rounding decides its slope."""
    for name, parameter in model.named_parameters():
        if name.endswith("offsets.bias"):
            torch.nn.init.uniform_(parameter, 0.1, 0.4)


@pytest.mark.parametrize("fusion", ["alif", "late", "none"])
def test_cached_gradients_equal_plain_ones(fusion: Any) -> None:
    """Images in chunks, the loss once: every gradient but rounding."""
    changes = {"batch_size": 4, "image_size": 32, "fusion": fusion, "fusion_dropout": 0.1}
    recipe = with_changes(RLIPv2.tiny(), changes).prepare(ROWS)
    batch = first_batch(recipe, ROWS)
    grads = []
    for chunk in (0, 2):
        torch.manual_seed(0)
        model = recipe.model().double().eval()
        off_the_grid(model)
        batch_64 = replace(batch, image_BCHW=batch.image_BCHW.double())
        backward(recipe, model, batch_64, micro_batch=chunk)
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, plain in grads[0].items():
        torch.testing.assert_close(grads[1][name], plain, rtol=1e-9, atol=1e-12, msg=name)


# ---------------------------------------------------------------- learning


@pytest.mark.slow
def test_eight_scenes_are_learned_by_heart() -> None:
    rows = links(8)
    recipe = replace(RLIPv2.tiny(), batch_size=8, steps=400, warmup=50.0).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    for step in batches(rows, recipe, seed=0, stop=recipe.steps):
        losses = recipe.losses(recipe.features(model, step.batch), step.batch)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
    task = VG150(ks=(5,), draws=0)
    result = task.score(task.predict(recipe.deploy(model.eval()), rows))
    assert result.metrics["r@5"].value >= 0.9


@pytest.mark.slow
def test_the_taggers_loss_falls() -> None:
    rows = links(64)
    recipe = replace(RLIPv2.tagger_tiny(), batch_size=16, steps=150).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    seen: list[float] = []
    for step in batches(rows, recipe, seed=0, stop=recipe.steps):
        losses = recipe.losses(recipe.features(model, step.batch), step.batch)
        optimiser.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimiser.step()
        seen.append(float(losses["relations"]))
    assert np.mean(seen[-20:]) < 0.5 * np.mean(seen[:20])
