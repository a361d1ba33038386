"""X-CLIP: the released code's and transformers' logits, order that only positions know, clips that are refused, views of a test."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from invariants import gradients, stopped_and_resumed
from torch import Tensor
from torch.nn import functional as F

from diptych.api import load
from diptych.cli.commands.classify import main as classify
from diptych.core.contracts import ClipEmbedder, ClipScorer
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.media import ArraySource, MediaItem
from diptych.data.load.stream import batches
from diptych.data.media.clip_views import read_frames, view_places
from diptych.data.media.decode import encode_png
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.video.released import from_released
from diptych.models.video.video_embedder import VideoEmbedder
from diptych.models.video.video_encoder import VideoEncoder, VideoSettings
from diptych.recipes.adaptation.xclip import XCLIP, towers_of
from diptych.train.fit import fit
from diptych.train.optimise import learning_rate, rate_above_floor
from diptych.train.options import TrainOptions
from diptych.worlds.clips import CLASSES, clips

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "xclip_released.json").read_text())
NAMES = ("playing chess", "cat", "tyrannosaurus rex")
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    return torch.from_numpy(np.asarray(np.abs(value) + 1 if name.endswith("weight") and len(shape) == 1 else value))


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


REFINER = {
    "read.q": "cross_attn.q_proj", "read.k": "cross_attn.k_proj", "read.v": "cross_attn.v_proj", "read.out": "cross_attn.proj",
    "norm_read": "norm1", "norm_mlp": "norm3", "mlp_in": "mlp.0", "mlp_out": "mlp.3",
}  # fmt: skip
BLOCK = {
    "norm_1": "ln_1", "norm_2": "ln_2", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj", "attention.out": "attn.out_proj",
}  # fmt: skip


def released_name(name: str) -> str:
    """Of a tensor of ours that is not CLIP's own."""
    if found := re.fullmatch(r"tower\.messages\.(\d+)\.(\w+)\.(.+)", name):
        number, part, rest = found.groups()
        inside = {"write": "message_fc", "norm": "message_ln", "attention": "message_attn"}[part]
        if part == "attention":
            layer, _, kind = rest.partition(".")
            rest = f"in_proj_{kind}" if layer == "qkv" else f"out_proj.{kind}"
        return f"visual.transformer.resblocks.{number}.{inside}.{rest}"
    if found := re.fullmatch(r"mixer\.transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        number, part, kind = found.groups()
        if part == "attention.qkv":
            return f"mit.resblocks.{number}.attn.in_proj_{kind}"
        return f"mit.resblocks.{number}.{BLOCK[part]}.{kind}"
    if found := re.fullmatch(r"refiner\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        return f"prompts_generator.decoder.{found[1]}.{REFINER[found[2]]}.{found[3]}"
    plain = {"refiner.gate_D": "prompts_generator.alpha", "mixer.position_TJ": "mit.positional_embedding"}
    if name in plain:
        return plain[name]
    name = name.replace("refiner.places.", "prompts_generator.norm.").replace("patch_norm.", "prompts_visual_ln.")
    return name.replace("patch_projection_DJ", "prompts_visual_proj")


def released() -> VideoEncoder:
    """The sizes of the fixture, in float64, with the numbers of the released code."""
    words = Tokenizer.from_spec("clip")
    image = image_tower("vit", image_size=32, patch=16, width=64, layers=2, heads=1, act="quick_gelu")
    text = text_tower(
        "transformer", vocab_size=49408, length=16, width=64, layers=2, heads=1, act="quick_gelu", eot_id=words.eot_id
    )
    encoder = DualEncoder(image, text, width=64)
    import open_clip

    options = {"vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}, "quick_gelu": True}
    theirs = open_clip.model.CLIP(64, text_cfg={"context_length": 16, "width": 64, "heads": 1, "layers": 2}, **options)
    shapes = {name: tuple(t.shape) for name, t in theirs.state_dict().items() if not name.endswith("attn_mask")}
    tensors = from_open_clip({name: filled(name, shape) for name, shape in shapes.items() if name != "logit_scale"})
    model = VideoEncoder(encoder, VideoSettings(frames=4, mixer=2)).double()
    own = {}
    for name, tensor in model.state_dict().items():
        clip_name = name.replace("tower.tower.", "image_tower.").replace("tower.projection.", "image_projection.")
        if name == "log_scale":
            own[name] = torch.tensor([math.log(20.0)], dtype=torch.float64)
        elif clip_name in tensors:
            own[name] = tensors[clip_name]
        else:
            their = released_name(name)
            shape = (1, *tensor.shape) if their == "mit.positional_embedding" else tuple(tensor.shape)
            own[name] = filled(their, shape).reshape(tensor.shape)
    model.load_state_dict(own)
    given = {name: filled(name, shape) for name, shape in shapes.items() if name != "logit_scale"}
    for name, tensor in own.items():
        if name.startswith(("tower.messages", "mixer", "refiner", "patch_")):
            their = released_name(name)
            given[their] = tensor[None] if their == "mit.positional_embedding" else tensor
    placed = from_released(given)  # where a file of the release is opened
    assert placed.keys() == own.keys() - {"log_scale"}
    assert all(torch.equal(tensor, own[name]) for name, tensor in placed.items())
    model.set_classes(class_prompts(NAMES, words, 16, context=0, tail="", fitted=True))
    return model.eval()


def test_logits_and_gradients_are_those_of_the_released_code(parity: Any) -> None:
    model, video = released(), filled("video", (2, 4, 3, 32, 32)) * 10
    logit_NK = model(video).logit_NK
    found = dict(model.named_parameters())
    names = [
        "tower.messages.0.write.weight",
        "mixer.position_TJ",
        "patch_projection_DJ",
        "refiner.gate_D",
        "tower.projection.weight",
    ]
    grads = torch.autograd.grad(F.cross_entropy(logit_NK, torch.tensor([1, 2])), [found[name] for name in names])
    pairs = [(logit_NK, doubled(RELEASED["logits"])), (model(video.flip(1)).logit_NK, doubled(RELEASED["reversed"]))]
    for name, grad in zip(names, grads, strict=True):
        their = "visual.proj" if name == "tower.projection.weight" else released_name(name)
        flat = (grad.T if their == "visual.proj" else grad).flatten()[:12]
        pairs.append((flat, doubled(RELEASED["grads"][their])))
    parity("xclip", "logits both ways in time, and gradients", "released code, VideoX/X-CLIP", pairs, tolerance=1e-9)


def theirs() -> Any:
    """A small random X-CLIP of transformers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    mit = {"mit_hidden_size": 64, "mit_intermediate_size": 256, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 1}
    settings = transformers.XCLIPConfig(
        text_config={**sizes, "vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 1},
        vision_config={**sizes, **mit, "image_size": 32, "patch_size": 16, "num_frames": 8, "drop_path_rate": 0.0},
        projection_dim=64,
        prompt_layers=2,
        prompt_num_attention_heads=1,
    )
    return transformers.XCLIPModel(settings).eval()


def copied(model: Any) -> VideoEncoder:
    """Ours with the weights of transformers' model."""
    image = image_tower("vit", image_size=32, patch=16, width=32, layers=2, heads=2, mlp_ratio=2.0, act="quick_gelu")
    text = text_tower(
        "transformer", vocab_size=60, length=12, width=32, layers=2, heads=2, mlp_ratio=2.0, act="quick_gelu", eot_id=59
    )
    ours = VideoEncoder(DualEncoder(image, text, width=64), VideoSettings(frames=8))
    state = model.state_dict()
    own = {}

    def attention(place: str, their: str) -> None:
        for kind in ("weight", "bias"):
            own[f"{place}.qkv.{kind}"] = torch.cat([state[f"{their}.{side}_proj.{kind}"] for side in "qkv"])
            own[f"{place}.out.{kind}"] = state[f"{their}.out_proj.{kind}"]

    def block(place: str, their: str) -> None:
        attention(f"{place}.attention", f"{their}.self_attn")
        for a, b in (("norm_1", "layer_norm1"), ("norm_2", "layer_norm2"), ("mlp_in", "mlp.fc1"), ("mlp_out", "mlp.fc2")):
            own.update({f"{place}.{a}.{kind}": state[f"{their}.{b}.{kind}"] for kind in ("weight", "bias")})

    for number in range(2):
        layer = f"vision_model.encoder.layers.{number}"
        block(f"tower.tower.transformer.blocks.{number}", layer)
        block(f"text_tower.transformer.blocks.{number}", f"text_model.encoder.layers.{number}")
        attention(f"tower.messages.{number}.attention", f"{layer}.message_attn")
        for a, b in (("write", "message_fc"), ("norm", "message_ln")):
            own.update({f"tower.messages.{number}.{a}.{k}": state[f"{layer}.{b}.{k}"] for k in ("weight", "bias")})
        for a, b in REFINER.items():
            for kind in ("weight", "bias"):
                if f"prompts_generator.decoder.{number}.{b}.{kind}" in state:
                    own[f"refiner.layers.{number}.{a}.{kind}"] = state[f"prompts_generator.decoder.{number}.{b}.{kind}"]
    block("mixer.transformer.blocks.0", "mit.encoder.layers.0")
    own |= {
        "mixer.position_TJ": state["mit.position_embedding"][0],
        "tower.tower.class_token_D": state["vision_model.embeddings.class_embedding"],
        "tower.tower.patches.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "tower.tower.position_PD": state["vision_model.embeddings.position_embedding.weight"],
        "text_tower.embed.weight": state["text_model.embeddings.token_embedding.weight"],
        "text_tower.position_LD": state["text_model.embeddings.position_embedding.weight"],
        "tower.projection.weight": state["visual_projection.weight"],
        "text_projection.weight": state["text_projection.weight"],
        "log_scale": state["logit_scale"].reshape(1),
        "patch_projection_DJ": state["prompts_visual_projection"],
        "refiner.gate_D": state["prompts_generator.alpha"],
    }
    for a, b in (
        ("tower.tower.norm_before", "vision_model.pre_layernorm"),
        ("tower.tower.norm_after", "vision_model.post_layernorm"),
        ("text_tower.norm_after", "text_model.final_layer_norm"),
        ("patch_norm", "prompts_visual_layernorm"),
        ("refiner.places", "prompts_generator.layernorm"),
    ):
        own.update({f"{a}.{kind}": state[f"{b}.{kind}"] for kind in ("weight", "bias")})
    ours.load_state_dict(own)
    return ours.eval()


def test_logits_are_those_of_transformers(parity: Any) -> None:
    model = theirs()
    ours = copied(model)
    text_KL = torch.tensor([[1, 7, 8, 59, 59, 59], [1, 9, 59, 59, 59, 59], [1, 10, 11, 12, 13, 59]])
    mask_KL = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [1] * 6])
    video = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=text_KL, pixel_values=video, attention_mask=mask_KL)
        ours.ids_KL, ours.mask_KL = text_KL, mask_KL.bool()
        clip_BJ, patch_BPJ = ours.encode_clips(video)
        logit_NK = ours.logits(clip_BJ, patch_BPJ, ours.texts())
        pairs = [(logit_NK, expected.logits_per_video), (clip_BJ, expected.video_embeds)]
        parity("xclip", "logits and vectors of clips", "transformers' XCLIPModel", pairs, tolerance=1e-4)
        turned = ours(video.flip(1)).logit_NK
        assert (turned - logit_NK).abs().max() > 1e-2, "positions know the order"
        ours.mixer.position_TJ.zero_()
        no_order = [ours(video).logit_NK, ours(video.flip(1)).logit_NK]
        parity("xclip", "without positions", "the same clip read backwards", [(no_order[0], no_order[1])], tolerance=1e-4)


def small(**changes: Any) -> XCLIP:
    return replace(XCLIP.tiny(), **{"batch_size": 4, "steps": 4, **changes})


def made(recipe: XCLIP, count: int = 12) -> tuple[Any, Any]:
    data = clips(count)
    recipe = recipe.prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    return model, step.batch


def test_frames_without_positions_have_no_order() -> None:
    """Messages and the mean over frames: any order of frames gives the same logits; alone, a frame hears nothing of the others."""
    model, batch = made(small(mixer=0))
    model.eval()
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    with torch.no_grad():
        logit = model(batch.image_BTCHW).logit_NK
        torch.testing.assert_close(model(batch.image_BTCHW[:, order]).logit_NK, logit, atol=1e-5, rtol=1e-5)
        heard = model.tower(batch.image_BTCHW).frame_BTJ
        changed = batch.image_BTCHW.clone()
        changed[:, 5] = 0
        assert (model.tower(changed).frame_BTJ[:, 0] - heard[:, 0]).abs().max() > 1e-4, "messages carry"
        alone, _ = made(small(mixer=0, messages=False))
        frames = alone.eval().tower(batch.image_BTCHW).frame_BTJ
        torch.testing.assert_close(alone.tower(changed).frame_BTJ[:, 0], frames[:, 0], atol=1e-6, rtol=0)
        by_clip = alone.tower.projection(alone.tower.tower(batch.image_BTCHW[:, 2]).pooled_BD)
        torch.testing.assert_close(frames[:, 2], by_clip, atol=1e-5, rtol=1e-5)


def test_the_text_side_is_frozen_and_its_vectors_are_kept() -> None:
    model, batch = made(small())
    features = small(named=("a", "b")).features(model, batch)
    features.logit_NK.sum().backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert not any(p.requires_grad for p in (*model.text_tower.parameters(), model.log_scale))
    first = model.texts()
    assert model.texts() is first
    with torch.no_grad():
        model.text_projection.weight.mul_(2)
    assert model.texts() is not first, "other weights, other vectors"
    torch.testing.assert_close(model.texts(), 2 * first)


def test_chunks_have_the_gradients_of_the_whole_batch() -> None:
    recipe = small().prepare(clips(12))
    model, batch = made(small())
    model, image = model.double(), batch.image_BTCHW.double()
    batch = replace(batch, image_BTCHW=image, target_BK=batch.target_BK.double())
    whole = gradients(recipe, model, batch, micro_batch=0)
    for name, grad in gradients(recipe, model, batch, micro_batch=3).items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-9, atol=1e-12)


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = replace(XCLIP.paper(), named=NAMES).model()
        settings = transformers.XCLIPConfig(vision_config={"patch_size": 16, "num_frames": 8}, text_config={}, projection_dim=512)
        reference = transformers.XCLIPModel(settings)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters())
    rules = XCLIP.paper().optimiser().rules
    from diptych.train.optimise import rule_of

    by_name = {name: rule_of(name, rules) for name, _ in model.named_parameters()}
    assert by_name["tower.messages.0.write.weight"].lr_scale == by_name["refiner.gate_D"].lr_scale == 10
    assert by_name["mixer.position_TJ"].decay is False
    assert by_name["tower.tower.position_PD"].decay is False
    assert by_name["tower.tower.patches.weight"] is None


def test_rates_of_all_steps_are_the_released_ones(parity: Any) -> None:
    """timm's cosine with a floor of 8e-8 for both groups, which counts an update's four batches and moves after it, as main.py does."""
    from timm.scheduler.cosine_lr import CosineLRScheduler

    steps = 30 * 40
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    theirs = torch.optim.AdamW([{"params": weights[:1], "lr": 8e-6}, {"params": weights[1:], "lr": 8e-5}])
    options = {"lr_min": 8e-6 / 100, "warmup_lr_init": 0, "warmup_t": 5 * 160, "cycle_limit": 1, "t_in_epochs": False}
    moved = CosineLRScheduler(theirs, t_initial=4 * steps, **options)
    expected = []
    for step in range(steps):
        expected.append([group["lr"] for group in theirs.param_groups])
        theirs.step()
        moved.step_update(4 * step + 3)
    spec = XCLIP.paper().optimiser()
    found = [[rate_above_floor(spec, step, steps, scale) for scale in (1.0, 10.0)] for step in range(steps)]
    assert found[0] == [0.0, 0.0]
    np.testing.assert_allclose(found[1], [8e-6 * 3 / 800, 8e-5 * 3 / 800])
    pairs = [(np.array(found) / 8e-6, np.array(expected) / 8e-6)]
    parity("xclip", "rates of both groups over the run", "timm's CosineLRScheduler", pairs, tolerance=1e-9)


# ---------------------------------------------------------------- kept and used


def test_what_is_deployed_scores_as_training_did_and_views_average_softmax(tmp_path: Path) -> None:
    data = clips(8)
    recipe = small().prepare(data)
    torch.manual_seed(0)
    model = recipe.model().eval()
    deployed = recipe.deploy(model)
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, ClipScorer)
    assert isinstance(again, ClipEmbedder)
    media = [data[row].media["clip"] for row in range(3)]
    frames = np.stack([read_frames(m, 8, uid="a") for m in media])
    image = recipe.preprocess.normalise(frames.reshape(-1, 48, 48, 3)).unflatten(0, (3, 8))
    with torch.no_grad():
        expected = model(image).logit_NK.numpy()
    np.testing.assert_allclose(again.score_clips(media, recipe.named), expected, atol=1e-4)
    several = again.score_clips(media, recipe.named, views=2)
    by_hand = []
    for view in range(2):
        picked = [m.decode()[view_places(16, 8, 2)[view]] for m in media]
        shown = recipe.preprocess.normalise(np.stack(picked).reshape(-1, 48, 48, 3)).unflatten(0, (3, 8))
        model.set_classes(class_prompts(recipe.named, recipe.words(), 24, context=0, tail="", fitted=True))
        with torch.no_grad():
            by_hand.append(model(shown).logit_NK.softmax(-1).numpy())
    np.testing.assert_allclose(several, np.mean(by_hand, 0), atol=1e-5)
    np.testing.assert_allclose(several.sum(1), 1, atol=1e-5)


def test_the_command_names_folders_of_frames_and_animations(tmp_path: Path, capsys: Any) -> None:
    data = clips(2)
    recipe = small().prepare(clips(12))
    torch.manual_seed(0)
    model = recipe.deploy(recipe.model().eval())
    model.save(tmp_path / "model")
    frames = data[0].media["clip"].decode()
    (tmp_path / "frames").mkdir()
    for number, frame_HWC in enumerate(frames):
        (tmp_path / "frames" / f"{number}.png").write_bytes(encode_png(frame_HWC))
    assert classify([str(tmp_path / "model"), str(tmp_path / "frames"), "--json", "-k", "8"]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"][0]["classes"]
    score_K = model.score_clips([data[0].media["clip"]], recipe.named)[0]
    assert [c["name"] for c in answer] == [recipe.named[k] for k in np.argsort(-score_K)]
    assert sum(c["score"] for c in answer) == pytest.approx(1, abs=1e-5)
    few = MediaItem("clip", (ArraySource(frames[:4], "short"),))
    with pytest.raises(DataError, match="the clip of 'short' has 4 frames"):
        model.score_clips([few], recipe.named)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no pictures"):
        classify([str(tmp_path / "model"), str(tmp_path / "empty")])


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole = fit(small(mixup=0.8), clips(12), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(small(mixup=0.8), clips(12), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_it_starts_from_a_trained_model(tmp_path: Path) -> None:
    base = small().prepare(clips(8)).base()
    base.name = "base"
    base.save(tmp_path / "base")
    recipe = small(weights=str(tmp_path / "base"), messages=False, mixer=0, prompts=0).prepare(clips(8))
    model = recipe.model().eval()
    image = torch.randn(2, 8, 3, 48, 48)
    with torch.no_grad():
        clip_BJ, _ = model.encode_clips(image)
        frame = base.model.eval().image_projection(base.model.image_tower(image.flatten(0, 1)).pooled_BD).unflatten(0, (2, 8))
        torch.testing.assert_close(clip_BJ, F.normalize(frame.mean(1), dim=-1), atol=1e-5, rtol=1e-5)
    assert towers_of(base.model)["image"]["name"] == "vit_micro"


def test_refused() -> None:
    with pytest.raises(ConfigError, match="DenseViT does not read clips"):
        VideoEncoder(DualEncoder(image_tower("dense_micro"), text_tower("text_micro", vocab_size=9), width=8), VideoSettings())
    model, batch = made(small())
    with pytest.raises(ShapeError, match=r"clips must be \['B', 'T', 3, 48, 48\]"):
        model(batch.image_BTCHW[..., :40])
    with pytest.raises(ShapeError, match="clips have 7 frames"):
        model(batch.image_BTCHW[:, :7])
    long = "a very long name that has more words than a small text tower reads at once, by far"
    with pytest.raises(DataError, match=r"the prompt of class 'a very.+' has \d+ tokens"):
        small(classes=(long, *CLASSES)).prepare(clips(4))
    with pytest.raises(DataError, match="a sample has the label"):
        small(classes=("zebra", "giraffe")).prepare(clips(4))
    assert VideoEmbedder.kind == "video_encoder"


def test_new_attention_starts_as_pytorchs_and_depth_is_dropped_by_place() -> None:
    """models/cct.py and mit.py: `nn.MultiheadAttention` draws queries, keys and values from one uniform; tokens come first, so that
    stochastic depth leaves out a token of all frames."""
    from diptych.models.video.frames import _dropped

    torch.manual_seed(0)
    model = made(small(begins="released", mixer=1))[0]
    theirs = torch.nn.MultiheadAttention(64, 1)
    for ours in (model.tower.messages[0].attention, model.mixer.transformer.blocks[0].attention):
        width = ours.out.in_features
        reference = torch.nn.MultiheadAttention(width, 1)
        limit = (6 / (4 * width)) ** 0.5
        for weight in (ours.qkv.weight, reference.in_proj_weight):
            assert 0.98 * limit < weight.abs().max() <= limit
        assert not ours.qkv.bias.any()
        assert not ours.out.bias.any()
    assert not theirs.out_proj.bias.any()
    branch = torch.ones(6, 50, 3)
    for drop, axis in (("places", 0), ("frames", 1)):
        left = _dropped(branch, 0.5, drop)  # type: ignore[arg-type]
        assert (left == left.select(axis, 0).unsqueeze(axis)).all()
        assert set(left.unique().tolist()) == {0.0, 2.0}


def test_few_clips_are_learned_from_as_released() -> None:
    """configs/hmdb51/16_32.yaml: 32 frames, 4 clips a GPU and two batches an update of eight GPUs, 50 epochs at 2e-6."""
    few = XCLIP.few_shot()
    assert (few.frames, few.batch_size, few.mixed_together, few.epochs, few.lr) == (32, 8 * 4 * 2, 4, 50, 2e-6)
    spec = few.optimiser()
    found = [learning_rate(spec, step, 1000) for step in (0, 1, 100.5, 1000)]
    assert found == pytest.approx([0, 2e-6 * 0.5 / 100, 2e-6 * (0.01 + 0.99 * (1 + math.cos(math.pi / 10)) / 2), 2e-8], rel=1e-4)
