"""What a user's package may hold: a class for each contract. `test_user_types.py` reads it with mypy --strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

import diptych as dp
from diptych.core.contracts import (
    CurationStepResult,
    Dataset,
    Deployable,
    Draws,
    Drop,
    Embedder,
    Engine,
    Generator,
    Hook,
    Operator,
    Optimiser,
    Order,
    Pipeline,
    PipelineOutput,
    Recipe,
    Role,
    Rule,
    Run,
    Stage,
    StepOutput,
    Task,
    Trainer,
    Unit,
)
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.core.result import Result
from diptych.core.rows import Rows


@dataclass(frozen=True)
class Pictures:
    image_BCHW: Rows[Tensor]

    def __len__(self) -> int:
        return len(self.image_BCHW)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.image_BCHW.to(device))

    def rows(self, start: int, stop: int) -> Self:
        return type(self)(self.image_BCHW[start:stop])


@dataclass(frozen=True)
class Outputs:
    vector_BD: Rows[Tensor]


class Colour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)


class ColourEmbedder(Embedder, Deployable):
    kind: ClassVar[str] = "colours"

    @property
    def name(self) -> str:
        return "colours"

    @property
    def fingerprint(self) -> str:
        return "1"

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return np.eye(len(images), 2, dtype=np.float32)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return np.eye(len(texts), 2, dtype=np.float32)

    def save(self, folder: Path) -> None:
        folder.mkdir()

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls()


@dataclass(frozen=True, kw_only=True)
class Colours(Recipe[Colour, Pictures, Outputs]):
    """dims  of a vector"""

    slug = "colours"
    dims: int = 2

    def row_order(self, data: Dataset) -> Order | None:
        return None

    def model(self) -> Colour:
        return Colour()

    def batch(self, draws: Draws) -> Pictures:
        return Pictures(torch.stack([torch.zeros(3, 8, 8) for _ in draws]))

    def features(self, model: Colour, batch: Pictures) -> Outputs:
        vector_BD: Tensor = model.linear(batch.image_BCHW.mean((2, 3)))
        return Outputs(vector_BD)

    def losses(self, features: Outputs, batch: Pictures) -> dict[str, Tensor]:
        return {"square": features.vector_BD.square().mean()}

    def optimiser(self) -> Optimiser:
        return Optimiser(lr=0.1, rules=(Rule("bias", decay=False),))

    def hooks(self) -> Sequence[Hook]:
        return (Watch(),)

    def stages(self) -> Sequence[Stage]:
        return ()

    def deploy(self, model: Colour) -> ColourEmbedder:
        return ColourEmbedder()

    @classmethod
    def tiny(cls) -> Self:
        return cls()

    @classmethod
    def paper(cls) -> Self:
        return cls(dims=64)


class Watch(Hook):
    def after_step(self, run: Run, losses: Mapping[str, float]) -> None:
        run.log("watch", terms=len(losses))


class Plain(Engine):
    descends: ClassVar[bool] = True
    once: ClassVar[bool] = False

    def step(self, run: Trainer, batch: Any) -> StepOutput:
        outcome = run.backward(batch)
        run.update(outcome)
        return outcome


class Bright(Task):
    name: ClassVar[str] = "bright"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "share"

    def predict(self, model: Embedder, data: Dataset, *args: Any, **roles: Any) -> pa.Table:
        vector_ND = model.embed_images([image for row in range(len(data)) if (image := data[row].image) is not None])
        return pa.table({"uid": list(data.uids), "bright": (vector_ND[:, 0] > 0).tolist()})

    def score(self, records: pa.Table) -> Result:
        raise NotImplementedError


@dataclass(frozen=True)
class Short(Operator):
    slug: ClassVar[str] = "short"
    length: int = 20

    def plan(self, data: Dataset) -> dict[str, Any]:
        return {"items": len(data)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        long = [uid for row, uid in enumerate(data.uids) if len(data[row].texts[0].string) > self.length]
        return CurationStepResult(
            tuple(uid for uid in data.uids if uid not in long), tuple(Drop(uid, "short", "long") for uid in long)
        )


@dataclass(frozen=True)
class Question:
    image: ImageSource
    text: str


@dataclass(frozen=True)
class Answer(PipelineOutput):
    text: str

    def lines(self) -> Sequence[str]:
        return [self.text]

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True)
class Polite(Pipeline[Question, Answer]):
    slug: ClassVar[str] = "polite"
    roles: ClassVar[tuple[Role, ...]] = (Role("model", Generator, "the model that answers"),)
    request: ClassVar[type] = Question
    model: Generator

    def run(self, request: Question) -> Answer:
        return Answer(self.model.generate([request.image], [f"{request.text}, please?"])[0])


class Echo(Generator):
    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [str(prompt) for prompt in prompts]


def use(folder: str) -> None:
    pairs = dp.read(folder)
    run = dp.train(Colours.tiny(), data=pairs, out="runs/colours")
    model = dp.load(run.model)
    print(dp.evaluate(model, "retrieval", data=pairs), len(pairs))
