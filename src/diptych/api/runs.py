"""Provenance of a run: command line, recipe, seed, data, versions, commit; and what is otherwise now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.api.recipes import recipe_of
from diptych.core.disk.json_text import read_object
from diptych.core.environment import commit
from diptych.core.errors import ConfigError, RunError
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.report.paper_table import PaperTable

if TYPE_CHECKING:
    from diptych.report.paper_plots import PlotFormat


def publish_results(run: RunFolder, results: Mapping[str, Result], page: Path, say: Callable[[str], None]) -> None:
    """Send the held-out results of a run, and its report, to the boards that it was logged to."""
    from diptych.train.trackers import publish

    values = {
        f"held_out/{split}/{name}": metric.value
        for split, result in results.items()
        for name, metric in result.metrics.items()
        if math.isfinite(metric.value)
    }
    publish(run, values, page, say)


def run_info(run: str | Path) -> dict[str, Any]:
    """Plain values on a run folder.

    status, step, error     where it stands
    recipe, command         slug or file of the recipe; the words of the command line that began it
    seed, data, fingerprint
    commit, python, packages  of the run; packages are those below a training, requirements.txt in the folder has every other
    source                  copies of the files that define the recipe
    changed                 lines on what is otherwise now: fields of config.yaml, files of the recipe, modules, packages
    resume                  the command that goes on with it; "" for a finished run
    """
    from diptych.train.provenance import changed_modules, changed_packages, changed_recipe_files, edited_fields

    folder = RunFolder.open(Path(run))
    state, config = folder.state, folder.config
    made = state.get("environment", {})
    changed = [f"config.yaml: {edit}" for edit in edited_fields(folder)]
    try:
        changed += [f"{path.name}: not as in {path}" for path in changed_recipe_files(folder, recipe_of(folder))]
    except (RunError, ConfigError) as error:
        changed.append(str(error))
    changed += [f"module {name}" for name in changed_modules(folder)]
    changed += changed_packages(folder)
    finished = state["status"] == "finished"
    return {
        "run": str(folder.path),
        "status": state["status"],
        "step": state.get("step", 0),
        "error": state.get("error") or "",
        "recipe": state.get("recipe") or state["slug"],
        "command": state.get("command", []),
        "seed": config["run"].get("seed", 0),
        "data": state.get("source") or state.get("data", {}).get("name", ""),
        "fingerprint": state.get("data", {}).get("fingerprint", ""),
        "commit": made.get("commit", ""),
        "commit_now": commit(),
        "python": made.get("python", ""),
        "packages": made.get("packages", {}),
        "source": [str(folder.source / name) for name in state.get("source_files", {})],
        "changed": changed,
        "resume": "" if finished else f"diptych train --resume {folder.path}",
    }


def paper_table(sources: Sequence[str | Path], *, every: bool = False, points: bool = False) -> PaperTable:
    """Table of a comparison (its folder or comparison.json), or of the held-out results that run folders hold.

    every   all metrics of a comparison, not the main ones alone
    points  shares in hundredths
    Raises ConfigError for something else, or runs without results.
    """
    from diptych.api.evaluation import evaluate_kept
    from diptych.report.paper_table import comparison_table, runs_table

    paths = [Path(source) for source in sources]
    if (file := _comparison_file(paths)) is not None:
        with _is_comparison(file):
            return comparison_table(read_object(file), every=every, points=points)
    results = {}
    for path in _run_folders(paths):
        results[str(path)] = evaluate_kept(path)
        if not results[str(path)]:
            raise ConfigError(f"{path} contains no results (expected those of diptych eval)")
    return runs_table(results, points=points)


def paper_plots(sources: Sequence[str | Path], out: str | Path, *, formats: Sequence[PlotFormat] = ("svg", "pdf")) -> list[Path]:
    """Plots of a comparison, or curves of run folders, written into a folder; the data of each lie beside it as CSV.

    Raises ConfigError for something else, or runs without a log; MissingExtra without matplotlib.
    """
    from diptych.report.paper_plots import comparison_plots, run_plots, write_plots

    paths = [Path(source) for source in sources]
    if (file := _comparison_file(paths)) is not None:
        with _is_comparison(file):
            plots = comparison_plots(read_object(file))
    else:
        plots = run_plots({path.name: list(RunFolder.open(path).metrics()) for path in _run_folders(paths)})
    if not plots:
        raise ConfigError(f"{paths[0]} has nothing to plot (expected a run with steps in its log)")
    return write_plots(plots, Path(out), formats)


def _comparison_file(paths: Sequence[Path]) -> Path | None:
    """The results of the one comparison that is named; None for run folders."""
    files = [path / "comparison.json" if path.is_dir() else path for path in paths]
    return files[0] if len(files) == 1 and files[0].is_file() else None


@contextmanager
def _is_comparison(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a comparison: {type(error).__name__}: {error}") from error


def _run_folders(paths: Sequence[Path]) -> Sequence[Path]:
    """The paths themselves. Raises ConfigError if one is not a run folder, or if the list is empty."""
    for path in paths:
        if not (path / "run.json").is_file():
            raise ConfigError(
                f"{path} is neither a run folder nor one comparison (expected RUN ..., or the folder of a comparison)"
            )
    if not paths:
        raise ConfigError("no run is given (expected RUN ..., or the folder of a comparison)")
    return paths
