"""Inference with a trained `RoomGraphNet`: grounding, captions and classes of objects of a room, and answers;
saved as one folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.core.points.boxes_3d import SceneBoxes
from diptych.core.sample import Sample
from diptych.data.points.proposals import ProposalReading, placed_boxes
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.layers.transformer import l2_normalise
from diptych.models.points.scene_graph import RoomGraphNet, RoomGraphSettings


class RoomGraphModel:
    """`RoomGrounder` (by its head, else by the cosines of pre-training), `RoomDescriber`, `RoomDetector` and `RoomAnswerer`.

    Each needs the network to have its head. A room is a sample with a cloud and proposals or objects.
    """

    kind: ClassVar[str] = "room_graph"

    def __init__(
        self,
        model: RoomGraphNet,
        classes: Sequence[str],
        answers: Sequence[str],
        reading: ProposalReading,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        medium: str = "cloud",
        choose_above: float = 0.5,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """`choose_above`: a proposal is chosen if its probability is at least this share of the best one."""
        self.model, self.classes, self.answers, self.reading = model, tuple(classes), tuple(answers), reading
        self.tokenizer, self.text_length, self.name, self.medium = tokenizer, text_length, name, medium
        self.choose_above, self.card = choose_above, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        shown = {"classes": list(self.classes), "answers": list(self.answers), "reading": self.reading.to_json()}
        return fingerprint(self.model, {**shown, "text_length": self.text_length})

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
        """Return proposals of a room with a score for each text."""
        box_M6, node_1MD, open_1M = self._read(sample)
        if not len(box_M6) or not texts:
            return [SceneBoxes(box_M6, np.zeros(len(box_M6)), np.zeros(len(box_M6), bool)) for _ in texts]
        with torch.no_grad(), evaluating(self.model):
            id_1SL, mask_1SL = self._words(texts)
            word_SLD, sentence_SD = self.model.read_words(id_1SL[0], mask_1SL[0])
            if "grounding" in self.model.heads:
                object_1SMD, _ = self.model.mix(node_1MD, word_SLD[None], open_1M, mask_1SL)
                score_SM = self.model.scores(object_1SMD, sentence_SD[None], open_1M)[0]
            else:
                node_MD = l2_normalise(self.model.node_joint(node_1MD[0]))
                score_SM = self.model.scale_1 * l2_normalise(self.model.sentence_joint(sentence_SD)) @ node_MD.T
            share_SM = score_SM.softmax(-1).double().cpu().numpy()
        return [SceneBoxes(box_M6, share_M, share_M >= self.choose_above * share_M.max()) for share_M in share_SM]

    def detect_room(self, sample: Sample) -> SceneBoxes:
        """Return proposals of a room with their most likely classes."""
        box_M6, _, _ = self._read(sample)
        if not len(box_M6):
            return SceneBoxes(box_M6, np.zeros(0), np.zeros(0, bool))
        with torch.no_grad(), evaluating(self.model):
            point, placed, open_1M = self._proposals(sample, box_M6)
            share_MC = self.model.classify(self.model.read_objects(point, placed, open_1M)[0])[0].softmax(-1)
            score_M, class_M = share_MC.max(-1)
        labels = tuple(self.classes[k] for k in class_M.tolist())
        return SceneBoxes(box_M6, score_M.double().cpu().numpy(), np.ones(len(box_M6), bool), labels)

    def describe_room(self, sample: Sample) -> SceneBoxes:
        """Return proposals of a room with a greedily decoded caption each. Raises ConfigError without that head."""
        self._needs("captions")
        box_M6, node_1MD, _ = self._read(sample)
        if not len(box_M6):
            return SceneBoxes(box_M6, np.zeros(0), np.zeros(0, bool))
        with torch.no_grad(), evaluating(self.model):
            id_ML = torch.full((len(box_M6), 1), self.tokenizer.prefix[0], device=node_1MD.device)
            for _ in range(self.text_length - 1):
                next_M = self.model.caption(node_1MD[0], id_ML)[:, -1].argmax(-1)
                id_ML = torch.cat([id_ML, next_M[:, None]], 1)
        texts = []
        for row in id_ML[:, 1:].tolist():
            ended = row.index(self.tokenizer.eot_id) if self.tokenizer.eot_id in row else len(row)
            texts.append(self.tokenizer.decode(row[:ended]))
        return SceneBoxes(box_M6, np.ones(len(box_M6)), np.ones(len(box_M6), bool), texts=tuple(texts))

    def answer_room(self, sample: Sample, questions: Sequence[str]) -> list[str]:
        """Return the most likely answer to each question. Raises ConfigError without that head."""
        self._needs("questions")
        _, node_1MD, open_1M = self._read(sample)
        if not questions:
            return []
        with torch.no_grad(), evaluating(self.model):
            logit_SA = self.model.asked(node_1MD, *self._words(questions), open_1M)[0]
        return [self.answers[k] for k in logit_SA.argmax(-1).tolist()]

    def _needs(self, head: str) -> None:
        if head not in self.model.heads:
            raise ConfigError(
                f"'{self.name}' was trained with the heads {', '.join(self.model.heads) or 'none'} (expected {head})"
            )

    def _words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        words, device = self.tokenizer.encode(list(texts), self.text_length), self.model.scale_1.device
        return torch.from_numpy(words.ids_BL)[None].to(device), torch.from_numpy(words.mask_BL)[None].to(device)

    def _proposals(self, sample: Sample, box_M6: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self.medium not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no cloud", field=self.medium, expected="a cloud of the room")
        cloud_P6 = sample.media[self.medium].decode()
        if cloud_P6.shape[1] < 6:
            raise DataError(f"sample '{sample.uid}' has a cloud without colours", field=self.medium, expected="x y z and colours")
        weight = self.model.classify.weight
        point_1MKF = torch.from_numpy(self.reading.points(cloud_P6, box_M6))[None].to(weight)
        placed_1M6 = torch.from_numpy(placed_boxes(box_M6, cloud_P6))[None].to(weight)
        return point_1MKF, placed_1M6, torch.ones(1, len(box_M6), dtype=torch.bool, device=weight.device)

    def _read(self, sample: Sample) -> tuple[Any, Tensor, Tensor]:
        """Return boxes [M, 6], features of proposals after the graph [1, M, D], and the mask of existing proposals."""
        box_M6 = self.reading.boxes(sample)
        with torch.no_grad(), evaluating(self.model):
            point, placed, open_1M = self._proposals(sample, box_M6)
            if not len(box_M6):
                return box_M6, placed.new_zeros(1, 0, self.model.settings.graph_width), open_1M
            return box_M6, self.model.read_objects(point, placed, open_1M)[1], open_1M

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "graph": self.model.settings.to_json(),
            "words": self.model.words,
            "heads": list(self.model.heads),
            "pretraining": self.model.pretraining,
            "classes": list(self.classes),
            "answers": list(self.answers),
            "reading": self.reading.to_json(),
            "text_length": self.text_length,
            "medium": self.medium,
            "choose_above": self.choose_above,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("point-cloud", "visual-grounding"),
            about="Reads a room as a graph of things: which of them a sentence means, what they are, and answers about them.",
            facts=f"{len(self.classes)} classes, {len(self.answers)} answers, {parameters(self.model):,} parameters.",
            use='model.ground_room(sample, ["the red chair near the table"])  # a sample with a cloud and objects or proposals',
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = RoomGraphNet(
                RoomGraphSettings.from_json(config["graph"]),
                words=config["words"],
                classes=len(config["classes"]),
                answers=len(config["answers"]),
                heads=config["heads"],
                pretraining=config["pretraining"],
            )
        load_weights(model, folder)
        return cls(
            model.eval(),
            config["classes"],
            config["answers"],
            ProposalReading.from_json(config["reading"]),
            Tokenizer.load(folder),
            config["text_length"],
            config["name"],
            medium=config["medium"],
            choose_above=config["choose_above"],
            card=config.get("card"),
        )
