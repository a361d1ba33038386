"""One command for a machine with a CUDA device: parity, training and its speed, sharding, the detector; then one page.

    python benchmarks/on_cuda.py [--only parity training step detector fsdp] [--batch 256] [--rounds 10] [--device cuda]

    training  `diptych train clip` with its loader, log and precision against open_clip's own program on the same files, ViT-B/32 and
              ViT-B/16: images a second, their ratio, model FLOPs utilisation
    parity    every test marked `gpu`: losses, assignment, training and a dual encoder against the same on the processor
    step      a training step of ViT-B/32 in bf16 with fused attention and fused AdamW, as it is and under `torch.compile`, against
              open_clip as a user starts it (float32) and at its best (bf16, fused AdamW, compiled); images a second, largest memory
    detector  a step of the small RLIPv2 with sampling by `grid_sample` (the choice on CUDA), float32 and bf16
    fsdp      `torchrun` on every device that is there, at most four: `diptych train clip --shard fsdp` against one process; needs two

The page is `results/cuda/on_cuda.md` beside the file of results, and is printed. What was not run is "not measured" there. Without a
device the command ends with one line. `--device cpu` tries every part at its smallest on the processor and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine_results import Figure, Peer, facts, keep, last, path_of
from product_training import SMALL_PEER, Loop, compare
from torch import Tensor, nn

from diptych.data.load.stream import batches
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.worlds.links.world import links

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, END = 49408, 49407
SMALL = {"image_size": 32, "patch": 16, "width": 64, "layers": 2, "heads": 2}
Part = dict[str, Any]


def parity(options: argparse.Namespace) -> Part:
    """The tests marked gpu; on the processor they are collected and skipped."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", str(ROOT / "tests")]
    if options.device == "cpu":
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", str(ROOT / "tests/objectives/pairs/test_info_nce.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "summary": lines[-1] if lines else done.stderr[-500:]}


def timed(step: Callable[[], Tensor], device: str, rounds: int) -> tuple[float, float]:
    """Median seconds of a step after three that are not counted, and the largest memory in MiB (0 on the processor)."""
    cuda = device == "cuda"
    for _ in range(3 if cuda else 1):
        step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2], torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0


def stepper(model: nn.Module, loss_of: Callable[[], Tensor], *, device: str, bf16: bool, fused: bool) -> Callable[[], Tensor]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=fused or None)

    def step() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def step(options: argparse.Namespace) -> Part:
    device, small = options.device, options.device == "cpu"
    batch, side = (4, 32) if small else (options.batch, 224)
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.randn(batch, 3, side, side, generator=generator).to(device)
    text_BL = torch.randint(1, END - 1, (batch, 77), generator=generator)
    text_BL[:, -1] = END
    text_BL = text_BL.to(device)

    def ours(compiled: bool) -> Callable[[], Tensor]:
        image = image_tower("vit_tiny", **SMALL) if small else image_tower("vit_b32")
        text = text_tower(
            "text_clip", vocab_size=VOCABULARY, eot_id=END, **({"width": 64, "layers": 2, "heads": 2} if small else {})
        )
        model = DualEncoder(image, text, width=64 if small else 512).to(device)
        run: Any = torch.compile(model) if compiled else model

        def loss_of() -> Tensor:
            pairs = run(image_BCHW, text_BL)
            return info_nce(pairs.image_ND, pairs.text_ND, scale=pairs.scale)[0]

        return stepper(model, loss_of, device=device, bf16=True, fused=True)

    def theirs(best: bool) -> Callable[[], Tensor]:
        import open_clip
        from open_clip.loss import ClipLoss

        model = (open_clip.CLIP(**SMALL_PEER) if small else open_clip.create_model("ViT-B-32")).to(device)
        run: Any = torch.compile(model) if best and not small else model
        loss = ClipLoss()
        return stepper(model, lambda: loss(*run(image_BCHW, text_BL)[:3]), device=device, bf16=best, fused=best)

    ways = {"open_clip, as started": lambda: theirs(False), "open_clip, best (bf16, fused AdamW, compiled)": lambda: theirs(True)}
    ways |= {"ours": lambda: ours(False)} | ({} if small else {"ours, compiled": lambda: ours(True)})
    rows = {}
    for name, made in ways.items():  # one after the other: each has the memory to itself
        run = made()
        seconds, memory = timed(run, device, options.rounds)
        rows[name] = {"images_per_second": batch / seconds, "memory_mib": memory, "loss": float(run())}
        print(f"{name:48}{batch / seconds:>12,.1f} images/s{memory:>12,.0f} MiB", flush=True)
        del run
        if device == "cuda":
            torch.cuda.empty_cache()
    return {"batch": batch, "rows": rows}


def training(options: argparse.Namespace) -> Part:
    small = options.device == "cpu"
    steps, workers = (12, 1) if small else (options.steps, max(1, min(16, (os.cpu_count() or 2) - 2)))
    models = {"ViT-B-32": "vit_tiny"} if small else {"ViT-B-32": "vit_b32", "ViT-B-16": "vit_b16"}
    batch = 8 if small else options.batch
    rows = {model: compare(Loop(model, tower, batch, steps, workers, options.device)) for model, tower in models.items()}
    return {"batch": batch, "steps": steps, "workers": workers, "rows": rows}


def detector(options: argparse.Namespace) -> Part:
    device, rows = options.device, {}
    data = links(32).remembering()
    recipe = RLIPv2.tiny().prepare(data)
    for bf16 in (False, True):
        torch.manual_seed(0)
        model = recipe.model().to(device)
        batch = next(iter(batches(data, recipe, seed=0, stop=1))).batch.to(device)

        def loss_of(model: nn.Module = model, batch: Any = batch) -> Tensor:
            return torch.stack(list(recipe.losses(recipe.features(model, batch), batch).values())).sum()

        run = stepper(model, loss_of, device=device, bf16=bf16, fused=True)
        seconds, memory = timed(run, device, options.rounds)
        rows["bf16" if bf16 else "float32"] = {"images_per_second": recipe.batch_size / seconds, "memory_mib": memory}
        print(
            f"RLIPv2 tiny, {'bf16' if bf16 else 'float32':10}{recipe.batch_size / seconds:>12,.1f} images/s{memory:>12,.0f} MiB",
            flush=True,
        )
    return {"batch": recipe.batch_size, "rows": rows}


def fsdp(options: argparse.Namespace) -> Part:
    """Seconds of the same run in one process and in as many as there are devices; and that both end with the same loss."""
    import json

    count = 2 if options.device == "cpu" else min(4, torch.cuda.device_count())
    if count < 2:
        print("needs two GPUs: left out")
        return {"skipped": "needs two GPUs"}
    steps = 2 if options.device == "cpu" else 60
    words = [
        "train",
        "clip",
        "--data",
        "world:scenes?n=512&val=8&test=8",
        "--steps",
        str(steps),
        "--no-evaluation",
        "--no-progress",
    ]
    words += ["--log-every", str(steps), "--device", options.device, "--precision", "fp32"]
    found: Part = {"processes": count, "steps": steps}
    with tempfile.TemporaryDirectory(prefix="cuda-") as folder:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(count),
            "-m",
            "diptych.cli",
        ]
        for name, command in (
            ("one", [sys.executable, "-m", "diptych.cli", *words]),
            ("fsdp", [*torchrun, *words, "--shard", "fsdp"]),
        ):
            start = time.perf_counter()
            done = subprocess.run([*command, "--out", f"{folder}/{name}"], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"fsdp: {' '.join(command[-8:])} ended with {done.returncode}: {done.stderr[-1500:]}")
            lines = Path(folder, name, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
            found[name] = {"seconds": time.perf_counter() - start, "loss": losses[-1] if losses else None}
            print(f"{name:8}{found[name]['seconds']:>10.1f} s, last loss {found[name]['loss']}", flush=True)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "parity": parity,
    "training": training,
    "step": step,
    "detector": detector,
    "fsdp": fsdp,
}
NOT_MEASURED = "not measured"


def page(parts: dict[str, Part], device: str) -> str:
    """The results as a page of Markdown; "not measured" where a part was not run."""
    lines = [f"# Measured on {device}", ""]
    lines += [f"- {name}: {of['date']}, commit {str(of['environment'].get('commit'))[:12]}" for name, of in parts.items()]
    passed = parts.get("parity", {}).get("summary", NOT_MEASURED)
    lines += ["", f"Tests marked `gpu`: {passed}", "", "## Training, loader and log included", ""]
    lines += _rate_table(parts.get("training", {}).get("rows", {}))
    lines += ["", "## A step alone, pictures in the memory of the device", ""]
    lines += _rate_table({"ViT-B-32": parts["step"]["rows"]} if "step" in parts else {})
    lines += ["", "## Relation detector (RLIPv2 tiny)", "", "| precision | images/s | memory, MiB |", "|---|---|---|"]
    detecting = parts.get("detector", {}).get("rows", {})
    for precision in ("float32", "bf16"):
        row = detecting.get(precision)
        cells = f"{row['images_per_second']:,.1f} | {row['memory_mib']:,.0f}" if row else f"{NOT_MEASURED} | "
        lines.append(f"| {precision} | {cells} |")
    lines += ["", "## Several GPUs", "", _sharded_line(parts.get("fsdp", {}))]
    return "\n".join(lines) + "\n"


def _rate_table(models: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| model | way | images/s | times open_clip's best | MFU | memory, MiB |", "|---|---|---|---|---|---|"]
    for model, rows in models.items():
        best = max(row["images_per_second"] for way, row in rows.items() if way.startswith("open_clip"))
        for way, row in rows.items():
            mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
            memory = f"{row['memory_mib']:,.0f}" if row.get("memory_mib") else ""
            rate = row["images_per_second"]
            lines.append(f"| {model} | {way} | {rate:,.0f} | {rate / best:.2f} | {mfu} | {memory} |")
    return lines if models else [*lines, f"| | | {NOT_MEASURED} | | | |"]


def _sharded_line(part: Part) -> str:
    if "fsdp" not in part:
        return f"FSDP2 against one process: {NOT_MEASURED} ({part.get('skipped', 'not run')})."
    one, many = part["one"], part["fsdp"]
    return (
        f"`diptych train clip`, {part['steps']} steps: one process {one['seconds']:.1f} s, FSDP2 on {part['processes']} devices "
        f"{many['seconds']:.1f} s; last loss {one['loss']} and {many['loss']}."
    )


def figures(parts: dict[str, Part]) -> list[Figure]:
    found = []
    for model, rows in parts.get("training", {}).get("rows", {}).items():
        rate = {way: row["images_per_second"] for way, row in rows.items()}
        peers = tuple(Peer(way, value, "compile" in way) for way, value in rate.items() if way.startswith("open_clip"))
        found += [
            Figure(f"training {model}, batch {parts['training']['batch']}, {way}", "images/s", value, peers, less=False)
            for way, value in rate.items()
            if way.startswith("ours")
        ]
    if one := parts.get("step"):
        rate = {name: row["images_per_second"] for name, row in one["rows"].items()}
        peers = tuple(Peer(name, value, "best" in name) for name, value in rate.items() if name.startswith("open_clip"))
        found += [
            Figure(f"ViT-B/32, batch {one['batch']}, {name}", "images/s", value, peers, less=False)
            for name, value in rate.items()
            if name.startswith("ours")
        ]
    if two := parts.get("detector"):
        plain = Peer("float32", two["rows"]["float32"]["images_per_second"])
        found.append(Figure("RLIPv2 tiny, bf16", "images/s", two["rows"]["bf16"]["images_per_second"], (plain,), less=False))
    three = parts.get("fsdp", {})
    if "fsdp" in three:
        alone = Peer("one process", three["one"]["seconds"])
        found.append(
            Figure(
                f"clip, {three['steps']} steps, FSDP2 on {three['processes']} devices", "s", three["fsdp"]["seconds"], (alone,)
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the others keep their last result")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=240, help="of `training`")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} finds no CUDA device (expected one; --device cpu tries the parts and writes nothing)"
        )
    options.rounds = options.rounds if options.device == "cuda" else 1
    parts = dict(last("on_cuda", "cuda").get("parts", {})) if options.device == "cuda" else {}
    for name in options.only:
        print(f"== {name}", flush=True)
        found = PARTS[name](options)
        parts[name] = {**facts(), **found}
        if name == "parity":
            print(found["summary"])
    shown = page(parts, torch.cuda.get_device_name() if options.device == "cuda" else "a processor, to try the parts")
    print(shown)
    if options.device == "cuda":
        path_of("on_cuda", "cuda").with_suffix(".md").write_text(shown, encoding="utf-8")
        keep(
            "on_cuda",
            {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "parts": parts},
            figures(parts),
            "cuda",
        )
        if "parity" in options.only and not parts["parity"]["passed"]:
            raise SystemExit("parity failed")


if __name__ == "__main__":
    main()
