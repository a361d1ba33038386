"""``diptych detect MODEL IMAGE... --objects person,dog --relations walking,holding --out picture.png --graph graph.json``, or
``diptych detect MODEL IMAGE... --phrase "the red cup left of the plate"``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, listed, parse
from diptych.core.errors import ConfigError
from diptych.core.grounding import PhraseBoxes, regions_of
from diptych.core.scene_graph import Box, SceneGraph

DESCRIPTION = (
    "Find things and the relations between them, named by your own words. Scores are relation x subject x object, and near repeats are "
    "merged; `diptych eval` follows the rule of its benchmark instead. With --phrase, a model that grounds words says where each is."
)


@dataclass(frozen=True)
class DetectArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder")]
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="picture files", help_behavior_hint="(one or more)")
    ]
    objects: Annotated[str, arg(help="object names, separated by commas; empty: those of training")] = ""
    relations: Annotated[str, arg(help="relation names, separated by commas; empty: those of training")] = ""
    phrase: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(help='a phrase to locate, such as "the red cup left of the plate"; may be repeated'),
    ] = ()
    text: Annotated[
        str, arg(help="the sentence that contains the phrases, encoded as a whole; empty: each phrase is encoded alone")
    ] = ""
    out: Annotated[
        Path | None, arg(help="picture with boxes and arrows, and the graph beside it (.png); a folder for several images")
    ] = None
    graph: Annotated[Path | None, arg(help="the graph as node-link JSON or GraphML; a folder for several images")] = None
    min_score: Annotated[float, arg(help="relations, and boxes of a phrase, below this score are left out")] = 0.1
    top: Annotated[int, arg(help="maximum number of relations per image, or of boxes per phrase")] = 20
    merge: Annotated[float, arg(help="merge boxes of one name with this IoU or more; 1 keeps all")] = 0.5
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(DetectArgs, argv, "detect", DESCRIPTION)
    for path in args.images:
        existing_file(path)
    if not args.images:
        raise ConfigError("no image is given: diptych detect MODEL IMAGE")
    _check_outputs(args)
    from diptych.api import detect, load
    from diptych.core.image import FileImage

    if args.phrase and (args.objects or args.relations):
        raise ConfigError("--phrase and --objects are both given (expected one of the two)")
    if args.text and not args.phrase:
        raise ConfigError("--text is given without --phrase (expected phrases that occur in the text)")
    model = load(args.model, download=args.download)
    if args.phrase:
        return _phrases(args, model)
    names = {"objects": listed(args.objects), "relations": listed(args.relations)}
    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    for path in args.images:
        graph = detect(model, FileImage(path), **names, min_score=args.min_score, top=args.top, merge=args.merge)
        answers.append(_answer(path, graph))
        lines += _lines(path, graph)
        if args.out is not None:
            drawn = _output_path(args.out, path, ".png", len(args.images))
            _draw(path, graph, drawn)
            lines.append(f"  picture: {drawn}")
        if args.graph is not None:
            from diptych.data.graphs.files import write_graph

            written = _output_path(args.graph, path, ".json", len(args.images))
            write_graph(graph, written)
            lines.append(f"  graph: {written}")
    return finish({"images": answers, "rule": dict(getattr(model, "detect_rule", {}))}, lines, args.json)


def _phrases(args: DetectArgs, model: Any) -> int:
    from diptych.api import ground
    from diptych.core.image import FileImage

    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    for path in args.images:
        all_boxes = ground(model, FileImage(path), args.phrase, text=args.text, top=args.top, min_score=-math.inf)
        boxes_by_phrase = {phrase: _from_score(answer, args.min_score) for phrase, answer in all_boxes.items()}
        phrases = [
            _boxes(phrase, answer, all_boxes[phrase].score_N[len(answer.score_N) :]) for phrase, answer in boxes_by_phrase.items()
        ]
        answers.append({"image": str(path), "phrases": phrases})
        lines.append(f"{path}:")
        for one, answer in zip(phrases, boxes_by_phrase.values(), strict=True):
            best = [f"{', '.join(f'{side:.0f}' for side in box_4)}  {score:.3f}" for box_4, score in _rows(answer)]
            nothing = f"nothing of --min-score {args.min_score:g} or more"
            if one["below"]:
                nothing += f"; boxes below it: {one['below']}, the best at {one['best_below']:g}"
            lines.append(f"  {one['phrase']}: {best[0] if best else nothing}")
        firsts = [PhraseBoxes(answer.box_N4[:1], answer.score_N[:1]) for answer in boxes_by_phrase.values()]
        graph = regions_of(list(boxes_by_phrase), firsts, top=len(boxes_by_phrase), threshold=-1.0)
        if args.out is not None:
            drawn = _output_path(args.out, path, ".png", len(args.images))
            _draw(path, graph, drawn)
            lines.append(f"  picture: {drawn}")
        if args.graph is not None:
            from diptych.data.graphs.files import write_graph

            written = _output_path(args.graph, path, ".json", len(args.images))
            write_graph(graph, written)
            lines.append(f"  graph: {written}")
    return finish({"images": answers}, lines, args.json)


def _rows(answer: PhraseBoxes) -> list[tuple[Box, float]]:
    rows = zip(answer.box_N4.tolist(), answer.score_N.tolist(), strict=True)
    return [((box[0], box[1], box[2], box[3]), score) for box, score in rows]


def _from_score(answer: PhraseBoxes, least: float) -> PhraseBoxes:
    count = int((answer.score_N >= least).sum())  # the best come first
    return PhraseBoxes(answer.box_N4[:count], answer.score_N[:count])


def _boxes(phrase: str, answer: PhraseBoxes, below_N: Any) -> dict[str, Any]:
    """below_N: scores of the boxes that are left out, the best first"""
    boxes = [{"box": [round(side, 1) for side in box], "score": round(score, 4)} for box, score in _rows(answer)]
    best = float(f"{below_N[0]:.4g}") if len(below_N) else None
    return {"phrase": phrase, "boxes": boxes, "below": len(below_N), "best_below": best}


def _check_outputs(args: DetectArgs) -> None:
    """Raise ConfigError, before a model is loaded, for one file as the output of several pictures, and for pictures that would have one."""
    if len(args.images) < 2:
        return
    for name, wanted in (("--out", args.out), ("--graph", args.graph)):
        if wanted is not None and wanted.suffix and not wanted.is_dir():
            raise ConfigError(
                f"{name} is the file {wanted} for {len(args.images)} pictures (expected a folder, such as {wanted.stem}/)"
            )
    stems = [path.stem for path in args.images]
    if (args.out or args.graph) and len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ConfigError(f"two pictures are called {twice}, and would be one output (expected pictures of different names)")


def _output_path(wanted: Path, image: Path, suffix: str, count: int) -> Path:
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
    lines = [
        f"  {subject} | {predicate} | {thing}  {relation.confidence:.3f}"
        for (subject, predicate, thing), relation in zip(graph.triplets(), graph.relations, strict=True)
    ]
    return [f"{path}: {len(graph.regions)} things, {len(graph.relations)} relations", *lines]
