"""Arms of a comparison as plain values of a configuration file."""

from __future__ import annotations

import json
from typing import Any

from diptych.core.errors import ConfigError


def arm_words(arm: Any, where: str) -> str:
    """An arm as the command line has it: words as they are; a mapping with `recipe` and fields as RECIPE:FIELD=VALUE,...

    where  what an error names

    >>> arm_words({"recipe": "mrl", "base": "dreamlip:texts=3,lambda_s=0", "dims": [8, 128]}, "arms")
    'mrl:base="dreamlip:texts=3,lambda_s=0",dims=[8, 128]'
    """
    if isinstance(arm, str):
        return arm
    if not isinstance(arm, dict) or not isinstance(arm.get("recipe"), str):
        raise ConfigError(f"{where} is {arm!r:.80} (expected words such as clip:lr=1e-3, or a mapping with recipe: clip)")
    fields = ",".join(f"{name}={json.dumps(value)}" for name, value in arm.items() if name != "recipe")
    return f"{arm['recipe']}:{fields}" if fields else str(arm["recipe"])
