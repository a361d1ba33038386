"""Tower of any text encoder of transformers.  Letters: B batch, L tokens, D width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, get_args

import transformers
from torch import Tensor, nn

from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.models.layers.pooling import mean_pool
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.key_mask import key_mask


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Disable transformers' progress bar and its report on tensors, which would be mixed with our output."""
    shown, level = transformers.utils.logging.is_progress_bar_enabled(), transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()


Pooled = Literal["mean", "cls", "pooler"]
SIDES = {
    "align_text_model": "AlignTextModel",
    "altclip_text_model": "AltCLIPTextModel",
    "blip_text_model": "BlipTextModel",
    "chinese_clip_text_model": "ChineseCLIPTextModel",
}
"""`model_type` of the text encoder of a dual encoder -> its class in transformers, if `AutoModel` does not know it."""
TAKES_READY_MASKS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "align_text_model", "chinese_clip_text_model")
"""`model_type` of bidirectional encoders that accept a mask [B, 1, L, L]."""


class TransformersText(Tower):
    """Encoder such as BERT or MPNet on token ids (or embeddings); pooled by the mean of real tokens or the first token.
    Of an encoder with a decoder, such as BART, the encoder is taken.

    `config` is the encoder's configuration as a dict, as in its config.json, or under "text_config" for a dual encoder. The
    encoder's own pooling layer is omitted, since no loss would reach its parameters, except with `pooling` "pooler".
    """

    def __init__(self, *, config: dict[str, Any], pooling: Pooled = "mean", length: int | None = None) -> None:
        super().__init__()
        settings = transformers.AutoConfig.for_model(**config)
        if (name := SIDES.get(settings.model_type)) is None:
            model = transformers.AutoModel.from_config(settings)
        else:
            model = getattr(transformers, name)._from_config(settings)
        self._adopt(model, pooling, length)

    @classmethod
    def from_folder(cls, folder: str | Path, *, pooling: Literal["mean", "cls"] = "mean", length: int | None = None) -> Self:
        """Load the encoder of a local folder (config.json and model.safetensors) with its weights. No download."""
        if not Path(folder, "config.json").is_file():
            raise DataError(
                "not a folder of transformers", file=folder, expected="a folder with config.json and model.safetensors"
            )
        tower = cls.__new__(cls)
        Tower.__init__(tower)
        with silence_transformers():
            model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        tower._adopt(model.float(), pooling, length)
        return tower

    def _adopt(self, model: Any, pooling: str, length: int | None) -> None:
        if pooling not in get_args(Pooled):
            raise ConfigError(f"unknown pooling {pooling!r} (expected {' | '.join(get_args(Pooled))})")
        if pooling == "pooler" and getattr(model, "pooler", None) is None:
            raise ConfigError(f"{model.config.model_type} has no pooling layer (expected mean | cls)")
        if pooling != "pooler" and getattr(model, "pooler", None) is not None:
            model.pooler = None
        if getattr(model, "decoder", None) is not None:
            model = model.get_encoder()
        self.net = model
        self.pooling = pooling
        self.width = int(getattr(model.config, "project_dim", None) or model.config.hidden_size)  # AltCLIP's is projected
        self.length = min(length or 10**9, int(getattr(model.config, "max_position_embeddings", 512)))
        self.config: dict[str, Any] = model.config.to_dict()
        self.config.pop("_name_or_path", None)

    @property
    def embed(self) -> nn.Embedding:
        """The table of token embeddings."""
        table: nn.Embedding = self.net.get_input_embeddings()
        return table

    def forward(self, text: Tensor, mask_BL: Tensor | None = None) -> TowerOutput:
        if text.ndim not in (2, 3) or text.shape[1] > self.length:
            raise ShapeError(
                f"texts must be ids [B, L] or embeddings [B, L, D] with L up to {self.length}, got {list(text.shape)}"
            )
        if mask_BL is None:
            mask_BL = text.new_ones(text.shape[:2]).bool()
        given = {"input_ids": text} if text.ndim == 2 else {"inputs_embeds": text}
        answer = self.net(**given, attention_mask=self._attention_mask(mask_BL))
        tokens_BLD = answer.last_hidden_state
        if self.pooling == "pooler":
            return TowerOutput(tokens_BLD, mask_BL, answer.pooler_output)
        return TowerOutput(tokens_BLD, mask_BL, tokens_BLD[:, 0] if self.pooling == "cls" else mean_pool(tokens_BLD, mask_BL))

    def _attention_mask(self, mask_BL: Tensor) -> Tensor:
        settings: Any = self.net.config
        attention = str(settings._attn_implementation)
        ready = settings.model_type in TAKES_READY_MASKS and attention in ("sdpa", "eager")
        return key_mask(mask_BL, attention) if ready and not getattr(settings, "is_decoder", False) else mask_BL.long()


def bart_encoder(
    *, vocab_size: int, length: int, width: int, layers: int, heads: int, pad_id: int = 1, pooling: Pooled = "cls"
) -> TransformersText:
    """Newly initialised encoder of BART (Lewis et al., 2019, 1910.13461) with the dropout of bart-base."""
    config = {
        "model_type": "bart",
        "vocab_size": vocab_size,
        "pad_token_id": pad_id,
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_layers": 0,  # the decoder is not kept
        "decoder_attention_heads": heads,
        "max_position_embeddings": 1024,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
    }
    return TransformersText(config=config, pooling=pooling, length=length)
