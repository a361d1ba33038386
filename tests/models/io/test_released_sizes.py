"""Files of the published sizes, made up on the meta device: every tensor has its place and every place its tensor."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor

from diptych.models.io.foreign.parts import DualEncoderParts, build_dual_encoder, check_tensors
from diptych.models.io.releases import ctp, filip, keep, tips
from diptych.models.io.releases.clip_files import CLIP_RELEASES, released_parts
from diptych.models.people.released import released_parts as person_parts
from diptych.models.video.released import empty_encoder, from_released, from_transformers_names

Tensors = dict[str, Tensor]
pytestmark = pytest.mark.slow


def agree(parts: DualEncoderParts, name: str) -> int:
    """Parameters of the dual encoder that these parts are built into, whose tensors they are."""
    with torch.device("meta"):
        model = build_dual_encoder(parts)
    check_tensors(parts.tensors, model.state_dict(), name, absent=("log_scale",))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arch", "millions"),
    [
        ("alip", "ViT-B-32", 151), ("dreamlip", "ViT-B-16", 149), ("laclip", "ViT-L-14", 427), ("negclip", "ViT-B-32", 151),
        ("metaclip", "ViT-bigG-14", 2539), ("georsclip", "ViT-H-14", 986), ("svlc", "ViT-B-32", 151), ("metaclip", "RN50", 102),
    ],
)  # fmt: skip
def test_clips(name: str, arch: str, millions: int) -> None:
    import open_clip

    theirs = open_clip.create_model(arch, device="meta")
    tensors = {key: tensor for key, tensor in theirs.state_dict().items() if not key.endswith("attn_mask")}
    parts = released_parts(tensors, CLIP_RELEASES[name])
    assert parts.image["heads"] == 32 if arch == "RN50" else parts.image["width"] // parts.image["heads"] in (64, 80, 104)
    assert agree(parts, arch) // 10**6 == millions
    assert sum(parameter.numel() for parameter in theirs.parameters()) // 10**6 == millions
    quick = {"metaclip": True, "svlc": True, "laclip": True, "georsclip": False}.get(name, False)
    assert parts.text["act"] == ("quick_gelu" if quick else "gelu")


def test_laclip_of_small_data() -> None:
    import open_clip

    with torch.device("meta"):
        vision = timm.create_model("vit_base_patch16_224", qk_norm=True, num_classes=0)
    text = open_clip.create_model("ViT-B-32", device="meta").state_dict()
    tensors: Tensors = {f"visual.{name}": tensor for name, tensor in vision.state_dict().items()}
    tensors |= {
        name: tensor for name, tensor in text.items() if not name.startswith("visual.") and not name.endswith("attn_mask")
    }
    tensors["image_projection"] = torch.empty(768, 512, device="meta")
    assert agree(released_parts(tensors, CLIP_RELEASES["laclip"]), "laclip") // 10**6 == 149


def bert(**changes: Any) -> tuple[dict[str, Any], Tensors]:
    config = transformers.BertConfig(**changes)
    with torch.device("meta"):
        return config.to_dict(), dict(transformers.BertModel(config).state_dict())


def test_keep() -> None:
    with torch.device("meta"):
        vision = timm.create_model("vit_large_patch16_224", init_values=1e-5, num_classes=0, dynamic_img_size=True)
        head = torch.nn.Sequential(torch.nn.Linear(1024, 768), torch.nn.GELU(), torch.nn.Linear(768, 768))
    config, words = bert()
    tensors: Tensors = {f"visual.{name}": tensor for name, tensor in vision.state_dict().items()}
    tensors |= {f"visual_head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {f"text.{name}": tensor for name, tensor in words.items()} | {"logit_scale": torch.empty((), device="meta")}
    parts = keep.released_parts({"text_config": config}, tensors)
    assert parts.text["length"] == 256
    assert agree(parts, "keep") // 10**6 == 414


def test_ctp() -> None:
    with torch.device("meta"):
        vision = timm.create_model("vit_base_patch16_224", num_classes=0)
    config, words = bert(vocab_size=21128)
    words = {name: tensor for name, tensor in words.items() if not name.startswith("pooler.")}
    crossing = {name.replace(".attention.", ".crossattention."): tensor for name, tensor in words.items()
                if ".attention." in name and int(name.split(".")[2]) >= 6}  # fmt: skip
    tensors: Tensors = {f"visual_encoder.{name}": tensor for name, tensor in vision.state_dict().items()}
    for prefix in ("text_encoder.", "text_mlm_encoder.bert."):
        tensors |= {prefix + name: tensor for name, tensor in (words | crossing).items()}
    for side in ("vision", "text"):
        tensors |= {
            f"{side}_proj.weight": torch.empty(256, 768, device="meta"),
            f"{side}_proj.bias": torch.empty(256, device="meta"),
        }
    tensors |= {"temp": torch.empty((), device="meta"), "distill_temp": torch.empty((), device="meta")}
    parts = ctp.released_parts(tensors, config)
    assert parts.text["config"]["num_hidden_layers"] == 6
    assert agree(parts, "ctp") // 10**6 == 145


def test_persons() -> None:
    import open_clip

    with torch.device("meta"):
        vision = open_clip.modified_resnet.ModifiedResNet((3, 4, 6, 3), 768, 8, 224, 64)
    config, words = bert()
    image = dict(vision.state_dict()) | {"attnpool.positional_embedding": torch.empty(33, 2048, device="meta")}
    parts = person_parts(image, {f"encoder.{name}": tensor for name, tensor in words.items()}, config)
    assert (parts.image["image_size"], parts.image["image_height"], parts.image["depths"]) == (128, 256, (3, 4, 6, 3))
    assert agree(parts, "plip_person") // 10**6 == 147


@pytest.mark.parametrize(
    ("width", "depth", "layers", "hidden", "millions"),
    [(384, 12, 12, 1536, 55), (768, 12, 12, 3072, 195), (1024, 24, 12, 4096, 487), (1152, 27, 27, 4304, 861)],
)
def test_tips(width: int, depth: int, layers: int, hidden: int, millions: int) -> None:
    """S, B, L and So400m."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    vision: Tensors = {"cls_token": empty(1, 1, width), "register_tokens": empty(1, 1, width), "mask_token": empty(1, width)}
    vision |= {"pos_embed": empty(1, 1 + 32 * 32, width), "norm.weight": empty(width), "norm.bias": empty(width)}
    vision |= {"patch_embed.proj.weight": empty(width, 3, 14, 14), "patch_embed.proj.bias": empty(width)}
    text: Tensors = {
        "token_embedding.weight": empty(32000, width),
        "ln_final.weight": empty(width),
        "ln_final.bias": empty(width),
    }
    square = {"attn.proj": (width, width), "attn.qkv": (3 * width, width), "mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    for n in range(depth):
        vision |= {f"blocks.{n}.ls{which}.gamma": empty(width) for which in (1, 2)}
        for name, size in {**square, "norm1": (width,), "norm2": (width,)}.items():
            vision |= {f"blocks.{n}.{name}.weight": empty(*size), f"blocks.{n}.{name}.bias": empty(size[0])}
    for n in range(layers):
        at = f"transformer.resblocks.{n}."
        text |= {f"{at}attn.in_proj_weight": empty(3 * width, width), f"{at}attn.in_proj_bias": empty(3 * width)}
        for name, size in {"attn.out_proj": (width, width), "mlp.c_fc": (hidden, width), "mlp.c_proj": (width, hidden), "ln_1": (width,),
                           "ln_2": (width,)}.items():  # fmt: skip
            text |= {f"{at}{name}.weight": empty(*size), f"{at}{name}.bias": empty(size[0])}
    with torch.device("meta"):
        model = tips.empty_encoder(vision, text)
    tips.load_released(model, vision, text | {"temperature": empty()})
    assert (model.image_tower.image_size, model.width) == (448, width)  # type: ignore[attr-defined]
    assert sum(parameter.numel() for parameter in model.parameters()) // 10**6 == millions


def test_filip() -> None:
    """ViT-L/14 of run_filip_vit_l_14.yaml."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    tensors: Tensors = {
        "image_encoder.conv1.weight": empty(1024, 3, 14, 14), "image_encoder.class_embedding": empty(1024),
        "image_encoder.positional_embedding": empty(257, 1024), "image_encoder.proj": empty(1024, 256),
        "text_encoder.embedding_table": empty(21128, 768), "text_encoder.positional_embedding": empty(32, 768),
        "text_encoder.text_projection": empty(768, 256), "image_encoder.token_learner.attntion_maps.0.weight": empty(256, 32, 1, 1),
        "image_encoder.token_learner.attntion_maps.1.weight": empty(24, 256, 1, 1),
        "image_encoder.token_learner.feat_conv.weight": empty(256, 32, 1, 1),
    }  # fmt: skip
    norms = {"image_encoder.ln_pre": 1024, "image_encoder.ln_post": 1024, "text_encoder.ln_final": 768}
    norms |= {"image_encoder.token_learner.norm": 256}
    for side, width, depth in (("image_encoder.transformer", 1024, 24), ("text_encoder.transformer_layer", 768, 12)):
        for n in range(depth):
            at = f"{side}.encoder.blocks.{n}"
            norms |= {f"{at}.layernorm1": width, f"{at}.layernorm2": width}
            for name in ("attention.dense1", "attention.dense2", "attention.dense3", "attention.projection"):
                tensors |= {f"{at}.{name}.weight": empty(width, width), f"{at}.{name}.bias": empty(width)}
            tensors |= {f"{at}.output.mapping.weight": empty(width, 4 * width), f"{at}.output.mapping.bias": empty(4 * width)}
            tensors |= {f"{at}.output.projection.weight": empty(4 * width, width), f"{at}.output.projection.bias": empty(width)}
    for name, width in norms.items():
        tensors |= {f"{name}.gamma": empty(width), f"{name}.beta": empty(width)}
    parts = filip.released_parts(tensors, 102)
    assert (parts.image["tokens"], parts.image["groups"]) == (24, 8)
    assert agree(parts, "filip") // 10**6 == 404


@pytest.mark.parametrize(
    ("layers", "width", "joint", "patch", "frames"), [(12, 768, 512, 32, 8), (24, 1024, 768, 14, 8), (12, 768, 512, 16, 32)]
)
def test_xclip(layers: int, width: int, joint: int, patch: int, frames: int) -> None:
    """B/32, L/14 and the few-shot B/16, by transformers' own class."""
    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }
    mixer = {"mit_hidden_size": joint, "mit_intermediate_size": 4 * joint, "mit_num_attention_heads": joint // 64}
    words = {"hidden_size": joint, "intermediate_size": 4 * joint, "num_attention_heads": joint // 64}
    config = transformers.XCLIPConfig(
        text_config=words, vision_config={**vision, **mixer, "patch_size": patch, "num_frames": frames}, projection_dim=joint,
        prompt_num_attention_heads=joint // 64,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.XCLIPModel(config)
        tensors = from_transformers_names(theirs.state_dict())
        model, _ = empty_encoder(tensors, config.to_dict())
    check_tensors(from_released(tensors), model.state_dict(), "xclip")
    assert model.settings.frames == frames
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
