"""Facts of an installation: versions, device, extras by command, disk, threads, and the speed of a short training."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from diptych.core.environment import environment
from diptych.core.machine import machine_class, usable_cores

EXTRAS = {
    "weights": "train locked; search and curation by packaged encoders",
    "serve": "serve",
    "mcp": "serve --mcp",
    "server": "index build --url: a Qdrant server",
    "adapters": "train --lora",
    "onnx": "export --to onnx; serve --engine onnx",
    "sentences": "export --to sentence-transformers",
    "track": "train --tensorboard",
    "wandb": "train --wandb",
    "mlflow": "train --mlflow",
    "datasets": "datasets objects as data; data export --to datasets",
    "frames": "DataFrames as data; to_pandas()",
    "curate": "curate: web rules, languages, joins",
    "scale": "curate --engine ray",
    "video": "video files as data",
    "slides": "slides, with OpenSlide",
    "tiffslide": "slides, with tiffslide",
    "h5": "HDF5 files as data",
    "geo": "GeoTIFF files as data; locate in them",
    "planning": "train sgl: plans of symbolic goals",
    "rl": "train rl4lms, ruig, ocr_rl, rlaif_v, dr_llava: rewards, environments",
    "sweep": "sweep",
    "plots": "plot",
    "remote": "data in object storage: s3://, https://",
    "diffusion": "generate; train reversion, relationbooth, text_to_image",
    "points": "XYZ, OFF and OBJ files as data",
    "heif": "HEIC pictures",
    "icons": "the data set of icons (data fetch icons)",
    "medical": "DICOM and NIfTI files",
    "ocr": "curate --ocr",
    "faces": "curate face_boxes",
    "gguf": "GGUF files of language models",
    "gemma": "a small packaged language model",
}
"""Extra -> the commands that need it."""


@dataclass(frozen=True, slots=True)
class ExtraState:
    """One extra of the installation.

    missing  requirements that are not installed, as `pip install` takes them
    """

    name: str
    used_by: str
    missing: tuple[str, ...]


def extras() -> list[ExtraState]:
    """Every extra with what is missing of it; of a source tree that is not installed none."""
    try:
        lines = metadata.requires("diptych") or []
    except metadata.PackageNotFoundError:
        return []
    return [ExtraState(name, used_by, tuple(_missing(name, lines))) for name, used_by in EXTRAS.items()]


def _missing(extra: str, lines: list[str]) -> list[str]:
    absent = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if not name or not re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", marker):
            continue
        if name[0] == "diptych":  # an extra that holds another one
            inner = re.search(r"\[(.*?)\]", requirement)
            absent += [each for other in (inner[1].split(",") if inner else ()) for each in _missing(other.strip(), lines)]
            continue
        try:
            metadata.version(name[0])
        except metadata.PackageNotFoundError:
            absent.append(requirement.strip())
    return absent


def device_facts() -> dict[str, Any]:
    """The device that training takes by itself, its name and memory in GiB; the threads of PyTorch on a processor."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = round(properties.total_memory / 2**30, 1)
        return {"device": "cuda", "name": properties.name, "memory_gib": memory, "count": torch.cuda.device_count()}
    if torch.backends.mps.is_available():
        return {"device": "mps"}
    return {"device": "cpu", "class": machine_class(), "threads": torch.get_num_threads(), "cores": usable_cores()}


def disk_facts(folder: Path) -> dict[str, Any]:
    """Free GiB at a folder, and whether a file can be written there."""
    from diptych.core.disk.paths import unwritable_reason

    free = shutil.disk_usage(folder).free / 2**30
    return {"folder": str(folder), "free_gib": round(free, 1), "fault": unwritable_reason(folder / "run")}


def training_speed(seconds: float = 10.0) -> dict[str, float]:
    """Pairs a second of `clip` (preset tiny) on rendered scenes, without evaluation, measured for about so long."""
    from diptych.api.data import read
    from diptych.api.recipes import recipe
    from diptych.train.estimate import estimate
    from diptych.train.options import TrainOptions
    from diptych.worlds.address import training_rows

    made = recipe("clip", steps=1000)
    rows = training_rows(read("world:scenes?n=256"))
    begin, best = time.perf_counter(), 0.0
    while not best or time.perf_counter() - begin < seconds:
        cost = estimate(made, rows, TrainOptions())
        best = max(best, float(made.batch_size) / float(cost["seconds_per_step"]))
    return {"pairs_per_second": best, "seconds": time.perf_counter() - begin}


def diagnose(*, speed: bool = True, folder: Path | None = None) -> dict[str, Any]:
    """Facts of this installation as plain values; `speed` measures a short training, about ten seconds.

    folder  whose disk is looked at; None is the working folder
    """
    facts = environment()
    facts["device"] = device_facts()
    facts["disk"] = disk_facts(folder or Path.cwd())
    facts["variables"] = {
        name: os.environ[name] for name in ("OMP_NUM_THREADS", "DIPTYCH_CACHE", "HF_HUB_OFFLINE") if name in os.environ
    }
    facts["extras"] = [{"name": each.name, "used_by": each.used_by, "missing": list(each.missing)} for each in extras()]
    if speed:
        facts["speed"] = training_speed()
    return facts
