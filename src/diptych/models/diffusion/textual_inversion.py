"""Learned words as files of textual inversion (Gal et al., 2022, arXiv 2208.01618) that diffusers loads, and back.

With one text encoder the file holds {placeholder: vector}, which `load_textual_inversion(file)` of a Stable Diffusion pipeline
reads. With two it holds "clip_l" and "clip_g"; each is given to the pipeline with its own text encoder and tokenizer, as
diffusers documents for SDXL.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.diffusion.text_to_image import TextToImageModel, with_placeholder
from diptych.models.io.open_address import open_address
from diptych.models.io.tensor_files import read_tensors

ENCODERS = ("clip_l", "clip_g")
"""Names of the two text encoders of SDXL in a file."""


def save_textual_inversion(model: TextToImageModel, path: Path) -> Path:
    """Write the learned word of a model as a .safetensors file. Raises ConfigError for a model without one."""
    from safetensors.torch import save_file

    rows = [row_KD.detach().float().cpu().contiguous() for row_KD in model.model.learned_rows()]
    if not model.placeholder or not rows:
        raise ConfigError(f"'{model.name}' has learned no word (expected a run of reversion)")
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path} (expected a file that ends in .safetensors)")
    names = (model.placeholder,) if len(rows) == 1 else ENCODERS
    save_file(dict(zip(names, rows, strict=True)), path)
    return path


def read_textual_inversion(path: Path) -> tuple[str, list[Tensor]]:
    """The placeholder of a file, "" if it is of two encoders and names none, and the vectors [K, D] of each text encoder.

    Reads ours, the released learned_embeds.bin of ReVersion and those of diffusers. Raises DataError for another file.
    """
    tensors = read_tensors(path)
    if set(tensors) == set(ENCODERS):
        return "", [torch.atleast_2d(tensors[name]).float() for name in ENCODERS]
    if len(tensors) != 1 or next(iter(tensors.values())).ndim not in (1, 2):
        raise DataError(f"holds {len(tensors)} tensors", file=path, expected="one vector under the name of its placeholder")
    ((placeholder, row),) = tensors.items()
    return placeholder, [torch.atleast_2d(row).float()]


def with_learned_word(base: TextToImageModel, placeholder: str, rows: list[Tensor]) -> TextToImageModel:
    """A model with a learned word, whose networks are those of `base` but for the token tables. Raises ConfigError if the
    vectors are not
    as wide as its text encoders, or not one for each."""
    if len(rows) != len(base.model.texts) or base.placeholder:
        raise ConfigError(
            f"{len(rows)} vectors for {len(base.model.texts)} text encoders with the word {base.placeholder!r} "
            "(expected one for each, of a model without a learned word)"
        )
    net = base.model.with_learned_tokens(1)
    for learned_1D, row_KD in zip(net.learned_rows(), rows, strict=True):
        if row_KD.shape != learned_1D.shape:
            raise ConfigError(
                f"a vector {list(row_KD.shape)} for a text encoder of {list(learned_1D.shape)} (expected equal shapes)"
            )
        learned_1D.data.copy_(row_KD)
    words = [with_placeholder(tokenizer, placeholder) for tokenizer in base.tokenizers]
    return TextToImageModel(net.eval(), words, f"{placeholder} on {base.name}", placeholder=placeholder, sampler=base.sampler)


def open_released(address: str) -> TextToImageModel:
    """The model of "reversion:FILE#MODEL": a learned_embeds file on the text-to-image model that it was learned with."""
    file, _, base = address.partition(":")[2].partition("#")
    if not file or not base:
        raise ConfigError(f"{address!r} does not name a file and model (expected reversion:FILE#hf:FOLDER)")
    path = Path(file).expanduser()
    placeholder, rows = read_textual_inversion(path)
    if not placeholder:
        raise DataError("does not name a placeholder", file=path, expected="one vector under the name of its placeholder")
    model = open_address(base)
    if not isinstance(model, TextToImageModel):
        raise ConfigError(f"{base} is not a text-to-image model (expected such as hf:FOLDER of Stable Diffusion 1.5)")
    return with_learned_word(model, placeholder, rows)
