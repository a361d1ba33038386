"""PLIP for persons: identity contrast, colours by text, attributes behind a growing mask; against the released parts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from invariants import stopped_and_resumed
from torch import Tensor, nn

from diptych.api import export, load
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.english.person_phrases import attribute_phrases
from diptych.models.people.colour_decoder import ColourDecoder, TextExcitation
from diptych.models.people.person_encoder import PersonPairs, mask_share
from diptych.models.towers.clip_resnet import CLIPResNet
from diptych.objectives.painting import painting_distance
from diptych.objectives.pairs.projection_classes import projection_precision
from diptych.recipes.domains.plip_person import PersonBatch, PLIPPerson
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, freeze, learning_rate, rule_of
from diptych.train.options import TrainOptions
from diptych.worlds.people.world import pedestrians

FIXTURES = Path(__file__).parents[2]
RELEASED = json.loads((FIXTURES / "objectives/pairs/fixtures/grouped_released.json").read_text())["cmpm"]
VISUAL = json.loads((FIXTURES / "models/towers/fixtures/plip_visual_released.json").read_text())


@cache
def drawn(count: int = 64) -> Any:
    return pedestrians(count).remembering()


@cache
def vocabulary() -> str:
    return PLIPPerson.tiny().prepare(drawn()).vocabulary


def recipe(**changes: Any) -> PLIPPerson:
    return replace(PLIPPerson.tiny(), batch_size=8, vocabulary=vocabulary(), **changes)


def one_batch(made: PLIPPerson, count: int = 64) -> PersonBatch:
    rows = drawn(count)
    (step,) = (
        batches(rows, made, seed=0, stop=1, order=made.row_order(rows))
        if made.members > 1
        else batches(rows, made, seed=0, stop=1)
    )
    batch: PersonBatch = step.batch
    return batch


# ---------------------------------------------------------------- the image tower


def test_the_image_tower_of_tall_pictures_is_the_released_one(parity: Any) -> None:
    tower = CLIPResNet(image_size=32, image_height=64, depths=(1, 1, 1, 1), width=8, heads=4, out=16).double()
    swap = {"attnpool.q_proj": "attnpool.k_proj", "attnpool.k_proj": "attnpool.q_proj"}
    place = {name: number for number, name in enumerate(VISUAL["names"])}
    ours = dict(tower.named_parameters())
    assert len(ours) == len(place)
    for name, (parameter, theirs) in zip(ours, zip(ours.values(), VISUAL["names"], strict=True), strict=True):
        head, _, tail = theirs.rpartition(".")
        number = place[f"{swap.get(head, head)}.{tail}"] if ".attn" in f".{head}" else place[theirs]
        assert name.endswith(("weight", "bias", "position_PD"))
        parameter.data.copy_(_waves(parameter, number))
    x = torch.sin(torch.arange(2 * 3 * 64 * 32, dtype=torch.float64) * 0.013).view(2, 3, 64, 32)
    tower.train()
    maps = tower.maps(x)
    pairs: list[tuple[Any, Any]] = [(tower.pooled(maps[-1]).pooled_BD, torch.tensor(VISUAL["feature"], dtype=torch.float64))]
    for mine, (shape, mean, total, some) in zip(maps, VISUAL["maps"], strict=True):
        assert list(mine.shape[1:]) == shape
        pairs += [
            (mine.mean(), mean),
            (mine.abs().sum(), total),
            (mine.flatten()[::97][:20], torch.tensor(some, dtype=torch.float64)),
        ]
    parity(
        "plip_person",
        "image tower: four maps and vector",
        "Image_encoder_ModifiedResNet of PLIP (09890e3)",
        pairs,
        tolerance=1e-9,
    )


def _waves(parameter: Tensor, number: int) -> Tensor:
    """The weights that the released tower had in the run that the numbers come from."""
    wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7311 + number)
    wave = wave * (0.35 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1)
    return (wave + (1.0 if parameter.ndim == 1 and number % 2 == 0 else 0.0)).view_as(parameter)


def test_pooling_by_the_maximum_reads_every_place() -> None:
    tower = CLIPResNet(image_size=32, image_height=64, depths=(1, 1, 1, 1), width=4, out=6, pool="max").eval()
    last = torch.randn(2, 128, 2, 1)
    wanted = tower.pool.out(last.amax((2, 3)))
    torch.testing.assert_close(tower.pooled(last).pooled_BD, wanted)
    with pytest.raises(ConfigError, match="images of 60 x 32 pixels"):
        CLIPResNet(image_size=32, image_height=60)


# ---------------------------------------------------------------- colours


def test_excitation_is_as_written(parity: Any) -> None:
    torch.manual_seed(0)
    block = TextExcitation(6, 4).double()
    x, text = torch.randn(3, 6, 5, 2, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    block.requires_grad_(False)
    wanted = torch.zeros_like(x)
    for b in range(3):
        squeezed = [float(x[b, c].mean()) for c in range(6)] + text[b].tolist()
        inner = [
            max(0.0, float(block.inside.bias[k]) + sum(float(block.inside.weight[k, i]) * v for i, v in enumerate(squeezed)))
            for k in range(6)
        ]
        for c in range(6):
            z = float(block.outside.bias[c]) + sum(float(block.outside.weight[c, k]) * inner[k] for k in range(6))
            wanted[b, c] = x[b, c] / (1 + math.exp(-z))
    parity("plip_person", "text-guided excitation", "loop over channels", [(block(x, text), wanted)], tolerance=1e-12)


def test_the_decoder_has_the_published_shapes() -> None:
    with torch.device("meta"):
        decoder = ColourDecoder((256, 512, 1024, 2048), 768)
        maps = [torch.empty(2, 256 * 2**k, 64 // 2**k, 32 // 2**k) for k in range(4)]
        text = torch.empty(2, 768)
        assert decoder.joined(maps).shape == (2, 1024, 64, 32)
        assert decoder.grow_1(decoder.joined(maps)).shape == (2, 256, 128, 64)
        assert decoder(maps, text).shape == (2, 3, 256, 128)
        assert decoder.hear_1.inside.weight.shape == (1024, 1024 + 768)
        assert decoder.grow_2.weight.shape == (256, 3, 3, 3)


def test_the_decoder_is_shown_pictures_without_their_colours() -> None:
    made = recipe()
    batch, seen = one_batch(made), list[Any]()
    made.features(lambda *given: seen.extend(given), batch)  # type: ignore[arg-type, return-value]
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (made.std, made.mean))
    luma = ((batch.image_BCHW * std + mean) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    assert torch.equal(seen[0], batch.image_BCHW), "the tower sees them as they are"
    for channel in range(3):
        torch.testing.assert_close((seen[1] * std + mean)[:, channel], luma, rtol=1e-4, atol=1e-5)


def test_only_the_text_tells_the_decoder_which_colour() -> None:
    made = recipe()
    batch, model = one_batch(made), made.model().eval()
    grey = made.preprocess.greyed(batch.image_BCHW)
    shown = grey * torch.tensor(made.std).view(3, 1, 1) + torch.tensor(made.mean).view(3, 1, 1)
    torch.testing.assert_close(shown[:, 0], shown[:, 2])
    both = [
        model(batch.image_BCHW, grey, text, batch.text_mask_BL, None).painted_NCHW
        for text in (batch.text_BL, batch.text_BL.roll(3, 0))
    ]
    assert both[0].shape == batch.image_BCHW.shape
    assert (both[0] - both[1]).abs().max() > 1e-3
    deaf = recipe(colour_text=False)
    model = deaf.model().eval()
    both = [
        model(batch.image_BCHW, grey, text, batch.text_mask_BL, None).painted_NCHW
        for text in (batch.text_BL, batch.text_BL.roll(3, 0))
    ]
    assert torch.equal(*both)


def test_distance_of_pictures_is_euclidean_over_the_whole(parity: Any) -> None:
    a, b = (torch.randn(3, 3, 4, 2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    whole = (
        sum(
            math.sqrt(sum((x - y) ** 2 for x, y in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)))
            for p, q in zip(a, b, strict=True)
        )
        / 3
    )
    place = (
        sum(
            math.sqrt(sum(float((a[n, c, h, w] - b[n, c, h, w]) ** 2) for c in range(3)))
            for n in range(3)
            for h in range(4)
            for w in range(2)
        )
        / 24
    )
    pairs = [(painting_distance(a, b), whole), (painting_distance(a, b, distance="pixel"), place)]
    parity("plip_person", "distance of painted pictures", "loop over numbers", pairs, tolerance=1e-12)
    x = a.clone().requires_grad_()
    assert torch.autograd.grad(painting_distance(x, a), x)[0].isfinite().all(), "where nothing differs"


# ---------------------------------------------------------------- attributes


def test_the_share_of_hidden_phrases_grows_as_a_square_root() -> None:
    assert mask_share(0.0, (0.2, 0.8)) == 0.2
    assert mask_share(1.0, (0.2, 0.8)) == pytest.approx(0.8)
    assert mask_share(0.25, (0.2, 0.8)) == pytest.approx(0.5)
    made = recipe()
    batch, model = one_batch(made), made.model()
    asked = []
    for progress in (0.0, 0.3, 1.0):
        made.after_update(model, made.features(model, batch), batch, progress)
        found = made.features(model, batch).asked_NM
        assert found is not None
        asked.append([len({int(t) for t in batch.turn_BM[n][found[n] >= 0]}) for n in range(8)])
    for few, some, many, count in zip(*asked, batch.count_B.tolist(), strict=True):
        assert (few, many) == (max(1, math.floor(0.2 * count + 0.5)), math.floor(0.8 * count + 0.5))
        assert few <= some <= many
    state = made.model()
    state.load_state_dict(model.state_dict())
    assert state.progress_1.item() == 1.0, "a run that goes on hides as many"


def test_phrases_are_hidden_whole_and_guessed_with_the_picture() -> None:
    made = recipe(masked=1.0, replaced=0.0)
    batch, model = one_batch(made), made.model().eval()
    text = batch.strings[0] if batch.strings else ""
    words = made.words()
    ids = batch.text_BL[0].tolist()
    for begin, end in attribute_phrases(words.cleaned(text)):
        (places,) = words.span_places(text, [(begin, end)], made.text_length)
        assert words.decode([ids[p] for p in places]).replace(" ", "") == text[begin:end].replace(" ", "")
        turns = {int(batch.turn_BM[0][batch.place_BM[0] == p][0]) for p in places}
        assert len(turns) == 1, "one turn for a whole phrase"
    assert model.reader is not None
    one = made.features(model, batch)
    other = made.features(model, replace(batch, image_BCHW=batch.image_BCHW.roll(4, 0)))
    assert one.word_NMV is not None
    assert other.word_NMV is not None
    assert (one.word_NMV - other.word_NMV).abs().max() > 1e-4, "the picture is read"


# ---------------------------------------------------------------- identity


def test_the_recipe_has_the_released_loss_by_option(parity: Any) -> None:
    image, text = (torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("image", "text"))
    made = replace(PLIPPerson.tiny(), target_norm="l2")
    batch = PersonBatch(**{name: torch.tensor(RELEASED["labels"]) for name in _FIELDS})
    loss = made.losses(PersonPairs(image_ND=image, text_ND=text, scale=torch.ones(1)), batch)
    assert list(loss) == ["identity"]
    pairs = [(loss["identity"], RELEASED["loss"])]
    parity(
        "plip_person", "identity term of the recipe, released form", "compute_cmpm_loss of PLIP (09890e3)", pairs, tolerance=1e-7
    )
    default = replace(made, target_norm="sum").losses(PersonPairs(image_ND=image, text_ND=text, scale=torch.ones(1)), batch)
    assert default["identity"].item() != pytest.approx(loss["identity"].item(), abs=0.1)


_FIELDS = (
    "image_BCHW", "text_BL", "text_mask_BL", "group_B", "place_BM", "word_BM", "turn_BM", "stands_BM", "count_B", "person_B"
)  # fmt: skip


def test_fine_tuning_adds_classes_of_the_training_persons() -> None:
    made = recipe(weight_classes=1.0, weight_colour=0.0, weight_attributes=0.0).prepare(drawn())
    assert len(made.persons) == 8
    batch, model = one_batch(made), made.model()
    features = made.features(model, batch)
    losses = made.losses(features, batch)
    assert {*losses} == {"identity", "classes"}
    with torch.no_grad():
        model.class_GD.copy_(features.image_ND[: len(model.class_GD)])
    precision = projection_precision(features.image_ND, features.text_ND, batch.person_B, model.class_GD)
    measured = made.metrics(features, batch)
    assert (measured["image_precision"], measured["text_precision"]) == precision
    losses["classes"].backward()
    assert model.class_GD is not None
    assert model.class_GD.grad is not None
    assert model.class_GD.grad[batch.person_B[0]].abs().sum() > 0
    with pytest.raises(DataError, match="not a person of the training rows"):
        made.person_of(pedestrians(1, split="test")[0])


def test_a_batch_holds_whole_identities() -> None:
    made = recipe()
    batch = one_batch(made, 128)
    group = batch.group_B.view(-1, 4)
    assert (group == group[:, :1]).all()
    assert len({*group[:, 0].tolist()}) == 2
    assert recipe(members=1).row_order(pedestrians(16)) is None


def test_an_identity_of_one_picture_is_named() -> None:
    rows = pedestrians(17)  # the third person has one
    with pytest.raises(
        DataError,
        match=r"field 'group': groups of fewer than 2 rows: 1, the first 'pedestrians-0-train-000002' of 1.*--lone repeat or leave",
    ):
        recipe().row_order(rows)
    for lone in ("repeat", "leave"):
        order = recipe(lone=lone).row_order(rows)
        assert order is not None
        seen = {int(row) for epoch in range(5) for row in order(0, epoch, 17)}
        assert (16 in seen) == (lone == "repeat")


def test_impossible_options_say_so() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 is not a multiple of groups of 3 members"):
        recipe(members=3)
    with pytest.raises(ConfigError, match="crops are square"):
        recipe(crop=(0.5, 1.0))
    with pytest.raises(ConfigError, match=r"no four maps \(expected resnet_clip_"):
        recipe(image_tower="vit_tiny")
    with pytest.raises(ConfigError, match="the text is not projected"):
        recipe(text_tower="text_tiny").model()


# ---------------------------------------------------------------- the published size


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    options = TrainOptions(seed=1, progress=False, save_every=2, log_every=1, workers=0)
    whole = fit(recipe(steps=4), drawn(), tmp_path / "whole", options)
    again = stopped_and_resumed(recipe(steps=4), drawn(), tmp_path, options, step=2)
    one, other = (safetensors_of(run.checkpoints) for run in (whole, again))
    assert one == other, "of the whole training module, not only of what is deployed"


def safetensors_of(checkpoints: Path) -> bytes:
    return (sorted(checkpoints.glob("step-*"))[-1] / "model.safetensors").read_bytes()


def test_paper_has_the_published_parts() -> None:
    paper = PLIPPerson.paper()
    with torch.device("meta"):
        model = paper.model()
        bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    extra_words = (paper.words().vocab_size - 30_522) * 768
    text = sum(p.numel() for p in bert.parameters()) + extra_words
    assert sizes["encoder"] == 23_527_264 + 2048 * 768 + 768 + text + 1, (
        "the released trunk, max pool and projection, BERT-base, scale"
    )
    freeze(model, paper.optimiser())
    trained = {
        name.split(".")[4]
        for name, p in model.encoder.text_tower.named_parameters(prefix="a")
        if p.requires_grad and "layer." in name
    }
    assert trained == {"7", "8", "9", "10", "11"}
    assert not model.encoder.text_tower.embed.weight.requires_grad
    assert paper.optimiser().kind == "adan"
    assert (paper.deployed_preprocess.height, paper.deployed_preprocess.size) == (256, 128)


@pytest.mark.parametrize("steps_an_epoch", [1, 3, 7, 49])
def test_rates_of_all_steps_are_the_released_ones(steps_an_epoch: int, parity: Any) -> None:
    """The released fine-tuning raises each group's rate before an epoch, by what is there, and MultiStepLR drops it after; here with the
    paper's 10 epochs of warm-up and drops at 30 and 50 of 70."""
    paper = PLIPPerson.paper()
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    theirs = torch.optim.SGD([{"params": weights[:1], "lr": 2e-3}, {"params": weights[1:], "lr": 2e-4}], lr=2e-3)
    drops = torch.optim.lr_scheduler.MultiStepLR(theirs, [30, 50], gamma=0.1)
    expected = []
    for epoch in range(70):
        if epoch < 10:
            for group in theirs.param_groups:
                group["lr"] *= (epoch + 1) / (epoch or 10)
        for _ in range(steps_an_epoch):
            theirs.step()
            expected.append([group["lr"] for group in theirs.param_groups])
        drops.step()
    spec, steps = paper.optimiser(), 70 * steps_an_epoch
    slow = rule_of("encoder.text_tower.net.encoder.layer.9.attention.output.dense.weight", spec.rules)
    assert slow is not None
    found = [[rate, rate * slow.lr_scale] for rate in (learning_rate(spec, step, steps) for step in range(steps))]
    pairs = [(torch.tensor(found), torch.tensor(expected))]
    if steps_an_epoch == 49:
        parity("plip_person", "rates of all steps", "the released warm-up and torch's MultiStepLR", pairs, tolerance=1e-9)
    torch.testing.assert_close(*pairs[0], rtol=1e-6, atol=0)


def test_weight_decay_is_on_every_parameter_as_released() -> None:
    with torch.device("meta"):
        model = PLIPPerson.paper().model()
        small = PLIPPerson.tiny()
    freeze(model, PLIPPerson.paper().optimiser())
    groups = build_optimiser(model, PLIPPerson.paper().optimiser()).param_groups
    assert {(group["scale"], group["weight_decay"]) for group in groups} == {(1.0, 0.02), (0.1, 0.02)}
    slow = sum(p.numel() for group in groups for p in group["params"] if group["scale"] == 0.1)
    assert slow == 5 * 7_087_872, "the last five layers of BERT"
    assert small.optimiser().rules[-1].decay is None


# ---------------------------------------------------------------- the command line


def test_trains_is_used_and_says_that_it_is_biometric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = "world:pedestrians?n=32&test=16"
    train = ["train", "plip_person", "--preset", "tiny", "--data", data, "--out", str(tmp_path / "run"), "--steps", "2"]
    assert main([*train, "--batch-size", "8", "--workers", "0"]) == 0
    assert main(["eval", str(tmp_path / "run"), "person_search", "--data", data, "--split", "test"]) == 0
    assert "cmc@1" in capsys.readouterr().out
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "biometric" in card
    assert "64 x 32 px" in card
    with pytest.raises(ConfigError, match=r"64 x 32 pixels.*expected --to onnx or --to diptych"):
        export(tmp_path / "run", tmp_path / "out", to="transformers")
    model = load(str(tmp_path / "run"))
    assert model.embed_images([pedestrians(2)[0].image]).shape == (1, 64)
    np.testing.assert_allclose(np.linalg.norm(model.embed_texts(["a man"])), 1, atol=1e-5)


def test_pictures_without_identity_are_their_own() -> None:
    pool = Pool.from_samples([replace(pedestrians(8)[n], group="") for n in range(8)], name="strangers")
    with pytest.raises(DataError, match="groups of fewer than 2 rows: 8"):
        recipe().row_order(pool)
    assert isinstance(recipe(members=1).model(), nn.Module)


def test_fine_tuning_is_the_released_one() -> None:
    """Downstreams/CMPM-C: a GPU's 32 pairs are compared with each other; warm-up of 5 epochs, a tenth from epoch 20 on; the classifier of
    persons has ten times the rate; 8 heads pool the picture; nothing of BERT is frozen (model.py's Text_encoder, other than the
    textual_model.py of pre-training)."""
    tuned = replace(PLIPPerson.finetune(), persons=("a", "b", "c"))
    with torch.device("meta"):
        model = tuned.model()
    tower = model.encoder.image_tower
    assert isinstance(tower, CLIPResNet)
    assert tower.pool.heads == 8
    spec = tuned.optimiser()
    freeze(model, spec)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters()} - {"encoder.log_scale"}
    assert "encoder.text_tower.net.embeddings.word_embeddings.weight" in trained
    rates = {name: rule_of(name, spec.rules).lr_scale for name in trained}  # type: ignore[union-attr]
    assert rates.pop("class_GD") == 10
    assert set(rates.values()) == {1.0}
    rate, expected = 1e-4, []
    for epoch in range(30):
        rate = rate * (epoch + 1) / (epoch or 5) if epoch < 5 else rate * (0.1 if epoch == 20 else 1.0)
        expected += [rate] * 7
    assert [learning_rate(spec, step, 210) for step in range(210)] == pytest.approx(expected)


def test_identity_contrast_within_a_gpus_pairs(parity: Any) -> None:
    """The mean of the released loss over parts of the batch; one part is the batch."""
    torch.manual_seed(0)
    image, text = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 5, dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1, 0, 2, 2, 3, 1, 1, 3, 3])
    batch: Any = SimpleNamespace(group_B=groups, image_BCHW=None)

    def found(compared: int) -> Tensor:
        pairs = PersonPairs(image_ND=image, text_ND=text, scale=torch.ones(1))
        return recipe(weight_colour=0.0, weight_attributes=0.0, target_norm="l2", compared=compared).losses(pairs, batch)[
            "identity"
        ]

    def released(rows: slice) -> Tensor:
        v, t, mask = image[rows], text[rows], (groups[rows, None] == groups[None, rows]).double()
        q = mask / mask.norm(dim=1)
        total = image.new_zeros(())
        for anchor, key in ((v, t), (t, v)):
            logit = anchor @ (key / key.norm(dim=1, keepdim=True)).T
            p = logit.softmax(1)
            total = total + (p * (logit.log_softmax(1) - (q + 1e-8).log())).sum(1).mean()
        return total

    pairs = [(found(4), torch.stack([released(slice(begin, begin + 4)) for begin in (0, 4, 8)]).mean())]
    parity(
        "plip_person",
        "identity contrast within the pairs of a GPU",
        "compute_cmpm_loss by hand, GPU by GPU",
        pairs,
        tolerance=1e-9,
    )
    torch.testing.assert_close(found(12), released(slice(0, 12)))
    torch.testing.assert_close(found(0), found(12))
