"""Dual encoder with patches in the joint space, for heat maps of phrases (BioViL, 2204.09817).

Letters: P patches per side, D width, H W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.map_frames import Interpolation, in_frame

SIGMA = 1.5
"""Deviation of the smoothing filter of the map, in patches."""


class PhraseEmbedder(PairEmbedder):
    """`PairEmbedder` that maps phrases, and strips final punctuation (. ! ?) from texts, as CXR-BERT's prompts do."""

    kind: ClassVar[str] = "phrase_encoder"

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return super().embed_texts([text.rstrip("!?.") for text in texts], batch_size=batch_size)

    def embed_prompts(self, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        return super().embed_prompts([text.rstrip("!?.") for text in prompts])

    def embed_earlier(self, image: ImageSource, earlier: ImageSource) -> npt.NDArray[np.float32]:
        """Return the unit-norm vector [D] of an image given a prior one of the same patient,
        by a tower that compares them (BioViL-T).
        """
        if "temporal_image" not in str(self.model.image_tower.spec):
            raise ConfigError(f"'{self.name}' reads one image (expected BioViL-T's weights)")
        both_BCHW = self.preprocess([decode(one, exact=True) for one in (image, earlier)])
        with self._ready() as device:
            pooled_1D = self.model.image_tower(both_BCHW[:1].to(device), both_BCHW[1:].to(device)).pooled_BD
        return F.normalize(pooled_1D[0], dim=0).float().cpu().numpy()

    def map_phrases(
        self, image: ImageSource, phrases: Sequence[str], *, interpolation: Interpolation = "nearest", sigma: float = SIGMA
    ) -> list[npt.NDArray[np.float32]]:
        """Return a map [H, W] for each phrase: cosines of patches, smoothed, in the frame of the original image.

        The map is NaN where preprocessing crops the image.
        """
        pixels_HWC = decode(image, exact=True)
        with self._ready() as device:
            tokens_PPD = self._patches(self.preprocess([pixels_HWC]).to(device))
        text_ND = torch.from_numpy(self.embed_texts(list(phrases)))
        cosine_NPP = torch.einsum("ijd,nd->nij", tokens_PPD, text_ND).numpy()
        smooth = [
            ndimage.gaussian_filter(cosine_PP, sigma=(sigma, sigma), order=0) if sigma else cosine_PP for cosine_PP in cosine_NPP
        ]
        return [in_frame(map_PP, self.preprocess, pixels_HWC.shape[0], pixels_HWC.shape[1], interpolation) for map_PP in smooth]

    def _patches(self, image_1CHW: Any) -> torch.Tensor:
        tokens_PD = self.model.image_tower(image_1CHW).tokens_BPD[0]
        side = round(len(tokens_PD) ** 0.5)
        if side * side != len(tokens_PD) or tokens_PD.shape[1] != self.model.width:
            raise ConfigError(
                f"'{self.name}' has no patches in the joint space (expected a square of vectors, {self.model.width} wide)"
            )
        map_hwD: torch.Tensor = F.normalize(tokens_PD.float(), dim=-1).unflatten(0, (side, side)).cpu()
        return map_hwD
