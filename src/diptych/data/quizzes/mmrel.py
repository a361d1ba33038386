"""MMRel's rows (Nie et al., 2024, arXiv 2406.09121): a picture, a question about a relation in it, and the answer."""

from __future__ import annotations

import re
from pathlib import Path

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import Row, picture, words
from diptych.data.text.question_answering.questions import FIELD

KINDS = ("spatial", "action", "comparative")
FORMS = ("discriminative", "generative")
WORD = re.compile(r"[a-z]+")


def holds(row: Row) -> bool:
    """True if a row is from MMRel."""
    return {"question", "answer", "eval_type", "relation_type"} <= set(row)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """One sample per row, with one question in `extras["questions"]`: its kind is that of the relation (the last word of
    `relation_type`, as in "dall-e_action"), its facets are "domain" (`source`, or what precedes the kind) and "part"
    ("adversarial" where a field of that name says so, or a word of `source` or `relation_type` begins with "adv"). Questions
    about one file are a group."""
    samples = []
    for number, row in enumerate(rows):
        relation_type = words(row, "relation_type", path, number)
        kinds = [word for word in WORD.findall(relation_type.lower()) if word in KINDS]
        if not kinds:
            raise DataError(
                f"is {relation_type!r}",
                file=path,
                row=number,
                field="relation_type",
                expected=f"a word of {', '.join(KINDS)} in it",
            )
        form, answer = words(row, "eval_type", path, number).lower(), words(row, "answer", path, number)
        if form not in FORMS:
            raise DataError(f"is {form!r}", file=path, row=number, field="eval_type", expected=" | ".join(FORMS))
        if form == FORMS[0] and answer.strip(" .").lower() not in ("yes", "no"):
            raise DataError(f"is {answer[:60]!r}", file=path, row=number, field="answer", expected="yes | no")
        source = row.get("source")
        domain = (
            source
            if isinstance(source, str) and source
            else relation_type[: relation_type.lower().rindex(kinds[-1])].rstrip("_- ") or "all"
        )
        named = WORD.findall(f"{domain} {relation_type}".lower())
        adversarial = row.get("adversarial") in (True, "yes", "true") or any(word.startswith("adv") for word in named)
        question_fields = {
            "question": words(row, "question", path, number),
            "answer": answer.strip(" .").lower() if form == FORMS[0] else answer,
            "kind": kinds[-1],
            "id": str(row.get("question_id") or number),
            "facets": {"domain": domain, "form": form, **({"part": "adversarial"} if adversarial else {})},
        }
        field = "image" if row.get("image") is not None else "image_path"
        where = row.get(field)
        group = where if isinstance(where, str) else f"row {number}"
        samples.append(
            Sample(f"r-{number:05d}", picture(where, path, number, field, root), group=group, extras={FIELD: [question_fields]})
        )
    return Pool.from_samples(samples, name=name)
