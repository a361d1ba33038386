"""Reply of a model that may fail on a single question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike


@dataclass(frozen=True, slots=True)
class Reply:
    """text            as the model wrote it, not yet read
    prompt_tokens   as the model counts them
    written_tokens  likewise
    fault           "" or, in front of a colon, the kind of what went wrong: such a reply is counted and never used
    """

    text: str
    prompt_tokens: int = 0
    written_tokens: int = 0
    fault: str = ""


@runtime_checkable
class Respondent(Protocol):
    """A `Generator` that reports failures per question: a refused question costs that question and not the run.

    Raises `RunError` if the model cannot be reached at all.
    """

    def replies(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64
    ) -> list[Reply]: ...
