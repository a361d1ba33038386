"""Tower of any image model of timm.  Letters: B batch, C channel, H W, P positions, D width."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError, UnknownName
from diptych.models.layers.blurred_conv import blur_strided_
from diptych.models.towers.outputs import Tower, TowerOutput


class TimmTower(Tower):
    """timm model, by name, newly initialised and without classifier; `image_size` None takes the model's own.

    Tokens are the last feature map, row by row, or the patches of a transformer without its class and register tokens.
    The pooled vector is the input of the model's own head. `head_conv` False, for EfficientNets, omits the 1x1 convolution
    between the last block and the pooling, as ALIGN does: 640 dimensions instead of 2560 for B7.
    `blur` smooths the input of strided convolutions (`layers.blurred_conv`). `zero_last`,
    for residual networks: the last norm of each block is initialised with 0 (True, timm) or 1 (False, torchvision); None: timm's
    default. `qk_norm`, for transformers, normalises queries and keys in every block; `layer_scale` is the initial value of the
    factors of their branches (UNI, a pathology encoder: 1e-5), None: no layer scale. `blocks`, for transformers: keep only the
    first this many; `prefix` True keeps class and register tokens, before the other tokens: BLIP-2's Q-Former also reads the
    class token, after the second to last block. `stage`, for residual networks: the last stage that is kept; 3 of 4 gives a map
    of a sixteenth of the image's side. `enlarged` first resizes the image to this many pixels per side,
    bilinear with aligned corners (MGCA's ResNet-50: 299).
    """

    def __init__(
        self,
        *,
        model: str,
        image_size: int | None = None,
        head_conv: bool = True,
        blur: bool = False,
        zero_last: bool | None = None,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        blocks: int | None = None,
        prefix: bool = False,
        stage: int | None = None,
        enlarged: int | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(model):
            raise UnknownName("timm model", model, timm.list_models(), hint="timm.list_models() lists them")
        changes: dict[str, Any] = {}
        settings = timm.get_pretrained_cfg(model)
        if image_size is not None and settings is not None and settings.fixed_input_size:
            changes["img_size"] = image_size
        if qk_norm:
            changes["qk_norm"] = True
        if layer_scale is not None:
            changes["init_values"] = layer_scale
        if blocks is not None:
            changes["depth"] = blocks
        if zero_last is not None:
            changes["zero_init_last"] = zero_last
        self.prefix, self.enlarged = prefix, enlarged
        self.net: Any = timm.create_model(model, pretrained=False, num_classes=0, **changes)
        self.image_size = image_size or self.net.pretrained_cfg["input_size"][-1]
        self.width = int(getattr(self.net, "head_hidden_size", self.net.num_features))
        if not head_conv:
            if not hasattr(self.net, "conv_head") or not hasattr(self.net, "bn2"):
                raise ConfigError(f"{model} has no head convolution to leave out (expected head_conv True, or an EfficientNet)")
            self.width = self.net.num_features = int(self.net.conv_head.in_channels)
            self.net.conv_head, self.net.bn2 = nn.Identity(), nn.Identity()
        if stage is not None:
            if not 1 <= stage <= 4 or not hasattr(self.net, "layer4"):
                raise ConfigError(f"stage {stage} of {model} (expected 1..4 of a residual network)")
            for later in range(stage + 1, 5):
                setattr(self.net, f"layer{later}", nn.Identity())
            self.width = self.net.num_features = int(self.net.feature_info[stage]["num_chs"])
        if blur:
            blur_strided_(self.net)

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if self.enlarged:
            image_BCHW = F.interpolate(image_BCHW, size=(self.enlarged,) * 2, mode="bilinear", align_corners=True)
        features = self.net.forward_features(image_BCHW)
        pooled_BD = self.net.forward_head(features, pre_logits=True)
        tokens_BPD = self._tokens(features)
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), pooled_BD)

    def _tokens(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features if self.prefix else features[:, int(getattr(self.net, "num_prefix_tokens", 0)) :]
        if features.ndim != 4:
            raise ShapeError(
                f"the feature map of {type(self.net).__name__} must have 3 or 4 dimensions, got {list(features.shape)}"
            )
        channels_last = features.shape[-1] == self.net.num_features and features.shape[1] != self.net.num_features
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)

    def drop_paths_(self, rate: float) -> None:
        """Set stochastic depth of a transformer: drop rates rise linearly from 0 in the first block to `rate` in the last.

        Raises ConfigError for a network without such blocks.
        """
        blocks = getattr(self.net, "blocks", ())
        if not blocks or not all(hasattr(block, "drop_path2") for block in blocks):
            raise ConfigError(
                f"{type(self.net).__name__} has no blocks to leave out (expected drop_path 0, or a transformer of timm)"
            )
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
            for name in ("drop_path1", "drop_path2"):
                setattr(block, name, DropPath(share) if share else nn.Identity())
