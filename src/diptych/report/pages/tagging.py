"""Page of a tagging run: counts of each stage, and pictures with the triplets read, proposed, kept and dropped, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.scene_graph import Relation, SceneGraph
from diptych.report import page
from diptych.report.drawing import Pixels, svg
from diptych.report.graphs import annotated
from diptych.report.page import Section

SIDE = 320


@dataclass(frozen=True, slots=True)
class TaggedPicture:
    """Picture of the page, with its tagging.

    graph     its regions and the relations that were kept
    reason    why it left, "" when it stays
    captions  that were read
    parsed    triplets of phrases, each with the phrases that nothing in the picture is called by
    proposed  relations that the tagger gave, highest score first, each with why it was not kept, or ""
    """

    uid: str
    pixels_HWC: Pixels
    graph: SceneGraph
    reason: str
    captions: Sequence[str]
    parsed: Sequence[tuple[tuple[str, str, str], Sequence[str]]]
    proposed: Sequence[tuple[Relation, str]]


def tagging_page(
    title: str, lead: str, facts: Sequence[str], counts: Sequence[tuple[str, int]], pictures: Sequence[TaggedPicture]
) -> str:
    """An HTML page; `facts` are lines about the whole run, `counts` the stages in their order."""
    blocks = tuple(_picture(picture) for picture in pictures)
    return page.page(
        title,
        lead,
        [
            Section("Stages", (page.table(("stage", "left"), counts), page.lines(facts))),
            Section(f"{len(pictures)} pictures", blocks),
        ],
    )


def _picture(picture: TaggedPicture) -> str:
    names = [region.label or "no label" for region in picture.graph.regions]
    verdict = f"left out: {picture.reason}" if picture.reason else f"{len(picture.graph.relations)} relations kept"
    notes = [
        f"{' | '.join(spans)}: nothing in the picture is called {' or '.join(repr(name) for name in nameless)}"
        if nameless
        else f"{' | '.join(spans)}: in the picture"
        for spans, nameless in picture.parsed
    ]
    rows = [
        (
            f"{r.confidence:.2f}",
            f"{names[r.subject]} ({r.subject}) {r.predicate} {names[r.object]} ({r.object})",
            reason or "kept",
        )
        for r, reason in picture.proposed
    ]
    drawn = svg(annotated(picture.pixels_HWC, picture.graph, side=SIDE), f"{picture.uid}: what was kept")
    words = [
        page.lines(f"caption: {caption}" for caption in picture.captions)
        if picture.captions
        else page.text("no caption", note=True),
        page.lines(notes, warn=False) if notes else page.text("no triplet was read", note=True),
        page.table(("score", "proposed", "verdict"), rows) or page.text("nothing was proposed", note=True),
    ]
    return f'{page.heading(f"{picture.uid}: {verdict}")}<div class="row"><div>{drawn}</div><div>{"".join(words)}</div></div>'
