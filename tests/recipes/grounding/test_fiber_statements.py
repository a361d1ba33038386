"""FIBER on NLVR2: the published files, the released head on the released readings, training, and the protocol that asks it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import api
from diptych.core.contracts import Generator, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import ImagePart, TextPart
from diptych.data.load.stream import batches
from diptych.data.read import read
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.fiber.released import from_released
from diptych.models.fiber.statements import FiberStatementClassifier
from diptych.recipes.grounding.fiber_statements import FIBERStatements
from diptych.tasks.choice.multiple_choice import MultipleChoice

SMALL: dict[str, Any] = {"text_layers": 3, "fused_layers": 2, "text_width": 32, "text_heads": 2, "width": 32, "batch_size": 4}


def rows(folder: Path, split: str = "dev") -> list[dict[str, Any]]:
    """Four pairs of two sets, one statement for each pair, the same words for pairs of a set: is the left picture the lighter one?"""
    written = []
    place = folder / ("images/train/7" if split == "train" else split)
    place.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        for pair in range(2):
            for side in range(2):
                light = 200 if (side == 0) == (pair == 0) else 40
                Image.fromarray(np.full((20, 24, 3), light, np.uint8)).save(place / f"{split}-{number}-{pair}-img{side}.png")
            written.append({
                "identifier": f"{split}-{number}-{pair}-0", "sentence": f"{'The left' if number else 'One left'} image is the lighter one.",
                "label": "True" if pair == 0 else "False", "synset": "x", **({"directory": 7} if split == "train" else {}),
            })  # fmt: skip
    return written


def written(folder: Path, split: str = "dev", **changes: Any) -> Path:
    lines = rows(folder, split)
    lines[1].update(changes)
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"{split}.json"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.mark.parametrize("split", ["dev", "train"])
def test_published_files_are_read(tmp_path: Path, split: str) -> None:
    pool = read(written(tmp_path, split))
    assert (len(pool), pool[0].uid, pool[0].group) == (4, f"{split}-0-0-0", f"{split}-0")
    (question,) = questions_of(pool[1])
    assert (question.answer, question.choices, question.same_as) == ("False", ("True", "False"), f"{split}-0-0")
    assert questions_of(pool[2])[0].same_as == f"{split}-1-0"
    first, second = pool[1].media["images"].decode()
    assert (int(first.mean()), int(second.mean())) == (40, 200)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"identifier": "dev-0-1"},
            r"dev.json, row 1, field 'identifier': is 'dev-0-1' \(expected split, set, pair and sentence",
        ),
        ({"identifier": "dev-0-0-0"}, r"row 0 is 'dev-0-0-0' too"),
        ({"label": "Maybe"}, r"field 'label': is 'Maybe' \(expected True or False\)"),
        ({"sentence": " "}, r"field 'sentence': is ' ' \(expected words\)"),
        ({"identifier": "dev-9-1-0"}, r"the picture 'dev-9-1-img0.png' does not exist \(expected dev/dev-9-1-img0.png in"),
    ],
)
def test_faults_name_file_row_and_field(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read(written(tmp_path, **changes))


@torch.no_grad()
def test_the_head_is_the_released_one(tmp_path: Path, parity: Any) -> None:
    """Its layers under their released names: the reading of the first picture stands first, text before picture in each."""
    recipe = replace(FIBERStatements.tiny(), **SMALL).prepare(read(written(tmp_path)))
    fiber = recipe.model().fiber.eval()
    head = torch.nn.Sequential(torch.nn.Linear(128, 64), torch.nn.LayerNorm(64), torch.nn.GELU(), torch.nn.Linear(64, 2))
    prefix = "text_transformer.embeddings."
    released = {f"nlvr2_classifier.{name}": tensor for name, tensor in head.state_dict().items()}
    released |= {f"{prefix}{name}_embeddings.weight": torch.zeros(4, 32) for name in ("word", "token_type", "position")}
    found = from_released(released, depths=recipe.swin_depths, text_layers=3, fused=2)
    fiber.load_state_dict({name.removeprefix("fiber."): t for name, t in found.items() if ".statement." in name}, strict=False)
    images, ids = torch.randn(2, 2, 3, 64, 64), torch.randint(3, 9, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.bool)
    one, two = fiber.image_features(images[0]), fiber.image_features(images[1])
    text = fiber.text_features(ids, mask)
    pooled = torch.cat([fiber.fuse(one, text, mask).pooled_BD, fiber.fuse(two, text, mask).pooled_BD], 1)
    parity("fiber", "the head of NLVR2", "the released layers under their names", [
        (fiber.judge(one, two, text, mask), head(pooled))
    ], tolerance=1e-6)  # fmt: skip
    assert not torch.allclose(fiber.judge(one, two, text, mask), fiber.judge(two, one, text, mask))


def test_it_learns_is_kept_and_is_asked(tmp_path: Path) -> None:
    pool = read(written(tmp_path, "train"))
    recipe = replace(FIBERStatements.tiny(), **SMALL, steps=40, lr=2e-3, warmup=5.0)
    made = api.train(recipe, data=pool, out=tmp_path / "run", seed=0, hold_out=0)
    model: Any = api.load(made.path)
    assert isinstance(model, FiberStatementClassifier)
    assert isinstance(model, Generator)
    assert isinstance(model, Ranker)
    task = MultipleChoice(how="sum", blind=False, draws=10, keep=False)
    result = task.score(task.predict(model, pool))
    assert (result.metrics["accuracy"].value, result.metrics["circular"].value) == (1.0, 1.0)
    first, second = pool[0].media["images"].parts
    asked = (ImagePart(0), ImagePart(source=second), TextPart(questions_of(pool[0])[0].text))
    assert model.generate([first, second], [asked, (ImagePart(0), ImagePart(source=first), asked[2])]) == ["True", "False"]
    with pytest.raises(DataError, match=r"got 1 pictures \(expected two pictures and a statement"):
        model.generate([first], [(ImagePart(0), asked[2])])
    with pytest.raises(ConfigError, match=r"cannot answer 'Yes' \(expected True or False\)"):
        model.answer_nll([first], [asked], [["Yes", "False"]])


def test_every_part_of_the_fused_reading_learns_and_the_published_one_is_as_large_as_released(tmp_path: Path) -> None:
    pool = read(written(tmp_path))
    recipe = replace(FIBERStatements.tiny(), **SMALL).prepare(pool)
    model = recipe.model()
    (step,) = batches(pool, recipe, seed=0, stop=1)
    torch.stack(list(recipe.losses(recipe.features(model, step.batch), step.batch).values())).sum().backward()
    silent = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is None}
    assert silent == {"image_projection", "text_projection", "image_head", "text_head", "image_tower", "text"}
    towers = [name for name, p in model.named_parameters() if p.grad is None and name.split(".")[1] in ("image_tower", "text")]
    assert all(".norm" in name for name in towers), towers
    paper = FIBERStatements.paper()
    assert (paper.image_size, paper.text_length, paper.batch_size, paper.lr, paper.head_scale) == (384, 50, 256, 2e-5, 50.0)
    with torch.device("meta"):
        built = replace(paper, tokenizer="clip").model()
    assert sum(p.numel() for p in built.fiber.statement.parameters()) == 3072 * 1536 + 1536 + 2 * 1536 + 1536 * 2 + 2
    several = pool[0].media["images"]
    alone = replace(pool[0], media={"images": replace(several, parts=several.parts[:1])})
    with pytest.raises(DataError, match="has 1 pictures"):
        recipe.load(alone, np.random.default_rng(0))
