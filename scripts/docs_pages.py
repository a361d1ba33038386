"""Pages that mkdocs generates while it builds: systems, claims, API, decisions. Nothing of them is kept in the repository."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docs_fields import with_fields
from docs_guide import guide
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from diptych.claims import registry
from diptych.claims.claim import LONG
from diptych.claims.controls.raw_input import PREFIX
from diptych.claims.ledger import Entry, Side, Superseded
from diptych.claims.table import Row, forest, rows
from diptych.cli.commands.systems import papers_of
from diptych.core import systems
from diptych.core.contracts import Recipe
from diptych.models.closed_form.model import METHODS
from diptych.report.forest import NARROW

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs/claims"
ROOMS = {
    "core": "the shared nouns and contracts",
    "data": "readers, writers, splits, decoding, tokenising, samplers",
    "models": "towers and heads",
    "objectives": "losses over tensors",
    "train": "the loop, precision, sharding, checkpoints, resume",
    "tasks": "evaluation protocols",
    "index": "search over embeddings",
    "curate": "curation operators",
    "worlds": "rendered data with perfect ground truth",
    "recipes": "trainable systems",
    "pipelines": "systems that act at inference time",
    "claims": "method against baseline",
    "comparisons": "recipes and models on the same data",
    "serve": "the HTTP API",
    "report": "pages and pictures",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a section below its index, so that every page is in the navigation."""
    sections = {
        "systems/index.md": [f"systems/{row.slug}.md" for row in every_row() if row.built],
        "api/index.md": [{f"diptych.{room}": f"api/diptych.{room}.md"} for room in ROOMS],
        "decisions/index.md": [{title_of(path): f"decisions/{path.name}"} for path in decisions()],
    }
    config.nav = [_expanded(entry, sections) for entry in config.nav or []]
    return config


def _expanded(entry: dict[str, Any], sections: dict[str, list[Any]]) -> dict[str, Any]:
    """An entry of the navigation in which every index page of a section is followed by the section's pages."""
    (title, content), *_ = entry.items()
    if isinstance(content, list):
        return {title: [_expanded(item, sections) for item in content]}
    return {title: [content, *sections[content]]} if content in sections else entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"systems/index.md": systems_index(), "claims/index.md": claims_index(), "decisions/index.md": decisions_index()}
    pages["claims/raw-input.md"] = raw_input_page()
    pages |= {f"systems/{row.slug}.md": system_page(row, config.repo_url or "") for row in every_row() if row.built}
    pages["systems/which.md"] = guide(LEDGER)
    pages |= {"api/index.md": api_index()} | {f"api/diptych.{room}.md": api_page(room) for room in ROOMS}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def every_row() -> list[systems.System]:
    return [*systems.SYSTEMS, *systems.BASELINES]


def systems_index() -> str:
    working, built = sum(r.works for r in systems.SYSTEMS), sum(r.built for r in systems.SYSTEMS)
    lines = [
        "# Systems",
        "",
        f"{len(systems.SYSTEMS)} published systems and {len(systems.BASELINES)} baselines. Today {built} of the systems are built and {working} "
        "*work*: they answer the command line, have a page, a recorded parity with something independent, and a fresh verdict with controls, "
        "whatever it says. What was *shown* stands apart, and a mechanism check (a part does what it says, on planted models say) is no "
        "showing of what the paper claims. The rest is a plan, and named as such.",
        "",
        "## Built",
        "",
        "| system | what it is | room | state | main claim | what is missing |",
        "|---|---|---|---|---|---|",
    ]
    for row in every_row():
        if row.built:
            state = "works" if row.works else "built"
            lines.append(
                f"| [`{row.slug}`]({row.slug}.md) | {row.title} | {row.room} | {state} | {row.judged} | {', '.join(row.missing)} |"
            )
    lines += ["", "## Planned", "", "| system | what it is | room |", "|---|---|---|"]
    lines += [f"| `{row.slug}` | {row.title} | {row.room} |" for row in every_row() if not row.built]
    return "\n".join(lines) + "\n"


def system_page(row: systems.System, repository: str = "") -> str:
    """Page of a system. Its source is a link where the repository has an address, and otherwise a folded listing."""
    entry: Any = row.load()
    text = inspect.getdoc(entry) or ""
    lines = [f"# {row.title}", "", (inspect.getmodule(entry).__doc__ or "").partition("\n\n")[0].strip(), ""]
    trains = inspect.isclass(entry) and issubclass(entry, Recipe)
    if trains:
        lines += ["```", f"diptych train {row.slug} --data emoji --out runs/{row.slug}", "```", ""]
    if papers := papers_of(text):
        lines += [f"Paper: {', '.join(f'[{address}]({address})' for address in papers[:1])}", ""]
    lines += ["## Claim", "", *claim_lines(row.slug), "", "## What it does", "", with_fields(text), ""]
    if trains:
        lines += field_tables(entry)
    lines += ["", "## Source", ""]
    if repository:
        file = inspect.getfile(inspect.getmodule(entry) or entry)
        path = Path(file).resolve().relative_to(ROOT)
        return "\n".join([*lines, f"[`{path}`]({repository.rstrip('/')}/blob/main/{path})"]) + "\n"
    lines += [
        f"::: {row.entry.replace(':', '.')}",
        "    options:",
        "      show_source: true",
        "      members: false",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",  # its address is in the API; a second one is ambiguous
        "      show_docstring_description: false",
    ]
    return "\n".join(lines) + "\n"


def field_tables(entry: type[Recipe]) -> list[str]:
    """Values of the published and the small preset: the recipe's own fields, and below a fold those that it inherits."""
    tiny, paper = entry.tiny(), entry.paper()
    named = [f.name for f in dataclasses.fields(entry) if not f.metadata.get("prepared")]
    own = [name for name in named if name in vars(entry).get("__annotations__", {})]
    head = ["| field | published (`--preset paper`) | small (`--preset tiny`) |", "|---|---|---|"]

    def rows_of(names: list[str]) -> list[str]:
        return [*head, *(f"| `{name}` | {value(paper, name)} | {value(tiny, name)} |" for name in names)]

    inherited = [name for name in named if name not in own]
    lines = ["## Fields", "", *(rows_of(own) if own else []), ""]
    if inherited:
        lines += [
            f'??? note "{len(inherited)} fields that it shares with other recipes"',
            "",
            *(f"    {line}" for line in rows_of(inherited)),
            "",
        ]
    return lines


def value(recipe: Any, name: str) -> str:
    return f"`{getattr(recipe, name)!r}`".replace("|", "\\|")


def claim_lines(slug: str) -> list[str]:
    if slug not in registry.slugs():
        return ["No claim is written for it yet."]
    found = rows(LEDGER, registry.of(slug))
    picture = [chart(found), ""] if any(row.entry for row in found) else []
    return [*picture, *(line for row in found for line in [*one_claim(row), ""])]


def chart(found: Sequence[Row]) -> str:
    """Forest plot of claims, in the layout that fits the screen."""
    return f'<div class="for-wide">{forest(found)}</div><div class="for-narrow">{forest(found, NARROW)}</div>'


def one_claim(row: Row) -> list[str]:
    claim = row.claim
    lines = [f"**{claim.sentence}** ({claim.kind}; {claim.source})", "", f"Refuted by: {claim.refuted}", ""]
    if row.entry is None:
        lines.append("Verdict: **not judged** by the present rules.")
    else:
        state = {"fresh": "", "changed": " Code that it reaches has changed since.", "stale": " Its code behaves otherwise now."}[
            row.state or "fresh"
        ]
        why = f" ({row.entry.why})" if row.entry.why else ""
        long = f" That is more than ten minutes of two cores: {claim.why_long}." if row.entry.cpu_seconds > LONG else ""
        lines += [f"Verdict: **{row.entry.verdict}**{why}. {numbers(row.entry)}{long}{state}", "", *sides(row.entry)]
    if row.remark:
        lines += ["", row.remark]
    return [*lines, *(item for line in row.before for item in ["", earlier(line)])]


def numbers(entry: Entry) -> str:
    low, high = entry.interval
    return (
        f"{entry.metric}: difference {entry.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {entry.p:.2g}, {len(entry.seeds)} seeds; "
        f"{entry.matters:g} would matter, within {entry.equivalence:g} counts as equal; {entry.data}; held equal: "
        f"{', '.join(name.replace('_', ' ') for name in entry.equal_budget)}; commit {entry.commit}, {entry.date}, "
        f"{entry.cpu_seconds / 60:.0f} processor minutes."
    )


def sides(entry: Entry) -> list[str]:
    """A table of arms and controls with what each had to spend."""
    head = ["arm", entry.metric, "rate", "steps", "samples", "trusted", "labelled", "trained", "processor s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    keys = ("steps", "samples", "trusted", "labelled", "trained_parameters", "cpu_seconds")

    def line(side: Side, note: str) -> str:
        values = side.scores[entry.metric]
        spent = [side.budget.get(key) for key in keys]
        cells = [f"{side.name}{note}", f"{sum(values) / len(values):.3f}", "" if side.rate is None else f"{side.rate:g}"]
        return "| " + " | ".join([*cells, *("" if value is None else f"{value:,.0f}" for value in spent)]) + " |"

    edges = {name: ", the lowest or highest tried" if found["at_edge"] else "" for name, found in entry.sweep.items()}
    arms = [line(side, edges.get(side.name, "")) for side in (entry.baseline, entry.method)]
    beside = [*((side, " (control)") for side in entry.every_control), *((side, " (bound)") for side in entry.bounds)]
    return [*lines, *arms, *(line(side, what) for side, what in beside)]


def earlier(line: Superseded) -> str:
    plain = line.line
    arms = f"{plain['method']['name']} against {plain['baseline']['name']}"
    return (
        f"Superseded, {plain['date']} (commit {plain['commit']}): {plain['verdict']}, {arms}, {plain['metric']} {plain['difference']:+.3f}. "
        f"Why it counts no more: {line.superseded}."
    )


def claims_index() -> str:
    found = rows(LEDGER, registry.every())
    lines = [
        "# Claims",
        "",
        "Every system is held against its own baseline at equal, measured budget, over several seeds, with controls beside it. What is claimed, "
        "the margins, the rates to sweep and the controls stand in a file before the first run ([claiming](../claiming.md)). *Shown* and "
        "*reversed* are two-sided t tests over seed-paired differences at .05 whose interval reaches what matters; *equal within the margin* is "
        "two one-sided tests; *open* is neither; *no verdict* says that a control is above the baseline or reaches both arms, "
        "[raw-input controls](raw-input.md) among them. Holm's correction is over all main claims, those "
        "without a verdict in the family too, and verdicts are counted after it.",
        "",
        "Try any of them on other seeds: `diptych claims run SLUG --seeds 201,202,203`.",
        "",
        chart(found),
        "",
        "| claim | kind | verdict | difference | p | Holm | by earlier rules |",
        "|---|---|---|---|---|---|---|",
    ]
    built = set(systems.slugs(built=True))
    for row in found:
        name = f"[`{row.claim.key}`](../systems/{row.claim.slug}.md)" if row.claim.slug in built else f"`{row.claim.key}`"
        before = ", ".join(f"{line.line['verdict']} (against {line.line['baseline']['name']})" for line in row.before)
        entry = row.entry
        if entry is None:
            lines.append(f"| {name} | {row.claim.kind} | not judged | | | | {before} |")
            continue
        low, high = entry.interval
        state = "" if row.state == "fresh" else f" ({row.state})"
        corrected = "" if row.p_holm != row.p_holm else f"{row.p_holm:.2g}"
        span = f"{entry.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {name} | {row.claim.kind} | {row.verdict}{state} | {span} | {entry.p:.2g} | {corrected} | {before} |")
    return "\n".join(lines) + "\n"


def raw_input_page() -> str:
    """Verdicts before and after raw-input controls, with their scores."""
    judged = [(row, row.entry) for row in rows(LEDGER, registry.every(), states=False) if row.entry]
    lines = [
        "# Raw-input controls",
        "",
        "The runner adds controls that train nothing to every claim whose cell they can stand in: ridge regression from 16 x 16 pixels to words and "
        "word pairs, the same to single words (a bag of words), the nearest training pictures with their words, and what is usual whatever the "
        "picture. They run on the rows and seeds of the verdict. A baseline that is below a control, or not above what is usual, gives no "
        "verdict ([rule](../claiming.md#controls)). Verdicts from before this rule were judged again from their own scores "
        "(`diptych claims judge`); *before* is what they were. Empty cells were not judged again yet.",
        "",
        "| claim | metric | baseline | method | ridge | bag of words | nearest picture | usual | before | now |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    unfit = []
    for row, entry in judged:
        mean = {side.name: sum(values) / len(values) for side in entry.sides if (values := side.scores.get(entry.metric))}
        cells = [f"{mean[name]:.3f}" if (name := f"{PREFIX}{method}") in mean else "" for method in METHODS]
        arms = [f"{mean[side.name]:.3f}" for side in (entry.baseline, entry.method)]
        words = [
            f"`{row.claim.key}`",
            entry.metric,
            *arms,
            *cells,
            entry.was or (entry.verdict if not entry.raw else ""),
            entry.verdict,
        ]
        lines.append("| " + " | ".join(words) + " |")
        unfit += [f"- `{row.claim.key}`: {reason}" for reason in dict.fromkeys(entry.raw_missing.values())]
    return "\n".join([*lines, "", "Where they do not fit, and why:", "", *unfit]) + "\n"


def decisions() -> list[Path]:
    return sorted((ROOT / "docs/decisions").glob("0*.md"))


def title_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def decisions_index() -> str:
    lines = ["# Decisions", "", "Where the plan was changed or a choice was measured, and why.", ""]
    return "\n".join([*lines, *(f"- [{title_of(path)}]({path.name})" for path in decisions())]) + "\n"


def api_index() -> str:
    rooms = [f"| [`diptych.{room}`](diptych.{room}.md) | {what} |" for room, what in ROOMS.items()]
    return "\n".join(["# API", "", "| room | what lives there |", "|---|---|", *rooms, "", "::: diptych.api", ""]) + "\n"


def api_page(room: str) -> str:
    folder = ROOT / "src/diptych" / room
    files = sorted(p.relative_to(folder).with_suffix("").parts for p in folder.rglob("*.py") if p.stem != "__init__")
    return "\n".join([f"# `diptych.{room}`", "", *(f"::: diptych.{room}.{'.'.join(parts)}\n" for parts in files)]) + "\n"
