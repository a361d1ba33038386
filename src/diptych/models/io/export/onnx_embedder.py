"""A dual encoder that `export.to_onnx` wrote, run by ONNX Runtime: the same numbers up to rounding, and on CPUs often faster.

Letters: B batch, L tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.core.contracts import Unit
from diptych.core.errors import MissingExtra, RunError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.device import choose_device, onnx_providers
from diptych.models.io.export.onnx_files import IDS, MASK, ONNX_FILE
from diptych.models.io.inference import parts


class OnnxEmbedder:
    """Embeds images and texts. It carries the fingerprint of the model that it was made from, whose indexes it searches."""

    def __init__(self, folder: Path | str, *, threads: int = 0, device: str = "auto") -> None:
        """threads: of one computation; 0 takes every core. device: where the installed ONNX Runtime has a provider for it."""
        folder = Path(folder)
        if not (folder / ONNX_FILE).is_file():
            raise RunError(f"{folder} has no {ONNX_FILE} (expected a folder that `diptych export --to onnx` wrote)")
        facts = json.loads((folder / ONNX_FILE).read_text(encoding="utf-8"))
        self.name, self.fingerprint, self.width = str(facts["name"]), str(facts["fingerprint"]), int(facts["width"])
        self.dims = tuple(facts.get("dims", ()))
        plain = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        self.text_length = int(plain.pop("text_length"))
        self.preprocess, self.tokenizer = Preprocess.from_json(plain), Tokenizer.load(folder)
        self._image, self._text = (
            _session(folder / file, threads, choose_device(device)) for file in ("image.onnx", "text.onnx")
        )
        self._inputs = {entry.name: entry.type for entry in self._text.get_inputs()}
        self._pixels = self._image.get_inputs()[0].name
        self.truncated = 0

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        rows = [
            self._image.run(None, {self._pixels: self.preprocess([decode(image, exact=True) for image in part]).numpy()})[0]
            for part in parts(images, batch_size)
        ]
        return self._rows(rows)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        rows = []
        for part in parts(texts, batch_size):
            encoded = self.tokenizer.encode(list(part), self.text_length)
            self.truncated += encoded.truncated
            given = {IDS: encoded.ids_BL, MASK: encoded.mask_BL, "ids": encoded.ids_BL, "mask": encoded.mask_BL}
            inputs = {n: given[n] if "bool" in kind else given[n].astype("int64") for n, kind in self._inputs.items()}
            rows.append(self._text.run(None, inputs)[0])
        return self._rows(rows)

    def _rows(self, blocks: Sequence[Any]) -> Unit:
        return np.concatenate(blocks).astype(np.float32) if blocks else np.zeros((0, self.width), np.float32)


def _session(file: Path, threads: int, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", needed_for="the engine onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=onnx_providers(device))
