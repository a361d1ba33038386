"""What the cells of DesCo measure: a model that reads descriptions is right, one that reads names is at chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from diptych.claims.cells.relations.invented_names import asked, compared, drawn, small
from diptych.core.grounding import PhraseBoxes
from diptych.core.grouped_fields import out_of_groups
from diptych.data.text.descriptions.knowledge import knowledge_of
from diptych.worlds.scenes.invented import HELD_OUT, invented, look_of, names


class Reader:
    """Scores the true box of each thing by how many words of its look the text holds; `reads` False scores all alike."""

    def __init__(self, data: Any, *, reads: bool = True) -> None:
        self.samples = {id(data[row].image): data[row] for row in range(len(data))}
        self.data, self.reads = data, reads

    def ground(self, images: Any, queries: Any, *, top: int = 100, batch_size: int = 16) -> Any:
        answers = []
        for image, query in zip(images, queries, strict=True):
            sample = next(self.data[row] for row in range(len(self.data)) if self.data[row].image == image)
            words = set(query.text.replace(",", " ").replace(".", " ").split())
            score = np.array([len(words & set(look_of(r.label))) if self.reads else 1 for r in sample.regions], np.float32)
            order = np.argsort(-score, kind="stable")
            answers.append([PhraseBoxes(np.array([r.box for r in sample.regions], np.float32)[order], score[order])])
        return answers


def test_readers_are_right_and_others_at_chance() -> None:
    data = drawn("test", 20, 0)
    told = compared(Reader(data), data, 0)  # type: ignore[arg-type]
    assert told["pairs"] == 1
    assert told["found"] > 0.9  # two things of one look share the first place
    blind = compared(Reader(data, reads=False), data, 0)  # type: ignore[arg-type]
    assert blind["pairs"] == 0.5


def test_queries_differ_in_one_word_and_share_their_head() -> None:
    name, look = next((name, look) for look, name in names().items())
    query = asked(name, look)
    assert query.words() == [f"{name}, a kind of thing, "]
    assert query.text == f"Detect: {name}, a kind of thing, {', '.join(look)}. "


def test_the_world_keeps_unseen_names_apart_and_describes_its_own() -> None:
    seen = {region.label for row in range(200) for region in invented(200, seed=3)[row].regions}
    unseen = invented(60, seed=3, split="unseen")
    here = [region.label for row in range(60) for region in unseen[row].regions]
    held = [name for name in here if f"{look_of(name)[0]} {look_of(name)[2]}" in HELD_OUT]
    assert held
    assert not seen & set(held)
    assert len(set(names().values())) == len(names()) == 192
    known = knowledge_of(unseen[row] for row in range(60))
    assert known is not None
    for name in here:
        assert known[name].kind == "a kind of thing"
        assert known[name].description == look_of(name)
        for other in known[name].similar:
            assert sum(one != two for one, two in zip(look_of(name), look_of(other), strict=True)) == 1


def test_arms_are_equal_but_for_their_queries() -> None:
    described, named = (out_of_groups(made) for made in (small(), small(form="name")))
    changed = {name for name in described if described[name] != named[name]}
    assert changed == {"form"}
