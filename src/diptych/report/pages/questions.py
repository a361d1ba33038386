"""Page of generated questions, each next to the picture and graph that it was generated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.scene_graph import SceneGraph
from diptych.report import page
from diptych.report.drawing import Pixels, svg
from diptych.report.graphs import annotated, node_link
from diptych.report.page import Section

SIDE = 300


@dataclass(frozen=True, slots=True)
class QuestionCard:
    """One question of the page.

    pictures  the image or images that it is about, each with its graph
    prompt, response  as the dialogue has them
    """

    title: str
    pictures: Sequence[tuple[Pixels, SceneGraph]]
    prompt: str
    response: str


def questions_page(
    title: str, lead: str, facts: Sequence[str], counts: Sequence[tuple[str, int, int]], cards: Sequence[QuestionCard]
) -> str:
    """An HTML page; `facts` are lines about the whole run, `counts` a row a program: name, questions considered, questions written."""
    return page.page(
        title,
        lead,
        [
            Section("Programs", (page.lines(facts), page.table(("program", "considered", "written"), counts))),
            Section(f"{len(cards)} questions", tuple(_card(card) for card in cards)),
        ],
    )


def _card(card: QuestionCard) -> str:
    words = page.text(card.prompt) + page.lines([f"answer: {card.response}"])
    drawn = []
    for number, (pixels_HWC, graph) in enumerate(card.pictures):
        name = f"{card.title}: image {number}" if len(card.pictures) > 1 else card.title
        drawn.append(f"<div>{svg(annotated(pixels_HWC, graph, side=SIDE), f'{name}, boxes and arrows')}</div>")
        drawn.append(f"<div>{svg(node_link(graph, side=SIDE), f'{name}, the graph')}</div>")
    return f'{page.heading(card.title)}{words}<div class="charts">{"".join(drawn)}</div>'
