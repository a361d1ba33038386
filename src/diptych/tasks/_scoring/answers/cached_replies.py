"""Generation with resume: replies are cached, so an interrupted run continues with the missing ones.

An endpoint model caches its replies itself, permanently (`models.endpoint`). Replies of other models are cached in the same store
after each part, under a hash of the model's fingerprint, the prompt, the images and the length, and deleted when the run
completes: an interrupted run resumes, while a completed one is generated again, since the generation code may have changed.
A model without a fingerprint always starts from the beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from diptych.core.contracts import Reply, Respondent
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.core.terminal.progress import with_bar
from diptych.models.endpoint.answers import AnswerCache
from diptych.models.endpoint.messages import messages_of, picture_key

PART = 32
"""Questions per cached part."""


def cached_replies(
    model: Any, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int, keep: bool = True
) -> list[Reply]:
    """Replies, one per question, in order. They contain faults only for a model that reports faults per question (`Respondent`).

    keep  False neither reads nor writes the cache for models other than endpoints
    """
    if isinstance(model, Respondent):
        return model.replies(images, prompts, max_tokens=max_tokens)
    fingerprint = getattr(model, "fingerprint", "")
    if not keep or not fingerprint:
        return [Reply(text) for text in model.generate(images, prompts, max_tokens=max_tokens)]
    keys = _keys(fingerprint, images, prompts, max_tokens)
    with AnswerCache() as cache:
        replies = cache.of(list(dict.fromkeys(keys)))
        missing: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key not in replies:
                missing.setdefault(key, row)
        left = list(missing.items())
        starts = range(0, len(left), PART)
        for start in with_bar(starts, len(starts), f"{len(left):,} questions to the model", least=2):
            some = left[start : start + PART]
            rows = [row for _, row in some]
            texts = model.generate([images[row] for row in rows], [prompts[row] for row in rows], max_tokens=max_tokens)
            made = {key: Reply(text) for (key, _), text in zip(some, texts, strict=True)}
            cache.keep(getattr(model, "name", fingerprint), made, [str(prompts[row])[:2000] for row in rows])
            replies |= made
        cache.forget(list(replies))
    return [replies[key] for key in keys]


def _keys(fingerprint: str, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], max_tokens: int) -> list[str]:
    marks: dict[int, str] = {}

    def marked(source: ImageSource) -> str:
        if id(source) not in marks:
            marks[id(source)] = picture_key(source)
        return marks[id(source)]

    keys = []
    for image, prompt in zip(images, prompts, strict=True):
        messages = messages_of(prompt, [] if image is None else [image], marked, model=fingerprint, pictures=True)
        plain = json.dumps([fingerprint, messages, max_tokens], ensure_ascii=False)
        keys.append(hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:32])
    return keys
