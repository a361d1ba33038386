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
another `least` if needed. Cost: each expert once per image; one text of the writer per row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.parts import PartStore
from diptych.curate.experts.experts import OCR, AttributeExpert, ObjectExpert, from_regions
from diptych.curate.experts.findings import FINDING, Finding, top_findings, with_texts
from diptych.curate.writing import fusing
from diptych.curate.writing.requests import TextBackend, TextRequest
from diptych.curate.writing.step import GeneratedTexts, RowRequest, WritingStep
from diptych.data.text.captions.variants import VARIANTS, variant_column
from diptych.data.text.tokenize import Tokenizer

LOOKED_AT_ONCE = 256
"""Rows per part, for the experts."""
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
        caption = self._captions(data)
        rows = range(0, len(data), max(1, len(data) // 24))
        requests = [self._request(data[row], caption, from_regions(data[row])) for row in rows]
        text = self.planned(requests, len(data), self._fuser(caption))
        return {**text, "expert_seconds": seen["seconds"], "seconds": seen["seconds"] + text.get("seconds", 0.0)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from findings and captions that an earlier run finished."""
        start = time.perf_counter()
        caption, row_of = self._captions(data), {uid: row for row, uid in enumerate(data.uids)}
        findings_of, faults = self._findings(data, parts)
        if findings_of and not any(findings_of.values()):
            raise DataError(
                f"no expert found anything in '{data.name}'",
                field="regions",
                expected="regions in the data, --detector MODEL --objects NAME ..., or --ocr; or names of the detector's vocabulary",
            )
        chosen = {uid: top_findings(findings, least=self.least, most=self.most) for uid, findings in findings_of.items()}
        uids = sorted(uid for uid, findings in chosen.items() if findings)
        rows = pa.table({"row": pa.array(range(len(uids)), pa.int64()), "uid": pa.array(uids, pa.string())})
        backend = self._fuser(caption)

        def requests(part: pa.Table) -> Iterator[RowRequest]:
            return (self._request(data[row_of[uid]], caption, chosen[uid]) for uid in part["uid"].to_pylist())

        def read(request: RowRequest, raw: str) -> tuple[str, str]:
            return self._read(raw, caption[request.uid], chosen[request.uid])

        done = self.written(rows, requests, backend, read, parts)
        fused = {row["uid"]: row for row in done.used()}
        columns = self._columns(data, row_of, caption, findings_of, fused, done)
        cut = (
            Tokenizer.from_spec("clip").encode([row["string"] for row in fused.values()], self.text_length).truncated
            if fused
            else 0
        )
        facts = {**done.counts(), "findings": sum(map(len, findings_of.values())), "cut": cut, "text_length": self.text_length}
        files = {"fusecap.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()}
        note = f"{cut:,} of {len(fused):,} fused captions are longer than {self.text_length} tokens"
        drops = tuple(Drop(uid, self.slug, faults[uid]) for uid in sorted(faults))
        return CurationStepResult(
            tuple(sorted(findings_of)), drops, columns, time.perf_counter() - start, files, (*done.notes(), note)
        )

    def _fuser(self, caption: Mapping[str, str]) -> TextBackend:
        return fusing.RuleFuser() if self.writer == RULES else self.backend(lambda: caption.values())

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

    def _findings(self, data: Dataset, parts: PartStore) -> tuple[dict[str, list[Finding]], dict[str, str]]:
        """Findings by uid; and the rows whose image cannot be read."""

        def work(part: pa.Table) -> pa.Table:
            rows = []
            for row in part["row"].to_pylist():
                sample = data[row]
                try:
                    rows.append((sample.uid, [f.to_row() for f in self._all_findings(sample)], ""))
                except (DecodeError, OSError) as error:
                    rows.append((sample.uid, [], str(error)))
            uids, lists, reasons = zip(*rows, strict=True) if rows else ((), (), ())
            return pa.table(
                [pa.array(uids, pa.string()), pa.array(lists, pa.list_(FINDING)), pa.array(reasons, pa.string())],
                ["uid", "findings", "reason"],
            )

        order = sorted(range(len(data)), key=data.uids.__getitem__)
        table = PartStore(parts.folder, parts.key, LOOKED_AT_ONCE).mapped(
            pa.table({"row": pa.array(order, pa.int64())}), "findings", work
        )
        made = table.to_pylist()
        findings_of = {row["uid"]: [_finding(one) for one in row["findings"]] for row in made if not row["reason"]}
        return findings_of, {row["uid"]: f"unreadable: {row['reason']}" for row in made if row["reason"]}

    def _captions(self, data: Dataset) -> dict[str, str]:
        """Caption to be fused, by uid."""
        captions = {}
        for sample in (data[row] for row in range(len(data))):
            texts = sample.positives(self.language)
            own = (text.string for origin in self.origins for text in texts if text.origin == origin)
            captions[sample.uid] = next(own, "")
        return captions

    def _request(self, sample: Sample, caption: Mapping[str, str], findings: list[Finding]) -> RowRequest:
        uid = sample.uid
        by_rules = fusing.fuse_by_rules(caption[uid], findings)
        prompt = "" if self.writer == RULES else fusing.fusion_prompt(caption[uid], findings)
        request = TextRequest(uid, prompt, by_rules, style="fused", seed=keyed_seed(self.seed, "fusecap", uid))
        return RowRequest(uid, 0, "caption" if caption[uid] else "findings", request)

    def _read(self, raw: str, caption: str, findings: list[Finding]) -> tuple[str, str]:
        text = raw.strip().split("\n", 1)[0].strip()
        if not text:
            return "", "empty: nothing was written"
        return text, fusing.missing_or_new(caption, findings, text) if self.check == "findings" else ""

    def _columns(
        self,
        data: Dataset,
        row_of: Mapping[str, int],
        caption: Mapping[str, str],
        findings_of: Mapping[str, list[Finding]],
        fused: Mapping[str, Mapping[str, Any]],
        done: GeneratedTexts,
    ) -> dict[str, Any]:
        uids = sorted(findings_of)
        texts = {uid: str(fused[uid]["string"]) if uid in fused else "" for uid in uids}
        lists = [[f.to_row(*fusing.finding_span(texts[uid], f)) for f in findings_of[uid]] for uid in uids]
        columns: dict[str, Any] = {
            "findings": pa.table({"uid": pa.array(uids, pa.string()), "findings": pa.array(lists, pa.list_(FINDING))})
        }
        if not fused:
            return columns
        if self.instead:
            return {**columns, "repaired_text": {uid: text for uid, text in texts.items() if text}}
        variants = {
            uid: [
                {
                    "string": texts[uid],
                    "language": self.language,
                    "origin": "rewrite",
                    "source": row["source"],
                    "style": "fused",
                    "model": done.backend.name,
                    "terms": done.backend.terms,
                    "prompt": row["prompt"],
                    "licence": data[row_of[uid]].licence,
                }
            ]
            for uid, row in fused.items()
            if texts[uid] != caption[uid]
        }
        return {**columns, VARIANTS: variant_column(variants)} if variants else columns


_EXPERTS: dict[tuple[FuseCap, str], Any] = {}


def _finding(row: Mapping[str, Any]) -> Finding:
    box = row["box"]
    return Finding(row["label"], tuple(row["attributes"]), row["text"], row["score"], tuple(box) if box else None, row["by"])
