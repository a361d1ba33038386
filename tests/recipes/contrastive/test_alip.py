"""ALIP: two weighted paths, means that move before use and are kept, texts found where they should be or a word on what makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS, WORDS
from invariants import on_two_processes, stopped_and_resumed
from safetensors.torch import load_file
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.operators.synthetic_captions import TemplateCaptions
from diptych.data.dataset import Pool
from diptych.data.load.batch import TripletBatch
from diptych.data.load.stream import batches
from diptych.data.read import read
from diptych.models.pairs.encoders.two_text_encoder import TwoTextPairs
from diptych.recipes.contrastive.alip import ALIP
from diptych.train import checkpoint
from diptych.train.fit import fit
from diptych.train.gradient_cache import backward
from diptych.train.optimise import build_optimiser
from diptych.train.options import TrainOptions
from diptych.train.parallel import unsynced
from diptych.worlds.scenes.world import scenes

ROWS, SIDE, LENGTH = 8, 16, 8


def small(**changes: Any) -> ALIP:
    """BERT has dropout; the image tower has none."""
    settings = {**FEW_WORDS, "image_size": SIDE, "text_length": LENGTH, "text_tower": "bert_tiny", "width": 16, **changes}
    return replace(ALIP.tiny(), **settings)


def made_batch() -> TripletBatch:
    chance = torch.Generator().manual_seed(3)
    text_BL, caption_BL = (torch.randint(3, WORDS, (ROWS, LENGTH), generator=chance) for _ in range(2))
    caption_mask_BL = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    caption_mask_BL[::2, 5:] = False
    return TripletBatch(
        image_BCHW=torch.randn(ROWS, 3, SIDE, SIDE, generator=chance, dtype=torch.float64),
        text_BL=text_BL,
        text_mask_BL=torch.ones(ROWS, LENGTH, dtype=torch.bool),
        group_B=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]),
        caption_BL=caption_BL,
        caption_mask_BL=caption_mask_BL,
        mismatched_B=torch.tensor([1, 0, 0, 1, -1, 0, 0, 0]),
    )


def made_features(n: int = 6) -> TwoTextPairs:
    torch.manual_seed(0)
    image, text, caption = (F.normalize(torch.randn(n, 8, dtype=torch.float64), dim=-1) for _ in range(3))
    scale, mean = torch.tensor([20.0], dtype=torch.float64), torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64)
    return TwoTextPairs(image_ND=image, text_ND=text, scale=scale, caption_ND=caption, mean_3=mean)


def losses_by_hand(features: TwoTextPairs, text_ND: Tensor) -> Tensor:
    logits = features.scale * features.image_ND @ text_ND.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")) / 2


def batch_of(features: TwoTextPairs) -> TripletBatch:
    return replace(made_batch().rows(0, len(features.image_ND)), group_B=torch.arange(len(features.image_ND)))


def test_without_gates_it_is_the_sum_of_two_plain_losses(parity: Any) -> None:
    features = made_features()
    losses = small(gamma_language=0.0, gamma_description=0.0).losses(features, batch_of(features))
    expected = [losses_by_hand(features, text_ND).mean() for text_ND in (features.text_ND, features.caption_ND)]
    pairs = zip((losses["raw"], losses["synthetic"]), expected, strict=True)
    parity("alip", "both paths without gates", "torch's cross_entropy", pairs, tolerance=1e-12)


def test_weights_multiply_anchors_and_the_mean_stays_plain(parity: Any) -> None:
    features, recipe = made_features(), small(momentum=0.5)
    found = recipe.losses(features, batch_of(features))
    rows = range(6)
    image, text, caption = features.image_ND, features.text_ND, features.caption_ND
    agreement = {"tc": (text, caption), "xt": (image, text), "xc": (image, caption)}
    cosine = {key: [(one[i] @ other[i]).item() for i in rows] for key, (one, other) in agreement.items()}
    means = {key: 0.5 * old + 0.5 * sum(cosine[key]) / 6 for key, old in zip(agreement, features.mean_3.tolist(), strict=True)}
    expected = {"raw": 0.0, "synthetic": 0.0}
    for path, texts, key in (("raw", text, "xt"), ("synthetic", caption, "xc")):
        each = losses_by_hand(features, texts)
        for i in rows:
            weight = 1.0
            if cosine["tc"][i] < means["tc"]:
                weight = float(torch.tensor(2 * (cosine["tc"][i] - means["tc"] + cosine[key][i] - means[key])).double().exp())
            expected[path] += weight * each[i].item() / 6
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-6)
    parity(
        "alip",
        "both gated paths, means moved before use",
        "a loop over samples",
        [(found[path], expected[path]) for path in expected],
        tolerance=1e-6,
    )
    assert 0 < sum(c < means["tc"] for c in cosine["tc"]) < 6, "some samples are doubted and some are not"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_features_gathered_without_gradient_have_a_share_of_it(processes: int, parity: Any) -> None:
    """The released gathering written out: on each process the features of the others are constants, every process computes all rows, and
    the wrapper takes the mean of the processes' gradients."""
    names = ("image_ND", "text_ND", "caption_ND", "scale")
    given = made_features()
    tensors = {name: getattr(given, name).clone().requires_grad_() for name in names}
    features = replace(given, **tensors)
    recipe = small(feature_gradient=1 / processes)
    losses = recipe.losses(features, batch_of(features))
    torch.stack(list(losses.values())).sum().backward()
    gates, rows = recipe.gates(given), 6 // processes
    summed = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    for rank in range(processes):
        own = {name: getattr(given, name).clone().requires_grad_() for name in names}
        mine = torch.zeros(6, 1, dtype=torch.bool)
        mine[rank * rows : (rank + 1) * rows] = True
        seen = {name: torch.where(mine, own[name], own[name].detach()) for name in names[:3]}
        here = replace(given, scale=own["scale"], **seen)
        sides = ((here.text_ND, gates.raw_N), (here.caption_ND, gates.synthetic_N))
        total = torch.stack([(losses_by_hand(here, text_ND) * weight_N).mean() for text_ND, weight_N in sides]).sum()
        torch.testing.assert_close(total.detach(), torch.stack(list(losses.values())).sum().detach())
        total.backward()
        for name in names:
            found = own[name].grad
            assert found is not None
            summed[name] += found / processes
    pairs = [(tensors[name].grad, summed[name]) for name in names]
    if processes == 3:
        parity(
            "alip", "gradients where features are gathered without", "the released gathering, written out", pairs, tolerance=1e-12
        )
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted)


def test_the_model_remembers_what_the_loss_used() -> None:
    recipe, batch = small(text_tower="text_tiny"), made_batch()
    torch.manual_seed(1)
    model = recipe.model().double()
    assert model.mean_3.tolist() == [1, 1, 1]
    features = recipe.features(model, batch)
    used = recipe.means(features)
    recipe.losses(features, batch)
    assert model.mean_3.tolist() == [1, 1, 1], "forward and losses may be repeated: they change nothing"
    recipe.after_update(model, features, batch, 0.1)
    assert torch.equal(model.mean_3, used)
    assert (model.mean_3 < 1).all()
    assert torch.equal(recipe.features(model, batch).mean_3, used)


def test_the_log_tells_matched_from_mismatched() -> None:
    recipe, batch, features = small(), made_batch(), made_features(ROWS)
    found = recipe.metrics(features, batch)
    weight = recipe.gates(features).raw_N
    assert found["weight_mismatched"].item() == pytest.approx(weight[[0, 3]].mean().item())
    assert found["weight_matched"].item() == pytest.approx(weight[[1, 2, 5, 6, 7]].mean().item())
    unknown = recipe.metrics(features, replace(batch, mismatched_B=torch.full((ROWS,), -1)))
    assert set(unknown) == {"scale", "weight_raw", "weight_synthetic"}


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    """Gradients and means after one update on this process's share of the batch."""
    recipe = small(text_tower="text_tiny")
    torch.manual_seed(1)
    model = recipe.model().double()
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    share = made_batch().rows(rank * ROWS // world, (rank + 1) * ROWS // world)
    outcome = backward(recipe, wrapped, share, micro_batch=3, unsynced=unsynced(wrapped))
    recipe.after_update(model, outcome.features, share, 0.1)
    metrics = {f"metric {name}": value for name, value in recipe.metrics(outcome.features, share).items() if "matched" in name}
    return {"mean_3": model.mean_3, **metrics, **{name: p.grad for name, p in model.named_parameters()}}


def test_two_processes_agree_with_one_on_means_and_gradients(tmp_path: Path, parity: Any) -> None:
    alone, found = stepped(0, 1), on_two_processes(stepped, tmp_path)
    assert all((each["mean_3"] < 1).all() for each in found)
    torch.testing.assert_close(found, [alone, alone], rtol=1e-9, atol=1e-12)
    parity(
        "alip",
        "running means on two processes",
        "one process on the whole batch",
        [(each["mean_3"], alone["mean_3"]) for each in found],
        tolerance=1e-12,
    )


def test_means_are_in_the_checkpoint_and_not_in_the_model(tmp_path: Path) -> None:
    rows = scenes(16, size=32, lengths=("short",), negatives=False).to_pool()
    recipe = replace(ALIP.tiny(), image_size=32, batch_size=8, steps=3, warmup=1.0, pieces=300).prepare(rows)
    run = fit(recipe, rows, tmp_path / "run", TrainOptions(save_every=2, progress=False))
    (newest, *_) = sorted(checkpoint.steps_of(run.checkpoints), reverse=True)
    saved = load_file(run.checkpoints / f"step-{newest:08d}" / "model.safetensors")
    assert (saved["mean_3"] < 1).all()
    assert saved["mean_3"].tolist() != [1, 1, 1]
    deployed = load_file(run.model / "model.safetensors")
    assert set(saved) == {"mean_3", *(f"encoder.{name}" for name in deployed)}


def test_a_stopped_run_goes_on_with_its_means(tmp_path: Path) -> None:
    """A stop after a checkpoint, then resume: means, weights and all else are those of a run that was left alone."""
    rows = scenes(24, size=32, lengths=("short",), negatives=False).to_pool()
    recipe = replace(ALIP.tiny(), image_size=32, width=16, batch_size=4, steps=8, warmup=1.0, pieces=300).prepare(rows)
    options = TrainOptions(save_every=2, keep=9, progress=False, precision="fp32")
    whole = fit(recipe, rows, tmp_path / "whole", options)
    run = stopped_and_resumed(recipe, rows, tmp_path, options, step=3)
    last = "checkpoints/step-00000008/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()
    mean_3 = load_file(run.path / last)["mean_3"]
    before_3 = load_file(run.path / "checkpoints/step-00000004/model.safetensors")["mean_3"]
    assert (mean_3 != before_3).all(), "they moved on after the stop"


def test_crops_have_the_shape_that_was_asked_for() -> None:
    """The red of each pixel is its column and the green its row, so that a crop tells its width and height."""
    y, x = np.mgrid[:200, :200]
    image = ArrayImage(np.stack([x, y, y], -1).astype(np.uint8))
    sample = Sample("a", image=image, texts=(Text("one", "en", "alt"), Text("two", "en", "synthetic")))
    ratios = []
    for aspect in ((0.8, 1.25), (3 / 4, 4 / 3)):
        recipe = replace(ALIP.paper(), image_size=64, aspect=aspect, crop=(0.4, 0.6), flip=False)
        draws = [Draw(sample, np.random.default_rng(seed), image_HWC=image.pixels_HWC) for seed in range(300)]
        seen_BCHW = recipe.batch(Draws(tuple(draws), np.random.default_rng(0))).image_BCHW
        span_B2 = torch.stack([seen_BCHW[:, c].flatten(1).amax(1) - seen_BCHW[:, c].flatten(1).amin(1) for c in (0, 1)], 1)
        std = torch.tensor(recipe.std[:2])
        ratio_B = (span_B2 * std)[:, 0] / (span_B2 * std)[:, 1]
        ratios.append((ratio_B.min().item(), ratio_B.max().item()))
    (low, high), (lower, higher) = ratios
    assert 0.78 < low < 0.84
    assert 1.2 < high < 1.28
    assert lower < 0.78
    assert higher > 1.28


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = ALIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313, "CLIP's ViT-B/32: nothing is learned on top"
    paper = ALIP.paper()
    assert (paper.betas, paper.eps) == ((0.9, 0.98), 1e-8)
    assert len(build_optimiser(torch.nn.Linear(2, 2), paper.optimiser()).param_groups) == 1, "biases decay as weights do"
    assert paper.optimiser().schedule == "one_cycle"
    assert (paper.warmup, paper.aspect, paper.crop_draws, paper.crop_interpolation) == (0.1, (0.8, 1.25), 100, "bilinear")
    assert len(build_optimiser(torch.nn.Linear(2, 2), ALIP.tiny().optimiser()).param_groups) == 2
    assert (paper.gamma_language, paper.gamma_description, paper.momentum, paper.synthetic) == (2, 2, 0.99, ("synthetic",))


# ---------------------------------------------------------------- which text is which


def picture(uid: str, *texts: Text, **extras: Any) -> Sample:
    chance = torch.Generator().manual_seed(len(uid))
    pixels = torch.randint(0, 256, (32, 32, 3), generator=chance, dtype=torch.uint8).numpy()
    return Sample(uid, ArrayImage(pixels, uid), texts, extras=extras)


def test_emoji_have_their_label_as_raw_text_and_their_tags_as_caption() -> None:
    rows = read("emoji").split("train")
    recipe = ALIP.tiny()
    sample = rows[100]
    assert recipe.choices(sample, "raw") == [sample.extras["label"]]
    tags = [text.string for text in sample.texts if (text.origin, text.language) == ("tags", "en")]
    assert recipe.choices(sample, "synthetic") == tags


def test_the_raw_text_is_path_zero_and_mistakes_are_carried_along() -> None:
    rows = Pool.from_samples(
        [
            picture("a", Text("raw a", origin="alt"), Text("made a", origin="synthetic"), mismatched=True),
            picture("bb", Text("raw b", origin="alt"), Text("made b", origin="synthetic"), mismatched=False),
        ]
    )
    recipe = replace(ALIP.tiny(), image_size=32, batch_size=2, tokenizer="clip").prepare(rows)
    (step,) = batches(rows, recipe, seed=0, stop=1)
    words = recipe.words()
    raw = [words.decode(ids.tolist()) for ids in step.batch.text_BL]
    made = [words.decode(ids.tolist()) for ids in step.batch.caption_BL]
    assert sorted(raw) == ["raw a", "raw b"]
    assert [text.replace("raw", "made") for text in raw] == made
    assert step.batch.mismatched_B.tolist() == [int(text == "raw a") for text in raw]


def test_missing_texts_say_what_makes_them(tmp_path: Path) -> None:
    rows = Pool.from_samples([picture("one", Text("a cat", origin="label"))])
    with pytest.raises(DataError, match=r"'one' has no synthetic caption.*diptych curate template_captions DATA FOLDER"):
        ALIP.tiny().prepare(rows)
    with pytest.raises(DataError, match=r"'one' has no raw text .*origin alt"):
        replace(ALIP.tiny(), raw=("alt",)).prepare(rows)
    curate(rows, [TemplateCaptions()], tmp_path)
    recipe = replace(ALIP.tiny(), captions=str(tmp_path))
    assert recipe.choices(rows[0], "synthetic") == ["an image of a cat"]
    words = recipe.prepare(rows).words()
    assert words.decode(words.encode(["an image of a cat"], 32).ids_BL[0].tolist()) == "an image of a cat", (
        "learned from captions, too"
    )
    other = Pool.from_samples([picture("two", Text("a cat", origin="label"))])
    with pytest.raises(DataError, match="'two' has no synthetic caption in"):
        recipe.prepare(other)
