"""An oracle for questions about rendered scenes: it reads a question as text and answers from the drawing alone.

Nothing of a sample is used: a scene is laid out and rendered again, things are its plan, places and sizes are pixels of the rendered masks,
and what holds between two things is computed from these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from diptych.curate.programs.nouns import number_words
from diptych.curate.programs.templates import TEMPLATES
from diptych.curate.text.plurals import plural
from diptych.data.masks import box_of
from diptych.worlds.scenes.layout import COLOURS, PREDICATES, SHAPES, TEXTURES, Scene
from diptych.worlds.scenes.rendering import render
from diptych.worlds.scenes.truth import truth

KINDS = {"color": COLOURS, "size": ("small", "medium", "large"), "texture": TEXTURES, "orientation": ("upright", "tilted")}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
SINGULAR = {plural(label): label for label in SHAPES} | {label: label for label in SHAPES}
COUNT = {str(n): n for n in range(200)} | {number_words(n): n for n in range(100)}
PREDICATE = "|".join(sorted(PREDICATES, key=len, reverse=True))

SLOT = {"type": r"\w+", "subject": r"\w+", "object": r"\w+", "objects": r"\w+", "attribute": r"\w+", "relation": PREDICATE}
"""What a slot's words look like, where they may not be anything."""

Judge = Callable[[str], bool]


@dataclass(frozen=True)
class Drawn:
    """What one scene shows."""

    scene: Scene
    size: int

    @cached_property
    def drawing(self) -> Any:
        return render(self.scene, self.size)

    @cached_property
    def labels(self) -> list[str]:
        return [thing.label for thing in self.scene.things]

    @cached_property
    def attributes(self) -> list[set[str]]:
        return [set(thing.attributes) for thing in self.scene.things]

    @cached_property
    def boxes(self) -> list[Any]:
        return [box_of(mask) for mask in self.drawing.visible_NHW]

    @cached_property
    def holds(self) -> frozenset[tuple[int, str, int]]:
        return truth(self.scene, self.drawing).holds

    def the(self, label: str) -> int:
        assert self.labels.count(label) == 1, label
        return self.labels.index(label)

    def between(self, one: int, other: int) -> set[str]:
        return {p for s, p, o in self.holds if (s, o) == (one, other)}

    def owner(self, point: str) -> int:
        """The thing at a printed point, -1 for the background."""
        x, y = (min(round(float(value) * self.size), self.size - 1) for value in point.strip("()").split(", "))
        here = [row for row in range(len(self.labels)) if self.drawing.visible_NHW[row, y, x]]
        return here[0] if here else -1

    def depth(self, row: int) -> float:
        """Nearness: 0 for the background, the order of things from back to front above it."""
        return 0.0 if row < 0 else (self.scene.things[row].depth + 1) / len(self.labels)

    def at(self, box: str) -> int:
        """The thing whose visible box is printed so."""
        here = [
            row
            for row, found in enumerate(self.boxes)
            if str(tuple(round(float(value) / self.size, 2) for value in found)) == box
        ]
        assert len(here) == 1, box
        return here[0]

    def fitting(self, words: str) -> list[int]:
        """Things that "red and large object that is left of the circle" describes."""
        match = re.fullmatch(r"(.*?) ?object(?:(?: that|, which) (.+))?", words)
        assert match, words
        own = set(split(match[1]))
        assert own <= set(KIND_OF), own
        rows = [row for row in range(len(self.labels)) if own <= self.attributes[row]]
        if not match[2]:
            return rows
        forward = re.fullmatch(rf"is ({PREDICATE}) the (.+)", match[2])
        backward = re.fullmatch(rf"the (.+?) is ({PREDICATE})", match[2])
        assert forward or backward, match[2]
        predicate, name = (forward[1], forward[2]) if forward else (backward[2], backward[1])  # type: ignore[index]
        others = self.named(name)
        pairs = ((a, b) if forward else (b, a) for a in rows for b in others)
        good = {(a if forward else b) for a, b in pairs if (a, predicate, b) in self.holds}
        return [row for row in rows if row in good]

    def named(self, name: str) -> list[int]:
        """Things of "red and large circle"."""
        head, _, label = name.rpartition(" ")
        assert label in SHAPES, name
        wanted = set(split(head))
        assert wanted <= set(KIND_OF), name
        return [row for row, other in enumerate(self.labels) if other == label and wanted <= self.attributes[row]]


def split(text: str) -> list[str]:
    """The members of "a, b, and c"."""
    return [part for part in re.split(r", and | and |, ", text.strip()) if part]


def points_of(text: str) -> list[str]:
    return re.findall(r"\([\d.]+, [\d.]+\)", text)


def readings(program: str, text: str) -> Iterator[dict[str, str]]:
    """The slots of a question by each template of its program that it may come from."""
    for pattern in patterns(program):
        match = pattern.fullmatch(text)
        if match:
            yield match.groupdict()


@cache
def patterns(program: str) -> list[re.Pattern[str]]:
    """One for each template; `re` itself remembers fewer than there are."""
    slot = re.compile(r"\\\{(\w+)\\\}")
    return [
        re.compile(slot.sub(lambda name: f"(?P<{name[1]}>{SLOT.get(name[1], '.+')})", re.escape(template)))
        for template in TEMPLATES[program]
    ]


def confirm(program: str, question: str, answer: str, options: Sequence[str], shown: Sequence[Drawn]) -> str:
    """ "" where the answer is right and every other option wrong; else why not."""
    reasons = ["no template fits"]
    for slots in readings(program, question):
        try:
            one, whole = JUDGES[program](slots, shown)
        except (AssertionError, KeyError, ValueError) as error:
            reasons.append(f"{slots}: {error!r}")
            continue
        if not options:
            return "" if whole(answer) else f"{answer!r} is wrong"
        true = [option for option in options if one(option)]
        return "" if true == [answer] else f"{true} are true of {options}, not {answer!r}"
    return "; ".join(reasons)


def _same(words: Any) -> tuple[Judge, Judge]:
    return (lambda text: text == words), (lambda text: text == words)


def _count(number: int) -> tuple[Judge, Judge]:
    return (lambda text: COUNT[text] == number), (lambda text: COUNT[text] == number)


def _set(words: Any) -> tuple[Judge, Judge]:
    """Each option is one of the words; a short answer has them all."""
    every = set(words)
    assert every
    return (lambda text: text in every), (lambda text: set(split(text)) == every and len(split(text)) == len(every))


def how_many(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    head, _, noun = slots["name"].rpartition(" ")
    (drawn,) = shown
    wanted = set(split(head))
    assert wanted <= set(KIND_OF), head
    rows = [row for row, label in enumerate(drawn.labels) if label == SINGULAR[noun] and wanted <= drawn.attributes[row]]
    return _count(len(rows))


def frequent(sign: int) -> Any:
    def judge(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
        counts = Counter(shown[0].labels)
        names = split(slots["candidates"])
        best = max(sign * counts[name] for name in names)
        return _only([name for name in names if sign * counts[name] == best])

    return judge


def _only(names: Sequence[str]) -> tuple[Judge, Judge]:
    assert len(names) == 1, names
    return _same(names[0])


def extreme(end: int, sign: int) -> Any:
    def judge(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
        drawn = shown[0]
        rows = [drawn.the(name) for name in split(slots["candidates"])]
        place = {drawn.labels[row]: sign * drawn.boxes[row][end] for row in rows}
        return _only([name for name in place if place[name] == max(place.values())])

    return judge


def box_attributes(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    drawn = shown[0]
    row = drawn.at(slots["box"])
    assert drawn.labels[row] == slots["name"]
    every = drawn.attributes[row]
    return _set([word for word in every if KIND_OF[word] == slots["type"]] if "type" in slots else every)


def relation(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    return _set(shown[0].between(shown[0].the(slots["subject"]), shown[0].the(slots["object"])))


def box_relation(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    return _set(shown[0].between(shown[0].at(slots["box"]), shown[0].at(slots["other_box"])))


def head(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    drawn = shown[0]
    assert slots["relation"] in PREDICATES
    assert slots["object"] in SHAPES
    heads = {drawn.labels[s] for s, p, o in drawn.holds if p == slots["relation"] and drawn.labels[o] == slots["object"]}
    return _only([name for name in split(slots["candidates"]) if name in heads])


def nearest(sign: int, kind: str) -> Any:
    def judge(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
        drawn = shown[0]
        if kind == "point":
            depth = {point: drawn.depth(drawn.owner(point)) for point in points_of(slots["candidates"])}
        else:
            depth = {name: drawn.depth(drawn.the(name)) for name in split(slots["candidates"])}
        if kind == "anchor":
            anchor = drawn.depth(drawn.the(slots["anchor"]))
            depth = {name: -abs(value - anchor) for name, value in depth.items()}
        assert len(depth) == 2
        return _only([name for name, value in depth.items() if sign * value == max(sign * one for one in depth.values())])

    return judge


def segment(same: bool) -> Any:
    def judge(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
        drawn = shown[0]
        row = drawn.owner(slots["anchor"])
        assert row >= 0
        return _only([point for point in points_of(slots["candidates"]) if (drawn.owner(point) == row) == same])

    return judge


def described(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    return _set({shown[0].labels[row] for row in shown[0].fitting(slots["reference"])})


def described_attribute(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    drawn = shown[0]
    words = {word for row in drawn.fitting(slots["reference"]) for word in drawn.attributes[row]}
    return _set({word for word in words if KIND_OF[word] == slots["type"]})


def described_relation(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    (one,), (other,) = shown[0].fitting(slots["reference"]), shown[0].fitting(slots["other_reference"])
    return _set(shown[0].between(one, other))


def caption(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    """Every thing is mentioned by all its attributes, every statement is true, and related pairs are joined by one statement each."""
    drawn = shown[0]
    ordinal = r"\d(?:st|nd|rd|th) "

    def things(name: str) -> list[int]:
        bare = re.sub(rf"^(?:(?:the|an|a) )?(?:{ordinal})?", "", name)
        return [row for row in drawn.named(bare) if len(split(bare.rpartition(" ")[0])) == len(drawn.attributes[row])]

    def names(text: str) -> list[str]:
        """Things of "the a, b, and c x, the d y, and the e z": a thing ends with its label."""
        found = re.findall(rf".+?\b(?:{'|'.join(SHAPES)})\b", text)
        return [re.sub(r"^(?:, and | and |, )", "", one).strip() for one in found]

    def true(text: str) -> bool:
        mentioned, joined = set[int](), 0
        for sentence in re.split(r";\n|\n\n", text.rstrip(".")):
            sentence = sentence.rstrip(".")
            sentence = sentence[0].lower() + sentence[1:]
            if start := re.match(r"there (?:is|are) ", sentence):
                for name in names(sentence[start.end() :]):
                    rows = things(name)
                    if not rows:
                        return False
                    mentioned |= set(rows)
                continue
            subject, *rest = re.split(
                rf" (?:and )?(?:is|are) (?=(?:{PREDICATE}) )", sentence.replace(", and is ", " and is ").replace(", is ", " is ")
            )
            subjects = things(subject)
            mentioned |= set(subjects)
            for clause in rest:
                match = re.match(rf"({PREDICATE}) (.+)", clause)
                if not match or not subjects:
                    return False
                for name in names(match[2]):
                    rows = things(name)
                    mentioned |= set(rows)
                    joined += 1
                    if not any((a, match[1], b) in drawn.holds for a in subjects for b in rows):
                        return False
        pairs = {frozenset((s, o)) for s, _, o in drawn.holds}
        return mentioned == set(range(len(drawn.labels))) and joined == len(pairs)

    return true, true


# ---------------------------------------------------------------- several images


def which(test: Callable[[dict[str, str], Drawn], float], sign: int = 1) -> Any:
    """The image in which the test gives most (sign 1) or least."""

    def judge(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
        values = [sign * test(slots, drawn) for drawn in shown]
        return _only([f"Image {number}" for number, value in enumerate(values) if value == max(values)])

    return judge


def has_pair(slots: dict[str, str], drawn: Drawn) -> float:
    subject, predicate, other = slots["subject"], slots["relation"], slots["object"]
    assert predicate in PREDICATES
    assert subject in SHAPES
    assert other in SHAPES
    assert subject in drawn.labels
    assert other in drawn.labels
    return any(drawn.labels[s] == subject and p == predicate and drawn.labels[o] == other for s, p, o in drawn.holds)


def has_attribute(slots: dict[str, str], drawn: Drawn) -> float:
    assert slots["object"] in drawn.labels
    assert slots["attribute"] in KIND_OF
    return any(drawn.labels[row] == slots["object"] and slots["attribute"] in some for row, some in enumerate(drawn.attributes))


def has_class(slots: dict[str, str], drawn: Drawn) -> float:
    assert slots["object"] in SHAPES
    return slots["object"] in drawn.labels


def in_common(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    return _set(set.intersection(*(set(drawn.labels) for drawn in shown)))


def attribute_in_common(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    every = [
        {word for row, some in enumerate(drawn.attributes) if drawn.labels[row] == slots["object"] for word in some}
        for drawn in shown
    ]
    return _set(set.intersection(*every))


def total(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    label, wanted = SINGULAR[slots["objects"]], slots.get("attribute", "")
    assert not wanted or wanted in KIND_OF
    return _count(
        sum(
            drawn.labels[row] == label and (not wanted or wanted in some)
            for drawn in shown
            for row, some in enumerate(drawn.attributes)
        )
    )


def differ(slots: dict[str, str], shown: Sequence[Drawn]) -> tuple[Judge, Judge]:
    name = slots.get("subject", slots["object"])
    tail = f" {slots['object']}" if "subject" in slots else ""
    expected = []
    for drawn in shown:
        if tail:
            expected.append(drawn.between(drawn.the(name), drawn.the(slots["object"])))
        else:
            expected.append(drawn.attributes[drawn.the(name)])

    def true(text: str) -> bool:
        parts = re.findall(r"(?:^|, )(.+?) in Image (\d+)", text.removeprefix(f"{name} is ").removesuffix("."))
        said = [set(split(words.removesuffix(tail))) for words, _ in parts]
        return [int(number) for _, number in parts] == list(range(len(shown))) and said == expected

    return true, true


JUDGES: dict[str, Any] = {
    "exists_object": how_many,
    "exists_attribute": how_many,
    "most_object": frequent(1),
    "least_object": frequent(-1),
    "leftmost_object": extreme(0, -1),
    "rightmost_object": extreme(2, 1),
    "topmost_object": extreme(1, -1),
    "bottommost_object": extreme(3, 1),
    "attribute_box": box_attributes,
    "typed_attribute_box": box_attributes,
    "exists_relation": relation,
    "relation_box": box_relation,
    "head_relation": head,
    "closer_point": nearest(1, "point"),
    "farther_point": nearest(-1, "point"),
    "closer_object": nearest(1, "object"),
    "farther_object": nearest(-1, "object"),
    "closer_to_anchor_object": nearest(1, "anchor"),
    "farther_to_anchor_object": nearest(-1, "anchor"),
    "same_object_segment": segment(True),
    "different_object_segment": segment(False),
    "graph_object": described,
    "graph_attribute": described_attribute,
    "graph_relation": described_relation,
    "graph_caption": caption,
    "has_relation": which(has_pair),
    "has_not_relation": which(has_pair, -1),
    "has_object": which(has_class),
    "has_not_object": which(has_class, -1),
    "has_attributed_object": which(has_attribute),
    "has_not_attributed_object": which(has_attribute, -1),
    "has_most_object": which(lambda slots, drawn: drawn.labels.count(SINGULAR[slots["objects"]])),
    "has_least_object": which(lambda slots, drawn: drawn.labels.count(SINGULAR[slots["objects"]]), -1),
    "common_object": in_common,
    "common_attribute": attribute_in_common,
    "count_object": total,
    "count_attribute_object": total,
    "compare_relation": differ,
    "compare_attribute": differ,
}


def drawn_scene(world: Any, uid: str) -> Drawn:
    """The scene of a uid of `scenes`, laid out and drawn anew."""
    *_, split_name, index = uid.split("-")
    return Drawn(world.scene(split_name, int(index)), world.size)
