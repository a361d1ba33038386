"""Text backend of a GGUF file, read by transformers into the same language model as a folder; needs the packages gguf and accelerate.

Weights are de-quantised to float32, so memory is that of the unquantised model. The file's own tokenizer is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from diptych.core.config import config_hash
from diptych.core.errors import DataError, MissingExtra
from diptych.curate.writing.backends.language_folder import LanguageFolder
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.towers.packaged.hf_text import silence_transformers

PIECE = 2**22


class GGUF(LanguageFolder):
    """folder  path of the file"""

    @cached_property
    def model(self) -> LanguageModel:
        for package in ("gguf", "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(package, "gguf", needed_for=f"the file {Path(self.folder).name}")
        path = Path(self.folder)
        try:
            with silence_transformers():
                inner = transformers.AutoModelForCausalLM.from_pretrained(
                    path.parent, gguf_file=path.name, local_files_only=True, dtype=torch.float32
                )
        except Exception as error:  # readers of damaged files raise anything
            raise _unreadable(path, error) from error
        return LanguageModel.adopted(inner).eval()

    @cached_property
    def vocabulary(self) -> LanguageVocabulary:
        path = Path(self.folder)
        try:
            words: Any = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        except Exception as error:  # readers of damaged files raise anything
            raise _unreadable(path, error) from error
        settings = {
            name: str(getattr(words, name)) for name in ("bos_token", "eos_token", "pad_token") if getattr(words, name, None)
        }
        return LanguageVocabulary(Tokenizer.from_json(words.backend_tokenizer.to_str(), str(path), settings), start=True)

    @cached_property
    def identity(self) -> str:
        digest = hashlib.sha256()
        with Path(self.folder).open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
        return config_hash([digest.hexdigest(), self.sampling, self.context])


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
    return DataError(f"transformers cannot read it ({reason})", file=path, expected="a GGUF file of a known architecture")
