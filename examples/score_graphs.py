"""Scores scene graphs of any program: here the truth of a rendered world with a share of the predicates changed.

    python examples/score_graphs.py                  # a fifth of the predicates changed
    python examples/score_graphs.py 0.5 graph.png    # half of them; a picture of the first image with its true graph

No model is asked: the protocols read the true and the predicted graphs as records, as `diptych eval` keeps them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from diptych import tasks
from diptych.cli.commands.eval import table
from diptych.core.result import Result
from diptych.core.scene_graph import SceneGraph
from diptych.report.graphs import graph_picture
from diptych.tasks.relations.graph_records import records
from diptych.worlds import links

PROTOCOLS = {
    "vg150": {"ks": (1, 2, 5)},
    "open_images_predicates": {},
    "open_images_triplets": {},
    "hico_det": {"vocabulary": "data"},
}


def changed(graph: SceneGraph, share: float, names: list[str], rng: np.random.Generator) -> SceneGraph:
    """The graph with a share of its predicates drawn anew, and with confidences that know nothing."""
    said = (replace(r, predicate=str(rng.choice(names))) if rng.random() < share else r for r in graph.relations)
    return SceneGraph(graph.regions, tuple(replace(r, confidence=float(rng.random())) for r in said))


def main(share: float = 0.2, picture: Path | None = None) -> dict[str, Result]:
    """The result of every protocol, printed as the command line prints it."""
    data = links(400, split="test")
    truths = [data[row].graph for row in range(len(data))]
    names = sorted({relation.predicate for graph in truths for relation in graph.relations})
    rng = np.random.default_rng(0)
    rows = records([data[row].uid for row in range(len(data))], truths, [changed(g, share, names, rng) for g in truths])
    results = {name: tasks.find(name, **options).score(rows) for name, options in PROTOCOLS.items()}
    for result in results.values():
        print("\n".join(table("test", result)))
    if picture is not None:
        Image.fromarray(graph_picture(data[0].image.pixels_HWC, truths[0])).save(picture)
    return results


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((float, Path), sys.argv[1:], strict=False)))
