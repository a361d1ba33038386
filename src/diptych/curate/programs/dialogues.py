"""Writes dialogues to disk incrementally, and collects the questions of each image as a column: memory does not grow with the
text."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from diptych.core.image import FileImage, ImageSource
from diptych.core.sample import Sample
from diptych.curate.programs.questions import Metadata, ProgramTurn, conversation
from diptych.data.media.decode import encode_exactly

QUESTIONS = "questions"
QUESTION = pa.struct(
    [("question", pa.string()), ("answer", pa.string()), ("kind", pa.string()), ("choices", pa.list_(pa.string()))]
)
CHUNK = 4096
"""Images per chunk of the column."""
PICTURES = "images"


@dataclass
class DialogueFile:
    """A JSON list of dialogues in the form of LLaVA, one row per line.

    rows      number of rows written so far
    pictures  encoded pictures that are not files, by the path that rows name
    """

    path: Path
    rows: int = 0
    pictures: dict[str, bytes] = field(default_factory=dict)
    _handle: IO[str] | None = None
    _chunks: list[pa.Table] = field(default_factory=list)
    _pending: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def temporary(cls) -> DialogueFile:
        """Opens a temporary file, which the caller moves or removes."""
        handle, path = tempfile.mkstemp(prefix="dialogues-", suffix=".json")
        os.fchmod(handle, 0o644)  # it is moved to a place where others read it
        os.close(handle)
        return cls(Path(path))

    def add(self, images: Sequence[Sample], turn: ProgramTurn, program: str, metadata: Metadata, rng: Any) -> dict[str, Any]:
        """Writes one dialogue about one or several images, and returns its row."""
        names = [self._picture(sample) for sample in images]
        row: dict[str, Any] = {
            "id": self.rows,
            "image": names if len(names) > 1 else names[0],
            "conversations": conversation(turn, rng, images=len(names)),
            "generator": program,
            "metadata": {name: list(values) for name, values in metadata.items()},
        }
        if turn.options:
            row |= {"question": turn.question, "answer": turn.answer, "options": list(turn.options)}
        if self._handle is None:
            self._handle = self.path.open("w", encoding="utf-8")
        self._handle.write(("[\n" if not self.rows else ",\n") + json.dumps(row, ensure_ascii=False))
        self.rows += 1
        return row

    def add_questions(self, uid: str, turns: Sequence[tuple[str, ProgramTurn]]) -> None:
        """Adds the questions of one image to the column, as (program, turn) pairs."""
        self._pending[uid] = [
            {"question": turn.question, "answer": turn.answer, "kind": program, "choices": list(turn.options)}
            for program, turn in turns
        ]
        if len(self._pending) >= CHUNK:
            self._flush()

    def column(self) -> pa.Table:
        """Columns "uid" and "questions", a list of question, answer, kind and choices for each image."""
        self._flush()
        return pa.concat_tables(self._chunks)

    def close(self) -> None:
        """Ends the list."""
        if self._handle is not None:
            self._handle.write("\n]\n")
            self._handle.close()
            self._handle = None

    def _flush(self) -> None:
        uids = pa.array(list(self._pending), pa.string())
        values = pa.array(list(self._pending.values()), pa.list_(QUESTION))
        self._chunks.append(pa.table({"uid": uids, QUESTIONS: values}))
        self._pending = {}

    def _picture(self, sample: Sample) -> str:
        image: ImageSource | None = sample.image
        assert image is not None, sample.uid  # graphs are made of samples with a picture
        if isinstance(image, FileImage):
            return str(image.path.resolve())
        name = f"{PICTURES}/{sample.uid}.png"
        if name not in self.pictures:
            self.pictures[name] = encode_exactly(image)
        return name
