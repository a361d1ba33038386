"""Plans of MC-Bench's stepwise baseline: the phrases to look for in each picture, from a text about several pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diptych.core.prompt import ImagePart, PromptLike, TextPart

PLAN = (
    "The text below means things in one or in several of these {count} pictures. For each picture, write on a line of its own what to look "
    "for in that picture alone, as a short phrase that names the thing, or 'none' where nothing in it is meant. Do not mention the other "
    "pictures. Where the text asks for several groups, write a line for each group and picture.\n"
    "Lines look like this:\nimage 1: the red cup\nimage 2: none\ngroup 2, image 1: the dog\n\nText: {text}"
)
LINE = re.compile(r"^[\W\d]*(?:group\s*(\d+)\W+)?image\s*(\d+)\W*:[\s*]*(.+?)[\s*]*$", re.IGNORECASE)
NOTHING = re.compile(r"^\W*(?:none|nothing|no|n/?a)\W*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GroundingQuery:
    """Phrase to look for in picture `image` (from 0), whose boxes are of group `group`; "" for nothing."""

    image: int
    phrase: str
    group: int = 1


def plan_prompt(text: str, count: int) -> PromptLike:
    """Prompt of the planner, pictures first."""
    return (*(ImagePart(index) for index in range(count)), TextPart(PLAN.format(count=count, text=text)))


def read_plan(reply: str, count: int) -> list[GroundingQuery]:
    """Queries parsed from the planner's reply; [] where no line can be read.

    >>> for query in read_plan("image 1: the red cup\\nImage 2: none.\\n- group 2, image 1: a dog", 2):
    ...     print(query)
    GroundingQuery(image=0, phrase='the red cup', group=1)
    GroundingQuery(image=1, phrase='', group=1)
    GroundingQuery(image=0, phrase='a dog', group=2)
    """
    queries = []
    for line in reply.splitlines():
        match = LINE.match(line)
        if match and 1 <= int(match[2]) <= count:
            phrase = "" if NOTHING.match(match[3]) else match[3]
            queries.append(GroundingQuery(int(match[2]) - 1, phrase, int(match[1] or 1)))
    return queries
