"""A trained `DenseClipSegmenter` for inference: images to label maps of the same size; saved as one folder.

Letters: B batch, K classes, C channel, H W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.opencv import bilinear, fitting_sides
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.built import DenseClipSettings, dense_segmenter
from diptych.models.denseclip.dense_segmenter import DenseClipSegmenter
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.layers.sliding_window import sliding_window_mean

Maps = list[npt.NDArray[np.int32]]


class DenseClipSegmenterModel:
    """A trained DenseCLIP segmenter: a `Segmenter` of the classes that it was trained on.

    An image is brought to a short side of `size` pixels, or less where its long side would exceed `longest`, cut into overlapping squares
    of `size` at steps of `stride`, whose logits are averaged where they meet, and then resized to the image; the class of a pixel is
    chosen last. The last square ends where the image does; an image with a side below `size` is read in windows of that side.

    smooth  an image that is shrunk is smoothed (PIL); else it is resized as OpenCV does, as released
    """

    kind: ClassVar[str] = "dense_segmenter"

    def __init__(
        self,
        model: DenseClipSegmenter,
        settings: DenseClipSettings,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        name: str,
        *,
        stride: int,
        longest: int = 2048,
        smooth: bool = False,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        if stride < 1 or longest < preprocess.size:
            raise ConfigError(
                f"stride is {stride} and longest {longest} (expected 1 pixel or more, and no less than {preprocess.size})"
            )
        self.model, self.settings, self.preprocess, self.tokenizer = model, settings, preprocess, tokenizer
        self.name, self.stride, self.longest, self.smooth, self.card = name, stride, longest, smooth, dict(card or {})

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of training."""
        return self.settings.classes

    @cached_property
    def fingerprint(self) -> str:
        shown = {"stride": self.stride, "longest": self.longest, "smooth": self.smooth, "classes": list(self.classes)}
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json(), **shown})

    @one_or_many
    def segment(self, images: Sequence[ImageSource], labels: Sequence[str] = ()) -> Maps:
        """The class of every pixel, int32 [H, W] at each image's own size: an index into `labels`, all classes of training where none are
        given. Fewer labels leave the other classes out of the choice. Raises UnknownName for a label that it was not trained on."""
        index = {name.replace("_", " "): k for k, name in enumerate(self.classes)}
        spoken = [label.replace("_", " ").strip() for label in labels or self.classes]
        for label in spoken:
            if label not in index:
                raise UnknownName("class", label, index, hint="the head has the training classes only")
        chosen = [index[label] for label in spoken]
        maps = []
        with torch.no_grad(), evaluating(self.model), nullcontext():
            for image in images:
                logit_KHW = self.logits(decode(image, exact=True))
                maps.append(logit_KHW[chosen].argmax(0).to(torch.int32).cpu().numpy())
        return maps

    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> Tensor:
        """[K, H, W] of one image, at its own size."""
        height, width = image_HWC.shape[:2]
        size = self.preprocess.size
        high, wide = fitting_sides(height, width, size, self.longest)
        if self.smooth:
            fitted_HWC = np.asarray(Image.fromarray(image_HWC).resize((wide, high), Image.Resampling.BILINEAR))
        else:
            fitted_HWC = bilinear(image_HWC, high, wide)
        device = next(self.model.parameters()).device
        image_BCHW = self.preprocess.normalise(fitted_HWC[None]).to(device)
        mean_KHW = sliding_window_mean(image_BCHW, size, self.stride, lambda part_BCHW: self.model(part_BCHW).logit_NKHW)
        return F.interpolate(mean_KHW[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "dense": self.settings.to_json(),
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_json(),
            "stride": self.stride,
            "longest": self.longest,
            "smooth": self.smooth,
            "card": self.card,
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        settings, tokenizer = DenseClipSettings.from_json(config["dense"]), Tokenizer.load(folder)
        with torch.random.fork_rng(devices=[]):
            model = dense_segmenter(settings, tokenizer)
        load_weights(model, folder)
        preprocess = Preprocess.from_json(config["preprocess"])
        shown: dict[str, Any] = {"smooth": True}  # older folders lack the entry and were smoothed
        shown |= {name: config[name] for name in ("stride", "longest", "smooth") if name in config}
        return cls(model.eval(), settings, preprocess, tokenizer, config["name"], **shown, card=config.get("card"))
