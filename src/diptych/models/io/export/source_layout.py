"""A tuned model back into the layout that its weights came from: every tensor of theirs that ours was made of gets its new values.

The way in (`transformers_layout`, `open_clip_layout`) renames, joins and reshapes. It is walked once with the places of their numbers in
place of the numbers; what arrives under our names says where each of our numbers belongs. So the way back holds for every family that
has a way in, and what ours has no part for (a captioner, a pooler) stays as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.core.disk.files import atomic_folder
from diptych.core.errors import ConfigError, UnknownName
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.tensor_files import read_tensors
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.packaged.hf_text import silence_transformers

OPEN_CLIP_FILE = "open_clip_model.safetensors"
"""The name under which open_clip looks for weights in a folder."""

Layout = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Their tensors to ours."""
SCALE = "log_scale"
LOGARITHM = "temperature"
"""ALIGN's, by which similarities are divided: the one tensor whose value changes on the way in."""


def in_their_layout(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Their state dict with our values. A class that has no temperature (BLIP's matcher) goes without ours. Raises ConfigError for a tensor
    that has no place there, or another size."""
    spans, flat, offset = {}, [], 0
    for name, tensor in theirs.items():
        count = tensor.numel()
        spans[name] = (offset, count)
        flat.append(tensor.detach().reshape(-1).to(torch.float64))
        offset += count
    numbered = {
        name: torch.arange(begin, begin + count, dtype=torch.float64).reshape(theirs[name].shape)
        for name, (begin, count) in spans.items()
    }
    if LOGARITHM in numbered:  # the way in takes its logarithm, which would lose the place
        numbered[LOGARITHM] = numbered[LOGARITHM].neg().exp()
    values = torch.cat(flat)
    arrived = layout(numbered)
    for name, tensor in ours.items():
        if name == SCALE and name not in arrived:
            continue
        if name not in arrived:
            raise ConfigError(f"'{name}' does not belong to the model that the weights came from (export without --like)")
        target = arrived[name]
        if target.shape != tensor.shape:
            raise ConfigError(
                f"'{name}' is {list(tensor.shape)} here and {list(target.shape)} where the weights came from: it was made for another "
                "size or length (export without --like)"
            )
        given = tensor.detach().cpu().reshape(-1).to(torch.float64)
        values[_places(target, spans, name)] = (-given).exp() if name == SCALE and LOGARITHM in theirs else given
    return {
        name: values[begin : begin + count].reshape(theirs[name].shape).to(theirs[name].dtype).contiguous()
        for name, (begin, count) in spans.items()
    }


def _places(target: Tensor, spans: Mapping[str, tuple[int, int]], name: str) -> Tensor:
    if name == SCALE and LOGARITHM in spans:
        return torch.tensor([spans[LOGARITHM][0]])
    return target.reshape(-1).round().long()


def to_same_class(embedder: PairEmbedder, like: str, folder: Path) -> None:
    """Writes a folder of transformers with the class, the files and the untouched tensors of the one that a model started from.

    like  that folder, with or without "hf:" before it
    """
    import transformers

    source = Path(like.removeprefix("hf:")).expanduser()
    if not (source / "config.json").is_file():
        raise ConfigError(f"--like {like}: no folder of transformers (expected the folder that the weights came from)")
    plain = json.loads((source / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES.get(plain.get("model_type", ""))
    if family is None:
        raise ConfigError(f"--like {like}: model_type is {plain.get('model_type')!r} (expected {' | '.join(FAMILIES)})")
    named = next(iter(plain.get("architectures") or ()), family.classes[0])
    kind: Any = getattr(transformers, named if named in family.classes else family.classes[0])
    with silence_transformers():
        theirs = kind.from_pretrained(str(source), local_files_only=True).float()
    config = theirs.config.to_dict()
    tensors = in_their_layout(
        theirs.state_dict(), embedder.model.state_dict(), lambda given: family.parts(config, given, kind.__name__).tensors
    )
    theirs.load_state_dict(tensors)
    with atomic_folder(Path(folder)) as work:
        theirs.save_pretrained(work)
        for path in source.iterdir():
            beside = path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json")
            if beside and path.is_file() and not (work / path.name).exists():
                shutil.copy(path, work / path.name)


def to_open_clip_like(embedder: PairEmbedder, like: str, folder: Path) -> None:
    """Writes the state dict of an open_clip architecture, as open_clip_model.safetensors, with the tensors of the file that a model
    started from where ours has no part for them (a captioner).

    like  "open_clip:ARCH/FILE", what the run started from
    """
    import open_clip

    name, _, weights = like.removeprefix("open_clip:").partition("/")
    path = Path(weights.partition("#")[0]).expanduser()
    if not path.is_file():
        raise ConfigError(f"--like {like}: no such file (expected open_clip:ARCH/FILE, what the run started from)")
    settings: dict[str, Any] = open_clip.get_model_config(name) or {}
    if not settings:
        raise UnknownName("open_clip architecture", name, open_clip.list_models())
    encoder = getattr(embedder.model.text_tower, "spec", {}).get("encoder")
    tensors = in_their_layout(
        read_tensors(path), embedder.model.state_dict(), lambda given: open_clip_parts(settings, given, encoder).tensors
    )
    with atomic_folder(Path(folder)) as work:
        save_file(tensors, work / OPEN_CLIP_FILE)
