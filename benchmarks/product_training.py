"""Training as a user starts it, `diptych train clip`, against open_clip's own program on the same pictures; for `on_cuda.py`.

Ours reads tar files, theirs loose files from a list: with the webdataset of today (1.0) open_clip 3.3 fails on tar files. Both decode JPEG
files in loader processes, augment nothing but a crop, train in bf16 and log. Rates are those of the logs, without the first third of the
steps, in which caches fill and blocks are compiled. FLOPs of a step are those that our log counts, for both: the models are the same.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

SHARDS = 8
SMALL_PEER = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
OPEN_CLIP = "import sys, open_clip; [open_clip.add_model_config(f) for f in sys.argv.pop(1).split() if f]; "
OPEN_CLIP += "from open_clip_train.main import main; main(sys.argv[1:])"
WORDS = ("red", "blue", "small", "large", "round", "box", "ball", "tree", "house", "dog", "cat", "boat", "lamp", "on", "under")


@dataclass(frozen=True)
class Loop:
    """Settings that both programs get. model: open_clip's name; tower: ours; small: the least models, to try it on a processor."""

    model: str
    tower: str
    batch: int
    steps: int
    workers: int
    device: str

    @property
    def small(self) -> bool:
        return self.device == "cpu"


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Smooth random JPEG pictures with captions, as tar files in `tars/` and as loose files in `files/` with a list."""
    rng, rows = np.random.default_rng(0), ["filepath,title"]
    tars, files = folder / "tars", folder / "files"
    tars.mkdir()
    files.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(tars / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard, count, SHARDS):
                coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
                jpeg, caption = io.BytesIO(), " ".join(rng.choice(WORDS, 9))
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
                for suffix, content in (("jpg", jpeg.getvalue()), ("txt", caption.encode())):
                    entry = tarfile.TarInfo(f"{number:07d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                file = files / f"{number:07d}.jpg"
                file.write_bytes(jpeg.getvalue())
                rows.append(f"{file},{caption}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def ours(loop: Loop, data: Path, out: Path, *options: str) -> dict[str, Any]:
    """Images a second, model TFLOP/s and MFU of `diptych train`."""
    words = ["train", "clip", "--preset", "paper", "--image-tower", loop.tower, "--data", str(data / "tars"), "--out", str(out)]
    words += ["--batch-size", str(loop.batch), "--steps", str(loop.steps), "--workers", str(loop.workers), "--hold-out", "0"]
    words += ["--log-every", str(max(1, loop.steps // 12)), "--save-every", "0", "--no-evaluation", "--no-progress"]
    words += ["--device", loop.device, "--precision", "fp32" if loop.small else "bf16", *options]
    if loop.small:
        words += ["--image-size", "32", "--width", "64", "--text-tower", "text_tiny"]
    _run([sys.executable, "-m", "diptych.cli", *words])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    later = [line for line in lines if line["kind"] == "train" and line["step"] > loop.steps // 3]
    middle = {name: median(line[name] for line in later) for name in ("images_per_second", "tflops", "mfu") if name in later[0]}
    return {**middle, "flops": later[0]["tflops"] * 1e12 * later[0]["seconds"]}


def theirs(loop: Loop, data: Path, out: Path, *options: str) -> dict[str, Any]:
    """Images a second of `open_clip_train.main`."""
    configs, model = "", loop.model
    if loop.small:
        model = "small-peer"
        configs = str(out.with_name("small-peer.json"))
        Path(configs).write_text(json.dumps(SMALL_PEER), encoding="utf-8")
    header, *rows = (data / "list.csv").read_text(encoding="utf-8").splitlines()
    table = out.with_name(f"{out.name}.csv")  # an epoch of theirs is one pass over the list
    table.write_text("\n".join([header, *itertools.islice(itertools.cycle(rows), loop.batch * loop.steps)]), encoding="utf-8")
    words = ["--model", model, "--dataset-type", "csv", "--train-data", str(table), "--csv-separator", ",", "--epochs", "1"]
    words += ["--warmup", "2000"]
    words += ["--batch-size", str(loop.batch), "--workers", str(loop.workers), "--logs", str(out), "--name", "run"]
    words += ["--log-every-n-steps", str(max(1, loop.steps // 12)), "--save-frequency", "0", "--device", loop.device]
    words += ["--precision", "fp32" if loop.small else "amp_bf16", *options]
    text = _run([sys.executable, "-c", OPEN_CLIP, configs, *words])
    seconds = [float(found) for found in re.findall(r"Batch \(t\): ([\d.]+)", text)]
    later = seconds[len(seconds) // 3 :]
    if not later:
        raise SystemExit(f"open_clip logged no step: {text[-1500:]}")
    return {"images_per_second": loop.batch / median(later)}


def _run(command: list[str]) -> str:
    """What a program printed; ends with its last lines where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "WANDB_MODE": "disabled"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2500:]}")
    return done.stdout + done.stderr


def compare(loop: Loop) -> dict[str, dict[str, Any]]:
    """Way to train -> its rates, one after the other on a free device."""
    ways: dict[str, Any] = {
        "ours": lambda data, out: ours(loop, data, out),
        "open_clip, as started": lambda data, out: theirs(loop, data, out),
    }
    if not loop.small:
        ways["ours, --compile"] = lambda data, out: ours(loop, data, out, "--compile")
        ways["open_clip, --torchcompile"] = lambda data, out: theirs(loop, data, out, "--torchcompile")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        data = Path(scratch, "pictures")
        data.mkdir()
        write_pictures(data, 32 * SHARDS if loop.small else max(8192, 4 * loop.batch), 48 if loop.small else 288)
        for number, (name, way) in enumerate(ways.items()):
            rows[name] = way(data, Path(scratch, f"run-{number}"))
            print(f"{loop.model:12}{name:32}{rows[name]['images_per_second']:>12,.1f} images/s", flush=True)
    for row in rows.values():  # open_clip's model is the same
        if "mfu" in rows["ours"] and "mfu" not in row:
            row["mfu"] = rows["ours"]["mfu"] * row["images_per_second"] / rows["ours"]["images_per_second"]
    return rows
