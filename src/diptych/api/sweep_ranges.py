"""Ranges of a sweep: ``lr=log(1e-4,1e-2)``, ``warmup=uniform(0,50)``, ``batch_size=64,128``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from diptych.core.config import with_changes
from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError, DiptychError
from diptych.core.own_recipes import split_commas

CALL = re.compile(r"(log|uniform)\((.*)\)", re.DOTALL)
EXPECTED = "log(LOW,HIGH), uniform(LOW,HIGH) or values with commas between them"


@dataclass(frozen=True, slots=True)
class SweepRange:
    """Values that a field may take: all between two ends, on a logarithmic scale or not, or one of `choices`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """Value of this field for a trial of Optuna."""
        if self.choices:
            return self.value_of(trial.suggest_categorical(self.name, self.labels))
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def value_of(self, parameter: Any) -> Any:
        """Value of the field after a stored parameter of a trial."""
        return self.choices[self.labels.index(parameter)] if self.choices else parameter

    @property
    def labels(self) -> list[Any]:
        """Choices as Optuna stores them."""
        return [_label(choice) for choice in self.choices]

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(map(str, self.choices))}"
        return f"{self.name}={'log' if self.log else 'uniform'}({self.low:g},{self.high:g})"


def sweep_ranges(over: Mapping[str, Any] | Sequence[str], recipe: Recipe) -> tuple[SweepRange, ...]:
    """The ranges of fields of a recipe, each end and each choice tried on it.

    over  FIELD=RANGE words, or fields with ranges in words or lists of choices
    Raises ConfigError or UnknownName with the field.
    """
    given = dict(_split(word) for word in over) if not isinstance(over, Mapping) else dict(over)
    if not given:
        raise ConfigError(f"no field to sweep over is given (expected FIELD=RANGE, with a range of {EXPECTED})")
    if not isinstance(over, Mapping) and len(given) < len(over):
        raise ConfigError("a field has two ranges (expected one per field)")
    return tuple(_range(name, words, recipe) for name, words in given.items())


def _split(word: str) -> tuple[str, str]:
    name, equals, words = word.partition("=")
    if not equals or not name.strip() or not words.strip():
        raise ConfigError(f"range {word!r} (expected FIELD=RANGE, with a range of {EXPECTED})")
    return name.strip().replace("-", "_"), words.strip()


def _range(name: str, words: Any, recipe: Recipe) -> SweepRange:
    if isinstance(words, str) and (match := CALL.fullmatch(words.strip())):
        made = _between(name, match[1], match[2], recipe)
        tried: Sequence[Any] = (int(made.low), int(made.high)) if made.integer else (made.low, made.high)
    else:
        if isinstance(words, str) and "(" in words:
            raise ConfigError(f"range {name}={words} (expected {EXPECTED})")
        choices = tuple(words) if isinstance(words, list | tuple) else tuple(_value(one) for one in split_commas(str(words)))
        if len(choices) < 2 or len({_label(one) for one in choices}) < len(choices):
            raise ConfigError(f"{name} has {len(choices)} values (expected two or more, all different)")
        made, tried = SweepRange(name, choices=choices), choices
    for value in tried:
        try:
            with_changes(recipe, {name: value})
        except DiptychError as error:
            raise ConfigError(f"sweep over {name}: {error}") from error
    return made


def _between(name: str, kind: str, words: str, recipe: Recipe) -> SweepRange:
    try:
        low, high = (float(word) for word in words.split(","))
    except ValueError:
        raise ConfigError(f"range {name}={kind}({words}) (expected two numbers, such as {kind}(1e-4,1e-2))") from None
    if not low < high or not math.isfinite(high - low) or (kind == "log" and low <= 0):
        above = ", the first above 0" if kind == "log" else ""
        raise ConfigError(f"range {name}={kind}({words}) (expected the lower end first{above})")
    own = _own_value(recipe, name)
    integer = isinstance(own, int) and not isinstance(own, bool)
    if integer and (low != int(low) or high != int(high)):
        raise ConfigError(f"range {name}={kind}({words}): {name} takes whole numbers")
    return SweepRange(name, low, high, kind == "log", integer)


def _own_value(config: Any, name: str) -> Any:
    """Value of a field of a configuration, or of one that it holds."""
    if hasattr(config, name):
        return getattr(config, name)
    held = [value for item in fields(config) if is_dataclass(value := getattr(config, item.name))]
    return next((getattr(value, name) for value in held if hasattr(value, name)), None)


def _value(text: str) -> Any:
    from diptych.core.terminal.spelling import value

    return value(text.strip())


def _label(choice: Any) -> Any:
    """A choice as Optuna stores it: numbers, words and truth values as they are, lists as JSON."""
    return choice if choice is None or isinstance(choice, bool | int | float | str) else json.dumps(choice)
