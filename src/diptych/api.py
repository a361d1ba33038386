"""The public face: read, train, load, evaluate, index. Names of recipes, worlds, models and tasks become objects here.

>>> import diptych as dp
>>> pool = dp.read("emoji", split="unseen_style")
>>> pool[0].positives("en")[0].string != ""
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import Dataset, Detector, Recipe
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.image import as_image
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.core.scene_graph import SceneGraph
from diptych.worlds.address import as_drawn, held_out, open_data, split_names, training_rows

if TYPE_CHECKING:
    from diptych.claims.compare import Arm, Comparison
    from diptych.core.contracts import Embedder, Task
    from diptych.core.result import Result
    from diptych.index.base import Index
    from diptych.train.options import TrainOptions

Say = Callable[[str], None]

# ---------------------------------------------------------------- data


def read(source: Any, *, split: str = "", **columns: Any) -> Any:
    """Open image-text data, whatever its form.

    source   "emoji" (in the package), "world:NAME?options" (rendered), a folder, a CSV, TSV, JSONL or Parquet file, WebDataset tars,
             COCO or Karpathy JSON, a folder that `diptych data build` made, a Hugging Face `datasets` object, or a data set
    split    only the rows of that split
    columns  which columns hold what: image=, text=, media=, group=, split=, uid=, licence=, language=
    """
    data = open_data(source, **columns)
    return data.split(split) if split else data


# ---------------------------------------------------------------- training


def recipe(name: str | Recipe, *, preset: str = "tiny", **changes: Any) -> Recipe:
    """A recipe by slug, from one of its presets ("tiny", "paper", ...), with changed fields; an object is taken as it is, with changes.

    >>> recipe("clip", steps=10).steps
    10
    """
    if isinstance(name, Recipe):
        made = name
    else:
        kind = RECIPES.load(name)
        made = kind.preset(preset)
    known = [f.name for f in fields(made)]
    for field in changes:
        if field not in known:
            raise UnknownName(f"field of '{made.slug}'", field, known)
    return from_plain(type(made), {**to_plain(made), **to_plain(changes)}) if changes else made


def train(
    name: str | Recipe,
    data: Any,
    out: str | Path,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    init: str | Path = "",
    subset: str | Path | Sequence[str] = "",
    say: Say | None = None,
    **changes: Any,
) -> RunFolder:
    """Train a recipe and return its run folder.

    name     a slug, or a recipe object
    data     anything that `read` opens; with splits, the rows of "train" are used
    options  seed, workers, precision, checkpoints (`diptych.train.options.TrainOptions`); options of that class may also be
             given among the changes: train("clip", "emoji", "runs/a", seed=1, workers=2, lr=2e-4)
    init     a run folder or model folder whose tensors of equal name and shape are the start
    subset   only these samples: uids, or a file with one a line; those in held-out splits are left out
    say      gets the lines of the data report before the first step
    """
    from diptych.train.fit import fit
    from diptych.train.options import TrainOptions

    own = {f.name for f in fields(TrainOptions)} - {"steps", "init"}
    options = replace(options or TrainOptions(), **{k: changes.pop(k) for k in list(changes) if k in own})
    if init:
        options = replace(options, init=str(weights_of(init)))
    made = recipe(name, preset=preset, **changes)
    if Path(out).exists() and any(Path(out).iterdir()):
        raise RunError(f"{out} is not empty: choose another folder, or go on with `diptych train --resume {out}`")
    whole = read(data)
    uids = _uids(subset)
    rows = _limited(training_rows(whole), whole, uids, subset)
    refuse_missing(made, rows)
    rows = as_drawn(rows, made)
    made = made.prepare(rows)
    if say:
        if uids:
            say(
                f"limited to {len(rows):,} uids"
                + (f"; {len(uids) - len(rows):,} more are held out" if len(rows) < len(uids) else "")
            )
        for line in data_report(made, rows, whole):
            say(line)
    source = data if isinstance(data, str | Path) else ""
    record: dict[str, Any] = {"source": str(source), **({"subset": len(rows)} if uids else {})}
    files = {"subset.txt": "".join(f"{uid}\n" for uid in uids)} if uids else None
    return fit(made, rows, out, options, validators(made, whole, options), record=record, files=files)


def _uids(subset: str | Path | Sequence[str]) -> list[str]:
    from diptych.data.subset import read_uids

    return (read_uids(subset) if isinstance(subset, str | Path) else list(subset)) if subset else []


def _limited(rows: Any, whole: Any, uids: Sequence[str], file: object = None) -> Any:
    """The training rows that are to be used."""
    from diptych.data.subset import subset

    return subset(rows, uids, whole=whole, file=file if isinstance(file, str | Path) else None) if uids else rows


def resume(run: str | Path, *, data: Any = None) -> RunFolder:
    """Go on with a run that was stopped or killed. A finished one is returned as it is.

    data  only where the run was started on an object and not on an address
    """
    from diptych.train.fit import resume as resume_run
    from diptych.train.options import TrainOptions

    folder = RunFolder.open(Path(run))
    if folder.state["status"] == "finished":
        return folder
    source = data if data is not None else folder.state.get("source", "")
    if not source and data is None:
        raise RunError(f"{run} was trained on an object: pass it again as data=")
    whole = read(source)
    options = from_plain(TrainOptions, folder.config["run"])
    made = _recipe_of(folder)
    uids = _uids(folder.subset) if folder.subset.is_file() else []
    rows = _limited(training_rows(whole), whole, uids, folder.subset)
    return resume_run(folder.path, as_drawn(rows, made), validators(made, whole, options))


def _recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run, as it was prepared."""
    made: Recipe = from_plain(RECIPES.load(folder.state["slug"]), folder.config["recipe"])
    return made


def estimate(
    name: str | Recipe,
    data: Any,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    subset: str | Path | Sequence[str] = "",
    **changes: Any,
) -> dict[str, Any]:
    """What a run would cost: seconds a step and in all, parameters, memory, disk. Takes a few real steps and writes nothing."""
    from diptych.train.estimate import estimate as measure
    from diptych.train.options import TrainOptions

    made = recipe(name, preset=preset, **changes)
    whole = read(data)
    rows = _limited(training_rows(whole), whole, _uids(subset), subset)
    refuse_missing(made, rows)
    return measure(made, rows, options or TrainOptions())


def refuse_missing(made: Recipe, data: Dataset) -> None:
    """Say before the first step which field a recipe needs and the data lack."""
    if not len(data):
        raise DataError(f"'{data.name}' is empty: there is nothing to train on", expected="one sample or more")
    first = data[0]
    for field in made.needs:
        there = getattr(first, field) if hasattr(first, field) else first.extras.get(field)
        if there in (None, (), ""):
            raise DataError(
                f"recipe '{made.slug}' needs '{field}', which '{data.name}' does not have",
                row=0,
                field=field,
                expected=f"{', '.join(made.needs)} in every sample",
            )


def data_report(made: Recipe, rows: Any, whole: Any) -> list[str]:
    """The report before training, in lines: what is in the data, and what will go wrong. Rendered worlds have nothing to inspect."""
    from diptych.data.dataset import Pool
    from diptych.data.inspect import inspect
    from diptych.data.split import leaks
    from diptych.recipes._shared.pairs import PairRecipe

    if not isinstance(rows, Pool):
        return [f"{rows.name}: {len(rows):,} samples, rendered as they are needed"]
    words = made.words() if isinstance(made, PairRecipe) else None
    length = made.text_length if isinstance(made, PairRecipe) else 0
    report = inspect(rows, tokenizer=words, text_length=length, batch_size=made.batch_size)
    lines = [line for line in report.lines() if not line.startswith("no leak between splits")]
    return lines + (leaks(whole).lines() if len(split_names(whole)) > 1 else [])


def validators(made: Recipe, whole: Any, options: TrainOptions) -> Sequence[tuple[str, Callable[[Any], Mapping[str, float]]]]:
    """Evaluations inside the run: the recipe's own task on the split "val" where there is one, when `eval_every` asks for it."""
    if not options.eval_every or "val" not in split_names(whole):
        return ()
    task, part = _own_task(made, draws=100), whole.split("val")

    def ask(model: Any) -> Mapping[str, float]:
        result = task.score(task.predict(model, part))
        return {name: metric.value for name, metric in result.metrics.items()}

    return ((f"{task.name}-val", ask),)


def _own_task(made: Recipe, **options: Any) -> Task:
    """The task that a recipe is measured by."""
    from diptych.claims.spelling import spelled
    from diptych.tasks import find

    name, own = spelled(made.measured_by)
    return find(name, **{**own, **options})


def weights_of(source: str | Path) -> Path:
    """The weights file of a run folder or model folder."""
    folder = Path(source)
    for path in (folder / "model" / "model.safetensors", folder / "model.safetensors"):
        if path.is_file():
            return path
    raise RunError(f"{source} has no model.safetensors (expected a finished run folder, or its model/)")


# ---------------------------------------------------------------- models


def load(name: str | Path, *, download: bool = False, engine: str = "torch") -> Embedder:
    """A model that embeds images and texts.

    name      a run folder, a model folder, a folder of `diptych export --to onnx`, "hf:FOLDER_OR_NAME" (CLIP and SigLIP families),
              "open_clip:ARCH/FILE_OR_TAG", "timm:NAME"
    download  allows fetching what is not on this machine; nothing is fetched without it
    engine    "torch", or "onnx": ONNX Runtime on an export, which is made anew where `name` is none (extra `[onnx]`)
    """
    if engine not in ("torch", "onnx"):
        raise UnknownName("engine", engine, ("torch", "onnx"))
    if engine == "onnx" or (Path(name) / "onnx.json").is_file():
        return _on_onnx(name, download)
    from diptych.models.io.opened import open_address

    model: Embedder = open_address(name, download=download)
    return model


def _on_onnx(name: str | Path, download: bool) -> Embedder:
    """The export in a folder, or one made of a model, which lasts as long as this process."""
    import tempfile

    from diptych.models.io.export import ONNX_FILE, to_onnx
    from diptych.models.io.onnx_embedder import OnnxEmbedder
    from diptych.models.pairs.embedder import PairEmbedder

    if (Path(name) / ONNX_FILE).is_file():
        return OnnxEmbedder(name)
    model: Any = load(name, download=download)
    if not isinstance(model, PairEmbedder):
        raise ConfigError(f"{name} is a {getattr(model, 'kind', 'foreign')} model; only dual encoders of ours can be exported")
    with tempfile.TemporaryDirectory(prefix="diptych-onnx-") as folder:
        to_onnx(model, Path(folder, "onnx"))
        return OnnxEmbedder(Path(folder, "onnx"))


def detect(
    model: Any,
    image: Any,
    *,
    objects: Sequence[str] = (),
    relations: Sequence[str] = (),
    min_score: float = 0.0,
    top: int = 100,
) -> SceneGraph:
    """What is in an image and how it is related, in your own words.

    model      a model that detects, or where to load one from
    image      a path, encoded bytes, uint8 [H, W, 3] pixels, or an `ImageSource`
    objects    names of things to look for; empty takes those the model was trained with. The same for `relations`
    min_score  relations (and regions without one) below this score are left out
    top        relations, at most, the most confident first
    """
    made = load(model) if isinstance(model, str | Path) else model
    if not isinstance(made, Detector):
        raise ConfigError(
            f"{getattr(made, 'name', model)} does not detect (expected a model trained with a recipe such as rlipv2)"
        )
    words = {
        "objects": tuple(objects) or tuple(getattr(made, "objects", ())),
        "relations": tuple(relations) or tuple(getattr(made, "relations", ())),
    }
    if not words["objects"]:
        raise ConfigError(f"{made} has no names of its own (expected objects=[...])")
    graph: SceneGraph = made.detect([as_image(image)], **words)[0]
    return graph.strongest(top=top, min_score=min_score)


# ---------------------------------------------------------------- evaluation


def evaluate(
    model: Any, task: str | Task, data: Any, *, split: str = "", out: str | Path | None = None, **options: Any
) -> Result:
    """One task on one set of rows, with intervals.

    model    a model, or anything that `load` opens
    task     "retrieval", "zero_shot", "vg150", ... (`diptych.core.registry.TASKS`), or a task object
    split    which rows; needed when the data have several held-out splits (`evaluate_splits` does them all)
    out      a folder for the records (Parquet) and the result (JSON)
    options  fields of the task: language="de", label="group_name", ...; whom it asks beside the model, by role: snapshots="RUN/snapshots"
    """
    whole = read(data)
    if split:
        part = whole.split(split).named(f"{whole.name}/{split}")
    else:
        parts = held_out(whole)
        if len(parts) > 1:
            raise ConfigError(
                f"'{whole.name}' has {len(parts)} held-out splits: choose split= among {', '.join(parts)}, or call evaluate_splits"
            )
        part = next(iter(parts.values()))
    return _run(model, task, whole, part, out, options)


def evaluate_splits(
    model: Any, task: str | Task, data: Any, *, out: str | Path | None = None, **options: Any
) -> dict[str, Result]:
    """One task on every held-out split, always reported together."""
    opened = load(model) if isinstance(model, str | Path) else model
    whole = read(data)
    return {name: _run(opened, task, whole, part, out, options) for name, part in held_out(whole).items()}


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
    others = {name: value for name, value in options.items() if name in roles}
    return run_task(made, opened, part, others=others, out=Path(out) if out else None)


def evaluate_run(run: str | Path | RunFolder, data: Any = None, **options: Any) -> dict[str, Result]:
    """A finished run on every held-out split of the data it was trained on, by the task of its recipe (retrieval for pairs, scene
    graphs for detectors); records go to the run folder.

    options  fields of the task, such as origins=("label",)
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    source = data if data is not None else folder.state.get("source", "")
    return evaluate_splits(load(folder.path), _own_task(_recipe_of(folder), **options), source, out=folder.records)


def evaluate_kept(run: str | Path | RunFolder) -> dict[str, Result]:
    """The results that a run folder holds, by the name of the held-out rows."""
    from diptych.report.evaluation import kept_results

    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    return {kept.part.rpartition("/")[2]: kept.result for kept in kept_results(folder.records)}


def report(run: str | Path) -> Path:
    """Write `report.html` of a run: one file that opens offline."""
    from diptych.report.run import run_report

    folder = RunFolder.open(Path(run))
    source = folder.state.get("source", "")
    return run_report(folder, read(source) if source else None)


# ---------------------------------------------------------------- comparison


def compare(
    arms: Sequence[str | Path | Recipe | Embedder],
    data: Any,
    *,
    tasks: Sequence[str] = ("retrieval",),
    seeds: int | Sequence[int] = 5,
    budget: str = "",
    preset: str = "tiny",
    out: str | Path = "runs/compare",
    options: TrainOptions | None = None,
    matters: float = 0.01,
    equal: float = 0.0,
    download: bool = False,
    say: Say | None = None,
    **changes: Any,
) -> Comparison:
    """Which helps on these data: several recipes under one budget, or several models that are there already.

    arms     slugs, with options if they differ in some ("clip:lr=2e-4"), or recipe objects; or run folders, "hf:", "open_clip:"
             and model objects. The others are measured against the first
    tasks    "retrieval", "zero_shot:label=group_name", ...; all on every held-out split
    seeds    how many (0, 1, ...), or which; three at least for a verdict
    budget   "steps:N", "samples:N" or "seconds:N" of training; "" takes the steps of the first recipe
    matters  the smallest difference that would matter; `equal`: how close counts as equal, by default the same
    out      folder of the cells: what is finished there is read, what is half done goes on
    changes  fields of every recipe: batch_size=64
    """
    from diptych.claims.compare import check_version
    from diptych.claims.compare import compare as run_comparison
    from diptych.claims.spelling import Budget
    from diptych.claims.verdict import Margins

    count = range(seeds) if isinstance(seeds, int) else tuple(seeds)
    if not count:
        raise ConfigError(f"seeds is {seeds} (expected 1 or more; three at least for a verdict)")
    if "steps" in changes:
        raise ConfigError("steps are what the budget gives: say budget steps:N")
    spend = Budget.parse(budget) if budget else None
    sides = [_arm(arm, preset, changes, download) for arm in arms]
    whole = read(data)
    for side in sides:
        if side.recipe is not None:
            refuse_missing(side.recipe, training_rows(whole))
        elif (Path(side.address) / "run.json").is_file():
            check_version(side.address, RunFolder.open(Path(side.address)).state, whole)
    return run_comparison(
        _short_names(sides),
        whole,
        Path(out),
        source=str(data) if isinstance(data, str | Path) else "",
        tasks=tasks,
        seeds=count,
        budget=spend,
        options=options,
        margins=Margins(matters, equal or matters),
        say=say or (lambda line: None),
    )


def _arm(arm: Any, preset: str, changes: Mapping[str, Any], download: bool) -> Arm:
    from diptych.claims.compare import Arm
    from diptych.claims.spelling import spelled
    from diptych.models.io.opened import FOREIGN

    if isinstance(arm, Recipe):
        return Arm(arm.slug, recipe(arm, **changes))
    if not isinstance(arm, str | Path):
        return Arm(str(arm.name), model=arm)
    words = str(arm)
    if words.startswith(FOREIGN) or isinstance(arm, Path) or "/" in words or Path(words).is_dir():
        return Arm(words, model=load(arm, download=download), address=words)
    name, own = spelled(words)
    return Arm(words, recipe=recipe(name, preset=preset, **{**changes, **own}))


def _short_names(arms: Sequence[Arm]) -> list[Arm]:
    """Addresses by their last part, where that tells them apart."""
    short = [replace(arm, name=Path(arm.address).name) if arm.address else arm for arm in arms]
    return short if len({arm.name for arm in short}) == len(arms) else list(arms)


# ---------------------------------------------------------------- search


def index(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    kind: str = "dense",
    what: str = "images",
    overwrite: bool = False,
    progress: bool = True,
    url: str = "",
    **options: Any,
) -> Index:
    """Embed data and make it searchable: `index(model, "pairs/", "pairs.index").search("a red bus")`.

    model    a model, anything that `load` opens, "words" (BM25 over the texts; kind "lexical") or "annotations" (the scene graphs of
             the data; kind "graphs")
    kind     "dense", "nested" (prefix, order, shortlist), "lexical" (query_terms), "late" (shortlist), "hybrid" (fusion, lexical, depth),
             "graphs" (objects, relations, min_confidence); in brackets what `options` may hold
    what     "images": one item a sample; "texts": one item a text
    url      of a Qdrant server that is to hold the vectors
    """
    from diptych.index.kinds import kind as kind_of_index

    wanted = kind_of_index(kind)
    opened = _searcher(model) if isinstance(model, str | Path) else model
    source = {
        "model": str(model) if isinstance(model, str | Path) else "",
        "data": str(data) if isinstance(data, str | Path) else "",
    }
    return wanted.build(
        opened,
        read(data),
        out,
        what=what,  # type: ignore[arg-type]
        overwrite=overwrite,
        progress=progress,
        url=url,
        source=source,
        **options,
    )


def open_index(folder: str | Path, *, model: Any = "") -> Index:
    """An index of any kind with its model: the one it was built with, unless another address of the same model is given."""
    from diptych.index.facts import read_facts
    from diptych.index.kinds import open_index as open_any

    address = model or read_facts(Path(folder)).source.get("model", "")
    if not address:
        raise RunError(f"{folder} was built from a model object: pass the model's address")
    return open_any(folder, _searcher(address) if isinstance(address, str | Path) else address)


def _searcher(address: str | Path) -> Any:
    """What an index is built with: a model, the words of the texts, or the graphs of the data."""
    if str(address) == "words":
        from diptych.index.lexicon import Words

        return Words()
    if str(address) == "annotations":
        from diptych.index.graphs import Annotations

        return Annotations()
    return load(address)
