"""Inference with a trained `RoomChat`: grounds sentences in objects of a room, and writes captions and answers;
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

from diptych.core.points.boxes_3d import SceneBoxes
from diptych.core.sample import Sample
from diptych.data.points.proposals import ProposalReading
from diptych.data.points.room_chat_prompts import GROUND, ChatPrompt, describe_request, nearest_places
from diptych.data.points.room_things import RoomThings, read_things
from diptych.data.text.object_identifiers import IdentifierAssignment
from diptych.data.text.prompts.layout import lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.points.object_tokens import ObjectTokenSettings
from diptych.models.points.room_chat import RoomChat

AT_ONCE = 16
"""Batch size of requests."""


class RoomChatModel:
    """`RoomGrounder`, `RoomDescriber` and `RoomAnswerer`.

    The grounded objects are those whose identifiers the answer names. An answer without a known identifier grounds nothing;
    identifiers that no object has are counted in `unknown`.
    """

    kind: ClassVar[str] = "room_chat"

    def __init__(
        self,
        model: RoomChat,
        prompt: ChatPrompt,
        reading: ProposalReading,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        medium: str = "cloud",
        max_tokens: int = 64,
        beams: int = 1,
        repetition_penalty: float = 1.0,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """`max_tokens` of an answer, and the options of its decoding."""
        self.beams, self.repetition_penalty = beams, repetition_penalty
        self.model, self.prompt, self.reading, self.tokenizer = model, prompt, reading, tokenizer
        self.text_length, self.name, self.medium, self.max_tokens = text_length, name, medium, max_tokens
        self.card, self.unknown = dict(card or {}), 0

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"prompt": vars(self.prompt), "reading": self.reading.to_json()})

    def chat(self, sample: Sample, requests: Sequence[str]) -> list[str]:
        """Return the raw text of answers to requests about a room, identifiers included."""
        things = read_things(sample, self.reading, self.medium)
        return self._answers(things, self._assignment(things), list(requests))

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
        """Return boxes of the objects that the answer names, in the order of the answer; none if it names no known object."""
        things = read_things(sample, self.reading, self.medium)
        assignment = self._assignment(things)
        answers = []
        for text in self._answers(things, assignment, [GROUND.format(text) for text in texts]):
            if self.prompt.named_by == "centres":
                indices = nearest_places(text, things.box_M6)
            else:
                indices, unknown = assignment.read(text, self.prompt.form)
                self.unknown += len(unknown)
            score_N = 1.0 / np.arange(1, len(indices) + 1)
            answers.append(SceneBoxes(things.box_M6[indices].reshape(-1, 6), score_N, np.ones(len(indices), bool)))
        return answers

    def describe_room(self, sample: Sample) -> SceneBoxes:
        """Return all objects with a caption for each."""
        things = read_things(sample, self.reading, self.medium)
        assignment = self._assignment(things)
        asked = [describe_request(assignment, index, self.prompt.form) for index in range(len(things.box_M6))]
        texts = tuple(self._answers(things, assignment, asked))
        return SceneBoxes(things.box_M6, np.ones(len(texts)), np.ones(len(texts), bool), texts=texts)

    def answer_room(self, sample: Sample, questions: Sequence[str]) -> list[str]:
        """Return an answer to each question."""
        return self.chat(sample, questions)

    def _assignment(self, things: RoomThings) -> IdentifierAssignment:
        return IdentifierAssignment.draw(len(things.box_M6), "plain", None)

    @property
    def vocabulary(self) -> LanguageVocabulary:
        """Return the tokenizer of the language model."""
        return LanguageVocabulary(self.tokenizer)

    def _answers(self, things: RoomThings, assignment: IdentifierAssignment, requests: list[str]) -> list[str]:
        if not len(things.box_M6):
            return [""] * len(requests)
        answers: list[str] = []
        weight = self.model.language.inner.get_input_embeddings().weight
        with torch.no_grad(), evaluating(self.model):

            def one(x: Any) -> Tensor:
                return torch.from_numpy(np.asarray(x))[None].to(weight)

            open_1M = torch.ones(1, len(things.box_M6), dtype=torch.bool, device=weight.device)
            given = things.point_MKF if self.model.points else things.features(images=self.model.settings.image_width > 0)
            token_1MCD = self.model.things(one(given), one(things.placed_M6), one(things.colour_M3), open_1M)
            for some in parts(requests, AT_ONCE):
                rows = [self.prompt.pieces(assignment, text, None, tokens=self.model.settings.count) for text in some]
                layout = lay_out(rows, self.vocabulary, length=self.text_length, side="left").to(weight.device)
                count = len(some)
                sequence_BM = torch.tensor(assignment.sequence, device=weight.device).expand(count, -1)
                embed_BLD = self.model.embed(token_1MCD.expand(count, -1, -1, -1), sequence_BM, open_1M.expand(count, -1), layout)
                search: dict[str, Any] = {"num_beams": self.beams, "repetition_penalty": self.repetition_penalty}
                written = self.model.language.write(embed_BLD, layout, self.vocabulary, max_tokens=self.max_tokens, **search)
                answers += map(self.prompt.written, written)
        return answers

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "language": self.model.language.config,
            "tokens": self.model.settings.to_json(),
            "trained": self.model.trained,
            "points": self.model.points,
            "norms": [self.model.tokens.token_norm, self.model.tokens.relation_norm],
            "prompt": vars(self.prompt),
            "reading": self.reading.to_json(),
            "text_length": self.text_length,
            "medium": self.medium,
            "max_tokens": self.max_tokens,
            "beams": self.beams,
            "repetition_penalty": self.repetition_penalty,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("point-cloud", "text-generation"),
            about="Answers about a room whose things it knows by identifiers.",
            facts=f"{parameters(self.model):,} parameters, {self.model.settings.count} tokens of a thing.",
            use='model.ground_room(sample, ["the red chair near the table"])  # a sample with a cloud and objects or proposals',
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            language = LanguageModel(config=config["language"])
            model = RoomChat(
                language, ObjectTokenSettings.from_json(config["tokens"]), trained=config["trained"], points=config["points"]
            )
        load_weights(model, folder)
        model.tokens.token_norm, model.tokens.relation_norm = config["norms"]
        return cls(
            model.eval(),
            ChatPrompt(**config["prompt"]),
            ProposalReading.from_json(config["reading"]),
            Tokenizer.load(folder),
            config["text_length"],
            config["name"],
            medium=config["medium"],
            max_tokens=config["max_tokens"],
            beams=config.get("beams", 1),
            repetition_penalty=config.get("repetition_penalty", 1.0),
            card=config.get("card"),
        )
