"""Data report before training: anomalies of the data, and their effect on a contrastive loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diptych.core.randomness import keyed_rng
from diptych.data.dataset import Pool
from diptych.data.graphs.facts import GraphFacts, graph_facts
from diptych.data.media.table import member_label
from diptych.data.quarantine import QuarantineEntry, first_lines
from diptych.data.split import LeakReport, leaks
from diptych.data.text.captions.text_comparisons import TextComparison, text_comparisons

NEAR_CONSTANT = 0.5  # share of samples with one and the same first text
BOILERPLATE = 0.3  # share of texts with the same first or last words
READ = 2_000  # texts whose language is read
WORDS = 4  # that many words make a phrase
CAPTIONED = " have a model write them: diptych curate generated_captions DATA OUT"
WRITTEN, LINES_OF_WRITTEN = 12, 3  # samples whose written texts are shown on the page, and in the lines


class Encoder(Protocol):
    """The part of a tokeniser that the report needs: the number of texts longer than the context."""

    def encode(self, texts: Sequence[str], length: int) -> Any: ...


@dataclass
class DataReport:
    """Facts about a pool. `warnings` are those that deserve a decision before training; `lines` is the whole report as text."""

    name: str
    fingerprint: str
    samples: int
    texts: int
    quarantined: int
    notes: list[str]
    without_image: int = 0
    without_text: int = 0
    duplicate_images: int = 0  # samples whose image another sample has as well; -1: not known (no hashes yet)
    duplicate_texts: int = 0  # samples whose first text a sample of another group has as well
    common_texts: list[tuple[str, int]] = field(default_factory=list)
    boilerplate: list[tuple[str, float]] = field(default_factory=list)
    text_length: int = 0  # tokens; 0: no tokeniser was given
    truncated: int = 0
    checked_images: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    sides: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    media: dict[str, int] = field(default_factory=dict)  # samples with a medium beside the image, by its name and kind
    shapes: dict[str, dict[str, int]] = field(default_factory=dict)  # of the media that were looked at
    languages: dict[str, int] = field(default_factory=dict)
    languages_read: dict[str, int] = field(default_factory=dict)  # of a sample of the texts whose language is not stated
    licences: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    largest_group: tuple[str, int] = ("", 0)
    splits: dict[str, int] = field(default_factory=dict)
    leaks: LeakReport = field(default_factory=lambda: LeakReport((), ()))
    batch_size: int = 0
    same_group_pairs: float = 0.0  # expected pairs in a batch: masked by a loss that knows groups
    same_text_pairs: float = 0.0  # expected pairs in a batch with equal texts but different groups: false negatives
    same_image_pairs: float = 0.0  # expected pairs in a batch with one and the same image file but different groups
    chance_loss: float = 0.0  # nats: log of the batch size
    words: dict[str, int] = field(default_factory=dict)  # texts by their number of words
    left_out: list[str] = field(default_factory=list)  # the first of the quarantine, with file and row
    graphs: GraphFacts | None = None
    with_written: int = 0  # samples with texts that rules or a model wrote
    look_up: list[str] = field(
        default_factory=list
    )  # recall of the nearest training picture on each held-out split, beside chance
    beside: list[TextComparison] = field(default_factory=list)  # some of them, original and written

    @property
    def warnings(self) -> list[str]:
        """Warnings about the data, without their remedies."""
        return [problem for problem, _ in self.decisions]

    @property
    def decisions(self) -> list[tuple[str, str]]:
        """Warnings about the data, each with its remedy: a command or an option if there is one."""
        decisions = []
        if self.without_text == self.samples:
            if not self.graphs:
                decisions.append(
                    ("no sample has a text", "name the column (--text), take folder names (--text folder), or" + CAPTIONED)
                )
        elif self.without_text:
            decisions.append(
                (f"{self.without_text:,} samples have no text", "training needs one in each: leave them out, or" + CAPTIONED)
            )
        if self.without_image:
            what = f"{self.without_image:,} samples have no image" + (" and no other medium" if self.media else "")
            decisions.append((what, "if they should have one, name the column of the paths (--image)"))
        if self.quarantined:
            what = f"{self.quarantined:,} rows, or parts of them, were left out or cut while reading (see the quarantine)"
            decisions.append((what, "mend what is named there, or go on without"))
        decisions += (
            [(warning, "fine where it is meant; else mend the annotations") for warning in self.graphs.warnings]
            if self.graphs
            else []
        )
        if self.duplicate_images > 0:
            what = f"{self.duplicate_images:,} samples share their image with another one"
            decisions.append((what, "diptych curate exact_duplicates DATA OUT keeps one of each"))
        if self.common_texts and self.common_texts[0][1] >= NEAR_CONSTANT * self.samples > 1:
            text, count = self.common_texts[0]
            what = f"captions are nearly constant: {count / self.samples:.0%} are {_short(text)}"
            decisions.append((what, "little can be learned from them: name another column (--text), or" + CAPTIONED))
        for phrase, share in self.boilerplate:
            decisions.append(
                (f"{share:.0%} of the texts {phrase}", "if it does not describe the picture, remove it before building")
            )
        if self.truncated:
            share = self.truncated / max(self.texts, 1)
            what = f"{self.truncated:,} texts ({share:.1%}) are longer than {self.text_length} tokens and will be cut"
            decisions.append((what, "train with a larger --text-length, or leave it: the first words are read"))
        if self.broken:
            (uid, reason), kind = self.broken[0], "samples" if self.media else "images"
            what = f"{len(self.broken)} of {self.checked_images} {kind} looked at are broken, such as {uid}: {reason}"
            decisions.append((what, "diptych data build SRC OUT looks at all, and leaves out what is broken"))
        decisions += [
            (str(leak), "diptych data split DIR deals again, what belongs together to one side") for leak in self.leaks.leaks
        ]
        if self.same_text_pairs >= 1:
            what = (
                f"a batch of {self.batch_size:,} holds about {self.same_text_pairs:.1f} pairs with equal texts but "
                "no common group: negatives that are none"
            )
            decisions.append(
                (what, "name the column of what belongs together (--group), as diptych data build and train take it")
            )
        if self.same_image_pairs >= 1:
            what = f"a batch of {self.batch_size:,} holds about {self.same_image_pairs:.1f} pairs with the same image but no common group"
            decisions.append((what, "diptych curate exact_duplicates DATA OUT, or a group that they share (--group)"))
        if 0 < self.samples < self.batch_size:
            what = f"{self.samples:,} samples do not fill a batch of {self.batch_size:,} without repeating"
            decisions.append((what, f"train with --batch-size {max(2, self.samples // 2)} or less"))
        return decisions

    def lines(self) -> list[str]:
        """The report, one fact per line; facts that need a decision come first, marked with ``!``."""
        name = f"{self.name} (fingerprint {self.fingerprint})"
        dup = "not known before `data build`" if self.duplicate_images < 0 else f"{self.duplicate_images:,}"
        facts = [
            f"{name}: {self.samples:,} samples, {self.texts:,} texts, {self.groups:,} groups",
            *(f"! {warning}" for warning in self.warnings),
            *self.left_out,
            *(self.graphs.lines() if self.graphs else []),
            f"largest group: {self.largest_group[1]:,} samples ({self.largest_group[0]})",
            f"duplicate images: {dup}; duplicate texts: {self.duplicate_texts:,} samples",
            *([f"longest side of the images checked, pixels: {_ranges(self.sides, 'images')}"] if self.sides else []),
            *([f"formats of the images checked: {_mix(self.formats)}"] if self.formats else []),
            *([f"media: {_mix(self.media)}"] if self.media else []),
            *(f"shapes of the {name} checked: {_mix(counts)}" for name, counts in self.shapes.items()),
            *([f"words per text: {_ranges(self.words, 'texts')}"] if self.words else []),
            f"languages: {_mix(self.languages)}",
            *([f"languages as they read, of those not stated: {_mix(self.languages_read)}"] if self.languages_read else []),
            f"licences: {_mix(self.licences)}",
            *([f"splits: {_mix(self.splits)}"] if self.splits else []),
            *(f"recall at 1 of the nearest training picture: {line}" for line in self.look_up),
            *(self.leaks.lines() if len(self.splits) > 1 and self.leaks.clean else []),
            *([self._batch()] if self.texts else []),
            *([f"written texts: {self.with_written:,} samples have some, such as"] if self.beside else []),
            *(f"  {line}" for one in self.beside[:LINES_OF_WRITTEN] for line in one.lines()),
            *self.notes,
        ]
        return list(dict.fromkeys(facts))

    def _batch(self) -> str:
        return (
            f"in a batch of {self.batch_size:,}: {self.same_group_pairs:.2f} pairs of one group, {self.same_text_pairs:.2f} more "
            f"with equal texts, {self.same_image_pairs:.2f} with the same image; chance loss {self.chance_loss:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "leaks": self.leaks.to_json(), "warnings": self.warnings}


def inspect(
    pool: Pool,
    recipe: Any = None,
    *,
    tokenizer: Encoder | None = None,
    text_length: int = 0,
    batch_size: int = 0,
    look_at: int = 200,
    read_language: Callable[[list[str]], list[str]] | None = None,
    folder: Path | None = None,
    seed: int = 0,
) -> DataReport:
    """Look at a pool before training on it. Costs one pass over texts and columns, and the decoding of `look_at` images.

    recipe      where batch size, tokeniser and text length come from, if it has them; the arguments by name come first
    tokenizer   counts texts that are longer than `text_length` tokens
    read_language  tells the languages of texts ("" undetermined); asked about up to 2,000 texts whose language is not stated
    folder      of a curation whose tables say who wrote what
    look_at     this many images, chosen by `seed`, are decoded in full; a built pool has been decoded once already
    """
    batch_size = batch_size or getattr(recipe, "batch_size", 0) or 256
    text_length = text_length or getattr(recipe, "text_length", 0) or 0
    tokenizer = tokenizer or _tokenizer(getattr(recipe, "tokenizer", None))
    table = pool.texts_table()
    strings, languages = table["string"].to_pylist(), table["language"].to_pylist()
    first = _first_texts(pool, table)
    groups = pool.groups
    by_group = Counter(groups)
    report = DataReport(
        pool.name,
        pool.fingerprint,
        len(pool),
        len(strings),
        len(pool.quarantine),
        list(pool.notes),
        without_text=sum(not text for text in first),
        languages=_top(language or "unknown" for language in languages),
        licences=_top(licence or "unknown" for licence in pool.column("licence")),
        groups=len(by_group),
        largest_group=by_group.most_common(1)[0] if by_group else ("", 0),
        splits={name: count for name, count in Counter(pool.column("split")).items() if name},
        boilerplate=_boilerplate(strings),
        words=_lengths(strings),
        batch_size=batch_size,
        chance_loss=math.log(batch_size),
        left_out=first_lines(pool.quarantine),
        graphs=graph_facts(pool),
    )
    unstated = [string for string, language in zip(strings, languages, strict=True) if not language]
    if read_language is not None and unstated:
        chosen = keyed_rng(seed, "languages").permutation(len(unstated))[:READ]
        report.languages_read = _top(tag or "undetermined" for tag in read_language([unstated[i] for i in chosen.tolist()]))
    report.common_texts = [(text, n) for text, n in Counter(text for text in first if text).most_common(3) if n > 1]
    report.leaks = leaks(pool) if len(report.splits) > 1 else report.leaks
    report.with_written, report.beside = text_comparisons(pool, WRITTEN, folder=folder, seed=seed)
    _pairs(report, pool, groups, first)
    _images(report, pool, look_at, seed)
    if tokenizer is not None and text_length:
        report.text_length = text_length
        for start in range(0, len(strings), 4096):
            report.truncated += int(tokenizer.encode(strings[start : start + 4096], text_length).truncated)
    return report


def _tokenizer(value: Any) -> Encoder | None:
    if not isinstance(value, str):
        return value if hasattr(value, "encode") else None
    if not value:
        return None
    from diptych.data.text.tokenize import Tokenizer

    encoder: Encoder = Tokenizer.from_spec(value)
    return encoder


def _first_texts(pool: Pool, table: Any) -> list[str]:
    """The first positive text of each row, case and outer space aside; "" if there is none."""
    first: dict[str, str] = {}
    columns = (table[name].to_pylist() for name in ("uid", "string", "origin"))
    for uid, string, origin in zip(*columns, strict=True):
        if origin != "negative" and uid not in first:
            first[uid] = " ".join(string.casefold().split())
    return [first.get(uid, "") for uid in pool.uids]


def _pairs(report: DataReport, pool: Pool, groups: Sequence[str], first: Sequence[str]) -> None:
    """Expected pairs in a batch drawn without repeats: B (B - 1) / 2 times the chance that two rows have something in common."""
    n, batch = len(groups), report.batch_size
    if n < 2:
        return
    with_text = [(group, text) for group, text in zip(groups, first, strict=True) if text]

    def pairs(counts: Counter[Any]) -> int:
        return sum(count * (count - 1) // 2 for count in counts.values())

    both = pairs(Counter(with_text))
    if "sha256" in pool.column_names:
        keys = [(group, image) for group, image in zip(groups, pool.column("sha256"), strict=True) if image]
        same_image = pairs(Counter(image for _, image in keys)) - pairs(Counter(keys))
    else:
        same_image = 0
    equal_text = pairs(Counter(text for _, text in with_text)) - both
    share = min(batch, n) * (min(batch, n) - 1) / (n * (n - 1))
    report.same_group_pairs = pairs(Counter(groups)) * share
    report.same_text_pairs = equal_text * share
    report.same_image_pairs = same_image * share
    homes: dict[str, set[str]] = {}
    for group, text in with_text:
        homes.setdefault(text, set()).add(group)
    report.duplicate_texts = sum(len(homes[text]) > 1 for _, text in with_text)


def _images(report: DataReport, pool: Pool, look_at: int, seed: int) -> None:
    """Sizes, formats and hashes from the manifest if there is one; a sample of images and media is decoded in any case."""
    from diptych.data.shards.write import check_sample

    media = [pool.media(row) for row in range(len(pool))] if pool.has_media else []
    kinds = Counter(member_label(name, item.medium) for items in media for name, item in items.items())
    report.media = dict(sorted(kinds.items()))
    there = [row for row in range(len(pool)) if pool.image(row) is not None or (media and media[row])]
    report.without_image = len(pool) - len(there)
    built = "sha256" in pool.column_names
    report.duplicate_images = -1
    if built:
        hashes = Counter(value for value in pool.column("sha256") if value)
        report.duplicate_images = sum(count for count in hashes.values() if count > 1)
        longest = [max(w, h) for w, h in zip(pool.column("width"), pool.column("height"), strict=True) if w]
        formats = [value for value in pool.column("image_format") if value]
    chosen = keyed_rng(seed, "inspect").permutation(len(there))[:look_at]
    seen_sides, seen_formats = [], []
    seen_shapes: dict[str, Counter[str]] = {}
    for row in np.sort(chosen).tolist():
        checked = check_sample(pool[there[row]], encode=False)
        report.checked_images += 1
        if isinstance(checked, QuarantineEntry):
            report.broken.append((checked.uid, checked.reason))
            continue
        image, items = checked
        if image is not None:
            seen_sides.append(max(image.width, image.height))
            seen_formats.append(image.format)
        for item in items:
            if item.facts is not None:
                shape = f"{item.facts.dtype} {' x '.join(map(str, item.facts.shape))}"
                seen_shapes.setdefault(member_label(item.name, item.medium), Counter())[shape] += 1
    report.shapes = {name: _top(shapes.elements()) for name, shapes in sorted(seen_shapes.items())}
    report.sides = _histogram(longest if built else seen_sides)
    report.formats = _top(formats if built else seen_formats)


def _boilerplate(strings: Sequence[str]) -> list[tuple[str, float]]:
    """Phrases that a large share of different texts begin or end with ("image of ...", "... stock photo")."""
    different = {" ".join(string.casefold().split()) for string in strings}
    words = [parts for text in different if len(parts := text.split()) > WORDS]
    if len(words) < 20:
        return []
    shares = []
    for how in ("begin with", "end with"):
        for k in range(WORDS, 1, -1):
            phrases = Counter(" ".join(parts[:k] if how == "begin with" else parts[-k:]) for parts in words)
            phrase, count = phrases.most_common(1)[0]
            if count >= BOILERPLATE * len(different):
                shares.append((f"{how} {_short(phrase)}", count / len(different)))
                break
    return shares


def _lengths(strings: Sequence[str]) -> dict[str, int]:
    """Texts by their number of words, in powers of two."""
    bins = Counter(len(string.split()).bit_length() for string in strings)
    names = {0: "none", 1: "1"}
    return {names.get(b, f"{2 ** (b - 1)}-{2**b - 1}"): bins[b] for b in sorted(bins)}


def _histogram(sides: Sequence[int]) -> dict[str, int]:
    """Longest sides in powers of two."""
    bins = Counter(0 if side < 32 else int(math.log2(side)) for side in sides)
    return {("below 32" if b == 0 else f"{2**b}-{2 ** (b + 1) - 1}"): bins[b] for b in sorted(bins)}


def _top(values: Any, keep: int = 12) -> dict[str, int]:
    counts = Counter(values).most_common()
    rest = sum(count for _, count in counts[keep:])
    return {**dict(counts[:keep]), **({f"{len(counts) - keep} others": rest} if rest else {})}


def _ranges(counts: dict[str, int], unit: str) -> str:
    """Counts of ranges of a quantity: "2-3 in 280 texts, 4-7 in 766"."""
    first, *rest = (f"{name} in {count:,}" for name, count in counts.items())
    return ", ".join([f"{first} {unit}", *rest])


def _mix(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _short(text: str) -> str:
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"
