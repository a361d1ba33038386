"""Models on the pretended CUDA device in use: evaluation, index, search, detection, captions, a step without memory, a norm that is none.

    python tests/helpers/pretended_use.py FOLDER

Prints one line of JSON: what each part gave on the processor and on the device, and operators that mixed devices.
"""

from __future__ import annotations

import pretended  # first: it comes before torch

# isort: split
import json
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pretended_steps import tiny

import diptych as dp
from diptych.core.errors import RunError
from diptych.models.io.device import place
from diptych.train import gradient_cache
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

Results = dict[str, Any]


def saved(slug: str, folder: Path) -> Path:
    """Folder of an untrained model."""
    recipe, _ = tiny(slug)
    torch.manual_seed(0)
    recipe.deploy(recipe.model().eval()).save(folder)
    return folder


def used(folder: Path, device: str, out: Path) -> Results:
    """What every part answers on a device."""
    data = resolve("world:scenes?n=24")
    test = data.split("train")
    pairs: Any = dp.load(folder / "clip", device=device, precision="fp32")
    fast: Any = dp.load(folder / "clip", device=device)
    detector: Any = dp.load(folder / "rlipv2", device=device)
    writer: Any = dp.load(folder / "limber", device=device)
    late: Any = dp.load(folder / "filip", device=device, precision="fp32")
    for model in (pairs.model, detector.model, writer.bridge, late.model):
        assert {p.device.type for p in model.parameters()} == {device.partition(":")[0]}
    answers: Results = {
        "fingerprint": pairs.fingerprint,
        "retrieval": {name: metric.value for name, metric in dp.evaluate(pairs, "retrieval", test).metrics.items()},
        "late_retrieval": {name: metric.value for name, metric in dp.evaluate(late, "retrieval", test).metrics.items()},
        "embedded": [model.embed_images([test[row].image for row in range(3)]).round(5).tolist() for model in (pairs, fast)],
        "bf16": fast.bf16,
    }
    with dp.index(pairs, test, out / f"{device}.index", progress=False) as index:
        answers["found"] = [hit.uid for hit in index.search("a red circle", k=5)]
    with dp.index(late, test, out / f"{device}.late", kind="late", progress=False) as index:
        answers["found_late"] = [hit.uid for hit in index.search("a red circle", k=5)]
    graph = dp.detect(detector, test[0].image, objects="red circle, blue star", relations="left of, above", min_score=0.0, top=5)
    answers["graph"] = [
        [*triplet, round(one.confidence, 4)] for triplet, one in zip(graph.triplets(), graph.relations, strict=True)
    ]
    answers["captions"] = dp.caption(writer, [test[row].image for row in range(3)], max_tokens=4)
    answers["answer"] = dp.ask(writer, test[0].image, "what is it?", choices=["a star", "a circle"]).text  # type: ignore[union-attr]
    return answers


def without_memory(out: Path) -> Results:
    """Losses of a run whose device holds four samples at once, and of one that has room."""
    recipe, data = tiny("clip")
    real = gradient_cache.backward

    def short(*args: Any, micro_batch: int = 0, **options: Any) -> Any:
        if not 0 < micro_batch <= 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(*args, micro_batch=micro_batch, **options)

    options = TrainOptions(device="cuda", precision="fp32", steps=4, log_every=1, progress=False, workers=0)
    roomy = fit(recipe, data, out / "roomy", options)
    gradient_cache.backward = short
    try:
        full = fit(recipe, data, out / "full", options)
        uncacheable = ""
        with suppress(StopIteration):
            try:
                whole, rows = tiny("dcd")
                fit(whole, rows, out / "whole", options)
            except RunError as error:
                uncacheable = str(error)
    finally:
        gradient_cache.backward = real
    losses = [[row["loss"] for row in run.metrics() if "loss" in row] for run in (roomy, full)]
    notes = [row["text"] for row in full.metrics() if row["kind"] == "note"]
    return {"losses": losses, "notes": notes, "uncacheable": uncacheable}


def without_norm(out: Path) -> Results:
    """What is left of a run whose gradients are no numbers from its third step on, and what it says; the run is resumed when they are."""
    recipe, data = tiny("clip")
    real = gradient_cache.backward
    calls = 0

    def wrong(recipe: Any, model: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        outcome = real(recipe, model, *args, **options)
        if calls == 3:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(torch.nan)
        return outcome

    options = TrainOptions(device="cuda", precision="fp32", steps=6, save_every=1, log_every=1, progress=False, workers=0)
    gradient_cache.backward = wrong
    try:
        fit(recipe, data, out / "wrong", options)
        problem = ""
    except RunError as error:
        problem = str(error)
    finally:
        gradient_cache.backward = real
    steps = sorted(path.name for path in (out / "wrong/checkpoints").iterdir())
    again = resume(out / "wrong", data)
    whole = fit(recipe, data, out / "right", replace(options, save_every=0))
    same = [(run.model / "model.safetensors").read_bytes() for run in (again, whole)]
    return {
        "problem": problem,
        "checkpoints": steps,
        "same": same[0] == same[1],
        "steps": [row["step"] for row in again.metrics()],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for slug in ("clip", "filip", "rlipv2", "limber"):
        saved(slug, out / slug)
    results: Results = {"cpu": used(out, "cpu", out)}
    pretended.install()
    results["cuda"] = used(out, "cuda:0", out)
    assert place(dp.load(out / "clip"), torch.device("cuda", 0)) is not None
    results["auto"] = str(next(dp.load(out / "clip").model.parameters()).device)  # type: ignore[attr-defined]
    results |= {"memory": without_memory(out), "norm": without_norm(out)}
    results["faults"] = sorted({f"{line} {what}" for _, what, _, line in pretended.notes.counts["fault"]})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
