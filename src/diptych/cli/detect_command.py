"""``diptych detect MODEL IMAGE... --objects person,dog --relations walking,holding --out picture.png --graph graph.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.output import existing_file, finish, listed, parse
from diptych.core.errors import ConfigError
from diptych.core.scene_graph import SceneGraph

DESCRIPTION = (
    "Find things and the relations between them, named by your own words. Scores are relation x subject x object, and near repeats are "
    "merged; `diptych eval` follows the rule of its benchmark instead."
)


@dataclass(frozen=True)
class Detect:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder")]
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="picture files", help_behavior_hint="(one or more)")
    ]
    objects: Annotated[str, arg(help="names of things, with commas between them; empty: those the model was trained with")] = ""
    relations: Annotated[str, arg(help="names of relations, with commas between them; empty: those of training")] = ""
    out: Annotated[
        Path | None, arg(help="picture with boxes and arrows, and the graph beside it (.png); a folder for several images")
    ] = None
    graph: Annotated[Path | None, arg(help="the graph as node-link JSON or GraphML; a folder for several images")] = None
    min_score: Annotated[float, arg(help="relations below this score are left out")] = 0.1
    top: Annotated[int, arg(help="relations an image, at most")] = 20
    download: Annotated[bool, arg(help="allow fetching a model that is not on this machine")] = False
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(Detect, argv, "detect", DESCRIPTION)
    for path in args.images:
        existing_file(path)
    if not args.images:
        raise ConfigError("say which image: diptych detect MODEL IMAGE")
    from diptych.api import detect, load
    from diptych.core.image import FileImage

    model = load(args.model, download=args.download)
    names = {"objects": listed(args.objects), "relations": listed(args.relations)}
    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    for path in args.images:
        graph = detect(model, FileImage(path), **names, min_score=args.min_score, top=args.top)
        answers.append(_answer(path, graph))
        lines += _lines(path, graph)
        if args.out is not None:
            drawn = _place(args.out, path, ".png", len(args.images))
            _draw(path, graph, drawn)
            lines.append(f"  picture: {drawn}")
        if args.graph is not None:
            from diptych.data.graphs.files import write_graph

            written = _place(args.graph, path, ".json", len(args.images))
            write_graph(graph, written)
            lines.append(f"  graph: {written}")
    return finish({"images": answers, "rule": dict(getattr(model, "detect_rule", {}))}, lines, args.json)


def _place(wanted: Path, image: Path, suffix: str, count: int) -> Path:
    """The file itself for one image; for several, a file named like the image in that folder."""
    if count == 1 and wanted.suffix:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        return wanted
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted / f"{image.stem}{suffix}"


def _draw(path: Path, graph: SceneGraph, out: Path) -> None:
    from diptych.core.image import FileImage
    from diptych.data.media.decode import decode, encode_png
    from diptych.report.graphs import graph_picture

    out.write_bytes(encode_png(graph_picture(decode(FileImage(path)), graph)))


def _answer(path: Path, graph: SceneGraph) -> dict[str, Any]:
    return {
        "image": str(path),
        "regions": [
            {"label": r.label, "box": [round(float(x), 1) for x in r.box], "score": round(r.score, 4)} for r in graph.regions
        ],
        "relations": [
            {"subject": r.subject, "predicate": r.predicate, "object": r.object, "score": round(r.confidence, 4)}
            for r in graph.relations
        ],
    }


def _lines(path: Path, graph: SceneGraph) -> list[str]:
    found = [
        f"  {subject} | {predicate} | {thing}  {relation.confidence:.3f}"
        for (subject, predicate, thing), relation in zip(graph.triplets(), graph.relations, strict=True)
    ]
    return [f"{path}: {len(graph.regions)} things, {len(graph.relations)} relations", *found]
