"""Frame and building blocks of every page. Blocks return HTML; text from data is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from diptych.report.escape import escape


@dataclass(frozen=True, slots=True)
class Section:
    """Section of a page: a title for the navigation and its blocks."""

    title: str
    blocks: tuple[str, ...]

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def page(title: str, lead: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """HTML document. Sections without blocks are left out."""
    sections = [s for s in sections if any(s.blocks)]
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    body = "".join(f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{"".join(s.blocks)}</section>' for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style()}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>'
        f"<nav><div>{links}</div></nav><main>{body}</main><footer>{escape(footer)}</footer></body></html>\n"
    )


@cache
def style() -> str:
    """Style sheet that every page carries inside."""
    return (resources.files("diptych.report") / "style.css").read_text(encoding="utf-8")


def text(words: str, *, note: bool = False) -> str:
    """Paragraph; a note is small and grey."""
    return f'<p class="note">{escape(words)}</p>' if note else f"<p>{escape(words)}</p>"


def heading(words: str) -> str:
    """Heading within a section."""
    return f"<h3>{escape(words)}</h3>"


def lines(items: Iterable[str], *, warn: bool = False) -> str:
    """Short lines, one below the other; warnings are coloured."""
    mark = ' class="warn"' if warn else ""
    return "<ul>" + "".join(f"<li{mark}>{escape(item)}</li>" for item in items) + "</ul>"


MANY = 4
"""Columns from which on a table is stacked on a phone."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Table; a column whose every cell is a number, or a number with an interval, is set to the right.

    One of many columns is too wide for a phone: there each row stands as a block of its own, a line a cell, named by its column.
    """
    body = [[_cell(value) for value in row] for row in rows]
    if not body:
        return ""
    right = [all(_numeric(row[i]) for row in body) for i in range(len(head))]

    many = len(head) >= MANY

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="n"' if right[i] else "" for i in range(len(cells))]
        if many and tag == "td":
            marks = [f'{mark} data-head="{escape(name)}"' for mark, name in zip(marks, head, strict=True)]
        return "<tr>" + "".join(f"<{tag}{m}>{escape(c)}</{tag}>" for m, c in zip(marks, cells, strict=True)) + "</tr>"

    kind = ' class="stack"' if many else ""
    return f'<div class="wide"><table{kind}>{line("th", head)}{"".join(line("td", row) for row in body)}</table></div>'


def cards(items: Iterable[tuple[str, str]]) -> str:
    """Large numbers with captions, from (number, what it is) pairs."""
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in items)
        + "</div>"
    )


def figure(picture: str, caption: str = "", *, right: bool = False) -> str:
    """Picture (a data URI from `pictures`) with a caption; `right` marks the right answer."""
    mark = ' class="right"' if right else ""
    return f'<figure{mark}><img src="{escape(picture)}" alt="{escape(caption)}">{escape(caption)}</figure>'


def sheet(figures: Iterable[str], *, large: bool = False) -> str:
    """Grid of figures, as many beside each other as the page is wide; large ones are 480 pixels wide at most, others 120."""
    return f'<div class="sheet{" large" if large else ""}">' + "".join(figures) + "</div>"


def query_row(query: str, note: str, figures: Iterable[str]) -> str:
    """Query at the left, its results at the right."""
    return f'<div class="row"><div><q>{escape(query)}</q><br><span class="note">{escape(note)}</span></div>{sheet(figures)}</div>'


def folded(summary: str, content: str) -> str:
    """Plain text behind a click: configuration, environment."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(content)}</pre></details>"


def folded_blocks(summary: str, blocks: Iterable[str]) -> str:
    """Blocks behind a click."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(blocks)}</details>"


def definitions(values: Mapping[str, Any]) -> str:
    """Table of names and values without a head."""
    return table(("", ""), [(k, v) for k, v in values.items()])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _numeric(cell: str) -> bool:
    return cell in ("", "–") or cell.replace("−", "-").lstrip("+-")[:1].isdigit()
