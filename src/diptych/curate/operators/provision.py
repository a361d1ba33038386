"""ProVision: programs write questions and answers from scene graphs (Zhang et al., 2024, 2412.07012). Drops unreadable images.

24 programs ask about one image (counts, positions, attributes, relations, depth, masks, described objects), one describes it, and 14 ask
about several. What a program asks follows from boxes, labels, attributes, relations, masks and depth of the data, or of models: with
`detector` regions are detected, with `depth` depth is estimated. A program skips images that lack the annotations it needs.

Output: `dialogues.json` (a list of rows in LLaVA's format, with program and metadata), the column ``questions`` of the images,
and `provision.html` with questions beside their graphs. Questions about several images are new samples: rows of the dialogues
whose `image` is a list, which `read("OUT/dialogues.json")` opens with the medium `images`. Images that are not files are written
to OUT/images.

Of a program's questions about an image, `per_image` are drawn; `rebalance` down-weights frequent subjects. Questions whose answer
another object of the image contradicts are not asked, and points are compared by the depth at their printed coordinates. The
released code does neither, and confuses nearer and farther points: `habits` selects which of these behaviours are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample
from diptych.curate.experts.depth import DepthModel
from diptych.curate.experts.experts import ObjectExpert
from diptych.curate.programs import SEVERAL, SINGLE
from diptych.curate.programs.attribute_types import AttributeTypes
from diptych.curate.programs.dialogues import QUESTIONS, DialogueFile
from diptych.curate.programs.graph import ImageGraph, graph_of, stretched_depth
from diptych.curate.programs.questions import HABITS, Habit, Need, Settings
from diptych.curate.programs.writing import Amounts, QuestionWriter
from diptych.data.media.decode import decode
from diptych.report.pages.questions import QuestionCard, questions_page

GROUPS = {"all": (*SINGLE, *SEVERAL), "single": tuple(SINGLE), "several": tuple(SEVERAL)}
DIALOGUES, REPORT, PAGE = "dialogues.json", "provision.json", "provision.html"
ADVICE: dict[Need, str] = {
    "boxes": "boxes with labels in the data, or --detector MODEL --objects NAME NAME ...",
    "attributes": "regions with attributes that the list of attribute types has (--attribute-types FILE)",
    "relations": "relations in the data",
    "masks": "a mask for every region of an image",
    "depth": "depth maps in the data (media 'depth'), --depth FOLDER, or other programs",
}
"""Sources of the annotations that programs need."""
Example = tuple[dict[str, Any], tuple[int, ...]]
"""A row of the dialogues, and the rows of its images."""


@dataclass(frozen=True, kw_only=True)
class ProVision:
    """programs     all, single, several, or names of programs
    per_image    number of questions per program and image; 0: all candidates
    rebalance    sample them by how rare their objects, attributes, relations and counts are; False samples uniformly
    counted      maximum number of images over which those are counted
    choices      share of multiple-choice questions
    options      options of a multiple-choice question
    images       number of images of a question about several
    several      maximum number of questions per program about several images
    gap          minimum difference of depths, of 255, of which one is called nearer
    extremes     number of objects among which the leftmost, topmost, ... is asked for
    elements     elements of a description: attributes, a related object, its attributes
    retries      number of samples of points after which a program skips an image
    considered   maximum number of candidate questions per program and image; 0: all there are
    numbers      counts in digits, in words, or either at random
    attribute_types  a JSON file of attributes by type instead of the built-in list; other attributes are not used
    countable    a JSON list of labels for "how many" questions; "" uses singular nouns that are not mass nouns
    detector     address of a model whose detections replace the data's regions; "" uses the data's
    objects      names of the objects to detect
    depth        folder of a depth model of transformers; "" uses the data's depth maps
    habits       behaviour of the released code to reproduce: inverted_points, first_points, ambiguous, five_relations, absent_class,
                 singular
    shown        number of questions on the report page
    """

    slug: ClassVar[str] = "provision"
    paths: ClassVar[tuple[str, ...]] = ("attribute_types", "countable")

    programs: tuple[str, ...] = ("all",)
    per_image: int = 1
    rebalance: bool = True
    counted: int = 10_000
    choices: float = 0.0
    options: int = 4
    images: int = 2
    several: int = 100
    gap: int = 50
    extremes: int = 3
    elements: int = 3
    retries: int = 10
    considered: int = 64
    numbers: Literal["random", "digits", "words"] = "random"
    attribute_types: str = ""
    countable: str = ""
    detector: str = ""
    objects: tuple[str, ...] = ()
    depth: str = ""
    habits: tuple[Habit, ...] = ()
    shown: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.programs:
            if name not in GROUPS and name not in GROUPS["all"]:
                raise UnknownName("program", name, (*GROUPS, *GROUPS["all"]))
        for habit in self.habits:
            if habit not in HABITS:
                raise UnknownName("habit", habit, HABITS)
        least = {
            "options": 2,
            "images": 2,
            "extremes": 2,
            "elements": 1,
            "per_image": 0,
            "considered": 0,
            "counted": 1,
            "retries": 1,
        }
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected {number} or more)")
        if not self.programs or not 0 <= self.choices <= 1 or not 1 <= self.gap <= 255:
            raise ConfigError(f"choices {self.choices}, gap {self.gap} (expected 0..1, 1..255, and a program)")
        if bool(self.detector) != bool(self.objects):
            raise ConfigError("a detector is asked for names (expected --detector MODEL --objects NAME NAME ...)")

    @classmethod
    def released(cls) -> Self:
        """Every habit of the released code, and every question considered."""
        return cls(habits=HABITS, considered=0)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for name in self.programs for one in GROUPS.get(name, (name,))))

    def plan(self, data: Dataset) -> dict[str, Any]:
        rows = range(0, len(data), max(1, len(data) // 24))
        start = time.perf_counter()
        dialogues = DialogueFile.temporary()
        self._writer(data, rows).write(dialogues)
        dialogues.path.unlink()
        each = (time.perf_counter() - start) / max(1, len(rows))
        return {"items": len(data), "unit": "image", "seconds_each": each, "seconds": each * len(data)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        writer, dialogues = self._writer(data, range(len(data))), DialogueFile.temporary()
        try:
            writer.write(dialogues)
            self._refuse_unmet(writer, data.name)
        except BaseException:
            dialogues.close()
            dialogues.path.unlink()
            raise
        files: dict[str, bytes | Path] = {DIALOGUES: dialogues.path, **dialogues.pictures}
        files[REPORT] = (json.dumps(_report(writer), indent=1, ensure_ascii=False) + "\n").encode()
        files[PAGE] = self._page(writer).encode()
        faults = writer.faults
        kept = tuple(sorted(uid for uid in data.uids if uid not in faults))
        dropped = tuple(Drop(uid, self.slug, faults[uid]) for uid in sorted(faults))
        columns = {QUESTIONS: dialogues.column()} if writer.single else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start, files, tuple(self._notes(writer)))

    # ---------------------------------------------------------------- what is asked

    def _writer(self, data: Dataset, rows: Sequence[int]) -> QuestionWriter:
        settings = Settings(
            types=AttributeTypes.read(Path(self.attribute_types)) if self.attribute_types else AttributeTypes.usual(),
            relations=tuple(sorted({relation.predicate for row in rows for relation in data[row].relations})),
            countable=_labels(Path(self.countable)) if self.countable else frozenset(),
            options=self.options,
            gap=self.gap,
            extremes=self.extremes,
            elements=self.elements,
            retries=self.retries,
            most=self.considered,
            numbers=self.numbers,
            habits=self.habits,
        )
        return QuestionWriter(
            data,
            sorted(rows, key=lambda row: data.uids[row]),
            lambda sample: self._graph(sample, settings),
            [SINGLE[name] for name in self._names if name in SINGLE],
            [SEVERAL[name] for name in self._names if name in SEVERAL],
            settings,
            Amounts(self.per_image, self.counted if self.rebalance else 0, self.choices, self.images, self.several, self.shown),
            self.seed,
        )

    @cached_property
    def _models(self) -> tuple[ObjectExpert | None, DepthModel | None]:
        detector = ObjectExpert(self.detector, self.objects) if self.detector else None
        return detector, DepthModel(self.depth) if self.depth else None

    def _graph(self, sample: Sample, settings: Settings) -> ImageGraph:
        detector, depth = self._models
        if detector is not None and sample.image is not None:
            detections = detector.model.detect([sample.image], objects=self.objects)[0]
            sample = replace(sample, regions=detections.regions, relations=detections.relations)
        graph = graph_of(sample, settings.types, depth=depth is None)
        if depth is not None and sample.image is not None:
            graph = replace(graph, depth_HW=stretched_depth(depth(sample.image)))
        return graph

    # ---------------------------------------------------------------- reports

    def _refuse_unmet(self, writer: QuestionWriter, name: str) -> None:
        """Raises DataError if no question was written, or if an explicitly named program has no questions for any image."""
        if writer.faults and not writer.asked_images:
            raise DataError(f"no image of '{name}' can be used: {next(iter(writer.faults.values()))}", field="graph")
        unmet = writer.unmet()
        for program in self.programs:
            if program in unmet:
                needs = unmet[program]
                raise DataError(
                    f"no image of '{name}' has {' and '.join(needs)}, which the program {program} asks about",
                    field=needs[0],
                    expected=ADVICE[needs[0]],
                )
        if not writer.written:
            raise DataError(f"no program can generate a question about '{name}'", field="regions", expected=ADVICE["boxes"])

    def _notes(self, writer: QuestionWriter) -> Iterator[str]:
        total = sum(writer.written.values())
        yield f"{total:,} questions about {writer.asked_images:,} images by {len(writer.written)} programs: {DIALOGUES}, {PAGE}"
        by_needs: dict[str, list[str]] = {}
        for program, needs in writer.unmet().items():
            by_needs.setdefault(" and ".join(needs), []).append(program)
        for missing, programs in by_needs.items():
            yield f"no image has {missing}: nothing is asked by {', '.join(programs)}"
        short = [one.name for one in writer.several if writer.written[one.name] < self.several and one.name not in writer.unmet()]
        if short:
            few = ", ".join(f"{name} {writer.written[name]}" for name in short)
            yield f"the images give fewer than {self.several} questions over several images to {few}"

    def _page(self, writer: QuestionWriter) -> str:
        shown = _spread(writer.examples, self.shown)
        cards = [
            QuestionCard(
                f"{line['id']}: {line['generator']}",
                [(decode(sample.image, exact=True), sample.graph) for row in rows if (sample := writer.data[row]).image],
                line["conversations"][0]["value"].replace(" <image>", "").replace("<image>", "").strip(),
                line["conversations"][1]["value"],
            )
            for line, rows in shown
        ]
        counts = [(name, writer.considered[name], writer.written[name]) for name in writer.names]
        lead = f"{sum(writer.written.values()):,} questions that programs wrote about {writer.asked_images:,} images."
        return questions_page("Questions from scene graphs", lead, list(self._notes(writer)), counts, cards)


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """At most `most` examples, taken from all programs in turn."""
    by_program: dict[str, list[Example]] = {}
    for example in examples:
        by_program.setdefault(example[0]["generator"], []).append(example)
    turns = zip_longest(*by_program.values())
    chosen = [example for turn in turns for example in turn if example is not None][:most]
    return sorted(chosen, key=lambda example: int(example[0]["id"]))


def _report(writer: QuestionWriter) -> dict[str, Any]:
    return {
        "images": writer.asked_images,
        "met": dict(sorted(writer.met.items())),
        "programs": {name: {"considered": writer.considered[name], "written": writer.written[name]} for name in writer.names},
        "unmet": writer.unmet(),
    }


def _labels(path: Path) -> frozenset[str]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected='a list of labels: ["cup", ...]') from error
    if not isinstance(value, list) or not value or not all(isinstance(label, str) for label in value):
        raise DataError("contains no list of labels", file=path, expected='["cup", ...]')
    return frozenset(value)
