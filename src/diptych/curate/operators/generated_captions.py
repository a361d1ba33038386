"""Generates a caption for every image with a captioning model, such as the synthetic captions that ALIP trains on.

ALIP (2308.08428) used OFA with the prompt below, 10 to 15 tokens. The captions are the column ``synthetic_caption``, keyed by
uid: pass the
folder that `curate` wrote to `diptych train alip --captions FOLDER`. The column ``synthetic_caption_by`` records, for each
caption, the model with the hash of its weights, the prompt, and the data set and row of the image.

Only rows with unreadable images are dropped; an empty caption counts as missing. An interrupted run resumes from its finished
parts. On Ray the encoded images are sent to the workers, each of which opens the model from its address, so the folder must exist
there too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Generator
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import BytesImage, ImageSource
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped_where
from diptych.curate.operators.synthetic_captions import COLUMN
from diptych.data.media.decode import encode_exactly
from diptych.models.io.inference import parts as batches
from diptych.models.io.open_address import open_address, require

ALIP_PROMPT = "What does the image describe?"
PART_ROWS = 256
"""Images per part: the most captions that an interrupted run can lose."""
BY = pa.struct(
    [
        ("model", pa.string()),
        ("fingerprint", pa.string()),
        ("prompt", pa.string()),
        ("data", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass
class Captioner:
    """Captioning worker of a step; pickled as its address, it opens the model on the first call.

    Returns for each image "+" and its caption, or "-" and the reason why it cannot be read.
    """

    address: str
    prompt: str
    max_tokens: int
    batch_size: int
    model: Any = field(default=None, repr=False)
    kind: ClassVar[pa.DataType] = pa.string()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def __call__(self, *columns: pa.Array) -> pa.Array:
        names, contents = (column.to_pylist() for column in columns)
        images = [BytesImage(content, name) for name, content in zip(names, contents, strict=True)]
        return pa.array([answer for some in batches(images, self.batch_size) for answer in self._answers(some)], pa.string())

    def _answers(self, images: Sequence[ImageSource]) -> list[str]:
        """Captions of a batch; if an image is broken, the images are captioned one by one."""
        try:
            return [f"+{text}" for text in self.captions(images)]
        except DecodeError as error:
            if len(images) == 1:
                return [f"-{error}"]
            return [answer for image in images for answer in self._answers([image])]

    def captions(self, images: Sequence[ImageSource]) -> list[str]:
        if self.model is None:
            self.model = open_captioner(self.address)
        texts = self.model.generate(images, [self.prompt] * len(images), max_tokens=self.max_tokens)
        return [text.strip() for text in texts]


def open_captioner(address: str) -> Any:
    """Opens the captioner at an address. Raises ConfigError for an empty address or a model that does not generate text."""
    if not address:
        raise ConfigError("generated_captions needs a model that writes (--captioner MODEL)")
    model = open_address(address)
    require(model, Generator, who=f"the step with model {address}")
    return model


@dataclass(frozen=True)
class GeneratedCaptions:
    """captioner   address of a generative model: a run such as limber's, hf:FOLDER such as LLaVA
    prompt      prompt of the model; "" uses its own default prompt
    max_tokens  maximum number of tokens of a caption
    batch_size  images per batch
    """

    slug: ClassVar[str] = "generated_captions"

    captioner: str = ""
    prompt: str = ALIP_PROMPT
    max_tokens: int = 15
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}, batch_size {self.batch_size} (expected 1 or more)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        worker = self._worker()
        return estimate_cost(data, lambda image: worker.captions([image]), unit="caption (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from captions that an earlier run finished."""
        start = time.perf_counter()
        worker = self._worker()
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        with_image = [uid for uid in sorted(row_of) if data[row_of[uid]].image is not None]
        rows = pa.table({"row": pa.array([row_of[uid] for uid in with_image], pa.int64())})

        def work(part: pa.Table) -> pa.Table:
            return _caption_rows(data, part["row"].to_pylist(), worker)

        fingerprint = str(getattr(worker.model, "fingerprint", ""))
        made = PartStore(parts.folder, parts.key, PART_ROWS).mapped(rows, f"captions-{fingerprint[:16]}", work)
        answers = dict(zip(made["uid"].to_pylist(), made["told"].to_pylist(), strict=True))
        captions = {uid: text[1:] for uid, text in answers.items() if text.startswith("+") and text[1:]}
        dropped = tuple(Drop(uid, self.slug, f"unreadable: {text[1:]}") for uid, text in answers.items() if text.startswith("-"))
        kept = tuple(sorted(set(row_of) - {drop.uid for drop in dropped}))
        name = str(getattr(worker.model, "name", self.captioner))
        by = [
            {"model": name, "fingerprint": fingerprint, "prompt": self.prompt, "data": data.name, "row": row_of[uid]}
            for uid in captions
        ]
        source = pa.table({"uid": pa.array(list(captions), pa.string()), f"{COLUMN}_by": pa.array(by, BY)})
        columns = {COLUMN: captions, f"{COLUMN}_by": source} if captions else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _worker(self) -> Captioner:
        return Captioner(self.captioner, self.prompt, self.max_tokens, self.batch_size, open_captioner(self.captioner))


def _caption_rows(data: Dataset, rows: list[int], worker: Captioner) -> pa.Table:
    """Table of uid and caption, for some rows of the data."""
    uids: list[str] = []
    names: list[str] = []
    contents: list[bytes | None] = []
    unread: dict[str, str] = {}
    for row in rows:
        sample = data[row]
        assert sample.image is not None  # rows without a picture are not asked about
        try:
            contents.append(encode_exactly(sample.image))
        except OSError as error:
            unread[sample.uid] = f"-{error}"
            continue
        uids.append(sample.uid)
        names.append(sample.image.name)
    given = pa.table(
        {
            "row": pa.array(range(len(uids)), pa.int64()),
            "name": pa.array(names, pa.string()),
            "image": pa.array(contents, pa.binary()),
        }
    )
    answers = mapped_where(given, ["name", "image"], worker, "told")["told"].to_pylist() if uids else []
    return pa.table({"uid": pa.array([*uids, *unread], pa.string()), "told": pa.array([*answers, *unread.values()], pa.string())})
