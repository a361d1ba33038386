"""``diptych config RECIPE``, ``diptych config compare``, ``diptych config eval TASK``, ``diptych config curate STEP``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.cli.options.schema import ConfigSection, config_schema, config_text
from diptych.core.errors import ConfigError

OF_COMMAND = frozenset({"config", "like", "json", "dry_run", "overwrite", "plan", "resume"})
"""Options that stand on a command line and in no file."""

NAMED = {"eval": "TASK", "curate": "STEP", "sweep": "RECIPE"}


@dataclass(frozen=True)
class ConfigArgs:
    what: Annotated[Positional[str], arg(metavar="RECIPE", help="a slug or FILE.py:CLASS; or compare, eval, curate, sweep")]
    name: Annotated[Positional[str], arg(metavar="NAME", help="for eval the task, for curate the step, for sweep the recipe")] = (
        ""
    )
    preset: Annotated[str, arg(help="preset that sets the values of the fields")] = "tiny"
    schema: Annotated[bool, arg(help="print the JSON Schema of the file, for editors")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ConfigArgs, argv, "config", "Print a configuration file with every field, its value and what it is.")
    sections, command = sections_of(args.what, args.name, args.preset)
    if args.schema:
        schema = config_schema(sections, f"configuration of `{command}`")
        return finish(schema, [json.dumps(schema, indent=2, ensure_ascii=False)], args.json)
    head = f"{command} --config FILE.yaml\nOptions of the command line overrule what stands here; fields may be left out."
    text = config_text(sections, head)
    return finish({"config": text}, text.splitlines(), args.json)


def sections_of(what: str, name: str = "", preset: str = "tiny") -> tuple[list[ConfigSection], str]:
    """Sections of a configuration file, and the command that reads it. Raises UnknownName, or ConfigError where a name is missing."""
    if what == "compare":
        from diptych.cli.commands.compare import CompareArgs

        return [ConfigSection("compare", [(CompareArgs, None)], OF_COMMAND)], "diptych compare"
    if what in NAMED and not name:
        raise ConfigError(f"no command is given: diptych config {what} {NAMED[what]}")
    if what == "sweep":
        from diptych.cli.commands.sweep import SweepArgs

        own = ConfigSection("sweep", [(SweepArgs, None)], OF_COMMAND, {"recipe": name, "preset": preset})
        return [own, *_of_training(name, preset)[1:]], "diptych sweep"
    if what == "eval":
        from diptych.cli.commands.eval import LEFT_OUT, EvalArgs
        from diptych.tasks import find

        return [
            ConfigSection("eval", [(EvalArgs, None), (type(find(name)), None)], OF_COMMAND | set(LEFT_OUT), {"task": name})
        ], "diptych eval"
    if what == "curate":
        from diptych.cli.commands.curate import CurateArgs
        from diptych.core.registry import OPERATORS

        return [
            ConfigSection("curate", [(CurateArgs, None), (OPERATORS.load(name), None)], OF_COMMAND, {"step": name})
        ], "diptych curate"
    return _of_training(what, preset), "diptych train"


def _of_training(name: str, preset: str) -> list[ConfigSection]:
    from diptych.api.recipes import recipe_class
    from diptych.cli.commands.data import ColumnArgs
    from diptych.cli.commands.train import TrainArgs
    from diptych.train.options import TrainOptions

    kind: Any = recipe_class(name)
    return [
        ConfigSection("train", [(TrainArgs, None), (ColumnArgs, None)], OF_COMMAND, {"recipe": name, "preset": preset}),
        ConfigSection("recipe", [(kind, kind.preset(preset))]),
        ConfigSection("run", [(TrainOptions, TrainOptions())], frozenset({"init", "steps"})),
    ]
