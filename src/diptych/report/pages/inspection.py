"""Page of the data report before training: the numbers of `data.inspect` with pictures of the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from diptych.core.randomness import keyed_rng
from diptych.data.dataset import Pool
from diptych.data.inspect import DataReport
from diptych.report.curves import bar_chart, charts
from diptych.report.page import Section, cards, definitions, figure, heading, lines, page, query_row, sheet, table, text
from diptych.report.pictures import Album, data_uri

LOOK, EACH, GROUPS = 24, 6, 8
"""Pictures at random; pictures of one text or one file; texts or files that are shown."""
DRAWN_PIXELS = 20_000_000
"""A larger picture is named and not drawn."""
WORDS = 90  # characters of a caption under a picture


def inspection_page(pool: Pool, report: DataReport, *, seed: int = 0) -> str:
    """Writes the page. `report` is what `inspect` returned for this pool. Only a few hundred pictures are decoded."""
    shown = _SampleFigures(pool)
    sections = [
        _summary(report),
        Section(
            "A look", (text(f"{LOOK} rows at random, each with its first text.", note=True), sheet(_random(pool, shown, seed)))
        ),
        _again(pool, report, shown),
        _captions(pool, report, shown),
        *_written(report, shown),
        _pictures(pool, report, shown),
        _mix(report),
        _splits(pool, report, shown),
        _left_out(pool, report),
    ]
    lead = "What is odd about the data, and what it will do to a contrastive loss. Made before training; nothing was changed."
    return page(f"{report.name}: inspected", lead, sections, footer=f"fingerprint {report.fingerprint}")


class _SampleFigures:
    """Figures of samples by uid."""

    def __init__(self, pool: Pool) -> None:
        self.album = Album(pool)
        sizes = {"width", "height"} <= set(pool.column_names)
        pairs = zip(pool.column("width"), pool.column("height"), strict=True) if sizes else ((None, None) for _ in pool.uids)
        self.size = {uid: (w, h) for uid, (w, h) in zip(pool.uids, pairs, strict=True)}

    def figures(self, uids: Iterable[str], *, note: bool = False) -> list[str]:
        """With `note` the caption says uid and size instead of the text."""
        return [self._figure(uid, note) for uid in uids]

    def _figure(self, uid: str, note: bool) -> str:
        width, height = self.size[uid]
        size = f"{width:,} x {height:,}" if width else ""
        if width and width * height > DRAWN_PIXELS:
            return figure(data_uri(np.full((8, 8, 3), 235, np.uint8)), f"{uid}: {size}, too large to draw here")
        picture, words = self.album.of(uid)
        short = words if len(words) <= WORDS else words[: WORDS - 1] + "…"
        return figure(picture, f"{uid} {size}" if note else short)


def _summary(report: DataReport) -> Section:
    facts = [
        (f"{report.samples:,}", "samples"),
        (f"{report.texts:,}", "texts"),
        (f"{report.groups:,}", "groups"),
        (f"{len(report.warnings)}", "things to decide"),
        (f"{report.chance_loss:.3f}", f"loss of guessing in a batch of {report.batch_size:,}"),
    ]
    decisions = table(("what is odd", "what helps"), report.decisions)
    warned = decisions or text("Nothing that needs a decision was found.")
    batch = {
        f"pairs of one group in a batch of {report.batch_size:,}": f"{report.same_group_pairs:.2f}",
        "further pairs with equal texts: negatives that are none": f"{report.same_text_pairs:.2f}",
        "pairs with the same image file": f"{report.same_image_pairs:.2f}",
        "loss of guessing, nats": f"{report.chance_loss:.3f}",
    }
    return Section("Decide", (cards(facts), warned, heading("What a batch will hold"), definitions(batch)))


def _random(pool: Pool, shown: _SampleFigures, seed: int) -> list[str]:
    rows = np.sort(keyed_rng(seed, "inspection").permutation(len(pool))[:LOOK])
    return shown.figures(pool.uids[row] for row in rows.tolist())


def _again(pool: Pool, report: DataReport, shown: _SampleFigures) -> Section:
    """Section on the files that occur most often."""
    if report.duplicate_images < 0:
        return Section(
            "The same picture again", (text("Not known before `diptych data build`: hashes are made there.", note=True),)
        )
    by_hash: dict[str, list[str]] = defaultdict(list)
    for uid, value in zip(pool.uids, pool.column("sha256"), strict=True):
        if value:
            by_hash[value].append(uid)
    several = sorted((uids for uids in by_hash.values() if len(uids) > 1), key=lambda uids: (-len(uids), uids[0]))
    sentence = f"{report.duplicate_images:,} samples share their file with another one, in {len(several):,} groups."
    rows = [query_row(f"{len(uids):,} times", "one file, these texts", shown.figures(uids[:EACH])) for uids in several[:GROUPS]]
    return Section("The same picture again", (text(sentence), *rows))


def _captions(pool: Pool, report: DataReport, shown: _SampleFigures) -> Section:
    first: dict[str, list[str]] = defaultdict(list)
    table_of = pool.texts_table()
    seen: set[str] = set()
    columns = (table_of[name].to_pylist() for name in ("uid", "string", "origin"))
    for uid, string, origin in zip(*columns, strict=True):
        if origin != "negative" and uid not in seen:
            seen.add(uid)
            first[" ".join(string.casefold().split())].append(uid)
    common = sorted((pair for pair in first.items() if len(pair[1]) > 1 and pair[0]), key=lambda pair: (-len(pair[1]), pair[0]))
    rows = [
        query_row(words[:WORDS], f"{len(uids):,} samples", shown.figures(uids[:EACH], note=True))
        for words, uids in common[:GROUPS]
    ]
    facts = [f"{share:.0%} of the texts {phrase}" for phrase, share in report.boilerplate]
    if report.text_length:
        facts.append(f"{report.truncated:,} texts are longer than {report.text_length} tokens and will be cut")
    sentence = f"{report.duplicate_texts:,} samples have a text that a sample of another group has as well. The most common:"
    blocks = (charts([bar_chart("words per text", report.words)]), lines(facts) if facts else "", text(sentence), *rows)
    return Section("Captions", blocks)


def _written(report: DataReport, shown: _SampleFigures) -> list[Section]:
    """Section with original and generated texts side by side, if there are any."""
    if not report.beside:
        return []
    blocks = [text(f"{report.with_written:,} samples have texts that rules or a model wrote. Some of them:")]
    for one in report.beside:
        rows = [("original", one.original), *((written.by or written.origin, written.string) for written in one.written)]
        blocks += [query_row(one.uid, "", shown.figures([one.uid], note=True)), table(("by", "text"), rows)]
    return [Section("Original and written", tuple(blocks))]


def _pictures(pool: Pool, report: DataReport, shown: _SampleFigures) -> Section:
    blocks = [charts([bar_chart("longest side, pixels", report.sides), bar_chart("formats", report.formats, colour=2)])]
    sized = [(uid, *size) for uid, size in shown.size.items() if size[0]]
    if sized:
        longest = sorted(sized, key=lambda k: (-max(k[1], k[2]) / min(k[1], k[2]), k[0]))
        by_area = sorted(sized, key=lambda k: (k[1] * k[2], k[0]))
        for name, chosen in (("smallest", by_area), ("largest", by_area[::-1]), ("most elongated", longest)):
            blocks.append(query_row(name, "", shown.figures((uid for uid, _, _ in chosen[:EACH]), note=True)))
    if report.media:
        blocks.append(charts([bar_chart("media", report.media)]))
        kinds = [(name, shape, count) for name, shapes in report.shapes.items() for shape, count in shapes.items()]
        blocks.append(table(("medium", "type and shape", "how many of those looked at"), kinds))
    if report.broken:
        blocks.append(heading(f"Broken, of {report.checked_images:,} that were looked at"))
        blocks.append(table(("sample", "why"), report.broken[:20]))
    return Section("Pictures", tuple(blocks))


def _mix(report: DataReport) -> Section:
    read = bar_chart("languages as they read, of those not stated", report.languages_read, colour=4)
    blocks = charts([bar_chart("languages as stated", report.languages), read, bar_chart("licences", report.licences, colour=3)])
    group, size = report.largest_group
    return Section("Languages and licences", (blocks, text(f"Largest group: {size:,} samples ({group}).", note=True)))


def _splits(pool: Pool, report: DataReport, shown: _SampleFigures) -> Section:
    if not report.splits:
        return Section("Splits", (text("There are none yet: `diptych data split` deals groups to them.", note=True),))
    blocks = [charts([bar_chart("splits", report.splits)])]
    blocks.append(lines(report.leaks.lines(), warn=not report.leaks.clean))
    for leak in report.leaks.leaks:
        pairs: Sequence[str] = [uid for pair in leak.examples[:3] for uid in pair]
        blocks.append(query_row(f"the same {leak.kind}", " and ".join(leak.splits), shown.figures(pairs)))
    return Section("Splits", tuple(blocks))


def _left_out(pool: Pool, report: DataReport) -> Section:
    """Section on rows that could not be read, by kind, with an example of each."""
    if not pool.quarantine:
        return Section("Left out", (text("Everything could be read."),))
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for bad in pool.quarantine:
        kinds[bad.stage, "".join("#" if c.isdigit() else c for c in bad.reason)].append(str(bad))
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    rows = [(len(examples), stage, examples[0][:200]) for (stage, _), examples in ordered[:20]]
    return Section("Left out", (text(f"{report.quarantined:,} rows or files."), table(("how many", "stage", "such as"), rows)))
