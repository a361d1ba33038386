"""MGCA's checkpoints by address: vectors of the authors' modules on equal weights, full sizes, nothing left over, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.models.io.foreign.parts import build_dual_encoder, check_tensors
from diptych.models.io.releases.mgca import released_parts
from diptych.tasks.domains.head_images import trainable_tower

Tensors = dict[str, Tensor]
PIXELS = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
SHOWN = {
    (401, 300): (
        108.7236328125,
        "0 151 74 135 155 76 0 125 141 54 141 150 0 123 135 139 63 76 0 133 96 "
        "58 138 156 0 139 129 145 68 148 0 139 102 136 152 88 0 122 153 84 138 174",
    ),
    (300, 517): (
        84.24340322066327,
        "0 0 0 0 0 0 0 0 0 0 0 0 125 125 141 104 132 174 168 127 147 "
        "119 127 134 130 98 118 76 97 117 141 107 119 140 131 118 0 0 0 0 0 0",
    ),
}
"""By height and width: mean level of `resize_img` of MGCA at 680fe4a and its `CenterCrop` with OpenCV 5.0; every 37th and 41st pixel."""
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
}
SMALL |= {"max_position_embeddings": 40, "type_vocab_size": 2, "model_type": "bert"}
LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 28996}


def global_head(width: int, middle: int, out: int) -> nn.Module:
    """MGCA's `GlobalEmbedding`."""
    layers = (nn.Linear(width, middle), nn.BatchNorm1d(middle), nn.ReLU(), nn.Linear(middle, out))
    return nn.Sequential(*layers, nn.BatchNorm1d(out, affine=False))


def local_head(width: int, middle: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(width, middle, 1), nn.BatchNorm1d(middle), nn.ReLU(), nn.Conv1d(middle, out, 1))


def authors_modules(vision: str, config: Any, middle: int, out: int) -> tuple[dict[str, nn.Module], Tensors]:
    """The image side, BERT without token types, their heads, and every tensor of a checkpoint."""
    bert = transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False)
    if vision.startswith("resnet"):
        image = getattr(torchvision.models, vision)()
        width, local = image.fc.in_features, 1024 if vision == "resnet50" else 256
        image.fc = nn.Identity()
    else:
        image = timm.create_model(vision, img_size=224, num_classes=0)
        width = local = image.num_features
    text = config["hidden_size"]
    parts = {
        "image": image,
        "image_head": global_head(width, middle, out),
        "text": bert,
        "text_head": global_head(text, middle, out),
    }
    tensors = {f"img_encoder_q.model.{name}": t for name, t in image.state_dict().items()}
    read = {name: t for name, t in bert.state_dict().items() if "token_type" not in name}
    read |= {name.replace(".attention.", ".crossattention."): t for name, t in read.items() if ".attention." in name}
    tensors |= {f"text_encoder_q.model.{name}": t for name, t in read.items()}
    tensors["text_encoder_q.model.embeddings.position_ids"] = torch.zeros(1, 4, dtype=torch.int64)
    for side, own, sizes in (("img", "image_head", local), ("text", "text_head", text)):
        tensors |= {f"{side}_encoder_q.global_embed.head.{name}": t for name, t in parts[own].state_dict().items()}
        tensors |= {
            f"{side}_encoder_q.local_embed.head.{name}": t for name, t in local_head(sizes, middle, out).state_dict().items()
        }
    for name in ("patch_local_atten_layer", "word_local_atten_layer"):
        attention = nn.MultiheadAttention(out, 1, batch_first=True)
        tensors |= {f"{name}.{key}": t for key, t in attention.state_dict().items()}
    return parts, tensors | {"prototype_layer.weight": torch.zeros(500, out)}


def made_up(folder: Path, vision: str) -> tuple[str, dict[str, nn.Module]]:
    torch.manual_seed(0)
    parts, tensors = authors_modules(vision, SMALL, 24, 16)
    for name, tensor in tensors.items():
        if name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn_like(tensor))
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.3 * torch.rand_like(tensor))
    words = folder / "words"
    words.mkdir(exist_ok=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(35))]
    (words / "vocab.txt").write_text("\n".join(pieces))
    (words / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    (words / "config.json").write_text(json.dumps({**SMALL, "num_hidden_layers": 12}))
    torch.save({"state_dict": tensors, "hyper_parameters": {"emb_dim": 16}, "epoch": 3}, folder / f"{vision}.ckpt")
    return f"mgca:{folder / vision}.ckpt#{words}", parts


@pytest.mark.parametrize("vision", ["test_vit", "resnet18"])
def test_a_made_up_checkpoint_gives_the_authors_vectors(vision: str, tmp_path: Path, parity: Any) -> None:
    address, parts = made_up(tmp_path, vision)
    model: Any = dp.load(address)
    for part in parts.values():
        part.eval()
    with torch.no_grad():
        image_BCHW = model.preprocess([PIXELS])
        if vision == "test_vit":
            pooled_BD = parts["image"].forward_features(image_BCHW)[:, 0]  # type: ignore[operator]
        else:
            pooled_BD = parts["image"](F.interpolate(image_BCHW, size=(299, 299), mode="bilinear", align_corners=True))
        bert: Any = parts["text"]
        bert.embeddings.token_type_embeddings.weight.zero_()  # the authors' embeddings have no token types
        first_BD = bert(input_ids=torch.tensor([[2, 6, 7, 3]])).last_hidden_state[:, 0]
        expected = [F.normalize(parts["image_head"](pooled_BD)), F.normalize(parts["text_head"](first_BD))]
    ours = [model.embed_images([ArrayImage(PIXELS)]), model.embed_texts(["w1 w2"])]
    what = f"vectors of an opened checkpoint of MGCA, {'vision transformer' if vision == 'test_vit' else 'residual network'}"
    parity(
        "benchx", what, "timm, torchvision and transformers on equal weights", zip(ours, expected, strict=True), tolerance=1e-5
    )
    pads = model.preprocess([PIXELS])[0]
    assert pads.shape == (3, 224, 224)
    assert (pads[:, 100, :20] == -1).all(), "the long side becomes 256, black beside it, and the middle 224 stay"
    assert trainable_tower(model) is not None, "BenchX tunes it"


@pytest.mark.parametrize("sides", list(SHOWN))
def test_a_radiograph_is_shrunk_as_the_authors_shrink_it(sides: tuple[int, int], tmp_path: Path, parity: Any) -> None:
    y_HW, x_HW = np.mgrid[: sides[0], : sides[1]]
    level_HW = (((x_HW * 37 + y_HW * 91) % 256 + (x_HW // 5 + y_HW // 3) % 97) % 256).astype(np.uint8)
    model: Any = dp.load(made_up(tmp_path, "test_vit")[0])
    shown_HW = model.preprocess.square(np.stack([level_HW] * 3, 2))[..., 0]
    mean, grid = SHOWN[sides]
    pairs = [(shown_HW[::37, ::41].astype(float), np.array(grid.split(), float).reshape(7, 6)), (shown_HW.mean(), np.array(mean))]
    parity(
        "benchx",
        f"pixels of a radiograph for MGCA, {sides[0]} x {sides[1]}",
        "resize_img of MGCA (OpenCV 5.0)",
        pairs,
        tolerance=0,
    )


@pytest.mark.parametrize("vision", ["vit_base_patch16_224", "resnet50"])
def test_every_tensor_of_the_released_sizes_has_a_place(vision: str) -> None:
    with torch.device("meta"):
        _, tensors = authors_modules(vision, LARGE, 2048, 128)
        parts = released_parts(tensors, {**LARGE, "model_type": "bert"})
        model = build_dual_encoder(parts)
    check_tensors(parts.tensors, model.state_dict(), "mgca", absent=("log_scale",))
    assert len(parts.left) + len(parts.tensors) == len(tensors) + 1, "token types of zeros are the one tensor that is added"
    assert parts.text["inner"]["config"]["num_hidden_layers"] == 6
    assert not [name for name in parts.left if "global_embed" in name or ".attention." in name]


def test_what_is_no_mgca_is_refused(tmp_path: Path) -> None:
    address, _ = made_up(tmp_path, "test_vit")
    file, words = tmp_path / "test_vit.ckpt", address.partition("#")[2]
    tensors = torch.load(file)["state_dict"]
    for changed, match in (
        ({**tensors, "stranger": torch.zeros(2)}, "stranger.*does not belong to MGCA"),
        ({name: t for name, t in tensors.items() if name != "text_encoder_q.global_embed.head.3.weight"}, "not in the file"),
        ({name: t for name, t in tensors.items() if name != "img_encoder_q.model.norm.weight"}, "is missing"),
    ):
        torch.save({"state_dict": changed}, tmp_path / "changed.ckpt")
        with pytest.raises((ConfigError, DataError), match=match):
            dp.load(f"mgca:{tmp_path / 'changed.ckpt'}#{words}")
    with pytest.raises(DataError, match="no such file"):
        dp.load(f"mgca:{tmp_path / 'none.ckpt'}#{words}")
    with pytest.raises(ConfigError, match="does not name a checkpoint and a text encoder"):
        dp.load(f"mgca:{file}")
