"""Detects personal data in texts by pattern: email addresses, phone numbers, credit card numbers, IBANs and IP addresses.

email        NAME@HOST.TLD
phone        an international number with + and 8 to 15 digits (E.164), or a North American one with its separators
credit_card  13 to 19 digits with a valid Luhn check digit (ISO/IEC 7812-1)
iban         an account number with valid check digits (ISO 13616, modulo 97)
ip           a public IPv4 address

Names and street addresses have no fixed pattern and are not detected. The column ``personal_data`` lists the kinds in each row
that has any; such rows are dropped, unless they are only marked or masked. Masked texts contain <EMAIL>, <PHONE>, <CREDIT_CARD>,
<IBAN> and <IP> instead of the data; the column ``masked_texts`` holds them, and the source keeps the originals. Numbers with
valid check digits are rarely false positives; phone numbers may be.

Cost: five regular expressions over every text.
"""

from __future__ import annotations

import ipaddress
import re
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import UnknownName
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.verdicts import BLOCK, ColumnByUid, DropTable, uids_without
from diptych.curate.text.texts import texts_of
from diptych.data.ragged import starts_of_runs
from diptych.data.subset import sorted_rows
from diptych.data.text.captions.variants import MASKED, MASKED_TEXT

TRIED = 2_000


def luhn(digits: str) -> bool:
    """True if the last digit is a valid Luhn check digit; other characters are ignored.

    >>> luhn("4111 1111 1111 1111"), luhn("4111 1111 1111 1112")
    (True, False)
    """
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    doubled = [sum(divmod(2 * number, 10)) if position % 2 else number for position, number in enumerate(numbers)]
    return len(set(numbers)) > 1 and sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """True for an international bank account number (IBAN) with valid check digits, with or without spaces.

    >>> iban("GB82 WEST 1234 5698 7654 32"), iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    plain = text.replace(" ", "").upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def public_ip(text: str) -> bool:
    """True for an IPv4 address of the public Internet."""
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


def _always(_: str) -> bool:
    return True


PATTERNS: Mapping[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"[\w.%+-]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}\b", re.IGNORECASE | re.ASCII), _always),
    "phone": (
        re.compile(r"(?<![\w+.])(?:\+[1-9](?:[ ().-]{0,2}\d){7,14}|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4})(?!\w)", re.ASCII),
        _always,
    ),
    "credit_card": (re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])", re.ASCII), luhn),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", re.ASCII), iban),
    "ip": (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)", re.ASCII), public_ip),
}
KINDS = tuple(PATTERNS)


def personal_data_in(text: str, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """Kinds of personal data that a text contains, in the order of `kinds`."""
    return [kind for kind in kinds if any(PATTERNS[kind][1](match.group()) for match in PATTERNS[kind][0].finditer(text))]


def mask_personal_data(text: str, kinds: tuple[str, ...] = KINDS) -> str:
    """Replaces personal data by its kind; where matches overlap, the kind of the first one replaces all.

    >>> mask_personal_data("ask jo@example.org or 555-123-4567")
    'ask <EMAIL> or <PHONE>'
    """
    spans = sorted(
        (match.start(), -match.end(), kind)
        for kind in kinds
        for match in PATTERNS[kind][0].finditer(text)
        if PATTERNS[kind][1](match.group())
    )
    parts, end = [], 0
    for start, minus_end, kind in spans:
        if start >= end:
            parts += [text[end:start], f"<{kind.upper()}>"]
        end = max(end, -minus_end)
    return "".join([*parts, text[end:]])


@dataclass(frozen=True)
class PersonalData:
    """kinds      kinds of data to search for: email, phone, credit_card, iban, ip
    mark_only  keep the rows, and only write the column
    mask       keep the rows, and replace the data in their texts (negatives included) by the kind (<EMAIL>)
    """

    slug: ClassVar[str] = "personal_data"

    kinds: tuple[str, ...] = KINDS
    mark_only: bool = False
    mask: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UnknownName("kind of personal data", kind, KINDS)

    def plan(self, data: Dataset) -> dict[str, Any]:
        texts = texts_of(data)["string"]
        tried = texts.take(pa.array(range(0, len(texts), max(1, len(texts) // TRIED)), pa.int64())).to_pylist()
        start = time.perf_counter()
        for text in tried:
            personal_data_in(text, self.kinds)
        each = (time.perf_counter() - start) / max(1, len(tried))
        return {"items": len(texts), "unit": "text", "seconds_each": each, "seconds": each * len(texts)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        kinds = self._kinds(data)
        dropped = kinds["uid"].slice(0, 0 if self.mark_only or self.mask else len(kinds))
        reasons = pc.binary_join_element_wise(
            pc.list_element(kinds["personal_data"], 0).slice(0, len(dropped)), "in its text", " "
        )
        columns: dict[str, Any] = {"personal_data": ColumnByUid(kinds)} if len(kinds) else {}
        if self.mask and (masked := self._masked_texts(data)).num_rows:
            columns[MASKED] = masked
        drops = DropTable.of_step(self.slug, dropped, reasons)
        return CurationStepResult(uids_without(data, dropped), drops, columns, time.perf_counter() - start)

    def _kinds(self, data: Dataset) -> pa.Table:
        """Kinds of personal data of each row that has any, in order of uid and of its texts: columns "uid" and "personal_data"."""
        texts = texts_of(data).select(["uid", "string"])
        matches = array("q")  # text and kind, as one number
        for start in with_bar(range(0, texts.num_rows, BLOCK), -(-texts.num_rows // BLOCK), "reading texts", least=16):
            for position, text in enumerate(texts["string"].slice(start, BLOCK).to_pylist(), start):
                matches.extend(position * len(KINDS) + KINDS.index(kind) for kind in personal_data_in(text, self.kinds))
        text_K, kind_K = np.divmod(np.array(matches, np.int64), len(KINDS))
        owner_K = np.cumsum(starts_of_runs(texts["uid"]))[text_K]
        first_K = np.sort(np.unique(owner_K * len(KINDS) + kind_K, return_index=True)[1])  # a kind once a row
        offset = np.unique(owner_K[first_K], return_index=True)[1]
        names = pa.array(KINDS).take(pa.array(kind_K[first_K]))
        lists = pa.ListArray.from_arrays(pa.array([*offset, len(first_K)], pa.int32()), names)
        uids = texts["uid"].take(pa.array(text_K[first_K][offset], pa.int64())).cast(pa.string())
        return pa.table({"uid": uids, "personal_data": lists})

    def _masked_texts(self, data: Dataset) -> pa.Table:
        """All texts of each row with at least one masked text: columns "uid" and "masked_texts"."""
        schema = pa.schema([("uid", pa.string()), (MASKED, pa.list_(MASKED_TEXT))])
        blocks = [schema.empty_table()]
        rows = sorted_rows(data)
        for start in range(0, len(rows), BLOCK):
            block: dict[str, list[dict[str, str]]] = {}
            for sample in map(data.__getitem__, rows[start : start + BLOCK].tolist()):
                masked = [mask_personal_data(text.string, self.kinds) for text in sample.texts]
                if masked != [text.string for text in sample.texts]:
                    both = zip(sample.texts, masked, strict=True)
                    block[sample.uid] = [{"string": new, "language": old.language, "origin": old.origin} for old, new in both]
            blocks.append(
                pa.table([pa.array(list(block), pa.string()), pa.array(list(block.values()), schema.types[1])], schema=schema)
            )
        return pa.concat_tables(blocks)
