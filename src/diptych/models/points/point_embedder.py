"""Inference with a trained `PointEncoder`: embeds clouds, images and texts as unit vectors of one space; saved as one folder.

Letters: N items, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from diptych.core.contracts import Unit
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.data.media.cloud_views import Points as Cloud
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.towers import tower_settings
from diptych.models.towers.towers import image_tower, text_tower


class PointCloudEmbedder:
    """Trained ULIP: a `PointEmbedder` of clouds, and an `Embedder` of images and texts by the frozen towers that it was aligned
    with.
    """

    kind: ClassVar[str] = "point_encoder"

    def __init__(
        self,
        model: PointEncoder,
        clouds: CloudPreprocess,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        towers: Mapping[str, Any],
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """`clouds`: how a cloud is read. `towers`: the specs of the frozen towers ("image", "text") and of their projections,
        from `towers_of`.
        """
        self.model, self.clouds, self.preprocess, self.tokenizer = model, clouds, preprocess, tokenizer
        self.text_length, self.name, self.towers, self.card = text_length, name, dict(towers), dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        shown = {"clouds": self.clouds.to_json(), "preprocess": self.preprocess.to_json(), "text_length": self.text_length}
        return fingerprint(self.model, shown)

    def embed_points(self, clouds: Sequence[Cloud], *, batch_size: int = 16) -> Unit:
        """Return unit vectors [N, D] of clouds [P, 3 + F]. Raises DecodeError for a cloud that is empty or not finite."""
        blocks = []
        with torch.no_grad(), evaluating(self.model):
            for part in parts(clouds, batch_size):
                point_NPF = np.stack([self.clouds(cloud_PF) for cloud_PF in part])
                dtype, device = self.model.projection.weight.dtype, self.model.log_scale.device
                blocks.append(self.model.encode_points(torch.from_numpy(point_NPF).to(device, dtype)).float().cpu())
        return self._joined(blocks)

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        """Return unit vectors [N, D] of the frozen image tower."""
        blocks = []
        with torch.no_grad(), evaluating(self.model):
            for part in parts(images, batch_size):
                image_NCHW = self.preprocess([decode(image, exact=True) for image in part])
                blocks.append(self.model.encode_image(image_NCHW.to(self.model.log_scale.device)).float().cpu())
        return self._joined(blocks)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Return unit vectors [N, D] of the frozen text tower. Texts of more than `text_length` tokens are truncated."""
        blocks, device = [], self.model.log_scale.device
        with torch.no_grad(), evaluating(self.model):
            for part in parts(texts, batch_size):
                words = self.tokenizer.encode(list(part), self.text_length)
                ids_NL, mask_NL = torch.from_numpy(words.ids_BL).to(device), torch.from_numpy(words.mask_BL).to(device)
                blocks.append(self.model.encode_text(ids_NL, mask_NL).float().cpu())
        return self._joined(blocks)

    def _joined(self, blocks: list[torch.Tensor]) -> Unit:
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, self.model.width), np.float32)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.towers["image"],
            "text_tower": self.towers["text"],
            "towers": self.towers,
            "width": self.model.width,
            "points": self.model.settings.to_json(),
            "scale": self.model.scale_of,
            "clouds": self.clouds.to_json(),
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "card": self.card,
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            anchor = anchor_of(config["towers"], config["width"])
            model = PointEncoder(anchor, tower_settings(config["points"]), scale=config["scale"])
        load_weights(model, folder)
        return cls(
            model.eval(),
            CloudPreprocess.from_json(config["clouds"]),
            Preprocess.from_json(config["preprocess"]),
            Tokenizer.load(folder),
            config["text_length"],
            config["name"],
            towers=config["towers"],
            card=config.get("card"),
        )


def towers_of(encoder: DualEncoder) -> dict[str, Any]:
    """Return plain JSON values from which `anchor_of` rebuilds the dual encoder."""
    return {
        "image": encoder.image_tower.spec,
        "text": encoder.text_tower.spec,
        "bias": encoder.bias is not None,
        "project_image": encoder.project_image,
        "project_text": encoder.project_text,
        "projection_bias": encoder.projection_bias,
        "max_scale": encoder.max_scale,
    }


def anchor_of(towers: Mapping[str, Any], width: int) -> DualEncoder:
    """Return a newly initialised dual encoder of the towers that `towers_of` describes."""
    return DualEncoder(
        image_tower(**towers["image"]),
        text_tower(**towers["text"]),
        width=width,
        bias=0.0 if towers["bias"] else None,
        project_image=towers["project_image"],
        project_text=towers["project_text"],
        projection_bias=towers["projection_bias"],
        max_scale=towers["max_scale"],
        scale=1.0,
    )
