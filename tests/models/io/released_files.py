"""Small made-up files in the layouts of releases, one a row of the table: `MADE[slug](folder)` writes one and gives its address.

Names and nesting are those of the authors' files; modules of libraries make the tensors wherever the authors' are of that kind.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import published

WORDS = 49408
Tensors = dict[str, Tensor]


def drawn(tensors: Any, seed: int = 0) -> Tensors:
    """Every floating tensor anew, so that none is where it starts."""
    torch.manual_seed(seed)
    out = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            out[name] = tensor.clone()
        elif name.endswith(("running_var", "gamma")) or (tensor.ndim == 1 and name.endswith("weight")):
            out[name] = 1 + 0.1 * torch.rand_like(tensor)
        elif name.endswith(("logit_scale", "temp")):
            out[name] = tensor.clone()
        else:
            out[name] = 0.1 * torch.randn_like(tensor)
    return out


def clip(quick: bool = False, seed: int = 0) -> tuple[Any, Tensors]:
    """open_clip's CLIP of a small size, and its tensors."""
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": WORDS, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.model.CLIP(32, vision_cfg=vision, text_cfg=text, quick_gelu=quick)
    tensors = drawn({name: tensor for name, tensor in model.state_dict().items() if not name.endswith("attn_mask")}, seed)
    model.load_state_dict(tensors, strict=False)
    return model.eval(), tensors


def of_clip(name: str, *, nested: bool, parallel: bool) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        _, tensors = clip()
        content: Any = {("module." if parallel else "") + key: tensor for key, tensor in tensors.items()}
        if nested:  # as open_clip's training saves it, a numpy number among the rest
            content = {"epoch": 30, "name": name, "state_dict": content, "optimizer": {}, "best": np.float64(0.5)}
        torch.save(content, folder / f"{name}.pt")
        return f"{name}:{folder / f'{name}.pt'}"

    return make


def slip() -> tuple[Any, Tensors]:
    """LaCLIP's layout: timm's vision transformer with normalised queries and keys, CLIP's text side, two projections."""
    vision = timm.create_model("test_vit", qk_norm=True, num_classes=0)
    _, text = clip()
    tensors = {f"visual.{name}": tensor for name, tensor in drawn(vision.state_dict()).items()}
    tensors |= {name: tensor for name, tensor in text.items() if not name.startswith(("visual.", "text_projection"))}
    more = drawn({"image_projection": torch.zeros(64, 32), "text_projection": torch.zeros(64, 32)}, 1)
    vision.load_state_dict({name.removeprefix("visual."): tensors[name] for name in tensors if name.startswith("visual.")})
    return vision.eval(), tensors | more


def laclip(folder: Path) -> str:
    torch.save({"epoch": 35, "state_dict": {f"module.{name}": t for name, t in slip()[1].items()}}, folder / "laclip.pt")
    return f"laclip:{folder / 'laclip.pt'}"


def adapted(folder: Path) -> str:
    """TSVLC's: low-rank updates beside every map of the blocks and the patches."""
    torch.save({"epoch": 5, "state_dict": with_updates(clip(quick=True)[1])}, folder / "svlc.pt")
    return f"svlc:{folder / 'svlc.pt'}"


def with_updates(tensors: Tensors, rank: int = 4) -> Tensors:
    torch.manual_seed(3)
    out = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".attn.in_proj_weight"):
            out[f"{name}_lora_A"], out[f"{name}_lora_B"] = torch.randn(rank, 64) * 0.1, torch.randn(192, rank) * 0.1
        elif ".resblocks." in name and tensor.ndim == 2 and name.endswith(".weight"):
            stem = name.removesuffix("weight")
            out[f"{stem}lora_A"], out[f"{stem}lora_B"] = (
                torch.randn(rank, tensor.shape[1]) * 0.1,
                torch.randn(len(tensor), rank) * 0.1,
            )
        elif name == "visual.conv1.weight":
            side = tensor.shape[-1]
            out["visual.conv1.lora_A"] = torch.randn(rank * side, 3 * side) * 0.1
            out["visual.conv1.lora_B"] = torch.randn(len(tensor) * side, rank * side) * 0.1
    return out


BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 300,
}


def bert(folder: Path, **changes: Any) -> tuple[Path, Any]:
    """A folder with BERT's tokenizer and configuration, and a model of it."""
    words = published.bert_words()
    words.save_pretrained(folder / "bert")
    config = transformers.BertConfig(vocab_size=len(words), **{**BERT, **changes})
    config.save_pretrained(folder / "bert")
    model = transformers.BertModel(config).eval()
    model.load_state_dict(drawn(model.state_dict(), 2))
    return folder / "bert", model


def keep_modules(folder: Path) -> tuple[Any, Any, Any]:
    """timm's vision transformer, the head behind it, and BERT, as KEEP's authors put them together."""
    torch.manual_seed(0)
    vision = timm.create_model("test_vit", init_values=1e-5, num_classes=0, dynamic_img_size=True).eval()
    vision.load_state_dict(drawn(vision.state_dict(), 4))
    head = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 32)).eval()
    return vision, head, bert(folder)[1]


def keep(folder: Path) -> str:
    vision, head, text = keep_modules(folder)
    tensors = {f"visual.{name}": tensor for name, tensor in vision.state_dict().items()}
    tensors |= {f"visual_head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {f"text.{name}": tensor for name, tensor in text.state_dict().items()}
    out = folder / "keep"
    out.mkdir()
    torch.save({**tensors, "logit_scale": torch.tensor(3.2)}, out / "pytorch_model.bin")
    published.bert_words().save_pretrained(out)
    plain = {"model_type": "keep", "text_config": text.config.to_dict(), "projection_dim": 32, "architectures": ["KEEPModel"]}
    (out / "config.json").write_text(json.dumps(plain))
    return f"keep:{out}"


def person_tensors(folder: Path) -> tuple[Path, Any, Tensors, Tensors]:
    """PLIP's two state dicts: CLIP's residual network for pictures of 128 x 64 pixels, and BERT."""
    import open_clip

    place, text = bert(folder)
    vision = open_clip.modified_resnet.ModifiedResNet((1, 1, 1, 1), 32, 8, 64, 8)
    image = drawn(vision.state_dict(), 5)
    image["attnpool.positional_embedding"] = torch.randn(2 * 4 + 1, 256) * 0.1
    return place, text, image, {f"encoder.{name}": tensor for name, tensor in text.state_dict().items()}


def plip_person(folder: Path) -> str:
    place, _, image, text = person_tensors(folder)
    torch.save({"ImgEncoder_state_dict": image, "TxtEncoder_state_dict": text, "epoch": 3}, folder / "plip.pth.tar")
    return f"plip_person:{folder / 'plip.pth.tar'}#{place}"


def tips_arrays(width: int = 64, side: int = 28) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of both encoders, in the authors' names."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "register_tokens": (1, 1, width), "mask_token": (1, width), "norm.weight": (width,),
        "norm.bias": (width,), "pos_embed": (1, (side // 14) ** 2 + 1, width), "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    words: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (20, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for n in range(2):
        block, layer = f"blocks.{n}.", f"transformer.resblocks.{n}."
        shapes |= {f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
        parts = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, shape in {**parts, "norm1": (width,), "norm2": (width,)}.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        words |= {f"{layer}attn.in_proj_weight": (3 * width, width), f"{layer}attn.in_proj_bias": (3 * width,)}
        for name, shape in {
            "attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width), "ln_1": (width,),
            "ln_2": (width,),
        }.items():  # fmt: skip
            words |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}

    def filled(names: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in drawn({n: torch.zeros(s) for n, s in names.items()}, 6).items()}

    return filled(shapes), {**filled(words), "temperature": np.float32(0.02)}


PIECES = [
    ("<pad>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<unk>", 0.0, 2),
    ("▁a", -1.0, 1),
    ("▁", -2.0, 1),
    ("▁red", -1.5, 1),
    ("▁bus", -1.5, 1),
]
PIECES += [(letter, -4.0 - n / 10, 1) for n, letter in enumerate("abdersugnt")]


def tips(folder: Path) -> str:
    vision, text = tips_arrays()
    np.savez(folder / "tips_oss_x14_vision.npz", **vision)
    np.savez(folder / "tips_oss_x14_text.npz", **text)
    pieces = [field(1, field(1, piece.encode()) + field(2, score) + field(3, kind)) for piece, score, kind in PIECES]
    (folder / "tokenizer.model").write_bytes(b"".join(pieces) + field(2, field(3, 1)) + field(3, field(1, b"identity")))
    return "tips:" + "#".join(
        str(folder / name) for name in ("tips_oss_x14_vision.npz", "tips_oss_x14_text.npz", "tokenizer.model")
    )


def ctp_modules(folder: Path, hidden: int = 32) -> tuple[Path, Any, Any, Tensors]:
    """BLIP's vision transformer (timm's), BERT's lower half, and every tensor of a checkpoint of CTP."""
    vision = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=1, num_classes=0
    )
    vision.load_state_dict(drawn(vision.state_dict(), 7))
    place, lower = bert(folder, hidden_size=hidden)
    tensors = {f"visual_encoder.{name}": tensor for name, tensor in vision.state_dict().items()}
    body = {name: tensor for name, tensor in lower.state_dict().items() if not name.startswith("pooler.")}
    for n in (2, 3):  # the upper half reads pictures as well
        layer = {name.replace("layer.0.", f"layer.{n}."): t for name, t in body.items() if ".layer.0." in name}
        layer |= {name.replace(".attention.", ".crossattention."): t for name, t in layer.items() if ".attention." in name}
        body |= layer
    tensors |= {f"text_encoder.{name}": tensor for name, tensor in body.items()}
    tensors |= {f"text_mlm_encoder.bert.{name}": tensor for name, tensor in body.items()}
    tensors |= {"text_mlm_encoder.cls.predictions.bias": torch.zeros(8), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    projections = {
        "vision_proj.weight": (16, 64),
        "vision_proj.bias": (16,),
        "text_proj.weight": (16, hidden),
        "text_proj.bias": (16,),
    }
    tensors |= drawn({name: torch.zeros(size) for name, size in projections.items()}, 8)
    tensors |= {"temp": torch.tensor(0.07), "distill_temp": torch.tensor(1.0), "image_queue": torch.zeros(16, 4)}
    return place, vision.eval(), lower, tensors | {"text_queue": torch.zeros(16, 4)}


def ctp(folder: Path) -> str:
    place, _, _, tensors = ctp_modules(folder)
    torch.save({"model": tensors, "optimizer": {}, "config": {}}, folder / "task_08.pth")
    return f"ctp:{folder / 'task_08.pth'}#{place}"


def albef_modules(folder: Path) -> tuple[Path, Any, Any, Tensors]:
    """timm's vision transformer, BERT's two lower layers, and every tensor of a checkpoint of ALBEF with two upper ones."""
    place, vision, lower, tensors = ctp_modules(folder, 64)
    out = {name: tensor for name, tensor in tensors.items() if name.startswith(("visual_encoder.", "vision_proj.", "text_proj."))}
    body = {name.removeprefix("text_encoder."): t for name, t in tensors.items() if name.startswith("text_encoder.")}
    body = {name: tensor for name, tensor in body.items() if "crossattention" not in name or name.split(".")[2] in "23"}
    body |= drawn({name: tensor for name, tensor in body.items() if "crossattention" in name}, 13)
    out |= {f"text_encoder.bert.{name}": tensor for name, tensor in body.items()}
    out |= drawn({"itm_head.weight": torch.zeros(2, 64), "itm_head.bias": torch.zeros(2)}, 14)
    out |= {name: torch.zeros(1) for name in ("vision_proj_m.weight", "visual_encoder_m.norm.weight")}
    out |= {"text_encoder.cls.predictions.bias": torch.zeros(8), "temp": torch.tensor(0.07), "image_queue": torch.zeros(16, 4)}
    return place, vision, lower, out | {"queue_ptr": torch.zeros(1, dtype=torch.int64)}


def albef(folder: Path) -> str:
    place, _, _, tensors = albef_modules(folder)
    torch.save({"model": tensors, "optimizer": {}, "epoch": 29}, folder / "ALBEF.pth")
    return f"albef:{folder / 'ALBEF.pth'}#{place}"


def filip_tensors(words: int) -> Tensors:
    """Parameters of a small FILIP in MindFormers' names."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.conv1.weight": (64, 3, 16, 16), "image_encoder.class_embedding": (64,), "image_encoder.proj": (64, 16),
        "image_encoder.positional_embedding": (5, 64), "text_encoder.embedding_table": (words, 64),
        "text_encoder.text_projection": (64, 16),
        "text_encoder.positional_embedding": (12, 64), "image_encoder.token_learner.attntion_maps.0.weight": (16, 2, 1, 1),
        "image_encoder.token_learner.attntion_maps.1.weight": (3, 16, 1, 1), "image_encoder.token_learner.feat_conv.weight": (16, 2, 1, 1),
    }  # fmt: skip
    norms = {
        "image_encoder.ln_pre": 64,
        "image_encoder.ln_post": 64,
        "text_encoder.ln_final": 64,
        "image_encoder.token_learner.norm": 16,
    }
    for side in ("image_encoder.transformer", "text_encoder.transformer_layer"):
        for n in range(2):
            block = f"{side}.encoder.blocks.{n}"
            norms |= {f"{block}.layernorm1": 64, f"{block}.layernorm2": 64}
            for name in ("attention.dense1", "attention.dense2", "attention.dense3", "attention.projection"):
                shapes |= {f"{block}.{name}.weight": (64, 64), f"{block}.{name}.bias": (64,)}
            shapes |= {f"{block}.output.mapping.weight": (64, 256), f"{block}.output.mapping.bias": (256,)}
            shapes |= {f"{block}.output.projection.weight": (256, 64), f"{block}.output.projection.bias": (64,)}
    for name, width in norms.items():
        shapes |= {f"{name}.gamma": (width,), f"{name}.beta": (width,)}
    scales = {f"loss.gather_and_compute.get_{side}_logits.logit_scale": torch.tensor(3.8665097) for side in ("img", "txt")}
    return drawn({name: torch.zeros(shape) for name, shape in shapes.items()}, 9) | scales


def filip(folder: Path) -> str:
    place, _ = bert(folder)
    values = []
    for name, tensor in filip_tensors(len(published.bert_words())).items():
        array = tensor.numpy().astype(np.float32)
        sizes = b"".join(field(1, size) for size in array.shape)
        half = array.nbytes // 8 * 4  # a large parameter is stored in pieces
        for data in (array.tobytes()[:half], array.tobytes()[half:]):
            values.append(field(1, field(1, name.encode()) + field(2, sizes + field(2, b"Float32") + field(3, data))))
    (folder / "filip.ckpt").write_bytes(b"".join(values))
    return f"filip:{folder / 'filip.ckpt'}#{place}"


def coop(folder: Path) -> str:
    base = of_clip("alip", nested=False, parallel=False)(folder)
    tensors = {"ctx": torch.randn(4, 64), "token_prefix": torch.zeros(3, 1, 64), "token_suffix": torch.zeros(3, 72, 64)}
    content = {"state_dict": tensors, "epoch": 50, "optimizer": {}, "val_result": np.float64(71.9)}
    torch.save(content, folder / "model.pth.tar-50")
    return f"coop:{folder / 'model.pth.tar-50'}#{base}"


def clip_of_videos() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    mit = {"mit_hidden_size": 64, "mit_intermediate_size": 256, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 1}
    words = {"vocab_size": 54, "max_position_embeddings": 12, "eos_token_id": 53, "bos_token_id": 52}
    vision = {**sizes, **mit, "image_size": 32, "patch_size": 16, "num_frames": 4, "drop_path_rate": 0.0}
    settings = transformers.XCLIPConfig(
        text_config={**sizes, **words}, vision_config=vision, projection_dim=64, prompt_layers=2, prompt_num_attention_heads=1
    )
    model = transformers.XCLIPModel(settings).eval()
    model.load_state_dict(drawn(model.state_dict(), 10))
    return model


def xclip_hub(folder: Path) -> str:
    clip_of_videos().save_pretrained(folder / "hub")
    published.clip_words().save_pretrained(folder / "hub")
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images.save_pretrained(folder / "hub")
    return f"hf:{folder / 'hub'}"


def video_tensors() -> Tensors:
    """Microsoft's names and sizes of a small X-CLIP, written out."""
    _, tensors = clip(quick=True)
    shapes: dict[str, tuple[int, ...]] = {
        "mit.positional_embedding": (1, 4, 32), "prompts_generator.alpha": (32,), "prompts_generator.norm.weight": (32,),
        "prompts_generator.norm.bias": (32,), "prompts_visual_ln.weight": (64,), "prompts_visual_ln.bias": (64,),
        "prompts_visual_proj": (64, 32),
    }  # fmt: skip
    attention = {"in_proj_weight": (192, 64), "in_proj_bias": (192,), "out_proj.weight": (64, 64), "out_proj.bias": (64,)}
    for n in range(2):
        block = f"visual.transformer.resblocks.{n}.message_"
        shapes |= {f"{block}attn.{name}": size for name, size in attention.items()}
        shapes |= {f"{block}fc.weight": (64, 64), f"{block}fc.bias": (64,), f"{block}ln.weight": (64,), f"{block}ln.bias": (64,)}
        layer = f"prompts_generator.decoder.{n}."
        shapes |= {f"{layer}cross_attn.{part}_proj.weight": (32, 32) for part in "qkv"}
        for name, size in {
            "cross_attn.proj": (32, 32),
            "norm1": (32,),
            "norm3": (32,),
            "mlp.0": (128, 32),
            "mlp.3": (32, 128),
        }.items():
            shapes |= {f"{layer}{name}.weight": size, f"{layer}{name}.bias": size[:1]}
    mixer = {"attn.in_proj_weight": (96, 32), "attn.in_proj_bias": (96,)}
    for name, size in {
        "attn.out_proj": (32, 32),
        "ln_1": (32,),
        "ln_2": (32,),
        "mlp.c_fc": (128, 32),
        "mlp.c_proj": (32, 128),
    }.items():
        mixer |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    shapes |= {f"mit.resblocks.0.{name}": size for name, size in mixer.items()}
    return tensors | drawn({name: torch.zeros(size) for name, size in shapes.items()}, 11)


def xclip(folder: Path) -> str:
    torch.save({"model": video_tensors()}, folder / "k400_16_4.pth")
    return f"xclip:{folder / 'k400_16_4.pth'}"


def segmenter_tensors(classes: int = 3) -> Tensors:
    """A small DenseCLIP segmenter on a vision transformer, names as mmsegmentation has them."""
    _, tensors = clip(quick=True)
    out = {f"backbone.{name.removeprefix('visual.')}": t for name, t in tensors.items() if name.startswith("visual.")}
    out["backbone.positional_embedding"] = torch.randn(17, 64) * 0.1  # 64 pixels
    out |= {f"text_encoder.{name}": t for name, t in tensors.items() if not name.startswith("visual.") and name != "logit_scale"}
    out["text_encoder.positional_embedding"] = out["text_encoder.positional_embedding"][:13].clone()
    shapes: dict[str, tuple[int, ...]] = {
        "contexts": (1, 8, 64),
        "gamma": (32,),
        "decode_head.conv_seg.weight": (classes, 16, 1, 1),
    }
    shapes |= {"decode_head.conv_seg.bias": (classes,)}
    norm = {"weight": (64,), "bias": (64,)}
    for name in ("fpn1.0", "fpn2.0", "fpn3", "fpn4.0"):
        shapes |= {f"backbone.{name}.{kind}": size for kind, size in norm.items()}
    for name in ("fpn1.1", "fpn1.4", "fpn2.1"):
        shapes |= {f"backbone.{name}.weight": (64, 64, 2, 2), f"backbone.{name}.bias": (64,)}
    shapes |= {f"backbone.fpn1.2.{kind}": (64,) for kind in ("weight", "bias", "running_mean", "running_var")}
    for level in range(4):
        inside = 64 + (classes if level == 2 else 0)
        shapes |= {f"neck.lateral_convs.{level}.conv.weight": (16, inside, 1, 1), f"neck.lateral_convs.{level}.conv.bias": (16,)}
        shapes |= {f"neck.fpn_convs.{level}.conv.weight": (16, 16, 3, 3), f"neck.fpn_convs.{level}.conv.bias": (16,)}
        for step in range(max(1, level)):
            head = f"decode_head.scale_heads.{level}.{2 * step}"
            shapes |= {f"{head}.conv.weight": (16, 16, 3, 3)}
            shapes |= {f"{head}.bn.{kind}": (16,) for kind in ("weight", "bias", "running_mean", "running_var")}
    for name, sizes in {"memory_proj": (("0", (32,)), ("1", (64, 32)), ("2", (64,))), "text_proj": (("0", (32,)), ("1", (64, 32))),
                        "out_proj": (("0", (64,)), ("1", (32, 64)))}.items():  # fmt: skip
        for place, size in sizes:
            shapes |= {f"context_decoder.{name}.{place}.weight": size, f"context_decoder.{name}.{place}.bias": size[:1]}
    layer = "context_decoder.decoder.0."
    for part in ("self_attn", "cross_attn"):
        shapes |= {f"{layer}{part}.{side}_proj.weight": (64, 64) for side in "qkv"}
        shapes |= {f"{layer}{part}.proj.weight": (64, 64), f"{layer}{part}.proj.bias": (64,)}
    for name, size in {"norm1": (64,), "norm2": (64,), "norm3": (64,), "mlp.0": (256, 64), "mlp.3": (64, 256)}.items():
        shapes |= {f"{layer}{name}.weight": size, f"{layer}{name}.bias": size[:1]}
    out |= drawn({name: torch.zeros(size) for name, size in shapes.items()}, 12)
    batches = [name.removesuffix("running_mean") for name in out if name.endswith("running_mean")]
    return out | {f"{name}num_batches_tracked": torch.tensor(0) for name in batches}


def segmenter(folder: Path) -> str:
    content = {"state_dict": segmenter_tensors(), "meta": {"CLASSES": ("wall", "sky", "tree"), "epoch": 1}}
    torch.save(content, folder / "segmenter.pth")
    return f"denseclip:{folder / 'segmenter.pth'}"


def of_family(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        published.write(folder / "family", name)
        return f"hf:{folder / 'family'}"

    return make


def field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer's message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


MADE: dict[str, Callable[[Path], str]] = {
    "xclip": xclip, "xclip_hub": xclip_hub, "denseclip_segmenters": segmenter, "coop": coop, "keep": keep, "plip_person": plip_person,
    "alip": of_clip("alip", nested=False, parallel=True), "dreamlip": of_clip("dreamlip", nested=True, parallel=True), "laclip": laclip,
    "laclip_laion": of_clip("laclip", nested=True, parallel=False), "negclip": of_clip("negclip", nested=True, parallel=True),
    "metaclip": of_clip("metaclip", nested=True, parallel=False), "georsclip": of_clip("georsclip", nested=False, parallel=False),
    "svlc": adapted, "tips": tips, "ctp": ctp, "filip": filip, "albef": albef,
    "hf_clip": of_family("CLIPModel"), "hf_siglip": of_family("SiglipModel"), "hf_siglip2": of_family("Siglip2Model"),
    "hf_align": of_family("AlignModel"), "hf_blip": of_family("BlipForImageTextRetrieval"), "hf_altclip": of_family("AltCLIPModel"),
    "hf_chinese_clip": of_family("ChineseCLIPModel"),
}  # fmt: skip
