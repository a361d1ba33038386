"""The towers that CLIP and SigLIP were released with: counts, layouts with no name left over, the same numbers as other libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core import systems
from diptych.core.errors import ConfigError
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.pairs.dual_encoder import DualEncoder, encoder_of
from diptych.models.towers.attention_pool import AttentionPool
from diptych.models.towers.towers import image_tower, text_tower
from diptych.recipes.contrastive.clip import CLIP


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def text_ids(count: int, length: int, vocabulary: int, eot: int) -> torch.Tensor:
    ids_BL = torch.randint(3, eot - 1, (count, length), generator=torch.Generator().manual_seed(3))
    for row in range(count):
        ids_BL[row, length - 4 + row] = eot
        ids_BL[row, length - 3 + row :] = 0
    return ids_BL


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clip_residual_network_gives_open_clips_numbers(act: str) -> None:
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 8, "patch_size": None}
    words = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 4, "layers": 1}
    theirs = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=words, quick_gelu=act == "quick_gelu").eval()
    for name, tensor in theirs.state_dict().items():  # no norm at its start, where a wrong one would not show
        if "bn" in name or "downsample.1" in name:
            tensor.uniform_(0.5, 1.5) if tensor.is_floating_point() else None
    heads = theirs.visual.attnpool.num_heads
    image = image_tower("resnet_clip_50", image_size=64, depths=(1, 2, 1, 1), width=16, heads=heads, out=24)
    text = text_tower("text_clip", vocab_size=50, eot_id=49, length=8, width=32, heads=4, layers=1, act=act)
    ours = DualEncoder(image, text, width=24).eval()
    ours.load_state_dict(from_open_clip(theirs.state_dict()))
    image_BCHW, text_BL = torch.randn(2, 3, 64, 64), text_ids(2, 8, 50, 49)
    close(ours.encode_image(image_BCHW), theirs.encode_image(image_BCHW, normalize=True))
    close(ours.encode_text(text_BL), theirs.encode_text(text_BL, normalize=True))
    assert image(image_BCHW).tokens_BPD.shape == (2, 4, 512)
    assert (image.width, image.token_width) == (24, 512)


@pytest.mark.parametrize(
    ("image", "text", "width", "count"),
    [("vit_b16", "text_clip", 512, 149_620_737), ("vit_l14", "text_clip_l", 768, 427_616_513)],
)
def test_the_other_released_sizes(image: str, text: str, width: int, count: int) -> None:
    """Parameters of OpenAI's ViT-B/16 and ViT-L/14."""
    recipe = replace(CLIP.paper(), image_tower=image, text_tower=text, width=width)
    with torch.device("meta"):
        assert sum(p.numel() for p in recipe.model().parameters()) == count


@pytest.mark.parametrize("slug", ["dreamlip", "ctp", "alip"])
def test_recipes_that_read_places_take_the_residual_network(slug: str) -> None:
    recipe = replace(systems.find(slug).load().tiny(), tokenizer="clip", image_tower="resnet_clip_50", image_size=32, width=1024)
    with torch.device("meta"):
        model = recipe.model()
        tower = encoder_of(model).image_tower
        width = tower(torch.zeros(2, 3, 32, 32)).tokens_BPD.shape[2]
    assert width == tower.token_width == 2048
    for name in ("patch_projection",):
        if (projection := getattr(model, name, None)) is not None:
            assert projection.in_features == width


def test_the_released_residual_network_has_its_published_size() -> None:
    import open_clip

    with torch.device("meta"):
        theirs = open_clip.create_model("RN50-quickgelu", device="meta")
        text = text_tower("text_clip", vocab_size=49408, eot_id=49407, act="quick_gelu")
        ours = DualEncoder(image_tower("resnet_clip_50"), text, width=1024)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert {name: tensor.shape for name, tensor in from_open_clip(theirs.state_dict()).items()} == shapes
    assert sum(p.numel() for p in ours.parameters()) == 102_007_137


def siglip(*, act: str = "gelu_tanh", pad_id: int = 1) -> DualEncoder:
    sizes: dict[str, Any] = {"width": 24, "layers": 2, "heads": 3, "act": act}
    image = image_tower("siglip_b16", image_size=32, **sizes)
    text = text_tower("text_siglip", vocab_size=40, pad_id=pad_id, length=6, **sizes)
    return DualEncoder(image, text, width=24, bias=-10.0, project_image=False, projection_bias="text")


def test_siglip_gives_transformers_numbers(parity: Any) -> None:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    settings = transformers.SiglipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        text_config={**sizes, "vocab_size": 40, "max_position_embeddings": 6, "projection_size": 24},
    )
    assert settings.vision_config.hidden_act == "gelu_pytorch_tanh"
    theirs = transformers.SiglipModel(settings).eval()
    for parameter in theirs.parameters():  # biases start at zero: a forgotten one would not show
        torch.nn.init.normal_(parameter, std=0.2)
    ours = siglip().eval()
    ours.load_state_dict(of_transformers(theirs.state_dict(), ours))
    image_BCHW, text_BL = torch.randn(2, 3, 32, 32), torch.tensor([[5, 6, 7, 1, 1, 1], [8, 9, 10, 11, 12, 13]])
    with torch.no_grad():
        answer = theirs(input_ids=text_BL, pixel_values=image_BCHW)
        close(ours.encode_image(image_BCHW), answer.image_embeds)
        close(ours.encode_text(text_BL), answer.text_embeds)
        close(
            ours.encode_text(text_BL[:1, :3], torch.ones(1, 3, dtype=torch.bool)), answer.text_embeds[:1]
        )  # cut padding is put back
        pairs = [(ours.encode_image(image_BCHW), answer.image_embeds), (ours.encode_text(text_BL), answer.text_embeds)]
    parity("siglip", "embeddings of both towers on copied weights", "SiglipModel of transformers", pairs, tolerance=1e-6)


def of_transformers(theirs: dict[str, torch.Tensor], ours: DualEncoder) -> dict[str, torch.Tensor]:
    """By hand and by order: their queries, keys and values are three layers, and PyTorch's own attention stands in their head."""
    found: dict[str, torch.Tensor] = {"log_scale": theirs["logit_scale"].reshape(1), "bias": theirs["logit_bias"].reshape(1)}
    for side, tower in (("vision_model", "image_tower"), ("text_model", "text_tower")):
        for n in range(2):
            layer, block = f"{side}.encoder.layers.{n}", f"{tower}.transformer.blocks.{n}"
            for kind in ("weight", "bias"):
                parts = [theirs[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{block}.attention.qkv.{kind}"] = torch.cat(parts)
                found[f"{block}.attention.out.{kind}"] = theirs[f"{layer}.self_attn.out_proj.{kind}"]
                for our_name, their_name in (("norm_1", "layer_norm1"), ("norm_2", "layer_norm2")):
                    found[f"{block}.{our_name}.{kind}"] = theirs[f"{layer}.{their_name}.{kind}"]
                for our_name, their_name in (("mlp_in", "fc1"), ("mlp_out", "fc2")):
                    found[f"{block}.{our_name}.{kind}"] = theirs[f"{layer}.mlp.{their_name}.{kind}"]
    head = "vision_model.head"
    for kind in ("weight", "bias"):
        packed = theirs[f"{head}.attention.in_proj_{kind}"]
        found |= {f"image_tower.pool.q.{kind}": packed[:24], f"image_tower.pool.kv.{kind}": packed[24:]}
        for our_name, their_name in (("norm", "layernorm"), ("mlp_in", "mlp.fc1"), ("mlp_out", "mlp.fc2")):
            found[f"image_tower.pool.{our_name}.{kind}"] = theirs[f"{head}.{their_name}.{kind}"]
        found[f"image_tower.pool.out.{kind}"] = theirs[f"{head}.attention.out_proj.{kind}"]
        found[f"image_tower.patches.{kind}"] = theirs[f"vision_model.embeddings.patch_embedding.{kind}"]
        found[f"image_tower.norm_after.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
        found[f"text_tower.norm_after.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        found[f"text_projection.{kind}"] = theirs[f"text_model.head.{kind}"]
    found["image_tower.pool.query_D"] = theirs[f"{head}.probe"].flatten()
    found["image_tower.position_PD"] = theirs["vision_model.embeddings.position_embedding.weight"]
    found["text_tower.position_LD"] = theirs["text_model.embeddings.position_embedding.weight"]
    found["text_tower.embed.weight"] = theirs["text_model.embeddings.token_embedding.weight"]
    return found


def test_siglip_as_open_clip_has_it_gives_its_numbers(parity: Any) -> None:
    import timm
    from open_clip.transformer import TextTransformer

    torch.manual_seed(0)
    small = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    image_side = timm.create_model("vit_base_patch16_siglip_224", **small).eval()
    norms = {"norm_layer": lambda width: torch.nn.LayerNorm(width, eps=1e-6)}
    words: dict[str, Any] = {"context_length": 6, "vocab_size": 40, "width": 24, "heads": 3, "layers": 2, "output_dim": 24}
    text_side = TextTransformer(**words, **norms, no_causal_mask=True, proj_bias=True, pool_type="last").eval()
    for parameter in (*image_side.parameters(), *text_side.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = {f"visual.trunk.{name}": tensor for name, tensor in image_side.state_dict().items()}
    theirs |= {f"text.{name}": tensor for name, tensor in text_side.state_dict().items()}
    theirs |= {"logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor(-10.0)}
    ours = siglip(act="gelu", pad_id=0).eval()  # open_clip has the exact GELU where the authors' code has the tanh approximation
    ours.load_state_dict(from_open_clip(theirs))
    image_BCHW, text_BL = torch.randn(2, 3, 32, 32), torch.tensor([[5, 6, 7, 0, 0, 0], [8, 9, 10, 11, 12, 13]])
    with torch.no_grad():
        image_ND, text_ND = (torch.nn.functional.normalize(x, dim=-1) for x in (image_side(image_BCHW), text_side(text_BL)))
        close(ours.encode_image(image_BCHW), image_ND)
        close(ours.encode_text(text_BL), text_ND)
        tanh = siglip(pad_id=0).eval()
        tanh.load_state_dict(ours.state_dict())
        assert (tanh.encode_image(image_BCHW) - ours.encode_image(image_BCHW)).abs().max() > 1e-5
    pairs = [(ours.encode_image(image_BCHW).detach(), image_ND), (ours.encode_text(text_BL).detach(), text_ND)]
    parity(
        "siglip", "embeddings of both towers in open_clip's form", "timm and TextTransformer of open_clip", pairs, tolerance=1e-6
    )


def test_the_released_siglip_has_no_name_left_over() -> None:
    import open_clip

    with torch.device("meta"):
        theirs = open_clip.create_model("ViT-B-16-SigLIP", device="meta")
        text = text_tower("text_siglip", vocab_size=32_000, pad_id=1)
        ours = DualEncoder(image_tower("siglip_b16"), text, width=768, bias=-10.0, project_image=False, projection_bias="text")
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert {name: tensor.shape for name, tensor in from_open_clip(theirs.state_dict()).items()} == shapes


def test_the_attention_pool_reads_every_token_once_and_in_any_order() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(12, 3, mlp_width=24).double()
    tokens_BPD = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(pool(tokens_BPD), pool(tokens_BPD[:, [3, 1, 4, 0, 2]]))
    head_BE = []
    for head in range(3):  # the plain sum, one head at a time
        rows = slice(4 * head, 4 * head + 4)
        q_E = pool.q(pool.query_D)[rows]
        k_BPE, v_BPE = pool.kv(tokens_BPD)[..., :12][..., rows], pool.kv(tokens_BPD)[..., 12:][..., rows]
        head_BE.append(((k_BPE @ q_E / 2).softmax(-1)[..., None] * v_BPE).sum(1))
    y_BD = pool.out(torch.cat(head_BE, -1))
    torch.testing.assert_close(pool(tokens_BPD), y_BD + pool.mlp_out(pool.act(pool.mlp_in(pool.norm(y_BD)))))


def test_a_saved_model_with_these_parts_comes_back(tmp_path: Path) -> None:
    from diptych.data.media.transforms import Preprocess
    from diptych.data.text.tokenize import Tokenizer
    from diptych.models.pairs.embedder import PairEmbedder

    words = Tokenizer.train(["a red cat", "a dog on a mat"], 270)
    resnet = image_tower("resnet_clip_50", image_size=32, depths=(1, 1, 1, 1), width=8, heads=4, out=24)
    for image in (siglip().image_tower, resnet):
        text = text_tower("text_siglip", vocab_size=words.vocab_size, pad_id=words.pad_id, length=6, width=24, layers=1, heads=3)
        model = DualEncoder(image, text, width=24, bias=-10.0, project_image=False, projection_bias="text")
        torch.nn.init.normal_(model.text_projection.bias)
        saved = PairEmbedder(model, Preprocess(32), words, 6, "published")
        saved.save(tmp_path / "model")
        again = PairEmbedder.load(tmp_path / "model")
        assert (again.embed_texts(["a cat", "a dog on a mat"]) == saved.embed_texts(["a cat", "a dog on a mat"])).all()
        assert again.model.state_dict().keys() == model.state_dict().keys()
        assert again.fingerprint == saved.fingerprint


def test_wrong_parts_are_refused_with_what_would_work() -> None:
    with pytest.raises(ConfigError, match=r"pool is 'mean' \(expected class \| attention\)"):
        image_tower("vit_tiny", pool="mean")
    with pytest.raises(ConfigError, match="expected gelu \\| quick_gelu \\| gelu_tanh \\| relu"):
        image_tower("vit_tiny", act="swish")
    with pytest.raises(ConfigError, match="pass pad_id"):
        text_tower("text_siglip", vocab_size=10)
    with pytest.raises(ConfigError, match="image is not projected"):
        DualEncoder(
            image_tower("resnet_clip_50", image_size=32, depths=(1, 1, 1, 1), width=8, heads=4, out=24),
            text_tower("text_tiny", vocab_size=10),
            width=16,
        )


def test_blip_2_reads_eva_without_its_last_block_and_with_the_class_token() -> None:
    """The released encoder of BLIP-2, MiniGPT-4, InstructBLIP and mBLIP: 39 blocks of 40, 257 tokens, no norm behind them."""
    from transformers import Blip2VisionConfig, Blip2VisionModel

    with torch.device("meta"):
        whole, theirs = image_tower("eva_g14"), Blip2VisionModel(Blip2VisionConfig())
    no_key_bias = 39 * 1408  # a bias of the keys, which is zero and which no softmax feels, is a parameter there
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in theirs.parameters()) - no_key_bias == 985_897_344

    small = {"num_hidden_layers": 2, "image_size": 28, "hidden_size": 1408}
    theirs = Blip2VisionModel(Blip2VisionConfig(**small)).eval()
    ours: Any = image_tower("eva_g14", image_size=28, blocks=2).eval()
    layers = theirs.encoder.layers
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for layer in layers:
            layer.self_attn.qkv.bias[1408:2816] = 0
        net, first = ours.net, theirs.embeddings
        net.cls_token.copy_(first.class_embedding)
        net.pos_embed.copy_(first.position_embedding)
        net.patch_embed.proj.load_state_dict(first.patch_embedding.state_dict())
        for block, layer in zip(net.blocks, layers, strict=True):
            block.norm1.load_state_dict(layer.layer_norm1.state_dict())
            block.norm2.load_state_dict(layer.layer_norm2.state_dict())
            block.attn.qkv.weight.copy_(layer.self_attn.qkv.weight)
            block.attn.q_bias.copy_(layer.self_attn.qkv.bias[:1408])
            block.attn.v_bias.copy_(layer.self_attn.qkv.bias[2816:])
            block.attn.proj.load_state_dict(layer.self_attn.projection.state_dict())
            block.mlp.load_state_dict(layer.mlp.state_dict(), strict=False)
        image_BCHW = torch.rand(2, 3, 28, 28)
        given = theirs.encoder(theirs.embeddings(image_BCHW)).last_hidden_state
        found = ours(image_BCHW).tokens_BPD
    assert found.shape == (2, 5, 1408)
    close(found, given)
    assert image_tower("eva_g14", image_size=28, blocks=1, prefix=False)(image_BCHW).tokens_BPD.shape == (2, 4, 1408)
