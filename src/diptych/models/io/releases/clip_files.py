"""Files of released CLIPs, by the name of the system: "alip:FILE", "dreamlip:FILE", "georsclip:FILE", "laclip:FILE", "metaclip:FILE",
"negclip:FILE", "svlc:FILE".

All are CLIP's architecture (open_clip's names, or SLIP's with a vision transformer of timm) with CLIP's tokenizer, so sizes are those of
the tensors. What no tensor shows is a release's own: the activation, the statistics of pixels, the interpolation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits
from diptych.models.io.foreign.transformers_layout import mlp_ratio
from diptych.models.io.releases.slip_layout import count, is_slip, slip_parts
from diptych.models.io.tensor_files import read_tensors
from diptych.models.pairs.embedder import PairEmbedder

HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
"""Dimensions of an attention head of vision transformers H, g and bigG, by width; 64 in all others."""
_LORA = re.compile(r"(?P<weight>.+\.in_proj_weight)_lora_B|(?P<module>.+)\.lora_B")


@dataclass(frozen=True, slots=True)
class ClipRelease:
    """title    in errors
    quick      widths of the vision transformers whose activations are QuickGELU; None: all, residual networks too
    adapted    tensors may carry low-rank adapters (loralib's), which are merged into the weights
    """

    title: str
    quick: tuple[int, ...] | None = ()
    adapted: bool = False

    def acts_quick(self, width: int) -> bool:
        """True if that model has QuickGELU."""
        return self.quick is None or width in self.quick


CLIP_RELEASES = {
    "alip": ClipRelease("ALIP"),
    "dreamlip": ClipRelease("DreamLIP"),
    "georsclip": ClipRelease("GeoRSCLIP", quick=(768, 1024)),  # B/32 and L/14 start from OpenAI's weights, H/14 from LAION's
    "laclip": ClipRelease("LaCLIP", quick=(1024,)),  # the authors evaluate L/14 alone with --quickgelu
    "metaclip": ClipRelease("MetaCLIP", quick=None),
    "negclip": ClipRelease("NegCLIP"),  # ARO's authors evaluate it as open_clip's ViT-B-32, which has GELU
    "svlc": ClipRelease("TSVLC", quick=None, adapted=True),
}
"""Prefix of an address -> what its tensors do not show."""


def open_released(spec: str) -> PairEmbedder:
    """The dual encoder of "NAME:FILE", NAME one of `CLIP_RELEASES`. Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or not one of tensors, or has one too many or too few; ConfigError for another
    architecture.
    """
    name, _, path = spec.partition(":")
    if not path:
        raise ConfigError(f"{spec!r} does not name a file (expected {name}:FILE)")
    file, release = Path(path).expanduser(), CLIP_RELEASES[name]
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=f"the released weights of {release.title}")
    tensors = {key.removeprefix("module."): tensor for key, tensor in read_tensors(file).items()}
    try:
        parts = released_parts(tensors, release)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    words = Tokenizer.from_spec("clip")
    check_fits(words, parts.text, spec)
    model = load_dual_encoder(parts, str(file))
    side, length = int(parts.image["image_size"]), int(parts.text["length"])
    embedder = PairEmbedder(model, preprocess_of(side, slip=is_slip(tensors)), words, length, spec)
    embedder.left = parts.left
    return embedder


def preprocess_of(side: int, *, slip: bool) -> Preprocess:
    """The authors' image settings: CLIP's, or of SLIP's layout ImageNet's statistics and a bilinear filter."""
    return Preprocess(side, IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear") if slip else Preprocess(side)


def released_parts(tensors: Mapping[str, Tensor], release: ClipRelease) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`. Raises ConfigError for tensors that are no CLIP's."""
    if is_slip(tensors):
        return slip_parts(tensors)
    if release.adapted:
        tensors = merged(tensors)
    return open_clip_parts(clip_settings(tensors, release), tensors)


def clip_settings(tensors: Mapping[str, Tensor], release: ClipRelease) -> dict[str, Any]:
    """Configuration of open_clip inferred from the tensors."""
    needed = ("token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "logit_scale")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {', '.join(lost)} (expected the weights of {release.title}, a CLIP)")
    length, width = tensors["positional_embedding"].shape
    vision = _vit(tensors) if "visual.class_embedding" in tensors else _resnet(tensors, release)
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": length,
            "vocab_size": len(tensors["token_embedding.weight"]),
            "width": width,
            "heads": max(1, width // 64),
            "layers": count(r"transformer\.resblocks\.(\d+)\..+", tensors),
        },
        "quick_gelu": release.acts_quick(int(vision["width"])),
    }


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with loralib's low-rank updates added to the weights that they adapt: B A / rank, since the release's alpha is 1.

    As in the release's own evaluation, which takes the weights in the file as not merged yet. Raises ConfigError for an update
    without its weight.
    """
    out = {name: tensor for name, tensor in tensors.items() if not name.endswith(("lora_A", "lora_B"))}
    for name in tensors:
        if not (match := _LORA.fullmatch(name)):
            continue
        weight, other = match["weight"] or f"{match['module']}.weight", f"{name[:-1]}A"
        if weight not in out or other not in tensors:
            raise ConfigError(f"{name} has no {weight if weight not in out else other} beside it (expected both)")
        first_RI, second_OR, base = tensors[other], tensors[name], out[weight]
        side = base.shape[-1] if base.ndim == 4 else 1  # of a convolution both ranks are multiplied by its side
        if second_OR.shape[1] != len(first_RI) or second_OR.shape[0] * first_RI.shape[1] != base.numel() or len(first_RI) % side:
            shown = f"{name} is {list(second_OR.shape)} beside {list(first_RI.shape)}"
            raise ConfigError(f"{shown} (expected an update of {weight}, {list(base.shape)})")
        out[weight] = base + (second_OR @ first_RI).view(base.shape) * (side / len(first_RI))
    return out


def _vit(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.transformer.resblocks.0.mlp.c_fc.weight")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {', '.join(lost)} (expected CLIP's vision transformer)")
    width, patch = tensors[needed[0]].shape[0], tensors[needed[0]].shape[-1]
    return {
        "image_size": patch * round((len(tensors[needed[1]]) - 1) ** 0.5),
        "layers": count(r"visual\.transformer\.resblocks\.(\d+)\..+", tensors),
        "width": width,
        "head_width": HEAD_WIDTHS.get(width, min(64, width)),
        "patch_size": patch,
        "mlp_ratio": mlp_ratio(width, len(tensors[needed[2]])),
    }


def _resnet(tensors: Mapping[str, Tensor], release: ClipRelease) -> dict[str, Any]:
    needed = ("visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {', '.join(lost)} (expected the weights of {release.title}, a CLIP)")
    return {
        "image_size": 32 * round((len(tensors[needed[1]]) - 1) ** 0.5),
        "layers": tuple(count(rf"visual\.layer{stage}\.(\d+)\..+", tensors) for stage in (1, 2, 3, 4)),
        "width": len(tensors[needed[0]]),
        "patch_size": None,
    }
