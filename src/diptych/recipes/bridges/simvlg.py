"""SimVLG: a connector that merges similar image tokens layer by layer, trained in one stage by the language model's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import transformers

from diptych.core.contracts import Draws, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text
from diptych.data.text.prompts.layout import ImageSlots, Piece, TokenPiece, lay_out
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.merging_connector import MergingConnector, take_released_
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.outputs import Tower
from diptych.models.towers.packaged.hf_text import silence_transformers
from diptych.models.towers.video.temporal_merge import FrameAverageTower
from diptych.recipes._shared.language.bridges import BridgeBatch, BridgeRecipe
from diptych.recipes._shared.language.clip_frames import Short, clip_views, read_frames
from diptych.recipes._shared.language.two_stage_captions import clean_caption


@dataclass(frozen=True, kw_only=True)
class SimVLG(BridgeRecipe):
    """SimVLG, released as EVLGen: Expedited Training of Visual Conditioned Language Generation via Redundancy Reduction (Jian et al., 2023,
    arXiv 2310.03291).

    Image features go through BERT's layers, which in each layer merge `merged` tokens into those that they are most like; what is left is
    what a frozen language model reads. The first feature, the class token of EVA, is never merged; where an encoder gives patches alone
    that is the first patch. There are no queries and no stage of representation learning: norm, maps and BERT are trained on
    captions at once. Clips: frames are merged softly in every block of the frozen image encoder, by attention whose factor starts at 0, and
    then averaged; `frames` above 1 trains that, too, usually from a run on images (`--start-from`).

    The release has a contrastive loss beside, with weight 0; it is left out. Its image encoder of clips is not put into evaluation mode,
    which changes nothing, since it has no dropout. It draws half of a clip's frames from its first half and half from its second, here one
    is drawn of each of as many stretches.

    merged       tokens that are merged in each layer
    bert_weights "hf:FOLDER" of BERT, whose positions and layers the connector starts from; "": fresh ones
    connector_weights "FILE" of a released checkpoint, whose norm, maps and layers the connector starts from, in place of `bert_weights`
    bert_width, bert_layers, bert_heads, bert_mlp, bert_dropout  of the connector; published: bert-base
    caption_end  what ends a caption, in place of an end mark; "": the language model's end mark
    caption_length  tokens of a caption at most, start mark and end among them; 0: all
    clean        captions are read as BLIP cleans them: lower case, without marks, of 50 words at most
    learns_start the start mark between image and caption is learned as if it were a word, as the release does where it masks padding alone
    frames       of a clip; 1: images
    medium       the name of the clip among a sample's media
    final_lr     share of the rate at the end
    periods      parts of the run, LAVIS's inner epochs: the warm-up ends with the first, and the rate falls after each; 0: with each step
    short_clips  clips with fewer frames: "refuse" them, or "repeat" some
    """

    slug = "simvlg"
    presets = ("tiny", "paper", "video")

    merged: int = 19
    bert_weights: str = ""
    connector_weights: str = ""
    bert_width: int = 768
    bert_layers: int = 12
    bert_heads: int = 12
    bert_mlp: int = 3072
    bert_dropout: float = 0.1
    caption_end: str = "\n"
    caption_length: int = 32
    clean: bool = True
    learns_start: bool = False
    frames: int = 1
    medium: str = "clip"
    short_clips: Short = "refuse"
    warmup_lr: float = 1e-6
    final_lr: float = 0.1
    over: Literal["rest", "run"] = "run"
    periods: float = 50.0

    image_tower: str = "eva_g14"
    template: str = ""
    space: str = ""
    start_behind: bool = True
    text_length: int = 0
    crop: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    batch_size: int = 200
    steps: int = 250_000
    lr: float = 1e-4
    warmup: float = 5000.0
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames is {self.frames} (expected 1 or more)")
        object.__setattr__(self, "needs", ("image", "texts") if self.frames == 1 else ("texts",))

    @property
    def trained(self) -> tuple[str, ...]:
        return ("connector",) if self.frames == 1 else ("connector", "encoder")

    def connector_spec(self) -> dict[str, Any]:
        bert = {
            "hidden_size": self.bert_width,
            "num_hidden_layers": self.bert_layers,
            "num_attention_heads": self.bert_heads,
            "intermediate_size": self.bert_mlp,
            "hidden_dropout_prob": self.bert_dropout,
            "attention_probs_dropout_prob": self.bert_dropout,
        }
        return {"kind": "merging", "merged": self.merged, "bert": bert, "norm": 1e-5}

    # ------------------------------------------------------------ data

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.frames == 1:
            return super().load(sample, rng)
        side = self.decode_size
        return {"clip": read_frames(sample, self.medium, self.frames, rng, short=self.short_clips, min_side=side)}

    def batch(self, draws: Draws) -> BridgeBatch:
        words, rows, cut = self.words(), list[list[Piece]](), 0
        for draw in draws:
            text = choose_text(draw, self.language).string
            ids = words.pieces(self.space + (clean_caption(text) if self.clean else text) + self.caption_end)
            ids = ids if self.caption_end else [*ids, words.end_id]
            most = self.caption_length - len(words.start_ids) if self.caption_length else len(ids)
            cut += len(ids) > most
            rows.append([ImageSlots(self.slots), TokenPiece(tuple(ids[:most]), answer=True)])
        made = self.laid(draws, rows) if self.frames == 1 else self._laid_clips(draws, rows)
        if self.learns_start:
            made.answer_BL[:, self.slots : self.slots + len(words.start_ids)] = True
        return replace(made, truncated=made.truncated + cut)

    def _laid_clips(self, draws: Draws, rows: list[list[Piece]]) -> BridgeBatch:
        clips = [draw.media["clip"] for draw in draws]
        shown = clip_views(clips, [draw.rng for draw in draws], self.preprocess, self.crop, self.flip)
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws])
        return BridgeBatch(shown, laid.id_BL, laid.slot_BL, laid.mask_BL, laid.answer_BL, laid.truncated, laid.places)

    # ------------------------------------------------------------ model

    def _encoder(self) -> Tower:
        encoder = super()._encoder()
        if self.frames == 1:
            return encoder
        encoder.requires_grad_(False)
        made = FrameAverageTower(encoder)
        made.spec = {"name": "frame_average", "inner": encoder.spec}
        return made

    def model(self) -> Bridge:
        bridge = super().model()
        assert isinstance(bridge.connector, MergingConnector)
        if self.connector_weights:
            take_released_(bridge.connector, Path(self.connector_weights).expanduser())
        elif self.bert_weights:
            take_bert_(bridge.connector, self.bert_weights)
        return bridge

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, final_lr=self.final_lr)
        chosen = replace(chosen, warmup_from=self.warmup_lr / self.lr, over=self.over)
        return replace(chosen, periods=self.periods, falls="period", rises="first") if self.periods else chosen

    def stored(self, name: str) -> bool:
        """Connector and temporal merging are in checkpoints, frozen parts are loaded again."""
        return super().stored(name) or name.startswith("encoder.merges.")

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.sign = self.caption_end
        if self.frames > 1:
            made.frames, made.pictures = self.frames, 4096
        return made

    @classmethod
    def tiny(cls) -> Self:
        """Two layers of BERT that leave 9 of 17 tokens, before small models that are made first: two minutes on two cores."""
        return cls(
            image_weights="small",
            merged=4,
            bert_width=96,
            bert_layers=2,
            bert_heads=4,
            bert_mlp=192,
            bert_dropout=0.0,
            caption_end="",
            caption_length=0,
            clean=False,
            space=" ",
            start_behind=False,
            text_length=96,
            crop=(1.0, 1.0),
            flip=False,
            pieces=512,
            match_norms=True,
            batch_size=64,
            steps=600,
            lr=2e-3,
            warmup=30.0,
            warmup_lr=0.0,
            final_lr=0.0,
            over="rest",
            periods=0.0,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """EVA-g, whose 257 tokens become 29, BERT-base (`bert_weights`) and OPT-2.7B (`language_model`): 250,000 steps of 1,600, of which
        each of the eight processes of the released command has 200; for Vicuna 60,000. It writes with five beams, 8 to 30 tokens;
        `generate` takes the likeliest by default. As released the start mark is learned (`learns_start`)."""
        return cls(decoding="whole", resize="squash", learns_start=True, batch_size=1600, rows_a_mean=200)

    @classmethod
    def video(cls) -> Self:
        """As `paper`, four frames of a clip: 50,000 steps of 32, 4 a process, at a rate of 1e-5, from a run on images."""
        return replace(cls.paper(), frames=4, steps=50_000, batch_size=32, rows_a_mean=4, lr=1e-5, warmup=1000.0, warmup_lr=1e-8)


@torch.no_grad()
def take_bert_(connector: MergingConnector, address: str) -> None:
    """Copies positions, token types and layers of a BERT into the connector. Raises DataError where sizes differ.

    address  "hf:FOLDER" of transformers; a deeper BERT gives its first layers
    """
    folder = Path(address.removeprefix("hf:")).expanduser()
    if not (folder / "config.json").is_file():
        raise DataError("not a folder of transformers", file=folder, expected="config.json and model.safetensors of BERT")
    with silence_transformers():
        source = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    tensors = source.state_dict()
    for name, tensor in connector.bert.state_dict().items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            given = list(tensors[name].shape) if name in tensors else "missing"
            raise DataError(f"tensor {name} is {given}", file=folder, expected=f"{list(tensor.shape)}, as the recipe has it")
        tensor.copy_(tensors[name])
