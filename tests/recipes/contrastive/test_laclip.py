"""LaCLIP: prompts, answers, draws, towers and loss of the released code; without rewrites it is CLIP."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from diptych.cli import main
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.curate.writing import in_context
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.transforms import crop_box
from diptych.models.io.releases.slip_layout import slip_parts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.laclip import ONE_OF_ALL, LaCLIP
from diptych.train.optimise import build_optimiser, learning_rate
from diptych.worlds.small_pairs import SmallPairs

RELEASED = json.loads((Path(__file__).parents[2] / "parity/released/laclip_released.json").read_text())
CODE = "LijieFan/LaCLIP 7ddd516"


def rows(count: int = 8, *, rewritten: bool = True) -> Pool:
    pool = SmallPairs(count).pool("train", 0)
    more = (Text("here are two shapes", "en", "rewrite"), Text("shapes", "en", "rewrite")) if rewritten else ()
    return Pool.from_samples((replace(sample, texts=(*sample.texts, *more)) for sample in pool), name="pairs")


def small(kind: type[CLIP] | type[LaCLIP] = LaCLIP, **changes: Any) -> Any:
    sizes = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "image_size": 48,
        "width": 16,
        "pieces": 300,
        "batch_size": 8,
    }
    return replace(kind.tiny(), **{**sizes, **changes})


def test_prompts_and_answers_are_those_of_the_released_script(parity: Any) -> None:
    pairs = []
    given = zip(
        RELEASED["draws"], RELEASED["captions"], RELEASED["continuations"], RELEASED["prompts"], RELEASED["read"], strict=True
    )
    for draw, caption, continued, theirs, read in given:
        shown = tuple((RELEASED["pairs"][place][0], RELEASED["pairs"][place][1]) for place in draw)
        ours = in_context.prompt(shown, caption)
        assert ours == theirs
        assert in_context.caption_of_reply(continued) == read
        pairs += [(float(ours == theirs), 1.0), (float(in_context.caption_of_reply(continued) == read), 1.0)]
    parity(
        "laclip",
        "prompts, and what is read of answers, as equal or not",
        f"{CODE}, rewrite/llama_rewrite.py",
        pairs,
        tolerance=0.0,
    )


def test_a_text_of_one_word_gives_way_as_in_the_released_data_set(parity: Any) -> None:
    class Fixed:
        """A generator that draws a place."""

        def __init__(self, place: int) -> None:
            self.place = place

        def integers(self, count: int) -> int:
            assert self.place < count
            return self.place

    pairs = []
    for row, place, theirs in RELEASED["drawn"]:
        sample = Sample("x", texts=tuple(Text(text) for text in RELEASED["text_sets"][row]))
        ours = ONE_OF_ALL(Draw(sample, Fixed(place))).string  # type: ignore[arg-type]
        assert ours == theirs
        pairs.append((float(ours == theirs), 1.0))
    parity("laclip", "which text is read, as equal or not", f"{CODE}, data.py", pairs, tolerance=0.0)


def test_the_loss_is_the_released_one(parity: Any) -> None:
    chance = torch.Generator().manual_seed(0)
    image_ND, text_ND = (torch.randn(6, 8, dtype=torch.float64, generator=chance) for _ in range(2))
    unit = [nn.functional.normalize(x, dim=-1) for x in (image_ND, text_ND)]
    loss, _ = info_nce(*unit, scale=torch.tensor([14.0], dtype=torch.float64))
    parity(
        "laclip", "the loss", f"{CODE}, losses.py", [(loss, torch.tensor(RELEASED["loss"], dtype=torch.float64))], tolerance=1e-12
    )


def theirs_of(name: str) -> str:
    """The released name of one of our tensors."""
    if name.startswith("image_tower.net."):
        return "visual." + name.removeprefix("image_tower.net.")
    plain = {
        "log_scale": "logit_scale",
        "image_projection.weight": "image_projection",
        "text_projection.weight": "text_projection",
        "text_tower.position_LD": "positional_embedding",
        "text_tower.embed.weight": "token_embedding.weight",
    }
    if name in plain:
        return plain[name]
    renamed = name.replace("text_tower.norm_after", "ln_final").replace("text_tower.transformer.blocks", "transformer.resblocks")
    for ours, theirs in (
        ("norm_1", "ln_1"),
        ("norm_2", "ln_2"),
        ("attention.qkv.", "attn.in_proj_"),
        ("attention.out", "attn.out_proj"),
        ("mlp_in", "mlp.c_fc"),
        ("mlp_out", "mlp.c_proj"),
    ):
        renamed = renamed.replace(ours, theirs)
    return renamed


@torch.no_grad()
def filled(model: nn.Module) -> None:
    """Every tensor from its place in the sorted list of released names, as the fixture was made."""
    own = {theirs_of(name): (name, parameter) for name, parameter in model.named_parameters()}
    assert sorted(own) == RELEASED["names"]
    for place, theirs in enumerate(RELEASED["names"]):
        _, parameter = own[theirs]
        turned = theirs in ("image_projection", "text_projection")  # stored the other way round
        shape = parameter.T.shape if turned else parameter.shape
        value = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.37 + place * 1.7).reshape(shape)
        scaled = 1 + 0.2 * value if ("norm" in theirs or "ln_" in theirs) and theirs.endswith("weight") else 0.15 * value
        parameter.copy_(scaled.T if turned else scaled)


def test_towers_give_the_numbers_of_the_released_model(parity: Any) -> None:
    """timm's ViT with normalised queries and keys; a text tower with QuickGELU."""
    image = image_tower("timm:test_vit", image_size=160, qk_norm=True)
    text = text_tower("transformer", vocab_size=60, length=10, width=32, layers=2, heads=2, act="quick_gelu", eot_id=59)
    model = DualEncoder(image, text, width=32).double().eval()
    filled(model)
    own = model.state_dict()
    turned = ("image_projection", "text_projection")
    given = {theirs_of(name): tensor.T if theirs_of(name) in turned else tensor for name, tensor in own.items()}
    placed = slip_parts(given).tensors  # where a file of the release is opened
    assert placed.keys() == own.keys()
    assert all(torch.equal(placed[name], tensor) for name, tensor in own.items())
    pixels = torch.sin(torch.arange(2 * 3 * 160 * 160, dtype=torch.float64) * 0.013).reshape(2, 3, 160, 160)
    ids = torch.tensor([[50, 3, 4, 5, 59, 0, 0, 0, 0, 0], [50, 7, 8, 9, 10, 11, 12, 13, 14, 59]])
    with torch.no_grad():
        found = model(pixels, ids)
    expected = [torch.tensor(RELEASED[side], dtype=torch.float64) for side in ("image", "text")]
    pairs = zip((found.image_ND, found.text_ND), expected, strict=True)
    parity("laclip", "embeddings on equal weights", f"{CODE}, models.py", pairs, tolerance=1e-12)


@pytest.mark.parametrize("steps_an_epoch", [1, 2, 9, 260])
def test_rates_of_all_steps_are_the_released_ones(steps_an_epoch: int, parity: Any) -> None:
    """35 epochs, one of warm-up, by numpy as released: linspace reaches the rate with the last step of the warm-up."""
    steps = 35 * steps_an_epoch
    rest_S = np.arange(steps - steps_an_epoch)
    falling_S = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + np.cos(np.pi * rest_S / len(rest_S)))
    expected_S = np.concatenate([np.linspace(1e-6, 1e-3, steps_an_epoch), falling_S])
    spec = LaCLIP.paper().optimiser()
    found_S = np.array([learning_rate(spec, step, steps) for step in range(steps)])
    np.testing.assert_allclose(found_S, expected_S, rtol=1e-9)
    if steps_an_epoch == 260:
        assert found_S[259] == found_S[260] == 1e-3
        parity(
            "laclip", "rates of all steps", f"{CODE}, utils.py by numpy", [(found_S / 1e-3, expected_S / 1e-3)], tolerance=1e-9
        )


def test_pictures_are_resized_bilinearly_as_released() -> None:
    """torchvision's own default, where open_clip asks for bicubic; the factor of similarities is at most exp(4.6052)."""
    paper = LaCLIP.paper()
    assert (paper.crop_interpolation, paper.deployed_preprocess.interpolation) == ("bilinear", "bilinear")
    assert transforms.RandomResizedCrop(224).interpolation == transforms.Resize(224).interpolation == InterpolationMode.BILINEAR
    assert math.log(paper.max_scale) == pytest.approx(4.6052, abs=1e-12)
    image_HWC = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    draws = Draws((Draw(rows(1)[0], keyed_rng(0), image_HWC),), rng=keyed_rng(0), step=0)
    plain = {"tokenizer": "clip", "crop": (0.5, 1.0), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    found_CHW = replace(small(**plain), crop_interpolation="bilinear").batch(draws).image_BCHW[0]
    rng = keyed_rng(0)
    small().text_draw(Draw(rows(1)[0], rng, image_HWC), "en")  # a step draws the text first
    top, left, height, width = crop_box(90, 120, rng, (0.5, 1.0), (0.75, 4 / 3))
    part = Image.fromarray(image_HWC[top : top + height, left : left + width])
    gap = {
        mode: np.abs(np.asarray(part.resize((48, 48), mode)).transpose(2, 0, 1) - found_CHW.numpy() * 255).mean()
        for mode in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    }
    assert gap[Image.Resampling.BILINEAR] < 0.5 < 3 < gap[Image.Resampling.BICUBIC]


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = LaCLIP.paper()
    with torch.device("meta"):
        model = paper.model()
    assert sum(p.numel() for p in model.parameters()) == 149_623_041
    assert any("q_norm" in name for name, _ in model.named_parameters())
    assert model.text_tower.spec["act"] == "quick_gelu"
    spec = paper.optimiser()
    assert (spec.betas, spec.eps, spec.weight_decay) == ((0.9, 0.98), 1e-8, 0.5)
    assert learning_rate(spec, 999, 1000) == pytest.approx(1e-5, rel=0.01)
    assert (paper.crop, paper.flip, paper.text_draw.least_words) == ((0.5, 1.0), False, 2)
    small_model = small(tokenizer="clip").model()
    decayed = {
        id(p) for group in build_optimiser(small_model, spec).param_groups if group["weight_decay"] for p in group["params"]
    }
    assert all((id(p) in decayed) == (p.ndim >= 2) for p in small_model.parameters())


def test_fresh_weights_are_drawn_as_the_released_code_draws_them() -> None:
    """It makes the blocks of timm's transformer anew, so that timm's start does not reach them; CLIP's leaves biases of MLPs alone."""
    towers = {"image_tower": "timm:vit_tiny_patch16_224", "qk_norm": True, "tokenizer": "clip", "image_size": 224}
    for released in (True, False):
        torch.manual_seed(0)
        model = small(**towers, released_start=released).model()
        net, block = model.image_tower.net, model.text_tower.transformer.blocks[0]
        for layer in (net.blocks[0].attn.qkv, net.blocks[3].mlp.fc2):
            bound = layer.in_features**-0.5
            uniform = bound * 0.98 < float(layer.weight.detach().abs().max()) <= bound and bool(layer.bias.any())
            assert uniform == released
            assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5 if released else 0.02, rel=0.05)
        assert bool(block.mlp_in.bias.any()) == bool(block.mlp_out.bias.any()) == released
        assert not block.attention.qkv.bias.any()
        assert float(net.cls_token.detach().std()) == pytest.approx(0.02 if released else 1e-6, rel=0.3)
        assert float(net.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert LaCLIP.paper().released_start
    assert not LaCLIP.tiny().released_start


def test_without_rewrites_it_is_clip_to_the_bit() -> None:
    data = rows(rewritten=False)
    with pytest.raises(DataError, match=r"no image of 'pairs' has a second text.*diptych curate rewrite DATA OUT"):
        small().prepare(data)
    found: list[list[Tensor]] = []
    for recipe in (small(CLIP), small(rewrites=False)):
        prepared = recipe.prepare(data)
        torch.manual_seed(0)
        model = prepared.model()
        optimiser = build_optimiser(model, prepared.optimiser())
        for step in batches(data, prepared, seed=0, stop=3):
            loss = prepared.losses(prepared.features(model, step.batch), step.batch)["contrastive"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_step_reads_each_of_its_texts() -> None:
    data = rows()
    recipe = small().prepare(data)
    seen = {text for step in batches(data, recipe, seed=0, stop=12) for text in step.batch.strings}
    assert "here are two shapes" in seen
    assert "shapes" not in seen
    assert {sample.texts[0].string for sample in data} <= seen
    again = [step.batch.strings for step in batches(data, recipe, seed=0, stop=12)]
    assert again == [step.batch.strings for step in batches(data, recipe, seed=0, stop=12)]


def test_tiny_differs_from_clip_in_its_texts_alone() -> None:
    ours, clip = LaCLIP.tiny(), CLIP.tiny()
    apart = {f.name for f in fields(CLIP) if getattr(ours, f.name) != getattr(clip, f.name)}
    assert apart == {"text_draw"}
    assert ours.optimiser() == clip.optimiser()


def test_the_command_line_rewrites_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    lines = ["uid,image,text"]
    for n in range(12):
        Image.fromarray(np.full((48, 48, 3), n * 20, np.uint8)).save(tmp_path / f"{n}.png")
        lines.append(f"u{n},{n}.png,a small dog left of a cup number {n}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    data, out, run = str(tmp_path / "data.csv"), str(tmp_path / "more"), str(tmp_path / "run")
    assert main(["curate", "rewrite", data, out]) == 0
    sizes = ["--image-tower", "vit_micro", "--text-tower", "text_micro", "--image-size", "48", "--width", "16", "--pieces", "300"]
    train = ["train", "laclip", "--data", out, "--out", run, "--steps", "2", "--batch-size", "8", *sizes]
    assert main([*train, "--text-policy", "weighted", "--text-weights", "rewrite=2"]) == 0
    stored = (Path(run) / "config.yaml").read_text()
    assert "weighted" in stored
    assert "rewrite=2" in stored
    assert main(["eval", run, "retrieval", "--data", out]) == 0
