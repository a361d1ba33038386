"""Tasks on models, and the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import ConfigError, DiptychError
from diptych.core.result import TRAINING_ROWS
from diptych.core.run_folder import RunFolder
from diptych.data.subset import read_uids
from diptych.worlds.address import held_out, split_names

if TYPE_CHECKING:
    from diptych.core.contracts import Task
    from diptych.core.result import Result

from diptych.api.cards import write_card
from diptych.api.checking import default_task
from diptych.api.data import data_of, read
from diptych.api.models import load, run_of
from diptych.api.recipes import recipe_of


def evaluate(
    model: Any, task: str | Task, data: Any, *, split: str = "", out: str | Path | None = None, **options: Any
) -> Result:
    """One task on one set of rows, with intervals. Of data without splits, a run is scored on the rows that were held out for it.

    model    a model, or anything that `load` opens
    task     "retrieval", "zero_shot", "vg150", ... (`diptych.core.registry.TASKS`), or a task object
    split    which rows; needed when the data have several held-out splits (`evaluate_splits` does them all)
    out      a folder for the records (Parquet) and the result (JSON)
    options  fields of the task: language="de", label="group_name", ...; whom it asks beside the model, by role: snapshots="RUN/snapshots"
    """
    whole = _whole(model, data)
    if split:
        part = whole.split(split).named(f"{whole.name}/{split}")
    else:
        parts = scored_rows(whole, run_of(model))
        if len(parts) > 1:
            raise ConfigError(
                f"'{whole.name}' has {len(parts)} held-out splits: choose split= among {', '.join(parts)}, or call evaluate_splits"
            )
        part = next(iter(parts.values()))
    return _run(model, task, whole, part, out, options)


def evaluate_splits(
    model: Any, task: str | Task, data: Any, *, out: str | Path | None = None, **options: Any
) -> dict[str, Result]:
    """One task on every held-out split, always reported together; a split that the task chooses its settings on (`val_split`) is not held
    out. Where a run is scored on the rows that it was trained on, since there are no others, the result is called "training rows"."""
    opened = load(model) if isinstance(model, str | Path) else model
    whole = _whole(model, data)
    parts = scored_rows(whole, run_of(model))
    chosen_on = _validation_split(task, options)
    kept = {name: part for name, part in parts.items() if name != chosen_on} or parts
    return {name: _run(opened, task, whole, part, out, options) for name, part in kept.items()}


def _validation_split(task: str | Task, options: dict[str, Any]) -> str:
    """Name of the split that a task chooses its settings on, "" for most."""
    from diptych.core.registry import TASKS

    if not isinstance(task, str):
        return str(getattr(task, "val_split", ""))
    defaults = {field.name: field.default for field in fields(TASKS.load(task))}
    return str(options.get("val_split", defaults.get("val_split", "")))


def evaluate_several(
    model: Any, tasks: Sequence[str], data: Any, *, split: str = "", out: str | Path | None = None
) -> tuple[dict[str, dict[str, Result]], dict[str, str]]:
    """Several tasks on every held-out split, or on one, and the tasks that were left out with the reason.

    tasks  names with options if need be, "zero_shot:label=group_name"; none: every task that the model has the capability for, of which
           those that the data lack something for are left out
    """
    from diptych.core.registry import TASKS
    from diptych.core.terminal.spelling import parse_name
    from diptych.tasks.roles import roles_of

    opened = load(model) if isinstance(model, str | Path) else model
    every = [name for name, entry in TASKS.items() if not entry.package]
    able = [name for name in every if isinstance(opened, TASKS.load(name).needs) and not roles_of(TASKS.load(name))]
    done: dict[str, dict[str, Result]] = {}
    left_out: dict[str, str] = {}
    for words in tasks or able:
        name, options = parse_name(words)
        try:
            if split:
                done[words] = {split: evaluate(opened, name, data, split=split, out=out, **options)}
            else:
                done[words] = evaluate_splits(opened, name, data, out=out, **options)
        except Exception as error:  # any error fails only that task
            if tasks:
                raise
            reason = next(iter(str(error).splitlines()), "")
            left_out[words] = reason if isinstance(error, DiptychError) else f"{type(error).__name__}: {reason}"
    return done, left_out


def evaluate_answers(
    answers: str | Path,
    task: str | Task,
    data: Any,
    *,
    split: str = "",
    out: str | Path | None = None,
    column: str = "",
    **options: Any,
) -> dict[str, Result]:
    """One task on the answers of a file, without a model: on every held-out split, or on one.

    answers  a published result file, JSON, JSON lines, CSV or TSV of (question, answer) rows (`diptych.tasks.answer_files`)
    task     one that reads what a model writes: "multiple_choice", "ii_bench", "mmrel", "vqa", "pope", "captions", ... Grey pictures are
             not asked about, since the file has no answers to them
    column   the field of the answers, where the file calls it otherwise than usual
    options  fields of the task, and whom it asks beside the model

    Raises DataError for a question that the file does not answer.
    """
    from diptych.core.registry import TASKS
    from diptych.tasks.answer_files import AnswersOfFile, HeldRows, read_answers

    rows, whole = read_answers(answers, column=column), read(data)
    parts = {split: whole.split(split).named(f"{whole.name}/{split}")} if split else scored_rows(whole, None)
    if isinstance(task, str) and "blind" in {one.name for one in fields(TASKS.load(task))}:
        options["blind"] = False
    elif not isinstance(task, str) and getattr(task, "blind", False):
        task = replace(task, blind=False)  # type: ignore[type-var]
    results = {}
    for name, part in parts.items():
        held = HeldRows(part)
        results[name] = _run(AnswersOfFile(rows, held, file=Path(answers)), task, whole, held, out, options)
    return results


def _whole(model: Any, data: Any) -> Any:
    """The data, with what was held out for the run that the model is from, if it is one's."""
    run = run_of(model)
    return read(data) if run is None else data_of(run, data)


def scored_rows(whole: Any, run: RunFolder | None) -> dict[str, Any]:
    """The held-out splits by name; the rows that a run was trained on as "training rows"."""
    parts = held_out(whole)
    if run is None or set(parts) != {whole.name}:
        return parts
    if run.subset.is_file():
        trained = not set(read_uids(run.subset)).isdisjoint(whole.uids)
    else:
        trained = whole.fingerprint == run.state.get("data", {}).get("fingerprint")
    return {TRAINING_ROWS: whole.named(f"{whole.name}/{TRAINING_ROWS}")} if trained else parts


def confusions(results: str | Path, data: Any, path: str | Path, *, title: str = "") -> Path:
    """Write an HTML page of what a model confuses, with pictures: of every result of a probe of captions among `results`, a folder that
    `evaluate(..., out=...)` wrote, whose rows are those of a split of `data`.

    Raises ConfigError if the results hold no probe on these data.
    """
    from diptych.report.confusions import confused_page
    from diptych.report.evaluation import stored_results

    whole = read(data)
    parts = {f"{whole.name}/{name}": whole.split(name) for name in split_names(whole)} or {whole.name: whole}
    stored = [(each, parts[each.part]) for each in stored_results(Path(results)) if each.part in parts]
    stored = [(each, rows) for each, rows in stored if each.result.notes.get("options") and "compare" in each.result.notes]
    if not stored:
        raise ConfigError(f"{results} contains no result of a probe on these data (expected one of {', '.join(parts)})")
    return confused_page(Path(path), title or str(stored[0][0].result.notes.get("model", {}).get("name", "a model")), stored)


def _run(model: Any, task: str | Task, whole: Any, part: Any, out: str | Path | None, options: dict[str, Any]) -> Result:
    from diptych.core.registry import TASKS
    from diptych.tasks import find
    from diptych.tasks.evaluate import evaluate as run_task
    from diptych.tasks.roles import roles_of

    opened = load(model) if isinstance(model, str | Path) else model
    roles = {role.name for role in roles_of(TASKS.load(task) if isinstance(task, str) else task)}
    own = {name: value for name, value in options.items() if name not in roles}
    made = find(task, **own) if isinstance(task, str) else task
    if getattr(made, "train", "none wanted") is None and "train" in split_names(whole):
        made = replace(made, train=whole.split("train"))  # type: ignore[type-var]
        if getattr(made, "val", "none wanted") is None and (name := getattr(made, "val_split", "")):
            made = replace(made, val=whole.split(name))  # type: ignore[type-var]
    if getattr(made, "validation", "none wanted") is None and "val" in split_names(whole):
        made = replace(made, validation=whole.split("val").named(f"{whole.name}/val"))  # type: ignore[type-var]
    others = {name: value for name, value in options.items() if name in roles}
    return run_task(made, opened, part, others=others, out=Path(out) if out else None)


def evaluate_run(run: str | Path | RunFolder, data: Any = None, **options: Any) -> dict[str, Result]:
    """A finished run on every held-out split of the data it was trained on, by the task of its recipe (retrieval for pairs, scene
    graphs for detectors); records go to the run folder, scores also into the model's card. No results if no task measures the recipe.

    options  fields of the task, such as origins=("label",)
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    whole = data_of(folder, data)
    made = recipe_of(folder)
    results = evaluate_splits(folder.path, default_task(made, **options), whole, out=folder.records) if made.measured_by else {}
    write_card(folder, whole)
    return results


def evaluate_kept(run: str | Path | RunFolder) -> dict[str, Result]:
    """The results that a run folder holds, by the name of the held-out rows."""
    from diptych.report.evaluation import results_by_split

    return results_by_split(run if isinstance(run, RunFolder) else RunFolder.open(Path(run)))


def report(run: str | Path, data: Any = None) -> Path:
    """Write `report.html` of a run: one file that opens offline. `data`: those of the run, where it names another machine's."""
    from diptych.pipelines.token_report import token_sections
    from diptych.report.pages.run import run_report

    folder = RunFolder.open(Path(run))
    if data is None and not folder.state.get("source", ""):
        return run_report(folder)
    shown = data_of(folder, data)
    return run_report(folder, shown, token_sections(folder, shown, load))
