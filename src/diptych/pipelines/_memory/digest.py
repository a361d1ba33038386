"""Digest of a caption log: idle captions are dropped, similar neighbours merged (LifelongMemory, 2312.05269)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diptych.pipelines._memory.caption_log import TimedCaption

TAGS = ("#C ", "#c ", "#O ", "#o ")
"""LaViLa's tags for the actor: the camera wearer, or others."""
IDLE = ("looks around", "walks around", "look around", "walk around")
Similarity = Callable[[str, str], float]
Merge = Callable[[list[str]], str]


def cleaned(text: str, *, question: str = "", keep_from: float = 0.0, similarity: Similarity | None = None) -> str | None:
    """Caption without tags; None if it is idle, or less similar to the question than `keep_from` (0: not compared)."""
    for tag in TAGS:
        text = text.replace(tag, "")
    if any(phrase in text for phrase in IDLE):
        return None
    if keep_from > 0 and similarity is not None and similarity(question, text) < keep_from:
        return None
    return text


def digest(
    memory: Sequence[TimedCaption],
    similarity: Similarity,
    merge: Merge,
    *,
    threshold: float = 0.8,
    margin: int = 30,
    question: str = "",
    keep_from: float = 0.0,
) -> tuple[TimedCaption, ...]:
    """Merges consecutive captions as long as each is more similar than `threshold` to the one before it.

    threshold  cosine; the comparison is with the last caption only, so that a group may drift
    margin     frames before the first and after the last caption of a group that it covers: half the interval of captions
    merge      merges several captions into one; a single caption is unchanged
    The result is empty if every caption is idle.
    """
    groups: list[list[TimedCaption]] = []
    for caption in memory:
        text = cleaned(caption.text, question=question, keep_from=keep_from, similarity=similarity)
        if text is None:
            continue
        kept = TimedCaption(caption.start, caption.end, text)
        if groups and similarity(groups[-1][-1].text, text) > threshold:
            groups[-1].append(kept)
        else:
            groups.append([kept])
    return tuple(_merged(group, merge, margin) for group in groups)


def _merged(group: list[TimedCaption], merge: Merge, margin: int) -> TimedCaption:
    texts = [caption.text for caption in group]
    text = merge(texts) if len(texts) > 1 else texts[0]
    return TimedCaption(group[0].start - margin, group[-1].end + margin, text, spans=True)
