"""An image tower, a codebook, and a decoder that generates a caption from the codes only; `CodebookCaptionModel` is the trained model.

Letters: B batch, C channel, H W, P patches, D width, L tokens, V vocabulary, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, single_image_requests
from diptych.core.rows import Rows
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.blip.text import BlipText
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.layers.codebook import Codebook, CodebookOutput
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower

Form = Literal["blip", "plain"]
SHAPE = {name: name for name in ("layers", "heads", "decoder", "class_token", "dropout")} | {"places": "positions"}
"""Names of the decoder's options in a folder, and in the code; a folder without the last four holds a plain decoder of patches."""


@dataclass(frozen=True, slots=True)
class CodebookCaptionerOutput:
    """logit_BLV at position l predicts the token at l + 1; the codebook's losses compare `patch_BPD` and `code_BPD`."""

    logit_BLV: Rows[Tensor]
    patch_BPD: Rows[Tensor]
    code_BPD: Rows[Tensor]
    id_BP: Rows[Tensor]


class CodebookCaptionNet(nn.Module):
    """The decoder reads earlier tokens and, by cross-attention, the quantised patches. It sees nothing else of the image.

    decoder      "blip": BLIP's text transformer, norms after each branch, its word table also the output layer, as published;
                 "plain": norms before, an output layer of its own
    class_token  the tower's pooled vector, of a class token that token itself, is quantised too, in front of the patches
    dropout      of BLIP's decoder; positions: how many it has
    """

    def __init__(
        self,
        tower: Tower,
        *,
        vocab_size: int,
        length: int,
        codes: int,
        layers: int,
        heads: int,
        decoder: Form = "plain",
        class_token: bool = False,
        dropout: float = 0.1,
        positions: int = 512,
    ) -> None:
        super().__init__()
        width = tower.token_width
        self.image_tower, self.length, self.vocab_size, self.class_token = tower, length, vocab_size, class_token
        self.shape: dict[str, Any] = {"layers": layers, "heads": heads, "decoder": decoder, "class_token": class_token}
        self.codebook = Codebook(codes, width)
        if class_token and tower.width != width:
            raise ConfigError(f"the pooled vector has {tower.width} dimensions and a patch {width} (expected class_token False)")
        if decoder == "blip":
            self.shape |= {"dropout": dropout, "places": positions}
            self.decoder: nn.Module = BlipText(
                vocab_size=vocab_size,
                image_width=width,
                length=max(positions, length),
                width=width,
                layers=layers,
                heads=heads,
                dropout=dropout,
                reads=False,
            )
            return
        self.tokens = nn.Embedding(vocab_size, width)
        self.place_LD = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.tokens.weight, std=0.02)
        layer = nn.TransformerDecoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.out = nn.Linear(width, vocab_size)

    def quantised(self, image_BCHW: Tensor) -> CodebookOutput:
        output = self.image_tower(image_BCHW)
        x_BPD = torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1) if self.class_token else output.tokens_BPD
        quantised: CodebookOutput = self.codebook(x_BPD)
        return quantised

    def decoded(self, code_BPD: Tensor, text_BL: Tensor) -> Tensor:
        """Logits of the next token at every place, [B, L, V]; of BLIP's decoder two more, for marks that stand in no text."""
        if isinstance(self.decoder, BlipText):
            return self.decoder.write(text_BL, torch.ones_like(text_BL, dtype=torch.bool), code_BPD)
        length = text_BL.shape[1]
        words_BLD = self.tokens(text_BL) + self.place_LD[:length]
        later_LL = torch.full((length, length), float("-inf"), device=text_BL.device).triu(1)
        logit_BLV: Tensor = self.out(self.decoder(words_BLD, code_BPD, tgt_mask=later_LL, tgt_is_causal=True))
        return logit_BLV

    def forward(self, image_BCHW: Tensor, text_BL: Tensor) -> CodebookCaptionerOutput:
        quantised = self.quantised(image_BCHW)
        return CodebookCaptionerOutput(
            self.decoded(quantised.straight_BPD, text_BL), quantised.patch_BPD, quantised.code_BPD, quantised.id_BP
        )


class CodebookCaptionModel:
    """A trained captioner: generates captions (`Generator`) and describes images by their codes, which TL;DR clusters."""

    kind: ClassVar[str] = "codebook_captioner"

    def __init__(
        self,
        model: CodebookCaptionNet,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        name: str,
        *,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.preprocess, self.tokenizer, self.name, self.card = model, preprocess, tokenizer, name, card or {}

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json()})

    @one_or_many
    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 30, batch_size: int = 64
    ) -> list[str]:
        """Greedy captions. A prompt is the start of the caption; "" for none.

        Raises DataError for a prompt of anything but words, which may follow the picture."""
        requests = single_image_requests(images, prompts, model=self.name)
        captions: list[str] = []
        with torch.no_grad(), evaluating(self.model):
            for pairs in parts(requests, batch_size):
                code_BPD = self._quantised([image for image, _ in pairs]).code_BPD
                if any(prompt for _, prompt in pairs):  # of different lengths, so one by one
                    captions += [
                        self._written(code_BPD[row : row + 1], prompt, max_tokens) for row, (_, prompt) in enumerate(pairs)
                    ]
                else:
                    captions += self._written_together(code_BPD, max_tokens)
        return captions

    def codes(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.int64]:
        """Which code each patch has. [N, P]"""
        code_NP: npt.NDArray[np.int64] = self._each(images, batch_size, lambda code_NP: code_NP.id_BP)
        return code_NP

    def code_vectors(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """The codes themselves. float32 [N, P, D]"""
        code_NPD: npt.NDArray[np.float32] = self._each(images, batch_size, lambda code_NPD: code_NPD.code_BPD.float())
        return code_NPD

    def _each(self, images: Sequence[ImageSource], batch_size: int, what: Any) -> Any:
        with torch.no_grad(), evaluating(self.model):
            batches = [what(self._quantised(part)) for part in parts(images, batch_size)]
        return torch.cat(batches).cpu().numpy()

    def _quantised(self, images: Sequence[ImageSource]) -> CodebookOutput:
        device = next(self.model.parameters()).device
        return self.model.quantised(self.preprocess([decode(image, exact=True) for image in images]).to(device))

    def _written_together(self, code_BPD: Tensor, max_tokens: int) -> list[str]:
        ids_BL = torch.full((len(code_BPD), 1), self.tokenizer.sot_id, device=code_BPD.device)
        return self._completed(code_BPD, ids_BL, max_tokens)

    def _written(self, code_1PD: Tensor, prompt: str, max_tokens: int) -> str:
        encoded = self.tokenizer.encode([prompt], self.model.length)
        begun = encoded.ids_BL[0, : int(encoded.mask_BL[0].sum()) - 1]  # without the end mark
        return self._completed(code_1PD, torch.from_numpy(begun)[None].to(code_1PD.device), max_tokens)[0]

    def _completed(self, code_BPD: Tensor, ids_BL: Tensor, max_tokens: int) -> list[str]:
        end = self.tokenizer.eot_id
        done_B = torch.zeros(len(ids_BL), dtype=torch.bool, device=ids_BL.device)
        for _ in range(min(max_tokens, self.model.length - ids_BL.shape[1])):
            next_B = self.model.decoded(code_BPD, ids_BL)[:, -1, : self.model.vocab_size].argmax(1)
            next_B = torch.where(done_B, torch.full_like(next_B, end), next_B)
            ids_BL = torch.cat([ids_BL, next_B[:, None]], 1)
            done_B |= next_B == end
            if bool(done_B.all()):
                break
        rows = [row[: row.index(end)] if end in row else row for row in ids_BL.tolist()]
        return [self.tokenizer.decode(row[1:]).strip() for row in rows]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.model.image_tower.spec,
            "codes": len(self.model.codebook.code_KD),
            "text_length": self.model.length,
            "vocab_size": self.model.vocab_size,
            **self.model.shape,
            "preprocess": self.preprocess.to_json(),
            "card": {"description": "Writes a caption from the codes of an image's patches.", **self.card},
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Leaves torch's random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = CodebookCaptionNet(
                image_tower(**config["image_tower"]),
                vocab_size=config["vocab_size"],
                length=config["text_length"],
                codes=config["codes"],
                **{option: config[name] for name, option in SHAPE.items() if name in config},
            )
        load_weights(model, folder)
        return cls(
            model.eval(),
            Preprocess.from_json(config["preprocess"]),
            Tokenizer.load(folder),
            config["name"],
            card=config.get("card"),
        )
