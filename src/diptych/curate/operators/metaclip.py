"""MetaCLIP: keeps texts that mention a metadata entry and balances the entries' frequencies (Xu et al., 2023, 2309.16671). No
model.

Two passes: every text is searched for all entries (`matching`), counts are summed, and a text is kept with the probability that
its entries give it (`balance`). Draws are keyed by (seed, uid), so the kept rows depend neither on the input files nor on the
engine.

Columns: "entries", row indices into entries.parquet of the entries that the text mentions; "keep_probability", for every row, for
sampling instead of dropping (`data.load.order.Weighted`); "balanced_text", the index of the text that was drawn.
Files: entries.parquet (entry, source, count before and after), metaclip.html (both as curves); with thresholds by language also
languages.parquet (language, matches, t, share of its matches below t).

Differences from the published code: for an image with several texts one is drawn and judged; the first release kept the image
once for every text that survived (`texts="any"` keeps it if any does). Entries match by `spacing`'s rule "tokens"; theirs is
"released". One threshold serves all languages; MetaCLIP 2's rule, with lists, counts and thresholds per language, is
`threshold="language"` (`entry_languages`). Run this step last, so that unavailable images are not counted. Cost: linear in
characters, about 30,000 texts per second and core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped
from diptych.curate.engine.tables import parquet_bytes
from diptych.curate.engine.verdicts import DropTable, StringColumn, string_column, uids_without
from diptych.curate.text.balance import entry_probability, share_below, threshold_for
from diptych.curate.text.entries import (
    NUMBERS,
    Entries,
    frequent,
    page_views,
    pmi_pairs,
    viewed_titles,
    wordnet,
    words_of_corpus,
)
from diptych.curate.text.entry_draws import EntryDraws, draw_texts
from diptych.curate.text.entry_languages import Counts, EntryLanguages, EntryMatches, thresholds_by_language
from diptych.curate.text.matching import MatchEntries
from diptych.curate.text.texts import texts_of
from diptych.curate.text.word_boundaries import RULES, Rule
from diptych.data.ragged import one_chunk
from diptych.report.pages.balance import balance_page

TRIED = 2_000  # texts


@dataclass(frozen=True)
class MetaCLIP:
    """entries      file of entries (lines of text, Parquet with a column "entry", or the published metadata.json), or a folder with one
                    such file per language, named by it ("en.txt", "other.txt"); "" makes the list from `wordnet`, `titles` and the texts
    wordnet      folder of WordNet's data files, to make a list; "" leaves WordNet out
    names        WordNet's names as "written", or as in the published list, "released": in lower case, truncated at the first full stop
    titles       page views: a file or a folder of files, lines of title, tab, views, or Wikimedia's hourly dumps; "" leaves titles out
    min_views    minimum number of views of a title that becomes an entry (published 70, over 26 days)
    min_count    minimum count of a word of the texts that becomes an entry (published 100)
    bigrams      number of word pairs that become entries, by mutual information (published 100,646); 0 none
    t            number of texts per entry that are kept with certainty (published 20,000 for 400 M pairs); 0 derives it from `tail_share`
    tail_share   share of all matches that belong to entries rarer than t; 20,000 for 400 M pairs is 0.06
    threshold    "pool": one t for all texts; "language": counts and t by language, as in MetaCLIP 2. Then `t` and `tail_share` are those of
                 `reference`, and t of every other language gives the same tail share
    reference    language for which t is given
    rule         tokens | released | multilingual: see `spacing`
    ignore_case  ignore case in matching (published: off, so "Gas" and "gas" are two entries)
    texts        "one": one text per image is sampled and balanced; "any": the image is kept if any of its texts is
    draw         "text": one draw with P; "entry": one draw per entry (the same on average)
    language     language of the texts; texts of unknown language are included; "" uses all
    seed         seed of the draws
    """

    slug: ClassVar[str] = "metaclip"
    paths: ClassVar[tuple[str, ...]] = ("entries", "wordnet", "titles")

    entries: str = ""
    wordnet: str = ""
    names: Literal["written", "released"] = "written"
    titles: str = ""
    min_views: int = 70
    min_count: int = 100
    bigrams: int = 0
    t: int = 0
    tail_share: float = 0.06
    threshold: Literal["pool", "language"] = "pool"
    reference: str = "en"
    rule: Rule = "tokens"
    ignore_case: bool = False
    texts: Literal["one", "any"] = "one"
    draw: Literal["text", "entry"] = "text"
    language: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"rule": RULES, "texts": ("one", "any"), "draw": ("text", "entry"), "threshold": ("pool", "language")}
        choices["names"] = ("written", "released")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r} (expected {' | '.join(allowed)})")
        if self.t < 0 or self.min_count < 1 or self.bigrams < 0:
            raise ConfigError(
                f"t {self.t}, min_count {self.min_count}, bigrams {self.bigrams} (expected 0 or more, 1 or more, 0 or more)"
            )
        if not 0 < self.tail_share <= 1:
            raise ConfigError(f"tail_share is {self.tail_share} (expected above 0, at most 1)")
        if self.min_views < 1:
            raise ConfigError(f"min_views is {self.min_views} (expected 1 or more)")

    @classmethod
    def paper(cls) -> Self:
        """Published settings for 400 million pairs, with the released matching rule; use `t=170_000` for 2.5 billion. The list is
        the published one if `entries` names its metadata.json, else it is built the same way (`wordnet`, `titles`, words and
        pairs of the texts)."""
        return cls(t=20_000, bigrams=100_646, names="released", rule="released", draw="entry")

    def plan(self, data: Dataset) -> dict[str, Any]:
        texts = texts_of(data, language=self.language)
        entries = self.lists(texts).all
        matcher = MatchEntries(entries.names, self.rule, self.ignore_case)
        matcher(pa.array(["warm up"]))
        step = max(1, texts.num_rows // TRIED)
        tried = texts["string"].take(pa.array(range(0, texts.num_rows, step))).combine_chunks()
        start = time.perf_counter()
        matcher(tried)
        each = (time.perf_counter() - start) / max(1, len(tried))
        facts = {"items": texts.num_rows, "unit": f"text against {len(entries):,} entries", "seconds_each": each}
        return {**facts, "seconds": each * texts.num_rows, "needs": "one count over all texts"}

    def lists(self, texts: pa.Table) -> EntryLanguages:
        """Entry lists, as given or built from these texts: a single one, or one per language."""
        if self.entries and Path(self.entries).is_dir():
            return EntryLanguages.load(Path(self.entries))
        return EntryLanguages(self.entry_list(texts), {})

    def entry_list(self, texts: pa.Table) -> Entries:
        """Single list of entries: as given, or made from these texts."""
        if self.entries:
            return Entries.load(Path(self.entries))
        words, pairs = words_of_corpus(StringColumn(texts["string"]))
        chosen = {"word": frequent(words, self.min_count), "number": NUMBERS}
        if self.bigrams:
            chosen["pair"] = [pair for pair, _ in pmi_pairs(words, pairs, top=self.bigrams)]
        if self.titles:
            chosen["title"] = viewed_titles(page_views(Path(self.titles)).items(), self.min_views)
        given = tuple((source, tuple(names)) for source, names in chosen.items())
        return _make_entries(self.wordnet, given, self.names == "released")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from parts that an earlier run finished."""
        start = time.perf_counter()
        texts = texts_of(data, language=self.language)
        lists = self.lists(texts)
        entries = lists.all
        matcher = MatchEntries(entries.names, self.rule, self.ignore_case)

        def matched(part: pa.Table) -> pa.Table:
            return mapped(part.select(["row", "string"]), ["string"], matcher, "entries").select(["row", "entries"])

        entry_lists = parts.mapped(texts, f"match-{entries.fingerprint}", matched)["entries"].combine_chunks()
        names, language_T = lists.of_texts(one_chunk(texts["language"]))
        entry_K, offset_T1 = entry_lists.values.to_numpy().astype(np.int64), entry_lists.offsets.to_numpy().astype(np.int64)
        entry_K, offset_T1 = lists.own(names, language_T, entry_K, offset_T1)
        matches = EntryMatches(entries, names, language_T, entry_K, offset_T1, by_language=self.threshold == "language")
        count_LM = matches.counts()
        t_L = [self.t or threshold_for(count_LM[0], self.tail_share)]
        if self.threshold == "language":
            t_L = thresholds_by_language(count_LM, names, self.reference, t=self.t, tail_share=self.tail_share)
        draws = draw_texts(
            one_chunk(texts["uid"]),
            matches.flat_index(),
            offset_T1,
            np.concatenate([entry_probability(count_M, t) for count_M, t in zip(count_LM, t_L, strict=True)]),
            seed=self.seed,
            texts=self.texts,
            draw=self.draw,
        )
        reports = _reports(data, matches, draws, count_LM, t_L, self.reference)
        taken = pa.array(draws.text_I)
        owner = pa.array(draws.uids, pa.string())
        columns = {
            "entries": pa.table({"uid": owner, "entries": matches.lists().take(taken)}),
            "keep_probability": pa.table({"uid": owner, "keep_probability": draws.chance_T[draws.text_I]}),
            "balanced_text": pa.table({"uid": owner, "balanced_text": texts["string"].take(taken).cast(pa.string())}),
        }
        kept = StringColumn(owner.filter(pa.array(draws.stays_I)))
        dropped = pa.array(uids_without(data, kept.column), pa.string())
        drops = DropTable.of_step(self.slug, dropped, string_column(_reasons(dropped, owner, matches, draws, count_LM)))
        return CurationStepResult(kept, drops, columns if len(owner) else {}, time.perf_counter() - start, reports)


def _reasons(dropped: pa.Array, owner: pa.Array, matches: EntryMatches, draws: EntryDraws, count_LM: Counts) -> Iterator[str]:
    """Reason of each dropped row; `owner` are the uids of the draws."""
    counted_T = matches.rows()
    for row in pc.index_in(dropped, value_set=owner).fill_null(-1).to_numpy():
        if row < 0:
            yield "no_entry: no text of it mentions an entry of the list"
            continue
        text = int(draws.text_I[row])
        count_M = count_LM[counted_T[text]]
        rarest = min(matches.of_text(text), key=lambda e: (count_M[e], e))
        name, count = matches.entries.names[rarest], f"{int(count_M[rarest]):,} texts"
        if matches.by_language:
            count += f" in language '{matches.languages[counted_T[text]]}'"
        yield f"balanced: drawn out at P = {draws.chance_T[text]:.3f}; its rarest entry {name!r} has {count}"


def _reports(
    data: Dataset, matches: EntryMatches, draws: EntryDraws, count_LM: Counts, t_L: list[int], reference: str
) -> dict[str, bytes]:
    entries = matches.entries
    kept = matches.lists().take(pa.array(draws.text_I[draws.stays_I]))
    count_M = count_LM.sum(0)
    after_M = np.bincount(pc.list_flatten(kept).to_numpy(), minlength=len(entries)).astype(np.uint64)
    table = entries.table().append_column("before", pa.array(count_M)).append_column("after", pa.array(after_M))
    rows = len(data), int(draws.stays_I.sum())
    share_L = [share_below(each_M, t) for each_M, t in zip(count_LM, t_L, strict=True)]
    shown = matches.languages.index(reference) if matches.by_language else 0
    page = balance_page(data.name, entries.names, count_M, after_M, t=t_L[shown], share=share_L[shown], rows=rows)
    files = {"entries.parquet": parquet_bytes(table), "metaclip.html": page.encode()}
    if matches.by_language:
        columns = {"language": matches.languages, "matches": count_LM.sum(1), "t": t_L, "tail_share": share_L}
        files["languages.parquet"] = parquet_bytes(pa.table(columns))
    return files


@lru_cache(maxsize=2)
def _make_entries(folder: str, chosen: tuple[tuple[str, tuple[str, ...]], ...], released: bool) -> Entries:
    by_source = dict(chosen)
    return Entries.of({**by_source, "wordnet": wordnet(Path(folder), lower=released, cut=released)} if folder else by_source)
