"""Filters article figures by licence, caption, type and panels (after PMC-15M; Zhang et al., 2023, 2303.00915).

The input is PubMed Central articles as read by `diptych.read`. Rows are dropped, with a reason, if their licence does not allow
the requested use, the caption is too short, the image is unreadable, the figure type is not in `types`, or the figure is compound
and `compound` is "drop". Columns: `figure_type` (drawing, scan, photo) and `panels`, the boxes of the panels of compound figures
(left, top, right, bottom, flattened), which `diptych.data.articles.panels.panels_as_rows` turns into rows.

The published pipeline keeps every figure with a caption (`paper`). Cost: one image decode per row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.data.articles.figure_types import TYPES, figure_type
from diptych.data.articles.licences import Use, use_of
from diptych.data.articles.panels import COLUMN, panel_boxes
from diptych.data.media.decode import decode

TYPE_COLUMN = "figure_type"


@dataclass(frozen=True, kw_only=True)
class PubMedFigures:
    """uses      permitted uses of the kept rows: commercial, non-commercial, unknown (no known licence)
    words     minimum number of words of a caption
    types     kept types of figures: drawing, scan, photo
    compound  figures of several panels: "keep" them, or "drop" them
    smallest  minimum side of a panel, as a share of the figure's
    """

    slug: ClassVar[str] = "pubmed"
    paths: ClassVar[tuple[str, ...]] = ()

    uses: tuple[str, ...] = ("commercial", "non-commercial")
    words: int = 3
    types: tuple[str, ...] = TYPES
    compound: Literal["keep", "drop"] = "keep"
    smallest: float = 0.15

    def __post_init__(self) -> None:
        for name, values, allowed in (("uses", self.uses, get_args(Use)), ("types", self.types, TYPES)):
            if not values or not {*values} <= {*allowed}:
                raise ConfigError(f"{name} is {list(values)} (expected one or more of {', '.join(allowed)})")
        if self.compound not in ("keep", "drop") or self.words < 0 or not 0 < self.smallest <= 0.5:
            raise ConfigError(
                f"compound is {self.compound!r}, words {self.words}, smallest {self.smallest} (expected keep | drop, 0 or more, 0..0.5)"
            )

    @classmethod
    def paper(cls) -> Self:
        """Every figure with a caption, whatever its licence, as published: PubMed Central's list was restricted beforehand."""
        return cls(uses=get_args(Use), words=1)

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, lambda image: panel_boxes(decode(image, exact=True)), unit="figure")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        reasons, types, panels = dict[str, str](), dict[str, str](), dict[str, list[int]]()
        for row in with_bar(range(len(data)), len(data), "figures"):
            sample = data[row]
            reason = self._refused(sample)
            if not reason:
                reason, kind, boxes = self._read(sample)
                if not reason:
                    types[sample.uid] = kind
                    panels[sample.uid] = [edge for box in boxes for edge in box] if len(boxes) > 1 else []
            if reason:
                reasons[sample.uid] = reason
        kept = tuple(uid for uid in sorted(data.uids) if uid not in reasons)
        dropped = tuple(Drop(uid, self.slug, reasons[uid]) for uid in sorted(reasons))
        columns: dict[str, Any] = {TYPE_COLUMN: types, COLUMN: panels} if kept else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _refused(self, sample: Sample) -> str:
        if (use := use_of(sample.licence)) not in self.uses:
            licence = f"'{sample.licence}'" if sample.licence else "none that is known"
            return f"licence: {licence}, use {use} (expected {' or '.join(self.uses)})"
        longest = max((len(text.string.split()) for text in sample.positives()), default=0)
        return f"caption: {longest} words (expected {self.words} or more)" if longest < self.words else ""

    def _read(self, sample: Sample) -> tuple[str, str, tuple[tuple[int, int, int, int], ...]]:
        if sample.image is None:
            return "unreadable: there is no picture", "", ()
        try:
            figure_HWC = decode(sample.image, exact=True)
        except (DecodeError, OSError) as error:
            return f"unreadable: {error}", "", ()
        kind = figure_type(figure_HWC)
        if kind not in self.types:
            return f"type: a {kind} (expected {' or '.join(self.types)})", "", ()
        boxes = panel_boxes(figure_HWC, smallest=self.smallest)
        if self.compound == "drop" and len(boxes) > 1:
            return f"compound: {len(boxes)} panels", "", ()
        return "", kind, boxes
