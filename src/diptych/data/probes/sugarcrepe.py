"""SugarCrepe (Hsieh et al., 2023, arXiv 2306.14610) and SugarCrepe++ (Dumpala et al., 2024, arXiv 2406.11171).

Seven files, one a kind of mistake. Of SugarCrepe an object of entries by number, each with filename, caption and negative_caption; of
SugarCrepe++ a list of them with a second true caption, caption2. Pictures are those of COCO's val2017.
"""

from __future__ import annotations

from pathlib import Path

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.graphs.find import load_json
from diptych.data.probes.case import FIELD, Role, stored
from diptych.data.probes.collect import ProbeCollector, uid_of

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def holds(folder: Path) -> bool:
    """True if a folder has a file of SugarCrepe."""
    return any((folder / f"{kind}.json").is_file() for kind in KINDS)


def read(folder: Path, name: str, root: Path | None = None, within: str | None = None) -> Pool:
    """Every kind that the folder holds, all in one split."""
    collector = ProbeCollector(folder, root, within)
    fields: dict[str, tuple[type, ...]] = {"filename": (str,), "caption": (str,), "negative_caption": (str,)}
    for kind in KINDS:
        if not (file := folder / f"{kind}.json").is_file():
            continue
        values = load_json(file)
        if not isinstance(values, dict | list):
            raise DataError(f"holds a {type(values).__name__}", file=file, expected="entries by number, or a list of them")
        for row, entry in collector.entries(file, list(values.values()) if isinstance(values, dict) else values, fields):
            second = entry.get("caption2")
            if second is not None and (not isinstance(second, str) or not second.strip()):
                collector.leave_out(file, row, f"its caption2 is {str(second)[:40]!r}, not a text")
                continue
            image = collector.image(file, row, [entry["filename"]])
            if image is None:
                continue
            true = [entry["caption"], *([second] if second else [])]
            roles: list[Role] = [*(["true"] * len(true)), "false"]  # type: ignore[list-item]
            collector.samples.append(
                Sample(
                    uid_of(file, row),
                    image,
                    tuple(Text(caption, "en") for caption in true),
                    group=entry["filename"],
                    source="sugarcrepe",
                    extras={FIELD: [stored(kind, [*true, entry["negative_caption"]], roles)]},
                )
            )
    return collector.pool(name)
