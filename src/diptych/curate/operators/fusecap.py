"""FuseCap: fuses the findings of vision experts into the caption (Rotstein et al., 2023, 2305.17718). Drops rows without a
readable image.

1. Experts analyse each image: a detector (or the data's regions) gives objects with boxes and scores, an embedder their
attributes, OCR the text on them. All findings are stored in the column ``findings``, with expert, score, box, and their position
in the fused caption.
2. Findings with a score of at least `least`, best first, are fused with the caption by a writer: rules that put attributes before
the objects that the caption names and append the rest, or a language model (published: FLAN-T5-XL, fine-tuned on 20,000 answers
of ChatGPT).
3. A fused caption that omits a finding, or has a word that neither the caption nor the findings have, is counted and not used.

The fused caption is an additional text of its row (``text_variants``), or with `instead` its only one (``repaired_text``), as
published: then train any recipe on OUT, a captioner as in the paper, or `clip`. `fusecap.json` reports how many fused captions
exceed the text window. The authors released captions and a captioner, but no experts, fuser or thresholds; the experts and
thresholds here are stand-ins. Confident false detections become confident text: inspect ``findings`` first, and rerun with
another `least` if needed. Cost: each expert once per image; one text of the writer per row. Memory: Arrow columns of findings and texts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import OrderedRows
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, StringColumn, dictionaries, made_column, string_column
from diptych.curate.experts.experts import OCR, AttributeExpert, ObjectExpert, from_regions
from diptych.curate.experts.findings import FINDING, Finding, top_findings, with_texts
from diptych.curate.writing import fusing
from diptych.curate.writing.requests import TextBackend, TextRequest
from diptych.curate.writing.step import GeneratedTexts, RowRequest, WritingStep
from diptych.data.ragged import one_chunk
from diptych.data.text.captions.variants import VARIANT, VARIANTS
from diptych.data.text.tokenize import Tokenizer

LOOKED_AT_ONCE = 256
"""Rows per part, for the experts."""
BLOCK = 4_096
"""Rows whose findings and texts are Python objects at a time."""
RULES = "grammar"


@dataclass(frozen=True, kw_only=True)
class FuseCap(WritingStep):
    """detector    address of a detector; "" uses the regions of the data
    objects     names of the objects to detect
    embedder    address of a model that embeds images and texts, for attributes; "" uses only the attributes of regions
    attributes  names of the attributes to choose from
    least       minimum score of a finding in the caption
    least_attribute  minimum probability of an attribute
    most        maximum number of findings per caption
    ocr         recognise text in the image
    origins     origins of the caption: the row's first text of the first available origin; without one the text contains only the findings
    language    language of captions that are used; "" any
    check       "findings": the text must contain all findings and nothing else; "none": any text is used
    instead     the fused caption replaces the row's texts
    text_length  number of tokens (of CLIP's vocabulary) above which a text counts as truncated
    """

    slug: ClassVar[str] = "fusecap"

    detector: str = ""
    objects: tuple[str, ...] = ()
    embedder: str = ""
    attributes: tuple[str, ...] = ()
    least: float = 0.5
    least_attribute: float = 0.5
    most: int = 10
    ocr: bool = False
    origins: tuple[str, ...] = ("alt", "caption", "label")
    language: str = "en"
    check: Literal["findings", "none"] = "findings"
    instead: bool = False
    text_length: int = 77

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or not 0 <= self.least_attribute <= 1 or self.most < 1:
            raise ConfigError(
                f"least {self.least}, least_attribute {self.least_attribute}, most {self.most} (expected 0..1, 0..1, 1 or more)"
            )
        if bool(self.embedder) != bool(self.attributes):
            raise ConfigError("attributes need an embedder and names (expected --embedder MODEL --attributes NAME NAME ...)")
        if self.objects and not self.detector:
            raise ConfigError("--objects needs a detector (expected --detector MODEL)")
        if self.check not in ("findings", "none"):
            raise ConfigError(f"check is {self.check!r} (expected findings | none)")

    @classmethod
    def paper(cls) -> Self:
        """Published configuration: detector, attributes, OCR and a FLAN-T5-XL that writes, whose captions replace the row's: name the
        models."""
        return cls(writer="folder:flan-t5-xl-fuser", temperature=0.0, ocr=True, instead=True, check="none")

    def plan(self, data: Dataset) -> dict[str, Any]:
        seen = estimate_cost(data, lambda image: self._all_findings(Sample("x", image)), unit="experts on an image")
        some = [data[row] for row in range(0, len(data), max(1, len(data) // 24))]
        requests = [self._request(sample, self._caption(sample), from_regions(sample)) for sample in some]
        text = self.planned(requests, len(data), self._fuser(data))
        return {**text, "expert_seconds": seen["seconds"], "seconds": seen["seconds"] + text.get("seconds", 0.0)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from findings and captions that an earlier run finished."""
        start = time.perf_counter()
        rows = OrderedRows.of(data)
        readable, unreadable = self._findings(rows, parts)
        findings = pc.sum(pc.list_value_length(readable["findings"]), min_count=0).as_py()
        if readable.num_rows and not findings:
            raise DataError(
                f"no expert found anything in '{data.name}'",
                field="regions",
                expected="regions in the data, --detector MODEL --objects NAME ..., or --ocr; or names of the detector's vocabulary",
            )
        has_N = np.fromiter((bool(self._chosen(some)) for some in _findings_by_row(readable)), bool, readable.num_rows)
        captioned = readable.filter(pa.array(has_N)).append_column(
            "row", pa.array(rows.row_N[rows.positions(readable["uid"])[has_N]])
        )
        of_part: dict[str, tuple[str, list[Finding]]] = {}

        def requests(part: pa.Table) -> Iterator[RowRequest]:
            of_part.clear()
            for row, chosen in zip(part["row"].to_pylist(), map(self._chosen, _findings_by_row(part)), strict=True):
                sample = data[row]
                of_part[sample.uid] = self._caption(sample), chosen
                yield self._request(sample, *of_part[sample.uid])

        done = self.written(
            captioned, requests, self._fuser(data), lambda request, raw: self._read(raw, *of_part[request.uid]), parts
        )
        fused = done.used_rows()
        columns = self._columns(rows, readable, fused, done)
        facts = {**done.counts(), "findings": findings, "cut": self._cut(fused["string"]), "text_length": self.text_length}
        files = {"fusecap.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()}
        note = f"{facts['cut']:,} of {fused.num_rows:,} fused captions are longer than {self.text_length} tokens"
        reasons = string_column(f"unreadable: {reason}" for reason in StringColumn(unreadable["reason"]))
        drops = DropTable.of_step(self.slug, unreadable["uid"], reasons)
        return CurationStepResult(
            StringColumn(readable["uid"]), drops, columns, time.perf_counter() - start, files, (*done.notes(), note)
        )

    def _fuser(self, data: Dataset) -> TextBackend:
        if self.writer == RULES:
            return fusing.RuleFuser()
        return self.backend(lambda: (self._caption(data[row]) for row in range(len(data))))

    def _cut(self, strings: pa.ChunkedArray) -> int:
        """Number of texts that are longer than the text window."""
        if not len(strings):
            return 0
        tokenizer, starts = Tokenizer.from_spec("clip"), range(0, len(strings), BLOCK)
        return sum(
            tokenizer.encode(strings.slice(start, BLOCK).to_pylist(), self.text_length).truncated
            for start in with_bar(starts, len(starts), "counting tokens", least=2)
        )

    def _all_findings(self, sample: Sample) -> list[Finding]:
        """Findings of all experts in one image."""
        image = sample.image
        things = from_regions(sample)
        if image is None:
            return things
        if self.detector:
            things = self._expert("things")(image)
        if self.embedder:
            things = self._expert("attributes")(image, things)
        return with_texts(things, self._expert("ocr")(image), by=OCR.name) if self.ocr else things

    def _expert(self, name: str) -> Any:
        """Expert of that kind, opened once a process and configuration."""
        made = _EXPERTS.get((self, name))
        if made is None:
            kinds: dict[str, Any] = {
                "things": lambda: ObjectExpert(self.detector, self.objects),
                "attributes": lambda: AttributeExpert(self.embedder, self.attributes, least=self.least_attribute),
                "ocr": OCR,
            }
            made = _EXPERTS[self, name] = kinds[name]()
        return made

    def _findings(self, rows: OrderedRows, parts: PartStore) -> tuple[pa.Table, pa.Table]:
        """Tables of "uid", "findings" and "reason" of the rows whose image can be read, and of those whose cannot."""

        def work(part: pa.Table) -> pa.Table:
            made = []
            for row in part["row"].to_pylist():
                sample = rows.data[row]
                try:
                    made.append((sample.uid, [f.to_row() for f in self._all_findings(sample)], ""))
                except (DecodeError, OSError) as error:
                    made.append((sample.uid, [], str(error)))
            uids, lists, reasons = zip(*made, strict=True) if made else ((), (), ())
            return pa.table(
                [pa.array(uids, pa.string()), pa.array(lists, pa.list_(FINDING)), pa.array(reasons, pa.string())],
                ["uid", "findings", "reason"],
            )

        table = PartStore(parts.folder, parts.key, LOOKED_AT_ONCE).mapped(pa.table({"row": rows.row_N}), "findings", work)
        good = pc.equal(table["reason"], "")
        return table.filter(good), table.filter(pc.invert(good))

    def _chosen(self, findings: Iterable[Finding]) -> list[Finding]:
        """Findings that go into a caption."""
        return top_findings(findings, least=self.least, most=self.most)

    def _caption(self, sample: Sample) -> str:
        """Caption to be fused, "" if there is none."""
        texts = sample.positives(self.language)
        return next((text.string for origin in self.origins for text in texts if text.origin == origin), "")

    def _request(self, sample: Sample, caption: str, findings: list[Finding]) -> RowRequest:
        by_rules = fusing.fuse_by_rules(caption, findings)
        prompt = "" if self.writer == RULES else fusing.fusion_prompt(caption, findings)
        request = TextRequest(sample.uid, prompt, by_rules, style="fused", seed=keyed_seed(self.seed, "fusecap", sample.uid))
        return RowRequest(sample.uid, 0, "caption" if caption else "findings", request)

    def _read(self, raw: str, caption: str, findings: list[Finding]) -> tuple[str, str]:
        text = raw.strip().split("\n", 1)[0].strip()
        if not text:
            return "", "empty: nothing was written"
        return text, fusing.missing_or_new(caption, findings, text) if self.check == "findings" else ""

    def _columns(self, rows: OrderedRows, readable: pa.Table, fused: pa.Table, done: GeneratedTexts) -> dict[str, Any]:
        index = pc.index_in(readable["uid"], value_set=one_chunk(fused["uid"]))
        texts = pc.fill_null(fused["string"].take(index), "")
        lists = (
            [f.to_row(*fusing.finding_span(text, f)) for f in findings]
            for text, findings in zip(StringColumn(texts), _findings_by_row(readable), strict=True)
        )
        columns: dict[str, Any] = {
            "findings": pa.table({"uid": readable["uid"], "findings": made_column(lists, pa.list_(FINDING))})
        }
        if not fused.num_rows:
            return columns
        if self.instead:
            replaced = pa.table({"uid": readable["uid"], "repaired_text": texts}).filter(pc.not_equal(texts, ""))
            return {**columns, "repaired_text": ColumnByUid(replaced)}
        fused = fused.append_column("row", pa.array(rows.row_N[rows.positions(fused["uid"])]))
        new_F = np.fromiter(
            (row["string"] != self._caption(rows.data[row["row"]]) for row in dictionaries(fused)), bool, fused.num_rows
        )
        fused = fused.filter(pa.array(new_F))
        if not fused.num_rows:
            return columns
        variants = (
            [
                {
                    "string": row["string"],
                    "language": self.language,
                    "origin": "rewrite",
                    "source": row["source"],
                    "style": "fused",
                    "model": done.backend.name,
                    "terms": done.backend.terms,
                    "prompt": row["prompt"],
                    "licence": rows.data[row["row"]].licence,
                }
            ]
            for row in dictionaries(fused)
        )
        return {**columns, VARIANTS: pa.table({"uid": fused["uid"], VARIANTS: made_column(variants, pa.list_(VARIANT))})}


_EXPERTS: dict[tuple[FuseCap, str], Any] = {}


def _findings_by_row(table: pa.Table) -> Iterator[list[Finding]]:
    """Findings of each row of a table, made one block after another."""
    for start in range(0, table.num_rows, BLOCK):
        for some in table["findings"].slice(start, BLOCK).to_pylist():
            yield [
                Finding(
                    one["label"],
                    tuple(one["attributes"]),
                    one["text"],
                    one["score"],
                    None if one["box"] is None else tuple(one["box"]),
                    one["by"],
                )
                for one in some
            ]
