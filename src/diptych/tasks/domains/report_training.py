"""Training of a report decoder over an image encoder (BenchX, 2410.21969; R2Gen, 2010.16056).

Letters: B batch, N items, P patches, E width of a feature, L words.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.terminal.progress import with_bar
from diptych.data.text.reports.report_words import Cleaning, ReportVocabulary
from diptych.models.chests.memory_transformer import MemoryTransformer, MemoryTransformerConfig
from diptych.models.chests.report_writer import ReportWriter
from diptych.models.io.device import choose_device
from diptych.models.io.inference import evaluating, parts
from diptych.models.towers.outputs import Tower
from diptych.tasks._scoring.captions.metrics import bleu_counts
from diptych.tasks.domains.head_images import Augmentation, HeadImages, trainable_tower

FACTOR, PLATEAU, LEAST = 0.8, 1, 1e-6
"""Learning rate schedule: multiplied by `FACTOR` after more than `PLATEAU` epochs without improvement, down to `LEAST`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTraining:
    """Options of the decoder and of its training; the defaults are BenchX's.

    decoder       sizes of the decoder
    encoder_rate  factor of the encoder's learning rate; 0 freezes it, and each image is encoded once
    augment       random views of the training images, if the encoder is trained
    threshold     minimum number of occurrences of a word in the training reports; rarer words become `<unk>`
    cleaning      cleaning of reports
    length        maximum number of token ids of a report, including the start token
    beams         beams of the search
    lr, decay     of Adam (AMSGrad), whose gradients are clipped at norm 1
    batch_size, epochs  reports per step, and passes over the data
    patience      epochs without a better validation BLEU-4 after which training ends
    """

    decoder: MemoryTransformerConfig = field(default_factory=MemoryTransformerConfig)
    encoder_rate: float = 0.0
    augment: Augmentation = "crop"
    threshold: int = 3
    cleaning: Cleaning = "iu_xray"
    length: int = 60
    beams: int = 3
    lr: float = 1e-3
    decay: float = 5e-5
    batch_size: int = 16
    epochs: int = 100
    patience: int = 10


class PatchFeatures:
    """Patch features of images: from a frozen encoder by its `embed_dense`, or from a trainable copy of its tower.

    augment  augmentation in training; "released" normalises all images as the released code does

    Raises ConfigError if the encoder is to be trained but is not a tower of this package.
    """

    def __init__(self, model: Any, *, trained: bool, augment: Augmentation = "none") -> None:
        self.model, self.augment, self.tower = model, augment, None
        if trained:
            tower = trainable_tower(model)
            if tower is None:
                raise ConfigError(f"'{model.name}' has no tower that can be trained (expected --encoder-rate 0)")
            self.tower = copy.deepcopy(tower).requires_grad_(True)

    def __call__(self, images: Sequence[ImageSource]) -> Tensor:
        """Patch features of images in evaluation mode, [N, P, E]."""
        if self.tower is None:
            map_NHWE = np.asarray(self.model.embed_dense(list(images)), np.float32)
            return torch.from_numpy(map_NHWE).flatten(1, 2)
        with torch.no_grad(), evaluating(self.tower):
            blocks = (HeadImages(self.model, part, self.augment).batch(range(len(part))) for part in parts(images, 64))
            return torch.cat([self.of_pixels(image_BCHW) for image_BCHW in blocks])

    def of_pixels(self, image_BCHW: Tensor) -> Tensor:
        """Patch features of the trainable tower, [B, P, E]."""
        assert isinstance(self.tower, Tower)
        tokens_BPE: Tensor = self.tower(image_BCHW.to(next(self.tower.parameters()).device)).tokens_BPD
        return tokens_BPE


Reports = tuple[Sequence[ImageSource], Sequence[str]]
"""Images and the report of each."""


def trained_report_writer(model: Any, train: Reports, val: Reports, options: ReportTraining, *, seed: int) -> ReportWriter:
    """Trains a report decoder and returns the checkpoint with the best validation BLEU-4. `model` is not modified.

    Raises ConfigError for more beams than words, or a model that cannot be trained; DataError if no word is frequent enough.
    """
    (train_images, train_reports), (val_images, val_reports) = train, val
    vocabulary = ReportVocabulary.of(train_reports, threshold=options.threshold, cleaning=options.cleaning)
    if options.beams > len(vocabulary):
        raise ConfigError(f"beams is {options.beams} with {len(vocabulary)} words (expected at most as many)")
    features = PatchFeatures(model, trained=options.encoder_rate > 0, augment=options.augment)
    fixed = (features(train_images), features(val_images)) if features.tower is None else None
    views = HeadImages(model, train_images, options.augment) if features.tower is not None else None
    reports = [vocabulary.encode(report, options.length) for report in train_reports]
    view_rng = keyed_rng("views of training images", seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = int((fixed[0] if fixed else features(train_images[:1])).shape[-1])
        head = MemoryTransformer(width, len(vocabulary), options.decoder).to(choose_device())
        network = nn.ModuleList([head] if features.tower is None else [head, features.tower.to(choose_device())])
        writer = ReportWriter(features, head, vocabulary, beams=options.beams, batch_size=options.batch_size)
        optimiser, schedule = _optimiser(network, options)
        best, stale, kept = -math.inf, 0, copy.deepcopy(network.state_dict())
        for _ in with_bar(range(options.epochs), options.epochs, "epochs of the report decoder"):
            network.train()
            for rows in torch.randperm(len(reports)).split(options.batch_size):
                batch = rows.tolist()
                if views is not None:
                    feature_BPE = features.of_pixels(views.training_batch(batch, view_rng))
                elif fixed is not None:
                    feature_BPE = fixed[0][rows].to(choose_device())
                loss = report_loss(head, feature_BPE, [reports[row] for row in batch])
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
            val_NPE = fixed[1] if fixed else features(val_images)
            written = [text for part in val_NPE.split(options.batch_size) for text in writer.write(part, options.length)]
            value = bleu_4(written, val_reports, vocabulary, options.length)
            schedule.step(value)
            if value > best:
                best, stale, kept = value, 0, copy.deepcopy(network.state_dict())
            else:
                stale += 1
                if stale >= options.patience:
                    break
        network.load_state_dict(kept)
    return writer


def report_loss(head: MemoryTransformer, feature_BPE: Tensor, reports: Sequence[Sequence[int]]) -> Tensor:
    """Cross-entropy of every word after the first, including the closing 0; a mean over the words of the batch."""
    rows = [torch.tensor(report) for report in reports]
    ids_BL = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(feature_BPE.device)
    asked_BL = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-1).to(ids_BL.device)
    return F.cross_entropy(head(feature_BPE, ids_BL[:, :-1]).flatten(0, 1), asked_BL.flatten(), ignore_index=-1)


def bleu_4(written: Sequence[str], reports: Sequence[str], vocabulary: ReportVocabulary, length: int) -> float:
    """BLEU-4 against references restricted to what the decoder can write: rare words become `<unk>`, long reports are
    truncated."""
    references = [vocabulary.decode(vocabulary.encode(report, length)[1:]).split() for report in reports]
    counts = bleu_counts([text.split() for text in written], [[words] for words in references])
    return counts.score(4, np.arange(len(references)))


def _optimiser(
    network: nn.ModuleList, options: ReportTraining
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau]:
    rates = (1.0, options.encoder_rate)
    groups = [{"params": list(part.parameters()), "lr": rate * options.lr} for part, rate in zip(network, rates, strict=False)]
    optimiser = torch.optim.Adam(groups, lr=options.lr, weight_decay=options.decay, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=FACTOR, patience=PLATEAU, min_lr=LEAST, threshold_mode="abs"
    )
    return optimiser, schedule
