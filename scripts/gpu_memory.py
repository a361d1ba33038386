"""Memory and FLOPs of training CLIP by model and batch: docs/measured/gpu_memory.json and two tables of docs/gpus.md.

python scripts/gpu_memory.py           takes a step of each with fake tensors, which have shapes and no values: seconds on any machine
python scripts/gpu_memory.py --page    the tables again from what is stored

A step is that of `clip --preset paper`: both towers under autocast to bf16, the contrastive loss, gradients, AdamW with weights and moments
in float32.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from diptych.recipes.contrastive.clip import CLIP
from diptych.train.devices.blocks import with_block_options
from diptych.train.devices.flops import StepFlops
from diptych.train.devices.peak_memory import PeakMemory
from diptych.train.options import TrainOptions

ROOT = Path(__file__).resolve().parents[1]
STORED, PAGE = ROOT / "docs/measured/gpu_memory.json", ROOT / "docs/gpus.md"
MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/32": {},
    "ViT-B/16": {"image_tower": "vit_b16"},
    "ViT-L/14": {"image_tower": "vit_l14", "text_tower": "text_clip_l", "width": 768},
}
WAYS = {"": 0, "`--checkpoint-layers 1`": 1}
COMPUTED, SHOWN = (64, 256), (64, 256, 1024)
"""Pairs at once; memory is a straight line over them."""
GIB = 2**30

# On paper, ViT-B/16 on 100 million pairs: H100s of one NVLink domain of eight, a network beside each.
PAIRS, BATCH = 100_000_000, 32_768
PEAK, MFU = 989e12, 0.4
LINK, NETWORK = 450e9, 50e9
"""Bytes a second and GPU: NVLink within a machine of eight, 400 Gb/s between machines."""
DECODING = 1.26e-3
"""Seconds of a core for a training crop of a JPEG picture of 512 x 341 pixels: measured, benchmarks/results/amx/decoding.json."""


def computed() -> dict[str, Any]:
    """Model -> way -> batch -> bytes of tensors and model FLOPs of a step."""
    rows: dict[str, Any] = {}
    for name, fields in MODELS.items():
        for way, layers in WAYS.items():
            for batch in COMPUTED:
                with FakeTensorMode():
                    row = step(replace(CLIP.paper(), **fields), batch, layers)
                rows.setdefault(name, {}).setdefault(way, {})[str(batch)] = row
                print(name, way, batch, row, flush=True)
    return rows


def step(recipe: Any, batch: int, checkpoint_layers: int) -> dict[str, int]:
    """Memory and FLOPs of the second step, which has the optimiser's moments from the first."""
    model: Any = with_block_options(recipe.model().train(), TrainOptions(checkpoint_layers=checkpoint_layers))
    model._trimmed = lambda text_BL, mask_BL: (text_BL, mask_BL)  # texts of full length: padding is a value
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False, fused=True)
    image_BCHW = torch.zeros(batch, 3, recipe.image_size, recipe.image_size)
    text_BL = torch.zeros(batch, recipe.text_length, dtype=torch.int64)
    take_step(model, optimiser, image_BCHW, text_BL)
    moments = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    held = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None), *moments]
    with PeakMemory([*held, image_BCHW, text_BL]) as memory, StepFlops() as flops:
        take_step(model, optimiser, image_BCHW, text_BL)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": count, "tensor_memory_bytes": memory.peak, "model_flops_per_step": flops.total}


def take_step(model: nn.Module, optimiser: torch.optim.Optimizer, image_BCHW: Tensor, text_BL: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = model(image_BCHW, text_BL, torch.ones_like(text_BL, dtype=torch.bool))
    logit_NN = pairs.scale * pairs.image_ND.float() @ pairs.text_ND.float().T
    target_N = torch.arange(len(logit_NN))
    (F.cross_entropy(logit_NN, target_N) + F.cross_entropy(logit_NN.T, target_N)).backward()
    optimiser.step()


def tables(rows: dict[str, Any]) -> str:
    """Memory by model, option and batch."""
    lines = ["| model | parameters | TFLOP a pair | option | " + " | ".join(f"{batch} at once" for batch in SHOWN) + " |"]
    lines.append("|" + "---|" * (4 + len(SHOWN)))
    for model, ways in rows.items():
        for way, of in ways.items():
            cells = [f"{bytes_at(of, batch) / GIB:.1f} GiB" for batch in SHOWN]
            lines.append(
                f"| {model} | {of['256']['parameters']:,} | {flops_of_pair(rows, model) / 1e12:.3f} | {way} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def bytes_at(of: dict[str, Any], batch: int) -> float:
    """Memory at another batch, by the line through both that were computed."""
    (few, low), (many, high) = ((each, of[str(each)]["tensor_memory_bytes"]) for each in COMPUTED)
    return float(low + (high - low) / (many - few) * (batch - few))


def flops_of_pair(rows: dict[str, Any], model: str) -> float:
    """Model FLOPs of a pair, forward and backward."""
    return float(rows[model][""]["256"]["model_flops_per_step"]) / 256


def page(rows: dict[str, Any]) -> str:
    """The page with the tables of these rows."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in (("gpu memory", tables(rows)), ("on paper", on_paper(rows))):
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + made + end + rest.partition(end)[2]
    return text


def on_paper(rows: dict[str, Any]) -> str:
    """Where the time of a step and of an epoch goes, by the number of GPUs."""
    flops, parameters = flops_of_pair(rows, "ViT-B/16"), rows["ViT-B/16"][""]["256"]["parameters"]
    lines = ["| | 1 GPU | 8 GPUs | 64 GPUs |", "|---|---|---|---|"]
    cells: dict[str, list[str]] = {}
    for gpus in (1, 8, 64):
        compute = BATCH / gpus * flops / (PEAK * MFU)
        speed = LINK if gpus <= 8 else NETWORK
        reduced = 2 * 4 * parameters * (gpus - 1) / gpus / speed
        gathered = 2 * 2 * 4 * BATCH * 512 * (gpus - 1) / gpus / speed
        rate = BATCH / gpus / compute
        hours = PAIRS / BATCH * (compute + reduced + gathered) / 3600
        for name, cell in {
            "computing a step of 32,768 pairs": f"{compute:.2f} s",
            "averaging gradients, if nothing else runs meanwhile": f"{1000 * reduced:.0f} ms",
            "embeddings of all pairs, there and back": f"{1000 * gathered:.0f} ms",
            "pairs a second and GPU": f"{rate:,.0f}",
            "cores a GPU that decode them": f"{rate * DECODING:.1f}",
            "an epoch": f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min",
        }.items():
            cells.setdefault(name, []).append(cell)
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())]) + "\n"


def main(words: list[str]) -> None:
    if "--page" not in words:
        stored = {"command": "python scripts/gpu_memory.py", "rows": computed()}
        STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    rows = json.loads(STORED.read_text(encoding="utf-8"))["rows"]
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
