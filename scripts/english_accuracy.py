"""How well the built-in tagger and scene parser read captions: on the scene grammar, and on captions that were labelled by hand.

python scripts/english_accuracy.py            print the table and write the block of docs/language.md anew
python scripts/english_accuracy.py --wrong    list every word and relation that differs, too
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.data.text.english.scene_parser import SceneParser
from diptych.data.text.english.tagger import tag
from diptych.worlds.scenes.layout import COLOURS, SHAPES, SIZES, TEXTURES
from diptych.worlds.scenes.world import scenes

ROOT, PAGE = Path(__file__).resolve().parents[1], Path("docs/language.md")
LABELLED = ROOT / "tests" / "data" / "text" / "english" / "labelled_captions.tsv"
SCENES = 300
CONTENT = ("NOUN", "PROPN", "VERB", "ADJ", "ADV", "ADP")


@dataclass(frozen=True)
class Labelled:
    """A caption by a person: its words with tags, its relations."""

    source: str
    words: tuple[tuple[str, str], ...]
    relations: frozenset[tuple[str, str, str]]

    @property
    def caption(self) -> str:
        return " ".join(word for word, _ in self.words)


@dataclass(frozen=True)
class Accuracy:
    """words, content: shares of words whose tag is right, of all and of those that carry meaning. precision, recall: of relations."""

    captions: int
    words: float
    content: float
    precision: float
    recall: float


def labelled(source: str = "") -> Iterator[Labelled]:
    """The captions of the file, or those of one source."""
    for line in LABELLED.read_text("utf8").splitlines():
        if line.startswith("#"):
            continue
        origin, words, relations = line.split("\t")
        if source in ("", origin):
            pairs = (word.rpartition("/") for word in words.split(" "))
            triples = (tuple(relation.split("|")) for relation in relations.split(";") if relation)
            yield Labelled(origin, tuple((text, label) for text, _, label in pairs), frozenset(triples))  # type: ignore[arg-type]


def scene_captions() -> Iterator[Labelled]:
    """Short captions of the scene world with what its grammar says: colours, textures and sizes are adjectives, shapes nouns."""
    known = {**dict.fromkeys((*COLOURS, *TEXTURES, *SIZES), "ADJ"), **dict.fromkeys(SHAPES, "NOUN"), "a": "DET", "an": "DET"}
    known |= dict.fromkeys(("above", "below", "on", "inside", "behind", "left", "right", "of", "in", "than", "as"), "ADP")
    known |= {"touching": "VERB", "same": "ADJ", "the": "DET", "colour": "NOUN", "bigger": "ADJ", "front": "NOUN"}
    pool = scenes(SCENES, seed=0).to_pool()
    for row in range(len(pool)):
        stated = pool[row].texts[0].string
        words = tuple((word, known[word]) for word in stated.split())
        first = next(at for at in range(2, len(words)) if words[at - 1][0] in SHAPES)
        second = next(at for at in range(first, len(words)) if words[at][0] in ("a", "an"))
        texts = [" ".join(word for word, _ in part) for part in (words[1:first], words[first:second], words[second + 1 :])]
        yield Labelled("scenes", words, frozenset({(texts[0], texts[1], texts[2])}))


def accuracy(captions: list[Labelled], *, wrong: bool = False) -> Accuracy:
    """Of the built-in tagger and parser."""
    parser, right, counted, agree, found, expected = SceneParser(), [0, 0], [0, 0], 0, 0, 0
    for each in captions:
        tagged = [(word.text, word.tag) for word in tag(each.caption)]
        if [text for text, _ in tagged] != [text for text, _ in each.words]:
            raise SystemExit(f"words differ: {each.caption!r}: {[text for text, _ in tagged]}")
        for (text, ours), (_, theirs) in zip(tagged, each.words, strict=True):
            for at, counts in enumerate((theirs != "PUNCT", theirs in CONTENT)):
                counted[at] += counts
                right[at] += counts and ours == theirs
            if wrong and ours != theirs:
                print(f"{text}: {ours}, should be {theirs}: {each.caption}")
        triples = set(parser(each.caption))
        agree, found, expected = agree + len(triples & each.relations), found + len(triples), expected + len(each.relations)
        if wrong and triples != each.relations:
            print(f"found {sorted(triples - each.relations)}, missed {sorted(each.relations - triples)}: {each.caption}")
    return Accuracy(len(captions), right[0] / counted[0], right[1] / counted[1], agree / max(found, 1), agree / max(expected, 1))


def table() -> list[str]:
    """The lines of the page."""
    sets = {"scenes": list(scene_captions()), **{source: list(labelled(source)) for source in ("stamps", "clipart", "emoji")}}
    sets["all labelled"] = list(labelled())
    lines = [
        "| | captions | words | words with meaning | relations that are right | relations that are found |",
        "|---|" + "---:|" * 5,
    ]
    for name, captions in sets.items():
        found = accuracy(captions, wrong="--wrong" in sys.argv and name != "all labelled")
        shares = " | ".join(f"{100 * share:.1f}" for share in (found.words, found.content, found.precision, found.recall))
        lines.append(f"| {name} | {found.captions:,} | {shares} |")
    return lines


def page(root: Path) -> str:
    """The page with its block."""
    begin, end = "<!-- english-accuracy:begin -->\n", "<!-- english-accuracy:end -->"
    head, _, rest = (root / PAGE).read_text("utf8").partition(begin)
    return head + begin + "\n".join(table()) + "\n" + end + rest.partition(end)[2]


if __name__ == "__main__":
    print("\n".join(table()))
    (ROOT / PAGE).write_text(page(ROOT), "utf8")
