"""The image encoder of local tokens: a folder of transformers, or a checkpoint of CLIPSelf such as RelationBooth's epoch_6.pt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.io.tensor_files import read_tensors

NAMES = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
)
"""open_clip's names of an image encoder, behind "visual.", and transformers', behind "vision_model."."""


def local_encoder(address: str, config: Any) -> Any:
    """A `CLIPVisionModelWithProjection` of transformers in evaluation mode.

    address  hf:FOLDER, or a file of open_clip's names: state_dict beside what the training left, or alone; "module." before names is cut
    config   `CLIPVisionConfig` of a file's architecture, which is that of the image encoder beside it: the features of both are read
             together. A folder has its own
    Raises DataError for a file of another model.
    """
    from transformers import CLIPVisionModelWithProjection

    path = Path(address.removeprefix("hf:")).expanduser()
    if not path.is_file():
        return CLIPVisionModelWithProjection.from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(path).items()}
    if "visual.conv1.weight" not in tensors:
        raise DataError("contains no image encoder", file=path, expected="visual.conv1.weight and the rest of open_clip's names")
    renamed = from_open_clip(tensors, path)
    with torch.random.fork_rng(devices=[]):
        model = CLIPVisionModelWithProjection(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.endswith("position_ids")}
    for name in sorted(wanted.keys() ^ renamed.keys()):
        state = "missing" if name in wanted else "left over"
        raise DataError(f"tensor {name} is {state}", file=path, expected="an encoder of the image encoder's architecture")
    for name, shape in wanted.items():
        if renamed[name].shape != shape:
            raise DataError(f"tensor {name} is {list(renamed[name].shape)}", file=path, expected=f"{list(shape)}")
    model.load_state_dict(renamed, strict=False)
    return model.eval()


def from_open_clip(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of an image encoder of open_clip under transformers' names; those of its text encoder are left out."""
    renamed: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("visual.")
        if name == full:
            continue
        if name == "proj":
            renamed["visual_projection.weight"] = tensor.T
        elif joint := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.encoder.layers.{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = third
        else:
            pattern, ours = next((rule for rule in NAMES if re.match(rule[0], name)), ("", ""))
            if not pattern:
                raise DataError(f"tensor {full} is unknown", file=path, expected="the names of open_clip's ViT")
            renamed["vision_model." + re.sub(pattern, ours, name)] = tensor
    return renamed
