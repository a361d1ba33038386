"""Writes questions about a data set: counts the subjects of questions, draws questions per image, then over several images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError, DecodeError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.programs.balance import Counts, chosen_questions, count_metadata
from diptych.curate.programs.dialogues import DialogueFile
from diptych.curate.programs.graph import ImageGraph
from diptych.curate.programs.graph_index import GraphWords, SceneGraphIndex
from diptych.curate.programs.questions import Need, Program, ProgramQuestion, Settings, write_turn
from diptych.curate.programs.several import SeveralProgram, questions_about_several, with_images_shuffled

KEY = "provision"


@dataclass(frozen=True)
class Amounts:
    """Numbers of questions to write.

    per_image  questions per program and image; 0 for all
    counted    images over which metadata are counted; 0 draws questions evenly
    choices    fraction of multiple-choice questions
    images     images per question about several
    several    questions per program about several images
    shown      rows stored for the report page
    """

    per_image: int
    counted: int
    choices: float
    images: int
    several: int
    shown: int


@dataclass
class QuestionWriter:
    """Writes the questions of programs about the images of a data set.

    graph       makes the graph of a sample; raises DataError or DecodeError
    order       rows in processing order
    considered, written  questions by program
    faults      reason why an image has no questions, by uid
    examples    rows of the dialogues with the rows of their images
    """

    data: Dataset
    order: Sequence[int]
    graph: Callable[[Sample], ImageGraph]
    single: Sequence[Program]
    several: Sequence[SeveralProgram]
    settings: Settings
    amounts: Amounts
    seed: int
    considered: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    met: Counter[Need] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    examples: list[tuple[dict[str, Any], tuple[int, ...]]] = field(default_factory=list)
    asked_images: int = 0

    def write(self, dialogues: DialogueFile) -> None:
        """Writes all questions about the data."""
        counts = self.count() if self.amounts.counted and self.amounts.per_image and self.single else None
        words = self._write_single(dialogues, counts)
        if self.several:
            self._write_several(dialogues, words)
        dialogues.close()

    def count(self) -> Counts:
        """Counts of all objects, attributes, relations and counts that questions are about, over a sample of the images."""
        rows = list(self.order)
        if len(rows) > self.amounts.counted:
            rng = keyed_rng(KEY, "counted", self.seed)
            rows = [rows[position] for position in sorted(rng.choice(len(rows), self.amounts.counted, replace=False).tolist())]
        asked = (
            question.metadata for row in with_bar(rows, len(rows), "counting", least=100) for question in self._balanced(row)
        )
        return count_metadata(asked)

    def _balanced(self, row: int) -> Iterator[ProgramQuestion]:
        graph = self._graph(row)
        for program in self.single if graph is not None else ():
            if program.balanced:
                yield from self._ask(program, graph)

    def _graph(self, row: int) -> ImageGraph | None:
        sample = self.data[row]
        try:
            return self.graph(sample)
        except (DataError, DecodeError) as error:
            self.faults[sample.uid] = f"graph: {error}"
            return None

    def _ask(self, program: Program, graph: ImageGraph | None) -> list[ProgramQuestion]:
        if graph is None or not set(program.needs) <= met_needs(graph):
            return []
        return program.ask(graph, self.settings, keyed_rng(KEY, self.seed, program.name, graph.uid))

    def _write_single(self, dialogues: DialogueFile, counts: Counts | None) -> dict[int, GraphWords]:
        words: dict[int, GraphWords] = {}
        every = max(1, len(self.order) // max(1, self.amounts.shown))
        for number, row in enumerate(with_bar(self.order, len(self.order), "questions", least=100)):
            graph = self._graph(row)
            if graph is None:
                continue
            self.asked_images += 1
            self.met.update(met_needs(graph))
            if self.several:
                words[row] = GraphWords.of(graph)
            sample, turns = self.data[row], []
            for program in self.single:
                questions = self._ask(program, graph)
                rng = keyed_rng(KEY, self.seed, program.name, graph.uid, "drawn")
                self.considered[program.name] += len(questions)
                for question in chosen_questions(questions, self.amounts.per_image, counts if program.balanced else None, rng):
                    turn = write_turn(question, rng, choices=rng.random() < self.amounts.choices)
                    line = dialogues.add([sample], turn, program.name, question.metadata, rng)
                    self.written[program.name] += 1
                    turns.append((program.name, turn))
                    if number % every == 0:
                        self.examples.append((line, (row,)))
            dialogues.add_questions(sample.uid, turns)
        return words

    def _write_several(self, dialogues: DialogueFile, words: dict[int, GraphWords]) -> None:
        rows = list(words)
        index = SceneGraphIndex(list(words.values()))
        for program in with_bar(self.several, len(self.several), "several images", least=4):
            rng = keyed_rng(KEY, self.seed, program.name)
            results = questions_about_several(
                program, index, self.settings, rng, images=self.amounts.images, most=self.amounts.several
            )
            for number, one in enumerate(results):
                one = with_images_shuffled(one, rng)
                turn = write_turn(one.question, rng, choices=rng.random() < self.amounts.choices)
                shown = tuple(rows[position] for position in one.images)
                samples = [self.data[row] for row in shown]
                line = dialogues.add(samples, turn, program.name, one.question.metadata, rng)
                self.written[program.name] += 1
                if number < 2:
                    self.examples.append((line, shown))
            self.considered[program.name] = len(results)

    @property
    def names(self) -> list[str]:
        """Names of the programs, in order."""
        return [*(program.name for program in self.single), *(program.name for program in self.several)]

    def unmet(self) -> dict[str, list[Need]]:
        """Needs that no image meets, by program."""
        programs: list[Program | SeveralProgram] = [*self.single, *self.several]
        missing = {program.name: [need for need in program.needs if not self.met[need]] for program in programs}
        return {name: needs for name, needs in missing.items() if needs}


def met_needs(graph: ImageGraph) -> set[Need]:
    """Needs of programs that a graph meets."""
    there: dict[Need, bool] = {
        "boxes": bool(graph.labels),
        "attributes": any(graph.attributes),
        "relations": bool(graph.relations),
        "masks": graph.masks is not None,
        "depth": graph.depth_HW is not None,
    }
    return {need for need, met in there.items() if met}
