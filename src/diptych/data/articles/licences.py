"""Licences of articles, from an address or from words, under the short names of PubMed Central's file lists."""

from __future__ import annotations

import re
from typing import Literal

Use = Literal["commercial", "non-commercial", "unknown"]

_ADDRESS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)|publicdomain/(zero|mark))(?:/(\d\.\d))?", re.IGNORECASE)
_ATTRIBUTION = re.compile(
    r"creative\s+commons[\s,:-]+attribution"
    r"((?:[\s,:-]+(?:non[\s-]?commercial|no[\s-]?deriv\w*|share[\s-]?alike))*)",
    re.IGNORECASE,
)
_CODE = re.compile(r"\bCC[\s-]+BY((?:-(?:NC|ND|SA))*)\b(?:[\s-]+(\d\.\d))?")
_PARTS = (("NC", "non"), ("SA", "share"), ("ND", "deriv"))


def licence_of(address: str, words: str) -> str:
    """Licence such as "CC BY-NC 3.0", "CC0" or "public domain"; "" for none that is known.

    address  of the licence element
    words    of licence and copyright statement, read where the address says nothing

    >>> licence_of("http://creativecommons.org/licenses/by-nc/3.0", ""), licence_of("", "the Creative Commons Attribution License")
    ('CC BY-NC 3.0', 'CC BY')
    """
    for text in (address, words):
        if match := _ADDRESS.search(text):
            kind, dedication, version = match.groups()
            if dedication:
                return "CC0" if dedication.lower() == "zero" else "public domain"
            return f"CC {kind.upper()}" + (f" {version}" if version else "")
    if match := _CODE.search(words):
        return f"CC BY{match[1]}" + (f" {match[2]}" if match[2] else "")
    if match := _ATTRIBUTION.search(words):
        terms = match[1].lower()
        return "CC BY" + "".join(f"-{code}" for code, word in _PARTS if word in terms)
    return "public domain" if re.search(r"\bpublic domain\b", words, re.IGNORECASE) else ""


def use_of(licence: str) -> Use:
    """Use that a licence allows: commercial, non-commercial, or unknown for another one or none.

    >>> use_of("CC BY 4.0"), use_of("CC BY-NC 3.0"), use_of("")
    ('commercial', 'non-commercial', 'unknown')
    """
    if licence in ("CC0", "public domain"):
        return "commercial"
    if not licence.startswith("CC BY"):
        return "unknown"
    return "non-commercial" if "-NC" in licence else "commercial"
