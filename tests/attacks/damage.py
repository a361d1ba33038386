"""Valid files, damaged: bytes that flip, JSON whose values are something else, tables and tars that lie. For tests that fuzz readers.

`damaged(data, name, content)` draws one damage that fits the ending of the file. All of it is what a broken disk, a careless writer or an
attacker can put there; none of it is random noise alone, which readers refuse at their first byte.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Draw = Any  # hypothesis' DataObject

DEEP = "[" * 3000 + "]" * 3000
RAW = (
    "null", "true", "-1", "0", "1e308", "-1e999", "NaN", "Infinity", "1" * 5000, "0.5", str(2**63), str(-(2**64)), '""', '"\\u0000"',
    '"\\ud800"', '"../../../../etc/passwd"', '"/etc/passwd"', '"' + "a" * 10_000 + '"', '"\\u202egpj.exe\\u001b[2J"', "[]", "{}", "[[]]",
    '[null,"x",3]', '{"a":{"a":null}}', DEEP, '{"a":' * 500 + "1" + "}" * 500, '"1\\n"', '"http://127.0.0.1:9/x.jpg"',
)  # fmt: skip
"""What may stand in place of any JSON value, as text, since some of it Python would not write."""
CELLS = (
    "", " ", "\0", "a" * 10_000, "1" * 5000, "../../../../etc/passwd", "/etc/passwd", '"', '"\n"', "\n", ",,,", "\u202e\x1b[2J", "nan",
    "-1", "1e999", "[", DEEP, "http://127.0.0.1:9/x.jpg", "caf\xe9", "file:///etc/passwd",
)  # fmt: skip
NAMES = (
    "", ".", "..", "../x.jpg", "/etc/x.jpg", "a\0b.jpg", "x" * 300 + ".jpg", "\udcff.jpg", "a/b/c/d.jpg", ".jpg", "x.", "x.json", "x.txt",
    "x.jpg", "x.tar", "\n.jpg", "./x.jpg", "a\\b.jpg",
)  # fmt: skip
MARK = "\u2603 the value to replace \u2603"


def damaged(draw: Draw, name: str, content: bytes) -> bytes:
    """One damage of a file of that name."""
    ending = name.rpartition(".")[2].lower()
    ways: list[Any] = [_bytes]
    if ending in ("json", "jsonl", "geojson"):
        ways = [_json, _json, _json, _bytes]
    elif ending == "parquet":
        ways = [_parquet, _parquet, _parquet, _bytes]
    elif ending in ("csv", "tsv", "txt"):
        ways = [_cells, _cells, _bytes]
    elif ending == "tar":
        ways = [_tar, _tar, _bytes]
    elif ending in ("yaml", "yml"):
        ways = [_yaml, _bytes]
    elif ending == "safetensors":
        ways = [_safetensors, _bytes]
    return draw.draw(st.sampled_from(ways), "way")(draw, name, content)


def _bytes(draw: Draw, name: str, content: bytes) -> bytes:
    size = len(content)
    at, to = sorted(draw.draw(st.tuples(st.integers(0, size), st.integers(0, size)), "span"))
    kind = draw.draw(st.sampled_from(["cut", "flip", "remove", "repeat", "insert", "zero", "empty"]), "kind")
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        found = bytearray(content)
        for place in draw.draw(st.lists(st.integers(0, max(0, size - 1)), max_size=8), "places"):
            if size:
                found[place] ^= draw.draw(st.sampled_from([1, 2, 16, 128, 255]), "bit")
        return bytes(found)
    if kind == "remove":
        return content[:at] + content[to:]
    if kind == "repeat":
        return content[:to] + content[at:to] + content[to:]
    if kind == "insert":
        return (
            content[:at]
            + draw.draw(st.sampled_from([b"\0", b"\xff\xfe", b"\n\n", b'"', b"{", b"]" * 9, b"\x80" * 40]))
            + content[at:]
        )
    if kind == "zero":
        return content[:at] + bytes(to - at) + content[to:]
    return b""


def _json(draw: Draw, name: str, content: bytes) -> bytes:
    """One value, or one key, of one line."""
    lines = content.decode().splitlines() if name.endswith("jsonl") else [content.decode()]
    line = draw.draw(st.integers(0, len(lines) - 1), "line") if lines else 0
    try:
        whole = json.loads(lines[line])
    except (IndexError, ValueError):
        return _bytes(draw, name, content)
    places = list(_places(whole, ()))
    place = draw.draw(st.sampled_from(places), "place")
    raw = draw.draw(st.sampled_from(RAW), "value")
    if not place:
        lines[line] = raw
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    holder = whole
    for key in place[:-1]:
        holder = holder[key]
    kind = draw.draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "twice"]), "kind")
    if kind == "remove":
        del holder[place[-1]]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw.draw(st.sampled_from(["", "\0", "id", "uid", "__class__", "file_name", "x" * 5000]))] = holder.pop(place[-1])
    elif kind == "twice" and isinstance(holder, list):
        holder.append(holder[place[-1]])
    else:
        holder[place[-1]] = MARK
    lines[line] = json.dumps(whole).replace(json.dumps(MARK), raw)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _yaml(draw: Draw, name: str, content: bytes) -> bytes:
    lines = content.decode().splitlines()
    at = draw.draw(st.integers(0, len(lines) - 1), "line")
    key, colon, _ = lines[at].partition(":")
    value = draw.draw(
        st.sampled_from([*RAW, "!!python/object/apply:os.system ['true']", "&a [*a]", "*b", "- x", "\t", "!!binary x"])
    )
    lines[at] = f"{key}{colon} {value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _cells(draw: Draw, name: str, content: bytes) -> bytes:
    """One cell; of a text file, the whole of it."""
    value = draw.draw(st.sampled_from(CELLS), "value")
    encoded = value.encode("latin-1" if value == "caf\xe9" else "utf-8", "surrogatepass")
    if name.endswith("txt"):
        return encoded
    mark, separator = MARK, "\t" if name.endswith("tsv") else ","
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=separator))
    row = draw.draw(st.integers(0, len(rows) - 1), "row")
    cell = draw.draw(st.integers(0, max(0, len(rows[row]) - 1)), "cell")
    kind = draw.draw(st.sampled_from(["replace", "replace", "remove", "more"]), "kind")
    if kind == "remove":
        rows[row] = rows[row][:cell]
    elif kind == "more":
        rows[row] += ["x"] * 5
    elif rows[row]:
        rows[row][cell] = mark
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    quoted = encoded if draw.draw(st.booleans(), "bare") else b'"' + encoded.replace(b'"', b'""') + b'"'
    return text.getvalue().encode().replace(mark.encode(), quoted)


def _parquet(draw: Draw, name: str, content: bytes) -> bytes:
    """A column of another type, with values of the kind that readers trip over, or without its name."""
    table = pq.read_table(io.BytesIO(content))
    if not table.num_columns:
        return _bytes(draw, name, content)
    column = draw.draw(st.integers(0, table.num_columns - 1), "column")
    count, field = table.num_rows, table.column_names[column]
    values: list[Any] = table.column(column).to_pylist()
    kind = draw.draw(st.sampled_from(["nulls", "ints", "big", "floats", "bytes", "bad utf8", "lists", "structs", "strings", "one",
                                      "dates", "dictionary", "remove", "rename", "twice", "rows", "none"]), "kind")  # fmt: skip
    if kind == "remove":
        table = table.remove_column(column)
    elif kind == "rename":
        names = table.column_names
        names[column] = draw.draw(st.sampled_from(["", "uid", "x" * 500, "caption", "\0"]))
        table = table.rename_columns(names)
    elif kind == "twice":
        table = table.append_column(field, table.column(column))
    elif kind == "rows":
        table = pa.concat_tables([table, table])
    elif kind == "none":
        table = table.slice(0, 0)
    else:
        row = draw.draw(st.integers(0, max(0, count - 1)), "row")
        made = {
            "nulls": lambda: pa.array([None] * count, table.schema.field(column).type),
            "ints": lambda: pa.array([-(2**63)] * count),
            "big": lambda: pa.array([2**64 - 1] * count, pa.uint64()),
            "floats": lambda: pa.array([float("nan")] * count),
            "bytes": lambda: pa.array([b"\xff\xfe\0"] * count),
            "bad utf8": lambda: pa.Array.from_buffers(pa.string(), count, pa.array([b"\xff\xc3"] * count, pa.binary()).buffers()),
            "lists": lambda: pa.array([[["a"], []]] * count),
            "structs": lambda: pa.array([{"bytes": None, "path": 3}] * count),
            "strings": lambda: pa.array([draw.draw(st.sampled_from(CELLS), "cell")] * count, pa.string()),
            "dates": lambda: pa.array([10**15] * count, pa.timestamp("us")),
            "dictionary": lambda: pa.array(["a"] * count).dictionary_encode(),
            "one": lambda: _one(values, row, table.schema.field(column).type, draw),
        }[kind]()
        table = table.set_column(column, field, made)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _one(values: list[Any], row: int, kind: pa.DataType, draw: Draw) -> pa.Array:
    """One value of the right type that is absurd."""
    odd: Any = None
    if pa.types.is_integer(kind):
        odd = draw.draw(st.sampled_from([-1, 0, 127, 2**31 - 1, 2**63 - 1]), "odd")
    elif pa.types.is_floating(kind):
        odd = draw.draw(st.sampled_from([float("nan"), float("inf"), -1.0]), "odd")
    elif pa.types.is_string(kind):
        odd = draw.draw(st.sampled_from(CELLS), "odd")
    elif pa.types.is_binary(kind):
        odd = draw.draw(st.sampled_from([b"", b"\0" * 99, b"\xff\xd8\xff"]), "odd")
    values = [odd if place == row else value for place, value in enumerate(values)]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        return pa.array([None] * len(values), kind)


def _tar(draw: Draw, name: str, content: bytes) -> bytes:
    """A member of another name, kind or size."""
    kinds = [
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    ]
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        members = [(member, source.extractfile(member).read() if member.isfile() else b"") for member in source.getmembers()]  # type: ignore[union-attr]
    at = draw.draw(st.integers(0, max(0, len(members) - 1)), "member")
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=draw.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    ) as target:
        for place, (member, data) in enumerate(members):
            if place == at:
                kind = draw.draw(st.sampled_from(["name", "name", "type", "data", "twice", "meta"]), "kind")
                if kind == "name":
                    member.name = draw.draw(st.sampled_from(NAMES), "name")
                elif kind == "type":
                    member.type = draw.draw(st.sampled_from(kinds), "type")
                    member.linkname = draw.draw(st.sampled_from(["/etc/passwd", "../x", member.name, ""]), "link")
                elif kind == "data":
                    data = damaged(draw, member.name, data)
                elif kind == "meta":
                    member.pax_headers = {
                        "path": draw.draw(st.sampled_from(["../x.jpg", "a" * 5000, "x\ny"])),
                        "size": "99999999999",
                    }
                else:
                    _add(target, member, data)
            _add(target, member, data)
    return out.getvalue()


def _add(target: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
    member.size = len(data) if member.isreg() else 0
    with suppress(ValueError, UnicodeError, OverflowError):  # what tarfile cannot write
        target.addfile(member, io.BytesIO(data) if member.isreg() else None)


def _safetensors(draw: Draw, name: str, content: bytes) -> bytes:
    """A header that says something else."""
    size = int.from_bytes(content[:8], "little")
    head = _json(draw, "head.json", content[8 : 8 + size])
    told = draw.draw(st.sampled_from([len(head), len(head), 0, 2**63, len(head) + 9]), "told")
    return told.to_bytes(8, "little") + head + content[8 + size :]
