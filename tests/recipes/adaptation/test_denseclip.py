"""DenseCLIP: every place as CLIP would see it, the released code's maps, texts, decoder and scores, a text side that really is frozen."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from invariants import stopped_and_resumed
from torch import Tensor
from torch.nn import functional as F

from diptych.api import load
from diptych.core.contracts import Segmenter
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.data.label_maps import LabelMaps
from diptych.data.load.stream import batches
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.dense_segmenter import LanguageGuide
from diptych.models.denseclip.segmenting import DenseClipSegmenterModel
from diptych.models.denseclip.semantic_fpn import FeaturePyramidNeck, SemanticHead
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.layers.score_map import score_map
from diptych.models.layers.text_refiner import TextRefiner
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.dense_tap import dense_pool, dense_tap, fit_positions
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.segmentation import pixel_cross_entropy
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, freeze, rate_above_floor, schedule, set_learning_rate
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "denseclip_released.json").read_text())
NAMES = ("wall", "traffic light", "tyrannosaurus")
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        value = np.abs(value) + 1
    return torch.from_numpy(np.asarray(value))


def probe(tensor: Tensor) -> Tensor:
    """What the fixture holds of a tensor: its mean, a product with fixed numbers, its first six."""
    row = tensor.detach().double()
    wave = torch.arange(1, row.numel() + 1, dtype=torch.float64).reshape(row.shape).sin()
    return torch.stack([row.mean(), (row * wave).sum(), *row.flatten()[:6]])


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def released_names(kind: str, shapes: dict[str, Any]) -> dict[str, Tensor]:
    return {name: filled(f"{kind}.{name.removeprefix('visual.')}", shape) for name, shape in shapes.items()}


def residual() -> Any:
    """CLIP's residual network, a block a stage, with the numbers of the released code's."""
    tower = image_tower("resnet_clip_50", image_size=64, depths=(1, 1, 1, 1), width=8, heads=32, out=16).double().eval()
    import open_clip

    theirs = open_clip.modified_resnet.ModifiedResNet((1, 1, 1, 1), 16, 32, 64, 8)
    shapes = {f"visual.{name}": tuple(t.shape) for name, t in theirs.state_dict().items() if t.is_floating_point()}
    tensors = from_open_clip(released_names("resnet", shapes))
    own = {name.removeprefix("image_tower."): tensor for name, tensor in tensors.items()}
    missing = tower.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return tower


def vision() -> tuple[Any, Any, dict[str, Tensor]]:
    """A vision transformer with its projection, and the numbers of the maps' own layers."""
    tower = image_tower("vit", image_size=64, patch=16, width=32, layers=4, heads=2, act="quick_gelu")
    encoder = DualEncoder(tower, text_tower("text_micro", vocab_size=10), width=16).double().eval()
    import open_clip

    theirs = open_clip.transformer.VisionTransformer(64, 16, 32, 4, 2, 4.0, output_dim=16).state_dict()
    shapes = {f"visual.{name}": tuple(t.shape) for name, t in theirs.items()}
    tensors = from_open_clip(released_names("vit", shapes))
    assert not encoder.load_state_dict(tensors, strict=False).unexpected_keys
    tap = dense_tap(encoder.image_tower, encoder.image_projection, 16, class_twice=True).double().eval()
    steps = {name: t for name, t in tap.steps.state_dict().items() if t.is_floating_point()}
    own = {}
    for name, tensor in steps.items():
        level, _, rest = name.partition(".")
        own[name] = filled(f"vit.fpn{int(level) + 1}.{rest}", tuple(tensor.shape))
    tap.steps.load_state_dict(own, strict=False)
    return tap, encoder, tensors


def image() -> Tensor:
    return filled("image", (2, 3, 64, 96)) * 10


def test_maps_of_a_residual_network_are_those_of_the_released_code(parity: Any) -> None:
    seen = dense_tap(residual(), torch.nn.Identity(), 16).double().eval()(image())
    theirs = RELEASED["resnet"]
    pairs = [(probe(ours), doubled(them)) for ours, them in zip(seen.maps, theirs["maps"], strict=True)]
    pairs += [(probe(seen.whole_BD), doubled(theirs["whole"])), (probe(seen.dense_BDHW), doubled(theirs["dense"]))]
    parity("denseclip", "maps and dense pool of a residual network, 64 x 96 pixels", "released code", pairs, tolerance=1e-9)


def test_maps_texts_decoder_and_scores_are_those_of_the_released_code(parity: Any) -> None:
    tap, _, _ = vision()
    seen, theirs = tap(image()), RELEASED["vit"]
    pairs = [(probe(ours), doubled(them)) for ours, them in zip(seen.maps, theirs["maps"], strict=True)]
    pairs += [(probe(seen.whole_BD), doubled(theirs["whole"])), (probe(seen.dense_BDHW), doubled(theirs["dense"]))]
    parity("denseclip", "maps and places of a vision transformer, 64 x 96 pixels", "released code", pairs, tolerance=1e-9)
    guide = made_guide()
    text_KD = guide.texts()
    refined_BKD = guide.refiner(
        text_KD.expand(2, -1, -1), torch.cat([seen.whole_BD[:, None], seen.dense_BDHW.flatten(2).transpose(1, 2)], 1)
    )
    found = [(text_KD, "text"), (refined_BKD, "refined"), (guide(seen), "score")]
    pairs = [(probe(ours), doubled(RELEASED[name])) for ours, name in found]
    parity("denseclip", "texts, refined texts and score map", "released code", pairs, tolerance=1e-9)


def made_guide() -> LanguageGuide:
    """Text side, context and decoder with the numbers of the released code's, which reads 13 places."""
    words = Tokenizer.from_spec("clip")
    options = {"width": 32, "layers": 2, "heads": 2, "act": "quick_gelu", "eot_id": words.eot_id}
    text = text_tower("transformer", vocab_size=49408, length=13, **options)
    encoder = DualEncoder(image_tower("vit_micro"), text, width=16).double()
    shapes: dict[str, tuple[int, ...]] = {"positional_embedding": (13, 32), "token_embedding.weight": (49408, 32)}
    shapes |= {"ln_final.weight": (32,), "ln_final.bias": (32,), "text_projection": (32, 16)}
    for layer in range(2):
        block = f"transformer.resblocks.{layer}"
        shapes |= {f"{block}.attn.in_proj_weight": (96, 32), f"{block}.attn.in_proj_bias": (96,)}
        for name, shape in {"attn.out_proj": (32, 32), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{name}.weight": (32,), f"{block}.{name}.bias": (32,)}
    tensors = from_open_clip({name: filled(f"text.{name}", shape) for name, shape in shapes.items()})
    assert not encoder.load_state_dict(tensors, strict=False).unexpected_keys
    refiner = TextRefiner(16, layers=3, heads=4, inside=24, among=True, dropout=0.1, drop_thoughts=True).double().eval()
    theirs = {"places": "memory_proj", "texts": "text_proj", "out": "out_proj"}
    parts = {
        "among.q": "self_attn.q_proj", "among.k": "self_attn.k_proj", "among.v": "self_attn.v_proj", "among.out": "self_attn.proj",
        "read.q": "cross_attn.q_proj", "read.k": "cross_attn.k_proj", "read.v": "cross_attn.v_proj", "read.out": "cross_attn.proj",
        "norm_among": "norm1", "norm_read": "norm2", "norm_mlp": "norm3", "mlp_in": "mlp.0", "mlp_out": "mlp.3",
    }  # fmt: skip
    own = {}
    for name, tensor in refiner.state_dict().items():
        first, _, rest = name.partition(".")
        if first == "gate_D":
            own[name] = filled("gamma", (16,))
        elif first == "layers":
            number, _, rest = rest.partition(".")
            part, _, kind = rest.rpartition(".")
            own[name] = filled(f"refiner.decoder.{number}.{parts[part]}.{kind}", tuple(tensor.shape))
        else:
            own[name] = filled(f"refiner.{theirs[first]}.{rest}", tuple(tensor.shape))
    refiner.load_state_dict(own)
    bank = LearnedContext(32, 8, start="truncated", std=1.0).double()
    with torch.no_grad():
        bank.context.copy_(filled("contexts", (1, 8, 32))[0])
    guide = LanguageGuide(encoder.text_tower, encoder.text_projection, bank, refiner).double().eval()
    guide.set_classes(class_prompts(NAMES, words, 13, context=8, tail="", fitted=True))
    return guide


def test_dense_features_without_context_are_clips_own(parity: Any) -> None:
    """The pool's first place is CLIP's vector; of a vision transformer the class token's is, and with no context and gate 0 scores are
    cosines of patches with zero-shot heads."""
    torch.manual_seed(0)
    tower = residual()
    square = image()[..., :64]
    whole_BD, dense_BDHW = dense_pool(tower.pool, last_map(tower, square))
    parity("denseclip", "the dense pool's first place", "CLIP's vector", [(whole_BD, tower(square).pooled_BD)], tolerance=1e-12)
    assert dense_BDHW.shape == (2, 16, 2, 2)
    words = Tokenizer.from_spec("clip")
    options = {"width": 32, "layers": 2, "heads": 2, "eot_id": words.eot_id}
    vit = image_tower("vit", image_size=64, patch=16, width=32, layers=4, heads=2)
    encoder = DualEncoder(vit, text_tower("transformer", vocab_size=49408, length=16, **options), width=16).eval()
    seen = dense_tap(vit, encoder.image_projection, 16).eval()(square.float())
    pooled = [(F.normalize(seen.whole_BD, dim=-1), encoder.encode_image(square.float()))]
    parity("denseclip", "a vision transformer's vector", "CLIP's vector", pooled, tolerance=1e-6)
    guide = LanguageGuide(encoder.text_tower, encoder.text_projection, LearnedContext(32, 0), None)
    guide.set_classes(class_prompts(NAMES, words, 16, context=0, tail=""))
    embedder = PairEmbedder(encoder, DenseCLIP(image_size=64).preprocess, words, 16, "numbers")
    head_KD = torch.from_numpy(class_heads(ZeroShot().embed_classes(embedder, NAMES))).float()
    patch_BPD = encoder.image_projection(vit(square.float()).tokens_BPD)
    hand = (F.normalize(patch_BPD, dim=-1) @ head_KD.T).transpose(1, 2).unflatten(2, (4, 4))
    parity("denseclip", "score map without context", "patches times zero-shot heads", [(guide(seen), hand)], tolerance=1e-5)
    plain = score_map(seen.dense_BDHW, head_KD)
    torch.testing.assert_close(plain, hand, atol=1e-6, rtol=0)


def last_map(tower: Any, image_BCHW: Tensor) -> Tensor:
    return dense_tap(tower, torch.nn.Identity(), 16)(image_BCHW).maps[-1]


def test_the_pyramid_is_that_of_torchvision_and_the_head_a_sum(parity: Any) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4), (10, 2))]
    neck = FeaturePyramidNeck((4, 6, 8, 10), 12)
    theirs = torchvision.ops.FeaturePyramidNetwork([4, 6, 8, 10], 12)
    for level in range(4):
        theirs.inner_blocks[level][0].load_state_dict(neck.sides[level].state_dict())
        theirs.layer_blocks[level][0].load_state_dict(neck.smooth[level].state_dict())
    found = theirs({str(level): m for level, m in enumerate(maps)})
    levels = neck(maps)
    pairs = list(zip(levels, found.values(), strict=True))
    parity("denseclip", "feature pyramid", "torchvision's FeaturePyramidNetwork", pairs, tolerance=1e-5)
    head = SemanticHead(12, 3).eval()
    by_hand = 0
    for level, x in enumerate(levels):
        for _ in range(max(1, level)):
            conv, norm = (m for m in list(head.scales[level])[4 * _ : 4 * _ + 2]) if level else list(head.scales[level])[:2]
            x = norm(conv(x)).relu()
            x = F.interpolate(x, scale_factor=2, mode="bilinear") if level else x
        by_hand = by_hand + x
    torch.testing.assert_close(head(levels), head.classify(by_hand))


# ---------------------------------------------------------------- trained


def small(**changes: Any) -> DenseCLIP:
    return replace(DenseCLIP.tiny(), **{"batch_size": 4, "steps": 4, "inner": 16, "neck": 16, **changes})


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        recipe = replace(DenseCLIP.paper(), named=tuple(f"thing {number}" for number in range(150)))
        model = recipe.model()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["tap"] == 38_740_832, "as the released backbone at 512 pixels"
    assert sum(p.numel() for p in model.guide.refiner.parameters()) == 3_948_800 + 1024, "the released decoder, and the gate"
    freeze(model, recipe.optimiser())
    groups = build_optimiser(model, recipe.optimiser()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in decayed}
    norms = {
        f"guide.refiner.layers.{n}.norm_{of}.{kind}"
        for n in range(3)
        for of in ("among", "read", "mlp")
        for kind in ("weight", "bias")
    }
    assert spared == norms, "what paramwise_cfg spares: 'norm' in names, of which those of 'backbone' are taken first"
    paper = DenseCLIP.paper()
    assert (paper.lr, paper.weight_decay, paper.batch_size, paper.steps, paper.tau, paper.score_weight) == (
        1e-4,
        1e-4,
        32,
        80_000,
        0.07,
        0.4,
    )


def test_rates_of_all_steps_are_the_released_ones(parity: Any) -> None:
    """OpenMMLab's poly policy with a floor of 1e-6 for all, its linear warm-up a factor of it; groups at 1, .1 and 0 of it."""
    spec, steps, base_G = DenseCLIP.paper().optimiser(), 80_000, np.array([1e-4, 1e-5, 0.0])
    step_S = np.unique(np.concatenate([np.arange(1600), np.arange(1600, steps, 97), np.arange(steps - 60, steps)]))
    regular_SG = (base_G - 1e-6) * ((1 - step_S / steps) ** 0.9)[:, None] + 1e-6
    less_S = np.where(step_S < 1500, (1 - step_S / 1500) * (1 - 1e-6), 0.0)
    found = [[rate_above_floor(spec, int(step), steps, scale) for scale in (1.0, 0.1, 0.0)] for step in step_S]
    expected = regular_SG * (1 - less_S)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-18)
    pairs = [(np.array(found) / 1e-4, expected / 1e-4)]
    parity("denseclip", "rates of three groups over the run", "OpenMMLab's poly policy by hand", pairs, tolerance=1e-9)


def test_the_text_side_moves_by_the_floor_as_released() -> None:
    data = scenes(8)
    recipe = small(text_side="released", floor="rate", decay="released", warmup=0.0).prepare(data)
    torch.manual_seed(0)
    model = recipe.model().train()
    spec = recipe.optimiser()
    freeze(model, spec)
    optimiser = build_optimiser(model, spec)
    text = {id(p) for part in (model.guide.text_tower, model.guide.projection) for p in part.parameters()}
    groups = [group for group in optimiser.param_groups if group["scale"] == 0]
    assert {id(p) for group in groups for p in group["params"]} == text
    assert {group["weight_decay"] for group in groups} == {recipe.weight_decay}
    before = {name: p.clone() for name, p in model.guide.text_tower.named_parameters()}
    for step, expected in ((0, 0.0), (3, recipe.lr * 0.01 * (1 - 0.25**0.9))):
        schedule(optimiser, spec, step, 4)
        assert groups[0]["lr"] == pytest.approx(expected, abs=1e-18)
    (step,) = batches(data, recipe, seed=0, stop=1)
    sum(recipe.losses(recipe.features(model, step.batch), step.batch).values()).backward()
    assert all(p.grad is not None for p in model.guide.text_tower.parameters())
    optimiser.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.guide.text_tower.named_parameters() if "norm" in name)


def test_the_text_side_is_really_frozen() -> None:
    """In the release its rate of 0 is raised to the floor of the schedule. Here it is out of the optimiser and has no gradient."""
    data = scenes(8)
    recipe = small().prepare(data)
    torch.manual_seed(0)
    model = recipe.model().train()
    assert not model.guide.text_tower.training
    before = {name: p.clone() for name, p in model.guide.named_parameters()}
    freeze(model, recipe.optimiser())
    optimiser = build_optimiser(model, recipe.optimiser())
    inside = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert not any(id(p) in inside for p in model.guide.text_tower.parameters())
    (step,) = batches(data, recipe, seed=0, stop=1)
    sum(recipe.losses(recipe.features(model, step.batch), step.batch).values()).backward()
    set_learning_rate(optimiser, 1.0)
    optimiser.step()
    moved = {name for name, p in model.guide.named_parameters() if not torch.equal(p, before[name])}
    assert {"bank.context", "refiner.gate_D"} <= moved
    assert not any(name.startswith(("text_tower", "projection")) for name in moved)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language": "score"},
        {"language": "none"},
        {"backbone": "timm:resnet10t"},
    ],
)  # fmt: skip
def test_every_variant_learns_and_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    data = scenes(8)
    recipe = small(**changes).prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    losses = recipe.losses(features, step.batch)
    assert set(losses) == ({"pixels"} if recipe.language == "none" else {"pixels", "score"})
    if features.score_NKHW is not None:  # cosines, sharpened by the temperature
        sharp = pixel_cross_entropy(features.score_NKHW / 0.07, step.batch.label_BHW, count_ignored=recipe.count_ignored)
        assert losses["score"].item() == pytest.approx(recipe.score_weight * sharp.item(), rel=1e-6)
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, Segmenter)
    images = [data[0].image, ArrayImage(data[1].image.pixels_HWC[:40, :], "wide")]
    for ours, theirs in zip(deployed.segment(images), again.segment(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.segment(images)[1].shape == (40, 64)


def test_a_sliding_window_averages_where_squares_meet(tmp_path: Path) -> None:
    """By hand, on a picture twice as wide as a window with one in the middle."""
    data = scenes(4)
    recipe = small().prepare(data)
    torch.manual_seed(0)
    model: DenseClipSegmenterModel = recipe.deploy(recipe.model().eval())
    model.stride = 32
    wide_HWC = np.concatenate([data[0].image.pixels_HWC, data[1].image.pixels_HWC], axis=1)
    with torch.no_grad():
        found = model.logits(wide_HWC)
        total, count = torch.zeros(len(model.classes), 64, 128), torch.zeros(64, 128)
        for left in (0, 32, 64):
            part = model.preprocess.normalise(wide_HWC[None, :, left : left + 64])
            total[..., left : left + 64] += F.interpolate(model.model(part).logit_NKHW, size=(64, 64), mode="bilinear")[0]
            count[:, left : left + 64] += 1
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=0)
    names = model.classes[:2]
    map_HW = model.segment([ArrayImage(wide_HWC)], names)[0]
    np.testing.assert_array_equal(map_HW, found[:2].argmax(0).numpy())
    with pytest.raises(UnknownName, match="unknown class 'giraffe'"):
        model.segment([ArrayImage(wide_HWC)], ["giraffe"])


def test_it_starts_from_a_trained_model_and_its_positions_grow(tmp_path: Path) -> None:
    base = replace(DenseCLIP.tiny(), patch=16).prepare(scenes(8)).base()
    base.name = "base"
    base.save(tmp_path / "base")
    recipe = small(weights=str(tmp_path / "base"), crop_size=96).prepare(scenes(8))
    model = recipe.model()
    theirs = base.model.image_tower
    assert model.tap.tower.position_PD.shape == (37, 64)
    torch.testing.assert_close(model.tap.tower.position_PD[0], theirs.position_PD[0])
    torch.testing.assert_close(model.tap.tower.patches.weight, theirs.patches.weight)
    run = fit(recipe, scenes(8), tmp_path / "run", OPTIONS)
    assert load(run.path).segment([scenes(1)[0].image])[0].shape == (64, 64)


def test_a_residual_network_is_fine_tuned(tmp_path: Path) -> None:
    """A small one: places of a picture of 64 pixels are 2 x 2, those of a crop of 96 are 3 x 3."""
    words = Tokenizer.train(["circle", "square", "triangle", "star"], 300)
    image = image_tower("resnet_clip_50", image_size=64, depths=(1, 1, 1, 1), width=8, heads=8, out=16)
    text = text_tower("text_micro", vocab_size=words.vocab_size, length=24)
    PairEmbedder(DualEncoder(image, text, width=16), DenseCLIP(image_size=64).preprocess, words, 24, "small").save(
        tmp_path / "base"
    )
    recipe = small(weights=str(tmp_path / "base"), crop_size=96, heads=2).prepare(scenes(8))
    torch.manual_seed(0)
    model = recipe.model()
    assert model.tap.tower.pool.position_PD.shape == (10, 256)
    (step,) = batches(scenes(8), recipe, seed=0, stop=1)
    found = recipe.features(model, step.batch)
    assert found.score_NKHW is not None
    assert found.score_NKHW.shape[2:] == (3, 3)
    assert found.logit_NKHW.shape[2:] == (24, 24)
    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    images = [scenes(1)[0].image]
    np.testing.assert_array_equal(deployed.segment(images)[0], load(tmp_path / "model").segment(images)[0])


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole = fit(small(shake=True, flip=True), scenes(8), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(small(shake=True, flip=True), scenes(8), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_refused() -> None:
    with pytest.raises(ConfigError, match="crops of 60 pixels"):
        fit_positions(image_tower("vit_micro", image_size=64), 60)
    with pytest.raises(ConfigError, match="patches of 32 pixels have no dense tap"):
        dense_tap(image_tower("vit", image_size=64, patch=32, width=32, layers=2, heads=2), torch.nn.Identity(), 16)
    with pytest.raises(ConfigError, match="DenseViT has no dense tap"):
        dense_tap(image_tower("dense_micro"), torch.nn.Identity(), 16)
    with pytest.raises(ConfigError, match="background is 'sky', which is not a class"):
        LabelMaps(("a", "b"), "sky")
