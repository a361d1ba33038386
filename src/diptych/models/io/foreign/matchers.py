"""Load cross-encoders by address: ours (recipe `fused`), and transformers folders of BLIP for retrieval.

Letters: B batch, M pairs, N items, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.contracts import MatchMap
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.run_folder import RunFolder
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess, visible_share
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.folder import read_config
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.embedder import Embedding
from diptych.models.pairs.matching.embedder import CrossEncoder, MatcherModel
from diptych.models.pairs.matching.match_maps import grad_times_attention
from diptych.models.pairs.matching.matcher import SideFeatures


@dataclass(frozen=True)
class MatcherInputs:
    """Preprocessing and tokenizer of a matcher, available without its weights for loader workers."""

    preprocess: Preprocess
    tokenizer: Tokenizer
    text_length: int


@lru_cache(maxsize=4)
def reader_inputs(address: str) -> MatcherInputs:
    """Return the image settings and the tokenizer of a matcher at an address; see `open_matcher`."""
    folder = _folder(address)
    if address.startswith("hf:"):
        from diptych.models.io.foreign.preprocess import from_processor
        from diptych.models.io.foreign.tokenizer import from_transformers
        from diptych.models.io.foreign.transformers_layout import FAMILIES

        _check_blip(address, folder)
        return MatcherInputs(from_processor(folder, "blip"), from_transformers(folder), FAMILIES["blip"].text_length)
    config = read_config(folder, MatcherModel.kind)
    return MatcherInputs(Preprocess.from_json(config["preprocess"]), Tokenizer.load(folder), config["text_length"])


def open_matcher(address: str) -> MatcherModel | BlipMatcher:
    """Load a matcher that scores pairs.

    address  a run or model folder of recipe `fused`, or "hf:FOLDER" of a BlipForImageTextRetrieval
    Raises ConfigError for another model, DataError for a folder that lacks a tensor.
    """
    inputs = reader_inputs(address)
    if not address.startswith("hf:"):
        return MatcherModel.load(_folder(address))
    return BlipMatcher(BlipPairMatcher(_folder(address)), inputs, address)


def _folder(address: str) -> Path:
    if address.startswith("hf:"):
        from diptych.models.io.foreign.hub_folder import hub_folder

        return hub_folder(address, address.removeprefix("hf:"), download=False)
    folder = Path(address)
    if (folder / "run.json").is_file():
        if not (folder / "model" / "config.json").is_file():
            raise ConfigError(f"{folder} contains no model yet: its run is {RunFolder.open(folder).state['status']}")
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{address} is not a matcher (expected a run of recipe fused, or hf:FOLDER of a BLIP for retrieval)")
    return folder


def _check_blip(address: str, folder: Path) -> None:
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind, names = plain.get("model_type"), plain.get("architectures") or ["BlipForImageTextRetrieval"]
    if kind != "blip" or names != ["BlipForImageTextRetrieval"]:
        raise ConfigError(f"{address} is {names[0]} of {kind!r}, which matches no pairs (expected a BlipForImageTextRetrieval)")


class MappingMatcher(nn.Module, ABC):
    """`PairMatcher` (`matching.matcher`) that also maps the tokens of a text to the picture.

    layers  of the text model, counted from 0
    """

    width: int
    fused_width: int

    @property
    @abstractmethod
    def layers(self) -> int: ...

    @abstractmethod
    def read_images(self, image_BCHW: Tensor) -> SideFeatures: ...

    @abstractmethod
    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures: ...

    @abstractmethod
    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def map_match(self, image_1CHW: Tensor, text_1L: Tensor, mask_1L: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The log-odds that one picture and one text fit, and [L, P] attention times gradient at a layer, without the class token."""

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return self.read_images(image_BCHW).vector_ND

    def encode_text(self, text_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        assert mask_BL is not None
        return self.read_texts(text_BL, mask_BL).vector_ND


class BlipPairMatcher(MappingMatcher):
    """`PairMatcher` of transformers' `BlipForImageTextRetrieval`.
    A text is encoded again with each picture, so its ids are kept.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        import transformers

        from diptych.models.towers.packaged.hf_text import silence_transformers

        with silence_transformers():
            inner, report = transformers.BlipForImageTextRetrieval.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        if missing := [name for name in report["missing_keys"] if not name.endswith("position_ids")]:
            raise DataError(
                f"tensor {min(missing)} is missing", file=folder, expected="the weights of a BlipForImageTextRetrieval"
            )
        self.inner: Any = inner.float().eval()
        self.width = int(self.inner.config.image_text_hidden_size)
        self.fused_width = int(self.inner.config.text_config.hidden_size)

    @property
    def layers(self) -> int:
        return len(self.inner.text_encoder.encoder.layer)

    def read_images(self, image_BCHW: Tensor) -> SideFeatures:
        tokens_BPD = self.inner.vision_model(pixel_values=image_BCHW).last_hidden_state
        mask_BP = tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool)
        return SideFeatures(l2_normalise(self.inner.vision_proj(tokens_BPD[:, 0])), tokens_BPD, mask_BP)

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures:
        state_BLD = self.inner.text_encoder(input_ids=text_BL, attention_mask=mask_BL.long()).last_hidden_state
        return SideFeatures(l2_normalise(self.inner.text_proj(state_BLD[:, 0])), text_BL, mask_BL)

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        fused_MLD = self.inner.text_encoder(
            input_ids=text.state_N,
            attention_mask=text.mask_NT.long(),
            encoder_hidden_states=image.state_N,
            encoder_attention_mask=image.mask_NT.long(),
        ).last_hidden_state
        answer_M2 = self.inner.itm_head(fused_MLD[:, 0])
        return answer_M2[:, 1] - answer_M2[:, 0], fused_MLD[:, 0]

    def map_match(self, image_1CHW: Tensor, text_1L: Tensor, mask_1L: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The log-odds that one picture and one text fit, and [L, P] attention times gradient at a layer, without the class token."""
        shares: list[Tensor] = []
        reading = self.inner.text_encoder.encoder.layer[layer].crossattention.self
        watch = reading.register_forward_hook(lambda module, inputs, output: shares.append(output[1]))
        try:
            with torch.no_grad():
                tokens_1PD = self.inner.vision_model(pixel_values=image_1CHW).last_hidden_state
            with torch.enable_grad():
                fused_1LD = self.inner.text_encoder(
                    input_ids=text_1L, attention_mask=mask_1L.long(), encoder_hidden_states=tokens_1PD
                ).last_hidden_state
                answer_12 = self.inner.itm_head(fused_1LD[:, 0])
                weight_LP = grad_times_attention(shares[0], answer_12[0, 1])[0]
        finally:
            watch.remove()
        return (answer_12[0, 1] - answer_12[0, 0]).detach(), weight_LP[:, 1:]


MAP_LAYER = 8
"""The layer of ALBEF that GroundVLP uses; for a model with fewer layers, the one at two thirds of the depth."""


class BlipMatcher(Embedding):
    """BLIP for retrieval: vectors for candidates, match scores of pairs, and relevance maps of texts."""

    fits_above: ClassVar[float] = 0.0

    def __init__(self, reader: MappingMatcher, inputs: MatcherInputs, name: str) -> None:
        super().__init__(reader, inputs.preprocess, inputs.tokenizer, inputs.text_length, name)
        self.matcher = reader
        self.readings = CrossEncoder(self, reader)

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Return log-odds [N, K] that image and text match, the same for either `query`: N * K forward passes."""
        return self.readings.score(images, texts)

    def map_match(self, image: ImageSource, texts: Sequence[str], *, layer: int | None = None) -> list[MatchMap]:
        """Return relevance maps over the picture for each token of each text.

        `layer` counts layers of the text model from 0; None takes the ninth, or the one at two thirds of the depth.
        Raises ConfigError for a layer that does not exist.
        """
        count = self.matcher.layers
        layer = (MAP_LAYER if count > MAP_LAYER else 2 * count // 3) if layer is None else layer
        if not 0 <= layer < count:
            raise ConfigError(f"layer is {layer} (expected 0..{count - 1}, the text layers of '{self.name}')")
        pixels_HWC = decode(image, exact=True)
        box = visible_share(self.preprocess, pixels_HWC.shape[1], pixels_HWC.shape[0])
        maps = []
        with self._ready() as device:
            image_1CHW = self.preprocess([pixels_HWC]).to(device)
            for text in texts:
                encoded = self.tokenizer.encode([text], self.text_length)
                self.truncated += encoded.truncated
                length = int(encoded.mask_BL.sum())
                text_1L, mask_1L = (torch.from_numpy(rows[:, :length]).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
                score, weight_LP = self.matcher.map_match(image_1CHW, text_1L, mask_1L, layer)
                side = math.isqrt(weight_LP.shape[1])
                grid_LHW = weight_LP.unflatten(1, (side, side)).float().cpu().numpy()
                offset_L2 = _offsets(self.tokenizer, text, self.text_length)[:length]
                maps.append(MatchMap(float(score), grid_LHW, offset_L2, box))
        return maps


def _offsets(tokenizer: Any, text: str, length: int) -> npt.NDArray[np.int64]:
    offsets: npt.NDArray[np.int64] = tokenizer.offsets(text, length)
    return offsets
