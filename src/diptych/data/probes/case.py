"""A picture with true and false captions: the data type that all probes share.

Beside a sample they lie as `extras["cases"]`, a list of {"kind": what the false ones get wrong, "options": captions, "roles": a
role each}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from diptych.core.errors import DataError
from diptych.core.sample import Sample

Role = Literal["true", "entailed", "false"]
ROLES: tuple[Role, ...] = get_args(Role)
FIELD = "cases"


@dataclass(frozen=True, slots=True)
class Case:
    """Options for one image.

    kind     what the false ones get wrong
    roles    "true", "entailed" (true as well, but weaker or differently put: never an error) or "false", one an option
    names    what each option is ("exchanged", "negated"), where a probe asks which of them won; else nothing
    """

    uid: str
    group: str
    kind: str
    options: tuple[str, ...]
    roles: tuple[Role, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.options) != len(self.roles) or not {"true", "false"} <= set(self.roles) <= set(ROLES):
            raise DataError(
                f"sample {self.uid}: {len(self.options)} options with roles {list(self.roles)}",
                field="options",
                expected="a role an option, a true and a false one at least",
            )
        if self.names and len(self.names) != len(self.options):
            raise DataError(f"sample {self.uid}: {len(self.names)} names for {len(self.options)} options", field="names")

    @property
    def true(self) -> str:
        """The first true option."""
        return self.options[self.roles.index("true")]


def stored(kind: str, options: Sequence[str], roles: Sequence[Role]) -> dict[str, Any]:
    """A case as stored with a sample."""
    return {"kind": kind, "options": list(options), "roles": list(roles)}


def stored_cases(sample: Sample) -> list[Case]:
    """Cases stored with a sample; none if it has no such field. Raises DataError that names sample and case."""
    plain_cases = sample.extras.get(FIELD) or ()
    group = sample.group or sample.uid
    cases = []
    for number, plain in enumerate(plain_cases):
        fields = {"kind", "options", "roles"}
        if not isinstance(plain, Mapping) or not fields <= set(plain):
            raise DataError(
                f"sample {sample.uid}, case {number} is {str(plain)[:60]}",
                field=FIELD,
                expected="an object with kind, options and roles",
            )
        cases.append(Case(sample.uid, group, str(plain["kind"]), tuple(map(str, plain["options"])), tuple(plain["roles"])))
    return cases


def without_equals(case: Case) -> tuple[Case | None, int]:
    """The case without false options that equal a true or entailed one but for case and punctuation, and how many those were. None is
    left of a case all of whose false options are such."""
    right = {normal(option) for option, role in zip(case.options, case.roles, strict=True) if role != "false"}
    kept = [
        number
        for number, (option, role) in enumerate(zip(case.options, case.roles, strict=True))
        if role != "false" or normal(option) not in right
    ]
    dropped = len(case.options) - len(kept)
    if not any(case.roles[number] == "false" for number in kept):
        return None, dropped
    options = tuple(case.options[number] for number in kept)
    roles = tuple(case.roles[number] for number in kept)
    names = tuple(case.names[number] for number in kept) if case.names else ()
    return replace(case, options=options, roles=roles, names=names), dropped


def normal(text: str) -> str:
    """Without case, punctuation and double spaces.

    >>> normal("A red  circle, left of it.") == normal("a red circle left of it")
    True
    """
    return " ".join(words_of(text))


def words_of(text: str) -> list[str]:
    """Words in order, regardless of their case, without punctuation."""
    return re.findall(r"\w+", text.casefold())
