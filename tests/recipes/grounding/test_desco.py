"""DesCo: queries of descriptions become token targets, captions keep their phrases, and the published size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych import api
from diptych.core.config import with_changes
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.recipes.grounding.desco import DesCo
from diptych.train.optimise import build_optimiser, learning_rate
from diptych.worlds.scenes.invented import described, invented, look_of


@pytest.fixture(scope="module")
def rows() -> Pool:
    return invented(24, seed=0).to_pool()


@pytest.fixture(scope="module")
def recipe(rows: Pool) -> DesCo:
    return dataclasses.replace(DesCo.tiny(), missing="refuse").prepare(rows)


def draws(rows: Any, count: int = 8, seed: int = 0) -> Draws:
    items = tuple(
        Draw(rows[row], np.random.default_rng([seed, row]), rows[row].image.pixels_HWC) for row in range(min(count, len(rows)))
    )
    return Draws(items, np.random.default_rng(seed), 0)


def test_boxes_answer_the_head_of_their_description_and_nothing_else(rows: Pool, recipe: DesCo) -> None:
    words, heads, dropped = recipe.words(), set(), 0
    for seed in range(6):
        batch = recipe.batch(draws(rows, seed=seed))
        assert batch.truncated == 0
        for row in range(len(batch)):
            regions = rows[row].regions
            dropped += len(regions) - int(batch.valid_BG[row].sum())
            for box_4, positive_L in zip(batch.box_BG4[row], batch.positive_BGL[row], strict=True):
                if positive_L.any():
                    heads.add(words.decode(batch.text_BL[row][positive_L].tolist()).rstrip(",").rstrip())
                    shares = [np.array(region.box) / 64 for region in regions]
                    centre = [(*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2])) for box in shares]
                    assert np.abs(np.array(centre) - box_4.numpy()).sum(1).min() < 1e-5
    names = {region.label for row in range(8) for region in rows[row].regions}
    assert heads <= {"a kind of thing"} | {f"{name}, a kind of thing" for name in names}
    assert "a kind of thing" in heads
    assert len(heads) > 5
    assert dropped > 0  # classes that were not chosen cost their boxes


def test_the_baseline_asks_by_name_alone(rows: Pool) -> None:
    recipe = dataclasses.replace(DesCo.tiny(), form="name").prepare(rows)
    batch = recipe.batch(draws(rows))
    texts = [recipe.words().decode(row.tolist()) for row in batch.text_BL]
    assert all("kind" not in text and "circle" not in text for text in texts)


def test_one_step_lowers_the_loss_of_its_batch(rows: Pool, recipe: DesCo) -> None:
    torch.manual_seed(0)
    model, batch = recipe.model(), recipe.batch(draws(rows))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    values = []
    for _ in range(6):
        total = torch.stack(list(recipe.losses(recipe.features(model, batch), batch).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0]
    assert set(recipe.metrics(recipe.features(model, batch), batch)) == {"boxes_an_image", "token_accuracy", "giou_of_matched"}


def test_descriptions_may_be_read_alone(rows: Pool, recipe: DesCo, tmp_path: Path) -> None:
    words = recipe.words()
    texts = [f"Detect: a kind of thing, red, star. a kind of thing, {shape}, plain. " for shape in ("ring", "moon")]
    encoded = words.encode(texts, 48)
    text_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
    first = len(words.prefix) + words.count("Detect: a kind of thing, red, star.")
    for reads, alone in (("pieces", True), ("whole", False)):
        torch.manual_seed(0)
        one = dataclasses.replace(recipe, reads=reads)  # type: ignore[arg-type]
        model = one.model().eval()
        found_BLD = model.read(text_BL, mask_BL)
        assert torch.allclose(found_BLD[0, :first], found_BLD[1, :first], atol=1e-6) == alone
        assert not torch.allclose(found_BLD[0, first:], found_BLD[1, first:], atol=1e-3)
        one.deploy(model).save(tmp_path / reads)
        assert bool(api.load(tmp_path / reads).model.shape.text_ends) == alone  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="FIBER's towers read texts whole"):
        dataclasses.replace(recipe, reads="pieces", backbone="fiber")


def grounded(written: bool = True) -> Pool:
    image = ArrayImage(np.zeros((64, 64, 3), np.uint8))
    text = "A red cup left of a plate"
    entry: dict[str, Any] = {
        "text": text,
        "phrases": [{"spans": [[2, 9]], "regions": [0]}, {"spans": [[20, 25]], "regions": [1]}],
    }
    if written:
        entry["written"] = {"descriptions": {"plate": "a kind of dish, flat"}, "confusable": {"bowl": "a kind of dish, deep"}}
    regions = (Region((0, 0, 32, 32), "cup"), Region((32, 32, 64, 64), "plate"))
    known = {
        "cup": {"type": "vessel", "description": "round", "similar objects": ["plate"], "frequency": 5},
        "plate": {"type": "dish", "description": "flat", "similar objects": [], "frequency": 5},
    }
    samples = [Sample(f"s{n}", image, regions=regions, extras={"grounding": [entry], "nouns": known}) for n in range(40)]
    return Pool.from_samples(samples, name="grounded")


def test_captions_come_in_three_ways_and_mirrored_ones_never_say_left() -> None:
    rows = grounded()
    recipe = dataclasses.replace(DesCo.tiny(), mirror=1.0).prepare(rows)
    texts, mirrored = [], 0
    for draw in draws(rows, 40):
        shown = recipe.query_and_view(draw)
        texts.append(shown.text.text)
        moved = shown.boxes[0][0].box[0] != 0
        assert not (moved and "left" in shown.text.text)
        mirrored += moved
        for region, entities in shown.boxes:
            assert entities == ((0,) if (region.box[1] == 0) else (1,))
    assert mirrored > 0
    assert "A red cup left of a plate" in texts
    assert any("vessel" in text for text in texts)
    assert any("deep" in text for text in texts)
    with pytest.raises(ConfigError, match="add up to 1"):
        dataclasses.replace(DesCo.tiny(), written=0.7, nouns=0.7)


def test_knowledge_comes_from_a_file_from_the_samples_or_is_missed(rows: Pool, tmp_path: Path) -> None:
    names = sorted({region.label for row in range(len(rows)) for region in rows[row].regions})
    file = tmp_path / "known.json"
    file.write_text(json.dumps({name: {**described(look_of(name)), "type": "toy"} for name in names}))
    told = dataclasses.replace(DesCo.tiny(), knowledge=str(file), missing="refuse").prepare(rows)
    assert told.class_knowledge[names[0]].kind == "a kind of toy"
    file.write_text(json.dumps({names[0]: described(look_of(names[0]))}))
    with pytest.raises(DataError, match=f"{len(names) - 1} of {len(names)} classes"):
        dataclasses.replace(told, known="").prepare(rows)
    with pytest.raises(DataError, match="cannot be read"):
        dataclasses.replace(told, known="", knowledge=str(tmp_path / "none.json")).prepare(rows)


def test_the_command_of_training_and_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import main

    run = tmp_path / "run"
    words = ["--steps", "2", "--batch-size", "4", "--missing", "refuse", "--form", "description"]
    assert main(["train", "desco", "--data", "world:invented?n=12", "--out", str(run), *words]) == 0
    capsys.readouterr()
    picture = tmp_path / "scene.png"
    from diptych.data.media.decode import encode_png

    picture.write_bytes(encode_png(invented(1, seed=1)[0].image.pixels_HWC))  # type: ignore[union-attr]
    assert (
        main(["detect", str(run), str(picture), "--phrase", "a kind of thing, red, plain, star", "--json", "--min-score", "0"])
        == 0
    )
    (answer,) = json.loads(capsys.readouterr().out)["images"]
    assert len(answer["phrases"][0]["boxes"]) == 12
    assert api.load(run).prompt.before == "Detect: "  # type: ignore[attr-defined]


def test_the_size_with_queries() -> None:
    """Swin-T has 27.5 million parameters without its classifier, BERT-base 108.9 without its pooler."""
    with torch.device("meta"):
        model: Any = DesCo().model()
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert parts["text"] == 108_891_648
    assert 27_500_000 < parts["backbone"] < 27_540_000
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    fusion = [name for name, _ in model.encoder.fusions.named_parameters() if name.startswith("0.")]
    assert len(model.encoder.fusions) == 6
    assert model.encoder.fusions[0].place_gate.gate.shape == (256,)
    assert fusion
    assert with_changes(DesCo(), {"queries": 900}).shape.queries == 900


def test_rates_and_decay_are_those_of_the_released_solver() -> None:
    """solver/build.py with the shipped configuration: what is called a bias has twice the rate and no decay, all else decays."""
    paper = DesCo.paper()
    spec = paper.optimiser()
    rising = [learning_rate(spec, step, 300_000) for step in (0, 1000, 2000, 200_999, 201_000)]
    assert rising == pytest.approx([5e-8, 5e-5 * (0.001 * 0.5 + 0.5), 5e-5, 5e-5, 5e-6])
    parts = {name: torch.nn.ParameterDict({"weight": torch.nn.Parameter(torch.zeros(2)), "bias": torch.nn.Parameter(torch.zeros(2))})
             for name in ("text", "norm")}  # fmt: skip
    parts["norm"]["relative_position_bias_table"] = torch.nn.Parameter(torch.zeros(2, 2))
    groups = build_optimiser(torch.nn.ModuleDict(parts), spec).param_groups
    found = {(group["scale"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert found == {(0.4, 0.0): 1, (0.2, 1e-4): 1, (2.0, 0.0): 2, (1.0, 1e-4): 1}
    tiny = build_optimiser(torch.nn.ModuleDict(parts), DesCo.tiny().optimiser()).param_groups
    assert {(group["scale"], group["weight_decay"]) for group in tiny} == {(1.0, 0.0), (1.0, 1e-4)}
