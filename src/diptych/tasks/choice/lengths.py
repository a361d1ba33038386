r"""Parsing of lengths in replies, in centimetres: ``\scalar{1.5} \distance_unit{meters}``, as Q-Spatial Bench asks for them."""

from __future__ import annotations

import re

CENTIMETRES = {
    "mm": 0.1, "cm": 1.0, "dm": 10.0, "m": 100.0, "km": 100_000.0, "in": 2.54, "ft": 30.48, "yd": 91.44, "mi": 160_934.4,
}  # fmt: skip
NAMES = {
    "mm": "mm millimeter millimetre", "cm": "cm cms centimeter centimetre", "dm": "dm decimeter decimetre", "m": "m meter metre",
    "km": "km kilometer kilometre", "in": "in inch inches ″ \"", "ft": "ft foot feet ′ '", "yd": "yd yard", "mi": "mi mile",
}  # fmt: skip
UNITS = {name: CENTIMETRES[unit] for unit, names in NAMES.items() for name in names.split()}
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
QUANTITY = rf"(?:(?P<whole>\d+)\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)|(?P<number>{NUMBER})"
BRACED = r"\s*{{\s*((?:[^{{}}]|{{[^{{}}]*}})*)}}"


def centimetres(value: float, unit: str) -> float | None:
    """Length in centimetres; None for an unknown unit.

    >>> centimetres(1.5, "meters"), centimetres(2, "furlong")
    (150.0, None)
    """
    factor = unit_of(unit)
    return None if factor is None else value * factor


def unit_of(text: str) -> float | None:
    r"""Centimetres in a unit, in any of its spellings.

    >>> tuple(unit_of(text) for text in (" m ", r"\text{meters}", "Feet.", "meter(s)", "wide"))
    (100.0, 100.0, 30.48, 100.0, None)
    """
    bare = re.sub(r"\\(?:text|mathrm|textrm)\s*\{([^}]*)\}", r"\1", text).replace("(s)", "").strip(" .,;*\\{}\t\n").lower()
    return UNITS.get(bare, UNITS.get(bare.removesuffix("s")))


def strict(reply: str) -> float | None:
    r"""Length at the end of a reply, in centimetres; None if it has none that can be read.

    Read are thousands separators (1,200), a leading point (.5), powers (1e2), fractions (1 1/2), ranges (their middle), and
    units beside the number ("5 ft 4 in"), which go before the unit in braces. A negative length, a unit that is not known and
    "1,5", which may be two things, are not read.

    >>> strict(r"\scalar{5 ft 4 in} \distance_unit{feet}"), strict(r"\scalar{2-3} \distance_unit{yards}")
    (162.56, 228.6)
    """
    scalars, units = (re.findall(name + BRACED.format(), reply) for name in ("scalar", "distance_unit"))
    if not scalars:
        return None
    unit = units[-1] if units else ""
    return _length(scalars[-1], unit_of(unit))


def _length(text: str, unit: float | None) -> float | None:
    bare = re.sub(r"\\(?:text|mathrm|textrm)\s*\{([^}]*)\}", r"\1", text).replace("\\,", "").replace("\\", " ").strip()
    bare = re.sub(r"^(?:about|around|approximately|approx\.?|roughly|~|≈|\$)+\s*", "", bare, flags=re.IGNORECASE).strip(" $~≈")
    ends = re.split(r"(?<=[\w.\"'″′])\s*(?:-|–|—|to|and)\s*(?=[\d.])", bare)
    if len(ends) == 2:
        last = _sum_of_quantities(ends[1], unit)
        first = _sum_of_quantities(ends[0], _own_unit(ends[1]) or unit)
        return None if first is None or last is None else round((first + last) / 2, 10)
    return _sum_of_quantities(bare, unit)


def _sum_of_quantities(text: str, unit: float | None) -> float | None:
    """Sum of quantities, each with its unit, or one quantity in `unit`."""
    total, position = 0.0, 0
    pieces = list(re.finditer(rf"(?:{QUANTITY})\s*([a-zA-Z″′\"']*)\s*,?\s*", text))
    if not pieces:
        return None
    for piece in pieces:
        if piece.start() != position:
            return None
        position = piece.end()
        factor = unit_of(piece[5]) if piece[5] else (unit if len(pieces) == 1 else None)
        if factor is None:
            return None
        if piece["number"]:
            value = float(piece["number"].replace(",", ""))
        elif int(piece["bottom"]):
            value = int(piece["whole"] or 0) + int(piece["top"]) / int(piece["bottom"])
        else:
            return None
        total += value * factor
    return round(total, 10) if position == len(text) else None


def _own_unit(text: str) -> float | None:
    match = re.search(r"([a-zA-Z″′\"']+)\s*$", text)
    return unit_of(match[1]) if match else None


def released_length(reply: str) -> float | None:
    """As Q-Spatial Bench reads it (2409.09788): the mean of all digits with points in the last braces, so that "1,200" is
    100.5, "1e2" is 1.5 and "-2" is 2; any unit that is not on its list, " m " and yards among them, counts as centimetres. NaN
    for braces without a number; None if its code raises, for want of either pair of braces.

    >>> released_length("scalar{1,200} distance_unit{yards}")
    100.5
    """
    scalars, units = (re.findall(name + r"{([^}]*)}", reply) for name in ("scalar", "distance_unit"))
    if not scalars or not units:
        return None
    numbers = [float(one) for one in re.findall(r"\d+\.?\d*", scalars[-1])]
    units_of_factor = {
        100.0: ("meters", "meter", "m", "metre", "metres"), 1.0: ("centimeters", "centimeter", "cm"), 30.48: ("feet", "foot",
        "ft"),
        2.54: ("inch", "inches", "in"), 0.1: ("mm",),
    }  # fmt: skip
    factor = next((factor for factor, names in units_of_factor.items() if units[-1].lower() in names), 1.0)
    return sum(numbers) / len(numbers) * factor if numbers else float("nan")


PARSERS = {"": strict, "released": released_length}
