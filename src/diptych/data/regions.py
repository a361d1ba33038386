"""Regions and relations as records of flat tables, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from diptych.core.scene_graph import Region, Relation

REGION_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        *((name, pa.float64()) for name in ("x0", "y0", "x1", "y1")),
        ("label", pa.string()),
        ("attributes", pa.list_(pa.string())),
        ("score", pa.float64()),
        ("mask", pa.string()),
    ]
)
RELATION_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("subject", pa.int32()),
        ("predicate", pa.string()),
        ("object", pa.int32()),
        ("confidence", pa.float64()),
    ]
)


def region_records(uid: str, regions: Iterable[Region]) -> list[dict[str, Any]]:
    """Rows of `REGION_SCHEMA` for the regions of one sample."""
    return [
        {
            "uid": uid,
            **dict(zip(("x0", "y0", "x1", "y1"), map(float, region.box), strict=True)),
            "label": region.label,
            "attributes": list(region.attributes),
            "score": region.score,
            "mask": None if region.mask is None else json.dumps(region.mask, ensure_ascii=False),
        }
        for region in regions
    ]


def relation_records(uid: str, relations: Iterable[Relation]) -> list[dict[str, Any]]:
    """Rows of `RELATION_SCHEMA` for the relations of one sample."""
    return [
        {"uid": uid, "subject": r.subject, "predicate": r.predicate, "object": r.object, "confidence": r.confidence}
        for r in relations
    ]


def region_of(record: dict[str, Any]) -> Region:
    """The region of a row."""
    return Region(
        (record["x0"], record["y0"], record["x1"], record["y1"]),
        record["label"],
        tuple(record["attributes"] or ()),
        record["score"],
        None if record["mask"] is None else json.loads(record["mask"]),
    )


def relation_of(record: dict[str, Any]) -> Relation:
    """The relation of a row."""
    return Relation(record["subject"], record["predicate"], record["object"], record["confidence"])
