"""Keys and values of the tokens that a language model of transformers has read, by the name that the installed version gives them.

The argument and the field of the output are `cache` from transformers 5.24 on, `past_key_values` before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _name() -> str:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def cache_arguments(cache: Any) -> dict[str, Any]:
    """Arguments of `forward` that read `cache`, None for an empty one, and ask for the next."""
    return {_name(): cache, "use_cache": True}


def cache_of(output: Any) -> Any:
    """The cache in what `forward` returned."""
    return getattr(output, _name())
