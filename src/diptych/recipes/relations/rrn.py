"""Recurrent Relational Networks: message passing between objects for many steps, with an answer after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Order, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.load.order import WeightedOrder
from diptych.data.problems.problem import JumpProblem, Kind, StoryProblem, SudokuProblem, problem_of
from diptych.models.reasoning.batches import UNKNOWN, ProblemForm, ReasoningBatch, batch_of
from diptych.models.reasoning.encoders import Edges
from diptych.models.reasoning.network import Network, NetworkForm, RelationalNetwork, StepLogits, predicted
from diptych.models.reasoning.reasoner import PICTURES, RelationalReasoner
from diptych.objectives.stepwise import stepwise_cross_entropy


@dataclass(frozen=True, kw_only=True)
class RRN(Recipe[RelationalNetwork, ReasoningBatch, StepLogits]):
    """Recurrent Relational Networks (Palm, Paquet & Winther, 2018, arXiv 1711.08028).

    Objects are nodes of a graph. In each step every node sends a message along its edges, sums what it receives, and updates its state by
    an LSTM; weights are the same in all steps. After each step every node (of a Sudoku), or the sum over nodes (for a question), answers,
    and the loss is the mean over steps. So a trained model can take more steps than in training (`test_steps`, `diptych eval RUN reasoning
    --steps 64`). Its baselines are one step (`reasoning_steps` 1) and a plain MLP (`network` "mlp").

    Presets: paper (Sudoku), babi (stories of bAbI), pretty_clevr (jumps between things). No code of the last was released: eight things as
    nodes, a sum over nodes, four steps are the paper's, sizes those of bAbI.

    We depart: an epoch is a permutation of all rows, not a buffer of 640; stories are asked with their facts at the first positions
    instead of at a random offset; the released best checkpoint by validation loss is `--keep-best`.

    problem      sudoku, story or jumps: what `extras["problem"]` of the samples holds
    embedding    width of the vectors of digits, rows and columns, and of words and the LSTMs that read them
    hidden       width of all MLPs and of the state of a node
    reasoning_steps  steps of message passing in training
    test_steps   steps of the trained model where nobody says otherwise; 0 takes those of training
    l2           weight of half the sum of squares of the MLPs' weights
    facts        so many of a story, the last ones; positions are shifted by a random number below it
    edges        of a Sudoku: "rules" join cells that exclude each other, "full" all cells
    keep_edges   share of the messages that are kept while training (released option, 1 as published)
    network      "recurrent", or "mlp": all inputs of a grid at once through as many layers, without messages
    loss_at      steps whose answers are in the loss: "every", or the "last"
    pixels       jumps are read from the picture, by five strided convolutions, in place of places, colours and markers
    side         of the grid; of the data
    words, colours, markers   names of the data
    """

    slug = "rrn"
    needs = ("problem",)
    presets = ("tiny", "paper", "babi", "pretty_clevr")

    problem: Kind = "sudoku"
    embedding: int = 16
    hidden: int = 96
    reasoning_steps: int = 32
    test_steps: int = 64
    l2: float = 1e-4
    facts: int = 20
    edges: Edges = "rules"
    keep_edges: float = 1.0
    network: Network = "recurrent"
    loss_at: Literal["every", "last"] = "every"
    pixels: bool = False

    batch_size: int = 64
    steps: int = 300_000
    lr: float = 2e-4
    warmup: float = 0.0
    weight_decay: float = 0.0

    side: int = field(default=9, metadata={"prepared": True})
    words: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    colours: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    markers: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.reasoning_steps < 1 or self.test_steps < 0 or not 0 < self.keep_edges <= 1:
            raise ConfigError(
                f"reasoning_steps is {self.reasoning_steps}, test_steps {self.test_steps}, keep_edges {self.keep_edges} "
                "(expected 1 or more; 0 or more; above 0 and at most 1)"
            )
        if self.network == "mlp" and self.problem != "sudoku":
            raise ConfigError(
                f"network 'mlp' works only on grids, and problem is '{self.problem}' (expected network='recurrent')"
            )
        if self.pixels and self.problem != "jumps":
            raise ConfigError(f"pixels are only for jumps, and problem is '{self.problem}' (expected problem='jumps')")

    @property
    def measured_by(self) -> str:
        return "reasoning"

    @property
    def decode_size(self) -> int | None:
        return PICTURES.size if self.pixels else None

    def prepare(self, data: Dataset) -> Self:
        """The side of the grids, the words of the stories, or the names of things, of the training data."""
        first = problem_of(data[0])
        if isinstance(first, SudokuProblem) and self.problem == "sudoku":
            return replace(self, side=first.side)
        problems = [problem_of(data[row]) for row in range(len(data))] if first.kind == self.problem else []
        stories = [one for one in problems if isinstance(one, StoryProblem)]
        scenes = [one for one in problems if isinstance(one, JumpProblem)]
        if stories and not self.words:
            words = {word for one in stories for text in (*one.facts, one.question) for word in text.split()}
            return replace(self, words=(*sorted(words | {one.answer for one in stories}), UNKNOWN))
        if scenes and not self.colours:
            colours, markers = ({getattr(thing, name) for one in scenes for thing in one.things} for name in ("colour", "marker"))
            return replace(self, colours=tuple(sorted(colours)), markers=tuple(sorted(markers)))
        if not stories and not scenes:
            raise DataError(
                f"'{data.name}' holds problems of kind '{first.kind}'",
                field="problem",
                expected=f"{self.problem}, or --problem {first.kind}",
            )
        return self

    def row_order(self, data: Dataset) -> Order | None:
        """Of stories, each task equally often, as published."""
        if self.problem != "story":
            return None
        tasks = [problem_of(data[row]).level for row in range(len(data))]
        counts = Counter(tasks)
        return WeightedOrder(tuple(1.0 / counts[task] for task in tasks)) if len(counts) > 1 else None

    @property
    def form(self) -> ProblemForm:
        return ProblemForm(
            problem=self.problem, side=self.side, words=self.words, facts=self.facts, colours=self.colours, markers=self.markers
        )

    def model(self) -> RelationalNetwork:
        return RelationalNetwork(
            NetworkForm(
                form=self.form,
                network=self.network,
                embedding=self.embedding,
                hidden=self.hidden,
                steps=self.reasoning_steps,
                edges=self.edges,
                keep=self.keep_edges,
                pixels=self.pixels,
            )
        )

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """Decodes the picture where it is read."""
        return super().load(sample, rng) if self.pixels else {}

    def batch(self, draws: Draws) -> ReasoningBatch:
        problems = [problem_of(draw.sample) for draw in draws]
        offsets = [int(draw.rng.integers(self.facts)) for draw in draws] if self.problem == "story" else ()
        image = None
        if self.pixels:
            pictures = [draw.image_HWC for draw in draws if draw.image_HWC is not None]
            if len(pictures) < len(draws):
                raise DataError("a sample has no picture", field="image", expected="one in every sample, or --pixels False")
            image = PICTURES(pictures)
        return batch_of(problems, self.form, offsets=offsets, image=image)

    def features(self, model: RelationalNetwork, batch: ReasoningBatch) -> StepLogits:
        logits: StepLogits = model(batch)
        return logits

    def losses(self, features: StepLogits, batch: ReasoningBatch) -> dict[str, Tensor]:
        answers = stepwise_cross_entropy(features.logit_BTAK, batch.answer_BA, last=self.loss_at == "last")
        return {"answers": answers, "l2": self.l2 * features.squares.squeeze(0)}

    def metrics(self, features: StepLogits, batch: ReasoningBatch) -> dict[str, Tensor]:
        """Shares of answers and of whole problems that are right after the last step of training."""
        right_BA = predicted(features.logit_BTAK)[:, -1] == batch.answer_BA
        return {"answers_right": right_BA.float().mean(), "solved": right_BA.all(1).float().mean()}

    def optimiser(self) -> Optimiser:
        """Adam as TensorFlow has it, which adds its eps before the correction of the second moment; a constant rate."""
        return replace(super().optimiser(), adam="transformers", betas=(0.9, 0.999), eps=1e-8, schedule="constant")

    def deploy(self, model: RelationalNetwork) -> RelationalReasoner:
        taken = 1 if self.network == "mlp" else self.test_steps or self.reasoning_steps
        return RelationalReasoner(model, self.slug, taken)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """Sudoku of four digits: four steps in training, eight after it."""
        return cls(hidden=48, reasoning_steps=4, test_steps=8, steps=1000, lr=2e-3, side=4)

    @classmethod
    def paper(cls) -> Self:
        """Sudoku of nine digits: 32 steps in training, 64 after it. Released training has no end; the steps here are ours."""
        return cls()

    @classmethod
    def babi(cls) -> Self:
        """All tasks of bAbI at once: the last 20 facts, five steps."""
        return cls(problem="story", embedding=32, hidden=128, reasoning_steps=5, test_steps=0, batch_size=160)

    @classmethod
    def pretty_clevr(cls) -> Self:
        """Jumps between eight things whose places, colours and markers are known: four steps."""
        return cls(problem="jumps", hidden=128, reasoning_steps=4, test_steps=0)
