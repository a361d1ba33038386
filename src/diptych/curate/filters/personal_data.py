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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import UnknownName
from diptych.core.terminal.progress import with_bar
from diptych.curate.text.texts import texts_of
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
        texts = texts_of(data).select(["uid", "string"])
        kinds: dict[str, list[str]] = {}
        for batch in with_bar(texts.to_batches(max_chunksize=65_536), -(-texts.num_rows // 65_536), "reading texts", least=4):
            for uid, text in zip(batch["uid"].to_pylist(), batch["string"].to_pylist(), strict=True):
                for kind in personal_data_in(text, self.kinds):
                    if kind not in kinds.setdefault(uid, []):
                        kinds[uid].append(kind)
        stay = self.mark_only or self.mask
        dropped = () if stay else tuple(Drop(uid, self.slug, f"{kinds[uid][0]} in its text") for uid in sorted(kinds))
        kept = tuple(uid for uid in sorted(data.uids) if stay or uid not in kinds)
        columns: dict[str, Any] = {"personal_data": kinds} if kinds else {}
        if self.mask and (masked := self._masked_texts(data)).num_rows:
            columns[MASKED] = masked
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _masked_texts(self, data: Dataset) -> pa.Table:
        """All texts of each row with at least one masked text: columns "uid" and "masked_texts"."""
        rows: dict[str, list[dict[str, str]]] = {}
        for row, uid in enumerate(data.uids):
            texts = data[row].texts
            masked = [mask_personal_data(text.string, self.kinds) for text in texts]
            if masked != [text.string for text in texts]:
                both = zip(texts, masked, strict=True)
                rows[uid] = [{"string": new, "language": old.language, "origin": old.origin} for old, new in both]
        uids = sorted(rows)
        return pa.table(
            {"uid": pa.array(uids, pa.string()), MASKED: pa.array([rows[uid] for uid in uids], pa.list_(MASKED_TEXT))}
        )
