"""Inference with a trained NDCR and the frozen encoder of its input features.

Letters: B sets, K pictures, P propositions, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.data.text.english.propositions import propositions as cut
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.io.open_address import open_address
from diptych.models.reasoning.divide_conquer import Answers, DivideConquer, Picks
from diptych.models.reasoning.propositions import PropositionGenerator
from diptych.models.reasoning.set_features import SetEncoder, products
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower

MOST = 4
"""Maximal number of propositions per text; the first ones are used."""


@dataclass(frozen=True, kw_only=True)
class SetBatch(TensorBatch):
    """Batch of sets of K pictures with a text each.

    pair_BKD   features of the text with each picture; image_BKD of each picture
    words_BPD  features of the words of each proposition; exists_BP: which exist
    ordered_B  True if the order of the pictures is meaningful
    target_B   int64, the right picture
    """

    pair_BKD: Rows[Tensor]
    image_BKD: Rows[Tensor]
    words_BPD: Rows[Tensor]
    exists_BP: Rows[Tensor]
    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    ordered_B: Rows[Tensor]
    target_B: Rows[Tensor]
    truncated: int = 0


@dataclass(frozen=True, kw_only=True)
class PickerForm:
    """Sizes of the network."""

    width: int = 1024
    pictures: int = 10
    layers: int = 2
    heads: int = 8
    mlp_width: int = 3072
    generator_layers: int = 3
    minus: bool = False
    answers: Answers = "full"


class PickerNetwork(nn.Module):
    """Proposition generator and `DivideConquer`; without the generator if only the whole text is used."""

    def __init__(self, tower: Tower | None, form: PickerForm) -> None:
        super().__init__()
        self.form = form
        shape = {"heads": form.heads, "mlp_width": form.mlp_width}
        self.generator: PropositionGenerator | None = None
        if tower is not None:
            self.generator = PropositionGenerator(tower, form.width, layers=form.generator_layers, minus=form.minus, **shape)
        self.reasoner = DivideConquer(form.width, pictures=form.pictures, layers=form.layers, answers=form.answers, **shape)

    def forward(self, batch: SetBatch) -> Picks:
        vector_BPD = batch.words_BPD
        if self.generator is not None:
            vector_BPD = self.generator(batch.text_BL, batch.text_mask_BL, batch.exists_BP.shape[1])
        picks: Picks = self.reasoner(batch.pair_BKD, batch.image_BKD, vector_BPD, batch.exists_BP, batch.ordered_B)
        return picks


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor, int]:
    """Return ids and mask [B, L] without columns of only padding, and how many texts were truncated."""
    encoded = tokenizer.encode(list(texts), length)
    longest = max(int(encoded.mask_BL.sum(1).max()), 1)
    return torch.from_numpy(encoded.ids_BL[:, :longest]), torch.from_numpy(encoded.mask_BL[:, :longest]), encoded.truncated


def stacked(rows: Sequence[npt.NDArray[np.float32]], most: int) -> tuple[Tensor, Tensor]:
    """Stack vectors [P, D] of each set to [B, P, D], at most `most` per set; also returns which of them exist."""
    cut_rows = [row_PD[:most] for row_PD in rows]
    longest = max(len(row_PD) for row_PD in cut_rows)
    value_BPD = np.zeros((len(rows), longest, cut_rows[0].shape[1]), np.float32)
    for number, row_PD in enumerate(cut_rows):
        value_BPD[number, : len(row_PD)] = row_PD
    return torch.from_numpy(value_BPD), torch.arange(longest) < torch.tensor([[len(row_PD)] for row_PD in cut_rows])


class SetPicker:
    """`PictureChooser`. encoder: the address of the frozen model, from which it is loaded with this one."""

    kind: ClassVar[str] = "set_picker"

    def __init__(
        self,
        model: PickerNetwork,
        encoder: str,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.encoder, self.tokenizer, self.text_length = model, encoder, tokenizer, text_length
        self.name, self.card, self.truncated = name, dict(card or {}), 0

    @cached_property
    def features(self) -> SetEncoder:
        """The frozen encoder, loaded at first access."""
        return SetEncoder(open_address(self.encoder))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"form": to_plain(self.model.form), "encoder": self.features.fingerprint})

    def choose_pictures(
        self,
        sets: Sequence[Sequence[ImageSource]],
        texts: Sequence[str],
        *,
        propositions: Sequence[Sequence[str]] | None = None,
        ordered: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> list[npt.NDArray[np.float32]]:
        """Return probabilities of the pictures of each set. Raises DataError for a set of another size than in training."""
        statements = propositions if propositions is not None else [cut(text, MOST) for text in texts]
        order = ordered if ordered is not None else [False] * len(texts)
        if not len(sets) == len(texts) == len(statements) == len(order):
            raise ConfigError(
                f"{len(sets)} sets, {len(texts)} texts, {len(statements)} lists of propositions (expected one each)"
            )
        if wrong := [len(one) for one in sets if len(one) != self.model.form.pictures]:
            raise DataError(
                f"a set of {wrong[0]} pictures", field="images", expected=f"{self.model.form.pictures}, as in training"
            )
        shares: list[npt.NDArray[np.float32]] = []
        with torch.no_grad(), evaluating(self.model):
            device = next(self.model.parameters()).device
            for rows in parts(range(len(texts)), batch_size):
                batch = self._batch([(sets[row], texts[row], statements[row], order[row]) for row in rows])
                shares += list(self.model(batch.to(device)).answer_BK.float().cpu().numpy())
        return shares

    def _batch(self, asked: Sequence[tuple[Sequence[ImageSource], str, Sequence[str], bool]]) -> SetBatch:
        features, pictures = self.features, self.model.form.pictures
        image_BKD = features.images([source for one, *_ in asked for source in one]).reshape(len(asked), pictures, -1)
        if features.fused:
            pairs = [features.pairs(one, text) for one, text, *_ in asked]
        else:
            text_BD = features.texts([text for _, text, *_ in asked])
            pairs = [products(image_KD, text_D) for image_KD, text_D in zip(image_BKD, text_BD, strict=True)]
        words_BPD, exists_BP = stacked([features.texts(list(statements)[:MOST]) for *_, statements, _ in asked], MOST)
        text_BL, mask_BL, truncated = tokens_of(self.tokenizer, [text for _, text, *_ in asked], self.text_length)
        self.truncated += truncated
        return SetBatch(
            pair_BKD=torch.from_numpy(np.stack(pairs)),
            image_BKD=torch.from_numpy(image_BKD),
            words_BPD=words_BPD,
            exists_BP=exists_BP,
            text_BL=text_BL,
            text_mask_BL=mask_BL,
            ordered_B=torch.tensor([order for *_, order in asked]),
            target_B=torch.zeros(len(asked), dtype=torch.int64),
        )

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md,
        replacing the whole folder. The encoder is not copied.
        """
        generator = self.model.generator
        config = {
            "kind": self.kind,
            "name": self.name,
            "network": to_plain(self.model.form),
            "text_tower": None if generator is None else generator.tower.spec,
            "encoder": self.encoder,
            "text_length": self.text_length,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("image-retrieval",),
            about="Picks the picture of a set that a text describes, proposition by proposition.",
            facts=f"{parameters(self.model):,} parameters over the frozen encoder at {self.encoder}.",
            use='shares = model.choose_pictures([pictures], ["there is a red circle and no blue star"])',
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            tower = None if config["text_tower"] is None else text_tower(**config["text_tower"])
            model = PickerNetwork(tower, from_plain(PickerForm, config["network"]))
        load_weights(model, folder)
        tokenizer = Tokenizer.load(folder)
        return cls(model.eval(), config["encoder"], tokenizer, int(config["text_length"]), config["name"], config.get("card"))
