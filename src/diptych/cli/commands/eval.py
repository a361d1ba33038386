"""``diptych eval MODEL TASK --data D``, or ``diptych eval TASK --answers FILE --data D`` without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.config_file import config_of, leading
from diptych.cli.options.flat import flat, select_fields
from diptych.cli.options.output import DEVICE, finish, parse
from diptych.core.errors import ConfigError
from diptych.core.result import Metric, Result
from diptych.core.terminal.spelling import split_names


@dataclass(frozen=True)
class EvalArgs:
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="a run folder, hf:NAME, open_clip:ARCH/FILE, timm:NAME, openai:http://HOST/v1#NAME"),
    ]
    task: Annotated[
        Positional[str],
        arg(
            metavar="TASK",
            help="retrieval, zero_shot, vg150, ... (diptych eval --help lists all); several separated by commas, or all",
        ),
    ]
    data: Annotated[str, arg(help="any readable data; every held-out split is evaluated")]
    split: Annotated[str, arg(help="only this split")] = ""
    answers: Annotated[Path, arg(help="a result file instead of MODEL: rows of questions and answers")] = Path()
    answer_column: Annotated[str, arg(help="column of the answers in that file, if it has an unusual name")] = ""
    out: Annotated[Path, arg(help="folder for the records; default for a run: its records/")] = Path()
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    config: Annotated[Path, arg(metavar="FILE.yaml", help="options, in a section eval (`diptych config eval TASK`)")] = Path()
    page: Annotated[Path, arg(help="for caption probes: an HTML page of the confusions, with pictures")] = Path()
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


LEFT_OUT = ("train", "val", "train_split", "test_split")
"""Fields of tasks that are data."""


def main(argv: Sequence[str]) -> int:
    from diptych.core.registry import TASKS
    from diptych.tasks import find

    file = config_of(argv, "eval")
    argv = leading(_with_answers(argv), file, "eval", ("model", "task"))
    words = [word for word in argv if not word.startswith("-")]
    if len(words) > 1 and argv[1] == words[1] and (words[1] == "all" or len(split_names(words[1])) > 1):
        return _several(argv, split_names(words[1]))
    if len(words) < 2:
        usage = (
            "diptych eval MODEL TASK --data D, or diptych eval TASK --answers FILE --data D   "
            f"(tasks: {', '.join(TASKS)}; diptych eval MODEL TASK --help lists options)"
        )
        if set(argv) & {"-h", "--help"}:
            print(f"usage: {usage}")
            return 0
        raise ConfigError(f"model and task are missing: {usage}")
    kind = type(find(words[1]))
    roles = _roles(kind)
    every = flat("Options", [(EvalArgs, None), (kind, None), (roles, None)], leave_out=LEFT_OUT)
    about = "Numbers with 95 % intervals over groups, and their level of chance."
    args: Any = parse(every, argv, f"eval {words[0]} {words[1]}", about, file.default(every, "eval"))
    from diptych.api import confusions, evaluate, evaluate_answers, evaluate_splits, load

    own = {f.name for f in fields(EvalArgs)}
    options = {
        name: value for name, value in {**select_fields(kind, args), **select_fields(roles, args)}.items() if name not in own
    }
    out = args.out if args.out != Path() else Path(args.model) / "records" if Path(args.model, "run.json").is_file() else None
    if args.page != Path() and out is None:
        raise ConfigError(f"a page of {args.model} needs its records (expected --out FOLDER beside --page)")
    if args.answers != Path():
        rows = {"split": args.split, "out": out, "column": args.answer_column}
        results = evaluate_answers(args.answers, args.task, args.data, **rows, **options)
    elif args.split:
        model = load(args.model, download=args.download)
        results = {args.split: evaluate(model, args.task, args.data, split=args.split, out=out, **options)}
    else:
        results = evaluate_splits(load(args.model, download=args.download), args.task, args.data, out=out, **options)
    lines = [line for name, result in results.items() for line in table(name, result)]
    if args.page != Path():
        lines.append(str(confusions(out or Path(), args.data, args.page, title=f"{args.task}: {args.model}")))
    return finish({"results": {name: result.to_json() for name, result in results.items()}}, lines, args.json)


def _several(argv: Sequence[str], tasks: Sequence[str]) -> int:
    """Several tasks of one model, options behind a colon; "all": every task that its model and the data can be asked."""
    args = parse(EvalArgs, argv, "eval", "Several tasks with their options: retrieval,zero_shot:label=group_name; or all.")
    if args.answers != Path() or args.page != Path():
        raise ConfigError("--answers and --page are for one task")
    from diptych.api import load
    from diptych.api.evaluation import evaluate_several

    out = args.out if args.out != Path() else Path(args.model) / "records" if Path(args.model, "run.json").is_file() else None
    chosen = () if args.task == "all" else tasks
    done, left_out = evaluate_several(load(args.model, download=args.download), chosen, args.data, split=args.split, out=out)
    lines = [line for results in done.values() for name, result in results.items() for line in table(name, result)]
    lines += [f"left out {name}: {reason}" for name, reason in left_out.items()]
    plain = {task: {name: result.to_json() for name, result in results.items()} for task, results in done.items()}
    return finish({"tasks": plain, "left_out": left_out}, lines, args.json)


def _with_answers(argv: Sequence[str]) -> list[str]:
    """The same words with `--answers FILE` behind the others and FILE in the place of the model."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--answers=") else [word])]
    if "--answers" not in words[:-1]:
        return words
    position = words.index("--answers")
    file = words[position + 1]
    return [file, *words[:position], *words[position + 2 :], "--answers", file]


def _roles(kind: Any) -> type[Any]:
    """An option for each further model that the task needs."""
    from diptych.tasks.roles import roles_of

    made = [
        (role.name, Annotated[str, arg(metavar="FOLDER" if role.many else "MODEL", help=role.about)], "")
        for role in roles_of(kind)
    ]
    return make_dataclass("Roles", made, frozen=True)


RULES = (
    "scorer",
    "ap_rule",
    "iou",
    "triplet_score",
    "subjects",
    "impossible_pairs",
    "cut",
    "relation_nms",
    "graph_constraint",
    "compat",
)
"""What two numbers must have in common before they can be compared, where a protocol declares it in its notes."""


def table(name: str, result: Result) -> list[str]:
    """A result in lines: the rules that it declares, then the main metric first, each with interval and chance."""
    head = f"{name}: {result.task} v{result.version}, {result.n_items:,} items in {result.n_groups:,} groups"
    rules = [f"  {rule.replace('_', ' ')}: {result.notes[rule]}" for rule in RULES if result.notes.get(rule)]
    names = [result.main, *(metric for metric in result.metrics if metric != result.main)]
    return [
        head,
        *rules,
        *(_grid(result, names) or _list(result, names)),
        *_ceiling(result),
        *_left_out(result),
        *_usage_line(result),
    ]


def _left_out(result: Result) -> list[str]:
    """Report lines on samples left out of an evaluation: counts, each with the first reason."""
    notes = result.notes
    unreadable: Sequence[dict[str, str]] = notes.get("unreadable") or ()
    lines = []
    if count := notes.get("left_out_when_read"):
        lines.append(f"  left out when the data were read: {count:,}, such as {notes['first_left_out'][0]}")
    if unreadable and "cases_without_a_false_option" in notes:
        lines.append(f"  pictures that cannot be read: {len(unreadable):,}, such as {unreadable[0]['reason']}")
    if count := notes.get("cases_without_a_false_option"):
        lines.append(f"  cases whose false captions equal the true one: {count:,}")
    return lines


def _usage_line(result: Result) -> list[str]:
    """Report line on requests, tokens and cost of a model behind an address."""
    if not (spent := result.notes.get("spent")):
        return []
    cost = f", cost {spent['cost']:.4f}" if spent["cost"] else ""
    tokens = f"{spent['prompt_tokens']:,} tokens read, {spent['written_tokens']:,} written"
    return [f"  asked {spent['asked']:,}, looked up {spent['looked_up']:,}, failed {spent['failed']:,}; {tokens}{cost}"]


def _list(result: Result, names: Sequence[str]) -> list[str]:
    width = max(map(len, names))
    return [f"  {metric:<{width}}  {_cell(result.metrics[metric])}{_chance(result.metrics[metric].chance)}" for metric in names]


def _ceiling(result: Result) -> list[str]:
    """Report line on the highest reachable value of each recall metric that cannot reach 1."""
    reached = {name: value for name, value in result.notes.get("ceiling", {}).items() if value < 1}
    return ["  at most: " + ", ".join(f"{name} {value:.3f}" for name, value in reached.items())] if reached else []


def _cell(metric: Metric) -> str:
    """A class that the data lack, such as Rare, has no number."""
    return "nothing to score" if math.isnan(metric.value) else str(metric)


def _grid(result: Result, names: Sequence[str]) -> list[str]:
    """Metrics that are all called WHAT@K, at several K: a row for each WHAT."""
    parts = [metric.partition("@")[::2] for metric in names]
    rows, depths = dict.fromkeys(row for row, _ in parts), sorted({depth for _, depth in parts}, key=lambda d: (len(d), d))
    if not all(depths) or len(depths) < 2 or len(names) != len(rows) * len(depths):
        return []
    cells = [[row, *(_cell(result.metrics[f"{row}@{depth}"]) for depth in depths)] for row in rows]
    cells = [["", *(f"@{depth}" for depth in depths)], *cells]
    width = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, width, strict=True)).rstrip() for row in cells]


def _chance(level: float) -> str:
    """Chance level of a metric, "" where the protocol has none."""
    return f"  chance {level:.4f}" if math.isfinite(level) else ""
