"""A trained `VideoEncoder` ready for use: clips in, vectors or scores of class names out; saved as one folder.

Letters: N clips, K texts, V views, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.inputs import one_or_many
from diptych.core.media import MediaItem
from diptych.data.media.clip_views import Reading, clip_views
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.video.video_encoder import VideoEncoder, VideoSettings


class VideoEmbedder:
    """A trained X-CLIP: a `ClipEmbedder`, and a `ClipScorer` of any class names.

    Its text vectors depend on the clip, so use scores and not vectors; `embed_texts` gives text vectors without a clip's influence.
    `clips` and `crops` are the views of a test: softmax over the texts is taken in each view and averaged, as published.
    """

    kind: ClassVar[str] = "video_encoder"

    def __init__(
        self,
        model: VideoEncoder,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        towers: Mapping[str, Any],
        classes: Sequence[str] = (),
        reading: Reading = "released",
        drawn: bool = False,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """`towers`: image and text, the specs of both towers; bias, project_image and max_scale of the dual encoder. How frames are
        read, and whether several views are drawn: see `clip_views`."""
        self.reading, self.drawn = reading, drawn
        self.model, self.preprocess, self.tokenizer, self.text_length = model, preprocess, tokenizer, text_length
        self.name, self.towers, self.classes, self.card = name, dict(towers), tuple(classes), dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        shown = {"reading": self.reading, "drawn": self.drawn}
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, **shown})

    def embed_clips(self, clips: Sequence[MediaItem], *, batch_size: int = 8) -> Unit:
        """Unit vectors [N, D]: the middle crop of the middle frames."""
        blocks = []
        with torch.no_grad(), evaluating(self.model):
            for part in parts(clips, batch_size):
                blocks.append(self.model.encode_clips(self._views(part, 1, 1)[:, 0])[0].float().cpu())
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, self.model.width), np.float32)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Unit vectors [K, D] of class names before any clip."""
        with torch.no_grad(), evaluating(self.model):
            self._set(texts)
            return l2_normalise(self.model.texts()).float().cpu().numpy()

    def score_clips(
        self, clips: Sequence[MediaItem], texts: Sequence[str], *, views: int = 1, crops: int = 1, batch_size: int = 8
    ) -> npt.NDArray[np.float32]:
        """[N, K]: with one view the logits, with several the mean over views of their softmax."""
        blocks = []
        with torch.no_grad(), evaluating(self.model):
            self._set(texts)
            text_KJ = self.model.texts()
            for part in parts(clips, batch_size):
                view_NVTCHW = self._views(part, views, crops)
                clip_BJ, patch_BPJ = self.model.encode_clips(view_NVTCHW.flatten(0, 1))
                logit_NVK = self.model.logits(clip_BJ, patch_BPJ, text_KJ).unflatten(0, (len(part), -1))
                blocks.append((logit_NVK[:, 0] if views * crops == 1 else logit_NVK.softmax(-1).mean(1)).float().cpu())
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, len(texts)), np.float32)

    def _set(self, texts: Sequence[str]) -> None:
        """Bare names, as published. One that does not fit is refused."""
        self.model.set_classes(class_prompts(texts, self.tokenizer, self.text_length, context=0, tail="", fitted=True))

    def _views(self, clips: Sequence[MediaItem], views: int, crops: int) -> Tensor:
        """[N, V, T, C, H, W]."""
        frames, size = self.model.settings.frames, self.preprocess.size
        how: dict[str, Any] = {"clips": views, "crops": crops, "reading": self.reading, "drawn": self.drawn}
        clips_viewed = [clip_views(clip, frames, size, uid=clip.name, **how) for clip in clips]
        pixels_NHWC = np.stack(clips_viewed).reshape(-1, size, size, 3)
        image_NCHW = self.preprocess.normalise(pixels_NHWC).to(self.model.log_scale.device)
        image_NVTCHW: Tensor = image_NCHW.unflatten(0, (len(clips), -1, frames))
        return image_NVTCHW

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.towers["image"],
            "text_tower": self.towers["text"],
            "towers": self.towers,
            "width": self.model.width,
            "video": self.model.settings.to_json(),
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "reading": self.reading,
            "drawn": self.drawn,
            "classes": list(self.classes),
            "card": self.card,
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        towers = config["towers"]
        with torch.random.fork_rng(devices=[]):
            encoder = DualEncoder(
                image_tower(**towers["image"]),
                text_tower(**towers["text"]),
                width=config["width"],
                bias=0.0 if towers["bias"] else None,
                project_image=towers["project_image"],
                projection_bias=towers["projection_bias"],
                max_scale=towers["max_scale"],
                scale=1.0,
            )
            model = VideoEncoder(encoder, VideoSettings.from_json(config["video"]))
        load_weights(model, folder)
        preprocess, tokenizer = Preprocess.from_json(config["preprocess"]), Tokenizer.load(folder)
        return cls(
            model.eval(),
            preprocess,
            tokenizer,
            config["text_length"],
            config["name"],
            towers=towers,
            classes=config["classes"],
            reading=config.get("reading", "plain"),  # folders of before say nothing
            drawn=config.get("drawn", False),
            card=config.get("card"),
        )
