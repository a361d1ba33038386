"""What a verdict most likely means, in a sentence or two, written after it; a guess is called one.

Kept apart from the claims, since a word changed there would make the verdict stale.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {}
