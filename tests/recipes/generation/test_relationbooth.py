"""RelationBooth: released resampler, image attention and losses; right forms beside them; files that diffusers loads; bad rows."""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import open_clip
import pytest
import torch
import transformers
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "models/diffusion"))
from small_pipelines import xl_folder

from diptych.core.contracts import Draw, Draws, ReferenceImage
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.data.load.stream import batches
from diptych.models.diffusion.adapters import FILE, save_adapter
from diptych.models.diffusion.image_attention import RegionAttention, box_cells, region_bias
from diptych.models.diffusion.local_encoder import local_encoder
from diptych.models.diffusion.local_tokens import grid_boxes, local_tokens
from diptych.models.diffusion.reference_model import ReferenceImageModel
from diptych.models.diffusion.reference_net import ReferenceDiffusion
from diptych.models.diffusion.resampler import GroundedResampler
from diptych.objectives.diffusion.figures import attention_outside, gated_mean, key_point_matching, latents_at
from diptych.recipes._shared.diffusion.placement import mask_boxes, placed_on_black
from diptych.recipes._shared.diffusion.reference_base import reference_base
from diptych.recipes.generation.relationbooth import RelationBooth
from diptych.train.optimise import freeze
from diptych.worlds.figures.world import figures

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "relationbooth_released.json").read_text())
AUTHORS = "released code, Shi-qingyu/DreamRelation"
BOXES = torch.tensor([[0.0, 0.2, 0.55, 0.85], [0.55, 0.26, 0.95, 0.9], [0.1, 0.0, 1.0, 0.5], [0.3, 0.3, 0.6, 0.6]]).double()
SMALL = replace(RelationBooth.tiny(), small_steps=2, small_data="world:figures?n=64&seed=9999&apart=0.5")


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    return torch.from_numpy(np.asarray(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.3))


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_resampler_is_the_released_one(parity: Any) -> None:
    """Phrase and box make the queries of two pictures; the learned ones take their place in the others."""
    sizes = {"width": 16, "depth": 2, "heads": 2, "queries": 3, "mult": 2, "image_width": 10, "phrase_width": 6, "out_width": 12}
    resampler = GroundedResampler(**sizes).double()
    own = resampler.state_dict()
    assert {name: list(tensor.shape) for name, tensor in own.items()} == RELEASED["resampler_names"]
    for name, tensor in own.items():
        tensor.copy_(filled(f"resampler.{name}", tuple(tensor.shape)))
    dropped_B = torch.tensor([False, False, True, True])
    token_BQD = resampler(filled("image", (4, 7, 10)), filled("phrase", (4, 6)), BOXES, dropped_B=dropped_B)
    pairs = [(token_BQD, doubled(RELEASED["resampler"])), (resampler.fourier_embedder(BOXES), doubled(RELEASED["fourier"]))]
    parity("relationbooth", "tokens of the resampler", AUTHORS, pairs, tolerance=1e-5)  # its softmax is of single precision


@pytest.mark.parametrize("first_only", [False, True])
def test_local_tokens_are_the_released_ones(first_only: bool, parity: Any) -> None:
    """Pictures twice as large as the encoder's own; the released call gives every picture the boxes of the first."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 8}
    config = transformers.CLIPVisionConfig(image_size=32, patch_size=8, hidden_act="gelu", **sizes)
    vision = transformers.CLIPVisionModelWithProjection(config).double().eval()
    for name, tensor in vision.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(filled(name, tuple(tensor.shape)))
    token_BGD = local_tokens(vision, filled("large", (2, 3, 64, 64)), first_only=first_only)
    pair = (token_BGD[..., :4], doubled(RELEASED["local"][first_only]))
    parity("relationbooth", "local tokens", AUTHORS, [pair], tolerance=1e-6)
    assert grid_boxes(2).tolist() == [[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1]]


def test_the_released_local_encoder_is_read_by_its_names(tmp_path: Path, parity: Any) -> None:
    """A checkpoint as CLIPSelf's training leaves it: open_clip's names, behind "module.", beside the state of the optimiser."""
    torch.manual_seed(0)
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    theirs = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_ratio=2.0, output_dim=8, norm_layer=norm
    ).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 8}
    config = transformers.CLIPVisionConfig(image_size=32, patch_size=8, hidden_act="gelu", **sizes)
    state = {f"module.visual.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state["module.transformer.resblocks.0.ln_1.weight"] = torch.ones(4)
    path = tmp_path / "epoch_6.pt"
    torch.save({"epoch": 6, "name": "made up", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    opened = local_encoder(str(path), config)
    image_BCHW = torch.randn(2, 3, 32, 32)
    pair = (opened(image_BCHW).image_embeds, theirs(image_BCHW))
    parity("relationbooth", "the local encoder by its names", "VisionTransformer of open_clip", [pair], tolerance=1e-5)
    for change, message in (
        ({"module.visual.proj": None}, r"tensor visual_projection\.weight is missing"),
        ({"module.visual.proj": torch.zeros(16, 4)}, r"visual_projection\.weight is \[4, 16\] \(expected \[8, 16\]"),
        ({"module.visual.other": torch.zeros(1)}, r"tensor visual\.other is unknown"),
    ):
        torch.save({name: tensor for name, tensor in (state | change).items() if tensor is not None}, path)
        with pytest.raises(DataError, match=message):
            local_encoder(str(path), config)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="contains no image encoder"):
        local_encoder(str(path), config)


def released_attention() -> tuple[Attention, RegionAttention]:
    attn = Attention(query_dim=16, cross_attention_dim=10, heads=2, dim_head=8, bias=False).double()
    region = RegionAttention(16, 10, tokens=3, dummies=2, text_tokens=5, scale=0.6).double()
    with torch.no_grad():
        for prefix, module in (("attn", attn), ("region", region)):
            for name, tensor in module.named_parameters():
                tensor.copy_(filled(f"{prefix}.{name}", tuple(tensor.shape)))
    return attn, region


def test_masked_image_attention_is_the_released_one(parity: Any) -> None:
    expected, (attn, region) = RELEASED["attention"], released_attention()
    assert [name for name, _ in region.named_parameters()] == expected["names"]
    hidden = filled("hidden", (2, 64, 16)).requires_grad_()
    maps: list[Tensor] = []
    span = torch.tensor([[1, 3], [2, 3]])
    out = region(attn, hidden, filled("condition", (2, 13, 10)), boxes=BOXES.view(2, 2, 4), predicate=span, maps=maps)
    (out.square().sum() + maps[0].sum()).backward()
    assert hidden.grad is not None
    pairs = [(out, expected["out"]), (maps[0], expected["map"]), (hidden.grad[0, :4], expected["grad"])]
    checked = [(ours, doubled(theirs)) for ours, theirs in pairs]
    parity("relationbooth", "masked image attention, maps and gradient", AUTHORS, checked, tolerance=1e-9)


def test_places_attend_to_the_pictures_whose_box_they_lie_in() -> None:
    """Against a naive loop; and on latents that are no square, which the released code cuts wrongly."""
    bias_BQM, outside_BQ = region_bias(BOXES.view(2, 2, 4), 8, 8, 3, 2)
    for row in range(2):
        for place in range(64):
            y, x = divmod(place, 8)
            inside = []
            for x0, y0, x1, y1 in BOXES.view(2, 2, 4)[row].tolist():
                inside.append(int(x0 * 8) <= x < -int(-x1 * 8 // 1) and int(y0 * 8) <= y < -int(-y1 * 8 // 1))
            opened = [not any(inside)] * 2 + [here for here in inside for _ in range(3)]
            assert (bias_BQM[row, place] == 0).tolist() == opened
            assert bool(outside_BQ[row, place]) == (not any(inside))
    cells = box_cells(torch.tensor([[[0.0, 0.2, 0.55, 0.85]]]), 8, 8)[0, 0]
    assert cells[1:7, 0:5].all()
    assert cells.sum() == 30
    attn, region = released_attention()
    hidden, condition = filled("hidden", (1, 32, 16)), filled("condition", (1, 13, 10))[:1]
    wide = region(attn, hidden, condition, boxes=BOXES[None, :2], latent_size=(8, 16))
    assert wide.shape == (1, 32, 16)
    plain = region(attn, hidden, condition)
    changed = (wide - plain).abs().amax(-1).view(4, 8) > 1e-12
    assert torch.equal(changed, box_cells(BOXES[None, :2], 4, 8)[0].any(0)), "outside the boxes there is text alone"
    expected = attn.processor(attn, hidden, condition[:, :5])
    torch.testing.assert_close(plain, expected)


def test_key_points_and_attention_losses_are_the_released_ones_if_asked(parity: Any) -> None:
    clean, concept = filled("clean", (1, 4, 8, 8)), filled("concept", (1, 2, 4, 8, 8))
    target, point = (filled(name, (1, 2, 17, 2)).abs() % 0.99 for name in ("target", "points"))
    released = key_point_matching(clean, concept, target, point, scale="channels")
    maps = [filled(f"map{name}", (1, side, side)).abs() for name, side in (("a", 16), ("b", 8), ("c", 16), ("d", 4))]
    mask = (filled("mask", (1, 32, 32)) > 0.1).float()
    pairs = [
        (released, doubled([RELEASED["keypoints"]])),
        (attention_outside(maps, mask, overwritten=True), doubled(RELEASED["attention_loss"])),
    ]
    parity("relationbooth", "key-point and attention losses, released forms", AUTHORS, pairs, tolerance=1e-6)
    assert abs(float(key_point_matching(clean, concept, target, point)) - RELEASED["keypoints"]) > 1e-3
    assert abs(float(attention_outside(maps, mask)) - RELEASED["attention_loss"][0]) > 1e-5


def test_gather_is_grid_sample_and_rows_have_gates_of_their_own() -> None:
    latent, point = filled("latent", (3, 4, 6, 8)), torch.rand(3, 17, 2, dtype=torch.float64)
    centre = torch.stack([(point[..., 0] * 8).floor() * 2 + 1, (point[..., 1] * 6).floor() * 2 + 1], -1)
    grid = centre / torch.tensor([8.0, 6.0]) - 1
    expected = F.grid_sample(latent, grid[:, None], mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(latents_at(latent, point), expected)
    edge = latents_at(latent, torch.tensor([[[1.0, 1.0], [-0.2, 0.0]]]).expand(3, -1, -1).double())
    torch.testing.assert_close(edge, torch.stack([latent[:, :, 5, 7], latent[:, :, 0, 0]], 1))
    same = key_point_matching(latent, latent[:, None], point[:, None], point[:, None])
    assert same.abs().max() == 0
    one = torch.zeros(3, 1, 17)
    one[:, :, 0] = 1
    other = point.clone()
    other[:, 1:] = 1 - other[:, 1:]
    assert key_point_matching(latent, latent[:, None], point[:, None], other[:, None], visible_BRK=one).abs().max() == 0
    loss = torch.tensor([1.0, 2.0, 4.0])
    assert gated_mean(loss, torch.tensor([333, 334, 10]), 333) == pytest.approx(5 / 3)


@pytest.fixture(scope="module")
def released_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small SDXL, its image encoder, and ms_adapter.bin, in the released layouts."""
    root = tmp_path_factory.mktemp("relationbooth")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=8, **sizes)
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(root / "vision")
    folder = xl_folder(root / "sdxl")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    resampler = GroundedResampler(width=16, depth=2, heads=1, queries=4, mult=2, image_width=12, phrase_width=16, out_width=40)
    widths = {}
    for at, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            widths |= {f"{at}.to_k_ip.weight": torch.randn(width, 40), f"{at}.to_v_ip.weight": torch.randn(width, 40)}
    tensors = {"image_proj": resampler.state_dict(), "ms_adapter": widths, "dummy_image_tokens": torch.randn(1, 4, 40)}
    torch.save(tensors, root / "ms_adapter.bin")
    return {"weights": f"hf:{folder}", "adapter": str(root / "ms_adapter.bin"), "image_encoder": f"hf:{root / 'vision'}"}


def test_released_files_are_read_and_an_adapter_loads_in_diffusers(
    released_folders: dict[str, str], tmp_path: Path, parity: Any
) -> None:
    config = Path(released_folders["weights"].removeprefix("hf:"), "text_encoder", "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": 2}))  # as SDXL's has it
    base = reference_base(released_folders["weights"], released_folders["adapter"], released_folders["image_encoder"])
    phrase_BL = torch.from_numpy(base.words[0].encode(["red cat", "wall"], 20).ids_BL)
    end = base.words[0].eot_id
    places = [row.tolist().index(end) for row in phrase_BL]
    state = base.model.net.texts[0](input_ids=phrase_BL).last_hidden_state  # type: ignore[operator]
    assert torch.equal(base.model.net.pooled_text(phrase_BL), torch.stack([state[0, places[0]], state[1, places[1]]]))
    tensors = torch.load(released_folders["adapter"], weights_only=True)
    first = next(name for name in tensors["ms_adapter"] if name.endswith("to_k_ip.weight"))
    assert torch.equal(base.model.region_attentions()[0].to_k_ip.weight, tensors["ms_adapter"][first])
    assert torch.equal(base.model.resampler.proj_in.weight, tensors["image_proj"]["proj_in.weight"])
    recipe = RelationBooth(**released_folders, rank=3)
    model = recipe.model()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn_like(tensor) * 0.3)
    file = save_adapter(model.net.unet, tmp_path)
    assert file.name == FILE
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(released_folders["weights"].removeprefix("hf:"))
    noise, step = torch.randn(2, 4, 8, 8), torch.tensor([7, 400])
    text = base.model.net.encode_text(torch.randint(0, 60, (2, 2, 20)))
    ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, -1)
    given = {"encoder_hidden_states": text.state_BLD, "added_cond_kwargs": {"text_embeds": text.pooled_BP, "time_ids": ids}}
    before = pipe.unet(noise, step, **given).sample
    pipe.load_lora_weights(tmp_path)
    ours, theirs = model.net.predict(noise, step, text), pipe.unet(noise, step, **given).sample
    assert (theirs - before).abs().max() > 1e-3
    parity(
        "relationbooth", "predictions with the exported adapter", "diffusers' load_lora_weights", [(ours, theirs)], tolerance=1e-5
    )


def test_local_tokens_change_pictures_and_are_saved(released_folders: dict[str, str], tmp_path: Path) -> None:
    recipe = RelationBooth(**released_folders, local_encoder=released_folders["image_encoder"], rank=1)
    torch.manual_seed(0)
    with_local = recipe.model()
    plain = replace(recipe, local_encoder="").model()
    given_tensors = with_local.state_dict()  # once: each call visits every module
    for name, tensor in plain.state_dict().items():
        tensor.copy_(given_tensors[name])
    thing = ReferenceImage(ArrayImage(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)), "red cat", (0, 0, 1, 1))
    given: dict[str, Any] = {"references": [[thing, thing]], "steps": 2, "negative": "wall"}
    first, second = (recipe.deploy(model).generate_images(["red cat on wall"], **given) for model in (with_local, plain))
    assert (first != second).any()
    recipe.deploy(with_local).save(tmp_path / "model")
    again = ReferenceImageModel.load(tmp_path / "model").model
    assert again.references == with_local.references
    read = again.state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in with_local.state_dict().items())


def test_released_files_that_do_not_fit_are_named(released_folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not read reference pictures"):
        RelationBooth(weights=released_folders["weights"]).model()
    tensors = torch.load(released_folders["adapter"], weights_only=True)
    tensors["ms_adapter"].popitem()
    torch.save(tensors, tmp_path / "short.bin")
    with pytest.raises(DataError, match="does not fit the UNet"):
        RelationBooth(**{**released_folders, "adapter": str(tmp_path / "short.bin")}).model()


def test_a_step_trains_the_adapter_alone() -> None:
    data = figures(8, seed=4)
    recipe = replace(SMALL, batch_size=4).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    batch = step.batch
    assert batch.picture_BRCHW.shape == (4, 2, 3, 32, 32)
    assert batch.target_BRK2.shape == batch.point_BRK2.shape == (4, 2, 17, 2)
    torch.manual_seed(0)
    model = recipe.model()
    freeze(model, recipe.optimiser())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("attn2" in name and "lora_" in name for name in trained)
    assert sorted(name for name in model.state_dict() if recipe.stored(name)) == sorted(trained)
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    assert set(losses) == {"denoising", "key_points", "attention"}
    assert set(replace(recipe, key_points=0.0, attention=0.0).losses(features, batch)) == {"denoising"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    words = recipe.words()[0]
    for ids, (start, stop), row in zip(batch.text_BEL[:, 0], batch.predicate_B2.tolist(), range(4), strict=True):
        spelled = words.decode(ids[start:stop].tolist())
        assert spelled in {"shaking hands with", "hugging", "waving to", "dancing with"}, (row, spelled)


def test_published_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        model = RelationBooth.paper().model()
    assert isinstance(model, ReferenceDiffusion)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(
        4 * (width + inner)
        for width in (640, 1280)
        for inner in (width, 2048, 2048, width)
        for _ in range(10 if width == 640 else 60)
    )
    assert len(model.region_attentions()) == 70
    assert sum(p.numel() for p in model.images.parameters()) == 1_844_907_264


class ScriptedRng:
    """Gives the random numbers that the released code drew."""

    def __init__(self, random: float, integers: list[int]) -> None:
        self.drawn, self.left = random, list(integers)

    def random(self) -> float:
        return self.drawn

    def integers(self, stop: int) -> int:
        assert self.left[0] < stop
        return self.left.pop(0)


def test_placement_on_black_is_the_released_one(parity: Any) -> None:
    """Wide and tall pictures, cropped and whole; the release draws the top of a crop too, which is always 0."""
    pairs: list[Any] = []
    for case in RELEASED["placement"]:
        height, width = case["shape"]
        y, x = np.mgrid[:height, :width]
        image_HWC = np.stack([(x * 5) % 256, (y * 7) % 256, (x * y) % 256], -1).astype(np.uint8)
        circle = (x - width * 0.7) ** 2 + (y - height * 0.6) ** 2 < (0.2 * min(height, width)) ** 2
        masks = [(x < width * 0.45) & (y > height * 0.2), circle]
        numbers = case["integers"]
        rng: Any = ScriptedRng(case["random"], numbers[:1] + numbers[2:] if case["case"] == "wide cropped" else numbers)
        placed_HWC, mask_KSS = placed_on_black(image_HWC, masks, 64, 8, rng)
        total = placed_HWC.astype(np.int64)
        ours = (total.sum((0, 1)), total.sum((0, 2)), total.sum((1, 2)), mask_KSS.int(), mask_boxes(mask_KSS))
        theirs = (case[name] for name in ("sum", "columns", "rows", "masks", "boxes"))
        pairs += [(torch.as_tensor(own).double(), doubled(their)) for own, their in zip(ours, theirs, strict=True)]
    parity("relationbooth", "pictures, masks and boxes placed on black", AUTHORS, pairs, tolerance=0.0)
    assert mask_boxes(torch.zeros(1, 4, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]


def test_a_batch_of_placed_pictures_has_the_boxes_of_its_masks() -> None:
    recipe = replace(SMALL, placement="black").prepare(figures(2))
    sample = figures(1)[0]
    squashed, placed = (
        one.batch(Draws((drawn(sample),), np.random.default_rng(0))) for one in (replace(recipe, placement="squash"), recipe)
    )
    assert placed.image_BCHW.shape == squashed.image_BCHW.shape
    assert 0 < placed.mask_BHW.sum() < placed.mask_BHW.numel()
    assert (squashed.box_BR4 - placed.box_BR4).abs().max() > 0.01
    assert torch.equal(squashed.target_BRK2, placed.target_BRK2)
    cells = box_cells(placed.box_BR4, *placed.mask_BHW.shape[1:])[0].any(0)
    assert cells[placed.mask_BHW[0] > 0].float().mean() > 0.6
    with pytest.raises(DataError, match="has 0 masks"):
        recipe.batch(Draws((drawn(replace(sample, regions=())),), np.random.default_rng(0)))
    with pytest.raises(ConfigError, match="placement is 'white'"):
        RelationBooth(placement="white")


def test_sdxl_reads_the_size_before_resizing() -> None:
    sample = figures(1)[0]
    pixels_HWC = sample.image.pixels_HWC[:20, :28]  # type: ignore[union-attr]
    recipe = SMALL.prepare(figures(2))
    draw = replace(drawn(sample), image_HWC=pixels_HWC)
    batch = recipe.batch(Draws((draw,), draw.rng))
    given: Any = recipe.features(lambda *arguments: arguments[-1], batch)  # type: ignore[arg-type]
    assert given.tolist() == [[20, 28, 0, 0, 32, 32]]


def test_a_predicate_is_matched_in_whole_words() -> None:
    """Spans that the released search gave for the same prompts."""
    recipe = RelationBooth()
    for predicate, prompt, span in (
        ("on", "A lion lies on a tyrannosaurus.", (4, 5)),
        ("hug", "A lion and a polar bear hug.", (7, 8)),
        ("shaking hands with", "A cat is shaking hands with a dog.", (4, 7)),
    ):
        sample = figures(1)[0]
        draw = drawn(replace(sample, extras={**sample.extras, "predicate": predicate}))
        assert recipe.predicate_span(draw, prompt) == span
    with pytest.raises(DataError, match="does not occur"):
        recipe.predicate_span(draw, "A lion lies on a tyrannosaurus.")


def drawn(sample: Any) -> Draw:
    rng = np.random.default_rng(0)
    return Draw(sample, rng, sample.image.pixels_HWC, SMALL.load(sample, rng))


def changed(**extras: Any) -> Draws:
    sample = figures(1)[0]
    draw = drawn(replace(sample, extras={**sample.extras, **extras}))
    return Draws((draw,), draw.rng)


def test_bad_rows_are_named() -> None:
    recipe = SMALL.prepare(figures(2))
    facts = figures(1)[0].extras["figures"]
    with pytest.raises(DataError, match=r"the box of '\w+ figure' in 'figures-0-train-0000000' is \[0.2, 0.1, 1.3, 0.9\]"):
        recipe.batch(changed(figures=[{**facts[0], "box": [0.2, 0.1, 1.3, 0.9]}, facts[1]]))
    with pytest.raises(DataError, match="predicate 'fencing with' does not occur in the prompt"):
        recipe.batch(changed(predicate="fencing with"))
    with pytest.raises(DataError, match="has no facts of each reference"):
        recipe.batch(changed(figures=facts[:1]))
    with pytest.raises(DataError, match="has no reference pictures"):
        SMALL.load(replace(figures(1)[0], media={}), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="point_scale 'pixels'"):
        RelationBooth(point_scale="pixels")
