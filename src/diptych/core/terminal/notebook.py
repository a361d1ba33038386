"""Results as HTML tables for notebooks and as DataFrames: rows of plain values."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from diptych.core.errors import MissingExtra
from diptych.core.terminal.control_characters import escape_controls

if TYPE_CHECKING:
    from diptych.core.sample import Sample

Row = Mapping[str, Any]
SHOWN = 12
"""Rows that a notebook shows of something long."""
SIDE = 96
"""Pixels of a thumbnail."""


def frame(rows: Sequence[Row]) -> Any:
    """A pandas DataFrame with a column a name, in the order in which names come up."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("pandas", "frames", needed_for="to_pandas()") from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pandas.DataFrame([dict(row) for row in rows], columns=names)


def table(rows: Sequence[Row], *, caption: str = "", raw: Sequence[str] = ()) -> str:
    """The rows as an HTML table. Values are escaped; only columns named in `raw` contain HTML."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ["".join(f"<td>{_cell(row.get(name, ''), name in raw)}</td>" for name in names) for row in rows]
    title = f"<caption>{escape(escape_controls(caption))}</caption>" if caption else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any, raw: bool) -> str:
    if raw:
        return str(value)
    return escape(escape_controls(f"{value:.3f}" if isinstance(value, float) else str(value)))


def thumbnail(source: Any) -> str:
    """An <img> of an image source that needs nothing else; empty for none, or for one that cannot be read."""
    from diptych.core.errors import DiptychError

    if source is None:
        return ""
    try:
        picture = source.pil()
    except DiptychError:
        return "<small>cannot be read</small>"
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt=""/>'


def facts(pairs: Mapping[str, Any], *, caption: str) -> str:
    """A table of two columns: what is described and its value, without the empty ones."""
    return table(
        [{"": name, "value": value} for name, value in pairs.items() if value not in ("", None, [], {}, ())], caption=caption
    )


def model_facts(model: Any, module: Any) -> str:
    """A table of what a model is: its name and kind, parameters, size of images, tokens of a text, width of a vector, device."""
    preprocess = getattr(model, "preprocess", None)
    parameters = list(module.parameters())
    described = {
        "kind": getattr(model, "kind", ""),
        "parameters": f"{sum(parameter.numel() for parameter in parameters):,}",
        "image pixels": getattr(preprocess, "size", ""),
        "text tokens": getattr(model, "text_length", ""),
        "embedding": getattr(module, "width", "") if hasattr(model, "embed_images") else "",
        "objects": ", ".join(list(getattr(model, "objects", ()))[:SHOWN]),
        "relations": ", ".join(list(getattr(model, "relations", ()))[:SHOWN]),
        "device": str(parameters[0].device) if parameters else "",
    }
    return facts(described, caption=f"{type(model).__name__} {getattr(model, 'name', '')}")


def curve(points: Sequence[tuple[float, float]], *, width: int = 240, height: int = 48) -> str:
    """An <svg> line through (x, y); empty for fewer than two points or values that are no numbers."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return ""
    left, low = finite[0][0], min(y for _, y in finite)
    across, up = (finite[-1][0] - left) or 1.0, (max(y for _, y in finite) - low) or 1.0
    path = " ".join(f"{(x - left) / across * width:.1f},{height - (y - low) / up * height:.1f}" for x, y in finite)
    line = f'<polyline points="{path}" fill="none" stroke="currentColor"/>'
    return f'<svg width="{width}" height="{height}" viewBox="-2 -2 {width + 4} {height + 4}" role="img">{line}</svg>'


def samples(some: Iterable[Sample], *, caption: str) -> str:
    """A table of samples for notebooks: picture, uid and the first texts."""
    rows = [
        {"": thumbnail(sample.image), "uid": sample.uid, "texts": " | ".join(text.string for text in sample.texts[:3])}
        for sample in some
    ]
    return table(rows, caption=caption, raw=("",))
