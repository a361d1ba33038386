"""``diptych locate MODEL SCENE.tif "a plane beside a hangar" --out map.png --geojson hits.geojson``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "Text localisation in a large scene: similarities of overlapping windows as a map over the scene, and its peaks. A GeoTIFF needs "
    "the extra diptych[geo]; other pictures are read as they are."
)


@dataclass(frozen=True)
class LocateArgs:
    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="a model that embeds images and texts: a run's folder, or an address")
    ]
    scene: Annotated[Positional[Path], arg(metavar="SCENE", help="a GeoTIFF or a picture")]
    text: Annotated[Positional[str], arg(metavar="TEXT", help="the text to locate")]
    windows: Annotated[tuple[int, ...], arg(help="sides of the windows in pixels")] = (256, 512, 768)
    median: Annotated[int, arg(help="side of the median filter that smooths the map, in pixels of the scene; 1: none")] = 251
    blur: Annotated[int, arg(help="side of the box filter that smooths the map before the search for peaks")] = 50
    apart: Annotated[int, arg(help="side of the window in which a peak must be the highest point")] = 1000
    bands: Annotated[tuple[int, ...], arg(help="bands of a GeoTIFF for red, green and blue, from 1")] = ()
    out: Annotated[Path | None, arg(help="the map over the scene (.png)")] = None
    geojson: Annotated[Path | None, arg(help="the windows of the hits as GeoJSON; the scene needs a coordinate system")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(LocateArgs, argv, "locate", DESCRIPTION)
    existing_file(args.scene)
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.api import load
    from diptych.core.contracts import Embedder
    from diptych.core.disk.files import write_json
    from diptych.data.media.scene_file import SceneFile
    from diptych.models.io.open_address import require
    from diptych.pipelines.scene_localisation import SceneMapOptions, locate
    from diptych.tasks._scoring.semantic_localisation import PeakOptions

    options = SceneMapOptions(args.windows, args.median, peaks=PeakOptions(blur=args.blur, window=args.apart))
    with SceneFile.open(args.scene, bands=args.bands) as scene:
        if args.geojson is not None:
            scene.lon_lat(0, 0)  # before anything is embedded: a scene without coordinates has no GeoJSON
        model = load(args.model)
        require(model, Embedder, who="locate")
        located = locate(model, scene, args.text, options)
        hits = [
            {"x": hit.x, "y": hit.y, "probability": hit.probability, "box": list(hit.box), "cosine": hit.cosine}
            | (dict(zip(("longitude", "latitude"), scene.lon_lat(hit.x, hit.y), strict=True)) if scene.crs else {})
            for hit in located.hits
        ]
        lines = [_line(hit) for hit in hits] or ["no peak: the map is even"]
        if args.geojson is not None:
            args.geojson.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.geojson, located.geojson(scene, args.text))
            lines.append(f"hits: {args.geojson}")
        if args.out is not None:
            from diptych.report.scene_heat import write_scene_heat

            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_scene_heat(args.out, scene, located.map_HW, args.text, [hit.box for hit in located.hits])
            lines.append(f"map: {args.out}")
    return finish({"scene": str(args.scene), "text": args.text, "hits": hits}, lines, args.json)


def _line(hit: dict[str, object]) -> str:
    where = f", {hit['latitude']:.6f} N {hit['longitude']:.6f} E" if "longitude" in hit else ""
    return f"  {hit['probability']:.2f}  x {hit['x']:.0f}, y {hit['y']:.0f}{where}  (cosine {hit['cosine']:.3f})"
