"""FuseCap: what vision experts find is fused into the caption (Rotstein et al., 2023, 2305.17718). Rows without a readable image leave.

1. Experts look at each image: a detector (or the regions that the data have) gives things with boxes and scores, an embedder their
attributes, OCR the text on them. All findings are kept as the column ``findings``, with expert, score, box, and where they stand in the
fused caption. 2. Findings of score `least` or more, the best first, are fused with the caption by a writer: rules that put attributes
before what the caption names and the rest behind it, or a language model (published: FLAN-T5-XL, taught by 20,000 answers of ChatGPT).
3. A fused caption that leaves a finding out or has a word that neither caption nor findings have is counted and not used.

The fused caption is a further text of its row (``text_variants``), or with `instead` its only one (``repaired_text``), as published: then
train any recipe on OUT, a captioner as the paper or `clip`. `fusecap.json` says how many fused captions are longer than a text window.

The authors released captions and a captioner, no experts, fuser or thresholds; ours are stand-ins, and the thresholds are ours. A detector
that is sure and wrong becomes confident text: look at ``findings`` first, and run again with another `least`. Cost: experts, each once an
image; a text of the writer a row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from diptych.core.contracts import Curated, Dataset, Drop
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.costs import planned
from diptych.curate.engine.parts import Parts
from diptych.curate.experts.experts import OCR, Attributes, Things, from_regions
from diptych.curate.experts.findings import FINDING, Finding, ordered, with_texts
from diptych.curate.writing import fusing
from diptych.curate.writing.requests import Request, TextBackend
from diptych.curate.writing.step import Wish, Writes, Writing
from diptych.data.text.captions.variants import VARIANTS, variant_column
from diptych.data.text.tokenize import Tokenizer

LOOKED_AT_ONCE = 256
"""Rows of a part of the experts' work."""
RULES = "grammar"


@dataclass(frozen=True, kw_only=True)
class FuseCap(Writes):
    """detector    address of a model that detects; "" takes the regions that the data have
    objects     names that the detector is asked for
    embedder    address of a model that embeds images and texts, for attributes; "" asks for none beyond those of regions
    attributes  names that it chooses among
    least       score from which a finding is fused
    least_attribute  probability from which an attribute is taken
    most        findings in a caption
    ocr         whether text in the image is read
    origins     of the caption: the row's first text of the first of these that it has; without one the findings alone are said
    language    of captions that are fused; "" any
    check       "findings": all are said and nothing else; "none": any text is used
    instead     whether the fused caption stands instead of the row's texts
    text_length  tokens (of CLIP's vocabulary) beyond which a text counts as cut
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
            raise ConfigError("objects are what a detector is asked for (expected --detector MODEL)")
        if self.check not in ("findings", "none"):
            raise ConfigError(f"check is {self.check!r} (expected findings | none)")

    @classmethod
    def paper(cls) -> Self:
        """Detector, attributes, OCR and a FLAN-T5-XL that writes, whose captions replace the row's: name the models."""
        return cls(writer="folder:flan-t5-xl-fuser", temperature=0.0, ocr=True, instead=True, check="none")

    def plan(self, data: Dataset) -> dict[str, Any]:
        seen = planned(data, lambda image: self._seen(Sample("x", image)), unit="experts on an image")
        caption = self._captions(data)
        rows = range(0, len(data), max(1, len(data) // 24))
        wishes = [self._wish(data[row], caption, from_regions(data[row])) for row in rows]
        text = self.planned(wishes, len(data), self._fuser(caption))
        return {**text, "expert_seconds": seen["seconds"], "seconds": seen["seconds"] + text.get("seconds", 0.0)}

    def __call__(self, data: Dataset) -> Curated:
        return self.run(data, Parts())

    def run(self, data: Dataset, parts: Parts) -> Curated:
        """As a call, going on from findings and captions that an earlier run finished."""
        start = time.perf_counter()
        caption, place = self._captions(data), {uid: row for row, uid in enumerate(data.uids)}
        found, faults = self._findings(data, parts)
        if found and not any(found.values()):
            raise DataError(
                f"no expert found anything in '{data.name}'",
                field="regions",
                expected="regions in the data, --detector MODEL --objects NAME ..., or --ocr; or names that the detector knows",
            )
        chosen = {uid: ordered(findings, least=self.least, most=self.most) for uid, findings in found.items()}
        asked = sorted(uid for uid, findings in chosen.items() if findings)
        rows = pa.table({"row": pa.array(range(len(asked)), pa.int64()), "uid": pa.array(asked, pa.string())})
        backend = self._fuser(caption)

        def wishes(part: pa.Table) -> Iterator[Wish]:
            return (self._wish(data[place[uid]], caption, chosen[uid]) for uid in part["uid"].to_pylist())

        def read(wish: Wish, raw: str) -> tuple[str, str]:
            return self._read(raw, caption[wish.uid], chosen[wish.uid])

        done = self.written(rows, wishes, backend, read, parts)
        fused = {row["uid"]: row for row in done.used()}
        columns = self._columns(data, place, caption, found, fused, done)
        cut = (
            Tokenizer.from_spec("clip").encode([row["string"] for row in fused.values()], self.text_length).truncated
            if fused
            else 0
        )
        facts = {**done.counts(), "findings": sum(map(len, found.values())), "cut": cut, "text_length": self.text_length}
        files = {"fusecap.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()}
        note = f"{cut:,} of {len(fused):,} fused captions are longer than {self.text_length} tokens"
        drops = tuple(Drop(uid, self.slug, faults[uid]) for uid in sorted(faults))
        return Curated(tuple(sorted(found)), drops, columns, time.perf_counter() - start, files, (*done.notes(), note))

    def _fuser(self, caption: Mapping[str, str]) -> TextBackend:
        return fusing.Rules() if self.writer == RULES else self.backend(lambda: caption.values())

    def _seen(self, sample: Sample) -> list[Finding]:
        """What all experts find in one image."""
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
        """Opened once a process and configuration."""
        made = _EXPERTS.get((self, name))
        if made is None:
            kinds: dict[str, Any] = {
                "things": lambda: Things(self.detector, self.objects),
                "attributes": lambda: Attributes(self.embedder, self.attributes, least=self.least_attribute),
                "ocr": OCR,
            }
            made = _EXPERTS[self, name] = kinds[name]()
        return made

    def _findings(self, data: Dataset, parts: Parts) -> tuple[dict[str, list[Finding]], dict[str, str]]:
        """By uid; and the rows whose image cannot be read."""

        def work(part: pa.Table) -> pa.Table:
            rows = []
            for row in part["row"].to_pylist():
                sample = data[row]
                try:
                    rows.append((sample.uid, [f.to_row() for f in self._seen(sample)], ""))
                except (DecodeError, OSError) as error:
                    rows.append((sample.uid, [], str(error)))
            uids, lists, reasons = zip(*rows, strict=True) if rows else ((), (), ())
            return pa.table(
                [pa.array(uids, pa.string()), pa.array(lists, pa.list_(FINDING)), pa.array(reasons, pa.string())],
                ["uid", "findings", "reason"],
            )

        order = sorted(range(len(data)), key=data.uids.__getitem__)
        table = Parts(parts.folder, parts.key, LOOKED_AT_ONCE).mapped(
            pa.table({"row": pa.array(order, pa.int64())}), "findings", work
        )
        made = table.to_pylist()
        found = {row["uid"]: [_finding(one) for one in row["findings"]] for row in made if not row["reason"]}
        return found, {row["uid"]: f"unreadable: {row['reason']}" for row in made if row["reason"]}

    def _captions(self, data: Dataset) -> dict[str, str]:
        """The text that is fused, by uid."""
        found = {}
        for sample in (data[row] for row in range(len(data))):
            texts = sample.positives(self.language)
            own = (text.string for origin in self.origins for text in texts if text.origin == origin)
            found[sample.uid] = next(own, "")
        return found

    def _wish(self, sample: Sample, caption: Mapping[str, str], findings: list[Finding]) -> Wish:
        uid = sample.uid
        by_rules = fusing.fused(caption[uid], findings)
        asked = "" if self.writer == RULES else fusing.prompt(caption[uid], findings)
        request = Request(uid, asked, by_rules, style="fused", seed=keyed_seed(self.seed, "fusecap", uid))
        return Wish(uid, 0, "caption" if caption[uid] else "findings", request)

    def _read(self, raw: str, caption: str, findings: list[Finding]) -> tuple[str, str]:
        text = raw.strip().split("\n", 1)[0].strip()
        if not text:
            return "", "empty: nothing was written"
        return text, fusing.missing_or_new(caption, findings, text) if self.check == "findings" else ""

    def _columns(
        self,
        data: Dataset,
        place: Mapping[str, int],
        caption: Mapping[str, str],
        found: Mapping[str, list[Finding]],
        fused: Mapping[str, Mapping[str, Any]],
        done: Writing,
    ) -> dict[str, Any]:
        uids = sorted(found)
        texts = {uid: str(fused[uid]["string"]) if uid in fused else "" for uid in uids}
        lists = [[f.to_row(*fusing.span(texts[uid], f)) for f in found[uid]] for uid in uids]
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
                    "licence": data[place[uid]].licence,
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
