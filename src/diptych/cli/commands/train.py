"""``diptych train RECIPE --data D --out R [--resume auto]`` and ``diptych train --resume R``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.commands.data import ColumnArgs, given_columns
from diptych.cli.options.config_file import ConfigFile, config_of, leading
from diptych.cli.options.flat import changed, flat, held_configurations, select_fields
from diptych.cli.options.output import finish, parse, say
from diptych.core.config import overlaid
from diptych.core.contracts.tuning import Tuning
from diptych.core.errors import ConfigError
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.core.terminal.signals import exit_code

USAGE = "diptych train RECIPE --data D --out R [options]"
DESCRIPTION = "Train a recipe on your data. The preset gives the fields of the recipe their values; each is an option."


@dataclass(frozen=True)
class ResumeArgs:
    resume: Annotated[Path, arg(help="the run folder to resume; nothing else is needed")]
    data: Annotated[str, arg(help="the data, if the run names an address on another machine")] = ""
    steps: Annotated[int, arg(help="for a finished run: continue to this total number of steps")] = 0
    recipe: Annotated[str, arg(metavar="FILE.py", help="new path of your own recipe file; or FILE.py:CLASS")] = ""
    changed_code: Annotated[bool, arg(help="resume although files that define the recipe have changed; noted in the log")] = False
    workers: Annotated[int | None, arg(help="loader processes from here on")] = None
    save_every: Annotated[int | None, arg(help="steps between checkpoints from here on")] = None
    keep: Annotated[int | None, arg(help="checkpoints that stay on disk from here on")] = None
    micro_batch: Annotated[int | None, arg(help="samples per micro-batch from here on")] = None
    checkpoint_layers: Annotated[int | None, arg(help="recompute activations of every n-th block, from here on")] = None
    device: Annotated[str | None, arg(help="auto, cpu, cuda, cuda:N or mps, from here on")] = None
    shard: Annotated[Literal["none", "ddp", "fsdp"] | None, arg(help="how processes share the work from here on")] = None
    silence: Annotated[float | None, arg(help="seconds after which an unresponsive process ends the run, from here on")] = None
    part_norms: Annotated[bool | None, arg(help="log norms by part of the model from here on")] = None
    profile: Annotated[int | None, arg(help="number of steps to trace, after the first three from here on")] = None
    progress: Annotated[bool | None, arg(help="progress bar in a terminal")] = None
    tensorboard: Annotated[bool | None, arg(help="TensorBoard event files from here on")] = None
    wandb: Annotated[bool | None, arg(help="a run of Weights & Biases from here on")] = None
    mlflow: Annotated[bool | None, arg(help="a run of MLflow from here on")] = None
    board_tags: Annotated[tuple[str, ...] | None, arg(help="tags of a tracker run that begins here")] = None
    board_group: Annotated[str | None, arg(help="group of a tracker run that begins here")] = None
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class TrainArgs:
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a slug (`diptych systems` lists them), or FILE.py:CLASS")]
    data: Annotated[str, arg(help="emoji, world:scenes, a folder, a table, shards, ...")]
    out: Annotated[Path, arg(help="output run folder")] = Path()
    preset: Annotated[str, arg(help="tiny (for two cores), paper (the published configuration), or one of the recipe's own")] = (
        "tiny"
    )
    subset: Annotated[
        str, arg(help="a file with one uid per line: train on these samples only, such as a list that the page saved")
    ] = ""
    hold_out: Annotated[
        float, arg(help="share of data without splits to hold out by group for the evaluation; 0 trains on all rows")
    ] = 0.1
    init: Annotated[
        str, arg(help="weights to start from: a run or model folder, unlocked:RUN, packaged, hf:FOLDER, open_clip:ARCH/FILE, ...")
    ] = ""
    config: Annotated[Path, arg(metavar="FILE.yaml", help="file of fields and options, in the format of a run's config.yaml")] = (
        Path()
    )
    like: Annotated[Path, arg(metavar="RUN", help="the configuration of a run, and its data unless --data is given")] = Path()
    overwrite: Annotated[bool, arg(help="replace an existing run in --out")] = False
    dry_run: Annotated[bool, arg(help="print the estimated cost of the run and stop")] = False
    resume: Annotated[
        Literal["", "auto"],
        arg(help="auto: resume the run in --out if there is one, otherwise start; the same command works for every restart"),
    ] = ""
    no_evaluation: Annotated[bool, arg(help="skip the evaluation and the report at the end")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    if any(word == "--resume" or word.startswith("--resume=") for word in argv) and not _resumes_by_itself(argv):
        args = parse(ResumeArgs, argv, "train", "Go on with a run that was stopped or killed.")
        from diptych.api import resume
        from diptych.train.fit import RESUMABLE

        data = args.data or None
        talk = say if _main_process() else None
        own: dict[str, Any] = {"recipe": args.recipe or None, "changed_code": args.changed_code}
        changes = {name: value for name in sorted(RESUMABLE) if (value := getattr(args, name)) is not None}
        run = resume(args.resume, data=data, steps=args.steps, changes=changes, say=talk, **own)
        return _finish(run, data=data, evaluation=not run.state.get("no_evaluation"), as_json=args.json)
    file = config_of(argv, "train", "recipe", "run")
    argv = leading(_recipe_first(argv), file, "train", ("recipe",))
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    if not name:
        built = ", ".join(RECIPES)
        words = f"{USAGE}   (built: {built}; diptych train RECIPE --help lists every option)"
        if set(argv) & {"-h", "--help"}:
            print(f"usage: {words}\n       diptych train --resume R")
            return 0
        raise ConfigError(f"no recipe is given: {words}")
    return _train(name, argv, file)


def _resumes_by_itself(argv: Sequence[str]) -> bool:
    """True for ``--resume auto``."""
    return "--resume=auto" in argv or ("--resume", "auto") in itertools.pairwise(argv)


def _recipe_first(argv: Sequence[str]) -> list[str]:
    """Accept ``--recipe NAME`` in place of the first argument."""
    words = list(argv)
    for at, word in enumerate(words):
        if word == "--recipe" and at + 1 < len(words):
            return [words[at + 1], *words[:at], *words[at + 2 :]]
        if word.startswith("--recipe="):
            return [word.partition("=")[2], *words[:at], *words[at + 1 :]]
    return words


def _train(name: str, argv: Sequence[str], file: ConfigFile) -> int:
    from diptych.api.recipes import recipe_class
    from diptych.train.options import TrainOptions

    kind: Any = recipe_class(name)
    preset, begun, columns_given = _from_file(kind, argv, file)
    with file.named():
        how = overlaid(TrainOptions(), {name: value for name, value in file.section("run").items() if name != "init"}, "run")
    every = flat("Options", [(TrainArgs, begun), (kind, preset), (TrainOptions, how), (ColumnArgs, columns_given)])
    args: Any = parse(every, argv, f"train {name}", f"{DESCRIPTION} Presets: {', '.join(kind.presets)}.")
    recipe = changed(preset, args)
    own = {key: value for key, value in select_fields(TrainOptions, args).items() if key not in ("steps", "init")}
    options = TrainOptions(**own, tune=Tuning(**select_fields(Tuning, args)))
    taken = {field.name for of in (TrainArgs, kind, TrainOptions) for field in fields(of)}
    columns = given_columns(args, {field.name for field in fields(ColumnArgs)} - taken)
    if args.dry_run:
        from diptych.api import estimate

        cost = estimate(recipe, args.data, options=options, subset=args.subset, columns=columns, hold_out=args.hold_out)
        return finish(cost, _cost_lines(cost), args.json)
    if args.out == Path():
        raise ConfigError("the output folder is missing: --out R")
    from diptych.api import train, train_or_resume
    from diptych.api.checking import refuse_unmeasurable

    if not args.no_evaluation:
        refuse_unmeasurable(recipe)
    talk = say if _main_process() else None
    requested = _named_fields(recipe, argv) | set(file.section("recipe"))
    given = {
        "init": args.init,
        "subset": args.subset,
        "columns": columns,
        "hold_out": args.hold_out,
        "overwrite": args.overwrite,
        "asked": requested,
        "evaluation": not args.no_evaluation,
    }
    if args.resume:
        given["asked"] = requested | _named_fields(TrainOptions(), argv)
        run = train_or_resume(recipe, args.data, args.out, options=options, say=talk, **given)
    else:
        run = train(recipe, args.data, args.out, options=options, say=talk, **given)
    return _finish(run, data=args.data, evaluation=not args.no_evaluation, as_json=args.json)


def _from_file(kind: Any, argv: Sequence[str], file: ConfigFile) -> tuple[Any, Any, Any]:
    """Recipe, options of the command and columns from a configuration file over the preset; the last two None without one."""
    section = file.section("train")
    if "init" in file.section("run") and file.section("run")["init"]:
        section.setdefault("init", file.section("run")["init"])
    own = {f.name for f in fields(TrainArgs)}
    names = {f.name for f in fields(ColumnArgs)} - own
    begun = file.default(TrainArgs, "train", values={name: value for name, value in section.items() if name not in names})
    columns = file.default(ColumnArgs, "train", values={name: value for name, value in section.items() if name in names})
    with file.named():
        recipe = overlaid(kind.preset(_preset(argv, str(section.get("preset", "tiny")))), file.section("recipe"), "recipe")
        if steps := file.section("run").get("steps"):
            recipe = overlaid(recipe, {"steps": steps}, "run")
    return recipe, begun, columns


def _preset(argv: Sequence[str], default: str = "tiny") -> str:
    """The preset decides the defaults of the options, so it is read before them."""
    for at, word in enumerate(argv):
        if word.startswith("--preset"):
            return word.partition("=")[2] or (argv[at + 1] if at + 1 < len(argv) else "")
    return default


def _named_fields(config: Any, argv: Sequence[str]) -> set[str]:
    """Fields of a configuration, and of those that it holds, that are among the arguments."""
    given = {word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_") for word in argv if word[:2] == "--"}
    return {field.name for _, part in [(None, config), *held_configurations(config)] for field in fields(part)} & given


def _main_process() -> bool:
    """True on the main process; under `torchrun` every process trains and one prints."""
    return os.environ.get("RANK", "0") == "0"


def _cost_lines(cost: dict[str, Any]) -> list[str]:
    """The cost of a run for people: minutes, MiB, thousands."""
    lines = []
    for key, value in cost.items():
        name = key.replace("_", " ")
        if key == "stages":
            for stage in value:
                pace = stage["seconds_per_step"]
                each = (
                    "its samples are made by the model of the stage before: not measured"
                    if pace is None
                    else f"{pace:.3g} s each, {stage['trained_parameters']:,} trained parameters"
                )
                if "tensor_memory_bytes" in stage:
                    each += f", {stage['tensor_memory_bytes'] / 2**20:,.0f} MiB of tensors"
                lines.append(f"{'  ' + stage['stage']:<26}{stage['steps']:,} steps, {each}")
        elif key.endswith("bytes") or "memory" in key:
            lines.append(f"{name:<26}{value / 2**20:,.0f} MiB")
        elif key == "seconds":
            lines.append(f"{'minutes':<26}{value / 60:,.1f}")
        else:
            lines.append(
                f"{name:<26}{value:,.3g}"
                if isinstance(value, float)
                else f"{name:<26}{value:,}"
                if isinstance(value, int)
                else f"{name:<26}{value}"
            )
    return lines


def _finish(run: RunFolder, *, data: str | None, evaluation: bool, as_json: bool) -> int:
    """Evaluate and report a finished run; neither for one that was stopped, even in its last step."""
    state = run.state
    number = state.get("signal")
    code = exit_code(number) if number else 0
    if not _main_process():
        return code
    payload: dict[str, Any] = {"run": str(run.path), "status": state["status"], "step": state.get("step")}
    lines = [f"{run.path}: {state['status']} after {state.get('step')} steps"]
    from diptych.train.log import QUARANTINE, quarantined

    if left_out := quarantined(run):
        payload["left_out"] = len(left_out)
        lines.append(f"  {len(left_out):,} samples were left out, with reasons in {run.path / QUARANTINE}")
    if state["status"] == "finished" and not number and evaluation and state.get("source") and not run.report.exists():
        from diptych.api import evaluate_run, report
        from diptych.api.recipes import recipe_of
        from diptych.api.runs import publish_results

        results = evaluate_run(run, data)
        payload["results"] = {name: result.to_json() for name, result in results.items()}
        lines += [f"  {name}: {result.main} {result.metrics[result.main]}" for name, result in results.items()]
        if not recipe_of(run).measured_by:
            lines.append("  not evaluated: no task measures this model on these data")
        payload["report"] = str(report(run.path, data))
        publish_results(run, results, Path(payload["report"]), say)
        lines.append(f"report: {payload['report']}")
    if state["status"] == "finished" and number and evaluation:
        lines.append(f"evaluation and report are still to come: diptych train --resume {run.path}")
    if state["status"] == "stopped":
        lines.append(f"go on with: diptych train --resume {run.path}")
    return finish(payload, lines, as_json) or code
