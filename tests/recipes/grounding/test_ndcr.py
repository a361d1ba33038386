"""NDCR on small sets: statements and worlds against an oracle, ImageCoDe's files, how sets are scored, and what a run trains."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.read.image_sets import image_set_of
from diptych.data.text.english.propositions import propositions
from diptych.models.reasoning.set_features import SetEncoder
from diptych.models.towers.towers import text_tower
from diptych.recipes.grounding.ndcr import NDCR
from diptych.tasks.reasoning.image_choice import ImageChoice
from diptych.train.optimise import build_optimiser
from diptych.worlds.problems.image_sets import PICTURES, image_sets
from diptych.worlds.shapes import mask_of
from diptych.worlds.small_pairs import CELL, COLOURS, JITTER, NOUNS, PLACES


def nouns_of(pixels_HWC: np.ndarray[Any, Any]) -> set[str]:
    """What a picture shows, by its pixels alone: of each cell the shape and the colour that cover each other best, four fifths at least."""
    found = set()
    for cell in range(len(PLACES)):
        top, left = cell // 3 * CELL, cell % 3 * CELL
        y, x = np.ogrid[:CELL, :CELL]
        best = (0.8, "")
        for noun in NOUNS:
            colour, shape = noun.split()
            lit_HW = (pixels_HWC[top : top + CELL, left : left + CELL] == COLOURS[colour]).all(2)
            for down, right in product(range(-JITTER, JITTER + 1), repeat=2) if lit_HW.sum() > CELL else ():
                mask = mask_of(shape, y - (CELL / 2 + down), x - (CELL / 2 + right), radius=6, side=5, arm=2)
                best = max(best, (float((mask & lit_HW).sum() / (mask | lit_HW).sum()), noun))
        found.add(best[1])
    return found - {""}


def test_texts_are_true_of_their_picture_alone() -> None:
    """An oracle that looks at the drawing."""
    rows = image_sets(4, seed=2)
    for row in range(len(rows)):
        asked = image_set_of(rows[row])
        scenes = [nouns_of(part.pixels_HWC) for part in rows[row].media["images"].parts]
        assert [len(scene) for scene in scenes] == [4] * PICTURES
        holds = [
            all((statement.split(" ", 3)[3] in scene) == (statement.split()[2] == "a") for statement in asked.propositions)
            for scene in scenes
        ]
        assert [place for place, true in enumerate(holds) if true] == [asked.target]


def test_statements_of_texts() -> None:
    assert propositions("there is a red circle and no blue star and a moon") == (
        "there is a red circle",
        "there is no blue star",
        "there is a moon",
    )
    assert propositions("The man is smiling, and the dog is asleep; nobody looks at her") == (
        "The man is smiling",
        "the dog is asleep",
        "nobody looks at her",
    )
    assert propositions("a black and white cat", 4) == ("a black and white cat",)
    assert len(propositions("It is red. It is blue. It is new.", 2)) == 2


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Two sets in the form of ImageCoDe, with the file of propositions beside one split."""
    for folder, count in (("open-images-1_a", 10), ("video_x-shot1_0", 10)):
        (tmp_path / "games" / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / "games" / folder / f"img{number}.jpg")
    (tmp_path / "train_data.json").write_text(json.dumps({"open-images-1_a": {"3": "A dog sits. A cat is asleep."}}))
    (tmp_path / "valid_data.json").write_text(json.dumps({"video_x-shot1_0": {"9": "the man is left", "0": "he is right"}}))
    (tmp_path / "dev_model_split_2.json").write_text(json.dumps({"the man is left": ["the man is left", "he left"]}))
    return tmp_path


def test_files_of_imagecode(released: Path) -> None:
    rows = dp.read(released)
    assert sorted(rows.split_names) == ["train", "val"]
    first = rows.split("train")[0]
    asked = image_set_of(first)
    assert (asked.target, asked.ordered, asked.propositions) == (3, False, ("A dog sits", "A cat is asleep"))
    assert [Path(part.name).name for part in first.media["images"].parts] == [f"img{n}.jpg" for n in range(10)]
    video = [image_set_of(rows.split("val")[row]) for row in range(2)]
    assert [(one.target, one.ordered) for one in video] == [(9, True), (0, True)]
    assert video[0].propositions == ("the man is left", "he left")
    (released / "games/open-images-1_a/img4.jpg").unlink()
    with pytest.raises(DataError, match=r"open-images-1_a: has the pictures"):
        dp.read(released / "train_data.json")
    (released / "train_data.json").write_text(json.dumps({"open-images-1_a": {"12": "a dog"}, "../x": {"1": "b"}}))
    with pytest.raises(DataError):
        dp.read(released / "train_data.json", format="imagecode")


class Fixed:
    """Embeds pictures by their red value and texts as they are told."""

    name = fingerprint = "fixed"

    def embed_images(self, images: Any, **_: Any) -> np.ndarray[Any, Any]:
        red = np.array([float(np.asarray(image.pixels_HWC)[0, 0, 0]) / 255 for image in images])
        return np.stack([np.cos(red), np.sin(red)], 1).astype(np.float32)

    def embed_texts(self, texts: Any, **_: Any) -> np.ndarray[Any, Any]:
        angle = np.array([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def test_choices_are_scored_by_hand() -> None:
    from diptych.core.image import ArrayImage

    def sample(uid: str, target: int | None, said: list[str], *, ordered: bool) -> Sample:
        reds = (0, 100, 250)
        pictures = tuple(ArrayImage(np.full((4, 4, 3), red, np.uint8), f"{uid}{red}") for red in reds)
        entry = {"text": said[0], "target": target, "ordered": ordered, "propositions": said}
        return Sample(uid, media={"images": MediaItem("images", pictures)}, extras={"image_set": entry})

    samples = [
        sample("a", 0, ["near 0.0"], ordered=False),
        sample("b", 0, ["near 1.0", "near 0.0", "near 0.0"], ordered=True),
        sample("c", None, ["near 1.0"], ordered=True),
    ]
    rows = Pool.from_samples(samples, name="by hand")
    whole, multiplied = (ImageChoice(by=by) for by in ("whole", "product"))
    records = whole.predict(Fixed(), rows)
    assert whole.score(records).metrics["accuracy"].value == 0.5
    assert whole.score(records).metrics["accuracy/video"].value == 0.0
    assert whole.score(records).notes["secret"] == 1
    assert whole.score(records).metrics["accuracy"].chance == pytest.approx(1 / 3)
    assert multiplied.score(multiplied.predict(Fixed(), rows)).metrics["accuracy"].value in (0.5, 1.0)
    angle_K = np.array([0, 100 / 255, 250 / 255])
    log_KT = 100 * np.cos(angle_K[:, None] - np.array([1.0, 0.0, 0.0]))
    by_hand = (log_KT - np.logaddexp.reduce(log_KT, 0)).sum(1)
    assert np.argmax(multiplied.predict(Fixed(), rows).column("shares")[1].as_py()) == np.argmax(by_hand)


def test_features_are_of_the_size_of_one() -> None:
    encoder = SetEncoder(Fixed())
    np.testing.assert_allclose(np.linalg.norm(encoder.texts(["near 0.3"]), axis=1), 2**0.5, rtol=1e-6)
    with pytest.raises(ConfigError, match="embeds no images"):
        SetEncoder(object())


def test_what_a_run_trains() -> None:
    """Rates of the released optimiser: the generator at three quarters, frozen parts not at all; sizes of the published network."""
    paper = replace(NDCR.paper(), freeze_generator=True, context=0.0)
    with torch.device("meta"):
        model = paper.model()
    rules = [(rule.pattern, rule.lr_scale) for rule in paper.optimiser().rules]
    assert rules[:2] == [(r"^reasoner\.context", 0.0), (r"^generator\.(tower|queries|layers)\.", 0.0)]
    d, m = 1024, 3072
    dense = lambda i, o: (i + 1) * o  # noqa: E731
    bert = 4 * dense(d, d) + dense(d, m) + dense(m, d) + 4 * d
    over = 2 * bert + 10 * d
    conjoin = 4 * dense(2 * d, 2 * d) + dense(4 * d, 1) + dense(2 * d, m) + dense(m, 2 * d) + 4 * d
    expected = (
        2 * over + 4 * dense(d, 1) + dense(2 * d, d) + dense(d, d) + dense(2 * d, 2 * d) + dense(2 * d, d)
        + dense(d, 2 * d) + 2 * d * d + dense(d, 2 * d) + dense(2 * d, d) + conjoin + 4 * dense(2 * d, 2 * d) + dense(4 * d, 1)
    )  # fmt: skip
    assert sum(p.numel() for p in model.reasoner.parameters()) == expected
    with pytest.raises(ConfigError, match="address of a model"):
        NDCR.paper().prepare(image_sets(1))


@pytest.mark.parametrize("summed", [True, False])
def test_steps_are_those_of_summed_gradients(summed: bool, parity: Any) -> None:
    """Released: gradients of 32 sets are added up before a step of Adam, whose decay is a part of them."""
    recipe = replace(NDCR(), batch_size=8, lr=0.01, summed_gradients=summed)
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(3, 1).double(), torch.nn.Linear(3, 1).double()
    theirs.load_state_dict(ours.state_dict())
    mine = build_optimiser(ours, recipe.optimiser())
    for group in mine.param_groups:
        group["lr"] = recipe.lr
    released = torch.optim.Adam(theirs.parameters(), lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    for _ in range(20):
        x_N3 = torch.randn(8, 3).double()
        mine.zero_grad()
        ours(x_N3).square().mean().backward()
        mine.step()
        released.zero_grad()
        for x_3 in x_N3:
            theirs(x_3).square().sum().backward()
        released.step()
    pair = (ours.weight, theirs.weight)
    if summed:
        parity("ndcr", "20 steps of gradients of eight sets", "torch's Adam on summed gradients", [pair], tolerance=1e-12)
    else:
        assert (pair[0] - pair[1]).abs().max() > 1e-3


def test_the_published_text_tower_is_barts_encoder(tmp_path: Path, parity: Any) -> None:
    sizes = {"vocab_size": 60, "d_model": 16, "max_position_embeddings": 40, "encoder_layers": 2, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    torch.manual_seed(0)
    released = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes, **heads)).eval()
    released.save_pretrained(tmp_path)
    tower = text_tower(f"hf:{tmp_path}", length=20).eval()
    id_BL = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 9, 2, 1]])
    expected = released.model.encoder(input_ids=id_BL, attention_mask=(id_BL != 1).long())[0]
    pair = (tower(id_BL, id_BL != 1).tokens_BPD[id_BL != 1], expected[id_BL != 1])
    parity("ndcr", "states of the text tower", "transformers' BART encoder", [pair], tolerance=1e-6)
    again = text_tower(**tower.spec).eval()
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again(id_BL, id_BL != 1).tokens_BPD, tower(id_BL, id_BL != 1).tokens_BPD)
    with torch.device("meta"):
        fresh = text_tower("bart_b", vocab_size=50265, length=180)
        whole = transformers.BartModel(transformers.BartConfig(d_model=768, encoder_layers=6, encoder_attention_heads=12,
            encoder_ffn_dim=3072, decoder_layers=0, decoder_attention_heads=12))  # fmt: skip
    counts = [sum(p.numel() for p in net.parameters()) for net in (fresh, whole.encoder)]
    assert counts == [81_920_256] * 2
