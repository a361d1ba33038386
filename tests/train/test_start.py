"""A start from published weights: one training step is the step that transformers or open_clip take by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych import api
from diptych.core.contracts import Draw, Draws
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.models.io.foreign.load import load_foreign
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.train.weights import copy_matching_tensors, start_lines

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "io"))
import published

TEXTS = ["a photo of a bus", "red tree", "the green bus of the tree"]
RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (48, 40 + 8 * n, 3), dtype=np.uint8) for n in range(3)]
SIGMOID = ("SiglipModel", "Siglip2Model")


def drawn() -> Draws:
    """Three pairs, whole pictures."""
    items = [
        Draw(Sample(str(n), ArrayImage(PIXELS[n]), (Text(TEXTS[n], "en", "alt"),)), np.random.default_rng(n), PIXELS[n])
        for n in range(3)
    ]
    return Draws(tuple(items), np.random.default_rng(0))


def step_of_ours(address: str, slug: str, scale: float | None = None) -> tuple[Any, Tensor, Any]:
    """Batch, loss and module after the backward pass of one step from these weights, in float64; `scale` to all its digits, where that is
    not what the weights hold but something made of it."""
    made = api.recipe(slug, same_group="negative", crop=(1.0, 1.0))
    start = load_foreign(address)
    recipe = made.started(start)
    model = recipe.model().double().train()
    taken = copy_matching_tensors({name: tensor.double() for name, tensor in start.model.state_dict().items()}, model)
    assert [name for name in model.state_dict() if name not in taken] == []
    if scale is not None:
        assert gap(model.log_scale.detach().exp(), torch.tensor([scale], dtype=torch.float64)) < 1e-5
        model.log_scale.data.fill_(np.log(scale))
    batch = recipe.batch(drawn())
    object.__setattr__(batch, "image_BCHW", batch.image_BCHW.double())
    losses = recipe.losses(recipe.features(model, batch), batch)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    return batch, loss.detach(), model


def contrastive(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss by PyTorch's cross-entropy."""
    logit_NN = scale * F.normalize(image_ND, dim=-1) @ F.normalize(text_ND, dim=-1).T
    right_N = torch.arange(len(logit_NN))
    return (F.cross_entropy(logit_NN, right_N) + F.cross_entropy(logit_NN.T, right_N)) / 2


def sigmoid(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's, one pair after the other."""
    image_ND, text_ND = F.normalize(image_ND, dim=-1), F.normalize(text_ND, dim=-1)
    total = torch.zeros((), dtype=image_ND.dtype)
    for i, image_D in enumerate(image_ND):
        for j, text_D in enumerate(text_ND):
            total = total - F.logsigmoid((1 if i == j else -1) * (scale * image_D @ text_D + bias)).squeeze()
    return total / len(image_ND)


def features_of_theirs(model: Any, name: str, batch: Any) -> tuple[Tensor, Tensor]:
    """Image and text embeddings as transformers' own classes make them, before they are normalised."""
    image, ids, mask = batch.image_BCHW, batch.text_BL, batch.text_mask_BL.long()
    if name == "BlipForImageTextRetrieval":
        seen, read = model.vision_model(pixel_values=image), model.text_encoder(input_ids=ids, attention_mask=mask)
        return model.vision_proj(seen.last_hidden_state[:, 0]), model.text_proj(read.last_hidden_state[:, 0])
    given: dict[str, Any] = {"pixel_values": image}
    if name == "Siglip2Model":
        cut = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 4, 5, 1).reshape(len(image), 4, -1)
        given = {"pixel_values": cut, "pixel_attention_mask": torch.ones(len(image), 4, dtype=torch.long)}
        given["spatial_shapes"] = torch.tensor([[2, 2]] * len(image))
    words = {"input_ids": ids} if name in SIGMOID else {"input_ids": ids, "attention_mask": mask}
    return model.get_image_features(**given).pooler_output, model.get_text_features(**words).pooler_output


def gap(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).max())


@pytest.mark.parametrize("name", published.CLASSES)
def test_a_step_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    published.write(tmp_path, name)
    temperature = float(np.float32(0.07))
    scale = 1 / temperature if name == "AlignModel" else None
    batch, loss, ours = step_of_ours(f"hf:{tmp_path}", "siglip" if name in SIGMOID else "clip", scale)

    import transformers

    kind = getattr(transformers, name)
    theirs = kind.from_pretrained(tmp_path).double().train()
    image_ND, text_ND = features_of_theirs(theirs, name, batch)
    if name == "AlignModel":
        expected = contrastive(image_ND, text_ND, 1 / theirs.temperature)
    elif name in SIGMOID:
        expected = sigmoid(image_ND, text_ND, theirs.logit_scale.exp(), theirs.logit_bias)
    else:
        scale = theirs.logit_scale.exp() if hasattr(theirs, "logit_scale") else ours.log_scale.detach().exp()
        expected = contrastive(image_ND, text_ND, scale)
    expected.backward()
    assert gap(loss, expected.detach()) < 1e-9

    grads = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in theirs.named_parameters()}
    if "temperature" in grads:  # ours is the logarithm of its inverse
        slope = -theirs.temperature.detach() * grads.pop("temperature")
        assert gap(ours.log_scale.grad, slope.reshape(1)) < 1e-9
    family = FAMILIES[kind.config_class.model_type]
    mapped = family.parts(theirs.config.to_dict(), grads, name)
    mine = {key: p.grad for key, p in ours.named_parameters()}
    compared = set(mine) & set(mapped.tensors)
    assert set(mine) - compared <= {"log_scale"}
    for key in compared:
        # transformers forms NaFlex positions in float32 whatever the model is in.
        rounded = name == "Siglip2Model" and key == "image_tower.position_PD"
        assert gap(mine[key], mapped.tensors[key]) < (1e-7 if rounded else 1e-9), key
    assert all(not grads[key].any() for key in mapped.left if key in grads)  # what is left out has no part in it


VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "plain": {"vision_cfg": VISION},
    "quick": {"vision_cfg": VISION, "quick_gelu": True},
    "resnet": {"vision_cfg": {"image_size": 32, "layers": [1, 2, 1, 1], "width": 16, "head_width": 8, "patch_size": None}},
    "coca": {
        "vision_cfg": {
            **VISION,
            "output_tokens": True,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "attn_pooler_queries": 5,
        },
        "text_cfg": {"context_length": 11, "width": 32, "heads": 2, "layers": 2, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 11, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "timm": {"vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}},
    "words": {
        "vision_cfg": VISION,
        "text_cfg": {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "context_length": 14},
        "custom_text": True,
    },
}
"""The variants of open_clip in small; a text side that is not given is CLIP's."""


def architecture(folder: Path, name: str) -> str:
    """Makes the architecture known to open_clip by a file, as users add theirs; gives its name."""
    import open_clip

    plain = {"embed_dim": 32, "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 2}, **ARCHITECTURES[name]}
    if name == "words":
        words = folder / "encoder"
        published.bert_words().save_pretrained(words)
        import transformers

        settings = {**published.SIZES, **published.STILL, "vocab_size": 64, "pad_token_id": 0, "max_position_embeddings": 20}
        transformers.BertConfig(**settings).save_pretrained(words)
        plain["text_cfg"] = {**plain["text_cfg"], "hf_model_name": "nobody/tiny-bert", "hf_tokenizer_name": "nobody/tiny-bert"}
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / f"tiny-{name}.json").write_text(json.dumps(plain))
    open_clip.add_model_config(folder / "configs")
    return f"tiny-{name}"


def open_clip_model(folder: Path, name: str, arch: str) -> Any:
    """open_clip's own model with every number drawn anew."""
    import open_clip

    if name == "words":  # under the folder's name, where open_clip would look the encoder up
        settings = open_clip.get_model_config(arch)
        settings["text_cfg"] = {**settings["text_cfg"], "hf_model_name": str(folder / "encoder"), "hf_model_pretrained": False}
        model = open_clip.CustomTextCLIP(**{key: value for key, value in settings.items() if key != "custom_text"})
    else:
        model = open_clip.create_model(arch)
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key != "logit_scale":
                parameter.copy_(torch.randn_like(parameter) * 0.15 + float(parameter.ndim == 1 and key.endswith("weight")))
    return model.train()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_step_is_that_of_open_clip(name: str, tmp_path: Path) -> None:
    arch = architecture(tmp_path, name)
    theirs = open_clip_model(tmp_path, name, arch)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    address = f"open_clip:{arch}/{tmp_path / 'weights.pt'}" + (f"#{tmp_path / 'encoder'}" if name == "words" else "")
    batch, loss, ours = step_of_ours(address, "clip")

    from diptych.models.io.foreign.open_clip_layout import open_clip_parts

    theirs = theirs.double()
    image_ND, text_ND = theirs.encode_image(batch.image_BCHW), theirs.encode_text(batch.text_BL)
    expected = contrastive(image_ND, text_ND, theirs.logit_scale.exp())
    expected.backward()
    assert gap(loss, expected.detach()) < 1e-9
    grads = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in theirs.named_parameters()}
    import open_clip

    encoder = json.loads((tmp_path / "encoder" / "config.json").read_text()) if name == "words" else None
    mapped = open_clip_parts(open_clip.get_model_config(arch), grads, encoder)
    for key, parameter in ours.named_parameters():
        assert gap(parameter.grad, mapped.tensors[key]) < 1e-9, key
    assert all(not grads[key].any() for key in mapped.left if key in grads)
    assert bool(mapped.left) == (name == "coca")


def test_what_is_fresh_and_what_is_not_used_is_listed(tmp_path: Path) -> None:
    published.write(tmp_path / "weights", "SiglipModel")
    said: list[str] = []
    run = api.train(
        "alip",
        "world:scenes?n=16",
        tmp_path / "run",
        steps=1,
        batch_size=4,
        progress=False,
        synthetic=("synthetic", "rewrite", "tags"),
        init=f"hf:{tmp_path / 'weights'}",
        say=said.append,
    )
    lines = [line for line in said if "start" in line or "fresh" in line or "not used" in line]
    assert lines == [f"73 of 74 tensors start from hf:{tmp_path / 'weights'}", "fresh: mean_3", "not used: bias"]
    assert run.config["recipe"]["lr"] == 1e-5
    assert run.config["recipe"]["warmup"] == 50.0
    assert any("fresh: mean_3" in line.get("text", "") for line in run.metrics())
    again = api.load(run.path)
    assert (again.preprocess.size, again.preprocess.resize, again.text_length) == (32, "squash", 12)
    assert again.tokenizer.clean == "siglip"


def test_a_run_folder_and_an_image_tower_are_starts(tmp_path: Path) -> None:
    few = {"steps": 1, "batch_size": 4, "progress": False}
    published.write(tmp_path / "weights", "BlipForImageTextRetrieval")
    api.train("clip", "world:scenes?n=16", tmp_path / "first", **few, init=f"hf:{tmp_path / 'weights'}", lr=1e-12)
    run = api.train("dreamlip", "world:scenes?n=16", tmp_path / "second", **few, texts=1, init=tmp_path / "first", lr=1e-12)
    texts = ["a red bus", "the tree"]
    before = load_foreign(f"hf:{tmp_path / 'weights'}").embed_texts(texts)
    np.testing.assert_allclose(api.load(run.path).embed_texts(texts), before, atol=1e-5)

    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    theirs = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(theirs.state_dict(), tmp_path / "resnet.safetensors")
    said: list[str] = []
    address = f"timm:resnet10t/{tmp_path / 'resnet.safetensors'}"
    run = api.train("clip", "world:scenes?n=16", tmp_path / "third", **few, init=address, lr=1e-12, say=said.append)
    assert any(line.startswith("fresh: ") and "text_tower" in line and "image_projection" in line for line in said)
    seen = api.load(run.path)
    assert seen.preprocess.size == 176
    ours = seen.model.image_tower.net.state_dict()
    for name, tensor in theirs.state_dict().items():  # but what batch norms counted in that step
        if not name.startswith("fc.") and "running" not in name and "tracked" not in name:
            assert gap(ours[name], tensor) < 1e-6, name


@pytest.mark.parametrize("slug", ["tips", "m3i"])
def test_a_dense_tower_starts_as_the_vision_transformer_of_the_weights(slug: str, tmp_path: Path) -> None:
    """Where nobody reads the second class token, the patches say the same."""
    published.write(tmp_path, "CLIPModel")
    start = load_foreign(f"hf:{tmp_path}")
    recipe = api.recipe(slug).started(start)
    model = recipe.model()
    taken = copy_matching_tensors(recipe.fitted(start.model.state_dict()), model)
    tower, theirs = model.encoder.image_tower.eval(), start.model.image_tower
    fresh = {name for name in tower.state_dict() if f"encoder.image_tower.{name}" not in taken}
    assert {name for name in fresh if "scale_" not in name} == {"second_D", "mask_D"}
    image_BCHW = recipe.preprocess(PIXELS)
    expected = theirs(image_BCHW)
    for block in tower.blocks:
        block.forward = masked(block)
    answer = tower(image_BCHW)
    torch.testing.assert_close(answer.tokens_BPD, expected.tokens_BPD, atol=1e-5, rtol=0)
    published.write(tmp_path / "siglip", "SiglipModel")
    from diptych.core.errors import ConfigError

    with pytest.raises(ConfigError, match="needs an image tower with a class token and patches"):
        api.recipe(slug).started(load_foreign(f"hf:{tmp_path / 'siglip'}"))


HIDDEN = torch.tensor([True, False, *[True] * 62])
"""Who may be read: all but the second class token."""


def masked(scaled: Any) -> Any:
    """A block's forward in which nobody reads the second class token."""

    def forward(x_BLD: Tensor) -> Tensor:
        block, may_BL = scaled.block, HIDDEN[: x_BLD.shape[1]].expand(len(x_BLD), -1)
        x_BLD = x_BLD + scaled.scale_1_D * block.attention(block.norm_1(x_BLD), may_BL)
        out_BLD: Tensor = x_BLD + scaled.scale_2_D * block.mlp_out(block.act(block.mlp_in(block.norm_2(x_BLD))))
        return out_BLD

    return forward


def test_what_the_weights_decide_cannot_be_asked_for_otherwise(tmp_path: Path) -> None:
    from diptych.core.errors import ConfigError

    published.write(tmp_path / "weights", "CLIPModel")
    given = {"init": f"hf:{tmp_path / 'weights'}", "steps": 1, "batch_size": 4, "progress": False}
    with pytest.raises(ConfigError, match=r"--width 24 does not fit the weights of hf:.* \(expected 16, theirs"):
        api.train("clip", "world:scenes?n=16", tmp_path / "run", width=24, **given)
    with pytest.raises(ConfigError, match="--act gelu does not fit"):
        api.train("clip", "world:scenes?n=16", tmp_path / "run", act="gelu", **given)
    with pytest.raises(ConfigError, match="has no towers that a recipe of pairs could start from"):
        api.recipe("clip").started(object())


def test_a_fixed_temperature_stays_the_recipes() -> None:
    given = {"log_scale": torch.zeros(1), "image_tower.x": torch.zeros(1)}
    assert list(api.recipe("ctp").fitted(given)) == ["image_tower.x"]
    assert list(api.recipe("clip").fitted(given)) == list(given)


def test_lines_say_where_names_meet() -> None:
    own, given = torch.nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "bias": torch.zeros(2), "other.a.b": torch.zeros(1)}
    assert start_lines(given, own, "there", left=("head.x",)) == [
        "1 of 2 tensors start from there",
        "fresh, since their shape is another: bias (such as bias: [3] here, [2] there)",
        "not used: other.a, head.x",
    ]
