"""VL-Checklist (Zhao et al., 2022, arXiv 2207.00221): attributes, relations and objects, from four data sets.

`corpus/v1/AREA/.../NAME.yaml` says ANNO_PATH, a JSON list of [picture, {"POS": captions, "NEG": captions}], and IMG_ROOT, the folder below
which the pictures lie. Without a corpus the JSON files below `data/` are read, and the parts of their paths say what they probe.

The kind of a case is the path of its yaml file without "corpus/v1" ("Attribute/color/vg"). Of several captions the released code compares
the first true with the first false one; `extras["cases"]` holds a case for each pair in their order, and the task takes the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.graphs.find import load_list, read_text
from diptych.data.probes.case import FIELD, stored
from diptych.data.probes.collect import ProbeCollector

AREAS = ("Attribute", "Object", "Relation")


def holds(folder: Path) -> bool:
    """By its corpus, or by JSON files in the folders of all three areas."""
    if any((folder / "corpus" / "v1" / area).is_dir() for area in AREAS):
        return True
    patterns = ("*.json", "*/*.json", "*/*/*.json")
    return all(any(any((folder / "data" / area).glob(pattern)) for pattern in patterns) for area in AREAS)


def read(folder: Path, name: str, root: Path | None = None, within: str | None = None) -> Pool:
    """Every file that the corpus names and that is there; a yaml file whose JSON file is missing is named."""
    collector = ProbeCollector(folder, root, within)
    for kind, file, images in _files(folder, collector):
        for row, value in enumerate(load_list(file, "cases")):
            if fault := _fault(value):
                collector.leave_out(file, row, fault)
                continue
            picture, texts = value
            image = collector.image(file, row, [*([f"{images}/{picture}"] if images else []), picture])
            if image is None:
                continue
            pairs = zip(texts["POS"], texts["NEG"], strict=False)
            collector.samples.append(
                Sample(
                    f"{kind.replace('/', '-')}-{row:06d}".replace(".", "_"),
                    image,
                    tuple(Text(caption, "en") for caption in texts["POS"]),
                    group=f"{images}/{picture}" if images else picture,
                    source="vl_checklist",
                    extras={FIELD: [stored(kind, pair, ("true", "false")) for pair in pairs]},
                )
            )
    return collector.pool(name)


def _files(folder: Path, collector: ProbeCollector) -> list[tuple[str, Path, str]]:
    """(kind, JSON file, folder of pictures), in order of kinds."""
    import yaml

    corpus = folder / "corpus" / "v1"
    files = []
    for file in sorted(corpus.rglob("*.yaml")):
        try:
            facts = yaml.safe_load(read_text(file))
        except yaml.YAMLError as error:
            raise DataError(f"is not YAML: {' '.join(str(error).split())[:120]}", file=file) from error
        if not isinstance(facts, dict) or not isinstance(facts.get("ANNO_PATH"), str):
            raise DataError("has no ANNO_PATH", file=file, expected="ANNO_PATH and IMG_ROOT")
        named = folder / facts["ANNO_PATH"]
        if not named.is_file():
            collector.leave_out(file, 0, f"its {facts['ANNO_PATH']} does not exist")
            continue
        kind = file.relative_to(corpus).with_suffix("").as_posix()
        files.append((kind, named, str(facts.get("IMG_ROOT") or "").strip("/")))
    if files or collector.bad:
        return files
    data = folder / "data"
    return [
        (file.relative_to(data).with_suffix("").as_posix(), file, "")
        for file in sorted(data.rglob("*.json"))
        if file.relative_to(data).parts[0] in AREAS
    ]


def _fault(value: Any) -> str:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str) or not isinstance(value[1], dict):
        return f"is {str(value)[:60]}, not [picture, {{POS, NEG}}]"
    for side in ("POS", "NEG"):
        texts = value[1].get(side)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            return f"its {side} is {str(texts)[:60]}, not a list of captions"
    return ""
