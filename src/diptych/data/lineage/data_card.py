"""Data card of a pool as Markdown, and Croissant metadata (MLCommons, 1.0) as JSON-LD: counts, licences, sources, columns, steps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.data.dataset import Pool
from diptych.data.lineage.record import LineageStep
from diptych.data.shards.mark import MANIFEST, SHARDS
from diptych.data.subset import tagged_texts

SHOWN = 50
"""Licences, sources, languages and columns that a card lists; the rest is counted."""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Counts of a pool: rows, texts and their languages, licences, sources, splits, sides of pictures, and the columns beside them.

    licences, sources, splits, languages  value -> rows (of languages: texts); "" counts those without. A first text without a language has
                                          that of the column `language`, which a step detected
    columns                               name -> Arrow type
    """

    name: str
    fingerprint: str
    rows: int
    texts: int
    licences: dict[str, int]
    sources: dict[str, int]
    splits: dict[str, int]
    languages: dict[str, int]
    columns: dict[str, str]
    left_out: int


def data_facts(pool: Pool) -> DataFacts:
    """Counts of a pool; no picture is opened."""
    counts = pc.value_counts(tagged_texts(pool)["language"]).to_pylist()
    languages = Counter({each["values"]: each["counts"] for each in counts})
    return DataFacts(
        name=pool.name,
        fingerprint=pool.fingerprint,
        rows=len(pool),
        texts=sum(languages.values()),
        licences=_counted(pool.column("licence")),
        sources=_counted(pool.column("source")),
        splits=_counted(pool.column("split")),
        languages={str(name or ""): count for name, count in languages.most_common()},
        columns={name: str(pool.arrow(name).type) for name in pool.column_names if pool.is_flat(name) or pool.is_json(name)},
        left_out=len(pool.quarantine),
    )


def data_card(facts: DataFacts, steps: Sequence[LineageStep]) -> str:
    """Data card as Markdown, with what has to be written by hand marked as such."""
    head = [f"# {facts.name}", ""]
    if len(facts.licences) == 1 and (only := next(iter(facts.licences))):
        head = ["---", f"license: {only}", "---", "", *head]
    lines = [
        *head,
        f"{facts.rows:,} samples, {facts.texts:,} texts, fingerprint `{facts.fingerprint}`; {facts.left_out:,} left out.",
        "",
        "*What the data are for, who is in them and what they must not be used for: to be written by whoever publishes them.*",
        "",
        *_table("Licences", "licence", facts.licences),
        *_table("Sources", "source", facts.sources),
        *_table("Splits", "split", facts.splits),
        *_table("Languages of the texts", "language", facts.languages),
        "## Columns",
        "",
        "| column | type |",
        "|---|---|",
        *(f"| {_cell(name)} | {_cell(kind)} |" for name, kind in list(facts.columns.items())[:SHOWN]),
        "",
        "## How it was made",
        "",
        *([f"{number}. {step.line()}" for number, step in enumerate(steps, 1)] or ["Nothing is recorded."]),
    ]
    return "\n".join(lines) + "\n"


def croissant(facts: DataFacts, folder: Path, steps: Sequence[LineageStep]) -> dict[str, Any]:
    """Croissant metadata of a built folder as plain values for JSON. The columns of its manifest are the fields of the one record set."""
    with (folder / MANIFEST).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{name}",
            "name": f"samples/{name}",
            "description": name,
            "dataType": _data_type(str(kind.value_type if (many := _is_list(kind)) else kind)),
            **({"repeated": True} if many else {}),
            "source": {"fileObject": {"@id": MANIFEST}, "extract": {"column": name}},
        }
        for name, kind in ((field.name, field.type) for field in pq.read_schema(folder / MANIFEST))
    ]
    licences = [name for name in facts.licences if name]
    described = f"{facts.rows:,} samples with {facts.texts:,} texts"
    made = {"datePublished": steps[-1].time[:10]} if steps else {}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": described,
        **({"license": licences[0] if len(licences) == 1 else licences} if licences else {}),
        "version": "1.0.0",
        **made,
        "url": folder.resolve().as_uri(),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": MANIFEST,
                "name": MANIFEST,
                "contentUrl": MANIFEST,
                "encodingFormat": "application/x-parquet",
                "sha256": sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "shards",
                "name": "shards",
                "description": "WebDataset tars: UID.jpg, .txt, .json",
                "encodingFormat": "application/x-tar",
                "includes": f"{SHARDS}/*.tar",
            },
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": fields}],
    }


def _counted(values: Sequence[Any]) -> dict[str, int]:
    return {str(name or ""): count for name, count in Counter(values).most_common()}


def _table(title: str, head: str, counts: dict[str, int]) -> list[str]:
    shown = list(counts.items())[:SHOWN]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    rows = [*((name or "(none)", count) for name, count in shown), *([("others", rest)] if rest else [])]
    return [f"## {title}", "", f"| {head} | rows |", "|---|---|", *(f"| {_cell(name)} | {count:,} |" for name, count in rows), ""]


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _is_list(kind: pa.DataType) -> bool:
    """Lists of plain values, for Croissant's `repeated`; lists of lists stay text."""
    return pa.types.is_list(kind) and not pa.types.is_nested(kind.value_type)


def _data_type(kind: str) -> str:
    """Type of schema.org of an Arrow type."""
    if kind.startswith(("int", "uint")):
        return "sc:Integer"
    if kind in (str(pa.float16()), str(pa.float32()), str(pa.float64())):
        return "sc:Float"
    return "sc:Boolean" if kind == "bool" else "sc:Text"
