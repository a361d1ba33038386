"""One scene graph to a file of its own and back: node-link JSON (for people and pages) or GraphML (for graph tools).

Both go through `networkx`, so a graph can be taken on from there: `to_networkx(graph)` is a directed multigraph whose nodes are
regions (label, box, score, attributes) and whose edges are relations (predicate, confidence).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.disk.files import write_atomic
from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import read_file
from diptych.core.errors import ConfigError, DataError
from diptych.core.scene_graph import Region, Relation, SceneGraph

if TYPE_CHECKING:
    import networkx

SUFFIXES = (".json", ".graphml")


def to_networkx(graph: SceneGraph) -> networkx.MultiDiGraph:
    """Nodes 0..n-1 with "label", "x0", "y0", "x1", "y1" (pixels), "score" and "attributes" (comma-separated); an edge a relation with
    "predicate" and "confidence". A mask that is a code is "mask", as JSON; outlines and extras stay behind."""
    import networkx

    made: networkx.MultiDiGraph = networkx.MultiDiGraph()
    for number, region in enumerate(graph.regions):
        corners = dict(zip(("x0", "y0", "x1", "y1"), map(float, region.box), strict=True))
        made.add_node(number, label=region.label, score=float(region.score), attributes=", ".join(region.attributes), **corners)
        if isinstance(region.mask, dict):
            made.nodes[number]["mask"] = json.dumps(region.mask)
    for relation in graph.relations:
        made.add_edge(relation.subject, relation.object, predicate=relation.predicate, confidence=float(relation.confidence))
    return made


def from_networkx(graph: networkx.MultiDiGraph) -> SceneGraph:
    """The inverse. Nodes may have any names; they are numbered in the order of the graph."""
    number = {name: row for row, name in enumerate(graph.nodes)}
    try:
        regions = tuple(
            Region(
                (float(node["x0"]), float(node["y0"]), float(node["x1"]), float(node["y1"])),
                str(node["label"]),
                tuple(part.strip() for part in str(node.get("attributes", "")).split(",") if part.strip()),
                float(node.get("score", 1.0)),
                _mask(node.get("mask")),
            )
            for _, node in graph.nodes(data=True)
        )
        relations = tuple(
            Relation(number[start], str(edge["predicate"]), number[end], float(edge.get("confidence", 1.0)))
            for start, end, edge in graph.edges(data=True)
        )
    except KeyError as error:
        raise DataError(
            f"a node or edge has no {error}", expected="nodes with label, x0, y0, x1, y1; edges with predicate"
        ) from None
    return SceneGraph(regions, relations)


def _mask(text: Any) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        code = json.loads(text)
    except (TypeError, ValueError):
        code = None
    if not isinstance(code, dict):
        raise DataError(
            "a node has a mask that is not a run-length code", field="mask", expected="a run-length code of COCO as JSON"
        )
    return code


def write_graph(graph: SceneGraph, path: Path) -> None:
    """As node-link JSON or GraphML, by the file's suffix."""
    import networkx

    _check(path)
    made = to_networkx(graph)
    if path.suffix == ".json":
        write_atomic(path, json.dumps(networkx.node_link_data(made, edges="edges"), indent=1, ensure_ascii=False) + "\n")
    else:
        write_atomic(path, "\n".join(networkx.generate_graphml(made)) + "\n")


def read_graph(path: Path) -> SceneGraph:
    """Read a scene graph from a file of `write_graph`, or from any node-link JSON or GraphML with the same attributes."""
    import networkx

    _check(path)
    try:
        if path.suffix == ".json":
            plain: Any = parse_json(read_file(path))
            graph = networkx.node_link_graph(plain, directed=True, multigraph=True, edges="edges")
        else:
            graph = networkx.MultiDiGraph(networkx.read_graphml(path, node_type=int, force_multigraph=True))
    except FileNotFoundError:
        raise DataError("does not exist", file=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error
    except (AttributeError, ValueError, KeyError, TypeError, SyntaxError, networkx.NetworkXError) as error:
        raise DataError(f"is not a graph file ({error})", file=path, expected="node-link JSON or GraphML") from error
    return from_networkx(graph)


def _check(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} has no known suffix for a graph (expected {' or '.join(SUFFIXES)})")
