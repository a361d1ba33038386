"""A trained dual encoder, or heads over frozen encoders, as two ONNX files.  Letters: B batch, C channel, H W, L tokens, D width."""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import MissingExtra
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.export.transformers_folder import refuse_other_vectors
from diptych.models.io.inference import evaluating
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.frozen.locked import LockedEmbedder

OPSET = 17
FORMAT = 2
"""Of `onnx.json`. In format 1 the inputs are called image, ids and mask, and the mask is of bools."""
PIXELS, IDS, MASK = "pixel_values", "input_ids", "attention_mask"
ONNX_FILE = "onnx.json"


class _Image(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.model.encode_image(image_BCHW)


class _Text(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return self.model.encode_text(text_BL, mask_BL.bool())


class _FrozenImage(nn.Module):
    """A frozen encoder and the head that was trained on its features."""

    def __init__(self, tower: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, image_BCHW: Tensor) -> Tensor:
        embedded_BD: Tensor = self.head(self.tower(image_BCHW).pooled_BD)
        return embedded_BD


class _FrozenText(nn.Module):
    def __init__(self, tower: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        embedded_BD: Tensor = self.head(l2_normalise(self.tower(text_BL, mask_BL.bool()).pooled_BD))
        return embedded_BD


@dataclass(frozen=True, slots=True)
class _ExportModules:
    """Image and text modules to export, with the preprocessing and the sizes that go with them."""

    image: nn.Module
    text: nn.Module
    preprocess: Preprocess
    tokenizer: Tokenizer
    length: int
    width: int
    dims: tuple[int, ...] = ()


def to_onnx(embedder: PairEmbedder | LockedEmbedder, folder: Path) -> None:
    """Write image.onnx (pixel_values -> embedding), text.onnx (input_ids, attention_mask -> embedding), tokenizer.json,
    preprocess.json, and onnx.json, which names the exported model. Inputs are called and typed as transformers' are: int64 ids and
    mask [batch, length], float32 pixels [batch, 3, height, width]. A text tower that pools at the end of the text reads no mask,
    and its text.onnx has no such input.

    The batch is free in both; texts are padded to the model's text length. Images go in preprocessed; embeddings come out
    unit-norm. Of heads over frozen encoders both go into the files.
    """
    try:
        import onnx  # noqa: F401  # the exporter needs it, and would say so less clearly
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", needed_for="ONNX export") from error
    halves = _locked_halves(embedder) if isinstance(embedder, LockedEmbedder) else _pair_halves(embedder)
    side, length = halves.preprocess.size, halves.length
    image_BCHW = torch.zeros(2, 3, halves.preprocess.height or side, side)
    text_BL, mask_BL = torch.zeros(2, length, dtype=torch.long), torch.ones(2, length, dtype=torch.long)
    with atomic_folder(Path(folder)) as work, evaluating(halves.image), evaluating(halves.text):
        _write(halves.image, (image_BCHW,), work / "image.onnx", [PIXELS])
        _write(halves.text, (text_BL, mask_BL), work / "text.onnx", [IDS, MASK])
        halves.tokenizer.save(work)
        settings = json.loads((work / "tokenizer_config.json").read_text(encoding="utf-8"))
        write_json(work / "tokenizer_config.json", {**settings, "model_max_length": length})
        write_json(work / "preprocess.json", {**halves.preprocess.to_json(), "text_length": length})
        facts = {"name": embedder.name, "fingerprint": embedder.fingerprint, "width": halves.width, "dims": list(halves.dims)}
        write_json(work / ONNX_FILE, {"format": FORMAT, **facts})


def _pair_halves(embedder: PairEmbedder) -> _ExportModules:
    refuse_other_vectors(embedder)
    model = embedder.model
    settings = embedder.preprocess, embedder.tokenizer, embedder.text_length
    return _ExportModules(_Image(model), _Text(model), *settings, model.width, embedder.dims)


def _locked_halves(embedder: LockedEmbedder) -> _ExportModules:
    """The frozen encoders in full precision, whatever the features were computed in."""
    with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:  # the tokenizer of the text encoder, read as one of ours
        if isinstance(embedder.tokenizer, Tokenizer):
            embedder.tokenizer.save(Path(scratch))
        else:
            embedder.tokenizer.inner.save_pretrained(scratch)
        tokenizer = Tokenizer.load(Path(scratch))
    heads, images, texts = embedder.heads, embedder.images, embedder.texts
    halves = _FrozenImage(images.tower, heads.image_head), _FrozenText(texts.tower, heads.text_head)
    return _ExportModules(*halves, images.preprocess, tokenizer, texts.length, heads.width)


def _write(module: nn.Module, example: tuple[Tensor, ...], path: Path, names: list[str]) -> None:
    free = {name: {0: "batch"} for name in [*names, "embedding"]}
    # The older exporter: it needs nothing but `onnx`, and keeps the batch free without constraints to solve.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)  # our shape checks become constants, as they should
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Exporting aten::index", UserWarning)  # our indices are not negative
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=names,
            output_names=["embedding"],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
