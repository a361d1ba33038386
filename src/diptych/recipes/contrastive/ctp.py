"""CTP: continual pre-training on one domain after the other without stored data, preserving similarities between samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Hook, Optimiser, Rule, Run, Stage
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import grouped
from diptych.core.sample import Sample
from diptych.data.load.reservoir import reservoir_limits, reservoir_numbers
from diptych.data.media.augment import boxed_views
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.pairs.continual_initialisation import init_from_pretrained_
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.continual_encoder import ContinualEncoder, ContinualPairs
from diptych.models.pairs.matching.fused_embedder import FusedEncoder, FusedPairs
from diptych.models.towers.outputs import all_or_none
from diptych.objectives.distillation.topology import topology
from diptych.objectives.gather import all_gather, world
from diptych.objectives.language.masked_words import masked_distillation, masked_words
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.continual_config import (
    CompatibleMomentum,
    ContinualWeights,
    FusedWordsConfig,
    ReplayConfig,
    TaskSplit,
)
from diptych.recipes._shared.masked_pairs import MaskedPairBatch, with_hidden_words
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.recipes._shared.texts.vocabulary import tokenizer_of
from diptych.tasks.pairs.continual import TaskStream, stream_of
from diptych.train.snapshots import Snapshots


@grouped("split", "memory", "term_weights", "fusion", "replay")
@dataclass(frozen=True, kw_only=True)
class CTP(EncoderRecipe[ContinualEncoder, MaskedPairBatch, ContinualPairs]):
    """CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast and Topology Preservation (Zhu et al.,
    2023, arXiv 2308.07146). Baseline: `clip`, trained on one task after the other.

    The data are a stream of tasks, separated by a metadata column. A momentum model follows the trained one, and features are
    contrasted with its features of the batch and with a queue of earlier ones. From the second task on there is a frozen
    reference, the model as it was after the task before: the momentum model is pulled to both of them (compatible momentum), and
    the similarities within the batch are held where the reference has them (topology preservation). Hidden words are guessed from
    words and image, and distilled from the momentum model. The temperature is fixed.

    With `buffer` above 0 this is CTP_ER (preset `paper_er`), the variant with experience replay: a reservoir of samples of the
    earlier tasks is trained on again with each later one. Which samples it holds follows from their uids
    (`data/load/reservoir.py`). Tasks share the steps of the run in proportion to their samples, replays included, so that a run
    with a buffer costs no more than one without. The released code trains its epochs over both (`replays="added"`, in
    `paper_er`).

    Each task starts the optimiser and its schedule afresh; queues go on. After each task the model is kept in `snapshots/`; protocol
    `continual` (`diptych eval RUN continual --snapshots RUN/snapshots --stream RUN/snapshots/stream.json --data D`) makes the
    score matrix from them.

    We depart in these points: keys come from all processes (`keys="own"`, in `paper()`, has the released form, in which every process
    contrasts with its own batch alone, and the result depends on the number of processes: four there); the queue wraps; samples of one
    group are no negatives of each other, as in `clip`. In our small runs the method keeps more of the first task and learns less of the
    last, as the price of it.

    The release starts from DeiT's and from Chinese BERT's weights, which come with no package: `image_weights` and `text_weights` take the
    files, beside `tokenizer` with BERT's vocabulary; without them everything is fresh.

    split          how the data become tasks (`TaskSplit`)
    replay         the buffer of earlier samples (`ReplayConfig`)
    memory         momentum model, queue and keys (`CompatibleMomentum`)
    term_weights   of the terms beside the contrast (`ContinualWeights`)
    fusion         hidden words and the blocks that guess them (`FusedWordsConfig`). Fields of these five are options like those below
    tau            temperature, fixed
    albef          networks as released: a vision transformer without a first norm, which begins as timm's, BERT's blocks over words and
                   image, with norms behind, and projections that begin as PyTorch's; False: CLIP's, and blocks with norms before
    clean          texts are cleaned as BLIP's, as released: in small letters, without . ! " ( ) * # : ; ~ (a vocabulary that comes with
                   weights reads them as it is used to)
    augment        "rand": BLIP's two operations out of ten, half of the time each, as released: not for texts that name places
    projection_bias  whether both projections have a bias, as in the released code
    fused          the deployed model keeps the blocks over words and image, whose vector of both protocol `category_search` asks for
    decay          weight decay is on "all" parameters, as released, or on "matrices" alone
    final_lr       share of the learning rate that is left at the end
    image_weights  a file of a vision transformer in timm's names, such as deit_base_patch16_224-b5f2ef4d.pth; "" starts afresh
    text_weights   a file of a BERT with its word head, or the folder that holds its model.safetensors or pytorch_model.bin: its lower
                   layers for the text tower (bert_*), its upper ones for the fusion layers
    """

    slug = "ctp"
    presets = ("tiny", "paper", "paper_er")
    no_prefixes = "its queue and its teacher's features are of the whole width"

    split: TaskSplit = field(default_factory=TaskSplit)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    memory: CompatibleMomentum = field(default_factory=CompatibleMomentum)
    term_weights: ContinualWeights = field(default_factory=ContinualWeights)
    fusion: FusedWordsConfig = field(default_factory=FusedWordsConfig)
    tau: float = 0.07
    albef: bool = True
    clean: bool = True
    augment: Literal["none", "rand"] = "none"
    projection_bias: bool = False
    fused: bool = False
    decay: Literal["all", "matrices"] = "all"
    image_weights: str = ""
    text_weights: str = ""

    batch_size: int = 512
    epochs: float = 5.0
    lr: float = 1e-4
    final_lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.0
    weight_decay: float = 0.05
    text_length: int = 30
    crop: tuple[float, float] = (0.2, 1.0)

    tasks: tuple[tuple[str, ...], ...] = field(default=(), metadata={"prepared": True})
    sizes: tuple[int, ...] = field(default=(), metadata={"prepared": True})
    held_below: tuple[float, ...] = field(default=(), metadata={"prepared": True})
    task: int = field(default=0, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ConfigError(f"tau is {self.tau} (expected above 0, at most 1)")

    def prepare(self, data: Dataset) -> Self:
        """Finds the tasks, how many samples each has and what a buffer will hold; learns one vocabulary over all of them."""
        prepared = super().prepare(data)
        if prepared.tasks:
            return prepared
        stream = stream_of(data, self.split.column, order=self.split.order, at_most=self.split.at_most)
        task_of = [stream.task_of(data[row]) for row in range(len(data))]
        sizes = tuple(task_of.count(task) for task in range(len(stream.values)))
        held: tuple[float, ...] = ()
        if self.replay.buffer:
            numbers_N = reservoir_numbers(data.uids, self.replay.buffer_seed)
            held = reservoir_limits(numbers_N, task_of, len(sizes), self.replay.buffer)
        split = replace(self.split, column=(stream.column,))
        prepared = replace(prepared, split=split, tasks=stream.values, sizes=sizes, held_below=held)
        if self.replay.buffer and self.replay.replays == "added":
            trained = sum(prepared.trained_on(task) for task in range(len(sizes)))
            prepared = replace(prepared, epochs=self.epochs * trained / sum(sizes))
        return prepared

    def trained_on(self, task: int) -> int:
        """Samples of a task, and those that are replayed with it."""
        return self.sizes[task] + min(self.replay.buffer, sum(self.sizes[:task]))

    @property
    def stream(self) -> TaskStream:
        if not self.tasks:
            raise ConfigError("the tasks come from the data: call prepare(data) first")
        return TaskStream(self.split.column[0], self.tasks)

    def stages(self) -> Sequence[Stage]:
        """One a task, with steps in proportion to its samples, replayed ones included."""
        if not self.tasks:
            return ()
        held = self.held_below or (0.0,) * len(self.tasks)
        return [
            Stage(
                name,
                replace(self, task=task),
                share=self.trained_on(task),
                keep=partial(_is_trained_on, self.stream, task, held[task], self.replay.buffer_seed),
                carry=_carry,
            )
            for task, name in enumerate(self.stream.names)
        ]

    def hooks(self) -> Sequence[Hook]:
        return [_StreamSnapshots(self)]

    def model(self) -> ContinualEncoder:
        image, text = self.towers()
        made = ContinualEncoder(
            image,
            text,
            width=self.width,
            scale=1 / self.tau,
            fusion_layers=self.fusion.fusion_layers,
            fusion_heads=self.fusion.fusion_heads,
            queue=self.memory.queue if self.remembers else 0,
            companions=self.companions,
            projection_bias="both" if self.projection_bias else "none",
            queue_start=self.memory.queue_start,
            class_token=self.fusion.class_token,
            post_norm=self.albef,
            mask_id=self.mask_id,
        )
        if self.albef:
            for projection in (made.encoder.image_projection, made.encoder.text_projection):
                if isinstance(projection, nn.Linear):
                    projection.reset_parameters()
            made.begin_task_()
        image_weights = read_tensors(Path(self.image_weights).expanduser()) if self.image_weights else None
        text_weights = read_tensors(weights_file(self.text_weights)) if self.text_weights else None
        init_from_pretrained_(made, image=image_weights, text=text_weights)
        return made

    def deploy(self, model: ContinualEncoder) -> PairEmbedder:
        if not self.fused or model.reader is None:
            return super().deploy(model)
        shape = {
            "layers": self.fusion.fusion_layers,
            "heads": self.fusion.fusion_heads,
            "post_norm": self.albef,
            "mask_id": self.mask_id,
        }
        fused = FusedEncoder(model.encoder, model.reader, class_token=model.class_token, shape=shape)
        return FusedPairs(fused, self.deployed_preprocess, self.words(), self.text_length, name=self.slug)

    def words(self) -> Tokenizer:
        return tokenizer_of(self.tokenizer, self.vocabulary, clean="blip" if self.clean and self.tokenizer != "weights" else None)

    @property
    def mask_id(self) -> int | None:
        """The vocabulary's own token for hidden words; None where it has none."""
        token_id = self.words().inner.token_to_id("[MASK]")
        return None if token_id is None else int(token_id)

    def image_options(self) -> dict[str, Any]:
        """Where no weights say otherwise, a transformer of the released form."""
        plain = self.albef and self.image_tower.startswith("vit") and "image" not in self._given
        return {**({"pre_norm": False, "eps": 1e-6, "start": "narrow"} if plain else {}), **super().image_options()}

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Without the temperature of the weights: here it is `tau`, and fixed."""
        return {name: tensor for name, tensor in tensors.items() if name.removeprefix("encoder.") != "log_scale"}

    @property
    def remembers(self) -> bool:
        """True if a momentum model is used."""
        distils = self.fusion.fusion_layers > 0 and self.term_weights.weight_distilled != 0
        return self.term_weights.weight_momentum != 0 or distils

    @property
    def companions(self) -> tuple[str, ...]:
        momentum = ("momentum",) if self.remembers else ()
        return (*momentum, "reference") if self.task and (momentum or self.term_weights.weight_topology) else momentum

    def batch(self, draws: Draws) -> MaskedPairBatch:
        pairs = self.pair_batch(draws, boxed_views.augmented_alone if self.augment == "rand" else None)
        generators = [draw.rng for draw in draws]
        return with_hidden_words(pairs, generators, self.words(), share=self.fusion.masked, each=self.fusion.masking == "each")

    def features(self, model: ContinualEncoder, batch: MaskedPairBatch) -> ContinualPairs:
        outputs: ContinualPairs = model(
            batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.masked_BL, batch.hidden_BL, batch.place_BM
        )
        return outputs

    def losses(self, features: ContinualPairs, batch: MaskedPairBatch) -> dict[str, Tensor]:
        weights = self.term_weights
        terms = {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}
        if weights.weight_momentum:
            terms["momentum"] = weights.weight_momentum * self.momentum_contrast(features, batch)
        reference = all_or_none(features.reference_image_ND, features.reference_text_ND)
        if weights.weight_topology and reference:
            topology_loss = topology(features.image_ND, features.text_ND, *reference, scale=features.scale)
            terms["topology"] = weights.weight_topology * topology_loss
        if features.word_NMV is None:
            return terms
        terms["words"] = weights.weight_words * masked_words(features.word_NMV, batch.word_BM)
        if weights.weight_distilled and features.momentum_word_NMV is not None:
            distilled = masked_distillation(features.word_NMV, features.momentum_word_NMV, mask_NM=batch.word_BM >= 0)
            terms["distilled"] = weights.weight_distilled * distilled
        return terms

    def momentum_contrast(self, features: ContinualPairs, batch: MaskedPairBatch) -> Tensor:
        """Each feature against the momentum model's features of the other modality, of the batch and of the queue; one-hot."""
        assert features.momentum_image_ND is not None
        assert features.momentum_text_ND is not None
        keep_NM = _same_process_columns(len(batch), features.image_ND.device) if self.memory.keys == "own" else None
        sides = (
            (features.image_ND, features.momentum_text_ND, features.queue_text_KD),
            (features.text_ND, features.momentum_image_ND, features.queue_image_KD),
        )
        both = [
            info_nce(
                anchor_ND,
                key_ND,
                scale=features.scale,
                group_N=batch.group_B,
                group_M=batch.group_B,
                same=self.same_group,
                keep_NM=keep_NM,
                extra_text_KD=queue_KD,
                extra_text_group_K=features.queue_group_K,
                directions="image_to_text",
            )[0]
            for anchor_ND, key_ND, queue_KD in sides
        ]
        return torch.stack(both).mean()

    def optimiser(self) -> Optimiser:
        fixed = (Rule(r"^encoder\.log_scale$", lr_scale=0.0),)
        rules = (*fixed, Rule("", decay=True)) if self.decay == "all" else fixed
        return replace(super().optimiser(), final_lr=self.final_lr, rules=rules)

    def after_update(self, model: ContinualEncoder, features: ContinualPairs, batch: MaskedPairBatch, progress: float) -> None:
        keys = all_or_none(features.momentum_image_ND, features.momentum_text_ND, batch.group_B)
        if not keys:
            return
        shares = self.memory.compatible if self.task else (self.memory.momentum, 1 - self.memory.momentum, 0.0)
        model.follow_(*shares)
        model.remember_(*(all_gather(rows).flatten(0, 1) for rows in keys))

    @classmethod
    def tiny(cls) -> Self:
        """The towers and the budget of `clip`'s; three tasks, by vendor (emoji) or by the planned relation (scene world)."""
        return cls(
            **{**SMALL_CLIP, "warmup": 10.0, "lr": 5e-4},
            split=TaskSplit(column=("task", "style", "predicate"), at_most=3),
            memory=CompatibleMomentum(queue_start="empty"),
            fusion=FusedWordsConfig(fusion_layers=1, fusion_heads=3, class_token=False, masking="share"),
            albef=False,
            clean=False,
            decay="matrices",
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 and six BERT layers below six that read the image, D = 256, nine domains of P9D, five epochs each. The vocabulary
        is CLIP's, since BERT's word pieces are not at hand without a download; `--tokenizer FOLDER` takes them. So it is with the weights
        of DeiT and BERT that the release starts from (`image_weights`, `text_weights`)."""
        return cls(
            image_tower="vit_b16",
            text_tower="bert_b6",
            width=256,
            same_group="negative",
            flip=True,
            flip_sides="ignore",
            projection_bias=True,
            patch_bias=True,
            augment="rand",
            resize="squash",
            decoding="whole",
            memory=CompatibleMomentum(keys="own"),
            fused=True,
        )

    @classmethod
    def paper_er(cls) -> Self:
        """CTP_ER: `paper` with a buffer of 10,000 samples."""
        return replace(cls.paper(), replay=ReplayConfig(buffer=10_000, replays="added"))


class _StreamSnapshots(Snapshots):
    """Also says what the tasks were, and lets the companions start from the weights that the run starts from (`--init`)."""

    def __init__(self, recipe: CTP) -> None:
        super().__init__()
        self.recipe = recipe

    def on_stage(self, run: Run, stage: Stage) -> None:
        super().on_stage(run, stage)
        if run.step == 0:
            assert isinstance(run.model, ContinualEncoder)
            run.model.begin_task_()
            if world()[0] == 0:
                self.recipe.stream.write(run.snapshots)


def _is_trained_on(stream: TaskStream, task: int, held_below: float, seed: int, sample: Sample) -> bool:
    """Samples of the task, and those of earlier tasks that the buffer holds."""
    own = stream.task_of(sample)
    if own == task or not held_below:
        return own == task
    return 0 <= own < task and bool(reservoir_numbers([sample.uid], seed)[0] < held_below)


@torch.no_grad()
def _carry(before: nn.Module, after: nn.Module) -> None:
    """All weights and queues go on; the reference is the model as it is now, and the momentum model starts from it."""
    assert isinstance(after, ContinualEncoder)
    missing, _ = after.load_state_dict(before.state_dict(), strict=False)
    if any(not name.startswith("companions.reference.") for name in missing):
        raise ConfigError(f"the model of the next task has tensors that the last one lacks: {missing[:3]}")
    after.begin_task_()


def _same_process_columns(rows: int, device: torch.device) -> Tensor:
    """bool [N, W * N], True where text and image are of the same process."""
    rank, count = world()
    keep_NM = torch.zeros(rows, rows * count, dtype=torch.bool, device=device)
    keep_NM[:, rank * rows : (rank + 1) * rows] = True
    return keep_NM
