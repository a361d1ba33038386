"""Pages that mkdocs generates while it builds: systems, claims, API, decisions. Nothing of them is kept in the repository."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from docs_fields import with_fields
from docs_guide import guide
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from diptych.claims import ledger, registry
from diptych.claims.claim import Claim
from diptych.claims.remarks import REMARKS
from diptych.core import systems
from diptych.core.contracts import Recipe

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs/claims/ledger.jsonl"
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
    config.nav = [
        {title: [page, *sections[page]] if isinstance(page, str) and page in sections else page for title, page in entry.items()}
        for entry in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"systems/index.md": systems_index(), "claims/index.md": claims_index(), "decisions/index.md": decisions_index()}
    pages |= {f"systems/{row.slug}.md": system_page(row) for row in every_row() if row.built}
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
        "*work*: their file composes the mechanism, their checks pass, and the ledger holds a verdict. The rest is a plan, and named as such.",
        "",
        "## Built",
        "",
        "| system | what it is | room | state | what is missing |",
        "|---|---|---|---|---|",
    ]
    for row in every_row():
        if row.built:
            state = "works" if row.works else "built"
            lines.append(f"| [`{row.slug}`]({row.slug}.md) | {row.title} | {row.room} | {state} | {', '.join(row.missing)} |")
    lines += ["", "## Planned", "", "| system | what it is | room |", "|---|---|---|"]
    lines += [f"| `{row.slug}` | {row.title} | {row.room} |" for row in every_row() if not row.built]
    return "\n".join(lines) + "\n"


def system_page(row: systems.System) -> str:
    entry: Any = row.load()
    lines = [f"# {row.title}", "", with_fields(inspect.getdoc(entry) or ""), ""]
    if inspect.isclass(entry) and issubclass(entry, Recipe):
        tiny, paper = entry.tiny(), entry.paper()
        lines += ["```", f"diptych train {row.slug} --data emoji --out runs/{row.slug}", "```", "", "## Fields", ""]
        lines += ["| field | published (`--preset paper`) | small (`--preset tiny`) |", "|---|---|---|"]
        lines += [
            f"| `{f.name}` | {value(paper, f.name)} | {value(tiny, f.name)} |"
            for f in dataclasses.fields(entry)
            if not f.metadata.get("prepared")
        ]
    lines += [
        "",
        "## Claim",
        "",
        *claim_lines(row.slug),
        "",
        "## Source",
        "",
        f"::: {row.entry.replace(':', '.')}",
        "    options:",
    ]
    lines += [
        "      show_source: true",
        "      members: false",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",  # its address is in the API; a second one is ambiguous
        "      show_docstring_description: false",
    ]
    return "\n".join(lines) + "\n"


def value(recipe: Any, name: str) -> str:
    return f"`{getattr(recipe, name)!r}`".replace("|", "\\|")


def claim_lines(slug: str) -> list[str]:
    if slug not in registry.slugs():
        return ["No claim is written for it yet."]
    return [line for claim in registry.of(slug) for line in [*one_claim(claim), ""]]


def one_claim(claim: Claim) -> list[str]:
    line = ledger.latest(LEDGER, claim.key)
    lines = [f"**{claim.sentence}** ({claim.source})", "", f"Refuted by: {claim.refuted}", ""]
    if line is None:
        return [*lines, "It was not run yet."]
    stale = " The sources have changed since, so this line is stale." if line.source_hash != claim.source_hash() else ""
    remark = ["", REMARKS[claim.key]] if claim.key in REMARKS else []
    return [*lines, f"Verdict: **{line.verdict}**. {numbers(line)}{stale}", *remark]


def numbers(line: ledger.Entry) -> str:
    base, method = (side["scores"][line.metric] for side in (line.baseline, line.method))
    low, high = line.interval
    return (
        f"{line.metric}: {line.method['name']} {sum(method) / len(method):.3f}, {line.baseline['name']} {sum(base) / len(base):.3f}, "
        f"difference {line.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {line.p:.2g}, {len(line.seeds)} seeds, {line.data}, {line.budget}; "
        f"commit {line.commit}, {line.date}, {line.machine.get('cores')} cores, {line.seconds / 60:.0f} minutes."
    )


def claims_index() -> str:
    lines = [
        "# Claims",
        "",
        "Every system is compared with its own baseline at equal budget, over several seeds. What is claimed, the metric and its direction stand in a "
        "file before the first run; the verdict is a two-sided t test over seed-paired differences at .05. What does not show is written down as "
        "*not shown*.",
        "",
        "Run any of them again: `diptych claims run SLUG --seeds 201,202,203 --dry`.",
        "",
    ]
    for slug in registry.slugs():
        built = slug in systems.slugs(built=True)
        lines += [f"## [`{slug}`](../systems/{slug}.md)" if built else f"## `{slug}`", "", *claim_lines(slug), ""]
    return "\n".join(lines) + "\n"


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
